"""Per-example gradient norms, out of residuals and deltas: the gradient of no example is ever made where that is dear.

For an affine layer the gradient of example i is G_i = Σ_t x_t dy_tᵀ over its tokens t, and

    ‖G_i‖² = Σ_{t,s} (x_t · x_s)(dy_t · dy_s) = Σ ((X_i X_iᵀ) ∘ (dY_i dY_iᵀ)),    ‖x_i‖² ‖dy_i‖² for one token

(Goodfellow, *Efficient Per-Example Gradient Computations*, 2015; Li et al., *Large Language Models Can Be Strong
Differentially Private Learners*, 2022, §4: "ghost norms").
"""

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp

from jbp.combinators import Frozen, Graph, Parallel, Passing, Remat, Repeat, Residual, Reversible, Serial, Sublayer
from jbp.errors import LayerError, at, check_cotangent, show
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Elementwise
from jbp.layers.activation.gated import Gated, GatedDense, Maxout
from jbp.layers.activation.piecewise import PReLU, RReLU
from jbp.layers.activation.softmax import LogSoftmax, Softmax
from jbp.layers.attention.linear import LinearAttention
from jbp.layers.attention.memory import MemoryHop
from jbp.layers.attention.multihead import MultiHeadAttention
from jbp.layers.attention.rotary import Rotary
from jbp.layers.conv.convolution import Conv
from jbp.layers.conv.transpose import ConvTranspose
from jbp.layers.distance import CosineSimilarity, PairwiseDistance
from jbp.layers.embedding import Embedding, FrequencyScaledEmbedding, Positions
from jbp.layers.linear.dense import Dense, Logits
from jbp.layers.linear.lowrank import Bilinear, LoRA, LowRank
from jbp.layers.norm.batch import BatchNormInference
from jbp.layers.norm.features import LayerNorm, RMSNorm, UnitNorm
from jbp.layers.norm.groups import GroupNorm, InstanceNorm
from jbp.layers.norm.response import LocalResponseNorm
from jbp.layers.pool.average import AdaptiveAveragePool, AveragePool, GlobalAveragePool, LPPool
from jbp.layers.pool.fractional import FractionalMaxPool
from jbp.layers.pool.maximum import AdaptiveMaxPool, GlobalMaxPool, MaxPool, MaxUnpool
from jbp.layers.recurrent.bidirectional import Bidirectional
from jbp.layers.recurrent.cell import Recurrent
from jbp.layers.recurrent.elman import Elman, ElmanCell
from jbp.layers.recurrent.gru import GRU, GRUCell, MinimalGRU, MinimalGRUCell
from jbp.layers.recurrent.lengths import Lengths
from jbp.layers.recurrent.lstm import LSTM, LSTMCell
from jbp.layers.recurrent.stack import Stack
from jbp.layers.recurrent.tree import Recursive
from jbp.layers.statespace import DiagonalStateSpace, SelectiveStateSpace
from jbp.layers.stochastic.dropout import Dropout, DropoutInference
from jbp.layers.structure.join import Add, Concatenate, FanOut, Identity
from jbp.layers.structure.move import ExpandDims, Flatten, Reshape, Select, Squeeze, Take, Unflatten
from jbp.layers.structure.pad import Pad
from jbp.layers.structure.patches import ChannelShuffle, Fold, PixelShuffle, PixelUnshuffle, Unfold
from jbp.layers.structure.resize import Resize, Upsample
from jbp.numerics import time_first, wide
from jbp.sweep import children, must_be_layer, must_be_scalar


def deltas(net: Layer, loss: Layer) -> Any:
    """f(params, x, target) -> (value, residuals, delta): a sweep that stops before the gradients (B without W).

    >>> net, x = Serial(Dense(4), Tanh(), Dense(1)), jnp.ones((3, 2))
    >>> params = net.init(jax.random.key(0), x)
    >>> value, residuals, delta = jbp.readers.deltas(net, MeanSquaredError())(params, x, jnp.zeros((3, 1)))
    >>> jax.tree.map(jnp.shape, delta)
    ((3, 4), (), (3, 1))
    """

    must_be_layer("net", net)
    must_be_layer("loss", loss)

    def f(params, x, *target):
        output, residuals = net.forward(params, x)
        value, kept = loss.forward((), (output, *target))
        must_be_scalar(loss, value)
        (dy, *_), _ = loss.backward((), kept, jnp.ones((), value.dtype))
        check_cotangent(loss, output, dy)
        return value, residuals, net.backward(params, residuals, dy)[1]

    return f


