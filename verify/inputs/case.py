"""What one ordinary example tells, and draws that are like it.

What is positive stays so, rows that sum to one still do, integers stay within their bounds. All values are
representable in float32, so that every dtype from there up sees the same ones.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.subject.contract import Constraint
from verify.subject.integers import Axis, Integers

Leaves = tuple[Any, ...]


class Tag(Enum):
    """What sets an input apart from the example. Verdicts and diagnoses read these; labels are for people."""

    ANEW = auto()  # drawn like the example, and nothing else
    OUTLYING = auto()  # beyond the spread of the example
    EXTREME = auto()  # far beyond it
    FAR = auto()  # where half precision leaves little of an exponential
    SQUARED = auto()  # whose square is too large for float16
    HUGE = auto()  # whose square is too large for float32
    TINY = auto()  # where float32 underflows, which a right formula may do as well
    END = auto()  # at a number for which the definition asks
    TIES = auto()  # numbers that are equal to others
    ZERO = auto()  # zeros, alone or in a row
    LITTLE = auto()  # zeros or next to it among others
    SIZE = auto()  # sizes other than the example's
    LONG = auto()  # with a long axis
    MANY = auto()  # more numbers than 16 bits count
    BATCH = auto()  # one axis more, that of a batch
    BROADCAST = auto()  # an axis of one where another leaf has more
    RESHAPED = auto()  # a row that is broadcast as a column, or as a number
    MULTIPLE = auto()  # an axis twice as long as another one like it
    EMPTY = auto()
    BEYOND = auto()  # integers that are compared, at or past the ends of an axis
    NEGATIVE = auto()  # a pointer that counts from the end, or stands for none
    PAST = auto()  # a pointer past the end of the axis into which it points
    BELOW = auto()  # what may be a scale, a bound, a count, below zero
    NONE = auto()  # none at all of what is counted, as lengths are
    RANK = auto()  # another rank, of what a definition may take by accident
    UNSORTED = auto()  # what was sorted


UNSHOWN = frozenset({Tag.NEGATIVE, Tag.PAST, Tag.BELOW, Tag.NONE, Tag.RANK, Tag.UNSORTED})  # by the example
SHAPED = frozenset({Tag.BATCH, Tag.BROADCAST, Tag.MULTIPLE, Tag.EMPTY})  # sizes that nobody has promised


@dataclass(frozen=True)
class Case:
    """One input over leaves, with a label that says what is special about it. `ordinary` ones resemble the example.

    tags are what it assumes beyond the example; leaf is the one that it is about, counted over floats and others.
    shares: which of `others` share out an axis, so that their sum stays. integers: what was declared of `others`, or
    None for each; names are those of all leaves, which these speak of.
    """

    label: str
    floats: Leaves
    others: Leaves
    ordinary: bool = False
    constraints: tuple[Constraint, ...] = ()
    tags: frozenset[Tag] = frozenset()
    leaf: int | None = None
    shares: tuple[int, ...] = ()
    integers: tuple[Integers | None, ...] = ()
    names: tuple[str, ...] = ()

    def declared(self, i: int) -> Integers | None:
        """What was declared of integer leaf i, counted over `others`."""
        return self.integers[i] if self.integers else None

    def size(self, axis: Axis) -> int:
        """Of an axis of a leaf by name."""
        return np.shape((*self.floats, *self.others)[self.names.index(axis[0])])[axis[1]]

    def constraint(self, k: int) -> Constraint:
        """Of float leaf k: what was declared, or what this case shows if it is the example."""
        return self.constraints[k] if self.constraints else Constraint.of(self.floats[k])

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


def stored(x: Any, domain: Constraint) -> np.ndarray:
    """x with values that float32 can hold; but what sums to one, or has length one, does so in float64."""
    return domain.keep(single(x)) if domain.simplex or domain.unit else single(x)


def is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def ordinary(example: Case, rng: np.random.Generator, label: str, near: int = 0) -> Case:
    """Other values like those of the example: drawn anew with its spread, its signs and its bounds; if `near` is 1, the
    example's own values in another order, next to where they were; if it is 2, a hundredth beside the example."""
    draw = (like, _near, _beside)[near]
    each = ((x, example.constraint(k)) for k, x in enumerate(example.floats))
    floats = tuple(stored(held(x, draw(x, rng, c if np.size(x) else Constraint())), c) for x, c in each)
    others = tuple(drawn(example, i, x, rng) for i, x in enumerate(example.others))
    return Case(label, floats, others, ordinary=True, tags=frozenset({Tag.ANEW}))


def drawn(example: Case, i: int, x: Any, rng: np.random.Generator) -> Any:
    """Other values for leaf i of `others`, of x's shape."""
    if domain := example.declared(i):
        return domain.draw(np.shape(x), example.size, rng).astype(x.dtype)
    return shared_out(x.size, int(x.sum()), rng).astype(x.dtype) if i in example.shares else _other_like(x, rng)


