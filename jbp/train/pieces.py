"""Weights in pieces, one on each device: a layer around a layer puts them together where they are used."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.combinators import Frozen, Keep, Passing, Remat, Repeat, Residual, Reversible, Sublayer, Tied, TimeDistributed
from jbp.compose import Several
from jbp.errors import at
from jbp.fields import DType, Size
from jbp.layer import Layer, map_children
from jbp.numerics import Static, after, is_float, wide
from jbp.params import Buffer, cast
from jbp.sweep import advancing, inside


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Piece:
    """A part of an array, or all of it: its axis, counted from the end, is `size` long in the whole, which lies along
    the axis `over` of devices. The value may be a piece of that part."""

    value: Any
    axis: int = field(metadata={"static": True})
    size: int = field(metadata={"static": True})
    over: str = field(metadata={"static": True})


@dataclass(frozen=True)
class Gathered(Layer):
    """y = f(θ, x) with θ in pieces, one on each of `count` devices along the axis `over`: whole where f is at work.

        forward: θ put together, and f      pull: θ put together once more, f's, and of Σ dθ over devices the own piece

    Inside of `jax.shard_map`. The parameters are f's with a `Piece` for each array that is cut, as `init` marks them:
    along the largest axis that `count` divides, the last of several, counted from the end, so that those of a Repeat
    are cut within each time. What f moves on itself is whole. With `dtype` matrices are gathered in it, and f is given
    them so if its input has no floating dtype of its own: an Embedding. Keeps what f keeps. (Rajbhandari et al., *ZeRO:
    Memory Optimizations Toward Training Trillion Parameter Models*, 2020, §5; Zhao et al., *PyTorch FSDP*, 2023.)
    """

    layer: Layer
    over: str
    count: Size
    dtype: DType | None = None

    def _axis(self, shape):
        fits = [(size, axis - len(shape)) for axis, size in enumerate(shape) if size and size % self.count == 0]
        return max(fits)[1] if fits and self.count > 1 else None

    def init(self, key, x, /):
        moves = bool(advancing(self.layer))

        def marked(p):
            axis = self._axis(p.shape) if jnp.issubdtype(p.dtype, jnp.floating) else None
            return p if axis is None else Piece(p, axis, p.shape[axis], self.over)

        def leaf(p):
            return p if moves and isinstance(p, Buffer) else jax.tree.map(marked, p)

        return jax.tree.map(leaf, self.layer.init(key, x), is_leaf=lambda p: isinstance(p, Buffer))

    def narrow(self, x: Any) -> Static:
        """Whether f is given its parameters in `dtype`, for x has none."""
        return Static(self.dtype is not None and not any(map(is_float, jax.tree.leaves(x))))

    def whole(self, params: Any, narrow: Static) -> Any:
        """f's parameters, put together."""

        def leaf(p):
            if not is_piece(p):
                return p
            if p.over != self.over:
                return replace(p, value=leaf(p.value))
            v = p.value
            if v.shape[p.axis] == p.size:
                return v
            low = v.astype(self.dtype or v.dtype) if v.ndim > 1 else v
            return lax.all_gather(low, self.over, axis=v.ndim + p.axis, tiled=True).astype(v.dtype)

        whole = jax.tree.map(leaf, params, is_leaf=is_piece)
        return cast(whole, self.dtype) if narrow.value else whole

    def cut(self, grads: Any) -> Any:
        """Of the sum over devices the own piece."""

        def leaf(g):
            axis = self._axis(g.shape)
            if axis is None:
                return wide(g)
            return lax.psum_scatter(wide(g), self.over, scatter_dimension=g.ndim + axis, tiled=True)

        return jax.tree.map(leaf, grads)

    def forward(self, params, x, /):
        narrow = self.narrow(x)
        y, residuals = self.layer.forward(self.whole(params, narrow), x)
        return y, (residuals, narrow)

    def backward(self, params, residuals, dy, /):
        residuals, narrow = residuals
        return self.layer.backward(self.whole(after(dy, params), narrow), residuals, dy)

    def gradient(self, residuals, delta, /):
        return self.cut(self.layer.gradient(residuals[0], delta))

    def pull(self, params, residuals, dy, /):
        residuals, narrow = residuals
        dx, grads = self.layer.pull(self.whole(after(dy, params), narrow), residuals, dy)
        return dx, self.cut(grads)

    def advance(self, params, residuals, /):
        if not advancing(self.layer):
            return params
        return with_buffers(params, self.layer.advance(self.whole(params, Static(False)), residuals[0]))

    def reference(self, params, x, /):
        return self.layer.reference(self.whole(params, Static(False)), x)


