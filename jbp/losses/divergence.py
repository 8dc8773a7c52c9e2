"""How far a Gaussian that a network describes is from the standard one."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.layers.stochastic.variational import half
from jbp.losses.loss import Loss
from jbp.numerics import wide


@dataclass(frozen=True)
class StandardNormalDivergence(Loss):
    """y = mean over rows of Σ ½ (eˢ + m² − 1 − s), the divergence KL(N(m, eˢ) ‖ N(0, 1)) of x = (m|s).

        dm = m dy / rows      ds = ½ (eˢ − 1) dy / rows

    Keeps x. Shapes: x (..., 2 n), y (). Beside a decoder in a Parallel it is the second term of the variational bound,
    which Penalized adds to the loss. (Kingma & Welling, *Auto-Encoding Variational Bayes*, 2014, appendix B.) eˢ is
    out of float32's range above s = 88. Raises LayerError for an odd last size or an x that is not floating.

    >>> StandardNormalDivergence()((), jnp.array([[1.0, 0.0]]))  # a mean and a log-variance
    Array(0.5, dtype=float32)
    """

    def terms(self, params, x, /):
        n = half(self, x)
        m, s = wide(x[..., :n]), wide(x[..., n:])
        each = 0.5 * (jnp.expm1(s) + jnp.square(m) - s)
        return (each.sum(-1), None), x

    def terms_backward(self, params, x, dl, dn, /):
        n = x.shape[-1] // 2
        slope = jnp.concatenate([wide(x[..., :n]), 0.5 * jnp.expm1(wide(x[..., n:]))], -1)
        return (slope * dl[..., None]).astype(x.dtype), ()

    def terms_reference(self, params, x, /):
        n = x.shape[-1] // 2
        m, variance = x[..., :n], jnp.exp(x[..., n:])
        return jnp.sum(0.5 * (variance + m**2 - 1 - x[..., n:]), -1), None


CASES = (Case(StandardNormalDivergence(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),)
