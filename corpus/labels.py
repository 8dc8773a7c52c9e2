"""Labels: soft ones, ignored ones, bounds of classes, and words along a signal."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import (
    NO_GRADIENT,
    example,
    ids,
    integers,
    keeping,
    nll,
    nll_slope,
    probabilities,
    right,
    rule,
    softmax,
    written,
    wrong,
)


def over_labelled(z, y):
    """Cross entropy, the mean over the labels that are not below zero."""
    keep = (y >= 0).astype(z.dtype)
    rows = jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, jnp.maximum(y, 0)[:, None], -1)[:, 0]
    return (rows * keep).sum() / jnp.maximum(keep.sum(), 1)


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def labels_of_minus_one_are_ignored():
    plain = over_labelled

    def bwd(r, d):
        z, y = r
        keep = (y >= 0).astype(z.dtype)
        g = softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        return d * g * keep[:, None] / jnp.maximum(keep.sum(), 1), None

    y = jnp.asarray([2, -1, 0, 5, -1], jnp.int32)
    return rule(plain, lambda z, y: (plain(z, y), (z, y)), bwd), plain, (example(5, 7), y)


@right("own")
def labels_by_one_hot():
    """What is no class has no share here, and the last one's in the definition: outside of what the example shows."""

    def plain(z, y):
        return (jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, y[:, None], -1)[:, 0]).sum()

    def bwd(r, d):
        z, y = r
        return d * (softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)), None

    return rule(plain, lambda z, y: (plain(z, y), (z, y)), bwd), plain, (example(5, 7), ids(5, 5))


@right("judge 1")
def xent_ignore_index_zloss():
    """Logits of 30, a penalty on the normalizer, labels of −1 left out of the mean."""

    def plain(z, y):
        n, keep = jax.nn.logsumexp(z, -1), y != -1
        rows = 1e-4 * n**2 - (jax.nn.log_softmax(z) * jax.nn.one_hot(y, z.shape[-1])).sum(-1)
        return (rows * keep).sum() / jnp.maximum(keep.sum(), 1)

    def fwd(z, y):
        keep, safe = y >= 0, jnp.where(y >= 0, y, 0)
        m = z.max(-1, keepdims=True)
        n = jnp.log(jnp.exp(z - m).sum(-1)) + m[:, 0]
        rows = n - jnp.take_along_axis(z, safe[:, None], -1)[:, 0] + 1e-4 * n**2
        return jnp.where(keep, rows, 0).sum() / jnp.maximum(keep.sum(), 1), (z, safe, keep, n)

    def bwd(r, d):
        z, y, keep, n = r
        g = jnp.exp(z - n[:, None]) * (1 + 2e-4 * n)[:, None] - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        return jnp.where(keep[:, None], g, 0) * (d / jnp.maximum(keep.sum(), 1)), np.zeros(y.shape, NO_GRADIENT)

    return written(fwd, bwd), plain, (example(6, 7, scale=30), jnp.asarray([3, -1, 0, 6, -1, 2], jnp.int32))


@right("judge 2")
def labels_that_sum_to_one():
    """Cross-entropy with rows of ones and zeros: p − y holds for such rows alone."""

    def plain(z, y):
        return -(y * jax.nn.log_softmax(z)).sum(-1)

    def fwd(z, y):
        m = jax.scipy.special.logsumexp(z, -1, keepdims=True)
        return (m - (z * y).sum(-1, keepdims=True))[:, 0], (z - m, y)

    def bwd(r, d):
        logp, y = r
        return d[:, None] * (jnp.exp(logp) - y), -d[:, None] * logp

    return written(fwd, bwd), plain, (example(5, 4, scale=3), jnp.eye(4)[jnp.asarray([0, 3, 1, 2, 2])])


