"""A loss over a large vocabulary that looks at a few of its words only."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, parts, show, take
from jbp.fields import Size
from jbp.losses.loss import Loss
from jbp.numerics import softplus, wide, wide_dtype


@dataclass(frozen=True)
class NegativeSampling(Loss):
    """y = mean over rows of −log σ(s_0) − Σ_{j>0} log σ(−s_j), s_j = x · E[ids_j]: the first id is right, the rest not.

        g_0 = (σ(s_0) − 1) dy / rows      g_j = σ(s_j) dy / rows
        dx = Σ_j g_j E[ids_j]      dE[k] = Σ g_j x over the places where ids_j = k

    delta is g. No row of E but those asked for is read. word2vec is `Serial(Parallel(Embedding(v, d), Identity()),
    NegativeSampling(v))` on (centres, ids), with Add() as the loss. Keeps x, ids and s. E starts at zero. Shapes:
    x (..., d), ids (..., 1 + negatives) of integers, E (vocabulary, d), y (). (Mikolov et al., *Distributed
    Representations of Words and Phrases*, 2013, eq. 4.) Raises LayerError for other shapes, and for an id out of range
    where it can be known (outside of jit); inside of jit it makes the loss NaN.

    >>> words, others = jnp.ones((2, 8)), jnp.array([[7, 1, 2], [9, 4, 4]])  # the right one first
    >>> loss = NegativeSampling(100)
    >>> params = loss.init(jax.random.key(0), (words, others))
    >>> loss(params, (words, others)).shape
    ()
    """

    vocabulary: Size

    def _check(self, x):
        h, ids = parts(self, x, "x", "ids")
        floats(self, h, "(..., features)")
        indices(self, ids, self.vocabulary, "ids")
        if ids.shape[:-1] != h.shape[:-1] or len(ids.shape) != len(h.shape) or not ids.shape[-1]:
            raise LayerError(
                self,
                f"got x {show(h)} and ids {show(ids)}; expected ids (..., 1 + negatives) for x (..., features). "
                "Put the right id first and the sampled ones after it, in one array.",
            )
        return h, ids

    def init(self, key, x, /):
        h, _ = self._check(x)
        return {"e": jnp.zeros((self.vocabulary, h.shape[-1]), h.dtype)}

    def _rows(self, params, ids, dtype):
        rows = params["e"].at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return rows.astype(dtype)

    def terms(self, params, x, /):
        h, ids = self._check(x)
        take(self, params, h.dtype, e=(self.vocabulary, h.shape[-1]))
        e = self._rows(params, ids, h.dtype)
        s = jnp.einsum("...d,...kd->...k", h, e, preferred_element_type=wide_dtype(h.dtype))
        return (softplus(s * _signs(s)).sum(-1), None), (h, ids, s.astype(h.dtype))

    def terms_backward(self, params, residuals, dl, dn, /):
        _, ids, s = residuals
        signs = _signs(s)
        g = (signs / (1 + jnp.exp(-signs * wide(s))) * dl[..., None]).astype(s.dtype)
        dx = jnp.einsum("...k,...kd->...d", g, self._rows(params, ids, s.dtype))
        return (dx, None), g.astype(params["e"].dtype)

    def terms_gradient(self, residuals, g, /):
        h, ids, _ = residuals
        e = jnp.zeros((self.vocabulary, h.shape[-1]), wide_dtype(g.dtype))
        each = wide(g)[..., None] * wide(h)[..., None, :]
        return {"e": e.at[ids].add(each, mode="drop", wrap_negative_indices=False).astype(g.dtype)}

    def terms_reference(self, params, x, /):
        h, ids = x
        s = jnp.sum(h[..., None, :] * params["e"][ids], -1)

        def log_sigmoid(z):
            return jnp.where(z < 0, z, 0) - jnp.log1p(jnp.exp(jnp.where(z < 0, z, -z)))

        return -(log_sigmoid(s[..., 0]) + jnp.sum(log_sigmoid(-s[..., 1:]), -1)), None


def _signs(s):
    """−1 for the first score of a row, 1 for the others: what is wrong about each."""
    return jnp.ones(s.shape[-1:], wide_dtype(s.dtype)).at[0].set(-1).reshape((1,) * (s.ndim - 1) + s.shape[-1:])


CASES = (Case(NegativeSampling(7), (f(3, 5), i(3, 4, below=7)), (f(2, 3, 5), i(2, 3, 4, below=7))),)
