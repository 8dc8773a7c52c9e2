"""Inputs that a thoughtful adversary would try, made from one ordinary example.

Values keep the domain that the example shows: what is positive stays so, rows that sum to one still do, integers stay
within their bounds. Sizes: which axes belong together is found by asking the reference whether a resized call is valid.
All values are representable in float32, so that every dtype from there up sees the same ones.
"""

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

from verify.oracles import again, equations, jaxpr_of, overruns
from verify.subject import Flat, wide

Leaves = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One input over leaves, with a label that says what is special about it. `ordinary` ones resemble the example."""

    label: str
    floats: Leaves
    others: Leaves
    ordinary: bool = False

    def at(self, dtype: Any) -> tuple[Leaves, Leaves]:
        """(floats, others) in a dtype, or each of floats in its own. Buffers that hold floats follow, if it is one."""
        each = dtype if isinstance(dtype, tuple) else (dtype,) * len(self.floats)
        floats = tuple(np.asarray(x).astype(d) for x, d in zip(self.floats, each, strict=True))
        if isinstance(dtype, tuple):
            return floats, self.others
        return floats, tuple(np.asarray(x).astype(dtype) if is_float(x) else x for x in self.others)

    @property
    def arrays(self) -> list[np.ndarray]:
        """Of `others`, what is no key."""
        return [np.asarray(x) for x in self.others if not is_key(x)]

    @property
    def shapes(self) -> str:
        return " ".join(str(list(np.shape(x))) for x in (*self.floats, *self.others))


def is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def single(x: Any) -> np.ndarray:
    """x as float64 with values that float32 can hold."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.asarray(x, np.float64).astype(np.float32), np.float64)


def is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


@dataclass(frozen=True)
class Domain:
    """What the example tells of where a float leaf lives.

    sign: 1 if nothing is below zero, -1 if nothing is above. hot: binary, a single one in each row. least: the smallest
    eigenvalue of a symmetric matrix, None for others. unit: rows of length one. rising: the last axis goes up, in steps
    of at least this, None if it does not. columns: of rows, the sign of each column that keeps away from zero, 0 for
    the others; () if there is none: ordinary draws keep it.
    """

    sign: int = 0
    high: float = np.inf
    binary: bool = False
    simplex: bool = False
    unit: bool = False
    least: float | None = None
    rising: float | None = None
    hot: bool = False
    columns: tuple[int, ...] = ()

    @staticmethod
    def of(x: np.ndarray) -> "Domain":
        x = np.asarray(x, np.float64)
        x = x[np.isfinite(x)] if not np.isfinite(x).all() else x
        if not x.size:
            return Domain()
        constant = x.size > 1 and bool((x == x.flat[0]).all())
        binary = bool(np.isin(x, (0.0, 1.0)).all()) and not constant and x.size > 1
        sign = 0 if constant else 1 if x.min() >= 0 else -1 if x.max() <= 0 else 0
        high = 1.0 if sign == 1 and x.max() <= 1 and x.size > 3 else np.inf
        if x.ndim == 0 or constant or binary:
            return Domain(sign, high, binary, hot=binary and x.ndim > 1 and bool((x.sum(-1) == 1).all()))
        if x.ndim > 1 and x.shape[-1] == x.shape[-2] > 1 and np.allclose(x, np.swapaxes(x, -1, -2), 1e-5, 1e-6):
            return Domain(least=float(np.linalg.eigvalsh(x).min()))
        simplex = sign == 1 and x.shape[-1] > 1 and bool(np.allclose(x.sum(-1), 1, atol=1e-3))
        unit = x.shape[-1] > 1 and not simplex and bool(np.allclose((x * x).sum(-1), 1, atol=1e-3))
        steps = np.diff(x, axis=-1)
        rising = 0.2 * float(steps.min()) if x.shape[-1] > 4 and steps.min() > 0 else None
        columns = () if sign or simplex or unit or rising is not None else _column_signs(x)
        return Domain(sign, high, binary, simplex, unit, None, rising, columns=columns)

    @property
    def signed(self) -> bool:
        """Whether it is only that nothing below zero was shown."""
        return self.sign == 1 and not self.binary and not self.simplex and self.rising is None

    def keep(self, x: np.ndarray) -> np.ndarray:
        """x brought back to where the example lives."""
        if self.hot and x.size:
            return (np.arange(x.shape[-1]) == np.argmax(np.abs(x), -1)[..., None]).astype(np.float64)
        if self.binary:
            return (np.abs(x) > 0.5).astype(np.float64)
        if self.least is not None:
            return self._symmetric(x)
        x = np.minimum(self.sign * np.abs(x) if self.sign else x, self.high)
        if self.simplex:
            total = x.sum(-1, keepdims=True)
            x = np.where(total > 0, x / np.where(total > 0, total, 1), 1 / max(x.shape[-1], 1))
        if self.unit:
            length = np.sqrt((x * x).sum(-1, keepdims=True))
            x = np.where(length > 0, x / np.where(length > 0, length, 1), 1 / max(x.shape[-1], 1) ** 0.5)
        if self.rising is not None:
            steps = np.maximum(np.diff(np.sort(x, axis=-1), axis=-1), self.rising)
            x = x[..., :1] + np.concatenate([np.zeros_like(x[..., :1]), np.cumsum(steps, -1)], -1)
        return x

    def along(self, v: np.ndarray) -> np.ndarray:
        """v less what leads out of where the example lives: all for a mask, a row's sum, what is not symmetric."""
        if self.binary and not self.hot:
            return np.zeros_like(v)
        if self.simplex or self.hot:
            return v - v.mean(-1, keepdims=True)
        if self.least is not None and v.ndim > 1 and v.shape[-1] == v.shape[-2]:
            return (v + np.swapaxes(v, -1, -2)) / 2
        return v

    def _symmetric(self, x: np.ndarray) -> np.ndarray:
        """Symmetric; as far from singular as the example, or a thousandth of its largest eigenvalue, if that is
        positive definite."""
        if x.ndim < 2 or x.shape[-1] != x.shape[-2] or not np.isfinite(x).all():
            return x
        x = (x + np.swapaxes(x, -1, -2)) / 2
        if not self.least or self.least <= 0:
            return x
        size, turn = np.linalg.eigh(x)
        size = np.maximum(np.abs(size), max(self.least, 1e-3 * np.abs(size).max(initial=0)))
        x = (turn * size[..., None, :]) @ np.swapaxes(turn, -1, -2)
        return (x + np.swapaxes(x, -1, -2)) / 2


