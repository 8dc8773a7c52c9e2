"""Losses of language models that learn which answer is better, or how good one is, on log-probabilities of tokens.

Those come from `Each(LinearCrossEntropy(vocabulary, ignore=...), scale=-1.0)`, which never holds the logits, or from
`Each(SoftmaxCrossEntropy(ignore=...), scale=-1.0)`: 0 for the tokens that are ignored, so that they add nothing to a
sum.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, parts, show
from jbp.fields import Fraction, Inside, NonNegative, Positive
from jbp.losses.loss import Loss, Pointwise, or_one
from jbp.numerics import Static, is_mask, softplus, wide


def _logistic(z):
    """1 / (1 + e⁻ᶻ)."""
    return 1 / (1 + jnp.exp(-z))


def _log_logistic(z):
    """log σ(z) for the definitions, without overflow."""
    return jnp.where(z < 0, z, 0) - jnp.log1p(jnp.exp(jnp.where(z < 0, z, -z)))


def _answers(x):
    """Σ over the tokens: all axes from the third on."""
    return wide(x).sum(tuple(range(2, x.ndim)))


def _form(*arrays):
    """What `_spread` needs of them."""
    return Static(tuple((v.shape, v.dtype) for v in arrays))


def _spread(d, form):
    """d, one number an answer, for each of its tokens, in the shape and dtype that it had."""
    shape, dtype = form
    return jnp.broadcast_to(d.reshape(d.shape + (1,) * (len(shape) - d.ndim)), shape).astype(dtype)


def _pairs(layer, x, what):
    floats(layer, x, "(batch, 2, ...)", least=2)
    if x.shape[1] != 2:
        raise LayerError(
            layer, f"got {what} {show(x)}; expected (batch, 2, ...), the better answer first. Use jnp.stack([a, b], 1)."
        )


@dataclass(frozen=True)
class DPO(Loss):
    """y = mean −(1 − s) log σ(m) − s log σ(−m), m = β ((π_w − ρ_w) − (π_l − ρ_l)), on x = (π, ρ).

        dm = (s − σ(−m)) dy / pairs      dπ_w = dρ_l = β dm      dπ_l = dρ_w = −β dm

    π are the log-probabilities of a better answer w and a worse one l by the model, ρ those by the reference model: of
    whole answers, or of their tokens, whose sum they are then. s is `smoothing`, how many of the judgements may be
    wrong. Keeps m, and the shapes. Shapes: π and ρ (b, 2, ...), each with tokens or without, w first; y (). (Rafailov
    et al., *Direct Preference Optimization*, 2023, eq. 7.) Raises LayerError for other shapes.

    >>> policy = jnp.array([[-1.0, -2.0]])  # log-probabilities of the chosen and of the rejected answer
    >>> reference = jnp.array([[-1.5, -1.5]])
    >>> DPO()((), (policy, reference))
    Array(0.644, dtype=float32)
    """

    beta: Positive = 0.1
    smoothing: Fraction = 0.0

    def terms(self, params, x, /):
        policy, reference = parts(self, x, "log-probabilities", "those of the reference")
        _pairs(self, policy, "log-probabilities")
        _pairs(self, reference, "those of the reference")
        if len(policy) != len(reference) or policy.dtype != reference.dtype:
            raise LayerError(
                self,
                f"got log-probabilities {show(policy)} and {show(reference)}; expected as many pairs, in one dtype. "
                "Give each pair its own reference.",
            )
        gain = _answers(policy) - _answers(reference)
        m = self.beta * (gain[:, 0] - gain[:, 1])
        each = (1 - self.smoothing) * softplus(-m) + self.smoothing * softplus(m)
        return (each, None), (m, _form(policy, reference))

    def terms_backward(self, params, residuals, dl, dn, /):
        m, forms = residuals
        dm = self.beta * (self.smoothing - _logistic(-m)) * dl
        both = jnp.stack([dm, -dm], 1)
        return tuple(_spread(d, form) for d, form in zip((both, -both), forms.value, strict=True)), ()

    def terms_reference(self, params, x, /):
        policy, reference = (jnp.sum(v.reshape(*v.shape[:2], -1), -1) for v in x)
        ratio = policy - reference
        m = self.beta * (ratio[:, 0] - ratio[:, 1])
        return -(1 - self.smoothing) * _log_logistic(m) - self.smoothing * _log_logistic(-m), None


@dataclass(frozen=True)
class ORPO(Loss):
    """y = mean −a_w − λ log σ(o_w − o_l), a the mean of an answer's tokens, o = a − log(1 − eᵃ), on x = (π, mask).

        da_w = −(1 + λ σ(o_l − o_w) / (1 − e^a_w)) dy / pairs      da_l = λ σ(o_l − o_w) / (1 − e^a_l) dy / pairs
        dπ = da / tokens where the mask is true, else 0

    No reference model: the better answer w is learned, and its odds are to be above those of the worse one l. π are
    log-probabilities of tokens, the mask says which of them belong to the answer, λ is `weight`. Keeps the mask, a and
    π's shape. Shapes: π (b, 2, tokens), w first, the mask alike, of booleans or integers; y (). (Hong et al., *ORPO:
    Monolithic Preference Optimization without Reference Model*, 2024, eq. 6.) Raises LayerError for other shapes.

    >>> policy = jnp.log(jnp.array([[[0.5, 0.9], [0.2, 0.1]]]))  # of the tokens of the better and the worse answer
    >>> ORPO()((), (policy, jnp.ones((1, 2, 2), int)))
    Array(0.407, dtype=float32)
    """

    weight: NonNegative = 0.1

    def terms(self, params, x, /):
        policy, mask = parts(self, x, "log-probabilities", "mask")
        _pairs(self, policy, "log-probabilities")
        if mask.shape != policy.shape or not is_mask(mask):
            raise LayerError(
                self,
                f"got log-probabilities {show(policy)} and a mask {show(mask)}; expected one shape. "
                "Write labels != padding, or mask.astype(bool).",
            )
        a = _answers(jnp.where(mask.astype(bool), policy, 0)) / self._tokens(mask, wide(policy).dtype)
        odds = self._odds(a)
        gap = odds[:, 0] - odds[:, 1]
        return (-a[:, 0] + self.weight * softplus(-gap), None), (mask, a, Static(policy.dtype))

    def _tokens(self, mask, dtype):
        return jnp.maximum(mask.astype(bool).sum(tuple(range(2, mask.ndim)), dtype=jnp.int32), 1).astype(dtype)

    def _odds(self, a):
        return a - jnp.log(-jnp.expm1(jnp.minimum(a, -_LEAST)))

    def terms_backward(self, params, residuals, dl, dn, /):
        mask, a, dtype = residuals
        odds = self._odds(a)
        each = self.weight * _logistic(odds[:, 1] - odds[:, 0])[:, None]
        bent = jnp.where(a < -_LEAST, 1 / -jnp.expm1(jnp.minimum(a, -_LEAST)), 1)
        da = jnp.stack([-1 - each[:, 0] * bent[:, 0], each[:, 0] * bent[:, 1]], 1) * dl[:, None]
        da = (da / self._tokens(mask, a.dtype)).reshape(*a.shape, *(1,) * (mask.ndim - 2))
        return (jnp.where(mask.astype(bool), da, 0).astype(dtype.value), None), ()

    def terms_reference(self, params, x, /):
        policy, mask = (v.reshape(*v.shape[:2], -1) for v in x)
        mask = mask.astype(bool)
        count = jnp.sum(mask, -1).astype(policy.dtype)
        a = jnp.sum(jnp.where(mask, policy, 0), -1) / or_one(count)
        odds = a - jnp.log(1 - jnp.exp(jnp.where(a < -_LEAST, a, -_LEAST)))
        return -a[:, 0] - self.weight * _log_logistic(odds[:, 0] - odds[:, 1]), None


_LEAST = 1e-6  # log-probabilities nearer to 0 than this are taken for it where the odds would be infinite


@dataclass(frozen=True)
class KTO(Loss):
    """y = mean λ_D (1 − σ(β (r − z))) where an answer is wanted, λ_U (1 − σ(β (z − r))) where not, r = π − ρ.

        dr = −λ_D β σ(m) (1 − σ(m)) dy / answers, m = β (r − z), or λ_U β σ(m) (1 − σ(m)) dy / answers

    On x = (π, ρ, wanted, z): log-probabilities π of answers by the model and ρ by the reference, of whole answers or of
    their tokens, which answers are `wanted`, and z ≥ 0 by how much the model has left the reference, estimated from
    answers to other questions. dπ = −dρ = dr, dz = −Σ dr. Keeps m, wanted and the shapes. Shapes: π and ρ (b, ...),
    wanted (b,) of booleans or integers, z (), y (). (Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic
    Optimization*, 2024, eq. 8.) Raises LayerError for other shapes.

    >>> policy, reference = jnp.array([-1.0, -2.0]), jnp.array([-1.5, -1.5])  # log-probabilities of answers
    >>> KTO()((), (policy, reference, jnp.array([1, 0]), jnp.array(0.0)))
    Array(0.488, dtype=float32)
    """

    beta: Positive = 0.1
    desirable: NonNegative = 1.0
    undesirable: NonNegative = 1.0

    def terms(self, params, x, /):
        policy, reference, wanted, z = parts(self, x, "log-probabilities", "those of the reference", "wanted", "z")
        floats(self, policy, "(batch, ...)")
        fits = len(reference.shape) and policy.shape[:1] == reference.shape[:1] == wanted.shape and z.shape == ()
        if not fits or reference.dtype != policy.dtype or z.dtype != policy.dtype:
            raise LayerError(
                self,
                f"got {show(tuple(x))}; expected as many answers in each, in one dtype, and z a number. "
                "Take z.mean(), and at least 0.",
            )
        r = _answers(policy[:, None])[:, 0] - _answers(reference[:, None])[:, 0]
        m = self.beta * (r - wide(z))
        good = wanted.astype(bool)
        each = jnp.where(good, self.desirable * _logistic(-m), self.undesirable * _logistic(m))
        return (each, None), (m, wanted, _form(policy, reference))

    def terms_backward(self, params, residuals, dl, dn, /):
        m, wanted, forms = residuals
        factor = jnp.where(wanted.astype(bool), -self.desirable, self.undesirable)
        dr = self.beta * factor.astype(m.dtype) * _logistic(m) * _logistic(-m) * dl
        own, other = forms.value
        return (_spread(dr, own), _spread(-dr, other), None, -dr.sum().astype(own[1])), ()

    def terms_reference(self, params, x, /):
        policy, reference, wanted, z = x
        r = jnp.sum(policy.reshape(len(policy), -1), 1) - jnp.sum(reference.reshape(len(policy), -1), 1)
        good = 1 - jnp.exp(_log_logistic(self.beta * (r - z)))
        bad = 1 - jnp.exp(_log_logistic(self.beta * (z - r)))
        return jnp.where(wanted != 0, self.desirable * good, self.undesirable * bad), None


@dataclass(frozen=True)
class GRPO(Pointwise):
    """y = mean over tokens of −min(r A, clip(r, 1 − ε, 1 + ε') A) + β (e^(ρ − π) − (ρ − π) − 1), r = e^(π − q).

        dπ = (−r A k + β (1 − e^(ρ − π))) dy / tokens      dq = r A k dy / tokens
        dρ = β (e^(ρ − π) − 1) dy / tokens
        dA = −(r where k, else clip(r)) dy / tokens      k = 0 where A > 0, r > 1 + ε' or A < 0, r < 1 − ε, else 1

    On x = (π, q, ρ, A), log-probabilities of tokens by the model, by the one that acted and by the reference, and the
    advantages A of tokens or of whole answers: their rewards less the group's mean, over its deviation. With beta=0
    there is no ρ: (π, q, A). ε is `clip`, ε' `clip_high` or ε. Tokens are left out by `Weighted(GRPO())`, on (...,
    mask); the paper's mean over answers of the means over their tokens is `PerExample(Weighted(GRPO()), "mean")`. Keeps
    the inputs. Shapes: π, q and ρ (b, tokens), A alike or (b,), y (). (Shao et al., *DeepSeekMath*, 2024, eq. 3 and 4;
    ε': Yu et al., *DAPO*, 2025, §3.1.) Raises LayerError for other shapes.

    >>> new = jnp.array([[-1.0, -0.9], [-1.0, -1.2]])  # log-probabilities of the tokens of two answers
    >>> old = reference = jnp.full((2, 2), -1.0)
    >>> GRPO()((), (new, old, reference, jnp.array([1.0, -1.0])))
    Array(-0.071, dtype=float32)
    """

    clip: Inside = 0.2
    beta: NonNegative = 0.04
    clip_high: Positive | None = None

    smaller = ("advantages",)

    def _names(self):
        reference = ("those of the reference",) if self.beta else ()
        return ("log-probabilities", "old log-probabilities", *reference, "advantages")

    def _ratio(self, p, old, a):
        """(r or its clipped form, whichever counts; r k)."""
        r, high = jnp.exp(p - old), 1 + (self.clip if self.clip_high is None else self.clip_high)
        clipped = ((a > 0) & (r > high)) | ((a < 0) & (r < 1 - self.clip))
        return jnp.where(clipped, jnp.clip(r, 1 - self.clip, high), r), jnp.where(clipped, 0, r)

    def _f(self, p, old, *more):
        *reference, a = more
        value = -self._ratio(p, old, a)[0] * a
        for other in reference:
            value += self.beta * (jnp.expm1(other - p) - (other - p))
        return value

    def _slopes(self, p, old, *more):
        *reference, a = more
        counted, moving = self._ratio(p, old, a)
        away = [self.beta * jnp.expm1(other - p) for other in reference]
        return -moving * a - sum(away), moving * a, *away, -counted

    def _plain(self, p, old, *more):
        *reference, a = more
        r, high = jnp.exp(p) / jnp.exp(old), 1 + (self.clip_high or self.clip)
        inside = jnp.where(r < 1 - self.clip, 1 - self.clip, jnp.where(r > high, high, r))
        value = -jnp.where(r * a <= inside * a, r * a, inside * a)
        for other in reference:
            value = value + self.beta * (jnp.exp(other) / jnp.exp(p) - (other - p) - 1)
        return value


CASES = (
    Case(DPO(), (f(3, 2), f(3, 2)), (f(3, 2, 5), f(3, 2))),
    Case(DPO(0.5, 0.1), (f(2, 2, 3), f(2, 2, 3))),
    Case(ORPO(), (f(3, 2, 5), i(3, 2, 5, below=2))),
    Case(KTO(), (f(3), f(3), i(3, below=2), f()), (f(3, 5), f(3), i(3, below=2), f())),
    Case(KTO(0.5, 2.0, 0.5), (f(3, 2), f(3, 2), i(3, below=2), f())),
    Case(GRPO(), (f(3, 5), f(3, 5), f(3, 5), f(3))),
    Case(GRPO(0.5, 0.0, 0.3), (f(3, 5), f(3, 5), f(3, 5))),
)
