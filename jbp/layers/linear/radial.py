"""Units that answer to what is near."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case
from jbp.errors import floats, take
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import along, leading, wide


@dataclass(frozen=True)
class RadialBasis(Layer):
    """y_j = exp(−½ r_j), r_j = ‖x − c_j‖² / e^{2 s_j}: bumps of width e^{s_j} around centres c_j.

        t_j = dy_j y_j      dx = −Σ_j t_j e^{−2 s_j} (x − c_j)
        dc_j = Σ t_j e^{−2 s_j} (x − c_j)      ds_j = Σ t_j r_j

    delta is (t, c, s): the gradient of a distance needs the centre. A Dense after it makes the network of Broomhead &
    Lowe (*Multivariable Functional Interpolation and Adaptive Networks*, 1988, §3). Keeps x and r. Centres start
    normal, widths at √d. Shapes: x (..., d), c (features, d), s (features,), y and r (..., features). Raises
    LayerError for a scalar or an x that is not floating.

    >>> x = jnp.ones((2, 5))
    >>> params = RadialBasis(3).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'c': (3, 5), 's': (3,)}
    >>> RadialBasis(3)(params, x).shape
    (2, 3)
    """

    features: Size

    def _shapes(self, x):
        return {"c": (self.features, x.shape[-1]), "s": (self.features,)}

    def init(self, key, x, /):
        d = floats(self, x, "(..., features)").shape[-1]
        c = jax.random.normal(key, (self.features, d), x.dtype)
        return {"c": c, "s": jnp.full(self.features, 0.5 * math.log(max(d, 1)), x.dtype)}

    def forward(self, params, x, /):
        _, s = take(self, params, floats(self, x, "(..., features)").dtype, **self._shapes(x))
        r = jnp.square(_apart(x, params["c"])).sum(-1)
        r = jnp.minimum(r * along(jnp.exp(-2 * wide(s).astype(r.dtype)), r), jnp.finfo(r.dtype).max)  # else 0 · ∞ in ds
        return jnp.exp(-0.5 * r).astype(x.dtype), (x, r)

    def backward(self, params, residuals, dy, /):
        x, r = residuals
        t = wide(dy) * jnp.exp(-0.5 * r)
        dx = -(_pulls(t, params["s"]) * _apart(x, params["c"])).sum(-2)
        return dx.astype(x.dtype), (t, params["c"], params["s"])

    def gradient(self, residuals, delta, /):
        x, r = residuals
        t, c, s = delta
        dc = (_pulls(t, s) * _apart(x, c)).sum(leading(t))
        return {"c": dc.astype(c.dtype), "s": (t * r).sum(leading(t)).astype(s.dtype)}

    def reference(self, params, x, /):
        c, s = params["c"], params["s"]
        distances = jnp.stack([jnp.sum((x - along(c[j], x)) ** 2, -1) for j in range(self.features)], -1)
        return jnp.exp(-distances / (2 * along(jnp.exp(s), distances) ** 2))


def _apart(x, c):
    """x − c_j for every j, (..., features, d): made and used in one loop by the compiler, never stored."""
    return wide(x)[..., None, :] - c.astype(wide(x).dtype).reshape((1,) * (x.ndim - 1) + c.shape)


def _pulls(t, s):
    return (t * along(jnp.exp(-2 * wide(s).astype(t.dtype)), t))[..., None]


CASES = (Case(RadialBasis(3), *ANY),)
