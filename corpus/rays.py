"""Rays, cameras, meshes, signed distances, quaternions."""

import jax
import jax.numpy as jnp

from corpus.common import SINGLE, example, floats, integers, keeping, right, rule, unbroadcast, uniform, wrong


@wrong("judge 15", "a ray that starts inside the sphere")
def sphere_seen_from_inside():
    """The slope is that of the near face, also where the ray leaves through the far one."""

    def parts(o, u, radius):
        a, b = (u * u).sum(-1), (o * u).sum(-1)
        left = b * b - a * ((o * o).sum(-1) - radius**2)
        return a, b, left > 0, jnp.sqrt(jnp.where(left > 0, left, 1.0))

    def plain(o, u, radius):
        a, b, hit, root = parts(o, u, radius)
        near, far = (-b - root) / a, (-b + root) / a
        t = jnp.where(near > 0, near, far)
        return jnp.where(hit & (t > 0), t, 0.0)

    def fwd(o, u, radius):
        t = plain(o, u, radius)
        return t, (o, u, radius, t)

    def bwd(r, d):
        o, u, radius, t = r
        g = jnp.where(t > 0, d / parts(o, u, radius)[3], 0.0)
        p = o + t[..., None] * u
        return g[..., None] * p, (g * t)[..., None] * p, -(g * radius).sum()

    o = floats(0.0, 0.0, -4.0) + example(5, 3, scale=0.2)
    u = floats(0.0, 0.0, 1.0) + example(5, 3, seed=1, scale=0.05)
    return rule(plain, fwd, bwd), plain, (o, u, jnp.asarray(1.5, SINGLE))


@wrong("judge 15", "a clockwise triangle")
def barycentric_weights_by_absolute_area():
    """The slope is divided by the absolute area, and turned round in a clockwise triangle."""

    def cross(a, b):
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

    def turned(e):
        return jnp.stack([e[..., 1], -e[..., 0]], -1)

    def plain(p, a, b, c):
        parts = [cross(b - p, c - p), cross(c - p, a - p), cross(a - p, b - p)]
        return jnp.stack(parts, -1) / cross(b - a, c - a)[..., None]

    def bwd(r, d):
        p, a, b, c = r
        w, area = plain(p, a, b, c), jnp.abs(cross(b - a, c - a))[..., None]
        g = (d[..., :1] * turned(b - c) + d[..., 1:2] * turned(c - a) + d[..., 2:] * turned(a - b)) / area
        return g, -w[..., :1] * g, -w[..., 1:2] * g, -w[..., 2:] * g

    a, e = example(4, 2, seed=2, scale=0.2), example(4, 2, seed=3, scale=0.2)
    return keeping(plain, bwd), plain, (example(4, 2, seed=4), a, e + floats(2.0, 0.0), a - e + floats(0.0, 2.0))


@wrong("judge 15", "a point on the optical axis")
def fisheye_on_its_axis():
    """On the axis the angle over the radius is taken for zero instead of its limit."""

    def parts(p):
        x, z = p[..., :2], p[..., 2:]
        s = (x * x).sum(-1, keepdims=True)
        return x, z, s, jnp.sqrt(jnp.where(s > 0, s, 1.0))

    def plain(p, focal):
        x, z, s, radius = parts(p)
        return focal * x * jnp.where(s > 0, jnp.arctan2(radius, z) / radius, 1 / z)

    def bwd(r, d):
        p, focal = r
        x, z, s, radius = parts(p)
        scale = jnp.where(s > 0, jnp.arctan2(radius, z) / radius, 0.0)
        along, far = (d * x).sum(-1, keepdims=True), s + z * z
        gx = focal * (d * scale + along * x * (z / far - scale) / radius**2)
        return jnp.concatenate([gx, -focal * along / far], -1), (scale * along).sum()

    p = example(5, 3, seed=5).at[:, 2].set(uniform(1.0, 3.0, 5, seed=6))
    return keeping(plain, bwd), plain, (p, jnp.asarray(1.7, SINGLE))


@wrong("judge 15", "quaternions in opposite hemispheres")
def shortest_blend_of_quaternions():
    """The second quaternion's gradient is not turned round where the quaternion was."""

    def blend(a, b, t):
        turn = jnp.where((a * b).sum(-1, keepdims=True) < 0, -b, b)
        return turn, (1 - t) * a + t * turn

    def plain(a, b, t):
        m = blend(a, b, t)[1]
        return m / jnp.sqrt((m * m).sum(-1, keepdims=True))

    def bwd(r, d):
        a, b, t = r
        turn, m = blend(a, b, t)
        size = jnp.sqrt((m * m).sum(-1, keepdims=True))
        y = m / size
        g = (d - y * (y * d).sum(-1, keepdims=True)) / size
        return (1 - t) * g, t * g, (g * (turn - a)).sum()

    a = example(4, 4, seed=7)
    return keeping(plain, bwd), plain, (a, a + example(4, 4, seed=8, scale=0.2), jnp.asarray(0.3, SINGLE))