@dataclass(frozen=True)
class Ahead(Layer):
    """Repeat(Gathered(f), n), and while f works with one time's θ, the next time's is put together, in both passes.

        up: y_i = f(θ_i, y_{i-1}) beside gathering θ_{i+1}      down: f's backward pass of dy_i beside gathering θ_{i-1}

    The same numbers, with one block more in memory and a gather more each way, of a time that is not used. What is
    gathered depends on nothing that is computed beside it, so that a compiler may do both at once. Inside of
    `jax.shard_map`; anywhere else it is the Repeat.
    """

    layer: Repeat

    def _one(self, params, i):
        last = self.layer.times - 1
        at_i = partial(lax.dynamic_index_in_dim, index=jnp.clip(i, 0, last), keepdims=False)
        return jax.tree.map(at_i, params)

    def init(self, key, x, /):
        return self.layer.init(key, x)

    def forward(self, params, x, /):
        one: Any = self.layer.layer
        if not _cut(params, one.over):
            return self.layer.forward(params, x)
        narrow, times = one.narrow(x), jnp.arange(self.layer.times)

        def step(carry, i):
            x, whole = carry
            with at(self):
                y, residuals = one.layer.forward(whole, x)
            return (y, one.whole(self._one(params, i + 1), narrow)), (residuals, narrow)

        (y, _), residuals = lax.scan(step, (x, one.whole(self._one(params, 0), narrow)), times)
        return y, residuals

    def backward(self, params, residuals, dy, /):
        return self.layer.backward(params, residuals, dy)

    def gradient(self, residuals, delta, /):
        return self.layer.gradient(residuals, delta)

    def pull(self, params, residuals, dy, /):
        one: Any = self.layer.layer
        if not _cut(params, one.over):
            return self.layer.pull(params, residuals, dy)
        residuals, narrow = residuals
        times = jnp.arange(self.layer.times)

        def step(carry, now):
            (dy, whole), (i, residuals) = carry, now
            with at(self):
                dx, grads = one.layer.pull(whole, residuals, dy)
            return (dx, one.whole(self._one(params, i - 1), narrow)), one.cut(grads)

        first = dy, one.whole(self._one(params, times[-1]), narrow)
        (dx, _), grads = lax.scan(step, first, (times, residuals), reverse=True)
        return dx, grads

    def advance(self, params, residuals, /):
        return self.layer.advance(params, residuals)

    def reference(self, params, x, /):
        return self.layer.reference(params, x)


def _cut(params, over):
    """Whether arrays are in pieces along this axis here."""
    pieces = [piece for leaf in leaves_of(params) for piece in pieces_of(leaf) if piece.over == over]
    return any(jax.tree.leaves(piece)[0].shape[piece.axis] != piece.size for piece in pieces)


PARTED = Several, Residual, Passing, TimeDistributed, Sublayer, Tied, Frozen, Remat, Keep


def gathered(net: Layer, over: str, count: int, dtype: str | None = None, ahead: bool = False) -> Layer:
    """The network with `Gathered` around each layer, around all of what a Repeat repeats together."""
    if isinstance(net, Repeat | Reversible):

        def block(label, child):
            scans = any(isinstance(layer, Repeat | Reversible) for layer in inside(child))
            return gathered(child, over, count, dtype, ahead) if scans else Gathered(child, over, count, dtype)

        wrapped = map_children(block, net)
        blocks = isinstance(wrapped, Repeat) and isinstance(wrapped.layer, Gathered)
        return Ahead(wrapped) if ahead and blocks else wrapped
    if isinstance(net, PARTED):
        return map_children(lambda label, child: gathered(child, over, count, dtype, ahead), net)
    return Gathered(net, over, count, dtype)


def leaves_of(marks: Any) -> list[Any]:
    """The arrays of marked parameters, those that are cut as a Piece."""
    found = jax.tree.leaves(marks, is_leaf=is_piece)
    return [leaf for leaf in found if jax.tree.leaves(leaf)]


def with_buffers(params: Any, moved: Any) -> Any:
    """The parameters, some in pieces, with the Buffers of those that were moved on."""
    held = Piece, Buffer
    return jax.tree.map(
        lambda p, new: new if isinstance(p, Buffer) else p, params, moved, is_leaf=lambda p: isinstance(p, held)
    )


def pieces_of(leaf: Any) -> Iterator[Piece]:
    """An array's pieces, from the outermost in."""
    while is_piece(leaf):
        yield leaf
        leaf = leaf.value


def is_piece(leaf: Any) -> bool:
    """Whether it is a Piece."""
    return isinstance(leaf, Piece)
