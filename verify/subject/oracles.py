"""What the cotangents should be: float64 VJPs of a plain definition, or finite differences where there is none.

An oracle shares no code with what it judges. The definition is traced and every custom rule in it is replaced by the
function that the rule decorates, so plain `jax.vjp` applies; which oracle was found, and how strong it is, goes into
the report. JAX's own rules, as that of `jnp.logaddexp`, stay: they are there because the derivative of what they
decorate is another one somewhere, at equal arguments for instance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.jaxpr.interpret import again, dense, jaxpr_of, rules_in
from verify.processes.guard import wide
from verify.subject.flat import Flat
from verify.subject.layout import show


@dataclass(frozen=True)
class Oracle:
    """vjp(floats, others, dy) -> (y, cotangents): the truth, over leaves. `slack` is how far off it may be, relative
    to the largest element: 0 for automatic differentiation. `strength` is said in the report."""

    kind: str
    strength: str
    primal: Callable[[tuple, tuple], tuple]
    vjp: Callable[[tuple, tuple, tuple], tuple[tuple, tuple]]
    slack: float = 0.0
    notes: tuple[str, ...] = ()


def without_rules(f: Callable[[tuple, tuple], tuple], moving: bool = False) -> Callable[[tuple, tuple], tuple]:
    """f(floats, others) with the custom rules inside it taken out, and, if `moving`, without stopped gradients.

    JAX's own rules stay, but where there are no others: then they are what is asked about.
    """

    def plain(floats, others):
        closed = jaxpr_of(f, floats, others)
        whole = not moving and not rules_in(closed)[1]
        return again(closed, _unstopped if moving else None, whole)(floats, others)

    return plain


def _unstopped(eqn: Any, values: list, bind: Callable[..., list]) -> list:
    return values if eqn.primitive.name == "stop_gradient" else bind(eqn, values)


class Unusable(Exception):  # noqa: N818 - a signal between modules, seen by no user
    """A reference that was given and cannot be compared with: the audit is inconclusive, and this says why."""


def find(flat: Flat, floats: tuple, others: tuple) -> tuple[Oracle, list[str]]:
    """The strongest oracle that works on the example, and notes on what it rests upon. floats are float64.

    A reference that was given is used or the audit ends: raises Unusable where it does not run, or does not return what
    the subject does. Compared with anything else, a mistake in the forward pass would pass.
    """
    subject, notes = flat.subject, []
    (known, inside), error = _rules(flat.primal, floats, others)
    custom, sure = bool(known or inside), error is None
    if subject.reference is not None and subject.reference is subject.primal:
        notes.append("the reference is the subject itself: what is compared with is its own forward, without rules")
    elif subject.reference is not None and sure:
        return _given(flat, floats, others, notes), notes
    itself = sure and not custom and subject.kind == "function"
    if itself:
        notes.append("the function has no custom rule and there is no reference: its gradient was compared with itself")
    f = without_rules(flat.primal)
    if _differentiable(f, floats, others):
        strength = (
            "float64 vjp of the subject's own forward without custom rules, every element; a wrong forward stays unseen"
        )
        return Oracle("itself" if itself else "own forward", strength, f, dense(f)), notes
    strength = "finite differences of the subject's own forward, a ladder of steps: mistakes below 1e-6 stay unseen"
    return Oracle("finite differences", strength, flat.primal, differences(flat.primal), 1e-6), notes


def _given(flat: Flat, floats: tuple, others: tuple, notes: list[str]) -> Oracle:
    """The oracle that the user's reference is; notes are added to."""
    f = flat.reference
    (known, inside), error = _rules(f, floats, others)
    if error is not None:
        raise Unusable(f"the reference raised {brief(error)}; it has to run in float64, compiled") from error
    _alike(flat, floats, others)
    if known:
        notes.append(f"the reference calls JAX's own custom rules ({', '.join(known)}); they were trusted")
    if inside:
        notes.append(f"the reference calls custom rules ({', '.join(inside)}); they were taken out where possible")
    if inside and _differentiable(without_rules(f), floats, others):
        f = without_rules(f)
    elif inside:
        notes.append("without its custom rules the reference has no gradient, so they are trusted")
    if _differentiable(f, floats, others):
        return Oracle("reference", "float64 vjp of the reference, every element", f, dense(f))
    notes.append("the reference has no gradient at the example, so its values were differenced")
    strength = "finite differences of the reference, a ladder of steps: mistakes below 1e-6 stay unseen"
    return Oracle("finite differences", strength, f, differences(f), 1e-6)


