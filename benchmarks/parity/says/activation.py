"""Activations, softmax and gates."""

from typing import Any

import jax
from torch import nn

import jbp
from benchmarks.parity.comparison import Unsaid, call
from jbp import layers


def elementwise(make: Any) -> Any:
    """A layer without parameters that any shape suits."""
    return lambda m, x: call(make(m), (), x)


def softmax(name: str) -> Any:
    def say(m, x):
        axis = m.dim if hasattr(m, "dim") else -3
        if not x.dim():  # PyTorch takes a number as the only one of its axis
            return call(getattr(layers, name)(), (), x[None])[0]
        return call(getattr(layers, name)(axis=axis), (), x)

    return say


def prelu(m, x):
    if m.num_parameters == 1:
        return call(layers.PReLU(shared=True), {"a": m.weight[0]}, x)
    return call(layers.PReLU(), {"a": m.weight}, x.movedim(1, -1)).movedim(-1, 1)


def gelu(m, x):
    return call(layers.GELU(m.approximate), (), x)


def rrelu(m, x):
    if m.training:
        raise Unsaid("random slopes")
    key = jbp.Buffer(jax.random.key(0))  # which evaluation does not use
    return call(layers.RReLU(m.lower, m.upper).evaluation(), {"key": key}, x)


def glu(m, x):
    return call(layers.GLU(axis=m.dim), (), x)


SAYS = {
    **{getattr(nn, name): elementwise(lambda m, name=name: getattr(layers, name)()) for name in (
        "ReLU", "ReLU6", "Sigmoid", "Tanh", "SiLU", "SELU", "Mish", "Softsign", "LogSigmoid",
    )},
    nn.Hardsigmoid: elementwise(lambda m: layers.HardSigmoid()),
    nn.Hardswish: elementwise(lambda m: layers.HardSwish()),
    nn.Tanhshrink: elementwise(lambda m: layers.TanhShrink()),
    nn.ELU: elementwise(lambda m: layers.ELU(m.alpha)),
    nn.CELU: elementwise(lambda m: layers.CELU(m.alpha)),
    nn.LeakyReLU: elementwise(lambda m: layers.LeakyReLU(m.negative_slope)),
    nn.Hardtanh: elementwise(lambda m: layers.HardTanh(m.min_val, m.max_val)),
    nn.Hardshrink: elementwise(lambda m: layers.HardShrink(m.lambd)),
    nn.Softshrink: elementwise(lambda m: layers.SoftShrink(m.lambd)),
    nn.Threshold: elementwise(lambda m: layers.Threshold(m.threshold, m.value)),
    nn.Softplus: elementwise(lambda m: layers.Softplus(m.beta, m.threshold)),
    nn.GELU: gelu,
    nn.GLU: glu,
    nn.PReLU: prelu,
    nn.RReLU: rrelu,
    nn.Softmax: softmax("Softmax"),
    nn.Softmax2d: softmax("Softmax"),
    nn.LogSoftmax: softmax("LogSoftmax"),
    nn.Softmin: softmax("Softmin"),
}  # fmt: skip
