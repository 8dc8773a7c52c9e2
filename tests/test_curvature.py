"""Kronecker factors against the Fisher matrix itself, and the optimizer that uses them against plain algebra."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from sklearn.datasets import load_digits

from jbp import LayerError, Remat, Repeat, Residual, Serial, Tied, value_and_grad
from jbp.combinators import Keep
from jbp.curvature import FACTORED, Factored, factors, kfac
from jbp.curvature.kfac import _together as together
from jbp.layers import (
    GRU,
    LSTM,
    BatchNorm,
    CausalSelfAttention,
    Conv,
    ConvTranspose,
    Dense,
    Elman,
    ElmanCell,
    Embedding,
    Flatten,
    GatedDense,
    GRUCell,
    Logits,
    LoRA,
    LowRank,
    LSTMCell,
    MinimalGRU,
    MinimalGRUCell,
    MixtureOfExperts,
    MultiHeadAttention,
    Recurrent,
    Tanh,
)
from jbp.layers.recurrent.sequence import Cell
from jbp.losses import BinaryCrossEntropy, Huber, MeanSquaredError, SoftmaxCrossEntropy
from jbp.readers.maps import Rows, maps, rows
from jbp.train import fit, start

LOSS, KEY = SoftmaxCrossEntropy(), jax.random.key(0)


def flat(*shape):
    return jax.random.normal(jax.random.key(1), shape, jnp.float64)


HELD = Keep(Serial(Dense(3), Tanh()), memory="host")
NETS = {
    "Dense": (Serial(Dense(3), Tanh(), Dense(4, bias=False)), flat(1, 5)),
    "Conv": (Serial(Conv(2, (2, 3), padding="VALID"), Flatten(), Dense(4)), flat(1, 2, 3, 2)),  # one place
    "Embedding": (Serial(Embedding(5, 3), Flatten(), Dense(4)), jnp.array([[2]])),
    "Repeat": (Serial(Dense(3), Repeat(Residual(Remat(HELD)), 2), Dense(4)), flat(1, 3)),
}


def matrix(g):
    """A layer's gradient as inputs × outputs, the bias a last row."""
    if "e" in g:
        return np.asarray(g["e"])
    w = np.asarray(g["w"]).reshape(-1, g["w"].shape[-1])
    return np.concatenate([w, np.asarray(g["b"])[None]]) if "b" in g else w


def at(grads, path):
    for i in filter(None, path.replace("[", "").split("]")):
        grads = grads[int(i)]
    return grads


@pytest.mark.parametrize("name", NETS)
def test_of_one_example_they_are_the_fisher_matrix_itself(name):
    net, x = NETS[name]
    params, target = net.init(KEY, x), jnp.array([1])
    (value, aux), grads = jax.jit(Factored("empirical").value_and_grad(net, LOSS))(params, x, target)
    true, wanted = value_and_grad(net, LOSS)(params, x, target)
    np.testing.assert_allclose(value, true)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), grads, wanted)
    assert len(aux.factors) == 2 + (name == "Repeat")
    for path, (a, g) in aux.factors.items():
        if name == "Repeat" and path == "[1][0]":
            rows = [jax.tree.map(lambda v, t=t: v[t], (wanted[1][0], a, g)) for t in range(2)]
        else:
            rows = [(at(wanted, path), a, g)]
        for own, left, right in rows:
            v = matrix(own)
            left = np.diag(left) if left.ndim == 1 else left
            np.testing.assert_allclose(np.kron(left, right), np.outer(v, v), rtol=1e-9, atol=1e-14)


def test_a_planted_fault_is_seen(monkeypatch):
    monkeypatch.setattr("jbp.curvature.factors.rows", lambda _, x, dy: {"": Rows(2 * x[:, None], dy[:, None])})
    with pytest.raises(AssertionError):
        test_of_one_example_they_are_the_fisher_matrix_itself("Dense")


