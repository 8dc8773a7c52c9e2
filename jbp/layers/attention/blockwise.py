"""Attention by blocks of query rows: memory linear in the lengths, forward and backward.

Index key: b batch, g groups of heads that share keys and values, r heads in a group, n queries, m keys, d features of
a head, e of a value; q (b, g, r, n, d), k (b, g, m, d), v (b, g, m, e). The scores of BLOCK queries are there at a
time, with all keys that these may see, and never those of all queries. The backward pass makes them again as the
forward one did, and takes their softmax again: what is kept from forward is only its result, so no rounding comes
between the two.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.numerics import peak, scan, wide

BLOCK = 128  # rows of the score matrix at a time
PIECES = 4  # causal: the first quarter of the queries meets the first quarter of the keys, the next the first half, ...


def blocks(x: Any, rows: int) -> Any:
    """(..., n, d) -> (n / rows, ..., rows, d), the last block filled with zeros."""
    *batch, n, d = x.shape
    count = -(-n // rows)
    x = jnp.pad(x, ((0, 0),) * len(batch) + ((0, count * rows - n), (0, 0)))
    return jnp.moveaxis(x.reshape(*batch, count, rows, d), -3, 0)


def unblocked(x: Any, n: int) -> Any:
    """The inverse of `blocks`, cut to n rows."""
    x = jnp.moveaxis(x, 0, -3)
    *batch, count, rows, d = x.shape
    return x.reshape(*batch, count * rows, d)[..., :n, :]


@dataclass(frozen=True)
class Rule:
    """What becomes of the scores s_ij = scale q_i · k_j, in this order, and which keys j a query i may see."""

    causal: bool = False  # j <= i
    window: int | None = None  # |i − j| < window
    cap: float | None = None  # s = cap tanh(s / cap)
    alibi: bool = False  # s − 2^(−8 h / heads) |i − j| for head h = 1, 2, ...
    rate: float = 0.0  # of the probabilities that are dropped
    scale: float | None = None  # 1 / √d unless given

    def factor(self, d: int) -> float:
        """What the products of queries and keys are multiplied with."""
        return max(d, 1) ** -0.5 if self.scale is None else self.scale

    def span(self, rows: int, m: int) -> int:
        """How many keys in a row a block of queries may see at most."""
        sides = 1 if self.causal else 2
        return m if self.window is None else min(m, rows + sides * (self.window - 1))

    def pieces(self, count: int, rows: int, m: int, shifted: bool = False) -> list[tuple[int, int, int]]:
        """(first block, the one after the last, keys that these may see): together all blocks."""
        if not self.causal or self.window is not None or count < 2 or shifted:
            return [(0, count, self.span(rows, m))]
        ends = [0, *(-(-count * (k + 1) // PIECES) for k in range(PIECES))]
        return [(a, b, min(m, b * rows)) for a, b in pairwise(ends) if a < b]

    def first(self, i: Any, m: int, span: int) -> Any:
        """The first of the `span` keys that the queries from i on meet."""
        return jnp.int32(0) if self.window is None else jnp.clip(i - self.window + 1, 0, m - span)


def _cut(x, start, span, axis):
    """x[start : start + span] on an axis that has all keys; x itself where it has none of its own."""
    return x if x.shape[axis] in (1, span) else lax.dynamic_slice_in_dim(x, start, span, axis)


def _add(total, part, start, axis):
    """total with part added from `start` on."""
    if total.shape == part.shape:
        return total + part
    here = lax.dynamic_slice_in_dim(total, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(total, here + part, start, axis)


def _distances(now, start, rows, span):
    """j − i, (rows, span)."""
    i, j = (lax.broadcasted_iota(jnp.int32, (rows, span), axis) for axis in (0, 1))
    return (j + start) - (i + now["first"])


def scores(rule: Rule, parts: dict[str, Any], now: dict[str, Any], k: Any, start: Any) -> tuple[Any, Any]:
    """(s, the slope of the cap) for a block of queries and the keys cut out for it, −∞ where a key is not seen.

    In float32 at least. The last of the keys are those that all queries see, if there are such.
    """
    q, sinks = now["q"], _sinks(parts)
    (_, g, r, rows, _), span = q.shape, k.shape[-2] - sinks
    s, slope = jnp.einsum("bgrqd,bgkd->bgrqk", q, k, preferred_element_type=wide(q).dtype), None
    if rule.cap is not None:
        t = jnp.tanh(s / rule.cap)
        s, slope = rule.cap * t, 1 - t * t
    s, always = (s[..., :span], s[..., span:]) if sinks else (s, None)
    far = _distances(now, start, rows, span)
    if rule.alibi:
        s = s - _slopes(g * r, s.dtype).reshape(1, g, r, 1, 1) * jnp.abs(far).astype(s.dtype)[None, None, None]
    if "bias" in now:
        bias = _cut(now["bias"], start, span, -1).astype(s.dtype)
        heads = (g, r) if bias.shape[1] > 1 else (1, 1)
        s = s + jnp.broadcast_to(bias.reshape(bias.shape[0], *heads, *bias.shape[2:]), s.shape)
    if "table" in parts:
        s = s + parts["table"].reshape(1, g, r, -1)[..., _nearest(far, parts["table"])].astype(s.dtype)
    seen = jnp.ones((1, 1, 1, rows, span), bool)
    if rule.causal:
        seen &= (far <= 0)[None, None, None]
    if rule.window is not None:
        seen &= (jnp.abs(far) < rule.window)[None, None, None]
    mask = now["mask"] if "mask" in now else parts.get("mask")
    if mask is not None:
        mask = _cut(mask, start, span, -1).astype(bool)
        seen &= mask.reshape(mask.shape[0], *((g, r) if mask.shape[1] > 1 else (1, 1)), *mask.shape[2:])
    if "segments" in now:
        seen &= (now["segments"] == _cut(parts["segments"], start, span, -1)[:, None])[:, None, None]
    s = jnp.where(seen, s, -jnp.inf)
    return s if always is None else jnp.concatenate([s, always], -1), slope


def _probabilities(rule, parts, now, k, start):
    """(p, the slope of the cap, what dropout multiplies p with): p is the softmax of the scores, 0 if all are −∞."""
    s, slope = scores(rule, parts, now, k, start)
    top = peak(s)
    # s may be computed anew here, and rounded in another way than for its maximum: in float32 by tens where it is 1e8
    e = jnp.exp(jnp.minimum(s - jnp.where(jnp.isneginf(top), 0, top), jnp.finfo(s.dtype).tiny))
    total = e.sum(-1, keepdims=True)
    p = e / jnp.where(total > 0, total, 1)
    return p, slope, _kept(rule, parts, now, p, start)


def _slopes(heads, dtype):
    return jnp.exp2(-8 * (1 + jnp.arange(heads, dtype=dtype)) / heads)


def _nearest(far, table):
    """The column of the table for each distance: those too far off share the last."""
    most = table.shape[-1] // 2
    return jnp.clip(far, -most, most) + most


def by_distance(total: Any, ds: Any, now: dict[str, Any], start: Any) -> Any:
    """The cotangent of a table of biases with that of a block's scores added, (b, g, r, rows, span)."""
    far = _distances(now, start, *ds.shape[-2:])
    return total.at[:, _nearest(far, total)].add(ds.sum(0).reshape(total.shape[0], *far.shape))


