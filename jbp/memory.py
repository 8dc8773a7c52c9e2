"""What a sweep needs beside its parameters, and a network that fits in less: some layers run twice, or keep few bits.

    net = jbp.memory.plan(net, loss, x, y, bytes=2**30)              # Remat where it saves the most for its operations
    net = jbp.memory.plan(net, loss, x, y, bytes=2**30, to="int8")   # Keep in int8 first, Remat after

The parameters stay what they were. What is measured is the memory that the compiler for this machine's device sets
aside, so plan on the device that you train on. (Which layers to run again, for a row of them: Griewank & Walther,
*Evaluating Derivatives*, 2008, ch. 12; by cost and size: Jain et al., *Checkmate*, 2020.)
"""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import jax

from jbp.combinators.graph import Graph
from jbp.combinators.keep import Keep
from jbp.combinators.remat import Remat
from jbp.combinators.repeat import Repeat
from jbp.combinators.sequence import Parallel, Serial
from jbp.errors import LayerError
from jbp.fields import Size, checked
from jbp.layer import Layer, map_children
from jbp.readers.summary import Row, bytes_of, summary
from jbp.sweep import initialize, stem, value_and_grad

__all__ = ["plan", "temporary"]

OPENED = Serial, Parallel, Graph, Repeat
PARTS = 2, 8, 32  # what of the memory one layer that runs again may have for itself, tried in this order


def temporary(net: Layer, loss: Layer, x: Any, *targets: Any) -> int:
    """The bytes that a compiled sweep needs for what is neither given nor returned: residuals, deltas, scratch.

    x and targets are arrays or their shapes; nothing is run.

    >>> net, x = Serial(Dense(256), Tanh(), Dense(1)), jax.ShapeDtypeStruct((1000, 8), "float32")
    >>> y = jax.ShapeDtypeStruct((1000, 1), "float32")
    >>> jbp.memory.temporary(net, MeanSquaredError(), x, y) > 1000 * 256 * 4  # what Tanh gave, at least
    True
    """
    params = jax.eval_shape(lambda key: initialize(net, key, x), jax.random.key(0))
    sweep = jax.jit(value_and_grad(net, loss, has_aux=True))
    found = sweep.lower(params, *jax.eval_shape(lambda *given: given, x, *targets)).compile().memory_analysis()
    if found is None:
        raise LayerError(net, "got no account of memory; expected a compiler that gives one. Plan on CPU, GPU or TPU.")
    return found.temp_size_in_bytes


@checked
def plan(
    net: Layer,
    loss: Layer,
    x: Any,
    *targets: Any,
    bytes: Size,  # noqa: A002 - what else would one call it
    to: Literal["bfloat16", "float8", "int8"] | None = None,
) -> Layer:
    """The network with as few layers as possible inside a Remat or, with `to`, a Keep, so that a sweep fits in `bytes`.

        saved = bytes of the layer's residuals − bytes of its input      cost = operations of its forward pass

    Layers are taken by what they save for their cost, the best first, as many as are needed: that number is found by
    halving, each try compiled and measured (`temporary`). They are those in a row, side by side, in a graph or
    repeated, opened until one by itself has but a part of `bytes`. With `to` residuals are compressed first, which
    costs little time and makes the gradient noisy; if that is not enough the layers also run again. Gives the network
    itself if it fits. Raises LayerError, with the least that was reached, if nothing fits.

    >>> net = Repeat(Residual(Serial(Dense(64), Tanh(), Dense(8))), 16)
    >>> x = jax.ShapeDtypeStruct((128, 8), "float32")
    >>> jbp.memory.plan(net, MeanSquaredError(), x, x, bytes=10**6)
    Repeat(Remat(Residual(Serial(Dense(64), Tanh(), Dense(8)))), 16)
    """

    @cache
    def needs(net):
        return temporary(net, loss, x, *targets)

    least = needs(net)
    if least <= bytes:
        return net
    rows = summary(net, x).rows
    wraps = [Remat] if to is None else [lambda layer: Keep(layer, to), lambda layer: Remat(Keep(layer, to))]
    for part in PARTS:
        paths = [row.path for row in sorted(_units(rows, bytes // part), key=_worth)]
        tries, around = [], {}
        for wrap, path in itertools.product(wraps, paths):
            around[path] = wrap
            tries.append(_wrapped(net, around))
        low, high = 0, len(tries) - 1  # the first that fits is between them, if any fits
        least = min(least, needs(tries[-1])) if tries else least
        if least <= bytes:
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if needs(tries[middle]) <= bytes else (middle + 1, high)
            return tries[low]
    remedy = "Take a smaller batch" + (", or compress with to='int8'." if to is None else ".")
    raise LayerError(
        net, f"got bytes={bytes} ({bytes_of(bytes)}); expected what the least needs, {bytes_of(least)}. {remedy}"
    )


def _units(rows: tuple[Row, ...], most: int) -> list[Row]:
    """The layers that may run again, none inside another, each but a part of the memory where it can be opened."""
    found, inside = [], None
    for row in rows:
        if inside is not None and row.depth > inside:
            continue
        inside = None
        if not isinstance(row.layer, OPENED) or (row.depth and row.kept // row.times <= most):
            inside = row.depth
            found += [row] * (_saved(row) > 0)
    return found


def _saved(row: Row) -> int:
    x = row.given[1]
    return row.kept - row.times * sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(x))


def _worth(row: Row) -> float:
    return -_saved(row) / max(row.flops, 1)


def _wrapped(layer: Layer, around: dict[str, Callable[[Layer], Layer]], path: str = "") -> Layer:
    """The network with what `around` says around the layers at its paths."""
    if path in around:
        return around[path](layer)
    if not isinstance(layer, OPENED):
        return layer
    return map_children(lambda label, child: _wrapped(child, around, stem(path, layer) + label), layer)
