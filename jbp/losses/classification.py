"""Losses of scores against classes. Cross-entropy is in loss.py; these are its relatives."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import floats
from jbp.layer import Layer
from jbp.losses.targets import alike
from jbp.numerics import log_sum_exp, wide


@dataclass(frozen=True)
class BinaryCrossEntropy(Layer):
    """y = mean log(1 + eᶻ) − t z: scores z, and t the probability of yes.      dz = (σ(z) − t) dy / count

    dt = −z dy / count. Keeps z and t. Shapes: z and t alike, any; y (). Raises LayerError unless x is (z, t), of one
    shape and dtype: cast labels with labels.astype(z.dtype).
    """

    def forward(self, params, x, /):
        z, t = alike(self, x)
        loss = jnp.maximum(wide(z), 0) + jnp.log1p(jnp.exp(-jnp.abs(wide(z)))) - wide(t) * wide(z)
        return loss.mean().astype(z.dtype), (z, t)

    def backward(self, params, residuals, dy, /):
        z, t = residuals
        each = wide(dy) / max(z.size, 1)
        p = 1 / (1 + jnp.exp(-wide(z)))
        return (((p - wide(t)) * each).astype(z.dtype), (-wide(z) * each).astype(t.dtype)), ()

    def reference(self, params, x, /):
        z, t = x
        positive = z > 0  # log(1 + eᶻ) overflows above, z + log(1 + e⁻ᶻ) below
        above = z + jnp.log1p(jnp.exp(-jnp.where(positive, z, 0)))
        below = jnp.log1p(jnp.exp(jnp.where(positive, 0, z)))
        return jnp.mean(jnp.where(positive, above, below) - t * z)


@dataclass(frozen=True)
class Hinge(Layer):
    """y = mean max(0, 1 − t z): scores z, and t = 1 or −1.      dz = −t dy / count where t z < 1, else 0

    dt = −z dy / count there. Keeps z and t. Shapes: z and t alike, any; y (). (Cortes & Vapnik, *Support-Vector
    Networks*, 1995.) Raises LayerError unless x is (z, t), of one shape and dtype.
    """

    def forward(self, params, x, /):
        z, t = alike(self, x)
        return jnp.maximum(1 - wide(t) * wide(z), 0).mean().astype(z.dtype), (z, t)

    def backward(self, params, residuals, dy, /):
        z, t = residuals
        each = jnp.where(wide(t) * wide(z) < 1, -wide(dy) / max(z.size, 1), 0)
        return ((each * wide(t)).astype(z.dtype), (each * wide(z)).astype(t.dtype)), ()

    def reference(self, params, x, /):
        margin = x[1] * x[0]
        return jnp.mean(jnp.where(margin < 1, 1 - margin, 0))


@dataclass(frozen=True)
class KullbackLeibler(Layer):
    """y = mean over rows of Σ p (log p − log q), q = softmax z and p = softmax u: a student's scores z, a teacher's u.

        dz = (q − p) dy / rows      du = p (l − Σ p l) dy / rows with l = log p − log q

    Keeps z, u and their rows' log Σ exp. Shapes: z and u (..., classes), y (). (Hinton et al., *Distilling the
    Knowledge in a Neural Network*, 2015, §2.) Raises LayerError unless x is (z, u), of one shape and dtype.
    """

    def forward(self, params, x, /):
        z, u = alike(self, x)
        floats(self, z, "(..., classes)")
        kept = z, u, log_sum_exp(z), log_sum_exp(u)
        log_q, log_p = _logs(*kept)
        return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean().astype(z.dtype), kept

    def backward(self, params, residuals, dy, /):
        log_q, log_p = _logs(*residuals)
        p, l, each = jnp.exp(log_p), log_p - log_q, wide(dy) / max(log_p[..., 0].size, 1)  # noqa: E741
        du = p * (l - (p * l).sum(-1, keepdims=True)) * each
        return (((jnp.exp(log_q) - p) * each).astype(dy.dtype), du.astype(dy.dtype)), ()

    def reference(self, params, x, /):
        z, u = (v - jnp.max(v, -1, keepdims=True) for v in x)
        q, p = (jnp.exp(v) / jnp.sum(jnp.exp(v), -1, keepdims=True) for v in (z, u))
        return jnp.mean(jnp.sum(p * (jnp.log(p) - jnp.log(q)), -1))


def _logs(z, u, log_z, log_u):
    return wide(z) - log_z, wide(u) - log_u


CASES = tuple(
    Case(loss(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))) for loss in (BinaryCrossEntropy, Hinge, KullbackLeibler)
)
