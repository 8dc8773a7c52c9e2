"""More places around the spatial axes: zeros, another number, or what x has there."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, show
from jbp.fields import Hint
from jbp.layer import Layer
from jbp.layers.windows import Pads, agree, must_fit, pairs, spatial

Border = Literal["reflect", "replicate", "circular", "symmetric"]
Widths = Annotated[
    int | tuple[int | tuple[int, int], ...],
    Hint("Write one number for every side, or a tuple with a number or a pair (before, after) for each spatial axis."),
]


@dataclass(frozen=True)
class Pad(Layer):
    """y = x with more places before and after each spatial axis; negative widths crop.

        dx = the part of dy where x lies, plus what dy says of the copies of x in the border

    `widths` is a number for every side, or a tuple with a number or a pair (before, after) for each axis between batch
    and channels. `mode` says what the border holds: "constant" `value`; "reflect" x mirrored about its outermost place
    (c b | a b c | b a), "symmetric" about its edge (b a | a b c | c b); "replicate" that place itself (a a | a b c |
    c c); "circular" x from its other end (b c | a b c | a b). Keeps nothing. Shapes: x (b, n..., c), y
    (b, before + n + after ..., c). Raises LayerError for another number of axes, where less than nothing is left, and
    for a border that x is too short to fill.

    >>> Pad(((1, 2),))((), jnp.ones((1, 2, 1)))[0, :, 0]
    Array([0., 1., 1., 0., 0.], dtype=float32)
    """

    widths: Widths
    mode: Literal["constant", Border] = "constant"
    value: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        agree(self, "widths")

    def forward(self, params, x, /):
        widths = pairs(self.widths, spatial(self, x, "widths"))
        must_fit(self, x.shape[1:-1], widths)
        if any(n + min(low, 0) + min(high, 0) < 0 for n, (low, high) in zip(x.shape[1:-1], widths, strict=True)):
            raise LayerError(self, f"got x {show(x)}; expected as much as widths={self.widths} crop. Crop less.")
        return pad(self, x, widths, self.mode, self.value), ()

    def backward(self, params, residuals, dy, /):
        return pad_back(dy, pairs(self.widths, dy.ndim - 2), self.mode), ()

    def reference(self, params, x, /):
        """Each axis by the index that every place of y has in x."""
        for axis, (low, high) in enumerate(pairs(self.widths, x.ndim - 2), 1):
            n = x.shape[axis] + min(low, 0) + min(high, 0)
            x = lax.slice_in_dim(x, max(-low, 0), max(-low, 0) + n, axis=axis)
            low, high = max(low, 0), max(high, 0)
            if self.mode == "constant":
                ends = [jnp.full((*x.shape[:axis], m, *x.shape[axis + 1 :]), self.value, x.dtype) for m in (low, high)]
                x = jnp.concatenate([ends[0], x, ends[1]], axis)
                continue
            place = jnp.arange(-low, n + high)
            if self.mode == "circular":
                place = place % max(n, 1)
            elif self.mode == "replicate":
                place = place.clip(0, n - 1)
            elif self.mode == "reflect":
                place = n - 1 - abs(n - 1 - abs(place))
            else:
                place = jnp.where(place < 0, -1 - place, place)
                place = jnp.where(place >= n, 2 * n - 1 - place, place)
            x = x.take(place, axis)
        return x


def pad(layer: Any, x: Any, widths: Pads, mode: str, value: float = 0.0) -> Any:
    """x with (before, after) more places along each spatial axis, fewer where negative."""
    if mode == "constant":
        return _zeros(x, widths, value)
    x = _zeros(x, _crops(widths))
    for axis, (low, high) in enumerate(_grown(widths), 1):
        n = x.shape[axis]
        most = {"reflect": n - 1, "replicate": (low + high) * min(n, 1), "circular": n, "symmetric": n}[mode]
        if max(low, high) > max(most, 0):
            raise LayerError(
                layer,
                f"got {n} places along axis {axis} of x for a border of {max(low, high)}; expected at most "
                f"{max(most, 0)} more with {mode!r}. Give larger inputs, pad less, or pad with zeros.",
            )
        before = [_end(x, axis, low, mode, after=False)] if low else []
        after = [_end(x, axis, high, mode, after=True)] if high else []
        x = jnp.concatenate([*before, x, *after], axis)
    return x


def pad_back(dy: Any, widths: Pads, mode: str) -> Any:
    """The transpose of `pad`: what dy says of each place of x and of its copies in the border."""
    if mode == "constant":
        return _zeros(dy, [(-low, -high) for low, high in widths])
    for axis, (low, high) in reversed(list(enumerate(_grown(widths), 1))):
        n = dy.shape[axis] - low - high
        first, dx, last = jnp.split(dy, (low, low + n), axis)
        if low:
            dx += _end_back(first, axis, n, mode, after=False)
        if high:
            dx += _end_back(last, axis, n, mode, after=True)
        dy = dx
    return _zeros(dy, [(-low, -high) for low, high in _crops(widths)])


def _crops(widths):
    return [(min(low, 0), min(high, 0)) for low, high in widths]


def _grown(widths):
    return [(max(low, 0), max(high, 0)) for low, high in widths]


def _zeros(x, widths, value=0.0):
    return lax.pad(x, jnp.array(value, x.dtype), [(0, 0, 0), *((*pair, 0) for pair in widths), (0, 0, 0)])


def _source(n, m, mode, after):
    """Where in the n places of x the m places of a border come from: the first of them, and how many."""
    if mode == "replicate":
        return (n - 1 if after else 0), 1
    if mode == "circular":
        return (0 if after else n - m), m
    edge = int(mode == "reflect")  # which leaves the outermost place out
    return (n - m - edge if after else edge), m


def _end(x, axis, m, mode, after):
    """The m places of the border before x, or after it."""
    start, count = _source(x.shape[axis], m, mode, after)
    part = lax.slice_in_dim(x, start, start + count, axis=axis)
    part = part if mode == "circular" else jnp.flip(part, axis)
    return jnp.broadcast_to(part, (*x.shape[:axis], m, *x.shape[axis + 1 :]))


def _end_back(d, axis, n, mode, after):
    """The transpose of `_end`: d at the places of x that it copies."""
    start, count = _source(n, d.shape[axis], mode, after)
    d = d.sum(axis, keepdims=True) if mode == "replicate" else d
    d = d if mode == "circular" else jnp.flip(d, axis)
    widths = [(0, 0, 0)] * d.ndim
    widths[axis] = (start, n - start - count, 0)
    return lax.pad(d, jnp.zeros((), d.dtype), widths)


CASES = (
    Case(Pad(((1, 0),)), f(2, 3, 5)),
    Case(Pad(((1, -1), (0, 2))), f(2, 3, 2, 1)),
    Case(Pad(1, value=2.5), f(2, 3, 2)),
    Case(Pad((1, (2, 0)), "reflect"), f(1, 2, 3, 2)),
    Case(Pad(((3, 1), (-1, 2)), "replicate"), f(1, 2, 3, 1)),
    Case(Pad(((3, 1),), "circular"), f(2, 3, 2)),
    Case(Pad(2, "symmetric"), f(2, 3, 2)),
)
