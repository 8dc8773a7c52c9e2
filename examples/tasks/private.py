"""DP-SGD: each example's gradient cut to one norm, and noise on their sum; no example's gradient is ever made.

python -m examples.tasks.private
"""

import jax
import jax.numpy as jnp
import optax

from jbp import Serial, value_and_grad
from jbp.layers import Dense, Tanh
from jbp.losses import SoftmaxCrossEntropy, Weighted
from jbp.readers import deltas, per_example_squared_norms

NET, LOSS, CLIP, NOISE = Serial(Dense(16), Tanh(), Dense(2)), SoftmaxCrossEntropy(), 1.0, 0.3


@jax.jit
def private_gradient(params, key, x, label):
    """((Σ gᵢ min(1, c / ‖gᵢ‖) + noise) / n, the loss): one sweep for the norms, one of the weighted loss."""
    n = len(x)
    value, residuals, delta = deltas(NET, LOSS)(params, x, label)
    norms = n * jnp.sqrt(per_example_squared_norms(NET, residuals, delta))  # the loss is a mean
    weights = jnp.minimum(1, CLIP / jnp.maximum(norms, 1e-12))
    _, grads = value_and_grad(NET, Weighted(LOSS, normalize=False))(params, x, label, weights)
    leaves, tree = jax.tree.flatten(grads)
    noise = [
        NOISE * CLIP / n * jax.random.normal(k, g.shape)
        for k, g in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return tree.unflatten([g + z for g, z in zip(leaves, noise, strict=True)]), value


def main(steps: int = 100) -> tuple[float, float]:
    x = jax.random.normal(jax.random.key(0), (128, 2))
    label = (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)
    params, optimizer, losses = NET.init(jax.random.key(1), x), optax.adam(3e-2), []
    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(2), steps):
        grads, value = private_gradient(params, key, x, label)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return losses[0], losses[-1]


if __name__ == "__main__":
    print("loss before and after", *main())
