"""Activations, gates, quantizers and complex layers."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import (
    complex_example,
    elementwise,
    example,
    floats,
    keeping,
    right,
    rule,
    softmax_back,
    unbroadcast,
    uniform,
    wrong,
)


@right("judge 14")
def squared_relu_by_the_root_of_its_output():
    """Only the output is kept, whose root gives the slope; the second one too, of a root at zero that nothing moves."""

    def plain(x):
        return jax.nn.relu(x) ** 2

    def fwd(x):
        y = plain(x)
        return y, y

    return rule(plain, fwd, lambda y, d: (2 * d * jnp.sqrt(y),)), plain, (example(4, 6),)


@wrong("judge 14", "a share of zero, with which training begins")
def residual_branch_over_its_share():
    """The branch is found again as what was added over its learned share, which fails at a share of zero."""

    def plain(x, branch, share):
        return x + share * branch

    def fwd(x, branch, share):
        y = plain(x, branch, share)
        return y, (x, y, share)

    def bwd(r, d):
        x, y, share = r
        return d, d * share, (d * (y - x) / share).sum()

    return rule(plain, fwd, bwd), plain, (example(4, 3), example(4, 3, seed=1), jnp.asarray(0.6, jnp.float32))


@wrong("judge 14", "an input beyond six")
def eight_bits_for_outlier_columns():
    """Columns with an input beyond six are not rounded to eight bits, but in the weight's gradient they are."""

    def rounded(x, exempt):
        step = jnp.maximum(jnp.abs(jnp.where(exempt, 0.0, x)).max(-1, keepdims=True), 1e-6) / 127
        return jnp.where(exempt, x, jnp.round(x / step) * step)

    def plain(x, w):
        exempt = (jnp.abs(x) > 6).any(0)
        return (x + lax.stop_gradient(rounded(x, exempt) - x)) @ w

    def bwd(r, d):
        x, w = r
        return d @ w.T, rounded(x, jnp.zeros(x.shape[1], bool)).T @ d

    return keeping(plain, bwd), plain, (example(5, 6), example(6, 3, seed=1))


@wrong("judge 14", "half precision with cotangents of a hundred and more")
def softsign_scaled_up_in_the_backward_pass():
    """The cotangent is multiplied by 1024 against underflow and divided again, in a precision that overflows."""

    def plain(x):
        return x / (1 + jnp.abs(x))

    def bwd(r, d):
        (x,) = r
        return (d * 1024 / (1 + jnp.abs(x)) ** 2 / 1024,)

    return keeping(plain, bwd), plain, (example(4, 6),)


@wrong("judge 14")
def squeezed_gate_taken_for_constant():
    """The gate comes from the mean of what it multiplies, and that way to the input is lost."""

    def gate(x, w):
        return jax.nn.sigmoid(x.mean(1) @ w)[:, None]

    def plain(x, w):
        return x * gate(x, w)

    def bwd(r, d):
        x, w = r
        g = gate(x, w)
        dz = (d * x).sum(1) * (g * (1 - g))[:, 0]
        return d * g, x.mean(1).T @ dz

    return keeping(plain, bwd), plain, (example(3, 5, 4), example(4, 4, seed=1))


@right("judge 14")
def three_halves_entmax():
    """Squares of what exceeds a threshold and sums to one; the slope goes by the roots of the weights."""

    def roots(x):
        z = (x - lax.stop_gradient(x.max(-1, keepdims=True))) / 2
        s = -jnp.sort(-lax.stop_gradient(z), -1)
        k = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
        mean = jnp.cumsum(s, -1) / k
        lowest = mean - jnp.sqrt(jnp.maximum(1 / k - (jnp.cumsum(s * s, -1) / k - mean * mean), 0.0))
        on = lax.stop_gradient(z) >= jnp.where(lowest <= s, s, jnp.inf).min(-1, keepdims=True)
        count = on.sum(-1, keepdims=True)
        mean = jnp.where(on, z, 0.0).sum(-1, keepdims=True) / count
        spread = jnp.where(on, (z - mean) ** 2, 0.0).sum(-1, keepdims=True)
        return jnp.where(on, z - mean + jnp.sqrt((1 - spread) / count), 0.0)

    def plain(x):
        return roots(x) ** 2

    def bwd(r, d):
        s = roots(*r)
        return (s * (d - (s * d).sum(-1, keepdims=True) / s.sum(-1, keepdims=True)),)

    return keeping(plain, bwd), plain, (example(4, 6),)


@right("judge 14")
def exponential_unit_of_learned_scale():
    """x above zero and a (exp(x / a) - 1) below, smooth at zero, where both slopes are one."""

    def plain(x, a):
        return jnp.where(x > 0, x, a * jnp.expm1(jnp.where(x > 0, 0.0, x) / a))

    def bwd(r, d):
        x, a = r
        u = jnp.where(x > 0, 0.0, x) / a
        da = jnp.where(x > 0, 0.0, jnp.expm1(u) - u * jnp.exp(u))
        return unbroadcast(d * jnp.where(x > 0, 1.0, jnp.exp(u)), x.shape), unbroadcast(d * da, a.shape)

    return keeping(plain, bwd), plain, (example(4, 6).at[1, 2].set(0), uniform(0.5, 2.0, 6, seed=1))


