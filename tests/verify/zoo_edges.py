"""Mistakes that show only at an edge: at particular values, sizes, dtypes, transforms, calls, cotangents or settings.

Each entry is (f, plain, example arguments), as in `zoo`. The headings are the classes that an author of such mistakes
would think of.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from zoo import (
    XGB,
    XWB,
    ZL,
    X,
    cross_entropy,
    example,
    gather,
    hypotenuse,
    layer_norm,
    linear,
    linear_bwd,
    linear_fwd,
    norm_bwd,
    norm_fwd,
    rule,
    softmax,
    wrong,
    xent_fwd,
)  # fmt: skip


def elementwise(plain, derivative, *args):
    """f = plain with dx = d · derivative(x)."""
    return rule(plain, lambda x: (plain(x), x), lambda x, d: (d * derivative(x),)), plain, args or X()


def square(bwd, *args):
    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, args or X()


def positive(*shape):
    return jnp.abs(example(*shape)) + 0.1


def linear_with(change):
    """The linear rule with change(dx, dw, db, residuals, d) in place of the right cotangents."""
    return rule(linear, linear_fwd, lambda r, d: change(*linear_bwd(r, d), r, d)), linear, XWB()


# values ---------------------------------------------------------------------------------------------------------------


@wrong
def clip_leaks_far_out():
    return elementwise(lambda x: jnp.clip(x, -1, 1), lambda x: ((jnp.abs(x) < 1) | (jnp.abs(x) > 8)).astype(x.dtype))


@wrong
def leaky_slope_lost_far_out():
    return elementwise(
        lambda x: jnp.where(x > 0, x, 0.1 * x), lambda x: jnp.where(x > 0, 1, jnp.where(x > -6, 0.1, 0)).astype(x.dtype)
    )


@wrong
def relu6_without_six():
    return elementwise(lambda x: jnp.clip(x, 0, 6), lambda x: (x > 0).astype(x.dtype))


@wrong
def huber_never_linear():
    plain = lambda x: jnp.where(jnp.abs(x) < 5, 0.5 * x * x, 5 * (jnp.abs(x) - 2.5))  # noqa: E731
    return elementwise(plain, lambda x: x)


@wrong
def logsumexp_without_max():
    plain = partial(jax.nn.logsumexp, axis=-1)

    def bwd(x, d):
        e = jnp.exp(x)
        return (d[..., None] * e / e.sum(-1, keepdims=True),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong
def entropy_at_zero():
    def plain(p):
        some = p > 0
        return -jnp.where(some, p * jnp.log(jnp.where(some, p, 1)), 0).sum(-1)

    return (
        rule(plain, lambda p: (plain(p), p), lambda p, d: (-d[:, None] * (jnp.log(p) + 1),)),
        plain,
        (positive(4, 5),),
    )


@wrong
def smooth_abs_at_zero():
    return elementwise(lambda x: jnp.sqrt(x * x + 1e-6), lambda x: x / jnp.abs(x) * jnp.sqrt(x * x / (x * x + 1e-6)))


@wrong
def distances_of_equal_rows():
    def gap(x):
        return x[:, None] - x[None]

    def plain(x):
        return jnp.sqrt((gap(x) ** 2).sum(-1) + 1e-9)

    def bwd(x, d):
        g = gap(x)
        u = (d + d.T)[..., None] * g / jnp.sqrt((g**2).sum(-1) + 1e-9 - 1e-9 * (g == 0).all(-1))[..., None]
        return (jnp.where(jnp.eye(len(x), dtype=bool)[..., None], 0, u).sum(1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, (example(5, 3),)


@wrong
def norm_of_constant_row():
    def bwd(r, d):
        h, _s, _g = r
        dx, dg, db = norm_bwd(r, d)
        return jnp.where((h == 0).all(-1, keepdims=True), 0, dx), dg, db

    return rule(layer_norm, norm_fwd, bwd), layer_norm, XGB()


@wrong
def expm1_over_x_cancels():
    def plain(x):
        small = jnp.abs(x) < 1e-3
        y = jnp.where(small, 1, x)
        return jnp.where(small, 1 + x / 2 + x * x / 6 + x**3 / 24, jnp.expm1(y) / y)

    return elementwise(plain, lambda x: (x * jnp.exp(x) - jnp.expm1(x)) / (x * x))


@wrong
def minus_zero():
    return elementwise(jnp.sin, lambda x: jnp.where((x == 0) & jnp.signbit(x), -1, jnp.cos(x)))


@wrong
def exactly_one():
    def plain(x):
        near = jnp.abs(x - 1) < 1e-3
        return jnp.where(near, 0.5 * (x + 1), (jnp.where(near, 2, x) ** 2 - 1) / (2 * (jnp.where(near, 2, x) - 1)))

    return elementwise(plain, lambda x: 0.5 * (x - 1) / (x - 1))


@wrong
def gelu_tail_cut():
    def slope(x):
        g = jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x)
        return jnp.where(x > 3, 1, jnp.where(x < -3, 0, g))

    return elementwise(lambda x: x * jax.scipy.stats.norm.cdf(x), slope)


@wrong
def narrow_zone():
    return elementwise(jnp.sin, lambda x: jnp.where((x > 4.5) & (x < 5.5), 0, jnp.cos(x)))


@wrong
def negative_side_saturates():
    s = jax.nn.sigmoid
    return elementwise(s, lambda x: jnp.where(s(x) < 1e-3, 0, s(x) * (1 - s(x))))


@wrong
def probability_at_its_bounds():
    """Binary cross-entropy of probabilities, clipped in the definition and not on the way back."""
    y = jnp.asarray(np.random.default_rng(1).integers(0, 2, (4, 5)), jnp.float32)

    def plain(p, y):
        p = jnp.clip(p, 1e-6, 1 - 1e-6)
        return -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p)).sum()

    def bwd(r, d):
        p, y = r
        q = jnp.clip(p, 1e-6, 1 - 1e-6)
        return d * ((1 - y) / (1 - p) - y / p), d * (jnp.log(1 - q) - jnp.log(q))

    p = jnp.asarray(np.random.default_rng(0).uniform(0.05, 0.95, (4, 5)), jnp.float32)
    return rule(plain, lambda p, y: (plain(p, y), (p, y)), bwd), plain, (p, y)


@wrong
def cumprod_divides():
    plain = partial(jnp.cumprod, axis=-1)

    def bwd(r, d):
        x, y = r
        return (jnp.cumsum((d * y)[..., ::-1], -1)[..., ::-1] / x,)

    return rule(plain, lambda x: (plain(x), (x, plain(x))), bwd), plain, (example(3, 5),)


@wrong
def top_k_ties():
    def plain(x):
        return lax.top_k(x, 2)[0].sum(-1)

    def bwd(x, d):
        return (d[..., None] * (x >= lax.top_k(x, 2)[0][..., -1:]).astype(d.dtype),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong
def pool_ties():
    def plain(x):
        return x.reshape(x.shape[0], -1, 2).max(-1)

    def bwd(x, d):
        w = x.reshape(x.shape[0], -1, 2)
        return ((d[..., None] * (w == w.max(-1, keepdims=True)).astype(d.dtype)).reshape(x.shape),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong
def variance_from_squares():
    """Float32 loses the variance of what is far from zero; the definition does not."""

    def bwd(r, d):
        x, g = r
        m = x.mean(-1, keepdims=True)
        s = lax.rsqrt(jnp.maximum((x * x).mean(-1, keepdims=True) - m * m, 0) + 1e-5)
        return norm_bwd(((x - m) * s, s, g), d)

    return rule(layer_norm, lambda x, g, b: (layer_norm(x, g, b), (x, g)), bwd), layer_norm, XGB()


@wrong
def hypotenuse_overflows():
    def plain(x, y):
        return jnp.hypot(x, y)

    def bwd(r, d):
        x, y = r
        n = jnp.sqrt(x * x + y * y)
        return d * x / n, d * y / n

    return rule(plain, lambda x, y: (plain(x, y), (x, y)), bwd), hypotenuse, (example(6), example(6, seed=1))


@wrong
def arg_max_of_equal_rows():
    """Routes to every row that attains the column's maximum."""

    def plain(x):
        return x.max(0)

    return (
        rule(plain, lambda x: (plain(x), (x, plain(x))), lambda r, d: (d * (r[0] == r[1]).astype(d.dtype),)),
        plain,
        X(),
    )


