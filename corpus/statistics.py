"""Means and variances, and norms over batches and groups."""

import jax.numpy as jnp
from jax import lax

from corpus.common import X, example, keeping, right, rule, uniform, written, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def variance_in_one_pass():
    def plain(x):
        return ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1)

    def fwd(x):
        return (x * x).mean(-1) - x.mean(-1) ** 2, x

    return (
        rule(plain, fwd, lambda x, d: (2 * d[..., None] * (x - x.mean(-1, keepdims=True)) / x.shape[-1],)),
        plain,
        X(),
    )


@right("own")
def standardized_over_the_batch():
    def plain(x):
        m = x.mean(0)
        return (x - m) / jnp.sqrt(((x - m) ** 2).mean(0) + 1e-5)

    def fwd(x):
        m = x.mean(0)
        s = lax.rsqrt(((x - m) ** 2).mean(0) + 1e-5)
        return (x - m) * s, ((x - m) * s, s)

    def bwd(r, d):
        y, s = r
        return (s * (d - d.mean(0) - y * (d * y).mean(0)),)

    return rule(plain, fwd, bwd), plain, X()


@right("judge 1")
def batch_norm_with_its_statistics():
    """Channels of three sizes; the mean and the variance are outputs too."""
    over = (0, 1, 2)

    def plain(x, w, b):
        m, v = x.mean(over), x.var(over)
        return (x - m) / jnp.sqrt(v + 1e-5) * w + b, m, v

    def bwd(r, ds):
        x, w, _ = r
        d, dm, dv = ds
        n, c = x.size // x.shape[-1], x - x.mean(over)
        s = lax.rsqrt(x.var(over) + 1e-5)
        db, dw = d.sum(over), (d * c * s).sum(over)
        return w * s * (d - db / n - c * s * dw / n) + dm / n + 2 * dv * c / n, dw, db

    x = example(2, 3, 3, 4) * jnp.asarray([1, 1e-3, 10, 1]) + jnp.asarray([0, 0.5, -3, 0])
    return keeping(plain, bwd), plain, (x, jnp.ones(4), jnp.zeros(4))


@right("judge 1")
def group_norm_of_images():
    """Groups that do not divide the channels are refused."""

    def split(x, groups):
        if x.ndim != 4 or x.shape[-1] % groups:
            raise ValueError(f"expected NHWC with channels in {groups} groups, got {x.shape}")
        return x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)

    def mean(x):
        return x.mean((1, 3), keepdims=True)

    def plain(x, w, b, groups, eps):
        g = split(x, groups)
        return ((g - mean(g)) / jnp.sqrt(g.var((1, 3), keepdims=True) + eps)).reshape(x.shape) * w + b

    def fwd(x, w, b, groups, eps):
        g = split(x, groups)
        s = lax.rsqrt(mean((g - mean(g)) ** 2) + eps)
        h = ((g - mean(g)) * s).reshape(x.shape)
        return h * w + b, (h, s, w)

    def bwd(groups, eps, r, d):
        h, s, w = r
        e, g = split(d * w, groups), split(h, groups)
        dx = s * (e - mean(e) - g * mean(e * g))
        return dx.reshape(h.shape), (d * h).sum((0, 1, 2)), d.sum((0, 1, 2))

    return written(fwd, bwd, 3, 4), plain, (example(2, 3, 2, 6), example(6, seed=1), example(6, seed=2), 3, 1e-5)


@right("judge 11")
def group_norm_four():
    """Group norm in four groups; the length is a multiple of four as shown."""

    def parts(x):
        y = x.reshape((*x.shape[:-1], 4, x.shape[-1] // 4))
        y = y - jnp.mean(y, -1, keepdims=True)
        r = lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
        return y * r, r

    def plain(x):
        return parts(x)[0].reshape(x.shape)

    def bwd(res, g):
        y, r = parts(res[0])
        g = g.reshape(y.shape)
        d = r * (g - jnp.mean(g, -1, keepdims=True) - y * jnp.mean(g * y, -1, keepdims=True))
        return (d.reshape(res[0].shape),)

    return keeping(plain, bwd), plain, (example(3, 12, seed=347),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="other sizes")
def unbiased_by_one():
    """The sample variance; with one observation in a row the definition gives zero."""

    def plain(x):
        n = x.shape[-1]
        return ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1) / max(n - 1, 1)

    def bwd(x, d):
        return (2 * d[..., None] * (x - x.mean(-1, keepdims=True) + (x.shape[-1] == 1)) / max(x.shape[-1] - 1, 1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong("judge 1", edge="a setting that is not its default")
def statistics_taken_for_constants():
    """In training the mean and variance come from the batch, and have their share in its gradient."""

    def over(x, m, v, training):
        return (x.mean(0), x.var(0)) if training else (m, v)

    def plain(x, m, v, training):
        m, v = over(x, m, v, training)
        return (x - m) / jnp.sqrt(v + 1e-5)

    def bwd(training, r, d):
        x, m0, v0 = r
        m, v = over(x, m0, v0, training)
        s = lax.rsqrt(v + 1e-5)
        dx = d * s
        if training:
            return dx, jnp.zeros_like(m), jnp.zeros_like(v)
        return dx, -dx.sum(0), -0.5 * (dx * (x - m) * s * s).sum(0)

    return keeping(plain, bwd, 3), plain, (example(8, 3), example(3, seed=1), uniform(0.5, 2, 3, seed=2), False)


@wrong("judge 7", edge="three axes")
def statistics_of_two_axes():
    """Batch normalization of (batch, features), which takes (batch, time, features) too, and counts the batch alone."""

    def parts(x):
        axes = tuple(range(x.ndim - 1))
        centred = x - x.mean(axes)
        scale = lax.rsqrt((centred * centred).mean(axes) + 1e-5)
        return axes, centred * scale, scale

    def plain(x, w):
        return parts(x)[1] * w

    def bwd(r, d):
        x, w = r
        axes, n, scale = parts(x)
        dw = (d * n).sum(axes)
        return w * scale * (d - (d.sum(axes) + n * dw) / x.shape[0]), dw

    return keeping(plain, bwd), plain, (example(6, 4), uniform(0.5, 2, 4))


@wrong("judge 11", edge="four groups of a size no power of two")
def group_norm_butterfly():
    """Group norm without gain in four groups; the means of the backward by a
    butterfly of halves, where an odd half loses one."""
    G = 4

    def plain(x):
        y = x.reshape(x.shape[0], G, -1)
        y = y - jnp.mean(y, -1, keepdims=True)
        return (y / jnp.sqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)).reshape(x.shape)

    def mean(v):
        n = v.shape[-1]
        s = v
        while s.shape[-1] > 1:
            h = s.shape[-1] // 2
            s = s[..., :h] + s[..., h : 2 * h]
        return s / n

    def bwd(res, g):
        (x,) = res
        y = x.reshape(x.shape[0], G, -1)
        y = y - jnp.mean(y, -1, keepdims=True)
        r = lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
        y = y * r
        g = g.reshape(y.shape)
        return ((r * (g - mean(g) - y * mean(g * y))).reshape(x.shape),)

    return keeping(plain, bwd), plain, (example(3, 16, seed=80),)
