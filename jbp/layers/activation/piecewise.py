"""Elementwise functions in pieces. At a kink the slope is the one that the docstring says, of definitions too."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, take
from jbp.fields import NonNegative
from jbp.keys import Keyed
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Elementwise
from jbp.numerics import along, leading, wide


def _inside(x, low, high):
    return ((x > low) & (x < high)).astype(x.dtype)


def _constant(value, x):
    return jnp.full_like(x, value)


@dataclass(frozen=True)
class ReLU(Elementwise):
    """y = max(x, 0).      dx = dy for x > 0, else 0.      Keeps y.

    >>> ReLU()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([0., 0., 0., 1.], dtype=float32)
    """

    keeps = "y"

    def f(self, x):
        return jnp.maximum(x, 0)

    def df(self, kept):
        return (kept > 0).astype(kept.dtype)

    def definition(self, x):
        return jnp.where(x > 0, x, 0)


@dataclass(frozen=True)
class LeakyReLU(Elementwise):
    """y = x for x > 0, else a x, a the `slope`.      dx = dy for x > 0, else a dy.      Keeps y.

    >>> LeakyReLU()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-0.02 , -0.005,  0.   ,  1.   ], dtype=float32)
    """

    slope: NonNegative = 0.01
    keeps = "y"

    def f(self, x):
        below = self.slope * x if self.slope else _constant(0, x)  # 0 · ∞
        return jnp.where(x > 0, x, below)

    def df(self, kept):
        return jnp.where(kept > 0, 1, self.slope).astype(kept.dtype)

    def definition(self, x):
        return jnp.where(x > 0, x, self.slope * x)


@dataclass(frozen=True)
class HardTanh(Elementwise):
    """y = min(max(x, low), high).      dx = dy for low < x < high, else 0.

    Keeps x: the y of a bound that is rounded, 0.7 in bfloat16, lies inside.

    >>> HardTanh(low=0.0)((), jnp.array([-2.0, 0.5, 3.0]))
    Array([0. , 0.5, 1. ], dtype=float32)
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.low < self.high:
            raise LayerError(self, f"got low={self.low} and high={self.high}; expected low < high. Exchange them.")

    def f(self, x):
        return jnp.clip(x, self.low, self.high)

    def df(self, kept):
        return _inside(kept, self.low, self.high)

    def definition(self, x):
        outside = jnp.where(x >= self.high, _constant(self.high, x), _constant(self.low, x))
        return jnp.where((x > self.low) & (x < self.high), x, outside)


@dataclass(frozen=True)
class ReLU6(Elementwise):
    """y = min(max(x, 0), 6).      dx = dy for 0 < x < 6, else 0.      Keeps y.

    >>> ReLU6()((), jnp.array([-2.0, 3.0, 9.0]))
    Array([0., 3., 6.], dtype=float32)
    """

    keeps = "y"

    def f(self, x):
        return jnp.clip(x, 0, 6)

    def df(self, kept):
        return _inside(kept, 0, 6)

    def definition(self, x):
        return jnp.where((x > 0) & (x < 6), x, jnp.where(x >= 6, _constant(6, x), _constant(0, x)))


@dataclass(frozen=True)
class ReLU2(Elementwise):
    """y = max(x, 0)².      dx = 2 max(x, 0) dy.      Keeps x.  (So et al., *Primer*, 2021.)

    >>> ReLU2()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([0., 0., 0., 1.], dtype=float32)
    """

    def f(self, x):
        return jnp.square(jnp.maximum(x, 0))

    def df(self, kept):
        return 2 * jnp.maximum(kept, 0)

    def definition(self, x):
        return jnp.where(x > 0, x * x, 0)


@dataclass(frozen=True)
class HardSigmoid(Elementwise):
    """y = min(max(x / 6 + ½, 0), 1).      dx = dy / 6 for |x| < 3, else 0.      Keeps x.

    >>> HardSigmoid()((), jnp.array([-4.0, 0.0, 1.5]))
    Array([0.  , 0.5 , 0.75], dtype=float32)
    """

    def f(self, x):
        return jnp.clip(x / 6 + 0.5, 0, 1)

    def df(self, kept):
        return _inside(kept, -3, 3) / 6

    def definition(self, x):
        return jnp.where(jnp.abs(x) < 3, (x + 3) / 6, (x > 0).astype(x.dtype))


