"""Attention: what may not be seen does not leak, masks of every shape, PyTorch's options by hand, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_near, audit, cotangent, draw, oracle, parameters, reverse

import jbp
import jbp.layers.attention.blockwise
from jbp.cases import f, i
from jbp.layers import Attention, CausalSelfAttention, MemoryHop, MultiHeadAttention
from jbp.params import trainable


def both_passes(layer, params, x):
    y, residuals = layer.forward(params, x)
    return y, *layer.pull(params, residuals, cotangent(y))


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_a_mask_hides_may_be_anything(bad):
    """Values, dx and gradients are those of the same input with zeros there; dx is zero there."""
    mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], jnp.int8)
    x, z = draw((f(2, 4, 6), f(2, 4, 3)))
    layer = MultiHeadAttention(2, bias=True)
    cases = (
        {"x": x, "mask": mask},
        {"x": x, "source": z, "mask": mask},
        {"x": x, "keys": x + 0, "values": z, "mask": mask},
    )
    for given in cases:
        params = parameters(layer, given)
        changed = [name for name in ("keys", "values", "source") if name in given] or ["x"]
        hidden = (mask == 0)[..., None]
        bads = given | {name: jnp.where(hidden, bad, given[name]) for name in changed}
        zeros = given | {name: jnp.where(hidden, 0, given[name]) for name in changed}
        y, dx, grads = both_passes(layer, params, bads)
        wanted, dx_wanted, grads_wanted = both_passes(layer, params, zeros)
        assert_near((y, grads), (wanted, grads_wanted), 1e-13)
        for name in changed:
            assert not dx[name][np.asarray(mask) == 0].any()
            assert_near(jnp.where(hidden, 0, dx[name]), jnp.where(hidden, 0, dx_wanted[name]), 1e-13)
        assert_near(both_passes(layer, params, bads)[1:], oracle(layer, params, bads, cotangent(y))[1][::-1], 1e-12)


def test_what_a_mask_hides_of_keys_values_and_memories_may_be_nan():
    mask = jnp.array([[True, True, False]] * 2)
    q, k, v = draw((f(2, 2, 3, 4), f(2, 2, 3, 4), f(2, 2, 3, 4)))
    bad = [jnp.where(mask[:, None, :, None], part, jnp.nan) for part in (k, v)]
    y, dx, _ = both_passes(Attention(), (), (q, *bad, mask[:, None]))
    cut = k[:, :, :2], v[:, :, :2]
    wanted, dx_wanted, _ = both_passes(Attention(), (), (q, *cut))
    assert_near((y, dx[0]), (wanted, dx_wanted[0]), 1e-13)
    for one, other in zip(dx[1:3], dx_wanted[1:], strict=True):
        assert_near(one[:, :, :2], other, 1e-13)
        assert not one[:, :, 2:].any()
    u, memories = draw((f(2, 5), f(2, 3, 2)))
    hop = MemoryHop()
    params = parameters(hop, (u, memories))
    y, dx, grads = both_passes(hop, params, (u, jnp.where(mask[..., None], memories, jnp.nan), mask))
    wanted, dx_wanted, grads_wanted = both_passes(hop, params, (u, memories[:, :2]))
    assert_near((y, dx[0], grads), (wanted, dx_wanted[0], grads_wanted), 1e-13)
    assert_near(dx[1], jnp.pad(dx_wanted[1], ((0, 0), (0, 1), (0, 0))), 1e-13)


def test_a_bias_of_minus_infinity_is_a_mask():
    x, seen = draw(f(2, 3, 4)), jnp.array([[True, False, True], [True, True, False], [False] * 3])
    layer = MultiHeadAttention(2)
    params = parameters(layer, x)
    bias = jnp.where(seen, 0.0, -jnp.inf)[None, None]
    y, dx, grads = both_passes(layer, params, {"x": x, "bias": bias})
    wanted, dx_wanted, grads_wanted = both_passes(layer, params, {"x": x, "mask": seen[None]})
    assert_near((y, dx["x"], grads), (wanted, dx_wanted["x"], grads_wanted), 1e-13)
    assert not jnp.where(seen, 0, dx["bias"]).any()
    assert not y[:, 2].any()  # a query that sees nothing


def test_masks_of_every_shape_and_dtype():
    x, layer = draw(f(2, 3, 4)), MultiHeadAttention(2)
    params = parameters(layer, x)
    whole = np.random.default_rng(0).random((2, 2, 3, 3)) < 0.6
    w = {name: np.asarray(p) for name, p in params.items()}
    for mask in (whole[0, 0, :2], whole[0, 0], whole[:, 0], whole, whole[:1, :, :, :], whole[:, :1, :1]):
        seen = mask[:, None, None] if mask.shape == (2, 3) else mask[:, None] if mask.ndim == 3 else mask
        q, k, v = (np.einsum("bnf,fhd->bhnd", np.asarray(x), w[name].reshape(4, 2, 2)) for name in "qkv")
        s = np.where(seen, np.einsum("bhnd,bhmd->bhnm", q, k) / np.sqrt(2), -1e300)
        o = np.einsum("bhnm,bhmd->bhnd", softmax(s) * np.broadcast_to(seen.any(-1, keepdims=True), s.shape), v)
        y = np.einsum("bhnd,hdf->bnf", o, w["o"].reshape(2, 2, 4))
        for dtype in (bool, np.int8, np.uint32):
            np.testing.assert_allclose(
                layer.forward(params, {"x": x, "mask": jnp.asarray(mask, dtype)})[0], y, rtol=1e-12, atol=1e-14
            )
    audit(layer, draw({"x": f(2, 3, 4), "mask": i(3, 3, below=2)}))


def test_a_mask_is_never_a_source():
    x, layer = draw(f(2, 3, 4)), MultiHeadAttention(1)
    assert set(layer.init(jax.random.key(0), (x, jnp.ones((2, 3, 3), bool)))) == set("qkvo")
    for wrong in (jnp.ones((2, 3, 3)), jnp.ones((2, 3)), jnp.ones((3, 3)), jnp.ones((2, 1, 3, 3))):
        for use in (lambda w: layer.init(jax.random.key(0), (x, w)), lambda w: layer.forward({}, (x, w))):
            with pytest.raises(jbp.LayerError, match="'bias': bias"):
                use(wrong)
        with pytest.raises(jbp.LayerError, match=r"booleans or integers, not 0 .*\"bias\": mask"):
            layer.init(jax.random.key(0), {"x": x, "mask": wrong})
    square = draw(f(3, 3, 4))
    with pytest.raises(jbp.LayerError, match=r"\(b, m\) or \(n, m\) by its name"):
        layer.init(jax.random.key(0), (square, jnp.ones((3, 3), bool)))
    layer.init(jax.random.key(0), {"x": square, "mask": jnp.ones((3, 3), bool)})
    with pytest.raises(jbp.LayerError, match="either 'source', or both 'keys' and 'values'"):
        layer.init(jax.random.key(0), {"x": x, "keys": x})


def test_what_is_none_is_left_out():
    x, layer = draw(f(2, 3, 4)), MultiHeadAttention(2)
    params = parameters(layer, x)
    wanted, dx_wanted, _ = both_passes(layer, params, x)
    for given in ({"x": x, "mask": None, "source": None}, (x, None)):
        y, dx, _ = both_passes(layer, params, given)
        assert_near((y, dx["x"] if isinstance(dx, dict) else dx[0]), (wanted, dx_wanted), 1e-15)
        assert jax.tree.structure(dx) == jax.tree.structure(given)
    q = draw(f(2, 2, 3, 4))
    assert_near(both_passes(Attention(), (), (q, q, q, None))[1][:3], both_passes(Attention(), (), (q, q, q))[1], 1e-15)
    for wrong in ((), {}, [None]):
        with pytest.raises(jbp.LayerError):
            layer.init(jax.random.key(0), wrong)


def test_small_segments_and_segments_of_two_dtypes():
    x, layer = draw(f(1, 4, 2)), MultiHeadAttention(1)
    params = parameters(layer, x)
    segments = jnp.array([[0, 0, 200, 200]])
    wanted = layer.forward(params, {"x": x, "segments": segments})[0]
    small = {"x": x, "source": x, "segments": segments.astype(jnp.uint8), "source_segments": segments}
    assert_near(layer.forward(params, small)[0], wanted, 1e-15)


def test_no_keys_give_zeros():
    for layer in (MultiHeadAttention(2), MultiHeadAttention(2, window=2, alibi=True, distances=1, dropout=0.5)):
        x = draw((f(2, 3, 4), f(2, 0, 4)))
        y, dx, grads = both_passes(layer, parameters(layer, x), x)
        assert not any(leaf.any() for leaf in jax.tree.leaves((y, dx, grads)))


def test_biases_and_keys_that_all_see_by_hand():
    layer = MultiHeadAttention(2, bias=True, bias_kv=True, zero_attention=True, weights=True)
    x = draw({"x": f(2, 3, 4), "keys": f(2, 5, 3), "values": f(2, 5, 2)})
    params = parameters(layer, x)
    w = {name: np.asarray(p) for name, p in params.items()}
    q = np.einsum("bnf,fhd->bhnd", x["x"], w["q"][:, :, 0]) + w["b_q"][None, :, 0, None]
    k = np.einsum("bnf,fhd->bhnd", x["keys"], w["k"]) + w["b_k"][None, :, None]
    v = np.einsum("bnf,fhd->bhnd", x["values"], w["v"]) + w["b_v"][None, :, None]
    k, v = (
        np.concatenate([z, np.broadcast_to(one[None, :, None], (2, 2, 1, 2)), np.zeros((2, 2, 1, 2))], 2)
        for z, one in ((k, w["bias_k"]), (v, w["bias_v"]))
    )
    p = softmax(np.einsum("bhnd,bhmd->bhnm", q, k) / np.sqrt(2))
    y = np.einsum("bhnd,hdf->bnf", p @ v, w["o"][:, 0]) + w["b_o"]
    got, weights = layer.forward(params, x)[0]
    np.testing.assert_allclose(got, y, rtol=1e-12)
    np.testing.assert_allclose(weights, p, rtol=1e-12)


def test_extra_keys_with_every_option(monkeypatch):
    monkeypatch.setattr(jbp.layers.attention.blockwise, "BLOCK", 3)
    every = MultiHeadAttention(4, 2, True, 2, 1.5, True, True, 1, 0.3, True, True, True, 2, True)
    audit(every, draw({"x": f(2, 5, 4), "bias": f(2, 1, 5, 5), "mask": i(2, 4, 5, 5, below=2)}))
    audit(Attention(dropout=0.2, window=2), draw((f(2, 4, 5, 2), f(2, 2, 5, 2), f(2, 2, 5, 3), i(5, 5, below=2))))


def test_the_core_is_what_attention_has_inside():
    x, layer = draw(f(2, 5, 6)), MultiHeadAttention(2, causal=True, alibi=True)
    params = parameters(layer, x)
    q, k, v = (jnp.einsum("bnf,fhd->bhnd", x, params[n].reshape(6, 2, 3)) for n in "qkv")
    o = Attention(causal=True, alibi=True).forward((), (q, k, v))[0]
    y = jnp.einsum("bhnd,hdf->bnf", o, params["o"].reshape(2, 3, 6))
    assert_near(layer.forward(params, x)[0], y, 1e-14)


@pytest.mark.parametrize(
    "layer",
    [
        CausalSelfAttention(2),
        CausalSelfAttention(4, groups=2, rotary=True, bias=True),
        CausalSelfAttention(2, alibi=True, window=3, distances=1, cap=2.0),
        CausalSelfAttention(2, window=2, rotary=True, bias_kv=True, zero_attention=True),
    ],
    ids=repr,
)
def test_step_by_step_is_the_whole_at_once(layer):
    x = draw(f(2, 7, 8))
    params = parameters(layer, x)
    wanted = layer.forward(params, x)[0]
    decode = jax.jit(layer.decode)
    for steps in ([1] * 7, [4, 1, 1, 1]):
        cache, found, at = layer.cache(params, x, 8), [], 0
        for n in steps:
            y, cache = decode(params, cache, x[:, at : at + n])
            found.append(y)
            at += n
        assert_near(jnp.concatenate(found, 1), wanted, 1e-13)


def test_step_by_step_with_a_source_and_beyond_the_cache():
    layer, x = MultiHeadAttention(2, bias=True), draw({"x": f(2, 3, 4), "source": f(2, 5, 3), "mask": i(2, 5, below=2)})
    params = parameters(layer, x)
    cache = layer.cache(params, x, 0)
    for t in range(3):
        y, cache = layer.decode(params, cache, x["x"][:, t : t + 1])
        assert_near(y, layer.forward(params, x)[0][:, t : t + 1], 1e-13)
    layer, x = CausalSelfAttention(1), draw(f(1, 1, 2))
    params = parameters(layer, x)
    _, cache = layer.decode(params, layer.cache(params, x, 1), x)
    with pytest.raises(jbp.LayerError, match="got 1 more places in a cache for 1; expected no more"):
        layer.decode(params, cache, x)
    assert jnp.isnan(jax.jit(layer.decode)(params, cache, x)[0]).all()
    with pytest.raises(jbp.LayerError, match="expected none where text is written"):
        CausalSelfAttention(1, dropout=0.1).decode(params, cache, x)
    with pytest.raises(jbp.LayerError, match="Write causal=True"):
        MultiHeadAttention(1).cache(params, x, 3)


def test_the_tree_of_parameters_is_that_of_before_without_options():
    assert set(trainable(MultiHeadAttention(2).init(jax.random.key(0), draw(f(2, 3, 4))))) == set("qkvo")
    _, (grads, _), (apart, _) = reverse(
        MultiHeadAttention(2),
        MultiHeadAttention(2).init(jax.random.key(0), draw(f(2, 3, 4))),
        draw(f(2, 3, 4)),
        draw(f(2, 3, 4)),
    )
    assert_near(grads, apart, 1e-15)
