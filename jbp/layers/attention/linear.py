"""Attention without a softmax, whose time and memory are linear in the length."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, take
from jbp.fields import Size
from jbp.layer import Layer
from jbp.layers.attention import blockwise
from jbp.layers.attention.blockwise import blocks, unblocked
from jbp.numerics import product, scan, wide

# In the functions below a product of rows is φ(q_i) · φ(k_j), summed over all j, or over j <= i if causal; index key:
# n queries or keys of a block, d features of φ, e of a value. What runs from block to block is one d×e matrix a head.


def _cut(*arrays):
    block = max(1, min(blockwise.BLOCK, arrays[0].shape[-2]))
    return tuple(blocks(wide(x), block) for x in arrays)


def _seen(s):
    """Scores of a block with itself, those of later keys zero."""
    return jnp.where(jnp.expand_dims(jnp.tri(s.shape[-1], dtype=bool), range(s.ndim - 2)), s, 0)


def _state(k, v):
    return jnp.zeros((*k.shape[1:-2], k.shape[-1], v.shape[-1]), k.dtype)


def read(q, k, v, causal):
    """u_i = Σ_j (q_i · k_j) v_j with q and k (..., n, d), v (..., n, e), a block at a time if causal."""
    if not causal:
        return wide(q) @ (wide(k).mT @ wide(v))

    def block(state, now):
        q, k, v = now
        return state + k.mT @ v, q @ state + _seen(q @ k.mT) @ v

    cut = _cut(q, k, v)
    return unblocked(scan(block, _state(*cut[1:]), cut)[1], q.shape[-2])


def read_back(q, k, v, du, causal):
    """dq, dk, dv. dq_i = Σ_j (du_i · v_j) k_j      dk_j = Σ_i (du_i · v_j) q_i      dv_j = Σ_i (q_i · k_j) du_i

    The first is `read` again, which makes the running matrix again; the others are `read` from the end.
    """
    if not causal:
        q, k, v, du = map(wide, (q, k, v, du))
        state, up = k.mT @ v, q.mT @ du
        return du @ state.mT, v @ up.mT, k @ up

    def block(up, now):  # up = Σ qᵀ du over later blocks
        q, k, v, du = now
        dk = v @ up.mT + _seen(du @ v.mT).mT @ q
        dv = k @ up + _seen(q @ k.mT).mT @ du
        return up + q.mT @ du, (dk, dv)

    cut = _cut(q, k, v, du)
    _, (dk, dv) = scan(block, _state(cut[0], cut[3]), cut, reverse=True)
    return read(du, v, k, True), *(unblocked(x, q.shape[-2]) for x in (dk, dv))


@dataclass(frozen=True)
class LinearAttention(Layer):
    """y = concat_h(u / (ε + c)) W_o, u_i = Σ_j s_ij v_j, c_i = Σ_j s_ij, s_ij = φ(q_i) · φ(k_j), φ(x) = 1 + elu(x).

        do = dy W_oᵀ      du = do / (ε + c)      dc = −du · o      ds_ij = du_i · v_j + dc_i      dv_j = Σ_i s_ij du_i
        dφ(q_i) = Σ_j ds_ij φ(k_j)      dφ(k_j) = Σ_i ds_ij φ(q_i)      φ' = min(φ, 1)
        dx = (dq|dk|dv) W_qkvᵀ      dW_qkv = xᵀ (dq|dk|dv)      dW_o = oᵀ dy

    q, k, v = x W_qkv, split over `heads`; j runs over all places, or over j <= i if `causal`. Time is linear in n: the
    sums over j are one matrix a head, (Σ φ(k_j) v_jᵀ | Σ φ(k_j)). delta is (dq|dk|dv, dy). Keeps x, φ(q), φ(k), v, o
    and c: no matrix n×n, and none of the running d×d matrices, for both passes run through blocks with one at a time.
    Shapes: x and y (b, n, f), W_qkv (f, 3, heads, f / heads), W_o (heads, f / heads, f); any n. ε = 1e-6, as in the
    authors' program. (Katharopoulos et al., *Transformers are RNNs*, 2020, §3.2–3.3.) Raises LayerError for another
    rank, or if heads does not divide f.

    >>> x = jnp.ones((1, 5, 4))
    >>> params = LinearAttention(2).init(jax.random.key(0), x)
    >>> LinearAttention(2)(params, x).shape
    (1, 5, 4)
    """

    heads: Size
    causal: bool = False

    def _shapes(self, x):
        f = floats(self, x, "(batch, n, features)", rank=3).shape[-1]
        if f % self.heads:
            raise LayerError(
                self,
                f"got {f} features; expected a multiple of heads={self.heads}. Choose heads that divide the features.",
            )
        return {"qkv": (f, 3, self.heads, f // self.heads), "o": (self.heads, f // self.heads, f)}

    def init(self, key, x, /):
        shapes, scale = self._shapes(x), max(x.shape[-1], 1) ** -0.5
        keys = jax.random.split(key, len(shapes))
        return {n: jax.random.normal(k, s, x.dtype) * scale for k, (n, s) in zip(keys, shapes.items(), strict=True)}

    def forward(self, params, x, /):
        qkv, out = (w.astype(x.dtype) for w in take(self, params, x.dtype, **self._shapes(x)))
        q, k, v = jnp.einsum("bnf,fchd->cbhnd", x, qkv)
        q, k = _phi(q), _phi(k)
        u = read(q, k, _with_ones(v), self.causal)
        c = u[..., -1:]
        o = (u[..., :-1] / (_EPSILON + c)).astype(x.dtype)
        return jnp.einsum("bhnd,hdf->bnf", o, out), (x, q, k, v, o, c)

    def backward(self, params, residuals, dy, /):
        _, q, k, v, o, c = residuals
        qkv, out = (params[name].astype(dy.dtype) for name in ("qkv", "o"))
        do = wide(jnp.einsum("bnf,hdf->bhnd", dy, out))
        du = do / (_EPSILON + c)
        dc = -(du * wide(o)).sum(-1, keepdims=True)
        dq, dk, dv = read_back(q, k, _with_ones(v), jnp.concatenate([du, dc], -1), self.causal)
        dq, dk = dq * jnp.minimum(wide(q), 1), dk * jnp.minimum(wide(k), 1)
        dqkv = jnp.stack([dq, dk, dv[..., :-1]]).astype(dy.dtype)
        dtype = params["o"].dtype
        return jnp.einsum("cbhnd,fchd->bnf", dqkv, qkv), (dqkv.astype(dtype), dy.astype(dtype))

    def gradient(self, residuals, delta, /):
        (x, _, _, _, o, _), (dqkv, dy) = residuals, delta
        return {"qkv": product("bnf,cbhnd->fchd", x, dqkv), "o": product("bhnd,bnf->hdf", o, dy)}

    def reference(self, params, x, /):
        """With the whole matrix of scores."""
        q, k, v = jnp.einsum("bnf,fchd->cbhnd", x, params["qkv"])
        q, k = (jnp.where(a > 0, a + 1, jnp.exp(jnp.where(a > 0, 0, a))) for a in (q, k))
        s = jnp.einsum("bhqd,bhkd->bhqk", q, k)
        s = jnp.where(jnp.tri(x.shape[1], dtype=bool)[None, None], s, 0) if self.causal else s
        o = s @ v / (1e-6 + s.sum(-1, keepdims=True))
        return jnp.einsum("bhqd,hdf->bqf", o, params["o"])


_EPSILON = 1e-6


def _phi(x):
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))


def _with_ones(v):
    return jnp.concatenate([v, jnp.ones((*v.shape[:-1], 1), v.dtype)], -1)


CASES = (
    Case(LinearAttention(1), f(2, 5, 3)),
    Case(LinearAttention(2, causal=True), f(2, 5, 8), f(1, 130, 2)),
)
