"""Segments of rows, groups, and rows that are sent to experts."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import example, integers, keeping, right, rule, softmax, softmax_back, uniform, written, wrong


def segments(x, s):
    return jax.ops.segment_sum(jnp.sin(x), s, 3)


def _group_ids(sizes, n):
    return jnp.repeat(jnp.arange(sizes.shape[0]), sizes, total_repeat_length=n)


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def sorted_segments():
    def plain(x, s):
        return jax.ops.segment_sum(x, s, 4, indices_are_sorted=True)

    s = jnp.asarray([0, 0, 1, 1, 1, 3], jnp.int32)
    f = rule(plain, lambda x, s: (plain(x, s), s), lambda s, d: (d[s], None))
    return f, plain, (example(6, 3), s)


@right("own")
def pointers_of_rows():
    """Sums of the rows between neighbouring pointers, by differences of a running sum."""

    def plain(x, p):
        i = jnp.arange(x.shape[0])
        m = (i[None] >= p[:-1, None]) & (i[None] < p[1:, None])
        return m.astype(x.dtype) @ x

    def bwd(r, d):
        n, p = r
        return d[jnp.searchsorted(p, jnp.arange(n.shape[0]), side="right") - 1], None

    return rule(plain, lambda x, p: (plain(x, p), (x, p)), bwd), plain, (example(6, 3), jnp.asarray([0, 2, 3, 6]))


@right("judge 1")
def router_to_one_expert():
    """The gate, the expert's number, and the loss that balances the load."""

    def plain(x, w):
        p = softmax(x @ w)
        i = p.argmax(-1).astype(jnp.int32)
        hot = jax.nn.one_hot(i, w.shape[1], dtype=p.dtype)
        return (p * hot).sum(-1), i, w.shape[1] * (hot.mean(0) * p.mean(0)).sum()

    def bwd(r, ds):
        x, w = r
        p = softmax(x @ w)
        hot = jax.nn.one_hot(p.argmax(-1), w.shape[1], dtype=p.dtype)
        g = softmax_back(p, hot * ds[0][:, None] + ds[2] * w.shape[1] * hot.mean(0) / len(p))
        return g @ w.T, x.T @ g

    return keeping(plain, bwd), plain, (example(8, 5), example(5, 4, seed=1))


@right("judge 1")
def mean_of_segments():
    """Some segments are empty."""

    def plain(x, s, n):
        total = jax.ops.segment_sum(x, s, n)
        return total / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(x[:, :1]), s, n), 1)

    def fwd(x, s, n):
        count = jnp.zeros(n, x.dtype).at[s].add(1)
        each = jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0)[:, None]
        return jnp.zeros((n, *x.shape[1:]), x.dtype).at[s].add(x) * each, (s, each)

    def bwd(n, r, d):
        return (d * r[1])[r[0]], None

    return written(fwd, bwd, 2), plain, (example(8, 4), jnp.asarray([0, 2, 2, 5, 0, 2, 5, 5], jnp.int32), 7)


@right("judge 2")
def pooled_by_sorted_segments():
    """As many segments as a setting says; the last of them is empty in the example."""

    def plain(x, at, n):
        return (jnp.arange(n)[:, None] == at).astype(x.dtype) @ x

    def back(n, r, d):
        return d[r[1]], None

    return (
        keeping(lambda x, at, n: jax.ops.segment_sum(x, at, n, indices_are_sorted=True), back, 2),
        plain,
        (example(9, 2), jnp.asarray([0, 0, 1, 1, 1, 3, 3, 4, 4]), 6),
    )


@right("judge 7")
def spread_within_three_segments():
    """Segments are three, and more are dropped in the forward pass: the example has fewer numbers than rows."""

    def parts(x, at):
        n = jnp.maximum(jax.ops.segment_sum(jnp.ones_like(x), at, 3), 1)
        c = x - (jax.ops.segment_sum(x, at, 3) / n)[at]
        return n, c

    def plain(x, at):
        n, c = parts(x, at)
        return jax.ops.segment_sum(c * c, at, 3) / n

    def bwd(r, d):
        n, c = parts(*r)
        return 2 * c * (d / n)[r[1]], None

    return keeping(plain, bwd), plain, (example(6), jnp.array([0, 2, 2, 0, 0, 2]))


@right("judge 11")
def segment_sum_three():
    """Segment sum into three; ids of three and more are padding and dropped, so
    their rows get zero."""

    def plain(x, ids):
        return jax.ops.segment_sum(x, ids, num_segments=3)

    def bwd(r, g):
        return g.at[r[1]].get(mode="fill", fill_value=0), None

    return keeping(plain, bwd), plain, (example(6, 2, seed=473), integers(0, 1, 1, 2, 2, 0))


