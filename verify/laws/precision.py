"""The laws of lower precision: no more lost than the definition's own gradient loses, and nothing infinite."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from ml_dtypes import finfo

from verify import thresholds as th
from verify.inputs.case import UNSHOWN, Leaves, Tag, ordinary, single
from verify.laws.law import Breach, Plan, leaves
from verify.run.bench import LINALG, LOOPS, Bench, Refused, Sample, finite
from verify.tolerance import budget
from verify.tolerance.budget import Draw, largest, off
from verify.tolerance.facts import Place, elsewhere, jumps, overflows, positive_only, runaway, through_infinity
from verify.tolerance.waivers import DIGITS, INFINITE, KINK, OTHER


def precise(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """In each lower dtype the error stays within what the definition's own gradient loses in it; and where the way
    forward gives all of float64, the backward pass does."""
    for dtype in plan.dtypes:
        try:
            for k in leaves(bench):
                rows = budget.low(bench, plan.noisy, dtype, k)
                rows = [row for row in rows if _visible(bench, row[3], k)]
                over = [row for row in rows if row[0] > row[1]]
                bench.comparisons += len(rows)
                if over and len(over) * 2 <= len(rows):
                    # one draw may fall on a kink that rounding moves to the other side; most may not, nor those in
                    # which a gradient that is mostly zero has not met the kink
                    over = [row for row in over if row[0] > th.OVER * row[1] and not bench.random]
                    over = [row for row in over if row[0] > _kinked(bench, row[3], k, dtype)]
                    over *= len({id(row[3][0]) for row in over}) > 1
                if over:
                    mine, room, s, draw = max(over, key=lambda row: row[0] / max(row[2], 1e-300))
                    text = f"off by {mine:.2g} in {dtype}, where the definition's own gradient allows {room:.1g}"
                    shown = bench.pull(*draw, dtype).cotangents[k], bench.truth(*draw, dtype).cotangents[k]
                    yield Breach("precision", k, mine / max(s, 1e-300), text, draw, shown, dtype=str(dtype))
            if dtype in th.GAIN and plan.dtypes != (plan.native,):
                yield from _gains(bench, dtype)
            if dtype == "bfloat16" and not bench.random:
                yield from _long(bench, plan, dtype)
            if dtype in ("bfloat16", "float16") and not bench.random:
                yield from _raised(bench, plan, dtype)
        except Refused:
            continue  # the structure law has said so
    yield from _rounded(bench, plan)


def _rounded(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A kernel that keeps float32 does so in both passes, and its output shows it."""
    inner, draws = bench.memo["inner"], plan.noisy
    if not (inner and draws) or bench.memo["both"] or bench.oracle.slack:
        return
    case, label, dy = draws[0]
    rng = np.random.default_rng(0)  # finer than float32 can hold
    finer = replace(case, floats=tuple(x * (1 + 1e-9 * rng.normal(size=np.shape(x))) for x in case.floats))
    forth = bench.pull(finer, label, dy).y, bench.truth(finer, label, dy).y
    if any(off(a, b) > th.EXACT * largest(b) for a, b in zip(*forth, strict=True)):
        return
    ours, true = ([run(*d) for d in draws] for run in (bench.pull, bench.truth))
    for k in leaves(bench):
        over = []
        for draw, a, b in zip(draws, ours, true, strict=True):
            mine, due = a.cotangents[k], b.cotangents[k]
            gap, size = off(mine, due), budget.scale(bench, draw[0], draw[2], k, due)
            if gap > th.SAME * size + budget.shaken(bench, draw[0], draw[2], k, due):
                over.append((gap / size, gap, draw, (mine, due)))
        bench.comparisons += len(draws)
        if 2 * len(over) > len(draws):
            share, gap, draw, shown = max(over, key=lambda row: row[0])
            text = f"given float64 the backward pass rounds to {inner}, the forward pass does not: off by {gap:.2g}"
            yield Breach("precision", k, share, text, draw, shown)


def _kinked(bench: Bench, draw: Draw, k: int, dtype: Any) -> float:
    """More than the truth moves when the inputs move by a few units in the last place, in many ways: past a kink."""
    return 4 * budget.moved(bench, draw, k, 2 * budget.eps(dtype), dtype, times=16)


DRAWS = (32, 128, 512)