def _beside(x: np.ndarray, rng: np.random.Generator, domain: Constraint) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return domain.keep(x * (1 + 0.01 * rng.normal(size=x.shape))) if np.isfinite(x).all() else x


def held(example: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x with the infinities of the example where they are there, as in masks that are added."""
    sure = np.isfinite(example)
    return x if sure.all() or x.shape != example.shape else np.where(sure, x, example)


def _near(x: np.ndarray, rng: np.random.Generator, domain: Constraint) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if not x.size or not np.isfinite(x).all():
        return x
    if domain.binary:
        return like(x, rng, domain)
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


def like(x: np.ndarray, rng: np.random.Generator, domain: Constraint) -> np.ndarray:
    x = np.asarray(x, np.float64)
    known = x[np.isfinite(x)]
    if not known.size:
        return x
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
    if raw_key(x):
        return rng.integers(2**32, size=x.shape, dtype=np.uint32)
    if x.dtype == bool:
        return rng.permutation(x.ravel()).reshape(x.shape)
    if not np.issubdtype(x.dtype, np.integer) or x.size < 2 or permutation(x):
        return x
    drawn = rng.choice(known(x), size=x.shape).astype(x.dtype)
    if rising(x):  # pointers and sorted segments: so they stay, with the same ends
        drawn = np.sort(drawn)
        drawn[0], drawn[-1] = x[0], x[-1]
    return drawn


def shares_out(example: Case, x: Any) -> bool:
    """Whether these integers may count how many of an axis each of several groups has."""
    axes = {np.shape(leaf)[0] for leaf in example.floats if np.ndim(leaf)}
    if is_key(x) or not np.issubdtype(x.dtype, np.integer) or np.ndim(x) != 1 or np.size(x) < 2:
        return False
    x = np.asarray(x)
    return x.min() >= 0 and int(x.sum()) in axes and not rising(x) and not permutation(x)


def shared_out(groups: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """`total` shared out at random among so many groups, some of which have none."""
    weights = rng.exponential(size=groups) * (rng.random(groups) < 0.8) + 1e-9
    return rng.multinomial(total, weights / weights.sum())


def known(x: np.ndarray) -> np.ndarray:
    """The integers that x could hold: from 0, or its least above that, to its largest, and below zero those that it
    has, which mean something."""
    below = np.unique(x[x < 0])
    if len(below) > 2 or x.min() > 0:
        return np.arange(int(x.min()), int(x.max()) + 1)
    return np.concatenate([below, np.arange(0, max(int(x.max()), 0) + 1)])


def rising(x: np.ndarray) -> bool:
    return x.ndim == 1 and x.size > 3 and bool((np.diff(x) >= 0).all()) and x[0] != x[-1]


def told_of(example: Case, i: int, x: Any) -> str:
    """What is taken for granted of integer leaf i of `others`, in words; "" of keys and booleans."""
    if is_key(x) or not np.issubdtype(x.dtype, np.integer) or not np.size(x) or raw_key(np.asarray(x)):
        return ""
    x = np.asarray(x)
    if permutation(x):
        return "each number once"
    some = known(x)
    words = f"integers from {some.min()} to {some.max()}"
    if i in example.shares:
        return f"{words}, which share out an axis"
    return f"{words}, sorted" if rising(x) else words


def pointers(example: Case, x: np.ndarray) -> bool:
    """Whether these integers cut an axis into parts: from 0 to its end, rising; not the segments of rows, one for each
    of a first axis, of which there happen to be as many as columns."""
    shapes = [np.shape(leaf) for leaf in example.floats]
    first = {shape[0] for shape in shapes if shape}
    ends = first if x.size in first else {n for shape in shapes for n in shape}
    return rising(x) and x[0] == 0 and int(x[-1]) in ends


def permutation(x: np.ndarray) -> bool:
    return x.ndim == 1 and x.size > 3 and bool((np.sort(x) == np.arange(x.size)).all())


def raw_key(x: np.ndarray) -> bool:
    """The bits of a random key of the old kind."""
    return x.dtype == np.uint32 and x.shape == (2,)


def fixed(x: np.ndarray) -> bool:
    """What must not be drawn element by element."""
    return permutation(x) or x.dtype == np.uint32


def resized(example: Case, case: Case, least: int = 0) -> set[tuple[int, int]]:
    """The axes, as (leaf, axis), whose size is not the example's, and `least` at least."""
    pairs = zip((*case.floats, *case.others), (*example.floats, *example.others), strict=True)
    shapes = [(i, np.shape(x), np.shape(y)) for i, (x, y) in enumerate(pairs) if np.ndim(x) == np.ndim(y)]
    axes = ((i, a, n, m) for i, s, t in shapes for a, (n, m) in enumerate(zip(s, t, strict=True)))
    return {(i, a) for i, a, n, m in axes if n != m and n >= least}
