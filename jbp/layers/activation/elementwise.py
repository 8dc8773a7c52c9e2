"""Elementwise functions: a table, one line each.

    name, f(x), what is kept ('x' or 'y'), f' in terms of what is kept, and the plain definition where f is not one

dx = f' · dy. Keeps one array: y where f' can be had from it (the next layer holds y anyway), else x. At a kink f' is
the value that the line says; each definition is written so that `jax.grad` of it gives the same one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

from jbp.cases import ANY, Case
from jbp.errors import LayerError, floats, take
from jbp.layer import Layer
from jbp.numerics import along, leading, softplus, wide


class Elementwise(Layer):
    f: ClassVar[Callable[[Any], Any]]
    keeps: ClassVar[str]
    slope: ClassVar[Callable[[Any], Any]]
    definition: ClassVar[Callable[[Any], Any]]

    def forward(self, params, x, /):
        y = type(self).f(floats(self, x, "of any shape", least=0))
        return y, x if self.keeps == "x" else y

    def backward(self, params, kept, dy, /):
        return type(self).slope(kept) * dy, ()

    def reference(self, params, x, /):
        return type(self).definition(x)


def _row(name: str, f, keeps: str, slope, definition=None, doc: str = "") -> type[Elementwise]:
    members = {
        "f": staticmethod(f),
        "keeps": keeps,
        "slope": staticmethod(slope),
        "definition": staticmethod(definition or f),
        "__module__": __name__,
        "__doc__": f"{doc}  Keeps {keeps}.",
    }
    return dataclass(frozen=True)(type(name, (Elementwise,), members))


def _step(x):
    return (x > 0).astype(x.dtype)


def _inside(x, low, high):
    return ((x > low) & (x < high)).astype(x.dtype)


def _sigmoid(x):
    return jax.lax.logistic(x)


def _normal_cdf(x):
    return 0.5 * (1 + erf(x * 0.5**0.5))


def _normal_pdf(x):
    return jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5


def _plain_softplus(x):
    big = x > 20  # above, log(1 + eˣ) overflows before it differs from x + e⁻ˣ
    return jnp.where(big, x + jnp.exp(-jnp.where(big, x, 0)), jnp.log1p(jnp.exp(jnp.where(big, 0, x))))


_A, _B = (2 / math.pi) ** 0.5, 0.044715  # Hendrycks & Gimpel, *Gaussian Error Linear Units*, 2016, §2


def _gelu_tanh_slope(x):
    x = jnp.clip(x, -20, 20)  # where the slope is 0 or 1; beyond, x³ overflows
    t = jnp.tanh(_A * (x + _B * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _A * (1 + 3 * _B * x * x)


def _mish_slope(x):
    t = jnp.tanh(softplus(x))
    return t + x * (1 - t * t) * _sigmoid(x)


_SELU = 1.0507009873554805, 1.6732632423543772  # Klambauer et al., *Self-Normalizing Neural Networks*, 2017, §2

# fmt: off
ReLU = _row("ReLU", lambda x: jnp.maximum(x, 0), "y", _step, lambda x: jnp.where(x > 0, x, 0),
            doc="y = max(x, 0), slope 0 at 0.")
LeakyReLU = _row("LeakyReLU", lambda x: jnp.where(x > 0, x, 0.01 * x), "y",
                 lambda y: jnp.where(y > 0, 1, 0.01).astype(y.dtype),
                 doc="y = x for x > 0, else 0.01 x.")
ReLU6 = _row("ReLU6", lambda x: jnp.clip(x, 0, 6), "y", lambda y: _inside(y, 0, 6),
             lambda x: jnp.where((x > 0) & (x < 6), x, jnp.where(x >= 6, 6, 0).astype(x.dtype)),
             doc="y = min(max(x, 0), 6), slope 0 at 0 and at 6.")
Sigmoid = _row("Sigmoid", _sigmoid, "y", lambda y: y * (1 - y), doc="y = 1 / (1 + e⁻ˣ).")
Tanh = _row("Tanh", jnp.tanh, "y", lambda y: (1 - y) * (1 + y), doc="y = tanh x.")
SiLU = _row("SiLU", lambda x: x * _sigmoid(x), "x", lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
            doc="y = x σ(x).")
GELU = _row("GELU", lambda x: x * _normal_cdf(x), "x", lambda x: _normal_cdf(x) + x * _normal_pdf(x),
            doc="y = x Φ(x), Φ the normal distribution.")
GELUTanh = _row("GELUTanh", lambda x: 0.5 * x * (1 + jnp.tanh(_A * (x + _B * x**3))), "x", _gelu_tanh_slope,
                doc="y = ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).")
Softplus = _row("Softplus", softplus, "x", _sigmoid, _plain_softplus, doc="y = log(1 + eˣ).")
ELU = _row("ELU", lambda x: jnp.where(x > 0, x, jnp.expm1(x)), "y", lambda y: jnp.where(y > 0, 1, y + 1),
           lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0))), doc="y = x for x > 0, else eˣ − 1.")
SELU = _row("SELU", lambda x: _SELU[0] * jnp.where(x > 0, x, _SELU[1] * jnp.expm1(x)), "y",
            lambda y: jnp.where(y > 0, _SELU[0], y + _SELU[0] * _SELU[1]).astype(y.dtype),
            lambda x: _SELU[0] * jnp.where(x > 0, x, _SELU[1] * jnp.expm1(jnp.where(x > 0, 0, x))),
            doc="y = λ x for x > 0, else λ α (eˣ − 1).")
Mish = _row("Mish", lambda x: x * jnp.tanh(softplus(x)), "x", _mish_slope, lambda x: x * jnp.tanh(_plain_softplus(x)),
            doc="y = x tanh(log(1 + eˣ)).")
Softsign = _row("Softsign", lambda x: x / (1 + jnp.abs(x)), "x", lambda x: 1 / (1 + jnp.abs(x)) ** 2,
                lambda x: jnp.where(x >= 0, x / (1 + jnp.where(x >= 0, x, 0)), x / (1 - jnp.where(x >= 0, 0, x))),
                doc="y = x / (1 + |x|).")
LogSigmoid = _row("LogSigmoid", lambda x: -softplus(-x), "x", lambda x: _sigmoid(-x), lambda x: -_plain_softplus(-x),
                  doc="y = log σ(x).")
HardSigmoid = _row("HardSigmoid", lambda x: jnp.clip(x / 6 + 0.5, 0, 1), "x", lambda x: _inside(x, -3, 3) / 6,
                   lambda x: jnp.where(jnp.abs(x) < 3, (x + 3) / 6, (x > 0).astype(x.dtype)),
                   doc="y = min(max(x / 6 + ½, 0), 1), slope 0 at ±3.")
HardSwish = _row("HardSwish", lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1), "x",
                 lambda x: jnp.where(jnp.abs(x) < 3, x / 3 + 0.5, (x > 0).astype(x.dtype)),
                 lambda x: jnp.where(jnp.abs(x) < 3, x * (x + 3) / 6, jnp.where(x > 0, x, 0)),
                 doc="y = x min(max(x / 6 + ½, 0), 1), slope 0 at −3 and 1 at 3 (Howard et al., *MobileNetV3*, 2019).")
ReLU2 = _row("ReLU2", lambda x: jnp.square(jnp.maximum(x, 0)), "x", lambda x: 2 * jnp.maximum(x, 0),
             lambda x: jnp.where(x > 0, x * x, 0), doc="y = max(x, 0)² (So et al., *Primer*, 2021).")
HardTanh = _row("HardTanh", lambda x: jnp.clip(x, -1, 1), "y", lambda y: _inside(y, -1, 1),
                lambda x: jnp.where(jnp.abs(x) < 1, x, jnp.where(x > 0, 1, -1).astype(x.dtype)),
                doc="y = min(max(x, −1), 1), slope 0 at ±1.")
Sin = _row("Sin", jnp.sin, "x", jnp.cos, doc="y = sin x (Sitzmann et al., *Implicit Neural Representations*, 2020).")
# fmt: on


@dataclass(frozen=True)
class CELU(Layer):
    """y = x for x > 0, else α (e^{x/α} − 1).      dx = dy for y > 0, else (1 + y/α) dy

    Keeps y. Shapes: x and y alike, any. (Barron, *Continuously Differentiable Exponential Linear Units*, 2017.)
    Raises LayerError for an α that is not positive or an x that is not floating.
    """

    alpha: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.alpha > 0:
            raise LayerError(self, f"got alpha={self.alpha}; expected more than 0. For α towards 0 use ReLU().")

    def forward(self, params, x, /):
        floats(self, x, "of any shape", least=0)
        y = jnp.where(x > 0, x, self.alpha * jnp.expm1(jnp.minimum(x, 0) / self.alpha))
        return y, y

    def backward(self, params, y, dy, /):
        return jnp.where(y > 0, dy, (1 + y / self.alpha) * dy), ()

    def reference(self, params, x, /):
        return jnp.where(x > 0, x, self.alpha * (jnp.exp(jnp.where(x > 0, 0, x) / self.alpha) - 1))


@dataclass(frozen=True)
class PReLU(Layer):
    """y = x for x > 0, else a x.      dx = dy for x > 0, else a dy      da = Σ dy x over the places where x <= 0

    Keeps x. Shapes: x and y (..., f), a (f,). a starts at ¼. (He et al., *Delving Deep into Rectifiers*, 2015, §2.1.)
    Raises LayerError for a scalar or an x that is not floating.
    """

    def init(self, key, x, /):
        return {"a": jnp.full(floats(self, x, "(..., features)").shape[-1], 0.25, x.dtype)}

    def forward(self, params, x, /):
        (a,) = take(self, params, floats(self, x, "(..., features)").dtype, a=x.shape[-1:])
        return jnp.where(x > 0, x, along(a, x) * x), x

    def backward(self, params, x, dy, /):
        return jnp.where(x > 0, dy, along(params["a"], x) * dy), dy

    def gradient(self, x, dy, /):
        return {"a": jnp.where(x > 0, 0, wide(dy) * wide(x)).sum(leading(dy)).astype(dy.dtype)}

    def reference(self, params, x, /):
        return jnp.maximum(x, 0) + along(params["a"], x) * jnp.minimum(x, 0)


CASES = (
    *(
        Case(activation(), *ANY)
        for activation in (
            Tanh,
            ReLU,
            Sigmoid,
            LeakyReLU,
            ReLU6,
            SiLU,
            GELU,
            GELUTanh,
            Softplus,
            ELU,
            SELU,
            Mish,
            Softsign,
            LogSigmoid,
            HardTanh,
            Sin,
            HardSigmoid,
            HardSwish,
            ReLU2,
        )
    ),
    Case(CELU(), *ANY),
    Case(CELU(0.3), *ANY),
    Case(PReLU(), *ANY),
)
