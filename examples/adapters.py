"""Adapters: a transformer that has read Python learns C from a few pages, by a few of its parameters.

    python -m examples.adapters

First a GPT reads the sources of Python's standard library, character by character. Then it goes on with 20 000
characters of NumPy's C headers, in three ways: with low-rank adapters on the weights of its blocks, which themselves
stay as they are (Hu et al., *LoRA*, 2021), with all weights, and as a network that has read nothing before. The figure:
the perplexity of headers that it has never seen. The adapters go into the weights in the end (`merge`), and the network
is what it was.
"""

from pathlib import Path

import jax
import numpy as np
import optax

from examples.characters import LENGTH, VOCABULARY, batches, counted, perplexity, write
from examples.data import text
from examples.shared import Figure, Outcome, curve, level, main, page, picture
from jbp import LowRankAdapter, recipes, trainable
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import fit, start

FEW = 20_000


def headers() -> tuple[np.ndarray, np.ndarray]:
    """(training, held out): characters of NumPy's C headers, of which every second one is held out."""
    files = sorted(Path(np.get_include()).rglob("*.h"))
    parts = [np.frombuffer(b"".join(file.read_bytes() for file in files[k::2]), np.uint8) for k in (0, 1)]
    training, held_out = (np.where(part < VOCABULARY, part, ord("?")).astype("int32") for part in parts)
    first = len(training) // 3
    return training[first : first + FEW], held_out


def run(steps: int, seed: int, out: Path) -> Outcome:
    (python, _), (few, held_out) = text(), headers()
    net, loss, key = recipes.gpt(VOCABULARY, LENGTH, blocks=2), SoftmaxCrossEntropy(), jax.random.key(seed)

    def learn(net, params, characters, steps, rate, title):
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), steps)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))
        state = start(net, optimizer, key, next(batches(characters, seed))[0], params=params)
        more = {"check": perplexity(net, held_out), "every": max(1, steps // 4)} if characters is few else {}
        return fit(net, loss, optimizer, state, batches(characters, seed), steps=steps, title=title, **more)

    before = learn(net, None, python, steps, 4e-3, "Python")[0].params
    adapted = LowRankAdapter(net, ("q", "k", "v", "o", "w"), rank=4)
    ways = {
        "adapters": (adapted, adapted.adapt(key, before), 1e-2),
        "all weights": (net, before, 2e-3),
        "a new start": (net, None, 4e-3),
    }
    found = {name: learn(net, params, few, steps // 2, rate, name) for name, (net, params, rate) in ways.items()}
    state, reached = found["adapters"][0], {n: h[-1]["held-out perplexity"] for n, (_, h) in found.items()}
    merged = adapted.merge(state.params)
    same, untouched = (float(perplexity(net, held_out)(p)["held-out perplexity"]) for p in (merged, before))
    share = [sum(leaf.size for leaf in jax.tree.leaves(trainable(p))) for p in (state.params, before)]
    bigram = counted(few, held_out)[1]

    with picture(out / "adapters.png", columns=2, size=(12, 4)) as (left, right):
        for name, (_, history) in found.items():
            curve(left, history, "held-out perplexity", name)
        level(left, untouched, "before")
        page(right, write(net, merged, "typedef ", 300), "what it writes of C", width=90)
    others = f"before: {untouched:.2f}; a new start: {reached['a new start']:.2f}; bigrams: {bigram:.2f}"
    whole = f"all, which reach {reached['all weights']:.2f}: 1"
    figures = [
        Figure("held-out perplexity of C", reached["adapters"], 20, others, low=True),
        Figure("the same, adapters merged", same, 1.001 * reached["adapters"], "weights merged wrongly", low=True),
        Figure("share of parameters trained", share[0] / share[1], 0.1, whole, low=True),
    ]
    return Outcome({"adapted": adapted}, figures, out / "adapters.png")


if __name__ == "__main__":
    main(run, steps=3000, short=400)