def _alike(flat: Flat, floats: tuple, others: tuple) -> None:
    """Unusable if the reference does not return the subject's outputs: as many, of their shapes, no narrower."""
    with wide("float64"):
        ours, theirs = (jax.eval_shape(f, floats, others) for f in (flat.primal, flat.reference))
    if [v.shape for v in ours] != [v.shape for v in theirs] or any(
        jnp.finfo(a.dtype).bits > jnp.finfo(b.dtype).bits for a, b in zip(ours, theirs, strict=True)
    ):
        raise Unusable(f"the reference returns {show(theirs)} and the subject {show(ours)}, given float64")


def _rules(f: Callable, floats: tuple, others: tuple) -> tuple[tuple[list[str], list[str]], Exception | None]:
    """(JAX's own custom rules in f, the others), and the error of an f that cannot be traced."""
    try:
        with wide("float64"):
            return rules_in(jax.make_jaxpr(f)(floats, others)), None
    except Exception as error:  # noqa: BLE001 - a stranger's code; the text goes into the report
        return ([], []), error


def _differentiable(f: Callable, floats: tuple, others: tuple) -> bool:
    """Whether jax.vjp of f can be traced at the example."""
    try:
        with wide("float64"):
            y = jax.eval_shape(f, floats, others)
            dy = tuple(np.ones(v.shape, v.dtype) for v in y)
            jax.eval_shape(dense(f), floats, others, dy)
        return True
    except Exception:  # noqa: BLE001 - a stranger's code; the caller goes on to the next oracle and says so
        return False


def brief(error: BaseException) -> str:
    """The kind and the first line of an error."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


STEPS = tuple(10.0**-k for k in range(1, 8))


def differences(primal: Callable[[tuple, tuple], tuple]) -> Callable[[tuple, tuple, tuple], tuple[tuple, tuple]]:
    """dx_i = (g(x + h e_i) − g(x − h e_i)) / 2h, extrapolated, with g = Σ dy f, and h from a ladder.

    The step is the one at which neighbouring steps agree best, chosen element by element and without a look at the
    subject (Ridders, *Accurate computation of F'(x)*, 1982). Costs 28 forwards an element.
    """
    compiled = jax.jit(
        lambda floats, others, dy: sum(jnp.sum(a * b) for a, b in zip(primal(floats, others), dy, strict=True))
    )

    def vjp(floats, others, dy):
        found = []
        for which, x in enumerate(floats):
            x = np.asarray(x, np.float64)

            def at(moved, which=which):
                return float(compiled((*floats[:which], moved, *floats[which + 1 :]), others, dy))

            found.append(np.array([_slope(at, x, i) for i in np.ndindex(*x.shape)]).reshape(x.shape))
        return jax.jit(primal)(floats, others), tuple(found)

    return vjp


def _slope(at: Callable[[np.ndarray], float], x: np.ndarray, index: tuple[int, ...]) -> float:
    """∂at/∂x[index], by the ladder."""
    size = max(abs(float(x[index])), float(np.abs(x).mean())) or 1.0

    def central(h):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        return (at(up) - at(down)) / (2 * h)

    values = [(4 * central(step * size / 2) - central(step * size)) / 3 for step in STEPS]
    jumps = np.abs(np.diff(values))
    return values[int(np.nanargmin(jumps)) + 1] if np.isfinite(jumps).any() else float("nan")
