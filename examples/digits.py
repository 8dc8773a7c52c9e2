"""Handwritten digits: an MLP and a convolutional network, trained by their own backward pass.

    python -m examples.digits

The data are scikit-learn's 1797 images of 8×8 pixels: 500 of them, the same ones always, are held out, and every
training image is shifted by up to one pixel. Prints, for both networks, the held-out accuracy, the greatest
disagreement with jax.grad over all leaves on a live batch in float64, and the step time beside jax.grad's; saves the
curves in out/digits.png. Ends with an error if the convolutional network is below 98 %, or a leaf off by over 1e-11.
"""

import argparse
import sys

import jax
import numpy as np
import optax
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from examples.shared import OUT, curves, disagreement, figures_of, race, report
from jbp import Conv, Dense, Dropout, Flatten, MaxPool, ReLU, Serial, SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start

BATCH = 64
LOSS = SoftmaxCrossEntropy()


def mlp() -> Serial:
    return Serial(Flatten(), Dense(256), ReLU(), Dense(128), ReLU(), Dropout(0.2), Dense(10))


def convolutional() -> Serial:
    first = Conv(32), ReLU(), Conv(32), ReLU(), MaxPool()
    return Serial(*first, Conv(64), ReLU(), MaxPool(), Flatten(), Dropout(0.3), Dense(10))


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """((x, label) for training, (x, label) held out), x (n, 8, 8, 1) between 0 and 1."""
    x, label = load_digits(return_X_y=True)
    x, label = (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), label.astype("int32")
    parts = train_test_split(x, label, test_size=500, random_state=0, stratify=label)
    x, held_x, label, held_label = map(np.asarray, parts)
    return (x, label), (held_x, held_label)


def batches(x: np.ndarray, label: np.ndarray, seed: int):
    """Pairs without end: every epoch in a new order, each image shifted by −1, 0 or 1 pixels both ways."""
    random = np.random.default_rng(seed)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    while True:
        order = random.permutation(len(x))
        for i in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[i : i + BATCH]
            shifts = random.integers(0, 3, (BATCH, 2))
            images = [padded[row, a : a + 8, b : b + 8] for row, (a, b) in zip(rows, shifts, strict=True)]
            yield np.stack(images), label[rows]


def train(net: Serial, steps: int, seed: int, title: str, console: Console | None = None):
    """(state, history, held-out accuracy) after so many steps of AdamW with a cosine schedule."""
    train_set, (held_x, held_label) = data()
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-2)
    state = start(net, optimizer, jax.random.key(seed), train_set[0][:BATCH])
    quiet = net.evaluation()
    held_out = jax.jit(lambda params: accuracy(quiet.forward(params, held_x)[0], held_label))
    state, history = fit(
        net,
        LOSS,
        optimizer,
        state,
        batches(*train_set, seed),
        steps=steps,
        check=lambda params: {"held-out accuracy": held_out(params)},
        every=max(1, steps // 8),
        title=title,
        console=console,
        accuracy=accuracy,
    )
    return state, history, history[-1]["held-out accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an MLP and a convolutional network on handwritten digits.")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    console = Console()
    train_set, _ = data()
    histories, rows, faults = {}, {}, []
    for name, net in {"MLP": mlp(), "convolutional": convolutional()}.items():
        state, histories[name], held_out = train(net, options.steps, options.seed, name, console)
        live = next(batches(*train_set, seed=options.seed + 1))
        errors = disagreement(net, LOSS, state.params, *live)
        worst = max(errors, key=lambda leaf: errors[leaf])
        rows[name] = {
            "held-out accuracy": f"{held_out:.1%}",
            "worst leaf against jax.grad": f"{errors[worst]:.1e} at {worst}",
        } | figures_of(race(net, LOSS, state.params, *live))
        if not errors[worst] <= 1e-11:
            faults.append(f"{name}: gradient of {worst} is off by {errors[worst]:.1e}; expected at most 1e-11.")
        if name == "convolutional" and held_out < 0.98:
            faults.append(f"{name}: held-out accuracy {held_out:.1%}; expected at least 98 %. Were there enough steps?")
    report(console, rows)
    path = curves(histories, "held-out accuracy", {}, OUT / "digits.png")
    console.print(f"The curves are in {path.relative_to(OUT.parent)}.")
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
