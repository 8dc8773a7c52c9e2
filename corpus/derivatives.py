"""Rules of forward mode, second derivatives and symbolic zeros."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import X, elementwise, example, keeping, positive, right, rule, uniform, written, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def jvp_rule():
    @jax.custom_jvp
    def f(x):
        return x * jax.nn.sigmoid(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        s = jax.nn.sigmoid(x)
        return x * s, t * s * (1 + x * (1 - s))

    return f, lambda x: x / (1 + jnp.exp(-x)), X()


@right("own")
def symbolic_zeros():
    @jax.custom_vjp
    def f(x, w):
        return x @ w, jnp.tanh(x)

    def fwd(x, w):
        return f(x.value, w.value), (x.value, w.value, jnp.tanh(x.value))

    def bwd(r, ds):
        x, w, y = r
        zero = lambda d: isinstance(d, jax.custom_derivatives.SymbolicZero)  # noqa: E731
        dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
        if not zero(ds[0]):
            dx, dw = ds[0] @ w.T, x.T @ ds[0]
        return (dx if zero(ds[1]) else dx + ds[1] * (1 - y * y)), dw

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, lambda x, w: (x @ w, jnp.tanh(x)), (example(4, 5), example(5, 3, seed=1))


@right("own")
def not_twice():
    """A backward pass through the host, which cannot be differentiated again."""

    def bwd(x, d):
        host = lambda x, d: 2 * np.asarray(x) * np.asarray(d)  # noqa: E731
        return (jax.pure_callback(host, jax.ShapeDtypeStruct(d.shape, d.dtype), x, d, vmap_method="broadcast_all"),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@right("own")
def jvp_of_two():
    @jax.custom_jvp
    def f(x, y):
        return jnp.logaddexp(x, y)

    @f.defjvp
    def _(primals, tangents):
        (x, y), (s, t) = primals, tangents
        p = jax.nn.sigmoid(x - y)
        return f(x, y), p * s + (1 - p) * t

    return (
        f,
        lambda x, y: jnp.maximum(x, y) + jnp.log1p(jnp.exp(-jnp.abs(x - y))),
        (example(4, 5), example(4, 5, seed=1)),
    )


@right("judge 1")
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


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def jvp_rule_wrong():
    @jax.custom_jvp
    def f(x):
        return x * jax.nn.sigmoid(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        s = jax.nn.sigmoid(x)
        return x * s, t * s * (1 + (1 - s))

    return f, lambda x: x / (1 + jnp.exp(-x)), X()


@wrong("own", edge="a transformation")
def second_derivative_stopped():
    plain = lambda x: x**3  # noqa: E731
    return elementwise(plain, lambda x: 3 * lax.stop_gradient(x) ** 2)


@wrong("own", edge="a transformation")
def second_derivative_of_a_jvp():
    @jax.custom_jvp
    def f(x):
        return jnp.exp(x) * x

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), t * (lax.stop_gradient(jnp.exp(x)) * (1 + x))

    return f, lambda x: jnp.exp(x) * x, X()


@wrong("own", edge="a transformation")
def symbolic_zeros_swapped():
    """Where only one output has a cotangent, the other's factor is used."""

    @jax.custom_vjp
    def f(x):
        return x * x, jnp.sin(x)

    def fwd(x):
        return f(x.value), x.value

    def bwd(x, ds):
        a, b = ds
        none = jax.custom_derivatives.SymbolicZero
        if isinstance(a, none) and not isinstance(b, none):
            return (2 * x * b,)
        if isinstance(b, none) and not isinstance(a, none):
            return (2 * x * a,)
        if isinstance(a, none):
            return (jnp.zeros_like(x),)
        return (2 * x * a + jnp.cos(x) * b,)

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, lambda x: (x * x, jnp.sin(x)), X()


@wrong("own", edge="a transformation")
def unperturbed_argument():
    """Where only the weights are differentiated, their cotangent is lost with x's."""

    @jax.custom_vjp
    def f(x, w):
        return x @ w

    def fwd(x, w):
        return x.value @ w.value, (x.value, w.value, None if x.perturbed else ())

    def bwd(r, d):
        x, w, skip = r
        d = jnp.zeros(x.shape[:-1] + w.shape[-1:], x.dtype) if isinstance(d, jax.custom_derivatives.SymbolicZero) else d
        return d @ w.T, x.T @ d if skip is None else 0.5 * (x.T @ d)

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, lambda x, w: x @ w, (example(4, 5), example(5, 3, seed=1))


@wrong("own")
def jvp_of_the_second_argument():
    @jax.custom_jvp
    def f(x, y):
        return x * jnp.exp(-y)

    @f.defjvp
    def _(primals, tangents):
        (x, y), (s, t) = primals, tangents
        return f(x, y), s * jnp.exp(-y) - jnp.where(x < 5, t * x * jnp.exp(-y), 0.9 * t * x * jnp.exp(-y))

    return f, lambda x, y: x * jnp.exp(-y), (positive(4, 5), example(4, 5, seed=1))


