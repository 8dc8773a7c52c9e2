"""Attention and the layers of transformers."""

from typing import Any

import jax
import torch
from torch import nn

from benchmarks.parity.comparison import Unsaid, call
from benchmarks.parity.says.axes import only
from jbp import layers, recipes


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
    hidden: Any = mask
    if padding is not None:
        padding = (padding[None] if padding.dim() == 1 else padding)[:, None, None]
        hidden = padding if mask is None else mask | padding
    while hidden.dim() < 4:
        hidden = hidden[None]
    return ~hidden


def beside(heads: int, mask: Any, padding: Any, name: str = "") -> dict[str, Any]:
    """The entries `mask` and `bias`, after the word `name`: a mask of floats is added to the scores."""
    if mask is None or not mask.is_floating_point():
        return only(**{f"{name}mask": seen(heads, mask, padding)})
    bias = mask[None, None] if mask.dim() == 2 else mask.reshape(-1, heads, *mask.shape[1:])
    return {f"{name}bias": bias} | only(**{f"{name}mask": seen(heads, None, padding)})


def attention(m, query, key, value, key_padding_mask=None, attn_mask=None):
    alone = query.dim() == 2
    turn = (lambda x: x[None]) if alone else (lambda x: x if m.batch_first else x.transpose(0, 1))
    x, keys, values = map(turn, (query, key, value))
    given = {"x": x, "keys": keys, "values": values} | beside(m.num_heads, attn_mask, key_padding_mask)
    y, p = call(layer_of(m, weights=True), weights(m), given)
    mean = call(layers.GlobalAveragePool(), (), p.reshape(*p.shape[:2], -1))  # over the heads
    p = mean.reshape(p.shape[0], *p.shape[2:])
    if alone:
        return y[0], p[0]
    return y if m.batch_first else y.transpose(0, 1), p


def norm(m: Any) -> dict[str, Any]:
    return only(g=m.weight, b=m.bias)


def dense(m: Any) -> dict[str, Any]:
    return only(w=m.weight.T, b=m.bias)


def _activation(m: Any) -> Any:
    if m.activation in (nn.functional.relu, torch.relu) or isinstance(m.activation, nn.ReLU):
        return layers.ReLU()
    if m.activation is nn.functional.gelu or isinstance(m.activation, nn.GELU):
        return layers.GELU()
    raise Unsaid(f"the activation {m.activation!r}")


def _common(m: Any) -> dict[str, Any]:
    """The arguments of a recipe of those of one layer."""
    if m.dropout.p:
        raise Unsaid("dropout, which is random")
    return {
        "width": m.linear1.in_features,
        "heads": m.self_attn.num_heads,
        "hidden": m.linear1.out_features,
        "dropout": 0.0,
        "activation": _activation(m),
        "norm_first": m.norm_first,
        "bias": m.linear1.bias is not None,
        "causal": False,
    }


def _steps(m: Any, parts: list[tuple[Any, Any]]) -> tuple:
    """The parameters of (layers, norm) one after the other, the norm inside in front or after."""
    if m.norm_first:
        return tuple((norm(n), *inside) for inside, n in parts)
    return tuple(p for inside, n in parts for p in (inside, norm(n)))


def encoder_layer_weights(m: Any) -> tuple:
    forward = dense(m.linear1), (), dense(m.linear2)
    return _steps(m, [((weights(m.self_attn),), m.norm1), (forward, m.norm2)])


def decoder_layer_weights(m: Any) -> tuple:
    forward = dense(m.linear1), (), dense(m.linear2)
    own, other = (weights(m.self_attn),), (weights(m.multihead_attn),)
    return _steps(m, [(own, m.norm1), (other, m.norm2), (forward, m.norm3)])


def stacked(of: Any, several: Any) -> Any:
    """The parameters of equal layers as those of a Repeat."""
    return jax.tree.map(lambda *p: torch.stack(p), *map(of, several))


def _turned(m: Any, *several: torch.Tensor) -> tuple[list[torch.Tensor], Any]:
    """Inputs with the batch in front, and the backward pass."""
    if several[0].dim() == 2:
        return [x[None] for x in several], lambda y: y[0]
    if m.batch_first:
        return list(several), lambda y: y
    return [x.transpose(0, 1) for x in several], lambda y: y.transpose(0, 1)


def encoder_layer(m, src, src_mask=None, src_key_padding_mask=None):
    (x,), back = _turned(m.self_attn, src)
    given = {"x": x} | beside(m.self_attn.num_heads, src_mask, src_key_padding_mask)
    y = call(recipes.transformer_encoder_layer(**_common(m)), encoder_layer_weights(m), given)
    return back(y["x"])


def encoder(m, src, mask=None, src_key_padding_mask=None):
    (x,), back = _turned(m.layers[0].self_attn, src)
    given = {"x": x} | beside(m.layers[0].self_attn.num_heads, mask, src_key_padding_mask)
    layer = recipes.transformer_encoder(**_common(m.layers[0]), layers=len(m.layers), norm=m.norm is not None)
    params = stacked(encoder_layer_weights, m.layers), norm(m.norm) if m.norm is not None else ()
    return back(call(layer, params, given))


def decoder_layer(
    m, tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None
):
    (x, memory), back = _turned(m.self_attn, tgt, memory)
    heads = m.self_attn.num_heads
    given = {"x": x, "memory": memory} | beside(heads, tgt_mask, tgt_key_padding_mask)
    given |= beside(heads, memory_mask, memory_key_padding_mask, "memory_")
    y = call(recipes.transformer_decoder_layer(**_common(m)), decoder_layer_weights(m), given)
    return back(y["x"])


def transformer(
    m, src, tgt, src_mask=None, tgt_mask=None, memory_mask=None,
    src_key_padding_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
):  # fmt: skip
    one = m.encoder.layers[0]
    (source, x), back = _turned(m, src, tgt)
    heads = m.nhead
    given = {"source": source, "x": x} | beside(heads, src_mask, src_key_padding_mask, "source_")
    given |= beside(heads, tgt_mask, tgt_key_padding_mask)
    given |= beside(heads, memory_mask, memory_key_padding_mask, "memory_")
    counts: dict[str, Any] = {"encoder_layers": len(m.encoder.layers), "decoder_layers": len(m.decoder.layers)}
    params = (
        (stacked(encoder_layer_weights, m.encoder.layers), norm(m.encoder.norm)),
        (stacked(decoder_layer_weights, m.decoder.layers), norm(m.decoder.norm)),
    )
    return back(call(recipes.transformer(**_common(one), **counts), params, given))


SAYS = {
    nn.MultiheadAttention: attention,
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
    nn.TransformerDecoderLayer: decoder_layer,
    nn.Transformer: transformer,
}
