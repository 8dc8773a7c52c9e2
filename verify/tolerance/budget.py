"""How wrong a right answer may be. Nothing here is a tolerance that a user would have to guess.

float64: rounding only. A leaf may be off by TIGHT times its largest element, here or at the example, whichever is more;
where that does not suffice, by what cancellation is seen to cost: the error of the same formulas in float32, scaled by
eps64 / eps32. A wrong formula is as wrong in float32 as in float64, so it cannot buy itself room in this way.

Lower precision: what automatic differentiation of the definition loses in that dtype, over several draws, and a few
units in the last place.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_dtypes import finfo

from verify import thresholds as th
from verify.inputs.case import Case, Leaves, is_float
from verify.jaxpr.interpret import strip
from verify.run.bench import LOOPS, Bench, Refused

Draw = tuple[Case, str, Leaves]


def largest(x: np.ndarray) -> float:
    """The largest finite magnitude in x, 0 for none."""
    x = np.abs(x[np.isfinite(x)])
    return float(x.max()) if x.size else 0.0


def off(a: np.ndarray, b: np.ndarray) -> float:
    """max |a − b| over the elements where b, the truth, is finite; inf where a is not finite there."""
    sure = np.isfinite(b)
    if not sure.any():
        return 0.0
    gap = np.abs(a[sure] - b[sure])
    return float(np.where(np.isfinite(gap), gap, np.inf).max())


def scale(bench: Bench, case: Case, dy: Leaves, k: int, truth: np.ndarray) -> float:
    """The size that leaf k has: here, or at the ordinary example under a cotangent as large as this."""
    return max(largest(truth), usual(bench, k) * max((largest(d) for d in dy), default=0.0))


def usual(bench: Bench, k: int) -> float:
    """The size of leaf k at ordinary draws, for a cotangent of size one; of the largest leaf where k's own is nothing
    but what rounding leaves of it, as below a normalization."""
    if "usual" not in bench.memo:
        found = [
            [largest(c) / max(max(map(largest, dy), default=0.0), 1e-300) for c in sample.cotangents]
            for sample, dy in bench.memo.get("ordinary", ())
        ]
        sizes = [_middle(column) for column in zip(*found, strict=True)] or [0.0] * len(bench.flat.layout.floats)
        if (
            max(sizes, default=0.0) < th.NOTHING and "draws" in bench.memo
        ):  # nothing but rounding, or small for a reason
            terms = [inside(bench, bench.memo["draws"][0], i) for i in range(len(sizes))]
            sizes = [s if s > th.SAFETY * th.EPS * t else t for s, t in zip(sizes, terms, strict=True)]
        bench.memo["usual"] = [size if size > th.ZERO * max(sizes) else max(sizes) for size in sizes]
    return bench.memo["usual"][k]


def inside(bench: Bench, draw: Draw, k: int) -> float:
    """The largest number in the definition's backward pass to leaf k, for a cotangent of size one: what is summed there
    leaves its rounding, also where it sums to nothing."""
    case, _, dy = draw
    found: list[float] = []

    def around(eqn, values, bind):
        out = bind(eqn, values)
        found.extend(largest(np.asarray(v)) for v in out if is_float(v))
        return out

    def run():
        floats, others = case.at("float64")
        alone = lambda x: bench.oracle.primal((*floats[:k], x, *floats[k + 1 :]), others)  # noqa: E731
        y, pull = jax.vjp(alone, floats[k])
        down = tuple(jnp.asarray(d, v.dtype) for d, v in zip(dy, y, strict=True))
        strip(jax.make_jaxpr(pull)(down), around)(*down)

    with suppress(Refused):
        bench.guarded("reference", run, "float64")
    return max(found, default=0.0) / max(max(map(largest, dy), default=0.0), 1e-300)


def _middle(sizes: tuple[float, ...]) -> float:
    """The median of those that are not zero: two points next to each other may give a gradient like no other."""
    some = [size for size in sizes if size]
    return float(np.median(some)) if some else 0.0


def tight(bench: Bench, case: Case, dy: Leaves, k: int, truth: np.ndarray) -> float:
    """What leaf k may be off by in float64, before its conditioning is looked at."""
    unit = max(th.TIGHT, bench.oracle.slack, blur(bench))
    return unit * scale(bench, case, dy, k, truth) + th.TINY


def blur(bench: Bench) -> float:
    """What such rounding inside may leave of a number, relative to its leaf."""
    inner = inner_eps(bench)
    return 64 * inner if inner < th.OTHER else 16 * inner


def inner_eps(bench: Bench) -> float:
    """The rounding unit of the narrowest dtype that the subject's own formulas force upon float64, 0 for none."""
    inner = bench.memo.get("inner", "")
    return float(finfo(inner).eps) if inner else 0.0


