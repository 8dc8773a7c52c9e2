"""Normalisations: of weights, of batches in shards, modulated, by part of the features."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import XGB, example, floats, keeping, right, rule, unbroadcast, uniform, wrong


def _normal(x, axis):
    """x without its mean and by its deviation, and one over that."""
    e = x - x.mean(axis, keepdims=True)
    inv = lax.rsqrt((e * e).mean(axis, keepdims=True) + 1e-5)
    return e * inv, inv


def _normal_back(y, inv, d, axis):
    return inv * (d - d.mean(axis, keepdims=True) - y * (d * y).mean(axis, keepdims=True))


@wrong("judge 14", "a weight of more than two axes")
def weight_normalised_for_kernels():
    """Each output's weight has the length g; going back its projection is summed over the last axis alone."""

    def length(v, g):
        return jnp.sqrt((v * v).sum(tuple(range(1, v.ndim)), keepdims=True)), g.reshape(-1, *[1] * (v.ndim - 1))

    def plain(v, g):
        size, gain = length(v, g)
        return gain * v / size

    def bwd(r, d):
        v, g = r
        size, gain = length(v, g)
        u = v / size
        dv = gain / size * (d - u * (d * u).sum(-1, keepdims=True))
        return dv, (d * u).sum(tuple(range(1, v.ndim))).reshape(g.shape)

    return keeping(plain, bwd), plain, (example(4, 6), 1 + 0.3 * example(4, seed=1))


@wrong("judge 14", "shards of unequal sizes")
def synchronised_norm_of_uneven_shards():
    """Two shards are normalised by their common statistics; going back the shards' means are averaged as equals."""

    def plain(a, b):
        y = _normal(jnp.concatenate([a, b]), 0)[0]
        return y[: a.shape[0]], y[a.shape[0] :]

    def fwd(a, b):
        y, inv = _normal(jnp.concatenate([a, b]), 0)
        out = y[: a.shape[0]], y[a.shape[0] :]
        return out, (*out, inv)

    def bwd(r, d):
        ya, yb, inv = r
        da, db = d
        mean = (da.mean(0) + db.mean(0)) / 2
        along = ((da * ya).mean(0) + (db * yb).mean(0)) / 2
        return inv * (da - mean - ya * along), inv * (db - mean - yb * along)

    return rule(plain, fwd, bwd), plain, (example(4, 3), example(4, 3, seed=1, mean=0.5))


@wrong("judge 14", "a scale and shift for each token")
def modulated_norm_of_each_token():
    """The gradients of scale and shift are summed over the tokens, though each token may have its own."""

    def plain(x, scale, shift):
        return _normal(x, -1)[0] * (1 + scale) + shift

    def bwd(r, d):
        x, scale, shift = r
        y, inv = _normal(x, -1)
        dscale, dshift = (d * y).sum(1, keepdims=True), d.sum(1, keepdims=True)
        dx = _normal_back(y, inv, d * (1 + scale), -1)
        return dx, jnp.broadcast_to(dscale, scale.shape), jnp.broadcast_to(dshift, shift.shape)

    args = example(2, 5, 6), 0.3 * example(2, 1, 6, seed=1), example(2, 1, 6, seed=2)
    return keeping(plain, bwd), plain, args


@wrong("judge 14", "a negative gain")
def norm_and_relu_by_a_threshold():
    """Where the unit is open is read off the normalised value, above -b / g, which is below where g is negative."""

    def plain(x, g, b):
        return jax.nn.relu(_normal(x, 0)[0] * g + b)

    def bwd(r, d):
        x, g, b = r
        y, inv = _normal(x, 0)
        d = jnp.where(y > -b / g, d, 0.0)
        return _normal_back(y, inv, d * g, 0), (d * y).sum(0), d.sum(0)

    x, _, b = XGB()
    return keeping(plain, bwd), plain, (x, uniform(0.5, 1.5, 6, seed=1), b)


@wrong("judge 14")
def response_norm_with_an_even_window():
    """A window of four channels reaches two down and one up, and must be mirrored in the backward pass."""

    def window(z):
        p = jnp.pad(z, ((0, 0), (2, 1)))
        return sum(p[:, j : j + z.shape[1]] for j in range(4))

    def plain(x):
        return x * (1 + 0.5 * window(x * x)) ** -0.75

    def bwd(r, d):
        (x,) = r
        s = 1 + 0.5 * window(x * x)
        return (d * s**-0.75 - 0.75 * x * window(d * x * s**-1.75),)

    return keeping(plain, bwd), plain, (example(3, 7),)


