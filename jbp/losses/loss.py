"""What a loss is: a mean of terms, each of which counts. And the wrappers that take something else than that mean."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jbp.errors import LayerError, at, floats, parts, show
from jbp.layer import Layer
from jbp.numerics import Static, is_float, wide

Tree = Any


class Loss(Layer):
    """y = Σ l / Σ n, and 0 where nothing counts.      dl = dy / Σ n      dn = −y dy / Σ n

    Subclass it with the terms l of the loss, one a row or an element of the prediction, and what each of them counts,
    n: how often a term stands in the mean. Where every term counts once, n is None. l is in float32 at least, n has its
    shape and dtype; a term that does not count is 0 and its dl sends nothing down, whatever its inputs hold.
    """

    sealed = True  # a loss inside is asked for its terms, so nothing that is but a layer may be put in its place

    def terms(self, params: Tree, x: Tree, /) -> tuple[tuple[Any, Any], Tree]:
        """((l, n), residuals)."""
        raise NotImplementedError(f"{type(self).__name__} has no terms")

    def terms_backward(self, params: Tree, residuals: Tree, dl: Any, dn: Any, /) -> tuple[Tree, Tree]:
        """(dx, delta). dl and dn have the shape of l; a loss whose n does not depend on x leaves dn alone."""
        raise NotImplementedError(f"{type(self).__name__} has no terms_backward")

    def terms_gradient(self, residuals: Tree, delta: Tree, /) -> Tree:
        """dparams."""
        return ()

    def terms_reference(self, params: Tree, x: Tree, /) -> tuple[Any, Any]:
        """(l, n) in plain jax.numpy: the definition of the terms."""
        raise NotImplementedError(f"{type(self).__name__} has no terms_reference")

    def count(self, params: Tree, x: Tree, /) -> Any:
        """Σ n, by which the mean divides. The mean over several parts of a batch is Σ count · mean / Σ count."""
        (terms, n), _ = self.terms(params, x)
        return jnp.asarray(terms.size, terms.dtype) if n is None else n.sum()

    def counted(self, residuals: Tree, /) -> Any:
        """Σ n, out of what `forward` has kept."""
        _, shape, *more = residuals
        return more[0] if more else math.prod(shape.value)

    def forward(self, params, x, /):
        (terms, n), residuals = self.terms(params, x)
        if n is None:
            y = terms.sum() / max(terms.size, 1)
            return y.astype(floating(x)), (residuals, Static(terms.shape))
        count = n.sum()
        y = jnp.where(count == 0, 0, terms.sum() / or_one(count))
        return y.astype(floating(x)), (residuals, Static(terms.shape), count, y)

    def backward(self, params, residuals, dy, /):
        residuals, shape, *counted = residuals
        if not counted:
            dl = jnp.broadcast_to(wide(dy) / max(math.prod(shape.value), 1), shape.value)
            return self.terms_backward(params, residuals, dl, jnp.zeros_like(dl))
        count, y = counted
        dl = jnp.where(count == 0, 0, wide(dy) / or_one(count)).astype(count.dtype)
        dl, dn = (jnp.broadcast_to(v, shape.value) for v in (dl, -y * dl))
        return self.terms_backward(params, residuals, dl, dn)

    def gradient(self, residuals, delta, /):
        return self.terms_gradient(residuals[0], delta)

    def reference(self, params, x, /):
        terms, n = self.terms_reference(params, x)
        n = jnp.ones_like(terms) if n is None else n
        return jnp.where(jnp.sum(n) == 0, 0, jnp.sum(terms) / jnp.where(jnp.sum(n) == 0, 1, jnp.sum(n)))


def floating(x: Tree) -> Any:
    """The dtype of a loss: that of the first floating array in x."""
    return next(leaf.dtype for leaf in jax.tree.leaves(x) if is_float(leaf))


def or_one(count):
    return jnp.where(count == 0, 1, count)


class Pointwise(Loss):
    """l = f(x_1, x_2, ...), one term an element of the first input.      dx_i = ∂f/∂x_i dl.  Keeps the inputs.

    Subclass it with `_f`, `_slopes`, the derivatives by all inputs, and `_plain`, f once more in plain words: each is
    given the inputs in one shape and in float32 at least.
    """

    inputs: ClassVar[tuple[str, ...]] = ("prediction", "target")
    integers: ClassVar[tuple[str, ...]] = ()  # those that may be integers or booleans, and then have no cotangent
    smaller: ClassVar[tuple[str, ...]] = ()  # those that may have the first axes alone, or axes of size one

    _f: Callable[..., Any]
    _slopes: Callable[..., tuple[Any, ...]]
    _plain: Callable[..., Any]

    def _inputs(self, x):
        """The inputs, checked."""
        x = parts(self, x, *self._names())
        floats(self, x[0], "of any shape", least=0)
        for name, v in zip(self._names(), x, strict=True):
            fits = v.shape == x[0].shape or (name in self.smaller and _leads(v, x[0]))
            kind = v.dtype == x[0].dtype or (
                name in self.integers and (v.dtype == bool or jnp.issubdtype(v.dtype, jnp.integer))
            )
            if not fits or not kind:
                raise LayerError(
                    self,
                    f"got {', '.join(f'{n} {show(w)}' for n, w in zip(self._names(), x, strict=True))}; expected one "
                    f"shape and one dtype. Reshape or cast the {name}.",
                )
        return tuple(x)

    def _names(self):
        return self.inputs

    def terms(self, params, x, /):
        x = self._inputs(x)
        return (self._f(*_alike(x)), None), x

    def terms_backward(self, params, x, dl, dn, /):
        return tuple(
            _gathered(s * dl, v) if is_float(v) else None for s, v in zip(self._slopes(*_alike(x)), x, strict=True)
        ), ()

    def terms_reference(self, params, x, /):
        whole = [v.reshape(v.shape + (1,) * (x[0].ndim - v.ndim)).astype(x[0].dtype) for v in x]
        return self._plain(*(jnp.broadcast_to(v, x[0].shape) for v in whole)), None


def _leads(v, x):
    return v.ndim <= x.ndim and all(a in (1, b) for a, b in zip(v.shape, x.shape, strict=False))


def _alike(x):
    first = wide(x[0])
    return [first, *(jnp.broadcast_to(spread(v, first), first.shape) for v in x[1:])]


def _gathered(d, v):
    """d summed over the axes along which v was spread, in v's dtype."""
    if d.shape != v.shape:
        d = d.sum(tuple(i for i in range(d.ndim) if i >= v.ndim or v.shape[i] == 1)).reshape(v.shape)
    return d.astype(v.dtype)


