"""Half precision, and what is computed in another precision than it comes in."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import (
    SINGLE,
    X,
    example,
    keeping,
    linear_bwd,
    linear_with_back,
    right,
    rule,
    softmax,
    square,
    unbroadcast,
    uniform,
    wide,
    written,
    wrong,
)

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def accumulates_in_float32():
    def plain(x):
        return jnp.cumsum(x.astype(jnp.float32), -1).astype(x.dtype)

    def bwd(r, d):
        return (jnp.cumsum(d.astype(jnp.float32)[..., ::-1], -1)[..., ::-1].astype(d.dtype),)

    return rule(lambda x: jnp.cumsum(x, -1), lambda x: (plain(x), None), bwd), lambda x: jnp.cumsum(x, -1), X()


@right("own")
def softmax_in_bfloat16():
    def fwd(x):
        y = softmax(x.astype(jnp.float32))
        return y.astype(x.dtype), y

    def bwd(y, d):
        e = d.astype(jnp.float32)
        return ((y * (e - (y * e).sum(-1, keepdims=True))).astype(d.dtype),)

    return rule(lambda x: fwd(x)[0], fwd, bwd), softmax, (example(4, 6).astype(jnp.bfloat16),)


@right("own")
def reads_in_float32():
    """On both ways; what it computes with is as wide as its input: numbers of float32 lose nothing forth, nor do they
    when all of a row grow alike."""

    def plain(x):
        return x / jnp.sqrt((x * x).sum(-1, keepdims=True))

    def read(x):
        return x.astype(jnp.float32).astype(jnp.promote_types(x.dtype, jnp.float32))

    def bwd(x, d):
        x32, d32 = x.astype(jnp.float32), d.astype(jnp.float32)
        s = lax.rsqrt((x32 * x32).sum(-1, keepdims=True))
        return ((s * (d32 - s * s * x32 * (x32 * d32).sum(-1, keepdims=True))).astype(x.dtype),)

    return rule(plain, lambda x: (plain(read(x)).astype(x.dtype), x), bwd), plain, (example(4, 6),)


@right("judge 1")
def bf16_matmul_f32_accum():
    def plain(a, b):
        return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=SINGLE)

    def bwd(r, d):
        x, w = r
        return plain(d, w.T).astype(x.dtype), plain(x.T, d).astype(w.dtype)

    return keeping(plain, bwd), plain, (example(6, 16), example(16, 5, seed=1, scale=0.25))


@right("judge 11")
def dense_accumulates_single():
    """Matrix product with sums in single precision, rounded to the inputs' type;
    right up to rounding in halves."""

    def plain(x, w):
        return (wide(x) @ wide(w)).astype(x.dtype)

    def bwd(r, g):
        x, w = r
        return (wide(g) @ wide(w).T).astype(x.dtype), (wide(x).T @ wide(g)).astype(w.dtype)

    return keeping(plain, bwd), plain, (example(4, 3, seed=632), example(3, 2, seed=633))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def bfloat16_accumulation():
    def bwd(r, d):
        dx, dw, _ = linear_bwd(r, d)
        total, _ = lax.scan(
            lambda c, row: (c + row.astype(jnp.bfloat16), None), jnp.zeros(d.shape[1:], jnp.bfloat16), d
        )
        return dx, dw, total.astype(d.dtype)

    return linear_with_back(bwd)


@wrong("own", edge="half precision")
def low_precision_only():
    """Right in float64 and float32; in half precision the mean is taken over the wrong axis."""

    def bwd(r, d):
        dx, dw, db = linear_bwd(r, d)
        return dx, dw, db if d.dtype.itemsize >= 4 else 0.8 * db

    return linear_with_back(bwd)


@wrong("own", edge="another dtype than float32")
def dtype_of_cotangent():
    def bwd(x, d):
        return ((2 * x * d).astype(jnp.float32),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong("own")
def residual_in_bfloat16():
    plain = lambda x: jnp.sin(x) * x  # noqa: E731

    def bwd(x, d):
        x = x.astype(d.dtype)
        return (d * (jnp.cos(x) * x + jnp.sin(x)),)

    return rule(plain, lambda x: (plain(x), x.astype(jnp.bfloat16)), bwd), plain, X()


@wrong("own")
def cotangent_in_half():
    return square(lambda x, d: (2 * x * d.astype(jnp.float16).astype(d.dtype),))


@wrong("own", edge="half precision")
def bfloat16_branch():
    def bwd(y, d):
        s = (y * d).sum(0 if y.dtype == jnp.bfloat16 else -1, keepdims=True)
        return (y * (d - s),)

    return rule(softmax, lambda x: (softmax(x),) * 2, bwd), softmax, X()


@wrong("own", edge="half precision")
def half_only():
    return square(lambda x, d: (2 * x * d * (0.5 if d.dtype == jnp.float16 else 1),))


@wrong("own", edge="half precision")
def big_constant_in_half():
    """1e5 is infinite in float16."""
    return square(lambda x, d: (2 * x * (d * jnp.asarray(1e5, d.dtype)) / jnp.asarray(1e5, d.dtype),))


@wrong("own")
def bfloat16_running_sum():
    plain = partial(jnp.cumsum, axis=-1)

    def bwd(_, d):
        return (jnp.cumsum(d.astype(jnp.bfloat16)[..., ::-1], -1)[..., ::-1].astype(d.dtype),)

    return rule(plain, lambda x: (plain(x), None), bwd), plain, X()


@wrong("judge 1", edge="other sizes and ranks")
def wide_rows_saved_in_bfloat16():
    def fwd(x):
        return jnp.sin(x), x.astype(jnp.bfloat16) if x.shape[-1] >= 128 else x

    return written(fwd, lambda x, d: (d * jnp.cos(x.astype(d.dtype)),)), jnp.sin, (example(2, 24),)


@wrong("judge 1", edge="half precision")
def bf16_running_sum_bias():
    """A sum one row at a time sticks at 256 in bfloat16."""

    def plain(x, b):
        return (2 * x.astype(jnp.float32) + b.astype(jnp.float32)).astype(x.dtype)

    def bwd(_, d):
        return 2 * d, lax.fori_loop(0, d.shape[0], lambda i, s: s + d[i], jnp.zeros(d.shape[1:], d.dtype))

    return keeping(plain, bwd), plain, (example(24, 2), example(2, seed=1))


@wrong("judge 1", edge="float64")
def float64_through_float32():
    def plain(x, w):
        return jnp.tanh(x @ w)

    def bwd(r, d):
        x, w = (v.astype(jnp.float32) for v in r)
        h = jnp.tanh(x @ w)
        g = d.astype(jnp.float32) * (1 - h * h)
        return (g @ w.T).astype(d.dtype), (x.T @ g).astype(d.dtype)

    return keeping(plain, bwd), plain, (example(4, 5), example(5, 3, seed=1))


@wrong("judge 1", edge="half precision")
def rmsnorm_half_square_overflow():
    """The forward pass squares in float32, the backward pass in what it is given: 300² is infinite in float16."""

    def normal(x):
        return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def plain(x):
        return normal(x.astype(jnp.float32)).astype(x.dtype)

    def bwd(r, d):
        s = lax.rsqrt((r[0] * r[0]).mean(-1, keepdims=True) + 1e-6)
        h = r[0] * s
        return (s * (d - h * (d * h).mean(-1, keepdims=True)),)

    return keeping(plain, bwd), plain, (example(3, 8),)


@wrong("judge 2", edge="numbers beyond 256 in float16")
def squares_in_half_precision():
    """An RMS norm that squares in float32 forth and in float16 back: beyond 256 nothing is left."""

    def plain(x, w):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (wide * lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype) * w

    def bwd(r, d):
        x, w = r
        s = lax.rsqrt((x * x).mean(-1, keepdims=True) + jnp.asarray(1e-6, x.dtype))
        n, e = x * s, d * w
        return s * (e - n * (e * n).mean(-1, keepdims=True)), (d * n).sum(0)

    return keeping(plain, bwd), plain, (example(4, 6), uniform(0.8, 1.2, 6))


@wrong("judge 2", edge="a sure and right answer")
def probabilities_kept_in_half_precision():
    """What a sure and right answer has left to one is rounded away."""

    def chances(z):
        return softmax(z.astype(jnp.promote_types(z.dtype, jnp.float32)))

    def plain(z, labels):
        return -jnp.log(jnp.take_along_axis(chances(z), labels[:, None], 1)[:, 0])

    def bwd(r, d):
        p, labels = r
        return ((p - jax.nn.one_hot(labels, p.shape[1], dtype=p.dtype)) * d[:, None]).astype(p.dtype), None

    fwd = lambda z, labels: (plain(z, labels), (chances(z).astype(z.dtype), labels))  # noqa: E731
    return written(fwd, bwd), plain, (example(6, 5), jnp.asarray([0, 3, 1, 4, 2, 2]))


@wrong("judge 3", edge="hundreds of rows in half precision")
def total_in_the_dtype_of_the_weights():
    """Row by row; after some hundreds of them a sum in half precision stands still."""

    def plain(w, x):
        up = jnp.promote_types(w.dtype, jnp.float32)
        return jax.nn.softplus(x.astype(up) @ w.astype(up)).sum()

    def bwd(r, d):
        w, x = r
        up = jnp.promote_types(w.dtype, jnp.float32)

        def step(total, row):
            slope = jax.nn.sigmoid(row.astype(up) @ w.astype(up))
            return total + (d * slope * row).astype(total.dtype), d * slope * w

        dw, dx = lax.scan(step, jnp.zeros_like(w), x)
        return dw, dx.astype(x.dtype)

    return keeping(plain, bwd), plain, (example(4, scale=0.3), 1 + example(9, 4, seed=1))


@wrong("judge 7", edge="numbers beyond 256 in float16")
def squared_in_half_precision():
    """The forward pass squares in float32, the backward pass in the input's dtype, where that of 300 is infinite."""

    def plain(x):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (wide / jnp.sqrt((wide * wide).sum(-1, keepdims=True) + 1e-6)).astype(x.dtype)

    def bwd(x, d):
        square = (x * x).sum(-1, keepdims=True) + jnp.asarray(1e-6, x.dtype)
        return (lax.rsqrt(square) * (d - x * (d * x).sum(-1, keepdims=True) / square),)

    return keeping(plain, lambda r, d: bwd(*r, d)), plain, (example(4, 3),)


