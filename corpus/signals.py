"""Convolutions, spectra, frames and windows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import example, keeping, right, rule, uniform, written, wrong


def taps(x, w, left, right, dilation=1):
    """The windows of len(w) elements of x, padded."""
    return jnp.pad(x, (left, right))[jnp.arange(len(x))[:, None] + dilation * jnp.arange(len(w))]


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def convolution():
    def plain(x, w):
        return lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    def bwd(r, d):
        x, w = r
        k, n = w.shape[0], x.shape[1]
        left = (k - 1) // 2
        xp = jnp.pad(x, ((0, 0), (left, k - 1 - left), (0, 0)))
        dp = jnp.pad(d, ((0, 0), (k - 1 - left, left), (0, 0)))
        dw = jnp.stack([jnp.einsum("bni,bno->io", xp[:, j : j + n], d) for j in range(k)])
        dx = sum(dp[:, k - 1 - j : k - 1 - j + n] @ w[j].T for j in range(k))
        return dx, dw

    return rule(plain, lambda x, w: (plain(x, w), (x, w)), bwd), plain, (example(2, 6, 3), example(3, 3, 4, seed=1))


@right("judge 1")
def fft_causal_conv():
    """Refuses a kernel of another shape; products of spectra of twice the length."""

    def product(u, k):
        n = u.shape[-1]
        return jnp.fft.irfft(jnp.fft.rfft(u, 2 * n) * k, 2 * n)[..., :n]

    def forward(u, k):
        if u.shape[-2:] != k.shape:
            raise ValueError(f"expected a kernel of {u.shape[-2:]}, got {k.shape}")
        return product(u, jnp.fft.rfft(k, 2 * k.shape[-1]))

    def plain(u, k):
        i = jnp.arange(u.shape[-1])
        shift = i[:, None] - i
        return jnp.einsum("dts,bds->bdt", jnp.where(shift >= 0, k[..., jnp.maximum(shift, 0)], 0), u)

    def bwd(r, d):
        u, k = r
        n = u.shape[-1]
        correlated = lambda v: product(d, jnp.conj(jnp.fft.rfft(v, 2 * n)))  # noqa: E731
        return correlated(k), correlated(u).sum(0)

    return keeping(forward, bwd), plain, (example(2, 3, 16), example(3, 16, seed=1, scale=0.5))


@right("judge 1")
def power_spectrum():
    """The definition has sines and cosines."""

    def plain(x):
        n = x.shape[-1]
        angle = 2 * np.pi * (np.arange(n // 2 + 1)[:, None] * np.arange(n) % n) / n
        return (x @ np.cos(angle).T.astype(x.dtype)) ** 2 + (x @ np.sin(angle).T.astype(x.dtype)) ** 2

    def fwd(x):
        z = jnp.fft.rfft(x)
        return z.real**2 + z.imag**2, (z, x.shape[-1])

    def bwd(r, d):
        z, n = r
        full = jnp.zeros((*z.shape[:-1], n), z.dtype).at[..., : z.shape[-1]].set(d * z)
        return (2 * n * jnp.fft.ifft(full).real,)

    return written(fwd, bwd), plain, (example(3, 12),)


@right("judge 1")
def s4d_kernel_vandermonde():
    """2 Re Σ C exp(A t): complex within, real without."""

    def plain(re, im, log_a, w, length):
        t = 0.1 * jnp.arange(length).astype(re.dtype)
        wave = re[:, None] * jnp.cos(w[:, None] * t) - im[:, None] * jnp.sin(w[:, None] * t)
        return 2 * (jnp.exp(-jnp.exp(log_a)[:, None] * t) * wave).sum(0)

    def fwd(re, im, log_a, w, length):
        a, c = lax.complex(-jnp.exp(log_a), w), lax.complex(re, im)
        t = 0.1 * jnp.arange(length).astype(re.dtype)
        v = jnp.exp(a[:, None] * t)
        return 2 * (c @ v).real, (c, a, v, t)

    def bwd(length, r, d):
        c, a, v, t = r
        dc, da = 2 * v @ d.astype(v.dtype), 2 * c * (v @ (d * t).astype(v.dtype))
        return dc.real, -dc.imag, da.real * a.real, -da.imag

    args = example(4), example(4, seed=1), example(4, seed=2, scale=0.3), uniform(0.5, 4, 4, seed=3), 16
    return written(fwd, bwd, 4), plain, args


@right("judge 11")
def half_spectrum_energy():
    """Weighted energy of a half spectrum; the mirrored bins counted for any parity."""

    def plain(x):
        y = jnp.fft.rfft(x)
        return ((jnp.real(y) ** 2 + jnp.imag(y) ** 2) * (jnp.arange(y.shape[0]) + 1.0)).astype(x.dtype)

    def bwd(r, g):
        (x,) = r
        n = x.shape[0]
        z = g * (jnp.arange(g.shape[0]) + 1.0) * jnp.fft.rfft(x)
        once = (jnp.arange(g.shape[0]) == 0) | (2 * jnp.arange(g.shape[0]) == n)
        z = jnp.where(once, 2 * z, z)
        return ((jnp.fft.irfft(z, n) * n).astype(x.dtype),)

    return keeping(plain, bwd), plain, (example(8, seed=548),)


@right("judge 11")
def circular_convolution():
    """Circular convolution by FFT, the definition by sums."""

    def plain(x, k):
        n = x.shape[0]
        i = (np.arange(n)[:, None] - np.arange(n)[None]) % n
        return k[i] @ x

    @jax.custom_vjp
    def f(x, k):
        n = x.shape[0]
        return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(k), n).astype(x.dtype)

    def bwd(r, g):
        x, k = r
        n = x.shape[0]
        gg = jnp.fft.rfft(g)

        def back(z):
            return jnp.fft.irfft(gg * jnp.conj(jnp.fft.rfft(z)), n).astype(x.dtype)

        return back(k), back(x)

    f.defvjp(lambda x, k: (f(x, k), (x, k)), bwd)
    return f, plain, (example(8, seed=555), example(8, seed=556))


@right("judge 11")
def convolve_same_full():
    """np.convolve mode same for a kernel not longer than the signal, even or odd."""

    def plain(x, k):
        return jnp.convolve(x, k, mode="same")

    def bwd(r, g):
        x, k = r
        n, m = x.shape[0], k.shape[0]
        lo = (m - 1) // 2
        full = jnp.pad(g, (lo, m - 1 - lo))
        dx = sum(full[j : j + n] * k[j] for j in range(m))
        dk = jnp.stack([jnp.dot(full[j : j + n], x) for j in range(m)])
        return dx, dk

    return keeping(plain, bwd), plain, (example(9, seed=563), example(3, seed=564))


@right("judge 11")
def frames_overlap_add():
    """Frames of four at every second sample; unused samples at the end get zero."""

    def idx(n):
        return np.arange((n - 4) // 2 + 1)[:, None] * 2 + np.arange(4)[None]

    def plain(x):
        return x[idx(x.shape[0])] * jnp.asarray([0.5, 1, 1, 0.5], x.dtype)

    def bwd(r, g):
        (x,) = r
        return (jnp.zeros_like(x).at[idx(x.shape[0])].add(g * jnp.asarray([0.5, 1, 1, 0.5], x.dtype)),)

    return keeping(plain, bwd), plain, (example(14, seed=568),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 1", edge="other sizes and ranks")
def power_spectrum_of_even_length():
    """The last bin is its own mirror image only where the length is even."""

    def plain(x):
        z = jnp.fft.rfft(x)
        return z.real**2 + z.imag**2

    def bwd(r, d):
        x, n = r[0], r[0].shape[-1]
        z = 2 * d * jnp.fft.rfft(x)
        once = jnp.full(z.shape[-1], 0.5, d.dtype).at[jnp.array([0, -1])].set(1)
        return (jnp.fft.irfft(z * once, n) * n,)

    return keeping(plain, bwd), plain, (example(3, 16),)


@wrong("judge 1", edge="other sizes and ranks")
def last_window_taken_for_full():
    """Means over windows of four; what is left over at the end is a shorter window."""

    def plain(x):
        windows = lambda v: jnp.pad(v, ((0, 0), (0, -v.shape[1] % 4))).reshape(v.shape[0], -1, 4).sum(-1)  # noqa: E731
        return windows(x) / windows(jnp.ones_like(x))

    def bwd(r, d):
        return (jnp.repeat(d / 4, 4, 1)[:, : r[0].shape[1]],)

    return keeping(plain, bwd), plain, (example(2, 16),)


@wrong("judge 1", edge="other sizes and ranks")
def same_padding_of_odd_kernels():
    """The padding of an even kernel is lopsided, and so must its backward pass be, on the other side."""

    def plain(x, w):
        return taps(x, w, (len(w) - 1) // 2, len(w) // 2) @ w

    def bwd(r, d):
        x, w = r
        left, right = (len(w) - 1) // 2, len(w) // 2
        return taps(d, w, left, right) @ w[::-1], d @ taps(x, w, left, right)

    return keeping(plain, bwd), plain, (example(12), example(3, seed=1))


@wrong("judge 1", edge="a setting that is not its default")
def dilation_ignored():
    def plain(x, w, dilation):
        return taps(x, w, dilation * (len(w) - 1), 0, dilation) @ w

    def bwd(dilation, r, d):
        x, w = r
        k = len(w) - 1
        return taps(d, w, 0, k) @ w[::-1], d @ taps(x, w, dilation * k, 0, dilation)

    return keeping(plain, bwd, 2), plain, (example(9), example(3, seed=1), 1)


@wrong("judge 2", edge="odd lengths")
def last_bin_of_odd_lengths():
    """The last of the frequencies has one copy only where the length is even, and the example's is."""

    def plain(x, h):
        return jnp.fft.irfft(jnp.fft.rfft(x) * h, n=x.shape[-1])

    def bwd(r, d):
        x, h = r
        n, e = x.shape[-1], jnp.fft.rfft(d)
        copies = jnp.full(h.shape, 2.0, h.dtype).at[jnp.array([0, -1])].set(1.0)
        return jnp.fft.irfft(e * h, n=n), (jnp.conj(jnp.fft.rfft(x)) * e).real.sum(0) * copies / n

    return keeping(plain, bwd), plain, (example(3, 8), example(5, seed=1))


