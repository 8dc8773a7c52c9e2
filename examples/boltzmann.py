"""Restricted Boltzmann machine: learns which images are likely, by contrastive divergence, and dreams digits.

    python -m examples.boltzmann

The energy of visible v and hidden h, all 0 or 1, is −v·b − h·c − v W h; F(v) = −v·b − Σ softplus(v W + c) is the free
energy, and p(v) = exp(−F(v)) / Z with a Z that cannot be summed. The data are scikit-learn's digits, black and white,
500 held out. CD-1 makes its fantasies from the data with one step of Gibbs sampling, CD-5 with five; the persistent
form has 100 chains that go on from step to step. Two figures need no Z: the pseudo-likelihood Σ log p(v_i | the other
pixels), and how often a held-out digit has a lower F than noise in which each pixel is on as often as in the digits.
(Hinton, *Training Products of Experts by Minimizing Contrastive Divergence*, 2002; Tieleman, 2008.)
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, curve, level, main, mosaic, picture
from jbp import recipes
from jbp.layers import Add
from jbp.train import fit, start

HIDDEN, BATCH = 128, 50
MACHINES = {"CD-1": (1, 0), "CD-5": (5, 0), "persistent": (1, 100)}


def free_energy(p, v):
    return -v @ p["b"] - jax.nn.softplus(v @ p["w"] + p["c"]).sum(-1)


@jax.jit
def pseudo_likelihood(p, v):
    """Mean over the rows of Σ log p(v_i | the others), in nats: from what F changes by when a pixel does."""
    turned = jnp.abs(v[:, None] - jnp.eye(v.shape[1]))
    return -jax.nn.softplus(free_energy(p, v)[:, None] - free_energy(p, turned)).sum(1).mean()


@jax.jit
def dream(p, v, key):
    """The probabilities of the pixels after 500 steps of Gibbs sampling from v."""

    def step(state, key):
        up, down = jax.random.split(key)
        h = jax.random.bernoulli(up, jax.nn.sigmoid(state[0] @ p["w"] + p["c"])).astype(v.dtype)
        chance = jax.nn.sigmoid(h @ p["w"].T + p["b"])
        return (jax.random.bernoulli(down, chance).astype(v.dtype), chance), None

    return jax.lax.scan(step, (v, v), jax.random.split(key, 500))[0][1]


def run(steps: int, seed: int, out: Path) -> Outcome:
    x, held = ((v.reshape(len(v), -1) > 7 / 16).astype("float32") for v, _ in images())
    rate = x.mean(0).clip(0.002, 0.998)
    noise = (np.random.default_rng(seed).random((500, len(rate))) < rate).astype("float32")
    alone = float((held * np.log(rate) + (1 - held) * np.log(1 - rate)).sum(1).mean())
    histories, nets, figures, p = {}, {}, [], {}
    for name, machine in MACHINES.items():
        nets[name], optimizer = (
            recipes.restricted_boltzmann(HIDDEN, *machine),
            optax.sgd(optax.linear_schedule(0.05, 0, steps)),
        )
        state = start(nets[name], optimizer, jax.random.key(seed), x[:BATCH])
        state, histories[name] = fit(
            nets[name],
            Add(),
            optimizer,
            state,
            minibatches(x, size=BATCH, seed=seed),
            steps=steps,
            check=lambda params: {"held-out pseudo-likelihood": pseudo_likelihood(params[0], held)},
            every=max(1, steps // 10),
            title=name,
        )
        p = state.params[0]
        lower = float((free_energy(p, held)[:, None] < free_energy(p, noise)).mean())
        reached = histories[name][-1]["held-out pseudo-likelihood"]
        figures += [
            Figure(f"{name}: pseudo-likelihood, nats", reached, -20, f"pixels that are independent: {alone:.1f}"),
            Figure(f"{name}: digits below noise in free energy", lower, 0.85, "a coin: 0.5"),
        ]

    with picture(out / "boltzmann.png", columns=3, size=(14, 4.4)) as (left, middle, right):
        for name, history in histories.items():
            curve(left, history, "held-out pseudo-likelihood", name)
        level(left, alone, "independent pixels")
        filters = np.asarray(p["w"]).T[:48].reshape(-1, 8, 8)
        mosaic(middle, filters / (2 * abs(filters).max((1, 2), keepdims=True)) + 0.5, 8, "what hidden units look for")
        mosaic(right, dream(p, noise[:48], jax.random.key(seed)).reshape(-1, 8, 8), 8, "500 steps after noise: dreams")
    return Outcome(nets, figures, out / "boltzmann.png")


if __name__ == "__main__":
    main(run, steps=6000, short=2000)
