"""Each example's part in the gradient, out of one sweep: norms, sums with a weight for each, and no second one.

The network is swept as ever, with an `_Apart` around each layer that has parameters. What that one leaves in the tree
of deltas is a `Delta`: the layer's delta and the squared norm of each example's part, or in place of the delta the
parts themselves, where they are smaller ("mixed ghost clipping", Bu et al., *Scalable and Efficient Training of Large
Convolutional Neural Networks with Differential Privacy*, 2022). So norms and weights travel through every combinator as
deltas do. Since gradients are linear in them, Σ wᵢ gᵢ is the gradient of the weighted deltas (book-keeping: Bu et al.,
*Differentially Private Optimization on Large Model at Small Cost*, 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jbp.alone import mixed
from jbp.combinators import (
    Frozen,
    Graph,
    Keep,
    Parallel,
    Passing,
    Remat,
    Repeat,
    Residual,
    Reversible,
    Serial,
    Sublayer,
    Tied,
)
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.layer import Layer, map_children
from jbp.layers.linear.dense import Dense
from jbp.numerics import Static, floating, outer, scan, wide, wide_dtype
from jbp.readers.norms import between, gradient_of_one, per_example_squared_norms
from jbp.sweep import children, inside, lost, must_be_layer

# Layers of layers that use each parameter once, with the batch in front. What others hold is taken as a whole.
THROUGH = (Serial, Parallel, Graph, Residual, Passing, Keep, Remat, Repeat, Reversible, Sublayer, Frozen)


@dataclass(frozen=True)
class PerExample:
    """What one sweep tells of each example. A pytree, so it may come out of `jit`.

    losses (b,), the loss of each example by itself; norms (b,), those of the gradients of these losses; output, the
    network's; params, with buffers advanced; norms_by_layer, a dict from a layer's path to (b,), (times, b) in Repeat.
    """

    net: Layer
    losses: Any
    output: Any
    params: Any
    residuals: Any
    delta: Any

    @property
    def _nodes(self) -> list["Delta | Group"]:
        return [node for node in jax.tree.leaves(self.delta, is_leaf=_is_node) if _is_node(node)]

    @property
    def norms_by_layer(self) -> dict[str, Any]:
        return {node.path: _root(node.squares) for node in self._nodes}

    @property
    def norms(self) -> Any:
        total = [node.squares.reshape(-1, *self.losses.shape).sum(0) for node in self._nodes]
        return _root(sum(total[1:], total[0])) if total else jnp.zeros_like(wide(self.losses))

    def weighted(self, weights: Any) -> Any:
        """Σ wᵢ gᵢ, shaped like `trainable(params)`. weights (b,), or a function of the norms of each layer (..., b)."""

        def scaled(node):
            return node.scaled(weights(_root(node.squares)) if callable(weights) else weights)

        return self.net.gradient(self.residuals, _map_nodes(scaled, self.delta))

    def squares(self, weights: Any = None) -> Any:
        """Σ wᵢ gᵢ² element by element, a tree like `trainable(params)`, float32 at least. weights (b,), 1 unless given.

        Of a Dense for one row an example it is one product; elsewhere each gᵢ is made and dropped.
        """
        weights = jnp.ones_like(wide(self.losses)) if weights is None else weights

        def squared(node):
            return _Squared(node, jnp.broadcast_to(weights, node.squares.shape))

        return self.net.gradient(self.residuals, _map_nodes(squared, self.delta))


jax.tree_util.register_dataclass(
    PerExample, data_fields=["losses", "output", "params", "residuals", "delta"], meta_fields=["net"]
)


def per_example(net: Layer, loss: Layer) -> Callable[..., PerExample]:
    """f(params, x, *targets) -> PerExample: losses and gradient norms of all examples, from one sweep.

        found = per_example(net, loss)(params, x, label)
        found.losses, found.norms                                          # (b,), (b,)
        found.weighted(jnp.minimum(1, clip / found.norms))                 # Σ wᵢ gᵢ: each clipped, then added
        found.weighted(jnp.ones(b) / b)                                    # the ordinary gradient of the mean

    Examples are on the first axis of every array of x and targets. gᵢ is the gradient of the loss of example i by
    itself, loss(net(x[i:i+1]), target[i:i+1]), so nothing that a loss counts in a batch joins them. No gᵢ is made where
    that is dear: for an affine layer ‖gᵢ‖² is had from products of its rows. A layer without a rule
    (`per_example_squared_norms`) has each gᵢ made and dropped: right, and slower. Weights used in several places (Tied,
    Recurrent, TimeDistributed) have their cross terms.

    Raises LayerError, with the path, for a layer that mixes the examples: BatchNorm, a softmax over the first axis.

    >>> net, x = Dense(1, bias=False), jnp.array([[1.0, 0.0], [3.0, 4.0]])
    >>> params = {"w": jnp.zeros((2, 1))}
    >>> found = jbp.readers.per_example(net, MeanAbsoluteError())(params, x, jnp.ones((2, 1)))
    >>> found.norms
    Array([1., 5.], dtype=float32)
    >>> found.weighted(1 / found.norms)["w"].ravel()
    Array([-1.6, -0.8], dtype=float32)
    """
    must_be_layer("net", net)
    must_be_layer("loss", loss)
    must_not_couple(loss)

    def f(params, x, *targets):
        _batch(net, (x, *targets))
        return swept(net, params, x, lambda output: own_losses(loss, output, *targets))

    return f


def swept(net: Layer, params: Any, x: Any, down: Callable[[Any], tuple[Any, Any]]) -> PerExample:
    """`per_example` for any function from the output to the examples' losses (b,) and the cotangent of their sum."""
    marked = _marked(net, _batch(net, x))
    output, residuals = marked.forward(params, x)
    losses, dy = down(output)
    _, delta = marked.backward(params, residuals, dy)
    return PerExample(marked, losses, output, marked.advance(params, residuals), residuals, delta)


