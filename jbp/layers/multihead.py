"""Attention of one sequence on another, with shared key heads, windows and padding; memory linear in the lengths.

Index key: b batch, g groups of heads that share keys and values, r heads in a group, n queries, m keys, d features of
a head; q (b, g, r, n, d), k and v (b, g, m, d). A query that may see no key gives zero, and sends zero down.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jbp.errors import LayerError, floats, show, take
from jbp.layer import Layer
from jbp.layers import attention
from jbp.layers.attention import blocks, unblocked
from jbp.layers.shape import Static, wide


class View(NamedTuple):
    """Which keys j a query i may see: of the first m, j <= i if causal, |i − j| < window if there is one."""

    m: int
    causal: bool
    window: int | None

    def sees(self, i, j):
        seen = j < self.m
        if self.causal:
            seen &= j <= i
        if self.window is not None:
            seen &= (i - j < self.window) & (j - i < self.window)
        return seen

    def columns(self, i, rows, columns):
        """The first key block that query block i may see, and the one after its last."""
        low, high = jnp.int32(0), jnp.int32(-(-self.m // columns))
        if self.window is not None:
            low = jnp.maximum(low, (i * rows - self.window + 1) // columns)
            high = jnp.minimum(high, (i * rows + rows + self.window - 2) // columns + 1)
        if self.causal:
            high = jnp.minimum(high, (i * rows + rows - 1) // columns + 1)
        return low, high


def _scores(view, mask, q, k, i, j):
    """Scores of query block i against key block j in float32 at least, −∞ where they are not seen."""
    s = jnp.einsum("bgrqd,bgkd->bgrqk", q, k, preferred_element_type=wide(q).dtype)
    rows, columns = (lax.broadcasted_iota(jnp.int32, s.shape[-2:], axis) for axis in (0, 1))
    seen = view.sees(rows + i * s.shape[-2], columns + j * s.shape[-1])[None, None, None]
    return jnp.where(seen & (mask[j] != 0)[:, None, None], s, -jnp.inf)


def _block(n):
    return max(1, min(attention.BLOCK, n))


def _cut(mask, k):
    """mask (b, m), or None for all ones, in the blocks of k as (blocks, b, 1, block)."""
    whole = jnp.ones((k.shape[0], k.shape[-2]), jnp.int8) if mask is None else mask.astype(jnp.int8)
    return blocks(whole[..., None], _block(k.shape[-2])).swapaxes(-1, -2)


def attend(view, q, k, v, mask):
    """o = softmax(q kᵀ / √d, seen) v and l = log Σ exp of each row, a block of queries and keys at a time.

    o is like q, l (b, g, r, n, 1). Online softmax: Milakov & Gimelshein, 2018.
    """
    n, m, rows, columns = q.shape[-2], k.shape[-2], _block(q.shape[-2]), _block(k.shape[-2])
    mask = _cut(mask, k)
    q = blocks(q * q.shape[-1] ** -0.5, rows)
    k, v = (blocks(x, columns) for x in (k, v))
    if not m:
        k, v, mask = (jnp.zeros((1, *x.shape[1:]), x.dtype) for x in (k, v, mask))
    zero = jnp.zeros((*q.shape[1:-1], 1), wide(q).dtype)

    def block(now):
        i, q = now

        def column(j, carry):
            top, total, o = carry
            s = _scores(view, mask, q, k[j], i, j)
            new = jnp.maximum(top, s.max(-1, keepdims=True))
            base = jnp.where(jnp.isneginf(new), 0, new)  # nothing seen yet
            p, shrink = jnp.exp(s - base), jnp.exp(top - base)
            here = jnp.einsum("bgrqk,bgkd->bgrqd", p.astype(v.dtype), v[j], preferred_element_type=o.dtype)
            return new, total * shrink + p.sum(-1, keepdims=True), o * shrink + here

        low, high = view.columns(i, rows, columns)
        start = zero - jnp.inf, zero, jnp.zeros((*zero.shape[:-1], v.shape[-1]), zero.dtype)
        top, total, o = lax.fori_loop(low, high, column, start)
        seen = total > 0
        total = jnp.where(seen, total, 1)
        return (o / total).astype(v.dtype), jnp.where(seen, top, 0) + jnp.log(total)

    o, logs = lax.map(block, (jnp.arange(q.shape[0], dtype=jnp.int32), q))
    return unblocked(o, n), unblocked(logs, n)


def attend_back(view, q, k, v, mask, o, logs, do):
    """dq, dk, dv. With P = exp(q kᵀ/√d − l), made again block by block, and D = Σ do o of each row:

        dv = Σ_r Pᵀ do      dS = P (do vᵀ − D)      dq = dS k / √d      dk = Σ_r dSᵀ q / √d

    (Dao et al., *FlashAttention*, 2022, App. B.2.)
    """
    n, m, rows, columns = q.shape[-2], k.shape[-2], _block(q.shape[-2]), _block(k.shape[-2])
    dtype, scale, mask = q.dtype, q.shape[-1] ** -0.5, _cut(mask, k)
    row = (wide(do) * wide(o)).sum(-1, keepdims=True)
    q, do, logs, row = (blocks(x, rows) for x in (q * scale, do, logs, row))
    k, v = (blocks(x, columns) for x in (k, v))
    dot = partial(jnp.einsum, preferred_element_type=logs.dtype)

    def block(carry, now):
        i, q, do, logs, row = now

        def column(j, carry):
            dq, dk, dv = carry
            p = jnp.exp(_scores(view, mask, q, k[j], i, j) - logs)
            ds = (p * (dot("bgrqd,bgkd->bgrqk", do, v[j]) - row)).astype(dtype)
            dv = dv.at[j].add(dot("bgrqk,bgrqd->bgkd", p.astype(dtype), do))
            dk = dk.at[j].add(dot("bgrqk,bgrqd->bgkd", ds, q))
            return dq + dot("bgrqk,bgkd->bgrqd", ds, k[j]), dk, dv

        low, high = view.columns(i, rows, columns)
        start = jnp.zeros(q.shape, logs.dtype), *carry
        dq, *carry = lax.fori_loop(low, high, column, start)
        return tuple(carry), dq * scale

    zeros = tuple(jnp.zeros(x.shape, logs.dtype) for x in (k, v))
    (dk, dv), dq = lax.scan(block, zeros, (jnp.arange(q.shape[0], dtype=jnp.int32), q, do, logs, row))
    return tuple(unblocked(g, size).astype(dtype) for g, size in ((dq, n), (dk, m), (dv, m)))


@dataclass(frozen=True)
class MultiHeadAttention(Layer):
    """y = concat_h(softmax(q kᵀ / √d, seen) v) W_o with q = x W_q, k = z W_k, v = z W_v, the source z being x or given.

        do = dy W_oᵀ      dq, dk, dv from `attend_back`      dx = dq W_qᵀ      dz = dk W_kᵀ + dv W_vᵀ
        dW_q = xᵀ dq      dW_k = zᵀ dk      dW_v = zᵀ dv      dW_o = oᵀ dy

    Input: x, or a tuple of x and then a source (b, m, e) and a padding mask (b, m), each or both: the mask holds
    integers or booleans, not 0 where a key may be seen, and has no cotangent. Options: `groups` of heads that share
    their keys and values, `heads` of them unless given (1: multi-query; Ainslie et al., *GQA*, 2023); `causal`; a
    `window`, |i − j| < window. A query that sees nothing gives zero. delta is (dq, dk, dv, dy). Keeps x, z, the mask,
    q, k, v, o and one number a row and head: never an n×m matrix. Shapes: x and y (b, n, f), d = f / heads, W_q
    (f, g, r, d), W_k and W_v (e, g, d), W_o (g, r, d, f), with g groups of r heads. (Vaswani et al., *Attention Is All
    You Need*, 2017, §3.2.) Raises LayerError for other ranks, sizes that do not divide, and causal attention on
    another length.
    """

    heads: int
    groups: int | None = None
    causal: bool = False
    window: int | None = None

    def __post_init__(self):
        if self.heads < 1 or (self.groups is not None and (self.groups < 1 or self.heads % self.groups)):
            raise LayerError(
                self, f"got {self.heads} heads in {self.groups} groups; expected groups that divide the heads. Try 1."
            )
        if self.window is not None and self.window < 1:
            raise LayerError(self, f"got window={self.window}; expected 1 or more. For no window write None.")

    def _parts(self, x):
        """x, z and the mask, the latter None where not given."""
        x, *rest = x if isinstance(x, tuple | list) else (x,)
        f = floats(self, x, "(batch, n, features)", rank=3).shape[-1]
        if f % self.heads:
            raise LayerError(
                self,
                f"got {f} features; expected a multiple of heads={self.heads}. Choose heads that divide the features.",
            )
        source = [r for r in rest if jnp.issubdtype(r.dtype, jnp.floating)]
        masks = [r for r in rest if not jnp.issubdtype(r.dtype, jnp.floating)]
        z = floats(self, source[0], "(batch, m, features)", rank=3) if source else x
        if len(source) > 1 or len(masks) > 1 or z.shape[0] != x.shape[0] or z.dtype != x.dtype:
            raise LayerError(
                self,
                f"got x {show((x, *rest))}; expected x and at most one source of its batch and dtype, and one mask. "
                "Give x, (x, source), (x, mask) or (x, source, mask).",
            )
        if masks and masks[0].shape != z.shape[:2]:
            raise LayerError(
                self,
                f"got a mask {show(masks[0])}; expected shape {list(z.shape[:2])}: one for each key. "
                "Put 1 where a key may be seen, 0 where it is padding.",
            )
        if self.causal and z.shape[1] != x.shape[1]:
            raise LayerError(
                self,
                f"got {x.shape[1]} queries and {z.shape[1]} keys; expected as many for causal attention. "
                "Leave out `causal` to see all of another sequence.",
            )
        return x, z, masks[0] if masks else None

    def _shapes(self, x, z):
        g = self.groups or self.heads
        f, e, r, d = x.shape[-1], z.shape[-1], self.heads // g, x.shape[-1] // self.heads
        return {"q": (f, g, r, d), "k": (e, g, d), "v": (e, g, d), "o": (g, r, d, f)}

    def init(self, key, x, /):
        x, z, _ = self._parts(x)
        fan_in = {"q": x.shape[-1], "k": z.shape[-1], "v": z.shape[-1], "o": x.shape[-1]}
        return {
            name: jax.random.normal(k, shape, x.dtype) * max(fan_in[name], 1) ** -0.5
            for k, (name, shape) in zip(jax.random.split(key, 4), self._shapes(x, z).items(), strict=True)
        }

    def forward(self, params, x, /):
        order = _order(x)
        x, z, mask = self._parts(x)
        w_q, w_k, w_v, w_o = take(self, params, x.dtype, **self._shapes(x, z))
        q = jnp.einsum("bnf,fgrd->bgrnd", x, w_q)
        k, v = (jnp.einsum("bme,egd->bgmd", z, w) for w in (w_k, w_v))
        o, logs = attend(View(z.shape[1], self.causal, self.window), q, k, v, mask)
        return jnp.einsum("bgrnd,grdf->bnf", o, w_o), (x, z, mask, q, k, v, o, logs, order)

    def backward(self, params, residuals, dy, /):
        _, z, mask, q, k, v, o, logs, order = residuals
        do = jnp.einsum("bnf,grdf->bgrnd", dy, params["o"])
        dq, dk, dv = attend_back(View(z.shape[1], self.causal, self.window), q, k, v, mask, o, logs, do)
        dx = jnp.einsum("bgrnd,fgrd->bnf", dq, params["q"])
        dz = jnp.einsum("bgmd,egd->bme", dk, params["k"]) + jnp.einsum("bgmd,egd->bme", dv, params["v"])
        parts = {"x": dx if "z" in order.value else dx + dz, "z": dz, "mask": None}
        down = tuple(parts[name] for name in order.value)
        return (down if order.value != ("x",) else dx + dz), (dq, dk, dv, dy)

    def gradient(self, residuals, delta, /):
        x, z, _, _, _, _, o, _, _ = residuals
        dq, dk, dv, dy = delta
        return {
            "q": jnp.einsum("bnf,bgrnd->fgrd", x, dq),
            "k": jnp.einsum("bme,bgmd->egd", z, dk),
            "v": jnp.einsum("bme,bgmd->egd", z, dv),
            "o": jnp.einsum("bgrnd,bnf->grdf", o, dy),
        }

    def reference(self, params, x, /):
        """Head by head, with the whole matrix of scores."""
        x, z, mask = self._parts(x)
        i, j = jnp.arange(x.shape[1])[:, None], jnp.arange(z.shape[1])[None]
        seen = (j <= i) | (not self.causal)
        if self.window is not None:
            seen &= jnp.abs(i - j) < self.window
        seen = seen[None] & (jnp.ones(z.shape[:2], bool) if mask is None else mask != 0)[:, None]
        y = jnp.zeros_like(x)
        for g in range(params["k"].shape[1]):
            k, v = z @ params["k"][:, g], z @ params["v"][:, g]
            for r in range(params["q"].shape[2]):
                q = x @ params["q"][:, g, r]
                s = q @ jnp.swapaxes(k, 1, 2) / q.shape[-1] ** 0.5
                top = lax.stop_gradient(jnp.max(s, -1, keepdims=True, where=seen, initial=-jnp.inf))
                top = jnp.where(jnp.isneginf(top), 0, top)
                e = jnp.where(seen, jnp.exp(jnp.where(seen, s - top, 0)), 0)
                total = jnp.sum(e, -1, keepdims=True)
                y = y + (e / jnp.where(total > 0, total, 1)) @ v @ params["o"][g, r]
        return y


def _order(x):
    """Static names of what came, in the order it came in: what goes down has the same."""
    if not isinstance(x, tuple | list):
        return Static(("x",))
    rest = ("z" if jnp.issubdtype(part.dtype, jnp.floating) else "mask" for part in x[1:])
    return Static(("x", *rest))
