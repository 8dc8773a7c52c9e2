"""Layers that move numbers about and compute nothing: other shapes, other orders, parts, copies."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.layer import Layer
from jbp.numerics import Static


@dataclass(frozen=True)
class Reshape(Layer):
    """y = x with all axes but the first as `shape`, in which one size may be −1.      dx = dy in x's shape.

    Keeps x's shape only. Shapes: x (b, ...), y (b, *shape). Raises LayerError where the sizes do not multiply to those
    of x. Reshape((8, 8, 1)) makes pictures of the rows of a table, Reshape((-1, c)) tokens of a picture.
    """

    shape: tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        if self.shape.count(-1) > 1 or any(n < -1 for n in self.shape):
            raise LayerError(self, "got more than one free size; expected sizes, at most one −1. Leave out the batch.")

    def forward(self, params, x, /):
        size = math.prod(floats(self, x, "(batch, ...)").shape[1:])
        fixed = math.prod(n for n in self.shape if n != -1)
        free = size // fixed if fixed else 0
        shape = tuple(free if n == -1 else n for n in self.shape)
        if math.prod(shape) != size:
            raise LayerError(
                self,
                f"got x {show(x)}; expected {fixed} numbers in each example, or a multiple of them for a −1. "
                "Choose sizes that multiply to those of x without its first axis.",
            )
        return x.reshape(x.shape[0], *shape), Static(x.shape)

    def backward(self, params, shape, dy, /):
        return dy.reshape(shape.value), ()


@dataclass(frozen=True)
class Transpose(Layer):
    """y = x with its axes in the order `axes`, the batch's among them.      dx = dy in the inverse order.

    Keeps nothing. Transpose((0, 2, 1)) swaps time and features. Raises LayerError for another number of axes.
    """

    axes: tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        if sorted(self.axes) != list(range(len(self.axes))):
            raise LayerError(
                self, f"got axes {self.axes}; expected each of 0, 1, ... once. Write (0, 2, 1) to swap two."
            )

    def forward(self, params, x, /):
        floats(self, x, f"that axes={self.axes} put in order", rank=len(self.axes))
        return x.transpose(self.axes), ()

    def backward(self, params, residuals, dy, /):
        return dy.transpose(sorted(range(len(self.axes)), key=self.axes.__getitem__)), ()


@dataclass(frozen=True)
class Take(Layer):
    """y = x at `index` of the axis `axis`, which goes.      dx = dy there, 0 elsewhere.

    Keeps x's shape only. Take(-1) after an LSTM is what it says at the last step, Take(0) a class token. Both count
    from the end if negative. Raises LayerError where there is no such axis or index.
    """

    index: int
    axis: int = 1

    def forward(self, params, x, /):
        shape = floats(self, x, "with the axis to take from").shape
        if not -len(shape) <= self.axis < len(shape) or not -shape[self.axis] <= self.index < shape[self.axis]:
            raise LayerError(
                self,
                f"got x {show(x)}; expected an axis {self.axis} with an index {self.index}. "
                "Count axes and indices from 0, or from the end with −1.",
            )
        return lax.index_in_dim(x, self.index, self.axis, keepdims=False), Static(shape)

    def backward(self, params, shape, dy, /):
        axis = self.axis % len(shape.value)
        index = self.index % shape.value[axis]
        widths = [(0, 0, 0)] * len(shape.value)
        widths[axis] = (index, shape.value[axis] - index - 1, 0)
        return lax.pad(jnp.expand_dims(dy, axis), jnp.zeros((), dy.dtype), widths), ()


@dataclass(frozen=True, init=False)
class Select(Layer):
    """y = (x[k₁], x[k₂], ...) out of a dict or a tuple x; x[k] itself for one key.      dx[kᵢ] = dyᵢ, 0 elsewhere.

    It lets a network take named inputs: `Serial(Select("image", "text"), Parallel(see, read), Concatenate())` on
    {"image": ..., "text": ..., "label": ...}. Keeps the shapes of what is left out. An entry may be any pytree; the
    cotangent of integers is None. Raises LayerError for a key that is not there, and for one named twice.
    """

    keys: tuple[Any, ...]

    def __init__(self, *several: Any, keys: tuple[Any, ...] = ()):
        object.__setattr__(self, "keys", several or tuple(keys))  # `keys=` is what dataclasses.replace passes
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise LayerError(self, f"got the keys {self.keys}; expected one or more. To have one twice add a FanOut.")

    def __repr__(self):
        return f"Select({', '.join(map(repr, self.keys))})"

    def forward(self, params, x, /):
        there = x if isinstance(x, dict) else range(len(x)) if isinstance(x, tuple | list) else ()
        if missing := [key for key in self.keys if key not in there]:
            raise LayerError(
                self,
                f"got x {show(x)}, without {missing}; expected a dict or a tuple with {list(self.keys)}. "
                "Name the entries of x, or change the keys.",
            )
        y: Any = tuple(x[key] for key in self.keys)
        leaves, structure = jax.tree.flatten(x)
        return (y if len(self.keys) > 1 else y[0]), Static((structure, tuple((v.shape, v.dtype) for v in leaves)))

    def backward(self, params, came, dy, /):
        structure, leaves = came.value
        zeros = jax.tree.unflatten(structure, [_zero(*leaf) for leaf in leaves])
        found = dict(zip(self.keys, dy if len(self.keys) > 1 else (dy,), strict=True))
        entries = zeros if isinstance(zeros, dict) else dict(enumerate(zeros))
        dx = {key: _floating(zero, found[key]) if key in found else zero for key, zero in entries.items()}
        return (dx if isinstance(zeros, dict) else type(zeros)(dx.values())), ()


def _zero(shape, dtype):
    return jnp.zeros(shape, dtype) if jnp.issubdtype(dtype, jnp.floating) else None


def _floating(zeros, dy):
    """dy with None where there is no zero either."""
    return jax.tree.map(lambda zero, d: None if zero is None else d, zeros, dy, is_leaf=lambda v: v is None)


@dataclass(frozen=True)
class Pad(Layer):
    """y = x with zeros before and after each spatial axis; negative widths crop.      dx = dy with the widths negated.

    Keeps nothing. `widths` has a pair for each of the axes between batch and channels. Shapes: x (b, n..., c), y
    (b, n + before + after ..., c). Raises LayerError for another number of axes and where less than nothing is left.
    """

    widths: tuple[tuple[int, int], ...]

    def _moved(self, x, sign):
        inner = [(sign * low, sign * high, 0) for low, high in self.widths]
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])

    def forward(self, params, x, /):
        sizes = floats(self, x, "(batch, n..., channels)", rank=len(self.widths) + 2).shape[1:-1]
        if any(n + min(low, 0) + min(high, 0) < 0 for n, (low, high) in zip(sizes, self.widths, strict=True)):
            raise LayerError(self, f"got x {show(x)}; expected as much as widths={self.widths} crop. Crop less.")
        return self._moved(x, 1), ()

    def backward(self, params, residuals, dy, /):
        return self._moved(dy, -1), ()


@dataclass(frozen=True)
class Upsample(Layer):
    """y = x with every place along each spatial axis `factors` times over.      dx = Σ dy over those copies.

    The nearest neighbour's value (U-Nets go up with it and a Conv; Odena et al., *Deconvolution and Checkerboard
    Artifacts*, 2016). Keeps nothing. Shapes: x (b, n..., c), y (b, n · factor ..., c). Raises LayerError for factors
    below 1 and for another number of axes.
    """

    factors: tuple[int, ...] = (2, 2)

    def __post_init__(self):
        super().__post_init__()
        if not self.factors or min(self.factors) < 1:
            raise LayerError(self, f"got factors {self.factors}; expected 1 or more for each spatial axis. Try (2, 2).")

    def forward(self, params, x, /):
        shape = floats(self, x, "(batch, n..., channels)", rank=len(self.factors) + 2).shape
        apart = [m for n, k in zip(shape[1:-1], self.factors, strict=True) for m in (n, k)]
        copies = tuple(range(2, 2 * len(self.factors) + 1, 2))
        y = jnp.broadcast_to(jnp.expand_dims(x, copies), (shape[0], *apart, shape[-1]))
        return y.reshape(shape[0], *(n * k for n, k in zip(shape[1:-1], self.factors, strict=True)), shape[-1]), ()

    def backward(self, params, residuals, dy, /):
        sizes = dy.shape[1:-1]
        apart = [m for n, k in zip(sizes, self.factors, strict=True) for m in (n // k, k)]
        return dy.reshape(dy.shape[0], *apart, dy.shape[-1]).sum(tuple(range(2, 2 * len(sizes) + 1, 2))), ()

    def reference(self, params, x, /):
        for axis, k in enumerate(self.factors):
            x = jnp.repeat(x, k, axis + 1)
        return x


CASES = (
    Case(Reshape((-1,)), f(2, 3, 5)),
    Case(Reshape((-1, 2)), f(2, 8), f(2, 5, 2, 3)),
    Case(Reshape((-1, 1, 1)), f(2, 3), f(2, 3, 5)),
    Case(Transpose((0, 2, 1)), f(2, 3, 5)),
    Case(Transpose((0, 3, 1, 2)), f(2, 5, 3, 2)),
    Case(Take(-1), f(3, 5), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(Take(0, -2), f(2, 3, 5)),
    Case(Select(1), (f(3, 5), f(3, 2))),
    Case(Select(2, 0), (f(3, 5), f(3, 2), f(4))),
    Case(Pad(((1, 0),)), f(2, 3, 5)),
    Case(Pad(((1, -1), (0, 2))), f(2, 3, 2, 1)),
    Case(Upsample(), f(2, 5, 3, 2), f(1, 2, 1, 3)),
    Case(Upsample((2,)), f(2, 5, 3)),
)
