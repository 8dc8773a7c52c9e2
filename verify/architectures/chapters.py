"""A campaign's chapters: a part of a catalogue that is compiled once, used by thousands of networks, and forgotten.

To compile a layer for the shape of an input costs a third of a second, a network of compiled layers five milliseconds.
So a chapter draws a vocabulary of such pairs first, which fit one another, and its networks are made of these alone.
The next chapter draws afresh: coverage grows with chapters, memory does not.
"""

import math
from typing import Any

import jax
import numpy as np

from verify.architectures.networks import (
    SIZES,
    Array,
    Fitting,
    after,
    bounded,
    is_one,
    loss_targets,
    plain,
    ranks,
    still,
    taken,
)

FIRST, LONGEST = 50, 20_000  # networks of a campaign's first chapters, and of the longest
FORMS = 3  # ways to join layers that a chapter knows for the shape of an input; each compiles what it joins with
TRIES = 4


def lengths(count: int) -> list[int]:
    """How many networks each chapter of a campaign has: few at first, so that they flow at once, then twice as many."""
    found = []
    while count > 0:
        found.append(min(_length(len(found)), count))
        count -= found[-1]
    return found


def _length(number: int) -> int:
    """How long a chapter is if the campaign goes on: two of a length, one for each of two processes, then doubled."""
    return min(FIRST << min(number // 2, 30), LONGEST)


def pairs(length: int) -> int:
    """How many pairs of a layer and an input a chapter of so many networks compiles."""
    return min(250, max(30, round(6 * math.sqrt(length))))


class Chapter:
    """A vocabulary of `size` pairs out of a catalogue, drawn with the seed: what `networks.Whole` is of all.

    Chapter after chapter begins with other types of layers, so that all are met. Every output is an input of some pair.
    """

    def __init__(self, source: Any, seed: int, number: int, size: int):
        self.source = source
        self._rng = np.random.default_rng([seed, number])
        self._room = max(4, size // 20)  # shapes of each rank: with few ranks full, the others still find room
        self._made: dict[Array, dict[Any, Array]] = {}
        self._openers: dict[tuple, Array] = {}
        self._losses: dict[Array, dict[Any, tuple[Array, ...]]] = {}
        deck = [source.forms[i] for i in self._rng.permutation(len(source.forms))]
        for rank in sorted(taken(source.layers) & {2, 3, 4}):
            self._add_shape(x := self._shape(rank))
            self._add_form(deck, x)
        kinds: dict[type, list[Any]] = {}
        for case in (*source.layers, *source.losses):
            kinds.setdefault(type(case.layer), []).append(case)
        order = np.random.default_rng(seed).permutation(len(kinds))
        order = np.roll(order, -sum(pairs(_length(n)) for n in range(number)))
        several, losses = list(kinds.values()), {type(case.layer) for case in source.losses}
        for turn in range(4 * size):
            if sum(map(len, self._made.values())) + len(self._openers) >= size:
                break
            cases = several[order[turn % len(order)]]
            case = cases[self._rng.integers(len(cases))]
            if type(case.layer) in losses:
                self._try_loss(case)
            else:
                self._try_layer(case)
        self._forms = {x: self._dealt(deck, x) for x in self._made}
        for x in self._made:
            self._made[x].setdefault(still(source, x), x)
        self._fitting = {(x, keeps): self._fit(x, keeps) for x in self._made for keeps in (False, True)}

    def starts(self) -> list[Array]:
        """The inputs, the smallest first."""
        return sorted(
            (x for x in self._made if self._fitting[x, False]),
            key=lambda x: (len(x.shape), math.prod(x.shape), x.shape),
        )

    def knows(self, y: Array) -> bool:
        return y in self._made

    def fitting(self, x: Array, keeps: bool) -> list[Fitting]:
        return self._fitting[x, keeps]

    def forms(self, x: Array) -> list[Any]:
        return self._forms[x]

    def openers(self) -> list[tuple[Any, Any, Array]]:
        return [(layer, _thawed(inputs), y) for (layer, inputs), y in self._openers.items()]

    def losses(self, y: Array) -> list[tuple[Any, tuple[Array, ...]]]:
        return list(self._losses.get(y, {}).items())

    def _dealt(self, deck, x):
        """FORMS forms that fit x, those that were dealt longest ago, in the catalogue's order."""
        mine = []
        for form in [*deck]:
            y = self._formed(form, x)
            if y in self._made and len(mine) < FORMS:
                mine.append(form)
                deck.remove(form)
                deck.append(form)
        return [form for form in self.source.forms if form in mine]

    def _add_form(self, deck, x):
        """What one form makes of x becomes an input, if a form makes something else of it: there it is no use else."""
        for form in deck:
            y = self._formed(form, x)
            if y is not None and y != x and self._add_shape(y):
                return

    def _formed(self, form, x):
        """What the form makes of x around layers that change nothing of its shape."""
        if not all(form.keeps):  # what comes out is what its layer gives
            return x
        layer = still(self.source, x)
        return after(form.build(*[layer] * len(form.keeps)), x)

    def _shape(self, rank):
        """Most often without axes of size one: many a mistake does not show there."""
        sizes, ones = sorted(SIZES), self._rng.integers(4) == 0
        while True:
            x = Array(tuple(int(n) for n in self._rng.choice(sizes, rank)))
            if bounded(x) and x.shape.count(1) <= ones:
                return x

    def _add_shape(self, x):
        """Whether x is an input of this chapter, now at least."""
        alike = sum(len(other.shape) == len(x.shape) for other in self._made)
        if x not in self._made and alike < self._room and bounded(x):
            self._made[x] = {}
        return x in self._made

    def _try_layer(self, case):
        own = [x for x in map(plain, case.inputs) if not is_one(x)]
        if own and (not ranks(case) or self._rng.random() < 0.3):
            inputs = own[self._rng.integers(len(own))]
            y = after(case.layer, inputs)
            if y is not None and len(y.shape) > 1 and self._add_shape(y):
                self._openers[case.layer, _frozen(inputs)] = y
            return
        known = [x for x in self._made if len(x.shape) in ranks(case) and case.layer not in self._made[x]]
        tried = [known[i] for i in self._rng.permutation(len(known))[:TRIES]]
        for x in [*tried, *filter(is_one, map(plain, case.inputs))]:
            if not self._add_shape(x):
                continue
            y = after(case.layer, x)
            if y is not None and self._add_shape(y):
                self._made[x][case.layer] = y
                return

    def _try_loss(self, case):
        known = list(self._made)
        for i in self._rng.permutation(len(known))[:TRIES]:
            if targets := loss_targets(case, known[i]):
                self._losses.setdefault(known[i], {})[case.layer] = targets[self._rng.integers(len(targets))]
                return

    def _fit(self, x, keeps):
        """In the catalogue's order, the simplest first, for then a failing network shrinks to what is simple."""
        kinds: dict[type, list[Any]] = {}
        rank: dict[type, set[int]] = {}
        for case in self.source.layers:
            kind, y = type(case.layer), self._made[x].get(case.layer)
            rank[kind] = max(rank.get(kind, set()), ranks(case), key=len)
            if y is not None and (not keeps or y == x):
                kinds.setdefault(kind, []).append((case.layer, y))
        return [Fitting(len(rank[kind]) < 3, tuple(made)) for kind, made in kinds.items()]


def _frozen(inputs):
    leaves, tree = jax.tree.flatten(inputs)
    return tuple(leaves), tree


def _thawed(frozen):
    leaves, tree = frozen
    return tree.unflatten(leaves)
