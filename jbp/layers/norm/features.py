"""Norms over features, and what all norms share. Statistics are taken in float32 at least.

x is the input, m the mean, v the variance (biased), s = (v + ε)^-½, x̂ = (x − m) s, y = x̂ g + b.
For a sum over the normalized axes written ⟨·⟩ as a mean:

    dx̂ = dy g      dx = s (dx̂ − ⟨dx̂⟩ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂      db = Σ dy

(Ioffe & Szegedy, *Batch Normalization*, 2015, §3; Ba et al., *Layer Normalization*, 2016.)
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jbp.cases import ANY, Case, f
from jbp.errors import floats, take
from jbp.fields import NonNegative, Size
from jbp.layer import Layer
from jbp.numerics import wide


def inverse_root(
    x: Any, axes: tuple[int, ...], epsilon: float, count: int = 1, zero: Any = 0, over: tuple[str, ...] = ()
) -> Any:
    """s = (Σ x² / count + ε)^-½ over `axes`, kept as axes of size one, x in float32 at least.

    Squared is c x: c is the least power of two for which an x whose square c² x² falls out of the range is nothing
    beside ε. So 1e20 may be squared in float32, and in range the bits are those of c = 1. A `zero` for each row makes
    an array of c: beside a mean XLA writes down what a constant is multiplied with, for 1.07 of a scan's memory.
    Over a root, for x^-½ has a derivative in x^-3/2, out of range where x² is not: Hessian products would be nan.
    """
    limits = jnp.finfo(x.dtype)
    least = float(limits.tiny) / (epsilon * float(limits.eps)) if epsilon else 1.0
    c = 2.0 ** min(math.ceil(math.log2(least) / 2), 0)
    square = over_devices(jnp.square((c + zero) * x).sum(axes, keepdims=True) / max(count, 1), over)
    return c / jnp.sqrt(jnp.maximum(square + c * c * epsilon, limits.tiny))


def over_devices(mean: Any, over: tuple[str, ...]) -> Any:
    """The mean of the means that the devices along these axes of a mesh have, inside of `jax.shard_map`."""
    return lax.pmean(mean, over) if over else mean


def statistics(x: Any, axes: tuple[int, ...], epsilon: float, over: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """m and s over `axes`, kept as axes of size one, and devices. Two passes: one loses v where m² ≫ v."""
    x, count = wide(x), math.prod(x.shape[a] for a in axes)
    m = over_devices(x.sum(axes, keepdims=True) / max(count, 1), over)
    return m, inverse_root(x - m, axes, epsilon, count, 0 * m, over)


def error_below(dx̂, x̂, s, axes, over=()):
    m, n = (over_devices(v.mean(axes, keepdims=True), over) for v in (dx̂, dx̂ * x̂))
    return s * (dx̂ - m - x̂ * n)


class Affine(Layer):
    """The y = x̂ g + b at the end of a norm, or as much of it as is asked for: g and b in the shape of the last axes."""

    affine: bool
    bias: bool
    axes: int = 1

    def _shapes(self, x):
        shape = tuple(x.shape[-self.axes :])
        return ({"g": shape, "b": shape} if self.bias else {"g": shape}) if self.affine else {}

    def _first(self, x) -> dict[str, Any]:
        return {name: jnp.full(shape, name == "g", x.dtype) for name, shape in self._shapes(x).items()}

    def init(self, key, x, /) -> Any:
        return self._first(self._checked(x)) or ()

    def _checked(self, x):
        return floats(self, x, "(..., features)", least=self.axes)

    def _split(self, params, x):
        """The parameters without buffers."""
        return params

    def _scaled(self, params, x̂, dtype):
        """y, after a check of the parameters for it."""
        scales = take(self, params, dtype, **self._shapes(x̂))
        for p, change in zip(scales, (jnp.multiply, jnp.add), strict=False):
            x̂ = change(x̂, _last(p, x̂))
        return x̂.astype(dtype)

    def _above(self, params, dy):
        """dx̂ in float32 at least, and delta."""
        if not self.affine:
            return wide(dy), ()
        return wide(dy) * _last(params["g"], wide(dy)), dy.astype(params["g"].dtype)

    def _gradient(self, x̂, dy):
        if not self.affine:
            return {}
        rows = tuple(range(dy.ndim - self.axes))
        g = {"g": (wide(dy) * x̂.astype(wide(dy).dtype)).sum(rows).astype(dy.dtype)}
        return g | {"b": dy.sum(rows)} if self.bias else g

    def _defined(self, params, x̂):
        y = x̂ * _last(params["g"], x̂) if self.affine else x̂
        return y + _last(params["b"], x̂) if self.affine and self.bias else y


def _last(p, x):
    """p as the last axes of an array like x."""
    return p.astype(x.dtype).reshape((1,) * (x.ndim - p.ndim) + p.shape)


class _Trailing(Affine):
    """What takes a mean over the last axes."""

    @property
    def reads(self):
        return tuple(range(-self.axes, 0))

    @property
    def cuts(self):
        return ("tokens",) if self.axes == 1 else ()


@dataclass(frozen=True)
class LayerNorm(_Trailing):
    """y = x̂ g + b with x̂ = (x − m) s, s = (v + ε)^-½, m and v the mean and variance over the last `axes` axes.

        dx̂ = dy g      dx = s (dx̂ − ⟨dx̂⟩ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂      db = Σ dy      ⟨·⟩ a mean over those axes

    Without bias no b, without affine neither g nor b. Keeps x (the layer below keeps it too, as its output), m and s.
    Shapes: x and y (..., f), g and b (f,); with axes=2 (..., h, f) and (h, f), and so on. Rows up to 1e30 are in range
    in float32. (Ba et al., *Layer Normalization*, 2016.) Raises LayerError for too few axes or an x that is not
    floating.

    >>> x = jnp.array([[1.0, 2.0, 3.0]])
    >>> params = LayerNorm().init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (3,), 'g': (3,)}
    >>> LayerNorm()(params, x)
    Array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    epsilon: NonNegative = 1e-5
    affine: bool = True
    bias: bool = True
    axes: Size = 1

    def forward(self, params, x, /):
        m, s = statistics(self._checked(x), _trailing(self.axes), self.epsilon)
        return self._scaled(params, (wide(x) - m) * s, x.dtype), (x, m, s)

    def backward(self, params, residuals, dy, /):
        x, m, s = residuals
        dx̂, delta = self._above(params, dy)
        return error_below(dx̂, (wide(x) - m) * s, s, _trailing(self.axes)).astype(x.dtype), delta

    def gradient(self, residuals, dy, /):
        x, m, s = residuals
        return self._gradient((wide(x) - m) * s, dy) or ()

    def reference(self, params, x, /):
        axes = tuple(range(x.ndim - self.axes, x.ndim))
        m = jnp.mean(x, axes, keepdims=True)
        v = jnp.mean((x - m) ** 2, axes, keepdims=True)
        return self._defined(params, (x - m) / jnp.sqrt(v + self.epsilon))