def _kept(rule, parts, now, p, start):
    """Dropout's factors for a block, the same whenever asked: each row of scores has a key of its own."""
    if not rule.rate:
        return None
    b, g, r, rows, span = p.shape
    span -= _sinks(parts)

    def row(i):
        keep = jnp.float32(1 - rule.rate)
        return jax.random.bernoulli(jax.random.fold_in(parts["key"], i), keep, (b, g, r, parts["m"]))

    drawn, m = jax.vmap(row, out_axes=3)(now["first"] + jnp.arange(rows, dtype=jnp.int32)), parts["m"] - _sinks(parts)
    kept = _cut(drawn[..., :m], start, span, -1)
    kept = jnp.concatenate([kept, drawn[..., m:]], -1) if "sinks" in parts else kept
    return kept.astype(p.dtype) / (1 - rule.rate)


def dropped(rule: Rule, parts: dict[str, Any], now: dict[str, Any], p: Any, start: Any) -> Any:
    """p of a block after dropout."""
    kept = _kept(rule, parts, now, p, start)
    return p if kept is None else p * kept


def _sinks(parts):
    """How many keys there are beside those of the sequence, which all queries see."""
    return parts["sinks"][0].shape[-2] if "sinks" in parts else 0


def _keys(parts, x, which, start, span):
    """The keys (0) or values (1) for a block of queries: those of the sequence, then those that all see."""
    x = _cut(x, start, span, -2)
    return jnp.concatenate([x, parts["sinks"][which]], -2) if "sinks" in parts else x