def per_example_gradients(net: Layer, loss: Layer) -> Callable[..., Any]:
    """f(params, x, *targets) -> (losses (b,), the gradient of each example's own loss: leaves (b, ...)).

    The sweep of each example by itself, with memory for b times the parameters: ask `per_example` for norms and sums.

    >>> net, x = Dense(1, bias=False), jnp.array([[1.0, 0.0], [3.0, 4.0]])
    >>> losses, grads = jbp.readers.per_example_gradients(net, MeanAbsoluteError())(
    ...     {"w": jnp.zeros((2, 1))}, x, jnp.ones((2, 1))
    ... )
    >>> grads["w"].shape
    (2, 2, 1)
    """
    must_be_layer("net", net)
    must_be_layer("loss", loss)
    for layer in (net, loss):
        must_not_couple(layer)

    def f(params, x, *targets):
        _batch(net, (x, *targets))

        def one(x, *targets):
            output, residuals = net.forward(params, _one(x))
            value, dy = lost(loss, output, *_one(targets))
            return value, net.pull(params, residuals, dy)[1]

        return jax.vmap(one)(x, *targets)

    return f


def own_losses(loss: Layer, output: Any, *targets: Any) -> tuple[Any, Any]:
    """(the loss of each example by itself, (b,), what it sends down for the output)."""

    def one(output, *targets):
        value, dy = lost(loss, _one(output), *_one(targets))
        return value, jax.tree.map(lambda d: d[0], dy)

    return jax.vmap(one)(output, *targets)


def _one(tree):
    """A batch of one."""
    return jax.tree.map(lambda a: a[None], tree)


def _batch(net, batch):
    """How many examples there are, after a check that all arrays have as many."""
    found = [jnp.shape(a)[:1] for a in jax.tree.leaves(batch)]
    if not found or len({*found}) > 1 or () in found:
        raise LayerError(
            net,
            f"got a batch {show(batch)}; expected the examples on the first axis of every array, as many in each. "
            "Write x[None] for one example, and jnp.broadcast_to for what all of them share.",
        )
    return found[0][0]


