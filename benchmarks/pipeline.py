"""Pipelines: what each schedule idles, holds and computes, by its table and by the compiler, on eight virtual devices.

    python -m benchmarks.pipeline                        an MLP and a GPT, a minute or two
    python -m benchmarks.pipeline --seconds 60           and how long a step takes beside 1F1B: on a quiet machine
    python -m benchmarks.pipeline --output benchmarks/results/pipeline.md

Idle is the share of ticks in which a stage waits, by the table and by the formula of its paper (which for ZB-V leaves
out the fill, p − 1 ticks, since steps there need not end together; here they do). Held is the most
micro-batches that a stage has been forward with and has not done W of. Room is what the table needs for them on a
device: residuals, errors that wait for their W, messages, sums of gradients. Temporary is what the compiler takes for
loss and gradient. On virtual devices that share two cores a bubble costs nothing, so a time tells what the ticks
themselves cost. The last row is the usual way in JAX: a forward pipeline in a scan, and jax.grad of it.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import jbp
from benchmarks.race import compiled, race, ratio
from benchmarks.table import told
from jbp import Repeat, Residual, Serial, layers, recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.pipeline import Pipeline, schedule
from jbp.pipeline.plan import Cut
from jbp.pipeline.stage import instructions

STAGES, MICRO, LOSS = 8, 16, SoftmaxCrossEntropy()
PUBLISHED: dict[str, Callable[[int, int], float]] = {
    "GPipe": lambda p, m: (p - 1) / (m + p - 1),
    "1F1B": lambda p, m: (p - 1) / (m + p - 1),
    "ZB-H1": lambda p, m: (p - 1) / (3 * m + p - 1),
    "ZB-V": lambda p, m: (p - 1) / (6 * m + p - 1),
}
Shape = jax.ShapeDtypeStruct


def networks() -> Iterator[tuple[str, jbp.Layer, Any, Any]]:
    """(name, network, x, target), in shapes."""
    block = Residual(Serial(layers.Dense(512), layers.Tanh()))
    mlp = Serial(layers.Dense(512), Repeat(block, 16), layers.Dense(10))
    yield "MLP", mlp, Shape((MICRO * 128, 256), "float32"), Shape((MICRO * 128,), "int32")
    words = Shape((MICRO * 4, 128), "int32")
    yield "GPT", recipes.gpt(1024, 128, 256, 16, 4), words, words


def size(tree: Any) -> float:
    """MiB."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree)) / 2**20


