"""What rules of credit have in common. Each is a layer around a layer, whose backward pass is another one than f's.

The loss is met in dy alone, the error at the output. So a rule is no sweep of its own: it is a layer, and whatever
takes a network takes it, `value_and_grad`, `fit` and `save` too.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.combinators.sequence import Serial
from jbp.combinators.shapes import shape_after
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.keys import Keyed
from jbp.layer import Estimator, Layer, map_children
from jbp.layers.activation.elementwise import Elementwise
from jbp.layers.conv.convolution import Conv
from jbp.layers.conv.transpose import ConvTranspose
from jbp.layers.linear.dense import Dense, Logits
from jbp.layers.recurrent import GRU, LSTM, Elman, MinimalGRU, Recurrent
from jbp.layers.recurrent.sequence import Cell
from jbp.layers.structure.move import Flatten, Reshape
from jbp.params import trainable
from jbp.sweep import must_be_layer


class Rule(Wrapper, Estimator):
    """A layer f with another backward pass. Subclass it with `backward` and `gradient`; `forward` is f's.

    Its parameters are f's, or {"layer": f's, "feedback": what the rule has beside them}, where `beside` says so.
    """

    beside = True

    def _own(self, params: Any) -> tuple[Any, Any]:
        """(f's parameters, what is beside them)."""
        if not self.beside:
            return params, ()
        if not is_pair(params):
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a dict with 'layer' and 'feedback'. "
                "Make them with net.init(key, x) of the network that has the rule.",
            )
        return params["layer"], params["feedback"]

    def _inner(self, params):
        return self._own(params)[0]

    def _whole(self, grads):
        return {"layer": grads, "feedback": None} if self.beside else grads

    def pull(self, params, residuals, dy, /):
        return Layer.pull(self, params, residuals, dy)

    def evaluation(self):
        """f alone, where the rule moves something on at each step."""
        still = super().evaluation()
        return RuleInference(still.layer) if self.advances else still  # pyright: ignore[reportAttributeAccessIssue]

    def advance(self, params, residuals, /):
        moved = super().advance(params, residuals)
        return params | {"layer": moved} if self.beside else moved


@dataclass(frozen=True)
class RuleInference(Rule):
    """y = f(x).      dx = what f returns for dy.  What a rule is once training is over: f as it is.

    It takes the parameters of a rule that has something beside f's, and leaves that alone: its gradient is zero. Keeps
    what f keeps.

    >>> LocalLosses(Serial(Dense(8), Tanh(), Dense(1))).evaluation()
    RuleInference(Serial(Dense(8), Tanh(), Dense(1)))
    """

    layer: Layer

    def init(self, key, x, /):
        return {"layer": super().init(key, x), "feedback": ()}

    def backward(self, params, residuals, dy, /):
        dx, delta = super().backward(params, residuals, dy)
        return dx, (delta, trainable(self._own(params)[1]))

    def gradient(self, residuals, delta, /):
        delta, beside = delta
        with at(self):
            own = self.layer.gradient(residuals, delta)
        return {"layer": own, "feedback": jax.tree.map(jnp.zeros_like, beside)}


def is_pair(tree: Any) -> bool:
    """Whether these are the parameters, or the gradient, of a rule that has something beside those of f."""
    return isinstance(tree, dict) and set(tree) == {"layer", "feedback"}


CARRIED = Dense, Logits, Conv, ConvTranspose, Elman, GRU, MinimalGRU, LSTM


def each(rule: Callable[[Layer], Layer], net: Layer, kinds: tuple[type, ...] = CARRIED) -> Any:
    """The network with the rule around every layer of these kinds; a recurrent cell is taken with its loop."""
    must_be_layer("net", net)
    looped = isinstance(net, Recurrent) and isinstance(net.cell, Cell) and Elman in kinds
    if looped or isinstance(net, kinds):
        return rule(net)
    if isinstance(net, Rule) and isinstance(net.layer, kinds):  # it has its rule
        return net
    return map_children(lambda _, child: each(rule, child, kinds), net)


