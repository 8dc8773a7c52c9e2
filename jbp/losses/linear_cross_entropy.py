"""The last linear layer and cross-entropy as one loss, so that no more than a chunk of the logits ever exists."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import floats, take
from jbp.fields import NonNegative, Positive, Rate, Size
from jbp.losses.cross_entropy import Entropy
from jbp.losses.targets import pair
from jbp.numerics import along, scan, sharers, varies, varying, wide, wide_dtype


@dataclass(frozen=True)
class LinearCrossEntropy(Entropy):
    """y = mean (l − z[label]), z = x W + b, l = log Σ exp z: SoftmaxCrossEntropy of a Dense, a piece at a time.

        dz = (softmax z − onehot label) dy / count      dx = dz Wᵀ      dW = xᵀ dz      db = Σ dz

    A piece is `chunk` rows by `columns` of the vocabulary: no more of z exists at a time. Each is made twice, once on
    each way, four products where storing z takes three, and dz is used where it is made: delta is (dW, db) itself. All
    options of SoftmaxCrossEntropy, and its equations for them. Keeps x, the labels, l and Σ t, two numbers a row.
    Shapes: x (..., i), W (i, vocabulary), b (vocabulary,), labels (...) of integers or (..., vocabulary) of floats, y
    (); any number of rows. W starts normal with variance 1/i. To train with it put it into the network,
    `Serial(Parallel(body, Identity()), LinearCrossEntropy(v))` on (x, labels), and take Add() for the loss. `Each` of
    it gives the losses of single words, with no more of the logits. (Wijmans et al., *Cut Your Losses in
    Large-Vocabulary Language Models*, 2025, §4.) Raises LayerError as SoftmaxCrossEntropy does.

    >>> loss, x = LinearCrossEntropy(1000), (jnp.ones((4, 8)), jnp.array([1, 0, 999, 5]))
    >>> params = loss.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (1000,), 'w': (8, 1000)}
    >>> loss(params, x).shape
    ()
    """

    vocabulary: Size
    chunk: Size = 256
    bias: bool = True
    smoothing: Rate = 0.0
    weights: tuple[NonNegative, ...] | None = None
    ignore: int | None = None
    z_loss: NonNegative = 0.0
    cap: Positive | None = None

    columns: Size = 4096

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
            carry, _ = scan(lambda carry, first: (step(carry, first, size), None), carry, starts)
        return step(carry, self.vocabulary - left, left) if left else carry

    def _chunked(self, step, carry, h, labels, *more):
        """(the carry, what comes of each row) of a scan of `step` over chunks of rows.

        Devices that share the rows go through their own each, and add up what they carry once.
        """
        rows, count = math.prod(h.shape[:-1]), sharers(h)
        soft = labels.ndim == h.ndim
        trees = h.reshape(rows, h.shape[-1]), labels.reshape(rows, *labels.shape[-1:] if soft else ()), *more
        if count == 1 or rows % count:
            return self._in_chunks(step, carry, trees)
        own = [t.reshape(count, rows // count, *t.shape[1:]) for t in trees]
        sums, out = jax.vmap(lambda *own: self._in_chunks(step, carry, own))(*own)
        return jax.tree.map(lambda s: s.sum(0), sums), jax.tree.map(lambda o: o.reshape(rows, *o.shape[2:]), out)

    def _in_chunks(self, step, carry, trees):
        """The rows that are left come last, as a chunk of their own."""
        rows = len(trees[0])
        size = max(1, min(self.chunk, rows))
        whole = rows - rows % size
        first = [t[:whole].reshape(whole // size, size, *t.shape[1:]) for t in trees]
        carry, out = scan(step, carry, first)
        out = jax.tree.map(lambda o: o.reshape(whole, *o.shape[2:]), out)
        if rows > whole:
            carry, last = step(carry, [t[whole:] for t in trees])
            out = jax.tree.map(lambda o, l: jnp.concatenate([o, l]), out, last)  # noqa: E741
        return carry, out

    def terms(self, params, x, /):
        h, labels, shapes = self._check(x)
        take(self, params, h.dtype, **shapes)
        dtype = wide_dtype(h.dtype)

        def rows(_, now):
            h, labels = now
            r, counts = self._counted(labels, self.vocabulary, dtype)
            h = self._left(h, counts)

            def step(part, first, size):
                z, t, _ = self._piece(params, h, labels, first, size)
                logs, *more = self._part(z, t)
                return _log_add(part[0], logs), *(a + b for a, b in zip(part[1:], more, strict=True))

            zero = varying(jnp.zeros((len(h), 1), dtype), varies(h))
            part = self._across(step, (zero - jnp.inf, zero, zero))
            return (), (self._loss(part, r, counts), r[..., 0], *part[:2])

        _, (loss, n, *kept) = self._chunked(rows, (), h, labels)
        return (loss.reshape(h.shape[:-1]), n.reshape(h.shape[:-1])), (h, labels, *kept)

    def terms_backward(self, params, residuals, dl, dn, /):
        h, labels, logs, total = residuals
        w, soft = params["w"], jnp.issubdtype(labels.dtype, jnp.floating)
        # taken out, so that narrow dtypes need not hold dz / count
        largest = jnp.abs(lax.stop_gradient(dl)).max(initial=0)
        scale = jnp.where(largest == 0, 1, largest)

        def rows(sums, now):
            h, labels, logs, total, each = now
            r, counts = self._counted(labels, self.vocabulary, logs.dtype)
            h = self._left(h, counts)

            def step(carry, first, size):
                dw, db, dh, dlabels = carry
                z, t, weights = self._piece(params, h, labels, first, size)
                dz, dq = self._slopes(z, t, weights, (logs, total, None), r, counts * each)
                narrow, piece = dz.astype(h.dtype), lax.dynamic_slice_in_dim(w, first, size, 1)
                dh += jnp.einsum("nv,iv->ni", narrow, piece, preferred_element_type=dz.dtype)
                dw = _add(dw, jnp.einsum("ni,nv->iv", h, narrow, preferred_element_type=dz.dtype), first)
                return dw, _add(db, dz.sum(0), first), dh, _add(dlabels, dq, first) if soft else None

            zeros = jnp.zeros(h.shape, logs.dtype), jnp.zeros(labels.shape, logs.dtype) if soft else None
            zeros = jax.tree.map(lambda v: varying(v, varies(h)), zeros)
            dw, db, *own = self._across(step, (*sums, *zeros))
            return (dw, db), own

        zero = jnp.zeros(w.shape, logs.dtype), jnp.zeros(w.shape[1:], logs.dtype)
        each = (dl / scale).reshape(-1, 1)
        sums, (dh, dlabels) = self._chunked(rows, zero, h, labels, logs, total, each)
        dw, db = ((s * scale).astype(w.dtype) for s in sums)
        dx = (dh * scale).astype(h.dtype).reshape(h.shape)
        dlabels = (dlabels * scale).astype(labels.dtype).reshape(labels.shape) if soft else None
        return (dx, dlabels), ({"w": dw, "b": db} if self.bias else {"w": dw})

    def terms_gradient(self, residuals, delta, /):
        return delta

    def terms_reference(self, params, x, /):
        h, labels = x
        if labels.ndim < h.ndim:
            h = jnp.where(self._here(labels, h)[..., None], h, 0)
        z = h @ params["w"]
        return self._plain(z + along(params["b"], z) if self.bias else z, labels)


def _log_add(a, b):
    top = jnp.maximum(a, b)
    top = jnp.where(top == -jnp.inf, 0, top)  # of none but impossible classes
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
