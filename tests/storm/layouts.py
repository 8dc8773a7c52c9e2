"""One checkpoint, many layouts: the losses of its next steps are those of one device, however it is spread."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jbp import recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.pipeline import Pipeline
from jbp.saves import Saves, resume
from jbp.train import Plan, fit, start
from tests.storm.told import Tried

BEFORE, STEPS, CLOSE = 3, 20, 1e-10
NET, LOSS = recipes.gpt(16, 4, 8, 8, 4), SoftmaxCrossEntropy(ignore=0)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2, eps=1e-3))


def mesh(**sizes: int) -> tuple[tuple[str, int], ...]:
    return tuple(sizes.items())


LAYOUTS = (
    Plan(),
    Plan(mesh(data=4), micro=4),
    Plan(weights="data"),
    Plan(weights="data", ahead=True),
    Plan(mesh(data=4), weights="data", micro=2, ahead=True),
    Plan(mesh(slow=2, data=4), weights="data"),
    Plan(mesh(slow=2, data=2), weights="slow", micro=2),
    Plan(mesh(tensor=4), tensor="tensor"),
    Plan(mesh(data=2, tensor=4), tensor="tensor"),
    Plan(mesh(data=4, tensor=2), tensor="tensor", weights="data"),
    Plan(mesh(data=2, tensor=2), tensor="tensor", weights="data", micro=4, ahead=True),
    Plan(mesh(slow=2, data=2, tensor=2), tensor="tensor", weights="data", micro=2),
    Plan(mesh(data=2, tensor=4), tensor="tensor", sequence="tensor", weights="data", micro=2),
    Plan(mesh(data=2, context=4), sequence="context", weights="data", micro=2),
    Plan(mesh(context=4), sequence="context", weights="context", ahead=True),
    Plan(mesh(data=2, context=2, tensor=2), tensor="tensor", sequence="context", weights="data"),
    Pipeline(mesh(data=2, stage=2, tensor=2), micro=4, tensor="tensor", sequence="tensor"),
    Pipeline(mesh(stage=2, context=4), micro=4, sequence="context"),
    Pipeline(mesh(stage=8), micro=8),
    Pipeline(mesh(stage=4), micro=4, schedule="1F1B", weights="stage"),
    Pipeline(mesh(data=2, stage=4), micro=4, schedule="ZB-V"),
    Pipeline(mesh(data=2, stage=4), micro=4, schedule="GPipe", weights="data"),
    Pipeline(mesh(stage=2, tensor=4), micro=4, tensor="tensor"),
    Pipeline(mesh(data=2, stage=2, tensor=2), micro=4, schedule="ZB-V", weights="data", tensor="tensor"),
)


def batches() -> list[tuple[jax.Array, jax.Array]]:
    rng = np.random.default_rng(0)
    drawn = [(rng.integers(0, 16, (16, 4)), rng.integers(0, 3, (16, 4))) for _ in range(BEFORE + STEPS)]
    return [(jnp.asarray(x, jnp.int32), jnp.asarray(t, jnp.int32)) for x, t in drawn]


def losses(folder: Path, plan: Plan | None, steps: int | None) -> np.ndarray:
    """Those of all steps so far, after going on under the plan."""
    data = batches()
    state = start(NET, OPTIMIZER, jax.random.key(0), data[0][0], plan=plan)
    state, left = resume(str(folder), state, data)
    _, history = fit(NET, LOSS, OPTIMIZER, state, left, steps=steps, plan=plan, saves=Saves(str(folder), every=100))
    return np.array([row["loss"] for row in history])


def layouts() -> Iterator[Tried]:
    """Each layout from the same save of a training on one device."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs with collectives starve each other
    with tempfile.TemporaryDirectory() as place:
        saved, each = Path(place) / "saved", Path(place) / "each"
        losses(saved, None, BEFORE)
        wanted = None
        for plan in (None, *LAYOUTS):
            shutil.copytree(saved, each)
            found = losses(each, plan, None)
            shutil.rmtree(each)
            wanted = found if wanted is None else wanted
            far = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
            wrong = () if far <= CLOSE and len(found) == BEFORE + STEPS else (f"{len(found)} losses, off by {far:.1e}",)
            yield Tried("layouts", f"{plan!r}: {len(found) - BEFORE} steps, off by {far:.1e}", wrong)
