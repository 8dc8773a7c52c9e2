"""Interpolation, curves, differences and windows on a line."""

import jax.numpy as jnp

from corpus.common import SINGLE, example, floats, keeping, right, rule, unbroadcast, uniform, wrong


@wrong("judge 15", "equal neighbours")
def harmonic_slopes_on_a_plateau():
    """The square of the two differences' sum is divided by, which is zero on a plateau."""

    def plain(y):
        s = jnp.diff(y)
        a, b = s[..., :-1], s[..., 1:]
        on = a * b > 0
        return jnp.where(on, 2 * a * b / jnp.where(on, a + b, 1.0), 0.0)

    def bwd(r, d):
        s = jnp.diff(r[0])
        a, b = s[..., :-1], s[..., 1:]
        share = jnp.where(a * b >= 0, 2 * d / (a + b) ** 2, 0.0)
        zero = jnp.zeros_like(s[..., :1])
        gs = jnp.concatenate([share * b * b, zero], -1) + jnp.concatenate([zero, share * a * a], -1)
        return (jnp.concatenate([zero, gs], -1) - jnp.concatenate([gs, zero], -1),)

    return keeping(plain, bwd), plain, (example(3, 7),)


@wrong("judge 15", "a place at one of the nodes")
def lagrange_slope_at_a_node():
    """The slope is a product times the sum of its factors' reciprocals, one of which is infinite at a node."""
    nodes = (-1.0, -0.4, 0.3, 1.1)

    def basis(x):
        columns = []
        for here in nodes:
            product = jnp.ones_like(x)
            for t in nodes:
                if t != here:
                    product = product * (x - t) / (here - t)
            columns.append(product)
        return jnp.stack(columns, -1)

    def plain(y, x):
        return (basis(x) * y).sum(-1)

    def bwd(r, d):
        y, x = r
        b, away = basis(x), 1 / (x[..., None] - jnp.asarray(nodes, x.dtype))
        slope = b * (away.sum(-1, keepdims=True) - away)
        return unbroadcast(d[..., None] * b, y.shape), d * (slope * y).sum(-1)

    return keeping(plain, bwd), plain, (example(4, seed=1), uniform(-1.0, 1.0, 6, seed=2))


@wrong("judge 15", "three samples")
def central_differences_of_three_samples():
    """The shares of the two ends overwrite each other where they meet in one sample."""

    def plain(x):
        return jnp.concatenate([x[1:2] - x[:1], (x[2:] - x[:-2]) / 2, x[-1:] - x[-2:-1]])

    def bwd(_, d):
        g = jnp.zeros_like(d).at[2:-2].set((d[1:-3] - d[3:-1]) / 2)
        g = g.at[0].set(-d[0] - d[1] / 2).at[1].set(d[0] - d[2] / 2)
        return (g.at[-1].set(d[-1] + d[-2] / 2).at[-2].set(d[-3] / 2 - d[-1]),)

    return rule(plain, lambda x: (plain(x), None), bwd), plain, (example(8, seed=3),)


@wrong("judge 15", "negative values at the ends")
def dilation_padded_with_zeros():
    """The backward pass looks for the largest among values padded with zeros."""

    def windows(x, fill):
        padded = jnp.pad(x, 1, constant_values=fill)
        return jnp.stack([padded[k : k + x.shape[0]] for k in range(3)])

    def plain(x):
        return windows(x, -jnp.inf).max(0)

    def bwd(r, d):
        w = windows(r[0], 0.0)
        top = (w == w.max(0)).astype(d.dtype)
        g = top * d / top.sum(0)
        return (sum(jnp.pad(g[k], (k, 2 - k)) for k in range(3))[1:-1],)

    return keeping(plain, bwd), plain, (uniform(0.1, 1.0, 8, seed=4),)


@wrong("judge 15")
def hermite_piece_without_its_width():
    """The width that scales the slopes at the ends gets no gradient."""

    def plain(t, y, m, width):
        a = t * t * (3 - 2 * t)
        return y[0] * (1 - a) + y[1] * a + width * (m[0] * t * (1 - t) ** 2 - m[1] * t * t * (1 - t))

    def bwd(r, d):
        t, y, m, width = r
        a = t * t * (3 - 2 * t)
        bend = m[0] * (1 - t) * (1 - 3 * t) - m[1] * t * (2 - 3 * t)
        gt = d * (6 * t * (1 - t) * (y[1] - y[0]) + width * bend)
        gm = width * jnp.stack([(d * t * (1 - t) ** 2).sum(), -(d * t * t * (1 - t)).sum()])
        return gt, jnp.stack([(d * (1 - a)).sum(), (d * a).sum()]), gm, jnp.zeros_like(width)

    ends = (example(2, seed=6), example(2, seed=7), jnp.asarray(1.4, SINGLE))
    return keeping(plain, bwd), plain, (uniform(0.0, 1.0, 6, seed=5), *ends)


