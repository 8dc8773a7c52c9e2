"""Pools: what their fields mean, by small numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbp
from jbp import LayerError
from jbp.layers import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    AveragePool,
    FractionalMaxPool,
    GlobalAveragePool,
    GlobalMaxPool,
    LPPool,
    MaxPool,
    MaxUnpool,
)

INF, KEY = np.inf, jax.random.key(0)


def row(*numbers):
    return jnp.asarray(numbers, jnp.float32)[None, :, None]


def both(layer, x, dy=None):
    """y and dx as lists, for dy of ones."""
    y, residuals = layer.forward((), x)
    dx = layer.backward((), residuals, jnp.ones_like(y) if dy is None else dy)[0]
    return y.ravel().tolist(), dx.ravel().tolist()


@pytest.mark.parametrize("layer", [MaxPool, AveragePool, lambda *a, **k: LPPool(2, *a, **k)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_number_means_the_same_on_every_spatial_axis(layer, rank):
    x = jax.random.normal(jax.random.key(0), (1, *(4, 3, 5)[:rank], 2))
    one, each = layer(2, 1, 1), layer((2,) * rank, (1,) * rank, ((1, 1),) * rank)
    y, residuals = one.forward((), x)
    np.testing.assert_array_equal(y, each.forward((), x)[0])
    np.testing.assert_array_equal(one.backward((), residuals, y)[0], each.backward((), residuals, y)[0])


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (MaxPool(3, 2, "same"), row(-INF, -INF, 1, -INF, -INF)),
        (MaxPool(2, padding=1), row(-INF, 3, 2, -INF)),
        (MaxPool(2, 1, 1, dilation=2), row(-INF, -INF, -INF)),
        (MaxPool(3, 2, 1, ceil_mode=True), row(-INF, 0, -INF, -INF)),
        (MaxPool((3, 3), 2, "SAME"), jnp.full((1, 3, 3, 2), -INF)),
        (MaxPool(257, 1, 128), row(-INF, -INF, -INF)),
        (AdaptiveMaxPool(2), row(-INF, -INF, -INF)),
        (GlobalMaxPool(), row(-INF, -INF)),
    ],
)
def test_no_cotangent_is_lost_where_a_window_holds_nothing_but_minus_infinity(layer, x):
    y, residuals = layer.forward((), x)
    dy = jnp.arange(1.0, y.size + 1).reshape(y.shape)
    dx = layer.backward((), residuals, dy)[0]
    assert dx.sum() == dy.sum()
    np.testing.assert_array_equal(y, layer.reference((), x))


def test_minus_infinity_goes_to_the_first_place_that_is_not_padding():
    """Windows (p, 0, 1), (1, 2, 3), (3, 4, p) of places, p padding."""
    x = row(-INF, -INF, 1, -INF, -INF)
    assert both(MaxPool(3, 2, "SAME"), x) == ([-INF, 1, -INF], [1, 0, 1, 1, 0])


def test_windows():
    x = row(3, 1, 4, 1, 5)
    assert both(MaxPool(2), x) == ([3, 4], [1, 0, 1, 0, 0])
    assert both(MaxPool(2, ceil_mode=True), x) == ([3, 4, 5], [1, 0, 1, 0, 1])
    assert both(MaxPool(2, 1, dilation=2), x) == ([4, 1, 5], [0, 1, 1, 0, 1])
    assert both(MaxPool(2, 1, 1), x) == ([3, 3, 4, 4, 5, 5], [2, 0, 2, 0, 2])
    assert both(MaxPool(3, 3, ((1, 1),)), x) == ([3, 5], [1, 0, 0, 0, 1])
    x = row(2, 4, 6, 8, 10)
    assert both(AveragePool(2, ceil_mode=True), x) == ([3, 7, 10], [0.5, 0.5, 0.5, 0.5, 1])
    assert both(AveragePool(2, padding=1), x) == ([2, 5, 9], [1, 0.5, 0.5, 0.5, 0.5])
    assert both(AveragePool(2, padding=1, count_include_pad=True), x) == ([1, 5, 9], [0.5] * 5)
    # beyond the padding nothing counts: the last window holds 8, 10 and one place of padding
    y, dx = both(AveragePool(4, 4, 1, ceil_mode=True, count_include_pad=True), x)
    assert (y, dx) == ([3, 6], pytest.approx([1 / 4, 1 / 4, 1 / 4, 1 / 3, 1 / 3]))
    assert both(AveragePool(2, divisor_override=4), x) == ([1.5, 3.5], [0.25, 0.25, 0.25, 0.25, 0])


def test_indices_and_back():
    x = jnp.asarray([[1, 5, 2], [7, 3, 9], [4, 8, 6]], jnp.float32)[None, :, :, None]
    (y, indices), residuals = MaxPool(2, 1, return_indices=True).forward((), x)
    assert (y.ravel().tolist(), indices.ravel().tolist()) == ([7, 9, 8, 9], [3, 5, 7, 5])
    assert indices.dtype == jnp.int32
    dx = MaxPool(2, 1, return_indices=True).backward((), residuals, (jnp.ones_like(y), None))[0]
    assert dx.ravel().tolist() == [0, 0, 0, 1, 0, 2, 0, 1, 0]
    up = MaxUnpool(2, 1)
    back, kept = up.forward((), (jnp.asarray([1.0, 2, 3, 4]).reshape(y.shape), indices))
    assert back.ravel().tolist() == [0, 0, 0, 1, 0, 4, 0, 3, 0]  # of the two at place 5 the last stands there
    dx, none = up.backward((), kept, jnp.arange(9.0).reshape(1, 3, 3, 1))[0]
    assert (dx.ravel().tolist(), none) == ([3, 0, 7, 5], None)
    padded = MaxPool(3, 2, 1, return_indices=True).forward((), x)[0][1]
    assert padded.ravel().tolist() == [3, 5, 7, 5]
    net = jbp.Serial(MaxPool(2, return_indices=True), MaxUnpool(2, sizes=3))
    assert net.forward(((), ()), x)[0].ravel().tolist() == [0, 0, 0, 7, 0, 0, 0, 0, 0]


def test_bins_that_share_places():
    """Three bins over four places hold 0 to 1, 1 to 2 and 2 to 3."""
    x = row(1, 9, 3, 4)
    assert both(AdaptiveMaxPool(3), x) == ([9, 9, 4], [0, 2, 0, 1])
    assert both(AdaptiveAveragePool(3), x) == ([5, 6, 3.5], [0.5, 1, 1, 0.5])
    indices = AdaptiveMaxPool((3,), return_indices=True).forward((), x)[0][1]
    assert indices.ravel().tolist() == [1, 1, 3]
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    assert AdaptiveMaxPool((1, None)).forward((), x)[0].ravel().tolist() == [3, 4, 5]
    assert AdaptiveAveragePool((None, 1)).forward((), x)[0].ravel().tolist() == pytest.approx([1, 4])
    assert AdaptiveAveragePool(1).forward((), x)[0].ravel().tolist() == [2.5]


def test_of_equal_values_the_first_is_the_maximum_in_large_windows_too():
    x = jnp.asarray([[0, 2, 2], [2, 0, 2]], jnp.float32)[None, :, :, None]
    assert AdaptiveMaxPool(1, return_indices=True).forward((), x)[0][1].tolist() == [[[[1]]]]
    assert MaxPool((2, 300), padding=((0, 0), (0, 297)), return_indices=True).forward((), x)[0][1].tolist() == [[[[1]]]]


def test_norms():
    x = row(3, -4, 0, 0, 0, 2)
    y, dx = both(LPPool(2, 2), x)
    np.testing.assert_allclose(y, [5, 0, 2], rtol=1e-6)
    np.testing.assert_allclose(dx, [0.6, -0.8, 0, 0, 0, 1], rtol=1e-6)
    assert both(LPPool(1, 2), x) == ([7, 0, 2], [1, -1, 0, 0, 0, 1])
    for scale in (1e-30, 1e30):
        y, dx = both(LPPool(3, 2), jnp.float32(scale) * x)
        np.testing.assert_allclose(y, np.float64(scale) * np.array([91 ** (1 / 3), 0, 2]), rtol=1e-6)
        np.testing.assert_allclose(dx, [9 / 91 ** (2 / 3), -16 / 91 ** (2 / 3), 0, 0, 0, 1], rtol=1e-5)


def test_fractional_windows():
    """α = (7 − 2) / 3: the windows begin at ⌊(i + u) α⌋ − ⌊u α⌋ = 0, 2, 4 with u = ½, and at 5."""
    x = row(1, 2, 3, 4, 5, 6, 7)
    (y, indices), _ = FractionalMaxPool(2, sizes=4, return_indices=True).forward((), (x, jnp.full((1, 1, 1), 0.5)))
    assert (y.ravel().tolist(), indices.ravel().tolist()) == ([2, 4, 6, 7], [1, 3, 5, 6])
    (y, _), _ = FractionalMaxPool(2, sizes=4, return_indices=True).forward((), (x, jnp.full((1, 1, 1), 0.1)))
    assert y.ravel().tolist() == [2, 3, 5, 7]  # they begin at 0, 1, 3, 5

    layer = FractionalMaxPool(2, ratio=0.6)
    params = layer.init(jax.random.key(0), x)
    y, residuals = layer.forward(params, jnp.broadcast_to(x, (64, 7, 1)))
    assert y.shape == (64, 4, 1)
    assert len(np.unique(y, axis=0)) > 1  # each example has its own
    assert layer.gradient(residuals, ()) == {"key": None}
    assert (
        jax.random.key_data(layer.advance(params, residuals)["key"].value) != jax.random.key_data(params["key"].value)
    ).any()
    still = layer.evaluation()
    assert jbp.sweep.advancing(jbp.Serial(layer, still)) == [layer]
    assert still.advance(params, residuals) is params
    assert still.forward(params, x)[0].ravel().tolist() == [2, 4, 6, 7]


@pytest.mark.parametrize("dtype", [bool, jnp.int32])
def test_only_valid_places_count(dtype):
    x = jnp.asarray([[1, 2, jnp.nan], [-3, -INF, -5], [jnp.inf, 1, 2]], jnp.float32)[:, :, None]
    mask = jnp.asarray([[1, 1, 0], [1, 0, 1], [0, 0, 0]], dtype)
    y, residuals = GlobalAveragePool().forward((), (x, mask))
    assert y.ravel().tolist() == [1.5, -4, 0]
    dx, none = GlobalAveragePool().backward((), residuals, jnp.ones_like(y))[0]
    assert (dx.ravel().tolist(), none) == ([0.5, 0.5, 0, 0.5, 0, 0.5, 0, 0, 0], None)
    y, residuals = GlobalMaxPool().forward((), (x, mask))
    assert y.ravel().tolist() == [2, -3, 0]
    dx, none = GlobalMaxPool().backward((), residuals, jnp.ones_like(y))[0]
    assert (dx.ravel().tolist(), none) == ([0, 1, 0, 1, 0, 0, 0, 0, 0], None)
    y, residuals = GlobalMaxPool().forward((), (row(1, -INF, 2), jnp.asarray([[0, 1, 0]], dtype)))
    assert (y.item(), GlobalMaxPool().backward((), residuals, jnp.ones_like(y))[0][0].ravel().tolist()) == (
        -INF,
        [0, 1, 0],
    )


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: MaxPool(0), "got window=0; expected a whole number, 1 or more"),
        (lambda: MaxPool(2, (1, 2), (1,)), r"got stride=\(1, 2\) and padding=\(1,\); expected an entry for each"),
        (lambda: MaxPool(2, padding="full"), "got padding='full'; expected 'SAME' or 'VALID'"),
        (lambda: LPPool(0.5, 2), "got norm=0.5; expected a finite number, 1 or more"),
        (lambda: AdaptiveAveragePool((0, 1)), r"got sizes=\(0, 1\); expected"),
        (lambda: FractionalMaxPool(2, ratio=1.5), "got ratio=1.5; expected"),
        (lambda: FractionalMaxPool(2), "expected one of the two. Write ratio=0.7"),
        (lambda: FractionalMaxPool(2, sizes=4).init(KEY, row(1, 2, 3)), "expected windows and an output that fit"),
        (lambda: FractionalMaxPool(2, sizes=1).init(KEY, (row(1, 2), row(1, 2))), "expected floats in"),
        (lambda: MaxPool(2).forward((), row(1)), "expected spatial sizes of at least the window's"),
        (lambda: AveragePool(2, padding=2).forward((), row(1, 2)), "expected 0 to less than the window"),
        (lambda: MaxPool(2, padding=-1).forward((), row(1, 2, 3, 4)), "expected 0 to less than the window"),
        (lambda: MaxPool(2, 1, 1, dilation=2).forward((), row(1)), "so that each window holds a place of x"),
        (lambda: MaxPool(2).forward((), jnp.ones((2, 3))), "expected 3 or more axes"),
        (lambda: GlobalAveragePool().forward((), jnp.ones((2, 0, 3))), "expected at least one place in each axis"),
        (lambda: GlobalMaxPool().forward((), (row(1, 2), row(1, 2))), "expected booleans or integers"),
        (lambda: GlobalMaxPool().forward((), (row(1, 2), None)), "expected booleans or integers"),
        (lambda: FractionalMaxPool(2, sizes=1).init(KEY, (row(1, 2), None)), "expected floats in"),
        (lambda: MaxUnpool(2).forward((), row(1, 2)), "expected the tuple"),
        (lambda: MaxUnpool(2).forward((), (row(1, 2), None)), "expected an integer array"),
        (lambda: MaxUnpool(2).forward((), (row(1, 2), jnp.array([[[0], [4]]]))), "got indices between 0 and 4"),
    ],
)
def test_errors(act, expected):
    with pytest.raises(LayerError, match=expected):
        act()