@dataclass(frozen=True)
class Each(Layer):
    """y = c l: the loss of each row or element of the prediction by itself, 0 where it does not count.      dl = c dy

    c is `scale`: with −1 the terms of a cross-entropy are log-probabilities, as the losses of preferences take them. A
    row for losses of scores over classes, of embeddings and of sequences, else an element. Weights of classes are
    in l. Keeps what the loss keeps. Parameters are the loss's. Shapes: x as the loss takes it, y that of its terms.

    >>> Each(MeanSquaredError())((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array([0.25, 4.  ], dtype=float32)
    """

    loss: Loss
    scale: float = 1.0
    sealed = True

    def init(self, key, x, /):
        with at(self, ".loss"):
            return self.loss.init(key, x)

    def forward(self, params, x, /):
        with at(self, ".loss"):
            (terms, _), residuals = self.loss.terms(params, x)
        return (self.scale * terms).astype(floating(x)), residuals

    def backward(self, params, residuals, dy, /):
        dl = self.scale * wide(dy)
        with at(self, ".loss"):
            return self.loss.terms_backward(params, residuals, dl, jnp.zeros_like(dl))

    def gradient(self, residuals, delta, /):
        return self.loss.terms_gradient(residuals, delta)

    def reference(self, params, x, /):
        return self.scale * self.loss.terms_reference(params, x)[0]


class _Around(Loss):
    """What the losses that hold one other have in common. Parameters, and delta, are those of the loss inside."""

    loss: Loss

    def init(self, key, x, /):
        with at(self, ".loss"):
            return self.loss.init(key, x)

    def terms_gradient(self, residuals, delta, /):
        return self.loss.terms_gradient(residuals[0], delta)


