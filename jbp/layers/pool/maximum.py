"""Pooling over windows: channels last, any number of spatial axes."""

import itertools
import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.layer import Layer
from jbp.layers.conv.convolution import Sizes, paddings, spread
from jbp.numerics import Static


@dataclass(frozen=True)
class MaxPool(Layer):
    """y[p] = max_k x[p·stride + k].      dx[q] = Σ dy[p] over the windows p whose maximum is at q

    Of equal values the first in row-major order is the maximum (as in cuDNN, PyTorch and XLA). Keeps one byte an
    output: the place of the maximum in its window. Shapes: x (b, n..., c), y (b, m..., c). `stride` is the window by
    default; `padding` is "VALID", "SAME" or ((low, high), ...), and padded places never win. Raises LayerError for
    another rank, a window of more than 256 places, or where no output is left.
    """

    window: Sizes = (2, 2)
    stride: int | Sizes | None = None
    padding: str | tuple[tuple[int, int], ...] = "VALID"

    def __post_init__(self):
        super().__post_init__()
        if len(list(self._places())) > 256:
            raise LayerError(
                self,
                f"got window {self.window}; expected at most 256 places. Pool twice with smaller windows.",
            )

    def _places(self):
        return itertools.product(*map(range, self.window))

    def _geometry(self, shape):
        stride = self.window if self.stride is None else spread(self.stride, len(self.window))
        return stride, paddings(self.padding, shape[1:-1], self.window, stride)

    def _windows(self, x):
        """For each place k of the window, the strided part of the padded x that holds x[p·stride + k] at p."""
        stride, pads = self._geometry(x.shape)
        x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)))
        sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], self.window, stride, strict=True)]
        for k in self._places():
            ends = [a + (m - 1) * s + 1 for a, m, s in zip(k, sizes, stride, strict=True)]
            yield lax.slice(x, (0, *k, 0), (x.shape[0], *ends, x.shape[-1]), (1, *stride, 1))

    def forward(self, params, x, /):
        floats(self, x, f"(batch, {'n, ' * len(self.window)}channels)", rank=len(self.window) + 2)
        check_windows(self, x)
        if self._geometry(x.shape)[0] == self.window:
            y, place = self._greatest(x)
        else:
            y, place = lax.platform_dependent(x, cpu=self._one_by_one, default=self._greatest)
        return y, (place, Static(x.shape))

    def _one_by_one(self, x):
        """A loop over the examples, for windows that overlap. Else XLA merges the search into the way back on CPUs,
        where it runs once for each place of the window, and keeps x for it: measured, twice as slow."""
        y, place = lax.map(self._greatest, x[:, None])
        return y[:, 0], place[:, 0]

    def _greatest(self, x):
        """(y, the place of the maximum in its window)."""
        y, *others = self._windows(x)
        place = jnp.zeros(y.shape, jnp.uint8)
        for k, here in enumerate(others, 1):
            place = jnp.where(here > y, jnp.uint8(k), place)
            y = jnp.maximum(y, here)
        return y, place

    def backward(self, params, residuals, dy, /):
        place, shape = residuals
        stride, pads = self._geometry(shape.value)
        if stride == self.window:
            return self._apart(place, shape.value, pads, dy), ()
        full = [n + sum(p) for n, p in zip(shape.value[1:-1], pads, strict=True)]
        zero, dx = jnp.zeros((), dy.dtype), 0
        for k, at in enumerate(self._places()):
            # where this place of the window lies: after `at`, `stride` apart, cut or filled to the padded size
            spots = [
                (a, n - a - (m - 1) * s - 1, s - 1) for a, n, m, s in zip(at, full, dy.shape[1:-1], stride, strict=True)
            ]
            dx += lax.pad(jnp.where(place == k, dy, 0), zero, ((0, 0, 0), *spots, (0, 0, 0)))
        crop = [(-low, -high, 0) for low, high in pads]
        return lax.pad(dx, zero, ((0, 0, 0), *crop, (0, 0, 0))), ()

    def _apart(self, place, shape, pads, dy):
        """Windows that do not overlap: every x lies in at most one, so dx is dy spread out and masked, in one go."""
        m, window = dy.shape[1:-1], self.window
        b, c = dy.shape[0], dy.shape[-1]
        outer = (b, *itertools.chain(*((n, 1) for n in m)), c)  # b, m₀, 1, m₁, 1, ..., c
        inner = (1, *itertools.chain(*((1, w) for w in window)), 1)  # 1, 1, w₀, 1, w₁, ..., 1
        k = jnp.arange(math.prod(window), dtype=jnp.uint8).reshape(inner)
        dx = jnp.where(place.reshape(outer) == k, dy.reshape(outer), 0)
        dx = dx.reshape(b, *(n * w for n, w in zip(m, window, strict=True)), c)
        fit = [(-low, n + low - i * w, 0) for (low, _), n, i, w in zip(pads, shape[1:-1], m, window, strict=True)]
        return lax.pad(dx, jnp.zeros((), dy.dtype), ((0, 0, 0), *fit, (0, 0, 0)))

    def reference(self, params, x, /):
        """The maximum is x at a place that is found first, by argmax, which takes the first of equal values."""
        parts = jnp.stack(list(self._windows(x)))
        return jnp.take_along_axis(parts, lax.stop_gradient(jnp.argmax(parts, 0, keepdims=True)), 0)[0]


