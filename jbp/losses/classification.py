"""Losses of scores against classes: of yes and no, of margins, of a teacher's probabilities."""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jbp.cases import Case, f, signs, yes
from jbp.errors import LayerError, floats
from jbp.fields import NonNegative
from jbp.losses.loss import Loss, Pointwise
from jbp.losses.targets import Signed, alike, probable, tamed
from jbp.numerics import along, log_sum_exp, softplus, wide


@dataclass(frozen=True)
class BinaryCrossEntropy(Pointwise):
    """y = mean w t log(1 + e⁻ᶻ) + (1 − t) log(1 + eᶻ), scores z and t the probability of yes.

        dz = ((1 − t) σ(z) − w t σ(−z)) dy / count      dt = (w log(1 + e⁻ᶻ) − log(1 + eᶻ)) dy / count

    w is `pos_weight`, what yes counts against no: 1, a number, or one for each of the last axis. Scores of ±∞ that are
    right cost 0. With given="probabilities" z is p itself, y = −mean w t log p + (1 − t) log(1 − p), each logarithm at
    least −100, and dp = ((1 − t) / (1 − p) − w t / p) dy / count. Keeps z and t. Shapes: z and t alike, any; y (). For
    weights of elements there is Weighted(..., normalize=False). Raises LayerError unless x is (z, t), of one shape and
    dtype, cast labels with labels.astype(z.dtype), and for a t that is no probability where it can be known.

    >>> BinaryCrossEntropy()((), (jnp.array([2.0, -1.0]), jnp.array([1.0, 0.0])))
    Array(0.22, dtype=float32)
    """

    pos_weight: NonNegative | tuple[NonNegative, ...] | None = None
    given: Literal["scores", "probabilities"] = "scores"

    def _inputs(self, x):
        z, t = super()._inputs(x)
        probable(self, t)
        return z, t

    def _w(self, z):
        if not isinstance(self.pos_weight, tuple):
            return 1.0 if self.pos_weight is None else self.pos_weight
        if len(self.pos_weight) != z.shape[-1]:
            raise LayerError(
                self,
                f"got {len(self.pos_weight)} pos_weight for {z.shape[-1]} classes; expected one a class. Give all.",
            )
        return along(jnp.asarray(self.pos_weight, z.dtype), z)

    def _costs(self, z, t):
        """What yes costs, and what no: −log p and −log(1 − p)."""
        if self.given == "scores":
            return tamed(softplus(-z), t), tamed(softplus(z), 1 - t)
        return jnp.minimum(-jnp.log(jnp.maximum(z, 0)), 100), jnp.minimum(-jnp.log1p(-jnp.minimum(z, 1)), 100)

    def _f(self, z, t):
        yes, no = self._costs(z, t)
        return self._w(z) * t * yes + (1 - t) * no

    def _slopes(self, z, t):
        yes, no = self._costs(z, t)
        if self.given == "scores":
            p, q = 1 / (1 + jnp.exp(-z)), 1 / (1 + jnp.exp(z))
        else:
            p = jnp.where(no < 100, 1 / (1 - jnp.where(no < 100, z, 0)), 0)
            q = jnp.where(yes < 100, 1 / jnp.where(yes < 100, z, 1), 0)
        return (1 - t) * p - self._w(z) * t * q, self._w(z) * yes - no

    def _plain(self, z, t):
        w = 1.0 if self.pos_weight is None else self.pos_weight
        w = w if isinstance(w, float) else along(jnp.asarray(w, z.dtype), z)
        if self.given == "probabilities":
            least = math.exp(-100)
            yes, no = jnp.where(z <= least, least, z), jnp.where(1 - z <= least, least, 1 - z)
            return -w * t * jnp.log(yes) - (1 - t) * jnp.log(no)

        def positive(z, share):
            """log(1 + eᶻ), which overflows above, z + log(1 + e⁻ᶻ) below."""
            here = jnp.where((share == 0) & (z == jnp.inf), 0, z)  # what is sure and right costs nothing
            above, below = jnp.where(here > 0, here, 0), jnp.where(here > 0, 0, here)
            value = jnp.where(here > 0, above + jnp.log1p(jnp.exp(-above)), jnp.log1p(jnp.exp(below)))
            return jnp.where((share == 0) & (z == jnp.inf), 0, value)

        return w * t * positive(-z, t) + (1 - t) * positive(z, 1 - t)