def _gains(bench: Bench, dtype: str) -> Iterator[Breach]:
    """Element by element the slope of what came over what was due, across many draws, where rounding averages out: the
    more of them, the longer an element seems wrong but is not surely so."""
    for k in leaves(bench):
        bench.comparisons += 1
        for n in DRAWS:
            draws = _near(bench, dtype, n)
            gains, seems, wrong = _slopes(bench, draws, dtype, k)
            if wrong.any():
                gain = 1 + float(gains[wrong][0])
                text = (
                    f"{int(wrong.sum())} of {wrong.size} elements are {gain:.6g} times what they should be in {dtype}"
                )
                yield Breach("precision", k, abs(gain - 1), text, draws[0], dtype=str(dtype))
            if wrong.any() or not seems.any():
                break


def _near(bench: Bench, dtype: str, n: int) -> list[Draw]:
    """n draws with the example's own values in another order, each under a random cotangent."""
    drawn, rng = bench.memo.setdefault(("gains", dtype), ([], np.random.default_rng(5)))
    while len(drawn) < n:
        case = ordinary(bench.example, rng, f"draw {len(drawn)}", near=True)
        dy = tuple(single(rng.normal(size=s.shape)) for s in bench.outputs(case, dtype))
        drawn.append((case, "noise", dy))
    return drawn[:n]


