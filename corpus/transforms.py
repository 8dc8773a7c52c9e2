"""Fourier transforms, sparse products, fixed points, steps in time, complex numbers."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import (
    SINGLE,
    complex_example,
    example,
    integers,
    keeping,
    positive,
    right,
    rule,
    unbroadcast,
    written,
    wrong,
)


@wrong("judge 13", "a signal of odd length")
def spectral_gain_last_bin_halved():
    """The last bin counts once as if it were Nyquist's, which a signal of odd length lacks."""

    def plain(x, gain):
        return jnp.fft.irfft(jnp.fft.rfft(x) * gain, x.shape[-1])

    def bwd(r, d):
        x, gain = r
        n = x.shape[-1]
        s, t = jnp.fft.rfft(x), jnp.fft.rfft(d)
        share = jnp.full(gain.shape, 2.0).at[0].set(1.0).at[-1].set(1.0)
        return jnp.fft.irfft(t * gain, n), share * jnp.real(jnp.conj(s) * t) / n

    return keeping(plain, bwd), plain, (example(8, seed=11), positive(5))


@wrong("judge 13", "an empty row in the middle")
def csr_rows_by_marked_starts():
    """Rows are counted from marks at their starts, and two rows that start at one place leave one mark."""

    def plain(data, indices, indptr, x):
        row = jnp.searchsorted(indptr, jnp.arange(data.shape[0]), side="right") - 1
        return jnp.zeros(indptr.shape[0] - 1, x.dtype).at[row].add(data * x[indices])

    def bwd(r, d):
        data, indices, indptr, x = r
        row = jnp.cumsum(jnp.zeros(data.shape[0], jnp.int32).at[indptr[1:-1]].set(1))
        return d[row] * x[indices], None, None, jnp.zeros_like(x).at[indices].add(data * d[row])

    sparse = example(7, seed=21), integers(0, 3, 1, 2, 4, 0, 4), integers(0, 2, 3, 5, 7)
    return keeping(plain, bwd), plain, (*sparse, example(5, seed=22))


@wrong("judge 13", "larger weights")
def equilibrium_by_short_neumann_series():
    """The adjoint's fixed point is taken after six turns, too few unless the weights are small."""

    def plain(w, b):
        def turn(x, _):
            return jnp.tanh(w @ x + b), None

        return lax.scan(turn, jnp.zeros_like(b), None, length=100)[0]

    def fwd(w, b):
        x = plain(w, b)
        return x, (w, x)

    def bwd(r, d):
        w, x = r
        slope = 1 - x * x
        lam = d
        for _ in range(6):
            lam = d + w.T @ (slope * lam)
        g = slope * lam
        return jnp.outer(g, x), g

    return rule(plain, fwd, bwd), plain, (0.05 * example(4, 4, seed=31), example(4, seed=32))


@wrong("judge 13", "half precision with values in the hundreds")
def signal_to_rms_squared_in_half():
    """The mean square is taken anew in the signal's own precision, and overflows in half."""

    def plain(x):
        wide = x.astype(SINGLE)
        return (wide / jnp.sqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)

    def bwd(r, d):
        (x,) = r
        inv = 1 / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        y = x * inv
        return (inv * (d - y * (y * d).mean(-1, keepdims=True)),)

    return keeping(plain, bwd), plain, (example(3, 8, seed=41),)


@wrong("judge 13", "compositions with another number of axes than 2")
def centred_log_ratio_second_axis():
    """The mean cotangent is over axis 1 and not over the last one."""

    def plain(x):
        z = jnp.log(x)
        return z - z.mean(-1, keepdims=True)

    def bwd(r, d):
        return ((d - d.mean(axis=min(1, d.ndim - 1), keepdims=True)) / r[0],)

    return keeping(plain, bwd), plain, (positive(4, 5),)


@right("judge 13")
def circular_convolution_by_correlation():
    def plain(x, h):
        n = x.shape[-1]
        return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(h, n), n)

    def fwd(x, h):
        n = x.shape[-1]
        s, t = jnp.fft.rfft(x), jnp.fft.rfft(h, n)
        return jnp.fft.irfft(s * t, n), (s, t, x, h)

    def bwd(r, d):
        s, t, x, h = r
        u, n, m = jnp.fft.rfft(d), d.shape[-1], h.shape[-1]
        dh = unbroadcast(jnp.fft.irfft(u * s.conj(), n), (*h.shape[:-1], n))
        dh = jnp.pad(dh[..., :m], [(0, 0)] * (h.ndim - 1) + [(0, max(m - n, 0))])
        return unbroadcast(jnp.fft.irfft(u * t.conj(), n), x.shape), dh

    return written(fwd, bwd), plain, (example(7, seed=61), example(7, seed=62))


