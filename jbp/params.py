"""Parameters and what is not a parameter: one tree holds both, and `Buffer` marks what the loss does not move."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbp.arrays import is_array
from jbp.errors import TreeError, show


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Buffer:
    """A part of the parameter tree that the loss does not move: a running mean, a dropout key, frozen weights.

    `gradient` has None in its place, `trainable` leaves it out, `Layer.advance` may replace it. Checkpoints, `jit` and
    `vmap` see an ordinary pytree node.

    >>> params = {"w": jnp.ones(2), "scale": Buffer(jnp.array([3.0]))}
    >>> trainable(params)
    {'scale': None, 'w': Array([1., 1.], dtype=float32)}
    """

    value: Any

    is_buffer = True


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, Buffer)


def trainable(params: Any) -> Any:
    """The parameters with None for each Buffer: what an optax optimizer is given, and the shape of a gradient.

    >>> trainable({"w": jnp.ones(2), "scale": Buffer(jnp.array([3.0]))})
    {'scale': None, 'w': Array([1., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda p: None if isinstance(p, Buffer) else p, params, is_leaf=_is_leaf)


def buffers(params: Any) -> Any:
    """The parameters with None for everything but the Buffers: `merge(trainable(p), buffers(p))` is `p`.

    >>> buffers({"w": jnp.ones(2), "scale": Buffer(jnp.array([3.0]))})
    {'scale': Buffer(value=Array([3.], dtype=float32)), 'w': None}
    """
    return jax.tree.map(lambda p: p if isinstance(p, Buffer) else None, params, is_leaf=_is_leaf)


def merge(first: Any, second: Any) -> Any:
    """Two trees of one structure as one: the leaf of `first`, or that of `second` where `first` has None.

    >>> merge({"w": 1.0, "b": None}, {"w": None, "b": 2.0})
    {'b': 2.0, 'w': 1.0}
    """
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

    >>> params = {"w": jnp.ones(2), "scale": Buffer(jnp.array([3.0]))}
    >>> apply_updates(params, {"w": jnp.full(2, 0.5), "scale": None})
    {'scale': Buffer(value=Array([3.], dtype=float32)), 'w': Array([1.5, 1.5], dtype=float32)}
    """
    import optax  # here, for it takes its time

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
        return not isinstance(dtype, jax.Array | np.ndarray | None) and jnp.issubdtype(dtype, jnp.floating)
    except (TypeError, ValueError):  # it names none
        return False


def cast(params: Any, dtype: Any) -> Any:
    """The parameters in another floating dtype, those that `Frozen` holds too.

    Integers, keys and a Buffer that is one array (a running mean) stay as they are. Raises TreeError for a dtype that
    is not a floating one.

    >>> jax.tree.map(lambda w: w.dtype.name, cast({"w": jnp.ones(2), "steps": jnp.array(3)}, "bfloat16"))
    {'steps': 'int32', 'w': 'bfloat16'}
    """
    if not _floating(dtype):
        raise TreeError(f"cast: got the dtype {dtype!r}; expected a floating-point one. Write 'float32' or 'bfloat16'.")

    def leaf(p):
        if isinstance(p, Buffer):
            return p if hasattr(p.value, "dtype") else Buffer(cast(p.value, dtype))
        if not is_array(p):
            raise TreeError(f"cast: got {show(params)}; expected a tree of arrays. Pass what net.init(key, x) makes.")
        return p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p

    return jax.tree.map(leaf, params, is_leaf=lambda p: isinstance(p, Buffer))


def labels(params: Any, where: Mapping[str, Any], default: Any = None) -> Any:
    """The tree of what is trained with a label for each array: the first of `where` whose pattern fits its path.

        optax.multi_transform({"slow": optax.adam(1e-5), "fast": optax.adam(1e-3)},
                              lambda params: jbp.labels(params, {"encoder": "slow"}, "fast"))
        optax.adamw(1e-3, mask=lambda params: jbp.labels(params, {"b": False}, True))  # no decay of biases

    A path is written "encoder/0/w". A pattern fits the path of an array or of anything around it, from any place on:
    "w" fits every array of this name, "encoder" all that is inside, "0/w" and "atten*/q" some. With a slash in front,
    "/0", it fits from the root alone. * and ? stand for letters of one name. Raises TreeError for a pattern that fits
    nothing, and where none fits and there is no default.

    >>> params = {"encoder": {"w": jnp.ones(2), "b": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
    >>> labels(params, {"encoder/b": "no decay", "encoder": "slow"}, "fast")
    {'encoder': {'b': 'no decay', 'w': 'slow'}, 'head': {'w': 'fast'}}
    """
    used = set()

    def label(path, leaf):
        if isinstance(leaf, Buffer) or leaf is None:
            return None
        for pattern, name in where.items():
            if fits(path, pattern):
                used.add(pattern)
                return name
        if default is None:
            raise TreeError(
                f"labels: got no pattern for {'/'.join(path)}; expected one. Give a default, or '*' as the last."
            )
        return default

    found = with_paths(label, params)
    if idle := [pattern for pattern in where if pattern not in used]:
        everything = ", ".join("/".join(path) for path in paths(params))
        raise TreeError(
            f"labels: got the pattern {idle[0]!r}, which fits nothing that is trained, or nothing that an earlier one "
            f"left; expected the end of one of: {everything}. Look for a slip of the pen."
        )
    return found


def fits(path: tuple[str, ...], pattern: str) -> bool:
    """Whether the pattern, as `labels` has it, fits the path of an array or of a part that the array is in."""
    names = pattern.strip("/").split("/")
    ends = (len(names),) if pattern.startswith("/") else range(len(names), len(path) + 1)
    return any(end <= len(path) and all(map(fnmatchcase, path[end - len(names) : end], names)) for end in ends)


def with_paths(f: Callable[[tuple[str, ...], Any], Any], tree: Any) -> Any:
    """The tree of f(path, leaf); a Buffer is a leaf, and None is."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: f(_names(path), leaf), tree, is_leaf=_is_leaf)


def paths(params: Any) -> Iterator[tuple[str, ...]]:
    """The paths of all arrays that are trained."""
    return (_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(trainable(params)))


def _names(path: Any) -> tuple[str, ...]:
    """A path of JAX's in names; a key of several, as adapters have them, is as many."""
    keys = [getattr(k, "key", getattr(k, "idx", getattr(k, "name", k))) for k in path]
    return tuple(name for key in keys for name in str(key).split("/"))
