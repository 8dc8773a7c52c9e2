"""Affine maps without a bias, with parameters wider than x; dropout per channel and for SELU."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import draw, parameters, reverse

import jbp
from jbp.cases import f
from jbp.layers import AlphaDropout, Bilinear, Dense, Dropout, LoRA, LowRank, RadialBasis, StochasticDepth

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("layer", "spec"), [(LowRank(3, 2), f(2, 4)), (LoRA(3, 2), f(2, 4)), (Bilinear(3), (f(2, 4), f(2, 5)))]
)
def test_without_a_bias(layer, spec):
    x = draw(spec)
    with_bias = parameters(layer, x)
    without = {name: p for name, p in with_bias.items() if name != "b"}
    bare = type(layer)(*[getattr(layer, name) for name in ("features", "rank") if hasattr(layer, name)], bias=False)
    assert set(bare.init(KEY, x)) == set(without)
    b = with_bias["b"]
    b = b.value if isinstance(b, jbp.Buffer) else b
    y, y_bare = layer.forward(with_bias, x)[0], bare.forward(without, x)[0]
    np.testing.assert_allclose(y_bare + b.reshape(1, -1), y, rtol=1e-12)
    assert jax.tree.structure(reverse(bare, without, x, y)[1][0]) == jax.tree.structure(jbp.trainable(without))


@pytest.mark.parametrize(
    ("layer", "spec"),
    [(Dense(3), f(40, 4)), (LowRank(3, 2), f(40, 4)), (LoRA(3, 2), f(40, 4)), (Bilinear(3), (f(40, 4), f(40, 5)))],
)
def test_a_gradient_in_float32_is_summed_in_float32(layer, spec):
    """Of activations in bfloat16: the products are rounded at most, the sum over the rows is not."""
    x = draw(spec, dtype="bfloat16")
    params = parameters(layer, draw(spec, dtype="float32"), dtype="float32")
    dy = draw(f(40, 3), seed=1, dtype="bfloat16")
    _, (grads, dx), _ = reverse(layer, params, x, dy)
    assert {v.dtype for v in jax.tree.leaves(dx)} == {jnp.dtype("bfloat16")}
    assert {v.dtype for v in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    wide = jax.tree.map(lambda v: v.astype("float64"), (params | {}, x, dy))
    exact = reverse(layer, *wide)[1][0]
    for name, g in grads.items():
        if g is not None:
            exactly = isinstance(layer, Dense) or (name == "b")
            np.testing.assert_allclose(g, exact[name], atol=1e-4 if exactly else 0.3)


def test_a_bump_far_away_has_no_gradient():
    """exp(−∞) · ∞ is 0: the distance in float32 is out of range, the error of the width is nothing."""
    layer, x = RadialBasis(2), jnp.full((1, 3), 1e20, jnp.float32)
    params = layer.init(KEY, x)
    y, (grads, dx), _ = reverse(layer, params, x, jnp.ones((1, 2), jnp.float32))
    for leaf in jax.tree.leaves((y, grads, dx)):
        assert not leaf.any()


@pytest.mark.parametrize(("per", "same"), [("element", ()), ("channel", (1, 2)), ("example", (1, 2, 3))])
def test_what_is_dropped_together(per, same):
    layer, x = Dropout(0.5, per), jnp.ones((8, 3, 2, 8))
    params = layer.init(KEY, x)
    y, (_, dx), _ = reverse(layer, params, x, x)
    np.testing.assert_array_equal(y, dx)
    np.testing.assert_array_equal(np.unique(y), [0, 2])
    for axis in range(4):
        assert (y.min(axis) == y.max(axis)).all() == (axis in same)
    if per == "example":
        np.testing.assert_array_equal(StochasticDepth(0.5).forward(params, x)[0], y)


@pytest.mark.parametrize("per", ["element", "channel"])
def test_alpha_dropout_keeps_mean_and_variance(per):
    layer, x = AlphaDropout(0.3, per), draw(f(400, 1, 50))
    params = layer.init(KEY, x)
    y, (_, dx), _ = reverse(layer, params, x, jnp.ones_like(x))
    np.testing.assert_allclose([y.mean(), y.var()], [0, 1], atol=0.05)
    least = 1.0507009873554805 * 1.6732632423543772
    a = 1 / math.sqrt(0.7 * (1 + 0.3 * least**2))
    dropped = dx == 0
    np.testing.assert_allclose(y[dropped], a * least * (0.3 - 1), rtol=1e-12)
    np.testing.assert_allclose(y[~dropped], a * x[~dropped] + a * least * 0.3, rtol=1e-12)
    np.testing.assert_allclose(dx[~dropped], a, rtol=1e-12)
    np.testing.assert_allclose(dropped.mean(), 0.3, atol=0.02)
    assert layer.evaluation().forward(params, x)[0] is x


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRank(3, 0),
        lambda: LoRA(0),
        lambda: Bilinear(2.5),  # pyright: ignore[reportArgumentType]
        lambda: RadialBasis(-1),
        lambda: Dropout(0.5, "row"),  # pyright: ignore[reportArgumentType]
        lambda: AlphaDropout(1.0),
        lambda: Dropout(0.5, "channel").forward({"key": jbp.Buffer(KEY)}, jnp.ones(3)),
    ],
)
def test_settings_that_cannot_be(make):
    with pytest.raises(jbp.LayerError, match=r"got .*; expected .*\. \S"):
        make()
