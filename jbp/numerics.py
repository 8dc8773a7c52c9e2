"""Arithmetic that layers share: sums in a wide enough dtype, broadcasts written out, products of many rows."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def leading(x: Any) -> tuple[int, ...]:
    """All axes but the last."""
    return tuple(range(x.ndim - 1))


def along(b: Any, x: Any) -> Any:
    """A vector as the last axis of an array with x's rank."""
    return b.reshape((1,) * (x.ndim - 1) + b.shape)


def outer(x: Any, dy: Any) -> Any:
    """Σ xᵀ dy over all axes but the last, (..., i), (..., o) -> (i, o).

    As two matrices: for a product over several axes XLA would write both factors down transposed, on CPUs slowly. A
    factor that was widened for the sake of the gradient's dtype (errors.take) is multiplied in the dtype of the other
    again, and the sum is of the wider of the two. Where devices share the arrays their axes stay apart: to make one of
    time and a batch that is spread would bring all of it to every device.
    """
    if x.ndim > 2 and shared(x, dy):
        every = "abcdefgh"[: x.ndim - 1]
        return product(f"{every}i,{every}o->io", x, dy)
    rows, dtypes = math.prod(x.shape[:-1]), sorted((x.dtype, dy.dtype), key=lambda dtype: jnp.finfo(dtype).bits)
    x, dy = (a.reshape(rows, a.shape[-1]).astype(dtypes[0]) for a in (x, dy))
    return jnp.einsum("ni,no->io", x, dy, preferred_element_type=dtypes[1])


def product(spec: str, x: Any, dy: Any) -> Any:
    """`outer` for the axes of an einsum: a widened factor in the dtype of the other again, the sum in the wider."""
    low, high = sorted((x.dtype, dy.dtype), key=lambda dtype: jnp.finfo(dtype).bits)
    return jnp.einsum(spec, x.astype(low), dy.astype(low), preferred_element_type=high)


