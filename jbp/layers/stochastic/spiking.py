"""Neurons that say nothing, or one spike. A threshold has the derivative 0: a slope is put in its place."""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import floats, take
from jbp.fields import Inside, Positive
from jbp.layer import Estimator
from jbp.numerics import Static, scan, time_first, wide, wide_dtype

# σ(z), z the distance to the threshold times the sharpness: 1 at the threshold, less away from it
SURROGATES = {
    "superspike": lambda z: 1 / jnp.square(1 + jnp.abs(z)),  # Zenke & Ganguli, *SuperSpike*, 2018, §3.3
    "arctan": lambda z: 1 / (1 + jnp.square(z)),  # Fang et al., *Learnable Membrane Time Constant*, 2021, §4
    "triangle": lambda z: jnp.maximum(0, 1 - jnp.abs(z)),  # Bellec et al., *Long Short-Term Memory in ...*, 2018, §2
    "boxcar": lambda z: (jnp.abs(z) <= 1).astype(z.dtype),  # the straight-through estimator with a window
}


@dataclass(frozen=True)
class LeakyIntegrateAndFire(Estimator):
    """u_t = λ u_{t−1} + x_t − θ s_{t−1}, s_t = 1 where u_t > θ, else 0; y = s.  λ the leak, θ the threshold, u_0 = 0.

        e_t = dy_t − θ g_{t+1}      g_t = λ g_{t+1} + e_t σ(κ (u_t − θ))      dx = g      dλ = Σ g_t u_{t−1}

    Backpropagation through time but for one place: σ, the `surrogate` of `sharpness` κ, stands for the slope of the
    step. The true gradient is 0. With `learn` each neuron has a leak of its own, λ = 1 / (1 + e^{−a}), that begins at
    `leak`; then da = dλ λ (1 − λ), and delta is g λ (1 − λ). Keeps u. Shapes: x, u, y (b, t, n), a (n,).
    (Neftci et al., *Surrogate Gradient Learning in Spiking Neural Networks*, 2019.) Raises LayerError for another rank,
    for a leak outside of (0, 1), a threshold or a sharpness that is not positive, and an unknown surrogate.

    >>> layer, x = LeakyIntegrateAndFire(), jnp.full((1, 6, 1), 0.5)
    >>> layer(layer.init(jax.random.key(0), x), x)[0, :, 0]
    Array([0., 0., 1., 0., 1., 0.], dtype=float32)
    """

    leak: Inside = 0.9
    threshold: Positive = 1.0
    surrogate: Literal["superspike", "arctan", "triangle", "boxcar"] = "superspike"
    sharpness: Positive = 2.0
    learn: bool = False

    def init(self, key, x, /):
        n = floats(self, x, "(batch, time, neurons)", rank=3).shape[-1]
        return {"a": jnp.full(n, math.log(self.leak / (1 - self.leak)), x.dtype)} if self.learn else ()

    def _leak(self, params, dtype):
        """λ: (1, n) in `dtype`, or a number."""
        return lax.logistic(params["a"].astype(dtype))[None] if self.learn else self.leak

    def forward(self, params, x, /):
        floats(self, x, "(batch, time, neurons)", rank=3)
        take(self, params, x.dtype, **({"a": x.shape[-1:]} if self.learn else {}))
        leak = self._leak(params, wide_dtype(x.dtype))

        def step(state, x):
            u, s = state
            u = leak * u + wide(x) - self.threshold * s
            s = (u > self.threshold).astype(u.dtype)
            return (u, s), (u.astype(x.dtype), s.astype(x.dtype))

        zero = jnp.zeros((x.shape[0], x.shape[2]), wide_dtype(x.dtype))
        _, (u, s) = scan(step, (zero, zero), time_first(x))
        return time_first(s), u

    def backward(self, params, u, dy, /):
        leak, slope = self._leak(params, wide_dtype(u.dtype)), SURROGATES[self.surrogate]

        def step(g, now):
            dy, u = map(wide, now)
            g = leak * g + (dy - self.threshold * g) * slope(self.sharpness * (u - self.threshold))
            return g, (g, g * leak * (1 - leak) if self.learn else ())

        zero = jnp.zeros(u.shape[1:], wide_dtype(u.dtype))
        _, (g, delta) = scan(step, zero, (time_first(dy), u), reverse=True)
        return time_first(g).astype(dy.dtype), (delta, Static(params["a"].dtype)) if self.learn else ()

    def gradient(self, u, delta, /):
        if not self.learn:
            return ()
        delta, dtype = delta
        return {"a": jnp.einsum("tbn,tbn->n", delta[1:], wide(u[:-1])).astype(dtype.value)}

    def reference(self, params, x, /):
        leak = 1 / (1 + jnp.exp(-params["a"][None])) if self.learn else self.leak
        u = s = jnp.zeros((x.shape[0], x.shape[2]), x.dtype)
        ys = []
        for t in range(x.shape[1]):
            u = leak * u + x[:, t] - self.threshold * s
            s = jnp.where(u > self.threshold, 1, 0).astype(x.dtype)
            ys.append(s)
        return jnp.stack(ys, 1) if ys else x


CASES = (
    *(
        Case(LeakyIntegrateAndFire(surrogate=surrogate), f(2, 5, 3))
        for surrogate in ("superspike", "arctan", "triangle", "boxcar")
    ),
    Case(LeakyIntegrateAndFire(0.5, 0.3, sharpness=5.0, learn=True), f(2, 5, 3), f(3, 2, 1)),
)
