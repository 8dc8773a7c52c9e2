"""What the examples of many devices share: eight virtual ones where there are no others, and training under a plan."""

from itertools import islice
from typing import Any

import jax
import numpy as np
import optax

from examples.characters import LOSS, batches
from jbp import Layer
from jbp.saves import resume
from jbp.train import Plan, fit, start

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3, weight_decay=1e-2))


def eight() -> None:
    """Eight devices, and float64, for equal losses."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs at once could wait for one another's cores


def mesh(**sizes: int) -> tuple[tuple[str, int], ...]:
    return tuple(sizes.items())


def trained(net: Layer, plan: Plan | None, training: np.ndarray, steps: int, seed: int, **more: Any) -> Any:
    """(state, losses) of a training from its beginning, or from what `saves` has."""
    data = list(islice(batches(training, seed), steps))
    state = start(net, OPTIMIZER, jax.random.key(seed), data[0][0], plan=plan)
    if "saves" in more:
        state, data = resume(more["saves"].folder, state, data)
    state, history = fit(net, LOSS, OPTIMIZER, state, data, plan=plan, **more)
    return state, np.array([row["loss"] for row in history])