def measured(bench: Bench, draw: Draw, k: int) -> float:
    """What leaf k may be off by in float64 for its cancellation: the float32 errors of both sides, scaled down."""
    case, _, dy = draw
    truth, ours = bench.truth(*draw).cotangents[k], bench.pull(*draw).cotangents[k]
    down = (
        8.0 if inner_eps(bench) else th.SAFETY * th.DOWN * (1 if case.ordinary else 32)
    )  # which float32 may hit by luck
    room = 0.0
    for run, exact in ((bench.plain, truth), (bench.pull, ours)):
        try:
            rough = run(*draw, "float32").cotangents[k]
        except Refused:
            continue
        gap = off(rough, exact) if rough.shape == exact.shape else 0.0
        if run == bench.pull and not np.isfinite(gap):
            return np.inf  # it overflows in float32: that is for the law of lower precision to judge
        room += down * gap if np.isfinite(gap) else 0.0
    return room + shaken(bench, case, dy, k, truth)


def shaken(bench: Bench, case: Case, dy: Leaves, k: int, truth: np.ndarray) -> float:
    """How far the truth itself moves when every input moves by a few units in the last place, kinks left out."""
    if bench.oracle.slack:
        return 0.0
    rng, moved = np.random.default_rng(0), 0.0
    for _ in range(3):
        floats = tuple(x * (1 + 8 * th.EPS * rng.choice((-1, 1), size=np.shape(x))) for x in case.floats)
        gap = np.abs(bench.at(case, floats, dy).cotangents[k] - truth)
        moved = max(moved, largest(gap))
    return 8 * moved if moved < th.SMOOTH * largest(truth) or moved < th.ROUNDING * usual(bench, k) else 0.0


def subgradient(
    bench: Bench, case: Case, dy: Leaves, k: int, all_ours: Leaves, truth: np.ndarray, room: float, alone: bool = False
) -> bool:
    """Whether `all_ours[k]` is a derivative that a kink allows although the reference has chosen another there.

    Either it is the reference's gradient next to the kink, on one side of it (Clarke, *Optimization and Nonsmooth
    Analysis*, 1983, theorem 2.5.1). Or it is, or lies between, those of the reference with each kink inside of it on
    one side or the other. Or it lies between the one-sided derivatives. Where the definition jumps with other leaves,
    leaf k is moved `alone`.
    """
    if bench.oracle.slack:
        return False
    ours = all_ours[k]
    gap = np.where(np.isfinite(truth), np.abs(ours - truth), 0.0)
    near = th.RIGHT * float(gap.max())
    size = largest(case.floats[k]) or 1.0
    # beside a one that is added to them tiny numbers are a tie, as much as zeros are
    sizes = dict.fromkeys((size, min(largest(bench.example.floats[k]), 1.0) or size))
    if any(
        off(bench.at(case, _moved(case, th.STEP * s, towards), dy).cotangents[k], ours) <= near
        for s in sizes
        for towards in _sides(case, k, alone)
    ):
        return True
    if alone:
        return False
    worst = [i for i in np.argsort(-gap.ravel())[:16] if gap.flat[i] > room]
    ways = [{k: np.eye(1, ours.size, i).reshape(ours.shape)} for i in worst]
    ways += [{j: np.ones(np.shape(case.floats[j])) for j in some} for some in ([k], range(len(case.floats)))]
    like = lambda g, other: off(np.where(np.isfinite(truth), g[k], other), other) <= near  # noqa: E731
    sided: list[Leaves] = []
    for found in bench.sided(case, dy):
        sided.append(found)
        if like(found, ours):
            return True
        if len(sided) == 3 and all(like(g, truth) for g in sided):
            sided.clear()  # neither up nor down nor between equals is there a kink
            break

    def beside(v: Direction, step: float) -> list[Leaves]:
        return [bench.at(case, _moved(case, s, v), dy).cotangents for s in (step, -step)]

    return all(
        all(_between(all_ours, v, found, near) for found in (beside(v, 1e-6 * size), beside(v, 1e-10 * size)))
        or (sided and _between(all_ours, v, sided, near))
        for v in ways
    )


