"""The last linear layer and cross-entropy as one loss, so that no more than a chunk of the logits ever exists."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, floats, take
from jbp.losses.cross_entropy import Entropy
from jbp.losses.targets import pair
from jbp.numerics import along, wide, wide_dtype


@dataclass(frozen=True)
class LinearCrossEntropy(Entropy):
    """y = mean (l − z[label]), z = x W + b, l = log Σ exp z: SoftmaxCrossEntropy of a Dense, a piece at a time.

        dz = (softmax z − onehot label) dy / count      dx = dz Wᵀ      dW = xᵀ dz      db = Σ dz

    A piece is `chunk` rows by `columns` of the vocabulary: no more of z exists at a time. Each is made twice, once on
    each way, four products where storing z takes three, and dz is used where it is made: delta is (dW, db) itself. All
    options of SoftmaxCrossEntropy, with the equations at the head of loss.py. Keeps x, the labels, l and Σ t, two
    numbers a row. Shapes: x (..., i), W (i, vocabulary), b (vocabulary,), labels (...) of integers or (...,
    vocabulary) of floats, y (); any number of rows. W starts normal with variance 1/i. To train with it put it into
    the network, `Serial(Parallel(body, Identity()), LinearCrossEntropy(v))` on (x, labels), and take Add() for the
    loss. (Wijmans et al., *Cut Your Losses in Large-Vocabulary Language Models*, 2025, §4.) Raises LayerError as
    SoftmaxCrossEntropy does.
    """

    vocabulary: int
    chunk: int = 256
    bias: bool = True
    smoothing: float = 0.0
    weights: tuple[float, ...] | None = None
    ignore: int | None = None
    z_loss: float = 0.0
    cap: float | None = None

    columns: int = 4096

    def __post_init__(self):
        super().__post_init__()
        if self.chunk < 1 or self.columns < 1:
            raise LayerError(
                self, f"got chunk={self.chunk} and columns={self.columns}; expected 1 or more. Try 256 and 4096."
            )

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

    def _piece(self, params, h, labels, first, size):
        """(z, t, w) of `size` classes from `first` on."""
        w = lax.dynamic_slice_in_dim(params["w"], first, size, 1)
        z = jnp.einsum("ni,iv->nv", h, w, preferred_element_type=wide_dtype(h.dtype))
        if self.bias:
            z += along(wide(lax.dynamic_slice_in_dim(params["b"], first, size)), z)
        weights = lax.dynamic_slice_in_dim(self._weights(self.vocabulary, z.dtype), first, size)
        if labels.ndim == h.ndim:
            labels = wide(lax.dynamic_slice_in_dim(labels, first, size, 1))
        return z, self._targets(labels, weights, first, self.vocabulary), weights

    def _across(self, step, carry):
        """`step(carry, first, size)` over pieces of the vocabulary; the classes that are left come last."""
        size = self.vocabulary // -(-self.vocabulary // self.columns)  # even pieces: often none is left to compile
        pieces, left = divmod(self.vocabulary, size)
        if pieces == 1:
            carry = step(carry, 0, size)
        else:
            starts = size * jnp.arange(pieces, dtype=jnp.int32)
            carry, _ = lax.scan(lambda carry, first: (step(carry, first, size), None), carry, starts)
        return step(carry, self.vocabulary - left, left) if left else carry

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
        dtype = wide_dtype(h.dtype)

        def rows(sums, now):
            h, labels = now

            def step(part, first, size):
                z, t, _ = self._piece(params, h, labels, first, size)
                logs, *more = self._part(z, t)
                return _log_add(part[0], logs), *(a + b for a, b in zip(part[1:], more, strict=True))

            zero = jnp.zeros((len(h), 1), dtype)
            part = self._across(step, (zero - jnp.inf, zero, zero))
            r, counts = self._counted(labels, self.vocabulary, dtype)
            return (sums[0] + self._loss(part, r, counts), sums[1] + r.sum()), part[:2]

        zero = jnp.zeros((), dtype)
        (loss, count), kept = self._chunked(rows, (zero, zero), h, labels)
        return (loss / jnp.where(count == 0, 1, count)).astype(h.dtype), (h, labels, *kept, count)

    def backward(self, params, residuals, dy, /):
        h, labels, logs, total, count = residuals
        w, soft = params["w"], jnp.issubdtype(labels.dtype, jnp.floating)

        def rows(sums, now):
            h, labels, logs, total = now
            r, counts = self._counted(labels, self.vocabulary, logs.dtype)

            def step(carry, first, size):
                dw, db, dh, dlabels = carry
                z, t, weights = self._piece(params, h, labels, first, size)
                dz, dq = self._slopes(z, t, weights, (logs, total, None), r, counts)
                narrow, piece = dz.astype(h.dtype), lax.dynamic_slice_in_dim(w, first, size, 1)
                dh += jnp.einsum("nv,iv->ni", narrow, piece, preferred_element_type=dz.dtype)
                dw = _add(dw, jnp.einsum("ni,nv->iv", h, narrow, preferred_element_type=dz.dtype), first)
                return dw, _add(db, dz.sum(0), first), dh, _add(dlabels, dq, first) if soft else None

            zeros = jnp.zeros(h.shape, logs.dtype), jnp.zeros(labels.shape, logs.dtype) if soft else None
            dw, db, *own = self._across(step, (*sums, *zeros))
            return (dw, db), own

        zero = jnp.zeros(w.shape, logs.dtype), jnp.zeros(w.shape[1:], logs.dtype)
        sums, (dh, dlabels) = self._chunked(rows, zero, h, labels, logs, total)
        each = wide(dy) / jnp.where(count == 0, 1, count)
        dw, db = ((s * each).astype(w.dtype) for s in sums)
        dx = (dh * each).astype(h.dtype).reshape(h.shape)
        dlabels = (dlabels * each).astype(labels.dtype).reshape(labels.shape) if soft else None
        return (dx, dlabels), ({"w": dw, "b": db} if self.bias else {"w": dw})

    def gradient(self, residuals, delta, /):
        return delta

    def reference(self, params, x, /):
        h, labels = x
        z = h @ params["w"]
        return self._plain(z + along(params["b"], z) if self.bias else z, labels)


def _log_add(a, b):
    top = jnp.maximum(a, b)
    return top + jnp.log(jnp.exp(a - top) + jnp.exp(b - top))


def _add(whole, piece, first):
    """whole with the piece added to its columns from `first` on."""
    axis, size = whole.ndim - 1, piece.shape[-1]
    return lax.dynamic_update_slice_in_dim(
        whole, lax.dynamic_slice_in_dim(whole, first, size, axis) + piece, first, axis
    )


CASES = (
    Case(LinearCrossEntropy(5), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
    Case(LinearCrossEntropy(8, chunk=2, columns=3), (f(3, 5), i(3, below=8)), (f(5, 2), f(5, 8))),
    Case(LinearCrossEntropy(8, columns=4), (f(3, 5), i(3, below=8))),
    Case(LinearCrossEntropy(8, chunk=4, bias=False), (f(2, 5, 3), i(2, 5, below=8))),
    Case(
        LinearCrossEntropy(3, 2, True, 0.2, (0.5, 2.0, 1.0), 0, 0.01, 3.0),
        (f(3, 5), i(3, below=3)),
        (f(5, 2), f(5, 3)),
    ),
)
