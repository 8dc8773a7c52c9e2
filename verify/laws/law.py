"""What a law is: a small function that yields what breaks it, and beside it its canaries.

A canary is a wrong backward made from the subject's own results. A law that does not reject its canary on this very
subject has proved nothing about it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verify import thresholds as th
from verify.run.bench import Bench, Corrupt, Refused
from verify.subject.layout import StructureError
from verify.subject.oracles import brief
from verify.tolerance.budget import Draw, blur, largest, usual
from verify.tolerance.waivers import MACHINE, UNPROMISED

# What a machine's compiler has not got; and callbacks of larger arrays run in threads of XLA's that know no float64
MISSING = "Unsupported|UNIMPLEMENTED|Incorrect output dtype for return value .* Expected: float64"
# Laws by which the gradient of an estimator is measured, not judged
ESTIMATED = "dense", "adjoint", "precision", "finite"


@dataclass(frozen=True)
class Breach:
    """One law broken in one place. leaf counts the float leaves, or is None; size is relative to the leaf's own.

    `shown` are the arrays (ours, truth) from which the kind of mistake can be read. What has a `waiver` does not count,
    nor does `advice`.
    """

    law: str
    leaf: int | None
    size: float
    text: str
    draw: Draw | None = None
    shown: tuple[np.ndarray, np.ndarray] | None = None
    waiver: str = ""
    where: str = ""
    dtype: str = "float64"
    advice: bool = False

    @property
    def note(self) -> bool:
        """Whether it is no mistake."""
        return bool(self.waiver) or self.advice


@dataclass(frozen=True)
class Plan:
    """What is tried: ordinary draws of the example, and all cases (values and sizes), each with its cotangents."""

    ordinary: tuple[Draw, ...]
    others: tuple[Draw, ...]
    native: Any
    dtypes: tuple[Any, ...]
    thorough: bool

    @property
    def all(self) -> tuple[Draw, ...]:
        return self.ordinary + self.others

    @property
    def noisy(self) -> list[Draw]:
        """The ordinary draws whose cotangent is noise: those at which lower precision is judged."""
        return [d for d in self.ordinary if d[1] in ("noise", "more noise")]


@dataclass(frozen=True)
class Law:
    """check(bench, plan) yields breaches; canaries(bench, plan) wrong backwards, (name, leaf, corrupt), to reject."""

    name: str
    check: Callable[[Bench, Plan], Iterator[Breach]]
    canaries: Callable[[Bench, Plan], Iterator[tuple[str, int | None, Corrupt]]]


def leaves(bench: Bench) -> range:
    return range(len(bench.flat.layout.floats))


def refusal(law: str, draw: Draw, refused: Refused, *, promised: bool = True, dtype: Any = "float64") -> Breach:
    """The subject raised where it should have answered, if that was `promised`."""
    error = refused.error
    where = error.where if isinstance(error, StructureError) else ""
    law = "structure" if where else law
    # what this machine's compiler, or JAX, has not got is nobody's mistake
    missing = type(error).__name__ == "JaxRuntimeError" and bool(re.search(MISSING, str(error)))
    missing = missing or isinstance(error, NotImplementedError)
    waiver = MACHINE if missing else "" if promised else UNPROMISED
    return Breach(law, None, 1.0, f"raised {brief(error)} in {dtype}", draw, None, waiver, where, str(dtype))


def corrupted_in(mode: str, bench: Bench, little: float = 0.01) -> Corrupt:
    """Every cotangent wrong by a little, but only where the subject is called in this way."""

    def wrong(s, dy, how, n):
        if how != mode:
            return s
        more = max(little, 2 * blur(bench))
        size = [more * usual(bench, k) for k in leaves(bench)]
        return replace(s, cotangents=tuple((1 + more) * c + e for c, e in zip(s.cotangents, size, strict=True)))

    return wrong


def blind_leaf(bench: Bench, plan: Plan, leaf: int) -> bool:
    """Whether the leaf's gradient is nothing but rounding at every input: that of a bias below a normalization."""
    for draw in plan.all:
        try:
            found = bench.truth(*draw).cotangents
        except Refused:
            continue
        if largest(found[leaf]) > th.TIGHT * max(*map(largest, found), usual(bench, leaf) * max(map(largest, draw[2]))):
            return False
    return len(bench.flat.layout.floats) > 1 or usual(bench, leaf) > 0
