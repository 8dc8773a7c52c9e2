"""Right rules that tempt an auditor to cry wolf: kinks, half precision, huge ranges, ill-conditioned and odd ones.

Each entry is (f, plain, example arguments), as in `zoo`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from zoo import EI, XGB, X, example, ids, layer_norm, right, rule, softmax
from zoo_edges import LENGTHS, MASK, elementwise, positive

erf = jax.scipy.special.erf


# elementwise, kinks among them ----------------------------------------------------------------------------------------


@right
def absolute_with_zero_at_zero():
    return elementwise(lambda x: jnp.where(x < 0, -x, x), jnp.sign)


@right
def clip_open_at_its_ends():
    return elementwise(lambda x: jnp.clip(x, -1, 1), lambda x: (jnp.abs(x) < 1).astype(x.dtype))


@right
def hard_swish():
    plain = lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)  # noqa: E731
    return elementwise(plain, lambda x: jnp.where(x < -3, 0, jnp.where(x <= 3, x / 3 + 0.5, 1)))


@right
def gelu_by_tanh():
    c = np.sqrt(2 / np.pi).astype(np.float32).item()

    def plain(x):
        return 0.5 * x * (1 + jnp.tanh(c * (x + 0.044715 * x**3)))

    def slope(x):
        t = jnp.tanh(c * (x + 0.044715 * x * x * x))
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)

    return elementwise(plain, slope)


@right
def gelu_by_erf():
    r2 = 2**0.5
    plain = lambda x: 0.5 * x * (1 + erf(x / r2))  # noqa: E731
    return elementwise(plain, lambda x: 0.5 * (1 + erf(x / r2)) + x * jnp.exp(-x * x / 2) / (2 * np.pi) ** 0.5)


@right
def elu_():
    plain = lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0, x)))  # noqa: E731
    return elementwise(plain, lambda x: jnp.where(x > 0, 1, jnp.exp(jnp.where(x > 0, 0, x))))


@right
def mish():
    def plain(x):
        return x * jnp.tanh(jax.nn.softplus(x))

    def slope(x):
        t = jnp.tanh(jax.nn.softplus(x))
        return t + x * jax.nn.sigmoid(x) * (1 - t * t)

    return elementwise(plain, slope)


@right
def reciprocal_near_zero():
    return elementwise(lambda x: x / (1e-4 + x * x), lambda x: (1e-4 - x * x) / (1e-4 + x * x) ** 2)


@right
def log_cosh():
    return elementwise(lambda x: jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - np.log(2).item(), jnp.tanh)


@right
def logarithm_of_positive():
    return elementwise(jnp.log, lambda x: 1 / x, positive(4, 5))


@right
def log_of_one_minus_exp():
    return elementwise(lambda x: jnp.log(-jnp.expm1(x)), lambda x: 1 / -jnp.expm1(-x), -positive(4, 5))


@right
def logit_of_probabilities():
    p = jax.nn.sigmoid(example(4, 5))
    return elementwise(lambda p: jnp.log(p) - jnp.log1p(-p), lambda p: 1 / (p * (1 - p)), p)


@right
def inverse_sine():
    return elementwise(jnp.arcsin, lambda x: 1 / jnp.sqrt((1 - x) * (1 + x)), jnp.tanh(example(4, 5)))


@right
def power_of_ones():
    """The exponent's example is 1 everywhere, the base is positive and must stay so."""

    def plain(x, p):
        return x**p

    def bwd(r, d):
        x, p = r
        return d * p * x ** (p - 1), (d * x**p * jnp.log(jnp.where(x > 0, x, 1))).sum(0)

    return rule(plain, lambda x, p: (plain(x, p), (x, p)), bwd), plain, (positive(4, 5), jnp.ones(5))