@dataclass(frozen=True)
class HardSwish(Elementwise):
    """y = x min(max(x / 6 + ½, 0), 1).      dx = (x / 3 + ½) dy for |x| < 3, 0 below, dy above.      Keeps x.

    The slope is 0 at −3 and 1 at 3. (Howard et al., *MobileNetV3*, 2019.)

    >>> HardSwish()((), jnp.array([-4.0, 0.0, 1.5, 4.0]))
    Array([-0.   ,  0.   ,  1.125,  4.   ], dtype=float32)
    """

    def f(self, x):
        return jnp.maximum(x, -3) * jnp.clip(x / 6 + 0.5, 0, 1)

    def df(self, kept):
        return jnp.where(jnp.abs(kept) < 3, kept / 3 + 0.5, (kept > 0).astype(kept.dtype))

    def definition(self, x):
        return jnp.where(jnp.abs(x) < 3, x * (x + 3) / 6, jnp.where(x > 0, x, 0))


@dataclass(frozen=True)
class HardShrink(Elementwise):
    """y = x for |x| > λ, else 0, λ the `threshold`.      dx = dy for |x| > λ, else 0.      Keeps y.

    >>> HardShrink()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-2.,  0.,  0.,  1.], dtype=float32)
    """

    threshold: NonNegative = 0.5
    keeps = "y"

    def f(self, x):
        return jnp.where(jnp.abs(x) > self.threshold, x, 0)

    def df(self, kept):
        return (kept != 0).astype(kept.dtype)


@dataclass(frozen=True)
class SoftShrink(Elementwise):
    """y = x − λ for x > λ, x + λ for x < −λ, else 0, λ the `threshold`.      dx = dy for |x| > λ, else 0.

    Keeps x.

    >>> SoftShrink()((), jnp.array([-2.0, -0.5, 0.0, 1.0]))
    Array([-1.5,  0. ,  0. ,  0.5], dtype=float32)
    """

    threshold: NonNegative = 0.5

    def f(self, x):
        return x - jnp.clip(x, -self.threshold, self.threshold)

    def df(self, kept):
        return (jnp.abs(kept) > self.threshold).astype(kept.dtype)

    def definition(self, x):
        nothing = jnp.where(x < -self.threshold, x + self.threshold, 0)
        return jnp.where(x > self.threshold, x - self.threshold, nothing)


@dataclass(frozen=True)
class Threshold(Elementwise):
    """y = x for x > threshold, else value.      dx = dy for x > threshold, else 0.      Keeps x.

    >>> Threshold(1.0, value=-1.0)((), jnp.array([0.0, 1.0, 2.0]))
    Array([-1., -1.,  2.], dtype=float32)
    """

    threshold: float = 0.0
    value: float = 0.0

    def f(self, x):
        return jnp.where(x > self.threshold, x, _constant(self.value, x))

    def df(self, kept):
        return (kept > self.threshold).astype(kept.dtype)


