"""Whether a network takes each example of a batch by itself, looked at by shapes alone."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jbp.compose import Wrapper
from jbp.errors import LayerError, show
from jbp.layer import Layer, map_children
from jbp.layers.recurrent import Bidirectional, Lengths, Recurrent, Stack
from jbp.losses.loss import Loss
from jbp.sweep import children

MANY = 7919  # examples, a prime: an axis of so many, or a multiple, has examples on it


def must_be_alone(net: Layer, params: Any, x: Any, let: tuple[str, ...] = ()) -> None:
    """An error for a layer that moves, mixes or takes for something else what lies along the first axis of x.

    By the axes that a layer says it `reads`, and by the shape of its output for a batch of another size. Types of
    layers named in `let` may do as they like, and so may what says that it couples.
    """
    b = next((np.shape(leaf)[0] for leaf in jax.tree.leaves(x) if np.shape(leaf)), 0)

    def many(leaf):
        shape = np.shape(leaf)
        shape = (MANY, *shape[1:]) if shape[:1] == (b,) else shape
        return jax.ShapeDtypeStruct(shape, jax.dtypes.result_type(leaf))

    watched = _watched(net, let)
    jax.eval_shape(lambda params, x: watched.forward(params, x)[0], params, jax.tree.map(many, x))


WHOLE = Recurrent, Bidirectional, Lengths, Stack  # which look at the types of the layers inside


def _watched(net, let):
    if children(net) and not isinstance(net, WHOLE):
        return map_children(lambda _, child: _watched(child, let), net)
    exempt = type(net).__name__ in let or getattr(net, "couples", "") or isinstance(net, Loss)
    return net if exempt else _Watched(net)


@dataclass(frozen=True)
class _Watched(Wrapper):
    """A layer that is watched: out of examples on the first axis come as many, there alone."""

    layer: Layer

    def __repr__(self):
        return repr(self.layer)

    def forward(self, params, x, /):
        came = [leaf.shape for leaf in jax.tree.leaves(x) if any(n and n % MANY == 0 for n in leaf.shape)]
        if any(axis in (0, -len(shape)) for shape in came for axis in getattr(self.layer, "reads", ())):
            raise self._mixed(x)
        try:
            y, residuals = self.layer.forward(params, x)
        except LayerError as error:
            raise self._mixed(x) from error
        for leaf in jax.tree.leaves(y):
            moved = any(n and n % MANY == 0 for n in leaf.shape[1:])
            if came and leaf.shape and (moved or leaf.shape[0] not in {shape[0] for shape in came}):
                raise self._mixed(x)
        return y, residuals

    def _mixed(self, x):
        return mixed(self.layer, show(x).replace(str(MANY), "batch"))


def mixed(layer: Layer, shown: str) -> LayerError:
    """The error for a layer that does not take each example of x, as it is shown, by itself."""
    return LayerError(
        layer,
        f"got x {shown}, of which it mixes or moves the first axis; expected the examples there, each by itself. "
        "Choose another axis, or put the examples first again.",
    )
