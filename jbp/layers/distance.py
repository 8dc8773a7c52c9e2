"""How far two vectors are apart, and how much they point one way."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, parts, show
from jbp.fields import Hint, NonNegative, Positive
from jbp.layer import Layer
from jbp.numerics import peak, taken, wide

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class _OfTwo(Layer):
    def _two(self, x):
        a, b = parts(self, x, "a", "b")
        floats(self, a, "(..., features)")
        if a.shape != b.shape or a.dtype != b.dtype:
            raise LayerError(
                self, f"got a {show(a)} and b {show(b)}; expected one shape and one dtype. Spread the smaller one out."
            )
        return a, b


@dataclass(frozen=True)
class PairwiseDistance(_OfTwo):
    """y = (Σ |a − b + ε|ᵖ)^(1/p) over the last axis.      da = sign(e) (|e| / y)ᵖ⁻¹ dy, e = a − b + ε      db = −da

    Where y = 0, da = 0. p = 2 is Euclid's, p=None the largest |e|, whose ties share the cotangent. Keeps e. Shapes: a
    and b (..., features) alike, y (...), or (..., 1) with `keepdim`. Raises LayerError for other shapes.

    >>> PairwiseDistance()((), (jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]])))
    Array([5.], dtype=float32)
    """

    p: Annotated[Positive, Hint("For the largest difference write p=None.")] | None = 2.0
    eps: NonNegative = 1e-6
    keepdim: bool = False

    def forward(self, params, x, /):
        a, b = self._two(x)
        e = wide(a) - wide(b) + self.eps
        y = self._norm(e)[0]
        return (y if self.keepdim else y[..., 0]).astype(a.dtype), e.astype(a.dtype)

    def _norm(self, e):
        """(y, |e| / its largest, y / the largest): so scaled no power is out of range. Ties, and ∞, are exactly 1."""
        size = jnp.abs(e)
        top = peak(size, initial=0)
        if self.p is None and size.shape[-1]:
            return taken(size, size.argmax(-1), -1)[..., None], (size == top).astype(size.dtype), 1
        size = jnp.where(size == top, 1, size / jnp.where(top == 0, 1, top))
        total = 1 if self.p is None else (size**self.p).sum(-1, keepdims=True) ** (1 / self.p)
        return top * total, size, total

    def backward(self, params, e, dy, /):
        dy = wide(dy if self.keepdim else dy[..., None])
        _, size, total = self._norm(wide(e))
        if self.p is None:
            ties = (size == 1).astype(size.dtype)
            slope = ties / jnp.maximum(ties.sum(-1, keepdims=True), 1)
        else:
            share = size / jnp.maximum(total, 1)
            slope = jnp.where(share == 0, 0, jnp.where(share == 0, 1, share) ** (self.p - 1))
        da = (jnp.sign(wide(e)) * slope * dy).astype(e.dtype)
        return (da, -da), ()

    def reference(self, params, x, /):
        e = x[0] - x[1] + self.eps
        size = jnp.where(e == 0, 0, jnp.where(e > 0, e, -e))
        if self.p is None:
            y = jnp.max(size, -1, keepdims=True, initial=0)
        else:
            total = jnp.sum(jnp.where(size == 0, 0, jnp.where(size == 0, 1, size) ** self.p), -1, keepdims=True)
            y = jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / self.p))
        return y if self.keepdim else y[..., 0]


@dataclass(frozen=True)
class CosineSimilarity(_OfTwo):
    """y = a · b / (|a| |b|) over the last axis.

        da = (b / |b| − y a / |a|) / |a| dy      db = (a / |a| − y b / |b|) / |b| dy

    A length below ε is taken for ε, and then bends nothing. Keeps a and b. Shapes: a and b (..., features) alike, y
    (...). Raises LayerError for other shapes.

    >>> CosineSimilarity()((), (jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])))
    Array([0.707], dtype=float32)
    """

    eps: Positive = 1e-8

    def _unit(self, v):
        """(v over its length or ε, that length or ε, whether it is more than ε)."""
        top = peak(jnp.abs(v), initial=0)
        v = v / jnp.where(top == 0, 1, top)
        length = jnp.sqrt(jnp.square(v).sum(-1, keepdims=True)) * top
        long = ~(length <= self.eps)
        length = jnp.where(long, length, self.eps)
        return v * (top / length), length, long

    def forward(self, params, x, /):
        a, b = self._two(x)
        return (self._unit(wide(a))[0] * self._unit(wide(b))[0]).sum(-1).astype(a.dtype), (a, b)

    def backward(self, params, residuals, dy, /):
        (u, a, a_long), (v, b, b_long) = (self._unit(wide(r)) for r in residuals)
        y = (u * v).sum(-1, keepdims=True)
        da = (v - jnp.where(a_long, y * u, 0)) / a * wide(dy)[..., None]
        db = (u - jnp.where(b_long, y * v, 0)) / b * wide(dy)[..., None]
        return (da.astype(residuals[0].dtype), db.astype(residuals[1].dtype)), ()

    def reference(self, params, x, /):
        def length(v):
            square = jnp.sum(v * v, -1)
            short = square <= self.eps**2
            return jnp.where(short, self.eps, jnp.sqrt(jnp.where(short, 1, square)))

        return jnp.sum(x[0] * x[1], -1) / (length(x[0]) * length(x[1]))


CASES = (
    Case(PairwiseDistance(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(PairwiseDistance(1.0, 0.0, True), (f(3, 5), f(3, 5))),
    Case(PairwiseDistance(3.0), (f(5), f(5))),
    Case(PairwiseDistance(None), (f(3, 5), f(3, 5))),
    Case(CosineSimilarity(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
)
