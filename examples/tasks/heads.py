"""An image and facts about it, to two heads by name, with a loss and a weight for each.

python -m examples.tasks.heads
"""

from dataclasses import dataclass

import jax
import optax

from jbp import Layer, Parallel, Serial
from jbp.layers import Concatenate, Conv, Dense, FanOut, Flatten, ReLU
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy
from jbp.train import fit, start


@dataclass(frozen=True)
class Total(Layer):
    """y = Σ wᵢ lᵢ(predictionᵢ, targetᵢ), by name.      dpredictionᵢ = wᵢ dy, sent through lᵢ"""

    losses: Parallel
    weights: tuple[float, ...]

    def forward(self, params, x, /):
        pairs = {name: (x[0][name], x[1][name]) for name in self.losses.names}
        values, kept = self.losses.forward(dict.fromkeys(pairs, ()), pairs)
        return sum(w * values[name] for name, w in zip(values, self.weights, strict=True)), kept

    def backward(self, params, kept, dy, /):
        down = {name: w * dy for name, w in zip(self.losses.names, self.weights, strict=True)}
        pairs, _ = self.losses.backward(dict.fromkeys(down, ()), kept, down)
        return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1)), ()


NET = Serial(
    see=Parallel(image=Serial(Conv(8, (3, 3)), ReLU(), Flatten(), Dense(16)), facts=Dense(16)),
    join=Concatenate(),
    think=ReLU(),
    fan=FanOut(("kind", "size")),
    heads=Parallel(kind=Dense(3), size=Dense(1)),
)
LOSS = Total(Parallel(kind=SoftmaxCrossEntropy(), size=MeanSquaredError()), weights=(1.0, 0.3))


def main(steps: int = 100) -> tuple[float, float]:
    image, facts = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(32, 6, 6, 1), (32, 4)]))
    target = {"kind": facts[:, :3].argmax(-1), "size": image.mean((1, 2)) + facts[:, :1]}
    x, optimizer = {"image": image, "facts": facts}, optax.adam(1e-2)
    state = start(NET, optimizer, jax.random.key(2), x)
    state, history = fit(NET, LOSS, optimizer, state, [(x, target)] * steps)
    return history[0]["loss"], history[-1]["loss"]


if __name__ == "__main__":
    print("loss before and after", *main())
