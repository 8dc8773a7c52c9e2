"""Characters: an Elman network, an LSTM and a small GPT learn to write Python from the standard library's sources.

    python -m examples.characters --steps 800

Every tenth file is held out. Each network has to beat a bigram model, which counts what follows each character. The
second figure of each is how far a leaf of its gradient is from that of jax.grad, at most, on one batch in float64.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.data import text
from examples.shared import Figure, Outcome, agreement, curve, level, main, page, picture
from jbp import Layer, recipes
from jbp.layers import LSTM, Elman
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import fit, start

VOCABULARY, LENGTH, BATCH = 128, 128, 16
LOSS = SoftmaxCrossEntropy()
NETS = {
    "Elman": recipes.recurrent_language_model(VOCABULARY, Elman(192)),
    "LSTM": recipes.recurrent_language_model(VOCABULARY, LSTM(192)),
    "transformer": recipes.gpt(VOCABULARY, LENGTH),
}


def batches(characters: np.ndarray, seed: int):
    """Pairs (characters, the next ones) without end, each (BATCH, LENGTH), cut from the text at random."""
    random = np.random.default_rng(seed)
    while True:
        rows = random.integers(0, len(characters) - LENGTH - 1, BATCH)[:, None] + np.arange(LENGTH + 1)
        yield characters[rows[:, :-1]], characters[rows[:, 1:]]


def counted(training: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """The held-out perplexities of the unigram and of the bigram model."""
    pairs = np.ones((VOCABULARY, VOCABULARY))
    np.add.at(pairs, (training[:-1], training[1:]), 1)
    single, double = pairs.sum(0) / pairs.sum(), pairs / pairs.sum(1, keepdims=True)
    losses = -np.log(single[held_out]).mean(), -np.log(double[held_out[:-1], held_out[1:]]).mean()
    return float(np.exp(losses[0])), float(np.exp(losses[1]))


def perplexity(net: Layer, held_out: np.ndarray, most: int = 128):
    """A check for `fit`, on so many windows from all over the held-out files."""
    quiet, starts = net.evaluation(), np.linspace(0, len(held_out) - LENGTH - 1, most).astype(int)
    windows = held_out[starts[:, None] + np.arange(LENGTH + 1)]
    loss = jax.jit(lambda params: LOSS.forward((), (quiet.forward(params, windows[:, :-1])[0], windows[:, 1:]))[0])
    return lambda params: {"held-out perplexity": jnp.exp(loss(params))}


def write(net: Layer, params, prompt: str, length: int) -> str:
    """The prompt, gone on with by the network: a character at a time, of the last LENGTH, at temperature 0.6."""
    scores = jax.jit(lambda window: net.forward(params, window)[0])
    written = [ord(c) for c in prompt]
    for i in range(length):
        seen = written[-LENGTH:]
        following = scores(np.pad(np.array(seen, "int32"), (0, LENGTH - len(seen)))[None])[0, len(seen) - 1] / 0.6
        written.append(int(jax.random.categorical(jax.random.key(i), following)))
    return "".join(map(chr, written))


def run(steps: int, seed: int, out: Path, prompt: str = "def ") -> Outcome:
    training, held_out = text()
    unigram, bigram = counted(training, held_out)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, max(1, steps // 20), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-2))
    histories, figures, sample = {}, [], ""
    for name, net in NETS.items():
        state = start(net, optimizer, jax.random.key(seed), next(batches(training, seed))[0])
        check, every = perplexity(net, held_out), max(1, steps // 8)
        state, histories[name] = fit(
            net, LOSS, optimizer, state, batches(training, seed), steps=steps, check=check, every=every, title=name
        )
        why, reached = f"bigrams: {bigram:.2f}; unigrams: {unigram:.1f}", histories[name][-1]["held-out perplexity"]
        figures += [
            Figure(f"{name}: held-out perplexity", reached, bigram, why, low=True),
            agreement(net, LOSS, state.params, next(batches(training, seed + 1)), f"{name}: "),
        ]
        sample = write(net.evaluation(), state.params, prompt, 400)
        print(f"The {name} writes:\n{sample}\n")

    with picture(out / "characters.png", columns=3, size=(13, 4)) as (left, middle, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(middle, history, "held-out perplexity", name)
        middle.set(yscale="log")
        level(middle, unigram, "unigram")
        level(middle, bigram, "bigram")
        page(right, sample, "the transformer writes")
    return Outcome(NETS, figures, out / "characters.png")


if __name__ == "__main__":
    main(run, steps=800, short=250, prompt="what the samples begin with, in ASCII")
