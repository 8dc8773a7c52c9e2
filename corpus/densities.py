"""Special functions, log-densities and losses."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import digamma, gammaln, i0e, i1e, log_ndtr, logsumexp

from corpus.common import (
    SINGLE,
    example,
    floats,
    ids,
    keeping,
    positive,
    right,
    rule,
    unbroadcast,
    uniform,
    written,
    wrong,
)


@wrong("judge 13", "far in the lower tail")
def probit_likelihood_pdf_over_cdf():
    """The inverse Mills ratio is taken as pdf / cdf, and both are 0 in the lower tail."""

    def plain(x, sign):
        return log_ndtr(x * sign)

    def bwd(r, d):
        x, sign = r
        z = x * sign
        mills = jax.scipy.stats.norm.pdf(z) / jax.scipy.stats.norm.cdf(z)
        return d * mills * sign, d * mills * x

    return keeping(plain, bwd), plain, (example(8, seed=11), floats(1, -1, 1, 1, -1, 1, -1, -1))


@wrong("judge 13", "a point at 0")
def lanczos_window_at_zero():
    """The slope of sinc is (cos - sinc) / x, which is 0 / 0 in the middle of the kernel."""

    def plain(x):
        return jnp.where(jnp.abs(x) < 3, jnp.sinc(x) * jnp.sinc(x / 3), 0.0)

    def slope(x):
        a, b = jnp.sinc(x), jnp.sinc(x / 3)
        g = (jnp.cos(jnp.pi * x) - a) / x * b + a * (jnp.cos(jnp.pi * x / 3) - b) / x
        return jnp.where(jnp.abs(x) < 3, g, 0.0)

    return keeping(plain, lambda r, d: (d * slope(r[0]),)), plain, (uniform(-4, 4, 9, seed=21),)


@wrong("judge 13", "large magnitudes")
def log_cosh_loss_by_exponentials():
    """The hyperbolic tangent is written out with exponentials, which overflow."""

    def plain(y, t):
        e = jnp.abs(y - t)
        return jnp.mean(e + jnp.log1p(jnp.exp(-2 * e)) - jnp.log(2.0))

    def bwd(r, d):
        y, t = r
        e = y - t
        up, down = jnp.exp(e), jnp.exp(-e)
        g = d * (up - down) / (up + down) / e.size
        return g, -g

    return keeping(plain, bwd), plain, (example(5, 3, seed=31), example(5, 3, seed=32))


@wrong("judge 13", "an arm's length other than 1")
def huber_arms_of_slope_one():
    """Beyond delta the slope is the sign alone, not delta times the sign."""

    def plain(x, delta):
        a = jnp.abs(x)
        return jnp.where(a <= delta, 0.5 * x * x, delta * (a - 0.5 * delta)).sum()

    def bwd(r, d):
        x, delta = r
        a = jnp.abs(x)
        slope = jnp.where(a <= delta, x, jnp.sign(x))
        return d * slope, d * jnp.where(a <= delta, 0.0, a - delta).sum()

    return keeping(plain, bwd), plain, (2 * example(4, 3, seed=41), jnp.asarray(1.0, SINGLE))


@wrong("judge 13", "small arguments")
def log_factorial_by_asymptotic_digamma():
    """The digamma function is replaced with three terms of its asymptotic series."""

    def bwd(r, d):
        (x,) = r
        return (d * (jnp.log(x) - 0.5 / x - 1 / (12 * x * x)),)

    return keeping(gammaln, bwd), gammaln, (uniform(8, 40, 10, seed=51),)


@wrong("judge 13", "a weight of 0")
def weighted_logsumexp_divided_by_weight():
    """The weights' gradient is the responsibility divided by the weight, 0 / 0 for a weight of 0."""

    def plain(x, w):
        top = lax.stop_gradient(x.max(-1))
        return top + jnp.log((w * jnp.exp(x - top[:, None])).sum(-1))

    def fwd(x, w):
        y = plain(x, w)
        return y, (x, w, y)

    def bwd(r, d):
        x, w, y = r
        p = w * jnp.exp(x - y[:, None])
        return d[:, None] * p, d[:, None] * p / w

    return rule(plain, fwd, bwd), plain, (example(3, 5, seed=61), positive(3, 5))


@wrong("judge 13", "a batch of more than one")
def dirichlet_total_over_the_batch():
    """The concentrations' total is summed over the batch too."""

    def plain(alpha, logp):
        return gammaln(alpha.sum(-1)) - gammaln(alpha).sum(-1) + ((alpha - 1) * logp).sum(-1)

    def bwd(r, d):
        alpha, logp = r
        d = d[..., None]
        return d * (digamma(alpha.sum()) - digamma(alpha) + logp), d * (alpha - 1)

    alpha = positive(4) + 0.5
    return keeping(plain, bwd), plain, (alpha, jax.nn.log_softmax(example(4, seed=71)))


