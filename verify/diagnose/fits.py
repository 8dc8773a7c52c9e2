"""What change of the truth gives the numbers that came: a factor, a transpose, a part."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from verify import thresholds as th
from verify.laws.law import Breach
from verify.tolerance.budget import largest

Pair = tuple[np.ndarray, np.ndarray]


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


def same(a: np.ndarray, b: np.ndarray, gap: float) -> bool:
    """Whether a and b differ by next to nothing of `gap`, which is how wrong the sample is."""
    return a.shape == b.shape and largest(a - b) <= th.FINE * gap + th.ZERO


def gap(pair: Pair) -> float:
    return largest(pair[0] - pair[1])


def _fits(breaches: list[Breach], change: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether ours = change(truth) in every sample, and change is not the identity in some."""
    pairs = _arrays(breaches)
    return bool(pairs) and all(same(o, change(t), gap((o, t))) for o, t in pairs)


def factor(breaches: list[Breach]) -> str:
    factors = []
    for ours, truth in _arrays(breaches):
        total = float((truth * truth).sum())
        c = float((ours * truth).sum()) / total if total else np.nan
        if not total or not same(ours, c * truth, gap((ours, truth))):
            return ""
        factors.append(c)
    if not factors:
        return ""
    cs = np.array(factors)
    if np.all(np.abs(cs) < th.OTHER):
        return "zero"
    if len(cs) < 2 and all(truth.size < 2 for _, truth in _arrays(breaches)):
        return ""  # any number is a multiple of any other
    return factor_of(cs, sizes(breaches))


def factor_of(cs: np.ndarray, sizes: list[dict[str, int]]) -> str:
    """What the numbers cs are, one for each sample, of which sizes are the axes."""
    constant = np.ptp(cs) <= th.OTHER * np.abs(cs).max() and np.ptp(cs) <= th.KEPT * np.abs(cs - 1).max()
    if constant and abs(cs[0] + 1) < th.OTHER:
        return "sign"
    if constant and (len({tuple(s.items()) for s in sizes}) > 1 or not sizes):
        return f"constant factor {cs[0]:.10g}"
    for name, value in _products(sizes) if len(sizes) == len(cs) else ():
        if np.allclose(cs, value, rtol=1e-6):
            # one size alone cannot tell a number from a size, unless the number is an odd one
            return f"constant factor {cs[0]:.10g}" if constant and cs[0] in (0.5, 2.0) else f"factor of a size: {name}"
    return f"constant factor {cs[0]:.10g}" if constant else ""


def sizes(breaches: list[Breach]) -> list[dict[str, int]]:
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
    """The axes that all samples have: they may be of several ranks."""
    return range(min((b.shown[1].ndim for b in breaches if b.shown is not None), default=0))


def transpose(breaches: list[Breach]) -> str:
    for a, b in itertools.combinations(_axes(breaches), 2):
        if _fits(breaches, lambda t, a=a, b=b: np.swapaxes(t, a, b)):
            return f"transpose of axes {a} and {b}"
    return ""


def reversal(breaches: list[Breach]) -> str:
    for a in _axes(breaches):
        if _fits(breaches, lambda t, a=a: np.flip(t, a)):
            return f"reversed along axis {a}"
        even = all(o.shape[a] % 2 == 0 and o.shape[a] > 2 for o, _ in _arrays(breaches) if o.ndim > a)
        if even and _fits(breaches, lambda t, a=a: np.roll(t, t.shape[a] // 2, a)):
            return f"halves exchanged along axis {a}"
    return ""


def off_by_one(breaches: list[Breach]) -> str:
    """A shift by one along an axis, whatever fills the gap."""
    pairs = _arrays(breaches)
    for a, step in itertools.product(_axes(breaches), (1, -1)):
        hits = 0
        for ours, truth in pairs:
            o, t = np.moveaxis(ours, a, 0), np.moveaxis(truth, a, 0)
            if len(o) < 3:
                continue
            left, right = (o[1:], t[:-1]) if step > 0 else (o[:-1], t[1:])
            if not same(left, right, largest(o - t)):
                break
            hits += 1
        else:
            if hits and largest(pairs[0][0]) > th.OTHER:
                return f"off by one along axis {a}"
    return ""


def part(breaches: list[Breach]) -> str:
    """Always the same few elements are wrong, one, the first or last along an axis, or all from some index on; and how,
    where a sign or a zero is all that is wrong with them."""
    pairs = [(o, t) for o, t in _arrays(breaches) if o.size > 2 and min(o.shape) > 1]  # of one, the part is the whole
    masks = [np.abs(o - t) > th.FINE * gap((o, t)) for o, t in pairs]
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
        if where and all(same(o[m], c * t[m], gap((o, t))) for (o, t), m in zip(pairs, masks, strict=True)):
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


def row(breaches: list[Breach]) -> str:
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
            if not any(same(ours, r, gap) for r in rows if r.size):
                break
            hits.append(b)
        else:
            if hits:
                return f"missing sum: the {'first' if index == 0 else 'last'} row in its place"
    return ""


def term(breaches: list[Breach]) -> str:
    """What is missing is the same all along an axis: the mean, or a sum, that should have been taken off."""
    pairs = [(o, t) for o, t in _arrays([b for b in breaches if b.draw and b.draw[0].ordinary]) if o.ndim]
    for a in _axes(breaches):
        long = [(o - t) for o, t in pairs if o.shape[a] > 2]
        if len(long) > 1 and all(same(d, 0 * d + d.mean(a, keepdims=True), largest(d)) for d in long):
            return f"missing term, the same along axis {a}"
    return ""


def rounding(breaches: list[Breach]) -> str:
    """Errors of the size of float32's or bfloat16's rounding, in elements all over, with both signs."""
    gaps = [np.abs(o - t) for o, t in _arrays(breaches)]
    if not gaps:  # what broke the law left no two arrays to compare
        return ""
    signs = np.concatenate([np.sign(o - t).ravel() for o, t in _arrays(breaches)])
    worst = max(map(largest, gaps))
    mixed = signs.size > 8 and abs(signs.mean()) < 0.5
    if mixed and th.FLOAT32[0] < worst < th.FLOAT32[1]:
        return "precision loss: about float32"
    return ""
