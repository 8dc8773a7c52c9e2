"""Norms over groups of channels of one example.

m is the mean, v the variance (biased), s = (v + ε)^-½, x̂ = (x − m) s, ⟨·⟩ a mean.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats
from jbp.fields import Fraction, NonNegative, Size
from jbp.layers.norm.batch import Running
from jbp.layers.norm.features import Affine, error_below, statistics
from jbp.numerics import wide


class _Grouped(Affine):
    """Index key: x as (b, n..., groups, c / groups), m and s as (b, 1..., groups, 1)."""

    epsilon: float
    least: int

    def _groups(self, c):
        raise NotImplementedError

    def _checked(self, x):
        c = floats(self, x, f"(batch, {'n, ' * (self.least - 2)}..., channels)", least=self.least).shape[-1]
        groups = self._groups(c)
        if c % groups:
            raise LayerError(
                self,
                f"got {c} channels; expected a multiple of groups={groups}. Choose groups that divide the channels.",
            )
        return x

    def _apart(self, x, groups):
        return wide(x).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)

    def forward(self, params, x, /):
        scales, groups = self._split(params, self._checked(x)), self._groups(x.shape[-1])
        parts = self._apart(x, groups)
        m, s = statistics(parts, _axes(parts), self.epsilon)
        return self._scaled(scales, ((parts - m) * s).reshape(x.shape), x.dtype), (x, m, s)

    def backward(self, params, residuals, dy, /):
        x, m, s = residuals
        parts, (dx̂, delta) = self._apart(x, m.shape[-2]), self._above(params, dy)
        dx = error_below(self._apart(dx̂, m.shape[-2]), (parts - m) * s, s, _axes(parts))
        return dx.reshape(x.shape).astype(x.dtype), delta

    def _normalized(self, residuals):
        x, m, s = residuals
        return ((self._apart(x, m.shape[-2]) - m) * s).reshape(x.shape)


def _axes(parts):
    """Every axis but the batch and the group."""
    return (*range(1, parts.ndim - 2), parts.ndim - 1)


@dataclass(frozen=True)
class GroupNorm(_Grouped):
    """y = x̂ g + b with x̂ = (x − m) s, of one example over all places and the channels of one group.

        dx̂ = dy g      dx = s (dx̂ − ⟨dx̂⟩ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂      db = Σ dy

    m and v are mean and variance there, s = (v + ε)^-½, ⟨·⟩ a mean over the same. Without bias no b, without affine
    neither g nor b. Keeps x, m and s. Shapes: x and y (b, ..., c), g and b (c,). (Wu & He, *Group Normalization*, 2018,
    §3.) Raises LayerError for fewer than two axes, and if groups does not divide the channels.

    >>> x = jnp.array([[1.0, 3.0, 10.0, 20.0]])
    >>> params = GroupNorm(2).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'g': (4,)}
    >>> GroupNorm(2)(params, x)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    groups: Size
    epsilon: NonNegative = 1e-5
    affine: bool = True
    bias: bool = True

    least = 2

    def _groups(self, c):
        return self.groups

    def gradient(self, residuals, dy, /):
        return self._gradient(self._normalized(residuals), dy) or ()

    def reference(self, params, x, /):
        """Group by group, each a slice of the channels."""
        size, parts = x.shape[-1] // self.groups, []
        axes = tuple(range(1, x.ndim))
        for i in range(self.groups):
            part = x[..., i * size : (i + 1) * size]
            m = jnp.mean(part, axes, keepdims=True)
            v = jnp.mean((part - m) ** 2, axes, keepdims=True)
            parts.append((part - m) / jnp.sqrt(v + self.epsilon))
        return self._defined(params, jnp.concatenate(parts, -1))


@dataclass(frozen=True)
class InstanceNorm(_Grouped, Running):
    """y = x̂ g + b with x̂ = (x − m) s, of one example and channel over its places.

        dx̂ = dy g      dx = s (dx̂ − ⟨dx̂⟩ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂      db = Σ dy

    m and v are mean and variance there, s = (v + ε)^-½, ⟨·⟩ a mean over the same. Without bias no b, without affine
    neither g nor b, as PyTorch's has it if nothing is asked for. Keeps x, m and s. With `running` it has buffers as
    BatchNorm has, moved by the means of m and v over the examples, of all devices along `over` as there, and
    `evaluation` gives BatchNormInference; PyTorch's momentum is 1 − ours, its running variance the `unbiased`. Shapes:
    x and y (b, n..., c), g and b (c,). (Ulyanov et al., *Instance Normalization*, 2016.) Raises LayerError for fewer
    than three axes.

    >>> x = jnp.arange(12.0).reshape(1, 6, 2)
    >>> params = InstanceNorm().init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (2,), 'g': (2,)}
    >>> InstanceNorm()(params, x).shape
    (1, 6, 2)
    """

    epsilon: NonNegative = 1e-5
    affine: bool = True
    bias: bool = True
    running: bool = False
    momentum: Fraction | None = 0.9
    unbiased: bool = False
    over: tuple[str, ...] = ()

    @property
    def couples(self):
        return "its running statistics are those of the batch" if self.running else ""

    least = 3

    def _groups(self, c):
        return max(c, 1)

    def gradient(self, residuals, dy, /):
        return self._gradient(self._normalized(residuals), dy) | self._none() or ()

    def advance(self, params, residuals, /):
        x, m, s = residuals
        return self._moved(params, m, s, math.prod(x.shape[1:-1]) if x.size else 0)

    def reference(self, params, x, /):
        axes = tuple(range(1, x.ndim - 1))
        m = jnp.mean(x, axes, keepdims=True)
        v = jnp.mean((x - m) ** 2, axes, keepdims=True)
        return self._defined(params, (x - m) / jnp.sqrt(v + self.epsilon))


CASES = (
    Case(GroupNorm(1), *ANY),
    Case(GroupNorm(2), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(InstanceNorm(), f(2, 3, 5), f(2, 5, 3, 2)),
    Case(GroupNorm(2, bias=False), f(3, 8)),
    Case(GroupNorm(2, affine=False), f(3, 8)),
    Case(InstanceNorm(bias=False), f(2, 3, 5)),
    Case(InstanceNorm(affine=False), f(2, 3, 5)),
    Case(InstanceNorm(running=True, momentum=0.8), f(2, 3, 5)),
)