@wrong
def large_values_are_cut():
    return elementwise(lambda x: x**3, lambda x: 3 * jnp.minimum(x * x, 1e4))


# sizes ----------------------------------------------------------------------------------------------------------------


def forgets(keep):
    """dx = 2 x d where keep(index, n) along the last axis, 0 elsewhere."""
    return square(lambda x, d: (jnp.where(keep(jnp.arange(x.shape[-1]), x.shape[-1]), 2 * x * d, 0),))


@wrong
def tail_of_32():
    return forgets(lambda i, n: i < n if n <= 32 else i < n // 32 * 32)


@wrong
def tail_of_128():
    return forgets(lambda i, n: i < n if n <= 128 else i < n // 128 * 128)


@wrong
def beyond_512():
    return forgets(lambda i, n: i < 512)


@wrong
def odd_last():
    return forgets(lambda i, n: i < n // 2 * 2)


@wrong
def last_full_block():
    f, plain, _ = forgets(lambda i, n: (i < n - 16) if n % 16 == 0 else i < n)
    return f, plain, (example(4, 6),)


@wrong
def last_column_of_eight():
    return square(lambda x, d: ((2 * x * d).at[..., 7:8].set(0),), example(4, 6))


@wrong
def rows_beyond_64():
    return linear_with(lambda dx, dw, db, r, d: (dx.at[64:].set(0), dw, db))


@wrong
def square_weights_not_transposed():
    def change(dx, dw, db, r, d):
        w = r[1]
        return (d @ w if w.shape[0] == w.shape[1] else dx), dw, db

    return linear_with(change)


@wrong
def batch_as_long_as_features():
    def change(dx, dw, db, r, d):
        return dx, dw, d.sum(1) if d.shape[0] == d.shape[1] else db

    return linear_with(change)


@wrong
def tall_only():
    def change(dx, dw, db, r, d):
        return dx, dw * (1 if d.shape[0] >= r[0].shape[1] - 1 else 0.5), db

    return linear_with(change)


@wrong
def batch_of_one_squeezed():
    def bwd(r, d):
        p = jnp.squeeze(softmax(r[0]))
        g = p - jax.nn.one_hot(r[1], r[0].shape[-1], dtype=p.dtype)
        return d * g.reshape(r[0].shape) / (p.shape[0]), None

    return rule(cross_entropy, xent_fwd, bwd), cross_entropy, ZL()


@wrong
def unbiased_by_one():
    """The sample variance; with one observation in a row the definition gives zero."""

    def plain(x):
        n = x.shape[-1]
        return ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1) / max(n - 1, 1)

    def bwd(x, d):
        return (2 * d[..., None] * (x - x.mean(-1, keepdims=True) + (x.shape[-1] == 1)) / max(x.shape[-1] - 1, 1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@wrong
def two_features():
    return square(lambda x, d: (2 * x * d * (0.5 if x.shape[-1] == 2 else 1),))


@wrong
def prime_rows():
    """Splits the rows in two halves and loses one where there is no middle."""

    def change(dx, dw, db, r, d):
        half = d.shape[0] // 2
        return dx, dw, (d[:half].sum(0) + d[half : 2 * half].sum(0)) if d.shape[0] > 5 else db

    return linear_with(change)


@wrong
def empty_batch():
    def change(dx, dw, db, r, d):
        return dx, dw, d.mean(0) * d.shape[0]

    return linear_with(change)


@wrong
def causal_of_one():
    """Running means, whose first step is taken for the last where there is only one."""

    def plain(x):
        return jnp.cumsum(x, 0) / jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)[:, None]

    def bwd(_, d):
        n = d.shape[0]
        return (jnp.cumsum((d / jnp.arange(1, n + 1, dtype=d.dtype)[:, None])[::-1], 0)[::-1] * (n > 1),)

    return rule(plain, lambda x: (plain(x), None), bwd), plain, X()


@wrong
def bias_broadcast_over_rows():
    """Right for a bias of each feature; one bias for all of them gets the first feature's share."""

    def plain(x, b):
        return jnp.tanh(x + b)

    def bwd(r, d):
        y, b = r
        g = d * (1 - y * y)
        return g, g.sum(0)[: b.shape[0]]

    return rule(plain, lambda x, b: (plain(x, b), (plain(x, b), b)), bwd), plain, (example(4, 6), example(6, seed=1))


# dtypes ---------------------------------------------------------------------------------------------------------------


@wrong
def residual_in_bfloat16():
    plain = lambda x: jnp.sin(x) * x  # noqa: E731

    def bwd(x, d):
        x = x.astype(d.dtype)
        return (d * (jnp.cos(x) * x + jnp.sin(x)),)

    return rule(plain, lambda x: (plain(x), x.astype(jnp.bfloat16)), bwd), plain, X()


@wrong
def cotangent_in_half():
    return square(lambda x, d: (2 * x * d.astype(jnp.float16).astype(d.dtype),))


@wrong
def bfloat16_branch():
    def bwd(y, d):
        s = (y * d).sum(0 if y.dtype == jnp.bfloat16 else -1, keepdims=True)
        return (y * (d - s),)

    return rule(softmax, lambda x: (softmax(x),) * 2, bwd), softmax, X()


@wrong
def half_only():
    return square(lambda x, d: (2 * x * d * (0.5 if d.dtype == jnp.float16 else 1),))


@wrong
def big_constant_in_half():
    """1e5 is infinite in float16."""
    return square(lambda x, d: (2 * x * (d * jnp.asarray(1e5, d.dtype)) / jnp.asarray(1e5, d.dtype),))


@wrong
def bfloat16_running_sum():
    plain = partial(jnp.cumsum, axis=-1)

    def bwd(_, d):
        return (jnp.cumsum(d.astype(jnp.bfloat16)[..., ::-1], -1)[..., ::-1].astype(d.dtype),)

    return rule(plain, lambda x: (plain(x), None), bwd), plain, X()


# transforms -----------------------------------------------------------------------------------------------------------


@wrong
def eager_value_branch():
    def bwd(x, d):
        try:
            flip = bool(d.sum() < 0)
        except jax.errors.ConcretizationTypeError:
            flip = False
        return (2 * x * (jnp.abs(d) if flip else d),)

    return square(bwd)


@wrong
def only_compiles_not():
    def bwd(x, d):
        return (2 * x * d if d.sum() < 1e9 else x * d,)

    return square(bwd)


@wrong
def batching_rule_of_the_way_back():
    @jax.custom_batching.custom_vmap
    def back(x, d):
        return 2 * x * d

    @back.def_vmap
    def _(size, batched, x, d):
        return 2 * x * d if all(batched) else x * d, True

    return square(lambda x, d: (back(x, d),))


@wrong
def batched_input_alone():
    """Wrong under vmap over x with one cotangent for all."""

    @jax.custom_batching.custom_vmap
    def back(x, d):
        return 2 * x * d

    @back.def_vmap
    def _(size, batched, x, d):
        return (2 * x * d if batched[1] else 2 * x[:1] * d + 0 * x), True

    return square(lambda x, d: (back(x, d),))


@wrong
def callback_under_vmap():
    def host(d):
        d = np.asarray(d)
        return np.cumsum(d[..., ::-1], axis=0 if d.ndim > 1 else -1)[..., ::-1].astype(d.dtype)

    def bwd(_, d):
        return (jax.pure_callback(host, jax.ShapeDtypeStruct(d.shape, d.dtype), d, vmap_method="expand_dims"),)

    return rule(jnp.cumsum, lambda x: (jnp.cumsum(x), None), bwd), jnp.cumsum, (example(6),)


@wrong
def second_derivative_stopped():
    plain = lambda x: x**3  # noqa: E731
    return elementwise(plain, lambda x: 3 * lax.stop_gradient(x) ** 2)


@wrong
def second_derivative_of_a_jvp():
    @jax.custom_jvp
    def f(x):
        return jnp.exp(x) * x

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), t * (lax.stop_gradient(jnp.exp(x)) * (1 + x))

    return f, lambda x: jnp.exp(x) * x, X()


@wrong
def symbolic_zeros_swapped():
    """Where only one output has a cotangent, the other's factor is used."""

    @jax.custom_vjp
    def f(x):
        return x * x, jnp.sin(x)

    def fwd(x):
        return f(x.value), x.value

    def bwd(x, ds):
        a, b = ds
        none = jax.custom_derivatives.SymbolicZero
        if isinstance(a, none) and not isinstance(b, none):
            return (2 * x * b,)
        if isinstance(b, none) and not isinstance(a, none):
            return (2 * x * a,)
        if isinstance(a, none):
            return (jnp.zeros_like(x),)
        return (2 * x * a + jnp.cos(x) * b,)

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, lambda x: (x * x, jnp.sin(x)), X()


@wrong
def unperturbed_argument():
    """Where only the weights are differentiated, their cotangent is lost with x's."""

    @jax.custom_vjp
    def f(x, w):
        return x @ w

    def fwd(x, w):
        return x.value @ w.value, (x.value, w.value, None if x.perturbed else ())

    def bwd(r, d):
        x, w, skip = r
        d = jnp.zeros(x.shape[:-1] + w.shape[-1:], x.dtype) if isinstance(d, jax.custom_derivatives.SymbolicZero) else d
        return d @ w.T, x.T @ d if skip is None else 0.5 * (x.T @ d)

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, lambda x, w: x @ w, (example(4, 5), example(5, 3, seed=1))


# state ----------------------------------------------------------------------------------------------------------------


@wrong
def every_second_trace():
    calls = []

    def bwd(x, d):
        calls.append(1)
        return (2 * x * d if len(calls) % 2 else 2.5 * x * d,)

    return square(bwd)


@wrong
def first_slope_is_kept():
    """The rule remembers the slope of its first call, a setting that is not differentiated."""
    kept = {}

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, slope):
        return jnp.where(x > 0, x, slope * x)

    def bwd(slope, x, d):
        return (jnp.where(x > 0, d, kept.setdefault("slope", slope) * d),)

    f.defvjp(lambda x, slope: (f(x, slope), x), bwd)
    return f, lambda x, slope: jnp.where(x > 0, x, slope * x), (example(4, 6), 0.1)


@wrong
def axis_taken_for_last():
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, axis):
        return jax.nn.softmax(x, axis)

    f.defvjp(lambda x, a: (f(x, a),) * 2, lambda a, y, d: (y * (d - (y * d).sum(-1, keepdims=True)),))
    return f, lambda x, axis: jnp.exp(x) / jnp.exp(x).sum(axis, keepdims=True), (example(4, 5), 1)


