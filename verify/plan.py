"""What one audit tries: the ordinary draws, the adversary's inputs and sizes, the dtypes and the settings."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice, takewhile, zip_longest
from typing import Any

import jax
import numpy as np

from verify.inputs import generators, sizes
from verify.inputs.case import Case, Tag, is_key, ordinary, shares_out, single
from verify.jaxpr.interpret import ISNAN, SUMS, jaxpr_of, summed
from verify.laws.calls import uncompiled
from verify.laws.law import Draw, Plan
from verify.processes.guard import wide
from verify.run.bench import LINALG, LOOPS, Bench, Refused, finite, narrow
from verify.subject import oracles
from verify.subject.flat import Flat
from verify.subject.layout import Layout, lay_out
from verify.subject.subject import Subject, SubjectError
from verify.tolerance.admitted import admitted

LARGE = 250  # equations; a program with more takes seconds to compile for each size, and so does one with random bits


def arranged(what: Subject, args: tuple) -> tuple[Layout, list[str]]:
    """The layout of the arguments, and notes. Python's floats among them count as leaves if the function can be
    differentiated with respect to them, and says that they have a cotangent other than zero."""
    plain, notes = lay_out(args, what.labels), []
    if what.kind != "function" or not any(isinstance(v, float) for v in plain.static):
        return plain, notes
    layout = lay_out(args, what.labels, numbers=True)
    floats, others = layout.split(args)
    floats = tuple(np.asarray(x, np.float32) if isinstance(x, float) else x for x in floats)

    def slopes(floats, others):
        y, pull = jax.vjp(lambda floats: Flat(what, layout).primal(floats, others), floats)
        return pull(tuple(jax.numpy.ones_like(v) for v in y))[0]

    try:
        with wide("float32"):
            given = jax.jit(slopes)(floats, others)
    except Exception:  # noqa: BLE001 - a setting, not a number to differentiate by: a stranger's code says so in many ways
        return plain, notes
    numbers = [name for name in layout.floats if name not in plain.floats]
    if any(not np.any(g) for name, g in zip(layout.floats, given, strict=True) if name in numbers):
        notes.append(f"the cotangent of {', '.join(numbers)} is zero: taken for settings")
        return plain, notes
    return layout, notes


def settings(flat: Flat, example: Case, native: Any) -> Iterator[tuple[str, Bench, Case]]:
    """(label, bench, case) for other values of Python's numbers and flags, one at a time, where the definition and the
    subject's forward accept them; at most four. Then with None in the place of an array; at most three."""
    yield from islice(_changed(flat, example, native), 4)
    if flat.subject.kind != "layer":
        yield from islice(_absent(flat, example, native), 3)


def _changed(flat: Flat, example: Case, native: Any) -> Iterator[tuple[str, Bench, Case]]:
    """The same with another value of one setting."""
    counts = {int(x.max()) + 1 for x in example.arrays if x.dtype.kind in "iu" and x.size}  # of classes, of segments
    ranks = {np.ndim(x) for x in example.floats}
    for i, (name, old) in enumerate(zip(flat.layout.settings, flat.layout.static, strict=True)):
        turned = _turned(old, ranks)
        for new in (*turned, *_others(old)):
            if old in counts and new == old - 1:
                continue
            static = (*flat.layout.static[:i], new, *flat.layout.static[i + 1 :])
            case = replace(example, others=tuple(_marked(x, old, new) for x in example.others))
            bench = _accepted(Flat(flat.subject, replace(flat.layout, static=static)), case, native)
            if bench and (new not in turned or _as_before(flat, bench.flat, example)):
                yield f"{name}={new!r}", bench, case


def _absent(flat: Flat, example: Case, native: Any) -> Iterator[tuple[str, Bench, Case]]:
    """The same with None in the place of an array; one for each argument."""
    arrays = flat.layout.named("float", "other")
    for arg in jax.tree.unflatten(flat.layout.structure, flat.layout.names):
        for name in [name for name in jax.tree.leaves(arg) if name in arrays][:4]:
            if bench := _accepted(*_without(flat, example, native, name)):
                yield f"{name}=None", bench, bench.example
                break


