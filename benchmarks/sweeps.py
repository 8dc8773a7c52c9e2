"""What else a sweep gives, beside jax.vmap of jax.grad and the ordinary step, in one process, in turn.

    python -m benchmarks.sweeps                      four networks, and residuals in few bits: some minutes
    python -m benchmarks.sweeps --only MLP --seconds 1
    python -m benchmarks.sweeps --output benchmarks/results/sweeps.md

A private step clips each example's gradient to 1 and adds noise; that of optax is vmap of grad and then
`optax.contrib.differentially_private_aggregate`. Both are also measured without the noise, for to draw it takes time in
itself. Ratios are medians of neighbouring runs with their quartiles, to the ordinary step of the same network with
Adam; memory (temporary) and FLOPs are the compiler's, which counts the body of a loop once. Of residuals in few bits
there is also ‖ĝ − g‖ / ‖g‖, g the gradient of whole ones, of one gradient and of the mean over seeds.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jbp
from benchmarks.race import Compiled, compiled, race, ratio, threaded
from benchmarks.table import told
from jbp import Repeat, Residual, Serial, Tied, layers
from jbp.combinators import Keep
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy
from jbp.private import Private
from jbp.readers import observe, per_example
from jbp.train import start
from jbp.train.step import take_step
from jbp.watch import READINGS

LOSS, OPTIMIZER, KEY = SoftmaxCrossEntropy(), optax.adam(1e-3), jax.random.key(0)


def networks() -> Iterator[tuple[str, jbp.Layer, Any, Any]]:
    """(name, network, x, target)."""
    x = jax.random.normal(KEY, (128, 256))
    yield "MLP", Serial(*[layers.Dense(512), layers.ReLU()] * 3, layers.Dense(10)), x, jnp.zeros(128, int)
    halves = [
        layer for c in (32, 64) for layer in (layers.Conv(c), layers.GroupNorm(8), layers.ReLU(), layers.MaxPool())
    ]
    top = layers.Conv(64), layers.GroupNorm(8), layers.ReLU(), layers.GlobalAveragePool(), layers.Dense(10)
    images = jax.random.normal(KEY, (64, 32, 32, 3))
    yield "CNN", Serial(*halves, *top), images, jnp.zeros(64, int)
    sequences = jax.random.normal(KEY, (64, 40, 64))
    yield "LSTM", Serial(layers.LSTM(128), layers.Take(-1, 1), layers.Dense(10)), sequences, jnp.zeros(64, int)
    body = Serial(
        layers.Embedding(256, 128), layers.Positions(64), Repeat(_block(), 4), layers.LayerNorm(), layers.Logits(256)
    )
    words = jax.random.randint(KEY, (16, 64), 0, 256)
    yield "GPT", Tied(body, (((0, "e"), (4, "e")),)), words, jnp.zeros((16, 64), int)


def _block() -> jbp.Layer:
    mix = Residual(Serial(layers.LayerNorm(), layers.CausalSelfAttention(4)))
    return Serial(mix, Residual(Serial(layers.LayerNorm(), layers.Dense(512), layers.GELU(), layers.Dense(128))))


def ways(net: jbp.Layer, x: Any, target: Any) -> dict[str, Compiled]:
    """Each way, compiled."""
    b = x.shape[0]

    def step(sweep):
        run = take_step(net, LOSS, OPTIMIZER, {}, sweep=sweep)
        state = start(net, OPTIMIZER, KEY, x)
        return threaded(lambda state, x, target: run(state, jnp.zeros((), jnp.int32), x, target), state, (x, target))

    def alone(params, x, target):
        return LOSS.reference((), (net.reference(params, x[None]), target[None]))

    def optaxs(noise):
        private = optax.chain(optax.contrib.differentially_private_aggregate(1.0, noise, 0), OPTIMIZER)
        params = net.init(KEY, x)

        def run(state, x, target):
            params, own = state
            value, grads = jax.vmap(jax.value_and_grad(alone), (None, 0, 0))(params, x, target)
            updates, own = private.update(grads, own, params)
            return (optax.apply_updates(params, updates), own), value.mean()

        return threaded(run, (params, private.init(params)), (x, target))

    def norms(params, x, target):
        return per_example(net, LOSS)(params, x, target).norms

    def norms_of_vmap(params, x, target):
        each = jax.vmap(jax.grad(alone), (None, 0, 0))(params, x, target)
        return jnp.sqrt(sum(jnp.square(g).sum(range(1, g.ndim)) for g in jax.tree.leaves(each)))

    given = net.init(KEY, x), x, target
    return {
        "ordinary step": step(None),
        "private step": step(Private(1.0, 1.0, b)),
        "private step, optax": optaxs(1.0),
        "clipped, no noise": step(Private(1.0, 0.0, b)),
        "clipped, no noise, optax": optaxs(0.0),
        "norms": compiled(norms, given),
        "norms by vmap of grad": compiled(norms_of_vmap, given),
        "readings of a watch": compiled(lambda *given: observe(net, LOSS, **READINGS)(*given).found, given),
    }


def keeping(seconds: float) -> Iterator[str]:
    """Sweeps over eight blocks of a transformer, their residuals whole, in few bits, or made again."""
    x, loss = jax.random.normal(KEY, (16, 64, 128)), MeanSquaredError()
    wraps = {
        "whole": lambda layer, seed: layer,
        'Keep(block, "bfloat16")': lambda layer, seed: Keep(layer, "bfloat16", seed=seed),
        'Keep(block, "float8")': lambda layer, seed: Keep(layer, "float8", seed=seed),
        'Keep(block, "int8")': lambda layer, seed: Keep(layer, "int8", seed=seed),
        'Keep(block, "int8", rounding="nearest")': lambda layer, seed: Keep(layer, "int8", rounding="nearest"),
        "Remat(block)": lambda layer, seed: jbp.Remat(layer),
    }
    params = Repeat(_block(), 8).init(KEY, x)

    def sweep(wrap, seed):
        return compiled(jbp.value_and_grad(Repeat(wrap(_block(), seed), 8), loss), (params, x, x))

    def flat(lap):
        return jnp.concatenate([g.ravel() for g in jax.tree.leaves(lap.run()[1])])

    ways = {name: sweep(wrap, 0) for name, wrap in wraps.items()}
    true = flat(ways["whole"])
    laps = race(ways, seconds)
    yield "| residuals | time | quartiles | memory | FLOPs | error of one | of the mean of 16 |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, lap in laps.items():
        seeds = range(16) if name.startswith("Keep") and "nearest" not in name else range(1)
        draws = [flat(sweep(wraps[name], seed)) for seed in seeds]
        errors = [jnp.linalg.norm(g - true) / jnp.linalg.norm(true) for g in (draws[0], sum(draws) / len(draws))]
        time, low, high = ratio(lap, laps["whole"])
        memory, flops = (f"{of(lap) / of(laps['whole']):.2f}" for of in (lambda v: v.temporary, lambda v: v.flops))
        cells = name, f"{time:.2f}", f"{low:.2f} to {high:.2f}", memory, flops, *(f"{e:.1e}" for e in errors)
        yield f"| {' | '.join(cells)} |"


def rows(only: str, seconds: float) -> Iterator[str]:
    yield "| network | way | time | quartiles | memory | FLOPs | compile seconds |"
    yield "|---|---|---:|---|---:|---:|---:|"
    for name, net, x, target in networks():
        if only and only != name:
            continue
        laps = race(ways(net, x, target), seconds)
        base = laps["ordinary step"]
        for way, lap in laps.items():
            time, low, high = ratio(lap, base)
            memory = f"{lap.temporary / max(base.temporary or 1, 1):.2f}" if lap.temporary is not None else ""
            flops = f"{lap.flops / base.flops:.2f}" if lap.flops and base.flops else ""
            cells = name, way, f"{time:.2f}", f"{low:.2f} to {high:.2f}", memory, flops, f"{lap.compile_seconds:.1f}"
            yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="one of the networks, or residuals")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each network (default %(default)g)")
    parser.add_argument("--output", type=Path, help="the table, as Markdown")
    options = parser.parse_args()
    kept = keeping(options.seconds) if options.only in ("", "residuals") else ()
    lines = itertools.chain(rows(options.only, options.seconds), [""] * bool(kept), kept)
    about = f"`python -m benchmarks.sweeps`, JAX {jax.__version__} on {jax.devices()[0].device_kind}."
    told(lines, "What else a sweep gives", about, options.output)


if __name__ == "__main__":
    main()
