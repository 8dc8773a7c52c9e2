"""Rules of credit: the error goes down other ways than through the transposed weights, or not at all.

    python -m examples.credit

Each rule makes a network out of a network, and one loop trains them all, a perceptron on scikit-learn's digits and a
convolutional network on digits anywhere in a frame with a piece of another. The angle is that of the first layer's
gradient to backpropagation's through the same weights. The papers are in the docstrings of `jbp.credit`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import optax

from examples.data import cluttered, images, minibatches, real_and_false
from examples.shared import Figure, Outcome, curve, level, main, picture
from jbp import Serial, credit, value_and_grad
from jbp.layers import Conv, Dense, Flatten, ReLU, Tanh
from jbp.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start

LOSS, RATE = SoftmaxCrossEntropy(), 0.003
NETS = {
    "digits": Serial(Flatten(), Dense(64), Tanh(), Dense(64), Tanh(), Dense(64), Tanh(), Dense(10)),
    "digits in clutter": Serial(Conv(8, 3, 2), Tanh(), Conv(16, 3, 2), Tanh(), Flatten(), Dense(64), Tanh(), Dense(10)),
}
RULES: dict[str, Callable[[Any], Any]] = {
    "backpropagation": lambda net: net,
    "weight mirror": credit.weight_mirror,
    "Kolen–Pollack": credit.kolen_pollack,
    "signs, uniform": credit.sign_symmetry,
    "signs, batch": lambda net: credit.sign_symmetry(net, "batch"),
    "signs, fixed": lambda net: credit.sign_symmetry(net, "fixed"),
    "feedback alignment": credit.feedback_alignment,
    "direct feedback": credit.DirectFeedbackAlignment,
    "targets": credit.TargetPropagation,
    "predictive coding": credit.PredictiveCoding,
    "equilibrium": lambda net: Serial(credit.EquilibriumPropagation(net[:-1], 10), net[-1]),
    "local losses": credit.LocalLosses,
    "forward-forward": lambda net: credit.ForwardForward(Serial(*(ReLU() if f == Tanh() else f for f in net[:-1]))),
    "evolution": lambda net: credit.EvolutionStrategy(net, pairs=16),
}
LOSSES = {"local losses": credit.EachOutput(LOSS), "forward-forward": BinaryCrossEntropy()}
FASTER = {"forward-forward": 3 * RATE, "evolution": 3 * RATE}
TRUE, ACCURACY, ANGLE = "backpropagation", "held-out accuracy", "angle of the first layer"
WITHOUT = TRUE, "equilibrium", "forward-forward", "evolution"  # an angle that says something


def trained(name: str, net: Any, data: Any, steps: int, seeds: Iterable[int]) -> list[list[dict[str, float]]]:
    """The histories of a network by one rule."""
    (x, label), (held_x, held_label) = data
    ours, quiet, loss = RULES[name](net), RULES[name](net).evaluation(), LOSSES.get(name, LOSS)
    sent, true, first = value_and_grad(ours, loss, has_aux=True), value_and_grad(net, LOSS), int(net[0] == Flatten())
    decay, every = 0.3 * (name == "Kolen–Pollack"), steps // 16 or 1
    optimizer = optax.adamw(optax.cosine_decay_schedule(FASTER.get(name, RATE), steps), weight_decay=decay)

    @jax.jit
    def look(params):
        scores = credit.ranked(quiet, params, held_x, 10) if name == "forward-forward" else quiet(params, held_x)
        found = {ACCURACY: accuracy(scores, held_label)}
        if name in WITHOUT:
            return found
        a, b = (f(p, x[:500], label[:500])[1] for f, p in ((sent, params), (true, credit.plain(params))))
        return found | {ANGLE: credit.angle(credit.plain(a)[first], b[first])}

    def history(seed):
        batches = minibatches(x, label, size=64, seed=seed)
        batches = real_and_false(batches, 3, seed) if name == "forward-forward" else batches
        state = start(ours, optimizer, jax.random.key(seed), x[:64])
        return fit(ours, loss, optimizer, state, batches, steps=steps, check=look, every=every, title=name)[1]

    return [history(seed) for seed in seeds]


def run(steps: int, seed: int, out: Path) -> Outcome:
    found = {}
    with picture(out / "credit.png", 2, 2, (14, 9)) as axes:
        for (task, net), data, (left, right) in zip(NETS.items(), (images(), cluttered()), axes, strict=True):
            for name in RULES:
                last = found[task, name] = (history := trained(name, net, data, steps, [seed])[0])[-1]
                left.barh(f"{name}  {last[ACCURACY]:.2f}", last[ACCURACY], color="C0" if name == TRUE else "0.7")
                if name not in WITHOUT:
                    curve(right, history, ANGLE, name)
            left.set(title=task, xlabel=ACCURACY, ylim=(len(RULES), -1))
            level(right, 90, "nothing to do with it")
            right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    worst = min(RULES, key=lambda name: found["digits", name][ACCURACY])
    signs, random = (found["digits in clutter", n][ACCURACY] for n in ("signs, uniform", "feedback alignment"))
    figures = [
        Figure(f"held-out accuracy of the last, {worst}", found["digits", worst][ACCURACY], 0.5, "the commonest: 0.10"),
        Figure("in clutter, signs by random weights", signs / random, 1.05, "no better: 1"),
        Figure("degrees of the weight mirror", found["digits", "weight mirror"][ANGLE], 40, "random: 90", low=True),
    ]
    return Outcome({name: rule(NETS["digits"]) for name, rule in RULES.items()}, figures, out / "credit.png")


if __name__ == "__main__":
    main(run, steps=800, short=200)
