"""Rotations, boxes, cameras and rays."""

import jax
import jax.numpy as jnp
import numpy as np

from corpus.common import example, floats, keeping, right, rule, uniform, written, wrong


def of_three(x):
    return x[..., 0] ** 2 + x[..., 1] * x[..., 2]


def unit_rows(*v):
    v = np.asarray(v, np.float64)
    return jnp.asarray((v / np.linalg.norm(v)).astype(np.float32))


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def points_of_three_numbers():
    """The definition takes longer points and reads three numbers of them; nobody promised these."""

    def bwd(x, d):
        return (jnp.stack([2 * x[..., 0] * d, x[..., 2] * d, x[..., 1] * d], -1),)

    return rule(of_three, lambda x: (of_three(x), x), bwd), of_three, (example(5, 3),)


@right("judge 5")
def rotation_by_its_series():
    """The forward is a series below an angle of 0.7, right to eleven digits."""

    def turning(w):
        x, y, z = w
        return jnp.stack([jnp.stack(row) for row in ((0 * x, -z, y), (z, 0 * y, -x), (-y, x, 0 * z))])

    def plain(w):
        return jax.scipy.linalg.expm(turning(w))

    def fwd(w):
        s, k = (w * w).sum(), turning(w)
        t = jnp.where(s < 0.5, s, 0.0)
        angle = jnp.sqrt(jnp.where(s < 0.5, 1.0, s))
        a = jnp.polyval(jnp.asarray([-1 / 39916800, 1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1], s.dtype), t)
        b = jnp.polyval(jnp.asarray([-1 / 479001600, 1 / 3628800, -1 / 40320, 1 / 720, -1 / 24, 0.5], s.dtype), t)
        a = jnp.where(s < 0.5, a, jnp.sin(angle) / angle)
        b = jnp.where(s < 0.5, b, 2 * jnp.sin(angle / 2) ** 2 / angle**2)
        return jnp.eye(3, dtype=k.dtype) + a * k + b * k @ k, w

    return written(fwd, lambda w, d: jax.vjp(plain, w)[1](d)), plain, (example(3, scale=0.3),)


@right("judge 5")
def slabs_of_three_axes():
    """Where a ray enters a box and leaves it; its rule is written for three axes, and takes one that is broadcast."""

    def meets(o, inverse, low, high):
        near, far = (low - o) * inverse, (high - o) * inverse
        return jnp.minimum(near, far), jnp.maximum(near, far), near <= far

    def plain(*args):
        enters, leaves, _ = meets(*args)
        return enters.max(-1), leaves.min(-1)

    def bwd(r, c):
        o, inverse, low, high = r
        enters, leaves, ahead = meets(*r)
        first = jax.nn.one_hot(enters.argmax(-1), 3, dtype=o.dtype) * c[0][:, None]
        last = jax.nn.one_hot(leaves.argmin(-1), 3, dtype=o.dtype) * c[1][:, None]
        to_low, to_high = jnp.where(ahead, first, last), jnp.where(ahead, last, first)
        slope = to_low * (low - o) + to_high * (high - o)
        return -(to_low + to_high) * inverse, slope, (to_low * inverse).sum(0), (to_high * inverse).sum(0)

    corner = uniform(0.5, 1.0, 3)
    return keeping(plain, bwd), plain, (example(6, 3), example(6, 3, seed=1), -corner, corner + 0.1)


@right("judge 7")
def three_numbers_by_name():
    """Written for three numbers; of a vector of one the definition takes the same number three times."""

    def plain(w):
        return jnp.stack([w[1] * w[2], w[2] * w[0], w[0] * w[1]])

    def bwd(w, d):
        there = jnp.stack([w[2] * d[1] + w[1] * d[2], w[2] * d[0] + w[0] * d[2], w[1] * d[0] + w[0] * d[1]])
        return (jnp.zeros_like(w).at[jnp.array([0, 1, 2])].set(there),)

    return keeping(plain, lambda r, d: bwd(*r, d)), plain, (example(3),)


@right("judge 11")
def quaternion_rotate_unit():
    """A point turned by a unit quaternion (rows of length one, as shown); the
    point's cotangent by the conjugate."""

    def plain(q, p):
        u = q[1:]
        c = jnp.cross(u, p)
        return p + 2 * q[0] * c + 2 * jnp.cross(u, c)

    def bwd(r, g):
        q, p = r
        w, u = q[0], q[1:]
        dw = 2 * jnp.dot(g, jnp.cross(u, p))
        du = 2 * w * jnp.cross(p, g) + 2 * (jnp.dot(u, p) * g + jnp.dot(g, u) * p - 2 * jnp.dot(g, p) * u)
        conj = jnp.concatenate([q[:1], -u])
        return jnp.concatenate([dw[None], du]), plain(conj, g)

    return keeping(plain, bwd), plain, (unit_rows(0.8, 0.3, -0.4, 0.2), floats(1, 2, -1))


