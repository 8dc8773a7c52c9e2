"""Steps whose true gradient is zero or not wanted: the backward pass is that of something else, and says so."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case, f
from jbp.errors import floats, passed, take
from jbp.fields import Hint, Range
from jbp.keys import Keyed
from jbp.layer import Estimator
from jbp.numerics import outline, softmax, wide, wide_dtype


@dataclass(frozen=True)
class StraightThroughRound(Estimator):
    """y = x rounded, a half to the even side.      dx = dy, as if y were x

    Keeps nothing. Shapes: x and y alike, any. (Bengio et al., *Estimating or Propagating Gradients Through Stochastic
    Neurons*, 2013, §4.) Raises LayerError for an x that is not floating.

    >>> x = jnp.array([0.2, 1.7])
    >>> StraightThroughRound()((), x)
    Array([0., 2.], dtype=float32)
    >>> jax.grad(lambda x: StraightThroughRound()((), x)[0])(x)
    Array([1., 0.], dtype=float32)
    """

    def forward(self, params, x, /):
        return jnp.round(floats(self, x, "of any shape", least=0)), outline(x)

    def backward(self, params, shape, dy, /):
        return passed(self, shape, dy), ()


@dataclass(frozen=True)
class StraightThroughSign(Estimator):
    """y = 1 where x >= 0, else −1.      dx = dy where |x| <= 1, else 0, as if y were HardTanh of x

    Keeps x. Shapes: x and y alike, any. (Hubara et al., *Binarized Neural Networks*, 2016, §2.3.) Raises LayerError for
    an x that is not floating.

    >>> x = jnp.array([-0.2, 1.7])
    >>> StraightThroughSign()((), x)
    Array([-1.,  1.], dtype=float32)
    >>> jax.grad(lambda x: StraightThroughSign()((), x)[0])(x)
    Array([1., 0.], dtype=float32)
    """

    def forward(self, params, x, /):
        return jnp.where(floats(self, x, "of any shape", least=0) >= 0, 1, -1).astype(x.dtype), x

    def backward(self, params, x, dy, /):
        return jnp.where(jnp.abs(x) <= 1, dy, 0), ()


@dataclass(frozen=True)
class StraightThroughOneHot(Estimator):
    """y = 1 at the greatest of the last axis, the first of equals, else 0.      dx = dy, as if y were x

    `Serial(GumbelSoftmax(), StraightThroughOneHot())` draws one of n and passes on the error of the soft draw (Jang et
    al., *Categorical Reparameterization with Gumbel-Softmax*, 2017, §2.2). Keeps nothing. Shapes: x and y (..., n).
    Raises LayerError for a scalar or an x that is not floating.

    >>> x = jnp.array([0.2, 0.5, 0.3])
    >>> StraightThroughOneHot()((), x)
    Array([0., 1., 0.], dtype=float32)
    >>> jax.grad(lambda x: StraightThroughOneHot()((), x)[0])(x)
    Array([1., 0., 0.], dtype=float32)
    """

    def forward(self, params, x, /):
        best = floats(self, x, "(..., n)").argmax(-1, keepdims=True)
        return (jax.lax.broadcasted_iota(best.dtype, x.shape, x.ndim - 1) == best).astype(x.dtype), outline(x)

    def backward(self, params, shape, dy, /):
        return passed(self, shape, dy), ()


@dataclass(frozen=True)
class GradientReversal(Estimator):
    """y = x.      dx = −λ dy: what is below learns to do worse what is above learns to do. λ is `scale`.

    Keeps nothing. Shapes: x and y alike, any. (Ganin & Lempitsky, *Unsupervised Domain Adaptation by Backpropagation*,
    2015, §3.2.) Raises LayerError for an x that is not floating.

    >>> x = jnp.array([1.0, 2.0])
    >>> GradientReversal()((), x)
    Array([1., 2.], dtype=float32)
    >>> jax.grad(lambda x: GradientReversal(0.5)((), x).sum())(x)
    Array([-0.5, -0.5], dtype=float32)
    """

    scale: float = 1.0

    def forward(self, params, x, /):
        return floats(self, x, "of any shape", least=0), outline(x)

    def backward(self, params, shape, dy, /):
        return -self.scale * passed(self, shape, dy), ()


@dataclass(frozen=True)
class GumbelSoftmaxInference(Keyed):
    """y = softmax(x / τ).      dx = y (dy − Σ dy y) / τ.  What GumbelSoftmax is once training is over: no noise.

    Keeps y. Takes GumbelSoftmax's key and leaves it alone.

    >>> layer, x = GumbelSoftmax(0.5), jnp.array([0.0, 1.0])
    >>> layer.evaluation()
    GumbelSoftmaxInference(temperature=0.5)
    >>> layer.evaluation()(layer.init(jax.random.key(0), x), x)
    Array([0.119, 0.881], dtype=float32)
    """

    still = True

    temperature: Annotated[
        float, Range(0, open="low"), Hint("For a draw that is hard put a StraightThroughOneHot after it.")
    ] = 1.0

    def _scores(self, key, x):
        return wide(x)

    def forward(self, params, x, /):
        (key,) = take(self, params, floats(self, x, "(..., n)").dtype, key=())
        z = self._scores(key, x) / self.temperature
        y = softmax(z, -1).astype(x.dtype)
        return y, y

    def backward(self, params, y, dy, /):
        p, d = wide(y), wide(dy)
        return (p * (d - (d * p).sum(-1, keepdims=True)) / self.temperature).astype(dy.dtype), ()

    def reference(self, params, x, /):
        z = self._scores(params["key"].value, x).astype(x.dtype) / self.temperature
        e = jnp.exp(z - jax.lax.stop_gradient(jnp.max(z, -1, keepdims=True)))
        return e / jnp.sum(e, -1, keepdims=True)


@dataclass(frozen=True)
class GumbelSoftmax(GumbelSoftmaxInference):
    """y = softmax((x + g) / τ), g standard Gumbel noise: a soft draw of one of n, with probabilities softmax x.

        dx = y (dy − Σ dy y) / τ

    The gradient is exact. As the temperature τ falls y nears a one-hot draw; for one that is there put a
    StraightThroughOneHot after it. Keeps y. Buffer: the key, split by `advance`. `evaluation` gives
    GumbelSoftmaxInference. Shapes: x and y (..., n). (Jang et al., *Categorical Reparameterization with
    Gumbel-Softmax*, 2017, §2.) Raises LayerError for a τ that is not positive, a scalar or an x that is not floating.

    >>> layer, x = GumbelSoftmax(0.5), jnp.zeros((2, 3))
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, params = layer(params, x, has_aux=True)  # and the key of the next step
    >>> y.sum(-1)
    Array([1., 1.], dtype=float32)
    """

    still = False

    def _scores(self, key, x):
        # the same draw in every dtype: the bits in float32, the logarithms in x's
        u = jax.random.uniform(key, x.shape, jnp.float32, jnp.finfo(jnp.float32).tiny).astype(wide_dtype(x.dtype))
        return wide(x) - jnp.log(-jnp.log(u))

    def evaluation(self):
        return GumbelSoftmaxInference(self.temperature)


CASES = (
    Case(GumbelSoftmax(), *ANY),
    Case(GumbelSoftmax(0.5), f(2, 3)),
    Case(GumbelSoftmaxInference(0.5), *ANY),
    Case(StraightThroughRound(), *ANY),
    Case(StraightThroughSign(), *ANY),
    Case(StraightThroughOneHot(), *ANY),
    Case(GradientReversal(), *ANY),
    Case(GradientReversal(0.3), f(3, 5)),
)
