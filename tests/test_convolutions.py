"""Convolutions: what their fields mean, by small numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbp import LayerError
from jbp.layers import Conv, ConvTranspose

KEY = jax.random.key(0)


def row(*numbers):
    return jnp.asarray(numbers, jnp.float32)[None, :, None]


def kernel(*numbers):
    return {"w": jnp.asarray(numbers, jnp.float32)[:, None, None]}


def of(layer, x, params):
    return layer.forward(params, x)[0].ravel().tolist()


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_number_means_the_same_on_every_spatial_axis(layer, rank):
    x = jax.random.normal(KEY, (1, *(4, 3, 2)[:rank], 2))
    one = layer(3, 2, 2, padding=1, dilation=1)
    each = layer(3, (2,) * rank, (2,) * rank, padding=(1,) * rank, dilation=(1,) * rank)
    pairs = layer(3, (2,) * rank, (2,) * rank, padding=((1, 1),) * rank)
    params = one.init(KEY, x)
    y, residuals = one.forward(params, x)
    for other in (each, pairs):
        np.testing.assert_array_equal(other.forward(params, x)[0], y)
        for ours, theirs in zip(one.pull(params, residuals, y), other.pull(params, residuals, y), strict=True):
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_paddings():
    x, params = row(1, 2, 3), kernel(1, 10)
    assert of(Conv(1, 2, padding=1, bias=False), x, params) == [10, 21, 32, 3]
    assert of(Conv(1, 2, padding=(1,), bias=False), x, params) == [10, 21, 32, 3]
    assert of(Conv(1, 2, padding=((0, 1),), bias=False), x, params) == [21, 32, 3]
    assert of(Conv(1, 2, padding="valid", bias=False), x, params) == [21, 32]
    assert of(Conv(1, 2, padding="Same", bias=False), x, params) == [21, 32, 3]  # the odd one goes high
    assert of(Conv(1, 2, padding="causal", bias=False), x, params) == [10, 21, 32]
    assert of(Conv(1, 2, padding="causal", dilation=2, bias=False), x, params) == [10, 20, 31]
    assert Conv(1, 2, padding="same") == Conv(1, 2) == Conv(1, 2, padding="SAME")
    assert repr(Conv(1, 2, padding="valid")) == "Conv(1, kernel=2, padding='VALID')"


@pytest.mark.parametrize(
    ("mode", "border"),
    [("reflect", (3, 2, 1, 2, 3, 2, 1)), ("replicate", (1, 1, 1, 2, 3, 3, 3)), ("circular", (2, 3, 1, 2, 3, 1, 2)),
     ("symmetric", (2, 1, 1, 2, 3, 3, 2)), ("zeros", (0, 0, 1, 2, 3, 0, 0))],
)  # fmt: skip
def test_what_the_padding_holds(mode, border):
    """y is the sum of windows of x with its border, dx counts in how many of them each x and its copies lie."""
    x, layer = row(1, 2, 3), Conv(1, 3, padding=2, bias=False, padding_mode=mode)
    y, residuals = layer.forward(kernel(1, 1, 1), x)
    assert y.ravel().tolist() == [sum(border[i : i + 3]) for i in range(5)]
    dx, grads = layer.pull(kernel(1, 1, 1), residuals, jnp.ones_like(y))
    times = [1, 2, 3, 3, 3, 2, 1]  # how many windows hold each place of the border and x
    assert dx.ravel().tolist() == [sum(t for t, v in zip(times, border, strict=True) if v == n) for n in (1, 2, 3)]
    assert grads["w"].ravel().tolist() == [sum(border[i : i + 5]) for i in range(3)]


def test_a_transposed_convolution_by_the_numbers_of_pytorch():
    """(n − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1 places, cut from the full sum."""
    x, params = row(1, 2), kernel(1, 10, 100)
    assert of(ConvTranspose(1, 3, 2, 0, bias=False), x, params) == [1, 10, 102, 20, 200]
    assert of(ConvTranspose(1, 3, 2, 1, bias=False), x, params) == [10, 102, 20]
    assert of(ConvTranspose(1, 3, 2, 1, bias=False, output_padding=1), x, params) == [10, 102, 20, 200]
    assert of(ConvTranspose(1, 3, 2, "valid", bias=False, output_padding=1), x, params) == [1, 10, 102, 20, 200, 0]
    for n, k, s, p, d, more in ((5, 3, 2, 1, 1, 1), (4, 2, 3, 0, 2, 2), (3, 4, 1, 2, 1, 0)):
        x = jax.ShapeDtypeStruct((1, n, 1), jnp.float32)
        layer = ConvTranspose(1, k, s, p, d, output_padding=more)
        y = jax.eval_shape(lambda x, layer=layer: layer.forward(layer.init(KEY, x), x)[0], x)
        assert y.shape[1] == (n - 1) * s - 2 * p + d * (k - 1) + more + 1


@pytest.mark.parametrize("layer", [Conv(2, 2, bias=False), ConvTranspose(2, 2, bias=False)])
def test_without_bias(layer):
    x = row(1, 2, 3)
    params = layer.init(KEY, x)
    y, residuals = layer.forward(params, x)
    assert set(params) == set(layer.pull(params, residuals, y)[1]) == {"w"}
    assert not layer.forward(params, 0 * x)[0].any()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 2])
def test_gradients_of_wider_weights_are_summed_in_their_dtype(size, groups):
    """301 is no bfloat16, and neither is a sum of as many ones in it."""
    for layer, n in (
        (Conv(4, size, groups=groups), 301),
        (ConvTranspose(4, size, padding="valid", groups=groups), 301),
    ):
        x = jnp.ones((1, n, 4), jnp.bfloat16)
        params = layer.init(KEY, x.astype(jnp.float32))
        y, residuals = layer.forward(params, x)
        dx, grads = layer.pull(params, residuals, jnp.ones_like(y))
        assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
        assert grads["w"].dtype == grads["b"].dtype == jnp.float32
        assert grads["w"][0].ravel().tolist() == [301.0] * (16 // groups)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Conv(8, stride=0), "got stride=0; expected a whole number, 1 or more, or a tuple. Write one number"),
        (lambda: Conv(8, stride=(2,)), r"got kernel=\(3, 3\) and stride=\(2,\); expected .*Write stride=2 for every"),
        (lambda: Conv(0), "got features=0; expected a whole number, 1 or more"),
        (lambda: Conv(8, (3, 0)), r"got kernel=\(3, 0\); expected .*1 or more"),
        (lambda: Conv(8, ()), r"got kernel=\(\); expected one or more spatial axes. Write kernel=1"),
        (lambda: Conv(8, 3, padding=2.5), "got padding=2.5; expected 'SAME' or 'VALID', or a whole number"),
        (lambda: Conv(8, 3, padding="full"), "got padding='full'; expected 'SAME' or 'VALID'"),
        (lambda: Conv(8, 3, padding=((1, 2, 3),)), "got padding=.*Write a word, one number for every side"),
        (lambda: Conv(8, 3, dilation=-1), "got dilation=-1; expected"),
        (lambda: Conv(8, 3, groups=0), "got groups=0; expected"),
        (lambda: Conv(8, 3, padding_mode="wrap"), "got padding_mode='wrap'; expected 'zeros', 'reflect'"),
        (lambda: ConvTranspose(8, 3, output_padding=-1), "got output_padding=-1; expected a whole number, 0 or more"),
        (lambda: ConvTranspose(8, 3, 2, output_padding=(1, 1), dilation=(1,)), "expected an entry for each"),
        (lambda: Conv(8, 3).init(KEY, jnp.ones((2, 3))), "expected 3 or more axes"),
        (lambda: Conv(8, 3, (1, 2)).init(KEY, jnp.ones((2, 3, 4))), r"expected 4 axes \(batch, n, n, channels\)"),
        (lambda: Conv(1, 3, padding=3, bias=False, padding_mode="reflect").forward(kernel(1, 1, 1), row(1, 2)),
         "got 2 places along axis 1 of x for a border of 3; expected at most 1 more with 'reflect'"),
    ],
)  # fmt: skip
def test_errors(make, expected):
    with pytest.raises(LayerError, match=expected):
        make()