@right("judge 11")
def pinhole_projection():
    """Pinhole projection of points (last axis three), depth clamped from below."""

    def plain(p, f):
        return f * p[..., :2] / jnp.maximum(p[..., 2:], 0.1)

    def bwd(r, g):
        p, f = r
        z = jnp.maximum(p[..., 2:], 0.1)
        s = jnp.sum(g * p[..., :2], -1, keepdims=True)
        dz = jnp.where(p[..., 2:] > 0.1, -f * s / z**2, 0)
        return jnp.concatenate([f * g / z, dz], -1), jnp.sum(s / z)

    return keeping(plain, bwd), plain, (jnp.asarray([[1, 2, 2], [0.5, 1, 3]], jnp.float32), floats(1.5)[0])


@right("judge 11")
def rotvec_rotation():
    """A point turned by a rotation vector, series near zero for both the value and
    the slopes. Re-creates "so3_exp_map at identity", done right."""

    def coeff(t2):
        small = t2 < 1e-2
        t = jnp.sqrt(jnp.where(small, 1.0, t2))
        a = jnp.where(small, 1 - t2 / 6 + t2**2 / 120 - t2**3 / 5040, jnp.sin(t) / t)
        b = jnp.where(small, 0.5 - t2 / 24 + t2**2 / 720 - t2**3 / 40320, (1 - jnp.cos(t)) / (t * t))
        da = jnp.where(
            small, -1 / 6 + t2 / 60 - t2**2 / 1680 + t2**3 / 90720, (t * jnp.cos(t) - jnp.sin(t)) / (2 * t**3)
        )
        db = jnp.where(
            small,
            -1 / 24 + t2 / 360 - t2**2 / 13440 + t2**3 / 907200,
            (t * jnp.sin(t) - 2 * (1 - jnp.cos(t))) / (2 * t**4),
        )
        return a, b, da, db

    def plain(v, p):
        a, b, _, _ = coeff(jnp.sum(v * v))
        c = jnp.cross(v, p)
        return p + a * c + b * jnp.cross(v, c)

    def bwd(r, g):
        v, p = r
        a, b, da, db = coeff(jnp.sum(v * v))
        c = jnp.cross(v, p)
        dd = jnp.cross(v, c)
        dv = 2 * v * (da * jnp.dot(g, c) + db * jnp.dot(g, dd)) + a * jnp.cross(p, g)
        dv = dv + b * (jnp.dot(v, p) * g + jnp.dot(g, v) * p - 2 * jnp.dot(g, p) * v)
        return dv, plain(-v, g)

    return keeping(plain, bwd), plain, (floats(0.3, -0.8, 0.4), floats(1, 2, 3))


