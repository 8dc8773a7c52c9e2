"""The laws of a backward pass: each a small function that yields what breaks it, and beside it a canary.

A canary is a wrong backward made from the subject's own results. A law that does not reject its canary on this very
subject has proved nothing about it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from verify import budget
from verify.bench import Bench, Refused, Sample, Spoil, changed, finite, quick_jit, sample
from verify.budget import Draw, largest, off
from verify.inputs import Case, Leaves, single
from verify.subject import StructureError, wide


@dataclass(frozen=True)
class Breach:
    """One law broken in one place. leaf counts the float leaves, or is None; size is relative to the leaf's own.

    `shown` are the arrays (ours, truth) from which the kind of mistake can be read.
    """

    law: str
    leaf: int | None
    size: float
    text: str
    draw: Draw | None = None
    shown: tuple[np.ndarray, np.ndarray] | None = None
    note: bool = False
    where: str = ""
    dtype: str = "float64"


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


@dataclass(frozen=True)
class Law:
    """check(bench, plan) yields breaches; canaries(bench, plan) gives wrong backwards (name, leaf, spoil) to reject."""

    name: str
    check: Callable[[Bench, Plan], Iterator[Breach]]
    canaries: Callable[[Bench, Plan], Iterator[tuple[str, int | None, Spoil]]]


def _leaves(bench: Bench) -> range:
    return range(len(bench.flat.layout.floats))


def _label(draw: Draw) -> str:
    return f"{draw[0].label}, {draw[1]}"


def refusal(law: str, draw: Draw, refused: Refused, note: bool, dtype: Any = "float64") -> Breach:
    from verify.oracles import brief

    error = refused.error
    where = error.where if isinstance(error, StructureError) else ""
    law = "structure" if where else law
    return Breach(law, None, 1.0, f"raised {brief(error)} in {dtype}", draw, None, note, where, str(dtype))


# float64 ------------------------------------------------------------------------------------------------------------


def dense(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """Every element of every cotangent is the truth's, at every input."""
    refused: list[tuple[Draw, Refused]] = []
    taken: list[Draw] = []
    for draw in plan.all:
        try:
            bench.truth(*draw)
        except Refused:
            continue  # the reference does not take this input, so nothing is known about it
        try:
            bench.pull(*draw)
        except Refused as error:
            refused.append((draw, error))
            continue
        taken.append(draw)
        yield from _compared(bench, plan, draw)
    for draw, error in refused:
        # a rule may be written for one size of an axis; raising at some other sizes of it and not at all is a mistake
        own = _resized(bench, draw[0])
        known = set().union(*(_resized(bench, d[0]) for d in taken)) if taken else set()
        yield refusal("runs", draw, error, note=error.stage == "forward" or bool(own - known))


def _resized(bench: Bench, case: Case) -> set[tuple[int, int]]:
    """The axes, as (leaf, axis), whose size is not the example's."""
    leaves = zip((*case.floats, *case.others), (*bench.example.floats, *bench.example.others), strict=True)
    shapes = [(np.shape(x), np.shape(y)) for x, y in leaves]
    return {(i, a) for i, (s, t) in enumerate(shapes) for a, (n, m) in enumerate(zip(s, t, strict=True)) if n != m}


def _compared(bench: Bench, plan: Plan, draw: Draw) -> Iterator[Breach]:
    case, _, dy = draw
    truth, ours = bench.truth(*draw), bench.pull(*draw)
    for k in _leaves(bench):
        mine, true = ours.cotangents[k], truth.cotangents[k]
        if mine.shape != true.shape:
            yield Breach("structure", k, 1.0, f"got shape {list(mine.shape)}, expected {list(true.shape)}", draw)
            continue
        bench.comparisons += 1
        gap = off(mine, true)
        if not np.isfinite(gap):
            yield Breach("finite", k, np.inf, "not finite where the truth is", draw, (mine, true))
            continue
        room = budget.tight(bench, case, dy, k, true)
        if gap <= room:
            continue
        room += budget.measured(bench, draw, k)
        if gap <= room:
            continue
        size = gap / max(budget.scale(bench, case, dy, k, true), 1e-300)
        if not plan_ordinary(draw) and budget.subgradient(bench, case, dy, k, ours.cotangents, true, room):
            yield Breach(
                "kink",
                k,
                size,
                "differs from the reference at a kink, between the one-sided derivatives",
                draw,
                None,
                note=True,
            )
            continue
        yield Breach("dense", k, size, f"off by {gap:.2g}, allowed {room:.1g}", draw, (mine, true))


