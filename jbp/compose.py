"""What layers that are made of layers have in common.

Residuals, deltas and gradients of several layers have the shape of their parameters: a tuple for a tuple of layers, a
dict for layers with names.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import Any

from jbp.errors import LayerError, at, show
from jbp.fields import is_layer
from jbp.layer import Layer


class Wrapper(Layer):
    """One layer with something around it: the field `layer`, whose parameters, residuals and delta are this one's.

    Of its own a wrapper has what differs: `forward`, `reference`, and `_down`, which is `backward` and `pull` in one.
    `_inner` gives the layer's parameters out of the wrapper's and `_outer` the wrapper's out of the layer's, `_kept`
    the layer's residuals, `_whole` the wrapper's gradient out of the layer's, where they are not the same.
    """

    layer: Layer

    def _inner(self, params: Any) -> Any:
        return params

    def _outer(self, params: Any) -> Any:
        return params

    def _kept(self, residuals: Any) -> Any:
        return residuals

    def _whole(self, grads: Any) -> Any:
        return grads

    def init(self, key, x, /):
        with at(self):
            return self.layer.init(key, x)

    def forward(self, params, x, /):
        inner = self._inner(params)
        with at(self):
            return self.layer.forward(inner, x)

    def _down(self, way: Callable[..., Any], params: Any, residuals: Any, dy: Any) -> tuple[Any, Any]:
        """(dx, delta) with `way` the layer's `backward`, (dx, its gradient) with its `pull`."""
        inner, kept = self._inner(params), self._kept(residuals)
        with at(self):
            return way(inner, kept, dy)

    def backward(self, params, residuals, dy, /):
        return self._down(self.layer.backward, params, residuals, dy)

    def gradient(self, residuals, delta, /):
        with at(self):
            return self._whole(self.layer.gradient(self._kept(residuals), delta))

    def pull(self, params, residuals, dy, /):
        dx, grads = self._down(self.layer.pull, params, residuals, dy)
        return dx, self._whole(grads)

    def advance(self, params, residuals, /):
        return self._outer(self.layer.advance(self._inner(params), self._kept(residuals)))

    def reference(self, params, x, /):
        return self.layer.reference(self._inner(params), x)


@dataclass(frozen=True, init=False)
class Several(Layer):
    layers: tuple[Layer, ...]
    names: tuple[str, ...]

    def __init__(
        self, *several: Layer, layers: tuple[Layer, ...] = (), names: tuple[str, ...] = (), **named: Layer
    ):  # `layers=` and `names=` are what dataclasses.replace passes
        if not all(isinstance(name, str) for name in a_tuple(type(self), "names", names)):
            kind = type(self).__name__
            raise LayerError(
                type(self), f"got names={names!r}; expected a tuple of names. Write {kind}(first=..., second=...)."
            )
        given = several or (tuple(layers) if isinstance(layers, tuple | list) else (layers,))
        object.__setattr__(self, "layers", (*given, *named.values()))
        object.__setattr__(self, "names", (*names, *named))
        each_a_layer(self)
        if self.names and len(self.names) != len(self.layers):
            kind = type(self).__name__
            raise LayerError(
                type(self),
                f"got {len(self.layers)} layers and the names {', '.join(self.names)}; expected a name for each, or "
                f"none. Write {kind}(first=..., {self.names[-1]}=...).",
            )
        bad = [name for name in self.names if not str(name).isidentifier() or iskeyword(name)]
        if bad:
            raise LayerError(type(self), f"got the name {bad[0]!r}; expected one that Python takes. Try encoder=...")

    def _arguments(self) -> Iterator[tuple[str, Any]]:
        return zip(self.names or [""] * len(self.layers), self.layers, strict=True)

    def __getitem__(self, key: Any) -> Any:
        """The layer at a place or of a name, a combinator of those of a slice. Its parameters are params[key]."""
        if isinstance(key, slice):
            return replace(self, layers=self.layers[key], names=self.names[key])
        if isinstance(key, str) and key not in self.names:
            raise KeyError(f"{key!r}; the layers of this {type(self).__name__} are {self.names or len(self)}")
        return self.layers[self.names.index(key) if isinstance(key, str) else key]

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True  # an empty one is a layer too

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def parts(self, tree: Any, what: str = "parameters", /) -> tuple[Any, ...]:
        """What of a tree of parameters, residuals, deltas or gradients is each layer's, in their order."""
        wanted = f"a dict with {', '.join(map(repr, self.names))}" if self.names else f"a tuple of {len(self.layers)}"
        if self.names and isinstance(tree, dict) and set(tree) == set(self.names):
            return tuple(tree[name] for name in self.names)
        if not self.names and isinstance(tree, tuple | list) and len(tree) == len(self.layers):
            return tuple(tree)
        raise LayerError(
            self,
            f"got {what} {show(tree)}; expected {wanted}, one for each layer. Are these the {what} of another network?",
        )

    def whole(self, parts: Iterable[Any], /) -> Any:
        """The tree of which these are the parts: a dict under the names of the layers, a tuple if they have none."""
        return dict(zip(self.names, parts, strict=True)) if self.names else tuple(parts)

    def label(self, i: int) -> str:
        """How errors call the layer at this place."""
        return f".{self.names[i]}" if self.names else f"[{i}]"

    def _each(self, **trees):
        """(label, child, its part of each tree), after a check that there is one part for every child."""
        rows = zip(self.layers, *(self.parts(tree, what) for what, tree in trees.items()), strict=True)
        return [(self.label(i), *row) for i, row in enumerate(rows)]

    def gradient(self, residuals, delta, /):
        grads = []
        for i, layer, r, d in self._each(residuals=residuals, delta=delta):
            with at(self, i):
                grads.append(layer.gradient(r, d))
        return self.whole(grads)

    def advance(self, params, residuals, /):
        return self.whole(layer.advance(p, r) for _, layer, p, r in self._each(parameters=params, residuals=residuals))


def a_tuple(owner: type, name: str, value: Any) -> tuple[Any, ...]:
    """The value as a tuple, or an error if it is neither a tuple nor a list."""
    if not isinstance(value, tuple | list):
        raise LayerError(
            owner, f"got {name}={value!r}; expected a tuple of {name}. Write {owner.__name__}(first=..., ...)."
        )
    return tuple(value)


def each_a_layer(layer: Any) -> None:
    """An error unless `layer.layers` are layers."""
    name = type(layer).__name__
    for i, each in enumerate(layer.layers):
        if not is_layer(each):
            got = each.__name__ if isinstance(each, type) else type(each).__name__
            remedy = f"Write {got}(...), not the class." if isinstance(each, type) else "Write the layers themselves."
            if callable(each) and not isinstance(each, type):
                remedy = "Look for one in jbp.layers; Lambda(f) of jbp.bridge.foreign is any function as a layer."
            remedy = f"Write {name}(*layers)." if isinstance(each, list | tuple) else remedy
            raise LayerError(type(layer), f"got {got} as argument {i}; expected a layer. {remedy}")
