"""Fewer steps: an autoencoder of digits by K-FAC, beside Adam at the best of four rates.

    python -m examples.kfac

Each step of K-FAC multiplies the gradient by the inverse of the curvature, layer by layer, as a Kronecker product of
two small matrices (Martens & Grosse, *Optimizing Neural Networks with Kronecker-factored Approximate Curvature*, 2015;
deep autoencoders are their test). A step costs more: the picture has it by steps, and by seconds on this machine.
"""

from pathlib import Path
from time import perf_counter

import jax
import numpy as np
import optax

from examples.data import images
from examples.shared import Figure, Outcome, main, picture
from jbp import Serial
from jbp.curvature import Factored, kfac
from jbp.layers import Dense, Tanh
from jbp.losses import MeanSquaredError
from jbp.train import start, step

SIZES, RATES, BATCH = (32, 8, 32), (3e-3, 1e-2, 3e-2, 1e-1), 256
NET = Serial(*(layer for n in SIZES for layer in (Dense(n), Tanh())), Dense(64))
LOSS = MeanSquaredError()


def trained(x, held_out, steps, seed, optimizer, sweep=None):
    """(held-out errors at each step, seconds until then without those of the compiler and of the measuring)."""
    random = np.random.default_rng(seed)
    move, state = step(NET, LOSS, optimizer, sweep=sweep), start(NET, optimizer, jax.random.key(seed), x[:1])
    lost = jax.jit(lambda params: LOSS.forward((), (NET.forward(params, held_out)[0], held_out))[0])
    errors, took = [float(lost(state.params))], [0.0]
    for i in range(steps):
        batch = x[random.integers(0, len(x), BATCH)]
        begin = perf_counter()
        state, metrics = move(state, batch, batch)
        jax.block_until_ready(metrics)
        took.append(took[-1] + (perf_counter() - begin if i else 0))  # the first one is compiled
        errors.append(float(lost(state.params)))
    return np.array(errors), np.array(took)


def run(steps: int, seed: int, out: Path) -> Outcome:
    (x, _), (held_out, _) = images()
    x, held_out = (part.reshape(len(part), -1) for part in (x, held_out))
    adam = {rate: trained(x, held_out, steps, seed, optax.adam(rate)) for rate in RATES}
    rate = min(adam, key=lambda rate: adam[rate][0][-1])
    several = {
        "K-FAC": trained(x, held_out, steps, seed, optax.chain(kfac(NET), optax.sgd(1.0)), Factored()),
        f"Adam at {rate:g}": adam[rate],
    }
    (ours, _), (theirs, _) = several.values()
    bar = theirs.min()
    reached = int(np.argmax(ours <= bar)) if ours.min() <= bar else steps + 1

    with picture(out / "kfac.png", columns=2) as (left, right):
        for name, (errors, took) in several.items():
            left.plot(errors, label=name)
            right.plot(took, errors, label=name)
        for axes, label in ((left, "steps"), (right, "seconds")):
            axes.set(xlabel=label, ylabel="held-out squared error", yscale="log")
            axes.grid(alpha=0.3)
        left.legend(frameon=False)
    why = f"Adam, the best of {len(RATES)} rates: {steps}"
    return Outcome(
        {"autoencoder": NET}, [Figure("steps to Adam's best", reached, steps / 2, why, low=True)], out / "kfac.png"
    )


if __name__ == "__main__":
    main(run, steps=300, short=150)
