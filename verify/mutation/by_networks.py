"""Mistakes in one class of layers, judged by random networks alone: those of a chapter, of which each holds the class.

The networks are drawn once, out of the layers as they are, and then made again with the mistake in them. So the layers
around it are compiled once for all mistakes of a class.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
from hypothesis import HealthCheck, Phase, given, seed, settings

from verify.architectures.chapters import Chapter
from verify.architectures.compiled import compiled, said
from verify.architectures.judge import RAISES, Outcome, judge
from verify.architectures.networks import EVEN, Network, networks, values
from verify.architectures.protocol import as_one, children, nodes, replace_at, substitute
from verify.mutation.mutate import Mutant, apply
from verify.naming.catalogues import catalogue

AROUND = 14  # classes beside the one in question: the first of the catalogue, which are the simplest
WORDS = 60
DRAWN = 100  # networks at a time
TIMES = 6
KEPT = 40  # networks that hold the class


@cache
def holding(name: str, kind: type) -> tuple[Network, ...]:
    """Networks of a chapter that hold a layer of the class, as many as KEPT where there are so many."""
    source, found = catalogue(name), []
    vocabulary = Chapter(_focused(source, kind), 0, 0, WORDS)
    for start in range(TIMES):
        if len(found) < KEPT:
            found += [net for net in _drawn(vocabulary, start) if any(type(n) is kind for _, n in nodes(net.layer))]
    return tuple(found[:KEPT])


def _focused(source: Any, kind: type) -> Any:
    """The catalogue with the class in question and a few others. Its forms are all there: it may be one of them."""
    first = list(dict.fromkeys(type(case.layer) for case in source.layers))[:AROUND]

    def holds(layer):
        return any(type(node) is kind for _, node in nodes(layer))

    def chosen(cases, others):
        return tuple(case for case in cases if type(case.layer) in others or holds(case.layer))

    losses = [type(case.layer) for case in source.losses][:1]
    return replace(source, layers=chosen(source.layers, first), losses=chosen(source.losses, losses))


def _drawn(vocabulary: Chapter, number: int) -> list[Network]:
    found = []

    @seed(number)
    @settings(
        max_examples=DRAWN,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
        phases=(Phase.generate,),
        backend=EVEN,
    )
    @given(networks(vocabulary))
    def draw(network):
        found.append(network)

    draw()
    return found


def judged(name: str, mutant: Mutant) -> tuple[str, int]:
    """("killed", at which network), ("raises", 0) if the mistake raises in all of them, or ("survived", how many)."""
    wrong: dict[Any, Any] = {}

    def broken(layer):
        if layer not in wrong:
            wrong[layer] = apply(layer, mutant)
        return wrong[layer]

    raised, ran = 0, 0
    with jax.enable_x64(True):
        for number, network in enumerate(holding(name, mutant.kind), 1):
            layer = _with(network.layer, mutant, broken)
            params, x, rng = values(network)
            outcome = judge(layer, params, x, rng)
            if not outcome.disagrees:
                ran += 1
            elif any(why.startswith("raises") for why in map(said, wrong.values())) or _raised(outcome):
                raised += 1
            else:
                return "killed", number
    if raised and ran:
        return "killed", 0
    return ("raises", 0) if raised else ("survived", ran)


def _raised(outcome: Outcome) -> bool:
    return any(d.leaf.startswith(RAISES) for d in outcome.differences)


def _with(layer: Any, mutant: Mutant, broken: Any) -> Any:
    """The network, compiled, with the mistake in each layer of the class. Of a combinator, whose methods it replaces,
    the layers inside are compiled first."""

    def alone(_, node):
        return broken(node) if type(node) is mutant.kind and (as_one(node) or not children(node)) else node

    return compiled(_around(compiled(replace_at(layer, alone)), mutant))


def _around(layer: Any, mutant: Mutant) -> Any:
    layer = substitute(lambda _, child: _around(child, mutant), layer)
    return apply(layer, mutant) if type(layer) is mutant.kind and children(layer) else layer
