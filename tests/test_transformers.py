"""Encoder, decoder and both: masks reach every layer, and PyTorch's modules with their weights give the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_near, audit, cotangent, draw, parameters

import jbp
from jbp import Repeat, Serial, Sublayer, recipes
from jbp.cases import f, i
from jbp.layers import GELU, LayerNorm, MultiHeadAttention


def test_a_step_on_one_of_several_inputs():
    x = draw({"x": f(2, 3, 4), "mask": i(2, 3, below=2), "side": f(2, 5)})
    net = Serial(
        Repeat(Sublayer(MultiHeadAttention(2), ("x",), ("mask",), residual=True), 2), Sublayer(LayerNorm(), into=None)
    )
    params = audit(net, x)
    plain = {name: x[name] for name in ("x", "mask")}
    assert_near(net.forward(params, plain)[0], net.forward(params, x)[0], 1e-15)
    alone = net.forward(params, x["x"])[0]
    every = {"x": x["x"], "mask": jnp.ones((2, 3), bool)}
    assert_near(net.forward(params, every)[0], alone, 1e-15)
    audit(Sublayer(LayerNorm(), into="normed"), {"x": x["x"]})
    with pytest.raises(jbp.LayerError, match=r"without \['memory'\]; expected a dict with the names"):
        Sublayer(MultiHeadAttention(2), ("x", ("source", "memory"))).init(jax.random.key(0), x["x"])


def test_padding_reaches_every_layer_of_both_sides():
    """A longer source with padding is the shorter one."""
    net = recipes.transformer(4, 2, 2, 2, 6, 0.0, GELU(), norm_first=True)
    x = draw({"x": f(2, 3, 4), "source": f(2, 4, 4)})
    params = parameters(net, x)
    more = jnp.pad(x["source"], ((0, 0), (0, 2), (0, 0)), constant_values=9.0)
    mask = jnp.broadcast_to((jnp.arange(6) < 4)[None], (2, 6))
    y, residuals = net.forward(params, {"x": x["x"], "source": more, "source_mask": mask, "memory_mask": mask})
    wanted, kept = net.forward(params, x)
    assert_near(y, wanted, 1e-13)
    dy = cotangent(y)
    (dx, grads), (dx_wanted, grads_wanted) = net.pull(params, residuals, dy), net.pull(params, kept, dy)
    assert_near((dx["x"], dx["source"][:, :4], grads), (dx_wanted["x"], dx_wanted["source"], grads_wanted), 1e-12)
    assert not dx["source"][:, 4:].any()


def linear(module):
    w = {"w": module.weight.detach().numpy().T}
    return w if module.bias is None else w | {"b": module.bias.detach().numpy()}


def norm(module):
    g = {"g": module.weight.detach().numpy()}
    return g if module.bias is None else g | {"b": module.bias.detach().numpy()}


def attention(module):
    """PyTorch's MultiheadAttention: its weights (o, i) by heads."""
    heads, d = module.num_heads, module.head_dim
    q, k, v = (w.T for w in np.split(module.in_proj_weight.detach().numpy(), 3))
    p = {"q": q.reshape(-1, heads, 1, d), "k": k.reshape(-1, heads, d), "v": v.reshape(-1, heads, d)}
    p["o"] = module.out_proj.weight.detach().numpy().T.reshape(heads, 1, d, -1)
    if module.in_proj_bias is not None:
        q, k, v = np.split(module.in_proj_bias.detach().numpy(), 3)
        p |= {"b_q": q.reshape(heads, 1, d), "b_k": k.reshape(heads, d), "b_v": v.reshape(heads, d)}
        p["b_o"] = module.out_proj.bias.detach().numpy()
    return p


def block(module, norm_first):
    """The parameters of an encoder's or decoder's layer."""
    inner = [(attention(module.self_attn),), (linear(module.linear1), (), linear(module.linear2))]
    norms = [module.norm1, module.norm2]
    if hasattr(module, "multihead_attn"):
        inner.insert(1, (attention(module.multihead_attn),))
        norms.append(module.norm3)
    steps = [((norm(n), *p),) if norm_first else (p, norm(n)) for p, n in zip(inner, norms, strict=True)]
    return jax.tree.map(jnp.asarray, sum(steps, ()))


def stacked(modules, norm_first):
    return jax.tree.map(lambda *each: jnp.stack(each), *[block(m, norm_first) for m in modules])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [False, True])
def test_pytorchs_transformer_with_its_weights(norm_first):
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[parity]'")
    torch.manual_seed(0)
    theirs = torch.nn.Transformer(
        4, 2, 2, 2, 6, 0.0, "gelu", batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    for p in theirs.parameters():  # norms and biases begin as ones and zeros
        p.data += 0.1 * torch.randn_like(p)
    source, x = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    source.requires_grad, x.requires_grad = True, True
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    causal = theirs.generate_square_subsequent_mask(3, dtype=torch.float64)
    y = theirs(source, x, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    dy = torch.randn_like(y)
    y.backward(dy)

    net = recipes.transformer(4, 2, 2, 2, 6, 0.0, GELU(), norm_first)
    params = (
        (stacked(theirs.encoder.layers, norm_first), jax.tree.map(jnp.asarray, norm(theirs.encoder.norm))),
        (stacked(theirs.decoder.layers, norm_first), jax.tree.map(jnp.asarray, norm(theirs.decoder.norm))),
    )
    seen = jnp.asarray(~padding.numpy())
    given = {"x": jnp.asarray(x.detach().numpy()), "source": jnp.asarray(source.detach().numpy())}
    got, residuals = net.forward(params, given | {"source_mask": seen, "memory_mask": seen})
    assert_near(got, jnp.asarray(y.detach().numpy()), 1e-12)
    dx, grads = net.pull(params, residuals, jnp.asarray(dy.numpy()))
    assert_near([dx["x"], dx["source"]], [jnp.asarray(v.grad.numpy()) for v in (x, source)], 1e-11)
    for p in theirs.parameters():
        p.data = p.grad
    assert_near(grads[0][0], stacked(theirs.encoder.layers, norm_first), 1e-11)
    assert_near(grads[1][0], stacked(theirs.decoder.layers, norm_first), 1e-11)
