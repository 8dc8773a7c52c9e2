"""Tangents: which way the output moves when the input and the parameters do. No layer has a rule for it.

`pull` is linear in dy, dy ↦ Jᵀ dy, and the transpose of that linear map is (dx, dparams) ↦ J (dx, dparams). JAX
transposes programs; so a layer's backward pass is its forward tangent too, and nothing is written, or audited, twice.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jbp.errors import LayerError, show
from jbp.layer import Layer
from jbp.numerics import floating
from jbp.sweep import inside, must_be_layer


def push(net: Layer) -> Callable[..., tuple[Any, Any]]:
    """f(params, x, dx=None, dparams=None) -> (y, dy): dy = J_x dx + J_params dparams, as `jax.jvp` would have it.

    dx is a tree like x, with None for integers and keys, dparams one like `trainable(params)`; None stands for zeros,
    and what it would cost is saved. dy has None for integers. The operations are those of two forward passes, or three
    with both (how-to/curvature.md has the figures). A layer that is on purpose no derivative (`jbp.credit`) is pushed
    by the transpose of what it sends down.

    Raises LayerError for tangents that do not fit, and for a layer whose backward pass is not linear in dy.

    >>> net, x = Serial(Dense(1, bias=False), Tanh()), jnp.zeros((1, 2))
    >>> params = net.init(jax.random.key(0), x)
    >>> y, dy = jbp.readers.push(net)(params, x, dparams=params)  # at x = 0 weights move nothing
    >>> dy
    Array([[0.]], dtype=float32)
    >>> y, dy = jbp.readers.push(net)(({"w": jnp.array([[2.0], [3.0]])}, ()), x, dx=jnp.ones((1, 2)))
    >>> dy
    Array([[5.]], dtype=float32)
    """
    must_be_linear(net)

    def f(params, x, dx=None, dparams=None):
        y, residuals = net.forward(params, x)
        return y, pushed(net, params, y, residuals, dx, dparams)

    return f


def must_be_linear(net: Layer) -> None:
    """An error unless it is a layer whose backward pass is linear in dy, and so are those inside."""
    must_be_layer("net", net)
    for layer in inside(net):
        if layer.estimator == "nonlinear":
            raise LayerError(
                layer,
                "got a layer whose backward pass is not linear in dy; expected one with a transpose. "
                "Put the layer that it stands for in its place.",
            )


def pushed(net: Layer, params: Any, y: Any, residuals: Any, dx: Any = None, dparams: Any = None) -> Any:
    """dy out of what `forward` has left: `pull` the other way round."""
    given = {name: v for name, v in (("x", dx), ("params", dparams)) if v is not None}

    def down(dy):
        return {name: down for name, down in zip(("x", "params"), net.pull(params, residuals, dy), strict=True)
                if name in given}  # fmt: skip

    # Not jax.linear_transpose: it wants every operation linear, and Remat and LinearCrossEntropy look at dy on the way,
    # at whether it is there and at how large it is. A derivative is of values. It is the same at any dy but 0, where a
    # layer may have been told that nothing is wanted.
    like, transpose = jax.vjp(down, jax.tree.map(jnp.ones_like, floating(y)))
    for name, v in given.items():
        if _shapes(v) != _shapes(like[name]):
            raise LayerError(
                net,
                f"got the tangent {show(v)} of {name}; expected {show(like[name])}. Make it with "
                f"jax.tree.map(jnp.ones_like, {'trainable(params)' if name == 'params' else name}), for example, with "
                "None for what is of integers.",
            )
    return transpose(given)[0]


def _shapes(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(v), jnp.result_type(v)) for v in leaves]
