"""Hand-written layers for people who call `jax.grad`: in plain JAX, Flax or Equinox."""

from typing import Any

import jax

from jbp.layer import Layer


def as_function(layer: Layer) -> Any:
    """f(params, x) -> y, a function whose reverse-mode derivative is the layer's own way back.

    It composes with jit, vmap, grad and scan like any `jax.custom_vjp` function; Buffers, integers and keys get zero
    cotangents. Not differentiable in forward mode, as no custom_vjp function is.
    """

    @jax.custom_vjp
    def f(params, x):
        return layer.forward(params, x)[0]

    def forward(params, x):
        y, residuals = layer.forward(params, x)
        return y, (params, residuals)

    def backward(kept, dy):
        params, residuals = kept
        dx, dparams = layer.pull(params, residuals, dy)
        return dparams, dx

    f.defvjp(forward, backward)
    return f