@wrong("judge 13", "a zero base")
def allometric_power_at_zero_mass():
    """The exponent's gradient y log(x) is not a number at x = 0, where y is 0."""

    def plain(scale, mass, exponent):
        return scale * jnp.power(mass, exponent)

    def bwd(r, d):
        scale, mass, exponent = r
        p = jnp.power(mass, exponent)
        return (
            (d * p).sum(),
            d * scale * exponent * jnp.power(mass, exponent - 1),
            (d * scale * p * jnp.log(mass)).sum(),
        )

    scale, exponent = jnp.asarray(0.7, SINGLE), jnp.asarray(1.5, SINGLE)
    return keeping(plain, bwd), plain, (scale, positive(7), exponent)


@wrong("judge 13")
def negative_binomial_without_dispersion_share():
    """The dispersion's gradient misses the -(k + r) / (r + m) share of the log of r + m."""

    def plain(k, m, r):
        return gammaln(k + r) - gammaln(r) - gammaln(k + 1.0) + r * jnp.log(r / (r + m)) + k * jnp.log(m / (r + m))

    def bwd(res, d):
        k, m, r = res
        dm = k / m - (k + r) / (r + m)
        dr = digamma(k + r) - digamma(r) + jnp.log(r / (r + m)) + 1
        return None, d * dm, (d * dr).sum()

    return keeping(plain, bwd), plain, (ids(6, 7), positive(7) + 1, jnp.asarray(2.5, SINGLE))


@right("judge 13")
def von_mises_scaled_bessel_ratio():
    """The concentration comes as its logarithm."""

    def plain(x, mu, log_kappa):
        kappa = jnp.exp(log_kappa)
        return kappa * (jnp.cos(x - mu) - 1) - jnp.log(2 * jnp.pi) - jnp.log(i0e(kappa))

    def bwd(r, d):
        x, mu, log_kappa = r
        kappa = jnp.exp(log_kappa)
        s = kappa * jnp.sin(x - mu) * d
        ratio = i1e(kappa) / i0e(kappa)
        dk = d * kappa * (jnp.cos(x - mu) - ratio)
        return unbroadcast(-s, x.shape), unbroadcast(s, mu.shape), unbroadcast(dk, log_kappa.shape)

    scalars = jnp.asarray(0.4, SINGLE), jnp.asarray(1.1, SINGLE)
    return keeping(plain, bwd), plain, (uniform(-3, 3, 6, seed=101), *scalars)


@right("judge 13")
def log_ndtr_in_log_space():
    def fwd(x):
        y = log_ndtr(x)
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        return (d * jnp.exp(-0.5 * x * x - y - 0.9189385332),)

    return written(fwd, bwd), log_ndtr, (2 * example(9, seed=111),)


@right("judge 13")
def poisson_counts_log_rate():
    """Counts are integers and have no gradient; the mean is over all of them."""

    def plain(counts, log_rate):
        k = counts.astype(log_rate.dtype)
        return jnp.mean(k * log_rate - jnp.exp(log_rate) - gammaln(k + 1))

    def bwd(r, d):
        counts, log_rate = r
        g = counts - jnp.exp(log_rate)
        return None, unbroadcast(d / g.size * g, log_rate.shape)

    return keeping(plain, bwd), plain, (ids(9, 4, 3), example(4, 3, seed=121))


@right("judge 13")
def mixture_log_density_by_responsibility():
    """Gaussian mixture of scalars; the weights come as log-weights that need not be normalized."""

    def terms(x, logit, mu, log_s):
        z = (x[:, None] - mu) * jnp.exp(-log_s)
        return logit - 0.5 * z * z - log_s, z

    def plain(x, logit, mu, log_s):
        return (logsumexp(terms(x, logit, mu, log_s)[0], axis=1) - logsumexp(logit)).sum()

    def fwd(x, logit, mu, log_s):
        t, z = terms(x, logit, mu, log_s)
        return (logsumexp(t, axis=1) - logsumexp(logit)).sum(), (jax.nn.softmax(t, 1), z, logit, log_s)

    def bwd(r, d):
        p, z, logit, log_s = r
        pull = d * p * z * jnp.exp(-log_s)
        dlogit = d * (p.sum(0) - p.shape[0] * jax.nn.softmax(logit))
        return -pull.sum(1), dlogit, pull.sum(0), d * (p * (z * z - 1)).sum(0)

    args = example(6, seed=131), example(3, seed=132), example(3, seed=133), 0.3 * example(3, seed=134)
    return written(fwd, bwd), plain, args
