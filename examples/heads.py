"""Two heads: half of a digit with a fact about it, to which digit it is and how much ink the other half has.

    python -m examples.heads

The lower half of each image is hidden. The fact is whether the digit is even. Two branches read them, and of what they
make together one head tells the digit and the other the ink in the hidden half, with a loss and a weight each: a
`Graph` and a `Total`, all by name. Without the fact the same network is the same but for one branch. Linear models,
which are given image and fact alike, have both tasks too.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.linear_model import RidgeClassifier, RidgeCV

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, agreement, curve, level, main, mosaic, picture
from jbp import Graph, Serial
from jbp.layers import BatchNorm, Concatenate, Conv, Dense, Dropout, Flatten, ReLU
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy, Total
from jbp.train import accuracy, fit, start


def halves(x: np.ndarray, label: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(inputs, targets) by name."""
    even, ink = (label[:, None] % 2 == 0).astype("float32"), x[:, 4:].mean((1, 2, 3))[:, None]
    return {"image": x[:, :4], "facts": even}, {"kind": label, "ink": 10 * ink}


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, label), (held_x, held_label) = images()
    (given, wanted), (held, right) = halves(x, label), halves(held_x, held_label)
    seen = Serial(Conv(32), BatchNorm(), ReLU(), Conv(32), BatchNorm(), ReLU(), Flatten(), Dropout(0.3), Dense(64))
    both = Graph(
        seen=(seen, "image"),
        known=(Serial(Dense(16), ReLU()), "facts"),
        joined=(Serial(Concatenate(), Dense(64), ReLU(), Dropout(0.3)), "seen", "known"),
        kind=(Dense(10), "joined"),
        ink=(Dense(1), "joined"),
    )
    joined = Serial(seen, Dense(64), ReLU(), Dropout(0.3))
    alone = Graph(joined=(joined, "image"), kind=(Dense(10), "joined"), ink=(Dense(1), "joined"))
    loss = Total(kind=SoftmaxCrossEntropy(), ink=(MeanSquaredError(), 0.3))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps, 0.02))
    names, found = list(given) + list(wanted), {}
    for name, net in (("both", both), ("alone", alone)):

        def read(every, net=net):
            return every if net is both else every["image"]  # one input is given without its name

        def batch(arrays):
            every = dict(zip(names, arrays, strict=True))
            return read({k: every[k] for k in given}), {k: every[k] for k in wanted}

        def check(params, net=net):
            y = net.evaluation()(params, read(held))
            rest = ((y["ink"] - right["ink"]) ** 2).mean() / right["ink"].var()
            return {"held-out accuracy": accuracy(y["kind"], right["kind"]), "ink explained": 1 - rest}

        arrays = minibatches(*given.values(), *wanted.values(), size=64, seed=seed)
        state = start(net, optimizer, jax.random.key(seed), batch(next(arrays))[0])
        found[name] = fit(
            net, loss, optimizer, state, map(batch, arrays), steps=steps, check=check, every=max(1, steps // 10),
            title=name, **loss.measures(),
        )  # fmt: skip
    flat = [np.concatenate([part["image"].reshape(len(part["image"]), -1), part["facts"]], 1) for part in (given, held)]
    linear = RidgeClassifier().fit(flat[0], wanted["kind"]).score(flat[1], right["kind"])
    explained = RidgeCV().fit(flat[0], wanted["ink"]).score(flat[1], right["ink"])
    last = {name: history[-1] for name, (_, history) in found.items()}
    with picture(out / "heads.png", columns=3, size=(14, 3.6)) as (left, middle, images_of):
        for name, (_, history) in found.items():
            curve(left, history, "held-out accuracy", {"both": "half and fact", "alone": "half alone"}[name])
            curve(middle, history, "ink explained", {"both": "half and fact", "alone": "half alone"}[name])
        level(left, linear, "linear, half and fact")
        level(middle, explained, "linear, half and fact")
        mosaic(images_of, held["image"][:40], 8, "what it sees")
    few = {k: v[:8] for k, v in held.items()}, {k: v[:8] for k, v in right.items()}
    reached = last["both"]["held-out accuracy"], last["both"]["ink explained"]
    without = f"linear: {linear:.2f}; without the fact: {last['alone']['held-out accuracy']:.2f}"
    figures = [
        Figure("held-out accuracy", reached[0], 0.93, without),
        Figure("share of the ink's variance explained", reached[1], 0.5, f"linear: {explained:.2f}"),
        agreement(both.evaluation(), loss, found["both"][0].params, few),
    ]
    return Outcome({"two heads": both}, figures, out / "heads.png")


if __name__ == "__main__":
    main(run, steps=2000, short=400)
