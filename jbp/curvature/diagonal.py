"""The diagonal of the Gauss-Newton and the Fisher matrix."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jbp.curvature.products import curved, errors
from jbp.errors import LayerError, show
from jbp.fields import Count, Size, checked
from jbp.layer import Layer
from jbp.numerics import is_float, scan, wide
from jbp.readers.per_example import must_not_couple, swept
from jbp.sweep import must_be_layer

__all__ = ["diagonal"]


@checked
def diagonal(
    net: Layer,
    loss: Layer,
    of: Literal["exact", "sampled", "empirical"] = "sampled",
    draws: Size = 1,
    seed: Count = 0,
) -> Callable[..., Any]:
    """f(params, x, *targets, step=0) -> the diagonal of a curvature matrix, a tree like `trainable(params)`.

    "exact": of `ggn`, by a column of the root of the loss's Hessian for each number that an example has for output; it
    suits ten classes, not a vocabulary. "sampled" and "empirical": of `fisher`, by one backward pass for each draw, or
    one in all. Of each of these the squares of the examples' gradients are added up, which one sweep tells; a map of
    one row an example has them as a product. Values are float32 at least.

    Raises LayerError where `per_example` does: for a layer or a loss that mixes the examples. "sampled" also for a loss
    of which nothing can be drawn, "exact" for an output that is not one array.

    >>> net, x = Dense(1), jnp.array([[1.0], [3.0]])
    >>> params = net.init(jax.random.key(0), x)
    >>> jbp.curvature.diagonal(net, MeanSquaredError(), "exact")(params, x, jnp.zeros((2, 1)))
    {'b': Array([2.], dtype=float32), 'w': Array([[10.]], dtype=float32)}
    """
    must_be_layer("net", net)
    must_be_layer("loss", loss)
    must_not_couple(loss)

    def f(params, x, *targets, step=0):
        columns = {}

        def first(output):
            if not hasattr(output, "dtype") or not is_float(output) or output.ndim < 2:
                raise LayerError(
                    net, f"got the output {show(output)}; expected one array, examples first. Select one of them."
                )
            if of == "exact":
                columns["s"], columns["signs"] = _roots(loss, output, targets)
            else:
                key = jax.random.fold_in(jax.random.key(seed), step)
                columns["s"] = errors(loss, output, targets, of, draws, key)
                columns["signs"] = jnp.ones(columns["s"].shape[:2], columns["s"].dtype)
            columns["s"] = columns["s"].astype(output.dtype)
            return jnp.zeros(output.shape[0]), columns["s"][0]

        found = swept(net, params, x, first)
        total = found.squares(columns["signs"][0])

        def add(total, now):
            s, signs = now
            delta = found.net.backward(params, found.residuals, s)[1]
            return jax.tree.map(jnp.add, total, replace(found, delta=delta).squares(signs)), None

        return scan(add, total, (columns["s"][1:], columns["signs"][1:]))[0]

    return f


def _roots(loss: Layer, output: Any, targets: tuple[Any, ...]) -> tuple[Any, Any]:
    """s (m, b, ...) and signs (m, b): Σ sign s sᵀ is the Hessian of the loss by each example's m outputs."""
    b, shape = output.shape[0], output.shape[1:]
    m = output[0].size
    product = curved(loss, output, *targets)

    def column(e):
        return wide(product(jnp.broadcast_to(e.reshape(1, *shape), output.shape))).reshape(b, m)

    hessians = jnp.moveaxis(jax.lax.map(column, jnp.eye(m, dtype=output.dtype)), 0, 1)  # no example is in another's
    values, vectors = jnp.linalg.eigh(hessians)
    s = jnp.sqrt(jnp.abs(values))[:, None] * vectors  # (b, m, columns)
    return jnp.moveaxis(s, -1, 0).reshape(m, b, *shape), jnp.sign(values).T