@dataclass(frozen=True)
class Sum(_Around):
    """y = Σ l: the sum of the loss's terms in place of their mean.      dl = dy

    For gradients over several parts of a batch, in all divided by what `loss.count` finds in the parts. Keeps what the
    loss keeps. Parameters are the loss's. Shapes: x as the loss takes it, y ().

    >>> Sum(MeanSquaredError())((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0])))
    Array(4.25, dtype=float32)
    """

    loss: Loss
    couples: ClassVar[Any] = "it adds up the terms of one part"

    def terms(self, params, x, /):
        with at(self, ".loss"):
            (terms, _), residuals = self.loss.terms(params, x)
        return (terms.sum(), None), (residuals, Static(terms.shape))

    def terms_backward(self, params, residuals, dl, dn, /):
        residuals, shape = residuals
        dl = jnp.broadcast_to(dl, shape.value)
        with at(self, ".loss"):
            return self.loss.terms_backward(params, residuals, dl, jnp.zeros_like(dl))

    def terms_reference(self, params, x, /):
        return jnp.sum(self.loss.terms_reference(params, x)[0]), None


@dataclass(frozen=True)
class PerExample(_Around):
    """y = mean over examples of Σ l, or of Σ l / Σ n with reduce="mean", the sums being those of one example's terms.

        dl = dy / examples      with "mean": dl = dy / (examples Σ n)      dn = −(Σ l / Σ n) dy / (examples Σ n)

    Examples lie on the first axis. One of which nothing counts is left out. So the mean over a batch of sums over its
    elements ("batchmean"), or of means over sequences of unequal lengths; `Each(PerExample(loss))` has them one by one.
    Keeps what the loss keeps, and Σ n and Σ l / Σ n of each example where n is not 1. Parameters are the loss's.
    Raises LayerError where the loss has a single term.

    >>> prediction, target = jnp.ones((2, 3)), jnp.zeros((2, 3))
    >>> PerExample(MeanSquaredError())((), (prediction, target))
    Array(3., dtype=float32)
    """

    loss: Loss
    reduce: Literal["sum", "mean"] = "sum"

    def terms(self, params, x, /):
        with at(self, ".loss"):
            (terms, n), residuals = self.loss.terms(params, x)
        if not terms.ndim:
            raise LayerError(self, f"got a single term for x {show(x)}; expected examples. Leave PerExample out.")
        shape, axes = Static(terms.shape), tuple(range(1, terms.ndim))
        if n is None:
            size = math.prod(terms.shape[1:]) if self.reduce == "mean" else 1
            return (terms.sum(axes) / max(size, 1), None), (residuals, shape, size)
        count = n.sum(axes)
        size = or_one(count) if self.reduce == "mean" else jnp.ones_like(count)
        each = jnp.where(count == 0, 0, terms.sum(axes) / size)
        return (each, (count != 0).astype(each.dtype)), (residuals, shape, size, count == 0, each)

    def terms_backward(self, params, residuals, dl, dn, /):
        residuals, shape, size, *counted = residuals
        if counted:
            nothing, each = counted
            dl = jnp.where(nothing, 0, dl / size)
            dn = -each * dl if self.reduce == "mean" else jnp.zeros_like(dl)
        else:
            dl, dn = dl / max(size, 1), jnp.zeros_like(dl)
        tail = (1,) * (len(shape.value) - 1)
        dl, dn = (jnp.broadcast_to(v.reshape(*v.shape, *tail), shape.value) for v in (dl, dn))
        with at(self, ".loss"):
            return self.loss.terms_backward(params, residuals, dl, dn)

    def terms_reference(self, params, x, /):
        terms, n = self.loss.terms_reference(params, x)
        examples = terms.shape[0]
        n = jnp.ones_like(terms) if n is None else n
        sums, counts = (jnp.sum(jnp.reshape(v, (examples, -1)), 1) for v in (terms, n))
        if terms.size == 0:
            return sums, None
        some = counts != 0
        sums = jnp.where(some, sums, 0)
        return sums / jnp.where(some, counts, 1) if self.reduce == "mean" else sums, some.astype(terms.dtype)


