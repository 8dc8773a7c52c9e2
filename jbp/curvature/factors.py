"""Kronecker factors of the Fisher matrix, out of a sweep.

The Fisher matrix of an affine map's weights and bias is taken for A ⊗ G, A the second moments of what goes in (1 with
it for the bias), G those of the errors at what comes out; a sweep has both in hand (Martens & Grosse, *Optimizing
Neural Networks with Kronecker-factored Approximate Curvature*, 2015; for convolutions Grosse & Martens, 2016; through
time Martens et al., 2018). Where tokens or places share a map, each is a row ("expand"), or the rows of an example are
put together first ("reduce": Eschenhagen et al., *Kronecker-Factored Approximate Curvature for Modern Neural Network
Architectures*, 2023, §3).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jbp.curvature.products import errors
from jbp.fields import Count, check
from jbp.layer import Layer
from jbp.layers.embedding import Embedding
from jbp.layers.linear.dense import Logits
from jbp.readers.maps import Rows, maps, rows
from jbp.readers.observe import Seen, parted, shown
from jbp.sweep import lost, must_be_layer

__all__ = ["Factored", "Factors"]


class Factors(NamedTuple):
    """A (i, i) of what goes in, 1 with it for a bias, and G (o, o) of the errors. Of a table A is a diagonal (i,)."""

    a: Any
    g: Any


class FactoredAux(NamedTuple):
    """What the sweep has beside loss and gradient. `factors` and `rows` are offered to the optimizer.

    `rows` are what the factors are made of, left (b, rows, i) and right (b, rows, o): Σ leftᵀ right over those of an
    example is a gradient hᵢ, Σ hᵢ hᵢᵀ the block of the Fisher matrix. Where a table is looked up left are its indices.
    """

    output: Any
    params: Any
    factors: dict[str, Factors]
    rows: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Factored:
    """A sweep for `jbp.train.step` and `fit` that has Kronecker factors beside the gradient, as `sweep=Factored()`.

        A = Σ a aᵀ / rows      G = Σ s sᵀ, s errors with the curvature of the loss (`jbp.curvature.fisher`)

    for each affine map, by path: "[2]" is that of a Dense there, "[2]/q" one of several of a layer. In a Repeat they
    have a first axis of `times`. With "reduce" the rows of an example are put together first: a their mean, s their
    sum. `fisher` is "sampled", with errors for targets that are drawn from what the network says, one backward pass
    more, or "empirical", with those that are there. Draws follow from the seed and the number of the step. The rows of
    a table that is looked up (Embedding), or multiplied from the right (Logits), have the diagonal of their factor.

    Raises LayerError for a loss of which nothing can be drawn: SoftmaxCrossEntropy, BinaryCrossEntropy of scores and
    MeanSquaredError can.

    >>> net, x = Dense(1), jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> sweep = jbp.curvature.Factored(fisher="empirical").value_and_grad(net, MeanSquaredError())
    >>> (value, aux), grads = sweep({"w": jnp.zeros((2, 1)), "b": jnp.zeros(1)}, x, jnp.ones((2, 1)))
    >>> aux.factors[""].a  # of x and 1
    Array([[ 5.,  7.,  2.],
           [ 7., 10.,  3.],
           [ 2.,  3.,  1.]], dtype=float32)
    """

    fisher: Literal["sampled", "empirical"] = "sampled"
    shared: Literal["expand", "reduce"] = "expand"
    seed: Count = 0

    def __post_init__(self):
        check(self)

    def value_and_grad(self, net: Layer, loss: Layer) -> Any:
        """f(params, x, *targets, step) -> ((loss, aux with factors), gradient)."""
        must_be_layer("net", net)
        must_be_layer("loss", loss)
        seen, unseen = shown(net, {"factors": self._factors}), shown(net, {})  # of one residuals

        def f(params, x, *targets, step=0):
            output, residuals = seen.forward(params, x)
            value, dy = lost(loss, output, *targets)
            if self.fisher == "empirical":
                grads, found = parted(seen.pull(params, residuals, dy)[1])
                n = output.shape[0]
            else:
                grads, _ = parted(unseen.pull(params, residuals, dy)[1])
                key = jax.random.fold_in(jax.random.key(self.seed), step)
                s = errors(loss, output, targets, "sampled", 1, key)[0].astype(output.dtype)
                _, found = parted(seen.pull(params, residuals, s)[1])
                n = 1
            factors, rows = {}, {}
            for path, of in found.items():
                for name, (each, (left, right)) in of["factors"].items():
                    at = f"{path}/{name}" if name else path
                    factors[at] = Factors(each.a, n * each.g)
                    rows[at] = left, right * jnp.sqrt(jnp.asarray(n, right.dtype))
            return (value, FactoredAux(output, seen.advance(params, residuals), factors, rows)), grads

        return f

    def _factors(self, seen: Seen) -> dict[str, tuple[Factors, tuple[Any, Any]]] | None:
        if not (known := maps(seen.layer)):
            return None
        found = {}
        for name, each in rows(seen.layer, seen.residuals, seen.delta).items():
            bias, x, dy = known[name].bias is not None, *each
            if self.shared == "reduce" and x.ndim > 2:
                x, dy = x.mean(1, keepdims=True), dy.sum(1, keepdims=True)
            found[name] = _factors(seen.layer, Rows(x, dy), bias), _sides(seen.layer, each, bias)
        return found


def _sides(layer: Layer, rows: Rows, bias: bool) -> tuple[Any, Any]:
    """(left, right), whose products are added up in a gradient (i, o): of `Logits`, y = x Eᵀ, the errors are left."""
    x, dy = rows
    if isinstance(layer, Logits):
        return dy, x
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], -1) if bias else x, dy


def _factors(layer: Layer, rows: Rows, bias: bool) -> Factors:
    count = max(math.prod(rows.x.shape[:2]), 1)
    left, right = _sides(layer, rows, bias)
    g = jnp.einsum("bti,btj->ij", right, right)
    if isinstance(layer, Embedding):
        return Factors(jnp.zeros(layer.vocabulary, right.dtype).at[left.ravel()].add(1) / count, g)
    if isinstance(layer, Logits):
        return Factors(jnp.square(left).sum((0, 1)), g / count)
    return Factors(jnp.einsum("bti,btj->ij", left, left) / count, g)
