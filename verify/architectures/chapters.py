"""A campaign's chapters: a part of a catalogue that is compiled once, used by thousands of networks, and forgotten.

To compile a layer for the shape of an input costs a tenth of a second, a network of compiled layers six milliseconds.
So a chapter draws a vocabulary of such pairs first, which fit one another, and its networks are made of these alone.
The next chapter draws afresh: coverage grows with chapters, memory does not.
"""

import itertools
import math
from fractions import Fraction
from functools import cache
from typing import Any

import jax
import numpy as np

from verify.architectures.networks import (
    SIZES,
    Array,
    Fitting,
    after,
    is_one,
    loss_targets,
    plain,
    ranks,
    small,
    still,
    taken,
)
from verify.architectures.protocol import by_type

FIRST, LONGEST = 50, 25_000  # networks of a campaign's first chapters, and of the longest
MOST_PAIRS = 185  # of a layer and an input, in a chapter: with what forms compile beside 210, a worker had 2.3 GB
FORMS = 6  # ways to join layers that a chapter knows for the shape of an input; each compiles what it joins with
HUBS, ROOM = 3, 9  # shapes of a rank: where most layers of a chapter meet, and all with what others make of these
SEVERAL = 60  # pairs of a chapter from which it has more than one such shape of a rank
TRIES = 4
POWERS = [1, 2, 4, 8]


def lengths(count: int) -> list[int]:
    """How many networks each chapter of a campaign has: few at first, so that they flow at once, then four times as
    many, for what a chapter compiles hardly grows with it."""
    found = []
    while count > 0:
        found.append(min(_length(len(found)), count))
        count -= found[-1]
    return found


