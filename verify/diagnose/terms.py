"""What is amiss inside of a gradient: one of its terms, or the value at which one of its derivatives was taken.

The plain definition is run with something to turn in it, until its gradient is the one that came. A value that it uses
at several places gets one term of its gradient from each, and so does what is computed from several values: a valve
there lets the value through and multiplies what comes back. Shut, at 0, the term is missing; at -1 it has the wrong
sign. Likewise each derivative can be taken at another value of the same shape, or at a transposed or shifted one.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.extend.source_info_util import summarize

from verify import thresholds as th
from verify.inputs.case import Leaves
from verify.jaxpr.interpret import Around, again, dense, inlined, jaxpr_of, scan_counts, strip
from verify.run.bench import Bench
from verify.tolerance.budget import Draw, largest

MOST = 400  # what can be turned in one definition: each costs one run of its gradient
PAIRS = 20  # different terms of which two may be missing together
CURVED = (
    "mul", "div", "dot_general", "conv_general_dilated", "integer_pow", "pow", "square", "sqrt", "rsqrt", "exp", "exp2",
    "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "erf", "max", "min", "abs",
)  # fmt: skip
OF_RESULT: dict[str, Callable] = {  # derivatives that people write in terms of the result
    "exp": lambda y: y,
    "tanh": lambda y: 1 - y * y,
    "logistic": lambda y: y * (1 - y),
    "sqrt": lambda y: 0.5 / y,
    "rsqrt": lambda y: -0.5 * y**3,
}

Told = tuple[Draw, np.ndarray, np.ndarray]  # what came for one leaf, and what was due
Pull = Callable[[Draw, np.ndarray], Leaves]  # the cotangents of a draw with everything turned as the numbers say


def missing(
    bench: Bench,
    leaf: int,
    here: list[Told],
    away: list[Told],
    fine: float,
    factor: Callable[[list[Told], list[float]], str],
) -> str:
    """The kind of mistake if what came is the truth but for one or two of its terms, all but `fine` of the gap; or "".

    The draws `here` have the example's shapes, those `away` others. `factor` names numbers that a term is multiplied
    with, one a draw. Raises Refused if the definition cannot be run with valves.
    """
    draw, ours, truth = here[0]
    names, pull = _turning(bench, draw, "valves", _valves, _valved)

    def turned(*these: int, to: float = 0.0) -> np.ndarray:
        return np.where(np.isin(np.arange(len(names)), these), to, 1.0)

    terms: dict[int, np.ndarray] = {}
    for i in range(len(names)):
        term = truth - pull(draw, turned(i))[leaf]
        seen = np.isfinite(term).all() and largest(term) > th.SAME * largest(truth)
        if seen and not any(largest(term - other) <= th.SAME * largest(term) for other in terms.values()):
            terms[i] = term
    kinds = (0.0, "missing term"), (-1.0, "sign of a term")
    pairs = list(combinations(terms, 2)) if len(terms) <= PAIRS else []
    for several in ([(i,) for i in terms], pairs):
        for (to, kind), these in product(kinds, several):
            if _explains(pull, turned(*these, to=to), leaf, here, fine):
                return f"{kind}: {', and '.join(names[i] for i in these)}"
    # the largest term first: a square whole, before one of its two equal arguments
    for i, term in sorted(terms.items(), key=lambda item: -largest(item[1])):
        c = _share(ours, truth, term)
        if not _explains(pull, turned(i, to=c), leaf, here, fine):
            continue
        factors, seen = [c], here[:1]
        for elsewhere in [t for t in away if t[2].size > 2][:4]:
            known, there = _turning(bench, elsewhere[0], "valves", _valves, _valved)
            if known == names:
                term = elsewhere[2] - there(elsewhere[0], turned(i))[leaf]
                factors, seen = [*factors, _share(*elsewhere[1:], term)], [*seen, elsewhere]
        return f"{factor(seen, factors)} in a term: {names[i]}"
    return ""


def _share(ours: np.ndarray, truth: np.ndarray, term: np.ndarray) -> float:
    """With which factor the term is in ours, of the truth's 1."""
    square = float((term * term).sum())
    return 1 + float(((ours - truth) * term).sum()) / square if square else 1.0