@right
def scale_of_ones_is_positive():
    """A normal's log-density; sigma is given as ones, and negative ones have no logarithm."""

    def plain(x, s):
        return (-0.5 * (x / s) ** 2 - jnp.log(s)).sum()

    def bwd(r, d):
        x, s = r
        return -d * x / s**2, d * (x**2 / s**3 - 1 / s).sum(0)

    return rule(plain, lambda x, s: (plain(x, s), (x, s)), bwd), plain, (example(4, 5), jnp.ones(5))


# rows -----------------------------------------------------------------------------------------------------------------


@right
def maximum_shared_among_ties():
    def bwd(r, d):
        x, y = r
        m = (x == y[:, None]).astype(d.dtype)
        return (d[:, None] * m / m.sum(-1, keepdims=True),)

    plain = lambda x: x.max(-1)  # noqa: E731
    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, X()


@right
def minimum_to_the_last():
    plain = lambda x: x.min(-1)  # noqa: E731

    def bwd(r, d):
        x, y = r
        n = x.shape[-1]
        last = n - 1 - jnp.argmax((x == y[:, None])[:, ::-1], -1)
        return (d[:, None] * jax.nn.one_hot(last, n, dtype=d.dtype),)

    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, X()


@right
def sort_rows():
    def bwd(order, d):
        return (jnp.zeros_like(d).at[jnp.arange(len(d))[:, None], order].set(d),)

    plain = partial(jnp.sort, axis=-1)
    return rule(plain, lambda x: (plain(x), jnp.argsort(x, -1)), bwd), plain, X()


@right
def top_two():
    def plain(x):
        return lax.top_k(x, 2)[0]

    def fwd(x):
        y, i = lax.top_k(x, 2)
        return y, (i, x)

    def bwd(r, d):
        i, x = r
        return (jnp.zeros_like(x).at[jnp.arange(len(x))[:, None], i].add(d),)

    return rule(plain, fwd, bwd), plain, X()


@right
def hinge():
    def plain(x, y):
        return jnp.maximum(0, 1 - x * y).mean()

    def bwd(r, d):
        x, y = r
        on = (x * y < 1).astype(x.dtype)
        return -d * on * y / x.size, -d * on * x / x.size

    return rule(plain, lambda x, y: (plain(x, y), (x, y)), bwd), plain, (example(8), jnp.sign(example(8, seed=1)))


@right
def log_softmax_with_huge_logits():
    plain = lambda x: x - jax.nn.logsumexp(x, -1, keepdims=True)  # noqa: E731

    def bwd(y, d):
        return (d - jnp.exp(y) * d.sum(-1, keepdims=True),)

    return rule(plain, lambda x: (plain(x),) * 2, bwd), plain, (1e3 * example(4, 6),)


@right
def softmax_in_bfloat16():
    def fwd(x):
        y = softmax(x.astype(jnp.float32))
        return y.astype(x.dtype), y

    def bwd(y, d):
        e = d.astype(jnp.float32)
        return ((y * (e - (y * e).sum(-1, keepdims=True))).astype(d.dtype),)

    return rule(lambda x: fwd(x)[0], fwd, bwd), softmax, (example(4, 6).astype(jnp.bfloat16),)


@right
def rms_norm():
    def plain(x, g):
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g

    def fwd(x, g):
        x32 = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
        s = lax.rsqrt((x32 * x32).mean(-1, keepdims=True) + 1e-6)
        return (x32 * s).astype(x.dtype) * g, (x, s, g)

    def bwd(r, d):
        x, s, g = r
        n = x.astype(s.dtype) * s
        e = (d * g).astype(s.dtype)
        dx = s * (e - n * (e * n).mean(-1, keepdims=True))
        return dx.astype(x.dtype), (d * n.astype(d.dtype)).sum(0)

    return rule(plain, fwd, bwd), plain, (example(5, 6), jnp.ones(6))


@right
def layer_norm_far_from_zero():
    f, plain, (x, g, b) = layer_norm_right()
    return f, plain, (x + 100, g, b)


