"""The kind of mistake, read from what came and what was expected. "unknown" is an answer; a wrong name is worse.

A kind is named only if it explains every sample to rounding, at all sizes that were tried. Kinds, in the order tried:
overflow, zero, sign, constant factor, factor of a size, transpose, reversal, off by one, one part only, one row in
place of the sum, the truth of something else, and then what terms.py looks for inside of the definition.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from verify import thresholds as th
from verify.diagnose import fits
from verify.diagnose.terms import Told, misread, missing
from verify.inputs.case import Leaves, Tag, is_key
from verify.laws.law import Breach
from verify.run.bench import Bench, Refused
from verify.tolerance.budget import Draw

BY_LAW = {
    "structure": "wrong dtype or tree",
    "pure": "impure",
    "eager": "impure",
    "loop": "impure",
    "leaks": "impure",
    "kernels": "race between grid points, or memory that nobody wrote",
    "linear": "not linear in the cotangent",
    "zero": "not linear in the cotangent",
    "precision": "precision loss",
    "value": "the forward differs",
    "twice": "wrong second derivative",
    "parts": "symbolic zeros",
    "settings": "setting ignored or stale",
    "runs": "raises",
    "spread": "not shared out",
}
BEHIND = ("linear", "zero", "pure", "eager", "loop", "leaks")  # laws that explain a wrong number, if nothing else does


def diagnose(breaches: list[Breach], bench: Bench, broken: set[str]) -> str:
    """The kind of mistake that explains all of these breaches of one law by one leaf, or "unknown".

    broken are the laws that this leaf breaks besides."""
    law = breaches[0].law
    if law == "precision" and _gross(breaches):
        far = any(not np.isfinite(b.size) for b in breaches) or any(
            b.shown is not None and not np.isfinite(b.shown[0]).all() for b in breaches
        )
        ordinary = all(b.draw is not None and b.draw[0].ordinary for b in breaches)
        return "overflow" if far else f"wrong in {breaches[0].dtype} only" if ordinary else "precision loss"
    if law in BY_LAW:
        return BY_LAW[law]
    seen = [b for b in breaches if b.shown is not None and b.draw is not None]
    if law == "finite" or not seen:
        return _unbounded(breaches) if law == "finite" else "unknown"
    kinds: tuple[Callable[[list[Breach]], str], ...] = (
        fits.factor, fits.transpose, fits.reversal, fits.off_by_one, _masked, fits.part, fits.row,
    )  # fmt: skip
    name = (
        _repeated(bench, seen)
        or next((name for kind in kinds if (name := kind(seen))), "")
        or _elsewhere(bench, seen)
        or _inside(bench, seen)
        or fits.term(seen)
        or fits.rounding(seen)
        or next((BY_LAW[b] for b in BEHIND if b in broken), "")
    )
    if not name and (where := _where(seen)):
        return where
    name = name or ("wrong under vmap" if law == "vmap" else "unknown")
    if law == "dense" and not any(b.draw and b.draw[0].ordinary for b in seen):
        return f"{name}, at some inputs only"
    return name


def _as_told(bench: Bench, breaches: list[Breach]) -> list[Told]:
    """What came and what was due, at a few draws of the example's shapes; nothing where that is too little to go by."""
    told = [(b.draw, *b.shown) for b in breaches if b.draw and b.shown and b.draw[0].shapes == bench.example.shapes][:4]
    finite = all(np.isfinite(v).all() for _, *shown in told for v in shown)
    return told if finite and len(told) > 1 and breaches[0].leaf is not None else []


def _elsewhere(bench: Bench, breaches: list[Breach]) -> str:
    """What came is the truth of another input, of another leaf, or of a cotangent that was changed."""
    told, own = _as_told(bench, breaches), breaches[0].leaf
    if not told or own is None:
        return ""

    def all_are(change: Callable[[Draw], Draw], leaf: int, after=lambda v: v) -> bool:
        try:
            there = (after(bench.truth(*change(draw)).cotangents[leaf]) for draw, _, _ in told)
            return all(
                fits.same(np.squeeze(o), np.squeeze(v), fits.gap((o, t)))
                for v, (_, o, t) in zip(there, told, strict=True)
            )
        except Refused:
            return False

    earlier = [case for case, label, _ in bench.memo["draws"] if label == "noise"][:4]
    others = [case for case in earlier if all(draw[0] is not case for draw, _, _ in told)]
    kept = [c for c in others if all_are(lambda d, c=c: (c, f"as if {id(d)}", d[2]), own)]
    if len(kept) == 1:  # if of several, then of none: it is their slope that is the same
        return "stale residual"
    for k, name in enumerate(bench.flat.layout.floats):
        if k != own and all_are(lambda d: d, k):
            return f"swapped with the gradient of {name}"
    for j, name, change in _changes(told[0][0][2]):

        def changed(draw: Draw, j=j, name=name, change=change) -> Draw:
            dy = tuple(change(v) if i == j else v for i, v in enumerate(draw[2]))
            return draw[0], f"{draw[1]}, {name} {j}", dy

        if all_are(changed, own):
            return f"{name} of output {j}"
        if "transpose" in name and all_are(changed, own, lambda v: np.swapaxes(v, -1, -2) if v.ndim > 1 else v):
            return f"{name} of output {j}, and of what comes of it"
    return ""


