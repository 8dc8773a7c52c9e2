"""Layers one after the other, and side by side."""

from dataclasses import dataclass
from typing import Any

import jax

from jbp.combinators.shapes import no_padding_taken, shape_after, stays_padded
from jbp.compose import Several
from jbp.errors import at

fold_in = jax.jit(jax.random.fold_in)  # a ninth of the time of a call as it is


class InTurn(Several):
    """Layers that run one after the other: each begins with the shapes that those before it give."""

    def init(self, key, x, /):
        return self._init(key, x, False)

    def _init(self, key: Any, x: Any, padded: bool) -> Any:
        raise NotImplementedError

    def _begun(self, i: int, key: Any, x: Any, padded: bool) -> tuple[Any, Any, bool]:
        """(parameters, y, whether y holds padding) of the i-th layer. What would take padding for a step is refused."""
        layer, key = self.layers[i], fold_in(key, i)
        with at(self, self.label(i)):
            if padded:
                no_padding_taken(layer, x)
            params = layer._init(key, x, padded) if isinstance(layer, InTurn) else layer.init(key, x)
            y = shape_after(layer, params, x)
        return params, y, stays_padded(x, y, padded)


@dataclass(frozen=True, init=False)
class Serial(InTurn):
    """y = f_n(... f_1(x)).      dx_i = the error that f_i returns, f_{i-1}'s dy: the four equations, one by one.

    Keeps what its layers keep. `Serial(Dense(8), Tanh(), Dense(1))`; parameters are a tuple, one entry a layer. Of
    `Serial(encoder=..., head=...)` they are a dict with these names. net[0], net["head"] and net[1:] are layers inside.
    Raises LayerError for names that not every layer has.

    >>> x = jnp.ones((2, 5))
    >>> layer = Serial(Dense(8), Tanh(), Dense(1))
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    ({'b': (8,), 'w': (5, 8)}, (), {'b': (1,), 'w': (8, 1)})
    >>> layer(params, x).shape
    (2, 1)
    >>> Serial(body=Dense(8), head=Dense(1))["head"]
    Dense(1)
    """

    def _init(self, key, x, padded):
        params = []
        for i in range(len(self)):
            found, x, padded = self._begun(i, key, x, padded)
            params.append(found)
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
class Parallel(Several):
    """(y_1, ..., y_n) = (f_1(x_1), ..., f_n(x_n)).      dx_i = the error that f_i returns.

    x is a tuple with one entry a layer: put a FanOut before it to give all the same x, an Add or a Concatenate after it
    to join what comes out. Parallel(image=..., text=...) takes and gives a dict with these names.

    >>> x = {"image": jnp.ones((1, 8)), "facts": jnp.ones((1, 4))}
    >>> layer = Parallel(image=Dense(2), facts=Dense(3))
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, layer(params, x))
    {'facts': (1, 3), 'image': (1, 2)}
    """

    def init(self, key, x, /):
        params = []
        for i, (at_i, layer, x_i) in enumerate(self._each(inputs=x)):
            with at(self, at_i):
                params.append(layer.init(fold_in(key, i), x_i))
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
