"""Arguments that are spread over others."""

import jax
import jax.numpy as jnp

from corpus.common import example, keeping, right, rule, unbroadcast, uniform, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def three_dimensional_bias():
    def plain(x, b):
        return jax.nn.softplus(x + b)

    def bwd(r, d):
        x, b = r
        g = d * jax.nn.sigmoid(x + b)
        return g, g.reshape(-1, b.shape[-1]).sum(0)

    return rule(plain, lambda x, b: (plain(x, b), (x, b)), bwd), plain, (example(2, 3, 4), example(4, seed=1))


@right("judge 11")
def scale_broadcast():
    """x*w with NumPy broadcasting of both, each reduced to its own shape."""

    def plain(x, w):
        return x * w

    return (
        keeping(plain, lambda r, g: (unbroadcast(g * r[1], r[0].shape), unbroadcast(g * r[0], r[1].shape))),
        plain,
        (example(4, 3, seed=599), example(3, seed=600)),
    )


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="other sizes")
def bias_broadcast_over_rows():
    """Right for a bias of each feature; one bias for all of them gets the first feature's share."""

    def plain(x, b):
        return jnp.tanh(x + b)

    def bwd(r, d):
        y, b = r
        g = d * (1 - y * y)
        return g, g.sum(0)[: b.shape[0]]

    return rule(plain, lambda x, b: (plain(x, b), (plain(x, b), b)), bwd), plain, (example(4, 6), example(6, seed=1))


@wrong("judge 1", edge="other sizes and ranks")
def column_of_scales_cut_off():
    """A scale that is spread over columns gets the first column's share."""

    def plain(x, s):
        return x * jnp.tanh(s)

    def bwd(r, d):
        x, s = r
        t = jnp.tanh(s)
        ds = d * x * (1 - t * t)
        while ds.ndim > s.ndim:
            ds = ds.sum(0)
        return d * t, ds[tuple(slice(n) for n in s.shape)]

    return keeping(plain, bwd), plain, (example(5, 4), example(4, seed=1))


@wrong("judge 3", edge="scales as a column")
def a_column_summed_as_a_row():
    """Scales of columns; one for each row, as a column, goes as well."""

    def plain(x, s):
        return jnp.tanh(x * s)

    def bwd(r, d):
        x, s = r
        d = d * (1 - plain(x, s) ** 2)
        return d * s, (d * x).sum(0).reshape(s.shape)

    return keeping(plain, bwd), plain, (example(4, 4), uniform(0.5, 1.5, 4))


@wrong("judge 11", edge="a scale of one row for the whole batch")
def film_shared_scale():
    """Feature-wise scale of a batch of sequences; the scale may have one row, then
    only the first sample's part is kept. Re-creates: "broadcast grad not reduced"."""

    def plain(x, s):
        return x * s[:, None, :]

    def bwd(res, g):
        x, s = res
        return g * s[:, None, :], jnp.sum(g * x, 1)[: s.shape[0]]

    return keeping(plain, bwd), plain, (example(4, 3, 5, seed=145), example(4, 5, seed=146))


@wrong("judge 11", edge="weights with an axis of one (n, 1)")
def weighted_square_axis_one():
    """Weighted squares with weights per element or per row; per row the backward
    keeps the last column instead of the sum."""

    def plain(x, w):
        return w * x * x

    def bwd(res, g):
        x, w = res
        dw = g * x * x
        return 2 * g * w * x, dw if w.shape == x.shape else dw[..., -w.shape[-1] :]

    return keeping(plain, bwd), plain, (example(4, 3, seed=153), uniform(0.5, 2, 4, 3, seed=154))