def check_windows(layer, x):
    """An error where no window fits into x, and where a window could hold nothing but padding."""
    _, pads = layer._geometry(x.shape)
    if any(n + sum(p) < k for n, p, k in zip(x.shape[1:-1], pads, layer.window, strict=True)):
        raise LayerError(
            layer, f"got x {show(x)}; expected spatial sizes of at least the window's. Pad, or use a smaller window."
        )
    if any(not 0 <= side < k for p, k in zip(pads, layer.window, strict=True) for side in p):
        raise LayerError(
            layer, f"got padding {pads}; expected 0 to less than the window {layer.window}. Pad less, or crop x."
        )


@dataclass(frozen=True)
class GlobalMaxPool(Layer):
    """y = the maximum of x over its spatial axes.      dx = dy at the maximum, else 0

    Of equal values the first in row-major order is the maximum. Keeps its place, one integer an output. Shapes:
    x (b, n..., c), y (b, c). Raises LayerError for fewer than three axes and for no places at all.
    """

    def forward(self, params, x, /):
        b, *n, c = floats(self, x, "(batch, n, ..., channels)", least=3).shape
        if not math.prod(n):
            raise LayerError(self, f"got x {show(x)}; expected at least one place in each axis. Give larger inputs.")
        flat = x.reshape(b, math.prod(n), c)
        return flat.max(1), (lax.argmax(flat, 1, jnp.int32), Static(x.shape))

    def backward(self, params, residuals, dy, /):
        place, shape = residuals
        b, *n, c = shape.value
        here = lax.broadcasted_iota(jnp.int32, (b, math.prod(n), c), 1) == place[:, None]
        return jnp.where(here, dy[:, None], 0).reshape(shape.value), ()

    def reference(self, params, x, /):
        """Place by place; a later one wins only where it is larger."""
        flat = x.reshape(x.shape[0], -1, x.shape[-1]) if x.size else x.reshape(0, 1, x.shape[-1])
        y = flat[:, 0]
        for place in range(1, flat.shape[1]):
            y = jnp.where(flat[:, place] > y, flat[:, place], y)
        return y


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """y = the mean of x over its spatial axes.      dx = dy / their count.  Shapes: x (b, n..., c), y (b, c)."""

    def forward(self, params, x, /):
        floats(self, x, "(batch, n, ..., channels)", least=3)
        return x.mean(tuple(range(1, x.ndim - 1))), Static(x.shape)

    def backward(self, params, shape, dy, /):
        b, *n, c = shape.value
        dy = dy / math.prod(n)
        return jnp.broadcast_to(dy.reshape(b, *(1,) * len(n), c), shape.value), ()


CASES = (
    Case(MaxPool(), f(2, 5, 3, 2)),
    Case(MaxPool((3, 3), stride=2, padding="SAME"), f(2, 5, 3, 2)),
    Case(MaxPool((2,), stride=1), f(2, 5, 3)),
    Case(GlobalMaxPool(), f(2, 5, 3), f(2, 5, 3, 2)),
    Case(GlobalAveragePool(), f(2, 5, 3), f(2, 5, 3, 2)),
)
