"""Filters, delays, transforms and oscillators."""

import jax.numpy as jnp
from jax import lax

from corpus.common import SINGLE, example, floats, keeping, right, rule, unbroadcast, uniform, wrong


def _late(x, k):
    """x, k samples later."""
    return jnp.pad(x, (k, 0))[: x.shape[0]]


def _soon(x, k):
    """x, k samples earlier."""
    return jnp.pad(x, (0, k))[k:]


@wrong("judge 15", "silence")
def peak_hold_in_silence():
    """A sample that only equals what is held gets the gradient instead of the hold."""

    def plain(x, keep):
        def step(y, now):
            y = jnp.where(now > keep * y, now, keep * y)
            return y, y

        return lax.scan(step, jnp.zeros_like(x[0]), x)[1]

    def fwd(x, keep):
        y = plain(x, keep)
        return y, (x, keep, jnp.concatenate([jnp.zeros_like(y[:1]), y[:-1]]))

    def bwd(r, d):
        x, keep, before = r

        def step(g, at):
            now, held, here = at
            g = g + here
            hit = now >= keep * held
            return jnp.where(hit, 0.0, keep * g), (jnp.where(hit, g, 0.0), jnp.where(hit, 0.0, g * held))

        gx, gk = lax.scan(step, jnp.zeros_like(d[0]), (x, before, d), reverse=True)[1]
        return gx, gk.sum()

    return rule(plain, fwd, bwd), plain, (uniform(0.1, 1.0, 9), jnp.asarray(0.8, SINGLE))


@wrong("judge 15", "longer signals")
def correlation_by_transforms_of_sixteen():
    """The backward transforms have sixteen points, and longer results wrap round."""

    def plain(x, h):
        return jnp.convolve(x, h)

    def bwd(r, d):
        x, h = r
        spectrum = jnp.fft.rfft(d, 16)

        def against(v, n):
            return jnp.fft.irfft(spectrum * jnp.fft.rfft(v, 16).conj(), 16)[:n]

        return against(h, x.shape[0]), against(x, h.shape[0])

    return keeping(plain, bwd), plain, (example(9, seed=1), example(4, seed=2))


@wrong("judge 15", "a delay of zero")
def echo_with_no_delay():
    """The last samples are cleared by a slice that takes all of them where the delay is zero."""

    def plain(x, gain, delay):
        return x + gain * _late(x, delay)

    def bwd(delay, r, d):
        x, gain = r
        early = jnp.roll(d, -delay).at[-delay:].set(0.0)
        return d + gain * early, (d * _late(x, delay)).sum()

    return keeping(plain, bwd, 2), plain, (example(8, seed=3), jnp.asarray(0.6, SINGLE), 3)


@wrong("judge 15", "complex values")
def resonator_with_conjugate_feedback():
    """The adjoint feeds back by the conjugate coefficient, which is another one once it is complex."""

    def run(a, x, reverse=False):
        def step(y, now):
            y = a * y + now
            return y, y

        return lax.scan(step, jnp.zeros_like(x[0]), x, reverse=reverse)[1]

    def fwd(a, x):
        y = run(a, x)
        return y, (a, jnp.concatenate([jnp.zeros_like(y[:1]), y[:-1]]))

    def bwd(r, d):
        a, before = r
        g = run(jnp.conj(a), d, reverse=True)
        return (g * before).sum(), g

    return rule(run, fwd, bwd), run, (jnp.asarray(0.7, SINGLE), example(7, seed=4))


@right("judge 15")
def biquad_by_the_filter_run_backwards():
    """Recursive filter of second order; its feedback, run from the end, is what every gradient needs."""

    def feedback(a, u, reverse=False):
        first, second = a

        def step(s, now):
            y = now - first * s[0] - second * s[1]
            return (y, s[0]), y

        zero = jnp.zeros_like(u[0])
        return lax.scan(step, (zero, zero), u, reverse=reverse)[1]

    def plain(b, a, x):
        b0, b1, b2 = b
        return feedback(a, b0 * x + b1 * _late(x, 1) + b2 * _late(x, 2))

    def fwd(b, a, x):
        y = plain(b, a, x)
        return y, (b, a, x, y)

    def bwd(r, d):
        b, a, x, y = r
        g = feedback(a, d, reverse=True)
        gx = b[0] * g + b[1] * _soon(g, 1) + b[2] * _soon(g, 2)
        gb = jnp.stack([(g * _late(x, k)).sum() for k in range(3)])
        return gb, -jnp.stack([(g * _late(y, k)).sum() for k in (1, 2)]), gx

    return rule(plain, fwd, bwd), plain, (floats(0.4, 0.3, -0.2), floats(-0.9, 0.4), example(10, seed=5))


