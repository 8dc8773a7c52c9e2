"""Elementwise functions: what they have in common, and those that are smooth.

A row is a dataclass with f(x), what is kept ("x" or "y"), df, the slope f' in terms of what is kept, and `definition`,
the plain text of f where f is not plain. dx = f' dy. What is kept is y where f' can be had from it (the next layer
holds y anyway), else x. f and df are given float32 at least. They have their limits at ±∞, where there are limits: a
factor beside one that falls exponentially is cut off (`_bounded`) where their product is 0 in every dtype.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import erf, erfc

from jbp.cases import ANY, Case
from jbp.errors import floats
from jbp.fields import NonNegative, Positive
from jbp.layer import Layer
from jbp.numerics import softplus, wide


class Elementwise(Layer):
    cuts = "between", "tokens"
    keeps: ClassVar[Literal["x", "y"]] = "x"

    def f(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no f")

    def df(self, kept: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no df")

    def definition(self, x: Any) -> Any:
        return self.f(x)

    def forward(self, params, x, /):
        y = self.f(wide(floats(self, x, "of any shape", least=0))).astype(x.dtype)
        return y, x if self.keeps == "x" else y

    def backward(self, params, kept, dy, /):
        return (self.df(wide(kept)) * wide(dy)).astype(dy.dtype), ()

    def reference(self, params, x, /):
        return self.definition(x)


def _bounded(x):
    """x where it counts beside e^−|x|, which is 0 at the bound in every dtype."""
    return jnp.clip(x, -750, 750)


def _normal_cdf(x):
    if (
        x.dtype == jnp.float64
    ):  # exact far down; below float64 what erf loses there is 1e-8 of nothing, for half the work
        return 0.5 * erfc(-x * 0.5**0.5)
    return 0.5 * (1 + erf(x * 0.5**0.5))


def _normal_pdf(x):
    return jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5


def _plain_softplus(x):
    big = x > 20  # above, log(1 + eˣ) overflows before it differs from x + e⁻ˣ
    return jnp.where(big, x + jnp.exp(-jnp.where(big, x, 0)), jnp.log1p(jnp.exp(jnp.where(big, 0, x))))


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """y = 1 / (1 + e⁻ˣ).      dx = y (1 − y) dy.      Keeps y.

    >>> Sigmoid()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([0.119, 0.378, 0.5  , 0.731], dtype=float32)
    """

    keeps = "y"

    def f(self, x):
        return jax.lax.logistic(x)

    def df(self, kept):
        return kept * (1 - kept)


@dataclass(frozen=True)
class Tanh(Elementwise):
    """y = tanh x.      dx = (1 − y²) dy.      Keeps y.

    >>> Tanh()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.964, -0.462,  0.   ,  0.762], dtype=float32)
    """

    keeps = "y"

    def f(self, x):
        return jnp.tanh(x)

    def df(self, kept):
        return (1 - kept) * (1 + kept)


@dataclass(frozen=True)
class SiLU(Elementwise):
    """y = x σ(x).      dx = σ(x) (1 + x σ(−x)) dy.      Keeps x.  Swish is another name of it.

    In float64 with h = e^{−|x|/2}: σ is h² / (1 + h²) below 0, and x h h is in range where h² no longer is.

    >>> SiLU()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.238, -0.189,  0.   ,  0.731], dtype=float32)
    """

    def f(self, x):
        if x.dtype != jnp.float64:  # for half the work
            return jnp.maximum(x, -750) * jax.lax.logistic(x)
        h = jnp.exp(-0.5 * jnp.abs(x))
        return jnp.where(x < 0, jnp.maximum(x, -750) * h * h, x) / (1 + h * h)

    def df(self, kept):
        if kept.dtype != jnp.float64:
            s = jax.lax.logistic(kept)
            return s + jnp.minimum(jnp.maximum(kept, -750) * s, 750) * (1 - s)
        x = _bounded(kept)
        h = jnp.exp(-0.5 * jnp.abs(x))
        r = 1 / (1 + h * h)  # σ(x) and σ(−x) are r and h² r, or the other way round
        return jnp.where(x < 0, (1 + x * r) * h * h, 1 + x * h * h * r) * r

    def definition(self, x):
        return x * jax.lax.logistic(x)


@dataclass(frozen=True)
class GELU(Elementwise):
    """y = x Φ(x), Φ the normal distribution.      dx = (Φ(x) + x Φ'(x)) dy.      Keeps x.

    With approximate="tanh" it is GELUTanh, as in PyTorch. Flax's and Keras's default is approximate=True, that one.

    >>> GELU()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.046, -0.154,  0.   ,  0.841], dtype=float32)
    """

    approximate: Literal["none", "tanh"] = "none"

    def f(self, x):
        return _gelu_tanh(x) if self.approximate == "tanh" else jnp.maximum(x, -40) * _normal_cdf(x)

    def df(self, kept):
        if self.approximate == "tanh":
            return _gelu_tanh_slope(kept)
        x = jnp.clip(kept, -40, 40)  # Φ' is 0 beyond
        return _normal_cdf(kept) + x * _normal_pdf(x)

    def definition(self, x):
        if self.approximate == "tanh":
            return 0.5 * x * (1 + jnp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))
        return x * 0.5 * (1 + erf(x / 2**0.5))


@dataclass(frozen=True)
class GELUTanh(Elementwise):
    """y = ½ x (1 + t), t = tanh(√(2/π) (x + 0.044715 x³)).      dx = ½ (1 + t + x t') dy.      Keeps x.

    >>> GELUTanh()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.045, -0.154,  0.   ,  0.841], dtype=float32)
    """

    def f(self, x):
        return _gelu_tanh(x)

    def df(self, kept):
        return _gelu_tanh_slope(kept)

    def definition(self, x):
        return 0.5 * x * (1 + jnp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


_A, _B = (2 / math.pi) ** 0.5, 0.044715  # Hendrycks & Gimpel, *Gaussian Error Linear Units*, 2016, §2


def _gelu_tanh(x):
    low = jnp.maximum(x, -20)  # below, 1 + tanh is 0
    return 0.5 * low * (1 + jnp.tanh(_A * (x + _B * x**3)))


def _gelu_tanh_slope(x):
    x = jnp.clip(x, -20, 20)  # where the slope is 0 or 1; beyond, x³ overflows
    t = jnp.tanh(_A * (x + _B * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _A * (1 + 3 * _B * x * x)


@dataclass(frozen=True)
class Mish(Elementwise):
    """y = x t, t = tanh(log(1 + eˣ)).      dx = (t + x (1 − t²) σ(x)) dy.      Keeps x.

    With e = eˣ it is t = e (e + 2) / (e (e + 2) + 2), of powers of u = e^{−|x|} on either side of 0. (Misra, *Mish*,
    2019.)

    >>> Mish()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.253, -0.221,  0.   ,  0.865], dtype=float32)
    """

    def f(self, x):
        h = jnp.exp(-0.5 * jnp.abs(x))
        u = h * h
        return jnp.where(x < 0, jnp.maximum(x, -750) * h * h * (u + 2), x * (1 + 2 * u)) * (1 / _mish_below(x, u))

    def df(self, kept):
        h = jnp.exp(-0.5 * jnp.abs(kept))
        u, x = h * h, _bounded(kept)
        r = 1 / _mish_below(x, u)
        z = 4 * x * (1 + u) * r
        return jnp.where(x < 0, (u + 2 + z) * h * h, 1 + 2 * u + z * u * u) * r

    def definition(self, x):
        return x * jnp.tanh(_plain_softplus(x))


def _mish_below(x, u):
    """e (e + 2) + 2, or that over e²."""
    return jnp.where(x < 0, u * (u + 2) + 2, 1 + 2 * u * (1 + u))


@dataclass(frozen=True)
class Softplus(Elementwise):
    """y = log(1 + e^{βx}) / β.      dx = σ(βx) dy.      Keeps x.

    With `threshold`, y = x where βx is above it: PyTorch's way, whose threshold is 20. None is exact.

    >>> Softplus()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([0.127, 0.474, 0.693, 1.313], dtype=float32)
    """

    beta: Positive = 1.0
    threshold: float | None = None

    def f(self, x):
        y = softplus(self.beta * x) / self.beta
        return y if self.threshold is None else jnp.where(self.beta * x > self.threshold, x, y)

    def df(self, kept):
        slope = jax.lax.logistic(self.beta * kept)
        return slope if self.threshold is None else jnp.where(self.beta * kept > self.threshold, 1, slope)

    def definition(self, x):
        z = self.beta * x
        y = _plain_softplus(z) / self.beta
        return y if self.threshold is None else jnp.where(z > self.threshold, x, y)


@dataclass(frozen=True)
class LogSigmoid(Elementwise):
    """y = log σ(x).      dx = σ(−x) dy.      Keeps x.

    >>> LogSigmoid()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-2.127, -0.974, -0.693, -0.313], dtype=float32)
    """

    def f(self, x):
        return -softplus(-x)

    def df(self, kept):
        return jax.lax.logistic(-kept)

    def definition(self, x):
        return -_plain_softplus(-x)


@dataclass(frozen=True)
class Softsign(Elementwise):
    """y = x / (1 + |x|).      dx = dy / (1 + |x|)².      Keeps x.

    >>> Softsign()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.667, -0.333,  0.   ,  0.5  ], dtype=float32)
    """

    def f(self, x):
        x = jnp.clip(x, jnp.finfo(x.dtype).min, jnp.finfo(x.dtype).max)
        return x / (1 + jnp.abs(x))

    def df(self, kept):
        return 1 / jnp.square(1 + jnp.abs(kept))

    def definition(self, x):
        up, down = jnp.where(x >= 0, x, 0), jnp.where(x >= 0, 0, x)
        return jnp.where(x >= 0, up / (1 + up), down / (1 - down))


@dataclass(frozen=True)
class TanhShrink(Elementwise):
    """y = x − tanh x.      dx = tanh² x dy.      Keeps x.

    >>> TanhShrink()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-1.036, -0.038,  0.   ,  0.238], dtype=float32)
    """

    def f(self, x):
        return x - jnp.tanh(x)

    def df(self, kept):
        return jnp.square(jnp.tanh(kept))


@dataclass(frozen=True)
class Sin(Elementwise):
    """y = sin x.      dx = cos x dy.      Keeps x.  (Sitzmann et al., *Implicit Neural Representations*, 2020.)

    >>> Sin()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.909, -0.479,  0.   ,  0.841], dtype=float32)
    """

    def f(self, x):
        return jnp.sin(x)

    def df(self, kept):
        return jnp.cos(kept)


@dataclass(frozen=True)
class ELU(Elementwise):
    """y = x for x > 0, else α (eˣ − 1).      dx = dy for x > 0, else (y + α) dy: α dy at 0.      Keeps y.

    >>> ELU()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.865, -0.393,  0.   ,  1.   ], dtype=float32)
    """

    alpha: NonNegative = 1.0
    keeps = "y"

    def f(self, x):
        return jnp.where(x > 0, x, self.alpha * jnp.expm1(x))

    def df(self, kept):
        return jnp.where(kept > 0, 1, kept + self.alpha)

    def definition(self, x):
        return jnp.where(x > 0, x, self.alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al., *Self-Normalizing Networks*, 2017, §2


@dataclass(frozen=True)
class SELU(Elementwise):
    """y = λ x for x > 0, else λ α (eˣ − 1).      dx = λ dy for x > 0, else (y + λ α) dy.      Keeps y.

    λ and α make mean 0 and variance 1 a fixed point. AlphaDropout is the dropout that keeps it. (Klambauer et al.,
    *Self-Normalizing Neural Networks*, 2017, §2.)

    >>> SELU()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-1.52 , -0.692,  0.   ,  1.051], dtype=float32)
    """

    keeps = "y"

    def f(self, x):
        return LAMBDA * jnp.where(x > 0, x, ALPHA * jnp.expm1(x))

    def df(self, kept):
        return jnp.where(kept > 0, LAMBDA, kept + LAMBDA * ALPHA)

    def definition(self, x):
        return LAMBDA * jnp.where(x > 0, x, ALPHA * jnp.expm1(jnp.where(x > 0, 0, x)))


@dataclass(frozen=True)
class CELU(Elementwise):
    """y = x for x > 0, else α (e^{x/α} − 1).      dx = dy for x > 0, else (1 + y/α) dy.      Keeps y.

    (Barron, *Continuously Differentiable Exponential Linear Units*, 2017.)

    >>> CELU()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.865, -0.393,  0.   ,  1.   ], dtype=float32)
    """

    alpha: Positive = 1.0
    keeps = "y"

    def f(self, x):
        return jnp.where(x > 0, x, self.alpha * jnp.expm1(jnp.minimum(x, 0) / self.alpha))

    def df(self, kept):
        return jnp.where(kept > 0, 1, 1 + kept / self.alpha)

    def definition(self, x):
        return jnp.where(x > 0, x, self.alpha * (jnp.exp(jnp.where(x > 0, 0, x) / self.alpha) - 1))


CASES = (
    *(Case(row, *ANY) for row in (Tanh(), Sigmoid(), SiLU(), GELU(), GELUTanh(), Softplus(), ELU(), SELU(), Mish())),
    *(Case(row, *ANY) for row in (Softsign(), LogSigmoid(), Sin(), TanhShrink(), CELU())),
    Case(GELU("tanh"), *ANY),
    Case(Softplus(2.0, 1.0), *ANY),
    Case(ELU(0.3), *ANY),
    Case(CELU(0.3), *ANY),
)