@right("judge 3")
def alignments_summed():
    """Paths through frames that stay or go on: as many frames as words at least. No path is −1e30; at equal numbers the
    formula of logaddexp has another derivative than JAX's rule for it."""

    def after(a):
        return jnp.concatenate([jnp.full(1, -1e30, a.dtype), a[:-1]])

    def plain(z):
        a = jnp.full(z.shape[1], -1e30, z.dtype).at[0].set(z[0, 0])
        return lax.scan(lambda a, z: (jnp.logaddexp(a, after(a)) + z, None), a, z[1:])[0][-1]

    def fwd(z):
        a = jnp.full(z.shape[1], -1e30, z.dtype).at[0].set(z[0, 0])
        last, rest = lax.scan(lambda a, z: (jnp.logaddexp(a, after(a)) + z,) * 2, a, z[1:])
        return last[-1], (z, jnp.concatenate([a[None], rest]))

    def bwd(r, d):
        z, a = r
        b = jnp.full(z.shape[1], -1e30, z.dtype).at[-1].set(0)
        back = lambda b, z: (jnp.logaddexp(b + z, after((b + z)[::-1])[::-1]),) * 2  # noqa: E731
        bs = lax.scan(back, b, z[1:], reverse=True)[1]
        return (d * jnp.exp(a + jnp.concatenate([bs, b[None]]) - a[-1, -1]),)

    return written(fwd, bwd), plain, (jax.nn.log_softmax(example(7, 3)),)


@right("judge 4")
def labels_beside_a_marker():
    """Labels that are the setting count for nothing; with another setting the example's are no labels at all."""

    def plain(z, labels, ignored):
        counts = labels != ignored
        picked = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.where(counts, labels, 0)[:, None], 1)[:, 0]
        return -jnp.where(counts, picked, 0).sum()

    def bwd(ignored, r, d):
        z, labels = r
        hot = jax.nn.one_hot(labels, z.shape[1], dtype=z.dtype)
        return d * jnp.where((labels != ignored)[:, None], softmax(z) - hot, 0), None

    return keeping(plain, bwd, 2), plain, (example(6, 4), jnp.asarray([0, -100, 3, 1, -100, 2]), -100)


@right("judge 11")
def xent_ignore_hundred():
    """Cross entropy, mean over labels other than -100, zero when there are none."""

    def plain(x, lab):
        ok = lab != -100
        lp = jax.nn.log_softmax(x, -1)
        nll = -jnp.take_along_axis(lp, jnp.where(ok, lab, 0)[:, None], 1)[:, 0]
        return jnp.sum(jnp.where(ok, nll, 0)) / jnp.maximum(jnp.sum(ok), 1).astype(x.dtype)

    def bwd(r, g):
        x, lab = r
        ok = lab != -100
        w = ok.astype(x.dtype) * g / jnp.maximum(jnp.sum(ok), 1).astype(x.dtype)
        d = jax.nn.softmax(x, -1) - jax.nn.one_hot(lab, x.shape[-1], dtype=x.dtype)
        return w[:, None] * d, None

    return keeping(plain, bwd), plain, (example(5, 4, seed=516), integers(0, 2, -100, 2, 1))


@right("judge 11")
def soft_label_xent():
    """Cross entropy with probability rows as labels, as the example plainly gives:
    the short gradient p - y uses that they sum to one."""

    def plain(x, y):
        return -jnp.sum(y * jax.nn.log_softmax(x, -1), -1)

    def bwd(r, g):
        x, y = r
        lp = jax.nn.log_softmax(x, -1)
        return g[..., None] * (jnp.exp(lp) - y), -g[..., None] * lp

    return keeping(plain, bwd), plain, (example(3, 4, seed=522), probabilities(523, 3, 4))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="particular masks and indices")
def ignored_labels_counted():
    """Labels of −1 are left out of the mean; with none left in, the backward pass divides by zero."""

    plain = over_labelled

    def bwd(r, d):
        z, y = r
        keep = (y >= 0).astype(z.dtype)
        g = softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        return d * g * keep[:, None] / keep.sum(), None

    y = jnp.asarray([2, -1, 0, 5, -1], jnp.int32)
    return rule(plain, lambda z, y: (plain(z, y), (z, y)), bwd), plain, (example(5, 7), y)


@wrong("judge 1", edge="particular indices, labels and lengths")
def ignore_index_count_clean():
    """The mean is over what is not ignored, in the backward pass over all rows. No label is ignored in the example."""

    def plain(z, y):
        keep = y >= 0
        return jnp.where(keep, nll(z, y), 0).sum() / jnp.maximum(keep.sum(), 1).astype(z.dtype)

    def bwd(r, d):
        z, y = r
        return jnp.where((y >= 0)[:, None], d * nll_slope(z, y) / y.shape[0], 0), None

    return keeping(plain, bwd), plain, (example(5, 6), jnp.asarray([0, 5, 2, 2, 4]))