@right("judge 15")
def squared_envelope_of_a_signal():
    """x^2 and the square of its Hilbert transform, which is minus its own transpose, for any length."""

    def hilbert(x):
        n = x.shape[-1]
        k = jnp.arange(n)
        turn = jnp.where(k > 0, jnp.sign(n - 2 * k), 0).astype(x.dtype)
        return jnp.fft.ifft(-1j * turn * jnp.fft.fft(x)).real.astype(x.dtype)

    def plain(x):
        return x * x + hilbert(x) ** 2

    def fwd(x):
        h = hilbert(x)
        return x * x + h * h, (x, h)

    def bwd(r, d):
        x, h = r
        return (2 * (d * x - hilbert(d * h)),)

    return rule(plain, fwd, bwd), plain, (example(2, 8, seed=6),)


@right("judge 15")
def power_at_one_frequency():
    """Squared modulus of a signal's transform at one frequency, which has a gradient too."""

    def parts(x, f):
        (n,) = x.shape
        t = jnp.arange(n, dtype=x.dtype)
        return t, jnp.cos(2 * jnp.pi * f * t), jnp.sin(2 * jnp.pi * f * t)

    def plain(x, f):
        _, c, s = parts(x, f)
        return (x * c).sum() ** 2 + (x * s).sum() ** 2

    def bwd(r, d):
        x, f = r
        t, c, s = parts(x, f)
        even, odd = (x * c).sum(), (x * s).sum()
        gf = 4 * jnp.pi * d * x * t * (odd * c - even * s)
        return 2 * d * (even * c + odd * s), unbroadcast(gf, f.shape)

    return keeping(plain, bwd), plain, (example(9, seed=7), jnp.asarray(0.13, SINGLE))


@right("judge 15")
def autocorrelation_of_four_lags():
    """Mean products of samples 0 to 3 apart; at no lag a sample meets itself, which counts twice."""

    def plain(x):
        (n,) = x.shape
        return jnp.stack([(x * _late(x, k)).sum() for k in range(4)]) / n

    def bwd(r, d):
        (x,) = r
        g = d / x.shape[0]
        return (sum(g[k] * (_late(x, k) + _soon(x, k)) for k in range(4)),)

    return keeping(plain, bwd), plain, (example(9, seed=8),)


@right("judge 15")
def oscillator_of_a_pitch_curve():
    """Sine of the running sum of frequencies; a frequency moves the phase of all that follows."""

    def phase(f, start):
        return start + jnp.cumsum(f, -1)

    def plain(f, level, start):
        return level * jnp.sin(phase(f, start))

    def bwd(r, d):
        f, level, start = r
        p = phase(f, start)
        g = d * level * jnp.cos(p)
        gf = jnp.cumsum(unbroadcast(g, f.shape)[..., ::-1], -1)[..., ::-1]
        return gf, unbroadcast(d * jnp.sin(p), level.shape), unbroadcast(g, start.shape)

    return keeping(plain, bwd), plain, (example(8, seed=9), uniform(0.5, 1.0, 8, seed=10), jnp.asarray(0.2, SINGLE))


@right("judge 15")
def phase_without_jumps():
    """Whole turns are taken off wherever a phase jumps, and whole turns have no slope."""

    def plain(x):
        turns = jnp.round(jnp.diff(x) / (2 * jnp.pi))
        return jnp.concatenate([x[..., :1], x[..., 1:] - 2 * jnp.pi * jnp.cumsum(turns, -1)], -1)

    return rule(plain, lambda x: (plain(x), None), lambda _, d: (d,)), plain, (example(2, 9, seed=11, scale=3.0),)
