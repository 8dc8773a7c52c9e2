"""Tables that are looked up with integers."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, must_be_there, passed, show, take
from jbp.fields import Count, DType, Hint, Positive, Size
from jbp.layer import Estimator, Layer
from jbp.numerics import Static, counting, outline, part_of, wide, wide_dtype

__all__ = ["Embedding", "EmbeddingBag", "FrequencyScaledEmbedding", "Positions", "SinusoidalPositions"]


@dataclass(frozen=True)
class Embedding(Layer):
    """y = E[ids].      no dx (integers have none)      dE[k] = Σ dy over the places where ids = k

    Where ids is `padding`, if that is set, y is 0 and E gets no gradient. Keeps ids. Shapes: ids (...), E (v, d), y
    (..., d). E starts normal with variance 1/d, in `dtype` or else in JAX's default floating dtype, which is that of y.
    An id out of range raises LayerError where it can be known (outside of jit); inside of jit it gives NaN.

    dE has the shape of E, for optimizers take gradients shaped like parameters; XLA adds the rows in place. Where most
    rows are not met and that still is too much, LinearCrossEntropy and NegativeSampling avoid the scores, and Frozen
    the gradient. PyTorch's scale_grad_by_freq is FrequencyScaledEmbedding; its max_norm changes E in the forward pass,
    which no layer here does: project E after the optimizer's step.

    >>> x = jnp.array([[4, 0, 1]])
    >>> params = Embedding(10, 3).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'e': (10, 3)}
    >>> Embedding(10, 3)(params, x).shape
    (1, 3, 3)
    """

    cuts: ClassVar[Any] = "routed", "tokens"
    vocabulary: Size
    features: Size
    dtype: DType | None = None
    padding: Count | None = None

    def __post_init__(self):
        super().__post_init__()
        padding_in(self)

    def part(self, count, x=None, /):
        return EmbeddingHere(**vars(self), devices=count) if self.vocabulary % count == 0 else None

    def init(self, key, ids, /):
        indices(self, ids, self.vocabulary, "ids")
        return table(self, key)

    def forward(self, params, ids, /):
        indices(self, ids, self.vocabulary, "ids")
        ids = counting(ids)
        return self._padded(ids, rows(self, params, ids)), ids

    def backward(self, params, ids, dy, /):
        return None, self._padded(ids, must_be_there(self, dy))

    def gradient(self, ids, dy, /):
        return {"e": sums(self, ids, dy)}

    def _padded(self, ids, y):
        return y if self.padding is None else jnp.where((ids == self.padding)[..., None], 0, y)

    def reference(self, params, ids, /):
        ids = counting(ids)
        y = jnp.where(((ids >= 0) & (ids < self.vocabulary))[..., None], params["e"][ids], jnp.nan)
        return y if self.padding is None else y * (ids != self.padding)[..., None].astype(y.dtype)


@dataclass(frozen=True)
class EmbeddingHere(Embedding):
    """The terms of an Embedding's y that one of `devices` makes, 0 for ids whose rows lie elsewhere.

    It has an n-th of the table, from the row on that is its number, the Buffer `device`, times as many. Keeps for each
    place the row here, or one past the end.
    """

    devices: Size = 1
    cuts: ClassVar[Any] = ()

    @property
    def _here(self):
        return self.vocabulary // self.devices

    def init(self, key, ids, /):
        return table(self, key, self._here)

    def forward(self, params, ids, /):
        ids = counting(ids)
        row = ids - (params["device"].value * self._here).astype(ids.dtype)
        here = (row >= 0) & (row < self._here) & (ids != (-1 if self.padding is None else self.padding))
        row = jnp.where(here, row, self._here)
        y = params["e"].at[row].get(mode="fill", fill_value=0)
        return jnp.where(((ids >= 0) & (ids < self.vocabulary))[..., None], y, jnp.nan), row

    def backward(self, params, row, dy, /):
        return None, must_be_there(self, dy)

    def gradient(self, row, dy, /):
        return {"e": sums(self, row, dy, self._here)}


@dataclass(frozen=True)
class FrequencyScaledEmbedding(Embedding, Estimator):
    """y = E[ids].      no dx      dE[k] = (Σ dy over the places where ids = k) / (the number of those places)

    An Embedding whose rare and frequent ids move alike: PyTorch's scale_grad_by_freq. What it gives is not the gradient
    of the loss, so it is an Estimator. Keeps ids. Fields, shapes and errors as of Embedding: ids (...), E (v, d), y
    (..., d), 0 where ids is `padding`.

    >>> x = jnp.array([[4, 0, 1]])
    >>> layer = FrequencyScaledEmbedding(10, 3)
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'e': (10, 3)}
    >>> layer(params, x).shape
    (1, 3, 3)
    """

    cuts: ClassVar[Any] = ("tokens",)
    couples: ClassVar[Any] = "it divides by the counts of the whole batch"

    def gradient(self, ids, dy, /):
        counts = jnp.zeros(self.vocabulary, wide(dy).dtype).at[ids].add(1, mode="drop", wrap_negative_indices=False)
        return {"e": (sums(self, ids, wide(dy)) / jnp.maximum(counts, 1)[:, None]).astype(dy.dtype)}


def padding_in(layer: Any) -> None:
    """An error for a padding that is no id."""
    if layer.padding is not None and not 0 <= layer.padding < layer.vocabulary:
        raise LayerError(
            layer, f"got padding={layer.padding}; expected 0 <= padding < {layer.vocabulary}, or None for no padding."
        )


def table(layer: Any, key: Any, rows: int | None = None) -> dict[str, Any]:
    """E (vocabulary, features), or of so many rows, normal with variance 1 / features."""
    shape = rows or layer.vocabulary, layer.features
    return {"e": jax.random.normal(key, shape, layer.dtype or float) * layer.features**-0.5}


def rows(layer: Any, params: Any, ids: Any) -> Any:
    """E[ids], NaN where an id is out of range."""
    dtype = getattr(params["e"], "dtype", None) if isinstance(params, dict) and "e" in params else None
    (e,) = take(layer, params, dtype, e=(layer.vocabulary, layer.features))
    return e.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def sums(layer: Any, ids: Any, dy: Any, rows: int | None = None) -> Any:
    """dE (vocabulary, features), or of so many rows: for each the sum of dy over the places that asked for it."""
    e = jnp.zeros((rows or layer.vocabulary, layer.features), wide(dy).dtype)
    return e.at[ids].add(wide(dy), mode="drop", wrap_negative_indices=False).astype(dy.dtype)


@dataclass(frozen=True)
class EmbeddingBag(Layer):
    """y = Σ_j a_j E[ids_j] over a bag of ids.      dE[k] = Σ a_j dy over the places where ids_j = k

    On ids, or on (ids, w) with a weight for each: a_j = w_j, or 1, divided by the number of ids in the bag if `mode` is
    "mean"; 0 where ids_j is `padding`, which does not count. dw_j = dy · E[ids_j], so divided. An empty bag gives 0. If
    `mode` is "max", y is the greatest E[ids_j] for each feature, and dy goes to the first that is; it takes no weights.

    A bag is the last axis of ids. Bags of many sizes may stand one after the other instead, as in PyTorch: {"ids":
    (n,), "offsets": (b,)} and "weights" (n,), or (ids, offsets) of integers; offsets are where the bags begin, the
    first at 0, and bag j ends where j + 1 begins. Keeps ids and w, for "max" the places. Shapes: ids and w (..., n), E
    (vocabulary, features), y (..., features); with offsets y (b, features). Errors as for Embedding.

    >>> x = jnp.array([[4, 0, 1]])
    >>> params = EmbeddingBag(10, 3).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'e': (10, 3)}
    >>> EmbeddingBag(10, 3)(params, x).shape
    (1, 3)
    """

    vocabulary: Size
    features: Size
    mode: Annotated[Literal["sum", "mean", "max"], Hint("Weights make other means.")] = "sum"
    dtype: DType | None = None
    padding: Count | None = None

    def __post_init__(self):
        super().__post_init__()
        padding_in(self)

    def _opened(self, x) -> tuple[Any, Any, Any]:
        """ids, where bags begin or None for bags on the last axis, and the weights or None."""
        named = {"ids": x}
        if isinstance(x, dict):
            named = x
        elif isinstance(x, tuple | list) and len(x) == 2:
            whole = hasattr(x[1], "dtype") and jnp.issubdtype(x[1].dtype, jnp.integer)
            named = {"ids": x[0], ("offsets" if whole else "weights"): x[1]}
        several: list[Any] = [named.get(name) for name in ("ids", "offsets", "weights")]
        ids, offsets, w = several
        fits = not set(named) - {"ids", "offsets", "weights"} and len(getattr(ids, "shape", ())) > 0
        fits = fits and (offsets is None or len(offsets.shape) == len(ids.shape) == 1)
        if not fits or (w is not None and (w.shape != ids.shape or self.mode == "max")):
            raise LayerError(
                self,
                f"got {show(x)}; expected ids (..., n), (ids, weights) of one shape but for mode='max', or (ids (n,), "
                "offsets (b,)). Make a bag the last axis, or say where each begins.",
            )
        indices(self, ids, self.vocabulary, "ids")
        return counting(ids), None if offsets is None else counting(offsets), w

    def init(self, key, x, /):
        self._opened(x)
        return table(self, key)

    def forward(self, params, x, /):
        ids, offsets, w = self._opened(x)
        bags = None if offsets is None else _bags(offsets, ids.shape[0])
        e = self._rows(params, ids)
        form = Static(tuple(x) if isinstance(x, dict) else isinstance(x, tuple | list))
        if self.mode == "max":
            y, places = self._greatest(ids, offsets, bags, e)
            return y, ((ids, offsets, w), places, form)
        a = self._coefficients(ids, offsets, w, wide_dtype(e.dtype))
        if offsets is None:
            y = jnp.einsum("...n,...nd->...d", a, wide(e))
        else:
            y = jnp.zeros((offsets.shape[0], self.features), a.dtype).at[bags].add(a[:, None] * wide(e), mode="drop")
        return y.astype(e.dtype), ((ids, offsets, w), (), form)

    def backward(self, params, residuals, dy, /):
        (ids, offsets, w), _, form = residuals
        dw, dy = None, must_be_there(self, dy)
        if w is not None:
            each = self._each_bag(offsets, ids, wide(dy))
            share = self._shares(ids, offsets, wide(dy).dtype)
            dw = (share * jnp.einsum("...d,...d->...", each, wide(self._rows(params, ids)))).astype(w.dtype)
        return _like_input(form.value, dw), dy

    def gradient(self, residuals, dy, /):
        (ids, offsets, w), places, _ = residuals
        if self.mode == "max":
            e = jnp.zeros((self.vocabulary, self.features), wide(dy).dtype)
            columns = jnp.broadcast_to(jnp.arange(self.features), places.shape)
            return {"e": e.at[places, columns].add(wide(dy), mode="drop", wrap_negative_indices=False).astype(dy.dtype)}
        a = self._coefficients(ids, offsets, w, wide(dy).dtype)
        return {"e": sums(self, ids, a[..., None] * self._each_bag(offsets, ids, wide(dy))).astype(dy.dtype)}

    def _rows(self, params, ids):
        """E[ids], 0 where they are padding, whatever stands there."""
        e = rows(self, params, ids)
        return e if self.padding is None else jnp.where((ids != self.padding)[..., None], e, 0)

    def _each_bag(self, offsets, ids, dy):
        """dy of the bag of each id: (..., n, d), or (..., 1, d) where a bag is the last axis."""
        if offsets is None:
            return jnp.broadcast_to(dy[..., None, :], (*ids.shape, self.features))
        return dy.at[_bags(offsets, ids.shape[0])].get(mode="fill", fill_value=0)

    def _counts(self, ids, dtype):
        """1 for an id that counts, 0 for padding."""
        return jnp.ones(ids.shape, dtype) if self.padding is None else (ids != self.padding).astype(dtype)

    def _shares(self, ids, offsets, dtype):
        """a of weights that are all 1."""
        counts = self._counts(ids, dtype)
        if self.mode != "mean":
            return counts
        if offsets is None:
            return counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
        bags = _bags(offsets, ids.shape[0])
        n = jnp.zeros(offsets.shape, dtype).at[bags].add(counts, mode="drop")
        return counts / jnp.maximum(n, 1).at[bags].get(mode="fill", fill_value=1)

    def _coefficients(self, ids, offsets, w, dtype):
        a = self._shares(ids, offsets, dtype)
        return a if w is None else jnp.where(self._counts(ids, dtype) > 0, a * w.astype(dtype), 0)

    def _greatest(self, ids: Any, offsets: Any, bags: Any, e: Any) -> tuple[Any, Any]:
        """The greatest of each bag, and the id of the first that is, or one that is out of range."""
        e = e if self.padding is None else jnp.where((ids != self.padding)[..., None], e, -jnp.inf)
        shape = (*ids.shape[:-1], self.features) if bags is None else (offsets.shape[0], self.features)
        if not ids.shape[-1]:
            return jnp.zeros(shape, e.dtype), jnp.full(shape, self.vocabulary, ids.dtype)
        if bags is None:
            place = e.argmax(-2)
            y = jnp.take_along_axis(e, place[..., None, :], -2)[..., 0, :]
            places = jnp.take_along_axis(ids, place, -1)
        else:
            y = jnp.full(shape, -jnp.inf, e.dtype).at[bags].max(e, mode="drop")
            n = ids.shape[0]
            order = jnp.where(e == y.at[bags].get(mode="fill", fill_value=0), jnp.arange(n)[:, None], n)
            first = jnp.full(shape, n, order.dtype).at[bags].min(order, mode="drop")
            places = ids.at[first].get(mode="fill", fill_value=self.vocabulary)
        nothing = y == -jnp.inf
        return jnp.where(nothing, 0, y), jnp.where(nothing, self.vocabulary, places)

    def reference(self, params, x, /):
        ids, offsets, w = self._opened(x)
        kept = jnp.ones(ids.shape, bool) if self.padding is None else ids != self.padding
        e = params["e"][ids]
        if offsets is not None:  # (b, n): which id is in which bag, a bag of all ids each
            ends = jnp.concatenate([offsets[1:], jnp.full(1, ids.shape[0], offsets.dtype)])
            place = jnp.arange(ids.shape[0], dtype=offsets.dtype)[None]
            kept = kept[None] & (place >= offsets[:, None]) & (place < ends[:, None])
            e = jnp.broadcast_to(e[None], (*kept.shape, self.features))
            w = None if w is None else jnp.broadcast_to(w[None], kept.shape)
        if self.mode == "max":
            y = jnp.max(jnp.where(kept[..., None], e, -jnp.inf), -2, initial=-jnp.inf)
            return jnp.where(jnp.any(kept, -1)[..., None], y, 0)
        y = jnp.where(kept[..., None], e, 0)
        y = jnp.sum(y if w is None else y * jnp.where(kept, w, 0)[..., None], -2)
        n = jnp.sum(kept, -1, keepdims=True).astype(y.dtype)
        return y / jnp.where(n == 0, 1, n) if self.mode == "mean" else y


def _bags(offsets, n):
    """The number of the bag of each of n ids, −1 read as out of range where they begin before the first."""
    bags = jnp.searchsorted(offsets, jnp.arange(n, dtype=offsets.dtype), side="right") - 1
    return jnp.where(bags < 0, offsets.shape[0], bags)


def _like_input(form, dw):
    """The cotangent of what came: integers have none."""
    if isinstance(form, tuple):
        return {name: dw if name == "weights" else None for name in form}
    return (None, dw) if form else None


@dataclass(frozen=True)
class Positions(Layer):
    """y = x + P[:n]: learned positions.      dx = dy      dP[:n] = Σ dy over the leading axes, 0 beyond n

    Keeps nothing. Shapes: x and y (..., n, d), P (length, d). Raises LayerError if n exceeds `length`.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = Positions(9).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'p': (9, 3)}
    >>> Positions(9)(params, x).shape
    (2, 5, 3)
    """

    reads: ClassVar[Any] = (-2,)
    cuts: ClassVar[Any] = ("context",)
    length: Size

    def context(self, over, count, /):
        return PositionsHere(self.length, over, count)

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
        return x + self._rows(p, x).astype(x.dtype).reshape((1,) * (x.ndim - 2) + (n, -1)), ()

    def backward(self, params, residuals, dy, /):
        return dy, dy.astype(params["p"].dtype)

    def gradient(self, residuals, dy, /):
        p = dy.sum(tuple(range(dy.ndim - 2)))
        return {"p": self._among(p, dy)}

    def _rows(self, p, x):
        """P of x's places."""
        return p[: x.shape[-2]]

    def _among(self, p, x):
        """What belongs to x's places as P, 0 beyond them."""
        return jnp.pad(p, ((0, self.length - p.shape[0]), (0, 0)))


