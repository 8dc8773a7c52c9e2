"""Hopfield networks: memories that recall a handwritten digit from a damaged one, by an energy and by attention.

    python -m examples.hopfield

The patterns are scikit-learn's digits with 64 pixels of −1 or 1. Hopfield's network has the energy −½ s W sᵀ, and each
pixel in its turn takes the sign of its field s W, until none changes. Hebb's rule stores: W = Σ s sᵀ, without the
diagonal. It is good for some 9 random patterns of 64, and for few digits, which are alike. The gradient of the
cross-entropy between σ(s W) and s, at W = 0, *is* Hebb's rule: here it is followed for more than one step. The modern
network recalls s ← softmax(β s Xᵀ) X, one attention to the patterns X. A pattern counts where all 64 pixels are right.
"""

from itertools import repeat
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from examples.shared import Figure, Outcome, curve, main, mosaic, picture
from jbp import recipes
from jbp.losses import BinaryCrossEntropy
from jbp.train import fit, start, step

UNITS, DAMAGE = 64, np.linspace(0, 0.3, 7)
MODERN, IDENTITY = recipes.modern_hopfield(UNITS, sharpness=1.0)


def symmetric() -> optax.GradientTransformation:
    """The gradient in the space of the symmetric matrices with a zero diagonal."""
    return optax.stateless(lambda g, _: jax.tree.map(lambda w: (w + w.T) / 2 * (1 - jnp.eye(len(w))), g))


def trained(patterns: np.ndarray, steps: int):
    """(W, the history, W after the first step from zero)."""
    net, optimizer = recipes.hopfield(UNITS), optax.chain(symmetric(), optax.sgd(12.0))
    task = patterns, (patterns + 1) / 2
    fresh = jax.tree.map(jnp.zeros_like, start(net, optimizer, jax.random.key(0), patterns))
    once, _ = step(net, BinaryCrossEntropy(), optimizer)(jax.tree.map(jnp.copy, fresh), *task)
    state, history = fit(net, BinaryCrossEntropy(), optimizer, fresh, repeat(task), steps=steps, title="storing")
    return np.asarray(state.params["w"]), history, np.asarray(once.params["w"])


def settle(w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Every pixel in its turn takes the sign of its field, twenty times."""
    s = s.copy()
    for i in list(range(UNITS)) * 20:
        s[:, i] = np.where(s @ w[:, i] >= 0, 1, -1)
    return s


def attend(patterns: np.ndarray, s: np.ndarray) -> np.ndarray:
    return np.sign(MODERN.forward(IDENTITY, (s[None], patterns[None]))[0][0])


def run(steps: int, seed: int, out: Path) -> Outcome:
    random = np.random.default_rng(seed)
    every = np.unique(np.where(load_digits(return_X_y=True)[0] > 7, 1, -1).astype("float32"), axis=0)
    random.shuffle(every)
    few, names = every[:30], ("Hebb's rule, 30 digits", "trained, 30 digits", "attention, 30", "attention, all")
    w, history, first = trained(few, steps)
    rule = few.T @ few * (1 - np.eye(UNITS))
    apart = abs(first / abs(first).max() - rule / abs(rule).max()).max()

    def recalled(recall, patterns):
        patterns = np.tile(patterns, (-(-1000 // len(patterns)), 1))
        damaged = [np.where(random.random(patterns.shape) < p, -patterns, patterns) for p in DAMAGE]
        return [float((np.asarray(recall(s)) == patterns).all(1).mean()) for s in damaged]

    hebb = recalled(lambda s: settle(rule, s), few)
    learnt = recalled(lambda s: settle(w, s), few)
    modern, crowded = (recalled(lambda s, p=p: attend(p, s), p) for p in (few, every))
    with picture(out / "hopfield.png", columns=3, size=(14, 4.2)) as (left, middle, right):
        curve(left, history, "loss")
        for name, share in zip(names, (hebb, learnt, modern, crowded), strict=True):
            middle.plot(DAMAGE, share, "o-", markersize=3, label=name)
        middle.set(xlabel="share of pixels flipped", ylabel="share of patterns recalled exactly")
        middle.legend(frameon=False, loc="lower left", fontsize=9, bbox_to_anchor=(0, 0.03))
        damaged = np.where(random.random((8, UNITS)) < 0.1, -few[:8], few[:8])
        rows = few[:8], damaged, settle(rule, damaged), settle(w, damaged), attend(few, damaged)
        mosaic(right, np.concatenate(rows).reshape(-1, 8, 8) / 2 + 0.5, 8)
        for i, name in enumerate(("stored", "10 % flipped", "Hebb", "trained", "attention")):
            right.text(-1.5, 9 * i + 4, name, ha="right", va="center")
    return Outcome(
        {"Hopfield": recipes.hopfield(UNITS), "modern Hopfield": MODERN},
        [
            Figure("30 digits, 5 % flipped: recalled after training", learnt[1], 0.7, f"Hebb's rule: {hebb[1]:.2f}"),
            Figure("first step of training: apart from Hebb's rule", float(apart), 1e-6, "another gradient", low=True),
            Figure(f"attention: {len(every)} digits, 10 % flipped", crowded[2], 0.7, f"Hebb's rule: {hebb[2]:.2f}"),
        ],
        out / "hopfield.png",
    )


if __name__ == "__main__":
    main(run, steps=2000, short=500)
