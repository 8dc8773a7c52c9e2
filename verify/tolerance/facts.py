"""Facts about an input at which a difference was seen: of the example, of the definition and of the function itself.

An adversary leaves the domain for which a function was written. Whether he has done so is asked here, each question
once at one input; what follows from the answers is said in waivers.py.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_dtypes import finfo

from verify import thresholds as th
from verify.inputs.case import SHAPED, UNSHOWN, Case, Leaves, Tag, single
from verify.jaxpr.interpret import again, dense, jaxpr_of
from verify.run.bench import LINALG, LOOPS, Bench, Refused, finite
from verify.tolerance.budget import Draw, blur, largest, off, scale, usual


@dataclass(frozen=True)
class Place:
    """Where a difference was seen: at which draw, in the cotangent of float leaf k or, with k None, in an output."""

    bench: Bench
    draw: Draw
    k: int | None = None
    output: int = 0
    infinite: bool = False

    @property
    def tags(self) -> frozenset[Tag]:
        return self.draw[0].tags

    @property
    def resized(self) -> bool:
        return self.draw[0].shapes != self.bench.example.shapes

    @property
    def true(self) -> Any:
        return self.bench.truth(*self.draw)

    def once(self, ask: Callable[..., Any], *more: Any) -> Any:
        """ask(self, *more), which is the same for each leaf and each canary: asked once at one case."""
        key = ask.__name__, id(self.draw[0]), *map(str, more)
        if key not in self.bench.memo:
            self.bench.memo[key] = ask(self, *more), self.draw[0]  # holding the case keeps its id its own
        return self.bench.memo[key][0]


def alike(bench: Bench, draw: Draw, room: float = th.OTHER) -> bool:
    """Whether the subject's output is the definition's."""
    pairs = zip(bench.pull(*draw).y, bench.truth(*draw).y, strict=True)
    return all(off(a, b) <= room * largest(b) for a, b in pairs if a.shape == b.shape)


def same(place: Place) -> bool:
    return alike(place.bench, place.draw) and finite(place.true.y)


def not_shown(place: Place) -> bool:
    unshown = place.tags & UNSHOWN
    return bool(unshown - {Tag.UNSORTED} if same(place) else unshown)


def _binary(place: Place) -> list[int]:
    """The float leaves that are masks."""
    example = place.bench.example
    return [k for k in range(len(example.floats)) if example.constraint(k).binary]


def one_alone(place: Place) -> bool:
    """One of several vectors side by side, such as the parameters of a mixture, is a single number; or it is one that
    a kernel reads as a whole."""
    floats = place.bench.example.floats
    vectors = [i for i, x in enumerate(floats) if np.ndim(x) == 1]
    beside = {i for i in vectors for j in vectors if i != j and np.shape(floats[i]) == np.shape(floats[j])}
    several = {i for i in beside if sum(np.size(floats[i]) in np.shape(x) for x in floats) > 2}
    read = set(range(len(floats))) if "pallas_call" in place.bench.primitives else set()
    return place.tags & {Tag.BROADCAST, Tag.RESHAPED} == {Tag.BROADCAST} and place.draw[0].leaf in several | read


def loop_of_values(place: Place) -> bool:
    far = Tag.EXTREME in place.tags and bool(LOOPS & place.bench.either)
    return (far or "while" in place.bench.primitives) and not place.resized


def unsettled(place: Place) -> bool:
    """The definition's loop, of so many steps, has come to rest at the example and not here, and what its gradient has
    left to go is as much as the difference: a rule may be that of where it comes to rest."""
    bench, k = place.bench, place.k
    if k is None or "scan" not in bench.defined or place.resized:
        return False
    first = Place(bench, bench.memo["draws"][0])
    here, there = (p.once(_left_to_go, p.draw[1])[k] for p in (place, first))
    settled = there <= th.TIGHT * largest(first.true.cotangents[k])
    return settled and off(bench.pull(*place.draw).cotangents[k], place.true.cotangents[k]) <= th.STEPS * here


def _left_to_go(place: Place, _: str) -> list[float]:
    """How much the last step of the definition's loops changes of each cotangent, under an error from above."""
    bench, (case, _, dy) = place.bench, place.draw

    def around(eqn, values, bind):
        params = eqn.params
        alone = eqn.primitive.name == "scan" and len(values) == params["num_consts"] + params["num_carry"]
        if alone and len(eqn.outvars) == params["num_carry"] and params["length"] > 1:
            return bind(eqn, values, length=params["length"] - 1)
        return bind(eqn, values)

    def shorter(floats, others, dy):
        return dense(again(jaxpr_of(bench.oracle.primal, floats, others), around))(floats, others, dy)[1]

    with suppress(Refused):
        down = bench.cotangent(case, dy, "float64")
        found = bench.guarded("reference", lambda: shorter(*case.at("float64"), down), "float64")
        return [off(np.asarray(a), b) for a, b in zip(found, place.true.cotangents, strict=True)]
    return [0.0] * len(place.true.cotangents)


