"""Losses of numbers against numbers: the mean over all elements."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.fields import Hint, Positive
from jbp.losses.loss import Loss
from jbp.losses.targets import alike, pair
from jbp.numerics import wide


class _Difference(Loss):
    """y = mean f(e), e = p − t.      dp = f'(e) dy / count      dt = −dp.  Keeps e. `_f` and `_slope` are f and f'."""

    _f: Callable[[Any], Any]
    _slope: Callable[[Any], Any]
    _plain: Callable[[Any, Any], Any]

    def terms(self, params, x, /):
        p, t = alike(self, x)
        return (self._f(wide(p) - wide(t)), None), p - t

    def terms_backward(self, params, error, dl, dn, /):
        dp = (self._slope(wide(error)) * dl).astype(error.dtype)
        return (dp, -dp), ()

    def terms_reference(self, params, x, /):
        return self._plain(*x), None


@dataclass(frozen=True)
class MeanSquaredError(_Difference):
    """y = mean (p − t)² over all elements.      dp = 2 (p − t) dy / count      dt = −dp

    Keeps p − t. Shapes: p and t alike, any; y (). Raises LayerError unless x is (p, t), of one shape and dtype.
    """

    def _f(self, e):
        return jnp.square(e)

    def _slope(self, e):
        return 2 * e

    def _plain(self, p, t):
        return (p - t) ** 2


@dataclass(frozen=True)
class MeanAbsoluteError(_Difference):
    """y = mean |p − t| over all elements.      dp = sign(p − t) dy / count, 0 where p = t      dt = −dp

    Keeps p − t. Shapes: p and t alike, any; y (). Raises LayerError unless x is (p, t), of one shape and dtype.
    """

    def _f(self, e):
        return jnp.abs(e)

    def _slope(self, e):
        return jnp.sign(e)

    def _plain(self, p, t):
        return jnp.where(p > t, p - t, jnp.where(p < t, t - p, 0))


@dataclass(frozen=True)
class Huber(_Difference):
    """y = mean f(p − t), f(e) = ½ e² for |e| <= δ, else δ (|e| − ½ δ).      dp = min(max(e, −δ), δ) dy / count

    dt = −dp. Keeps p − t. Shapes: p and t alike, any; y (). (Huber, *Robust Estimation of a Location Parameter*, 1964.)
    Raises LayerError for a δ that is not positive, and unless x is (p, t), of one shape and dtype.
    """

    delta: Annotated[Positive, Hint("For δ = 0 write MeanAbsoluteError().")] = 1.0

    def _f(self, e):
        size = jnp.abs(e)
        near = jnp.minimum(size, self.delta)
        return near * (size - 0.5 * near)

    def _slope(self, e):
        return jnp.clip(e, -self.delta, self.delta)

    def _plain(self, p, t):
        e, d = p - t, self.delta
        far = jnp.where(e > 0, d * (e - 0.5 * d), d * (-e - 0.5 * d))
        return jnp.where((e <= d) & (e >= -d), 0.5 * e**2, far)


@dataclass(frozen=True)
class LogCosh(_Difference):
    """y = mean log cosh(p − t) over all elements.      dp = tanh(p − t) dy / count      dt = −dp

    Keeps p − t. Shapes: p and t alike, any; y (). Raises LayerError unless x is (p, t), of one shape and dtype.
    """

    def _f(self, e):
        size = jnp.abs(e)
        return size + jnp.log1p(jnp.exp(-2 * size)) - math.log(2)

    def _slope(self, e):
        return jnp.tanh(e)

    def _plain(self, p, t):
        return jnp.log(jnp.cosh(p - t))


@dataclass(frozen=True)
class GaussianNegativeLogLikelihood(Loss):
    """y = mean ½ (log 2π + s + (t − m)² e⁻ˢ) where p = (m|s): mean and log variance, the halves of p's last axis.

        dm = (m − t) e⁻ˢ dy / count      ds = ½ (1 − (t − m)² e⁻ˢ) dy / count      dt = −dm

    Keeps p and t. Shapes: p (..., 2 n), t (..., n), y (). e⁻ˢ is out of range below s = −88 in float32. (Nix & Weigend,
    *Estimating the Mean and Variance of the Target Probability Distribution*, 1994.) Raises LayerError otherwise.
    """

    def terms(self, params, x, /):
        p, t = pair(self, x, "target")
        floats(self, p, "(..., 2 n)")
        if p.shape != (*t.shape[:-1], 2 * t.shape[-1] if t.shape else 0) or p.dtype != t.dtype:
            raise LayerError(
                self,
                f"got prediction {show(p)} and target {show(t)}; expected (..., 2 n) and (..., n) in one dtype. "
                "End the network with a Dense of twice the target's last size.",
            )
        m, s = jnp.split(wide(p), 2, -1)
        return (0.5 * (math.log(2 * math.pi) + s + jnp.square(wide(t) - m) * jnp.exp(-s)), None), (p, t)

    def terms_backward(self, params, residuals, dl, dn, /):
        p, t = residuals
        m, s = jnp.split(wide(p), 2, -1)
        error = m - wide(t)
        dm = jnp.where(dl == 0, 0, error * jnp.exp(-s) * dl)
        ds = jnp.where(dl == 0, 0, 0.5 * (1 - jnp.square(error) * jnp.exp(-s)) * dl)
        return (jnp.concatenate([dm, ds], -1).astype(p.dtype), -dm.astype(t.dtype)), ()

    def terms_reference(self, params, x, /):
        p, t = x
        m, variance = p[..., : t.shape[-1]], jnp.exp(p[..., t.shape[-1] :])
        density = jnp.exp(-((t - m) ** 2) / (2 * variance)) / jnp.sqrt(2 * math.pi * variance)
        return -jnp.log(density), None


CASES = (
    Case(MeanSquaredError(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5)), (f(1, 1), f(1, 1))),
    *(
        Case(loss(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5)))
        for loss in (
            MeanAbsoluteError,
            Huber,
            LogCosh,
        )
    ),
    Case(Huber(0.3), (f(3, 5), f(3, 5))),
    Case(GaussianNegativeLogLikelihood(), (f(2), f(1)), (f(3, 8), f(3, 4)), (f(2, 3, 2), f(2, 3, 1))),
)