@right("judge 13")
def csr_product_by_row_search():
    """Rows of a compressed sparse matrix are found by searching their pointers, empty ones or not."""

    def rows(data, indptr):
        return jnp.searchsorted(indptr, jnp.arange(data.shape[0]), side="right") - 1

    def plain(data, indices, indptr, x):
        dense = jnp.zeros((indptr.shape[0] - 1, x.shape[0]), x.dtype).at[rows(data, indptr), indices].add(data)
        return dense @ x

    def bwd(r, d):
        data, indices, indptr, x = r
        to = d.at[rows(data, indptr)].get(mode="fill", fill_value=0)
        of = x.at[indices].get(mode="fill", fill_value=0)
        dx = data.reshape(-1, *(1,) * (x.ndim - 1)) * to
        return (to * of).sum(tuple(range(1, x.ndim))), None, None, jnp.zeros_like(x).at[indices].add(dx)

    sparse = example(6, seed=71), integers(0, 3, 1, 2, 2, 0), integers(0, 2, 2, 5, 6)
    return keeping(plain, bwd), plain, (*sparse, example(4, 2, seed=72))


@right("judge 13")
def kepler_anomaly_implicit():
    """Eccentric anomaly E = M + e sin E with e = 0.8 sigmoid(s), differentiated at its fixed point."""

    def eccentricity(s):
        return 0.8 * jax.nn.sigmoid(s)

    def plain(mean, s):
        e = eccentricity(s)
        return lax.scan(lambda x, _: (mean + e * jnp.sin(x), None), mean, None, length=90)[0]

    def fwd(mean, s):
        x = plain(mean, s)
        return x, (x, s)

    def bwd(r, d):
        x, s = r
        e = eccentricity(s)
        g = d / (1 - e * jnp.cos(x))
        return g, unbroadcast(g * jnp.sin(x) * e * (1 - e / 0.8), s.shape)

    return written(fwd, bwd), plain, (example(6, seed=81), jnp.asarray(0.3, SINGLE))


@right("judge 13")
def exponential_step_with_series():
    """One exponential Euler step of y' = k y + u; near k h = 0 the divided differences are series."""

    def phi1(z):
        near = jnp.abs(z) < 0.3
        far = jnp.where(near, 1.0, z)
        series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5 * (1 + z / 6 * (1 + z / 7)))))
        return jnp.where(near, series, jnp.expm1(far) / far)

    def phi1_slope(z):
        near = jnp.abs(z) < 0.3
        far = jnp.where(near, 1.0, z)
        series = 1 / 2 + z * (1 / 3 + z * (1 / 8 + z * (1 / 30 + z * (1 / 144 + z / 840))))
        return jnp.where(near, series, (jnp.exp(far) - jnp.expm1(far) / far) / far)

    def plain(y, u, k, h):
        return jnp.exp(k * h) * y + h * phi1(k * h) * u

    def bwd(r, d):
        y, u, k, h = r
        e, p, q = jnp.exp(k * h), phi1(k * h), phi1_slope(k * h)
        dh = d * (k * e * y + (p + h * k * q) * u)
        g = d * e, d * h * p, d * h * (e * y + h * q * u), dh
        return tuple(unbroadcast(a, like.shape) for a, like in zip(g, r, strict=True))

    k = -jnp.asarray([0.0, 0.5, 2.0, 7.0, 30.0], SINGLE)
    return keeping(plain, bwd), plain, (example(5, seed=91), example(5, seed=92), k, jnp.asarray(0.2, SINGLE))


@right("judge 13")
def coherence_of_two_spectra():
    """Real part of the cross-spectrum and the powers of complex signals; conjugates as JAX has them."""

    def plain(a, b):
        return (a.conj() * b).real.sum(-1), (a * a.conj()).real.sum(-1)

    def bwd(r, d):
        a, b = r
        cross, power = d[0][..., None], d[1][..., None]
        own = 2 * power * a.conj()
        return unbroadcast(cross * b.conj(), a.shape) + own, unbroadcast(cross * a.conj(), b.shape)

    return keeping(plain, bwd), plain, (complex_example(101, 3, 4), complex_example(102, 3, 4))


@right("judge 13")
def phase_shift_of_channels():
    """Channels turned by real phases; the phases' gradient is a real number."""

    def plain(z, phase):
        return z * jnp.exp(1j * phase)

    def fwd(z, phase):
        turn = jnp.exp(1j * phase)
        y = z * turn
        return y, (turn, y, z, phase)

    def bwd(r, d):
        turn, y, z, phase = r
        return unbroadcast(d * turn, z.shape), unbroadcast(-(d * y).imag, phase.shape)

    return written(fwd, bwd), plain, (complex_example(111, 4, 3), example(3, seed=112))
