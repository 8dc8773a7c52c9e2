"""Transport, rankings, dynamic programs, cones and portfolios."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from corpus.common import (
    SINGLE,
    definite,
    example,
    keeping,
    right,
    rule,
    simplex,
    softmax,
    softmax_back,
    unbroadcast,
    uniform,
    wrong,
)


@wrong("judge 15", "equal incomes")
def gini_of_equal_incomes():
    """Equal incomes all get the lowest of the ranks that they share."""

    def plain(x):
        (n,) = x.shape
        weight = 2 * jnp.arange(n, dtype=x.dtype) + 1 - n
        return (weight * jnp.sort(x)).sum() / (n * x.sum())

    def bwd(r, d):
        (x,) = r
        n = x.shape[0]
        weight = 2 * (x < x[:, None]).sum(1).astype(x.dtype) + 1 - n
        return (d * (weight / n - plain(x)) / x.sum(),)

    return keeping(plain, bwd), plain, (uniform(0.5, 3.0, 7),)


@wrong("judge 15", "a point within the cone")
def second_order_cone_from_within():
    """A point within the cone gets the slope of the projection on the cone's face."""

    def parts(x, t):
        s = (x * x).sum(-1)
        safe = jnp.sqrt(jnp.where(s > 0, s, 1.0))
        norm = jnp.where(s > 0, safe, 0.0)
        return safe, norm <= t, norm <= -t, (norm + t) / 2

    def plain(x, t):
        safe, inside, polar, face = parts(x, t)
        y = jnp.where(polar[..., None], 0.0, (face / safe)[..., None] * x)
        return jnp.where(inside[..., None], x, y), jnp.where(inside, t, jnp.where(polar, 0.0, face))

    def bwd(r, d):
        x, t = r
        safe, _, polar, face = parts(x, t)
        u = x / safe[..., None]
        along = (u * d[0]).sum(-1)
        gx = (face / safe)[..., None] * d[0] + ((d[1] - along * t / safe) / 2)[..., None] * u
        return jnp.where(polar[..., None], 0.0, gx), jnp.where(polar, 0.0, (along + d[1]) / 2)

    return keeping(plain, bwd), plain, (uniform(0.5, 1.5, 4, 3, seed=1), uniform(-0.6, 0.6, 4, seed=2))


@wrong("judge 15", "a number of losses that four does not divide")
def shortfall_of_whole_losses():
    """The worst quarter is rounded down to whole losses, and the part of the next one is left out."""

    def plain(x):
        (n,) = x.shape
        share = jnp.clip(n / 4 - jnp.arange(n, dtype=x.dtype), 0.0, 1.0) * 4 / n
        return -(share * jnp.sort(-x)).sum()

    def bwd(r, d):
        (x,) = r
        count = x.shape[0] // 4
        rank = jnp.argsort(jnp.argsort(-x))
        return (jnp.where(rank < count, d / max(count, 1), 0.0),)

    return keeping(plain, bwd), plain, (example(8, seed=3),)


@wrong("judge 15", "scores far from zero")
def chain_marginals_without_logarithms():
    """Both ways' sums are of exponentials, which underflow or overflow where logarithms do not."""

    def plain(e, t):
        def step(a, now):
            return now + logsumexp(a[:, None] + t, axis=0), None

        return logsumexp(lax.scan(step, e[0], e[1:])[0])

    def bwd(r, d):
        u, m = jnp.exp(r[0]), jnp.exp(r[1])

        def forth(a, now):
            a = now * (a @ m)
            return a, a

        def back(b, now):
            b = m @ (now * b)
            return b, b

        a = jnp.concatenate([u[:1], lax.scan(forth, u[0], u[1:])[1]])
        one = jnp.ones_like(u[0])
        b = jnp.concatenate([lax.scan(back, one, u[1:], reverse=True)[1], one[None]])
        g = d / a[-1].sum()
        return g * a * b, g * m * (a[:-1].T @ (u[1:] * b[1:]))

    return keeping(plain, bwd), plain, (example(6, 3, seed=4), example(3, 3, seed=5))


@wrong("judge 15", "distances very far from one")
def potential_by_the_cube_of_distance():
    """The cube of the distance over- or underflows where neither the distance nor the slope does."""

    def distance(x):
        return jnp.sqrt((x * x).sum(-1))

    def plain(x, q):
        return q / distance(x)

    def bwd(r, d):
        x, q = r
        far = distance(x)
        return -(d * q / far**3)[..., None] * x, d / far

    return keeping(plain, bwd), plain, (example(5, 3, seed=6), example(5, seed=7))


@wrong("judge 15")
def elastic_net_step_of_negative_weights():
    """The threshold's gradient is that of positive weights for all of them."""

    def plain(x, t, m):
        return jnp.where(jnp.abs(x) > t, x - t * jnp.sign(x), 0.0) / (1 + m)

    def bwd(r, d):
        x, t, m = r
        g = jnp.where(jnp.abs(x) > t, d / (1 + m), 0.0)
        return g, -g.sum(), -(d * plain(x, t, m)).sum() / (1 + m)

    return keeping(plain, bwd), plain, (example(9, seed=8), jnp.asarray(0.4, SINGLE), jnp.asarray(0.3, SINGLE))


