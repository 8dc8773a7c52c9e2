"""Per-example gradient norms against the norms of the gradients that vmap(jax.grad) makes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbp
from jbp import (
    Frozen,
    Layer,
    LayerError,
    Parallel,
    Passing,
    Remat,
    Repeat,
    Residual,
    Serial,
    Sublayer,
    Tied,
    buffers,
    cast,
    merge,
    trainable,
)
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
    Elman,
    Embedding,
    FanOut,
    Flatten,
    GlobalAveragePool,
    LayerNorm,
    LinearAttention,
    Logits,
    LoRA,
    MaxPool,
    MemoryHop,
    MinimalGRU,
    MultiHeadAttention,
    Positions,
    Recurrent,
    SelectiveStateSpace,
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
from jbp.losses import SoftmaxCrossEntropy
from jbp.readers import deltas, per_example_squared_norms

LOSS = SoftmaxCrossEntropy()
BATCH, CLASSES = 5, 4


def flat(*sizes):
    return jax.random.normal(jax.random.key(3), (BATCH, *sizes), jnp.float64)


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
    "recurrent": (Serial(Bidirectional(GRU(2)), Elman(3), MinimalGRU(3), Flatten(), Dense(CLASSES)), flat(4, 3)),
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
}


def ready(net, x):
    params = jax.jit(lambda: cast(net.init(jax.random.key(0), x), "float64"))()
    return params, jnp.arange(BATCH) % CLASSES


@pytest.mark.parametrize("name", PLAIN)
def test_norms_are_those_of_vmap_grad(name):
    net, x = PLAIN[name]
    params, target = ready(net, x)

    def one(trained, x, target):
        return LOSS.reference((), (net.reference(merge(trained, buffers(params)), x[None]), target[None])) / BATCH

    @jax.jit
    def both(params, x, target):
        each = jax.vmap(jax.grad(one), (None, 0, 0))(trainable(params), x, target)
        wanted = sum(jnp.square(g).sum(range(1, g.ndim)) for g in jax.tree.leaves(each))
        _, residuals, delta = deltas(net, LOSS)(params, x, target)
        return per_example_squared_norms(net, residuals, delta), wanted

    np.testing.assert_allclose(*both(params, x, target), rtol=1e-11)


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


@pytest.mark.parametrize("inside", [BatchNorm(), Scale(), Tied(Serial(Dense(3), Dense(3)), (((0,), (1,)),))], ids=repr)
def test_a_layer_without_a_rule_is_named(inside):
    net = Serial(Dense(3), Residual(inside), Dense(CLASSES))
    params, target = ready(net, flat(3))
    _, residuals, delta = deltas(net, LOSS)(params, flat(3), target)
    with pytest.raises(LayerError, match=rf"^Serial\[1\]\.Residual: {type(inside).__name__}.*[Rr]egister"):
        per_example_squared_norms(net, residuals, delta)


def test_a_frozen_layer_may_not_mix_the_examples_either():
    net = Serial(Dense(3), Frozen(Serial(Tanh(), BatchNorm())), Dense(CLASSES))
    params, target = ready(net, flat(3))
    _, residuals, delta = deltas(net, LOSS)(params, flat(3), target)
    with pytest.raises(LayerError, match=r"^Serial\[1\]\.Frozen\.Serial\[1\]: BatchNorm\(\): got no rule"):
        per_example_squared_norms(net, residuals, delta)


def test_a_stranger_can_register():
    @dataclass(frozen=True)
    class Registered(Scale):
        pass

    @per_example_squared_norms.register(Registered)
    def _(layer, x, dy, /):
        return jnp.square((x * dy).sum(range(1, x.ndim)))

    net = Serial(Registered(), Dense(CLASSES))
    params, target = ready(net, flat(3))
    _, residuals, delta = deltas(net, LOSS)(params, flat(3), target)
    assert per_example_squared_norms(net, residuals, delta).shape == (BATCH,)


def test_one_example_without_a_batch_is_refused():
    with pytest.raises(LayerError, match="batch on its first axis"):
        per_example_squared_norms(Dense(2), jnp.ones(3), jnp.ones(2))


@pytest.mark.parametrize(
    "layer",
    [
        jbp.layers.Softmax(0),
        jbp.layers.LogSoftmax(axis=-2),
        jbp.layers.GLU(axis=0),
        LayerNorm(axes=2),
        RMSNorm(axes=2),
        Positions(6),
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
    y, residuals = net.forward(params, x)
    _, delta = net.backward(params, residuals, y)
    with pytest.raises(LayerError, match="mixes or moves the first"):
        per_example_squared_norms(net, residuals, delta)


@pytest.mark.parametrize(
    "norm", [BatchNorm(affine=False).evaluation(), LayerNorm(affine=False), GroupNorm(2, affine=False)]
)
def test_a_norm_without_parameters_adds_nothing(norm):
    net, x = Serial(Dense(4), norm), flat(3)
    params = net.init(jax.random.key(0), x)
    y, residuals = net.forward(params, x)
    _, delta = net.backward(params, residuals, y)
    alone = per_example_squared_norms(Dense(4), residuals[0], delta[0])
    np.testing.assert_array_equal(per_example_squared_norms(net, residuals, delta), alone)
