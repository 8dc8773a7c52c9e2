"""Look at a network: summary, shares of time and picture; its gradient beside jax.grad by name; how its training went.

python -m examples.tasks.look
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import optax

import jbp
import verify
from jbp import Repeat, Residual, Serial
from jbp.layers import Dense, LayerNorm, Tanh
from jbp.losses import MeanSquaredError
from jbp.train import fit, start

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NET = Serial(stem=Dense(16), blocks=Repeat(Residual(Serial(LayerNorm(), Dense(16), Tanh())), 3), head=Dense(1))


def main(out: Path, steps: int = 100) -> tuple[jbp.Layer, verify.Comparison]:
    x = jnp.linspace(-3, 3, 64)[:, None]
    loss, optimizer = MeanSquaredError(), optax.adam(1e-2)
    print(jbp.summary(NET, x, time=True))
    jbp.draw(NET, x).save(out / "net.svg")
    state = start(NET, optimizer, jax.random.key(0), x)
    state, history = fit(NET, loss, optimizer, state, [(x, jnp.sin(2 * x))] * steps)
    found = verify.compare(NET, loss, state.params, x, jnp.sin(2 * x))
    print(found)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    axes[0].semilogy([row["loss"] for row in history], label="loss")
    axes[0].semilogy([row["norm"] for row in history], label="norm of the gradient")
    axes[0].legend()
    axes[1].plot(x, jnp.sin(2 * x), x, NET(state.params, x))
    figure.savefig(out / "training.png")
    plt.close(figure)
    return NET, found


if __name__ == "__main__":
    main(Path())
