"""Right rules of judges who had not seen this auditor: kernels, solvers, likelihoods and layers as people write them.

Many of them made it cry wolf once. Each entry is (f, plain, example arguments), as in `zoo`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import lax
from jax.experimental import pallas as pl
from zoo import example, ids, quantized, right, rule, softmax
from zoo_edges import elementwise
from zoo_judged import (
    attention,
    before,
    column_sums,
    decayed,
    keeping,
    kernel,
    later,
    layer_with_slope,
    recurrence_with_slope,
    softmax_back,
    uniform,
    written,
)
from zoo_right import spd

NO_GRADIENT = jax.dtypes.float0
SINGLE = jnp.float32


def simplex(*shape, seed=0):
    return softmax(example(*shape, seed=seed))


def wide(x):
    """x in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, SINGLE))


def triangular(a, b, **options):
    return jax.scipy.linalg.solve_triangular(a, b, **options)


def solved(lu, b, trans=0):
    return jax.scipy.linalg.lu_solve(lu, b, trans)


# kinks ----------------------------------------------------------------------------------------------------------------


@right
def relu_one_at_zero():
    x = jnp.asarray([[-2, -1, 0], [0, 1, 2]], SINGLE)
    return elementwise(lambda x: jnp.maximum(x, 0), lambda x: (x >= 0).astype(x.dtype), x)


@right
def clip_closed_interval():
    def plain(x, low, high):
        return jnp.minimum(jnp.maximum(x, low), high)

    def bwd(low, high, r, d):
        return (d * ((r[0] >= low) & (r[0] <= high)),)

    return keeping(jnp.clip, bwd, 1, 2), plain, (jnp.linspace(-2, 2, 9), -1.0, 1.0)


@right
def maxpool2x2_first_argmax():
    """Rectified images, so that whole windows are ties at zero; odd ones are refused."""

    def windows(x):
        b, h, w, c = x.shape
        if h % 2 or w % 2:
            raise ValueError("height and width must be even")
        return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, c, 4)

    def plain(x):
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))

    def fwd(x):
        w = windows(x)
        return w.max(-1), w.argmax(-1).astype(jnp.int8)

    def bwd(i, d):
        b, h, w, c = d.shape
        g = jax.nn.one_hot(i, 4, dtype=d.dtype) * d[..., None]
        return (g.reshape(b, h, w, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c),)

    return written(fwd, bwd), plain, (jax.nn.relu(example(2, 4, 6, 3)),)


@right
def sort_descending():
    def fwd(x):
        i = jnp.argsort(-x, -1)
        return jnp.take_along_axis(x, i, -1), i

    def bwd(i, d):
        return (jnp.take_along_axis(d, jnp.argsort(i, -1), -1),)

    return written(fwd, bwd), lambda x: jnp.sort(x, -1)[..., ::-1], (example(3, 10),)


@right
def median_of_even_rows():
    plain = partial(jnp.median, axis=-1)

    def middle(x):
        i, n = jnp.argsort(x, -1), x.shape[-1]
        return jax.nn.one_hot(i[..., (n - 1) // 2], n, dtype=x.dtype) + jax.nn.one_hot(i[..., n // 2], n, dtype=x.dtype)

    return keeping(plain, lambda r, d: (0.5 * d[..., None] * middle(r[0]),)), plain, (example(4, 8),)


@right
def steps_without_slope():
    def plain(x, scale):
        return jnp.floor(4 * x) * scale

    def bwd(r, d):
        return jnp.zeros_like(r[0]), (d * jnp.floor(4 * r[0])).sum()

    return keeping(plain, bwd), plain, (example(12), SINGLE(0.25))


@right
def norm_zero_at_zero():
    def plain(x):
        s = (x * x).sum(-1)
        return jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1)), 0)

    def fwd(x):
        n = jnp.sqrt((x * x).sum(-1))
        return n, (x, n)

    def bwd(r, d):
        x, n = r
        return (x * jnp.where(n > 0, d / jnp.where(n > 0, n, 1), 0)[..., None],)

    return written(fwd, bwd), plain, (example(4, 3).at[1].set(0),)


@right
def lsq_fake_quant():
    def bwd(r, d):
        x, s = r
        v = x / s
        ds = jnp.where(v < -8, -8, jnp.where(v > 7, 7, jnp.round(v) - v))
        return jnp.where((v >= -8) & (v <= 7), d, 0), (d * ds).sum()

    forward = lambda x, s: jnp.clip(jnp.round(x / s), -8, 7) * s  # noqa: E731
    return keeping(forward, bwd), quantized, (example(4, 8), SINGLE(0.17))


@right
def vq_straight_through():
    """The nearest row of a book, straight through; with the loss that pulls both together, and the row's number."""

    def plain(z, book):
        stop = lax.stop_gradient
        i = ((z[:, None] - book[None]) ** 2).sum(-1).argmin(-1).astype(jnp.int32)
        q = book[i]
        return z + stop(q - z), i, ((stop(z) - q) ** 2).mean() + 0.25 * ((z - stop(q)) ** 2).mean()

    def fwd(z, book):
        i = ((z * z).sum(-1, keepdims=True) - 2 * z @ book.T + (book * book).sum(-1)).argmin(-1).astype(jnp.int32)
        q = book[i]
        return (q, i, 1.25 * ((z - q) ** 2).mean()), (z, q, i, book.shape[0])

    def bwd(r, ds):
        z, q, i, n = r
        g = 2 * (z - q) / z.size * ds[2]
        return ds[0] + 0.25 * g, jax.ops.segment_sum(-g, i, n)

    return written(fwd, bwd), plain, (example(6, 3), example(5, 3, seed=1))


@right
def sparsemax():
    def threshold(z):
        down = -jnp.sort(-z, -1)
        total = jnp.cumsum(down, -1)
        k = (1 + jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype) * down > total).sum(-1, keepdims=True)
        return (jnp.take_along_axis(total, k - 1, -1) - 1) / k.astype(z.dtype)

    def plain(z):
        """The threshold by bisection, in its last step exact on the support found."""

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            above = jnp.maximum(still - middle, 0).sum(-1, keepdims=True) > 1
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        still = lax.stop_gradient(z)
        top = still.max(-1, keepdims=True)
        low, high = lax.fori_loop(0, 60, halve, (top - 1, top))
        on = (still > (low + high) / 2).astype(z.dtype)
        return jnp.maximum(z - ((z * on).sum(-1, keepdims=True) - 1) / on.sum(-1, keepdims=True), 0) * on

    def fwd(z):
        y = jnp.maximum(z - threshold(z), 0)
        return y, y > 0

    def bwd(on, d):
        on = on.astype(d.dtype)
        return (on * (d - (on * d).sum(-1, keepdims=True) / on.sum(-1, keepdims=True)),)

    return written(fwd, bwd), plain, (example(4, 7),)


# precision ------------------------------------------------------------------------------------------------------------


@right
def bf16_matmul_f32_accum():
    def plain(a, b):
        return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=SINGLE)

    def bwd(r, d):
        x, w = r
        return plain(d, w.T).astype(x.dtype), plain(x.T, d).astype(w.dtype)

    return keeping(plain, bwd), plain, (example(6, 16), example(16, 5, seed=1, scale=0.25))


@right
def xent_ignore_index_zloss():
    """Logits of 30, a penalty on the normalizer, labels of −1 left out of the mean."""

    def plain(z, y):
        n, keep = jax.nn.logsumexp(z, -1), y != -1
        rows = 1e-4 * n**2 - (jax.nn.log_softmax(z) * jax.nn.one_hot(y, z.shape[-1])).sum(-1)
        return (rows * keep).sum() / jnp.maximum(keep.sum(), 1)

    def fwd(z, y):
        keep, safe = y >= 0, jnp.where(y >= 0, y, 0)
        m = z.max(-1, keepdims=True)
        n = jnp.log(jnp.exp(z - m).sum(-1)) + m[:, 0]
        rows = n - jnp.take_along_axis(z, safe[:, None], -1)[:, 0] + 1e-4 * n**2
        return jnp.where(keep, rows, 0).sum() / jnp.maximum(keep.sum(), 1), (z, safe, keep, n)

    def bwd(r, d):
        z, y, keep, n = r
        g = jnp.exp(z - n[:, None]) * (1 + 2e-4 * n)[:, None] - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        return jnp.where(keep[:, None], g, 0) * (d / jnp.maximum(keep.sum(), 1)), np.zeros(y.shape, NO_GRADIENT)

    return written(fwd, bwd), plain, (example(6, 7, scale=30), jnp.asarray([3, -1, 0, 6, -1, 2], jnp.int32))


@right
def log_sigmoid_vs_naive():
    """The definition overflows where the rule does not."""

    def bwd(r, d):
        z = jnp.exp(-jnp.abs(r[0]))
        return (d * jnp.where(r[0] >= 0, z, 1) / (1 + z),)

    def forward(x):
        return jnp.minimum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x)))

    return keeping(forward, bwd), lambda x: jnp.log(1 / (1 + jnp.exp(-x))), (example(3, 7, scale=4),)


@right
def streaming_logsumexp():
    """In blocks of eight, the last one padded with −inf."""

    def fwd(x):
        blocks = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 8)], constant_values=-jnp.inf)
        blocks = jnp.moveaxis(blocks.reshape(*x.shape[:-1], -1, 8), -2, 0)

        def add(c, block):
            m, s = c
            top = jnp.maximum(m, block.max(-1))
            return (top, s * jnp.exp(m - top) + jnp.exp(block - top[..., None]).sum(-1)), None

        m = blocks[0].max(-1)
        (m, s), _ = lax.scan(add, (m, jnp.exp(blocks[0] - m[..., None]).sum(-1)), blocks[1:])
        y = m + jnp.log(s)
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        return (d[..., None] * jnp.exp(x - y[..., None]),)

    return written(fwd, bwd), partial(jax.nn.logsumexp, axis=-1), (example(5, 21, scale=8),)


