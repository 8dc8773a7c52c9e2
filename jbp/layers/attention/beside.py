"""What attention looks at beside queries, keys and values: masks, segments, biases, checked and in one form."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, show

BESIDE = "mask", "segments", "source_segments", "bias"


def is_float(x: Any) -> bool:
    """Whether x is an array of floats."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def parts(layer: Any, given: dict[str, Any], b: int, heads: int, n: int, m: int, dtype: Any) -> dict[str, Any]:
    """What `attend` takes of the inputs named in BESIDE, for n queries and m keys."""
    found = {}
    if "mask" in given:
        found["mask"] = whole_mask(layer, given["mask"], b, heads, n, m)
    for name, to, length in (("segments", "query_segments", n), ("source_segments", "segments", m)):
        part = given.get(name)
        if part is None:
            continue
        if is_float(part) or tuple(part.shape) != (b, length):
            raise LayerError(
                layer,
                f"got {name} {show(part)}; expected {name} of integers with shape {[b, length]}. "
                "Number the parts of each row: only equal numbers see each other.",
            )
        found[to] = part
    if len(found.keys() & {"query_segments", "segments"}) == 1:
        raise LayerError(
            layer,
            f"got {show(given)}; expected segments of x and of the source, or of neither. "
            "Give both `segments` and `source_segments`.",
        )
    if "segments" in found and found["segments"].dtype != found["query_segments"].dtype:
        kind = np.promote_types(found["segments"].dtype, found["query_segments"].dtype)
        found |= {name: found[name].astype(kind) for name in ("segments", "query_segments")}
    bias, whole = given.get("bias"), (b, heads, n, m)
    if bias is not None:
        if bias.dtype != dtype or bias.ndim != 4 or not _fits(bias.shape, whole):
            raise LayerError(
                layer,
                f"got bias {show(bias)}; expected a bias in {dtype} of shape {list(whole)}, any of which may be 1. "
                "It is added to the scores: add the missing axes with bias[None, None].",
            )
        found["bias"] = bias
    return found


def whole_mask(layer: Any, mask: Any, b: int, heads: int, n: int, m: int) -> Any:
    """A mask of one of the shapes that are taken as (b, heads, n, m), of which the first three may be 1."""
    if is_float(mask):
        raise LayerError(
            layer,
            f"got mask {show(mask)}; expected booleans or integers, not 0 where a key may be seen. "
            'Floats that are added to the scores are a bias: write {..., "bias": mask} with 4 axes, or mask == 0.',
        )
    shape = tuple(mask.shape)
    if shape == (b, m):
        return mask[:, None, None]
    if shape == (n, m):
        return mask[None, None]
    if len(shape) == 3 and shape[-1] == m and _fits(shape, (b, n, m)):
        return mask[:, None]
    if len(shape) == 4 and shape[-1] == m and _fits(shape, (b, heads, n, m)):
        return mask
    raise LayerError(
        layer,
        f"got mask {show(mask)}; expected a mask of booleans or integers with shape {[b, m]}, {[n, m]}, {[b, n, m]} or "
        f"{[b, heads, n, m]}. Let its last axis count the keys, and put 1 for what is the same for all.",
    )


def unseen(mask: Any) -> Any:
    """The keys that a whole mask hides from every query, (b, m), b perhaps 1."""
    return ~mask.astype(bool).any((1, 2))


def cleared(x: Any, hidden: Any) -> Any:
    """x with zeros for what is not finite where it is hidden: a weight of 0 times NaN would be NaN."""
    return jnp.where(hidden & ~jnp.isfinite(x), jnp.zeros((), x.dtype), x)


def _fits(shape, whole):
    return all(a in (1, b) for a, b in zip(shape, whole, strict=True))
