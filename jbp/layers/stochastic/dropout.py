"""Noise. The key is a buffer: `advance` moves it on, a checkpoint restores the run bit for bit."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, take
from jbp.layer import Layer
from jbp.params import Buffer


@dataclass(frozen=True)
class Dropout(Layer):
    """y = x m / (1 − rate), m = 1 with probability 1 − rate, else 0.      dx = dy m / (1 − rate)

    Keeps the key, not the mask: the way back draws the mask again (Srivastava et al., *Dropout*, 2014). `rate` is the
    probability to drop, in [0, 1). Buffer: the key, split by `advance`. `evaluation` gives DropoutInference.
    Shapes: x and y alike, any. Raises LayerError for a rate out of range or an x that is not floating.
    """

    rate: float

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise LayerError(
                self,
                f"got rate {self.rate}; expected the probability to drop, 0 <= rate < 1. "
                "To keep nine of ten write Dropout(0.1).",
            )

    def init(self, key, x, /):
        return {"key": Buffer(key)}

    def _shape(self, x):
        """The mask's shape, which broadcasts to x's."""
        return x.shape

    def _dropped(self, key, x):
        if not self.rate:
            return x
        mask = jax.random.bernoulli(key, jnp.float32(1 - self.rate), self._shape(x))
        return jnp.where(mask, x / (1 - self.rate), 0)

    def forward(self, params, x, /):
        (key,) = take(self, params, floats(self, x, "of any shape", least=0).dtype, key=())
        return self._dropped(key, x), key

    def backward(self, params, key, dy, /):
        return self._dropped(key, dy), ()

    def gradient(self, residuals, delta, /):
        return {"key": None}

    def advance(self, params, residuals, /):
        return {"key": Buffer(jax.random.split(params["key"].value, 1)[0])}

    def evaluation(self):
        return DropoutInference()


@dataclass(frozen=True)
class StochasticDepth(Dropout):
    """y = x m / (1 − rate), one m for each example: 1 with probability 1 − rate, else 0.      dx = dy m / (1 − rate)

    The end of a residual branch, which it leaves out for some of the examples: `Residual(Serial(f,
    StochasticDepth(0.1)))`. Otherwise as Dropout: keeps the key, advances it, and `evaluation` gives DropoutInference.
    (Huang et al., *Deep Networks with Stochastic Depth*, 2016, §3; here it is in training that the branch is scaled.)
    Shapes: x and y (b, ...).
    """

    def _shape(self, x):
        return floats(self, x, "(batch, ...)").shape[:1] + (1,) * (x.ndim - 1)


@dataclass(frozen=True)
class DropoutInference(Layer):
    """y = x.      dx = dy.  What Dropout is once training is over: it takes Dropout's key and leaves it alone."""

    def init(self, key, x, /):
        return {"key": Buffer(key)}

    def forward(self, params, x, /):
        take(self, params, floats(self, x, "of any shape", least=0).dtype, key=())
        return x, ()

    def backward(self, params, residuals, dy, /):
        return dy, ()

    def gradient(self, residuals, delta, /):
        return {"key": None}


CASES = (
    Case(Dropout(0.3), *ANY),
    Case(Dropout(0.0), f(3, 5)),
    Case(DropoutInference(), *ANY),
    Case(StochasticDepth(0.4), *ANY),
    Case(StochasticDepth(0.0), f(3, 5)),
)
