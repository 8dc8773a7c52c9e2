"""Laplace approximation: a network knows what it does not know, by the curvature of its last layer.

    python -m examples.laplace

The data are digits in clutter. A network trained to the end is surer than it is right. Here one half of the digits
trains it, and the other tells what its last layer may be: normal around the likeliest weights, with their curvature's
inverse for covariance, under the prior that makes what was seen likeliest (MacKay, *A Practical Bayesian Framework for
Backpropagation Networks*, 1992; Daxberger et al., *Laplace Redux*, 2021). Answers are means over draws of it. The
figure: how far what is said is from how often it is right, in the mean over answers (the expected calibration error),
beside a network that learnt from both halves, under noise that was in neither.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from examples.data import cluttered, minibatches
from examples.shared import Figure, Outcome, main, mosaic, picture
from jbp import Serial, value_and_grad
from jbp.curvature import ggn
from jbp.layers import Conv, Dense, Flatten, MaxPool, ReLU, Tanh
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import fit, start

LOSS, DRAWS, NOISE = SoftmaxCrossEntropy(), 128, (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
BODY = Serial(Conv(8), ReLU(), MaxPool(2), Conv(16), ReLU(), MaxPool(2), Flatten(), Dense(32), Tanh())
NET = Serial(body=BODY, head=(HEAD := Dense(10)))


def posterior(features, label):
    """(mode, covariance, their tree) of the head's weights, under the prior that makes the labels likeliest."""
    vector, tree = ravel_pytree(jax.tree.map(jnp.zeros_like, HEAD.init(jax.random.key(0), features)))

    @jax.jit
    def mode(vector, prior):
        n, one, energy, curvature = len(label), jnp.eye(len(vector)), 0.0, 0.0
        for _ in range(6):  # Newton's method
            value, grads = value_and_grad(HEAD, LOSS)(tree(vector), features, label)
            energy = n * value + prior / 2 * vector @ vector
            curvature = n * ggn(HEAD, LOSS)(tree(vector), features, label).dense() + prior * one
            vector -= jnp.linalg.solve(curvature, n * ravel_pytree(grads)[0] + prior * vector)
        evidence = len(vector) / 2 * jnp.log(prior) - energy - jnp.linalg.slogdet(curvature)[1] / 2
        return vector, evidence, jnp.linalg.inv(curvature)

    found = [mode(vector, 100.0)]
    for prior in np.logspace(2, -1, 13)[1:]:
        found.append(mode(found[-1][0], prior))  # from where the stronger prior before had it
    best = max(found, key=lambda each: each[1] if np.isfinite(each[1]) else -np.inf)
    return best[0], best[2], tree


def calibration(p, label):
    """(expected calibration error, [(how sure, how often right, how many)] by tenths)."""
    sure, right, tenths = p.max(-1), p.argmax(-1) == label, np.ceil(10 * p.max(-1))
    rows = [(sure[b].mean(), right[b].mean(), b.sum()) for b in (tenths == t for t in np.unique(tenths))]
    return float(sum(abs(said - was) * many for said, was, many in rows) / len(label)), rows


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, label), (held_x, held_label) = cluttered(3)
    half = np.tile(np.arange(len(x) // 3) % 2 == 0, 3)  # of the digits: each is there with three pieces of others
    optimizer, key, random = optax.adam(3e-3), jax.random.key(seed), np.random.default_rng(seed)

    def learnt(x, label, title):
        state, batches = start(NET, optimizer, key, x[:1]), minibatches(x, label, size=50, seed=seed)
        return fit(NET, LOSS, optimizer, state, batches, steps=steps, title=title)[0].params

    whole, first = learnt(x, label, "both halves"), learnt(x[half], label[half], "one half")
    mode, covariance, tree = posterior(BODY(first["body"], x[~half]), label[~half])
    heads = jax.vmap(tree)(jax.random.multivariate_normal(key, mode, covariance, (DRAWS,), method="eigh"))

    @jax.jit
    def answers(x):
        features = BODY(first["body"], x)
        uncertain = jax.vmap(lambda head: jax.nn.softmax(HEAD(head, features)))(heads).mean(0)
        return {"trained to the end": jax.nn.softmax(NET(whole, x)), "last layer uncertain": uncertain}

    noisy = (np.float32(held_x + s * random.normal(size=held_x.shape)) for s in NOISE)
    said = [jax.tree.map(np.asarray, answers(x)) for x in noisy]
    found = {name: [calibration(each[name], held_label) for each in said] for name in said[0]}
    other, one = (each[2][0] for each in found.values())  # by name
    with picture(out / "laplace.png", columns=3, size=(13, 4)) as (left, middle, right):
        left.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1)
        for name, each in found.items():
            left.plot(*np.transpose(each[2][1])[:2], "o-", markersize=4, label=name)
            middle.plot(NOISE, [error for error, _ in each], "o-", markersize=4)
        left.set(xlabel="how sure", ylabel="how often right", title=f"held-out digits, noise of {NOISE[2]}")
        left.legend(frameon=False)
        middle.set(xlabel="noise", ylabel="expected calibration error", ylim=(0, None))
        mosaic(right, held_x[np.argsort(said[0]["last layer uncertain"].max(-1))[:20]], 5, "the least sure of")
    figure = Figure("calibration error, noise", other, 0.6 * one, f"trained to the end: {one:.3f}", low=True)
    return Outcome({"convolutional": NET}, [figure], out / "laplace.png")


if __name__ == "__main__":
    main(run, steps=3000, short=2000)
