"""Distances between points, energies of them and kernels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import example, floats, keeping, right, rule, softmax, written, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def pairwise_distances():
    def plain(x, y):
        return jnp.sqrt(((x[:, None] - y[None]) ** 2).sum(-1) + 1e-8)

    def bwd(r, d):
        x, y, z = r
        g = (d / z)[..., None] * (x[:, None] - y[None])
        return g.sum(1), -g.sum(0)

    args = example(4, 3), example(5, 3, seed=1)
    return rule(plain, lambda x, y: (plain(x, y), (x, y, plain(x, y))), bwd), plain, args


@right("judge 2")
def distances_with_themselves():
    """Zero on the diagonal, where the slope is taken for zero; not made to be differentiated twice."""

    def plain(x):
        s = ((x[:, None] - x[None]) ** 2).sum(-1)
        return jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1)), 0)

    def fwd(x):
        y = jnp.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        c = jnp.where(y > 0, d / jnp.where(y > 0, y, 1), 0)
        return (((c + c.T)[:, :, None] * (x[:, None] - x[None])).sum(1),)

    return written(fwd, bwd), plain, (example(6, 3),)


@right("judge 4")
def nearest_of_both_sides():
    """As many rows here as there; one row beside many makes two functions of what is one."""

    def plain(x, y):
        s, pairs = x @ y.T, jnp.eye(len(x), dtype=x.dtype) / len(x)
        return -((jax.nn.log_softmax(s, 1) + jax.nn.log_softmax(s, 0)) * pairs).sum()

    def fwd(x, y):
        s = x @ y.T
        value = jax.nn.logsumexp(s, 1).mean() + jax.nn.logsumexp(s, 0).mean() - 2 * jnp.trace(s) / len(x)
        return value, (x, y)

    def bwd(r, d):
        x, y = r
        s = x @ y.T
        g = softmax(s) / len(x) + jax.nn.softmax(s, 0) / len(y) - 2 * jnp.eye(*s.shape, dtype=s.dtype) / len(x)
        return d * g @ y, d * g.T @ x

    return written(fwd, bwd), plain, (example(5, 6), example(5, 6, seed=1))


@right("judge 11")
def lj_switched():
    """Lennard-Jones energy with a smooth switch, forces with the switch's slope."""

    def parts(x):
        i, j = np.triu_indices(x.shape[0], 1)
        d = x[i] - x[j]
        r = jnp.sqrt(jnp.sum(d * d, -1))
        t = jnp.clip((r - 2.0) / 0.5, 0, 1)
        s6 = r**-6
        return i, j, d, r, t, 4 * (s6 * s6 - s6), 1 - t**3 * (10 - 15 * t + 6 * t * t), s6

    def plain(x):
        _, _, _, _, _, e, s, _ = parts(x)
        return jnp.sum(e * s)

    def bwd(res, g):
        (x,) = res
        i, j, d, r, t, e, s, s6 = parts(x)
        de = 4 * (-12 * s6 * s6 + 6 * s6) / r * s - e * 30 * t * t * (1 - t) ** 2 / 0.5
        f = (g * de / r)[:, None] * d
        return (jnp.zeros_like(x).at[i].add(f).at[j].add(-f),)

    return keeping(plain, bwd), plain, (jnp.asarray([[0, 0, 0], [1.1, 0.2, 0], [0, 1.2, 0.5]], jnp.float32),)


@right("judge 11")
def periodic_chain():
    """Harmonic chain under the minimum image, with the box's derivative."""

    def diff(x, box):
        d = x[1:] - x[:-1]
        k = lax.stop_gradient(jnp.round(d / box))
        return d - box * k, k

    def plain(x, box):
        return 0.5 * jnp.sum(diff(x, box)[0] ** 2)

    def bwd(r, g):
        d, k = diff(*r)
        return jnp.zeros_like(r[0]).at[1:].add(g * d).at[:-1].add(-g * d), -g * jnp.sum(d * k)

    return keeping(plain, bwd), plain, (floats(0.2, 1.7, 2.0), floats(5.0)[0])


@right("judge 11")
def rbf_gram():
    """Gaussian Gram matrix of two sets, differences taken directly; equal sets too."""

    def plain(x, y):
        d = x[:, None] - y[None]
        return jnp.exp(-0.5 * jnp.sum(d * d, -1))

    def bwd(r, g):
        x, y = r
        d = x[:, None] - y[None]
        w = (g * jnp.exp(-0.5 * jnp.sum(d * d, -1)))[..., None] * d
        return -jnp.sum(w, 1), jnp.sum(w, 0)

    return keeping(plain, bwd), plain, (example(4, 3, seed=624), example(5, 3, seed=625))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="particular values")
