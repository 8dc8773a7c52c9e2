"""Errors that name the layer by its path in the network, what came, what was expected, and what to do."""

from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class LayerError(ValueError):
    """`Serial[2].Residual: Conv(8, (3, 3)): got x float32[4, 5]; expected ...`. `path` grows as the error rises.

    `layer` is the layer, or its class where it could not be made, or a function of jbp's that was called wrongly.
    """

    def __init__(self, layer: Any, message: str):
        super().__init__(layer, message)
        self.layer, self.message = layer, message
        self.path: tuple[str, ...] = ()

    def __str__(self):
        named = isinstance(self.layer, type) or not hasattr(self.layer, "forward")
        name = (named and getattr(self.layer, "__name__", "")) or repr(self.layer)
        return f"{''.join(step + '.' for step in self.path)[:-1]}{': ' * bool(self.path)}{name}: {self.message}"


class TreeError(ValueError):
    """Two trees that should have one structure do not."""


class FileError(ValueError):
    """A file that cannot be loaded: torn, of another network or optimizer, or not written by `jbp.save`."""


_NOTE = "in the layer "


@contextmanager
def at(layer: Any, label: str = ""):
    """Around a combinator's call of a child: names the place in errors, and in the compiler's metadata."""
    step = type(layer).__name__ + label
    try:
        with jax.named_scope(step):
            yield
    except LayerError as error:
        error.path = (step, *error.path)
        raise
    except Exception as error:
        ours = _ours(error)
        if ours:
            error.__notes__[ours[-1]] = f"{_NOTE}{step}.{error.__notes__[ours[-1]].removeprefix(_NOTE)}"
        else:
            error.add_note(f"{_NOTE}{step}")
        raise


def note(error: Exception, layer: Any) -> None:
    """A note of the layer, on an error that has none yet."""
    if not _ours(error):
        error.add_note(f"{_NOTE}{layer!r}")


def _ours(error):
    """Which of an error's notes are ours: JAX may have put some between."""
    return [i for i, note in enumerate(getattr(error, "__notes__", [])) if note.startswith(_NOTE)]


def show(tree: Any) -> str:
    """A pytree of arrays in short: float32[4, 5] for an array, the structure with such leaves for a tree."""

    def leaf(x):
        if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, type):
            return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
        return type(x).__name__

    def walk(x):
        if isinstance(x, dict):
            return "{" + ", ".join(f"{k!r}: {walk(v)}" for k, v in x.items()) + "}"
        if isinstance(x, tuple | list):
            return "(" + ", ".join(walk(v) for v in x) + ")"
        if getattr(x, "is_buffer", False):
            return f"Buffer({walk(x.value)})"
        return leaf(x)

    return walk(tree)


def known(x: Any) -> bool:
    """Whether the values of x can be looked at: not while tracing, nor of shapes, nor of parts in other processes."""
    return not isinstance(x, Tracer | jax.ShapeDtypeStruct) and getattr(x, "is_fully_addressable", True)


def check_cotangent(layer: Any, y: Any, dy: Any, whence: str = "") -> None:
    """An error unless dy has the tree, shapes and dtypes of y; None stands for what has none, integers and keys.

    Within a layer arithmetic would broadcast it, or move it to another dtype, without a word.
    """
    ys, tree = jax.tree.flatten(y)
    try:
        dys = tree.flatten_up_to(dy)
    except ValueError:
        dys = None

    def fits(a, d):
        if d is None:
            return not jnp.issubdtype(a.dtype, jnp.inexact)
        return getattr(d, "shape", None) == jnp.shape(a) and getattr(d, "dtype", None) == jnp.result_type(a)

    if dys is None or not all(map(fits, ys, dys)):
        raise LayerError(
            layer,
            f"got the cotangent {show(dy)}{whence} of the output {show(y)}; expected the same tree, shapes and dtypes. "
            "Reshape dy, or cast it with dy.astype(y.dtype).",
        )


def passed(layer: Any, outline: Any, dy: Any) -> Any:
    """dy as it is, after a check that it is like the output, of which `outline` (jbp.numerics) was kept."""
    check_cotangent(layer, jax.ShapeDtypeStruct(outline.shape[:-1], outline.dtype), dy)
    return dy


def must_be_there(layer: Any, dy: Any) -> Any:
    """dy, after a check that there is one: for tables, whose gradient alone reads it."""
    if dy is None:
        raise LayerError(layer, "got the cotangent None; expected an array like the output. jnp.zeros_like(y) is none.")
    return dy


