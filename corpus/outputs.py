"""Broadcast axes, half precision, several outputs, further derivatives and calls."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import example, ids, keeping, positive, right, rule, softmax, unbroadcast, wide, written, wrong

# biases of attention --------------------------------------------------------------------------------------------------


def _biased(q, k, v, bias):
    return softmax(jnp.einsum("hqd,hkd->hqk", q, k) + bias) @ v


def _biased_back(q, k, v, bias, d):
    p = softmax(jnp.einsum("hqd,hkd->hqk", q, k) + bias)
    ds = p * (d @ v.mT - (d * (p @ v)).sum(-1, keepdims=True))
    return ds @ k, ds.mT @ q, p.mT @ d, ds


_QKVB = lambda b: (*(example(2, n, 3, seed=n) for n in (3, 4)), example(2, 4, 2), example(*b, seed=9))  # noqa: E731


@wrong("judge 12", "a bias of its own for each head")
def attention_bias_summed_over_heads():
    """The bias' gradient is always the sum over the heads, also where each head has its own bias."""

    def bwd(r, d):
        *back, ds = _biased_back(*r, d)
        return *back, jnp.broadcast_to(ds.sum(0), r[3].shape)

    return keeping(_biased, bwd), _biased, _QKVB((1, 3, 4))


@right("judge 12")
def attention_bias_any_broadcasting():
    """The bias may be broadcast along heads, queries or keys."""

    def bwd(r, d):
        *back, ds = _biased_back(*r, d)
        return *back, unbroadcast(ds, r[3].shape)

    return keeping(_biased, bwd), _biased, _QKVB((2, 1, 4))


# several outputs ------------------------------------------------------------------------------------------------------


def _with_lse(q, k, v):
    s = q @ k.T
    return softmax(s) @ v, jax.nn.logsumexp(s, -1)


_QKV = lambda: (example(4, 3), example(5, 3, seed=1), example(5, 2, seed=2))  # noqa: E731


@right("judge 12")
def attention_block_with_normaliser():
    """A block of ring attention; the normaliser's gradient enters the scores beside the output's."""

    def fwd(q, k, v):
        s = q @ k.T
        lse = jax.nn.logsumexp(s, -1)
        o = jnp.exp(s - lse[:, None]) @ v
        return (o, lse), (q, k, v, o, lse)

    def bwd(r, d):
        q, k, v, o, lse = r
        p = jnp.exp(q @ k.T - lse[:, None])
        ds = p * (d[0] @ v.T + (d[1] - (d[0] * o).sum(-1))[:, None])
        return ds @ k, ds.T @ q, p.T @ d[0]

    return written(fwd, bwd), _with_lse, _QKV()


@wrong("judge 12")
def attention_block_normaliser_sign():
    """The gradient of the second output, the normaliser, is subtracted together with the row sums, not added."""

    def bwd(r, d):
        q, k, v = r
        p = softmax(q @ k.T)
        ds = p * (d[0] @ v.T - ((d[0] * (p @ v)).sum(-1) + d[1])[:, None])
        return ds @ k, ds.T @ q, p.T @ d[0]

    return keeping(_with_lse, bwd), _with_lse, _QKV()


@wrong("judge 12", "a row whose greatest value occurs twice")
def absmax_quantize_each_tie_gets_scale():
    """The gradient of a row's scale goes in full to each of the values that are equally far from zero."""

    def plain(x):
        scale = jnp.abs(x).max(-1, keepdims=True) / 7 + 1e-6
        v = x / scale
        return v + lax.stop_gradient(jnp.round(v) - v), scale[:, 0]

    def bwd(r, d):
        (x,) = r
        size = jnp.abs(x)
        scale = size.max(-1, keepdims=True) / 7 + 1e-6
        ds = d[1][:, None] - (d[0] * x).sum(-1, keepdims=True) / scale**2
        top = (size == size.max(-1, keepdims=True)) & (size > 0)
        return (d[0] / scale + jnp.where(top, jnp.sign(x) * ds / 7, 0.0),)

    return keeping(plain, bwd), plain, (example(4, 6),)


# half precision -------------------------------------------------------------------------------------------------------


def _rms(x, g):
    w = wide(x)
    return (w * lax.rsqrt((w * w).mean(-1, keepdims=True) + 1e-5) * g).astype(x.dtype)


_XG = lambda: (example(5, 6), 1 + 0.2 * example(6, seed=1))  # noqa: E731


