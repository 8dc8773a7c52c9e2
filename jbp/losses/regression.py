"""Losses of numbers against numbers: the mean over all elements."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.fields import Fraction, Hint, NonNegative, Positive
from jbp.losses.loss import Loss, Pointwise
from jbp.losses.targets import alike, pair, tamed
from jbp.numerics import along, wide


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

    >>> MeanSquaredError()((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array(2.125, dtype=float32)
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

    >>> MeanAbsoluteError()((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array(1.25, dtype=float32)
    """

    def _f(self, e):
        return jnp.abs(e)

    def _slope(self, e):
        return jnp.sign(e)

    def _plain(self, p, t):
        return jnp.where(p == t, 0, jnp.where(p > t, p - t, t - p))


@dataclass(frozen=True)
class Huber(_Difference):
    """y = mean f(p − t), f(e) = ½ e² for |e| <= δ, else δ (|e| − ½ δ).      dp = min(max(e, −δ), δ) dy / count

    dt = −dp. Keeps p − t. Shapes: p and t alike, any; y (). (Huber, *Robust Estimation of a Location Parameter*, 1964.)
    Raises LayerError for a δ that is not positive, and unless x is (p, t), of one shape and dtype.

    >>> Huber()((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array(0.812, dtype=float32)
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

    >>> LogCosh()((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array(0.723, dtype=float32)
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

    >>> prediction = jnp.array([[0.5, 0.0]])  # mean and log-variance
    >>> GaussianNegativeLogLikelihood()((), (prediction, jnp.array([[1.5]])))
    Array(1.419, dtype=float32)
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


@dataclass(frozen=True)
class SmoothL1(_Difference):
    """y = mean f(p − t), f(e) = e² / (2 β) for |e| < β, else |e| − β / 2.      dp = min(max(e / β, −1), 1) dy / count

    Huber's loss divided by β, which may be 0: then it is |e|. dt = −dp. Keeps p − t. Shapes: p and t alike, any; y ().
    (Girshick, *Fast R-CNN*, 2015, eq. 3.) Raises LayerError unless x is (p, t), of one shape and dtype.

    >>> SmoothL1(beta=0.5)((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array(1., dtype=float32)
    """

    beta: NonNegative = 1.0

    def _f(self, e):
        size = jnp.abs(e)
        return jnp.where(size < self.beta, 0.5 * size * size / (self.beta or 1), size - 0.5 * self.beta)

    def _slope(self, e):
        return jnp.where(jnp.abs(e) < self.beta, e / (self.beta or 1), jnp.sign(e))

    def _plain(self, p, t):
        e, b = p - t, self.beta
        near = (e < b) & (e > -b)
        far = jnp.where(e == 0, 0, jnp.where(e > 0, e, -e)) - b / 2
        return jnp.where(near, e**2 / (2 * b if b else 1), far)


@dataclass(frozen=True)
class Quantile(_Difference):
    """y = mean max(q (t − p), (q − 1) (t − p)): the mean is least where p is the quantile q of t.

        dp = (1 − q) dy / count where p > t, −q dy / count where p < t, else 0      dt = −dp

    Several quantiles are one for each of the last axis of p, with t spread along it. Keeps p − t. Shapes: p and t
    alike, any; y (). (Koenker & Bassett, *Regression Quantiles*, 1978.) Raises LayerError unless x is (p, t), of one
    shape and dtype, and for another number of quantiles.

    >>> prediction, target = jnp.array([[1.0, 3.0]]), jnp.array([[2.0, 2.0]])
    >>> Quantile((0.1, 0.9))((), (prediction, target))
    Array(0.1, dtype=float32)
    """

    q: Fraction | tuple[Fraction, ...] = 0.5

    def _q(self, e):
        if not isinstance(self.q, tuple):
            return self.q
        if not e.ndim or e.shape[-1] != len(self.q):
            raise LayerError(
                self, f"got x {show(e)}; expected a last axis of {len(self.q)} quantiles. Write one q for all of them."
            )
        return along(jnp.asarray(self.q, e.dtype), e)

    def _f(self, e):
        return jnp.maximum(e, 0) - self._q(e) * e

    def _slope(self, e):
        return jnp.where(e > 0, 1 - self._q(e), jnp.where(e < 0, -self._q(e), 0)).astype(e.dtype)

    def _plain(self, p, t):
        q = along(jnp.asarray(self.q, p.dtype), p) if isinstance(self.q, tuple) else self.q
        return jnp.where(t == p, 0, jnp.where(t > p, q * (t - p), (1 - q) * (p - t)))


@dataclass(frozen=True)
class PoissonNLL(Pointwise):
    """y = mean eᵖ − t p, counts t and the logarithm p of their rate.

        dp = (eᵖ − t) dy / count      dt = −p dy / count

    With log_input=False p is the rate, y = mean p − t log(p + ε). `full` adds Stirling's t log t − t + ½ log 2πt of
    log t! where t > 1, which moves dt alone. Keeps p and t. Shapes: p and t alike, any; y (). eᵖ is out of float32's
    range above p = 88. Raises LayerError unless x is (p, t), of one shape and dtype.

    >>> PoissonNLL()((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array(0.519, dtype=float32)
    """

    log_input: bool = True
    full: bool = False
    eps: Positive = 1e-8

    def _log(self, p):
        """log(p + ε) of a rate, which is not below 0."""
        return jnp.log(jnp.maximum(p, 0) + self.eps)

    def _f(self, p, t):
        value = jnp.exp(p) - t * tamed(p, t) if self.log_input else p - t * self._log(p)
        if self.full:
            above = jnp.where(t > 1, t, 1)
            value += jnp.where(t > 1, above * jnp.log(above) - above + 0.5 * jnp.log(2 * math.pi * above), 0)
        return value

    def _slopes(self, p, t):
        if self.log_input:
            dp, dt = jnp.exp(p) - t, -tamed(p, t)
        else:
            dp, dt = 1 - jnp.where(p > 0, t / (jnp.maximum(p, 0) + self.eps), 0), -self._log(p)
        above = jnp.where(t > 1, t, 1)
        return dp, dt + jnp.where(t > 1, jnp.log(above) + 0.5 / above, 0) if self.full else dt

    def _plain(self, p, t):
        rate = jnp.where(p > 0, p, 0)
        never = (t == 0) & (p == -jnp.inf)
        value = jnp.exp(p) - jnp.where(never, 0, t * jnp.where(never, 0, p))
        value = value if self.log_input else p - t * jnp.log(rate + self.eps)
        some = jnp.where(t > 1, t, 1)
        stirling = some * jnp.log(some) - some + jnp.log(2 * math.pi * some) / 2
        return value + jnp.where(t > 1, stirling, 0) if self.full else value


@dataclass(frozen=True)
class GaussianNLL(Pointwise):
    """y = mean ½ (log v + (m − t)² / v) on x = (m, t, v): mean, target, variance.

        dm = (m − t) / v dy / count      dt = −dm      dv = ½ (1 / v − (m − t)² / v²) dy / count

    v is taken for ε where it is less, and then sent nothing. With log=True v is the logarithm s of the variance, and ds
    = ½ (1 − (m − t)² e⁻ˢ) dy / count. `full` adds ½ log 2π. v may have axes of size one, or the first axes alone: one
    variance for a row. Keeps m, t and v. Shapes: m and t alike, any; y (). (Nix & Weigend, *Estimating the Mean and
    Variance of the Target Probability Distribution*, 1994.) Raises LayerError for other shapes.

    >>> GaussianNLL()((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0]), jnp.array([1.0, 4.0])))
    Array(0.659, dtype=float32)
    """

    full: bool = False
    eps: Positive = 1e-6
    log: bool = False

    inputs = ("mean", "target", "variance")
    smaller = ("variance",)

    def _f(self, m, t, v):
        v = v if self.log else jnp.maximum(v, self.eps)
        square = jnp.square(m - t) * (jnp.exp(-v) if self.log else 1 / v)
        return 0.5 * ((v if self.log else jnp.log(v)) + square + (math.log(2 * math.pi) if self.full else 0))

    def _slopes(self, m, t, v):
        each = jnp.exp(-v) if self.log else 1 / jnp.maximum(v, self.eps)
        dm, bent = (m - t) * each, 1 - jnp.square(m - t) * each
        dv = 0.5 * bent if self.log else jnp.where(v > self.eps, 0.5 * bent * each, 0)
        return dm, -dm, dv

    def _plain(self, m, t, v):
        v = jnp.exp(v) if self.log else jnp.where(v <= self.eps, self.eps, v)
        log_density = -((m - t) ** 2) / (2 * v) - 0.5 * jnp.log(2 * math.pi * v)
        return -log_density - (0 if self.full else 0.5 * math.log(2 * math.pi))


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
    Case(SmoothL1(0.3), (f(3, 5), f(3, 5))),
    Case(SmoothL1(0.0), (f(3, 5), f(3, 5))),
    Case(Quantile((0.1, 0.9)), (f(3, 2), f(3, 2))),
    Case(Quantile(), (f(3, 5), f(3, 5))),
    Case(PoissonNLL(False, full=True), (f(3, 5), f(3, 5))),
    Case(PoissonNLL(), (f(3, 5), f(3, 5))),
    Case(GaussianNLL(), (f(3, 5), f(3, 5), f(3, 5))),
    Case(GaussianNLL(full=True, log=True), (f(3, 5), f(3, 5), f(3)), (f(2, 3), f(2, 3), f(2, 1))),
)
