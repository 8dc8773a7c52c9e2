"""State spaces: linear recurrences with a diagonal matrix, run by an associative scan instead of step after step."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import floats, take
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import along, outer, scan, time_first, wide, wide_dtype

__all__ = ["DiagonalStateSpace", "SelectiveStateSpace"]


def _turn(a, h):
    """a h of complex numbers, each a pair (real, imaginary)."""
    return a[0] * h[0] - a[1] * h[1], a[0] * h[1] + a[1] * h[0]


def recurrence(a, u, reverse=False):
    """h_t = a h_{t−1} + u_t (t, b, n) of complex numbers as pairs, a (n,) the same at all times; or from the end."""

    def both(earlier, later):
        (a, u), (b, v) = earlier, later
        turned = _turn(b, u)
        return _turn(a, b), (turned[0] + v[0], turned[1] + v[1])

    times = tuple(jnp.broadcast_to(part, (u[0].shape[0], 1, part.shape[0])) for part in a)
    return lax.associative_scan(both, (times, u), reverse=reverse)[1]


@dataclass(frozen=True)
class DiagonalStateSpace(Layer):
    """h_t = λ h_{t−1} + x_t B, y_t = Re(h_t C) + D x_t, with complex h and λ = exp(−exp ν + i exp θ), so that |λ| < 1.

        e = dy C̄ᵀ      g_t = e_t + λ̄ g_{t+1}      dx = Re(g B̄ᵀ) + D dy      dB = xᵀ g      dC = h̄ᵀ dy      dD = Σ x dy
        dλ = Σ h̄_{t−1} g_t      dν = −exp ν Re(λ̄ dλ)      dθ = exp θ Im(λ̄ dλ)

    Both recurrences are one associative scan, of log t steps where there are processors enough. Complex numbers are
    pairs: h is (real|imaginary), B and C hold both parts, C's second half being the negative of its imaginary part.
    delta is (g, dy, dν and dθ of each example). Keeps x and h, which C's gradient needs. Shapes: x and y (b, t, f),
    ν and θ (states,), B (f, 2 states), C (2 states, f), D (f,); the scan is in float32 at least. |λ| starts between 0.9
    and 0.999, its angle below π/10, B's columns scaled by √(1 − |λ|²) so that h starts about as large as x. (Orvieto et
    al., *Resurrecting Recurrent Neural Networks for Long Sequences*, 2023, §3; Gu et al., *On the Parameterization and
    Initialization of Diagonal State Space Models*, 2022.) Raises LayerError for another rank.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = DiagonalStateSpace(4).init(jax.random.key(0), x)
    >>> DiagonalStateSpace(4)(params, x).shape
    (2, 5, 3)
    """

    states: Size

    def _shapes(self, x):
        f, n = floats(self, x, "(batch, time, features)", rank=3).shape[-1], self.states
        return {"nu": (n,), "theta": (n,), "b": (f, 2 * n), "c": (2 * n, f), "d": (f,)}

    def init(self, key, x, /):
        f, n = self._shapes(x)["b"][0], self.states
        size, angle, b, c, d = jax.random.split(key, 5)
        exact = wide_dtype(x.dtype)  # 0.998 is 1 in bfloat16
        squared = jax.random.uniform(size, (n,), exact, 0.9**2, 0.999**2)
        theta = jax.random.uniform(angle, (n,), exact, 0.01, math.pi / 10)
        scale = (jnp.tile(jnp.sqrt(1 - squared), 2)[None] * (2 * max(f, 1)) ** -0.5).astype(x.dtype)
        return {
            "nu": jnp.log(-0.5 * jnp.log(squared)).astype(x.dtype),
            "theta": jnp.log(theta).astype(x.dtype),
            "b": jax.random.normal(b, (f, 2 * n), x.dtype) * scale,
            "c": jax.random.normal(c, (2 * n, f), x.dtype) * max(n, 1) ** -0.5,
            "d": jax.random.normal(d, (f,), x.dtype),
        }

    def _eigenvalues(self, nu, theta):
        size, angle = jnp.exp(-jnp.exp(wide(nu))), jnp.exp(wide(theta))
        return size * jnp.cos(angle), size * jnp.sin(angle)

    def forward(self, params, x, /):
        shapes = self._shapes(x)
        nu, theta, *rest = take(self, params, x.dtype, **shapes)
        b, c, d = (w.astype(x.dtype) for w in rest)
        u = jnp.split(wide(time_first(x) @ b), 2, -1)
        h = jnp.concatenate(recurrence(self._eigenvalues(nu, theta), tuple(u)), -1).astype(x.dtype)
        return time_first(h @ c) + along(d, x) * x, (x, h)

    def backward(self, params, residuals, dy, /):
        _, h = residuals
        real, imaginary = self._eigenvalues(params["nu"], params["theta"])
        (b, c, d), dtype = (params[name].astype(dy.dtype) for name in "bcd"), params["nu"].dtype
        e = jnp.split(wide(time_first(dy) @ c.T), 2, -1)
        g = recurrence((real, -imaginary), tuple(e), reverse=True)
        before = jnp.split(wide(jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])), 2, -1)
        d_real, d_imaginary = _turn((before[0], -before[1]), g)
        turned = _turn((real[None], -imaginary[None]), (d_real.sum(0), d_imaginary.sum(0)))  # λ̄ dλ (b, n)
        dnu = -turned[0] * jnp.exp(wide(params["nu"]))[None]
        dtheta = turned[1] * jnp.exp(wide(params["theta"]))[None]
        g = time_first(jnp.concatenate(g, -1)).astype(dy.dtype)
        dx = g @ b.T + along(d, dy) * dy
        return dx, tuple(part.astype(dtype) for part in (g, dy, dnu, dtheta))

    def gradient(self, residuals, delta, /):
        (x, h), (g, dy, dnu, dtheta) = residuals, delta
        return {
            "nu": dnu.sum(0),
            "theta": dtheta.sum(0),
            "b": outer(x, g),
            "c": outer(h, time_first(dy)),
            "d": (x.astype(dy.dtype) * dy).sum((0, 1)),
        }

    def reference(self, params, x, /):
        n = self.states
        size, angle = jnp.exp(-jnp.exp(params["nu"]))[None], jnp.exp(params["theta"])[None]
        real, imaginary, b, c = size * jnp.cos(angle), size * jnp.sin(angle), params["b"], params["c"]

        def step(h, x):
            h_r, h_i = h
            h = real * h_r - imaginary * h_i + x @ b[:, :n], real * h_i + imaginary * h_r + x @ b[:, n:]
            return h, h[0] @ c[:n] + h[1] @ c[n:] + params["d"][None] * x

        zero = jnp.zeros((x.shape[0], n), x.dtype)
        return time_first(lax.scan(step, (zero, zero), time_first(x))[1])


CHUNK = 16  # steps of the selective scan at a time: all of their states are in memory at once


@dataclass(frozen=True)
class SelectiveStateSpace(Layer):
    """h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t, y_t = Σ C_t h_t + D x_t: a state of `states` numbers for each feature.

    Step size and both ends depend on x: Δ = softplus(p R + b) with p = x P, B_t = x_t W_B, C_t = x_t W_C. A = −exp α,
    so a_t = exp(Δ_t A) is in (0, 1). With g_t the error at h_t, (f, n) for each example:

        g_t = dy_t C_t + a_{t+1} g_{t+1}      k_t = g_t h_{t−1} a_t      dΔ = Σ_n (k A + g B x)      dA = Σ k Δ
        dB = Σ_f g Δ x      dC = Σ_f dy h      dq = dΔ (1 − e^{−Δ})      dp = dq Rᵀ      dα = A dA
        dx = Σ_n g Δ B + D dy + dB W_Bᵀ + dC W_Cᵀ + dp Pᵀ
        dW_B = xᵀ dB      dW_C = xᵀ dC      dP = xᵀ dp      dR = pᵀ dq      db = Σ dq      dD = Σ x dy

    delta is (dB, dC, dp, dq, dy, dα of each example). Keeps x, p, Δ, B, C and the state at the start of every 16 steps;
    the states between, which are `states` times as large as x, are made again in backward, a chunk at a time by an
    associative scan, and on CPUs one by one: there the scan's parallel steps are only more work. Shapes: x and
    y (b, t, f), α (f, n), P (f, rank), R (rank, f), W_B and W_C (f, n), b and D (f,).
    A starts at −1, ..., −n, Δ between 0.001 and 0.1. (Gu & Dao, *Mamba: Linear-Time Sequence Modeling with Selective
    State Spaces*, 2023, §3.2, algorithm 2.) Raises LayerError for another rank.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = SelectiveStateSpace(4).init(jax.random.key(0), x)
    >>> SelectiveStateSpace(4)(params, x).shape
    (2, 5, 3)
    """

    states: Size
    rank: Size = 1

    def _shapes(self, x):
        f, n, r = floats(self, x, "(batch, time, features)", rank=3).shape[-1], self.states, self.rank
        return {"a": (f, n), "p": (f, r), "r": (r, f), "b": (f,), "w_b": (f, n), "w_c": (f, n), "d": (f,)}

    def init(self, key, x, /):
        shapes = self._shapes(x)
        (f, n), dtype = shapes["a"], x.dtype
        keys = jax.random.split(key, 5)
        w = {
            name: jax.random.normal(k, shapes[name], dtype) * max(shapes[name][0], 1) ** -0.5
            for name, k in zip(("p", "r", "w_b", "w_c"), keys[1:], strict=True)
        }
        step = jnp.exp(jax.random.uniform(keys[0], (f,), dtype, math.log(0.001), math.log(0.1)))
        a = jnp.broadcast_to(jnp.log(jnp.arange(1, n + 1, dtype=dtype)), (f, n))
        return w | {"a": a, "r": w["r"] * 0.1, "b": jnp.log(jnp.expm1(step)), "d": jnp.ones(f, dtype)}

    def forward(self, params, x, /):
        shapes = self._shapes(x)
        a, *rest = take(self, params, x.dtype, **shapes)
        p, r, bias, w_b, w_c, d = (w.astype(x.dtype) for w in rest)
        p = x @ p
        z = p @ r
        z = z + along(bias, z)
        delta = jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))
        b, c = x @ w_b, x @ w_c
        negative = -jnp.exp(wide(a))

        def steps(start, now):
            end, (_, y) = scan(partial(_up, negative), start, _alone(now))
            return end, (start, y[:, 0])

        def chunk(start, now):
            return lax.platform_dependent(start, now, cpu=steps, default=partial(_up, negative))

        start = jnp.zeros((x.shape[0], *a.shape), negative.dtype)
        _, (starts, y) = scan(chunk, start, tuple(map(_chunks, (x, delta, b, c))))
        y = _whole(y, x).astype(x.dtype) + along(d, x) * x
        return y, (x, p, delta, b, c, starts)

    def backward(self, params, residuals, dy, /):
        x, _, delta, b, c, starts = residuals
        negative = -jnp.exp(wide(params["a"]))

        def steps(carry, now):
            *now, start = now
            now = _alone(now)
            _, (starts, _) = scan(partial(_up, negative), start, now[:4])
            carry, down = scan(partial(_down, negative), carry, (*now, starts), reverse=True)
            return carry, [v[:, 0] for v in down]

        def chunk(carry, now):
            return lax.platform_dependent(carry, now, cpu=steps, default=partial(_down, negative))

        zero = jnp.zeros((x.shape[0], *negative.shape), negative.dtype)
        parts = (*map(_chunks, (x, delta, b, c, dy)), starts)
        (_, da), down = scan(chunk, (zero, zero), parts, reverse=True)
        dx, ddelta, db, dc = (_whole(v, x) for v in down)
        w, dtype = {name: p.astype(dy.dtype) for name, p in params.items()}, params["a"].dtype
        dq = (ddelta * -jnp.expm1(-wide(delta))).astype(dy.dtype)
        db, dc, da = db.astype(dy.dtype), dc.astype(dy.dtype), da * negative[None]
        dp = dq @ w["r"].T
        dx = dx.astype(dy.dtype) + along(w["d"], dy) * dy
        dx = dx + db @ w["w_b"].T + dc @ w["w_c"].T + dp @ w["p"].T
        return dx, tuple(part.astype(dtype) for part in (db, dc, dp, dq, dy, da))

    def gradient(self, residuals, delta, /):
        (x, p, *_), (db, dc, dp, dq, dy, da) = residuals, delta

        return {
            "a": da.sum(0),
            "p": outer(x, dp),
            "r": outer(p, dq),
            "b": dq.sum((0, 1)),
            "w_b": outer(x, db),
            "w_c": outer(x, dc),
            "d": (x.astype(dy.dtype) * dy).sum((0, 1)),
        }

    def reference(self, params, x, /):
        z = x @ params["p"] @ params["r"] + params["b"][None, None]
        delta = jnp.where(z > 0, z, 0) + jnp.log1p(jnp.exp(jnp.where(z > 0, -z, z)))
        a = -jnp.exp(params["a"])[None]

        def step(h, now):
            x, delta, b, c = now
            h = jnp.exp(delta[..., None] * a) * h + (delta * x)[..., None] * b[:, None]
            return h, (h * c[:, None]).sum(-1) + params["d"][None] * x

        sequences = x, delta, x @ params["w_b"], x @ params["w_c"]
        start = jnp.zeros((x.shape[0], *params["a"].shape), x.dtype)
        return time_first(lax.scan(step, start, tuple(map(time_first, sequences)))[1])


def _up(negative, start, now):
    """(h at the end, (h at the start, y)) of a chunk (t, b, ...) of x, Δ, B and C."""
    x, delta, b, c = now
    h = _states(start, *_step(negative, x, delta, b))
    return h[-1], (start, jnp.einsum("tbfn,tbn->tbf", h, c))


def _down(negative, carry, now):
    """((a g, dA), (dx, dΔ, dB, dC)) of a chunk. The carry is a g of the next chunk's first step, and dA so far."""
    g, da = carry
    x, delta, b, c, dy, start = now
    a, u = _step(negative, x, delta, b)
    h = _states(start, a, u)
    before = jnp.concatenate([start[None], h[:-1]])
    e = dy[..., None] * c[:, :, None]
    e = e.at[-1].add(g)
    g = _scan(jnp.concatenate([a[1:], jnp.ones_like(a[:1])]), e, reverse=True)
    k = g * before * a
    gb = jnp.einsum("tbfn,tbn->tbf", g, b)
    down = [
        gb * delta,
        jnp.einsum("tbfn,fn->tbf", k, negative) + gb * x,
        jnp.einsum("tbfn,tbf->tbn", g, delta * x),
        jnp.einsum("tbfn,tbf->tbn", h, dy),
    ]
    return (a[0] * g[0], da + jnp.einsum("tbfn,tbf->bfn", k, delta)), down


