"""The laws of transformations: batched, in a loop, by parts, over several devices, in halves."""

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import cycle, islice

import jax
import numpy as np

from verify.inputs.case import Leaves, is_key
from verify.laws.law import Breach, Plan, corrupted_in, leaves, refusal
from verify.run.bench import Bench, Refused, Sample, sample
from verify.tolerance import budget
from verify.tolerance.budget import Draw, largest, off
from verify.tolerance.waivers import MACHINE

Axes = tuple[tuple[int | None, ...], tuple[int | None, ...], int | None]
MANY = 17  # calls in one, for a batching rule that can tell how many there are


BATCHES = {"custom_vmap_call", "pure_callback", "io_callback", "ffi_call", "pallas_call", "custom_partitioning"}


def batched(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """vmap over inputs and cotangent is a loop over them; so is vmap over the cotangent alone. Where something in the
    rule has a batching rule of its own, over many, and also over each input alone, and all of them with one cotangent.
    """
    cases = [d for d in plan.ordinary if d[1] == "noise"][:3]
    if BATCHES & bench.primitives:
        cases = list(islice(cycle(cases), MANY))
    if any(any(map(is_key, c.others)) for c, _, _ in cases):
        cases = [(replace(c, others=cases[0][0].others), f"vmap {label}", dy) for c, label, dy in cases]
    for name, axes in _batches(bench):
        key = ("batched", name)
        try:
            if key not in bench.memo:
                draws = [_mixed(bench, cases[0], d, axes, name) for d in cases]
                bench.memo[key] = draws, _vmapped(bench, draws, axes)
        except Refused as refused:
            yield refusal("vmap", cases[0], refused, promised=_vmaps(bench, cases, axes))
            continue
        draws, together = bench.memo[key]
        for i, draw in enumerate(draws):
            got = bench.came(together[i], draw[2], "vmap", i)
            yield from _as_alone(bench, draw, got, "vmap", f"under vmap over {name}")


def _batches(bench: Bench) -> Iterator[tuple[str, Axes]]:
    """(name, axes of floats, others and the cotangent) for each way to batch the call."""
    names, count = bench.flat.layout.floats, len(bench.example.others)
    others = (None if any(map(is_key, bench.example.others)) else 0,) * count
    none, rest = (None,) * len(names), (None,) * count
    yield "everything", ((0,) * len(names), others, 0)
    yield "the cotangent", (none, rest, 0)
    if not BATCHES & bench.primitives:
        return
    yield "all inputs", ((0,) * len(names), others, None)
    if len(names) > 1:
        for i, name in list(enumerate(names))[:4]:
            yield name, (tuple(0 if i == j else None for j in range(len(names))), rest, 0)


def _mixed(bench: Bench, first: Draw, draw: Draw, axes: Axes, name: str) -> Draw:
    """`draw` with the first one's values wherever nothing is batched."""
    if all(a == 0 for a in (*axes[0], axes[2])):
        return draw
    pick = lambda news, olds, where: tuple(n if a == 0 else o for n, o, a in zip(news, olds, where, strict=True))  # noqa: E731
    case = draw[0]
    if any(a is None for a in (*axes[0], *axes[1])):
        floats = pick(case.floats, first[0].floats, axes[0])
        case = replace(case, floats=floats, others=pick(case.others, first[0].others, axes[1]))
    return case, f"vmap {name} {draw[0].label}", draw[2] if axes[2] == 0 else first[2]


def _as_alone(bench: Bench, draw: Draw, got: Sample, law: str, how: str) -> Iterator[Breach]:
    """What one call of many gave is what the same call gives alone."""
    yield from _unlike(bench, draw, got, bench.pull(*draw), law, f"{how} the result", "that of single calls")


def _unlike(bench: Bench, draw: Draw, got: Sample, right: Sample, law: str, what: str, which: str) -> Iterator[Breach]:
    """Where two calls that should agree to rounding do not."""
    for k, (a, b) in enumerate(zip(got.cotangents, right.cotangents, strict=True)):
        bench.comparisons += 1
        gap = off(a, b)
        room = budget.tight(bench, draw[0], draw[2], k, b)
        if gap > room and gap > room + budget.measured(bench, draw, k):
            text = f"{what} is off by {gap:.2g} from {which}"
            yield Breach(law, k, gap / max(largest(b), 1e-300), text, draw, (a, b))


def _stacked(draws: list[Draw], axes: Axes, bench: Bench) -> tuple[Leaves, Leaves, Leaves]:
    floats, others = zip(*(c.at("float64") for c, _, _ in draws), strict=True)
    downs = [bench.cotangent(c, dy, "float64") for c, _, dy in draws]
    stack = lambda several, where: tuple(  # noqa: E731
        np.stack(v) if a == 0 else v[0] for v, a in zip(zip(*several, strict=True), where, strict=True)
    )
    return stack(floats, axes[0]), stack(others, axes[1]), stack(downs, (axes[2],) * len(downs[0]))


def _vmapped(bench: Bench, draws: list[Draw], axes: Axes) -> list[Sample]:
    values = _stacked(draws, axes, bench)

    def run():
        y, cotangents = bench.compiled(jax.vmap(bench.flat.vjp, (*axes[:2], axes[2])))(*values)
        return [sample([v[i] for v in y], [c[i] for c in cotangents]) for i in range(len(draws))]

    return bench.guarded("backward", run, "float64")


def _vmaps(bench: Bench, draws: list[Draw], axes: Axes) -> bool:
    """Whether going forward under vmap works, so that the backward pass should."""
    if all(a is None for a in (*axes[0], *axes[1])):
        return True
    floats, others, _ = _stacked(draws, axes, bench)
    try:
        run = jax.vmap(bench.flat.primal, axes[:2])
        bench.guarded("forward", lambda: jax.eval_shape(run, floats, others), "float64")
    except Refused:
        return False
    return True


def vmap_only(bench: Bench, plan: Plan):
    if any(key[0] == "batched" for key in bench.memo):
        yield "wrong under vmap", None, corrupted_in("vmap", bench)


def looped(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """In lax.scan, rematerialized by jax.checkpoint, the result is that of single calls."""
    if bench.flat.subject.kind != "function":
        return
    draws = [d for d in plan.ordinary if d[1] == "noise"][:2]
    draws = [(replace(c, others=draws[0][0].others), f"loop {label}", dy) for c, label, dy in draws]
    try:
        draws, together = bench.once("loop", lambda: (draws, _scanned(bench, draws)))
    except Refused as refused:
        yield refusal("loop", draws[0], refused)
        return
    for i, draw in enumerate(draws):
        got = bench.came(together[i], draw[2], "loop", i)
        yield from _as_alone(bench, draw, got, "loop", "in a loop, rematerialized,")


def _scanned(bench: Bench, draws: list[Draw]) -> list[Sample]:
    floats, _, downs = _stacked(draws, ((0,) * len(leaves(bench)), (None,) * len(draws[0][0].others), 0), bench)
    others = draws[0][0].at("float64")[1]

    def all_of(floats, downs):
        def one(carry, each):
            y, pull = jax.vjp(jax.checkpoint(lambda v: bench.flat.primal(v, others)), each[0])
            return carry, (y, pull(each[1])[0])

        return jax.lax.scan(one, 0, (floats, downs))[1]

    def run():
        y, cotangents = bench.compiled(all_of)(floats, downs)
        return [sample([v[i] for v in y], [c[i] for c in cotangents]) for i in range(len(draws))]

    return bench.guarded("backward", run, "float64")


def loop_only(bench: Bench, plan: Plan):
    if "loop" in bench.memo:
        yield "wrong in a loop", None, corrupted_in("loop", bench)


def parts(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A rule that sees symbolic zeros gives the same where one input alone is differentiated, and where one
    output alone has a cotangent."""
    if bench.flat.subject.kind != "function" or not bench.symbolic:
        return
    draw = plan.ordinary[0]
    case, _, dy = draw
    floats, others = case.at("float64")

    def alone(floats, others, dy):
        found = []
        for i in leaves(bench)[:6]:
            one = lambda v, i=i: bench.flat.primal((*floats[:i], v, *floats[i + 1 :]), others)  # noqa: E731
            found.append(jax.vjp(one, floats[i])[1](dy)[0])
        each = [jax.vjp(lambda v, j=j: bench.flat.primal(v, others)[j], floats)[1](d)[0] for j, d in enumerate(dy)]
        return found, [sum(cs) for cs in zip(*each, strict=True)]

    try:
        if "parts" not in bench.memo:
            down = bench.cotangent(case, dy, "float64")
            bench.memo["parts"] = bench.guarded(
                "backward", lambda: bench.compiled(alone)(floats, others, down), "float64"
            )
    except Refused as refused:
        yield refusal("parts", draw, refused)
        return
    for how, got in zip(("differentiated alone", "with one output at a time"), bench.memo["parts"], strict=True):
        got = sample((), got)
        got = bench.came(got, dy, "parts")
        whole = bench.pull(*draw)
        for k, (a, b) in enumerate(zip(got.cotangents, whole.cotangents, strict=False)):
            bench.comparisons += 1
            gap = off(a, b)
            if gap > 2 * budget.tight(bench, case, dy, k, b) + budget.measured(bench, draw, k):
                text = f"{how} the result is off by {gap:.2g} from all together"
                yield Breach("parts", k, gap / max(largest(b), 1e-300), text, draw, (a, b))


def parts_only(bench: Bench, plan: Plan):
    if "parts" in bench.memo and len(leaves(bench)) <= 6:
        yield "wrong alone", None, corrupted_in("parts", bench)


def leaks(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """Nothing of one trace is kept beyond it (jax.checking_leaks)."""
    case, _, dy = plan.ordinary[0]
    values = (*case.at(bench.native), bench.cotangent(case, dy, bench.native))

    def traced(floats, others, dy):
        return bench.came(Sample(*bench.flat.vjp(floats, others, dy), ()), dy, "leaks").cotangents

    def run(check):
        gc.freeze()  # the check walks over every object that there is: those from before cannot be of this trace
        try:
            with jax.checking_leaks() if check else nullcontext():
                jax.jit(lambda *values: traced(*values)).trace(*values)  # a new function, or what was traced is kept
        finally:
            gc.unfreeze()

    bench.comparisons += 1
    bench.guarded("backward", lambda: run(False), bench.native)
    try:
        bench.guarded("backward", lambda: run(True), bench.native)
    except Refused:  # jax itself fails now and then while it words the message, so its text tells nothing
        yield Breach("leaks", None, 1.0, "keeps a tracer beyond its trace (jax.checking_leaks)", plan.ordinary[0])


def leaking(bench: Bench, plan: Plan):
    kept = []

    def leak(s, dy, mode, n):
        if mode == "leaks":
            kept.append(s.cotangents)
        return s

    yield "a leak", None, leak


def sharded(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """Spread over all devices along the first axis, the result is that on one. Needs more devices than one."""
    count = jax.device_count()
    if count < 2:
        return
    draw = plan.ordinary[0]
    if any("callback" in name for name in bench.primitives):
        text = "it calls the host, for which devices of one CPU that have to meet may wait for ever: not tried"
        yield Breach("sharded", None, 1.0, text, draw, waiver=MACHINE)
        return
    case, _, dy = draw
    mesh = jax.make_mesh((count,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))

    def spread(x):
        rows = np.ndim(x) and np.shape(x)[0] % count == 0 and not is_key(x)
        return jax.device_put(x, jax.NamedSharding(mesh, jax.P("all") if rows else jax.P()))

    def run():
        values = (*case.at("float64"), bench.cotangent(case, dy, "float64"))
        return sample(*bench.compiled(bench.flat.vjp)(*jax.tree.map(spread, values)))

    try:
        got = bench.once("sharded", lambda: bench.guarded("backward", run, "float64"))
    except Refused as refused:
        yield refusal("sharded", draw, refused)
        return
    got, own = bench.came(got, dy, "sharded"), _divides(bench)
    for breach in _as_alone(bench, draw, got, "sharded", "spread over devices"):
        why = "" if own else "; of XLA's own operations alone, so that this is XLA's mistake in dividing them"
        yield replace(breach, text=breach.text + why, waiver="" if own else MACHINE)


APART = ("pallas", "callback", "ffi", "custom_call", "partition", "shard", "axis_index", "psum", "all_", "ppermute")


def _divides(bench: Bench) -> bool:
    """Whether anything but XLA's own operations has to be divided among devices."""
    return any(word in name for name in bench.primitives for word in APART)


def sharded_only(bench: Bench, plan: Plan):
    if "sharded" in bench.memo and _divides(bench):
        yield "wrong on several devices", None, corrupted_in("sharded", bench)


def apart(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A layer's backward and gradient, called apart, give what its pull gives."""
    if bench.flat.subject.apart is None:
        return
    for draw in plan.ordinary[:2]:
        try:
            ours, halves = bench.pull(*draw), bench.pull(*draw, mode="apart")
        except Refused as refused:
            yield refusal("halves", draw, refused)
            return
        yield from _unlike(bench, draw, halves, ours, "halves", "backward and then gradient", "pull")


def apart_only(bench: Bench, plan: Plan):
    if bench.flat.subject.apart is not None:
        yield "wrong apart", None, corrupted_in("apart", bench)
