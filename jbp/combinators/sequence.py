"""Layers one after the other, and side by side.

Residuals, deltas and gradients of a combinator have the shape of its parameters: a tuple for a tuple of children, a
dict for children with names.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import Any

import jax

from jbp.combinators.shapes import each_a_layer, no_padding_taken, shape_after, stays_padded
from jbp.errors import LayerError, at, show
from jbp.layer import Layer


@dataclass(frozen=True, init=False)
class _Several(Layer):
    layers: tuple[Layer, ...]
    names: tuple[str, ...]

    def __init__(
        self, *several: Layer, layers: tuple[Layer, ...] = (), names: tuple[str, ...] = (), **named: Layer
    ):  # `layers=` and `names=` are what dataclasses.replace passes
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
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

    def __repr__(self):
        words = map("{}={!r}".format, self.names, self.layers) if self.names else map(repr, self.layers)
        return f"{type(self).__name__}({', '.join(words)})"

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


@dataclass(frozen=True, init=False)
class Serial(_Several):
    """y = f_n(... f_1(x)).      dx_i = the error that f_i returns, f_{i-1}'s dy: the four equations, one by one.

    Keeps what its layers keep. `Serial(Dense(8), Tanh(), Dense(1))`; parameters are a tuple, one entry a layer. Of
    `Serial(encoder=..., head=...)` they are a dict with these names. net[0], net["head"] and net[1:] are layers inside.
    Raises LayerError for names that not every layer has.
    """

    def init(self, key, x, /):
        return self._init(key, x, False)

    def _init(self, key, x, padded):
        params = []
        for i, layer in enumerate(self.layers):
            with at(self, self.label(i)):
                one = jax.random.fold_in(key, i)
                if padded:
                    no_padding_taken(layer, x)
                params.append(layer._init(one, x, padded) if isinstance(layer, Serial) else layer.init(one, x))
                y = shape_after(layer, params[-1], x)
            x, padded = y, stays_padded(x, y, padded)
        return self.whole(params)

    def forward(self, params, x, /):
        residuals = []
        for i, layer, p in self._each(parameters=params):
            with at(self, i):
                x, r = layer.forward(p, x)
            residuals.append(r)
        return x, self.whole(residuals)

    def backward(self, params, residuals, dy, /):
        deltas = []
        for i, layer, p, r in reversed(self._each(parameters=params, residuals=residuals)):
            with at(self, i):
                dy, delta = layer.backward(p, r, dy)
            deltas.append(delta)
        return dy, self.whole(reversed(deltas))

    def pull(self, params, residuals, dy, /):
        grads = []
        for i, layer, p, r in reversed(self._each(parameters=params, residuals=residuals)):
            with at(self, i):
                dy, g = layer.pull(p, r, dy)
            grads.append(g)
        return dy, self.whole(reversed(grads))

    def reference(self, params, x, /):
        for layer, p in zip(self.layers, self.parts(params), strict=True):
            x = layer.reference(p, x)
        return x


@dataclass(frozen=True, init=False)
class Parallel(_Several):
    """(y_1, ..., y_n) = (f_1(x_1), ..., f_n(x_n)).      dx_i = the error that f_i returns.

    x is a tuple with one entry a layer: put a FanOut before it to give all the same x, an Add or a Concatenate after it
    to join what comes out. Parallel(image=..., text=...) takes and gives a dict with these names.
    """

    def init(self, key, x, /):
        params = []
        for i, (at_i, layer, x_i) in enumerate(self._each(inputs=x)):
            with at(self, at_i):
                params.append(layer.init(jax.random.fold_in(key, i), x_i))
        return self.whole(params)

    def forward(self, params, x, /):
        outputs = []
        for i, layer, x_i, p in self._each(inputs=x, parameters=params):
            with at(self, i):
                outputs.append(layer.forward(p, x_i))
        return self.whole(y for y, _ in outputs), self.whole(r for _, r in outputs)

    def _down(self, way, params, residuals, dy):
        down = []
        for i, layer, p, r, d in self._each(parameters=params, residuals=residuals, cotangents=dy):
            with at(self, i):
                down.append(getattr(layer, way)(p, r, d))
        return self.whole(dx for dx, _ in down), self.whole(delta for _, delta in down)

    def backward(self, params, residuals, dy, /):
        return self._down("backward", params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down("pull", params, residuals, dy)

    def reference(self, params, x, /):
        return self.whole(layer.reference(p, x_i) for _, layer, p, x_i in self._each(parameters=params, inputs=x))
