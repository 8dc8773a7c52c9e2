"""Cross-entropy. A loss is a layer from (prediction, target) to one number; its dy is that of a scalar, 1 at the top.

Index key: z the scores of one row, c = cap · tanh(z / cap) or z itself, l = log Σ exp c, t what each class counts,
r what the row counts, D = Σ r over the rows, ζ the factor of the z-loss:

    t_k = w_k ((1 − s) [k = label] + s / K)      r = w_label, and t = r = 0 for a row that is ignored
    y = Σ_rows (Σ_k t_k (l − c_k) + ζ r l²) / D
    dc = ((Σ t + 2 ζ r l) exp(c − l) − t) dy / D      dz = dc (1 − (c / cap)²)

with s the smoothing and w the weights of the classes. With soft labels q in place of [k = label], r = 1 and
dq_k = (1 − s) w_k (l − c_k) dy / D. (Szegedy et al., *Rethinking the Inception Architecture*, 2016, §7; the z-loss:
Chowdhery et al., *PaLM*, 2022, §5; the cap: Gemma Team, *Gemma 2*, 2024, §2.)
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, indices, known, show
from jbp.layer import Layer
from jbp.losses.targets import pair
from jbp.numerics import along, chosen, log_sum_exp, wide, wide_dtype


class Entropy(Layer):
    """What cross-entropy losses have in common: their options, and the equations at the head of this file."""

    smoothing: float
    weights: tuple[float, ...] | None
    ignore: int | None
    z_loss: float
    cap: float | None

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.smoothing < 1:
            raise LayerError(self, f"got smoothing={self.smoothing}; expected 0 <= smoothing < 1. Try 0.1.")
        if self.cap is not None and not self.cap > 0:
            raise LayerError(self, f"got cap={self.cap}; expected more than 0. For no cap write None.")
        if self.weights is not None and not min(self.weights, default=0) > 0:
            raise LayerError(
                self, f"got weights {self.weights}; expected all above 0. Leave a class out with `ignore`."
            )

    def _check_labels(self, labels, rows, classes):
        """An error unless labels are integers for the rows, in range where that can be known, or soft labels."""
        if self.weights is not None and len(self.weights) != classes:
            raise LayerError(
                self, f"got {len(self.weights)} weights for {classes} classes; expected one a class. Give them all."
            )
        if hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.floating):
            if labels.shape != (*rows, classes):
                raise LayerError(
                    self,
                    f"got soft labels {show(labels)}; expected shape {[*rows, classes]}: a probability for each score. "
                    "For one integer a row cast them with labels.astype(jnp.int32).",
                )
            return
        checked = labels
        if self.ignore is not None and known(labels):
            checked = np.where(np.asarray(labels) == self.ignore, 0, np.asarray(labels))
        indices(self, checked, classes, "labels")
        if labels.shape != rows:
            raise LayerError(
                self,
                f"got labels {show(labels)}; expected labels of shape {list(rows)}: "
                "one integer for each row of scores. From one-hot labels take labels.argmax(-1).",
            )

    def _weights(self, classes, dtype):
        return jnp.asarray(self.weights or (1.0,) * classes, dtype)

    def _counted(self, labels, classes, dtype):
        """(r, k), (..., 1) in `dtype`: w_label k, with k = 0 for an ignored row, NaN out of range, else 1."""
        if jnp.issubdtype(labels.dtype, jnp.floating):
            one = jnp.ones((*labels.shape[:-1], 1), dtype)
            return one, one
        labels = labels[..., None].astype(np.promote_types(labels.dtype, np.int32))
        counts = jnp.where((labels >= 0) & (labels < classes), 1, jnp.nan).astype(dtype)
        if self.ignore is not None:
            counts = jnp.where(labels == self.ignore, 0, counts)
        return self._weights(classes, dtype)[jnp.clip(labels, 0, classes - 1)] * counts, counts

    def _targets(self, labels, w, first, classes):
        """t of the classes from `first` on, whose weights are w; soft labels are those of these classes."""
        q = labels if jnp.issubdtype(labels.dtype, jnp.floating) else chosen(labels, first, w.size)
        return along(w, q) * ((1 - self.smoothing) * q.astype(w.dtype) + self.smoothing / classes)

    def _capped(self, z):
        return z if self.cap is None else self.cap * jnp.tanh(z / self.cap)

    def _part(self, z, t):
        """(log Σ exp c, Σ t, Σ t c) over some of the classes: (..., 1) each, z in float32 at least."""
        c = self._capped(z)
        return log_sum_exp(c), t.sum(-1, keepdims=True), (t * c).sum(-1, keepdims=True)

    def _loss(self, part, r, counts):
        """The sum of the rows' losses, from what `_part` gives over all classes."""
        logs, total, cross = part
        return ((total * logs - cross) * counts + self.z_loss * r * jnp.square(logs)).sum()

    def _slopes(self, z, t, w, part, r, each):
        """(dz, dq of soft labels) of some of the classes, for each = k dy / D."""
        c, (logs, total, _) = self._capped(z), part
        dz = ((total + 2 * self.z_loss * r * logs) * jnp.exp(c - logs) - t) * each
        if self.cap is not None:
            dz *= 1 - jnp.square(c / self.cap)
        return dz, (1 - self.smoothing) * along(w, c) * (logs - c) * each

    def _plain(self, z, labels):
        """The definition, row by row, in terms of probabilities."""
        classes = z.shape[-1]
        c = z if self.cap is None else self.cap * jnp.tanh(z / self.cap)
        top = jnp.max(c, -1, keepdims=True)
        total = jnp.sum(jnp.exp(c - top), -1)
        log_p = c - top - jnp.log(total)[..., None]
        w = along(jnp.asarray(self.weights or [1.0] * classes, z.dtype), z)
        if jnp.issubdtype(labels.dtype, jnp.floating):
            q, counted = labels, jnp.ones(labels.shape[:-1], z.dtype)
        else:
            q = jnp.eye(classes, dtype=z.dtype)[jnp.clip(labels, 0, classes - 1)]
            counted = jnp.where(labels == self.ignore, 0, 1).astype(z.dtype) * jnp.sum(w * q, -1)
            q = q * (counted > 0)[..., None].astype(z.dtype) if self.ignore is not None else q
        nll = -jnp.sum(w * q * log_p, -1)
        even = -jnp.mean(w * log_p, -1) * (counted > 0).astype(z.dtype)
        rows = (1 - self.smoothing) * nll + self.smoothing * even
        rows = rows + self.z_loss * counted * (top[..., 0] + jnp.log(total)) ** 2
        return jnp.sum(rows) / jnp.where(jnp.sum(counted) == 0, 1, jnp.sum(counted))


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Entropy):
    """y = mean (l − z[label]) with l = log Σ exp z over the last axis.      dz = (softmax z − onehot label) dy / count

    Options, with the equations at the head of this file: `smoothing` of the labels, `weights` of the classes, a label
    to `ignore`, the factor of the `z_loss` and the soft `cap` on scores; the mean is weighted. Soft labels, rows of
    probabilities, have a cotangent; integers have none. Keeps z, the labels and l. Shapes: z (..., classes), labels
    (...) of integers or (..., classes) of floats, y (). Raises LayerError for other shapes, for options out of range,
    and for a label out of range where it can be known (outside of jit); inside of jit it makes the loss NaN.
    """

    smoothing: float = 0.0
    weights: tuple[float, ...] | None = None
    ignore: int | None = None
    z_loss: float = 0.0
    cap: float | None = None

    def forward(self, params, x, /):
        z, labels = pair(self, x, "labels")
        floats(self, z, "(..., classes)")
        self._check_labels(labels, z.shape[:-1], z.shape[-1])
        classes, dtype = z.shape[-1], wide_dtype(z.dtype)
        r, counts = self._counted(labels, classes, dtype)
        part = self._part(wide(z), self._targets(labels, self._weights(classes, dtype), 0, classes))
        count = r.sum()
        loss = self._loss(part, r, counts) / jnp.where(count == 0, 1, count)
        return loss.astype(z.dtype), (z, labels, part[0], count)

    def backward(self, params, residuals, dy, /):
        z, labels, logs, count = residuals
        classes, w = z.shape[-1], self._weights(z.shape[-1], logs.dtype)
        r, counts = self._counted(labels, classes, logs.dtype)
        t = self._targets(labels, w, 0, classes)
        each = counts * wide(dy) / jnp.where(count == 0, 1, count)
        dz, dlabels = self._slopes(wide(z), t, w, (logs, t.sum(-1, keepdims=True), None), r, each)
        soft = jnp.issubdtype(labels.dtype, jnp.floating)
        return (dz.astype(z.dtype), dlabels.astype(labels.dtype) if soft else None), ()

    def reference(self, params, x, /):
        return self._plain(*x)


CASES = (
    Case(SoftmaxCrossEntropy(), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
    Case(SoftmaxCrossEntropy(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(SoftmaxCrossEntropy(smoothing=0.1), (f(3, 5), i(3, below=5))),
    Case(SoftmaxCrossEntropy(weights=(0.5, 2.0, 1.0)), (f(5, 3), i(5, below=3))),
    Case(SoftmaxCrossEntropy(ignore=1), (f(8, 3), i(8, below=3))),
    Case(SoftmaxCrossEntropy(ignore=0), (f(3, 2), i(3, below=1))),
    Case(SoftmaxCrossEntropy(z_loss=0.1), (f(3, 5), i(3, below=5))),
    Case(SoftmaxCrossEntropy(cap=2.0), (f(3, 5), i(3, below=5))),
    Case(SoftmaxCrossEntropy(0.2, (0.5, 2.0, 1.0), 0, 0.01, 3.0), (f(8, 3), i(8, below=3)), (f(5, 3), f(5, 3))),
)
