"""What is told of each example, against the gradients that vmap(jax.grad) makes of the definition."""

import sys
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbp
from jbp import (
    Frozen,
    Graph,
    Layer,
    LayerError,
    LowRankAdapter,
    Parallel,
    Passing,
    Remat,
    Repeat,
    Residual,
    Reversible,
    Serial,
    Sublayer,
    Tied,
    TimeDistributed,
    buffers,
    cast,
    merge,
    trainable,
)
from jbp.combinators import Keep
from jbp.layers import (
    GELU,
    GRU,
    LSTM,
    Add,
    BatchNorm,
    Bidirectional,
    Bilinear,
    CausalSelfAttention,
    Concatenate,
    Conv,
    Dense,
    DiagonalStateSpace,
    Dropout,
    Embedding,
    FanOut,
    Flatten,
    GlobalAveragePool,
    LayerNorm,
    LinearAttention,
    Logits,
    LoRA,
    LSTMCell,
    MaxPool,
    MemoryHop,
    MinimalGRU,
    MixtureOfExperts,
    MultiHeadAttention,
    Positions,
    Recurrent,
    Select,
    SelectiveStateSpace,
    Stack,
    Tanh,
)
from jbp.layers.activation.gated import Maxout, SwiGLU
from jbp.layers.activation.piecewise import PReLU
from jbp.layers.conv.transpose import ConvTranspose
from jbp.layers.linear.lowrank import LowRank
from jbp.layers.norm.batch import BatchNormInference
from jbp.layers.norm.features import RMSNorm
from jbp.layers.norm.groups import GroupNorm, InstanceNorm
from jbp.layers.pool.average import AdaptiveAveragePool, AveragePool
from jbp.layers.pool.maximum import GlobalMaxPool
from jbp.losses import InfoNCE, SoftmaxCrossEntropy, Sum
from jbp.readers import per_example, per_example_gradients, per_example_squared_norms
from jbp.readers.norms import gradient_of_one
from jbp.readers.per_example import swept

per_example_module = sys.modules["jbp.readers.per_example"]
rules = sys.modules["jbp.readers.norms"]
LOSS = SoftmaxCrossEntropy()
BATCH, CLASSES = 5, 4


def flat(*sizes):
    return jax.random.normal(jax.random.key(3), (BATCH, *sizes), jnp.float64)


@dataclass(frozen=True)
class Scale(Layer):
    """A stranger's layer: y = a x."""

    def init(self, key, x, /):
        return jnp.ones((), x.dtype)

    def forward(self, params, x, /):
        return params * x, x

    def backward(self, params, x, dy, /):
        return params * dy, dy

    def gradient(self, x, dy, /):
        return (x * dy).sum()