@right
def layer_norm_at_initialization():
    f, plain, (x, g, b) = layer_norm_right()
    return f, plain, (x, jnp.ones_like(g), jnp.zeros_like(b))


def layer_norm_right():
    def bwd(r, d):
        x, g = r
        m = x.mean(-1, keepdims=True)
        s = lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
        h, e = (x - m) * s, d * g
        dx = s * (e - e.mean(-1, keepdims=True) - h * (e * h).mean(-1, keepdims=True))
        return dx, (d * h).sum(0), d.sum(0)

    return rule(layer_norm, lambda x, g, b: (layer_norm(x, g, b), (x, g)), bwd), layer_norm, XGB()


@right
def standardized_over_the_batch():
    def plain(x):
        m = x.mean(0)
        return (x - m) / jnp.sqrt(((x - m) ** 2).mean(0) + 1e-5)

    def fwd(x):
        m = x.mean(0)
        s = lax.rsqrt(((x - m) ** 2).mean(0) + 1e-5)
        return (x - m) * s, ((x - m) * s, s)

    def bwd(r, d):
        y, s = r
        return (s * (d - d.mean(0) - y * (d * y).mean(0)),)

    return rule(plain, fwd, bwd), plain, X()


@right
def cosine_similarity():
    def plain(a, b):
        n = lambda v: jnp.sqrt((v * v).sum(-1) + 1e-8)  # noqa: E731
        return (a * b).sum(-1) / (n(a) * n(b))

    def bwd(r, d):
        a, b = r
        na, nb = (jnp.sqrt((v * v).sum(-1, keepdims=True) + 1e-8) for v in (a, b))
        y = (a * b).sum(-1, keepdims=True) / (na * nb)
        d = d[:, None]
        return d * (b / (na * nb) - a * y / na**2), d * (a / (na * nb) - b * y / nb**2)

    return rule(plain, lambda a, b: (plain(a, b), (a, b)), bwd), plain, (example(4, 5), example(4, 5, seed=1))


@right
def pairwise_distances():
    def plain(x, y):
        return jnp.sqrt(((x[:, None] - y[None]) ** 2).sum(-1) + 1e-8)

    def bwd(r, d):
        x, y, z = r
        g = (d / z)[..., None] * (x[:, None] - y[None])
        return g.sum(1), -g.sum(0)

    args = example(4, 3), example(5, 3, seed=1)
    return rule(plain, lambda x, y: (plain(x, y), (x, y, plain(x, y))), bwd), plain, args


@right
def log_cumulative_sum():
    def plain(x):
        return lax.cumlogsumexp(x, axis=1)

    def bwd(r, d):
        x, y = r
        w = jnp.where(
            jnp.tril(jnp.ones((x.shape[1],) * 2, bool)), jnp.exp(jnp.minimum(x[:, None] - y[..., None], 0)), 0
        )
        return (jnp.einsum("bij,bi->bj", w, d),)

    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, X()


# matrices, some of them ill-conditioned -------------------------------------------------------------------------------


def spd(n):
    a = example(n, n)
    return a @ a.T + jnp.eye(n)


@right
def solve():
    def bwd(r, d):
        a, y = r
        z = jnp.linalg.solve(a.T, d)
        return -jnp.outer(z, y), z

    f = rule(jnp.linalg.solve, lambda a, b: (jnp.linalg.solve(a, b), (a, jnp.linalg.solve(a, b))), bwd)
    return f, jnp.linalg.solve, (example(5, 5), example(5, seed=1))


@right
def solve_hilbert():
    f, plain, (_, b) = solve()
    i = jnp.arange(5)
    return f, plain, ((1 / (i[:, None] + i + 1)).astype(jnp.float32), b)


@right
def inverse():
    f = rule(jnp.linalg.inv, lambda a: (jnp.linalg.inv(a),) * 2, lambda y, d: (-y.T @ d @ y.T,))
    return f, jnp.linalg.inv, (example(4, 4),)


