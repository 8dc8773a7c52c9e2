"""Many copies of a layer, of which each token passes through a few."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, at, floats, show, take
from jbp.fields import Hint, Positive, Size
from jbp.layer import Layer
from jbp.numerics import Static, is_mask, outer, peak, wide

__all__ = ["MixtureOfExperts", "WithTotal"]


@dataclass(frozen=True)
class MixtureOfExperts(Layer):
    """y_t = Σ_{e in top k of p_t} p_te f(θ_e, x_t) with p = softmax(x W), and the balance E Σ_e a_e mean_t p_te.

        z_e = f(θ_e, x of its tokens)      dz = p_te dy_t      dp_te = dy_t · z_te + E a_e dbalance / n
        ds = p (dp − Σ p dp)      dx = what the experts return + ds Wᵀ      dW = xᵀ ds

    y is the pair (y, balance). a_e is the share of the n k choices that fell on expert e, which the loss does not move:
    with it, the balance is 1 if all experts are chosen alike, E if always the same. To have it in the loss, end the
    network in a pair and write `Penalized(loss, 0.01)`; to let it go, `Select(0)` after. Where there are several such
    layers, the balances add: `Residual(Serial(Select(0), LayerNorm(), MixtureOfExperts(...)))` after a WithTotal.
    x may be the pair (x, mask), the mask (...) of booleans or integers, 0 for what is no real token, padding say: it is
    sent to no expert, its y and dx are zero, x may be NaN there, and neither a_e nor the mean of p counts it.

    An expert has room for `capacity` times its even share of the choices, n k / E, rounded up, or for all of them if
    that is None; n counts all tokens, real or not. First choices go before second ones, then the order of the tokens
    decides; a choice that finds no room adds nothing to y. `expert` is any layer from (tokens, f) to (tokens, o) that
    treats each token by itself.

    delta is (the experts' deltas, ds). Keeps x, p, the places, and what the experts keep and put out for the rooms they
    have, not for all tokens. Ties go to the first expert. Shapes: x (..., f), W (f, E), the experts' parameters with a
    first axis of E, y (..., o). (Shazeer et al., *Outrageously Large Neural Networks*, 2017, §2; Fedus et al., *Switch
    Transformers*, 2021, §2.1–2.2.) Raises LayerError for settings out of range, and for an expert that changes the
    number of tokens.

    >>> net, x = MixtureOfExperts(Dense(3), 4, k=2), jnp.ones((6, 5))
    >>> y, balance = net(net.init(jax.random.key(0), x), x)
    >>> y.shape, balance.shape
    ((6, 3), ())
    """

    expert: Layer
    experts: Size
    k: Size = 1
    capacity: Annotated[Positive, Hint("For room for all tokens write capacity=None.")] | None = 1.25
    devices: ClassVar[int] = 1  # that share the experts
    as_one: ClassVar[bool] = True
    cuts: ClassVar[Any] = ("routed",)
    couples: ClassVar[Any] = "its balance is that of the batch, and room in an expert is for so many of it"

    @property
    def singly(self):
        return self.capacity is None

    def part(self, count, x=None, /):
        if self.experts % count:
            return None
        return ExpertsHere(self.expert, self.experts, self.k, self.capacity, count)

    def __post_init__(self):
        super().__post_init__()
        if self.k > self.experts:
            raise LayerError(
                self, f"got k={self.k} of {self.experts} experts; expected 1 <= k <= experts. Make more experts."
            )

    @property
    def _here(self):
        """How many of the experts are here."""
        return self.experts // self.devices

    def _places(self, params, places, room):
        """The places in the rooms that are here."""
        return places

    def _room(self, n):
        """How many tokens an expert has room for."""
        if self.capacity is None:
            return n
        return min(n, math.ceil(self.capacity * n * self.k / self.experts))

    def _tokens(self, x: Any) -> tuple[Any, Any, Static]:
        """(tokens (n, f), those of padding zero; which are real (n,), None if all are; x's shape)."""
        x, mask = x if isinstance(x, tuple | list) and len(x) == 2 else (x, None)
        floats(self, x, "(..., features)")
        if mask is not None and (not is_mask(mask) or mask.shape != x.shape[:-1]):
            raise LayerError(
                self,
                f"got x {show(x)} and the mask {show(mask)}; expected a mask of booleans or integers with shape "
                f"{list(x.shape[:-1])}. Write mask == 1 for one of floats.",
            )
        tokens, real = x.reshape(-1, x.shape[-1]), None if mask is None else mask.reshape(-1).astype(bool)
        if real is not None:
            tokens = jnp.where(real[:, None], tokens, jnp.zeros((), x.dtype))
        return tokens, real, Static(x.shape)

    def init(self, key, x, /):
        tokens = jax.eval_shape(lambda x: self._tokens(x)[0], x)
        room = jax.ShapeDtypeStruct((self._room(tokens.shape[0]), tokens.shape[-1]), tokens.dtype)
        one, *keys = jax.random.split(key, 1 + self.experts)
        w = jax.random.normal(one, (tokens.shape[-1], self.experts), tokens.dtype) * max(tokens.shape[-1], 1) ** -0.5
        with at(self, ".expert"):
            return {"w": w, "experts": jax.vmap(lambda key: self.expert.init(key, room))(jnp.stack(keys[: self._here]))}

    def _weights(self, params, x):
        if not isinstance(params, dict) or set(params) - {"device"} != {"w", "experts"}:
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a dict with 'w' and 'experts'. "
                "Are these the parameters of another network? Make them with net.init(key, x).",
            )
        (w,) = take(self, {"w": params["w"]}, x.dtype, w=(x.shape[-1], self.experts))
        return w

    def _route(self, scores, real):
        """(p, choices, places (n, k) in the experts' rooms put in a row, each expert's share, of how many tokens).

        A choice without room, or of what is no token, has a place beyond them all.
        """
        n, room = scores.shape[0], self._room(scores.shape[0])
        scores = jnp.where(scores == 0, 0, scores)  # top_k may put −0 below 0
        p = jnp.exp(scores - peak(scores))
        p = p / p.sum(-1, keepdims=True)
        chosen = lax.top_k(scores, self.k)[1].T  # (k, n): first choices before second ones
        hot = chosen.reshape(-1, 1) == jnp.arange(self.experts, dtype=chosen.dtype)[None]
        if real is not None:
            hot &= jnp.tile(real, self.k)[:, None]
        hot = hot.astype(chosen.dtype)
        before = ((jnp.cumsum(hot, 0, hot.dtype) - hot) * hot).sum(-1, dtype=hot.dtype).reshape(self.k, n)
        has = before < room if real is None else (before < room) & real[None]
        places = jnp.where(has, chosen * room + before, self.experts * room)
        count = jnp.asarray(max(n, 1), scores.dtype) if real is None else jnp.maximum(real.sum(dtype=scores.dtype), 1)
        share = hot.sum(0, hot.dtype).astype(scores.dtype) / (count * self.k)
        return p if real is None else jnp.where(real[:, None], p, 0), chosen.T, places.T, share, count

    def forward(self, params, x, /):
        tokens, real, shape = self._tokens(x)
        w = self._weights(params, tokens)
        n, room = tokens.shape[0], self._room(tokens.shape[0])
        p, chosen, places, share, count = self._route(wide(tokens) @ wide(w), real)
        places = self._places(params, places, room)
        rooms = jnp.zeros((self._here * room, tokens.shape[-1]), tokens.dtype)
        rooms = rooms.at[places].set(jnp.broadcast_to(tokens[:, None], (n, self.k, tokens.shape[-1])), mode="drop")
        with at(self, ".expert"):
            rooms = rooms.reshape(self._here, room, rooms.shape[-1])
            z, kept = jax.vmap(self.expert.forward)(params["experts"], rooms)
        if not hasattr(z, "shape") or len(z.shape) != 3 or z.shape[1] != room:
            raise LayerError(
                self,
                f"got an expert that makes {show(z)} of {room} tokens for each expert; expected as many tokens. "
                "Use layers that keep the first axis, such as Dense.",
            )
        z = z.reshape(self._here * room, z.shape[-1])
        gates = jnp.take_along_axis(p, chosen, 1).astype(tokens.dtype)
        y = (gates[..., None] * _at(z, places)).sum(1)
        share = share / count  # of which the mean of p needs as much
        balance = (self._here * (share * p.sum(0)).sum()).astype(tokens.dtype)
        residuals = tokens, p, chosen, places, share, z, kept, shape, Static(real is not None)
        return (y.reshape(*shape.value[:-1], y.shape[-1]), balance), residuals

    def _down(self, way, params, residuals, dy):
        tokens, p, chosen, places, share, z, kept, shape, masked = residuals
        (dy, dbalance), n = dy, tokens.shape[0]
        dy = dy.reshape(n, dy.shape[-1])
        gates = jnp.take_along_axis(p, chosen, 1).astype(dy.dtype)
        dz = jnp.zeros_like(z).at[places].set(gates[..., None] * dy[:, None], mode="drop")
        with at(self, ".expert"):
            rooms, inner = jax.vmap(way)(params["experts"], kept, dz.reshape(self._here, -1, dz.shape[-1]))
        dx = _at(rooms.reshape(-1, tokens.shape[-1]), places).sum(1)
        dgates = wide(jnp.einsum("no,nko->nk", dy, _at(z, places)))
        dp = jnp.zeros_like(p).at[jnp.arange(n, dtype=chosen.dtype)[:, None], chosen].add(dgates)
        dp = dp + (wide(dbalance) * self._here * share)[None]
        ds = (p * (dp - (p * dp).sum(-1, keepdims=True))).astype(dy.dtype)
        dx = (dx + ds @ params["w"].astype(ds.dtype).T).reshape(shape.value)
        return (dx, None) if masked.value else dx, (inner, ds.astype(params["w"].dtype))

    def backward(self, params, residuals, dy, /):
        return self._down(self.expert.backward, params, residuals, dy)

    def gradient(self, residuals, delta, /):
        tokens, kept = residuals[0], residuals[6]
        inner, ds = delta
        with at(self, ".expert"):
            return {"w": outer(tokens, ds), "experts": jax.vmap(self.expert.gradient)(kept, inner)}

    def pull(self, params, residuals, dy, /):
        dx, (inner, ds) = self._down(self.expert.pull, params, residuals, dy)
        return dx, {"w": outer(residuals[0], ds), "experts": inner}

    def advance(self, params, residuals, /):
        return params | {"experts": jax.vmap(self.expert.advance)(params["experts"], residuals[6])}

    def reference(self, params, x, /):
        """Each expert for all tokens, and then those chosen."""
        x, mask = x if isinstance(x, tuple | list) else (x, jnp.ones(x.shape[:-1], bool))
        real = mask.reshape(-1).astype(bool)
        tokens = jnp.where(real[:, None], x.reshape(-1, x.shape[-1]), 0)
        room = self._room(tokens.shape[0])
        count = jnp.maximum(real.sum(), 1)
        s = tokens @ params["w"]
        e = jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True)))
        p = e / e.sum(-1, keepdims=True)
        order = jnp.argsort(-s, -1, stable=True)
        y, balance = jnp.zeros(()), jnp.zeros((), x.dtype)
        for expert in range(self.experts):
            z = self.expert.reference(jax.tree.map(lambda v, e=expert: v[e], params["experts"]), tokens)
            taken = 0
            for choice in range(self.k):
                wants = (order[:, choice] == expert) & real
                has = wants & (taken + jnp.cumsum(wants) <= room)
                taken = taken + wants.sum()
                y = jnp.where(has[:, None], p[:, expert, None] * z, 0) + (y if y.shape else 0)
            share = (taken / (count * self.k)).astype(x.dtype)
            balance = balance + self.experts * share * jnp.where(real, p[:, expert], 0).sum() / count.astype(x.dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1]), balance


