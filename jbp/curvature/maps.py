"""The affine maps inside of layers: which parameters they are, and their inputs and errors in a sweep.

y = x W + b over all rows x of a map is what Kronecker factors are of. One table for all layers, by type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from jbp.layer import Layer
from jbp.layers.activation.gated import GatedDense
from jbp.layers.attention.multihead import MultiHeadAttention
from jbp.layers.conv.convolution import Conv
from jbp.layers.embedding import Embedding
from jbp.layers.linear.dense import Dense, Logits
from jbp.layers.recurrent.elman import Elman
from jbp.layers.recurrent.gru import GRU
from jbp.layers.recurrent.lstm import LSTM
from jbp.numerics import time_first, wide
from jbp.readers.norms import by_token, tokens
from jbp.readers.observe import Seen


class Rows(NamedTuple):
    """x (b, rows, i), what goes into a map, or the indices (b, rows) of a table's rows; dy (b, rows, o), its errors."""

    x: Any
    dy: Any


@dataclass(frozen=True)
class Affine:
    """An affine map of a layer: the names of its weights, one above the other, and of its bias.

    The last `outs` axes of a weight are its outputs. A `table` (rows, features) is looked up, or multiplied from the
    right: there its rows have a diagonal in the place of a matrix.
    """

    weights: tuple[str, ...]
    bias: str | None = None
    outs: int = 1
    table: bool = False

    def matrix(self, grads: Any, /) -> Any:
        """The gradient (i, o) out of that of the layer, that of the bias as its last row."""
        parts = [wide(grads[name]) for name in self.weights]
        o = math.prod(parts[0].shape[parts[0].ndim - self.outs :])
        parts = [part.reshape(-1, o) for part in parts]
        return jnp.concatenate([*parts, wide(grads[self.bias]).reshape(1, o)] if self.bias else parts)

    def put(self, grads: Any, matrix: Any, /) -> Any:
        """The layer's gradient with the matrix in the place of the map's."""
        first, new = 0, dict(grads)
        for name in self.names:
            g = grads[name]
            rows = math.prod(g.shape[: g.ndim - self.outs])
            new[name] = matrix[first : first + rows].reshape(g.shape).astype(g.dtype)
            first += rows
        return new

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
        return shapes[0][:stacked], i, math.prod(shapes[0][cut:])


class _Kind(NamedTuple):
    """Of a type of layers: the affine maps of one, by name, and their rows in a sweep."""

    maps: Callable[[Any], dict[str, Affine]]
    rows: Callable[[Seen], dict[str, Rows]]


def maps(layer: Layer) -> dict[str, Affine]:
    """The affine maps of a layer that have factors, by name: "" for the only one."""
    return FACTORED[type(layer)].maps(layer) if type(layer) in FACTORED else {}


def rows(seen: Seen) -> dict[str, Rows]:
    """The rows of each of `maps`, in float32 at least."""
    return FACTORED[type(seen.layer)].rows(seen)


def _tokens(x: Any) -> Any:
    return tokens(wide(x))


def _bias(layer):
    return "b" if layer.bias else None


def _patches(seen):
    return seen.layer._unfolded(wide(seen.x), seen.dy.shape[1:-1])


def _projections(layer):
    outs = {"q": 3, "k": 2, "v": 2, "o": 1}
    return {name: Affine((name,), f"b_{name}" if layer.bias else None, n) for name, n in outs.items()}


def _projected(seen):
    given, *_, o = seen.residuals
    dq, dk, dv, dy, _ = seen.delta
    x, keys, values = seen.layer._cleared(given, seen.layer._beside(given))

    pairs = {"q": (x, by_token(dq)), "k": (keys, by_token(dk)), "v": (values, by_token(dv)), "o": (by_token(o), dy)}
    return {name: Rows(wide(x), wide(dy)) for name, (x, dy) in pairs.items()}


def _through_time(seen):
    """(x, h before each step, delta), (b, t, ...)."""
    (x, state, _, ends), kept, _ = seen.residuals
    h = seen.layer._states(state, ends, kept)[0]
    return wide(x), *(wide(time_first(v)) for v in (h[0] if isinstance(seen.layer, LSTM) else h, seen.delta))


def _stepped(seen):
    x, h, dz = _through_time(seen)
    return {"": Rows(jnp.concatenate([x, h], -1), dz)}


def _gated(seen):
    (x, h, delta), n = _through_time(seen), seen.layer.features
    at_h = jnp.concatenate([delta[..., : 2 * n], delta[..., 3 * n :]], -1)
    return {"w": Rows(x, delta[..., : 3 * n]), "u": Rows(h, at_h)}


def _one(rows: Callable[[Seen], Rows], seen: Seen) -> dict[str, Rows]:
    return {"": rows(seen)}


FACTORED: dict[type[Layer], _Kind] = {
    Dense: _Kind(
        lambda layer: {"": Affine(("w",), _bias(layer))},
        partial(_one, lambda seen: Rows(_tokens(seen.x), _tokens(seen.dy))),
    ),
    GatedDense: _Kind(
        lambda layer: {"": Affine(("w",), _bias(layer))},
        partial(_one, lambda seen: Rows(_tokens(seen.x), _tokens(seen.delta))),
    ),
    Conv: _Kind(
        lambda layer: {"": Affine(("w",), _bias(layer))} if layer.groups == 1 and layer.padding_mode == "zeros" else {},
        partial(_one, lambda seen: Rows(_patches(seen), _tokens(seen.dy))),
    ),
    Embedding: _Kind(
        lambda layer: {"": Affine(("e",), table=True)},
        partial(_one, lambda seen: Rows(seen.x.reshape(seen.x.shape[0], -1), _tokens(seen.dy))),
    ),
    Logits: _Kind(
        lambda layer: {"": Affine(("e",), table=True)},
        partial(_one, lambda seen: Rows(_tokens(seen.x), _tokens(seen.dy))),
    ),
    MultiHeadAttention: _Kind(_projections, _projected),
    LSTM: _Kind(
        lambda layer: {} if layer.projection else {"": Affine(("w", "u"), _bias(layer))}, _stepped
    ),
    Elman: _Kind(lambda layer: {"": Affine(("w", "u"), _bias(layer))}, _stepped),
    GRU: _Kind(
        lambda layer: {"w": Affine(("w",), _bias(layer)), "u": Affine(("u",))} if layer.reset_after else {}, _gated
    ),
}  # fmt: skip