@wrong("judge 2", edge="lengths that the stride does not divide")
def what_the_stride_leaves_over():
    """Samples after the last window get their zero before the first."""

    def plain(x, w):
        count = (x.shape[-1] - len(w)) // 2 + 1
        return sum(w[k] * x[:, k : k + 2 * count - 1 : 2] for k in range(len(w)))

    def bwd(r, d):
        x, w = r
        reach = 2 * d.shape[1] - 1
        spread = jnp.zeros((len(d), reach), d.dtype).at[:, ::2].set(d)
        dx = sum(w[k] * jnp.pad(spread, ((0, 0), (k, len(w) - 1 - k))) for k in range(len(w)))
        dw = jnp.stack([(d * x[:, k : k + reach : 2]).sum() for k in range(len(w))])
        return jnp.pad(dx, ((0, 0), (x.shape[1] - dx.shape[1], 0))), dw

    return keeping(plain, bwd), plain, (example(2, 9), example(3, seed=1))


@wrong("judge 11", edge="odd length")
def power_spectrum_odd():
    """Energy of a weighted half spectrum; the last bin taken for Nyquist's always.
    Re-creates: "rfft / irfft gradient for odd n"."""

    def plain(x):
        y = jnp.fft.rfft(x)
        k = jnp.arange(y.shape[0]) + 1.0
        return (jnp.abs(y) ** 2 * k).astype(x.dtype)

    def bwd(res, g):
        (x,) = res
        n = x.shape[0]
        y = jnp.fft.rfft(x)
        k = jnp.arange(y.shape[0]) + 1.0
        z = g * k * y  # half spectrum, doubled by irfft
        z = z.at[0].multiply(2).at[-1].multiply(2)
        return ((jnp.fft.irfft(z, n) * n).astype(x.dtype),)

    return keeping(plain, bwd), plain, (example(8, seed=92),)


