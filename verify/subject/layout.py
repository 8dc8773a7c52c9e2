"""How the arguments of a subject fall apart into leaves, and the subject as a function of them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


class StructureError(ValueError):
    """Cotangents whose tree, shapes or dtypes are not those of what they belong to. `where` names the argument."""

    def __init__(self, where: str, message: str):
        super().__init__(message)
        self.where = where


def is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def is_buffer(node: Any) -> bool:
    return getattr(node, "is_buffer", False) is True


def in_buffer(tree: Tree) -> list[bool]:
    """For each leaf, whether it lies inside a buffer."""
    nodes = jax.tree.leaves(tree, is_leaf=is_buffer)
    return [is_buffer(node) for node in nodes for _ in jax.tree.leaves(node)]


def show(tree: Tree) -> str:
    """A pytree in short: float32[4, 5] for an array."""

    def leaf(x):
        return f"{x.dtype}[{', '.join(map(str, x.shape))}]" if hasattr(x, "shape") and hasattr(x, "dtype") else repr(x)

    return str(jax.tree.map(leaf, tree)).replace("'", "")


@dataclass(frozen=True)
class Layout:
    """How a subject's arguments fall apart into leaves and come together again.

    roles: 'float', 'complex' (two float leaves: its real and its imaginary part), 'other' or 'static' (a setting).
    arguments: which argument each leaf is of.
    """

    structure: Any
    roles: tuple[str, ...]
    names: tuple[str, ...]
    arguments: tuple[int, ...]
    static: tuple[Any, ...]

    @property
    def floats(self) -> tuple[str, ...]:
        """The names of the leaves that have cotangents."""
        found = []
        for name, role in zip(self.names, self.roles, strict=True):
            found += [name] if role == "float" else [f"{name}.real", f"{name}.imag"] if role == "complex" else []
        return tuple(found)

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of what is neither differentiated nor an array."""
        return self.named("static")

    def owners(self, role: str) -> tuple[int, ...]:
        """Of which argument each leaf with a cotangent is, or each of the others."""
        found = zip(self.arguments, self.roles, strict=True)
        if role == "other":
            return tuple(argument for argument, r in found if r == "other")
        return tuple(argument for argument, r in found for _ in range({"float": 1, "complex": 2}.get(r, 0)))

    def named(self, *roles: str) -> tuple[str, ...]:
        """The names of the leaves that have one of these roles."""
        return tuple(name for name, role in zip(self.names, self.roles, strict=True) if role in roles)

    def without(self, name: str) -> "Layout":
        """The layout with None in the place of one leaf."""
        i = self.names.index(name)
        gone = jax.tree.unflatten(self.structure, [None if j == i else j for j in range(len(self.names))])
        kept = [j for j in range(len(self.names)) if j != i]
        roles, names = (tuple(several[j] for j in kept) for several in (self.roles, self.names))
        return Layout(jax.tree.structure(gone), roles, names, tuple(self.arguments[j] for j in kept), self.static)

    def args(self, floats: tuple, others: tuple) -> tuple[Tree, ...]:
        sources = {"float": iter(floats), "other": iter(others), "static": iter(self.static)}
        take = lambda role: next(sources[role])  # noqa: E731
        leaves = [
            jax.lax.complex(take("float"), take("float")) if role == "complex" else take(role) for role in self.roles
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def split(self, args: tuple[Tree, ...]) -> tuple[tuple, tuple]:
        """(floats, others) of arguments with this structure."""
        floats, others = [], []
        for leaf, role in zip(jax.tree.leaves(args), self.roles, strict=True):
            if role == "complex":
                floats += [np.real(leaf), np.imag(leaf)]
            elif role != "static":
                (floats if role == "float" else others).append(leaf)
        return tuple(floats), tuple(others)


def lay_out(args: tuple[Tree, ...], labels: tuple[str, ...], numbers: bool = False) -> Layout:
    """Python's numbers, strings and functions are settings and stay as they are; its floats are differentiated too if
    `numbers`, or if there is nothing else to differentiate."""
    paths, structure = jax.tree_util.tree_flatten_with_path(args)
    arrays = any(hasattr(leaf, "dtype") and is_floating(leaf) for _, leaf in paths)
    roles, names, static = [], [], []
    for (path, leaf), buffer in zip(paths, in_buffer(args), strict=True):
        names.append(labels[path[0].idx] + jax.tree_util.keystr(path[1:]))
        if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
            complex_ = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
            roles.append("other" if buffer else "float" if is_floating(leaf) else "complex" if complex_ else "other")
        elif isinstance(leaf, float) and (numbers or not arrays):
            roles.append("float")
        else:
            roles.append("static")
            static.append(leaf)
    return Layout(structure, tuple(roles), tuple(names), tuple(path[0].idx for path, _ in paths), tuple(static))