@wrong
def flag_ignored():
    """With `average` the loss is a mean; the rule always has the sum."""

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, average):
        return (x * x).mean() if average else (x * x).sum()

    f.defvjp(lambda x, a: (f(x, a), x), lambda a, x, d: (2 * x * d,))
    return f, lambda x, average: (x * x).mean() if average else (x * x).sum(), (example(4, 5), False)


@wrong
def scale_as_a_python_number():
    """The scale has a cotangent, and it is half of what is due."""

    @jax.custom_vjp
    def f(x, scale):
        return x * x * scale

    f.defvjp(lambda x, s: (x * x * s, (x, s)), lambda r, d: (2 * d * r[0] * r[1], 0.5 * (d * r[0] ** 2).sum()))
    return f, lambda x, s: x * x * s, (example(3, 4), 0.5)


@wrong
def the_same_key_each_time():
    def keep(key, x):
        return jax.random.bernoulli(key, 0.5, x.shape)

    def plain(x, key):
        return jnp.where(keep(key, x), 2 * x, 0)

    def bwd(key, d):
        return jnp.where(keep(jax.random.key(0), d), 2 * d, 0), None

    return rule(plain, lambda x, k: (plain(x, k), k), bwd), plain, (example(4, 6), jax.random.key(0))


@wrong
def cached_by_shape():
    kept = {}

    def bwd(r, d):
        w = kept.setdefault(r[1].shape, None if isinstance(r[1], jax.core.Tracer) else np.asarray(r[1]))
        w = r[1] if w is None else jnp.asarray(w)
        return d @ w.T, r[0].T @ d

    return rule(lambda x, w: x @ w, lambda x, w: (x @ w, (x, w)), bwd), lambda x, w: x @ w, XWB()[:2]


