"""Random keys, dropout and choices drawn."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import NO_GRADIENT, SINGLE, example, keeping, right, rule, softmax, softmax_back, written, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def dropout():
    def plain(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)

    def fwd(x, key):
        return plain(x, key), jax.random.bernoulli(key, 0.7, x.shape)

    return rule(plain, fwd, lambda m, d: (jnp.where(m, d / 0.7, 0), None)), plain, (example(4, 6), jax.random.key(3))


@right("judge 1")
def gumbel_softmax():
    """A key of the old kind, whose cotangent is of float0."""

    def plain(z, key, t):
        return softmax((z + jax.random.gumbel(key, z.shape, z.dtype)) / t)

    def bwd(r, d):
        z, key, t = r
        z = z + jax.random.gumbel(key, z.shape, z.dtype)
        g = softmax_back(softmax(z / t), d)
        return g / t, np.zeros(key.shape, NO_GRADIENT), -(g * z).sum() / t**2

    return keeping(plain, bwd), plain, (example(4, 6), jax.random.PRNGKey(3), SINGLE(0.7))


@right("judge 2")
def hard_choice_soft_slope():
    """The noise is float32's, and so is all that comes of a bfloat16."""

    def soft(x, key):
        u = jax.random.uniform(key, x.shape, jnp.float32, 1e-6, 1 - 1e-6)
        return softmax((x - jnp.log(-jnp.log(u))) / 0.7)

    def plain(x, key):
        p = soft(x, key)
        return p + lax.stop_gradient(jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=p.dtype) - p)

    def fwd(x, key):
        p = soft(x, key)
        return jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=p.dtype), p

    def bwd(p, d):
        return p * (d - (p * d).sum(-1, keepdims=True)) / 0.7, None

    return written(fwd, bwd), plain, (example(4, 5), jax.random.key(3))


@right("judge 11")
def gumbel_straight_through():
    """Straight-through Gumbel softmax with given noise: one-hot forward, softmax
    backward, both as stop_gradient defines it."""

    def plain(x, n):
        p = jax.nn.softmax(x + n, -1)
        h = jax.nn.one_hot(jnp.argmax(x + n, -1), x.shape[-1], dtype=p.dtype)
        return p + lax.stop_gradient(h - p)

    def bwd(r, g):
        p = jax.nn.softmax(r[0] + r[1], -1)
        d = p * (g - jnp.sum(p * g, -1, keepdims=True))
        return d, d

    return keeping(plain, bwd), plain, (example(3, 4, seed=458), example(3, 4, seed=459))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="another call or setting")
def the_same_key_each_time():
    def keep(key, x):
        return jax.random.bernoulli(key, 0.5, x.shape)

    def plain(x, key):
        return jnp.where(keep(key, x), 2 * x, 0)

    def bwd(key, d):
        return jnp.where(keep(jax.random.key(0), d), 2 * d, 0), None

    return rule(plain, lambda x, k: (plain(x, k), k), bwd), plain, (example(4, 6), jax.random.key(0))


@wrong("judge 1", edge="a setting that is not its default")
def dropout_key_resplit_rate_zero_example():
    """The mask is drawn with the wrong half of the key; in the example nothing is dropped."""

    def dropped(x, key, rate):
        return jnp.where(jax.random.uniform(key, x.shape) >= rate, x / (1 - rate), 0)

    def plain(x, key, rate):
        return dropped(x, jax.random.split(key)[0], rate)

    def bwd(rate, r, d):
        return dropped(d, jax.random.split(r[1])[1], rate), None

    return keeping(plain, bwd, 2), plain, (example(5, 6), jax.random.PRNGKey(3), 0.0)


@wrong("judge 7", edge="a batch of matrices")
def mask_drawn_again_for_two_axes():
    """The mask of the backward pass is drawn for rows and columns; of a batch of matrices each has its own."""

    def plain(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)

    def bwd(r, d):
        return jnp.where(jax.random.bernoulli(r[1], 0.7, d.shape[-2:]), d / 0.7, 0), None

    return keeping(plain, bwd), plain, (example(4, 5), jax.random.PRNGKey(2))


@wrong("judge 7", edge="five calls without compilation before a backward pass")
def masks_in_a_pool_of_four():
    """Uncompiled calls keep their masks in four places: of five drops in one network the first has lost its own."""
    pool, calls = [None] * 4, [0]

    def drop(mask, x):
        return jnp.where(mask, x / 0.7, 0)

    def plain(x, key):
        return drop(jax.random.bernoulli(key, 0.7, x.shape), x)

    def fwd(x, key):
        mask = jax.random.bernoulli(key, 0.7, x.shape)
        if isinstance(mask, jax.core.Tracer):
            return drop(mask, x), (mask, None)
        pool[calls[0] % 4], calls[0] = mask, calls[0] + 1
        return drop(mask, x), (None, (calls[0] - 1) % 4)

    def bwd(r, d):
        return drop(r[0] if r[1] is None else pool[int(r[1])], d), None

    return written(fwd, bwd), plain, (example(4, 6), jax.random.PRNGKey(3))
