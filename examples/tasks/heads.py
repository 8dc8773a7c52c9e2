"""An image and facts about it, to two heads by name, with a loss and a weight for each.

python -m examples.tasks.heads
"""

import jax
import optax

from jbp import Graph, Serial
from jbp.layers import Concatenate, Conv, Dense, Flatten, ReLU
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy, Total
from jbp.train import fit, start

NET = Graph(
    seen=(Serial(Conv(8, (3, 3)), ReLU(), Flatten(), Dense(16)), "image"),
    known=(Dense(16), "facts"),
    both=(Serial(Concatenate(), ReLU()), "seen", "known"),
    kind=(Dense(3), "both"),
    size=(Dense(1), "both"),
)
LOSS = Total(kind=SoftmaxCrossEntropy(), size=(MeanSquaredError(), 0.3))


def main(steps: int = 100) -> tuple[float, float]:
    image, facts = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(32, 6, 6, 1), (32, 4)]))
    target = {"kind": facts[:, :3].argmax(-1), "size": image.mean((1, 2)) + facts[:, :1]}
    x, optimizer = {"image": image, "facts": facts}, optax.adam(1e-2)
    state = start(NET, optimizer, jax.random.key(2), x)
    state, history = fit(NET, LOSS, optimizer, state, [(x, target)] * steps)
    return history[0]["loss"], history[-1]["loss"]


if __name__ == "__main__":
    print("loss before and after", *main())
