"""Rotations, distances, angles, potentials, periodic boxes, optimal transport, splines."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from corpus.common import (
    SINGLE,
    example,
    floats,
    keeping,
    positive,
    right,
    rule,
    simplex,
    unbroadcast,
    uniform,
    written,
    wrong,
)


@wrong("judge 13", "quaternions that are not of unit length")
def rotate_by_quaternion_times_its_transpose():
    """The vector's gradient is rotated with the normalized quaternion, though q v q* scales with |q| squared."""

    def matrix(q):
        w, x, y, z = q
        return jnp.array(
            [
                [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
            ]
        )

    def plain(q, v):
        return v @ matrix(q).T

    def bwd(r, d):
        q, v = r
        dq = jax.vjp(matrix, q)[1](d.T @ v)[0]
        return dq, d @ matrix(q / jnp.linalg.norm(q))

    q = example(4, seed=11)
    return keeping(plain, bwd), plain, (q / jnp.linalg.norm(q), example(3, 3, seed=12))


@wrong("judge 13", "a rotation vector of 0")
def rodrigues_slope_at_no_rotation():
    """The axis is w / |w|, which is 0 / 0 for no rotation, though the forward way has its series there."""

    def cross(w, v):
        return jnp.cross(jnp.broadcast_to(w, v.shape), v)

    def plain(w, v):
        t2 = w @ w
        small = t2 < 1e-4
        t = jnp.sqrt(jnp.where(small, 1.0, t2))
        a = jnp.where(small, 1 - t2 / 6, jnp.sin(t) / t)
        b = jnp.where(small, 0.5 - t2 / 24, (1 - jnp.cos(t)) / (t * t))
        c = cross(w, v)
        return v + a * c + b * cross(w, c)

    def bwd(r, d):
        w, v = r
        t = jnp.linalg.norm(w)
        a, b = jnp.sin(t) / t, (1 - jnp.cos(t)) / t**2
        da, db = (jnp.cos(t) - a) / t, (a - 2 * b) / t
        c = cross(w, v)
        dc = a * d - b * cross(w, d)
        dt = da * (d * c).sum() + db * (d * cross(w, c)).sum()
        dw = jnp.cross(v, dc).sum(0) + b * jnp.cross(c, d).sum(0) + dt * w / t
        return dw, d - cross(w, dc)

    return keeping(plain, bwd), plain, (example(3, seed=21), example(4, 3, seed=22))


@wrong("judge 13", "coincident points")
def energy_distance_at_coincidence():
    """The unit vector between coincident points is 0 / 0, though the definition shields its square root."""

    def plain(x, y):
        e = x[:, None] - y[None]
        s = (e * e).sum(-1)
        return jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1.0)), 0.0).mean()

    def bwd(r, d):
        x, y = r
        e = x[:, None] - y[None]
        u = d / (x.shape[0] * y.shape[0]) * e / jnp.linalg.norm(e, axis=-1, keepdims=True)
        return u.sum(1), -u.sum(0)

    return keeping(plain, bwd), plain, (example(4, 3, seed=31), example(5, 3, seed=32))


@wrong("judge 13", "particles more than half a box apart")
def harmonic_bonds_force_unwrapped():
    """The force is along the raw separation, not along that to the nearest image."""

    def plain(x, box):
        e = x[1:] - x[:-1]
        e = e - box * jnp.round(e / box)
        return 0.5 * (e * e).sum()

    def bwd(r, d):
        x, box = r
        e = d * (x[1:] - x[:-1])
        turns = jnp.round((x[1:] - x[:-1]) / box)
        return jnp.zeros_like(x).at[1:].add(e).at[:-1].add(-e), -(e * turns).sum(0)

    return keeping(plain, bwd), plain, (uniform(1, 4, 6, 3, seed=41), floats(10.0, 10.0, 12.0))


