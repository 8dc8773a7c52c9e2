"""The attention layer: heads, groups of them, masks, segments, biases, positions."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, show, take
from jbp.layer import Layer
from jbp.layers.attention.blockwise import Rule, attend, attend_back
from jbp.layers.attention.rotary import rotated
from jbp.numerics import Static
from jbp.params import Buffer

NAMES = "x", "source", "mask", "segments", "source_segments", "bias"
BASE = 10000.0  # of the rotary positions


@dataclass(frozen=True)
class MultiHeadAttention(Layer):
    """y = concat_h(softmax(s, seen) v) W_o, s = q kᵀ / √d, with q = x W_q, k = z W_k, v = z W_v; z is x or the source.

        do = dy W_oᵀ      dq, dk, dv from `attend_back`      dx = dq W_qᵀ      dz = dk W_kᵀ + dv W_vᵀ
        dW_q = xᵀ dq      dW_k = zᵀ dk      dW_v = zᵀ dv      dW_o = oᵀ dy

    Input: x (b, n, f), or a tuple of x and then a source (b, m, e) and a padding mask, each or both, or a dict of these
    and more by name: `x`, `source`, `mask` (b, m), integers or booleans, not 0 where a key may be seen; `segments`
    (b, n), with a source also `source_segments` (b, m), integers: only equals see each other; `bias`, floats of shape
    (b, heads, n, m), any of which may be 1, added to s. Only floats have a cotangent. A query that sees nothing gives
    zero, and sends zero down.

    Options: `groups` of heads that share their keys and values, `heads` of them unless given (1: multi-query; Ainslie
    et al., *GQA*, 2023); `causal`; a `window`, |i − j| < window; `cap`, s = cap tanh(s / cap) (*Gemma 2*, 2024, §2);
    `alibi`, s − 2^(−8 h / heads) |i − j| (Press et al., 2022); `rotary`, q and k turned by their places (Rotary);
    `distances=c`, a learned bias for each head and distance j − i, the same beyond c (Raffel et al., 2020, §2.1, with
    no buckets); `dropout`, the rate at which weights after the softmax are left out, drawn again on the way back from
    the key, a Buffer; `evaluation` stops it.

    delta is (dq, dk, dv, dy) and the learned bias's gradient, which is made on the way down. Keeps its inputs, q, k, v
    and o: never an n×m matrix, unless a bias of that size was given. Shapes: y like x, d = f / heads, W_q (f, g, r, d),
    W_k and W_v (e, g, d), W_o (g, r, d, f), with g groups of r heads. (Vaswani et al., *Attention Is All You Need*,
    2017, §3.2.) Raises LayerError for other ranks and names, sizes that do not divide, and causal attention on another
    length.
    """

    heads: int
    groups: int | None = None
    causal: bool = False
    window: int | None = None
    cap: float | None = None
    alibi: bool = False
    rotary: bool = False
    distances: int | None = None
    dropout: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.heads < 1 or (self.groups is not None and (self.groups < 1 or self.heads % self.groups)):
            raise LayerError(
                self, f"got {self.heads} heads in {self.groups} groups; expected groups that divide the heads. Try 1."
            )
        for name, least in (("window", 1), ("distances", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise LayerError(self, f"got {name}={value}; expected {least} or more. To go without write None.")
        if self.cap is not None and not self.cap > 0:
            raise LayerError(self, f"got cap={self.cap}; expected a positive number. For no cap write None.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise LayerError(
                self, f"got dropout={self.dropout}; expected the probability to drop, 0 <= dropout < 1. Try 0.1."
            )

    @property
    def advances(self) -> bool:
        """Whether there is a key to move on."""
        return bool(self.dropout)

    def _rule(self):
        return Rule(self.causal, self.window, self.cap, self.alibi, self.dropout or 0.0)

    def _inputs(self, x):
        """The inputs by name, checked, z among them as `source`, and how they came."""
        if isinstance(x, dict):
            given, names = dict(x), tuple(x)
        else:
            several = x if isinstance(x, tuple | list) else (x,)
            kinds = ("source" if jnp.issubdtype(part.dtype, jnp.floating) else "mask" for part in several[1:])
            names = ("x", *kinds)
            given = dict(zip(names, several, strict=True))
            if len(given) < len(names):
                self._wrong(x, "x and at most one source and one mask")
        came = Static((dict if isinstance(x, dict) else tuple if isinstance(x, tuple | list) else None, names))
        if "x" not in given or set(given) - set(NAMES):
            self._wrong(given, f"a dict with 'x' and perhaps {', '.join(map(repr, NAMES[1:]))}")
        x = floats(self, given["x"], "(batch, n, features)", rank=3)
        z = floats(self, given.get("source", x), "(batch, m, features)", rank=3)
        if x.shape[-1] % self.heads:
            raise LayerError(
                self,
                f"got {x.shape[-1]} features; expected a multiple of heads={self.heads}. "
                "Choose heads that divide the features.",
            )
        if self.rotary and x.shape[-1] // self.heads % 2:
            self._wrong(x, f"an even number of features in each of heads={self.heads} for rotary positions")
        if z.shape[0] != x.shape[0] or z.dtype != x.dtype:
            self._wrong(given, "a source of x's batch and dtype")
        if self.causal and z.shape[1] != x.shape[1]:
            raise LayerError(
                self,
                f"got {x.shape[1]} queries and {z.shape[1]} keys; expected as many for causal attention. "
                "Leave out `causal` to see all of another sequence.",
            )
        if "segments" in given and "source" not in given:
            given["source_segments"] = given["segments"]
        if ("segments" in given) != ("source_segments" in given):
            self._wrong(given, "segments of x and of the source, or of neither")
        for name, like in (("mask", z), ("segments", x), ("source_segments", z)):
            part = given.get(name)
            if part is not None and (part.shape != like.shape[:2] or jnp.issubdtype(part.dtype, jnp.floating)):
                self._wrong(part, f"a {name} of integers with shape {list(like.shape[:2])}")
        bias, whole = given.get("bias"), (x.shape[0], self.heads, x.shape[1], z.shape[1])
        if bias is not None and (bias.dtype != x.dtype or bias.ndim != 4 or not _fits(bias.shape, whole)):
            self._wrong(bias, f"a bias in {x.dtype} of shape {list(whole)}, any of which may be 1")
        return {**given, "x": x, "source": z}, came

    def _wrong(self, came, wanted):
        raise LayerError(
            self, f"got {show(came)}; expected {wanted}. Give x, (x, source), (x, mask), (x, source, mask) or a dict."
        )

    def _shapes(self, x, z):
        g = self.groups or self.heads
        f, e, r, d = x.shape[-1], z.shape[-1], self.heads // g, x.shape[-1] // self.heads
        shapes = {"q": (f, g, r, d), "k": (e, g, d), "v": (e, g, d), "o": (g, r, d, f)}
        if self.distances is not None:
            shapes["distances"] = (self.heads, 2 * self.distances + 1)
        return shapes if self.dropout is None else {**shapes, "key": ()}

    def init(self, key, x, /):
        given = self._inputs(x)[0]
        x, z = given["x"], given["source"]
        fan_in = {"q": x.shape[-1], "k": z.shape[-1], "v": z.shape[-1], "o": x.shape[-1]}
        shapes, keys = self._shapes(x, z), jax.random.split(key, 5)
        params: dict[str, Any] = {
            name: jax.random.normal(k, shapes[name], x.dtype) * max(size, 1) ** -0.5
            for k, (name, size) in zip(keys, fan_in.items(), strict=False)
        }
        if self.distances is not None:
            params["distances"] = jnp.zeros(shapes["distances"], x.dtype)
        return params if self.dropout is None else {**params, "key": Buffer(keys[4])}

    def _parts(self, params, given):
        """What `attend` takes beside q, k and v."""
        names = {"mask": "mask", "bias": "bias", "segments": "query_segments", "source_segments": "segments"}
        parts = {names[name]: given[name] for name in names if name in given}
        if self.distances is not None:
            parts["table"] = params["distances"]
        return {**parts, "key": params["key"].value} if self.dropout else parts

    def forward(self, params, x, /):
        given, came = self._inputs(x)
        x, z = given["x"], given["source"]
        w = dict(zip(self._shapes(x, z), take(self, params, x.dtype, **self._shapes(x, z)), strict=True))
        q = jnp.einsum("bnf,fgrd->bgrnd", x, w["q"])
        k, v = (jnp.einsum("bme,egd->bgmd", z, w[name]) for name in "kv")
        if self.rotary:
            q, k = rotated(q, BASE), rotated(k, BASE)
        o = attend(self._rule(), self._parts(params, given), q, k, v)
        return jnp.einsum("bgrnd,grdf->bnf", o, w["o"]), (given, came, q, k, v, o)

    def backward(self, params, residuals, dy, /):
        given, came, q, k, v, _ = residuals
        do = jnp.einsum("bnf,grdf->bgrnd", dy, params["o"])
        dq, dk, dv, more = attend_back(self._rule(), self._parts(params, given), q, k, v, do)
        if self.rotary:
            dq, dk = rotated(dq, BASE, -1), rotated(dk, BASE, -1)
        dx = jnp.einsum("bgrnd,fgrd->bnf", dq, params["q"])
        dz = jnp.einsum("bgmd,egd->bme", dk, params["k"]) + jnp.einsum("bgmd,egd->bme", dv, params["v"])
        kind, names = came.value
        down = {"x": dx if "source" in names else dx + dz, "source": dz, "bias": more.get("bias")}
        down = {name: down.get(name) for name in names}
        delta = dq, dk, dv, dy, more.get("table")
        return (down if kind is dict else tuple(down.values()) if kind else down["x"]), delta

    def gradient(self, residuals, delta, /):
        given, _, _, _, _, o = residuals
        x, z, (dq, dk, dv, dy, table) = given["x"], given["source"], delta
        grads = {
            "q": jnp.einsum("bnf,bgrnd->fgrd", x, dq),
            "k": jnp.einsum("bme,bgmd->egd", z, dk),
            "v": jnp.einsum("bme,bgmd->egd", z, dv),
            "o": jnp.einsum("bgrnd,bnf->grdf", o, dy),
        }
        if self.distances is not None:
            grads["distances"] = table
        return grads if self.dropout is None else {**grads, "key": None}

    def advance(self, params, residuals, /):
        if not self.dropout:
            return params
        return {**params, "key": Buffer(jax.random.split(params["key"].value, 1)[0])}

    def evaluation(self):
        return replace(self, dropout=0.0) if self.dropout else self

    def reference(self, params, x, /):
        """Head by head, with the whole matrix of scores."""
        given = self._inputs(x)[0]
        x, z = given["x"], given["source"]
        i, j = jnp.arange(x.shape[1])[:, None], jnp.arange(z.shape[1])[None]
        seen = ((j <= i) | (not self.causal)) & (jnp.abs(i - j) < (self.window or max(i.size, j.size, 1)))
        seen = jnp.broadcast_to(seen[None], (x.shape[0], i.size, j.size))
        if "mask" in given:
            seen &= given["mask"][:, None].astype(bool)
        if "segments" in given:
            seen &= given["segments"][:, :, None] == given["source_segments"][:, None]
        bias = jnp.zeros((1, 1, 1, 1), x.dtype) if "bias" not in given else given["bias"]
        bias = jnp.broadcast_to(bias, (x.shape[0], self.heads, i.size, j.size))
        y, places = jnp.zeros_like(x), (jnp.arange(i.size), jnp.arange(j.size))
        for h in range(self.heads):
            g, r = divmod(h, params["q"].shape[2])
            q, k, v = x @ params["q"][:, g, r], z @ params["k"][:, g], z @ params["v"][:, g]
            if self.rotary:
                q, k = (_turned(a, place) for a, place in zip((q, k), places, strict=True))
            s = q @ jnp.swapaxes(k, 1, 2) / q.shape[-1] ** 0.5
            if self.cap is not None:
                s = self.cap * jnp.tanh(s / self.cap)
            if self.alibi:
                s = s - (2.0 ** (-8 * (h + 1) / self.heads) * jnp.abs(i - j).astype(s.dtype))[None]
            s = s + bias[:, h]
            if self.distances is not None:
                at = jnp.minimum(jnp.maximum(j - i, -self.distances), self.distances) + self.distances
                s = s + params["distances"][h][at][None]
            top = lax.stop_gradient(jnp.max(s, -1, keepdims=True, where=seen, initial=-jnp.inf))
            top = jnp.where(jnp.isneginf(top), 0, top)
            e = jnp.where(seen, jnp.exp(jnp.where(seen, s - top, 0)), 0)
            total = jnp.sum(e, -1, keepdims=True)
            p = e / jnp.where(total > 0, total, 1)
            if self.dropout:
                p = p * self._mask(params["key"].value, x, z)[:, g, r].astype(p.dtype) / (1 - self.dropout)
            y = y + p @ v @ params["o"][g, r]
        return y

    def _mask(self, key, x, z):
        """All of dropout's mask at once: a key for each query, for all examples, heads and keys together."""
        g = self.groups or self.heads
        shape = x.shape[0], g, self.heads // g, z.shape[1]
        rows = [
            jax.random.bernoulli(jax.random.fold_in(key, i), jnp.float32(1 - (self.dropout or 0)), shape)
            for i in range(x.shape[1])
        ]
        return jnp.stack(rows, 3) if rows else jnp.ones((*shape[:3], 0, shape[3]), bool)


