"""What can be audited: a function with a custom rule, a layer, a (forward, backward) pair, all in one shape.

A `Subject` speaks of arguments as its user does: any pytrees. A `Flat` subject speaks of leaves: `floats`, which have
cotangents, and `others` (integers, booleans, keys, the values in buffers), which have none. The laws know only leaves.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.subject.layout import StructureError, Tree, in_buffer, is_floating, show


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
        buffers = in_buffer(like)
        leaves = [
            _drawn(rng, s) if is_floating(s) and not buffer else _filled(p, s)
            for s, p, buffer in zip(jax.tree.leaves(like), held, buffers, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), x

    if len(args) == 1:
        (x,) = args
        params = layer.init(jax.random.key(seed), shapes(x))
        rng, buffers = np.random.default_rng(seed), in_buffer(params)
        leaves = [
            p if buffer or not is_floating(p) else p + np.asarray(0.3 * rng.normal(size=p.shape)).astype(p.dtype)
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


def _drawn(rng, s):
    return np.asarray(rng.normal(size=s.shape) * max(s.size, 1) ** -0.25 + 0.1).astype(s.dtype)


def _filled(p, s):
    """The values of p, repeated or cut to the shape of s. Keys keep their shape."""
    if tuple(p.shape) == tuple(s.shape):
        return p
    return np.resize(np.asarray(p), s.shape).astype(s.dtype)
