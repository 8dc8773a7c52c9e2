"""Losses of margins: what is right is to be ahead of what is wrong, by so much, and then is let go."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jbp.cases import Case, f, i, signs, yes
from jbp.errors import LayerError, floats, indices, known, show
from jbp.fields import Fraction, NonNegative
from jbp.losses.cross_entropy import Classes
from jbp.losses.loss import Loss, Pointwise
from jbp.losses.targets import Signed, alike, pair, probable, tamed, whole
from jbp.numerics import Static, along, chosen, is_float, softplus, wide


def _logistic(z):
    """1 / (1 + e⁻ᶻ)."""
    return 1 / (1 + jnp.exp(-z))


def _plain_costs(z, t):
    """−log σ(z) and −log(1 − σ(z)), 0 where z is infinite and t says that the other is meant."""
    sure = ((z == jnp.inf) & (t == 1)) | ((z == -jnp.inf) & (t == 0))
    z = jnp.where(sure, jnp.where(t == 1, 1e4, -1e4), z)
    tail = jnp.log(1 + jnp.exp(-jnp.where(z > 0, z, -z)))
    yes, no = jnp.where(z > 0, 0, -z) + tail, jnp.where(z > 0, z, 0) + tail
    return jnp.where(sure & (t == 0), 0, yes), jnp.where(sure & (t == 1), 0, no)


@dataclass(frozen=True)
class SoftMargin(Signed, Pointwise):
    """y = mean log(1 + e^(−t z)): scores z, and t = 1 or −1.      dz = −t σ(−t z) dy / count

    dt = −z σ(−t z) dy / count. Keeps z and t. Shapes: z and t alike, any, t of floats or integers; y (). Raises
    LayerError for other shapes, and for other t where they can be known.

    >>> SoftMargin()((), (jnp.array([2.0, -0.5]), jnp.array([1.0, -1.0])))
    Array(0.301, dtype=float32)
    """

    integers = ("target",)

    def _f(self, z, t):
        return softplus(-t * z)

    def _slopes(self, z, t):
        wrong = _logistic(-t * z)
        return -t * wrong, -tamed(z, wrong) * wrong

    def _plain(self, z, t):
        return jnp.log(1 + jnp.exp(-jnp.abs(t * z))) + jnp.where(t * z < 0, -t * z, 0)


@dataclass(frozen=True)
class HingeEmbedding(Signed, Pointwise):
    """y = mean of d where t = 1, of max(0, m − d) where t = −1: distances d, m the `margin`.

        dd = dy / count where t = 1, −dy / count where t = −1 and d < m, else 0

    Keeps the slope, a byte each. Shapes: d and t alike, any, t of floats or integers; y (). (Hadsell et al.,
    *Dimensionality Reduction by Learning an Invariant Mapping*, 2006, without the squares.) Raises LayerError for other
    shapes, and for other t where they can be known.

    >>> HingeEmbedding()((), (jnp.array([0.2, 0.3]), jnp.array([1.0, -1.0])))
    Array(0.45, dtype=float32)
    """

    margin: float = 1.0

    inputs = ("distance", "target")
    integers = ("target",)

    def terms(self, params, x, /):
        d, t = self._inputs(x)
        right = t == jnp.ones((), t.dtype)
        slope = jnp.where(right, 1, jnp.where(d < self.margin, -1, 0)).astype(jnp.int8)
        return (jnp.where(right, wide(d), jnp.maximum(self.margin - wide(d), 0)), None), (
            slope,
            Static((d.dtype, t.dtype)),
        )

    def terms_backward(self, params, residuals, dl, dn, /):
        slope, dtypes = residuals
        own, other = dtypes.value
        dt = jnp.zeros(dl.shape, other) if jnp.issubdtype(other, jnp.floating) else None
        return ((slope.astype(dl.dtype) * dl).astype(own), dt), ()

    def _plain(self, d, t):
        return jnp.where(t == 1, d, jnp.where(d >= self.margin, 0, self.margin - d))


@dataclass(frozen=True)
class MarginRanking(Signed, Pointwise):
    """y = mean max(0, m − t (a − b)) on x = (a, b, t): a is to be above b by the margin m where t = 1, below where −1.

        da = −t k dy / count      db = t k dy / count      dt = −(a − b) k dy / count      k = 1 where the max is not 0

    Keeps a − b and t. Shapes: a, b and t alike, any, t of floats or integers; y (). Raises LayerError for other shapes,
    and for other t where they can be known.

    >>> MarginRanking(0.5)((), (jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]), jnp.array([1.0, 1.0])))
    Array(1.25, dtype=float32)
    """

    margin: float = 0.0

    inputs = ("first", "second", "target")
    integers = ("target",)

    def terms(self, params, x, /):
        a, b, t = self._inputs(x)
        return (jnp.maximum(self._gap(a - b, t), 0), None), (a - b, t)

    def _gap(self, e, t):
        return self.margin - t.astype(wide(e).dtype) * wide(e)

    def terms_backward(self, params, residuals, dl, dn, /):
        e, t = residuals
        each = jnp.where(self._gap(e, t) <= 0, 0, -dl)
        da = (each * t.astype(dl.dtype)).astype(e.dtype)
        return (da, -da, (each * tamed(wide(e), each)).astype(t.dtype) if is_float(t) else None), ()

    def _plain(self, a, b, t):
        gap = self.margin - t * (a - b)
        return jnp.where(gap <= 0, 0, gap)


@dataclass(frozen=True)
class MultiMargin(Classes):
    """y = mean over rows of w Σ_{k ≠ label} max(0, m − z[label] + z_k)ᵖ / K: the right score is ahead of all others.

        dz_k = w p max(0, ...)ᵖ⁻¹ dy / (K rows) for the others      dz[label] = −Σ_k of these

    p is 1 or 2, m the `margin`, w the weight of the label's class; rows count one each, and those of the label to
    `ignore` nothing. Keeps z and the labels. Shapes: z (..., classes), labels (...) of integers, y (). (Crammer &
    Singer, *On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines*, 2001.) Raises LayerError for
    other shapes, and for a label out of range where it can be known.

    >>> scores, labels = jnp.array([[2.0, 1.5, 0.0]]), jnp.array([0])
    >>> MultiMargin()((), (scores, labels))
    Array(0.167, dtype=float32)
    """

    p: Literal[1, 2] = 1
    margin: float = 1.0
    weights: tuple[NonNegative, ...] | None = None
    ignore: int | None = None

    def _gaps(self, z, labels, dtype):
        """(max(0, m − z[label] + z_k), which is 0 at the label; where the label is; w of the row)."""
        r, counts = self._counted(labels, z.shape[-1], dtype)
        z, own = self._left(wide(z), counts), chosen(labels, 0, z.shape[-1])
        gap = self.margin - jnp.where(own, z, 0).sum(-1, keepdims=True) + z
        return jnp.where(own, 0, jnp.maximum(gap, 0)), own, r

    def terms(self, params, x, /):
        z, labels = pair(self, x, "labels")
        floats(self, z, "(..., classes)")
        if jnp.issubdtype(labels.dtype, jnp.floating):
            raise LayerError(self, f"got labels {show(labels)}; expected integers. Cast them with .astype(jnp.int32).")
        self._check_labels(labels, z.shape[:-1], z.shape[-1])
        gap, _, r = self._gaps(z, labels, wide(z).dtype)
        each = (r / z.shape[-1] * gap**self.p).sum(-1)
        n = None if self.ignore is None else (whole(labels) != self.ignore).astype(each.dtype)
        return (each, n), (z, labels)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, labels = residuals
        gap, own, r = self._gaps(z, labels, dl.dtype)
        dz = r / z.shape[-1] * dl[..., None] * (2 * gap if self.p == 2 else (gap > 0).astype(gap.dtype))
        return (jnp.where(own, -dz.sum(-1, keepdims=True), dz).astype(z.dtype), None), ()

    def terms_reference(self, params, x, /):
        z, labels = x
        classes = z.shape[-1]
        here = jnp.ones(labels.shape, bool) if self.ignore is None else labels != self.ignore
        labels = jnp.clip(labels, 0, classes - 1)
        w = jnp.asarray([1.0] * classes if self.weights is None else self.weights, z.dtype)[labels]
        z = jnp.where((here & (w != 0))[..., None], z, 0)
        gap = self.margin - jnp.take_along_axis(z, labels[..., None], -1) + z
        own = labels[..., None] == along(jnp.arange(classes, dtype=labels.dtype), z)
        gap = jnp.where((gap <= 0) | own, 0, gap)
        return jnp.where(here, w * jnp.mean(gap**self.p, -1), 0), here.astype(z.dtype)


@dataclass(frozen=True)
class MultiLabelMargin(Loss):
    """y = mean over rows of Σ_{j right} Σ_{k not} max(0, 1 − z_j + z_k) / K: all right scores ahead of all others.

        dz_k = Σ_j [the pair counts] dy / (K rows)      dz_j = −Σ_k [the pair counts] dy / (K rows)

    The labels of a row are its right classes j, as far as the first −1; one listed twice counts twice. Keeps z and the
    labels. Shapes: z (..., K), labels (..., K) of integers, y (). Raises LayerError for other shapes.

    >>> scores = jnp.array([[0.1, 0.2, 0.4, 0.8]])
    >>> labels = jnp.array([[3, 0, -1, -1]])  # 3 and 0; -1 ends the list
    >>> MultiLabelMargin()((), (scores, labels))
    Array(0.85, dtype=float32)
    """

    def _pairs(self, z, labels):
        """(max(0, 1 − z_j + z_k) (..., j, k) where j is right and k is not, else 0; how often j is listed (..., j))."""
        labels = whole(labels)
        listed = jnp.cumsum((labels < 0).astype(jnp.int32), -1) == 0
        times = (chosen(labels, 0, z.shape[-1]) & listed[..., None]).sum(-2, dtype=jnp.int32)
        gap = 1 - wide(z)[..., :, None] + wide(z)[..., None, :]
        counts = (times > 0)[..., :, None] & (times == 0)[..., None, :]
        gap = jnp.where(counts & ~(gap <= 0), gap, 0)
        return gap, times.astype(gap.dtype)

    def terms(self, params, x, /):
        z, labels = pair(self, x, "labels")
        floats(self, z, "(..., classes)")
        if labels.shape != z.shape or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise LayerError(
                self,
                f"got scores {show(z)} and labels {show(labels)}; expected integers of one shape with them. "
                "Fill the rest of each row with -1.",
            )
        indices(self, np.maximum(np.asarray(labels), 0) if known(labels) else labels, z.shape[-1], "labels")
        gap, times = self._pairs(z, labels)
        return ((times * gap.sum(-1)).sum(-1) / max(z.shape[-1], 1), None), (z, labels)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, labels = residuals
        gap, times = self._pairs(z, labels)
        counts = (gap > 0).astype(dl.dtype) * times[..., None]
        dz = (counts.sum(-2) - counts.sum(-1)) * (dl / max(z.shape[-1], 1))[..., None]
        return (dz.astype(z.dtype), None), ()

    def terms_reference(self, params, x, /):
        z, labels = x
        classes = z.shape[-1]
        first = jnp.argmax(jnp.concatenate([labels, jnp.full_like(labels[..., :1], -1)], -1) < 0, -1)
        places = along(jnp.arange(classes, dtype=first.dtype), labels) < first[..., None]
        names = jnp.eye(classes, dtype=z.dtype)[jnp.clip(labels, 0, classes - 1)] * places[..., None].astype(z.dtype)
        times = jnp.sum(names, -2)
        total = jnp.zeros(z.shape[:-1], z.dtype)
        for j in range(classes):
            gap = 1 - z[..., j : j + 1] + z
            total = total + times[..., j] * jnp.sum(jnp.where((times == 0) & ~(gap <= 0), gap, 0), -1) / classes
        return total, None


@dataclass(frozen=True)
class MultiLabelSoftMargin(Loss):
    """y = mean over rows of Σ_k w_k (t_k log(1 + e^(−z_k)) + (1 − t_k) log(1 + e^(z_k))) / K: yes or no for each class.

        dz = w (σ(z) − t) dy / (K rows)      dt = −w z dy / (K rows)

    w are the `weights` of the classes. Keeps z and t. Shapes: z and t (..., K), y (). Raises LayerError unless x is (z,
    t), of one shape and dtype, for another number of weights, and for a t that is no probability where it can be known.

    >>> MultiLabelSoftMargin()((), (jnp.array([[2.0, -1.0]]), jnp.array([[1.0, 0.0]])))
    Array(0.22, dtype=float32)
    """

    weights: tuple[NonNegative, ...] | None = None

    def _w(self, z):
        weights = (1.0,) * z.shape[-1] if self.weights is None else self.weights
        if len(weights) != z.shape[-1]:
            raise LayerError(
                self, f"got {len(weights)} weights for {z.shape[-1]} classes; expected one a class. Give them all."
            )
        return along(jnp.asarray(weights, wide(z).dtype), z) / max(z.shape[-1], 1)

    def terms(self, params, x, /):
        z, t = alike(self, x)
        floats(self, z, "(..., classes)")
        probable(self, t)
        yes, no = self._costs(z, t)
        return ((self._w(z) * (wide(t) * yes + (1 - wide(t)) * no)).sum(-1), None), (z, t)

    def _costs(self, z, t):
        return tamed(softplus(-wide(z)), t), tamed(softplus(wide(z)), 1 - t)

    def terms_backward(self, params, residuals, dl, dn, /):
        z, t = residuals
        (yes, no), each = self._costs(z, t), self._w(z) * dl[..., None]
        return (((_logistic(wide(z)) - wide(t)) * each).astype(z.dtype), ((yes - no) * each).astype(t.dtype)), ()

    def terms_reference(self, params, x, /):
        z, t = x
        yes, no = _plain_costs(z, t)
        w = along(jnp.asarray([1.0] * z.shape[-1] if self.weights is None else self.weights, z.dtype), z)
        return jnp.mean(w * (t * yes + (1 - t) * no), -1), None


@dataclass(frozen=True)
class Focal(Pointwise):
    """y = mean a (1 − q)^γ (−log q): scores z, t = 1 for yes and 0 for no, q = σ(z) where yes, 1 − σ(z) where no.

        dz = a ((1 − q)^γ (σ − t) + γ (1 − q)^(γ−1) c σ (1 − σ) (1 − 2 t)) dy / count      with c = −log q

    a is `alpha` where yes, 1 − alpha where no, 1 for None. In between, c, 1 − q and a are linear in t, which has its
    cotangent. Keeps z and t. Shapes: z and t alike, any; y (). (Lin et al., *Focal Loss for Dense Object Detection*,
    2017, §3.) t of floats or integers. Raises LayerError for other shapes, and for a t below 0 or above 1 where it can
    be known.

    >>> Focal()((), (jnp.array([2.0, -1.0]), jnp.array([1.0, 0.0])))
    Array(0.012, dtype=float32)
    """

    gamma: NonNegative = 2.0
    alpha: Fraction | None = None

    integers = ("target",)

    def _inputs(self, x):
        z, t = super()._inputs(x)
        probable(self, t)
        return z, t

    def _a(self, t):
        return jnp.ones_like(t) if self.alpha is None else self.alpha * t + (1 - self.alpha) * (1 - t)

    def _c(self, z, t):
        return t * tamed(softplus(-z), t) + (1 - t) * tamed(softplus(z), 1 - t)

    def _miss(self, z, t):
        """1 − q."""
        return t * _logistic(-z) + (1 - t) * _logistic(z)

    def _f(self, z, t):
        return self._a(t) * self._miss(z, t) ** self.gamma * self._c(z, t)

    def _slopes(self, z, t):
        a, c, miss = self._a(t), self._c(z, t), self._miss(z, t)
        power = miss**self.gamma
        bent = self.gamma * jnp.where(miss == 0, 0, miss ** (self.gamma - 1)) * c
        p = _logistic(z)
        dz = a * (power * (p - t) + bent * p * _logistic(-z) * (1 - 2 * t))
        da = 0.0 if self.alpha is None else 2 * self.alpha - 1
        return dz, a * (-power * tamed(z, power) + bent * (1 - 2 * p)) + da * power * c

    def _plain(self, z, t):
        p = 1 / (1 + jnp.exp(-jnp.clip(z, -80, 80)))
        yes, no = _plain_costs(z, t)
        c = t * yes + (1 - t) * no
        a = 1 if self.alpha is None else self.alpha * t + (1 - self.alpha) * (1 - t)
        return a * c * (1 - p * t - (1 - p) * (1 - t)) ** self.gamma


CASES = (
    Case(SoftMargin(), (f(3, 5), signs(3, 5)), (f(2, 3, 5), signs(2, 3, 5))),
    Case(HingeEmbedding(), (f(3, 5), signs(3, 5)), (f(3), signs(3))),
    Case(MarginRanking(0.5), (f(3, 5), f(3, 5), signs(3, 5)), (f(3), f(3), signs(3))),
    Case(MultiMargin(), (f(3, 5), i(3, below=5)), (f(2, 3, 5), i(2, 3, below=5))),
    Case(MultiMargin(2, 0.5, (0.5, 2.0, 0.0), ignore=1), (f(8, 3), i(8, below=3))),
    Case(MultiLabelMargin(), (f(3, 5), i(3, 5, below=5))),
    Case(MultiLabelSoftMargin(), (f(3, 5), yes(3, 5))),
    Case(MultiLabelSoftMargin((0.5, 2.0, 1.0)), (f(2, 5, 3), yes(2, 5, 3))),
    Case(Focal(), (f(3, 5), yes(3, 5))),
    Case(Focal(3.0, 0.25), (f(3, 5), i(3, 5, below=2)), (f(3, 2), yes(3, 2))),
)
