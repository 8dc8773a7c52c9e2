"""Losses of scores against classes: of yes and no, of margins, of a teacher's probabilities."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import floats
from jbp.losses.loss import Loss
from jbp.losses.targets import alike, tamed
from jbp.numerics import log_sum_exp, softplus, wide


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """y = mean t log(1 + e⁻ᶻ) + (1 − t) log(1 + eᶻ), scores z and t the probability of yes.

        dz = (σ(z) − t) dy / count      dt = −z dy / count

    Scores of ±∞ that are right cost 0. Keeps z and t. Shapes: z and t alike, any; y (). Raises
    LayerError unless x is (z, t), of one shape and dtype: cast labels with labels.astype(z.dtype).
    """

    def terms(self, params, x, /):
        z, t = alike(self, x)
        yes, no = self._logs(z, t)
        return (wide(t) * yes + (1 - wide(t)) * no, None), (z, t)

    def _logs(self, z, t):
        """(−log p, −log (1 − p))."""
        return tamed(softplus(-wide(z)), wide(t)), tamed(softplus(wide(z)), 1 - wide(t))

    def terms_backward(self, params, residuals, dl, dn, /):
        z, t = residuals
        yes, no = self._logs(z, t)
        p = 1 / (1 + jnp.exp(-wide(z)))
        return (((p - wide(t)) * dl).astype(z.dtype), ((yes - no) * dl).astype(t.dtype)), ()

    def terms_reference(self, params, x, /):
        z, t = x

        def positive(z, share):
            """log(1 + eᶻ), which overflows above, z + log(1 + e⁻ᶻ) below."""
            here = jnp.where((share == 0) & (z == jnp.inf), 0, z)  # what is sure and right costs nothing
            above, below = jnp.where(here > 0, here, 0), jnp.where(here > 0, 0, here)
            value = jnp.where(here > 0, above + jnp.log1p(jnp.exp(-above)), jnp.log1p(jnp.exp(below)))
            return jnp.where((share == 0) & (z == jnp.inf), 0, value)

        return t * positive(-z, t) + (1 - t) * positive(z, 1 - t), None


@dataclass(frozen=True)
class Hinge(Loss):
    """y = mean max(0, 1 − t z): scores z, and t = 1 or −1.      dz = −t dy / count where t z < 1, else 0

    dt = −z dy / count there. Keeps z and t. Shapes: z and t alike, any; y (). (Cortes & Vapnik, *Support-Vector
    Networks*, 1995.) Raises LayerError unless x is (z, t), of one shape and dtype.
    """

    def terms(self, params, x, /):
        z, t = alike(self, x)
        return (jnp.maximum(1 - wide(t) * wide(z), 0), None), (z, t)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, t = residuals
        each = jnp.where(wide(t) * wide(z) < 1, -dl, 0)
        return ((each * wide(t)).astype(z.dtype), (each * wide(z)).astype(t.dtype)), ()

    def terms_reference(self, params, x, /):
        margin = x[1] * x[0]
        return jnp.where(margin < 1, 1 - margin, 0), None


@dataclass(frozen=True)
class KullbackLeibler(Loss):
    """y = mean over rows of Σ p (log p − log q), q = softmax z and p = softmax u: a student's scores z, a teacher's u.

        dz = (q − p) dy / rows      du = p (l − Σ p l) dy / rows with l = log p − log q

    A class of p = 0, of u = −∞ say, adds nothing. Keeps z, u and their rows' log Σ exp. Shapes: z and u (..., classes),
    y (). (Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015, §2.) Raises LayerError unless x is
    (z, u), of one shape and dtype. For log-probabilities and probabilities there is KLDiv.
    """

    def terms(self, params, x, /):
        z, u = alike(self, x)
        floats(self, z, "(..., classes)")
        kept = z, u, log_sum_exp(z), log_sum_exp(u)
        _, p, l = _apart(*kept)  # noqa: E741
        return ((p * l).sum(-1), None), kept

    def terms_backward(self, params, residuals, dl, dn, /):
        q, p, l = _apart(*residuals)  # noqa: E741
        z, u, *_ = residuals
        du = p * (l - (p * l).sum(-1, keepdims=True)) * dl[..., None]
        return (((q - p) * dl[..., None]).astype(z.dtype), du.astype(u.dtype)), ()

    def terms_reference(self, params, x, /):
        z, u = (v - jnp.max(v, -1, keepdims=True) for v in x)
        log_q, log_p = (v - jnp.log(jnp.sum(jnp.exp(v), -1, keepdims=True)) for v in (z, u))
        some = jnp.exp(log_p) > 0
        log_q, log_p = (jnp.where(some, v, 0) for v in (log_q, log_p))
        return jnp.sum(jnp.where(some, jnp.exp(log_p), 0) * (log_p - log_q), -1), None


def _apart(z, u, log_z, log_u):
    """(q, p, log p − log q, which is 0 where p is)."""
    log_q, log_p = wide(z) - log_z, wide(u) - log_u
    p = jnp.exp(log_p)
    return jnp.exp(log_q), p, jnp.where(p == 0, 0, log_p - log_q)


CASES = tuple(
    Case(loss(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))) for loss in (BinaryCrossEntropy, Hinge, KullbackLeibler)
)
