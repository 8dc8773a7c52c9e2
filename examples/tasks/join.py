"""Layers inside Flax and Equinox over many steps, dropout and statistics moving on; and a foreign function inside.

python -m examples.tasks.join
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jbp import Serial
from jbp.bridge import equinox, nnx as bridge
from jbp.bridge.foreign import Lambda
from jbp.layers import BatchNorm, Dense, Dropout, Tanh

NET = Serial(Dense(16), BatchNorm(), Tanh(), Dropout(0.1), Lambda(lambda x: jnp.sort(x, -1)), Dense(1))
X = jax.random.normal(jax.random.key(0), (32, 3), "float32")
T = jnp.sin(X.sum(-1, keepdims=True))


def in_flax(steps: int) -> tuple[float, int]:
    model = bridge.Module(NET, X, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: ((model(X) - T) ** 2).mean())(model)
        optimizer.update(model, grads)

    for _ in range(steps):
        step(model, optimizer)
    model.eval()
    return float(((model(X) - T) ** 2).mean()), int(model.buffers.get_value()[1]["steps"].value)


def in_equinox(steps: int) -> tuple[float, int]:
    model, state = eqx.nn.make_with_state(equinox.Module)(NET, X, key=jax.random.key(0))

    @eqx.filter_jit
    def step(model, state):
        def value(model, state):
            y, state = model(X, state)
            return ((y - T) ** 2).mean(), state

        grads, state = eqx.filter_grad(value, has_aux=True)(model, state)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads)), state

    for _ in range(steps):
        model, state = step(model, state)
    y, state = eqx.nn.inference_mode(model)(X, state)
    return float(((y - T) ** 2).mean()), int(state.get(model.index)[1]["steps"].value)


if __name__ == "__main__":
    print("loss and steps of the statistics:", in_flax(100), in_equinox(100))
