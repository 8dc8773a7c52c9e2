"""One network's hand-written sweep against `jax.vjp` of its definition, in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from verify import thresholds as th
from verify.architectures.compiled import Compiled, compiled, tracing, zeros_for_none
from verify.architectures.networks import Network, values
from verify.architectures.protocol import is_float, is_none, join, replace_at, split
from verify.jaxpr.noise import noisy

LARGE = "large numbers"
REMARKS = {  # why a difference did not count, and what is told of the networks of which that is so
    "rounding": "differed by no more than rounding the inputs does",
    "not finite": "had no finite true gradient",
    LARGE: "differed where numbers are beyond 1e8, and not with smaller parameters",
}
RAISES = "the sweep raises"  # how the difference of one that does begins


@dataclass(frozen=True)
class Difference:
    """How far one leaf of a gradient is from the truth: the largest error, against the largest true element."""

    leaf: str
    error: float
    scale: float

    def __str__(self):
        if not self.error < np.inf:
            return self.leaf if self.error == np.inf and not self.scale else f"{self.leaf}: not finite"
        return f"{self.leaf}: off by {self.error:.1e} where the largest true element is {self.scale:.1e}"


def gradients(layer: Any, params: Any, x: Any, dy: Any) -> Any:
    """(dx, dparams) by the hand-written sweep."""
    _, residuals = layer.forward(params, x)
    return layer.pull(params, residuals, dy)


def truth(layer: Any, params: Any, x: Any, dy: Any) -> Any:
    """(dx, dparams) by `jax.vjp` of the definition; None where nothing is differentiated."""
    moves, rest = split((params, x))
    _, pullback = jax.vjp(lambda moves: layer.reference(*join(moves, rest)), moves)
    dparams, dx = pullback(dy)[0]
    return dx, dparams


def output_error(y: Any, rng: np.random.Generator) -> Any:
    """A random error dy for the output y: signed, None where y is not floating."""
    return jax.tree.map(lambda y: np.asarray(rng.normal(size=y.shape), y.dtype) if is_float(y) else None, y)


def gradient_name(path: Any) -> str:
    """The name of a leaf of (dx, dparams)."""
    side, *rest = path
    return ("dx" if side.idx == 0 else "d params") + jax.tree_util.keystr(tuple(rest))


def compare(ours: Any, true: Any, called: Callable[[Any], str] = gradient_name) -> list[Difference]:
    """The leaves on which the gradients differ by more than CLOSE; the tree itself if the trees are not alike."""
    flat, tree = jax.tree.flatten_with_path(true, is_leaf=is_none)
    try:
        mine = tree.flatten_up_to(ours)
    except ValueError as error:
        return [Difference(f"the tree ({error})", np.inf, 0.0)]
    wrong = []
    for (path, a), b in zip(flat, mine, strict=True):
        name = called(path)
        if a is None or b is None:
            if a is not b:
                wrong.append(Difference(f"{name} ({'missing' if b is None else 'expected None'})", np.inf, 0.0))
            continue
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            came, expected = f"{b.dtype}{list(b.shape)}", f"{a.dtype}{list(a.shape)}"
            wrong.append(Difference(f"{name} (got {came}, expected {expected})", np.inf, 0.0))
        elif a.size:
            scale, error = float(np.abs(a).max()), float(np.abs(a - b).max())
            if not error <= th.CLOSE * scale:
                wrong.append(Difference(name, error, scale))
    return wrong


@dataclass(frozen=True)
class Outcome:
    """What came of one network: its differences from the truth, if any, and a remark where they do not count."""

    differences: tuple[Difference, ...]
    remark: str = ""

    @property
    def disagrees(self) -> bool:
        return bool(self.differences) and not self.remark


def audit(network: Network) -> Outcome:
    """One network's gradient by its own sweep against the truth, every element of every leaf."""
    with jax.enable_x64(True):
        params, x, rng = values(network)
        return judge(network.layer, params, x, rng)


def judge(layer: Any, params: Any, x: Any, rng: np.random.Generator) -> Outcome:
    """The layer's sweep against the truth for one random error from above.

    A difference no larger than what rounding the inputs does to either gradient is rounding itself: a bias below a
    BatchNorm, whose gradient is zero but for rounding, or equal values in a maximum that come out in another order.
    It is measured, at eight roundings of the inputs and of all that goes from layer to layer, only where a difference
    was found; a mistake is larger by orders of magnitude. So is what is lost inside of a definition, as in the norm of
    two numbers, by rounding each of its operations.
    Where numbers are LARGE, between layers or in the gradient, formulas overflow, each in its own place, and what is
    computed back from outputs is lost: then smaller parameters are judged, at which a mistake is one too.
    So is what lies below the digits of the network's largest gradient, or of its error from above: under a softmax that
    has made up its mind nothing is left but the rounding of what was subtracted.
    """
    layer = compiled(layer)
    y, residuals = layer.forward(params, x)
    dy = output_error(y, rng)
    true = truth(layer, params, x, dy)
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(true)):
        return Outcome((), "not finite")
    try:
        ours = layer.pull(params, residuals, dy)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        said = f"{RAISES} {type(error).__name__}: {error}".splitlines()[0]
        return Outcome((Difference(said, np.inf, 0.0),))
    wrong = compare(ours, true)
    if not wrong:
        return Outcome(())
    plain = beyond_last_places(wrong, true, dy)
    finite = all(d.error < np.inf for d in plain)
    if finite and _met(layer, params, x, true) > th.LARGE:
        tame = _tamed(layer, params, x, dy)
        found = Outcome(tuple(wrong), LARGE) if tame is None else judge(layer, tame, x, rng)
        return found if found.disagrees else Outcome(found.differences, LARGE)
    rounding = finite and (not plain or _is_rounding(plain, layer, params, x, dy, ours, true, rng))
    return Outcome(tuple(wrong), "rounding" if rounding else "")


