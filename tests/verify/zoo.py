"""Rules as strangers write them: right ones that must pass, and the same with one mistake each.

RIGHT[name] and WRONG[name] are functions of no arguments that give (f, plain, example arguments).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

RIGHT, WRONG = {}, {}


def example(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def ids(high, *shape, seed=3):
    return jnp.asarray(np.random.default_rng(seed).integers(0, high, size=shape), jnp.int32)


def rule(plain, fwd, bwd):
    """A function with a custom VJP. `plain` itself stays without one."""

    @jax.custom_vjp
    def f(*args):
        return plain(*args)

    f.defvjp(fwd, bwd)
    return f


def right(make):
    RIGHT[make.__name__] = make
    return make


def wrong(make):
    WRONG[make.__name__] = make
    return make


# plain definitions --------------------------------------------------------------------------------------------------


def softmax(x):
    e = jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, g, b):
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) / jnp.sqrt(v + 1e-5) * g + b


def linear(x, w, b):
    return x @ w + b


def cross_entropy(z, labels):
    return jnp.mean(jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, labels[:, None], -1)[:, 0])


def relu(x):
    return jnp.where(x > 0, x, 0)


def maximum_of_rows(x):
    return x.max(-1)


def unit(x):
    return x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def gather(e, i):
    return e[i]


def hypotenuse(x, y):
    m = lax.stop_gradient(jnp.maximum(jnp.maximum(jnp.abs(x), jnp.abs(y)), 1e-30))
    return m * jnp.sqrt((x / m) ** 2 + (y / m) ** 2)


def quantized(x, s):
    """Learned step sizes, straight through where nothing is clipped."""
    v = jnp.clip(x / s, -8, 7)
    return (v + lax.stop_gradient(jnp.round(v) - v)) * s


def softplus(x):
    return jnp.logaddexp(x, 0.0)


# forwards with residuals ----------------------------------------------------------------------------------------------


def linear_fwd(x, w, b):
    return linear(x, w, b), (x, w)


def linear_bwd(r, d):
    x, w = r
    return d @ w.T, x.T @ d, d.sum(0)


def norm_fwd(x, g, b):
    m = x.mean(-1, keepdims=True)
    s = 1 / jnp.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
    return (x - m) * s * g + b, ((x - m) * s, s, g)


def norm_bwd(r, d):
    h, s, g = r
    dh = d * g
    dx = s * (dh - dh.mean(-1, keepdims=True) - h * (dh * h).mean(-1, keepdims=True))
    return dx, (d * h).sum(0), d.sum(0)


def xent_fwd(z, labels):
    return cross_entropy(z, labels), (z, labels)


def xent_bwd(r, d):
    z, labels = r
    return d * (softmax(z) - jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)) / z.shape[0], None


def unit_fwd(x):
    n = jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)
    return x / n, (x / n, n)


def unit_bwd(r, d):
    y, n = r
    return ((d - y * (d * y).sum(-1, keepdims=True)) / n,)


XWB = lambda: (example(5, 6), example(6, 4, seed=1), example(4, seed=2))  # noqa: E731
XGB = lambda: (example(5, 6), 1 + 0.3 * example(6, seed=1), example(6, seed=2))  # noqa: E731
X = lambda: (example(4, 6),)  # noqa: E731
ZL = lambda: (example(5, 7), ids(7, 5))  # noqa: E731
EI = lambda: (example(9, 3), jnp.asarray([4, 0, 7, 2, 5], jnp.int32))  # noqa: E731


# right ----------------------------------------------------------------------------------------------------------------


@right
def linear_():
    return rule(linear, linear_fwd, linear_bwd), linear, XWB()


@right
def softmax_():
    return (
        rule(softmax, lambda x: (softmax(x),) * 2, lambda y, d: (y * (d - (y * d).sum(-1, keepdims=True)),)),
        softmax,
        X(),
    )


@right
def layer_norm_():
    return rule(layer_norm, norm_fwd, norm_bwd), layer_norm, XGB()


@right
def cross_entropy_():
    return rule(cross_entropy, xent_fwd, xent_bwd), cross_entropy, ZL()


@right
def relu_():
    return rule(relu, lambda x: (relu(x), x > 0), lambda m, d: (jnp.where(m, d, 0),)), relu, X()


@right
def relu_with_half_at_zero():
    def bwd(x, d):
        return (d * jnp.where(x > 0, 1, jnp.where(x == 0, 0.5, 0)).astype(d.dtype),)

    return rule(relu, lambda x: (relu(x), x), bwd), relu, X()


@right
def max_to_the_first():
    def bwd(r, d):
        return (d[..., None] * (r[0][..., None] == jnp.arange(r[1].shape[-1])).astype(d.dtype),)

    return rule(maximum_of_rows, lambda x: (x.max(-1), (x.argmax(-1), x)), bwd), maximum_of_rows, X()


@right
def unit_():
    return rule(unit, unit_fwd, unit_bwd), unit, X()


@right
def gather_():
    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(d), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, EI()


@right
def softplus_():
    return rule(softplus, lambda x: (softplus(x), x), lambda x, d: (d * jax.nn.sigmoid(x),)), softplus, X()


@right
def accumulates_in_float32():
    def plain(x):
        return jnp.cumsum(x.astype(jnp.float32), -1).astype(x.dtype)

    def bwd(r, d):
        return (jnp.cumsum(d.astype(jnp.float32)[..., ::-1], -1)[..., ::-1].astype(d.dtype),)

    return rule(lambda x: jnp.cumsum(x, -1), lambda x: (plain(x), None), bwd), lambda x: jnp.cumsum(x, -1), X()


@right
def variance_in_one_pass():
    def plain(x):
        return ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1)

    def fwd(x):
        return (x * x).mean(-1) - x.mean(-1) ** 2, x

    return (
        rule(plain, fwd, lambda x, d: (2 * d[..., None] * (x - x.mean(-1, keepdims=True)) / x.shape[-1],)),
        plain,
        X(),
    )


@right
def several_outputs():
    def plain(x, y):
        return {"sum": x + y, "product": x * y, "place": jnp.argmax(x)}

    def fwd(x, y):
        return plain(x, y), (x, y)

    def bwd(r, d):
        x, y = r
        return d["sum"] + d["product"] * y, d["sum"] + d["product"] * x

    return rule(plain, fwd, bwd), plain, (example(3, 4), example(3, 4, seed=1))


@right
def product_of_rows():
    """Written with the others' product, right at zeros too."""

    def plain(x):
        return jnp.prod(x, -1)

    def bwd(x, d):
        n = x.shape[-1]
        others = jnp.where(jnp.eye(n, dtype=bool), 1, x[..., None, :]).prod(-1)
        return (d[..., None] * others,)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, (example(4, 5),)


