"""Credit without any derivative: try other weights, and go where the loss was lower."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.combinators.sequence import Serial
from jbp.credit.rule import Rule, mapped, normal_like
from jbp.errors import at
from jbp.fields import Positive, Size
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Tanh
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.layers.recurrent.lstm import LSTM
from jbp.numerics import is_float, scan, wide
from jbp.params import Buffer, buffers, merge, trainable


@dataclass(frozen=True)
class EvolutionStrategy(Rule):
    """y = f(θ, x).      dθ = Σ_k ε_k ⟨dy, f(θ + σ ε_k, x) − f(θ − σ ε_k, x)⟩ / 2σK, ε_k normal      dx = f's own

    K is the number of `pairs`, each of weights on both sides of θ, one pair after the other; σ is `scale`. The mean of
    dθ over the noise is the gradient of ⟨dy, f⟩ smoothed by it, so for a small σ that of the loss; of its length ‖dθ‖²
    about 1 + n / K is noise, with n weights. Around a network it takes the loss as linear about y. Around network and
    loss together dy is 1, and it is the strategy itself, for losses without a derivative too:
    `EvolutionStrategy(Serial(Parallel(net, Identity()), loss))` of (x, target), with Add() for its loss.

    delta is dθ. Keeps x and what f keeps, for dx. Parameters: {"layer": θ, "feedback": Buffer(key)}, a key that
    `advance` splits. (Salimans et al., *Evolution Strategies as a Scalable Alternative to Reinforcement Learning*,
    2017; in pairs: Brockhoff et al., *Mirrored Sampling and Sequential Selection for Evolution Strategies*, 2010.)

    >>> net, x = EvolutionStrategy(Dense(1), pairs=1000), jnp.ones((1, 2))
    >>> params = net.init(jax.random.key(0), x)
    >>> _, grads = net.pull(params, net.forward(params, x)[1], jnp.ones((1, 1)))
    >>> bool(abs(grads["layer"]["w"] - 1).max() < 0.2)
    True
    """

    layer: Layer
    pairs: Size = 32
    scale: Positive = 0.02

    @property
    def advances(self) -> bool:
        return True

    def init(self, key, x, /):
        forward, feedback = jax.random.split(key)
        with at(self):
            return {"layer": self.layer.init(forward, x), "feedback": Buffer(feedback)}

    def forward(self, params, x, /):
        y, kept = super().forward(params, x)
        return y, (kept, x)

    def _kept(self, residuals):
        return residuals[0]

    def backward(self, params, residuals, dy, /):
        own, key = self._own(params)
        trained, fixed, x = trainable(own), buffers(own), residuals[1]

        def product(weights):
            """⟨dy, y⟩"""
            y = jax.tree.leaves(self.layer.forward(merge(weights, fixed), x)[0])
            return sum((wide(a) * wide(d)).sum() for a, d in zip(filter(is_float, y), jax.tree.leaves(dy), strict=True))

        def step(total, k):
            noise = normal_like(jax.random.fold_in(key.value, k), trained)
            up, down = (jax.tree.map(lambda w, e, s=s: w + s * e, trained, noise) for s in (self.scale, -self.scale))
            gain = (product(up) - product(down)) / (2 * self.scale * self.pairs)
            return jax.tree.map(lambda t, e: t + (gain * wide(e)).astype(t.dtype), total, noise), None

        with at(self):
            dx, _ = self.layer.backward(own, residuals[0], dy)
            grads, _ = scan(step, mapped(lambda _, w: jnp.zeros_like(w), trained), jnp.arange(self.pairs))
        return dx, grads

    def gradient(self, residuals, delta, /):
        return self._whole(delta)

    def advance(self, params, residuals, /):
        moved = super().advance(params, residuals)
        return moved | {"feedback": Buffer(jax.random.split(params["feedback"].value, 1)[0])}


CASES = (
    Case(EvolutionStrategy(Dense(3), 3), f(3, 5)),
    Case(EvolutionStrategy(Serial(Conv(2), Tanh()), 2, 0.1), f(2, 5, 3, 2)),
    Case(EvolutionStrategy(LSTM(2), 2), f(2, 4, 3)),
)
