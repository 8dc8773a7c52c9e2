"""Variational autoencoder: a distribution over handwritten digits, and new ones drawn from it.

    python -m examples.vae

The data are scikit-learn's digits in black and white, 500 of them held out. The figure is a bound on the negative
log-likelihood: how many nats a held-out digit takes. The network does not know which digits there are; a mixture of ten
mean images, one for each digit, which does, has to be beaten.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from scipy.special import logsumexp

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, agreement, curve, level, main, mosaic, picture
from jbp import recipes
from jbp.losses import BinaryCrossEntropy, Penalized
from jbp.train import fit, start

CODE = 8


def mixture(x: np.ndarray, label: np.ndarray, held_x: np.ndarray) -> float:
    """The nats that a held-out digit takes where each of the digits is its mean image."""
    means = np.stack([x[label == k].mean(0) for k in range(10)]).clip(0.01, 0.99)
    logs = held_x @ np.log(means).T + (1 - held_x) @ np.log(1 - means).T
    return float(-np.mean(logsumexp(logs - np.log(10), axis=1)))


def run(steps: int, seed: int, out: Path, data: Path | None = None) -> Outcome:
    (x, label), (held_x, _) = images(data)
    side = x.shape[1]
    x, held_x = ((part.reshape(len(part), -1) > 0.5).astype("float32") for part in (x, held_x[:1000]))
    pixels, plain, key = x.shape[1], mixture(x, label, held_x), "held-out nats an image"

    net: Any = recipes.variational_autoencoder(pixels, code=CODE)
    loss = Penalized(BinaryCrossEntropy(), 1 / pixels)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    state = start(net, optimizer, jax.random.key(seed), x[:64])
    bound = jax.jit(lambda params: pixels * loss.forward((), (net.forward(params, held_x)[0], held_x))[0])
    state, history = fit(
        net,
        loss,
        optimizer,
        state,
        ((part, part) for (part,) in minibatches(x, size=64, seed=seed)),
        steps=steps,
        check=lambda params: {key: bound(params)},
        every=max(1, steps // 8),
    )

    (logits, _), _ = net.evaluation().forward(state.params, held_x[:24])
    decoder, params = net.layers[-1].layers[0].layers[1], state.params[-1][0][1]
    drawn, _ = decoder.forward(params, jax.random.normal(jax.random.key(seed), (64, CODE)))
    with picture(out / "vae.png", columns=3, size=(13, 4)) as (left, middle, right):
        curve(left, history, key)
        level(left, plain, "ten mean images")
        both = np.stack([held_x[:24].reshape(3, 8, -1), jax.nn.sigmoid(logits).reshape(3, 8, -1)], 1)
        mosaic(middle, both.reshape(48, side, side), 8, "held-out digits, and below each\nwhat came back")
        mosaic(right, jax.nn.sigmoid(drawn).reshape(64, side, side), 8, "drawn from the prior")
    figure = Figure(key, history[-1][key], plain, f"a mixture of ten mean images: {plain:.1f}", low=True)
    return Outcome(
        {"variational autoencoder": net},
        [figure, agreement(net, loss, state.params, (x[:64], x[:64]))],
        out / "vae.png",
    )


if __name__ == "__main__":
    main(run, steps=2000, short=1000, data="a folder with MNIST's original files")
