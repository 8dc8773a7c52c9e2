"""Recurrences, forth and back through time."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import SINGLE, decayed, example, floats, keeping, right, rule, simplex, uniform, written, wrong


def recurrent(wh, wx, xs, h):
    """tanh(h Wh + x Wx), step by step."""
    hs = []
    for x in xs:
        h = jnp.tanh(h @ wh + x @ wx)
        hs.append(h)
    return jnp.stack(hs)


def later(a, d):
    """The adjoint of `decayed`: e = d + a' e, from the end, a' the decay of the step after."""
    after = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    return decayed(after[::-1], d[::-1], jnp.zeros_like(d[0]))[::-1]


def before(h, first):
    return jnp.concatenate([first[None], h[:-1]])


def gated(a, x):
    """h = a h + x, step by step: all h."""

    def step(h, ax):
        h = ax[0] * h + ax[1]
        return h, h

    return lax.scan(step, jnp.zeros((), x.dtype), (a, x))[1]


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def gated_recurrence():
    """h = a h + x with learned decay, run backwards by a second scan."""

    def plain(x, a):
        def step(h, x):
            h = jax.nn.sigmoid(a) * h + x
            return h, h

        return lax.scan(step, jnp.zeros_like(a), x)[1]

    def bwd(r, d):
        hs, a = r
        s = jax.nn.sigmoid(a)

        def step(e, both):
            d, h = both
            e = d + s * e
            return e, (e, e * h)

        before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
        _, (dx, da) = lax.scan(step, jnp.zeros_like(a), (d, before), reverse=True)
        return dx, da.sum(0) * s * (1 - s)

    return rule(plain, lambda x, a: (plain(x, a), (plain(x, a), a)), bwd), plain, (example(6, 4), example(4, seed=1))


@right("judge 1")
def rnn_sqrt_checkpointed():
    """Chunks of four steps, of which only the first state is kept; other lengths are refused."""

    def plain(w, h, xs):
        hs = []
        for x in xs:
            h = jnp.tanh(w @ h + x)
            hs.append(h)
        return h, jnp.stack(hs)

    def chunk(w, h, xs):
        return lax.scan(lambda h, x: (jnp.tanh(w @ h + x),) * 2, h, xs)

    def fwd(w, h, xs):
        if len(xs) % 4:
            raise ValueError(f"the length {len(xs)} is not a multiple of 4")
        chunks = xs.reshape(-1, 4, *xs.shape[1:])

        def step(h, xs):
            new, ys = chunk(w, h, xs)
            return new, (h, ys)

        h, (first, ys) = lax.scan(step, h, chunks)
        return (h, ys.reshape(xs.shape)), (w, first, chunks)

    def bwd(r, ds):
        w, first, chunks = r

        def step(c, now):
            dh, dw = c
            h, xs, dys = now
            g, dh, dxs = jax.vjp(jax.checkpoint(chunk), w, h, xs)[1]((dh, dys))
            return (dh, dw + g), dxs

        now = first, chunks, ds[1].reshape(chunks.shape)
        (dh, dw), dxs = lax.scan(step, (ds[0], jnp.zeros_like(w)), now, reverse=True)
        return dw, dh, dxs.reshape(ds[1].shape)

    return written(fwd, bwd), plain, (example(5, 5, scale=0.4), example(5, seed=1), example(12, 5, seed=2))


@right("judge 1")
def recurrence_by_associative_scan():
    def plain(a, b):
        return decayed(a, b, jnp.zeros_like(b[0]))

    def scan(a, b, **options):
        return lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b), **options)[1]

    def fwd(a, b):
        h = scan(a, b)
        return h, (a, h)

    def bwd(r, d):
        a, h = r
        e = scan(jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]), d, reverse=True)
        return e * before(h, jnp.zeros_like(h[0])), e

    return written(fwd, bwd), plain, (uniform(0.5, 0.99, 17, 5), example(17, 5, seed=1))


@right("judge 1")
def soft_dtw():
    """Warping of two series by a smooth minimum, with a border of 1e8."""

    def table(x):
        def row(above, costs):
            def cell(left, now):
                cost, up, corner = now
                y = cost - 0.5 * jax.nn.logsumexp(jnp.stack([up, left, corner]) / -0.5)
                return y, y

            wall = jnp.asarray(1e8, x.dtype)
            ys = lax.scan(cell, wall, (costs, above[1:], above[:-1]))[1]
            return jnp.concatenate([wall[None], ys]), ys

        return lax.scan(row, jnp.full(x.shape[1] + 1, 1e8, x.dtype).at[0].set(0), x)[1]

    def plain(x):
        return table(x)[-1, -1]

    def fwd(x):
        y = table(x)
        return y[-1, -1], (x, y)

    def bwd(r, d):
        x, y = r
        n, m = x.shape
        x, z = jnp.pad(x, (0, 1)), jnp.pad(y, (0, 1), constant_values=-jnp.inf)

        def row(below, i):
            def cell(right, j):
                share = lambda p, q: jnp.where((p < n) & (q < m), jnp.exp((z[p, q] - y[i, j] - x[p, q]) * 2), 0)  # noqa: E731
                e = share(i + 1, j) * below[j] + share(i, j + 1) * right + share(i + 1, j + 1) * below[j + 1]
                e = jnp.where((i == n - 1) & (j == m - 1), 1, e)
                return e, e

            es = lax.scan(cell, jnp.zeros((), x.dtype), jnp.arange(m), reverse=True)[1]
            return jnp.pad(es, (0, 1)), es

        return (d * lax.scan(row, jnp.zeros(m + 1, x.dtype), jnp.arange(n), reverse=True)[1],)

    return written(fwd, bwd), plain, (uniform(0, 3, 5, 6),)


@right("judge 1")
def hidden_markov_posteriors():
    """The log-likelihood's gradient is the posterior; the definition multiplies probabilities."""
    add = jax.nn.logsumexp

    def plain(first, moves, seen):
        p = jnp.exp(first + seen[0])
        for s in seen[1:]:
            p = (p @ jnp.exp(moves)) * jnp.exp(s)
        return jnp.log(p.sum())

    def fwd(first, moves, seen):
        def step(a, s):
            a = add(a[:, None] + moves, 0) + s
            return a, a

        a = first + seen[0]
        a = jnp.concatenate([a[None], lax.scan(step, a, seen[1:])[1]])
        return add(a[-1]), (moves, seen, a)

    def bwd(r, d):
        moves, seen, a = r

        def step(b, s):
            b = add(moves + (s + b), 1)
            return b, b

        last = jnp.zeros_like(a[-1])
        b = jnp.concatenate([lax.scan(step, last, seen[1:], reverse=True)[1], last[None]])
        p = jnp.exp(a + b - add(a[-1]))
        pairs = jnp.exp(a[:-1, :, None] + moves + (seen[1:] + b[1:])[:, None] - add(a[-1])).sum(0)
        return d * p[0], d * pairs, d * p

    return written(fwd, bwd), plain, (jnp.log(simplex(4)), jnp.log(simplex(4, 4, seed=1)), example(7, 4, seed=2))