@dataclass(frozen=True)
class PositionsHere(Positions):
    """What a device of `count` along the axis `over` does of Positions where each has its part of x's second axis."""

    cuts: ClassVar[Any] = ()
    over: str = ""
    count: Size = 1

    def _n(self, x):
        if len(x.shape) == 3:
            super()._n(jax.ShapeDtypeStruct((x.shape[0], x.shape[1] * self.count, x.shape[2]), x.dtype))
        return super()._n(x)

    def _rows(self, p, x):
        return lax.dynamic_slice_in_dim(p, part_of(self.over, x), x.shape[-2])

    def _among(self, p, x):
        whole = jnp.zeros((self.length, p.shape[1]), p.dtype)
        return lax.dynamic_update_slice_in_dim(whole, p, part_of(self.over, x), 0)


@dataclass(frozen=True)
class SinusoidalPositions(Layer):
    """y = x + P, P_{k,2i} = sin(k / b^{2i/d}), P_{k,2i+1} = cos of the same: positions that need not be learned.

        dx = dy

    b is `base`. Keeps nothing. Shapes: x and y (..., n, d), for any n. (Vaswani et al., *Attention Is All You Need*,
    2017, §3.5.) Raises LayerError for fewer than two axes or an x that is not floating.

    >>> SinusoidalPositions()((), jnp.zeros((1, 2, 4)))
    Array([[[0.   , 1.   , 0.   , 1.   ],
            [0.841, 0.54 , 0.01 , 1.   ]]], dtype=float32)
    """

    reads: ClassVar[Any] = (-2,)
    cuts: ClassVar[Any] = ("context",)
    base: Positive = 10000.0

    def context(self, over, count, /):
        return SinusoidalPositionsHere(self.base, over, count)

    def forward(self, params, x, /):
        n, d = floats(self, x, "(..., n, features)", least=2).shape[-2:]
        return x + self._table(n, d, x).reshape((1,) * (x.ndim - 2) + (n, d)), outline(x)

    def _table(self, n, d, x):
        k, i = np.arange(n)[:, None], np.arange(d)[None]
        angle = k / self.base ** (2 * (i // 2) / d)
        return jnp.asarray(np.where(i % 2 == 0, np.sin(angle), np.cos(angle)), x.dtype)

    def backward(self, params, shape, dy, /):
        return passed(self, shape, dy), ()

    def reference(self, params, x, /):
        n, d = x.shape[-2:]
        speed = [self.base ** (-(i - i % 2) / d) for i in range(d)]
        p = [[math.cos(k * s) if i % 2 else math.sin(k * s) for i, s in enumerate(speed)] for k in range(n)]
        return x + jnp.broadcast_to(jnp.asarray(p, x.dtype).reshape(n, d), x.shape)


@dataclass(frozen=True)
class SinusoidalPositionsHere(SinusoidalPositions):
    """What a device of `count` along the axis `over` does of SinusoidalPositions with its part of x's second axis."""

    cuts: ClassVar[Any] = ()
    over: str = ""
    count: Size = 1

    def _table(self, n, d, x):
        several = self.count if x.ndim == 3 else 1
        return lax.dynamic_slice_in_dim(super()._table(n * several, d, x), part_of(self.over, x), n)


CASES = (
    Case(SinusoidalPositions(), f(3, 5), f(2, 5, 3), f(2, 5, 3, 2)),
    Case(Positions(9), f(2, 5, 3)),
    Case(Embedding(5, 3), i(4, below=5), i(3, 2, below=5)),
    Case(Embedding(3, 8), i(2, 5, below=3)),
    Case(Embedding(5, 3, padding=1), i(3, 2, below=5)),
    Case(FrequencyScaledEmbedding(5, 3, padding=1), i(3, 2, below=5)),
    Case(EmbeddingBag(5, 3), i(2, 3, below=5), (i(2, 3, below=5), f(2, 3))),
    Case(EmbeddingBag(5, 3, "mean", padding=1), i(3, 2, 4, below=5), (i(3, 4, below=5), f(3, 4))),
    Case(EmbeddingBag(5, 3, "max", padding=1), i(2, 3, below=5)),
    Case(EmbeddingBag(5, 3, "mean"), {"ids": i(4, below=5), "offsets": i(1, below=1), "weights": f(4)}),
)
