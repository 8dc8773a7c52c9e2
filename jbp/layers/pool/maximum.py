"""The largest number of each window: channels last, any number of spatial axes.

`MaxPool` compares the places of its windows one after the other. `largest` reduces one spatial axis after the other,
for windows of different sizes and for very large ones.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, parts, show
from jbp.fields import Hint, Size
from jbp.layer import Layer
from jbp.layers.windows import Axes, Padding, agree, must_fit, pairs, spatial, spread, windows
from jbp.numerics import Static, shared, taken, wide

Targets = Annotated[
    Size | tuple[Size | None, ...],
    Hint("Write one number for every spatial axis, or a tuple with one for each, None to keep an axis as it is."),
]


@dataclass(frozen=True)
class MaxPool(Layer):
    """y[p] = max_k x[p·stride + k·dilation − low].      dx[q] = Σ dy[p] over the windows p whose maximum is at q

    Of equal values the first in row-major order is the maximum (as in cuDNN, PyTorch and XLA), and padded places never
    win. Keeps one byte an output: the place of the maximum in its window (four where a window has more than 256).
    Shapes: x (b, n..., c), y (b, m..., c). `window`, `stride` (the window by default) and `dilation` are a number for
    every spatial axis, or a tuple with one for each. `padding` is "VALID", "SAME", a number for every side, or a tuple
    with a number or a pair (low, high) for each axis. `ceil_mode` adds a last window that reaches over the end, if it
    begins before it. With `return_indices` the output is (y, indices), where the maxima lie in x, counted in row-major
    order over its spatial axes: what MaxUnpool takes. Raises LayerError for another rank, where no output is left, and
    for padding of a whole window.

    >>> MaxPool()((), jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """

    window: Axes = (2, 2)
    stride: Axes | None = None
    padding: Padding = "VALID"
    dilation: Axes = 1
    ceil_mode: bool = False
    return_indices: bool = False

    def __post_init__(self):
        super().__post_init__()
        agree(self, "window", "stride", "padding", "dilation")

    def forward(self, params, x, /):
        spatial(self, x, "window", "stride", "padding", "dilation")
        slide = windows(self, x.shape)
        if math.prod(slide.window) > 256:
            y, index = largest(x, [_inside(slide, axis) for axis in range(len(slide.sizes))])
            return ((y, index) if self.return_indices else y), (index, Static(x.shape))
        if slide.apart or shared(x):
            y, place = self._greatest(x)
        else:
            y, place = lax.platform_dependent(x, cpu=self._one_by_one, default=self._greatest)
        return ((y, _index(slide, place)) if self.return_indices else y), (place, Static(x.shape))

    def _one_by_one(self, x):
        """A loop over the examples, for windows that overlap. Else XLA merges the search into the backward pass on
        CPUs, where it runs once for each place of the window, and keeps x for it: measured, twice as slow."""
        y, place = lax.map(self._greatest, x[:, None])
        return y[:, 0], place[:, 0]

    def _greatest(self, x):
        """(y, the place of the maximum in its window)."""
        slide = windows(self, x.shape)
        y, *others = slide.parts(x, -jnp.inf)
        place = jnp.broadcast_to(_first_inside(slide), y.shape)
        for k, here in enumerate(others, 1):
            place = jnp.where(here > y, jnp.uint8(k), place)
            y = jnp.maximum(y, here)
        return y, place

    def backward(self, params, residuals, dy, /):
        place, shape = residuals
        dy = dy[0] if self.return_indices else dy
        slide = windows(self, shape.value)
        if math.prod(slide.window) > 256:
            return scattered(place, dy, shape.value), ()
        if slide.apart:
            return self._apart(slide, place, dy), ()
        return slide.gathered(jnp.where(place == k, dy, 0) for k in range(math.prod(slide.window))), ()

    def _apart(self, slide, place, dy):
        """Windows that do not overlap: every x lies in at most one, so dx is dy spread out and masked, in one go."""
        m, window = slide.number, slide.window
        b, c = dy.shape[0], dy.shape[-1]
        outer = (b, *itertools.chain(*((n, 1) for n in m)), c)  # b, m₀, 1, m₁, 1, ..., c
        inner = (1, *itertools.chain(*((1, w) for w in window)), 1)  # 1, 1, w₀, 1, w₁, ..., 1
        k = jnp.arange(math.prod(window), dtype=jnp.uint8).reshape(inner)
        dx = jnp.where(place.reshape(outer) == k, dy.reshape(outer), 0)
        dx = dx.reshape(b, *(n * w for n, w in zip(m, window, strict=True)), c)
        whole = zip(slide.pads, slide.sizes, m, window, strict=True)
        fit = [(-low, n + low - i * w, 0) for (low, _), n, i, w in whole]
        return lax.pad(dx, jnp.zeros((), dy.dtype), ((0, 0, 0), *fit, (0, 0, 0)))

    def reference(self, params, x, /):
        """The maximum is x at a place that is found first, by argmax, which takes the first of equal values."""
        slide = windows(self, x.shape)
        found = []
        for p in np.ndindex(*slide.number):
            here = [slide.places(axis)[i][slide.inside(axis)[i]] for axis, i in enumerate(p)]
            found.append(np.ravel_multi_index(np.meshgrid(*here, indexing="ij"), slide.sizes).ravel())
        return largest_of(x, found, slide.number, self.return_indices)


def largest_of(x, places, number, return_indices):
    """The definition: the largest of x at each of these lists of places, which count over all spatial axes."""
    most = max(map(len, places))
    places = np.stack([np.pad(p, (0, most - len(p)), "edge") for p in places])  # the last once more: it never wins
    flat = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    inside = flat[:, places]
    at = lax.stop_gradient(jnp.argmax(inside, 2, keepdims=True))
    y = jnp.take_along_axis(inside, at, 2)[:, :, 0].reshape(x.shape[0], *number, x.shape[-1])
    index = jnp.asarray(places, jnp.int32)[jnp.arange(len(places))[None, :, None], at[:, :, 0]]
    return (y, index.reshape(y.shape)) if return_indices else y


def _first_inside(slide):
    """The first place of each window that is not padding: the maximum where all of them are −∞."""
    rank = len(slide.sizes)
    if not any(low for low, _ in slide.pads):
        return jnp.zeros((1,) * (rank + 2), jnp.uint8)
    first = 0
    for axis in range(rank):
        here = slide.inside(axis).argmax(1).reshape(*(1,) * (axis + 1), -1, *(1,) * (rank - axis))
        first = first * slide.window[axis] + here
    return jnp.asarray(first, jnp.uint8)


def _index(slide, place):
    """Places in the windows as places in x, counted over all spatial axes."""
    apart = [math.prod(slide.sizes[axis + 1 :]) for axis in range(len(slide.sizes))]
    within = np.array([sum(map(math.prod, zip(at, apart, strict=True))) for at in slide.offsets()], np.int32)
    index = jnp.asarray(within)[place]
    for axis, step in enumerate(apart):
        start = np.asarray(slide.starts(axis) * step, np.int32)
        index += start.reshape(*(1,) * (axis + 1), -1, *(1,) * (len(apart) - axis))
    return index


def _inside(slide, axis):
    """The places of each window along an axis, the last once more for those in the padding."""
    rows = [row[inside] for row, inside in zip(slide.places(axis), slide.inside(axis), strict=True)]
    return np.stack([np.pad(row, (0, slide.window[axis] - len(row)), "edge") for row in rows])


def largest(x: Any, bins: list[Any]) -> tuple[Any, Any]:
    """(y, index): the maxima of x over bins of places, and where they lie, counted over all spatial axes.

    bins[a] are the places of each bin along axis a, (m, k), or (b, m, k, c) where examples and channels differ. One
    axis after the other, from the last: so the first of equal values in row-major order is found.
    """
    index, step = None, 1
    for axis in reversed(range(1, x.ndim - 1)):
        n, at = x.shape[axis], jnp.asarray(bins[axis - 1])
        b, m, k, c = at.shape if at.ndim == 4 else (1, *at.shape, 1)
        at = at.reshape(b, *(1,) * (axis - 1), m * k, *(1,) * (x.ndim - axis - 2), c)
        apart = (*x.shape[:axis], m, k, *x.shape[axis + 1 :])
        values = jnp.take_along_axis(x, at, axis, mode="clip").reshape(apart)
        places = at * step if index is None else at * step + jnp.take_along_axis(index, at, axis, mode="clip")
        places = jnp.broadcast_to(places, (*x.shape[:axis], m * k, *x.shape[axis + 1 :])).reshape(apart)
        best = jnp.expand_dims(lax.argmax(values, axis + 1, jnp.int32), axis + 1)
        x = jnp.take_along_axis(values, best, axis + 1, mode="clip").squeeze(axis + 1)
        index = jnp.take_along_axis(places, best, axis + 1, mode="clip").squeeze(axis + 1)
        step *= n
    return x, index


def scattered(index: Any, dy: Any, shape: tuple[int, ...]) -> Any:
    """dx of `shape`: Σ of dy over the outputs whose place it is."""
    b, *n, c = shape
    blank, channels = jnp.zeros((math.prod(n), c), wide(dy).dtype), jnp.arange(c)[None]
    rows = (b, math.prod(dy.shape[1:-1]), c)
    dx = jax.vmap(lambda at, dy: blank.at[at, channels].add(dy))(index.reshape(rows), wide(dy).reshape(rows))
    return dx.reshape(shape).astype(dy.dtype)


@dataclass(frozen=True)
class AdaptiveMaxPool(Layer):
    """y = the maxima of x over bins that cut each spatial axis in `sizes` parts.

        dx = Σ dy of the bins that x is maximal in

    Bin i of m over n places holds ⌊i n / m⌋ to ⌈(i + 1) n / m⌉ (as in PyTorch), so bins may share places. Of equal
    values the first in row-major order is the maximum. `sizes` is a number for every spatial axis, or a tuple with one
    for each, None to keep an axis. With `return_indices` the output is (y, indices), where the maxima lie, counted over
    the spatial axes. Keeps these. Shapes: x (b, n..., c), y (b, sizes..., c). Raises LayerError for another rank and
    an empty axis.

    >>> AdaptiveMaxPool((2, 1))((), jnp.ones((1, 7, 5, 3))).shape
    (1, 2, 1, 3)
    """

    sizes: Targets
    return_indices: bool = False

    def __post_init__(self):
        super().__post_init__()
        agree(self, "sizes")

    def forward(self, params, x, /):
        spatial(self, x, "sizes")
        some_places(self, x)
        y, index = largest(x, [_filled(n, m) for n, m in targets(self.sizes, x.shape)])
        return ((y, index) if self.return_indices else y), (index, Static(x.shape))

    def backward(self, params, residuals, dy, /):
        index, shape = residuals
        return scattered(index, dy[0] if self.return_indices else dy, shape.value), ()

    def reference(self, params, x, /):
        """Bin by bin, each by its places in x."""
        sizes = targets(self.sizes, x.shape)
        found = []
        for p in np.ndindex(*(m for _, m in sizes)):
            here = [
                np.arange(math.floor(i * n / m), math.ceil((i + 1) * n / m)) for i, (n, m) in zip(p, sizes, strict=True)
            ]
            found.append(np.ravel_multi_index(np.meshgrid(*here, indexing="ij"), x.shape[1:-1]).ravel())
        return largest_of(x, found, [m for _, m in sizes], self.return_indices)


def targets(sizes: Any, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(n, m) for each spatial axis: its places, and its bins."""
    n = shape[1:-1]
    return [(n, n if m is None else m) for n, m in zip(n, spread(sizes, len(n)), strict=True)]


def bounds(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each of m bins over n places, and the first after it."""
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)


def _filled(n, m):
    """The places of each bin, the last once more where it has less than the largest."""
    first, end = bounds(n, m)
    return np.minimum(first[:, None] + np.arange((end - first).max())[None], end[:, None] - 1).astype(np.int32)


def some_places(layer, x):
    if min(x.shape[1:-1]) < 1:
        raise LayerError(layer, f"got x {show(x)}; expected at least one place in each axis. Give larger inputs.")


@dataclass(frozen=True)
class MaxUnpool(Layer):
    """y = x at the places `indices`, 0 elsewhere.      dx = dy at these places

    Unpooling that remembers where MaxPool(..., return_indices=True) found its maxima (Zeiler & Fergus, *Visualizing
    and Understanding Convolutional Networks*, 2014): x is its output (values, indices). Where several fall on one
    place the last in row-major order stands there, and it alone has a gradient. The spatial `sizes` are (m − 1)·stride
    + window less the padding by default; write them where MaxPool left a rest over. Keeps the indices. Shapes: values
    and indices (b, m..., c), y (b, sizes..., c). Raises LayerError for another number of axes and for indices beyond y.

    >>> y, indices = MaxPool(2, return_indices=True)((), jnp.array([1.0, 5.0, 7.0, 2.0]).reshape(1, 4, 1))
    >>> MaxUnpool(2)((), (y, indices))[0, :, 0]
    Array([0., 5., 7., 0.], dtype=float32)
    """

    window: Axes = (2, 2)
    stride: Axes | None = None
    padding: int | tuple[int | tuple[int, int], ...] = 0
    sizes: Axes | None = None

    def __post_init__(self):
        super().__post_init__()
        agree(self, "window", "stride", "padding", "sizes")

    def _sizes(self, m):
        if self.sizes is not None:
            return spread(self.sizes, len(m))
        window = spread(self.window, len(m))
        stride, pads = window if self.stride is None else spread(self.stride, len(m)), pairs(self.padding, len(m))
        return tuple((m - 1) * s + k - sum(p) for m, s, k, p in zip(m, stride, window, pads, strict=True))

    def forward(self, params, x, /):
        x, index = parts(self, x, "values", "indices")
        spatial(self, x, "window", "stride", "padding", "sizes")
        sizes = self._sizes(x.shape[1:-1])
        must_fit(self, sizes)
        indices(self, index, max(math.prod(sizes), 1), "indices")
        if min(sizes) < 1 or index.shape != x.shape:
            raise LayerError(
                self,
                f"got values {show(x)} and indices {show(index)}; expected one shape, and an output with some places. "
                "Give what MaxPool(..., return_indices=True) gives.",
            )
        b, *m, c = x.shape
        index, last = _last(index.reshape(b, math.prod(m), c), math.prod(sizes))
        flat = jnp.where(last, x.reshape(index.shape), 0)
        return scattered(index, flat, (b, *sizes, c)), (index, Static((x.shape, sizes)))

    def backward(self, params, residuals, dy, /):
        index, shapes = residuals
        shape, sizes = shapes.value
        _, last = _last(index, math.prod(sizes))
        dx = jnp.take_along_axis(dy.reshape(index.shape[0], math.prod(sizes), shape[-1]), index, 1, mode="clip")
        return (jnp.where(last, dx, 0).reshape(shape), None), ()

    def reference(self, params, x, /):
        """One after the other is put down."""
        x, index = x
        sizes = self._sizes(x.shape[1:-1])
        b, *m, c = x.shape
        x, index = x.reshape(b, math.prod(m), c), index.reshape(b, math.prod(m), c)
        y = jnp.zeros((b, math.prod(sizes), c), x.dtype)
        places = jnp.arange(math.prod(sizes), dtype=index.dtype)[None, :, None]
        for p in range(math.prod(m)):
            y = jnp.where(places == index[:, p : p + 1], x[:, p : p + 1], y)
        return y.reshape(b, *sizes, c)


def _last(index, size):
    """The indices (b, m, c), and whether each is the last of its value."""
    index = index.astype(jnp.int32)
    _, m, c = index.shape
    rank = jnp.broadcast_to(jnp.arange(m, dtype=jnp.int32)[:, None], (m, c))
    blank, channels = jnp.full((size, c), -1, jnp.int32), jnp.arange(c)[None]
    newest = jax.vmap(lambda at: blank.at[at, channels].max(rank))(index)
    return index, jnp.take_along_axis(newest, index, 1, mode="clip") == rank[None]


@dataclass(frozen=True)
class GlobalMaxPool(Layer):
    """y = the maximum of x over its spatial axes.      dx = dy at the maximum, else 0

    Of equal values the first in row-major order is the maximum. x may be (x, mask), with a mask (b, n...) of booleans
    or integers: the maximum of the places where it is not 0, and 0 of none. Keeps the place, one integer an output.
    Shapes: x (b, n..., c), y (b, c). Raises LayerError for fewer than three axes and for no places at all.

    >>> GlobalMaxPool()((), jnp.arange(16.0).reshape(1, 4, 4, 1))
    Array([[15.]], dtype=float32)
    """

    def forward(self, params, given, /):
        x, mask = valid(self, given)
        b, *n, c = x.shape
        flat = x.reshape(b, math.prod(n), c)
        if mask is not None:
            mask = mask.reshape(b, math.prod(n), 1)
            any_valid = mask.any(1)
            first = lax.argmax(mask, 1, jnp.int32)  # where all of the valid places are −∞
            place = lax.argmax(jnp.where(mask, flat, -jnp.inf), 1, jnp.int32)
            place = jnp.where(jnp.take_along_axis(mask, place[:, None], 1, mode="clip")[:, 0], place, first)
            y = jnp.take_along_axis(flat, place[:, None], 1, mode="clip")[:, 0]
            return jnp.where(any_valid, y, 0), (jnp.where(any_valid, place, -1), Static((x.shape, True)))
        place = lax.argmax(flat, 1, jnp.int32)
        return taken(flat, place, 1), (place, Static((x.shape, False)))

    def backward(self, params, residuals, dy, /):
        place, static = residuals
        shape, masked = static.value
        b, *n, c = shape
        here = lax.broadcasted_iota(jnp.int32, (b, math.prod(n), c), 1) == place[:, None]
        dx = jnp.where(here, dy[:, None], 0).reshape(shape)
        return ((dx, None) if masked else dx), ()

    def reference(self, params, given, /):
        """Place by place; a later one wins only where it is larger."""
        x, mask = valid(self, given)
        flat = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
        seen = jnp.ones(flat.shape[:2], bool) if mask is None else mask.reshape(flat.shape[:2])
        y, some = jnp.zeros_like(flat[:, 0]), jnp.zeros((flat.shape[0], 1), bool)
        for place in range(flat.shape[1]):
            here = seen[:, place, None]
            y = jnp.where(here & (~some | (flat[:, place] > y)), flat[:, place], y)
            some = some | here
        return y


def valid(layer: Any, given: Any) -> tuple[Any, Any]:
    """x and its mask as booleans, None where there is none."""
    masked = isinstance(given, tuple | list)
    x, mask = parts(layer, given, "x", "mask") if masked else (given, None)
    floats(layer, x, "(batch, n, ..., channels)", least=3)
    some_places(layer, x)
    if not masked:
        return x, None
    dtype = getattr(mask, "dtype", None)
    whole = dtype is not None and (np.dtype(dtype).kind == "b" or jnp.issubdtype(dtype, jnp.integer))
    if mask is None or not whole or mask.shape != x.shape[:-1]:
        raise LayerError(
            layer,
            f"got x {show(x)} and mask {show(mask)}; expected booleans or integers {list(x.shape[:-1])}, true where x "
            "is valid. Leave out the axis of the channels, or cast it with .astype(bool).",
        )
    return x, mask.astype(bool)


CASES = (
    Case(MaxPool(), f(2, 5, 3, 2)),
    Case(MaxPool((3, 3), stride=2, padding="SAME"), f(2, 5, 3, 2)),
    Case(MaxPool((2,), stride=1), f(2, 5, 3)),
    Case(MaxPool(2, 1, padding=1, dilation=2), f(2, 3, 2), f(1, 3, 2, 1)),
    Case(MaxPool(2, ceil_mode=True), f(2, 5, 3), f(1, 3, 3, 2)),
    Case(AdaptiveMaxPool(2), f(2, 5, 3), f(1, 3, 2, 2)),
    Case(AdaptiveMaxPool((3, None)), f(1, 2, 3, 2)),
    Case(MaxUnpool((2,), sizes=5), (f(2, 2, 3), i(2, 2, 3, below=5))),
    Case(MaxUnpool(2), (f(1, 1, 2, 2), i(1, 1, 2, 2, below=8))),
    Case(GlobalMaxPool(), f(2, 5, 3), f(2, 5, 3, 2), (f(2, 5, 3), i(2, 5, below=2))),
)
