"""Embeddings, experts, fused losses, pooling, quantization."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import (
    ZL,
    example,
    floats,
    integers,
    keeping,
    nll,
    right,
    rule,
    softmax,
    wide,
    written,
    wrong,
)

# embeddings -----------------------------------------------------------------------------------------------------------


def _bag_of(offsets, n):
    return (jnp.arange(n)[:, None] >= offsets[None, 1:]).sum(-1)


def _bag_sums(e, indices, offsets):
    bags = jax.nn.one_hot(_bag_of(offsets, indices.shape[0]), offsets.shape[0])
    return bags.T @ e.at[indices].get(mode="fill", fill_value=0)


@wrong("judge 12", "an empty bag")
def embedding_bag_starts_set_not_added():
    """Each place's bag is the running sum of marks at the offsets; marks on one place, of empty bags, count once."""

    def bwd(r, d):
        e, indices, offsets = r
        bag = jnp.cumsum(jnp.zeros(indices.shape, jnp.int32).at[offsets[1:]].set(1, mode="drop"))
        return jnp.zeros_like(e).at[indices].add(d[bag], mode="drop"), None, None

    args = example(7, 3), integers(4, 0, 2, 5, 0, 6, 1), integers(0, 2, 3, 6)
    return keeping(_bag_sums, bwd), _bag_sums, args


@right("judge 12")
def embedding_bag_sorted_search():
    """Each place's bag by binary search; empty bags and repeated indices are fine."""

    def bwd(r, d):
        e, indices, offsets = r
        bag = jnp.searchsorted(offsets[1:], jnp.arange(indices.shape[0]), side="right")
        return jnp.zeros_like(e).at[indices].add(d[bag], mode="drop"), None, None

    args = example(7, 3), integers(4, 0, 2, 5, 0, 6, 1), integers(0, 2, 2, 6)
    return keeping(_bag_sums, bwd), _bag_sums, args


# experts --------------------------------------------------------------------------------------------------------------


@wrong("judge 12", "an expert with more tokens than its capacity")
def capacity_dropped_tokens_still_learn():
    """Tokens beyond an expert's capacity, whose output is zero, get a gradient all the same."""
    capacity = 3

    def plain(x, w, gate, expert):
        chosen = jax.nn.one_hot(expert, w.shape[0])
        place = (jnp.cumsum(chosen, 0) * chosen).sum(-1)
        y = jnp.einsum("td,tde->te", x, w[expert])
        return jnp.where((place <= capacity)[:, None], gate[:, None] * y, 0.0)

    def bwd(r, d):
        x, w, gate, expert = r
        own = w[expert]
        g = gate[:, None] * d
        dw = jnp.zeros_like(w).at[expert].add(x[:, :, None] * g[:, None, :])
        dgate = jnp.einsum("td,tde,te->t", x, own, d)
        return jnp.einsum("te,tde->td", g, own), dw, dgate, None

    args = example(6, 3), example(3, 3, 2, seed=1), jax.nn.sigmoid(example(6, seed=2)), integers(0, 2, 1, 0, 2, 0)
    return keeping(plain, bwd), plain, args


@right("judge 12")
def top_two_gates_renormalised():
    """The softmax over the chosen logits only, scattered back to all experts; the choice itself is a constant."""

    def plain(z):
        i = lax.top_k(z, 2)[1]
        top = jnp.take_along_axis(softmax(z), i, -1)
        gates = top / top.sum(-1, keepdims=True)
        return jnp.zeros_like(z).at[jnp.arange(z.shape[0])[:, None], i].set(gates), i

    def fwd(z):
        top, i = lax.top_k(z, 2)
        first = jax.nn.sigmoid(top[:, 0] - top[:, 1])
        gates = jnp.stack([first, jax.nn.sigmoid(top[:, 1] - top[:, 0])], -1)
        rows = jnp.arange(z.shape[0])[:, None]
        return (jnp.zeros_like(z).at[rows, i].set(gates), i), (gates, i, z)

    def bwd(r, d):
        gates, i, z = r
        s = gates.prod(-1) * (jnp.take_along_axis(d[0], i, -1) @ floats(1, -1))
        rows = jnp.arange(z.shape[0])[:, None]
        return (jnp.zeros_like(z).at[rows, i].set(jnp.stack([s, -s], -1)),)

    return written(fwd, bwd), plain, (example(5, 4),)


# losses ---------------------------------------------------------------------------------------------------------------


def _slope(z, y):
    hot = jax.nn.one_hot(y, z.shape[-1])
    return softmax(z) * hot.sum(-1, keepdims=True) - hot


def _ignoring(z, y):
    kept = y != -100
    return jnp.where(kept, nll(z, y), 0.0).sum() / jnp.maximum(kept.sum(), 1)


@wrong("judge 12", "no label that counts")
def cross_entropy_all_ignored():
    """The backward pass divides by the number of labels that count, also where it is zero."""

    def bwd(r, d):
        z, y = r
        kept = y != -100
        return d / kept.sum() * jnp.where(kept[:, None], _slope(z, y), 0.0), None

    return keeping(_ignoring, bwd), _ignoring, (ZL()[0], integers(2, -100, 0, 6, -100))


