"""Private text: a small GPT learns characters, and what it tells of any one window of the text is bounded.

    python -m examples.confidential

The text is the standard library's sources, in windows that do not overlap: these are the examples, of which each batch
takes every one with the same small probability. Each one's gradient is cut to one norm, noise is added to the sum, and
dp-accounting says what that comes to (Abadi et al., *Deep Learning with Differential Privacy*, 2016). The figure beside
it is the same network by the same steps without privacy: what the promise costs.
"""

from pathlib import Path

import jax
import optax

from examples.characters import LOSS, counted, perplexity
from examples.data import text
from examples.shared import Figure, Outcome, curve, level, main, picture
from jbp import recipes
from jbp.private import Poisson, Private, noise_for
from jbp.train import fit, start

VOCABULARY, LENGTH, BATCH, EPSILON, DELTA = 128, 64, 256, 3.0, 1e-5
NET = recipes.gpt(VOCABULARY, 128, width=64, blocks=2)


def run(steps: int, seed: int, out: Path, epsilon: float = EPSILON) -> Outcome:
    training, held_out = text()
    unigram, bigram = counted(training, held_out)
    windows = training[: len(training) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    x, following = windows[:, :-1], windows[:, 1:]
    noise = noise_for(epsilon, DELTA, batch=BATCH, examples=len(x), steps=steps)
    sweeps = {
        f"private, noise {noise:.2f}": Private(clip=0.5, noise=noise, batch=BATCH, padded=True, seed=seed),
        "no noise, no clipping": Private(clip=1e9, noise=0.0, batch=BATCH, padded=True, seed=seed),
    }
    optimizer, histories, spent = optax.adam(4e-3), {}, 0.0
    for name, how in sweeps.items():
        state = start(NET, optimizer, jax.random.key(seed), x[:1])
        batches = Poisson((x, following), batch=BATCH, steps=steps, seed=seed)
        check, every = perplexity(NET, held_out), max(1, steps // 8)
        _, histories[name] = fit(NET, LOSS, optimizer, state, batches, sweep=how, check=check, every=every, title=name)
        spent = spent or how.epsilon(len(x), steps, DELTA)
    reached, free = (history[-1]["held-out perplexity"] for history in histories.values())

    with picture(out / "confidential.png", columns=2) as (left, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(right, history, "held-out perplexity", name)
        right.set(yscale="log", title=f"ε = {spent:.2f}, δ = {DELTA:g}, {len(x)} windows")
        level(right, unigram, "unigram")
        level(right, bigram, "bigram")
    figures = [
        Figure(
            "held-out perplexity",
            reached,
            0.8 * unigram,
            f"unigrams: {unigram:.1f}; without privacy: {free:.1f}",
            low=True,
        ),
        Figure("ε that was spent", spent, epsilon, "without noise: infinity", low=True),
    ]
    return Outcome({"private GPT": NET}, figures, out / "confidential.png")


if __name__ == "__main__":
    main(run, steps=400, short=150, epsilon="what may be spent, at δ = 1e-5")
