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
from typing import Any

import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, floats, known, show
from jbp.layer import Layer
from jbp.layers.embedding import indices
from jbp.layers.regression import pair
from jbp.layers.shape import along, wide
from jbp.layers.softmax import log_sum_exp


class Entropy(Layer):
    """What cross-entropy losses have in common: their options, and the equations at the head of this file."""

    smoothing: float
    weights: tuple[float, ...] | None
    ignore: int | None
    z_loss: float
    cap: float | None

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

    def _counts(self, labels, classes, dtype):
        """t (..., classes) and r (..., 1) in `dtype`. A label out of range makes both NaN."""
        w = jnp.asarray(self.weights or (1.0,) * classes, dtype)
        soft = jnp.issubdtype(labels.dtype, jnp.floating)
        labels = labels if soft else labels[..., None]
        q = (labels if soft else labels == along(jnp.arange(classes, dtype=labels.dtype), labels)).astype(dtype)
        t = along(w, q) * ((1 - self.smoothing) * q + self.smoothing / classes)
        if soft:
            return t, jnp.ones((*q.shape[:-1], 1), dtype)
        seen = jnp.where((labels >= 0) & (labels < classes), 1, jnp.nan).astype(dtype)
        if self.ignore is not None:
            t = jnp.where(labels == self.ignore, 0, t)
            seen = jnp.where(labels == self.ignore, 0, seen)
        return t * jnp.where(seen == 0, 1, seen), (q * along(w, q)).sum(-1, keepdims=True) * seen

    def _capped(self, z):
        return z if self.cap is None else self.cap * jnp.tanh(z / self.cap)

    def _rows(self, z, labels):
        """(Σ of the rows' losses, Σ r, l): one number, one number, and (..., 1). z is in float32 at least."""
        c = self._capped(z)
        t, r = self._counts(labels, z.shape[-1], z.dtype)
        logs = log_sum_exp(c)
        loss = t.sum(-1, keepdims=True) * logs - (t * c).sum(-1, keepdims=True)
        if self.z_loss:
            loss += self.z_loss * r * jnp.square(logs)
        return loss.sum(), r.sum(), logs

    def _slopes(self, z, labels, logs, each):
        """(dz, dlabels) for each = dy / D."""
        c = self._capped(z)
        t, r = self._counts(labels, z.shape[-1], z.dtype)
        total = t.sum(-1, keepdims=True) + (2 * self.z_loss * r * logs if self.z_loss else 0)
        dz = (total * jnp.exp(c - logs) - t) * each
        if self.cap is not None:
            dz *= 1 - jnp.square(c / self.cap)
        if not jnp.issubdtype(labels.dtype, jnp.floating):
            return dz, None
        w = along(jnp.asarray(self.weights or (1.0,) * z.shape[-1], z.dtype), z)
        return dz, ((1 - self.smoothing) * w * (logs - c) * each).astype(labels.dtype)

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


def check_options(layer: Any) -> None:
    """An error for options out of range."""
    if not 0 <= layer.smoothing < 1:
        raise LayerError(layer, f"got smoothing={layer.smoothing}; expected 0 <= smoothing < 1. Try 0.1.")
    if layer.cap is not None and not layer.cap > 0:
        raise LayerError(layer, f"got cap={layer.cap}; expected more than 0. For no cap write None.")
    if layer.weights is not None and not min(layer.weights, default=0) > 0:
        raise LayerError(layer, f"got weights {layer.weights}; expected all above 0. Leave a class out with `ignore`.")


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

    def __post_init__(self):
        check_options(self)

    def forward(self, params, x, /):
        z, labels = pair(self, x, "labels")
        floats(self, z, "(..., classes)")
        self._check_labels(labels, z.shape[:-1], z.shape[-1])
        loss, count, logs = self._rows(wide(z), labels)
        return (loss / jnp.where(count == 0, 1, count)).astype(z.dtype), (z, labels, logs, count)

    def backward(self, params, residuals, dy, /):
        z, labels, logs, count = residuals
        dz, dlabels = self._slopes(wide(z), labels, logs, wide(dy) / jnp.where(count == 0, 1, count))
        return (dz.astype(z.dtype), dlabels), ()

    def reference(self, params, x, /):
        return self._plain(*x)