IDS = jax.random.randint(jax.random.key(4), (BATCH, 6), 0, 3)
PLAIN = {
    "Dense": (Serial(Dense(6), Tanh(), Dense(CLASSES, bias=False)), flat(3)),
    "Logits": (Serial(Dense(6), GELU(), Logits(CLASSES)), flat(3)),
    "Residual, Frozen": (
        Serial(Dense(6), Residual(Serial(Tanh(), Frozen(Dense(6)), Dense(6))), Dense(CLASSES)),
        flat(3),
    ),
    "Parallel": (Serial(FanOut(3), Parallel(Dense(4), Tanh(), Dense(4)), Add(), Dense(CLASSES)), flat(4)),
    "names": (
        Serial(out=FanOut(("b", "a")), two=Parallel(b=Dense(3), a=Tanh()), whole=Concatenate(), head=Dense(CLASSES)),
        flat(4),
    ),
    "Concatenate": (Serial(FanOut(2), Parallel(Dense(4), Dropout(0.0)), Concatenate(), Dense(CLASSES)), flat(4)),
    "Repeat, Remat": (
        Serial(Dense(3), Repeat(Remat(Residual(Serial(LayerNorm(), Dense(3)))), 4), Dense(CLASSES)),
        flat(3),
    ),
    "nothing in Repeat": (Serial(Repeat(Tanh(), 2), Dense(CLASSES)), flat(3)),
    "Keep": (Serial(Dense(3), Keep(Serial(Tanh(), LayerNorm(), Dense(4)), memory="host"), Dense(CLASSES)), flat(3)),
    "Conv": (Serial(Conv(3), Tanh(), MaxPool(), Conv(2), Flatten(), Dense(CLASSES)), flat(4, 6, 2)),
    "GlobalAveragePool": (
        Serial(Conv(4, (2, 2), stride=2, groups=2), GlobalAveragePool(), Dense(CLASSES)),
        flat(4, 6, 2),
    ),
    "pools": (
        Serial(
            ConvTranspose(3, (2, 2)), AveragePool(), AdaptiveAveragePool((2, 1)), GlobalMaxPool(), LowRank(CLASSES, 2)
        ),
        flat(4, 4, 2),
    ),
    "norms": (
        Serial(
            Conv(4, (1, 1)),
            GroupNorm(2),
            InstanceNorm(),
            PReLU(),
            Flatten(),
            Maxout(2),
            RMSNorm(),
            SwiGLU(),
            Dense(CLASSES),
        ),
        flat(4, 2, 2),
    ),
    "BatchNormInference": (Serial(Dense(3), BatchNormInference(), Dense(CLASSES)), flat(3)),
    "tokens, few": (Serial(Dense(9), Tanh(), Dense(7), Flatten(), Dense(CLASSES)), flat(2, 8)),
    "tokens, many": (Serial(Dense(3), Tanh(), Dense(2), Flatten(), Dense(CLASSES)), flat(3, 4, 3)),
    "LSTM": (Serial(LSTM(4), Flatten(), Dense(CLASSES)), flat(6, 3)),
    "LSTM, one step": (Serial(LSTM(4), Flatten(), Dense(CLASSES)), flat(1, 3)),
    "recurrent": (
        Serial(
            Bidirectional(GRU(2)),
            MinimalGRU(3),
            GRU(2, reset_after=False),
            Recurrent(LSTMCell(3, bias=False, projection=2)),
            Flatten(),
            Dense(CLASSES),
        ),
        flat(4, 3),
    ),
    "cells and state spaces": (
        Serial(
            LinearAttention(2),
            DiagonalStateSpace(3),
            SelectiveStateSpace(2),
            Recurrent(Serial(Concatenate(), Dense(3), Tanh(), FanOut()), 3),
            LoRA(2),
            Flatten(),
            Dense(CLASSES),
        ),
        flat(3, 4),
    ),
    "Bilinear": (Serial(FanOut(), Parallel(Dense(3), Tanh()), Bilinear(CLASSES)), flat(2)),
    "MemoryHop": (
        Serial(FanOut(), Parallel(GlobalAveragePool(), Dense(2)), Passing(MemoryHop()), MemoryHop(), Dense(CLASSES)),
        flat(3, 4),
    ),
    "attention": (
        Serial(Embedding(3, 4), Positions(8), Residual(CausalSelfAttention(2)), LayerNorm(), Flatten(), Dense(CLASSES)),
        IDS,
    ),
    "attention with biases and keys that all see": (
        Serial(
            Embedding(3, 4),
            Sublayer(MultiHeadAttention(2, bias=True, bias_kv=True), ("x",), residual=True),
            Flatten(),
            Dense(CLASSES),
        ),
        IDS,
    ),
    "Tied, a table at both ends": (
        Tied(
            Serial(Embedding(12, 4), Residual(CausalSelfAttention(2)), Logits(12), Flatten(), Dense(CLASSES)),
            (((0, "e"), (2, "e")),),
        ),
        IDS[:, :2],
    ),
    "Tied, three places": (
        Serial(Tied(Serial(Dense(3), Tanh(), Dense(3), Dense(3)), (((0,), (2,)), ((0,), (3,)))), Dense(CLASSES)),
        flat(3),
    ),
    "Tied, what has no parameters": (
        Serial(Tied(Serial(Tanh(), Dense(3), Tanh()), (((0,), (2,)),)), Dense(CLASSES)),
        flat(3),
    ),
    "Tied, nothing has parameters": (
        Serial(Dense(3), Tied(Serial(Tanh(), Tanh(), Tanh()), (((0,), (2,)),)), Dense(CLASSES)),
        flat(3),
    ),
    "Tied, tokens and few": (
        Serial(Tied(Serial(Dense(3), Tanh(), Dense(3)), (((0, "w"), (2, "w")),)), Flatten(), Dense(CLASSES)),
        flat(9, 3),
    ),
    "Tied, in a Repeat": (
        Serial(Tied(Serial(Repeat(Dense(3), 2), Repeat(Dense(3), 2)), (((0,), (1,)),)), Dense(CLASSES)),
        flat(3),
    ),
    "Repeat of Tied": (Serial(Repeat(Tied(Serial(Dense(3), Dense(3)), (((0,), (1,)),)), 3), Dense(CLASSES)), flat(3)),
    "Reversible": (Serial(Reversible(Dense(2), Tanh(), times=2), Reversible(Dense(2)), Dense(CLASSES)), flat(4)),
    "once for each step": (
        Serial(TimeDistributed(Serial(Dense(3), Tanh(), Dense(2))), Stack(GRU(2), 2), Flatten(), Dense(CLASSES)),
        flat(3, 4),
    ),
    "adapters": (
        Serial(LowRankAdapter(Dense(5), ("w",), 2), Frozen(Serial(Dense(3), Tanh(), Dense(CLASSES)), ("0/w", "b"))),
        flat(3),
    ),
    "a stranger's": (Serial(Scale(), Dense(CLASSES)), flat(3)),
    "experts": (Serial(MixtureOfExperts(Dense(3), 2, capacity=None), Select(0), Flatten(), Dense(CLASSES)), flat(2, 3)),
    "Graph": (
        Graph(a=(Dense(3), "x"), b=(Tanh(), "a"), c=(Concatenate(), "a", "b"), y=(Dense(CLASSES), "c")),
        flat(4),
    ),
}