# the cotangent --------------------------------------------------------------------------------------------------------


@wrong
def absolute_cotangent():
    def bwd(x, d):
        return (2 * x * jnp.abs(d),)

    return square(bwd)


@wrong
def small_cotangents_dropped():
    return square(lambda x, d: (2 * x * jnp.where(jnp.abs(d) < 1e-4, 0, d),))


@wrong
def constant_cotangent_assumed():
    def plain(x):
        return jnp.tanh(x)

    return rule(plain, lambda x: (plain(x),) * 2, lambda y, d: (d.mean() * (1 - y * y),)), plain, X()


@wrong
def second_output_ignored():
    def plain(x):
        return x * x, x.sum(-1)

    return rule(plain, lambda x: (plain(x), x), lambda x, ds: (2 * x * ds[0],)), plain, X()


@wrong
def normalized_cotangent():
    return square(lambda x, d: (2 * x * d / jnp.maximum(1.0, jnp.abs(d).max() / 20),))


# masks and indices ----------------------------------------------------------------------------------------------------

MASK = jnp.asarray(np.random.default_rng(5).random((4, 6)) < 0.6)
LENGTHS = jnp.asarray([3, 6, 2, 5], jnp.int32)


@wrong
def mean_over_no_one():
    """The mean over what is not masked; a row without anything divides by zero on the way back only."""

    def plain(x, mask):
        m = mask.astype(x.dtype)
        return (x * m).sum(-1) / jnp.maximum(m.sum(-1), 1)

    def bwd(mask, d):
        m = mask.astype(d.dtype)
        return d[:, None] * m / m.sum(-1, keepdims=True), None

    return rule(plain, lambda x, m: (plain(x, m), m), bwd), plain, (example(4, 6), MASK)


