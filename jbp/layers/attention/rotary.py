"""Positions as rotations."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.fields import Positive
from jbp.layer import Layer
from jbp.numerics import Static, part_of, wide


def rotated(x: Any, base: float, sign: int = 1, first: Any = None) -> Any:
    """x (..., n, d) with each pair of features (i, i + d/2) turned by ± the angle p base^(−2 i / d) at place p.

    p counts from 0, or from `first`.
    """
    dtype, (n, d) = wide(x).dtype, x.shape[-2:]
    places = jnp.arange(n, dtype=dtype) if first is None else (first + jnp.arange(n, dtype=jnp.int32)).astype(dtype)
    angle = sign * places[:, None] * base ** (-2 * jnp.arange(d // 2, dtype=dtype) / d)[None]
    cos, sin = (jnp.expand_dims(f(angle), range(x.ndim - 2)) for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(wide(x), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


@dataclass(frozen=True)
class Rotary(Layer):
    """(y_i, y_{i+d/2}) = (x_i, x_{i+d/2}) turned by p base^(−2 i / d) at place p = 0, 1, ...      dx = dy turned back.

    The product of two such rows depends on their distance only; attention has it inside with `rotary=True`. Keeps x's
    shape only. Shapes: x and y (..., n, d), d even. (Su et al., *RoFormer*, 2021, §3.2.2; here a pair is half of the
    features apart.) Raises LayerError for an odd d.

    >>> Rotary()((), jnp.ones((1, 3, 2)))
    Array([[[ 1.   ,  1.   ],
            [-0.301,  1.382],
            [-1.325,  0.493]]], dtype=float32)
    """

    reads: ClassVar[Any] = (-2,)
    cuts: ClassVar[Any] = ("context",)
    base: Positive = 10000.0

    def context(self, over, count, /):
        return RotaryHere(self.base, over)

    def _first(self, x):
        """The place of the first position, None for 0."""

    def forward(self, params, x, /):
        if floats(self, x, "(..., n, features)", least=2).shape[-1] % 2:
            raise LayerError(
                self, f"got x {show(x)}; expected an even number of features. Choose a width that 2 divides."
            )
        return rotated(x, self.base, first=self._first(x)), Static(x.shape)

    def backward(self, params, residuals, dy, /):
        return rotated(dy, self.base, -1, self._first(dy)), ()

    def reference(self, params, x, /):
        """Pairs as complex numbers."""
        half, n = x.shape[-1] // 2, x.shape[-2]
        place, pair = jnp.arange(n, dtype=wide(x).dtype), jnp.arange(half, dtype=wide(x).dtype)
        turn = jnp.outer(place, jnp.power(self.base, -pair / half))
        x_ = wide(x)
        z = lax.complex(x_[..., :half], x_[..., half:])
        z = z * jnp.broadcast_to(lax.complex(jnp.cos(turn), jnp.sin(turn)), z.shape)
        return jnp.concatenate([z.real, z.imag], -1).astype(x.dtype)


@dataclass(frozen=True)
class RotaryHere(Rotary):
    """What a device along the axis `over` does of Rotary where each has its part of x's second axis."""

    cuts: ClassVar[Any] = ()
    over: str = ""

    def _first(self, x):
        return part_of(self.over, x)


CASES = (Case(Rotary(), f(3, 2), f(2, 5, 8), f(2, 1, 3, 2)),)