@right
def streaming_logsumexp_in_float32():
    def fwd(x):
        def add(c, v):
            m, s = c
            top = jnp.maximum(m, v)
            return (top, s * jnp.exp(m - top) + jnp.exp(v - top)), None

        columns = jnp.moveaxis(wide(x), -1, 0)
        (m, s), _ = lax.scan(add, (columns[0], jnp.ones_like(columns[0])), columns[1:])
        return (m + jnp.log(s)).astype(x.dtype), (x, m, s)

    def bwd(r, d):
        x, m, s = r
        return ((d[..., None] * jnp.exp(x.astype(m.dtype) - m[..., None]) / s[..., None]).astype(x.dtype),)

    return written(fwd, bwd), partial(jax.nn.logsumexp, axis=-1), (example(5, 21, scale=8),)


@right
def compensated_cumsum():
    def forward(x):
        def step(c, v):
            s, e = c
            t = s + (v - e)
            return (t, (t - s) - (v - e)), t

        zero = jnp.zeros(x.shape[:-1], x.dtype)
        return jnp.moveaxis(lax.scan(step, (zero, zero), jnp.moveaxis(x, -1, 0))[1], 0, -1)

    def bwd(_, d):
        return (forward(d[..., ::-1])[..., ::-1],)

    return keeping(forward, bwd), partial(jnp.cumsum, axis=-1), (example(2, 33),)


@right
def layer_norm_in_one_pass():
    """Welford's running mean and variance, far from zero."""

    def plain(x, g, b):
        m = x.mean(-1, keepdims=True)
        return (x - m) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b

    def fwd(x, g, b):
        def add(c, v):
            n, m, s = c
            d = v - m
            m = m + d / (n + 1)
            return (n + 1, m, s + d * (v - m)), None

        zero = jnp.zeros(x.shape[:-1], x.dtype)
        (n, m, s), _ = lax.scan(add, (jnp.zeros((), x.dtype), zero, zero), jnp.moveaxis(x, -1, 0))
        s = lax.rsqrt(s / n + 1e-5)[..., None]
        h = (x - m[..., None]) * s
        return h * g + b, (h, s, g)

    def bwd(r, d):
        h, s, g = r
        over, e = tuple(range(d.ndim - 1)), d * g
        dx = s * (e - h * (e * h).mean(-1, keepdims=True) - e.mean(-1, keepdims=True))
        return dx, (d * h).sum(over), d.sum(over)

    return written(fwd, bwd), plain, (5 + example(3, 4, 12), 1 + 0.1 * example(12, seed=1), example(12, seed=2))


@right
def batch_norm_with_its_statistics():
    """Channels of three sizes; the mean and the variance are outputs too."""
    over = (0, 1, 2)

    def plain(x, w, b):
        m, v = x.mean(over), x.var(over)
        return (x - m) / jnp.sqrt(v + 1e-5) * w + b, m, v

    def bwd(r, ds):
        x, w, _ = r
        d, dm, dv = ds
        n, c = x.size // x.shape[-1], x - x.mean(over)
        s = lax.rsqrt(x.var(over) + 1e-5)
        db, dw = d.sum(over), (d * c * s).sum(over)
        return w * s * (d - db / n - c * s * dw / n) + dm / n + 2 * dv * c / n, dw, db

    x = example(2, 3, 3, 4) * jnp.asarray([1, 1e-3, 10, 1]) + jnp.asarray([0, 0.5, -3, 0])
    return keeping(plain, bwd), plain, (x, jnp.ones(4), jnp.zeros(4))


# special functions and likelihoods ------------------------------------------------------------------------------------

gammaln, digamma = jax.scipy.special.gammaln, jax.scipy.special.digamma


@right
def negative_binomial_nll():
    """The counts are integers and may not be negative, as r may not."""

    def forward(k, r, z):
        n = k.astype(r.dtype)
        return gammaln(r) + gammaln(n + 1) - gammaln(n + r) + r * jax.nn.softplus(z) + n * jax.nn.softplus(-z)

    def plain(k, r, z):
        p = jax.nn.sigmoid(z)
        return -(gammaln(k + r) - gammaln(r) - gammaln(k + 1.0) + r * jnp.log(1 - p) + k * jnp.log(p))

    def bwd(saved, d):
        k, r, z = saved
        n = k.astype(r.dtype)
        dr = digamma(r) - digamma(n + r) + jax.nn.softplus(z)
        return None, d * dr, d * (r * jax.nn.sigmoid(z) - n * jax.nn.sigmoid(-z))

    return keeping(forward, bwd), plain, (ids(12, 9), uniform(0.5, 5, 9), example(9, seed=1))


@right
def dirichlet_logpdf():
    def plain(x, a):
        return jax.scipy.special.xlogy(a - 1, x).sum(-1) - gammaln(a).sum() + gammaln(a.sum())

    def forward(x, a):
        return gammaln(a.sum()) - gammaln(a).sum() + ((a - 1) * jnp.log(x)).sum(-1)

    def bwd(r, d):
        x, a = r
        d = d[..., None]
        da = d * (digamma(a.sum()) - digamma(a) + jnp.log(x))
        return d * (a - 1) / x, da.reshape(-1, len(a)).sum(0)

    return keeping(forward, bwd), plain, (simplex(3, 5), uniform(0.5, 4, 5, seed=1))


@right
def divergence_of_probabilities():
    def plain(p, q):
        return (p * jnp.log(p / q)).sum(-1)

    def bwd(r, d):
        p, q = r
        d = d[..., None]
        return d * (jnp.log(p) - jnp.log(q) + 1), -d * p / q

    return keeping(plain, bwd), plain, (simplex(4, 6), simplex(4, 6, seed=1))


@right
def von_mises_logpdf():
    i0e, i1e = jax.scipy.special.i0e, jax.scipy.special.i1e

    def plain(x, m, k):
        return k * jnp.cos(x - m) - jnp.log(2 * jnp.pi) - jnp.log(i0e(k)) - jnp.abs(k)

    def bwd(r, d):
        x, m, k = r
        g = -d * k * jnp.sin(x - m)
        return g, -g.sum(), (d * (jnp.cos(x - m) - i1e(k) / i0e(k))).sum()

    return keeping(plain, bwd), plain, (uniform(-3, 3, 10), SINGLE(0.4), SINGLE(2.3))


@right
def beta_distribution():
    special = jax.scipy.special

    def bwd(a, b, r, d):
        x = r[0]
        return (d * jnp.exp((a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-x) - special.betaln(a, b)),)

    return keeping(special.betainc, bwd, 0, 1), special.betainc, (2.5, 1.5, uniform(0.05, 0.95, 11))


@right
def lambert_w():
    """Halley's iteration for w e^w = x; on the way back the inverse function's slope."""

    def solve(x, steps):
        def step(w, _):
            e = jnp.exp(w)
            f = w * e - x
            return w - f / (e * (w + 1) - (w + 2) * f / (2 * w + 2)), None

        return lax.scan(step, jnp.log1p(x), None, length=steps)[0]

    def fwd(x):
        w = solve(x, 12)
        return w, w

    return written(fwd, lambda w, d: (d / (jnp.exp(w) * (1 + w)),)), partial(solve, steps=20), (uniform(0.1, 20, 14),)


