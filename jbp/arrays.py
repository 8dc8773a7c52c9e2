"""At the door of every layer: arrays are let in, NumPy's as JAX takes them, and anything else is refused.

One rule for `init` and `forward`, of a layer alone, in a network, under `jit` and in training: a NumPy array of float64
counts as float32 where x64 is off, as it does for every function of jax.numpy. Shapes alone serve `init`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, show


def at_the_door(layer: type) -> None:
    """From here on `init` and `forward`, where the class has its own, see arrays alone."""
    for name, guard in (("init", _init), ("forward", _forward)):
        if name in vars(layer):
            setattr(layer, name, guard(vars(layer)[name]))


def _init(method):
    @wraps(method)
    def init(self, key, x, /):
        old = hasattr(key, "dtype") and key.dtype == np.uint32  # jax.random.PRNGKey, before keys had a dtype
        if not old and not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            raise LayerError(self, f"got key {show(key)}; expected a random key. Make it with jax.random.key(0).")
        return method(self, key, taken(self, "x", x, shape))

    return init


def _forward(method):
    @wraps(method)
    def forward(self, params, x, /):
        return method(self, _trained(self, taken(self, "parameters", params)), taken(self, "x", x))

    return forward


def array(leaf: Any) -> Any:
    """The leaf as JAX takes it, None if it is no array. Integers stay NumPy's: inside of jit their values are known."""
    if isinstance(leaf, jax.Array):
        return leaf
    if not isinstance(leaf, np.ndarray | np.generic):
        return None
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.asarray(leaf)
    return leaf if leaf.dtype.kind in "bui" else None


def shape(leaf: Any) -> Any:
    """An array or a shape, its dtype one that JAX has."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return array(leaf)
    known = not jnp.issubdtype(leaf.dtype, jnp.inexact) or jax.dtypes.canonicalize_dtype(leaf.dtype) == leaf.dtype
    return leaf if known else jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


def taken(layer: Any, what: str, tree: Any, take: Callable[[Any], Any] = array) -> Any:
    """The tree with each leaf as `take` has it, or a LayerError that names the leaf which is no array."""
    leaves, structure = jax.tree.flatten(tree)
    found = [take(leaf) for leaf in leaves]
    if (tree is None and what == "x") or any(leaf is None for leaf in found):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is None):
            if leaf is None or take(leaf) is None:
                shapes = " jax.eval_shape takes shapes." * isinstance(leaf, jax.ShapeDtypeStruct)
                raise LayerError(
                    layer,
                    f"got {what}{jax.tree_util.keystr(path)} {_kind(leaf)}; expected an array of numbers. "
                    f"Pass jnp.asarray of its values.{shapes}",
                )
    same = all(a is b for a, b in zip(leaves, found, strict=True))
    return tree if same else jax.tree.unflatten(structure, found)


def _trained(layer, params):
    """The parameters, after a check that the loss can move what is not in a Buffer."""
    for leaf in jax.tree.leaves(params, is_leaf=_is_buffer):
        if not _is_buffer(leaf) and (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.integer)):
            raise LayerError(
                layer,
                f"got parameters {show(params)}; expected floating-point numbers, but for what is in a Buffer. "
                "Make them with net.init(key, x).",
            )
    return params


def _is_buffer(node):
    return getattr(node, "is_buffer", False)


def _kind(leaf):
    return f"{type(leaf).__name__} {show(leaf)}" if hasattr(leaf, "dtype") else type(leaf).__name__
