"""Attention, norms, rotary embeddings."""

from functools import partial

import jax
import jax.numpy as jnp

from corpus.common import example, integers, keeping, positive, right, rule, unbroadcast, wide, written, wrong

# attention ------------------------------------------------------------------------------------------------------------


def _masked_attention(q, k, v, mask):
    s = jnp.where(mask, q @ k.T / q.shape[-1] ** 0.5, -jnp.inf)
    m = jax.lax.stop_gradient(jnp.maximum(s.max(-1, keepdims=True), -1e30))
    p = jnp.where(mask, jnp.exp(jnp.where(mask, s - m, 0.0)), 0.0)
    return p @ v / jnp.maximum(p.sum(-1, keepdims=True), 1e-30)


_QKV = lambda: (example(5, 4), example(6, 4, seed=1), example(6, 3, seed=2))  # noqa: E731


@wrong("judge 12", "a row of the mask that is all false")
def masked_attention_big_negative():
    """The probabilities are made anew from scores of -1e30, which give a row without a key ones instead of zeros."""

    def scores(q, k, mask):
        return jnp.where(mask, q @ k.T / q.shape[-1] ** 0.5, -1e30)

    def fwd(q, k, v, mask):
        o = _masked_attention(q, k, v, mask)
        return o, (q, k, v, mask, o, jax.nn.logsumexp(scores(q, k, mask), -1))

    def bwd(r, d):
        q, k, v, mask, o, lse = r
        p = jnp.exp(scores(q, k, mask) - lse[:, None])
        ds = p * (d @ v.T - (d * o).sum(-1, keepdims=True)) / q.shape[-1] ** 0.5
        return ds @ k, ds.T @ q, p.T @ d, None

    mask = jnp.asarray([[1, 1, 0, 1, 0, 1], [0, 1, 1, 0, 1, 1], [1] * 6, [0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 1]], bool)
    return rule(_masked_attention, fwd, bwd), _masked_attention, (*_QKV(), mask)


@right("judge 12")
def masked_attention_empty_rows_kept_zero():
    """A row without a key has a normaliser of 1 in the residuals."""

    def fwd(q, k, v, mask):
        s = jnp.where(mask, q @ k.T / q.shape[-1] ** 0.5, -jnp.inf)
        some = mask.any(-1, keepdims=True)
        lse = jnp.where(some, jax.nn.logsumexp(s, -1, keepdims=True), 0.0)
        p = jnp.exp(s - lse)
        return p @ v, (q, k, v, p)

    def bwd(r, d):
        q, k, v, p = r
        dp = d @ v.T
        ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
        return ds @ k, ds.T @ q, p.T @ d, None

    mask = jnp.asarray([[1, 1, 0, 1, 0, 1], [0] * 6, [1] * 6, [0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 1]], bool)
    return written(fwd, bwd), _masked_attention, (*_QKV(), mask)


@wrong("judge 12", "more than one head of keys")
def grouped_query_heads_summed_interleaved():
    """The query heads of a key head are added up as if they lay interleaved, though they are neighbours."""

    def attend(q, k, v):
        p = jax.nn.softmax(jnp.einsum("hqd,hkd->hqk", q, k), -1)
        return jnp.einsum("hqk,hkd->hqd", p, v), p

    def plain(q, k, v):
        n = q.shape[0] // k.shape[0]
        return attend(q, jnp.repeat(k, n, 0), jnp.repeat(v, n, 0))[0]

    def bwd(r, d):
        q, k, v = r
        n = q.shape[0] // k.shape[0]
        kk, vv = jnp.repeat(k, n, 0), jnp.repeat(v, n, 0)
        o, p = attend(q, kk, vv)
        ds = p * (jnp.einsum("hqd,hkd->hqk", d, vv) - (d * o).sum(-1)[..., None])
        dk = jnp.einsum("hqk,hqd->hkd", ds, q).reshape(n, *k.shape).sum(0)
        dv = jnp.einsum("hqk,hqd->hkd", p, d).reshape(n, *v.shape).sum(0)
        return jnp.einsum("hqk,hkd->hqd", ds, kk), dk, dv

    return keeping(plain, bwd), plain, (example(4, 3, 4), example(1, 5, 4, seed=1), example(1, 5, 4, seed=2))