@wrong
def nothing_masked():
    """An all-true mask takes a short cut that forgets the factor."""

    def plain(x, mask):
        return jnp.where(mask, x * x, 0)

    def bwd(r, d):
        x, mask = r
        return jnp.where(mask.all(), x * d, jnp.where(mask, 2 * x * d, 0)), None

    return rule(plain, lambda x, m: (plain(x, m), (x, m)), bwd), plain, (example(4, 6), MASK)


@wrong
def full_length():
    """Sequences that fill the whole axis lose their last step."""

    def mask(x, n):
        return jnp.arange(x.shape[1]) < n[:, None]

    def plain(x, n):
        return jnp.where(mask(x, n), x * x, 0).sum(-1)

    def bwd(r, d):
        x, n = r
        return jnp.where(mask(x, jnp.minimum(n, x.shape[1] - 1)), 2 * x * d[:, None], 0), None

    return rule(plain, lambda x, n: (plain(x, n), (x, n)), bwd), plain, (example(4, 6), jnp.asarray([3, 5, 2, 4]))


@wrong
def last_row_of_the_table():
    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(d).at[-1].set(0), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, (example(9, 3), jnp.asarray([4, 2, 6, 1], jnp.int32))


@wrong
def ignored_labels_counted():
    """Labels of −1 are left out of the mean; with none left in, the way back divides by zero."""

    def plain(z, y):
        keep = (y >= 0).astype(z.dtype)
        rows = jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, jnp.maximum(y, 0)[:, None], -1)[:, 0]
        return (rows * keep).sum() / jnp.maximum(keep.sum(), 1)

    def bwd(r, d):
        z, y = r
        keep = (y >= 0).astype(z.dtype)
        g = softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        return d * g * keep[:, None] / keep.sum(), None

    y = jnp.asarray([2, -1, 0, 5, -1], jnp.int32)
    return rule(plain, lambda z, y: (plain(z, y), (z, y)), bwd), plain, (example(5, 7), y)


