"""Random networks: a Hypothesis strategy of architectures that are valid by construction, and that shrink.

The layers come from catalogues: any package names one under the entry point group `verify.catalogues`, a function that
returns an object with `layers`, `losses` (cases: a layer and inputs that it takes), `forms` (ways to make layers of
layers), `serial`, `with_loss` and `names`. Sizes are small and few, so that each layer is compiled once for each shape
and then used again by every network: that is what makes thousands of networks a minute possible.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

from verify.architectures.compiled import compiled
from verify.architectures.protocol import as_one, by_type, children, is_buffer, is_float, is_layer
from verify.naming.catalogues import CatalogueError, catalogue
from verify.processes.memory import forgets

STARTS = (2, 3), (3, 5), (2, 1), (2, 3, 5), (2, 2, 8), (2, 5, 3, 2), (1, 3, 5, 1), (2, 3, 3, 1), (1, 5, 2, 3)
SIZES = {1, 2, 3, 5, 8, 10, 15, 16}  # of axes, on the way: few, so that layers meet shapes that were compiled before
MOST = 64  # elements of an array on the way


@dataclass(frozen=True)
class Array:
    """An input: its shape, for integers the number that they stay below, the numbers that it may hold, () for any."""

    shape: tuple[int, ...]
    below: int | None = None
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Network:
    """A random network: the layer, what its input looks like, and the seed of all its values."""

    layer: Any
    inputs: Any = field(hash=False)  # a dict has no hash
    seed: int
    forms: tuple[str, ...] = ()


def spec(inputs: Any, dtype: Any = np.float64) -> Any:
    """The inputs, an array or a tuple or dict of them, as jax.ShapeDtypeStruct."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype if x.below is None else np.int32), inputs)


def after(layer: Any, x: Any) -> Array | None:
    """What layer makes of x: an Array, or None where it refuses x or makes something else than one floating array."""
    arrays, tree = jax.tree.flatten(x)
    return _after(layer, tuple(arrays), tree)


@cache
def _after(layer, arrays, tree):
    def run(key, x):
        return layer.forward(layer.init(key, x), x)[0]

    try:
        with jax.enable_x64(True):
            y = jax.eval_shape(run, jax.random.key(0), spec(tree.unflatten(arrays)))
    except (ValueError, TypeError):  # how a layer says that it does not take x
        return None
    if not hasattr(y, "shape") or not is_float(y):
        return None
    return Array(tuple(y.shape))


@dataclass(frozen=True)
class Own:
    """A layer that is no catalogue's, with the inputs of its example."""

    layer: Any
    inputs: tuple[Any, ...]


def own(case: Any) -> Own:
    """The layer of a `verify.case`. Raises CatalogueError for what is none, or cannot be part of a small network."""
    layer, example, _ = case.make()
    if not is_layer(layer) or not example:
        raise CatalogueError(
            f"got {case.name} among the layers; expected a layer of this protocol with an example of its input. Write "
            'verify.case(layer, "f32[3,5]"), and audit functions with verify.check.'
        )

    def like(v):
        v = np.asarray(v)
        return Array(v.shape, None if is_float(v) else int(v.max(initial=0)) + 1)

    x = jax.tree.map(like, example[0] if len(example) == 1 else example)
    y = after(layer, x)
    if y is None or not bounded(y):
        made = "no floating array of its example" if y is None else str(y.shape)
        raise CatalogueError(
            f"got {case.name}, which makes {made}; expected an array of two axes or more, of no more than {MOST} "
            f"numbers, its sizes among {sorted(SIZES)}. Give a smaller example."
        )
    return Own(layer, (x,))


