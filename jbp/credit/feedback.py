"""Feedback alignment: the error goes down through fixed random weights, and the network learns to make them right."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jbp.compose import Wrapper
from jbp.errors import LayerError, TreeError, at, show
from jbp.layer import Estimator, Layer, map_children
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.params import Buffer
from jbp.sweep import must_be_layer


@dataclass(frozen=True)
class FeedbackAlignment(Wrapper, Estimator):
    """y = f(θ, x).      dx = the error that f(B, x) would return, B fixed and random      dθ = f's own, of dy

    Another `backward`, the same `gradient`: for Dense dx = dy Bᵀ, dW = xᵀ dy. Keeps what f keeps. Parameters:
    {"layer": θ, "feedback": Buffer(B)}, B drawn as θ is, with another key. f is Dense, Conv, or any layer whose
    gradient is bilinear in residuals and dy. (Lillicrap et al., *Random Synaptic Feedback Weights Support Error
    Backpropagation for Deep Learning*, 2016.) Raises LayerError for parameters of another form.

    >>> net, x = jbp.credit.FeedbackAlignment(Dense(3)), jnp.ones((2, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> net(params, x).shape
    (2, 3)
    """

    layer: Layer

    def init(self, key, x, /):
        forward, feedback = jax.random.split(key)
        with at(self):
            return {"layer": self.layer.init(forward, x), "feedback": Buffer(self.layer.init(feedback, x))}

    def _own(self, params):
        if not _is_pair(params):
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected {{'layer': ..., 'feedback': Buffer(...)}}. "
                "Make them with net.init(key, x) of the network that `feedback_alignment` gave.",
            )
        return params["layer"]

    def _inner(self, params):
        return self._own(params)

    def backward(self, params, residuals, dy, /):
        with at(self):
            return self.layer.backward(params["feedback"].value, residuals, dy)

    def _whole(self, grads):
        return {"layer": grads, "feedback": None}

    def pull(self, params, residuals, dy, /):
        return Layer.pull(self, params, residuals, dy)  # W is of dy, and not of the error that B has made

    def advance(self, params, residuals, /):
        return params | {"layer": super().advance(params, residuals)}


def _is_pair(params: Any) -> bool:
    return isinstance(params, dict) and set(params) == {"layer", "feedback"} and isinstance(params["feedback"], Buffer)


def feedback_alignment(net: Layer) -> Layer:
    """The network with every Dense and every Conv in a FeedbackAlignment.

    >>> jbp.credit.feedback_alignment(Serial(Dense(8), Tanh(), Dense(1)))
    Serial(FeedbackAlignment(Dense(8)), Tanh(), FeedbackAlignment(Dense(1)))
    """
    must_be_layer("net", net)
    if isinstance(net, Dense | Conv):
        return FeedbackAlignment(net)
    return map_children(lambda _, child: feedback_alignment(child), net)


def transported(params: Any) -> Any:
    """The parameters with every feedback weight set to the weight that it stands for.

    With these the same network's backward pass is backpropagation: what `angle` is measured against.

    >>> net, x = jbp.credit.FeedbackAlignment(Dense(3)), jnp.ones((2, 5))
    >>> params = jbp.credit.transported(net.init(jax.random.key(0), x))
    >>> jax.tree.map(jnp.shape, params)
    {'feedback': Buffer(value={'b': (3,), 'w': (5, 3)}), 'layer': {'b': (3,), 'w': (5, 3)}}
    """

    def pair(p):
        return {"layer": p["layer"], "feedback": Buffer(p["layer"])} if _is_pair(p) else p

    return jax.tree.map(pair, params, is_leaf=_is_pair)


def angle(a: Any, b: Any) -> Any:
    """The angle in degrees, 0 to 180, between two gradient trees of one structure; NaN if one of them is zero.

    Raises TreeError for trees that differ in structure or shapes, or hold nothing.

    >>> jbp.credit.angle({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([1.0, 1.0])})
    Array(45., dtype=float32)
    """
    one, other = ([getattr(leaf, "shape", None) for leaf in jax.tree.leaves(tree)] for tree in (a, b))
    if jax.tree.structure(a) != jax.tree.structure(b) or one != other or not one or None in one:
        raise TreeError(
            f"angle: got {show(a)} and {show(b)}; expected arrays in one structure and shapes. "
            "Pass two gradients of one network."
        )

    def length(tree):
        squares = [jnp.square(u).sum() for u in jax.tree.leaves(tree)]
        return jnp.sqrt(sum(squares[1:], squares[0]))

    def unit(tree):
        n = length(tree)
        return jax.tree.map(lambda u: u / n, tree)

    # 2 atan2(|a − b|, |a + b|) of the unit vectors: exact for small angles, where arccos is not
    # (Kahan, *How Futile are Mindless Assessments of Roundoff in Floating-Point Computation?*, 2006).
    a, b = unit(a), unit(b)
    apart, together = (length(jax.tree.map(f, a, b)) for f in (jnp.subtract, jnp.add))
    return jnp.rad2deg(2 * jnp.arctan2(apart, together))
