"""What a network is made of: each layer with its shapes, parameters, operations, bytes kept for the backward pass."""

import math
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from io import StringIO
from typing import Any

import jax
import jax.numpy as jnp

from jbp import combinators
from jbp.combinators import Remat, Reversible
from jbp.compose import Wrapper
from jbp.errors import show
from jbp.layer import Layer, map_children
from jbp.numerics import floating
from jbp.params import buffers, trainable
from jbp.sweep import children, initialize, stem

OPENED = tuple(kind for kind in vars(combinators).values() if isinstance(kind, type) and issubclass(kind, Layer))


@dataclass(frozen=True)
class Row:
    """One layer: where it is, what comes out, its parameters, operations forward, and bytes kept. Of all repetitions.

    `path` is that of errors, "Serial[2].Residual", `label` its end, "[2]", "head" or ""; `times` is how often it runs.
    `given` are the shapes of its parameters and of x, `seconds` how long forward and backward take, if that was asked.
    """

    path: str
    label: str
    layer: Layer
    depth: int
    times: int
    output: str
    parameters: int
    flops: int
    kept: int
    given: Any = field(repr=False, compare=False)
    seconds: float | None = None


@dataclass(frozen=True, repr=False)
class Summary:
    """The rows of all layers, and the whole: what is trained, what is not, operations, bytes kept. Prints as a table.

    `kept` counts an array that two layers keep once, and no weights, for they live on anyway; `pull` are the operations
    of the backward pass. An operation is one of arithmetic on one element, so a product of matrices has 2 n m k.
    """

    rows: tuple[Row, ...]
    parameters: int
    buffers: int
    flops: int
    pull: int
    kept: int

    def __str__(self):
        from rich.console import Console  # here, for it takes its time

        text = StringIO()
        Console(file=text, width=160, force_jupyter=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Column, Table

        table = Table(Column("layer", no_wrap=True), Column("output", no_wrap=True), box=SIMPLE_HEAD, show_footer=True)
        numbers = ("parameters", f"{self.parameters:,}"), ("FLOPs", _short(self.flops)), ("kept", bytes_of(self.kept))
        table.columns[0].footer = f"all; {self.buffers:,} in buffers, {_short(self.pull)} FLOPs backward"
        for name, total in numbers:
            table.add_column(name, justify="right", footer=total)
        whole = self.rows[0].seconds
        if whole is not None:
            table.add_column("time", justify="right", footer=f"{1000 * whole:.3g} ms")
        for row in self.rows:
            inside = bool(children(row.layer)) and isinstance(row.layer, OPENED)
            name = type(row.layer).__name__ if inside else repr(row.layer)
            name = f"{'  ' * row.depth}{row.label}{' ' * bool(row.label)}{name}"
            name = _cut(name) + f" ×{row.times}" * (row.times > 1)
            cells = [f"{row.parameters:,}", _short(row.flops), bytes_of(row.kept)]
            if whole and row.seconds is not None:
                cells.append(f"{100 * row.seconds / whole:.0f} %")
            table.add_row(escape(name), escape(_cut(row.output)), *cells)
        return table


def _cut(text: str) -> str:
    return text if len(text) <= 50 else f"{text[:47]}..."


def summary(net: Layer, x: Any, *, time: bool = False) -> Summary:
    """The network's layers with paths, output shapes, parameters, FLOPs and bytes kept for the backward pass.

    x is an input, or its shape: nothing is run. `print(jbp.summary(net, x))` is a table; `.rows` has the numbers. It
    does not look inside of layers that are no combinators, at the cell of a Recurrent say.

    With time=True each of these is compiled and run by itself, forward and backward, on numbers of those shapes: its
    share of the time that all take, one after the other. Compiled together they are faster.

    >>> table = summary(Serial(Dense(8), Tanh()), jnp.ones((2, 5)))
    >>> [(row.path, row.parameters, row.kept) for row in table.rows]
    [('', 48, 104), ('Serial[0]', 48, 40), ('Serial[1]', 0, 64)]
    """
    params = jax.eval_shape(lambda key: initialize(net, key, x), jax.random.key(0))
    x = jax.eval_shape(lambda x: x, x)
    seen: dict[str, Any] = {}
    jax.eval_shape(_seen(net, _Place("", "", 0, 1, True, seen)).forward, params, x)
    rows = _timed(tuple(seen.values())) if time else tuple(seen.values())
    y, residuals = jax.eval_shape(net.forward, params, x)
    dy = floating(y)
    return Summary(
        rows,
        _count(trainable(params)),
        _count(buffers(params)),
        flops(net.forward, params, x),
        flops(net.pull, params, residuals, dy),
        _kept(net, params, x),
    )


@dataclass(frozen=True)
class _Place:
    path: str
    label: str
    depth: int
    times: int
    keeps: bool
    rows: dict[str, Any]


@dataclass(frozen=True, repr=False)
class _Seen(Wrapper):
    """A layer that notes the shapes that pass through it."""

    layer: Layer
    plain: Layer
    place: _Place = field(compare=False)

    def forward(self, params, x, /):
        at = self.place
        at.rows.setdefault(at.path)  # a combinator comes ahead of its children
        y, residuals = self.layer.forward(params, x)
        kept = at.times * _kept(self.plain, params, x) if at.keeps else 0
        counted = at.times * _count(trainable(params)), at.times * flops(self.plain.forward, params, x)
        given = _shapes((params, x))
        at.rows[at.path] = Row(at.path, at.label, self.plain, at.depth, at.times, show(y), *counted, kept, given)
        return y, residuals


def _seen(layer: Layer, place: _Place) -> Layer:
    if not isinstance(layer, OPENED):
        return _Seen(layer, layer, place)
    times = place.times * (getattr(layer, "times", None) or 1)
    keeps = place.keeps and not isinstance(layer, Remat | Reversible)

    def inside(label, child):
        path = f"{stem(place.path, layer)}{label}"
        return _seen(child, _Place(path, label.removeprefix("."), place.depth + 1, times, keeps, place.rows))

    return _Seen(map_children(inside, layer), layer, place)


def _timed(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows with the seconds of each layer without layers below it, and of what is around them the sum."""

    @cache
    def seconds(layer, leaves, tree):
        params, x = jax.tree.unflatten(tree, [_number(*leaf) for leaf in leaves])

        @jax.jit
        def run(params, x):
            y, residuals = layer.forward(params, x)
            return y, layer.pull(params, residuals, floating(y))

        jax.block_until_ready(run(params, x))
        found = []
        for _ in range(5):
            start = clock.perf_counter()
            jax.block_until_ready(run(params, x))
            found.append(clock.perf_counter() - start)
        return min(found)

    def total(i):
        below = []
        for k in range(i + 1, len(rows)):
            if rows[k].depth <= rows[i].depth:
                break
            below += [k] * (rows[k].depth == rows[i].depth + 1)
        if below:
            return sum(map(total, below))
        leaves, tree = jax.tree.flatten(rows[i].given)
        return rows[i].times * seconds(rows[i].layer, tuple((v.shape, v.dtype) for v in leaves), tree)

    return tuple(replace(row, seconds=total(i)) for i, row in enumerate(rows))


def _number(shape, dtype):
    """An array to time a layer with."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape)
    return jnp.full(shape, 0.5 if jnp.issubdtype(dtype, jnp.floating) else 0, dtype)


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _kept(layer: Layer, params: Any, x: Any) -> int:
    """The bytes of the residuals, each array once, without the parameters."""
    program = jax.make_jaxpr(lambda params, x: layer.forward(params, x)[1])(*_shapes((params, x))).jaxpr
    weights = {id(v) for v in program.invars[: len(jax.tree.leaves(params))]}
    arrays = {id(v): v.aval for v in program.outvars if not hasattr(v, "val") and id(v) not in weights}
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values())


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


MOVES = {
    "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p", "dynamic_slice",
    "dynamic_update_slice", "expand_dims", "gather", "iota", "pad", "reshape", "rev", "select_n", "slice", "split",
    "squeeze", "stop_gradient", "transpose", "random_bits", "random_wrap", "random_unwrap", "random_split",
    "random_fold_in", "random_seed",
}  # fmt: skip


def flops(f: Callable[..., Any], *args: Any) -> int:
    """The operations of arithmetic in f at these arguments, or their shapes: 2 n m k of a product, one an element else.

    A scan counts its body as often as it runs, a cond its greatest branch, a while loop its body once.
    """
    return _flops(jax.make_jaxpr(f)(*_shapes(args)).jaxpr)


def _flops(program: Any) -> int:
    return sum(map(_cost, program.eqns))


def _cost(eqn: Any) -> int:
    name, out = eqn.primitive.name, sum(math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars)
    if name == "dot_general":
        (axes, _), _ = eqn.params["dimension_numbers"]
        return 2 * out * math.prod(eqn.invars[0].aval.shape[i] for i in axes)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        return 2 * out * math.prod(kernel) // max(kernel[eqn.params["dimension_numbers"].rhs_spec[0]], 1)
    inner = [getattr(p, "jaxpr", p) for v in eqn.params.values() for p in (v if isinstance(v, tuple | list) else (v,))]
    inner = [_flops(program) for program in inner if hasattr(program, "eqns")]
    if inner:
        return eqn.params["length"] * sum(inner) if name == "scan" else max(inner) if name == "cond" else sum(inner)
    if name in MOVES:
        return 0
    reduces = name.startswith(("reduce", "arg", "cum"))
    return sum(math.prod(v.aval.shape) for v in eqn.invars[:1]) if reduces else out


def _short(n: int) -> str:
    for size, unit in ((10**12, " T"), (10**9, " G"), (10**6, " M"), (10**3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(n)


def bytes_of(n: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} B"