def plan_ordinary(draw: Draw) -> bool:
    return draw[0].ordinary and draw[0].label != "example"


def spoils(bench: Bench, plan: Plan) -> Iterator[tuple[str, int | None, Spoil]]:
    """The usual mistakes, leaf by leaf: zero, sign, 1 %, one element, shifted, transposed."""
    little = 1e-6 if not budget.inner_eps(bench) and not bench.oracle.slack else 1e-3

    def one_element(c):
        c = c.copy()
        if c.size:
            i = int(np.argmax(np.where(np.isfinite(c), np.abs(c), -1)))
            c.flat[i] = c.flat[i] * (1 + little) if c.flat[i] else little
        return c

    def shifted(c):
        return np.roll(c, 1, axis=int(np.argmax(c.shape))) if c.ndim else c

    def transposed(c):
        return np.swapaxes(c, -1, -2) if c.ndim > 1 and c.shape[-1] == c.shape[-2] else c

    mistakes = {
        "zero": np.zeros_like,
        "sign": np.negative,
        "x1.01": lambda c: 1.01 * c,
        "one element": one_element,
        "shifted": shifted,
        "transposed": transposed,
    }
    for k in _leaves(bench):
        for name, f in mistakes.items():
            yield name, k, lambda s, dy, mode, n, k=k, f=f: changed(s, k, f)