def _marked(x: Any, old: Any, new: Any) -> Any:
    """Integers with a marker that is no index, as of what is to be ignored, changed as the setting is that names it."""
    marks = type(old) is int and old < 0 and not is_key(x) and np.issubdtype(x.dtype, np.signedinteger)
    return np.where(x == old, new, x).astype(x.dtype) if marks and new < 0 else x


def _accepted(flat: Flat, example: Case, native: Any) -> Bench | None:
    """A bench for another call; None where the definition or the subject's forward refuses it."""
    with suppress(Exception), wide("float64"):
        values = example.at("float64")
        ours, plain = ([s.shape for s in jax.eval_shape(f, *values)] for f in (flat.primal, flat.reference))
        if ours == plain and example.floats:
            return Bench(flat, oracles.find(flat, *values)[0], example, native)
    return None


def _without(flat: Flat, example: Case, native: Any, name: str) -> tuple[Flat, Case, Any]:
    """The call with None in the place of one array."""

    def rest(leaves: tuple, names: tuple[str, ...]) -> tuple:
        return tuple(x for x, other in zip(leaves, names, strict=True) if other != name)

    floats, others = rest(example.floats, flat.layout.floats), rest(example.others, flat.layout.named("other"))
    less = Flat(flat.subject, flat.layout.without(name))
    dtypes = native if isinstance(native, str) else rest(native, flat.layout.floats)
    constraints = rest(example.constraints, flat.layout.floats)
    integers = rest(example.integers, flat.layout.named("other")) if example.integers else ()
    names = rest(example.names, example.names)
    if any(axis[0] == name for d in integers if d for axis in d.axes):
        integers = ()  # the size of what is gone
    example = replace(example, floats=floats, others=others, constraints=constraints, integers=integers, names=names)
    return less, example, dtypes


def _turned(old: Any, ranks: set[int]) -> list[int]:
    """The same axis counted from the other end, if it is one: where the definition gives the same."""
    if not isinstance(old, int) or isinstance(old, bool):
        return []
    return [old - n if old >= 0 else old + n for n in ranks if -n <= old < n]


def _as_before(flat: Flat, other: Flat, example: Case) -> bool:
    values = example.at("float64")
    return all(np.array_equal(a, b) for a, b in zip(flat.reference(*values), other.reference(*values), strict=True))


WORDS = ("mean", "sum", "none"), ("SAME", "VALID"), ("same", "valid", "full"), ("left", "right"), ("nearest", "linear")


def _others(old: Any) -> tuple[Any, ...]:
    if isinstance(old, bool):
        return (not old,)
    if isinstance(old, int):
        return old - 1, old + 1, *(new for new in (0, -old) if new < old - 1)  # what is negative may stand for none
    if isinstance(old, float):
        return (0.5 * old, 1.7 * old) if old else (0.3,)
    if isinstance(old, str):
        return tuple(word for words in WORDS if old in words for word in words if word != old)
    return ()


def native(floats: tuple) -> Any:
    """The dtype of the user's own example; for a mixture one for each leaf; float32 where that was float64."""
    kinds = tuple(str(np.asarray(x).dtype) for x in floats)
    if len(set(kinds)) > 1:
        return kinds
    return kinds[0] if kinds and kinds[0] != "float64" else "float32"


