"""Cells through time and over trees, and hops over a memory, against plain Python that runs one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import audit, draw, parameters

from jbp import LayerError, Parallel, Passing, Repeat, Serial, Tied
from jbp.cases import f, i
from jbp.layers import (
    GRU,
    LSTM,
    Add,
    BatchNorm,
    Bidirectional,
    Concatenate,
    Dense,
    Dropout,
    Elman,
    FanOut,
    GlobalAveragePool,
    Identity,
    Lengths,
    LSTMLeaf,
    LSTMNode,
    MemoryHop,
    MinimalGRU,
    Recurrent,
    Recursive,
    Select,
    Tanh,
    TensorNode,
)
from jbp.layers.recurrent.cell import folds

ELMAN = Serial(Concatenate(), Dense(3), Tanh(), FanOut())


def test_an_elman_network_is_a_recurrent_cell():
    x = draw(f(2, 5, 4))
    theirs = parameters(Elman(3), x)
    ours = ((), {"w": jnp.concatenate([theirs["u"], theirs["w"]]), "b": theirs["b"]}, (), ())
    dy = draw(f(2, 5, 3), 1)

    def run(net, params):
        y, residuals = net.forward(params, x)
        return y, *net.pull(params, residuals, dy)

    y, dx, grads = run(Recurrent(ELMAN, 3), ours)
    y_wanted, dx_wanted, wanted = run(Elman(3), theirs)
    for got, want in (
        (y, y_wanted),
        (dx, dx_wanted),
        (grads[1]["w"], jnp.concatenate([wanted["u"], wanted["w"]])),
        (grads[1]["b"], wanted["b"]),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


WITH_BATCH_NORM = Serial(Concatenate(), Dense(3), BatchNorm(), Tanh(), FanOut())
WITH_LSTM = Serial(Parallel(Identity(), Serial(LSTM(3), GlobalAveragePool())), Add(), FanOut())


@pytest.mark.parametrize(
    ("cell", "spec", "folded"),
    [
        (ELMAN, f(2, 4, 3), True),
        (WITH_BATCH_NORM, f(3, 4, 3), False),
        (WITH_LSTM, f(2, 3, 2, 3), False),  # as many steps inside as examples
        (Serial(Concatenate(), Dense(3), Dropout(0.5), FanOut()), f(2, 4, 3), False),
    ],
    ids=["Dense", "BatchNorm", "LSTM", "Dropout"],
)
def test_the_weight_gradient_is_out_of_the_loop_where_that_is_right(cell, spec, folded):
    net, x = Recurrent(cell, 3), draw(spec)
    params = audit(net, x)
    assert folds(cell, params, (jnp.zeros((x.shape[0], 3)), x[:, 0])) == folded
    _, residuals = net.forward(params, x)
    _, delta = net.backward(params, residuals, jnp.ones((*x.shape[:2], 3)))
    loops = str(jax.make_jaxpr(net.gradient)(residuals, delta)).count("scan[")
    assert bool(loops) != folded


def test_a_state_of_several_arrays():
    swap = Serial(Parallel(Serial(Parallel(Dense(2), Dense(2)), Add()), Dense(2)), Add(), Tanh(), FanOut(2))
    cell = Serial(swap, Parallel(FanOut(), Identity()))
    audit(Recurrent(cell, (2, 2)), draw(f(3, 4, 5)))


def test_buffers_in_a_cell_advance_once_a_step():
    net, x = Recurrent(WITH_BATCH_NORM, 3), draw(f(4, 5, 2))
    params = parameters(net, x)
    moved = net.advance(params, net.forward(params, x)[1])
    assert int(moved[2]["steps"].value) == 5


def trees(seed, leaves, sizes):
    """(children (b, m, 2), padded in front, nested tuples): a random binary tree of `size` leaves for each example."""
    rng = np.random.default_rng(seed)
    children, nested = np.full((len(sizes), leaves - 1, 2), -1), []
    for b, size in enumerate(sizes):
        free = [(k, k) for k in range(size)]
        for j in range(leaves - size, leaves - 1):
            (left, one), (right, two) = (free.pop(rng.integers(len(free))) for _ in range(2))
            children[b, j] = left, right
            free.append((leaves + j, (one, two)))
        nested.append(free[0][1])
    return jnp.asarray(children, jnp.int32), nested


def rntn(params, left, right):
    a = np.concatenate([left, right])
    return np.tanh(np.einsum("i,ijo,j->o", a, params["v"], a) + a @ params["w"] + params["b"])


def lstm(params, left, right):
    (h_l, c_l), (h_r, c_r) = left, right
    i, f_l, f_r, o, g = np.split(np.concatenate([h_l, h_r]) @ params["u"] + params["b"], 5)
    s = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    c = s(i) * np.tanh(g) + s(f_l) * c_l + s(f_r) * c_r
    return s(o) * np.tanh(c), c


@pytest.mark.parametrize("sizes", [(6, 6), (6, 3, 1), (2, 6)], ids=str)
@pytest.mark.parametrize(("cell", "plain"), [(TensorNode(), rntn), (LSTMNode(), lstm)], ids=["tensor", "LSTM"])
def test_a_tree_is_a_recursive_function(cell, plain, sizes):
    children, nested = trees(0, 6, sizes)
    leaves = draw(f(len(sizes), 6, 3))
    leaves = leaves if plain is rntn else (leaves, draw(f(len(sizes), 6, 3), 1))
    params = audit(Recursive(cell), (leaves, children))
    y, _ = Recursive(cell).forward(params, (leaves, children))

    def state(b, tree):
        if isinstance(tree, int):
            return jax.tree.map(lambda v: np.asarray(v[b, tree]), leaves)
        return plain(params, *(state(b, side) for side in tree))

    for b, tree in enumerate(nested):
        if sizes[b] > 1:
            root = jax.tree.map(lambda v, b=b: v[b, -1], y)
            jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-12), root, state(b, tree))
    for v in jax.tree.leaves(y):
        assert not v[:, 6:][np.asarray((children == -1).all(-1))].any()


def test_a_tree_lstm_over_words():
    children, _ = trees(1, 5, (5, 4))
    audit(
        Serial(Parallel(LSTMLeaf(2), Identity()), Recursive(LSTMNode()), Select(0), Dense(2)),
        (draw(f(2, 5, 3)), children),
    )


def test_a_child_after_its_parent():
    net, leaves = Recursive(TensorNode()), draw(f(1, 2, 3))
    params = parameters(net, (leaves, jnp.array([[[0, 1]]])))
    for wrong in ([[[0, 2]]], [[[-2, 1]]], [[[0, 1], [4, 3]]]):
        with pytest.raises(LayerError, match="not before their parent; expected each child of inner node j below 2"):
            net.forward(params, (leaves, jnp.array(wrong)))
        y, _ = jax.jit(net.forward)(params, (leaves, jnp.array(wrong)))
        assert jnp.isnan(y[:, -1]).all()


def test_hops_are_those_of_the_paper():
    u, x = draw((f(2, 3), f(2, 5, 4)))
    net = Serial(Repeat(Passing(MemoryHop()), 3), Select(0))
    params = audit(net, (u, x))
    y, _ = net.forward(params, (u, x))
    for b in range(2):
        state = np.asarray(u[b])
        for hop in range(3):
            a, c = (np.asarray(params[0][name][hop]) for name in "ac")
            scores = np.array([state @ (row @ a) for row in np.asarray(x[b])])
            p = np.exp(scores) / np.exp(scores).sum()
            state = state + sum(p_i * (row @ c) for p_i, row in zip(p, np.asarray(x[b]), strict=True))
        np.testing.assert_allclose(y[b], state, rtol=1e-12)


@pytest.mark.parametrize(
    "ties", [(((0, "c"), (1, "a")), ((1, "c"), (2, "a"))), (((0,), (1,)), ((0,), (2,)))], ids=["adjacent", "layer-wise"]
)
def test_weights_shared_between_hops(ties):
    hops = Passing(MemoryHop(linear=True)), Passing(MemoryHop(linear=True)), MemoryHop(linear=True)
    audit(Tied(Serial(*hops), ties), draw((f(2, 3), f(2, 5, 4), i(2, 5, below=2))))


def test_memories_behind_the_mask_are_not_there():
    hop = MemoryHop()
    u, x = draw((f(3, 4), f(3, 5, 2)))
    mask = jnp.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 1]])
    params = audit(hop, (u, x, mask))
    y, residuals = hop.forward(params, (u, x, mask))
    np.testing.assert_allclose(y[:1], hop.forward(params, (u[:1], x[:1, :2]))[0], rtol=1e-12)
    np.testing.assert_allclose(y[2:], hop.forward(params, (u[2:], x[2:, 2:]))[0], rtol=1e-12)
    np.testing.assert_array_equal(y[1], u[1])
    (du, dx, dmask), _ = hop.pull(params, residuals, jnp.ones_like(y))
    assert dmask is None
    np.testing.assert_array_equal(du[1], jnp.ones(4))
    assert not dx[mask == 0].any()


BACK = Lengths(Serial(LSTM(3), GRU(2), MinimalGRU(2)))


@pytest.mark.parametrize("net", [BACK, Bidirectional(Lengths(Elman(2))), Lengths(Recurrent(ELMAN, 3))], ids=repr)
def test_an_example_of_some_length_is_as_if_alone(net):
    long = [2, 0, 3]
    x, lengths = draw(f(3, 3, 3)), jnp.array(long)
    params = audit(net, (x, lengths))
    dy = draw(f(3, 3, jax.eval_shape(net.forward, params, (x, lengths))[0].shape[-1]), 1)

    @jax.jit
    def run(x, lengths, dy):
        y, residuals = net.forward(params, (x, lengths))
        (dx, nothing), grads = net.pull(params, residuals, dy)
        assert nothing is None
        return y, dx, grads

    behind = jnp.arange(3)[None] >= lengths[:, None]
    y, dx, grads = run(jnp.where(behind[..., None], jnp.nan, x), lengths, dy)
    assert not y[behind].any()
    assert not dx[behind].any()
    alone = [run(x[b : b + 1, :n], lengths[b : b + 1], dy[b : b + 1, :n]) for b, n in enumerate(long)]
    for b, (y_alone, dx_alone, _) in enumerate(alone):
        n = y_alone.shape[1]
        np.testing.assert_allclose(y[b, :n], y_alone[0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(dx[b, :n], dx_alone[0], rtol=1e-12, atol=1e-14)
    total = jax.tree.map(lambda *g: sum(g), *(g for _, _, g in alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), grads, total)


def test_scores_far_below_zero():
    hop, (u, x) = MemoryHop(), (jnp.array([[-1.0]]), jnp.array([[[2e3], [1e3]]]))
    params = {"a": jnp.ones((1, 1)), "c": jnp.ones((1, 1))}
    for y in (hop.forward(params, (u, x))[0], hop.reference(params, (u, x))):
        np.testing.assert_array_equal(y, [[999.0]])


def test_a_child_that_is_not_there_yet_is_nan_in_the_definition_too():
    layer, leaves = Recursive(TensorNode()), draw(f(2, 3, 2))
    children = jnp.array([[[0, 1], [3, 2]], [[0, 4], [3, 2]]])  # the second tree's first node asks for the second node
    params = parameters(layer, (leaves, jnp.minimum(children, 3)))
    for way in (layer.reference, lambda params, x: layer.forward(params, x)[0]):
        y = jax.jit(way)(params, (leaves, children))
        assert jnp.isfinite(y[0]).all()
        assert jnp.isnan(y[1, 3:]).all()
