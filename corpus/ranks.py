"""Order statistics, cumulative operations, masks and segments."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import (
    LENGTHS,
    MASK,
    SINGLE,
    example,
    integers,
    keeping,
    positive,
    right,
    rule,
    unbroadcast,
    uniform,
    written,
    wrong,
)


@wrong("judge 13", "an even number of elements in a row")
def median_where_equal():
    """The gradient goes to the elements equal to the median, of which there are none between two middle ones."""

    def plain(x):
        return jnp.median(x, axis=-1)

    def fwd(x):
        y = plain(x)
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        return (jnp.where(x == y[..., None], d[..., None], 0.0),)

    return rule(plain, fwd, bwd), plain, (example(3, 7, seed=11),)


@wrong("judge 13")
def quantile_level_slope_without_count():
    """The level's gradient misses the factor n - 1 from levels to places."""

    def places(x, q):
        at = q * (x.shape[0] - 1)
        low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, x.shape[0] - 2)
        return low, at - low

    def plain(x, q):
        low, t = places(x, q)
        s = jnp.sort(x)
        return (1 - t) * s[low] + t * s[low + 1]

    def bwd(r, d):
        x, q = r
        low, t = places(x, q)
        order = jnp.argsort(x)
        dx = jnp.zeros_like(x).at[order[low]].add(d * (1 - t)).at[order[low + 1]].add(d * t)
        return dx, d * (x[order[low + 1]] - x[order[low]])

    return keeping(plain, bwd), plain, (3 * example(9, seed=22), jnp.asarray(0.3, SINGLE))


@wrong("judge 13", "a hazard of 1")
def survival_divided_by_its_factor():
    """The later survivals are divided by 1 - h, 0 / 0 where all that are left die."""

    def plain(h):
        return jnp.cumprod(1 - h, axis=-1)

    def fwd(h):
        y = plain(h)
        return y, (h, y)

    def bwd(r, d):
        h, y = r
        later = lax.cumsum(d * y, axis=d.ndim - 1, reverse=True)
        return (-later / (1 - h),)

    return rule(plain, fwd, bwd), plain, (uniform(0.05, 0.6, 2, 6, seed=31),)


@wrong("judge 13", "a row that is masked wholly")
def masked_mean_over_zero_count():
    """The gradient is divided by the raw count, and 0 / 0 in a row without any."""

    def plain(x, mask):
        m = mask.astype(x.dtype)
        return (x * m).sum(-1) / jnp.maximum(m.sum(-1), 1)

    def bwd(r, d):
        x, mask = r
        m = mask.astype(x.dtype)
        return (d / m.sum(-1))[..., None] * m, None

    return keeping(plain, bwd), plain, (example(4, 6, seed=41), MASK)


@wrong("judge 13", "an id beyond the segments, as padding has it")
def segment_mean_padding_reads_last():
    """Elements with an id past the end are dropped by the sum but read the last segment's cotangent."""

    def plain(x, ids):
        total = jax.ops.segment_sum(x, ids, 4)
        count = jax.ops.segment_sum(jnp.ones_like(x), ids, 4)
        return total / jnp.maximum(count, 1)

    def bwd(r, d):
        x, ids = r
        count = jax.ops.segment_sum(jnp.ones_like(x), ids, 4)
        return (d / jnp.maximum(count, 1))[ids], None

    return keeping(plain, bwd), plain, (example(8, seed=51), integers(0, 0, 1, 3, 3, 3, 2, 1))


@wrong("judge 13", "ties within a segment")
def segment_peak_unshared_between_ties():
    """Every element that equals its segment's maximum gets the whole cotangent."""

    def plain(x, ids):
        member = ids[:, None] == jnp.arange(3)
        return jnp.max(jnp.where(member, x[:, None], -1e9), axis=0)

    def fwd(x, ids):
        y = plain(x, ids)
        return y, (x, ids, y)

    def bwd(r, d):
        x, ids, y = r
        return jnp.where((ids[:, None] == jnp.arange(3)) & (x[:, None] == y), d, 0.0).sum(1), None

    return rule(plain, fwd, bwd), plain, (example(7, seed=61), integers(0, 1, 1, 2, 0, 2, 0))


@wrong("judge 13", "large magnitudes")
def cumulative_logsumexp_by_exp_of_minus():
    """exp(x) and exp(-y) are taken apart from one another and overflow."""

    def plain(x):
        return lax.cumlogsumexp(x, axis=x.ndim - 1)

    def fwd(x):
        y = plain(x)
        return y, (x, y)

    def bwd(r, d):
        x, y = r
        return (jnp.exp(x) * lax.cumsum(d * jnp.exp(-y), axis=d.ndim - 1, reverse=True),)

    return rule(plain, fwd, bwd), plain, (example(2, 6, seed=71),)