def _rows(rule, parts, q, k, **more):
    """What belongs to each block of queries, one block after the other, and the pieces to be gone through."""
    n, m = q.shape[-2], k.shape[-2]
    rows = max(1, min(BLOCK, n))
    more["q"] = q * rule.factor(q.shape[-1])
    if "mask" in parts and parts["mask"].shape[2] > 1:
        more["mask"] = parts["mask"]
    if "bias" in parts:
        more["bias"] = jnp.broadcast_to(parts["bias"], (*parts["bias"].shape[:2], n, parts["bias"].shape[-1]))
    if "query_segments" in parts:
        more["segments"] = parts["query_segments"][..., None]
    now = {name: blocks(x, rows) for name, x in more.items()}
    count = now["q"].shape[0]
    now["first"] = rows * jnp.arange(count, dtype=jnp.int32)
    if "offset" in parts:
        now["first"] = now["first"] + parts["offset"]
    return now, rule.pieces(count, rows, m, "offset" in parts), {**parts, "m": m + _sinks(parts)}


def attend(rule: Rule, parts: dict[str, Any], q: Any, k: Any, v: Any) -> Any:
    """o = (dropped) softmax(s) v, (b, g, r, n, e).

    parts: what else makes up the scores, if it is there: `mask` (b, g r, n, m), not 0 where a key may be seen, and
    `bias`, of the same shape, of either each size may be 1, though the mask has all m; `query_segments` (b, n) and
    `segments` (b, m), where only equals see each other; `table` (g r, 2 c + 1), a bias for each distance j − i between
    −c and c; `key` for the dropout; `sinks`, a pair of keys (b, g, s, d) and values (b, g, s, e) that all queries see;
    `offset`, the place of the first query among the keys, 0 unless given.
    """
    n, m = q.shape[-2], k.shape[-2]
    now, pieces, parts = _rows(rule, parts, q, k)

    def block(span, now):
        start = rule.first(now["first"], m, span)
        keys, values = (_keys(parts, x, which, start, span) for which, x in enumerate((k, v)))
        p, _, kept = _probabilities(rule, parts, now, keys, start)
        p = (p if kept is None else p * kept).astype(v.dtype)
        return jnp.einsum("bgrqk,bgkd->bgrqd", p, values, preferred_element_type=wide(v).dtype).astype(v.dtype)

    o = [lax.map(partial(block, span), jax.tree.map(lambda x, a=a, b=b: x[a:b], now)) for a, b, span in pieces]
    return unblocked(jnp.concatenate(o), n)


