"""The list of cases: every layer with inputs that it takes. Checks, random networks and benchmarks find layers here.

A new layer is one line. `Case(layer, *inputs)` gives one input for each number of axes that the layer takes; random
networks put it wherever an array with as many axes arrives and the layer accepts it. Simpler layers come first: a
failing network shrinks towards the head of the list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jbp
from jbp.layer import Layer


@dataclass(frozen=True)
class Array:
    """An input: its shape, and for integers the number that they stay below."""

    shape: tuple[int, ...]
    below: int | None = None


def f(*shape: int) -> Array:
    return Array(shape)


def i(*shape: int, below: int) -> Array:
    return Array(shape, below)


@dataclass(frozen=True)
class Case:
    """A layer and inputs that it takes: an Array each, or a tuple or dict of them."""

    layer: Layer
    inputs: tuple[Any, ...] = field(hash=False)  # a dict has no hash

    def __init__(self, layer: Layer, *inputs: Any):
        object.__setattr__(self, "layer", layer)
        object.__setattr__(self, "inputs", inputs)


@dataclass(frozen=True)
class Form:
    """A way to make a layer out of others: `build(*networks)`, one for each of `keeps`.

    keeps[k] says whether network k must have an output shaped like its input.
    """

    name: str
    build: Callable[..., Layer]
    keeps: tuple[bool, ...]


@dataclass(frozen=True)
class Catalogue:
    """What random networks are made of. `serial(*layers)` joins layers in a row; `names` is what their reprs need.

    `with_loss(net, loss, n)` takes (x, t_1, ..., t_n) and gives the loss of (net's output, t_1, ..., t_n).
    """

    layers: tuple[Case, ...]
    forms: tuple[Form, ...]
    losses: tuple[Case, ...]
    serial: Callable[..., Layer]
    with_loss: Callable[[Layer, Layer, int], Layer]
    names: Mapping[str, Any]
    estimators: tuple[Case, ...] = ()  # their way back is not that of their definition: audited, but in no network

    def __repr__(self):
        return "jbp.catalogue.catalogue()"  # and not hundreds of lines


ANY = f(3, 5), f(2, 3, 5), f(2, 5, 3, 2)  # for layers that take any number of axes


def _elman(n: int) -> Layer:
    return jbp.Serial(jbp.Concatenate(), jbp.Dense(n), jbp.Tanh(), jbp.FanOut())


def _normed(n: int) -> Layer:
    return jbp.Serial(jbp.Concatenate(), jbp.Dense(n), jbp.BatchNorm(), jbp.FanOut())


def _leaf(a: Layer) -> Layer:
    return jbp.Serial(a, jbp.LSTMLeaf(2))


def _balanced(n: int) -> Layer:
    """The loss of what experts add to the network's output, and of their balance, which goes along beside it."""
    experts = jbp.Serial(jbp.Select(0), jbp.MixtureOfExperts(jbp.Dense(n), 3, 2, None))
    output = jbp.Serial(jbp.WithTotal(), jbp.Residual(experts))
    return jbp.Serial(jbp.Parallel(output, jbp.Identity()), jbp.Penalized(jbp.Huber(), 0.5))


LAYERS = (
    *(Case(jbp.Dense(n), *ANY) for n in (1, 2, 3, 5, 8)),
    Case(jbp.Dense(3, bias=False), *ANY),
    Case(jbp.Logits(5), *ANY),
    Case(jbp.LowRank(3, 2), *ANY),
    Case(jbp.LoRA(3, 2), *ANY),
    Case(jbp.LoRA(2, 1, alpha=0.5), *ANY),
    Case(jbp.Bilinear(3), (f(3, 5), f(3, 2)), (f(2, 3, 5), f(2, 3, 1))),
    *(Case(activation(), *ANY) for activation in (
        jbp.Tanh, jbp.ReLU, jbp.Sigmoid, jbp.LeakyReLU, jbp.ReLU6, jbp.SiLU, jbp.GELU, jbp.GELUTanh, jbp.Softplus,
        jbp.ELU, jbp.SELU, jbp.Mish, jbp.Softsign, jbp.LogSigmoid, jbp.HardTanh, jbp.Sin,
        jbp.HardSigmoid, jbp.HardSwish, jbp.ReLU2)),
    Case(jbp.CELU(), *ANY),
    Case(jbp.CELU(0.3), *ANY),
    Case(jbp.PReLU(), *ANY),
    Case(jbp.Softmax(), *ANY),
    Case(jbp.LogSoftmax(), *ANY),
    *(Case(gate(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)) for gate in (jbp.GLU, jbp.ReGLU, jbp.SwiGLU, jbp.GEGLU)),
    Case(jbp.Maxout(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(jbp.Maxout(3), f(2, 3)),
    Case(jbp.GumbelSoftmax(), *ANY),
    Case(jbp.GumbelSoftmax(0.5), f(2, 3)),
    Case(jbp.GumbelSoftmaxInference(0.5), *ANY),
    Case(jbp.RestrictedBoltzmannInference(3), *ANY),
    Case(jbp.RestrictedBoltzmannInference(2, chains=3), f(3, 5)),
    Case(jbp.LayerNorm(), *ANY),
    Case(jbp.RMSNorm(), *ANY),
    Case(jbp.GroupNorm(1), *ANY),
    Case(jbp.GroupNorm(2), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(jbp.InstanceNorm(), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(jbp.BatchNorm(), *ANY),
    Case(jbp.BatchNormInference(), *ANY),
    Case(jbp.Dropout(0.3), *ANY),
    Case(jbp.Dropout(0.0), f(3, 5)),
    Case(jbp.DropoutInference(), *ANY),
    Case(jbp.Reparameterize(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(jbp.ReparameterizeInference(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(jbp.StochasticDepth(0.4), *ANY),
    Case(jbp.UnitNorm(), *ANY),
    Case(jbp.RadialBasis(3), *ANY),
    Case(jbp.WeightNorm(jbp.Dense(3)), *ANY),
    Case(jbp.WeightNorm(jbp.Conv(2, (2,))), f(2, 5, 3)),
    Case(jbp.SpectralNorm(jbp.Dense(3)), *ANY),
    Case(jbp.SpectralNorm(jbp.Conv(3, (2, 1)), 2), f(2, 5, 3, 2)),
    Case(jbp.TensorProduct(), (f(3, 5), f(3, 2)), (f(2, 3, 5), f(2, 3, 1))),
    Case(jbp.SinusoidalPositions(), f(3, 5), f(2, 5, 3), f(2, 5, 3, 2)),
    Case(jbp.StochasticDepth(0.0), f(3, 5)),
    Case(jbp.Flatten(), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(jbp.Reshape((-1,)), f(2, 3, 5)),
    Case(jbp.Reshape((-1, 2)), f(2, 8), f(2, 5, 2, 3)),
    Case(jbp.Reshape((-1, 1, 1)), f(2, 3), f(2, 3, 5)),
    Case(jbp.Transpose((0, 2, 1)), f(2, 3, 5)),
    Case(jbp.Transpose((0, 3, 1, 2)), f(2, 5, 3, 2)),
    Case(jbp.Take(-1), f(3, 5), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(jbp.Take(0, -2), f(2, 3, 5)),
    Case(jbp.Select(1), (f(3, 5), f(3, 2))),
    Case(jbp.Select(2, 0), (f(3, 5), f(3, 2), f(4))),
    Case(jbp.Pad(((1, 0),)), f(2, 3, 5)),
    Case(jbp.Pad(((1, -1), (0, 2))), f(2, 3, 2, 1)),
    Case(jbp.Upsample(), f(2, 5, 3, 2), f(1, 2, 1, 3)),
    Case(jbp.Upsample((2,)), f(2, 5, 3)),
    Case(jbp.Positions(9), f(2, 5, 3)),
    Case(jbp.LSTM(3), f(2, 5, 3)),
    Case(jbp.LSTM(2), f(3, 4, 1)),
    Case(jbp.Elman(3), f(2, 5, 3)),
    Case(jbp.GRU(3), f(2, 5, 3)),
    Case(jbp.GRU(2), f(3, 4, 1)),
    Case(jbp.Bidirectional(jbp.GRU(2)), f(2, 5, 3)),
    Case(jbp.Bidirectional(jbp.Dropout(0.3)), f(2, 5, 3)),
    Case(jbp.Lengths(jbp.Serial(jbp.Elman(3), jbp.GRU(2))), (f(2, 5, 3), i(2, below=6))),
    Case(jbp.Bidirectional(jbp.Lengths(jbp.GRU(2))), (f(3, 4, 1), i(3, below=5))),
    Case(jbp.MinimalGRU(3), f(2, 5, 3)),
    Case(jbp.Serial(jbp.GRU(3), jbp.MinimalGRU(2)), f(2, 5, 3)),
    Case(jbp.Recurrent(_elman(3), 3), f(2, 5, 3)),
    Case(jbp.Recurrent(_normed(2), 2), f(3, 4, 1)),
    Case(jbp.MemoryHop(), (f(2, 3), f(2, 5, 3)), (f(2, 5), f(2, 3, 2), i(2, 3, below=2))),
    Case(jbp.MemoryHop(linear=True), (f(2, 3), f(2, 3, 8), i(2, 3, below=2))),
    Case(jbp.TensorNode(), (f(3, 2), f(3, 2)), (f(2, 3, 3), f(2, 3, 3))),
    Case(jbp.LSTMLeaf(3), f(3, 5)),
    Case(jbp.LSTMNode(), ((f(3, 2), f(3, 2)), (f(3, 2), f(3, 2)))),
    Case(jbp.Recursive(jbp.TensorNode()), (f(2, 3, 2), i(2, 2, 2, below=3))),
    Case(jbp.Serial(jbp.Parallel(jbp.LSTMLeaf(2), jbp.Identity()), jbp.Recursive(jbp.LSTMNode())),
         (f(2, 3, 5), i(2, 3, 2, below=3))),
    Case(jbp.DiagonalStateSpace(2), f(2, 5, 3)),
    Case(jbp.DiagonalStateSpace(5), f(3, 4, 1)),
    Case(jbp.SelectiveStateSpace(2), f(2, 5, 3)),
    Case(jbp.SelectiveStateSpace(3, rank=2), f(3, 4, 1)),
    Case(jbp.LinearAttention(1), f(2, 5, 3)),
    Case(jbp.LinearAttention(2, causal=True), f(2, 5, 8), f(1, 130, 2)),
    Case(jbp.MixtureOfExperts(jbp.Dense(3), 2), f(3, 5), f(2, 3, 5)),
    Case(jbp.MixtureOfExperts(jbp.Serial(jbp.Dense(8), jbp.Tanh(), jbp.Dense(5)), 3, k=2, capacity=0.8), f(2, 5, 5)),
    Case(jbp.WithTotal(), f(3, 5)),
    Case(jbp.Serial(jbp.MixtureOfExperts(jbp.Dense(5), 3, 2, None), jbp.Select(0)), *ANY),
    Case(jbp.CausalSelfAttention(1), f(2, 5, 3)),
    Case(jbp.CausalSelfAttention(2), f(2, 5, 8), f(1, 130, 2), {"x": f(1, 130, 2), "bias": f(1, 2, 1, 130)}),
    Case(jbp.MultiHeadAttention(1), f(2, 5, 3), (f(2, 5, 3), f(2, 3, 2)), (f(2, 5, 3), i(2, 5, below=2))),
    Case(jbp.MultiHeadAttention(2, causal=True, window=2), f(2, 5, 8)),
    Case(jbp.MultiHeadAttention(4, groups=2, window=3), f(2, 5, 8), (f(2, 5, 8), f(2, 3, 5), i(2, 3, below=2))),
    Case(jbp.MultiHeadAttention(2, cap=1.5, alibi=True), f(2, 5, 8)),
    Case(jbp.MultiHeadAttention(4, groups=2, alibi=True), f(2, 5, 8)),
    Case(jbp.MultiHeadAttention(2, groups=1, causal=True, rotary=True, distances=2), f(2, 5, 8)),
    Case(jbp.MultiHeadAttention(1, dropout=0.3), f(2, 5, 3), (f(2, 5, 3), f(2, 3, 2))),
    Case(
        jbp.MultiHeadAttention(2, window=2),
        {"x": f(2, 5, 8), "bias": f(1, 2, 5, 5), "segments": i(2, 5, below=2)},
        {"x": f(1, 130, 2), "bias": f(1, 1, 130, 130), "mask": i(1, 130, below=2)},
    ),
    Case(jbp.Rotary(), f(3, 2), f(2, 5, 8), f(2, 1, 3, 2)),
    Case(jbp.Conv(2, (1, 1)), f(2, 5, 3, 2)),
    Case(jbp.Conv(2, (1, 1), stride=2), f(2, 5, 4, 3)),
    Case(jbp.Conv(3), f(2, 5, 3, 2)),
    Case(jbp.Conv(2, (3, 2), stride=(2, 1), padding="VALID"), f(2, 5, 3, 2)),
    Case(jbp.Conv(4, (2, 3), stride=2, dilation=(1, 2), groups=2), f(2, 5, 8, 2)),
    Case(jbp.Conv(4, (2, 2), groups=2), f(2, 5, 3, 8)),
    Case(jbp.Conv(8, (2,), groups=8), f(2, 5, 8)),
    Case(jbp.Conv(8, (3,), groups=8, dilation=2), f(2, 5, 8)),
    Case(jbp.Conv(4, (1,), groups=2), f(2, 5, 8)),
    Case(jbp.Conv(2, (3,), padding=((2, 0),)), f(2, 5, 3)),
    Case(jbp.ConvTranspose(4, (2,), groups=4), f(2, 5, 4)),
    Case(jbp.ConvTranspose(3), f(2, 5, 3, 2)),
    Case(jbp.ConvTranspose(2, (2, 2), stride=2, padding="VALID"), f(2, 5, 3, 2)),
    Case(jbp.ConvTranspose(4, (3, 2), stride=(2, 3), dilation=(2, 1), groups=2), f(2, 5, 3, 2)),
    Case(jbp.ConvTranspose(2, (3,), stride=2, padding=((1, 0),)), f(2, 5, 3)),
    Case(jbp.ConvTranspose(3, (3,), stride=2, groups=3), f(2, 4, 3)),
    Case(jbp.ConvTranspose(4, (1, 3), groups=2), f(2, 3, 4, 2)),
    Case(jbp.MaxPool(), f(2, 5, 3, 2)),
    Case(jbp.MaxPool((3, 3), stride=2, padding="SAME"), f(2, 5, 3, 2)),
    Case(jbp.MaxPool((2,), stride=1), f(2, 5, 3)),
    Case(jbp.AveragePool(), f(2, 5, 3, 2)),
    Case(jbp.AveragePool((3, 2), stride=(2, 1), padding="SAME"), f(2, 5, 3, 2)),
    Case(jbp.AveragePool((3,), stride=1, padding=((2, 1),)), f(2, 5, 3)),
    Case(jbp.AveragePool((5,), stride=1, padding="SAME"), f(2, 5, 3)),
    Case(jbp.AdaptiveAveragePool((3, 2)), f(2, 5, 3, 2)),
    Case(jbp.AdaptiveAveragePool((8,)), f(2, 5, 3)),
    Case(jbp.GlobalMaxPool(), f(2, 5, 3), f(2, 5, 3, 2)),
    Case(jbp.GlobalAveragePool(), f(2, 5, 3), f(2, 5, 3, 2)),
    Case(jbp.Embedding(5, 3), i(4, below=5), i(3, 2, below=5)),
    Case(jbp.Embedding(3, 8), i(2, 5, below=3)),
    Case(jbp.Embedding(5, 3, padding=1), i(3, 2, below=5)),
    Case(jbp.Remat(jbp.Embedding(5, 2)), i(2, 3, below=5)),
    Case(jbp.TimeDistributed(jbp.Conv(2, (2,))), f(2, 3, 5, 2)),
    Case(jbp.EmbeddingBag(5, 3), i(2, 3, below=5), (i(2, 3, below=5), f(2, 3))),
    Case(jbp.EmbeddingBag(5, 3, "mean", padding=1), i(3, 2, 4, below=5), (i(3, 4, below=5), f(3, 4))),
)  # fmt: skip

FORMS = (
    Form("Residual", jbp.Residual, (True,)),
    Form("Remat", jbp.Remat, (False,)),
    Form("Frozen", jbp.Frozen, (False,)),
    Form("Parallel, Add", lambda a, b: _joined(a, b, jbp.Add()), (True, True)),
    Form("Parallel, Concatenate", lambda a, b: _joined(a, b, jbp.Concatenate()), (True, True)),
    Form("Parallel, Bilinear", lambda a, b: _joined(a, b, jbp.Bilinear(3)), (True, True)),
    Form("Parallel, Concatenate on axis 1", lambda a, b: _joined(a, b, jbp.Concatenate(1)), (True, True)),
    Form(  # the halves are x twice
        "Reversible", lambda a, b: jbp.Serial(jbp.FanOut(), jbp.Concatenate(), jbp.Reversible(a, b)), (True, True)
    ),
    Form("TimeDistributed", lambda a: jbp.TimeDistributed(a, 1), (False,)),  # with more axes its inside sees less
    Form("Passing, MemoryHop", lambda a, b: _asked(a, b), (True, True)),
    Form(
        "Parallel, LSTMNode",
        lambda a, b: jbp.Serial(_joined(_leaf(a), _leaf(b), jbp.LSTMNode()), jbp.Select(0)),
        (True, True),
    ),
    Form("Tied", lambda a, b: jbp.Tied(jbp.Serial(a, b, a), (((0,), (2,)),)), (True, True)),
    Form("Repeat", lambda a: jbp.Repeat(a, 3), (True,)),
)

LOSSES = (
    Case(jbp.MeanSquaredError(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5)), (f(1, 1), f(1, 1))),
    *(
        Case(loss(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5)))
        for loss in (
            jbp.MeanAbsoluteError,
            jbp.Huber,
            jbp.LogCosh,
            jbp.BinaryCrossEntropy,
            jbp.Hinge,
            jbp.KullbackLeibler,
        )
    ),
    Case(jbp.Huber(0.3), (f(3, 5), f(3, 5))),
    Case(jbp.StandardNormalDivergence(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(jbp.Penalized(jbp.Huber(), 0.5), ((f(3, 5), f()), f(3, 5))),
    Case(_balanced(5), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(jbp.CTC(), (f(2, 5, 3), i(2, 2, below=3)), (f(2, 5, 3), i(2, 2, below=3), i(2, below=5))),
    Case(jbp.CTC(2), (f(2, 8, 5), i(2, 3, below=5))),
    Case(jbp.InfoNCE(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(jbp.InfoNCE(0.5, symmetric=True), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(jbp.Triplet(), (f(3, 5), f(3, 5), f(3, 5)), (f(2, 3, 5),) * 3),
    Case(jbp.NegativeSampling(7), (f(3, 5), i(3, 4, below=7)), (f(2, 3, 5), i(2, 3, 4, below=7))),
    Case(jbp.PolicyGradient(), (f(3, 5), i(3, below=5), f(3)), (f(2, 3, 5), i(2, 3, below=5), f(2, 3))),
    Case(jbp.PolicyGradient(0.1), (f(3, 5), i(3, below=5), f(3))),
    Case(jbp.ClippedPolicy(), (f(3, 5), i(3, below=5), f(3), f(3)), (f(2, 3, 5), i(2, 3, below=5), f(2, 3), f(2, 3))),
    Case(jbp.ClippedPolicy(0.5, 0.1), (f(8, 5), i(8, below=5), f(8), f(8))),
    Case(jbp.GaussianNegativeLogLikelihood(), (f(2), f(1)), (f(3, 8), f(3, 4)), (f(2, 3, 2), f(2, 3, 1))),
    Case(jbp.SoftmaxCrossEntropy(), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
    Case(jbp.SoftmaxCrossEntropy(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(jbp.SoftmaxCrossEntropy(smoothing=0.1), (f(3, 5), i(3, below=5))),
    Case(jbp.SoftmaxCrossEntropy(weights=(0.5, 2.0, 1.0)), (f(5, 3), i(5, below=3))),
    Case(jbp.SoftmaxCrossEntropy(ignore=1), (f(8, 3), i(8, below=3))),
    Case(jbp.SoftmaxCrossEntropy(ignore=0), (f(3, 2), i(3, below=1))),
    Case(jbp.SoftmaxCrossEntropy(z_loss=0.1), (f(3, 5), i(3, below=5))),
    Case(jbp.SoftmaxCrossEntropy(cap=2.0), (f(3, 5), i(3, below=5))),
    Case(jbp.LinearCrossEntropy(5), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
    Case(jbp.LinearCrossEntropy(8, chunk=2, columns=3), (f(3, 5), i(3, below=8)), (f(5, 2), f(5, 8))),
    Case(jbp.LinearCrossEntropy(8, columns=4), (f(3, 5), i(3, below=8))),
    Case(jbp.LinearCrossEntropy(8, chunk=4, bias=False), (f(2, 5, 3), i(2, 5, below=8))),
    Case(
        jbp.LinearCrossEntropy(3, 2, True, 0.2, (0.5, 2.0, 1.0), 0, 0.01, 3.0),
        (f(3, 5), i(3, below=3)),
        (f(5, 2), f(5, 3)),
    ),
    Case(jbp.SoftmaxCrossEntropy(0.2, (0.5, 2.0, 1.0), 0, 0.01, 3.0), (f(8, 3), i(8, below=3)), (f(5, 3), f(5, 3))),
)


ESTIMATORS = (
    Case(jbp.StraightThroughRound(), *ANY),
    Case(jbp.StraightThroughSign(), *ANY),
    Case(jbp.StraightThroughOneHot(), *ANY),
    Case(jbp.GradientReversal(), *ANY),
    Case(jbp.GradientReversal(0.3), f(3, 5)),
    *(
        Case(jbp.LeakyIntegrateAndFire(surrogate=surrogate), f(2, 5, 3))
        for surrogate in ("superspike", "arctan", "triangle", "boxcar")
    ),
    Case(jbp.LeakyIntegrateAndFire(0.5, 0.3, sharpness=5.0, learn=True), f(2, 5, 3), f(3, 2, 1)),
    Case(jbp.RestrictedBoltzmann(3), f(3, 5), f(2, 3, 5)),
    Case(jbp.RestrictedBoltzmann(2, steps=3, chains=4), f(3, 5)),
)


def catalogue() -> Catalogue:
    """What `verify` finds under this package's entry point."""
    return Catalogue(LAYERS, FORMS, LOSSES, jbp.Serial, _with_loss, vars(jbp), ESTIMATORS)


def _joined(a: Layer, b: Layer, join: Layer) -> Layer:
    return jbp.Serial(jbp.FanOut(), jbp.Parallel(a, b), join)


def _asked(a: Layer, b: Layer) -> Layer:
    """Two hops over what b makes of a sequence, asked with the mean of what a makes of it."""
    query = jbp.Serial(a, jbp.GlobalAveragePool())
    hops = jbp.Passing(jbp.MemoryHop()), jbp.MemoryHop(linear=True)
    return jbp.Serial(jbp.FanOut(), jbp.Parallel(query, b), *hops)


def _with_loss(net: Layer, loss: Layer, targets: int) -> Layer:
    return jbp.Serial(jbp.Parallel(net, *[jbp.Identity()] * targets), loss)
