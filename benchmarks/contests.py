"""Ways to compute the same numbers, on the same arguments. The first is ours, the second `jax.grad`'s.

`jax.grad` differentiates the plain definition that a user would write down: a layer's `reference`, or `plain` where a
user would call one of JAX's own functions instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jbp
from examples.shared import by_hand, by_jax
from jbp import buffers, merge, trainable, value_and_grad
from jbp.sweep import initialize
from jbp.train import inside
from jbp.train.step import optimized

OURS, JAX = "jbp", "jax.grad"
Plain = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Contest:
    """`ways` take the arguments; `others` make whole training steps of other libraries, which hold their own.

    With `states`, one for each way, a way takes its state first and gives back the next one first. With `exact`, the
    ways agree on a tree, and jax.grad's in float64 is the truth that errors are measured against.
    """

    arguments: tuple
    ways: Mapping[str, Callable[..., Any]]
    exact: bool = True
    states: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Callable[[], Callable[[], Any]]] = field(default_factory=dict)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def integers(below: int, *shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, below, shape), jnp.int32)


def _floats(x: Any) -> tuple[Any, Any]:
    """(the floating arrays of x, the others), with None in the place of what is in the other tree."""
    floating = jax.tree.map(lambda v: jnp.issubdtype(v.dtype, jnp.floating), x)
    first = jax.tree.map(lambda v, yes: v if yes else None, x, floating)
    return first, jax.tree.map(lambda v, yes: None if yes else v, x, floating)


def _vjp(plain: Plain, params: Any, x: Any) -> tuple[Any, Any]:
    floats, rest = _floats(x)
    return jax.vjp(lambda w, f: plain(merge(w, buffers(params)), merge(f, rest)), trainable(params), floats)


def both_passes(layer: jbp.Layer, x: Any, plain: Plain | None = None) -> Contest:
    """The output of a layer and all gradients, for a given error at the output."""
    params = initialize(layer, jax.random.key(0), x)
    y = jax.eval_shape(lambda p, x: layer.forward(p, x)[0], params, x)
    dy = jax.tree.map(lambda v: normal(*v.shape, seed=9).astype(v.dtype), y)

    def ours(params, x, dy):
        y, residuals = layer.forward(params, x)
        dx, grads = layer.pull(params, residuals, dy)
        return y, (grads, dx)

    def plainly(params, x, dy):
        y, back = _vjp(plain or layer.reference, params, x)
        return y, back(dy)

    return Contest((params, x, dy), {OURS: ours, JAX: plainly})


def backward_pass(layer: jbp.Layer, x: Any, plain: Plain | None = None) -> Contest:
    """All gradients of a layer, each from what its own forward pass kept."""
    params = initialize(layer, jax.random.key(0), x)
    y, kept = jax.jit(layer.forward)(params, x)
    back = jax.jit(lambda p, x: _vjp(plain or layer.reference, p, x)[1])(params, x)
    dy = jax.tree.map(lambda v: normal(*v.shape, seed=9).astype(v.dtype), y)

    def ours(params, kept, back, dy):
        dx, grads = layer.pull(params, kept, dy)
        return grads, dx

    return Contest((params, kept, back, dy), {OURS: ours, JAX: lambda params, kept, back, dy: back(dy)}, exact=False)


def gradient(net: jbp.Layer, loss: jbp.Layer, x: Any, target: Any) -> Contest:
    """The value of a loss and the whole gradient."""
    params = initialize(net, jax.random.key(0), x)
    return Contest((params, x, target), {OURS: by_hand(net, loss), JAX: by_jax(net, loss)})


def training(net: jbp.Layer, loss: jbp.Layer, x: Any, target: Any, others: Mapping[str, Any]) -> Contest:
    """A step with Adam, beside jax.grad with optax and what users of other libraries write."""
    params, adam = initialize(net, jax.random.key(0), x), optax.adam(1e-3)
    sweep, plain = value_and_grad(net, loss, has_aux=True), by_jax(net, loss)

    def ours(state, x, target):
        (value, aux), grads = sweep(state[0], x, target)
        return optimized(adam, grads, state[1], aux.params), value

    def autodiff_step(state, x, target):
        value, grads = plain(state[0], x, target)
        return optimized(adam, grads, state[1], state[0]), value

    size = sum(w.size for w in jax.tree.leaves(trainable(params)))
    made = {name: partial(make, x, target, size) for name, make in others.items()}
    start = params, adam.init(trainable(params))
    states: dict[str, Any] = {OURS: start, JAX: start}
    return Contest((x, target), {OURS: ours, JAX: autodiff_step}, False, states, made)


def clipped(net: jbp.Layer, x: Any, target: Any) -> Contest:
    """Adam after clipping by the global norm: inside of our sweep, and after jax.grad. Both take over their state."""
    loss, adam = jbp.losses.MeanSquaredError(), optax.adam(1e-3)
    chain = optax.chain(optax.clip_by_global_norm(1.0), adam)
    ours = inside.start(net, adam, jax.random.key(0), x)
    theirs = ours.params, chain.init(trainable(ours.params))
    step, plain = inside.step(net, loss, adam, 1.0), by_jax(net, loss)

    def autodiff_step(state, x, target):
        value, grads = plain(state[0], x, target)
        return optimized(chain, grads, state[1], state[0]), value

    return Contest((x, target), {OURS: step, JAX: autodiff_step}, False, {OURS: ours, JAX: theirs})
