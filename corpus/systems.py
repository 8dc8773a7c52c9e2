"""Structured systems, implicit equations and finite-volume schemes."""

import math

import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg

from corpus.common import SINGLE, definite, example, keeping, right, rule, unbroadcast, uniform, wrong


def _solved(m, b):
    """m^-1 b for one right side."""
    (n,) = b.shape
    return jnp.linalg.solve(m, b.reshape(n, 1)).reshape(n)


def _ring(n, dtype):
    """What picks the neighbour below and the one above on a ring."""
    eye = jnp.eye(n, dtype=dtype)
    return jnp.roll(eye, -1, 1), jnp.roll(eye, 1, 1)


@wrong("judge 15", "more columns than rows")
def toeplitz_product_of_a_wide_matrix():
    """The column's gradient is cut from the correlation where the main diagonal of a square matrix lies."""

    def matrix(c, r):
        (n,), (m,) = c.shape, r.shape
        k = jnp.arange(n)[:, None] - jnp.arange(m)
        return jnp.where(k >= 0, c[jnp.maximum(k, 0)], r[jnp.maximum(-k, 0)])

    def plain(c, r, x):
        return jnp.einsum("ij,j->i", matrix(c, r), x)

    def bwd(kept, d):
        c, r, x = kept
        n, m = c.shape[0], r.shape[0]
        g = jnp.convolve(d, x[::-1])
        return lax.dynamic_slice(g, (n - 1,), (n,)), g[:m][::-1].at[0].set(0.0), matrix(c, r).T @ d

    return keeping(plain, bwd), plain, (example(5), example(5, seed=1), example(5, seed=2))


@wrong("judge 15", "a matrix larger than the number of steps")
def definite_system_by_eight_steps():
    """The adjoint system is left after eight steps of conjugate gradients, however large it is."""

    def plain(a, b):
        return _solved((a + a.T) / 2, b)

    def fwd(a, b):
        x = plain(a, b)
        return x, (a, x)

    def bwd(r, d):
        a, x = r
        g = cg((a + a.T) / 2, d, tol=1e-12, maxiter=8)[0]
        pull = jnp.outer(g, x)
        return -(pull + pull.T) / 2, g

    return rule(plain, fwd, bwd), plain, (definite(3, 5), example(5, seed=4))


