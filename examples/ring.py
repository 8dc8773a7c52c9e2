"""Ring: the gradient of a GPT on one long text, of which each of eight devices has an eighth of the tokens.

    python -m examples.ring

Keys and values of the attention go round from device to device, queries stay. The gradient, in float64, is that of one
device; the memory that a device takes is an eighth, where one that has some of the heads takes more. The steps are
thousands of tokens of the longest text.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from examples.characters import LOSS, VOCABULARY
from examples.data import text
from examples.devices import OPTIMIZER, eight, mesh
from examples.shared import Figure, Outcome, main, picture
from jbp import Layer, recipes
from jbp.train import Plan, start

PLANS = {
    "one device": Plan(mesh(data=1)),
    "by heads, of eight": Plan(mesh(tensor=8), tensor="tensor"),
    "in a ring of eight": Plan(mesh(tokens=8), sequence="tokens"),
}


def compiled(net: Layer, plan: Plan, x: Any) -> Any:
    """(params, x, targets) -> loss and gradient, as a program of these devices."""
    state = jax.eval_shape(lambda: start(net, OPTIMIZER, jax.random.key(0), x))
    where = plan.shardings(net, state, x).params
    shapes = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state.params, where)
    return jax.jit(plan.value_and_grad(net, LOSS, outputs=False)).lower(shapes, *plan.put(net, (x, x))).compile()


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, _ = text()
    lengths = [1024 * steps // 4, 1024 * steps // 2, 1024 * steps]
    memory = {name: [] for name in PLANS}
    for length in lengths:
        net, x = recipes.gpt(VOCABULARY, length, 64, blocks=2, heads=8), training[None, :length]
        for name, plan in PLANS.items():
            program = compiled(net, plan, x)
            memory[name].append(program.memory_analysis().temp_size_in_bytes / 2**20)

    net, x, y = (
        recipes.gpt(VOCABULARY, lengths[0], 64, blocks=2, heads=8),
        *(training[None, i : lengths[0] + i] for i in (0, 1)),
    )
    grads = {}
    for name in ("one device", "in a ring of eight"):
        plan = PLANS[name]
        state = start(net, OPTIMIZER, jax.random.key(seed), x, plan=plan)
        _, grads[name] = jax.jit(plan.value_and_grad(net, LOSS, outputs=False))(state.params, *plan.put(net, (x, y)))
    wanted, found = (jax.tree.leaves(jax.device_get(g)) for g in grads.values())
    off = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, wanted, strict=True))

    with picture(out / "ring.png", size=(6.5, 4)) as axes:
        for name, taken in memory.items():
            axes.plot(lengths, taken, "o-", label=name)
        axes.set(
            xlabel="tokens of the text", ylabel="MiB a device takes for loss and gradient", xscale="log", yscale="log"
        )
        axes.legend(frameon=False)
    share = memory["in a ring of eight"][-1] / memory["one device"][-1]
    figures = [
        Figure("worst array of the gradient, off by", off, 1e-10, "a round that is left out", low=True),
        Figure("memory, of one device's", share, 0.2, "tokens put together", low=True),
    ]
    return Outcome({"GPT": net}, figures, out / "ring.png")


if __name__ == "__main__":
    eight()
    main(run, steps=8, short=4)
