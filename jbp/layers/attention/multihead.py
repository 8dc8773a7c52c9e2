"""The attention layer: heads, groups of them, masks, segments, biases, positions."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, known, show, take
from jbp.fields import Count, Positive, Rate, Size
from jbp.keys import split
from jbp.layer import Layer
from jbp.layers.attention import beside
from jbp.layers.attention.blockwise import Rule, attend, attend_back
from jbp.layers.attention.core import NONE, kept_by, plain_softmax, scores_of, seen_by
from jbp.layers.attention.ring import Ring
from jbp.layers.attention.rotary import rotated
from jbp.numerics import Static, part_of, product
from jbp.params import Buffer

NAMES = "x", "source", "keys", "values", *beside.BESIDE
BASE = 10000.0  # of the rotary positions


@dataclass(frozen=True)
class MultiHeadAttention(Layer):
    """y = concat_h(softmax(s, seen) v) W_o, s = q kᵀ / √d, with q = x W_q, k = z W_k, v = z W_v; z is x or the source.

        do = dy W_oᵀ      p = softmax(s, seen)      dv = pᵀ do      ds = p (do vᵀ − Σ p do vᵀ)
        dq = ds k / √d      dk = dsᵀ q / √d      dx = dq W_qᵀ      dz = dk W_kᵀ + dv W_vᵀ
        dW_q = xᵀ dq      dW_k = zᵀ dk      dW_v = zᵀ dv      dW_o = oᵀ dy      (`bias`: db = Σ dq, Σ dk, Σ dv, Σ dy)

    Input: x (b, n, f), or a tuple of x and then a source (b, m, e) and a mask, each or both, or a dict of these and
    more by name: `x`; `source`, or `keys` (b, m, e) and `values` (b, m, c) apart; `mask`, booleans or integers, not 0
    where a key may be seen, of shape (b, m), (n, m), (b, n, m) or (b, heads, n, m); `segments` (b, n), with a source
    also `source_segments` (b, m), integers: only equals see each other; `bias`, floats of shape (b, heads, n, m), any
    of which may be 1, added to s, −∞ where a key may not be seen. Only floats have a cotangent. In a tuple floats are
    the source and all else is the mask; what could be a source or a mask of floats, (b, n, n), and a mask that could be
    (b, m) or (n, m), are refused there: name them. By its name a mask with b = n is (b, m), for (n, m) give mask[None].

    A query that sees nothing gives zero, and sends zero down. What the mask hides from every query may hold NaN: it
    counts as zero, in x as a query too, and its cotangent is zero.

    Options: `groups` of heads that share their keys and values, `heads` of them unless given (1: multi-query; Ainslie
    et al., *GQA*, 2023); `causal`; a `window`, |i − j| < window; `cap`, s = cap tanh(s / cap) (*Gemma 2*, 2024, §2);
    `alibi`, s − 2^(−8 h / heads) |i − j| (Press et al., 2022); `rotary`, q and k turned by their places (Rotary);
    `distances=c`, a learned bias for each head and distance j − i, the same beyond c (Raffel et al., 2020, §2.1, with
    no buckets); `dropout`, the rate at which weights after the softmax are left out, drawn again in backward from
    the key, a Buffer; `evaluation` stops it. `bias`: q, k, v and y have one, as by default in PyTorch, Keras and Flax.
    `bias_kv`: one more key and value, learned, that all queries see; `zero_attention`: one more, of zeros (PyTorch's
    add_bias_kv and add_zero_attn). `key_size`, the features of a head, f / heads unless given. `weights`: y is the pair
    (y, p), p (b, heads, n, m) the weights after dropout, more than m with `bias_kv` or `zero_attention`; they take
    memory n×m.

    delta is (dq, dk, dv, dy) and the gradients of the learned bias and of `bias_kv`, which are made in backward.
    Keeps its inputs, q, k, v and o: never an n×m matrix, unless a bias or mask of that size was given. Shapes: y like
    x, d = f / heads, W_q (f, g, r, d), W_k (e, g, d), W_v (c, g, d), W_o (g, r, d, f), with g groups of r heads.
    (Vaswani et al., *Attention Is All You Need*, 2017, §3.2.) Raises LayerError for other ranks and names, sizes that
    do not divide, and causal attention on another length.

    Step by step, for text that is being written: `cache` makes room, `decode` takes the next places.

    >>> layer, x = MultiHeadAttention(2), jnp.ones((1, 5, 4))
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'k': (4, 2, 2), 'o': (2, 1, 2, 4), 'q': (4, 2, 1, 2), 'v': (4, 2, 2)}
    >>> layer(params, x).shape
    (1, 5, 4)
    >>> layer(params, {"x": x, "mask": jnp.array([[1, 1, 1, 0, 0]])}).shape
    (1, 5, 4)
    """

    cuts: ClassVar[Any] = "alone", "context"
    heads: Size
    groups: Size | None = None
    causal: bool = False
    window: Annotated[Size, NONE] | None = None
    cap: Annotated[Positive, NONE] | None = None
    alibi: bool = False
    rotary: bool = False
    distances: Annotated[Count, NONE] | None = None
    dropout: Rate | None = None
    bias: bool = False
    bias_kv: bool = False
    zero_attention: bool = False
    key_size: Size | None = None
    weights: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.groups is not None and self.heads % self.groups:
            raise LayerError(
                self, f"got {self.heads} heads in {self.groups} groups; expected groups that divide the heads. Try 1."
            )

    def part(self, count, x=None, /):
        groups = self.groups or self.heads
        if groups % count or self.alibi or self.weights:
            return None
        size = self.key_size if x is None else self._size(self._named(x)["x"])
        return replace(self, heads=self.heads // count, groups=groups // count, key_size=size)

    def context(self, over, count, /):
        return None if self.weights else AttentionHere(**vars(self), over=over, count=count)

    @property
    def advances(self) -> bool:
        """Whether there is a key to move on."""
        return bool(self.dropout)

    def _rule(self):
        return Rule(self.causal, self.window, self.cap, self.alibi, self.dropout or 0.0)

    def _named(self, x: Any) -> dict[str, Any]:
        """The inputs by name, as they came."""
        if isinstance(x, dict):
            return dict(x)
        first, *rest = x if isinstance(x, tuple | list) and x else (x,)
        given: dict[str, Any] = {"x": first}
        size = tuple(getattr(first, "shape", ()))
        for part in rest:
            shape = tuple(getattr(part, "shape", ()))
            if not beside.is_float(part):
                if "mask" in given:
                    self._wrong(x, "x and at most one source and one mask")
                given["mask"] = part
            elif len(shape) != 3 or shape[1:] == size[1:2] * 2 or "source" in given:
                self._wrong(
                    x,
                    "x and at most one source (b, m, features), then a mask of booleans or integers",
                    "Floats added to the scores are {'x': x, 'bias': bias}, a mask of floats is mask == 0, and a "
                    "source of the shape of a mask {'x': x, 'source': source}",
                )
            else:
                given["source"] = part
        m, mask = (tuple(getattr(given.get(name, first), "shape", ())) for name in ("source", "mask"))
        if size[:1] == size[1:2] != (1,) and mask == size[:1] + m[1:2]:
            self._wrong(
                x,
                "a mask that could be (b, m) or (n, m) by its name",
                "For the keys of each example write {'x': x, 'mask': mask}, for the same in all mask[None]",
            )
        return given

    def _inputs(self, x: Any) -> tuple[dict[str, Any], Static]:
        """The inputs by name, checked, `keys` and `values` among them, and how they came."""
        named = self._named(x)
        kind, names = dict if isinstance(x, dict) else tuple if isinstance(x, tuple | list) else None, tuple(named)
        named = {name: part for name, part in named.items() if part is not None}  # as where it is left out
        came = Static((kind, names, tuple(named)))
        if "x" not in named or set(named) - set(NAMES):
            self._wrong(named, f"a dict with 'x' and perhaps {', '.join(map(repr, NAMES[1:]))}")
        apart = {"keys", "values"} & set(named)
        if len(apart) == 1 or (apart and "source" in named):
            self._wrong(named, "either 'source', or both 'keys' and 'values'")
        given = dict(named)
        z = given.pop("source", given["x"])
        given |= {"keys": given.get("keys", z), "values": given.get("values", z)}
        x = floats(self, given["x"], "(batch, n, features)", rank=3)
        keys, values = (floats(self, given[name], "(batch, m, features)", rank=3) for name in ("keys", "values"))
        if self.key_size is None and x.shape[-1] % self.heads:
            raise LayerError(
                self,
                f"got {x.shape[-1]} features; expected a multiple of heads={self.heads}. "
                "Choose heads that divide the features.",
            )
        if self.rotary and self._size(x) % 2:
            self._wrong(x, f"an even number of features in each of heads={self.heads} for rotary positions")
        if {z.shape[0] for z in (keys, values)} != {x.shape[0]} or {z.dtype for z in (keys, values)} != {x.dtype}:
            self._wrong(named, "a source of x's batch and dtype")
        if keys.shape[1] != values.shape[1]:
            self._wrong(named, "as many keys as values")
        if self.causal and keys.shape[1] != x.shape[1]:
            raise LayerError(
                self,
                f"got {x.shape[1]} queries and {keys.shape[1]} keys; expected as many for causal attention. "
                "Leave out `causal` to see all of another sequence.",
            )
        if "segments" in given and "source" not in named and not apart:
            given["source_segments"] = given["segments"]
        return given, came

    def _wrong(self, came, wanted, remedy="Give x, (x, source), (x, mask), (x, source, mask) or a dict"):
        raise LayerError(self, f"got {show(came)}; expected {wanted}. {remedy}.")

    def _size(self, x):
        return self.key_size or x.shape[-1] // self.heads

    def _shapes(self, given):
        f, e, c = (given[name].shape[-1] for name in ("x", "keys", "values"))
        g, d = self.groups or self.heads, self._size(given["x"])
        r = self.heads // g
        shapes: dict[str, tuple[int, ...]] = {"q": (f, g, r, d), "k": (e, g, d), "v": (c, g, d), "o": (g, r, d, f)}
        if self.bias:
            shapes |= {"b_q": (g, r, d), "b_k": (g, d), "b_v": (g, d), "b_o": (f,)}
        if self.bias_kv:
            shapes |= {"bias_k": (g, d), "bias_v": (g, d)}
        if self.distances is not None:
            shapes["distances"] = (self.heads, 2 * self.distances + 1)
        return shapes if self.dropout is None else {**shapes, "key": ()}

    def init(self, key, x, /):
        given = self._inputs(x)[0]
        jax.eval_shape(self._beside, given)
        x, shapes, keys = given["x"], self._shapes(given), jax.random.split(key, 5)
        fan_in = {"q": x, "k": given["keys"], "v": given["values"], "o": x}
        params: dict[str, Any] = {
            name: jax.random.normal(k, shapes[name], x.dtype) * max(z.shape[-1], 1) ** -0.5
            for k, (name, z) in zip(keys, fan_in.items(), strict=False)
        }
        if self.bias_kv:
            for k, name in zip(jax.random.split(keys[4]), ("bias_k", "bias_v"), strict=True):
                params[name] = jax.random.normal(k, shapes[name], x.dtype) * self._size(x) ** -0.5
        params |= {name: jnp.zeros(shapes[name], x.dtype) for name in shapes if name not in (*params, "key")}
        return params if self.dropout is None else {**params, "key": Buffer(keys[4])}

    def _beside(self, given):
        x, keys = given["x"], given["keys"]
        return beside.parts(self, given, x.shape[0], self.heads, x.shape[1], keys.shape[1], x.dtype)

    def _cleared(self, given, parts):
        """x, keys and values, with zeros for what is not finite where the mask hides it from every query."""
        x, keys, values = given["x"], given["keys"], given["values"]
        if "mask" not in parts:
            return x, keys, values
        hidden = self._hidden(parts)
        cleared = beside.cleared(keys, hidden)
        return cleared if keys is x else x, cleared, cleared if values is keys else beside.cleared(values, hidden)

    def _hidden(self, parts):
        """The keys that no query sees, (b, m, 1)."""
        return beside.unseen(parts["mask"])[..., None]

    def _first(self, x):
        """The place of the first of x's tokens, None for 0."""

    def _parts(self, params, parts, b, dtype):
        """What `attend` takes beside q, k and v: to what came with x is added what belongs to the layer."""
        parts = dict(parts)
        if self.distances is not None:
            parts["table"] = params["distances"]
        if self.bias_kv or self.zero_attention:
            parts["sinks"] = tuple(
                self._sinks(params.get(name), b, params["k"], dtype) for name in ("bias_k", "bias_v")
            )
        return {**parts, "key": params["key"].value} if self.dropout else parts

    def _sinks(self, learned, b, w, dtype):
        rows = [] if learned is None else [learned.astype(dtype)]
        rows += [jnp.zeros(w.shape[1:], dtype)] * self.zero_attention
        return jnp.broadcast_to(jnp.stack(rows, 1)[None], (b, w.shape[1], len(rows), w.shape[2]))

    def _queries(self, w, x, first=None):
        q = jnp.einsum("bnf,fgrd->bgrnd", x, w["q"])
        q = q + w["b_q"][None, :, :, None] if self.bias else q
        return rotated(q, BASE, first=first) if self.rotary else q

    def _keys(self, w, keys, values, first=None):
        k, v = jnp.einsum("bme,egd->bgmd", keys, w["k"]), jnp.einsum("bme,egd->bgmd", values, w["v"])
        if self.bias:
            k, v = k + w["b_k"][None, :, None], v + w["b_v"][None, :, None]
        return rotated(k, BASE, first=first) if self.rotary else k, v

    def _weighing(self, v, parts):
        """Values that put out their own weights too: a unit vector after each."""
        if not self.weights:
            return v, parts
        m, sinks = v.shape[2], parts.get("sinks")
        one = jnp.eye(m + (sinks[1].shape[2] if sinks else 0), dtype=v.dtype)

        def marked(v, one):
            return jnp.concatenate([v, jnp.broadcast_to(one[None, None], (*v.shape[:2], *one.shape))], -1)

        if sinks:
            parts = {**parts, "sinks": (sinks[0], marked(sinks[1], one[m:]))}
        return marked(v, one[:m]), parts

    def forward(self, params, x, /):
        given, came = self._inputs(x)
        w, parts = self._weights(params, given), self._beside(given)
        x, keys, values = self._cleared(given, parts)
        first = self._first(x)
        q, (k, v) = self._queries(w, x, first), self._keys(w, keys, values, first)
        y, o = self._attended(params, w, parts, q, k, v)
        return y, (given, came, q, k, v, o)

    def _weights(self, params, given):
        shapes = self._shapes(given)
        return _cast(dict(zip(shapes, take(self, params, given["x"].dtype, **shapes), strict=True)), given["x"].dtype)

    def _attended(self, params, w, parts, q, k, v):
        """(y, o)."""
        marked, parts = self._weighing(v, self._parts(params, parts, q.shape[0], q.dtype))
        o = attend(self._rule(), parts, q, k, marked)
        o, p = (o[..., : v.shape[-1]], o[..., v.shape[-1] :]) if self.weights else (o, None)
        y = self._out(w, o)
        return y if p is None else (y, p.reshape(p.shape[0], self.heads, *p.shape[3:])), o

    def _out(self, w, o):
        y = jnp.einsum("bgrnd,grdf->bnf", o, w["o"])
        return y + w["b_o"][None, None] if self.bias else y

    def backward(self, params, residuals, dy, /):
        given, came, q, k, v, o = residuals
        dy, dp = dy if self.weights else (dy, None)
        w, dtype = _cast(params, dy.dtype), params["q"].dtype
        do = jnp.einsum("bnf,grdf->bgrnd", dy, w["o"])
        do = do if dp is None else jnp.concatenate([do, dp.reshape(*do.shape[:4], dp.shape[-1])], -1)
        dq, dk, dv, more = self._attended_back(params, self._beside(given), q, k, v, o, do)
        if self.rotary:
            dq, dk = (rotated(d, BASE, -1, self._first(given["x"])) for d in (dq, dk))
        dx = jnp.einsum("bgrnd,fgrd->bnf", dq, w["q"])
        dkeys, dvalues = jnp.einsum("bgmd,egd->bme", dk, w["k"]), jnp.einsum("bgmd,egd->bme", dv, w["v"])
        kind, names, there = came.value
        down = {"x": dx, "keys": dkeys, "values": dvalues, "bias": more.pop("bias", None)}
        if "source" in there:
            down["source"] = dkeys + dvalues
        elif "keys" not in there:
            down["x"] = self._finite(given, dx) + (dkeys + dvalues)
        down = {name: down[name] if name in there and name in down else None for name in names}
        if self.bias_kv:
            more["sinks"] = tuple(d[:, :, 0, : v.shape[-1]] for d in more["sinks"])
        else:
            more.pop("sinks", None)
        delta = jax.tree.map(lambda d: d.astype(dtype), (dq, dk, dv, dy, more))
        return (down if kind is dict else tuple(down.values()) if kind else down["x"]), delta

    def _attended_back(self, params, parts, q, k, v, o, do):
        """(dq, dk, dv, more) of `attend_back`."""
        marked, parts = self._weighing(v, self._parts(params, parts, q.shape[0], q.dtype))
        dq, dk, dv, more = attend_back(self._rule(), parts, q, k, marked, do)
        return dq, dk, dv[..., : v.shape[-1]], more

    def _finite(self, given, dx):
        """dx of the queries, zero where x was taken as zero."""
        if "mask" not in given:
            return dx
        hidden = self._hidden(self._beside(given))
        return jnp.where(hidden & ~jnp.isfinite(given["x"]), jnp.zeros((), dx.dtype), dx)

    def gradient(self, residuals, delta, /):
        given, _, _, _, _, o = residuals
        dq, dk, dv, dy, more = delta
        x, keys, values = self._cleared(given, self._beside(given))
        grads = {
            "q": product("bnf,bgrnd->fgrd", x, dq),
            "k": product("bme,bgmd->egd", keys, dk),
            "v": product("bme,bgmd->egd", values, dv),
            "o": product("bgrnd,bnf->grdf", o, dy),
        }
        if self.bias:
            grads |= {"b_q": dq.sum((0, 3)), "b_k": dk.sum((0, 2)), "b_v": dv.sum((0, 2)), "b_o": dy.sum((0, 1))}
        if self.bias_kv:
            grads |= {name: d.sum(0) for name, d in zip(("bias_k", "bias_v"), more["sinks"], strict=True)}
        if self.distances is not None:
            grads["distances"] = more["table"]
        return grads if self.dropout is None else {**grads, "key": None}

    def advance(self, params, residuals, /):
        if not self.dropout:
            return params
        return split(params)

    def evaluation(self):
        return replace(self, dropout=0.0) if self.dropout else self

    def cache(self, params, x, length, /):
        """Room for the keys and values of `length` places, for `decode`: x is an input, or the shapes of one.

        Where x has a source (or keys and values), the cache holds its keys and values instead, made once for all steps.
        """
        given, came = self._inputs(x)
        (b, *_), dtype = given["x"].shape, given["x"].dtype
        g, d, at = self.groups or self.heads, self._size(given["x"]), jnp.zeros((), jnp.int32)
        if {"source", "keys"} & set(came.value[2]):
            parts = self._beside(given)
            _, keys, values = self._cleared(given, parts)
            k, v = self._keys(self._weights(params, given), keys, values)
            held = {name: given[name] for name in ("mask", "source_segments") if name in given}
            return {"k": k, "v": v, "at": at, "other": held}
        if not self.causal:
            raise LayerError(self, "got causal=False; expected attention that sees no later place. Write causal=True.")
        return {"k": jnp.zeros((b, g, length, d), dtype), "v": jnp.zeros((b, g, length, d), dtype), "at": at}

    def decode(self, params, cache, x, /):
        """(y, cache) for the next places x (b, t, f), t = 1 for one: y as `forward` has it there, having seen them all.

        `x` may be a dict with a mask (b, length), or (b, t, length), and a bias (b, heads, t, length), over all places
        of the cache. It has no backward pass. Places beyond the cache are an error, and NaN where that cannot be known.
        Raises LayerError with dropout, which `evaluation` takes out.
        """
        if self.dropout:
            raise LayerError(
                self, f"got dropout={self.dropout}; expected none where text is written. Use layer.evaluation()."
            )
        given = x if isinstance(x, dict) else {"x": x}
        x = floats(self, given["x"], "(batch, n, features)", rank=3)
        (b, n, _), (*_, m, _), at = x.shape, cache["k"].shape, cache["at"]
        other = cache.get("other")
        w = self._weights(params, {"x": x, "keys": x, "values": x}) if other is None else _cast(params, x.dtype)
        q, k, v = self._queries(w, x, at), cache["k"], cache["v"]
        if other is None:
            if n > m or (known(at) and int(at) + n > m):
                raise LayerError(
                    self, f"got {n} more places in a cache for {m}; expected no more. Make it longer: layer.cache(...)."
                )
            k, v = (
                lax.dynamic_update_slice_in_dim(old, new, at, 2)
                for old, new in zip((k, v), self._keys(w, x, x, at), strict=True)
            )
        parts = beside.parts(self, {**(other or {}), **given}, b, self.heads, n, m, x.dtype)
        y, _ = self._attended(params, w, {**parts, "offset": at}, q, k, v)
        if other is None:
            y = jax.tree.map(lambda y: jnp.where(at + n > m, jnp.nan, y), y)
        return y, {**cache, "k": k, "v": v, "at": at + n}

    def reference(self, params, x, /):
        """Head by head, with the whole matrix of scores."""
        given = self._inputs(x)[0]
        (b, n, f), m = given["x"].shape, given["keys"].shape[1]
        seen = seen_by(self, given, b, self.heads, n, m)
        x, keys, values = given["x"], given["keys"], given["values"]
        if "mask" in given:
            masked = seen_by(replace(self, causal=False, window=None), {"mask": given["mask"]}, b, self.heads, n, m)
            hidden = ~masked.any((1, 2))[..., None]
            own = keys is x
            keys, values = (jnp.where(hidden & ~jnp.isfinite(z), 0, z) for z in (keys, values))
            x = keys if own else x
        bias = jnp.zeros((1, 1, 1, 1), x.dtype) if "bias" not in given else given["bias"]
        bias = jnp.broadcast_to(bias, (b, self.heads, n, m))
        i, j = jnp.arange(n), jnp.arange(m)
        extra = self.bias_kv + self.zero_attention
        lead = b, params["q"].shape[1], params["q"].shape[2]
        kept = kept_by(self.dropout, params["key"].value, lead, n, m + extra, x.dtype) if self.dropout else None
        y, weights = jnp.zeros((b, n, f), x.dtype), []
        for h in range(self.heads):
            g, r = divmod(h, params["q"].shape[2])
            q, k, v = x @ params["q"][:, g, r], keys @ params["k"][:, g], values @ params["v"][:, g]
            if self.bias:
                q = q + params["b_q"][g, r][None, None]
                k, v = k + params["b_k"][g][None, None], v + params["b_v"][g][None, None]
            if self.rotary:
                q, k = _turned(q, i), _turned(k, j)
            more_k, more_v = jnp.zeros((b, extra, k.shape[-1]), x.dtype), jnp.zeros((b, extra, v.shape[-1]), x.dtype)
            if self.bias_kv:
                more_k, more_v = (
                    z.at[:, 0].set(jnp.broadcast_to(params[name][g][None], z[:, 0].shape))
                    for z, name in ((more_k, "bias_k"), (more_v, "bias_v"))
                )
            s, always = (q @ jnp.swapaxes(z, 1, 2) / q.shape[-1] ** 0.5 for z in (k, more_k))
            added = bias[:, h]
            if self.distances is not None:
                far = jnp.clip(j[None] - i[:, None], -self.distances, self.distances) + self.distances
                added = added + params["distances"][h][far][None]
            always = always if self.cap is None else self.cap * jnp.tanh(always / self.cap)
            s = jnp.concatenate([scores_of(self, s, h, self.heads, added), always], -1)
            p = plain_softmax(s, jnp.concatenate([seen[:, h], jnp.ones(always.shape, bool)], -1))
            p = p if kept is None else p * kept[:, h]
            weights.append(p)
            y = y + p @ jnp.concatenate([v, more_v], 1) @ params["o"][g, r]
        y = y + params["b_o"][None, None] if self.bias else y
        return (y, jnp.stack(weights, 1)) if self.weights else y


