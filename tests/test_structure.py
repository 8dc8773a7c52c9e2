"""Layers that move data: what their fields mean, by NumPy and by small numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbp import LayerError
from jbp.layers import (
    ChannelShuffle,
    Conv,
    ExpandDims,
    Flatten,
    Fold,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    Reshape,
    Resize,
    Squeeze,
    Transpose,
    Unflatten,
    Unfold,
    Upsample,
)


def row(*numbers):
    return jnp.asarray(numbers, jnp.float32)[None, :, None]


def of(layer, x):
    return layer.forward((), x)[0]


NUMPY = {
    "constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap", "symmetric": "symmetric",
}  # fmt: skip


@pytest.mark.parametrize("mode", NUMPY)
@pytest.mark.parametrize("widths", [1, (2, (0, 1)), ((2, 0), (1, 2))])
def test_borders_are_those_of_numpy(mode, widths):
    x = jnp.arange(24.0).reshape(1, 3, 4, 2)
    pairs = [w if isinstance(w, tuple) else (w, w) for w in (widths if isinstance(widths, tuple) else (widths,) * 2)]
    more = {"constant_values": 7.0} if mode == "constant" else {}
    y = of(Pad(widths, mode, **({"value": 7.0} if more else {})), x)
    np.testing.assert_array_equal(y, np.pad(x, [(0, 0), *pairs, (0, 0)], NUMPY[mode], **more))


@pytest.mark.parametrize(
    ("mode", "dx"),
    [("constant", [3, 4, 5]), ("reflect", [3, 4 + 2 + 6, 5 + 1]), ("replicate", [1 + 2 + 3, 4, 5 + 6]),
     ("circular", [3 + 6, 4 + 1, 5 + 2]), ("symmetric", [3 + 2, 4 + 1, 5 + 6])],
)  # fmt: skip
def test_copies_in_the_border_add_to_what_they_are_copies_of(mode, dx):
    """dy = 1 2 | 3 4 5 | 6, and the border x₂ x₁ | x₁, or x₀ x₀ | x₂, or x₁ x₂ | x₀, or x₁ x₀ | x₂."""
    assert Pad(((2, 1),), mode).backward((), (), row(1, 2, 3, 4, 5, 6))[0].ravel().tolist() == dx


def test_pad_and_crop_at_once():
    x = row(1, 2, 3, 4)
    assert of(Pad(((-1, 2),), "replicate"), x).ravel().tolist() == [2, 3, 4, 4, 4]
    assert Pad(((-1, 2),), "replicate").backward((), (), row(1, 2, 3, 4, 5))[0].ravel().tolist() == [0, 1, 2, 12]
    assert of(Pad(-1), x).ravel().tolist() == [2, 3]


def test_sizes_one_by_one_or_as_a_tuple():
    assert Reshape(8, 8, 1) == Reshape((8, 8, 1)) == Reshape([8, 8, 1]) == Reshape(shape=(8, 8, 1))
    assert repr(Reshape(8, 8, 1)) == "Reshape((8, 8, 1))"
    assert Reshape(-1) == Reshape((-1,))
    assert Transpose(0, 2, 1) == Transpose((0, 2, 1)) == Transpose(axes=(0, 2, 1))
    assert of(Reshape(2, -1), jnp.ones((3, 8))).shape == (3, 2, 4)


def test_ranges_of_axes():
    x = jnp.arange(120.0).reshape(2, 3, 4, 5)
    for layer, shape in (
        (Flatten(), (2, 60)), (Flatten(2), (2, 3, 20)), (Flatten(1, 2), (2, 12, 5)), (Flatten(0, 1), (6, 4, 5)),
        (Flatten(-2), (2, 3, 20)), (Flatten(0), (120,)), (Unflatten(2, (2, -1)), (2, 3, 2, 2, 5)),
        (Unflatten(-1, (5, 1)), (2, 3, 4, 5, 1)), (ExpandDims(1), (2, 1, 3, 4, 5)), (ExpandDims(), (2, 3, 4, 5, 1)),
    ):  # fmt: skip
        y, residuals = layer.forward((), x)
        np.testing.assert_array_equal(y, np.reshape(x, shape))
        np.testing.assert_array_equal(layer.backward((), residuals, y)[0], x)
    assert of(Squeeze(1), x[:, :1]).shape == (2, 4, 5)
    assert of(Flatten(), jnp.ones(3)).shape == (3, 1)


def test_interpolation():
    x = row(0, 8)
    assert of(Upsample(2), x).ravel().tolist() == [0, 0, 8, 8]
    assert of(Upsample(2, "linear"), x).ravel().tolist() == [0, 2, 6, 8]
    np.testing.assert_allclose(
        of(Upsample(2, "linear", align_corners=True), x).ravel(), [0, 8 / 3, 16 / 3, 8], rtol=1e-6
    )
    assert of(Resize(3), row(0, 4)).ravel().tolist() == pytest.approx([0, 2, 4])
    assert of(Resize(2, "nearest"), row(1, 2, 3, 4, 5)).ravel().tolist() == [1, 3]
    assert of(Upsample(1.5), x).ravel().tolist() == [0, 0, 8]
    # half-way between two places the cubic weights are −3/32, 19/32, 19/32, −3/32
    np.testing.assert_allclose(
        of(Resize(3, "cubic"), row(1, 10, 100, 1000)).ravel()[1], (19 * 110 - 3 * 1001) / 32, rtol=1e-6
    )
    dx = Resize(4).backward((), Resize(4).forward((), x)[1], row(1, 2, 3, 4))[0]
    assert dx.ravel().tolist() == [1 + 0.75 * 2 + 0.25 * 3, 0.25 * 2 + 0.75 * 3 + 4]
    np.testing.assert_array_equal(
        of(Resize(4), row(-jnp.inf, 1, 2, 3))[0, 2:], [[2.0], [3.0]]
    )  # far away nothing is lost


def test_places_for_channels():
    x = jnp.asarray([[[1.0, 2, 3, 4]]])  # one place of four channels
    assert of(PixelShuffle(2), x).tolist() == [[[1, 3], [2, 4]]]  # channels (1 2), (3 4) over two places
    assert of(PixelShuffle(2), x[:, :, None]).tolist() == [[[[1], [2]], [[3], [4]]]]
    picture = jnp.arange(48.0).reshape(1, 4, 4, 3)
    small = of(PixelUnshuffle(2), picture)
    assert small[0, 0, 0].tolist() == [0, 3, 12, 15, 1, 4, 13, 16, 2, 5, 14, 17]
    np.testing.assert_array_equal(of(PixelShuffle(2), small), picture)
    y, _ = ChannelShuffle(2).forward((), jnp.arange(6.0)[None])
    assert y.tolist() == [[0, 3, 1, 4, 2, 5]]
    assert ChannelShuffle(2).backward((), (), y)[0].tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("window", "stride", "padding", "dilation"), [(2, 2, 0, 1), ((2, 3), 1, "SAME", 1), (2, (2, 1), ((1, 0), 2), 2)]
)
def test_a_convolution_is_unfold_and_a_product(window, stride, padding, dilation):
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    conv = Conv(4, window, stride, padding, dilation, bias=False)
    params = conv.init(jax.random.key(1), x)
    columns = of(Unfold(window, stride, padding, dilation), x)
    y = columns @ params["w"].reshape(-1, 4)
    np.testing.assert_allclose(y, conv.forward(params, x)[0], rtol=1e-5, atol=1e-6)
    times = of(
        Fold((4, 5), window, stride, padding, dilation), of(Unfold(window, stride, padding, dilation), 0 * x + 1)
    )
    ones = conv.backward({"w": jnp.ones((*params["w"].shape[:-1], 1))}, x, jnp.ones((*y.shape[:-1], 1)))[0]
    np.testing.assert_allclose(times, ones)  # in how many windows each place lies


def test_patches_in_order():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert of(Unfold(2, 2), x)[0].tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]]
    np.testing.assert_array_equal(of(Fold(4, 2, 2), of(Unfold(2, 2), x)), x)
    assert of(Unfold(2), row(1, 2, 3))[0].tolist() == [[1, 2], [2, 3]]
    assert of(Unfold(2, 2), row(1, 2, 3))[0].tolist() == [[1, 2]]  # what is left over is left out
    assert of(Fold(3, 2, 2), jnp.asarray([[[1.0, 2]]])).ravel().tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: Pad(1.5), "got widths=1.5; expected a whole number, or a tuple. Write one number for every side"),
        (lambda: Pad(1, "wrap"), "got mode='wrap'; expected 'constant', 'reflect'"),
        (lambda: Pad(2, "reflect").forward((), row(1, 2)), "expected at most 1 more with 'reflect'"),
        (lambda: Pad(3, "circular").forward((), row(1, 2)), "expected at most 2 more with 'circular'"),
        (lambda: Pad(-2).forward((), row(1, 2, 3)), "expected as much as widths=-2 crop"),
        (lambda: Reshape(8, 8.0), "got shape=.*Write whole numbers: Reshape"),
        (lambda: Reshape(), "got shape=None; expected a tuple"),
        (lambda: Transpose(0, "b"), "got axes=.*Write whole numbers: Transpose"),
        (lambda: Flatten(2).forward((), jnp.ones(3)), "expected the axes 2 to -1, in this order"),
        (lambda: Flatten(2, 0).forward((), jnp.ones((3, 1, 1))), "expected the axes 2 to 0, in this order"),
        (lambda: Unflatten(1, (2, 3)).forward((), jnp.ones((3, 4))), "expected an axis 1 of 6 places"),
        (lambda: Unflatten(5, (1,)).forward((), jnp.ones((3, 4))), "expected an axis 5"),
        (lambda: Unflatten(5, (-1, -1)), "expected at most one −1"),
        (lambda: Squeeze().forward((), jnp.ones((3, 4))), "expected an axis -1 of size one"),
        (lambda: ExpandDims(4).forward((), jnp.ones((3, 4))), "expected an output with an axis 4"),
        (lambda: Upsample(0.5), "got factors=0.5; expected a finite number, 1 or more"),
        (lambda: Upsample(1e30), "got factors=1e[+]30; expected"),
        (lambda: Upsample(2, align_corners=True), "expected an interpolation. Write mode='linear'"),
        (lambda: Resize(2).forward((), jnp.ones((1, 0, 1))), "expected at least one place in each axis"),
        (lambda: PixelShuffle(2).forward((), jnp.ones((1, 2, 3))), "expected channels that are a multiple of 2"),
        (lambda: PixelUnshuffle(2).forward((), jnp.ones((1, 3, 3))), r"expected spatial sizes that \(2,\) divide"),
        (lambda: ChannelShuffle(2).forward((), jnp.ones((1, 3))), "expected channels that are a multiple of 2"),
        (lambda: Fold(4, 2, 2).forward((), jnp.ones((1, 3, 2))), r"expected \(2,\) windows"),
        (lambda: Fold(4, 2, 2).forward((), jnp.ones((1, 2, 3))), "a multiple of their 2 places"),
    ],
)
def test_errors(act, expected):
    with pytest.raises(LayerError, match=expected):
        act()
