"""Recurrent cells, state-space scans and sums over paths."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import complex_example, decayed, example, keeping, right, rule, unbroadcast, uniform, wrong


@wrong("judge 14", "fewer steps than the state holds")
def causal_taps_state_of_short_chunks():
    """The state is the last three inputs; of a shorter chunk a part of the old state stays, whose gradient is lost."""

    def plain(x, w, state):
        seen = jnp.concatenate([state, x])
        return sum(w[t] * seen[t : t + x.shape[0]] for t in range(4)), seen[-3:]

    def bwd(r, d):
        x, w, state = r
        (dy, dstate), n = d, x.shape[0]
        seen = jnp.concatenate([state, x])
        back, new = jnp.zeros_like(seen), min(3, n)
        for t in range(4):
            back = back.at[t : t + n].add(w[t] * dy)
        dw = jnp.stack([(dy * seen[t : t + n]).sum(0) for t in range(4)])
        return back[3:].at[n - new :].add(dstate[3 - new :]), dw, back[:3]

    return keeping(plain, bwd), plain, (example(6, 2), example(4, 2, seed=1), example(3, 2, seed=2))


@wrong("judge 14", "a number of steps that is no multiple of four")
def last_state_lost_in_padding():
    """The scan is filled up to fours with decays of zero, so that the last state's gradient doesn't reach a step."""

    def plain(a, b):
        h = decayed(a, b, jnp.zeros_like(b[0]))
        return h, h[-1]

    def fwd(a, b):
        out = plain(a, b)
        return out, (a, out[0])

    def bwd(r, d):
        a, h = r
        rest = ((0, -a.shape[0] % 4), (0, 0))

        def step(later, now):
            g = now[1] + later
            return now[0] * g, g

        g = lax.scan(step, d[1], (jnp.pad(a, rest), jnp.pad(d[0], rest)), reverse=True)[1][: a.shape[0]]
        return g * jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]), g

    return rule(plain, fwd, bwd), plain, (uniform(0.3, 0.95, 8, 3), example(8, 3, seed=1))


@wrong("judge 14", "a cotangent of the cell alone")
def cell_skipped_without_hidden_cotangent():
    """A memory cell whose output has no cotangent is skipped, though its state may have one."""

    def plain(z, c):
        i, f, g, o = jnp.split(z, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def bwd(r, d):
        z, before = r
        dh, dc = d
        i, f, g, o = jnp.split(z, 4, -1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        t = jnp.tanh(f * before + i * g)
        dc = dc + dh * o * (1 - t * t)
        gates = dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)
        live = jnp.any(dh != 0)
        return jnp.where(live, jnp.concatenate(gates, -1), 0.0), jnp.where(live, dc * f, 0.0)

    return keeping(plain, bwd), plain, (example(3, 8), example(3, 2, seed=1))


@wrong("judge 14")
def reset_after_the_product_forgotten():
    """The hidden share of the candidate is multiplied by the reset gate, and its gradient is not."""

    def gates(x, u):
        (xr, xz, xn), (ur, uz, un) = jnp.split(x, 3, -1), jnp.split(u, 3, -1)
        r = jax.nn.sigmoid(xr + ur)
        return r, jax.nn.sigmoid(xz + uz), jnp.tanh(xn + r * un), un

    def plain(x, u, h):
        _, z, n, _ = gates(x, u)
        return (1 - z) * n + z * h

    def bwd(kept, d):
        x, u, h = kept
        r, z, n, un = gates(x, u)
        dn = d * (1 - z) * (1 - n * n)
        dr, dz = dn * un * r * (1 - r), d * (h - n) * z * (1 - z)
        both = jnp.concatenate([dr, dz, dn], -1)
        return both, both, d * z

    return keeping(plain, bwd), plain, (example(3, 6), example(3, 6, seed=1), example(3, 2, seed=2))


@right("judge 14")
def memory_by_the_delta_rule():
    """A matrix learns to give each value for its key, at a rate for each step, and is asked by the queries."""

    def scanned(q, k, v, rate):
        def step(s, now):
            q, k, v, rate = now
            new = s + rate * jnp.outer(k, v - k @ s)
            return new, (q @ new, s)

        return lax.scan(step, jnp.zeros((k.shape[1], v.shape[1]), v.dtype), (q, k, v, rate))[1]

    def plain(q, k, v, rate):
        return scanned(q, k, v, rate)[0]

    def fwd(q, k, v, rate):
        out, before = scanned(q, k, v, rate)
        return out, (q, k, v, rate, before)

    def bwd(r, d):
        def step(ds, now):
            q, k, v, rate, s, do = now
            e = v - k @ s
            ds = ds + jnp.outer(q, do)
            through = k @ ds
            de = rate * through
            dq = (s + rate * jnp.outer(k, e)) @ do
            return ds - jnp.outer(k, de), (dq, rate * (ds @ e) - s @ de, de, through @ e)

        return lax.scan(step, jnp.zeros_like(r[4][0]), (*r, d), reverse=True)[1]

    args = example(5, 3), example(5, 3, seed=1, scale=0.6), example(5, 2, seed=2), uniform(0.1, 1.0, 5)
    return rule(plain, fwd, bwd), plain, args


@right("judge 14")
def advantages_between_ends():
    """Generalised advantages from rewards and one value more than those; nothing passes the end of an episode."""

    def live(done, x):
        return 1 - done.astype(x.dtype)

    def plain(reward, value, done):
        on = live(done, reward)
        delta = reward + 0.9 * on * value[1:] - value[:-1]

        def step(later, now):
            a = now[0] + 0.8 * now[1] * later
            return a, a

        return lax.scan(step, jnp.zeros_like(delta[0]), (delta, on), reverse=True)[1]

    def bwd(r, d):
        reward, value, done = r
        on = live(done, reward)

        def step(earlier, now):
            g = now[0] + earlier
            return 0.8 * now[1] * g, g

        g = lax.scan(step, jnp.zeros_like(d[0]), (d, on))[1]
        after, here = unbroadcast(0.9 * on * g, value[1:].shape), unbroadcast(-g, value[:-1].shape)
        return unbroadcast(g, reward.shape), jnp.zeros_like(value).at[1:].add(after).at[:-1].add(here), None

    done = jnp.asarray([False, False, True, False, False, True, False])
    return keeping(plain, bwd), plain, (example(7), example(8, seed=1), done)


@right("judge 14")
def complex_linear_recurrence():
    """A diagonal recurrence of complex states, read out as a real number; JAX's cotangents take no conjugate."""

    def states(decay, b):
        def step(h, now):
            h = decay * h + now
            return h, h

        return lax.scan(step, jnp.zeros_like(b[0]), b)[1]

    def plain(decay, b, out):
        return (states(decay, b) @ out).real

    def fwd(decay, b, out):
        h = states(decay, b)
        return (h @ out).real, (decay, out, h)

    def bwd(r, d):
        decay, out, h = r

        def step(later, now):
            g = now * out + decay * later
            return g, g

        g = lax.scan(step, jnp.zeros_like(h[0]), d, reverse=True)[1]
        before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        return unbroadcast(g * before, decay.shape), g, d @ h

    args = 0.5 * complex_example(1, 3), complex_example(2, 6, 3), complex_example(3, 3)
    return rule(plain, fwd, bwd), plain, args


