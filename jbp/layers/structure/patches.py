"""Windows as channels and back, and places traded for channels."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.fields import Size
from jbp.layer import Layer
from jbp.layers.windows import Axes, Padding, agree, spatial, spread, windows
from jbp.numerics import Static


@dataclass(frozen=True)
class Unfold(Layer):
    """y[p] = x[p·stride + k·dilation − low] for every place k of the window, one after the other as channels.

        dx[q] = Σ of dy[p] at k over all p, k with p·stride + k·dilation − low = q, which is Fold

    A convolution is Unfold and then Dense (im2col): its features are the window's places in row-major order, each with
    all channels of x. Unfold(16, 16) cuts a picture into the patches of a vision transformer. Keeps x's shape only.
    Shapes: x (b, n..., c), y (b, m..., window · c), m as for Conv; padding holds zeros. Raises LayerError for another
    number of axes and where no window fits.

    >>> Unfold(2, stride=2)((), jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 12)
    """

    window: Axes
    stride: Axes = 1
    padding: Padding = "VALID"
    dilation: Axes = 1

    def __post_init__(self):
        super().__post_init__()
        agree(self, "window", "stride", "padding", "dilation")

    def forward(self, params, x, /):
        spatial(self, x, "window", "stride", "padding", "dilation")
        return _unfold(windows(self, x.shape, whole=True), x), Static(x.shape)

    def backward(self, params, shape, dy, /):
        return _fold(windows(self, shape.value, whole=True), dy), ()

    def reference(self, params, x, /):
        """Window by window, each cut out of the padded x."""
        slide = windows(self, x.shape, whole=True)
        padded = jnp.pad(x, ((0, 0), *slide.pads, (0, 0)))
        channels = math.prod(slide.window) * x.shape[-1]
        y = [padded[(slice(None), *_cut(slide, p))].reshape(x.shape[0], channels) for p in np.ndindex(*slide.number)]
        return jnp.stack(y, 1).reshape(x.shape[0], *slide.number, channels)


@dataclass(frozen=True)
class Fold(Layer):
    """y[q] = Σ of x[p] at k over all p, k with p·stride + k·dilation − low = q: windows that were channels, added up.

        dx[p] = dy[p·stride + k·dilation − low] for every place k of the window as channels, which is Unfold

    The transpose of Unfold to the spatial `sizes`: where windows overlap their numbers are added. Keeps nothing.
    Shapes: x (b, m..., window · c), y (b, sizes..., c), m being how many windows Unfold finds there. Raises LayerError
    for another number of axes or of windows, and for channels that the window's places do not divide.

    >>> patches = Unfold(2)((), jnp.ones((1, 4, 4, 3)))
    >>> Fold((4, 4), 2)((), patches)[0, :, :, 0]
    Array([[1., 2., 2., 1.],
           [2., 4., 4., 2.],
           [2., 4., 4., 2.],
           [1., 2., 2., 1.]], dtype=float32)
    """

    sizes: Axes
    window: Axes
    stride: Axes = 1
    padding: Padding = "VALID"
    dilation: Axes = 1

    def __post_init__(self):
        super().__post_init__()
        agree(self, "sizes", "window", "stride", "padding", "dilation")

    def _windows(self, rank):
        return windows(self, (1, *spread(self.sizes, rank), 1), whole=True)

    def forward(self, params, x, /):
        rank = spatial(self, x, "sizes", "window", "stride", "padding", "dilation")
        slide = self._windows(rank)
        places = math.prod(slide.window)
        if x.shape[1:-1] != slide.number or x.shape[-1] % places:
            raise LayerError(
                self,
                f"got x {show(x)}; expected {slide.number} windows, with channels that are a multiple of their "
                f"{places} places. Give what Unfold makes of an array of these sizes, or change the sizes.",
            )
        return _fold(slide, x), ()

    def backward(self, params, residuals, dy, /):
        return _unfold(self._windows(dy.ndim - 2), dy), ()

    def reference(self, params, x, /):
        """Window by window, each added to the padded y, whose border is then cut off."""
        slide = self._windows(x.ndim - 2)
        full = [n + low + high for n, (low, high) in zip(slide.sizes, slide.pads, strict=True)]
        b, c = x.shape[0], x.shape[-1] // math.prod(slide.window)
        y = jnp.zeros((b, *full, c), x.dtype)
        for p in np.ndindex(*slide.number):
            y = y.at[(slice(None), *_cut(slide, p))].add(x[(slice(None), *p)].reshape(b, *slide.window, c))
        inside = [slice(low, low + n) for n, (low, _) in zip(slide.sizes, slide.pads, strict=True)]
        return y[(slice(None), *inside)]


def _cut(slide, p):
    """Where window p lies in the padded x."""
    return tuple(
        slice(i * s, i * s + d * (k - 1) + 1, d)
        for i, s, d, k in zip(p, slide.stride, slide.dilation, slide.window, strict=True)
    )


def _unfold(slide, x):
    if slide.apart:
        b, *n, c = _tiled(slide, x, 1).shape
        x = _tiled(slide, x, 1).reshape(b, *_pairs(slide), c).transpose(_apart(len(n)))
        return x.reshape(b, *slide.number, math.prod(slide.window) * c)
    return jnp.concatenate(list(slide.parts(x)), -1)


def _fold(slide, y):
    b, c = y.shape[0], y.shape[-1] // math.prod(slide.window)
    if slide.apart:
        back = np.argsort(_apart(len(slide.sizes)))
        x = y.reshape(b, *slide.number, *slide.window, c).transpose(back)
        return _tiled(slide, x.reshape(b, *(m * w for m, w in zip(slide.number, slide.window, strict=True)), c), -1)
    return slide.gathered(jnp.split(y, math.prod(slide.window), -1))


def _tiled(slide, x, sign):
    """x cut or filled to what windows that do not overlap cover, or (sign −1) such an array as large as x."""
    whole = zip(slide.sizes, slide.pads, slide.number, slide.window, strict=True)
    widths = [(sign * low, sign * (m * w - n - low), 0) for n, (low, _), m, w in whole]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *widths, (0, 0, 0)))


def _pairs(slide):
    return [k for pair in zip(slide.number, slide.window, strict=True) for k in pair]


def _apart(rank):
    """The order of (b, m₀, w₀, m₁, w₁, ..., c) that puts the windows' places after the windows."""
    return (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)