@right("judge 12")
def cross_entropy_slope_kept_in_forward():
    """The forward pass keeps the finished gradient, which the backward pass only scales."""

    def fwd(z, y):
        kept = y != -100
        w = wide(z)
        slope = jnp.where(kept[:, None], _slope(w, y), 0.0) / jnp.maximum(kept.sum(), 1)
        return _ignoring(z, y), slope.astype(z.dtype)

    return rule(_ignoring, fwd, lambda s, d: (d * s, None)), _ignoring, (ZL()[0], integers(2, -100, 0, 6, -100))


@wrong("judge 12", "saturated logits")
def focal_loss_log_of_probability():
    """The backward pass takes the logarithm of the rounded probability, which may be zero."""

    def plain(z, y):
        s = jnp.where(y == 1, z, -z)
        return -(jax.nn.sigmoid(-s) ** 2) * jax.nn.log_sigmoid(s)

    def bwd(r, d):
        z, y = r
        sign = jnp.where(y == 1, 1.0, -1.0)
        p = jax.nn.sigmoid(sign * z)
        return d * sign * (1 - p) ** 2 * (2 * p * jnp.log(p) + p - 1), None

    return keeping(plain, bwd), plain, (example(8, scale=2.0), integers(1, 0, 0, 1, 1, 0, 1, 0))


@wrong("judge 12")
def smoothed_labels_lose_their_share():
    """The label's own share of the smoothing is left out of the gradient."""
    smooth = 0.1

    def target(z, y):
        n = z.shape[-1]
        return (1 - smooth) * jax.nn.one_hot(y, n) + smooth / n

    def plain(z, y):
        return -(jax.nn.log_softmax(z) * target(z, y)).sum(-1)

    def bwd(r, d):
        z, y = r
        hot = jax.nn.one_hot(y, z.shape[-1])
        return d[:, None] * (softmax(z) - (1 - smooth) * hot - (1 - hot) * smooth / z.shape[-1]), None

    return keeping(plain, bwd), plain, ZL()


# pooling --------------------------------------------------------------------------------------------------------------


def _pooled(x):
    return x.reshape(x.shape[0], -1, 2, x.shape[-1]).max(2)


@wrong("judge 12", "ties within a window, as of zeros after a ReLU")
def max_pool_each_tie_gets_all():
    """Every one of the equal greatest values of a window gets the whole gradient."""

    def bwd(r, d):
        (x,) = r
        split = x.reshape(x.shape[0], -1, 2, x.shape[-1])
        return (jnp.where(split == split.max(2, keepdims=True), d[:, :, None], 0.0).reshape(x.shape),)

    return keeping(_pooled, bwd), _pooled, (example(3, 6, 2),)


@right("judge 12")
def max_pool_of_relu_from_output():
    """Fused with a ReLU: the ties at the greatest value share, and a window without a positive value gets nothing."""

    def plain(x):
        return jax.nn.relu(_pooled(x))

    def fwd(x):
        split = x.reshape(x.shape[0], -1, 2, x.shape[-1])
        y = split.max(2)
        top = split == y[:, :, None]
        share = top / top.sum(2, keepdims=True)
        return jnp.maximum(y, 0), jnp.where(y[:, :, None] > 0, share, 0.0).astype(x.dtype)

    def bwd(share, d):
        s = share * d[:, :, None]
        return (s.reshape(s.shape[0], -1, s.shape[-1]),)

    return written(fwd, bwd), plain, (example(3, 6, 2),)


@wrong("judge 12", "a length that is not a multiple of the window")
def average_pool_ceil_mode_full_window():
    """The last window, which is shorter, is averaged over its own length, but its gradient over the full one."""
    k = 3

    def plain(x):
        n = -(-x.shape[0] // k)
        padded = jnp.pad(x, ((0, n * k - x.shape[0]), (0, 0)))
        counts = jnp.minimum(k, x.shape[0] - k * jnp.arange(n))
        return padded.reshape(n, k, -1).sum(1) / counts[:, None]

    def bwd(r, d):
        (x,) = r
        return (jnp.repeat(d / k, k, 0)[: x.shape[0]],)

    return keeping(plain, bwd), plain, (example(9, 4),)


# quantization ---------------------------------------------------------------------------------------------------------


def _fake_quantized(x, scale):
    v = jnp.clip(x / scale, -8, 7)
    return (v + lax.stop_gradient(jnp.round(v) - v)) * scale


@wrong("judge 12", "values beyond the range of the integers")
def fake_quantize_range_tested_after_clipping():
    """What lies in range is asked of the integers already clipped, so that saturated values still get a gradient."""

    def fwd(x, scale):
        q = jnp.clip(jnp.round(x / scale), -8, 7)
        return q * scale, (x, scale, q)

    def bwd(r, d):
        x, scale, q = r
        inside = (q >= -8) & (q <= 7)
        return jnp.where(inside, d, 0.0), (d * jnp.where(inside, q - x / scale, q)).sum()

    return written(fwd, bwd), _fake_quantized, (example(4, 6), jnp.float32(0.5))


@right("judge 12")
def fake_quantize_learned_scale():
    """The straight-through slope of the values, and that of the scale from the rounding error."""

    def bwd(r, d):
        x, scale = r
        v = x / scale
        c = jnp.clip(v, -8, 7)
        inside = (v > -8) & (v < 7)
        edge = ((v == -8) | (v == 7)) * 0.5
        slope = jnp.where(inside, 1.0, edge)
        return d * slope, (d * (jnp.round(c) - slope * v)).sum()

    return keeping(_fake_quantized, bwd), _fake_quantized, (example(4, 6, scale=3.0), jnp.float32(0.5))
