"""How large a batch: the gradient noise scale of a GPT grows while it learns.

    python -m examples.noise

The noise scale is the number of examples at which the noise in their mean gradient is as large as the gradient: up to
there twice the batch is worth nearly twice the steps, and beyond it next to nothing (McCandlish et al., *An Empirical
Model of Large-Batch Training*, 2018). It comes with `fit(..., check=Watch(...))`, out of one sweep that has the norm of
each example's gradient; the examples here are windows of 128 characters.
"""

from pathlib import Path

import jax
import numpy as np
import optax

from examples.characters import LOSS, batches
from examples.data import text
from examples.shared import Figure, Outcome, curve, main, picture
from jbp import recipes
from jbp.train import fit, start
from jbp.watch import Watch

NET, LOOKS, WATCHED = recipes.gpt(128, 128, width=64, blocks=2), 16, 16


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, held_out = text()
    kept = [np.concatenate(parts) for parts in zip(*(next(batches(held_out, i)) for i in range(WATCHED)), strict=True)]
    optimizer, watch = optax.adam(2e-3), Watch(NET, LOSS, tuple(kept))
    state = start(NET, optimizer, jax.random.key(seed), kept[0][:1])
    first, every = watch(state.params)["noise scale"], max(1, steps // LOOKS)
    _, history = fit(NET, LOSS, optimizer, state, batches(training, seed), steps=steps, check=watch, every=every)

    seen = [(row["loss"], row["noise scale"]) for row in history if np.isfinite(row.get("noise scale", np.inf))]
    lost, scales = np.array(seen).T
    with picture(out / "noise.png", columns=2) as (left, right):
        curve(left, history, "noise scale")
        left.set(yscale="log", ylabel="noise scale, in windows")
        right.plot(lost, scales, "o")
        right.set(xlabel="loss", ylabel="noise scale, in windows", yscale="log")
        right.invert_xaxis()
        right.grid(alpha=0.3)
    late = float(np.median(scales[-LOOKS // 4 :]))
    figure = Figure("noise scale, in windows", late, 3 * first, f"before the first step: {first:.2f}")
    return Outcome({"GPT": NET}, [figure], out / "noise.png")


if __name__ == "__main__":
    main(run, steps=600, short=150)