def _turned(x, place):
    """Rotary positions by the matrix of each rotation, for the definition."""
    half = x.shape[-1] // 2
    angle = jnp.outer(place.astype(x.dtype), 1 / BASE ** (jnp.arange(half).astype(x.dtype) / half))
    c, s = jnp.cos(angle)[None], jnp.sin(angle)[None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([c * a - s * b, s * a + c * b], -1)


def _fits(shape, whole):
    return all(a in (1, b) for a, b in zip(shape, whole, strict=True))


@dataclass(frozen=True)
class CausalSelfAttention(MultiHeadAttention):
    """MultiHeadAttention in which each place sees itself and what came before."""

    causal: bool = True


CASES = (
    Case(CausalSelfAttention(1), f(2, 5, 3)),
    Case(CausalSelfAttention(2), f(2, 5, 8), f(1, 130, 2), {"x": f(1, 130, 2), "bias": f(1, 2, 1, 130)}),
    Case(MultiHeadAttention(1), f(2, 5, 3), (f(2, 5, 3), f(2, 3, 2)), (f(2, 5, 3), i(2, 5, below=2))),
    Case(MultiHeadAttention(2, causal=True, window=2), f(2, 5, 8)),
    Case(MultiHeadAttention(4, groups=2, window=3), f(2, 5, 8), (f(2, 5, 8), f(2, 3, 5), i(2, 3, below=2))),
    Case(MultiHeadAttention(2, cap=1.5, alibi=True), f(2, 5, 8)),
    Case(MultiHeadAttention(4, groups=2, alibi=True), f(2, 5, 8)),
    Case(MultiHeadAttention(2, groups=1, causal=True, rotary=True, distances=2), f(2, 5, 8)),
    Case(MultiHeadAttention(1, dropout=0.3), f(2, 5, 3), (f(2, 5, 3), f(2, 3, 2))),
    Case(
        MultiHeadAttention(2, window=2),
        {"x": f(2, 5, 8), "bias": f(1, 2, 5, 5), "segments": i(2, 5, below=2)},
        {"x": f(1, 130, 2), "bias": f(1, 1, 130, 130), "mask": i(1, 130, below=2)},
    ),
)