def swallowed(place: Place) -> bool:
    """What is no number goes in, and comes out of the definition's gradient: it is not made to tell them apart."""
    return any(np.isnan(x).any() for x in place.draw[0].floats) and not finite(place.true.cotangents)


def cancels(place: Place) -> bool:
    far = place.k is not None and Tag.HUGE in place.tags
    return far and finite(place.bench.pull(*place.draw).cotangents)


def other_output(place: Place) -> bool:
    return bool(place.tags & {Tag.HUGE, Tag.BEYOND, *SHAPED}) and not same(place)


def elsewhere(place: Place) -> bool:
    """The function, without its rule, is finite and another one than the definition, and its forward says so too: then
    the definition's gradient is not what it should have. At the example's sizes, and where an axis has become so short
    that what points into it had to be folded: pairs of two may then be pairs of one with itself; or so short that the
    definition broadcasts it beside another that is no longer as long."""
    near = not place.resized or _folded(place) or parted(place.bench, place.draw[0], least=1, most=1)
    if place.draw[0].ordinary or place.bench.random or not near:
        return False
    return place.once(_elsewhere)


def parted(bench: Bench, case: Case, least: int = 0, most: float = np.inf) -> set[tuple[int, int]]:
    """The pairs of axes that are alike in the example and not here, or of which the longer has become the shorter, that
    from `least` to `most`: what the rule asks of them the reference need not ask."""
    before, now = ([n for x in (*c.floats, *c.others) for n in np.shape(x)] for c in (bench.example, case))
    if len(before) != len(now):
        return set()
    pairs = list(enumerate(zip(before, now, strict=True)))
    return {(i, j) for i, (a, m) in pairs for j, (b, n) in pairs if a >= b and m < n and least <= m <= most}


def _folded(place: Place) -> bool:
    pairs = zip(place.bench.example.arrays, place.draw[0].arrays, strict=True)
    return any(x.dtype.kind in "iu" and x.size and y.size and y.max() < x.max() for x, y in pairs)


def _elsewhere(place: Place) -> bool:
    bench, draw = place.bench, place.draw
    run = bench.memo.setdefault("primal", bench.compiled(bench.flat.primal))
    try:
        itself = bench.guarded("forward", lambda: [np.asarray(v) for v in run(*draw[0].at("float64"))], "float64")
    except Refused:
        return False
    forward, true = bench.own(*draw).y, place.true.y
    other = any(off(a, b) > max(th.OTHER, blur(bench)) * largest(b) for a, b in zip(itself, true, strict=True))
    same = all(off(a, b) <= max(th.SAME, blur(bench)) * largest(b) for a, b in zip(forward, itself, strict=True))
    return other and same and (bool(LINALG & bench.either) or finite(tuple(itself)))


def positive_only(place: Place) -> bool:
    """A leaf that is above zero in the example is not so here, where the output is not the definition's."""
    example = place.bench.example
    pairs = list(zip(example.floats, place.draw[0].floats, strict=True))
    inferred = [pair for k, pair in enumerate(pairs) if not example.constraint(k).declared]
    left = any(np.size(x) and np.all(x > 0) and np.any(y <= 0) for x, y in inferred)
    return left and not alike(place.bench, place.draw)


def runaway(place: Place) -> bool:
    """The definition holds a loop, and its gradient has grown in it by orders of magnitude."""
    bench, draw, k = place.bench, place.draw, place.k
    if draw[0].ordinary or k is None or not LOOPS & bench.either:
        return False
    return largest(place.true.cotangents[k]) > th.FAR_OUT * usual(bench, k) * max(map(largest, draw[2]), default=0.0)


def no_gradient(place: Place) -> bool:
    return place.k is None and not finite(place.true.cotangents)


def no_output(place: Place) -> bool:
    """The outputs are not finite, or as large as what stands for the logarithm of zero in many a program; or there is
    no difference if nothing comes back from those that are."""
    bench, (case, label, dy), k = place.bench, place.draw, place.k
    far = max(map(largest, case.floats), default=0.0) > th.FAR_OUT
    known = [np.isfinite(v) if far else np.abs(v) < th.NEVER for v in place.true.y]
    if all(v.all() for v in known):
        return False
    if k is None or not any(v.any() for v in known):
        return not any(v.any() for v in known)
    down = tuple(np.where(v, d, 0) for v, d in zip(known, dy, strict=True))
    there = case, f"{label} where there is an output", down
    ours, true = bench.pull(*there).cotangents[k], bench.truth(*there).cotangents[k]
    return off(ours, true) <= th.SAME * scale(bench, case, dy, k, true)


