"""Layers that move numbers about and compute nothing: other shapes, other orders, parts, copies."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.fields import Hint, Range
from jbp.layer import Layer
from jbp.numerics import Static


@dataclass(frozen=True, init=False)
class Reshape(Layer):
    """y = x with all axes but the first as `shape`, in which one size may be −1.      dx = dy in x's shape.

    Keeps x's shape only. Shapes: x (b, ...), y (b, *shape). Reshape(8, 8, 1), or Reshape((8, 8, 1)), makes pictures of
    the rows of a table, Reshape(-1, c) tokens of a picture. Raises LayerError where the sizes do not multiply to those
    of x.

    >>> Reshape(4, 3)((), jnp.ones((2, 12))).shape
    (2, 4, 3)
    """

    shape: tuple[Annotated[int, Range(-1), Hint("Write whole numbers: Reshape(8, 8, 1).")], ...]

    def __init__(self, *sizes: Any, shape: Any = None):
        object.__setattr__(self, "shape", one_tuple(sizes, shape))  # `shape=` is what dataclasses.replace passes
        self.__post_init__()

    def __post_init__(self):
        super().__post_init__()
        if self.shape.count(-1) > 1:
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


def one_tuple(several: tuple[Any, ...], one: Any) -> Any:
    """Sizes that were written one by one, or as one tuple or list."""
    if not several:
        return one
    return several[0] if len(several) == 1 and isinstance(several[0], tuple | list) else several


@dataclass(frozen=True)
class Flatten(Layer):
    """y = x with the axes from `start` to `end`, both included, as one: all but the first.      dx = dy in x's shape.

    Both count from the end if negative. Keeps x's shape only. Shapes: x (b, ...), y (b, product of the rest).
    Raises LayerError where x has no such axes.

    >>> Flatten()((), jnp.ones((2, 4, 4, 3))).shape
    (2, 48)
    """

    start: int = 1
    end: int = -1

    def forward(self, params, x, /):
        shape = floats(self, x, "(batch, ...)").shape
        start, end = (axis + len(shape) * (axis < 0) for axis in (self.start, self.end))
        if not 0 <= start <= min(end + 1, len(shape)) or end >= len(shape):
            raise LayerError(
                self,
                f"got x {show(x)}; expected the axes {self.start} to {self.end}, in this order. "
                "Count axes from 0, or from the end with −1.",
            )
        return x.reshape(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]), Static(shape)

    def backward(self, params, shape, dy, /):
        return dy.reshape(shape.value), ()


@dataclass(frozen=True)
class Unflatten(Layer):
    """y = x with the axis `axis` as several of `sizes`, in which one may be −1.      dx = dy in x's shape.

    Keeps x's shape only. Unflatten(-1, (h, d)) gives each of h heads its d features. Raises LayerError where x has no
    such axis, or where the sizes do not multiply to its.

    >>> Unflatten(-1, (2, -1))((), jnp.ones((3, 8))).shape
    (3, 2, 4)
    """

    axis: int
    sizes: tuple[Annotated[int, Range(-1), Hint("Write whole numbers: Unflatten(-1, (2, 4)).")], ...]

    def __post_init__(self):
        super().__post_init__()
        if self.sizes.count(-1) > 1:
            raise LayerError(self, "got more than one free size; expected at most one −1. Write the others.")

    def forward(self, params, x, /):
        shape = floats(self, x, "with the axis to split").shape
        n = shape[self.axis] if -len(shape) <= self.axis < len(shape) else 0
        fixed = math.prod(m for m in self.sizes if m != -1)
        sizes = tuple(n // max(fixed, 1) if m == -1 else m for m in self.sizes)
        if not -len(shape) <= self.axis < len(shape) or math.prod(sizes) != n:
            raise LayerError(
                self,
                f"got x {show(x)}; expected an axis {self.axis} of {fixed} places, or a multiple of them for a −1. "
                "Choose sizes that multiply to that of the axis.",
            )
        axis = self.axis % len(shape)
        return x.reshape(*shape[:axis], *sizes, *shape[axis + 1 :]), Static(shape)

    def backward(self, params, shape, dy, /):
        return dy.reshape(shape.value), ()


@dataclass(frozen=True)
class Squeeze(Layer):
    """y = x without the axis `axis`, whose size is one.      dx = dy with it.

    Keeps x's shape only. The axis counts from the end if negative. Raises LayerError for another size.

    >>> Squeeze()((), jnp.ones((2, 3, 1))).shape
    (2, 3)
    """

    axis: int = -1

    def forward(self, params, x, /):
        shape = floats(self, x, "with the axis to take away").shape
        if not -len(shape) <= self.axis < len(shape) or shape[self.axis] != 1:
            raise LayerError(
                self,
                f"got x {show(x)}; expected an axis {self.axis} of size one. "
                "Count axes from 0, or from the end with −1; Take(0, axis) chooses from a longer one.",
            )
        return x.squeeze(self.axis), Static(shape)

    def backward(self, params, residuals, dy, /):
        return jnp.expand_dims(dy, self.axis), ()


@dataclass(frozen=True)
class ExpandDims(Layer):
    """y = x with a new axis of size one, which is y's axis `axis`.      dx = dy without it.

    Keeps x's shape only. The axis counts from the end if negative. Raises LayerError where y has no such axis.

    >>> ExpandDims()((), jnp.ones((2, 3))).shape
    (2, 3, 1)
    """

    axis: int = -1

    def forward(self, params, x, /):
        rank = len(floats(self, x, "of any shape", least=0).shape) + 1
        if not -rank <= self.axis < rank:
            raise LayerError(
                self,
                f"got x {show(x)}; expected an output with an axis {self.axis}. Count axes from 0, or from the end.",
            )
        return jnp.expand_dims(x, self.axis), Static(x.shape)

    def backward(self, params, residuals, dy, /):
        return dy.squeeze(self.axis), ()


@dataclass(frozen=True, init=False)
class Transpose(Layer):
    """y = x with its axes in the order `axes`, the batch's among them.      dx = dy in the inverse order.

    Keeps nothing. Transpose(0, 2, 1), or Transpose((0, 2, 1)), swaps time and features. Raises LayerError for another
    number of axes.

    >>> Transpose(0, 2, 1)((), jnp.ones((2, 5, 3))).shape
    (2, 3, 5)
    """

    axes: tuple[Annotated[int, Hint("Write whole numbers: Transpose(0, 2, 1).")], ...]

    def __init__(self, *several: Any, axes: Any = None):
        object.__setattr__(self, "axes", one_tuple(several, axes))  # `axes=` is what dataclasses.replace passes
        self.__post_init__()

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

    >>> Take(-1)((), jnp.ones((2, 5, 3))).shape
    (2, 3)
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

    >>> Select(1)((), (jnp.ones(2), jnp.zeros(3)))
    Array([0., 0., 0.], dtype=float32)
    """

    keys: tuple[Any, ...]

    def __init__(self, *several: Any, keys: tuple[Any, ...] = ()):
        given = several or (tuple(keys) if isinstance(keys, tuple | list) else (keys,))
        object.__setattr__(self, "keys", given)  # `keys=` is what dataclasses.replace passes
        if bad := [key for key in given if not isinstance(key, str | int) or isinstance(key, bool)]:
            raise LayerError(
                type(self), f"got the key {bad[0]!r}; expected names or numbers of entries. Select('x'), for example."
            )
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise LayerError(self, f"got the keys {self.keys}; expected one or more. To have one twice add a FanOut.")

    def _arguments(self):
        return (("", key) for key in self.keys)

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


CASES = (
    Case(Flatten(), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(Flatten(-2), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(Unflatten(-1, (2, -1)), f(2, 8), f(2, 3, 2)),
    Case(Squeeze(1), f(2, 1, 3), f(2, 1, 3, 2)),
    Case(Squeeze(-1), f(2, 3, 1)),
    Case(ExpandDims(), f(3, 5), f(2, 3, 5)),
    Case(Reshape((-1,)), f(2, 3, 5)),
    Case(Reshape((-1, 2)), f(2, 8), f(2, 5, 2, 3)),
    Case(Reshape((-1, 1, 1)), f(2, 3), f(2, 3, 5)),
    Case(Transpose((0, 2, 1)), f(2, 3, 5)),
    Case(Transpose((0, 3, 1, 2)), f(2, 5, 3, 2)),
    Case(Take(-1), f(3, 5), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(Take(0, -2), f(2, 3, 5)),
    Case(Select(1), (f(3, 5), f(3, 2))),
    Case(Select(2, 0), (f(3, 5), f(3, 2), f(4))),
)