def _slopes(bench: Bench, draws: list[Draw], dtype: str, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By element of leaf k: (how much more than once what is due it is, where that seems wrong, where it surely is)."""
    none = np.zeros(0), np.zeros(0, bool), np.zeros(0, bool)
    answers = [[run(*d, dtype).cotangents[k] for run in (bench.truth, bench.plain, bench.pull)] for d in draws]
    # draws that the definition answers otherwise in this dtype have met a kink, or other random bits
    kept = [i for i, (true, plain, _) in enumerate(answers) if off(plain, true) <= th.OTHER_BITS * largest(true)]
    if len(kept) * 2 <= len(draws) or any(ours.shape != true.shape for true, _, ours in answers):
        return none
    true, plain, ours = (np.stack([answers[i][j] for i in kept]) for j in range(3))
    if not true.size or not all(np.isfinite(v).all() for v in (true, plain, ours)):
        return none
    exact = np.stack([budget.due(bench, draws[i], k, dtype) for i in kept])
    halves = [slice(0, len(kept) // 2), slice(len(kept) // 2, None)]
    usual = max(th.GAIN[dtype], 4 * max(np.abs(_slope(plain[h], true[h])).max(initial=0.0) for h in halves))
    one, two = [_slope(ours[h], exact[h]) for h in halves]
    doubts = [_doubt(ours[h], exact[h], s) for s, h in zip((one, two), halves, strict=True)]

    def above(least: float, times: float) -> np.ndarray:
        clear = [np.abs(s) > np.maximum(least, times * doubt) for s, doubt in zip((one, two), doubts, strict=True)]
        return clear[0] & clear[1] & (np.sign(one) == np.sign(two))

    several = np.logical_and(*(_several(true[h]) for h in halves))
    return one, above(th.GAIN[dtype] / 2, 2.0), above(usual, 8.0) & several


def _long(bench: Bench, plan: Plan, dtype: str) -> Iterator[Breach]:
    """Along a long axis, where everything is positive and sums only grow, a running sum in this dtype stands still."""
    if "long" not in bench.memo:
        cases = [d[0] for d in plan.others if Tag.LONG in d[0].tags]
        cases += [bench.example] * any(n >= th.LONG for x in bench.example.floats for n in np.shape(x))
        cases = [replace(c, floats=tuple(map(_small, c.floats))) for c in cases]
        bench.memo["long"] = [(c, "ones", tuple(np.ones(d.shape) for d in bench.outputs(c, dtype))) for c in cases]
    along: list[Draw] = bench.memo["long"]
    for draw in along:
        runs = [run(*draw, dtype) for run in (bench.truth, bench.plain, bench.pull)]
        true, plain, ours = (s.cotangents for s in runs)
        if not finite(runs[0].y) or any(
            off(a, b) > th.RIGHT * largest(b) for s in runs[1:] for a, b in zip(s.y, runs[0].y, strict=True)
        ):
            continue  # the forward pass has lost as much, or is nowhere defined
        for k in leaves(bench):
            size, gap, theirs = largest(true[k]), off(ours[k], true[k]), off(plain[k], true[k])
            bench.comparisons += 1
            if size < max(th.GONE * max(map(largest, true)), th.SAME * budget.usual(bench, k)):
                continue  # next to zero beside the others, or nothing but what rounding leaves of it
            if gap <= th.LOST * size + th.OVER * theirs or budget.apart(bench, draw, k, dtype).any():
                continue
            # a difference of long sums loses as much by the rounding of what they are sums of
            if gap > th.OVER * budget.moved(bench, draw, k, budget.eps(dtype) / 2, dtype):
                text = f"off by {gap:.2g} in {dtype} along a long axis, the definition's own gradient by {theirs:.1g}"
                # along a loop of the definition errors grow as in the formula, and JAX itself scatters in this dtype
                lost = DIGITS if LOOPS & bench.defined or {"scatter-add", "scatter_add"} & bench.primitives else ""
                yield Breach("precision", k, gap / max(size, 1e-300), text, draw, (ours[k], true[k]), lost, dtype=dtype)


RAISED = 64.0  # spreads by which numbers are raised, or sunk where the example has nothing above zero


def _raised(bench: Bench, plan: Plan, dtype: str) -> Iterator[Breach]:
    """Numbers whose mean is large against their spread, as scores and coordinates may be: a tenth may not be lost of a
    gradient that the definition gives to a hundredth. Most of several draws have to show it, with a right output."""
    if LOOPS & bench.either:
        return  # in which rounding grows, in each formula its own way
    draws = [raised for draw in plan.noisy if (raised := _all_raised(bench, draw))]
    over: dict[int, list[Breach]] = {}
    for draw in draws:
        truth, plain, ours = (run(*draw, dtype) for run in (bench.truth, bench.plain, bench.pull))
        if not finite(plain.y) or not all(
            off(a, b) <= th.RIGHT * largest(b) for a, b in zip(ours.y, truth.y, strict=True)
        ):
            continue
        for k in leaves(bench):
            mine, rough, true = (s.cotangents[k] for s in (ours, plain, truth))
            bench.comparisons += 1
            size = largest(true)
            if mine.shape != true.shape or size < th.KEPT * budget.usual(bench, k) * max(map(largest, draw[2])):
                continue
            gap, theirs = off(mine, true), off(rough, true)
            if theirs <= th.KEPT * size and gap > th.LOST * size and not budget.apart(bench, draw, k, dtype).any():
                text = f"off by {gap:.2g} in {dtype} where numbers are far from zero, the definition by {theirs:.1g}"
                breach = Breach("precision", k, gap / size, text, draw, (mine, true), dtype=dtype)
                over.setdefault(k, []).append(breach)
    for breaches in over.values():
        if 2 * len(breaches) > len(draws):
            yield from breaches


def _all_raised(bench: Bench, draw: Draw) -> Draw | None:
    """The draw with all arrays raised by as much that may be any numbers, or any of one sign; None if there is none."""
    domains = [bench.example.constraint(k) for k in leaves(bench)]
    free = [d.shapeless and d.high == np.inf for d in domains]
    real = [k for k, x in enumerate(bench.example.floats) if np.size(x) > 1 and free[k]]
    signs = {domains[k].sign for k in real} - {0}
    if not real or len(signs) > 1:
        return None
    case, label, dy = draw
    spread = float(np.std(bench.example.floats[real[0]])) or 1.0
    by = RAISED * spread * (min(signs) if signs else 1)
    floats = tuple(single(x + by) if k in real else x for k, x in enumerate(case.floats))
    return replace(case, floats=floats, label=f"{case.label}, raised by {by:.2g}"), label, dy


def _small(x: np.ndarray) -> np.ndarray:
    """x with its magnitudes, none above 4."""
    return single(np.abs(x) * min(1.0, 4.0 / max(largest(x), 1e-300)))


def _visible(bench: Bench, draw: Draw, k: int) -> bool:
    """Whether leaf k is not next to zero here, in comparison with other draws."""
    size = budget.usual(bench, k) * max(map(largest, draw[2]), default=0.0)
    return largest(bench.truth(*draw).cotangents[k]) > th.GONE * size


def imprecise(bench: Bench, plan: Plan):
    # only results in a lower precision are touched: those in float64 are the dense law's affair
    def wrong(s: Sample, dy, mode, n):
        low = s.types and s.types[0][1] != "float64"
        return replace(s, cotangents=tuple(1.5 * c for c in s.cotangents)) if low else s

    if telling(bench, plan):
        yield "x1.5 in low precision", None, wrong


def telling(bench: Bench, plan: Plan) -> bool:
    """Whether the definition keeps enough of its gradient in some lower dtype to compare anything with it."""
    for dtype in plan.dtypes:
        with suppress(Refused):
            for k in leaves(bench):
                rows = [row for row in budget.low(bench, plan.noisy, dtype, k) if _visible(bench, row[3], k)]
                clear = [draw for _, room, _, draw in rows if _firm(bench, draw, dtype, k, room)]
                if len(clear) * 2 > len(rows):  # as many as the law itself asks for
                    return True
    return False


def _firm(bench: Bench, draw: Draw, dtype: Any, k: int, room: float) -> bool:
    """Whether leaf k is larger than its room, and stays when the inputs move by their rounding in this dtype."""
    much = 0.3 * largest(bench.truth(*draw, dtype).cotangents[k])
    return room < much and (bench.random or 2 * budget.moved(bench, draw, k, budget.eps(dtype) / 2, dtype) < much)


def _slope(v: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Over draws, by how much v is more than once the truth, element by element; 0 where there is little of it."""
    square = (true**2).sum(0)
    return np.where(square > th.GONE * square.max(), ((v - true) * true).sum(0) / np.maximum(square, 1e-300), 0.0)


def _doubt(v: np.ndarray, true: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The standard error of that slope, element by element, from how the draws scatter about it."""
    rest = v - true * (1 + slope)
    return np.sqrt(((rest * true) ** 2).sum(0)) / np.maximum((true**2).sum(0), 1e-300)


def _several(true: np.ndarray) -> np.ndarray:
    """Whether some draws weigh in an element's slope: how one or two scatter about it tells nothing."""
    weights = true**2
    return weights.sum(0) ** 2 > 4 * (weights**2).sum(0)


def bounded(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """At extreme inputs, in the user's own dtype and in half precision, no overflow and no gross loss where the
    definition has none."""
    dtypes = dict.fromkeys((plan.native, *(d for d in plan.dtypes if d in ("bfloat16", "float16"))))
    if "while" in bench.primitives:
        return  # a loop until convergence may not be made for extremes
    shown = [d for d in plan.others if not d[0].tags & UNSHOWN]
    same = bench.example.shapes  # other sizes would have to be compiled
    here = [d for d in shown if d[0].shapes == same]
    many = [d for d in shown if Tag.MANY in d[0].tags]
    case, label, dy = plan.ordinary[0]  # and as of a loss that is scaled up lest its gradient underflow
    loud = replace(case, label=f"{case.label}, dy times {th.LOUD}"), label, tuple(th.LOUD * d for d in dy)
    for dtype in dtypes:
        for draw in here + [*many, loud] * (dtype == "float16"):  # which counts no more than 65504
            try:
                yield from _bounded(bench, draw, dtype)
            except Refused:
                continue


def _bounded(bench: Bench, draw: Draw, dtype: Any) -> Iterator[Breach]:
    here = draw[0].at(dtype)[0]
    if any((np.isfinite(x) != np.isfinite(v)).any() for x, v in zip(here, draw[0].floats, strict=True)):
        return  # before anything runs: LAPACK may never come back from an infinity
    truth, plain, ours = (run(*draw, dtype) for run in (bench.truth, bench.plain, bench.pull))
    kinds = dtype if isinstance(dtype, tuple) else (dtype,)
    top = min(float(finfo(d).max) for d in kinds)
    if not finite(plain.y):
        return
    tags = draw[0].tags
    far = Tag.FAR in tags
    out = far and dtype != bench.native
    beyond = bool(tags & {Tag.TINY, Tag.HUGE}) or bool(out and LOOPS & bench.either)
    beyond = beyond or (dtype != bench.native and _denormal(here))
    for k in leaves(bench):
        true, rough, mine = (s.cotangents[k] for s in (truth, plain, ours))
        if not (np.isfinite(true).all() and np.isfinite(rough).all()) or mine.shape != true.shape:
            continue
        if dtype != bench.native and largest(true) > top / th.NEAR_END:
            continue  # in half precision everything is near its end
        bench.comparisons += 1
        size = budget.scale(bench, draw[0], draw[2], k, true)
        gap, theirs = off(mine, true), off(rough, true)
        if not finite((mine,)):
            text, place = f"not finite in {dtype}, where the definition's own gradient is", Place(bench, draw, k)
            # far out a right formula may overflow too; it counts where there is a gradient to be had
            little = out and (
                largest(true[~np.isfinite(mine)]) < th.GONE * size or theirs > largest(true) / th.HALF_UNITS
            )
            # far off in float64 too it has not lost its squares there: it cancels
            cancels = dtype == bench.native and Tag.TINY in tags
            cancels = cancels and off(bench.pull(*draw).cotangents[k], bench.truth(*draw).cotangents[k]) > size
            lost = (beyond and not cancels) or little or theirs > largest(true)
            lost = lost or bool(far and LINALG & bench.either)  # whose squares and cubes overflow
            infinity = through_infinity if dtype == bench.native else overflows
            waiver = (
                DIGITS if lost or runaway(place)
                else KINK if jumps(place)
                else OTHER if positive_only(place) or elsewhere(place)
                else INFINITE if infinity(place, dtype)
                else ""
            )  # fmt: skip
            yield Breach("finite", k, np.inf, text, draw, (mine, true), waiver, dtype=str(dtype))
            if not waiver:
                continue
            mine = np.where(np.isfinite(mine), mine, true)  # beside them others may have vanished
            gap = off(mine, true)
        if off(bench.pull(*draw).cotangents[k], true) > th.GONE * size:
            continue  # wrong in float64 too, which the dense law says
        text = f"off by {gap:.2g} in {dtype}, the definition's own gradient by {theirs:.1g}"
        least = max(8 * float(finfo(d).smallest_normal) for d in kinds)
        normal = largest(true) > max(least, th.DIM * size, th.BESIDE_OTHERS * max(map(largest, truth.cotangents)))
        # where the output is right and the gradient is nothing
        forth = all(off(a, b) <= th.RIGHT * largest(b) for a, b in zip(ours.y, truth.y, strict=True))
        much = np.abs(true) > th.MUCH * largest(true)
        # far out half precision leaves nothing of exp(x − y); but squares of hundreds are infinite in float16 alone
        dim = beyond or (out and not (dtype == "float16" and Tag.SQUARED in tags))
        clear = normal and forth and not dim and theirs < th.RIGHT * largest(true)
        if clear and _gone(mine[much], true[much]):
            at_kink = gap <= 2 * budget.moved(bench, draw, k, budget.eps(dtype), dtype, times=16)
            exact = replace(draw[0], floats=tuple(np.asarray(x, np.float64) for x in here))
            at_kink = at_kink or budget.subgradient(bench, exact, draw[2], k, ours.cotangents, true, 2 * theirs)
            if not at_kink:  # rounding chooses a side of it, where the gradient may be gone
                text = f"{text}: elements of it have vanished"
                yield Breach("precision", k, 1.0, text, draw, (mine, true), dtype=str(dtype))
        elif gap > th.NOTED * size + th.MANY * theirs:
            # many a right formula is less stable; one whose answer is larger than the gradient itself is of no use
            alone = bench.flat.subject.kind != "layer" and not beyond and dtype == bench.native
            alone = alone and not _far_out(bench, truth)
            gross = (
                alone and gap > th.GROSS * max(size, th.LOST * budget.whole(bench, draw)) and theirs < th.KEPT * size
            )
            waiver = "" if gross else DIGITS
            yield Breach("precision", k, gap / max(size, 1e-300), text, draw, waiver=waiver, dtype=str(dtype))


def _denormal(floats: Leaves) -> bool:
    """Whether their dtype has but a few digits left for some of these numbers."""
    return any(((x != 0) & (np.abs(x) < finfo(x.dtype).smallest_normal)).any() for x in floats)


def _far_out(bench: Bench, truth: Sample) -> bool:
    """Whether the output too is far larger than any at ordinary draws: large numbers that cancel may do so anywhere."""
    usual = [max(map(largest, sample.y), default=0.0) for sample, _ in bench.memo["ordinary"]]
    return max(map(largest, truth.y), default=0.0) > th.MANY * max(usual, default=0.0)


def _gone(mine: np.ndarray, true: np.ndarray) -> bool:
    return bool((np.abs(mine) < th.GONE * np.abs(true)).any())


def infinite(bench: Bench, plan: Plan):
    def wrong(s: Sample, dy, mode, n):
        low = s.types and s.types[0][1] != "float64"
        return replace(s, cotangents=tuple(np.full_like(c, np.nan) for c in s.cotangents)) if low else s

    if plan.others and "while" not in bench.primitives:
        yield "NaN in low precision", None, wrong
