"""Likelihoods, transforms of variables and special functions."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import erfinv, gammaincc, gammaln, i0, i1, xlogy

from corpus.common import SINGLE, example, floats, integers, keeping, right, rule, unbroadcast, uniform, wrong


@wrong("judge 15", "a count of zero")
def zero_inflated_counts():
    """A count of zero is taken to be one of the counts, never one of the surplus zeros."""

    def plain(k, a, b):
        n = k.astype(b.dtype)
        counted = jax.nn.log_sigmoid(-a) + n * b - jnp.exp(b) - gammaln(n + 1)
        return jnp.where(k == 0, jnp.logaddexp(jax.nn.log_sigmoid(a), counted), counted)

    def bwd(r, d):
        k, a, b = r
        return None, -d * jax.nn.sigmoid(a), d * (k.astype(b.dtype) - jnp.exp(b))

    return keeping(plain, bwd), plain, (integers(1, 3, 2, 5, 1, 4, 2), example(7), example(7, seed=1, scale=0.5))


@wrong("judge 15", "a power of zero")
def box_cox_slope_from_its_value():
    """The slope is a power of the transformed value, whose base is one for a power of zero."""

    def plain(x, power):
        on = power != 0
        safe = jnp.where(on, power, 1.0)
        return jnp.where(on, jnp.expm1(safe * jnp.log(x)) / safe, jnp.log(x))

    def fwd(x, power):
        y = plain(x, power)
        return y, (x, power, y)

    def bwd(r, d):
        x, power, y = r
        raised, safe = 1 + power * y, jnp.where(power != 0, power, 1.0)
        gp = jnp.where(power != 0, d * (raised * jnp.log(x) - y) / safe, 0.0)
        return d * raised ** (1 - 1 / power), gp.sum()

    return rule(plain, fwd, bwd), plain, (uniform(0.5, 3.0, 6, seed=2), jnp.asarray(0.5, SINGLE))


@wrong("judge 15", "an argument of zero")
def bessel_slope_at_zero():
    """The slope I0 - I1 / x has no value at zero, where its limit is a half."""

    def bwd(r, d):
        x, y = r
        return (d * (i0(x) - y / x),)

    def fwd(x):
        y = i1(x)
        return y, (x, y)

    return rule(i1, fwd, bwd), i1, (example(7, seed=3),)


@wrong("judge 15", "weights whose sum is negative")
def log_of_a_signed_sum():
    """Terms are divided by the absolute value of their sum, and the sign of a negative one is lost."""

    def plain(x, w):
        top = lax.stop_gradient(x.max(-1, keepdims=True))
        return jnp.log(jnp.abs((w * jnp.exp(x - top)).sum(-1))) + top[..., 0]

    def fwd(x, w):
        y = plain(x, w)
        return y, (x, w, y)

    def bwd(r, d):
        x, w, y = r
        g = d[..., None] * jnp.exp(x - y[..., None])
        return w * g, g

    return rule(plain, fwd, bwd), plain, (example(3, 5, seed=4), uniform(0.2, 1.5, 3, 5, seed=5))


@right("judge 15")
def ordered_classes_between_cut_points():
    """Log-probability of the class between two cut points, the outermost of them infinite."""

    def ends(x, cuts, y):
        far = jnp.full((1,), jnp.inf, cuts.dtype)
        at = jnp.concatenate([-far, cuts, far])
        return at[y] - x, at[y + 1] - x

    def plain(x, cuts, y):
        a, b = ends(x, cuts, y)
        return jax.nn.log_sigmoid(b) + jax.nn.log_sigmoid(-a) + jnp.log1p(-jnp.exp(a - b))

    def bwd(r, d):
        x, cuts, y = r
        a, b = ends(x, cuts, y)
        e = jnp.exp(a - b)
        ga, gb = -d * (jax.nn.sigmoid(a) + e / (1 - e)), d * (jax.nn.sigmoid(-b) + e / (1 - e))
        shares = jnp.zeros(cuts.shape[0] + 2, cuts.dtype)
        shares = shares.at[y].add(unbroadcast(ga, y.shape)).at[y + 1].add(unbroadcast(gb, y.shape))
        return unbroadcast(-ga - gb, x.shape), shares[1:-1], None

    return keeping(plain, bwd), plain, (example(6, seed=6), floats(-1.0, 0.2, 1.3), integers(0, 3, 1, 2, 3, 0))


@right("judge 15")
def shares_by_breaking_a_stick():
    """What is left of the stick goes last; the backward pass never divides by what a break has left."""

    def plain(x):
        z, one = jax.nn.sigmoid(x), jnp.ones_like(x[..., :1])
        left = jnp.cumprod(1 - z, -1)
        return jnp.concatenate([z, one], -1) * jnp.concatenate([one, left], -1)

    def bwd(r, d):
        (x,) = r
        z, d = jnp.moveaxis(jax.nn.sigmoid(x), -1, 0), jnp.moveaxis(d, -1, 0)
        before = jnp.concatenate([jnp.ones_like(z[:1]), jnp.cumprod(1 - z, 0)[:-1]])

        def step(g, at):
            share, length, here = at
            return share * here + (1 - share) * g, length * (here - g)

        gz = lax.scan(step, d[-1], (z, before, d[:-1]), reverse=True)[1]
        return (jnp.moveaxis(gz * z * (1 - z), 0, -1),)

    return keeping(plain, bwd), plain, (example(3, 4, seed=7),)


@right("judge 15")
def pinball_at_no_error():
    """Loss of a quantile; where there is no error the slope is half-way between both sides."""

    def plain(e, q):
        return jnp.maximum(q * e, (q - 1) * e)

    def bwd(r, d):
        e, q = r
        slope = q - (1 - jnp.sign(e)) / 2
        return unbroadcast(d * slope, e.shape), unbroadcast(d * e, q.shape)

    return keeping(plain, bwd), plain, (example(4, 5, seed=8).at[1, 2].set(0), jnp.asarray(0.3, SINGLE))


@right("judge 15")
def distribution_of_counts():
    """Probability of at most k events; the slope is minus that of exactly k, by logarithms."""

    def plain(k, rate):
        return gammaincc(k.astype(rate.dtype) + 1, rate)

    def bwd(r, d):
        k, rate = r
        n = k.astype(rate.dtype)
        return None, unbroadcast(-d * jnp.exp(xlogy(n, rate) - rate - gammaln(n + 1)), rate.shape)

    return keeping(plain, bwd), plain, (integers(0, 3, 1, 7, 2), uniform(0.5, 6.0, 5, seed=9))


@right("judge 15")
def ranking_by_repeated_choice():
    """Log-probability that each is chosen before all that come after it, by their scores."""

    def after(s):
        return lax.cumlogsumexp(s, axis=s.ndim - 1, reverse=True)

    def plain(s):
        return (s - after(s)).sum(-1)

    def bwd(r, d):
        (s,) = r
        here = jnp.tri(s.shape[-1], dtype=bool).T
        chosen = jnp.exp(jnp.where(here, s[..., None, :] - after(s)[..., None], -jnp.inf))
        return (d[..., None] * (1 - chosen.sum(-2)),)

    return keeping(plain, bwd), plain, (example(2, 6, seed=10),)


@right("judge 15")
def inverse_error_function_from_its_value():
    """The slope is taken from the value, which alone is kept."""

    def fwd(x):
        y = erfinv(x)
        return y, y

    def bwd(y, d):
        return (d * math.sqrt(math.pi) / 2 * jnp.exp(y * y),)

    return rule(erfinv, fwd, bwd), erfinv, (uniform(-0.95, 0.95, 7, seed=11),)
