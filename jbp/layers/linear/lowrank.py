"""Affine maps of low rank, adapters, and products of two inputs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, show, take
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import along, leading, outer
from jbp.params import Buffer


@dataclass(frozen=True)
class LowRank(Layer):
    """y = h V + b with h = x U.      dh = dy Vᵀ      dx = dh Uᵀ      dU = xᵀ dh      dV = hᵀ dy      db = Σ dy

    Without bias no b. delta is (dh, dy). Keeps x and h. Shapes: x (..., i), U (i, rank), V (rank, o), b (o,), y
    (..., o). U and V start normal with variance 1 / fan-in. Raises LayerError if x is not floating or its last size is
    not i.

    >>> x = jnp.ones((2, 5))
    >>> params = LowRank(3, rank=2).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (3,), 'u': (5, 2), 'v': (2, 3)}
    >>> LowRank(3, rank=2)(params, x).shape
    (2, 3)
    """

    features: Size
    rank: Size
    bias: bool = True

    def _shapes(self, x):
        shapes = {"u": (x.shape[-1], self.rank), "v": (self.rank, self.features)}
        return shapes | {"b": (self.features,)} if self.bias else shapes

    def init(self, key, x, /):
        i = floats(self, x, "(..., features)").shape[-1]
        one, two = jax.random.split(key)
        u = jax.random.normal(one, (i, self.rank), x.dtype) * max(i, 1) ** -0.5
        v = jax.random.normal(two, (self.rank, self.features), x.dtype) * max(self.rank, 1) ** -0.5
        return {"u": u, "v": v} | ({"b": jnp.zeros(self.features, x.dtype)} if self.bias else {})

    def forward(self, params, x, /):
        u, v, *b = take(self, params, floats(self, x, "(..., features)").dtype, **self._shapes(x))
        h = x @ u.astype(x.dtype)
        y = h @ v.astype(x.dtype)
        return y + along(b[0].astype(x.dtype), y) if self.bias else y, (x, h)

    def backward(self, params, residuals, dy, /):
        u, v = params["u"], params["v"]
        dh = dy @ v.astype(dy.dtype).T
        return dh @ u.astype(dy.dtype).T, (dh.astype(u.dtype), dy.astype(v.dtype))

    def gradient(self, residuals, delta, /):
        (x, h), (dh, dy) = residuals, delta
        grads = {"u": outer(x, dh), "v": outer(h, dy)}
        return grads | {"b": dy.sum(leading(dy))} if self.bias else grads


@dataclass(frozen=True)
class LoRA(Layer):
    """y = x W + b + c h V with h = x U, c = alpha / rank: a Dense that stays as it is, and an adapter that learns.

        dh = c dy Vᵀ      dx = dy Wᵀ + dh Uᵀ      dU = xᵀ dh      dV = c hᵀ dy

    Without bias no b. delta is (dh, dy). Keeps x and h. Buffers: W and b, which may be held in another dtype than x. To
    adapt a trained Dense give its parameters: `params | {"w": Buffer(dense["w"]), "b": Buffer(dense["b"])}`. Shapes: x
    (..., i), W (i, o), b (o,), U (i, rank), V (rank, o), y (..., o). U starts normal with variance 1/i, V at zero, so
    the adapter starts as nothing. (Hu et al., *LoRA*, 2021, §4.1.) Raises LayerError as Dense does.

    >>> x = jnp.ones((2, 5))
    >>> params = LoRA(3, rank=2).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': Buffer(value=(3,)), 'u': (5, 2), 'v': (2, 3), 'w': Buffer(value=(5, 3))}
    >>> LoRA(3, rank=2)(params, x).shape
    (2, 3)
    """

    features: Size
    rank: Size = 4
    alpha: float = 4.0
    bias: bool = True

    def _shapes(self, x):
        i, o, r = x.shape[-1], self.features, self.rank
        return {"w": (i, o)} | ({"b": (o,)} if self.bias else {}) | {"u": (i, r), "v": (r, o)}

    def init(self, key, x, /):
        i = floats(self, x, "(..., features)").shape[-1]
        one, two = jax.random.split(key)
        b = {"b": Buffer(jnp.zeros(self.features, x.dtype))} if self.bias else {}
        return b | {
            "w": Buffer(jax.random.normal(one, (i, self.features), x.dtype) * max(i, 1) ** -0.5),
            "u": jax.random.normal(two, (i, self.rank), x.dtype) * max(i, 1) ** -0.5,
            "v": jnp.zeros((self.rank, self.features), x.dtype),
        }

    def forward(self, params, x, /):
        w, *b, u, v = take(self, params, floats(self, x, "(..., features)").dtype, **self._shapes(x))
        h = x @ u.astype(x.dtype)
        y = x @ w.astype(x.dtype) + (self.alpha / self.rank) * (h @ v.astype(x.dtype))
        return y + along(b[0].astype(x.dtype), y) if self.bias else y, (x, h)

    def backward(self, params, residuals, dy, /):
        w, u, v = params["w"].value, params["u"], params["v"]
        dh = (self.alpha / self.rank) * (dy @ v.astype(dy.dtype).T)
        dx = dy @ w.astype(dy.dtype).T + dh @ u.astype(dy.dtype).T
        return dx, (dh.astype(u.dtype), dy.astype(v.dtype))

    def gradient(self, residuals, delta, /):
        (x, h), (dh, dy) = residuals, delta
        v = (self.alpha / self.rank) * outer(h, dy)
        return {"w": None, "u": outer(x, dh), "v": v} | ({"b": None} if self.bias else {})

    def reference(self, params, x, /):
        w = params["w"].value.astype(x.dtype) + self.alpha / self.rank * params["u"] @ params["v"]
        return x @ w + along(params["b"].value.astype(x.dtype), x) if self.bias else x @ w


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

    Without bias no b. Keeps u and v. Shapes: u (..., i), v (..., j), W (i, j, o), b (o,), y (..., o). W starts normal
    with variance 1 / (i j). Raises LayerError for anything but a pair of arrays that differ in their last size only.

    >>> x = (jnp.ones((2, 5)), jnp.ones((2, 4)))
    >>> params = Bilinear(3).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (3,), 'w': (5, 4, 3)}
    >>> Bilinear(3)(params, x).shape
    (2, 3)
    """

    features: Size
    bias: bool = True

    def _shapes(self, x):
        w = {"w": (x[0].shape[-1], x[1].shape[-1], self.features)}
        return w | {"b": (self.features,)} if self.bias else w

    def init(self, key, x, /):
        u, v = pair_of(self, x)
        w = jax.random.normal(key, self._shapes(x)["w"], u.dtype) * max(u.shape[-1] * v.shape[-1], 1) ** -0.5
        return {"w": w, "b": jnp.zeros(self.features, u.dtype)} if self.bias else {"w": w}

    def forward(self, params, x, /):
        u, v = pair_of(self, x)
        w, *b = take(self, params, u.dtype, **self._shapes(x))
        y = jnp.einsum("...i,ijo,...j->...o", u, w.astype(u.dtype), v)
        return y + along(b[0].astype(y.dtype), y) if self.bias else y, (u, v)

    def backward(self, params, residuals, dy, /):
        (u, v), w = residuals, params["w"].astype(dy.dtype)
        du = jnp.einsum("...o,ijo,...j->...i", dy, w, v)
        return (du, jnp.einsum("...i,ijo,...o->...j", u, w, dy)), dy.astype(params["w"].dtype)

    def gradient(self, residuals, dy, /):
        u, v = residuals
        w = jnp.einsum("...i,...j,...o->ijo", u, v, dy.astype(u.dtype), preferred_element_type=dy.dtype)
        return {"w": w, "b": dy.sum(leading(dy))} if self.bias else {"w": w}


@dataclass(frozen=True)
class TensorProduct(Layer):
    """y = u ⊗ v, every product of an element of u and one of v.      du_i = Σ_j dy_ij v_j      dv_j = Σ_i dy_ij u_i

    It binds two vectors into one: a filler u to a role v. Keeps u and v. Shapes: u (..., i), v (..., j), y (..., i j),
    j running faster. (Smolensky, *Tensor Product Variable Binding*, 1990, §2.) Raises LayerError for anything but a
    pair of arrays that differ in their last size only.

    >>> TensorProduct()((), (jnp.array([1.0, 2.0]), jnp.array([1.0, 10.0])))
    Array([ 1., 10.,  2., 20.], dtype=float32)
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
    Case(LowRank(3, 1, bias=False), f(3, 5)),
    Case(LoRA(3, 1, bias=False), f(3, 5)),
    Case(Bilinear(2, bias=False), (f(3, 5), f(3, 2))),
    Case(Bilinear(3), (f(3, 5), f(3, 2)), (f(2, 3, 5), f(2, 3, 1))),
    Case(TensorProduct(), (f(3, 5), f(3, 2)), (f(2, 3, 5), f(2, 3, 1))),
)