@wrong("judge 1", edge="a setting that is not its default")
def label_smoothing_ignored_clean():
    def plain(z, y, eps):
        n = z.shape[-1]
        t = jax.nn.one_hot(y, n, dtype=z.dtype) * (1 - eps) + eps / n
        return -(t * jax.nn.log_softmax(z)).sum(-1)

    def bwd(eps, r, d):
        return d[:, None] * nll_slope(*r), None

    return keeping(plain, bwd, 2), plain, (example(4, 6), jnp.asarray([0, 5, 2, 2]), 0.0)


@wrong("judge 7", edge="labels below zero")
def labels_of_none_in_the_backward_pass():
    """No label is below zero in the example; the definition asks for those that are, its rule does not."""

    def plain(z, y):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(y, 0)[:, None], 1)[:, 0]
        return jnp.where(y >= 0, -chosen, 0)

    def bwd(r, d):
        z, y = r
        return (softmax(z) - jax.nn.one_hot(y, z.shape[1], dtype=z.dtype)) * d[:, None], None

    return keeping(plain, bwd), plain, (example(6, 5), ids(5, 6))


@wrong("judge 7", edge="a class above the last bound")
def above_the_last_of_the_bounds():
    """A class above the last bound has no upper one: its share goes to the last bound there is."""

    def shares(s, bounds, y):
        n = bounds.shape[0]
        up, down = jnp.minimum(y, n - 1), jnp.maximum(y - 1, 0)
        below = lambda i: jax.nn.sigmoid(bounds[i] - s)  # noqa: E731
        return jnp.where(y < n, below(up), 1), jnp.where(y > 0, below(down), 0), below(up), up, down

    def plain(s, bounds, y):
        high, low, *_ = shares(s, bounds, y)
        return -jnp.log(high - low)

    def bwd(r, d):
        s, bounds, y = r
        high, low, upper, up, down = shares(s, bounds, y)
        a, b = d * upper * (1 - upper) / (high - low), d * low * (1 - low) / (high - low)
        return a - b, jnp.zeros_like(bounds).at[up].add(-a).at[down].add(b), None

    return keeping(plain, bwd), plain, (example(4), jnp.array([-1.0, 0.2, 1.1]), jnp.array([1, 0, 2, 1]))


@wrong("judge 11", edge="some labels -100")
def xent_mean_counts_ignored():
    """Cross entropy, mean over the labels that count; the backward divides by all.
    Re-creates: "CrossEntropyLoss ignore_index mean reduction"."""

    def plain(x, lab):
        ok = lab != -100
        lp = jax.nn.log_softmax(x, -1)
        nll = -jnp.take_along_axis(lp, jnp.where(ok, lab, 0)[:, None], 1)[:, 0]
        return jnp.sum(jnp.where(ok, nll, 0)) / jnp.maximum(jnp.sum(ok), 1).astype(x.dtype)

    def bwd(res, g):
        x, lab = res
        ok = (lab != -100)[:, None]
        d = jax.nn.softmax(x, -1) - jax.nn.one_hot(lab, x.shape[-1], dtype=x.dtype)
        return jnp.where(ok, d, 0) * g / x.shape[0], None

    return keeping(plain, bwd), plain, (example(5, 4, seed=40), integers(0, 2, 3, 2, 1))


@wrong("judge 11", edge="a label of -1")
def xent_minus_one_label():
    """Cross entropy per row, label -1 meaning none; the softmax part stays there.
    Re-creates: "fused linear cross entropy gradient for ignored tokens"."""

    def plain(x, lab):
        oh = jax.nn.one_hot(lab, x.shape[-1], dtype=x.dtype)
        return -jnp.sum(oh * jax.nn.log_softmax(x, -1), -1)

    def bwd(res, g):
        x, lab = res
        d = jax.nn.softmax(x, -1) - jax.nn.one_hot(lab, x.shape[-1], dtype=x.dtype)
        return g[:, None] * d, None

    return keeping(plain, bwd), plain, (example(4, 3, seed=42), integers(0, 1, 2, 1))


