"""Norms over the features of a row."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import XGB, example, keeping, right, rule, unbroadcast, wide, written, wrong


def layer_norm(x, g, b):
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) / jnp.sqrt(v + 1e-5) * g + b


def norm_fwd(x, g, b):
    m = x.mean(-1, keepdims=True)
    s = 1 / jnp.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
    return (x - m) * s * g + b, ((x - m) * s, s, g)


def norm_bwd(r, d):
    h, s, g = r
    dh = d * g
    dx = s * (dh - dh.mean(-1, keepdims=True) - h * (dh * h).mean(-1, keepdims=True))
    return dx, (d * h).sum(0), d.sum(0)


def _norm(bwd):
    return rule(layer_norm, norm_fwd, bwd), layer_norm, XGB()


def layer_norm_right():
    def bwd(r, d):
        x, g = r
        m = x.mean(-1, keepdims=True)
        s = lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
        h, e = (x - m) * s, d * g
        dx = s * (e - e.mean(-1, keepdims=True) - h * (e * h).mean(-1, keepdims=True))
        return dx, (d * h).sum(0), d.sum(0)

    return rule(layer_norm, lambda x, g, b: (layer_norm(x, g, b), (x, g)), bwd), layer_norm, XGB()


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def layer_norm_():
    return rule(layer_norm, norm_fwd, norm_bwd), layer_norm, XGB()


@right("own")
def rms_norm():
    def plain(x, g):
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g

    def fwd(x, g):
        x32 = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
        s = lax.rsqrt((x32 * x32).mean(-1, keepdims=True) + 1e-6)
        return (x32 * s).astype(x.dtype) * g, (x, s, g)

    def bwd(r, d):
        x, s, g = r
        n = x.astype(s.dtype) * s
        e = (d * g).astype(s.dtype)
        dx = s * (e - n * (e * n).mean(-1, keepdims=True))
        return dx.astype(x.dtype), (d * n.astype(d.dtype)).sum(0)

    return rule(plain, fwd, bwd), plain, (example(5, 6), jnp.ones(6))


@right("own")
def layer_norm_far_from_zero():
    f, plain, (x, g, b) = layer_norm_right()
    return f, plain, (x + 100, g, b)


@right("own")
def layer_norm_at_initialization():
    f, plain, (x, g, b) = layer_norm_right()
    return f, plain, (x, jnp.ones_like(g), jnp.zeros_like(b))


@right("judge 1")
def layer_norm_in_one_pass():
    """Welford's running mean and variance, far from zero."""

    def plain(x, g, b):
        m = x.mean(-1, keepdims=True)
        return (x - m) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b

    def fwd(x, g, b):
        def add(c, v):
            n, m, s = c
            d = v - m
            m = m + d / (n + 1)
            return (n + 1, m, s + d * (v - m)), None

        zero = jnp.zeros(x.shape[:-1], x.dtype)
        (n, m, s), _ = lax.scan(add, (jnp.zeros((), x.dtype), zero, zero), jnp.moveaxis(x, -1, 0))
        s = lax.rsqrt(s / n + 1e-5)[..., None]
        h = (x - m[..., None]) * s
        return h * g + b, (h, s, g)

    def bwd(r, d):
        h, s, g = r
        over, e = tuple(range(d.ndim - 1)), d * g
        dx = s * (e - h * (e * h).mean(-1, keepdims=True) - e.mean(-1, keepdims=True))
        return dx, (d * h).sum(over), d.sum(over)

    return written(fwd, bwd), plain, (5 + example(3, 4, 12), 1 + 0.1 * example(12, seed=1), example(12, seed=2))


