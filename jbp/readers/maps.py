"""The affine maps inside of layers: which parameters they are, and their inputs and errors in a sweep.

y = x W + b over all rows x of a map is what Kronecker factors are of, and of Σ xᵀ dy over an example's rows the norm is
had without the sum. One table for all layers, by type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbp.layer import Layer
from jbp.layers.activation.gated import GatedDense
from jbp.layers.attention.multihead import CausalSelfAttention, MultiHeadAttention
from jbp.layers.conv.convolution import Conv
from jbp.layers.conv.transpose import ConvTranspose
from jbp.layers.embedding import Embedding
from jbp.layers.experts import MixtureOfExperts
from jbp.layers.linear.dense import Dense, Logits
from jbp.layers.linear.lowrank import LoRA, LowRank
from jbp.layers.recurrent.cell import Recurrent
from jbp.layers.recurrent.elman import Elman, ElmanCell
from jbp.layers.recurrent.gru import GRU, GRUCell, MinimalGRU, MinimalGRUCell
from jbp.layers.recurrent.lstm import LSTM, LSTMCell
from jbp.layers.recurrent.sequence import Cell
from jbp.numerics import is_float, time_first, wide


class Rows(NamedTuple):
    """x (b, rows, i), what goes into a map, or the indices (b, rows) of a table's rows; dy (b, rows, o), its errors."""

    x: Any
    dy: Any


@dataclass(frozen=True)
class Affine:
    """An affine map of a layer: the names of its weights, one above the other, and of its bias.

    The last `outs` axes of a weight are its outputs, of which a map may be the `columns` (from, to). A `table` (rows,
    features) is looked up, or multiplied from the right: there its rows have a diagonal in the place of a matrix.
    """

    weights: tuple[str, ...]
    bias: str | None = None
    outs: int = 1
    table: bool = False
    columns: tuple[int, int] | None = None

    def matrix(self, grads: Any, /) -> Any:
        """The gradient (i, o) out of that of the layer, that of the bias as its last row."""
        parts = [wide(grads[name][self._own]) for name in self.weights]
        o = math.prod(parts[0].shape[parts[0].ndim - self.outs :])
        parts = [part.reshape(-1, o) for part in parts]
        return jnp.concatenate([*parts, wide(grads[self.bias]).reshape(1, o)] if self.bias else parts)

    def put(self, grads: Any, matrix: Any, /) -> Any:
        """The layer's gradient with the matrix in the place of the map's."""
        first, new = 0, dict(grads)
        for name in self.names:
            g, own = grads[name], self._own if name in self.weights else ...
            rows = math.prod(g.shape[: g.ndim - self.outs])
            part = matrix[first : first + rows].reshape(g[own].shape).astype(g.dtype)
            new[name] = part if own is ... or self.columns is None else g.at[own].set(part)
            first += rows
        return new

    @property
    def _own(self):
        return (..., slice(*(self.columns or (None,))))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.weights, *([self.bias] if self.bias else []))

    def there(self, grads: Any, /) -> bool:
        """Whether all of it is in the tree: what is frozen, or another's, is not."""
        return isinstance(grads, dict) and all(grads.get(name) is not None for name in self.names)

    def sizes(self, params: Any, stacked: int, /) -> tuple[tuple[int, ...], int, int]:
        """(the shape of the stack that the parameters are in, i, o): `stacked` of their first axes are it."""
        shapes = [params[name].shape for name in self.weights]
        cut = len(shapes[0]) - self.outs
        i = sum(math.prod(shape[stacked:cut]) for shape in shapes) + (self.bias is not None)
        low, high = self.columns or (0, math.prod(shapes[0][cut:]))
        return shapes[0][:stacked], i, high - low


class _Kind(NamedTuple):
    """Of a type of layers: the affine maps of one, by name, and their rows in a sweep, of (layer, residuals, delta)."""

    maps: Callable[[Any], dict[str, Affine]]
    rows: Callable[[Any, Any, Any], dict[str, Rows]]


def maps(layer: Layer) -> dict[str, Affine]:
    """The affine maps of a layer that have factors, by name: "" for the only one."""
    return FACTORED[type(layer)].maps(layer) if type(layer) in FACTORED else {}


def rows(layer: Layer, residuals: Any, delta: Any) -> dict[str, Rows]:
    """The rows of each of `maps`, in float32 at least."""
    found = FACTORED[type(layer)].rows(layer, residuals, delta)
    return {name: Rows(*(wide(v) if is_float(v) else v for v in each)) for name, each in found.items()}


