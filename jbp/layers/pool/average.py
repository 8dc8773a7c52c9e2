"""Averages over windows: channels last, any number of spatial axes. Sums are taken in float32 at least."""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.layer import Layer
from jbp.layers.conv.convolution import Sizes, paddings, spread
from jbp.layers.pool.maximum import check_windows
from jbp.numerics import Static, wide


@dataclass(frozen=True)
class AveragePool(Layer):
    """y[p] = Σ_k x[p·stride + k] / n[p], n[p] the places of window p that are not padding.

        dx[q] = Σ dy[p] / n[p] over the windows p that hold q: a sum over windows of dy, spread by the stride

    Keeps x's shape only. Shapes: x (b, n..., c), y (b, m..., c). `stride` is the window by default; `padding` is
    "VALID", "SAME" or ((low, high), ...), and is not counted. Raises LayerError for another rank, where no output is
    left, and for padding of a whole window.
    """

    window: Sizes = (2, 2)
    stride: int | Sizes | None = None
    padding: str | tuple[tuple[int, int], ...] = "VALID"

    def _geometry(self, shape):
        stride = self.window if self.stride is None else spread(self.stride, len(self.window))
        return stride, paddings(self.padding, shape[1:-1], self.window, stride)

    def _counts(self, shape):
        """n[p], a constant: the product over the axes of how many places of each window are inside."""
        counts = np.ones((), np.int64)
        for n, w, s, (low, high) in zip(shape[1:-1], self.window, *self._geometry(shape), strict=True):
            starts = np.arange((n + low + high - w) // s + 1) * s - low
            counts = counts[..., None] * (np.minimum(starts + w, n) - np.maximum(starts, 0))
        return counts[None, ..., None]

    def forward(self, params, x, /):
        check_windows(self, floats(self, x, f"(batch, {'n, ' * len(self.window)}channels)", rank=len(self.window) + 2))
        stride, pads = self._geometry(x.shape)
        y = _window_sum(wide(x), self.window, stride, pads)
        return (y / jnp.asarray(self._counts(x.shape), y.dtype)).astype(x.dtype), Static(x.shape)

    def backward(self, params, shape, dy, /):
        stride, pads = self._geometry(shape.value)
        d = wide(dy) / jnp.asarray(self._counts(shape.value), wide(dy).dtype)
        back = []
        for n, m, w, s, (low, _) in zip(shape.value[1:-1], dy.shape[1:-1], self.window, stride, pads, strict=True):
            before = w - 1 - low
            back.append((before, n + w - 1 - before - ((m - 1) * s + 1)))
        return _window_sum(d, self.window, (1,) * len(stride), back, spread=stride).astype(dy.dtype), ()

    def reference(self, params, x, /):
        """Window by window, each cut out of x."""
        stride, pads = self._geometry(x.shape)
        starts = [
            [p * s - low for p in range((n + low + high - w) // s + 1)]
            for n, w, s, (low, high) in zip(x.shape[1:-1], self.window, stride, pads, strict=True)
        ]
        sizes = [len(s) for s in starts]
        means = []
        for corner in itertools.product(*starts):
            inside = tuple(slice(max(a, 0), a + w) for a, w in zip(corner, self.window, strict=True))
            means.append(x[(slice(None), *inside)].mean(tuple(range(1, x.ndim - 1))))
        return jnp.stack(means, 1).reshape(x.shape[0], *sizes, x.shape[-1])


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
class AdaptiveAveragePool(Layer):
    """y = the means of x over bins that cut each spatial axis in `sizes` parts: y = A x along each axis.

        dx = Aᵀ dy along each axis

    Bin i of m over n places holds ⌊i n / m⌋ to ⌈(i + 1) n / m⌉ (as in PyTorch), so bins may share places. Keeps x's
    shape only. Shapes: x (b, n..., c), y (b, sizes..., c). Raises LayerError for another rank and an empty axis.
    """

    sizes: Sizes

    def _bins(self, n, m):
        i = np.arange(m)
        first, last = i * n // m, -(-(i + 1) * n // m)
        places = np.arange(n)[None]
        return ((places >= first[:, None]) & (places < last[:, None])) / (last - first)[:, None]

    def _along(self, x, shape, equation):
        for axis, (n, m) in enumerate(zip(shape, self.sizes, strict=True), 1):
            x = jnp.moveaxis(
                jnp.einsum(equation, jnp.asarray(self._bins(n, m), x.dtype), jnp.moveaxis(x, axis, 0)), 0, axis
            )
        return x

    def forward(self, params, x, /):
        floats(self, x, f"(batch, {'n, ' * len(self.sizes)}channels)", rank=len(self.sizes) + 2)
        if min(x.shape[1:-1]) < 1:
            raise LayerError(self, f"got x {show(x)}; expected at least one place in each axis. Give larger inputs.")
        return self._along(wide(x), x.shape[1:-1], "mn,n...->m...").astype(x.dtype), Static(x.shape)

    def backward(self, params, shape, dy, /):
        return self._along(wide(dy), shape.value[1:-1], "mn,m...->n...").astype(dy.dtype), ()

    def reference(self, params, x, /):
        """Bin by bin, each cut out of x."""
        for axis, m in enumerate(self.sizes, 1):
            n = x.shape[axis]
            bins = [slice(math.floor(i * n / m), math.ceil((i + 1) * n / m)) for i in range(m)]
            x = jnp.stack([x[(*(slice(None),) * axis, part)].mean(axis) for part in bins], axis)
        return x


CASES = (
    Case(AveragePool(), f(2, 5, 3, 2)),
    Case(AveragePool((3, 2), stride=(2, 1), padding="SAME"), f(2, 5, 3, 2)),
    Case(AveragePool((3,), stride=1, padding=((2, 1),)), f(2, 5, 3)),
    Case(AveragePool((5,), stride=1, padding="SAME"), f(2, 5, 3)),
    Case(AdaptiveAveragePool((3, 2)), f(2, 5, 3, 2)),
    Case(AdaptiveAveragePool((8,)), f(2, 5, 3)),
)