def beyond_last_places(wrong: list[Difference], true: Any, dy: Any) -> list[Difference]:
    """Those that are more than the last places of the largest number in the truth or in the error from above."""
    return [d for d in wrong if not d.error <= th.LAST_PLACE * _largest((true, dy))]  # NaN is more


def _met(layer, params, x, true):
    """The largest number between layers, or in the gradient."""
    sizes = [_largest(true)]
    _around_each(layer, lambda node: Met(node.layer, node, sizes)).forward(params, x)
    return float(np.nanmax(sizes))


def _tamed(layer, params, x, dy):
    """The parameters, halved until nothing that is met is LARGE; None if it still is after ten times."""
    for _ in range(10):
        moves, rest = split(params)
        params = join(jax.tree.map(lambda v: v / 2, moves), rest)
        if _met(layer, params, x, truth(layer, params, x, dy)) <= th.LARGE:
            return params
    return None


def _around_each(layer, wrap):
    """The network with each of its compiled layers in a wrapper."""
    return replace_at(layer, lambda _, node: wrap(node) if isinstance(node, Compiled) else node)


def _largest(tree):
    return max((float(np.abs(v).max(initial=0)) for v in jax.tree.leaves(tree) if is_float(v)), default=0.0)


def _is_rounding(wrong, layer, params, x, dy, ours, true, rng):
    noise = dict.fromkeys((d.leaf for d in wrong), 0.0)
    moves, rest = split((params, x))
    between = _around_each(layer, lambda node: Rounded(node.layer, node, rng))
    for _ in range(8):
        params_, x_ = join(rounded(moves, rng), rest)
        for before, now in ((ours, gradients(between, params_, x_, dy)), (true, truth(layer, params_, x_, dy))):
            raise_noise(noise, before, now)
    wrong = [d for d in wrong if d.error > th.MOVED * noise[d.leaf]]
    return not wrong or _is_cancellation(wrong, layer, params, x, dy, true, rng)


def raise_noise(noise: dict[str, float], before: Any, now: Any, called: Callable[[Any], str] = gradient_name) -> None:
    """The largest change of each leaf that `noise` names, where it is larger than what stands there."""
    for (path, a), b in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(now), strict=True):
        if (name := called(path)) in noise:
            noise[name] = max(noise[name], float(np.abs(np.asarray(a) - np.asarray(b)).max()))


def _is_cancellation(wrong, layer, params, x, dy, true, rng):
    """Whether the truth itself is off by as much where every operation of the definitions is rounded some other way."""
    lost, (moves, rest) = dict.fromkeys((d.leaf for d in wrong), 0.0), split((params, x))
    layer = _around_each(layer, lambda node: Compiled(Noisy(node.layer)))
    for _ in range(16):  # a number that comes out as zero, and has a logarithm, may be the one that has to go up
        params_, x_ = join(rounded(moves, rng), rest)
        raise_noise(lost, true, truth(layer, params_, x_, dy))
    return all(d.error <= th.LOST * lost[d.leaf] for d in wrong)


@dataclass(frozen=True)
class Noisy:
    """A layer of whose definition, and of its derivative, every operation is rounded some other way."""

    layer: Any

    def forward(self, params, x):
        return self.layer.forward(params, x)

    def pull(self, params, residuals, dy):
        return self.layer.pull(params, residuals, dy)

    def reference(self, params, x):
        moves, rest = split((params, x))

        def definition(moves):
            return self.layer.reference(*join(moves, rest))

        def derivative(moves, dy):
            y, pullback = jax.vjp(definition, moves)
            return pullback(zeros_for_none(dy, y))

        def pull(moves, dy):
            return noisy(derivative)(moves, jax.tree.map(lambda d: d if is_float(d) else None, dy))

        ruled = jax.custom_vjp(definition)
        ruled.defvjp(lambda moves: (noisy(definition)(moves), moves), pull)
        return ruled(moves)


@dataclass(frozen=True)
class Met(Compiled):
    """A layer that writes down how large its outputs are, but for those of experts, which run side by side in a vmap:
    what comes of all of them is seen in what follows."""

    inner: Any
    sizes: list[float]

    def forward(self, params, x):
        y, residuals = self.inner.forward(params, x)
        if not tracing(y):
            self.sizes.append(_largest(y))
        return y, residuals


@dataclass(frozen=True)
class Rounded(Compiled):
    """A layer whose output, error one layer down and gradient come rounded in some other way."""

    inner: Any
    rng: np.random.Generator

    def forward(self, params, x):
        y, residuals = self.inner.forward(params, x)
        return rounded(y, self.rng), residuals

    def pull(self, params, x, dy):
        return rounded(self.inner.pull(params, x, dy), self.rng)


def rounded(tree: Any, rng: np.random.Generator, unit: float = float(np.finfo(np.float64).eps)) -> Any:
    """The tree's floating leaves, each up or down by two units in the last place, or as it is."""
    return jax.tree.map(lambda v: v * (1 + 2 * unit * rng.choice((-1, 0, 1), size=v.shape)) if is_float(v) else v, tree)
