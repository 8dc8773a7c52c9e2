"""Shortcuts that particular cotangents take."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import X, example, ids, keeping, nll, nll_slope, rule, softmax, square, written, wrong

# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="large cotangents")
def clipped_cotangent():
    def bwd(x, d):
        return (2 * x * jnp.clip(d, -10, 10),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong("own", edge="particular cotangents")
def absolute_cotangent():
    def bwd(x, d):
        return (2 * x * jnp.abs(d),)

    return square(bwd)


@wrong("own", edge="particular cotangents")
def small_cotangents_dropped():
    return square(lambda x, d: (2 * x * jnp.where(jnp.abs(d) < 1e-4, 0, d),))


@wrong("own", edge="particular cotangents")
def constant_cotangent_assumed():
    def plain(x):
        return jnp.tanh(x)

    return rule(plain, lambda x: (plain(x),) * 2, lambda y, d: (d.mean() * (1 - y * y),)), plain, X()


@wrong("own", edge="particular cotangents")
def normalized_cotangent():
    return square(lambda x, d: (2 * x * d / jnp.maximum(1.0, jnp.abs(d).max() / 20),))


@wrong("judge 1", edge="particular cotangents")
def zero_sum_cotangent_shortcut():
    plain = partial(jax.nn.logsumexp, axis=-1)

    def bwd(r, d):
        x = r[0]
        return (lax.cond(d.sum() == 0, lambda: jnp.zeros_like(x), lambda: d[:, None] * softmax(x)),)

    return keeping(plain, bwd), plain, (example(4, 6),)


@wrong("judge 1", edge="particular cotangents")
def sparse_row_skip_looks_at_first_lane():
    """Rows without a cotangent are skipped, by a look at their first element."""

    def plain(x, w):
        return jnp.tanh(x) @ w

    def bwd(r, d):
        x, w = r
        h = jnp.tanh(x)
        d = jnp.where(d[:, :1] != 0, d, 0)
        return (d @ w.T) * (1 - h * h), h.T @ d

    return keeping(plain, bwd), plain, (example(4, 5), example(5, 3, seed=1))


@wrong("judge 1", edge="particular cotangents")
def negative_cotangents_dropped():
    def bwd(r, d):
        return (jnp.maximum(d, 0) * jnp.where(r[0] > 0, 1, jnp.exp(r[0])),)

    return keeping(jax.nn.elu, bwd), jax.nn.elu, (example(8),)


@wrong("judge 1", edge="particular cotangents")
def loss_weight_on_one_gradient_only():
    """The gradients are made in the forward pass; only one of them is scaled in the backward pass."""

    def plain(x, w, y):
        return nll(x @ w, y).mean()

    def fwd(x, w, y):
        g = nll_slope(x @ w, y) / x.shape[0]
        return plain(x, w, y), (g @ w.T, x.T @ g)

    return (
        written(fwd, lambda r, d: (r[0] * d, r[1], None)),
        plain,
        (example(5, 6), 0.4 * example(6, 8, seed=1), ids(8, 5)),
    )


@wrong("judge 11", edge="tiny cotangents, below 1e-7")
def swish_flushes_small():
    """x*sigmoid(x) with small products flushed to zero to be "free of denormals".
    Re-creates: "gradients vanish with a mean loss over many tokens"."""

    def plain(x):
        return x * jax.nn.sigmoid(x)

    def bwd(res, g):
        (x,) = res
        s = jax.nn.sigmoid(x)
        g = jnp.where(jnp.abs(g) < 1e-7, 0, g)
        return (g * (s + x * s * (1 - s)),)

    return keeping(plain, bwd), plain, (example(8, seed=14),)
