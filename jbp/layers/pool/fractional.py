"""Max pooling over windows that lie at random."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, parts, show, take
from jbp.fields import Hint, Inside, Rate
from jbp.keys import split
from jbp.layer import Layer
from jbp.layers.pool.maximum import largest, scattered
from jbp.layers.windows import Axes, agree, spatial, spread
from jbp.numerics import Static, wide
from jbp.params import Buffer

Ratios = Annotated[
    Inside | tuple[Inside, ...], Hint("Write how much of each axis is left, 0.7 for example, or a tuple with one each.")
]


@dataclass(frozen=True)
class FractionalMaxPool(Layer):
    """y = the maxima of x over windows that begin at ⌊(i + u) α⌋ − ⌊u α⌋.

        dx = Σ dy of the windows that x is maximal in

    α = (n − window) / (m − 1) for n places and m windows, the last of which ends with x, and u is drawn from [0, 1) for
    each example, channel and axis: sizes get smaller by any `ratio`, ⌊n · ratio⌋, or to `sizes` (Graham, *Fractional
    Max-Pooling*, 2014; as in PyTorch). Of equal values the first in row-major order is the maximum. Buffer: the key
    from which u is drawn, split by `advance`; `evaluation` has u = ½ everywhere, which a `sample` sets. x may be
    (x, u) with u (b, c, number of spatial axes) given, and then there are no parameters. With `return_indices` the
    output is (y, indices) as in MaxPool. Keeps these. Shapes: x (b, n..., c), y (b, m..., c). Raises LayerError for
    another number of axes, and for windows or sizes larger than x.

    >>> layer, x = FractionalMaxPool(sizes=(3, 3)), jnp.ones((1, 5, 5, 2))
    >>> y, params = layer(layer.init(jax.random.key(0), x), x, has_aux=True)
    >>> y.shape
    (1, 3, 3, 2)
    """

    window: Axes = (2, 2)
    ratio: Ratios | None = None
    sizes: Axes | None = None
    sample: Rate | None = None
    return_indices: bool = False

    def __post_init__(self):
        super().__post_init__()
        agree(self, "window", "ratio", "sizes")
        if (self.ratio is None) == (self.sizes is None):
            raise LayerError(
                self,
                f"got ratio={self.ratio} and sizes={self.sizes}; expected one of the two. "
                "Write ratio=0.7, or the sizes of the output.",
            )

    def _split(self, given):
        """x and the samples, None where they are to be drawn."""
        return parts(self, given, "x", "u") if isinstance(given, tuple | list) else (given, None)

    def _number(self, shape):
        n = shape[1:-1]
        if self.sizes is not None:
            return spread(self.sizes, len(n))
        return tuple(max(math.floor(n * r), 1) for n, r in zip(n, spread(self.ratio, len(n)), strict=True))

    def _check(self, given):
        x, u = self._split(given)
        rank = spatial(self, x, "window", "ratio", "sizes")
        window = spread(self.window, rank)
        if any(m + k - 1 > n for n, m, k in zip(x.shape[1:-1], self._number(x.shape), window, strict=True)):
            raise LayerError(
                self,
                f"got x {show(x)}; expected windows and an output that fit into it, size + window − 1 places in each "
                "axis. Use a smaller window, or fewer outputs.",
            )
        whole = jnp.issubdtype(getattr(u, "dtype", bool), jnp.floating)
        if x is not given and (u is None or not whole or u.shape != (x.shape[0], x.shape[-1], rank)):
            raise LayerError(
                self,
                f"got x {show(x)} and samples {show(u)}; expected floats in [0, 1) of the shape "
                f"{[x.shape[0], x.shape[-1], rank]}. Give one for each example, channel and spatial axis.",
            )
        return x, u

    def init(self, key, given, /):
        return () if self._check(given)[1] is not None else {"key": Buffer(key)}

    def _samples(self, params, x, u):
        if u is not None:
            take(self, params, x.dtype)
            return wide(u)
        (key,) = take(self, params, x.dtype, key=())
        shape = x.shape[0], x.shape[-1], x.ndim - 2
        return jnp.full(shape, self.sample, jnp.float32) if self.sample is not None else jax.random.uniform(key, shape)

    def _starts(self, x, u, axis):
        """Where the windows along a spatial axis begin, (b, m, c)."""
        n, m, k = x.shape[1 + axis], self._number(x.shape)[axis], spread(self.window, x.ndim - 2)[axis]
        u = u[:, None, :, axis]
        alpha = jnp.asarray((n - k) / max(m - 1, 1), u.dtype)
        i = jnp.arange(m - 1, dtype=u.dtype)[None, :, None]
        starts = jnp.floor((i + u) * alpha) - jnp.floor(u * alpha)
        last = jnp.full((*u.shape[:1], 1, *u.shape[2:]), n - k, jnp.int32)
        return jnp.concatenate([starts.astype(jnp.int32).clip(0, n - k), last], 1)

    def forward(self, params, given, /):
        x, u = self._check(given)
        drawn, window = self._samples(params, x, u), spread(self.window, x.ndim - 2)
        bins = [
            self._starts(x, drawn, axis)[:, :, None] + np.arange(k, dtype=np.int32)[None, None, :, None]
            for axis, k in enumerate(window)
        ]
        y, index = largest(x, bins)
        samples = None if u is None else Static((u.shape, u.dtype))
        return ((y, index) if self.return_indices else y), (index, samples, Static(x.shape))

    def backward(self, params, residuals, dy, /):
        index, samples, shape = residuals
        dx = scattered(index, dy[0] if self.return_indices else dy, shape.value)
        return (dx if samples is None else (dx, jnp.zeros(*samples.value))), ()

    def gradient(self, residuals, delta, /):
        return {"key": None} if residuals[1] is None else ()

    @property
    def advances(self) -> bool:
        return self.sample is None

    def advance(self, params, residuals, /):
        drawn = residuals[1] is None and self.advances
        return split(params) if drawn else params

    def evaluation(self):
        return replace(self, sample=0.5)

    def reference(self, params, given, /):
        """Window by window, by the places that each example and channel has."""
        x, u = self._split(given)
        drawn, window = lax.stop_gradient(self._samples(params, x, u)), spread(self.window, x.ndim - 2)
        starts = [self._starts(x, drawn, axis) for axis in range(len(window))]
        b, c = jnp.arange(x.shape[0])[:, None], jnp.arange(x.shape[-1])[None]
        y, index = [], []
        for p in np.ndindex(*(s.shape[1] for s in starts)):
            places = [[s[:, i] + k for s, i, k in zip(starts, p, at, strict=True)] for at in np.ndindex(*window)]
            values = jnp.stack([x[(b, *at, c)] for at in places])
            best = lax.stop_gradient(jnp.argmax(values, 0))[None]
            flat = jnp.stack([jnp.ravel_multi_index(at, x.shape[1:-1], mode="clip") for at in places])
            y.append(jnp.take_along_axis(values, best, 0)[0])
            index.append(jnp.take_along_axis(flat, best, 0)[0])
        number = [s.shape[1] for s in starts]
        y, index = (jnp.stack(v, 1).reshape(x.shape[0], *number, x.shape[-1]) for v in (y, index))
        return (y, index.astype(jnp.int32)) if self.return_indices else y


CASES = (
    Case(FractionalMaxPool(2, ratio=0.6), f(2, 5, 3), f(1, 4, 5, 2)),
    Case(FractionalMaxPool((2, 1), sizes=(2, 3), sample=0.5), f(1, 4, 3, 2)),
    Case(FractionalMaxPool(2, sizes=3), (f(2, 5, 3), f(2, 3, 1))),
)