@right
def log_determinant():
    def plain(a):
        return jnp.linalg.slogdet(a)[1]

    f = rule(plain, lambda a: (plain(a), a), lambda a, d: (d * jnp.linalg.inv(a).T,))
    return f, plain, (example(4, 4),)


@right
def quadratic_form():
    def plain(x, a):
        return x @ a @ x

    def bwd(r, d):
        x, a = r
        return d * ((a + a.T) @ x), d * jnp.outer(x, x)

    return rule(plain, lambda x, a: (plain(x, a), (x, a)), bwd), plain, (example(5, scale=1e3), spd(5))


@right
def products_of_a_huge_range():
    x = example(4, 6) * 10.0 ** jnp.arange(-12, 12).reshape(4, 6)
    return elementwise(lambda x: x * jax.nn.sigmoid(x), lambda x: jax.nn.sigmoid(x) * (1 + x * jax.nn.sigmoid(-x)), x)


@right
def difference_of_squares():
    """Cancels: x² − y² with x close to y."""

    def plain(x, y):
        return (x * x - y * y) / (x + y)

    x = 10 + example(8)
    f = rule(plain, lambda x, y: (plain(x, y), None), lambda _, d: (d, -d))
    return f, plain, (x, x + 1e-3 * example(8, seed=1))


# loops, attention, recurrence -----------------------------------------------------------------------------------------


@right
def attention():
    def plain(q, k, v):
        s = jnp.einsum("hqd,hkd->hqk", q, k) / q.shape[-1] ** 0.5
        s = jnp.where(jnp.tril(jnp.ones(s.shape[-2:], bool)), s, -jnp.inf)
        return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(s), v)

    def fwd(q, k, v):
        s = jnp.einsum("hqd,hkd->hqk", q, k) / q.shape[-1] ** 0.5
        s = jnp.where(jnp.tril(jnp.ones(s.shape[-2:], bool)), s, -jnp.inf)
        p = jax.nn.softmax(s)
        return p @ v, (q, k, v, p)

    def bwd(r, d):
        q, k, v, p = r
        dp = jnp.einsum("hqd,hkd->hqk", d, v)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / q.shape[-1] ** 0.5
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    return rule(plain, fwd, bwd), plain, tuple(example(2, 5, 4, seed=i) for i in range(3))


@right
def gated_recurrence():
    """h = a h + x with learned decay, run backwards by a second scan."""

    def plain(x, a):
        def step(h, x):
            h = jax.nn.sigmoid(a) * h + x
            return h, h

        return lax.scan(step, jnp.zeros_like(a), x)[1]

    def bwd(r, d):
        hs, a = r
        s = jax.nn.sigmoid(a)

        def step(e, both):
            d, h = both
            e = d + s * e
            return e, (e, e * h)

        before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
        _, (dx, da) = lax.scan(step, jnp.zeros_like(a), (d, before), reverse=True)
        return dx, da.sum(0) * s * (1 - s)

    return rule(plain, lambda x, a: (plain(x, a), (plain(x, a), a)), bwd), plain, (example(6, 4), example(4, seed=1))


@right
def fixed_point():
    """z = tanh(W z + x) by sixty steps; on the way back the transposed linear equation."""

    def plain(w, x):
        w = 0.3 * jnp.tanh(w)
        return lax.fori_loop(0, 60, lambda _, z: jnp.tanh(w @ z + x), jnp.zeros_like(x))

    def bwd(r, d):
        w, x, z = r
        s = 1 - z * z
        a = jnp.eye(len(x), dtype=x.dtype) - (s[:, None] * 0.3 * jnp.tanh(w)).T
        u = s * jnp.linalg.solve(a, d)
        return jnp.outer(u, z) * 0.3 * (1 - jnp.tanh(w) ** 2), u

    return rule(plain, lambda w, x: (plain(w, x), (w, x, plain(w, x))), bwd), plain, (example(3, 3), example(3, seed=1))


@right
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


