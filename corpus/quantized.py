"""Levels, books and whole numbers, straight through."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import NO_GRADIENT, SINGLE, example, floats, keeping, right, uniform, written, wrong


def quantized(x, s):
    """Learned step sizes, straight through where nothing is clipped."""
    v = jnp.clip(x / s, -8, 7)
    return (v + lax.stop_gradient(jnp.round(v) - v)) * s


# right ----------------------------------------------------------------------------------------------------------------


@right("judge 1")
def steps_without_slope():
    def plain(x, scale):
        return jnp.floor(4 * x) * scale

    def bwd(r, d):
        return jnp.zeros_like(r[0]), (d * jnp.floor(4 * r[0])).sum()

    return keeping(plain, bwd), plain, (example(12), SINGLE(0.25))


@right("judge 1")
def lsq_fake_quant():
    def bwd(r, d):
        x, s = r
        v = x / s
        ds = jnp.where(v < -8, -8, jnp.where(v > 7, 7, jnp.round(v) - v))
        return jnp.where((v >= -8) & (v <= 7), d, 0), (d * ds).sum()

    forward = lambda x, s: jnp.clip(jnp.round(x / s), -8, 7) * s  # noqa: E731
    return keeping(forward, bwd), quantized, (example(4, 8), SINGLE(0.17))


@right("judge 1")
def vq_straight_through():
    """The nearest row of a book, straight through; with the loss that pulls both together, and the row's number."""

    def plain(z, book):
        stop = lax.stop_gradient
        i = ((z[:, None] - book[None]) ** 2).sum(-1).argmin(-1).astype(jnp.int32)
        q = book[i]
        return z + stop(q - z), i, ((stop(z) - q) ** 2).mean() + 0.25 * ((z - stop(q)) ** 2).mean()

    def fwd(z, book):
        i = ((z * z).sum(-1, keepdims=True) - 2 * z @ book.T + (book * book).sum(-1)).argmin(-1).astype(jnp.int32)
        q = book[i]
        return (q, i, 1.25 * ((z - q) ** 2).mean()), (z, q, i, book.shape[0])

    def bwd(r, ds):
        z, q, i, n = r
        g = 2 * (z - q) / z.size * ds[2]
        return ds[0] + 0.25 * g, jax.ops.segment_sum(-g, i, n)

    return written(fwd, bwd), plain, (example(6, 3), example(5, 3, seed=1))


@right("judge 2")
def weights_of_eight_bits():
    """Whole numbers from one end of their dtype to the other, with a scale for each column."""

    def plain(x, q, s):
        return x @ (q.astype(x.dtype) * s)

    def bwd(r, d):
        x, q, s = r
        w = q.astype(x.dtype)
        return d @ (w * s).T, np.zeros(q.shape, NO_GRADIENT), ((x.T @ d) * w).sum(0)

    q = jnp.asarray(np.linspace(-128, 127, 24).reshape(6, 4), jnp.int8)
    return keeping(plain, bwd), plain, (example(3, 6), q, uniform(0.005, 0.01, 4))


@right("judge 4")
def levels_with_a_step_of_their_own():
    """A step of zero makes no levels, and the output NaN; what goes straight through is known even so."""

    def levels(x, step):
        return jnp.clip(jnp.round(x / step), -8, 7) * step

    def plain(x, step):
        kept = jnp.minimum(jnp.maximum(x, -8 * step), 7 * step)
        return kept + lax.stop_gradient(levels(x, step) - kept)

    def bwd(r, d):
        x, step = r
        below, above = x < -8 * step, x > 7 * step
        return jnp.where(below | above, 0, d), (d * (7.0 * above - 8.0 * below).astype(d.dtype)).sum(0)

    fwd = lambda x, step: (levels(x, step), (x, step))  # noqa: E731
    return written(fwd, bwd), plain, (example(6, 4), uniform(0.05, 0.2, 4))


@right("judge 11")
def fake_quant_ste():
    """Fake quantization, straight through inside the range, scale not trained; all
    of it by stop_gradient in the definition."""

    def plain(x, scale):
        s = lax.stop_gradient(scale)
        c = jnp.clip(x, -128 * s, 127 * s)
        return c + lax.stop_gradient(jnp.round(c / s) * s - c)

    def bwd(r, g):
        x, s = r
        return jnp.where((x >= -128 * s) & (x <= 127 * s), g, 0), jnp.zeros_like(s)

    return keeping(plain, bwd), plain, (floats(0.3, 1.0, -0.4), floats(0.01)[0])


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 1", edge="particular values")
def step_size_bounds_swapped():
    """Learned step sizes: what is quantized to −8…7 is let through up to 8."""

    def bwd(r, d):
        x, s = r
        v = x / s
        return d * (jnp.abs(v) <= 8).astype(d.dtype), (d * (jnp.round(jnp.clip(v, -8, 7)) - v)).sum()

    return keeping(quantized, bwd), quantized, (example(12), jnp.float32(0.5))


@wrong("judge 7", edge="values beyond the last level")
def slope_beyond_the_ends():
    """Rounded to a few levels, straight through: but beyond the last of them, of which the example shows nothing."""

    def plain(x):
        q = jnp.clip(2 * x, -4, 4)
        return q + lax.stop_gradient(jnp.round(q) - q)

    return written(lambda x: (plain(x), None), lambda _, d: (2 * d,)), plain, (uniform(-1.9, 1.9, 8),)


@wrong("judge 11", edge="values beyond the quantizer's range")
def fake_quant_range():
    """Eight-bit fake quantization, straight through inside the range only by
    definition; the backward lets everything through. Quantization."""

    def plain(x, scale):
        s = lax.stop_gradient(scale)
        c = jnp.clip(x, -128 * s, 127 * s)
        return c + lax.stop_gradient(jnp.round(c / s) * s - c)

    def bwd(res, g):
        _x, scale = res
        return g, jnp.zeros_like(scale)

    return keeping(plain, bwd), plain, (floats(0.3, 1.0, -0.4), floats(0.01)[0])
