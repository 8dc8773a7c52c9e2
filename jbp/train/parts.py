"""Layers in parts, one on each device: some heads of attention, some features between two linear layers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.combinators import Repeat, Reversible, Serial, Tied, TimeDistributed
from jbp.compose import Wrapper
from jbp.errors import LayerError, show
from jbp.fields import Size
from jbp.keys import Keyed, apart
from jbp.layer import Layer, map_children
from jbp.losses.loss import Loss
from jbp.numerics import Static, is_float
from jbp.params import Buffer, trainable
from jbp.sweep import advancing
from jbp.train.pieces import PARTED, Piece, is_piece, pieces_of, with_buffers


@dataclass(frozen=True)
class Part(Layer):
    """f_d(θ_d, x_d), what device d of `count` along the axis `over` has of f: y = Σ f_d, or y = (f_1|f_2|...).

        whole: x_d = x, dx = Σ dx_d over devices      sums: y = Σ y_d over devices, dy_d = dy

    Inside of `jax.shard_map`. With `whole` every device has all of x and the part of f that `f.part` gives; else it has
    a part of x's features, the last axis. With `sums` every device has all of y; else it has a part of y's features. A
    Dense, what works on each feature by itself, and another Dense need one sum over devices each way, as attention
    does: `whole` is the first of them, `sums` the last, and attention is both.

    A parameter of which f has more is a `Piece`. Any other is that of the first device where y is a sum, such as a
    bias, and else the same on all; so are those of what is `routed`, which is told the number of its device. Each
    device draws numbers of its own. Keeps what f_d keeps. (Shoeybi et al., *Megatron-LM*, 2019, §3.)
    """

    layer: Layer
    over: str
    count: Size
    whole: bool
    sums: bool
    routed: bool = False

    def _part(self, x: Any) -> Any:
        return self.layer.part(self.count, x) if self.whole else self.layer

    def init(self, key, x, /):
        def all_of_it(x):
            return x if self.whole else jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] * self.count), x.dtype)

        def leaf(p, many):
            axis = next((k - p.ndim for k in range(p.ndim) if p.shape[k] != many.shape[k]), None)
            return p if axis is None else Piece(p, axis, many.shape[axis], self.over)

        own = self._part(x).init(key, x)
        return jax.tree.map(leaf, own, jax.eval_shape(self.layer.init, key, jax.tree.map(all_of_it, x)))

    def _first(self, p):
        """p, which is no piece, on the devices where it counts."""
        return jnp.where(lax.axis_index(self.over) == 0, p, 0) if self.sums and not self.routed else p

    def _own(self, params):
        """f_d's parameters."""

        def leaf(p):
            if isinstance(p, Buffer):
                return p
            return p.value if is_piece(p) else self._first(p) if is_float(p) else p

        own = jax.tree.map(leaf, params, is_leaf=lambda p: isinstance(p, Buffer | Piece))
        device = lax.axis_index(self.over)
        return apart(own, device) | {"device": Buffer(device)} if self.routed else apart(own, device)

    def _added(self, cut, grads):
        """The gradients, with those of what is no piece added up over devices."""
        leaves, structure = jax.tree.flatten(grads)
        summed = iter(lax.psum([self._first(g) for g, c in zip(leaves, cut, strict=True) if not c], self.over))
        return structure.unflatten([g if c else next(summed) for g, c in zip(leaves, cut, strict=True)])

    def forward(self, params, x, /):
        part = self._part(x)
        cut = tuple(is_piece(p) for p in jax.tree.leaves(trainable(params), is_leaf=is_piece))
        y, residuals = part.forward(self._own(params), x)
        return lax.psum(y, self.over) if self.sums else y, (residuals, Static((part, cut)))

    def _down(self, dx):
        return lax.psum(dx, self.over) if self.whole else dx

    def backward(self, params, residuals, dy, /):
        residuals, here = residuals
        dx, delta = here.value[0].backward(self._own(params), residuals, dy)
        return self._down(dx), delta

    def gradient(self, residuals, delta, /):
        residuals, here = residuals
        part, cut = here.value
        return self._added(cut, part.gradient(residuals, delta))

    def pull(self, params, residuals, dy, /):
        residuals, here = residuals
        part, cut = here.value
        dx, grads = part.pull(self._own(params), residuals, dy)
        return self._down(dx), self._added(cut, grads)

    def advance(self, params, residuals, /):
        if not advancing(self.layer):
            return params
        plain = jax.tree.map(lambda p: p.value if is_piece(p) else p, params, is_leaf=is_piece)
        return with_buffers(params, residuals[1].value[0].advance(plain, residuals[0]))


