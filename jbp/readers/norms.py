"""Per-example gradient norms that are cheaper than the gradients, layer by layer.

For an affine layer the gradient of example i is G_i = Σ_t x_t dy_tᵀ over its tokens t, and

    ‖G_i‖² = Σ_{t,s} (x_t · x_s)(dy_t · dy_s) = Σ ((X_i X_iᵀ) ∘ (dY_i dY_iᵀ)),    ‖x_i‖² ‖dy_i‖² for one token

(Goodfellow, *Efficient Per-Example Gradient Computations*, 2015; Li et al., *Large Language Models Can Be Strong
Differentially Private Learners*, 2022, §4: "ghost norms").
"""

import math
from functools import singledispatch
from typing import Any

import jax.numpy as jnp

from jbp.layer import Layer
from jbp.layers.attention.multihead import MultiHeadAttention
from jbp.layers.conv.convolution import Conv
from jbp.layers.conv.transpose import ConvTranspose
from jbp.layers.embedding import Embedding
from jbp.layers.experts import MixtureOfExperts
from jbp.layers.linear.dense import Logits
from jbp.layers.windows import spread
from jbp.numerics import outer, product, wide
from jbp.readers.maps import FACTORED, by_token, maps, rows, tokens, words


@singledispatch
def per_example_squared_norms(layer: Layer, residuals: Any, delta: Any, /) -> Any:
    """‖g_i‖² (b,) for each example, g_i its part of the gradient of the layer's parameters; None if nothing is cheaper
    than to make the g_i.

    What `per_example` asks for a layer with residuals and delta of one sweep. A layer type of your own needs no rule,
    and joins with one that is cheaper by `@per_example_squared_norms.register`.

    >>> x, dy = jnp.array([[1.0, 0.0], [3.0, 4.0]]), jnp.array([[1.0], [2.0]])
    >>> jbp.readers.per_example_squared_norms(Dense(1, bias=False), x, dy)
    Array([  1., 100.], dtype=float32)
    """
    return None


@singledispatch
def gradient_of_one(layer: Layer, residuals: Any, delta: Any, /) -> Any:
    """The gradient of a batch of one, which may be had more cheaply than that of many."""
    return layer.gradient(residuals, delta)


@gradient_of_one.register(Conv)
def _(layer, x, dy, /):
    """One product of two matrices: XLA's convolution over one example is many times slower on CPUs."""
    kernel, rows = spread(layer.kernel, x.ndim - 2), dy.reshape(-1, dy.shape[-1])
    met = layer._unfolded(x, dy.shape[1:-1])[0]
    if layer.groups == 1:
        w = outer(met, rows)
    else:
        met = met.reshape(len(rows), math.prod(kernel), layer.groups, x.shape[-1] // layer.groups)
        w = product("tkgi,tgo->kigo", met, rows.reshape(len(rows), layer.groups, dy.shape[-1] // layer.groups))
    w = w.reshape(*kernel, x.shape[-1] // layer.groups, dy.shape[-1])
    return {"w": w, "b": rows.sum(0)} if layer.bias else {"w": w}


def _square(g):
    """The squared norms of an array's rows: the sum over all axes but the first."""
    return jnp.square(wide(g)).sum(range(1, g.ndim))


def _outer(x, dy):
    """‖Σ_t x_t dy_tᵀ‖² for each example, x (b, t, i), dy (b, t, o): through t×t products or i×o, if fewer."""
    x, dy = wide(x), wide(dy)
    (_, t, i), o = x.shape, dy.shape[-1]
    if t == 1:
        return _square(x) * _square(dy)
    if t * (i + o) <= i * o:
        return (jnp.einsum("bti,bsi->bts", x, x) * jnp.einsum("bto,bso->bts", dy, dy)).sum((1, 2))
    return _square(jnp.einsum("bti,bto->bio", x, dy))


def _affine(layer, residuals, delta, /):
    """Of a layer that is nothing but affine maps, bias and all."""
    if not (found := maps(layer)):
        return None
    met = rows(layer, residuals, delta)
    biases = [_square(met[name].dy.sum(1)) for name, each in found.items() if each.bias]
    return sum(biases, sum(_outer(*met[name]) for name in found))


# Parts of a kernel are smaller than products of its rows, and the others have more than their maps, or rules below.
for _kind in FACTORED:
    if not issubclass(_kind, Conv | ConvTranspose | Embedding | MixtureOfExperts | MultiHeadAttention):
        per_example_squared_norms.register(_kind)(_affine)


@per_example_squared_norms.register(Embedding)
def _(layer, ids, dy, /):
    ids, dy = words(layer, ids, wide(dy))
    same = (ids[:, :, None] == ids[:, None]) & (ids < layer.vocabulary)[:, :, None]
    return jnp.where(same, jnp.einsum("btf,bsf->bts", dy, dy), 0).sum((1, 2))


@per_example_squared_norms.register(MultiHeadAttention)
def _(layer, residuals, delta, /):
    given, _, _, _, _, o = residuals
    dq, dk, dv, dy, more = delta

    x, keys, values = layer._cleared(given, layer._beside(given))
    if keys is values:
        inside = _outer(keys, by_token(jnp.stack([dk, dv], 1)))
    else:
        inside = _outer(keys, by_token(dk)) + _outer(values, by_token(dv))
    biases = [dq.sum(3), dk.sum(2), dv.sum(2), dy.sum(1)] if layer.bias else []
    return sum(
        map(_square, (*biases, *more.get("sinks", ()))), _outer(x, by_token(dq)) + inside + _outer(by_token(o), dy)
    )


def between(one: Layer, x: Any, dx: Any, other: Layer, y: Any, dy: Any, /) -> Any:
    """g_i · h_i (b,) for two layers' gradients of one table, out of residuals and deltas; None if nothing is cheaper.

    Of row k an Embedding has g = Σ_t [id_t = k] d_t, Logits h = Σ_s e_s[k] x_s: g · h = Σ_{t,s} e_s[id_t] d_t · x_s.
    """
    if isinstance(one, Logits) and isinstance(other, Embedding):
        return between(other, y, dy, one, x, dx)
    if type(one) is not Embedding or not isinstance(other, Logits):
        return None
    ids, d = words(one, x, wide(dx))
    x, e = tokens(wide(y)), tokens(wide(dy))
    chosen = jnp.take_along_axis(e, jnp.minimum(ids, one.vocabulary - 1)[:, None], 2)  # (b, s, t)
    return jnp.where((ids < one.vocabulary)[:, None], chosen * jnp.einsum("bsf,btf->bst", x, d), 0).sum((1, 2))
