"""What one ordinary example tells: where each leaf lives, and draws that are like it.

What is positive stays so, rows that sum to one still do, integers stay within their bounds. All values are
representable in float32, so that every dtype from there up sees the same ones.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    draw = (like, _near, _beside)[near]
    floats = tuple(single(held(x, draw(x, rng))) for x in example.floats)
    return Case(label, floats, tuple(_other_like(x, rng) for x in example.others), ordinary=True)


def _beside(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return Domain.of(x).keep(x * (1 + 0.01 * rng.normal(size=x.shape))) if np.isfinite(x).all() else x


def held(example: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x with the infinities of the example where they are there, as in masks that are added."""
    sure = np.isfinite(example)
    return x if sure.all() or x.shape != example.shape else np.where(sure, x, example)


def _near(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if not x.size or not np.isfinite(x).all():
        return x
    domain = Domain.of(x)
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


def like(x: np.ndarray, rng: np.random.Generator, domain: Domain | None = None) -> np.ndarray:
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


def known(x: np.ndarray) -> np.ndarray:
    """The integers that x could hold: from 0, or its least above that, to its largest, and below zero those that it
    has, which mean something."""
    below = np.unique(x[x < 0])
    if len(below) > 2 or x.min() > 0:
        return np.arange(int(x.min()), int(x.max()) + 1)
    return np.concatenate([below, np.arange(0, max(int(x.max()), 0) + 1)])


def rising(x: np.ndarray) -> bool:
    return x.ndim == 1 and x.size > 3 and bool((np.diff(x) >= 0).all()) and x[0] != x[-1]


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