def value(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """The output that comes with the pullback is the definition's."""
    if bench.oracle.kind != "reference":
        return
    for draw in plan.all:
        try:
            truth, ours = bench.truth(*draw).y, bench.pull(*draw).y
        except Refused:
            continue
        if [v.shape for v in truth] != [v.shape for v in ours]:
            shapes = [list(v.shape) for v in ours], [list(v.shape) for v in truth]
            yield Breach("value", None, 1.0, f"outputs have shapes {shapes[0]}, the reference's {shapes[1]}", draw)
            return
        for i, (mine, true) in enumerate(zip(ours, truth, strict=True)):
            bench.comparisons += 1
            gap = off(mine, true)
            room = max(budget.TIGHT, 64 * budget.inner_eps(bench)) * max(largest(true), 1.0 if gap < 1e-13 else 0.0)
            if gap <= room:
                continue
            try:
                rough = [run(*draw, "float32").y[i] for run in (bench.plain, bench.pull)]
                noise = sum(largest(np.abs(r - v)) for r, v in zip(rough, (true, mine), strict=True))
            except Refused:
                noise = 0.0
            if not np.isfinite(gap) or gap > room + budget.SAFETY * budget.DOWN * noise:
                size = gap / max(largest(true), 1e-300)
                yield Breach("value", None, size, f"output {i} is off by {gap:.2g}: the forward differs", draw)


def _wrong_value(bench: Bench, plan: Plan):
    if bench.oracle.kind == "reference":
        yield "x1.01", None, lambda s, dy, mode, n: replace(s, y=tuple(1.01 * v for v in s.y))


# the cotangent ------------------------------------------------------------------------------------------------------


def linear(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """pull(a u + b v) = a pull(u) + b pull(v), a and b far from one."""
    for case in _some(plan):
        shapes = bench.outputs(case, "float64")
        rng = np.random.default_rng(1)
        u, v = (tuple(single(rng.normal(size=s.shape)) for s in shapes) for _ in range(2))
        for a, b in ((1.0, 1.0), (-1e4, 1.0), (2.0**-20, -(2.0**-22))):
            both = tuple(a * p + b * q for p, q in zip(u, v, strict=True))
            parts = [bench.pull(case, f"linear {n}", d).cotangents for n, d in (("u", u), ("v", v))]
            whole = bench.pull(case, f"linear {a} {b}", both).cotangents
            for k, (p, q, w) in enumerate(zip(*parts, whole, strict=True)):
                bench.comparisons += 1
                if not (np.isfinite(p).all() and np.isfinite(q).all()):
                    continue
                size = abs(a) * largest(p) + abs(b) * largest(q)
                gap = off(w, a * p + b * q)
                room = max(1e-11, 64 * budget.inner_eps(bench)) * max(size, budget.usual(bench, k) * abs(a)) + 1e-290
                draw = (case, f"linear {a} {b}", both)
                if gap > room and gap > room + 2 * budget.measured(bench, draw, k):
                    text = f"is not linear in the cotangent: {a:g} u + {b:g} v is off by {gap:.2g}"
                    yield Breach("linear", k, gap / max(size, 1e-300), text, draw)


def _nonlinear(bench: Bench, plan: Plan):
    def clipped(s: Sample, dy, mode, n):
        top = max(map(largest, s.cotangents), default=0.0)
        limit = max(budget.usual(bench, k) for k in _leaves(bench)) or top / 2
        return replace(s, cotangents=tuple(np.clip(c, -limit, limit) for c in s.cotangents))

    yield "clipped", None, clipped


def _some(plan: Plan) -> list[Case]:
    """The example and one other ordinary input."""
    cases: list[Case] = []
    for case, _, _ in plan.ordinary:
        if all(case is not c for c in cases):
            cases.append(case)
    return cases[:2]


def zero(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """pull(0) = 0, exactly."""
    for case in _some(plan):
        dy = tuple(np.zeros(s.shape) for s in bench.outputs(case, "float64"))
        for k, c in enumerate(bench.pull(case, "zero", dy).cotangents):
            bench.comparisons += 1
            if not (np.isfinite(c).all() and largest(c) == 0):
                yield Breach("zero", k, largest(c), "is not zero for a zero cotangent", (case, "zero", dy))


def _added(bench: Bench, plan: Plan):
    def more(s: Sample, dy, mode, n):
        return replace(s, cotangents=tuple(c + 1e-12 for c in s.cotangents))

    yield "constant added", None, more


def adjoint(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """⟨dy, J v⟩ = ⟨pull(dy), v⟩ with J v from forward mode of the definition."""
    if bench.oracle.slack:
        return
    forward = bench.memo.setdefault(
        "jvp", jax.jit(lambda x, o, v: jax.jvp(lambda x: bench.oracle.primal(x, o), (x,), (v,)))
    )
    rng = np.random.default_rng(2)
    for draw in plan.ordinary[:2]:
        case, _, dy = draw
        v = tuple(rng.normal(size=np.shape(x)) for x in case.floats)
        try:
            with wide("float64"):
                _, tangents = forward(*case.at("float64"), v)
        except Exception:  # noqa: BLE001 - a definition without a forward mode; the dense law does not need it
            return
        ours = bench.pull(*draw).cotangents
        left = [np.asarray(d) * np.asarray(t) for d, t in zip(dy, tangents, strict=True)]
        right = [c * w for c, w in zip(ours, v, strict=True) if c.shape == w.shape]
        bench.comparisons += 1
        terms = sum(float(np.abs(p).sum()) for p in left + right)
        gap = abs(sum(float(p.sum()) for p in left) - sum(float(p.sum()) for p in right))
        room = max(budget.TIGHT, 64 * budget.inner_eps(bench)) * terms
        if np.isfinite(gap) and gap > room:
            room += sum(budget.measured(bench, draw, k) * float(np.abs(v[k]).sum()) for k in _leaves(bench))
            if gap > room:
                text = f"⟨dy, J v⟩ and ⟨pull(dy), v⟩ differ by {gap:.2g} of {terms:.2g}"
                yield Breach("adjoint", None, gap / terms, text, draw)


def _scaled(bench: Bench, plan: Plan):
    if not bench.oracle.slack:
        yield "x1.01", None, lambda s, dy, mode, n: replace(s, cotangents=tuple(1.01 * c for c in s.cotangents))


# how it is called ---------------------------------------------------------------------------------------------------


def structure(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """Each cotangent has the shape and the dtype of its leaf."""
    for dtype in (plan.native, *plan.dtypes):
        draw = plan.ordinary[0]
        try:
            ours = bench.pull(*draw, dtype)
        except Refused as refused:
            yield _excused(bench, draw, refused, dtype)
            continue
        for k, (leaf, (shape, got)) in enumerate(zip(draw[0].at(dtype)[0], ours.types, strict=True)):
            bench.comparisons += 1
            if shape != leaf.shape or got != str(leaf.dtype):
                text = f"got {got}{list(shape)}, expected {leaf.dtype}{list(leaf.shape)}"
                yield Breach("structure", k, 1.0, text, draw, dtype=str(dtype))


def _excused(bench: Bench, draw: Draw, refused: Refused, dtype) -> Breach:
    """A dtype that the forward or the definition refuses as well is not the backward's fault."""
    note = refused.stage == "forward" and dtype != bench.native
    if not note and dtype != bench.native:
        try:
            bench.plain(*draw, dtype)
        except Refused:
            note = True
    return refusal("runs", draw, refused, note, dtype)


def _other_dtype(bench: Bench, plan: Plan):
    def cast(s: Sample, dy, mode, n):
        return replace(s, types=(*s.types[:-1], (s.types[-1][0], "float8")))

    yield "dtype", None, cast


def pure(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """The same input gives the same bits, whatever was computed in between: A, B, A compiled; A then B, pulled back
    in the order A, B, one operation at a time."""
    first, second = _two(plan)
    once = bench.pull(*first, plan.native, fresh=True)
    bench.pull(*second, plan.native, fresh=True)
    again = bench.pull(*first, plan.native, fresh=True)
    for k, (a, b) in enumerate(zip(once.cotangents, again.cotangents, strict=True)):
        bench.comparisons += 1
        if not np.array_equal(a, b, equal_nan=True):
            text = f"the same call gave another result the second time, off by {off(a, b):.2g}"
            yield Breach("pure", k, off(a, b) / max(largest(a), 1e-300), text, first, (b, a))


def _two(plan: Plan) -> tuple[Draw, Draw]:
    """Two draws, at different inputs if there are any."""
    first = plan.ordinary[0]
    return first, next((d for d in plan.ordinary if d[0] is not first[0]), plan.ordinary[-1])


def _drifting(bench: Bench, plan: Plan):
    def drift(s: Sample, dy, mode, n):
        return replace(s, cotangents=tuple(c + n * 1e-7 * max(largest(c), 1e-30) for c in s.cotangents))

    yield "drifting", None, drift


def eager(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """Compiled or not, and with another call in between, the result is the same but for rounding."""
    first, second = _two(plan)
    try:
        found = bench.memo.get("eager") or _interleaved(bench, plan, first, second)
    except Refused as refused:
        yield refusal("eager", first, refused, refused.stage == "forward", plan.native)
        return
    bench.memo["eager"] = found
    for draw, got in zip((first, second), found, strict=True):
        got = bench.spoil(got, draw[2], "eager", 0) if bench.spoil else got
        compiled = bench.pull(*draw, plan.native)
        for k, (a, b) in enumerate(zip(got.cotangents, compiled.cotangents, strict=True)):
            bench.comparisons += 1
            rows = budget.low(bench, [draw], plan.native, k)
            noise = off(compiled.cotangents[k], bench.pull(*draw).cotangents[k])  # its own rounding, right or wrong
            if budget.random(bench) and noise > 0.2 * budget.whole(bench, draw):
                noise = 0.0  # other numbers are drawn in float64
            room = rows[0][1] + 4 * noise if rows else np.inf
            gap = off(a, b)
            if gap > room:
                text = f"one operation at a time the result is off by {gap:.2g} from the compiled one"
                yield Breach("eager", k, gap / max(largest(b), 1e-300), text, draw, (a, b), dtype=str(plan.native))


def _interleaved(bench: Bench, plan: Plan, *draws: Draw) -> list[Sample]:
    """Forward for all draws, then the way back for all, uncompiled."""

    def run():
        down = [bench.cotangent(case, dy, plan.native) for case, _, dy in draws]
        values = [tuple(map(as_arrays, case.at(plan.native))) for case, _, _ in draws]
        ahead = [bench.flat.pullback(floats, others) for floats, others in values]
        return [sample(y, pull(as_arrays(d))) for (y, pull), d in zip(ahead, down, strict=True)]

    try:
        return bench._guarded("backward", run, plan.native)
    except Refused as refused:
        case = draws[0][0]
        try:
            bench._guarded("forward", lambda: bench.flat.primal(*map(as_arrays, case.at(plan.native))), plan.native)
        except Refused as earlier:
            raise earlier from refused
        raise


def as_arrays(leaves: Leaves) -> Leaves:
    return tuple(jax.numpy.asarray(x) for x in leaves)


def _eager_only(bench: Bench, plan: Plan):
    def wrong(s: Sample, dy, mode, n):
        return s if mode != "eager" else replace(s, cotangents=tuple(1.01 * c for c in s.cotangents))

    yield "wrong uncompiled", None, wrong


def batched(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """vmap over inputs and cotangent is a loop over them; so is vmap over the cotangent alone."""
    cases = [d for d in plan.ordinary if d[1] == "noise"][:3]
    if any(_keys(c) for c, _, _ in cases):
        cases = [(replace(c, others=cases[0][0].others), f"vmap {label}", dy) for c, label, dy in cases]
    alone = [(cases[0][0], f"vmap {i}", dy) for i, (_, _, dy) in enumerate(cases)]
    for name, axes, draws in (("everything", 0, cases), ("the cotangent", None, alone)):
        key = ("batched", name)
        try:
            if key not in bench.memo:
                bench.memo[key] = draws, _vmapped(bench, draws, axes)
        except Refused as refused:
            yield refusal("vmap", draws[0], refused, note=not _vmaps(bench, draws))
            continue
        draws, together = bench.memo[key]
        for i, draw in enumerate(draws):
            got = bench.spoil(together[i], draw[2], "vmap", i) if bench.spoil else together[i]
            each = bench.pull(*draw)
            for k, (a, b) in enumerate(zip(got.cotangents, each.cotangents, strict=True)):
                bench.comparisons += 1
                gap = off(a, b)
                room = budget.tight(bench, draw[0], draw[2], k, b)
                if gap > room and gap > room + budget.measured(bench, draw, k):
                    text = f"under vmap over {name} the result is off by {gap:.2g} from a loop's"
                    yield Breach("vmap", k, gap / max(largest(b), 1e-300), text, draw, (a, b))


def _keys(case: Case) -> bool:
    return any(jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) for x in case.others)


def _stacked(bench: Bench, draws: list[Draw], axes: int | None):
    floats, others = zip(*(c.at("float64") for c, _, _ in draws), strict=True)
    downs = [bench.cotangent(c, dy, "float64") for c, _, dy in draws]
    first = draws[0][0]
    if axes is None:
        return floats[0], others[0], tuple(map(np.stack, zip(*downs, strict=True))), (None, None, 0)
    keys = _keys(first)
    stack = lambda several: tuple(map(np.stack, zip(*several, strict=True)))  # noqa: E731
    rest = others[0] if keys else stack(others)
    return stack(floats), rest, stack(downs), (0, None if keys or not rest else 0, 0)


def _vmapped(bench: Bench, draws: list[Draw], axes: int | None) -> list[Sample]:
    floats, others, down, where = _stacked(bench, draws, axes)

    def run():
        y, cotangents = quick_jit(jax.vmap(bench.flat.vjp, where))(floats, others, down)
        return [sample([v[i] for v in y], [c[i] for c in cotangents]) for i in range(len(draws))]

    return bench._guarded("backward", run, "float64")


def _vmaps(bench: Bench, draws: list[Draw]) -> bool:
    """Whether going forward under vmap works, so that the way back should."""
    floats, others, _, where = _stacked(bench, draws, 0)
    try:
        bench._guarded(
            "forward", lambda: jax.eval_shape(jax.vmap(bench.flat.primal, where[:2]), floats, others), "float64"
        )
    except Refused:
        return False
    return True


def _vmap_only(bench: Bench, plan: Plan):
    def wrong(s: Sample, dy, mode, n):
        return s if mode != "vmap" else replace(s, cotangents=tuple(1.01 * c for c in s.cotangents))

    yield "wrong under vmap", None, wrong


def apart(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A layer's backward and gradient, called apart, give what its pull gives."""
    if bench.flat.subject.apart is None:
        return
    for draw in plan.ordinary[:2]:
        try:
            ours, halves = bench.pull(*draw), bench.pull(*draw, mode="apart")
        except Refused as refused:
            yield refusal("halves", draw, refused, note=False)
            return
        for k, (a, b) in enumerate(zip(halves.cotangents, ours.cotangents, strict=True)):
            bench.comparisons += 1
            gap = off(a, b)
            room = budget.tight(bench, draw[0], draw[2], k, b)
            if gap > room and gap > room + budget.measured(bench, draw, k):
                text = f"backward and then gradient is off by {gap:.2g} from pull"
                yield Breach("halves", k, gap / max(largest(b), 1e-300), text, draw, (a, b))


def _apart_only(bench: Bench, plan: Plan):
    if bench.flat.subject.apart is not None:

        def wrong(s: Sample, dy, mode, n):
            return s if mode != "apart" else replace(s, cotangents=tuple(1.01 * c for c in s.cotangents))

        yield "wrong apart", None, wrong


# lower precision ----------------------------------------------------------------------------------------------------


def precise(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """In each lower dtype the error stays within what the definition's own gradient loses in it."""
    for dtype in plan.dtypes:
        draws = [d for d in plan.ordinary if d[1] in ("noise", "more noise")]
        try:
            for k in _leaves(bench):
                rows = budget.low(bench, draws, dtype, k)
                rows = [row for row in rows if _visible(bench, row[3], k)]
                over = [row for row in rows if row[0] > row[1]]
                bench.comparisons += len(rows)
                # one draw may fall on a kink that rounding moves to the other side; most may not
                if rows and len(over) * 2 > len(rows):
                    mine, room, s, draw = max(over, key=lambda row: row[0] / max(row[2], 1e-300))
                    text = f"off by {mine:.2g} in {dtype}, where the definition's own gradient allows {room:.1g}"
                    shown = bench.pull(*draw, dtype).cotangents[k], bench.truth(*draw, dtype).cotangents[k]
                    yield Breach("precision", k, mine / max(s, 1e-300), text, draw, shown, dtype=str(dtype))
        except Refused:
            continue  # the structure law has said so


def _visible(bench: Bench, draw: Draw, k: int) -> bool:
    """Whether leaf k is not next to zero here, in comparison with other draws."""
    size = budget.usual(bench, k) * max(map(largest, draw[2]), default=0.0)
    return largest(bench.truth(*draw).cotangents[k]) > 1e-3 * size


def _imprecise(bench: Bench, plan: Plan):
    # only results in a lower precision are touched: those in float64 are the dense law's affair
    def wrong(s: Sample, dy, mode, n):
        low = s.types and s.types[0][1] != "float64"
        return replace(s, cotangents=tuple(1.5 * c for c in s.cotangents)) if low else s

    yield "x1.5 in low precision", None, wrong


def bounded(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """In the user's own dtype, at extreme inputs, no overflow and no gross loss where the definition has none."""
    here = [d for d in plan.others if d[0].shapes == bench.example.shapes]  # other sizes would have to be compiled
    for draw in here:
        try:
            truth, plain = bench.truth(*draw), bench.plain(*draw, plan.native)
            ours = bench.pull(*draw, plan.native)
        except Refused:
            continue
        for k in _leaves(bench):
            true, rough, mine = (s.cotangents[k] for s in (truth, plain, ours))
            if not (np.isfinite(true).all() and np.isfinite(rough).all()) or mine.shape != true.shape:
                continue
            bench.comparisons += 1
            size = budget.scale(bench, draw[0], draw[2], k, true)
            gap, theirs = off(mine, true), off(rough, true)
            if not finite((mine,)):
                text = f"not finite in {plan.native}, where the definition's own gradient is"
                yield Breach("finite", k, np.inf, text, draw, (mine, true), dtype=str(plan.native))
                continue
            # where the float64 result is wrong too, the dense law says it; that a formula is less stable is no mistake
            if gap > 0.05 * size + 100 * theirs and off(bench.pull(*draw).cotangents[k], true) <= 1e-3 * size:
                text = f"off by {gap:.2g} in {plan.native}, the definition's own gradient by {theirs:.1g}"
                yield Breach("precision", k, gap / size, text, draw, note=True, dtype=str(plan.native))


def _infinite(bench: Bench, plan: Plan):
    def wrong(s: Sample, dy, mode, n):
        low = s.types and s.types[0][1] != "float64"
        return replace(s, cotangents=tuple(np.full_like(c, np.nan) for c in s.cotangents)) if low else s

    if plan.others:
        yield "NaN in low precision", None, wrong


LAWS = (
    Law("structure", structure, _other_dtype),
    Law("dense", dense, spoils),
    Law("value", value, _wrong_value),
    Law("linear", linear, _nonlinear),
    Law("zero", zero, _added),
    Law("adjoint", adjoint, _scaled),
    Law("pure", pure, _drifting),
    Law("eager", eager, _eager_only),
    Law("vmap", batched, _vmap_only),
    Law("halves", apart, _apart_only),
    Law("precision", precise, _imprecise),
    Law("finite", bounded, _infinite),
)
