"""Recurrent networks with gates and a state of one array."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.fields import Size
from jbp.layers.recurrent.sequence import Cell, Steps, Unrolled, forth, products, weights
from jbp.numerics import along, leading, outer


class _GRU(Steps):
    reset_after: bool

    def _shapes(self, i):
        h = self.features
        shapes = {"w": (i, 3 * h), "u": (h, 3 * h)}
        shapes = shapes | {"b": (3 * h,)} if self.bias else shapes
        return shapes | {"c": (h,)} if self.bias and self.reset_after else shapes

    def _start(self, key, i, dtype):
        zeros = {name: jnp.zeros(shape, dtype) for name, shape in self._shapes(i).items() if name in "bc"}
        return weights(key, i, self.features, 3, dtype) | zeros

    def _step(self, params, state, z):
        h, u, n = state, params["u"], self.features
        zu, zr, zn = jnp.split(z, 3, -1)
        hu, hr, *a = jnp.split(h @ (u if self.reset_after else u[:, : 2 * n]), 3 if self.reset_after else 2, -1)
        update, reset = lax.logistic(zu + hu), lax.logistic(zr + hr)
        if self.reset_after:
            a = [a[0] + along(params["c"], a[0])] if self.bias else a
            new = jnp.tanh(zn + reset * a[0])
        else:
            new = jnp.tanh(zn + (reset * h) @ u[:, 2 * n :])
        return (1 - update) * new + update * h, jnp.concatenate([update, reset, new, *a], -1)

    def _down(self, params, state, seen, kept, dnew):
        e, u, before = dnew, params["u"], state
        if self.reset_after:
            update, r, n, a = jnp.split(kept, 4, -1)
            dn = e * (1 - update) * (1 - n * n)
            da = dn * r
            du, dr = e * (before - n) * update * (1 - update), da * a * (1 - r)
            return e * update + jnp.concatenate([du, dr, da], -1) @ u.T, jnp.concatenate([du, dr, dn, da], -1)
        update, r, n = jnp.split(kept, 3, -1)
        dn = e * (1 - update) * (1 - n * n)
        da = dn @ u[:, 2 * self.features :].T  # at r h_{t−1}
        gates = e * (before - n) * update * (1 - update), da * before * r * (1 - r)
        down = jnp.concatenate(gates, -1) @ u[:, : 2 * self.features].T
        return e * update + da * r + down, jnp.concatenate([*gates, dn], -1)

    def _scored(self, delta):
        return delta[..., : 3 * self.features]

    def _sums(self, x, state, seen, kept, delta):
        n = self.features
        if self.reset_after:
            dw, du = products(x, state, delta)
            grads = {"w": dw[:, : 3 * n], "u": jnp.concatenate([du[:, : 2 * n], du[:, 3 * n :]], -1)}
            if not self.bias:
                return grads
            b, c = jnp.split(delta.sum(leading(delta)), [3 * n])
            return grads | {"b": b, "c": c}
        reset = kept[..., n : 2 * n]
        u = outer(state, delta[..., : 2 * n]), outer(reset * state, delta[..., 2 * n :])
        grads = {"w": outer(x, delta), "u": jnp.concatenate(u, -1)}
        return grads | {"b": delta.sum(leading(delta))} if self.bias else grads

    def _meaning(self, params, state, x):
        n, (w, u) = self.features, (params["w"], params["u"])
        parts = slice(n), slice(n, 2 * n), slice(2 * n, 3 * n)

        def score(g):
            z = x @ w[:, g]
            return z + jnp.broadcast_to(params["b"][g], z.shape) if self.bias else z

        update, reset = (jax.nn.sigmoid(score(g) + state @ u[:, g]) for g in parts[:2])
        if self.reset_after:
            a = state @ u[:, parts[2]]
            new = jnp.tanh(score(parts[2]) + reset * (a + jnp.broadcast_to(params["c"], a.shape) if self.bias else a))
        else:
            new = jnp.tanh(score(parts[2]) + (reset * state) @ u[:, parts[2]])
        h = update * state + (1 - update) * new
        return h, h


@dataclass(frozen=True)
class GRU(_GRU, Unrolled):
    """h_t = (1 − u) n + u h_{t−1},  u, r = σ(·), n = tanh(x W_n + b_n + r a),  a = h_{t−1} U_n + c.

    u and r are of x W + h_{t−1} U + b. Back through time, with e_t the error at h_t:

        e_t = dy_t + e_{t+1} u_{t+1} + (du|dr|da)_{t+1} Uᵀ      dn = e (1 − u) (1 − n²)      da = dn r
        du = e (h_{t−1} − n) u (1 − u)      dr = dn a r (1 − r)
        dx = (du|dr|dn) Wᵀ    dW = Σ xᵀ (du|dr|dn)    dU = Σ h_{t−1}ᵀ (du|dr|da)    db = Σ (du|dr|dn)    dc = Σ da

    With `reset_after=False` r comes before the product, as in the paper: n = tanh(x W_n + b_n + (r h_{t−1}) U_n), no c;

        a = dn U_nᵀ    dr = a h_{t−1} r (1 − r)    e_t = dy_t + (e u + a r + (du|dr) U_urᵀ)_{t+1}    dU_n = Σ (r h)ᵀ dn

    delta is (du|dr|dn|da) of all steps, so that one product gives all of dW and dU. Keeps x, h, which is y, and
    (u|r|n|a). h starts at zero, or at the state of (x, state); with `return_state` the output is (y, h_T). On
    (x, lengths) each example ends at its own length, h_T too. Shapes: x (b, t, i), W (i, 3h), U (h, 3h), b (3h,), c
    (h,), a state (b, h), y (b, t, h), gates in the order u, r, n. (Cho et al., *Learning Phrase Representations*, 2014,
    §2.3, with r after the product as in cuDNN, PyTorch and Keras.) PyTorch's gates are in the order r, u, n, and of its
    two biases those of u and r add up to ours; of n, the input's is b_n and the other one c. Raises LayerError for
    another rank or state.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = GRU(4).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (12,), 'c': (4,), 'u': (4, 12), 'w': (3, 12)}
    >>> GRU(4)(params, x).shape
    (2, 5, 4)
    """

    features: Size
    bias: bool = True
    reset_after: bool = True
    return_state: bool = False

    def _through(self, params, x, state, n):
        start = self._zero(x.shape[1:-1], x.dtype) if state is None else state

        def through_time(scores, xs):
            def step(h, x):
                h, gates = self._step(params, h, scores(x))
                return h, (h, gates)

            return forth(step, start, xs, n)

        def scores(x):
            return self._scores(params, x)

        last, (h, gates) = lax.platform_dependent(
            x,
            cpu=lambda x: through_time(scores, x),  # as fast there, and no z of all steps is written down
            default=lambda x: through_time(lambda z: z, scores(x)),
        )
        return h, last, (), (h, gates)


@dataclass(frozen=True)
class GRUCell(_GRU, Cell):
    """(h', h') with h' = (1 − u) n + u h, u, r = σ(·), n = tanh(x W_n + b_n + r a), a = h U_n + c of (x, h): one step.

        e = dy + dh'      dn = e (1 − u) (1 − n²)      da = dn r      du = e (h − n) u (1 − u)      dr = dn a r (1 − r)
        dx = (du|dr|dn) Wᵀ      dh = e u + (du|dr|da) Uᵀ
        dW = xᵀ (du|dr|dn)      dU = hᵀ (du|dr|da)      db = Σ (du|dr|dn)      dc = Σ da

    u and r are of x W + h U + b. delta is (du|dr|dn|da). Keeps x, h and (u|r|n|a). `reset_after=False` puts r before
    the product, (r h) U_n, and has no c. Takes (x, h) or {"x": x, "state": h} and the parameters of a GRU;
    `Recurrent(GRUCell(8))` runs it through time. Shapes: x (..., i), h and h' (..., h). (Cho et al., *Learning Phrase
    Representations*, 2014, §2.3.) Raises LayerError for anything but such a pair.

    >>> cell, x = GRUCell(4), (jnp.ones((2, 3)), jnp.zeros((2, 4)))  # the input of a step, and the state
    >>> y, state = cell(cell.init(jax.random.key(0), x), x)
    >>> y.shape
    (2, 4)
    """

    features: Size
    bias: bool = True
    reset_after: bool = True


class _MinimalGRU(Steps):
    def _shapes(self, i):
        h = self.features
        return {"w": (i, 2 * h), "u": (h, 2 * h)} | ({"b": (2 * h,)} if self.bias else {})

    def _start(self, key, i, dtype):
        zeros = {"b": jnp.zeros(2 * self.features, dtype)} if self.bias else {}
        return weights(key, i, self.features, 2, dtype) | zeros

    def _step(self, params, state, z):
        u_f, u_n = jnp.split(params["u"], 2, -1)
        zf, zn = jnp.split(z, 2, -1)
        f = lax.logistic(zf + state @ u_f)
        n = jnp.tanh(zn + (f * state) @ u_n)
        return (1 - f) * state + f * n, jnp.concatenate([f, n], -1)

    def _down(self, params, state, seen, kept, dnew):
        u_f, u_n = jnp.split(params["u"], 2, -1)
        f, n = jnp.split(kept, 2, -1)
        e, before = dnew, state
        dn = e * f * (1 - n * n)
        a = dn @ u_n.T
        df = (e * (n - before) + a * before) * f * (1 - f)
        return e * (1 - f) + a * f + df @ u_f.T, jnp.concatenate([df, dn], -1)

    def _sums(self, x, state, seen, kept, delta):
        df, dn = jnp.split(delta, 2, -1)
        f = jnp.split(kept, 2, -1)[0]
        u = outer(state, df), outer(f * state, dn)
        grads = {"w": outer(x, delta), "u": jnp.concatenate(u, -1)}
        return grads | {"b": delta.sum(leading(delta))} if self.bias else grads

    def _meaning(self, params, state, x):
        d, (w, u) = self.features, (params["w"], params["u"])

        def score(g):
            z = x @ w[:, g]
            return z + jnp.broadcast_to(params["b"][g], z.shape) if self.bias else z

        f = jax.nn.sigmoid(score(slice(d)) + state @ u[:, :d])
        h = state + f * (jnp.tanh(score(slice(d, 2 * d)) + (f * state) @ u[:, d:]) - state)
        return h, h


@dataclass(frozen=True)
class MinimalGRU(_MinimalGRU, Unrolled):
    """h_t = (1 − f) h_{t−1} + f n,  f = σ(x W_f + h_{t−1} U_f + b_f),  n = tanh(x W_n + (f h_{t−1}) U_n + b_n).

    One gate. Back through time, with e_t the error at h_t and a_t that at f h_{t−1}:

        e_t = dy_t + e_{t+1} (1 − f_{t+1}) + a_{t+1} f_{t+1} + df_{t+1} U_fᵀ      dn = e f (1 − n²)      a = dn U_nᵀ
        df = (e (n − h_{t−1}) + a h_{t−1}) f (1 − f)      dx = (df|dn) Wᵀ      dW = Σ xᵀ (df|dn)      db = Σ (df|dn)
        dU_f = Σ h_{t−1}ᵀ df_t      dU_n = Σ (f h_{t−1})ᵀ dn_t

    delta is (df|dn) of all steps. Keeps x, h, which is y, and (f|n). h starts at zero, or at the state of (x, state);
    with `return_state` the output is (y, h_T). On (x, lengths) each example ends at its own length, h_T too. Shapes: x
    (b, t, i), W (i, 2h), U (h, 2h), b (2h,), a state (b, h), y (b, t, h), in the order f, n. (Zhou et al., *Minimal
    Gated Unit for Recurrent Neural Networks*, 2016, §3.) Raises LayerError for another rank or state.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = MinimalGRU(4).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (8,), 'u': (4, 8), 'w': (3, 8)}
    >>> MinimalGRU(4)(params, x).shape
    (2, 5, 4)
    """

    features: Size
    bias: bool = True
    return_state: bool = False


@dataclass(frozen=True)
class MinimalGRUCell(_MinimalGRU, Cell):
    """(h', h') with h' = (1 − f) h + f n, f = σ(x W_f + h U_f + b_f), n = tanh(x W_n + (f h) U_n + b_n) of (x, h).

        e = dy + dh'      dn = e f (1 − n²)      a = dn U_nᵀ      df = (e (n − h) + a h) f (1 − f)
        dx = (df|dn) Wᵀ      dh = e (1 − f) + a f + df U_fᵀ
        dW = xᵀ (df|dn)      dU_f = hᵀ df      dU_n = (f h)ᵀ dn      db = Σ (df|dn)

    One step. delta is (df|dn). Keeps x, h and (f|n). Takes (x, h) or {"x": x, "state": h} and the parameters of a
    MinimalGRU; `Recurrent(MinimalGRUCell(8))` runs it through time. Shapes: x (..., i), h and h' (..., h). (Zhou et
    al., *Minimal Gated Unit for Recurrent Neural Networks*, 2016, §3.) Raises LayerError for anything but such a pair.

    >>> cell, x = MinimalGRUCell(4), (jnp.ones((2, 3)), jnp.zeros((2, 4)))  # the input of a step, and the state
    >>> y, state = cell(cell.init(jax.random.key(0), x), x)
    >>> y.shape
    (2, 4)
    """

    features: Size
    bias: bool = True


CASES = (
    Case(GRU(3), f(2, 5, 3), (f(2, 4, 3), f(2, 3))),
    Case(GRU(2), f(3, 4, 1)),
    Case(GRU(2, return_state=True), (f(3, 4, 1), i(3, below=5)), {"x": f(3, 4, 2), "state": f(3, 2)}),
    Case(GRU(3, bias=False), f(2, 4, 3)),
    Case(GRU(3, reset_after=False), f(2, 4, 3), (f(2, 4, 3), f(2, 3))),
    Case(GRUCell(3), (f(2, 4), f(2, 3))),
    Case(GRUCell(3, bias=False, reset_after=False), (f(2, 4), f(2, 3))),
    Case(MinimalGRU(3), f(2, 5, 3)),
    Case(MinimalGRU(2, bias=False, return_state=True), {"x": f(3, 4, 2), "lengths": i(3, below=5), "state": f(3, 2)}),
    Case(MinimalGRUCell(3), {"x": f(2, 4), "state": f(2, 3)}),
)
