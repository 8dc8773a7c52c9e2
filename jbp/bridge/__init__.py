"""Hand-written layers for people who call `jax.grad`: in plain JAX, Flax, Equinox or Haiku.

`jbp.bridge.nnx`, `linen`, `equinox` and `haiku` have a Module each, which needs that library; `foreign.Lambda` is the
other way about, a function of somebody else's as a layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.layer import Layer
from jbp.numerics import Static, varies, varying
from jbp.params import trainable
from jbp.sweep import must_advance, must_be_layer


def as_function(layer: Layer, has_aux: bool = False) -> Any:
    """f(params, x) -> y, a function whose reverse-mode derivative is the layer's own backward pass.

    It composes with jit, vmap, grad and scan like any `jax.custom_vjp` function; Buffers, integers and keys get zero
    cotangents. Not differentiable in forward mode, as no custom_vjp function is.

    With has_aux, f returns (y, advanced), the parameters with their buffers moved on for the next call. A layer with
    buffers that advance (Dropout's key, BatchNorm's statistics) must be asked so, for with the old ones it would draw
    the same mask for ever:

        def value(trained, params, x):
            y, advanced = as_function(net, has_aux=True)(merge(trained, buffers(params)), x)
            return jnp.square(y).mean(), advanced

        (value, advanced), grads = jax.value_and_grad(value, has_aux=True)(trainable(params), params, x)

    Raises LayerError if the layer advances and has_aux is not set.

    >>> f, params = as_function(StraightThroughSign()), ()
    >>> jax.grad(lambda x: f(params, x).sum())(jnp.array([0.5, -2.0]))
    Array([1., 0.], dtype=float32)
    """
    must_be_layer("layer", layer)
    must_advance(layer, has_aux, "the second of the pair (y, advanced)")

    def run(params, x):
        y, residuals = layer.forward(params, x)
        return (y, layer.advance(params, residuals)) if has_aux else y, residuals

    @jax.custom_vjp
    def f(params, x):
        return run(params, x)[0]

    def forward(params, x):
        out, residuals = run(params, x)
        return out, (params, residuals, Static((jax.tree.structure(x), tuple(map(varies, jax.tree.leaves(x))))))

    def backward(kept, dout):
        params, residuals, given = kept
        dy = jax.tree.map(jnp.asarray, dout[0] if has_aux else dout)  # jax.linear_transpose hands on Python's 1.0
        dx, grads = layer.pull(params, residuals, dy)
        if has_aux:  # what is trained goes through `advance` as it is
            grads = jax.tree.map(jnp.add, grads, trainable(dout[1]))
        structure, over = given.value
        if not any(over) and not any(map(varies, jax.tree.leaves((params, dout)))):
            return grads, dx  # not inside of jax.shard_map, or not with its check
        dx = [_as_given(*pair) for pair in zip(over, structure.flatten_up_to(dx), strict=True)]
        grads = jax.tree.map(lambda p, g: _as_given(varies(p), g), trainable(params), grads)
        return grads, jax.tree.unflatten(structure, dx)

    f.defvjp(forward, backward)
    return f


def _as_given(over: frozenset[str], d: Any) -> Any:
    """Inside of `jax.shard_map` the cotangent of what is alike on all devices of an axis is the sum of theirs."""
    if d is None:
        return None
    own = varies(d)
    return varying(lax.psum(d, tuple(sorted(own - over))) if own - over else d, over)
