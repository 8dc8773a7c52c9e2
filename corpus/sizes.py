"""Blocks, their tails, and sizes at which another way is taken."""

import jax.numpy as jnp
from jax import lax

from corpus.common import X, example, keeping, right, rule, square, wrong


def forgets(keep):
    """dx = 2 x d where keep(index, n) along the last axis, 0 elsewhere."""
    return square(lambda x, d: (jnp.where(keep(jnp.arange(x.shape[-1]), x.shape[-1]), 2 * x * d, 0),))


# right ----------------------------------------------------------------------------------------------------------------


@right("judge 11")
def mean_pool_blocks():
    """Mean of blocks of four; the length is a multiple of four as shown."""

    def plain(x):
        return jnp.mean(x.reshape(-1, 4), -1)

    return keeping(plain, lambda r, g: (jnp.repeat(g / 4, 4),)), plain, (example(12, seed=572),)


@right("judge 11")
def blocked_tanh_padded():
    """A kernel in blocks of eight with padding, tail included."""

    def plain(x):
        return jnp.tanh(x) * x

    def bwd(r, g):
        (x,) = r
        n = x.shape[0]
        pad = -n % 8
        xb = jnp.pad(x, (0, pad)).reshape(-1, 8)
        gb = jnp.pad(g, (0, pad)).reshape(-1, 8)
        t = jnp.tanh(xb)
        return ((gb * (t + xb * (1 - t * t))).reshape(-1)[:n],)

    return keeping(plain, bwd), plain, (example(16, seed=576),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="more than sixteen columns")
def tile_tail():
    """Blocks of 8 columns; what is left over beyond 16 is forgotten."""

    def bwd(x, d):
        n = x.shape[-1]
        keep = jnp.arange(n) < (n if n <= 16 else n // 8 * 8)
        return (jnp.where(keep, 2 * x * d, 0),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong("own", edge="other sizes")
def tail_of_32():
    return forgets(lambda i, n: i < n if n <= 32 else i < n // 32 * 32)


@wrong("own", edge="other sizes")
def tail_of_128():
    return forgets(lambda i, n: i < n if n <= 128 else i < n // 128 * 128)


@wrong("own", edge="other sizes")
def beyond_512():
    return forgets(lambda i, n: i < 512)


@wrong("own", edge="other sizes")
def odd_last():
    return forgets(lambda i, n: i < n // 2 * 2)


@wrong("own", edge="other sizes")
def last_full_block():
    f, plain, _ = forgets(lambda i, n: (i < n - 16) if n % 16 == 0 else i < n)
    return f, plain, (example(4, 6),)


@wrong("own", edge="other sizes")
def last_column_of_eight():
    return square(lambda x, d: ((2 * x * d).at[..., 7:8].set(0),), example(4, 6))


@wrong("own", edge="other sizes")
def two_features():
    return square(lambda x, d: (2 * x * d * (0.5 if x.shape[-1] == 2 else 1),))


@wrong("judge 11", edge="length no multiple of the block of 8")
def block_tail_clamped():
    """GELU-like tanh kernel in blocks of eight; the last block's start is clamped
    when read, so it reads shifted data. Re-creates: "kernel reads the tail block wrong"."""
    B = 8

    def plain(x):
        return jnp.tanh(x) * x

    def bwd(res, g):
        (x,) = res
        n = x.shape[0]
        if n == 0:
            return (g,)
        b = min(B, n)
        out = jnp.zeros((-(-n // b) * b,), x.dtype)
        for i in range(-(-n // b)):
            xb = lax.dynamic_slice(x, (i * b,), (b,))
            gb = lax.dynamic_slice(g, (i * b,), (b,))
            t = jnp.tanh(xb)
            out = lax.dynamic_update_slice(out, gb * (t + xb * (1 - t * t)), (i * b,))
        return (out[:n],)

    return keeping(plain, bwd), plain, (example(16, seed=74),)


@wrong("judge 11", edge="length an exact multiple of the block of 16")
def block_exact_multiple():
    """Kernel of blocks of 16 and a remainder n % 16, with (n-1)//16 whole blocks:
    at exact multiples the last block is not done."""

    def plain(x):
        return jnp.log1p(x * x)

    def bwd(res, g):
        (x,) = res
        n = x.shape[0]
        d = g * 2 * x / (1 + x * x)
        whole = max(n - 1, 0) // 16 * 16
        done = whole + n % 16
        return (jnp.where(jnp.arange(n) < done, d, 0),)

    return keeping(plain, bwd), plain, (example(21, seed=76),)


@wrong("judge 11", edge="more than 2**15 elements")
def dot_grid_limit():
    """Weighted sum; the kernel's grid in the backward is at most 256 programs of
    128 lanes and does not stride. Re-creates: "grid dimension limit truncates"."""

    def plain(x, w):
        return jnp.sum(x * w)

    def bwd(res, g):
        x, w = res
        n = x.shape[0]
        lanes = min(-(-n // 128), 256) * 128
        live = jnp.arange(n) < lanes
        return jnp.where(live, g * w, 0), jnp.where(live, g * x, 0)

    return keeping(plain, bwd), plain, (example(200, seed=85), example(200, seed=86))
