"""Sparse matrices, ragged rows, segments, trees and graphs."""

import jax.numpy as jnp
from jax import lax

from corpus.common import MASK, example, integers, keeping, right, rule, unbroadcast, uniform, wrong


@wrong("judge 15", "an entry on the diagonal")
def half_stored_matrix_times_vector():
    """An entry's gradient counts both of its places, also where they are one on the diagonal."""

    def plain(values, x, rows, columns):
        y = jnp.zeros_like(x).at[rows].add(values * x[columns])
        return y.at[columns].add(jnp.where(rows == columns, 0.0, values) * x[rows])

    def bwd(r, d):
        values, x, rows, columns = r
        mirrored = jnp.where(rows == columns, 0.0, values)
        gx = jnp.zeros_like(x).at[columns].add(values * d[rows]).at[rows].add(mirrored * d[columns])
        return d[rows] * x[columns] + d[columns] * x[rows], gx, None, None

    places = integers(0, 0, 1, 2, 3, 1), integers(1, 3, 2, 4, 4, 4)
    return keeping(plain, bwd), plain, (example(6), example(5, seed=1), *places)


@wrong("judge 15", "a segment of one member")
def unbiased_variance_of_one_member():
    """A member's share is divided by one less than their number, which is zero for a single one."""

    def parts(x, s):
        n = jnp.zeros(3, x.dtype).at[s].add(1)
        mean = jnp.zeros(3, x.dtype).at[s].add(x) / jnp.maximum(n, 1)
        return n, x - mean[s]

    def plain(x, s):
        n, e = parts(x, s)
        return jnp.zeros(3, x.dtype).at[s].add(e * e) / jnp.maximum(n - 1, 1)

    def bwd(r, d):
        x, s = r
        n, e = parts(x, s)
        return 2 * d[s] * e / (n[s] - 1), None

    return keeping(plain, bwd), plain, (example(8, seed=2), integers(0, 1, 1, 0, 2, 2, 2, 0))


@wrong("judge 15", "negative weights")
def rows_shared_by_absolute_weight():
    """The slope of the absolute value is taken for one whatever the weight's sign."""

    def total(w, rows):
        return jnp.zeros(4, w.dtype).at[rows].add(jnp.abs(w))

    def plain(w, rows):
        return w / total(w, rows)[rows]

    def bwd(r, d):
        w, rows = r
        size = total(w, rows)[rows]
        pull = jnp.zeros(4, w.dtype).at[rows].add(d * w)[rows]
        return d / size - pull / size**2, None

    return keeping(plain, bwd), plain, (uniform(0.2, 2.0, 8, seed=3), integers(0, 0, 1, 3, 2, 1, 3, 0))


@wrong("judge 15", "a bin below the first")
def counts_below_the_first_bin():
    """What lies below the first bin is counted there, but its gradient is read from the end."""

    def plain(w, bins):
        return jnp.zeros(5, w.dtype).at[jnp.clip(bins, 0, 4)].add(w)

    def bwd(bins, d):
        return d[jnp.minimum(bins, 4)], None

    return rule(plain, lambda w, b: (plain(w, b), b), bwd), plain, (example(7, seed=4), integers(0, 3, 1, 4, 4, 2, 0))


@wrong("judge 15", "a row longer than the width")
def ragged_rows_longer_than_the_width():
    """What was cut off a long row gets the gradient of the row's last place."""
    width = 4

    def plain(x, lengths):
        start = jnp.cumsum(lengths) - lengths
        at = jnp.minimum(start[:, None] + jnp.arange(width), x.shape[0] - 1)
        return jnp.where(jnp.arange(width) < lengths[:, None], x[at], 0.0)

    def bwd(r, d):
        x, lengths = r
        n = x.shape[0]
        start = jnp.cumsum(lengths) - lengths
        row = jnp.repeat(jnp.arange(lengths.shape[0]), lengths, total_repeat_length=n)
        place = jnp.arange(n) - start[row]
        return jnp.where(place < lengths[row], d[row, jnp.minimum(place, width - 1)], 0.0), None

    return keeping(plain, bwd), plain, (example(10, seed=5), integers(3, 1, 4, 2))


