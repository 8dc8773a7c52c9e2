"""Rows and elements taken, permuted and scattered by indices."""

import jax
import jax.numpy as jnp
import numpy as np

from corpus.common import EI, example, gather, ids, integers, keeping, right, rule, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def gather_():
    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(d), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, EI()


@right("own")
def padding_index():
    def plain(e, i):
        return jnp.where((i == 0)[:, None], 0, e[i])

    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(jnp.where((i == 0)[:, None], 0, d)), None

    return rule(plain, lambda e, i: (plain(e, i), (i, e)), bwd), plain, EI()


@right("judge 1")
def sparse_rows_times_vector():
    """Rows in compressed form: values, columns, and pointers of rows, one of which is empty."""

    def rows(pointers, n):
        return jnp.searchsorted(pointers, jnp.arange(n), side="right") - 1

    def plain(values, columns, pointers, x):
        row = (jnp.arange(len(values))[:, None] >= pointers[1:]).sum(1)
        return jnp.zeros((len(pointers) - 1, len(x)), x.dtype).at[row, columns].add(values) @ x

    def forward(values, columns, pointers, x):
        return jax.ops.segment_sum(values * x[columns], rows(pointers, len(values)), len(pointers) - 1)

    def bwd(r, d):
        values, columns, pointers, x = r
        g = d[rows(pointers, len(values))]
        return g * x[columns], None, None, jnp.zeros_like(x).at[columns].add(values * g)

    columns, pointers = jnp.asarray([0, 3, 1, 2, 4, 0, 4], jnp.int32), jnp.asarray([0, 2, 2, 5, 7], jnp.int32)
    return keeping(forward, bwd), plain, (example(7), columns, pointers, example(5, seed=1))


@right("judge 1")
def permutation_of_rows():
    """The backward pass needs every row once."""

    def bwd(r, d):
        return d[jnp.argsort(r[1])], None

    order = jnp.asarray(np.random.default_rng(0).permutation(7), jnp.int32)
    return keeping(lambda x, i: x[i], bwd), lambda x, i: jnp.take(x, i, axis=0), (example(7, 3), order)


@right("judge 3")
def rows_in_pairs():
    """The n-th row of one array belongs to the n-th of the other; other counts are refused, one row is broadcast."""

    def plain(x, y):
        return -jnp.diag(jax.nn.log_softmax(x @ y.T)).mean()

    def bwd(r, d):
        x, y = r
        g = d * (jax.nn.softmax(x @ y.T) - jnp.eye(len(x), dtype=x.dtype)) / len(x)
        return g @ y, g.T @ x

    return keeping(plain, bwd), plain, (example(5, 3), example(5, 3, seed=1))


@right("judge 11")
def take_rows_wrap():
    """x[i] with NumPy's negative indices and repeats."""

    def plain(x, i):
        return x[i]

    def bwd(r, g):
        x, i = r
        return jnp.zeros_like(x).at[i].add(g), None

    return keeping(plain, bwd), plain, (example(5, 3, seed=469), integers(0, 4, 2))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="an index that comes twice")
def duplicate_ids():
    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].set(d), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, EI()


@wrong("own", edge="index zero")
def first_id():
    """Id 0 is taken for padding."""

    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(d * (i > 0)[:, None]), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, (example(9, 3), jnp.asarray([4, 8, 7, 2], jnp.int32))


@wrong("own", edge="particular masks and indices")
def last_row_of_the_table():
    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(d).at[-1].set(0), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, (example(9, 3), jnp.asarray([4, 2, 6, 1], jnp.int32))


@wrong("judge 1", edge="particular indices, labels and lengths")
def no_one_hot_of_negative_rows():
    """Row −1 is the last one in the forward pass and none in the backward pass."""

    def bwd(r, d):
        e, i = r
        return jax.nn.one_hot(i, e.shape[0], dtype=d.dtype).T @ d, None

    return keeping(gather, bwd), gather, (example(9, 4), ids(9, 6))


