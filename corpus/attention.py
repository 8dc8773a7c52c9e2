"""Attention, causal and with many heads, and rotary embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import example, keeping, right, rule, softmax, softmax_back, written, wrong


def attended(q, k, v):
    s = jnp.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("hts,hsd->htd", softmax(s), v)


def rotated(x, c, s):
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * c - b * s, b * c + a * s], -1)


QKV = lambda heads: tuple(example(h, 6, 4, seed=i) for i, h in enumerate(heads))  # noqa: E731


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def attention():
    def plain(q, k, v):
        s = jnp.einsum("hqd,hkd->hqk", q, k) / q.shape[-1] ** 0.5
        s = jnp.where(jnp.tril(jnp.ones(s.shape[-2:], bool)), s, -jnp.inf)
        return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(s), v)

    def fwd(q, k, v):
        s = jnp.einsum("hqd,hkd->hqk", q, k) / q.shape[-1] ** 0.5
        s = jnp.where(jnp.tril(jnp.ones(s.shape[-2:], bool)), s, -jnp.inf)
        p = jax.nn.softmax(s)
        return p @ v, (q, k, v, p)

    def bwd(r, d):
        q, k, v, p = r
        dp = jnp.einsum("hqd,hkd->hqk", d, v)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / q.shape[-1] ** 0.5
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    return rule(plain, fwd, bwd), plain, tuple(example(2, 5, 4, seed=i) for i in range(3))


@right("judge 1")
def rotary_by_complex_numbers():
    def angle(x, at):
        return at.astype(x.dtype)[:, None] * 100.0 ** (-jnp.arange(0, x.shape[-1], 2, dtype=x.dtype) / x.shape[-1])

    def plain(x, at):
        c, s = jnp.cos(angle(x, at)), jnp.sin(angle(x, at))
        a, b = x[..., ::2], x[..., 1::2]
        return jnp.zeros_like(x).at[..., ::2].set(a * c - b * s).at[..., 1::2].set(a * s + b * c)

    def turned(x, at, sign):
        if x.shape[-1] % 2:
            raise ValueError("the last axis must be even")
        phase = sign * angle(x, at)
        z = lax.complex(x[..., ::2], x[..., 1::2]) * lax.complex(jnp.cos(phase), jnp.sin(phase))
        return jnp.stack([z.real, z.imag], -1).reshape(x.shape)

    f = written(lambda x, at: (turned(x, at, 1), at), lambda at, d: (turned(d, at, -1), None))
    return f, plain, (example(2, 5, 6), jnp.arange(3, 8, dtype=jnp.int32))


@right("judge 1")
def flash_attention_causal_blocks():
    """Blocks of eight with a running maximum; lengths that are no multiple are refused."""
    block, none = 8, -1e30

    def causal(q, k, v):
        s = jnp.einsum("hqd,hkd->hqk", q, k) / q.shape[-1] ** 0.5
        return softmax(jnp.where(jnp.tril(jnp.ones(s.shape[-2:], bool)), s, -jnp.inf)) @ v

    def fwd(q, k, v):
        h, n, width = q.shape
        if n % block or k.shape != q.shape or v.shape != q.shape:
            raise ValueError(f"expected three of one shape, the length a multiple of {block}")
        blocks = lambda x: x.reshape(h, -1, block, width).swapaxes(0, 1)  # noqa: E731
        at = jnp.arange(n).reshape(-1, block)

        def row(now):
            rows, q = now

            def add(c, now):
                columns, k, v = now
                m, s, y = c
                z = jnp.einsum("hqd,hkd->hqk", q, k) / width**0.5
                z = jnp.where(rows[:, None] >= columns, z, none)
                top = jnp.maximum(m, z.max(-1))
                p, old = jnp.exp(z - top[..., None]), jnp.exp(m - top)
                return (top, s * old + p.sum(-1), y * old[..., None] + jnp.einsum("hqk,hkd->hqd", p, v)), None

            zero = jnp.zeros((h, block), q.dtype)
            start = zero + none, zero, jnp.zeros_like(q)
            (m, s, y), _ = lax.scan(add, start, (at, blocks(k), blocks(v)))
            return y / s[..., None], m + jnp.log(s)

        y, total = lax.map(row, (at, blocks(q)))
        y = y.swapaxes(0, 1).reshape(q.shape)
        return y, (q, k, v, y, total.swapaxes(0, 1).reshape(h, n))

    def bwd(r, d):
        q, k, v, y, total = r
        n, scale = q.shape[1], q.shape[-1] ** 0.5
        z = jnp.einsum("hqd,hkd->hqk", q, k) / scale
        p = jnp.where(jnp.tril(jnp.ones((n, n), bool)), jnp.exp(z - total[..., None]), 0)
        ds = p * (jnp.einsum("hqd,hkd->hqk", d, v) - (d * y).sum(-1, keepdims=True)) / scale
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    return written(fwd, bwd), causal, tuple(example(2, 16, 4, seed=i) for i in range(3))


@right("judge 1")
def attention_with_cross_lengths():
    def bwd(r, d):
        q, k, v = r
        p = softmax(jnp.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5)
        ds = softmax_back(p, jnp.einsum("htd,hsd->hts", d, v)) / q.shape[-1] ** 0.5
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    args = example(2, 3, 4), example(2, 5, 4, seed=1), example(2, 5, 4, seed=2)
    return keeping(attended, bwd), attended, args


@right("judge 2")
def more_queries_than_keys():
    """Causal attention aligned at the end: queries before the first key have none, and the definition is NaN there."""

    def scores(q, k):
        seen = jnp.arange(len(k)) <= jnp.arange(len(q))[:, None] + len(k) - len(q)
        return jnp.where(seen, q @ k.T / q.shape[1] ** 0.5, -jnp.inf)

    def plain(q, k, v):
        return softmax(scores(q, k)) @ v

    def fwd(q, k, v):
        m = jax.scipy.special.logsumexp(scores(q, k), -1, keepdims=True)
        y = jnp.exp(scores(q, k) - m) @ v
        return y, (q, k, v, y, m)

    def bwd(r, d):
        q, k, v, y, m = r
        p = jnp.exp(scores(q, k) - m)
        e = p * (d @ v.T - (d * y).sum(-1, keepdims=True)) / q.shape[1] ** 0.5
        return e @ k, e.T @ q, p.T @ d

    return written(fwd, bwd), plain, (example(7, 4), example(7, 4, seed=1), example(7, 3, seed=2))


@right("judge 3")
def pages_up_to_a_length():
    """Keys are read through a table of pages, as many as a length says, which is never none."""

    def scores(q, pages, table, length):
        k = pages[table].reshape(len(q), -1, q.shape[-1])
        s = jnp.einsum("bd,bsd->bs", q, k)
        return k, softmax(jnp.where(jnp.arange(s.shape[1]) < length[:, None], s, -1e30))

    def plain(q, pages, table, length):
        k, p = scores(q, pages, table, length)
        return jnp.einsum("bs,bsd->bd", p, k)

    def bwd(r, d):
        q, pages, table, length = r
        k, p = scores(q, pages, table, length)
        g = softmax_back(p, jnp.einsum("bd,bsd->bs", d, k))
        dk = p[..., None] * d[:, None] + g[..., None] * q[:, None]
        dpages = jnp.zeros_like(pages).at[table].add(dk.reshape(*table.shape, *pages.shape[1:]))
        return jnp.einsum("bs,bsd->bd", g, k), dpages, None, None

    table, length = jnp.asarray([[0, 2], [3, 1]]), jnp.asarray([3, 5])
    return keeping(plain, bwd), plain, (example(2, 4), example(4, 3, 4, seed=1), table, length)


@right("judge 11")
def causal_attention_lse():
    """Attention, causal from the lower right corner, backward from the logsumexp;
    rows without keys give zero and get zero."""

    def scores(q, k):
        n, m = q.shape[0], k.shape[0]
        ok = np.arange(m)[None] <= np.arange(n)[:, None] + (m - n)
        return q @ k.T / np.sqrt(q.shape[1]).astype(q.dtype), ok

    def plain(q, k, v):
        s, ok = scores(q, k)
        p = jax.nn.softmax(jnp.where(ok, s, -1e30), -1)
        return jnp.where(ok.any(-1, keepdims=True), p, 0) @ v

    f = jax.custom_vjp(plain)

    def fwd(q, k, v):
        s, ok = scores(q, k)
        lse = jax.nn.logsumexp(jnp.where(ok, s, -1e30), -1, keepdims=True)
        o = jnp.where(ok, jnp.exp(jnp.where(ok, s - lse, 0)), 0) @ v
        return o, (q, k, v, o, lse)

    def bwd(r, g):
        q, k, v, o, lse = r
        s, ok = scores(q, k)
        p = jnp.where(ok, jnp.exp(jnp.where(ok, s - lse, 0)), 0)
        delta = jnp.sum(g * o, -1, keepdims=True)
        ds = p * (g @ v.T - delta) / np.sqrt(q.shape[1]).astype(q.dtype)
        return ds @ k, ds.T @ q, p.T @ g

    f.defvjp(fwd, bwd)
    return f, plain, (example(5, 4, seed=510), example(5, 4, seed=511), example(5, 3, seed=512))


@right("judge 11")
def rotary_any_width():
    """Rotary embedding of pairs, an odd last feature passing through."""

    def turn(x, sgn):
        t, d = x.shape
        h = d // 2
        ang = np.arange(t)[:, None] * (10000.0 ** (-np.arange(h) / max(h, 1)))[None]
        c, s = jnp.cos(ang).astype(x.dtype), sgn * jnp.sin(ang).astype(x.dtype)
        a, b = x[:, :h], x[:, h : 2 * h]
        return jnp.concatenate([a * c - b * s, a * s + b * c, x[:, 2 * h :]], 1)

    def plain(x):
        return turn(x, 1)

    f = jax.custom_vjp(plain)
    f.defvjp(lambda x: (plain(x), None), lambda _, g: (turn(g, -1),))
    return f, plain, (example(4, 6, seed=580),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 1")
def keys_not_scaled():
    def bwd(r, d):
        q, k, v = r
        p = softmax(jnp.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5)
        ds = softmax_back(p, jnp.einsum("htd,hsd->hts", d, v))
        return ds @ k / q.shape[-1] ** 0.5, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    return keeping(attended, bwd), attended, QKV((2, 2, 2))


@wrong("judge 1")
def rotated_again():
    def table(x):
        t, h = x.shape[0], x.shape[1] // 2
        angle = (jnp.arange(t)[:, None] * 100.0 ** (-jnp.arange(h) / h)).astype(x.dtype)
        return jnp.cos(angle), jnp.sin(angle)

    def plain(x):
        return rotated(x, *table(x))

    return keeping(plain, lambda r, d: (rotated(d, *table(d)),)), plain, (example(9, 8),)


@wrong("judge 1", edge="other sizes and ranks")
def gqa_group_order():
    """Query heads share keys in groups of neighbours; the backward pass adds up every n-th. One each in the example."""

    def spread(k, q):
        return jnp.repeat(k, q.shape[0] // k.shape[0], 0)

    def plain(q, k, v):
        return attended(q, spread(k, q), spread(v, q))

    def bwd(r, d):
        q, k, v = r
        ks, vs = spread(k, q), spread(v, q)
        p = softmax(jnp.einsum("htd,hsd->hts", q, ks) / q.shape[-1] ** 0.5)
        ds = softmax_back(p, jnp.einsum("htd,hsd->hts", d, vs)) / q.shape[-1] ** 0.5
        fold = lambda t: t.reshape(-1, *k.shape).sum(0)  # noqa: E731
        return ds @ ks, fold(ds.swapaxes(1, 2) @ q), fold(p.swapaxes(1, 2) @ d)

    return keeping(plain, bwd), plain, QKV((2, 2, 2))


@wrong("judge 1", edge="a setting that is not its default")
def causal_flag_ignored():
    def weights(q, k, causal):
        s = q @ k.T / q.shape[-1] ** 0.5
        return softmax(jnp.where(jnp.tril(jnp.ones(s.shape, bool)), s, -1e30) if causal else s)

    def plain(q, k, v, causal):
        return weights(q, k, causal) @ v

    def bwd(causal, r, d):
        q, k, v = r
        p = weights(q, k, False)
        ds = softmax_back(p, d @ v.T) / q.shape[-1] ** 0.5
        return ds @ k, ds.T @ q, p.T @ d

    return keeping(plain, bwd, 3), plain, (*(example(5, 4, seed=i) for i in range(3)), False)


@wrong("judge 3", edge="several heads of keys")
def heads_folded_in_the_other_order():
    """Several heads of queries to each of keys; the example has one of keys."""

    def plain(q, k):
        return jnp.einsum("htd,hsd->hts", q, jnp.repeat(k, len(q) // len(k), 0))

    def bwd(r, d):
        q, k = r
        dk = jnp.einsum("hts,htd->hsd", d, q)
        dq = jnp.einsum("hts,hsd->htd", d, jnp.repeat(k, len(q) // len(k), 0))
        return dq, dk.reshape(len(q) // len(k), *k.shape).sum(0)

    return keeping(plain, bwd), plain, (example(4, 3, 5), example(1, 2, 5, seed=1))


@wrong("judge 11", edge="more queries than keys (first rows see nothing)")
def causal_attention_long_queries():
    """Attention, causal from the lower right corner; rows without keys give zero,
    yet the backward spreads them. Re-creates: "flash attention causal seqlen_q > seqlen_k"."""

    def scores(q, k):
        n, m = q.shape[0], k.shape[0]
        s = q @ k.T / np.sqrt(q.shape[1]).astype(q.dtype)
        ok = np.arange(m)[None, :] <= np.arange(n)[:, None] + (m - n)
        return s, ok

    def plain(q, k, v):
        s, ok = scores(q, k)
        s = jnp.where(ok, s, -1e30)
        p = jax.nn.softmax(s, -1)
        return jnp.where(ok.any(-1, keepdims=True), p, 0) @ v

    def bwd(res, g):
        q, k, v = res
        s, ok = scores(q, k)
        s = jnp.where(ok, s, -1e30)
        lse = jax.nn.logsumexp(s, -1, keepdims=True)
        p = jnp.exp(s - lse)
        dv = p.T @ g
        dp = g @ v.T
        ds = p * (dp - jnp.sum(p * dp, -1, keepdims=True)) / np.sqrt(q.shape[1]).astype(q.dtype)
        ds = jnp.where(ok, ds, 0)
        return ds @ k, ds.T @ q, dv

    return keeping(plain, bwd), plain, (example(5, 4, seed=36), example(5, 4, seed=37), example(5, 3, seed=38))


@wrong("judge 11", edge="an odd last axis")
def rotary_odd_width():
    """Rotary embedding of pairs, an odd last feature passing as it is; its
    cotangent is lost. Re-creates: "partial rotary backward"."""

    def turn(x, sgn):
        t, d = x.shape
        h = d // 2
        ang = np.arange(t)[:, None] * (10000.0 ** (-np.arange(h) / max(h, 1)))[None]
        c, s = jnp.cos(ang).astype(x.dtype), sgn * jnp.sin(ang).astype(x.dtype)
        a, b = x[:, :h], x[:, h : 2 * h]
        return [a * c - b * s, a * s + b * c]

    def plain(x):
        return jnp.concatenate([*turn(x, 1), x[:, x.shape[1] // 2 * 2 :]], 1)

    def bwd(res, g):
        d = g.shape[1]
        y = jnp.concatenate(turn(g, -1), 1)
        return (jnp.pad(y, ((0, 0), (0, d - y.shape[1]))),)

    return keeping(plain, bwd), plain, (example(4, 6, seed=100),)


@wrong("judge 11")
def rope_same_rotation():
    """Rotary embedding, turned once more the same way in the backward."""

    def turn(x, sgn):
        t, h = x.shape[0], x.shape[1] // 2
        ang = np.arange(t)[:, None] * (100.0 ** (-np.arange(h) / h))[None]
        c, s = jnp.cos(ang).astype(x.dtype), sgn * jnp.sin(ang).astype(x.dtype)
        a, b = x[:, :h], x[:, h:]
        return jnp.concatenate([a * c - b * s, a * s + b * c], 1)

    def plain(x):
        return turn(x, 1)

    return keeping(plain, lambda res, g: (turn(g, 1),)), plain, (example(5, 6, seed=191),)