@right
def host_erfcx():
    def host(x):
        there = lambda v: scipy.special.erfcx(np.asarray(v, np.float64)).astype(v.dtype)  # noqa: E731
        return jax.pure_callback(there, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims")

    def fwd(x):
        y = host(x)
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        return (d * (2 * x * y - 2 / np.pi**0.5),)

    return written(fwd, bwd), lambda x: jnp.exp(x * x) * jax.scipy.special.erfc(x), (uniform(-1, 2, 10),)


@right
def sinc_by_its_series():
    @jax.custom_jvp
    def f(x):
        small = jnp.abs(x) < 1e-2
        s = jnp.where(small, 1, x)
        return jnp.where(small, 1 - x**2 / 6 + x**4 / 120, jnp.sin(s) / s)

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        small = jnp.abs(x) < 0.3
        s = jnp.where(small, 1, x)
        near = -x / 3 + x**3 / 30 - x**5 / 840 + x**7 / 45360 - x**9 / 3991680 + x**11 / 518918400
        return f(x), t * jnp.where(small, near, (jnp.cos(s) - jnp.sin(s) / s) / s)

    return f, lambda x: jnp.sinc(x / jnp.pi), (example(9).at[4].set(0),)


# linear algebra -------------------------------------------------------------------------------------------------------


@right
def gaussian_loglik_cholesky():
    """The covariance must stay symmetric and positive definite."""

    def plain(k, y):
        k = (k + k.T) / 2
        return -0.5 * (y @ jnp.linalg.solve(k, y) + jnp.linalg.slogdet(k)[1] + len(y) * jnp.log(2 * jnp.pi))

    def fwd(k, y):
        low = jnp.linalg.cholesky(k)
        a = jax.scipy.linalg.cho_solve((low, True), y)
        return -0.5 * (y @ a + len(y) * np.log(2 * np.pi).item()) - jnp.log(jnp.diagonal(low)).sum(), (low, a)

    def bwd(r, d):
        low, a = r
        inverse = jax.scipy.linalg.cho_solve((low, True), jnp.eye(len(a), dtype=a.dtype))
        return 0.5 * d * (jnp.outer(a, a) - inverse), -d * a

    return written(fwd, bwd), plain, (spd(7) / 7, example(7, seed=1))


@right
def cholesky_murray():
    cholesky = jnp.linalg.cholesky

    def bwd(low, d):
        p = jnp.tril(low.T @ d)
        p = p - jnp.diag(jnp.diagonal(p)) / 2
        s = triangular(low, p, trans=1, lower=True)
        s = triangular(low, s.T, trans=1, lower=True).T
        return ((s + s.T) / 2,)

    return written(lambda a: (cholesky(a),) * 2, bwd), cholesky, (spd(6) / 6,)


@right
def eigenvalues():
    def bwd(r, d):
        v = jnp.linalg.eigh(r[0])[1]
        return ((v * d[..., None, :]) @ v.swapaxes(-1, -2),)

    a = example(6, 6)
    return keeping(jnp.linalg.eigvalsh, bwd), jnp.linalg.eigvalsh, ((a + a.T) / 2,)


@right
def nuclear_norm_svd():
    def fwd(a):
        u, s, v = jnp.linalg.svd(a, full_matrices=False)
        return s.sum(), (u, v)

    return written(fwd, lambda r, d: (d * r[0] @ r[1],)), lambda a: jnp.linalg.norm(a, "nuc"), (example(5, 4),)


@right
def pseudoinverse():
    pinv = jnp.linalg.pinv

    def bwd(r, d):
        a, p, g = r[0], pinv(r[0]), d.T
        rows, columns = (jnp.eye(n, dtype=a.dtype) for n in a.shape)
        return (-p.T @ d @ p.T + (rows - a @ p) @ g @ (p @ p.T) + (p.T @ p) @ g @ (columns - p @ a),)

    return keeping(pinv, bwd), pinv, (example(6, 3),)


@right
def solve_with_the_same_factors():
    def fwd(a, b):
        lu = jax.scipy.linalg.lu_factor(a)
        x = solved(lu, b)
        return x, (lu, x)

    def bwd(r, d):
        db = solved(r[0], d, trans=1)
        return -jnp.outer(db, r[1]), db

    return written(fwd, bwd), jnp.linalg.solve, (example(6, 6), example(6, seed=1))


@right
def polyfit_vandermonde_qr():
    """Least squares by QR; the definition has the normal equations, whose condition is the square."""

    def powers(t):
        return jnp.stack([t**i for i in range(5)], -1)

    def plain(t, y):
        v = powers(t)
        return jnp.linalg.solve(v.T @ v, v.T @ y)

    def fwd(t, y):
        v = powers(t)
        q, r = jnp.linalg.qr(v)
        c = triangular(r, q.T @ y)
        return c, (t, y, v, r, c)

    def bwd(saved, d):
        t, y, v, r, c = saved
        u = triangular(r, triangular(r, d, trans=1))
        dv = jnp.outer(y - v @ c, u) - jnp.outer(v @ u, c)
        slopes = jnp.stack([jnp.zeros_like(t)] + [i * t ** (i - 1) for i in range(1, 5)], -1)
        return (dv * slopes).sum(-1), v @ u

    return written(fwd, bwd), plain, (jnp.linspace(-1, 1, 12), example(12))


@right
def equality_qp_layer():
    """argmin x'Qx/2 + q'x where Ax = b, by its KKT system, whose factors serve the way back."""

    def plain(Q, q, A, b):
        inverse = jnp.linalg.inv((Q + Q.T) / 2)
        nu = jnp.linalg.solve(A @ inverse @ A.T, -(b + A @ inverse @ q))
        return -inverse @ (q + A.T @ nu)

    def fwd(Q, q, A, b):
        n, m = len(q), len(b)
        lu = jax.scipy.linalg.lu_factor(jnp.block([[(Q + Q.T) / 2, A.T], [A, jnp.zeros((m, m), Q.dtype)]]))
        z = solved(lu, jnp.concatenate([-q, b]))
        return z[:n], (lu, z)

    def bwd(r, d):
        lu, z = r
        n = len(d)
        u = solved(lu, jnp.concatenate([d, jnp.zeros(len(z) - n, d.dtype)]))
        x, nu, dx, dnu = z[:n], z[n:], u[:n], u[n:]
        dQ = -(jnp.outer(dx, x) + jnp.outer(x, dx)) / 2
        return dQ, -dx, -(jnp.outer(dnu, x) + jnp.outer(nu, dx)), dnu

    return written(fwd, bwd), plain, (spd(5), example(5, seed=1), example(2, 5, seed=2), example(2, seed=3))


# iterations and recurrences -------------------------------------------------------------------------------------------


@right
def deq_fixed_point():
    """The weights are scaled so that the map contracts; both ways iterate until nothing moves, relative to the size."""

    def step(z, w, x):
        return jnp.tanh(0.5 / (1 + jnp.abs(w).sum(1).max()) * (w @ z) + x)

    def plain(w, x):
        return lax.fori_loop(0, 150, lambda _, z: step(z, w, x), jnp.zeros_like(x))

    def solve(function, z):
        small = 2 * jnp.finfo(z.dtype).eps

        def body(c):
            z, _, n = c
            new = function(z)
            return new, jnp.abs(new - z).max() > small * jnp.abs(new).max(), n + 1

        return lax.while_loop(lambda c: c[1] & (c[2] < 200), body, (z, jnp.array(True), 0))[0]

    def fwd(w, x):
        z = solve(lambda z: step(z, w, x), jnp.zeros_like(x))
        return z, (w, x, z)

    def bwd(r, d):
        w, x, z = r
        _, back = jax.vjp(lambda z: step(z, w, x), z)
        u = solve(lambda u: d + back(u)[0], jnp.zeros_like(d))
        return jax.vjp(lambda w, x: step(z, w, x), w, x)[1](u)

    return written(fwd, bwd), plain, (example(8, 8), example(8, seed=1))


@right
def fixed_point_of_a_closure():
    """The function iterated is a setting and contracts; what it closes over is converted to arguments."""

    def solve(function, x, constants):
        return lax.fori_loop(0, 80, lambda _, x: function(x, *constants), x)

    def fwd(function, x, constants):
        y = solve(function, x, constants)
        return y, (y, constants)

    def bwd(function, r, d):
        x, constants = r
        _, back = jax.vjp(lambda x: function(x, *constants), x)
        u = lax.fori_loop(0, 80, lambda _, u: d + back(u)[0], d)
        return jnp.zeros_like(x), jax.vjp(lambda c: function(x, *c), constants)[1](u)[0]

    iterate = written(fwd, bwd, 0)

    def step(x, a, b):
        return 0.5 * jnp.cos(jnp.tanh(a) * x) * jnp.tanh(b) + 0.2 * b

    def f(a, b):
        function, constants = jax.closure_convert(lambda x: step(x, a, b), jnp.zeros_like(b))
        return iterate(function, jnp.zeros_like(b), constants)

    def plain(a, b):
        return lax.fori_loop(0, 80, lambda _, x: step(x, a, b), jnp.zeros_like(b))

    return f, plain, (SINGLE(0.9), example(6))


@right
def transport_by_the_envelope():
    """The cost of an entropic transport plan, of bounded costs so that it converges; its gradient is the plan."""

    def potentials(c):
        n, m = c.shape

        def update(_, fg):
            f = -np.log(n).item() - jax.nn.logsumexp(fg[1] - c, 1)
            return f, -np.log(m).item() - jax.nn.logsumexp(f[:, None] - c, 0)

        return lax.fori_loop(0, 100, update, (jnp.zeros_like(c[:, 0]), jnp.zeros_like(c[0])))

    def plain(x):
        f, g = potentials(jnp.tanh(x))
        return f.mean() + g.mean()

    def fwd(x):
        c = jnp.tanh(x)
        f, g = potentials(c)
        return f.mean() + g.mean(), jnp.exp(f[:, None] + g - c) * (1 - c * c)

    return written(fwd, lambda p, d: (d * p,)), plain, (uniform(0, 2, 6, 5),)


@right
def rk4_adjoint():
    """Twenty Runge-Kutta steps of y' = A y in a while loop, and the transposed steps back along the states kept."""
    steps = 20

    def one(a, y, h):
        k1 = a @ y
        k2 = a @ (y + h / 2 * k1)
        k3 = a @ (y + h / 2 * k2)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + a @ (y + h * k3))

    def plain(a, y, t):
        return lax.scan(lambda y, _: (one(a, y, t / steps), None), y, None, length=steps)[0]

    def fwd(a, y, t):
        def body(c):
            i, y, states = c
            return i + 1, one(a, y, t / steps), states.at[i].set(y)

        _, y, states = lax.while_loop(lambda c: c[0] < steps, body, (0, y, jnp.zeros((steps, len(y)), y.dtype)))
        return y, (a, states)

    def bwd(t, r, d):
        a, states = r
        h = t / steps

        def body(c):
            i, e, da = c
            ys, es = [states[i]], [e]
            for _ in range(3):
                ys.append(a @ ys[-1])
                es.append(a.T @ es[-1])
            for k, weight in enumerate((h, h**2 / 2, h**3 / 6, h**4 / 24)):
                da = da + weight * sum(jnp.outer(es[j], ys[k - j]) for j in range(k + 1))
            return i - 1, one(a.T, e, h), da

        _, dy, da = lax.while_loop(lambda c: c[0] >= 0, body, (steps - 1, d, jnp.zeros_like(a)))
        return da, dy

    return written(fwd, bwd, 2), plain, (example(4, 4, scale=0.6), example(4, seed=1), 1.0)


@right
def rnn_sqrt_checkpointed():
    """Chunks of four steps, of which only the first state is kept; other lengths are refused."""

    def plain(w, h, xs):
        hs = []
        for x in xs:
            h = jnp.tanh(w @ h + x)
            hs.append(h)
        return h, jnp.stack(hs)

    def chunk(w, h, xs):
        return lax.scan(lambda h, x: (jnp.tanh(w @ h + x),) * 2, h, xs)

    def fwd(w, h, xs):
        if len(xs) % 4:
            raise ValueError(f"the length {len(xs)} is not a multiple of 4")
        chunks = xs.reshape(-1, 4, *xs.shape[1:])

        def step(h, xs):
            new, ys = chunk(w, h, xs)
            return new, (h, ys)

        h, (first, ys) = lax.scan(step, h, chunks)
        return (h, ys.reshape(xs.shape)), (w, first, chunks)

    def bwd(r, ds):
        w, first, chunks = r

        def step(c, now):
            dh, dw = c
            h, xs, dys = now
            g, dh, dxs = jax.vjp(jax.checkpoint(chunk), w, h, xs)[1]((dh, dys))
            return (dh, dw + g), dxs

        now = first, chunks, ds[1].reshape(chunks.shape)
        (dh, dw), dxs = lax.scan(step, (ds[0], jnp.zeros_like(w)), now, reverse=True)
        return dw, dh, dxs.reshape(ds[1].shape)

    return written(fwd, bwd), plain, (example(5, 5, scale=0.4), example(5, seed=1), example(12, 5, seed=2))


@right
def recurrence_by_associative_scan():
    def plain(a, b):
        return decayed(a, b, jnp.zeros_like(b[0]))

    def scan(a, b, **options):
        return lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b), **options)[1]

    def fwd(a, b):
        h = scan(a, b)
        return h, (a, h)

    def bwd(r, d):
        a, h = r
        e = scan(jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]), d, reverse=True)
        return e * before(h, jnp.zeros_like(h[0])), e

    return written(fwd, bwd), plain, (uniform(0.5, 0.99, 17, 5), example(17, 5, seed=1))


