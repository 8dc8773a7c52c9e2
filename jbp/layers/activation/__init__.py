"""Elementwise functions, gates, softmax."""

from jbp.layers.activation import elementwise, gated, softmax
from jbp.layers.activation.elementwise import (
    CELU,
    ELU,
    GELU,
    SELU,
    GELUTanh,
    HardSigmoid,
    HardSwish,
    HardTanh,
    LeakyReLU,
    LogSigmoid,
    Mish,
    PReLU,
    ReLU,
    ReLU2,
    ReLU6,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Softsign,
    Tanh,
)
from jbp.layers.activation.gated import GEGLU, GLU, Maxout, ReGLU, SwiGLU
from jbp.layers.activation.softmax import LogSoftmax, Softmax

__all__ = [
    "CELU",
    "ELU",
    "GEGLU",
    "GELU",
    "GLU",
    "SELU",
    "GELUTanh",
    "HardSigmoid",
    "HardSwish",
    "HardTanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Maxout",
    "Mish",
    "PReLU",
    "ReGLU",
    "ReLU",
    "ReLU2",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Sin",
    "Softmax",
    "Softplus",
    "Softsign",
    "SwiGLU",
    "Tanh",
]

CASES = (
    *elementwise.CASES,
    *gated.CASES,
    *softmax.CASES,
)
