"""Smooth functions of each element."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import X, elementwise, example, floats, keeping, positive, right, rule, uniform, written, wrong


def hypotenuse(x, y):
    m = lax.stop_gradient(jnp.maximum(jnp.maximum(jnp.abs(x), jnp.abs(y)), 1e-30))
    return m * jnp.sqrt((x / m) ** 2 + (y / m) ** 2)


def softplus(x):
    return jnp.logaddexp(x, 0.0)


erf = jax.scipy.special.erf


def power(x, p):
    """xᵖ of x ≥ 0."""
    ok = x > 0
    y = jnp.where(ok, x, 1.0) ** p
    return jnp.where(ok, y, jnp.where(p == 1, x, 0.0))


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def softplus_():
    return rule(softplus, lambda x: (softplus(x), x), lambda x, d: (d * jax.nn.sigmoid(x),)), softplus, X()


@right("own")
def tanh_():
    return rule(jnp.tanh, lambda x: (jnp.tanh(x),) * 2, lambda y, d: (d * (1 - y * y),)), jnp.tanh, X()


@right("own")
def gelu_by_tanh():
    c = np.sqrt(2 / np.pi).astype(np.float32).item()

    def plain(x):
        return 0.5 * x * (1 + jnp.tanh(c * (x + 0.044715 * x**3)))

    def slope(x):
        t = jnp.tanh(c * (x + 0.044715 * x * x * x))
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)

    return elementwise(plain, slope)


@right("own")
def gelu_by_erf():
    r2 = 2**0.5
    plain = lambda x: 0.5 * x * (1 + erf(x / r2))  # noqa: E731
    return elementwise(plain, lambda x: 0.5 * (1 + erf(x / r2)) + x * jnp.exp(-x * x / 2) / (2 * np.pi) ** 0.5)


@right("own")
def elu_():
    plain = lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0, x)))  # noqa: E731
    return elementwise(plain, lambda x: jnp.where(x > 0, 1, jnp.exp(jnp.where(x > 0, 0, x))))


@right("own")
def mish():
    def plain(x):
        return x * jnp.tanh(jax.nn.softplus(x))

    def slope(x):
        t = jnp.tanh(jax.nn.softplus(x))
        return t + x * jax.nn.sigmoid(x) * (1 - t * t)

    return elementwise(plain, slope)


@right("own")
def reciprocal_near_zero():
    return elementwise(lambda x: x / (1e-4 + x * x), lambda x: (1e-4 - x * x) / (1e-4 + x * x) ** 2)


@right("own")
def log_cosh():
    return elementwise(lambda x: jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - np.log(2).item(), jnp.tanh)


@right("own")
def logarithm_of_positive():
    return elementwise(jnp.log, lambda x: 1 / x, positive(4, 5))


@right("own")
def log_of_one_minus_exp():
    return elementwise(lambda x: jnp.log(-jnp.expm1(x)), lambda x: 1 / -jnp.expm1(-x), -positive(4, 5))


@right("own")
def logit_of_probabilities():
    p = jax.nn.sigmoid(example(4, 5))
    return elementwise(lambda p: jnp.log(p) - jnp.log1p(-p), lambda p: 1 / (p * (1 - p)), p)


@right("own")
def inverse_sine():
    return elementwise(jnp.arcsin, lambda x: 1 / jnp.sqrt((1 - x) * (1 + x)), jnp.tanh(example(4, 5)))


@right("own")
def power_of_ones():
    """The exponent's example is 1 everywhere, the base is positive and must stay so."""

    def plain(x, p):
        return x**p

    def bwd(r, d):
        x, p = r
        return d * p * x ** (p - 1), (d * x**p * jnp.log(jnp.where(x > 0, x, 1))).sum(0)

    return rule(plain, lambda x, p: (plain(x, p), (x, p)), bwd), plain, (positive(4, 5), jnp.ones(5))


