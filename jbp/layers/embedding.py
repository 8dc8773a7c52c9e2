"""Tables that are looked up with integers."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, show, take
from jbp.layer import Layer
from jbp.numerics import wide, wide_dtype

__all__ = ["Embedding", "EmbeddingBag", "Positions", "SinusoidalPositions"]


@dataclass(frozen=True)
class Embedding(Layer):
    """y = E[ids].      no dx (integers have none)      dE[k] = Σ dy over the places where ids = k

    Where ids is `padding`, if that is set, y is 0 and E is told nothing. Keeps ids. Shapes: ids (...), E (v, d), y
    (..., d). E starts normal with variance 1/d, in `dtype` or else in JAX's default floating dtype, which is that of y.
    An id out of range raises LayerError where it can be known (outside of jit); inside of jit it gives NaN.
    """

    vocabulary: int
    features: int
    dtype: str | None = None
    padding: int | None = None

    def __post_init__(self):
        super().__post_init__()
        padding_in(self)

    def init(self, key, ids, /):
        indices(self, ids, self.vocabulary, "ids")
        return table(self, key)

    def forward(self, params, ids, /):
        indices(self, ids, self.vocabulary, "ids")
        return self._padded(ids, rows(self, params, ids)), ids

    def backward(self, params, ids, dy, /):
        return None, self._padded(ids, dy)

    def gradient(self, ids, dy, /):
        return {"e": sums(self, ids, dy)}

    def _padded(self, ids, y):
        return y if self.padding is None else jnp.where((ids == self.padding)[..., None], 0, y)

    def reference(self, params, ids, /):
        y = params["e"][ids]
        return y if self.padding is None else y * (ids != self.padding)[..., None].astype(y.dtype)


def padding_in(layer: Any) -> None:
    """An error for a padding that is no id."""
    if layer.padding is not None and not 0 <= layer.padding < layer.vocabulary:
        raise LayerError(
            layer, f"got padding={layer.padding}; expected 0 <= padding < {layer.vocabulary}, or None for no padding."
        )


def table(layer: Any, key: Any) -> dict[str, Any]:
    """E (vocabulary, features), normal with variance 1 / features."""
    shape = layer.vocabulary, layer.features
    return {"e": jax.random.normal(key, shape, layer.dtype or float) * layer.features**-0.5}


def rows(layer: Any, params: Any, ids: Any) -> Any:
    """E[ids], NaN where an id is out of range."""
    dtype = getattr(params["e"], "dtype", None) if isinstance(params, dict) and "e" in params else None
    (e,) = take(layer, params, dtype, e=(layer.vocabulary, layer.features))
    return e.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def sums(layer: Any, ids: Any, dy: Any) -> Any:
    """dE: for each row of E the sum of dy over the places that asked for it."""
    e = jnp.zeros((layer.vocabulary, layer.features), wide(dy).dtype)
    return e.at[ids].add(wide(dy), mode="drop", wrap_negative_indices=False).astype(dy.dtype)


@dataclass(frozen=True)
class EmbeddingBag(Layer):
    """y = Σ_j a_j E[ids_j] over a bag of ids.      dE[k] = Σ a_j dy over the places where ids_j = k

    On ids, or on (ids, w) with a weight for each: a_j = w_j, or 1, divided by the number of ids in the bag if `mode` is
    "mean"; 0 where ids_j is `padding`, which does not count. An empty bag gives 0. dw_j = dy · E[ids_j], so divided.
    Keeps ids and w. Shapes: ids and w (..., n), E (vocabulary, features), y (..., features). Errors as for Embedding.
    """

    vocabulary: int
    features: int
    mode: Literal["sum", "mean"] = "sum"
    dtype: str | None = None
    padding: int | None = None

    def __post_init__(self):
        super().__post_init__()
        padding_in(self)
        if self.mode not in ("sum", "mean"):
            raise LayerError(self, f"got mode={self.mode!r}; expected 'sum' or 'mean'. Weights make other means.")

    def _check(self, x):
        ids, *w = x if isinstance(x, tuple | list) else (x,)
        indices(self, ids, self.vocabulary, "ids")
        if len(w) > 1 or not ids.shape or (w and w[0].shape != ids.shape):
            raise LayerError(
                self, f"got {show(x)}; expected ids (..., n), or (ids, weights) of one shape. Make a bag the last axis."
            )
        return ids, *w

    def init(self, key, x, /):
        self._check(x)
        return table(self, key)

    def _shares(self, ids, dtype):
        """a of weights that are all 1."""
        counts = jnp.ones(ids.shape, dtype) if self.padding is None else (ids != self.padding).astype(dtype)
        return counts / jnp.maximum(counts.sum(-1, keepdims=True), 1) if self.mode == "mean" else counts

    def _coefficients(self, ids, w, dtype):
        a = self._shares(ids, dtype)
        return a * w[0].astype(dtype) if w else a

    def forward(self, params, x, /):
        ids, *w = self._check(x)
        e = rows(self, params, ids)
        a = self._coefficients(ids, w, wide_dtype(e.dtype))
        return jnp.einsum("...n,...nd->...d", a, wide(e)).astype(e.dtype), (ids, *w)

    def backward(self, params, x, dy, /):
        ids, *w = x
        if not w:
            return None, dy
        dw = self._shares(ids, wide(dy).dtype) * jnp.einsum("...d,...nd->...n", wide(dy), wide(rows(self, params, ids)))
        return (None, dw.astype(w[0].dtype)), dy

    def gradient(self, x, dy, /):
        ids, *w = x
        a = self._coefficients(ids, w, wide(dy).dtype)
        return {"e": sums(self, ids, a[..., None] * wide(dy)[..., None, :]).astype(dy.dtype)}

    def reference(self, params, x, /):
        ids, *w = x if isinstance(x, tuple | list) else (x,)
        kept = jnp.ones(ids.shape, bool) if self.padding is None else ids != self.padding
        y = jnp.where(kept[..., None], params["e"][ids], 0)
        y = jnp.sum(y * w[0][..., None] if w else y, -2)
        n = jnp.sum(kept, -1, keepdims=True).astype(y.dtype)
        return y / jnp.where(n == 0, 1, n) if self.mode == "mean" else y


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


@dataclass(frozen=True)
class SinusoidalPositions(Layer):
    """y = x + P, P_{k,2i} = sin(k / b^{2i/d}), P_{k,2i+1} = cos of the same: positions that need not be learned.

        dx = dy

    b is `base`. Keeps nothing. Shapes: x and y (..., n, d), for any n. (Vaswani et al., *Attention Is All You Need*,
    2017, §3.5.) Raises LayerError for fewer than two axes or an x that is not floating.
    """

    base: float = 10000.0

    def forward(self, params, x, /):
        n, d = floats(self, x, "(..., n, features)", least=2).shape[-2:]
        k, i = np.arange(n)[:, None], np.arange(d)[None]
        angle = k / self.base ** (2 * (i // 2) / d)
        p = jnp.asarray(np.where(i % 2 == 0, np.sin(angle), np.cos(angle)), x.dtype)
        return x + p.reshape((1,) * (x.ndim - 2) + p.shape), ()

    def backward(self, params, residuals, dy, /):
        return dy, ()

    def reference(self, params, x, /):
        n, d = x.shape[-2:]
        speed = [self.base ** (-(i - i % 2) / d) for i in range(d)]
        p = [[math.cos(k * s) if i % 2 else math.sin(k * s) for i, s in enumerate(speed)] for k in range(n)]
        return x + jnp.broadcast_to(jnp.asarray(p, x.dtype).reshape(n, d), x.shape)


CASES = (
    Case(SinusoidalPositions(), f(3, 5), f(2, 5, 3), f(2, 5, 3, 2)),
    Case(Positions(9), f(2, 5, 3)),
    Case(Embedding(5, 3), i(4, below=5), i(3, 2, below=5)),
    Case(Embedding(3, 8), i(2, 5, below=3)),
    Case(Embedding(5, 3, padding=1), i(3, 2, below=5)),
    Case(EmbeddingBag(5, 3), i(2, 3, below=5), (i(2, 3, below=5), f(2, 3))),
    Case(EmbeddingBag(5, 3, "mean", padding=1), i(3, 2, 4, below=5), (i(3, 4, below=5), f(3, 4))),
)