def must_not_couple(layer):
    """An error if a layer, or one inside, takes the examples of a batch together."""
    if layer.singly:
        return
    what, (_, *below) = layer.couples, inside(layer)
    if what and not below:
        raise LayerError(
            layer,
            f"got a layer whose examples have no gradient each by itself: {what}; expected one that treats them apart. "
            "Put a norm over features or groups in its place, or a loss of each example.",
        )
    for label, child in children(layer) or [("", child) for child in below]:
        with at(layer, label):
            must_not_couple(child)


def _marked(layer: Layer, b: int, path: str = "") -> Layer:
    """The layer with an `_Apart` around each that has its parameters to itself."""
    if isinstance(layer, THROUGH) and not (isinstance(layer, Frozen) and layer.paths is not None):

        def below(label, child):
            with at(layer, label):
                return _marked(child, b, f"{path}{label}")

        return map_children(below, layer)
    must_not_couple(layer)
    if isinstance(layer, Tied) and all(_found(layer.layer, p) for pair in layer.ties for p in pair):
        with at(layer):
            return _Shared(replace(layer, layer=_marked(layer.layer, b, path)), path)
    return _Apart(layer, b, path)


@partial(jax.tree_util.register_dataclass, data_fields=["value", "squares", "parts"], meta_fields=["axes", "path"])
@dataclass(frozen=True)
class Delta:
    """A layer's delta, with the squared norms of each example's part of the gradient, (b,).

    `parts`, if not None, are these parts in place of the delta, leaves (b, ...); `axes` say where each leaf of the
    delta has the examples, from the end.
    """

    value: Any
    squares: Any
    parts: Any
    axes: tuple[int | None, ...]
    path: str

    def scaled(self, weights: Any) -> "Delta | _Total":
        """That of examples with a weight each, (b,), or (..., b) where combinators have stacked deltas."""
        weights = jnp.broadcast_to(weights, self.squares.shape)
        stack, b = weights.shape[:-1], weights.shape[-1]
        if self.parts is None:

            def times(d, axis):
                ones = [1] * (d.ndim - len(stack) + axis), [1] * (-axis - 1)
                return d * weights.reshape(*stack, *ones[0], b, *ones[1]).astype(d.dtype)

            leaves, tree = jax.tree.flatten(self.value)
            return replace(self, value=tree.unflatten(map(times, leaves, self.axes)))

        def total(w, parts):
            return jax.tree.map(lambda g: jnp.tensordot(w.astype(g.dtype), g, 1), parts)

        for _ in stack:
            total = jax.vmap(total)
        return _Total(total(weights, self.parts))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Total:
    """The weighted sum of the examples' parts of a gradient."""

    value: Any


@partial(jax.tree_util.register_dataclass, data_fields=["value", "squares"], meta_fields=["path"])
@dataclass(frozen=True)
class Group:
    """A tree of deltas of layers that share parameters, with the squared norms of all together."""

    value: Any
    squares: Any
    path: str

    def scaled(self, weights: Any) -> "Group":
        """As of Delta."""
        return replace(self, value=_map_nodes(lambda node: node.scaled(weights), self.value))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Squared:
    """A node that stands for the weighted sum of the squares of the examples' parts, with a weight for each."""

    node: Any
    weights: Any


def _is_node(node):
    return isinstance(node, Delta | Group)


def _map_nodes(f, tree):
    return jax.tree.map(lambda node: f(node) if _is_node(node) else node, tree, is_leaf=_is_node)


@partial(jax.tree_util.register_dataclass, data_fields=["value", "same"], meta_fields=["axes", "delta_axes", "learns"])
@dataclass(frozen=True)
class _Kept:
    """A layer's residuals, and where these and its delta have the examples, for each leaf an axis from the end or None.

    Both are None for a layer that ran for each example by itself, whose arrays all begin with the examples; `same`
    tells which outputs did so before. `learns` tells whether it has parameters that are trained.
    """

    value: Any
    axes: tuple[int | None, ...] | None = ()
    delta_axes: tuple[int | None, ...] | None = ()
    same: Any = None
    learns: bool = True