@singledispatch
def per_example_squared_norms(layer: Layer, residuals: Any, delta: Any, /) -> Any:
    """‖g_i‖² (b,) for each example of the batch, g_i its part of the gradient of all parameters of the layer.

    residuals and delta are those of one sweep with the batch on the first axis of x, as `deltas` gives them. If the
    loss is a mean over b examples, so is the gradient, Σ g_i: multiply by b² for the norms of the examples' own
    losses. () of zero where there are no parameters. Exact for networks that treat each example by itself; each time a
    Repeat or a Serial has its own parameters, their squared norms add.

    A layer type of your own joins with `@per_example_squared_norms.register`. Raises LayerError, naming the layer, for
    a type that has not joined: BatchNorm mixes the examples, Tied would need the products between its places.

    >>> net, x = Dense(1, bias=False), jnp.array([[1.0, 0.0], [3.0, 4.0]])
    >>> params = {"w": jnp.zeros((2, 1))}
    >>> value, residuals, delta = jbp.readers.deltas(net, Sum(MeanAbsoluteError()))(params, x, jnp.ones((2, 1)))
    >>> jbp.readers.per_example_squared_norms(net, residuals, delta)
    Array([ 1., 25.], dtype=float32)
    """
    raise LayerError(
        layer,
        f"got no rule for the per-example norms of {type(layer).__name__}; expected one. "
        f"Register it: @per_example_squared_norms.register, def _(layer: {type(layer).__name__}, residuals, delta, /).",
    )


_norms = per_example_squared_norms


def _register(*types):
    def with_rule(rule):
        for each in types:
            _norms.register(each)(rule)
        return rule

    return with_rule


def _square(g):
    """The squared norms of an array's rows: the sum over all axes but the first."""
    return jnp.square(wide(g)).sum(range(1, g.ndim))


def _outer(x, dy):
    """‖Σ_t x_t dy_tᵀ‖² for each example, x (b, t, i), dy (b, t, o): through t×t products or i×o, if fewer."""
    x, dy = wide(x), wide(dy)
    (_, t, i), o = x.shape, dy.shape[-1]
    if t * (i + o) <= i * o:
        return (jnp.einsum("bti,bsi->bts", x, x) * jnp.einsum("bto,bso->bts", dy, dy)).sum((1, 2))
    return _square(jnp.einsum("bti,bto->bio", x, dy))


def _tokens(layer, x):
    """(b, ..., f) as (b, t, f)."""
    if x.ndim < 2:
        raise LayerError(layer, f"got x {show(x)}; expected a batch on its first axis. Give x[None] for one example.")
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _each(layer, residuals, delta, axes=(0, 0)):
    """One example's gradient at a time. `axes` says where residuals and delta have the batch, as vmap's in_axes do."""
    if not jax.tree.leaves(jax.eval_shape(layer.gradient, residuals, delta)):  # a norm without its affine part
        return jnp.zeros(())

    def changed(change, trees):
        return jax.tree.map(lambda axis, tree: jax.tree.map(lambda a: change(a, axis), tree), axes, trees)

    def one(now):
        residuals, delta = changed(jnp.expand_dims, now)
        return sum(_square(g[None])[0] for g in jax.tree.leaves(layer.gradient(residuals, delta)))

    return jax.lax.map(one, changed(lambda a, axis: jnp.moveaxis(a, axis, 0), (residuals, delta)))


@_register(Elementwise, RReLU, Gated, Maxout, Softmax, LogSoftmax, UnitNorm, LocalResponseNorm)
@_register(Dropout, DropoutInference)
@_register(MaxPool, AdaptiveMaxPool, FractionalMaxPool, GlobalMaxPool, MaxUnpool)
@_register(AveragePool, AdaptiveAveragePool, GlobalAveragePool, LPPool)
@_register(CosineSimilarity, PairwiseDistance)
@_register(Identity, FanOut, Add, Concatenate, Rotary, Flatten, Unflatten, Reshape, Take, Select, Squeeze, ExpandDims)
@_register(Pad, Upsample, Resize, Unfold, Fold, PixelShuffle, PixelUnshuffle, ChannelShuffle)
def _(layer, residuals, delta, /):
    _must_leave_the_batch(layer, residuals)
    return jnp.zeros(())


