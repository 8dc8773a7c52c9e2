"""Averages and norms over windows: channels last, any number of spatial axes. Sums are taken in float32 at least."""

import itertools
import math
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f, i
from jbp.fields import Range, Size
from jbp.layer import Layer
from jbp.layers.pool.maximum import Targets, bounds, some_places, targets, valid
from jbp.layers.structure.resize import product_along
from jbp.layers.windows import Axes, Padding, agree, spatial, windows
from jbp.numerics import Static, wide


@dataclass(frozen=True)
class AveragePool(Layer):
    """y[p] = Σ_k x[p·stride + k − low] / n[p], n[p] the places of window p that are not padding.

        dx[q] = Σ dy[p] / n[p] over the windows p that hold q: a sum over windows of dy, spread by the stride

    Keeps x's shape only. Shapes: x (b, n..., c), y (b, m..., c). `window` and `stride` (the window by default) are a
    number for every spatial axis, or a tuple with one for each. `padding` is "VALID", "SAME", a number for every side,
    or a tuple with a number or a pair (low, high) for each axis; its places are counted only with `count_include_pad`
    (PyTorch's default). `ceil_mode` adds a last window that reaches over the end, if it begins before it, and counts
    none of what lies beyond the padding. `divisor_override` is n[p] for every window. Raises LayerError for another
    rank, where no output is left, and for padding of a whole window.

    >>> AveragePool()((), jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    Array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """

    window: Axes = (2, 2)
    stride: Axes | None = None
    padding: Padding = "VALID"
    ceil_mode: bool = False
    count_include_pad: bool = False
    divisor_override: Size | None = None

    def __post_init__(self):
        super().__post_init__()
        agree(self, "window", "stride", "padding")

    def _counts(self, slide, dtype):
        """n[p], a constant: the product over the axes of how many places of each window are counted."""
        if self.divisor_override is not None:
            return jnp.asarray(self.divisor_override, dtype)
        counts = np.ones((), np.int64)
        for axis, (n, (low, high)) in enumerate(zip(slide.sizes, slide.counted, strict=True)):
            first, end = (-low, n + high) if self.count_include_pad else (0, n)
            starts = slide.starts(axis)
            here = np.minimum(starts + slide.window[axis], end) - np.maximum(starts, first)
            counts = counts[..., None] * here
        return jnp.asarray(counts[None, ..., None], dtype)

    def forward(self, params, x, /):
        spatial(self, x, "window", "stride", "padding")
        slide = windows(self, x.shape)
        y = _window_sum(wide(x), slide.window, slide.stride, slide.pads)
        return (y / self._counts(slide, y.dtype)).astype(x.dtype), Static(x.shape)

    def backward(self, params, shape, dy, /):
        slide = windows(self, shape.value)
        d = wide(dy) / self._counts(slide, wide(dy).dtype)
        back = []
        whole = zip(slide.sizes, slide.number, slide.window, slide.stride, slide.pads, strict=True)
        for n, m, w, s, (low, _) in whole:
            before = w - 1 - low
            back.append((before, n + w - 1 - before - ((m - 1) * s + 1)))
        return _window_sum(d, slide.window, (1,) * len(back), back, spread=slide.stride).astype(dy.dtype), ()

    def reference(self, params, x, /):
        """Window by window, each cut out of x."""
        slide = windows(self, x.shape)
        starts = [slide.starts(axis).tolist() for axis in range(len(slide.sizes))]
        means = []
        for corner in itertools.product(*starts):
            here = x[(slice(None), *(slice(max(a, 0), a + w) for a, w in zip(corner, slide.window, strict=True)))]
            count = math.prod(here.shape[1:-1])
            if self.count_include_pad:
                ends = [n + high for n, (_, high) in zip(slide.sizes, slide.counted, strict=True)]
                count = math.prod(min(a + w, e) - a for a, w, e in zip(corner, slide.window, ends, strict=True))
            means.append(here.sum(tuple(range(1, x.ndim - 1))) / (self.divisor_override or count))
        return jnp.stack(means, 1).reshape(x.shape[0], *slide.number, x.shape[-1])


