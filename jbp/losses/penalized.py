"""A loss with something added to it that the network made itself."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.layer import Layer
from jbp.losses.regression import Huber


@dataclass(frozen=True)
class Penalized(Wrapper):
    """y = f(prediction, target) + w p on x = ((prediction, p), target), p a number that the network made, f the loss.

        dprediction, dtarget = what f returns for dy      dp = w dy

    For the divergence of a variational autoencoder, the balance of a mixture of experts, a decay of activities. Keeps
    what f keeps. Parameters are f's. Any number of targets. Raises LayerError unless x is such a tuple.

    >>> prediction, penalty, target = jnp.array([1.0]), jnp.array(0.3), jnp.array([0.0])
    >>> Penalized(MeanSquaredError(), 0.1)((), ((prediction, penalty), target))
    Array(1.03, dtype=float32)
    """

    loss: Layer
    weight: float = 1.0

    @property
    def layer(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.loss

    def _parts(self, x):
        """(what f takes, p)."""
        if not isinstance(x, tuple | list) or not x or not isinstance(x[0], tuple | list) or len(x[0]) != 2:
            raise LayerError(
                self,
                f"got x {show(x)}; expected ((prediction, penalty), target). "
                "End the network with a Parallel of two branches, the second of which makes a number.",
            )
        (prediction, p), *targets = x
        if getattr(p, "shape", None) != ():
            raise LayerError(self, f"got the penalty {show(p)}; expected one number. Take its mean, or its sum.")
        return (prediction, *targets), p

    def init(self, key, x, /):
        with at(self):
            return self.loss.init(key, self._parts(x)[0])

    def forward(self, params, x, /):
        inner, p = self._parts(x)
        with at(self):
            y, residuals = self.loss.forward(params, inner)
        return y + (self.weight * p).astype(y.dtype), residuals

    def _down(self, way, params, residuals, dy):
        dx, down = super()._down(way, params, residuals, dy)
        return ((dx[0], self.weight * dy), *dx[1:]), down

    def reference(self, params, x, /):
        (prediction, p), *targets = x
        return jnp.add(self.loss.reference(params, (prediction, *targets)), self.weight * p)


CASES = (Case(Penalized(Huber(), 0.5), ((f(3, 5), f()), f(3, 5))),)
