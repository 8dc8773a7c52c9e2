"""Running sums and products, products of rows, and what is composited along them."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import X, example, floats, keeping, right, rule, uniform, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def product_of_rows():
    """Written with the others' product, right at zeros too."""

    def plain(x):
        return jnp.prod(x, -1)

    def bwd(x, d):
        n = x.shape[-1]
        others = jnp.where(jnp.eye(n, dtype=bool), 1, x[..., None, :]).prod(-1)
        return (d[..., None] * others,)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, (example(4, 5),)


@right("own")
def log_cumulative_sum():
    def plain(x):
        return lax.cumlogsumexp(x, axis=1)

    def bwd(r, d):
        x, y = r
        w = jnp.where(
            jnp.tril(jnp.ones((x.shape[1],) * 2, bool)), jnp.exp(jnp.minimum(x[:, None] - y[..., None], 0)), 0
        )
        return (jnp.einsum("bij,bi->bj", w, d),)

    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, X()


@right("judge 1")
def compensated_cumsum():
    def forward(x):
        def step(c, v):
            s, e = c
            t = s + (v - e)
            return (t, (t - s) - (v - e)), t

        zero = jnp.zeros(x.shape[:-1], x.dtype)
        return jnp.moveaxis(lax.scan(step, (zero, zero), jnp.moveaxis(x, -1, 0))[1], 0, -1)

    def bwd(_, d):
        return (forward(d[..., ::-1])[..., ::-1],)

    return keeping(forward, bwd), partial(jnp.cumsum, axis=-1), (example(2, 33),)


@right("judge 11")
def product_of_others():
    """Product over the last axis; products of the others by running products from
    both sides, so zeros do no harm."""

    def plain(x):
        return jnp.prod(x, -1)

    def bwd(r, g):
        (x,) = r
        one = jnp.ones_like(x[..., :1])
        left = jnp.concatenate([one, jnp.cumprod(x, -1)[..., :-1]], -1)
        rt = jnp.flip(jnp.cumprod(jnp.flip(x, -1), -1), -1)
        rt = jnp.concatenate([rt[..., 1:], one], -1)
        return (g[..., None] * left * rt,)

    return keeping(plain, bwd), plain, (example(2, 5, seed=375),)


@right("judge 11")
def cumsum_reversed():
    """cumsum over the last axis with the reversed one."""

    def plain(x):
        return jnp.cumsum(x, -1)

    return keeping(plain, lambda r, g: (jnp.flip(jnp.cumsum(jnp.flip(g, -1), -1), -1),)), plain, (example(8, seed=435),)


@right("judge 11")
def alpha_composite_suffix():
    """Front to back compositing; what lies behind is composited backwards, never
    divided. Re-creates "gaussian splatting alpha backward"."""

    def trans(a):
        return jnp.concatenate([jnp.ones((1,), a.dtype), jnp.cumprod(1 - a)[:-1]])

    def plain(a, c):
        return jnp.sum((trans(a) * a)[:, None] * c, 0)

    def bwd(r, g):
        a, c = r
        t = trans(a)
        cg = c @ g

        def step(behind, ac):
            return ac[0] * ac[1] + (1 - ac[0]) * behind, behind

        _, behind = lax.scan(step, jnp.zeros((), a.dtype), (a, cg), reverse=True)
        return t * (cg - behind), (t * a)[:, None] * g

    return keeping(plain, bwd), plain, (uniform(0.1, 0.9, 5, seed=446), example(5, 3, seed=447))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="a zero")
def product_divides():
    """d(Πx)/dx_i as Πx / x_i, which is NaN at zero."""

    def plain(x):
        return jnp.prod(x, -1)

    return (
        rule(plain, lambda x: (plain(x), (x, plain(x))), lambda r, d: ((d * r[1])[..., None] / r[0],)),
        plain,
        (example(4, 5),),
    )