@wrong("judge 13", "a pair beyond the cut-off")
def shifted_lennard_jones_without_cutoff():
    """Pairs beyond the cut-off still exert a force."""

    def plain(r, cut):
        s6 = r**-6
        return jnp.where(r < cut, 4 * (s6 * s6 - s6) - 4 * (cut**-12 - cut**-6), 0.0).sum()

    def bwd(res, d):
        r, cut = res
        inside = (r < cut).sum()
        return d * 4 * (6 * r**-7 - 12 * r**-13), d * inside * 4 * (12 * cut**-13 - 6 * cut**-7)

    return keeping(plain, bwd), plain, (uniform(0.95, 2.2, 8, seed=51), jnp.asarray(2.5, SINGLE))


@wrong("judge 13", "an angle in another quadrant than the first and fourth")
def bearing_by_arctan_of_ratio():
    """The distance along the bearing is x / cos(atan(y / x)), which has the wrong sign behind the observer."""

    def plain(p, at):
        e = p - at
        return jnp.stack([jnp.hypot(e[:, 0], e[:, 1]), jnp.arctan2(e[:, 1], e[:, 0])], -1)

    def bwd(r, d):
        p, at = r
        e = p - at
        t = jnp.arctan(e[:, 1] / e[:, 0])
        far = e[:, 0] / jnp.cos(t)
        c, s = jnp.cos(t), jnp.sin(t)
        g = jnp.stack([d[:, 0] * c - d[:, 1] * s / far, d[:, 0] * s + d[:, 1] * c / far], -1)
        return g, -g.sum(0)

    p = jnp.stack([uniform(1, 5, 6, seed=61), uniform(-3, 3, 6, seed=62)], -1)
    return keeping(plain, bwd), plain, (p, floats(0.5, 0.2))


@wrong("judge 13", "a place beyond the last knot")
def piecewise_linear_slope_beyond_the_knots():
    """Beyond the knots, where the value is constant, the last piece's slope goes on."""

    def plain(x, knots, y):
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, knots.shape[0] - 2)
        t = jnp.clip((x - knots[i]) / (knots[i + 1] - knots[i]), 0, 1)
        return (1 - t) * y[i] + t * y[i + 1]

    def bwd(r, d):
        x, knots, y = r
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, knots.shape[0] - 2)
        h = knots[i + 1] - knots[i]
        t = jnp.clip((x - knots[i]) / h, 0, 1)
        slope = d * (y[i + 1] - y[i]) / h
        dk = jnp.zeros_like(knots).at[i].add(-slope * (1 - t)).at[i + 1].add(-slope * t)
        return slope, dk, jnp.zeros_like(y).at[i].add(d * (1 - t)).at[i + 1].add(d * t)

    knots = jnp.asarray(np.array([0.0, 0.7, 1.0, 2.2, 3.0]), SINGLE)
    return keeping(plain, bwd), plain, (uniform(0.1, 2.9, 7, seed=71), knots, example(5, seed=72))


@wrong("judge 13")
def torsion_vector_triple_with_swapped_order():
    """The middle edge's gradient of the triple product is a x c and not c x a."""

    def plain(a, b, c):
        return (a * jnp.cross(b, c)).sum(-1)

    def bwd(r, d):
        a, b, c = r
        d = d[..., None]
        return d * jnp.cross(b, c), d * jnp.cross(a, c), d * jnp.cross(a, b)

    return keeping(plain, bwd), plain, (example(4, 3, seed=81), example(4, 3, seed=82), example(4, 3, seed=83))


@right("judge 13")
def soft_c_transform():
    """Half a turn of Sinkhorn's: the other side's potential from this one's and the logarithms of its masses."""
    eps = 0.5

    def plain(cost, log_a, f):
        return -eps * logsumexp(log_a[:, None] + (f[:, None] - cost) / eps, axis=0)

    def bwd(r, d):
        cost, log_a, f = r
        plan = jax.nn.softmax(log_a[:, None] + (f[:, None] - cost) / eps, axis=0) * d
        rows = plan.sum(1)
        return unbroadcast(plan, cost.shape), unbroadcast(-eps * rows, log_a.shape), unbroadcast(-rows, f.shape)

    return keeping(plain, bwd), plain, (positive(3, 4), jnp.log(simplex(3, seed=92)), example(3, seed=93))