def misread(bench: Bench, leaf: int, told: list[Told], fine: float) -> str:
    """The kind of mistake if what came is the truth but for one derivative, taken at a wrong value; or "".

    Raises Refused if the definition cannot be run so.
    """
    names, pull = _turning(bench, told[0][0], "values", _values, _valued)
    for i in range(len(names)):
        if _explains(pull, np.arange(len(names)) == i, leaf, told, fine):
            return names[i]
    return ""


def _explains(pull: Pull, turned: np.ndarray, leaf: int, told: list[Told], fine: float) -> bool:
    return all(largest(o - pull(d, turned)[leaf]) <= fine * largest(o - t) for d, o, t in told)


def _turning(bench: Bench, draw: Draw, what: str, places: Callable, around: Callable) -> tuple[list[str], Pull]:
    """The names of what can be turned in the definition, and its gradient as a function of how it is turned."""
    what = f"{what} at {draw[0].shapes}"
    if what not in bench.memo:
        run = lambda: jaxpr_of(bench.oracle.primal, *draw[0].at("float64"))  # noqa: E731
        closed = bench.guarded("reference", run, "float64")
        found = list(islice(places(closed), MOST))

        def gradient(floats, others, dy, turned):
            return dense(again(closed, around([place for place, _ in found], turned)))(floats, others, dy)[1]

        bench.memo[what] = [name for _, name in found], bench.compiled(gradient)
    names, gradient = bench.memo[what]

    def pull(draw: Draw, turned: np.ndarray) -> Leaves:
        case, _, dy = draw
        found = bench.guarded("reference", lambda: gradient(*case.at("float64"), dy, turned), "float64")
        return tuple(map(np.asarray, found))

    return names, pull


def _valves(closed: ClosedJaxpr) -> Iterator[tuple[tuple, str]]:
    """(the id of an equation, "into" or "of", which of its arguments or results), and a name, for each valve."""
    uses = Counter(v for eqn in closed.eqns for v in eqn.invars if not _literal(v))
    uses.update(v for v in closed.jaxpr.outvars if not _literal(v))
    for eqn in closed.eqns:
        for i in (moving := _moving(eqn)):
            if len(moving) > 1 or uses[eqn.invars[i]] > 1:
                yield (id(eqn), "into", i), f"through argument {i} of {_told(eqn)}"
        if inner := _body(eqn):
            yield from _valves(inner)
        else:
            yield from (((id(eqn), "of", i), f"through {_told(eqn)}") for i, v in enumerate(eqn.outvars) if _float(v))


@jax.custom_jvp
def _valve(x, turned):
    return x


_valve.defjvp(lambda x, dx: (x[0], x[1].astype(x[0].dtype) * dx[0]))


def _valved(places: list[tuple], turned: Any) -> Around:
    index = {place: i for i, place in enumerate(places)}

    def valved(side, eqn, values):
        at = [index.get((id(eqn), side, i)) for i in range(len(values))]
        return [v if i is None else _valve(v, turned[i]) for v, i in zip(values, at, strict=True)]

    def around(eqn, values, bind):
        values = valved("into", eqn, values)
        return valved("of", eqn, _scan(eqn, values, around) or bind(eqn, values))

    return around


def _values(closed: ClosedJaxpr) -> Iterator[tuple[tuple, str]]:
    """(the id of an equation, which argument or None for the result, another variable or a change of its own),
    and what a mistake it is."""
    inputs, names = set(closed.jaxpr.invars), {}
    for eqn in closed.eqns:
        if inner := _body(eqn):
            yield from _values(inner)
        names |= {v: "an input" for v in eqn.invars if not _literal(v) and v in inputs}  # known where it is first used
        names |= {v: f"the result of {_told(eqn)}" for v in eqn.outvars}
        for j in _moving(eqn) if eqn.primitive.name in CURVED else ():
            shape = eqn.invars[j].aval.shape
            where = f"argument {j} of {_told(eqn)}"
            for a, b in combinations(range(len(shape)), 2):
                if shape[a] == shape[b] > 1:
                    yield (id(eqn), j, ("swap", a, b)), f"transpose of axes {a} and {b} of {where}"
                if shape[a] > 1 and shape[b] > 1:
                    yield (id(eqn), j, ("flip", a, b)), f"reversed along axes {a} and {b} of {where}"
            for a in range(len(shape)):
                if shape[a] > 1:
                    yield (id(eqn), j, ("flip", a, a)), f"reversed along axis {a} of {where}"
                for step in (1, -1) if shape[a] > 2 else ():
                    yield (id(eqn), j, ("roll", a, step)), f"off by one along axis {a} of {where}"
            for v, name in names.items():
                if v is not eqn.invars[j] and _float(v) and v.aval.shape == shape:
                    yield (id(eqn), j, v), f"wrong residual: {name} in place of {where}"
        if eqn.primitive.name in OF_RESULT:
            for v, name in names.items():
                if v is not eqn.outvars[0] and _float(v) and v.aval.shape == eqn.outvars[0].aval.shape:
                    yield (id(eqn), None, v), f"wrong residual: {name} in place of the result of {_told(eqn)}"