@right
def jvp_rule():
    @jax.custom_jvp
    def f(x):
        return x * jax.nn.sigmoid(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        s = jax.nn.sigmoid(x)
        return x * s, t * s * (1 + x * (1 - s))

    return f, lambda x: x / (1 + jnp.exp(-x)), X()


@right
def tanh_():
    return rule(jnp.tanh, lambda x: (jnp.tanh(x),) * 2, lambda y, d: (d * (1 - y * y),)), jnp.tanh, X()


@right
def scaled_by_python_number():
    @jax.custom_vjp
    def f(x, scale):
        return x * x * scale

    f.defvjp(lambda x, scale: (x * x * scale, (x, scale)), lambda r, d: (2 * d * r[0] * r[1], (d * r[0] ** 2).sum()))
    return f, lambda x, scale: x * x * scale, (example(3, 4), 0.5)


# wrong everywhere -----------------------------------------------------------------------------------------------------


def _linear(bwd):
    return rule(linear, linear_fwd, bwd), linear, XWB()


def _norm(bwd):
    return rule(layer_norm, norm_fwd, bwd), layer_norm, XGB()


def _soft(bwd):
    return rule(softmax, lambda x: (softmax(x),) * 2, bwd), softmax, X()


@wrong
def factor_two():
    return _linear(lambda r, d: (d @ r[1].T, 2 * r[0].T @ d, d.sum(0)))


@wrong
def sign():
    return _linear(lambda r, d: (-d @ r[1].T, r[0].T @ d, d.sum(0)))


@wrong
def mean_instead_of_sum():
    return _linear(lambda r, d: (d @ r[1].T, r[0].T @ d, d.mean(0)))


@wrong
def forgotten_leaf():
    return _linear(lambda r, d: (d @ r[1].T, r[0].T @ d, jnp.zeros(d.shape[-1], d.dtype)))


@wrong
def transposed():
    f = rule(linear, linear_fwd, lambda r, d: (d @ r[1].T, (r[0].T @ d).T, d.sum(0)))
    return f, linear, (example(5, 4), example(4, 4, seed=1), example(4, seed=2))


@wrong
def weights_not_transposed():
    f = rule(linear, linear_fwd, lambda r, d: (d @ r[1], r[0].T @ d, d.sum(0)))
    return f, linear, (example(5, 4), example(4, 4, seed=1), example(4, seed=2))


@wrong
def norm_missing_term():
    def bwd(r, d):
        h, s, g = r
        dh = d * g
        return s * (dh - dh.mean(-1, keepdims=True)), (d * h).sum(0), d.sum(0)

    return _norm(bwd)


@wrong
def softmax_wrong_axis():
    return _soft(lambda y, d: (y * (d - (y * d).sum(0, keepdims=True)),))


@wrong
def one_per_mille():
    return _soft(lambda y, d: (1.001 * y * (d - (y * d).sum(-1, keepdims=True)),))


@wrong
def last_row_zero():
    return _soft(lambda y, d: ((y * (d - (y * d).sum(-1, keepdims=True))).at[-1].set(0),))


@wrong
def shifted_by_one():
    return _soft(lambda y, d: (jnp.roll(y * (d - (y * d).sum(-1, keepdims=True)), 1, -1),))


@wrong
def one_element_1e_9():
    return _soft(lambda y, d: ((y * (d - (y * d).sum(-1, keepdims=True))).at[1, 2].multiply(1 + 1e-9),))


@wrong
def xent_not_divided():
    return rule(cross_entropy, xent_fwd, lambda r, d: (xent_bwd(r, d)[0] * r[0].shape[0], None)), cross_entropy, ZL()


@wrong
def xent_wrong_batch():
    """Divides by the classes instead of the batch."""
    return (
        rule(cross_entropy, xent_fwd, lambda r, d: (xent_bwd(r, d)[0] * r[0].shape[0] / r[0].shape[1], None)),
        cross_entropy,
        ZL(),
    )


@wrong
def cotangent_ignored():
    return rule(cross_entropy, xent_fwd, lambda r, d: xent_bwd(r, jnp.ones_like(d))), cross_entropy, ZL()


@wrong
def jvp_rule_wrong():
    @jax.custom_jvp
    def f(x):
        return x * jax.nn.sigmoid(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        s = jax.nn.sigmoid(x)
        return x * s, t * s * (1 + (1 - s))

    return f, lambda x: x / (1 + jnp.exp(-x)), X()


# wrong at an edge only ------------------------------------------------------------------------------------------------


@wrong
def ties_all_get_it():
    def bwd(r, d):
        x, y = r
        return (d[..., None] * (x == y[..., None]).astype(d.dtype),)

    return rule(maximum_of_rows, lambda x: (x.max(-1), (x, x.max(-1))), bwd), maximum_of_rows, X()


@wrong
def nan_at_zero_row():
    def fwd(x):
        return unit(x), x

    def bwd(x, d):
        n = jnp.sqrt((x * x).sum(-1, keepdims=True))
        y = x / n
        return ((d - y * (d * y).sum(-1, keepdims=True)) / jnp.sqrt(n * n + 1e-6),)

    return rule(unit, fwd, bwd), unit, X()


@wrong
def exp_overflows():
    def bwd(x, d):
        return (d * jnp.exp(x) / (1 + jnp.exp(x)),)

    return rule(softplus, lambda x: (softplus(x), x), bwd), softplus, X()


@wrong
def tile_tail():
    """Blocks of 8 columns; what is left over beyond 16 is forgotten."""

    def bwd(x, d):
        n = x.shape[-1]
        keep = jnp.arange(n) < (n if n <= 16 else n // 8 * 8)
        return (jnp.where(keep, 2 * x * d, 0),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong
def batch_of_one():
    def bwd(r, d):
        dx, dw, db = linear_bwd(r, d)
        return dx, dw, db if d.shape[0] > 1 else 0 * db

    return _linear(bwd)


@wrong
def clipped_cotangent():
    def bwd(x, d):
        return (2 * x * jnp.clip(d, -10, 10),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong
def duplicate_ids():
    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].set(d), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, EI()


@wrong
def first_id():
    """Id 0 is taken for padding."""

    def bwd(r, d):
        i, like = r
        return jnp.zeros_like(like).at[i].add(d * (i > 0)[:, None]), None

    return rule(gather, lambda e, i: (e[i], (i, e)), bwd), gather, (example(9, 3), jnp.asarray([4, 8, 7, 2], jnp.int32))


@wrong
def stale_cache():
    """The residual is kept outside, and what is kept is the first."""
    kept = {}

    def fwd(x):
        kept.setdefault(x.shape, np.asarray(x))
        return x * x, None

    def bwd(_, d):
        return (2 * jnp.asarray(kept[d.shape]) * d,)

    return rule(lambda x: x * x, fwd, bwd), lambda x: x * x, X()


@wrong
def last_call_wins():
    """The residual is kept outside, and what is kept is the last."""
    kept = {}

    def fwd(x):
        kept["x"] = x
        return x * x, None

    def bwd(_, d):
        return (2 * kept["x"] * d,)

    return rule(lambda x: x * x, fwd, bwd), lambda x: x * x, X()


@wrong
def bfloat16_accumulation():
    def bwd(r, d):
        dx, dw, _ = linear_bwd(r, d)
        total, _ = lax.scan(
            lambda c, row: (c + row.astype(jnp.bfloat16), None), jnp.zeros(d.shape[1:], jnp.bfloat16), d
        )
        return dx, dw, total.astype(d.dtype)

    return _linear(bwd)


@wrong
def low_precision_only():
    """Right in float64 and float32; in half precision the mean is taken over the wrong axis."""

    def bwd(r, d):
        dx, dw, db = linear_bwd(r, d)
        return dx, dw, db if d.dtype.itemsize >= 4 else 0.8 * db

    return _linear(bwd)


@wrong
def saturated():
    def bwd(y, d):
        return (d * jnp.where(jnp.abs(y) > 0.999, 0.1, 1 - y * y),)

    return rule(jnp.tanh, lambda x: (jnp.tanh(x),) * 2, bwd), jnp.tanh, X()


@wrong
def small_values():
    """A guard against division by zero that is too large."""

    def plain(x):
        return x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-12)

    def fwd(x):
        return plain(x), x

    def bwd(x, d):
        n = jnp.maximum(jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-12), 1e-2)
        y = x / n
        return ((d - y * (d * y).sum(-1, keepdims=True)) / n,)

    return rule(plain, fwd, bwd), plain, X()


@wrong
def square_only():
    """The product with the wrong axis of w, which shows where w is not square."""

    def plain(x, w):
        return x @ (w + w.T)

    def bwd(r, d):
        x, w = r
        g = x.T @ d
        return d @ (w + w.T), g + g

    return rule(plain, lambda x, w: (plain(x, w), (x, w)), bwd), plain, (example(3, 4), example(4, 4, seed=1))


@wrong
def python_branch():
    """Compiled it is right, one operation at a time it is not."""

    def bwd(x, d):
        return (2 * x * d if isinstance(x, jax.core.Tracer) else x * d,)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong
def integers_only():
    def bwd(x, d):
        return (jnp.where(x == jnp.round(x), 0, 2 * x * d),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong
def dtype_of_cotangent():
    def bwd(x, d):
        return ((2 * x * d).astype(jnp.float32),)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong
def masked_rows_leak():
    """A row whose mask is all false gives zero, but its cotangent is not."""

    def plain(x, mask):
        s = jnp.where(mask, x, -1e30)
        e = jnp.where(mask, jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True))), 0)
        return e / (e.sum(-1, keepdims=True) + 1e-9)

    def bwd(r, d):
        y, mask = r
        g = y * (d - (y * d).sum(-1, keepdims=True))
        return jnp.where(mask.any(-1, keepdims=True), g, d), None

    mask = jnp.asarray(np.random.default_rng(5).random((4, 6)) < 0.7)
    return rule(plain, lambda x, m: (plain(x, m), (plain(x, m), m)), bwd), plain, (example(4, 6), mask)


@wrong
def forward_differs():
    def fwd(x):
        return x * x * (1 + 1e-6), x

    return rule(lambda x: x * x, fwd, lambda x, d: (2 * x * d,)), lambda x: x * x, X()


@wrong
def raises_on_the_way_back():
    def bwd(x, d):
        raise ValueError("not written yet")

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong
def product_divides():
    """d(Πx)/dx_i as Πx / x_i, which is NaN at zero."""

    def plain(x):
        return jnp.prod(x, -1)

    return (
        rule(plain, lambda x: (plain(x), (x, plain(x))), lambda r, d: ((d * r[1])[..., None] / r[0],)),
        plain,
        (example(4, 5),),
    )
