"""Tables that are looked up with integers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, known, show, take
from jbp.layer import Layer
from jbp.layers.shape import wide


def indices(layer: Layer, ids: Any, below: int, what: str) -> None:
    """An error unless ids is an integer array with values in [0, below), which is looked at where they can be known."""
    if not hasattr(ids, "dtype") or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise LayerError(layer, f"got {what} {show(ids)}; expected an integer array. Cast it with .astype(jnp.int32).")
    if not known(ids) or not ids.size:
        return
    seen = np.asarray(ids)  # numpy, for a constant inside of jit is known, but jax.numpy would trace it
    if seen.min() < 0 or seen.max() >= below:
        raise LayerError(
            layer,
            f"got {what} between {seen.min()} and {seen.max()}; expected 0 <= {what} < {below}. "
            "Is the vocabulary or the number of classes too small, or are they counted from 1?",
        )


@dataclass(frozen=True)
class Embedding(Layer):
    """y = E[ids].      no dx (integers have none)      dE[k] = Σ dy over the places where ids = k

    Keeps ids. Shapes: ids (...), E (v, d), y (..., d). E starts normal with variance 1/d, in `dtype` or else in JAX's
    default floating dtype, which is that of y. An id out of range raises
    LayerError where it can be known (outside of jit); inside of jit it gives NaN.
    """

    vocabulary: int
    features: int
    dtype: str | None = None

    def init(self, key, ids, /):
        indices(self, ids, self.vocabulary, "ids")
        return {
            "e": jax.random.normal(key, (self.vocabulary, self.features), self.dtype or float) * self.features**-0.5
        }

    def forward(self, params, ids, /):
        indices(self, ids, self.vocabulary, "ids")
        dtype = getattr(params["e"], "dtype", None) if isinstance(params, dict) and "e" in params else None
        (e,) = take(self, params, dtype, e=(self.vocabulary, self.features))
        return e.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False), ids

    def backward(self, params, ids, dy, /):
        return None, dy

    def gradient(self, ids, dy, /):
        e = jnp.zeros((self.vocabulary, self.features), wide(dy).dtype)
        return {"e": e.at[ids].add(wide(dy), mode="drop", wrap_negative_indices=False).astype(dy.dtype)}


@dataclass(frozen=True)
class Positions(Layer):
    """y = x + P[:n]: learned positions.      dx = dy      dP[:n] = Σ dy over the leading axes, 0 beyond n

    Keeps nothing. Shapes: x and y (..., n, d), P (length, d). Raises LayerError if n exceeds `length`.
    """

    length: int

    def _n(self, x):
        if len(x.shape) < 2 or x.shape[-2] > self.length:
            raise LayerError(
                self,
                f"got x {show(x)}; expected (..., n, features) with n <= {self.length}. "
                "Give shorter sequences, or a larger length.",
            )
        return x.shape[-2]

    def init(self, key, x, /):
        self._n(x)
        return {"p": jax.random.normal(key, (self.length, x.shape[-1]), x.dtype) * 0.02}

    def forward(self, params, x, /):
        n = self._n(x)
        (p,) = take(self, params, x.dtype, p=(self.length, x.shape[-1]))
        return x + p[:n].reshape((1,) * (x.ndim - 2) + (n, -1)), ()

    def backward(self, params, residuals, dy, /):
        return dy, dy

    def gradient(self, residuals, dy, /):
        p = dy.sum(tuple(range(dy.ndim - 2)))
        return {"p": jnp.pad(p, ((0, self.length - p.shape[0]), (0, 0)))}