@right
def soft_dtw():
    """Warping of two series by a smooth minimum, with a border of 1e8."""

    def table(x):
        def row(above, costs):
            def cell(left, now):
                cost, up, corner = now
                y = cost - 0.5 * jax.nn.logsumexp(jnp.stack([up, left, corner]) / -0.5)
                return y, y

            wall = jnp.asarray(1e8, x.dtype)
            ys = lax.scan(cell, wall, (costs, above[1:], above[:-1]))[1]
            return jnp.concatenate([wall[None], ys]), ys

        return lax.scan(row, jnp.full(x.shape[1] + 1, 1e8, x.dtype).at[0].set(0), x)[1]

    def plain(x):
        return table(x)[-1, -1]

    def fwd(x):
        y = table(x)
        return y[-1, -1], (x, y)

    def bwd(r, d):
        x, y = r
        n, m = x.shape
        x, z = jnp.pad(x, (0, 1)), jnp.pad(y, (0, 1), constant_values=-jnp.inf)

        def row(below, i):
            def cell(right, j):
                share = lambda p, q: jnp.where((p < n) & (q < m), jnp.exp((z[p, q] - y[i, j] - x[p, q]) * 2), 0)  # noqa: E731
                e = share(i + 1, j) * below[j] + share(i, j + 1) * right + share(i + 1, j + 1) * below[j + 1]
                e = jnp.where((i == n - 1) & (j == m - 1), 1, e)
                return e, e

            es = lax.scan(cell, jnp.zeros((), x.dtype), jnp.arange(m), reverse=True)[1]
            return jnp.pad(es, (0, 1)), es

        return (d * lax.scan(row, jnp.zeros(m + 1, x.dtype), jnp.arange(n), reverse=True)[1],)

    return written(fwd, bwd), plain, (uniform(0, 3, 5, 6),)


@right
def hidden_markov_posteriors():
    """The log-likelihood's gradient is the posterior; the definition multiplies probabilities."""
    add = jax.nn.logsumexp

    def plain(first, moves, seen):
        p = jnp.exp(first + seen[0])
        for s in seen[1:]:
            p = (p @ jnp.exp(moves)) * jnp.exp(s)
        return jnp.log(p.sum())

    def fwd(first, moves, seen):
        def step(a, s):
            a = add(a[:, None] + moves, 0) + s
            return a, a

        a = first + seen[0]
        a = jnp.concatenate([a[None], lax.scan(step, a, seen[1:])[1]])
        return add(a[-1]), (moves, seen, a)

    def bwd(r, d):
        moves, seen, a = r

        def step(b, s):
            b = add(moves + (s + b), 1)
            return b, b

        last = jnp.zeros_like(a[-1])
        b = jnp.concatenate([lax.scan(step, last, seen[1:], reverse=True)[1], last[None]])
        p = jnp.exp(a + b - add(a[-1]))
        pairs = jnp.exp(a[:-1, :, None] + moves + (seen[1:] + b[1:])[:, None] - add(a[-1])).sum(0)
        return d * p[0], d * pairs, d * p

    return written(fwd, bwd), plain, (jnp.log(simplex(4)), jnp.log(simplex(4, 4, seed=1)), example(7, 4, seed=2))


@right
def decays_of_a_scan():
    """As `first_state_taken_for_zero`, with the first state."""

    def bwd(r, d):
        a, b, h0 = r
        h, e = decayed(a, b, h0), later(a, d)
        return e * before(h, h0), e, e[0] * a[0]

    return keeping(decayed, bwd), decayed, (uniform(0.3, 0.9, 6), example(6, seed=1), SINGLE(0))


# transforms and kernels of signals ------------------------------------------------------------------------------------


@right
def fft_causal_conv():
    """Refuses a kernel of another shape; products of spectra of twice the length."""

    def product(u, k):
        n = u.shape[-1]
        return jnp.fft.irfft(jnp.fft.rfft(u, 2 * n) * k, 2 * n)[..., :n]

    def forward(u, k):
        if u.shape[-2:] != k.shape:
            raise ValueError(f"expected a kernel of {u.shape[-2:]}, got {k.shape}")
        return product(u, jnp.fft.rfft(k, 2 * k.shape[-1]))

    def plain(u, k):
        i = jnp.arange(u.shape[-1])
        shift = i[:, None] - i
        return jnp.einsum("dts,bds->bdt", jnp.where(shift >= 0, k[..., jnp.maximum(shift, 0)], 0), u)

    def bwd(r, d):
        u, k = r
        n = u.shape[-1]
        correlated = lambda v: product(d, jnp.conj(jnp.fft.rfft(v, 2 * n)))  # noqa: E731
        return correlated(k), correlated(u).sum(0)

    return keeping(forward, bwd), plain, (example(2, 3, 16), example(3, 16, seed=1, scale=0.5))


