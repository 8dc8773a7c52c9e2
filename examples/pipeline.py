"""Pipeline: a small GPT on two stages, whose ends share one table, learns to write Python.

    python -m examples.pipeline

The stages are two virtual devices, or real ones where there are some. In a V of two parts a stage both ends of the
network are on the first, with the embedding that is also the logits. The gradient is held against that of jax.grad on
one device, in float64, under each schedule; the tables of the schedules say for how long the stages wait.
"""

from pathlib import Path

import jax
import numpy as np
import optax

from examples.characters import LENGTH, LOSS, VOCABULARY, batches, counted, perplexity
from examples.data import text
from examples.shared import Figure, Outcome, by_jax, curve, level, main, picture
from jbp import cast, recipes
from jbp.pipeline import Pipeline
from jbp.pipeline.schedules import Name
from jbp.train import fit, start

NET = recipes.gpt(VOCABULARY, LENGTH, blocks=4)
COLOURS = {"F": "C0", "B": "C1", "W": "C2"}


def plans() -> dict[str, Pipeline]:
    """The schedules, on two stages if there are two devices."""
    stages = min(2, jax.device_count())
    names: tuple[Name, ...] = ("GPipe", "1F1B", "ZB-H1", "ZB-V")
    return {name: Pipeline((("stage", stages),), micro=4, schedule=name) for name in names}


def off(params, batch) -> float:
    """How far the worst array of the gradient is from that of jax.grad, of its largest number, by any schedule."""
    with jax.enable_x64(True):
        params = jax.device_get(cast(params, "float64"))
        _, wanted = jax.jit(by_jax(NET, LOSS))(params, *batch)
        found = []
        for plan in plans().values():
            _, grads = jax.jit(plan.value_and_grad(NET, LOSS))(params, *plan.put(NET, batch))
            gaps = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max() / np.abs(b).max(), grads, wanted)
            found += jax.tree.leaves(jax.device_get(gaps))
    return float(max(found))


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, held_out = text()
    unigram, bigram = counted(training, held_out)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, max(1, steps // 20), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-2))
    plan, first = plans()["ZB-V"], next(batches(training, seed))
    state = start(NET, optimizer, jax.random.key(seed), first[0], plan=plan)
    check, every = perplexity(NET, held_out), max(1, steps // 8)
    state, history = fit(
        NET, LOSS, optimizer, state, batches(training, seed), steps=steps, check=check, every=every, plan=plan
    )

    with picture(out / "pipeline.png", columns=3, size=(13, 4)) as (left, middle, right):
        curve(left, history, "loss")
        curve(middle, history, "held-out perplexity")
        middle.set(yscale="log")
        level(middle, bigram, "bigram")
        for k, (name, each) in enumerate(plans().items()):
            table = each.table
            for s, t, work in table:
                across = t / table.parts, 1 / table.parts
                right.broken_barh([across], (3 * k + s, 0.9), color=COLOURS[work.kind], alpha=0.5 + 0.5 * work.part)
            right.text(0, 3 * k - 0.1, f"{name}: idle {table.bubble:.0%}", fontsize=8, va="bottom")
        right.set(xlabel="time, in forward passes of a stage", ylim=(12, -1), yticks=[])
    few = [a[:4] for a in first]
    idle = {name: each.table.bubble for name, each in plans().items()}
    reached = history[-1]["held-out perplexity"]
    figures = [
        Figure("held-out perplexity", reached, bigram, f"bigrams: {bigram:.2f}; unigrams: {unigram:.1f}", low=True),
        Figure("worst array of the gradient", off(state.params, few), 1e-11, "a table that is summed twice", low=True),
        Figure("idle share of the stages", idle["ZB-V"], 0.05, f"B and W together: {idle['1F1B']:.2f}", low=True),
    ]
    return Outcome({"GPT": NET}, figures, out / "pipeline.png")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs at once could wait for one another's cores
    main(run, steps=800, short=200)
