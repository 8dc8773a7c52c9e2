"""The laws of how a backward pass is called: what it returns, again and again, uncompiled, with others in between."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from verify import thresholds as th
from verify.inputs.case import Case, Leaves, resized
from verify.laws.law import Breach, Plan, corrupted_in, refusal
from verify.run.bench import DECOMPOSED, Bench, Refused, Sample, sample
from verify.subject.flat import Flat
from verify.tolerance import budget
from verify.tolerance.budget import Draw, largest, off
from verify.tolerance.waivers import UNPROMISED


def structure(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """Each cotangent has the shape and the dtype of its leaf."""
    for dtype in (plan.native, *plan.dtypes):
        draw = plan.ordinary[0]
        try:
            ours = bench.pull(*draw, dtype)
        except Refused as refused:
            yield _excused(bench, draw, refused, dtype)
            continue
        for k, (leaf, (shape, got)) in enumerate(zip(draw[0].at(dtype)[0], ours.types, strict=True)):
            bench.comparisons += 1
            if shape != leaf.shape or got != str(leaf.dtype):
                text = f"got {got}{list(shape)}, expected {leaf.dtype}{list(leaf.shape)}"
                # where the definition itself goes over to another dtype, the function is not meant for this one
                kinds = {str(v.dtype) for v in (*bench.outputs(draw[0], dtype), leaf)}
                other = shape == leaf.shape and dtype != plan.native and len(kinds) > 1
                yield Breach("structure", k, 1.0, text, draw, waiver=UNPROMISED if other else "", dtype=str(dtype))


def _excused(bench: Bench, draw: Draw, refused: Refused, dtype) -> Breach:
    """A dtype that the forward or the definition refuses as well is not the backward's fault."""
    promised = dtype == bench.native or refused.stage != "forward"
    if promised and dtype != bench.native:
        try:
            bench.plain(*draw, dtype)
        except Refused:
            promised = False
    return refusal("runs", draw, refused, promised=promised, dtype=dtype)


def other_dtype(bench: Bench, plan: Plan):
    def cast(s: Sample, dy, mode, n):
        return replace(s, types=(*s.types[:-1], (s.types[-1][0], "float8")))

    yield "dtype", None, cast


