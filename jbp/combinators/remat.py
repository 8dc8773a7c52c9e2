"""A layer that runs again in the backward pass."""

from dataclasses import dataclass

from jbp.compose import Wrapper
from jbp.errors import at
from jbp.layer import Layer
from jbp.numerics import after


@dataclass(frozen=True)
class Remat(Wrapper):
    """y = f(x), keeping x alone: f runs again in the backward pass.

    Memory is that of one layer's residuals at a time, time one more forward. delta is (f's residuals, f's delta).
    (Griewank & Walther, *Evaluating Derivatives*, 2008, ch. 12.)

    >>> x = jnp.ones((2, 5))
    >>> layer = Remat(Serial(Dense(8), Tanh()))
    >>> params = layer.init(jax.random.key(0), x)
    >>> layer(params, x).shape
    (2, 8)
    """

    layer: Layer

    def forward(self, params, x, /):
        with at(self):
            return self.layer.forward(params, x)[0], x

    def _again(self, params, x, dy):
        return self.layer.forward(params, after(dy, x))[1]

    def backward(self, params, x, dy, /):
        with at(self):
            r = self._again(params, x, dy)
            dx, delta = self.layer.backward(params, r, dy)
        return dx, (r, delta)

    def gradient(self, x, delta, /):
        with at(self):
            return self.layer.gradient(*delta)

    def pull(self, params, x, dy, /):
        with at(self):
            return self.layer.pull(params, self._again(params, x, dy), dy)

    def advance(self, params, x, /):
        return self.layer.advance(params, self.layer.forward(params, x)[1])
