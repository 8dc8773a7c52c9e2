"""Other numbers of places along the spatial axes: the nearest one's value, or an interpolation between several."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jbp.cases import Case, f
from jbp.errors import LayerError, show
from jbp.fields import Hint, Range
from jbp.layer import Layer
from jbp.layers.windows import Axes, agree, spatial, spread
from jbp.numerics import Static, wide

Mode = Literal["nearest", "linear", "bilinear", "trilinear", "cubic", "bicubic"]
Factor = Annotated[float, Range(1, 2**16)]
Factors = Annotated[
    Factor | tuple[Factor, ...],
    Hint("Write one number for every spatial axis, or a tuple with one for each. Resize makes inputs smaller."),
]


@dataclass(frozen=True)
class Resize(Layer):
    """y = A x along each spatial axis, to the numbers of places `sizes`.      dx = Aᵀ dy along each

    Row i of A has the weights of x's places around the point r = (i + ½) n / m − ½, for n places made m, or
    r = i (n − 1) / (m − 1) with `align_corners`, which puts the first on the first and the last on the last. `mode`
    "nearest" takes the place ⌊i n / m⌋; "linear" (or bilinear, trilinear: the same on any number of axes) the two
    around r; "cubic" (or bicubic) the four (Keys, *Cubic Convolution Interpolation*, 1981, with a = −3/4). Beyond
    the edge x is its outermost place. As in PyTorch; smaller outputs are not smoothed: AdaptiveAveragePool does that.
    Keeps x's shape only. Shapes: x (b, n..., c), y (b, m..., c). Raises LayerError for another number of axes and an
    empty one.

    >>> Resize(5)((), jnp.array([0.0, 10.0]).reshape(1, 2, 1))[0, :, 0]
    Array([ 0.,  1.,  5.,  9., 10.], dtype=float32)
    """

    sizes: Axes
    mode: Mode = "linear"
    align_corners: bool = False

    def __post_init__(self):
        super().__post_init__()
        agree(self, "sizes")
        check_corners(self)

    def _steps(self, shape):
        """For each spatial axis (n, m, how far apart in x two neighbours of y are)."""
        n = shape[1:-1]
        return [(n, m, n / m) for n, m in zip(n, spread(self.sizes, len(n)), strict=True)]

    def forward(self, params, x, /):
        spatial(self, x, "sizes")
        return resampled(self, x, self._steps(x.shape)), Static(x.shape)

    def backward(self, params, shape, dy, /):
        return resampled_back(self, dy, self._steps(shape.value)), ()

    def reference(self, params, x, /):
        return resampled_by_matrix(self, x, self._steps(x.shape))


@dataclass(frozen=True)
class Upsample(Layer):
    """y = x with `factors` times as many places along each spatial axis: each of them so often.      dx = Σ of dy

    The nearest neighbour's value (U-Nets go up with it and a Conv; Odena et al., *Deconvolution and Checkerboard
    Artifacts*, 2016); with another `mode`, or factors that are no whole numbers, y = A x with the A of Resize for m =
    ⌊n · factor⌋ places, of which two neighbours are 1 / factor apart. `factors` is a number for every spatial axis, or
    a tuple with one for each. Keeps x's shape at most. Shapes: x (b, n..., c), y (b, n · factor ..., c). Raises
    LayerError for factors below 1 and for another number of axes.

    >>> Upsample()((), jnp.ones((1, 4, 5, 3))).shape
    (1, 8, 10, 3)
    """

    factors: Factors = (2, 2)
    mode: Mode = "nearest"
    align_corners: bool = False

    def __post_init__(self):
        super().__post_init__()
        agree(self, "factors")
        check_corners(self)

    def _copies(self, rank):
        """The factors as whole numbers, where each place is copied so often."""
        factors = spread(self.factors, rank)
        whole = self.mode == "nearest" and all(factor == int(factor) for factor in factors)
        return tuple(map(int, factors)) if whole else None

    def _steps(self, shape):
        n = shape[1:-1]
        return [(n, math.floor(n * k), 1 / k) for n, k in zip(n, spread(self.factors, len(n)), strict=True)]

    def forward(self, params, x, /):
        rank, shape = spatial(self, x, "factors"), x.shape
        if not (factors := self._copies(rank)):
            return resampled(self, x, self._steps(shape)), Static(shape)
        apart = [m for n, k in zip(shape[1:-1], factors, strict=True) for m in (n, k)]
        y = jnp.broadcast_to(jnp.expand_dims(x, _second(rank)), (shape[0], *apart, shape[-1]))
        return y.reshape(shape[0], *(n * k for n, k in zip(shape[1:-1], factors, strict=True)), shape[-1]), ()

    def backward(self, params, shape, dy, /):
        if not (factors := self._copies(dy.ndim - 2)):
            return resampled_back(self, dy, self._steps(shape.value)), ()
        apart = [m for n, k in zip(dy.shape[1:-1], factors, strict=True) for m in (n // k, k)]
        return dy.reshape(dy.shape[0], *apart, dy.shape[-1]).sum(_second(len(factors))), ()

    def reference(self, params, x, /):
        if not (factors := self._copies(x.ndim - 2)):
            return resampled_by_matrix(self, x, self._steps(x.shape))
        for axis, k in enumerate(factors):
            x = jnp.repeat(x, k, axis + 1)
        return x


def _second(rank):
    """The second of each pair of axes between batch and channels."""
    return tuple(range(2, 2 * rank + 1, 2))


def check_corners(layer):
    if layer.align_corners and layer.mode == "nearest":
        raise LayerError(
            layer, "got align_corners=True and mode='nearest'; expected an interpolation. Write mode='linear'."
        )


def _points(layer, n, m, step):
    """Where in x each of y's m places lies."""
    if layer.align_corners:
        return np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)
    return (np.arange(m) + 0.5) * step - 0.5


