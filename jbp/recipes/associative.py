"""Associative memories: networks that complete what they have seen before."""

from typing import Any

import jax.numpy as jnp

from jbp.fields import Size, checked
from jbp.layers.attention.multihead import MultiHeadAttention
from jbp.layers.linear.dense import Dense


@checked
def hopfield(units: Size) -> Dense:
    """The field s W on each of the ±1 units, W symmetric with a zero diagonal. Goes with BinaryCrossEntropy of the s.

    Units that align with their field, one at a time, go down the energy −½ s W sᵀ. (Hopfield, *Neural Networks and
    Physical Systems with Emergent Collective Computational Abilities*, 1982.) The gradient has to be made symmetric,
    as in examples/hopfield.py.

    >>> net, x = jbp.recipes.hopfield(5), jnp.ones((1, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (1, 5)
    """
    return Dense(units, bias=False)


@checked
def modern_hopfield(features: Size, sharpness: float) -> tuple[MultiHeadAttention, Any]:
    """(layer, parameters): recall from (states (b, n, features), patterns (b, m, features)), softmax(β s Xᵀ) X.

    This is s less the gradient of the energy ½ s sᵀ − log(Σ exp(β s Xᵀ)) / β: one step down. (Ramsauer et al.,
    *Hopfield Networks is All You Need*, 2021, §2.) With other parameters, `init`'s say, it is attention.

    >>> patterns = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> layer, params = jbp.recipes.modern_hopfield(2, sharpness=8.0)
    >>> layer(params, (jnp.array([[[0.9, 0.2]]]), patterns))
    Array([[[0.996, 0.004]]], dtype=float32)
    """
    one = jnp.eye(features)
    q, o = sharpness * features**0.5 * one[:, None, None, :], one[None, None]
    return MultiHeadAttention(1), {"q": q, "k": one[:, None, :], "v": one[:, None, :], "o": o}
