"""Attention to keys that lie in parts on several devices: keys and values go round, queries stay.

Index key as in blockwise.py, n the tokens of one of D devices. Device d sends the keys and values that it holds to
d + 1, D times, and has met all when its own are back. Of a row of scores it keeps the largest so far and Σ exp, and
in the end log Σ exp, from which the backward pass has the softmax again: there the cotangents of keys and values go
round with them. The scores of BLOCK queries and the keys of one device are there at a time.

Causal attention would have the last device do most. So there queries, keys and values are dealt out anew: of 2 D
stretches device d takes the d-th from the front and the d-th from the back. Then of the four pairs of a stretch of
queries and one of keys every device needs two in every round, and three in the first, with its own: half of all
products. (Liu et al., *Ring Attention with Blockwise Transformers*, 2023, §3; the stretches are those of Llama Team,
*The Llama 3 Herd of Models*, 2024, §3.3.2.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.fields import Size
from jbp.layers.attention.blockwise import BLOCK, Rule, blocks, by_distance, dropped, scores, unblocked
from jbp.numerics import after, peak, scan, wide

TOKENS = {"mask": -1, "segments": -1}  # the axis of tokens of what belongs to keys, -2 of all else


@dataclass(frozen=True)
class Ring:
    """`count` devices along the axis `over`, each with its part of the tokens in order. Inside of `jax.shard_map`."""

    over: str
    count: Size

    def attend(self, rule: Rule, parts: dict[str, Any], q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        """(o, log Σ exp s), (b, g, r, n, e) and (b, g, r, n, 1), 0 in place of −∞ where a query sees nothing.

        parts: as `attend` of blockwise.py takes them, but for a bias and an offset. A mask is that of the own keys for
        all queries, (b, 1, 1, n), or that of the own queries for all keys.
        """
        high = wide(q).dtype
        rows, keys, always = self._given(rule, parts, q, k, v)

        def blank(row):
            shape = row["q"].shape[:-1]
            nothing = jnp.zeros((*shape, 1), high)
            return {"o": jnp.zeros((*shape, v.shape[-1]), high), "top": nothing - jnp.inf, "sum": nothing}

        seen, met = [blank(row) for row in rows], partial(_met, rule, parts)
        if always:
            seen = [met(row, state, always, (), ())[0] for row, state in zip(rows, seen, strict=True)]
        seen, _, _ = self._round(met, rows, keys, seen, [()] * len(keys), ())
        found = self._joined(seen)
        some = found["sum"] > 0
        total = jnp.where(some, found["sum"], 1)
        return (found["o"] / total).astype(v.dtype), jnp.where(some, found["top"] + jnp.log(total), 0)

    def attend_back(
        self, rule: Rule, parts: dict[str, Any], q: Any, k: Any, v: Any, o: Any, logs: Any, do: Any
    ) -> tuple[Any, Any, Any, dict]:
        """dq, dk, dv of the own tokens, and the cotangents of `table` and `sinks` that the own queries send.

        P = exp(s − log Σ exp s)      dS = P (M (do vᵀ) − do · o), else as `attend_back` of blockwise.py
        """
        q, k, v = after(do, (q, k, v))  # or what forward was sent would be kept for now
        high = wide(q).dtype
        dot = jnp.einsum("bgrne,bgrne->bgrn", do, o, preferred_element_type=high)[..., None]
        rows, keys, always = self._given(rule, parts, q, k, v, logs=logs, do=do, dot=dot)
        dq = [_zeros(row, ("q",), high) for row in rows]
        dkeys = [_zeros(key, ("k", "v"), high) for key in keys]
        more = {"table": jnp.zeros(parts["table"].shape, high)} if "table" in parts else {}
        met = partial(_met_back, rule, parts)
        sinks = _zeros(always, ("k", "v"), high) if always else {}
        if always:
            for i, row in enumerate(rows):
                dq[i], sinks, more = met(row, dq[i], always, sinks, more)
        dq, dkeys, more = self._round(met, rows, keys, dq, dkeys, more)
        own = self._joined(dq) | self._joined(dkeys)
        more |= {"sinks": (sinks["k"], sinks["v"])} if sinks else {}
        more = {name: jax.tree.map(lambda d, x: d.astype(x.dtype), more[name], parts[name]) for name in more}
        dq = own["q"] * rule.factor(q.shape[-1])
        return dq.astype(q.dtype), own["k"].astype(k.dtype), own["v"].astype(v.dtype), more

    def _given(self, rule, parts, q, k, v, **more):
        """(what belongs to each stretch of the own queries, to each of the own keys, to the keys that all see)."""
        n = q.shape[-2]
        rows, keys = {"q": q * rule.factor(q.shape[-1]), **more}, {"k": k, "v": v}
        mask = parts.get("mask")
        if mask is not None and mask.shape[2] == 1:
            keys["mask"] = mask
        elif mask is not None:
            rows["mask"] = mask
        if "segments" in parts:
            rows["segments"], keys["segments"] = parts["query_segments"][..., None], parts["segments"]
        rows, keys = self._split(rule, rows, n, rows=True), self._split(rule, keys, n)
        firsts = self._firsts(lax.axis_index(self.over), n, len(rows))
        rows = [row | {"first": first} for row, first in zip(rows, firsts, strict=True)]
        k, v = parts.get("sinks", (None, None))
        always: dict[str, Any] = {} if k is None else {"k": k, "v": v, "first": -1, "always": True}
        return rows, keys, always

    def _firsts(self, device, n, stretches):
        """The place of the first token of each stretch that a device has."""
        if stretches == 1:
            return [device * n]
        return [device * (n // 2), (2 * self.count - 1 - device) * (n // 2)]

    def _split(self, rule, tree, n, rows=False):
        """What belongs to tokens, by stretches: one, or two that are dealt out anew."""
        if not rule.causal or n % 2:
            return [tree]
        two = {name: self._dealt(x, -2 if rows else TOKENS.get(name, -2)) for name, x in tree.items()}
        return [{name: x[i] for name, x in two.items()} for i in (0, 1)]

    def _joined(self, stretches):
        """The opposite, of what has its tokens on the axis −2."""
        if len(stretches) == 1:
            return stretches[0]
        return {name: self._back(*(s[name] for s in stretches)) for name in stretches[0]}

    def _to(self, half):
        """Who takes which device's first, or second, half."""
        takes = (2 * d + half for d in range(self.count))
        return [(d, min(h, 2 * self.count - 1 - h)) for d, h in enumerate(takes)]

    def _dealt(self, x, axis):
        """(the stretch from the front, the one from the back)."""
        a, b = (lax.ppermute(v, self.over, self._to(i)) for i, v in enumerate(jnp.split(x, 2, axis)))
        even = lax.axis_index(self.over) % 2 == 0
        return jnp.where(even, a, b), jnp.where(even, b, a)

    def _back(self, front, back):
        even = lax.axis_index(self.over) % 2 == 0
        both = jnp.where(even, front, back), jnp.where(even, back, front)
        homes = ([(to, d) for d, to in self._to(i)] for i in (0, 1))
        return jnp.concatenate([lax.ppermute(v, self.over, to) for v, to in zip(both, homes, strict=True)], -2)

    def _on(self, tree):
        """What the device before has."""
        on = [(d, (d + 1) % self.count) for d in range(self.count)]
        return jax.tree.map(lambda x: lax.ppermute(x, self.over, on), tree)

    def _round(self, met: Callable[..., Any], rows: list, keys: list, found: list, sent: list, more: Any) -> Any:
        """(found, sent, more) after the queries have met all keys: `sent` goes round with the keys, and comes home."""
        here, n = lax.axis_index(self.over), sum(row["q"].shape[-2] for row in rows)

        def meeting(source, keys, found, sent, more, own):
            firsts = self._firsts(source, n, len(rows))
            keys = [key | {"first": first} for key, first in zip(keys, firsts, strict=True)]
            found, sent = [*found], [*sent]
            if len(rows) == 1:
                found[0], sent[0], more = met(rows[0], found[0], keys[0], sent[0], more)
                return found, sent, more
            found[1], sent[0], more = met(rows[1], found[1], keys[0], sent[0], more)
            if own:
                found[0], sent[0], more = met(rows[0], found[0], keys[0], sent[0], more)
                found[1], sent[1], more = met(rows[1], found[1], keys[1], sent[1], more)
                return found, sent, more
            front = source < here  # then both of mine see its keys in front; else mine in the back see all its keys
            pick = partial(jax.tree.map, partial(jnp.where, front))
            row, key = pick(*rows), pick(*keys)
            one, other, more = met(row, pick(*found), key, pick(*sent), more)
            return [pick(one, found[0]), pick(found[1], one)], [pick(other, sent[0]), pick(sent[1], other)], more

        def step(carry, i):
            (keys, sent), found, more = carry
            coming = self._on(keys)
            found, sent, more = meeting((here - i) % self.count, keys, found, sent, more, False)
            return ((coming, self._on(sent)), found, more), None

        found, sent, more = meeting(here, keys, found, sent, more, True)
        carry = self._on((keys, sent)), found, more
        ((_, sent), found, more), _ = scan(step, carry, jnp.arange(1, self.count, dtype=jnp.int32))
        return found, sent, more