@dataclass(frozen=True, repr=False)
class _Apart(Wrapper):
    """A layer that measures, in the backward pass, each example's part of its gradient."""

    layer: Layer
    batch: int
    path: str

    def __repr__(self):
        return repr(self.layer)

    def forward(self, params, x, /):
        leaves, tree = jax.tree.flatten(x)
        if not all(map(self._begins, leaves)):
            raise self._mixed(x)
        self._must_leave(x)
        longer = [jax.ShapeDtypeStruct((self.batch + 1, *a.shape[1:]), a.dtype) for a in leaves]
        y, kept = jax.eval_shape(self.layer.forward, params, x)
        try:
            more, kept_more = jax.eval_shape(self.layer.forward, params, tree.unflatten(longer))
        except LayerError as error:  # the examples are what it takes for something else
            raise self._mixed(x) from error
        pairs = zip(jax.tree.leaves(y), jax.tree.leaves(more), strict=True)
        if any(not self._begins(a) or a.shape[0] + 1 != b.shape[0] for a, b in pairs) and not self.layer.singly:
            raise self._mixed(x)
        (_, delta), (_, delta_more) = (
            jax.eval_shape(self.layer.backward, params, r, floating(v)) for r, v in ((kept, y), (kept_more, more))
        )
        learns = bool(jax.tree.leaves(jax.eval_shape(self.layer.gradient, kept, delta)))
        axes, delta_axes = (_differing(kept, kept_more), _differing(delta, delta_more)) if learns else ((), ())
        if (
            axes is not None
            and delta_axes is not None
            and None not in delta_axes
            and not (learns and self.layer.singly)
        ):
            y, residuals = self.layer.forward(params, x)
            return y, _Kept(residuals, axes, delta_axes, learns=learns)
        same = jax.tree.map(self._begins, y)  # not so what a layer says of the batch: each example has its own

        def one(x):
            y, residuals = self.layer.forward(params, _one(x))
            return jax.tree.map(lambda v, begins: v[0] if begins else v, y, same), residuals

        y, residuals = jax.vmap(one)(x)
        return y, _Kept(residuals, None, None, Static(same))

    def _begins(self, a):
        return a.shape[:1] == (self.batch,)

    def _must_leave(self, x):
        """An error if an option makes it read along the first axis."""
        leaves = jax.tree.leaves(x)
        rank = leaves[0].ndim if leaves else 0
        if any(axis % max(rank, 1) == 0 for axis in self.layer.reads):
            raise self._mixed(x)

    def _mixed(self, x):
        return mixed(self.layer, show(x))

    def backward(self, params, kept, dy, /):
        if kept.axes is None:

            def one(r, dy):
                dy = jax.tree.map(lambda begins, d: d[None] if begins else d, kept.same.value, dy)
                dx, delta = self.layer.backward(params, r, dy)
                return jax.tree.map(lambda d: d[0], dx), delta

            dx, delta = jax.vmap(one)(kept.value, dy)
        else:
            dx, delta = self.layer.backward(params, kept.value, dy)
        if not kept.learns:
            return dx, delta
        gradient, arrays = self._singly(kept, delta)
        one = jax.eval_shape(gradient, [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in arrays])
        whole = self.batch * sum(g.size for g in jax.tree.leaves(one))
        small = whole <= sum(a.size for a in arrays)
        squares = None if small or kept.axes is None else per_example_squared_norms(self.layer, kept.value, delta)
        if squares is None and (small or whole <= _DEAR):
            parts = self._each(gradient, arrays)
            squares = _plus(jnp.square(wide(g)).sum(range(1, g.ndim)) for g in jax.tree.leaves(parts))
            return dx, Delta(None, squares, parts, (), self.path)
        if squares is None:
            squares = jax.lax.map(lambda now: _plus(map(_square, jax.tree.leaves(gradient(now)))), arrays)
        axes = kept.delta_axes or tuple(-d.ndim for d in jax.tree.leaves(delta))
        return dx, Delta(delta, squares, None, axes, self.path)

    def _singly(self, kept, delta):
        """(the gradient of one example out of its arrays, the arrays of all examples, these first)."""
        leaves, tree = jax.tree.flatten((kept.value, delta))
        axes = [0] * len(leaves) if kept.axes is None else [*kept.axes, *(kept.delta_axes or ())]
        arrays = [jnp.moveaxis(a, axis, 0) for a, axis in zip(leaves, axes, strict=True) if axis is not None]

        def gradient(now):
            each = iter(now)
            one = [a if axis is None else next(each) for a, axis in zip(leaves, axes, strict=True)]
            if kept.axes is not None:
                one = [a if axis is None else jnp.expand_dims(a, axis) for a, axis in zip(one, axes, strict=True)]
            return gradient_of_one(self.layer, *tree.unflatten(one))

        return gradient, arrays

    def parts(self, kept: _Kept, node: Delta) -> Any:
        """Each example's part of the gradient, leaves (b, ...)."""
        if node.parts is not None:
            return node.parts
        return self._each(*self._singly(kept, node.value))

    def _each(self, gradient, arrays):
        """The gradients of all examples; on CPUs those of a rule one after the other, for its scratch is large."""
        if gradient_of_one.dispatch(type(self.layer)) is gradient_of_one.dispatch(Layer):
            return jax.vmap(gradient)(arrays)
        return jax.lax.platform_dependent(arrays, cpu=partial(jax.lax.map, gradient), default=jax.vmap(gradient))

    def _squared(self, kept, delta):
        node, weights = delta.node, wide(delta.weights)
        if node.parts is not None:
            return jax.tree.map(lambda g: jnp.tensordot(weights.astype(wide(g).dtype), wide(g) ** 2, 1), node.parts)
        if isinstance(self.layer, Dense) and kept.axes is not None and kept.value.ndim == 2:  # (Σ x dy)² is x² dy²
            x, dy = (jnp.square(wide(v)) for v in (kept.value, node.value))
            dy = weights[:, None].astype(dy.dtype) * dy
            return {"w": outer(x, dy), "b": dy.sum(0)} if self.layer.bias else {"w": outer(x, dy)}
        gradient, arrays = self._singly(kept, node.value)
        return _added(gradient, arrays, weights)

    def gradient(self, kept, delta, /):
        if isinstance(delta, _Squared):
            return self._squared(kept, delta)
        if isinstance(delta, _Total):
            return delta.value
        if not isinstance(delta, Delta):
            return self.layer.gradient(kept.value, delta)
        if delta.parts is not None:
            return jax.tree.map(lambda g: g.sum(0), delta.parts)
        if kept.axes is not None:
            return self.layer.gradient(kept.value, delta.value)

        def add(total, now):
            return jax.tree.map(jnp.add, total, self.layer.gradient(*now)), None

        first = jax.tree.map(lambda a: a[0], (kept.value, delta.value))
        zero = jax.tree.map(lambda g: jnp.zeros(g.shape, g.dtype), jax.eval_shape(self.layer.gradient, *first))
        return scan(add, zero, (kept.value, delta.value), length=self.batch)[0]

    def pull(self, params, kept, dy, /):
        return Layer.pull(self, params, kept, dy)

    def advance(self, params, kept, /):
        residuals = kept.value if kept.axes is not None else jax.tree.map(lambda a: a[0], kept.value)
        return self.layer.advance(params, residuals)


