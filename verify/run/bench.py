"""Where a subject and its oracle are run: each compiled once for every shape and dtype, each result kept."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.inputs.case import Case, Leaves, is_float, is_key
from verify.jaxpr.interpret import asked, inner_jaxprs, jaxpr_of, look, open_jaxpr, points
from verify.jaxpr.kinks import sided
from verify.processes.guard import wide
from verify.run.options import quick_options
from verify.subject.contract import INFERRED, Contract
from verify.subject.flat import Flat
from verify.subject.oracles import Oracle, without_rules

LOOPS = {"scan", "while"}
DECOMPOSED = {"eigh", "eig", "svd", "schur"}  # which may never come back from an infinity
LINALG = {"lu", "cholesky", "qr", "eigh", "eig", "svd", "triangular_solve", "geqrf", "householder_product", "schur"}


class Refused(Exception):  # noqa: N818 - a signal between modules, seen by no user
    """A stranger's code raised. `stage` says whether going forward already did, or only the backward pass."""

    def __init__(self, error: Exception, stage: str):
        super().__init__(str(error))
        self.error, self.stage = error, stage


@dataclass(frozen=True)
class Sample:
    """One call: outputs and cotangents in float64 for comparison, and the shapes and dtypes that the cotangents had."""

    y: tuple[np.ndarray, ...]
    cotangents: tuple[np.ndarray, ...]
    types: tuple[tuple[tuple[int, ...], str], ...]


Corrupt = Callable[[Sample, Leaves, str, int], Sample]


def sample(y: Any, cotangents: Any) -> Sample:
    types = tuple((tuple(c.shape), str(c.dtype)) for c in cotangents)
    up = lambda leaves: tuple(np.asarray(np.asarray(v), np.float64) for v in leaves)  # noqa: E731  # no copy of what is
    return Sample(up(y), up(cotangents), types)


def finite(leaves: Leaves) -> bool:
    return all(np.isfinite(v).all() for v in leaves)