class Blocks(Rule):
    """A rule for layers in a row, in blocks: each ends after an activation, or before the next layer with weights.

    Its residuals are (those of the blocks, the outputs of all blocks, x first).
    """

    layer: Serial  # pyright: ignore[reportIncompatibleVariableOverride]

    def _alone(self) -> list[Serial]:
        """The blocks."""
        cuts = cut(self.layer)
        return [self.layer[a:b] for a, b in zip(cuts, [*cuts[1:], len(self.layer)], strict=True)]

    def _blocks(self, params: Any) -> list[tuple[Serial, Any]]:
        """Each block with its parameters."""
        parts, rows = iter(self.layer.parts(params)), []
        for block in self._alone():
            rows.append((block, block.whole([next(parts) for _ in block])))
        return rows

    def _joined(self, trees: Iterable[Any]) -> Any:
        """The tree of the network, out of those of its blocks."""
        return self.layer.whole(p for block, tree in zip(self._alone(), trees, strict=True) for p in block.parts(tree))

    def _shapes(self, params: Any, x: Any) -> list[Any]:
        """The shapes of x and of what comes out of each block."""
        shapes = [x]
        for block, own in self._blocks(params):
            shapes.append(shape_after(block, own, shapes[-1]))
        bad = [s for s in shapes[1:] if not hasattr(s, "shape") or not s.shape]
        if bad:
            raise LayerError(
                self,
                f"got {show(bad[0])} from a block; expected one array with the batch in front. "
                "Put the rule around that part of the network whose layers give one array each.",
            )
        return shapes

    def init(self, key, x, /):
        with at(self):
            params = self.layer.init(key, x)
        shapes = self._shapes(params, x)
        return {"layer": params, "feedback": self._feedback(key, shapes)} if self.beside else params

    def _feedback(self, key: Any, shapes: list[Any]) -> Any:
        """What the rule has beside f's parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no _feedback")

    def _up(self, k: int, block: Serial, params: Any, x: Any) -> tuple[Any, Any]:
        """The k-th block's forward. Errors name the place of a layer in the network."""
        kept = []
        for i, (layer, p) in enumerate(zip(block, block.parts(params), strict=True), cut(self.layer)[k]):
            with at(self), at(self.layer, self.layer.label(i)):
                x, r = layer.forward(p, x)
            kept.append(r)
        return x, block.whole(kept)

    def forward(self, params, x, /) -> tuple[Any, Any]:
        values, residuals = [x], []
        for k, (block, own) in enumerate(self._blocks(self._inner(params))):
            y, r = self._up(k, block, own, values[-1])
            values.append(y)
            residuals.append(r)
        return values[-1], (tuple(residuals), tuple(values))

    def gradient(self, residuals, delta, /):
        return delta

    def advance(self, params, residuals, /):
        rows = zip(self._blocks(self._inner(params)), residuals[0], strict=True)
        moved = self._joined(block.advance(own, r) for (block, own), r in rows)
        return params | {"layer": moved} if self.beside else moved


def cut(net: Serial) -> list[int]:
    """Where the blocks of a network begin."""
    cuts, learns = [0], False
    for i, layer in enumerate(net.layers):
        ended = i > 0 and isinstance(net.layers[i - 1], Elementwise)
        if learns and (ended or _learns(layer)):
            cuts.append(i)
            learns = False
        learns = learns or _learns(layer)
    return cuts if learns or len(cuts) == 1 else cuts[:-1]  # what has no weights at the end belongs to the last


def _learns(layer: Any) -> bool:
    """Whether a layer may have weights. A key is none."""
    return not isinstance(layer, Keyed) and type(layer).init is not Layer.init


def onto(a: Any, b: Any, bias: bool = True) -> Layer:
    """An affine map from arrays shaped like a to such as b: of the last axis, if they differ in no other, else of all
    that an example has."""
    if a.shape[:-1] == b.shape[:-1]:
        return Dense(b.shape[-1], bias)
    return Serial(Flatten(), Dense(math.prod(b.shape[1:]), bias), Reshape(b.shape[1:]))


def example_error(nudge: float, y: Any) -> float:
    """What a cotangent of y is multiplied with to be a step of `nudge` by each example's own error.

    The loss is a mean over the batch, so that dy is the example's own error by their number.
    """
    return nudge * max(y.shape[0], 1)


def mapped(f: Callable[..., Any], *trees: Any) -> Any:
    """jax.tree.map with the random key, or the number, of each leaf in front: f(i, *leaves)."""
    leaves, structure = jax.tree.flatten(trees[0])
    others = [structure.flatten_up_to(tree) for tree in trees[1:]]
    return jax.tree.unflatten(structure, [f(i, *row) for i, row in enumerate(zip(leaves, *others, strict=True))])


def normal_like(key: Any, tree: Any) -> Any:
    """A tree of standard normal numbers."""
    return mapped(lambda i, w: jax.random.normal(jax.random.fold_in(key, i), w.shape, w.dtype), tree)


CASES = (Case(RuleInference(Dense(3)), f(3, 5)),)
