"""Normalized exponentials over the last axis. Sums are taken in float32 at least."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from jbp.cases import ANY, Case
from jbp.errors import floats
from jbp.layer import Layer
from jbp.numerics import log_sum_exp, wide


@dataclass(frozen=True)
class Softmax(Layer):
    """y = eˣ / Σ eˣ over the last axis.      dx = y (dy − Σ dy y)

    Keeps y. Shapes: x and y (..., n). Raises LayerError for a scalar or an x that is not floating.
    """

    def forward(self, params, x, /):
        floats(self, x, "(..., n)")
        e = jnp.exp(wide(x) - wide(x).max(-1, keepdims=True, initial=-jnp.inf))
        y = (e / e.sum(-1, keepdims=True)).astype(x.dtype)
        return y, y

    def backward(self, params, y, dy, /):
        p, d = wide(y), wide(dy)
        return (p * (d - (d * p).sum(-1, keepdims=True))).astype(dy.dtype), ()

    def reference(self, params, x, /):
        e = jnp.exp(x - lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
        return e / jnp.sum(e, -1, keepdims=True)


@dataclass(frozen=True)
class LogSoftmax(Layer):
    """y = x − log Σ eˣ over the last axis.      dx = dy − eʸ Σ dy

    Keeps y. Shapes: x and y (..., n). Raises LayerError for a scalar or an x that is not floating.
    """

    def forward(self, params, x, /):
        floats(self, x, "(..., n)")
        y = (wide(x) - log_sum_exp(x)).astype(x.dtype)
        return y, y

    def backward(self, params, y, dy, /):
        d = wide(dy)
        return (d - jnp.exp(wide(y)) * d.sum(-1, keepdims=True)).astype(dy.dtype), ()

    def reference(self, params, x, /):
        top = lax.stop_gradient(jnp.max(x, -1, keepdims=True))
        return x - top - jnp.log(jnp.sum(jnp.exp(x - top), -1, keepdims=True))


CASES = (
    Case(Softmax(), *ANY),
    Case(LogSoftmax(), *ANY),
)
