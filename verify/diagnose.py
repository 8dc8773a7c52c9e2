"""The kind of mistake, read from what came and what was expected. "unknown" is an answer; a wrong name is worse.

A kind is named only if it explains every sample to rounding, at all sizes that were tried. Kinds, in the order tried:
overflow, zero, sign, constant factor, factor of a size, transpose, reversal, off by one, one part only, one row in
place of the sum, the truth of something else, and then what terms.py looks for inside of the definition.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from verify.bench import Bench, Refused
from verify.budget import Draw, largest
from verify.example import Leaves, Tag, is_key
from verify.law import Breach
from verify.terms import Told, misread, missing

FINE = 1e-3  # how much of what is wrong a kind may leave unexplained
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
}
BEHIND = ("linear", "zero", "pure", "eager", "loop", "leaks")  # laws that explain a wrong number, if nothing else does

Pair = tuple[np.ndarray, np.ndarray]


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
        _factor, _transpose, _reversal, _off_by_one, _masked, _part, _row,
    )  # fmt: skip
    name = (
        _repeated(bench, seen)
        or next((name for kind in kinds if (name := kind(seen))), "")
        or _elsewhere(bench, seen)
        or _inside(bench, seen)
        or _term(seen)
        or _rounding(seen)
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
                _same(np.squeeze(o), np.squeeze(v), _gap((o, t))) for v, (_, o, t) in zip(there, told, strict=True)
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
        return _factor_of(np.array(factors), _sizes(seen)) or "another factor"

    anywhere = any(draw[0].ordinary for draw, _, _ in told)
    try:
        name = missing(bench, leaf, told, away, FINE, factor)
        return name or (misread(bench, leaf, told, FINE) if anywhere else "")
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
        wrong = np.abs(b.shown[0] - b.shown[1]) > FINE * _gap(b.shown)
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
    return any(b.size > 0.2 for b in breaches)


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


def _arrays(breaches: list[Breach]) -> list[Pair]:
    """(ours, truth) of each breach, scaled to the truth's largest element, where there is something to see."""
    found = []
    for b in breaches:
        assert b.shown is not None
        ours, truth = b.shown
        size = largest(truth) or largest(ours)
        if size and np.isfinite(ours).all() and np.isfinite(truth).all():
            found.append((ours / size, truth / size))
    return found


def _same(a: np.ndarray, b: np.ndarray, gap: float) -> bool:
    """Whether a and b differ by next to nothing of `gap`, which is how wrong the sample is."""
    return a.shape == b.shape and largest(a - b) <= FINE * gap + 1e-13


def _gap(pair: Pair) -> float:
    return largest(pair[0] - pair[1])


