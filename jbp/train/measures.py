"""What training is measured by beside its loss: functions of (output, *targets), as `step` and `fit` take them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, show


def accuracy(scores: Any, labels: Any, weights: Any = None, *, ignore: int | None = None) -> Any:
    """The share of rows of scores (..., classes) whose greatest is at the label (...), 0 where no row counts.

    Labels are integers, or soft labels (..., classes), of which the greatest is meant. Rows with the label `ignore` do
    not count, and `weights`, numbers or a mask (...), say how much the others do: `partial(accuracy, ignore=0)` beside
    SoftmaxCrossEntropy(ignore=0), and accuracy itself beside Weighted(...), which is given the same targets.

    Raises LayerError for shapes that do not fit.

    >>> jbp.train.accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), jnp.array([0, 1, 1]))
    Array(0.667, dtype=float32)
    """
    scores, labels = _numbers("scores", scores), _numbers("labels", labels)
    rows, soft = scores.shape[:-1], jnp.issubdtype(labels.dtype, jnp.floating)
    if not scores.ndim or labels.shape != (scores.shape if soft else rows):
        raise LayerError(
            accuracy,
            f"got scores {show(scores)} and labels {show(labels)}; expected one integer for each row of "
            f"scores, of shape {list(rows)}, or soft labels like the scores. Reshape them: labels[..., 0] of a column.",
        )
    if soft:
        labels = labels.argmax(-1)
    labels = labels.astype(np.promote_types(labels.dtype, np.int32))
    counts = jnp.ones(rows, jnp.float32) if weights is None else _numbers("weights", weights).astype(jnp.float32)
    if counts.shape != rows:
        raise LayerError(
            accuracy,
            f"got weights {show(counts)} for scores {show(scores)}; expected one for each row of scores, of "
            f"shape {list(rows)}. Spread them out with jnp.broadcast_to.",
        )
    if ignore is not None and (not isinstance(ignore, int | np.integer) or isinstance(ignore, bool)):
        raise LayerError(accuracy, f"got ignore={show(ignore)}; expected a label, an integer. Or leave it out.")
    if ignore is not None:
        counts = jnp.where(labels == ignore, 0, counts)
    right = jnp.where(scores.argmax(-1).astype(labels.dtype) == labels, counts, 0).sum()
    return right / jnp.where(counts.sum() == 0, 1, counts.sum())


def _numbers(what, given):
    try:
        return jnp.asarray(given)
    except (TypeError, ValueError) as error:
        remedy = "Pass jnp.asarray of its values."
        if isinstance(given, dict) and given:
            name = next(iter(given))
            remedy = f"Choose one, kind=lambda y, t: accuracy(y[{name!r}], t[{name!r}])."
        raise LayerError(accuracy, f"got {what} {show(given)}; expected an array of numbers. {remedy}") from error
