"""Neighbouring channels that inhibit one another."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f
from jbp.errors import floats
from jbp.fields import NonNegative, Size
from jbp.layer import Layer
from jbp.numerics import wide


@dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """y_c = x_c n_c^−β, n_c = k + (α / size) Σ x_j² over the `size` channels j around c: c − size // 2 is the first.

        dx_j = dy_j n_j^−β − 2 β (α / size) x_j Σ dy_c x_c n_c^{−β−1} over the channels c that see j

    The names and defaults are PyTorch's; TensorFlow's alpha is α / size. Keeps x and n. Shapes: x, y and n (..., c).
    (Krizhevsky et al., *ImageNet Classification with Deep Convolutional Neural Networks*, 2012, §3.3.) Raises
    LayerError for a scalar or an x that is not floating.

    >>> LocalResponseNorm(3, alpha=1.0)((), jnp.array([[1.0, 2.0, 3.0]]))
    Array([[0.479, 0.545, 0.855]], dtype=float32)
    """

    size: Size
    alpha: NonNegative = 1e-4
    beta: NonNegative = 0.75
    k: NonNegative = 1.0

    def _around(self, z, before, after):
        """The sum of each channel, of those `before` it and of those `after` it."""
        window, one = (1,) * (z.ndim - 1) + (self.size,), (1,) * z.ndim
        padding = ((0, 0),) * (z.ndim - 1) + ((before, after),)
        return lax.reduce_window(z, np.zeros((), z.dtype), lax.add, window, one, padding)

    def forward(self, params, x, /):
        z = wide(floats(self, x, "(..., channels)"))
        n = self.k + self.alpha / self.size * self._around(z * z, self.size // 2, (self.size - 1) // 2)
        return (z * n**-self.beta).astype(x.dtype), (x, n)

    def backward(self, params, residuals, dy, /):
        (x, n), dy = residuals, wide(dy)
        z = wide(x)
        power = n**-self.beta
        seen = self._around(dy * z * power / n, (self.size - 1) // 2, self.size // 2)
        return (dy * power - 2 * self.beta * self.alpha / self.size * z * seen).astype(x.dtype), ()

    def reference(self, params, x, /):
        n = []
        for c in range(x.shape[-1]):
            near = x[..., max(c - self.size // 2, 0) : c + (self.size - 1) // 2 + 1]
            n.append(self.k + self.alpha * jnp.sum(near**2, -1) / self.size)
        return x / jnp.stack(n, -1) ** self.beta if n else x


CASES = (
    Case(LocalResponseNorm(3, 0.5), f(3, 5), f(2, 5, 3, 2)),
    Case(LocalResponseNorm(4, 2.0, 0.5, 2.0), f(2, 5)),
)