@right("own")
def scale_of_ones_is_positive():
    """A normal's log-density; sigma is given as ones, and negative ones have no logarithm."""

    def plain(x, s):
        return (-0.5 * (x / s) ** 2 - jnp.log(s)).sum()

    def bwd(r, d):
        x, s = r
        return -d * x / s**2, d * (x**2 / s**3 - 1 / s).sum(0)

    return rule(plain, lambda x, s: (plain(x, s), (x, s)), bwd), plain, (example(4, 5), jnp.ones(5))


@right("own")
def difference_of_squares():
    """Cancels: x² − y² with x close to y."""

    def plain(x, y):
        return (x * x - y * y) / (x + y)

    x = 10 + example(8)
    f = rule(plain, lambda x, y: (plain(x, y), None), lambda _, d: (d, -d))
    return f, plain, (x, x + 1e-3 * example(8, seed=1))


@right("judge 2")
def folded_angle():
    """The angle that has this sine: the angle itself in the example, and another one beyond a right angle."""
    plain = jnp.positive
    return (
        written(lambda x: (jnp.arcsin(jnp.sin(x)), x), lambda x, d: (d * jnp.sign(jnp.cos(x)),)),
        plain,
        (example(8, scale=0.3),),
    )


@right("judge 11")
def softplus_stable():
    """log(1+exp x) which neither overflows nor loses small values; the definition
    is written with logaddexp."""

    def plain(x):
        return jnp.logaddexp(x, 0)

    @jax.custom_jvp
    def f(x):
        return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))

    @f.defjvp
    def _(p, t):
        return f(p[0]), jax.nn.sigmoid(p[0]) * t[0]

    return f, plain, (example(6, seed=310),)


@right("judge 11")
def log1mexp_negative():
    """log(1-exp x), for x < 0 as the example shows; two formulas, which beat the
    definition. Survival probabilities."""

    def plain(x):
        return jnp.log(1 - jnp.exp(x))

    @jax.custom_vjp
    def f(x):
        return jnp.where(x > -0.693, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))

    f.defvjp(lambda x: (f(x), x), lambda x, g: (-g / jnp.expm1(-x),))
    return f, plain, (-uniform(0.1, 3, 5, seed=313),)


@right("judge 11")
def power_with_zero_base():
    """x**p for x >= 0; at zero the slope one for p = 1 and zero above."""

    plain = power

    def bwd(r, g):
        x, p = r
        ok = x > 0
        xs = jnp.where(ok, x, 1)
        dx = jnp.where(ok, p * xs ** (p - 1), (p == 1).astype(x.dtype))
        return g * dx, g * jnp.where(ok, xs**p * jnp.log(xs), 0)

    return keeping(plain, bwd), plain, (floats(0.3, 0.5, 2.0), floats(1.0, 1.5, 3.0))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="large values")
def exp_overflows():
    def bwd(x, d):
        return (d * jnp.exp(x) / (1 + jnp.exp(x)),)

    return rule(softplus, lambda x: (softplus(x), x), bwd), softplus, X()


@wrong("own", edge="values beyond 3.8")
def saturated():
    def bwd(y, d):
        return (d * jnp.where(jnp.abs(y) > 0.999, 0.1, 1 - y * y),)

    return rule(jnp.tanh, lambda x: (jnp.tanh(x),) * 2, bwd), jnp.tanh, X()


@wrong("own", edge="particular values")
def smooth_abs_at_zero():
    return elementwise(lambda x: jnp.sqrt(x * x + 1e-6), lambda x: x / jnp.abs(x) * jnp.sqrt(x * x / (x * x + 1e-6)))


@wrong("own", edge="particular values")
def expm1_over_x_cancels():
    def plain(x):
        small = jnp.abs(x) < 1e-3
        y = jnp.where(small, 1, x)
        return jnp.where(small, 1 + x / 2 + x * x / 6 + x**3 / 24, jnp.expm1(y) / y)

    return elementwise(plain, lambda x: (x * jnp.exp(x) - jnp.expm1(x)) / (x * x))


@wrong("own", edge="particular values")
def minus_zero():
    return elementwise(jnp.sin, lambda x: jnp.where((x == 0) & jnp.signbit(x), -1, jnp.cos(x)))