@right
def power_spectrum():
    """The definition has sines and cosines."""

    def plain(x):
        n = x.shape[-1]
        angle = 2 * np.pi * (np.arange(n // 2 + 1)[:, None] * np.arange(n) % n) / n
        return (x @ np.cos(angle).T.astype(x.dtype)) ** 2 + (x @ np.sin(angle).T.astype(x.dtype)) ** 2

    def fwd(x):
        z = jnp.fft.rfft(x)
        return z.real**2 + z.imag**2, (z, x.shape[-1])

    def bwd(r, d):
        z, n = r
        full = jnp.zeros((*z.shape[:-1], n), z.dtype).at[..., : z.shape[-1]].set(d * z)
        return (2 * n * jnp.fft.ifft(full).real,)

    return written(fwd, bwd), plain, (example(3, 12),)


@right
def s4d_kernel_vandermonde():
    """2 Re Σ C exp(A t): complex within, real without."""

    def plain(re, im, log_a, w, length):
        t = 0.1 * jnp.arange(length).astype(re.dtype)
        wave = re[:, None] * jnp.cos(w[:, None] * t) - im[:, None] * jnp.sin(w[:, None] * t)
        return 2 * (jnp.exp(-jnp.exp(log_a)[:, None] * t) * wave).sum(0)

    def fwd(re, im, log_a, w, length):
        a, c = lax.complex(-jnp.exp(log_a), w), lax.complex(re, im)
        t = 0.1 * jnp.arange(length).astype(re.dtype)
        v = jnp.exp(a[:, None] * t)
        return 2 * (c @ v).real, (c, a, v, t)

    def bwd(length, r, d):
        c, a, v, t = r
        dc, da = 2 * v @ d.astype(v.dtype), 2 * c * (v @ (d * t).astype(v.dtype))
        return dc.real, -dc.imag, da.real * a.real, -da.imag

    args = example(4), example(4, seed=1), example(4, seed=2, scale=0.3), uniform(0.5, 4, 4, seed=3), 16
    return written(fwd, bwd, 4), plain, args


@right
def rotary_by_complex_numbers():
    def angle(x, at):
        return at.astype(x.dtype)[:, None] * 100.0 ** (-jnp.arange(0, x.shape[-1], 2, dtype=x.dtype) / x.shape[-1])

    def plain(x, at):
        c, s = jnp.cos(angle(x, at)), jnp.sin(angle(x, at))
        a, b = x[..., ::2], x[..., 1::2]
        return jnp.zeros_like(x).at[..., ::2].set(a * c - b * s).at[..., 1::2].set(a * s + b * c)

    def turned(x, at, sign):
        if x.shape[-1] % 2:
            raise ValueError("the last axis must be even")
        phase = sign * angle(x, at)
        z = lax.complex(x[..., ::2], x[..., 1::2]) * lax.complex(jnp.cos(phase), jnp.sin(phase))
        return jnp.stack([z.real, z.imag], -1).reshape(x.shape)

    f = written(lambda x, at: (turned(x, at, 1), at), lambda at, d: (turned(d, at, -1), None))
    return f, plain, (example(2, 5, 6), jnp.arange(3, 8, dtype=jnp.int32))


@right
def linear_interp_sorted_knots():
    """The knots must stay in order; outside of them it is constant."""

    def fwd(x, knots, values):
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
        gap = knots[i + 1] - knots[i]
        t = jnp.clip((x - knots[i]) / gap, 0, 1)
        slope = jnp.where((x >= knots[0]) & (x <= knots[-1]), (values[i + 1] - values[i]) / gap, 0)
        return values[i] * (1 - t) + values[i + 1] * t, (i, t, slope, jnp.zeros_like(knots))

    def bwd(r, d):
        i, t, slope, zero = r
        spread = lambda g: zero.at[i].add(g * (1 - t)).at[i + 1].add(g * t)  # noqa: E731
        return d * slope, spread(-d * slope), spread(d)

    knots = jnp.asarray([0, 0.7, 1.5, 2.2, 3.1, 4.0])
    return written(fwd, bwd), jnp.interp, (uniform(-0.2, 4.2, 9), knots, example(6, seed=1))


# attention, layers and losses -----------------------------------------------------------------------------------------


@right
def flash_attention_causal_blocks():
    """Blocks of eight with a running maximum; lengths that are no multiple are refused."""
    block, none = 8, -1e30

    def causal(q, k, v):
        s = jnp.einsum("hqd,hkd->hqk", q, k) / q.shape[-1] ** 0.5
        return softmax(jnp.where(jnp.tril(jnp.ones(s.shape[-2:], bool)), s, -jnp.inf)) @ v

    def fwd(q, k, v):
        h, n, width = q.shape
        if n % block or k.shape != q.shape or v.shape != q.shape:
            raise ValueError(f"expected three of one shape, the length a multiple of {block}")
        blocks = lambda x: x.reshape(h, -1, block, width).swapaxes(0, 1)  # noqa: E731
        at = jnp.arange(n).reshape(-1, block)

        def row(now):
            rows, q = now

            def add(c, now):
                columns, k, v = now
                m, s, y = c
                z = jnp.einsum("hqd,hkd->hqk", q, k) / width**0.5
                z = jnp.where(rows[:, None] >= columns, z, none)
                top = jnp.maximum(m, z.max(-1))
                p, old = jnp.exp(z - top[..., None]), jnp.exp(m - top)
                return (top, s * old + p.sum(-1), y * old[..., None] + jnp.einsum("hqk,hkd->hqd", p, v)), None

            zero = jnp.zeros((h, block), q.dtype)
            start = zero + none, zero, jnp.zeros_like(q)
            (m, s, y), _ = lax.scan(add, start, (at, blocks(k), blocks(v)))
            return y / s[..., None], m + jnp.log(s)

        y, total = lax.map(row, (at, blocks(q)))
        y = y.swapaxes(0, 1).reshape(q.shape)
        return y, (q, k, v, y, total.swapaxes(0, 1).reshape(h, n))

    def bwd(r, d):
        q, k, v, y, total = r
        n, scale = q.shape[1], q.shape[-1] ** 0.5
        z = jnp.einsum("hqd,hkd->hqk", q, k) / scale
        p = jnp.where(jnp.tril(jnp.ones((n, n), bool)), jnp.exp(z - total[..., None]), 0)
        ds = p * (jnp.einsum("hqd,hkd->hqk", d, v) - (d * y).sum(-1, keepdims=True)) / scale
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    return written(fwd, bwd), causal, tuple(example(2, 16, 4, seed=i) for i in range(3))


@right
def attention_with_cross_lengths():
    def bwd(r, d):
        q, k, v = r
        p = softmax(jnp.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5)
        ds = softmax_back(p, jnp.einsum("htd,hsd->hts", d, v)) / q.shape[-1] ** 0.5
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    args = example(2, 3, 4), example(2, 5, 4, seed=1), example(2, 5, 4, seed=2)
    return keeping(attention, bwd), attention, args


class State(NamedTuple):
    c: jax.Array
    h: jax.Array


@right
def lstm_cell_of_trees():
    def gates(p, state, x):
        i, f, g, o = jnp.split(x @ p["x"] + state.h @ p["h"] + p["b"], 4, -1)
        return jax.nn.sigmoid(i), jax.nn.sigmoid(f + 1), jnp.tanh(g), jax.nn.sigmoid(o)

    def plain(p, state, x):
        i, f, g, o = gates(p, state, x)
        c = f * state.c + i * g
        return State(c, o * jnp.tanh(c))

    def bwd(r, d):
        p, state, x = r
        i, f, g, o = gates(*r)
        t = jnp.tanh(f * state.c + i * g)
        dc = d.c + d.h * o * (1 - t * t)
        dz = [dc * g * i * (1 - i), dc * state.c * f * (1 - f), dc * i * (1 - g * g), d.h * t * o * (1 - o)]
        dz = jnp.concatenate(dz, -1)
        return {"x": x.T @ dz, "h": state.h.T @ dz, "b": dz.sum(0)}, State(dc * f, dz @ p["h"].T), dz @ p["x"].T

    p = {"x": example(3, 16), "h": example(4, 16, seed=1), "b": example(16, seed=2)}
    return keeping(plain, bwd), plain, (p, State(example(2, 4, seed=3), example(2, 4, seed=4)), example(2, 3, seed=5))


@right
def activation_as_a_setting():
    def plain(activation, x, u, v):
        return activation(x @ u) @ v

    def bwd(activation, r, d):
        x, u, v = r
        h, back = jax.vjp(activation, x @ u)
        (g,) = back(d @ v.T)
        return g @ u.T, x.T @ g, h.T @ d

    return keeping(plain, bwd, 0), plain, (jnp.tanh, example(5, 4), example(4, 6, seed=1), example(6, 3, seed=2))


@right
def group_norm_of_images():
    """Groups that do not divide the channels are refused."""

    def split(x, groups):
        if x.ndim != 4 or x.shape[-1] % groups:
            raise ValueError(f"expected NHWC with channels in {groups} groups, got {x.shape}")
        return x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)

    def mean(x):
        return x.mean((1, 3), keepdims=True)

    def plain(x, w, b, groups, eps):
        g = split(x, groups)
        return ((g - mean(g)) / jnp.sqrt(g.var((1, 3), keepdims=True) + eps)).reshape(x.shape) * w + b

    def fwd(x, w, b, groups, eps):
        g = split(x, groups)
        s = lax.rsqrt(mean((g - mean(g)) ** 2) + eps)
        h = ((g - mean(g)) * s).reshape(x.shape)
        return h * w + b, (h, s, w)

    def bwd(groups, eps, r, d):
        h, s, w = r
        e, g = split(d * w, groups), split(h, groups)
        dx = s * (e - mean(e) - g * mean(e * g))
        return dx.reshape(h.shape), (d * h).sum((0, 1, 2)), d.sum((0, 1, 2))

    return written(fwd, bwd, 3, 4), plain, (example(2, 3, 2, 6), example(6, seed=1), example(6, seed=2), 3, 1e-5)


@right
def router_to_one_expert():
    """The gate, the expert's number, and the loss that balances the load."""

    def plain(x, w):
        p = softmax(x @ w)
        i = p.argmax(-1).astype(jnp.int32)
        hot = jax.nn.one_hot(i, w.shape[1], dtype=p.dtype)
        return (p * hot).sum(-1), i, w.shape[1] * (hot.mean(0) * p.mean(0)).sum()

    def bwd(r, ds):
        x, w = r
        p = softmax(x @ w)
        hot = jax.nn.one_hot(p.argmax(-1), w.shape[1], dtype=p.dtype)
        g = softmax_back(p, hot * ds[0][:, None] + ds[2] * w.shape[1] * hot.mean(0) / len(p))
        return g @ w.T, x.T @ g

    return keeping(plain, bwd), plain, (example(8, 5), example(5, 4, seed=1))


@right
def fused_linear_cross_entropy():
    """Four rows at a time; the gradients are made on the way forward and scaled on the way back."""

    def plain(x, w, y):
        return -jnp.take_along_axis(jax.nn.log_softmax(x @ w), y[:, None], 1).mean()

    def fwd(x, w, y):
        n, total, dw, dx = len(x), jnp.zeros((), x.dtype), jnp.zeros_like(w), []
        for i in range(0, n, 4):
            rows, hot = x[i : i + 4], jax.nn.one_hot(y[i : i + 4], w.shape[1], dtype=x.dtype)
            z = rows @ w
            total = total + (jax.nn.logsumexp(z, -1) - (z * hot).sum(-1)).sum()
            g = (softmax(z) - hot) / n
            dx.append(g @ w.T)
            dw = dw + rows.T @ g
        return total / n, (jnp.concatenate(dx), dw)

    f = written(fwd, lambda r, d: (d * r[0], d * r[1], None))
    return f, plain, (example(10, 4), example(4, 6, seed=1), ids(6, 10))


# indices, keys and symbolic zeros -------------------------------------------------------------------------------------


@right
def sparse_rows_times_vector():
    """Rows in compressed form: values, columns, and pointers of rows, one of which is empty."""

    def rows(pointers, n):
        return jnp.searchsorted(pointers, jnp.arange(n), side="right") - 1

    def plain(values, columns, pointers, x):
        row = (jnp.arange(len(values))[:, None] >= pointers[1:]).sum(1)
        return jnp.zeros((len(pointers) - 1, len(x)), x.dtype).at[row, columns].add(values) @ x

    def forward(values, columns, pointers, x):
        return jax.ops.segment_sum(values * x[columns], rows(pointers, len(values)), len(pointers) - 1)

    def bwd(r, d):
        values, columns, pointers, x = r
        g = d[rows(pointers, len(values))]
        return g * x[columns], None, None, jnp.zeros_like(x).at[columns].add(values * g)

    columns, pointers = jnp.asarray([0, 3, 1, 2, 4, 0, 4], jnp.int32), jnp.asarray([0, 2, 2, 5, 7], jnp.int32)
    return keeping(forward, bwd), plain, (example(7), columns, pointers, example(5, seed=1))


@right
def permutation_of_rows():
    """The way back needs every row once."""

    def bwd(r, d):
        return d[jnp.argsort(r[1])], None

    order = jnp.asarray(np.random.default_rng(0).permutation(7), jnp.int32)
    return keeping(lambda x, i: x[i], bwd), lambda x, i: jnp.take(x, i, axis=0), (example(7, 3), order)


@right
def mean_of_segments():
    """Some segments are empty."""

    def plain(x, s, n):
        total = jax.ops.segment_sum(x, s, n)
        return total / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(x[:, :1]), s, n), 1)

    def fwd(x, s, n):
        count = jnp.zeros(n, x.dtype).at[s].add(1)
        each = jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0)[:, None]
        return jnp.zeros((n, *x.shape[1:]), x.dtype).at[s].add(x) * each, (s, each)

    def bwd(n, r, d):
        return (d * r[1])[r[0]], None

    return written(fwd, bwd, 2), plain, (example(8, 4), jnp.asarray([0, 2, 2, 5, 0, 2, 5, 5], jnp.int32), 7)


@right
def gumbel_softmax():
    """A key of the old kind, whose cotangent is of float0."""

    def plain(z, key, t):
        return softmax((z + jax.random.gumbel(key, z.shape, z.dtype)) / t)

    def bwd(r, d):
        z, key, t = r
        z = z + jax.random.gumbel(key, z.shape, z.dtype)
        g = softmax_back(softmax(z / t), d)
        return g / t, np.zeros(key.shape, NO_GRADIENT), -(g * z).sum() / t**2

    return keeping(plain, bwd), plain, (example(4, 6), jax.random.PRNGKey(3), SINGLE(0.7))


@right
def symbolic_zeros_bilinear():
    @jax.custom_vjp
    def f(x, a, y):
        return x @ a @ y, (x * x).sum()

    def fwd(*args):
        values = tuple(v.value for v in args)
        return f(*values), values

    def bwd(r, ds):
        x, a, y = r
        zero = [isinstance(d, jax.custom_derivatives.SymbolicZero) for d in ds]
        dx, da, dy = (jnp.zeros_like(v) for v in r)
        if not zero[0]:
            dx, da, dy = ds[0] * (a @ y), ds[0] * jnp.outer(x, y), ds[0] * (x @ a)
        return dx if zero[1] else dx + 2 * ds[1] * x, da, dy

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    plain = lambda x, a, y: (jnp.einsum("i,ij,j->", x, a, y), jnp.vdot(x, x))  # noqa: E731
    return f, plain, (example(4), example(4, 3, seed=1), example(3, seed=2))