def ready(net, x):
    params = jax.jit(lambda: cast(net.init(jax.random.key(0), x), "float64"))()
    return params, jnp.arange(BATCH) % CLASSES


def defined(net, params, x, target):
    """The gradient of each example's own loss."""

    def one(trained, x, target):
        return LOSS.reference((), (net.reference(merge(trained, buffers(params)), x[None]), target[None]))

    return jax.vmap(jax.grad(one), (None, 0, 0))(trainable(params), x, target)


def lengths(each):
    return jnp.sqrt(sum(jnp.square(g).sum(range(1, g.ndim)) for g in jax.tree.leaves(each)))


WEIGHTS = jnp.array([0.5, 0.0, -1.0, 2.0, 1.0])


@pytest.mark.parametrize("name", PLAIN)
def test_norms_and_sums_are_those_of_vmap_grad(name):
    net, x = PLAIN[name]
    params, target = ready(net, x)

    @jax.jit
    def both(params, x, target):
        each = defined(net, params, x, target)
        found = per_example(net, LOSS)(params, x, target)
        total = jax.tree.map(lambda g: jnp.tensordot(WEIGHTS, g, 1), each)
        return (found.norms, found.weighted(WEIGHTS)), (lengths(each), total)

    got, wanted = both(params, x, target)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def planted(monkeypatch):
    """Each line a fault that the comparison above has to see, and the network that shows it."""
    yield "Tied, a table at both ends", lambda: monkeypatch.setattr(per_example_module, "between", lambda *_: 0.0)
    yield "Tied, three places", lambda: monkeypatch.setattr(per_example_module, "_inner", lambda *_: jnp.zeros(BATCH))
    yield "tokens, few", lambda: monkeypatch.setattr(rules, "_outer", lambda x, dy: (x * x).sum((1, 2)))
    yield "a stranger's", lambda: monkeypatch.setattr(Scale, "gradient", lambda self, x, dy: (2 * x * dy).sum())


@pytest.mark.parametrize("fault", range(4))
def test_a_planted_fault_is_seen(fault, monkeypatch):
    name, plant = list(planted(monkeypatch))[fault]
    plant()
    with pytest.raises(AssertionError):
        test_norms_and_sums_are_those_of_vmap_grad(name)


