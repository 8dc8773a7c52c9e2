"""What each layer sees in one sweep, shown to functions of yours.

Every layer is put into a `_Shown`. What the readings give goes up among the gradients, a `_Noted` in the place of each
layer's own, through every combinator and out of the scan of a Repeat, stacked; at the top the two are parted again.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax

from jbp.combinators import Graph, Parallel, Remat, Repeat, Reversible, Serial
from jbp.compose import Wrapper
from jbp.errors import LayerError, at
from jbp.layer import Layer, map_children
from jbp.sweep import Aux, lost, must_be_layer

Reading = Callable[["Seen"], Any]


@dataclass(frozen=True)
class Seen:
    """One layer in a sweep: what went up through it, what came down, and the gradient of its parameters."""

    layer: Layer
    params: Any
    x: Any
    y: Any
    dy: Any
    dx: Any
    residuals: Any
    delta: Any
    gradient: Any


class Observed(NamedTuple):
    """value, aux (output, params with buffers advanced), gradient, and found: {path of a layer: {reading: value}}."""

    value: Any
    aux: Aux
    gradient: Any
    found: dict[str, dict[str, Any]]


def observe(net: Layer, loss: Layer, **readings: Reading) -> Callable[..., Observed]:
    """f(params, x, *targets) -> Observed: the sweep of `value_and_grad`, with functions that look at every layer.

        sizes = observe(net, loss, error=lambda seen: jnp.sqrt(jnp.mean(seen.dy**2)))(params, x, label).found

    A reading takes a `Seen` and gives an array or a tree of them, or None for a layer that is none of its business. In
    a Repeat its values have a first axis of `times`. What no reading looks at costs nothing under `jit`. A layer in
    whose place another cannot be put, a cell in a Recurrent say, is seen as a part of the layer around it.

    Raises LayerError where a layer does, and if there are no readings.

    >>> net, x = Serial(Dense(2), ReLU(), Dense(1)), jnp.ones((3, 4))
    >>> look = jbp.readers.observe(net, MeanSquaredError(), axes=lambda seen: jnp.array(seen.y.shape))
    >>> look(net.init(jax.random.key(0), x), x, jnp.zeros((3, 1))).found["[1]"]
    {'axes': Array([3, 2], dtype=int32)}
    """
    must_be_layer("net", net)
    must_be_layer("loss", loss)
    if not readings or not all(map(callable, readings.values())):
        raise LayerError(net, f"got the readings {readings!r}; expected functions of a Seen, by name. Write rms=rms.")
    net = shown(net, readings)

    def f(params, x, *targets):
        output, residuals = net.forward(params, x)
        value, dy = lost(loss, output, *targets)
        _, noted = net.pull(params, residuals, dy)
        gradient, found = parted(noted)
        return Observed(value, Aux(output, net.advance(params, residuals)), gradient, found)

    return f


def shown(net: Layer, readings: Mapping[str, Reading]) -> Layer:
    """The network with every layer shown to the readings. What its `pull` gives for a gradient is to be `parted`."""
    return _shown(net, tuple(readings.items()), "")


@partial(jax.tree_util.register_dataclass, data_fields=["gradient", "found"], meta_fields=["path"])
@dataclass(frozen=True)
class _Noted:
    gradient: Any
    found: dict[str, Any]
    path: str | None  # None: `found` has paths of its own


def parted(tree: Any) -> tuple[Any, dict[str, Any]]:
    """(the gradients, what was found by path)."""
    found: dict[str, Any] = OrderedDict()  # which keeps its order out of `jit`

    def gradient(node):
        if not isinstance(node, _Noted):
            return node
        more = node.found if node.path is None else {node.path: node.found} if node.found else {}
        found.update(more)
        return node.gradient

    return jax.tree.map(gradient, tree, is_leaf=lambda node: isinstance(node, _Noted)), found


def _shown(layer: Layer, readings: tuple[tuple[str, Reading], ...], path: str) -> Layer:
    through = isinstance(layer, Serial | Parallel | Graph | Remat | Repeat | Reversible)
    around = isinstance(layer, Wrapper) and type(layer).pull is Wrapper.pull
    if not through and not around:
        return _Shown(layer, readings, path)

    def below(label, child):
        with at(layer, label):
            return _shown(child, readings, f"{path}{label}")

    changed = map_children(below, layer)
    return _Around(changed) if around else changed


@dataclass(frozen=True, repr=False)
class _Around(Wrapper):
    """A wrapper that makes its gradient out of the layer's: what was found goes past it."""

    layer: Layer

    def __repr__(self):
        return repr(self.layer)

    def pull(self, params, residuals, dy, /):
        outer: Any = self.layer
        dx, noted = outer._down(outer.layer.pull, params, residuals, dy)
        gradient, found = parted(noted)
        return dx, _Noted(outer._whole(gradient), found, None)


@dataclass(frozen=True, repr=False)
class _Shown(Wrapper):
    layer: Layer
    readings: tuple[tuple[str, Reading], ...]
    path: str

    def __repr__(self):
        return repr(self.layer)

    def forward(self, params, x, /):
        y, residuals = self.layer.forward(params, x)
        return y, (residuals, x, y)

    def _kept(self, residuals):
        return residuals[0]

    def pull(self, params, residuals, dy, /):
        residuals, x, y = residuals
        dx, delta = self.layer.backward(params, residuals, dy)
        gradient = self.layer.gradient(residuals, delta)
        seen = Seen(self.layer, params, x, y, dy, dx, residuals, delta, gradient)
        found = {name: value for name, reading in self.readings if (value := reading(seen)) is not None}
        return dx, _Noted(gradient, found, self.path)
