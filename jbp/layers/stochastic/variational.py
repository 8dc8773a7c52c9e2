"""Gaussians that a network describes by x = (m|s), mean and log variance, the halves of the last axis."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show, take
from jbp.keys import Keyed
from jbp.numerics import wide, wide_dtype


def half(layer, x):
    """n, after a check that x is (..., 2 n)."""
    if floats(layer, x, "(..., 2 n)").shape[-1] % 2:
        raise LayerError(
            layer,
            f"got x {show(x)}; expected (..., 2 n), n means and n log variances. "
            "End the network before it with a Dense of an even size.",
        )
    return x.shape[-1] // 2


@dataclass(frozen=True)
class Reparameterize(Keyed):
    """y = m + e^{s/2} ε with ε standard normal: a sample of the Gaussian of mean m and log variance s, x = (m|s).

        dm = dy      ds = ½ (y − m) dy

    Keeps y − m. Buffer: the key, split by `advance`. `evaluation` gives ReparameterizeInference. Shapes: x (..., 2 n),
    y (..., n). e^{s/2} is out of float32's range above s = 177. (Kingma & Welling, *Auto-Encoding Variational Bayes*,
    2014, §2.4.) Raises LayerError for an odd last size or an x that is not floating.

    >>> layer, x = Reparameterize(), jnp.zeros((2, 6))  # means and log-variances
    >>> y, params = layer(layer.init(jax.random.key(0), x), x, has_aux=True)
    >>> y.shape
    (2, 3)
    """

    def init(self, key, x, /):
        half(self, x)
        return super().init(key, x)

    def forward(self, params, x, /):
        n = half(self, x)
        (key,) = take(self, params, x.dtype, key=())
        noise = (jnp.exp(0.5 * wide(x[..., n:])) * _normal(key, x, n)).astype(x.dtype)
        return x[..., :n] + noise, noise

    def backward(self, params, noise, dy, /):
        return jnp.concatenate([dy, 0.5 * noise * dy], -1), ()

    def evaluation(self):
        return ReparameterizeInference()

    def reference(self, params, x, /):
        n = x.shape[-1] // 2
        deviation = jnp.sqrt(jnp.exp(x[..., n:]))
        return x[..., :n] + deviation * _normal(params["key"].value, x, n).astype(x.dtype)


def _normal(key, x, n):
    """ε for x, the same numbers in every dtype."""
    # the bits in float32, the inverse of erf in x's dtype
    u = jax.random.uniform(key, (*x.shape[:-1], n), jnp.float32, -1 + 2.0**-24, 1.0).astype(wide_dtype(x.dtype))
    return 2**0.5 * jax.lax.erf_inv(u)


@dataclass(frozen=True)
class ReparameterizeInference(Keyed):
    """y = m of x = (m|s).      dm = dy, ds = 0.  Reparameterize once training is over; it leaves its key alone.

    >>> layer, x = Reparameterize(), jnp.array([[1.0, 2.0, 0.0, 0.0]])
    >>> layer.evaluation()
    ReparameterizeInference()
    >>> layer.evaluation()(layer.init(jax.random.key(0), x), x)
    Array([[1., 2.]], dtype=float32)
    """

    still = True

    def init(self, key, x, /):
        half(self, x)
        return super().init(key, x)

    def forward(self, params, x, /):
        n = half(self, x)
        take(self, params, x.dtype, key=())
        return x[..., :n], ()

    def backward(self, params, residuals, dy, /):
        return jnp.concatenate([dy, jnp.zeros_like(dy)], -1), ()


CASES = (
    Case(Reparameterize(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(ReparameterizeInference(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
)
