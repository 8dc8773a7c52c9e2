"""A layer run through time in both directions."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, at, floats, show
from jbp.layer import Layer
from jbp.layers.recurrent.gru import GRU
from jbp.layers.recurrent.lengths import Lengths, gives_state, with_lengths
from jbp.layers.recurrent.sequence import OverTime, closed, joined, opened, parted, reversed_until
from jbp.numerics import Static


@dataclass(frozen=True)
class Bidirectional(OverTime):
    """y = (f(θ₁, x) | g(θ₂, x reversed) reversed): a layer run through time in both directions, parameters for each.

        dx = what f returns for its half of dy + what g returns for its half reversed, reversed again

    On (x, n), with the length of each example, each is reversed within its length: `Bidirectional(LSTM(8))` takes x or
    (x, n). On (x, (s₁, s₂)) both begin at a state of their own, and of f with `return_state` the output is
    (y, (s₁, s₂)), the final ones. Keeps what both runs keep, and n. Parameters are a pair of the layer's. Shapes: x
    (b, t, i), f from (b, t, i) to (b, t, h), y (b, t, 2h). (Schuster & Paliwal, *Bidirectional Recurrent Neural
    Networks*, 1997.) Raises LayerError for anything but a pair of parameters, and if f does not keep batch and time.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = Bidirectional(GRU(4)).init(jax.random.key(0), x)
    >>> Bidirectional(GRU(4))(params, x).shape
    (2, 5, 8)
    """

    layer: Layer
    as_one: ClassVar[bool] = True
    both_ways: ClassVar[bool] = True

    @property
    def return_state(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return gives_state(self.layer)

    def _opened(self, x):
        """x, the two states or a pair of None, the lengths or None, the layer for them, the form of the input."""
        x, states, n, form = opened(self, x)
        floats(self, x, "(batch, time, features)", rank=3)
        if states is not None and (not isinstance(states, tuple | list) or len(states) != 2):
            raise LayerError(
                self,
                f"got the state {show(states)}; expected a pair of states, one for each way. "
                "Leave the state out to begin at zero, or pass the pair that this layer gives with return_state.",
            )
        return x, (None, None) if states is None else states, n, self._layer(n), form

    def _layer(self, n):
        return self.layer if n is None else with_lengths(self.layer)

    def init(self, key, x, /):
        x, states, n, layer, _ = self._opened(x)
        params = []
        for label, one, state in zip(_WAYS, jax.random.split(key), states, strict=True):
            with at(self, label):
                params.append(layer.init(one, joined(x, state, n)))
        return tuple(params)

    def _both(self, way, *trees):
        done = []
        for label, *parts in zip(_WAYS, *trees, strict=True):
            with at(self, label):
                done.append(way(*parts))
        return tuple(done)

    def forward(self, params, x, /):
        x, states, n, layer, form = self._opened(x)
        if not isinstance(params, tuple | list) or len(params) != 2:
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a pair, one for each way. "
                "Are these the parameters of another network? Make them with net.init(key, x).",
            )
        both = [joined(v, s, n) for v, s in zip((x, reversed_until(x, n)), states, strict=True)]
        (y, first), (z, second) = self._both(layer.forward, params, both)
        (y, s), (z, t) = (y, z) if self.return_state else ((y, None), (z, None))
        if y.shape[:-1] != x.shape[:-1]:
            raise LayerError(
                self,
                f"got an inner layer from {show(x)} to {show(y)}; expected it to keep batch and time. "
                "Put what shortens the sequence after the Bidirectional.",
            )
        y = jnp.concatenate([y, reversed_until(z, n)], -1)
        known = Static((form, states[0] is not None))
        return ((y, (s, t)) if self.return_state else y), ((first, second), n, known)

    def _down(self, way, params, residuals, dy):
        residuals, n, known = residuals
        form, given = known.value
        dy, dlast = dy if self.return_state else (dy, None)
        one, two = jnp.split(dy, 2, -1)
        dy = one, reversed_until(two, n)
        dy = dy if dlast is None else tuple(zip(dy, dlast, strict=True))
        (dx, first), (dz, second) = self._both(getattr(self._layer(n), way), params, residuals, dy)
        state = True if given else None
        (dx, ds), (dz, dt) = parted(dx, state, n), parted(dz, state, n)
        return closed(form, dx + reversed_until(dz, n), (ds, dt) if given else None), (first, second)

    def backward(self, params, residuals, dy, /):
        return self._down("backward", params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down("pull", params, residuals, dy)

    def gradient(self, residuals, delta, /):
        return self._both(self._layer(residuals[1]).gradient, residuals[0], delta)

    def advance(self, params, residuals, /):
        return self._both(self._layer(residuals[1]).advance, params, residuals[0])

    def reference(self, params, x, /):
        x, states, n, layer, _ = self._opened(x)
        # what is after the end is zero in y
        turn = (lambda v: v[:, ::-1]) if n is None else (lambda v: jax.vmap(_turned)(v, n))
        y, z = (layer.reference(p, joined(v, s, n)) for p, v, s in zip(params, (x, turn(x)), states, strict=True))
        (y, s), (z, t) = (y, z) if self.return_state else ((y, None), (z, None))
        y = jnp.concatenate([y, turn(z)], -1)
        return (y, (s, t)) if self.return_state else y


def _turned(v, n):
    return jnp.roll(v[::-1], n - v.shape[0], 0)


_WAYS = ".forward", ".backward"


CASES = (
    Case(Bidirectional(GRU(2)), f(2, 5, 3)),
    Case(Bidirectional(Lengths(GRU(2))), (f(3, 4, 1), i(3, below=5))),
    Case(
        Bidirectional(GRU(2, return_state=True)),
        {"x": f(3, 4, 1), "lengths": i(3, below=5), "state": (f(3, 2), f(3, 2))},
    ),
)
