"""Weights of Keras."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jbp import layers
from jbp.layer import Layer
from jbp.weights.reader import Arrays, Library, Reader, flat
from jbp.weights.rules import (
    ELMANS,
    EMBEDDINGS,
    GRUS,
    LSTMS,
    NORMS,
    attention,
    depthwise_kernel,
    for_all,
    gates,
    gru_bias,
    last_gate,
    one,
    reshaped,
    turned,
)

_RULES = {
    layers.Dense: {"w": one("kernel"), "b": one("bias")},
    layers.Conv: {"w": one("kernel", depthwise_kernel), "b": one("bias")},
    layers.ConvTranspose: {"w": one("kernel", lambda layer, shape, a: np.swapaxes(a, -1, -2)), "b": one("bias")},
    **for_all(EMBEDDINGS, e=[*one("embeddings"), *one("kernel", turned)]),
    layers.Positions: {"p": [*one("embeddings"), *one("", reshaped)]},
    layers.PReLU: {"a": one("alpha", reshaped)},
    **for_all(
        NORMS, g=[*one("gamma"), *one("scale")], b=one("beta"), mean=one("moving_mean"),
        variance=one("moving_variance"),
    ),
    layers.MultiHeadAttention: attention("attention_output"),
    **for_all(
        LSTMS, w=one("kernel", gates((0, 1, 3, 2))), u=one("recurrent_kernel", gates((0, 1, 3, 2))),
        b=one("bias", gates((0, 1, 3, 2))),
    ),
    **for_all(
        GRUS, w=one("kernel"), u=one("recurrent_kernel"), c=one("bias", last_gate),
        b=one("bias", lambda layer, shape, a: gru_bias((0, 1, 2))(layer, shape, *a) if a.ndim == 2 else a),
    ),
    **for_all(ELMANS, w=one("kernel"), u=one("recurrent_kernel"), b=one("bias")),
}  # fmt: skip

KERAS = Library("from_keras", _RULES)


def from_keras(
    net: Layer, x: Any, arrays: Arrays, names: Mapping[str, str] | None = None, *, ignore: Iterable[str] = ()
) -> Any:
    """The network's parameters out of Keras 3: {w.path: w for w in model.weights}.

    `names` and `ignore` are as of `from_torch`: "sequential/dense_1". Keys of its dropout are left over in any case.

    >>> arrays = {"sequential/dense/kernel": np.ones((3, 4)), "sequential/dense/bias": np.zeros(4)}
    >>> params = jbp.weights.from_keras(Dense(4), jnp.ones((1, 3)), arrays)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': (3, 4)}
    """
    return Reader(KERAS, flat(arrays), names, (*ignore, "*seed_generator_state"))(net, x)