@right("judge 14")
def softmax_with_a_silent_choice():
    """Weights whose denominator has one more, so that they may sum to less than one; the slope is as of a softmax."""

    def plain(x):
        top = lax.stop_gradient(jnp.maximum(x.max(-1, keepdims=True), 0.0))
        e = jnp.exp(x - top)
        return e / (jnp.exp(-top) + e.sum(-1, keepdims=True))

    def fwd(x):
        y = plain(x)
        return y, y

    return rule(plain, fwd, lambda y, d: (softmax_back(y, d),)), plain, (example(4, 6, scale=2.0),)


@right("judge 14")
def ternary_weights_by_mean_size():
    """Weights are minus one, zero or one times their mean size, which learns; rounding is passed straight through."""

    def parts(x):
        size = jnp.abs(x).mean() + 1e-3
        r = x / size
        inside = jnp.abs(r) <= 1
        bounded = jnp.where(inside, r, jnp.sign(r))
        return size, jnp.where(inside, r, 0.0), inside, bounded + lax.stop_gradient(jnp.round(bounded) - bounded)

    def plain(x):
        size, _, _, q = parts(x)
        return size * q

    def bwd(r, d):
        (x,) = r
        _, kept, inside, q = parts(x)
        dsize = (d * (q - kept)).sum()
        return (jnp.where(inside, d, 0.0) + dsize * jnp.sign(x) / x.size,)

    return keeping(plain, bwd), plain, (example(5, 4),)


@right("judge 14")
def stretched_and_cut_gate():
    """A noisy gate stretched beyond zero and one and cut there, where it is exactly closed or open."""

    def stretched(a, noise):
        s = jax.nn.sigmoid((jnp.log(noise) - jnp.log1p(-noise) + a) / 0.66)
        return s, 1.2 * s - 0.1

    def plain(a, noise):
        t = stretched(a, noise)[1]
        return jnp.where(t <= 0, 0.0, jnp.where(t >= 1, 1.0, t))

    def bwd(r, d):
        a, noise = r
        s, t = stretched(a, noise)
        g = jnp.where((t > 0) & (t < 1), d * (1.2 / 0.66) * s * (1 - s), 0.0)
        return unbroadcast(g, a.shape), unbroadcast(g / (noise * (1 - noise)), noise.shape)

    return keeping(plain, bwd), plain, (example(8, scale=2.0), uniform(0.05, 0.95, 8, seed=1))


@right("judge 14")
def complex_shrinkage_by_modulus():
    """A complex number is brought closer to zero by a threshold, and is zero within it."""

    def parts(z, t):
        square = z.real**2 + z.imag**2
        on = square > t * t
        return on, jnp.sqrt(jnp.where(on, square, 1.0))

    def plain(z, t):
        on, size = parts(z, t)
        return jnp.where(on, z * (1 - t / size), 0.0)

    def bwd(r, d):
        z, t = r
        on, size = parts(z, t)
        g = jnp.where(on, d, 0.0)
        along = (g * z).real
        dz = g * (1 - t / size) + along * t / size**3 * jnp.conj(z)
        return unbroadcast(dz, z.shape), unbroadcast(-along / size, t.shape)

    z = complex_example(1, 3, 4).at[0, 1].set(0)
    return keeping(plain, bwd), plain, (z, floats(0.5, 1.0, 0.2, 0.0))


@right("judge 14")
def measured_frequencies_replaced():
    """The measured frequencies take the place of those of an image's rows; the transform is its own transpose."""

    def plain(image, measured, mask):
        return jnp.fft.ifft(jnp.where(mask, measured, jnp.fft.fft(image)))

    def bwd(r, d):
        image, measured, mask = r
        g = jnp.fft.ifft(d)
        dimage = jnp.fft.fft(unbroadcast(jnp.where(mask, 0.0, g), image.shape))
        return dimage, unbroadcast(jnp.where(mask, g, 0.0), measured.shape), None

    mask = jnp.asarray([True, True, False, False, True])
    return keeping(plain, bwd), plain, (complex_example(1, 3, 5), complex_example(2, 3, 5), mask)


@right("judge 14")
def keypoint_by_expected_place():
    """The expected row and column under a map's softmax, both between minus one and one."""

    def parts(z):
        rows = jnp.linspace(-1.0, 1.0, z.shape[0], dtype=z.dtype)[:, None]
        columns = jnp.linspace(-1.0, 1.0, z.shape[1], dtype=z.dtype)
        return jax.nn.softmax(z, (0, 1)), rows, columns

    def plain(z):
        p, rows, columns = parts(z)
        return jnp.stack([(p * rows).sum(), (p * columns).sum()])

    def bwd(r, d):
        p, rows, columns = parts(*r)
        g = d[0] * rows + d[1] * columns
        return (p * (g - (p * g).sum()),)

    return keeping(plain, bwd), plain, (example(4, 5),)


@right("judge 14")
def spike_with_a_sigmoid_for_slope():
    """A step at one whose slope is by definition that of a sigmoid there."""

    def plain(v):
        s = jax.nn.sigmoid(4 * (v - 1))
        return s + lax.stop_gradient((v >= 1).astype(v.dtype) - s)

    def slope(v):
        s = jax.nn.sigmoid(4 * (v - 1))
        return 4 * s * (1 - s)

    return elementwise(plain, slope, example(4, 6, mean=0.7))