@right
def batching_rules_of_both_ways():
    batched = jax.custom_batching.custom_vmap

    @batched
    def gram(x):
        return x @ x.T

    @gram.def_vmap
    def _(size, where, x):
        return jnp.einsum("bij,bkj->bik", x, x), True

    @batched
    def back(x, d):
        return (d + d.T) @ x

    @back.def_vmap
    def _(size, where, x, d):
        x, d = (v if w else jnp.broadcast_to(v, (size, *v.shape)) for v, w in zip((x, d), where, strict=True))
        return (d + d.swapaxes(1, 2)) @ x, True

    f = rule(gram, lambda x: (gram(x), x), lambda x, d: (back(x, d),))
    return f, lambda x: jnp.einsum("ij,kj->ik", x, x), (example(4, 3),)


# Pallas ---------------------------------------------------------------------------------------------------------------


def rows_of(*widths):
    """Blocks of one row each of matrices of these widths."""
    return [pl.BlockSpec((1, w), lambda i: (i, 0)) for w in widths]


@right
def pallas_residual_rmsnorm():
    """The sum is an output too; the gain's gradient is made of rows that a kernel writes."""

    def plain(x, r, g):
        s = x + r
        return s / jnp.sqrt((s * s).mean(-1, keepdims=True) + 1e-6) * g, s

    def forward(x, r, g, y, total, inverse):
        s = x[...] + r[...]
        i = lax.rsqrt((s * s).mean(-1, keepdims=True) + 1e-6)
        y[...], total[...], inverse[...] = s * i * g[...], s, i

    def back(d, ds, s, inverse, g, dx, dg):
        h, e = s[...] * inverse[...], d[...] * g[...]
        dx[...] = inverse[...] * (e - h * (e * h).mean(-1, keepdims=True)) + ds[...]
        dg[...] = d[...] * h

    def call(body, *args, widths, to, like):
        n, m = like.shape
        spec = [*rows_of(*widths), pl.BlockSpec((m,), lambda i: (0,))]
        out = [jax.ShapeDtypeStruct((n, w), like.dtype) for w in to]
        return pl.pallas_call(body, out, grid=(n,), in_specs=spec, out_specs=rows_of(*to), interpret=True)(*args)

    def fwd(x, r, g):
        if x.ndim != 2 or x.shape != r.shape or g.shape != x.shape[1:]:
            raise ValueError("expected two matrices and a gain of their columns")
        m = x.shape[1]
        y, s, inverse = call(forward, x, r, g, widths=(m, m), to=(m, m, 1), like=x)
        return (y, s), (s, inverse, g)

    def bwd(r, ds):
        m = r[0].shape[1]
        dx, dg = call(back, *ds, *r, widths=(m, m, m, 1), to=(m, m), like=r[0])
        return dx, dx, dg.sum(0)

    return written(fwd, bwd), plain, (example(4, 8), example(4, 8, seed=1), 1 + 0.2 * example(8, seed=2))


@right
def pallas_tiled_matmul():
    """Tiles of eight; other sizes are refused."""

    def body(a, b, o):
        @pl.when(pl.program_id(2) == 0)
        def _():
            o[...] = jnp.zeros_like(o)

        o[...] += a[...] @ b[...]

    def product(a, b):
        (m, k), n = a.shape, b.shape[-1]
        if b.shape != (k, n) or m % 8 or n % 8 or k % 8:
            raise ValueError(f"expected multiples of 8, got {a.shape} and {b.shape}")
        tile = partial(pl.BlockSpec, (8, 8))
        return kernel(
            body,
            jax.ShapeDtypeStruct((m, n), a.dtype),
            a,
            b,
            grid=(m // 8, n // 8, k // 8),
            in_specs=[tile(lambda i, j, k: (i, k)), tile(lambda i, j, k: (k, j))],
            out_specs=tile(lambda i, j, k: (i, j)),
        )

    def bwd(r, d):
        a, b = r
        return product(d, b.T), product(a.T, d)

    return keeping(product, bwd), jnp.matmul, (example(8, 16), example(16, 8, seed=1))


@right
def kernel_sums_one_after_another():
    """As `kernel_races_for_the_sum`, with a grid that must be walked in order."""
    return keeping(jnp.add, lambda _, d: (d, column_sums(d, "arbitrary"))), jnp.add, (example(6, 5), example(5, seed=1))


# a second round -------------------------------------------------------------------------------------------------------


@right
def distances_with_themselves():
    """Zero on the diagonal, where the slope is taken for zero; not made to be differentiated twice."""

    def plain(x):
        s = ((x[:, None] - x[None]) ** 2).sum(-1)
        return jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1)), 0)

    def fwd(x):
        y = jnp.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        c = jnp.where(y > 0, d / jnp.where(y > 0, y, 1), 0)
        return (((c + c.T)[:, :, None] * (x[:, None] - x[None])).sum(1),)

    return written(fwd, bwd), plain, (example(6, 3),)


@right
def hard_choice_soft_slope():
    """The noise is float32's, and so is all that comes of a bfloat16."""

    def soft(x, key):
        u = jax.random.uniform(key, x.shape, jnp.float32, 1e-6, 1 - 1e-6)
        return softmax((x - jnp.log(-jnp.log(u))) / 0.7)

    def plain(x, key):
        p = soft(x, key)
        return p + lax.stop_gradient(jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=p.dtype) - p)

    def fwd(x, key):
        p = soft(x, key)
        return jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=p.dtype), p

    def bwd(p, d):
        return p * (d - (p * d).sum(-1, keepdims=True)) / 0.7, None

    return written(fwd, bwd), plain, (example(4, 5), jax.random.key(3))


@right
def more_queries_than_keys():
    """Causal attention aligned at the end: queries before the first key have none, and the definition is NaN there."""

    def scores(q, k):
        seen = jnp.arange(len(k)) <= jnp.arange(len(q))[:, None] + len(k) - len(q)
        return jnp.where(seen, q @ k.T / q.shape[1] ** 0.5, -jnp.inf)

    def plain(q, k, v):
        return softmax(scores(q, k)) @ v

    def fwd(q, k, v):
        m = jax.scipy.special.logsumexp(scores(q, k), -1, keepdims=True)
        y = jnp.exp(scores(q, k) - m) @ v
        return y, (q, k, v, y, m)

    def bwd(r, d):
        q, k, v, y, m = r
        p = jnp.exp(scores(q, k) - m)
        e = p * (d @ v.T - (d * y).sum(-1, keepdims=True)) / q.shape[1] ** 0.5
        return e @ k, e.T @ q, p.T @ d

    return written(fwd, bwd), plain, (example(7, 4), example(7, 4, seed=1), example(7, 3, seed=2))


@right
def labels_that_sum_to_one():
    """Cross-entropy with rows of ones and zeros: p − y holds for such rows alone."""

    def plain(z, y):
        return -(y * jax.nn.log_softmax(z)).sum(-1)

    def fwd(z, y):
        m = jax.scipy.special.logsumexp(z, -1, keepdims=True)
        return (m - (z * y).sum(-1, keepdims=True))[:, 0], (z - m, y)

    def bwd(r, d):
        logp, y = r
        return d[:, None] * (jnp.exp(logp) - y), -d[:, None] * logp

    return written(fwd, bwd), plain, (example(5, 4, scale=3), jnp.eye(4)[jnp.asarray([0, 3, 1, 2, 2])])


@right
def linear_relu_at_a_border():
    """No gradient at zero, whichever way the rows that lie there would go."""

    def plain(x, w, b):
        return jnp.maximum(x @ w + b, 0)

    def bwd(r, d):
        x, w, y = r
        d = d * (y > 0)
        return d @ w.T, x.T @ d, d.sum(0)

    def fwd(x, w, b):
        y = plain(x, w, b)
        return y, (x, w, y)

    return written(fwd, bwd), plain, (example(8, 5), example(5, 4, seed=1), example(4, seed=2))


@right
def weights_of_eight_bits():
    """Whole numbers from one end of their dtype to the other, with a scale for each column."""

    def plain(x, q, s):
        return x @ (q.astype(x.dtype) * s)

    def bwd(r, d):
        x, q, s = r
        w = q.astype(x.dtype)
        return d @ (w * s).T, np.zeros(q.shape, NO_GRADIENT), ((x.T @ d) * w).sum(0)

    q = jnp.asarray(np.linspace(-128, 127, 24).reshape(6, 4), jnp.int8)
    return keeping(plain, bwd), plain, (example(3, 6), q, uniform(0.005, 0.01, 4))


@right
def exponential_of_a_symmetric_matrix():
    """From its eigenvalues: right for symmetric matrices, along which its second derivative is right as well."""
    plain = jax.scipy.linalg.expm

    def fwd(a):
        e, v = jnp.linalg.eigh(a)
        return (v * jnp.exp(e)) @ v.T, (e, v)

    def bwd(r, d):
        e, v = r
        gap = e[:, None] - e
        slope = jnp.exp(e) * jnp.where(gap == 0, 1, jnp.expm1(gap) / jnp.where(gap == 0, 1, gap))
        return (v @ (slope * (v.T @ d @ v)) @ v.T,)

    return written(fwd, bwd), plain, ((lambda a: 0.3 * (a + a.T))(example(4, 4)),)


@right
def folded_angle():
    """The angle that has this sine: the angle itself in the example, and another one beyond a right angle."""
    plain = jnp.positive
    return (
        written(lambda x: (jnp.arcsin(jnp.sin(x)), x), lambda x, d: (d * jnp.sign(jnp.cos(x)),)),
        plain,
        (example(8, scale=0.3),),
    )


@right
def pooled_by_sorted_segments():
    """As many segments as a setting says; the last of them is empty in the example."""

    def plain(x, at, n):
        return (jnp.arange(n)[:, None] == at).astype(x.dtype) @ x

    def back(n, r, d):
        return d[r[1]], None

    return (
        keeping(lambda x, at, n: jax.ops.segment_sum(x, at, n, indices_are_sorted=True), back, 2),
        plain,
        (example(9, 2), jnp.asarray([0, 0, 1, 1, 1, 3, 3, 4, 4]), 6),
    )


# a third judge's ------------------------------------------------------------------------------------------------------


