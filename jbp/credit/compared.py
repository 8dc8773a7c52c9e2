"""How far a rule is from backpropagation: the same network without it, and the angle between two gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from jbp.credit.rule import Rule, is_pair
from jbp.errors import TreeError, show
from jbp.layer import Layer, map_children
from jbp.params import Buffer


def plain(tree: Any) -> Any:
    """The network without its rules; of its parameters or its gradient, those of that network.

    true = value_and_grad(plain(net), loss)(plain(params), x, target)[1]
    angle(plain(grads), true)

    >>> plain(Serial(FeedbackAlignment(Dense(8)), Tanh(), FeedbackAlignment(Dense(1))))
    Serial(Dense(8), Tanh(), Dense(1))
    """
    if isinstance(tree, Layer):
        return plain(tree.layer) if isinstance(tree, Rule) else map_children(lambda _, child: plain(child), tree)
    return jax.tree.map(lambda p: plain(p["layer"]) if is_pair(p) else p, tree, is_leaf=is_pair)


def transported(params: Any) -> Any:
    """The parameters with every feedback weight set to the weight that it stands for.

    With these the same network's backward pass is backpropagation: what `angle` is measured against.

    >>> net, x = FeedbackAlignment(Dense(3)), jnp.ones((2, 5))
    >>> params = transported(net.init(jax.random.key(0), x))
    >>> jax.tree.map(jnp.shape, params)
    {'feedback': Buffer(value={'b': (3,), 'w': (5, 3)}), 'layer': {'b': (3,), 'w': (5, 3)}}
    """

    def pair(p):
        if not is_pair(p):
            return p
        own, beside = transported(p["layer"]), p["feedback"]
        inside = beside.value if isinstance(beside, Buffer) else beside
        if isinstance(inside, dict) and set(inside) == {"weights", "key"}:
            return {"layer": own, "feedback": Buffer(inside | {"weights": own})}
        if jax.tree.structure(inside) != jax.tree.structure(own):
            return p  # what is beside them is no weight
        return {"layer": own, "feedback": Buffer(own) if isinstance(beside, Buffer) else own}

    return jax.tree.map(pair, params, is_leaf=is_pair)


def angle(a: Any, b: Any) -> Any:
    """The angle in degrees, 0 to 180, between two gradient trees of one structure; NaN if one of them is zero.

    Raises TreeError for trees that differ in structure or shapes, or hold nothing.

    >>> angle({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([1.0, 1.0])})
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