@wrong("judge 11", edge="float16 with values whose square overflows")
def rms_norm_half_overflow():
    """RMS norm, forward in single precision; the backward squares in the input's
    own precision. Re-creates: "RMSNorm fp16 overflow in backward"."""

    def plain(x, w):
        y = wide(x)
        return (y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype) * w

    def bwd(res, g):
        x, w = res
        r = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True, dtype=x.dtype) + jnp.asarray(1e-6, x.dtype))
        y = wide(x * r)
        gw = wide(g) * wide(w)
        dx = wide(r) * (gw - y * jnp.mean(gw * y, -1, keepdims=True))
        dw = unbroadcast(wide(g) * y, w.shape)
        return dx.astype(x.dtype), dw.astype(w.dtype)

    return keeping(plain, bwd), plain, (example(4, 8, seed=113), example(8, seed=114))


@wrong("judge 11", edge="float16 with more than 65504 elements")
def mean_half_count():
    """Mean of cosines in single precision; the count is made a number of the
    input's type in the backward, infinite for halves."""

    def plain(x):
        return jnp.mean(jnp.cos(wide(x)))

    def bwd(res, g):
        (x,) = res
        n = jnp.asarray(x.size, x.dtype)
        return ((-g * jnp.sin(wide(x)) / wide(n)).astype(x.dtype),)

    return keeping(plain, bwd), plain, (example(50, seed=118),)