def _alone(sequences):
    """A chunk of many steps as that many chunks of one."""
    return [v[:, None] for v in sequences]


def _step(negative, x, delta, b):
    """exp(Δ A) and Δ B x of a chunk, (t, b, f, n) each."""
    return jnp.exp(delta[..., None] * negative[None, None]), (delta * x)[..., None] * b[:, :, None]


def _scan(a, u, reverse=False):
    """h_t = a_t h_{t−1} + u_t along the first axis, or h_t = a_t h_{t+1} + u_t from the end."""
    return lax.associative_scan(lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1]), (a, u), reverse=reverse)[
        1
    ]


def _states(start, a, u):
    """All states of a chunk that begins in `start`."""
    return _scan(a, u.at[0].add(a[0] * start))


def _chunks(x):
    """(b, t, ...) as (chunks, steps, b, ...), wide, the last filled with zeros: a step of Δ = 0 changes nothing."""
    x = wide(time_first(x))
    size = max(1, min(CHUNK, x.shape[0]))
    count = -(-x.shape[0] // size)
    x = jnp.pad(x, ((0, count * size - x.shape[0]), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(count, size, *x.shape[1:])


def _whole(x, like):
    """The inverse of `_chunks`, as long as `like`."""
    return time_first(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[: like.shape[1]])


CASES = (
    Case(DiagonalStateSpace(2), f(2, 5, 3)),
    Case(DiagonalStateSpace(5), f(3, 4, 1)),
    Case(SelectiveStateSpace(2), f(2, 5, 3)),
    Case(SelectiveStateSpace(3, rank=2), f(3, 4, 1)),
)