def _window_sum(x, window, stride, pads, spread=None):
    add = partial(lax.reduce_window, init_value=np.zeros((), x.dtype), computation=lax.add)
    spread = (1, *(spread or (1,) * len(window)), 1)
    return add(
        x,
        window_dimensions=(1, *window, 1),
        window_strides=(1, *stride, 1),
        padding=((0, 0), *pads, (0, 0)),
        base_dilation=spread,
    )


@dataclass(frozen=True)
class LPPool(Layer):
    """y[p] = (Σ_k |x[p·stride + k − low]|ᵖ)^(1/p), the p-norm of each window, p being `norm`.

        dx[q] = Σ dy[p] sign(x[q]) (|x[q]| / y[p])^(norm − 1) over the windows p that hold q, 0 from windows of zeros

    Between the sum of magnitudes (norm 1) and their maximum (a large norm); of PyTorch's for x ≥ 0 and for even norms,
    which leaves out the absolute value. Powers are taken of x over its window's maximum, so that none overflows. Keeps
    x and y. Shapes: x (b, n..., c), y (b, m..., c). `window`, `stride` (the window by default), `padding` and
    `ceil_mode` as in AveragePool. Raises LayerError for another rank, and where no output is left.

    >>> LPPool(window=2)((), jnp.array([3.0, 4.0, 0.0, 1.0]).reshape(1, 4, 1))[0, :, 0]
    Array([5., 1.], dtype=float32)
    """

    norm: Annotated[float, Range(1)] = 2
    window: Axes = (2, 2)
    stride: Axes | None = None
    padding: Padding = "VALID"
    ceil_mode: bool = False

    def __post_init__(self):
        super().__post_init__()
        agree(self, "window", "stride", "padding")

    def forward(self, params, x, /):
        spatial(self, x, "window", "stride", "padding")
        parts = [abs(wide(part)) for part in windows(self, x.shape).parts(x)]
        top = reduce(jnp.maximum, parts)
        total = reduce(add, (_ratio(part, top) ** self.norm for part in parts))
        y = (top * total ** (1 / self.norm)).astype(x.dtype)
        return y, (x, y)

    def backward(self, params, residuals, dy, /):
        x, y = residuals
        slide, y = windows(self, x.shape), wide(y)
        shared = (
            wide(dy) * jnp.sign(wide(part)) * _ratio(abs(wide(part)), y) ** (self.norm - 1) for part in slide.parts(x)
        )
        return slide.gathered(shared).astype(dy.dtype), ()

    def reference(self, params, x, /):
        """Window by window, each cut out of x."""
        slide = windows(self, x.shape)
        starts = [slide.starts(axis).tolist() for axis in range(len(slide.sizes))]
        norms = []
        for corner in itertools.product(*starts):
            here = x[(slice(None), *(slice(max(a, 0), a + w) for a, w in zip(corner, slide.window, strict=True)))]
            total = (abs(here) ** self.norm).sum(tuple(range(1, x.ndim - 1)))
            norms.append(jnp.where(total > 0, jnp.where(total > 0, total, 1) ** (1 / self.norm), 0))
        return jnp.stack(norms, 1).reshape(x.shape[0], *slide.number, x.shape[-1])


