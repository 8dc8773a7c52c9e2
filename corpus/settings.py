"""Arguments that are not differentiated, and settings at their defaults."""

from functools import partial

import jax
import jax.numpy as jnp

from corpus.common import X, example, keeping, right, rule, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def scaled_by_python_number():
    @jax.custom_vjp
    def f(x, scale):
        return x * x * scale

    f.defvjp(lambda x, scale: (x * x * scale, (x, scale)), lambda r, d: (2 * d * r[0] * r[1], (d * r[0] ** 2).sum()))
    return f, lambda x, scale: x * x * scale, (example(3, 4), 0.5)


@right("own")
def only_multiples_of_two():
    """Refuses what it was not written for, in the forward pass."""

    def plain(x):
        a, b = jnp.split(x, 2, -1)
        return a * jax.nn.sigmoid(b)

    def bwd(x, d):
        a, b = jnp.split(x, 2, -1)
        s = jax.nn.sigmoid(b)
        return (jnp.concatenate([d * s, d * a * s * (1 - s)], -1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@right("own")
def slope_as_a_setting():
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, slope):
        return jnp.where(x > 0, x, slope * x)

    f.defvjp(lambda x, s: (f(x, s), x), lambda s, x, d: (jnp.where(x > 0, d, s * d),))
    return f, lambda x, slope: jnp.where(x > 0, x, slope * x), (example(4, 6), 0.1)


@right("own")
def axis_as_a_setting():
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, axis):
        return jax.nn.softmax(x, axis)

    f.defvjp(lambda x, a: (f(x, a),) * 2, lambda a, y, d: (y * (d - (y * d).sum(a, keepdims=True)),))

    def plain(x, axis):
        e = jnp.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return f, plain, (example(4, 5), -1)


@right("own")
def groups_as_a_setting():
    def plain(x, groups):
        w = x.reshape(x.shape[0], groups, -1)
        return (w - w.mean(-1, keepdims=True)).reshape(x.shape)

    f = partial(jax.custom_vjp, nondiff_argnums=(1,))(plain)
    f.defvjp(lambda x, g: (plain(x, g), None), lambda g, _, d: (plain(d, g),))
    return f, plain, (example(4, 6), 2)


@right("judge 1")
def activation_as_a_setting():
    def plain(activation, x, u, v):
        return activation(x @ u) @ v

    def bwd(activation, r, d):
        x, u, v = r
        h, back = jax.vjp(activation, x @ u)
        (g,) = back(d @ v.T)
        return g @ u.T, x.T @ g, h.T @ d

    return keeping(plain, bwd, 0), plain, (jnp.tanh, example(5, 4), example(4, 6, seed=1), example(6, 3, seed=2))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="another call or setting")
def axis_taken_for_last():
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, axis):
        return jax.nn.softmax(x, axis)

    f.defvjp(lambda x, a: (f(x, a),) * 2, lambda a, y, d: (y * (d - (y * d).sum(-1, keepdims=True)),))
    return f, lambda x, axis: jnp.exp(x) / jnp.exp(x).sum(axis, keepdims=True), (example(4, 5), 1)


@wrong("own", edge="the flag set")
def flag_ignored():
    """With `average` the loss is a mean; the rule always has the sum."""

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, average):
        return (x * x).mean() if average else (x * x).sum()

    f.defvjp(lambda x, a: (f(x, a), x), lambda a, x, d: (2 * x * d,))
    return f, lambda x, average: (x * x).mean() if average else (x * x).sum(), (example(4, 5), False)


@wrong("own", edge="another call or setting")
def scale_as_a_python_number():
    """The scale has a cotangent, and it is half of what is due."""

    @jax.custom_vjp
    def f(x, scale):
        return x * x * scale

    f.defvjp(lambda x, s: (x * x * s, (x, s)), lambda r, d: (2 * d * r[0] * r[1], 0.5 * (d * r[0] ** 2).sum()))
    return f, lambda x, s: x * x * s, (example(3, 4), 0.5)


@wrong("judge 1", edge="a setting that is not its default")
def reduction_string_ignored():
    def plain(x, reduction):
        y = jnp.log1p(x * x)
        return y.mean() if reduction == "mean" else y.sum()

    def bwd(_, r, d):
        return (2 * d * r[0] / (1 + r[0] * r[0]) / r[0].size,)

    return keeping(plain, bwd, 1), plain, (example(8), "mean")


@wrong("judge 1", edge="a setting that is not its default")
def zero_float_coefficient_ignored():
    def plain(x, c):
        return jnp.tanh(x) + c * x * x

    return keeping(plain, lambda c, r, d: (d * (1 - jnp.tanh(r[0]) ** 2),), 1), plain, (example(4, 5), 0.0)


@wrong("judge 1", edge="a setting that is not its default")
def shift_of_zero_assumed():
    def plain(x, shift):
        return jnp.roll(jnp.sin(x), shift, -1)

    return keeping(plain, lambda s, r, d: (d * jnp.cos(r[0]),), 1), plain, (example(4, 5), 0)


@wrong("judge 3", edge="an axis counted from the end")
def axis_counted_from_the_end():
    """The axis comes back to the front where it is counted from the other end; the example's is the last one."""

    def plain(x, axis):
        return jax.nn.logsumexp(x, axis)

    def bwd(axis, r, d):
        (x,) = r
        place = (slice(None),) * axis + (None,)
        return (d[place] * jnp.exp(x - plain(x, axis)[place]),)

    return keeping(plain, bwd, 1), plain, (example(4, 4), 1)