def test_gradients_losses_and_norms_by_layer():
    net, x = Serial(one=Dense(6), two=Repeat(Dense(6), 2), three=Dense(CLASSES)), flat(3)
    params, target = ready(net, x)
    found = jax.jit(per_example(net, LOSS))(params, x, target)
    losses, each = jax.jit(per_example_gradients(net, LOSS))(params, x, target)
    wanted = defined(net, params, x, target)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), each, wanted)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-12)
    np.testing.assert_allclose(found.losses.mean(), LOSS.reference((), (net.reference(params, x), target)), rtol=1e-12)
    by_layer = found.norms_by_layer
    assert {name: norm.shape for name, norm in by_layer.items()} == {".one": (5,), ".two": (2, 5), ".three": (5,)}
    np.testing.assert_allclose(by_layer[".one"], lengths(wanted["one"]), rtol=1e-11)
    second = jax.tree.map(lambda g: g[:, 1], wanted["two"])
    np.testing.assert_allclose(by_layer[".two"][1], lengths(second), rtol=1e-11)
    clipped = found.weighted(lambda norms: jnp.minimum(1, 0.1 / norms))  # each layer's by itself
    scale = jnp.minimum(1, 0.1 / lengths(second))
    jax.tree.map(
        lambda a, g: np.testing.assert_allclose(a[1], jnp.tensordot(scale, g[:, 1], 1), rtol=1e-11),
        clipped["two"],
        wanted["two"],
    )


def test_places_of_one_parameter_are_weighted_as_one_layer():
    net, x = PLAIN["Tied, three places"]
    params, target = ready(net, x)
    found = per_example(net, LOSS)(params, x, target)
    wanted = defined(net, params, x, target)
    np.testing.assert_allclose(found.norms_by_layer["[0]"], lengths(wanted[0]), rtol=1e-11)
    clipped = found.weighted(lambda norms: 1 / norms)
    total = jax.tree.map(lambda g: jnp.tensordot(1 / lengths(wanted[0]), g, 1), wanted[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), clipped[0], total)


@dataclass(frozen=True)
class Negative(Layer):
    def forward(self, params, x, /):
        return -x, ()

    def backward(self, params, residuals, dy, /):
        return -dy, ()


def test_parts_that_cancel_have_no_norm_and_not_nan():
    """f(x) − f(x): the squares and the cross terms are each large, and their sum is rounding, of either sign."""
    away = Serial(FanOut(), Parallel(Dense(30), Serial(Dense(30), Negative())), Add())
    net, x = Serial(Tied(away, (((1, 0), (1, 1, 0)),)), Dense(CLASSES)), 100 * flat(50).astype(jnp.float32)

    @jax.jit
    def one(key):
        found = per_example(net, LOSS)(net.init(key, x), x, jnp.arange(BATCH) % CLASSES)
        return next(node.squares for node in found._nodes if node.path == "[0]"), found.norms_by_layer["[0]"]

    squares, norms = map(jnp.stack, zip(*map(one, jax.random.split(jax.random.key(0), 30)), strict=True))
    assert (squares < 0).any()  # else this shows nothing
    assert jnp.isfinite(norms).all()


def test_buffers_move_on_and_the_output_is_the_networks():
    net, x = Serial(Dense(3), Dropout(0.5), Dense(CLASSES)), flat(3)
    params, target = ready(net, x)
    found = per_example(net, LOSS)(params, x, target)
    y, residuals = net.forward(params, x)
    np.testing.assert_allclose(found.output, y)
    moved = net.advance(params, residuals)
    keys = [jax.random.key_data(jax.tree.leaves(buffers(p))[0]) for p in (found.params, moved, params)]
    np.testing.assert_array_equal(keys[0], keys[1])
    assert (keys[0] != keys[2]).any()


def test_a_loss_counts_each_example_by_itself():
    """Of a mean over those that count, an example that does not would change the others' share."""
    net, x = Serial(Dense(CLASSES)), flat(3)
    params, target = ready(net, x)
    some = per_example(net, SoftmaxCrossEntropy(ignore=0))(params, x, target)
    every = per_example(net, Sum(LOSS))(params, x, target)
    np.testing.assert_allclose(some.norms, jnp.where(target == 0, 0, every.norms), rtol=1e-12)