def _taps(layer, n, m, step):
    """The places of x that y's m places are made of, and their weights: [((m,), (m,)), ...]."""
    if layer.mode == "nearest":
        return [(np.minimum(np.floor(np.arange(m) * step), n - 1).astype(np.int32), None)]
    r = _points(layer, n, m, step)
    if layer.mode.endswith("linear"):
        r = r.clip(0, n - 1)
        first = np.floor(r).astype(np.int32)
        t = r - first
        return [(first, 1 - t), (np.minimum(first + 1, n - 1), t)]
    first = np.floor(r).astype(np.int32)
    t, a = r - first, -0.75
    near = [((a + 2) * u - (a + 3)) * u * u + 1 for u in (t, 1 - t)]
    far = [((a * u - 5 * a) * u + 8 * a) * u - 4 * a for u in (1 + t, 2 - t)]
    weights = far[0], near[0], near[1], far[1]
    return [((first + k - 1).clip(0, n - 1), weight) for k, weight in enumerate(weights)]


def resampled(layer, x, steps):
    """y = A x along each spatial axis, as a sum over the few places of x that each of y's is made of."""
    if min(x.shape[1:-1]) < 1:
        raise LayerError(layer, f"got x {show(x)}; expected at least one place in each axis. Give larger inputs.")
    y = x if layer.mode == "nearest" else wide(x)
    for axis, (n, m, step) in enumerate(steps, 1):
        shape = (*(1,) * axis, m, *(1,) * (x.ndim - axis - 1))
        parts = [
            (y.take(at, axis) if weight is None else y.take(at, axis) * jnp.asarray(weight.reshape(shape), y.dtype))
            for at, weight in _taps(layer, n, m, step)
        ]
        y = sum(parts[1:], parts[0])
    return y.astype(x.dtype)


def resampled_back(layer, dy, steps):
    """dx = Aᵀ dy along each spatial axis, as a product: sums into places go badly in parallel."""
    dx = wide(dy)
    for axis, (n, m, step) in enumerate(steps, 1):
        a = np.zeros((m, n))
        for at, weight in _taps(layer, n, m, step):
            np.add.at(a, (np.arange(m), at), 1.0 if weight is None else weight)
        dx = product_along(a.T, dx, axis)
    return dx.astype(dy.dtype)


def product_along(a: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    """A x along an axis of x, in full precision on every platform."""
    y = jnp.einsum("mn,n...->m...", jnp.asarray(a, x.dtype), jnp.moveaxis(x, axis, 0), precision="highest")
    return jnp.moveaxis(y, 0, axis)


def resampled_by_matrix(layer, x, steps):
    """The definition: A from the kernel of the interpolation, as a function of the distance to every place."""

    def cubic(u):
        u, a = abs(u), -0.75
        near = (a + 2) * u**3 - (a + 3) * u**2 + 1
        far = a * u**3 - 5 * a * u**2 + 8 * a * u - 4 * a
        return jnp.where(u <= 1, near, jnp.where(u < 2, far, 0))

    for axis, (n, m, step) in enumerate(steps, 1):
        r = jnp.asarray(_points(layer, n, m, step), x.dtype)[:, None]
        beyond = jnp.arange(-3, n + 3, dtype=x.dtype)[None]  # the outermost place stands for those beyond the edge
        if layer.mode == "nearest":
            nearest = np.minimum(np.arange(m) * step, n - 1).astype(int)
            a = jnp.asarray(nearest[:, None] == np.arange(n), x.dtype)
        else:
            kernel = cubic if layer.mode.endswith("cubic") else lambda u: jnp.maximum(1 - abs(u), 0)
            weights = kernel(r - beyond)
            a = weights[:, 3:-3]
            a = a.at[:, 0].add(weights[:, :3].sum(1)).at[:, -1].add(weights[:, -3:].sum(1))
        x = jnp.moveaxis(jnp.tensordot(a, jnp.moveaxis(x, axis, 0), 1), 0, axis)
    return x


CASES = (
    Case(Upsample(), f(2, 5, 3, 2), f(1, 2, 1, 3)),
    Case(Upsample((2,)), f(2, 5, 3)),
    Case(Upsample(2, "linear"), f(2, 3, 2), f(1, 2, 3, 1)),
    Case(Upsample(1.6), f(2, 3, 2)),
    Case(Resize((5, 2), "bilinear", align_corners=True), f(1, 3, 4, 2)),
    Case(Resize(5, "cubic"), f(2, 3, 2)),
    Case(Resize(3, "nearest"), f(2, 5, 2)),
)