def _cast(params, dtype):
    """The weights in the dtype of what they are multiplied with."""
    return {name: p.astype(dtype) for name, p in params.items() if name != "key"}


def _turned(x, place):
    """Rotary positions by the matrix of each rotation, for the definition."""
    half = x.shape[-1] // 2
    angle = jnp.outer(place.astype(x.dtype), 1 / BASE ** (jnp.arange(half).astype(x.dtype) / half))
    c, s = jnp.cos(angle)[None], jnp.sin(angle)[None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([c * a - s * b, s * a + c * b], -1)


@dataclass(frozen=True)
class AttentionHere(MultiHeadAttention):
    """What a device of `count` along the axis `over` does of MultiHeadAttention where each has its part of the tokens.

    Inside of `jax.shard_map`. Queries stay where they are, keys and values go round, in forward and again in backward
    with their cotangents: ring.py. A mask (b, m) and segments come in parts as x does, a mask (b, n, m) by its rows.
    Keeps log Σ exp s of its queries beside what MultiHeadAttention keeps. Each device drops weights by other numbers.
    """

    cuts: ClassVar[Any] = ("alone",)
    over: str = ""
    count: Size = 1

    @property
    def _ring(self):
        return Ring(self.over, self.count)

    def _first(self, x):
        return part_of(self.over, x)

    def _beside(self, given):
        mask, x, m = given.get("mask"), given["x"], given["keys"].shape[1]
        parts = super()._beside({name: part for name, part in given.items() if name != "mask"})
        if mask is None:
            return parts
        m = m if mask.ndim == 2 else m * self.count
        return parts | {"mask": beside.whole_mask(self, mask, x.shape[0], self.heads, x.shape[1], m)}

    def _hidden(self, parts):
        hidden = super()._hidden(parts)
        if parts["mask"].shape[2] == 1:
            return hidden
        everywhere, n = lax.pmin(hidden.astype(jnp.int32), self.over) > 0, hidden.shape[1] // self.count
        return lax.dynamic_slice_in_dim(everywhere, lax.axis_index(self.over) * n, n, 1)

    def _attended(self, params, w, parts, q, k, v):
        o, logs = self._ring.attend(self._rule(), self._parts(params, parts, q.shape[0], q.dtype), q, k, v)
        return self._out(w, o), (o, logs)

    def _attended_back(self, params, parts, q, k, v, o, do):
        parts, (o, logs) = self._parts(params, parts, q.shape[0], q.dtype), o
        return self._ring.attend_back(self._rule(), parts, q, k, v, o, logs, do)

    def gradient(self, residuals, delta, /):
        *before, (o, _) = residuals
        return super().gradient((*before, o), delta)


@dataclass(frozen=True)
class CausalSelfAttention(MultiHeadAttention):
    """MultiHeadAttention in which each place sees itself and what came before.

    >>> x = jnp.ones((1, 5, 4))
    >>> params = CausalSelfAttention(2).init(jax.random.key(0), x)
    >>> CausalSelfAttention(2)(params, x).shape
    (1, 5, 4)
    """

    causal: bool = True


CASES = (
    Case(CausalSelfAttention(1), f(2, 5, 3)),
    Case(CausalSelfAttention(2), f(2, 5, 8), f(1, 130, 2), {"x": f(1, 130, 2), "bias": f(1, 2, 1, 130)}),
    Case(MultiHeadAttention(1), f(2, 5, 3), (f(2, 5, 3), f(2, 3, 2)), (f(2, 5, 3), i(2, 5, below=2))),
    Case(
        MultiHeadAttention(2, bias=True, bias_kv=True, zero_attention=True),
        f(2, 5, 8),
        {"x": f(2, 3, 4), "keys": f(2, 5, 3), "values": f(2, 5, 2), "mask": i(2, 3, 5, below=2)},
    ),
    Case(MultiHeadAttention(2, causal=True, window=2), f(2, 5, 8)),
    Case(MultiHeadAttention(4, groups=2, window=3), f(2, 5, 8), (f(2, 5, 8), f(2, 3, 5), i(2, 3, below=2))),
    Case(MultiHeadAttention(2, cap=1.5, alibi=True), f(2, 5, 8)),
    Case(MultiHeadAttention(4, groups=2, alibi=True), f(2, 5, 8)),
    Case(MultiHeadAttention(2, groups=1, causal=True, rotary=True, distances=2), f(2, 5, 8)),
    Case(MultiHeadAttention(1, dropout=0.3), f(2, 5, 3), (f(2, 5, 3), f(2, 3, 2))),
    Case(MultiHeadAttention(2, key_size=3, weights=True), {"x": f(1, 2, 3), "mask": i(1, 2, 2, 2, below=2)}),
    Case(
        MultiHeadAttention(2, window=2),
        {"x": f(2, 5, 8), "bias": f(1, 2, 5, 5), "segments": i(2, 5, below=2)},
        {"x": f(1, 130, 2), "bias": f(1, 1, 130, 130), "mask": i(1, 130, below=2)},
    ),
)
