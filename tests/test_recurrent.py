"""Layers that run through time: states given and given back, cells, stacks, and sequences of their own lengths.

What is right is computed another way: by plain NumPy, one step at a time; by a run in two parts; by each example alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import audit, draw, parameters

from jbp import LayerError, Serial
from jbp.cases import f
from jbp.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    Elman,
    ElmanCell,
    GlobalAveragePool,
    GlobalMaxPool,
    GRUCell,
    Identity,
    Lengths,
    LSTMCell,
    MinimalGRU,
    MinimalGRUCell,
    Recurrent,
    Recursive,
    Select,
    Stack,
    Take,
    TensorNode,
)
from jbp.sweep import advancing

KEY = jax.random.key(0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def relu_elman(p, h, x):
    h = np.maximum(x @ p["w"] + h @ p["u"] + p.get("b", 0), 0)
    return h, h


def reset_before(p, h, x):
    n = h.shape[-1]
    z, u = x @ p["w"] + p["b"], p["u"]
    update, reset = sigmoid(z[:, :n] + h @ u[:, :n]), sigmoid(z[:, n : 2 * n] + h @ u[:, n : 2 * n])
    h = (1 - update) * np.tanh(z[:, 2 * n :] + (reset * h) @ u[:, 2 * n :]) + update * h
    return h, h


def reset_after(p, h, x):
    n = h.shape[-1]
    z, a = x @ p["w"], h @ p["u"]
    update, reset = sigmoid(z[:, :n] + a[:, :n]), sigmoid(z[:, n : 2 * n] + a[:, n : 2 * n])
    h = (1 - update) * np.tanh(z[:, 2 * n :] + reset * a[:, 2 * n :]) + update * h
    return h, h


def projected(p, state, x):
    h, c = state
    i, f, o, g = np.split(x @ p["w"] + h @ p["u"] + p["b"], 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = (sigmoid(o) * np.tanh(c)) @ p["p"]
    return h, (h, c)


@pytest.mark.parametrize(
    ("layer", "cell", "step"),
    [
        (Elman(3, "relu"), ElmanCell(3, "relu"), relu_elman),
        (Elman(3, "relu", bias=False), ElmanCell(3, "relu", bias=False), relu_elman),
        (GRU(3, reset_after=False), GRUCell(3, reset_after=False), reset_before),
        (GRU(3, bias=False), GRUCell(3, bias=False), reset_after),
        (LSTM(3, projection=2), LSTMCell(3, projection=2), projected),
    ],
    ids=lambda v: getattr(v, "__name__", repr(v)),
)
def test_by_plain_numpy_one_step_at_a_time(layer, cell, step):
    x, state = draw(f(2, 3, 4)), draw((f(2, 2), f(2, 3)) if isinstance(cell, LSTMCell) else f(2, 3), 1)
    params = parameters(layer, x)
    y, _ = layer.forward(params, (x, state))
    plain, now = {k: np.asarray(v) for k, v in params.items()}, jax.tree.map(np.asarray, state)
    for t in range(3):
        (y_cell, state), _ = cell.forward(params, (x[:, t], state))
        h, now = step(plain, now, np.asarray(x[:, t]))
        np.testing.assert_allclose(y[:, t], h, rtol=1e-12)
        np.testing.assert_allclose(y_cell, h, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), state, now)


WITH_STATE = [
    Elman(2, return_state=True),
    GRU(2, return_state=True),
    GRU(2, reset_after=False, return_state=True),
    MinimalGRU(2, return_state=True),
    LSTM(3, return_state=True),
    LSTM(3, projection=2, return_state=True),
    Recurrent(LSTMCell(2), return_state=True),
    Stack(LSTM(2, return_state=True), 2),
]


def both_passes(net, params, x, dy):
    y, residuals = net.forward(params, x)
    dx, delta = net.backward(params, residuals, dy)
    return y, dx, net.gradient(residuals, delta)


def near(got, wanted, tolerance=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, wanted)


@pytest.mark.parametrize("net", WITH_STATE, ids=repr)
def test_two_parts_with_the_state_between_them_are_the_whole(net):
    x = draw(f(2, 5, 3))
    params = parameters(net, x)
    y, last = jax.eval_shape(lambda x: net.forward(params, x)[0], x)
    dy, dlast = draw(f(*y.shape), 1), jax.tree.map(lambda v: draw(f(*v.shape), 2), last)
    run = jax.jit(lambda x, dy: both_passes(net, params, x, dy))
    (y, last), dx, grads = run(x, (dy, dlast))
    (y_one, middle), residuals = net.forward(params, x[:, :3])
    (y_two, end), (dx_two, dmiddle), grads_two = run((x[:, 3:], middle), (dy[:, 3:], dlast))
    dx_one, delta = net.backward(params, residuals, (dy[:, :3], dmiddle))
    near((jnp.concatenate([y_one, y_two], 1), end), (y, last))
    near(jnp.concatenate([dx_one, dx_two], 1), dx)
    near(jax.tree.map(jnp.add, net.gradient(residuals, delta), grads_two), grads)


@pytest.mark.parametrize(
    "net",
    [
        GRU(2, return_state=True),
        LSTM(3, return_state=True),
        LSTM(3, projection=2, return_state=True),
        Recurrent(LSTMCell(2), return_state=True),
        Stack(Bidirectional(GRU(2, return_state=True)), 2),
    ],
    ids=repr,
)
def test_an_example_with_a_length_and_a_state_is_as_if_alone(net):
    long, x = [2, 0, 2], draw(f(3, 3, 3))
    params = parameters(net, x)
    y, last = jax.eval_shape(lambda x: net.forward(params, x)[0], x)
    state = jax.tree.map(lambda v: draw(f(*v.shape), 1), last)
    dy, dlast = draw(f(*y.shape), 2), jax.tree.map(lambda v: draw(f(*v.shape), 3), last)
    behind = jnp.arange(3)[None] >= jnp.array(long)[:, None]

    def gone(v):
        return jnp.where(behind[..., None], jnp.nan, v)

    given = {"x": gone(x), "lengths": jnp.array(long), "state": state}
    (y, last), dx, grads = both_passes(net, params, given, (gone(dy), dlast))
    assert dx["lengths"] is None
    assert not y[behind].any()
    assert not dx["x"][behind].any()
    total = jax.tree.map(jnp.zeros_like, grads)
    for b, n in enumerate(long):
        at = lambda tree, b=b: jax.tree.map(lambda v: v[b : b + 1], tree)  # noqa: E731
        one = (x[b : b + 1, :n], at(state))
        (y_b, last_b), (dx_b, dstate_b), grads_b = both_passes(net, params, one, (dy[b : b + 1, :n], at(dlast)))
        near((y[b : b + 1, :n], at(last)), (y_b, last_b))
        near((dx["x"][b : b + 1, :n], at(dx["state"])), (dx_b, dstate_b))
        total = jax.tree.map(jnp.add, total, grads_b)
    near(grads, total, 1e-11)


@pytest.mark.parametrize(
    ("cell", "layer"),
    [
        (ElmanCell(2, "relu"), Elman(2, "relu", return_state=True)),
        (GRUCell(2), GRU(2, return_state=True)),
        (MinimalGRUCell(2, bias=False), MinimalGRU(2, bias=False, return_state=True)),
        (LSTMCell(2), LSTM(2, return_state=True)),
    ],
    ids=repr,
)
def test_a_cell_through_time_is_the_layer(cell, layer):
    net, x = Recurrent(cell, return_state=True), draw(f(2, 3, 4))
    params = parameters(layer, x)
    assert jax.tree.map(jnp.shape, net.init(KEY, x)) == jax.tree.map(jnp.shape, params)
    dy = draw(f(2, 3, 2), 1), jax.tree.map(lambda v: 2 * jnp.ones_like(v), layer.forward(params, x)[0][1])
    near(both_passes(net, params, x, dy), both_passes(layer, params, x, dy))
    loops = str(jax.make_jaxpr(lambda: both_passes(net, params, x, dy))()).count("scan[")
    assert loops == 2  # one each way: the weight gradient is outside


@pytest.mark.parametrize(
    ("layer", "products"), [(LSTM(2), 1), (LSTM(2, bias=False), 1), (GRU(2), 1), (Elman(2), 1), (MinimalGRU(2), 2)]
)
def test_the_loop_back_has_the_product_with_u_alone(layer, products):
    x = draw(f(2, 3, 4))
    params = parameters(layer, x)
    y, residuals = layer.forward(params, x)
    back = jax.make_jaxpr(layer.backward)(params, residuals, y).jaxpr
    (loop,) = [e for e in back.eqns if e.primitive.name == "scan"]
    assert str(loop.params["jaxpr"]).count("dot_general") == products
    _, delta = layer.backward(params, residuals, y)
    assert "scan" not in str(jax.make_jaxpr(layer.gradient)(residuals, delta))


def test_a_sequence_to_sequence_network_is_a_row():
    net, x = Serial(LSTM(2, return_state=True), LSTM(2)), draw(f(2, 3, 2))
    params = audit(net, x)
    y, (h, c) = net.layers[0].forward(params[0], x)[0]
    near(net.forward(params, x)[0], net.layers[1].forward(params[1], (y, (h, c)))[0])


def test_a_stack_is_a_row_of_its_layer():
    x, stack, row = (
        draw(f(2, 3, 2)),
        Stack(GRU(2), 3, dropout=0.4),
        Serial(GRU(2), Dropout(0.4), GRU(2), Dropout(0.4), GRU(2)),
    )
    params, dy = parameters(row, x), draw(f(2, 3, 2), 1)
    near(both_passes(stack, params, x, dy), both_passes(row, params, x, dy))
    assert jax.tree.structure(stack.init(KEY, x)) == jax.tree.structure(row.init(KEY, x))
    assert stack in advancing(stack)
    assert not advancing(stack.evaluation())
    moved, wanted = (net.advance(params, net.forward(params, x)[1]) for net in (stack, row))
    near(jax.tree.map(jax.random.key_data, moved[1]), jax.tree.map(jax.random.key_data, wanted[1]))
    plain = params[0], params[2], params[4]
    near(stack.evaluation().forward(params, x)[0], Stack(GRU(2), 3).forward(plain, x)[0])


X, LONG = draw(f(4, 5, 2)), [3, 0, 5, 1]


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
def test_pooling_of_the_valid_steps(pool):
    net = Lengths(Identity(), pool=pool)
    behind = jnp.arange(5)[None] >= jnp.array(LONG)[:, None]
    x = jnp.where(behind[..., None], jnp.nan, X)
    y, residuals = net.forward((), (x, jnp.array(LONG)))
    (dx, _), _ = net.backward((), residuals, jnp.ones((4, 2)))
    assert not dx[behind].any()
    for b, n in enumerate(LONG):
        steps = np.asarray(X[b, :n])
        wanted = {"last": lambda s: s[-1], "mean": lambda s: s.mean(0), "max": lambda s: s.max(0)}[pool]
        np.testing.assert_allclose(y[b], wanted(steps) if n else np.zeros(2), rtol=1e-12)
        np.testing.assert_allclose(dx[b].sum(0), np.ones(2) if n else np.zeros(2), rtol=1e-12)
    if pool == "max":  # below zero, as all the padding is not
        np.testing.assert_array_equal(net.forward((), (x - 100, jnp.array(LONG)))[0][0], (X[0, :3] - 100).max(0))


def test_the_last_step_of_a_recurrent_layer_is_at_the_end_of_each_example():
    net, x = Lengths(LSTM(3), pool="last"), (X, jnp.array(LONG))
    params = audit(net, x)
    y, _ = net.forward(params, x)
    for b, n in enumerate(LONG):
        alone = LSTM(3).forward(params, X[b : b + 1, :n])[0]
        np.testing.assert_allclose(y[b], alone[0, -1] if n else np.zeros(3), rtol=1e-12)


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (Serial(Lengths(LSTM(3)), Take(-1)), "pool='last'"),
        (Serial(LSTM(3), Dense(2), Take(4)), "pool='last'"),
        (Serial(Bidirectional(GRU(2)), GlobalAveragePool()), "pool='mean'"),
        (Serial(Lengths(GRU(2, return_state=True)), Select(0), Serial(Dense(2), GlobalMaxPool())), "pool='max'"),
    ],
    ids=repr,
)
def test_padding_is_not_taken_for_the_last_step(net, says):
    with pytest.raises(LayerError, match=r"expected a layer of the valid steps alone\. Write Lengths") as error:
        net.init(KEY, (X, jnp.array(LONG)))
    assert says in str(error.value)


def test_what_looks_at_valid_steps_is_not_refused():
    for net in (
        Serial(Lengths(GRU(2)), Take(0)),
        Serial(Lengths(GRU(2), pool="last"), Dense(5)),
        Serial(Lengths(GRU(2, return_state=True)), Select(1)),
    ):
        net.init(KEY, (X, jnp.array(LONG)))
    Serial(GRU(2), Take(-1)).init(KEY, X)


@pytest.mark.parametrize(
    "net", [Lengths(Dense(1), pool="mean"), Bidirectional(Elman(1)), GRU(1, return_state=True)], ids=repr
)
def test_lengths_may_be_of_a_dtype_that_cannot_count_the_steps(net):
    x, long = draw(f(2, 300, 1)), jnp.array([2, 250])
    params = parameters(net, (x, long))
    wanted = net.forward(params, (x, long))[0]
    for run in (net.forward, jax.jit(net.forward)):
        near(run(params, (x, long.astype("uint8")))[0], wanted)


def test_children_may_be_of_a_dtype_that_cannot_count_the_nodes():
    leaves, net = draw(f(1, 130, 1)), Recursive(TensorNode(bias=False))
    children = jnp.array([[[-1, -1], [3, 4]]])
    params = parameters(net, (leaves, children))
    run = jax.jit(net.forward)
    near(run(params, (leaves, children.astype("int8")))[0], run(params, (leaves, children))[0])


def test_a_leaf_that_is_not_in_the_tree_does_not_leak():
    net, leaves = Recursive(TensorNode()), draw(f(1, 3, 2))
    x = leaves.at[:, 0].set(jnp.nan), jnp.array([[[-1, -1], [1, 2]]])
    params = parameters(net, x)
    y, residuals = net.forward(params, x)
    dy = jnp.ones_like(y).at[:, 3].set(jnp.nan)  # of a node that is padding
    (dx, _), grads = net.pull(params, residuals, dy)
    for leaf in jax.tree.leaves((y[:, 3:], dx[:, 1:], grads)):
        assert jnp.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("net", "x", "says"),
    [
        (GRU(3), (X, jnp.ones((4, 2))), "got the state float64[4, 2]; expected float64[4, 3]"),
        (LSTM(3), (X, jnp.ones((4, 3))), "expected (float64[4, 3], float64[4, 3])"),
        (Stack(GRU(3), 2), (X, (jnp.ones((4, 3)),)), "expected a tuple of 2 states"),
        (GRU(3), {"x": X, "h": X}, "expected x (b, t, ...), the pair (x, lengths) or (x, state)"),
        (LSTMCell(3), X[:, 0], "Begin with the state (float64[4, 3], float64[4, 3])"),
        (GRUCell(3), (X[:, 0], jnp.ones((4, 2))), "got the state float64[4, 2]; expected float64[4, 3]"),
        (
            Bidirectional(GRU(3)),
            (X, jnp.array([1, 2, 3, 6])),
            "got lengths between 1 and 6; expected 0 <= lengths <= 5",
        ),
    ],
)
def test_wrong_inputs(net, x, says):
    with pytest.raises(LayerError) as error:
        net.forward(net.init(KEY, x), x)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LSTM(0), "got features=0; expected a whole number, 1 or more"),
        (lambda: LSTM(3, projection=0), "got projection=0"),
        (lambda: Elman(3, "sigmoid"), "got nonlinearity='sigmoid'; expected 'tanh' or 'relu'"),  # pyright: ignore
        (lambda: Stack(GRU(3), 2, dropout=1.0), "got dropout=1.0"),
        (lambda: Recurrent(Dense(3)), "expected the number of its features. Write Recurrent(cell, 8)"),
        (lambda: Lengths(Serial(Bidirectional(GRU(2)), GRU(2))), "expected layers that look back in time only"),
        (lambda: Lengths(GRU(2), pool="first"), "expected 'last', 'mean' or 'max'"),  # pyright: ignore
    ],
)
def test_wrong_fields(make, says):
    with pytest.raises(LayerError) as error:
        make()
    assert says in str(error.value)


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(2, return_state=True),
        GRU(2, return_state=True),
        Bidirectional(GRU(2)),
        Lengths(Elman(2), pool="last"),
        Recurrent(GRUCell(2), return_state=True),
    ],
    ids=repr,
)
def test_inside_of_jit_a_length_out_of_range_is_the_nearest_in_range(layer):
    """Outside of jit it is an error. The final state and its cotangent once disagreed about where such a row ends."""
    x, lengths = draw(f(3, 4, 1)), jnp.array([9, -1, 2])
    params = parameters(layer, (x, lengths))

    @jax.jit
    def swept(lengths):
        y, residuals = layer.forward(params, (x, lengths))
        return y, layer.pull(params, residuals, jax.tree.map(jnp.ones_like, y))

    for got, wanted in zip(*map(jax.tree.leaves, (swept(lengths), swept(jnp.array([4, 0, 2])))), strict=True):
        np.testing.assert_array_equal(got, wanted)