@pytest.mark.parametrize("layer", [
    Dense(3), Dense(2, bias=False), GatedDense(2), GatedDense(2, bias=False), Conv(2, (2,), stride=2),
    Conv(2, (2, 2), bias=False), Embedding(5, 3), Logits(3), LSTM(2), Elman(3), GRU(2), GRU(2, bias=False),
    LSTM(2, bias=False), LSTM(3, projection=2), GRU(2, reset_after=False), MinimalGRU(2), MinimalGRU(2, bias=False),
    ElmanCell(2), LSTMCell(2, projection=1), LSTMCell(2), GRUCell(2), MinimalGRUCell(2, bias=False),
    Recurrent(LSTMCell(2)), Recurrent(GRUCell(2, reset_after=False)), MultiHeadAttention(2, bias=True),
    CausalSelfAttention(4, groups=2, rotary=True), ConvTranspose(2, (3,), stride=2),
    ConvTranspose(2, (2, 3), stride=(1, 2), dilation=2, padding=(1, (2, 0)), output_padding=1, bias=False),
    LowRank(3, 2), LowRank(3, 2, bias=False), LoRA(3, 2), MixtureOfExperts(Dense(3), 4, k=2),
], ids=repr)  # fmt: skip
def test_the_rows_and_errors_of_a_map_make_its_gradient(layer):
    x = jnp.array([[1, 4, 1], [0, 2, 2]]) if type(layer) is Embedding else flat(2, 3, 8)
    x = flat(2, 4, 3, 2) if isinstance(layer, Conv | ConvTranspose) and len(layer.kernel) == 2 else x
    x = (flat(2, 3), jax.tree.map(lambda a: flat(*a.shape), layer.start(flat(2, 3)))) if isinstance(layer, Cell) else x
    params = jax.tree.map(lambda p: flat(*p.shape), layer.init(KEY, x))
    y, residuals = layer.forward(params, x)
    _, delta = layer.backward(
        params, residuals, jax.tree.map(lambda y: jnp.cos(jnp.arange(y.size)).reshape(y.shape), y)
    )
    gradient, met = layer.gradient(residuals, delta), rows(layer, residuals, delta)
    assert met.keys() == maps(layer).keys()
    found = {name: (affine.matrix(gradient), *met[name]) for name, affine in maps(layer).items()}
    for name, (gradient, x, dy) in found.items():
        affine = maps(layer)[name]
        x = jax.nn.one_hot(x, 5, dtype=jnp.float64) if type(layer) is Embedding else x
        x = jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1))], -1) if affine.bias else x
        wanted = jnp.einsum("bti,bto->io", x, dy)
        np.testing.assert_allclose(gradient, wanted.T if type(layer) is Logits else wanted, rtol=1e-10, atol=1e-13)
        assert affine.sizes(params, 0) == ((), *gradient.shape)
        back = affine.put(params, affine.matrix(params))
        jax.tree.map(np.testing.assert_array_equal, back, params)
        assert jax.tree.map(jnp.shape, affine.put(params, 0 * affine.matrix(params))) == jax.tree.map(jnp.shape, params)


def test_every_layer_that_is_listed_has_its_rows_tested():
    cases = test_the_rows_and_errors_of_a_map_make_its_gradient.pytestmark[0].args[1]
    assert {type(layer) for layer in cases} == set(FACTORED)


def test_rows_that_share_a_map_and_several_examples():
    """The definition, written out: "expand" over all rows, "reduce" over the mean and the sum of an example's."""
    net, x = Serial(Dense(3)), flat(4, 6, 5)
    target = jax.random.randint(KEY, (4, 6), 0, 3)
    params = net.init(KEY, x)
    y = np.asarray(net(params, x))
    p = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    dy = (p - np.eye(3)[target]) / 24
    ones = np.concatenate([x, np.ones((4, 6, 1))], -1)
    for shared, each, d in (("expand", ones.reshape(24, 6), dy.reshape(24, 3)), ("reduce", ones.mean(1), dy.sum(1))):
        (_, aux), _ = Factored("empirical", shared).value_and_grad(net, LOSS)(params, x, target)
        np.testing.assert_allclose(aux.factors["[0]"].a, each.T @ each / len(each), rtol=1e-10)
        np.testing.assert_allclose(aux.factors["[0]"].g, 4 * d.T @ d, rtol=1e-10)


@pytest.mark.parametrize("loss", [LOSS, MeanSquaredError(), BinaryCrossEntropy()], ids=repr)
def test_drawn_targets_have_the_curvature_of_the_loss(loss):
    """Over many draws G is the mean Hessian of each example's loss."""
    net, x = Dense(3), flat(4, 2)
    params = net.init(KEY, x)
    sweep = Factored().value_and_grad(net, loss)
    target = jnp.zeros(4, int) if loss == LOSS else jnp.zeros((4, 3))
    steps = jnp.arange(20000)
    found = jax.jit(jax.vmap(lambda step: sweep(params, x, target, step=step)[0][1].factors[""].g))(steps).mean(0)
    one = jnp.zeros((), int) if loss == LOSS else jnp.zeros(3)
    each = jax.vmap(jax.hessian(lambda y: loss.reference((), (y[None], one[None]))))(net(params, x))
    np.testing.assert_allclose(found, each.mean(0), atol=0.02)