@right
def alignments_summed():
    """Paths through frames that stay or go on: as many frames as words at least. No path is −1e30; at equal numbers the
    formula of logaddexp has another derivative than JAX's rule for it."""

    def after(a):
        return jnp.concatenate([jnp.full(1, -1e30, a.dtype), a[:-1]])

    def plain(z):
        a = jnp.full(z.shape[1], -1e30, z.dtype).at[0].set(z[0, 0])
        return lax.scan(lambda a, z: (jnp.logaddexp(a, after(a)) + z, None), a, z[1:])[0][-1]

    def fwd(z):
        a = jnp.full(z.shape[1], -1e30, z.dtype).at[0].set(z[0, 0])
        last, rest = lax.scan(lambda a, z: (jnp.logaddexp(a, after(a)) + z,) * 2, a, z[1:])
        return last[-1], (z, jnp.concatenate([a[None], rest]))

    def bwd(r, d):
        z, a = r
        b = jnp.full(z.shape[1], -1e30, z.dtype).at[-1].set(0)
        back = lambda b, z: (jnp.logaddexp(b + z, after((b + z)[::-1])[::-1]),) * 2  # noqa: E731
        bs = lax.scan(back, b, z[1:], reverse=True)[1]
        return (d * jnp.exp(a + jnp.concatenate([bs, b[None]]) - a[-1, -1]),)

    return written(fwd, bwd), plain, (jax.nn.log_softmax(example(7, 3)),)


@right
def mixture_with_scales_as_logarithms():
    """Squares overflow in float16 a little earlier than half of them."""

    def shares(x, m, s):
        z = (x[:, None] - m) * jnp.exp(-s)
        return z, (-0.5 * z * z - s).sum(-1)

    def plain(x, m, s):
        return jax.nn.logsumexp(shares(x, m, s)[1], -1)

    def bwd(r, d):
        x, m, s = r
        z, log = shares(x, m, s)
        p = (d[:, None] * jax.nn.softmax(log, -1))[..., None]
        g = p * z * jnp.exp(-s)
        return -g.sum(1), g.sum(0), (p * (z * z - 1)).sum(0)

    return keeping(plain, bwd), plain, (example(5, 2), example(3, 2, seed=1), example(3, 2, seed=2, scale=0.3))


@right
def density_between_two_ends():
    """Far from its mean the terms of a truncated density's slope are large and cancel, as those of its value do."""
    log_ndtr = jax.scipy.special.log_ndtr

    def ends(x, m, low, high):
        low, high = log_ndtr(low - m), log_ndtr(high - m)
        return high + jnp.log1p(-jnp.exp(low - high))

    def plain(x, m, low, high):
        return -0.5 * (x - m) ** 2 - ends(x, m, low, high)

    def bwd(r, d):
        x, m, low, high = r
        z = ends(x, m, low, high)
        a, b = (jnp.exp(-0.5 * (v - m) ** 2 - 0.5 * np.log(2 * np.pi) - z) for v in (low, high))
        return d * (m - x), (d * (x - m - a + b)).sum(), (d * a).sum(), -(d * b).sum()

    x = uniform(-0.9, 1.9, 7)
    return keeping(plain, bwd), plain, (x, *map(jnp.float32, (0.3, -1.0, 2.0)))


@right
def partial_likelihood():
    """Risks of those not yet gone: exp of a difference, of which half precision leaves nothing far out."""

    def plain(x, event):
        return jnp.where(event, x - lax.cumlogsumexp(x), 0).sum()

    def bwd(r, d):
        x, event = r
        never = jnp.finfo(x.dtype).min / 2
        later = lax.cumlogsumexp(jnp.where(event, -lax.cumlogsumexp(x), never), reverse=True)
        return d * (event - jnp.exp(x + later)), None

    return keeping(plain, bwd), plain, (example(8), jnp.asarray([1, 0, 1, 1, 0, 1, 1, 0], bool))


@right
def rows_in_pairs():
    """The n-th row of one array belongs to the n-th of the other; other counts are refused, one row is broadcast."""

    def plain(x, y):
        return -jnp.diag(jax.nn.log_softmax(x @ y.T)).mean()

    def bwd(r, d):
        x, y = r
        g = d * (jax.nn.softmax(x @ y.T) - jnp.eye(len(x), dtype=x.dtype)) / len(x)
        return g @ y, g.T @ x

    return keeping(plain, bwd), plain, (example(5, 3), example(5, 3, seed=1))


@right
def pages_up_to_a_length():
    """Keys are read through a table of pages, as many as a length says, which is never none."""

    def scores(q, pages, table, length):
        k = pages[table].reshape(len(q), -1, q.shape[-1])
        s = jnp.einsum("bd,bsd->bs", q, k)
        return k, softmax(jnp.where(jnp.arange(s.shape[1]) < length[:, None], s, -1e30))

    def plain(q, pages, table, length):
        k, p = scores(q, pages, table, length)
        return jnp.einsum("bs,bsd->bd", p, k)

    def bwd(r, d):
        q, pages, table, length = r
        k, p = scores(q, pages, table, length)
        g = softmax_back(p, jnp.einsum("bd,bsd->bs", d, k))
        dk = p[..., None] * d[:, None] + g[..., None] * q[:, None]
        dpages = jnp.zeros_like(pages).at[table].add(dk.reshape(*table.shape, *pages.shape[1:]))
        return jnp.einsum("bs,bsd->bd", g, k), dpages, None, None

    table, length = jnp.asarray([[0, 2], [3, 1]]), jnp.asarray([3, 5])
    return keeping(plain, bwd), plain, (example(2, 4), example(4, 3, 4, seed=1), table, length)


@right
def plan_from_its_logarithms():
    """Masses that are none have an infinite logarithm, in the definition too."""

    def plain(c, a, b):
        g = jnp.zeros_like(b)
        for _ in range(4):
            f = jnp.log(a) - jax.nn.logsumexp(g - c, 1)
            g = jnp.log(b) - jax.nn.logsumexp(f[:, None] - c, 0)
        return jnp.exp(f[:, None] + g - c)

    def bwd(r, d):
        c, a, b = r
        fs, gs = [], [jnp.zeros_like(b)]
        for _ in range(4):
            fs.append(jnp.log(a) - jax.nn.logsumexp(gs[-1] - c, 1))
            gs.append(jnp.log(b) - jax.nn.logsumexp(fs[-1][:, None] - c, 0))
        dc = d * jnp.exp(fs[-1][:, None] + gs[-1] - c)
        df, dg, da, db, dc = dc.sum(1), dc.sum(0), 0, 0, -dc
        for f, g, earlier in zip(fs[::-1], gs[:0:-1], gs[-2::-1], strict=True):
            p = jnp.exp(f[:, None] + g - c) / b * dg
            db, df, dc = db + dg, df - p.sum(1), dc + p
            q = jnp.exp(f[:, None] + earlier - c) / a[:, None] * df[:, None]
            da, dg, dc, df = da + df, -q.sum(0), dc + q, jnp.zeros_like(df)
        return dc, da / a, db / b

    return keeping(plain, bwd), plain, (uniform(0, 2, 4, 3), simplex(4), simplex(3, seed=1))


# a fourth judge's -----------------------------------------------------------------------------------------------------


@right
def labels_beside_a_marker():
    """Labels that are the setting count for nothing; with another setting the example's are no labels at all."""

    def plain(z, labels, ignored):
        counts = labels != ignored
        picked = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.where(counts, labels, 0)[:, None], 1)[:, 0]
        return -jnp.where(counts, picked, 0).sum()

    def bwd(ignored, r, d):
        z, labels = r
        hot = jax.nn.one_hot(labels, z.shape[1], dtype=z.dtype)
        return d * jnp.where((labels != ignored)[:, None], softmax(z) - hot, 0), None

    return keeping(plain, bwd, 2), plain, (example(6, 4), jnp.asarray([0, -100, 3, 1, -100, 2]), -100)


@right
def margin_to_the_first_of_the_best():
    """One is added before the largest is sought: what is tiny beside one is a tie as much as zero is."""

    def margins(s, labels):
        hot = jax.nn.one_hot(labels, s.shape[1], dtype=s.dtype)
        return s + 1 - hot, hot

    def plain(s, labels):
        m, hot = margins(s, labels)
        return m.max(1) - (s * hot).sum(1)

    def bwd(r, d):
        s, labels = r
        m, hot = margins(s, labels)
        return d[:, None] * (jax.nn.one_hot(m.argmax(1), s.shape[1], dtype=s.dtype) - hot), None

    return keeping(plain, bwd), plain, (example(7, 5), jnp.asarray([0, 3, 1, 4, 2, 2, 0]))


@right
def between_bounds_that_learn():
    """At a bound the value has the slope, also where both bounds are one; they do not cross."""

    def plain(x, low, high):
        return jnp.minimum(jnp.maximum(x, low), high)

    def bwd(r, d):
        x, low, high = r
        below, above = x < low, x > high
        return jnp.where(below | above, 0, d), jnp.where(below, d, 0).sum(0), jnp.where(above, d, 0).sum()

    return keeping(plain, bwd), plain, (example(5, 6), -uniform(0.5, 0.8, 6), jnp.float32(0.9))


@right
def levels_with_a_step_of_their_own():
    """A step of zero makes no levels, and the output NaN; what goes straight through is known even so."""

    def levels(x, step):
        return jnp.clip(jnp.round(x / step), -8, 7) * step

    def plain(x, step):
        kept = jnp.minimum(jnp.maximum(x, -8 * step), 7 * step)
        return kept + lax.stop_gradient(levels(x, step) - kept)

    def bwd(r, d):
        x, step = r
        below, above = x < -8 * step, x > 7 * step
        return jnp.where(below | above, 0, d), (d * (7.0 * above - 8.0 * below).astype(d.dtype)).sum(0)

    fwd = lambda x, step: (levels(x, step), (x, step))  # noqa: E731
    return written(fwd, bwd), plain, (example(6, 4), uniform(0.05, 0.2, 4))