@dataclass(frozen=True)
class PixelShuffle(Layer):
    """y[r p + k] = x[p] at the channels c r... + k: groups of channels spread over r × r × ... places.

        dx = dy put back

    Upsampling whose numbers a convolution has made before, as channels (Shi et al., *Real-Time Super-Resolution Using
    an Efficient Sub-Pixel Convolution*, 2016). Of the channels that become one, the places in row-major order come next
    to each other (as in PyTorch). `factor` is a number for every spatial axis, or a tuple. Keeps nothing. Shapes: x
    (b, n..., c · Π r), y (b, n · r ..., c). Raises LayerError for channels that the factors do not divide.

    >>> PixelShuffle(2)((), jnp.ones((1, 4, 4, 12))).shape
    (1, 8, 8, 3)
    """

    factor: Axes

    def forward(self, params, x, /):
        factor = spread(self.factor, spatial(self, x, "factor"))
        if x.shape[-1] % math.prod(factor):
            raise LayerError(
                self,
                f"got x {show(x)}; expected channels that are a multiple of {math.prod(factor)}. "
                "Make as many with a Conv before.",
            )
        return _to_places(x, factor), ()

    def backward(self, params, residuals, dy, /):
        return _to_channels(dy, spread(self.factor, dy.ndim - 2)), ()

    def reference(self, params, x, /):
        factor = spread(self.factor, x.ndim - 2)
        each = math.prod(factor)
        y = jnp.zeros((x.shape[0], *(n * r for n, r in zip(x.shape[1:-1], factor, strict=True)), x.shape[-1] // each))
        y = y.astype(x.dtype)
        for k, at in enumerate(np.ndindex(*factor)):
            every = tuple(slice(a, None, r) for a, r in zip(at, factor, strict=True))
            y = y.at[(slice(None), *every)].set(x[..., k::each])
        return y


@dataclass(frozen=True)
class PixelUnshuffle(Layer):
    """y[p] at the channels c r... + k = x[r p + k]: blocks of r × r × ... places as channels.      dx = dy put back

    The inverse of PixelShuffle: no number is lost where a picture gets smaller. `factor` is a number for every spatial
    axis, or a tuple. Keeps nothing. Shapes: x (b, n · r ..., c), y (b, n..., c · Π r). Raises LayerError for sizes that
    the factors do not divide.

    >>> PixelUnshuffle(2)((), jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 12)
    """

    factor: Axes

    def forward(self, params, x, /):
        factor = spread(self.factor, spatial(self, x, "factor"))
        if any(n % r for n, r in zip(x.shape[1:-1], factor, strict=True)):
            raise LayerError(
                self, f"got x {show(x)}; expected spatial sizes that {factor} divide. Pad or crop x before, with Pad."
            )
        return _to_channels(x, factor), ()

    def backward(self, params, residuals, dy, /):
        return _to_places(dy, spread(self.factor, dy.ndim - 2)), ()

    def reference(self, params, x, /):
        factor = spread(self.factor, x.ndim - 2)
        parts = [
            x[(slice(None), *(slice(a, None, r) for a, r in zip(at, factor, strict=True)))]
            for at in np.ndindex(*factor)
        ]
        y = jnp.stack(parts, -1)
        return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])


