"""Attention whose memory is linear in the length, both ways."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jbp.errors import LayerError, floats, take
from jbp.layer import Layer
from jbp.layers.shape import wide

BLOCK = 128  # rows of the score matrix at a time: on CPUs, where 64 to 256 differ little, what stays in the L2 cache


def _causal(i, j, block):
    """Which of the scores in block (i, j) lie on or below the diagonal."""
    rows, columns = (lax.broadcasted_iota(jnp.int32, (block, block), axis) for axis in (0, 1))
    return rows + i * block >= columns + j * block


def blocks(x, block):
    """(..., n, d) -> (n / block, ..., block, d), the last block filled with zeros."""
    *batch, n, d = x.shape
    count = -(-n // block)
    x = jnp.pad(x, ((0, 0),) * len(batch) + ((0, count * block - n), (0, 0)))
    return jnp.moveaxis(x.reshape(*batch, count, block, d), -3, 0)


def unblocked(x, n):
    """The inverse of `blocks`, cut to n rows."""
    x = jnp.moveaxis(x, 0, -3)
    *batch, count, block, d = x.shape
    return x.reshape(*batch, count * block, d)[..., :n, :]


def _scores(q, k, i, j):
    """The masked scores of query block i against key block j, in float32 at least."""
    s = jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=wide(q).dtype)
    return jnp.where(jnp.expand_dims(_causal(i, j, q.shape[-2]), range(s.ndim - 2)), s, -jnp.inf)


def attend(q, k, v):
    """o = softmax(q kᵀ / √d, causal) v and l = log Σ exp of each row's scores, a block of rows and columns at a time.

    Shapes: q, k (..., n, d), v (..., n, e), o (..., n, e), l (..., n, 1). Online softmax: Milakov & Gimelshein, 2018.
    """
    n, d = q.shape[-2:]
    block = max(1, min(BLOCK, n))
    q, k, v = blocks(q * d**-0.5, block), blocks(k, block), blocks(v, block)
    row = jnp.zeros((*q.shape[1:-1], 1), wide(q).dtype)

    def rows(i_q):
        i, q = i_q

        def column(j, carry):
            top, total, o = carry
            s = _scores(q, k[j], i, j)
            new = jnp.maximum(top, s.max(-1, keepdims=True))
            p, shrink = jnp.exp(s - new), jnp.exp(top - new)
            seen = jnp.einsum("...qk,...ke->...qe", p.astype(v.dtype), v[j], preferred_element_type=o.dtype)
            return new, total * shrink + p.sum(-1, keepdims=True), o * shrink + seen

        start = row - jnp.inf, row, jnp.zeros((*row.shape[:-1], v.shape[-1]), row.dtype)
        top, total, o = lax.fori_loop(jnp.int32(0), i + 1, column, start)
        return (o / total).astype(v.dtype), top + jnp.log(total)

    o, logs = lax.map(rows, (jnp.arange(q.shape[0], dtype=jnp.int32), q))
    return unblocked(o, n), unblocked(logs, n)


def attend_back(q, k, v, o, logs, do):
    """dq, dk, dv. With P = exp(q kᵀ/√d − l), made again block by block, and D = Σ do o of each row:

        dv = Pᵀ do      dS = P (do vᵀ − D)      dq = dS k / √d      dk = dSᵀ q / √d

    (Dao et al., *FlashAttention*, 2022, App. B.2.)
    """
    n, d = q.shape[-2:]
    block, dtype = max(1, min(BLOCK, n)), q.dtype
    row = (wide(do) * wide(o)).sum(-1, keepdims=True)
    q, k, v, do, logs, row = (blocks(x, block) for x in (q * d**-0.5, k, v, do, logs, row))
    dot = partial(jnp.einsum, preferred_element_type=logs.dtype)

    def rows(carry, now):
        i, q, do, logs, row = now

        def column(j, carry):
            dq, dk, dv = carry
            p = jnp.exp(_scores(q, k[j], i, j) - logs)
            ds = (p * (dot("...qe,...ke->...qk", do, v[j]) - row)).astype(dtype)
            dv = dv.at[j].add(dot("...qk,...qe->...ke", p.astype(dtype), do))
            dk = dk.at[j].add(dot("...qk,...qd->...kd", ds, q))
            return dq + dot("...qk,...kd->...qd", ds, k[j]), dk, dv

        dq, *carry = lax.fori_loop(jnp.int32(0), i + 1, column, (jnp.zeros(q.shape, logs.dtype), *carry))
        return tuple(carry), dq * d**-0.5

    (dk, dv), dq = lax.scan(
        rows,
        (jnp.zeros(k.shape, logs.dtype), jnp.zeros(v.shape, logs.dtype)),
        (jnp.arange(q.shape[0], dtype=jnp.int32), q, do, logs, row),
    )
    return tuple(unblocked(g, n).astype(dtype) for g in (dq, dk, dv))


@dataclass(frozen=True)
class CausalSelfAttention(Layer):
    """y = concat_h(softmax(q kᵀ / √d, causal) v) W_o with q, k, v = x W_qkv, split over `heads`.

        do = dy W_oᵀ      dq, dk, dv from `attend_back`      dx = (dq|dk|dv) W_qkvᵀ
        dW_qkv = xᵀ (dq|dk|dv)      dW_o = oᵀ dy

    delta is (dq|dk|dv, dy). Keeps x, q, k, v, o and one number a row and head: never an n×n matrix. Shapes: x and y
    (b, n, f), W_qkv (f, 3, heads, f / heads), W_o (heads, f / heads, f); any n. (Vaswani et al., *Attention Is All You
    Need*, 2017, §3.2.) Raises LayerError for another rank, or if heads does not divide f.
    """

    heads: int

    def _shapes(self, x):
        f = floats(self, x, "(batch, n, features)", rank=3).shape[-1]
        if f % self.heads:
            raise LayerError(
                self,
                f"got {f} features; expected a multiple of heads={self.heads}. Choose heads that divide the features.",
            )
        return {"qkv": (f, 3, self.heads, f // self.heads), "o": (self.heads, f // self.heads, f)}

    def init(self, key, x, /):
        shapes, scale = self._shapes(x), x.shape[-1] ** -0.5
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(k, shape, x.dtype) * scale
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def forward(self, params, x, /):
        qkv, out = take(self, params, x.dtype, **self._shapes(x))
        q, k, v = jnp.einsum("bnf,fchd->cbhnd", x, qkv)
        o, logs = attend(q, k, v)
        return jnp.einsum("bhnd,hdf->bnf", o, out), (x, q, k, v, o, logs)

    def backward(self, params, residuals, dy, /):
        _, q, k, v, o, logs = residuals
        do = jnp.einsum("bnf,hdf->bhnd", dy, params["o"])
        dqkv = jnp.stack(attend_back(q, k, v, o, logs, do))
        return jnp.einsum("cbhnd,fchd->bnf", dqkv, params["qkv"]), (dqkv, dy)

    def gradient(self, residuals, delta, /):
        x, _, _, _, o, _ = residuals
        dqkv, dy = delta
        return {"qkv": jnp.einsum("bnf,cbhnd->fchd", x, dqkv), "o": jnp.einsum("bhnd,bnf->hdf", o, dy)}

    def reference(self, params, x, /):
        q, k, v = jnp.einsum("bnf,fchd->cbhnd", x, params["qkv"])
        s = jnp.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
        s = jnp.where(jnp.tri(x.shape[1], dtype=bool)[None, None], s, -jnp.inf)
        e = jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True)))
        return jnp.einsum("bhqk,bhkd,hdf->bqf", e / e.sum(-1, keepdims=True), v, params["o"])
