"""Training on many devices: a Plan says how batch and weights are spread, and takes the sweep down on each of them.

Every device takes its part of the batch through the network, inside of `jax.shard_map`. Weights in pieces are put
together by `Gathered` where a layer uses them, in the forward pass and again in the backward pass, and a gradient is
cut where it is made. No residual holds a weight, so no device ever holds the whole. The optimizer, clipping by a norm,
and the look for NaN are outside, on arrays that are spread: they are the same program as on one device.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jbp.alone import must_be_alone
from jbp.combinators import Frozen, Serial, Tied
from jbp.errors import LayerError, check_cotangent, show
from jbp.fields import DType, Size, check
from jbp.keys import apart
from jbp.layer import Layer, map_children
from jbp.losses.loss import Loss
from jbp.losses.penalized import Penalized
from jbp.numerics import is_float, wide
from jbp.params import Buffer, trainable
from jbp.sweep import Aux, initialize, inside, must_be_layer, must_be_scalar
from jbp.train.parts import by_tokens, parted
from jbp.train.pieces import Gathered, gathered, leaves_of, pieces_of


@dataclass(frozen=True)
class Plan:
    """How training is spread over devices, for `start`, `step` and `fit`. None is one device.

        plan = Plan()                                               # all devices, each with all weights
        plan = Plan(weights="data")                                 # and the weights in pieces, one a device
        plan = Plan((("slow", 2), ("data", 4)), weights="data")     # in pieces within four, twice over
        plan = Plan((("data", 2), ("tensor", 4)), tensor="tensor")  # four devices work on one example together
        plan = Plan((("data", 2), ("tokens", 4)), sequence="tokens")  # and each of four has a quarter of its tokens

    `mesh` names the axes of the devices, with their sizes; () is one axis "data" of them all. The batch is spread over
    all axes but `tensor` and `sequence`, and must be a multiple of them. With `weights` parameters and optimizer's
    state lie in pieces along that axis: each array is cut along its largest axis that divides, and is whole on each
    device where none does. With `compute` layers are given inputs of that dtype and weights that are gathered in it,
    while parameters, sums of gradients and the loss stay as wide as they are. With `micro` each device takes its part
    of the batch in so many steps, one after the other, and gradients are summed over devices once, after all. With
    `ahead` the weights of the next time of a Repeat are gathered while one is at work, for a block more of memory.

    Along the axis `tensor` layers are cut: MultiHeadAttention by its heads, MixtureOfExperts, and of a Serial a Dense
    or GatedDense, the Dense that follows and what works on single features between them. Each device has its part of
    those weights, and one sum over the axis each way puts together what they make. All other layers are the same along
    it.

    Along the axis `sequence` x and targets, (batch, tokens, ...), are cut by their tokens, and a layer that takes each
    token by itself does so on its part. Attention has the queries of its part, and keys and values go round; any
    other layer is given all tokens. It may be the axis `tensor`: then tokens are put together before what is cut by
    its heads or features, and cut after. It may be that of `weights` too.

    Means are exact: the loss of a part counts as much as the labels in it, which `Loss.counted` tells, or its examples,
    and the penalty of a Penalized as much as the loss beside it.
    Dropout draws other numbers on each device. What looks at several examples at once is refused, but for BatchNorm,
    which takes its mean over all devices, and Total, of which each loss counts over all of them; `apart` names the
    layers that may look at what is beside them on the same device and in the same micro-batch alone: ("BatchNorm",
    "MixtureOfExperts").

    Raises LayerError for fields that do not fit one another, for more devices than there are, and, before anything is
    compiled, for networks and batches that it does not fit.

    >>> net, x, y = Dense(1), jnp.ones((4, 3)), jnp.ones((4, 1))
    >>> loss, optimizer, plan = MeanSquaredError(), optax.sgd(0.1), jbp.train.Plan(micro=2)
    >>> state = jbp.train.start(net, optimizer, jax.random.key(0), x, plan=plan)
    >>> state, metrics = jbp.train.step(net, loss, optimizer, plan=plan)(state, x, y)
    >>> sorted(metrics)
    ['finite', 'loss', 'norm']
    """

    mesh: tuple[tuple[str, Size], ...] = ()
    weights: str | None = None
    tensor: str | None = None
    sequence: str | None = None
    compute: DType | None = None
    micro: Size = 1
    ahead: bool = False
    apart: tuple[str, ...] = ()

    def __post_init__(self):
        check(self)
        names = self.names
        if len(set(names)) < len(names):
            raise LayerError(Plan, f"got the axes {', '.join(names)}; expected other names. Name each axis once.")
        for field in ("weights", "tensor", "sequence"):
            axis = getattr(self, field)
            if axis is not None and axis not in names:
                raise LayerError(
                    Plan,
                    f"got {field}={axis!r} with the axes {', '.join(names)}; expected one of them. "
                    f"Write {field}={names[-1]!r}.",
                )
        if self.tensor is not None and self.tensor == self.weights:
            raise LayerError(
                Plan,
                f"got weights={self.weights!r} and tensor={self.tensor!r}; expected two axes. Write "
                f'mesh=(("data", ...), ({self.tensor!r}, ...)) and weights="data".',
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many devices along each axis."""
        return tuple(size for _, size in self.mesh) or (jax.device_count(),)

    @property
    def names(self) -> tuple[str, ...]:
        """The axes of the mesh."""
        return tuple(name for name, _ in self.mesh) or ("data",)

    @property
    def devices(self) -> int:
        """How many devices in all."""
        return math.prod(self.sizes)

    @property
    def spread(self) -> tuple[str, ...]:
        """The axes along which the batch is spread."""
        return tuple(name for name in self.names if name not in (self.tensor, self.sequence))

    @property
    def _adds(self):
        """The axes along which devices have different sums."""
        return tuple(name for name in self.names if name != self.tensor or name == self.sequence)

    @property
    def shares(self) -> int:
        """How many devices the batch is spread over."""
        return math.prod(self._extent[name] for name in self.spread)

    @property
    def _extent(self):
        """How many devices along each axis, by its name."""
        return dict(zip(self.names, self.sizes, strict=True))

    def value_and_grad(self, net: Layer, loss: Layer, outputs: bool = True) -> Any:
        """f(params, x, *targets) -> ((value, Aux(output, params)), grads), as of `jbp.value_and_grad` with has_aux.

        Without `outputs` the output is None. All arrays are spread as the plan has them. To be used inside of `jit`.
        """
        must_be_layer("net", net)
        must_be_layer("loss", loss)
        for layer in (*inside(net), *inside(loss)):
            self._must_be_alone(layer)

        def swept(params, *batch):
            self.must_fit(net, batch)
            marks = self._marks(net, params, batch[0])
            if self.shares * self.micro > 1:
                must_be_alone(net, params, batch[0], self.apart)
            here = partial(self._here, net, loss, marks, jax.tree.structure(params), outputs)
            along, where = self._along(batch), self._where(net, marks)
            structure = jax.tree.structure(params)
            params_in = jax.tree.unflatten(structure, where)
            y = jax.eval_shape(lambda params, x: net.forward(params, x)[0], params, batch[0]) if outputs else None
            out = (PartitionSpec(), self._along(y, batch), params_in), trainable(params_in)
            return jax.shard_map(here, mesh=self.on(), in_specs=(params_in, along), out_specs=out, check_vma=False)(
                params, tuple(batch)
            )

        def f(params, *batch):
            (value, output, advanced), grads = swept(params, *batch)
            return (value, Aux(output, advanced)), grads

        return f

    def summing(self, net: Layer, sums: Any) -> Any:
        """f(params, x, *targets) for a function that gives (sums, output, params moved on): the sums over all devices.

        Each calls it with its part of the batch, and with `drawn`, which gives it keys of its own; one reduction adds
        up. For what a sweep tells of each example: whole weights alone. Raises LayerError for another plan.
        """
        if self != Plan(self.mesh, ahead=self.ahead):
            raise LayerError(
                net,
                f"got plan={self!r} for a sweep of each example; expected one that spreads the batch alone, of whole "
                "weights. Write Plan() or Plan(mesh), and micro= in the sweep.",
            )

        def here(params, batch):
            mine, output, advanced = sums(params, *batch, drawn=self._drawn)
            return lax.psum(mine, self.names), output, advanced

        def f(params, *batch):
            self.must_fit(net, batch)
            whole, along = PartitionSpec(), self._along(batch)
            out = whole, self._along(jax.eval_shape(lambda x: net.forward(params, x)[0], batch[0]), batch), whole
            mapped = jax.shard_map(here, mesh=self.on(), in_specs=(whole, along), out_specs=out, check_vma=False)
            return mapped(params, batch)

        return f

    def on(self) -> Mesh:
        """The mesh, of the first devices that there are."""
        return _mesh(self.sizes, self.names)

    def everywhere(self, tree: Any) -> Any:
        """The tree, whole on every device. Several processes have it so, by themselves."""
        if jax.process_count() > 1:
            return tree
        return jax.device_put(tree, NamedSharding(self.on(), PartitionSpec()))

    def put(self, net: Layer, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        """The batch, spread. Each process gives its own share of it."""
        there = all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(batch))
        processes = jax.process_count() if there else 1
        self.must_fit(net, batch, processes)

        def placed(leaf, spec):
            where = NamedSharding(self.on(), spec)
            if processes > 1 and getattr(leaf, "is_fully_addressable", True):
                return jax.make_array_from_process_local_data(where, np.asarray(leaf))
            return jax.device_put(leaf, where)

        return jax.tree.map(placed, tuple(batch), self._along(tuple(batch)))

    def shardings(self, net: Layer, state: Any, x: Any) -> Any:
        """Where each array of a training state lies. Of state and x the shapes are looked at."""
        where = self._rest(net, self._marks(net, state.params, x))
        params = jax.tree.unflatten(jax.tree.structure(state.params), where)
        pieces = {}
        for (path, leaf), spec in zip(jax.tree_util.tree_leaves_with_path(state.params), where, strict=True):
            pieces[tuple(path)] = leaf.shape, spec

        def alike(path, leaf):  # what an optimizer keeps lies in trees like that of the parameters
            for k in range(len(path) + 1):
                shape, spec = pieces.get(tuple(path[k:]), (None, None))
                if shape == leaf.shape:
                    return spec
            return PartitionSpec()

        optimizer = jax.tree_util.tree_map_with_path(alike, state.optimizer)
        specs = replace(state, params=params, optimizer=optimizer, steps=PartitionSpec())
        return jax.tree.map(partial(NamedSharding, self.on()), specs, is_leaf=_is_spec)

    def must_fit(self, net: Layer, batch: tuple[Any, ...], processes: int = 1) -> None:
        """An error unless the batch can be cut into as many parts as are needed."""
        parts, sizes = self.shares * self.micro, [np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)]
        b = next((size[0] for size in sizes if size), 0)
        if b * processes % parts:
            raise LayerError(
                net,
                f"got a batch of {b * processes} for {self.shares} devices with micro={self.micro}; expected a "
                f"multiple of {parts}. Drop the last batch, or fill it up with examples that the loss ignores.",
            )
        if self.sequence:
            self._must_have_tokens(net, batch)
        bad = [leaf for leaf in jax.tree.leaves(batch) if np.shape(leaf)[:1] not in ((), (1,), (b,))]
        if bad:
            raise LayerError(
                net,
                f"got {show(bad[0])} in a batch of {b}; expected arrays that begin with the batch, or with an axis of "
                "one. Put the batch first.",
            )

    def _must_have_tokens(self, net, batch):
        sizes = {np.shape(leaf)[1:2] for leaf in jax.tree.leaves(batch)}
        flat = any(np.ndim(leaf) < 3 for leaf in jax.tree.leaves(batch[0]) if is_float(leaf))
        if len(sizes) != 1 or () in sizes or flat or max(sizes)[0] % self._stretches:
            raise LayerError(
                net,
                f"got the batch {show(batch)} with sequence={self.sequence!r}; expected arrays (batch, tokens, ...), "
                f"x of floats with features, and as many tokens in each, a multiple of {self._stretches}. Fill them up "
                "with tokens that the loss ignores.",
            )

    def _must_be_alone(self, layer):
        what, name = getattr(layer, "couples", ""), type(layer).__name__
        if not what or self.shares * self.micro == 1 or name in self.apart:
            return
        if self.micro > 1 or not self._at_once or not hasattr(layer, "over"):
            raise LayerError(
                layer,
                f"got a batch in {self.shares * self.micro} parts, and {what}; expected each example by itself. "
                f"Write Plan(..., apart=({name!r},)) if each part may be looked at alone.",
            )

    def _over(self, layer: Layer, over: tuple[str, ...]) -> Layer:
        """The layer with those inside that couple examples told along which axes the batch is spread."""
        layer = map_children(lambda _, child: self._over(child, over), layer)
        told = getattr(layer, "couples", "") and hasattr(layer, "over") and type(layer).__name__ not in self.apart
        return replace(layer, over=over) if told else layer  # pyright: ignore[reportArgumentType]

    def _wrapped(self, net: Layer, dtype: str | None) -> Layer:
        """The network with `Part` around what is cut, and `Gathered` around what uses weights in pieces."""
        if self._parts > 1:
            net = parted(net, self.tensor or "", self._parts)
        if self._stretches > 1:
            net = by_tokens(net, self.sequence or "", self._stretches, self._at_once)
        if self._pieces == 1 and dtype is None:
            return net
        return gathered(net, self.weights or "", self._pieces, dtype, self.ahead)

    @property
    def _pieces(self):
        """How many pieces weights are in."""
        return 1 if self.weights is None else self._extent[self.weights]

    @property
    def _parts(self):
        """How many parts layers are in."""
        return 1 if self.tensor is None else self._extent[self.tensor]

    @property
    def _at_once(self) -> bool:
        """Whether all devices do the same at a time."""
        return True

    @property
    def _stretches(self):
        """How many parts tokens are in."""
        return 1 if self.sequence is None else self._extent[self.sequence]

    def _marks(self, net, params, x):
        """The parameters' shapes, with a `Piece` around each that is cut."""
        if self.sequence:
            self._must_have_tokens(net, (x,))
        leaves, structure = jax.tree.flatten(x)
        shapes = tuple((_divided(np.shape(leaf), self._stretches), jnp.result_type(leaf)) for leaf in leaves)
        axes = tuple((name, self._extent[name]) for name in dict.fromkeys((self.tensor, self.sequence)) if name)
        marks = _marked(self._wrapped(net, None), structure, shapes, axes)
        if list(map(self._size, leaves_of(marks))) != [np.shape(leaf) for leaf in jax.tree.leaves(params)]:
            raise LayerError(
                net,
                f"got parameters {show(params)} for x {show(x)}; expected those that init makes. Are they those of "
                "another network? Make them with start(net, optimizer, key, x, plan=plan).",
            )
        over = {piece.over for leaf in leaves_of(marks) for piece in pieces_of(leaf)}
        if self._pieces > 1 and self.weights not in over:
            raise LayerError(
                net,
                f"got parameters {show(params)}, of which none has an axis that {self._pieces} divides; expected one "
                "or more to cut. Leave out weights=, or take sizes that are multiples.",
            )
        if self._parts > 1 and self.tensor not in over:
            raise LayerError(
                net,
                f"got no layers with {self._parts} parts; expected attention with a multiple of {self._parts} heads, "
                "as many experts, an Embedding of as many rows, or a Serial with two Dense, the first of a multiple of "
                f"{self._parts} features. Leave out tensor=.",
            )
        return marks

    def _size(self, leaf):
        """The shape of the whole array."""
        shape = list(jax.tree.leaves(leaf)[0].shape)
        for piece in pieces_of(leaf):
            shape[piece.axis] *= self._parts if piece.over == self.tensor else 1
        return tuple(shape)

    def _where(self, net, marks):
        """The PartitionSpec of each array of the parameters."""

        def spec(leaf):
            ndim, names = jax.tree.leaves(leaf)[0].ndim, {}
            for piece in pieces_of(leaf):
                names.setdefault(ndim + piece.axis, []).append(piece.over)
            axes = [tuple(names.get(k, ())) for k in range(max(names, default=-1) + 1)]
            return PartitionSpec(*(own[0] if len(own) == 1 else own or None for own in axes))

        return [spec(leaf) for leaf in leaves_of(marks)]

    def _rest(self, net, marks):
        """The same between steps."""
        return self._where(net, marks)

    def _along(self, tree, batch=None):
        """The PartitionSpec of each array of a batch: all axes of the mesh on the first of its own."""
        b = next((np.shape(leaf)[0] for leaf in jax.tree.leaves(batch or tree) if np.shape(leaf)), 0)
        n = next((np.shape(leaf)[1] for leaf in jax.tree.leaves(batch or tree) if np.ndim(leaf) > 1), 0)

        def spec(leaf):
            if np.shape(leaf)[:1] != (b,):
                return PartitionSpec()
            tokens = self._stretches > 1 and np.shape(leaf)[1:2] == (n,)
            return PartitionSpec(self.spread, self.sequence) if tokens else PartitionSpec(self.spread)

        return jax.tree.map(spec, tree)

    def _here(self, net, loss, marks, structure, outputs, params, batch):
        """What one device does: its part of the batch, all its micro-batches, and the sums over devices."""
        run, other = self._wrapped(self._over(net, self.spread), self.compute), jax.tree.structure(marks)
        loss = self._over(loss, self._adds)

        def one(params, batch):
            own = jax.tree.unflatten(other, jax.tree.leaves(params))
            _, grads, own, counts, output = self._part(run, loss, self._high(own), own, *batch)
            params = jax.tree.unflatten(structure, jax.tree.leaves(own))
            return params, (*counts, grads), output if outputs else None

        if self.micro == 1:
            params, sums, output = one(params, batch)
        else:
            now = self._cut(batch)
            zero = zeros(jax.eval_shape(one, params, now(0))[1])

            def step(carry, i):
                params, sums, output = one(carry[0], now(i))
                return (params, jax.tree.map(jnp.add, carry[1], sums)), output

            (params, sums), output = lax.scan(step, (params, zero), jnp.arange(self.micro))
            output = joined(output)
        return self._summed(net, marks, params, sums, output)

    def _part(self, net, loss, dtype, params, x, *targets):
        """(dx, gradient, parameters moved on, (loss times what it counts, what it counts), output in dtype)."""
        mine = self._drawn(params)
        output, residuals = net.forward(mine, self._low(x))
        wider = _in(output, dtype)
        value, kept = loss.forward((), (wider, *targets))
        must_be_scalar(loss, value)
        weight = counted(loss, kept)
        weight = counted(net, residuals) if weight is None else weight
        weight = jnp.asarray(1 if weight is None else weight, wide(value).dtype)
        (dy, *_), _ = loss.backward((), kept, weight.astype(value.dtype))
        check_cotangent(loss, wider, dy)
        dy = jax.tree.map(lambda y, d: None if d is None else d.astype(y.dtype), output, dy)
        dx, grads = net.pull(mine, residuals, dy)
        counts = wide(value) * weight, weight
        return dx, jax.tree.map(wide, grads), net.advance(params, residuals), counts, wider

    def _low(self, x):
        """x in the dtype in which layers work."""
        return _in(x, self.compute)

    def _high(self, params):
        """The dtype of the output that a loss is given, None for that which it has."""
        return _widest(params) if self.compute else None

    def _cut(self, batch):
        """i -> the i-th micro-batch of this device's share; what does not begin with the batch goes to all."""
        b = next(leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.shape)

        def part(i):
            def leaf(v):
                if v.shape[:1] != (b,):
                    return v
                rows = v.reshape(self.micro, b // self.micro, *v.shape[1:])
                return lax.dynamic_index_in_dim(rows, i, keepdims=False)

            return jax.tree.map(leaf, batch)

        return part

    def _drawn(self, params):
        """The parameters with keys of this device's own."""
        return params if self.shares == 1 else apart(params, lax.axis_index(self.spread))

    def _summed(self, net, marks, params, sums, output):
        """((value, output, params), grads) over all devices, out of what each has: one sum for what lies alike."""
        value, weight, grads = sums
        total = lax.psum(weight, self._adds)
        some = jnp.where(total == 0, 1, total)
        value = lax.psum(value, self._adds) / some
        leaves, structure = jax.tree.flatten(grads)
        specs = jax.tree.leaves(trainable(jax.tree.unflatten(jax.tree.structure(params), self._where(net, marks))))
        over = [tuple(name for name in self._adds if name not in jax.tree.leaves(tuple(spec))) for spec in specs]
        alike = {axes: [g for g, own in zip(leaves, over, strict=True) if own == axes] for axes in over}
        summed = {axes: iter(lax.psum(gs, axes) if axes else gs) for axes, gs in alike.items()}
        grads = jax.tree.unflatten(structure, [next(summed[axes]) for axes in over])
        grads = jax.tree.map(lambda p, g: (g / some.astype(g.dtype)).astype(p.dtype), trainable(params), grads)

        def mean(leaf):
            return lax.pmean(leaf, self.spread) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        if self.apart and self.shares > 1:  # each device has moved its own
            params = jax.tree.map(
                lambda p: jax.tree.map(mean, p) if isinstance(p, Buffer) else p,
                params,
                is_leaf=lambda p: isinstance(p, Buffer),
            )
        output = jax.tree.map(lambda y: y if y.ndim else mean(y), output)
        return (value, output, params), grads


def counted(layer: Layer, residuals: Any) -> Any:
    """How much the mean that a loss is counts beside those of other parts of the batch, None if it does not say."""
    if isinstance(layer, Loss):
        return layer.counted(residuals)
    if isinstance(layer, Penalized):
        return counted(layer.loss, residuals)
    if isinstance(layer, Serial) and layer.layers:
        return counted(layer.layers[-1], layer.parts(residuals)[-1])
    if isinstance(layer, Tied | Frozen):
        return counted(layer.layer, residuals)
    return counted(layer.layer, residuals[0]) if isinstance(layer, Gathered) else None


def zeros(shapes: Any) -> Any:
    """Arrays of zeros."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def joined(outputs: Any) -> Any:
    """The outputs of micro-batches one after the other, or the mean of what is one number for each."""
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]) if y.ndim > 1 else y.mean(0), outputs)


def working(plan: Plan | None) -> Any:
    """A context in which arrays lie on the plan's mesh, whatever mesh its user has set."""
    return nullcontext() if plan is None else jax.set_mesh(plan.on())


@lru_cache(maxsize=16)
def _mesh(sizes, names):
    count, devices = math.prod(sizes), jax.devices()
    if count > len(devices):
        raise LayerError(
            Plan,
            f"got a mesh of {' x '.join(map(str, sizes))} devices; expected at most the {len(devices)} that are here. "
            f"To try it on fewer, set XLA_FLAGS=--xla_force_host_platform_device_count={count} before JAX is imported.",
        )
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), devices=devices[:count])


def _divided(shape, n):
    """The shape with a part of the second axis."""
    return (*shape[:1], *(size // n for size in shape[1:2]), *shape[2:])


@lru_cache(maxsize=16)
def _marked(net, structure, shapes, axes):
    """What init makes, of one device along these axes."""
    x = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])

    def made(_):
        return initialize(net, jax.random.key(0), x)

    for name, size in axes:
        made = jax.vmap(made, in_axes=None, axis_name=name, axis_size=size)
    leaves, structure = jax.tree.flatten(jax.eval_shape(made, 0))
    skip = len(axes)
    return structure.unflatten([jax.ShapeDtypeStruct(leaf.shape[skip:], leaf.dtype) for leaf in leaves])


def _is_spec(leaf):
    return isinstance(leaf, PartitionSpec)


def _in(tree, dtype):
    """The tree with its floating arrays in a dtype."""
    return tree if dtype is None else jax.tree.map(lambda v: v.astype(dtype) if is_float(v) else v, tree)


def _widest(params):
    """The dtype of sums of these parameters."""
    return next((wide(p).dtype for p in jax.tree.leaves(params) if is_float(p)), jnp.dtype("float32"))
