"""Rotary and relative positions."""

import jax.numpy as jnp

from corpus.common import (
    example,
    floats,
    integers,
    keeping,
    right,
    rule,
    softmax,
    softmax_back,
    unbroadcast,
    uniform,
    wrong,
)


def _angles(places, count, dtype, base=100.0):
    return places[..., None] * base ** (-jnp.arange(count, dtype=dtype) / count)


def _turn(x, angle):
    a, b = jnp.split(x, 2, -1)
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * c - b * s, b * c + a * s], -1)


@wrong("judge 14", "positions that do not begin at zero")
def rotary_positions_taken_for_a_range():
    """The positions are given, as in decoding with a cache; going back the rows are counted from zero."""

    def plain(x, places):
        return _turn(x, _angles(places, x.shape[-1] // 2, x.dtype))

    def bwd(r, d):
        x, places = r
        return _turn(d, -_angles(jnp.arange(places.shape[0]), x.shape[-1] // 2, x.dtype)), None

    return keeping(plain, bwd), plain, (example(5, 6), integers(0, 1, 2, 3, 4))


@wrong("judge 14", "an image that is not square")
def rotary_of_patches_by_height():
    """Half of a patch turns by its row and half by its column, which the backward pass finds by dividing by height."""

    def angles(row, column, x):
        each = x.shape[-1] // 4
        return jnp.concatenate([_angles(row, each, x.dtype), _angles(column, each, x.dtype)], -1)

    def plain(x):
        place = jnp.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])
        return _turn(x, angles(place // x.shape[1], place % x.shape[1], x))

    def bwd(r, d):
        (x,) = r
        place = jnp.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])
        return (_turn(d, -angles(place // x.shape[0], place % x.shape[0], x)),)

    return keeping(plain, bwd), plain, (example(3, 3, 8),)


@wrong("judge 14", "more than eight steps")
def rotary_base_not_stretched_back():
    """Beyond the eight steps of training the base grows with the length, but not in the backward pass."""

    def plain(x):
        steps = x.shape[-2]
        base = 100.0 * max(1.0, steps / 8) ** 2
        return _turn(x, _angles(jnp.arange(steps), x.shape[-1] // 2, x.dtype, base))

    def bwd(r, d):
        (x,) = r
        return (_turn(d, -_angles(jnp.arange(x.shape[-2]), x.shape[-1] // 2, x.dtype)),)

    return keeping(plain, bwd), plain, (example(2, 6, 4),)


@wrong("judge 14", "more keys than queries")
def relative_bias_of_cached_keys():
    """The queries are the last of the keys; the table's gradient is as if they were the first."""

    def place(s, table, begin):
        far = begin + jnp.arange(s.shape[0])[:, None] - jnp.arange(s.shape[1])
        return jnp.clip(far + table.shape[0] // 2, 0, table.shape[0] - 1)

    def plain(s, table):
        return softmax(s + table[place(s, table, s.shape[1] - s.shape[0])])

    def bwd(r, d):
        s, table = r
        ds = softmax_back(plain(s, table), d)
        return ds, jnp.zeros_like(table).at[place(s, table, 0)].add(ds)

    return keeping(plain, bwd), plain, (example(4, 4), example(7, seed=1))


@wrong("judge 14")
def relative_shift_of_the_lower_half():
    """What the shift by reshaping puts above the diagonal gets no gradient, as if a causal mask would follow."""

    def plain(x):
        n, m = x.shape
        return jnp.pad(x, ((0, 0), (1, 0))).reshape(m + 1, n)[1:].reshape(n, m)

    def bwd(r, d):
        (x,) = r
        n, m = x.shape
        d = jnp.tril(d).reshape(m, n)
        return (jnp.pad(d, ((1, 0), (0, 0))).reshape(n, m + 1)[:, 1:],)

    return keeping(plain, bwd), plain, (example(5, 5),)


@right("judge 14")
def sinusoids_of_learned_frequencies():
    """Sines, then cosines, of times times frequencies; both learn."""

    def plain(t, w):
        a = t[..., None] * w
        return jnp.concatenate([jnp.sin(a), jnp.cos(a)], -1)

    def bwd(r, d):
        t, w = r
        a = t[..., None] * w
        of_sine, of_cosine = jnp.split(d, 2, -1)
        g = of_sine * jnp.cos(a) - of_cosine * jnp.sin(a)
        return unbroadcast(g * w, (*t.shape, 1))[..., 0], unbroadcast(g * t[..., None], w.shape)

    return keeping(plain, bwd), plain, (uniform(-3, 3, 5), floats(0.1, 1.0, 4.0))


@right("judge 14")
def disentangled_scores():
    """Content to content, content to position and position to content, with distances clipped to the table."""

    def places(q, k, table):
        far = jnp.arange(q.shape[0])[:, None] - jnp.arange(k.shape[0])
        at = lambda far: jnp.clip(far + table.shape[0] // 2, 0, table.shape[0] - 1)  # noqa: E731
        return at(far), at(-far.T)

    def plain(q, k, table):
        there, back = places(q, k, table)
        of_queries = jnp.take_along_axis(q @ table.T, there, 1)
        of_keys = jnp.take_along_axis(k @ table.T, back, 1)
        return q @ k.T + of_queries + of_keys.T

    def bwd(r, d):
        q, k, table = r
        there, back = places(q, k, table)
        gq = jnp.zeros((q.shape[0], table.shape[0]), d.dtype).at[jnp.arange(q.shape[0])[:, None], there].add(d)
        gk = jnp.zeros((k.shape[0], table.shape[0]), d.dtype).at[jnp.arange(k.shape[0])[:, None], back].add(d.T)
        return d @ k + gq @ table, d.T @ q + gk @ table, gq.T @ q + gk.T @ k

    return keeping(plain, bwd), plain, (example(6, 3), example(5, 3, seed=1), example(4, 3, seed=2))


@right("judge 14")
def distance_slopes_that_learn():
    """Weights by scores minus a learned slope for each head times the distance."""

    def distance(s):
        return jnp.abs(jnp.arange(s.shape[-2])[:, None] - jnp.arange(s.shape[-1]))

    def plain(s, slopes):
        return softmax(s - slopes[:, None, None] * distance(s))

    def fwd(s, slopes):
        p = plain(s, slopes)
        return p, (p, s, slopes)

    def bwd(r, d):
        p, s, slopes = r
        ds = softmax_back(p, d)
        return unbroadcast(ds, s.shape), unbroadcast(-(ds * distance(s)).sum((-2, -1)), slopes.shape)

    return rule(plain, fwd, bwd), plain, (example(3, 4, 5), floats(0.5, 0.0, -0.2))


@right("judge 14")
def rotary_of_time_and_place():
    """The frequencies take turns to rotate by one of three positions of a token; the rule turns back."""

    def angles(x, places):
        half = x.shape[-1] // 2
        turn = places[jnp.arange(half) % 3].T
        return turn * 50.0 ** (-jnp.arange(half, dtype=x.dtype) / half)

    def plain(x, places):
        return _turn(x, angles(x, places))

    def bwd(r, d):
        x, places = r
        return unbroadcast(_turn(d, -angles(x, places)), x.shape), None

    places = integers(0, 0, 1, 1, 0, 1, 0, 1, 5, 5, 6, 6).reshape(3, 4)
    return keeping(plain, bwd), plain, (example(2, 4, 8), places)