def plan(bench: Bench, seed: int, level: str, captured: tuple[tuple, ...]) -> Plan:
    """All inputs of one audit. Raises Refused if the subject does not run at its example."""
    rng = np.random.default_rng(seed)
    if SUMS & bench.defined:
        bench.example = replace(bench.example, shares=_shares(bench))
    example, thorough = bench.example, level != "quick"
    draws = [
        (example, label, dy)
        for label, dy in generators.cotangents(bench.outputs(example, "float64"), rng, several=True)
    ]
    draws += ((example, *aligned) for aligned in generators.parallel(bench.truth(*draws[0]).y, example.floats[:4]))
    whole = finite(bench.truth(*draws[0]).cotangents)
    case, label, dy = _anew(bench, rng, "like the example", whole, run=False)[0]
    larger = case, f"{label}, times 8", tuple(8 * d for d in dy)  # what is kept of the first call is too small for it
    # of the same sum, norm and trace as the first: what is kept under a mark as cheap as these is kept for both
    turned = replace(example, label="turned round", floats=tuple(np.flip(x) for x in example.floats))
    bench.memo["apart"] = draws[0], larger, (turned, *draws[0][1:])
    if thorough:  # first of all: what is kept from a first call is kept from one that is not compiled
        with suppress(Refused):  # the law of it calls again, and says so
            uncompiled(bench)
    bench.pull(*draws[0])  # a subject that cannot be run at its example is said so at once
    for i in range(1, 6 if thorough else 3):
        draws += _anew(bench, rng, f"like the example {i}", whole)
    kept = sorted((d for d in draws if _known(bench, d)), key=lambda d: not _alive(bench, d))
    bench.memo["draws"] = kept
    bench.memo["ordinary"] = [(bench.truth(*d), d[2]) for d in kept]
    down = example.at("float64"), bench.cotangent(example, draws[0][2], "float64")
    bench.memo["inner"] = narrow(bench.flat.vjp, *down[0], down[1])
    bench.memo["both"] = bench.memo["inner"] and narrow(bench.oracle.vjp, *down[0], down[1]) == bench.memo["inner"]
    if bench.oracle.slack:  # differences cost many forwards, and mean nothing at a kink
        rough = 3e-2 if bench.memo["inner"] else bench.oracle.slack
        bench.oracle = replace(bench.oracle, slack=rough)
        return Plan(tuple(kept[:1] + kept[-2:]), (), bench.native, _lower(bench, thorough)[:1], thorough)
    others = [*_captured(bench, captured, rng), *_values(bench, rng)]
    shaped = list(_shapes(bench, rng)) if thorough and bench.contract.sizes else []
    others += [*shaped, *admitted(bench, kept, shaped, _given(bench))]
    if bench.memo.get("narrower"):  # finite at the example and not at inputs like it: it says where it may be called
        bench.memo["outside"] = [d for d in others if _outside(bench, d)]
        others = [d for d in others if all(d is not other for other in bench.memo["outside"])]
    if bench.flat.subject.reference is not None:
        bench.memo["settings"] = list(settings(bench.flat, example, bench.native))
        for _, other, _ in bench.memo["settings"]:
            other.contract = bench.contract
    return Plan(tuple(kept), tuple(others), bench.native, _lower(bench, thorough), thorough)


def affordable(bench: Bench, tried: Plan) -> Plan:
    """The plan with those of its inputs for which there is time: values and sizes in turn, the likeliest of each first.

    They are run here, which takes most of an audit's time, for half of its budget.
    """
    sized = [d for d in tried.others if Tag.SIZE in d[0].tags]
    values = [d for d in tried.others if Tag.SIZE not in d[0].tags]
    run = set[int]()
    for draw in filter(None, chain.from_iterable(zip_longest(values, sized))):
        if bench.late(0.5):
            break
        with suppress(Refused):
            bench.truth(*draw)
            bench.pull(*draw)
        run.add(id(draw))
    if left := [d for d in tried.others if id(d) not in run]:
        bench.memo["inputs left out"] = [d[0].label for d in left]
    return replace(tried, others=tuple(d for d in tried.others if id(d) in run))


def _shares(bench: Bench) -> tuple[int, ...]:
    """The integers that the definition sums up and that share out an axis in the example."""
    run = lambda: summed(jaxpr_of(bench.oracle.primal, *bench.example.at("float64")))  # noqa: E731
    known, first = bench.guarded("reference", run, "float64"), len(bench.example.floats)
    return tuple(i for i, x in enumerate(bench.example.others) if first + i in known and shares_out(bench.example, x))


def _anew(bench: Bench, rng: np.random.Generator, label: str, whole: bool, run: bool = True) -> list[Draw]:
    """A case like the example; next to it, where the definition is finite at the example and not at others, or, if the
    subject may be `run`, where its own output is not."""
    for near in (0, 1, 2):
        case = ordinary(bench.example, rng, label, near)
        ((name, dy),) = generators.cotangents(bench.outputs(case, "float64"), rng, several=False)
        if whole and not finite(bench.truth(case, name, dy).cotangents):
            continue
        if not whole or not run or not _outside(bench, (case, name, dy)):
            break
        bench.memo["narrower"] = True
    return [(case, name, dy)]


def _outside(bench: Bench, draw: Draw) -> bool:
    """Whether the definition is finite here and the subject's own output is not."""
    with suppress(Refused):
        return finite(bench.truth(*draw).y) and not finite(bench.pull(*draw).y)
    return False