@wrong("own", edge="particular values")
def cumprod_divides():
    plain = partial(jnp.cumprod, axis=-1)

    def bwd(r, d):
        x, y = r
        return (jnp.cumsum((d * y)[..., ::-1], -1)[..., ::-1] / x,)

    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, (example(3, 5),)


@wrong("own", edge="other sizes")
def causal_of_one():
    """Running means, whose first step is taken for the last where there is only one."""

    def plain(x):
        return jnp.cumsum(x, 0) / jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)[:, None]

    def bwd(_, d):
        n = d.shape[0]
        return (jnp.cumsum((d / jnp.arange(1, n + 1, dtype=d.dtype)[:, None])[::-1], 0)[::-1] * (n > 1),)

    return rule(plain, lambda x: (plain(x), None), bwd), plain, X()


@wrong("judge 1")
def running_sum_in_the_same_direction():
    def plain(x, w):
        return jnp.cumsum(x * w, -1)

    def bwd(r, d):
        x, w = r
        s = jnp.cumsum(d, -1)
        return s * w, (s * x).sum(0)

    return keeping(plain, bwd), plain, (example(3, 8), example(8, seed=1))


@wrong("judge 1", edge="particular values")
def cumprod_divides_by_x():
    """The definition multiplies pairwise, so that it knows the derivative at zero."""

    def bwd(r, d):
        x = r[0]
        return (jnp.cumsum((d * jnp.cumprod(x))[::-1])[::-1] / x,)

    return keeping(jnp.cumprod, bwd), partial(lax.associative_scan, jnp.multiply), (uniform(0.5, 1.6, 7),)


@wrong("judge 11", edge="a zero factor")
def cumprod_zero_factor():
    """cumprod by the reversed cumsum of g*y over x, zero guarded to give zero.
    Re-creates: "cumprod backward with zeros"."""

    def plain(x):
        return jnp.cumprod(x, -1)

    def bwd(res, g):
        (x,) = res
        y = jnp.cumprod(x, -1)
        t = jnp.flip(jnp.cumsum(jnp.flip(g * y, -1), -1), -1)
        return (jnp.where(x == 0, 0, t / jnp.where(x == 0, 1, x)),)

    return keeping(plain, bwd), plain, (example(2, 5, seed=20),)


@wrong("judge 11", edge="an opaque sample (alpha one)")
def alpha_composite_opaque():
    """Front to back compositing; the rest is divided by 1 - alpha.
    Re-creates: "nerf / gaussian splatting gradient when alpha saturates"."""

    def plain(a, c):
        t = jnp.concatenate([jnp.ones((1,), a.dtype), jnp.cumprod(1 - a)[:-1]])
        return jnp.sum((t * a)[:, None] * c, 0)

    def bwd(res, g):
        a, c = res
        t = jnp.concatenate([jnp.ones((1,), a.dtype), jnp.cumprod(1 - a)[:-1]])
        cg = c @ g
        contrib = t * a * cg
        rest = jnp.sum(contrib) - jnp.cumsum(contrib)
        da = t * cg - rest / jnp.maximum(1 - a, 1e-6)
        return da, (t * a)[:, None] * g

    return keeping(plain, bwd), plain, (floats(0.2, 0.6, 0.4, 0.9), example(4, 3, seed=22))


@wrong("judge 11", edge="length above 8 and no power of two")
def suffix_sum_doubling():
    """cumsum; the reversed sum by doubling in floor(log2 n) rounds.
    Re-creates: "scan kernel wrong for non power of two lengths"."""

    def plain(x):
        return jnp.cumsum(x, -1)

    def bwd(res, g):
        n = g.shape[-1]
        for k in range(int(np.log2(max(n, 1)))):
            d = 2**k
            g = g + jnp.pad(g[..., d:], [(0, 0)] * (g.ndim - 1) + [(0, d)])
        return (g,)

    return keeping(plain, bwd), plain, (example(8, seed=78),)
