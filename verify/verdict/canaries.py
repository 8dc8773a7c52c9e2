"""Whether an audit could have failed: each law is shown wrong backwards made from the subject's own, to reject."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from verify import thresholds as th
from verify.laws.law import ESTIMATED, Law, Plan, blind_leaf, leaves
from verify.report.report import Canary
from verify.run.bench import Bench, Refused
from verify.tolerance import budget


def canaries(bench: Bench, plan: Plan, laws: Iterable[Law], broken: set[str]) -> Iterable[Canary]:
    """Each law against its wrong backwards. A law that the subject itself breaks has shown that it bites."""
    estimates = bench.flat.subject.estimator and "dense" in broken  # its gradient is another, and meant to be
    for law in laws:
        if law.name in broken or (estimates and law.name in ESTIMATED):
            continue
        for name, leaf, corrupt in law.canaries(bench, plan):
            where = bench.flat.layout.floats[leaf] if leaf is not None else ""
            fate = _fate(bench, plan, law, leaf, corrupt)
            yield Canary(law.name, name, where, fate, _needed(law.name, where) if fate == "survived" else "")


def _fate(bench: Bench, plan: Plan, law: Law, leaf: int | None, corrupt: Any) -> str:
    corrupted = bench.corrupted(corrupt)
    try:
        if any(not breach.note for breach in law.check(corrupted, plan)):
            return "killed"
    except Refused:
        return "survived"
    if leaf is None:  # where no gradient is more than rounding, a factor in all of them changes nothing
        return "equivalent" if all(blind_leaf(bench, plan, k) for k in leaves(bench)) else "survived"
    return "equivalent" if _same(bench, plan, leaf, corrupt) else "survived"


def _same(bench: Bench, plan: Plan, leaf: int, corrupt: Any) -> bool:
    """Whether the canary changes nothing: one element cannot be shifted, a leaf without a gradient not scaled."""
    if blind_leaf(bench, plan, leaf):
        return True
    for draw in plan.all:
        try:
            ours = bench.pull(*draw)
        except Refused:
            continue
        there, here = corrupt(ours, draw[2], "jit", 0).cotangents[leaf], ours.cotangents[leaf]
        if not np.allclose(there, here, rtol=th.SAME, atol=th.TIGHT * budget.largest(here), equal_nan=True):
            return False
    return True


NEEDED = {
    "dense": "an input at which this leaf's gradient is larger than the rounding allowed, handed in as captured=",
    "precision": "an input at which the definition itself loses less than this in low precision",
    "eager": "an example in float32, where less is lost to rounding",
    "finite": "an example whose definition stays finite at large and small values",
    "adjoint": "an example whose terms do not cancel",
}


def _needed(law: str, where: str) -> str:
    """The input with which this canary would have been caught."""
    return NEEDED.get(law, f"an example at which the {law} law has something to compare") + (where and f" ({where})")