@right("judge 11")
def segment_mean_empty():
    """Segment mean into four, zero for empty ones. Re-creates torch-scatter 118
    (segment_csr mean with an empty group)."""

    def count(ids):
        return jnp.maximum(jax.ops.segment_sum(jnp.ones(ids.shape, jnp.float32), ids, 4), 1)

    def plain(x, ids):
        return jax.ops.segment_sum(x, ids, 4) / count(ids).astype(x.dtype)

    def bwd(r, g):
        _x, ids = r
        return (g / count(ids).astype(g.dtype))[ids], None

    return keeping(plain, bwd), plain, (example(6, seed=477), integers(0, 1, 1, 2, 3, 3))


@right("judge 11")
def edge_softmax():
    """Softmax over the edges of each node (graph attention)."""

    def plain(x, ids):
        m = jax.ops.segment_max(lax.stop_gradient(x), ids, 4)
        e = jnp.exp(x - m[ids])
        return e / jax.ops.segment_sum(e, ids, 4)[ids]

    f = jax.custom_vjp(plain)

    def fwd(x, ids):
        y = plain(x, ids)
        return y, (y, ids)

    def bwd(r, g):
        y, ids = r
        return y * (g - jax.ops.segment_sum(y * g, ids, 4)[ids]), None

    f.defvjp(fwd, bwd)
    return f, plain, (example(6, seed=481), integers(0, 1, 1, 2, 3, 3))


@right("judge 11")
def grouped_linear_sizes():
    """Grouped product by sizes that sum to the rows; empty groups get zero."""

    def plain(x, w, sizes):
        return jnp.einsum("nd,nde->ne", x, w[_group_ids(sizes, x.shape[0])])

    def bwd(r, g):
        x, w, sizes = r
        ids = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(x.shape[0]), side="right")
        dw = jax.ops.segment_sum(x[:, :, None] * g[:, None, :], ids, w.shape[0])
        return jnp.einsum("ne,nde->nd", g, w[ids]), dw, None

    return keeping(plain, bwd), plain, (example(6, 3, seed=488), example(3, 3, 2, seed=489), integers(2, 1, 3))


@right("judge 11")
def moe_capacity_two():
    """Routing with room for two tokens an expert, dropped ones give nothing."""

    def kept(e):
        oh = jax.nn.one_hot(e, 2, dtype=jnp.int32)
        return (jnp.sum(jnp.cumsum(oh, 0) * oh, 1) - 1 < 2)[:, None]

    def plain(x, gate, e):
        return jnp.where(kept(e), gate[:, None] * jnp.sin(x), 0)

    def bwd(r, g):
        x, gate, e = r
        g = jnp.where(kept(e), g, 0)
        return g * gate[:, None] * jnp.cos(x), jnp.sum(g * jnp.sin(x), 1), None

    return keeping(plain, bwd), plain, (example(4, 3, seed=495), uniform(0.2, 1, 4, seed=496), integers(0, 1, 0, 1))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="particular masks and indices")
def all_in_one_segment():
    def plain(x, s):
        return jax.ops.segment_max(x, s, 3)

    def bwd(r, d):
        x, s, y = r
        return d[s] * (x == y[s]).astype(d.dtype) * (len(x) > 1), None

    x = jnp.asarray([1.0, -0.5, 2.0, 0.3, -1.0, 0.7], jnp.float32)
    return (
        rule(plain, lambda x, s: (plain(x, s), (x, s, plain(x, s))), bwd),
        plain,
        (x, jnp.asarray([0, 1, 2, 0, 1, 2])),
    )


@wrong("judge 1", edge="particular indices, labels and lengths")
def segments_taken_for_sorted():
    def bwd(r, d):
        x, s = r
        ordered = jnp.minimum(jnp.sort(jnp.where(s < 0, 3, s)), 3)
        g = jnp.concatenate([d, jnp.zeros_like(d[:1])])[ordered]
        return jnp.where((s >= 0) & (s < 3), g, 0) * jnp.cos(x), None

    return keeping(segments, bwd), segments, (example(8), jnp.asarray([0, 0, 0, 1, 1, 2, 2, 2]))


@wrong("judge 1", edge="particular indices, labels and lengths")
def no_segment_takes_the_last():
    """What is beyond the last segment is left out of the sums; the backward pass gives it the last one's cotangent."""

    def bwd(r, d):
        x, s = r
        return d[s] * jnp.cos(x), None

    return keeping(segments, bwd), segments, (example(6), jnp.asarray([0, 2, 1, 1, 2, 0]))


@wrong("judge 7", edge="segments that are not in order")
def as_many_segments_as_columns():
    """The backward pass repeats by counts, as if rows came in order; the example's do, and its last segment is numbered
    like the end of another axis."""

    def mean(x, at):
        return jax.ops.segment_sum(x, at, 4) / jnp.maximum(jnp.bincount(at, length=4), 1)[:, None].astype(x.dtype)

    def bwd(r, d):
        count = jnp.bincount(r[1], length=4)
        share = d / jnp.maximum(count, 1)[:, None].astype(d.dtype)
        return jnp.repeat(share, count, axis=0, total_repeat_length=r[1].shape[0]), None

    return keeping(mean, bwd), mean, (example(7, 3), jnp.array([0, 0, 1, 1, 1, 3, 3]))


