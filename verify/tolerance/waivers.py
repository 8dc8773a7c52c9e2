"""Why a difference at an unusual input may be nobody's mistake: seven waivers, each by its name in the report.

A difference that is waived is told on request and fails nothing. Ordinary inputs are never excused, and with a strict
contract none at which the function's output is the definition's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from verify.run.bench import Bench
from verify.tolerance import facts
from verify.tolerance.budget import Draw
from verify.tolerance.facts import Place


@dataclass(frozen=True)
class Waiver:
    """A reason for which a difference does not count, why, and what makes it count after all."""

    name: str
    title: str
    why: str
    otherwise: str

    def __str__(self):
        return f"{self.name}  {self.title}\n\n{self.why}\n\nTo have it counted: {self.otherwise}"


UNPROMISED, OTHER, KINK, INFINITE, DIGITS, LOOP, MACHINE = "W01", "W02", "W03", "W04", "W05", "W06", "W07"
WAIVERS = (
    Waiver(
        UNPROMISED,
        "not promised",
        "Nothing in the example is of the kind: an index below zero, a rank, an axis of one beside longer ones, a "
        "dtype, rows out of order. A rule may be written for what its example shows, and raise or be wrong "
        "elsewhere.",
        "declare it in a contract, give an example that shows it, or ask strictly: Contract(strict=True).",
    ),
    Waiver(
        OTHER,
        "another function there",
        "The function itself, without its rule, is not the definition at this input. The backward pass of the one "
        "cannot be held against the gradient of the other.",
        "give the definition that the function has there too.",
    ),
    Waiver(
        KINK,
        "a kink or a jump",
        "The definition has no derivative there. It bends, and the rule gives something between its one-sided "
        "derivatives; or it jumps, choosing between equals, and the choice may be another.",
        "nothing does, unless the output shows which choice was made: then the rule has to follow it.",
    ),
    Waiver(
        INFINITE,
        "not finite there",
        "The definition's output or gradient is not finite at this input, or is so only by way of an infinity in "
        "between. Nothing is known there, or another right formula need not come through.",
        "write a definition that is finite there.",
    ),
    Waiver(
        DIGITS,
        "no digits left",
        "So far out, or in so low a precision, the definition's own gradient has lost its digits, or would in "
        "float32. Another right formula loses others.",
        "nothing does in this precision; the same input counts in a wider one.",
    ),
    Waiver(
        LOOP,
        "a loop that may not have converged",
        "The rule, or the definition, goes by a loop until something has converged. It may not be made for values "
        "so far from those of the example.",
        "give an example of that size.",
    ),
    Waiver(
        MACHINE,
        "not on this machine",
        "What is here cannot run it: an operation that its compiler has not got, a dtype that it does not "
        "multiply, a host function that devices would wait for.",
        "audit it where it is meant to run.",
    ),
)


class Why(NamedTuple):
    """Which waiver, and what exactly holds."""

    waiver: str
    text: str


REASONS: tuple[tuple[Why, Callable[[Place], bool]], ...] = (
    (Why(UNPROMISED, "the example shows nothing of the kind"), facts.not_shown),
    (Why(UNPROMISED, "it is broadcast alone, of several that go together"), facts.one_alone),
    (Why(LOOP, "its loop until convergence may not be made for such values"), facts.loop_of_values),
    (Why(LOOP, "the definition's loop has not come to rest there"), facts.unsettled),
    (Why(INFINITE, "the definition does not tell what is no number from others"), facts.swallowed),
    (Why(DIGITS, "so far out digits cancel"), facts.cancels),
    (Why(OTHER, "its output is another one there too"), facts.other_output),
    (Why(OTHER, "the function itself is another one there"), facts.elsewhere),
    (Why(OTHER, "the example shows only what is above zero"), facts.positive_only),
    (Why(INFINITE, "the definition has no finite gradient there"), facts.no_gradient),
    (Why(INFINITE, "the definition's own output is not finite there"), facts.no_output),
    (Why(KINK, "the definition jumps there"), facts.jumps),
    (
        Why(INFINITE, "the definition itself goes through infinity there"),
        lambda place: place.infinite and facts.through_infinity(place),
    ),
    (Why(DIGITS, "the definition itself loses everything in float32 there"), facts.doubtful),
)


def excuse(bench: Bench, draw: Draw, k: int | None = None, output: int = 0, infinite: bool = False) -> Why | None:
    """Why a difference in leaf k, or in an output, may be nobody's mistake; None if it is one. It may be `infinite`."""
    if draw[0].ordinary or bench.flat.subject.estimator:
        return None
    place = Place(bench, draw, k, output, infinite)
    if bench.contract.strict and facts.same(place):
        return None
    return next((why for why, holds in REASONS if holds(place)), None)
