"""The list of cases: every layer with inputs that it takes. Checks, random networks and benchmarks find layers here.

A new layer is one line. `Case(layer, *inputs)` gives one input for each number of axes that the layer takes; random
networks put it wherever an array with as many axes arrives and the layer accepts it. Simpler layers come first: a
failing network shrinks towards the head of the list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jbp import (
    ELU,
    GELU,
    LSTM,
    SELU,
    Add,
    BatchNorm,
    CausalSelfAttention,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Embedding,
    FanOut,
    Flatten,
    Frozen,
    GELUTanh,
    GlobalAveragePool,
    HardTanh,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    Logits,
    LogSigmoid,
    MaxPool,
    MeanSquaredError,
    Mish,
    Parallel,
    Positions,
    ReLU,
    ReLU6,
    Remat,
    Repeat,
    Residual,
    Serial,
    Sigmoid,
    SiLU,
    Sin,
    SoftmaxCrossEntropy,
    Softplus,
    Softsign,
    Tanh,
    Tied,
)  # fmt: skip
from jbp.layers.norm import BatchNormInference


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
    """A layer and inputs that it takes: an Array each, or a tuple of them."""

    layer: Layer
    inputs: tuple[Any, ...]

    def __init__(self, layer: Layer, *inputs: Any):
        object.__setattr__(self, "layer", layer)
        object.__setattr__(self, "inputs", inputs)


@dataclass(frozen=True)
class Form:
    """A way to make a layer out of others: `build(*networks)`, one for each of `keeps`.

    keeps[k] says whether network k must have an output shaped like its input. `unit` marks forms that hold a loop,
    which a campaign compiles as one function and keeps.
    """

    name: str
    build: Callable[..., Layer]
    keeps: tuple[bool, ...]
    unit: bool = False


@dataclass(frozen=True)
class Catalogue:
    """What random networks are made of. `serial(*layers)` joins layers one after another; `names` is what reprs need."""

    layers: tuple[Case, ...]
    forms: tuple[Form, ...]
    losses: tuple[Case, ...]
    serial: Callable[..., Layer]
    with_loss: Callable[[Layer, Layer], Layer]
    names: dict[str, Any]


ANY = f(3, 5), f(2, 3, 5), f(2, 5, 3, 2)  # for layers that take any number of axes

LAYERS = (
    *(Case(Dense(n), *ANY) for n in (1, 2, 3, 5, 8)),
    Case(Dense(3, bias=False), *ANY),
    Case(Logits(5), *ANY),
    *(Case(activation(), *ANY) for activation in (
        Tanh, ReLU, Sigmoid, LeakyReLU, ReLU6, SiLU, GELU, GELUTanh, Softplus, ELU, SELU, Mish, Softsign, LogSigmoid,
        HardTanh, Sin)),
    Case(LayerNorm(), *ANY),
    Case(BatchNorm(), *ANY),
    Case(BatchNormInference(), *ANY),
    Case(Dropout(0.3), *ANY),
    Case(Flatten(), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(Positions(9), f(2, 5, 3)),
    Case(LSTM(3), f(2, 5, 3)),
    Case(LSTM(2), f(3, 4, 1)),
    Case(CausalSelfAttention(1), f(2, 5, 3)),
    Case(CausalSelfAttention(2), f(2, 5, 8)),
    Case(Conv(2, (1, 1)), f(2, 5, 3, 2)),
    Case(Conv(3), f(2, 5, 3, 2)),
    Case(Conv(2, (3, 2), stride=(2, 1), padding="VALID"), f(2, 5, 3, 2)),
    Case(Conv(4, (2, 3), stride=2, dilation=(1, 2), groups=2), f(2, 5, 8, 2)),
    Case(Conv(2, (3,), padding=((2, 0),)), f(2, 5, 3)),
    Case(MaxPool(), f(2, 5, 3, 2)),
    Case(MaxPool((3, 3), stride=2, padding="SAME"), f(2, 5, 3, 2)),
    Case(MaxPool((2,), stride=1), f(2, 5, 3)),
    Case(GlobalAveragePool(), f(2, 5, 3), f(2, 5, 3, 2)),
    Case(Embedding(5, 3), i(4, below=5), i(3, 2, below=5)),
    Case(Embedding(3, 8), i(2, 5, below=3)),
)  # fmt: skip

FORMS = (
    Form("Residual", Residual, (True,)),
    Form("Remat", Remat, (False,)),
    Form("Frozen", Frozen, (False,)),
    Form("Parallel, Add", lambda a, b: Serial(FanOut(), Parallel(a, b), Add()), (True, True)),
    Form("Parallel, Concatenate", lambda a, b: Serial(FanOut(), Parallel(a, b), Concatenate()), (True, True)),
    Form("Tied", lambda a, b: Tied(Serial(a, b, a), (((0,), (2,)),)), (True, True)),
    Form("Repeat", lambda a: Repeat(a, 3), (True,), unit=True),
)

LOSSES = (
    Case(MeanSquaredError(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(SoftmaxCrossEntropy(), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
)


def catalogue() -> Catalogue:
    """What `verify` finds under this package's entry point."""
    import jbp
    from jbp.layers import norm

    names = {name: value for name, value in (vars(norm) | vars(jbp)).items() if not name.startswith("_")}
    return Catalogue(LAYERS, FORMS, LOSSES, Serial, lambda net, loss: Serial(Parallel(net, Identity()), loss), names)
