"""Losses of regression and classification, and what they are divided by."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corpus.common import (
    ZL,
    cross_entropy,
    elementwise,
    example,
    floats,
    ids,
    integers,
    keeping,
    right,
    rule,
    softmax,
    uniform,
    wide,
    written,
    wrong,
)


def xent_fwd(z, labels):
    return cross_entropy(z, labels), (z, labels)


def xent_bwd(r, d):
    z, labels = r
    return d * (softmax(z) - jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)) / z.shape[0], None


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def cross_entropy_():
    return rule(cross_entropy, xent_fwd, xent_bwd), cross_entropy, ZL()


@right("own")
def hinge():
    def plain(x, y):
        return jnp.maximum(0, 1 - x * y).mean()

    def bwd(r, d):
        x, y = r
        on = (x * y < 1).astype(x.dtype)
        return -d * on * y / x.size, -d * on * x / x.size

    return rule(plain, lambda x, y: (plain(x, y), (x, y)), bwd), plain, (example(8), jnp.sign(example(8, seed=1)))


@right("own")
def rank_two_only():
    """Divides by the number of rows, which is the mean of the definition for matrices."""

    def plain(z, t):
        return -(t * jax.nn.log_softmax(z)).sum(-1).mean()

    def bwd(r, d):
        z, t = r
        y = jax.nn.log_softmax(z)
        n = z.shape[0]
        return d * (jnp.exp(y) * t.sum(-1, keepdims=True) - t) / n, -d * y / n

    t = jax.nn.softmax(example(4, 5, seed=1))
    return rule(plain, lambda z, t: (plain(z, t), (z, t)), bwd), plain, (example(4, 5), t)


@right("judge 1")
def fused_linear_cross_entropy():
    """Four rows at a time; the gradients are made in the forward pass and scaled in the backward pass."""

    def plain(x, w, y):
        return -jnp.take_along_axis(jax.nn.log_softmax(x @ w), y[:, None], 1).mean()

    def fwd(x, w, y):
        n, total, dw, dx = len(x), jnp.zeros((), x.dtype), jnp.zeros_like(w), []
        for i in range(0, n, 4):
            rows, hot = x[i : i + 4], jax.nn.one_hot(y[i : i + 4], w.shape[1], dtype=x.dtype)
            z = rows @ w
            total = total + (jax.nn.logsumexp(z, -1) - (z * hot).sum(-1)).sum()
            g = (softmax(z) - hot) / n
            dx.append(g @ w.T)
            dw = dw + rows.T @ g
        return total / n, (jnp.concatenate(dx), dw)

    f = written(fwd, lambda r, d: (d * r[0], d * r[1], None))
    return f, plain, (example(10, 4), example(4, 6, seed=1), ids(6, 10))


@right("judge 4")
def margin_to_the_first_of_the_best():
    """One is added before the largest is sought: what is tiny beside one is a tie as much as zero is."""

    def margins(s, labels):
        hot = jax.nn.one_hot(labels, s.shape[1], dtype=s.dtype)
        return s + 1 - hot, hot

    def plain(s, labels):
        m, hot = margins(s, labels)
        return m.max(1) - (s * hot).sum(1)

    def bwd(r, d):
        s, labels = r
        m, hot = margins(s, labels)
        return d[:, None] * (jax.nn.one_hot(m.argmax(1), s.shape[1], dtype=s.dtype) - hot), None

    return keeping(plain, bwd), plain, (example(7, 5), jnp.asarray([0, 3, 1, 4, 2, 2, 0]))


@right("judge 11")
def bce_with_logits():
    """Binary cross entropy of logits; soft labels allowed, both derivatives."""

    def plain(x, y):
        return -y * jax.nn.log_sigmoid(x) - (1 - y) * jax.nn.log_sigmoid(-x)

    f = jax.custom_vjp(lambda x, y: jnp.maximum(x, 0) - x * y + jnp.log1p(jnp.exp(-jnp.abs(x))))
    f.defvjp(lambda x, y: (f(x, y), (x, y)), lambda r, g: (g * (jax.nn.sigmoid(r[0]) - r[1]), -g * r[0]))
    return f, plain, (example(5, seed=318), uniform(0, 1, 5, seed=319))


@right("judge 11")
def focal_logits_stable():
    """Focal loss of two from logits, the modulating factor's slope included."""

    def plain(x, y):
        z = jnp.where(y > 0, x, -x)
        p = jax.nn.sigmoid(z)
        return -((1 - p) ** 2) * jax.nn.log_sigmoid(z)

    def bwd(res, g):
        x, y = res
        z = jnp.where(y > 0, x, -x)
        p, q = jax.nn.sigmoid(z), jax.nn.sigmoid(-z)
        d = 2 * q * q * p * jax.nn.log_sigmoid(z) - q**3
        return g * jnp.where(y > 0, d, -d), None

    return keeping(plain, bwd), plain, (example(4, seed=323), integers(0, 1, 1, 0))