def jumps(place: Place) -> bool:
    """The definition's own output jumps: a choice between equals, which may be another."""
    return not (place.draw[0].ordinary or place.bench.oracle.slack) and place.once(_jumps) and not chosen(place)


def chosen(place: Place) -> bool:
    """The definition's output jumps, not with leaf k, and the function has chosen as the definition has: then the
    gradient in leaf k is that of this choice."""
    if place.k is None or place.bench.oracle.slack or not place.once(_jumps):
        return False
    return alike(place.bench, place.draw) and not place.once(_jumps, place.k)


def _jumps(place: Place, alone: int | None = None) -> bool:
    bench, (case, _, dy) = place.bench, place.draw
    rng, true = np.random.default_rng(0), place.true.y
    usual = [largest(y) or largest(v) for y, v in zip(true, bench.truth(*bench.memo["draws"][0]).y, strict=True)]
    sizes = [largest(x) or largest(y) for x, y in zip(case.floats, bench.example.floats, strict=True)]
    sizes = [s if alone in (None, i) else 0.0 for i, s in enumerate(sizes)]
    for _ in range(2):
        floats: Leaves = tuple(
            x + 1e-9 * s * rng.normal(size=np.shape(x)) for x, s in zip(case.floats, sizes, strict=True)
        )
        if any(off(a, b) > th.GONE * s for a, b, s in zip(bench.at(case, floats, dy).y, true, usual, strict=True)):
            return True
    return False


def doubtful(place: Place) -> bool:
    """In float32 the definition's own gradient, or its output, is not finite, or off by a tenth."""
    bench, draw, k = place.bench, place.draw, place.k
    if bench.oracle.slack or bench.random:
        return False
    try:
        rough = bench.plain(*draw, "float32")
    except Refused:
        return False
    gone = lambda a, b: a.shape == b.shape and off(a, b) > th.LOST * largest(b)  # noqa: E731
    true = place.true
    leaves = range(len(true.cotangents)) if k is None else (k,)
    if any(gone(rough.cotangents[i], true.cotangents[i]) for i in leaves):
        return True
    judged = (place.output,) if k is None else range(len(true.y)) if place.resized else ()  # a system made singular
    return any(gone(rough.y[j], true.y[j]) for j in judged)


def through_infinity(place: Place, dtype: Any = "float64") -> bool:
    """As by the logarithm of zero; where nothing is masked, for which infinities are a way."""
    masks = _binary(place) or any(x.dtype == bool for x in place.bench.example.arrays)
    return not masks and overflows(place, dtype)


def overflows(place: Place, dtype: Any) -> bool:
    """In the definition's own forward and backward pass in this dtype something becomes infinite, or nearly so, as it
    does not at the example."""
    first = Place(place.bench, place.bench.memo["draws"][0])
    return place.once(_infinite, dtype) and not first.once(_infinite, dtype)


def _infinite(place: Place, dtype: Any) -> bool:
    """Whether an operation of the definition, forth or back, makes of floats none of which is near the end of its dtype
    some that are."""
    bench, (case, _, dy) = place.bench, place.draw

    def run():
        (floats, others), down = case.at(dtype), tuple(map(single, dy))
        overflowing = bench.once(
            ("overflowing", case.shapes, str(dtype)),
            lambda: bench.compiled(_overflowing(bench, (floats, down), others)),
        )
        return bool(overflowing((floats, down), others))

    with suppress(Refused):
        return bench.guarded("reference", run, dtype)
    return False


def _overflowing(bench: Bench, floats: tuple, others: tuple) -> Callable[[tuple, tuple], Any]:
    """The question that `_infinite` asks, as a function of ((floats, cotangents), others)."""
    back = lambda both, others: dense(bench.oracle.primal)(both[0], others, both[1])  # noqa: E731
    closed = jaxpr_of(back, floats, others)

    def run(both, others):
        known: dict[int, tuple[Any, Any]] = {}  # whether a value is near its end, by its id, which it keeps as long
        found = [jnp.zeros((), bool)]

        def far(values):
            for v in values:
                if id(v) not in known:
                    known[id(v)] = _far(v), v
            return jnp.stack([jnp.zeros((), bool), *(known[id(v)][0] for v in values)]).any()

        def around(eqn, values, bind):
            before, out = far(values), bind(eqn, values)
            found.append(far(out) & ~before)
            return out

        again(closed, around)(both, others)
        return jnp.stack(found).any()

    return run


def _far(v: Any) -> Any:
    v = jnp.asarray(v)
    if not jnp.issubdtype(v.dtype, jnp.floating):
        return jnp.zeros((), bool)
    return ~(jnp.abs(v) < float(finfo(v.dtype).max) / th.NEAR_END).all()