@right
def only_multiples_of_two():
    """Refuses what it was not written for, on the way forward."""

    def plain(x):
        a, b = jnp.split(x, 2, -1)
        return a * jax.nn.sigmoid(b)

    def bwd(x, d):
        a, b = jnp.split(x, 2, -1)
        s = jax.nn.sigmoid(b)
        return (jnp.concatenate([d * s, d * a * s * (1 - s)], -1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@right
def rank_two_only():
    """Divides by the number of rows, which is the mean of the definition for matrices."""

    def plain(z, t):
        return -(t * jax.nn.log_softmax(z)).sum(-1).mean()

    def bwd(r, d):
        z, t = r
        y = jax.nn.log_softmax(z)
        n = z.shape[0]
        return d * (jnp.exp(y) * t.sum(-1, keepdims=True) - t) / n, -d * y / n

    t = jax.nn.softmax(example(4, 5, seed=1))
    return rule(plain, lambda z, t: (plain(z, t), (z, t)), bwd), plain, (example(4, 5), t)


# indices, masks, keys -------------------------------------------------------------------------------------------------


@right
def labels_of_minus_one_are_ignored():
    def plain(z, y):
        keep = (y >= 0).astype(z.dtype)
        rows = jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, jnp.maximum(y, 0)[:, None], -1)[:, 0]
        return (rows * keep).sum() / jnp.maximum(keep.sum(), 1)

    def bwd(r, d):
        z, y = r
        keep = (y >= 0).astype(z.dtype)
        g = softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        return d * g * keep[:, None] / jnp.maximum(keep.sum(), 1), None

    y = jnp.asarray([2, -1, 0, 5, -1], jnp.int32)
    return rule(plain, lambda z, y: (plain(z, y), (z, y)), bwd), plain, (example(5, 7), y)


@right
def labels_by_one_hot():
    """What is no class has no share here, and the last one's in the definition: outside of what the example shows."""

    def plain(z, y):
        return (jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, y[:, None], -1)[:, 0]).sum()

    def bwd(r, d):
        z, y = r
        return d * (softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)), None

    return rule(plain, lambda z, y: (plain(z, y), (z, y)), bwd), plain, (example(5, 7), ids(5, 5))


@right
def padding_index():
    def plain(e, i):
        return jnp.where((i == 0)[:, None], 0, e[i])

    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(jnp.where((i == 0)[:, None], 0, d)), None

    return rule(plain, lambda e, i: (plain(e, i), (i, e)), bwd), plain, EI()


@right
def sorted_segments():
    def plain(x, s):
        return jax.ops.segment_sum(x, s, 4, indices_are_sorted=True)

    s = jnp.asarray([0, 0, 1, 1, 1, 3], jnp.int32)
    f = rule(plain, lambda x, s: (plain(x, s), s), lambda s, d: (d[s], None))
    return f, plain, (example(6, 3), s)


@right
def pointers_of_rows():
    """Sums of the rows between neighbouring pointers, by differences of a running sum."""

    def plain(x, p):
        i = jnp.arange(x.shape[0])
        m = (i[None] >= p[:-1, None]) & (i[None] < p[1:, None])
        return m.astype(x.dtype) @ x

    def bwd(r, d):
        n, p = r
        return d[jnp.searchsorted(p, jnp.arange(n.shape[0]), side="right") - 1], None

    return rule(plain, lambda x, p: (plain(x, p), (x, p)), bwd), plain, (example(6, 3), jnp.asarray([0, 2, 3, 6]))


@right
def masked_softmax():
    def plain(x, mask):
        s = jnp.where(mask, x, -1e30)
        e = jnp.where(mask, jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True))), 0)
        return e / jnp.maximum(e.sum(-1, keepdims=True), 1e-9)

    def bwd(y, d):
        return y * (d - (y * d).sum(-1, keepdims=True)), None

    return rule(plain, lambda x, m: (plain(x, m),) * 2, bwd), plain, (example(4, 6), MASK)


