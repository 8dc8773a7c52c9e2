"""What each layer of the catalogue keeps for its backward pass, in bytes, beside `jax.vjp` of its definition.

    python -m benchmarks.residuals

Parameters are not counted, for they live on anyway, and what is kept twice counts once. Nothing is run: the bytes are
those of the arrays that leave the traced forward.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

import jbp
from jbp.cases import Array
from jbp.catalogue import LAYERS, LOSSES
from jbp.params import buffers, merge, trainable
from jbp.sweep import initialize

# Layers that keep more than `jax.vjp` of the definition, with the reason
MORE = {
    jbp.layers.LoRA: "x U, a few numbers a row; the definition forms W + c U V instead, which is larger than x U",
    jbp.layers.LeakyReLU: "y, which the next layer holds anyway; a mask would be one array more",
}


def kept(net: Any, params: Any, x: Any) -> tuple[int, int, list[Any]]:
    """(bytes that the backward pass keeps, those that jax.vjp of the definition keeps, weights among the former)."""

    def size(variables, given):  # a literal has a val
        arrays = {id(v): v.aval for v in variables if not hasattr(v, "val") and id(v) not in given}
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values())

    weights, fixed = trainable(params), jax.tree.map(lambda v: None if _is_float(v) else v, x)

    def vjp(p, v):
        return jax.vjp(lambda p, v: net.reference(merge(p, buffers(params)), merge(v, fixed)), p, v)

    v = jax.tree.map(lambda v: v if _is_float(v) else None, x)
    ours = jax.make_jaxpr(lambda p, x: net.forward(p, x)[1])(params, x).jaxpr
    theirs = jax.make_jaxpr(lambda p, v: vjp(p, v)[1])(weights, v).jaxpr
    given = {id(v) for v in ours.invars[: len(jax.tree.leaves(params))]}
    held = {id(v) for v in theirs.invars[: len(jax.tree.leaves(weights))]}
    floats = [id(v) for v, p in zip(ours.invars, jax.tree.leaves(params), strict=False) if _is_float(p)]
    return size(ours.outvars, given), size(theirs.outvars, held), [v for v in ours.outvars if id(v) in floats]


def _is_float(v):
    return jnp.issubdtype(v.dtype, jnp.floating)


def main() -> None:
    cases, less = (*LAYERS, *LOSSES), 0
    print("   bytes  jax.vjp  ratio  layer")
    for case in cases:
        x = jax.tree.map(_example, case.inputs[-1], is_leaf=lambda a: isinstance(a, Array))
        ours, theirs, _ = kept(case.layer, initialize(case.layer, jax.random.key(0), x), x)
        less += ours < theirs
        ratio = f"{ours / theirs:5.2f}" if theirs else "    -"
        why = f"  (keeps {MORE[type(case.layer)]})" if ours > theirs else ""
        print(f"{ours:8d} {theirs:8d}  {ratio}  {case.layer!r}{why}")
    print(f"{len(cases)} configurations; {less} keep less than jax.vjp of their definition")


def _example(array):
    return jnp.ones(array.shape) if array.below is None else jnp.zeros(array.shape, jnp.int32)


if __name__ == "__main__":
    main()