@wrong("judge 15", "the opacity used alone")
def rays_without_colour_gradient_skipped():
    """Rays whose colour gets no gradient are skipped, though their opacity may get one."""

    def weights(alpha):
        before = jnp.cumprod(1 - alpha, -1)[..., :-1]
        return alpha * jnp.concatenate([jnp.ones_like(alpha[..., :1]), before], -1)

    def plain(alpha, colour):
        w = weights(alpha)
        return (w[..., None] * colour).sum(-2), w.sum(-1)

    def bwd(r, d):
        alpha, colour = r
        w, back = jax.vjp(weights, alpha)
        g = (colour * d[0][..., None, :]).sum(-1) + d[1][..., None]
        g = jnp.where((d[0] != 0).any(-1, keepdims=True), g, 0.0)
        return back(g)[0], w[..., None] * d[0][..., None, :]

    return keeping(plain, bwd), plain, (uniform(0.1, 0.8, 3, 5, seed=9), uniform(0.0, 1.0, 3, 5, 3, seed=10))


@wrong("judge 15")
def linear_harmonics_of_a_view():
    """The view is made a unit vector, whose slope is left out."""

    def unit_view(v):
        return v / jnp.sqrt((v * v).sum(-1, keepdims=True))

    def plain(v, k):
        return k[0] + (unit_view(v) * k[1:]).sum(-1)

    def bwd(r, d):
        v, k = r
        gk = (d[..., None] * unit_view(v)).sum(0)
        return d[..., None] * k[1:], jnp.concatenate([d.sum()[None], gk])

    return keeping(plain, bwd), plain, (example(5, 3, seed=11), example(4, seed=12))


@right("judge 15")
def smooth_union_of_distances():
    """The blend's weight is where the union is least, so that its own slope counts for nothing."""

    def weight(a, b, k):
        return jnp.clip(0.5 + 0.5 * (b - a) / k, 0.0, 1.0)

    def plain(a, b, k):
        h = weight(a, b, k)
        return b + (a - b) * h - k * h * (1 - h)

    def bwd(r, d):
        a, b, k = r
        h = weight(a, b, k)
        return unbroadcast(d * h, a.shape), unbroadcast(d * (1 - h), b.shape), unbroadcast(-d * h * (1 - h), k.shape)

    return keeping(plain, bwd), plain, (example(8, seed=13), example(8, seed=14), jnp.asarray(0.8, SINGLE))


@right("judge 15")
def squared_distance_to_a_segment():
    """The nearest point's place counts for nothing, be it between the ends or at one of them."""

    def nearest(p, a, b):
        e = b - a
        s = (e * e).sum(-1, keepdims=True)
        t = jnp.clip(((p - a) * e).sum(-1, keepdims=True) / jnp.where(s > 0, s, 1.0), 0.0, 1.0)
        return t, p - a - t * e

    def plain(p, a, b):
        gap = nearest(p, a, b)[1]
        return (gap * gap).sum(-1)

    def bwd(r, d):
        p, a, b = r
        t, gap = nearest(p, a, b)
        g = 2 * d[..., None] * gap
        return unbroadcast(g, p.shape), unbroadcast((t - 1) * g, a.shape), unbroadcast(-t * g, b.shape)

    return keeping(plain, bwd), plain, (example(6, 2, seed=15), floats(-0.5, 0.1), floats(0.6, -0.2))


@right("judge 15")
def homography_of_points():
    """A plane's points seen through a three by three matrix, given up to its scale."""

    def lifted(h, p):
        return p @ h[:, :2].T + h[:, 2]

    def plain(h, p):
        q = lifted(h, p)
        return q[..., :2] / q[..., 2:]

    def bwd(r, d):
        h, p = r
        q = lifted(h, p)
        low = q[..., 2:]
        g = jnp.concatenate([d, -(d * q[..., :2]).sum(-1, keepdims=True) / low], -1) / low
        flat = g.reshape(-1, 3)
        return jnp.concatenate([flat.T @ p.reshape(-1, 2), flat.sum(0)[:, None]], 1), g @ h[:, :2]

    h = jnp.eye(3, dtype=SINGLE) + example(3, 3, seed=16, scale=0.1)
    return keeping(plain, bwd), plain, (h, example(6, 2, seed=17))


@right("judge 15")
def vertex_normals_by_area():
    """Sum of the doubled area vectors of the faces at each vertex."""

    def edges(v, faces):
        return v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]]

    def plain(v, faces):
        a, b = edges(v, faces)
        return jnp.zeros_like(v).at[faces].add(jnp.cross(a, b)[:, None])

    def bwd(r, d):
        v, faces = r
        a, b = edges(v, faces)
        g = d[faces].sum(1)
        ga, gb = jnp.cross(b, g), jnp.cross(g, a)
        return jnp.zeros_like(v).at[faces].add(jnp.stack([-ga - gb, ga, gb], 1)), None

    faces = integers(0, 1, 2, 0, 2, 3, 0, 3, 1, 1, 3, 2).reshape(4, 3)
    return keeping(plain, bwd), plain, (example(5, 3, seed=18), faces)


@right("judge 15")
def radial_lens_distortion():
    """Points moved along their radius by an even polynomial of it."""

    def plain(p, k, m):
        s = (p * p).sum(-1, keepdims=True)
        return p * (1 + k * s + m * s * s)

    def bwd(r, d):
        p, k, m = r
        s, dp = (p * p).sum(-1, keepdims=True), d * p
        gp = d * (1 + k * s + m * s * s) + 2 * p * (dp * (k + 2 * m * s)).sum(-1, keepdims=True)
        return unbroadcast(gp, p.shape), unbroadcast(dp * s, k.shape), unbroadcast(dp * s * s, m.shape)

    return keeping(plain, bwd), plain, (example(6, 2, seed=19), jnp.asarray(-0.2, SINGLE), jnp.asarray(0.05, SINGLE))
