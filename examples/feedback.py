"""Feedback alignment: the error goes down through fixed random weights, and the network learns all the same.

    python -m examples.feedback

A multilayer perceptron on scikit-learn's digits, 500 held out. In the backward pass a random B stands for every W, and
never changes: dx = dy Bᵀ in place of dy Wᵀ, the gradient dW = xᵀ dy as ever. At first the two have nothing to do with
one another, and the angle to the true gradient is 90° but for the last layer. Then W turns towards B, and it
narrows. (Lillicrap et al., *Random Synaptic Feedback Weights Support Error Backpropagation for Deep Learning*, 2016.)
"""

from pathlib import Path

import jax
import numpy as np
import optax

from examples.data import images, minibatches
from examples.shared import Figure, Outcome, curve, held_out_accuracy, level, main, picture
from jbp import recipes, value_and_grad
from jbp.credit import angle, feedback_alignment, transported
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import fit, start

LOSS = SoftmaxCrossEntropy()
NET = recipes.mlp(widths=(128, 128), dropout=0.0)
NETS = {"backpropagation": NET, "feedback alignment": feedback_alignment(NET)}


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, held_out = images()
    quiet = NETS["feedback alignment"].evaluation()
    sweep = value_and_grad(quiet, LOSS)

    @jax.jit
    def apart(params):
        """In degrees, the angle between the first layer's gradient as it is sent and as backpropagation has it."""
        sent, true = (sweep(p, training[0][:500], training[1][:500])[1][1] for p in (params, transported(params)))
        return {"angle of the first layer": angle(sent, true)}

    histories = {}
    for name, net in NETS.items():
        optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9)
        state = start(net, optimizer, jax.random.key(seed), training[0][:64])
        reached = held_out_accuracy(net, *held_out)
        look = apart if net is NETS["feedback alignment"] else lambda params: {}
        begun = look(state.params)
        state, histories[name] = fit(
            net,
            LOSS,
            optimizer,
            state,
            minibatches(*training, size=64, seed=seed),
            steps=steps,
            check=lambda params, reached=reached, look=look: reached(params) | look(params),
            every=max(1, steps // 20),
            title=name,
        )
        histories[name][0] |= begun

    with picture(out / "feedback.png", columns=3, size=(13, 4)) as (left, middle, right):
        for name, history in histories.items():
            curve(left, history, "loss", name)
            curve(middle, history, "held-out accuracy", name)
        curve(right, histories["feedback alignment"], "angle of the first layer")
        level(right, 90, "nothing to do with it")
    last = histories["feedback alignment"][-1]
    plain = histories["backpropagation"][-1]["held-out accuracy"]
    chance = np.bincount(held_out[1]).max() / len(held_out[1])
    why = f"the commonest digit: {chance:.2f}; backpropagation: {plain:.3f}"
    figures = [
        Figure("held-out accuracy", last["held-out accuracy"], 0.93, why),
        Figure("degrees from the true gradient", last["angle of the first layer"], 80, "a random one: 90", low=True),
    ]
    return Outcome(NETS, figures, out / "feedback.png")


if __name__ == "__main__":
    main(run, steps=1000, short=400)
