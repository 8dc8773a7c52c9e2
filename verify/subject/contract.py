"""What a function promises: where its arguments live, which sizes and dtypes it is for, which laws it keeps.

An audit infers it from one example and says in its report what it assumed; whoever knows better declares it:

    contract = Contract({"scale": positive, "x": real}, without=("twice",))
    verify.check(f, x, scale, reference=plain, contract=contract)

An input outside of the contract is not tried. Its repr is a program, so that a token holds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from verify.subject.integers import Integers
from verify.subject.subject import SubjectError


@dataclass(frozen=True)
class Constraint:
    """Where the numbers of an argument live: what is tried of it is brought back there.

    sign: 1 if nothing is below zero, -1 if nothing is above. high: nothing is above it. binary: 0 or 1. simplex: rows
    that sum to one. unit: rows of length one. least: the smallest eigenvalue of a symmetric matrix, None for others.
    rising: the last axis goes up, in steps of at least this, None if it does not. hot: binary, one 1 in each row.
    columns: of rows, the sign of each column that keeps away from zero, 0 for the others; () if there is none: ordinary
    draws keep it. declared: by the caller, so that the example need not show it; else it is what an example shows.
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
    declared: bool = False

    @staticmethod
    def of(x: np.ndarray) -> "Constraint":
        x = np.asarray(x, np.float64)
        x = x[np.isfinite(x)] if not np.isfinite(x).all() else x
        if not x.size:
            return Constraint()
        constant = x.size > 1 and bool((x == x.flat[0]).all())
        binary = bool(np.isin(x, (0.0, 1.0)).all()) and not constant and x.size > 1
        sign = 0 if constant else 1 if x.min() >= 0 else -1 if x.max() <= 0 else 0
        high = 1.0 if sign == 1 and x.max() <= 1 and x.size > 3 else np.inf
        if x.ndim == 0 or constant or binary:
            return Constraint(sign, high, binary, hot=binary and x.ndim > 1 and bool((x.sum(-1) == 1).all()))
        if x.ndim > 1 and x.shape[-1] == x.shape[-2] > 1 and np.allclose(x, np.swapaxes(x, -1, -2), 1e-5, 1e-6):
            return Constraint(least=float(np.linalg.eigvalsh(x).min()))
        simplex = sign == 1 and x.shape[-1] > 1 and bool(np.allclose(x.sum(-1), 1, atol=1e-3))
        unit = x.shape[-1] > 1 and not simplex and bool(np.allclose((x * x).sum(-1), 1, atol=1e-3))
        steps = np.diff(x, axis=-1)
        rising = 0.2 * float(steps.min()) if x.shape[-1] > 4 and steps.min() > 0 else None
        columns = () if sign or simplex or unit or rising is not None else _column_signs(x)
        return Constraint(sign, high, binary, simplex, unit, None, rising, columns=columns)

    def __str__(self):
        several = (
            (self.hot, "one-hot rows"),
            (self.binary and not self.hot, "0 or 1"),
            (self.simplex, "rows that sum to one"),
            (self.unit, "rows of length one"),
            (
                self.least is not None and self.least > 0,
                f"positive definite, eigenvalues of {self.least or 0:.2g} or more",
            ),
            (self.least is not None and self.least <= 0, "symmetric"),
            (self.rising is not None, "rising along the last axis"),
            (any(self.columns), f"columns of signs {self.columns}"),
            (self.sign == 1 and not self.binary and not self.simplex, "nothing below zero"),
            (self.sign == -1, "nothing above zero"),
            (np.isfinite(self.high) and not self.binary and not self.simplex, f"nothing above {self.high:g}"),
        )
        return ", ".join(words for holds, words in several if holds) or "any numbers"

    @property
    def signed(self) -> bool:
        """Whether it is only that nothing below zero was shown."""
        plain = not self.binary and not self.simplex and self.rising is None
        return self.sign == 1 and plain and not self.declared

    @property
    def shapeless(self) -> bool:
        """Whether no more is known than on which side of what its numbers are: each may be drawn by itself."""
        return replace(self, sign=0, high=np.inf, columns=(), declared=False) == Constraint()

    def takes(self, x: Any) -> bool:
        """Whether these numbers live there."""
        x = np.asarray(x, np.float64)
        return bool(np.allclose(self.keep(x), x, 1e-5, 1e-6, equal_nan=True))

    def keep(self, x: np.ndarray) -> np.ndarray:
        """x brought back to where the example lives. Of a number alone, in no row, nothing is known of rows."""
        rows = np.ndim(x) > 0
        if self.hot and x.size and rows:
            return (np.arange(x.shape[-1]) == np.argmax(np.abs(x), -1)[..., None]).astype(np.float64)
        if self.binary:
            return (np.abs(x) > 0.5).astype(np.float64)
        if self.least is not None:
            return self._symmetric(x)
        x = np.minimum(self.sign * np.abs(x) if self.sign else x, self.high)
        if self.simplex and rows:
            total = x.sum(-1, keepdims=True)
            x = np.where(total > 0, x / np.where(total > 0, total, 1), 1 / max(x.shape[-1], 1))
        if self.unit and rows:
            length = np.sqrt((x * x).sum(-1, keepdims=True))
            x = np.where(length > 0, x / np.where(length > 0, length, 1), 1 / max(x.shape[-1], 1) ** 0.5)
        if self.rising is not None and rows:
            steps = np.maximum(np.diff(np.sort(x, axis=-1), axis=-1), self.rising)
            x = x[..., :1] + np.concatenate([np.zeros_like(x[..., :1]), np.cumsum(steps, -1)], -1)
        return x

    def along(self, v: np.ndarray, at: np.ndarray) -> np.ndarray:
        """v less what leads out of where the numbers live that are `at` some point: all for a mask, a row's sum, what
        makes a row longer, what is not symmetric."""
        if self.binary and not self.hot:
            return np.zeros_like(v)
        if self.simplex or self.hot:
            return v - v.mean(-1, keepdims=True)
        if self.unit and np.ndim(v):
            return v - (v * at).sum(-1, keepdims=True) * at
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