def test_the_step_is_the_damped_inverse_held_to_its_trust():
    net, x = Serial(Dense(3), Tanh(), Dense(2)), flat(7, 4)
    params, target = net.init(KEY, x), jnp.arange(7) % 2
    (_, aux), grads = Factored("empirical").value_and_grad(net, LOSS)(params, x, target)
    damping, trust = 0.01, 1e-3
    optimizer = kfac(net, damping, trust=trust)
    updates, state = optimizer.update(grads, optimizer.init(params), params, factors=aux.factors)
    steps, inner = [], 0.0
    for path in ("[0]", "[2]"):
        (a, g), m = aux.factors[path], matrix(at(grads, path))
        pi = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
        left, right = a + pi * np.sqrt(damping) * np.eye(len(a)), g + np.sqrt(damping) / pi * np.eye(len(g))
        steps.append(np.linalg.solve(left, m) @ np.linalg.inv(right))
        inner += (steps[-1] * m).sum()
    for path, step in zip(("[0]", "[2]"), steps, strict=True):
        wanted = step * min(1, np.sqrt(trust / inner))
        np.testing.assert_allclose(matrix(at(updates, path)), wanted, rtol=1e-5)
    again, _ = optimizer.update(grads, state, params, factors=aux.factors)  # the average of equals is the same
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), again, updates)


@pytest.mark.usefixtures("lenient")
def test_an_autoencoder_needs_fewer_steps_than_with_adam():
    x = (load_digits().data / 16).astype(np.float32)
    net, loss = Serial(Dense(32), Tanh(), Dense(8), Tanh(), Dense(32), Tanh(), Dense(64)), MeanSquaredError()
    batches = [(x[i], x[i]) for i in np.random.default_rng(0).integers(0, len(x), (60, 256))]
    losses = {}
    for name, optimizer, more in (
        ("kfac", optax.chain(kfac(net), optax.sgd(1.0)), {"sweep": Factored()}),
        ("adam", optax.adam(0.02), {}),  # the best of 0.001, 0.003, 0.01, 0.02, 0.03
    ):
        state = start(net, optimizer, KEY, x[:1])
        _, history = fit(net, loss, optimizer, state, batches, console=Console(file=io.StringIO()), **more)
        losses[name] = np.array([row["loss"] for row in history])
    reached = np.argmax(losses["kfac"] < losses["adam"].min())
    assert 0 < reached < 30  # half of the steps, or less


def test_parameters_in_two_places_have_the_factors_of_both():
    """Of equals exactly: the same rows go through both, and the second's errors come back to the first as they are."""
    one, x = factors.Factors(jnp.diag(jnp.array([1.0, 3.0])), 5 * jnp.eye(3)), flat(4, 3)
    twice = together([one, one])
    np.testing.assert_allclose(np.kron(*twice), 2 * np.kron(*one))
    net = Tied(Serial(Embedding(6, 3), Dense(3), Repeat(Conv(3, (2,), bias=False), 2), Dense(3), Logits(6)),
               (((0, "e"), (4, "e")), ((1, "w"), (3, "w"))))  # fmt: skip
    x, target = jnp.array([[1, 2, 5], [0, 1, 1]]), jnp.array([[2, 5, 3], [1, 1, 0]])
    params = net.init(KEY, x)
    (_, aux), grads = jax.jit(Factored().value_and_grad(net, LOSS))(params, x, target)
    optimizer = kfac(net, trust=1e9)
    state = optimizer.init(params)
    assert list(state.factors) == ["[0]", "[1]", "[2]"]
    updates, state = optimizer.update(grads, state, params, factors=aux.factors)
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    a, g = state.factors["[0]"]
    balanced = []
    for path in ("[0]", "[4]"):
        left, right = aux.factors[path]
        pi = np.sqrt(left.sum() / np.trace(right))
        balanced.append((left / pi, right * pi))
    np.testing.assert_allclose(20 * a, sum(left for left, _ in balanced) / 2, rtol=1e-6)  # a step has 1 − 0.95 of it
    np.testing.assert_allclose(20 * g, sum(right for _, right in balanced), rtol=1e-6)
    np.testing.assert_array_equal(updates[3]["b"], grads[3]["b"])  # its weights are another's
    assert np.abs(updates[2]["w"] - grads[2]["w"]).min() > 0
    with pytest.raises(LayerError, match=r"expected those of \['\[0\]', '\[1\]', '\[2\]', '\[3\]', '\[4\]'\]"):
        optimizer.update(grads, state, params, factors={path: aux.factors[path] for path in state.factors})


def test_without_jit_factors_are_made_once(monkeypatch):
    seen = []
    monkeypatch.setattr("jbp.curvature.factors.rows", lambda *each: seen.append(each) or rows(*each))
    net, x = Dense(2), flat(3, 4)
    Factored().value_and_grad(net, LOSS)(net.init(KEY, x), x, jnp.array([0, 1, 1]))
    assert len(seen) == 1