def _known(bench: Bench, draw: Draw) -> bool:
    return all(np.isfinite(c).any() or not c.size for c in bench.truth(*draw).cotangents)


def _alive(bench: Bench, draw: Draw) -> bool:
    """Whether anything moves: what is dropped, masked or satisfied shows no mistake."""
    return any(map(np.any, bench.truth(*draw).cotangents))


def _with_noise(bench: Bench, cases: Any, rng: np.random.Generator) -> Iterator[Draw]:
    for case in cases:
        try:
            shapes = bench.outputs(case, "float64")
        except Refused:
            continue  # the subject says that it does not take this size; that is its right
        yield from ((case, label, dy) for label, dy in generators.cotangents(shapes, rng, False))


def _given(bench: Bench) -> list[int]:
    """The float leaves that its user gives to the subject: all but a layer's parameters."""
    owners = bench.flat.layout.owners("float")
    return [i for i, argument in enumerate(owners) if bench.flat.subject.kind != "layer" or argument > 0]


def _values(bench: Bench, rng: np.random.Generator) -> Iterator[Draw]:
    own = _given(bench)
    inner = bench.memo["inner"]  # what the subject computes in a narrower dtype ends where that does
    beyond = {Tag.HUGE, Tag.TINY} if inner else set[Tag]()
    beyond |= {Tag.FAR} if inner == "float16" else set()
    beyond |= {Tag.HUGE} if LINALG & bench.either else set()
    counts = tuple(n for n in bench.flat.layout.static if isinstance(n, int) and not isinstance(n, bool))
    cases = generators.values(bench.example, rng, tuple(own[:6]), bench.pointing, counts, bench.asked)
    yield from _with_noise(bench, (case for case in cases if not case.tags & beyond), rng)
    if {ISNAN, "is_finite"} & bench.defined:
        yield from _with_noise(bench, generators.holes(bench.example, rng, tuple(own[:6])), rng)


def _shapes(bench: Bench, rng: np.random.Generator) -> Iterator[Draw]:
    names, large = bench.primitives, bench.equations > LARGE or bench.random
    long = 37 if LINALG & names else 131 if large else 1027
    found = sizes.shapes(
        bench.flat,
        bench.oracle.primal,
        bench.example,
        rng,
        long,
        many=long > 1000 and not LOOPS & bench.either,
        axes=bench.contract.axes,
    )
    other = {Tag.RANK} if large else set() if bench.contract.ranks else {Tag.RANK, Tag.BATCH}
    found = (case for case in found if not case.tags & other)
    draws = islice(_with_noise(bench, found, rng), 9 if large else 22)
    draws = takewhile(lambda _: not bench.late(0.25), draws)
    return (draw for draw in draws if Tag.MANY not in draw[0].tags or _there(bench, draw))


def _there(bench: Bench, draw: Draw) -> bool:
    """Whether something is left of the definition's output: of a product of many numbers there is not."""
    with suppress(Refused):
        y = bench.truth(*draw).y
        return finite(y) and any(map(np.any, y))
    return False


def _captured(bench: Bench, captured: tuple[tuple, ...], rng: np.random.Generator) -> Iterator[Draw]:
    """Arguments that the user has recorded, as they are."""
    layout, cases = bench.flat.layout, []
    for i, args in enumerate(captured):
        if jax.tree.structure(args) != layout.structure:
            raise SubjectError(f"captured[{i}] has another structure than the example: {jax.tree.structure(args)}.")
        floats, others = layout.split(args)
        floats = tuple(single(x) for x in floats)
        cases.append(Case(f"captured {i}", floats, tuple(x if is_key(x) else np.asarray(x) for x in others)))
    return _with_noise(bench, cases, rng)


def _lower(bench: Bench, thorough: bool) -> tuple[Any, ...]:
    """The dtypes below float64 to try: the usual ones, or the example's own mixture."""
    if not isinstance(bench.native, str):
        return (bench.native,)
    half = thorough and "complex" not in bench.flat.layout.roles
    usual = ("float32", "bfloat16", "float16") if half else ("float32",)
    return usual if bench.contract.dtypes is None else tuple(d for d in usual if d in bench.contract.dtypes)
