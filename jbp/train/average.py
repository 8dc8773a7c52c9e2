"""The mean of the parameters over the last steps, beside the parameters themselves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbp.errors import TreeError
from jbp.params import buffers, merge
from jbp.train.step import State


class Averaged(NamedTuple):
    """The optimizer's own state, the mean, and of how many steps it is."""

    optimizer: Any
    mean: Any
    count: Any


def averaged(optimizer: optax.GradientTransformation, decay: float = 0.999) -> optax.GradientTransformationExtraArgs:
    """The optimizer, with m = d m + (1 - d) θ beside it after each step: an exponential moving average of parameters.

        state, history = fit(net, loss, averaged(optax.adam(1e-3)), state, batches)
        y = net.evaluation()(average(state), x)

    d is `decay`, but t / (t + 1) in the first steps: their plain mean, in which the random start has no part. Raises
    ValueError for a decay that is not at least 0 and less than 1.

    >>> optimizer = jbp.train.averaged(optax.sgd(0.1))
    >>> state = jbp.train.start(Dense(1), optimizer, jax.random.key(0), jnp.ones((2, 3)))
    >>> jax.tree.map(jnp.shape, jbp.train.average(state))
    {'b': (1,), 'w': (3, 1)}
    """
    if not 0 <= decay < 1:
        raise ValueError(f"averaged: got decay={decay!r}; expected 0 or more and less than 1. Try 0.999.")
    inner = optax.with_extra_args_support(optimizer)

    def init(params):
        return Averaged(inner.init(params), params, jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        updates, own = inner.update(updates, state.optimizer, params, **extra)
        share = jnp.maximum(1 - decay, 1 / (state.count + 1))
        mean = optax.incremental_update(optax.apply_updates(params, updates), state.mean, share)
        mean = jax.tree.map(lambda m, p: m.astype(p.dtype), mean, params)
        return updates, Averaged(own, mean, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def average(state: State) -> Any:
    """The averaged parameters of a training with `averaged`, with the buffers as they are now.

    >>> optimizer = jbp.train.averaged(optax.sgd(0.1))
    >>> state = jbp.train.start(Dense(1), optimizer, jax.random.key(0), jnp.ones((2, 3)))
    >>> jax.tree.map(jnp.shape, jbp.train.average(state))
    {'b': (1,), 'w': (3, 1)}
    """
    if not isinstance(state.optimizer, Averaged):
        raise TreeError("average: got a state without a mean; expected that of averaged(optimizer). Train with it.")
    return merge(state.optimizer.mean, buffers(state.params))
