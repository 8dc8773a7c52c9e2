"""A race: the same numbers computed in several ways, compiled, in turn, in one process, on the same arguments.

Times are compared pair by pair: in every round each contender runs once, in an order drawn anew, and a
ratio is taken between neighbours in time. Machines are shared and noisy; what is common to a round cancels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp

ROUND = 0.02  # seconds that a contender runs in a round, at least: enough calls to be well above the clock's grain


@dataclass(frozen=True)
class Lap:
    """What one contender took: seconds a call in each round; bytes and FLOPs by the compiler, None where it has none.

    `temporary` is XLA's temp_size_in_bytes; `peak` is arguments + outputs − aliases + temporary. FLOPs are the
    compiler's, which counts the body of a loop once, however often it runs.
    """

    seconds: list[float]
    temporary: int | None = None
    peak: int | None = None
    flops: float | None = None
    compile_seconds: float | None = None


@dataclass(frozen=True)
class Compiled:
    """A compiled function with what the compiler says of it."""

    run: Callable[..., Any]
    lap: Lap


def compiled(f: Callable[..., Any], args: tuple) -> Compiled:
    """f traced, lowered and compiled for these arguments, the seconds of all three counted."""
    program, lap = _program(jax.jit(f), args)
    return Compiled(lambda: jax.block_until_ready(program(*args)), lap)


def threaded(f: Callable[..., Any], state: Any, args: tuple) -> Compiled:
    """f(state, *args) -> (state, ...) that takes over the memory of its state, as training steps do."""
    program, lap = _program(jax.jit(f, donate_argnums=0), (state, *args))
    held = [jax.tree.map(lambda a: jnp.array(a, copy=True), state)]

    def run():
        held[0], *others = jax.block_until_ready(program(held[0], *args))
        return others

    return Compiled(run, lap)


def _program(f: Any, args: tuple) -> tuple[Any, Lap]:
    begin = perf_counter()
    program = f.lower(*args).compile()
    seconds = perf_counter() - begin
    memory: Any = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    flops = (program.cost_analysis() or {}).get("flops")
    return program, Lap([], memory.temp_size_in_bytes, held + memory.temp_size_in_bytes, flops, seconds)


def held(make: Callable[[], Callable[[], Any]]) -> Compiled:
    """A step that holds its own arguments; its first call is what compiles it. The compiler says nothing of it."""
    begin = perf_counter()
    step = make()
    step()
    return Compiled(step, Lap([], compile_seconds=perf_counter() - begin))


def race(contenders: Mapping[str, Compiled], seconds: float = 4.0, rounds: int = 7) -> dict[str, Lap]:
    """Each contender in turn for about so many seconds in all, and at least so many rounds."""

    def timed(run, calls):
        begin = perf_counter()
        for _ in range(calls):
            run()
        return (perf_counter() - begin) / calls

    calls = {}
    for name, c in contenders.items():
        c.run()  # the first call allocates
        calls[name] = max(1, round(ROUND / timed(c.run, 1)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order, end, dice = list(contenders), perf_counter() + seconds, Random(0)
    while perf_counter() < end or len(times[order[0]]) < rounds:
        dice.shuffle(order)  # who follows whom changes too: PyTorch's threads spin on for a while
        for name in order:
            times[name].append(timed(contenders[name].run, calls[name]))
    return {name: replace(c.lap, seconds=times[name]) for name, c in contenders.items()}


def ratio(ours: Lap, theirs: Lap) -> tuple[float, float, float]:
    """(median, lower quartile, upper quartile) of ours / theirs over the rounds."""
    pairs = [a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    low, _, high = quantiles(pairs, n=4)
    return median(pairs), low, high