@right
def additive_mask():
    """The mask is added and is −inf where nothing may be seen; nothing is due to it."""
    mask = jnp.where(MASK.at[:, 0].set(True), 0.0, -jnp.inf)

    def plain(x, m):
        return jax.nn.softmax(x + lax.stop_gradient(m))

    def bwd(y, d):
        return y * (d - (y * d).sum(-1, keepdims=True)), jnp.zeros_like(y)

    return rule(plain, lambda x, m: (plain(x, m),) * 2, bwd), plain, (example(4, 6), mask)


@right
def mean_over_lengths():
    def mask(x, n):
        return (jnp.arange(x.shape[1]) < n[:, None]).astype(x.dtype)

    def plain(x, n):
        return (x * mask(x, n)).sum(-1) / jnp.maximum(n, 1)

    def bwd(r, d):
        x, n = r
        return (d / jnp.maximum(n, 1).astype(d.dtype))[:, None] * mask(x, n), None

    return rule(plain, lambda x, n: (plain(x, n), (x, n)), bwd), plain, (example(4, 6), LENGTHS)


@right
def dropout():
    def plain(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)

    def fwd(x, key):
        return plain(x, key), jax.random.bernoulli(key, 0.7, x.shape)

    return rule(plain, fwd, lambda m, d: (jnp.where(m, d / 0.7, 0), None)), plain, (example(4, 6), jax.random.key(3))


# settings, trees, transforms ------------------------------------------------------------------------------------------


@right
def slope_as_a_setting():
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, slope):
        return jnp.where(x > 0, x, slope * x)

    f.defvjp(lambda x, s: (f(x, s), x), lambda s, x, d: (jnp.where(x > 0, d, s * d),))
    return f, lambda x, slope: jnp.where(x > 0, x, slope * x), (example(4, 6), 0.1)


@right
def axis_as_a_setting():
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, axis):
        return jax.nn.softmax(x, axis)

    f.defvjp(lambda x, a: (f(x, a),) * 2, lambda a, y, d: (y * (d - (y * d).sum(a, keepdims=True)),))

    def plain(x, axis):
        e = jnp.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return f, plain, (example(4, 5), -1)


@right
def groups_as_a_setting():
    def plain(x, groups):
        w = x.reshape(x.shape[0], groups, -1)
        return (w - w.mean(-1, keepdims=True)).reshape(x.shape)

    f = partial(jax.custom_vjp, nondiff_argnums=(1,))(plain)
    f.defvjp(lambda x, g: (plain(x, g), None), lambda g, _, d: (plain(d, g),))
    return f, plain, (example(4, 6), 2)


class Weights(NamedTuple):
    w: jax.Array
    b: jax.Array | None


@right
def named_tuple_and_none():
    def plain(p, xs):
        return {"y": jnp.tanh(xs["x"] @ p.w), "place": jnp.argmax(xs["x"]), "none": None}

    def fwd(p, xs):
        y = plain(p, xs)
        return y, (p, xs, y["y"])

    def bwd(r, d):
        p, xs, y = r
        g = d["y"] * (1 - y * y)
        return Weights(xs["x"].T @ g, None), {"x": g @ p.w.T, "i": None}

    args = Weights(example(5, 3), None), {"x": example(4, 5, seed=1), "i": ids(3, 4)}
    return rule(plain, fwd, bwd), plain, args


@right
def symbolic_zeros():
    @jax.custom_vjp
    def f(x, w):
        return x @ w, jnp.tanh(x)

    def fwd(x, w):
        return f(x.value, w.value), (x.value, w.value, jnp.tanh(x.value))

    def bwd(r, ds):
        x, w, y = r
        zero = lambda d: isinstance(d, jax.custom_derivatives.SymbolicZero)  # noqa: E731
        dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
        if not zero(ds[0]):
            dx, dw = ds[0] @ w.T, x.T @ ds[0]
        return (dx if zero(ds[1]) else dx + ds[1] * (1 - y * y)), dw

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, lambda x, w: (x @ w, jnp.tanh(x)), (example(4, 5), example(5, 3, seed=1))