def test_what_has_no_factors_keeps_its_gradient_and_what_does_not_go_is_said():
    net, x = Serial(Dense(3), BatchNorm(), Dense(2)), flat(6, 4)
    params, target = net.init(KEY, x), jnp.arange(6) % 2
    (_, aux), grads = Factored().value_and_grad(net, LOSS)(params, x, target)
    assert list(aux.factors) == ["[0]", "[2]"]
    optimizer = kfac(net, trust=1e9)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, factors=aux.factors)
    jax.tree.map(np.testing.assert_array_equal, updates[1], grads[1])
    with pytest.raises(LayerError, match=r"expected those of \['\[0\]', '\[2\]'\]. Train with sweep=Factored"):
        optimizer.update(grads, optimizer.init(params), params)
    with pytest.raises(LayerError, match="no target can be drawn"):
        Factored().value_and_grad(net, Huber())(params, x, jnp.zeros((6, 2)))


TIED = Tied(Serial(Embedding(4, 3), Tanh(), Logits(4)), (((0, "e"), (2, "e")),))
EIGEN = {
    "one row": (Serial(Dense(3), Tanh(), Dense(2)), flat(3, 7, 4), (3, 7)),
    "Repeat": (Serial(Repeat(Residual(Serial(Dense(3), Tanh())), 2), Tanh(), Dense(2)), flat(3, 3, 5, 3), (3, 3, 5)),
    "Tied": (TIED, jax.random.randint(KEY, (3, 3, 5), 0, 4), (3, 3, 5)),
}


def by_map(tree):
    """The maps' gradients (b, i, o) out of examples' (b, ...), those of a Repeat apart."""
    found = [g for g in jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, dict)) if jax.tree.leaves(g)]
    found = [np.concatenate([g["w"], g["b"][..., None, :]], -2) if "b" in g else np.asarray(g["e"]) for g in found]
    return [m for g in found for m in ([g] if g.ndim < 4 else np.moveaxis(g, 1, 0))]


@pytest.mark.parametrize("name", EIGEN)
def test_in_the_eigenbasis_it_divides_by_the_mean_square_of_the_examples_gradients(name):
    """The definition by NumPy, from jax.grad of each example; a new basis has the diagonal of the old matrix."""
    net, xs, shape = EIGEN[name]
    labels, damping, every = jax.random.randint(KEY, shape, 0, 2), 0.01, 2
    params = net.init(KEY, xs[0])
    optimizer = kfac(net, damping, 0.9, 1e9, eigenbasis=every)
    state, sweep, squares, bases = optimizer.init(params), Factored("empirical").value_and_grad(net, LOSS), {}, {}

    def alone(params, x, label):
        return LOSS.reference((), (net.reference(params, x[None]), label[None]))

    @jax.jit
    def step(state, x, label):
        (_, aux), grads = sweep(params, x, label)
        found = optimizer.update(grads, state, factors=aux.factors, rows=aux.rows)
        return *found, jax.vmap(jax.grad(alone), (None, 0, 0))(params, x, label)

    for number, (x, label) in enumerate(zip(xs, labels, strict=True)):
        updates, state, each = step(state, x, label)
        pairs = [[np.asarray(m) for m in pair] for pair in state.factors.values()]
        if name == "Repeat":
            pairs = [[m[t] for m in pairs[0]] for t in range(2)] + pairs[1:]
        for k, (h, pair, u) in enumerate(
            zip(by_map(each), pairs, by_map(jax.tree.map(lambda a: a[None], updates)), strict=True)
        ):
            if number % every == 0:
                p, q = (np.eye(len(m)) if m.ndim == 1 else np.linalg.eigh(m)[1] for m in pair)
                if number:
                    old = np.kron(*bases[k])
                    old = np.kron(p, q).T @ old @ np.diag(squares[k].ravel()) @ old.T @ np.kron(p, q)
                    squares[k] = np.diag(old).reshape(squares[k].shape)
                bases[k] = p, q
            p, q = bases[k]
            squares[k] = 0.9 * squares.get(k, 0) + 0.1 * np.mean([(p.T @ one @ q) ** 2 for one in h], 0)
            wanted = p @ (p.T @ h.mean(0) @ q / (squares[k] / (1 - 0.9 ** (number + 1)) + damping)) @ q.T
            np.testing.assert_allclose(u[0], wanted, rtol=1e-5, atol=1e-6)


def test_squares_of_another_basis_are_seen(monkeypatch):
    monkeypatch.setitem(together.__globals__, "_renewed", lambda factors, bases: bases)
    with pytest.raises(AssertionError):
        test_in_the_eigenbasis_it_divides_by_the_mean_square_of_the_examples_gradients("Tied")
