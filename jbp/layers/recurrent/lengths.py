"""Sequences of their own lengths in one batch."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, at, floats, known, show
from jbp.layer import Layer


def sequences(layer: Layer, x: Any) -> tuple[Any, Any]:
    """(x, lengths) out of a pair, after a check that it is one."""
    fits = isinstance(x, tuple | list) and len(x) == 2 and hasattr(x[1], "dtype")
    if not fits or not jnp.issubdtype(x[1].dtype, jnp.integer) or x[1].shape != x[0].shape[:1]:
        raise LayerError(
            layer,
            f"got x {show(x)}; expected the pair (x, lengths): x (b, t, ...) and an integer for each example, (b,). "
            "For sequences that are all of one length leave out Lengths.",
        )
    x, lengths = x
    t = floats(layer, x, "(batch, time, ...)", least=2).shape[1]
    if known(lengths) and lengths.size:
        seen = np.asarray(lengths)
        if seen.min() < 0 or seen.max() > t:
            raise LayerError(
                layer,
                f"got lengths between {seen.min()} and {seen.max()}; expected 0 <= lengths <= {t}, the size of x. "
                "Count the steps of each example.",
            )
    return x, lengths


def _times(x, lengths):
    return jnp.arange(x.shape[1], dtype=lengths.dtype)[None]


def until(x: Any, lengths: Any) -> Any:
    """x (b, t, ...) with zeros from the end of each example on."""
    seen = _times(x, lengths) < lengths[:, None]
    return jnp.where(seen.reshape(*seen.shape, *(1,) * (x.ndim - 2)), x, 0)


def reversed_until(x: Any, lengths: Any) -> Any:
    """x (b, t, ...) with the steps of each example in reverse up to its end, and what follows where it was."""
    t = _times(x, lengths)
    order = jnp.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)


@dataclass(frozen=True)
class Lengths(Layer):
    """y_t = f(x)_t for t < n and 0 after it, on the pair (x, n): each example as if it were alone, n its length.

        dx_t = what f sends down of dy_t, t < n      dx_t = 0 after it

    For every f that looks back in time only: LSTM, GRU, Elman, Recurrent, a causal convolution or state space, and rows
    of such layers. Then what comes after the end reaches nothing, and what stands there may be anything, NaN too. A
    Bidirectional goes around it: `Bidirectional(Lengths(f))` turns each example within its length. Keeps what f keeps,
    and n, which has no cotangent. Parameters are f's. Shapes: x (b, t, ...), n (b,), y (b, t, ...). Raises LayerError
    for anything but such a pair, for lengths out of range, and if f does not keep batch and time.
    """

    layer: Layer

    def init(self, key, x, /):
        x, _ = sequences(self, x)
        with at(self):
            return self.layer.init(key, x)

    def forward(self, params, x, /):
        x, n = sequences(self, x)
        with at(self):
            y, r = self.layer.forward(params, until(x, n))
        if not hasattr(y, "shape") or y.shape[:2] != x.shape[:2]:
            raise LayerError(
                self,
                f"got an inner layer from {show(x)} to {show(y)}; expected it to keep batch and time. "
                "Put what shortens the sequence after the Lengths.",
            )
        return until(y, n), (r, n)

    def _down(self, way, params, residuals, dy):
        r, n = residuals
        with at(self):
            dx, rest = way(params, r, until(dy, n))
        return (until(dx, n), None), rest

    def backward(self, params, residuals, dy, /):
        return self._down(self.layer.backward, params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down(self.layer.pull, params, residuals, dy)

    def gradient(self, residuals, delta, /):
        with at(self):
            return self.layer.gradient(residuals[0], delta)

    def advance(self, params, residuals, /):
        return self.layer.advance(params, residuals[0])

    def reference(self, params, x, /):
        x, n = x

        def cut(v):
            steps = [jnp.where(t < n.reshape(-1, *(1,) * (v.ndim - 2)), v[:, t], 0) for t in range(v.shape[1])]
            return jnp.stack(steps, 1) if steps else v

        return cut(self.layer.reference(params, cut(x)))