@dataclass(frozen=True)
class PReLU(Layer):
    """y = x for x > 0, else a x.      dx = dy for x > 0, else a dy      da = Σ dy x over the places where x <= 0

    Keeps x. Shapes: x and y (..., f), a (f,), or () with `shared`, one slope for all. a starts at `slope`. PyTorch's
    and Flax's PReLU have one slope, which starts at 0.25 and at 0.01; Keras's has one for each element, from 0. (He et
    al., *Delving Deep into Rectifiers*, 2015, §2.1.) Raises LayerError for a scalar or an x that is not floating.

    >>> x = jnp.array([[-2.0, 4.0]])
    >>> params = PReLU().init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'a': (2,)}
    >>> PReLU()(params, x)
    Array([[-0.5,  4. ]], dtype=float32)
    """

    cuts: ClassVar[Any] = "between", "tokens"
    shared: bool = False
    slope: float = 0.25

    def _shape(self, x):
        return floats(self, x, "(..., features)").shape[-1:] if not self.shared else ()

    def init(self, key, x, /):
        return {"a": jnp.full(self._shape(x), self.slope, floats(self, x, "of any shape", least=0).dtype)}

    def forward(self, params, x, /):
        floats(self, x, "of any shape", least=0)
        (a,) = take(self, params, x.dtype, a=self._shape(x))
        return jnp.where(x > 0, x, self._slopes(a, x) * x), x

    def backward(self, params, x, dy, /):
        return jnp.where(x > 0, dy, self._slopes(params["a"], x) * dy), dy.astype(params["a"].dtype)

    def gradient(self, x, dy, /):
        below = jnp.where(x > 0, 0, wide(dy) * wide(x).astype(wide(dy).dtype))
        return {"a": below.sum(None if self.shared else leading(dy)).astype(dy.dtype)}

    def _slopes(self, a, x):
        return a.astype(x.dtype) if self.shared else along(a.astype(x.dtype), x)

    def reference(self, params, x, /):
        a = params["a"] if self.shared else along(params["a"], x)
        return jnp.where(x > 0, x, x * jnp.broadcast_to(a, x.shape))


@dataclass(frozen=True)
class RReLU(Keyed):
    """y = x for x > 0, else a x, a drawn for each element between low and high.      dx = dy for x > 0, else a dy

    Keeps y and the key: the slopes are drawn again. Buffer: the key, split by `advance`. `evaluation` gives one whose
    slopes are all in the middle, which draws nothing. Shapes: x and y alike, any. (Xu et al., *Empirical Evaluation of
    Rectified Activations*, 2015, §2.4.) Raises LayerError for low > high or an x that is not floating.

    >>> x = jnp.array([-1.0, 2.0])
    >>> params = RReLU().init(jax.random.key(0), x)
    >>> RReLU().evaluation()(params, x)
    Array([-0.229,  2.   ], dtype=float32)
    """

    cuts: ClassVar[Any] = "between", "tokens"
    low: NonNegative = 1 / 8
    high: NonNegative = 1 / 3

    def __post_init__(self):
        super().__post_init__()
        if self.low > self.high:
            raise LayerError(self, f"got low={self.low} and high={self.high}; expected low <= high. Exchange them.")

    @property
    def still(self):
        return self.low == self.high

    def _slopes(self, key, x):
        if not self.advances:
            return _constant(self.low, x)
        # the bits in float32, which every program draws alike, the arithmetic in x's dtype
        u = jax.random.uniform(key, x.shape, jnp.float32).astype(x.dtype)
        return self.low + (self.high - self.low) * u

    def forward(self, params, x, /):
        (key,) = take(self, params, floats(self, x, "of any shape", least=0).dtype, key=())
        y = jnp.where(x > 0, x, self._slopes(key, x) * x)
        return y, (y, key)

    def backward(self, params, residuals, dy, /):
        y, key = residuals
        return jnp.where(y > 0, dy, self._slopes(key, dy) * dy), ()

    def evaluation(self):
        middle = (self.low + self.high) / 2
        return RReLU(middle, middle)

    def reference(self, params, x, /):
        return jnp.where(x > 0, x, x * self._slopes(params["key"].value, x))


CASES = (
    *(Case(row, *ANY) for row in (ReLU(), LeakyReLU(), ReLU6(), HardTanh(), HardSigmoid(), HardSwish(), ReLU2())),
    *(Case(row, *ANY) for row in (HardShrink(), SoftShrink(), Threshold(), PReLU(), RReLU())),
    Case(LeakyReLU(0.3), f(3, 5)),
    Case(HardTanh(-0.2, 0.7), *ANY),
    Case(HardShrink(0.0), f(3, 5)),
    Case(Threshold(0.4, -2.0), f(3, 5)),
    Case(PReLU(shared=True, slope=0.1), *ANY),
    Case(RReLU(0.2, 0.2), f(3, 5)),
)
