"""One layer many times, in one scan."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax

from jbp.combinators.shapes import same_shape, shape_after, stacked
from jbp.compose import Wrapper
from jbp.errors import at
from jbp.fields import Hint, Size
from jbp.layer import Layer
from jbp.numerics import scan


@dataclass(frozen=True)
class Repeat(Wrapper):
    """y = f(θ_n, ... f(θ_1, x)): one layer `times` times, each with parameters of its own, in one `lax.scan`.

    Parameters, residuals and gradients are f's, stacked along a new first axis. `pull` makes each step's gradient
    inside its scan and stores no deltas; `backward` and `gradient`, apart, store those of all steps. Compile time does
    not grow with `times`. Raises LayerError if f does not keep shape and dtype, and for times < 1.

    >>> x = jnp.ones((2, 5))
    >>> layer = Repeat(Residual(Dense(5)), 3)
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (3, 5), 'w': (3, 5, 5)}
    >>> layer(params, x).shape
    (2, 5)
    """

    layer: Layer
    times: Annotated[Size, Hint("For no layer at all write Serial().")]

    as_one: ClassVar[bool] = True

    def init(self, key, x, /):
        with at(self):
            params = jax.vmap(lambda key: self.layer.init(key, x))(jax.random.split(key, self.times))
            same_shape(self, x, shape_after(self.layer, jax.tree.map(lambda p: p[0], params), x))
        return params

    def forward(self, params, x, /):
        stacked(self, params, self.times)

        def step(x, params):
            with at(self):
                y, r = self.layer.forward(params, x)
            same_shape(self, x, y)
            return y, r

        return scan(step, x, params, length=self.times)

    def _down(self, way, params, residuals, dy):
        def step(dy, now):
            with at(self):
                return way(*now, dy)

        return scan(step, dy, (params, residuals), length=self.times, reverse=True)

    def _each(self, f, *trees):
        return scan(lambda _, now: (None, f(*now)), None, trees, length=self.times)[1]

    def gradient(self, residuals, delta, /):
        with at(self):
            return self._each(self.layer.gradient, residuals, delta)

    def advance(self, params, residuals, /):
        return self._each(self.layer.advance, params, residuals)

    def reference(self, params, x, /):
        for i in range(self.times):
            x = self.layer.reference(jax.tree.map(lambda p, i=i: p[i], params), x)
        return x
