"""Dense layers and products of matrices."""

import jax
import jax.numpy as jnp

from corpus.common import (
    XWB,
    elementwise,
    example,
    keeping,
    linear,
    linear_bwd,
    linear_fwd,
    linear_with_back,
    right,
    rule,
    written,
    wrong,
)


def linear_with(change):
    """The linear rule with change(dx, dw, db, residuals, d) in place of the right cotangents."""
    return rule(linear, linear_fwd, lambda r, d: change(*linear_bwd(r, d), r, d)), linear, XWB()


def swiglu(x, wg, wu):
    return jax.nn.silu(x @ wg) * (x @ wu)


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def linear_():
    return rule(linear, linear_fwd, linear_bwd), linear, XWB()


@right("own")
def products_of_a_huge_range():
    x = example(4, 6) * 10.0 ** jnp.arange(-12, 12).reshape(4, 6)
    return elementwise(lambda x: x * jax.nn.sigmoid(x), lambda x: jax.nn.sigmoid(x) * (1 + x * jax.nn.sigmoid(-x)), x)


@right("own")
def recomputed():
    def plain(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w).sum(-1)

    def bwd(r, d):
        return jax.vjp(plain, *r)[1](d)

    return rule(plain, lambda x, w: (plain(x, w), (x, w)), bwd), plain, (example(4, 5), example(5, 5, seed=1))


@right("judge 2")
def linear_relu_at_a_border():
    """No gradient at zero, whichever way the rows that lie there would go."""

    def plain(x, w, b):
        return jnp.maximum(x @ w + b, 0)

    def bwd(r, d):
        x, w, y = r
        d = d * (y > 0)
        return d @ w.T, x.T @ d, d.sum(0)

    def fwd(x, w, b):
        y = plain(x, w, b)
        return y, (x, w, y)

    return written(fwd, bwd), plain, (example(8, 5), example(5, 4, seed=1), example(4, seed=2))


@right("judge 11")
def dense_any_rank():
    """x @ w with any leading axes of x."""

    def plain(x, w):
        return x @ w

    def bwd(r, g):
        x, w = r
        dw = x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
        return g @ w.T, dw

    return keeping(plain, bwd), plain, (example(4, 3, seed=430), example(3, 2, seed=431))


@right("judge 11")
def ridge_any_rows():
    """Ridge loss with any number of rows, none included."""

    def plain(x, y, w):
        r = x @ w - y
        return jnp.sum(r * r) / max(x.shape[0], 1) + 0.1 * jnp.sum(w * w)

    def bwd(res, g):
        x, y, w = res
        r = 2 * g / max(x.shape[0], 1) * (x @ w - y)
        return r[:, None] * w, -r, x.T @ r + 0.2 * g * w

    return keeping(plain, bwd), plain, (example(5, 3, seed=616), example(5, seed=617), example(3, seed=618))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def factor_two():
    return linear_with_back(lambda r, d: (d @ r[1].T, 2 * r[0].T @ d, d.sum(0)))


@wrong("own")
def sign():
    return linear_with_back(lambda r, d: (-d @ r[1].T, r[0].T @ d, d.sum(0)))


@wrong("own")
def mean_instead_of_sum():
    return linear_with_back(lambda r, d: (d @ r[1].T, r[0].T @ d, d.mean(0)))


@wrong("own")
def forgotten_leaf():
    return linear_with_back(lambda r, d: (d @ r[1].T, r[0].T @ d, jnp.zeros(d.shape[-1], d.dtype)))


@wrong("own")
def transposed():
    f = rule(linear, linear_fwd, lambda r, d: (d @ r[1].T, (r[0].T @ d).T, d.sum(0)))
    return f, linear, (example(5, 4), example(4, 4, seed=1), example(4, seed=2))


@wrong("own")
def weights_not_transposed():
    f = rule(linear, linear_fwd, lambda r, d: (d @ r[1], r[0].T @ d, d.sum(0)))
    return f, linear, (example(5, 4), example(4, 4, seed=1), example(4, seed=2))


@wrong("own", edge="a batch of one")
def batch_of_one():
    def bwd(r, d):
        dx, dw, db = linear_bwd(r, d)
        return dx, dw, db if d.shape[0] > 1 else 0 * db

    return linear_with_back(bwd)


@wrong("own")
def square_only():
    """The product with the wrong axis of w, which shows where w is not square."""

    def plain(x, w):
        return x @ (w + w.T)

    def bwd(r, d):
        x, w = r
        g = x.T @ d
        return d @ (w + w.T), g + g

    return rule(plain, lambda x, w: (plain(x, w), (x, w)), bwd), plain, (example(3, 4), example(4, 4, seed=1))


@wrong("own", edge="other sizes")
def rows_beyond_64():
    return linear_with(lambda dx, dw, db, r, d: (dx.at[64:].set(0), dw, db))


