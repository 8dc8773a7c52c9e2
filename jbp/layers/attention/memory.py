"""Reading from a memory with a query: one hop of an end-to-end memory network."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, show, take
from jbp.layer import Layer
from jbp.numerics import Static, outer, peak, wide, wide_dtype


@dataclass(frozen=True)
class MemoryHop(Layer):
    """u' = u + Σ_i p_i c_i with p = softmax_i(u · m_i), m_i = x_i A, c_i = x_i C.      If `linear`, u' = u H + ...

    Neither m nor c is made: with q = u Aᵀ and r = Σ p_i x_i it is p = softmax(x q), u' = u + r C. Back, dy at u':

        dr = dy Cᵀ      dp_i = dr · x_i      ds = p (dp − Σ p dp)      dq = Σ ds_i x_i
        du = dy + dq A      dx_i = p_i dr + ds_i q      dA = dqᵀ u      dC = rᵀ dy      (`linear`: du = dy Hᵀ + dq A,
        dH = uᵀ dy)

    delta is (dq, dy). Keeps u, x, p. Input: (u, x), or (u, x, mask): the mask (b, m) holds integers or booleans, 0
    where there is no memory (x may be NaN there, and its cotangent is zero), and has no cotangent itself; a query
    without any memory reads zero. Shapes: u and u' (b, d), x (b, m, e), A and C (e, d), H (d, d). x_i is a sentence:
    counts of its words, to which a one-hot of i may be joined (the paper's temporal encoding), or any features. Several
    hops are `Repeat(Passing(MemoryHop()), n)`; `Tied` shares A and C: ((0, "c"), (1, "a")) makes the second hop ask by
    what the first one answered (adjacent), ((0,), (1,)) makes both alike (layer-wise, with `linear`). (Sukhbaatar et
    al., *End-To-End Memory Networks*, 2015, §2.) Raises LayerError for anything but such a tuple.

    >>> hop, x = MemoryHop(), (jnp.ones((2, 4)), jnp.ones((2, 6, 4)))  # a query, and what is remembered
    >>> hop(hop.init(jax.random.key(0), x), x).shape
    (2, 4)
    """

    linear: bool = False

    def _parts(self, x):
        alike = isinstance(x, tuple | list) and len(x) in (2, 3)
        if alike:
            floats(self, x[0], "(batch, features), the query u", rank=2)
            floats(self, x[1], "(batch, memories, features), the memories", rank=3)
        if (
            not alike
            or (x[0].shape[0], x[0].dtype) != (x[1].shape[0], x[1].dtype)
            or (len(x) == 3 and (x[2].shape != x[1].shape[:2] or jnp.issubdtype(x[2].dtype, jnp.floating)))
        ):
            raise LayerError(
                self,
                f"got x {show(x)}; expected a query (b, d), memories (b, m, e) of its dtype and perhaps a mask (b, m) "
                "of integers or booleans. Give (u, memories) or (u, memories, mask).",
            )
        u, x, *mask = x
        return u, x, mask[0] if mask else None

    def _shapes(self, u, x):
        d, e = u.shape[-1], x.shape[-1]
        return {"a": (e, d), "c": (e, d)} | ({"h": (d, d)} if self.linear else {})

    def init(self, key, x, /):
        u, x, _ = self._parts(x)
        shapes = self._shapes(u, x)
        keys = jax.random.split(key, len(shapes))
        return {n: 0.1 * jax.random.normal(k, s, x.dtype) for k, (n, s) in zip(keys, shapes.items(), strict=True)}

    def forward(self, params, x, /):
        u, x, mask = self._parts(x)
        mask = None if mask is None else mask.astype(bool)
        a, c, *h = (w.astype(u.dtype) for w in take(self, params, u.dtype, **self._shapes(u, x)))
        x = x if mask is None else jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
        s = jnp.einsum("bme,be->bm", x, u @ a.T, preferred_element_type=wide_dtype(u.dtype))
        if mask is not None:
            s = jnp.where(mask, s, -jnp.inf)
        top = peak(s, initial=jnp.finfo(s.dtype).min)
        p = jnp.exp(s - top)
        total = p.sum(-1, keepdims=True)
        p = (p / jnp.where(total > 0, total, 1)).astype(u.dtype)
        y = (u @ h[0] if self.linear else u) + jnp.einsum("bm,bme->be", p, x) @ c
        return y, (u, x, p, Static(mask is not None))

    def backward(self, params, residuals, dy, /):
        u, x, p, masked = residuals
        a, c = (params[name].astype(dy.dtype) for name in "ac")
        dr = dy @ c.T
        wide_p = wide(p)  # and dp: what is left of it below is a difference, for which p, rounded, must add up to one
        dp, total = jnp.einsum("be,bme->bm", dr, x, preferred_element_type=wide_p.dtype), wide_p.sum(-1, keepdims=True)
        mean = (wide_p * dp).sum(-1, keepdims=True) / jnp.where(total > 0, total, 1)
        ds = (wide_p * (dp - mean)).astype(dy.dtype)
        q, dq = u @ a.T, jnp.einsum("bm,bme->be", ds, x)
        du = (dy @ params["h"].astype(dy.dtype).T if self.linear else dy) + dq @ a
        dx = p[..., None] * dr[:, None] + ds[..., None] * q[:, None]
        delta = dq.astype(params["a"].dtype), dy.astype(params["c"].dtype)
        return (du, dx, None) if masked.value else (du, dx), delta

    def gradient(self, residuals, delta, /):
        (u, x, p, _), (dq, dy) = residuals, delta
        r = jnp.einsum("bm,bme->be", p, x)
        return {"a": outer(dq, u), "c": outer(r, dy)} | ({"h": outer(u, dy)} if self.linear else {})

    def reference(self, params, x, /):
        u, x, mask = self._parts(x)
        mask = None if mask is None else mask.astype(bool)
        x = x if mask is None else jnp.where(mask[..., None], x, 0)
        m, c = x @ params["a"], x @ params["c"]
        seen = jnp.ones(m.shape[:2], bool) if mask is None else mask
        s = (m * u[:, None]).sum(-1)
        top = jax.lax.stop_gradient(s.max(-1, keepdims=True, where=seen, initial=-jnp.inf))
        e = jnp.where(seen, jnp.exp(jnp.where(seen, s - jnp.where(jnp.isneginf(top), 0, top), 0)), 0)
        total = e.sum(-1, keepdims=True)
        p = e / jnp.where(total > 0, total, 1)
        return (u @ params["h"] if self.linear else u) + (p[..., None] * c).sum(1)


CASES = (
    Case(MemoryHop(), (f(2, 3), f(2, 5, 3)), (f(2, 5), f(2, 3, 2), i(2, 3, below=2))),
    Case(MemoryHop(linear=True), (f(2, 3), f(2, 3, 8), i(2, 3, below=2))),
)