def _valued(places: list[tuple], turned: Any) -> Around:
    choices: dict[int, list] = {}
    for i, (eqn, j, other) in enumerate(places):
        choices.setdefault(eqn, []).append((i, j, other))
    env: dict[Any, Any] = {}

    def changed(x, other):
        if not isinstance(other, tuple):
            return env[other]
        how, a, b = other
        if how == "swap":
            return jnp.swapaxes(x, a, b)
        return jnp.flip(x, tuple({a, b})) if how == "flip" else jnp.roll(x, b, a)

    def around(eqn, values, bind):
        env.update((v, x) for v, x in zip(eqn.invars, values, strict=True) if not _literal(v))
        if eqn.primitive.name not in CURVED:
            out = _scan(eqn, values, around) or bind(eqn, values)
            env.update(zip(eqn.outvars, out, strict=True))
            return out
        env[eqn.outvars[0]] = bind(eqn, values)[0]
        points, slope, known = list(values), jnp.zeros(()), jnp.zeros((), bool)
        for i, j, other in choices.get(id(eqn), ()):
            if j is None:
                slope = jnp.where(turned[i], OF_RESULT[eqn.primitive.name](env[other]), slope)
                known |= turned[i]
            else:
                points[j] = jnp.where(turned[i], changed(values[j], other), points[j])
        env[eqn.outvars[0]] = y = _taken_at(lambda *v: bind(eqn, list(v))[0], values, points, slope, known)
        return [y]

    return around


def _taken_at(f, values, points, slope, known):
    """f(*values), whose derivatives are those at `points`, or `slope` if that is known."""
    moving = [i for i, v in enumerate(values) if jnp.issubdtype(jnp.result_type(v), jnp.floating)]

    def held(*some):
        args = list(values)
        for i, v in zip(moving, some, strict=True):
            args[i] = v
        return f(*args)

    @jax.custom_jvp
    def at(some, points, slope, known):
        return held(*some)

    @at.defjvp
    def _(primals, tangents):
        some, points, slope, known = primals
        there = jax.jvp(held, points, tangents[0])[1]
        if slope.ndim:
            there = jnp.where(known, slope * tangents[0][0], there)
        return held(*some), there

    return at(tuple(values[i] for i in moving), tuple(points[i] for i in moving), slope, known)


def _scan(eqn: Any, values: list, around: Around) -> list | None:
    """A loop whose body is run likewise."""
    if eqn.primitive.name != "scan":
        return None
    p = eqn.params
    held, carried = scan_counts(eqn)
    kept = held + carried
    body = strip(p["jaxpr"], around)

    def step(carry, x):
        out = body(*values[:held], *carry, *x)
        return tuple(out[:carried]), tuple(out[carried:])

    carry, ys = jax.lax.scan(step, tuple(values[held:kept]), tuple(values[kept:]), p["length"], p["reverse"])
    return [*carry, *ys]


def _body(eqn: Any) -> ClosedJaxpr | None:
    return eqn.params["jaxpr"] if eqn.primitive.name == "scan" else inlined(eqn)


def _told(eqn: Any) -> str:
    where = Path(summarize(eqn.source_info)).name
    return f"{eqn.primitive.name} ({where})" if where else eqn.primitive.name


def _moving(eqn: Any) -> list[int]:
    return [i for i, v in enumerate(eqn.invars) if not _literal(v) and _float(v)]


def _literal(v: Any) -> bool:
    return hasattr(v, "val")


def _float(v: Any) -> bool:
    return jnp.issubdtype(v.aval.dtype, jnp.floating)
