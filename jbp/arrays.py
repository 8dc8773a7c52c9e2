"""At the door of every layer: arrays of real numbers are let in, NumPy's as JAX takes them, and the rest is refused.

One rule for `init` and `forward`, of a layer alone, in a network, under `jit` and in training: a NumPy array of float64
counts as float32 where x64 is off, as it does for every function of jax.numpy. Shapes alone serve `init`. `backward`
and `pull` take floating-point cotangents, and None for what has none. An error of Python's or JAX's leaves with a note
of the layer.
"""

from collections.abc import Callable
from contextlib import contextmanager
from functools import update_wrapper, wraps
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, note, show, take


def at_the_door(layer: type) -> None:
    """From here on the methods that the class has of its own see arrays alone."""
    down = dict.fromkeys(("backward", "pull", "gradient"), _Down)
    for name, guard in {"init": _init, "forward": _forward, "terms": _forward, **down}.items():
        method = vars(layer).get(name)
        if method is not None and not isinstance(method, _Down):
            setattr(layer, name, guard(method))


def _init(method):
    @wraps(method)
    def init(self, key, x, /):
        old = hasattr(key, "dtype") and key.dtype == np.uint32  # jax.random.PRNGKey, before keys had a dtype
        if not old and not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            raise LayerError(self, f"got key {show(key)}; expected a random key. Make it with jax.random.key(0).")
        x = taken(self, "x", x, shape)
        with _inside(self, x=x):
            return method(self, key, x)

    return init


def _forward(method):
    @wraps(method)
    def forward(self, params, x, /):
        params, x = _trained(self, taken(self, "parameters", params)), taken(self, "x", x)
        with _inside(self, x=x, parameters=params):
            return method(self, params, x)

    return forward


class _Down:
    """A method of the backward pass, behind the door. `__func__` is the method itself, as it is of a classmethod."""

    def __init__(self, method: Callable[..., Any]):
        update_wrapper(self, method)
        self.__func__ = method

    def __get__(self, layer: Any, kind: type | None = None) -> Any:
        return self if layer is None else MethodType(self, layer)

    def __call__(self, layer: Any, /, *given: Any) -> Any:
        trees = {}
        if len(given) == 3:  # (params, residuals, dy); what a layer has for delta is its own business
            trees = {"the cotangent": given[2], "parameters": given[0]}
            _cotangents(layer, given[2])
        with _inside(layer, **trees):
            return self.__func__(layer, *given)


@contextmanager
def _inside(layer, **given):
    """Around a layer's own work: it asked a container for what an array has, or an error leaves with its name."""
    try:
        yield
    except LayerError:
        raise
    except Exception as error:
        asked = isinstance(error, AttributeError) and hasattr(jax.Array, error.name or "")
        of_none = isinstance(error, TypeError) and "NoneType" in str(error)
        obj = error.obj if isinstance(error, AttributeError) else None
        for what, tree in given.items() if asked or of_none else ():
            if _stands_in(obj, tree):
                raise LayerError(
                    layer,
                    f"got {what} {show(tree)}; expected an array in the place of {show(obj)}. Pass the array alone.",
                ) from error
        note(error, layer)
        raise


def _stands_in(node, tree):
    """Whether a tree has this very container, or None, somewhere in it."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return (tree is node and not hasattr(tree, "dtype")) or any(_stands_in(node, branch) for branch in inner)


def _cotangents(layer, dy):
    for leaf in jax.tree.leaves(dy):
        if not is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            if getattr(leaf, "dtype", None) == jax.dtypes.float0:  # how jax.vjp writes None
                continue
            raise LayerError(
                layer,
                f"got the cotangent {show(dy)}; expected floating-point arrays like the output, and None for integers "
                "and keys. Make it with jnp.ones_like(y), for example.",
            )


def array(leaf: Any) -> Any:
    """The leaf as JAX takes it, None if it is no array. Integers stay NumPy's: inside of jit their values are known."""
    if not is_array(leaf):
        return None
    return leaf if isinstance(leaf, jax.Array) or leaf.dtype.kind in "bui" else jnp.asarray(leaf)


def is_array(leaf: Any) -> bool:
    """Whether `array` takes the leaf. Nothing is moved to a device."""
    if isinstance(leaf, jax.Array):
        return not jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    numbers = isinstance(leaf, np.ndarray | np.generic)
    return numbers and (leaf.dtype.kind in "bui" or jnp.issubdtype(leaf.dtype, jnp.floating))


def shape(leaf: Any) -> Any:
    """An array or a shape, its dtype one that JAX has. None for what `array` does not take."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return array(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return None
    known = not jnp.issubdtype(leaf.dtype, jnp.inexact) or jax.dtypes.canonicalize_dtype(leaf.dtype) == leaf.dtype
    return leaf if known else jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


def taken(layer: Any, what: str, tree: Any, kind: Callable[[Any], Any] = array) -> Any:
    """The tree with each leaf as `kind` has it, or a LayerError that names the leaf which is no array."""
    leaves, structure = jax.tree.flatten(tree)
    found = [kind(leaf) for leaf in leaves]
    if (tree is None and what == "x") or any(leaf is None for leaf in found):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is None):
            if leaf is None or kind(leaf) is None:
                shapes = " jax.eval_shape takes shapes." * isinstance(leaf, jax.ShapeDtypeStruct)
                raise LayerError(
                    layer,
                    f"got {what}{jax.tree_util.keystr(path)} {_kind(leaf)}; expected an array of real numbers. "
                    f"Pass {_remedy(leaf)}.{shapes}",
                )
    same = all(a is b for a, b in zip(leaves, found, strict=True))
    return tree if same else jax.tree.unflatten(structure, found)


def _trained(layer, params):
    """The parameters, after a check that the loss can move what is not in a Buffer, and that there are any."""
    if not hasattr(type(layer).init, "__wrapped__"):  # `init` is that of Layer, which makes none
        take(layer, params, None)
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


def _remedy(leaf):
    parts = "v.real and v.imag, or jnp.abs(v), in place of a complex v"
    return parts if getattr(getattr(leaf, "dtype", None), "kind", "") == "c" else "jnp.asarray of its values"


def _kind(leaf):
    return f"{type(leaf).__name__} {show(leaf)}" if hasattr(leaf, "dtype") else type(leaf).__name__
