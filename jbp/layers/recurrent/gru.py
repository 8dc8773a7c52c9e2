"""Recurrent layers with one state. As in recurrent.py, the weight gradients are products outside of the loop."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import floats, take
from jbp.layer import Layer
from jbp.layers.recurrent.lstm import earlier, products
from jbp.numerics import along, outer, time_first


def _weights(key, i, h, gates, dtype):
    one, two = jax.random.split(key)
    w = jax.random.normal(one, (i, gates * h), dtype) * max(i, 1) ** -0.5
    return {"w": w, "u": jax.random.normal(two, (h, gates * h), dtype) * max(h, 1) ** -0.5}


@dataclass(frozen=True)
class Elman(Layer):
    """h_t = tanh(x_t W + h_{t−1} U + b), y = h.

        dz_t = (dy_t + dz_{t+1} Uᵀ) (1 − h_t²)      dx = dz Wᵀ
        dW = Σ xᵀ dz      dU = Σ h_{t−1}ᵀ dz_t      db = Σ dz

    delta is dz of all steps. Keeps x and h, which is y. h starts at zero. Shapes: x (b, t, i), W (i, h), U (h, h),
    b (h,), y (b, t, h). (Elman, *Finding Structure in Time*, 1990.) Raises LayerError for another rank.
    """

    features: int

    def _shapes(self, x):
        h = self.features
        return {"w": (x.shape[-1], h), "u": (h, h), "b": (h,)}

    def init(self, key, x, /):
        i = floats(self, x, "(batch, time, features)", rank=3).shape[-1]
        return _weights(key, i, self.features, 1, x.dtype) | {"b": jnp.zeros(self.features, x.dtype)}

    def forward(self, params, x, /):
        w, u, b = take(self, params, floats(self, x, "(batch, time, features)", rank=3).dtype, **self._shapes(x))
        z = time_first(x) @ w
        z = z + along(b, z)

        def step(h, z):
            h = jnp.tanh(z + h @ u)
            return h, h

        _, h = lax.scan(step, jnp.zeros((x.shape[0], self.features), x.dtype), z)
        return time_first(h), (x, h)

    def backward(self, params, residuals, dy, /):
        _, h = residuals
        w, u = params["w"], params["u"]

        def step(recurrent, now):
            dy, h = now
            dz = (dy + recurrent) * (1 - h * h)
            return dz @ u.T, dz

        _, dz = lax.scan(step, jnp.zeros(h.shape[1:], h.dtype), (time_first(dy), h), reverse=True)
        return time_first(dz @ w.T), dz

    def gradient(self, residuals, dz, /):
        x, h = residuals
        dw, du = products(x, earlier(h), dz)
        return {"w": dw, "u": du, "b": dz.sum((0, 1))}

    def reference(self, params, x, /):
        def cell(h, x):
            h = jnp.tanh(x @ params["w"] + h @ params["u"] + params["b"][None])
            return h, h

        return time_first(lax.scan(cell, jnp.zeros((x.shape[0], self.features), x.dtype), time_first(x))[1])


@dataclass(frozen=True)
class GRU(Layer):
    """h_t = (1 − u) n + u h_{t−1},  u, r = σ(·), n = tanh(x W_n + b_n + r a),  a = h_{t−1} U_n + c.

    u and r are of x W + h_{t−1} U + b. Back through time, with e_t the error at h_t:

        e_t = dy_t + e_{t+1} u_{t+1} + (du|dr|da)_{t+1} Uᵀ      dn = e (1 − u) (1 − n²)      da = dn r
        du = e (h_{t−1} − n) u (1 − u)      dr = dn a r (1 − r)
        dx = (du|dr|dn) Wᵀ    dW = Σ xᵀ (du|dr|dn)    dU = Σ h_{t−1}ᵀ (du|dr|da)    db = Σ (du|dr|dn)    dc = Σ da

    delta is (du|dr|dn|da) of all steps, so that one product gives all of dW and dU. Keeps x, h, which is y, and
    (u|r|n|a). h starts at zero. Shapes: x (b, t, i), W (i, 3h), U (h, 3h), b (3h,), c (h,), y (b, t, h), gates in the
    order u, r, n. (Cho et al., *Learning Phrase Representations*, 2014, §2.3, with r after the product as in cuDNN,
    PyTorch and Keras.) Raises LayerError for another rank.
    """

    features: int

    def _shapes(self, x):
        h = self.features
        return {"w": (x.shape[-1], 3 * h), "u": (h, 3 * h), "b": (3 * h,), "c": (h,)}

    def init(self, key, x, /):
        i, h = floats(self, x, "(batch, time, features)", rank=3).shape[-1], self.features
        return _weights(key, i, h, 3, x.dtype) | {"b": jnp.zeros(3 * h, x.dtype), "c": jnp.zeros(h, x.dtype)}

    def forward(self, params, x, /):
        w, u, b, c = take(self, params, floats(self, x, "(batch, time, features)", rank=3).dtype, **self._shapes(x))

        def through_time(scores, xs):
            def step(h, x):
                zu, zr, zn = jnp.split(scores(x), 3, -1)
                hu, hr, a = jnp.split(h @ u, 3, -1)
                a = a + along(c, a)
                update, reset = lax.logistic(zu + hu), lax.logistic(zr + hr)
                n = jnp.tanh(zn + reset * a)
                h = (1 - update) * n + update * h
                return h, (h, jnp.concatenate([update, reset, n, a], -1))

            return lax.scan(step, jnp.zeros((x.shape[0], self.features), x.dtype), xs)[1]

        def scores(x):
            z = x @ w
            return z + along(b, z)

        h, gates = lax.platform_dependent(
            time_first(x),
            cpu=lambda x: through_time(scores, x),  # as fast there, and no z of all steps is written down
            default=lambda x: through_time(lambda z: z, scores(x)),
        )
        return time_first(h), (x, h, gates)

    def backward(self, params, residuals, dy, /):
        _, h, gates = residuals
        w, u = params["w"], params["u"]

        def step(recurrent, now):
            dy, before, gates = now
            update, r, n, a = jnp.split(gates, 4, -1)
            e = dy + recurrent
            dn = e * (1 - update) * (1 - n * n)
            da = dn * r
            du, dr = e * (before - n) * update * (1 - update), da * a * (1 - r)
            return e * update + jnp.concatenate([du, dr, da], -1) @ u.T, jnp.concatenate([du, dr, dn, da], -1)

        zero = jnp.zeros(h.shape[1:], h.dtype)
        _, delta = lax.scan(step, zero, (time_first(dy), earlier(h), gates), reverse=True)
        return time_first(delta[..., : w.shape[-1]] @ w.T), delta

    def gradient(self, residuals, delta, /):
        (x, h, _), n = residuals, self.features
        dw, du = products(x, earlier(h), delta)
        b, c = jnp.split(delta.sum((0, 1)), [3 * n])
        return {"w": dw[:, : 3 * n], "u": jnp.concatenate([du[:, : 2 * n], du[:, 3 * n :]], -1), "b": b, "c": c}

    def reference(self, params, x, /):
        n = self.features
        w, u, b, c = (params[k] for k in "wubc")

        def cell(h, x):  # in a scan: unrolled, a hundred steps take minutes to compile
            update, reset = (
                jax.nn.sigmoid(x @ w[:, g] + b[None, g] + h @ u[:, g]) for g in (slice(n), slice(n, 2 * n))
            )
            new = jnp.tanh(x @ w[:, 2 * n :] + b[None, 2 * n :] + reset * (h @ u[:, 2 * n :] + c[None]))
            h = update * h + (1 - update) * new
            return h, h

        return time_first(lax.scan(cell, jnp.zeros((x.shape[0], n), x.dtype), time_first(x))[1])


@dataclass(frozen=True)
class MinimalGRU(Layer):
    """h_t = (1 − f) h_{t−1} + f n,  f = σ(x W_f + h_{t−1} U_f + b_f),  n = tanh(x W_n + (f h_{t−1}) U_n + b_n).

    One gate. Back through time, with e_t the error at h_t and a_t that at f h_{t−1}:

        e_t = dy_t + e_{t+1} (1 − f_{t+1}) + a_{t+1} f_{t+1} + df_{t+1} U_fᵀ      dn = e f (1 − n²)      a = dn U_nᵀ
        df = (e (n − h_{t−1}) + a h_{t−1}) f (1 − f)      dx = (df|dn) Wᵀ      dW = Σ xᵀ (df|dn)      db = Σ (df|dn)
        dU_f = Σ h_{t−1}ᵀ df_t      dU_n = Σ (f h_{t−1})ᵀ dn_t

    delta is (df|dn) of all steps. Keeps x, h, which is y, and (f|n). h starts at zero. Shapes: x (b, t, i), W (i, 2h),
    U (h, 2h), b (2h,), y (b, t, h), in the order f, n. (Zhou et al., *Minimal Gated Unit for Recurrent Neural
    Networks*, 2016, §3.) LayerError for another rank.
    """

    features: int

    def _shapes(self, x):
        h = self.features
        return {"w": (x.shape[-1], 2 * h), "u": (h, 2 * h), "b": (2 * h,)}

    def init(self, key, x, /):
        i, h = floats(self, x, "(batch, time, features)", rank=3).shape[-1], self.features
        return _weights(key, i, h, 2, x.dtype) | {"b": jnp.zeros(2 * h, x.dtype)}

    def forward(self, params, x, /):
        w, u, b = take(self, params, floats(self, x, "(batch, time, features)", rank=3).dtype, **self._shapes(x))
        z = time_first(x) @ w
        z = z + along(b, z)
        u_f, u_n = jnp.split(u, 2, -1)

        def step(h, z):
            zf, zn = jnp.split(z, 2, -1)
            f = lax.logistic(zf + h @ u_f)
            n = jnp.tanh(zn + (f * h) @ u_n)
            h = (1 - f) * h + f * n
            return h, (h, jnp.concatenate([f, n], -1))

        _, (h, gates) = lax.scan(step, jnp.zeros((x.shape[0], self.features), x.dtype), z)
        return time_first(h), (x, h, gates)

    def backward(self, params, residuals, dy, /):
        _, h, gates = residuals
        w, (u_f, u_n) = params["w"], jnp.split(params["u"], 2, -1)

        def step(recurrent, now):
            dy, before, gates = now
            f, n = jnp.split(gates, 2, -1)
            e = dy + recurrent
            dn = e * f * (1 - n * n)
            a = dn @ u_n.T
            df = (e * (n - before) + a * before) * f * (1 - f)
            return e * (1 - f) + a * f + df @ u_f.T, jnp.concatenate([df, dn], -1)

        zero = jnp.zeros(h.shape[1:], h.dtype)
        _, dz = lax.scan(step, zero, (time_first(dy), earlier(h), gates), reverse=True)
        return time_first(dz @ w.T), dz

    def gradient(self, residuals, dz, /):
        x, h, gates = residuals
        df, dn = jnp.split(dz[1:], 2, -1)
        f, before = jnp.split(gates[1:], 2, -1)[0], h[:-1]
        u = outer(before, df), outer(f * before, dn)
        return {"w": outer(time_first(x), dz), "u": jnp.concatenate(u, -1), "b": dz.sum((0, 1))}

    def reference(self, params, x, /):
        d, h, ys = self.features, jnp.zeros((x.shape[0], self.features), x.dtype), []
        w, u, b = (params[k] for k in "wub")
        for t in range(x.shape[1]):
            f = jax.nn.sigmoid(x[:, t] @ w[:, :d] + h @ u[:, :d] + b[None, :d])
            h = h + f * (jnp.tanh(x[:, t] @ w[:, d:] + (f * h) @ u[:, d:] + b[None, d:]) - h)
            ys.append(h)
        return jnp.stack(ys, 1) if ys else jnp.zeros((x.shape[0], 0, d), x.dtype)


CASES = (
    Case(Elman(3), f(2, 5, 3)),
    Case(GRU(3), f(2, 5, 3)),
    Case(GRU(2), f(3, 4, 1)),
    Case(MinimalGRU(3), f(2, 5, 3)),
)