def _to_places(x, factor):
    b, *n, c = x.shape
    rank, c = len(n), c // math.prod(factor)
    order = [0, *(k for axis in range(rank) for k in (1 + axis, 2 + rank + axis)), 1 + rank]
    y = x.reshape(b, *n, c, *factor).transpose(order)
    return y.reshape(b, *(m * r for m, r in zip(n, factor, strict=True)), c)


def _to_channels(y, factor):
    b, *n, c = y.shape
    rank = len(n)
    x = y.reshape(b, *(k for m, r in zip(n, factor, strict=True) for k in (m // r, r)), c)
    order = 0, *range(1, 2 * rank, 2), 2 * rank + 1, *range(2, 2 * rank + 1, 2)
    return x.transpose(order).reshape(b, *(m // r for m, r in zip(n, factor, strict=True)), c * math.prod(factor))


@dataclass(frozen=True)
class ChannelShuffle(Layer):
    """y = x with its channels dealt out: from `groups` groups in turn, the first of each, the second of each ...

        dx = dy put back

    Between grouped convolutions, so that each sees something of every group (Zhang et al., *ShuffleNet*, 2018, §3.1).
    Keeps nothing. Shapes: x and y (..., c). Raises LayerError for channels that the groups do not divide.

    >>> ChannelShuffle(2)((), jnp.array([[1.0, 2.0, 3.0, 4.0]]))
    Array([[1., 3., 2., 4.]], dtype=float32)
    """

    groups: Size

    def forward(self, params, x, /):
        c = floats(self, x, "(..., channels)").shape[-1]
        if c % self.groups:
            raise LayerError(
                self, f"got x {show(x)}; expected channels that are a multiple of {self.groups}. Change the groups."
            )
        return _swapped(x, self.groups), ()

    def backward(self, params, residuals, dy, /):
        return _swapped(dy, dy.shape[-1] // self.groups), ()

    def reference(self, params, x, /):
        each = x.shape[-1] // self.groups
        return jnp.stack([x[..., g * each + k] for k in range(each) for g in range(self.groups)], -1)


def _swapped(x, groups):
    *rest, c = x.shape
    return jnp.swapaxes(x.reshape(*rest, groups, c // max(groups, 1)), -1, -2).reshape(x.shape)


CASES = (
    Case(ChannelShuffle(2), f(3, 4), f(2, 3, 8)),
    Case(PixelShuffle(2), f(2, 3, 4), f(1, 2, 3, 8)),
    Case(PixelShuffle((2, 1)), f(1, 2, 3, 4)),
    Case(PixelUnshuffle((2, 1)), f(1, 4, 3, 2)),
    Case(Unfold(2, 2), f(2, 5, 2), f(1, 4, 2, 3)),
    Case(Unfold((2, 3), (1, 2), (1, (0, 1)), (2, 1)), f(2, 3, 4, 2)),
    Case(Fold(4, 2, 2), f(2, 2, 4)),
    Case(Fold(5, 1), f(2, 5, 3)),
    Case(Fold(2, 2), f(2, 1, 4)),
    Case(Fold((3, 4), (2, 3), (1, 2), (1, (0, 1)), (2, 1)), f(2, 3, 2, 6)),
)