def pure(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """The same input gives the same bits, whatever was computed in between: A, B, A compiled; A then B, pulled back
    in the order A, B, one operation at a time."""
    first, second = _two(plan)
    once = bench.pull(*first, plan.native, fresh=True)
    bench.pull(*second, plan.native, fresh=True)
    again = bench.pull(*first, plan.native, fresh=True)
    for k, (a, b) in enumerate(zip(once.cotangents, again.cotangents, strict=True)):
        bench.comparisons += 1
        if not np.array_equal(a, b, equal_nan=True):
            text = f"the same call gave another result the second time, off by {off(a, b):.2g}"
            yield Breach("pure", k, off(a, b) / max(largest(a), 1e-300), text, first, (b, a))


def _two(plan: Plan) -> tuple[Draw, Draw]:
    """Two draws, at different inputs if there are any."""
    first = plan.ordinary[0]
    return first, next((d for d in plan.ordinary if d[0] is not first[0]), plan.ordinary[-1])


def drifting(bench: Bench, plan: Plan):
    def drift(s: Sample, dy, mode, n):
        return replace(s, cotangents=tuple(c + n * 1e-7 * max(largest(c), 1e-30) for c in s.cotangents))

    yield "drifting", None, drift


def eager(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """Compiled or not, and with other calls in between, the result is the same but for rounding."""
    found = list(_uncompiled(bench, plan))
    yield from found
    if found:  # what follows would be of the same making
        return
    yield from bench.once("eager, after others", lambda: list(_poisoned(bench, plan)) or list(_outgrown(bench, plan)))


def _uncompiled(bench: Bench, plan: Plan) -> Iterator[Breach]:
    draws: tuple[Draw, ...] = bench.memo["apart"]
    first, _, turned = draws
    try:
        found = uncompiled(bench)
    except Refused as refused:
        yield refusal("eager", first, refused, promised=refused.stage != "forward", dtype=plan.native)
        return
    for draw, got in zip(draws if len(found) == len(draws) else (first, turned), found, strict=True):
        got = bench.came(got, draw[2], "eager")
        compiled = bench.pull(*draw, plan.native)
        for k, (a, b) in enumerate(zip(got.cotangents, compiled.cotangents, strict=True)):
            bench.comparisons += 1
            rows = []
            with suppress(Refused):  # a definition that cannot be differentiated has no errors of its own
                rows = budget.low(bench, [draw], plan.native, k)
            noise = off(compiled.cotangents[k], bench.pull(*draw).cotangents[k])  # its own rounding, right or wrong
            if bench.random and noise > th.OTHER_BITS * budget.whole(bench, draw):
                noise = 0.0  # other numbers are drawn in float64
            own = rows[0][1] if rows else 64 * budget.eps(plan.native) * largest(b) if bench.oracle.slack else np.inf
            room = own + 4 * noise
            gap = off(a, b)
            if gap > room:
                text = f"one operation at a time the result is off by {gap:.2g} from the compiled one"
                yield Breach("eager", k, gap / max(largest(b), 1e-300), text, draw, (a, b), dtype=str(plan.native))


def uncompiled(bench: Bench) -> list[Sample]:
    """What the draws of `apart` give one operation at a time, found once: raises Refused if they do not run so.

    A function that looks at its values, labels of 1 and -1 say, may refuse all others where it can see them: then
    without the second draw, whose values are not the example's.
    """
    if "eager" not in bench.memo:
        first, larger, turned = bench.memo["apart"]
        try:
            found = interleaved(bench, first, larger, turned)
        except Refused:
            found = interleaved(bench, first, turned)
        bench.memo["eager"] = found
    return bench.memo["eager"]


def _poisoned(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A cotangent that has overflowed leaves nothing behind for the next call."""
    if DECOMPOSED & bench.either:
        return
    draw, before = bench.memo["apart"][0], bench.memo["eager"][0]
    with suppress(Refused):  # what refuses an infinity is free to
        interleaved(bench, (draw[0], "infinite", tuple(np.full_like(d, np.inf) for d in draw[2])))
    with suppress(Refused):
        (after,) = interleaved(bench, draw)
        for k, (a, b) in enumerate(zip(after.cotangents, before.cotangents, strict=True)):
            bench.comparisons += 1
            if np.isfinite(b).all() and not np.isfinite(a).all():
                text = "not finite after a call whose cotangent was not: something was kept from it"
                yield Breach("eager", k, np.inf, text, draw, (a, b), dtype=str(plan.native))


def _outgrown(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A forward pass at another size leaves nothing behind for the backward pass of a call before it."""
    if bench.random:
        return
    draw, before = bench.memo["apart"][0], bench.memo["eager"][0]
    met = set[tuple[int, int]]()
    for between in (case for case, _, _ in plan.others if case.shapes != bench.example.shapes):
        if len(met) > AXES:
            return
        if (new := resized(bench.example, between)) <= met:
            continue
        met |= new
        try:
            (after,) = interleaved(bench, draw, between=between)
        except Refused as refused:
            with suppress(Refused):  # what it refuses alone is no size of its own
                bench.guarded("forward", lambda case=between: _ahead(bench, case), bench.native)
                yield refusal("eager", draw, refused, dtype=plan.native)
                return
            continue
        how = "with another size in its forward pass in between"
        found = list(_differs(bench, "eager", draw, after, before, how, ""))
        yield from found
        if found:
            return


def _ahead(bench: Bench, case: Case) -> Any:
    """The forward pass traced, for what it leaves behind."""
    floats, others = case.at(bench.native)
    return jax.eval_shape(lambda floats: bench.flat.pullback(floats, others)[0], floats)


AXES = 4  # of which another size is tried in between
POOL = 5  # more calls: then a buffer that holds the residuals of seven or less has lost the first's


def interleaved(bench: Bench, *draws: Draw, nested: tuple[Flat, ...] = (), between: Case | None = None) -> list[Sample]:
    """Forward for all draws, then backward for all, uncompiled; of each of `nested` the last comes back first. In
    between more forward passes, to which nobody comes back: what keeps residuals of a few calls has lost the first; and
    that of a case of other sizes, which is but traced."""
    flats, turn = (nested, -1) if nested else ((bench.flat,) * len(draws), 1)

    def run():
        down = [bench.cotangent(case, dy, bench.native) for case, _, dy in draws]
        values = [[as_arrays(leaves) for leaves in case.at(bench.native)] for case, _, _ in draws]
        ahead = [flat.pullback(floats, others) for flat, (floats, others) in zip(flats, values, strict=True)]
        for _ in range(POOL if len(draws) > 1 and not nested else 0):
            bench.flat.pullback(values[1][0], values[1][1])
        if between:
            _ahead(bench, between)
        back = [sample(y, pull(as_arrays(d))) for (y, pull), d in list(zip(ahead, down, strict=True))[::turn]]
        return back[::turn]

    try:
        return bench.guarded("backward", run, bench.native)
    except Refused as refused:
        case = draws[0][0]
        try:
            bench.guarded("forward", lambda: bench.flat.primal(*map(as_arrays, case.at(bench.native))), bench.native)
        except Refused as earlier:
            raise earlier from refused
        raise


def settled(bench: Bench, other: Bench, draw: Draw) -> Iterator[Breach]:
    """Two calls with different settings, one within the other, do not know of each other."""
    with suppress(Refused):
        flats = bench.flat, other.flat
        alone = [interleaved(bench, draw, nested=(flat,))[0] for flat in flats]
        for got, right in zip(interleaved(bench, draw, draw, nested=flats), alone, strict=True):
            where = "beside a call with other settings"
            yield from _differs(bench, "settings", draw, got, right, where, " from that alone")


def _differs(bench: Bench, law: str, draw: Draw, got: Sample, alone: Sample, where: str, than: str) -> Iterator[Breach]:
    """What came `where` other calls are is not what came without them."""
    for k, (a, b) in enumerate(zip(got.cotangents, alone.cotangents, strict=True)):
        bench.comparisons += 1
        gap = off(a, b)
        if gap > th.GONE * largest(b):
            text = f"{where} the result is off by {gap:.2g}{than}"
            yield Breach(law, k, gap / max(largest(b), 1e-300), text, draw, (a, b))


def as_arrays(leaves: Leaves) -> Leaves:
    return tuple(jax.numpy.asarray(x) for x in leaves)


def eager_only(bench: Bench, plan: Plan):
    if "eager" in bench.memo:
        yield "wrong uncompiled", None, corrupted_in("eager", bench, max(0.01, 64 * budget.eps(plan.native)))