real = Constraint(declared=True)
positive = Constraint(1, declared=True)
negative = Constraint(-1, declared=True)
unit_interval = Constraint(1, 1.0, declared=True)
mask = Constraint(1, 1.0, binary=True, declared=True)
one_hot = Constraint(1, 1.0, binary=True, hot=True, declared=True)
simplex = Constraint(1, 1.0, simplex=True, declared=True)
unit_vector = Constraint(unit=True, declared=True)
ordered = Constraint(rising=0.0, declared=True)
symmetric = Constraint(least=0.0, declared=True)
positive_definite = Constraint(least=1e-3, declared=True)

NAMED = {
    "real": real,
    "positive": positive,
    "negative": negative,
    "unit_interval": unit_interval,
    "mask": mask,
    "one_hot": one_hot,
    "simplex": simplex,
    "unit_vector": unit_vector,
    "ordered": ordered,
    "symmetric": symmetric,
    "positive_definite": positive_definite,
}
"""The constraints by name, as a command line and a token know them."""


@dataclass(frozen=True)
class Contract:
    """What a function promises; what is left as it is here is inferred from the example.

    arguments: constraints by the names under which the report lists the leaves, "x", or "params['w']" of a tree; of
    integers `index`, `lengths`, `segments`, `counts`, `permutation` or `Integers(...)`. sizes: whether it takes other
    sizes than the example's; axes: those of which it takes multiples of a number alone, {("x", -1): 4}, or with None no
    other size than the example's; ranks: other numbers of axes. dtypes: those below float64 to try, all of them with
    None. without: the names of laws that it does not promise, "twice" say. strict: nothing is assumed; every input
    counts at which the definition is finite and the function's own output is the definition's. batch: the leaves whose
    first axis counts examples, ("x", "labels") say: devices may share them, and none does another's work.

    Raises ContractError for anything else.
    """

    arguments: Mapping[str, Constraint | Integers] = field(default_factory=dict, hash=False)
    sizes: bool = True
    axes: Mapping[tuple[str, int], int | None] = field(default_factory=dict, hash=False)
    ranks: bool = True
    dtypes: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    strict: bool = False
    batch: tuple[str, ...] = ()

    def __post_init__(self):
        if not isinstance(self.arguments, Mapping):
            raise ContractError(
                f"got arguments={self.arguments!r}; expected constraints by name, {{'x': positive}} say."
            )
        for name, constraint in self.arguments.items():
            if not isinstance(constraint, Constraint | Integers):
                raise ContractError(
                    f"got {name!r}: {constraint!r}; expected one of {', '.join(NAMED)}, or of integers "
                    "index(...), lengths(...) and the like."
                )
        for axis, step in self.axes.items():
            if not (isinstance(axis, tuple) and len(axis) == 2 and (step is None or (type(step) is int and step > 0))):
                raise ContractError(f"got axes of {axis!r}: {step!r}; expected {{('x', -1): 4}}, say, or None.")
        for name in ("sizes", "ranks", "strict"):
            if not isinstance(getattr(self, name), bool):
                raise ContractError(f"got {name}={getattr(self, name)!r}; expected True or False.")
        for name in ("dtypes", "without", "batch"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple) and all(isinstance(v, str) for v in value)):
                raise ContractError(f"got {name}={value!r}; expected a tuple of names.")

    def of(
        self, floats: Mapping[str, Any], others: Mapping[str, Any]
    ) -> tuple[tuple[Constraint, ...], tuple[Integers | None, ...]]:
        """The constraint of each float leaf, and what is declared of each other one, by name.

        Raises ContractError for an unknown name, one of the other kind, and an example outside of it.
        """
        shapes = {name: np.shape(x) for name, x in (*floats.items(), *others.items())}
        self._must_have(shapes)
        for name, domain in self.arguments.items():
            if isinstance(domain, Integers) != (name in others):
                kind = "integers, index('x', 1) say" if name in others else "floats, real say"
                raise ContractError(f"got {name!r}: {domain!r}; expected what lives among {kind}.")
            if isinstance(domain, Integers):
                x = others[name]
                size = lambda axis: shapes[axis[0]][axis[1]]  # noqa: E731
                fits = np.issubdtype(x.dtype, np.integer) and domain.takes(np.asarray(x), size)
            else:
                fits = domain.takes(floats[name])
            if not fits:
                raise ContractError(
                    f"got an example whose {name} is not what its contract says: {domain}. Give another example, or "
                    "another contract."
                )
        free = real if self.strict else None
        constraints = tuple(self.arguments.get(name) or free or Constraint.of(x) for name, x in floats.items())
        return constraints, tuple(self.arguments.get(name) for name in others)  # pyright: ignore[reportReturnType]

    def _must_have(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """ContractError for what speaks of leaves or axes that there are not."""
        axes = [axis for d in self.arguments.values() if isinstance(d, Integers) for axis in d.axes] + [*self.axes]
        unknown = {*self.arguments, *(name for name, _ in axes)} - set(shapes)
        if unknown:
            raise ContractError(f"got a contract of {sorted(unknown)}; expected some of {list(shapes)}, the leaves.")
        for name, axis in axes:
            if not -len(shapes[name]) <= axis < len(shapes[name]):
                raise ContractError(
                    f"got axis {axis} of {name}, whose shape is {shapes[name]}; expected one of its axes."
                )
        examples = {shapes.get(name, ())[:1] for name in self.batch}
        if () in examples or len(examples) > 1:
            raise ContractError(
                f"got batch={self.batch} and leaves {shapes}; expected names of some of these, with first axes of one "
                "size, the number of examples."
            )


INFERRED = Contract()


class ContractError(SubjectError):
    """A contract that says nothing of the function, or something else than its example."""