@wrong("judge 11", edge="odd length")
def fftshift_odd():
    """fftshift with itself as its inverse. Re-creates: "fftshift vs ifftshift"."""

    def plain(x):
        return jnp.fft.fftshift(x) ** 2

    def bwd(res, g):
        (x,) = res
        return (jnp.fft.fftshift(g) * 2 * x,)

    return keeping(plain, bwd), plain, (example(8, seed=94),)


@wrong("judge 11", edge="an even kernel")
def conv_same_even():
    """np.convolve mode same; the backward pads half the kernel on both sides.
    Re-creates: "SAME padding with even kernel backward"."""

    def plain(x, k):
        return jnp.convolve(x, k, mode="same")

    def bwd(res, g):
        x, k = res
        n, m = x.shape[0], k.shape[0]
        h = m // 2
        gp = jnp.pad(g, (h, h))
        xp = jnp.pad(x, (h, h))
        dx = sum(gp[j : j + n] * k[j] for j in range(m))
        dk = jnp.stack([jnp.sum(g * xp[2 * h - j : 2 * h - j + n]) for j in range(m)])
        return dx, dk

    return keeping(plain, bwd), plain, (example(9, seed=97), example(3, seed=98))


@wrong("judge 11", edge="length leaving a remainder to the hop")
def frames_remainder():
    """Frames of four at every second sample; the backward puts the unused samples
    at the front. Signal processing, overlap-add."""

    def plain(x):
        n = (x.shape[0] - 4) // 2 + 1
        i = np.arange(n)[:, None] * 2 + np.arange(4)[None]
        return x[i] * jnp.hanning(4).astype(x.dtype) + x[i] * 0.5

    def bwd(res, g):
        (x,) = res
        n = g.shape[0]
        w = jnp.hanning(4).astype(x.dtype) + 0.5
        i = np.arange(n)[:, None] * 2 + np.arange(4)[None]
        used = (n - 1) * 2 + 4
        y = jnp.zeros((used,), x.dtype).at[i].add(g * w)
        return (jnp.pad(y, (x.shape[0] - used, 0)),)

    return keeping(plain, bwd), plain, (example(14, seed=102),)