class Bench:
    """Runs the subject ("jit", "apart"), the truth in float64, and the plain definition in any dtype.

    `corrupt` is what a canary does to every result of the subject: (sample, dy, mode, how many calls before) -> sample.
    """

    def __init__(
        self, flat: Flat, oracle: Oracle, example: Case, native: tuple[Any, ...], contract: Contract = INFERRED
    ):
        self.flat, self.oracle, self.example, self.native, self.contract = flat, oracle, example, native, contract
        self.corrupt: Corrupt | None = None
        self.ends: tuple[float, float] | None = None  # when the audit began, and how many seconds it may take
        self.calls = 0
        self.comparisons = 0
        self.memo: dict[Any, Any] = {}
        self._native = jax.jit(flat.vjp)
        self.random = any(is_key(x) or x.dtype == np.uint32 for x in example.others)  # a new-style key, or its bits
        self._ways = {"jit": self.compiled(flat.vjp), "apart": self.compiled(flat.vjp_apart)}
        self._truth = oracle.vjp if oracle.slack else self.compiled(oracle.vjp)
        self._plain = self.compiled(_vjp(oracle.primal))

    def compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f compiled with little optimization: every shape is run a few times only."""
        return jax.jit(f, compiler_options=quick_options(self.random))

    def corrupted(self, corrupt: Corrupt) -> "Bench":
        """The same bench with a subject that is wrong in one way. Results already computed are shared."""
        other = copy.copy(self)
        other.corrupt, other.calls = corrupt, 0
        return other

    def late(self, share: float = 1.0) -> bool:
        """Whether this share of the time that there is has passed."""
        return self.ends is not None and time.monotonic() - self.ends[0] > share * self.ends[1]

    def came(self, got: Sample, dy: Leaves, mode: str, call: int = 0) -> Sample:
        """What a law gets to see of the subject's answer to this call: all answers come through here."""
        return self.corrupt(got, dy, mode, call) if self.corrupt else got

    def also(self, other: "Bench") -> "Bench":
        """Another bench whose subject is wrong in the way in which this one's is, if it is."""
        return other.corrupted(self.corrupt) if self.corrupt else other

    def once(self, key: Any, run: Callable[[], Any]) -> Any:
        """run(), which does not depend on what is made wrong: done once for a law and all its canaries."""
        if key not in self.memo:
            self.memo[key] = run()
        return self.memo[key]

    def outputs(self, case: Case, dtype: Any) -> tuple:
        """The shapes and dtypes of the subject's float outputs."""
        run = lambda: jax.eval_shape(self.flat.primal, *case.at(dtype))  # noqa: E731
        return self.once(("outputs", case.shapes, str(dtype)), lambda: self.guarded("forward", run, dtype))

    def cotangent(self, case: Case, dy: Leaves, dtype: Any) -> Leaves:
        return tuple(d.astype(s.dtype) for d, s in zip(dy, self.outputs(case, dtype), strict=True))

    def pull(
        self, case: Case, label: str, dy: Leaves, dtype: Any = "float64", mode: str = "jit", fresh=False
    ) -> Sample:
        """What the subject answers. Raises Refused if it raises."""
        key = ("pull", id(case), label, str(dtype), mode)
        if fresh or key not in self.memo:
            down = self.cotangent(case, dy, dtype)
            # as its user compiles it, but not at every other size, which takes three times as long
            users = mode == "jit" and dtype == self.native and case.shapes == self.example.shapes
            way = self._native if users else self._ways[mode]
            way = self._one_array(case, mode) or way
            got = self.guarded("backward", lambda: sample(*way(*case.at(dtype), down)), dtype)
            self.memo[key] = (got, case)  # holding the case keeps its id its own
        got = self.memo[key][0]
        self.calls += 1
        return self.came(got, dy, mode, self.calls - 1)

    def _one_array(self, case: Case, mode: str) -> Callable[..., Any] | None:
        """For a case with one array in several places: a layer called so, which can tell. (A custom rule cannot.)"""
        first = tuple(next(i for i, y in enumerate(case.floats) if y is x) for x in case.floats)
        if first == tuple(range(len(first))) or self.flat.subject.kind != "layer":
            return None
        if ("one array", first, mode) not in self.memo:
            vjp = self.flat.vjp_apart if mode == "apart" else self.flat.vjp
            run = lambda floats, others, dy: vjp(tuple(floats[i] for i in first), others, dy)  # noqa: E731
            self.memo["one array", first, mode] = self.compiled(run)
        return self.memo["one array", first, mode]

    def truth(self, case: Case, label: str, dy: Leaves, dtype: Any = "float64") -> Sample:
        """The oracle's answer in float64, at the values that `dtype` can hold."""
        low = not isinstance(dtype, str) or np.dtype(dtype).itemsize < 4
        key = ("truth", id(case), label, str(dtype) if low else "")
        if key not in self.memo:
            values = case.at(dtype if low else "float64")
            down = tuple(np.asarray(d, np.float64) for d in self.cotangent(case, dy, dtype)) if low else dy
            floats, others = (tuple(map(_widened, leaves)) for leaves in values)
            got = self.guarded("reference", lambda: sample(*self._truth(floats, others, down)), "float64")
            self.memo[key] = (got, case)
        return self.memo[key][0]

    def own(self, case: Case, label: str, dy: Leaves, dtype: Any = "float64") -> Sample:
        """The subject's answer in float64 at the values that `dtype` can hold, as it is without `corrupt`."""
        key = ("own", id(case), label, str(dtype))
        if key not in self.memo:
            floats, others = (tuple(map(_widened, leaves)) for leaves in case.at(dtype))
            down = self.cotangent(case, self.cotangent(case, dy, dtype), "float64")
            got = self.guarded("backward", lambda: sample(*self._ways["jit"](floats, others, down)), "float64")
            self.memo[key] = (got, case)
        return self.memo[key][0]

    def plain(self, case: Case, label: str, dy: Leaves, dtype: Any) -> Sample:
        """What automatic differentiation of the definition itself answers in `dtype`."""
        key = ("plain", id(case), label, str(dtype))
        if key not in self.memo:

            def run():
                floats, others = case.at(dtype)
                y = jax.eval_shape(self.oracle.primal, floats, others)
                down = tuple(d.astype(s.dtype) for d, s in zip(dy, y, strict=True))
                return sample(*self._plain(floats, others, down))

            self.memo[key] = (self.guarded("reference", run, dtype), case)
        return self.memo[key][0]

    def second(self, whose: str, draw: Any, v: Leaves) -> Sample:
        """The derivative along v of the cotangents, by reverse mode or, where that fails, by forward mode."""
        case, _, dy = draw
        floats, others = case.at("float64")
        down = self.cotangent(case, dy, "float64")
        one = _vjp(self.oracle.primal) if whose == "truth" else self.flat.vjp

        def backward(floats, others, dy, v):
            return jax.vjp(lambda floats: one(floats, others, dy)[1], floats)[1](v)[0]

        def forward(floats, others, dy, v):
            return jax.jvp(lambda floats: one(floats, others, dy)[1], (floats,), (v,))[1]

        def run():
            key = ("second", whose)
            if key not in self.memo:
                try:
                    jax.eval_shape(backward, floats, others, down, v)
                    self.memo[key] = self.compiled(backward)
                except Exception:  # noqa: BLE001 - a while loop, for example; what forward mode says is reported
                    self.memo[key] = self.compiled(forward)
            return sample((), self.memo[key](floats, others, down, v))

        return self.guarded("reference" if whose == "truth" else "backward", run, "float64")

    @property
    def primitives(self) -> set[str]:
        """The names of all primitives in the subject's forward and backward pass."""
        return self._looked()[0]

    @property
    def symbolic(self) -> bool:
        """Whether a rule sees symbolic zeros."""
        return self._looked()[1]

    @property
    def equations(self) -> int:
        """The number of equations in the subject's forward and backward pass, or in the definition if that has more."""
        return max(self._looked()[2], self._defined()[2])

    @property
    def defined(self) -> set[str]:
        """The names of all primitives in the definition."""
        return self._defined()[0]

    def _defined(self) -> tuple[set[str], bool, int]:
        run = lambda: look([jax.make_jaxpr(self.oracle.primal)(*self.example.at("float64")).jaxpr])  # noqa: E731
        return self.once("defined", lambda: self.guarded("reference", run, "float64"))

    @property
    def either(self) -> set[str]:
        """The names of all primitives in the subject or the definition."""
        return self.primitives | self.defined

    @property
    def pointing(self) -> dict[int, set[int]]:
        """The integer leaves, counted over others, that point into an axis: in the subject or in its definition; and
        how many places such axes have."""
        if "pointing" not in self.memo:
            floats, others = self.example.at("float64")
            both = self.flat.primal, self.oracle.primal
            run = lambda: [points(jaxpr_of(f, floats, others), len(floats)) for f in both]  # noqa: E731
            one, other = self.guarded("forward", run, "float64")
            self.memo["pointing"] = {i: one.get(i, set()) | other.get(i, set()) for i in {*one, *other}}
        return self.memo["pointing"]

    @property
    def asked(self) -> dict[int, set[float]]:
        """By leaf, counted over floats and others, the numbers for which the definition asks, and of floats the rule:
        an integer for which the rule alone asks is one that it may refuse, as past the end of an axis."""
        if "asked" not in self.memo:
            floats, others = self.example.at("float64")
            dy = tuple(np.ones(s.shape, s.dtype) for s in self.outputs(self.example, "float64"))
            both = lambda floats, others: self.flat.vjp(floats, others, dy)  # noqa: E731
            found: dict[int, set[float]] = {}
            for stage, f in (("reference", self.oracle.primal), ("backward", both)):
                with suppress(Refused):
                    of_one = self.guarded(stage, lambda f=f: asked(jaxpr_of(f, floats, others)), "float64")
                    for leaf, numbers in of_one.items():
                        if stage == "reference" or leaf < len(floats):
                            found.setdefault(leaf, set()).update(numbers)
            self.memo["asked"] = found
        return self.memo["asked"]

    @property
    def stopped(self) -> bool:
        """Whether the definition stops gradients in such a way that they are not its own derivatives any more."""
        if "stopped" not in self.memo:
            self.memo["stopped"] = self.guarded("reference", self._stops, "float64")
        return self.memo["stopped"]

    def _stops(self) -> bool:
        floats, others = self.example.at("float64")
        if "stop_gradient" not in self.defined:
            return False
        dy = tuple(np.ones(s.shape, s.dtype) for s in jax.eval_shape(self.oracle.primal, floats, others))
        free = _vjp(without_rules(self.oracle.primal, moving=True))
        held, moved = (self.compiled(f)(floats, others, dy)[1] for f in (self.oracle.vjp, free))
        return any(not np.allclose(a, b, 1e-6, 1e-9, equal_nan=True) for a, b in zip(held, moved, strict=True))

    def _looked(self) -> tuple[set[str], bool, int]:
        """(primitives, whether symbolic zeros are asked for, equations) in the jaxprs of primal and vjp."""
        if "looked" not in self.memo:
            self.memo["looked"] = self._look()
        return self.memo["looked"]

    def _look(self) -> tuple[set[str], bool, int]:
        floats, others = self.example.at("float64")

        def run():
            dy = tuple(np.ones(s.shape, s.dtype) for s in jax.eval_shape(self.flat.primal, floats, others))
            return [
                jax.make_jaxpr(self.flat.primal)(floats, others).jaxpr,
                jax.make_jaxpr(self.flat.vjp)(floats, others, dy).jaxpr,
            ]

        try:
            jaxprs = self.guarded("backward", run, "float64")
        except Refused:
            return set(), False, 0
        return look(jaxprs)

    def at(self, case: Case, floats: Leaves, dy: Leaves) -> Sample:
        """The oracle's answer at other values of the same shapes, not kept."""
        others = case.at("float64")[1]
        return self.guarded("reference", lambda: sample(*self._truth(floats, others, dy)), "float64")

    def sided(self, case: Case, dy: Leaves) -> Iterator[Leaves]:
        """The oracle's cotangents with the kinks inside of it moved to a side: all up, all down, some in another order
        of their elements, and each in every way that is left."""
        floats, others = case.at("float64")
        key = "sided", case.shapes

        def compiled():
            run, count = sided(jaxpr_of(self.oracle.primal, floats, others))
            return self.compiled(run), list(product((1.0, -1.0), repeat=count)) if count else []

        def at(signs, order):
            return sample(*run(floats, others, dy, np.asarray(signs), order)).cotangents

        with suppress(Refused):
            if key not in self.memo:
                self.memo[key] = self.guarded("reference", compiled, "float64")
            run, signs = self.memo[key]
            orders = [(signs[i % len(signs)], i + 1.0) for i in range(32 if signs else 0)]
            sides = [(some, 0.0) for some in signs]
            for way in (*sides[:1], *sides[-1:], *orders, *sides[1:-1]):
                yield self.guarded("reference", partial(at, *way), "float64")

    def guarded(self, stage: str, run: Callable[[], Any], dtype: Any) -> Any:
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