def _column_signs(x: np.ndarray) -> tuple[int, ...]:
    rows = x.reshape(-1, x.shape[-1])
    if x.ndim < 2 or len(rows) < 4 or x.shape[-1] > 16:
        return ()
    away = np.abs(rows).min(0) >= 0.4 * np.abs(rows).max(0)
    signs = np.where((np.abs(np.sign(rows).sum(0)) == len(rows)) & away, np.sign(rows[0]), 0)
    return tuple(int(s) for s in signs) if signs.any() else ()


def ordinary(example: Case, rng: np.random.Generator, label: str, near: int = 0) -> Case:
    """Other values like those of the example: drawn anew with its spread, its signs and its bounds; if `near` is 1, the
    example's own values in another order, next to where they were; if it is 2, a hundredth beside the example."""
    draw = (_like, _near, _beside)[near]
    floats = tuple(single(_held(x, draw(x, rng))) for x in example.floats)
    return Case(label, floats, tuple(_other_like(x, rng) for x in example.others), ordinary=True)


def _beside(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return Domain.of(x).keep(x * (1 + 0.01 * rng.normal(size=x.shape))) if np.isfinite(x).all() else x


def _held(example: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x with the infinities of the example where they are there, as in masks that are added."""
    sure = np.isfinite(example)
    return x if sure.all() or x.shape != example.shape else np.where(sure, x, example)


def _near(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if not x.size or not np.isfinite(x).all():
        return x
    domain = Domain.of(x)
    if domain.binary:
        return _like(x, rng, domain)
    if domain.simplex or domain.unit or domain.least is not None:
        drawn = x
    elif domain.columns:
        drawn = rng.permuted(x.reshape(-1, x.shape[-1]), axis=0).reshape(x.shape)
    else:
        drawn = rng.permutation(x.ravel()).reshape(x.shape)
    return domain.keep(np.clip(drawn * np.exp(0.1 * rng.normal(size=x.shape)), *_span(x)))


def _span(x: np.ndarray) -> tuple[float, float]:
    """Between the least and the largest of x, or around it where they are one."""
    low, high = float(x.min()), float(x.max())
    return (low, high) if low < high else (low - 0.2 * abs(low), high + 0.2 * abs(high))


def _like(x: np.ndarray, rng: np.random.Generator, domain: Domain | None = None) -> np.ndarray:
    x = np.asarray(x, np.float64)
    known = x[np.isfinite(x)]
    if not known.size:
        return x
    domain = domain or Domain.of(x)
    if domain.binary:
        if domain.hot:
            return domain.keep(rng.permuted(x, axis=-1))
        return rng.permutation(x.ravel()).reshape(x.shape)
    if domain.simplex:
        return domain.keep(x * np.exp(0.5 * rng.normal(size=x.shape)))
    if domain.sign and known.size == x.size:
        drawn = rng.permutation(x.ravel()).reshape(x.shape) * np.exp(0.3 * rng.normal(size=x.shape))
        return domain.keep(drawn)
    if x.shape[-1:] == np.shape(domain.columns):  # not the same numbers in every column
        rows = x.reshape(-1, x.shape[-1])
        drawn = rows.mean(0) + rows.std(0) * rng.normal(size=x.shape)
        return domain.keep(np.where(domain.columns, domain.columns * np.abs(drawn), drawn))
    spread = known.std() or (abs(float(known[0])) or 1.0)
    return domain.keep(known.mean() + spread * rng.normal(size=x.shape))


def _other_like(x: Any, rng: np.random.Generator) -> Any:
    if is_key(x):
        return jax.random.key(int(rng.integers(2**31)), impl=jax.random.key_impl(x)) if x.shape == () else x
    x = np.asarray(x)
    if _raw_key(x):
        return rng.integers(2**32, size=x.shape, dtype=np.uint32)
    if x.dtype == bool:
        return rng.permutation(x.ravel()).reshape(x.shape)
    if not np.issubdtype(x.dtype, np.integer) or x.size < 2 or _permutation(x):
        return x
    drawn = rng.choice(_known(x), size=x.shape).astype(x.dtype)
    if _rising(x):  # pointers and sorted segments: so they stay, with the same ends
        drawn = np.sort(drawn)
        drawn[0], drawn[-1] = x[0], x[-1]
    return drawn


def _known(x: np.ndarray) -> np.ndarray:
    """The integers that x could hold: from 0, or its least above that, to its largest, and below zero those that it
    has, which mean something."""
    below = np.unique(x[x < 0])
    if len(below) > 2 or x.min() > 0:
        return np.arange(int(x.min()), int(x.max()) + 1)
    return np.concatenate([below, np.arange(0, max(int(x.max()), 0) + 1)])


def _rising(x: np.ndarray) -> bool:
    return x.ndim == 1 and x.size > 3 and bool((np.diff(x) >= 0).all()) and x[0] != x[-1]


def _pointers(example: Case, x: np.ndarray) -> bool:
    """Whether these integers cut an axis into parts: from 0 to its end, rising."""
    return _rising(x) and x[0] == 0 and int(x[-1]) in {n for leaf in example.floats for n in np.shape(leaf)}


def _permutation(x: np.ndarray) -> bool:
    return x.ndim == 1 and x.size > 3 and bool((np.sort(x) == np.arange(x.size)).all())


def _raw_key(x: np.ndarray) -> bool:
    """The bits of a random key of the old kind."""
    return x.dtype == np.uint32 and x.shape == (2,)


def _fixed(x: np.ndarray) -> bool:
    """What must not be drawn element by element."""
    return _permutation(x) or x.dtype == np.uint32


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


def _one_hot(x, rng):
    y = np.zeros(x.shape)
    if x.size:
        y.flat[rng.integers(x.size)] = 1.0
    return y


def _row_sizes(x: np.ndarray) -> np.ndarray:
    size = np.abs(x).max(axis=-1, initial=0, keepdims=True) if x.ndim else np.abs(x)
    return np.where(size, size, 1.0)


VALUES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "zeros": lambda x, r: np.zeros(x.shape),
    "constant": lambda x, r: np.full(x.shape, x.flat[0] if x.size else 0.0),
    "ties": lambda x, r: np.asarray(r.integers(-1, 2, size=x.shape), np.float64),
    "equal rows": lambda x, r: np.broadcast_to(x[:1], x.shape).copy() if x.ndim and x.shape[0] else x,
    "constant rows": lambda x, r: np.broadcast_to(x[..., :1], x.shape).copy() if x.ndim and x.size else x,
    "first row zero": lambda x, r: _set(x, 0, 0.0),
    "last row zero": lambda x, r: _set(x, -1, 0.0),
    "grid": lambda x, r: r.permutation(np.linspace(-9, 9, x.size) + 0.1).reshape(x.shape) if x.size else x,
    "x3": lambda x, r: 3 * x,
    "x1e3": lambda x, r: 1e3 * x,
    "x1e4": lambda x, r: 1e4 * x,
    "x30": lambda x, r: 30 * x,
    "to 300": lambda x, r: x * (300 / _row_sizes(x)),  # whose square is too large for float16
    "x1e-4": lambda x, r: 1e-4 * x,
    "integers": lambda x, r: np.rint(3 * x),
    "offset 1e3": lambda x, r: x + 1e3,
    "offset 1e4": lambda x, r: x + 1e4,
    "huge range": lambda x, r: x * 10 ** r.uniform(-5, 5, size=x.shape),
    "one large": lambda x, r: x + 50 * np.abs(x).max(initial=0) * _one_hot(x, r),
    "one-hot": _one_hot,
    "signs": lambda x, r: np.sign(x),
    "negative": lambda x, r: -np.abs(x),
    "positive": lambda x, r: np.abs(x),
    "sorted": lambda x, r: np.sort(x, axis=-1) if x.ndim else x,
    "signed zeros": lambda x, r: np.where(r.random(x.shape) < 0.5, np.copysign(0.0, x), x),
    "tiny": lambda x, r: 1e-30 * x,
    "large": lambda x, r: 1e18 * x,
    "denormal": lambda x, r: 1e-40 * x,
    "near overflow": lambda x, r: 1e30 * x,
}
UNSHOWN = "not shown by the example: "  # a mistake where the function's own output is the definition's there
NEGATIVE = f"{UNSHOWN}negative"  # a pointer that counts from the end, or stands for none: a difference is only told
BELOW = f"{UNSHOWN}below zero"  # of what may be a scale, a time, a count
PAST = f"{UNSHOWN}past the end"  # of the axis into which it points
NONE = f"{UNSHOWN}none at all"  # of what is counted, as lengths are
BEYOND = ("all full", "one below zero")  # of integers that are compared
ALONE = ("zeros", "constant", "ties", "equal rows", "grid")  # also for one leaf at a time, the others ordinary
FAR = ("to 300", "x1e3", "x1e4", "offset 1e3", "offset 1e4", "huge range")
HUGE = ("large", "near overflow")
EXTREME = ("x30", "one large", *FAR, *HUGE)  # only for one leaf at a time
ENDS = "both sides of"  # a number for which the definition asks
TINY = ("tiny", "denormal")  # where float32 underflows, which a right formula may do as well


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
    for name, change in VALUES.items():
        if not several or name not in EXTREME:
            base = ordinary(example, rng, name)
            yield replace(base, floats=tuple(map(_changed(change, rng), example.floats, base.floats)), ordinary=False)
    for i, name in itertools.product(inputs if several else (), (*EXTREME, *ALONE)):
        base = ordinary(example, rng, f"{name} in leaf {i}")
        changed = _changed(VALUES[name], rng)(example.floats[i], base.floats[i])
        yield replace(base, floats=(*base.floats[:i], changed, *base.floats[i + 1 :]), ordinary=False)
    knots = [i for i, x in enumerate(example.floats) if np.ndim(x) == 1 and Domain.of(x).rising is not None]
    for j, i in itertools.product(knots[:1], inputs):
        domain = Domain.of(example.floats[i])
        if np.ndim(example.floats[i]) and replace(domain, sign=0, high=np.inf, columns=()) == Domain():
            base = ordinary(example, rng, f"at leaf {j} in leaf {i}")
            at = domain.keep(rng.choice(base.floats[j], np.shape(example.floats[i])))
            yield replace(base, floats=(*base.floats[:i], at, *base.floats[i + 1 :]), ordinary=False)
    signed = [i for i, x in enumerate(example.floats) if np.size(x) and Domain.of(x).signed]
    for some in dict.fromkeys((tuple(signed), *((i,) for i in signed[:2]))):
        base = ordinary(example, rng, f"{BELOW}{f' in leaf {some[0]}' if some != tuple(signed) else ''}")
        yield replace(base, floats=tuple(-x if i in some else x for i, x in enumerate(base.floats)), ordinary=False)
    for i in inputs:
        for c in _ends(np.asarray(example.floats[i]), asks.get(i, set())):
            base = ordinary(example, rng, f"{ENDS} {c:g} in leaf {i}")
            turned = _turned(base.floats[i], c, rng)
            yield replace(base, floats=(*base.floats[:i], turned, *base.floats[i + 1 :]), ordinary=False)
    for i, x in enumerate(example.others):
        into = pointers.get(i)
        special = _special(example, x, asks.get(len(example.floats) + i, set()))
        for name, changed in (*_other_values(example, x, into, counts), *_beyond(example, x, into), *special):
            base = ordinary(example, rng, f"{name} in {i}")
            yield replace(base, others=(*base.others[:i], changed, *base.others[i + 1 :]), ordinary=False)
        for j in _scores(example, x):
            base = ordinary(example, rng, f"most likely in {i}")
            scores = base.floats[j].copy()
            likely = np.argmax(scores[..., : int(np.max(x)) + 1], -1)
            first = np.expand_dims(likely, -1)
            rest = np.where(np.arange(scores.shape[-1]) == first, -np.inf, scores)
            np.put_along_axis(scores, first, np.logaddexp.reduce(rest, -1, keepdims=True) + 7.5, -1)
            floats = (*base.floats[:j], single(scores), *base.floats[j + 1 :])
            others = (*base.others[:i], likely.astype(x.dtype), *base.others[i + 1 :])
            yield Case(base.label, floats, others)


def holes(example: Case, rng: np.random.Generator, inputs: tuple[int, ...]) -> Iterator[Case]:
    """NaN for about half of the numbers of one of `inputs`, for definitions that ask what is a number."""
    for i in inputs:
        if Domain.of(example.floats[i]).rising is not None:
            continue  # what is not a number is neither above nor below
        base = ordinary(example, rng, f"NaN in leaf {i}")
        x = np.where(rng.random(np.shape(base.floats[i])) < 0.5, np.nan, base.floats[i])
        yield replace(base, floats=(*base.floats[:i], single(x), *base.floats[i + 1 :]), ordinary=False)


def _changed(change, rng):
    def changed(example, x):
        x = np.where(np.isfinite(x), x, 0.0)
        return single(_held(example, Domain.of(example).keep(change(np.asarray(x, np.float64), rng))))

    return changed


def _beyond(example: Case, x: Any, into: set[int] | None) -> Iterator[tuple[str, Any]]:
    """Lengths that fill an axis, a label that stands for none; pointers that count from the end, or are not sorted."""
    if is_key(x) or x.dtype == np.uint32 or not np.issubdtype(x.dtype, np.integer) or not np.size(x):
        return
    x = np.asarray(x)
    sizes = sorted({n for leaf in example.floats for n in np.shape(leaf) if n > x.max()})
    below = _set(x.ravel(), 0, -1).reshape(x.shape)
    if into is not None:
        if _rising(x) and not _fixed(x) and not _pointers(example, x):
            yield f"{UNSHOWN}not sorted", x[::-1]
        if x.min() >= 0 and not _fixed(x) and not _pointers(example, x):
            yield NEGATIVE, below
            if into and max(into) > x.max():
                yield PAST, _set(x.ravel(), 0, max(into)).reshape(x.shape)
        return
    if sizes:
        yield BEYOND[0], np.full_like(x, sizes[0])
    if x.size > 1 and x.min() >= 0:
        yield BEYOND[1] if x.min() == 0 else f"{NONE}, or less", below


def _ends(x: np.ndarray, asked: set[float]) -> list[float]:
    """The numbers for which the definition asks of which the example shows one side alone; not those that only keep
    something away from zero or stand for infinity."""
    domain = Domain.of(x)
    if not x.size or domain.binary or domain.simplex or domain.rising is not None:
        return []
    return sorted(c for c in asked if (c == 0 or 1e-3 < abs(c) < 1e4) and ((x > c).all() or (x < c).all()))[:3]


def _turned(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """x with about half of its numbers as far on the other side of c."""
    half = rng.random(np.shape(x)) < 0.5
    return single(np.where(half if half.any() else ~half, 2 * c - x, x))


def _special(example: Case, x: Any, asked: set[float]) -> Iterator[tuple[str, Any]]:
    """One of the integers for which the definition asks and of which the example shows none, for the first of them."""
    if is_key(x) or not np.issubdtype(x.dtype, np.integer) or not np.size(x):
        return
    x = np.asarray(x)
    if _fixed(x) or _rising(x):
        return
    bounds = np.iinfo(x.dtype)
    new = sorted((n for n in asked - set(_known(x).tolist()) if bounds.min <= n <= bounds.max), key=abs)
    for n in new[:4]:
        yield f"{n}, which is asked for,", _set(x.ravel(), 0, n).reshape(x.shape)


def _scores(example: Case, x: Any) -> list[int]:
    """The float leaves that have a last axis for what these integers choose, as the logits of labels have."""
    if is_key(x) or not np.issubdtype(x.dtype, np.integer) or not np.size(x):
        return []
    return [
        j
        for j, v in enumerate(example.floats)
        if np.ndim(v) and np.shape(v)[:-1] == np.shape(x) and 1 < np.max(x) + 1 <= np.shape(v)[-1]
        if replace(Domain.of(v), columns=()) == Domain()
    ][:1]


def _other_values(example: Case, x: Any, into: set[int] | None, counts: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if is_key(x):
        return
    x = np.asarray(x)
    if x.dtype == bool:
        yield "all true", np.ones_like(x)
        yield "all false", np.zeros_like(x)
        if x.ndim:
            yield "first row false", _set(x | True, 0, False)
            yield "last row false", _set(x | True, -1, False)
    elif np.issubdtype(x.dtype, np.integer) and x.size > 1 and not _fixed(x) and not _pointers(example, x):
        yield "all first", np.full_like(x, _known(x).min())
        yield NONE if x.min() > 0 and into is None else "all zero", np.zeros_like(x)
        yield "all last", np.full_like(x, _top(example, x, into or set(), counts))
        yield "sorted", np.sort(x, axis=None).reshape(x.shape)
        yield "pairs alike", np.repeat(x.ravel(), 2)[: x.size].reshape(x.shape)
    elif _permutation(x) and (np.diff(x) != 1).any() and sum(map(_permutation, example.arrays)) == 1:
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


def _balanced(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers that sum to exactly zero: each beside its negative, and a zero where one is left over."""
    half = single(rng.normal(size=int(np.prod(shape)) // 2))
    return np.resize(np.append(np.stack([half, -half], -1).ravel(), 0.0), shape)


Axis = tuple[int, int]  # (leaf, axis), leaves counted over floats and then others


def _free(flat: Flat, example: Case) -> list[Axis]:
    """The axes longer than one that could have another size."""
    leaves = (*example.floats, *example.others)
    return [(i, a) for i, a in _axes(flat, example) if np.shape(leaves[i])[a] > 1]


def _axes(flat: Flat, example: Case) -> list[Axis]:
    """All axes but those of what points into others, and of parameters that follow x."""
    leaves = (*example.floats, *example.others)
    cuts = [
        i for i, x in enumerate(leaves) if not is_key(x) and x.dtype.kind in "iu" and _pointers(example, np.asarray(x))
    ]
    free = [(i, a) for i, x in enumerate(leaves) if not is_key(x) and i not in cuts for a in range(np.ndim(x))]
    if flat.subject.remake:  # the parameters follow x
        own = sum(name.startswith("params") for name in flat.layout.floats)
        skip = len(example.floats) + sum(
            name.startswith("params") and role == "other"
            for name, role in zip(flat.layout.names, flat.layout.roles, strict=True)
        )
        free = [(i, a) for i, a in free if own <= i < len(example.floats) or i >= skip]
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
            return max(sizes.values(), default=0) < 128 or not _strained(flat, flat.primal, example, sizes)
        return True
    return False


def _strained(flat: Flat, f: Callable, example: Case, sizes: dict[Axis, int]) -> bool:
    """Whether f is not made for these sizes: it takes many more equations than at the example, or too large an array
    on its way, or reads beyond an end. It is first asked of shorter axes what the longer ones would take: to trace a
    long loop in Python may take hours."""
    old = {(i, a): np.shape((*example.floats, *example.others)[i])[a] for i, a in sizes}
    near = {axis: min(n, 2 * old[axis] + 3) for axis, n in sizes.items()}
    times = max(((n - old[axis]) / (near[axis] - old[axis]) for axis, n in sizes.items() if n > near[axis]), default=1)

    def traced(case: Case) -> Any:
        with wide("float64"):
            return jax.make_jaxpr(f)(case.floats, case.others)

    def at(sizes: dict[Axis, int]) -> Any:
        return traced(resized(flat, example, sizes, np.random.default_rng(0), ""))

    length = lambda closed: len(list(equations([closed])))  # noqa: E731
    own = traced(example)
    if times > 1:
        with suppress(Exception):  # sizes that it does not take say nothing
            if times * (length(at(near)) - length(own)) > 2 * length(own) + UNROLLED:
                return True
    there = at(sizes)
    arrays = (getattr(v.aval, "shape", ()) for eqn in equations([there]) for v in eqn.outvars)
    if length(there) > 3 * length(own) + UNROLLED or max(map(math.prod, arrays), default=0) > MUCH:
        return True
    return overruns(there) and not overruns(own)


def resized(flat: Flat, example: Case, sizes: dict[Axis, int], rng: np.random.Generator, label: str) -> Case:
    """The example with other sizes: float leaves drawn like it, integers kept below the sizes they may point into."""
    leaves = (*example.floats, *example.others)
    shapes = [list(np.shape(x)) for x in leaves]
    moved = {}
    for (i, a), n in sizes.items():
        moved[shapes[i][a]] = n
        shapes[i][a] = n
    tallest = max((n for x in example.floats for n in np.shape(x)), default=0)
    new = []
    for i, (x, shape) in enumerate(zip(leaves, shapes, strict=True)):
        if is_key(x) or tuple(shape) == np.shape(x):
            y = x
        else:
            y = np.resize(np.asarray(x), shape) if np.size(x) else np.zeros(shape, x.dtype)
        if i >= len(example.floats) and not is_key(y) and np.issubdtype(np.asarray(y).dtype, np.integer):
            y = _below(np.asarray(x), np.asarray(y), moved, tallest, fresh=tuple(shape) != np.shape(x), rng=rng)
        new.append(y)
    case = Case(label, tuple(new[: len(example.floats)]), tuple(new[len(example.floats) :]))
    if flat.subject.remake and sizes:
        args = flat.subject.remake(*flat.layout.args(case.floats, case.others))
        case = Case(label, *flat.layout.split(args))
    each = zip(case.floats, example.floats, strict=True)
    drawn = tuple(single(_like(x, rng, Domain.of(old) if np.size(old) else None)) for x, old in each)
    return replace(case, floats=drawn, others=tuple(case.others))


def _below(
    old: np.ndarray, new: np.ndarray, moved: dict[int, int], tallest: int, fresh: bool, rng: np.random.Generator
) -> np.ndarray:
    """Integers that may point into an axis kept below its new size; lengths and pointers that reach its end, at it."""
    if not new.size or not old.size or (_fixed(old) and not fresh):
        return new
    if _permutation(old):
        return rng.permutation(new.size).astype(new.dtype).reshape(new.shape)
    high = int(old.max())
    if high in moved and high < tallest and _rising(old):
        raise ValueError("pointers to the end of an axis, or sorted numbers: it cannot be told which")
    if high in moved and high >= tallest:
        new = np.where(new == high, moved[high], np.minimum(new, moved[high])).astype(new.dtype)
    else:
        limits = [n for before, n in moved.items() if n < before and high <= before]
        new = np.where(new < 0, new, new % max(min(limits), 1)) if limits else new
        new = np.where((new == 0) & (old.min() > 0) & (min(limits, default=0) > 1), 1, new).astype(old.dtype)
    return np.sort(new) if _rising(old) else new


PRIMES = (3, 5, 7, 11, 13, 2)
MANY = 2**21  # numbers in one array that is given
OFF_TILE = (33, 17, 9, 5)


def shapes(flat: Flat, f: Callable, example: Case, rng: np.random.Generator, long: int = 1027) -> Iterator[Case]:
    """Other sizes that f accepts, the most telling first: of another rank, 1, alike, distinct primes, one more, long,
    on and off any tile, broadcast, 2 and 0."""
    sets = groups(flat, f, example)
    if not flat.subject.remake:
        yield from reshaped(f, example, rng)
        yield from ranked(f, example, rng)
    for label, sizes in (*_ones(flat, example), *_sizes(sets, long, example), *_stiff(flat, example, sets)):
        for some in (sizes, less) if (less := _less(sizes)) != sizes else (sizes,):
            if accepts(flat, f, example, some):
                yield resized(flat, example, some, rng, label)
                break


def _less(sizes: dict[Axis, int]) -> dict[Axis, int]:
    return {axis: min(n, 131 if n % 2 else 128) for axis, n in sizes.items()}


def _ones(flat: Flat, example: Case) -> Iterator[tuple[str, dict[Axis, int]]]:
    """Two where the example has one, on every axis at the same place, as that of a batch or of heads may be."""
    leaves = (*example.floats, *example.others)
    ones = [(i, a) for i, a in _axes(flat, example) if np.shape(leaves[i])[a] == 1]
    alike = [[axis for axis in ones if axis[1] == a] for a in dict.fromkeys(a for _, a in ones)]
    for some in alike[:2]:
        yield "two for one", dict.fromkeys(some, 2)


def _sizes(sets: list[tuple[Axis, ...]], long: int, example: Case) -> Iterator[tuple[str, dict[Axis, int]]]:
    """(label, size of each axis that changes), the most telling first."""
    k = len(sets)
    if not k:
        return
    leaves = (*example.floats, *example.others)

    def plan(label: str, *sizes: int | None) -> tuple[str, dict[Axis, int]]:
        moved = {axis: n for group, n in zip(sets, sizes, strict=True) if n is not None for axis in group}
        for i, x in enumerate(leaves):  # where one array has several of the long axes, they are less long
            if math.prod(moved.get((i, a)) or n for a, n in enumerate(np.shape(x))) > MANY:
                return label, _less(moved)
        return label, moved

    def stretched(j: int) -> tuple[str, dict[Axis, int]]:
        primes = itertools.cycle(PRIMES[:3])
        return plan(f"long axis {j}", *(next(primes) if i != j else long for i in range(k)))

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
    yield plan("on tile", *[8] * (k - 1), 256)
    for group in [g for g in sets if len(g) > 1][:2]:
        several = [i for i, _ in group]
        for axis in [a for a in group if several.count(a[0]) == 1][:2]:  # a matrix of an axis with itself is no row
            yield f"broadcast {axis[0]}", {axis: 1}
            yield f"multiple {axis[0]}", {axis: 2 * np.shape(leaves[axis[0]])[axis[1]]}
    yield plan("two", *[2] * k)
    for j in range(min(k, 2)):
        yield plan("empty", *(0 if i == j else None for i in range(k)))
    if k > 1:
        yield plan("falling", *(PRIMES[:5][::-1][i % 5] for i in range(k)))
    yield plan("off tile", *(OFF_TILE[min(i, 3)] for i in range(k)))
    for i in range(1, k - 1):
        yield plan(f"axes {i} 1", *(1 if j == i else None for j in range(k)))


def _stiff(flat: Flat, example: Case, sets: list[tuple[Axis, ...]]) -> Iterator[tuple[str, dict[Axis, int]]]:
    """(label, sizes) next to the example's for axes that take no size at will: one more, alone or with another axis, as
    where one is half of the other and one more."""
    size = {(i, a): np.shape((*example.floats, *example.others)[i])[a] for i, a in _free(flat, example)}
    stiff = [axis for axis in size if not any(axis in group for group in sets)]
    for axis in stiff[:4]:
        yield f"one more {axis[0]}", {axis: size[axis] + 1}
        for other in stiff[:4]:
            if other != axis:
                yield f"one more {axis[0]}", {axis: size[axis] + 1, other: size[other] + 1}
                yield f"two more {axis[0]}", {axis: size[axis] + 2, other: size[other] + 1}


def reshaped(f: Callable, example: Case, rng: np.random.Generator) -> Iterator[Case]:
    """A row that is broadcast as a column, and as a single number, where f makes as much of it."""
    tall = {np.shape(x)[-2] for x in example.floats if np.ndim(x) > 1} - {0}
    for i, x in enumerate(example.floats):
        if np.ndim(x) == 1 and np.size(x) in tall:
            for name, new in (("column", np.reshape(x, (-1, 1))), ("number", x[0])):
                base = ordinary(example, rng, f"broadcast {i} as a {name}")
                case = replace(base, floats=(*base.floats[:i], single(new), *base.floats[i + 1 :]), ordinary=False)
                before, now = (_made(f, c) for c in (base, case))
                if before is not None and before == now:
                    yield case


def _made(f: Callable, case: Case) -> list[tuple[int, ...]] | None:
    """The shapes of what f makes of a case, None if it refuses."""
    with suppress(Exception), wide("float64"):  # as in `accepts`
        return [v.shape for v in jax.eval_shape(f, case.floats, case.others)]
    return None


def ranked(f: Callable, example: Case, rng: np.random.Generator) -> Iterator[Case]:
    """The example with one axis more in front of a leaf of the highest rank, of all of these, or of all leaves, where
    f takes it for a batch."""
    leaves = (*example.floats, *example.others)
    high = max((np.ndim(x) for x in example.floats), default=0)
    count, tried = len(example.floats), list[list[bool]]()
    first = next((i for i, x in enumerate(example.floats) if np.ndim(x) == high), -1)
    ranks = [0 if is_key(x) else np.ndim(x) for x in leaves]
    for more in ([i == first for i in range(len(leaves))], *([r >= max(n, 1) for r in ranks] for n in (high, 1))):
        new = [np.stack([x] * 3) if m else x for x, m in zip(leaves, more, strict=True)]
        case = Case("rank", tuple(single(_like(x, rng)) for x in new[:count]), tuple(new[count:]))
        if high and more not in tried and _batches(f, case, more):
            yield case
        tried.append(more)


def _batches(f: Callable, case: Case, more: list[bool]) -> bool:
    """Whether f of leaves with `more` axes gives what it gives of their parts, in a row or summed up; not on average,
    for of a mean many a rule knows just two axes. If it draws numbers, then were they all alike."""
    draws = any(is_key(x) or _raw_key(np.asarray(x)) for x in case.others)

    def drawn_alike(eqn, values, bind):
        if eqn.primitive.name != "random_bits":
            return bind(eqn, values)
        bits = eqn.outvars[0].aval
        return [jnp.full(bits.shape, np.iinfo(bits.dtype).max // 3, bits.dtype)]

    def run(floats, others):
        return again(jaxpr_of(f, floats, others), drawn_alike)(floats, others) if draws else f(floats, others)

    def part(i):
        leaves = [x[i] if m else x for x, m in zip((*case.floats, *case.others), more, strict=True)]
        return run(tuple(leaves[: len(case.floats)]), tuple(leaves[len(case.floats) :]))

    try:
        with wide("float64"):
            whole = run(case.floats, case.others)
            for y, each in zip(whole, zip(*map(part, range(3)), strict=True), strict=True):
                several = np.stack(each)
                fits = (np.allclose(y, v, 1e-6, 1e-9) for v in (several, several.sum(0)) if v.shape == y.shape)
                if not any(fits):
                    return False
    except Exception:  # noqa: BLE001 - as in `accepts`
        return False
    return True
