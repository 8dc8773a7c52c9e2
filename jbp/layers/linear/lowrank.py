"""Affine maps of low rank, adapters, and products of two inputs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, show, take
from jbp.layer import Layer
from jbp.numerics import along, leading, outer
from jbp.params import Buffer


@dataclass(frozen=True)
class LowRank(Layer):
    """y = h V + b with h = x U.      dh = dy Vᵀ      dx = dh Uᵀ      dU = xᵀ dh      dV = hᵀ dy      db = Σ dy

    delta is (dh, dy). Keeps x and h. Shapes: x (..., i), U (i, rank), V (rank, o), b (o,), y (..., o). U and V start
    normal with variance 1 / fan-in. Raises LayerError if x is not floating or its last size is not i.
    """

    features: int
    rank: int

    def _shapes(self, x):
        return {"u": (x.shape[-1], self.rank), "v": (self.rank, self.features), "b": (self.features,)}

    def init(self, key, x, /):
        i = floats(self, x, "(..., features)").shape[-1]
        one, two = jax.random.split(key)
        u = jax.random.normal(one, (i, self.rank), x.dtype) * max(i, 1) ** -0.5
        v = jax.random.normal(two, (self.rank, self.features), x.dtype) * max(self.rank, 1) ** -0.5
        return {"u": u, "v": v, "b": jnp.zeros(self.features, x.dtype)}

    def forward(self, params, x, /):
        u, v, b = take(self, params, floats(self, x, "(..., features)").dtype, **self._shapes(x))
        h = x @ u
        y = h @ v
        return y + along(b, y), (x, h)

    def backward(self, params, residuals, dy, /):
        dh = dy @ params["v"].T
        return dh @ params["u"].T, (dh, dy)

    def gradient(self, residuals, delta, /):
        (x, h), (dh, dy) = residuals, delta
        return {
            "u": outer(x, dh),
            "v": outer(h, dy),
            "b": dy.sum(leading(dy)),
        }


@dataclass(frozen=True)
class LoRA(Layer):
    """y = x W + b + c h V with h = x U, c = alpha / rank: a Dense that stays as it is, and an adapter that learns.

        dh = c dy Vᵀ      dx = dy Wᵀ + dh Uᵀ      dU = xᵀ dh      dV = c hᵀ dy

    delta is (dh, dy). Keeps x and h. Buffers: W and b, which may be held in another dtype than x. To adapt a trained
    Dense give its parameters: `params | {"w": Buffer(dense["w"]), "b": Buffer(dense["b"])}`. Shapes: x (..., i),
    W (i, o), b (o,), U (i, rank), V (rank, o), y (..., o). U starts normal with variance 1/i, V at zero, so the
    adapter starts as nothing. (Hu et al., *LoRA*, 2021, §4.1.) Raises LayerError as Dense does.
    """

    features: int
    rank: int = 4
    alpha: float = 4.0

    def _shapes(self, x):
        i, o, r = x.shape[-1], self.features, self.rank
        return {"w": (i, o), "b": (o,), "u": (i, r), "v": (r, o)}

    def init(self, key, x, /):
        i = floats(self, x, "(..., features)").shape[-1]
        one, two = jax.random.split(key)
        return {
            "w": Buffer(jax.random.normal(one, (i, self.features), x.dtype) * max(i, 1) ** -0.5),
            "b": Buffer(jnp.zeros(self.features, x.dtype)),
            "u": jax.random.normal(two, (i, self.rank), x.dtype) * max(i, 1) ** -0.5,
            "v": jnp.zeros((self.rank, self.features), x.dtype),
        }

    def forward(self, params, x, /):
        w, b, u, v = take(self, params, floats(self, x, "(..., features)").dtype, **self._shapes(x))
        h = x @ u
        y = x @ w.astype(x.dtype) + (self.alpha / self.rank) * (h @ v)
        return y + along(b.astype(x.dtype), y), (x, h)

    def backward(self, params, residuals, dy, /):
        dh = (self.alpha / self.rank) * (dy @ params["v"].T)
        return dy @ params["w"].value.astype(dy.dtype).T + dh @ params["u"].T, (dh, dy)

    def gradient(self, residuals, delta, /):
        (x, h), (dh, dy) = residuals, delta
        v = (self.alpha / self.rank) * outer(h, dy)
        return {"w": None, "b": None, "u": outer(x, dh), "v": v}

    def reference(self, params, x, /):
        w = params["w"].value.astype(x.dtype) + self.alpha / self.rank * params["u"] @ params["v"]
        return x @ w + along(params["b"].value.astype(x.dtype), x)


def pair_of(layer, x):
    """x, after a check that it is a pair of arrays that differ in their last size only."""
    alike = (
        isinstance(x, tuple | list) and len(x) == 2 and (x[0].shape[:-1], x[0].dtype) == (x[1].shape[:-1], x[1].dtype)
    )
    if not alike:
        raise LayerError(
            layer,
            f"got x {show(x)}; expected a pair of arrays that differ in their last size only. "
            "Put a FanOut before it to give both the same.",
        )
    for part in x:
        floats(layer, part, "(..., features)")
    return x


@dataclass(frozen=True)
class Bilinear(Layer):
    """y_o = Σ u_i W_ijo v_j + b_o of a pair x = (u, v).

        du_i = Σ W_ijo v_j dy_o      dv_j = Σ u_i W_ijo dy_o      dW_ijo = Σ u_i v_j dy_o      db = Σ dy

    Keeps u and v. Shapes: u (..., i), v (..., j), W (i, j, o), b (o,), y (..., o). W starts normal with variance
    1 / (i j). Raises LayerError for anything but a pair of arrays that differ in their last size only.
    """

    features: int

    def _shapes(self, x):
        return {"w": (x[0].shape[-1], x[1].shape[-1], self.features), "b": (self.features,)}

    def init(self, key, x, /):
        i, j, o = self._shapes(pair_of(self, x))["w"]
        w = jax.random.normal(key, (i, j, o), x[0].dtype) * max(i * j, 1) ** -0.5
        return {"w": w, "b": jnp.zeros(o, x[0].dtype)}

    def forward(self, params, x, /):
        u, v = pair_of(self, x)
        w, b = take(self, params, u.dtype, **self._shapes(x))
        y = jnp.einsum("...i,ijo,...j->...o", u, w, v)
        return y + along(b, y), (u, v)

    def backward(self, params, residuals, dy, /):
        u, v = residuals
        du = jnp.einsum("...o,ijo,...j->...i", dy, params["w"], v)
        return (du, jnp.einsum("...i,ijo,...o->...j", u, params["w"], dy)), dy

    def gradient(self, residuals, dy, /):
        u, v = residuals
        return {"w": jnp.einsum("...i,...j,...o->ijo", u, v, dy), "b": dy.sum(leading(dy))}


@dataclass(frozen=True)
class TensorProduct(Layer):
    """y = u ⊗ v, every product of an element of u and one of v.      du_i = Σ_j dy_ij v_j      dv_j = Σ_i dy_ij u_i

    It binds two vectors into one: a filler u to a role v. Keeps u and v. Shapes: u (..., i), v (..., j), y (..., i j),
    j running faster. (Smolensky, *Tensor Product Variable Binding*, 1990, §2.) Raises LayerError for anything but a
    pair of arrays that differ in their last size only.
    """

    def forward(self, params, x, /):
        u, v = pair_of(self, x)
        return (u[..., :, None] * v[..., None, :]).reshape(*u.shape[:-1], u.shape[-1] * v.shape[-1]), (u, v)

    def backward(self, params, residuals, dy, /):
        u, v = residuals
        dy = dy.reshape(*u.shape, v.shape[-1])
        return (jnp.einsum("...ij,...j->...i", dy, v), jnp.einsum("...ij,...i->...j", dy, u)), ()

    def reference(self, params, x, /):
        u, v = x
        return jnp.concatenate([u[..., i, None] * v for i in range(u.shape[-1])], -1)


CASES = (
    Case(LowRank(3, 2), *ANY),
    Case(LoRA(3, 2), *ANY),
    Case(LoRA(2, 1, alpha=0.5), *ANY),
    Case(Bilinear(3), (f(3, 5), f(3, 2)), (f(2, 3, 5), f(2, 3, 1))),
    Case(TensorProduct(), (f(3, 5), f(3, 2)), (f(2, 3, 5), f(2, 3, 1))),
)