Direction = dict[int, np.ndarray]


def _between(ours: Leaves, v: Direction, theirs: list[Leaves], near: float) -> bool:
    """Whether the derivative along v is between the least and the largest of theirs, where all are numbers."""
    known = {j: np.isfinite(sum((g[j] for g in theirs), ours[j])) for j in v}
    if not any(np.any(d * known[j]) for j, d in v.items()):
        return False
    mine, *others = (sum(float((np.where(known[j], g[j], 0) * d).sum()) for j, d in v.items()) for g in (ours, *theirs))
    many = sum(map(np.count_nonzero, v.values())) > 1  # of one element nothing is lost in a sum
    room = near + 1e-6 * many * max(map(abs, others))
    return min(others) - room <= mine <= max(others) + room


def _moved(case: Case, step: float, v: Direction) -> Leaves:
    return tuple(np.asarray(x, np.float64) + step * v[j] if j in v else x for j, x in enumerate(case.floats))


def _sides(case: Case, k: int, alone: bool) -> Iterator[Direction]:
    """Directions in which leaf k, all leaves or another one leave a kink: up, down, first of equals first or last."""
    others = [[j] for j in range(len(case.floats)) if j != k][-4:]  # the last first: a bias moves every row alike
    for leaves in ([k],) if alone else ([k], range(len(case.floats)), *reversed(others)):
        for sign in (1.0, -1.0):
            yield {j: np.full(np.shape(case.floats[j]), sign) for j in leaves}
            order = {j: np.linspace(0.5, 1.0, np.size(case.floats[j])) for j in leaves}
            yield {j: sign * v.reshape(np.shape(case.floats[j])) for j, v in order.items()}
            yield {j: sign * (1.5 - v).reshape(np.shape(case.floats[j])) for j, v in order.items()}
        if len(case.floats) == 1:
            return
    if (
        len(case.floats) < 4 and not alone
    ):  # each leaf its own way: a number that is both its bounds is one that is between them
        for steps in permutations(np.linspace(-1.0, 1.0, len(case.floats))):
            yield {j: np.full(np.shape(x), step) for j, (x, step) in enumerate(zip(case.floats, steps, strict=True))}


def apart(bench: Bench, draw: Draw, k: int, dtype: Any = "float64") -> np.ndarray:
    """The elements of leaf k that are other numbers than the truth in float64 too: for the dense law to judge."""
    true = bench.truth(*draw, dtype).cotangents[k]
    try:
        own = bench.own(*draw, dtype).cotangents[k]
    except Refused:
        return np.zeros(true.shape, bool)
    if own.shape != true.shape:
        return np.zeros(true.shape, bool)
    return np.abs(own - true) > max(th.OTHER, blur(bench)) * max(largest(true), usual(bench, k))


def due(bench: Bench, draw: Draw, k: int, dtype: Any) -> np.ndarray:
    """The truth for leaf k, but for elements that are the dense law's to judge: there the subject's own in float64."""
    true, other = bench.truth(*draw, dtype).cotangents[k], apart(bench, draw, k, dtype)
    return np.where(other, bench.own(*draw, dtype).cotangents[k], true) if other.any() else true


