"""Layers compiled once for each shape and used again by every network that holds them.

Between them the combinators run as Python, so that the chain rule is audited in every new arrangement of layers without
a compiler. That is the difference between four networks a second and a hundred.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from verify.architectures.protocol import as_one, children, is_float, is_none, join, replace_at, split
from verify.processes.memory import forgets
from verify.run.options import quick_options


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
        moves, rest = split(shapes)
        drawn = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), moves)  # by `values`
        return join(drawn, _jitted_init(self.layer, _frozen(x))(key) if jax.tree.leaves(rest) else rest)

    def forward(self, params, x):
        if tracing(params, x):  # most often for its shape, by the init of what is around it
            return _jitted_forward(self.layer)(params, x), x
        return hand_and_true(self.layer, params, x)[0], x

    def pull(self, params, x, dy):
        _, dx, dparams, _, _ = hand_and_true(self.layer, params, x, dy)
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
        return (_definition if tracing(params, x) else _defined)(self.layer, params, x)


def _defined(layer, params, x):
    return hand_and_true(layer, params, x)[3]


def _defined_forward(layer, params, x):
    return _defined(layer, params, x), (params, x)


def _defined_backward(layer, given, dy):
    params, x = given
    return hand_and_true(layer, params, x, jax.tree.map(lambda d: d if is_float(d) else None, dy))[4]


_definition: Any = jax.custom_vjp(_defined, nondiff_argnums=(0,))
_definition.defvjp(_defined_forward, _defined_backward)


def hand_and_true(layer, params, x, dy=None):
    """(y, dx, dparams, true y, true (dparams, dx)) by the one compiled function of the layer."""
    if dy is None:
        shapes = _output_shapes(layer, _frozen(params), _frozen(x))
        dy = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype) if is_float(s) else None, shapes)
    given = params, x, dy
    return (_traced(layer) if tracing(*given) else _compiled(layer, _frozen(given)))(*given)


def tracing(*trees: Any) -> bool:
    """Whether one of the arrays stands for others."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


@cache
def _compiled(layer, given):
    """Without the traces that `jax.jit` keeps of it, which are as large as the program."""
    _seen["shapes"] += 1
    return jax.jit(_both(layer)).lower(*_thawed(given)).compile(compiler_options=quick_options())


@cache
def _traced(layer):
    return jax.jit(_both(layer))


def _both(layer):
    def both(params, x, dy):
        y, residuals = layer.forward(params, x)
        moves, rest = split((params, x))
        dparams, dx = _hand(layer, params, residuals, dy, moves)
        true, pullback = jax.vjp(lambda moves: layer.reference(*join(moves, rest)), moves)
        return y, dx, dparams, true, pullback(zeros_for_none(dy, true))[0]

    return both


def _hand(layer, params, residuals, dy, moves):
    """(dparams, dx) of the layer's own pull; of one that raises, or whose dx does not fit x, NaN alone.

    So the layer at fault is told from that below it, and one that has its true backward given needs no pull at all.
    """
    try:
        dx, dparams = layer.pull(params, residuals, dy)
        if _fits(dx, moves[1]):
            return dparams, dx
        _said[layer] = f"gives dx {_shown(dx)}; expected {_shown(moves[1])}"
    except Exception as error:  # noqa: BLE001  # its forward has run: whatever is raised now is a mistake
        _said[layer] = f"raises {type(error).__name__}: {error}".splitlines()[0]
    return jax.tree.map(lambda v: jnp.full(v.shape, jnp.nan, v.dtype), moves)


def _fits(dx, x):
    leaves, tree = jax.tree.flatten(dx)
    wanted, like = jax.tree.flatten(x)
    return tree == like and [jnp.shape(v) for v in leaves] == [jnp.shape(v) for v in wanted]


def _shown(tree):
    return jax.tree.map(lambda v: f"{v.dtype}{list(v.shape)}", tree)


_said: dict[Any, str] = {}


def said(layer: Any) -> str:
    """Why the layer's backward pass has given no cotangents, "" for one that does."""
    return _said.get(layer, "")


@cache
def _jitted_forward(layer):
    return jax.jit(lambda params, x: layer.forward(params, x)[0])  # traced once a shape, whatever is around it


_seen = Counter()


def compilations() -> int:
    """How many functions this process has compiled so far: one for each layer and shape."""
    return _seen["shapes"]


def zeros_for_none(dy: Any, y: Any) -> Any:
    """The cotangent with zeros of jax.vjp's kind where it has None, for integers."""
    return jax.tree.map(lambda d, y: np.zeros(y.shape, jax.dtypes.float0) if d is None else d, dy, y, is_leaf=is_none)


def _frozen(tree):
    """The structure, shapes and dtypes of a tree as a value that can be hashed."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _thawed(frozen):
    structure, shapes = frozen
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*s) for s in shapes])


@cache
def _init_shapes(layer, x):
    return jax.eval_shape(layer.init, jax.random.key(0), _thawed(x))


@cache
def _jitted_init(layer, x):
    """Of the layer's parameters what is not differentiated: to draw the others is most of what there is to compile."""
    return jax.jit(lambda key: split(layer.init(key, _thawed(x)))[1], compiler_options=quick_options(random=True))


@cache
def _output_shapes(layer, params, x):
    return jax.eval_shape(lambda params, x: layer.forward(params, x)[0], _thawed(params), _thawed(x))


def compiled(layer: Any) -> Any:
    """The network with its leaves, and the combinators that ask for it, compiled once and for all."""

    def change(_, node):
        return Compiled(node) if as_one(node) or not (children(node) or isinstance(node, Compiled)) else node

    return replace_at(layer, change)


@forgets
def _forget() -> None:
    """Gives up what was compiled."""
    for kept in (_compiled, _traced, _jitted_forward, _init_shapes, _jitted_init, _output_shapes):
        kept.cache_clear()
    _said.clear()
