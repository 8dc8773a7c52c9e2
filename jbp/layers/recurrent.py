"""Layers that run through time. The weight gradient is one matrix product outside of the loop, never inside."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.errors import LayerError, at, floats, show, take
from jbp.layer import Layer
from jbp.layers.lengths import reversed_until, sequences
from jbp.layers.shape import along, outer


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


def time_first(x):
    return jnp.swapaxes(x, 0, 1)


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


@dataclass(frozen=True)
class Bidirectional(Layer):
    """y = (f(θ₁, x) | g(θ₂, x reversed) reversed): a layer run both ways through time, with parameters for each.

        dx = what f sends down of its half of dy + what g sends down of its half reversed, reversed again

    x may be a pair (x, n) with the length of each example: then each is reversed within its length, and f gets such a
    pair: `Bidirectional(Lengths(LSTM(8)))`. Keeps what both runs keep, and n. Parameters are a pair of the layer's.
    Shapes: x (b, t, i), f from (b, t, i) to (b, t, h), y (b, t, 2h). (Schuster & Paliwal, *Bidirectional Recurrent
    Neural Networks*, 1997.) Raises LayerError for anything but a pair of parameters, and if f does not keep batch and
    time.
    """

    layer: Layer

    def _parts(self, x):
        """x, and the lengths or None."""
        x, n = sequences(self, x) if isinstance(x, tuple | list) else (x, None)
        return floats(self, x, "(batch, time, features)", rank=3), n

    def init(self, key, x, /):
        self._parts(x)
        params = []
        for label, one in zip(_WAYS, jax.random.split(key), strict=True):
            with at(self, label):
                params.append(self.layer.init(one, x))
        return tuple(params)

    def _both(self, way, *trees):
        done = []
        for label, *parts in zip(_WAYS, *trees, strict=True):
            with at(self, label):
                done.append(way(*parts))
        return tuple(done)

    def forward(self, params, x, /):
        x, n = self._parts(x)
        if not isinstance(params, tuple | list) or len(params) != 2:
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a pair, one for each way. "
                "Are these the parameters of another network? Make them with net.init(key, x).",
            )
        both = x, _reversed(x, n)
        (y, first), (z, second) = self._both(self.layer.forward, params, both if n is None else [(v, n) for v in both])
        if y.shape[:-1] != x.shape[:-1]:
            raise LayerError(
                self,
                f"got an inner layer from {show(x)} to {show(y)}; expected it to keep batch and time. "
                "Put what shortens the sequence after the Bidirectional.",
            )
        return jnp.concatenate([y, _reversed(z, n)], -1), ((first, second), n)

    def _down(self, way, params, residuals, dy):
        residuals, n = residuals
        one, two = jnp.split(dy, 2, -1)
        (dx, first), (dz, second) = self._both(way, params, residuals, (one, _reversed(two, n)))
        if n is None:
            return dx + _reversed(dz, n), (first, second)
        return (dx[0] + _reversed(dz[0], n), None), (first, second)

    def backward(self, params, residuals, dy, /):
        return self._down(self.layer.backward, params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down(self.layer.pull, params, residuals, dy)

    def gradient(self, residuals, delta, /):
        return self._both(self.layer.gradient, residuals[0], delta)

    def advance(self, params, residuals, /):
        return self._both(self.layer.advance, params, residuals[0])

    def reference(self, params, x, /):
        if isinstance(x, tuple | list):
            x, n = x
            turn = jax.vmap(lambda v, n: jnp.roll(v[::-1], n - v.shape[0], 0))  # what is after the end is zero in y
            y, z = self.layer.reference(params[0], (x, n)), self.layer.reference(params[1], (turn(x, n), n))
            return jnp.concatenate([y, turn(z, n)], -1)
        y, z = self.layer.reference(params[0], x), self.layer.reference(params[1], x[:, ::-1])
        return jnp.concatenate([y, z[:, ::-1]], -1)


def _reversed(x, n):
    return jnp.flip(x, 1) if n is None else reversed_until(x, n)


_WAYS = ".forward", ".backward"
