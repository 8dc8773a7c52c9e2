"""GAN: one network forges handwritten digits, another tells them from real ones, and they learn from each other.

    python -m examples.gan

Two sweeps a step. The discriminator's goes over real and forged digits. The generator's goes down through the
discriminator, which is frozen, into the generator. Two figures, by classifiers that have seen real digits only: of how
many kinds the forgeries are and how plainly (the inception score, at most 10), and how many of the held-out digits
have a forgery near them. Drawn from the one Gaussian that fits the training digits best, neither is high.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, agreement, curve, main, mosaic, picture
from jbp import Buffer, Frozen, Serial, apply_updates, recipes, trainable, value_and_grad
from jbp.losses import BinaryCrossEntropy
from jbp.sweep import initialize

NOISE, BATCH = 16, 64
LOSS = BinaryCrossEntropy()


def kinds(judge: LogisticRegression, x: np.ndarray) -> float:
    """exp E KL(p(digit | x) ‖ p(digit)): 1 where all are alike or unclear, 10 for ten clear and equal kinds."""
    p = judge.predict_proba(x.reshape(len(x), -1)).clip(1e-12)
    return float(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))


def covered(real: np.ndarray, x: np.ndarray) -> float:
    """The share of the real images that have one of x as near as their fifth neighbour among the real ones."""
    real, x = real.reshape(len(real), -1), x.reshape(len(x), -1)
    radius = NearestNeighbors(n_neighbors=6).fit(real).kneighbors(real)[0][:, -1]
    return float((NearestNeighbors(n_neighbors=1).fit(x).kneighbors(real)[0][:, 0] <= radius).mean())


def players(generator: Serial, discriminator: Serial, optimizer: optax.GradientTransformation):
    """(params, optimizer states, real images, key) -> both moved on by a step, and their losses; compiled."""
    judged = value_and_grad(discriminator, LOSS)
    forged = value_and_grad(Serial(generator, Frozen(discriminator)), LOSS, has_aux=True)

    def moved(params, grads, state):
        updates, state = optimizer.update(grads, state, trainable(params))
        return apply_updates(params, updates), state

    @jax.jit
    def step(g, d, g_state, d_state, real, key):
        noise = jax.random.normal(key, (len(real), NOISE))
        both = jnp.concatenate([real, generator.forward(g, noise)[0]])
        d_loss, grads = judged(d, both, jnp.repeat(jnp.array([0.9, 0.0]), len(real))[:, None])
        d, d_state = moved(d, grads, d_state)
        (g_loss, aux), (grads, _) = forged((g, Buffer(d)), noise, jnp.ones((len(real), 1)))
        g, g_state = moved(aux.params[0], grads, g_state)
        return g, d, g_state, d_state, {"generator": g_loss, "discriminator": d_loss}

    return step


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, label), (held_x, _) = images()
    generator, discriminator, optimizer = recipes.generator(), recipes.discriminator(), optax.adam(2e-3, b1=0.5)
    keys = jax.random.split(jax.random.key(seed), 3)
    g, d = initialize(generator, keys[0], jnp.zeros((BATCH, NOISE))), initialize(discriminator, keys[1], x[:BATCH])
    g_state, d_state = optimizer.init(trainable(g)), optimizer.init(trainable(d))
    step, batches, history = players(generator, discriminator, optimizer), minibatches(x, size=BATCH, seed=seed), []
    for i in track(range(steps), "training"):
        (real,) = next(batches)
        g, d, g_state, d_state, losses = step(g, d, g_state, d_state, real, jax.random.fold_in(keys[2], i))
        history.append({"step": i + 1} | {name: float(loss) for name, loss in losses.items()})

    noise = jax.random.normal(keys[2], (500, NOISE))
    drawn, flat = np.asarray(generator.evaluation().forward(g, noise)[0]), x.reshape(len(x), -1)
    normal = np.random.default_rng(seed).multivariate_normal(flat.mean(0), np.cov(flat.T), 500).clip(0, 1)
    judge = LogisticRegression(C=30, max_iter=1000).fit(flat, label)
    with picture(out / "gan.png", columns=3, size=(13, 4)) as (left, middle, right):
        for name in ("discriminator", "generator"):
            curve(left, history, name, name)
        left.set(ylabel="loss")
        mosaic(middle, x[:64], 8, "real")
        mosaic(right, drawn[:64], 8, "forged")
    value, other, most = (kinds(judge, y) for y in (drawn, normal, held_x))
    near, far = (covered(held_x, y) for y in (drawn, normal))
    figures = [
        Figure("kinds of digits", value, 6.5, f"a Gaussian: {other:.2f}; real ones have {most:.2f}"),
        Figure("held-out digits with a forgery near", near, 0.5, f"a Gaussian: {far:.2f}"),
        agreement(Serial(generator, Frozen(discriminator)), LOSS, (g, Buffer(d)), (noise, jnp.ones((500, 1)))),
    ]
    return Outcome({"generator": generator, "discriminator": discriminator}, figures, out / "gan.png")


if __name__ == "__main__":
    main(run, steps=3000, short=1000)
