"""Scale: a GPT of two sizes learns to write Python under ten plans on eight devices, is killed, and goes on.

    python -m examples.scale

The devices are virtual ones, or real ones where there are eight. Every plan goes through the same batches, in float64:
the losses are those of one device. Then a training in a process of its own is killed with SIGKILL as soon as it has
saved twice, and goes on here, from its newest save, under another plan. A GPT with experts has one of them on each
device. In the end a long text, of which each has an eighth of the tokens, and the memory that this takes beside that of
one device alone.
"""

import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.characters import LENGTH, LOSS, VOCABULARY, batches, counted, perplexity
from examples.data import text
from examples.shared import Figure, Outcome, level, main, picture
from jbp import Layer, Repeat, Residual, Serial, recipes
from jbp.layers import GELU, CausalSelfAttention, Dense, Embedding, LayerNorm, MixtureOfExperts, Positions, Select
from jbp.pipeline import Pipeline
from jbp.saves import Saves, resume
from jbp.train import Plan, fit, start

NETS = {f"GPT of {width}": recipes.gpt(VOCABULARY, LENGTH, width, blocks=2, heads=8) for width in (32, 64)}
MIXTURE = Serial(MixtureOfExperts(Serial(Dense(64), GELU(), Dense(32)), 8, k=2), Select(0))
BLOCK = Serial(Residual(Serial(LayerNorm(), CausalSelfAttention(8))), Residual(Serial(LayerNorm(), MIXTURE)))
EXPERTS = Serial(Embedding(VOCABULARY, 32), Positions(LENGTH), Repeat(BLOCK, 2), LayerNorm(), Dense(VOCABULARY))
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3, weight_decay=1e-2))
LONG = 4096


def mesh(**sizes: int) -> tuple[tuple[str, int], ...]:
    return tuple(sizes.items())


PLANS = {
    "data": Plan(mesh(data=8)),
    "micro-batches": Plan(mesh(data=4), micro=4),
    "in pieces": Plan(mesh(data=8), weights="data"),
    "in pieces, ahead": Plan(mesh(slow=2, data=4), weights="data", ahead=True),
    "by heads": Plan(mesh(data=2, tensor=4), tensor="tensor"),
    "by heads and tokens": Plan(mesh(data=2, tensor=4), weights="data", tensor="tensor", sequence="tensor"),
    "in a ring": Plan(mesh(data=2, tokens=4), weights="data", sequence="tokens"),
    "ring and heads": Plan(mesh(data=2, tokens=2, tensor=2), weights="data", tensor="tensor", sequence="tokens"),
    "stages": Pipeline(mesh(data=2, stage=2), micro=4),
    "stages and heads": Pipeline(mesh(stage=2, tensor=4), micro=4, tensor="tensor", weights="stage"),
}


def trained(net: Layer, plan: Plan | None, training: np.ndarray, steps: int, seed: int, **more: Any) -> Any:
    """(state, losses) of a training from its beginning, or from what `saves` has."""
    data = list(islice(batches(training, seed), steps))
    state = start(net, OPTIMIZER, jax.random.key(seed), data[0][0], plan=plan)
    if "saves" in more:
        state, data = resume(more["saves"].folder, state, data)
    state, history = fit(net, LOSS, OPTIMIZER, state, data, plan=plan, **more)
    return state, np.array([row["loss"] for row in history])


def killed(folder: Path, steps: int, seed: int) -> int:
    """Trains in a process of its own, which is killed when it has saved twice. The step of its newest save."""
    program = f"from examples.scale import child; child({str(folder)!r}, {steps}, {seed})"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while process.poll() is None and len(_saved(folder)) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    return max(_saved(folder))


def _saved(folder: Path) -> list[int]:
    return [int(place.name) for place in folder.glob("*") if place.name.isdigit()]


