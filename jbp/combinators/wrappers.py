"""Layers around one layer: what goes past it, over which axes it runs, whether it learns."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jbp.combinators.shapes import same_shape
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, check_cotangent, show
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import Static
from jbp.params import Buffer, fits, merge, paths, trainable, with_paths


@dataclass(frozen=True)
class Residual(Wrapper):
    """y = x + f(x).      dx = dy + fᵀ dy, the error that f returns.

    Keeps what f keeps. Parameters are f's. (He et al., *Identity Mappings in Deep Residual Networks*, 2016, §2.)
    Raises LayerError if f does not keep shape and dtype.

    >>> x = jnp.ones((2, 5))
    >>> params = Residual(Dense(5)).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (5,), 'w': (5, 5)}
    >>> Residual(Dense(5))(params, x).shape
    (2, 5)
    """

    layer: Layer

    def forward(self, params, x, /):
        with at(self):
            y, r = self.layer.forward(params, x)
        same_shape(self, x, y)
        return jax.tree.map(jnp.add, x, y), r

    def _down(self, way, params, residuals, dy):
        with at(self):
            dx, down = way(params, residuals, dy)
        check_cotangent(self, dx, dy)  # y is shaped like x
        return jax.tree.map(jnp.add, dy, dx), down

    def reference(self, params, x, /):
        return jax.tree.map(jnp.add, x, self.layer.reference(params, x))


@dataclass(frozen=True)
class Passing(Wrapper):
    """(y, c, ...) = (f(x, c, ...), c, ...): what f looks at beside x goes on, for the next layer to look at it again.

        (dx, dc, ...) = fᵀ dy + (0, the cotangent of c, ...)

    f takes a tuple, and y is like x where the same follows again: `Repeat(Passing(f), n)`. `Select(0)` lets go
    of the rest. Keeps what f keeps. Parameters are f's. Raises LayerError for anything but a tuple of two or more.

    >>> net, x = Passing(Add()), (jnp.array([1.0]), jnp.array([10.0]))
    >>> net((), x)
    (Array([11.], dtype=float32), Array([10.], dtype=float32))
    >>> Repeat(net, 3)((), x)
    (Array([31.], dtype=float32), Array([10.], dtype=float32))
    """

    layer: Layer

    def _tuple(self, x, what="x"):
        if not isinstance(x, tuple | list) or len(x) < 2:
            raise LayerError(
                self, f"got {what} {show(x)}; expected a tuple (x, c, ...). For a layer of one input leave out Passing."
            )
        return tuple(x)

    def init(self, key, x, /):
        with at(self):
            return self.layer.init(key, self._tuple(x))

    def forward(self, params, x, /):
        x = self._tuple(x)
        with at(self):
            y, r = self.layer.forward(params, x)
        return (y, *x[1:]), r

    def _down(self, way, params, residuals, dy):
        dy, *above = self._tuple(dy, "the cotangent")
        with at(self):
            (dx, *down), rest = way(params, residuals, dy)
        if len(down) != len(above):
            raise LayerError(
                self,
                f"got {len(above)} cotangents for what goes past; expected {len(down)}. "
                "Pass one for each entry of the output.",
            )

        def both(d, above):  # integers have no error, whatever comes from above
            if d is None:
                return None
            check_cotangent(self, d, above)
            return d + above

        return (dx, *jax.tree.map(both, down, above, is_leaf=lambda d: d is None)), rest

    def reference(self, params, x, /):
        return (self.layer.reference(params, x), *x[1:])


@dataclass(frozen=True)
class TimeDistributed(Wrapper):
    """y = f at every step: the first `axes` axes of x are one batch to f.      dx = the error that f returns, unfolded.

    Keeps what f keeps, and the sizes. Parameters are f's. Shapes: x (b, t, ...), y (b, t, ...).
    `TimeDistributed(Conv(8))` runs on every frame of a film (b, t, n, n, c). x and y may be pytrees of floating arrays
    that share those axes. Raises LayerError where they do not.

    >>> x = jnp.ones((2, 3, 6, 6, 1))
    >>> params = TimeDistributed(Conv(4)).init(jax.random.key(0), x)
    >>> TimeDistributed(Conv(4))(params, x).shape
    (2, 3, 6, 6, 4)
    """

    layer: Layer
    axes: Size = 2

    def _sizes(self, x):
        sizes = {v.shape[: self.axes] for v in jax.tree.leaves(x)}
        if len(sizes) != 1 or len(next(iter(sizes))) != self.axes or self.axes < 1:
            raise LayerError(
                self,
                f"got x {show(x)}; expected arrays (batch, time, ...) that share their first {self.axes} axes. "
                "Add the missing axes with x[:, None].",
            )
        return sizes.pop()

    def _folded(self, x):
        def fold(v):
            shape = (math.prod(v.shape[: self.axes]), *v.shape[self.axes :])
            return jax.ShapeDtypeStruct(shape, v.dtype) if isinstance(v, jax.ShapeDtypeStruct) else v.reshape(shape)

        return jax.tree.map(fold, x)

    def _unfolded(self, y, sizes):
        if any(v.shape[:1] != (math.prod(sizes),) for v in jax.tree.leaves(y)):
            raise LayerError(
                self,
                f"got a layer that makes {show(y)} of a batch of {math.prod(sizes)}; expected it to keep the batch. "
                "Put what reduces it behind TimeDistributed.",
            )
        return jax.tree.map(lambda v: v.reshape(*sizes, *v.shape[1:]), y)

    def init(self, key, x, /):
        self._sizes(x)
        with at(self):
            return self.layer.init(key, self._folded(x))

    def forward(self, params, x, /):
        sizes = self._sizes(x)
        with at(self):
            y, r = self.layer.forward(params, self._folded(x))
        return self._unfolded(y, sizes), (r, Static(sizes))

    def _down(self, way, params, residuals, dy):
        r, sizes = residuals
        with at(self):
            dx, down = way(params, r, self._folded(dy))
        return self._unfolded(dx, sizes.value), down

    def _kept(self, residuals):
        return residuals[0]

    def reference(self, params, x, /):
        return self._unfolded(self.layer.reference(params, self._folded(x)), self._sizes(x))


@dataclass(frozen=True)
class Frozen(Wrapper):
    """y = f(x) with parameters that the loss does not move: all of them in one Buffer. No gradient is computed.

    To freeze a trained layer put its parameters in a Buffer: `Frozen(layer)` takes `Buffer(params)`. f's own buffers
    still advance; `Frozen(f.evaluation())` stops them too.

    With `paths`, patterns as `jbp.labels` has them, the weights that they fit are frozen, and the rest learns. The
    parameters are {"frozen": Buffer of the ones, "trained": the others}, None in each for what is in the other: `split`
    makes them of f's, `merge` gives f's again, and `freeze` does it for a network. Raises LayerError for a path that
    fits nothing.

    >>> net, x = Frozen(Dense(3), ("w",)), jnp.ones((2, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, trainable(params))
    {'frozen': None, 'trained': {'b': (3,), 'w': None}}
    """

    layer: Layer
    paths: tuple[str, ...] | None = None

    def init(self, key, x, /):
        with at(self):
            params = self.layer.init(key, x)
        return Buffer(params) if self.paths is None else self.split(params)

    def split(self, params: Any, /) -> Any:
        """The parameters of this layer around those of f."""
        if self.paths is None:
            return Buffer(params)
        for pattern in self.paths:
            if not any(fits(path, pattern) for path in paths(params)):
                raise LayerError(
                    self,
                    f"got the path {pattern!r}, which fits nothing in {show(trainable(params))}; expected the end of "
                    "one. Look at the parameters with net.layer.init(key, x).",
                )
        return {"frozen": Buffer(self._part(params, True)), "trained": self._part(params, False)}

    def merge(self, params: Any, /) -> Any:
        """f's parameters: those that are frozen among the others."""
        if self.paths is None:
            return self._inside(params)
        if not isinstance(params, dict) or set(params) != {"frozen", "trained"}:
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a dict with 'frozen' and 'trained'. Make them with "
                "net.split(params) of those of the layer inside, or with jbp.freeze.",
            )
        return merge(params["trained"], self._inside(params["frozen"]))

    def _part(self, tree, frozen):
        """What is frozen of f's parameters or of its gradient, or the rest, with None for the other."""
        patterns = self.paths or ()

        def leaf(path, value):
            held = not isinstance(value, Buffer) and any(fits(path, pattern) for pattern in patterns)
            return value if held == frozen else None

        return with_paths(leaf, tree)

    def _inside(self, params):
        if not isinstance(params, Buffer):
            raise LayerError(
                self, f"got parameters {show(params)}; expected them in a Buffer. Write Buffer(params) to freeze them."
            )
        return params.value

    def _inner(self, params):
        return self.merge(params)

    def _outer(self, params):
        return self.split(params)

    def _whole(self, grads):
        return {"frozen": None, "trained": self._part(grads, False)}  # compiled, what is left out is not computed

    def backward(self, params, residuals, dy, /):
        dx, delta = super().backward(params, residuals, dy)
        return dx, () if self.paths is None else delta

    def gradient(self, residuals, delta, /):
        return None if self.paths is None else super().gradient(residuals, delta)

    def pull(self, params, residuals, dy, /):
        if self.paths is None:
            return self.backward(params, residuals, dy)[0], None
        return super().pull(params, residuals, dy)


