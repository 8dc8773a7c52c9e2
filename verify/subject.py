"""What can be audited: a function with a custom rule, a layer, a (forward, backward) pair, all in one shape.

A `Subject` speaks of arguments as its user does: any pytrees. A `Flat` subject speaks of leaves: `floats`, which have
cotangents, and `others` (integers, booleans, keys, the values in buffers), which have none. The laws know only leaves.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.guard import contained

Tree = Any


class StructureError(ValueError):
    """Cotangents whose tree, shapes or dtypes are not those of what they belong to. `where` names the argument."""

    def __init__(self, where: str, message: str):
        super().__init__(message)
        self.where = where


class SubjectError(ValueError):
    """The call of `check` itself is at fault: nothing that could be audited was given."""


@dataclass(frozen=True)
class Pair:
    """fwd(*args) -> (y, residuals) and bwd(residuals, dy) -> a cotangent for each argument, None for none."""

    fwd: Callable[..., Any]
    bwd: Callable[..., Any]


def pair(fwd: Callable[..., Any], bwd: Callable[..., Any]) -> Pair:
    """A forward and a backward function, shaped like those of `jax.custom_vjp.defvjp`, as one thing to audit.

    >>> cube = verify.pair(lambda x: (x**3, x), lambda x, dy: (dy * 3 * x**2,))
    >>> verify.check(cube, jnp.array([0.5, 2.0]), reference=lambda x: x**3, level="quick").verdict
    'pass'
    """
    return Pair(fwd, bwd)


@dataclass(frozen=True)
class Subject:
    """One differentiable function with the backward pass under audit.

    primal(*args) -> y;  pullback(*args) -> (y, pull) with pull(dy) -> a tuple of cotangents, one for each argument, as
    `jax.vjp` would;  reference(*args) -> y, the plain definition, or None.  `apart`, for layers, is `pullback` with
    `backward` and `gradient` called one after the other.  `remake(*args)` builds arguments of new sizes from the last.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    primal: Callable[..., Tree]
    pullback: Callable[..., tuple[Tree, Callable[[Tree], tuple[Tree, ...]]]]
    reference: Callable[..., Tree] | None = None
    apart: Callable[..., tuple[Tree, Callable[[Tree], tuple[Tree, ...]]]] | None = None
    remake: Callable[..., tuple[Tree, ...]] | None = None
    estimator: bool = False
    nonlinear: bool = False  # its backward pass is not linear in the cotangent, on purpose

    def vjp(self, args: tuple[Tree, ...], cotangent: Tree) -> tuple[Tree, ...]:
        """The cotangents of args, a tuple like args."""
        return self.pullback(*args)[1](cotangent)


def subject(f: Any, args: tuple[Tree, ...], reference: Callable[..., Any] | None, seed: int) -> tuple[Subject, tuple]:
    """(the subject, its example arguments). A layer given with x alone gets parameters of its own, away from ones and
    zeros. Raises SubjectError if f is nothing that can be audited."""
    if reference is not None and not callable(reference):
        raise SubjectError(f"check got reference={show(reference)}; expected a function of the same arguments.")
    if isinstance(f, Pair):
        if any(hasattr(v, "dtype") and jnp.issubdtype(v.dtype, jnp.complexfloating) for v in jax.tree.leaves(args)):
            raise SubjectError("check got a pair with complex arguments; make it a jax.custom_vjp function.")
        return _of_pair(f, args, reference), args
    if _is_layer(f):
        return _of_layer(f, args, reference, seed)
    if callable(f):
        for function in (f, *([reference] if reference else [])):
            _takes(function, args)
        labels = _names(len(args), f, reference)

        def pullback(*args):
            raise NotImplementedError  # the flat form takes jax.vjp of the primal over float leaves

        return Subject(_name(f), "function", labels, f, pullback, reference), args
    raise SubjectError(
        f"check got {type(f).__name__}; expected a function, a layer with forward, backward and gradient, "
        "or verify.pair(fwd, bwd)."
    )


def _name(f: Any) -> str:
    return getattr(f, "__name__", None) or type(f).__name__