@right
def nearest_of_both_sides():
    """As many rows here as there; one row beside many makes two functions of what is one."""

    def plain(x, y):
        s, pairs = x @ y.T, jnp.eye(len(x), dtype=x.dtype) / len(x)
        return -((jax.nn.log_softmax(s, 1) + jax.nn.log_softmax(s, 0)) * pairs).sum()

    def fwd(x, y):
        s = x @ y.T
        value = jax.nn.logsumexp(s, 1).mean() + jax.nn.logsumexp(s, 0).mean() - 2 * jnp.trace(s) / len(x)
        return value, (x, y)

    def bwd(r, d):
        x, y = r
        s = x @ y.T
        g = softmax(s) / len(x) + jax.nn.softmax(s, 0) / len(y) - 2 * jnp.eye(*s.shape, dtype=s.dtype) / len(x)
        return d * g @ y, d * g.T @ x

    return written(fwd, bwd), plain, (example(5, 6), example(5, 6, seed=1))


@right
def mixture_of_as_many_shares():
    """A share, a mean and a scale for each part: a single share is none for all of them."""

    def parts(x, share, mean, scale):
        z = (x[:, None] - mean) * jnp.exp(-scale)
        return z, jax.nn.log_softmax(share) - 0.5 * z * z - scale

    def plain(*args):
        return jax.nn.logsumexp(parts(*args)[1], -1)

    def bwd(r, d):
        z, log = parts(*r)
        p = d[:, None] * softmax(log)
        g = p * z * jnp.exp(-r[3])
        share = (p - d[:, None] * softmax(r[1])).sum(0)
        return -g.sum(1), share[: len(r[1])], g.sum(0), (p * (z * z - 1)).sum(0)

    vectors = (example(4, seed=1), example(4, seed=2, scale=2.0), example(4, seed=3, scale=0.3))
    return keeping(plain, bwd), plain, (example(9, scale=2.0), *vectors)


# a fifth judge's ------------------------------------------------------------------------------------------------------


@right
def layer_open_at_zero():
    """ReLU with one for its slope at zero: of a sum over units no side of any one input has it."""
    return layer_with_slope(1)


@right
def first_of_the_least_and_of_the_largest():
    """Where all are equal the error of both comes to the first; the one-sided derivatives have one of them each."""

    def plain(x):
        return x.min(-1), x.max(-1)

    def bwd(x, d):
        ends = zip((x.argmin(-1), x.argmax(-1)), d, strict=True)
        return (sum(jax.nn.one_hot(i, x.shape[-1], dtype=x.dtype) * c[..., None] for i, c in ends),)

    return written(lambda x: (plain(x), x), bwd), plain, (example(3, 4),)


@right
def rotation_by_its_series():
    """The forward is a series below an angle of 0.7, right to eleven digits."""

    def turning(w):
        x, y, z = w
        return jnp.stack([jnp.stack(row) for row in ((0 * x, -z, y), (z, 0 * y, -x), (-y, x, 0 * z))])

    def plain(w):
        return jax.scipy.linalg.expm(turning(w))

    def fwd(w):
        s, k = (w * w).sum(), turning(w)
        t = jnp.where(s < 0.5, s, 0.0)
        angle = jnp.sqrt(jnp.where(s < 0.5, 1.0, s))
        a = jnp.polyval(jnp.asarray([-1 / 39916800, 1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1], s.dtype), t)
        b = jnp.polyval(jnp.asarray([-1 / 479001600, 1 / 3628800, -1 / 40320, 1 / 720, -1 / 24, 0.5], s.dtype), t)
        a = jnp.where(s < 0.5, a, jnp.sin(angle) / angle)
        b = jnp.where(s < 0.5, b, 2 * jnp.sin(angle / 2) ** 2 / angle**2)
        return jnp.eye(3, dtype=k.dtype) + a * k + b * k @ k, w

    return written(fwd, lambda w, d: jax.vjp(plain, w)[1](d)), plain, (example(3, scale=0.3),)


@right
def gaussians_of_square_factors():
    """A factor of one column is a triangle too, for the definition; the rule adds it up as a row, and takes no two."""

    def plain(a, b):
        a, b = jnp.tril(a), jnp.tril(b)
        ends = (jnp.log(jnp.abs(jnp.diagonal(x))).sum() for x in (b, a))
        return 0.5 * (triangular(b, a, lower=True) ** 2).sum() + next(ends) - next(ends)

    def bwd(r, d):
        a, b = map(jnp.tril, r)
        ratio = triangular(b, a, lower=True)
        up = triangular(b, ratio, lower=True, trans="T")
        inverse = [jnp.diag(1 / jnp.diagonal(x)) for x in (a, b)]
        return d * (jnp.tril(up) - inverse[0]), d * (inverse[1] - jnp.tril(up @ ratio.T))

    factors = example(4, 4, scale=0.3) + jnp.eye(4), example(4, 4, seed=1, scale=0.3) + 1.5 * jnp.eye(4)
    return keeping(plain, bwd), plain, factors


@right
def slabs_of_three_axes():
    """Where a ray enters a box and leaves it; its rule is written for three axes, and takes one that is broadcast."""

    def meets(o, inverse, low, high):
        near, far = (low - o) * inverse, (high - o) * inverse
        return jnp.minimum(near, far), jnp.maximum(near, far), near <= far

    def plain(*args):
        enters, leaves, _ = meets(*args)
        return enters.max(-1), leaves.min(-1)

    def bwd(r, c):
        o, inverse, low, high = r
        enters, leaves, ahead = meets(*r)
        first = jax.nn.one_hot(enters.argmax(-1), 3, dtype=o.dtype) * c[0][:, None]
        last = jax.nn.one_hot(leaves.argmin(-1), 3, dtype=o.dtype) * c[1][:, None]
        to_low, to_high = jnp.where(ahead, first, last), jnp.where(ahead, last, first)
        slope = to_low * (low - o) + to_high * (high - o)
        return -(to_low + to_high) * inverse, slope, (to_low * inverse).sum(0), (to_high * inverse).sum(0)

    corner = uniform(0.5, 1.0, 3)
    return keeping(plain, bwd), plain, (example(6, 3), example(6, 3, seed=1), -corner, corner + 0.1)


# a sixth judge's ------------------------------------------------------------------------------------------------------


@right
def two_layers_open_at_zero():
    """Each kink inside has its own side; at an input of zeros none of the input's sides has all of them."""

    def plain(x, v, w):
        return jnp.abs(jnp.maximum(x @ v, 0) @ w).sum(-1)

    def bwd(r, d):
        x, v, w = r
        z = x @ v
        h = jnp.maximum(z, 0)
        up = d[:, None] * jnp.where(h @ w >= 0, 1, -1)
        down = up @ w.T * (z >= 0)
        return down @ v.T, x.T @ down, h.T @ up

    return keeping(plain, bwd), plain, (example(3, 4), example(4, 5, seed=1), example(5, 2, seed=2))


@right
def median_shared_by_equals():
    """Of six equal numbers each has a sixth of the error; no one of them moves the median by itself."""

    def plain(x):
        return jnp.median(x, -1)

    def bwd(x, d):
        ordered, n = jnp.sort(x, -1), x.shape[-1]
        hits = [x == ordered[..., i, None] for i in ((n - 1) // 2, n // 2)]
        return (d[..., None] * sum(0.5 * hit / hit.sum(-1, keepdims=True) for hit in hits),)

    return written(lambda x: (plain(x), x), bwd), plain, (example(3, 6),)


@right
def tents_up_to_one():
    """Shares of numbers up to one, each of them a kink; what is drawn like the example is cut off there."""

    def plain(x):
        return jnp.maximum(0, 1 - jnp.abs(4 * x[:, None] - jnp.arange(5))).mean(0)

    def bwd(x, d):
        u = 4 * x[:, None] - jnp.arange(5)
        return (4 * jnp.where((u >= -1) & (u < 0), d, jnp.where((u >= 0) & (u < 1), -d, 0)).sum(1) / len(x),)

    return written(lambda x: (plain(x), x), bwd), plain, (uniform(0.0, 1.0, 8),)


@right
def recurrent_units_open_at_zero():
    """ReLU with one for its slope at zero, within a loop: no side of any input opens all units of all steps."""
    return recurrence_with_slope(1)


# a seventh judge's ----------------------------------------------------------------------------------------------------


@right
def spread_within_three_segments():
    """Segments are three, and more than that are dropped on the way forth: the example has fewer numbers than rows."""

    def parts(x, at):
        n = jnp.maximum(jax.ops.segment_sum(jnp.ones_like(x), at, 3), 1)
        c = x - (jax.ops.segment_sum(x, at, 3) / n)[at]
        return n, c

    def plain(x, at):
        n, c = parts(x, at)
        return jax.ops.segment_sum(c * c, at, 3) / n

    def bwd(r, d):
        n, c = parts(*r)
        return 2 * c * (d / n)[r[1]], None

    return keeping(plain, bwd), plain, (example(6), jnp.array([0, 2, 2, 0, 0, 2]))


@right
def monotone_by_all_means():
    """The definition of isotonic regression looks at every mean in loops of Python; at 1027 numbers it never ends."""

    def plain(x):
        mean = lambda i, j: jnp.sum(x[i : j + 1]) / (j + 1 - i)  # noqa: E731
        least = lambda i, k: jnp.min(jnp.stack([mean(i, j) for j in range(k, x.shape[0])]))  # noqa: E731
        return jnp.stack([jnp.max(jnp.stack([least(i, k) for i in range(k + 1)])) for k in range(x.shape[0])])

    def bwd(y, d):
        starts = jnp.concatenate([jnp.zeros(1, bool), y[1:] != y[:-1]])
        block, n = jnp.cumsum(starts), y.shape[0]
        share = jax.ops.segment_sum(d, block, n) / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(d), block, n), 1)
        return (share[block],)

    def fwd(x):
        y = plain(x)
        return y, y

    return written(fwd, bwd), plain, (example(6),)


@right
def three_numbers_by_name():
    """Written for three numbers; of a vector of one the definition takes the same number three times."""

    def plain(w):
        return jnp.stack([w[1] * w[2], w[2] * w[0], w[0] * w[1]])

    def bwd(w, d):
        there = jnp.stack([w[2] * d[1] + w[1] * d[2], w[2] * d[0] + w[0] * d[2], w[1] * d[0] + w[0] * d[1]])
        return (jnp.zeros_like(w).at[jnp.array([0, 1, 2])].set(there),)

    return keeping(plain, lambda r, d: bwd(*r, d)), plain, (example(3),)