@wrong("own", edge="zero")
def jvp_at_zero():
    @jax.custom_jvp
    def f(x):
        return jnp.sqrt(x * x + 1e-6)

    @f.defjvp
    def _(primals, tangents):
        return f(*primals), tangents[0] * primals[0] / jnp.abs(primals[0]) * jnp.abs(primals[0]) / f(*primals)

    return f, lambda x: jnp.sqrt(x * x + 1e-6), X()


@wrong("judge 1")
def jvp_divided_by_the_sharpness():
    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def f(x, beta):
        return jax.nn.softplus(beta * x) / beta

    @f.defjvp
    def _(beta, primals, tangents):
        return f(primals[0], beta), tangents[0] * jax.nn.sigmoid(beta * primals[0]) / beta

    return f, lambda x, beta: jnp.log1p(jnp.exp(beta * x)) / beta, (example(20), 2.0)


@wrong("judge 1", edge="a transformation or another call")
def second_derivative_without_its_two():
    """The backward pass has a rule of its own."""

    def slope(y, d):
        return d * (1 - y * y)

    def slope_bwd(r, c):
        y, d = r
        return -y * d * c, c * (1 - y * y)

    inner = keeping(slope, slope_bwd)
    return written(lambda x: (jnp.tanh(x),) * 2, lambda y, d: (inner(y, d),)), jnp.tanh, (example(10),)


@wrong("judge 1", edge="a transformation or another call")
def mixed_second_derivative_lost():
    def plain(x, w):
        return jnp.sin(x) * jnp.exp(w)

    def bwd(r, d):
        x, w = r
        return d * jnp.cos(x) * jnp.exp(lax.stop_gradient(w)), d * jnp.sin(x) * jnp.exp(w)

    return keeping(plain, bwd), plain, (example(8), example(8, seed=1))


@wrong("judge 1", edge="a transformation or another call")
def frozen_input_takes_the_other_with_it():
    """Each gradient needs the other input; what is kept is the input's own."""

    def plain(x, w):
        return jnp.tanh(x @ w)

    @jax.custom_vjp
    def f(x, w):
        return plain(x, w)

    def fwd(x, w):
        kept = tuple(v.value if v.perturbed else None for v in (x, w))
        return plain(x.value, w.value), (
            *kept,
            jnp.zeros_like(x.value),
            jnp.zeros_like(w.value),
            plain(x.value, w.value),
        )

    def bwd(r, d):
        x, w, dx, dw, h = r
        if isinstance(d, jax.custom_derivatives.SymbolicZero):
            return dx, dw
        g = d * (1 - h * h)
        return dx if w is None else g @ w.T, dw if x is None else x.T @ g

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, plain, (example(4, 5), 0.5 * example(5, 3, seed=1))


@wrong("judge 11", edge="second order")
def softplus_frozen_slope():
    """softplus whose slope is computed by the forward and frozen.
    Re-creates: "Incorrect second derivative of softmax cross entropy" (TF 7403)."""

    def plain(x):
        return jnp.logaddexp(x, 0.0)

    f = jax.custom_vjp(plain)
    f.defvjp(lambda x: (plain(x), lax.stop_gradient(jax.nn.sigmoid(x))), lambda s, g: (g * s,))
    return f, plain, (example(5, seed=175),)


@wrong("judge 11", edge="second order")
def product_double_backward():
    """x*y*y; the backward is a kernel with its own rule, which forgets the
    derivative by y. Re-creates: "double backward missing the weight term"."""

    @jax.custom_vjp
    def back(g, x, y):
        return g * y * y, 2 * g * x * y

    def back_fwd(g, x, y):
        return back(g, x, y), (g, x, y)

    def back_bwd(res, gg):
        g, x, y = res
        a, b = gg
        return a * y * y + 2 * b * x * y, 2 * b * g * y, 2 * b * g * x

    back.defvjp(back_fwd, back_bwd)

    def plain(x, y):
        return x * y * y

    def bwd(res, g):
        return back(g, *res)

    return keeping(plain, bwd), plain, (example(4, seed=178), example(4, seed=179))


@wrong("judge 11", edge="second order")
def reciprocal_saved_output():
    """1/x + x by its saved reciprocal, saved through stop_gradient "to save memory".
    Re-creates pytorch 76185 (intermediates saved in forward)."""

    def plain(x):
        return 1 / x + x

    f = jax.custom_vjp(plain)

    def fwd(x):
        r = 1 / x
        return r + x, (lax.stop_gradient(r), x)

    def bwd(res, g):
        r, x = res
        return (g * (1 - r / x),)

    f.defvjp(fwd, bwd)
    return f, plain, (uniform(0.5, 2, 4, seed=181),)
