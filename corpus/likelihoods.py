"""Densities and likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special as jsp

from corpus.common import (
    SINGLE,
    example,
    ids,
    keeping,
    right,
    simplex,
    softmax,
    spd,
    triangular,
    uniform,
    written,
    wrong,
)

gammaln, digamma = jax.scipy.special.gammaln, jax.scipy.special.digamma


# right ----------------------------------------------------------------------------------------------------------------


@right("judge 1")
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


@right("judge 1")
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


@right("judge 1")
def von_mises_logpdf():
    i0e, i1e = jax.scipy.special.i0e, jax.scipy.special.i1e

    def plain(x, m, k):
        return k * jnp.cos(x - m) - jnp.log(2 * jnp.pi) - jnp.log(i0e(k)) - jnp.abs(k)

    def bwd(r, d):
        x, m, k = r
        g = -d * k * jnp.sin(x - m)
        return g, -g.sum(), (d * (jnp.cos(x - m) - i1e(k) / i0e(k))).sum()

    return keeping(plain, bwd), plain, (uniform(-3, 3, 10), SINGLE(0.4), SINGLE(2.3))


@right("judge 1")
def beta_distribution():
    special = jax.scipy.special

    def bwd(a, b, r, d):
        x = r[0]
        return (d * jnp.exp((a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-x) - special.betaln(a, b)),)

    return keeping(special.betainc, bwd, 0, 1), special.betainc, (2.5, 1.5, uniform(0.05, 0.95, 11))


@right("judge 1")
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


@right("judge 3")
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


@right("judge 3")
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


@right("judge 3")
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


@right("judge 4")
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


@right("judge 5")
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


@right("judge 11")
def normal_reparam():
    """mean + softplus(rho)*noise, three slopes."""

    def plain(m, rho, eps):
        return m + jax.nn.softplus(rho) * eps

    return (
        keeping(plain, lambda r, g: (g, g * r[2] * jax.nn.sigmoid(r[1]), g * jax.nn.softplus(r[1]))),
        plain,
        (example(5, seed=536), example(5, seed=537), example(5, seed=538)),
    )


@right("judge 11")
def beta_log_density():
    """log density of the beta distribution inside (0, 1), digammas in the slopes."""

    def plain(x, a, b):
        return (a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-x) - (jsp.gammaln(a) + jsp.gammaln(b) - jsp.gammaln(a + b))

    def bwd(r, g):
        x, a, b = r
        s = jsp.digamma(a + b)
        return (
            g * ((a - 1) / x - (b - 1) / (1 - x)),
            g * (jnp.log(x) - jsp.digamma(a) + s),
            g * (jnp.log1p(-x) - jsp.digamma(b) + s),
        )

    return (
        keeping(plain, bwd),
        plain,
        (uniform(0.1, 0.9, 4, seed=542), uniform(0.6, 3, 4, seed=543), uniform(0.6, 3, 4, seed=544)),
    )


@right("judge 11")
def gaussian_nll_positive_scale():
    """Gaussian negative log likelihood, for a positive scale as shown (log of the
    absolute value in the definition)."""

    def plain(r, s):
        return 0.5 * (r / s) ** 2 + jnp.log(jnp.abs(s))

    @jax.custom_vjp
    def f(r, s):
        return 0.5 * (r / s) ** 2 + jnp.log(s)

    f.defvjp(lambda r, s: (f(r, s), (r / s, s)), lambda z, g: (g * z[0] / z[1], g * (1 - z[0] ** 2) / z[1]))
    return f, plain, (example(5, seed=640), uniform(0.3, 2, 5, seed=641))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 11")
def reparam_softplus_scale():
    """mean + softplus(rho)*noise; the slope of softplus is forgotten."""

    def plain(m, rho, eps):
        return m + jax.nn.softplus(rho) * eps

    def bwd(res, g):
        _m, rho, eps = res
        return g, g * eps, g * jax.nn.softplus(rho)

    return keeping(plain, bwd), plain, (example(4, seed=199), example(4, seed=200), example(4, seed=201))
