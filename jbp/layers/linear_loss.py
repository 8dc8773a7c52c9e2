"""The last linear layer and cross-entropy as one loss, so that no more than a chunk of the logits ever exists."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.errors import LayerError, floats, take
from jbp.layers.loss import Entropy, check_options
from jbp.layers.regression import pair
from jbp.layers.shape import along, wide, wide_dtype


@dataclass(frozen=True)
class LinearCrossEntropy(Entropy):
    """y = mean (l − z[label]), z = x W + b, l = log Σ exp z: SoftmaxCrossEntropy of a Dense, `chunk` rows at a time.

        dz = (softmax z − onehot label) dy / count      dx = dz Wᵀ      dW = xᵀ dz      db = Σ dz

    z of a chunk is made twice, once on each way, and dz is used where it is made: delta is (dW, db) itself. All options
    of SoftmaxCrossEntropy, with the equations at the head of loss.py. Keeps x, the labels and l, one number a row;
    never the logits. Shapes: x (..., i), W (i, vocabulary), b (vocabulary,), labels (...) of integers or (...,
    vocabulary) of floats, y (); any number of rows. W starts normal with variance 1/i. To train with it put it into
    the network, `Serial(Parallel(body, Identity()), LinearCrossEntropy(v))` on (x, labels), and take Add() for the
    loss. (Wijmans et al., *Cut Your Losses in Large-Vocabulary Language Models*, 2025, §4.) Raises LayerError as
    SoftmaxCrossEntropy does.
    """

    vocabulary: int
    chunk: int = 1024
    bias: bool = True
    smoothing: float = 0.0
    weights: tuple[float, ...] | None = None
    ignore: int | None = None
    z_loss: float = 0.0
    cap: float | None = None

    def __post_init__(self):
        check_options(self)
        if self.chunk < 1:
            raise LayerError(self, f"got chunk={self.chunk}; expected 1 or more. Try 1024.")

    def _check(self, x):
        h, labels = pair(self, x, "labels")
        floats(self, h, "(..., features)")
        self._check_labels(labels, h.shape[:-1], self.vocabulary)
        shapes = {"w": (h.shape[-1], self.vocabulary), "b": (self.vocabulary,)}
        return h, labels, shapes if self.bias else {"w": shapes["w"]}

    def init(self, key, x, /):
        h, _, shapes = self._check(x)
        params = {"w": jax.random.normal(key, shapes["w"], h.dtype) * max(h.shape[-1], 1) ** -0.5}
        return params | {"b": jnp.zeros(self.vocabulary, h.dtype)} if self.bias else params

    def _logits(self, params, h):
        z = jnp.einsum("ni,iv->nv", h, params["w"], preferred_element_type=wide_dtype(h.dtype))
        return z + along(wide(params["b"]), z) if self.bias else z

    def _chunked(self, step, carry, h, labels, *more):
        """A scan of `step` over chunks of rows; the rows that are left come last, as a chunk of their own."""
        rows = math.prod(h.shape[:-1])
        size = max(1, min(self.chunk, rows))
        whole = rows - rows % size
        soft = labels.ndim == h.ndim
        trees = h.reshape(rows, h.shape[-1]), labels.reshape(rows, *labels.shape[-1:] if soft else ()), *more
        first = [t[:whole].reshape(whole // size, size, *t.shape[1:]) for t in trees]
        carry, out = lax.scan(step, carry, first)
        out = jax.tree.map(lambda o: o.reshape(whole, *o.shape[2:]), out)
        if rows > whole:
            carry, last = step(carry, [t[whole:] for t in trees])
            out = jax.tree.map(lambda o, l: jnp.concatenate([o, l]), out, last)  # noqa: E741
        return carry, out

    def forward(self, params, x, /):
        h, labels, shapes = self._check(x)
        take(self, params, h.dtype, **shapes)

        def step(sums, now):
            h, labels = now
            loss, count, logs = self._rows(self._logits(params, h), labels)
            return (sums[0] + loss, sums[1] + count), logs

        zero = jnp.zeros((), wide_dtype(h.dtype))
        (loss, count), logs = self._chunked(step, (zero, zero), h, labels)
        return (loss / jnp.where(count == 0, 1, count)).astype(h.dtype), (h, labels, logs, count)

    def backward(self, params, residuals, dy, /):
        h, labels, logs, count = residuals
        w = params["w"]

        def step(sums, now):
            h, labels, logs = now
            dz, dlabels = self._slopes(self._logits(params, h), labels, logs, 1)
            narrow = dz.astype(h.dtype)
            dh = jnp.einsum("nv,iv->ni", narrow, w, preferred_element_type=dz.dtype)
            dw = jnp.einsum("ni,nv->iv", h, narrow, preferred_element_type=dz.dtype)
            return (sums[0] + dw, sums[1] + dz.sum(0)), (dh, dlabels)

        zero = jnp.zeros(w.shape, logs.dtype), jnp.zeros(w.shape[1:], logs.dtype)
        sums, (dh, dlabels) = self._chunked(step, zero, h, labels, logs)
        each = wide(dy) / jnp.where(count == 0, 1, count)
        dw, db = ((s * each).astype(w.dtype) for s in sums)
        dx = (dh * each).astype(h.dtype).reshape(h.shape)
        soft = None if dlabels is None else (dlabels * each.astype(dlabels.dtype)).reshape(labels.shape)
        return (dx, soft), ({"w": dw, "b": db} if self.bias else {"w": dw})

    def gradient(self, residuals, delta, /):
        return delta

    def reference(self, params, x, /):
        h, labels = x
        z = h @ params["w"]
        return self._plain(z + along(params["b"], z) if self.bias else z, labels)
