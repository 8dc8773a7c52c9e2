"""Long short-term memory. The weight gradient is one matrix product outside of the loop, never inside."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.fields import Size
from jbp.layers.recurrent.sequence import Cell, Steps, Unrolled, back, earlier, forth, products
from jbp.numerics import along, leading, outer


class _LSTM(Steps):
    projection: int | None

    def _shapes(self, i):
        h, o = self.features, self.projection or self.features
        shapes = {"w": (i, 4 * h), "u": (o, 4 * h)}
        shapes = shapes | {"b": (4 * h,)} if self.bias else shapes
        return shapes | {"p": (h, o)} if self.projection else shapes

    def _start(self, key, i, dtype):
        h, shapes = self.features, self._shapes(i)
        one, two = jax.random.split(key)
        params = {"w": jax.random.normal(one, shapes["w"], dtype) * max(i, 1) ** -0.5}
        params["u"] = jax.random.normal(two, shapes["u"], dtype) * shapes["u"][0] ** -0.5
        if self.bias:
            params["b"] = jnp.zeros(4 * h, dtype).at[h : 2 * h].set(1)
        if self.projection:
            params["p"] = jax.random.normal(jax.random.fold_in(key, 2), shapes["p"], dtype) * h**-0.5
        return params

    def _zero(self, batch, dtype):
        c = jnp.zeros((*batch, self.features), dtype)
        return (jnp.zeros((*batch, self.projection), dtype) if self.projection else c), c

    def _step(self, params, state, z):
        h, before = state
        return self._gated(params, z + h @ params["u"], before)

    def _gated(self, params, z, before):
        *sigmoids, g = jnp.split(z, 4, -1)
        i, f, o, g = *map(lax.logistic, sigmoids), jnp.tanh(g)
        c = f * before + i * g
        h = o * jnp.tanh(c)
        return (h @ params["p"] if self.projection else h, c), jnp.concatenate([i, f, o, g], -1)

    def _seen(self, new):
        return new[1]

    def _down(self, params, state, seen, kept, dnew):
        (_, before), c, (e, k) = state, seen, dnew
        i, f, o, g = jnp.split(kept, 4, -1)
        t = jnp.tanh(c)
        m = e @ params["p"].T if self.projection else e
        k = k + m * o * (1 - t * t)
        dz = jnp.concatenate(
            [k * g * i * (1 - i), k * before * f * (1 - f), m * t * o * (1 - o), k * i * (1 - g * g)], -1
        )
        return (dz @ params["u"].T, k * f), (dz, e) if self.projection else dz

    def _scored(self, delta):
        return delta[0] if self.projection else delta

    def _sums(self, x, state, seen, kept, delta):
        dz = self._scored(delta)
        dw, du = products(x, state[0], dz)
        grads = {"w": dw, "u": du}
        grads = grads | {"b": dz.sum(leading(dz))} if self.bias else grads
        if self.projection:
            grads["p"] = outer(jnp.split(kept, 4, -1)[2] * jnp.tanh(seen), delta[1])
        return grads

    def _meaning(self, params, state, x):
        h, c = state
        z = x @ params["w"] + h @ params["u"]
        if self.bias:
            z = z + jnp.broadcast_to(params["b"], z.shape)
        i, f, o, g = jnp.split(z, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        h = h @ params["p"] if self.projection else h
        return h, (h, c)


@dataclass(frozen=True)
class LSTM(_LSTM, Unrolled):
    """i, f, o = σ(·), g = tanh(·) of z_t = x_t W + h_{t−1} U + b;  c_t = f c_{t−1} + i g;  h_t = o tanh c_t, y = h.

    Back through time, with e_t the error at h_t and k_t the error at c_t (k_{T+1} = 0, f_{T+1} = 0):

        e_t = dy_t + dz_{t+1} Uᵀ          k_t = k_{t+1} f_{t+1} + e_t o (1 − tanh² c_t)
        dz_t = (k g i(1−i), k c_{t−1} f(1−f), e tanh c_t o(1−o), k i (1−g²))
        dx = dz Wᵀ       dW = Σ xᵀ dz       dU = Σ h_{t−1}ᵀ dz_t       db = Σ dz

    With `projection` h_t = (o tanh c_t) P, and e Pᵀ takes the place of e in k and dz; dP = Σ (o tanh c)ᵀ e.

    delta is dz of all steps, so dW and dU are one product together, over time and batch at once. Keeps x, the gates and
    c_{t−1}; h is o tanh c. h and c start at zero, or at the state of (x, (h, c)); with `return_state` the output is
    (y, (h_T, c_T)), whose cotangents join e_T and k_T. On (x, lengths) each example ends at its own length, h_T and c_T
    too. Shapes: x (b, t, i), W (i, 4h), U (h, 4h), b (4h,), h and c (b, h), y (b, t, h), gates in the order i, f, o, g;
    with a projection to p, P (h, p), U (p, 4h), h (b, p), y (b, t, p). The bias of f starts at 1 (Gers et al.,
    *Learning to Forget*, 2000; Jozefowicz et al., 2015); projection: Sak et al., *Long Short-Term Memory Recurrent
    Neural Network Architectures for Large Scale Acoustic Modeling*, 2014. PyTorch's gates are in the order i, f, g, o,
    its two biases add up to b, and its proj_size is `projection`. Raises LayerError for another rank or state.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = LSTM(4).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (16,), 'u': (4, 16), 'w': (3, 16)}
    >>> LSTM(4)(params, x).shape
    (2, 5, 4)
    """

    features: Size
    bias: bool = True
    projection: Size | None = None
    return_state: bool = False

    def _through(self, params, x, state, n):
        start = self._zero(x.shape[1:-1], x.dtype) if state is None else state

        def through_time(scores, xs):
            def step(state, x):
                h, before = state
                (h, c), gates = self._gated(params, scores(h, x), before)
                return (h, c), (h, gates, before)

            return forth(step, start, xs, n)

        def inside(x):  # on CPUs: one product a step is as fast, and no z of all steps is written down
            both = jnp.concatenate([params["w"], params["u"]])

            def scores(h, x):
                z = jnp.concatenate([x, h], -1) @ both
                return z + along(params["b"], h) if self.bias else z

            return through_time(scores, x)

        def outside(x):
            return through_time(lambda h, z: z + h @ params["u"], self._scores(params, x))

        last, (h, gates, before) = lax.platform_dependent(x, cpu=inside, default=outside)
        return h, last, last[1], (gates, before, h if self.projection else None)

    def _back(self, params, state, ends, kept, dy, dlast, n):
        gates, before, _ = kept

        def step(carry, now):
            recurrent, k, c = carry  # dz_{t+1} Uᵀ, k_{t+1} f_{t+1} and c_t
            dy, gates, before = now
            (recurrent, k), delta = self._down(params, (None, before), c, gates, (dy + recurrent, k))
            return (recurrent, k, before), delta

        zero = jnp.zeros_like(ends)
        carry = (jnp.zeros(dy.shape[1:], dy.dtype) if self.projection else zero), zero, ends
        (dh, dc, _), delta = back(step, carry, (dy, gates, before), None if dlast is None else (*dlast, None), n)
        return (dh, dc), delta

    def _states(self, state, ends, kept):
        gates, before, h = kept
        first = None if state is None else state[0]
        if self.projection:
            return (earlier(h, first), before), jnp.concatenate([before[1:], ends[None]])[: len(before)], gates
        h = earlier(jnp.split(gates, 4, -1)[2]) * jnp.tanh(before)  # h_{t−1} = o_{t−1} tanh c_{t−1}
        return (h if first is None else jnp.concatenate([first[None], h[1:]])[: len(h)], before), None, gates


@dataclass(frozen=True)
class LSTMCell(_LSTM, Cell):
    """(h', (h', c')) of (x, (h, c)): c' = f c + i g, h' = o tanh c', i, f, o = σ(·), g = tanh(·) of x W + h U + b.

        e = dy + dh'      k = dc' + e o (1 − tanh² c')
        dz = (k g i(1−i), k c f(1−f), e tanh c' o(1−o), k i (1−g²))
        dx = dz Wᵀ      dh = dz Uᵀ      dc = k f      dW = xᵀ dz      dU = hᵀ dz      db = Σ dz

    One step. With `projection` h' = (o tanh c') P, e Pᵀ takes the place of e in k and dz, and dP = (o tanh c')ᵀ e.
    delta is dz. Keeps x, h, c, c' and the gates. Takes (x, (h, c)) or {"x": x, "state": (h, c)} and the parameters of
    an LSTM; `Recurrent(LSTMCell(8))` runs it through time. Shapes: x (..., i), h and c (..., h), gates in the order i,
    f, o, g. (Hochreiter & Schmidhuber, *Long Short-Term Memory*, 1997; Gers et al., *Learning to Forget*, 2000.) Raises
    LayerError for anything but such a pair.

    >>> cell, h = LSTMCell(4), jnp.zeros((2, 4))
    >>> x = (jnp.ones((2, 3)), (h, h))  # the input of a step, and the state
    >>> y, (h, c) = cell(cell.init(jax.random.key(0), x), x)
    >>> y.shape
    (2, 4)
    """

    features: Size
    bias: bool = True
    projection: Size | None = None


CASES = (
    Case(LSTM(3), f(2, 5, 3), (f(2, 4, 3), (f(2, 3), f(2, 3)))),
    Case(LSTM(2), f(3, 4, 1)),
    Case(LSTM(2, return_state=True), (f(3, 4, 1), i(3, below=5)), {"x": f(3, 4, 2), "state": (f(3, 2), f(3, 2))}),
    Case(LSTM(3, bias=False, projection=2), f(2, 4, 3), (f(2, 4, 3), (f(2, 2), f(2, 3)))),
    Case(
        LSTM(2, projection=1, return_state=True),
        {"x": f(3, 4, 2), "lengths": i(3, below=5), "state": (f(3, 1), f(3, 2))},
    ),
    Case(LSTMCell(3), (f(2, 4), (f(2, 3), f(2, 3)))),
    Case(LSTMCell(3, bias=False, projection=2), (f(2, 4), (f(2, 2), f(2, 3)))),
)
