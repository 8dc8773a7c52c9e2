"""A layer run both ways through time."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, at, floats, show
from jbp.layer import Layer
from jbp.layers.recurrent.gru import GRU
from jbp.layers.recurrent.lengths import Lengths, reversed_until, sequences


@dataclass(frozen=True)
class Bidirectional(Layer):
    """y = (f(θ₁, x) | g(θ₂, x reversed) reversed): a layer run both ways through time, with parameters for each.

        dx = what f sends down of its half of dy + what g sends down of its half reversed, reversed again

    x may be a pair (x, n) with the length of each example: then each is reversed within its length, and f gets such a
    pair: `Bidirectional(Lengths(LSTM(8)))`. Keeps what both runs keep, and n. Parameters are a pair of the layer's.
    Shapes: x (b, t, i), f from (b, t, i) to (b, t, h), y (b, t, 2h). (Schuster & Paliwal, *Bidirectional Recurrent
    Neural Networks*, 1997.) Raises LayerError for anything but a pair of parameters, and if f does not keep batch and
    time.
    """

    layer: Layer

    def _parts(self, x):
        """x, and the lengths or None."""
        x, n = sequences(self, x) if isinstance(x, tuple | list) else (x, None)
        return floats(self, x, "(batch, time, features)", rank=3), n

    def init(self, key, x, /):
        self._parts(x)
        params = []
        for label, one in zip(_WAYS, jax.random.split(key), strict=True):
            with at(self, label):
                params.append(self.layer.init(one, x))
        return tuple(params)

    def _both(self, way, *trees):
        done = []
        for label, *parts in zip(_WAYS, *trees, strict=True):
            with at(self, label):
                done.append(way(*parts))
        return tuple(done)

    def forward(self, params, x, /):
        x, n = self._parts(x)
        if not isinstance(params, tuple | list) or len(params) != 2:
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a pair, one for each way. "
                "Are these the parameters of another network? Make them with net.init(key, x).",
            )
        both = x, _reversed(x, n)
        (y, first), (z, second) = self._both(self.layer.forward, params, both if n is None else [(v, n) for v in both])
        if y.shape[:-1] != x.shape[:-1]:
            raise LayerError(
                self,
                f"got an inner layer from {show(x)} to {show(y)}; expected it to keep batch and time. "
                "Put what shortens the sequence after the Bidirectional.",
            )
        return jnp.concatenate([y, _reversed(z, n)], -1), ((first, second), n)

    def _down(self, way, params, residuals, dy):
        residuals, n = residuals
        one, two = jnp.split(dy, 2, -1)
        (dx, first), (dz, second) = self._both(way, params, residuals, (one, _reversed(two, n)))
        if n is None:
            return dx + _reversed(dz, n), (first, second)
        return (dx[0] + _reversed(dz[0], n), None), (first, second)

    def backward(self, params, residuals, dy, /):
        return self._down(self.layer.backward, params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down(self.layer.pull, params, residuals, dy)

    def gradient(self, residuals, delta, /):
        return self._both(self.layer.gradient, residuals[0], delta)

    def advance(self, params, residuals, /):
        return self._both(self.layer.advance, params, residuals[0])

    def reference(self, params, x, /):
        if isinstance(x, tuple | list):
            x, n = x
            turn = jax.vmap(lambda v, n: jnp.roll(v[::-1], n - v.shape[0], 0))  # what is after the end is zero in y
            y, z = self.layer.reference(params[0], (x, n)), self.layer.reference(params[1], (turn(x, n), n))
            return jnp.concatenate([y, turn(z, n)], -1)
        y, z = self.layer.reference(params[0], x), self.layer.reference(params[1], x[:, ::-1])
        return jnp.concatenate([y, z[:, ::-1]], -1)


def _reversed(x, n):
    return jnp.flip(x, 1) if n is None else reversed_until(x, n)


_WAYS = ".forward", ".backward"


CASES = (
    Case(Bidirectional(GRU(2)), f(2, 5, 3)),
    Case(Bidirectional(Lengths(GRU(2))), (f(3, 4, 1), i(3, below=5))),
)
