"""Cross-entropy of scores over classes: the options, and the loss that is given the scores themselves."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, known, show
from jbp.fields import NonNegative, Positive, Rate
from jbp.losses.loss import Loss
from jbp.losses.targets import pair, tamed, whole
from jbp.numerics import Static, along, chosen, is_float, log_sum_exp, wide, wide_dtype


class Classes(Loss):
    """What losses of labels have in common: which are right, which rows count, and how much."""

    smoothing = 0.0
    weights: tuple[NonNegative, ...] | None
    ignore: int | None

    def _check_labels(self, labels, rows, classes):
        """An error unless labels are integers for the rows, in range where that can be known, or soft labels."""
        if self.weights is not None and len(self.weights) != classes:
            raise LayerError(
                self, f"got {len(self.weights)} weights for {classes} classes; expected one a class. Give them all."
            )
        if hasattr(labels, "dtype") and is_float(labels):
            if labels.shape != (*rows, classes):
                raise LayerError(
                    self,
                    f"got soft labels {show(labels)}; expected shape {[*rows, classes]}: a probability for each score. "
                    "For one integer a row cast them with labels.astype(jnp.int32).",
                )
            return
        checked = labels
        if self.ignore is not None and known(labels):
            seen = np.asarray(labels)
            checked = np.where(seen == self.ignore, np.zeros((), seen.dtype), seen)  # of the dtype that they have
        indices(self, checked, classes, "labels")
        if labels.shape != rows:
            raise LayerError(
                self,
                f"got labels {show(labels)}; expected labels of shape {list(rows)}: "
                "one integer for each row of scores. From one-hot labels take labels.argmax(-1).",
            )

    def _weights(self, classes, dtype):
        return jnp.asarray((1.0,) * classes if self.weights is None else self.weights, dtype)

    def _counted(self, labels, classes, dtype):
        """(r, k), (..., 1) in `dtype`: w_label k, with k = 0 for a row that is left out, NaN out of range, else 1."""
        if is_float(labels):
            one = jnp.ones((*labels.shape[:-1], 1), dtype)
            return one, one
        labels = whole(labels[..., None])
        counts = jnp.where((labels >= 0) & (labels < classes), 1, jnp.nan).astype(dtype)
        if self.ignore is not None:
            counts = jnp.where(labels == self.ignore, 0, counts)
        r = self._weights(classes, dtype)[jnp.clip(labels, 0, classes - 1)] * counts
        return r, counts if self.smoothing else jnp.where(r == 0, 0, counts)

    def _left(self, x, counts):
        """x with zeros in rows that are left out, so that what they hold cannot be met."""
        return x if self.ignore is None and self.weights is None else jnp.where(counts == 0, 0, x)

    def _here(self, labels, z):
        """Which rows are not left out, by the definition."""
        here = jnp.ones(labels.shape, bool) if self.ignore is None else labels != self.ignore
        if self.weights is None or self.smoothing:
            return here
        return here & (jnp.asarray(self.weights, z.dtype)[jnp.clip(labels, 0, len(self.weights) - 1)] != 0)


class Entropy(Classes):
    """What cross-entropy losses have in common: the options and equations of SoftmaxCrossEntropy, on z given anyhow."""

    smoothing: Rate
    weights: tuple[NonNegative, ...] | None
    ignore: int | None
    z_loss: NonNegative
    cap: Positive | None

    def _targets(self, labels, w, first, classes):
        """t of the classes from `first` on, whose weights are w; soft labels are those of these classes."""
        q = labels if is_float(labels) else chosen(labels, first, w.size)
        return along(w, q) * ((1 - self.smoothing) * q.astype(w.dtype) + self.smoothing / classes)

    def _capped(self, z):
        return z if self.cap is None else self.cap * jnp.tanh(z / self.cap)

    def _part(self, z, t):
        """(log Σ exp c, Σ t, Σ t c) over some of the classes: (..., 1) each, z in float32 at least."""
        c = self._capped(z)
        cross = jnp.where(t == 0, 0, t * c).sum(-1, keepdims=True)
        return log_sum_exp(c), t.sum(-1, keepdims=True), cross

    def _loss(self, part, r, counts):
        """The rows' losses, from what `_part` gives over all classes."""
        logs, total, cross = part
        return ((total * logs - cross) * counts + self.z_loss * r * jnp.square(logs))[..., 0]

    def _slopes(self, z, t, w, part, r, each):
        """(dz, dq of soft labels) of some of the classes, for each = k dl."""
        c, (logs, total, _) = self._capped(z), part
        dz = ((total + 2 * self.z_loss * r * logs) * jnp.exp(c - logs) - t) * each
        if self.cap is not None:
            dz *= 1 - jnp.square(c / self.cap)
        return dz, (1 - self.smoothing) * along(w, c) * tamed(logs - c, t) * each

    def _plain(self, z, labels):
        """The definition, row by row, in terms of probabilities."""
        classes = z.shape[-1]
        w = along(jnp.asarray([1.0] * classes if self.weights is None else self.weights, z.dtype), z)
        if is_float(labels):
            q, here = labels, jnp.ones(labels.shape[:-1], bool)
            counted = jnp.ones(labels.shape[:-1], z.dtype)
        else:
            here = self._here(labels, z)
            q = jnp.eye(classes, dtype=z.dtype)[jnp.clip(labels, 0, classes - 1)]
            counted = jnp.where(here, jnp.sum(w * q, -1), 0)
        z = jnp.where(here[..., None], z, 0)
        c = z if self.cap is None else self.cap * jnp.tanh(z / self.cap)
        top = jnp.max(c, -1, keepdims=True)
        total = jnp.sum(jnp.exp(c - top), -1)
        log_p = c - top - jnp.log(total)[..., None]
        t = w * ((1 - self.smoothing) * q + self.smoothing / classes)
        log_p = jnp.where((t == 0) & (log_p == -jnp.inf), 0, log_p)
        rows = -jnp.sum(t * log_p, -1) + self.z_loss * counted * (top[..., 0] + jnp.log(total)) ** 2
        return jnp.where(here, rows, 0), counted


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Entropy):
    """y = mean (l − z[label]) with l = log Σ exp z over the last axis.      dz = (softmax z − onehot label) dy / count

    Options, with D = Σ r over the rows and c = cap · tanh(z / cap), or z, in place of z:

        t_k = w_k ((1 − s) [k = label] + s / K)      r = w_label, and t = r = 0 for a row that is ignored
        y = Σ_rows (Σ_k t_k (l − c_k) + ζ r l²) / D      dc = ((Σ t + 2 ζ r l) exp(c − l) − t) dy / D

    `smoothing` s, `weights` w of the classes, a label to `ignore`, the factor ζ of the `z_loss`, the soft `cap`. Soft
    labels, rows of probabilities, have a cotangent; integers have none. A score of −∞ is a class that cannot be. Keeps
    z, the labels and l. Shapes: z (..., classes), labels (...) of integers or (..., classes) of floats, y (). Raises
    LayerError for other shapes, for options out of range, and for a label out of range where it can be known (outside
    of jit); inside of jit it makes the loss NaN. (Szegedy et al., *Rethinking the Inception Architecture*, 2016, §7;
    the z-loss: Chowdhery et al., *PaLM*, 2022, §5; the cap: Gemma Team, *Gemma 2*, 2024, §2.)

    >>> scores, labels = jnp.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), jnp.array([0, 1])
    >>> SoftmaxCrossEntropy()((), (scores, labels))
    Array(0.251, dtype=float32)
    >>> SoftmaxCrossEntropy(smoothing=0.1)((), (scores, labels))
    Array(0.401, dtype=float32)
    """

    smoothing: Rate = 0.0
    weights: tuple[NonNegative, ...] | None = None
    ignore: int | None = None
    z_loss: NonNegative = 0.0
    cap: Positive | None = None

    def terms(self, params, x, /):
        z, labels = pair(self, x, "labels")
        floats(self, z, "(..., classes)")
        self._check_labels(labels, z.shape[:-1], z.shape[-1])
        classes, dtype = z.shape[-1], wide_dtype(z.dtype)
        r, counts = self._counted(labels, classes, dtype)
        part = self._part(self._left(wide(z), counts), self._targets(labels, self._weights(classes, dtype), 0, classes))
        return (self._loss(part, r, counts), r[..., 0]), (z, labels, part[0])

    def terms_backward(self, params, residuals, dl, dn, /):
        z, labels, logs = residuals
        classes, w = z.shape[-1], self._weights(z.shape[-1], logs.dtype)
        r, counts = self._counted(labels, classes, logs.dtype)
        t = self._targets(labels, w, 0, classes)
        part = logs, t.sum(-1, keepdims=True), None
        dz, dlabels = self._slopes(self._left(wide(z), counts), t, w, part, r, counts * dl[..., None])
        soft = is_float(labels)
        return (dz.astype(z.dtype), dlabels.astype(labels.dtype) if soft else None), ()

    def terms_reference(self, params, x, /):
        return self._plain(*x)


