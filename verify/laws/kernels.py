"""The law of Pallas kernels that are interpreted: NaN wherever nobody has written, several cores, and no races."""

from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import jax

from verify import thresholds as th
from verify.jaxpr.interpret import strip
from verify.laws.law import Breach, Plan, corrupted_in, refusal
from verify.run.bench import Bench, Refused, Sample, sample
from verify.tolerance import budget
from verify.tolerance.budget import largest, off
from verify.tolerance.waivers import MACHINE


def raced(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A kernel gives the same result where grid points that may run side by side do so, and no two of them touch one
    place of which one writes. Where no axis of the grid is said to be parallel, a race between its points is a note:
    the grid of a TPU is walked in order, that of a GPU is not."""
    if "pallas_call" not in bench.primitives:
        return
    draw = plan.ordinary[0]
    try:
        got, races = bench.once("kernels", lambda: _interpreted(bench, plan, declared=True))
    except Refused as refused:  # what this interpreter of TPU kernels cannot run is another machine's
        yield replace(refusal("kernels", draw, refused, dtype=bench.native), waiver=MACHINE)
        return
    if races:
        yield Breach("kernels", None, 1.0, f"two grid points race: {races}", draw, dtype=str(bench.native))
        return
    right = bench.pull(*draw, bench.native)
    got = bench.came(got, draw[2], "kernels")
    for k, (a, b) in enumerate(zip(got.cotangents, right.cotangents, strict=True)):
        bench.comparisons += 1
        gap, size = off(a, b), budget.scale(bench, draw[0], draw[2], k, b)
        if gap > th.ON_CORES * budget.eps(bench.native) * size:
            text = f"on two cores, with NaN in all memory that was not written, the result is off by {gap:.2g}"
            yield Breach("kernels", k, gap / max(largest(b), 1e-300), text, draw, (a, b), dtype=str(bench.native))
    try:
        _, races = bench.once("kernels, all axes", lambda: _interpreted(bench, plan, declared=False))
    except Refused:
        return
    if races:
        text = f"grid points race unless the grid is walked in order, as on a TPU and not on a GPU: {races}"
        yield Breach("kernels", None, 1.0, text, draw, advice=True, dtype=str(bench.native))


def _interpreted(bench: Bench, plan: Plan, declared: bool) -> tuple[Sample, str]:
    """(one call, what was said of races) with the axes parallel that are declared so, or all of them."""
    case, _, dy = plan.ordinary[0]
    floats, others = case.at(bench.native)
    values = floats, others, bench.cotangent(case, dy, bench.native)

    def run():
        from jax.experimental.pallas import tpu

        kind = tpu.InterpretParams(detect_races=True, num_cores_or_threads=2, out_of_bounds_reads="uninitialized")

        def around(eqn: Any, ins: list, bind: Callable[..., list]) -> list:
            if eqn.primitive.name != "pallas_call" or not eqn.params["interpret"]:
                return bind(eqn, ins)
            changed: dict[str, Any] = {"interpret": kind}
            if not declared:
                axes = ("parallel",) * len(eqn.params["grid_mapping"].grid)
                known = eqn.params["compiler_params"]
                own = isinstance(known, tpu.CompilerParams)
                params = replace(known, dimension_semantics=axes) if own else tpu.CompilerParams(axes)
                changed["compiler_params"] = params
            return bind(eqn, ins, **changed)

        leaves, structure = jax.tree.flatten(values)
        closed, out = jax.make_jaxpr(
            lambda *leaves: bench.flat.vjp(*jax.tree.unflatten(structure, leaves)), return_shape=True
        )(*leaves)
        said = StringIO()
        with redirect_stdout(said):
            found = jax.block_until_ready(strip(closed, around)(*leaves))
        return sample(*jax.tree.unflatten(jax.tree.structure(out), found)), _first_race(said.getvalue())

    return bench.guarded("backward", run, bench.native)


def _first_race(text: str) -> str:
    """The two accesses of the first race in what the interpreter has printed, without the clocks."""
    if "RACE DETECTED" not in text:
        return ""
    lines = text.split("RACE DETECTED", 1)[1].split("RACE DETECTED")[0].splitlines()
    return " and ".join(line.strip() for line in lines if " of (" in line)


def raced_only(bench: Bench, plan: Plan):
    if "kernels" in bench.memo:
        yield "wrong on two cores", None, corrupted_in("kernels", bench)