@wrong("judge 12", "half precision and values of some hundreds, whose squares overflow")
def rms_norm_backward_in_half():
    """The forward pass works in float32, but the backward pass squares the input in its own precision."""

    def bwd(r, d):
        x, g = r
        inverse = lax.rsqrt((x * x).mean(-1, keepdims=True, dtype=x.dtype) + jnp.asarray(1e-5, x.dtype))
        n, t = wide(x * inverse), wide(d) * g
        dx = wide(inverse) * (t - n * (t * n).mean(-1, keepdims=True))
        return dx.astype(x.dtype), (wide(d) * n).sum(0).astype(g.dtype)

    return keeping(_rms, bwd), _rms, _XG()


@right("judge 12")
def rms_norm_any_rank_wide():
    """Sums in float32 at any rank; the inverse is kept in float32 beside an input that may be in half precision."""

    def fwd(x, g):
        inverse = lax.rsqrt(jnp.square(wide(x)).mean(-1) + 1e-5)
        return _rms(x, g), (x, g, inverse)

    def bwd(r, d):
        x, g, inverse = r
        n = wide(x) * inverse[..., None]
        t = wide(d) * g
        dx = (t - n * (t * n).mean(-1, keepdims=True)) * inverse[..., None]
        dg = (wide(d) * n).reshape(-1, n.shape[-1]).sum(0)
        return dx.astype(x.dtype), dg.astype(g.dtype)

    return rule(_rms, fwd, bwd), _rms, _XG()


@right("judge 12")
def integer_weights_rescaled():
    """Weights of 8 bits have no gradient, a positive scale of each column has one."""

    def plain(x, w, scale):
        return (x @ w.astype(x.dtype)) * scale

    def fwd(x, w, scale):
        y = x @ w.astype(x.dtype)
        return y * scale, (w, scale, y)

    def bwd(r, d):
        w, scale, y = r
        return (d * scale) @ w.T.astype(d.dtype), None, (d * y).sum(0)

    w = (ids(17, 6, 4) - 8).astype(jnp.int8)
    return written(fwd, bwd), plain, (example(5, 6), w, 0.1 * positive(4))


# further derivatives and calls ----------------------------------------------------------------------------------------


def _mish(x):
    return x * jnp.tanh(jax.nn.softplus(x))


def _mish_slope(x):
    t = jnp.tanh(jax.nn.softplus(x))
    return t + x * jax.nn.sigmoid(x) * (1 - t * t)


@wrong("judge 12", "a second derivative")
def mish_slope_kept_as_constant():
    """The derivative is kept from the forward pass as a constant, so that second derivatives vanish."""
    fwd = lambda x: (_mish(x), lax.stop_gradient(_mish_slope(x)))  # noqa: E731
    return rule(_mish, fwd, lambda s, d: (d * s,)), _mish, (example(4, 6),)


@right("judge 12")
def mish_slope_by_exponentials():
    """tanh(softplus(x)) as a ratio of polynomials in e^-|x|, differentiable once more; no overflow."""

    def tanh_softplus(x):
        e = jnp.exp(-jnp.abs(x))
        return jnp.where(x >= 0, (1 + 2 * e) / (1 + 2 * e + 2 * e * e), e * (e + 2) / (e * (e + 2) + 2))

    def bwd(x, d):
        t = tanh_softplus(x)
        return (d * (t + x * jax.nn.sigmoid(x) * (1 - t) * (1 + t)),)

    return rule(_mish, lambda x: (_mish(x), x), bwd), _mish, (example(4, 6),)


@wrong("judge 12", "two calls with inputs of different width before the backward pass")
def feature_mean_width_remembered_outside():
    """The width is remembered in a variable of the module, which a second call overwrites before the backward pass."""
    last = {}

    def plain(x):
        return jnp.square(x).mean(-1)

    def fwd(x):
        last["width"] = x.shape[-1]
        return plain(x), x

    return rule(plain, fwd, lambda x, d: (2 * x * d[..., None] / last["width"],)), plain, (example(4, 6),)


@right("judge 12")
def scaled_residual_with_setting():
    """A branch whose gate is a number of the call and without gradient; only inputs and weights are kept."""

    def plain(gate, x, w):
        return x + gate * jax.nn.relu(x @ w)

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def f(gate, x, w):
        return plain(gate, x, w)

    def fwd(gate, x, w):
        return plain(gate, x, w), (x, w)

    def bwd(gate, r, d):
        x, w = r
        g = jnp.where(x @ w > 0, gate * d, 0.0)
        return d + g @ w.T, x.T @ g

    f.defvjp(fwd, bwd)
    return partial(f, 0.5), partial(plain, 0.5), (example(4, 6), example(6, 6, seed=1))
