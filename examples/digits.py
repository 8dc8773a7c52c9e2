"""Handwritten digits: a multilayer perceptron, a convolutional and a residual network and a transformer read them.

    python -m examples.digits
    python -m examples.digits --data FOLDER     # MNIST's original files

The data are scikit-learn's 1797 images of 8×8 pixels, 500 of them held out, each anywhere in a frame of 10×10. Each
network has to beat a linear classifier by far. The second figure of each is how far a leaf of its
gradient is from that of jax.grad, at most, on one batch in float64.
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
    curve,
    held_out_accuracy,
    level,
    main,
    mosaic,
    picture,
)
from jbp import recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import fit, start

LOSS = SoftmaxCrossEntropy()
NETS = {
    "MLP": recipes.mlp(),
    "convolutional": recipes.lenet(),
    "ResNet": recipes.resnet(),
    "vision transformer": recipes.vision_transformer(length=225),
}
BARS = {"MLP": 0.9, "convolutional": 0.97, "ResNet": 0.97, "vision transformer": 0.75}


def run(steps: int, seed: int, out: Path, data: Path | None = None) -> Outcome:
    training, (held_x, held_label) = images(data)
    held_out = placed(held_x, np.random.default_rng(0)), held_label
    plain = linear(*training, *held_out)
    histories, figures, scores = {}, [], np.zeros(())
    for name, net in NETS.items():
        optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-2)
        state = start(net, optimizer, jax.random.key(seed), held_out[0][:64])
        check = held_out_accuracy(net, *held_out)
        every = max(1, steps // 8)
        state, histories[name] = fit(
            net,
            LOSS,
            optimizer,
            state,
            placed_batches(*training, seed),
            steps=steps,
            check=check,
            every=every,
            title=name,
        )
        why = f"a linear classifier: {plain:.2f}"
        figures += [
            Figure(f"{name}: held-out accuracy", histories[name][-1]["held-out accuracy"], BARS[name], why),
            agreement(net, LOSS, state.params, next(placed_batches(*training, seed + 1)), f"{name}: "),
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
        mosaic(right, x[hardest], 5, f"hardest for the transformer\n(first row {said})")
    return Outcome(NETS, figures, out / "digits.png")


if __name__ == "__main__":
    main(run, steps=1000, short=500, data="a folder with MNIST's original files")
