"""Normalized exponentials. Sums are taken in float32 at least."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, show
from jbp.layer import Layer
from jbp.numerics import peak, wide


class _Normalized(Layer):
    axis: int

    @property
    def reads(self):
        return (self.axis,)

    def _checked(self, x):
        if not -floats(self, x, "(..., n)").ndim <= self.axis < x.ndim:
            raise LayerError(self, f"got x {show(x)}; expected an axis {self.axis}. The last one is axis=-1.")
        return x

    def _below_top(self, x):
        """(x less its greatest value, as good as 0 for +∞ itself, whether that is +∞): beside it the others have no
        part.

        A minimum, for it costs XLA's loops on CPUs a twentieth and the choice between two numbers a third. With the
        least positive number, which is as good as 0 and lets the derivative of what is 0 through.
        """
        x = wide(x)
        top, of_dtype = peak(x, self.axis), jnp.finfo(x.dtype)
        return jnp.minimum(x - jnp.minimum(top, of_dtype.max), of_dtype.tiny), top == jnp.inf


@dataclass(frozen=True)
class Softmax(_Normalized):
    """y = eˣ / Σ eˣ over the axis.      dx = y (dy − Σ dy y)

    Keeps y. x = −∞ gives 0. Shapes: x and y alike. Raises LayerError where x has no such axis or is not floating.

    >>> Softmax()((), jnp.array([0.0, 1.0, 2.0]))
    Array([0.09 , 0.245, 0.665], dtype=float32)
    """

    axis: int = -1

    def forward(self, params, x, /):
        e = jnp.exp(self._below_top(self._checked(x))[0])
        y = (e / e.sum(self.axis, keepdims=True)).astype(x.dtype)
        return y, y

    def backward(self, params, y, dy, /):
        p, d = wide(y), wide(dy)
        return (p * (d - (d * p).sum(self.axis, keepdims=True))).astype(dy.dtype), ()

    def reference(self, params, x, /):
        e = jnp.exp(x - lax.stop_gradient(jnp.max(x, self.axis, keepdims=True)))
        return e / jnp.sum(e, self.axis, keepdims=True)


@dataclass(frozen=True)
class Softmin(Softmax):
    """y = e⁻ˣ / Σ e⁻ˣ over the axis.      dx = −y (dy − Σ dy y)

    Keeps y. x = +∞ gives 0. Shapes: x and y alike. Raises LayerError where x has no such axis or is not floating.

    >>> Softmin()((), jnp.array([0.0, 1.0, 2.0]))
    Array([0.665, 0.245, 0.09 ], dtype=float32)
    """

    def forward(self, params, x, /):
        return super().forward(params, -self._checked(x))

    def backward(self, params, y, dy, /):
        return super().backward(params, y, -dy)

    def reference(self, params, x, /):
        return super().reference(params, -x)


@dataclass(frozen=True)
class LogSoftmax(_Normalized):
    """y = x − log Σ eˣ over the axis.      dx = dy − eʸ Σ dy

    Keeps y. x = −∞ gives −∞. Shapes: x and y alike. Raises LayerError where x has no such axis or is not floating.

    >>> LogSoftmax()((), jnp.array([0.0, 1.0, 2.0]))
    Array([-2.408, -1.408, -0.408], dtype=float32)
    """

    axis: int = -1

    def forward(self, params, x, /):
        z, infinite = self._below_top(self._checked(x))
        far = jnp.where(infinite, jnp.finfo(z.dtype).max, 1)
        z = jnp.minimum(z, jnp.where(infinite, 0, 1))
        y = (z * far - jnp.log(jnp.exp(z).sum(self.axis, keepdims=True))).astype(x.dtype)
        return y, y

    def backward(self, params, y, dy, /):
        d = wide(dy)
        return (d - jnp.exp(wide(y)) * d.sum(self.axis, keepdims=True)).astype(dy.dtype), ()

    def reference(self, params, x, /):
        top = lax.stop_gradient(jnp.max(x, self.axis, keepdims=True))
        return x - top - jnp.log(jnp.sum(jnp.exp(x - top), self.axis, keepdims=True))


CASES = (
    Case(Softmax(), *ANY),
    Case(LogSoftmax(), *ANY),
    Case(Softmin(), *ANY),
    Case(Softmax(1), f(3, 5), f(2, 3, 5)),
    Case(LogSoftmax(0), f(3, 5)),
)