@right("judge 13")
def nearest_image_distance():
    """Pair distances in a periodic box, the image of a pair fixed by rounding."""

    def split(x, y, box):
        e = x - y
        turns = jnp.round(e / box)
        e = e - box * turns
        return e, turns, jnp.sqrt((e * e).sum(-1) + 1e-6)

    def plain(x, y, box):
        return split(x, y, box)[2]

    def fwd(x, y, box):
        e, turns, r = split(x, y, box)
        return r, (e / r[..., None], turns, x, y, box)

    def bwd(r, d):
        u, turns, *args = r
        g = d[..., None] * u
        return tuple(unbroadcast(a, like.shape) for a, like in zip((g, -g, -turns * g), args, strict=True))

    return written(fwd, bwd), plain, (uniform(0, 3, 6, 2, seed=101), uniform(0, 3, 6, 2, seed=102), floats(3.0, 4.0))


@right("judge 13")
def hamilton_product_by_conjugates():
    """Gradients of a quaternions' product are products with the other's conjugate."""

    def product(p, q):
        a, u = p[..., :1], p[..., 1:]
        b, v = q[..., :1], q[..., 1:]
        scalar = a * b - (u * v).sum(-1, keepdims=True)
        return jnp.concatenate([scalar, a * v + b * u + jnp.cross(u, v)], -1)

    def bwd(r, d):
        p, q = r
        sign = jnp.asarray([1, -1, -1, -1], d.dtype)
        return unbroadcast(product(d, q * sign), p.shape), unbroadcast(product(p * sign, d), q.shape)

    return keeping(product, bwd), product, (example(5, 4, seed=111), example(5, 4, seed=112))


@right("judge 13")
def angle_at_vertex():
    """Angle between two arms as atan2(|a x b|, a . b), of planar arms."""

    def plain(a, b):
        return jnp.arctan2(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b).sum(-1))

    def quarter(v):
        return jnp.stack([-v[..., 1], v[..., 0]], -1) / (v * v).sum(-1, keepdims=True)

    def bwd(r, d):
        g = tuple(s * d[..., None] * quarter(v) for s, v in zip((-1, 1), r, strict=True))
        return unbroadcast(g[0], r[0].shape), unbroadcast(g[1], r[1].shape)

    return keeping(plain, bwd), plain, (example(5, 2, seed=121), example(5, 2, seed=122))


@right("judge 13")
def morse_wells_with_taper():
    """Morse energy under a taper (1 - (r / c)^2)^2 that ends smoothly at c."""

    def parts(r, depth, width, c):
        e = jnp.exp(-width * (r - 1))
        u = jnp.maximum(1 - (r / c) ** 2, 0)
        return e, u

    def plain(r, depth, width, c):
        e, u = parts(r, depth, width, c)
        return (depth * (e * e - 2 * e) * u * u).sum()

    def bwd(res, d):
        r, depth, width, c = res
        e, u = parts(r, depth, width, c)
        well, slope = depth * (e * e - 2 * e), 2 * depth * (e - e * e)
        dr = slope * width * u * u - well * 4 * u * r / c**2
        dwidth = slope * (r - 1) * u * u
        dc = well * 4 * u * r * r / c**3
        g = dr, (e * e - 2 * e) * u * u, dwidth, dc
        return tuple(d * unbroadcast(a, like.shape) for a, like in zip(g, res, strict=True))

    scalars = jnp.asarray([1.3, 2.0, 2.5], SINGLE)
    return rule(plain, lambda *a: (plain(*a), a), bwd), plain, (uniform(0.7, 3.2, 8, seed=131), *scalars)
