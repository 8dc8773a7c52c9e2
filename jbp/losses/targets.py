"""What losses take: a prediction and its targets, checked."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, floats, known, parts, show
from jbp.losses.loss import Loss


def pair(layer, x, what):
    """x, after a check that it is (prediction, what)."""
    return parts(layer, x, "prediction", what)


def alike(layer, x):
    """(prediction, target), after a check that they are floating and of one shape and dtype."""
    p, t = pair(layer, x, "target")
    floats(layer, p, "of any shape", least=0)
    if p.shape != t.shape or p.dtype != t.dtype:
        raise LayerError(
            layer,
            f"got prediction {show(p)} and target {show(t)}; expected one shape and one dtype. "
            "Reshape or cast the target.",
        )
    return p, t


def probable(layer: Any, t: Any) -> None:
    """An error unless targets are probabilities, which is looked at where they can be known. NaN makes the loss NaN."""
    if not known(t) or not t.size:
        return
    seen = np.asarray(t)
    least, most = seen.min(), seen.max()
    if least < 0 or most > 1:
        raise LayerError(
            layer,
            f"got targets between {least} and {most}; expected 0 <= target <= 1, the probability of yes. "
            "From labels of 1 and -1 take (labels + 1) / 2; for labels of classes there is SoftmaxCrossEntropy.",
        )


class Signed(Loss):
    """A loss whose targets, the last of its inputs, say yes by 1 and no by −1: 0 would be neither, at a constant cost.

    Inside of Weighted a row that does not count may have any, so it is the loss itself that looks.
    """

    def forward(self, params, x, /):
        found = super().forward(params, x)
        if known(x[-1]):
            t = np.asarray(x[-1], np.float64)
            wrong = t[(np.abs(t) != 1) & ~np.isnan(t)]
            if wrong.size:
                raise LayerError(
                    self,
                    f"got a target of {wrong[0]:g}; expected 1 for yes and -1 for no. "
                    "From labels of 1 and 0 take 2 * labels - 1.",
                )
        return found


def whole(ids: Any) -> Any:
    """Integers in a dtype in which classes, sentinels and lengths are different numbers: int32 at least."""
    return ids.astype(np.promote_types(ids.dtype, np.int32))


def tamed(v: Any, factor: Any) -> Any:
    """v, but 0 where it is infinite and its factor is 0: 0 log 0 is nothing."""
    return jnp.where((factor == 0) & jnp.isinf(v), 0, v)