@wrong("judge 11", edge="segment id equal to the number of segments (padding)")
def segment_sum_padding_id():
    """Segment sum into three, ids of padding dropped by the definition but
    clamped by the gather of the backward. Re-creates: "jraph padding nodes get gradient"."""

    def plain(x, ids):
        return jax.ops.segment_sum(x, ids, num_segments=3)

    def bwd(res, g):
        _x, ids = res
        return g.at[ids].get(mode="clip"), None

    return keeping(plain, bwd), plain, (example(6, seed=52), integers(0, 1, 1, 2, 2, 0))


@wrong("judge 11", edge="an empty group between others")
def grouped_linear_marks():
    """Grouped product of a mixture of experts; the backward finds each row's group
    from marks that are set at the starts, so empty groups are lost."""

    def plain(x, w, sizes):
        return jnp.einsum("nd,nde->ne", x, w[_group_ids(sizes, x.shape[0])])

    def bwd(res, g):
        x, w, sizes = res
        n = x.shape[0]
        starts = jnp.cumsum(sizes)[:-1]
        ids = jnp.cumsum(jnp.zeros((n,), jnp.int32).at[starts].set(1, mode="drop"))
        dx = jnp.einsum("ne,nde->nd", g, w[ids])
        dw = jax.ops.segment_sum(jnp.einsum("nd,ne->nde", x, g), ids, w.shape[0])
        return dx, dw, None

    return keeping(plain, bwd), plain, (example(6, 3, seed=59), example(3, 3, 2, seed=60), integers(2, 1, 3))


@wrong("judge 11", edge="an empty group")
def group_scale_reduceat():
    """A scale for each run of rows; sums over runs as np.add.reduceat makes them,
    where an empty run yields its first row. Re-creates tokamax 887 (ragged_dot)."""

    def plain(x, s, sizes):
        return x * s[_group_ids(sizes, x.shape[0])]

    def bwd(res, g):
        x, s, sizes = res
        n = x.shape[0]
        c = jnp.concatenate([jnp.zeros((1,), x.dtype), jnp.cumsum(g * x)])
        end = jnp.cumsum(sizes)
        start = end - sizes
        stop = jnp.minimum(jnp.maximum(end, start + 1), n)
        return g * s[_group_ids(sizes, n)], c[stop] - c[start], None

    return keeping(plain, bwd), plain, (example(7, seed=63), example(4, seed=64), integers(3, 1, 2, 1))


@wrong("judge 11", edge="the first group empty")
def group_bias_first_empty():
    """A bias for each run of rows; sums by differences of a running sum at
    end - 1, which wraps for an empty first run."""

    def plain(x, b, sizes):
        return jnp.tanh(x) + b[_group_ids(sizes, x.shape[0])]

    def bwd(res, g):
        x, _b, sizes = res
        c = jnp.cumsum(g)
        last = jnp.cumsum(sizes) - 1
        up = c[last]
        low = jnp.concatenate([jnp.zeros((1,), c.dtype), up[:-1]])
        return g * (1 - jnp.tanh(x) ** 2), up - low, None

    return keeping(plain, bwd), plain, (example(6, seed=67), example(3, seed=68), integers(1, 3, 2))


@wrong("judge 11", edge="an expert above its capacity")
def moe_dropped_tokens():
    """Routing with room for two tokens per expert, the rest dropped; the gates of
    dropped tokens still get a derivative. Re-creates: "MoE capacity drop gate grad"."""

    def kept(e):
        oh = jax.nn.one_hot(e, 2, dtype=jnp.int32)
        pos = jnp.sum(jnp.cumsum(oh, 0) * oh, 1) - 1
        return pos < 2

    def plain(x, gate, e):
        return jnp.where(kept(e)[:, None], gate[:, None] * jnp.sin(x), 0)

    def bwd(res, g):
        x, gate, e = res
        k = kept(e)[:, None]
        return jnp.where(k, g * gate[:, None] * jnp.cos(x), 0), jnp.sum(g * jnp.sin(x), 1), None

    return keeping(plain, bwd), plain, (example(4, 3, seed=71), uniform(0.2, 1, 4, seed=72), integers(0, 1, 0, 1))


@wrong("judge 11", edge="more than 256 segments")
def segment_byte_ids():
    """A bias per segment, ids kept in one byte for the backward."""

    def plain(x, ids, b):
        return x + b[ids]

    f = jax.custom_vjp(plain)

    def fwd(x, ids, b):
        return plain(x, ids, b), (ids.astype(jnp.uint8), b)

    def bwd(res, g):
        ids, b = res
        return g, None, jnp.zeros_like(b).at[ids.astype(jnp.int32)].add(g)

    f.defvjp(fwd, bwd)
    return f, plain, (example(6, seed=89), integers(0, 2, 1, 2, 0, 1), example(3, seed=90))
