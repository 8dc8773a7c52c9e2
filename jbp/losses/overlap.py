"""Losses of regions: how much of what is marked and of what should be lies in both."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import LayerError, show
from jbp.fields import NonNegative
from jbp.losses.loss import Loss
from jbp.losses.targets import alike
from jbp.numerics import wide


class _Overlap(Loss):
    """l = 1 − A / B, A = k Σ p t + ε, B = Σ p + Σ t − (2 − k) Σ p t + ε, sums over all axes but the first and last."""

    smooth: NonNegative
    _k: ClassVar[int]

    def _sums(self, p, t):
        """(A, B), with axes of size one in place of those that are summed over; the latter."""
        axes = tuple(range(1, p.ndim - 1))
        both = (p * t).sum(axes, keepdims=True)
        return self._k * both + self.smooth, (p + t).sum(axes, keepdims=True) - (2 - self._k) * both + self.smooth, axes

    def terms(self, params, x, /):
        p, t = alike(self, x)
        if p.ndim < 2:
            raise LayerError(
                self, f"got x {show(p)}; expected axes (batch, ..., classes). Give one class an axis with p[..., None]."
            )
        a, b, axes = self._sums(wide(p), wide(t))
        return ((1 - a / jnp.where(b == 0, 1, b)).squeeze(axes), None), (p, t)

    def terms_backward(self, params, residuals, dl, dn, /):
        p, t = (wide(v) for v in residuals)
        a, b, axes = self._sums(p, t)
        b = jnp.where(b == 0, 1, b)
        each = jnp.expand_dims(dl, axes) / b

        def slope(other):
            return (a / b * (1 - (2 - self._k) * other) - self._k * other) * each

        return (slope(t).astype(residuals[0].dtype), slope(p).astype(residuals[1].dtype)), ()


@dataclass(frozen=True)
class Dice(_Overlap):
    """y = mean 1 − (2 Σ p t + ε) / (Σ p + Σ t + ε), the sums over the places of one class in one example.

        dp = (D − 2 t) / (Σ p + Σ t + ε) dy / count, D being the quotient      dt = (D − 2 p) / (...) dy / count

    Of probabilities p: end the network with a Sigmoid, or a Softmax. ε is `smooth`. Keeps p and t. Shapes: p and t (b,
    ..., classes) alike, y (); a term for each example and class. (Milletari et al., *V-Net*, 2016, §3, with the first
    powers below.) Raises LayerError for other shapes.

    >>> probabilities = jnp.array([[[0.9, 0.8, 0.1]]])
    >>> mask = jnp.array([[[1.0, 1.0, 0.0]]])
    >>> Dice()((), (probabilities, mask))
    Array(0.388, dtype=float32)
    """

    smooth: NonNegative = 1e-5
    _k = 2

    def terms_reference(self, params, x, /):
        p, t = (v.reshape(v.shape[0], -1, v.shape[-1]) for v in x)
        return 1 - (2 * jnp.sum(p * t, 1) + self.smooth) / (jnp.sum(p, 1) + jnp.sum(t, 1) + self.smooth), None


@dataclass(frozen=True)
class Jaccard(_Overlap):
    """y = mean 1 − (I + ε) / (U + ε), I = Σ p t and U = Σ p + Σ t − I over the places of one class in one example.

        dp = (J (1 − t) − t) / (U + ε) dy / count, J being the quotient      dt = (J (1 − p) − p) / (U + ε) dy / count

    Of probabilities p: end the network with a Sigmoid, or a Softmax. ε is `smooth`. Keeps p and t. Shapes: p and t (b,
    ..., classes) alike, y (); a term for each example and class. (Rahman & Wang, *Optimizing Intersection-Over-Union in
    Deep Neural Networks for Image Segmentation*, 2016.) Raises LayerError for other shapes.

    >>> probabilities = jnp.array([[[0.9, 0.8, 0.1]]])
    >>> mask = jnp.array([[[1.0, 1.0, 0.0]]])
    >>> Jaccard()((), (probabilities, mask))
    Array(0.433, dtype=float32)
    """

    smooth: NonNegative = 1e-5
    _k = 1

    def terms_reference(self, params, x, /):
        p, t = (v.reshape(v.shape[0], -1, v.shape[-1]) for v in x)
        both = jnp.sum(p * t, 1)
        return 1 - (both + self.smooth) / (jnp.sum(p + t - p * t, 1) + self.smooth), None


CASES = (
    Case(Dice(), (f(2, 3, 5), f(2, 3, 5)), (f(3, 2), f(3, 2))),
    Case(Jaccard(0.1), (f(2, 3, 5), f(2, 3, 5)), (f(2, 2, 3, 1), f(2, 2, 3, 1))),
)
