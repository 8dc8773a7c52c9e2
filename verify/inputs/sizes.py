"""Sizes that a thoughtful adversary would try. Which axes belong together is found by asking the definition whether a
resized call is valid."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.inputs.case import (
    Case,
    Tag,
    fixed,
    is_key,
    like,
    permutation,
    pointers,
    rising,
    shared_out,
    stored,
)
from verify.inputs.ranks import ranked, reshaped
from verify.jaxpr.interpret import equations, overruns
from verify.processes.guard import wide
from verify.subject.contract import Constraint
from verify.subject.flat import Flat

Axis = tuple[int, int]  # (leaf, axis), leaves counted over floats and then others


def _free(flat: Flat, example: Case) -> list[Axis]:
    """The axes longer than one that could have another size."""
    leaves = (*example.floats, *example.others)
    return [(i, a) for i, a in _axes(flat, example) if np.shape(leaves[i])[a] > 1]


def _axes(flat: Flat, example: Case) -> list[Axis]:
    """All axes but those of what points into others, and of parameters that follow x."""
    leaves = (*example.floats, *example.others)
    cuts = [
        i for i, x in enumerate(leaves) if not is_key(x) and x.dtype.kind in "iu" and pointers(example, np.asarray(x))
    ]
    free = [(i, a) for i, x in enumerate(leaves) if not is_key(x) and i not in cuts for a in range(np.ndim(x))]
    if flat.subject.remake:  # the parameters follow x
        owners = *flat.layout.owners("float"), *flat.layout.owners("other")
        free = [(i, a) for i, a in free if owners[i] > 0]
    return free


def groups(flat: Flat, f: Callable, example: Case) -> list[tuple[Axis, ...]]:
    """The sets of axes that can be resized together, the smallest for each axis, found by asking f.

    f(floats, others) is traced with each axis alone at a prime size that occurs nowhere else, then with one other axis
    of its size, then with all of them at its place, then with all of them, less those that can stay behind. Axes of
    size 0 and 1 are left as they are.
    """
    leaves, free = (*example.floats, *example.others), _free(flat, example)
    taken = {n for x in leaves for n in np.shape(x)}
    prime = next(
        p for p in (7, 11, 13, 17, 19, 23, 29, 31, 37) if p not in taken and not any(n % p == 0 for n in taken if n)
    )

    def valid(axes) -> bool:
        return accepts(flat, f, example, dict.fromkeys(axes, prime))

    found: list[tuple[Axis, ...]] = []
    for axis in free:
        if any(axis in group for group in found):
            continue
        size = np.shape(leaves[axis[0]])[axis[1]]
        alike = [b for b in free if b != axis and np.shape(leaves[b[0]])[b[1]] == size]
        options = [(axis,), *((axis, b) for b in alike)]
        group = next((g for g in options if valid(g)), None)
        here = [b for b in alike if b[1] == axis[1]]  # of a batch, not those of the heads, of which there are as many
        several = next((s for s in (here, alike) if len(s) > 1 and valid((axis, *s))), []) if group is None else []
        if several:
            kept = [axis, *several]
            for b in several:
                rest = [k for k in kept if k != b]
                kept = rest if valid(rest) else kept
            group = tuple(kept)
        if group:
            found.append(group)
    return found


UNROLLED = 300  # equations more than at the example: a loop in Python, which takes minutes to compile when it is long
MUCH = 2**25  # numbers in one array on the way


def accepts(flat: Flat, f: Callable, example: Case, sizes: dict[Axis, int]) -> bool:
    """Whether f can be traced with these axes resized, in no many more equations than at the example and with no array
    of more than MUCH numbers, and without a place beyond the end of an axis; and the subject, if one is long, if it can
    be."""
    with suppress(Exception):  # a stranger's code says no in many ways; a size that is refused is not tried
        if _strained(flat, f, example, sizes):
            return False
        with suppress(Exception):  # what the subject says of it is for the laws to judge
            if max(sizes.values(), default=0) >= 128:
                if _strained(flat, flat.primal, example, sizes):
                    return False
                both = _there_and_back(flat)
                if _unrolled(flat, both, example, sizes, _length(_traced(both, example))):
                    return False
                return _largest(_traced(both, _bare(flat, example, sizes))) <= MUCH
        return True
    return False


def _there_and_back(flat: Flat) -> Callable:
    def both(floats, others):
        y, pull = flat.pullback(floats, others)
        return pull(tuple(map(jnp.ones_like, y)))

    return both


def _unrolled(flat: Flat, f: Callable, example: Case, sizes: dict[Axis, int], own: int) -> bool:
    """Whether f takes many more equations at these sizes than its `own` at the example, as a loop in Python does. It is
    asked of shorter axes what the longer ones would take: to trace a long loop in Python may take hours."""
    old = {(i, a): np.shape((*example.floats, *example.others)[i])[a] for i, a in sizes}
    near = {axis: min(n, 2 * old[axis] + 3) for axis, n in sizes.items()}
    times = max(((n - old[axis]) / (near[axis] - old[axis]) for axis, n in sizes.items() if n > near[axis]), default=1)
    with suppress(Exception):  # sizes that it does not take say nothing
        if times > 1:
            return times * (_length(_traced(f, _bare(flat, example, near))) - own) > 2 * own + UNROLLED
    return False


def _strained(flat: Flat, f: Callable, example: Case, sizes: dict[Axis, int]) -> bool:
    """Whether f is not made for these sizes: it takes many more equations than at the example, or too large an array
    on its way, or reads beyond an end."""
    own = _traced(f, example)
    if _unrolled(flat, f, example, sizes, _length(own)):
        return True
    there = _traced(f, _bare(flat, example, sizes))
    if _length(there) > 3 * _length(own) + UNROLLED or _largest(there) > MUCH:
        return True
    return overruns(there) and not overruns(own)


def _bare(flat: Flat, example: Case, sizes: dict[Axis, int]) -> Case:
    return resized(flat, example, sizes, np.random.default_rng(0), "", drawn=False)


def _traced(f: Callable, case: Case) -> Any:
    with wide("float64"):
        return jax.make_jaxpr(f)(*case.at("float64"))


def _largest(closed: Any) -> int:
    """How many numbers the largest array on the way has."""
    arrays = (getattr(v.aval, "shape", ()) for eqn in equations([closed]) for v in eqn.outvars)
    return max(map(math.prod, arrays), default=0)


def _length(closed: Any) -> int:
    return len(list(equations([closed])))


def resized(
    flat: Flat, example: Case, sizes: dict[Axis, int], rng: np.random.Generator, label: str, drawn: bool = True
) -> Case:
    """The example with other sizes: float leaves `drawn` like it, or its numbers again and again; integers kept below
    the sizes they may point into."""
    leaves = (*example.floats, *example.others)
    shapes = [list(np.shape(x)) for x in leaves]
    moved = {}
    for (i, a), n in sizes.items():
        moved[shapes[i][a]] = n
        shapes[i][a] = n
    tallest = max((n for x in example.floats for n in np.shape(x)), default=0)
    new, declared = [], []
    for i, (x, shape) in enumerate(zip(leaves, shapes, strict=True)):
        if is_key(x) or tuple(shape) == np.shape(x):
            y = x
        else:
            y = np.resize(np.asarray(x), shape) if np.size(x) else np.zeros(shape, x.dtype)
        if i >= len(example.floats) and example.declared(i - len(example.floats)):
            declared.append(i)
        elif i - len(example.floats) in example.shares:
            total = int(np.sum(x))
            y = shared_out(np.size(y), moved.get(total, total), rng).astype(x.dtype)
        elif i >= len(example.floats) and not is_key(y) and np.issubdtype(np.asarray(y).dtype, np.integer):
            y = _below(np.asarray(x), np.asarray(y), moved, tallest, fresh=tuple(shape) != np.shape(x), rng=rng)
        new.append(y)
    k = len(example.floats)
    case = Case(label, tuple(new[:k]), tuple(new[k:]), names=example.names)
    if flat.subject.remake and sizes:
        args = flat.subject.remake(*flat.layout.args(case.floats, case.others))
        case = Case(label, *flat.layout.split(args), names=example.names)
    for i in declared:
        some = example.integers[i - k].draw(np.shape(new[i]), case.size, rng).astype(new[i].dtype)
        case = replace(case, others=(*case.others[: i - k], some, *case.others[i - k + 1 :]))
    if not drawn:
        return case
    each = ((x, example.constraint(k), np.size(example.floats[k])) for k, x in enumerate(case.floats))
    floats = tuple(stored(like(x, rng, domain if known else Constraint.of(x)), domain) for x, domain, known in each)
    return replace(case, floats=floats, others=tuple(case.others))


def _below(
    old: np.ndarray, new: np.ndarray, moved: dict[int, int], tallest: int, fresh: bool, rng: np.random.Generator
) -> np.ndarray:
    """Integers that may point into an axis kept below its new size; lengths and pointers that reach its end, at it."""
    if not new.size or not old.size or (fixed(old) and not fresh):
        return new
    if permutation(old):
        return rng.permutation(new.size).astype(new.dtype).reshape(new.shape)
    high = int(old.max())
    if high in moved and high < tallest and rising(old):
        raise ValueError("pointers to the end of an axis, or sorted numbers: it cannot be known which")
    if high in moved and high >= tallest:
        new = np.where(new == high, moved[high], np.minimum(new, moved[high])).astype(new.dtype)
    else:
        limits = [n for before, n in moved.items() if n < before and high <= before]
        new = np.where(new < 0, new, new % max(min(limits), 1)) if limits else new
        new = np.where((new == 0) & (old.min() > 0) & (min(limits, default=0) > 1), 1, new).astype(old.dtype)
    return np.sort(new) if rising(old) else new


PRIMES = (3, 5, 7, 11, 13, 2)
MOST = 70_001  # numbers in an array: 2^16 and no multiple of a tile
MANY = 2**21  # numbers in one array that is given
OFF_TILE = (33, 17, 9, 5)


def shapes(
    flat: Flat,
    f: Callable,
    example: Case,
    rng: np.random.Generator,
    long: int = 1027,
    many: bool = True,
    axes: Mapping[tuple[str, int], int | None] = MappingProxyType({}),
) -> Iterator[Case]:
    """Other sizes that f accepts, the most telling first: of another rank, 1, alike, distinct primes, one more, long,
    on and off any tile, broadcast, 2 and 0. `axes` that are declared keep their size, or are multiples of a number."""
    sets = groups(flat, f, example)
    if not flat.subject.remake:
        if not axes:
            yield from reshaped(f, example, rng)
        yield from ranked(f, example, rng)
    counts = tuple(n for n in flat.layout.static if type(n) is int and 1 < n < 100)
    stiff = _stiff(flat, example, sets)
    leaves = dict(zip(example.names, (*example.floats, *example.others), strict=False))
    promised = {(example.names.index(x), a % np.ndim(leaves[x])): step for (x, a), step in axes.items()}

    def accepted(several: Iterator[_Sized]) -> Iterator[Case]:
        for sized in several:
            for some in (sized.sizes, *_less(sized.sizes)):
                some = _promised(some, sets, promised)
                if not some and sized.sizes:
                    break
                if accepts(flat, f, example, some):
                    case = resized(flat, example, some, rng, sized.label)
                    floats = case.floats
                    if Tag.MANY in sized.tags:
                        domains = [example.constraint(i) for i in range(len(floats))]
                        floats = tuple(d.keep(_large_at_the_end(x)) for d, x in zip(domains, floats, strict=True))
                    yield replace(case, floats=floats, tags=sized.tags | {Tag.SIZE}, leaf=sized.leaf)
                    break

    yield from itertools.islice(accepted(_multiples(stiff, counts)), 3)
    yield from accepted(itertools.chain(_ones(flat, example), _sizes(sets, long, many, example), _next(stiff)))


def _promised(sizes: dict[Axis, int], sets: list[tuple[Axis, ...]], promised: Mapping[Axis, int | None]):
    """The sizes that a contract has room for, the next multiples: of an axis that is tied to others for all of them."""
    kept = {}
    for axis, n in sizes.items():
        tied = next((group for group in sets if axis in group), (axis,))
        steps = [promised[other] for other in tied if other in promised]
        if None not in steps:
            step = math.lcm(*filter(None, steps))
            kept[axis] = -(-n // step) * step
    return kept


def _large_at_the_end(x: np.ndarray) -> np.ndarray:
    """The last of many numbers twice as large, so that what is largest has a place that only a long integer tells."""
    y = x.copy()
    y.reshape(-1)[-max(x.size // 10, 1) :] *= 2 if x.size > MOST // 2 else 1
    return y


@dataclass(frozen=True)
class _Sized:
    """The sizes of the axes that change, what they assume beyond the example, and the leaf that they are about."""

    label: str
    sizes: dict[Axis, int]
    tags: frozenset[Tag] = frozenset()
    leaf: int | None = None


def _less(sizes: dict[Axis, int]) -> list[dict[Axis, int]]:
    """Smaller sizes than these, the larger first."""
    less = [{axis: min(n, odd if n % 2 else even) for axis, n in sizes.items()} for odd, even in ((131, 128), (37, 32))]
    return [some for before, some in itertools.pairwise((sizes, *less)) if some != before]


def _ones(flat: Flat, example: Case) -> Iterator[_Sized]:
    """Where the example has one, on every axis at the same place, as that of a batch or of heads may be: two, and as
    many as other arrays have there, along which it is broadcast."""
    leaves = (*example.floats, *example.others)
    ones = [(i, a) for i, a in _axes(flat, example) if np.shape(leaves[i])[a] == 1]
    alike = [[axis for axis in ones if axis[1] == a] for a in dict.fromkeys(a for _, a in ones)]
    for some in alike[:2]:
        places = {a - np.ndim(leaves[i]) for i, a in some}
        beside = {np.shape(x)[p] for x in leaves for p in places if not is_key(x) and np.ndim(x) >= -p}
        for n in sorted({2, *beside} - {0, 1})[:3]:
            tags = frozenset({Tag.RANK} if n > 2 else ())  # which a definition may take by accident
            yield _Sized(f"{n} for one", dict.fromkeys(some, int(n)), tags)


def _sizes(sets: list[tuple[Axis, ...]], long: int, many: bool, example: Case) -> Iterator[_Sized]:
    """The most telling first."""
    k = len(sets)
    if not k:
        return
    leaves = (*example.floats, *example.others)

    def plan(label: str, *sizes: int | None, tag: Tag = Tag.SIZE) -> _Sized:
        moved = {axis: n for group, n in zip(sets, sizes, strict=True) if n is not None for axis in group}
        for i, x in enumerate(leaves):  # where one array has several of the long axes, they are less long
            if math.prod(moved.get((i, a)) or n for a, n in enumerate(np.shape(x))) > MANY:
                moved = _less(moved)[0]
                break
        return _Sized(label, moved, frozenset({tag}))

    def stretched(j: int) -> _Sized:
        primes = itertools.cycle(PRIMES[:3])
        return plan(f"long axis {j}", *(next(primes) if i != j else long for i in range(k)), tag=Tag.LONG)

    yield plan("first axes 1", 1, *[None] * (k - 1))
    yield plan("odd", *(PRIMES[i % 6] for i in range(k)))
    yield stretched(k - 1)
    if k > 1:
        yield plan("last axes 1", *[None] * (k - 1), 1)
        yield plan("all axes 1", *[1] * k)
        yield plan("alike", *[4] * k)
    sizes = [np.shape(leaves[i])[a] for ((i, a), *_) in sets]
    for j in sorted(range(k), key=lambda j: -sizes[j])[:2]:
        yield plan(f"one more {j}", *(sizes[j] + 1 if i == j else None for i in range(k)))
    if k > 1:
        yield stretched(0)
    yield plan("on tile", *[128 if k < 3 else 64] * (k - 1), 256)  # all axes long together, and a multiple of a tile
    for group in [g for g in sets if len(g) > 1][:2]:
        several = [i for i, _ in group]
        for axis in [a for a in group if several.count(a[0]) == 1][:2]:  # a matrix of an axis with itself is no row
            i, double = axis[0], 2 * np.shape(leaves[axis[0]])[axis[1]]
            yield _Sized(f"broadcast {i}", {axis: 1}, frozenset({Tag.BROADCAST}), i)
            yield _Sized(f"multiple {i}", {axis: double}, frozenset({Tag.MULTIPLE}), i)
    rest = [math.prod(np.shape(leaves[i])) // max(np.shape(leaves[i])[a], 1) for ((i, a), *_) in sets]
    first = min(range(k), key=lambda j: -rest[j])
    if many:  # more numbers than 16 bits count, where that is cheap
        most = -(-MOST // max(rest[first], 1))
        yield plan("many", *(most if j == first else None for j in range(k)), tag=Tag.MANY)
    yield plan("two", *[2] * k)
    for j in range(min(k, 2)):
        yield plan("empty", *(0 if i == j else None for i in range(k)), tag=Tag.EMPTY)
    if k > 1:
        yield plan("falling", *(PRIMES[:5][::-1][i % 5] for i in range(k)))
    yield plan("off tile", *(OFF_TILE[min(i, 3)] for i in range(k)))
    for i in range(1, k - 1):
        yield plan(f"axes {i} 1", *(1 if j == i else None for j in range(k)))


def _stiff(flat: Flat, example: Case, sets: list[tuple[Axis, ...]]) -> dict[Axis, int]:
    """The sizes of the axes that take no size at will."""
    size = {(i, a): np.shape((*example.floats, *example.others)[i])[a] for i, a in _free(flat, example)}
    return {axis: n for axis, n in size.items() if not any(axis in group for group in sets)}


def _multiples(stiff: dict[Axis, int], counts: tuple[int, ...]) -> Iterator[_Sized]:
    """Such an axis, alone or with all of its size, at multiples of the example's size, of the function's own `counts`
    and of two: none of them a power of two."""
    for n in dict.fromkeys(stiff.values()):
        alike = tuple(axis for axis, other in stiff.items() if other == n)
        for new in dict.fromkeys((3 * n, *(k * c for c in counts if n % c == 0 for k in (5, 1)), 6, 10)):
            for some in dict.fromkeys((alike[:1], alike)) if new != n else ():
                yield _Sized(f"{new} for {n}", dict.fromkeys(some, new))


def _next(stiff: dict[Axis, int]) -> Iterator[_Sized]:
    """One more, alone or with another axis, as where one is half of the other and one more."""
    for axis in list(stiff)[:4]:
        yield _Sized(f"one more {axis[0]}", {axis: stiff[axis] + 1})
        for other in list(stiff)[:4]:
            if other != axis:
                yield _Sized(f"one more {axis[0]}", {axis: stiff[axis] + 1, other: stiff[other] + 1})
                yield _Sized(f"two more {axis[0]}", {axis: stiff[axis] + 2, other: stiff[other] + 1})