# (axes that a layer reads along, how many axes its input has) by layer and residuals: one of them may be the batch
_ALONG = {
    Softmax: lambda f, y: ([f.axis], y.ndim),
    LogSoftmax: lambda f, y: ([f.axis], y.ndim),
    Gated: lambda f, x: ([f.axis], x.ndim),
    LayerNorm: lambda f, kept: (range(-f.axes, 0), kept[0].ndim),
    RMSNorm: lambda f, kept: (range(-f.axes, 0), kept[0].ndim),
    Positions: lambda f, dy: ([-2], dy.ndim),
    UnitNorm: lambda f, kept: ([-1], kept[0].ndim),
    Rotary: lambda f, shape: ([-2], len(shape.value)),
    Concatenate: lambda f, kept: ([f.axis], kept.value[2]),
    Flatten: lambda f, shape: ([f.start], len(shape.value)),
    Unflatten: lambda f, shape: ([f.axis], len(shape.value)),
    Take: lambda f, shape: ([f.axis], len(shape.value)),
    Squeeze: lambda f, shape: ([f.axis], len(shape.value)),
    ExpandDims: lambda f, shape: ([f.axis], len(shape.value) + 1),
}


def _must_leave_the_batch(layer, residuals):
    """A LayerError where an option makes the layer work along the first axis, or move it."""
    for kind in type(layer).__mro__:
        if kind in _ALONG:
            axes, rank = _ALONG[kind](layer, residuals)
            if any(axis % max(rank, 1) == 0 for axis in axes):
                raise LayerError(
                    layer,
                    f"got an input of {rank} axes, of which it mixes or moves the first; expected the examples there, "
                    "each by itself. Choose another axis, or put the examples first again.",
                )
            return


@_register(Frozen)
def _(layer, residuals, delta, /):
    def check(net, residuals):  # though there is nothing to measure, a layer inside may mix the examples
        inside = children(net)
        parts: Any = [None] * len(inside)  # where residuals lie in another way, options are not looked at
        if isinstance(net, Serial | Parallel | Graph):
            parts = net.parts(residuals, "residuals")
        elif isinstance(net, Residual | Passing | Frozen):
            parts = [residuals]
        for (label, child), kept in zip(inside, parts, strict=True):
            with at(net, label):
                check(child, kept)
        if not inside and _norms.dispatch(type(net)) is _norms.dispatch(Layer):
            _norms.dispatch(Layer)(net, (), ())
        if residuals is not None:
            _must_leave_the_batch(net, residuals)

    if layer.paths is not None:  # of one layer it would be some of the weights
        _norms.dispatch(Layer)(layer, (), ())
    check(layer, residuals)
    return jnp.zeros(())


@_register(Serial, Parallel, Graph)
def _(layer, residuals, delta, /):
    total = jnp.zeros(())
    parts = zip(layer.layers, layer.parts(residuals, "residuals"), layer.parts(delta, "delta"), strict=True)
    for i, (child, r, d) in enumerate(parts):
        with at(layer, layer.label(i)):
            total = _plus(total, _norms(child, r, d))
    return total


def _plus(a, b):
    """The sum of two results, of which () means nothing to add."""
    return b if a.shape == () else a if b.shape == () else a + b


@_register(Residual, Passing)
def _(layer, residuals, delta, /):
    with at(layer):
        return _norms(layer.layer, residuals, delta)


@_register(Sublayer)
def _(layer, residuals, delta, /):
    with at(layer):
        return _norms(layer.layer, residuals[0], delta)


@_register(Remat)
def _(layer, residuals, delta, /):
    with at(layer):
        return _norms(layer.layer, *delta)


@_register(Repeat)
def _(layer, residuals, delta, /):
    with at(layer):
        _, each = jax.lax.scan(lambda _, now: (None, _norms(layer.layer, *now)), None, (residuals, delta), layer.times)
    return each.sum(0)


@_register(Reversible)
def _(layer, residuals, delta, /):
    def each(_, deltas):
        total = jnp.zeros(())
        for i, (child, d) in enumerate(zip(layer.layers, deltas, strict=True)):
            with at(layer, f"[{i}]"):
                total = _plus(total, _norms(child, *d))
        return None, total

    return each(None, delta)[1] if layer.times is None else jax.lax.scan(each, None, delta)[1].sum(0)


@_register(Dense, Logits)
def _(layer, x, dy, /):
    x, dy = _tokens(layer, x), _tokens(layer, dy)
    w = _square(x[:, 0]) * _square(dy[:, 0]) if x.shape[1] == 1 else _outer(x, dy)
    return w + _square(dy.sum(1)) if getattr(layer, "bias", False) else w


@_register(GatedDense)
def _(layer, residuals, dz, /):
    return _norms(Dense(2 * layer.features, layer.bias), residuals[0], dz)