def _takes(f: Any, args: tuple) -> None:
    """SubjectError if f cannot be called with these arguments."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args)
    except TypeError as error:
        raise SubjectError(
            f"{_name(f)}{signature} cannot be called with the {len(args)} example arguments: {error}. Give all of them "
            "in their order; what is passed by keyword goes in with functools.partial or a lambda."
        ) from None


def _names(count: int, *functions: Any) -> tuple[str, ...]:
    """The names of the arguments, as the first function of those has them that names any."""
    for f in functions:
        try:
            parameters = list(inspect.signature(f).parameters.values())
        except (TypeError, ValueError):  # built-in functions have no signature to read
            continue
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if named:
            return tuple(named[i] if i < len(named) else f"args[{i}]" for i in range(count))
    return tuple(f"args[{i}]" for i in range(count))


def _is_layer(f: Any) -> bool:
    return not isinstance(f, type) and all(
        callable(getattr(f, name, None)) for name in ("forward", "backward", "gradient")
    )


def is_estimator(layer: Any, kind: Any = None) -> bool:
    """Whether the layer, or one inside it, says that its backward pass is on purpose not the transpose of forward.

    With a kind, whether one says so by that: "nonlinear" if it is not linear in the cotangent either.
    """

    def inside(value):
        if isinstance(value, tuple | list):
            return any(map(inside, value))
        return _is_layer(value) and is_estimator(value, kind)

    said = getattr(layer, "estimator", False)
    if said and kind in (None, said):
        return True
    return dataclasses.is_dataclass(layer) and any(inside(getattr(layer, f.name)) for f in dataclasses.fields(layer))


def _of_pair(f: Pair, args: tuple, reference: Any) -> Subject:
    def pullback(*args):
        y, residuals = f.fwd(*args)

        def pull(dy):
            cotangents = f.bwd(residuals, dy)
            if not isinstance(cotangents, tuple | list):
                cotangents = (cotangents,) if len(args) == 1 else cotangents
            if not isinstance(cotangents, tuple | list) or len(cotangents) != len(args):
                raise StructureError("", f"got {show(cotangents)}; expected a tuple of {len(args)}, one per argument.")
            return tuple(cotangents)

        return y, pull

    return Subject(
        _name(f.fwd), "pair", _names(len(args), f.fwd, reference), lambda *a: f.fwd(*a)[0], pullback, reference
    )


def _of_layer(layer: Any, args: tuple, reference: Any, seed: int) -> tuple[Subject, tuple]:
    if len(args) not in (1, 2):
        raise SubjectError(f"check({_name(layer)}, ...) got {len(args)} arguments; expected x, or params and x.")

    def shapes(x):
        return jax.eval_shape(lambda x: x, x)

    def remake(params, x):
        """Parameters for another x: trainable ones drawn anew, the rest filled up from those we have."""
        like = jax.eval_shape(lambda: layer.init(jax.random.key(seed), shapes(x)))
        held = jax.tree.leaves(params)
        if len(held) != len(jax.tree.leaves(like)):
            raise SubjectError("the parameters change their structure with the sizes of x")
        rng = np.random.default_rng(seed + 1)
        buffers = _in_buffer(like)
        leaves = [
            _drawn(rng, s) if _floating(s) and not buffer else _filled(p, s)
            for s, p, buffer in zip(jax.tree.leaves(like), held, buffers, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), x

    if len(args) == 1:
        (x,) = args
        params = layer.init(jax.random.key(seed), shapes(x))
        rng, buffers = np.random.default_rng(seed), _in_buffer(params)
        leaves = [
            p if buffer or not _floating(p) else p + np.asarray(0.3 * rng.normal(size=p.shape)).astype(p.dtype)
            for p, buffer in zip(jax.tree.leaves(params), buffers, strict=True)
        ]
        args = jax.tree.unflatten(jax.tree.structure(params), leaves), x

    def pullback(params, x):
        y, residuals = layer.forward(params, x)

        def pull(dy):
            down = layer.pull(params, residuals, dy) if hasattr(layer, "pull") else both(params, residuals, dy)
            dx, dparams = down
            return dparams, dx

        return y, pull

    def both(params, residuals, dy):
        dx, delta = layer.backward(params, residuals, dy)
        return dx, layer.gradient(residuals, delta)

    def apart(params, x):
        y, residuals = layer.forward(params, x)
        return y, lambda dy: both(params, residuals, dy)[::-1]

    plain = reference or getattr(layer, "reference", None)
    subject = Subject(
        repr(layer),
        "layer",
        ("params", "x"),
        lambda params, x: layer.forward(params, x)[0],
        pullback,
        plain,
        apart,
        remake,
        is_estimator(layer),
        is_estimator(layer, "nonlinear"),
    )
    return subject, args


def _floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def is_buffer(node: Any) -> bool:
    return getattr(node, "is_buffer", False) is True


def _in_buffer(tree: Tree) -> list[bool]:
    """For each leaf, whether it lies inside a buffer."""
    nodes = jax.tree.leaves(tree, is_leaf=is_buffer)
    return [is_buffer(node) for node in nodes for _ in jax.tree.leaves(node)]


def _drawn(rng, s):
    return np.asarray(rng.normal(size=s.shape) * max(s.size, 1) ** -0.25 + 0.1).astype(s.dtype)


def _filled(p, s):
    """The values of p, repeated or cut to the shape of s. Keys keep their shape."""
    if tuple(p.shape) == tuple(s.shape):
        return p
    return np.resize(np.asarray(p), s.shape).astype(s.dtype)


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
    arrays = any(hasattr(leaf, "dtype") and _floating(leaf) for _, leaf in paths)
    roles, names, static = [], [], []
    for (path, leaf), buffer in zip(paths, _in_buffer(args), strict=True):
        names.append(labels[path[0].idx] + jax.tree_util.keystr(path[1:]))
        if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
            complex_ = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
            roles.append("other" if buffer else "float" if _floating(leaf) else "complex" if complex_ else "other")
        elif isinstance(leaf, float) and (numbers or not arrays):
            roles.append("float")
        else:
            roles.append("static")
            static.append(leaf)
    return Layout(structure, tuple(roles), tuple(names), tuple(path[0].idx for path, _ in paths), tuple(static))


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
    return jax.tree.map(lambda v: next(given) if _floating(v) else np.zeros(v.shape, jax.dtypes.float0), y)


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


@contextmanager
def wide(dtype: Any) -> Iterator[None]:
    """Float64 for as long as this lasts, if dtype is that; the process's own setting is as before afterwards.

    Constants in a stranger's function are often float32, so promotion must be lenient in every dtype that is not his.
    All of his code runs inside of this: a SystemExit there is an error like any other.
    """
    with contained(), jax.enable_x64(np.dtype(dtype) == np.float64 or jax.config.read("jax_enable_x64")):
        if np.dtype(dtype) == np.float32:
            yield
        else:
            with jax.numpy_dtype_promotion("standard"):
                yield