def parted(net: Layer, over: str, count: int, tied: tuple[tuple[Any, ...], ...] = ()) -> Layer:
    """The network with `Part` around what can be cut into as many parts: attention, experts, and what lies between a
    layer that makes features and the next that adds them up, of those that stand in a row. What is `tied`, by the paths
    of its parameters, stays whole: a part of it may be no part of the other."""

    def part(layer, *how):
        return Part(layer, over, count, *how)

    if isinstance(net, Tied):
        tied = (*tied, *(path for pair in net.ties for path in pair))
    if isinstance(net, Serial):
        steps = net.names or range(len(net))
        below = [tuple(path[1:] for path in tied if path[:1] in ((), (step,))) for step in steps]
        layers = [parted(layer, over, count, paths) for layer, paths in zip(net.layers, below, strict=True)]
        for first, last in _rows(net.layers, count):
            for k in range(first, last + 1) if not any(below[first : last + 1]) else ():
                layers[k] = part(net.layers[k], k == first, k == last)
        return replace(net, layers=tuple(layers))
    if isinstance(net, (*PARTED, Repeat, Reversible)):
        return map_children(lambda _, child: parted(child, over, count, tied), net)
    if tied or not {"alone", "routed"} & {*net.cuts} or not net.part(count):
        return net
    return part(net, True, True, "routed" in net.cuts)


def _rows(layers: tuple[Layer, ...], count: int) -> Iterator[tuple[int, int]]:
    """The first and last place of each row that begins with features in parts and ends where they are added up."""
    first = None
    for k, layer in enumerate(layers):
        if first is not None and "last" in layer.cuts:
            yield first, k
            first = None
        elif first is None or "between" not in layer.cuts:
            first = k if "first" in layer.cuts and layer.part(count) else None


