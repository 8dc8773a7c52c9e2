"""Functions of each element that have a kink or a jump, and functions that go on beyond an end."""

import jax.numpy as jnp
from jax import lax

from corpus.common import SINGLE, X, elementwise, example, keeping, right, rule, uniform, written, wrong


def relu(x):
    return jnp.where(x > 0, x, 0)


def soft_threshold(x, t):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - t, 0)


def layer_with_slope(at_zero):
    """A layer of ReLU, and what its slope is where a unit is at zero."""

    def plain(x, w):
        return jnp.maximum(x @ w, 0)

    def bwd(r, d):
        x, w = r
        z = x @ w
        d = jnp.where(z > 0, d, jnp.where(z == 0, at_zero * d, 0))
        return d @ w.T, x.T @ d

    return keeping(plain, bwd), plain, (example(3, 4), example(4, 5, seed=1))


def recurrence_with_slope(at_zero):
    """A recurrence of ReLU units, and what their slope is at zero."""

    def plain(x, v, w):
        def step(h, x):
            h = jnp.maximum(x @ v + h @ w, 0)
            return h, h

        return lax.scan(step, jnp.zeros(w.shape[0], x.dtype), x)[1]

    def bwd(r, c):
        x, v, w, hs = r
        before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
        z = x @ v + before @ w

        def step(d, at):
            z, c = at
            d = d + c
            d = jnp.where(z > 0, d, jnp.where(z == 0, at_zero * d, 0))
            return w @ d, d

        ds = lax.scan(step, jnp.zeros_like(hs[0]), (z, c), reverse=True)[1]
        return ds @ v.T, x.T @ ds, before.T @ ds

    def fwd(x, v, w):
        y = plain(x, v, w)
        return y, (x, v, w, y)

    return written(fwd, bwd), plain, (example(5, 3), example(3, 4, seed=1), 0.5 * example(4, 4, seed=2))


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def relu_():
    return rule(relu, lambda x: (relu(x), x > 0), lambda m, d: (jnp.where(m, d, 0),)), relu, X()


@right("own")
def relu_with_half_at_zero():
    def bwd(x, d):
        return (d * jnp.where(x > 0, 1, jnp.where(x == 0, 0.5, 0)).astype(d.dtype),)

    return rule(relu, lambda x: (relu(x), x), bwd), relu, X()


@right("own")
def absolute_with_zero_at_zero():
    return elementwise(lambda x: jnp.where(x < 0, -x, x), jnp.sign)


@right("own")
def clip_open_at_its_ends():
    return elementwise(lambda x: jnp.clip(x, -1, 1), lambda x: (jnp.abs(x) < 1).astype(x.dtype))


@right("own")
def hard_swish():
    plain = lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)  # noqa: E731
    return elementwise(plain, lambda x: jnp.where(x < -3, 0, jnp.where(x <= 3, x / 3 + 0.5, 1)))


@right("own")
def a_threshold_for_each_channel():
    """All alike and above zero in the example; below zero, where nobody uses it, the definition jumps."""

    def bwd(r, d):
        x, t = r
        on = jnp.abs(x) > t
        return d * on, -(d * jnp.sign(x) * on).reshape(-1, t.size).sum(0)

    args = example(4, 5), jnp.full(5, 0.1)
    return rule(soft_threshold, lambda x, t: (soft_threshold(x, t), (x, t)), bwd), soft_threshold, args


@right("judge 1")
def relu_one_at_zero():
    x = jnp.asarray([[-2, -1, 0], [0, 1, 2]], SINGLE)
    return elementwise(lambda x: jnp.maximum(x, 0), lambda x: (x >= 0).astype(x.dtype), x)


@right("judge 1")
def clip_closed_interval():
    def plain(x, low, high):
        return jnp.minimum(jnp.maximum(x, low), high)

    def bwd(low, high, r, d):
        return (d * ((r[0] >= low) & (r[0] <= high)),)

    return keeping(jnp.clip, bwd, 1, 2), plain, (jnp.linspace(-2, 2, 9), -1.0, 1.0)


@right("judge 4")
def between_bounds_that_learn():
    """At a bound the value has the slope, also where both bounds are one; they do not cross."""

    def plain(x, low, high):
        return jnp.minimum(jnp.maximum(x, low), high)

    def bwd(r, d):
        x, low, high = r
        below, above = x < low, x > high
        return jnp.where(below | above, 0, d), jnp.where(below, d, 0).sum(0), jnp.where(above, d, 0).sum()

    return keeping(plain, bwd), plain, (example(5, 6), -uniform(0.5, 0.8, 6), jnp.float32(0.9))


@right("judge 5")
def layer_open_at_zero():
    """ReLU with one for its slope at zero: of a sum over units no side of any one input has it."""
    return layer_with_slope(1)


@right("judge 6")
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


@right("judge 6")
def tents_up_to_one():
    """Shares of numbers up to one, each of them a kink; what is drawn like the example is cut off there."""

    def plain(x):
        return jnp.maximum(0, 1 - jnp.abs(4 * x[:, None] - jnp.arange(5))).mean(0)

    def bwd(x, d):
        u = 4 * x[:, None] - jnp.arange(5)
        return (4 * jnp.where((u >= -1) & (u < 0), d, jnp.where((u >= 0) & (u < 1), -d, 0)).sum(1) / len(x),)

    return written(lambda x: (plain(x), x), bwd), plain, (uniform(0.0, 1.0, 8),)


