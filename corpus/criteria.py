"""Losses: overlap, contrast, order, margins, policies and separation."""

import math

import jax
import jax.numpy as jnp

from corpus.common import example, floats, integers, keeping, right, softmax, unbroadcast, uniform, wrong


@wrong("judge 14", "targets between zero and one")
def squared_dice_of_soft_targets():
    """The denominator sums the targets' squares, and going back the targets, as if they were zeros and ones."""

    def plain(p, t):
        return (1 - (2 * (p * t).sum(0) + 1) / ((p * p).sum(0) + (t * t).sum(0) + 1)).mean()

    def bwd(r, d):
        p, t = r
        over, under = 2 * (p * t).sum(0) + 1, (p * p).sum(0) + t.sum(0) + 1
        d = d / p.shape[1] / under**2
        return d * 2 * (p * over - t * under), d * 2 * (t * over - p * under)

    t = (example(8, 3, seed=1) > 0).astype(jnp.float32)
    return keeping(plain, bwd), plain, (uniform(0.05, 0.95, 8, 3), t)


@wrong("judge 14", "an anchor that no other row shares the class of")
def contrast_of_anchors_without_positives():
    """An anchor without positives has no part in the loss, but is counted and pushed away in the backward pass."""

    def parts(z, y):
        itself = jnp.eye(z.shape[0], dtype=bool)
        s = jnp.where(itself, -jnp.inf, 2 * z @ z.T)
        same = (y[:, None] == y) & ~itself
        return s, same, same.sum(1)

    def plain(z, y):
        s, same, count = parts(z, y)
        log_p = s - jax.nn.logsumexp(s, 1, keepdims=True)
        each = -jnp.where(same, log_p, 0.0).sum(1) / jnp.maximum(count, 1)
        return each.sum() / jnp.maximum((count > 0).sum(), 1)

    def bwd(r, d):
        z, y = r
        s, same, count = parts(z, y)
        ds = (softmax(s) - same / jnp.maximum(count, 1)[:, None]) * (d / z.shape[0])
        return (2 * (ds + ds.T) @ z).astype(z.dtype), None

    return keeping(plain, bwd), plain, (example(6, 3), integers(0, 1, 0, 2, 1, 2))


@wrong("judge 14", "labels of the lowest class")
def ordinal_lowest_class_wraps():
    """The probability of a class lies between two cuts; the lowest class takes the last cut for its lower one."""

    def plain(x, cuts, y):
        bounds = jnp.concatenate([jnp.full(1, -jnp.inf, cuts.dtype), cuts, jnp.full(1, jnp.inf, cuts.dtype)])
        return -jnp.log(jax.nn.sigmoid(bounds[y + 1] - x) - jax.nn.sigmoid(bounds[y] - x))

    def bwd(r, d):
        x, cuts, y = r
        top = y == cuts.shape[0]
        p = jnp.exp(-plain(x, cuts, y))
        high, low = jax.nn.sigmoid(cuts[jnp.where(top, 0, y)] - x), jax.nn.sigmoid(cuts[y - 1] - x)
        up, down = jnp.where(top, 0.0, d * high * (1 - high) / p), d * low * (1 - low) / p
        return up - down, jnp.zeros_like(cuts).at[jnp.where(top, 0, y)].add(-up).at[y - 1].add(down), None

    return keeping(plain, bwd), plain, (example(5), floats(-1.2, 0.1, 0.9), integers(1, 3, 2, 2, 1))


@wrong("judge 14", "features whose divergence is below the floor")
def free_nats_below_the_floor():
    """A feature's divergence counts as a tenth at least, and below that the encoder gets the gradient all the same."""

    def divergence(mean, log_var):
        return 0.5 * (mean * mean + jnp.exp(log_var) - 1 - log_var).mean(0)

    def plain(mean, log_var):
        kl = divergence(mean, log_var)
        return jnp.where(kl > 0.1, kl, 0.1).sum()

    def bwd(r, d):
        mean, log_var = r
        d = d / mean.shape[0]
        return d * mean, d * 0.5 * (jnp.exp(log_var) - 1)

    return keeping(plain, bwd), plain, (example(6, 3, scale=2.0), example(6, 3, seed=1, mean=-0.5))


