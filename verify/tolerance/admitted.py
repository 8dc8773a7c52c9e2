"""Inputs that count only where the definition takes them: minus infinity, NaN that is not read, small integers.

Minus infinity says that something cannot be: a class, a key, a state. What is left out, padded steps or rows whose
label is ignored, may hold anything, NaN too. And labels come in whatever integer dtype holds them. Nobody promises any
of it; but a definition that stays finite there, or does not change, means it, and then its rule has to follow.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from verify.inputs.case import Case, is_key
from verify.run.bench import Bench, Refused, Sample, finite
from verify.tolerance.budget import Draw

FEW = 6  # leaves to try


def admitted(bench: Bench, ordinary: list[Draw], sized: list[Draw], leaves: list[int]) -> Iterator[Draw]:
    """The draws at such inputs: of the ordinary ones; for small integers, of one with more places than they count."""
    if not ordinary:
        return
    ours = bench.flat.subject.kind == "layer"  # a function promises what its example shows, or its definition asks for
    open_ = [k for k in leaves if ours or np.isinf(list(bench.asked.get(k, ()))).any()]
    impossible = _impossible(bench, ordinary[0], open_[:FEW])
    for case, label, dy in (*impossible, *_unread(bench, ordinary, leaves[:FEW])):
        found = _truth(bench, (case, label, dy))
        if found is not None and finite(found.y) and finite(found.cotangents):
            yield case, label, dy
    for draw in [draw for draw in sized if ours and _beyond_a_byte(draw[0])][:1]:
        yield from _small_integers(bench, draw)


def _truth(bench: Bench, draw: Draw) -> Sample | None:
    try:
        return bench.truth(*draw)
    except Refused:
        return None


def _impossible(bench: Bench, draw: Draw, leaves: list[int]) -> Iterator[Draw]:
    """Minus infinity at the end of every other row of one leaf."""
    case, label, dy = draw
    for k in leaves:
        x = np.array(case.floats[k], copy=True)
        if x.ndim == 0 or x.shape[-1] < 2:
            continue
        x.reshape(-1, x.shape[-1])[::2, -1] = -np.inf
        yield _with(case, f"minus infinity in {bench.flat.layout.floats[k]}", {k: x}), label, dy


def _unread(bench: Bench, draws: list[Draw], leaves: list[int]) -> Iterator[Draw]:
    """NaN in the rows of a leaf of which the gradient is zero whatever comes from above: masked, padded, ignored."""
    case, label, dy = draws[0]
    found = [sample for d in draws if d[0] is case and (sample := _truth(bench, d)) is not None]
    for k in leaves:
        x = case.floats[k]
        if not found or x.ndim == 0 or x.size < 2:
            continue
        moved = np.sum([np.abs(sample.cotangents[k]) for sample in found], axis=0)
        rows = np.broadcast_to(moved.sum(-1, keepdims=True) == 0, x.shape) if x.ndim > 1 else moved == 0
        if not rows.any() or rows.all():
            continue
        name = bench.flat.layout.floats[k]
        other = 100 * np.sin(1.0 + np.arange(x.size).reshape(x.shape))  # no kink's flat side: of both signs, and large
        same = (_truth(bench, (_with(case, name, {k: np.where(rows, v, x)}), label, dy)) for v in (other, -other))
        if all(s is not None and all(map(np.array_equal, s.y, found[0].y)) for s in same):
            hole = np.where(rows, np.nan, x).astype(x.dtype)
            yield _with(case, f"NaN in {name} where nothing is read", {k: hole}), label, dy


def _beyond_a_byte(case: Case) -> bool:
    """Whether a float leaf has an axis longer than a byte counts, that no integers run along."""
    along = {n for x in case.others for n in np.shape(x)}
    return any(n > 255 and n not in along for x in case.floats for n in np.shape(x))


def _small_integers(bench: Bench, draw: Draw) -> Iterator[Draw]:
    """The integers in the smallest dtype that holds them, where that changes nothing of the definition."""
    case, label, dy = draw
    others = tuple(_smallest(x) for x in case.others)
    if all(a is b for a, b in zip(others, case.others, strict=True)):
        return
    small = replace(case, label=f"{case.label}, small integers", others=others), label, dy
    one, other = _truth(bench, draw), _truth(bench, small)
    pairs = zip((*one.y, *one.cotangents), (*other.y, *other.cotangents), strict=True) if one and other else ()
    if one and other and finite(one.cotangents) and all(np.array_equal(a, b) for a, b in pairs):
        yield small


def _smallest(x: np.ndarray) -> np.ndarray:
    if is_key(x) or x.dtype.kind not in "iu" or not x.size or x.dtype == np.uint32:  # which may be a key's bits
        return x
    for dtype in (np.uint8, np.int8, np.int16):
        if x.min() >= np.iinfo(dtype).min and x.max() <= np.iinfo(dtype).max:
            return x.astype(dtype)
    return x


def _with(case: Case, label: str, changed: dict[int, np.ndarray]) -> Case:
    floats = tuple(changed.get(k, x) for k, x in enumerate(case.floats))
    return replace(case, label=label, floats=floats)
