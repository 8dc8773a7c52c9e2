"""Characters: a causal transformer and an LSTM learn to write Python, trained by their own backward pass.

    python -m examples.characters

The text is the source of Python's own standard library, as it lies beside the interpreter that runs this: every tenth
file is held out. Prints, for both networks, the held-out loss in nats a character, beside that of a unigram model,
which knows how often each character comes and nothing else; a sample of what the network writes; the greatest
disagreement with jax.grad on a live batch in float64; and the step time beside jax.grad's. Saves the curves in
out/characters.png. Ends with an error if a network does not beat the unigram model, or a leaf is off by over 1e-11.
"""

import argparse
import sys
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.panel import Panel
from rich.progress import track
from rich.text import Text

from examples.shared import OUT, curves, disagreement, figures_of, race, report
from jbp import (
    GELU,
    LSTM,
    CausalSelfAttention,
    Dense,
    Embedding,
    Layer,
    LayerNorm,
    Logits,
    Positions,
    Repeat,
    Residual,
    Serial,
    SoftmaxCrossEntropy,
    Tied,
)
from jbp.train import accuracy, fit, start

VOCABULARY = 128  # ASCII; anything else is read as "?"
LENGTH, BATCH = 128, 16
LOSS = SoftmaxCrossEntropy()


def transformer(width: int = 96, blocks: int = 3, heads: int = 4) -> Tied:
    attention = Residual(Serial(LayerNorm(), CausalSelfAttention(heads)))
    feedforward = Residual(Serial(LayerNorm(), Dense(4 * width), GELU(), Dense(width)))
    body = Repeat(Serial(attention, feedforward), blocks)
    net = Serial(Embedding(VOCABULARY, width), Positions(LENGTH), body, LayerNorm(), Logits(VOCABULARY))
    return Tied(net, (((0, "e"), (4, "e")),))


def lstm(width: int = 192) -> Serial:
    return Serial(Embedding(VOCABULARY, 64), LSTM(width), Dense(VOCABULARY))


def data(most: int = 4_000_000) -> tuple[np.ndarray, np.ndarray]:
    """(training, held out): the characters of the standard library's modules, files in alphabetical order."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py"))
    texts = [file.read_bytes() for file in files if "site-packages" not in file.parts and "test" not in file.parts]
    parts = [b"".join(t for i, t in enumerate(texts) if (i % 10 == 0) == held_out) for held_out in (False, True)]
    training, held_out = (np.frombuffer(part[:most], np.uint8).astype("int32") for part in parts)
    if min(len(training), len(held_out)) < 100 * LENGTH:
        sys.exit(f"{folder} has no Python sources to learn from; expected the standard library of this interpreter.")
    training, held_out = (np.where(part < VOCABULARY, part, ord("?")) for part in (training, held_out))
    return training, held_out


def batches(text: np.ndarray, seed: int):
    """Pairs (characters, the next ones) without end, each (BATCH, LENGTH), cut from the text at random."""
    random = np.random.default_rng(seed)
    while True:
        rows = random.integers(0, len(text) - LENGTH - 1, BATCH)[:, None] + np.arange(LENGTH + 1)
        yield text[rows[:, :-1]], text[rows[:, 1:]]


def unigram(training: np.ndarray, held_out: np.ndarray) -> float:
    """The held-out loss of the best guess that does not look at what came before, in nats a character."""
    counts = np.bincount(training, minlength=VOCABULARY) + 1
    return float(-np.log(counts / counts.sum())[held_out].mean())


def write(net: Layer, params, prompt: str, length: int, seed: int = 0) -> str:
    """The prompt, gone on with by the network: a character at a time, of the last LENGTH, at temperature 0.8."""

    @jax.jit
    def following(params, window, last, key):
        scores, _ = net.forward(params, window)
        return jax.random.categorical(key, scores[0, last] / 0.8)

    text = [ord(c) for c in prompt]
    for i in track(range(length), "writing", transient=True):
        window = np.zeros((1, LENGTH), "int32")
        seen = text[-LENGTH:]
        window[0, : len(seen)] = seen
        text.append(int(following(params, window, len(seen) - 1, jax.random.key(seed + i))))
    return "".join(map(chr, text))


def train(net: Layer, text: np.ndarray, held_out: np.ndarray, steps: int, seed: int, title: str, console=None):
    """(state, history) after so many steps of AdamW with warm-up and a cosine schedule."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, max(1, steps // 20), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))
    state = start(net, optimizer, jax.random.key(seed), jnp.asarray(text[: BATCH * LENGTH].reshape(BATCH, LENGTH)))
    quiet = net.evaluation()
    rows = len(held_out) // (LENGTH + 1)
    every = np.linspace(0, rows - 1, min(rows, 256)).astype(int)  # 256 windows from all over the held-out files
    windows = held_out[: rows * (LENGTH + 1)].reshape(rows, -1)[every]

    @jax.jit
    def loss_of(params):
        return LOSS.forward((), (quiet.forward(params, windows[:, :-1])[0], windows[:, 1:]))[0]

    return fit(
        net,
        LOSS,
        optimizer,
        state,
        batches(text, seed),
        steps=steps,
        check=lambda params: {"held-out loss": loss_of(params)},
        every=max(1, steps // 8),
        title=title,
        console=console,
        accuracy=accuracy,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a transformer and an LSTM on the standard library's sources.")
    parser.add_argument("--steps", type=int, default=800, help="training steps of each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", default="def ", help="what the samples begin with, in ASCII")
    options = parser.parse_args()
    if not options.prompt or not options.prompt.isascii():
        parser.error(f"got the prompt {options.prompt!r}; expected one or more ASCII characters.")

    console = Console()
    text, held_out = data()
    plain = unigram(text, held_out)
    console.print(f"{len(text):,} characters to learn from, {len(held_out):,} held out; unigram loss {plain:.3f}")
    histories, columns, faults = {}, {}, []
    for name, net in {"transformer": transformer(), "LSTM": lstm()}.items():
        state, histories[name] = train(net, text, held_out, options.steps, options.seed, name, console)
        loss = histories[name][-1]["held-out loss"]
        console.print(
            Panel(Text(write(net.evaluation(), state.params, options.prompt, 400)), title=f"the {name} writes")
        )
        live = next(batches(text, options.seed + 1))
        errors = disagreement(net, LOSS, state.params, *live)
        worst = max(errors, key=lambda leaf: errors[leaf])
        columns[name] = {
            "held-out loss, nats": f"{loss:.3f}",
            "the same, unigram": f"{plain:.3f}",
            "worst leaf against jax.grad": f"{errors[worst]:.1e} at {worst}",
        } | figures_of(race(net, LOSS, state.params, *live))
        if not errors[worst] <= 1e-11:
            faults.append(f"{name}: gradient of {worst} is off by {errors[worst]:.1e}; expected at most 1e-11.")
        if not loss < plain:
            faults.append(f"{name}: held-out loss {loss:.3f}; expected less than {plain:.3f}. Were there enough steps?")
    report(console, columns)
    path = curves(histories, "held-out loss", {"unigram": plain}, OUT / "characters.png")
    console.print(f"The curves are in {path.relative_to(OUT.parent)}.")
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
