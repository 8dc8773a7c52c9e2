"""Embeddings, graphs and other reading and writing by index."""

import jax.numpy as jnp
from jax import lax

from corpus.common import example, floats, ids, integers, keeping, right, unbroadcast, uniform, wrong


@wrong("judge 14", "rows of the table longer than one")
def embedding_rows_cut_to_length_one():
    """Rows longer than one are brought to it; the gradient takes their scale for a constant."""

    def scale(rows):
        square = (rows * rows).sum(-1, keepdims=True)
        return jnp.where(square > 1, lax.rsqrt(jnp.where(square > 1, square, 1.0)), 1.0)

    def plain(table, i):
        return table[i] * scale(table[i])

    def bwd(r, d):
        table, i = r
        return jnp.zeros_like(table).at[i].add(d * scale(table[i])), None

    return keeping(plain, bwd), plain, (uniform(-0.4, 0.4, 7, 4), ids(7, 5))


@wrong("judge 14", "a negative index")
def replaced_rows_found_by_comparison():
    """Rows that were replaced get no gradient, but a row that was named from the end is not recognised."""

    def plain(x, i, rows):
        return x.at[i].set(rows, unique_indices=True)

    def bwd(r, d):
        x, i, _ = r
        replaced = (jnp.arange(x.shape[0])[:, None] == i).any(1)
        return jnp.where(replaced[:, None], 0.0, d), None, d[i]

    return keeping(plain, bwd), plain, (example(6, 3), integers(4, 0, 3), example(3, 3, seed=1))


@wrong("judge 14", "an edge that goes one way only")
def graph_convolution_as_if_undirected():
    """Each node sums its sources over the edges; the backward pass sums over the same edges the same way."""

    def plain(x, w, source, target):
        h = x @ w
        return jnp.zeros_like(h).at[target].add(h[source])

    def bwd(r, d):
        x, w, source, target = r
        dh = jnp.zeros_like(d).at[target].add(d[source])
        return dh @ w.T, x.T @ dh, None, None

    there, back = (0, 1, 2, 3, 0), (1, 2, 3, 4, 3)
    args = example(5, 3), example(3, 2, seed=1), integers(*there, *back), integers(*back, *there)
    return keeping(plain, bwd), plain, args


@wrong("judge 14", "a point to the left of the grid")
def splatting_cut_towards_zero():
    """Values are shared by the two cells around their places; a cast to integers is not the floor below zero."""

    def plain(v, p):
        low = jnp.floor(p)
        f, i = p - low, low.astype(jnp.int32)
        i = jnp.clip(i, -2, 5) + 1
        return jnp.zeros(8, v.dtype).at[i].add((1 - f) * v).at[i + 1].add(f * v)[1:6]

    def bwd(r, d):
        v, p = r
        i = p.astype(jnp.int32)
        f, padded = p - i, jnp.pad(d, (1, 2))
        i = jnp.clip(i, -2, 5) + 1
        low, high = padded[i], padded[i + 1]
        return (1 - f) * low + f * high, v * (high - low)

    return keeping(plain, bwd), plain, (example(6), uniform(0.1, 4.9, 6, seed=1))


@wrong("judge 14")
def tied_table_keeps_its_last_use():
    """The table is read for the input and multiplied for the output; only the second use gives a gradient."""

    def plain(table, i):
        return jnp.tanh(table[i]) @ table.T

    def bwd(r, d):
        table, i = r
        return d.T @ jnp.tanh(table[i]), None

    return keeping(plain, bwd), plain, (example(6, 3), ids(6, 4))


@right("judge 14")
def degree_normalised_edges():
    """Weights of edges over the roots of both ends' degrees, which sum the weights; a node may have no edge."""

    def roots(w, target):
        degree = jnp.zeros(5, w.dtype).at[target].add(w)
        return jnp.where(degree > 0, lax.rsqrt(jnp.where(degree > 0, degree, 1.0)), 0.0)

    def plain(w, source, target):
        inv = roots(w, target)
        return w * inv[source] * inv[target]

    def bwd(r, d):
        w, source, target = r
        inv = roots(w, target)
        dinv = jnp.zeros_like(inv).at[source].add(d * w * inv[target]).at[target].add(d * w * inv[source])
        ddegree = -0.5 * inv**3 * dinv
        return unbroadcast(d * inv[source] * inv[target] + ddegree[target], w.shape), None, None

    args = uniform(0.2, 2.0, 7), integers(0, 1, 2, 3, 0, 2, 3), integers(1, 2, 0, 1, 2, 4, 4)
    return keeping(plain, bwd), plain, args


@right("judge 14")
def messages_by_kind_of_relation():
    """Each row is multiplied by the matrix of its kind; kinds may come often or never."""

    def plain(x, w, kind):
        return (x[:, None] @ w[kind])[:, 0]

    def bwd(r, d):
        x, w, kind = r
        dx = (d[:, None] @ w[kind].mT)[:, 0]
        dw = unbroadcast(x[:, :, None] * d[:, None], kind.shape + w.shape[1:])
        return unbroadcast(dx, x.shape), jnp.zeros_like(w).at[kind].add(dw), None

    return keeping(plain, bwd), plain, (example(6, 3), example(4, 3, 2, seed=1), integers(1, 3, 1, 0, 3, 1))


@right("judge 14")
def rows_rolled_by_their_shifts():
    """Each row is rolled by a shift of its own, of any size and sign, and is rolled back."""

    def turned(x, shift):
        return jnp.take_along_axis(x, (jnp.arange(x.shape[1]) - shift[:, None]) % x.shape[1], 1)

    def bwd(r, d):
        x, shift = r
        return unbroadcast(turned(d, -shift), x.shape), None

    return keeping(turned, bwd), turned, (example(4, 5), integers(1, 0, -2, 7))


@right("judge 14")
def embedding_by_quotient_and_remainder():
    """The row of an id is the product of a row for its quotient and one for its remainder."""

    def places(quotients, remainders, i):
        n = remainders.shape[0]
        return i // n % quotients.shape[0], i % n

    def plain(quotients, remainders, i):
        q, m = places(quotients, remainders, i)
        return quotients[q] * remainders[m]

    def bwd(r, d):
        quotients, remainders, i = r
        q, m = places(quotients, remainders, i)
        dq, dm = d * remainders[m], d * quotients[q]
        return (
            jnp.zeros_like(quotients).at[q].add(unbroadcast(dq, i.shape + quotients.shape[1:])),
            jnp.zeros_like(remainders).at[m].add(unbroadcast(dm, i.shape + remainders.shape[1:])),
            None,
        )

    return keeping(plain, bwd), plain, (example(3, 4), example(5, 4, seed=1), ids(15, 6))


@right("judge 14")
def rows_repeated_by_counts():
    """Rows repeated as often as is said, some not at all, and scaled by a factor for each result."""

    def origin(x, counts):
        return jnp.repeat(jnp.arange(x.shape[0]), counts, total_repeat_length=7)

    def plain(x, counts, factor):
        return x[origin(x, counts)] * factor[:, None]

    def bwd(r, d):
        x, counts, factor = r
        at = origin(x, counts)
        back = unbroadcast((d * x[at]).sum(1), factor.shape)
        return jnp.zeros_like(x).at[at].add(d * factor[:, None]), None, back

    return keeping(plain, bwd), plain, (example(4, 3), integers(0, 3, 1, 3), floats(1, -1, 0.5, 2, 0, 1, 3))