@right("judge 1")
def decays_of_a_scan():
    """As `first_state_taken_for_zero`, with the first state."""

    def bwd(r, d):
        a, b, h0 = r
        h, e = decayed(a, b, h0), later(a, d)
        return e * before(h, h0), e, e[0] * a[0]

    return keeping(decayed, bwd), decayed, (uniform(0.3, 0.9, 6), example(6, seed=1), SINGLE(0))


@right("judge 11")
def gated_recurrence_adjoint():
    """h = a h + x, with the states kept; the gates may be zero. State space models."""

    run = gated

    f = jax.custom_vjp(run)

    def fwd(a, x):
        h = run(a, x)
        return h, (a, h)

    def bwd(r, g):
        a, h = r

        def step(lam, ag):
            lam = lam + ag[1]
            return ag[0] * lam, lam

        _, lam = lax.scan(step, jnp.zeros((), g.dtype), (a, g), reverse=True)
        prev = jnp.concatenate([jnp.zeros((1,), h.dtype), h[:-1]])
        return lam * prev, lam

    f.defvjp(fwd, bwd)
    return f, run, (uniform(0, 1, 6, seed=440), example(6, seed=441))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 1")
def state_after_the_step():
    """The recurrent weights get the state that they made, not the one that they saw."""

    def bwd(r, d):
        wh, wx, xs, h0, hs = r

        def step(e, now):
            h, x, d = now
            a = (e + d) * (1 - h * h)
            return a @ wh.T, (h.T @ a, x.T @ a, a @ wx.T)

        dh, (dwh, dwx, dx) = lax.scan(step, jnp.zeros_like(h0), (hs, xs, d), reverse=True)
        return dwh.sum(0), dwx.sum(0), dx, dh

    def fwd(wh, wx, xs, h0):
        hs = recurrent(wh, wx, xs, h0)
        return hs, (wh, wx, xs, h0, hs)

    args = 0.4 * example(6, 6), 0.4 * example(4, 6, seed=1), example(5, 3, 4, seed=2), 0.5 * example(3, 6, seed=3)
    return written(fwd, bwd), recurrent, args


@wrong("judge 1", edge="other sizes and ranks")
def nothing_carried_between_chunks():
    """Chunks of 32 steps, each with its own backward pass."""

    def plain(a, b):
        return decayed(a, b, jnp.zeros_like(b[0]))

    def bwd(r, d):
        a, b = r
        h = plain(a, b)
        chunks = [slice(i, i + 32) for i in range(0, len(a), 32)]
        e = jnp.concatenate([later(a[c], d[c]) for c in chunks]) if chunks else d
        return e * before(h, jnp.zeros_like(h[0])), e

    return keeping(plain, bwd), plain, (uniform(0.5, 0.99, 24), example(24, seed=1))


@wrong("judge 1", edge="particular values")
def first_state_taken_for_zero():
    def bwd(r, d):
        a, b, h0 = r
        h, e = decayed(a, b, h0), later(a, d)
        return e * before(h, jnp.zeros_like(h0)), e, e[0] * a[0]

    return keeping(decayed, bwd), decayed, (uniform(0.3, 0.9, 6), example(6, seed=1), jnp.float32(0))


@wrong("judge 11", edge="a gate of zero")
def recurrence_reversed_state():
    """h = a h + x, the states rebuilt backwards by division by the gate.
    Re-creates: "reversible scan / minGRU wrong when the forget gate saturates"."""

    plain = gated

    f = jax.custom_vjp(plain)

    def fwd(a, x):
        y = plain(a, x)
        return y, (a, x, y[-1])

    def bwd(res, g):
        a, x, last = res

        def step(carry, axg):
            h, lam = carry
            ai, xi, gi = axg
            lam = lam + gi
            prev = jnp.where(ai == 0, 0, (h - xi) / jnp.where(ai == 0, 1, ai))
            return (prev, lam * ai), (lam * prev, lam)

        (_, _), (da, dx) = lax.scan(step, (last, jnp.zeros_like(last)), (a, x, g), reverse=True)
        return da, dx

    f.defvjp(fwd, bwd)
    return f, plain, (floats(0.5, 0.7, 0.9, 0.3), example(4, seed=24))