def child(folder: str, steps: int, seed: int) -> None:
    """The training that is killed."""
    devices()
    net, plan = NETS["GPT of 32"], PLANS["in pieces"]
    trained(net, plan, text()[0], steps, seed, saves=Saves(folder, every=max(1, steps // 8)))


def taken(plan: Plan | None, net: Layer, x: Any) -> int:
    """Bytes that a device takes beside its arguments and results, for the loss of a long text and its gradient."""
    state = jax.eval_shape(lambda: start(net, OPTIMIZER, jax.random.key(0), x))
    plan = plan or Plan(mesh(data=1))
    placed = jax.tree.map(
        lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where),
        state.params,
        plan.shardings(net, state, x).params,
    )
    run = jax.jit(plan.value_and_grad(net, LOSS, outputs=False))
    return run.lower(placed, *plan.put(net, (x, x))).compile().memory_analysis().temp_size_in_bytes


def devices() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs at once could wait for one another's cores


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, held_out = text()
    unigram, _ = counted(training, held_out)
    curves, far = {}, {}
    for name, net in NETS.items():
        state, curves[name] = trained(net, None, training, steps, seed)
        for plan in PLANS if net is NETS["GPT of 32"] else ("in pieces", "in a ring"):
            _, losses = trained(net, PLANS[plan], training, steps, seed)
            far[f"{name}: {plan}"] = np.abs(losses - curves[name])
    reached = float(perplexity(NETS["GPT of 64"], held_out)(state.params)["held-out perplexity"])
    _, curves["experts"] = trained(EXPERTS, None, training, steps, seed)
    _, losses = trained(EXPERTS, Plan(mesh(tensor=8), tensor="tensor"), training, steps, seed)
    far["experts, one a device"] = np.abs(losses - curves["experts"])

    with TemporaryDirectory() as place:
        at = killed(Path(place) / "saves", steps, seed)
        more = {"saves": Saves(str(Path(place) / "saves"), every=steps)}
        _, losses = trained(NETS["GPT of 32"], PLANS["ring and heads"], training, steps, seed, **more)
    far[f"killed after step {at}"] = np.abs(losses - curves["GPT of 32"])

    net, x = recipes.gpt(VOCABULARY, LONG, 64, blocks=2, heads=8), jnp.zeros((1, LONG), jnp.int32)
    memory = {
        "one device": taken(None, net, x),
        "by heads, of eight": taken(Plan(mesh(tensor=8), tensor="tensor"), net, x),
        "in a ring of eight": taken(Plan(mesh(tokens=8), sequence="tokens"), net, x),
    }
    with picture(out / "scale.png", columns=3, size=(14, 4)) as (left, middle, right):
        for name, losses in curves.items():
            left.plot(range(1, steps + 1), losses, label=name)
        left.set(xlabel="step", ylabel="loss, on one device")
        level(left, np.log(unigram), "unigrams")
        for name, gaps in far.items():
            middle.plot(range(1, steps + 1), np.maximum(gaps, 1e-17), linewidth=0.9, label=name)
        middle.set(xlabel="step", ylabel="|loss − loss on one device|", yscale="log", ylim=(1e-17, 1e-6))
        middle.legend(frameon=False, fontsize=5.5, loc="upper left", ncols=2)
        right.barh([*memory], [n / 2**20 for n in memory.values()])
        right.set(xlabel=f"MiB a device, for a text of {LONG}")
        right.invert_yaxis()
    worst = max(float(gaps.max()) for gaps in far.values())
    share = memory["in a ring of eight"] / memory["one device"]
    figures = [
        Figure("losses of all plans, off by", worst, 1e-10, "a mean of means; a sum that is lost", low=True),
        Figure("held-out perplexity", reached, unigram, f"unigrams: {unigram:.1f}", low=True),
        Figure("memory in a ring of eight, of one device's", share, 0.25, "tokens put together", low=True),
    ]
    return Outcome(NETS | {"experts": EXPERTS}, figures, out / "scale.png")


if __name__ == "__main__":
    devices()
    main(run, steps=200, short=60)
