"""Where NaN and Inf come from: the first layer, forward or backward, that made one out of finite numbers.

Every layer of the network is put into a `_Watched`, which leaves a `_Flag` among the residuals and the deltas: which
layer, and whether what went in and what came out was finite. So the flags travel through every combinator, and out of
`Repeat`'s scan stacked, one for each time.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jbp.combinators import Keep, Remat, Repeat
from jbp.compose import Wrapper
from jbp.layer import Layer, map_children
from jbp.sweep import children
from jbp.train.step import Again, State, finite, optimized, sound


@dataclass(frozen=True)
class _Place:
    """A layer in a network: its path as errors write it, and its position among its siblings at every level."""

    layer: Layer
    path: tuple[str, ...] = ()
    position: tuple[int | None, ...] = ()  # None where Repeat puts the number of the time

    def below(self, parent: Layer, label: str, i: int, layer: Layer) -> "_Place":
        each = (None, i) if isinstance(parent, Repeat) else (i,)
        return _Place(layer, (*self.path, type(parent).__name__ + label), (*self.position, *each))

    def __str__(self):
        return f"{'.'.join(self.path)}{': ' * bool(self.path)}{self.layer!r}"


@partial(jax.tree_util.register_dataclass, data_fields=["good"], meta_fields=["place"])
@dataclass(frozen=True)
class _Flag:
    place: _Place
    good: dict[str, Any]


@dataclass(frozen=True, repr=False)
class _Watched(Wrapper):
    layer: Layer
    place: _Place = field(compare=False)

    def __repr__(self):
        return repr(self.place.layer)

    def forward(self, params, x, /):
        y, residuals = self.layer.forward(params, x)
        return y, (residuals, _Flag(self.place, {"up": finite(y)}))

    def backward(self, params, residuals, dy, /):
        dx, delta = self.layer.backward(params, residuals[0], dy)
        grads = () if children(self.layer) else self.layer.gradient(residuals[0], delta)
        return dx, (delta, _Flag(self.place, {"down": finite((dx, grads)), "dx": finite(dx)}))

    def gradient(self, residuals, delta, /):
        return self.layer.gradient(residuals[0], delta[0])


def _watched(layer: Layer, place: _Place) -> Layer:
    if isinstance(layer, Remat | Keep):  # it would drop the flags with the residuals, or pack them
        return _watched(layer.layer, place.below(layer, "", 0, layer.layer))
    order = {label: i for i, (label, _) in enumerate(children(layer))}

    def inside(label, child):
        return _watched(child, place.below(layer, label, order[label], child))

    return _Watched(map_children(inside, layer), place)


def _first(tree: Any, way: str) -> Any:
    """(where, its flag) for the first layer that made a bad number on its way "up" or "down", None if none did."""
    found = []
    for flag in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, _Flag)):
        if not isinstance(flag, _Flag) or way not in flag.good:
            continue
        for times in np.argwhere(~np.asarray(flag.good[way])).tolist():
            each = iter(times)
            order = [next(each, 0) if i is None else i for i in flag.place.position]
            order = (*(order if way == "up" else (-i for i in order)), math.inf)  # a combinator is after its children
            where = f"{flag.place}" + "".join(f", time {t} of its Repeat" for t in times)
            found.append((order, where, {name: bool(good[tuple(times)]) for name, good in flag.good.items()}))
    return min(found, key=lambda row: row[0])[1:] if found else None


def _unsound(old: Any, new: Any) -> str | None:
    """The path of the first leaf that holds a NaN or Inf which was not there before."""
    before = jax.tree.leaves(old)
    for (path, leaf), a in zip(jax.tree_util.tree_leaves_with_path(new), before, strict=True):
        if not sound(a, leaf):
            return jax.tree_util.keystr(path)
    return None


def cause(net: Layer, loss: Layer, optimizer: optax.GradientTransformation, state: State, batch: Any) -> str:
    """Which layer made the first NaN or Inf of one training step, in words. Runs that step again, uncompiled.

    Raises LayerError where a layer can say what is wrong with the values that it was given: a label out of range, say.
    """
    params, (x, *target) = state.params, batch
    for name, tree in {"params": params, "batch": batch}.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not finite(leaf):
                whence = "The optimizer made it, the step before perhaps: lower the learning rate." * (name == "params")
                return f"{name}{jax.tree_util.keystr(path)} held NaN or Inf already, before the step. {whence}".rstrip()
    watched = _watched(net, _Place(net))
    y, residuals = watched.forward(params, x)
    bad = _first(residuals, "up")
    if bad:
        return f"The first is in the output of {bad[0]}. Its input and its parameters were finite."
    value, kept = loss.forward((), (y, *target))
    if not finite(value):
        return f"The first is the loss, {loss!r}. The output of the network was finite."
    (dy, *_), _ = loss.backward((), kept, jnp.ones((), value.dtype))
    if not finite(dy):
        return f"The first is in the error dy of the loss, {loss!r}. The loss itself was finite."
    _, deltas = watched.backward(params, residuals, dy)
    bad = _first(deltas, "down")
    if bad:
        where, good = bad
        what = "the gradient of the parameters" if good["dx"] else "the error dx"
        return f"The first is in the backward pass, in {what} of {where}. The error dy that it was given was finite."
    grads = watched.gradient(residuals, deltas)
    if not finite(grads):
        return "The first is a sum of gradients: one parameter is used in several places."
    advanced = net.advance(params, net.forward(params, x)[1])
    where = _unsound(params, advanced)
    if where:
        return f"The first is in the buffer {where} that the network moves on. Is the batch empty?"
    extra = Again(net, loss, params, x, tuple(target)).extra(value, grads)
    moved, optimizer_state = optimized(optimizer, grads, state.optimizer, advanced, **extra)
    for name, old, new in (("optimizer", state.optimizer, optimizer_state), ("params", advanced, moved)):
        where = _unsound(old, new)
        if where:
            return (
                f"The first is in {name}{where}, and the optimizer made it: loss and gradients were finite. "
                "Lower the learning rate, or look at its schedule."
            )
    return "When the step was run again, layer by layer, all was finite: it lies at the edge of the dtype's range."
