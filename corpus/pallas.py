"""Kernels of Pallas, interpreted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from corpus.common import X, example, gather, keeping, kernel, right, rule, written, wrong


def column_sums(d, order):
    """By a kernel whose grid points, one a row, add to one block of the output."""

    def body(d, o):
        @pl.when(pl.program_id(0) == 0)
        def _():
            o[...] = jnp.zeros_like(o)

        o[...] += d[...].astype(o.dtype)

    n, m = d.shape
    total = kernel(
        body,
        jax.ShapeDtypeStruct((1, m), jnp.promote_types(d.dtype, jnp.float32)),
        d,
        grid=(n,),
        in_specs=[pl.BlockSpec((1, m), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((1, m), lambda i: (0, 0)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=(order,)),
    )
    return total[0].astype(d.dtype)


def rows_of(*widths):
    """Blocks of one row each of matrices of these widths."""
    return [pl.BlockSpec((1, w), lambda i: (i, 0)) for w in widths]


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def kernel_interpreted():
    from jax.experimental import pallas as pl

    def kernel(x, d, o):
        o[...] = 2 * x[...] * d[...]

    def bwd(x, d):
        return (pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x, d),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@right("judge 1")
def pallas_residual_rmsnorm():
    """The sum is an output too; the gain's gradient is made of rows that a kernel writes."""

    def plain(x, r, g):
        s = x + r
        return s / jnp.sqrt((s * s).mean(-1, keepdims=True) + 1e-6) * g, s

    def forward(x, r, g, y, total, inverse):
        s = x[...] + r[...]
        i = lax.rsqrt((s * s).mean(-1, keepdims=True) + 1e-6)
        y[...], total[...], inverse[...] = s * i * g[...], s, i

    def back(d, ds, s, inverse, g, dx, dg):
        h, e = s[...] * inverse[...], d[...] * g[...]
        dx[...] = inverse[...] * (e - h * (e * h).mean(-1, keepdims=True)) + ds[...]
        dg[...] = d[...] * h

    def call(body, *args, widths, to, like):
        n, m = like.shape
        spec = [*rows_of(*widths), pl.BlockSpec((m,), lambda i: (0,))]
        out = [jax.ShapeDtypeStruct((n, w), like.dtype) for w in to]
        return pl.pallas_call(body, out, grid=(n,), in_specs=spec, out_specs=rows_of(*to), interpret=True)(*args)

    def fwd(x, r, g):
        if x.ndim != 2 or x.shape != r.shape or g.shape != x.shape[1:]:
            raise ValueError("expected two matrices and a gain of their columns")
        m = x.shape[1]
        y, s, inverse = call(forward, x, r, g, widths=(m, m), to=(m, m, 1), like=x)
        return (y, s), (s, inverse, g)

    def bwd(r, ds):
        m = r[0].shape[1]
        dx, dg = call(back, *ds, *r, widths=(m, m, m, 1), to=(m, m), like=r[0])
        return dx, dx, dg.sum(0)

    return written(fwd, bwd), plain, (example(4, 8), example(4, 8, seed=1), 1 + 0.2 * example(8, seed=2))


@right("judge 1")
def pallas_tiled_matmul():
    """Tiles of eight; other sizes are refused."""

    def body(a, b, o):
        @pl.when(pl.program_id(2) == 0)
        def _():
            o[...] = jnp.zeros_like(o)

        o[...] += a[...] @ b[...]

    def product(a, b):
        (m, k), n = a.shape, b.shape[-1]
        if b.shape != (k, n) or m % 8 or n % 8 or k % 8:
            raise ValueError(f"expected multiples of 8, got {a.shape} and {b.shape}")
        tile = partial(pl.BlockSpec, (8, 8))
        return kernel(
            body,
            jax.ShapeDtypeStruct((m, n), a.dtype),
            a,
            b,
            grid=(m // 8, n // 8, k // 8),
            in_specs=[tile(lambda i, j, k: (i, k)), tile(lambda i, j, k: (k, j))],
            out_specs=tile(lambda i, j, k: (i, j)),
        )

    def bwd(r, d):
        a, b = r
        return product(d, b.T), product(a.T, d)

    return keeping(product, bwd), jnp.matmul, (example(8, 16), example(16, 8, seed=1))


@right("judge 1")
def kernel_sums_one_after_another():
    """As `kernel_races_for_the_sum`, with a grid that must be walked in order."""
    return keeping(jnp.add, lambda _, d: (d, column_sums(d, "arbitrary"))), jnp.add, (example(6, 5), example(5, seed=1))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 1")
def kernel_with_the_bias_of_rows():
    """As many rows as features hide the shape."""

    def forward(x, w, b):
        def body(x, w, b, o):
            o[...] = x[...] @ w[...] + b[...]

        like = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype)
        return kernel(body, like, x, w, b[None])

    def bwd(r, d):
        x, w, _ = r
        return d @ w.T, x.T @ d, d.sum(1)

    return keeping(forward, bwd), lambda x, w, b: x @ w + b, (example(8, 6), example(6, 8, seed=1), example(8, seed=2))


@wrong("judge 1", edge="other sizes and ranks")
def pallas_rows_floor_div_block():
    """Blocks of eight rows; of thirteen rows the last five have no gradient and no share in the weights'."""

    def plain(x, w):
        return jnp.sin(x) * w

    def body(x, w, d, o):
        o[...] = jnp.cos(x[...]) * w[...] * d[...]

    def bwd(r, d):
        x, w = r
        dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
        for i in range(x.shape[0] // 8):
            rows = slice(8 * i, 8 * i + 8)
            dx = dx.at[rows].set(kernel(body, x[rows], x[rows], w[None], d[rows]))
            dw = dw + (jnp.sin(x[rows]) * d[rows]).sum(0)
        return dx, dw

    return keeping(plain, bwd), plain, (example(16, 4), example(4, seed=1))


@wrong("judge 1", edge="a transformation or another call")
def scratch_buffer_not_cleared():
    buffers = {}

    def host(e, i, d):
        buffer = buffers.setdefault((e.shape, e.dtype), np.zeros(e.shape, e.dtype))
        np.add.at(buffer, np.asarray(i), np.asarray(d))
        return buffer.copy()

    def bwd(r, d):
        e, i = r
        like = jax.ShapeDtypeStruct(e.shape, e.dtype)
        return jax.pure_callback(host, like, e, i, d, vmap_method="sequential"), None

    return keeping(gather, bwd), gather, (example(8, 3), jnp.asarray([1, 5, 1, 0]))


@wrong("judge 1", edge="a transformation or another call")
def kernel_races_for_the_sum():
    """The axis of the grid that is summed over is declared parallel."""
    return keeping(jnp.add, lambda _, d: (d, column_sums(d, "parallel"))), jnp.add, (example(6, 5), example(5, seed=1))