def low(bench: Bench, draws: list[Draw], dtype: Any, k: int) -> list[tuple[float, float, float, Draw]]:
    """For each draw (the subject's error, the error allowed, the leaf's size, the draw) of leaf k in a low precision.

    Allowed is POOL times the largest error of the plain definition over all draws, with a floor of ULPS units in the
    last place of the leaf's largest element. Draws at which the definition itself is not finite are left out.
    """
    rows, top = [], min(float(finfo(d).max) for d in (dtype if isinstance(dtype, tuple) else (dtype,)))
    for case, label, dy in draws:
        truth = bench.truth(case, label, dy, dtype).cotangents[k]
        plain = bench.plain(case, label, dy, dtype).cotangents[k]
        ours = bench.pull(case, label, dy, dtype).cotangents[k]
        if np.isfinite(truth).all() and np.isfinite(plain).all() and largest(truth) < top / th.NEAR_END:
            size = scale(bench, case, dy, k, truth)
            exact = due(bench, (case, label, dy), k, dtype) if ours.shape == truth.shape else truth
            rows.append((off(ours, exact), off(plain, truth), size, (case, label, dy)))
    worst = max((e for _, e, *_ in rows), default=0.0)
    share = max((e / s for _, e, s, _ in rows if s), default=0.0)
    # errors add up in a loop, not alike in both, and one that stops when little changes leaves that little
    unit = th.ULPS * eps(dtype) / 2 * (16 if "while" in bench.primitives else 4 if LOOPS & bench.either else 1)
    if rows and worst > th.OTHER_BITS * whole(bench, rows[0][3]) and bench.random:
        # the same key draws other numbers in float64: there is nothing to compare with but the definition in this dtype
        return [_beside(bench, row[3], dtype, k, 4 * unit, row[2]) for row in rows]
    found = []
    for mine, _, s, draw in rows:
        room = max(th.POOL * min(worst, share * s if s else worst), unit * s)
        if bench.memo.get("both"):  # both round to a narrower dtype inside, each in its own place
            room = max(room, th.ULPS * inner_eps(bench) / 2 * s)
        if mine > room and dtype == "float32":  # exp(x − lse) and the like carry the rounding of x itself
            room = max(room, unit * s * min(max(map(largest, draw[0].floats)), 64.0))
        if mine > room:
            room = max(room, 2 * moved(bench, draw, k, eps(dtype) / 2, dtype))
        found.append((mine, room, s, draw))
    return found


def moved(bench: Bench, draw: Draw, k: int, unit: float, dtype: Any, times: int = 3) -> float:
    """How far the truth moves when every input moves by a unit in the last place: what no formula can do better."""
    rng, moved = np.random.default_rng(0), 0.0
    true = bench.truth(*draw, dtype).cotangents[k]
    for _ in range(times):
        floats = tuple(
            np.asarray(x, np.float64) * (1 + unit * rng.choice((-1, 1), size=np.shape(x))) for x in draw[0].at(dtype)[0]
        )
        gap = bench.at(draw[0], floats, tuple(np.asarray(d, np.float64) for d in draw[2])).cotangents[k] - true
        moved = max(moved, largest(gap))
    return moved


def _beside(bench: Bench, draw: Draw, dtype: Any, k: int, unit: float, size: float) -> tuple[float, float, float, Draw]:
    case, label, dy = draw
    ours, plain = bench.pull(case, label, dy, dtype), bench.plain(case, label, dy, dtype)
    size = max(size, 0.01 * whole(bench, draw))
    return off(ours.cotangents[k], plain.cotangents[k]), unit * size, size, draw


def whole(bench: Bench, draw: Draw) -> float:
    """The size of the largest leaf at the example, under a cotangent as large as this one."""
    return max(usual(bench, k) for k in range(len(draw[0].floats))) * max(map(largest, draw[2]), default=0.0)


def eps(dtype) -> float:
    several = dtype if isinstance(dtype, tuple) else (dtype,)
    return max(float(finfo(d).eps) for d in several)