def freeze(net: Layer, params: Any, where: str | Iterable[str] | Callable[[str, Any], bool]) -> tuple[Frozen, Any]:
    """(net, params) with a part that no longer learns: Frozen(net, paths) and its parameters.

        net, params = jbp.freeze(net, params, ("encoder", "head/b"))
        state = start(net, optimizer, key, x, params=params)

    where are patterns of paths as `jbp.labels` has them, or a function of (path, array). What was frozen so before
    stays frozen. `net.merge(params)` are the parameters of `net.layer`, the network that was.

    >>> net, x = Serial(body=Dense(8), head=Dense(1)), jnp.ones((2, 5))
    >>> net, params = freeze(net, net.init(jax.random.key(0), x), ("body",))
    >>> net
    Frozen(Serial(body=Dense(8), head=Dense(1)), paths=('body',))
    """
    before: tuple[str, ...] = ()
    if isinstance(net, Frozen) and net.paths is not None:
        net, params, before = net.layer, net.merge(params), net.paths
    if callable(where):
        leaves = zip(paths(params), jax.tree.leaves(trainable(params)), strict=True)
        where = [f"/{'/'.join(path)}" for path, leaf in leaves if where("/".join(path), leaf)]
    wanted = (where,) if isinstance(where, str) else tuple(where)
    frozen = Frozen(net, tuple(dict.fromkeys((*before, *wanted))))
    return frozen, frozen.split(params)