def cut(net: jbp.Layer, plan: Pipeline, params: Any) -> tuple[Any, Any]:
    """(the layers, the parameters) of what comes before the Repeat, of one part of it, and of what comes after."""
    found, places = Cut.of(net), plan.table.stages * plan.table.parts
    head, body, tail = jax.eval_shape(found.parts, params)
    body = jax.tree.map(lambda a: Shape((a.shape[0] // places, *a.shape[1:]), a.dtype), body)
    return found.layers(places), (head, body, tail)


def room(net: jbp.Layer, plan: Pipeline, params: Any, x: Any) -> float:
    """MiB on a device for all that its table has to hold."""
    (head, body, _), (before, own, after) = cut(net, plan, params)

    def once(before, own, x):
        h, heads = head.forward(before, x)
        y, kept = body.forward(own, h)
        delta = body.backward(own, kept, y)[1]
        return {"inbox": h, "heads": heads, "kept": kept, "deltas": delta}

    found = jax.eval_shape(once, before, own, Shape((x.shape[0] // MICRO, *x.shape[1:]), x.dtype))
    rooms = sum(count * size(found[name]) for name, count in instructions(plan.table)[1].items())
    return rooms + size((before, after)) + plan.table.parts * size(own)


def flops(net: jbp.Layer, params: Any, x: Any) -> dict[str, float]:
    """The compiler's FLOPs of one block's F, B and W, and of what jax.vjp takes for B and for W by themselves."""
    plan = Pipeline((("stage", Cut.of(net).times),), micro=MICRO)
    (head, part, _), (before, own, _) = cut(net, plan, params)
    block, own = part.layer, jax.tree.map(lambda a: Shape(a.shape[1:], a.dtype), own)
    x = jax.eval_shape(head.forward, before, Shape((x.shape[0] // MICRO, *x.shape[1:]), x.dtype))[0]
    _, kept = jax.eval_shape(block.forward, own, x)
    _, delta = jax.eval_shape(block.backward, own, kept, x)
    ways = {
        "F": (lambda own, x: block.forward(own, x)[0], own, x),
        "B": (block.backward, own, kept, x),
        "W": (block.gradient, kept, delta),
        "jax.vjp by x": (lambda own, x, dy: jax.vjp(partial(block.reference, own), x)[1](dy), own, x, x),
        "jax.vjp by θ": (lambda own, x, dy: jax.vjp(lambda own: block.reference(own, x), own)[1](dy), own, x, x),
    }
    found = {name: compiled(f, tuple(given)).lap.flops or 0 for name, (f, *given) in ways.items()}
    return {name: count / found["F"] for name, count in found.items()}


def by_schedule(net: jbp.Layer, plan: Pipeline) -> Any:
    """(params, x, target) -> (loss, gradient), as the plan has it."""

    def run(params, x, target):
        (value, _), grads = plan.value_and_grad(net, LOSS, False)(params, x, target)
        return value, grads

    return run


def by_jax_grad(net: jbp.Layer, plan: Pipeline) -> Any:
    """The same by jax.grad of a scan over ticks, where each stage takes what the one before it has made."""
    head, body, tail = Cut.of(net).layers(STAGES)

    def here(parts, x, target):
        me, rows = lax.axis_index("stage"), x.reshape(MICRO, -1, *x.shape[1:])

        def loss(parts):
            before, own, after = parts

            def tick(h, t):
                first = head.reference(before, rows[jnp.clip(t, 0, MICRO - 1)])
                y = body.reference(own, jnp.where(me == 0, first, h))
                return lax.ppermute(y, "stage", [(s, s + 1) for s in range(STAGES - 1)]), y

            like = jax.eval_shape(head.reference, before, rows[0])
            _, ys = lax.scan(tick, jnp.zeros(like.shape, like.dtype), jnp.arange(MICRO + STAGES - 1))
            scores = tail.reference(after, ys[STAGES - 1 :].reshape(-1, *ys.shape[2:]))
            return jnp.where(me == STAGES - 1, LOSS.reference((), (scores, target)), 0)

        value, (before, own, after) = jax.value_and_grad(loss)(parts)
        return lax.psum((value, before), "stage"), own, lax.psum(after, "stage")

    where = PartitionSpec(), PartitionSpec("stage"), PartitionSpec()

    def run(params, x, target):
        parts = Cut.of(net).parts(params)
        out = (PartitionSpec(), PartitionSpec()), PartitionSpec("stage"), PartitionSpec()
        return jax.shard_map(
            here, mesh=plan.on(), in_specs=(where, PartitionSpec(), PartitionSpec()), out_specs=out, check_vma=False
        )(parts, x, target)

    return run


def program(net: jbp.Layer, how: str, x: Any, target: Any) -> tuple[Pipeline, Any, tuple[Any, ...]]:
    """(plan, (params, x, target) -> (loss, gradient), the shapes of these with where they lie)."""
    table = schedule("GPipe" if how == "jax.grad" else how, STAGES, MICRO)  # pyright: ignore[reportArgumentType]
    plan = Pipeline((("stage", STAGES),), micro=MICRO, schedule=table)
    like = jax.eval_shape(net.init, jax.random.key(0), x)
    specs = plan._where(net, plan._marks(net, like, x))
    where = jax.tree.unflatten(jax.tree.structure(like), [NamedSharding(plan.on(), spec) for spec in specs])
    given = jax.tree.map(lambda a, at: Shape(a.shape, a.dtype, sharding=at), like, where)
    whole = NamedSharding(plan.on(), PartitionSpec())
    batch = (Shape(a.shape, a.dtype, sharding=whole) for a in (x, target))
    return plan, by_jax_grad(net, plan) if how == "jax.grad" else by_schedule(net, plan), (given, *batch)


def _zeros(shapes):
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype, device=a.sharding), shapes)


def rows(only: str, seconds: float) -> Iterator[str]:
    """The tables, line by line."""
    yield "| network | F | B | W | F + B + W | B by `jax.vjp` | W by `jax.vjp` | F + both |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    chosen = [each for each in networks() if only in ("", each[0])]
    for name, net, x, _ in chosen:
        f, b, w, *auto = flops(net, jax.eval_shape(net.init, jax.random.key(0), x), x).values()
        numbers = f, b, w, f + b + w, *auto, f + sum(auto)
        yield f"| {name} | {' | '.join(f'{number:.2f}' for number in numbers)} |"
    yield ""
    timed = " time by 1F1B's |" if seconds else ""
    yield "| network | schedule | ticks | idle | published | held | room, MiB | temporary, MiB |" + timed
    yield "|---|---|---:|---:|---:|---:|---:|---:|" + ("---:|" if seconds else "")
    for name, net, x, target in chosen:
        ways = {how: program(net, how, x, target) for how in (*PUBLISHED, "jax.grad")}
        laps = (
            race({how: compiled(run, _zeros(given)) for how, (_, run, given) in ways.items()}, seconds)
            if seconds
            else {}
        )
        for how, (plan, run, given) in ways.items():
            memory: Any = jax.jit(run).lower(*given).compile().memory_analysis()
            cells = [f"{memory.temp_size_in_bytes / 2**20:.0f}"]
            cells += [f"{ratio(laps[how], laps['1F1B'])[0]:.2f}"] if laps else []
            if how == "jax.grad":
                cells = [f"2 × {MICRO + STAGES - 1}", f"{plan.table.bubble:.3f}", "", "", "", *cells]
            else:
                table = plan.table
                before = [f"{table.ticks}", f"{table.bubble:.3f}", f"{PUBLISHED[how](STAGES, MICRO):.3f}"]
                held = sorted({f"{held:g}" for held in table.held}, key=float)
                cells = [
                    *before,
                    " to ".join(held[:: max(len(held) - 1, 1)]),
                    f"{room(net, plan, given[0], x):.0f}",
                    *cells,
                ]
            yield f"| {name} | {how} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="one of the networks")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="to time the steps of each network, 0 for not at all"
    )
    parser.add_argument("--output", type=Path, help="the tables, as Markdown")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", STAGES)
    about = f"`python -m benchmarks.pipeline`, JAX {jax.__version__}, {STAGES} stages, {MICRO} micro-batches."
    told(rows(options.only, options.seconds), "Pipelines", about, options.output)


if __name__ == "__main__":
    main()
