"""What combinators ask of the layers inside: the shapes that come out, and that they stay."""

from functools import lru_cache
from typing import Any

import jax

from jbp.errors import LayerError, show
from jbp.fields import is_layer
from jbp.layer import Layer


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


def same_shape(layer: Layer, x: Any, y: Any) -> None:
    """An error unless f's output y has the structure, shapes and dtypes of its input x."""
    if show(x) != show(y):
        raise LayerError(
            layer,
            f"got an inner layer from {show(x)} to {show(y)}; expected it to keep shape and dtype. "
            "End it with a layer that restores the shape, Dense(x.shape[-1]) for example.",
        )


def each_a_layer(layer: Any) -> None:
    """An error unless `layer.layers` are layers."""
    name = type(layer).__name__
    for i, each in enumerate(layer.layers):
        if not is_layer(each):
            got = each.__name__ if isinstance(each, type) else type(each).__name__
            remedy = f"Write {got}(...), not the class." if isinstance(each, type) else "Write the layers themselves."
            remedy = f"Write {name}(*layers)." if isinstance(each, list | tuple) else remedy
            raise LayerError(layer, f"got {got} as argument {i}; expected a layer. {remedy}")
