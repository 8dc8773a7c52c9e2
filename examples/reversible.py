"""Reversible network: 16 layers read digits, and training keeps the output of the last one only.

    python -m examples.reversible

In the backward pass each layer's input is computed from its output. So the memory of a step does not grow with the
depth, as that of jax.grad does, which keeps what every layer needs. The inputs come back with rounding errors; how far
off the gradient is for that is the second figure, beside jax.grad of the same network on one batch, both in float64.
"""

from pathlib import Path

import jax
import numpy as np
import optax

from examples.data import images, linear, placed, placed_batches
from examples.shared import (
    Figure,
    Outcome,
    agreement,
    by_hand,
    by_jax,
    curve,
    held_out_accuracy,
    level,
    main,
    picture,
    temporary,
)
from jbp import recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.sweep import initialize
from jbp.train import fit, start

LOSS, DEPTHS = SoftmaxCrossEntropy(), (2, 4, 8)


def mebibytes(way, blocks: int, x: np.ndarray, label: np.ndarray) -> float:
    """The temporary memory of loss and gradient, by hand or by jax.grad."""
    net = recipes.reversible_network(blocks=blocks)
    params = jax.eval_shape(lambda: initialize(net, jax.random.key(0), x))
    return temporary(jax.jit(way(net, LOSS)).lower(params, x, label).compile()) / 2**20


def run(steps: int, seed: int, out: Path, data: Path | None = None) -> Outcome:
    training, (held_x, held_label) = images(data)
    held_out = placed(held_x, np.random.default_rng(0)), held_label
    plain = linear(*training, *held_out)

    net = recipes.reversible_network(blocks=8)
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-2)
    state = start(net, optimizer, jax.random.key(seed), held_out[0][:64])
    state, history = fit(
        net,
        LOSS,
        optimizer,
        state,
        placed_batches(*training, seed),
        steps=steps,
        check=held_out_accuracy(net, *held_out),
        every=max(1, steps // 8),
    )
    many = next(placed_batches(*training, seed, size=1024))
    hand, auto = ([mebibytes(way, blocks, *many) for blocks in DEPTHS] for way in (by_hand, by_jax))

    with picture(out / "reversible.png", columns=3, size=(13, 4)) as (left, middle, right):
        curve(left, history, "loss")
        curve(middle, history, "held-out accuracy")
        level(middle, plain, "linear classifier")
        for name, memory in {"by hand": hand, "jax.grad": auto}.items():
            right.plot([2 * blocks for blocks in DEPTHS], memory, "o-", label=name)
        right.set(xlabel="layers", ylabel="MiB for one gradient, 1024 digits", ylim=(0, None))
        right.grid(alpha=0.3)
        right.legend(frameon=False)
    grown = [memory[-1] / memory[0] for memory in (hand, auto)]
    figures = [
        Figure("held-out accuracy", history[-1]["held-out accuracy"], 0.9, f"a linear classifier: {plain:.2f}"),
        agreement(net, LOSS, state.params, next(placed_batches(*training, seed)), bar=1e-9),
        Figure("memory of 16 layers by that of 4", grown[0], 1.5, f"jax.grad: {grown[1]:.1f}", low=True),
    ]
    return Outcome({"reversible network": net}, figures, out / "reversible.png")


if __name__ == "__main__":
    main(run, steps=1000, short=400, data="a folder with MNIST's original files")