@_register(
    Conv,
    ConvTranspose,
    LowRank,
    LoRA,
    Bilinear,
    MemoryHop,
    PReLU,
    LayerNorm,
    RMSNorm,
    GroupNorm,
    InstanceNorm,
    BatchNormInference,
)
def _(layer, residuals, delta, /):
    _must_leave_the_batch(layer, residuals)
    return _each(layer, residuals, delta)


@_register(Embedding)
def _(layer, ids, dy, /):
    dy = _tokens(layer, wide(dy))
    ids = jnp.where((ids >= 0) & (ids < layer.vocabulary), ids, -1).reshape(dy.shape[:2])
    same = (ids[:, :, None] == ids[:, None]) & (ids >= 0)[:, :, None]
    return jnp.where(same, jnp.einsum("btf,bsf->bts", dy, dy), 0).sum((1, 2))


_register(FrequencyScaledEmbedding)(_norms.dispatch(Layer))  # its counts are of all examples together


@_register(Positions)
def _(layer, residuals, dy, /):
    _must_leave_the_batch(layer, dy)
    return _square(dy.sum(range(1, dy.ndim - 2)))


_THROUGH_TIME = (0, 1, 0), 1  # first what has the batch in front, then what has time there


@_register(LSTM)
def _(layer, residuals, dz, /):
    if layer.projection or not layer.bias:
        return _each(layer, residuals, dz, _THROUGH_TIME)
    (x, state, _, last), kept, _ = residuals
    (h, _), *_ = layer._states(state, last, kept)
    dz, h = time_first(dz), time_first(h)  # which is batch first again
    return _outer(x, dz) + _outer(h, dz) + _square(dz.sum(1))


@_register(MultiHeadAttention)
def _(layer, residuals, delta, /):
    given, _, _, _, _, o = residuals
    dq, dk, dv, dy, more = delta
    if "table" in more:  # a sum over the examples already
        return _norms.dispatch(Layer)(layer, residuals, delta)

    def rows(a):  # (b, ..., n, d) -> (b, n, all the rest)
        a = jnp.moveaxis(a, -2, 1)
        return a.reshape(*a.shape[:2], -1)

    x, keys, values = layer._cleared(given, layer._beside(given))
    if keys is values:
        inside = _outer(keys, rows(jnp.stack([dk, dv], 1)))
    else:
        inside = _outer(keys, rows(dk)) + _outer(values, rows(dv))
    biases = [dq.sum(3), dk.sum(2), dv.sum(2), dy.sum(1)] if layer.bias else []
    return sum(map(_square, (*biases, *more.get("sinks", ()))), _outer(x, rows(dq)) + inside + _outer(rows(o), dy))


_AXES = {  # where layers that run through time have the batch
    Elman: _THROUGH_TIME,
    GRU: _THROUGH_TIME,
    MinimalGRU: _THROUGH_TIME,
    ElmanCell: (0, 0),
    GRUCell: (0, 0),
    LSTMCell: (0, 0),
    MinimalGRUCell: (0, 0),
    DiagonalStateSpace: ((0, 1), 0),
    SelectiveStateSpace: ((0, 0, 0, 0, 0, 1), 0),
    LinearAttention: (0, (1, 0)),
    Recurrent: _THROUGH_TIME,
    Recursive: ((0, 1, 1), 1),
}


@_register(*_AXES)
def _(layer, residuals, delta, /):
    cell = getattr(layer, "cell", None)
    folded = residuals[-1].value if cell else True
    if cell and not (folded[0] if isinstance(folded, tuple) else folded):
        raise LayerError(
            layer,
            f"got the cell {cell!r}, not all of whose residuals and deltas have the batch in front; expected one that "
            "treats each example by itself. Leave out what mixes them, a BatchNorm for example.",
        )
    return _each(layer, residuals, delta, _AXES[type(layer)])


@_register(Bidirectional)
def _(layer, residuals, delta, /):
    with at(layer):
        one, two = (_norms(layer._layer(residuals[1]), r, d) for r, d in zip(residuals[0], delta, strict=True))
    return _plus(one, two)


@_register(Stack)
def _(layer, residuals, delta, /):
    total = jnp.zeros(())
    for (label, child, _), r, d in zip(layer._rows(residuals[1]), residuals[0], delta, strict=True):
        with at(layer, label):
            total = _plus(total, _norms(child, r, d))
    return total


@_register(Lengths)
def _(layer, residuals, delta, /):
    with at(layer):
        return _norms(layer.layer, residuals[0], delta)