@wrong("judge 14", "a target whose cosine is close to minus one")
def angular_margin_past_the_turn():
    """A target angle that the margin would take past a half turn is penalised linearly, which the slope forgets."""

    turn, drop = math.cos(math.pi - 0.5), 0.5 * math.sin(math.pi - 0.5)

    def moved(c):
        return jnp.where(c > turn, c * math.cos(0.5) - jnp.sqrt(1 - c * c) * math.sin(0.5), c - drop)

    def logits(c, y):
        own = jnp.arange(c.shape[1]) == y[:, None]
        return own, 8 * jnp.where(own, moved(c), c)

    def plain(c, y):
        own, z = logits(c, y)
        return (jax.nn.logsumexp(z, 1) - jnp.where(own, z, 0.0).sum(1)).mean()

    def bwd(r, d):
        c, y = r
        own, z = logits(c, y)
        slope = jnp.where(own, math.cos(0.5) + math.sin(0.5) * c / jnp.sqrt(1 - c * c), 1.0)
        return (softmax(z) - own) * slope * (8 * d / c.shape[0]), None

    return keeping(plain, bwd), plain, (uniform(-0.8, 0.8, 4, 5), integers(0, 3, 2, 4))


@wrong("judge 14", "a sampled negative that is a row's label")
def sampled_softmax_with_accidental_hits():
    """A sampled negative that is the row's own label is left out of the loss, but not out of the gradient."""

    def logits(h, table, y, others):
        return jnp.concatenate([(h * table[y]).sum(1, keepdims=True), h @ table[others].T], 1)

    def plain(h, table, y, others):
        z = logits(h, table, y, others)
        z = jnp.concatenate([z[:, :1], jnp.where(others == y[:, None], -jnp.inf, z[:, 1:])], 1)
        return (jax.nn.logsumexp(z, 1) - z[:, 0]).mean()

    def bwd(r, d):
        h, table, y, others = r
        g = softmax(logits(h, table, y, others)).at[:, 0].add(-1) * (d / h.shape[0])
        own, rest = g[:, :1], g[:, 1:]
        dtable = jnp.zeros_like(table).at[y].add(own * h).at[others].add(rest.T @ h)
        return own * table[y] + rest @ table[others], dtable, None, None

    args = example(4, 3), example(9, 3, seed=1), integers(0, 3, 1, 4), integers(6, 5, 8)
    return keeping(plain, bwd), plain, args


@wrong("judge 14", "a ratio far from one that the advantage would bring back")
def clipped_policy_without_its_pessimism():
    """The smaller of clipped and unclipped counts; the rule has no slope wherever the ratio is out of bounds."""

    def parts(new, old, advantage):
        ratio = jnp.exp(new - old)
        return ratio, jnp.clip(ratio, 0.8, 1.2), jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)

    def plain(new, old, advantage):
        return -parts(new, old, advantage)[2].mean()

    def bwd(r, d):
        new, old, advantage = r
        ratio, clipped, _ = parts(new, old, advantage)
        d = -d / new.shape[0]
        dnew = jnp.where(ratio == clipped, d * ratio * advantage, 0.0)
        smaller = jnp.where(ratio * advantage < clipped * advantage, ratio, clipped)
        return dnew, -dnew, d * smaller

    return keeping(plain, bwd), plain, (example(7, scale=0.04), example(7, seed=1, scale=0.04), example(7, seed=2))


@wrong("judge 14")
def mutual_distillation_of_one_side():
    """Both networks learn from their divergence at a temperature of two, but the teacher gets zeros."""

    def plain(student, teacher):
        p, q = jax.nn.log_softmax(student / 2), jax.nn.log_softmax(teacher / 2)
        return 4 * (jnp.exp(q) * (q - p)).sum(-1)

    def bwd(r, d):
        student, teacher = r
        return 2 * d[:, None] * (softmax(student / 2) - softmax(teacher / 2)), jnp.zeros_like(teacher)

    return keeping(plain, bwd), plain, (example(4, 5), example(4, 5, seed=1))


