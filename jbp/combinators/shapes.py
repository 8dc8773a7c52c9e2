"""What combinators ask of the layers inside: the shapes that come out, and that they stay."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jbp.errors import LayerError, show
from jbp.layer import Layer
from jbp.layers.pool import GlobalAveragePool, GlobalMaxPool
from jbp.layers.structure.move import Take


def shape_after(layer: Layer, params: Any, x: Any) -> Any:
    """The shapes and dtypes of layer's output: what the next layer's `init` is given."""
    leaves, structure = jax.tree.flatten((params, x))
    return _shape_after(layer, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@lru_cache(maxsize=4096)
def _shape_after(layer, structure, leaves):
    params, x = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    return jax.eval_shape(lambda params, x: layer.forward(params, x)[0], params, x)


def stacked(layer: Layer, params: Any, times: int | None) -> None:
    """An error unless every parameter has a first axis of `times`."""
    if {p.shape[:1] for p in jax.tree.leaves(params)} - {(times,)}:
        raise LayerError(
            layer,
            f"got parameters {show(params)}; expected each with a first axis of {times}. "
            "Are these the parameters of another network? Make them with net.init(key, x).",
        )


def stays_padded(x: Any, y: Any, before: bool) -> bool:
    """Whether y (b, t, ...) holds padding after the end of each example: x came with lengths, or held it before."""
    with_lengths = "lengths" in x if isinstance(x, dict) else isinstance(x, tuple | list) and len(x) == 2
    lengths: Any = (x["lengths"] if isinstance(x, dict) else x[1]) if with_lengths else None
    x, y = _sequence(x), _sequence(y)
    if not hasattr(x, "shape") or not hasattr(y, "shape") or len(x.shape) < 2:
        return False
    if hasattr(lengths, "dtype") and jnp.issubdtype(lengths.dtype, jnp.integer) and lengths.shape == x.shape[:1]:
        before = True
    return before and len(x.shape) == len(y.shape) and x.shape[:2] == y.shape[:2]


def _sequence(x):
    """x out of (x, state), (x, lengths) and a dict of these."""
    return x.get("x") if isinstance(x, dict) else x[0] if isinstance(x, tuple | list) and x else x


def no_padding_taken(layer: Layer, x: Any) -> None:
    """An error if the layer takes the last of all steps, or their mean or maximum, out of x that holds padding."""
    pool = {GlobalAveragePool: "mean", GlobalMaxPool: "max"}.get(type(layer))
    if isinstance(layer, Take) and len(x.shape) > 2 and layer.axis % len(x.shape) == 1:
        pool = "last" if layer.index in (-1, x.shape[1] - 1) else None
    if pool:
        raise LayerError(
            layer,
            f"got x {show(x)} from a layer with lengths, padded after the end of each example; expected a layer of the "
            f"valid steps alone. Write Lengths(..., pool={pool!r}) and leave out this.",
        )


def same_shape(layer: Layer, x: Any, y: Any) -> None:
    """An error unless f's output y has the structure, shapes and dtypes of its input x."""
    x, y = (jax.tree.map(lambda v: v, tree) for tree in (x, y))  # dicts in one order
    if show(x) != show(y):
        raise LayerError(
            layer,
            f"got an inner layer from {show(x)} to {show(y)}; expected it to keep shape and dtype. "
            "End it with a layer that restores the shape, Dense(x.shape[-1]) for example.",
        )
