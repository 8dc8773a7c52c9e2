"""Residuals in few bits: a GPT learns as well from residuals of eight bits as from whole ones.

    python -m examples.bits

`Keep(block, "int8")` rounds what the backward pass needs up or down at random, so that a weight's gradient is right in
the mean; `Remat(block)` makes it again. The picture has the curves of training, which should lie on one another, and
the memory of one sweep, which should not.
"""

from pathlib import Path

import jax
import numpy as np
import optax

from examples.characters import LOSS, batches, perplexity
from examples.data import text
from examples.shared import Figure, Outcome, curve, main, picture
from jbp import Remat, Repeat, Residual, Serial
from jbp.combinators import Keep
from jbp.layers import GELU, CausalSelfAttention, Dense, Embedding, LayerNorm, Logits, Positions
from jbp.memory import temporary
from jbp.train import fit, start

MIX = Residual(Serial(LayerNorm(), CausalSelfAttention(4)))
BLOCK = Serial(MIX, Residual(Serial(LayerNorm(), Dense(256), GELU(), Dense(64))))
KEPT = {"whole": BLOCK, "bfloat16": Keep(BLOCK, "bfloat16"), "int8": Keep(BLOCK, "int8"), "Remat": Remat(BLOCK)}
NETS = {
    name: Serial(Embedding(128, 64), Positions(128), Repeat(block, 4), LayerNorm(), Logits(128))
    for name, block in KEPT.items()
}


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, held_out = text()
    optimizer, example = optax.adam(2e-3), next(batches(training, seed))
    histories, memory = {}, {}
    for name, net in NETS.items():
        memory[name] = temporary(net, LOSS, *example) / 2**20
        state = start(net, optimizer, jax.random.key(seed), example[0])
        check, every = perplexity(net, held_out), max(1, steps // 8)
        _, histories[name] = fit(
            net, LOSS, optimizer, state, batches(training, seed), steps=steps, check=check, every=every, title=name
        )
    reached = {name: history[-1]["held-out perplexity"] for name, history in histories.items()}

    with picture(out / "bits.png", columns=3, size=(13, 4)) as (left, middle, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(middle, history, "held-out perplexity", name)
        right.bar(list(memory), np.array(list(memory.values())))
        right.set(ylabel="MiB for one sweep, beside the weights")
    whole = f"whole residuals: {reached['whole']:.3f}, {memory['whole']:.1f} MiB"
    figures = [
        Figure("int8: held-out perplexity", reached["int8"], 1.02 * reached["whole"], whole, low=True),
        Figure(
            "int8: memory of a sweep, by that of whole ones", memory["int8"] / memory["whole"], 0.6, whole, low=True
        ),
    ]
    return Outcome(NETS, figures, out / "bits.png")


if __name__ == "__main__":
    main(run, steps=600, short=150)
