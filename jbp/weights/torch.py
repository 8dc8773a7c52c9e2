"""Weights of PyTorch."""

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
    for_all,
    gates,
    gru_bias,
    kernel,
    last_gate,
    one,
    reshaped,
    third,
    transposed_kernel,
    turned,
)

_RULES = {
    layers.Dense: {"w": one("weight", turned), "b": one("bias")},
    layers.Bilinear: {"w": one("weight", lambda layer, shape, a: np.moveaxis(a, 0, -1)), "b": one("bias")},
    layers.Conv: {"w": one("weight", kernel), "b": one("bias")},
    layers.ConvTranspose: {"w": one("weight", transposed_kernel), "b": one("bias")},
    **for_all(EMBEDDINGS, e=one("weight")),
    layers.Positions: {"p": [*one("weight"), *one("", reshaped)]},
    layers.PReLU: {"a": one("weight", reshaped)},
    **for_all(
        NORMS, g=one("weight"), b=one("bias"), mean=one("running_mean"), variance=one("running_var"),
        steps=one("num_batches_tracked", lambda layer, shape, a: np.maximum(a, 1)),
    ),
    layers.MultiHeadAttention: {
        **{
            ours: [*one("in_proj_weight", third(k, True)), *one(f"{ours}_proj_weight", turned)]
            for k, ours in enumerate("qkv")
        },
        **{f"b_{ours}": one("in_proj_bias", third(k)) for k, ours in enumerate("qkv")},
        "o": one("out_proj.weight", turned),
        "b_o": one("out_proj.bias"),
        "bias_k": one("bias_k", reshaped),
        "bias_v": one("bias_v", reshaped),
    },
    **for_all(
        LSTMS, w=one("weight_ih{}", gates((0, 1, 3, 2), 0)), u=one("weight_hh{}", gates((0, 1, 3, 2), 0)),
        b=[(("bias_ih{}", "bias_hh{}"), gates((0, 1, 3, 2)))], p=one("weight_hr{}", turned),
    ),
    **for_all(
        GRUS, w=one("weight_ih{}", gates((1, 0, 2), 0)), u=one("weight_hh{}", gates((1, 0, 2), 0)),
        b=[(("bias_ih{}", "bias_hh{}"), gru_bias((1, 0, 2)))], c=one("bias_hh{}", last_gate),
    ),
    **for_all(
        ELMANS, w=one("weight_ih{}", turned), u=one("weight_hh{}", turned),
        b=[(("bias_ih{}", "bias_hh{}"), gates((0,)))],
    ),
}  # fmt: skip

TORCH = Library("from_torch", _RULES, channels_first=True)


def from_torch(
    net: Layer, x: Any, arrays: Arrays, names: Mapping[str, str] | None = None, *, ignore: Iterable[str] = ()
) -> Any:
    """The network's parameters out of a state_dict of PyTorch; x is an input, or its shape.

    `names` has the prefix of a module for the path of a layer, {"body/0": "features.0"}; inside of a Repeat {} in it is
    the number of the time, {"blocks/norm": "h.{}.ln_1"}. Layers that are not in it take the modules that are left, in
    order. What fits a pattern in `ignore` may be left over. A Dense after a Flatten of images gets its rows in our
    order, in which channels are last; after a Concatenate of such it does not. Keys of dropout are new.

    Raises TreeError, with the names, for what is missing, left over or of another shape.

    >>> state_dict = {"0.weight": np.ones((4, 3)), "0.bias": np.zeros(4)}  # of torch.nn.Linear(3, 4)
    >>> params = jbp.weights.from_torch(Dense(4), jnp.ones((1, 3)), state_dict)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': (3, 4)}
    """
    return Reader(TORCH, flat(arrays), names, ignore)(net, x)
