"""Losses for a policy: scores over actions, the actions taken, and what they were worth."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, parts, show
from jbp.fields import Inside
from jbp.losses.loss import Loss
from jbp.losses.targets import tamed, whole
from jbp.numerics import chosen, log_sum_exp, wide


class _Policy(Loss):
    entropy: float

    def _parts(self, x, *names):
        z, actions, *numbers = parts(self, x, "scores", "actions", *names)
        floats(self, z, "(..., actions)")
        indices(self, actions, z.shape[-1], "actions")
        for name, v in zip(("actions", *names), (actions, *numbers), strict=True):
            if v.shape != z.shape[:-1] or (v is not actions and v.dtype != z.dtype):
                raise LayerError(
                    self,
                    f"got scores {show(z)} and {name} {show(v)}; expected one number for each row of scores, in "
                    "their dtype. Reshape or cast it.",
                )
        return z, actions, *numbers

    def _value(self, z, actions, row):
        """(row(p) − β H, l): the rows' losses, and what the backward pass needs of the scores."""
        logs = log_sum_exp(z)
        all_log = wide(z) - logs
        pi = jnp.exp(all_log)
        return row(_at(all_log, actions)) + self.entropy * (pi * tamed(all_log, pi)).sum(-1), logs

    def _error(self, z, actions, logs, slope, dl):
        """dz, `slope` being f'."""
        all_log = wide(z) - logs
        pi = jnp.exp(all_log)
        dz = slope[..., None] * (_one_hot(actions, pi) - pi)
        if self.entropy:
            all_log = tamed(all_log, pi)
            dz += self.entropy * pi * (all_log - (pi * all_log).sum(-1, keepdims=True))
        return (dz * dl[..., None]).astype(z.dtype)

    def _definition(self, z, actions, row):
        e = jnp.exp(z - jnp.max(z, -1, keepdims=True))
        log_pi = z - jnp.max(z, -1, keepdims=True) - jnp.log(jnp.sum(e, -1, keepdims=True))
        never = jnp.exp(log_pi) == 0
        entropy = -jnp.sum(jnp.where(never, 0, jnp.exp(log_pi)) * jnp.where(never, 0, log_pi), -1)
        return row(jnp.take_along_axis(log_pi, actions[..., None], -1)[..., 0]) - self.entropy * entropy, None


def _one_hot(actions, like):
    return chosen(actions, 0, like.shape[-1]).astype(like.dtype)


def _at(log_pi, actions):
    """log π(action), NaN where there is no such action."""
    actions = whole(actions)
    found = jnp.where((actions >= 0) & (actions < log_pi.shape[-1]), 0, jnp.nan).astype(log_pi.dtype)
    return jnp.where(_one_hot(actions, log_pi) > 0, log_pi, 0).sum(-1) + found


@dataclass(frozen=True)
class PolicyGradient(_Policy):
    """y = −mean A log π(action) − β mean H on x = (z, actions, A): REINFORCE with advantages A, and entropy's worth β.

        dz = (A (π − onehot action) + β π (log π + H)) dy / rows      dA = −log π(action) dy / rows

    π = softmax z, H = −Σ π log π. An action of score −∞ cannot be; not taken it adds nothing. Keeps z, the actions, A
    and log Σ exp z. Shapes: z (..., actions), actions (...) of integers, A (...), y (). (Williams, *Simple Statistical
    Gradient-Following Algorithms*, 1992; Mnih et al., *Asynchronous Methods for Deep Reinforcement Learning*, 2016, §4,
    for H.) Raises LayerError for other shapes, and for an action out of range where it can be known (outside of jit);
    inside of jit it makes the loss NaN.

    >>> scores, actions = jnp.zeros((2, 3)), jnp.array([0, 2])
    >>> PolicyGradient()((), (scores, actions, jnp.array([1.0, 0.5])))
    Array(0.824, dtype=float32)
    """

    entropy: float = 0.0

    def terms(self, params, x, /):
        z, actions, advantages = self._parts(x, "advantages")
        y, logs = self._value(z, actions, lambda p: -wide(advantages) * tamed(p, advantages))
        return (y, None), (z, actions, advantages, logs)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, actions, advantages, logs = residuals
        dz = self._error(z, actions, logs, -wide(advantages), dl)
        p = tamed(_at(wide(z) - logs, actions), advantages)
        return (dz, None, (-p * dl).astype(z.dtype)), ()

    def terms_reference(self, params, x, /):
        z, actions, advantages = x

        def row(p):
            return -advantages * jnp.where((advantages == 0) & (p == -jnp.inf), 0, p)

        return self._definition(z, actions, row)


