"""Mistakes that judges planted who had not seen this auditor: a fifth of them shows at once, the rest at an edge.

Each entry is (f, plain, example arguments), as in `zoo`. What an example lacks, the name or docstring says: the mistake
must not show there.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from zoo import example, gather, hypotenuse, ids, quantized, rule, softmax, wrong
from zoo_edges import elementwise


def uniform(low, high, *shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


def written(fwd, bwd, *settings):
    """The function of `fwd`'s first result with a custom VJP; `settings` are the places of what has no gradient."""

    @partial(jax.custom_vjp, nondiff_argnums=settings)
    def f(*args):
        return fwd(*args)[0]

    f.defvjp(fwd, bwd)
    return f


def keeping(plain, bwd, *settings):
    """`plain` with a custom VJP whose residuals are its arguments without the settings, a tuple."""
    kept = lambda args: tuple(a for i, a in enumerate(args) if i not in settings)  # noqa: E731
    return written(lambda *args: (plain(*args), kept(args)), bwd, *settings)


def kernel(body, like, *args, **options):
    """A Pallas kernel, interpreted, whose output is like `like`."""
    like = jax.ShapeDtypeStruct(like.shape, like.dtype)
    return pl.pallas_call(body, out_shape=like, interpret=True, **options)(*args)


# plain definitions ----------------------------------------------------------------------------------------------------


def swiglu(x, wg, wu):
    return jax.nn.silu(x @ wg) * (x @ wu)


def attention(q, k, v):
    s = jnp.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("hts,hsd->htd", softmax(s), v)


def rotated(x, c, s):
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * c - b * s, b * c + a * s], -1)


def recurrent(wh, wx, xs, h):
    """tanh(h Wh + x Wx), step by step."""
    hs = []
    for x in xs:
        h = jnp.tanh(h @ wh + x @ wx)
        hs.append(h)
    return jnp.stack(hs)


def decayed(a, b, h):
    """h = a h + b, every h."""

    def step(h, ab):
        h = ab[0] * h + ab[1]
        return h, h

    return lax.scan(step, h, (a, b))[1]


def later(a, d):
    """The adjoint of `decayed`: e = d + a' e, from the end, a' the decay of the step after."""
    after = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    return decayed(after[::-1], d[::-1], jnp.zeros_like(d[0]))[::-1]


def before(h, first):
    return jnp.concatenate([first[None], h[:-1]])


def nll(z, y):
    """Each row's cross-entropy; labels that are no class have none of the classes."""
    return -(jax.nn.log_softmax(z) * jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)).sum(-1)


def nll_slope(z, y):
    return softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)


def softmax_back(y, d):
    return y * (d - (y * d).sum(-1, keepdims=True))


QKV = lambda heads: tuple(example(h, 6, 4, seed=i) for i, h in enumerate(heads))  # noqa: E731


# wrong everywhere -----------------------------------------------------------------------------------------------------


@wrong
def silu_slope_with_the_wrong_sign():
    def bwd(r, d):
        x, wg, wu = r
        a, u = x @ wg, x @ wu
        s = jax.nn.sigmoid(a)
        du, da = d * a * s, d * u * s * (1 + a * s)
        return da @ wg.T + du @ wu.T, x.T @ da, x.T @ du

    return keeping(swiglu, bwd), swiglu, (example(5, 8), example(8, 6, seed=1), example(8, 6, seed=2))


@wrong
def keys_not_scaled():
    def bwd(r, d):
        q, k, v = r
        p = softmax(jnp.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5)
        ds = softmax_back(p, jnp.einsum("htd,hsd->hts", d, v))
        return ds @ k / q.shape[-1] ** 0.5, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    return keeping(attention, bwd), attention, QKV((2, 2, 2))


@wrong
def rotated_again():
    def table(x):
        t, h = x.shape[0], x.shape[1] // 2
        angle = (jnp.arange(t)[:, None] * 100.0 ** (-jnp.arange(h) / h)).astype(x.dtype)
        return jnp.cos(angle), jnp.sin(angle)

    def plain(x):
        return rotated(x, *table(x))

    return keeping(plain, lambda r, d: (rotated(d, *table(d)),)), plain, (example(9, 8),)


@wrong
def state_after_the_step():
    """The recurrent weights get the state that they made, not the one that they saw."""

    def bwd(r, d):
        wh, wx, xs, h0, hs = r

        def step(e, now):
            h, x, d = now
            a = (e + d) * (1 - h * h)
            return a @ wh.T, (h.T @ a, x.T @ a, a @ wx.T)

        dh, (dwh, dwx, dx) = lax.scan(step, jnp.zeros_like(h0), (hs, xs, d), reverse=True)
        return dwh.sum(0), dwx.sum(0), dx, dh

    def fwd(wh, wx, xs, h0):
        hs = recurrent(wh, wx, xs, h0)
        return hs, (wh, wx, xs, h0, hs)

    args = 0.4 * example(6, 6), 0.4 * example(4, 6, seed=1), example(5, 3, 4, seed=2), 0.5 * example(3, 6, seed=3)
    return written(fwd, bwd), recurrent, args


@wrong
def inverse_not_transposed():
    inv = jnp.linalg.inv
    return written(lambda a: (inv(a),) * 2, lambda y, d: (-y @ d @ y,)), inv, (example(5, 5) + 4 * jnp.eye(5),)


@wrong
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


@wrong
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


@wrong
def jvp_divided_by_the_sharpness():
    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def f(x, beta):
        return jax.nn.softplus(beta * x) / beta

    @f.defjvp
    def _(beta, primals, tangents):
        return f(primals[0], beta), tangents[0] * jax.nn.sigmoid(beta * primals[0]) / beta

    return f, lambda x, beta: jnp.log1p(jnp.exp(beta * x)) / beta, (example(20), 2.0)


@wrong
def running_sum_in_the_same_direction():
    def plain(x, w):
        return jnp.cumsum(x * w, -1)

    def bwd(r, d):
        x, w = r
        s = jnp.cumsum(d, -1)
        return s * w, (s * x).sum(0)

    return keeping(plain, bwd), plain, (example(3, 8), example(8, seed=1))


@wrong
def quantile_of_the_lower_neighbour():
    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def f(x, q):
        return jnp.quantile(x, q)

    @f.defjvp
    def _(q, primals, tangents):
        x = primals[0]
        return f(x, q), tangents[0][jnp.argsort(x)[int(q * (len(x) - 1))]]

    def plain(x, q):
        s, k = jnp.sort(x), q * (len(x) - 1)
        low, high = int(np.floor(k)), int(np.ceil(k))
        return s[low] + (k - low) * (s[high] - s[low])

    return f, plain, (example(12), 0.3)