@wrong("judge 15")
def packed_symmetric_diagonal_twice():
    """Entries on the diagonal get the sum over both of an entry's places, though they have one."""
    i, j = jnp.tril_indices(3)

    def plain(v):
        a = jnp.zeros((3, 3), v.dtype).at[i, j].set(v)
        return a + a.T - jnp.diag(jnp.diag(a))

    return rule(plain, lambda v: (plain(v), None), lambda _, d: ((d + d.T)[i, j],)), plain, (example(6, seed=6),)


@right("judge 15")
def blocks_times_vectors():
    """A matrix of blocks, two of them at one place and a row without any, times a vector in pieces."""

    def plain(blocks, x, rows, columns):
        products = jnp.einsum("kab,kb->ka", blocks, x[columns])
        return jnp.zeros((4, blocks.shape[1]), x.dtype).at[rows].add(products)

    def bwd(r, d):
        blocks, x, rows, columns = r
        g = d.at[rows].get(mode="fill", fill_value=0)
        gx = jnp.zeros_like(x).at[columns].add(jnp.einsum("kab,ka->kb", blocks, g))
        return jnp.einsum("ka,kb->kab", g, x[columns]), gx, None, None

    places = integers(0, 3, 1, 0, 1), integers(1, 0, 2, 1, 0)
    return keeping(plain, bwd), plain, (example(5, 2, 3, seed=7), example(3, 3, seed=8), *places)


@right("judge 15")
def kept_values_moved_to_the_front():
    """Values under the mask in their order, then zeros; the gradient is read at each value's new place."""

    def plain(x, mask):
        (n,) = x.shape
        order = jnp.argsort(jnp.where(mask, 0, n))
        return jnp.where(mask[order], x[order], 0.0)

    def bwd(mask, d):
        place = jnp.cumsum(mask) - 1
        return jnp.where(mask, d[place], 0.0), None

    return rule(plain, lambda x, m: (plain(x, m), m), bwd), plain, (example(6, seed=9), MASK[1])


@right("judge 15")
def rows_repeated_by_their_counts():
    """Each row as often as its count says; the counts, one of them zero, sum to the length of the result."""

    def plain(x, counts):
        return jnp.repeat(x, counts, axis=0, total_repeat_length=9)

    def bwd(r, d):
        x, counts = r
        row = jnp.repeat(jnp.arange(x.shape[0]), counts, total_repeat_length=9)
        return jnp.zeros_like(x).at[row].add(d), None

    return keeping(plain, bwd), plain, (example(5, 2, seed=10), integers(2, 0, 3, 1, 3))


@right("judge 15")
def sums_from_the_root_of_a_tree():
    """Sum over each node and its ancestors; parents come before children and a root's parent is -1."""

    def has_parent(parent, i):
        return (parent[i] >= 0) & (parent[i] < i)

    def plain(x, parent):
        def step(y, i):
            above = jnp.where(has_parent(parent, i), y[parent[i]], 0.0)
            return y.at[i].set(x[i] + above), None

        return lax.scan(step, jnp.zeros_like(x), jnp.arange(x.shape[0]))[0]

    def bwd(parent, d):
        def step(g, i):
            return g.at[parent[i]].add(jnp.where(has_parent(parent, i), g[i], 0.0)), None

        return lax.scan(step, d, jnp.arange(d.shape[0]), reverse=True)[0], None

    return (
        rule(plain, lambda x, p: (plain(x, p), p), bwd),
        plain,
        (example(7, seed=11), integers(-1, 0, 0, 1, -1, 1, 4)),
    )


@right("judge 15")
def springs_with_a_self_loop():
    """Energy of every edge of a graph; an edge from a node to itself has none and pulls nowhere."""

    def plain(x, k, i, j):
        e = x[i] - x[j]
        return k * (e * e).sum(-1) / 2

    def bwd(r, d):
        x, k, i, j = r
        e = x[i] - x[j]
        pull = unbroadcast((d * k)[..., None] * e, e.shape)
        gx = jnp.zeros_like(x).at[i].add(pull).at[j].add(-pull)
        return gx, unbroadcast(d * (e * e).sum(-1) / 2, k.shape), None, None

    ends = integers(0, 1, 2, 0, 3, 1), integers(1, 2, 2, 3, 0, 2)
    return keeping(plain, bwd), plain, (example(4, 3, seed=12), uniform(0.5, 2.0, 6, seed=13), *ends)