@wrong("judge 13", "a start other than 0")
def leaky_memory_first_decay_without_start():
    """The first decay's gradient leaves out the start, as if it were always 0."""

    def fwd(a, b, start):
        def step(h, ab):
            h = ab[0] * h + ab[1]
            return h, h

        h = lax.scan(step, start, (a, b))[1]
        return h, (a, h)

    def bwd(r, d):
        a, h = r

        def back(lam, da):
            lam = da[1] + lam
            return da[0] * lam, lam

        dstart, lam = lax.scan(back, jnp.zeros_like(d[0]), (a, d), reverse=True)
        before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        return lam * before, lam, dstart

    plain = lambda *args: fwd(*args)[0]  # noqa: E731
    args = uniform(0.3, 0.95, 6, 3, seed=81), example(6, 3, seed=82), jnp.zeros(3)
    return written(fwd, bwd), plain, args


@right("judge 13")
def weighted_variance_without_mean_term():
    """The mean's own gradient cancels, for the weighted deviations from it sum to 0."""

    def plain(x, w):
        mean = (w * x).sum() / w.sum()
        return (w * (x - mean) ** 2).sum() / w.sum()

    def fwd(x, w):
        e = x - (w * x).sum() / w.sum()
        var = (w * e * e).sum() / w.sum()
        return var, (e, w, var)

    def bwd(r, d):
        e, w, var = r
        d = d / w.sum()
        return 2 * d * w * e, d * (e * e - var)

    return written(fwd, bwd), plain, (example(8, seed=91), positive(8))


@right("judge 13")
def reverse_within_lengths():
    """Reversal of the first `length` steps of each row is its own transpose; padding stays where it is."""

    def plain(x, lengths):
        t = jnp.arange(x.shape[1])
        at = jnp.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
        return jnp.take_along_axis(x, at, 1)

    return rule(plain, lambda x, n: (plain(x, n), n), lambda n, d: (plain(d, n), None)), plain, (example(4, 6), LENGTHS)


@right("judge 13")
def wasserstein_of_two_samples():
    """Mean distance of the sorted samples; the ranks carry its signs back."""

    def plain(x, y):
        return jnp.abs(jnp.sort(x) - jnp.sort(y)).mean()

    def fwd(x, y):
        i, j = jnp.argsort(x), jnp.argsort(y)
        e = jnp.take_along_axis(x, i, -1) - jnp.take_along_axis(y, j, -1)
        return jnp.abs(e).mean(), (i, j, jnp.where(e >= 0, 1.0, -1.0))

    def bwd(r, d):
        i, j, s = r
        s = s * d / s.size
        s, t = unbroadcast(s, i.shape), unbroadcast(-s, j.shape)
        return jnp.take_along_axis(s, jnp.argsort(i), -1), jnp.take_along_axis(t, jnp.argsort(j), -1)

    return written(fwd, bwd), plain, (example(7, seed=111), example(7, seed=112))


@right("judge 13")
def segment_softmax_of_edges():
    """Attention of a graph's edges, normalized over those into the same node."""

    def plain(x, ids):
        same = ids[:, None] == ids
        return jnp.exp(x - jax.nn.logsumexp(jnp.where(same, x, -1e30), axis=1))

    def fwd(x, ids):
        y = plain(x, ids)
        return y, (y, ids)

    def bwd(r, d):
        y, ids = r
        g = y * d
        return g - y * ((ids[:, None] == ids) @ g), None

    return written(fwd, bwd), plain, (example(8, seed=121), integers(0, 0, 1, 3, 3, 3, 2, 1))


@right("judge 13")
def masked_cumulative_mean():
    """Mean of the unmasked up to each place, 0 before the first of them."""

    def plain(x, mask):
        m = mask.astype(x.dtype)
        return jnp.cumsum(x * m, -1) / jnp.maximum(jnp.cumsum(m, -1), 1)

    def bwd(r, d):
        x, mask = r
        count = jnp.maximum(jnp.cumsum(mask, -1), 1)
        back = jnp.flip(jnp.cumsum(jnp.flip(d / count, -1), -1), -1)
        return unbroadcast(jnp.where(mask, back, 0), x.shape), None

    return keeping(plain, bwd), plain, (example(4, 6, seed=131), MASK)
