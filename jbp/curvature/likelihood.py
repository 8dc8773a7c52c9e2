"""Losses that are −log p(target | output): what is drawn of them."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jbp.errors import LayerError
from jbp.layer import Layer
from jbp.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from jbp.numerics import chosen, softmax, wide


def drawn(loss: Layer, output: Any, targets: tuple[Any, ...], key: Any) -> Any:
    """Errors s like the output with E s sᵀ = the Hessian of the loss, from targets that the network itself predicts.

        softmax:  s = √(Σ t / D) (p − onehot ŷ)      sigmoid:  s = √(h / n) (p − ŷ)      squares:  s = √(2 / n) N(0, 1)

    with ŷ drawn from p. What a row or an element counts, Σ t of D or h of n, is that of the targets that are there: the
    options of a loss (weights, rows to ignore) say so. Raises LayerError for a loss, or an option, without a
    likelihood.
    """
    z = wide(output)
    if type(loss) is SoftmaxCrossEntropy and not loss.z_loss and loss.cap is None:
        (labels,), classes = targets, z.shape[-1]
        r, counts = loss._counted(labels, classes, z.dtype)
        z = loss._left(z, counts)
        t = loss._targets(labels, loss._weights(classes, z.dtype), 0, classes).sum(-1, keepdims=True) * counts
        said = jax.random.categorical(key, z, axis=-1)
        wrong = softmax(z, -1) - chosen(said, 0, classes).astype(z.dtype)
        return (jnp.sqrt(t / jnp.maximum(r.sum(), jnp.finfo(z.dtype).tiny)) * wrong).astype(output.dtype)
    if type(loss) is BinaryCrossEntropy and loss.given == "scores":
        p, t = jax.nn.sigmoid(z), wide(targets[0])
        h = (1 - t) + loss._w(z) * t
        said = jax.random.bernoulli(key, p).astype(z.dtype)
        return (jnp.sqrt(h / max(z.size, 1)) * (p - said)).astype(output.dtype)
    if type(loss) is MeanSquaredError:
        return math.sqrt(2 / max(z.size, 1)) * jax.random.normal(key, output.shape, output.dtype)
    raise LayerError(
        loss,
        "got a loss of which no target can be drawn; expected SoftmaxCrossEntropy (without z_loss and cap), "
        'BinaryCrossEntropy of scores or MeanSquaredError. Ask for "empirical", the targets that are there.',
    )