def _fits(breaches: list[Breach], change: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether ours = change(truth) in every sample, and change is not the identity in some."""
    pairs = _arrays(breaches)
    return bool(pairs) and all(_same(o, change(t), _gap((o, t))) for o, t in pairs)


def _factor(breaches: list[Breach]) -> str:
    factors = []
    for ours, truth in _arrays(breaches):
        total = float((truth * truth).sum())
        c = float((ours * truth).sum()) / total if total else np.nan
        if not total or not _same(ours, c * truth, _gap((ours, truth))):
            return ""
        factors.append(c)
    if not factors:
        return ""
    cs = np.array(factors)
    if np.all(np.abs(cs) < 1e-6):
        return "zero"
    if len(cs) < 2 and all(truth.size < 2 for _, truth in _arrays(breaches)):
        return ""  # any number is a multiple of any other
    return _factor_of(cs, _sizes(breaches))


def _factor_of(cs: np.ndarray, sizes: list[dict[str, int]]) -> str:
    """What the numbers cs are, one for each sample, of which sizes are the axes."""
    constant = np.ptp(cs) <= 1e-6 * np.abs(cs).max() and np.ptp(cs) <= 0.01 * np.abs(cs - 1).max()
    if constant and abs(cs[0] + 1) < 1e-6:
        return "sign"
    if constant and (len({tuple(s.items()) for s in sizes}) > 1 or not sizes):
        return f"constant factor {cs[0]:.10g}"
    for name, value in _products(sizes) if len(sizes) == len(cs) else ():
        if np.allclose(cs, value, rtol=1e-6):
            # one size alone cannot tell a number from a size, unless the number is an odd one
            return f"constant factor {cs[0]:.10g}" if constant and cs[0] in (0.5, 2.0) else f"factor of a size: {name}"
    return f"constant factor {cs[0]:.10g}" if constant else ""


def _sizes(breaches: list[Breach]) -> list[dict[str, int]]:
    found = []
    for b in breaches:
        assert b.draw is not None
        assert b.shown is not None
        if not (largest(b.shown[1]) or largest(b.shown[0])):
            continue
        case, _, dy = b.draw
        leaves = {f"leaf {i}": np.shape(x) for i, x in enumerate(case.floats)} | {
            f"output {i}": np.shape(d) for i, d in enumerate(dy)
        }
        found.append({f"{name}.shape[{a}]": n for name, shape in leaves.items() for a, n in enumerate(shape)})
    return found


def _products(sizes: list[dict[str, int]]) -> Iterator[tuple[str, np.ndarray]]:
    if not sizes or any(s.keys() != sizes[0].keys() for s in sizes):
        return
    columns = {name: np.array([s[name] for s in sizes], float) for name in sizes[0]}
    for name, n in columns.items():
        if (n > 1).any():
            yield name, n
            yield f"1 / {name}", 1 / n
            yield f"√{name}", np.sqrt(n)
            yield f"1 / √{name}", 1 / np.sqrt(n)
            yield f"({name} - 1) / {name}", (n - 1) / n
            yield f"{name} / ({name} - 1)", n / np.maximum(n - 1, 1)
    for (a, n), (b, m) in itertools.permutations(columns.items(), 2):
        if (n > 1).any() and (m > 1).any():
            yield f"{a} / {b}", n / m
            yield f"{a} · {b}", n * m
            yield f"1 / ({a} · {b})", 1 / (n * m)


def _axes(breaches: list[Breach]) -> range:
    assert breaches[0].shown is not None
    return range(breaches[0].shown[0].ndim)


def _transpose(breaches: list[Breach]) -> str:
    for a, b in itertools.combinations(_axes(breaches), 2):
        if _fits(breaches, lambda t, a=a, b=b: np.swapaxes(t, a, b)):
            return f"transpose of axes {a} and {b}"
    return ""


def _reversal(breaches: list[Breach]) -> str:
    for a in _axes(breaches):
        if _fits(breaches, lambda t, a=a: np.flip(t, a)):
            return f"reversed along axis {a}"
        even = all(o.shape[a] % 2 == 0 and o.shape[a] > 2 for o, _ in _arrays(breaches) if o.ndim > a)
        if even and _fits(breaches, lambda t, a=a: np.roll(t, t.shape[a] // 2, a)):
            return f"halves exchanged along axis {a}"
    return ""


def _off_by_one(breaches: list[Breach]) -> str:
    """A shift by one along an axis, whatever fills the gap."""
    pairs = _arrays(breaches)
    for a, step in itertools.product(_axes(breaches), (1, -1)):
        hits = 0
        for ours, truth in pairs:
            o, t = np.moveaxis(ours, a, 0), np.moveaxis(truth, a, 0)
            if len(o) < 3:
                continue
            left, right = (o[1:], t[:-1]) if step > 0 else (o[:-1], t[1:])
            if not _same(left, right, largest(o - t)):
                break
            hits += 1
        else:
            if hits and largest(pairs[0][0]) > 1e-6:
                return f"off by one along axis {a}"
    return ""


def _part(breaches: list[Breach]) -> str:
    """Always the same few elements are wrong, one, the first or last along an axis, or all from some index on; and how,
    where a sign or a zero is all that is wrong with them."""
    pairs = [(o, t) for o, t in _arrays(breaches) if o.size > 2 and min(o.shape) > 1]  # of one, the part is the whole
    masks = [np.abs(o - t) > FINE * _gap((o, t)) for o, t in pairs]
    if not masks:
        return ""
    for shape in {m.shape for m in masks}:
        alike = [m for m in masks if m.shape == shape]
        wrong = np.any(alike, axis=0)
        if wrong.mean() > 0.5:
            return ""
        if wrong.sum() == 1 and len(alike) > 1:
            return f"one element {[int(i[0]) for i in np.nonzero(wrong)]}"
    where = _place(masks, _axes(breaches))
    for c, kind in ((-1.0, "sign"), (0.0, "zero")):
        if where and all(_same(o[m], c * t[m], _gap((o, t))) for (o, t), m in zip(pairs, masks, strict=True)):
            return f"{kind}, {where}"
    return where


def _place(masks: list[np.ndarray], axes: range) -> str:
    for a in axes:
        along = [np.nonzero(m.any(tuple(i for i in range(m.ndim) if i != a)))[0] for m in masks]
        lengths = [m.shape[a] for m in masks]
        if all(len(w) == 1 and w[0] == n - 1 and n > 1 for w, n in zip(along, lengths, strict=True)):
            return f"last along axis {a} only"
        if all(len(w) == 1 and w[0] == 0 and n > 1 for w, n in zip(along, lengths, strict=True)):
            return f"first along axis {a} only"
        if all(len(w) and w[-1] == n - 1 and w[0] > n // 2 for w, n in zip(along, lengths, strict=True)):
            return f"last block along axis {a}, from index {min(int(w[0]) for w in along)}"
    return ""


def _row(breaches: list[Breach]) -> str:
    """One row of the cotangent came where their sum was due."""
    for index in (0, -1):
        hits = []
        for b in breaches:
            assert b.shown is not None
            assert b.draw is not None
            ours, _ = b.shown
            several = [d for d in b.draw[2] if d.shape[d.ndim - ours.ndim :] == ours.shape and d.size > ours.size]
            rows = [d.reshape(-1, *ours.shape)[index] for d in several]
            gap = largest(ours - b.shown[1])
            if not any(_same(ours, r, gap) for r in rows if r.size):
                break
            hits.append(b)
        else:
            if hits:
                return f"missing sum: the {'first' if index == 0 else 'last'} row in its place"
    return ""


def _term(breaches: list[Breach]) -> str:
    """What is missing is the same all along an axis: the mean, or a sum, that should have been taken off."""
    pairs = [(o, t) for o, t in _arrays([b for b in breaches if b.draw and b.draw[0].ordinary]) if o.ndim]
    for a in _axes(breaches):
        long = [(o - t) for o, t in pairs if o.shape[a] > 2]
        if len(long) > 1 and all(_same(d, 0 * d + d.mean(a, keepdims=True), largest(d)) for d in long):
            return f"missing term, the same along axis {a}"
    return ""


def _rounding(breaches: list[Breach]) -> str:
    """Errors of the size of float32's or bfloat16's rounding, in elements all over, with both signs."""
    gaps = [np.abs(o - t) for o, t in _arrays(breaches)]
    if not gaps:  # what broke the law left no two arrays to compare
        return ""
    signs = np.concatenate([np.sign(o - t).ravel() for o, t in _arrays(breaches)])
    worst = max(map(largest, gaps))
    mixed = signs.size > 8 and abs(signs.mean()) < 0.5
    if mixed and 1e-9 < worst < 2e-6:
        return "precision loss: about float32"
    return ""
