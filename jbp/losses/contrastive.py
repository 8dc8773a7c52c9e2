"""Losses of embeddings against each other: what belongs together is to be near. For directions, put UnitNorm before."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from jbp.cases import Case, f, i, signs
from jbp.errors import LayerError, at, floats, parts, show, take
from jbp.fields import Positive
from jbp.layer import Layer
from jbp.layers.distance import CosineSimilarity, PairwiseDistance
from jbp.losses.loss import Loss
from jbp.losses.targets import Signed, alike
from jbp.numerics import is_float, is_mask, log_sum_exp, softmax, softplus, wide, wide_dtype


@dataclass(frozen=True)
class InfoNCE(Loss):
    """y = mean_i (l_i − S_ii), S = u vᵀ / τ, l_i = log Σ_j exp S_ij: row i of u is to find row i of v among them all.

        dS = (softmax S − 1 on the diagonal) dy / rows      du = dS v / τ      dv = dSᵀ u / τ

    On (u, v, mask) row i is held against those rows j alone at which the mask is true, and against its own. `symmetric`
    takes the mean of this and of the same with u and v exchanged (Radford et al., *CLIP*, 2021, §2.3). Keeps u, v and
    the mask; S is made again. Shapes: u and v (..., n, d), the mask (..., n, n) of booleans or integers, y (). (van den
    Oord et al., *Representation Learning with Contrastive Predictive Coding*, 2018, §2.3.) Raises LayerError unless x
    is (u, v), of one shape and dtype, and for a temperature τ that is not positive.

    >>> u = v = jnp.eye(3)  # row i of the one belongs to row i of the other
    >>> InfoNCE(temperature=1.0)((), (u, v))
    Array(0.551, dtype=float32)
    """

    temperature: Positive = 0.1
    symmetric: bool = False
    couples: ClassVar[Any] = "it holds each example against the others"

    def _scores(self, u, v, *mask):
        s = jnp.einsum("...id,...jd->...ij", u, v, preferred_element_type=wide_dtype(u.dtype)) / self.temperature
        return jnp.where(mask[0].astype(bool) | _own(s), s, -jnp.inf) if mask else s

    def terms(self, params, x, /):
        u, v = alike(self, x[:2] if isinstance(x, tuple | list) and len(x) == 3 else x)
        floats(self, u, "(..., n, features)", least=2)
        mask = tuple(x[2:])
        if mask and (mask[0].shape != (*u.shape[:-1], u.shape[-2]) or not is_mask(mask[0])):
            raise LayerError(
                self,
                f"got u {show(u)} and a mask {show(mask[0])}; expected booleans {[*u.shape[:-1], u.shape[-2]]}: "
                "whether row i is held against row j. Write mask.astype(bool), spread out over the batch.",
            )
        s = self._scores(u, v, *mask)
        own = jnp.diagonal(s, axis1=-2, axis2=-1)
        each = log_sum_exp(s)[..., 0] - own
        if self.symmetric:
            each = (each + log_sum_exp(jnp.swapaxes(s, -1, -2))[..., 0] - own) / 2
        return (each, None), (u, v, *mask)

    def terms_backward(self, params, residuals, dl, dn, /):
        u, v, *mask = residuals
        s = self._scores(u, v, *mask)
        own = _own(s).astype(s.dtype)
        ds = (softmax(s, -1) - own) * dl[..., :, None]
        if self.symmetric:
            ds = (ds + (softmax(s, -2) - own) * dl[..., None, :]) / 2
        ds = (ds / self.temperature).astype(u.dtype)
        du, dv = jnp.einsum("...ij,...jd->...id", ds, v), jnp.einsum("...ij,...id->...jd", ds, u)
        return (du, dv, *[None for _ in mask]), ()

    def terms_reference(self, params, x, /):
        u, v, *mask = x
        s = jnp.sum(u[..., :, None, :] * v[..., None, :, :], -1) / self.temperature
        for allowed in mask:
            n = u.shape[-2]
            s = jnp.where((allowed != 0) | jnp.broadcast_to(jnp.eye(n, dtype=bool), s.shape), s, -jnp.inf)

        def one_way(s):
            top = jnp.max(s, -1, keepdims=True)
            log_p = s - top - jnp.log(jnp.sum(jnp.exp(s - top), -1, keepdims=True))
            return -jnp.diagonal(log_p, axis1=-2, axis2=-1)

        return ((one_way(s) + one_way(jnp.swapaxes(s, -1, -2))) / 2 if self.symmetric else one_way(s)), None


def _own(s):
    """Whether j = i, (1, ..., n, n)."""
    return jnp.eye(s.shape[-1], dtype=bool).reshape((1,) * (s.ndim - 2) + s.shape[-2:])


@dataclass(frozen=True)
class Triplet(Loss):
    """y = mean max(0, ‖a − p‖² − ‖a − n‖² + α) on x = (a, p, n): an anchor is nearer to p than to n, by the margin α.

        da = 2 ((a − p) − (a − n)) k dy / rows      dp = −2 (a − p) k dy / rows      dn = 2 (a − n) k dy / rows

    with k = 1 where the row counts, else 0. Keeps a − p and a − n. Shapes: a, p and n (..., d) alike, y (). (Schroff et
    al., *FaceNet*, 2015, §3.1.) Raises LayerError unless x is (a, p, n), of one shape and dtype.

    >>> anchor, near, far = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.1]])
    >>> Triplet()((), (anchor, near, far))
    Array(0., dtype=float32)
    """

    margin: float = 0.2

    def terms(self, params, x, /):
        a, p, n = parts(self, x, "anchor", "positive", "negative")
        floats(self, a, "(..., features)")
        if len({(v.shape, v.dtype) for v in (a, p, n)}) != 1:
            raise LayerError(
                self, f"got {show(x)}; expected three arrays of one shape and dtype. Take one row of each a triplet."
            )
        near, far = a - p, a - n
        return (jnp.maximum(self._over(near, far), 0), None), (near, far)

    def _over(self, near, far):
        return jnp.square(wide(near)).sum(-1) - jnp.square(wide(far)).sum(-1) + self.margin

    def terms_backward(self, params, residuals, dl, dn, /):
        near, far = residuals
        each = jnp.where(self._over(near, far) <= 0, 0, 2 * dl)[..., None]
        dpositive, dnegative = (-wide(near) * each).astype(near.dtype), (wide(far) * each).astype(far.dtype)
        return (-(dpositive + dnegative), dpositive, dnegative), ()

    def terms_reference(self, params, x, /):
        a, p, n = x
        over = jnp.sum((a - p) ** 2, -1) - jnp.sum((a - n) ** 2, -1) + self.margin
        return jnp.where(over <= 0, 0, over), None


EUCLID = PairwiseDistance()


@dataclass(frozen=True)
class TripletMargin(Loss):
    """y = mean max(0, d(a, p) − d(a, n) + α) on x = (a, p, n), d any distance: a layer from two arrays to numbers.

        da, dp = what d(a, p) returns for k dy / rows      da, dn += what d(a, n) does for −k dy / rows

    with k = 1 where the row counts, else 0. With `swap` the smaller of d(a, n) and d(p, n) is taken. The distance is
    Euclid's unless another is given, PairwiseDistance(p, eps) for example; it has no parameters. Keeps what the
    distances keep, and which rows count. Shapes: a, p and n (..., d) alike, y (). (Balntas et al., *Learning Local
    Feature Descriptors with Triplets and Shallow Convolutional Neural Networks*, 2016.) Raises LayerError as the
    distance does.

    >>> anchor, near, far = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.1]])
    >>> TripletMargin()((), (anchor, near, far))
    Array(0.9, dtype=float32)
    """

    margin: float = 1.0
    distance: Layer = EUCLID
    swap: bool = False

    def terms(self, params, x, /):
        a, p, n = parts(self, x, "anchor", "positive", "negative")
        with at(self, ".distance"):
            pairs = ((a, p), (a, n), (p, n)) if self.swap else ((a, p), (a, n))
            found, kept = zip(*(self.distance.forward((), pair) for pair in pairs), strict=True)
        near, far, *other = (wide(d) for d in found)
        nearer = None
        if other:
            nearer = other[0] < far
            far = jnp.where(nearer, other[0], far)
        over = near - far + self.margin
        return (jnp.maximum(over, 0), None), (kept, ~(over <= 0), nearer)

    def terms_backward(self, params, residuals, dl, dn, /):
        kept, counts, nearer = residuals
        dl = jnp.where(counts, dl, 0)
        each = [dl, -dl] if nearer is None else [dl, jnp.where(nearer, 0, -dl), jnp.where(nearer, -dl, 0)]
        with at(self, ".distance"):
            sent = [self.distance.backward((), r, d)[0] for r, d in zip(kept, each, strict=True)]
        da, dp = sent[0]
        da, dnegative = da + sent[1][0], sent[1][1]
        if nearer is not None:
            dp, dnegative = dp + sent[2][0], dnegative + sent[2][1]
        return (da, dp, dnegative), ()

    def terms_reference(self, params, x, /):
        a, p, n = x
        far = self.distance.reference((), (a, n))
        if self.swap:
            other = self.distance.reference((), (p, n))
            far = jnp.where(other < far, other, far)
        over = self.distance.reference((), (a, p)) - far + self.margin
        return jnp.where(over <= 0, 0, over), None


@dataclass(frozen=True)
class CosineEmbedding(Signed):
    """y = mean of 1 − c where t = 1, of max(0, c − m) where t = −1, c = a · b / (|a| |b|), on x = (a, b, t).

        dc = −dy / rows where t = 1, dy / rows where t = −1 and c > m, else 0; da and db as CosineSimilarity's

    m is the `margin`. Keeps a, b and t. Shapes: a and b (..., d) alike, t (...) of floats or integers, y (). Raises
    LayerError for other shapes, and for other t where they can be known.

    >>> a, b = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])
    >>> CosineEmbedding()((), (a, b, jnp.array([1.0])))
    Array(0.293, dtype=float32)
    """

    margin: float = 0.0

    def terms(self, params, x, /):
        a, b, t = parts(self, x, "first", "second", "target")
        with at(self):
            c, kept = CosineSimilarity().forward((), (a, b))
        if t.shape != c.shape:
            raise LayerError(
                self, f"got rows {show(a)} and target {show(t)}; expected one number a row. Write 1 or -1 for each."
            )
        return (self._value(wide(c), t), None), (*kept, t)

    def _value(self, c, t):
        return jnp.where(t == jnp.ones((), t.dtype), 1 - c, jnp.maximum(c - self.margin, 0))

    def terms_backward(self, params, residuals, dl, dn, /):
        a, b, t = residuals
        c = wide(CosineSimilarity().forward((), (a, b))[0])
        dc = jnp.where(t == jnp.ones((), t.dtype), -1, (c > self.margin).astype(dl.dtype)) * dl
        da, db = CosineSimilarity().backward((), (a, b), dc)[0]
        return (da, db, jnp.zeros_like(t) if is_float(t) else None), ()

    def terms_reference(self, params, x, /):
        a, b, t = x
        c = CosineSimilarity().reference((), (a, b))
        return jnp.where(t == 1, 1 - c, jnp.where(c <= self.margin, 0, c - self.margin)), None


@dataclass(frozen=True)
class SigmoidContrastive(Loss):
    """y = mean over rows i of Σ_j log(1 + e^(−z_ij S_ij)), S = eᵗ u vᵀ + b, z = 1 on the diagonal and −1 off it.

        dS_ij = −z σ(−z S) dy / rows      du = eᵗ dS v      dv = eᵗ dSᵀ u      dt = Σ dS (S − b)      db = Σ dS

    Row i of u belongs to row i of v and to no other, each pair judged by itself. t and b are parameters, log 10 and −10
    at first; put it into the network, on a tuple of two embeddings behind a UnitNorm, and take Add() for the loss.
    delta is (dt, db). Keeps u and v; S is made again. Shapes: u and v (..., n, d), t and b (), y (). (Zhai et al.,
    *Sigmoid Loss for Language Image Pre-Training*, 2023, §3.) Raises LayerError unless x is (u, v), of one shape and
    dtype.

    >>> u = v = jnp.eye(3)  # row i of the one belongs to row i of the other
    >>> layer = SigmoidContrastive()
    >>> layer(layer.init(jax.random.key(0), (u, v)), (u, v))
    Array(0.693, dtype=float32)
    """

    couples: ClassVar[Any] = "it holds each example against the others"

    def _check(self, x):
        u, v = alike(self, x)
        return floats(self, u, "(..., n, features)", least=2), v

    def init(self, key, x, /):
        u, _ = self._check(x)
        return {"t": jnp.full((), math.log(10), u.dtype), "b": jnp.full((), -10, u.dtype)}

    def _scores(self, params, u, v):
        """(S − b, S, z)."""
        s = jnp.einsum("...id,...jd->...ij", u, v, preferred_element_type=wide_dtype(u.dtype))
        s = jnp.exp(wide(params["t"])) * s
        return s, s + wide(params["b"]), jnp.where(_own(s), 1, -1).astype(s.dtype)

    def terms(self, params, x, /):
        u, v = self._check(x)
        take(self, params, u.dtype, t=(), b=())
        _, s, z = self._scores(params, u, v)
        return (softplus(-z * s).sum(-1), None), (u, v)

    def terms_backward(self, params, residuals, dl, dn, /):
        u, v = residuals
        raw, s, z = self._scores(params, u, v)
        ds = -z / (1 + jnp.exp(z * s)) * dl[..., None]
        each = (jnp.exp(wide(params["t"])) * ds).astype(u.dtype)
        du, dv = jnp.einsum("...ij,...jd->...id", each, v), jnp.einsum("...ij,...id->...jd", each, u)
        return (du, dv), {
            "t": (ds * raw).sum().astype(params["t"].dtype),
            "b": ds.sum().astype(params["b"].dtype),
        }

    def terms_gradient(self, residuals, delta, /):
        return delta

    def terms_reference(self, params, x, /):
        u, v = x
        s = jnp.exp(params["t"]) * jnp.sum(u[..., :, None, :] * v[..., None, :, :], -1) + params["b"]
        n = u.shape[-2]
        wrong = jnp.where(jnp.broadcast_to(jnp.eye(n, dtype=bool), s.shape), -s, s)
        return jnp.sum(
            jnp.where(wrong > 0, wrong, 0) + jnp.log1p(jnp.exp(jnp.where(wrong > 0, -wrong, wrong))), -1
        ), None


CASES = (
    Case(InfoNCE(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(InfoNCE(0.5, symmetric=True), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(Triplet(), (f(3, 5), f(3, 5), f(3, 5)), (f(2, 3, 5),) * 3),
    Case(InfoNCE(0.5, symmetric=True), (f(3, 5), f(3, 5), i(3, 3, below=2))),
    Case(TripletMargin(), (f(3, 5), f(3, 5), f(3, 5))),
    Case(TripletMargin(0.5, PairwiseDistance(1.0), swap=True), (f(3, 5), f(3, 5), f(3, 5))),
    Case(CosineEmbedding(), (f(3, 5), f(3, 5), signs(3)), (f(2, 3, 5), f(2, 3, 5), signs(2, 3))),
    Case(SigmoidContrastive(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
)
