"""Windows over spatial axes: the fields and the arithmetic that convolutions, pools and their like share.

Channels come last. A number means the same on every spatial axis, and how many there are is known when x is; a tuple
has an entry for each of them.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.errors import LayerError, floats
from jbp.fields import Hint, Size

PLACES = 2**40
Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

Axes = Annotated[
    Size | tuple[Size, ...], Hint("Write one number for every spatial axis, or a tuple with one for each of them.")
]
Padding = Annotated[
    Literal["SAME", "VALID"] | int | tuple[int | tuple[int, int], ...],
    Hint("Write a word, one number for every side, or a tuple with a number or a pair (low, high) for each axis."),
]


def spread(value: Any, rank: int) -> tuple:
    """An entry for each of `rank` spatial axes: the tuple as it is, anything else for every axis."""
    return value if isinstance(value, tuple) else (value,) * rank


def must_fit(layer: Any, sizes: Any, pads: Pads = ()) -> None:
    """LayerError for an array over more places, padded, than any machine holds: where their number overflows, XLA ends
    the process without a word to Python."""
    sizes = [n + low + high for n, (low, high) in zip(sizes, pads, strict=True)] if pads else sizes
    if math.prod(max(int(n), 1) for n in sizes) > PLACES:
        raise LayerError(
            layer,
            f"got an array of spatial sizes {tuple(sizes)} on the way; expected no more than {PLACES} places. Pad, "
            "stretch or repeat less.",
        )


def pairs(padding: Any, rank: int) -> Pads:
    """(low, high) for each spatial axis, of a number, or a tuple of numbers and pairs."""
    return tuple(p if isinstance(p, tuple) else (p, p) for p in spread(padding, rank))


def paddings(padding: Any, sizes: Sizes, extent: Sizes, stride: Sizes) -> Pads:
    """(low, high) for each spatial axis. 'SAME' makes ⌈n / stride⌉ outputs, the odd one of the padding goes high."""
    if padding == "VALID":
        return ((0, 0),) * len(sizes)
    if padding == "SAME":
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, extent, stride, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if padding == "CAUSAL":
        return tuple((k - 1, 0) for k in extent)
    return pairs(padding, len(sizes))


def agree(layer: Any, *names: str) -> None:
    """An error unless all of these fields that are tuples have an entry for each of the same spatial axes."""
    given = {name: value for name in names if isinstance(value := getattr(layer, name), tuple)}
    first = next(iter(given), "")
    for name, value in given.items():
        if not value:
            raise LayerError(layer, f"got {name}=(); expected one or more spatial axes. Write {name}=1 for any number.")
        if len(value) != len(given[first]):
            raise LayerError(
                layer,
                f"got {first}={given[first]} and {name}={value}; expected an entry for each of the same spatial axes. "
                f"Write {name}={value[0]} for every axis, or a tuple of {len(given[first])}.",
            )


def spatial(layer: Any, x: Any, *names: str) -> int:
    """How many spatial axes x has: as many as the fields of these names, where one is a tuple, or else one or more."""
    given = [len(value) for name in names if isinstance(value := getattr(layer, name), tuple)]
    if given:
        floats(layer, x, f"(batch, {'n, ' * given[0]}channels)", rank=given[0] + 2)
    else:
        floats(layer, x, "(batch, n..., channels)", least=3)
    return len(x.shape) - 2


@dataclass(frozen=True)
class Windows:
    """How windows lie over the spatial axes: window p of an axis holds the places p·stride + k·dilation − low of x.

    `counted` has the padding that was asked for, `pads` also what the last window of `ceil_mode` needs.
    """

    sizes: Sizes
    window: Sizes
    stride: Sizes
    dilation: Sizes
    counted: Pads
    pads: Pads
    number: Sizes

    @property
    def apart(self) -> bool:
        """Whether the windows tile x, so that none of its places lies in two."""
        return self.stride == self.window and set(self.dilation) == {1}

    def starts(self, axis: int) -> np.ndarray:
        """The first place of each window along an axis, which may lie in the padding."""
        return np.arange(self.number[axis]) * self.stride[axis] - self.pads[axis][0]

    def places(self, axis: int) -> np.ndarray:
        """The places of each window along an axis (m, k), some of them in the padding."""
        return self.starts(axis)[:, None] + np.arange(self.window[axis])[None] * self.dilation[axis]

    def inside(self, axis: int) -> np.ndarray:
        """Which of `places` are not padding (m, k)."""
        places = self.places(axis)
        return (places >= 0) & (places < self.sizes[axis])

    def offsets(self) -> Iterator[Sizes]:
        """How far each place of a window lies from its first, in row-major order."""
        for k in itertools.product(*map(range, self.window)):
            yield tuple(i * d for i, d in zip(k, self.dilation, strict=True))

    def parts(self, x: Any, fill: float = 0.0) -> Iterator[Any]:
        """For each place k of the window, the strided part of the padded x that holds x[p·stride + k·dilation] at p."""
        x = lax.pad(x, jnp.array(fill, x.dtype), ((0, 0, 0), *((*p, 0) for p in self.pads), (0, 0, 0)))
        for at in self.offsets():
            ends = [a + (m - 1) * s + 1 for a, m, s in zip(at, self.number, self.stride, strict=True)]
            yield lax.slice(x, (0, *at, 0), (x.shape[0], *ends, x.shape[-1]), (1, *self.stride, 1))

    def gathered(self, parts: Iterable[Any]) -> Any:
        """The transpose of `parts`: Σ over k of the cotangents of each place of x as the place k of its windows."""
        full = [n + sum(p) for n, p in zip(self.sizes, self.pads, strict=True)]
        dx: Any = 0
        for at, part in zip(self.offsets(), parts, strict=True):
            # where this place of the window lies: after `at`, `stride` apart, cut or filled to the padded size
            spots = [
                (a, n - a - (m - 1) * s - 1, s - 1)
                for a, n, m, s in zip(at, full, self.number, self.stride, strict=True)
            ]
            dx += lax.pad(part, jnp.zeros((), part.dtype), ((0, 0, 0), *spots, (0, 0, 0)))
        crop = [(-low, -high, 0) for low, high in self.pads]
        return lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *crop, (0, 0, 0)))


def windows(layer: Any, shape: Sizes, whole: bool = False) -> Windows:
    """The windows of a layer (its fields `window`, `stride`, `padding`, and `dilation` and `ceil_mode` if it has them)
    over x of this shape, after a check that there are some, and, unless `whole` ones of padding will do, that each
    holds a place of x.

    The last window of `ceil_mode` begins within x or its low padding (as in PyTorch).
    """
    sizes = tuple(shape[1:-1])
    rank = len(sizes)
    window, dilation = spread(layer.window, rank), spread(getattr(layer, "dilation", 1), rank)
    stride = window if layer.stride is None else spread(layer.stride, rank)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))
    counted = paddings(layer.padding, sizes, extent, stride)
    must_fit(layer, sizes, counted)
    number, pads = [], []
    for n, k, s, (low, high) in zip(sizes, extent, stride, counted, strict=True):
        m, rest = divmod(n + low + high - k, s)
        m += 1 + bool(getattr(layer, "ceil_mode", False) and rest and (m + 1) * s < n + low)
        number.append(m)
        pads.append((low, max(high, (m - 1) * s + k - n - low)))
    if min(number) < 1 or min(sizes) < 1:
        raise LayerError(
            layer,
            f"got x with the spatial sizes {sizes}; expected spatial sizes of at least the window's. Pad, or use a "
            "smaller window.",
        )
    found = Windows(sizes, window, stride, dilation, counted, tuple(pads), tuple(number))
    negative = min(side for pair in counted for side in pair) < 0
    if not whole and (negative or not all(found.inside(axis).any(1).all() for axis in range(rank))):
        raise LayerError(
            layer,
            f"got padding {counted}; expected 0 to less than the window {window}, so that each window holds a place of "
            "x. Pad less, or crop x.",
        )
    return found
