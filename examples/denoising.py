"""Denoising autoencoder: what the digit was, from an image that is half noise.

    python -m examples.denoising

Noise of standard deviation 0.5 is put on scikit-learn's digits, anew for every batch; 500 digits are held out. The
best linear way to take it off again, fitted to the same data, has to be beaten.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.linear_model import Ridge

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, agreement, curve, level, main, mosaic, picture
from jbp import recipes
from jbp.losses import MeanSquaredError
from jbp.train import fit, start


def noisy(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return x + 0.5 * random.standard_normal(x.shape, dtype="float32")


def batches(x: np.ndarray, seed: int):
    random = np.random.default_rng(seed)
    for (part,) in minibatches(x, size=64, seed=seed):
        yield noisy(part, random), part


def run(steps: int, seed: int, out: Path, data: Path | None = None) -> Outcome:
    (x, _), (held_x, _) = images(data)
    side = x.shape[1]
    x, held_x = (part[:, :, :, 0].reshape(len(part), -1) for part in (x, held_x[:1000]))
    random = np.random.default_rng(0)
    given, many = noisy(held_x, random), np.concatenate([x[:2000]] * 8)
    linear = Ridge(alpha=10).fit(noisy(many, random), many).predict(given)
    plain = float(np.square(linear - held_x).mean())

    net, loss = recipes.autoencoder(features=x.shape[1], widths=(256,), code=64), MeanSquaredError()
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = start(net, optimizer, jax.random.key(seed), x[:64])
    cleaned = jax.jit(lambda params: net.forward(params, given)[0])
    state, history = fit(
        net,
        loss,
        optimizer,
        state,
        batches(x, seed),
        steps=steps,
        check=lambda params: {"held-out squared error": np.square(cleaned(params) - held_x).mean()},
        every=max(1, steps // 8),
    )

    with picture(out / "denoising.png", columns=2, size=(11, 4)) as (left, right):
        curve(left, history, "held-out squared error")
        level(left, plain, "the best linear map")
        rows = np.concatenate([part[:12] for part in (given, linear, cleaned(state.params), held_x)])
        mosaic(right, rows.reshape(-1, side, side), 12, "given; the best linear map; the network; what it was")
    why = f"the best linear map: {plain:.4f}; doing nothing: {np.square(given - held_x).mean():.2f}"
    figure = Figure("held-out squared error", history[-1]["held-out squared error"], 0.9 * plain, why, low=True)
    return Outcome(
        {"denoising autoencoder": net},
        [figure, agreement(net, loss, state.params, (given, held_x))],
        out / "denoising.png",
    )


if __name__ == "__main__":
    main(run, steps=2000, short=1000, data="a folder with MNIST's original files")
