"""Layers that normalize. Statistics are taken in float32 at least.

Index key: x the input, m the mean, v the variance (biased), s = (v + ε)^-½, x̂ = (x − m) s, y = x̂ g + b.
For a sum over the normalized axes written ⟨·⟩ as a mean:

    dx̂ = dy g      dx = s (dx̂ − ⟨dx̂⟩ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂      db = Σ dy

(Ioffe & Szegedy, *Batch Normalization*, 2015, §3; Ba et al., *Layer Normalization*, 2016.)
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jbp.cases import ANY, Case
from jbp.errors import LayerError, floats, known, take
from jbp.layer import Layer
from jbp.numerics import along, leading, wide, wide_dtype
from jbp.params import Buffer


def statistics(x, axes):
    """m and v over `axes`, kept as axes of size one. Two passes: the one-pass form loses v where m² ≫ v."""
    x = wide(x)
    m = x.mean(axes, keepdims=True)
    return m, jnp.square(x - m).mean(axes, keepdims=True)


def error_below(dx̂, x̂, s, axes):
    return s * (dx̂ - dx̂.mean(axes, keepdims=True) - x̂ * (dx̂ * x̂).mean(axes, keepdims=True))


def affine_gradient(x̂, dy):
    return {"g": (wide(dy) * x̂).sum(leading(dy)).astype(dy.dtype), "b": dy.sum(leading(dy))}


_BUFFERS = {"mean": None, "variance": None, "steps": None}


@dataclass(frozen=True)
class LayerNorm(Layer):
    """y = x̂ g + b with x̂ = (x − m) / √(v + ε), m and v the mean and variance over the last axis.

    dx, dg, db as in the head of this file. Keeps x (the layer below keeps it too, as its output), m and s. Shapes:
    x and y (..., f), g and b (f,). Raises LayerError for a scalar or an x that is not floating.
    """

    epsilon: float = 1e-5

    def init(self, key, x, /):
        f = floats(self, x, "(..., features)").shape[-1]
        return {"g": jnp.ones(f, x.dtype), "b": jnp.zeros(f, x.dtype)}

    def forward(self, params, x, /):
        f = floats(self, x, "(..., features)").shape[-1]
        g, b = take(self, params, x.dtype, g=(f,), b=(f,))
        m, v = statistics(x, -1)
        s = (v + self.epsilon) ** -0.5
        return ((wide(x) - m) * s * along(wide(g), x) + along(wide(b), x)).astype(x.dtype), (x, m, s)

    def backward(self, params, residuals, dy, /):
        x, m, s = residuals
        dx̂ = wide(dy) * along(wide(params["g"]), dy)
        return error_below(dx̂, (wide(x) - m) * s, s, -1).astype(x.dtype), dy

    def gradient(self, residuals, dy, /):
        x, m, s = residuals
        return affine_gradient((wide(x) - m) * s, dy)

    def reference(self, params, x, /):
        m = jnp.mean(x, -1, keepdims=True)
        v = jnp.mean((x - m) ** 2, -1, keepdims=True)
        return (x - m) / jnp.sqrt(v + self.epsilon) * along(params["g"], x) + along(params["b"], x)


@dataclass(frozen=True)
class RMSNorm(Layer):
    """y = x̂ g with x̂ = x s, s = (⟨x²⟩ + ε)^-½, the mean taken over the last axis.

        dx̂ = dy g      dx = s (dx̂ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂

    Keeps x (the layer below keeps it too, as its output) and s. Shapes: x and y (..., f), g (f,). (Zhang & Sennrich,
    *Root Mean Square Layer Normalization*, 2019, §3.) Raises LayerError for a scalar or an x that is not floating.
    """

    epsilon: float = 1e-6

    def init(self, key, x, /):
        return {"g": jnp.ones(floats(self, x, "(..., features)").shape[-1], x.dtype)}

    def forward(self, params, x, /):
        (g,) = take(self, params, floats(self, x, "(..., features)").dtype, g=x.shape[-1:])
        s = (jnp.square(wide(x)).mean(-1, keepdims=True) + self.epsilon) ** -0.5
        return (wide(x) * s * along(wide(g), x)).astype(x.dtype), (x, s)

    def backward(self, params, residuals, dy, /):
        (x, s), g = residuals, wide(params["g"])
        product = jnp.matmul(wide(dy) * wide(x), g, precision="highest")  # on CPUs faster than a sum of products
        mean = s * product[..., None] / x.shape[-1]
        return (s * (wide(dy) * along(g, dy) - wide(x) * s * mean)).astype(x.dtype), dy

    def gradient(self, residuals, dy, /):
        x, s = residuals
        return {"g": (wide(dy) * (wide(x) * s)).sum(leading(dy)).astype(dy.dtype)}

    def reference(self, params, x, /):
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + self.epsilon) * along(params["g"], x)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """y = x̂ g + b with x̂ = (x − m) / √(v + ε), m and v over every axis but the last.

    dx, dg, db as in the head of this file. Keeps x, m and v. Buffers: the running mean and variance, which `advance`
    moves to momentum · old + (1 − momentum) · new, and how many steps they have seen. `evaluation` gives
    BatchNormInference. Shapes: x and y (b, ..., f), the rest (f,). Raises LayerError for fewer than two axes.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    def init(self, key, x, /):
        f = floats(self, x, "(batch, ..., features)", least=2).shape[-1]
        statistics = wide_dtype(x.dtype)
        return {
            "g": jnp.ones(f, x.dtype),
            "b": jnp.zeros(f, x.dtype),
            "mean": Buffer(jnp.zeros(f, statistics)),
            "variance": Buffer(jnp.ones(f, statistics)),
            "steps": Buffer(jnp.zeros((), jnp.int32)),
        }

    def forward(self, params, x, /):
        f = floats(self, x, "(batch, ..., features)", least=2).shape[-1]
        g, b, *_ = take(self, params, x.dtype, g=(f,), b=(f,), mean=(f,), variance=(f,), steps=())
        m, v = statistics(x, leading(x))
        x̂ = (wide(x) - m) * (v + self.epsilon) ** -0.5
        return (x̂ * along(wide(g), x) + along(wide(b), x)).astype(x.dtype), (x, m, v)

    def backward(self, params, residuals, dy, /):
        x, m, v = residuals
        s = (v + self.epsilon) ** -0.5
        dx̂ = wide(dy) * along(wide(params["g"]), dy)
        return error_below(dx̂, (wide(x) - m) * s, s, leading(x)).astype(x.dtype), dy

    def gradient(self, residuals, dy, /):
        x, m, v = residuals
        return affine_gradient((wide(x) - m) * (v + self.epsilon) ** -0.5, dy) | _BUFFERS

    def advance(self, params, residuals, /):
        _, m, v = residuals

        def moved(old, new):
            return Buffer(self.momentum * old.value + (1 - self.momentum) * new.reshape(-1).astype(old.value.dtype))

        return params | {
            "mean": moved(params["mean"], m),
            "variance": moved(params["variance"], v),
            "steps": Buffer(params["steps"].value + 1),
        }

    def evaluation(self):
        return BatchNormInference(self.epsilon)

    def reference(self, params, x, /):
        axes = tuple(range(x.ndim - 1))
        m = jnp.mean(x, axes, keepdims=True)
        v = jnp.mean((x - m) ** 2, axes, keepdims=True)
        return (x - m) / jnp.sqrt(v + self.epsilon) * along(params["g"], x) + along(params["b"], x)


@dataclass(frozen=True)
class BatchNormInference(Layer):
    """y = (x − mean) / √(variance + ε) g + b, with the running statistics that BatchNorm left in its buffers.

    dx = dy g / √(variance + ε); dg and db as in the head of this file. Keeps x̂. Takes BatchNorm's parameters. Raises
    LayerError if the statistics were never moved, where their values can be known (outside of jit).
    """

    epsilon: float = 1e-5

    def init(self, key, x, /):
        return BatchNorm(epsilon=self.epsilon).init(key, x) | {"steps": Buffer(jnp.ones((), jnp.int32))}

    def forward(self, params, x, /):
        f = floats(self, x, "(batch, ..., features)", least=2).shape[-1]
        g, b, mean, variance, steps = take(self, params, x.dtype, g=(f,), b=(f,), mean=(f,), variance=(f,), steps=())
        if known(steps) and (np.asarray(steps) == 0).any():
            raise LayerError(
                self,
                "got running statistics that no step has moved; expected those of a trained network. "
                "Carry the advanced parameters from step to step (value_and_grad(..., has_aux=True)).",
            )
        s = (variance.astype(wide(x).dtype) + self.epsilon) ** -0.5
        x̂ = (wide(x) - along(mean.astype(s.dtype), x)) * along(s, x)
        return (x̂ * along(wide(g), x) + along(wide(b), x)).astype(x.dtype), x̂

    def backward(self, params, x̂, dy, /):
        scale = wide(params["g"]) * (params["variance"].value.astype(x̂.dtype) + self.epsilon) ** -0.5
        return (wide(dy) * along(scale, dy)).astype(dy.dtype), dy

    def gradient(self, x̂, dy, /):
        return affine_gradient(x̂, dy) | _BUFFERS

    def reference(self, params, x, /):
        mean, variance = (along(params[name].value, x).astype(x.dtype) for name in ("mean", "variance"))
        return (x - mean) / jnp.sqrt(variance + self.epsilon) * along(params["g"], x) + along(params["b"], x)


@dataclass(frozen=True)
class UnitNorm(Layer):
    """y = x s, s = (Σ x² + ε)^-½ over the last axis: what lies on the unit sphere.      dx = s (dy − y Σ dy y)

    Before a loss that compares directions. Keeps x (the layer below keeps it too, as its output) and s. Shapes: x and y
    (..., f). Raises LayerError for a scalar or an x that is not floating.
    """

    epsilon: float = 1e-12

    def forward(self, params, x, /):
        floats(self, x, "(..., features)")
        s = (jnp.square(wide(x)).sum(-1, keepdims=True) + self.epsilon) ** -0.5
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
    Case(BatchNorm(), *ANY),
    Case(BatchNormInference(), *ANY),
    Case(UnitNorm(), *ANY),
)