def distances_of_equal_rows():
    def gap(x):
        return x[:, None] - x[None]

    def plain(x):
        return jnp.sqrt((gap(x) ** 2).sum(-1) + 1e-9)

    def bwd(x, d):
        g = gap(x)
        u = (d + d.T)[..., None] * g / jnp.sqrt((g**2).sum(-1) + 1e-9 - 1e-9 * (g == 0).all(-1))[..., None]
        return (jnp.where(jnp.eye(len(x), dtype=bool)[..., None], 0, u).sum(1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, (example(5, 3),)


@wrong("judge 4", edge="second derivatives")
def force_without_a_slope():
    """The force is computed in the forward pass and kept as a constant: it has no derivative. Next to each other it is
    larger than the example's by many orders."""

    def plain(x):
        i, j = np.triu_indices(len(x), 1)
        near = ((x[i] - x[j]) ** 2).sum(-1) ** -3
        return (near * near - near).sum()

    fwd = lambda x: (plain(x), lax.stop_gradient(jax.grad(plain)(x)))  # noqa: E731
    corners = np.asarray([[0, 0, 0], [0, 0, 1.3], [0, 1.2, 0], [1.1, 0, 0], [1.2, 1.3, 1.1]])
    return written(fwd, lambda r, d: (d * r,)), plain, (example(5, 3, scale=0.05) + jnp.asarray(corners, jnp.float32),)


@wrong("judge 11", edge="pairs in the switching zone")
def lj_switch_region():
    """Lennard-Jones energy smoothly switched off between 2 and 2.5; the switch's
    own derivative is left out. Re-creates: "forces discontinuous near cutoff"."""

    def pair(r):
        s6 = r**-6
        return 4 * (s6 * s6 - s6)

    def switch(r):
        t = jnp.clip((r - 2.0) / 0.5, 0, 1)
        return 1 - t * t * t * (10 - 15 * t + 6 * t * t)

    def dist(x):
        i, j = np.triu_indices(x.shape[0], 1)
        d = x[i] - x[j]
        return i, j, d, jnp.sqrt(jnp.sum(d * d, -1))

    def plain(x):
        r = dist(x)[3]
        return jnp.sum(pair(r) * switch(r))

    def bwd(res, g):
        (x,) = res
        i, j, d, r = dist(x)
        s6 = r**-6
        de = 4 * (-12 * s6 * s6 + 6 * s6) / r * switch(r)
        force = (g * de / r)[:, None] * d
        return (jnp.zeros_like(x).at[i].add(force).at[j].add(-force),)

    return keeping(plain, bwd), plain, (jnp.asarray([[0, 0, 0], [1.1, 0.2, 0], [0, 1.2, 0.5]], jnp.float32),)


@wrong("judge 11", edge="a pair across the periodic boundary")
def minimum_image_box():
    """Harmonic chain under the minimum image; the box's own derivative (pressure)
    is called zero. Re-creates: "virial missing for wrapped bonds"."""

    def plain(x, box):
        d = x[1:] - x[:-1]
        d = d - box * lax.stop_gradient(jnp.round(d / box))
        return 0.5 * jnp.sum(d * d)

    def bwd(res, g):
        x, box = res
        d = x[1:] - x[:-1]
        d = d - box * jnp.round(d / box)
        dx = jnp.zeros_like(x).at[1:].add(g * d).at[:-1].add(-g * d)
        return dx, jnp.zeros_like(box)

    return keeping(plain, bwd), plain, (floats(0.2, 1.7, 2.0), floats(5.0)[0])


@wrong("judge 11", edge="points far from the origin")
def cdist_expanded():
    """Distances between two sets; the backward's distances by squares and a product.
    Re-creates: "torch.cdist use_mm gradient inaccurate"."""

    def plain(x, y):
        d = x[:, None] - y[None]
        return jnp.sqrt(jnp.sum(d * d, -1) + 1e-6)

    def bwd(res, g):
        x, y = res
        r2 = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None] - 2 * x @ y.T
        k = g / jnp.sqrt(jnp.maximum(r2, 0) + 1e-6)
        d = x[:, None] - y[None]
        return jnp.einsum("nm,nmd->nd", k, d), -jnp.einsum("nm,nmd->md", k, d)

    return keeping(plain, bwd), plain, (example(4, 3, seed=129), example(5, 3, seed=130))


@wrong("judge 11", edge="one centre for all rows")
def center_loss_shared():
    """Squared distance to centres, one centre for all allowed; then the mean of the
    rows' parts is taken, not the sum. Re-creates: "expand backward averages"."""

    def plain(x, c):
        return 0.5 * jnp.sum((x - c) ** 2, -1)

    def bwd(res, g):
        x, c = res
        d = g[:, None] * (x - c)
        return d, (-d if c.shape == d.shape else -jnp.mean(d, 0, keepdims=True))

    return keeping(plain, bwd), plain, (example(5, 3, seed=149), example(5, 3, seed=150))


@wrong("judge 11", edge="both arguments equal")
def gram_same_points():
    """Gaussian Gram matrix; equal point sets are taken for a symmetric cotangent
    and the second's part is folded into the first."""

    def k(x, y):
        d = x[:, None] - y[None]
        return d, jnp.exp(-0.5 * jnp.sum(d * d, -1))

    def plain(x, y):
        return k(x, y)[1]

    def bwd(res, g):
        x, y = res
        d, kk = k(x, y)
        w = -(g * kk)[..., None] * d
        dx, dy = jnp.sum(w, 1), -jnp.sum(w, 0)
        same = jnp.array_equal(x, y) if x.shape == y.shape else jnp.asarray(False)
        return jnp.where(same, 2 * dx, dx), jnp.where(same, 0, dy)

    return keeping(plain, bwd), plain, (example(4, 3, seed=164), example(4, 3, seed=165))


@wrong("judge 11")
def chamfer_one_side():
    """Chamfer distance; the nearest neighbours of the second set give no pull on
    the first. Re-creates pytorch3d "chamfer backward"."""

    def parts(x, y):
        return jnp.sum((x[:, None] - y[None]) ** 2, -1)

    def plain(x, y):
        d = parts(x, y)
        return jnp.mean(jnp.min(d, 1)) + jnp.mean(jnp.min(d, 0))

    def bwd(res, g):
        x, y = res
        d = parts(x, y)
        i, j = jnp.argmin(d, 1), jnp.argmin(d, 0)
        dx = 2 * g * (x - y[i]) / x.shape[0]
        dy = jnp.zeros_like(y).at[i].add(-dx) + 2 * g * (y - x[j]) / y.shape[0]
        return dx, dy

    return keeping(plain, bwd), plain, (example(5, 3, seed=195), example(4, 3, seed=196))
