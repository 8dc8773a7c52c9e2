"""Single-layer network: one layer of weights tells three wines apart by what the laboratory found in them.

    python -m examples.perceptron

178 wines of three growers, 13 measurements of each (scikit-learn); 60 wines are held out.
"""

from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from sklearn.datasets import load_wine

from examples import data
from examples.shared import Figure, Outcome, agreement, curve, held_out_accuracy, level, main, picture
from jbp import recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, label), (held_x, held_label) = data.table(load_wine, held_out=60)
    wine: Any = load_wine()
    commonest = np.bincount(held_label).max() / len(held_label)

    net, optimizer = recipes.single_layer(classes=3), optax.adam(0.05)
    state = start(net, optimizer, jax.random.key(seed), x)
    state, history = fit(
        net,
        SoftmaxCrossEntropy(),
        optimizer,
        state,
        repeat((x, label)),
        steps=steps,
        check=held_out_accuracy(net, held_x, held_label),
        every=max(1, steps // 10),
        accuracy=accuracy,
    )

    with picture(out / "perceptron.png", columns=3, size=(12, 4)) as (left, middle, right):
        curve(left, history, "loss")
        curve(middle, history, "held-out accuracy")
        level(middle, commonest, "always the commonest wine")
        weights = np.asarray(state.params[0]["w"])
        right.imshow(weights, cmap="RdBu", vmin=-abs(weights).max(), vmax=abs(weights).max(), aspect="auto")
        right.set(title="the weights: what speaks for which wine", xticks=range(3), xticklabels=wine.target_names)
        right.set_yticks(range(len(weights)), wine.feature_names, fontsize=8)
    why = f"always the commonest wine: {commonest:.2f}"
    figure = Figure("held-out accuracy", history[-1]["held-out accuracy"], 0.9, why)
    return Outcome(
        {"single layer": net},
        [figure, agreement(net, SoftmaxCrossEntropy(), state.params, (x, label))],
        out / "perceptron.png",
    )


if __name__ == "__main__":
    main(run, steps=100, short=100)
