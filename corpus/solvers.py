"""Fixed points, implicit equations, transport plans and differential equations."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import SINGLE, example, floats, keeping, right, rule, simplex, uniform, written, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def fixed_point():
    """z = tanh(W z + x) by sixty steps; in the backward pass the transposed linear equation."""

    def plain(w, x):
        w = 0.3 * jnp.tanh(w)
        return lax.fori_loop(0, 60, lambda _, z: jnp.tanh(w @ z + x), jnp.zeros_like(x))

    def bwd(r, d):
        w, x, z = r
        s = 1 - z * z
        a = jnp.eye(len(x), dtype=x.dtype) - (s[:, None] * 0.3 * jnp.tanh(w)).T
        u = s * jnp.linalg.solve(a, d)
        return jnp.outer(u, z) * 0.3 * (1 - jnp.tanh(w) ** 2), u

    return rule(plain, lambda w, x: (plain(w, x), (w, x, plain(w, x))), bwd), plain, (example(3, 3), example(3, seed=1))


@right("judge 1")
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


@right("judge 1")
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


@right("judge 1")
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


@right("judge 1")
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


@right("judge 3")
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


@right("judge 11")
def rk4_step_discrete_adjoint():
    """One RK4 step of a pendulum, its exact discrete adjoint."""
    h = 0.5

    def rhs(y):
        return jnp.stack([y[1], -jnp.sin(y[0]) - 0.1 * y[1]])

    def vj(y, e):
        return jnp.stack([-jnp.cos(y[0]) * e[1], e[0] - 0.1 * e[1]])

    def stages(y):
        y2 = y + 0.5 * h * rhs(y)
        y3 = y + 0.5 * h * rhs(y2)
        return y2, y3, y + h * rhs(y3)

    def plain(y):
        y2, y3, y4 = stages(y)
        return y + h / 6 * (rhs(y) + 2 * rhs(y2) + 2 * rhs(y3) + rhs(y4))

    def bwd(r, g):
        (y,) = r
        y2, y3, y4 = stages(y)
        l4 = vj(y4, h / 6 * g)
        l3 = vj(y3, h / 3 * g + h * l4)
        l2 = vj(y2, h / 3 * g + 0.5 * h * l3)
        l1 = vj(y, h / 6 * g + 0.5 * h * l2)
        return (g + l1 + l2 + l3 + l4,)

    return keeping(plain, bwd), plain, (floats(0.4, 0.9),)


@right("judge 11")
def cube_root_newton():
    """Cube root by Newton in a while loop, for positive numbers as shown; the
    backward by the implicit function."""

    def plain(x):
        def cond(s):
            return (s[1] < 60) & jnp.any(jnp.abs(s[0] ** 3 - x) > 4 * jnp.finfo(x.dtype).eps * x)

        def body(s):
            return s[0] - (s[0] - x / s[0] ** 2) / 3, s[1] + 1

        return lax.while_loop(cond, body, (jnp.maximum(x, 1.0), 0))[0]

    f = jax.custom_vjp(lambda x: jnp.cbrt(x))
    f.defvjp(lambda x: (jnp.cbrt(x), jnp.cbrt(x)), lambda y, g: (g / (3 * y * y),))
    return f, plain, (floats(2.0, 5.0),)


@right("judge 11")
def kepler_implicit():
    """Kepler's equation by fixed Newton steps in fori_loop; slopes from the
    equation itself. Physics, implicit differentiation."""

    def plain(m, e):
        def body(_, x):
            return x - (x - e * jnp.sin(x) - m) / (1 - e * jnp.cos(x))

        return lax.fori_loop(0, 20, body, m + e * jnp.sin(m))

    f = jax.custom_vjp(plain)

    def fwd(m, e):
        x = plain(m, e)
        return x, (x, e)

    def bwd(r, g):
        x, e = r
        d = g / (1 - e * jnp.cos(x))
        return d, d * jnp.sin(x)

    f.defvjp(fwd, bwd)
    return f, plain, (floats(0.5, 1.5), floats(0.3, 0.6))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 11")
def rk4_adjoint_euler():
    """One RK4 step of a pendulum; the adjoint takes an Euler step."""

    def rhs(y):
        return jnp.stack([y[1], -jnp.sin(y[0]) - 0.1 * y[1]])

    def plain(y):
        h = 0.8
        a = rhs(y)
        b = rhs(y + 0.5 * h * a)
        c = rhs(y + 0.5 * h * b)
        d = rhs(y + h * c)
        return y + h / 6 * (a + 2 * b + 2 * c + d)

    def bwd(res, g):
        (y,) = res
        return (g + 0.8 * jax.vjp(rhs, y)[1](g)[0],)

    return keeping(plain, bwd), plain, (floats(0.7, -0.3),)