@wrong("judge 12", "a number of keys that is not a multiple of the block of 4")
def blocked_attention_drops_tail():
    """The loop of the backward pass over blocks of keys leaves out the last, partial block."""

    def plain(q, k, v):
        return jax.nn.softmax(q @ k.T, -1) @ v

    def fwd(q, k, v):
        o = plain(q, k, v)
        return o, (q, k, v, o, jax.nn.logsumexp(q @ k.T, -1, keepdims=True))

    def bwd(r, d):
        q, k, v, o, lse = r
        delta = (d * o).sum(-1, keepdims=True)
        dq, dk, dv = jnp.zeros_like(q), jnp.zeros_like(k), jnp.zeros_like(v)
        for j in range(0, k.shape[0] // 4 * 4, 4):
            at = slice(j, j + 4)
            p = jnp.exp(q @ k[at].T - lse)
            ds = p * (d @ v[at].T - delta)
            dq += ds @ k[at]
            dk, dv = dk.at[at].set(ds.T @ q), dv.at[at].set(p.T @ d)
        return dq, dk, dv

    return rule(plain, fwd, bwd), plain, (example(5, 4), example(8, 4, seed=1), example(8, 3, seed=2))


@wrong("judge 12")
def softcapped_attention_without_cap_slope():
    """The slope of the cap on the scores is taken at the capped score instead of the raw one."""
    cap = 5.0

    def plain(q, k, v):
        return jax.nn.softmax(cap * jnp.tanh(q @ k.T / cap), -1) @ v

    def bwd(r, d):
        q, k, v = r
        capped = cap * jnp.tanh(q @ k.T / cap)
        p = jax.nn.softmax(capped, -1)
        dp = d @ v.T
        ds = p * (dp - (p * dp).sum(-1, keepdims=True))
        ds = ds * (1 - jnp.tanh(capped / cap) ** 2)
        return ds @ k, ds.T @ q, p.T @ d

    return keeping(plain, bwd), plain, _QKV()


@right("judge 12")
def causal_linear_attention_two_sums():
    """Both ways by running sums of outer products; the one for keys and values runs backwards."""

    def plain(q, k, v):
        n = q.shape[0]
        return jnp.where(jnp.tri(n, dtype=bool), q @ k.T, 0.0) @ v

    def fwd(q, k, v):
        state = jnp.cumsum(k[:, :, None] * v[:, None, :], 0)
        return jnp.einsum("td,tde->te", q, state), (q, k, v, state)

    def bwd(r, d):
        q, k, v, state = r
        back = jnp.cumsum((q[:, :, None] * d[:, None, :])[::-1], 0)[::-1]
        return (
            jnp.einsum("te,tde->td", d, state),
            jnp.einsum("tde,te->td", back, v),
            jnp.einsum("tde,td->te", back, k),
        )

    return written(fwd, bwd), plain, (example(6, 4), example(6, 4, seed=1), example(6, 3, seed=2))


# norms ----------------------------------------------------------------------------------------------------------------


@wrong("judge 12", "rows that are tiny or zero")
def rms_norm_eps_forgotten_backward():
    """The backward pass makes the reciprocal root mean square anew without epsilon."""

    def plain(x, g):
        return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * g

    def bwd(r, d):
        x, g = r
        rms = 1 / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True))
        n = x * rms
        t = d * g
        return rms * (t - n * jnp.mean(t * n, -1, keepdims=True)), (d * n).sum(0)

    return keeping(plain, bwd), plain, (example(5, 6), 1 + 0.2 * example(6, seed=1))


@wrong("judge 12", "a vector shorter than epsilon, yet not zero")
def unit_vectors_clamp_not_differentiated():
    """Where epsilon stands for the length, the length is still differentiated."""
    eps = 1e-3

    def plain(x):
        return x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), eps**2))

    def fwd(x):
        n = jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), eps**2))
        return x / n, (x / n, n)

    def bwd(r, d):
        y, n = r
        return ((d - y * (y * d).sum(-1, keepdims=True)) / n,)

    return written(fwd, bwd), plain, (example(5, 4),)


@wrong("judge 12", "a gain of zero")
def layer_norm_inverted_from_output():
    """The normalised input is recovered from the output by a division by the gain, which may be zero."""

    def plain(x, g, b):
        c = x - x.mean(-1, keepdims=True)
        return c / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-5) * g + b

    def fwd(x, g, b):
        y = plain(x, g, b)
        return y, (y, g, b, 1 / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5))

    def bwd(r, d):
        y, g, b, inverse = r
        n = (y - b) / jnp.where(g == 0, 1e-6, g)
        t = d * g
        dx = inverse * (t - t.mean(-1, keepdims=True) - n * (t * n).mean(-1, keepdims=True))
        return dx, (d * n).sum(0), d.sum(0)

    return rule(plain, fwd, bwd), plain, (example(5, 6), 1 + 0.2 * example(6, seed=1), example(6, seed=2))