def floats(layer: Any, x: Any, axes: str, least: int = 1, rank: int | None = None) -> Any:
    """x, after a check that it is a floating array with `rank` axes, or at least `least`, described by `axes`."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        raise LayerError(
            layer,
            f"got x {show(x)}; expected a floating-point array {axes}. "
            "Cast it with x.astype(jnp.float32), or put an Embedding before this layer if x holds indices.",
        )
    if len(x.shape) != rank if rank is not None else len(x.shape) < least:
        wanted = f"{rank} axes" if rank is not None else f"{least} or more axes"
        raise LayerError(
            layer,
            f"got x {show(x)}; expected {wanted} {axes}. "
            "Add the missing axes with x[..., None] or x[None], or reshape x.",
        )
    return x


def take(layer: Any, params: Any, dtype: Any, /, **shapes: tuple[int, ...]) -> list[Any]:
    """The named arrays out of a layer's own dict of parameters, as they are, each checked against its shape.

    They are floating, of one dtype, which is x's (`dtype`) or one that holds all of its values: weights in float32
    beside activations in bfloat16. Buffers are unwrapped; their dtype is their own business. So a layer computes with
    `wide(g)` what it computes in float32 anyway, and with `w.astype(x.dtype)` what it multiplies with x, in `forward`
    and in `backward`. The outputs are of x's dtype. The gradients are of the parameters': `backward` gives delta in it
    (`dy.astype(w.dtype)`), and `gradient` returns the dtype of delta, as `numerics.outer(x, delta)` does. Without names
    it is a check that there are no parameters.
    """
    if not shapes and not jax.tree.leaves(params):
        return []
    if not shapes or not isinstance(params, dict) or set(params) != set(shapes):
        raise LayerError(
            layer,
            f"got parameters {show(params)}; expected "
            f"{'a dict with ' + ', '.join(map(repr, shapes)) if shapes else '(), for it has none'}. "
            "Are these the parameters of another network? Make them with net.init(key, x)."
            + " It is called with parameters and one input, layer((), x)."
            * (not shapes),
        )
    found, first = [], None
    for name, shape in shapes.items():
        p = params[name]
        buffer = getattr(p, "is_buffer", False)
        p = p.value if buffer else p
        if p is None:
            raise LayerError(
                layer,
                f"got no {name!r}; expected {dtype}{list(shape)}. It was taken out, by trainable(params) "
                "perhaps: put it back with merge(trainable(params), buffers(params)).",
            )
        if getattr(p, "shape", None) != tuple(shape):
            raise LayerError(
                layer,
                f"got {name!r} {show(p)}; expected shape {list(shape)}. "
                "Are these the parameters of another network, or is the trailing size of x wrong?",
            )
        if buffer and jnp.issubdtype(p.dtype, jax.dtypes.prng_key) != (name == "key"):
            raise LayerError(
                layer,
                f"got {name!r} {show(p)}; expected {'a random key' if name == 'key' else 'numbers'}. "
                "Make the parameters with net.init(key, x).",
            )
        if not buffer:
            first = p if first is None else first
            if p.dtype != first.dtype or not _holds(p.dtype, dtype):
                raise LayerError(
                    layer,
                    f"got {name!r} {show(p)} with x in {dtype}; expected one dtype for all parameters, that of x or a "
                    f"wider one. Cast the parameters with jbp.cast(params, {str(dtype)!r}), or x.",
                )
        found.append(p)
    return found


def _holds(wider: Any, dtype: Any) -> bool:
    """Whether every value of a floating dtype is one of the other, too."""
    if not jnp.issubdtype(wider, jnp.floating):
        return False
    one, other = jnp.finfo(wider), jnp.finfo(dtype)
    return one.nmant >= other.nmant and one.maxexp >= other.maxexp


def indices(layer: Any, ids: Any, below: int, what: str) -> None:
    """An error unless ids is an integer array with values in [0, below), which is looked at where they can be known."""
    if not hasattr(ids, "dtype") or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise LayerError(layer, f"got {what} {show(ids)}; expected an integer array. Cast it with .astype(jnp.int32).")
    if not known(ids) or not ids.size:
        return
    seen = np.asarray(ids)  # numpy, for a constant inside of jit is known, but jax.numpy would trace it
    if seen.min() < 0 or seen.max() >= below:
        raise LayerError(
            layer,
            f"got {what} between {seen.min()} and {seen.max()}; expected 0 <= {what} < {below}. "
            "Is the vocabulary or the number of classes too small, or are they counted from 1?",
        )


def parts(layer, x, *names):
    """x, after a check that it is a tuple with an entry for each of `names`."""
    if not isinstance(x, tuple | list) or len(x) != len(names):
        raise LayerError(layer, f"got {show(x)}; expected the tuple ({', '.join(names)}). Pass them as one argument.")
    return x