@right("judge 11")
def huber_two():
    """Huber loss of delta two, both arguments."""

    def plain(x, y):
        r = jnp.abs(x - y)
        return jnp.where(r <= 2, 0.5 * r * r, 2 * (r - 1))

    def bwd(r, g):
        d = g * jnp.clip(r[0] - r[1], -2, 2)
        return d, -d

    return keeping(plain, bwd), plain, (example(5, seed=368, scale=3.0), example(5, seed=369))


@right("judge 11")
def byol_target_stopped():
    """Cosine-free self-distillation loss: the target is stopped in the definition,
    so its gradient is zero."""

    def plain(p, z):
        return jnp.sum((p - lax.stop_gradient(z)) ** 2)

    return (
        keeping(plain, lambda r, g: (2 * g * (r[0] - r[1]), jnp.zeros_like(r[1]))),
        plain,
        (example(5, seed=464), example(5, seed=465)),
    )


@right("judge 11")
def mse_all_elements():
    """Mean squared error over all elements of any rank."""

    def plain(x, y):
        return jnp.mean((x - y) ** 2)

    def bwd(r, g):
        d = g * 2 / r[0].size * (r[0] - r[1])
        return d, -d

    return keeping(plain, bwd), plain, (example(5, seed=607), example(5, seed=608))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def xent_not_divided():
    return rule(cross_entropy, xent_fwd, lambda r, d: (xent_bwd(r, d)[0] * r[0].shape[0], None)), cross_entropy, ZL()


@wrong("own")
def xent_wrong_batch():
    """Divides by the classes instead of the batch."""
    return (
        rule(cross_entropy, xent_fwd, lambda r, d: (xent_bwd(r, d)[0] * r[0].shape[0] / r[0].shape[1], None)),
        cross_entropy,
        ZL(),
    )


@wrong("own")
def cotangent_ignored():
    return rule(cross_entropy, xent_fwd, lambda r, d: xent_bwd(r, jnp.ones_like(d))), cross_entropy, ZL()


@wrong("own", edge="particular values")
def huber_never_linear():
    plain = lambda x: jnp.where(jnp.abs(x) < 5, 0.5 * x * x, 5 * (jnp.abs(x) - 2.5))  # noqa: E731
    return elementwise(plain, lambda x: x)


@wrong("own", edge="particular values")
def probability_at_its_bounds():
    """Binary cross-entropy of probabilities, clipped in the definition and not in the backward pass."""
    y = jnp.asarray(np.random.default_rng(1).integers(0, 2, (4, 5)), jnp.float32)

    def plain(p, y):
        p = jnp.clip(p, 1e-6, 1 - 1e-6)
        return -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p)).sum()

    def bwd(r, d):
        p, y = r
        q = jnp.clip(p, 1e-6, 1 - 1e-6)
        return d * ((1 - y) / (1 - p) - y / p), d * (jnp.log(1 - q) - jnp.log(q))

    p = jnp.asarray(np.random.default_rng(0).uniform(0.05, 0.95, (4, 5)), jnp.float32)
    return rule(plain, lambda p, y: (plain(p, y), (p, y)), bwd), plain, (p, y)


@wrong("own", edge="other sizes")
def batch_of_one_squeezed():
    def bwd(r, d):
        p = jnp.squeeze(softmax(r[0]))
        g = p - jax.nn.one_hot(r[1], r[0].shape[-1], dtype=p.dtype)
        return d * g.reshape(r[0].shape) / (p.shape[0]), None

    return rule(cross_entropy, xent_fwd, bwd), cross_entropy, ZL()


@wrong("judge 1")
def focal_loss_of_constant_weights():
    def plain(z, y):
        p = jax.nn.sigmoid(z)
        p = jnp.where(y, p, 1 - p)
        return (-((1 - p) ** 2) * jnp.log(p)).sum()

    def bwd(r, d):
        z, y = r
        p = jax.nn.sigmoid(z)
        return d * (1 - jnp.where(y, p, 1 - p)) ** 2 * (p - y.astype(p.dtype)), None

    return keeping(plain, bwd), plain, (example(10), ids(2, 10).astype(bool))


