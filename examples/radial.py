"""Radial basis functions: six bumps move among the wines of three growers, until they tell them apart.

    python -m examples.radial

178 wines, 13 measurements of each (scikit-learn), 60 wines held out. What a bump at c of width e^s says of a wine x is
exp(−½ ‖x − c‖² / e^2s), and a linear layer weighs what the bumps say. A network whose bumps stay where they began
stands beside. The picture has the first two principal components. (Broomhead & Lowe, *Multivariable Functional
Interpolation and Adaptive Networks*, 1988.)
"""

from itertools import repeat
from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.datasets import load_wine

from examples import data
from examples.shared import Figure, Outcome, agreement, curve, held_out_accuracy, level, main, picture
from jbp import Frozen, Serial, recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import fit, start


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, label), (held_x, held_label) = data.table(load_wine, held_out=60)
    net = recipes.radial_basis(outputs=3, bumps=6)
    nets = {"all is trained": net, "the bumps stay": Serial(Frozen(net.layers[0]), net.layers[1])}
    histories, states = {}, {}
    for name, each in nets.items():
        optimizer = optax.adam(0.02)
        state = start(each, optimizer, jax.random.key(seed), x)
        states[name], histories[name] = fit(
            each,
            SoftmaxCrossEntropy(),
            optimizer,
            state,
            repeat((x, label)),
            steps=steps,
            check=held_out_accuracy(each, held_x, held_label),
            every=max(1, steps // 20),
            title=name,
        )

    commonest = np.bincount(held_label).max() / len(held_label)
    plane = np.linalg.svd(x, full_matrices=False)[2][:2].T
    ended = np.asarray(states["all is trained"].params[0]["c"]) @ plane
    begun = np.asarray(states["the bumps stay"].params[0].value["c"]) @ plane
    with picture(out / "radial.png", columns=3, size=(14, 4.4)) as (left, middle, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(middle, history, "held-out accuracy", name)
        level(middle, commonest, "always the commonest wine")
        right.scatter(*(held_x @ plane).T, c=[f"C{n}" for n in held_label], s=20, alpha=0.6)
        right.scatter(*np.concatenate([begun, ended]).T, s=0)
        for here, there in zip(begun, ended, strict=True):
            right.annotate("", there, here, arrowprops={"arrowstyle": "-|>"})
        right.set(title="held-out wines, and where the bumps went")
    reached, still = (history[-1]["held-out accuracy"] for history in histories.values())
    loss, lazy = (history[-1]["loss"] for history in histories.values())
    figures = [
        Figure("held-out accuracy", reached, 0.95, f"bumps that stay: {still:.2f}"),
        Figure("training loss", loss, 0.1, f"bumps that stay: {lazy:.2f}", low=True),
        agreement(net, SoftmaxCrossEntropy(), states["all is trained"].params, (x, label), bar=1e-9),
    ]
    return Outcome(nets, figures, out / "radial.png")


if __name__ == "__main__":
    main(run, steps=1000, short=400)
