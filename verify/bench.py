"""Where a subject and its oracle are run: each compiled once for every shape and dtype, each result kept."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.inputs import Case, Leaves
from verify.oracles import Oracle
from verify.subject import Flat, wide


class Refused(Exception):
    """A stranger's code raised. `stage` says whether going forward already did, or only the way back."""

    def __init__(self, error: Exception, stage: str):
        super().__init__(str(error))
        self.error, self.stage = error, stage


@dataclass(frozen=True)
class Sample:
    """One call: outputs and cotangents in float64 for comparison, and the shapes and dtypes that the cotangents had."""

    y: tuple[np.ndarray, ...]
    cotangents: tuple[np.ndarray, ...]
    types: tuple[tuple[tuple[int, ...], str], ...]


Spoil = Callable[[Sample, Leaves, str, int], Sample]


def sample(y: Any, cotangents: Any) -> Sample:
    types = tuple((tuple(c.shape), str(c.dtype)) for c in cotangents)
    up = lambda leaves: tuple(np.asarray(v).astype(np.float64) for v in leaves)  # noqa: E731
    return Sample(up(y), up(cotangents), types)


def finite(leaves: Leaves) -> bool:
    return all(np.isfinite(v).all() for v in leaves)


class Bench:
    """Runs the subject ("jit", "eager", "apart"), the truth in float64, and the plain definition in any dtype.

    `spoil` is what a canary does to every result of the subject: (sample, dy, mode, how many calls before) -> sample.
    """

    def __init__(self, flat: Flat, oracle: Oracle, example: Case, native: tuple[Any, ...]):
        self.flat, self.oracle, self.example, self.native = flat, oracle, example, native
        self.spoil: Spoil | None = None
        self.calls = 0
        self.comparisons = 0
        self.memo: dict[Any, Any] = {}
        self.ways = {
            "jit": jax.jit(flat.vjp),
            "apart": jax.jit(flat.vjp_apart),
            "eager": flat.vjp,
        }
        self._truth = oracle.vjp if oracle.slack else jax.jit(oracle.vjp)
        self._plain = jax.jit(_vjp(oracle.primal))

    def spoiled(self, spoil: Spoil) -> "Bench":
        """The same bench with a subject that is wrong in one way. Results already computed are shared."""
        other = copy.copy(self)
        other.spoil, other.calls = spoil, 0
        return other

    def outputs(self, case: Case, dtype: Any) -> tuple:
        """The shapes and dtypes of the subject's float outputs."""
        key = ("outputs", case.shapes, str(dtype))
        if key not in self.memo:
            self.memo[key] = self._guarded(
                "forward", lambda: jax.eval_shape(self.flat.primal, case.cast(dtype), case.others), dtype
            )
        return self.memo[key]

    def cotangent(self, case: Case, dy: Leaves, dtype: Any) -> Leaves:
        return tuple(d.astype(s.dtype) for d, s in zip(dy, self.outputs(case, dtype), strict=True))

    def pull(
        self, case: Case, label: str, dy: Leaves, dtype: Any = "float64", mode: str = "jit", fresh=False
    ) -> Sample:
        """What the subject answers. Raises Refused if it raises."""
        key = ("pull", id(case), label, str(dtype), mode)
        if fresh or key not in self.memo:
            floats, down = case.cast(dtype), self.cotangent(case, dy, dtype)
            got = self._guarded("backward", lambda: sample(*self.ways[mode](floats, case.others, down)), dtype)
            self.memo[key] = (got, case)  # holding the case keeps its id its own
        got = self.memo[key][0]
        self.calls += 1
        return self.spoil(got, dy, mode, self.calls - 1) if self.spoil else got

    def truth(self, case: Case, label: str, dy: Leaves, dtype: Any = "float64") -> Sample:
        """The oracle's answer in float64, at the values that `dtype` can hold."""
        low = tuple(np.dtype(d).itemsize < 4 for d in _each(dtype, case.floats))
        key = ("truth", id(case), label, str(dtype) if any(low) else "")
        if key not in self.memo:
            if any(low):
                down = tuple(np.asarray(d, np.float64) for d in self.cotangent(case, dy, dtype))
                floats = tuple(np.asarray(x, np.float64) for x in case.cast(dtype))
            else:
                down, floats = dy, case.floats
            got = self._guarded("reference", lambda: sample(*self._truth(floats, case.others, down)), "float64")
            self.memo[key] = (got, case)
        return self.memo[key][0]

    def plain(self, case: Case, label: str, dy: Leaves, dtype: Any) -> Sample:
        """What automatic differentiation of the definition itself answers in `dtype`."""
        key = ("plain", id(case), label, str(dtype))
        if key not in self.memo:
            floats = case.cast(dtype)

            def run():
                y = jax.eval_shape(self.oracle.primal, floats, case.others)
                down = tuple(d.astype(s.dtype) for d, s in zip(dy, y, strict=True))
                return sample(*self._plain(floats, case.others, down))

            self.memo[key] = (self._guarded("reference", run, dtype), case)
        return self.memo[key][0]

    def at(self, case: Case, floats: Leaves, dy: Leaves) -> Leaves:
        """The oracle's cotangents at other values of the same shapes, not kept."""
        return self._guarded("reference", lambda: sample(*self._truth(floats, case.others, dy)), "float64").cotangents

    def _guarded(self, stage: str, run: Callable[[], Any], dtype: Any) -> Any:
        try:
            with wide("float64" if "float64" in str(dtype) else "float32" if "float32" in str(dtype) else "float16"):
                return run()
        except Exception as error:
            raise Refused(error, stage) from error


def _vjp(f):
    def vjp(floats, others, dy):
        y, pull = jax.vjp(lambda floats: f(floats, others), floats)
        return y, pull(dy)[0]

    return vjp


def _each(dtype, leaves):
    return dtype if isinstance(dtype, tuple) else (dtype,) * len(leaves)


def changed(s: Sample, k: int, f: Callable[[np.ndarray], np.ndarray]) -> Sample:
    """The sample with one cotangent put through f."""
    return replace(s, cotangents=tuple(f(c) if i == k else c for i, c in enumerate(s.cotangents)))


def narrow(f: Callable, floats: Leaves, others: Leaves, dy: Leaves | None = None) -> str:
    """The narrowest floating dtype that f computes with when its inputs are float64, or "" if that is float64."""
    args = (floats, others) if dy is None else (floats, others, dy)
    with wide("float64"):
        found = _floating(jax.make_jaxpr(f)(*args).jaxpr)
    return min(found, key=lambda d: jnp.finfo(d).bits) if found else ""


def _floating(jaxpr: Any) -> set[str]:
    from verify.oracles import _inner, _open

    found = set()
    for eqn in jaxpr.eqns:
        for v in eqn.outvars:
            dtype = getattr(v.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 64:
                found.add(str(dtype))
        for _, inner in _inner(eqn.params):
            found |= _floating(_open(inner))
    return found