@wrong("judge 15", "unused corners of the band that are not zero")
def band_product_with_zero_corners():
    """Products are rolled round the ends, as if the unused corners of the band were always zero."""

    def plain(band, x):
        k, n = band.shape
        padded = jnp.pad(x, k // 2)
        return sum(band[i] * padded[i : i + n] for i in range(k))

    def bwd(r, d):
        band, x = r
        k, n = band.shape
        padded = jnp.pad(x, k // 2)
        gx = sum(jnp.roll(band[i] * d, i - k // 2) for i in range(k))
        return jnp.stack([d * padded[i : i + n] for i in range(k)]), gx

    band = example(3, 6, seed=5).at[0, 0].set(0).at[2, -1].set(0)
    return keeping(plain, bwd), plain, (band, example(6, seed=6))


@wrong("judge 15", "a ring of two nodes")
def ring_system_of_two_nodes():
    """The coefficients of the two neighbours overwrite each other where both are the same node."""

    def plain(low, mid, high, b):
        below, above = _ring(b.shape[0], b.dtype)
        return _solved(jnp.diag(mid) + low[:, None] * below + high[:, None] * above, b)

    def fwd(low, mid, high, b):
        x = plain(low, mid, high, b)
        return x, (low, mid, high, x)

    def bwd(r, d):
        low, mid, high, x = r
        n = x.shape[0]
        i = jnp.arange(n)
        m = jnp.diag(mid).at[i, i - 1].set(low).at[i, (i + 1) % n].set(high)
        g = _solved(m.T, d)
        return -g * jnp.roll(x, 1), -g * x, -g * jnp.roll(x, -1), g

    low, high = example(6, seed=7, scale=0.5), example(6, seed=8, scale=0.5)
    return rule(plain, fwd, bwd), plain, (low, uniform(3.0, 4.0, 6, seed=9), high, example(6, seed=10))


@wrong("judge 15", "second derivative")
def friction_factor_with_a_held_root():
    """The root of Colebrook's equation is kept without a derivative, and the second derivative is wrong."""
    c = 2 / math.log(10)

    def parts(x, rough, log_re):
        inside = rough / 3.7 + 2.51 * x * jnp.exp(-log_re)
        return inside, 1 + c * 2.51 * jnp.exp(-log_re) / inside

    def plain(rough, log_re):
        x = jnp.full_like(rough + log_re, 7.0)
        for _ in range(8):
            inside, slope = parts(x, rough, log_re)
            x = x - (x + c * jnp.log(inside)) / slope
        return x

    def fwd(rough, log_re):
        x = plain(rough, log_re)
        return x, (lax.stop_gradient(x), rough, log_re)

    def bwd(r, d):
        x, rough, log_re = r
        inside, slope = parts(x, rough, log_re)
        g = d * c / (inside * slope)
        return -g / 3.7, g * 2.51 * x * jnp.exp(-log_re)

    return rule(plain, fwd, bwd), plain, (uniform(0.001, 0.02, 5, seed=11), uniform(10.0, 13.0, 5, seed=12))


@wrong("judge 15", "a wind that blows the other way")
def upwind_flux_against_the_wind():
    """The gradient of the concentration always goes to the cell on the left of the face."""

    def plain(c, u):
        return u * jnp.where(u > 0, c, jnp.roll(c, -1))

    def bwd(r, d):
        c, u = r
        return d * u, d * jnp.where(u > 0, c, jnp.roll(c, -1))

    return keeping(plain, bwd), plain, (example(7, seed=13), uniform(0.2, 1.5, 7, seed=14))


@wrong("judge 15")
def tridiagonal_system_fills_unused_corners():
    """The unused first entry of the lower and last of the upper diagonal get gradients from round the ends."""

    def matrix(low, mid, high):
        return jnp.diag(mid) + jnp.diag(low[1:], -1) + jnp.diag(high[:-1], 1)

    def plain(low, mid, high, b):
        return _solved(matrix(low, mid, high), b)

    def bwd(r, d):
        low, mid, high, b = r
        m = matrix(low, mid, high)
        x, g = _solved(m, b), _solved(m.T, d)
        return -g * jnp.roll(x, 1), -g * x, -g * jnp.roll(x, -1), g

    low, high = example(5, seed=15, scale=0.5), example(5, seed=16, scale=0.5)
    return keeping(plain, bwd), plain, (low, uniform(3.0, 4.0, 5, seed=17), high, example(5, seed=18))


@right("judge 15")
def tridiagonal_system_of_shorter_diagonals():
    """The outer diagonals are one entry shorter than the main one, and so are their gradients."""

    def matrix(low, mid, high):
        return jnp.diag(mid) + jnp.diag(low, -1) + jnp.diag(high, 1)

    def plain(low, mid, high, b):
        return _solved(matrix(low, mid, high), b)

    def fwd(low, mid, high, b):
        m = matrix(low, mid, high)
        x = _solved(m, b)
        return x, (m, x)

    def bwd(r, d):
        m, x = r
        g = _solved(m.T, d)
        return -g[1:] * x[:-1], -g * x, -g[:-1] * x[1:], g

    low, high = example(4, seed=19, scale=0.5), example(4, seed=20, scale=0.5)
    return rule(plain, fwd, bwd), plain, (low, uniform(3.0, 4.0, 5, seed=21), high, example(5, seed=22))


@right("judge 15")
def implicit_heat_step_on_a_ring():
    """(I + k L)^-1 b for the periodic second difference L, by the Fourier transform that makes it diagonal."""

    def second(x):
        return 2 * x - jnp.roll(x, 1, 0) - jnp.roll(x, -1, 0)

    def plain(b, k):
        assert jnp.ndim(k) == 0
        eye = jnp.eye(b.shape[0], dtype=b.dtype)
        return _solved(eye + k * second(eye), b)

    def fast(b, k):
        n = b.shape[0]
        angle = 2 * jnp.pi * jnp.arange(n, dtype=b.dtype) / n
        return jnp.fft.ifft(jnp.fft.fft(b) / (1 + k * (2 - 2 * jnp.cos(angle)))).real

    def fwd(b, k):
        x = fast(b, k)
        return x, (x, k)

    def bwd(r, d):
        x, k = r
        g = fast(d, k)
        return g, -(g * second(x)).sum()

    return rule(plain, fwd, bwd), plain, (example(7, seed=23), jnp.asarray(0.6, SINGLE))


@right("judge 15")
def system_of_diagonal_and_low_rank():
    """(diag(exp s) + U U^T)^-1 b; the backward pass solves only with a matrix of the rank's size."""

    def plain(s, u, b):
        return _solved(jnp.diag(jnp.exp(s)) + jnp.einsum("ik,jk->ij", u, u), b)

    def fwd(s, u, b):
        x = plain(s, u, b)
        return x, (s, u, x)

    def bwd(r, d):
        s, u, x = r
        v = u / jnp.exp(s)[:, None]
        small = jnp.eye(u.shape[1], dtype=u.dtype) + u.T @ v
        g = d / jnp.exp(s) - v @ _solved(small, v.T @ d)
        return -g * x * jnp.exp(s), -jnp.outer(g, x @ u) - jnp.outer(x, g @ u), g

    return rule(plain, fwd, bwd), plain, (uniform(-1.0, 1.0, 5, seed=24), example(5, 2, seed=25), example(5, seed=26))


@right("judge 15")
def schur_complement():
    """D - C A^-1 B with a gradient for each block."""

    def plain(a, b, c, e):
        return e - jnp.einsum("ki,ij,jm->km", c, jnp.linalg.inv(a), b)

    def bwd(r, d):
        a, b, c, e = r
        inverse = jnp.linalg.inv(a)
        left, last = c @ inverse, inverse @ b
        return left.T @ d @ last.T, -left.T @ d, -d @ last.T, unbroadcast(d, e.shape)

    blocks = (example(4, 2, seed=28), example(3, 4, seed=29), example(3, 2, seed=30))
    return keeping(plain, bwd), plain, (3 * jnp.eye(4, dtype=SINGLE) + example(4, 4, seed=27, scale=0.5), *blocks)


@right("judge 15")
def minmod_of_two_slopes():
    """The smaller slope where both have one sign, the second where they are equal, and none else."""

    def plain(a, b):
        return jnp.where(a * b > 0, jnp.where(jnp.abs(a) < jnp.abs(b), a, b), 0.0)

    def bwd(r, d):
        a, b = r
        on, first = a * b > 0, jnp.abs(a) < jnp.abs(b)
        ga, gb = jnp.where(on & first, d, 0.0), jnp.where(on & ~first, d, 0.0)
        return unbroadcast(ga, a.shape), unbroadcast(gb, b.shape)

    return keeping(plain, bwd), plain, (example(9, seed=31), example(9, seed=32))