@right("judge 11")
def layer_norm_two_pass():
    """Layer norm with gain and bias, any leading axes."""

    def stats(x):
        y = x - jnp.mean(x, -1, keepdims=True)
        r = lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
        return y * r, r

    def plain(x, w, b):
        return stats(x)[0] * w + b

    f = jax.custom_vjp(plain)

    def fwd(x, w, b):
        y, r = stats(x)
        return y * w + b, (y, r, w)

    def bwd(res, g):
        y, r, w = res
        h = g * w
        dx = r * (h - jnp.mean(h, -1, keepdims=True) - y * jnp.mean(h * y, -1, keepdims=True))
        return dx, unbroadcast(g * y, w.shape), unbroadcast(g, w.shape)

    f.defvjp(fwd, bwd)
    return f, plain, (example(4, 6, seed=333), example(6, seed=334), example(6, seed=335))


@right("judge 11")
def rms_norm_single_inside():
    """RMS norm, all inside in single precision and rounded at the end only."""

    def plain(x, w):
        y = wide(x)
        return (y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * wide(w)).astype(x.dtype)

    def bwd(res, g):
        x, w = res
        y = wide(x)
        r = lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)
        y = y * r
        h = wide(g) * wide(w)
        dx = r * (h - y * jnp.mean(h * y, -1, keepdims=True))
        return dx.astype(x.dtype), unbroadcast(wide(g) * y, w.shape).astype(w.dtype)

    return keeping(plain, bwd), plain, (example(4, 8, seed=342), example(8, seed=343))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def norm_missing_term():
    def bwd(r, d):
        h, s, g = r
        dh = d * g
        return s * (dh - dh.mean(-1, keepdims=True)), (d * h).sum(0), d.sum(0)

    return _norm(bwd)


@wrong("own", edge="particular values")
def norm_of_constant_row():
    def bwd(r, d):
        h, _s, _g = r
        dx, dg, db = norm_bwd(r, d)
        return jnp.where((h == 0).all(-1, keepdims=True), 0, dx), dg, db

    return rule(layer_norm, norm_fwd, bwd), layer_norm, XGB()


@wrong("own", edge="particular values")
def variance_from_squares():
    """Float32 loses the variance of what is far from zero; the definition does not."""

    def bwd(r, d):
        x, g = r
        m = x.mean(-1, keepdims=True)
        s = lax.rsqrt(jnp.maximum((x * x).mean(-1, keepdims=True) - m * m, 0) + 1e-5)
        return norm_bwd(((x - m) * s, s, g), d)

    return rule(layer_norm, lambda x, g, b: (layer_norm(x, g, b), (x, g)), bwd), layer_norm, XGB()


@wrong("own", edge="parameters other than the example's")
def unit_gain_assumed():
    def bwd(r, d):
        h, s, _ = r
        return norm_bwd((h, s, jnp.ones(h.shape[-1], h.dtype)), d)

    return rule(layer_norm, norm_fwd, bwd), layer_norm, (example(5, 6), jnp.ones(6), jnp.zeros(6))


@wrong("judge 1", edge="other sizes and ranks")
def width_written_into_the_rule():
    def plain(x):
        m = x.mean(-1, keepdims=True)
        return (x - m) / jnp.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)

    def bwd(r, d):
        x = r[0]
        m = x.mean(-1, keepdims=True)
        s = lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
        mean = lambda v: v.sum(-1, keepdims=True) / 32  # noqa: E731
        h = (x - m) * s
        return (s * (d - mean(d) - h * mean(d * h)),)

    return keeping(plain, bwd), plain, (example(6, 32),)


@wrong("judge 11", edge="rows whose mean is large against their spread")
def layer_norm_one_pass():
    """Layer norm, two passes forward; the backward takes E[x^2] - E[x]^2.
    Re-creates: "layer_norm backward cancellation (fast variance)"."""

    def plain(x):
        y = x - jnp.mean(x, -1, keepdims=True)
        return y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)

    def bwd(res, g):
        (x,) = res
        m = jnp.mean(x, -1, keepdims=True)
        v = jnp.maximum(jnp.mean(x * x, -1, keepdims=True) - m * m, 0)
        r = lax.rsqrt(v + 1e-5)
        y = (x - m) * r
        return (r * (g - jnp.mean(g, -1, keepdims=True) - y * jnp.mean(g * y, -1, keepdims=True)),)

    return keeping(plain, bwd), plain, (example(3, 16, seed=126),)
