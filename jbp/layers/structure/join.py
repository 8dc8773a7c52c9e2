"""One input for several layers, several inputs as one."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jbp.errors import LayerError, show
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import Static


@dataclass(frozen=True)
class Identity(Layer):
    """y = x.      dx = dy.  Keeps nothing. x is any pytree: a branch of a Parallel that lets labels through, say.

    >>> Identity()((), jnp.array([1.0, 2.0]))
    Array([1., 2.], dtype=float32)
    """

    cuts: ClassVar[Any] = ("tokens",)

    def forward(self, params, x, /):
        return x, ()

    def backward(self, params, residuals, dy, /):
        return dy, ()


@dataclass(frozen=True)
class FanOut(Layer):
    """y = (x, ..., x), `times` of them.      dx = Σ dyᵢ.  Keeps nothing. x is any pytree of floating arrays.

    FanOut(("kind", "size")) gives the dict {"kind": x, "size": x}, for a Parallel of layers with these names.

    >>> FanOut()((), jnp.array([1.0, 2.0]))
    (Array([1., 2.], dtype=float32), Array([1., 2.], dtype=float32))
    >>> FanOut(("kind", "size"))((), jnp.array([1.0]))
    {'kind': Array([1.], dtype=float32), 'size': Array([1.], dtype=float32)}
    """

    times: Size | tuple[str, ...] = 2

    def forward(self, params, x, /):
        return (x,) * self.times if isinstance(self.times, int) else dict.fromkeys(self.times, x), ()

    def backward(self, params, residuals, dy, /):
        several = dy if isinstance(self.times, int) else [dy[name] for name in self.times]
        return jax.tree.map(lambda *ds: sum(ds[1:], ds[0]), *several), ()


def _several(x):
    """(the arrays of a tuple or a dict, its structure): none of anything else."""
    leaves, tree = jax.tree.flatten(x)
    flat = isinstance(x, tuple | list | dict) and tree.num_nodes == len(leaves) + 1
    return (leaves if flat else []), tree


@dataclass(frozen=True)
class Add(Layer):
    """y = Σ xᵢ over a tuple or a dict of arrays of one shape.      dxᵢ = dy.  Keeps their structure.

    >>> Add()((), (jnp.array([1.0, 2.0]), jnp.array([10.0, 20.0])))
    Array([11., 22.], dtype=float32)
    """

    def forward(self, params, x, /):
        several, tree = _several(x)
        if len({(v.shape, v.dtype) for v in several}) != 1:
            raise LayerError(
                self,
                f"got x {show(x)}; expected a tuple of arrays of one shape and dtype. "
                "Put it after a Parallel whose branches agree.",
            )
        return sum(several[1:], several[0]), Static(tree)

    def backward(self, params, tree, dy, /):
        return tree.value.unflatten([dy] * tree.value.num_leaves), ()


@dataclass(frozen=True)
class Concatenate(Layer):
    """y = (x₁ | x₂ | ...) along `axis`.      dxᵢ = its part of dy.  Keeps the sizes.

    x is a tuple of arrays, or a dict, whose entries come in the order of their sorted names, as everywhere in JAX.
    Raises LayerError where the other axes differ.

    >>> Concatenate()((), (jnp.ones((2, 3)), jnp.ones((2, 4)))).shape
    (2, 7)
    """

    axis: int = -1

    def forward(self, params, x, /):
        several, tree = _several(x)
        there = all(-v.ndim <= self.axis < v.ndim for v in several)
        if not there or len({self._fixed(v) for v in several}) != 1:
            raise LayerError(
                self,
                f"got x {show(x)}; expected a tuple of arrays that differ in the size of axis {self.axis} only. "
                "Put it after a Parallel whose branches agree in the other axes.",
            )
        y, sizes = jnp.concatenate(several, self.axis), tuple(v.shape[self.axis] for v in several)
        return y, Static((tree, sizes, y.ndim))

    def backward(self, params, residuals, dy, /):
        tree, sizes, _ = residuals.value
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        parts = [jax.lax.slice_in_dim(dy, end - n, end, axis=self.axis) for n, end in zip(sizes, ends, strict=True)]
        return tree.unflatten(parts), ()

    def _fixed(self, x):
        """What all of x must share."""
        axis = self.axis % max(x.ndim, 1)
        return x.shape[:axis], x.shape[axis + 1 :], x.ndim, str(x.dtype)