@right("judge 15")
def earth_moved_along_a_line():
    """Sum over the gaps of what has to pass; where nothing has to, the slope is zero."""

    def plain(p, q, gaps):
        return (jnp.abs(jnp.cumsum(p - q, -1)[..., :-1]) * gaps).sum(-1)

    def bwd(r, d):
        p, q, gaps = r
        passed = jnp.cumsum(p - q, -1)[..., :-1]
        s = d[..., None] * jnp.sign(passed) * gaps
        s = jnp.pad(s, [(0, 0)] * (s.ndim - 1) + [(0, 1)])
        g = jnp.cumsum(s[..., ::-1], -1)[..., ::-1]
        return (
            unbroadcast(g, p.shape),
            unbroadcast(-g, q.shape),
            unbroadcast(d[..., None] * jnp.abs(passed), gaps.shape),
        )

    return keeping(plain, bwd), plain, (simplex(3, 6, seed=9), simplex(3, 6, seed=10), uniform(0.5, 2.0, 5, seed=11))


@right("judge 15")
def score_of_the_best_path():
    """Largest sum of scores of states and of steps between them; equal ways share at every step."""

    def shares(x):
        top = (x == x.max(0)).astype(x.dtype)
        return top / top.sum(0)

    def plain(e, t):
        def step(a, now):
            return now + (a[:, None] + t).max(0), a

        return lax.scan(step, e[0], e[1:])[0].max()

    def bwd(r, d):
        e, t = r

        def step(a, now):
            return now + (a[:, None] + t).max(0), a

        def back(carry, a):
            g, gt = carry
            share = shares(a[:, None] + t) * g
            return (share.sum(1), gt + share), g

        last, before = lax.scan(step, e[0], e[1:])
        (first, gt), rest = lax.scan(back, (d * shares(last), jnp.zeros_like(t)), before, reverse=True)
        return jnp.concatenate([first[None], rest]), gt

    return keeping(plain, bwd), plain, (example(6, 3, seed=12), example(3, 3, seed=13))


@right("judge 15")
def tree_clipped_to_a_norm():
    """All leaves are scaled alike where their common norm is beyond the limit."""
    limit = 2.0

    def parts(tree):
        s = sum((x * x).sum() for x in jax.tree.leaves(tree))
        beyond = s > limit**2
        norm = jnp.sqrt(jnp.where(beyond, s, 1.0))
        return beyond, norm, jnp.where(beyond, limit / norm, 1.0)

    def plain(tree):
        scale = parts(tree)[2]
        return jax.tree.map(lambda x: scale * x, tree)

    def bwd(r, d):
        (tree,) = r
        beyond, norm, scale = parts(tree)
        inner = sum(jax.tree.leaves(jax.tree.map(lambda x, g: (x / norm * g).sum(), tree, d)))
        pull = jnp.where(beyond, inner, 0.0)
        return (jax.tree.map(lambda x, g: scale * (g - pull * (x / norm)), tree, d),)

    tree = {"w": example(3, 4, seed=14), "rest": (example(4, seed=15), jnp.asarray(0.7, SINGLE))}
    return keeping(plain, bwd), plain, (tree,)


@right("judge 15")
def relaxed_order_of_scores():
    """Rows that sum to one and pick the scores from the largest down; no score differs from itself."""
    heat = 0.7

    def plain(s):
        (n,) = s.shape
        rank = n - 1 - 2 * jnp.arange(n, dtype=s.dtype)
        spread = jnp.abs(s[:, None] - s).sum(1)
        return softmax((rank[:, None] * s - spread) / heat)

    def fwd(s):
        p = plain(s)
        return p, (s, p)

    def bwd(r, d):
        s, p = r
        n = s.shape[0]
        rank = n - 1 - 2 * jnp.arange(n, dtype=s.dtype)
        g = softmax_back(p, d) / heat
        h = g.sum(0)
        return ((rank[:, None] * g).sum(0) - (jnp.sign(s[:, None] - s) * (h[:, None] + h)).sum(1),)

    return rule(plain, fwd, bwd), plain, (example(5, seed=16),)


@right("judge 15")
def least_variance_weights():
    """The shares of a portfolio, which sum to one, by one system each way."""

    def solved(s):
        n, _ = s.shape
        return jnp.linalg.solve(s, jnp.ones((n, 1), s.dtype))[:, 0]

    def plain(s):
        x = solved(s)
        return x / x.sum()

    def fwd(s):
        x = solved(s)
        return x / x.sum(), (s, x)

    def bwd(r, d):
        s, x = r
        g = (d - (d * x).sum() / x.sum()) / x.sum()
        return (-jnp.outer(jnp.linalg.solve(s.T, g[:, None])[:, 0], x),)

    return rule(plain, fwd, bwd), plain, (definite(17, 4),)
