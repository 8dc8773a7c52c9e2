"""Norms: degenerate rows, running statistics, settings; values worked out by hand or in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import draw, parameters, reverse

import jbp
from jbp.cases import f
from jbp.layer import Layer
from jbp.layers import (
    BatchNorm,
    BatchNormInference,
    Dense,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
    SpectralNorm,
    UnitNorm,
    WeightNorm,
)

KEY = jax.random.key(0)
ALTERNATING = [[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]]
NORMS = [LayerNorm(), RMSNorm(), BatchNorm(), GroupNorm(2), UnitNorm(), InstanceNorm()]


def example(layer, values, dtype):
    x = jnp.asarray(values, dtype)
    return x[..., None].swapaxes(0, 1) if isinstance(layer, InstanceNorm) else x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", NORMS, ids=repr)
def test_rows_whose_square_is_out_of_range(layer, dtype):
    """1e20² = 1e40 is not a number of float32; the row that is normalized is one, and its gradient as well."""
    for scale in (1e20, 1e25):
        x = example(layer, ALTERNATING, dtype) * jnp.asarray(scale, dtype)
        params = layer.init(KEY, x)
        y, (_, dx), _ = reverse(layer, params, x, x * 0 + 1)
        wanted = 0.5 if isinstance(layer, UnitNorm) else 1.0
        np.testing.assert_allclose(np.abs(np.asarray(y, np.float64)), wanted, rtol=0.01)
        np.testing.assert_array_equal(y > 0, x > 0)
        assert jnp.isfinite(dx).all()


@pytest.mark.parametrize("layer", [LayerNorm(), RMSNorm(), GroupNorm(1), UnitNorm()], ids=repr)
def test_the_gradient_of_a_huge_row_is_that_of_the_row_scaled(layer):
    x, dy = draw(f(3, 5), dtype="float32"), draw(f(3, 5), seed=1, dtype="float32")
    params = layer.init(KEY, x)
    _, (_, dx), _ = reverse(dataclasses.replace(layer, epsilon=0.0), params, x, dy)  # which is nothing beside 1e42
    _, (_, far), _ = reverse(layer, params, x * 2.0**70, dy)
    np.testing.assert_allclose(far * 2.0**70, dx, atol=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, None])
@pytest.mark.parametrize("layer", NORMS, ids=repr)
def test_rows_that_say_nothing_are_finite(layer, epsilon):
    layer = layer if epsilon is None else dataclasses.replace(layer, epsilon=epsilon)
    for row in ([0.0] * 4, [1e-30] * 4, [3.0] * 4, [1e20] * 4):
        x = example(layer, [row, row], "float32")
        params = layer.init(KEY, x)
        y, (grads, dx), _ = reverse(layer, params, x, jnp.ones_like(x))
        for leaf in jax.tree.leaves((y, grads, dx)):
            assert jnp.isfinite(leaf).all(), row
    one = jnp.full((1, 3, 1) if isinstance(layer, InstanceNorm) else (3, 2 if isinstance(layer, GroupNorm) else 1), 5.0)
    for leaf in jax.tree.leaves(reverse(layer, layer.init(KEY, one), one, one)[:2]):
        assert jnp.isfinite(leaf).all()


@pytest.mark.parametrize("inside", [Dense(3), Dense(3, bias=False)], ids=repr)
def test_a_weight_of_zeros(inside):
    x = jnp.ones((2, 4))
    for layer in (WeightNorm(inside), SpectralNorm(inside)):
        params = layer.init(KEY, x)
        w = params["layer"]["w"] * jnp.asarray([[1.0, 0.0, 1.0]])
        params["layer"]["w"] = w if isinstance(layer, WeightNorm) else 0 * w
        y, (grads, dx), (apart, _) = reverse(layer, params, x, jnp.ones((2, 3)))
        for leaf in jax.tree.leaves((y, grads, apart, dx)):
            assert jnp.isfinite(leaf).all()
        np.testing.assert_array_equal(y[:, 1], 0)
        np.testing.assert_array_equal(grads["layer"]["w"][:, 1], 0)
        if isinstance(layer, WeightNorm):
            assert grads["g"][1] == 0
            assert (grads["g"][jnp.asarray([0, 2])] != 0).all()


def test_spectral_norm_awakes_from_zeros():
    layer, x = SpectralNorm(Dense(2, bias=False), iterations=20), jnp.ones((1, 2))
    params = layer.init(KEY, x)
    params["layer"]["w"] = jnp.zeros((2, 2))
    params = layer.advance(params, layer.forward(params, x)[1])
    params["layer"]["w"] = jnp.diag(jnp.asarray([3.0, 1.0]))
    params = layer.advance(params, layer.forward(params, x)[1])
    np.testing.assert_allclose(layer.forward(params, x)[0], [[1, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_weights_out_of_the_range_of_squares(scale):
    x = jnp.ones((1, 2), jnp.float32)
    for layer in (WeightNorm(Dense(1, bias=False)), SpectralNorm(Dense(1, bias=False))):
        params = layer.init(KEY, x)
        params["layer"]["w"] = jnp.asarray([[3.0], [4.0]], jnp.float32) * scale
        params = layer.advance(params, layer.forward(params, x)[1])
        if "g" in params:
            params["g"] = jnp.ones(1, jnp.float32)
        np.testing.assert_allclose(layer.forward(params, x)[0], [[7 / 5]], rtol=1e-5)


def test_over_several_axes():
    x, dy = draw(f(2, 3, 4)), draw(f(2, 3, 4), seed=1)
    for layer, flat in ((LayerNorm(axes=2), LayerNorm()), (RMSNorm(axes=2), RMSNorm())):
        params = parameters(layer, x)
        assert params["g"].shape == (3, 4)
        y, (grads, dx), _ = reverse(layer, params, x, dy)
        rows = {name: p.reshape(-1) for name, p in params.items()}
        y_rows, (grads_rows, dx_rows), _ = reverse(flat, rows, x.reshape(2, 12), dy.reshape(2, 12))
        np.testing.assert_allclose(y.reshape(2, 12), y_rows, rtol=1e-12)
        np.testing.assert_allclose(dx.reshape(2, 12), dx_rows, rtol=1e-9, atol=1e-12)
        for name, g in grads.items():
            np.testing.assert_allclose(g.reshape(-1), grads_rows[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (LayerNorm(bias=False), {"g"}),
        (BatchNorm(bias=False), {"g", "mean", "variance", "steps"}),
        (BatchNorm(affine=False), {"mean", "variance", "steps"}),
        (BatchNorm(running=False), {"g", "b"}),
        (InstanceNorm(bias=False), {"g"}),
        (InstanceNorm(affine=False, running=True), {"mean", "variance", "steps"}),
        (GroupNorm(2, bias=False), {"g"}),
    ],
    ids=lambda v: repr(v) if isinstance(v, Layer) else " ".join(sorted(v)),
)
def test_parameters_are_those_asked_for(layer, names):
    assert set(layer.init(KEY, jnp.ones((2, 3, 4)))) == names
    assert LayerNorm(affine=False).init(KEY, jnp.ones((2, 3))) == ()


def stepped(layer, *batches):
    params = layer.init(KEY, batches[0])
    for x in batches:
        params = layer.advance(params, layer.forward(params, x)[1])
    return [np.asarray(params[name].value) for name in ("mean", "variance", "steps")]


def test_running_statistics_by_each_convention():
    one, two = jnp.asarray([[1.0], [3.0]]), jnp.asarray([[0.0], [8.0]])  # means 2 and 4, variances 1 and 16
    for layer, mean, variance in (
        (BatchNorm(0.75), 0.75 * 0.5 + 1, 0.75 * (0.75 + 0.25) + 4),
        (BatchNorm(0.75, unbiased=True), 0.75 * 0.5 + 1, 0.75 * (0.75 + 0.5) + 8),
        (BatchNorm(None), 3.0, 8.5),
        (BatchNorm(None, unbiased=True), 3.0, 17.0),
    ):
        m, v, steps = stepped(layer, one, two)
        np.testing.assert_allclose([m[0], v[0]], [mean, variance], rtol=1e-12)
        assert steps == 2
    m, v, _ = stepped(BatchNorm(None), one, two, two)
    np.testing.assert_allclose([m[0], v[0]], [10 / 3, 11], rtol=1e-12)


def test_running_statistics_of_instances_are_means_over_the_examples():
    x = jnp.asarray([[[1.0], [3.0]], [[0.0], [8.0]]])
    layer = InstanceNorm(running=True, momentum=0.75, unbiased=True)
    m, v, _ = stepped(layer, x)
    np.testing.assert_allclose([m[0], v[0]], [0.25 * 3, 0.75 + 0.25 * 17], rtol=1e-12)
    still = layer.evaluation()
    assert still == BatchNormInference()
    assert InstanceNorm().evaluation() == InstanceNorm()
    assert jbp.sweep.advancing(layer) == [layer]
    assert not jbp.sweep.advancing(jbp.Serial(InstanceNorm(), BatchNorm(running=False), still))


def test_what_no_step_should_ruin():
    """An empty batch moves nothing, one whose variance is out of range is forgotten in time."""
    x = draw(f(4, 3), dtype="float32")
    alone, (_, _, steps) = stepped(BatchNorm(), x), stepped(BatchNorm(), x, x[:0])
    for a, b in zip(alone, stepped(BatchNorm(), x, x[:0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert steps == 1
    _, v, _ = stepped(BatchNorm(0.5), x * 1e25, *[x] * 150)
    np.testing.assert_allclose(v, np.var(np.asarray(x, np.float64), 0), rtol=1e-3)


def test_local_response_by_hand():
    x = jnp.asarray([1.0, 2.0, 3.0])
    y = LocalResponseNorm(2, alpha=2.0, beta=1.0, k=0.0).forward((), x)[0]  # of a channel and the one before it
    np.testing.assert_allclose(y, [1 / 1, 2 / 5, 3 / 13], rtol=1e-12)
    y = LocalResponseNorm(3, alpha=3.0, beta=0.5, k=2.0).forward((), x)[0]
    np.testing.assert_allclose(y, [1 / 7**0.5, 2 / 16**0.5, 3 / 15**0.5], rtol=1e-12)


def test_gains_in_float32_beside_activations_in_bfloat16():
    """The gain is not rounded to bfloat16 and its gradient is not either."""
    x = draw(f(64, 4), dtype="bfloat16")
    for layer in (LayerNorm(), RMSNorm(), BatchNorm(), BatchNormInference(), GroupNorm(2)):
        params = layer.init(KEY, x.astype("float32"))
        params["g"] = jnp.full(4, 1 + 2.0**-12, jnp.float32)
        dy = jnp.ones_like(x)
        y, (grads, dx), _ = reverse(layer, params, x, dy)
        assert (y.dtype, dx.dtype, grads["g"].dtype) == (x.dtype, x.dtype, jnp.float32)
        exact = reverse(layer, jbp.cast(params, "float64"), x.astype("float64"), dy.astype("float64"))[1][0]["g"]
        np.testing.assert_allclose(grads["g"], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LayerNorm(-1.0),
        lambda: LayerNorm(axes=0),
        lambda: BatchNorm(1.5),
        lambda: BatchNorm(float("nan")),
        lambda: GroupNorm(0),
        lambda: SpectralNorm(Dense(2), -1),
        lambda: LocalResponseNorm(0),
        lambda: LayerNorm(axes=3).init(KEY, jnp.ones((2, 3))),
    ],
)
def test_settings_that_cannot_be(make):
    with pytest.raises(jbp.LayerError, match=r"got .*; expected .*\. \S"):
        make()
