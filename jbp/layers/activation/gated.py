"""Gates: y = a f(b) where x = (a|b) is split in two halves along an axis.

    da = dy f(b)      db = dy a f'(b)

Each keeps x. They take what a Dense(2 n) makes: `Serial(Dense(2 * n), SwiGLU(), Dense(n))`. (Dauphin et al., *Language
Modeling with Gated Convolutional Networks*, 2017, §2; Shazeer, *GLU Variants Improve Transformer*, 2020.)
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, show, take
from jbp.fields import Hint, Range, Size
from jbp.layer import Layer
from jbp.layers.activation.elementwise import GELU, Elementwise, GELUTanh, Sigmoid, SiLU
from jbp.layers.activation.piecewise import ReLU
from jbp.layers.linear.dense import Dense
from jbp.numerics import Static, along, wide


class Gated(Layer):
    sealed = True  # the activation is asked for its function and slope, which no layer in its place need have
    activation: Elementwise
    axis: int

    def _axis(self, x):
        axis = self.axis % x.ndim if -x.ndim <= self.axis < x.ndim else None
        if axis is None or x.shape[axis] % 2:
            raise LayerError(
                self,
                f"got x {show(x)}; expected an even size on axis {self.axis}, to be split in two halves. "
                "Put a Dense(2 * n) before.",
            )
        return axis

    def _halves(self, x):
        return (wide(half) for half in jnp.split(x, 2, self._axis(x)))

    def forward(self, params, x, /):
        a, b = self._halves(floats(self, x, "(..., 2 n)"))
        return (a * self.activation.f(b)).astype(x.dtype), x

    def backward(self, params, x, dy, /):
        (a, b), d, f = self._halves(x), wide(dy), self.activation
        slope = f.df(b if f.keeps == "x" else f.f(b))
        halves = (d * f.f(b)).astype(dy.dtype), (d * a * slope).astype(dy.dtype)
        return jnp.stack(halves, self._axis(x)).reshape(x.shape), ()  # a concatenation would write both down first

    def reference(self, params, x, /):
        a, b = jnp.split(x, 2, self.axis)
        return a * self.activation.definition(b)


@dataclass(frozen=True)
class GLU(Gated):
    """y = a σ(b) with x = (a|b).      da = dy σ(b)      db = dy a σ(b) (1 − σ(b))

    Keeps x. Shapes: x (..., 2 n), y (..., n), or so on another `axis`. Raises LayerError for an odd size.

    >>> GLU()((), jnp.array([1.0, 2.0, 0.0, -1.0]))
    Array([0.5  , 0.538], dtype=float32)
    """

    axis: int = -1

    activation = Sigmoid()


@dataclass(frozen=True)
class ReGLU(Gated):
    """y = a max(b, 0) with x = (a|b).      da = dy max(b, 0)      db = dy a where b > 0, else 0

    Keeps x. Shapes: x (..., 2 n), y (..., n), or so on another `axis`. Raises LayerError for an odd size.

    >>> ReGLU()((), jnp.array([1.0, 2.0, 0.0, -1.0]))
    Array([0., 0.], dtype=float32)
    """

    axis: int = -1

    activation = ReLU()


@dataclass(frozen=True)
class SwiGLU(Gated):
    """y = a b σ(b) with x = (a|b).      da = dy b σ(b)      db = dy a f'(b), f' the slope of SiLU

    Keeps x. Shapes: x (..., 2 n), y (..., n), or so on another `axis`. Raises LayerError for an odd size.

    >>> SwiGLU()((), jnp.array([1.0, 2.0, 0.0, -1.0]))
    Array([ 0.   , -0.538], dtype=float32)
    """

    axis: int = -1

    activation = SiLU()


@dataclass(frozen=True)
class GEGLU(Gated):
    """y = a b Φ(b) with x = (a|b), Φ the normal distribution.      da = dy b Φ(b)      db = dy a (Φ(b) + b Φ'(b))

    Keeps x. Shapes: x (..., 2 n), y (..., n), or so on another `axis`. Raises LayerError for an odd size.

    >>> GEGLU()((), jnp.array([1.0, 2.0, 0.0, -1.0]))
    Array([ 0.   , -0.317], dtype=float32)
    """

    axis: int = -1

    activation = GELU()


@dataclass(frozen=True)
class Gate(Gated):
    """y = a f(b) with x = (a|b), f any elementwise `activation`.      da = dy f(b)      db = dy a f'(b)

    `Gate(GELUTanh())`. Keeps x. Shapes: x (..., 2 n), y (..., n), or so on another `axis`. Raises LayerError for an odd
    size.

    >>> Gate(Tanh())((), jnp.array([1.0, 2.0, 0.0, -1.0]))
    Array([ 0.   , -1.523], dtype=float32)
    """

    activation: Elementwise
    axis: int = -1


_SILU = SiLU()


@dataclass(frozen=True)
class GatedDense(Layer):
    """y = a f(b) with (a|b) = z = x W + c: two affine maps, of which one is the gate of the other.

        da = dy f(b)      db = dy a f'(b)      dz = (da|db)      dx = dz Wᵀ      dW = xᵀ dz      dc = Σ dz

    The first half of a transformer's feed-forward block: `Serial(GatedDense(4 * n), Dense(n))`, gated by SiLU if
    nothing else is asked for. delta is dz. Keeps x and z. Shapes: x (..., i), W (i, 2, o), c (2, o), y (..., o).
    (Shazeer, *GLU Variants Improve Transformer*, 2020.) Raises LayerError as Dense does.

    >>> x = jnp.ones((2, 5))
    >>> params = GatedDense(3).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (2, 3), 'w': (5, 2, 3)}
    >>> GatedDense(3)(params, x).shape
    (2, 3)
    """

    sealed = True
    cuts: ClassVar[Any] = "first", "tokens"
    features: Size
    activation: Elementwise = _SILU
    bias: bool = True

    def part(self, count, x=None, /):
        return None if self.features % count else replace(self, features=self.features // count)

    def _parts(self):
        return Dense(2 * self.features, self.bias), Gate(self.activation)

    def _two(self, flat):
        return {name: p.reshape(*p.shape[:-1], 2, self.features) for name, p in flat.items()}

    def _flat(self, params):
        return {name: p.reshape(*p.shape[:-2], 2 * self.features) for name, p in params.items()}

    def init(self, key, x, /):
        return self._two(self._parts()[0].init(key, x))

    def forward(self, params, x, /):
        dense, gate = self._parts()
        shapes = {"w": (floats(self, x, "(..., features)").shape[-1], 2, self.features), "b": (2, self.features)}
        take(self, params, x.dtype, **(shapes if self.bias else {"w": shapes["w"]}))
        z, _ = dense.forward(self._flat(params), x)
        return gate.forward((), z)[0], (x, z)

    def backward(self, params, residuals, dy, /):
        dense, gate = self._parts()
        x, z = residuals
        return dense.backward(self._flat(params), x, gate.backward((), z, dy)[0])

    def gradient(self, residuals, dz, /):
        return self._two(self._parts()[0].gradient(residuals[0], dz))

    def reference(self, params, x, /):
        a, b = (x @ params["w"][:, k] + (along(params["b"][k], x) if self.bias else 0) for k in range(2))
        return a * self.activation.definition(b)


@dataclass(frozen=True)
class Maxout(Layer):
    """y_j = max_k x[j·pieces + k] over `pieces` neighbours in the last axis.      dx = dy at the maximum, else 0

    Of equal values the first is the maximum. Keeps one byte an output: the place of the maximum. Shapes: x (..., n
    pieces), y (..., n). Put a Dense(n * pieces) before it. (Goodfellow et al., *Maxout Networks*, 2013, §2.) Raises
    LayerError if pieces does not divide the last size, and for more than 256 pieces.

    >>> Maxout()((), jnp.array([1.0, 3.0, 0.0, -1.0]))
    Array([3., 0.], dtype=float32)
    """

    pieces: Annotated[int, Range(1, 256), Hint("Use fewer pieces: their places are kept in one byte.")] = 2

    def forward(self, params, x, /):
        if floats(self, x, "(..., n pieces)").shape[-1] % self.pieces:
            raise LayerError(
                self,
                f"got x {show(x)}; expected a last size that is a multiple of {self.pieces}. "
                f"Put a Dense(n * {self.pieces}) before.",
            )
        parts = x.reshape(*x.shape[:-1], x.shape[-1] // self.pieces, self.pieces)
        y, place = parts[..., 0], jnp.zeros(parts.shape[:-1], jnp.uint8)
        for k in range(1, self.pieces):  # faster than `taken`, and by no maximum that would be differentiated
            piece = parts[..., k]
            more = (piece > y) | (jnp.isnan(piece) & ~jnp.isnan(y))
            y, place = jnp.where(more, piece, y), jnp.where(more, jnp.uint8(k), place)
        return y, (place, Static(x.shape))

    def backward(self, params, residuals, dy, /):
        place, shape = residuals
        k = lax.broadcasted_iota(jnp.uint8, (*place.shape, self.pieces), place.ndim)
        return jnp.where(place[..., None] == k, dy[..., None], 0).reshape(shape.value), ()

    def reference(self, params, x, /):
        """One piece after the other; a later one wins only where it is larger."""
        y = x[..., :: self.pieces]
        for k in range(1, self.pieces):
            piece = x[..., k :: self.pieces]
            y = jnp.where(piece > y, piece, y)
        return y


CASES = (
    Case(GLU(axis=1), f(2, 4, 3), f(3, 2)),
    Case(Gate(GELUTanh()), f(3, 8)),
    Case(GatedDense(3), *ANY),
    Case(GatedDense(2, GELU(), bias=False), f(3, 5)),
    *(Case(gate(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)) for gate in (GLU, ReGLU, SwiGLU, GEGLU)),
    Case(Maxout(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(Maxout(3), f(2, 3)),
)
