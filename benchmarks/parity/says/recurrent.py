"""Recurrent networks and their cells.

PyTorch's gates come in another order, and its two biases, of the input and of the state, add up to one of ours but for
the candidate of a GRU. The sum is the one thing computed around the call.
"""

from typing import Any

import torch
from torch import nn

from benchmarks.parity.comparison import allowed, call
from benchmarks.parity.says.axes import only
from jbp import layers

ORDERS = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 1, 3, 2)}  # ours of theirs


def _kind(m):
    return getattr(m, "mode", type(m).__name__).replace("Cell", "").split("_")[0]


def _gates(kind: str, v: torch.Tensor) -> list[torch.Tensor]:
    """PyTorch's first axis in blocks, a gate each, in our order."""
    parts = v.chunk(len(ORDERS[kind]), 0)
    return [parts[k] for k in ORDERS[kind]]


def weights(kind: str, w: Any, u: Any, b: Any, c: Any, p: Any = None) -> dict[str, Any]:
    """Our parameters of PyTorch's weight_ih, weight_hh, bias_ih, bias_hh and weight_hr."""
    params = {"w": torch.cat(_gates(kind, w)).T, "u": torch.cat(_gates(kind, u)).T}
    if b is not None:
        b, c = _gates(kind, b), _gates(kind, c)
        apart = kind == "GRU"
        with allowed("add"):
            both = [x if apart and i == 2 else x + y for i, (x, y) in enumerate(zip(b, c, strict=True))]
        params["b"] = torch.cat(both)
        params |= {"c": c[2]} if apart else {}
    return params | only(p=None if p is None else p.T)


def _layer(m, kind, **options):
    name = {"RNN": "Elman", "GRU": "GRU", "LSTM": "LSTM"}[kind]
    if kind == "RNN":
        options["nonlinearity"] = m.nonlinearity
    if kind == "LSTM" and getattr(m, "proj_size", 0):
        options["projection"] = m.proj_size
    suffix = "Cell" if type(m).__name__.endswith("Cell") else ""
    return getattr(layers, name + suffix)(m.hidden_size, bias=bool(m.bias), **options)


def cell(m, x, state):
    kind = _kind(m)
    params = weights(kind, m.weight_ih, m.weight_hh, *((m.bias_ih, m.bias_hh) if m.bias else (None, None)))
    return call(_layer(m, kind), params, (x, state))[1]


def network(m, x, hx=None):
    kind, ways = _kind(m), 2 if m.bidirectional else 1
    alone = x.dim() == 2
    first_batch = alone or m.batch_first
    x = x[None] if alone else x
    x = x if first_batch else x.transpose(0, 1)

    def names(layer, way):
        kinds = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if m.bias else ())]
        kinds += ["weight_hr"] if getattr(m, "proj_size", 0) else []
        found = {k: getattr(m, f"{k}_l{layer}{'_reverse' * way}") for k in kinds}
        return [found.get(k) for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")]

    def at(state, k):
        """The states of layer k: (h, c) or h, a pair of them for both ways."""
        one = [tuple(_batched(s, alone)[ways * k + w] for s in state) for w in range(ways)]
        one = [s if kind == "LSTM" else s[0] for s in one]
        return tuple(one) if ways == 2 else one[0]

    layer = _layer(m, kind, return_state=True)
    params = [[weights(kind, *names(k, way)) for way in range(ways)] for k in range(m.num_layers)]
    layer = layers.Bidirectional(layer) if ways == 2 else layer
    params = tuple(tuple(p) if ways == 2 else p[0] for p in params)
    if hx is not None:
        states = hx if kind == "LSTM" else (hx,)
        x = x, tuple(at(states, k) for k in range(m.num_layers))
    y, last = call(layers.Stack(layer, m.num_layers), params, x)
    flat = [s for one in last for s in (one if ways == 2 else (one,))]
    flat = flat if kind == "LSTM" else [(s,) for s in flat]
    final = tuple(torch.stack(s) for s in zip(*flat, strict=True))
    y = y if first_batch else y.transpose(0, 1)
    if alone:
        y, final = y[0], tuple(s[:, 0] for s in final)
    return y, final if kind == "LSTM" else final[0]


def _batched(s, alone):
    return s[:, None] if alone else s


SAYS = {
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), network),
    **dict.fromkeys((nn.RNNCell, nn.GRUCell, nn.LSTMCell), cell),
}