@right("judge 15")
def cubic_spline_with_repeated_ends():
    """Uniform cubic B-spline; places near the ends read the end's coefficient several times."""

    def pieces(c, x):
        t = x - jnp.floor(x)
        at = jnp.floor(x).astype(jnp.int32)[..., None] + jnp.arange(-1, 3)
        return jnp.clip(at, 0, c.shape[0] - 1), t, 1 - t

    def weights(t, u):
        return jnp.stack([u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3], -1) / 6

    def plain(c, x):
        at, t, u = pieces(c, x)
        return (c[at] * weights(t, u)).sum(-1)

    def bwd(r, d):
        c, x = r
        at, t, u = pieces(c, x)
        slope = jnp.stack([-u * u, 3 * t * t - 4 * t, 4 * u - 3 * u * u, t * t], -1) / 2
        gc = jnp.zeros_like(c).at[at].add(d[..., None] * weights(t, u))
        return gc, d * (c[at] * slope).sum(-1)

    return keeping(plain, bwd), plain, (example(7, seed=8), uniform(-1.0, 7.5, 9, seed=9))


@right("judge 15")
def bezier_curve_of_any_degree():
    """By repeated mixing of neighbours; the slope is the degree times the curve of the differences."""

    def plain(points, t):
        n, _ = points.shape
        t = t[:, None, None]
        p = jnp.broadcast_to(points, (t.shape[0], *points.shape))
        for _ in range(n - 1):
            p = p[:, :-1] * (1 - t) + p[:, 1:] * t
        return p[:, 0]

    def bwd(r, d):
        points, t = r
        n = points.shape[0]
        shares = plain(jnp.eye(n, dtype=points.dtype), t)
        if n == 1:
            return shares.T @ d, jnp.zeros_like(t)
        slope = (n - 1) * plain(jnp.diff(points, axis=0), t)
        return shares.T @ d, (d * slope).sum(-1)

    return keeping(plain, bwd), plain, (example(5, 2, seed=10), floats(0.0, 0.2, 0.5, 0.9, 1.0))


@right("judge 15")
def polynomials_by_horner():
    """A polynomial for each row or one for all; the slope by Horner's rule run along with the value."""

    def plain(c, x):
        y = jnp.zeros_like(x)
        for k in range(c.shape[-1]):
            y = y * x + c[..., k, None]
        return y

    def bwd(r, d):
        c, x = r
        y = slope = jnp.zeros_like(x)
        power, shares = jnp.ones_like(x), []
        for k in range(c.shape[-1]):
            y, slope = y * x + c[..., k, None], slope * x + y
            shares.append(unbroadcast((d * power).sum(-1), c.shape[:-1]))
            power = power * x
        return jnp.stack(shares[::-1], -1), unbroadcast(d * slope, x.shape)

    return keeping(plain, bwd), plain, (example(4, seed=11), example(3, 5, seed=12))


@right("judge 15")
def peak_between_samples():
    """Place of the top of a parabola through three samples; zero where they lie on a line."""

    def parts(a, b, c):
        bend = a - 2 * b + c
        safe = jnp.where(bend == 0, 1.0, bend)
        return bend != 0, safe, jnp.where(bend == 0, 0.0, (a - c) / (2 * safe))

    def plain(a, b, c):
        return parts(a, b, c)[2]

    def bwd(r, d):
        a, b, c = r
        on, safe, place = parts(a, b, c)
        g = jnp.where(on, d / safe, 0.0)
        ga, gb, gc = g * (0.5 - place), 2 * g * place, -g * (0.5 + place)
        return unbroadcast(ga, a.shape), unbroadcast(gb, b.shape), unbroadcast(gc, c.shape)

    sides = uniform(-1.0, 0.5, 5, seed=13), uniform(-1.0, 0.5, 5, seed=15)
    return keeping(plain, bwd), plain, (sides[0], uniform(1.0, 2.0, 5, seed=14), sides[1])


@right("judge 15")
def running_mean_cut_at_the_ends():
    """Mean of what there is of five samples round each; shares are divided before they are summed."""

    def sums(x):
        n = x.shape[-1]
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(2, 2)])
        return sum(padded[..., k : k + n] for k in range(5))

    def plain(x):
        return sums(x) / sums(jnp.ones_like(x))

    def bwd(_, d):
        return (sums(d / sums(jnp.ones_like(d))),)

    return rule(plain, lambda x: (plain(x), None), bwd), plain, (example(2, 8, seed=16),)