@dataclass(frozen=True)
class NLL(Classes):
    """y = −Σ w p[label] / Σ w on x = (p, labels), log-probabilities and w the weight of the label.

        dp = −w (onehot label) dy / Σ w

    A label to `ignore` leaves its row out. Keeps the labels. Shapes: p (..., classes), labels (...) of integers, y ().
    Raises LayerError as SoftmaxCrossEntropy does.

    >>> scores, labels = jnp.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), jnp.array([0, 1])
    >>> NLL()((), (LogSoftmax()((), scores), labels))
    Array(0.251, dtype=float32)
    """

    weights: tuple[NonNegative, ...] | None = None
    ignore: int | None = None

    def terms(self, params, x, /):
        p, labels = pair(self, x, "labels")
        floats(self, p, "(..., classes)")
        if is_float(labels):
            raise LayerError(
                self, f"got labels {show(labels)}; expected integers. Take KLDiv for a distribution over the classes."
            )
        self._check_labels(labels, p.shape[:-1], p.shape[-1])
        r, _ = self._counted(labels, p.shape[-1], wide_dtype(p.dtype))
        at_label = jnp.where(chosen(labels, 0, p.shape[-1]), wide(p), 0).sum(-1)
        return (jnp.where(r[..., 0] == 0, 0, -r[..., 0] * at_label), r[..., 0]), (labels, Static((p.shape, p.dtype)))

    def terms_backward(self, params, residuals, dl, dn, /):
        labels, (shape, dtype) = residuals[0], residuals[1].value
        r, _ = self._counted(labels, shape[-1], dl.dtype)
        return (jnp.where(chosen(labels, 0, shape[-1]), -r * dl[..., None], 0).astype(dtype), None), ()

    def terms_reference(self, params, x, /):
        p, labels = x
        here, at_label = self._here(labels, p), jnp.clip(labels, 0, p.shape[-1] - 1)
        w = jnp.asarray([1.0] * p.shape[-1] if self.weights is None else self.weights, p.dtype)[at_label]
        own = jnp.take_along_axis(p, at_label[..., None], -1)[..., 0]
        return -jnp.where(here, w * jnp.where(here, own, 0), 0), jnp.where(here, w, 0)


CASES = (
    Case(NLL(), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
    Case(NLL((0.5, 2.0, 0.0), ignore=1), (f(8, 3), i(8, below=3))),
    Case(SoftmaxCrossEntropy(), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
    Case(SoftmaxCrossEntropy(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(SoftmaxCrossEntropy(smoothing=0.1), (f(3, 5), i(3, below=5))),
    Case(SoftmaxCrossEntropy(weights=(0.5, 2.0, 1.0)), (f(5, 3), i(5, below=3))),
    Case(SoftmaxCrossEntropy(ignore=1), (f(8, 3), i(8, below=3))),
    Case(SoftmaxCrossEntropy(z_loss=0.1), (f(3, 5), i(3, below=5))),
    Case(SoftmaxCrossEntropy(cap=2.0), (f(3, 5), i(3, below=5))),
    Case(SoftmaxCrossEntropy(0.2, (0.5, 2.0, 1.0), 0, 0.01, 3.0), (f(8, 3), i(8, below=3)), (f(5, 3), f(5, 3))),
)
