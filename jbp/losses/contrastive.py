"""Losses of embeddings against each other: what belongs together is to be near. For directions, put UnitNorm before."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, parts, show
from jbp.fields import Positive
from jbp.losses.loss import Loss
from jbp.losses.targets import alike
from jbp.numerics import log_sum_exp, wide, wide_dtype


@dataclass(frozen=True)
class InfoNCE(Loss):
    """y = mean_i (l_i − S_ii), S = u vᵀ / τ, l_i = log Σ_j exp S_ij: row i of u is to find row i of v among them all.

        dS = (softmax S − 1 on the diagonal) dy / rows      du = dS v / τ      dv = dSᵀ u / τ

    `symmetric` takes the mean of this and of the same with u and v exchanged (Radford et al., *CLIP*, 2021, §2.3).
    Keeps u and v; S is made again. Shapes: u and v (..., n, d), y (). (van den Oord et
    al., *Representation Learning with Contrastive Predictive Coding*, 2018, §2.3.) Raises LayerError unless x is
    (u, v), of one shape and dtype, and for a temperature τ that is not positive.
    """

    temperature: Positive = 0.1
    symmetric: bool = False

    def _scores(self, u, v):
        return jnp.einsum("...id,...jd->...ij", u, v, preferred_element_type=wide_dtype(u.dtype)) / self.temperature

    def terms(self, params, x, /):
        u, v = alike(self, x)
        floats(self, u, "(..., n, features)", least=2)
        s = self._scores(u, v)
        own = jnp.diagonal(s, axis1=-2, axis2=-1)
        each = log_sum_exp(s)[..., 0] - own
        if self.symmetric:
            each = (each + log_sum_exp(jnp.swapaxes(s, -1, -2))[..., 0] - own) / 2
        return (each, None), (u, v)

    def terms_backward(self, params, residuals, dl, dn, /):
        u, v = residuals
        s = self._scores(u, v)
        own = jnp.eye(s.shape[-1], dtype=s.dtype).reshape((1,) * (s.ndim - 2) + s.shape[-2:])
        ds = (_softmax(s, -1) - own) * dl[..., :, None]
        if self.symmetric:
            ds = (ds + (_softmax(s, -2) - own) * dl[..., None, :]) / 2
        ds = (ds / self.temperature).astype(u.dtype)
        return (jnp.einsum("...ij,...jd->...id", ds, v), jnp.einsum("...ij,...id->...jd", ds, u)), ()

    def terms_reference(self, params, x, /):
        u, v = x
        s = jnp.sum(u[..., :, None, :] * v[..., None, :, :], -1) / self.temperature

        def one_way(s):
            top = jnp.max(s, -1, keepdims=True)
            log_p = s - top - jnp.log(jnp.sum(jnp.exp(s - top), -1, keepdims=True))
            return -jnp.diagonal(log_p, axis1=-2, axis2=-1)

        return ((one_way(s) + one_way(jnp.swapaxes(s, -1, -2))) / 2 if self.symmetric else one_way(s)), None


def _softmax(s, axis):
    """As a quotient: of scores as large as these, exp(s − l) would lose digits with l."""
    e = jnp.exp(s - s.max(axis, keepdims=True, initial=-jnp.inf))
    return e / e.sum(axis, keepdims=True)


@dataclass(frozen=True)
class Triplet(Loss):
    """y = mean max(0, ‖a − p‖² − ‖a − n‖² + α) on x = (a, p, n): an anchor is nearer to p than to n, by the margin α.

        da = 2 ((a − p) − (a − n)) k dy / rows      dp = −2 (a − p) k dy / rows      dn = 2 (a − n) k dy / rows

    with k = 1 where the row counts, else 0. Keeps a − p and a − n. Shapes: a, p and n (..., d) alike, y (). (Schroff et
    al., *FaceNet*, 2015, §3.1.) Raises LayerError unless x is (a, p, n), of one shape and dtype.
    """

    margin: float = 0.2

    def terms(self, params, x, /):
        a, p, n = parts(self, x, "anchor", "positive", "negative")
        floats(self, a, "(..., features)")
        if len({(v.shape, v.dtype) for v in (a, p, n)}) != 1:
            raise LayerError(
                self, f"got {show(x)}; expected three arrays of one shape and dtype. Take one row of each a triplet."
            )
        near, far = a - p, a - n
        return (jnp.maximum(self._over(near, far), 0), None), (near, far)

    def _over(self, near, far):
        return jnp.square(wide(near)).sum(-1) - jnp.square(wide(far)).sum(-1) + self.margin

    def terms_backward(self, params, residuals, dl, dn, /):
        near, far = residuals
        each = jnp.where(self._over(near, far) > 0, 2 * dl, 0)[..., None]
        dpositive, dnegative = (-wide(near) * each).astype(near.dtype), (wide(far) * each).astype(far.dtype)
        return (-(dpositive + dnegative), dpositive, dnegative), ()

    def terms_reference(self, params, x, /):
        a, p, n = x
        over = jnp.sum((a - p) ** 2, -1) - jnp.sum((a - n) ** 2, -1) + self.margin
        return jnp.where(over > 0, over, 0), None


CASES = (
    Case(InfoNCE(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(InfoNCE(0.5, symmetric=True), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(Triplet(), (f(3, 5), f(3, 5), f(3, 5)), (f(2, 3, 5),) * 3),
)