@wrong("own", edge="particular values")
def gelu_tail_cut():
    def slope(x):
        g = jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x)
        return jnp.where(x > 3, 1, jnp.where(x < -3, 0, g))

    return elementwise(lambda x: x * jax.scipy.stats.norm.cdf(x), slope)


@wrong("own", edge="particular values")
def narrow_zone():
    return elementwise(jnp.sin, lambda x: jnp.where((x > 4.5) & (x < 5.5), 0, jnp.cos(x)))


@wrong("own", edge="particular values")
def negative_side_saturates():
    s = jax.nn.sigmoid
    return elementwise(s, lambda x: jnp.where(s(x) < 1e-3, 0, s(x) * (1 - s(x))))


@wrong("own", edge="particular values")
def hypotenuse_overflows():
    def plain(x, y):
        return jnp.hypot(x, y)

    def bwd(r, d):
        x, y = r
        n = jnp.sqrt(x * x + y * y)
        return d * x / n, d * y / n

    return rule(plain, lambda x, y: (plain(x, y), (x, y)), bwd), hypotenuse, (example(6), example(6, seed=1))


@wrong("own", edge="particular values")
def large_values_are_cut():
    return elementwise(lambda x: x**3, lambda x: 3 * jnp.minimum(x * x, 1e4))


@wrong("judge 1", edge="particular values")
def gate_from_the_output():
    """The sigmoid of x is recovered from y/x, which saves memory and is 0/0 at zero."""

    def bwd(r, d):
        x, y = r
        s = y / x
        return (d * (s + y * (1 - s)),)

    def fwd(x):
        y = x * jax.nn.sigmoid(x)
        return y, (x, y)

    return written(fwd, bwd), lambda x: x / (1 + jnp.exp(-x)), (example(4, 6),)


@wrong("judge 1", edge="particular values")
def exponent_at_zero():
    def bwd(r, d):
        x, p = r
        return d * p * x ** (p - 1), d * x**p * jnp.log(x)

    return keeping(jnp.power, bwd), jnp.power, (uniform(0.2, 2, 9), uniform(1, 3, 9, seed=1))


@wrong("judge 1", edge="particular values")
def angle_by_the_quotient():
    def bwd(r, d):
        y, x = r
        t = y / x
        g = d / (1 + t * t)
        return g / x, -g * t / x

    return keeping(jnp.arctan2, bwd), jnp.arctan2, (example(8), example(8, seed=1))


@wrong("judge 1", edge="particular values")
def hypot_backward_overflow():
    """The forward pass is scaled by the larger; in the backward pass the squares overflow, and what is left is zero."""

    def bwd(r, d):
        x, y = r
        i = lax.rsqrt(x * x + y * y)
        return d * x * i, d * y * i

    return keeping(hypotenuse, bwd), hypotenuse, (example(8), example(8, seed=1))


@wrong("judge 1", edge="particular values")
def forward_that_clips():
    """What the rule's forward gives is not what the function gives, far from zero."""

    def plain(x):
        return x / (1 + x * x)

    def fwd(x):
        return plain(jnp.clip(x, -5, 5)), x

    f = jax.custom_vjp(plain)
    f.defvjp(fwd, lambda x, d: (d * (1 - x * x) / (1 + x * x) ** 2,))
    return f, plain, (example(4, 5),)


@wrong("judge 11", edge="base zero with exponent one")
def power_zero_base():
    """x**p for x >= 0, the derivative in x set to zero at x = 0 for every p.
    Re-creates: "gradient of pow at zero"."""

    plain = power

    def bwd(res, g):
        x, p = res
        ok = x > 0
        xs = jnp.where(ok, x, 1.0)
        dx = jnp.where(ok, p * xs ** (p - 1), 0)
        dp = jnp.where(ok, xs**p * jnp.log(xs), 0)
        return g * dx, g * dp

    return keeping(plain, bwd), plain, (floats(0.3, 0.5, 2.0), floats(1.0, 1.0, 1.5))
