"""Low-rank adapters by the path of a weight: by hand, everywhere, and taken back into plain parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_near, audit, cotangent, draw, parameters

import jbp
from jbp import Buffer, LowRankAdapter, Repeat, Residual, Serial, apply_updates, recipes, trainable, value_and_grad
from jbp.cases import f, i
from jbp.layers import LSTM, Conv, Dense, Flatten, LoRA, MixtureOfExperts, MultiHeadAttention, Select
from jbp.losses import MeanSquaredError

KEY = jax.random.key(0)


def test_an_adapted_dense_is_a_lora():
    x, net, other = draw(f(3, 5)), LowRankAdapter(Dense(4), ("w",), 2, alpha=3.0), LoRA(4, 2, alpha=3.0)
    params = parameters(net, x)
    base, (adapter,) = params["base"].value, params["adapters"].values()
    theirs = {"w": Buffer(base["w"]), "b": Buffer(base["b"]), "u": adapter["a"], "v": adapter["b"]}
    (y, r), (y_wanted, r_wanted) = net.forward(params, x), other.forward(theirs, x)
    dy = cotangent(y)
    (dx, grads), (dx_wanted, wanted) = net.pull(params, r, dy), other.pull(theirs, r_wanted, dy)
    assert_near((y, dx), (y_wanted, dx_wanted), 1e-13)
    assert_near(grads["adapters"]["w"], {"a": wanted["u"], "b": wanted["v"]}, 1e-13)
    assert grads["base"] is None


@pytest.mark.parametrize(
    ("layer", "paths", "x", "wanted"),
    [
        (MultiHeadAttention(2), "qkvo", f(2, 3, 6), dict.fromkeys("qkvo", ((6, 2), (2, 6)))),
        (MultiHeadAttention(4, groups=1), ("k",), f(2, 3, 8), {"k": ((8, 2), (2, 2))}),
        (Conv(4), ("w",), f(2, 3, 3, 5), {"w": ((45, 2), (2, 4))}),
        (LSTM(3), ("w", "u"), f(2, 3, 5), {"w": ((5, 2), (2, 12)), "u": ((3, 2), (2, 12))}),
        (Repeat(Residual(Dense(5)), 3), ("w",), f(2, 5), {"w": ((3, 5, 2), (3, 2, 5))}),
        (
            Serial(Dense(4), Repeat(Serial(Dense(4), MultiHeadAttention(1)), 2)),
            ((0, "w"), "v"),
            f(2, 3, 5),
            {"0/w": ((5, 2), (2, 4)), "1/0/w": ((2, 4, 2), (2, 2, 4)), "1/1/v": ((2, 4, 2), (2, 2, 4))},
        ),
        (Serial(a=Dense(5), b=Repeat(Dense(5), 3)), (("b", "w"),), f(2, 5), {"b/w": ((3, 5, 2), (3, 2, 5))}),
        (
            Serial(MixtureOfExperts(Dense(4), 3, capacity=None), Select(0)),
            (("experts", "w"),),
            f(7, 5),
            {"0/experts/w": ((3, 5, 2), (3, 2, 4))},
        ),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_any_weight_of_any_layer(layer, paths, x, wanted):
    net, x = LowRankAdapter(layer, tuple(paths), 2), draw(x)
    params = audit(net, x)
    assert {name: (tuple(a["a"].shape), tuple(a["b"].shape)) for name, a in params["adapters"].items()} == wanted
    fresh = net.init(KEY, x)
    y = net.forward(fresh, x)[0]  # an adapter that has not learned changes nothing
    assert_near(y, layer.forward(fresh["base"].value, x)[0], 1e-15)
    assert_near(layer.forward(net.merge(params), x)[0], net.forward(params, x)[0], 1e-14)
    assert jax.tree.structure(net.merge(params)) == jax.tree.structure(fresh["base"].value)


def test_a_trained_network_is_adapted_and_merged_back():
    net, x = recipes.transformer_encoder(4, 2, 2, 6, dropout=0.1), draw({"x": f(2, 3, 4), "mask": i(2, 3, below=2)})
    trained = net.init(KEY, x)
    adapted, optimizer, target = LowRankAdapter(net, ("q", "v"), 2), optax.sgd(0.3), draw(f(2, 3, 4), 3)
    params = adapted.adapt(KEY, trained)
    state = optimizer.init(trainable(params))
    assert sum(p.size for p in jax.tree.leaves(trainable(params))) == 2 * 2 * (4 * 2 + 2 * 4)
    (first, aux), grads = value_and_grad(adapted, MeanSquaredError(), has_aux=True)(params, x, target)
    updates, state = optimizer.update(grads, state, trainable(params))
    params = apply_updates(aux.params, updates)
    merged, still = adapted.merge(params), net.evaluation()
    assert_near(adapted.evaluation().forward(params, x)[0], still.forward(merged, x)[0], 1e-13)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), trainable(merged), trainable(trained))
    names = {jax.tree_util.keystr(path)[-5:] for path, m in jax.tree_util.tree_leaves_with_path(moved) if m}
    assert names == {"['q']", "['v']"}
    keys = [jax.tree.leaves(jbp.buffers(p)) for p in (trained, merged)]
    pairs = [map(jax.random.key_data, pair) for pair in zip(*keys, strict=True)]
    assert all((old != new).any() for old, new in pairs)  # dropout's keys went on
    assert np.isfinite(first)


def test_paths_that_do_not_fit():
    with pytest.raises(jbp.LayerError, match=r"no weight of .* has a path that ends so; expected the end of one"):
        LowRankAdapter(Dense(3), ("q",), 2).init(KEY, jnp.ones((2, 3)))
    with pytest.raises(jbp.LayerError, match=r"got the weight float64\[3\] at .*; expected a matrix or more"):
        LowRankAdapter(Dense(3), ("b",), 2).init(KEY, jnp.ones((2, 3)))
    with pytest.raises(jbp.LayerError, match="Write the names at which the paths of weights end"):
        LowRankAdapter(Dense(3), "w", 2)  # pyright: ignore[reportArgumentType]
    net = LowRankAdapter(Serial(Flatten(), Dense(3)), ("w",), 2)
    with pytest.raises(jbp.LayerError, match=r"expected a dict with 'base', a Buffer, and 'adapters'"):
        net.forward(net.layer.init(KEY, jnp.ones((2, 3))), jnp.ones((2, 3)))
    with pytest.raises(jbp.LayerError, match="Are these the parameters of another network"):
        net.forward(LowRankAdapter(net.layer, ("w",), 1).init(KEY, jnp.ones((2, 3))), jnp.ones((2, 3)))
