"""The subject as a function of leaves: what the laws know of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from verify.subject.layout import Layout, StructureError, Tree, is_floating, show
from verify.subject.subject import Subject


@dataclass(frozen=True)
class Flat:
    """A subject over leaves. primal(floats, others) -> float outputs; pullback(floats, others) -> (outputs, pull) and
    pull(cotangents of the outputs) -> one cotangent for each of floats, or StructureError."""

    subject: Subject
    layout: Layout

    def primal(self, floats: tuple, others: tuple) -> tuple:
        args = self.layout.args(floats, others)
        with _kept(args):
            return float_leaves(self.subject.primal(*args))

    def reference(self, floats: tuple, others: tuple) -> tuple:
        assert self.subject.reference is not None
        return float_leaves(self.subject.reference(*self.layout.args(floats, others)))

    def pullback(self, floats: tuple, others: tuple, apart: bool = False) -> tuple[tuple, Callable[[tuple], tuple]]:
        if self.subject.kind == "function":
            y, pull = jax.vjp(lambda floats: self.primal(floats, others), floats)
            return y, lambda dy: pull(dy)[0]
        args = self.layout.args(floats, others)
        way = self.subject.apart if apart and self.subject.apart else self.subject.pullback
        with _kept(args):
            y, pull = way(*args)
        # jax.custom_vjp reads None as zero, a layer's gradient says with it that the leaf is not trained
        zero = self.subject.kind == "pair"
        return float_leaves(y), lambda dy: _matched(pull(_cotangent(y, dy)), args, self.layout, zero)

    def vjp(self, floats: tuple, others: tuple, dy: tuple) -> tuple[tuple, tuple]:
        y, pull = self.pullback(floats, others)
        return y, pull(dy)

    def vjp_apart(self, floats: tuple, others: tuple, dy: tuple) -> tuple[tuple, tuple]:
        y, pull = self.pullback(floats, others, apart=True)
        return y, pull(dy)


@contextmanager
def _kept(args: Tree) -> Iterator[None]:
    """StructureError if what happens inside puts other leaves into the lists and dicts that it was given."""
    before, tree = jax.tree.flatten(args)
    yield
    after, now = jax.tree.flatten(args)
    if now != tree or any(a is not b for a, b in zip(before, after, strict=True)):
        raise StructureError(
            "", "changes the lists or dicts that it is given; expected new ones, and these as they were."
        )


def float_leaves(y: Tree) -> tuple:
    """The float leaves of an output; a complex one is two of them."""
    found = []
    for v in map(jnp.asarray, jax.tree.leaves(y)):
        if jnp.issubdtype(v.dtype, jnp.complexfloating):
            found += [jnp.real(v), jnp.imag(v)]
        elif jnp.issubdtype(v.dtype, jnp.floating):
            found.append(v)
    return tuple(found)


def _cotangent(y: Tree, dy: tuple) -> Tree:
    """dy in the tree of y, with float0 zeros for outputs that have no cotangent."""
    given = iter(dy)
    return jax.tree.map(lambda v: next(given) if is_floating(v) else np.zeros(v.shape, jax.dtypes.float0), y)


def _matched(cotangents: tuple, args: tuple, layout: Layout, zero: bool) -> tuple:
    """The cotangents of the float leaves, in order. None stands for the whole of a subtree that has none."""
    found = []
    names = iter(zip(layout.names, layout.roles, strict=True))
    labels = [name for name, role in zip(layout.names, layout.roles, strict=True) if role == "float"]
    for index, (cotangent, arg) in enumerate(zip(cotangents, args, strict=True)):
        leaves, structure = jax.tree.flatten(cotangent, is_leaf=lambda v: v is None)
        try:
            parts = structure.flatten_up_to(arg)
        except (ValueError, TypeError, KeyError) as error:
            where = labels[len(found)] if len(found) < len(labels) else f"argument {index}"
            raise StructureError(
                where,
                f"got a cotangent {show(cotangent)}; expected the tree of the argument, {show(arg)}, with None for "
                f"what has none. ({error})",
            ) from error
        for c, part in zip(leaves, parts, strict=True):
            inside = jax.tree.leaves(part)
            for leaf in inside:
                name, role = next(names)
                if role != "float":
                    if c is not None and getattr(c, "dtype", None) != jax.dtypes.float0:
                        raise StructureError(name, f"got a cotangent {show(c)}; expected None: it has no gradient.")
                    continue
                if c is None and zero:
                    found.append(jnp.zeros_like(leaf))
                    continue
                if c is None:
                    raise StructureError(name, "got None; expected a cotangent: the loss depends on this leaf.")
                if len(inside) != 1:
                    raise StructureError(name, f"got one cotangent {show(c)} for the subtree {show(part)}.")
                found.append(c)
    return tuple(found)