@dataclass(frozen=True)
class ExpertsHere(MixtureOfExperts):
    """The terms of a MixtureOfExperts's y, and the part of its balance, that one of `devices` makes.

    All tokens are here and their choices, but an n-th of the experts alone. Over devices y, the balance, dx and dW add
    up. `device`, its number, is a Buffer among the parameters.
    """

    devices: Size = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    cuts: ClassVar[Any] = ()

    def _places(self, params, places, room):
        first = params["device"].value * self._here * room
        here = (places >= first) & (places < first + self._here * room)
        return jnp.where(here, places - first, self._here * room).astype(places.dtype)


def _at(rows, places):
    """rows (m, f) at places (n, k), zeros for a place beyond them."""
    return rows.at[places].get(mode="fill", fill_value=0)


@dataclass(frozen=True)
class WithTotal(Layer):
    """y = (x, 0): a number beside x, to which the layers of a Residual add theirs.      dx = what comes of y's first.

    `Serial(WithTotal(), Residual(Serial(Select(0), MixtureOfExperts(...))), ...)` ends in a pair that Penalized takes.
    Keeps nothing. Shapes: x (..., f), the total ().

    >>> WithTotal()((), jnp.ones((2, 3)))[1]
    Array(0., dtype=float32)
    """

    def forward(self, params, x, /):
        return (floats(self, x, "of any shape", least=0), jnp.zeros((), x.dtype)), ()

    def backward(self, params, residuals, dy, /):
        return dy[0], ()


CASES = (Case(WithTotal(), f(3, 5)),)