@right("judge 14")
def lovasz_hinge_of_pixels():
    """Hinge errors in falling order, each by how much it raises the Jaccard loss, which depends on the order only."""

    def parts(z, y):
        sign = (2 * y - 1).astype(z.dtype)
        error = 1 - z * sign
        order = jnp.argsort(-error)
        truth = y[order].astype(z.dtype)
        jaccard = 1 - (truth.sum() - jnp.cumsum(truth)) / (truth.sum() + jnp.cumsum(1 - truth))
        return sign, error[order], order, jnp.diff(jaccard, prepend=jnp.zeros(1, z.dtype))

    def plain(z, y):
        _, error, _, gain = parts(z, y)
        return (jax.nn.relu(error) * gain).sum()

    def bwd(r, d):
        z, y = r
        sign, error, order, gain = parts(z, y)
        derror = jnp.zeros_like(error).at[order].add(jnp.where(error > 0, d * gain, 0.0))
        return unbroadcast(-sign * derror, z.shape), None

    return keeping(plain, bwd), plain, (example(8), integers(0, 1, 1, 0, 1, 0, 0, 1))


@right("judge 14")
def image_to_text_and_back():
    """Cross-entropy of the pairs along both axes of their table, times a learned scale that is kept as a logarithm."""

    def table(a, b, log_scale):
        return jnp.exp(log_scale) * (a @ b.T)

    def plain(a, b, log_scale):
        z = table(a, b, log_scale)
        across, down = jnp.diagonal(jax.nn.log_softmax(z, 1)), jnp.diagonal(jax.nn.log_softmax(z, 0))
        return -(across.mean() + down.mean()) / 2

    def bwd(r, d):
        a, b, log_scale = r
        z = table(a, b, log_scale)
        pairs = jnp.eye(*z.shape, dtype=z.dtype)
        across = jax.nn.softmax(z, 1) * pairs.sum(1, keepdims=True)
        down = jax.nn.softmax(z, 0) * pairs.sum(0, keepdims=True)
        g = (across + down - 2 * pairs) * (d / (2 * min(z.shape)))
        dz = jnp.exp(log_scale) * g
        return dz @ b, dz.T @ a, unbroadcast(g * z, log_scale.shape)

    return keeping(plain, bwd), plain, (example(5, 3), example(5, 3, seed=1), jnp.asarray(0.7, jnp.float32))


@right("judge 14")
def sigmoid_loss_of_pairs():
    """Every pair is a question of yes or no, with a learned scale and shift; the slope is by the sigmoid of minus."""

    def table(a, b, log_scale):
        return jnp.exp(log_scale) * (a @ b.T)

    def signs(z):
        return 2 * jnp.eye(*z.shape, dtype=z.dtype) - 1

    def plain(a, b, log_scale, shift):
        z = table(a, b, log_scale) + shift
        return -jax.nn.log_sigmoid(signs(z) * z).sum() / a.shape[0]

    def bwd(r, d):
        a, b, log_scale, shift = r
        scores = table(a, b, log_scale)
        z = scores + shift
        g = -d / a.shape[0] * signs(z) * jax.nn.sigmoid(-signs(z) * z)
        dz = jnp.exp(log_scale) * g
        return dz @ b, dz.T @ a, unbroadcast(g * scores, log_scale.shape), unbroadcast(g, shift.shape)

    scale, shift = floats(0.5, -2.0)
    return keeping(plain, bwd), plain, (example(4, 3), example(4, 3, seed=1), scale, shift)


@right("judge 14")
def separation_whatever_the_scale():
    """Decibels of an estimate's part along its reference over the rest of it; the reference may learn too."""

    def parts(s, ref):
        power = (ref * ref).sum(1, keepdims=True) + 1e-3
        share = (s[:, None] @ ref[:, :, None])[:, 0] / power
        along = share * ref
        return power, share, along, s - along

    def plain(s, ref):
        _, _, along, rest = parts(s, ref)
        decibels = jnp.log((along * along).sum(1) + 1e-3) - jnp.log((rest * rest).sum(1) + 1e-3)
        return 10 / math.log(10) * decibels

    def bwd(r, d):
        s, ref = r
        power, share, along, rest = parts(s, ref)
        d = 20 / math.log(10) * d[:, None]
        drest = -d * rest / ((rest * rest).sum(1, keepdims=True) + 1e-3)
        dalong = d * along / ((along * along).sum(1, keepdims=True) + 1e-3) - drest
        dshare = (dalong * ref).sum(1, keepdims=True) / power
        ds = drest + dshare * ref
        return unbroadcast(ds, s.shape), unbroadcast(share * dalong + dshare * (s - 2 * along), ref.shape)

    return keeping(plain, bwd), plain, (example(3, 6), example(3, 6, seed=1))