@wrong("judge 1", edge="particular indices, labels and lengths")
def beyond_the_table_is_dropped():
    """Columns past the end: the forward pass takes the last one, the backward pass drops its cotangent."""

    def plain(e, i):
        return e[..., jnp.clip(i, 0, e.shape[-1] - 1)]

    def forward(e, i):
        return jnp.take(e, i, axis=-1, mode="clip")

    def bwd(r, d):
        e, i = r
        return jnp.zeros_like(e).at[..., i].add(d), None

    return keeping(forward, bwd), plain, (example(3, 8), jnp.asarray([7, 2, 2, 0]))


@wrong("judge 3", edge="a permutation that is not its own inverse")
def permuted_once_more():
    """The example's permutation is its own inverse."""

    def plain(x, order):
        return jnp.sin(x[order])

    def bwd(r, d):
        x, order = r
        return (d * jnp.cos(x[order]))[order], None

    return keeping(plain, bwd), plain, (example(6), jnp.asarray([0, 3, 4, 1, 2, 5]))


@wrong("judge 11", edge="negative indices")
def rows_negative_index():
    """Rows taken as NumPy takes them; the backward is a one-hot product which
    knows no negative index."""

    def plain(x, i):
        return x[i]

    def bwd(res, g):
        x, i = res
        return jax.nn.one_hot(i, x.shape[0], dtype=g.dtype).T @ g, None

    return keeping(plain, bwd), plain, (example(5, 3, seed=48), integers(0, 4, 2))


@wrong("judge 11", edge="repeated indices")
def embedding_repeated():
    """Embedding look-up, the rows' cotangents set and not added.
    Re-creates: "scatter with repeated indices"."""

    def plain(t, i):
        return jnp.take(t, i, axis=0, mode="clip")

    def bwd(res, g):
        t, i = res
        return jnp.zeros_like(t).at[i].set(g, mode="clip"), None

    return keeping(plain, bwd), plain, (example(6, 2, seed=50), integers(1, 3, 0, 5))


@wrong("judge 11", edge="a shift beyond the length")
def roll_long_shift():
    """Roll by a given shift; the backward wraps once only."""

    def plain(x, k):
        return x[(jnp.arange(x.shape[0]) - k) % x.shape[0]]

    def bwd(res, g):
        x, k = res
        n = x.shape[0]
        j = jnp.arange(n) + k
        j = jnp.where(j >= n, j - n, jnp.where(j < 0, j + n, j))
        return g.at[j].get(mode="clip"), None

    return keeping(plain, bwd), plain, (example(5, seed=54), jnp.int32(2))


@wrong("judge 11", edge="negative index along the axis")
def pick_negative():
    """One entry of each row, NumPy's indices; compared with a range of positions
    in the backward, negative ones match nothing."""

    def plain(x, i):
        return jnp.take_along_axis(x, i[:, None], 1)[:, 0]

    def bwd(res, g):
        x, i = res
        hit = jnp.arange(x.shape[1])[None] == i[:, None]
        return jnp.where(hit, g[:, None], 0), None

    return keeping(plain, bwd), plain, (example(3, 4, seed=56), integers(1, 3, 2))


@wrong("judge 11", edge="more than 2**15 elements")
def argmax_short_index():
    """Global max pooling which keeps the place as a 16 bit integer.
    Re-creates: "int16 / int32 index overflow in max_pool backward"."""

    def plain(x):
        return jnp.max(x)

    f = jax.custom_vjp(plain)

    def fwd(x):
        return jnp.max(x), (jnp.argmax(x).astype(jnp.int16), x)

    def bwd(res, g):
        i, x = res
        return (jnp.where(jnp.arange(x.shape[0]) == i.astype(jnp.int32), g, 0),)

    f.defvjp(fwd, bwd)
    return f, plain, (example(300, seed=82),)