@dataclass(frozen=True)
class Hinge(Signed):
    """y = mean max(0, 1 − t z): scores z, and t = 1 or −1.      dz = −t dy / count where t z < 1, else 0

    dt = −z dy / count there. Keeps z and t. Shapes: z and t alike, any; y (). (Cortes & Vapnik, *Support-Vector
    Networks*, 1995.) Raises LayerError unless x is (z, t), of one shape and dtype, and for other t where they
    can be known.

    >>> Hinge()((), (jnp.array([2.0, -0.5]), jnp.array([1.0, -1.0])))
    Array(0.25, dtype=float32)
    """

    def terms(self, params, x, /):
        z, t = alike(self, x)
        return (jnp.maximum(1 - wide(t) * wide(z), 0), None), (z, t)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, t = residuals
        each = jnp.where(wide(t) * wide(z) >= 1, 0, -dl)
        return ((each * wide(t)).astype(z.dtype), (each * tamed(wide(z), each)).astype(t.dtype)), ()

    def terms_reference(self, params, x, /):
        margin = x[1] * x[0]
        return jnp.where(margin >= 1, 0, 1 - margin), None


@dataclass(frozen=True)
class KullbackLeibler(Loss):
    """y = mean over rows of Σ p (log p − log q), q = softmax z and p = softmax u: a student's scores z, a teacher's u.

        dz = (q − p) dy / rows      du = p (l − Σ p l) dy / rows with l = log p − log q

    A class of p = 0, of u = −∞ say, adds nothing. Keeps z, u and their rows' log Σ exp. Shapes: z and u (..., classes),
    y (). (Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015, §2.) Raises LayerError unless x is
    (z, u), of one shape and dtype. For log-probabilities and probabilities there is KLDiv.

    >>> scores, p = jnp.array([[2.0, 0.0]]), jnp.array([[0.5, 0.5]])
    >>> KullbackLeibler()((), (scores, p))
    Array(0.434, dtype=float32)
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


@dataclass(frozen=True)
class KLDiv(Pointwise):
    """y = mean over all elements of p (log p − q) on x = (q, p): log-probabilities q and a target's probabilities p.

        dq = −p dy / count      dp = (log p + 1 − q) dy / count

    With log_target=True the target is log p as well, whose cotangent is p (log p + 1 − q) dy / count. Where p is 0
    nothing is added; below 0 it is no probability, and y is NaN. `PerExample(KLDiv())` is the mean over the batch that
    is meant by the divergence, PyTorch's "batchmean". Keeps q and the target. Shapes: alike, any; y (). Raises
    LayerError for other shapes.

    >>> p, q = jnp.array([[0.5, 0.5]]), jnp.array([[0.9, 0.1]])
    >>> KLDiv()((), (jnp.log(q), p))
    Array(0.255, dtype=float32)
    """

    log_target: bool = False

    inputs = ("log-probabilities", "target")

    def _parts(self, q, t):
        """(p, log p − q), 0 for the second where p = 0."""
        p = jnp.exp(t) if self.log_target else t
        log_p = t if self.log_target else jnp.log(jnp.where(p == 0, 1, p))
        return p, jnp.where(p == 0, 0, log_p - q)

    def _f(self, q, t):
        p, l = self._parts(q, t)  # noqa: E741
        return p * l

    def _slopes(self, q, t):
        p, l = self._parts(q, t)  # noqa: E741
        d = jnp.where(p == 0, 0, l + 1)
        return -p, p * d if self.log_target else d

    def _plain(self, q, t):
        if self.log_target:
            never = t == -jnp.inf
            return jnp.where(never, 0, jnp.exp(t)) * (jnp.where(never, 0, t) - jnp.where(never, 0, q))
        none = t == 0
        return jnp.where(none, 0, t * (jnp.log(jnp.where(none, 1, t)) - jnp.where(none, 0, q)))


def _apart(z, u, log_z, log_u):
    """(q, p, log p − log q, which is 0 where p is)."""
    log_q, log_p = wide(z) - log_z, wide(u) - log_u
    p = jnp.exp(log_p)
    return jnp.exp(log_q), p, jnp.where(p == 0, 0, log_p - log_q)


CASES = (
    *(
        Case(loss(), (f(3, 5), like(3, 5)), (f(2, 3, 5), like(2, 3, 5)))
        for loss, like in ((BinaryCrossEntropy, yes), (Hinge, signs), (KullbackLeibler, f))
    ),
    Case(BinaryCrossEntropy(pos_weight=2.0), (f(3), yes(3))),
    Case(BinaryCrossEntropy((0.5, 2.0, 0.0)), (f(2, 3), yes(2, 3))),
    Case(BinaryCrossEntropy((0.5, 2.0), "probabilities"), (f(3, 2), yes(3, 2))),
    Case(KLDiv(), (f(3, 5), yes(3, 5))),
    Case(KLDiv(log_target=True), (f(3, 5), f(3, 5))),
)
