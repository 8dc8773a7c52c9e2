"""What the rules of several libraries have in common: the ways in which their arrays become ours.

Each is a function (layer, the shape of ours, theirs, ...); ValueError says that it does not fit.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jbp import layers
from jbp.weights.reader import Ways

NORMS = layers.LayerNorm, layers.RMSNorm, layers.GroupNorm, layers.BatchNorm, layers.InstanceNorm
EMBEDDINGS = layers.Embedding, layers.EmbeddingBag, layers.Logits
LSTMS, GRUS, ELMANS = (layers.LSTM, layers.LSTMCell), (layers.GRU, layers.GRUCell), (layers.Elman, layers.ElmanCell)


def same(layer, shape, a):
    return a


def turned(layer, shape, a):
    """A matrix, or what is one but for its axes, of outputs and inputs."""
    return a.T.reshape(shape)


def reshaped(layer, shape, a):
    return a.reshape(shape)


def kernel(layer, shape, a):
    return np.moveaxis(a, (0, 1), (-1, -2))


def transposed_kernel(layer, shape, a):
    """PyTorch's (i, o / groups, kernel...) as (kernel..., i / groups, o), the groups being those of o."""
    w = a.reshape(layer.groups, -1, *a.shape[1:])
    return np.moveaxis(w, (0, 1, 2), (-2, -3, -1)).reshape(shape)


def flipped_kernel(layer, shape, a):
    return np.flip(a, tuple(range(a.ndim - 2)))


def depthwise_kernel(layer, shape, a):
    """Keras's depthwise (kernel..., i, m) as (kernel..., 1, i m), each channel a group."""
    return a.reshape(shape) if layer.groups == a.shape[-2] else a


def third(k, turn=False):
    """The k-th of three parts: PyTorch has the projections of queries, keys and values in one."""

    def part(layer, shape, a):
        a = np.split(a, 3)[k]
        return (a.T if turn else a).reshape(shape)

    return part


def gates(order, axis=-1):
    """Their gates in our order; of several arrays, the two biases of PyTorch, the sum."""

    def ordered(layer, shape, *arrays):
        parts = np.split(sum(arrays), len(order), axis)
        whole = np.concatenate([parts[k] for k in order], axis)
        return whole.T if whole.ndim == 2 and axis == 0 else whole

    return ordered


def joined_gates(layer, shape, *arrays):
    return np.concatenate(arrays, -1)


def gru_bias(order):
    """The bias of the input, and that of the state added but for the candidate, which has its own."""

    def ordered(layer, shape, *arrays):
        if not layer.reset_after:
            raise ValueError("no such bias")
        a, c = (np.split(v, 3, -1) for v in arrays)
        return np.concatenate([a[order[0]] + c[order[0]], a[order[1]] + c[order[1]], a[order[2]]])

    return ordered


def last_gate(layer, shape, a):
    return np.split(a.reshape(-1), a.size // shape[0])[-1]


def one(name: str, change: Callable[..., Any] = same) -> Ways:
    """The one way that there is: out of one array."""
    return [((name,), change)]


def for_all(kinds: tuple[type, ...], **rules: Any) -> dict[type, dict[str, Any]]:
    """The same rules for several types of layers."""
    return dict.fromkeys(kinds, rules)


def attention(out: str) -> dict[str, Any]:
    """Of Flax and Keras, but for what they call the last projection."""
    theirs = {"q": "query", "k": "key", "v": "value", "o": out}
    kernels = {ours: one(f"{name}.kernel", reshaped) for ours, name in theirs.items()}
    return kernels | {f"b_{ours}": one(f"{name}.bias", reshaped) for ours, name in theirs.items()}
