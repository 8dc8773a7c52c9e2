"""U-Net: which pixels of a photograph somebody has written on.

    python -m examples.unet

Real digits are written over pieces of the two photographs that scikit-learn ships: in training over those of a temple,
and when the network is judged over those of a flower, with digits that were held out. The figure is intersection over
union: of the pixels that have ink or were taken to have some, the share of which both is true. Windows and petals are
as bright as the ink, so brightness does not tell enough, even by the threshold that is best for these very pages.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.datasets import load_sample_images

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, agreement, curve, level, main, mosaic, picture
from jbp import recipes
from jbp.losses import BinaryCrossEntropy
from jbp.train import fit, start

CELL = 12  # a page has 2×2 cells, with a digit of 8×8 pixels somewhere in each


def written(digits: np.ndarray, photograph: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pages (n, 24, 24, 3) with 4 n digits on them, and 1 where there is ink, (n, 24, 24, 1)."""
    cells = np.zeros((len(digits), CELL, CELL), "float32")
    for cell, digit, (a, b) in zip(cells, digits[..., 0], random.integers(0, CELL - 7, (len(digits), 2)), strict=True):
        cell[a : a + 8, b : b + 8] = digit
    ink = cells.reshape(-1, 2, 2, CELL, CELL).swapaxes(2, 3).reshape(-1, 2 * CELL, 2 * CELL, 1)
    places = random.integers(0, np.array(photograph.shape[:2]) - 2 * CELL, (len(ink), 2))
    pieces = np.stack([photograph[a : a + 2 * CELL, b : b + 2 * CELL] for a, b in places])
    return pieces * (1 - ink) + 0.7 * ink, (ink > 0.4).astype("float32")


def batches(digits: np.ndarray, photograph: np.ndarray, seed: int):
    random = np.random.default_rng(seed)
    for (some,) in minibatches(digits, size=64, seed=seed):
        yield written(some, photograph, random)


def overlap(said: np.ndarray, ink: np.ndarray) -> float:
    """Intersection over union."""
    return float((said & (ink > 0)).sum() / (said | (ink > 0)).sum())


def run(steps: int, seed: int, out: Path) -> Outcome:
    temple, flower = (image.astype("float32") / 255 for image in load_sample_images().images)
    (digits, _), (held_out, _) = images()
    pages, ink = written(held_out, flower, np.random.default_rng(0))
    bright = pages.min(-1, keepdims=True)
    plain = max(overlap(bright > threshold, ink) for threshold in np.arange(0, 1, 0.02))

    net, loss, optimizer = recipes.unet(), BinaryCrossEntropy(), optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    state = start(net, optimizer, jax.random.key(seed), pages[:16])
    quiet = net.evaluation()
    said = jax.jit(lambda params: quiet.forward(params, pages)[0] > 0)
    state, history = fit(
        net,
        loss,
        optimizer,
        state,
        batches(digits, temple, seed),
        steps=steps,
        check=lambda params: {"held-out overlap": overlap(np.asarray(said(params)), ink)},
        every=max(1, steps // 8),
    )

    with picture(out / "unet.png", columns=4, size=(15, 4)) as (left, *others):
        curve(left, history, "held-out overlap")
        level(left, plain, "brightness, the best threshold")
        shown = {"held-out pages": pages, "ink, says the network": said(state.params), "ink": ink}
        for axes, (title, part) in zip(others, shown.items(), strict=True):
            mosaic(axes, part[:16], 4, title)
    why = f"the best threshold on brightness: {plain:.2f}"
    figure = Figure("held-out overlap", history[-1]["held-out overlap"], 0.72, why)
    return Outcome({"U-Net": net}, [figure, agreement(net, loss, state.params, (pages[:8], ink[:8]))], out / "unet.png")


if __name__ == "__main__":
    main(run, steps=1000, short=400)