def attend_back(rule: Rule, parts: dict[str, Any], q: Any, k: Any, v: Any, do: Any) -> tuple[Any, Any, Any, dict]:
    """dq, dk, dv, and the cotangents of `bias`, `table` and `sinks`, if there. With P and its dropout M made again:

        dv = Σ_r (P M)ᵀ do      dP = M (do vᵀ)      dS = P (dP − Σ_j P dP)      dq = c dS k      dk = Σ_r c dSᵀ q

    c is the scale, 1 / √d say. The cap puts its slope 1 − tanh² on dS. (Dao et al., *FlashAttention*, 2022, App. B.2,
    who have Σ_j P dP as do · o. The sum is as cheap where a whole row of scores is at hand, and for a row with one
    weight of 1 gives an exact 0.)
    """
    n, m, dtype, scale = q.shape[-2], k.shape[-2], q.dtype, rule.factor(q.shape[-1])
    now, pieces, parts = _rows(rule, parts, q, k, do=do)
    high = wide(q).dtype
    dot = partial(jnp.einsum, preferred_element_type=high)
    bias = parts.get("bias")

    def block(span, carry, now):
        start = rule.first(now["first"], m, span)
        keys, values = (_keys(parts, x, which, start, span) for which, x in enumerate((k, v)))
        p, slope, kept = _probabilities(rule, parts, now, keys, start)
        dp = dot("bgrqd,bgkd->bgrqk", now["do"], values)
        left = p if kept is None else p * kept
        dp = dp if kept is None else dp * kept
        # A product, not a sum: on CPUs XLA would draw the sum into the product that makes dP, and take twice as long.
        ds = p * (dp - dot("bgrqk,bgrqk->bgrq", p, dp, precision=lax.Precision.HIGHEST)[..., None])
        carry, rows = dict(carry), {}
        inside = ds[..., :span] if "sinks" in parts else ds
        if bias is not None:
            here = _summed(bias, inside, start)
            if bias.shape[2] == 1:
                carry["bias"] += here.sum(2, keepdims=True)
            else:
                rows["bias"] = here
        if "table" in parts:
            carry["table"] = by_distance(carry["table"], inside, now, start)
        ds = (ds if slope is None else ds * slope).astype(dtype)
        # dkᵀ and dvᵀ: on CPUs these products are faster with the small q and do as the transposed factor, not with dS.
        dv = dot("bgrqd,bgrqk->bgdk", now["do"], left.astype(dtype))
        dk = dot("bgrqd,bgrqk->bgdk", now["q"], ds)
        if "sinks" in parts:
            carry["sinks"] = tuple(a + b[..., span:] for a, b in zip(carry["sinks"], (dk, dv), strict=True))
            dk, dv = dk[..., :span], dv[..., :span]
        carry["v"] = _add(carry["v"], dv, start, -1)
        carry["k"] = _add(carry["k"], dk, start, -1)
        return carry, rows | {"q": (dot("bgrqk,bgkd->bgrqd", ds, keys) * scale).astype(dtype)}

    carry: dict[str, Any] = {"k": jnp.zeros(k.mT.shape, high), "v": jnp.zeros(v.mT.shape, high)}
    if "table" in parts:
        carry["table"] = jnp.zeros(parts["table"].shape, high)
    if bias is not None and bias.shape[2] == 1:
        carry["bias"] = jnp.zeros(bias.shape, high)
    if "sinks" in parts:
        carry["sinks"] = tuple(jnp.zeros((*k.shape[:2], x.shape[-1], x.shape[-2]), high) for x in parts["sinks"])
    found = []
    for a, b, span in pieces:
        carry, rows = scan(partial(block, span), carry, jax.tree.map(lambda x, a=a, b=b: x[a:b], now))
        found.append(rows)
    rows = jax.tree.map(lambda *several: unblocked(jnp.concatenate(several), n), *found)
    dq, dk, dv = rows.pop("q"), carry.pop("k").mT.astype(dtype), carry.pop("v").mT.astype(dtype)
    carry |= {"sinks": tuple(x.mT for x in carry["sinks"])} if "sinks" in parts else {}
    more = rows | carry
    return dq, dk, dv, {name: jax.tree.map(lambda d, x: d.astype(x.dtype), more[name], parts[name]) for name in more}


def _summed(bias, ds, start):
    """ds (b, g, r, rows, span) as the cotangent of a block of the bias's rows, summed over the axes it has not."""
    b, g, r, rows, span = ds.shape
    ds = ds.reshape(b, g * r, rows, span)
    ds = ds.sum(tuple(axis for axis in (0, 1) if bias.shape[axis] == 1), keepdims=True)
    if bias.shape[3] == 1:
        return ds.sum(3, keepdims=True)
    return _add(jnp.zeros((*ds.shape[:2], rows, bias.shape[3]), ds.dtype), ds, start, -1)
