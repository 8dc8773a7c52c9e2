"""Losses: layers from (prediction, target) to one number. Their dy is that of a scalar, 1 at the top of a sweep."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.errors import LayerError, floats, show
from jbp.layer import Layer
from jbp.layers.embedding import indices
from jbp.layers.shape import wide


def _pair(layer, x, what):
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise LayerError(layer, f"got {show(x)}; expected the tuple (prediction, {what}). Pass both as one argument.")
    return x


@dataclass(frozen=True)
class MeanSquaredError(Layer):
    """y = mean (p − t)² over all elements.      dp = 2 (p − t) dy / count      dt = −dp

    Keeps p − t. Shapes: p and t alike, any; y ().
    """

    def forward(self, params, x, /):
        p, t = _pair(self, x, "target")
        floats(self, p, "of any shape", least=0)
        if p.shape != t.shape or p.dtype != t.dtype:
            raise LayerError(
                self,
                f"got prediction {show(p)} and target {show(t)}; expected one shape and one dtype. "
                "Reshape or cast the target.",
            )
        return jnp.square(wide(p - t)).mean().astype(p.dtype), p - t

    def backward(self, params, error, dy, /):
        dp = 2 * dy / max(error.size, 1) * error
        return (dp, -dp), ()

    def reference(self, params, x, /):
        return jnp.mean((x[0] - x[1]) ** 2)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Layer):
    """y = mean (l − z[label]) with l = log Σ exp z over the last axis.      dz = (softmax z − onehot label) dy / count

    Keeps z, the labels and l. Shapes: z (..., classes), labels (...) of integers, y (). A label out of range raises
    LayerError where it can be known (outside of jit); inside of jit it makes the loss NaN. No cotangent for labels.
    """

    def forward(self, params, x, /):
        z, labels = _pair(self, x, "labels")
        floats(self, z, "(..., classes)")
        indices(self, labels, z.shape[-1], "labels")
        if labels.shape != z.shape[:-1]:
            raise LayerError(
                self,
                f"got scores {show(z)} and labels {show(labels)}; expected labels of shape {list(z.shape[:-1])}: "
                "one integer for each row of scores. From one-hot labels take labels.argmax(-1).",
            )
        top = z.max(-1, keepdims=True, initial=-jnp.inf)
        logs = wide(top) + jnp.log(jnp.exp(wide(z - top)).sum(-1, keepdims=True))
        index = jnp.where((labels >= 0) & (labels < z.shape[-1]), labels, z.shape[-1])[..., None]
        chosen = jnp.take_along_axis(wide(z), index, -1, mode="fill", fill_value=jnp.nan)
        return (logs - chosen).mean().astype(z.dtype), (z, labels, logs)

    def backward(self, params, residuals, dy, /):
        z, labels, logs = residuals
        classes = jnp.expand_dims(jnp.arange(z.shape[-1], dtype=labels.dtype), range(labels.ndim))
        error = jnp.exp(wide(z) - logs) - (labels[..., None] == classes).astype(logs.dtype)
        return ((error * (wide(dy) / max(labels.size, 1))).astype(z.dtype), None), ()

    def reference(self, params, x, /):
        z, labels = x
        top = jnp.max(z, -1, keepdims=True)
        e = jnp.exp(z - top)
        onehot = jnp.expand_dims(jnp.arange(z.shape[-1], dtype=labels.dtype), range(labels.ndim)) == labels[..., None]
        return jnp.mean(jnp.log(e.sum(-1)) + top[..., 0] - jnp.where(onehot, z, 0).sum(-1))
