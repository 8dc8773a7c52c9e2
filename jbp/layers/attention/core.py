"""Attention without projections: what people build their own from."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, show, take
from jbp.fields import Hint, Positive, Rate, Size
from jbp.keys import split
from jbp.layer import Layer
from jbp.layers.attention import beside
from jbp.layers.attention.blockwise import Rule, attend, attend_back
from jbp.numerics import Static
from jbp.params import Buffer

NONE = Hint("To go without write None.")
NAMES = "q", "k", "v", *beside.BESIDE


@dataclass(frozen=True)
class Attention(Layer):
    """y = softmax(s, seen) v, s = scale q kᵀ: the core of MultiHeadAttention, which puts projections around it.

        p = softmax(s, seen)      dv = pᵀ dy      ds = p (dy vᵀ − Σ p dy vᵀ)      dq = scale ds k      dk = scale dsᵀ q

    Input: (q, k, v), (q, k, v, mask), or a dict of these by name, to which `segments` and `source_segments` (b, n) and
    (b, m) and a `bias` (b, h, n, m) may be added, all as in MultiHeadAttention: a `mask` of booleans or integers, not 0
    where a key may be seen, has shape (b, m), (n, m), (b, n, m) or (b, h, n, m), (b, m) where the first two are one. A
    query that sees nothing gives zero. What a mask hides from every query may be NaN, and its cotangent is zero. Only
    floats have a cotangent.

    Options: `causal`, `window`, `cap`, `alibi`, `dropout` as in MultiHeadAttention, and `scale`, 1 / √d unless given.
    Parameters are dropout's key, a Buffer, if there is dropout. Keeps its inputs: memory is linear in n and m, for p is
    made again in blocks. Shapes: q (b, h, n, d), k (b, g, m, d), v (b, g, m, e), y (b, h, n, e), where g divides h:
    head i reads the keys and values i // (h / g). Rotary takes q and k of these shapes. (Vaswani et al., *Attention Is
    All You Need*, 2017, §3.2.1.) Raises LayerError for other shapes and names.

    >>> q = k = v = jnp.ones((2, 1, 5, 4))  # batch, heads, places, features
    >>> Attention(causal=True)((), (q, k, v)).shape
    (2, 1, 5, 4)
    """

    causal: bool = False
    window: Annotated[Size, NONE] | None = None
    cap: Annotated[Positive, NONE] | None = None
    alibi: bool = False
    dropout: Rate | None = None
    scale: float | None = None

    @property
    def advances(self) -> bool:
        """Whether there is a key to move on."""
        return bool(self.dropout)

    def _rule(self):
        return Rule(self.causal, self.window, self.cap, self.alibi, self.dropout or 0.0, self.scale)

    def _inputs(self, x: Any) -> tuple[dict[str, Any], bool]:
        """The inputs by name, and whether they came as a dict."""
        named = isinstance(x, dict)
        if not named and not (isinstance(x, tuple | list) and len(x) in (3, 4)):
            self._wrong(x, "the tuple (q, k, v) or (q, k, v, mask), or a dict with 'q', 'k' and 'v'")
        whole: dict[str, Any] = x if named else dict(zip(("q", "k", "v", "mask"), x, strict=False))
        given = {name: part for name, part in whole.items() if part is not None}  # as where it is left out
        if set(given) - set(NAMES) or {"q", "k", "v"} - set(given):
            self._wrong(x, f"a dict with 'q', 'k', 'v' and perhaps {', '.join(map(repr, NAMES[3:]))}")
        q, k, v = (floats(self, given[name], "(batch, heads, n, features)", rank=4) for name in "qkv")
        (b, h, n, d), (_, g, m, _) = q.shape, k.shape
        if k.shape != (b, g, m, d) or v.shape[:3] != (b, g, m) or {k.dtype, v.dtype} != {q.dtype} or not g or h % g:
            self._wrong(given, "q (b, h, n, d), k (b, g, m, d) and v (b, g, m, e) of one dtype, where g divides h")
        if self.causal and n != m:
            self._wrong(given, "as many queries as keys for causal attention")
        return given, named

    def _wrong(self, came, wanted):
        raise LayerError(self, f"got {show(came)}; expected {wanted}. Put the heads on the second axis.")

    def _all(self, params, given):
        """(q in groups, k, v, what `attend` takes beside them); what no query sees is cleared."""
        q, k, v = (given[name] for name in "qkv")
        (b, h, n, d), (g, m) = q.shape, k.shape[1:3]
        if "segments" in given and "source_segments" not in given and n == m:
            given = {**given, "source_segments": given["segments"]}
        parts = beside.parts(self, given, b, h, n, m, q.dtype)
        if "mask" in parts:
            hidden = beside.unseen(parts["mask"])[:, None, :, None]
            k, v = beside.cleared(k, hidden), beside.cleared(v, hidden)
        if self.dropout:
            parts["key"] = params["key"].value
        return q.reshape(b, g, h // g, n, d), k, v, parts

    def init(self, key, x, /):
        jax.eval_shape(lambda x: replace(self, dropout=None)._all((), self._inputs(x)[0]), x)
        return () if self.dropout is None else {"key": Buffer(key)}

    def forward(self, params, x, /):
        given, named = self._inputs(x)
        take(self, params, None, **({} if self.dropout is None else {"key": ()}))
        q, k, v, parts = self._all(params, given)
        o = attend(self._rule(), parts, q, k, v)
        return o.reshape(*given["q"].shape[:3], v.shape[-1]), (
            given,
            Static((named, tuple(x) if named else ("q", "k", "v", "mask")[: len(x)])),
        )

    def backward(self, params, residuals, dy, /):
        given, came = residuals
        q, k, v, parts = self._all(params, given)
        dq, dk, dv, more = attend_back(self._rule(), parts, q, k, v, dy.reshape(*q.shape[:4], dy.shape[-1]))
        down = {"q": dq.reshape(given["q"].shape), "k": dk, "v": dv, "bias": more.get("bias")}
        named, names = came.value
        down = {name: down.get(name) for name in names}
        return (down if named else tuple(down.values())), ()

    def gradient(self, residuals, delta, /):
        return () if self.dropout is None else {"key": None}

    def advance(self, params, residuals, /):
        return split(params) if self.dropout else params

    def evaluation(self):
        return replace(self, dropout=0.0) if self.dropout else self

    def reference(self, params, x, /):
        """Head by head, with the whole matrix of scores."""
        given = self._inputs(x)[0]
        q, k, v = (given[name] for name in "qkv")
        (b, h, n, _), (g, m) = q.shape, k.shape[1:3]
        seen = seen_by(self, given, b, h, n, m)
        if "mask" in given:
            hidden = ~jnp.broadcast_to(_mask(given["mask"], b, n, m).astype(bool), (b, h, n, m)).any((1, 2))[
                :, None, :, None
            ]
            k, v = (jnp.where(hidden & ~jnp.isfinite(part), 0, part) for part in (k, v))
        bias = jnp.broadcast_to(given.get("bias", jnp.zeros((1, 1, 1, 1), q.dtype)), (b, h, n, m))
        kept = None if not self.dropout else kept_by(self.dropout, params["key"].value, (b, g, h // g), n, m, q.dtype)
        heads = []
        for head in range(h):
            group = head // (h // g)
            s = q[:, head] @ jnp.swapaxes(k[:, group], 1, 2)
            s = s / max(q.shape[-1], 1) ** 0.5 if self.scale is None else s * self.scale
            p = plain_softmax(scores_of(self, s, head, h, bias[:, head]), seen[:, head])
            p = p if kept is None else p * kept[:, head]
            heads.append(p @ v[:, group])
        return jnp.stack(heads, 1)


def _mask(mask, b, n, m):
    """A mask of any of the shapes, with four axes."""
    if mask.ndim == 2:
        return mask[:, None, None] if mask.shape == (b, m) else mask[None, None]
    return mask[:, None] if mask.ndim == 3 else mask


def seen_by(layer, given, b, h, n, m):
    """Which keys each query may see, (b, h, n, m): for the definition."""
    i, j = jnp.arange(n)[:, None], jnp.arange(m)[None]
    seen = ((j <= i) | (not layer.causal)) & (jnp.abs(i - j) < (layer.window or max(n, m, 1)))
    seen = jnp.broadcast_to(seen[None, None], (b, h, n, m))
    if "mask" in given:
        seen &= _mask(given["mask"], b, n, m).astype(bool)
    if "segments" in given:
        one, other = given["segments"][:, :, None], given.get("source_segments", given["segments"])[:, None]
        seen &= jnp.equal(one.astype(jnp.int32), other.astype(jnp.int32))[:, None]
    return seen


def scores_of(layer, s, head, heads, bias):
    """The scores (b, n, m) out of products s: for the definition."""
    i, j = jnp.arange(s.shape[1])[:, None], jnp.arange(s.shape[2])[None]
    if layer.cap is not None:
        s = layer.cap * jnp.tanh(s / layer.cap)
    if layer.alibi:
        s = s - (2.0 ** (-8 * (head + 1) / heads) * jnp.abs(i - j).astype(s.dtype))[None]
    return s + bias


def plain_softmax(s, seen):
    """The weights of the scores s: for the definition."""
    top = lax.stop_gradient(jnp.max(s, -1, keepdims=True, where=seen, initial=-jnp.inf))
    top = jnp.where(jnp.isneginf(top), 0, top)
    e = jnp.where(seen, jnp.exp(jnp.where(seen, s - top, 0)), 0)
    total = jnp.sum(e, -1, keepdims=True)
    return e / jnp.where(total > 0, total, 1)


def kept_by(rate: float, key: Any, lead: tuple[int, int, int], n: int, m: int, dtype: Any) -> Any:
    """All of dropout's factors at once, (b, h, n, m): a key for each query, for all examples, heads and keys."""
    keep = jnp.float32(1 - rate)
    rows = [jax.random.bernoulli(jax.random.fold_in(key, i), keep, (*lead, m)) for i in range(n)]
    kept = jnp.stack(rows, 3) if rows else jnp.ones((*lead, 0, m), bool)
    return kept.reshape(lead[0], lead[1] * lead[2], n, m).astype(dtype) / (1 - rate)


CASES = (
    Case(Attention(), (f(2, 1, 3, 2),) * 3, (f(2, 2, 3, 4), f(2, 1, 5, 4), f(2, 1, 5, 2))),
    Case(
        Attention(causal=True, window=2, cap=1.5, alibi=True, scale=0.7),
        {"q": f(2, 4, 5, 2), "k": f(2, 2, 5, 2), "v": f(2, 2, 5, 3), "bias": f(1, 4, 1, 5), "mask": i(2, 5, below=2)},
    ),
    Case(
        Attention(dropout=0.3), {"q": f(1, 2, 3, 4), "k": f(1, 2, 4, 4), "v": f(1, 2, 4, 2), "mask": i(3, 4, below=2)}
    ),
)
