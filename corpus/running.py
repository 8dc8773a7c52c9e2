"""Biases of distance, clamped gates, same padding, running sums; arguments with a meaning."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import definite, example, integers, keeping, right, rule, uniform, written, wrong

# wrong at an edge -----------------------------------------------------------------------------------------------------


@wrong("judge 12", "a sequence longer than the greatest distance of 4")
def distance_bias_far_diagonals_lost():
    """Pairs farther apart than the table reaches share its last entry, but give it no gradient."""

    def plain(scores, table):
        n, far = scores.shape[0], table.shape[0] // 2
        at = jnp.arange(n)
        return jax.nn.softmax(scores + table[jnp.clip(at - at[:, None], -far, far) + far], -1)

    def fwd(scores, table):
        p = plain(scores, table)
        return p, (p, table)

    def bwd(r, d):
        p, table = r
        far = table.shape[0] // 2
        ds = p * (d - (p * d).sum(-1, keepdims=True))
        return ds, jnp.stack([jnp.trace(ds, offset=o) for o in range(-far, far + 1)])

    return rule(plain, fwd, bwd), plain, (example(5, 5), example(9, seed=1))


@wrong("judge 12", "gates beyond the clamp of 7")
def clamped_swiglu_clamp_not_differentiated():
    """Both halves are clamped at 7, but the gradient passes as if they were not."""

    def halves(x):
        return jnp.minimum(x[..., ::2], 7.0), jnp.clip(x[..., 1::2], -7.0, 7.0)

    def plain(x):
        a, b = halves(x)
        return a * jax.nn.sigmoid(1.702 * a) * (b + 1)

    def bwd(r, d):
        a, b = halves(r[0])
        s = jax.nn.sigmoid(1.702 * a)
        da = d * (b + 1) * s * (1 + 1.702 * a * (1 - s))
        return (jnp.stack([da, d * a * s], -1).reshape(r[0].shape),)

    return keeping(plain, bwd), plain, (example(4, 6),)


@wrong("judge 12", "a kernel of even width")
def same_convolution_even_kernel():
    """The flipped kernel of the backward pass is padded like the forward one, not the other way about."""

    def pads(k):
        return (k - 1) // 2, k // 2

    def slide(x, w, pad):
        padded = jnp.pad(x, (pad, (0, 0)))
        return sum(padded[j : j + x.shape[0]] * w[j] for j in range(w.shape[0]))

    def plain(x, w):
        return slide(x, w, pads(w.shape[0]))

    def bwd(r, d):
        x, w = r
        padded = jnp.pad(x, (pads(w.shape[0]), (0, 0)))
        dw = jnp.stack([(padded[j : j + x.shape[0]] * d).sum(0) for j in range(w.shape[0])])
        return slide(d, w[::-1], pads(w.shape[0])), dw

    return keeping(plain, bwd), plain, (example(7, 3), example(3, 3, seed=1))


def _running_lse(x):
    return jax.vmap(lambda n: jax.nn.logsumexp(jnp.where(jnp.arange(x.shape[0]) <= n, x, -jnp.inf)))(
        jnp.arange(x.shape[0])
    )


@wrong("judge 12", "large magnitudes, such as log-probabilities of -100")
def running_lse_exponentials_apart():
    """Numerator and denominator of the shares are exponentiated apart, and one of them overflows."""

    def bwd(r, d):
        x, y = r
        return (jnp.exp(x) * jnp.cumsum((d * jnp.exp(-y))[::-1])[::-1],)

    return rule(_running_lse, lambda x: (_running_lse(x), (x, _running_lse(x))), bwd), _running_lse, (example(8),)


# right ----------------------------------------------------------------------------------------------------------------


@right("judge 12")
def running_lse_by_scan():
    """The sum from the back is carried relative to the running value, so that no exponent is positive."""

    def fwd(x):
        def step(y, x):
            y = jnp.logaddexp(y, x)
            return y, y

        y = lax.scan(step, jnp.full_like(x[0], -jnp.inf), x)[1]
        return y, (x, y)

    def bwd(r, d):
        x, y = r

        def step(g, z):
            x, y, before, d = z
            g = g + d
            return g * jnp.exp(before - y), g * jnp.exp(x - y)

        before = jnp.concatenate([jnp.full_like(y[:1], -jnp.inf), y[:-1]])
        return (lax.scan(step, jnp.zeros_like(x[0]), (x, y, before, d), reverse=True)[1],)

    return written(fwd, bwd), _running_lse, (example(8),)


@right("judge 12")
def log_determinant_of_kernel_matrix():
    """The matrix is symmetric and positive definite: its Cholesky factor gives the value and the inverse."""

    def plain(a):
        return jnp.linalg.slogdet(a)[1]

    def fwd(a):
        c = jnp.linalg.cholesky(a)
        return 2 * jnp.log(jnp.diagonal(c)).sum(), c

    def bwd(c, d):
        return (d * jax.scipy.linalg.cho_solve((c, True), jnp.eye(c.shape[0], dtype=c.dtype)),)

    return written(fwd, bwd), plain, (definite(1, 4),)


@right("judge 12")
def mirrored_at_unit_normal():
    """The mirror image alone is kept, for mirroring it again at the normal of unit length gives the input."""

    def plain(x, v):
        return x - 2 * (x @ v)[:, None] * v

    def bwd(r, d):
        y, v = r
        x = plain(y, v)
        return plain(d, v), -2 * ((x @ v) @ d + (d @ v) @ x)

    v = example(4, seed=1)
    f = rule(plain, lambda x, v: (plain(x, v), (plain(x, v), v)), bwd)
    return f, plain, (example(5, 4), v / jnp.linalg.norm(v))


@right("judge 12")
def tokens_sorted_by_expert():
    """Tokens are permuted, so that the gradient may be gathered by the inverse permutation; a weight for each."""

    def plain(x, weight, order):
        return x[order] * weight[:, None]

    def fwd(x, weight, order):
        moved = x[order]
        return moved * weight[:, None], (moved, weight, order)

    def bwd(r, d):
        moved, weight, order = r
        return (d * weight[:, None])[jnp.argsort(order)], (d * moved).sum(1), None

    return written(fwd, bwd), plain, (example(6, 3), example(6, seed=1), integers(4, 2, 0, 5, 1, 3))


@right("judge 12")
def curve_through_sorted_knots():
    """A curve of straight pieces through knots in ascending order, flat beyond them; all arguments get gradients."""

    def place(x, knots):
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, knots.shape[0] - 2)
        width = knots[i + 1] - knots[i]
        return i, width, (x - knots[i]) / width

    def plain(x, knots, values):
        i, _, t = place(x, knots)
        t = jnp.clip(t, 0.0, 1.0)
        return (1 - t) * values[i] + t * values[i + 1]

    def fwd(x, knots, values):
        i, width, t = place(x, knots)
        c = jnp.clip(t, 0.0, 1.0)
        rise = values[i + 1] - values[i]
        pass_on = jnp.where((t > 0) & (t < 1), 1.0, jnp.where((t == 0) | (t == 1), 0.5, 0.0))
        return values[i] + c * rise, (i, c, pass_on * rise / width, knots, values)

    def bwd(r, d):
        i, c, slope, knots, values = r
        g = d * slope
        dk = jnp.zeros_like(knots).at[i].add(-g * (1 - c)).at[i + 1].add(-g * c)
        return g, dk, jnp.zeros_like(values).at[i].add(d * (1 - c)).at[i + 1].add(d * c)

    return written(fwd, bwd), plain, (uniform(-1, 4, 8), jnp.asarray([0.0, 0.5, 1.25, 2.0, 3.0]), example(5, seed=1))
