"""Attention with windows, sinks, pages and packed documents."""

import math

import jax
import jax.numpy as jnp

from corpus.common import (
    MASK,
    example,
    floats,
    integers,
    keeping,
    right,
    rule,
    softmax,
    softmax_back,
    unbroadcast,
    wrong,
)


def _scores(q, k):
    return q @ k.mT * q.shape[-1] ** -0.5


def _scores_back(ds, q, k):
    ds = ds * q.shape[-1] ** -0.5
    return unbroadcast(ds @ k, q.shape), unbroadcast(ds.mT @ q, k.shape)


def _values_back(p, d, v):
    return unbroadcast(p.mT @ d, v.shape)


def _attention_back(p, q, k, v, d):
    return (*_scores_back(softmax_back(p, d @ v.mT), q, k), _values_back(p, d, v))


@wrong("judge 14", "more steps than the window of four")
def attention_sink_lost_past_the_window():
    """Every step sees the four latest keys and the first one; the backward pass forgets the first one."""

    def seen(q, k):
        back = jnp.arange(q.shape[-2])[:, None] - jnp.arange(k.shape[-2])
        return back, (back >= 0) & (back < 4)

    def plain(q, k, v):
        back, window = seen(q, k)
        first = (back >= 0) & (jnp.arange(k.shape[-2]) == 0)
        return softmax(jnp.where(window | first, _scores(q, k), -jnp.inf)) @ v

    def bwd(r, d):
        q, k, v = r
        p = softmax(jnp.where(seen(q, k)[1], _scores(q, k), -jnp.inf))
        return _attention_back(p, q, k, v, d)

    return keeping(plain, bwd), plain, (example(2, 4, 3), example(2, 4, 3, seed=1), example(2, 4, 3, seed=2))


@wrong("judge 14", "a number of heads that is no power of two")
def alibi_slopes_of_six_heads():
    """The slopes of the distances are those of a power of two of heads; others take the rest from twice as many."""

    def biased(q, k, slopes):
        far = jnp.abs(jnp.arange(q.shape[-2])[:, None] - jnp.arange(k.shape[-2]))
        return softmax(_scores(q, k) - jnp.asarray(slopes, q.dtype)[:, None, None] * far)

    def plain(q, k, v):
        heads = q.shape[-3]
        whole = 1 << (heads.bit_length() - 1)
        slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
        slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
        return biased(q, k, slopes) @ v

    def bwd(r, d):
        q, k, v = r
        heads = q.shape[-3]
        return _attention_back(biased(q, k, [2 ** (-8 * (i + 1) / heads) for i in range(heads)]), q, k, v, d)

    return keeping(plain, bwd), plain, (example(4, 5, 3), example(4, 5, 3, seed=1), example(4, 5, 3, seed=2))


@wrong("judge 14", "a page that two sequences share")
def paged_keys_with_a_shared_prefix():
    """The gradients of a page are set and not added, so of two sequences with the same prefix one is lost."""

    def rows(pool, table):
        return pool[table].reshape(table.shape[0], -1, pool.shape[-1])

    def plain(q, keys, values, table):
        return softmax(_scores(q, rows(keys, table))) @ rows(values, table)

    def bwd(r, d):
        q, keys, values, table = r
        k, v = rows(keys, table), rows(values, table)
        dq, dk, dv = _attention_back(softmax(_scores(q, k)), q, k, v, d)
        back = lambda pool, g: jnp.zeros_like(pool).at[table].set(g.reshape(table.shape + pool.shape[1:]))  # noqa: E731
        return dq, back(keys, dk), back(values, dv), None

    q, keys, values = example(2, 3, 4), example(6, 2, 4, seed=1), example(6, 2, 4, seed=2)
    return keeping(plain, bwd), plain, (q, keys, values, integers(3, 0, 2, 5).reshape(2, 2))


@wrong("judge 14", "a document's number that comes again after another's")
def packed_attention_by_runs():
    """Documents packed in a row see only themselves; the backward pass tells them apart by where the number changes."""

    def attended(q, k, ids):
        return softmax(jnp.where(ids[:, None] == ids, _scores(q, k), -jnp.inf))

    def plain(q, k, v, ids):
        return attended(q, k, ids) @ v

    def bwd(r, d):
        q, k, v, ids = r
        runs = jnp.cumsum(jnp.diff(ids, prepend=ids[:1]) != 0)
        return (*_attention_back(attended(q, k, runs), q, k, v, d), None)

    args = example(6, 3), example(6, 3, seed=1), example(6, 4, seed=2), integers(0, 0, 0, 1, 1, 2)
    return keeping(plain, bwd), plain, args


@wrong("judge 14", "more keys than queries")
def sigmoid_attention_counts_queries():
    """The scores of sigmoid attention are lowered by the log of the number of keys, going back by that of queries."""

    def plain(q, k, v):
        return jax.nn.sigmoid(_scores(q, k) - math.log(k.shape[-2])) @ v

    def bwd(r, d):
        q, k, v = r
        p = jax.nn.sigmoid(_scores(q, k) - math.log(q.shape[-2]))
        return (*_scores_back(p * (1 - p) * (d @ v.mT), q, k), _values_back(p, d, v))

    return keeping(plain, bwd), plain, (example(2, 5, 3), example(2, 5, 3, seed=1), example(2, 5, 4, seed=2))


