"""Where the integers of an argument live: labels, indices, lengths, counts, segments, an order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Axis = tuple[str, int]  # the name of a leaf and one of its axes
Size = Callable[[Axis], int]


@dataclass(frozen=True)
class Integers:
    """least ≤ n < end, and those that are special. An audit draws these and tries their ends; nothing else.

    end is a number or an axis, ("scores", -1), whose size it is; with `through` that size too, as lengths may be.
    special are others that mean something, as −100 may stand for no label. rising: sorted along the last axis, as
    segments are. once: each of them once, an order. total: they share out this axis and sum to its size, some of them
    zero.

    >>> verify.index("scores", -1, special=(-100,))
    Integers(least=0, end=('scores', -1), special=(-100,))
    """

    least: int = 0
    end: int | Axis | None = None
    through: bool = False
    special: tuple[int, ...] = ()
    rising: bool = False
    once: bool = False
    total: Axis | None = None

    def __repr__(self):
        usual = Integers()
        said = {name: value for name, value in vars(self).items() if name == "least" or value != getattr(usual, name)}
        return f"Integers({', '.join(f'{name}={value!r}' for name, value in said.items())})"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes whose sizes count."""
        return tuple(axis for axis in (self.end, self.total) if isinstance(axis, tuple))

    def takes(self, x: np.ndarray, size: Size) -> bool:
        """Whether these numbers live there."""
        plain = x[~np.isin(x, self.special)] if self.special else x
        low, high = self._range(x.shape, size)
        if ((plain < low) | (plain >= high)).any():
            return False
        if self.once and np.sort(x, -1).tolist() != np.broadcast_to(np.arange(low, high), x.shape).tolist():
            return False
        if self.total is not None and (x.sum(-1) != size(self.total)).any():
            return False
        return not self.rising or bool((np.diff(x, axis=-1) >= 0).all())

    def draw(self, shape: tuple[int, ...], size: Size, rng: np.random.Generator) -> np.ndarray:
        """Some at random, about a tenth of them special; ValueError where there are none for this shape."""
        if self.total is not None:
            weights = rng.exponential(size=shape) * (rng.random(shape) < 0.8) + 1e-9
            return rng.multinomial(size(self.total), weights / weights.sum(-1, keepdims=True))
        low, high = self._range(shape, size)
        if self.once:
            return rng.permuted(np.broadcast_to(np.arange(low, high), shape), axis=-1)
        drawn = rng.integers(low, high, shape) if np.prod(shape) else np.zeros(shape, int)
        if self.special:
            drawn = np.where(rng.random(shape) < 0.1, rng.choice(self.special, shape), drawn)
        return np.sort(drawn, -1) if self.rising else drawn

    def corners(self, shape: tuple[int, ...], size: Size) -> Iterator[tuple[str, np.ndarray]]:
        """(what they are, numbers): all the least, all the largest, each special one alone and everywhere."""
        if self.once:
            low, high = self._range(shape, size)
            yield "in order", np.broadcast_to(np.arange(low, high), shape)
            yield "turned round", np.broadcast_to(np.arange(low, high)[::-1], shape)
        elif self.total is not None:
            for name, k in (("first", 0), ("last", -1)):
                whole = np.zeros(shape, int)
                whole[..., k] = size(self.total)
                yield f"all in the {name} group", whole
        elif np.prod(shape):
            low, high = self._range(shape, size)
            for n in dict.fromkeys((low, high - 1, *self.special)):
                yield f"all {n}", np.full(shape, n)
            some = np.sort(np.resize(np.arange(low, high), shape), -1)
            for n in dict.fromkeys((high - 1, *self.special)):
                one = some.copy()
                one.flat[0 if n in self.special else -1] = n
                yield f"one {n}", np.sort(one, -1) if self.rising else one

    def _range(self, shape, size):
        """[low, high)."""
        if self.total is not None:
            return 0, size(self.total) + 1
        high = size(self.end) + self.through if isinstance(self.end, tuple) else self.end
        if high is None:
            high = self.least + shape[-1] if self.once else 2**15
        if high <= self.least and np.prod(shape):
            raise ValueError(f"no integers from {self.least} to {high}")
        return self.least, high


def index(into: str, axis: int, special: tuple[int, ...] = ()) -> Integers:
    """Places on an axis: labels of scores, ids of a table; special ones stand for none.

    >>> verify.index("table", 0)
    Integers(least=0, end=('table', 0))
    """
    return Integers(0, (into, axis), special=special)


def lengths(of: str, axis: int, least: int = 0) -> Integers:
    """How much of an axis counts, from `least` up to all of it.

    >>> verify.lengths("x", 1, least=1)
    Integers(least=1, end=('x', 1), through=True)
    """
    return Integers(least, (of, axis), through=True)


def segments(count: int | tuple[str, int]) -> Integers:
    """The numbers of segments, sorted: below a count, or the size of an axis.

    >>> verify.segments(4)
    Integers(least=0, end=4, rising=True)
    """
    return Integers(0, count, rising=True)


def counts(of: str, axis: int) -> Integers:
    """How an axis is shared out among groups.

    >>> verify.counts("x", 0)
    Integers(least=0, total=('x', 0))
    """
    return Integers(0, total=(of, axis))


permutation = Integers(0, once=True)
"""A permutation."""

INTEGERS = {
    "Integers": Integers,
    "index": index,
    "lengths": lengths,
    "segments": segments,
    "counts": counts,
    "permutation": permutation,
}
"""What is declared of integers by name, as a command line and a token know them."""