def _changes(dy: Leaves) -> Iterator[tuple[int, str, Callable[[np.ndarray], np.ndarray]]]:
    """(output, what it would be called, how its cotangent is changed)."""
    for j, d in enumerate(dy):
        if len(dy) > 1:
            yield j, "missing term: the cotangent", np.zeros_like
        for a in (a for a in range(d.ndim) if d.shape[a] > 1):
            for index in (0, -1):
                kept = np.arange(d.shape[a]) == index % d.shape[a]
                kept = kept.reshape([-1 if i == a else 1 for i in range(d.ndim)])
                where = "first" if index == 0 else "last"
                yield j, f"missing sum: the {where} along axis {a} alone", lambda v, kept=kept: v * kept
            yield j, f"reversed along axis {a}", lambda v, a=a: np.flip(v, a)
            for step in (1, -1) if d.shape[a] > 2 else ():
                yield j, f"off by one along axis {a}", lambda v, a=a, step=step: np.roll(v, step, a)
        for a, b in itertools.combinations(range(d.ndim), 2):
            if d.shape[a] == d.shape[b] > 1:
                yield j, f"transpose of axes {a} and {b}", lambda v, a=a, b=b: np.swapaxes(v, a, b)


def _inside(bench: Bench, breaches: list[Breach]) -> str:
    """What came is the truth but for one of its terms, or for the value at which one of its derivatives was taken."""
    told, leaf = _as_told(bench, breaches), breaches[0].leaf
    if not told or leaf is None or bench.oracle.slack or told[0][2].size < 3:
        return ""
    away = [(b.draw, *b.shown) for b in breaches if b.draw and b.shown and b.draw[0].shapes != bench.example.shapes]

    def factor(told: list[Told], factors: list[float]) -> str:
        seen = [next(b for b in breaches if b.draw is draw) for draw, _, _ in told]
        return fits.factor_of(np.array(factors), fits.sizes(seen)) or "another factor"

    anywhere = any(draw[0].ordinary for draw, _, _ in told)
    try:
        name = missing(bench, leaf, told, away, th.FINE, factor)
        return name or (misread(bench, leaf, told, th.FINE) if anywhere else "")
    except Refused:
        return ""


CLASSES = (
    ("only far out", Tag.OUTLYING),
    ("only at ties or zeros", Tag.TIES),
    ("only at some sizes", Tag.SIZE),
)


def _where(breaches: list[Breach]) -> str:
    """Only ever at inputs of one class."""
    tags = [b.draw[0].tags for b in breaches if b.draw]
    return next((name for name, tag in CLASSES if tags and all(tag in some for some in tags)), "")


def _masked(breaches: list[Breach]) -> str:
    """Wrong only where a mask among the arguments is false."""
    hits = 0
    for b in breaches:
        assert b.shown is not None
        assert b.draw is not None
        wrong = np.abs(b.shown[0] - b.shown[1]) > th.FINE * fits.gap(b.shown)
        masks = [np.asarray(m) for m in b.draw[0].others if not is_key(m) and np.asarray(m).dtype == bool]
        masks += [m > 0 for m in map(np.asarray, b.draw[0].floats) if m.size > 1 and np.isin(m, (0, 1)).all()]
        masks = [m for m in masks if m.ndim and wrong.shape[: m.ndim] == m.shape and not m.all()]
        if not any(not wrong[m].any() for m in masks):
            return ""
        hits += 1
    return "masked region leaks" if hits else ""


def _repeated(bench: Bench, breaches: list[Breach]) -> str:
    """Wrong where an index comes twice, and right at the example, where none does."""
    if any(b.draw and b.draw[0] is bench.example for b in breaches):
        return ""
    for i, x in enumerate(breaches[0].draw[0].others if breaches[0].draw else ()):
        if is_key(x) or not np.issubdtype(x.dtype, np.integer) or np.size(x) < 2:
            continue
        values = [np.asarray(b.draw[0].others[i]) for b in breaches if b.draw]
        if np.isin(np.concatenate([v.ravel() for v in values]), (0, 1)).all():
            continue  # a mask
        if all(len(np.unique(v)) < v.size for v in values):
            return "repeated indices"
    return ""


def _gross(breaches: list[Breach]) -> bool:
    return any(b.size > th.PLAIN for b in breaches)


def _unbounded(breaches: list[Breach]) -> str:
    cases = [b.draw[0] for b in breaches if b.draw]
    if not cases or any(case.ordinary for case in cases):
        return "unknown"
    if all(Tag.EMPTY in case.tags for case in cases):
        return "division by zero"
    if all(Tag.OUTLYING in case.tags for case in cases):
        return "overflow"
    little = all(case.tags & {Tag.ZERO, Tag.LITTLE} for case in cases)
    return "division by zero" if little and any(Tag.ZERO in case.tags for case in cases) else "unknown"
