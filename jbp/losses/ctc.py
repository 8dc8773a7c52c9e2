"""Connectionist temporal classification: labels for a row of frames, and nobody says which frame is which label."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, show
from jbp.fields import Count
from jbp.losses.loss import Loss
from jbp.losses.targets import whole
from jbp.numerics import log_sum_exp, peak, scan, softmax, time_first, wide

NEVER = -1e30  # the logarithm of 0, finite so that sums of it are no NaN


@dataclass(frozen=True)
class CTC(Loss):
    """y = mean over examples of l = −log p, p = Σ Π_t π_t(k_t) over the paths k that read as the labels, π = softmax z.

    A path reads as what is left of it without repetitions and then without blanks. With l' the labels with a blank
    before, between and after them, e_t(s) = log π_t(l'_s), and s−2 left out where l'_s is a blank or l'_{s−2}:

        α_t(s) = e_t(s) + log Σ_{r = s, s−1, s−2} exp α_{t−1}(r)
        β_{t−1}(s) = log Σ_{r = s, s+1, s+2} exp(β_t(r) + e_t(r))
        γ_t(s) = exp(α_t(s) + β_t(s)) / Σ_r exp(α_t(r) + β_t(r))
        dz_t(k) = (π_t(k) − Σ_{l'_s = k} γ_t(s)) dy / examples

    A label equal to `blank` is padding and left out: rows of labels may differ in length. On (z, labels) or (z, labels,
    frames), frames being how many of each example count. Each frame of α and of β is brought near 0, by a factor that γ
    does not see. Where no path is left, for too few frames or scores of −∞, l is infinite, or 0 with `zero_infinity`,
    and the example sends no error. With `per_label` l is divided by the number of labels, by 1 where there is none: the
    mean of PyTorch's CTCLoss. Keeps z, the integers, α and log p. Shapes: z (b, t, classes), labels (b, n), frames
    (b,), y (). (Graves et al., *Connectionist Temporal Classification*, 2006, §4.) Raises LayerError for other shapes,
    and for a label out of range where it can be known.

    >>> scores = jnp.zeros((1, 4, 3))  # batch, frames, classes, of which 0 is the blank
    >>> labels = jnp.array([[1, 2]])
    >>> CTC()((), (scores, labels))
    Array(1.686, dtype=float32)
    """

    blank: Count = 0
    per_label: bool = False
    zero_infinity: bool = False

    def _check(self, x) -> Any:
        if not isinstance(x, tuple | list) or len(x) not in (2, 3):
            raise LayerError(
                self,
                f"got {show(x)}; expected the tuple (scores, labels) or (scores, labels, frames). "
                "Pass them as one argument.",
            )
        z, labels, *frames = x
        floats(self, z, "(batch, time, classes)", rank=3)
        indices(self, labels, z.shape[-1], "labels")
        for name, v, rank in (("labels", labels, 2), *(("frames", v, 1) for v in frames)):
            if len(v.shape) != rank or v.shape[0] != z.shape[0] or not jnp.issubdtype(v.dtype, jnp.integer):
                raise LayerError(
                    self,
                    f"got scores {show(z)} and {name} {show(v)}; expected integers with {rank} axes, as many rows as "
                    "examples. Pad shorter rows of labels with the blank.",
                )
        for v in frames:
            indices(self, v, z.shape[1] + 1, "frames")
        if not 0 <= self.blank < z.shape[-1]:
            raise LayerError(
                self,
                f"got blank={self.blank} and {z.shape[-1]} classes; expected one of them. Count it among the scores.",
            )
        return z, *map(whole, (labels, *frames))

    def _states(self, z, labels, frames):
        """(l', where s−2 counts, e time first, where frames count, the last states of each example)."""
        padding = labels == self.blank
        labels = jnp.take_along_axis(labels, jnp.argsort(padding, axis=1, stable=True), 1)
        b, n = labels.shape
        word = jnp.full((b, 2 * n + 1), self.blank, labels.dtype).at[:, 1::2].set(labels)
        skip = (word != self.blank) & (word != _shifted(word, 2, self.blank))
        log_p = jnp.maximum(wide(z) - log_sum_exp(z), NEVER)
        e = time_first(jnp.take_along_axis(log_p, jnp.broadcast_to(word[:, None], (b, z.shape[1], word.shape[1])), 2))
        live = jnp.ones((z.shape[1], b), bool)
        if frames:
            live = jnp.arange(z.shape[1], dtype=frames[0].dtype)[:, None] < frames[0][None]
        last = 2 * (n - padding.sum(1, keepdims=True, dtype=jnp.int32))
        s = lax.broadcasted_iota(jnp.int32, word.shape, 1)
        return word, skip, e, live, (s == last) | (s == last - 1)

    def _share(self, labels, dtype):
        """1, or 1 / the number of labels."""
        if not self.per_label:
            return jnp.ones(len(labels), dtype)
        return 1 / jnp.maximum((labels != self.blank).sum(1, dtype=jnp.int32), 1).astype(dtype)

    def terms(self, params, x, /):
        z, labels, *frames = self._check(x)
        word, skip, e, live, ends = self._states(z, labels, frames)

        def step(carry, now):
            (a, log_p), (e, live) = carry, now
            two = jnp.where(skip, _shifted(a, 2, NEVER), NEVER)
            new = e + _log_sum(a, _shifted(a, 1, NEVER), two)
            scale = log_sum_exp(new)
            a = jnp.where(live[:, None], new - scale, a)
            return (a, log_p + jnp.where(live[:, None], scale, 0)), a

        first = jnp.full(word.shape, NEVER, e.dtype).at[:, 0].set(0)  # before the first frame: at the first blank
        (a, log_p), alphas = scan(step, (first, jnp.zeros((len(word), 1), e.dtype)), (e, live))
        log_p += log_sum_exp(jnp.where(ends, a, NEVER))
        log_p = log_p[:, 0]
        loss = jnp.where(log_p > NEVER / 2, jnp.maximum(-log_p, 0), 0 if self.zero_infinity else jnp.inf)
        return (loss * self._share(labels, e.dtype), None), (z, labels, frames, alphas, log_p)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, labels, frames, alphas, log_p = residuals
        word, skip, e, live, ends = self._states(z, labels, frames)
        each = jnp.where(log_p > NEVER / 2, dl * self._share(labels, dl.dtype), 0)[:, None]

        def step(b, now):
            a, e, live, z = now
            gamma, pi = softmax(a + b, -1), softmax(wide(z), -1)
            less = jax.vmap(lambda pi, word, gamma: pi.at[word].add(-gamma))(pi, word, gamma)
            dz = jnp.where(live[:, None] & (each != 0), less * each, 0)
            on = b + e
            two = _shifted(jnp.where(skip, on, NEVER), -2, NEVER)
            new = _log_sum(on, _shifted(on, -1, NEVER), two)
            b = jnp.where(live[:, None], new - peak(new), b)
            return b, dz.astype(z.dtype)

        last = jnp.where(ends, 0, NEVER).astype(e.dtype)
        _, dz = scan(step, last, (alphas, e, live, time_first(z)), reverse=True)
        return (time_first(dz), None, *[None for _ in frames]), ()

    def terms_reference(self, params, x, /):
        z, labels, *frames = x
        frames = frames[0] if frames else jnp.full(len(labels), z.shape[1])

        def plus(*a):
            top = lax.stop_gradient(jnp.max(jnp.stack(a), 0))
            return top + jnp.log(sum(jnp.exp(v - top) for v in a))

        def example(z, labels, frames):
            n = jnp.sum(labels != self.blank)
            labels = labels[jnp.argsort(labels == self.blank, stable=True)]
            word = jnp.stack([jnp.full_like(labels, self.blank), labels], 1).reshape(-1)
            word = jnp.concatenate([word, jnp.full(1, self.blank, word.dtype)])
            fresh = jnp.concatenate([jnp.zeros(2, bool), (word[2:] != word[:-2]) & (word[2:] != self.blank)])[
                : len(word)
            ]
            never = jnp.full(2, NEVER, z.dtype)

            def frame(a, now):
                z, t = now
                log_pi = z - jnp.max(z) - jnp.log(jnp.sum(jnp.exp(z - jnp.max(z))))
                log_pi = jnp.where(log_pi == -jnp.inf, NEVER, log_pi)
                before = jnp.concatenate([never, a])
                new = log_pi[word] + plus(a, before[1:-1], jnp.where(fresh, before[:-2], NEVER))
                return jnp.where(t < frames, new, a), None

            start = jnp.where(jnp.arange(len(word)) == 0, 0, NEVER).astype(z.dtype)
            a = lax.scan(frame, start, (z, jnp.arange(len(z), dtype=frames.dtype)))[0]
            log_p = plus(a[2 * n], jnp.where(n > 0, a[2 * n - 1], NEVER))
            never = 0 if self.zero_infinity else jnp.inf
            return jnp.where(log_p > NEVER / 2, -log_p, never) / (
                jnp.where(n > 0, n, 1).astype(z.dtype) if self.per_label else 1
            )

        return jax.vmap(example)(z, labels, frames), None


def _shifted(a, by, fill):
    """a moved along its last axis, `fill` coming in: a(s − by) at s."""
    n = a.shape[-1]
    new = jnp.full((len(a), min(abs(by), n)), fill, a.dtype)
    return jnp.concatenate([new, a[:, : max(n - by, 0)]], 1) if by > 0 else jnp.concatenate([a[:, -by:], new], 1)


def _log_sum(*a):
    top = jnp.maximum(jnp.maximum(a[0], a[1]), a[2])
    return top + jnp.log(sum(jnp.exp(v - top) for v in a))


CASES = (
    Case(CTC(), (f(2, 5, 3), i(2, 2, below=3)), (f(2, 5, 3), i(2, 2, below=3), i(2, below=5))),
    Case(CTC(2), (f(2, 8, 5), i(2, 3, below=5))),
    Case(CTC(2, per_label=True, zero_infinity=True), (f(2, 4, 5), i(2, 3, below=5))),
)
