"""Losses for a policy, scores z over actions: π = softmax z, l = log Σ exp z, H = −Σ π log π its entropy.

With p = log π(action) = z[action] − l, f the loss of one row and β the worth of entropy,

    y = mean f(p) − β mean H      dz = (f'(p) (onehot action − π) + β π (log π + H)) dy / rows
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, parts, show
from jbp.layer import Layer
from jbp.numerics import chosen, log_sum_exp, wide


class _Policy(Layer):
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
        """(y, l): the mean of row(p), less β times that of H, and what the way back needs of the scores."""
        logs = log_sum_exp(z)
        all_log = wide(z) - logs
        loss = row(_at(all_log, actions)).sum() + self.entropy * (jnp.exp(all_log) * all_log).sum()
        return (loss / max(actions.size, 1)).astype(z.dtype), logs

    def _error(self, z, actions, logs, slope, each):
        """dz for each = dy / rows, `slope` being f'."""
        all_log = wide(z) - logs
        pi = jnp.exp(all_log)
        dz = slope[..., None] * (_one_hot(actions, pi) - pi)
        if self.entropy:
            dz += self.entropy * pi * (all_log - (pi * all_log).sum(-1, keepdims=True))
        return (dz * each).astype(z.dtype)

    def _definition(self, z, actions, row):
        e = jnp.exp(z - jnp.max(z, -1, keepdims=True))
        log_pi = z - jnp.max(z, -1, keepdims=True) - jnp.log(jnp.sum(e, -1, keepdims=True))
        entropy = -jnp.sum(jnp.exp(log_pi) * log_pi, -1)
        return jnp.mean(row(jnp.take_along_axis(log_pi, actions[..., None], -1)[..., 0]) - self.entropy * entropy)


def _one_hot(actions, like):
    return chosen(actions, 0, like.shape[-1]).astype(like.dtype)


def _at(log_pi, actions):
    """log π(action), NaN where there is no such action."""
    found = jnp.where((actions >= 0) & (actions < log_pi.shape[-1]), 0, jnp.nan).astype(log_pi.dtype)
    return jnp.where(_one_hot(actions, log_pi) > 0, log_pi, 0).sum(-1) + found


@dataclass(frozen=True)
class PolicyGradient(_Policy):
    """y = −mean A log π(action) − β mean H on x = (z, actions, A): REINFORCE with advantages A, and entropy's worth β.

        dz = (A (π − onehot action) + β π (log π + H)) dy / rows      dA = −log π(action) dy / rows

    π and H as at the head of this file. Keeps z, the actions, A and l. Shapes: z (..., actions), actions (...) of
    integers, A (...), y (). (Williams, *Simple Statistical Gradient-Following Algorithms*, 1992; Mnih et al.,
    *Asynchronous Methods for Deep Reinforcement Learning*, 2016, §4, for H.) Raises LayerError for other shapes, and
    for an action out of range where it can be known (outside of jit); inside of jit it makes the loss NaN.
    """

    entropy: float = 0.0

    def forward(self, params, x, /):
        z, actions, advantages = self._parts(x, "advantages")
        y, logs = self._value(z, actions, lambda p: -wide(advantages) * p)
        return y, (z, actions, advantages, logs)

    def backward(self, params, residuals, dy, /):
        z, actions, advantages, logs = residuals
        each = wide(dy) / max(actions.size, 1)
        dz = self._error(z, actions, logs, -wide(advantages), each)
        return (dz, None, (-_at(wide(z) - logs, actions) * each).astype(z.dtype)), ()

    def reference(self, params, x, /):
        z, actions, advantages = x
        return self._definition(z, actions, lambda p: -advantages * p)


@dataclass(frozen=True)
class ClippedPolicy(_Policy):
    """y = −mean min(r A, clip(r, 1 − ε, 1 + ε) A) − β mean H on x = (z, actions, q, A), r = π(action) / e^q.

        dz = (r A k (π − onehot action) + β π (log π + H)) dy / rows      dq = r A k dy / rows
        dA = −(r where k, else clip(r)) dy / rows      k = 0 where A > 0, r > 1 + ε or A < 0, r < 1 − ε, else 1

    The surrogate of proximal policy optimization; q is log π(action) of the policy that acted. π and H as at the head
    of this file, ε is `clip`. Keeps z, the actions, q, A and l. Shapes: z (..., actions), actions (...) of integers, q
    and A (...), y (). (Schulman et al., *Proximal Policy Optimization Algorithms*, 2017, eq. 7 and 9.) Raises
    LayerError for an ε outside of (0, 1) and as PolicyGradient does.
    """

    clip: float = 0.2
    entropy: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.clip < 1:
            raise LayerError(self, f"got clip={self.clip}; expected 0 < clip < 1. Try ClippedPolicy(0.2).")

    def _ratio(self, p, old, advantages):
        """(r or its clipped form, whichever counts; r k)."""
        r, a = jnp.exp(p - wide(old)), wide(advantages)
        clipped = ((a > 0) & (r > 1 + self.clip)) | ((a < 0) & (r < 1 - self.clip))
        return jnp.where(clipped, jnp.clip(r, 1 - self.clip, 1 + self.clip), r), jnp.where(clipped, 0, r)

    def forward(self, params, x, /):
        z, actions, old, advantages = self._parts(x, "old log-probabilities", "advantages")
        y, logs = self._value(z, actions, lambda p: -wide(advantages) * self._ratio(p, old, advantages)[0])
        return y, (z, actions, old, advantages, logs)

    def backward(self, params, residuals, dy, /):
        z, actions, old, advantages, logs = residuals
        counted, moving = self._ratio(_at(wide(z) - logs, actions), old, advantages)
        each, slope = wide(dy) / max(actions.size, 1), -wide(advantages) * moving
        dz = self._error(z, actions, logs, slope, each)
        return (dz, None, (-slope * each).astype(z.dtype), (-counted * each).astype(z.dtype)), ()

    def reference(self, params, x, /):
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
