"""Spiking network: reads digits that come as spikes, with neurons that fire or do not.

    python -m examples.spiking

In each of 16 moments a pixel of scikit-learn's digits spikes with a probability of half its brightness; 500 digits are
held out. A neuron adds up what it is sent, leaks, and where it is above 1 fires and loses 1: u ← 0.9 u + W s − fired.
That step has no slope, so the true gradient is zero beneath it, and only the last, linear layer would learn: that
network, of frozen neurons, stands beside. The surrogate 1 / (1 + 2 |u − 1|)² in place of the slope teaches them all.
(Neftci et al., *Surrogate Gradient Learning in Spiking Neural Networks*, 2019.)
"""

from pathlib import Path

import jax
import numpy as np
import optax

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, curve, held_out_accuracy, level, main, picture
from jbp import Frozen, Serial, recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import fit, start

TIME = 16


def spikes(x: np.ndarray, seed: int) -> np.ndarray:
    """(batch, TIME, pixels) of 0 and 1, from images between 0 and 1."""
    random = np.random.default_rng(seed)
    rate = x.reshape(len(x), 1, -1) / 2
    return (random.random((len(x), TIME, rate.shape[-1])) < rate).astype("float32")


def batches(x: np.ndarray, label: np.ndarray, seed: int):
    for i, (batch, labels) in enumerate(minibatches(x, label, size=64, seed=seed)):
        yield spikes(batch, i), labels


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, label), (held_x, held_label) = images()
    held = spikes(held_x, seed)
    net = recipes.spiking(classes=10)
    body, head = Serial(*net.layers[:-1]), net.layers[-1]
    nets = {"surrogate gradient": Serial(body, head), "true gradient": Serial(Frozen(body), head)}
    histories, states = {}, {}
    for name, each in nets.items():
        optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
        state = start(each, optimizer, jax.random.key(seed), held[:64])
        check, every = held_out_accuracy(each, held, held_label), max(1, steps // 8)
        states[name], histories[name] = fit(
            each,
            SoftmaxCrossEntropy(),
            optimizer,
            state,
            batches(x, label, seed),
            steps=steps,
            check=check,
            every=every,
            title=name,
        )

    reached, blind = (history[-1]["held-out accuracy"] for history in histories.values())
    params = states["surrogate gradient"].params[0]
    with picture(out / "spiking.png", columns=4, size=(15, 4)) as (left, middle, *rasters):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(middle, history, "held-out accuracy", name)
        level(middle, np.bincount(held_label).max() / len(held_label), "always the same digit")
        fired = np.asarray(Serial(*body.layers[:2]).forward(params[:2], held[:1])[0])
        sent = {"the pixels": held[0], "the first neurons": fired[0]}
        for axes, (what, train) in zip(rasters, sent.items(), strict=True):
            axes.eventplot([np.flatnonzero(row) for row in train.T], linelengths=0.8, linewidths=2, color="0.2")
            axes.set(xlabel="moment", ylabel="number", title=f"a {held_label[0]}: spikes of {what}")
    why = f"the true gradient, zero beneath a spike: {blind:.3f}"
    return Outcome(nets, [Figure("held-out accuracy", reached, 0.92, why)], out / "spiking.png")


if __name__ == "__main__":
    main(run, steps=2000, short=400)
