"""Reductions with a condition, proximal operators, top-k, moments, settings of precision and rank."""

import jax.numpy as jnp
from jax import lax

from corpus.common import (
    LENGTHS,
    MASK,
    SINGLE,
    example,
    floats,
    integers,
    keeping,
    right,
    rule,
    unbroadcast,
    wide,
    written,
    wrong,
)


@wrong("judge 13", "second derivative")
def student_score_with_frozen_weight():
    """The weight (nu + 1) / (nu + x^2) is kept without a derivative, and the second derivative is wrong."""

    def plain(x, nu):
        return -0.5 * (nu + 1) * jnp.log1p(x * x / nu)

    def fwd(x, nu):
        return plain(x, nu), (x, nu, lax.stop_gradient((nu + 1) / (nu + x * x)))

    def bwd(r, d):
        x, nu, weight = r
        return -d * weight * x, (d * 0.5 * (weight * x * x / nu - jnp.log1p(x * x / nu))).sum()

    return rule(plain, fwd, bwd), plain, (example(7, seed=11), jnp.asarray(4.0, SINGLE))


@wrong("judge 13", "ties at the k-th place")
def top_three_mean_by_threshold():
    """All that reach the third place's value get a share, more than three of them where it is tied."""

    def plain(x):
        return lax.top_k(x, 3)[0].mean(-1)

    def bwd(r, d):
        (x,) = r
        third = lax.top_k(x, 3)[0][..., -1:]
        return (jnp.where(x >= third, d[..., None] / 3, 0.0),)

    return keeping(plain, bwd), plain, (example(2, 7, seed=21),)


@wrong("judge 13", "a mask of fewer axes than the values")
def mean_where_by_count_of_mask():
    """The count is that of the mask before it is broadcast."""

    def plain(x, mask):
        return jnp.mean(x, where=mask)

    def bwd(r, d):
        x, mask = r
        return jnp.where(mask, d / mask.sum(), jnp.zeros_like(x)), None

    return keeping(plain, bwd), plain, (example(4, 6, seed=31), MASK)


@right("judge 13")
def project_onto_simplex():
    """Euclidean projection of each row on the simplex; the gradient is centred over the support."""

    def plain(x):
        s = -jnp.sort(-x, axis=-1)
        k = jnp.arange(1, x.shape[-1] + 1)
        count = (s * k > jnp.cumsum(s, -1) - 1).sum(-1, keepdims=True)
        theta = (jnp.where(k <= count, s, 0.0).sum(-1, keepdims=True) - 1) / count
        return jnp.where(x > theta, x - theta, 0.0)

    def fwd(x):
        y = plain(x)
        return y, y > 0

    def bwd(on, d):
        g = jnp.where(on, d, 0.0)
        return (jnp.where(on, g - g.sum(-1, keepdims=True) / on.sum(-1, keepdims=True), 0.0),)

    return rule(plain, fwd, bwd), plain, (example(3, 5, seed=41),)


@right("judge 13")
def group_shrinkage_with_zero_groups():
    """Proximal operator of the sum of the rows' norms; a row within the threshold has no gradient."""

    def plain(x, t):
        s = (x * x).sum(-1, keepdims=True)
        on = s > t * t
        return jnp.where(on, x * (1 - t / jnp.sqrt(jnp.where(on, s, 1.0))), 0.0)

    def bwd(r, d):
        x, t = r
        s = (x * x).sum(-1, keepdims=True)
        on = s > t * t
        inv = jnp.where(s > 0, 1 / jnp.sqrt(jnp.where(s > 0, s, 1.0)), 0.0)
        g, u = jnp.where(on, d, 0.0), x * inv
        dx = g * (1 - t * inv) + u * inv * (t * g * u).sum(-1, keepdims=True)
        return dx, unbroadcast(-g * u, t.shape)

    return keeping(plain, bwd), plain, (example(5, 3, seed=51).at[2].set(0), jnp.asarray(1.2, SINGLE))


@right("judge 13")
def moments_of_lengths():
    """Mean and variance over each row's first `length` steps, used together or one by one; 0 for a length of 0."""

    def split(x, lengths):
        on = (jnp.arange(x.shape[1]) < lengths[:, None]).astype(x.dtype)
        n = jnp.maximum(on.sum(1, keepdims=True), 1)
        mean = (x * on).sum(1, keepdims=True) / n
        return on / n, (x - mean) * on, mean[:, 0]

    def fwd(x, lengths):
        share, e, mean = split(x, lengths)
        return (mean, (share * e * e).sum(1)), (share, e)

    def bwd(r, d):
        share, e = r
        return share * (d[0][:, None] + 2 * e * d[1][:, None]), None

    def plain(x, lengths):
        share, e, mean = split(x, lengths)
        return mean, (share * e * e).sum(1)

    return written(fwd, bwd), plain, (example(4, 6, seed=61), LENGTHS)


@right("judge 13")
def place_by_permutation():
    """x[i] goes to the place perm[i] of the result, perm being a permutation; the backward pass reads from there."""

    def plain(x, perm):
        return jnp.zeros_like(x).at[perm].set(x, unique_indices=True)

    return (
        rule(plain, lambda x, p: (plain(x, p), p), lambda p, d: (d.at[p].get(mode="fill", fill_value=0), None)),
        plain,
        (example(6, 2, seed=71), integers(3, 0, 5, 1, 2, 4)),
    )


@right("judge 13")
def normalized_energy_in_single():
    """Log of the mean square of each row, in float32 whatever comes in; the gradient has the input's dtype."""

    def plain(x):
        return jnp.log(jnp.mean(wide(x) ** 2, -1) + 1e-5)

    def fwd(x):
        power = jnp.mean(wide(x) ** 2, -1) + 1e-5
        return jnp.log(power), (x, 2 / (power * x.shape[-1]))

    def bwd(r, d):
        x, scale = r
        return ((wide(x) * (d * scale)[..., None]).astype(x.dtype),)

    return rule(plain, fwd, bwd), plain, (example(3, 8, seed=81),)


@right("judge 13")
def trapezoid_over_sorted_knots():
    """Integral of samples over knots, by half the span of each knot's neighbours."""

    def plain(y, t):
        return ((y[..., 1:] + y[..., :-1]) * jnp.diff(t)).sum(-1) / 2

    def bwd(r, d):
        y, t = r
        span = jnp.concatenate([t[..., 1:], t[..., -1:]], -1) - jnp.concatenate([t[..., :1], t[..., :-1]], -1)
        pairs = d[..., None] * (y[..., 1:] + y[..., :-1]) / 2
        dt = jnp.zeros(d.shape + t.shape[-1:], t.dtype).at[..., 1:].add(pairs).at[..., :-1].add(-pairs)
        return unbroadcast(d[..., None] * span / 2, y.shape), unbroadcast(dt, t.shape)

    return keeping(plain, bwd), plain, (example(3, 6, seed=91), floats(0.0, 0.3, 1.0, 1.2, 2.0, 2.7))
