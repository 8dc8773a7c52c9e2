"""Deep-belief network: two Boltzmann machines look at unlabelled digits first, then backpropagation at a few labels.

    python -m examples.deep_belief

1297 of scikit-learn's digits are there to look at, the other 500 are held out. The first machine learns the pixels, the
second one what the first makes of them; a linear layer is put on top, and the whole is trained on 1 to 30 labelled
digits of each class. The same network from scratch stands beside, each the mean over five draws of the labels: what it
has seen before helps where labels are very few, and not where there are many. (Hinton, Osindero & Teh, *A Fast Learning
Algorithm for Deep Belief Nets*, 2006; Erhan et al., *Why Does Unsupervised Pre-training Help Deep Learning?*, 2010.)
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, curve, main, picture
from jbp import Serial, recipes
from jbp.layers import Add, Dense, Sigmoid
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import State, accuracy, fit, start, step

WIDTHS, LABELS, DRAWS = (256, 256), (1, 3, 10, 30), 5
NET, OPTIMIZER = recipes.deep_belief(10, WIDTHS), optax.adam(5e-3)
SCRATCH = Serial(*(layer for width in WIDTHS for layer in (Dense(width), Sigmoid())), Dense(10))


def pretrained(x: np.ndarray, steps: int, seed: int):
    """(the parameters of a machine for each layer, their histories): each learns what the one below makes of x."""
    params, histories = [], {}
    for level, width in enumerate(WIDTHS, 1):
        net, optimizer = recipes.restricted_boltzmann(width), optax.sgd(optax.linear_schedule(0.1, 0, steps), 0.9)
        state = start(net, optimizer, jax.random.key(seed), x[:50])
        batches, name = minibatches(x, size=50, seed=seed), f"machine {level}"
        state, histories[name] = fit(net, Add(), optimizer, state, batches, steps=steps, title=name)
        params.append(state.params[0])
        x = np.asarray(net.evaluation().forward(state.params, x)[0])
    return params, histories


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, label), (held_x, held_label) = ((v.reshape(len(v), -1), label) for v, label in images())
    machines, histories = pretrained(x, steps, seed)
    nets = {"pretrained": NET, "scratch": SCRATCH}
    learn = {name: step(net, SoftmaxCrossEntropy(), OPTIMIZER) for name, net in nets.items()}

    def tuned(name: str, net: Serial, count: int, draw: int) -> float:
        """The held-out accuracy after 200 steps on `count` labelled digits of each class."""
        order = np.random.default_rng(1000 * seed + draw).permutation(len(x))
        rows = np.concatenate([order[label[order] == c][:count] for c in range(10)])
        state = start(net, OPTIMIZER, jax.random.key(draw), x[rows])
        if name == "pretrained":
            state = State((*jax.tree.map(jnp.copy, machines), state.params[-1]), state.optimizer, state.steps)
        for _ in range(200):
            state, _ = learn[name](state, x[rows], label[rows])
        return float(accuracy(net.forward(state.params, held_x)[0], held_label))

    found = {n: np.array([[tuned(n, m, count, d) for d in range(DRAWS)] for count in LABELS]) for n, m in nets.items()}
    with picture(out / "deep_belief.png", columns=2, size=(11, 4.2)) as (left, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
        left.set(ylim=(-4, 10), ylabel="mean F(digits) − mean F(fantasies)")
        for name, shares in found.items():
            right.errorbar(LABELS, shares.mean(1), shares.std(1), fmt="o-", capsize=3, label=name)
        right.set(xscale="log", xlabel="labelled digits of each class", ylabel="held-out accuracy")
        right.set_xticks(LABELS, [str(count) for count in LABELS])
        right.legend(frameon=False)
    few = {name: float(shares[1].mean()) for name, shares in found.items()}
    figures = [
        Figure("held-out accuracy, 30 labels", few["pretrained"], 0.75, f"from scratch: {few['scratch']:.3f}"),
        Figure("gained by looking first, 30 labels", few["pretrained"] - few["scratch"], 0.005, "from scratch: 0"),
    ]
    return Outcome(nets, figures, out / "deep_belief.png")


if __name__ == "__main__":
    main(run, steps=6000, short=2500)