@dataclass(frozen=True, repr=False)
class _Shared(Wrapper):
    """A Tied of layers that are apart: ‖g + h‖² = ‖g‖² + ‖h‖² + 2 g·h where two places have one parameter."""

    layer: Layer
    path: str

    def __repr__(self):
        return repr(self.layer)

    def backward(self, params, residuals, dy, /):
        tied: Any = self.layer
        dx, delta = tied.backward(params, residuals, dy)
        nodes = [node for node in jax.tree.leaves(delta, is_leaf=_is_node) if _is_node(node)]
        if not nodes:  # nothing inside is trained
            return dx, delta
        squares = [node.squares.reshape(-1, node.squares.shape[-1]).sum(0) for node in nodes]
        places: dict[Any, list[Any]] = {}
        for source, place in tied.ties:
            places.setdefault(source, [source]).append(place)
        for group in places.values():
            found = [_look(tied.layer, residuals, delta, path) for path in group]
            for i, a in enumerate(found):
                for b in found[:i]:
                    if _is_node(a[2]) and _is_node(b[2]):  # a layer without parameters has nothing to share
                        squares.append(2 * _inner(a, b))
        return dx, Group(delta, _plus(squares), self.path)

    def gradient(self, residuals, delta, /):
        if isinstance(delta, _Squared):
            whole = delta.node
            each = jnp.eye(delta.weights.shape[0], dtype=whole.squares.dtype)  # one example alone, and then the next
            return _added(lambda only: self.layer.gradient(residuals, whole.scaled(only).value), each, delta.weights)
        return self.layer.gradient(residuals, delta.value if _is_node(delta) else delta)

    def pull(self, params, residuals, dy, /):
        return Layer.pull(self, params, residuals, dy)


