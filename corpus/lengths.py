"""Lengths of rows, rows of length one and angles between them."""

import jax
import jax.numpy as jnp

from corpus.common import X, example, floats, keeping, right, rule, written, wrong


def unit(x):
    return x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def unit_fwd(x):
    n = jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)
    return x / n, (x / n, n)


def unit_bwd(r, d):
    y, n = r
    return ((d - y * (d * y).sum(-1, keepdims=True)) / n,)


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def unit_():
    return rule(unit, unit_fwd, unit_bwd), unit, X()


@right("own")
def cosine_similarity():
    def plain(a, b):
        n = lambda v: jnp.sqrt((v * v).sum(-1) + 1e-8)  # noqa: E731
        return (a * b).sum(-1) / (n(a) * n(b))

    def bwd(r, d):
        a, b = r
        na, nb = (jnp.sqrt((v * v).sum(-1, keepdims=True) + 1e-8) for v in (a, b))
        y = (a * b).sum(-1, keepdims=True) / (na * nb)
        d = d[:, None]
        return d * (b / (na * nb) - a * y / na**2), d * (a / (na * nb) - b * y / nb**2)

    return rule(plain, lambda a, b: (plain(a, b), (a, b)), bwd), plain, (example(4, 5), example(4, 5, seed=1))


@right("judge 1")
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


@right("judge 11")
def row_norm_zero_slope():
    """Norm of rows, with the slope zero at a zero row by definition (a where
    inside and outside). Re-creates "gradient of norm at zero row"."""

    def plain(x):
        s = jnp.sum(x * x, -1)
        return jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1)), 0)

    def bwd(res, g):
        (x,) = res
        n = plain(x)[..., None]
        return (jnp.where(n > 0, g[..., None] * x / jnp.where(n > 0, n, 1), 0),)

    return keeping(plain, bwd), plain, (example(4, 3, seed=350),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="a row of zeros")
def nan_at_zero_row():
    def fwd(x):
        return unit(x), x

    def bwd(x, d):
        n = jnp.sqrt((x * x).sum(-1, keepdims=True))
        y = x / n
        return ((d - y * (d * y).sum(-1, keepdims=True)) / jnp.sqrt(n * n + 1e-6),)

    return rule(unit, fwd, bwd), unit, X()


@wrong("own", edge="short rows")
def small_values():
    """A guard against division by zero that is too large."""

    def plain(x):
        return x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-12)

    def fwd(x):
        return plain(x), x

    def bwd(x, d):
        n = jnp.maximum(jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-12), 1e-2)
        y = x / n
        return ((d - y * (d * y).sum(-1, keepdims=True)) / n,)

    return rule(plain, fwd, bwd), plain, X()


@wrong("judge 1", edge="a setting that is not its default")
def norm_of_even_order():
    def plain(x, p):
        return (jnp.abs(x) ** p).sum(-1) ** (1 / p)

    def bwd(p, r, d):
        x = r[0]
        return ((d / plain(x, p) ** (p - 1))[..., None] * x ** (p - 1),)

    return keeping(plain, bwd, 1), plain, (example(3, 4), 2)


@wrong("judge 2", edge="large numbers in half precision")
def lengths_whose_squares_overflow():
    """The cosine between rows: in the backward pass their lengths are found in the rows' own dtype."""

    def lengths(x, y, up):
        return (jnp.sqrt((up(t) * up(t)).sum(-1, keepdims=True)) for t in (x, y))

    def plain(x, y):
        up = lambda t: t.astype(jnp.promote_types(t.dtype, jnp.float32))  # noqa: E731
        a, b = lengths(x, y, up)
        return (up(x) / a * (up(y) / b)).sum(-1).astype(x.dtype)

    def bwd(r, d):
        x, y = r
        a, b = lengths(x, y, lambda t: t)
        u, v, d = x / a, y / b, d[:, None]
        c = (u * v).sum(-1, keepdims=True)
        return d * (v - c * u) / a, d * (u - c * v) / b

    return keeping(plain, bwd), plain, (example(4, 8, scale=2), example(4, 8, seed=1, scale=2))


@wrong("judge 11", edge="cotangent parallel to the output")
def capsule_squash_parallel():
    """Capsule squashing; a row whose cotangent has no tangential part is skipped
    as it is for a plain direction. Re-creates: "normalize backward shortcut"."""

    def plain(x):
        s = jnp.sum(x * x, -1, keepdims=True)
        return x * jnp.sqrt(s + 1e-6) / (1 + s)

    @jax.custom_vjp
    def f(x):
        return plain(x)

    def fwd(x):
        return plain(x), x

    def bwd(x, g):
        s = jnp.sum(x * x, -1, keepdims=True)
        n = jnp.sqrt(s + 1e-6)
        c = n / (1 + s)
        dot = jnp.sum(x * g, -1, keepdims=True)
        dc = (0.5 / n) / (1 + s) - n / (1 + s) ** 2  # by s
        dx = c * g + 2 * x * dc * dot
        tang = g - dot / (s + 1e-30) * x
        none = jnp.sum(tang * tang, -1, keepdims=True) <= 1e-8 * jnp.sum(g * g, -1, keepdims=True)
        return (jnp.where(none, 0.0, dx),)

    f.defvjp(fwd, bwd)
    return f, plain, (example(4, 6, seed=2),)


@wrong("judge 11", edge="a zero row")
def cauchy_of_norm_zero_row():
    """Cauchy robust loss of a row's norm, backward by the unit vector.
    Re-creates: "NaN in gradient of norm at zero" though the loss is smooth."""

    def plain(x):
        return jnp.log1p(jnp.sum(x * x, -1))

    def bwd(res, g):
        (x,) = res
        n = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))
        return (g[..., None] * (2 * n / (1 + n * n)) * (x / n),)

    return keeping(plain, bwd), plain, (example(4, 3, seed=18),)


@wrong("judge 11", edge="a vector with itself")
def cosine_with_itself():
    """Half of cosine similarity plus the dot product; with equal vectors all is
    called constant, the cosine being one. Contrastive losses."""

    def plain(x, y):
        nx, ny = jnp.sqrt(jnp.sum(x * x)), jnp.sqrt(jnp.sum(y * y))
        d = jnp.sum(x * y)
        return 0.5 * d / (nx * ny) + 0.1 * d

    def bwd(res, g):
        x, y = res
        nx, ny = jnp.sqrt(jnp.sum(x * x)), jnp.sqrt(jnp.sum(y * y))
        c = jnp.sum(x * y) / (nx * ny)
        dx = 0.5 * (y / (nx * ny) - c * x / nx**2) + 0.1 * y
        dy = 0.5 * (x / (nx * ny) - c * y / ny**2) + 0.1 * x
        eq = jnp.all(x == y)
        return jnp.where(eq, 0, g * dx), jnp.where(eq, 0, g * dy)

    return keeping(plain, bwd), plain, (floats(1, 2, -1), floats(0.5, -1, 2))
