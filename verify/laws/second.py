"""The law of second derivatives: where the definition has one, so has the rule, and the same one."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from verify import thresholds as th
from verify.inputs.case import Leaves, Tag
from verify.laws.law import Breach, Plan, corrupted_in, leaves, refusal
from verify.run.bench import DECOMPOSED, Bench, Refused, Sample, finite
from verify.tolerance import budget
from verify.tolerance.budget import Draw, largest, off
from verify.tolerance.waivers import INFINITE, UNPROMISED

POINTS = 8  # at which it is asked for singly


def twice(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """At ordinary inputs, and at zeros, ties and the ends of ranges, each of which is judged by itself.

    What leads out of where the example lives is left aside: rows that sum to one, matrices that are symmetric.
    """
    if bench.oracle.slack or bench.flat.subject.kind != "function" or budget.inner_eps(bench) > th.OTHER:
        return
    ordinary = (d for d in plan.ordinary if d[1] == "noise" and not _otherwise(bench, d))  # at kinks it may be so
    draws = list(islice(ordinary, 2))
    if bench.stopped:
        text = "the definition stops gradients: it has no second derivative of its own to compare with"
        yield Breach("twice", None, 1.0, text, draws[0] if draws else None, waiver=INFINITE)
        return
    found = bench.memo.setdefault("twice", [])
    if not found:
        try:
            truth = [bench.second("truth", d, _along(bench, d)) for d in draws]
        except Refused:
            return
        if not all(finite(t.cotangents) for t in truth):
            return
        try:
            own = [bench.second("own", d, _along(bench, d)) for d in draws]
        except Refused as refused:
            yield refusal("twice", draws[0], refused, promised=False)
            return
        if not all(finite(s.cotangents) for s in own):
            text = "differentiated once more, the result is not finite: not made for this, and it is heard"
            yield Breach("twice", None, np.inf, text, draws[0], waiver=UNPROMISED)
            return
        found += zip(draws, own, truth, strict=True)
    over: dict[int, list[Breach]] = {}
    for draw, got, true in found:
        for breach in _differs(bench, draw, got, true):
            over.setdefault(breach.leaf or 0, []).append(breach)
    everywhere = [breach for breaches in over.values() if len(breaches) == len(found) for breach in breaches]
    yield from everywhere  # not only where a kink is near
    if not everywhere:
        yield from _singly(bench, plan)


def _along(bench: Bench, draw: Draw) -> Leaves:
    """The direction in which is differentiated once more."""
    rng = np.random.default_rng(4)
    return tuple(
        bench.example.constraint(k).along(rng.normal(size=np.shape(x)), x) for k, x in enumerate(draw[0].floats)
    )


def _differs(bench: Bench, draw: Draw, got: Sample, true: Sample) -> Iterator[Breach]:
    """Leaves whose second derivative is another."""
    got = bench.came(got, draw[2], "twice")
    size, beside = (max(map(largest, s.cotangents), default=0.0) for s in (true, bench.truth(*draw)))
    beside = max(beside, budget.whole(bench, draw))
    for k in leaves(bench):
        bench.comparisons += 1
        along, x = bench.example.constraint(k).along, draw[0].floats[k]
        a, b = along(got.cotangents[k], x), along(true.cotangents[k], x)
        gap = off(a, b)
        if gap > max(th.SECOND, th.MAGNIFIED * budget.inner_eps(bench)) * max(size, beside):
            text = f"differentiated once more, the result is off by {gap:.2g}, of {largest(b):.2g}"
            yield Breach("twice", k, gap / max(size, 1e-300), text, draw, (a, b))


def _singly(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """At zeros, ties and ends of ranges where the definition's first and second derivatives are smooth: the same to
    either side, and that is what its own second derivative there is, or should be."""
    if (DECOMPOSED | {"while"}) & bench.primitives:
        return  # whose own derivatives divide by differences of eigenvalues, or end where the values come to rest
    special = {Tag.ZERO, Tag.TIES, Tag.END}
    draws = [d for d in plan.others if d[0].tags & special and d[0].shapes == bench.example.shapes]
    for draw in sorted(draws, key=lambda d: not d[0].tags & {Tag.ZERO, Tag.END})[:POINTS]:
        try:
            right = _smooth(bench, draw)
            own = right and bench.second("own", draw, _along(bench, draw))
            if right and own and finite(own.cotangents):  # what is not is heard
                yield from _differs(bench, draw, own, right)
        except Refused:
            continue


def _smooth(bench: Bench, draw: Draw) -> Sample | None:
    """The definition's second derivative at a point; None where it, or the first one, is another on either side, or
    where the rule's own first derivative is another."""
    case, label, dy = draw
    if _otherwise(bench, draw):
        return None
    rng, sides = np.random.default_rng(6), []
    steps = [th.BESIDE * (largest(x) or 1.0) * rng.uniform(0.5, 1.0, np.shape(x)) for x in bench.example.floats]
    for sign in (1, -1):
        floats = tuple(np.asarray(x, np.float64) + sign * s for x, s in zip(case.floats, steps, strict=True))
        near = replace(case, floats=floats, label=f"beside {case.label}"), label, dy
        sides.append((bench.truth(*near), bench.second("truth", near, _along(bench, near))))
    here = bench.truth(*draw), bench.second("truth", draw, _along(bench, draw))
    smooth = _alike(here[0], *(one for one, _ in sides)) and _alike(here[1], *(two for _, two in sides))
    return here[1] if smooth else None


def _otherwise(bench: Bench, draw: Draw) -> bool:
    """Whether the rule's own first derivative is another there than the definition's."""
    return any(budget.apart(bench, draw, k).any() for k in leaves(bench))


def _alike(*samples: Sample) -> bool:
    """Whether these are finite and the same, but for what a small step changes."""
    one, *others = samples
    size = max(map(largest, one.cotangents), default=0.0)
    return all(finite(s.cotangents) for s in samples) and all(
        off(a, b) <= th.STEADY * size for other in others for a, b in zip(one.cotangents, other.cotangents, strict=True)
    )


def twice_only(bench: Bench, plan: Plan):
    if bench.memo.get("twice"):
        yield "wrong once more", None, corrupted_in("twice", bench)