@wrong("judge 5", edge="no rows")
def mean_over_no_rows():
    """A loss that is zero without rows, but for what the weights cost; the axis of the rows is not the first axis."""

    def plain(w, x, y):
        return ((x @ w - y) ** 2).sum() / max(len(x), 1) + 0.1 * (w * w).sum()

    def bwd(r, d):
        w, x, y = r
        e = 2 * d * (x @ w - y)
        return (e[:, None] * x).mean(0) + 0.2 * d * w, e[:, None] * w / max(len(x), 1), -e / max(len(x), 1)

    return keeping(plain, bwd), plain, (example(3), example(6, 3, seed=1), example(6, seed=2))


@wrong("judge 11", edge="residuals beyond delta")
def huber_beyond_delta():
    """Huber loss of delta two, the linear part's slope one and not delta.
    Re-creates: "huber_loss vs smooth_l1 gradient scale"."""

    def plain(x, y):
        r = jnp.abs(x - y)
        return jnp.where(r <= 2, 0.5 * r * r, 2 * (r - 1))

    def bwd(res, g):
        x, y = res
        r = x - y
        d = jnp.where(jnp.abs(r) <= 2, r, jnp.sign(r))
        return g * d, -g * d

    return keeping(plain, bwd), plain, (floats(0.1, 1.0, -0.7), floats(0, 0, 0))


@wrong("judge 11", edge="not square (n differs from d)")
def mse_rows_wrong_axis():
    """Squared error summed over features and averaged over rows, the divisor read
    from the other axis; the example is square."""

    def plain(x, y):
        return jnp.mean(jnp.sum((x - y) ** 2, -1))

    def bwd(res, g):
        x, y = res
        d = 2 * g * (x - y) / x.shape[-1]
        return d, -d

    return keeping(plain, bwd), plain, (example(4, 4, seed=105), example(4, 4, seed=106))


@wrong("judge 11", edge="bfloat16 with large logits")
def xent_saves_lse_half():
    """Cross entropy in single precision inside, its logsumexp kept in the logits'
    type. Re-creates: "saved lse in bf16 makes wrong dlogits"."""

    def plain(x, lab):
        y = wide(x)
        return jax.nn.logsumexp(y, -1) - jnp.take_along_axis(y, lab[:, None], 1)[:, 0]

    f = jax.custom_vjp(plain)

    def fwd(x, lab):
        y = wide(x)
        lse = jax.nn.logsumexp(y, -1)
        return lse - jnp.take_along_axis(y, lab[:, None], 1)[:, 0], (x, lab, lse.astype(x.dtype))

    def bwd(res, g):
        x, lab, lse = res
        p = jnp.exp(wide(x) - wide(lse)[:, None])
        d = p - jax.nn.one_hot(lab, x.shape[-1], dtype=p.dtype)
        return (g[:, None] * d).astype(x.dtype), None

    f.defvjp(fwd, bwd)
    return f, plain, (example(4, 9, seed=116, scale=2.0) + 20, integers(0, 3, 8, 2))


@wrong("judge 11", edge="a matrix (example a vector)")
def mse_len_divisor():
    """Mean squared error over all elements, divided by the first axis's length.
    Re-creates: "mean reduction divides by batch only"."""

    def plain(x, y):
        return jnp.mean((x - y) ** 2)

    def bwd(res, g):
        x, y = res
        d = g * 2 * (x - y) / (x.shape[0] if x.ndim else 1)
        return d, -d

    return keeping(plain, bwd), plain, (example(7, seed=137), example(7, seed=138))


@wrong("judge 11", edge="a single vector (rank below the example's)")
def energy_mean_over_rows():
    """Mean over rows of a row's energy; a vector is one row, but the backward
    divides by its length. Rank below the example's."""

    def plain(x):
        return jnp.mean(jnp.sum(jnp.log(jnp.cosh(x)), -1))

    def bwd(res, g):
        (x,) = res
        return (g * jnp.tanh(x) / x.shape[0],)

    return keeping(plain, bwd), plain, (example(4, 6, seed=142),)


@wrong("judge 11")
def focal_without_modulation():
    """Focal loss of two; the modulating factor is taken for a constant."""

    def plain(x, y):
        z = jnp.where(y > 0, x, -x)
        return -(jax.nn.sigmoid(-z) ** 2) * jax.nn.log_sigmoid(z)

    def bwd(res, g):
        x, y = res
        z = jnp.where(y > 0, x, -x)
        d = -(jax.nn.sigmoid(-z) ** 3)
        return g * jnp.where(y > 0, d, -d), None

    return keeping(plain, bwd), plain, (example(5, seed=197), integers(1, 0, 0, 1, 1))