def is_float(x: Any) -> bool:
    """Whether an array is of a floating dtype."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def is_mask(x: Any) -> bool:
    """Whether an array is of booleans or integers."""
    return x.dtype == bool or jnp.issubdtype(x.dtype, jnp.integer)


def floating(y: Any) -> Any:
    """The tree without its arrays of integers, which have no cotangent: None in their place."""
    return jax.tree.map(lambda v: v if is_float(v) else None, y)


def wide(x: Any) -> Any:
    """x in the dtype for sums and statistics: float32 for float16 and bfloat16, else its own."""
    return x.astype(wide_dtype(x.dtype))


def wide_dtype(dtype: Any) -> Any:
    """The dtype for sums and statistics of values in `dtype`."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """A residual that is known when tracing: a shape, a count. It holds no array."""

    value: Any


def outline(x: Any) -> Any:
    """An array of no elements that has the shape of x and an axis of size 0 more, and its dtype: for layers that keep
    the shape alone. Unlike a Static one it is cut into examples as every residual is."""
    return jnp.zeros((*x.shape, 0), x.dtype)


def time_first(x):
    return jnp.swapaxes(x, 0, 1)


def peak(x: Any, axis: Any = -1, initial: Any = -jnp.inf) -> Any:
    """The largest of x, kept as an axis of size one, as a constant: what is taken away before an exponential, or out of
    a norm, and given back.

    By itself it moves nothing. If it were differentiated, for the second derivatives of a sweep, it would be asked
    where x is equal to it: nowhere, if XLA computes x a second time and rounds in another way, and 0 / 0 would follow.
    """
    return lax.stop_gradient(x).max(axis, keepdims=True, initial=initial)


def taken(x: Any, place: Any, axis: int) -> Any:
    """x at `place` along an axis: with the place of the largest the maximum, whose derivative is that of this element.

    JAX's own derivative of a maximum asks which elements equal it. Where the compiler computes x anew, and rounds it
    in another way, none does, and the derivative is 0/0.
    """
    k = lax.broadcasted_iota(place.dtype, x.shape, axis % x.ndim)
    return jnp.where(k == jnp.expand_dims(place, axis), x, 0).sum(axis)


def softmax(s, axis):
    """As a quotient: of scores that are large, exp(s − log Σ exp s) would lose digits with the logarithm."""
    e = jnp.exp(s - peak(s, axis))
    return e / e.sum(axis, keepdims=True)


def log_sum_exp(x):
    """l = log Σ exp x over the last axis, kept as an axis of size one, in float32 at least: −∞ where all x are."""
    top = peak(wide(x))
    top = jnp.where(top == -jnp.inf, 0, top)
    return top + jnp.log(jnp.exp(wide(x) - top).sum(-1, keepdims=True))


def softplus(x):
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def counting(ids: Any) -> Any:
    """Integers in a dtype that can count: of fewer than 32 bits they could not hold the sizes they are held against."""
    if isinstance(ids, jax.ShapeDtypeStruct) or ids.dtype.itemsize >= 4:
        return ids
    return ids.astype(np.int32)


def chosen(ids: Any, first: Any, size: int) -> Any:
    """Whether ids (...) are first, first + 1, ...: (..., size) of booleans. Small integers are made wide enough."""
    ids = ids.astype(np.promote_types(ids.dtype, np.int32))
    wanted = jnp.arange(size, dtype=ids.dtype) + jnp.asarray(first, ids.dtype)
    return ids[..., None] == wanted.reshape((1,) * ids.ndim + (size,))


def after(dy: Any, x: Any) -> Any:
    """x, which the compiler cannot have before dy: times a 1 that it does not know to be one.

    Without it the compiler would merge what is made of x now with what forward has made of it, or make it early, and
    keep it all the while: a layer that runs once more, arrays that are gathered once more.
    `lax.optimization_barrier` stops the merging, but on CPUs not the early runs (a test compares working memory).
    """
    seen = [d for d in jax.tree.leaves(dy) if d.size]
    if not seen:
        return x
    first = lax.slice(seen[0], (0,) * seen[0].ndim, (1,) * seen[0].ndim).reshape(())
    k = (first > 0).astype(jnp.int32)
    one = k * (k - 1) + 1
    return jax.tree.map(lambda v: v * one.astype(v.dtype) if jnp.issubdtype(v.dtype, jnp.number) else v, x)


def scan(step: Any, carry: Any, xs: Any, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """lax.scan. Inside of `jax.shard_map` the carry varies over devices as xs do, also where it begins as zeros."""
    over = frozenset[str]().union(*map(varies, jax.tree.leaves((carry, xs))))
    carry = jax.tree.map(lambda v: varying(v, over), carry)
    return lax.scan(step, carry, xs, length=length, reverse=reverse)


def part_of(over: str, x: Any) -> Any:
    """Where places on the last axis but one begin, on a device along the axis `over` that has a part of the second."""
    return lax.axis_index(over) * x.shape[1] if x.ndim == 3 else 0


def sharers(v: Any) -> int:
    """Over how many devices XLA divides the work on an array: more than one under `jit` over a mesh."""
    mesh = jax.typeof(v).sharding.mesh
    axes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in axes if kind != jax.sharding.AxisType.Manual)


def shared(*arrays: Any) -> bool:
    """Whether several devices hold parts of the arrays."""
    return any(sharers(v) > 1 for v in arrays)


def fold(v: Any) -> Any:
    """(t, b, ...) as (t b, ...), or as (b t, ...) where devices share the batch: in front it stays where it is."""
    v = v.swapaxes(0, 1) if shared(v) else v
    return v.reshape(v.shape[0] * v.shape[1], *v.shape[2:])


def varies(v: Any) -> frozenset[str]:
    """The axes of the mesh over which a value differs from device to device, inside of `jax.shard_map`."""
    return getattr(getattr(jax.typeof(v), "mat", None), "varying", frozenset())


def varying(v: Any, over: frozenset[str]) -> Any:
    """v as a value that differs over these axes."""
    missing = tuple(sorted(over - varies(v)))
    return lax.pcast(v, missing, to="varying") if missing else v
