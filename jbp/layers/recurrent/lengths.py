"""Sequences of their own lengths in one batch."""

from dataclasses import dataclass, is_dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.layer import Layer, map_children
from jbp.layers.recurrent.elman import Elman
from jbp.layers.recurrent.gru import GRU
from jbp.layers.recurrent.lstm import LSTM
from jbp.layers.recurrent.sequence import OverTime, closed, joined, like, opened, parted, until
from jbp.numerics import Static, wide


@dataclass(frozen=True)
class Lengths(Wrapper, OverTime):
    """y_t = f(x)_t for t < n and 0 after it, on the pair (x, n): each example as if it were alone, n its length.

        dx_t = what f returns for dy_t, t < n      dx_t = 0 after it

    With `pool` y is one for each example, of its valid steps alone: the last of them, their mean, or for each feature
    the greatest. `Serial(Lengths(LSTM(8), pool="last"), Dense(3))` is a classifier; a Take(-1) would find the zeros of
    the padding.

        "last": dy goes to f(x)_{n−1}      "mean": dy / n to each t < n      "max": dy to the first that is greatest

    For every f that looks back in time only: LSTM, GRU, Elman, Recurrent, a causal convolution or state space, and rows
    of such layers; and for a Bidirectional, which turns each example within its length. Then what comes after the end
    reaches nothing, and what stands there may be anything, NaN too. Of f with `return_state` the state is the one at
    the end. x and n may come with the state to begin at: {"x": x, "lengths": n, "state": s}. Keeps what f keeps, and n,
    which has no cotangent; for "max" the places. Parameters are f's. An example of no steps is 0. Shapes: x (b, t,
    ...), n (b,), f(x) (b, t, ...), y the same or pooled (b, ...). Raises LayerError for anything but such a pair, for
    lengths out of range, and if f does not keep batch and time.

    >>> net, x = Lengths(GRU(4), pool="last"), (jnp.ones((2, 5, 3)), jnp.array([5, 2]))
    >>> net(net.init(jax.random.key(0), x), x).shape
    (2, 4)
    """

    layer: Layer
    pool: Literal["last", "mean", "max"] | None = None

    as_one: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.layer, OverTime) and any(getattr(f, "both_ways", False) for f in _inside(self.layer)):
            raise LayerError(
                self,
                "got a Bidirectional among the layers inside, which would begin its way through time in the padding; "
                "expected layers that look back in time only. Write a Lengths for each: Lengths(Bidirectional(f)).",
            )

    @property
    def return_state(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return gives_state(self.layer)

    def _opened(self, x):
        value, state, n, form = opened(self, x)
        if n is None:
            raise LayerError(
                self,
                f"got x {show(x)}; expected the pair (x, lengths): x (b, t, ...) and an integer for each example, "
                "(b,). For sequences that are all of one length leave out Lengths.",
            )
        return value, state, n, form

    def _fed(self, x, state, n):
        """What f is given: the lengths too, if it takes them."""
        return joined(x, state, n) if isinstance(self.layer, OverTime) else joined(until(x, n), state, None)

    def init(self, key, x, /):
        x, state, n, _ = self._opened(x)
        with at(self):
            return self.layer.init(key, joined(x, state, n if isinstance(self.layer, OverTime) else None))

    def forward(self, params, x, /):
        x, state, n, form = self._opened(x)
        with at(self):
            y, r = self.layer.forward(params, self._fed(x, state, n))
        y, last = y if self.return_state else (y, None)
        if not hasattr(y, "shape") or y.shape[:2] != x.shape[:2]:
            raise LayerError(
                self,
                f"got an inner layer from {show(x)} to {show(y)}; expected it to keep batch and time. "
                "Put what shortens the sequence after the Lengths.",
            )
        y, kept = self._pooled(y if isinstance(self.layer, OverTime) else until(y, n), n)
        known = Static((form, state is not None, x.shape[1]))
        return ((y, last) if self.return_state else y), (r, n, kept, known)

    def _pooled(self, y, n):
        if self.pool is None:
            return y, ()
        if not y.shape[1]:
            return jnp.zeros((y.shape[0], *y.shape[2:]), y.dtype), ()
        if self.pool == "mean":
            count = like(jnp.maximum(n, 1), y[:, 0]).astype(wide(y).dtype)
            return (wide(y).sum(1) / count).astype(y.dtype), ()
        if self.pool == "last":
            place = like(jnp.maximum(n, 1) - 1, y)
            return jnp.take_along_axis(y, place, 1)[:, 0], ()
        valid = like(jnp.arange(y.shape[1], dtype=n.dtype)[None] < n[:, None], y)
        place = jnp.where(valid, y, -jnp.inf).argmax(1, keepdims=True).astype(n.dtype)
        return jnp.take_along_axis(y, place, 1)[:, 0], place

    def _spread(self, dy, n, kept, t):
        """The cotangent of f(x), out of that of what was pooled."""
        if self.pool is None:
            return dy
        steps = like(jnp.arange(t, dtype=n.dtype)[None], dy[:, None])
        lengths = like(n[:, None], dy[:, None])
        if self.pool == "mean":
            share = (wide(dy) / like(jnp.maximum(n, 1), dy).astype(wide(dy).dtype)).astype(dy.dtype)
            return jnp.where(steps < lengths, share[:, None], 0)
        if self.pool == "last" or not t:
            return jnp.where(steps == lengths - 1, dy[:, None], 0)
        return jnp.where((steps == kept) & (steps < lengths), dy[:, None], 0)

    def _down(self, way, params, residuals, dy):
        r, n, kept, known = residuals
        form, given, t = known.value
        dy, dlast = dy if self.return_state else (dy, None)
        dy, native = self._spread(dy, n, kept, t), isinstance(self.layer, OverTime)
        dy = dy if native else until(dy, n)
        with at(self):
            down, rest = way(params, r, (dy, dlast) if self.return_state else dy)
        dx, dstate = parted(down, True if given else None, n if native else None)
        return closed(form, dx if native else until(dx, n), dstate), rest

    def _kept(self, residuals):
        return residuals[0]

    def reference(self, params, x, /):
        x, state, n, _ = opened(self, x)

        def cut(v):
            steps = [jnp.where(like(t < n, v[:, t]), v[:, t], 0) for t in range(v.shape[1])]
            return jnp.stack(steps, 1) if steps else v

        native = isinstance(self.layer, OverTime)
        y = self.layer.reference(params, joined(cut(x), state, n if native else None))
        y, last = y if self.return_state else (y, None)
        y = self._pool_meaning(cut(y), n)
        return (y, last) if self.return_state else y

    def _pool_meaning(self, y, n):
        if self.pool is None:
            return y
        nothing = jnp.zeros((y.shape[0], *y.shape[2:]), y.dtype)
        if self.pool == "mean":
            return jnp.sum(y, 1) / like(jnp.where(n == 0, 1, n), nothing).astype(y.dtype)
        best = nothing
        for t in range(y.shape[1]):
            better = like(t < n, nothing) & ((y[:, t] > best) | (t == 0) if self.pool == "max" else True)
            best = jnp.where(better, y[:, t], best)
        return best


def _inside(layer):
    found = [layer]
    if is_dataclass(layer):
        map_children(lambda _, child: found.extend(_inside(child)) or child, layer)
    return found


def gives_state(layer: Layer) -> bool:
    """Whether it gives (y, final state) in place of y."""
    return isinstance(layer, OverTime) and layer.return_state


def with_lengths(layer: Layer) -> Layer:
    """The layer, or a Lengths around it, that takes x with its lengths."""
    return layer if isinstance(layer, OverTime) else Lengths(layer)


CASES = (
    Case(Lengths(GRU(2), pool="last"), (f(3, 4, 2), i(3, below=5))),
    Case(Lengths(Elman(2), pool="mean"), (f(3, 4, 2), i(3, below=5))),
    Case(Lengths(LSTM(2, return_state=True), pool="max"), (f(3, 4, 2), i(3, below=5))),
)