def tokens(x: Any) -> Any:
    """(b, ..., f) as (b, t, f)."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def by_token(a: Any) -> Any:
    """(b, ..., n, d), heads and whatever else between, as (b, n, all the rest)."""
    a = jnp.moveaxis(a, -2, 1)
    return a.reshape(*a.shape[:2], -1)


def words(layer: Embedding, ids: Any, dy: Any) -> Rows:
    """ids (b, t), `vocabulary` for those that have no row, and dy (b, t, d)."""
    return Rows(
        jnp.where((ids >= 0) & (ids < layer.vocabulary), ids, layer.vocabulary).reshape(ids.shape[0], -1), tokens(dy)
    )


def _bias(layer):
    return "b" if layer.bias else None


def _dense(layer):
    return {"": Affine(("w",), _bias(layer))}


def _kernel(layer):
    return _dense(layer) if layer.groups == 1 and getattr(layer, "padding_mode", "zeros") == "zeros" else {}


def _table(layer):
    return {"": Affine(("e",), table=True)}


def _straight(layer, x, dy):
    return {"": Rows(tokens(x), tokens(dy))}


def _patches(layer, x, dy):
    return {"": Rows(layer._unfolded(wide(x), dy.shape[1:-1]), tokens(dy))}


def _projections(layer):
    outs = {"q": 3, "k": 2, "v": 2, "o": 1}
    return {name: Affine((name,), f"b_{name}" if layer.bias else None, n) for name, n in outs.items()}


def _projected(layer, residuals, delta):
    given, *_, o = residuals
    dq, dk, dv, dy, _ = delta
    x, keys, values = layer._cleared(given, layer._beside(given))
    pairs = {"q": (x, by_token(dq)), "k": (keys, by_token(dk)), "v": (values, by_token(dv)), "o": (by_token(o), dy)}
    return {name: Rows(*pair) for name, pair in pairs.items()}


def _narrow(layer, residuals, delta):
    (x, h), (dh, dy) = residuals, delta
    dy = layer.alpha / layer.rank * dy if isinstance(layer, LoRA) else dy
    return {"u": Rows(tokens(x), tokens(dh)), "v": Rows(tokens(h), tokens(dy))}


def _routed(layer, residuals, delta):
    b = residuals[7].value[0]
    return {"w": Rows(*(v.reshape(b, -1, v.shape[-1]) for v in (residuals[0], delta[1])))}


def _recurrent(layer):
    """The maps of a layer that goes by steps: what a scaled state is multiplied with is one by itself."""
    if isinstance(layer, Recurrent):
        return maps(layer.cell) if isinstance(layer.cell, Cell) else {}
    n = layer.features
    if isinstance(layer, Elman | ElmanCell | LSTM | LSTMCell):
        more = {"p": Affine(("p",))} if getattr(layer, "projection", None) else {}
        return {"": Affine(("w", "u"), _bias(layer))} | more
    cut = n if isinstance(layer, MinimalGRU | MinimalGRUCell) else 2 * n
    c = "c" if layer.bias and getattr(layer, "reset_after", False) else None
    return {
        "w": Affine(("w",), _bias(layer)),
        "gates": Affine(("u",), columns=(0, cut)),
        "new": Affine(("u",), c, columns=(cut, cut + n)),
    }


def _stepped(layer: Any, residuals, delta):
    if isinstance(layer, Cell):
        found = *residuals[:4], delta
    elif isinstance(layer, Recurrent):
        found = *jax.tree.map(time_first, residuals[1][:4]), jax.tree.map(time_first, delta)
        layer = layer.cell
    else:
        (x, state, _, ends), kept, _ = residuals
        found = x, *jax.tree.map(time_first, (*layer._states(state, ends, kept), delta))
    x, state, after, kept, delta = jax.tree.map(tokens, found)
    n, first = layer.features, getattr(layer, "reset_after", False)
    if isinstance(layer, Elman | ElmanCell | LSTM | LSTMCell):
        h = state[0] if isinstance(state, tuple) else state
        dz, *e = delta if isinstance(delta, tuple) else (delta,)
        more = {"p": Rows(kept[..., 2 * n : 3 * n] * jnp.tanh(after), e[0])} if e else {}
        return {"": Rows(jnp.concatenate([x, h], -1), dz)} | more
    if isinstance(layer, MinimalGRU | MinimalGRUCell):
        gates, scaled, dn, dz = delta[..., :n], kept[..., :n] * state, delta[..., n:], delta
    else:
        gates, dz = delta[..., : 2 * n], layer._scored(delta)
        scaled = state if first else kept[..., n : 2 * n] * state
        dn = delta[..., 3 * n :] if first else delta[..., 2 * n :]
    return {"w": Rows(x, dz), "gates": Rows(state, gates), "new": Rows(scaled, dn)}


FACTORED: dict[type[Layer], _Kind] = {
    Dense: _Kind(_dense, _straight),
    GatedDense: _Kind(
        lambda layer: {"": Affine(("w",), _bias(layer), 2)},
        lambda layer, residuals, dz: _straight(layer, residuals[0], dz),
    ),
    Conv: _Kind(_kernel, _patches),
    ConvTranspose: _Kind(_kernel, _patches),
    Embedding: _Kind(_table, lambda layer, ids, dy: {"": words(layer, ids, dy)}),
    Logits: _Kind(_table, _straight),
    LowRank: _Kind(lambda layer: {"u": Affine(("u",)), "v": Affine(("v",), _bias(layer))}, _narrow),
    LoRA: _Kind(lambda layer: {"u": Affine(("u",)), "v": Affine(("v",))}, _narrow),
    MixtureOfExperts: _Kind(lambda layer: {"w": Affine(("w",))}, _routed),
    **dict.fromkeys((MultiHeadAttention, CausalSelfAttention), _Kind(_projections, _projected)),
    **dict.fromkeys(
        (Elman, ElmanCell, LSTM, LSTMCell, GRU, GRUCell, MinimalGRU, MinimalGRUCell, Recurrent),
        _Kind(_recurrent, _stepped),
    ),
}  # fmt: skip