@dataclass(frozen=True)
class Whole:
    """A catalogue as what networks are drawn from: any of its layers wherever an array arrives that it takes.

    With layers that are `own` a network begins with what one of them takes, and every other choice is among these.
    `chapters.Chapter` has the same methods and offers a part of this.
    """

    source: Any
    own: tuple[Own, ...] = ()

    def starts(self) -> list[Array]:
        """Arrays with which a network may begin."""
        mine = [x for case in self.own for x in case.inputs if is_one(x)]
        return mine or [Array(shape) for shape in STARTS if len(shape) in taken(self.source.layers)]

    def knows(self, y: Array) -> bool:
        """Whether a network may go on from y."""
        return bounded(y)

    def forms(self, x: Array) -> list[Any]:
        """The ways to join layers that take x."""
        return self.source.forms

    def fitting(self, x: Array, keeps: bool) -> list["Fitting"]:
        """The types of layer that take x, in the catalogue's order; with `keeps`, what keeps its shape."""
        if not self.own:
            return _fitting(self.source.layers, x, keeps)
        known, mine = _fitting(self.source.layers, x, keeps), _fitting(self.own, x, keeps)
        return [*(replace(f, special=True) for f in mine), *(replace(f, special=False) for f in known)]

    def openers(self) -> list[tuple[Any, Any, Array]]:
        """(layer, inputs, output) of what takes something else than one floating array, and makes one of it."""
        return _openers(self.own or (*self.source.layers, *self.source.losses))

    def losses(self, y: Array) -> list[tuple[Any, tuple[Array, ...]]]:
        """(loss, targets) for each loss that takes y."""
        return _losses(self.source.losses, y)


