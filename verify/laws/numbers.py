"""The laws of numbers in float64: of each element, of the output, of the cotangent, of other settings."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace

import jax
import numpy as np

from verify import thresholds as th
from verify.inputs.case import SHAPED, UNSHOWN, Case, Tag, resized, single
from verify.laws import calls
from verify.laws.law import Breach, Plan, leaves, refusal
from verify.processes.guard import wide
from verify.run.bench import LOOPS, Bench, Corrupt, Refused, Sample, changed, finite
from verify.tolerance import budget
from verify.tolerance.budget import Draw, largest, off
from verify.tolerance.facts import Place, alike, chosen, parted
from verify.tolerance.waivers import DIGITS, INFINITE, KINK, OTHER, UNPROMISED, Why, excuse

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
    never = set().union(*(parted(bench, draw[0]) for draw, _ in refused))
    for draw, _ in refused:  # of two axes that must be alike either may be the shorter
        never |= {(j, i) for i, j in parted(bench, draw[0], least=2)}
    size = sum(map(np.size, bench.example.floats))
    larger = lambda draw: sum(map(np.size, draw[0].floats)) > th.LARGER * size  # noqa: E731
    usually, somewhere = set[int | None](), set[int | None]()
    for draw in sorted(taken, key=larger):  # where a kink takes long to ask for, and need not where more is known
        for breach in _compared(bench, plan, draw, somewhere if larger(draw) else usually):
            if not breach.note and parted(bench, draw[0], least=1, most=1) & never:
                why = "; one is broadcast there, and other sizes of this axis are refused"
                breach = replace(breach, waiver=UNPROMISED, text=breach.text + why)
            if not breach.note:
                somewhere.add(breach.leaf)
                usually |= {breach.leaf} if draw[0].ordinary else set()
            yield breach
    for draw, error in refused:
        # a rule may be written for one size of an axis; raising at some other sizes of it and not at all is a mistake
        own = resized(bench.example, draw[0])
        known = set().union(*(resized(bench.example, d[0], least=2) for d in taken)) if taken else set()
        free = bool(draw[0].tags & (SHAPED | UNSHOWN) or parted(bench, draw[0]))  # nobody promised these
        yield refusal("runs", draw, error, promised=error.stage != "forward" and not free and own <= known)


def _compared(bench: Bench, plan: Plan, draw: Draw, wrong: Collection[int | None] = ()) -> Iterator[Breach]:
    """What differs at one draw. Of leaves that are known to be wrong it is not asked whether a kink may explain it."""
    case, _, dy = draw
    truth, ours = bench.truth(*draw), bench.pull(*draw)
    for k in leaves(bench):
        mine, true = ours.cotangents[k], truth.cotangents[k]
        if mine.shape != true.shape:
            yield Breach("structure", k, 1.0, f"got shape {list(mine.shape)}, expected {list(true.shape)}", draw)
            continue
        bench.comparisons += 1
        gap = off(mine, true)
        if not np.isfinite(gap):
            why = excuse(bench, draw, k, infinite=True)
            if not (why or case.ordinary or finite(truth.y)):
                why = Why(INFINITE, "the definition's own output is not finite there")
            text, waiver = _because("not finite where the truth is", why)
            yield Breach("finite", k, np.inf, text, draw, (mine, true), waiver)
            continue
        room = budget.tight(bench, case, dy, k, true)
        if gap <= room:
            continue
        room += budget.measured(bench, draw, k)
        if gap <= room:
            continue
        size = gap / max(budget.scale(bench, case, dy, k, true), 1e-300)
        settled = chosen(Place(bench, draw, k))
        kinked = not (k in wrong or _smooth(draw))
        if kinked and budget.subgradient(bench, case, dy, k, ours.cotangents, true, room, alone=settled):
            yield Breach(
                "kink",
                k,
                size,
                "differs from the reference at a kink, between the one-sided derivatives",
                draw,
                None,
                KINK,
            )
            continue
        text, waiver = _because(f"off by {gap:.2g}, allowed {room:.1g}", excuse(bench, draw, k))
        yield Breach("dense", k, size, text, draw, (mine, true), waiver)


def _because(text: str, why: Why | None) -> tuple[str, str]:
    """(the text with the reason, the waiver)."""
    return (f"{text}; {why.text}", why.waiver) if why else (text, "")


def _smooth(draw: Draw) -> bool:
    """Whether the values are drawn anew, no two alike and none at a bound, zero or one, where a kink is never met."""
    case = draw[0]
    met = any(np.unique(x).size < np.size(x) or np.isin(x, (0, 1)).any() for x in case.floats)
    return case.ordinary and Tag.ANEW in case.tags and not met


def corruptions(bench: Bench, plan: Plan) -> Iterator[tuple[str, int | None, Corrupt]]:
    """The usual mistakes, leaf by leaf: zero, sign, 1 %, one element, shifted, transposed."""
    exact = not budget.inner_eps(bench) and not bench.oracle.slack
    much = max(0.01, 2 * budget.blur(bench))

    def one_element(c):
        c, little = c.copy(), max(1e-6 if exact else 1e-3, 2 * budget.blur(bench))
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
        "x1.01": lambda c: (1 + much) * c,
        "one element": one_element,
        "shifted": shifted,
        "transposed": transposed,
    }
    for k in leaves(bench):
        shape = np.shape(bench.example.floats[k])
        square = len(shape) > 1 and shape[-1] == shape[-2]  # where the example is not, one unusual size could tell
        for name, f in mistakes.items():
            if name != "transposed" or square:
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
            room = max(th.TIGHT, budget.blur(bench)) * max(largest(true), 1.0 if gap < th.ZERO else 0.0)
            if gap <= room:
                continue
            try:
                rough = [run(*draw, "float32").y[i] for run in (bench.plain, bench.pull)]
                noise = sum(off(r, v) for r, v in zip(rough, (true, mine), strict=True))
            except Refused:
                noise = 0.0
            down = 32 * th.SAFETY * th.DOWN  # float32 may hit by luck
            if noise > th.LOST * largest(true):  # all of it, or nothing finite: how much float64 loses is not known
                room, noise = max(room, 1e-6 * largest(true)), min(noise, largest(true))
            room += down * noise
            if not gap <= room:
                why = excuse(bench, draw, output=i)
                if not why and gap <= th.APPROXIMATE * largest(true):
                    why = Why(DIGITS, "float32 would not show it")
                text, waiver = _because(f"output {i} is off by {gap:.2g}: the forward differs", why)
                yield Breach("value", None, gap / max(largest(true), 1e-300), text, draw, waiver=waiver)


def wrong_value(bench: Bench, plan: Plan):
    if bench.oracle.kind == "reference":
        much = max(1.01, 1 + 2 * budget.blur(bench))
        yield "x1.01", None, lambda s, dy, mode, n: replace(s, y=tuple(much * v for v in s.y))


# the cotangent ------------------------------------------------------------------------------------------------------


def linear(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """pull(a u + b v) = a pull(u) + b pull(v), a and b far from one."""
    for case in _some(plan):
        shapes = bench.outputs(case, "float64")
        rng = np.random.default_rng(1)
        u, v = (tuple(single(rng.normal(size=s.shape)) for s in shapes) for _ in range(2))
        small = 2.0**-20 if LOOPS & bench.primitives else 2.0**-40  # a loop may stop at an absolute tolerance
        for a, b in ((1.0, 1.0), (-1e4, 1.0), (small, -small / 4)):
            both = tuple(a * p + b * q for p, q in zip(u, v, strict=True))
            parts = [bench.pull(case, f"linear {n}", d).cotangents for n, d in (("u", u), ("v", v))]
            whole = bench.pull(case, f"linear {a} {b}", both).cotangents
            for k, (p, q, w) in enumerate(zip(*parts, whole, strict=True)):
                bench.comparisons += 1
                if not (np.isfinite(p).all() and np.isfinite(q).all()):
                    continue
                size = abs(a) * largest(p) + abs(b) * largest(q)
                gap = off(w, a * p + b * q)
                unit = 1e-6 if "while" in bench.primitives else 1e-11  # a loop may stop at an absolute tolerance
                room = max(unit, budget.blur(bench)) * max(size, budget.usual(bench, k) * abs(a)) + 1e-290
                draw = (case, f"linear {a} {b}", both)
                if gap > room and gap > room + 2 * budget.measured(bench, draw, k):
                    text = f"is not linear in the cotangent: {a:g} u + {b:g} v is off by {gap:.2g}"
                    yield Breach("linear", k, gap / max(size, 1e-300), text, draw)


def nonlinear(bench: Bench, plan: Plan):
    limit = max(map(largest, bench.pull(*plan.ordinary[0]).cotangents), default=0.0)

    def clipped(s: Sample, dy, mode, n):
        top = max(map(largest, s.cotangents), default=0.0)
        most = limit or top / 2
        return replace(s, cotangents=tuple(np.clip(c, -most, most) for c in s.cotangents))

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
        truth = bench.truth(case, "zero", dy).cotangents
        for k, c in enumerate(bench.pull(case, "zero", dy).cotangents):
            bench.comparisons += 1
            if off(c, truth[k]) > 0:
                yield Breach("zero", k, largest(c), "is not zero for a zero cotangent", (case, "zero", dy))


def added(bench: Bench, plan: Plan):
    def more(s: Sample, dy, mode, n):
        return replace(s, cotangents=tuple(c + 1e-12 for c in s.cotangents))

    yield "constant added", None, more


def adjoint(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """⟨dy, J v⟩ = ⟨pull(dy), v⟩ with J v from forward mode of the definition."""
    if not _sharp(bench):
        return
    forward = bench.memo.setdefault(
        "jvp", jax.jit(lambda x, o, v: jax.jvp(lambda x: bench.oracle.primal(x, o), (x,), (v,)))
    )
    rng, judged = np.random.default_rng(2), 0
    for draw in plan.ordinary:
        case, _, dy = draw
        v = tuple(rng.normal(size=np.shape(x)) for x in case.floats)
        try:
            with wide("float64"):
                _, tangents = forward(*case.at("float64"), v)
        except Exception:  # noqa: BLE001 - a definition without a forward mode; the dense law does not need it
            return
        ours = bench.pull(*draw).cotangents
        if not bench.flat.subject.estimator and any(map(np.any, (budget.apart(bench, draw, k) for k in leaves(bench)))):
            continue  # wrong, which the dense law says, or at a kink, where either side is right
        judged += 1
        if judged > 2:
            return
        left = [np.asarray(d) * np.asarray(t) for d, t in zip(dy, tangents, strict=True)]
        right = [c * w for c, w in zip(ours, v, strict=True) if c.shape == w.shape]
        bench.comparisons += 1
        terms = sum(float(np.abs(p).sum()) for p in left + right)
        gap = abs(sum(float(p.sum()) for p in left) - sum(float(p.sum()) for p in right))
        room = max(th.TIGHT, budget.blur(bench)) * terms
        if np.isfinite(gap) and gap > room:
            room += sum(budget.measured(bench, draw, k) * float(np.abs(v[k]).sum()) for k in leaves(bench))
            if gap > room:
                text = f"⟨dy, J v⟩ and ⟨pull(dy), v⟩ differ by {gap:.2g} of {terms:.2g}"
                yield Breach("adjoint", None, gap / terms, text, draw)


def _sharp(bench: Bench) -> bool:
    """Whether a sum over everything can still tell one per cent."""
    return not bench.oracle.slack and budget.blur(bench) < th.GONE


def scaled(bench: Bench, plan: Plan):
    if _sharp(bench):
        yield "x1.01", None, lambda s, dy, mode, n: replace(s, cotangents=tuple(1.01 * c for c in s.cotangents))


# settings -----------------------------------------------------------------------------------------------------------


def settings(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """With other settings (Python's numbers and flags among the arguments), and with None in the place of an array, the
    cotangents are still the truth's."""
    names = bench.flat.layout.floats
    for i, (other, draw) in enumerate(_settings(bench)):
        varied = bench.also(other)
        try:
            for breach in _compared(varied, plan, draw):
                leaf = None if breach.leaf is None else names.index(other.flat.layout.floats[breach.leaf])
                # nobody promised a setting with which the output is another one too
                waiver = breach.waiver or ("" if alike(other, draw) else OTHER)
                yield replace(breach, law="settings", leaf=leaf, waiver=waiver)
        except Refused as refused:
            yield refusal("settings", draw, refused, promised=False)
        if not i and other.flat.layout.names == bench.flat.layout.names:
            yield from bench.once("settled", lambda other=other, draw=draw: list(calls.settled(bench, other, draw)))
        bench.comparisons += 1


def _settings(bench: Bench) -> Iterator[tuple[Bench, Draw]]:
    for label, other, case in bench.memo.get("settings", ()):
        dy = tuple(single(np.random.default_rng(3).normal(size=s.shape)) for s in other.outputs(case, "float64"))
        draw = (replace(case, label=label), "noise", dy)
        other.memo |= {"draws": [draw], "ordinary": [(other.truth(*draw), dy)]}
        yield other, draw


def setting_only(bench: Bench, plan: Plan):
    for other, draw in _settings(bench):
        with suppress(Refused):
            if finite(other.truth(*draw).y) and alike(other, draw):
                yield "x1.01", None, lambda s, dy, mode, n: replace(s, cotangents=tuple(1.01 * c for c in s.cotangents))
                return
