"""Values and cotangents that a thoughtful adversary would try, made from one ordinary example."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from verify.inputs.case import (
    Case,
    Leaves,
    Tag,
    fixed,
    held,
    is_key,
    known,
    ordinary,
    permutation,
    pointers,
    rising,
    single,
    stored,
)
from verify.subject.contract import Constraint


def _top(example: Case, x: np.ndarray, into: set[int], counts: tuple[int, ...]) -> int:
    """The largest integer to try in place of x's: the last place of the axis into which it points, or if that is not
    known, of one into which it may; if one of the function's settings may count what it chooses from, the last of
    these; no more if x may hold lengths."""
    sizes = {n for leaf in example.floats for n in np.shape(leaf)}
    high, least = int(x.max()), min(into, default=0)
    if least in {*sizes, *counts} and least > high:
        return least - 1
    rows = {n for y in example.arrays if y.shape[: x.ndim] == x.shape for n in y.shape[x.ndim :]}
    more = () if high in sizes | rows else (n - 1 for n in (*sizes, *counts) if n > high)
    last = min(more, default=high)
    return max(high, min(last, least - 1)) if into else last


def _set(x, index, value):
    if x.ndim and x.shape[0]:
        x = x.copy()
        x[index] = value
    return x


def _only(x, index):
    """Zero along the last axis, but for one place: a vector that points along an axis, or has lost a part."""
    y = np.zeros(x.shape)
    if x.ndim and x.shape[-1]:
        y[..., index] = x[..., index]
    return y


def _one_hot(x, rng):
    y = np.zeros(x.shape)
    if x.size:
        y.flat[rng.integers(x.size)] = 1.0
    return y


def _row_sizes(x: np.ndarray) -> np.ndarray:
    size = np.abs(x).max(axis=-1, initial=0, keepdims=True) if x.ndim else np.abs(x)
    return np.where(size, size, 1.0)


@dataclass(frozen=True)
class Generator:
    """One way to change an array, and what the changed one assumes beyond the example. `alone`: also one leaf at a
    time, the others ordinary. What is extreme is for one leaf at a time only."""

    name: str
    make: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    tags: frozenset[Tag] = frozenset()
    alone: bool = False


def _row(name: str, make: Callable, *tags: Tag, alone: bool = False) -> Generator:
    return Generator(name, make, frozenset(tags), alone)


_FAR = Tag.OUTLYING, Tag.EXTREME, Tag.FAR
_HUGE = Tag.OUTLYING, Tag.EXTREME, Tag.HUGE
GENERATORS = (
    _row("zeros", lambda x, r: np.zeros(x.shape), Tag.TIES, Tag.ZERO, alone=True),
    _row("constant", lambda x, r: np.full(x.shape, x.flat[0] if x.size else 0.0), Tag.TIES, alone=True),
    _row(
        "ties", lambda x, r: np.asarray(r.integers(-1, 2, size=x.shape), np.float64), Tag.TIES, Tag.LITTLE, alone=True
    ),
    _row(
        "equal rows",
        lambda x, r: np.broadcast_to(x[:1], x.shape).copy() if x.ndim and x.shape[0] else x,
        Tag.TIES,
        alone=True,
    ),
    _row(
        "constant rows", lambda x, r: np.broadcast_to(x[..., :1], x.shape).copy() if x.ndim and x.size else x, Tag.TIES
    ),
    _row("first row zero", lambda x, r: _set(x, 0, 0.0), Tag.TIES, Tag.ZERO),
    _row("last row zero", lambda x, r: _set(x, -1, 0.0), Tag.TIES, Tag.ZERO),
    _row("first alone", lambda x, r: _only(x, 0), Tag.TIES, Tag.ZERO),
    _row("last alone", lambda x, r: _only(x, -1), Tag.TIES, Tag.ZERO),
    _row(
        "grid",
        lambda x, r: r.permutation(np.linspace(-9, 9, x.size) + 0.1).reshape(x.shape) if x.size else x,
        Tag.OUTLYING,
        alone=True,
    ),
    _row("x3", lambda x, r: 3 * x, Tag.OUTLYING),
    _row("x30", lambda x, r: 30 * x, Tag.OUTLYING, Tag.EXTREME),
    _row(
        "one large",
        lambda x, r: x + 50 * np.abs(x).max(initial=0) * _one_hot(x, r),
        Tag.OUTLYING,
        Tag.EXTREME,
    ),
    _row("to 300", lambda x, r: x * (300 / _row_sizes(x)), *_FAR, Tag.SQUARED),
    _row("x1e3", lambda x, r: 1e3 * x, *_FAR),
    _row("x1e4", lambda x, r: 1e4 * x, *_FAR),
    _row("offset 1e3", lambda x, r: x + 1e3, *_FAR),
    _row("offset 1e4", lambda x, r: x + 1e4, *_FAR),
    _row("huge range", lambda x, r: x * 10 ** r.uniform(-5, 5, size=x.shape), *_FAR),
    _row("x1e-4", lambda x, r: 1e-4 * x),
    _row("integers", lambda x, r: np.rint(3 * x), Tag.TIES, Tag.LITTLE),
    _row("one-hot", lambda x, r: _one_hot(x, r), Tag.TIES, Tag.LITTLE),
    _row("signs", lambda x, r: np.sign(x), Tag.TIES),
    _row("negative", lambda x, r: -np.abs(x)),
    _row("positive", lambda x, r: np.abs(x)),
    _row("sorted", lambda x, r: np.sort(x, axis=-1) if x.ndim else x),
    _row("signed zeros", lambda x, r: np.where(r.random(x.shape) < 0.5, np.copysign(0.0, x), x), Tag.TIES, Tag.ZERO),
    _row("tiny", lambda x, r: 1e-30 * x, Tag.TINY, Tag.LITTLE),
    _row("large", lambda x, r: 1e18 * x, *_HUGE),
    _row("denormal", lambda x, r: 1e-40 * x, Tag.TINY, Tag.LITTLE),
    _row("near overflow", lambda x, r: 1e30 * x, *_HUGE),
)


def values(
    example: Case,
    rng: np.random.Generator,
    inputs: tuple[int, ...],
    pointers: Mapping[int, set[int]] = MappingProxyType({}),
    counts: tuple[int, ...] = (),
    asks: Mapping[int, set[float]] = MappingProxyType({}),
) -> Iterator[Case]:
    """The example with every leaf changed in one way, then one of `inputs` at a time, then the integers and booleans.
    Integers that are compared, and are none of the `pointers` into an axis, are also tried below zero and at its size.
    With `pointers` goes how many places their axes have, where it is known. `counts` are the function's own settings
    that are integers; `asks` are the numbers for which the definition asks of a leaf.

    Extremes are for one leaf at a time: a product of three leaves, each a thousand times too large, is no input.
    """
    several = len(example.floats) > 1
    for row in GENERATORS:
        if not several or Tag.EXTREME not in row.tags:
            base = ordinary(example, rng, row.name)
            floats = tuple(_changed(row.make, rng, example, i, x) for i, x in enumerate(base.floats))
            yield replace(base, floats=floats, ordinary=False, tags=row.tags)
    alone = [row for row in GENERATORS if row.alone or Tag.EXTREME in row.tags]
    for i, row in itertools.product(inputs if several else (), alone):
        base = ordinary(example, rng, f"{row.name} in leaf {i}")
        yield in_leaf(base, i, _changed(row.make, rng, example, i, base.floats[i]), row.tags)
    shapes = Counter(np.shape(x) for x in example.floats if np.size(x))
    largest = max((shape for shape, n in shapes.items() if n > 1), key=math.prod, default=None)
    if largest is not None:
        alike = [i for i, x in enumerate(example.floats) if np.shape(x) == largest]
        base = ordinary(example, rng, "equal arguments")  # and the same array, where the subject can tell
        one = base.floats[alike[0]]
        if all(np.array_equal(example.constraint(i).keep(np.asarray(one)), one) for i in alike):
            floats = tuple(one if i in alike else x for i, x in enumerate(base.floats))  # one array in several places
            yield replace(base, floats=floats, ordinary=False, tags=frozenset({Tag.TIES}))
    knots = [i for i, x in enumerate(example.floats) if np.ndim(x) == 1 and example.constraint(i).rising is not None]
    for j, i in itertools.product(knots[:1], inputs):
        domain = example.constraint(i)
        if np.ndim(example.floats[i]) and domain.shapeless:
            base = ordinary(example, rng, f"at leaf {j} in leaf {i}")
            yield in_leaf(base, i, domain.keep(rng.choice(base.floats[j], np.shape(example.floats[i]))))
    signed = [i for i, x in enumerate(example.floats) if np.size(x) and example.constraint(i).signed]
    most = max((np.size(x) for x in example.floats), default=0)
    for some in dict.fromkeys((tuple(signed), *((i,) for i in signed[:2]))):
        few = any(np.size(example.floats[i]) < most for i in some)
        where = "" if some == tuple(signed) else f" in leaf {some[0]}"
        base = ordinary(example, rng, f"below zero{where}")
        turned = tuple(-x if i in some else x for i, x in enumerate(base.floats))
        yield replace(base, floats=turned, ordinary=False, tags=frozenset({Tag.BELOW} if few else ()))
    for i in inputs:
        for c in _ends(np.asarray(example.floats[i]), example.constraint(i), asks.get(i, set())):
            base = ordinary(example, rng, f"both sides of {c:g} in leaf {i}")
            yield in_leaf(base, i, _turned(base.floats[i], c, rng), frozenset({Tag.OUTLYING}))
        for c in _within(np.asarray(example.floats[i]), example.constraint(i), asks.get(i, set())):
            base = ordinary(example, rng, f"{c:g} in leaf {i}")
            half = rng.random(np.shape(base.floats[i])) < 0.5  # a half of it, or a number that is alone
            yield in_leaf(base, i, single(np.where(half | (half.size < 2), c, base.floats[i])), frozenset({Tag.END}))
    for i, x in enumerate(example.others):
        if domain := example.declared(i):
            for name, changed in domain.corners(np.shape(x), example.size):
                base = ordinary(example, rng, f"{name} in {i}")
                others = (*base.others[:i], changed.astype(x.dtype), *base.others[i + 1 :])
                yield replace(base, others=others, ordinary=False, tags=frozenset(), leaf=len(example.floats) + i)
            continue
        if i in example.shares:
            for name, changed in _shares(np.asarray(x)):
                base = ordinary(example, rng, f"{name} in {i}")
                others = (*base.others[:i], changed, *base.others[i + 1 :])
                yield replace(base, others=others, ordinary=False, tags=frozenset(), leaf=len(example.floats) + i)
            continue
        into = pointers.get(i)
        special = _special(example, x, asks.get(len(example.floats) + i, set()))
        for name, changed, *tags in (*_other_values(example, x, into, counts), *_beyond(example, x, into), *special):
            base = ordinary(example, rng, f"{name} in {i}")
            others = (*base.others[:i], changed, *base.others[i + 1 :])
            yield replace(base, others=others, ordinary=False, tags=frozenset(tags), leaf=len(example.floats) + i)
        for j in _scores(example, x):
            base = ordinary(example, rng, f"most likely in {i}")
            scores = base.floats[j].copy()
            likely = np.argmax(scores[..., : int(np.max(x)) + 1], -1)
            first = np.expand_dims(likely, -1)
            rest = np.where(np.arange(scores.shape[-1]) == first, -np.inf, scores)
            np.put_along_axis(scores, first, np.logaddexp.reduce(rest, -1, keepdims=True) + 7.5, -1)
            others = (*base.others[:i], likely.astype(x.dtype), *base.others[i + 1 :])
            yield replace(in_leaf(base, j, single(scores)), others=others, constraints=())


def holes(example: Case, rng: np.random.Generator, inputs: tuple[int, ...]) -> Iterator[Case]:
    """NaN for about half of the numbers of one of `inputs`, for definitions that ask what is a number."""
    for i in inputs:
        if example.constraint(i).rising is not None:
            continue  # what is not a number is neither above nor below
        base = ordinary(example, rng, f"NaN in leaf {i}")
        x = np.where(rng.random(np.shape(base.floats[i])) < 0.5, np.nan, base.floats[i])
        yield in_leaf(base, i, single(x))


def in_leaf(case: Case, i: int, x: np.ndarray, tags: frozenset[Tag] = frozenset()) -> Case:
    """The case with x for float leaf i."""
    floats = (*case.floats[:i], x, *case.floats[i + 1 :])
    return replace(case, floats=floats, ordinary=False, tags=tags, leaf=i)


def _changed(change, rng, example, i, x):
    """Leaf i of an ordinary draw, changed and brought back to where the example lives."""
    x, domain = np.where(np.isfinite(x), x, 0.0), example.constraint(i)
    return stored(held(example.floats[i], domain.keep(change(np.asarray(x, np.float64), rng))), domain)


def _beyond(example: Case, x: Any, into: set[int] | None) -> Iterator[tuple[Any, ...]]:
    """Lengths that fill an axis, a label that stands for none; pointers that count from the end, or are not sorted."""
    if is_key(x) or x.dtype == np.uint32 or not np.issubdtype(x.dtype, np.integer) or not np.size(x):
        return
    x = np.asarray(x)
    sizes = sorted({n for leaf in example.floats for n in np.shape(leaf) if n > x.max()})
    below = _set(x.ravel(), 0, -1).reshape(x.shape)
    if into is not None:
        if rising(x) and not fixed(x) and not pointers(example, x):
            yield "not sorted", x[::-1], Tag.UNSORTED
        if x.min() >= 0 and not fixed(x) and not pointers(example, x):
            yield "a negative one", below, Tag.NEGATIVE
            if into and max(into) > x.max():
                yield "one past the end", _set(x.ravel(), 0, max(into)).reshape(x.shape), Tag.PAST
        return
    if sizes:
        yield "all full", np.full_like(x, sizes[0]), Tag.BEYOND
    if x.size > 1 and x.min() >= 0:
        yield "one below zero", below, Tag.BEYOND if x.min() == 0 else Tag.NONE


def _ends(x: np.ndarray, domain: Constraint, asked: set[float]) -> list[float]:
    """The numbers for which the definition asks of which the example shows one side alone; not those that only keep
    something away from zero or stand for infinity."""
    if not x.size or domain.declared or domain.binary or domain.simplex or domain.rising is not None:
        return []
    return sorted(c for c in asked if (c == 0 or 1e-3 < abs(c) < 1e4) and ((x > c).all() or (x < c).all()))[:3]


def _within(x: np.ndarray, domain: Constraint, asked: set[float]) -> list[float]:
    """The numbers for which is asked and which leaf x may be: there many a formula has a case of its own."""
    if not x.size or domain.declared or not domain.shapeless:
        return []
    may = [c for c in asked if 1e-3 < abs(c) < 1e4 and domain.keep(np.asarray(c)) == c]
    return sorted(may, key=abs)[:3]


def _turned(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """x with about half of its numbers as far on the other side of c."""
    half = rng.random(np.shape(x)) < 0.5
    return single(np.where(half if half.any() else ~half, 2 * c - x, x))


def _special(example: Case, x: Any, asked: set[float]) -> Iterator[tuple[str, Any]]:
    """One of the integers for which the definition asks and of which the example shows none, for the first of them."""
    if is_key(x) or not np.issubdtype(x.dtype, np.integer) or not np.size(x):
        return
    x = np.asarray(x)
    if fixed(x) or rising(x):
        return
    bounds = np.iinfo(x.dtype)
    new = sorted((n for n in asked - set(known(x).tolist()) if bounds.min <= n <= bounds.max), key=abs)
    for n in new[:4]:
        yield f"{n}, which is asked for,", _set(x.ravel(), 0, n).reshape(x.shape)


def _shares(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """All in one group, the first, the last, one between; and none in each of these, its share with the next."""
    for name, i in dict.fromkeys((("first", 0), ("last", x.size - 1), ("middle", x.size // 2))):
        whole, less = np.zeros_like(x), x.copy()
        whole[i] = x.sum()
        less[i - 1] += less[i]
        less[i] = 0
        yield f"all in the {name} group", whole
        yield f"none in the {name} group", less


def _scores(example: Case, x: Any) -> list[int]:
    """The float leaves that have a last axis for what these integers choose, as the logits of labels have."""
    if is_key(x) or not np.issubdtype(x.dtype, np.integer) or not np.size(x):
        return []
    return [
        j
        for j, v in enumerate(example.floats)
        if np.ndim(v) and np.shape(v)[:-1] == np.shape(x) and 1 < np.max(x) + 1 <= np.shape(v)[-1]
        if example.constraint(j).shapeless and not example.constraint(j).sign and example.constraint(j).high == np.inf
    ][:1]


def _other_values(example: Case, x: Any, into: set[int] | None, counts: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """(label, changed, tags ...) of integers and booleans."""
    if is_key(x):
        return
    x = np.asarray(x)
    if x.dtype == bool:
        yield "all true", np.ones_like(x)
        yield "all false", np.zeros_like(x)
        if x.ndim:
            yield "first row false", _set(x | True, 0, False), Tag.TIES
            yield "last row false", _set(x | True, -1, False), Tag.TIES
    elif np.issubdtype(x.dtype, np.integer) and x.size > 1 and not fixed(x) and not pointers(example, x):
        yield "all first", np.full_like(x, known(x).min())
        yield "all zero", np.zeros_like(x), *[Tag.NONE] * bool(x.min() > 0 and into is None)
        yield "all last", np.full_like(x, _top(example, x, into or set(), counts))
        yield "sorted", np.sort(x, axis=None).reshape(x.shape)
        yield "pairs alike", np.repeat(x.ravel(), 2)[: x.size].reshape(x.shape)
    elif permutation(x) and (np.diff(x) != 1).any() and sum(map(permutation, example.arrays)) == 1:
        yield "another order", np.roll(x, 1)  # which is not its own inverse, as the example's may be
    elif np.issubdtype(x.dtype, np.integer) and x.size == 1 and x.dtype != np.uint32:
        yield "first", np.zeros_like(x)
        yield "one less", np.maximum(x, 1) - 1


def cotangents(shapes: tuple, rng: np.random.Generator, several: bool) -> Iterator[tuple[str, Leaves]]:
    """(label, cotangent) for outputs of these shapes: signed noise; if `several` also ones, one-hots, each
    output alone, and one that sums to zero."""

    def noise():
        return tuple(single(rng.normal(size=s.shape)) for s in shapes)

    yield "noise", noise()
    if not several:
        return
    yield "more noise", noise()
    yield "ones", tuple(np.ones(s.shape) for s in shapes)
    yield "balanced", tuple(_balanced(s.shape, rng) for s in shapes)
    sizes = [s.size for s in shapes]
    for label, pick in (("first", 0), ("last", -1)):
        hot = [np.zeros(s.shape) for s in shapes]
        which = [i for i, n in enumerate(sizes) if n]
        if which:
            hot[which[pick]].flat[pick] = 1.0
            yield f"one-hot {label}", tuple(hot)
    if len(shapes) > 1:
        for i in range(len(shapes)):
            yield f"output {i} alone", tuple(d if i == j else np.zeros(d.shape) for j, d in enumerate(noise()))


def parallel(y: Leaves, floats: Leaves) -> Iterator[tuple[str, Leaves]]:
    """(label, cotangent) along the outputs, and along each input that is shaped like one: these a projection takes
    off."""
    each = [("the outputs", y), *((f"input {i}", [x] * len(y)) for i, x in enumerate(floats))]
    for name, along in each:
        fits = [np.shape(x) == np.shape(v) and bool(np.isfinite(x).all()) for x, v in zip(along, y, strict=True)]
        dy = [x if fit else np.zeros(np.shape(v)) for x, v, fit in zip(along, y, fits, strict=True)]
        if any(np.size(d) > 1 and np.any(d) for d in dy):
            yield f"along {name}", tuple(map(single, dy))


def _balanced(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers that sum to exactly zero: each beside its negative, and a zero where one is left over."""
    half = single(rng.normal(size=int(np.prod(shape)) // 2))
    return np.resize(np.append(np.stack([half, -half], -1).ravel(), 0.0), shape)