@pytest.mark.parametrize(
    "inside", [BatchNorm(), Residual(BatchNorm()), Frozen(BatchNorm()), Tied(Serial(BatchNorm()), ())]
)
def test_what_mixes_the_examples_is_refused_by_name(inside):
    net = Serial(Dense(3), inside, Dense(CLASSES))
    params, target = ready(net, flat(3))
    with pytest.raises(LayerError, match=r"^Serial\[1\].*BatchNorm.*no gradient each by itself: it takes the stat"):
        per_example(net, LOSS)(params, flat(3), target)
    with pytest.raises(LayerError, match="no gradient each by itself"):
        per_example_gradients(net, LOSS)
    with pytest.raises(LayerError, match="it holds each example against the others"):
        per_example(Serial(Dense(2)), Sum(InfoNCE()))


def test_a_stranger_can_register():
    @dataclass(frozen=True)
    class Registered(Scale):
        pass

    asked = []

    @per_example_squared_norms.register(Registered)
    def _(layer, x, dy, /):
        asked.append(x.shape)
        return jnp.square((x * dy).sum(range(1, x.ndim)))

    net = Serial(Dense(40), Registered(), Dense(CLASSES))
    params, target = ready(net, flat(1))
    found, wanted = per_example(net, LOSS)(params, flat(1), target), defined(net, params, flat(1), target)
    np.testing.assert_allclose(found.norms, lengths(wanted), rtol=1e-11)


def test_a_batch_without_examples_in_front_is_refused():
    net, x = Serial(Dense(CLASSES)), flat(3)
    params, target = ready(net, x)
    with pytest.raises(LayerError, match="examples on the first axis of every array"):
        per_example(net, LOSS)(params, x, target[:3])
    with pytest.raises(LayerError, match="examples on the first axis of every array"):
        per_example(net, LOSS)(params, jnp.ones(()), target)


@pytest.mark.parametrize(
    "layer",
    [
        jbp.layers.Softmax(0),
        jbp.layers.LogSoftmax(axis=-2),
        jbp.layers.GLU(axis=0),
        LayerNorm(axes=2),
        RMSNorm(axes=2),
        Positions(6),
        jbp.layers.SinusoidalPositions(),
        jbp.layers.Rotary(),
        Flatten(0),
        jbp.layers.Take(0, 0),
        jbp.layers.ExpandDims(-3),
        Serial(FanOut(), Concatenate(-2)),
        Residual(jbp.layers.Softmax(0)),
        Frozen(Serial(Tanh(), jbp.layers.Softmax(0))),
    ],
    ids=repr,
)
def test_an_option_that_mixes_the_examples_is_refused(layer):
    net, x = Serial(Dense(4), layer), jnp.ones((6, 3))
    params = net.init(jax.random.key(0), x)
    with pytest.raises(LayerError, match=r"^Serial\[1\].*mixes or moves the first"):
        swept(net, params, x, lambda y: (jnp.zeros(6), y))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(4, (3,)), (1, 9, 3)),
        (Conv(4, (2, 3), stride=2, groups=2), (1, 8, 7, 4)),
        (Conv(6, padding="VALID", dilation=2, groups=3, bias=False), (1, 8, 7, 6)),
        (Conv(4, (2, 2, 2), padding_mode="circular"), (1, 4, 4, 4, 2)),
        (Conv(4, (1, 1), stride=2), (1, 5, 3, 2)),
        (Conv(5, padding=((2, 1), (0, 3))), (1, 5, 4, 2)),
    ],
    ids=repr,
)
def test_the_gradient_of_one_image_is_that_of_the_convolution(layer, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    params = layer.init(jax.random.key(1), x)
    y, pullback = jax.vjp(lambda params: layer.reference(params, x), params)
    dy = jax.random.normal(jax.random.key(2), y.shape)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), gradient_of_one(layer, x, dy), *pullback(dy)
    )
