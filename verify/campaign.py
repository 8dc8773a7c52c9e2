"""Random networks by the thousand: the hand-written sweep of each against `jax.vjp` of its definition, in float64.

Leaf layers, and forms that hold a loop, are compiled once for each shape and used again (`Compiled`); everything
between them runs as Python, so the chain rule of the combinators is audited in every new arrangement without a compiler.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.networks import Network, values
from verify.protocol import children, is_buffer, is_float, join, replace_at, split

CLOSE = 1e-11  # of the largest element of a leaf: float64 carries 2e-16, a chain of layers loses two or three digits


@dataclass(frozen=True)
class Compiled:
    """A layer as one compiled function of (params, x, dy), shared by all networks that hold the layer.

    That function gives the layer's y, dx and gradient, and those of `jax.vjp` of its definition. To the network it
    looks like a layer again: its hand-written half is what forward and pull give, its true half is what `reference`
    gives and what `jax.vjp` of it finds. One compilation for each layer and shape is all that a campaign pays for.
    """

    layer: Any

    def init(self, key, x):
        shapes = _init_shapes(self.layer, _frozen(x))
        plain = all(hasattr(leaf, "dtype") and is_float(leaf) for leaf in jax.tree.leaves(shapes, is_leaf=is_buffer))
        if plain:
            return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)  # `values` draws them
        return _jitted_init(self.layer, _frozen(x))(key)

    def forward(self, params, x):
        return _both(self.layer, params, x)[0], x

    def pull(self, params, x, dy):
        _, dx, dparams, _, _ = _both(self.layer, params, x, dy)
        return dx, dparams

    def backward(self, params, x, dy):
        return self.pull(params, x, dy)

    def gradient(self, x, delta):
        return delta

    def advance(self, params, x):
        return params

    def evaluation(self):
        return Compiled(self.layer.evaluation())

    def reference(self, params, x):
        moves, rest = split((params, x))
        return _definition(self.layer, moves, rest)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _definition(layer, moves, rest):
    return _both(layer, *join(moves, rest))[3]


def _definition_forward(layer, moves, rest):
    return _definition(layer, moves, rest), (moves, rest)


def _definition_backward(layer, kept, dy):
    return _both(layer, *join(*kept), dy)[4], None


_definition.defvjp(_definition_forward, _definition_backward)


def _both(layer, params, x, dy=None):
    """(y, dx, dparams, true y, true (dparams, dx)) by the one compiled function of the layer."""
    if dy is None:
        shapes = _output_shapes(layer, _frozen(params), _frozen(x))
        dy = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype) if is_float(s) else None, shapes)
    return _compiled(layer)(params, x, dy)


@lru_cache(maxsize=None)
def _compiled(layer):
    def both(params, x, dy):
        y, residuals = layer.forward(params, x)
        dx, dparams = layer.pull(params, residuals, dy)
        moves, rest = split((params, x))
        true, pullback = jax.vjp(lambda moves: layer.reference(*join(moves, rest)), moves)
        return y, dx, dparams, true, pullback(_zeros_for_none(dy, true))[0]

    return jax.jit(both)


def _zeros_for_none(dy, y):
    return jax.tree.map(lambda d, y: np.zeros(y.shape, jax.dtypes.float0) if d is None else d, dy, y, is_leaf=_is_none)


def _is_none(v):
    return v is None


def _frozen(tree):
    """The structure, shapes and dtypes of a tree as a value that can be hashed."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _thawed(frozen):
    structure, shapes = frozen
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*s) for s in shapes])


@lru_cache(maxsize=None)
def _init_shapes(layer, x):
    return jax.eval_shape(layer.init, jax.random.key(0), _thawed(x))


@lru_cache(maxsize=None)
def _jitted_init(layer, x):
    return jax.jit(lambda key: layer.init(key, _thawed(x)))


@lru_cache(maxsize=None)
def _output_shapes(layer, params, x):
    return jax.eval_shape(lambda params, x: layer.forward(params, x)[0], _thawed(params), _thawed(x))


def compiled(layer: Any, units: tuple[type, ...] = ()) -> Any:
    """The network with its leaves, and its nodes of the types `units`, compiled once and for all."""
    return replace_at(layer, lambda _, node: Compiled(node) if isinstance(node, units) or not children(node) else node)


@dataclass(frozen=True)
class Difference:
    """How far one leaf of a gradient is from the truth: the largest error, against the largest true element."""

    leaf: str
    error: float
    scale: float

    def __str__(self):
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


def compare(ours: Any, true: Any) -> list[Difference]:
    """The leaves on which the gradients differ by more than CLOSE; the tree itself if the trees are not alike."""
    flat, tree = jax.tree.flatten_with_path(true, is_leaf=_is_none)
    try:
        mine = tree.flatten_up_to(ours)
    except ValueError as error:
        return [Difference(f"the tree ({error})", np.inf, 0.0)]
    wrong = []
    for (path, a), b in zip(flat, mine, strict=True):
        name = _name(path)
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
            if not error <= CLOSE * scale:
                wrong.append(Difference(name, error, scale))
    return wrong


def _name(path):
    side, *rest = path
    return ("dx" if side.idx == 0 else "d params") + jax.tree_util.keystr(tuple(rest))


@dataclass(frozen=True)
class Outcome:
    """What came of one network: its differences from the truth, if any, and a remark where they do not count."""

    differences: tuple[Difference, ...]
    remark: str = ""

    @property
    def disagrees(self) -> bool:
        return bool(self.differences) and not self.remark


def audit(network: Network, units: tuple[type, ...] = ()) -> Outcome:
    """One network's gradient by its own sweep against the truth, every element of every leaf.

    A difference no larger than what rounding the inputs does to either gradient is rounding itself: a bias below a
    BatchNorm, whose gradient is zero but for rounding, or equal values in a maximum that come out in another order.
    It is measured, at eight roundings, only where a difference was found; a mistake is larger by orders of magnitude.
    """
    layer = compiled(network.layer, units)
    params, x, rng = values(network)
    y, residuals = layer.forward(params, x)
    dy = output_error(y, rng)
    ours, true = layer.pull(params, residuals, dy), truth(layer, params, x, dy)
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(true)):
        return Outcome((), "not finite")
    wrong = compare(ours, true)
    if wrong and all(d.error < np.inf for d in wrong) and _is_rounding(wrong, layer, params, x, dy, ours, true, rng):
        return Outcome(tuple(wrong), "rounding")
    return Outcome(tuple(wrong))


def _is_rounding(wrong, layer, params, x, dy, ours, true, rng):
    noise = dict.fromkeys((d.leaf for d in wrong), 0.0)
    moves, rest = split((params, x))
    for _ in range(8):
        rounded = jax.tree.map(lambda v: v * (1 + 4e-16 * rng.choice((-1, 0, 1), size=v.shape)), moves)
        params_, x_ = join(rounded, rest)
        for before, now in ((ours, gradients(layer, params_, x_, dy)), (true, truth(layer, params_, x_, dy))):
            for (path, a), b in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(now), strict=True):
                if (name := _name(path)) in noise:
                    noise[name] = max(noise[name], float(np.abs(a - b).max()))
    return all(d.error <= 16 * noise[d.leaf] for d in wrong)
