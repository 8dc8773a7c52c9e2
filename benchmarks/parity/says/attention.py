"""Attention and the layers of transformers."""

from typing import Any

from torch import nn

from benchmarks.parity.comparison import call
from benchmarks.parity.says.axes import only
from jbp import layers


def weights(m: Any) -> dict[str, Any]:
    """The parameters of a MultiHeadAttention of those of PyTorch's."""
    heads, size = m.num_heads, m.head_dim
    three = (
        m.in_proj_weight.chunk(3)
        if m.in_proj_weight is not None
        else (m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)
    )
    q, k, v = (w.T.reshape(w.shape[1], heads, size) for w in three)
    params = {"q": q[:, :, None], "k": k, "v": v, "o": m.out_proj.weight.T.reshape(heads, 1, size, m.embed_dim)}
    if m.in_proj_bias is not None:
        b_q, b_k, b_v = (b.reshape(heads, size) for b in m.in_proj_bias.chunk(3))
        params |= {"b_q": b_q[:, None], "b_k": b_k, "b_v": b_v, "b_o": m.out_proj.bias}
    if m.bias_k is not None:
        params |= {"bias_k": m.bias_k.reshape(heads, size), "bias_v": m.bias_v.reshape(heads, size)}
    return params


def layer_of(m: Any, **options: Any) -> Any:
    return layers.MultiHeadAttention(
        m.num_heads,
        bias=m.in_proj_bias is not None,
        bias_kv=m.bias_k is not None,
        zero_attention=m.add_zero_attn,
        **options,
    )


def seen(heads: int, mask: Any, padding: Any) -> Any:
    """One mask (b, heads, n, m) of what may be seen, of PyTorch's two of what may not."""
    if mask is None and padding is None:
        return None
    if mask is not None and mask.dim() == 3:
        mask = mask.reshape(-1, heads, *mask.shape[1:])
    hidden = mask
    if padding is not None:
        padding = (padding[None] if padding.dim() == 1 else padding)[:, None, None]
        hidden = padding if mask is None else mask | padding
    while hidden.dim() < 4:
        hidden = hidden[None]
    return ~hidden


def attention(m, query, key, value, key_padding_mask=None, attn_mask=None):
    alone = query.dim() == 2
    turn = (lambda x: x[None]) if alone else (lambda x: x if m.batch_first else x.transpose(0, 1))
    x, keys, values = map(turn, (query, key, value))
    given = only(x=x, keys=keys, values=values, mask=seen(m.num_heads, attn_mask, key_padding_mask))
    y, p = call(layer_of(m, weights=True), weights(m), given)
    mean = call(layers.GlobalAveragePool(), (), p.reshape(*p.shape[:2], -1))  # over the heads
    p = mean.reshape(p.shape[0], *p.shape[2:])
    if alone:
        return y[0], p[0]
    return y if m.batch_first else y.transpose(0, 1), p


SAYS = {nn.MultiheadAttention: attention}
