"""Logistic regression: thirty measurements of cells, and whether the tumour was malignant.

    python -m examples.logistic

569 biopsies of breast tumours (scikit-learn); 150 are held out. The loss has one minimum, so the network has to find
the very weights that scikit-learn's own solver finds, with the same small penalty on their squares.
"""

from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from examples import data
from examples.shared import Figure, Outcome, agreement, curve, level, main, picture
from jbp import recipes
from jbp.losses import BinaryCrossEntropy
from jbp.train import fit, start

DECAY = 0.01


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, benign), (held_x, held_benign) = data.table(load_breast_cancer, held_out=150)
    cells: Any = load_breast_cancer()
    solver = LogisticRegression(C=1 / (DECAY * len(x)), tol=1e-8, max_iter=1000).fit(x, benign)

    net, loss = recipes.logistic_regression(), BinaryCrossEntropy()
    decay = optax.add_decayed_weights(DECAY, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    optimizer = optax.chain(decay, optax.sgd(0.5, momentum=0.9))
    state = start(net, optimizer, jax.random.key(seed), x)
    scores = jax.jit(lambda params: net.forward(params, held_x)[0][:, 0])
    batch = x, benign[:, None].astype("float32")
    state, history = fit(
        net,
        loss,
        optimizer,
        state,
        repeat(batch),
        steps=steps,
        check=lambda params: {"held-out accuracy": ((scores(params) > 0) == held_benign).mean()},
        every=max(1, steps // 10),
    )

    ours, theirs = np.asarray(state.params[0]["w"])[:, 0], solver.coef_[0]
    always = max(held_benign.mean(), 1 - held_benign.mean())
    with picture(out / "logistic.png", columns=3, size=(13, 4)) as (left, middle, right):
        curve(left, history, "loss")
        curve(middle, history, "held-out accuracy")
        level(middle, always, "always benign")
        order = np.argsort(abs(ours))[-12:]
        right.barh(range(12), ours[order], label="by its own backward pass")
        right.plot(theirs[order], range(12), "k|", markersize=12, label="scikit-learn's solver")
        right.set_yticks(range(12), np.array(cells.feature_names)[order], fontsize=8)
        right.set(title="the largest weights: above 0 for benign")
        right.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.08), ncols=2)
    off = float(abs(ours - theirs).max() / abs(theirs).max())
    figures = [
        Figure("held-out accuracy", history[-1]["held-out accuracy"], 0.93, f"always benign: {always:.2f}"),
        Figure("the weights are off by", off, 0.01, "any direction but that of the gradient", low=True),
        agreement(net, loss, state.params, batch),
    ]
    return Outcome({"logistic regression": net}, figures, out / "logistic.png")


if __name__ == "__main__":
    main(run, steps=300, short=300)
