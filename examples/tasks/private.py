"""DP-SGD: each example's gradient cut to one norm, and noise on their sum; no example's gradient is ever made.

python -m examples.tasks.private
"""

import jax
import jax.numpy as jnp
import optax

from jbp import Serial
from jbp.layers import Dense, Tanh
from jbp.losses import SoftmaxCrossEntropy
from jbp.private import Poisson, Private, noise_for
from jbp.train import accuracy, fit, start

EXAMPLES, BATCH, STEPS = 2048, 128, 120


def main(epsilon: float = 3.0, delta: float = 1e-5) -> tuple[float, float]:
    """(the ε that was spent, accuracy on examples that were not trained on)."""
    x = jax.random.normal(jax.random.key(0), (2 * EXAMPLES, 2))
    label = (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)
    net, loss, optimizer = Serial(Dense(16), Tanh(), Dense(2)), SoftmaxCrossEntropy(), optax.adam(0.05)

    noise = noise_for(epsilon, delta, batch=BATCH, examples=EXAMPLES, steps=STEPS)
    how = Private(clip=1.0, noise=noise, batch=BATCH, padded=True)
    batches = Poisson((x[:EXAMPLES], label[:EXAMPLES]), batch=BATCH, steps=STEPS)

    state = start(net, optimizer, jax.random.key(1), x)
    state, _ = fit(net, loss, optimizer, state, batches, sweep=how)
    y, _ = net.forward(state.params, x[EXAMPLES:])
    return how.epsilon(EXAMPLES, STEPS, delta), float(accuracy(y, label[EXAMPLES:]))


if __name__ == "__main__":
    print("epsilon {:.2f}, accuracy {:.3f}".format(*main()))