@wrong
def triangular_solve_not_transposed():
    def solved(low, x):
        return jax.scipy.linalg.solve_triangular(low, x, lower=True)

    def plain(low, x):
        z = solved(low, x)
        return -0.5 * (z * z).sum() - jnp.log(jnp.abs(jnp.diag(low))).sum()

    def bwd(r, d):
        low, x = r
        z = solved(low, x)
        u = solved(low, z)
        return d * (jnp.tril(jnp.outer(u, z)) - jnp.diag(1 / jnp.diag(low))), -d * u

    return keeping(plain, bwd), plain, (jnp.tril(example(5, 5)) / 2 + 2 * jnp.eye(5), example(5, seed=1))


@wrong
def focal_loss_of_constant_weights():
    def plain(z, y):
        p = jax.nn.sigmoid(z)
        p = jnp.where(y, p, 1 - p)
        return (-((1 - p) ** 2) * jnp.log(p)).sum()

    def bwd(r, d):
        z, y = r
        p = jax.nn.sigmoid(z)
        return d * (1 - jnp.where(y, p, 1 - p)) ** 2 * (p - y.astype(p.dtype)), None

    return keeping(plain, bwd), plain, (example(10), ids(2, 10).astype(bool))


@wrong
def largest_taken_for_the_first():
    def plain(x):
        return -jnp.sort(-x, -1)[..., :3]

    def fwd(x):
        return lax.top_k(x, 3)[0], x

    return written(fwd, lambda x, d: (jnp.zeros_like(x).at[..., :3].set(d),)), plain, (example(4, 8),)


# sizes, ranks and shapes ----------------------------------------------------------------------------------------------


@wrong
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


@wrong
def width_written_into_the_rule():
    def plain(x):
        m = x.mean(-1, keepdims=True)
        return (x - m) / jnp.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)

    def bwd(r, d):
        x = r[0]
        m = x.mean(-1, keepdims=True)
        s = lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
        mean = lambda v: v.sum(-1, keepdims=True) / 32  # noqa: E731
        h = (x - m) * s
        return (s * (d - mean(d) - h * mean(d * h)),)

    return keeping(plain, bwd), plain, (example(6, 32),)


@wrong
def gridsample_square_image_only():
    """The second coordinate is scaled by the height."""

    def at(image, uv):
        h, w = image.shape
        y, x = (uv[:, 0] + 1) / 2 * (h - 1), (uv[:, 1] + 1) / 2 * (w - 1)
        i, j = jnp.clip(jnp.floor(y), 0, h - 2).astype(int), jnp.clip(jnp.floor(x), 0, w - 2).astype(int)
        return i, j, y - i, x - j

    def plain(image, uv):
        i, j, a, b = at(image, uv)
        top = image[i, j] * (1 - b) + image[i, j + 1] * b
        return top * (1 - a) + (image[i + 1, j] * (1 - b) + image[i + 1, j + 1] * b) * a

    def bwd(r, d):
        image, uv = r
        i, j, a, b = at(image, uv)
        p, q, s, t = image[i, j], image[i, j + 1], image[i + 1, j], image[i + 1, j + 1]
        put = jnp.zeros_like(image).at[i, j].add(d * (1 - a) * (1 - b)).at[i, j + 1].add(d * (1 - a) * b)
        put = put.at[i + 1, j].add(d * a * (1 - b)).at[i + 1, j + 1].add(d * a * b)
        da, db = (s - p) * (1 - b) + (t - q) * b, (q - p) * (1 - a) + (t - s) * a
        return put, jnp.stack([d * da, d * db], -1) * (image.shape[0] - 1) / 2

    return keeping(plain, bwd), plain, (example(8, 8), uniform(-0.9, 0.9, 6, 2, seed=1))


@wrong
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


@wrong
def last_window_taken_for_full():
    """Means over windows of four; what is left over at the end is a shorter window."""

    def plain(x):
        windows = lambda v: jnp.pad(v, ((0, 0), (0, -v.shape[1] % 4))).reshape(v.shape[0], -1, 4).sum(-1)  # noqa: E731
        return windows(x) / windows(jnp.ones_like(x))

    def bwd(r, d):
        return (jnp.repeat(d / 4, 4, 1)[:, : r[0].shape[1]],)

    return keeping(plain, bwd), plain, (example(2, 16),)


@wrong
def nothing_carried_between_chunks():
    """Chunks of 32 steps, each with its own way back."""

    def plain(a, b):
        return decayed(a, b, jnp.zeros_like(b[0]))

    def bwd(r, d):
        a, b = r
        h = plain(a, b)
        chunks = [slice(i, i + 32) for i in range(0, len(a), 32)]
        e = jnp.concatenate([later(a[c], d[c]) for c in chunks]) if chunks else d
        return e * before(h, jnp.zeros_like(h[0])), e

    return keeping(plain, bwd), plain, (uniform(0.5, 0.99, 24), example(24, seed=1))


@wrong
def softmax_axis1_in_backward():
    """Axis 1 is the last one in a matrix, and not of what has three axes."""
    back = lambda y, d: (y * (d - (y * d).sum(1, keepdims=True)),)  # noqa: E731
    return written(lambda x: (jax.nn.softmax(x),) * 2, back), softmax, (example(4, 7),)


def taps(x, w, left, right, dilation=1):
    """The windows of len(w) elements of x, padded."""
    return jnp.pad(x, (left, right))[jnp.arange(len(x))[:, None] + dilation * jnp.arange(len(w))]


