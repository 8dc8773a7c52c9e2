"""One input for several layers, several inputs as one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.errors import LayerError, show
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import Static


@dataclass(frozen=True)
class Identity(Layer):
    """y = x.      dx = dy.  Keeps nothing. x is any pytree: a branch of a Parallel that lets labels through, say."""

    def forward(self, params, x, /):
        return x, ()

    def backward(self, params, residuals, dy, /):
        return dy, ()


@dataclass(frozen=True)
class FanOut(Layer):
    """y = (x, ..., x), `times` of them.      dx = Σ dyᵢ.  Keeps nothing. x is any pytree of floating arrays."""

    times: Size = 2

    def forward(self, params, x, /):
        return (x,) * self.times, ()

    def backward(self, params, residuals, dy, /):
        return jax.tree.map(lambda *ds: sum(ds[1:], ds[0]), *dy), ()


@dataclass(frozen=True)
class Add(Layer):
    """y = Σ xᵢ over a tuple of arrays of one shape.      dxᵢ = dy.  Keeps how many there were."""

    def forward(self, params, x, /):
        if not isinstance(x, tuple | list) or not x or len({(v.shape, v.dtype) for v in x}) != 1:
            raise LayerError(
                self,
                f"got x {show(x)}; expected a tuple of arrays of one shape and dtype. "
                "Put it after a Parallel whose branches agree.",
            )
        return sum(x[1:], x[0]), Static(len(x))

    def backward(self, params, n, dy, /):
        return (dy,) * n.value, ()


@dataclass(frozen=True)
class Concatenate(Layer):
    """y = (x₁ | x₂ | ...) along `axis`.      dxᵢ = its part of dy.  Keeps the sizes.

    Raises LayerError where the other axes differ.
    """

    axis: int = -1

    def forward(self, params, x, /):
        several = x if isinstance(x, tuple | list) else ()
        there = all(-v.ndim <= self.axis < v.ndim for v in several)
        if not there or len({self._fixed(v) for v in several}) != 1:
            raise LayerError(
                self,
                f"got x {show(x)}; expected a tuple of arrays that differ in the size of axis {self.axis} only. "
                "Put it after a Parallel whose branches agree in the other axes.",
            )
        return jnp.concatenate(x, self.axis), Static(tuple(v.shape[self.axis] for v in x))

    def backward(self, params, sizes, dy, /):
        ends = [sum(sizes.value[: i + 1]) for i in range(len(sizes.value))]
        return tuple(
            jax.lax.slice_in_dim(dy, end - n, end, axis=self.axis) for n, end in zip(sizes.value, ends, strict=True)
        ), ()

    def _fixed(self, x):
        """What all of x must share."""
        axis = self.axis % max(x.ndim, 1)
        return x.shape[:axis], x.shape[axis + 1 :], x.ndim, str(x.dtype)