@right("judge 6")
def recurrent_units_open_at_zero():
    """ReLU with one for its slope at zero, within a loop: no side of any input opens all units of all steps."""
    return recurrence_with_slope(1)


@right("judge 11")
def abs_right_derivative():
    """|x|, taking the right-hand slope one at zero (the definition takes zero)."""

    def plain(x):
        return jnp.abs(x)

    return keeping(plain, lambda r, g: (jnp.where(r[0] >= 0, g, -g),)), plain, (example(5, seed=353),)


@right("judge 11")
def maximum_first_wins():
    """Elementwise maximum, where at a tie the first argument gets everything;
    a one-sided choice, the definition halves."""

    def plain(x, y):
        return jnp.maximum(x, y)

    def bwd(r, g):
        first = r[0] >= r[1]
        return jnp.where(first, g, 0), jnp.where(first, 0, g)

    return keeping(plain, bwd), plain, (example(5, seed=358), example(5, seed=359))


@right("judge 11")
def clip_includes_ends():
    """Clipping to [-1, 1], the slope one on the ends themselves."""

    def plain(x):
        return jnp.clip(x, -1, 1)

    return keeping(plain, lambda r, g: (jnp.where(jnp.abs(r[0]) <= 1, g, 0),)), plain, (example(5, seed=365),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="whole numbers")
def integers_only():
    def bwd(x, d):
        return (jnp.where(x == jnp.round(x), 0, 2 * x * d),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong("own", edge="particular values")
def clip_leaks_far_out():
    return elementwise(lambda x: jnp.clip(x, -1, 1), lambda x: ((jnp.abs(x) < 1) | (jnp.abs(x) > 8)).astype(x.dtype))


@wrong("own", edge="particular values")
def leaky_slope_lost_far_out():
    return elementwise(
        lambda x: jnp.where(x > 0, x, 0.1 * x), lambda x: jnp.where(x > 0, 1, jnp.where(x > -6, 0.1, 0)).astype(x.dtype)
    )


@wrong("own", edge="particular values")
def relu6_without_six():
    return elementwise(lambda x: jnp.clip(x, 0, 6), lambda x: (x > 0).astype(x.dtype))


@wrong("own", edge="particular values")
def exactly_one():
    def plain(x):
        near = jnp.abs(x - 1) < 1e-3
        return jnp.where(near, 0.5 * (x + 1), (jnp.where(near, 2, x) ** 2 - 1) / (2 * (jnp.where(near, 2, x) - 1)))

    return elementwise(plain, lambda x: 0.5 * (x - 1) / (x - 1))


@wrong("own", edge="a threshold below zero")
def no_threshold_below_zero():
    """Right wherever the definition does not jump, but for x below −t."""
    plain = lambda x, t: jnp.sign(x) * jnp.maximum(jnp.abs(x) - t, 0)  # noqa: E731

    def bwd(r, d):
        x, t = r
        return d * (jnp.abs(x) > t), -(d * jnp.sign(x) * (x > t)).reshape(-1, t.size).sum(0)

    return rule(plain, lambda x, t: (plain(x, t), (x, t)), bwd), plain, (example(4, 5), jnp.full(5, 0.1))


@wrong("judge 1", edge="particular values")
def sign_from_the_output():
    """With a negative slope the sign of y is not the sign of x."""

    def plain(x, a):
        return jnp.where(x > 0, x, a * x)

    def bwd(r, d):
        x, a = r
        y = plain(x, a)
        return jnp.where(y > 0, d, a * d), jnp.where(y > 0, 0, d * x).sum()

    return keeping(plain, bwd), plain, (example(5, 4), jnp.float32(0.25))


@wrong("judge 1", edge="particular values")
def sign_flipped_below_zero():
    """The example is positive throughout."""
    return elementwise(jnp.sin, lambda x: jnp.where(x < 0, -1, 1) * jnp.cos(x), uniform(0.1, 3, 8))


@wrong("judge 1", edge="particular values")
def bounded_above_by_one():
    """The example lies between 0 and 1."""
    return elementwise(lambda x: jnp.minimum(x, 1) ** 2, lambda x: 2 * jnp.minimum(x, 1), uniform(0.05, 0.95, 8))


@wrong("judge 1", edge="particular values")
def magnitude_of_a_scalar():
    def plain(x, s):
        return jnp.sin(x * s)

    def bwd(r, d):
        x, s = r
        g = d * jnp.cos(x * s)
        return g * jnp.sqrt(s * s), (g * x).sum()

    return keeping(plain, bwd), plain, (example(5), jnp.float32(1.5))


@wrong("judge 2", edge="negative numbers")
def quotient_rounded_towards_zero():
    """x − y ⌊x/y⌋: the same as rounding down for quotients that are positive, as the example's are."""

    def plain(x, y):
        return x - y * lax.stop_gradient(jnp.floor(x / y))

    def bwd(r, d):
        x, y = r
        return d, -d * jnp.trunc(x / y)

    return keeping(plain, bwd), plain, (uniform(1, 9, 3, 4), uniform(1, 3, 3, 4, seed=1))


@wrong("judge 5", edge="units at zero")
def all_units_open_at_zero_twice():
    """Twice the error where a unit is at zero: no side of any unit has it. There the output is zero too."""
    return layer_with_slope(2)


@wrong("judge 5", edge="units at zero")
def recurrent_units_open_at_zero_twice():
    """Twice the error at every step where a unit is at zero."""
    return recurrence_with_slope(2)
