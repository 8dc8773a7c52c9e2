"""What a watch says of networks that are well, and of six that are not; and what readings are given to see."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from sklearn.datasets import load_digits

from jbp import LayerError, Remat, Repeat, Residual, Reversible, Serial, Tied, TimeDistributed, value_and_grad
from jbp.layers import (
    BatchNorm,
    CausalSelfAttention,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LayerNorm,
    Logits,
    ReLU,
    Sigmoid,
    Tanh,
)
from jbp.losses import SoftmaxCrossEntropy
from jbp.readers import observe
from jbp.train import fit, start
from jbp.watch import Watch, noise_scale

LOSS = SoftmaxCrossEntropy()
DIGITS = load_digits()
ORDER = np.random.default_rng(0).permutation(len(DIGITS.data))
X = (DIGITS.data[ORDER] / 8 - 1).astype(np.float32)
LABEL = DIGITS.target[ORDER].astype(np.int32)
BINARY = (LABEL > 4).astype(np.int32)


def mlp(activation, times=2):
    return Serial(*[Dense(32), activation] * times, Dense(10))


WELL, DEEP = mlp(ReLU()), mlp(ReLU(), 8)
NETWORKS = {  # what is wrong: (how what is said begins, network, inputs, labels, rate, weights times, biases plus)
    "nothing": ("", WELL, X, LABEL, 0.05, 1, 0),
    "nothing, with tanh": ("", mlp(Tanh()), X, LABEL, 0.05, 1, 0),
    "nothing, two classes": ("", WELL, X, BINARY, 0.05, 1, 0),
    "too large a learning rate": ("learning rate: the loss went from", mlp(Tanh()), X, LABEL, 20.0, 1, 0),
    "one that kills the units": ("dead units: 100% of [1] let no error through, which died", WELL, X, LABEL, 3.0, 1, 0),
    "too small a learning rate": ("learning rate: parameters move by", WELL, X, LABEL, 1e-6, 1, 0),
    "small weights": ("initialization: at the first look values shrink", DEEP, X, LABEL, 0.05, 0.3, 0),
    "large weights": ("initialization: at the first look values grow", DEEP, X, LABEL, 1e-6, 4, 0),
    "dead units": ("dead units: 100% of [1] let no error through, since", WELL, X, LABEL, 0.05, 1, -8),
    "a label that leaks": (
        "a leak, perhaps: feature 64 of the input", WELL, np.c_[X, 4.0 * BINARY - 2].astype("f"), BINARY, 0.05, 1, 0
    ),
    "shuffled labels": ("no signal", WELL, X, np.random.default_rng(2).permutation(LABEL), 0.05, 1, 0),
    "vanishing error": ("vanishing error", mlp(Sigmoid(), 8), X, LABEL, 0.05, 1, 0),
    "saturated units": ("saturation: 9", mlp(Tanh()), X, LABEL, 1e-3, 30, 0),
}  # fmt: skip


@pytest.mark.parametrize("wrong", NETWORKS)
@pytest.mark.usefixtures("lenient")
def test_what_is_said_of_it(wrong):
    said, net, x, label, rate, times, plus = NETWORKS[wrong]
    params = net.init(jax.random.key(0), jnp.asarray(x[:1]))
    params = jax.tree.map(lambda p: p * times if p.ndim > 1 else p + plus, params)
    optimizer = optax.sgd(rate)
    watch = Watch(net, LOSS, (x[:256], label[:256]))
    watch(params)
    rng = np.random.default_rng(1)
    batches = [(x[i], label[i]) for i in rng.integers(256, len(x), (100, 64))]
    state = start(net, optimizer, jax.random.key(0), x[:1], params=params)
    quiet = Console(file=io.StringIO())
    _, history = fit(net, LOSS, optimizer, state, batches, check=watch, every=20, console=quiet)
    found = watch.said()
    assert found[:1] == [] if not said else found[0].startswith(said)
    assert {"noise scale", "moved", "turned", "dead", "saturated"} <= set(history[-1])
    assert len(watch.looks) == 6


def test_readings_see_what_the_sweep_sees():
    net, x, label = mlp(Tanh()), jnp.asarray(X[:8], jnp.float64), jnp.asarray(LABEL[:8])
    params = net.init(jax.random.key(0), x)
    seen = {}

    def keep(s):
        seen[repr(s.layer), s.y.shape[-1]] = s

    found = observe(net, LOSS, keep=keep, error=lambda s: jnp.abs(s.dy).max())(params, x, label)
    (value, aux), grads = value_and_grad(net, LOSS, has_aux=True)(params, x, label)
    jax.tree.map(np.testing.assert_array_equal, (found.value, found.gradient, found.aux), (value, grads, aux))
    assert list(found.found) == ["[0]", "[1]", "[2]", "[3]", "[4]"]
    assert all(set(each) == {"error"} for each in found.found.values())  # None is nothing
    last = seen["Dense(10)", 10]
    y = np.asarray(last.y)
    p = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    np.testing.assert_allclose(last.dy, (p - np.eye(10)[label]) / 8, rtol=1e-10)
    np.testing.assert_allclose(last.dx, last.dy @ params[4]["w"].T, rtol=1e-12)
    np.testing.assert_allclose(found.found["[4]"]["error"], np.abs(last.dy).max())
    assert last.params is params[4]


def test_every_combinator_lets_readings_through():
    net = Tied(
        Serial(
            Embedding(9, 4),
            Repeat(Residual(Serial(LayerNorm(), CausalSelfAttention(2))), 3),
            Remat(Dense(4)),
            TimeDistributed(Serial(Dense(4), Dropout(0.1))),
            Reversible(Dense(2), Dense(2)),
            Logits(9),
        ),
        (((0, "e"), (5, "e")),),
    )
    ids = jax.random.randint(jax.random.key(0), (2, 5), 0, 9)
    params = net.init(jax.random.key(1), ids)
    size = jax.jit(observe(net, LOSS, size=lambda s: jnp.asarray(s.y.size)))(params, ids, ids)
    (_, aux), grads = jax.jit(value_and_grad(net, LOSS, has_aux=True))(params, ids, ids)
    assert jax.tree.structure((size.gradient, size.aux)) == jax.tree.structure((grads, aux))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), size.gradient, grads)
    sizes = {path: each["size"].tolist() for path, each in size.found.items()}
    wanted = ["[0]", "[1][0]", "[1][1]", "[2]", "[3][0]", "[3][1]", "[4][0]", "[4][1]", "[5]"]
    assert list(sizes) == wanted
    assert sizes["[1][1]"] == [40, 40, 40]
    assert sizes["[5]"] == 90


def test_noise_scale_is_free_of_bias():
    """Gradients drawn around a known mean: the mean of many estimates is what they were drawn with."""
    rng = np.random.default_rng(0)
    g = rng.normal(size=(4000, 6, 3)) * 2 + np.array([1.0, -1.0, 0.5])
    norms, mean = np.linalg.norm(g, axis=-1), np.linalg.norm(g.mean(1), axis=-1)
    spread, square = jax.vmap(noise_scale)(jnp.asarray(norms), jnp.asarray(mean))
    assert np.mean(spread) == pytest.approx(12.0, rel=0.03)
    assert np.mean(square) == pytest.approx(2.25, rel=0.1)


def test_a_picture_a_table_and_what_mixes_examples(tmp_path):
    x, label = jnp.asarray(X[:16]), LABEL[:16]
    net = Serial(Dense(8), BatchNorm(), ReLU(), Repeat(Dense(8), 2), Dense(10))
    watch = Watch(net, LOSS, (x, label))
    params = net.init(jax.random.key(0), x)
    row = watch(params)
    assert np.isnan(row["noise scale"])  # BatchNorm's examples have no gradient each
    watch(jax.tree.map(lambda p: 1.1 * p if jnp.issubdtype(p.dtype, jnp.floating) else p, params))
    assert watch.looks[1].moved == pytest.approx(0.1, rel=1e-4)
    rows, values = watch.table("gradient")
    assert rows == ["[0]", "[1]", "[3] 0", "[3] 1", "[4]"]
    assert values.shape == (5, 2)
    watch.figure().savefig(tmp_path / "watch.svg")
    assert "rank" in (tmp_path / "watch.svg").read_text()
    with pytest.raises(LayerError, match="expected a tuple"):
        Watch(net, LOSS, x)
    with pytest.raises(LayerError, match="expected functions of a Seen"):
        observe(net, LOSS)


def test_tokens_and_images_are_looked_at_too():
    ids = jax.random.randint(jax.random.key(0), (4, 5), 0, 9)
    net = Serial(Embedding(9, 4), Flatten(), Dense(3))
    watch = Watch(net, LOSS, (ids, jnp.arange(4) % 3))
    assert "noise scale" in watch(net.init(jax.random.key(0), ids))
    assert watch.looks[0].felt is None  # indices feel nothing
