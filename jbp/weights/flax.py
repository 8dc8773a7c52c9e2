"""Weights of Flax."""

from collections.abc import Iterable, Mapping
from typing import Any

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
    flipped_kernel,
    for_all,
    joined_gates,
    one,
    reshaped,
    turned,
)


def _four(letters: str, end: str) -> tuple[str, ...]:
    return tuple(f"{two}.{end}" for two in letters.split())


_RULES = {
    layers.Dense: {"w": one("kernel"), "b": one("bias")},
    layers.Conv: {"w": one("kernel"), "b": one("bias")},
    layers.ConvTranspose: {"w": one("kernel", flipped_kernel), "b": one("bias")},
    **for_all(EMBEDDINGS, e=[*one("embedding"), *one("kernel", turned)]),
    layers.Positions: {"p": [*one("embedding"), *one("", reshaped)]},
    layers.PReLU: {"a": one("negative_slope", reshaped)},
    **for_all(NORMS, g=one("scale"), b=one("bias"), mean=one("mean"), variance=one("var")),
    layers.MultiHeadAttention: attention("out"),
    **for_all(
        LSTMS, w=[(_four("ii if io ig", "kernel"), joined_gates)],
        u=[(_four("hi hf ho hg", "kernel"), joined_gates)],
        b=[(_four("hi hf ho hg", "bias"), joined_gates)],
    ),
    **for_all(
        GRUS, w=[(_four("iz ir in", "kernel"), joined_gates)], u=[(_four("hz hr hn", "kernel"), joined_gates)],
        b=[(_four("iz ir in", "bias"), joined_gates)], c=one("hn.bias"),
    ),
    **for_all(ELMANS, w=one("i.kernel"), u=one("h.kernel"), b=one("i.bias")),
}  # fmt: skip

_MODULES = {
    layers.Dense: ("Dense",),
    layers.Conv: ("Conv",),
    layers.ConvTranspose: ("ConvTranspose",),
    layers.Embedding: ("Embed",),
    layers.Logits: ("Dense",),
    layers.PReLU: ("PReLU",),
    **{kind: (kind.__name__,) for kind in NORMS},
    layers.MultiHeadAttention: ("MultiHeadDotProductAttention", "MultiHeadAttention", "SelfAttention"),
    **dict.fromkeys(LSTMS, ("OptimizedLSTMCell", "LSTMCell")),
    **dict.fromkeys(GRUS, ("GRUCell",)),
    **dict.fromkeys(ELMANS, ("SimpleCell",)),
    Layer: ("Embed",),
}

FLAX = Library("from_flax", _RULES, _MODULES)


def from_flax(
    net: Layer, x: Any, arrays: Arrays, names: Mapping[str, str] | None = None, *, ignore: Iterable[str] = ()
) -> Any:
    """The network's parameters out of Flax: the variables of Linen, or the pure dict of an NNX state.

    `names` and `ignore` are as of `from_torch`, modules in modules joined by dots: "encoder.Dense_0". Dicts of Flax
    have no order that lasts, so without names modules have to be numbered by Linen, those of a kind in one place.

    >>> variables = {"params": {"Dense_0": {"kernel": np.ones((3, 4)), "bias": np.zeros(4)}}}
    >>> params = jbp.weights.from_flax(Dense(4), jnp.ones((1, 3)), variables)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': (3, 4)}
    """
    whole = "params" in arrays
    found = flat(arrays["params"]) | flat(arrays.get("batch_stats", {})) if whole else flat(arrays)
    return Reader(FLAX, found, names, ignore)(net, x)