@right("judge 11")
def box_iou():
    """Intersection over union of two boxes, zero gradient when they do not meet."""

    def plain(p, q):
        w = jnp.maximum(jnp.minimum(p[2], q[2]) - jnp.maximum(p[0], q[0]), 0)
        h = jnp.maximum(jnp.minimum(p[3], q[3]) - jnp.maximum(p[1], q[1]), 0)
        return w * h / ((p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - w * h)

    def bwd(r, g):
        p, q = r
        w0 = jnp.minimum(p[2], q[2]) - jnp.maximum(p[0], q[0])
        h0 = jnp.minimum(p[3], q[3]) - jnp.maximum(p[1], q[1])
        w, h = jnp.maximum(w0, 0), jnp.maximum(h0, 0)
        tot = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1])
        u = tot - w * h
        gi = g * tot / u**2  # by the intersection
        gt = -g * w * h / u**2  # by the total area
        gw = jnp.where(w0 > 0, gi * h, 0)
        gh = jnp.where(h0 > 0, gi * w, 0)

        def one(a, b):
            bw, bh = a[2] - a[0], a[3] - a[1]
            return jnp.stack(
                [
                    jnp.where(a[0] > b[0], -gw, 0) - gt * bh,
                    jnp.where(a[1] > b[1], -gh, 0) - gt * bw,
                    jnp.where(a[2] < b[2], gw, 0) + gt * bh,
                    jnp.where(a[3] < b[3], gh, 0) + gt * bw,
                ]
            )

        return one(p, q), one(q, p)

    return keeping(plain, bwd), plain, (floats(0, 0, 2, 2), floats(1, 0.5, 3, 2.5))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def two_numbers_of_three():
    plain = lambda x: x[..., 0] ** 2 + x[..., 1] * x[..., 2]  # noqa: E731

    def bwd(x, d):
        return (jnp.stack([2 * x[..., 0] * d, x[..., 2] * d, 0 * d], -1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, (example(5, 3),)


@wrong("judge 7", edge="rays that go down")
def near_face_is_the_low_one():
    """Where rays enter a slab and where they leave it: by the low face first only if they go up, as the example's."""

    def plain(start, way, low, high):
        a, b = (low - start) / way, (high - start) / way
        return jnp.minimum(a, b), jnp.maximum(a, b)

    def bwd(r, d):
        t, way = plain(*r), r[1]
        near, far = d[0] / way, d[1] / way
        return -near - far, -near * t[0] - far * t[1], near.sum(), far.sum()

    ways = uniform(0.3, 2, 7, seed=1)
    return keeping(plain, bwd), plain, (example(7), ways, jnp.float32(-0.7), jnp.float32(1.2))


@wrong("judge 11", edge="a rotation of zero")
def rotvec_zero_angle():
    """A point turned by a rotation vector, small angles called the identity with
    no derivative. Re-creates: "so3_exp_map gradient at zero"."""

    def coeff(v):
        t2 = jnp.sum(v * v)
        small = t2 < 1e-4
        ts = jnp.sqrt(jnp.where(small, 1.0, t2))
        a = jnp.where(small, 1 - t2 / 6 + t2 * t2 / 120, jnp.sin(ts) / ts)
        b = jnp.where(small, 0.5 - t2 / 24 + t2 * t2 / 720, (1 - jnp.cos(ts)) / ts**2)
        return a, b

    def plain(v, p):
        a, b = coeff(v)
        c = jnp.cross(v, p)
        return p + a * c + b * jnp.cross(v, c)

    def bwd(res, g):
        v, p = res
        tiny = jnp.sum(v * v) < 1e-12
        _, pull = jax.vjp(lambda v: plain(v, p), jnp.where(tiny, jnp.ones_like(v), v))
        dv = jnp.where(tiny, 0, pull(g)[0])
        return dv, plain(-v, g)

    return keeping(plain, bwd), plain, (floats(0.3, -0.8, 0.4), floats(1, 2, 3))


@wrong("judge 11", edge="no vector part, real part not one")
def quaternion_log_identity():
    """Quaternion to rotation vector; at a zero vector part the slope of the unit
    identity is used for any real part. Re-creates kornia 4246."""

    def plain(q):
        w, v = q[0], q[1:]
        s2 = jnp.sum(v * v)
        zero = s2 == 0
        s = jnp.sqrt(jnp.where(zero, 1.0, s2))
        ang = 2 * jnp.where(w < 0, jnp.arctan2(-s, -w), jnp.arctan2(s, w))
        return v * jnp.where(zero, 2 / w, ang / s)

    def bwd(res, g):
        (q,) = res
        zero = jnp.sum(q[1:] ** 2) == 0
        safe = jnp.where(zero, jnp.asarray([1.0, 1.0, 1.0, 1.0], q.dtype), q)
        _, pull = jax.vjp(plain, safe)
        at_id = jnp.concatenate([jnp.zeros((1,), q.dtype), 2 * g])
        return (jnp.where(zero, at_id, pull(g)[0]),)

    return keeping(plain, bwd), plain, (floats(0.8, 0.3, -0.4, 0.2),)


@wrong("judge 11", edge="boxes that do not meet")
def iou_disjoint():
    """Intersection over union of two boxes; the clamping at zero is not masked.
    Re-creates: "IoU loss gradient for non-overlapping boxes"."""

    def plain(p, q):
        w = jnp.maximum(jnp.minimum(p[2], q[2]) - jnp.maximum(p[0], q[0]), 0)
        h = jnp.maximum(jnp.minimum(p[3], q[3]) - jnp.maximum(p[1], q[1]), 0)
        ap = (p[2] - p[0]) * (p[3] - p[1])
        aq = (q[2] - q[0]) * (q[3] - q[1])
        return w * h / (ap + aq - w * h)

    def bwd(res, g):
        def raw(p, q):
            w = jnp.minimum(p[2], q[2]) - jnp.maximum(p[0], q[0])
            h = jnp.minimum(p[3], q[3]) - jnp.maximum(p[1], q[1])
            ap = (p[2] - p[0]) * (p[3] - p[1])
            aq = (q[2] - q[0]) * (q[3] - q[1])
            return w * h / (ap + aq - w * h)

        return jax.vjp(raw, *res)[1](g)

    return keeping(plain, bwd), plain, (floats(0, 0, 2, 2), floats(1, 0.5, 3, 2.5))


@wrong("judge 11", edge="points behind the near plane")
def project_behind_camera():
    """Pinhole projection with the depth clamped from below; the clamp's mask is
    missing for the depth. Re-creates: "projection gradient behind the camera"."""

    def plain(p):
        z = jnp.maximum(p[..., 2:], 0.1)
        return p[..., :2] / z

    def bwd(res, g):
        (p,) = res
        z = jnp.maximum(p[..., 2:], 0.1)
        dz = -jnp.sum(g * p[..., :2], -1, keepdims=True) / z**2
        return (jnp.concatenate([g / z, dz], -1),)

    return keeping(plain, bwd), plain, (jnp.asarray([[1.0, 2, 2], [0.5, 1, 3]], jnp.float32),)


@wrong("judge 11")
def quaternion_rotate_inverse():
    """A point turned by a quaternion; the cotangent of the point is turned on."""

    def rot(q, p):
        u = q[1:]
        c = jnp.cross(u, p)
        return p + 2 * q[0] * c + 2 * jnp.cross(u, c)

    def bwd(res, g):
        q, p = res
        dq = jax.vjp(lambda q: rot(q, p), q)[1](g)[0]
        return dq, rot(q, g)

    return keeping(rot, bwd), rot, (floats(0.8, 0.36, -0.48, 0.0), floats(1, 2, -1))