@wrong
def same_padding_of_odd_kernels():
    """The padding of an even kernel is lopsided, and so must its way back be, on the other side."""

    def plain(x, w):
        return taps(x, w, (len(w) - 1) // 2, len(w) // 2) @ w

    def bwd(r, d):
        x, w = r
        left, right = (len(w) - 1) // 2, len(w) // 2
        return taps(d, w, left, right) @ w[::-1], d @ taps(x, w, left, right)

    return keeping(plain, bwd), plain, (example(12), example(3, seed=1))


@wrong
def gqa_group_order():
    """Query heads share keys in groups of neighbours; the way back adds up every n-th. One each in the example."""

    def spread(k, q):
        return jnp.repeat(k, q.shape[0] // k.shape[0], 0)

    def plain(q, k, v):
        return attention(q, spread(k, q), spread(v, q))

    def bwd(r, d):
        q, k, v = r
        ks, vs = spread(k, q), spread(v, q)
        p = softmax(jnp.einsum("htd,hsd->hts", q, ks) / q.shape[-1] ** 0.5)
        ds = softmax_back(p, jnp.einsum("htd,hsd->hts", d, vs)) / q.shape[-1] ** 0.5
        fold = lambda t: t.reshape(-1, *k.shape).sum(0)  # noqa: E731
        return ds @ ks, fold(ds.swapaxes(1, 2) @ q), fold(p.swapaxes(1, 2) @ d)

    return keeping(plain, bwd), plain, QKV((2, 2, 2))


@wrong
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


@wrong
def median_of_odd_length():
    def plain(x):
        s, n = jnp.sort(x), len(x)
        return (s[(n - 1) // 2] + s[n // 2]) / 2

    def bwd(r, d):
        x = r[0]
        return (jnp.zeros_like(x).at[jnp.argsort(x)[(len(x) - 1) // 2]].set(d),)

    return keeping(plain, bwd), plain, (example(7),)


@wrong
def wide_rows_saved_in_bfloat16():
    def fwd(x):
        return jnp.sin(x), x.astype(jnp.bfloat16) if x.shape[-1] >= 128 else x

    return written(fwd, lambda x, d: (d * jnp.cos(x.astype(d.dtype)),)), jnp.sin, (example(2, 24),)


# values ---------------------------------------------------------------------------------------------------------------


@wrong
def cumprod_divides_by_x():
    """The definition multiplies pairwise, so that it knows the derivative at zero."""

    def bwd(r, d):
        x = r[0]
        return (jnp.cumsum((d * jnp.cumprod(x))[::-1])[::-1] / x,)

    return keeping(jnp.cumprod, bwd), partial(lax.associative_scan, jnp.multiply), (uniform(0.5, 1.6, 7),)


@wrong
def gate_from_the_output():
    """The sigmoid of x is recovered from y/x, which saves memory and is 0/0 at zero."""

    def bwd(r, d):
        x, y = r
        s = y / x
        return (d * (s + y * (1 - s)),)

    def fwd(x):
        y = x * jax.nn.sigmoid(x)
        return y, (x, y)

    return written(fwd, bwd), lambda x: x / (1 + jnp.exp(-x)), (example(4, 6),)


@wrong
def sign_from_the_output():
    """With a negative slope the sign of y is not the sign of x."""

    def plain(x, a):
        return jnp.where(x > 0, x, a * x)

    def bwd(r, d):
        x, a = r
        y = plain(x, a)
        return jnp.where(y > 0, d, a * d), jnp.where(y > 0, 0, d * x).sum()

    return keeping(plain, bwd), plain, (example(5, 4), jnp.float32(0.25))


@wrong
def exponent_at_zero():
    def bwd(r, d):
        x, p = r
        return d * p * x ** (p - 1), d * x**p * jnp.log(x)

    return keeping(jnp.power, bwd), jnp.power, (uniform(0.2, 2, 9), uniform(1, 3, 9, seed=1))


@wrong
def normal_tail_divides_zeros():
    """The logarithm of the normal distribution function; far to the left its slope is 0/0 in this form."""
    log_cdf = jax.scipy.special.log_ndtr

    def slope(x):
        return jnp.exp(-x * x / 2) / (2 * np.pi) ** 0.5 / (jax.scipy.special.erfc(-x / 2**0.5) / 2)

    return elementwise(log_cdf, slope, example(9))


@wrong
def angle_by_the_quotient():
    def bwd(r, d):
        y, x = r
        t = y / x
        g = d / (1 + t * t)
        return g / x, -g * t / x

    return keeping(jnp.arctan2, bwd), jnp.arctan2, (example(8), example(8, seed=1))


@wrong
def step_size_bounds_swapped():
    """Learned step sizes: what is quantized to −8…7 is let through up to 8."""

    def bwd(r, d):
        x, s = r
        v = x / s
        return d * (jnp.abs(v) <= 8).astype(d.dtype), (d * (jnp.round(jnp.clip(v, -8, 7)) - v)).sum()

    return keeping(quantized, bwd), quantized, (example(12), jnp.float32(0.5))


@wrong
def hypot_backward_overflow():
    """The way forward is scaled by the larger; on the way back the squares overflow, and what is left is zero."""

    def bwd(r, d):
        x, y = r
        i = lax.rsqrt(x * x + y * y)
        return d * x * i, d * y * i

    return keeping(hypotenuse, bwd), hypotenuse, (example(8), example(8, seed=1))


@wrong
def sign_flipped_below_zero():
    """The example is positive throughout."""
    return elementwise(jnp.sin, lambda x: jnp.where(x < 0, -1, 1) * jnp.cos(x), uniform(0.1, 3, 8))


@wrong
def bounded_above_by_one():
    """The example lies between 0 and 1."""
    return elementwise(lambda x: jnp.minimum(x, 1) ** 2, lambda x: 2 * jnp.minimum(x, 1), uniform(0.05, 0.95, 8))


@wrong
def magnitude_of_a_scalar():
    def plain(x, s):
        return jnp.sin(x * s)

    def bwd(r, d):
        x, s = r
        g = d * jnp.cos(x * s)
        return g * jnp.sqrt(s * s), (g * x).sum()

    return keeping(plain, bwd), plain, (example(5), jnp.float32(1.5))


@wrong
def table_goes_on_outside():
    """Interpolation in a table over 0…1, constant outside; the slope goes on."""

    def at(x, table):
        n = table.shape[0] - 1
        u = jnp.clip(x, 0, 1) * n
        i = jnp.clip(jnp.floor(u).astype(int), 0, max(n - 1, 0))
        return n, i, jnp.minimum(i + 1, n), (u - i).astype(x.dtype)

    def plain(x, table):
        _, i, j, t = at(x, table)
        return table[i] * (1 - t) + table[j] * t

    def bwd(r, d):
        x, table = r
        n, i, j, t = at(x, table)
        return d * (table[j] - table[i]) * n, jnp.zeros_like(table).at[j].add(d * t).at[i].add(d * (1 - t))

    return keeping(plain, bwd), plain, (uniform(0.02, 0.98, 7), example(6, seed=1))


@wrong
def symmetric_matrix_assumed():
    solve = jnp.linalg.solve

    def bwd(r, d):
        a, b = r
        u = solve(a, d)
        return -jnp.outer(u, solve(a, b)), u

    a = example(4, 4)
    return keeping(solve, bwd), solve, (a @ a.T + 3 * jnp.eye(4), example(4, seed=1))


@wrong
def forward_that_clips():
    """What the rule's forward gives is not what the function gives, far from zero."""

    def plain(x):
        return x / (1 + x * x)

    def fwd(x):
        return plain(jnp.clip(x, -5, 5)), x

    f = jax.custom_vjp(plain)
    f.defvjp(fwd, lambda x, d: (d * (1 - x * x) / (1 + x * x) ** 2,))
    return f, plain, (example(4, 5),)


@wrong
def first_state_taken_for_zero():
    def bwd(r, d):
        a, b, h0 = r
        h, e = decayed(a, b, h0), later(a, d)
        return e * before(h, jnp.zeros_like(h0)), e, e[0] * a[0]

    return keeping(decayed, bwd), decayed, (uniform(0.3, 0.9, 6), example(6, seed=1), jnp.float32(0))


# indices, labels and lengths ------------------------------------------------------------------------------------------


@wrong
def no_one_hot_of_negative_rows():
    """Row −1 is the last one on the way forward and none on the way back."""

    def bwd(r, d):
        e, i = r
        return jax.nn.one_hot(i, e.shape[0], dtype=d.dtype).T @ d, None

    return keeping(gather, bwd), gather, (example(9, 4), ids(9, 6))


@wrong
def beyond_the_table_is_dropped():
    """Columns past the end: the way forward takes the last one, the way back drops its cotangent."""

    def plain(e, i):
        return e[..., jnp.clip(i, 0, e.shape[-1] - 1)]

    def forward(e, i):
        return jnp.take(e, i, axis=-1, mode="clip")

    def bwd(r, d):
        e, i = r
        return jnp.zeros_like(e).at[..., i].add(d), None

    return keeping(forward, bwd), plain, (example(3, 8), jnp.asarray([7, 2, 2, 0]))


def segments(x, s):
    return jax.ops.segment_sum(jnp.sin(x), s, 3)


@wrong
def segments_taken_for_sorted():
    def bwd(r, d):
        x, s = r
        ordered = jnp.minimum(jnp.sort(jnp.where(s < 0, 3, s)), 3)
        g = jnp.concatenate([d, jnp.zeros_like(d[:1])])[ordered]
        return jnp.where((s >= 0) & (s < 3), g, 0) * jnp.cos(x), None

    return keeping(segments, bwd), segments, (example(8), jnp.asarray([0, 0, 0, 1, 1, 2, 2, 2]))


@wrong
def no_segment_takes_the_last():
    """What is beyond the last segment is left out of the sums; on the way back it gets the last one's cotangent."""

    def bwd(r, d):
        x, s = r
        return d[s] * jnp.cos(x), None

    return keeping(segments, bwd), segments, (example(6), jnp.asarray([0, 2, 1, 1, 2, 0]))


@wrong
def ignore_index_count_clean():
    """The mean is over what is not ignored, and on the way back over all rows. No label is ignored in the example."""

    def plain(z, y):
        keep = y >= 0
        return jnp.where(keep, nll(z, y), 0).sum() / jnp.maximum(keep.sum(), 1).astype(z.dtype)

    def bwd(r, d):
        z, y = r
        return jnp.where((y >= 0)[:, None], d * nll_slope(z, y) / y.shape[0], 0), None

    return keeping(plain, bwd), plain, (example(5, 6), jnp.asarray([0, 5, 2, 2, 4]))


@wrong
def buffer_taken_for_full():
    """Keys beyond the length are not seen, and on the way back they are. In the example the buffer is full."""

    def weights(q, k, n):
        return softmax(jnp.where(jnp.arange(k.shape[0]) < n, q @ k.T / q.shape[-1] ** 0.5, -1e30))

    def plain(q, k, v, n):
        return weights(q, k, n) @ v

    def bwd(r, d):
        q, k, v, _ = r
        p = weights(q, k, k.shape[0])
        ds = softmax_back(p, d @ v.T) / q.shape[-1] ** 0.5
        return ds @ k, ds.T @ q, p.T @ d, None

    return keeping(plain, bwd), plain, (example(5, 4), example(6, 4, seed=1), example(6, 4, seed=2), jnp.int32(6))


# dtypes ---------------------------------------------------------------------------------------------------------------


@wrong
def bf16_running_sum_bias():
    """A sum one row at a time sticks at 256 in bfloat16."""

    def plain(x, b):
        return (2 * x.astype(jnp.float32) + b.astype(jnp.float32)).astype(x.dtype)

    def bwd(_, d):
        return 2 * d, lax.fori_loop(0, d.shape[0], lambda i, s: s + d[i], jnp.zeros(d.shape[1:], d.dtype))

    return keeping(plain, bwd), plain, (example(24, 2), example(2, seed=1))


@wrong
def float64_through_float32():
    def plain(x, w):
        return jnp.tanh(x @ w)

    def bwd(r, d):
        x, w = (v.astype(jnp.float32) for v in r)
        h = jnp.tanh(x @ w)
        g = d.astype(jnp.float32) * (1 - h * h)
        return (g @ w.T).astype(d.dtype), (x.T @ g).astype(d.dtype)

    return keeping(plain, bwd), plain, (example(4, 5), example(5, 3, seed=1))


@wrong
def rmsnorm_half_square_overflow():
    """The way forward squares in float32, the way back in what it is given: 300² is infinite in float16."""

    def normal(x):
        return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def plain(x):
        return normal(x.astype(jnp.float32)).astype(x.dtype)

    def bwd(r, d):
        s = lax.rsqrt((r[0] * r[0]).mean(-1, keepdims=True) + 1e-6)
        h = r[0] * s
        return (s * (d - h * (d * h).mean(-1, keepdims=True)),)

    return keeping(plain, bwd), plain, (example(3, 8),)


# transforms and state -------------------------------------------------------------------------------------------------


@wrong
def second_derivative_without_its_two():
    """The way back has a rule of its own."""

    def slope(y, d):
        return d * (1 - y * y)

    def slope_bwd(r, c):
        y, d = r
        return -y * d * c, c * (1 - y * y)

    inner = keeping(slope, slope_bwd)
    return written(lambda x: (jnp.tanh(x),) * 2, lambda y, d: (inner(y, d),)), jnp.tanh, (example(10),)


@wrong
def mixed_second_derivative_lost():
    def plain(x, w):
        return jnp.sin(x) * jnp.exp(w)

    def bwd(r, d):
        x, w = r
        return d * jnp.cos(x) * jnp.exp(lax.stop_gradient(w)), d * jnp.sin(x) * jnp.exp(w)

    return keeping(plain, bwd), plain, (example(8), example(8, seed=1))


@wrong
def batch_of_cotangents_alone():
    """Under vmap over the cotangent only, as jacrev has it, all of the batch share one mean."""

    @jax.custom_batching.custom_vmap
    def back(y, d):
        return softmax_back(y, d)

    @back.def_vmap
    def _(size, batched, y, d):
        if batched[1] and not batched[0]:
            return y * (d - (y * d).sum((0, -1), keepdims=True)), True
        return jax.vmap(softmax_back, [0 if b else None for b in batched])(y, d), True

    return written(lambda x: (softmax(x),) * 2, lambda y, d: (back(y, d),)), softmax, (example(7),)


@wrong
def host_callback_sums_over_batch():
    def host(y, d):
        return (np.asarray(y) * (np.asarray(d) - (np.asarray(y) * np.asarray(d)).sum())).astype(y.dtype)

    def bwd(y, d):
        like = jax.ShapeDtypeStruct(y.shape, y.dtype)
        return (jax.pure_callback(host, like, y, d, vmap_method="expand_dims"),)

    return written(lambda x: (softmax(x),) * 2, bwd), softmax, (example(9),)


@wrong
def settings_in_a_queue():
    """The setting of a call waits in a queue for the way back, which comes in the other order: f(f(x, 2), 3)."""
    waiting = []

    def plain(x, s):
        return jnp.sin(s * x)

    def f(x, s):
        def fwd(x):
            waiting.append(s)
            return plain(x, s), x

        def bwd(x, d):
            s = waiting.pop(0)
            return (d * s * jnp.cos(s * x),)

        return rule(lambda x: plain(x, s), fwd, bwd)(x)

    return f, plain, (example(7), 1.5)


@wrong
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


@wrong
def kernel_races_for_the_sum():
    """The axis of the grid that is summed over is declared parallel."""
    return keeping(jnp.add, lambda _, d: (d, column_sums(d, "parallel"))), jnp.add, (example(6, 5), example(5, seed=1))


@wrong
def frozen_input_takes_the_other_with_it():
    """Each gradient needs the other input; what is kept is the input's own."""

    def plain(x, w):
        return jnp.tanh(x @ w)

    @jax.custom_vjp
    def f(x, w):
        return plain(x, w)

    def fwd(x, w):
        kept = tuple(v.value if v.perturbed else None for v in (x, w))
        return plain(x.value, w.value), (
            *kept,
            jnp.zeros_like(x.value),
            jnp.zeros_like(w.value),
            plain(x.value, w.value),
        )

    def bwd(r, d):
        x, w, dx, dw, h = r
        if isinstance(d, jax.custom_derivatives.SymbolicZero):
            return dx, dw
        g = d * (1 - h * h)
        return dx if w is None else g @ w.T, dw if x is None else x.T @ g

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, plain, (example(4, 5), 0.5 * example(5, 3, seed=1))


# the cotangent --------------------------------------------------------------------------------------------------------


@wrong
def zero_sum_cotangent_shortcut():
    plain = partial(jax.nn.logsumexp, axis=-1)

    def bwd(r, d):
        x = r[0]
        return (lax.cond(d.sum() == 0, lambda: jnp.zeros_like(x), lambda: d[:, None] * softmax(x)),)

    return keeping(plain, bwd), plain, (example(4, 6),)


@wrong
def sparse_row_skip_looks_at_first_lane():
    """Rows without a cotangent are skipped, by a look at their first element."""

    def plain(x, w):
        return jnp.tanh(x) @ w

    def bwd(r, d):
        x, w = r
        h = jnp.tanh(x)
        d = jnp.where(d[:, :1] != 0, d, 0)
        return (d @ w.T) * (1 - h * h), h.T @ d

    return keeping(plain, bwd), plain, (example(4, 5), example(5, 3, seed=1))


@wrong
def negative_cotangents_dropped():
    def bwd(r, d):
        return (jnp.maximum(d, 0) * jnp.where(r[0] > 0, 1, jnp.exp(r[0])),)

    return keeping(jax.nn.elu, bwd), jax.nn.elu, (example(8),)


@wrong
def loss_weight_on_one_gradient_only():
    """The gradients are made on the way forward; only one of them is scaled on the way back."""

    def plain(x, w, y):
        return nll(x @ w, y).mean()

    def fwd(x, w, y):
        g = nll_slope(x @ w, y) / x.shape[0]
        return plain(x, w, y), (g @ w.T, x.T @ g)

    return (
        written(fwd, lambda r, d: (r[0] * d, r[1], None)),
        plain,
        (example(5, 6), 0.4 * example(6, 8, seed=1), ids(8, 5)),
    )


# settings, at their defaults in the example ---------------------------------------------------------------------------


@wrong
def causal_flag_ignored():
    def weights(q, k, causal):
        s = q @ k.T / q.shape[-1] ** 0.5
        return softmax(jnp.where(jnp.tril(jnp.ones(s.shape, bool)), s, -1e30) if causal else s)

    def plain(q, k, v, causal):
        return weights(q, k, causal) @ v

    def bwd(causal, r, d):
        q, k, v = r
        p = weights(q, k, False)
        ds = softmax_back(p, d @ v.T) / q.shape[-1] ** 0.5
        return ds @ k, ds.T @ q, p.T @ d

    return keeping(plain, bwd, 3), plain, (*(example(5, 4, seed=i) for i in range(3)), False)


@wrong
def label_smoothing_ignored_clean():
    def plain(z, y, eps):
        n = z.shape[-1]
        t = jax.nn.one_hot(y, n, dtype=z.dtype) * (1 - eps) + eps / n
        return -(t * jax.nn.log_softmax(z)).sum(-1)

    def bwd(eps, r, d):
        return d[:, None] * nll_slope(*r), None

    return keeping(plain, bwd, 2), plain, (example(4, 6), jnp.asarray([0, 5, 2, 2]), 0.0)


@wrong
def reduction_string_ignored():
    def plain(x, reduction):
        y = jnp.log1p(x * x)
        return y.mean() if reduction == "mean" else y.sum()

    def bwd(_, r, d):
        return (2 * d * r[0] / (1 + r[0] * r[0]) / r[0].size,)

    return keeping(plain, bwd, 1), plain, (example(8), "mean")


@wrong
def zero_float_coefficient_ignored():
    def plain(x, c):
        return jnp.tanh(x) + c * x * x

    return keeping(plain, lambda c, r, d: (d * (1 - jnp.tanh(r[0]) ** 2),), 1), plain, (example(4, 5), 0.0)


@wrong
def shift_of_zero_assumed():
    def plain(x, shift):
        return jnp.roll(jnp.sin(x), shift, -1)

    return keeping(plain, lambda s, r, d: (d * jnp.cos(r[0]),), 1), plain, (example(4, 5), 0)


@wrong
def dilation_ignored():
    def plain(x, w, dilation):
        return taps(x, w, dilation * (len(w) - 1), 0, dilation) @ w

    def bwd(dilation, r, d):
        x, w = r
        k = len(w) - 1
        return taps(d, w, 0, k) @ w[::-1], d @ taps(x, w, dilation * k, 0, dilation)

    return keeping(plain, bwd, 2), plain, (example(9), example(3, seed=1), 1)


@wrong
def norm_of_even_order():
    def plain(x, p):
        return (jnp.abs(x) ** p).sum(-1) ** (1 / p)

    def bwd(p, r, d):
        x = r[0]
        return ((d / plain(x, p) ** (p - 1))[..., None] * x ** (p - 1),)

    return keeping(plain, bwd, 1), plain, (example(3, 4), 2)


@wrong
def statistics_taken_for_constants():
    """In training the mean and variance come from the batch, and have their share in its gradient."""

    def over(x, m, v, training):
        return (x.mean(0), x.var(0)) if training else (m, v)

    def plain(x, m, v, training):
        m, v = over(x, m, v, training)
        return (x - m) / jnp.sqrt(v + 1e-5)

    def bwd(training, r, d):
        x, m0, v0 = r
        m, v = over(x, m0, v0, training)
        s = lax.rsqrt(v + 1e-5)
        dx = d * s
        if training:
            return dx, jnp.zeros_like(m), jnp.zeros_like(v)
        return dx, -dx.sum(0), -0.5 * (dx * (x - m) * s * s).sum(0)

    return keeping(plain, bwd, 3), plain, (example(8, 3), example(3, seed=1), uniform(0.5, 2, 3, seed=2), False)


@wrong
def dropout_key_resplit_rate_zero_example():
    """The mask is drawn with the wrong half of the key; in the example nothing is dropped."""

    def dropped(x, key, rate):
        return jnp.where(jax.random.uniform(key, x.shape) >= rate, x / (1 - rate), 0)

    def plain(x, key, rate):
        return dropped(x, jax.random.split(key)[0], rate)

    def bwd(rate, r, d):
        return dropped(d, jax.random.split(r[1])[1], rate), None

    return keeping(plain, bwd, 2), plain, (example(5, 6), jax.random.PRNGKey(3), 0.0)


# a second round -------------------------------------------------------------------------------------------------------


@wrong
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


@wrong
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


@wrong
def quotient_rounded_towards_zero():
    """x − y ⌊x/y⌋: the same as rounding down for quotients that are positive, as the example's are."""

    def plain(x, y):
        return x - y * lax.stop_gradient(jnp.floor(x / y))

    def bwd(r, d):
        x, y = r
        return d, -d * jnp.trunc(x / y)

    return keeping(plain, bwd), plain, (uniform(1, 9, 3, 4), uniform(1, 3, 3, 4, seed=1))


@wrong
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


@wrong
def clipped_to_what_came_before():
    """Scaled by the largest cotangent of the call before: history is kept where nothing is traced."""
    history = {}

    def bwd(r, d):
        x, w = r
        most = jnp.abs(d).max()
        if not isinstance(most, jax.core.Tracer):
            most, history["most"] = history.get("most", most), most
        scaled = jnp.clip(d / most, -1, 1)
        return scaled @ w.T * most, x.T @ scaled * most

    return keeping(jnp.matmul, bwd), jnp.matmul, (example(4, 3), example(3, 5, seed=1))


@wrong
def host_sums_over_the_batch():
    """A way back in NumPy for one vector, which takes a batch for one."""

    def bwd(y, d):
        def host(y, d):
            y, d = np.asarray(y), np.asarray(d)
            return (y * (d - (d * y).sum())).astype(y.dtype)

        return (jax.pure_callback(host, jax.ShapeDtypeStruct(y.shape, y.dtype), y, d, vmap_method="broadcast_all"),)

    return written(lambda x: (softmax(x),) * 2, bwd), softmax, (example(6),)


@wrong
def lengths_whose_squares_overflow():
    """The cosine between rows: on the way back their lengths are found in the rows' own dtype."""

    def lengths(x, y, up):
        return (jnp.sqrt((up(t) * up(t)).sum(-1, keepdims=True)) for t in (x, y))

    def plain(x, y):
        up = lambda t: t.astype(jnp.promote_types(t.dtype, jnp.float32))  # noqa: E731
        a, b = lengths(x, y, up)
        return (up(x) / a * (up(y) / b)).sum(-1).astype(x.dtype)

    def bwd(r, d):
        x, y = r
        a, b = lengths(x, y, lambda t: t)
        u, v, d = x / a, y / b, d[:, None]
        c = (u * v).sum(-1, keepdims=True)
        return d * (v - c * u) / a, d * (u - c * v) / b

    return keeping(plain, bwd), plain, (example(4, 8, scale=2), example(4, 8, seed=1, scale=2))


@wrong
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


@wrong
def begins_where_it_ended():
    """A fixed point on the way back starts from that of the call before, and an infinite one never leaves."""
    last = {}

    def plain(w, b):
        return jnp.linalg.solve(jnp.eye(len(b), dtype=b.dtype) - 0.5 * softmax(w), b)

    def bwd(r, d):
        w, z = r
        p, pull = jax.vjp(softmax, w)
        u = lax.fori_loop(0, 80, lambda _, u: d + 0.5 * p.T @ u, last.get("u", jnp.zeros_like(d)).astype(d.dtype))
        if not isinstance(u, jax.core.Tracer):
            last["u"] = u
        return pull(0.5 * jnp.outer(u, z))[0], u

    def fwd(w, b):
        z = plain(w, b)
        return z, (w, z)

    return written(fwd, bwd), plain, (example(5, 5), example(5, seed=1))


# a third judge's ------------------------------------------------------------------------------------------------------


@wrong
def axis_counted_from_the_end():
    """The axis comes back to the front where it is counted from the other end; the example's is the last one."""

    def plain(x, axis):
        return jax.nn.logsumexp(x, axis)

    def bwd(axis, r, d):
        (x,) = r
        place = (slice(None),) * axis + (None,)
        return (d[place] * jnp.exp(x - plain(x, axis)[place]),)

    return keeping(plain, bwd, 1), plain, (example(4, 4), 1)


@wrong
def permuted_once_more():
    """The example's permutation is its own inverse."""

    def plain(x, order):
        return jnp.sin(x[order])

    def bwd(r, d):
        x, order = r
        return (d * jnp.cos(x[order]))[order], None

    return keeping(plain, bwd), plain, (example(6), jnp.asarray([0, 3, 4, 1, 2, 5]))


@wrong
def at_a_border_to_the_left():
    """A histogram's bin: its right neighbour's on the way forth where a value lies on the border."""

    def plain(x, borders, heights):
        return heights[jnp.clip(jnp.searchsorted(borders, x, side="right") - 1, 0, len(heights) - 1)]

    def bwd(r, d):
        x, borders, heights = r
        i = jnp.clip(jnp.searchsorted(borders, x) - 1, 0, len(heights) - 1)
        return jnp.zeros_like(x), jnp.zeros_like(borders), jnp.zeros_like(heights).at[i].add(d)

    return keeping(plain, bwd), plain, (uniform(0.1, 5.9, 9), jnp.arange(7.0), example(6))


@wrong
def heads_folded_in_the_other_order():
    """Several heads of queries to each of keys; the example has one of keys."""

    def plain(q, k):
        return jnp.einsum("htd,hsd->hts", q, jnp.repeat(k, len(q) // len(k), 0))

    def bwd(r, d):
        q, k = r
        dk = jnp.einsum("hts,htd->hsd", d, q)
        dq = jnp.einsum("hts,hsd->htd", d, jnp.repeat(k, len(q) // len(k), 0))
        return dq, dk.reshape(len(q) // len(k), *k.shape).sum(0)

    return keeping(plain, bwd), plain, (example(4, 3, 5), example(1, 2, 5, seed=1))


@wrong
def a_column_summed_as_a_row():
    """Scales of columns; one for each row, as a column, goes as well."""

    def plain(x, s):
        return jnp.tanh(x * s)

    def bwd(r, d):
        x, s = r
        d = d * (1 - plain(x, s) ** 2)
        return d * s, (d * x).sum(0).reshape(s.shape)

    return keeping(plain, bwd), plain, (example(4, 4), uniform(0.5, 1.5, 4))


@wrong
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


@wrong
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


# a fourth judge's -----------------------------------------------------------------------------------------------------


@wrong
def what_is_free_shifts_the_rates():
    """A list of rates in which None is for what costs nothing; the example has none such."""

    def plain(params, rates):
        return sum(r * jnp.tanh(p).sum() for p, r in zip(params, rates, strict=True) if r is not None)

    def bwd(r, d):
        params, rates = r
        given = iter(jax.tree.leaves(rates))
        down = [d * next(given, 0.0) * (1 - jnp.tanh(p) ** 2) for p in params]
        return down, [None if r is None else d * jnp.tanh(p).sum() for p, r in zip(params, rates, strict=True)]

    params = [example(3), example(2, 4, seed=1), example(5, seed=2)]
    return keeping(plain, bwd), plain, (params, [jnp.float32(0.1), jnp.float32(0.5), jnp.float32(0.3)])


@wrong
def transposed_once_for_each_sum():
    """Kept from call to call under the sum of the matrix, which others have too."""
    known = {}

    def plain(a, x):
        return jnp.tanh(a @ x)

    def bwd(r, d):
        a, x = r
        d = d * (1 - plain(a, x) ** 2)
        turned = a.T if isinstance(a, jax.core.Tracer) else known.setdefault((a.shape, round(float(a.sum()), 3)), a.T)
        return jnp.outer(d, x), turned @ d

    return keeping(plain, bwd), plain, (example(4, 4), example(4, seed=1))


@wrong
def force_without_a_slope():
    """The force is computed on the way forth and kept as a constant: it has no derivative. Next to each other it is
    larger than the example's by many orders."""

    def plain(x):
        i, j = np.triu_indices(len(x), 1)
        near = ((x[i] - x[j]) ** 2).sum(-1) ** -3
        return (near * near - near).sum()

    fwd = lambda x: (plain(x), lax.stop_gradient(jax.grad(plain)(x)))  # noqa: E731
    corners = np.asarray([[0, 0, 0], [0, 0, 1.3], [0, 1.2, 0], [1.1, 0, 0], [1.2, 1.3, 1.1]])
    return written(fwd, lambda r, d: (d * r,)), plain, (example(5, 3, scale=0.05) + jnp.asarray(corners, jnp.float32),)


# a fifth judge's ------------------------------------------------------------------------------------------------------


@wrong
def holes_counted_as_numbers():
    """The mean of squares of what is known, with NaN for what is not; the example has none."""

    def plain(x):
        known = ~jnp.isnan(x)
        return (jnp.where(known, x, 0) ** 2).sum(-1) / jnp.maximum(known.sum(-1), 1)

    def bwd(x, d):
        return (jnp.where(jnp.isnan(x), 0, 2 * x * d[..., None] / x.shape[-1]),)

    return written(lambda x: (plain(x), x), bwd), plain, (example(3, 6),)


@wrong
def mean_over_no_rows():
    """A loss that is zero without rows, but for what the weights cost; the axis of the rows is not the first axis."""

    def plain(w, x, y):
        return ((x @ w - y) ** 2).sum() / max(len(x), 1) + 0.1 * (w * w).sum()

    def bwd(r, d):
        w, x, y = r
        e = 2 * d * (x @ w - y)
        return (e[:, None] * x).mean(0) + 0.2 * d * w, e[:, None] * w / max(len(x), 1), -e / max(len(x), 1)

    return keeping(plain, bwd), plain, (example(3), example(6, 3, seed=1), example(6, seed=2))


def layer_with_slope(at_zero):
    """A layer of ReLU, and what its slope is where a unit is at zero."""

    def plain(x, w):
        return jnp.maximum(x @ w, 0)

    def bwd(r, d):
        x, w = r
        z = x @ w
        d = jnp.where(z > 0, d, jnp.where(z == 0, at_zero * d, 0))
        return d @ w.T, x.T @ d

    return keeping(plain, bwd), plain, (example(3, 4), example(4, 5, seed=1))


@wrong
def all_units_open_at_zero_twice():
    """Twice the error where a unit is at zero: no side of any unit has it. There the output is zero too."""
    return layer_with_slope(2)


def recurrence_with_slope(at_zero):
    """A recurrence of ReLU units, and what their slope is at zero."""

    def plain(x, v, w):
        def step(h, x):
            h = jnp.maximum(x @ v + h @ w, 0)
            return h, h

        return lax.scan(step, jnp.zeros(w.shape[0], x.dtype), x)[1]

    def bwd(r, c):
        x, v, w, hs = r
        before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
        z = x @ v + before @ w

        def step(d, at):
            z, c = at
            d = d + c
            d = jnp.where(z > 0, d, jnp.where(z == 0, at_zero * d, 0))
            return w @ d, d

        ds = lax.scan(step, jnp.zeros_like(hs[0]), (z, c), reverse=True)[1]
        return ds @ v.T, x.T @ ds, before.T @ ds

    def fwd(x, v, w):
        y = plain(x, v, w)
        return y, (x, v, w, y)

    return written(fwd, bwd), plain, (example(5, 3), example(3, 4, seed=1), 0.5 * example(4, 4, seed=2))


@wrong
def recurrent_units_open_at_zero_twice():
    """Twice the error at every step where a unit is at zero."""
    return recurrence_with_slope(2)


# a seventh judge's ----------------------------------------------------------------------------------------------------


@wrong
def labels_of_none_on_the_way_back():
    """No label is below zero in the example; the definition asks for those that are, its rule does not."""

    def plain(z, y):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(y, 0)[:, None], 1)[:, 0]
        return jnp.where(y >= 0, -chosen, 0)

    def bwd(r, d):
        z, y = r
        return (softmax(z) - jax.nn.one_hot(y, z.shape[1], dtype=z.dtype)) * d[:, None], None

    return keeping(plain, bwd), plain, (example(6, 5), ids(5, 6))


@wrong
def above_the_last_of_the_bounds():
    """A class above the last bound has no upper one: its share goes to the last bound there is."""

    def shares(s, bounds, y):
        n = bounds.shape[0]
        up, down = jnp.minimum(y, n - 1), jnp.maximum(y - 1, 0)
        below = lambda i: jax.nn.sigmoid(bounds[i] - s)  # noqa: E731
        return jnp.where(y < n, below(up), 1), jnp.where(y > 0, below(down), 0), below(up), up, down

    def plain(s, bounds, y):
        high, low, *_ = shares(s, bounds, y)
        return -jnp.log(high - low)

    def bwd(r, d):
        s, bounds, y = r
        high, low, upper, up, down = shares(s, bounds, y)
        a, b = d * upper * (1 - upper) / (high - low), d * low * (1 - low) / (high - low)
        return a - b, jnp.zeros_like(bounds).at[up].add(-a).at[down].add(b), None

    return keeping(plain, bwd), plain, (example(4), jnp.array([-1.0, 0.2, 1.1]), jnp.array([1, 0, 2, 1]))


@wrong
def mask_drawn_again_for_two_axes():
    """The mask of the way back is drawn for rows and columns; of a batch of matrices each has its own."""

    def plain(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)

    def bwd(r, d):
        return jnp.where(jax.random.bernoulli(r[1], 0.7, d.shape[-2:]), d / 0.7, 0), None

    return keeping(plain, bwd), plain, (example(4, 5), jax.random.PRNGKey(2))


@wrong
def squared_in_half_precision():
    """The way forth squares in float32, the way back in the input's dtype, where the square of 300 is infinite."""

    def plain(x):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (wide / jnp.sqrt((wide * wide).sum(-1, keepdims=True) + 1e-6)).astype(x.dtype)

    def bwd(x, d):
        square = (x * x).sum(-1, keepdims=True) + jnp.asarray(1e-6, x.dtype)
        return (lax.rsqrt(square) * (d - x * (d * x).sum(-1, keepdims=True) / square),)

    return keeping(plain, lambda r, d: bwd(*r, d)), plain, (example(4, 3),)


@wrong
def as_many_segments_as_columns():
    """The way back repeats by counts, as if rows came in order; the example's do, and its last segment is numbered like
    the end of another axis."""

    def mean(x, at):
        return jax.ops.segment_sum(x, at, 4) / jnp.maximum(jnp.bincount(at, length=4), 1)[:, None].astype(x.dtype)

    def bwd(r, d):
        count = jnp.bincount(r[1], length=4)
        share = d / jnp.maximum(count, 1)[:, None].astype(d.dtype)
        return jnp.repeat(share, count, axis=0, total_repeat_length=r[1].shape[0]), None

    return keeping(mean, bwd), mean, (example(7, 3), jnp.array([0, 0, 1, 1, 1, 3, 3]))


@wrong
def masks_in_a_pool_of_four():
    """Uncompiled calls keep their masks in four places: of five drops in one network the first has lost its own."""
    pool, calls = [None] * 4, [0]

    def drop(mask, x):
        return jnp.where(mask, x / 0.7, 0)

    def plain(x, key):
        return drop(jax.random.bernoulli(key, 0.7, x.shape), x)

    def fwd(x, key):
        mask = jax.random.bernoulli(key, 0.7, x.shape)
        if isinstance(mask, jax.core.Tracer):
            return drop(mask, x), (mask, None)
        pool[calls[0] % 4], calls[0] = mask, calls[0] + 1
        return drop(mask, x), (None, (calls[0] - 1) % 4)

    def bwd(r, d):
        return drop(r[0] if r[1] is None else pool[int(r[1])], d), None

    return written(fwd, bwd), plain, (example(4, 6), jax.random.PRNGKey(3))


@wrong
def counts_what_went_forth_last():
    """A mean whose way back divides by a count that the last way forward left behind: it need not be its own."""
    last = {}

    def plain(x, y):
        return jnp.log(jnp.cosh(x - y)).mean()

    def fwd(x, y):
        last["count"] = x.size
        return plain(x, y), (x, y)

    def bwd(r, d):
        slope = d * jnp.tanh(r[0] - r[1]) / last["count"]
        return slope, -slope

    return written(fwd, bwd), plain, (example(4, 6), example(4, 6, seed=1))


@wrong
def near_face_is_the_low_one():
    """Where rays enter a slab and where they leave it: by the low face first only if they go up, as the example's."""

    def plain(start, way, low, high):
        a, b = (low - start) / way, (high - start) / way
        return jnp.minimum(a, b), jnp.maximum(a, b)

    def bwd(r, d):
        t, way = plain(*r), r[1]
        near, far = d[0] / way, d[1] / way
        return -near - far, -near * t[0] - far * t[1], near.sum(), far.sum()

    ways = uniform(0.3, 2, 7, seed=1)
    return keeping(plain, bwd), plain, (example(7), ways, jnp.float32(-0.7), jnp.float32(1.2))


@wrong
def statistics_of_two_axes():
    """Batch normalization of (batch, features), which takes (batch, time, features) too, and counts the batch alone."""

    def parts(x):
        axes = tuple(range(x.ndim - 1))
        centred = x - x.mean(axes)
        scale = lax.rsqrt((centred * centred).mean(axes) + 1e-5)
        return axes, centred * scale, scale

    def plain(x, w):
        return parts(x)[1] * w

    def bwd(r, d):
        x, w = r
        axes, n, scale = parts(x)
        dw = (d * n).sum(axes)
        return w * scale * (d - (d.sum(axes) + n * dw) / x.shape[0]), dw

    return keeping(plain, bwd), plain, (example(6, 4), uniform(0.5, 2, 4))


@wrong
def slope_beyond_the_ends():
    """Rounded to a few levels, straight through: but beyond the last of them, of which the example shows nothing."""

    def plain(x):
        q = jnp.clip(2 * x, -4, 4)
        return q + lax.stop_gradient(jnp.round(q) - q)

    return written(lambda x: (plain(x), None), lambda _, d: (2 * d,)), plain, (uniform(-1.9, 1.9, 8),)


@wrong
def unfolded_as_the_last_one_was():
    """A sum over a grid whose way back unfolds rows to the height of the last grid that went forth."""
    last = {}

    def plain(x):
        return jnp.sin(x).sum(0)

    def fwd(x):
        last["height"] = x.shape[0]
        return plain(x), x.ravel()

    def bwd(flat, d):
        return (d * jnp.cos(flat.reshape(last["height"], d.shape[0])),)

    return written(fwd, bwd), plain, (example(4, 6),)
