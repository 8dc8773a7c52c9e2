"""Special functions, entropies, and series near a point."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import lax
from jax.scipy import special as jsp

from corpus.common import (
    elementwise,
    example,
    floats,
    keeping,
    positive,
    probabilities,
    right,
    rule,
    simplex,
    uniform,
    written,
    wrong,
)

# right ----------------------------------------------------------------------------------------------------------------


@right("judge 1")
def log_sigmoid_vs_naive():
    """The definition overflows where the rule does not."""

    def bwd(r, d):
        z = jnp.exp(-jnp.abs(r[0]))
        return (d * jnp.where(r[0] >= 0, z, 1) / (1 + z),)

    def forward(x):
        return jnp.minimum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x)))

    return keeping(forward, bwd), lambda x: jnp.log(1 / (1 + jnp.exp(-x))), (example(3, 7, scale=4),)


@right("judge 1")
def divergence_of_probabilities():
    def plain(p, q):
        return (p * jnp.log(p / q)).sum(-1)

    def bwd(r, d):
        p, q = r
        d = d[..., None]
        return d * (jnp.log(p) - jnp.log(q) + 1), -d * p / q

    return keeping(plain, bwd), plain, (simplex(4, 6), simplex(4, 6, seed=1))


@right("judge 1")
def lambert_w():
    """Halley's iteration for w e^w = x; in the backward pass the inverse function's slope."""

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


@right("judge 1")
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


@right("judge 1")
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


@right("judge 11")
def log_ndtr_mills():
    """log of the normal distribution function; the ratio pdf/cdf through logs, so
    that the tail is right. Probit losses."""

    def plain(x):
        return jsp.log_ndtr(x)

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = plain(x)
        return y, (x, y)

    f.defvjp(
        fwd, lambda r, g: (g * jnp.exp(-0.5 * r[0] ** 2 - np.asarray(0.5 * np.log(2 * np.pi), r[0].dtype) - r[1]),)
    )
    return f, plain, (example(5, seed=315),)


@right("judge 11")
def sinc_series_near_zero():
    """sin(pi x)/(pi x); near zero a series in both the value and the slope, so
    that the second derivative is right as well."""

    def plain(x):
        return jnp.sinc(x)

    @jax.custom_jvp
    def f(x):
        return jnp.sinc(x)

    @f.defjvp
    def _(p, t):
        x = p[0]
        z = jnp.pi * x
        small = jnp.abs(z) < 0.3
        zs = jnp.where(small, 1, z)
        z2 = z * z
        ser = z * (-1 / 3 + z2 * (1 / 30 + z2 * (-1 / 840 + z2 * (1 / 45360 - z2 / 3991680))))
        d = jnp.where(small, ser, (zs * jnp.cos(zs) - jnp.sin(zs)) / (zs * zs))
        return f(x), (jnp.pi * d * t[0]).astype(x.dtype)

    return f, plain, (floats(0.3, -1.2, 0.8),)


@right("judge 11")
def black_scholes_call():
    """Call price for positive prices and volatilities, as shown, with dividends."""
    t, r, q = 0.8, 0.03, 0.1

    def d1(s, k, v):
        return (jnp.log(s / k) + (r - q + 0.5 * v * v) * t) / (v * float(np.sqrt(t)))

    def plain(s, k, v):
        a = d1(s, k, v)
        return s * float(np.exp(-q * t)) * jsp.ndtr(a) - k * float(np.exp(-r * t)) * jsp.ndtr(a - v * float(np.sqrt(t)))

    def bwd(res, g):
        s, k, v = res
        a = d1(s, k, v)
        vega = s * float(np.exp(-q * t)) * float(np.sqrt(t)) * jnp.exp(-0.5 * a * a) / float(np.sqrt(2 * np.pi))
        return (
            g * float(np.exp(-q * t)) * jsp.ndtr(a),
            -g * float(np.exp(-r * t)) * jsp.ndtr(a - v * float(np.sqrt(t))),
            g * vega,
        )

    return keeping(plain, bwd), plain, (floats(100, 110), floats(95, 100), floats(0.2, 0.3))


@right("judge 11")
def annuity_series():
    """Continuous annuity (1-exp(-rT))/r, series near zero, -T**2/2 at r = 0."""

    def split(x):
        small = jnp.abs(x) < 2e-2
        return small, jnp.where(small, 1.0, x)

    def plain(r, t):
        x = r * t
        small, xs = split(x)
        return t * jnp.where(small, 1 - x / 2 + x * x / 6 - x**3 / 24 + x**4 / 120, -jnp.expm1(-xs) / xs)

    def bwd(res, g):
        r, t = res
        x = r * t
        small, xs = split(x)
        d = jnp.where(
            small, -0.5 + x / 3 - x * x / 8 + x**3 / 30 - x**4 / 144, (xs * jnp.exp(-xs) + jnp.expm1(-xs)) / xs**2
        )
        return g * t * t * d, g * jnp.exp(-x)

    return keeping(plain, bwd), plain, (floats(0.05, 0.03), floats(5.0, 10.0))


@right("judge 11")
def entropy_with_zeros():
    """Entropy of probabilities, 0 log 0 = 0 with slope zero there by the definition's
    double where."""

    def plain(p):
        ok = p > 0
        s = jnp.where(ok, p, 1)
        return -jnp.sum(jnp.where(ok, s * jnp.log(s), 0), -1)

    def bwd(r, g):
        (p,) = r
        ok = p > 0
        return (jnp.where(ok, -g[..., None] * (1 + jnp.log(jnp.where(ok, p, 1))), 0),)

    return keeping(plain, bwd), plain, (probabilities(635, 4),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="particular values")
def entropy_at_zero():
    def plain(p):
        some = p > 0
        return -jnp.where(some, p * jnp.log(jnp.where(some, p, 1)), 0).sum(-1)

    return (
        rule(plain, lambda p: (plain(p), p), lambda p, d: (-d[:, None] * (jnp.log(p) + 1),)),
        plain,
        (positive(4, 5),),
    )


@wrong("judge 1", edge="particular values")
def normal_tail_divides_zeros():
    """The logarithm of the normal distribution function; far to the left its slope is 0/0 in this form."""
    log_cdf = jax.scipy.special.log_ndtr

    def slope(x):
        return jnp.exp(-x * x / 2) / (2 * np.pi) ** 0.5 / (jax.scipy.special.erfc(-x / 2**0.5) / 2)

    return elementwise(log_cdf, slope, example(9))


@wrong("judge 11", edge="second derivative at zero")
def sinc_second_at_zero():
    """sinc whose derivative is guarded by where at zero, so that the next one
    is zero and not -pi**2/3. Re-creates: "jnp.sinc second derivative at 0"."""

    def plain(x):
        return jnp.sinc(x)

    @jax.custom_jvp
    def f(x):
        return jnp.sinc(x)

    @f.defjvp
    def jvp(p, t):
        (x,) = p
        px = jnp.where(x == 0, 1, jnp.pi * x)
        d = jnp.where(x == 0, 0, jnp.pi * (px * jnp.cos(px) - jnp.sin(px)) / px**2)
        return f(x), d * t[0]

    return f, plain, (floats(0.5, 0.3, -1.25),)


@wrong("judge 11", edge="rate zero")
def annuity_rate_zero():
    """Continuous annuity (1-exp(-rT))/r, T at r = 0; the derivative in r is
    called zero there, it is -T**2/2. Finance."""

    def plain(r, t):
        x = r * t
        small = jnp.abs(x) < 1e-2
        xs = jnp.where(small, 1.0, x)
        series = 1 - x / 2 + x * x / 6 - x**3 / 24 + x**4 / 120
        return t * jnp.where(small, series, -jnp.expm1(-xs) / xs)

    def bwd(res, g):
        r, t = res
        x = r * t
        rs = jnp.where(r == 0, 1.0, r)
        e = jnp.exp(-x)
        series = t * t * (-0.5 + x / 3 - x * x / 8 + x**3 / 30)
        dr = jnp.where(jnp.abs(x) < 1e-2, series, (t * e * rs + jnp.expm1(-x)) / rs**2)
        dr = jnp.where(r == 0, 0, dr)
        return g * dr, g * e

    return keeping(plain, bwd), plain, (floats(0.05, 0.03), floats(5.0, 10.0))


@wrong("judge 11", edge="deep in the lower tail")
def log_ndtr_tail():
    """log of the normal distribution function, pdf over cdf in the backward.
    Re-creates: "log_ndtr gradient NaN for very negative input"."""

    def plain(x):
        return jsp.log_ndtr(x)

    def bwd(res, g):
        (x,) = res
        pdf = jnp.exp(-0.5 * x * x) / np.sqrt(2 * np.pi).astype(x.dtype)
        return (g * pdf / (jsp.ndtr(x) + jnp.finfo(x.dtype).tiny),)

    return keeping(plain, bwd), plain, (floats(-2.0, -1.0, 2.0),)


@wrong("judge 11")
def black_scholes_delta():
    """Call price; the delta of the forward, without the dividend's discount."""

    def d1(s, k, v):
        t, r, q = 0.8, 0.03, 0.1
        return (jnp.log(s / k) + (r - q + 0.5 * v * v) * t) / (v * float(np.sqrt(t)))

    def plain(s, k, v):
        t, r, q = 0.8, 0.03, 0.1
        a = d1(s, k, v)
        return s * float(np.exp(-q * t)) * jsp.ndtr(a) - k * float(np.exp(-r * t)) * jsp.ndtr(a - v * float(np.sqrt(t)))

    def bwd(res, g):
        s, k, v = res
        t, r, q = 0.8, 0.03, 0.1
        a = d1(s, k, v)
        vega = s * float(np.exp(-q * t)) * float(np.sqrt(t)) * jnp.exp(-0.5 * a * a) / float(np.sqrt(2 * np.pi))
        return g * jsp.ndtr(a), -g * float(np.exp(-r * t)) * jsp.ndtr(a - v * float(np.sqrt(t))), g * vega

    return keeping(plain, bwd), plain, (floats(100, 90), floats(95, 100), floats(0.2, 0.4))
