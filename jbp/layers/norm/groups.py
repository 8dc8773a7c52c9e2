"""Norms over groups of channels of one example. The equations are those at the head of norm.py."""

from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, take
from jbp.layer import Layer
from jbp.layers.norm.features import affine_gradient, error_below, statistics
from jbp.numerics import along, wide


class _Grouped(Layer):
    """Index key: x as (b, n..., groups, c / groups), m and s as (b, 1..., groups, 1)."""

    epsilon: float
    least: int

    def _groups(self, c):
        raise NotImplementedError

    def _checked(self, x):
        c = floats(self, x, f"(batch, {'n, ' * (self.least - 2)}..., channels)", least=self.least).shape[-1]
        groups = self._groups(c)
        if groups < 1 or c % groups:
            raise LayerError(
                self,
                f"got {c} channels; expected a multiple of groups={groups}. Choose groups that divide the channels.",
            )
        return groups

    def _apart(self, x, groups):
        return wide(x).reshape(*x.shape[:-1], groups, -1 if x.size else x.shape[-1] // groups)

    def init(self, key, x, /):
        self._checked(x)
        return {"g": jnp.ones(x.shape[-1], x.dtype), "b": jnp.zeros(x.shape[-1], x.dtype)}

    def forward(self, params, x, /):
        groups = self._checked(x)
        g, b = take(self, params, x.dtype, g=x.shape[-1:], b=x.shape[-1:])
        parts = self._apart(x, groups)
        m, v = statistics(parts, _axes(parts))
        s = (v + self.epsilon) ** -0.5
        x̂ = ((parts - m) * s).reshape(x.shape)
        return (x̂ * along(wide(g), x) + along(wide(b), x)).astype(x.dtype), (x, m, s)

    def backward(self, params, residuals, dy, /):
        x, m, s = residuals
        parts = self._apart(x, m.shape[-2])
        dx̂ = self._apart(wide(dy) * along(wide(params["g"]), dy), m.shape[-2])
        return error_below(dx̂, (parts - m) * s, s, _axes(parts)).reshape(x.shape).astype(x.dtype), dy

    def gradient(self, residuals, dy, /):
        x, m, s = residuals
        return affine_gradient(((self._apart(x, m.shape[-2]) - m) * s).reshape(x.shape), dy)


def _axes(parts):
    """Every axis but the batch and the group."""
    return (*range(1, parts.ndim - 2), parts.ndim - 1)


@dataclass(frozen=True)
class GroupNorm(_Grouped):
    """y = x̂ g + b with x̂ = (x − m) / √(v + ε), m and v of one example over all places and the channels of one group.

    dx, dg, db as at the head of norm.py. Keeps x, m and s. Shapes: x and y (b, ..., c), g and b (c,). (Wu & He, *Group
    Normalization*, 2018, §3.) Raises LayerError for fewer than two axes, and if groups does not divide the channels.
    """

    groups: int
    epsilon: float = 1e-5

    least = 2

    def _groups(self, c):
        return self.groups

    def reference(self, params, x, /):
        """Group by group, each a slice of the channels."""
        size, parts = x.shape[-1] // self.groups, []
        axes = tuple(range(1, x.ndim))
        for i in range(self.groups):
            part = x[..., i * size : (i + 1) * size]
            m = jnp.mean(part, axes, keepdims=True)
            v = jnp.mean((part - m) ** 2, axes, keepdims=True)
            parts.append((part - m) / jnp.sqrt(v + self.epsilon))
        return jnp.concatenate(parts, -1) * along(params["g"], x) + along(params["b"], x)


@dataclass(frozen=True)
class InstanceNorm(_Grouped):
    """y = x̂ g + b with x̂ = (x − m) / √(v + ε), m and v of one example and channel over its places.

    dx, dg, db as at the head of norm.py. Keeps x, m and s. Shapes: x and y (b, n..., c), g and b (c,). (Ulyanov et al.,
    *Instance Normalization*, 2016.) Raises LayerError for fewer than three axes.
    """

    epsilon: float = 1e-5

    least = 3

    def _groups(self, c):
        return max(c, 1)

    def reference(self, params, x, /):
        axes = tuple(range(1, x.ndim - 1))
        m = jnp.mean(x, axes, keepdims=True)
        v = jnp.mean((x - m) ** 2, axes, keepdims=True)
        return (x - m) / jnp.sqrt(v + self.epsilon) * along(params["g"], x) + along(params["b"], x)


CASES = (
    Case(GroupNorm(1), *ANY),
    Case(GroupNorm(2), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(InstanceNorm(), f(2, 3, 5), f(2, 5, 3, 2)),
)