def _widened(x: Any) -> Any:
    return np.asarray(x, np.float64) if is_float(x) else x


def changed(s: Sample, k: int, f: Callable[[np.ndarray], np.ndarray]) -> Sample:
    """The sample with one cotangent put through f."""
    return replace(s, cotangents=tuple(f(c) if i == k else c for i, c in enumerate(s.cotangents)))


def narrow(f: Callable, floats: Leaves, others: Leaves, dy: Leaves) -> str:
    """The narrowest floating dtype that values depending on float64 inputs are rounded to in f, "" for none."""
    with wide("float64"):
        jaxpr = jax.make_jaxpr(f)(floats, others, dy).jaxpr
    found = _rounded(jaxpr, {v for v in jaxpr.invars if _float_bits(v) == 64})
    return min(found, key=lambda d: jnp.finfo(d).bits) if found else ""


def _rounded(jaxpr: Any, live: set[Any]) -> set[str]:
    """`live` are the variables that depend on the inputs: constants may be as narrow as they like."""
    found = set()
    for eqn in jaxpr.eqns:
        wet = [v for v in eqn.invars if not hasattr(v, "val") and v in live]
        if not wet:
            continue
        live |= set(eqn.outvars)
        several = inner_jaxprs(eqn.params)
        for _, inner in several:
            inside = open_jaxpr(inner)
            same = len(inside.invars) == len(eqn.invars)
            pairs = zip(inside.invars, eqn.invars, strict=True) if same else ((v, wet[0]) for v in inside.invars)
            found |= _rounded(inside, {a for a, b in pairs if any(b is v for v in wet)})
        if not several and any(_float_bits(v) == 64 for v in wet):
            found |= {str(v.aval.dtype) for v in eqn.outvars if _float_bits(v) < 64}
    return found


def _float_bits(v: Any) -> int:
    dtype = getattr(v.aval, "dtype", None)
    return jnp.finfo(dtype).bits if dtype is not None and jnp.issubdtype(dtype, jnp.floating) else 128
