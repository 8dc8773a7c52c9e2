"""Noise. The key is a buffer: `advance` moves it on, a checkpoint restores the run bit for bit."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import check_cotangent, floats, passed, take
from jbp.fields import Hint, Range
from jbp.keys import Keyed
from jbp.layers.activation.elementwise import ALPHA, LAMBDA
from jbp.numerics import Static, outline

_AXES = {"element": ("of any shape", 0), "channel": ("(batch, ..., channels)", 2), "example": ("(batch, ...)", 1)}


@dataclass(frozen=True)
class Dropout(Keyed):
    """y = x m / (1 − rate), m = 1 with probability 1 − rate, else 0.      dx = dy m / (1 − rate)

    `rate` is the probability to drop, in [0, 1). One m is drawn `per` element; with "channel" per example and channel,
    the last axis, for all places (PyTorch's Dropout1d, 2d and 3d, Keras's SpatialDropout); with "example" per example.
    Keeps the key, not the mask: the backward pass draws the mask again (Srivastava et al., *Dropout*, 2014). Buffer:
    the key, split by `advance`. `evaluation` gives DropoutInference. Shapes: x and y alike, any; (b, ..., c) per
    channel and (b, ...) per example. Raises LayerError for an x that is not floating.

    >>> layer, x = Dropout(0.5), jnp.ones(1000)
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, params = layer(params, x, has_aux=True)  # and the key of the next step
    >>> jnp.unique(y)
    Array([0., 2.], dtype=float32)
    >>> layer.evaluation()(params, x).mean()
    Array(1., dtype=float32)
    """

    rate: Annotated[float, Range(0, 1, open="high"), Hint("To drop one of ten write 0.1.")]
    per: Literal["element", "channel", "example"] = "element"

    @property
    def cuts(self):
        return {"element": ("between", "tokens"), "channel": ("between",), "example": ()}[self.per]

    def _mask(self, key, x):
        """m, in a shape that broadcasts to x's."""
        shape = {
            "element": x.shape,
            "channel": x.shape[:1] + (1,) * (x.ndim - 2) + x.shape[-1:],
            "example": x.shape[:1] + (1,) * (x.ndim - 1),
        }
        return jax.random.bernoulli(key, jnp.float32(1 - self.rate), shape[self.per])

    def _dropped(self, key, x):
        return jnp.where(self._mask(key, x), x / (1 - self.rate), 0) if self.rate else x

    def forward(self, params, x, /):
        axes, least = _AXES[self.per]
        (key,) = take(self, params, floats(self, x, axes, least).dtype, key=())
        return self._dropped(key, x), (key, Static(x.shape))

    def _kept(self, residuals, dy):
        """The key, after a check that dy has the shape of y: the mask is drawn in it."""
        key, shape = residuals
        check_cotangent(self, jax.ShapeDtypeStruct(shape.value, dy.dtype), dy)
        return key

    def backward(self, params, residuals, dy, /):
        return self._dropped(self._kept(residuals, dy), dy), ()

    def evaluation(self):
        return DropoutInference()


@dataclass(frozen=True)
class StochasticDepth(Dropout):
    """y = x m / (1 − rate), one m for each example: 1 with probability 1 − rate, else 0.      dx = dy m / (1 − rate)

    The end of a residual branch, which it leaves out for some of the examples: `Residual(Serial(f,
    StochasticDepth(0.1)))`. It is Dropout per example: keeps the key, advances it, and `evaluation` gives
    DropoutInference. (Huang et al., *Deep Networks with Stochastic Depth*, 2016, §3; here it is in training that the
    branch is scaled.) Shapes: x and y (b, ...).

    >>> net, x = Residual(Serial(Dense(3), StochasticDepth(0.5))), jnp.ones((2, 3))
    >>> y, params = net(net.init(jax.random.key(0), x), x, has_aux=True)  # and the key of the next step
    >>> y.shape
    (2, 3)
    """

    per: Literal["element", "channel", "example"] = "example"


@dataclass(frozen=True)
class AlphaDropout(Dropout):
    """y = a (x m − λα (1 − m)) + b, m = 1 with probability 1 − rate, else 0.      dx = a m dy

    What is dropped becomes −λα, the least value of SELU, and a = ((1 − rate) (1 + rate λ²α²))^-½, b = a rate λα keep
    mean 0 and variance 1. One m is drawn `per` element, channel or example as by Dropout; "channel" is PyTorch's
    FeatureAlphaDropout. Keeps the key, advances it, and `evaluation` gives DropoutInference. (Klambauer et al.,
    *Self-Normalizing Neural Networks*, 2017, §3.) Shapes: x and y alike, any.

    >>> layer, x = AlphaDropout(0.5), jnp.zeros(1000)
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, params = layer(params, x, has_aux=True)  # and the key of the next step
    >>> jnp.unique(y)
    Array([-0.779,  0.779], dtype=float32)
    """

    def _scale(self):
        return ((1 - self.rate) * (1 + self.rate * (LAMBDA * ALPHA) ** 2)) ** -0.5

    def _dropped(self, key, x):
        if not self.rate:
            return x
        a, b = self._scale(), self._scale() * self.rate * LAMBDA * ALPHA
        low = jnp.asarray(b - a * LAMBDA * ALPHA, x.dtype)
        return jnp.where(self._mask(key, x), a * x + jnp.asarray(b, x.dtype), low)

    def backward(self, params, residuals, dy, /):
        key = self._kept(residuals, dy)
        return jnp.where(self._mask(key, dy), self._scale() * dy, 0) if self.rate else dy, ()


@dataclass(frozen=True)
class DropoutInference(Keyed):
    """y = x.      dx = dy.  What Dropout is once training is over: it takes Dropout's key and leaves it alone.

    >>> layer, x = Dropout(0.5), jnp.array([1.0, 2.0])
    >>> layer.evaluation()
    DropoutInference()
    >>> layer.evaluation()(layer.init(jax.random.key(0), x), x)
    Array([1., 2.], dtype=float32)
    """

    still = True

    def forward(self, params, x, /):
        take(self, params, floats(self, x, "of any shape", least=0).dtype, key=())
        return x, outline(x)

    def backward(self, params, shape, dy, /):
        return passed(self, shape, dy), ()


CASES = (
    Case(Dropout(0.4, "channel"), f(3, 5), f(2, 3, 5)),
    Case(AlphaDropout(0.3), *ANY),
    Case(AlphaDropout(0.3, "channel"), f(2, 3, 5)),
    Case(Dropout(0.3), *ANY),
    Case(Dropout(0.0), f(3, 5)),
    Case(DropoutInference(), *ANY),
    Case(StochasticDepth(0.4), *ANY),
    Case(StochasticDepth(0.0), f(3, 5)),
)