class _Draw:
    """One network being drawn. Every choice is an index into a list with the simplest first, so that it shrinks."""

    def __init__(self, draw, vocabulary):
        self.draw, self.vocabulary, self.source, self.forms = draw, vocabulary, vocabulary.source, []

    def index(self, n: int) -> int:
        return self.draw(st.integers(0, n - 1))

    def leaf(self, x: Array, keeps: bool) -> tuple[Any, Array] | None:
        """A type of layer first, and then one of its cases: each type is as likely, however many cases it has.

        Every other time only specialists are asked, for most types take arrays of any rank. None if nothing takes x.
        """
        special, kind, which = self.index(2), self.index(_CHOICES), self.index(_CHOICES)
        fitting = self.vocabulary.fitting(x, keeps)
        fitting = [f for f in fitting if f.special] * special or fitting
        if not fitting:
            return None
        outcomes = fitting[kind * len(fitting) // _CHOICES].outcomes
        return outcomes[which * len(outcomes) // _CHOICES]

    def form(self, x: Array, keeps: bool, depth: int) -> tuple[Any, Array]:
        forms = self.vocabulary.forms(x)
        form = forms[self.index(len(forms))]
        flat = as_one(form.build(*(self._still(x) for _ in form.keeps)))  # compiled as one: let there be few of them
        inner = [self.chain(x, keeps or k, 0 if flat else depth - 1, 1 if flat else 2) for k in form.keeps]
        layer, y = form.build(*(layer for layer, _ in inner)), inner[0][1]
        if all(form.keeps):  # what comes out then depends on x alone
            y = after(form.build(*(self._still(x) for _ in inner)), x)
        if y is None or (
            y != x if keeps else not self.vocabulary.knows(y)
        ):  # the form does not fit here: its first network does
            return inner[0]
        self.forms.append(form.name)
        return layer, y

    def _still(self, x):
        return still(self.source, x)

    def chain(self, x: Array, keeps: bool, depth: int, most: int) -> tuple[Any, Array]:
        layers = []
        for _ in range(1 + self.index(most)):
            joined = depth and self.index(4) == 3 and self.vocabulary.forms(x)
            made = self.form(x, keeps, depth) if joined else self.leaf(x, keeps)
            if made is None:
                break
            layers.append(made[0])
            x = made[1]
        return (layers[0] if len(layers) == 1 else self.source.serial(*layers)), x


def small(x: Array) -> bool:
    """Of two axes or more, none empty, and of no more than MOST numbers."""
    return len(x.shape) > 1 and 0 < math.prod(x.shape) <= MOST


def bounded(x: Array) -> bool:
    return small(x) and set(x.shape) <= SIZES


def still(source: Any, x: Array) -> Any:
    """The first layer of the catalogue that makes of x what looks like x, or none at all in a row."""
    same = (c.layer for c in source.layers if len(x.shape) in ranks(c) and after(c.layer, x) == x)
    return next(same, None) or source.serial()


@cache
def taken(cases: tuple[Any, ...]) -> set[int]:
    """The numbers of axes of all arrays that some layer takes by itself."""
    return set().union(*map(ranks, cases))


_CHOICES = 128  # a choice among fewer is this one scaled down: evenly, the simplest first, and the same if few change


@dataclass(frozen=True)
class Fitting:
    """A type of layer where some array arrives: the layers of it that take the array, each with what it makes of it."""

    special: bool
    outcomes: tuple[tuple[Any, Array], ...]


@cache
def _fitting(cases: tuple[Any, ...], x: Array, keeps: bool) -> list[Fitting]:
    """The types of layer that take x, in the catalogue's order; with `keeps`, what keeps its shape."""
    found = []
    for several in by_type((case.layer, case) for case in cases):
        made = [(layer, after(layer, x)) for layer, case in several if len(x.shape) in ranks(case)]
        outcomes = tuple((layer, y) for layer, y in made if y and (y == x or (not keeps and bounded(y))))
        if outcomes:
            found.append(Fitting(max(len(ranks(case)) for _, case in several) < 3, outcomes))
    return found


@cache
def ranks(case: Any) -> set[int]:
    """The numbers of axes that a case says its layer takes as one floating array."""
    return {len(x.shape) for x in case.inputs if is_one(x)}


def is_one(inputs: Any) -> bool:
    """Whether the inputs are one floating array."""
    return getattr(inputs, "below", 0) is None


def networks(source: Any = None, most: int = 5, depth: int = 2, layers: Any = ()) -> st.SearchStrategy[Network]:
    """Valid random networks of the catalogue's layers and forms: chains of up to `most`, nested `depth` deep.

    Some begin with a layer that takes something else than one floating array, some end with a loss, some are in their
    evaluation form. With `layers` of one's own, `verify.case(layer, "f32[3,5]")` each, every other layer is one of
    these, wherever one takes what arrives. Raises CatalogueError for a case that is no layer.
    """
    return _networks(source, most, depth, tuple(map(own, layers)))


@st.composite
def _networks(draw, source, most, depth, layers):
    vocabulary = source if hasattr(source, "fitting") else Whole(source or catalogue(), layers)
    pen, source = _Draw(draw, vocabulary), vocabulary.source
    # All single choices first, always as many: then a shrunk choice does not change what the later ones mean.
    starts = vocabulary.starts()
    x, seed = starts[pen.index(len(starts))], draw(st.integers(0, 2**16))
    opens, closes, evaluates = pen.index(5) == 4, pen.index(8) > 4, pen.index(8) == 7
    opening, closing = pen.index(1000), pen.index(1000)
    openers, first, inputs = vocabulary.openers(), (), x
    if opens and openers:
        layer, inputs, x = openers[opening % len(openers)]
        first = (layer,)
    layer, y = pen.chain(x, False, depth, most)
    if first:
        chained = type(layer) is type(source.serial(layer))
        whole = source.serial(*first, *([child for _, child in children(layer)] if chained else [layer]))
        # Told how long each example is, a whole may refuse a layer that would take padding for steps.
        if len(told := jax.tree.leaves(inputs)) > 1 and not all(map(is_one, told)) and after(whole, inputs) is None:
            whole, pen.forms = source.serial(*first), []
        layer = whole
    losses = [] if first else vocabulary.losses(y)
    if closes and losses:
        kinds = by_type(losses)  # each is as likely, however many cases it has
        several = kinds[closing % len(kinds)]
        loss, targets = several[closing // len(kinds) % len(several)]
        if targets:
            layer, inputs = source.with_loss(layer, loss, len(targets)), (inputs, *targets)
        else:
            layer = source.serial(layer, loss)
    return Network(layer.evaluation() if evaluates else layer, inputs, seed, tuple(pen.forms))


class Even(HypothesisProvider):
    """Hypothesis' choices without its preferences: every integer between bounds as likely, no example like another.

    Its own way repeats parts of earlier examples, and meets less than half as many pairs of neighbours. What fails
    shrinks in Hypothesis' own way. For `settings(backend=EVEN)`.
    """

    def draw_integer(self, min_value: int | None = None, max_value: int | None = None, **more: Any) -> int:
        if min_value is None or max_value is None or self._random is None:
            return super().draw_integer(min_value, max_value, **more)
        return self._random.randint(min_value, max_value)


EVEN = "verify-even"
AVAILABLE_PROVIDERS[EVEN] = f"{__name__}.{Even.__name__}"


@cache
def _openers(cases: tuple[Any, ...]) -> list[tuple[Any, Any, Array]]:
    """(layer, inputs, output) of each case that takes something else than one floating array, and makes one of it."""
    found = []
    for case in cases:
        for inputs in map(plain, case.inputs):
            y = None if is_one(inputs) else after(case.layer, inputs)
            if y is not None and y.shape and bounded(y):
                found.append((case.layer, inputs, y))
    return found


def plain(inputs: Any) -> Any:
    """A catalogue's own arrays as ours."""
    return jax.tree.map(lambda x: Array(tuple(x.shape), x.below, getattr(x, "values", ())), inputs)


@cache
def _losses(cases: tuple[Any, ...], y: Array) -> list[tuple[Any, tuple[Array, ...]]]:
    """(loss, targets) for each loss that takes y with targets shaped like those of one of its cases."""
    return list(dict.fromkeys((case.layer, targets) for case in cases for targets in loss_targets(case, y)))


def loss_targets(case: Any, y: Array) -> list[tuple[Array, ...]]:
    """The targets with which the loss of a case takes y, shaped as those of the case are."""
    found = []
    for inputs in case.inputs:
        like, *others = inputs if isinstance(inputs, tuple) else (inputs,)
        if not all(hasattr(v, "shape") for v in (like, *others)) or len(like.shape) != len(y.shape):
            continue
        targets = tuple(_target(target, like, y) for target in others)
        if after(case.layer, (y, *targets) if targets else y) == Array(()):
            found.append(targets)
    return found


def _target(target: Array, like: Array, y: Array) -> Array:
    """The target of a case, made to fit y as it fits the prediction of the case."""
    shape = y.shape[: len(target.shape)]
    if len(shape) == len(y.shape):  # its last size is to the prediction's as it is in the case
        shape = (*shape[:-1], y.shape[-1] * target.shape[-1] // like.shape[-1])
    below = None if target.below is None else min(target.below, y.shape[-1])
    return Array(shape, below, getattr(target, "values", ()))


def values(network: Network, dtype: Any = jnp.float64) -> tuple[Any, Any, np.random.Generator]:
    """(params, x, rng) of the network, all from its seed: signed inputs, and parameters that are not at their start."""
    rng = np.random.default_rng(network.seed)
    x = draw_inputs(network.inputs, rng, dtype)
    params = compiled(network.layer).init(jax.random.key(network.seed), spec(network.inputs, dtype))

    def moved(p):
        if is_buffer(p) or not is_float(p):
            return p
        return np.asarray(rng.normal(size=p.shape) * 0.6, dtype)

    return jax.device_put(jax.tree.map(moved, params, is_leaf=is_buffer)), x, rng


def draw_inputs(inputs: Any, rng: np.random.Generator, dtype: Any) -> Any:
    """Arrays like `inputs`: normal numbers or those it names, integers below their bound, the largest at least once."""

    def leaf(x):
        if some := getattr(x, "values", ()):
            return jnp.asarray(rng.choice(some, x.shape), dtype if x.below is None else np.int32)
        if x.below is None:
            return jnp.asarray(rng.normal(size=x.shape), dtype)
        drawn = rng.integers(0, max(x.below, 1), x.shape, np.int32)
        if drawn.size > 1 and drawn.max() < x.below - 1:
            drawn.flat[-1] = x.below - 1  # a mask that is all zero shows nothing
        return jnp.asarray(drawn)

    return jax.tree.map(leaf, inputs)


def program(network: Network) -> str:
    """The network in a line: the layer as a program, what its input looks like, and the seed of its values."""
    return f"{network.layer!r} on {network.inputs!r}, seed {network.seed}"


@forgets
def _forget() -> None:
    """Gives up what was found out of layers and shapes."""
    for kept in (_after, _fitting, _openers, _losses):
        kept.cache_clear()