@right("judge 14")
def transducer_over_its_lattice():
    """Minus log-probability of all ways to emit the labels in order, each frame ended by a blank; by both passes."""

    def emitted(emit):
        return jnp.pad(jnp.cumsum(emit, 1), ((0, 0), (1, 0)))

    def forth(blank, emit):
        sums = emitted(emit)

        def step(a, now):
            a = now[1] + lax.cumlogsumexp(a + now[0] - now[1])
            return a, a

        later = lax.scan(step, sums[0], (blank[:-1], sums[1:]))[1]
        return jnp.concatenate([sums[:1], later])

    def plain(blank, emit):
        return -(forth(blank, emit)[-1, -1] + blank[-1, -1])

    def bwd(r, d):
        blank, emit = r
        a, sums = forth(blank, emit), emitted(emit)

        def step(b, now):
            b = lax.cumlogsumexp(now[0] + b + now[1], reverse=True) - now[1]
            return b, b

        last = blank[-1, -1] + sums[-1, -1] - sums[-1]
        b = jnp.concatenate([lax.scan(step, last, (blank[:-1], sums[:-1]), reverse=True)[1], last[None]])
        dblank = jnp.exp(a[:-1] + blank[:-1] + b[1:] - b[0, 0])
        end = jnp.zeros_like(a[:1]).at[0, -1].set(1)
        demit = jnp.exp(a[:, :-1] + emit + b[:, 1:] - b[0, 0])
        return unbroadcast(-d * jnp.concatenate([dblank, end]), blank.shape), -d * demit

    return keeping(plain, bwd), plain, (-uniform(0.1, 2.0, 4, 3), -uniform(0.1, 2.0, 4, 2, seed=1))


@right("judge 14")
def chain_partition_of_a_length():
    """Log of the sum over all labellings of the first steps, as many as the length says; by marginals."""

    def forth(e, w, length):
        def step(a, now):
            moved = jax.nn.logsumexp(a[:, None] + w, 0) + now[0]
            a = jnp.where(now[1] < length, moved, a)
            return a, a

        later = lax.scan(step, e[0], (e[1:], jnp.arange(1, e.shape[0])))[1]
        return jnp.concatenate([e[:1], later])

    def plain(e, w, length):
        return jax.nn.logsumexp(forth(e, w, length)[-1])

    def bwd(r, d):
        e, w, length = r
        a, at = forth(e, w, length), jnp.arange(1, e.shape[0])
        total = jax.nn.logsumexp(a[-1])

        def step(b, now):
            moved = jax.nn.logsumexp(jnp.broadcast_to(w, (b.size, b.size)) + now[0] + b, 1)
            return jnp.where(now[1] < length, moved, b), b

        first, later = lax.scan(step, jnp.zeros_like(e[0]), (e[1:], at), reverse=True)
        on = (at < length)[:, None]
        pairs = a[:-1, :, None] + w + (e[1:] + later)[:, None] - total
        pairs = jnp.exp(jnp.where(on[..., None], pairs, -jnp.inf)).sum(0)
        marginals = jnp.exp(jnp.where(on, a[1:] + later - total, -jnp.inf))
        marginals = jnp.concatenate([jnp.exp(a[:1] + first - total), marginals])
        return d * marginals, unbroadcast(d * pairs, w.shape), None

    return keeping(plain, bwd), plain, (example(6, 3), example(3, 3, seed=1), jnp.asarray(4, jnp.int32))