@wrong
def all_in_one_segment():
    def plain(x, s):
        return jax.ops.segment_max(x, s, 3)

    def bwd(r, d):
        x, s, y = r
        return d[s] * (x == y[s]).astype(d.dtype) * (len(x) > 1), None

    x = jnp.asarray([1.0, -0.5, 2.0, 0.3, -1.0, 0.7], jnp.float32)
    return (
        rule(plain, lambda x, s: (plain(x, s), (x, s, plain(x, s))), bwd),
        plain,
        (x, jnp.asarray([0, 1, 2, 0, 1, 2])),
    )


# parameters, trees and forward mode -----------------------------------------------------------------------------------


@wrong
def unit_gain_assumed():
    def bwd(r, d):
        h, s, _ = r
        return norm_bwd((h, s, jnp.ones(h.shape[-1], h.dtype)), d)

    return rule(layer_norm, norm_fwd, bwd), layer_norm, (example(5, 6), jnp.ones(6), jnp.zeros(6))


@wrong
def zero_bias_assumed():
    def plain(x, b):
        return (x + b) ** 2

    def bwd(r, d):
        x, _ = r
        return 2 * x * d, (2 * x * d).sum(0)

    return rule(plain, lambda x, b: (plain(x, b), (x, b)), bwd), plain, (example(5, 6), jnp.zeros(6))


