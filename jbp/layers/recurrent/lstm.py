"""Layers that run through time. The weight gradient is one matrix product outside of the loop, never inside."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import floats, take
from jbp.layer import Layer
from jbp.numerics import along, outer, time_first


@dataclass(frozen=True)
class LSTM(Layer):
    """i, f, o = σ(·), g = tanh(·) of z_t = x_t W + h_{t−1} U + b;  c_t = f c_{t−1} + i g;  h_t = o tanh c_t.

    Back through time, with e_t the error at h_t and k_t the error at c_t (k_{T+1} = 0, f_{T+1} = 0):

        e_t = dy_t + dz_{t+1} Uᵀ          k_t = k_{t+1} f_{t+1} + e_t o (1 − tanh² c_t)
        dz_t = (k g i(1−i), k c_{t−1} f(1−f), e tanh c_t o(1−o), k i (1−g²))
        dx = dz Wᵀ       dW = Σ xᵀ dz       dU = Σ h_{t−1}ᵀ dz_t       db = Σ dz

    delta is dz of all steps, so dW and dU are one product together, over time and batch at once. Keeps x, the gates and
    c_{t−1}; h is o tanh c. h and c start at zero. Shapes: x (b, t, i), W (i, 4h), U (h, 4h), b (4h,), y (b, t, h),
    gates in the order i, f, o, g. The bias of f starts at 1 (Gers et al., *Learning to Forget*, 2000; Jozefowicz et
    al., 2015).
    """

    features: int

    def _shapes(self, x):
        h = self.features
        return {"w": (x.shape[-1], 4 * h), "u": (h, 4 * h), "b": (4 * h,)}

    def init(self, key, x, /):
        i, h = floats(self, x, "(batch, time, features)", rank=3).shape[-1], self.features
        one, two = jax.random.split(key)
        w = jax.random.normal(one, (i, 4 * h), x.dtype) * max(i, 1) ** -0.5
        u = jax.random.normal(two, (h, 4 * h), x.dtype) * h**-0.5
        return {"w": w, "u": u, "b": jnp.zeros(4 * h, x.dtype).at[h : 2 * h].set(1)}

    def forward(self, params, x, /):
        w, u, b = take(self, params, floats(self, x, "(batch, time, features)", rank=3).dtype, **self._shapes(x))
        zero = jnp.zeros((x.shape[0], self.features), x.dtype)

        def through_time(scores, xs):
            def step(state, x):
                h, before = state
                i, f, o, g = _gates(scores(h, x))
                c = f * before + i * g
                h = o * jnp.tanh(c)
                return (h, c), (h, jnp.concatenate([i, f, o, g], -1), before)

            return lax.scan(step, (zero, zero), xs)

        def inside(x):  # on CPUs: one product a step is as fast, and no z of all steps is written down
            both = jnp.concatenate([w, u])
            return through_time(lambda h, x: jnp.concatenate([x, h], -1) @ both + along(b, h), x)

        def outside(x):
            z = x @ w
            return through_time(lambda h, z: z + h @ u, z + along(b, z))

        (_, c), (h, gates, before) = lax.platform_dependent(time_first(x), cpu=inside, default=outside)
        return time_first(h), (x, gates, before, c)

    def backward(self, params, residuals, dy, /):
        _, gates, before, c = residuals
        w, u = params["w"], params["u"]

        def step(carry, now):
            recurrent, k, c = carry  # dz_{t+1} Uᵀ, k_{t+1} f_{t+1} and c_t
            dy, gates, before = now
            i, f, o, g = jnp.split(gates, 4, -1)
            t = jnp.tanh(c)
            e = dy + recurrent
            k = k + e * o * (1 - t * t)
            dz = jnp.concatenate(
                [k * g * i * (1 - i), k * before * f * (1 - f), e * t * o * (1 - o), k * i * (1 - g * g)], -1
            )
            return (dz @ u.T, k * f, before), dz

        zero = jnp.zeros_like(c)
        _, dz = lax.scan(step, (zero, zero, c), (time_first(dy), gates, before), reverse=True)
        return time_first(dz @ w.T), dz

    def gradient(self, residuals, dz, /):
        dw, du = products(residuals[0], hidden(residuals), dz)
        return {"w": dw, "u": du, "b": dz.sum((0, 1))}

    def reference(self, params, x, /):
        def cell(state, x):  # in a scan: unrolled, a hundred steps take minutes to compile
            h, c = state
            z = x @ params["w"] + h @ params["u"] + params["b"][None]
            i, f, o, g = jnp.split(z, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[0], self.features), x.dtype)
        return time_first(lax.scan(cell, (zero, zero), time_first(x))[1])


def products(x, before, dz):
    """Σ xᵀ dz and Σ h_{t−1}ᵀ dz_t, as one product: x (b, t, i), h_{t−1} (t, b, h), zero at first, dz (t, b, z)."""
    both = outer(jnp.concatenate([time_first(x), before], -1), dz)
    return both[: x.shape[-1]], both[x.shape[-1] :]


def earlier(h):
    """h_{t−1} for every t: h one step later, zero at first."""
    return jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])


def hidden(residuals):
    """h_{t−1} = o_{t−1} tanh c_{t−1} of every step of an LSTM, (t, b, h)."""
    _, gates, before, _ = residuals
    return earlier(jnp.split(gates, 4, -1)[2]) * jnp.tanh(before)


def _gates(z):
    *sigmoids, g = jnp.split(z, 4, -1)
    return (*map(lax.logistic, sigmoids), jnp.tanh(g))


CASES = (
    Case(LSTM(3), f(2, 5, 3)),
    Case(LSTM(2), f(3, 4, 1)),
)