@dataclass(frozen=True)
class Weighted(_Around):
    """y = Σ w l / Σ w n on x = (..., w), what the loss takes and a weight for each example or each of its terms.

        dl = w dl'      dn = w dn'      dw = Σ (l dl' + n dn'), 0 where w = 0, with dl', dn' those of the mean

    What has the weight 0 is left out, whatever it holds. With normalize=False a weight is not counted, Σ w l / Σ n: the
    `weight` of PyTorch's losses, Keras's `sample_weight`. w is of floats, or a mask of booleans or integers, which has
    no cotangent. Keeps what the loss keeps, with 0 in place of inputs of weight 0, w, and l for dw. Shapes: w has the
    first axes of the terms or all of them, or one of size 1 in their place. Parameters are the loss's. Raises
    LayerError for weights that do not fit.

    >>> Weighted(MeanSquaredError())((), (jnp.array([0.5, 2.0]), jnp.array([0.0, 4.0]), jnp.array([1.0, 0.0])))
    Array(0.25, dtype=float32)
    """

    loss: Loss
    normalize: bool = True

    def _parts(self, x):
        """(what the loss takes, w)."""
        if not isinstance(x, tuple | list) or len(x) < 2 or not hasattr(x[-1], "dtype"):
            raise LayerError(
                self, f"got x {show(x)}; expected a tuple with the weights as its last. Write (prediction, target, w)."
            )
        *inner, w = x
        return tuple(inner) if len(inner) > 1 else inner[0], w

    def init(self, key, x, /):
        with at(self, ".loss"):
            return self.loss.init(key, self._parts(x)[0])

    def terms(self, params, x, /):
        inner, w = self._parts(x)
        with at(self, ".loss"):
            (terms, n), residuals = self.loss.terms(params, _without(inner, _out(w)))
        if not _leads(w, terms):
            raise LayerError(
                self,
                f"got weights {show(w)} for {show(terms)}; expected a real weight for each of the first axes. "
                "Spread them out with jnp.broadcast_to.",
            )
        each = spread(w, terms)
        more = (terms, n) if is_float(w) else None
        kept = residuals, Static(len(x)), w, more
        if self.normalize:
            n = jnp.broadcast_to(each, terms.shape) if n is None else each * n
        return (jnp.where(each == 0, 0, each * terms), n), kept

    def terms_backward(self, params, residuals, dl, dn, /):
        residuals, parts, w, more = residuals
        each = spread(w, dl)
        dn = dn if self.normalize else jnp.zeros_like(dn)
        with at(self, ".loss"):
            dx, delta = self.loss.terms_backward(params, residuals, each * dl, each * dn)
        out, dw = _out(w), None
        if more is not None:
            terms, n = more
            dw = _gathered(jnp.where(each == 0, 0, terms * dl + (dn if n is None else n * dn)), w)
        dx = _without(dx, out)
        return (*(dx if parts.value > 2 else (dx,)), dw), delta

    def terms_reference(self, params, x, /):
        *inner, w = x
        aside = [jax.tree.map(lambda v: jnp.where(_for(_out(w), v), jnp.zeros_like(v), v), t) for t in inner]
        terms, n = self.loss.terms_reference(params, tuple(aside) if len(aside) > 1 else aside[0])
        some = (~_out(w)).reshape(w.shape + (1,) * (terms.ndim - w.ndim))
        w = w.astype(terms.dtype).reshape(some.shape)
        n = jnp.ones_like(terms) if n is None else n
        return jnp.where(some, w * terms, 0), jnp.where(some, w * n, 0) if self.normalize else n


def _out(w):
    return w == jnp.zeros((), w.dtype)


def _without(tree, out):
    """The tree with 0 where `out` is true, in all arrays that begin with its axes."""
    return jax.tree.map(lambda v: jnp.where(_for(out, v), 0, v).astype(v.dtype), tree)


def _for(out, v):
    return out.reshape(out.shape + (1,) * (v.ndim - out.ndim)) if _leads(out, v) else jnp.zeros((), bool)


def spread(w, terms):
    return w.astype(terms.dtype).reshape(w.shape + (1,) * (terms.ndim - w.ndim))
