"""Parameters and what is not a parameter: one tree holds both, and `Buffer` marks what the loss does not move."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbp.errors import TreeError, show


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Buffer:
    """A part of the parameter tree that the loss does not move: a running mean, a dropout key, frozen weights.

    `gradient` has None in its place, `trainable` leaves it out, `Layer.advance` may replace it. Checkpoints, `jit` and
    `vmap` see an ordinary pytree node.
    """

    value: Any

    is_buffer = True


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, Buffer)


def trainable(params: Any) -> Any:
    """The parameters with None for each Buffer: what an optax optimizer is given, and the shape of a gradient."""
    return jax.tree.map(lambda p: None if isinstance(p, Buffer) else p, params, is_leaf=_is_leaf)


def buffers(params: Any) -> Any:
    """The parameters with None for everything but the Buffers: `merge(trainable(p), buffers(p))` is `p`."""
    return jax.tree.map(lambda p: p if isinstance(p, Buffer) else None, params, is_leaf=_is_leaf)


def merge(first: Any, second: Any) -> Any:
    """Two trees of one structure as one: the leaf of `first`, or that of `second` where `first` has None."""
    try:
        return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=_is_leaf)
    except ValueError as error:
        raise TreeError(
            f"merge: got trees of two structures, {show(first)} and {show(second)}; expected the same structure with "
            f"None in place of what is left out. Pass trainable(params) and buffers(params) of one network. ({error})"
        ) from error


def apply_updates(params: Any, updates: Any) -> Any:
    """`optax.apply_updates` on what is trainable; Buffers stay. `updates` has None where `params` has a Buffer.

    Raises TreeError where the two do not fit, as an update of another shape, which would be broadcast.
    """
    trained = trainable(params)
    sizes = [jax.tree.map(jnp.shape, tree) for tree in (trained, updates)]
    if sizes[0] != sizes[1]:
        raise TreeError(
            f"apply_updates: got updates {show(updates)} for {show(trained)}; expected one structure and shapes. "
            "Pass what optimizer.update(grads, state, trainable(params)) gives."
        )
    return merge(optax.apply_updates(trained, updates), buffers(params))


def _floating(dtype: Any) -> bool:
    try:
        return dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    except (TypeError, ValueError):  # it names none
        return False


def cast(params: Any, dtype: Any) -> Any:
    """The parameters in another floating dtype, those that `Frozen` holds too.

    Integers, keys and a Buffer that is one array (a running mean) stay as they are. Raises TreeError for a dtype that
    is not a floating one.
    """
    if not _floating(dtype):
        raise TreeError(f"cast: got the dtype {dtype!r}; expected a floating-point one. Write 'float32' or 'bfloat16'.")

    def leaf(p):
        if isinstance(p, Buffer):
            return p if hasattr(p.value, "dtype") else Buffer(cast(p.value, dtype))
        return p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p

    return jax.tree.map(leaf, params, is_leaf=lambda p: isinstance(p, Buffer))