def _trailing(axes):
    return tuple(range(-axes, 0))


@dataclass(frozen=True)
class RMSNorm(_Trailing):
    """y = x̂ g with x̂ = x s, s = (⟨x²⟩ + ε)^-½, ⟨·⟩ the mean over the last `axes` axes.

        dx̂ = dy g      dx = s (dx̂ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂

    Without affine no g. Keeps x (the layer below keeps it too, as its output) and s. Shapes: x and y (..., f), g (f,);
    with axes=2 (..., h, f) and (h, f), and so on. PyTorch's ε is the eps of x's dtype if none is given. Rows up to 1e30
    are in range in float32. (Zhang & Sennrich, *Root Mean Square Layer Normalization*, 2019, §3.) Raises LayerError for
    too few axes or an x that is not floating.

    >>> x = jnp.array([[3.0, 4.0]])
    >>> params = RMSNorm().init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'g': (2,)}
    >>> RMSNorm()(params, x)
    Array([[0.849, 1.131]], dtype=float32)
    """

    epsilon: NonNegative = 1e-6
    affine: bool = True
    axes: Size = 1

    bias = False

    def forward(self, params, x, /):
        count = math.prod(self._checked(x).shape[-self.axes :])
        s = inverse_root(wide(x), _trailing(self.axes), self.epsilon, count)
        return self._scaled(params, wide(x) * s, x.dtype), (x, s)

    def backward(self, params, residuals, dy, /):
        x, s = residuals
        count = math.prod(x.shape[-self.axes :])
        rows = (wide(dy) * wide(x)).reshape(*x.shape[: -self.axes], count)
        if self.affine:  # on CPUs a product is faster than a sum of products
            g = params["g"].astype(rows.dtype).reshape(count)
            mean = s * jnp.matmul(rows, g, precision="highest").reshape(s.shape) / max(count, 1)
        else:
            mean = s * rows.sum(-1).reshape(s.shape) / max(count, 1)
        dx̂, delta = self._above(params, dy)
        return (s * (dx̂ - wide(x) * s * mean)).astype(x.dtype), delta

    def gradient(self, residuals, dy, /):
        x, s = residuals
        return self._gradient(wide(x) * s, dy) or ()

    def reference(self, params, x, /):
        axes = tuple(range(x.ndim - self.axes, x.ndim))
        return self._defined(params, x / jnp.sqrt(jnp.mean(x**2, axes, keepdims=True) + self.epsilon))


@dataclass(frozen=True)
class UnitNorm(Layer):
    """y = x s, s = (Σ x² + ε)^-½ over the last axis: what lies on the unit sphere.      dx = s (dy − y Σ dy y)

    Before a loss that compares directions. Keeps x (the layer below keeps it too, as its output) and s. Shapes: x and y
    (..., f). Rows up to 1e28 are in range in float32. Raises LayerError for a scalar or an x that is not floating.

    >>> UnitNorm()((), jnp.array([3.0, 4.0]))
    Array([0.6, 0.8], dtype=float32)
    """

    reads: ClassVar[Any] = (-1,)
    cuts: ClassVar[Any] = ("tokens",)
    epsilon: NonNegative = 1e-12

    def forward(self, params, x, /):
        s = inverse_root(wide(floats(self, x, "(..., features)")), (-1,), self.epsilon)
        return (wide(x) * s).astype(x.dtype), (x, s)

    def backward(self, params, residuals, dy, /):
        x, s = residuals
        y = wide(x) * s
        return (s * (wide(dy) - y * (wide(dy) * y).sum(-1, keepdims=True))).astype(x.dtype), ()

    def reference(self, params, x, /):
        return x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) + self.epsilon)


CASES = (
    Case(LayerNorm(), *ANY),
    Case(RMSNorm(), *ANY),
    Case(UnitNorm(), *ANY),
    Case(LayerNorm(bias=False), f(3, 5)),
    Case(LayerNorm(affine=False, axes=2), f(2, 3, 5)),
    Case(LayerNorm(axes=2), f(3, 5), f(2, 3, 5)),
    Case(RMSNorm(affine=False), f(3, 5)),
    Case(RMSNorm(axes=2), f(2, 3, 5)),
)
