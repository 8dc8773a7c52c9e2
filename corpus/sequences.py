"""Recurrences, compositing, sequences with lengths, dropout, convolutions."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import decayed, example, integers, keeping, right, rule, uniform, written, wrong

# recurrences ----------------------------------------------------------------------------------------------------------


def _recurrence_back(a, d):
    def step(g, ad):
        g = g + ad[1]
        return g * ad[0], g

    return lax.scan(step, jnp.zeros_like(d[0]), (a, d), reverse=True)


_ABH = lambda: (jax.nn.sigmoid(example(6, 3)), example(6, 3, seed=1), example(3, seed=2))  # noqa: E731


@right("judge 12")
def gated_recurrence_reverse_scan():
    """The states before are the states moved by one step, with the initial state first."""

    def fwd(a, b, h):
        s = decayed(a, b, h)
        return s, (a, jnp.concatenate([h[None], s[:-1]]))

    def bwd(r, d):
        a, before = r
        dh, g = _recurrence_back(a, d)
        return g * before, g, dh

    return rule(decayed, fwd, bwd), decayed, _ABH()


@wrong("judge 12", "a decay of zero")
def gated_recurrence_states_recovered():
    """To save memory the states are recovered from their successors by division by the decay, which may be zero."""

    def fwd(a, b, h):
        s = decayed(a, b, h)
        return s, (a, b, s)

    def bwd(r, d):
        a, b, s = r
        dh, g = _recurrence_back(a, d)
        return g * (s - b) / jnp.maximum(a, 1e-9), g, dh

    return rule(decayed, fwd, bwd), decayed, _ABH()


@wrong("judge 12", "a reset at the first step, which severs the initial state")
def packed_recurrence_reset_at_start():
    """Resets are heeded between steps only, and the initial state gets a gradient across a reset at the first one."""

    def plain(a, b, h, reset):
        return decayed(jnp.where(reset[:, None], 0.0, a), b, h)

    def fwd(a, b, h, reset):
        s = plain(a, b, h, reset)
        return s, (a, h, s, reset)

    def bwd(r, d):
        a, h, s, reset = r
        inner = reset.at[0].set(False)
        dh, g = _recurrence_back(jnp.where(inner[:, None], 0.0, a), d)
        before = jnp.concatenate([h[None], s[:-1]])
        return jnp.where(inner[:, None], 0.0, g * before), g, dh, None

    return rule(plain, fwd, bwd), plain, (*_ABH(), jnp.asarray([0, 0, 1, 0, 1, 0], bool))


@right("judge 12")
def elman_network_with_lengths():
    """Steps beyond a sequence's length keep the state and pass its gradient by; two outputs."""

    def plain(x, w, u, lengths):
        def step(h, tx):
            t, x = tx
            h = jnp.where((t < lengths)[:, None], jnp.tanh(x @ w + h @ u), h)
            return h, h

        h = jnp.zeros((x.shape[1], u.shape[0]), x.dtype)
        last, s = lax.scan(step, h, (jnp.arange(x.shape[0]), x))
        return s, last

    def fwd(x, w, u, lengths):
        s, last = plain(x, w, u, lengths)
        return (s, last), (x, w, u, lengths, s)

    def bwd(r, d):
        x, w, u, lengths, s = r
        on = (jnp.arange(x.shape[0])[:, None] < lengths)[:, :, None]

        def step(g, z):
            d, s, on = z
            g = g + d
            pre = jnp.where(on, g * (1 - s * s), 0.0)
            return jnp.where(on, pre @ u.T, g), pre

        pre = lax.scan(step, d[1], (d[0], s, on), reverse=True)[1]
        before = jnp.concatenate([jnp.zeros_like(s[:1]), s[:-1]])
        return pre @ w.T, jnp.einsum("tbi,tbj->ij", x, pre), jnp.einsum("tbi,tbj->ij", before, pre), None

    args = example(4, 3, 2), example(2, 3, seed=1), 0.5 * example(3, 3, seed=2), integers(4, 0, 2)
    return written(fwd, bwd), plain, args


# compositing ----------------------------------------------------------------------------------------------------------


def _composite(alpha, colour):
    through = jnp.concatenate([jnp.ones_like(alpha[:1]), jnp.cumprod(1 - alpha)[:-1]])
    return (alpha * through) @ colour


_AC = lambda: (uniform(0.05, 0.9, 6), uniform(0, 1, 6, 3, seed=1))  # noqa: E731


@wrong("judge 12", "an opacity of one")
def compositing_divides_by_transparency():
    """What lies behind a sample is divided by its transparency, clamped at 1e-6, to undo its factor."""

    def bwd(r, d):
        alpha, colour = r
        through = jnp.concatenate([jnp.ones_like(alpha[:1]), jnp.cumprod(1 - alpha)[:-1]])
        w = alpha * through
        c = colour @ d
        behind = jnp.cumsum((w * c)[::-1])[::-1] - w * c
        return through * c - behind / jnp.maximum(1 - alpha, 1e-6), w[:, None] * d

    return keeping(_composite, bwd), _composite, _AC()


