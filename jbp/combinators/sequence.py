"""Layers one after the other, and side by side.

Residuals, deltas and gradients of a combinator have the shape of its parameters: a tuple for a tuple of children.
"""

from dataclasses import dataclass

import jax

from jbp.combinators.shapes import each_a_layer, no_padding_taken, shape_after, stays_padded
from jbp.errors import LayerError, at, show
from jbp.layer import Layer


@dataclass(frozen=True, init=False)
class _Several(Layer):
    layers: tuple[Layer, ...]

    def __init__(self, *several: Layer, layers: tuple[Layer, ...] = ()):
        given = several or (tuple(layers) if isinstance(layers, tuple | list) else (layers,))
        object.__setattr__(self, "layers", given)  # `layers=` is what dataclasses.replace passes
        each_a_layer(self)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"

    def _each(self, **trees):
        """(place, child, its part of each tree), after a check that there is one part for every child."""
        for what, tree in trees.items():
            if not isinstance(tree, tuple | list) or len(tree) != len(self.layers):
                raise LayerError(
                    self,
                    f"got {what} {show(tree)}; expected a tuple of {len(self.layers)}, one for each layer. "
                    f"Are these the {what} of another network?",
                )
        rows = zip(self.layers, *trees.values(), strict=True)
        return [(f"[{i}]", *row) for i, row in enumerate(rows)]

    def gradient(self, residuals, delta, /):
        grads = []
        for i, layer, r, d in self._each(residuals=residuals, delta=delta):
            with at(self, i):
                grads.append(layer.gradient(r, d))
        return tuple(grads)

    def advance(self, params, residuals, /):
        return tuple(layer.advance(p, r) for _, layer, p, r in self._each(parameters=params, residuals=residuals))


@dataclass(frozen=True, init=False)
class Serial(_Several):
    """y = f_n(... f_1(x)).      dx_i = the error that f_i returns, f_{i-1}'s dy: the four equations, one by one.

    Keeps what its layers keep. `Serial(Dense(8), Tanh(), Dense(1))`; parameters are a tuple, one entry a layer.
    """

    def init(self, key, x, /):
        return self._init(key, x, False)

    def _init(self, key, x, padded):
        params = []
        for i, layer in enumerate(self.layers):
            with at(self, f"[{i}]"):
                one = jax.random.fold_in(key, i)
                if padded:
                    no_padding_taken(layer, x)
                params.append(layer._init(one, x, padded) if isinstance(layer, Serial) else layer.init(one, x))
                y = shape_after(layer, params[-1], x)
            x, padded = y, stays_padded(x, y, padded)
        return tuple(params)

    def forward(self, params, x, /):
        residuals = []
        for i, layer, p in self._each(parameters=params):
            with at(self, i):
                x, r = layer.forward(p, x)
            residuals.append(r)
        return x, tuple(residuals)

    def backward(self, params, residuals, dy, /):
        deltas = []
        for i, layer, p, r in reversed(self._each(parameters=params, residuals=residuals)):
            with at(self, i):
                dy, delta = layer.backward(p, r, dy)
            deltas.append(delta)
        return dy, tuple(reversed(deltas))

    def pull(self, params, residuals, dy, /):
        grads = []
        for i, layer, p, r in reversed(self._each(parameters=params, residuals=residuals)):
            with at(self, i):
                dy, g = layer.pull(p, r, dy)
            grads.append(g)
        return dy, tuple(reversed(grads))

    def reference(self, params, x, /):
        for layer, p in zip(self.layers, params, strict=True):
            x = layer.reference(p, x)
        return x


@dataclass(frozen=True, init=False)
class Parallel(_Several):
    """(y_1, ..., y_n) = (f_1(x_1), ..., f_n(x_n)).      dx_i = the error that f_i returns.

    x is a tuple with one entry a layer: put a FanOut before it to give all the same x, an Add or a Concatenate after it
    to join what comes out.
    """

    def init(self, key, x, /):
        params = []
        for i, (at_i, layer, x_i) in enumerate(self._each(inputs=x)):
            with at(self, at_i):
                params.append(layer.init(jax.random.fold_in(key, i), x_i))
        return tuple(params)

    def forward(self, params, x, /):
        outputs = []
        for i, layer, x_i, p in self._each(inputs=x, parameters=params):
            with at(self, i):
                outputs.append(layer.forward(p, x_i))
        return tuple(y for y, _ in outputs), tuple(r for _, r in outputs)

    def _down(self, way, params, residuals, dy):
        down = []
        for i, layer, p, r, d in self._each(parameters=params, residuals=residuals, cotangents=dy):
            with at(self, i):
                down.append(getattr(layer, way)(p, r, d))
        return tuple(dx for dx, _ in down), tuple(delta for _, delta in down)

    def backward(self, params, residuals, dy, /):
        return self._down("backward", params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down("pull", params, residuals, dy)

    def reference(self, params, x, /):
        return tuple(layer.reference(p, x_i) for layer, p, x_i in zip(self.layers, params, x, strict=True))