@dataclass(frozen=True)
class Together(Layer):
    """y = f(x), where each of `count` devices along the axis `over` has its part of the tokens, the second axis.

        enters: x is put together, dx cut      leaves: y is cut, dy put together

    Inside of `jax.shard_map`. Around a `Part` that `enters` or `leaves` a row of them, or both, and around any layer
    that does not take each token by itself: then all devices do the same. Gradients that are the same on all count on
    the first, for what is not cut along the axis is added up over it. Keeps what f keeps. (Korthikanti et al.,
    *Reducing Activation Recomputation in Large Transformer Models*, 2023, §4.2.) Raises LayerError where tokens are not
    on the second axis of all that goes in and comes out, but for single numbers.
    """

    layer: Layer
    over: str
    count: Size
    enters: bool
    leaves: bool

    def _longer(self, x: Any) -> Any:
        """What f is given, in shapes."""
        self._must_have(x)
        if not self.enters:
            return x
        return jax.tree.map(
            lambda v: jax.ShapeDtypeStruct((v.shape[0], v.shape[1] * self.count, *v.shape[2:]), v.dtype), x
        )

    def _must_have(self, x):
        if len({v.shape[1:2] for v in jax.tree.leaves(x) if v.ndim} - {()}) > 1 or any(
            v.ndim == 1 for v in jax.tree.leaves(x)
        ):
            raise LayerError(
                self.layer,
                f"got {show(x)} with sequence=; expected tokens on the second axis of every array. Leave out "
                "sequence=, or what does not belong to single tokens.",
            )

    def _all(self, x):
        return jax.tree.map(lambda v: lax.all_gather(v, self.over, axis=1, tiled=True) if v.ndim else v, x)

    def _mine(self, y):
        """The own part of the tokens."""

        def cut(v):
            n = v.shape[1] // self.count
            return lax.dynamic_slice_in_dim(v, lax.axis_index(self.over) * n, n, 1)

        return jax.tree.map(lambda v: cut(v) if v.ndim else v, y)

    def init(self, key, x, /):
        return self.layer.init(key, self._longer(x))

    def forward(self, params, x, /):
        self._must_have(x)
        leaves = jax.tree.leaves(trainable(params), is_leaf=is_piece)
        cut = tuple(any(piece.over == self.over for piece in pieces_of(p)) for p in leaves)
        y, residuals = self.layer.forward(params, self._all(x) if self.enters else x)
        if self.leaves:
            self._must_have((y, x if not self.enters else self._longer(x)))
            y = self._mine(y)
        return y, (residuals, Static(cut))

    def _came(self, dy):
        """dy of all tokens; of a single number the sum, for each device has used it."""
        if not self.leaves:
            return dy
        return jax.tree.map(lambda d: self._all(d) if d.ndim else lax.psum(d, self.over), dy)

    def _once(self, cut, grads):
        leaves, structure = jax.tree.flatten(grads)
        first = lax.axis_index(self.over) == 0
        return structure.unflatten([g if c else jnp.where(first, g, 0) for g, c in zip(leaves, cut, strict=True)])

    def backward(self, params, residuals, dy, /):
        dx, delta = self.layer.backward(params, residuals[0], self._came(dy))
        return self._mine(dx) if self.enters else dx, delta

    def gradient(self, residuals, delta, /):
        return self._once(residuals[1].value, self.layer.gradient(residuals[0], delta))

    def pull(self, params, residuals, dy, /):
        dx, grads = self.layer.pull(params, residuals[0], self._came(dy))
        return self._mine(dx) if self.enters else dx, self._once(residuals[1].value, grads)

    def advance(self, params, residuals, /):
        return self.layer.advance(params, residuals[0])


@dataclass(frozen=True)
class Apiece(Wrapper):
    """y = f(x) of a layer that takes each token by itself, after a look that features are on an axis beyond them."""

    layer: Layer

    def forward(self, params, x, /):
        if any(v.ndim < 3 for v in jax.tree.leaves(x) if is_float(v)):
            raise LayerError(
                self.layer,
                f"got {show(x)} with sequence=; expected (batch, tokens, features). Leave out sequence=, for what "
                "has no features.",
            )
        return self.layer.forward(params, x)


def by_tokens(net: Layer, over: str, count: int, ring: bool = True) -> Layer:
    """The network, `parted`, with `Together` around what does not take each token by itself.

    Attention, which says "context", is told that it has a part of them, unless the same devices divide its heads, or
    without `ring`: keys go round all devices at once, so none may be doing something else.
    """
    if isinstance(net, Part) and net.over == over:
        return Together(net, over, count, net.whole, net.sums)
    if isinstance(net, (*PARTED, Repeat, Reversible)) and not isinstance(net, TimeDistributed):
        return map_children(lambda _, child: by_tokens(child, over, count, ring), net)
    own: Any = net.layer if isinstance(net, Part) else net
    here = own.context(over, count) if ring and "context" in own.cuts else None
    if here is not None:
        return replace(net, layer=here) if isinstance(net, Part) else here
    if isinstance(own, Keyed) and "tokens" in own.cuts:
        return Part(net, over, count, False, False)  # which draws numbers of its own
    if isinstance(net, Loss):
        return net
    return Apiece(net) if "tokens" in own.cuts else Together(net, over, count, True, True)