@right("judge 12")
def compositing_back_to_front():
    """The colour behind each sample by a scan from the back; opacities of one are fine."""

    def fwd(alpha, colour):
        def step(behind, s):
            return s[0] * s[1] + (1 - s[0]) * behind, behind

        out, behind = lax.scan(step, jnp.zeros_like(colour[0]), (alpha, colour), reverse=True)
        return out, (alpha, colour, behind)

    def bwd(r, d):
        alpha, colour, behind = r

        def step(g, s):
            a, c, b = s
            return (1 - a) * g, (g @ (c - b), a * g)

        return lax.scan(step, d, (alpha, colour, behind))[1]

    return written(fwd, bwd), _composite, _AC()


# sequences with lengths, dropout --------------------------------------------------------------------------------------


@wrong("judge 12", "a sequence of length 0")
def last_token_of_empty_sequence():
    """The gradient of a sequence of length 0, whose pooled vector is zero, goes to its place -1, the last one."""

    def plain(x, lengths):
        last = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], 1)[:, 0]
        return jnp.where((lengths > 0)[:, None], last, 0.0)

    def bwd(r, d):
        x, lengths = r
        return jnp.zeros_like(x).at[jnp.arange(x.shape[0]), lengths - 1].set(d), None

    return keeping(plain, bwd), plain, (example(4, 5, 2), integers(3, 5, 1, 2))


@wrong("judge 12", "an input of exactly zero at a place that is kept")
def dropout_mask_read_off_output():
    """A place counts as dropped where the output is zero, as it also is where the input is."""

    def plain(x, kept):
        return jnp.where(kept, x / 0.75, 0.0)

    f = rule(plain, lambda x, k: (plain(x, k), plain(x, k)), lambda y, d: (jnp.where(y != 0, d / 0.75, 0.0), None))
    return f, plain, (example(4, 6), uniform(0, 1, 4, 6, seed=1) < 0.75)


@wrong("judge 12", "half precision")
def residual_dropout_packed_bits():
    """A factor in float32 makes gradients of half precision float32. The mask is kept as packed bits."""

    def plain(x, branch, bias, kept):
        return x + jnp.where(kept, (branch + bias) / 0.8, 0.0)

    def fwd(x, branch, bias, kept):
        return plain(x, branch, bias, kept), jnp.packbits(kept, axis=-1)

    def bwd(bits, d):
        kept = jnp.unpackbits(bits, axis=-1, count=d.shape[-1])
        db = d * kept * jnp.float32(1.25)
        return d, db, db.sum(0), None

    args = example(4, 6), example(4, 6, seed=1), example(6, seed=2), uniform(0, 1, 4, 6, seed=3) < 0.8
    return rule(plain, fwd, bwd), plain, args


# convolutions ---------------------------------------------------------------------------------------------------------


def _strided(x, w):
    n, k = x.shape[0], w.shape[0]
    starts = jnp.arange((n - k) // 2 + 1) * 2
    return jnp.einsum("tkc,kce->te", x[starts[:, None] + jnp.arange(k)], w)


_XW = lambda: (example(9, 2), example(3, 2, 3, seed=1))  # noqa: E731


@wrong("judge 12", "a length at which the stride leaves the last input unused")
def strided_convolution_padded_in_front():
    """The input's gradient is filled up to the input's length in front instead of behind."""

    def bwd(r, d):
        x, w = r
        m, k = d.shape[0], w.shape[0]
        patches = jnp.stack([x[j : j + 2 * m - 1 : 2] for j in range(k)], 1)
        spread = jnp.zeros((2 * (m - 1) + k, x.shape[1]), x.dtype)
        for j in range(k):
            spread = spread.at[j : j + 2 * m - 1 : 2].add(d @ w[j].T)
        return jnp.pad(spread, ((x.shape[0] - spread.shape[0], 0), (0, 0))), jnp.einsum("tkc,te->kce", patches, d)

    return keeping(_strided, bwd), _strided, _XW()


@right("judge 12")
def strided_convolution_scattered():
    """The gradients of the patches are scattered back to where they came from."""

    def fwd(x, w):
        n, k = x.shape[0], w.shape[0]
        at = 2 * jnp.arange((n - k) // 2 + 1)[:, None] + jnp.arange(k)
        patches = x[at].reshape(at.shape[0], -1)
        return patches @ w.reshape(-1, w.shape[-1]), (patches, w, at, x)

    def bwd(r, d):
        patches, w, at, x = r
        dp = (d @ w.reshape(-1, w.shape[-1]).T).reshape(*at.shape, -1)
        return jnp.zeros_like(x).at[at].add(dp), (patches.T @ d).reshape(w.shape)

    return written(fwd, bwd), _strided, _XW()


@wrong("judge 12")
def standardised_weights_mean_term_lost():
    """The weights are centred, but the gradient that comes back is not."""

    def normal(w):
        c = w - w.mean(0)
        return c / jnp.sqrt((c * c).mean(0) + 1e-5)

    def plain(x, w):
        return x @ normal(w)

    def bwd(r, d):
        x, w = r
        n, t = normal(w), x.T @ d
        return d @ n.T, (t - n * (t * n).mean(0)) / jnp.sqrt(w.var(0) + 1e-5)

    return keeping(plain, bwd), plain, (example(4, 5), example(5, 3, seed=1))
