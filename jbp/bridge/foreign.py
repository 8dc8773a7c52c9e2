"""Somebody else's function as a layer: the one place where jax.vjp makes a backward pass, and says so."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jbp.errors import LayerError, show
from jbp.fields import Verbatim
from jbp.layer import Layer


@dataclass(frozen=True)
class Lambda(Layer):
    """y = f(x), or f(params, x) if `start(key, x)` makes parameters: a function of anybody's, and jax.vjp of it.

        dx, dparams = jax.vjp(f, ...) of dy

    For what has no hand-written backward pass here: `Lambda(jnp.sort)`, a module of Equinox or Flax. `autodiff` tells
    that its backward pass is nobody's own, as its repr does. Keeps what jax.vjp keeps, weights too. The cotangent of
    integers is None. A network with it is saved as any other, and loaded with `load(path, net=net)`. Raises LayerError
    if f is no function.
    """

    f: Callable[..., Any]
    start: Callable[[Any, Any], Any] | None = None

    autodiff = True

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.f):
            raise LayerError(type(self), f"got f={show(self.f)}; expected a function. Write Lambda(jnp.sin), say.")

    def _arguments(self):
        return (("", Verbatim(_name(f))) for f in (self.f, self.start) if f is not None)

    def init(self, key, x, /):
        return () if self.start is None else self.start(key, x)

    def _run(self, params, x):
        return self.f(x) if self.start is None else self.f(params, x)

    def forward(self, params, x, /):
        return jax.vjp(self._run, params, x)

    def backward(self, params, pull, dy, /):
        dparams, dx = pull(dy)
        return jax.tree.map(_no_float0, dx), dparams

    def gradient(self, pull, dparams, /):
        return jax.tree.map(_no_float0, dparams)

    def reference(self, params, x, /):
        return self._run(params, x)


def _no_float0(leaf):
    """None for how jax.vjp writes that an integer has no cotangent."""
    return None if leaf.dtype == jax.dtypes.float0 else leaf


def _name(f):
    return f"{getattr(f, '__module__', '')}.{getattr(f, '__qualname__', type(f).__name__)}"
