"""The layer protocol, known by its shape: what verify needs of a network, whoever wrote it.

A layer has init, forward, backward, gradient, pull and reference. A combinator is a frozen dataclass whose fields hold
layers, or tuples of layers; one with `sealed = True` asks more of them than a layer has, and is taken as a whole. A
buffer is a pytree node with `is_buffer = True` and a `value`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp


def is_layer(value: Any) -> bool:
    return all(
        callable(getattr(value, name, None)) for name in ("init", "forward", "backward", "gradient", "reference")
    )


def substitute(change: Callable[[str, Any], Any], layer: Any) -> Any:
    """The combinator over changed children, each given with its label.

    That is '' for `layer`, '[i]' for one of `layers` or '.name' if it has a tuple `names` for them, '.field' else.
    """
    names = getattr(layer, "names", ())

    def changed(label, value):
        if isinstance(value, tuple) and any(map(is_layer, value)):
            called = names if not label and isinstance(names, tuple) and len(names) == len(value) else ()
            return tuple(changed(f".{called[i]}" if called else f"{label}[{i}]", v) for i, v in enumerate(value))
        return change(label, value) if is_layer(value) else value

    if not is_dataclass(layer) or getattr(layer, "sealed", False) is True:
        return layer
    new = {}
    for field in fields(layer):
        old = getattr(layer, field.name)
        value = changed("" if field.name in ("layer", "layers") else f".{field.name}", old)
        if value is not old and value != old:
            new[field.name] = value
    return replace(layer, **new) if new else layer  # pyright: ignore[reportArgumentType]


def children(layer: Any) -> list[tuple[str, Any]]:
    """The layers directly inside, with their labels."""
    found = []
    substitute(lambda label, child: found.append((label, child)) or child, layer)
    return found


def by_type(several: Iterable[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """Tuples that begin with a layer, those of a type of layer together, in their order."""
    found: dict[type, list[tuple[Any, ...]]] = {}
    for each in several:
        found.setdefault(type(each[0]), []).append(each)
    return list(found.values())


def as_one(layer: Any) -> bool:
    """Whether the layer says that it had better be compiled with the layers inside."""
    return getattr(layer, "as_one", False) is True


def nodes(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer of a network with its path (`Serial[2].Residual.Conv`), the network itself first."""
    yield path + type(layer).__name__, layer
    for label, child in children(layer):
        yield from nodes(child, f"{path}{type(layer).__name__}{label}.")


def leaves(layer: Any) -> list[tuple[str, Any]]:
    """The layers that hold no others, with their paths."""
    return [(path, node) for path, node in nodes(layer) if not children(node)]


def replace_at(layer: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """The network with change(p, n) for each node n at path p; where that is n itself, its children are looked at."""
    here = path + type(layer).__name__
    new = change(here, layer)
    if new is not layer:
        return new
    return substitute(lambda label, child: replace_at(child, change, f"{here}{label}."), layer)


def is_buffer(node: Any) -> bool:
    return getattr(node, "is_buffer", False) is True


def is_none(node: Any) -> bool:
    return node is None


def is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def split(tree: Any) -> tuple[Any, Any]:
    """(what is differentiated, the rest): two trees of one structure, None where the other has a leaf or a buffer."""
    moves = jax.tree.map(lambda v: None if is_buffer(v) or not is_float(v) else v, tree, is_leaf=is_buffer)
    rest = jax.tree.map(lambda v: v if is_buffer(v) or not is_float(v) else None, tree, is_leaf=is_buffer)
    return moves, rest


def join(moves: Any, rest: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, moves, rest, is_leaf=lambda v: v is None or is_buffer(v))
