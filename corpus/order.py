"""The largest, the least, the middle one, and all of them in order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import X, example, floats, keeping, right, rule, written, wrong


def maximum_of_rows(x):
    return x.max(-1)


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def max_to_the_first():
    def bwd(r, d):
        return (d[..., None] * (r[0][..., None] == jnp.arange(r[1].shape[-1])).astype(d.dtype),)

    return rule(maximum_of_rows, lambda x: (x.max(-1), (x.argmax(-1), x)), bwd), maximum_of_rows, X()


@right("own")
def maximum_shared_among_ties():
    def bwd(r, d):
        x, y = r
        m = (x == y[:, None]).astype(d.dtype)
        return (d[:, None] * m / m.sum(-1, keepdims=True),)

    plain = lambda x: x.max(-1)  # noqa: E731
    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, X()


@right("own")
def minimum_to_the_last():
    plain = lambda x: x.min(-1)  # noqa: E731

    def bwd(r, d):
        x, y = r
        n = x.shape[-1]
        last = n - 1 - jnp.argmax((x == y[:, None])[:, ::-1], -1)
        return (d[:, None] * jax.nn.one_hot(last, n, dtype=d.dtype),)

    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, X()


@right("own")
def sort_rows():
    def bwd(order, d):
        return (jnp.zeros_like(d).at[jnp.arange(len(d))[:, None], order].set(d),)

    plain = partial(jnp.sort, axis=-1)
    return rule(plain, lambda x: (plain(x), jnp.argsort(x, -1)), bwd), plain, X()


@right("own")
def top_two():
    def plain(x):
        return lax.top_k(x, 2)[0]

    def fwd(x):
        y, i = lax.top_k(x, 2)
        return y, (i, x)

    def bwd(r, d):
        i, x = r
        return (jnp.zeros_like(x).at[jnp.arange(len(x))[:, None], i].add(d),)

    return rule(plain, fwd, bwd), plain, X()


@right("judge 1")
def maxpool2x2_first_argmax():
    """Rectified images, so that whole windows are ties at zero; odd ones are refused."""

    def windows(x):
        b, h, w, c = x.shape
        if h % 2 or w % 2:
            raise ValueError("height and width must be even")
        return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, c, 4)

    def plain(x):
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))

    def fwd(x):
        w = windows(x)
        return w.max(-1), w.argmax(-1).astype(jnp.int8)

    def bwd(i, d):
        b, h, w, c = d.shape
        g = jax.nn.one_hot(i, 4, dtype=d.dtype) * d[..., None]
        return (g.reshape(b, h, w, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c),)

    return written(fwd, bwd), plain, (jax.nn.relu(example(2, 4, 6, 3)),)


@right("judge 1")
def sort_descending():
    def fwd(x):
        i = jnp.argsort(-x, -1)
        return jnp.take_along_axis(x, i, -1), i

    def bwd(i, d):
        return (jnp.take_along_axis(d, jnp.argsort(i, -1), -1),)

    return written(fwd, bwd), lambda x: jnp.sort(x, -1)[..., ::-1], (example(3, 10),)


@right("judge 1")
def median_of_even_rows():
    plain = partial(jnp.median, axis=-1)

    def middle(x):
        i, n = jnp.argsort(x, -1), x.shape[-1]
        return jax.nn.one_hot(i[..., (n - 1) // 2], n, dtype=x.dtype) + jax.nn.one_hot(i[..., n // 2], n, dtype=x.dtype)

    return keeping(plain, lambda r, d: (0.5 * d[..., None] * middle(r[0]),)), plain, (example(4, 8),)


@right("judge 5")
def first_of_the_least_and_of_the_largest():
    """Where all are equal the error of both comes to the first; the one-sided derivatives have one of them each."""

    def plain(x):
        return x.min(-1), x.max(-1)

    def bwd(x, d):
        ends = zip((x.argmin(-1), x.argmax(-1)), d, strict=True)
        return (sum(jax.nn.one_hot(i, x.shape[-1], dtype=x.dtype) * c[..., None] for i, c in ends),)

    return written(lambda x: (plain(x), x), bwd), plain, (example(3, 4),)


@right("judge 6")
def median_shared_by_equals():
    """Of six equal numbers each has a sixth of the error; no one of them moves the median by itself."""

    def plain(x):
        return jnp.median(x, -1)

    def bwd(x, d):
        ordered, n = jnp.sort(x, -1), x.shape[-1]
        hits = [x == ordered[..., i, None] for i in ((n - 1) // 2, n // 2)]
        return (d[..., None] * sum(0.5 * hit / hit.sum(-1, keepdims=True) for hit in hits),)

    return written(lambda x: (plain(x), x), bwd), plain, (example(3, 6),)


@right("judge 7")
def monotone_by_all_means():
    """The definition of isotonic regression looks at every mean in loops of Python; at 1027 numbers it never ends."""

    def plain(x):
        mean = lambda i, j: jnp.sum(x[i : j + 1]) / (j + 1 - i)  # noqa: E731
        least = lambda i, k: jnp.min(jnp.stack([mean(i, j) for j in range(k, x.shape[0])]))  # noqa: E731
        return jnp.stack([jnp.max(jnp.stack([least(i, k) for i in range(k + 1)])) for k in range(x.shape[0])])

    def bwd(y, d):
        starts = jnp.concatenate([jnp.zeros(1, bool), y[1:] != y[:-1]])
        block, n = jnp.cumsum(starts), y.shape[0]
        share = jax.ops.segment_sum(d, block, n) / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(d), block, n), 1)
        return (share[block],)

    def fwd(x):
        y = plain(x)
        return y, y

    return written(fwd, bwd), plain, (example(6),)


@right("judge 11")
def max_last_axis_first():
    """Maximum over the last axis, the first of equal ones gets the cotangent, as
    torch.max does. Re-creates "max vs amax at ties"."""

    def plain(x):
        return jnp.max(x, -1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        i = jnp.argmax(x, -1)
        return jnp.take_along_axis(x, i[..., None], -1)[..., 0], (i, x)

    def bwd(r, g):
        i, x = r
        return (jax.nn.one_hot(i, x.shape[-1], dtype=g.dtype) * g[..., None],)

    f.defvjp(fwd, bwd)
    return f, plain, (example(3, 5, seed=363),)


@right("judge 11")
def median_both_middles():
    """Median over the last axis, half to each middle element of an even count."""

    def plain(x):
        return jnp.median(x, axis=-1)

    def bwd(r, g):
        (x,) = r
        n = x.shape[-1]
        i = jnp.argsort(x, -1)
        a = jax.nn.one_hot(i[..., (n - 1) // 2], n, dtype=g.dtype)
        b = jax.nn.one_hot(i[..., n // 2], n, dtype=g.dtype)
        return (0.5 * (a + b) * g[..., None],)

    return keeping(plain, bwd), plain, (example(7, seed=378),)


@right("judge 11")
def sort_inverse_permutation():
    """Sort by argsort and the inverse permutation; ties in order."""

    def plain(x):
        return jnp.sort(x, -1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        i = jnp.argsort(x, -1)
        return jnp.take_along_axis(x, i, -1), i

    f.defvjp(fwd, lambda i, g: (jnp.take_along_axis(g, jnp.argsort(i, -1), -1),))
    return f, plain, (example(6, seed=381),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="ties")
def ties_all_get_it():
    def bwd(r, d):
        x, y = r
        return (d[..., None] * (x == y[..., None]).astype(d.dtype),)

    return rule(maximum_of_rows, lambda x: (x.max(-1), (x, x.max(-1))), bwd), maximum_of_rows, X()


@wrong("own", edge="particular values")
def top_k_ties():
    def plain(x):
        return lax.top_k(x, 2)[0].sum(-1)

    def bwd(x, d):
        return (d[..., None] * (x >= lax.top_k(x, 2)[0][..., -1:]).astype(d.dtype),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong("own", edge="particular values")
def pool_ties():
    def plain(x):
        return x.reshape(x.shape[0], -1, 2).max(-1)

    def bwd(x, d):
        w = x.reshape(x.shape[0], -1, 2)
        return ((d[..., None] * (w == w.max(-1, keepdims=True)).astype(d.dtype)).reshape(x.shape),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong("own", edge="particular values")
def arg_max_of_equal_rows():
    """Routes to every row that attains the column's maximum."""

    def plain(x):
        return x.max(0)

    return (
        rule(plain, lambda x: (plain(x), (x, plain(x))), lambda r, d: (d * (r[0] == r[1]).astype(d.dtype),)),
        plain,
        X(),
    )


