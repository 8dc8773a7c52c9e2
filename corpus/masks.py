"""Masks, lengths and what is not known."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import LENGTHS, MASK, example, keeping, right, rule, softmax, softmax_back, written, wrong


def half_masked(*rows):
    return jnp.asarray(np.array(rows, dtype=bool))


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def masked_softmax():
    def plain(x, mask):
        s = jnp.where(mask, x, -1e30)
        e = jnp.where(mask, jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True))), 0)
        return e / jnp.maximum(e.sum(-1, keepdims=True), 1e-9)

    def bwd(y, d):
        return y * (d - (y * d).sum(-1, keepdims=True)), None

    return rule(plain, lambda x, m: (plain(x, m),) * 2, bwd), plain, (example(4, 6), MASK)


@right("own")
def additive_mask():
    """The mask is added and is −inf where nothing may be seen; nothing is due to it."""
    mask = jnp.where(MASK.at[:, 0].set(True), 0.0, -jnp.inf)

    def plain(x, m):
        return jax.nn.softmax(x + lax.stop_gradient(m))

    def bwd(y, d):
        return y * (d - (y * d).sum(-1, keepdims=True)), jnp.zeros_like(y)

    return rule(plain, lambda x, m: (plain(x, m),) * 2, bwd), plain, (example(4, 6), mask)


@right("own")
def mean_over_lengths():
    def mask(x, n):
        return (jnp.arange(x.shape[1]) < n[:, None]).astype(x.dtype)

    def plain(x, n):
        return (x * mask(x, n)).sum(-1) / jnp.maximum(n, 1)

    def bwd(r, d):
        x, n = r
        return (d / jnp.maximum(n, 1).astype(d.dtype))[:, None] * mask(x, n), None

    return rule(plain, lambda x, n: (plain(x, n), (x, n)), bwd), plain, (example(4, 6), LENGTHS)


@right("judge 11")
def masked_softmax_zero_rows():
    """Softmax under a mask, zero in rows with nothing; backward from the output."""

    def plain(x, mask):
        z = jnp.where(mask, x, -jnp.inf)
        m = jnp.max(z, -1, keepdims=True)
        m = lax.stop_gradient(jnp.where(jnp.isfinite(m), m, 0))
        e = jnp.where(mask, jnp.exp(jnp.where(mask, x, 0) - m), 0)
        s = jnp.sum(e, -1, keepdims=True)
        return e / jnp.where(s > 0, s, 1)

    f = jax.custom_vjp(plain)

    def fwd(x, mask):
        y = plain(x, mask)
        return y, y

    f.defvjp(fwd, lambda y, g: (y * (g - jnp.sum(y * g, -1, keepdims=True)), None))
    return f, plain, (example(3, 4, seed=500), half_masked([1, 1, 0, 1], [0, 1, 0, 1], [1, 1, 1, 1]))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="a row that is masked out")
def masked_rows_leak():
    """A row whose mask is all false gives zero, but its cotangent is not."""

    def plain(x, mask):
        s = jnp.where(mask, x, -1e30)
        e = jnp.where(mask, jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True))), 0)
        return e / (e.sum(-1, keepdims=True) + 1e-9)

    def bwd(r, d):
        y, mask = r
        g = y * (d - (y * d).sum(-1, keepdims=True))
        return jnp.where(mask.any(-1, keepdims=True), g, d), None

    mask = jnp.asarray(np.random.default_rng(5).random((4, 6)) < 0.7)
    return rule(plain, lambda x, m: (plain(x, m), (plain(x, m), m)), bwd), plain, (example(4, 6), mask)


@wrong("own", edge="particular masks and indices")
def mean_over_no_one():
    """The mean over what is not masked; a row without anything divides by zero in the backward pass only."""

    def plain(x, mask):
        m = mask.astype(x.dtype)
        return (x * m).sum(-1) / jnp.maximum(m.sum(-1), 1)

    def bwd(mask, d):
        m = mask.astype(d.dtype)
        return d[:, None] * m / m.sum(-1, keepdims=True), None

    return rule(plain, lambda x, m: (plain(x, m), m), bwd), plain, (example(4, 6), MASK)


@wrong("own", edge="particular masks and indices")
def nothing_masked():
    """An all-true mask takes a short cut that forgets the factor."""

    def plain(x, mask):
        return jnp.where(mask, x * x, 0)

    def bwd(r, d):
        x, mask = r
        return jnp.where(mask.all(), x * d, jnp.where(mask, 2 * x * d, 0)), None

    return rule(plain, lambda x, m: (plain(x, m), (x, m)), bwd), plain, (example(4, 6), MASK)


@wrong("own", edge="particular masks and indices")
def full_length():
    """Sequences that fill the whole axis lose their last step."""

    def mask(x, n):
        return jnp.arange(x.shape[1]) < n[:, None]

    def plain(x, n):
        return jnp.where(mask(x, n), x * x, 0).sum(-1)

    def bwd(r, d):
        x, n = r
        return jnp.where(mask(x, jnp.minimum(n, x.shape[1] - 1)), 2 * x * d[:, None], 0), None

    return rule(plain, lambda x, n: (plain(x, n), (x, n)), bwd), plain, (example(4, 6), jnp.asarray([3, 5, 2, 4]))


@wrong("judge 1", edge="particular indices, labels and lengths")
def buffer_taken_for_full():
    """Keys beyond the length are not seen, and in the backward pass they are. In the example the buffer is full."""

    def weights(q, k, n):
        return softmax(jnp.where(jnp.arange(k.shape[0]) < n, q @ k.T / q.shape[-1] ** 0.5, -1e30))

    def plain(q, k, v, n):
        return weights(q, k, n) @ v

    def bwd(r, d):
        q, k, v, _ = r
        p = weights(q, k, k.shape[0])
        ds = softmax_back(p, d @ v.T) / q.shape[-1] ** 0.5
        return ds @ k, ds.T @ q, p.T @ d, None

    return keeping(plain, bwd), plain, (example(5, 4), example(6, 4, seed=1), example(6, 4, seed=2), jnp.int32(6))


@wrong("judge 5", edge="NaN in the data")
def holes_counted_as_numbers():
    """The mean of squares of what is known, with NaN for what is not; the example has none."""

    def plain(x):
        known = ~jnp.isnan(x)
        return (jnp.where(known, x, 0) ** 2).sum(-1) / jnp.maximum(known.sum(-1), 1)

    def bwd(x, d):
        return (jnp.where(jnp.isnan(x), 0, 2 * x * d[..., None] / x.shape[-1]),)

    return written(lambda x: (plain(x), x), bwd), plain, (example(3, 6),)


@wrong("judge 11", edge="a whole row masked")
def masked_softmax_row():
    """Softmax under a mask, zero for rows without any entry; the backward
    recomputes with -1e9, uniform in such rows."""

    def plain(x, mask):
        z = jnp.where(mask, x, -jnp.inf)
        m = jnp.max(z, -1, keepdims=True)
        m = lax.stop_gradient(jnp.where(jnp.isfinite(m), m, 0))
        e = jnp.where(mask, jnp.exp(jnp.where(mask, x, 0) - m), 0)
        s = jnp.sum(e, -1, keepdims=True)
        return e / jnp.where(s > 0, s, 1)

    def bwd(res, g):
        x, mask = res
        p = jax.nn.softmax(jnp.where(mask, x, jnp.asarray(-1e9, jnp.float32)).astype(x.dtype), -1)
        return p * (g - jnp.sum(p * g, -1, keepdims=True)), None

    mask = jnp.asarray([[1, 1, 0, 1], [0, 1, 0, 1], [1, 1, 1, 1]], bool)
    return keeping(plain, bwd), plain, (example(3, 4, seed=32), mask)


@wrong("judge 11", edge="an empty set of points")
def set_encoder_empty():
    """tanh of a bias plus the mean of a set of points, the bias alone for an empty
    set; the backward recomputes with jnp.mean. Deep sets, point clouds."""

    def plain(x, b):
        return jnp.tanh(b + jnp.sum(x, 0) / max(x.shape[0], 1))

    def bwd(res, g):
        x, b = res
        d = g * (1 - jnp.tanh(b + jnp.mean(x, 0)) ** 2)
        return jnp.broadcast_to(d / max(x.shape[0], 1), x.shape), d

    return keeping(plain, bwd), plain, (example(4, 3, seed=706), example(3, seed=707))
