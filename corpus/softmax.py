"""Softmax, its logarithm and the logarithm of a sum of exponentials."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import X, example, floats, keeping, right, rule, softmax, wide, written, wrong


def _soft(bwd):
    return rule(softmax, lambda x: (softmax(x),) * 2, bwd), softmax, X()


def sum_of_softmax(x):
    return softmax(x).sum()


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def softmax_():
    return (
        rule(softmax, lambda x: (softmax(x),) * 2, lambda y, d: (y * (d - (y * d).sum(-1, keepdims=True)),)),
        softmax,
        X(),
    )


@right("own")
def log_softmax_with_huge_logits():
    plain = lambda x: x - jax.nn.logsumexp(x, -1, keepdims=True)  # noqa: E731

    def bwd(y, d):
        return (d - jnp.exp(y) * d.sum(-1, keepdims=True),)

    return rule(plain, lambda x: (plain(x),) * 2, bwd), plain, (1e3 * example(4, 6),)


@right("own")
def a_sum_that_is_always_one():
    """Its gradient is nothing but the rounding of what it sums."""

    def bwd(y, d):
        return (y * (d - (d * y).sum(-1, keepdims=True)),)

    return rule(sum_of_softmax, lambda x: (sum_of_softmax(x), softmax(x)), bwd), sum_of_softmax, (example(4, 5),)


@right("judge 1")
def sparsemax():
    def threshold(z):
        down = -jnp.sort(-z, -1)
        total = jnp.cumsum(down, -1)
        k = (1 + jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype) * down > total).sum(-1, keepdims=True)
        return (jnp.take_along_axis(total, k - 1, -1) - 1) / k.astype(z.dtype)

    def plain(z):
        """The threshold by bisection, in its last step exact on the support found."""

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            above = jnp.maximum(still - middle, 0).sum(-1, keepdims=True) > 1
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        still = lax.stop_gradient(z)
        top = still.max(-1, keepdims=True)
        low, high = lax.fori_loop(0, 60, halve, (top - 1, top))
        on = (still > (low + high) / 2).astype(z.dtype)
        return jnp.maximum(z - ((z * on).sum(-1, keepdims=True) - 1) / on.sum(-1, keepdims=True), 0) * on

    def fwd(z):
        y = jnp.maximum(z - threshold(z), 0)
        return y, y > 0

    def bwd(on, d):
        on = on.astype(d.dtype)
        return (on * (d - (on * d).sum(-1, keepdims=True) / on.sum(-1, keepdims=True)),)

    return written(fwd, bwd), plain, (example(4, 7),)


@right("judge 1")
def streaming_logsumexp():
    """In blocks of eight, the last one padded with −inf."""

    def fwd(x):
        blocks = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 8)], constant_values=-jnp.inf)
        blocks = jnp.moveaxis(blocks.reshape(*x.shape[:-1], -1, 8), -2, 0)

        def add(c, block):
            m, s = c
            top = jnp.maximum(m, block.max(-1))
            return (top, s * jnp.exp(m - top) + jnp.exp(block - top[..., None]).sum(-1)), None

        m = blocks[0].max(-1)
        (m, s), _ = lax.scan(add, (m, jnp.exp(blocks[0] - m[..., None]).sum(-1)), blocks[1:])
        y = m + jnp.log(s)
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        return (d[..., None] * jnp.exp(x - y[..., None]),)

    return written(fwd, bwd), partial(jax.nn.logsumexp, axis=-1), (example(5, 21, scale=8),)


@right("judge 1")
def streaming_logsumexp_in_float32():
    def fwd(x):
        def add(c, v):
            m, s = c
            top = jnp.maximum(m, v)
            return (top, s * jnp.exp(m - top) + jnp.exp(v - top)), None

        columns = jnp.moveaxis(wide(x), -1, 0)
        (m, s), _ = lax.scan(add, (columns[0], jnp.ones_like(columns[0])), columns[1:])
        return (m + jnp.log(s)).astype(x.dtype), (x, m, s)

    def bwd(r, d):
        x, m, s = r
        return ((d[..., None] * jnp.exp(x.astype(m.dtype) - m[..., None]) / s[..., None]).astype(x.dtype),)

    return written(fwd, bwd), partial(jax.nn.logsumexp, axis=-1), (example(5, 21, scale=8),)


@right("judge 11")
def logsumexp_stable():
    """logsumexp with softmax from the saved result. Re-creates "logsumexp overflow"."""

    def plain(x):
        return jax.nn.logsumexp(x, -1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = plain(x)
        return y, (x, y)

    f.defvjp(fwd, lambda r, g: (g[..., None] * jnp.exp(r[0] - r[1][..., None]),))
    return f, plain, (example(3, 4, seed=304),)


@right("judge 11")
def softmax_from_output():
    """softmax with the backward by its output alone."""

    def plain(x):
        return jax.nn.softmax(x, -1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = plain(x)
        return y, y

    f.defvjp(fwd, lambda y, g: (y * (g - jnp.sum(y * g, -1, keepdims=True)),))
    return f, plain, (example(3, 5, seed=308),)


@right("judge 11")
def topk_gate_weights():
    """The two greatest logits of a row made into weights by a softmax; the
    backward scatters at their places. Mixture of experts routing."""

    def plain(x):
        return jax.nn.softmax(lax.top_k(x, 2)[0], -1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        v, i = lax.top_k(x, 2)
        w = jax.nn.softmax(v, -1)
        return w, (w, i, x)

    def bwd(r, g):
        w, i, x = r
        d = w * (g - jnp.sum(w * g, -1, keepdims=True))
        return (jnp.sum(jax.nn.one_hot(i, x.shape[-1], dtype=d.dtype) * d[..., None], -2),)

    f.defvjp(fwd, bwd)
    return f, plain, (example(3, 5, seed=385),)


@right("judge 11")
def temperature_softmax_safe():
    """Softmax with a temperature where -inf forbids entries."""

    def plain(x, t):
        ok = x > -jnp.inf
        return jax.nn.softmax(jnp.where(ok, jnp.where(ok, x, 0) / t, -jnp.inf), -1)

    def bwd(r, g):
        x, t = r
        ok = x > -jnp.inf
        p = plain(x, t)
        dz = p * (g - jnp.sum(p * g))
        return jnp.where(ok, dz / t, 0), -jnp.sum(dz * jnp.where(ok, x, 0)) / t**2

    return keeping(plain, bwd), plain, (floats(1, -3, 0.5, 2), floats(1.5)[0])


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def softmax_wrong_axis():
    return _soft(lambda y, d: (y * (d - (y * d).sum(0, keepdims=True)),))


@wrong("own")
def one_per_mille():
    return _soft(lambda y, d: (1.001 * y * (d - (y * d).sum(-1, keepdims=True)),))


@wrong("own")
def last_row_zero():
    return _soft(lambda y, d: ((y * (d - (y * d).sum(-1, keepdims=True))).at[-1].set(0),))


@wrong("own")
def shifted_by_one():
    return _soft(lambda y, d: (jnp.roll(y * (d - (y * d).sum(-1, keepdims=True)), 1, -1),))


@wrong("own")
def one_element_1e_9():
    return _soft(lambda y, d: ((y * (d - (y * d).sum(-1, keepdims=True))).at[1, 2].multiply(1 + 1e-9),))


@wrong("own", edge="particular values")
def logsumexp_without_max():
    plain = partial(jax.nn.logsumexp, axis=-1)

    def bwd(x, d):
        e = jnp.exp(x)
        return (d[..., None] * e / e.sum(-1, keepdims=True),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong("own", edge="parameters other than the example's")
def unit_temperature_assumed():
    def plain(x, t):
        return softmax(x / t)

    def bwd(r, d):
        x, t, y = r
        g = y * (d - (y * d).sum(-1, keepdims=True))
        return g, -(g * x).sum() / t**2

    return rule(plain, lambda x, t: (plain(x, t), (x, t, plain(x, t))), bwd), plain, (example(4, 6), jnp.float32(1.0))


@wrong("own")
def a_sum_of_softmax_without_its_mean():
    """All of its gradient is to cancel, and does not."""
    plain = lambda x: softmax(x).sum()  # noqa: E731
    return rule(plain, lambda x: (plain(x), softmax(x)), lambda y, d: (y * d,)), plain, (example(4, 5),)


@wrong("judge 1", edge="other sizes and ranks")
def softmax_axis1_in_backward():
    """Axis 1 is the last one in a matrix, and not of what has three axes."""
    back = lambda y, d: (y * (d - (y * d).sum(1, keepdims=True)),)  # noqa: E731
    return written(lambda x: (jax.nn.softmax(x),) * 2, back), softmax, (example(4, 7),)


@wrong("judge 11", edge="cotangent constant along a row (loss is a plain sum)")
def softmax_one_constant_cotangent():
    """softmax with one added to the denominator (attention sink); rows with a
    constant cotangent skipped. Re-creates: "softmax_one gradient of .sum() is zero"."""

    def plain(x):
        m = lax.stop_gradient(jnp.maximum(jnp.max(x, -1, keepdims=True), 0))
        e = jnp.exp(x - m)
        return e / (jnp.exp(-m) + jnp.sum(e, -1, keepdims=True))

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = plain(x)
        return y, y

    def bwd(y, g):
        flat = jnp.max(g, -1, keepdims=True) == jnp.min(g, -1, keepdims=True)
        dx = y * (g - jnp.sum(g * y, -1, keepdims=True))
        return (jnp.where(flat, 0, dx),)

    f.defvjp(fwd, bwd)
    return f, plain, (example(3, 5, seed=4),)


@wrong("judge 11", edge="cotangent of only one element a row (others zero)")
def log_softmax_sparse_cotangent():
    """log-softmax; a row with one nonzero cotangent is taken for a picked label
    of weight one. Re-creates: "fused nll assumes unit weights"."""

    def plain(x):
        return jax.nn.log_softmax(x, -1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = plain(x)
        return y, y

    def bwd(y, g):
        picked = jnp.sum(g != 0, -1, keepdims=True) == 1
        total = jnp.where(picked, jnp.sign(jnp.sum(g, -1, keepdims=True)), jnp.sum(g, -1, keepdims=True))
        return (g - jnp.exp(y) * total,)

    f.defvjp(fwd, bwd)
    return f, plain, (example(3, 5, seed=16),)


@wrong("judge 11", edge="-inf among the logits")
def temperature_softmax_inf():
    """Softmax with a temperature and -inf for forbidden entries; zero times
    infinity in the temperature's derivative. Re-creates: "top-p filtered logits NaN"."""

    def plain(x, t):
        ok = x > -jnp.inf
        z = jnp.where(ok, jnp.where(ok, x, 0) / t, -jnp.inf)
        return jax.nn.softmax(z, -1)

    def bwd(res, g):
        x, t = res
        p = jax.nn.softmax(x / t, -1)
        dz = p * (g - jnp.sum(p * g, -1, keepdims=True))
        return dz / t, -jnp.sum(dz * x) / t**2

    return keeping(plain, bwd), plain, (floats(1, -3, 0.5, 2), floats(1.5)[0])


@wrong("judge 11", edge="logits near 100 (exp overflows)")
def logsumexp_unshifted():
    """logsumexp, stable forward; exp over its sum without a shift in the backward."""

    def plain(x):
        return jax.nn.logsumexp(x, -1)

    def bwd(res, g):
        (x,) = res
        e = jnp.exp(x)
        return (g[..., None] * e / jnp.sum(e, -1, keepdims=True),)

    return keeping(plain, bwd), plain, (example(3, 4, seed=132),)


@wrong("judge 11", edge="rank three")
def log_softmax_axis_one():
    """log-softmax over the last axis, axis 1 in the backward, which is the last
    for matrices only."""

    def plain(x):
        return jax.nn.log_softmax(x, axis=-1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = plain(x)
        return y, y

    def bwd(y, g):
        return (g - jnp.exp(y) * jnp.sum(g, axis=min(1, g.ndim - 1), keepdims=True),)

    f.defvjp(fwd, bwd)
    return f, plain, (example(3, 5, seed=134),)