def _ratio(a, b):
    """a / b, 0 where b is."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


@dataclass(frozen=True)
class AdaptiveAveragePool(Layer):
    """y = the means of x over bins that cut each spatial axis in `sizes` parts: y = A x along each axis.

        dx = Aᵀ dy along each axis

    Bin i of m over n places holds ⌊i n / m⌋ to ⌈(i + 1) n / m⌉ (as in PyTorch), so bins may share places. `sizes` is a
    number for every spatial axis, or a tuple with one for each, None to keep an axis. Keeps x's shape only. Shapes: x
    (b, n..., c), y (b, sizes..., c). Raises LayerError for another rank and an empty axis.

    >>> AdaptiveAveragePool((2, 1))((), jnp.ones((1, 7, 5, 3))).shape
    (1, 2, 1, 3)
    """

    sizes: Targets

    def __post_init__(self):
        super().__post_init__()
        agree(self, "sizes")

    def _bins(self, n, m):
        first, end = bounds(n, m)
        places = np.arange(n)[None]
        return ((places >= first[:, None]) & (places < end[:, None])) / (end - first)[:, None]

    def forward(self, params, x, /):
        spatial(self, x, "sizes")
        some_places(self, x)
        y = wide(x)
        for axis, (n, m) in enumerate(targets(self.sizes, x.shape), 1):
            y = product_along(self._bins(n, m), y, axis)
        return y.astype(x.dtype), Static(x.shape)

    def backward(self, params, shape, dy, /):
        dx = wide(dy)
        for axis, (n, m) in enumerate(targets(self.sizes, shape.value), 1):
            dx = product_along(self._bins(n, m).T, dx, axis)
        return dx.astype(dy.dtype), ()

    def reference(self, params, x, /):
        """Bin by bin, each cut out of x."""
        for axis, (n, m) in enumerate(targets(self.sizes, x.shape), 1):
            bins = [slice(math.floor(i * n / m), math.ceil((i + 1) * n / m)) for i in range(m)]
            x = jnp.stack([x[(*(slice(None),) * axis, part)].mean(axis) for part in bins], axis)
        return x


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """y = the mean of x over its spatial axes.      dx = dy / their count.  Shapes: x (b, n..., c), y (b, c).

    x may be (x, mask), with a mask (b, n...) of booleans or integers: the mean of the places where it is not 0, and 0
    of none; what x holds elsewhere does not matter. Keeps x's shape, and the mask. Raises LayerError for fewer than
    three axes and for no places at all.

    >>> GlobalAveragePool()((), jnp.arange(16.0).reshape(1, 4, 4, 1))
    Array([[7.5]], dtype=float32)
    """

    def forward(self, params, given, /):
        x, mask = valid(self, given)
        axes = tuple(range(1, x.ndim - 1))
        if mask is None:
            return x.mean(axes), (None, Static(x.shape))
        y = jnp.where(mask[..., None], wide(x), 0).sum(axes) / _count(mask, wide(x).dtype)
        return y.astype(x.dtype), (mask, Static(x.shape))

    def backward(self, params, residuals, dy, /):
        mask, shape = residuals
        b, *n, c = shape.value
        if mask is None:
            dy = dy / math.prod(n)
            return jnp.broadcast_to(dy.reshape(b, *(1,) * len(n), c), shape.value), ()
        each = (wide(dy) / _count(mask, wide(dy).dtype)).astype(dy.dtype)
        return (jnp.where(mask[..., None], each.reshape(b, *(1,) * len(n), c), 0), None), ()

    def reference(self, params, given, /):
        """Place by place."""
        x, mask = valid(self, given)
        flat = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
        seen = jnp.ones(flat.shape[:2], bool) if mask is None else mask.reshape(flat.shape[:2])
        total, count = jnp.zeros_like(flat[:, 0]), jnp.zeros((flat.shape[0], 1), x.dtype)
        for place in range(flat.shape[1]):
            here = seen[:, place, None]
            total, count = total + jnp.where(here, flat[:, place], 0), count + here.astype(x.dtype)
        return total / jnp.maximum(count, 1)


def _count(mask, dtype):
    """How many places of each example are valid (b, 1), one for none."""
    return jnp.maximum(mask.reshape(mask.shape[0], -1).sum(1, keepdims=True), 1).astype(dtype)


CASES = (
    Case(AveragePool(), f(2, 5, 3, 2)),
    Case(AveragePool((3, 2), stride=(2, 1), padding="SAME"), f(2, 5, 3, 2)),
    Case(AveragePool((3,), stride=1, padding=((2, 1),)), f(2, 5, 3)),
    Case(AveragePool((5,), stride=1, padding="SAME"), f(2, 5, 3)),
    Case(AveragePool(3, 2, 1, ceil_mode=True, count_include_pad=True), f(2, 4, 3), f(1, 4, 3, 2)),
    Case(AveragePool(2, ceil_mode=True, divisor_override=3), f(2, 5, 2)),
    Case(LPPool(2, 2), f(2, 5, 3), f(1, 2, 3, 2)),
    Case(LPPool(1.5, 3, 2, 1, ceil_mode=True), f(2, 4, 2)),
    Case(AdaptiveAveragePool((3, 2)), f(2, 5, 3, 2)),
    Case(AdaptiveAveragePool((8,)), f(2, 5, 3)),
    Case(AdaptiveAveragePool((2, None)), f(1, 3, 2, 2)),
    Case(GlobalAveragePool(), f(2, 5, 3), f(2, 5, 3, 2), (f(2, 5, 3), i(2, 5, below=2))),
)
