"""Recursive networks: from the trees of two expressions in Python, what kind of comparison stood between them.

    python -m examples.recursive

The trees are those of the comparisons in the standard library of this interpreter; every fifth file is held out.
`x.name == "a"` becomes ((x .name) <str>), and the network, which has not seen the ==, says at the root whether it was
one of equality, order, identity or membership. Each inner node is p = tanh(a V a + a W + b) of its children a = (l | r)
or the cell of a Tree-LSTM. Beside them: the commonest kind, and a linear classifier on the leaves without their places.
(Socher et al., *Recursive Deep Models for Semantic Compositionality*, 2013; Tai et al., 2015.)
"""

from collections import Counter
from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression

from examples.data import minibatches
from examples.shared import Figure, Outcome, agreement, curve, level, main, picture
from examples.source import KINDS, arrays, comparisons, files
from jbp import recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start

WORDS, BATCH = 1000, 64
NETS = {
    "tensor network": recipes.recursive_tensor(WORDS, len(KINDS)),
    "Tree-LSTM": recipes.tree_lstm(WORDS, len(KINDS)),
}


def bag(words: np.ndarray) -> np.ndarray:
    """Which words are among the leaves."""
    return (words[:, :, None] == np.arange(1, WORDS)).any(1)


def run(steps: int, seed: int, out: Path) -> Outcome:
    found = [comparisons(part) for part in files(every=5, packages=True)]
    common = Counter(word for words, *_ in found[0] for word in words).most_common(WORDS - 1)
    number = {word: n for n, (word, count) in enumerate(common, 1) if count > 2}
    (words, children, label), (held_words, held_children, truth) = (arrays(part, number) for part in found)
    linear = LogisticRegression(max_iter=200, tol=1e-2).fit(bag(words), label).score(bag(held_words), truth)
    commonest = np.bincount(truth).max() / len(truth)
    histories, exact, said = {}, [], np.zeros(len(truth), int)
    for name, net in NETS.items():
        optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=0.1)
        state = start(net, optimizer, jax.random.key(seed), (words[:BATCH], children[:BATCH]))
        scores = jax.jit(lambda p, net=net: net.evaluation().forward(p, (held_words, held_children))[0])
        state, histories[name] = fit(
            net,
            SoftmaxCrossEntropy(),
            optimizer,
            state,
            (((w, c), k) for w, c, k in minibatches(words, children, label, size=BATCH, seed=seed)),
            steps=steps,
            check=lambda p, scores=scores: {"held-out accuracy": accuracy(scores(p), truth)},
            every=max(1, steps // 8),
            title=name,
        )
        batch = (words[:BATCH], children[:BATCH]), label[:BATCH]
        exact.append(agreement(net, SoftmaxCrossEntropy(), state.params, batch, f"{name}: "))
        said = np.asarray(scores(state.params).argmax(-1))

    with picture(out / "recursive.png", columns=3, size=(14, 4.2)) as (left, middle, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(middle, history, "held-out accuracy", name)
        level(middle, float(linear), "leaves without their places")
        level(middle, commonest, "always the commonest")
        table = np.stack([np.bincount(said[truth == k], minlength=len(KINDS)) / (truth == k).sum() for k in range(4)])
        right.imshow(table, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(table):
            right.text(column, row, f"{share:.2f}", ha="center", va="center", color="w" if share > 0.5 else "k")
        right.set_xticks(range(4), KINDS)
        right.set_yticks(range(4), KINDS)
        right.set(xlabel=f"what the {list(NETS)[-1]} says", ylabel="what it was")
    why = f"the leaves without their places: {linear:.2f}, the commonest: {commonest:.2f}"
    reached = {name: history[-1]["held-out accuracy"] for name, history in histories.items()}
    figures = [Figure(f"{name}: held-out accuracy", value, 0.7, why) for name, value in reached.items()]
    return Outcome(NETS, figures + exact, out / "recursive.png")


if __name__ == "__main__":
    main(run, steps=1500, short=300)