def _length(number: int) -> int:
    """How long a chapter is if the campaign goes on: two of a length, one for each of two processes, then longer."""
    return min(FIRST << min(number // 2 * 2, 30), LONGEST)


def drawn(numbers: set[int]) -> list[Array]:
    """All arrays, of so many axes, of the sizes with which a chapter begins."""
    shapes = (shape for n in sorted(numbers) for shape in itertools.product(sorted({*SIZES, *POWERS}), repeat=n))
    return [x for x in map(Array, shapes) if small(x)]


def pairs(length: int) -> int:
    """How many pairs of a layer and an input a chapter of so many networks compiles."""
    return min(MOST_PAIRS, max(30, round(6 * math.sqrt(length))))


@cache
def changes(cases: tuple[Any, ...]) -> tuple[tuple[Any, Any, Array], ...]:
    """(layer, x, y) of each layer that makes a small y of another shape out of what its case shows, an array or not."""
    made = [(case.layer, x, after(case.layer, x)) for case in cases for x in map(plain, case.inputs)]
    return tuple(
        (layer, x, y) for layer, x, y in made if y is not None and small(y) and (not is_one(x) or (small(x) and y != x))
    )


class Chapter:
    """A vocabulary of `size` pairs out of a catalogue, drawn with the seed: what `networks.Whole` is of all.

    Most of its layers take or make a few shapes, the hubs: there any can follow any. Chapter after chapter begins with
    other types of layers, so that all are met.
    """

    def __init__(self, source: Any, seed: int, number: int, size: int):
        self.source = source
        self._rng = np.random.default_rng([seed, number])
        self._made: dict[Array, dict[Any, Array]] = {}
        self._openers: dict[tuple, Array] = {}
        self._losses: dict[Array, dict[Any, tuple[Array, ...]]] = {}
        deck = [source.forms[i] for i in self._rng.permutation(len(source.forms))]
        self._hubs: list[Array] = []
        for rank in sorted(taken(source.layers) & {2, 3, 4}):
            self._add_hub(self._shape(rank))
            if size >= SEVERAL:
                self._add_made(seed, number, rank)
        for x in self._hubs:
            self._add_form(deck, x)
        kinds: dict[Any, list[Any]] = {}
        for case in (*source.layers, *source.losses):
            alone = isinstance(case.layer, type(source.serial()))  # what a row is depends on what is in it
            kinds.setdefault(case.layer if alone else type(case.layer), []).append(case)
        order = np.random.default_rng(seed).permutation(len(kinds))
        order = np.roll(order, -sum(pairs(_length(n)) for n in range(number)))
        several, losses = list(kinds.values()), set(source.losses)
        for turn in range(4 * size):
            if sum(map(len, self._made.values())) + len(self._openers) >= size:
                break
            cases = several[order[turn % len(order)]]
            cases = [cases[i] for i in self._rng.permutation(len(cases))]
            if cases[0] in losses:
                self._try_loss(cases[0])
            else:
                self._try_layers(cases)
        self._forms = {x: self._dealt(deck, x) if x in self._hubs else [] for x in self._made}
        for x in self._hubs:
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
        """What one form makes of x becomes an input, if a form makes something else of it: elsewhere it is no use."""
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
        """Most often without axes of size one: many a mistake does not show there. Or of powers of two: what takes
        halves of an axis, or folds it, takes few others."""
        sizes, ones = (sorted(SIZES), self._rng.integers(4) == 0) if self._rng.integers(2) else (POWERS, rank)
        while True:
            x = Array(tuple(int(n) for n in self._rng.choice(sizes, rank)))
            if small(x) and x.shape.count(1) <= ones:
                return x

    def _add_shape(self, x):
        """Whether x is an input of this chapter, now at least."""
        alike = sum(len(other.shape) == len(x.shape) for other in self._made)
        if x not in self._made and alike < ROOM and small(x):
            self._made[x] = {}
        return x in self._made

    def _add_hub(self, x):
        self._hubs += [x] * (x not in self._made and self._add_shape(x))

    def _add_made(self, seed, number, rank):
        """More hubs of a rank: what layers make of something else. Chapter after chapter it is the turn of others, for
        few shapes are such."""
        made = changes((*self.source.layers, *self.source.losses))
        kinds = by_type(each for each in made if len(each[2].shape) == rank)
        order = np.random.default_rng([seed, rank]).permutation(len(kinds))
        for kind in np.roll(order, -number * (HUBS - 1))[: HUBS - 1]:
            layer, x, y = kinds[kind][self._rng.integers(len(kinds[kind]))]
            self._add_hub(y)
            self._add(layer, x, y)

    def _add(self, layer, x, y):
        """Whether the layer that makes y of x is one of this chapter's now."""
        added = self._add_shape(y) and (not is_one(x) or self._add_shape(x))
        if added and is_one(x):
            self._made[x][layer] = y
        elif added:
            self._openers[layer, _frozen(x)] = y
        return added

    def _try_layers(self, cases):
        """One of a type's layers, where it takes what is a hub, or makes one; else where its case shows it."""
        if not any(map(ranks, cases)) or self._rng.random() < 0.3:
            self._try_opener(cases[0])
            return
        hubs = [self._hubs[i] for i in self._rng.permutation(len(self._hubs))]
        into = [(case, x, None) for case in cases for x in hubs if len(x.shape) in ranks(case)]
        onto = ((case, x, y) for case in cases for y in hubs for x in self._before(case, y))
        own = ((case, x, None) for case in cases for x in filter(is_one, map(plain, case.inputs)))
        for case, x, wanted in itertools.chain(*((onto, into) if self._rng.random() < 0.5 else (into, onto)), own):
            y = None if case.layer in self._made.get(x, ()) else after(case.layer, x)
            if y is not None and wanted in (None, y) and self._add(case.layer, x, y):
                return

    def _before(self, case, y):
        """Arrays out of which the layer may make y: as x of a case is to what comes of it, and others of its rank."""
        found = []
        for x in filter(is_one, map(plain, case.inputs)):
            made = after(case.layer, x)
            if made is None or len(made.shape) != len(y.shape) or made == x:
                continue
            if len(x.shape) == len(y.shape):
                ratios = [Fraction(a, b) * c for a, b, c in zip(x.shape, made.shape, y.shape, strict=True)]
                if all(n.denominator == 1 for n in ratios):
                    found.append(Array(tuple(map(int, ratios))))
            found += [self._shape(len(x.shape)) for _ in range(TRIES)]
        return [x for x in found if small(x)]

    def _try_opener(self, case):
        own = [(x, after(case.layer, x)) for x in map(plain, case.inputs) if not is_one(x)]
        fit = [(x, y) for x, y in own if y is not None and small(y)]
        some = [(x, y) for x, y in fit if y in self._hubs] or fit
        if some:
            self._add(case.layer, *some[self._rng.integers(len(some))])

    def _try_loss(self, case):
        known = [[*self._hubs], [x for x in self._made if x not in self._hubs]]  # most networks end at a hub
        for x in (several[i] for several in known for i in self._rng.permutation(len(several))):
            if targets := loss_targets(case, x):
                self._losses.setdefault(x, {})[case.layer] = targets[self._rng.integers(len(targets))]
                return
        self._try_opener(case)  # a loss of each example gives an array

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
