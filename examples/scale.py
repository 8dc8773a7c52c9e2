"""Scale: a GPT of two sizes, and one with experts, learn to write Python under ten plans on eight devices.

    python -m examples.scale

The devices are virtual ones, or real ones where there are eight. Every plan goes through the same batches, in float64:
its losses are those of one device. Of the experts each device has one.
"""

from pathlib import Path

import jax
import numpy as np

from examples.characters import LENGTH, VOCABULARY, counted, perplexity
from examples.data import text
from examples.devices import eight, mesh, trained
from examples.shared import Figure, Outcome, level, main, picture
from jbp import Repeat, Residual, Serial, recipes
from jbp.layers import GELU, CausalSelfAttention, Dense, Embedding, LayerNorm, MixtureOfExperts, Positions, Select
from jbp.pipeline import Pipeline
from jbp.train import Plan

SMALL, LARGE = (recipes.gpt(VOCABULARY, LENGTH, width, blocks=2, heads=8) for width in (32, 64))
MIXTURE = Serial(MixtureOfExperts(Serial(Dense(64), GELU(), Dense(32)), 8, k=2), Select(0))
BLOCK = Serial(Residual(Serial(LayerNorm(), CausalSelfAttention(8))), Residual(Serial(LayerNorm(), MIXTURE)))
EXPERTS = Serial(Embedding(VOCABULARY, 32), Positions(LENGTH), Repeat(BLOCK, 2), LayerNorm(), Dense(VOCABULARY))
NETS = {"GPT of 32": SMALL, "GPT of 64": LARGE, "experts": EXPERTS}
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
TRIED = {  # which plans each network is trained under
    "GPT of 32": PLANS,
    "GPT of 64": {name: PLANS[name] for name in ("in pieces", "in a ring")},
    "experts": {"one a device": Plan(mesh(tensor=8), tensor="tensor")},
}


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, held_out = text()
    unigram, _ = counted(training, held_out)
    curves, far, params = {}, {}, {}
    for name, net in NETS.items():
        state, curves[name] = trained(net, None, training, steps, seed)
        params[name] = state.params
        for plan, how in TRIED[name].items():
            _, losses = trained(net, how, training, steps, seed)
            far[f"{name}: {plan}"] = np.abs(losses - curves[name])
    reached = float(perplexity(LARGE, held_out)(jax.device_get(params["GPT of 64"]))["held-out perplexity"])

    with picture(out / "scale.png", columns=2, size=(12, 4.5)) as (left, right):
        for name, losses in curves.items():
            left.plot(range(1, steps + 1), losses, label=name)
        left.set(xlabel="step", ylabel="loss, on one device")
        level(left, np.log(unigram), "unigrams")
        for name, gaps in far.items():
            right.plot(range(1, steps + 1), np.maximum(gaps, 1e-17), linewidth=0.9, label=name)
        right.set(xlabel="step", ylabel="|loss − loss on one device|", yscale="log", ylim=(1e-17, 1e-6))
        right.legend(frameon=False, fontsize=7, loc="upper left", ncols=2)
    worst = max(float(gaps.max()) for gaps in far.values())
    figures = [
        Figure("losses of all plans, off by", worst, 1e-10, "a mean of means; a sum that is lost", low=True),
        Figure("held-out perplexity", reached, unigram, f"unigrams: {unigram:.1f}", low=True),
    ]
    return Outcome(NETS, figures, out / "scale.png")


if __name__ == "__main__":
    eight()
    main(run, steps=200, short=60)
