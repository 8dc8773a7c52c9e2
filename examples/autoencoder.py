"""Deep autoencoder: handwritten digits through two numbers and back.

    python -m examples.autoencoder

The data are scikit-learn's 1797 digits of 8×8 pixels, 500 of them held out. The best linear network with such a
bottleneck is principal component analysis: what is lost on the way has to be far less than there.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.decomposition import PCA

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, agreement, curve, level, main, mosaic, picture
from jbp import recipes
from jbp.losses import MeanSquaredError
from jbp.train import fit, start


def run(steps: int, seed: int, out: Path, data: Path | None = None) -> Outcome:
    (x, _), (held_x, held_label) = images(data)
    side = x.shape[1]
    x, held_x = (part[:, :, :, 0].reshape(len(part), -1) for part in (x, held_x[:1000]))
    linear = PCA(2).fit(x)
    flat = linear.inverse_transform(linear.transform(held_x))
    plain = float(np.square(flat - held_x).mean())

    net, loss = recipes.autoencoder(features=x.shape[1], code=2), MeanSquaredError()
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    state = start(net, optimizer, jax.random.key(seed), x[:64])
    lost = jax.jit(lambda params: loss.forward((), (net.forward(params, held_x)[0], held_x))[0])
    state, history = fit(
        net,
        loss,
        optimizer,
        state,
        ((part, part) for (part,) in minibatches(x, size=64, seed=seed)),
        steps=steps,
        check=lambda params: {"held-out squared error": lost(params)},
        every=max(1, steps // 8),
    )

    encoder, decoder = net.layers
    code = encoder.forward(state.params[0], held_x)[0]
    back = decoder.forward(state.params[1], code)[0]
    with picture(out / "autoencoder.png", columns=3, size=(13, 4)) as (left, middle, right):
        curve(left, history, "held-out squared error")
        level(left, plain, "principal components")
        points = middle.scatter(*np.asarray(code).T, c=held_label[:1000], cmap="tab10", s=8)
        middle.legend(*points.legend_elements(), fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        middle.set(title="held-out digits by their two numbers")
        rows = np.concatenate([held_x[:10], back[:10], flat[:10]]).reshape(-1, side, side)
        mosaic(right, rows, 10, "digits; through the network;\nthrough two principal components")
    why = f"two principal components: {plain:.4f}"
    figure = Figure("held-out squared error", history[-1]["held-out squared error"], 0.75 * plain, why, low=True)
    return Outcome(
        {"deep autoencoder": net},
        [figure, agreement(net, loss, state.params, (x[:64], x[:64]))],
        out / "autoencoder.png",
    )


if __name__ == "__main__":
    main(run, steps=2000, short=1000, data="a folder with MNIST's original files")
