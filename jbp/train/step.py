"""One step of training: the sweep, the optimizer and the buffers as one compiled function that reuses its memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbp.layer import Layer
from jbp.params import apply_updates, trainable
from jbp.sweep import initialize, value_and_grad

Metrics = dict[str, Any]
Measure = Callable[..., Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that training moves on, in one pytree: parameters with their buffers, the optimizer's state, steps taken.

    Saved and restored, it goes on bit for bit: dropout keys and running statistics are among the parameters.
    """

    params: Any
    optimizer: Any
    steps: Any


def start(net: Layer, optimizer: optax.GradientTransformation, key: Any, x: Any) -> State:
    """The state before the first step. Only the shapes of x are looked at.

    Every array is a copy of its own, since `step` takes them all over.
    """
    params = initialize(net, key, x)
    state = State(params, optimizer.init(trainable(params)), jnp.zeros((), jnp.int32))
    return jax.tree.map(lambda a: jnp.array(a, copy=True), state)


def finite(tree: Any) -> Any:
    """Whether no floating leaf holds NaN or Inf, as one boolean array. Integers and keys always are."""
    checks = [jnp.isfinite(a).all() for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jnp.stack(checks).all() if checks else jnp.ones((), bool)


def norm(tree: Any) -> Any:
    """The Euclidean norm of all leaves together."""
    with jax.numpy_dtype_promotion("standard"):
        return optax.tree.norm(tree)


def optimized(optimizer: optax.GradientTransformation, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """(params, state) after the optimizer's update; Buffers stay."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats, which "strict" forbids
        updates, state = optimizer.update(grads, state, trainable(params))
        return apply_updates(params, updates), state


def take_step(net: Layer, loss: Layer, optimizer: optax.GradientTransformation, measures: dict[str, Measure]) -> Any:
    """(state, go, x, *targets) -> (state, metrics), not compiled. Where `go` is false nothing is moved."""
    sweep = value_and_grad(net, loss, has_aux=True)

    def run(state, go, x, *targets):
        (value, aux), grads = sweep(state.params, x, *targets)
        good = go & finite((value, grads))

        def moved():
            params, optimizer_state = optimized(optimizer, grads, state.optimizer, aux.params)
            return State(params, optimizer_state, state.steps + 1)

        metrics = {name: measure(aux.output, *targets) for name, measure in measures.items()}
        metrics |= {"loss": value, "norm": norm(grads), "finite": good}
        # A cond, for the select of every array makes XLA hold old and new: measured, 48 MiB in place of 16.
        return jax.lax.cond(good, moved, lambda: state), metrics

    return run


def step(net: Layer, loss: Layer, optimizer: optax.GradientTransformation, **measures: Measure) -> Any:
    """f(state, x, *targets) -> (state, metrics), compiled. It takes the memory of the state that it is given.

    loss is a layer on (output, *targets). metrics has the loss, the `norm` of the gradient, the `measures`, functions
    of (output, *targets) such as `accuracy`, and `finite`. Where the loss or a gradient is NaN or Inf, `finite` is
    false and the state comes back untouched, so that the cause can be looked for; `fit` does.

    Any optax transformation will do. A state that was given away once cannot be used again: jax raises an error that
    says it was deleted. Keep the one that comes back.
    """
    run = take_step(net, loss, optimizer, measures)
    return jax.jit(lambda state, x, *targets: run(state, jnp.ones((), bool), x, *targets), donate_argnums=0)