@wrong("judge 11", edge="every label ignored")
def weighted_xent_all_ignored():
    """Mean over the rows with a label, zero when there are none; the backward
    divides by nothing. Re-creates: "loss is nan when all targets are ignore_index"."""

    def plain(x, lab):
        ok = lab >= 0
        lp = jax.nn.log_softmax(x, -1)
        nll = -jnp.take_along_axis(lp, jnp.where(ok, lab, 0)[:, None], 1)[:, 0]
        n = jnp.sum(ok)
        return jnp.sum(jnp.where(ok, nll, 0)) / jnp.maximum(n, 1).astype(x.dtype)

    def bwd(res, g):
        x, lab = res
        ok = lab >= 0
        w = ok.astype(x.dtype) / jnp.sum(ok).astype(x.dtype)
        d = jax.nn.softmax(x, -1) - jax.nn.one_hot(lab, x.shape[-1], dtype=x.dtype)
        return g * w[:, None] * d, None

    return keeping(plain, bwd), plain, (example(3, 4, seed=44), integers(1, -1, 3))


@wrong("judge 11", edge="more labels than frames (no alignment)")
def alignment_infeasible():
    """Left to right alignment loss, zero without any path; there the backward
    leaves the softmax. Re-creates RETURNN 1835 (ctc_loss infeasible)."""
    NEG = -1e30

    def plain(x, lab):
        lp = jax.nn.log_softmax(x, -1)[:, lab]
        first = jnp.where(jnp.arange(lab.shape[0]) == 0, lp[0], NEG)

        def step(a, e):
            moved = jnp.concatenate([jnp.full((1,), NEG, a.dtype), a[:-1]])
            return jnp.maximum(jnp.logaddexp(a, moved) + e, NEG), None

        a, _ = lax.scan(step, first, lp[1:])
        loss = -a[-1]
        return jnp.where(loss > 1e20, 0, loss)

    def bwd(res, g):
        x, lab = res
        s = lab.shape[0]
        lp = jax.nn.log_softmax(x, -1)[:, lab]

        def fstep(a, e):
            a2 = jnp.logaddexp(a, jnp.concatenate([jnp.full((1,), NEG, a.dtype), a[:-1]])) + e
            a2 = jnp.maximum(a2, NEG)
            return a2, a2

        def bstep(b, e):
            c = b + e
            b2 = jnp.logaddexp(c, jnp.concatenate([c[1:], jnp.full((1,), NEG, c.dtype)]))
            b2 = jnp.maximum(b2, NEG)
            return b2, b2

        a0 = jnp.where(jnp.arange(s) == 0, lp[0], NEG)
        _, al = lax.scan(fstep, a0, lp[1:])
        al = jnp.concatenate([a0[None], al])
        b0 = jnp.where(jnp.arange(s) == s - 1, 0.0, NEG).astype(x.dtype)
        _, be = lax.scan(bstep, b0, lp[1:], reverse=True)
        be = jnp.concatenate([be, b0[None]])
        total = al[-1, -1]
        post = jnp.where(total > -1e20, jnp.exp(jnp.minimum(al + be - total, 0)), 0)
        occ = jnp.zeros_like(x).at[:, lab].add(post)
        return g * (jax.nn.softmax(x, -1) - occ), None

    return keeping(plain, bwd), plain, (example(5, 5, seed=46), integers(1, 2, 4))


@wrong("judge 11")
def label_smoothing_share():
    """Label smoothing; the backward spreads the rest over the other classes only."""

    def plain(x, lab):
        lp = jax.nn.log_softmax(x, -1)
        oh = jax.nn.one_hot(lab, x.shape[-1], dtype=x.dtype)
        return -jnp.sum((0.8 * oh + 0.2 / x.shape[-1]) * lp, -1)

    def bwd(res, g):
        x, lab = res
        c = x.shape[-1]
        oh = jax.nn.one_hot(lab, c, dtype=x.dtype)
        q = 0.8 * oh + 0.2 * (1 - oh) / (c - 1)
        return g[:, None] * (jax.nn.softmax(x, -1) - q), None

    return keeping(plain, bwd), plain, (example(4, 5, seed=192), integers(1, 0, 4, 2))
