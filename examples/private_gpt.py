"""Private text: a small GPT learns characters, and what it tells of any one piece of the text is bounded.

    python -m examples.private_gpt

The text is the standard library's sources, cut into windows: these are the examples, of which each batch takes every
one with the same small probability. Each one's gradient is cut to one norm, noise is added to the sum, and
dp-accounting says what that comes to (Abadi et al., *Deep Learning with Differential Privacy*, 2016).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.characters import LOSS, VOCABULARY, counted
from examples.data import text
from examples.shared import Figure, Outcome, curve, level, main, picture
from jbp import recipes
from jbp.private import Poisson, Private
from jbp.train import fit, start

LENGTH, BATCH, DELTA = 32, 128, 1e-6
NET = recipes.gpt(VOCABULARY, LENGTH, width=32, blocks=2, heads=2)


def cut(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows of the text that have no character in common, and what follows each of theirs."""
    windows = characters[: len(characters) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    return windows[:, :-1], windows[:, 1:]


def run(steps: int, seed: int, out: Path, noise: float = 0.6) -> Outcome:
    training, held_out = text()
    unigram, bigram = counted(training, held_out)
    (x, following), (others, wanted) = cut(training), (part[::50] for part in cut(held_out))
    how = Private(clip=0.3, noise=noise, batch=BATCH, padded=True, seed=seed)
    lost = jax.jit(lambda params: LOSS.forward((), (NET.forward(params, others)[0], wanted))[0])
    optimizer, every = optax.adam(optax.cosine_decay_schedule(1e-2, steps)), max(1, steps // 10)
    state = start(NET, optimizer, jax.random.key(seed), x[:1])
    batches = Poisson((x, following), batch=BATCH, steps=steps, seed=seed)

    def check(params):
        return {"held-out perplexity": jnp.exp(lost(params))}

    _, history = fit(NET, LOSS, optimizer, state, batches, sweep=how, check=check, every=every)
    reached, spent = history[-1]["held-out perplexity"], how.epsilon(len(x), steps, DELTA)

    with picture(out / "private_gpt.png", columns=2) as (left, right):
        curve(left, history, "loss", f"noise {noise:g}")
        curve(right, history, "held-out perplexity", "private GPT")
        right.set(title=f"ε = {spent:.2f}, δ = {DELTA:g}, {len(x)} windows")
        level(right, unigram, "unigrams")
        level(right, bigram, "bigrams")
    figures = [
        Figure("held-out perplexity", reached, 0.8 * unigram, f"unigrams: {unigram:.1f}", low=True),
        Figure(f"ε that was spent, at δ = {DELTA:g}", spent, 2.0, "without noise: infinity", low=True),
    ]
    return Outcome({"private GPT": NET}, figures, out / "private_gpt.png")


if __name__ == "__main__":
    main(run, steps=300, short=80, noise="its deviation, in norms that an example may have: more is more private")
