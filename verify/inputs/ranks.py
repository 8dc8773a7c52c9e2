"""Other ranks: an axis more or less, or two in one, where the definition takes them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.inputs.case import Case, Tag, is_key, like, ordinary, raw_key, single, stored
from verify.inputs.generators import in_leaf
from verify.jaxpr.interpret import again, jaxpr_of
from verify.processes.guard import wide
from verify.subject.contract import Constraint


def reshaped(f: Callable, example: Case, rng: np.random.Generator) -> Iterator[Case]:
    """A row that is broadcast as a column, and as a single number, where f makes as much of it."""
    tall = {np.shape(x)[-2] for x in example.floats if np.ndim(x) > 1} - {0}
    for i, x in enumerate(example.floats):
        if np.ndim(x) == 1 and np.size(x) in tall:
            for name, new in (("column", np.reshape(x, (-1, 1))), ("number", x[0])):
                base = ordinary(example, rng, f"broadcast {i} as a {name}")
                case = in_leaf(base, i, single(new), frozenset({Tag.SIZE, Tag.BROADCAST, Tag.RESHAPED}))
                before, now = (_made(f, c) for c in (base, case))
                if before is not None and before == now:
                    yield case


def _made(f: Callable, case: Case) -> list[tuple[int, ...]] | None:
    """The shapes of what f makes of a case, None if it refuses."""
    with suppress(Exception), wide("float64"):  # as in `accepts`
        return [v.shape for v in jax.eval_shape(f, case.floats, case.others)]
    return None


def ranked(f: Callable, example: Case, rng: np.random.Generator) -> Iterator[Case]:
    """The example with one axis more in front of a leaf of the highest rank, of all of these, or of all leaves, where
    f takes it for a batch; of all of the highest rank also where f takes it for something else. And the first of its
    batch alone, with one axis less, where f gives for it what it gives for it in the batch."""
    leaves = (*example.floats, *example.others)
    high = max((np.ndim(x) for x in example.floats), default=0)
    count, tried = len(example.floats), list[list[bool]]()
    first = next((i for i, x in enumerate(example.floats) if np.ndim(x) == high), -1)
    ranks = [0 if is_key(x) else np.ndim(x) for x in leaves]
    highest, everyone = ([r >= max(n, 1) for r in ranks] for n in (high, 1))
    for more in ([i == first for i in range(len(leaves))], highest, everyone):
        new = [np.stack([x] * 3) if m else x for x, m in zip(leaves, more, strict=True)]
        drawn = (like(x, rng, Constraint.of(x)) for x in new[:count])
        case = Case("", tuple(stored(x, Constraint.of(x)) for x in drawn), tuple(new[count:]))
        tag = _rank(f, case, more) if high and more not in tried else None
        if tag and (tag is Tag.BATCH or more == highest):
            label = "one axis more, of a batch" if tag is Tag.BATCH else "another rank, one axis more"
            yield replace(case, label=label, tags=frozenset({tag, Tag.SIZE}))
        tried.append(more)
    for less in (highest, everyone) if high > 1 else ():
        case = replace(_first(example, less, rng), label="one axis less", tags=frozenset({Tag.BATCH, Tag.SIZE}))
        if less not in tried[3:] and _is_part(f, example, less):
            yield case
        tried.append(less)


def _part(example: Case, less: list[bool], i: int) -> tuple[tuple, tuple]:
    """The i-th of a batch: (floats, others), without its axis where there is `less` of it."""
    leaves = [x[i] if m else x for x, m in zip((*example.floats, *example.others), less, strict=True)]
    return tuple(leaves[: len(example.floats)]), tuple(leaves[len(example.floats) :])


def _first(example: Case, less: list[bool], rng: np.random.Generator) -> Case:
    floats, others = _part(ordinary(example, rng, ""), less, 0)
    return Case("", tuple(stored(x, example.constraint(k)) for k, x in enumerate(floats)), others)


def _is_part(f: Callable, example: Case, less: list[bool]) -> bool:
    """Whether f gives of each of a batch, without the axis of the batch, what it gives of it within."""
    lengths = {np.shape(x)[0] for x, m in zip((*example.floats, *example.others), less, strict=True) if m}
    with suppress(Exception), wide("float64"):  # as in `accepts`
        whole = f(example.floats, example.others)
        each = [f(*_part(example, less, i)) for i in range(min(lengths))]
        pairs = [(y, np.stack(parts)) for y, parts in zip(whole, zip(*each, strict=True), strict=True)]
        return len(lengths) == 1 and all(_is_made_of(y, several) for y, several in pairs)
    return False


def _is_made_of(y: Any, several: np.ndarray) -> bool:
    """Whether y is these, in a row or summed up."""
    return any(v.shape == y.shape and np.allclose(y, v, 1e-6, 1e-9) for v in (several, several.sum(0)))


def _rank(f: Callable, case: Case, more: list[bool]) -> Tag | None:
    """What a case of leaves with `more` axes is, None where f does not take it. It is a batch where f gives what it
    gives of its parts, in a row or summed up; not on average, for of a mean many a rule knows just two axes. If f draws
    numbers, then were they all alike."""
    draws = any(is_key(x) or raw_key(np.asarray(x)) for x in case.others)

    def drawn_alike(eqn, values, bind):
        if eqn.primitive.name != "random_bits":
            return bind(eqn, values)
        bits = eqn.outvars[0].aval
        return [jnp.full(bits.shape, np.iinfo(bits.dtype).max // 3, bits.dtype)]

    def run(floats, others):
        return again(jaxpr_of(f, floats, others), drawn_alike)(floats, others) if draws else f(floats, others)

    tag = Tag.BATCH
    with suppress(Exception), wide("float64"):  # as in `accepts`
        parts = [run(*_part(case, more, i)) for i in range(3)]
        for y, each in zip(run(case.floats, case.others), zip(*parts, strict=True), strict=True):
            several = np.stack(each)
            if y.shape not in (several.shape, several.shape[1:]):
                return None
            tag = tag if _is_made_of(y, several) else Tag.RANK
        return tag
    return None
