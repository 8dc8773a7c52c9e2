"""One of several processes of a training that goes on where it stopped.

`python -m tests.storm.trained address processes number folder steps [devices=8] [nan=step]`

It says FROM, and DONE with the loss of the last step and sums of the parameters, or DIVERGED with the cause.
"""

import sys
from functools import partial

import jax
import numpy as np
import optax

from jbp import Repeat, Residual, Serial
from jbp.layers import Dense, Dropout, LayerNorm, Sigmoid, Tanh
from jbp.losses import MeanSquaredError
from jbp.saves import Saves, resume
from jbp.train import Diverged, Plan, fit, start

BODY = Repeat(Residual(Serial(LayerNorm(), Dense(8), Tanh())), 2)
LOSS, OPTIMIZER = MeanSquaredError(), optax.adam(1e-2, eps=1e-3)


def share(count, nan, k):
    """What this process has of the k-th batch: NumPy's, as a loader gives it."""
    rng, size = np.random.default_rng(k), 32 // count
    x, t = rng.normal(size=(32, 4)), rng.normal(size=(32, 8))
    if nan == k + 1:
        x[3] = 1e308  # in the first process alone; its products overflow
    here = slice(size * jax.process_index(), size * (jax.process_index() + 1))
    return x[here], t[here]


def main(address, count, number, folder, steps, *more):
    options = dict(option.split("=") for option in more)
    count, devices, nan = int(count), int(options.get("devices", 8)), int(options.get("nan", 0))
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", devices // count)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, count, int(number))
    plan = Plan(weights="data", micro=2)
    noise = [] if "devices" in options else [Dropout(0.1)]  # other numbers on other devices
    net = Serial(Dense(8), BODY, *noise, Sigmoid(), Dense(8))
    batches = map(partial(share, count, nan), range(int(steps)))
    first = start(net, OPTIMIZER, jax.random.key(0), share(count, 0, 0)[0], plan=plan)
    state, batches = resume(folder, first, batches)
    print("FROM", int(state.steps), flush=True)
    rng = np.random.default_rng(1)
    held = [(rng.normal(size=(8, 4)), rng.normal(size=(8, 8)))]  # whole, in every process
    looks = {"every": 20, "validation": held, "patience": 9, "saves": Saves(folder, every=5, keep=2)}
    try:
        state, history = fit(net, LOSS, OPTIMIZER, state, batches, plan=plan, **looks)
    except Diverged as error:
        print("DIVERGED", error.step, str(error).partition("NaN or Inf in training")[2], flush=True)
        return
    whole = jax.jit(lambda tree: tree, out_shardings=jax.NamedSharding(plan.on(), jax.P()))(state.params)
    sums = [float(np.square(np.asarray(a)).sum()) for a in jax.tree.leaves(whole) if a.dtype == np.float64]
    print("DONE", len(history), repr(history[-1]["loss"]), repr(sum(sums)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