@right("judge 12")
def group_norm_channels_last_wide():
    """Sums in float32; the gain's and the bias's gradients over all axes but the channels."""

    def split(x):
        return wide(x).reshape(x.shape[0], -1, 2, x.shape[-1] // 2)

    def plain(x, g, b):
        s = split(x)
        c = s - s.mean((1, 3), keepdims=True)
        n = c / jnp.sqrt((c * c).mean((1, 3), keepdims=True) + 1e-5)
        return (n.reshape(x.shape) * g + b).astype(x.dtype)

    def fwd(x, g, b):
        s = split(x)
        mean = s.mean((1, 3), keepdims=True)
        inverse = jax.lax.rsqrt(s.var((1, 3), keepdims=True) + 1e-5)
        y = ((s - mean) * inverse).reshape(x.shape) * g + b
        return y.astype(x.dtype), (x, g, b, mean, inverse)

    def bwd(r, d):
        x, g, b, mean, inverse = r
        n = (split(x) - mean) * inverse
        t = split(wide(d) * g)
        dx = inverse * (t - t.mean((1, 3), keepdims=True) - n * (t * n).mean((1, 3), keepdims=True))
        axes = tuple(range(x.ndim - 1))
        dg = (wide(d) * n.reshape(x.shape)).sum(axes)
        return dx.reshape(x.shape).astype(x.dtype), dg.astype(g.dtype), wide(d).sum(axes).astype(b.dtype)

    return written(fwd, bwd), plain, (example(2, 5, 6), 1 + 0.3 * example(6, seed=1), example(6, seed=2))


# rotary embeddings and temperatures -----------------------------------------------------------------------------------


@right("judge 12")
def rotary_by_opposite_angle():
    """Positions are integers and may be negative; the backward pass turns by the opposite angle."""

    def turn(x, positions, way):
        h = x.shape[-1] // 2
        a = positions[:, None] * 100.0 ** (-jnp.arange(h) / h)
        c, s = jnp.cos(a), way * jnp.sin(a)
        return jnp.concatenate([x[:, :h] * c - x[:, h:] * s, x[:, h:] * c + x[:, :h] * s], -1)

    plain = partial(turn, way=1.0)
    f = rule(lambda x, p: plain(x, p), lambda x, p: (plain(x, p), p), lambda p, d: (turn(d, p, -1.0), None))
    return f, plain, (example(5, 6), integers(0, 1, 2, 7, 3))


@wrong("judge 12", "a rotated width less than the whole head")
def partial_rotary_tail_lost():
    """The features beyond the rotated width, which pass unchanged, get no gradient from it."""

    def turn(x, a, way):
        h = a.shape[-1]
        c, s = jnp.cos(a), way * jnp.sin(a)
        return jnp.concatenate([x[:, :h] * c - x[:, h : 2 * h] * s, x[:, h : 2 * h] * c + x[:, :h] * s], -1)

    def plain(x, a):
        return jnp.concatenate([turn(x, a, 1.0), x[:, 2 * a.shape[-1] :]], -1)

    def bwd(r, d):
        x, a = r
        h = a.shape[-1]
        y = turn(x, a, 1.0)
        dx = jnp.zeros_like(x).at[:, : 2 * h].set(turn(d, a, -1.0))
        return dx, d[:, h : 2 * h] * y[:, :h] - d[:, :h] * y[:, h:]

    return keeping(plain, bwd), plain, (example(5, 6), example(5, 3, seed=1))


@right("judge 12")
def softmax_with_positive_temperature():
    """The temperature's gradient from the outputs' entropy terms; one temperature a row or one for all."""

    def plain(x, t):
        return jax.nn.softmax(x / t, -1)

    def fwd(x, t):
        z = x / t
        z = z - z.max(-1, keepdims=True)
        p = jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True)
        return p, (p, z, t)

    def bwd(r, d):
        p, z, t = r
        dz = p * (d - (p * d).sum(-1, keepdims=True))
        return dz / t, unbroadcast(-dz * z / t, t.shape)

    return written(fwd, bwd), plain, (example(4, 6), positive(4, 1) + 0.3)