@right
def not_twice():
    """A way back through the host, which cannot be differentiated again."""

    def bwd(x, d):
        host = lambda x, d: 2 * np.asarray(x) * np.asarray(d)  # noqa: E731
        return (jax.pure_callback(host, jax.ShapeDtypeStruct(d.shape, d.dtype), x, d, vmap_method="broadcast_all"),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@right
def recomputed():
    def plain(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w).sum(-1)

    def bwd(r, d):
        return jax.vjp(plain, *r)[1](d)

    return rule(plain, lambda x, w: (plain(x, w), (x, w)), bwd), plain, (example(4, 5), example(5, 5, seed=1))


@right
def jvp_of_two():
    @jax.custom_jvp
    def f(x, y):
        return jnp.logaddexp(x, y)

    @f.defjvp
    def _(primals, tangents):
        (x, y), (s, t) = primals, tangents
        p = jax.nn.sigmoid(x - y)
        return f(x, y), p * s + (1 - p) * t

    return (
        f,
        lambda x, y: jnp.maximum(x, y) + jnp.log1p(jnp.exp(-jnp.abs(x - y))),
        (example(4, 5), example(4, 5, seed=1)),
    )


@right
def complex_square():
    plain = lambda z: z * z  # noqa: E731
    z = lax.complex(example(4), example(4, seed=1))
    return rule(plain, lambda z: (z * z, z), lambda z, d: (2 * z * d,)), plain, (z,)


@right
def kernel_interpreted():
    from jax.experimental import pallas as pl

    def kernel(x, d, o):
        o[...] = 2 * x[...] * d[...]

    def bwd(x, d):
        return (pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x, d),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@right
def three_dimensional_bias():
    def plain(x, b):
        return jax.nn.softplus(x + b)

    def bwd(r, d):
        x, b = r
        g = d * jax.nn.sigmoid(x + b)
        return g, g.reshape(-1, b.shape[-1]).sum(0)

    return rule(plain, lambda x, b: (plain(x, b), (x, b)), bwd), plain, (example(2, 3, 4), example(4, seed=1))


@right
def outputs_of_two_kinds():
    def plain(x):
        return x.sum(-1), (x > 0).sum(-1), jnp.zeros((0, 3), x.dtype)

    def bwd(x, ds):
        return (jnp.broadcast_to(ds[0][:, None], x.shape),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@right
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


def soft_threshold(x, t):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - t, 0)


@right
def a_threshold_for_each_channel():
    """All alike and above zero in the example; below zero, where nobody uses it, the definition jumps."""

    def bwd(r, d):
        x, t = r
        on = jnp.abs(x) > t
        return d * on, -(d * jnp.sign(x) * on).reshape(-1, t.size).sum(0)

    args = example(4, 5), jnp.full(5, 0.1)
    return rule(soft_threshold, lambda x, t: (soft_threshold(x, t), (x, t)), bwd), soft_threshold, args


def of_three(x):
    return x[..., 0] ** 2 + x[..., 1] * x[..., 2]


@right
def points_of_three_numbers():
    """The definition takes longer points and reads three numbers of them; nobody promised these."""

    def bwd(x, d):
        return (jnp.stack([2 * x[..., 0] * d, x[..., 2] * d, x[..., 1] * d], -1),)

    return rule(of_three, lambda x: (of_three(x), x), bwd), of_three, (example(5, 3),)


def sum_of_softmax(x):
    return softmax(x).sum()


@right
def a_sum_that_is_always_one():
    """Its gradient is nothing but the rounding of what it sums."""

    def bwd(y, d):
        return (y * (d - (d * y).sum(-1, keepdims=True)),)

    return rule(sum_of_softmax, lambda x: (sum_of_softmax(x), softmax(x)), bwd), sum_of_softmax, (example(4, 5),)