@right("judge 14")
def attention_with_a_learned_sink():
    """Each head has a logit of its own that takes part in the denominator only."""

    def logits(q, k, sink):
        s = _scores(q, k)
        return s, jnp.broadcast_to(sink[:, None, None], (*s.shape[:-1], 1))

    def plain(q, k, v, sink):
        s, t = logits(q, k, sink)
        return softmax(jnp.concatenate([s, t], -1))[..., :-1] @ v

    def fwd(q, k, v, sink):
        s, t = logits(q, k, sink)
        lse = jnp.logaddexp(jax.nn.logsumexp(s, -1, keepdims=True), t)
        p = jnp.exp(s - lse)
        return p @ v, (q, k, v, sink, p, jnp.exp(t - lse))

    def bwd(r, d):
        q, k, v, sink, p, rest = r
        dp = d @ v.mT
        delta = (p * dp).sum(-1, keepdims=True)
        dsink = unbroadcast(-(rest * delta).sum((-2, -1)), sink.shape)
        return (*_scores_back(p * (dp - delta), q, k), _values_back(p, d, v), dsink)

    args = example(3, 4, 2), example(3, 5, 2, seed=1), example(3, 5, 4, seed=2), floats(-1.0, 0.0, 2.5)
    return rule(plain, fwd, bwd), plain, args


@right("judge 14")
def merge_of_two_partial_attentions():
    """Two results over different keys become one, by their log-sums of exponentials, which are merged as well."""

    def plain(a, la, b, lb):
        w = jax.nn.sigmoid(la - lb)[..., None]
        return w * a + (1 - w) * b, jnp.logaddexp(la, lb)

    def bwd(r, d):
        a, la, b, lb = r
        (do, dl), w, u = d, jax.nn.sigmoid(la - lb), jax.nn.sigmoid(lb - la)
        dw = (do * (a - b)).sum(-1) * w * u
        return (
            unbroadcast(do * w[..., None], a.shape),
            unbroadcast(dw, la.shape) + unbroadcast(dl * w, la.shape),
            unbroadcast(do * u[..., None], b.shape),
            unbroadcast(-dw, lb.shape) + unbroadcast(dl * u, lb.shape),
        )

    args = example(3, 4, 2), example(3, 4, seed=1), example(3, 4, 2, seed=2), example(3, 4, seed=3, scale=4.0)
    return keeping(plain, bwd), plain, args


@right("judge 14")
def neighbourhood_shifted_at_the_borders():
    """Each query sees three keys around it; at the borders the neighbourhood is moved inside, not cut."""

    def near(q, k):
        first = jnp.clip(jnp.arange(q.shape[0]) - 1, 0, k.shape[0] - 3)
        return first[:, None] + jnp.arange(3)

    def weights(q, k, at):
        return softmax((k[at] @ q[:, :, None])[..., 0] * q.shape[-1] ** -0.5)

    def plain(q, k, v):
        at = near(q, k)
        return (weights(q, k, at)[:, None] @ v[at])[:, 0]

    def bwd(r, d):
        q, k, v = r
        at = near(q, k)
        p = weights(q, k, at)
        ds = softmax_back(p, (v[at] @ d[:, :, None])[..., 0]) * q.shape[-1] ** -0.5
        dk = jnp.zeros_like(k).at[at].add(ds[..., None] * q[:, None])
        return (ds[:, None] @ k[at])[:, 0], dk, jnp.zeros_like(v).at[at].add(p[..., None] * d[:, None])

    return keeping(plain, bwd), plain, (example(6, 4), example(6, 4, seed=1), example(6, 2, seed=2))


@right("judge 14")
def dropped_attention_by_its_output():
    """The mean that the softmax subtracts is the output times its cotangent, with dropped weights too."""

    def plain(q, k, v, keep):
        return jnp.where(keep, softmax(_scores(q, k)) / 0.75, 0.0) @ v

    def fwd(q, k, v, keep):
        out = plain(q, k, v, keep)
        return out, (q, k, v, keep, out)

    def bwd(r, d):
        q, k, v, keep, out = r
        p = softmax(_scores(q, k))
        dp = jnp.where(keep, d @ v.mT / 0.75, 0.0)
        dq, dk = _scores_back(p * (dp - (d * out).sum(-1, keepdims=True)), q, k)
        return dq, dk, _values_back(jnp.where(keep, p / 0.75, 0.0), d, v), None

    return rule(plain, fwd, bwd), plain, (example(2, 4, 3), example(2, 6, 3, seed=1), example(2, 6, 5, seed=2), MASK)


@right("judge 14")
def differential_attention_of_two_maps():
    """The second map of weights is subtracted from the first, times a learned share."""

    def plain(qa, ka, qb, kb, v, share):
        return (softmax(_scores(qa, ka)) - share * softmax(_scores(qb, kb))) @ v

    def bwd(r, d):
        qa, ka, qb, kb, v, share = r
        pa, pb, dp = softmax(_scores(qa, ka)), softmax(_scores(qb, kb)), d @ v.mT
        return (
            *_scores_back(softmax_back(pa, dp), qa, ka),
            *_scores_back(softmax_back(pb, -share * dp), qb, kb),
            _values_back(pa - share * pb, d, v),
            unbroadcast(-dp * pb, share.shape),
        )

    q, k, v = example(2, 2, 3, 4), example(2, 2, 5, 4, seed=1), example(2, 5, 3, seed=2)
    return keeping(plain, bwd), plain, (q[0], k[0], q[1], k[1], v, jnp.asarray(0.4, q.dtype))