@wrong("judge 11", edge="bfloat16 with more than 256 rows")
def bias_accumulates_half():
    """Bias after a dense layer; the rows are added one by one in the bias's type.
    Re-creates: "gradient accumulation in bf16 stalls"."""

    def plain(x, b):
        return jnp.tanh(x + b)

    def bwd(res, g):
        x, b = res
        d = g * (1 - jnp.tanh(x + b) ** 2)
        db = lax.fori_loop(0, d.shape[0], lambda i, s: s + d[i].astype(b.dtype), jnp.zeros_like(b))
        return d, db

    return keeping(plain, bwd), plain, (example(6, 3, seed=119), example(3, seed=120))


@wrong("judge 11", edge="half precision: small differences of large values")
def rbf_kernel_half_expanded():
    """Gaussian kernel of rows and a centre; in the backward the distance is
    expanded into squares in the input's type."""

    def plain(x, c):
        d = wide(x) - wide(c)
        return jnp.exp(-0.5 * jnp.sum(d * d, -1))

    def bwd(res, g):
        x, c = res
        r2 = jnp.sum(x * x, -1) + jnp.sum(c * c) - 2 * (x @ c)
        k = jnp.exp(-0.5 * wide(jnp.maximum(r2, 0)))
        d = -(g * k)[:, None] * (wide(x) - wide(c))
        return d.astype(x.dtype), (-jnp.sum(d, 0)).astype(c.dtype)

    return keeping(plain, bwd), plain, (example(5, 4, seed=123), example(4, seed=124))


@wrong("judge 11", edge="float16 weights with a large single precision cotangent")
def mixed_dense_casts_cotangent():
    """Dense layer in single precision, weights of any float type; the cotangent is
    cast to the weights' type first. Re-creates: "amp custom_bwd casts grad_output"."""

    def plain(x, w):
        return wide(x) @ wide(w)

    def bwd(res, g):
        x, w = res
        h = wide(g.astype(w.dtype))
        return (h @ wide(w).T).astype(x.dtype), (wide(x).T @ h).astype(w.dtype)

    return keeping(plain, bwd), plain, (example(4, 3, seed=703), example(3, 2, seed=704))