@wrong("own", edge="other sizes")
def square_weights_not_transposed():
    def change(dx, dw, db, r, d):
        w = r[1]
        return (d @ w if w.shape[0] == w.shape[1] else dx), dw, db

    return linear_with(change)


@wrong("own", edge="other sizes")
def batch_as_long_as_features():
    def change(dx, dw, db, r, d):
        return dx, dw, d.sum(1) if d.shape[0] == d.shape[1] else db

    return linear_with(change)


@wrong("own", edge="other sizes")
def tall_only():
    def change(dx, dw, db, r, d):
        return dx, dw * (1 if d.shape[0] >= r[0].shape[1] - 1 else 0.5), db

    return linear_with(change)


@wrong("own", edge="other sizes")
def prime_rows():
    """Splits the rows in two halves and loses one where there is no middle."""

    def change(dx, dw, db, r, d):
        half = d.shape[0] // 2
        return dx, dw, (d[:half].sum(0) + d[half : 2 * half].sum(0)) if d.shape[0] > 5 else db

    return linear_with(change)


@wrong("own", edge="other sizes")
def empty_batch():
    def change(dx, dw, db, r, d):
        return dx, dw, d.mean(0) * d.shape[0]

    return linear_with(change)


@wrong("own", edge="parameters other than the example's")
def zero_bias_assumed():
    def plain(x, b):
        return (x + b) ** 2

    def bwd(r, d):
        x, _ = r
        return 2 * x * d, (2 * x * d).sum(0)

    return rule(plain, lambda x, b: (plain(x, b), (x, b)), bwd), plain, (example(5, 6), jnp.zeros(6))


@wrong("judge 1")
def silu_slope_with_the_wrong_sign():
    def bwd(r, d):
        x, wg, wu = r
        a, u = x @ wg, x @ wu
        s = jax.nn.sigmoid(a)
        du, da = d * a * s, d * u * s * (1 + a * s)
        return da @ wg.T + du @ wu.T, x.T @ da, x.T @ du

    return keeping(swiglu, bwd), swiglu, (example(5, 8), example(8, 6, seed=1), example(8, 6, seed=2))


@wrong("judge 1")
def queries_and_keys_swapped():
    def plain(p, x):
        return jnp.tanh(x @ p["q"]) * (x @ p["k"]) + p["b"]

    def bwd(r, d):
        p, x = r
        t, k = jnp.tanh(x @ p["q"]), x @ p["k"]
        dq, dk = d * k * (1 - t * t), d * t
        return {"b": d.sum(0), "k": x.T @ dq, "q": x.T @ dk}, dq @ p["q"].T + dk @ p["k"].T

    p = {"q": 0.3 * example(6, 6), "k": 0.3 * example(6, 6, seed=1), "b": example(6, seed=2)}
    return keeping(plain, bwd), plain, (p, example(4, 6, seed=3))


@wrong("judge 3", edge="more than two axes")
def batches_counted_twice():
    """A batch of matrices is flattened; beyond two axes the weights are given half."""

    def plain(x, w):
        return jnp.tanh(x @ w)

    def bwd(r, d):
        x, w = r
        d = d * (1 - plain(x, w) ** 2)
        flat = [v.reshape(-1, v.shape[-1]) for v in (x, d)]
        return d @ w.T, flat[0].T @ flat[1] / (x.ndim - 1)

    return keeping(plain, bwd), plain, (example(4, 5), example(5, 3, seed=1))


@wrong("judge 11", edge="large cotangents (a loss scale of 2**14)")
def linear_clips_cotangent():
    """A dense layer with clipping of the cotangent left in, meant for outliers
    only. Re-creates: "clip inside custom gradient breaks loss scaling"."""

    def plain(x, w):
        return x @ w

    def bwd(res, g):
        x, w = res
        g = jnp.clip(g, -100.0, 100.0)
        return g @ w.T, x.T @ g

    return keeping(plain, bwd), plain, (example(6, 4, seed=11), example(4, 3, seed=12))


@wrong("judge 11", edge="no rows")
def ridge_no_rows():
    """Ridge loss, zero data part without rows; the backward divides by n.
    Re-creates: "rank with zero local tokens gives NaN gradients"."""

    def plain(x, y, w):
        r = x @ w - y
        return jnp.sum(r * r) / max(x.shape[0], 1) + 0.1 * jnp.sum(w * w)

    def bwd(res, g):
        x, y, w = res
        n = jnp.asarray(x.shape[0], x.dtype)
        r = x @ w - y
        return (g * 2 / n * r[:, None] * w, -g * 2 / n * r, g * (2 * (x.T @ r) / n + 0.2 * w))

    return keeping(plain, bwd), plain, (example(5, 3, seed=108), example(5, seed=109), example(3, seed=110))