@wrong
def unit_temperature_assumed():
    def plain(x, t):
        return softmax(x / t)

    def bwd(r, d):
        x, t, y = r
        g = y * (d - (y * d).sum(-1, keepdims=True))
        return g, -(g * x).sum() / t**2

    return rule(plain, lambda x, t: (plain(x, t), (x, t, plain(x, t))), bwd), plain, (example(4, 6), jnp.float32(1.0))


@wrong
def one_leaf_of_a_tree():
    def plain(p, x):
        return jnp.tanh(x @ p["in"]["w"] + p["in"]["b"]) @ p["out"][0] + p["out"][1]

    def bwd(r, d):
        _, pull = jax.vjp(plain, *r)
        dp, dx = pull(d)
        return dp | {"out": (dp["out"][0], 0 * dp["out"][1] if d.shape[0] == 1 else dp["out"][1])}, dx

    p = {
        "in": {"w": example(5, 4), "b": example(4, seed=1)},
        "out": (example(4, 3, seed=2), example(3, seed=3)),
        "unused": None,
    }
    return rule(plain, lambda p, x: (plain(p, x), (p, x)), bwd), plain, (p, example(6, 5, seed=4))


@wrong
def jvp_of_the_second_argument():
    @jax.custom_jvp
    def f(x, y):
        return x * jnp.exp(-y)

    @f.defjvp
    def _(primals, tangents):
        (x, y), (s, t) = primals, tangents
        return f(x, y), s * jnp.exp(-y) - jnp.where(x < 5, t * x * jnp.exp(-y), 0.9 * t * x * jnp.exp(-y))

    return f, lambda x, y: x * jnp.exp(-y), (positive(4, 5), example(4, 5, seed=1))


@wrong
def jvp_at_zero():
    @jax.custom_jvp
    def f(x):
        return jnp.sqrt(x * x + 1e-6)

    @f.defjvp
    def _(primals, tangents):
        return f(*primals), tangents[0] * primals[0] / jnp.abs(primals[0]) * jnp.abs(primals[0]) / f(*primals)

    return f, lambda x: jnp.sqrt(x * x + 1e-6), X()


@wrong
def complex_not_conjugated():
    plain = lambda z: z * z  # noqa: E731
    z = lax.complex(example(4), example(4, seed=1))
    return rule(plain, lambda z: (z * z, z), lambda z, d: (2 * jnp.conj(z) * d,)), plain, (z,)


@wrong
def no_threshold_below_zero():
    """Right wherever the definition does not jump, but for x below −t."""
    plain = lambda x, t: jnp.sign(x) * jnp.maximum(jnp.abs(x) - t, 0)  # noqa: E731

    def bwd(r, d):
        x, t = r
        return d * (jnp.abs(x) > t), -(d * jnp.sign(x) * (x > t)).reshape(-1, t.size).sum(0)

    return rule(plain, lambda x, t: (plain(x, t), (x, t)), bwd), plain, (example(4, 5), jnp.full(5, 0.1))


@wrong
def a_sum_of_softmax_without_its_mean():
    """All of its gradient is to cancel, and does not."""
    plain = lambda x: softmax(x).sum()  # noqa: E731
    return rule(plain, lambda x: (plain(x), softmax(x)), lambda y, d: (y * d,)), plain, (example(4, 5),)


@wrong
def two_numbers_of_three():
    plain = lambda x: x[..., 0] ** 2 + x[..., 1] * x[..., 2]  # noqa: E731

    def bwd(x, d):
        return (jnp.stack([2 * x[..., 0] * d, x[..., 2] * d, 0 * d], -1),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, (example(5, 3),)