@dataclass(frozen=True)
class ClippedPolicy(_Policy):
    """y = −mean min(r A, clip(r, 1 − ε, 1 + ε) A) − β mean H on x = (z, actions, q, A), r = π(action) / e^q.

        dz = (r A k (π − onehot action) + β π (log π + H)) dy / rows      dq = r A k dy / rows
        dA = −(r where k, else clip(r)) dy / rows      k = 0 where A > 0, r > 1 + ε or A < 0, r < 1 − ε, else 1

    The surrogate of proximal policy optimization; q is log π(action) of the policy that acted, ε is `clip`, π = softmax
    z, H = −Σ π log π. Keeps z, the actions, q, A and log Σ exp z. Shapes: z (..., actions), actions (...) of integers,
    q and A (...), y (). (Schulman et al., *Proximal Policy Optimization Algorithms*, 2017, eq. 7 and 9.) Raises
    LayerError for an ε outside of (0, 1) and as PolicyGradient does.

    >>> scores, actions = jnp.zeros((2, 3)), jnp.array([0, 2])
    >>> before = jnp.log(jnp.array([0.3, 0.3]))  # log-probabilities when they were taken
    >>> ClippedPolicy()((), (scores, actions, before, jnp.array([1.0, 0.5])))
    Array(-0.833, dtype=float32)
    """

    clip: Inside = 0.2
    entropy: float = 0.0

    def _ratio(self, p, old, advantages):
        """(r or its clipped form, whichever counts; r k)."""
        r, a = jnp.exp(p - wide(old)), wide(advantages)
        clipped = ((a > 0) & (r > 1 + self.clip)) | ((a < 0) & (r < 1 - self.clip))
        return jnp.where(clipped, jnp.clip(r, 1 - self.clip, 1 + self.clip), r), jnp.where(clipped, 0, r)

    def terms(self, params, x, /):
        z, actions, old, advantages = self._parts(x, "old log-probabilities", "advantages")
        y, logs = self._value(z, actions, lambda p: -wide(advantages) * self._ratio(p, old, advantages)[0])
        return (y, None), (z, actions, old, advantages, logs)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, actions, old, advantages, logs = residuals
        counted, moving = self._ratio(_at(wide(z) - logs, actions), old, advantages)
        slope = -wide(advantages) * moving
        dz = self._error(z, actions, logs, slope, dl)
        return (dz, None, (-slope * dl).astype(z.dtype), (-counted * dl).astype(z.dtype)), ()

    def terms_reference(self, params, x, /):
        z, actions, old, advantages = x

        def row(p):
            r = jnp.exp(p) / jnp.exp(old)
            inside = jnp.where(r < 1 - self.clip, 1 - self.clip, jnp.where(r > 1 + self.clip, 1 + self.clip, r))
            return -jnp.where(r * advantages <= inside * advantages, r * advantages, inside * advantages)

        return self._definition(z, actions, row)


CASES = (
    Case(PolicyGradient(), (f(3, 5), i(3, below=5), f(3)), (f(2, 3, 5), i(2, 3, below=5), f(2, 3))),
    Case(PolicyGradient(0.1), (f(3, 5), i(3, below=5), f(3))),
    Case(ClippedPolicy(), (f(3, 5), i(3, below=5), f(3), f(3)), (f(2, 3, 5), i(2, 3, below=5), f(2, 3), f(2, 3))),
    Case(ClippedPolicy(0.5, 0.1), (f(8, 5), i(8, below=5), f(8), f(8))),
)