@right("judge 14")
def spectral_norm_of_given_vectors():
    """A weight by its largest singular value, as two given vectors estimate it, which are constants."""

    def plain(w, u, v):
        u, v = lax.stop_gradient((u, v))
        return w / (u @ (w @ v))

    def fwd(w, u, v):
        return plain(w, u, v), (w, *lax.stop_gradient((u, v)))

    def bwd(r, d):
        w, u, v = r
        sigma = u @ (w @ v)
        return d / sigma - jnp.outer(u, v) * (d * w).sum() / sigma**2, jnp.zeros_like(u), jnp.zeros_like(v)

    args = example(4, 5, scale=0.3, mean=1.0), uniform(0.2, 0.8, 4, seed=1), uniform(0.2, 0.8, 5, seed=2)
    return rule(plain, fwd, bwd), plain, args


@right("judge 14")
def group_norm_whose_affine_part_may_lack():
    """Two groups of the channels; a scale or a shift that is None is left out, and has None for a gradient."""

    def split(x):
        return x.reshape(*x.shape[:-1], 2, -1)

    def plain(x, params):
        y = _normal(split(x), -1)[0].reshape(x.shape)
        y = y if params["scale"] is None else y * params["scale"]
        return y if params["shift"] is None else y + params["shift"]

    def bwd(r, d):
        x, params = r
        scale, shift = params["scale"], params["shift"]
        y, inv = _normal(split(x), -1)
        dx = _normal_back(y, inv, split(unbroadcast(d if scale is None else d * scale, x.shape)), -1).reshape(x.shape)
        back = {
            "scale": None if scale is None else unbroadcast(d * y.reshape(x.shape), scale.shape),
            "shift": None if shift is None else unbroadcast(d, shift.shape),
        }
        return dx, back

    return keeping(plain, bwd), plain, (example(4, 6), {"scale": 1 + 0.3 * example(6, seed=1), "shift": None})


@right("judge 14")
def filter_response_with_learned_threshold():
    """Filters by their root mean square over the places, no mean taken away, then the larger of that and a bound."""

    def scaled(x, eps):
        power = (x * x).mean(1, keepdims=True)
        return power, lax.rsqrt(power + 1e-3 + jnp.abs(eps))

    def plain(x, eps, tau):
        y = x * scaled(x, eps)[1]
        return jnp.where(y > tau, y, tau)

    def bwd(r, d):
        x, eps, tau = r
        power, inv = scaled(x, eps)
        y = x * inv
        on = y > tau
        dy = unbroadcast(jnp.where(on, d, 0.0), y.shape)
        de = -0.5 * inv**3 * unbroadcast(dy * x, inv.shape)
        dx = unbroadcast(dy * inv, x.shape) + 2 * x / x.shape[1] * unbroadcast(de, power.shape)
        return dx, unbroadcast(de * jnp.sign(eps), eps.shape), unbroadcast(jnp.where(on, 0.0, d), tau.shape)

    return keeping(plain, bwd), plain, (example(2, 5, 3), floats(0.1, 0.0, 0.3), floats(0.0, -0.5, 0.2))


@right("judge 14")
def batch_renormalised():
    """Batch statistics corrected towards the running ones; the corrections are bounded, and constants."""

    def parts(x, mean, deviation):
        y, inv = _normal(x, 0)
        centre = x.mean(0, keepdims=True)
        gain = lax.stop_gradient(jnp.clip(1 / (inv * deviation), 0.4, 2.5))
        return y, inv, gain, lax.stop_gradient(jnp.clip((centre - mean) / deviation, -2, 2))

    def plain(x, mean, deviation):
        y, _, gain, shift = parts(x, mean, deviation)
        return y * gain + shift

    def bwd(r, d):
        x, mean, deviation = r
        y, inv, gain, _ = parts(x, mean, deviation)
        dx = _normal_back(y, inv, unbroadcast(d * gain, x.shape), 0)
        return dx, jnp.zeros_like(mean), jnp.zeros_like(deviation)

    args = example(6, 4, mean=0.3), example(4, seed=1, scale=0.5), uniform(0.3, 2.0, 4, seed=2)
    return keeping(plain, bwd), plain, args


@right("judge 14")
def root_mean_square_of_the_first_quarter():
    """All features are scaled by the root mean square of their first quarter only."""

    def scale(x):
        first = x[..., : max(1, x.shape[-1] // 4)]
        return first, lax.rsqrt((first * first).mean(-1, keepdims=True) + 1e-3)

    def plain(x, g):
        return x * scale(x)[1] * g

    def bwd(r, d):
        x, g = r
        first, inv = scale(x)
        dy = unbroadcast(d * g, x.shape)
        count = first.shape[-1]
        through = -(inv**3) / count * (dy * x).sum(-1, keepdims=True) * first
        return (dy * inv).at[..., :count].add(through), unbroadcast(d * x * inv, g.shape)

    return keeping(plain, bwd), plain, (example(3, 8), 1 + 0.3 * example(8, seed=1))
