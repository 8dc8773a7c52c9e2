"""Handwritten digits: a multilayer perceptron, a convolutional network and a residual network read them.

    python -m examples.digits
    python -m examples.digits --data FOLDER     # MNIST's original files

The data are scikit-learn's 1797 images of 8×8 pixels, 500 of them held out; every training image is shifted by up to
one pixel. Each network has to beat the best linear classifier. The second figure of each is how far a leaf of its
gradient is from that of jax.grad, at most, on one batch in float64.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression

from examples.data import images
from examples.shared import (
    Figure,
    Outcome,
    curve,
    disagreement,
    held_out_accuracy,
    level,
    main,
    minibatches,
    mosaic,
    picture,
)  # fmt: skip
from jbp import SoftmaxCrossEntropy, recipes
from jbp.train import fit, start

LOSS = SoftmaxCrossEntropy()
NETS = {"MLP": recipes.mlp(), "convolutional": recipes.lenet(), "ResNet": recipes.resnet()}
BARS = {"MLP": 0.97, "convolutional": 0.98, "ResNet": 0.98}


def batches(x: np.ndarray, label: np.ndarray, seed: int, size: int = 64):
    """Minibatches without end, each image shifted by −1, 0 or 1 pixels both ways."""
    random = np.random.default_rng(seed)
    h, w = x.shape[1:3]
    for batch, labels in minibatches(x, label, size=size, seed=seed):
        padded = np.pad(batch, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = random.integers(0, 3, (size, 2))
        yield np.stack([image[a : a + h, b : b + w] for image, (a, b) in zip(padded, shifts, strict=True)]), labels


def linear(x: np.ndarray, label: np.ndarray, held_x: np.ndarray, held_label: np.ndarray) -> float:
    """The held-out accuracy of scikit-learn's linear classifier."""
    model = LogisticRegression(max_iter=1000).fit(x[:5000].reshape(-1, x[0].size), label[:5000])
    return float(model.score(held_x.reshape(len(held_x), -1), held_label))


def run(steps: int, seed: int, out: Path, data: Path | None = None) -> Outcome:
    training, held_out = images(data)
    plain = linear(*training, *held_out)
    histories, figures, scores = {}, [], np.zeros(())
    for name, net in NETS.items():
        optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-2)
        state = start(net, optimizer, jax.random.key(seed), training[0][:64])
        check = held_out_accuracy(net, *held_out)
        every = max(1, steps // 8)
        state, histories[name] = fit(
            net, LOSS, optimizer, state, batches(*training, seed), steps=steps, check=check, every=every, title=name
        )
        errors = disagreement(net, LOSS, state.params, *next(batches(*training, seed + 1)))
        worst = max(errors, key=lambda leaf: errors[leaf])
        why = f"the best linear classifier: {plain:.3f}"
        figures += [
            Figure(f"{name}: held-out accuracy", histories[name][-1]["held-out accuracy"], BARS[name], why),
            Figure(f"{name}: a leaf of the gradient is off by", errors[worst], 1e-11, f"at {worst}", low=True),
        ]
        scores = jax.nn.log_softmax(net.evaluation().forward(state.params, held_out[0][:1000])[0])

    x, label = (part[:1000] for part in held_out)
    hardest = np.argsort(np.take_along_axis(np.asarray(scores), label[:, None], 1)[:, 0])[:20]
    said = "read as " + " ".join(str(scores[i].argmax()) for i in hardest[:5])
    with picture(out / "digits.png", columns=3, size=(13, 4)) as (left, middle, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(middle, history, "held-out accuracy", name)
        level(middle, plain, "linear classifier")
        mosaic(right, x[hardest], 5, f"the hardest for the last of them\n(first row {said})")
    return Outcome(NETS, figures, out / "digits.png")


if __name__ == "__main__":
    main(run, steps=1000, short=400, data="a folder with MNIST's original files")
