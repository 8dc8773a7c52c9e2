"""A layer of one's own, audited; and the same layer broken on purpose, which the audit finds.

python -m examples.tasks.own_layer
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import verify
from jbp import Layer, Serial
from jbp.layers import Dense
from jbp.losses import MeanSquaredError


@dataclass(frozen=True)
class Swish(Layer):
    """y = x s, s = σ(b x).      dx = (s + b y (1 − s)) dy      db = Σ x y (1 − s) dy"""

    def init(self, key, x, /):
        return {"b": jnp.ones((), x.dtype)}

    def forward(self, params, x, /):
        s = jax.nn.sigmoid(params["b"] * x)
        return x * s, (x, s)

    def backward(self, params, residuals, dy, /):
        x, s = residuals
        return (s + params["b"] * x * s * (1 - s)) * dy, dy

    def gradient(self, residuals, delta, /):
        x, s = residuals
        return {"b": (x * x * s * (1 - s) * delta).sum()}

    def reference(self, params, x, /):
        return x / (1 + jnp.exp(-params["b"] * x))


class Broken(Swish):
    def backward(self, params, residuals, dy, /):
        return residuals[1] * dy, dy  # the product rule has a second term


def main() -> tuple[verify.Report, verify.Report, verify.Comparison]:
    x = jax.random.normal(jax.random.key(0), (4, 3))
    right, wrong = (verify.check(layer, x, level="quick") for layer in (Swish(), Broken()))
    net = Serial(Dense(5), Broken(), Dense(1))
    found = verify.compare(net, MeanSquaredError(), net.init(jax.random.key(1), x), x, jnp.ones((4, 1)))
    return right, wrong, found


if __name__ == "__main__":
    print(*main(), sep="\n\n")