def _added(gradient: Callable[[Any], Any], each: Any, weights: Any) -> Any:
    """Σ w gradient(now)² over what is in `each`, one after the other."""

    def add(total, now):
        now, w = now
        return jax.tree.map(lambda t, g: t + w.astype(t.dtype) * wide(g) ** 2, total, gradient(now)), None

    first = jax.eval_shape(gradient, jax.tree.map(lambda a: a[0], each))
    zero = jax.tree.map(lambda g: jnp.zeros(g.shape, wide_dtype(g.dtype)), first)
    return scan(add, zero, (each, weights))[0]


def _found(layer: Layer, path: Any) -> bool:
    """Whether `_look` finds what is at a path of the parameters."""
    if isinstance(layer, Serial | Parallel | Graph):
        return bool(path) and _found(layer[path[0]], path[1:])
    if isinstance(layer, Residual | Passing):
        return _found(layer.layer, path)
    return not isinstance(layer, THROUGH)


def _look(layer: Any, residuals: Any, delta: Any, path: Any) -> Any:
    """(the layer, its residuals, its delta, the rest of the path) for a path of the parameters."""
    while isinstance(layer, Serial | Parallel | Graph | Residual | Passing):
        if isinstance(layer, Residual | Passing):
            layer = layer.layer
        else:
            layer, residuals, delta, path = layer[path[0]], residuals[path[0]], delta[path[0]], path[1:]
    return layer, residuals, delta, path


def _inner(one: Any, other: Any) -> Any:
    """g·h of each example, for what two layers have at their paths."""
    (f, r, d, path), (g, s, e, place) = one, other
    if len(path) == len(place) == 1 and d.parts is None and e.parts is None:
        cheap = between(f.layer, r.value, d.value, g.layer, s.value, e.value)
        if cheap is not None:
            return cheap
    parts = [f.parts(r, d), g.parts(s, e)]
    for i, steps in enumerate((path, place)):
        for step in steps:
            parts[i] = parts[i][step]
    products = jax.tree.map(lambda a, b: (wide(a) * wide(b)).sum(range(1, a.ndim)), *parts)
    return _plus(jax.tree.leaves(products))


def _differing(tree: Any, more: Any) -> tuple[int | None, ...] | None:
    """For each leaf the axis, from the end, that has one example more in `more`; None if they do not tell."""
    if jax.tree.structure(tree) != jax.tree.structure(more):
        return None
    found = []
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(more), strict=True):
        if len(a.shape) != len(b.shape):
            return None
        axes = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
        if len(axes) > 1 or any(b.shape[i] != a.shape[i] + 1 for i in axes):
            return None
        found.append(axes[0] - len(a.shape) if axes else None)
    return tuple(found)


def _root(squares):
    return jnp.sqrt(jnp.maximum(squares, 0))  # cross terms may leave a little less than nothing


def _square(g):
    return jnp.square(wide(g)).sum()


def _plus(terms: Any) -> Any:
    first, *rest = terms
    return sum(rest, first)


_DEAR = 1 << 16  # numbers in the gradients of all examples: as many are made at once, more one after the other