def _zeros(like, names, dtype):
    return {name: jnp.zeros(like[name].shape, dtype) for name in names}


def _by_blocks(row, state):
    """What belongs to each block of queries, one block after the other."""
    n = row["q"].shape[-2]
    size = max(1, min(BLOCK, n))
    first = row["first"] + size * jnp.arange(-(-n // size), dtype=jnp.int32)
    arrays = {name: x for name, x in row.items() if name != "first"}
    return {name: blocks(x, size) for name, x in (arrays | state).items()} | {"first": first}


def _beside(parts, key):
    """What `scores` and `dropped` take beside queries and keys, and the place of the first of these."""
    start, own = key["first"], {"m": key["k"].shape[-2]}
    if "key" in parts:
        own["key"] = jax.random.fold_in(parts["key"], start)
    if key.keys() >= {"always"}:
        return own | {"sinks": (key["k"], key["v"])}, start
    own |= {name: part for name, part in key.items() if name in TOKENS}
    return own | ({"table": parts["table"]} if "table" in parts else {}), start


def _met(rule, parts, row, state, key, sent, more):
    """What a stretch of queries has found after these keys too."""
    parts, start = _beside(parts, key)

    def block(now):
        s, _ = scores(rule, parts, now, key["k"], start)
        top = jnp.maximum(lax.stop_gradient(now["top"]), peak(s))
        zero = jnp.where(jnp.isneginf(top), 0, top)
        e, less = jnp.exp(s - zero), jnp.exp(now["top"] - zero)
        p = dropped(rule, parts, now, e, start)
        o = jnp.einsum("bgrqk,bgke->bgrqe", p.astype(key["v"].dtype), key["v"], preferred_element_type=e.dtype)
        return {"o": now["o"] * less + o, "top": top, "sum": now["sum"] * less + e.sum(-1, keepdims=True)}

    n = row["q"].shape[-2]
    return jax.tree.map(lambda x: unblocked(x, n), lax.map(block, _by_blocks(row, state))), sent, more


def _met_back(rule, parts, row, state, key, sent, more):
    """(dq of a stretch of queries, {dk, dv} of these keys, and of the table), with what these keys add."""
    parts, start = _beside(parts, key)
    narrow = row["q"].dtype
    dot = partial(jnp.einsum, preferred_element_type=wide(row["q"]).dtype)

    def block(carry, now):
        sent, more = carry
        s, slope = scores(rule, parts, now, key["k"], start)
        p = jnp.exp(jnp.minimum(s - now["logs"], 0))  # no more than 1, in rows too that fill up a block
        kept = dropped(rule, parts, now, jnp.ones_like(p), start)
        ds = p * (dot("bgrqe,bgke->bgrqk", now["do"], key["v"]) * kept - now["dot"])
        if "table" in parts:
            more = more | {"table": by_distance(more["table"], ds, now, start)}
        ds = (ds if slope is None else ds * slope).astype(narrow)
        dk = dot("bgrqk,bgrqd->bgkd", ds, now["q"])
        dv = dot("bgrqk,bgrqe->bgke", (p * kept).astype(narrow), now["do"])
        dq = now["state"] + dot("bgrqk,bgkd->bgrqd", ds, key["k"])
        return ({"k": sent["k"] + dk, "v": sent["v"] + dv}, more), dq

    (sent, more), dq = scan(block, (sent, more), _by_blocks(row, {"state": state["q"]}))
    return {"q": unblocked(dq, row["q"].shape[-2])}, sent, more