@wrong("judge 1")
def quantile_of_the_lower_neighbour():
    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def f(x, q):
        return jnp.quantile(x, q)

    @f.defjvp
    def _(q, primals, tangents):
        x = primals[0]
        return f(x, q), tangents[0][jnp.argsort(x)[int(q * (len(x) - 1))]]

    def plain(x, q):
        s, k = jnp.sort(x), q * (len(x) - 1)
        low, high = int(np.floor(k)), int(np.ceil(k))
        return s[low] + (k - low) * (s[high] - s[low])

    return f, plain, (example(12), 0.3)


@wrong("judge 1")
def largest_taken_for_the_first():
    def plain(x):
        return -jnp.sort(-x, -1)[..., :3]

    def fwd(x):
        return lax.top_k(x, 3)[0], x

    return written(fwd, lambda x, d: (jnp.zeros_like(x).at[..., :3].set(d),)), plain, (example(4, 8),)


@wrong("judge 1", edge="other sizes and ranks")
def median_of_odd_length():
    def plain(x):
        s, n = jnp.sort(x), len(x)
        return (s[(n - 1) // 2] + s[n // 2]) / 2

    def bwd(r, d):
        x = r[0]
        return (jnp.zeros_like(x).at[jnp.argsort(x)[(len(x) - 1) // 2]].set(d),)

    return keeping(plain, bwd), plain, (example(7),)


@wrong("judge 11", edge="ties for the maximum")
def amax_full_to_ties():
    """Maximum; each of several equal maxima gets the whole cotangent.
    Re-creates: "amax distributes gradient to ties without dividing"."""

    def plain(x):
        return jnp.max(x, -1)

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = plain(x)
        return y, (x, y)

    def bwd(res, g):
        x, y = res
        return (jnp.where(x == y[..., None], g[..., None], 0),)

    f.defvjp(fwd, bwd)
    return f, plain, (floats(1, 3, 0.5, 2),)


@wrong("judge 11", edge="ties at the k-th place")
def topk_sum_ties():
    """Sum of the two greatest, backward by a threshold mask.
    Re-creates: "topk backward with duplicates counts too many"."""

    def plain(x):
        return jnp.sum(lax.top_k(x, 2)[0], -1)

    def bwd(res, g):
        (x,) = res
        kth = lax.top_k(x, 2)[0][..., -1:]
        return (jnp.where(x >= kth, g[..., None], 0),)

    return keeping(plain, bwd), plain, (floats(5, 2, 3, 0.5, 1, 0),)


@wrong("judge 11", edge="even length")
def median_even():
    """Median; the whole cotangent given to the one element at n//2.
    Re-creates: "median gradient for even number of elements"."""

    def plain(x):
        return jnp.median(x)

    def bwd(res, g):
        (x,) = res
        i = jnp.argsort(x)[x.shape[0] // 2]
        return (jnp.zeros_like(x).at[i].set(g),)

    return keeping(plain, bwd), plain, (example(7, seed=30),)


@wrong("judge 11")
def sort_forward_permutation():
    """Sort; the cotangent is permuted by the order and not by its inverse."""

    def plain(x):
        return jnp.sort(x)

    f = jax.custom_vjp(plain)

    def fwd(x):
        i = jnp.argsort(x)
        return x[i], i

    f.defvjp(fwd, lambda i, g: (g[i],))
    return f, plain, (floats(3, 1, 5, 2, 4),)
