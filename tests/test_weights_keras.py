"""Weights of Keras: its models, with numbers in them, and the same networks here give the same."""

import os

import numpy as np
import pytest

import jbp
from jbp import Residual, Serial, weights
from jbp.layers import (
    GRU,
    LSTM,
    BatchNorm,
    Bidirectional,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Elman,
    Embedding,
    Flatten,
    LayerNorm,
    MaxPool,
    MultiHeadAttention,
    PReLU,
    ReLU,
    Take,
)

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.usefixtures("lenient")
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.normal(size=shape).astype("float32")


def of_keras(net, model, x, names=None, theirs=None):
    """Both on x, once the model has weights that are not at their start."""
    model(x if theirs is None else theirs)  # which makes them
    for w in model.weights:
        if w.dtype == "float32":
            w.assign(np.abs(numbers(*w.shape)) if len(w.shape) == 1 else numbers(*w.shape))
    params = weights.from_keras(net, x, {w.path: w for w in model.weights}, names)
    wanted = model(x if theirs is None else theirs, training=False)
    np.testing.assert_allclose(net.evaluation()(params, x), np.asarray(wanted), rtol=1e-4, atol=1e-4)


def test_an_image_network_of_keras():
    net = Serial(
        Conv(4), BatchNorm(epsilon=1e-3), PReLU(), Conv(8, groups=4), ConvTranspose(6, 2, stride=2), MaxPool(),
        Conv(6, groups=2), Flatten(), Dropout(0.2), Dense(5),
    )  # fmt: skip
    kinds = keras.layers
    model = keras.Sequential([
        kinds.Conv2D(4, 3, padding="same"), kinds.BatchNormalization(), kinds.PReLU(shared_axes=[1, 2]),
        kinds.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        kinds.Conv2DTranspose(6, 2, strides=2, padding="same"), kinds.MaxPooling2D(),
        kinds.Conv2D(6, 3, padding="same", groups=2), kinds.Flatten(), kinds.Dropout(0.2), kinds.Dense(5),
    ])  # fmt: skip
    of_keras(net, model, numbers(2, 6, 4, 2))


@pytest.mark.parametrize(("ours", "name"), [(LSTM, "LSTM"), (GRU, "GRU"), (Elman, "SimpleRNN")])
def test_recurrent_layers_of_keras(ours, name):
    net = Serial(ours(3), ours(2), Take(-1))
    model = keras.Sequential([getattr(keras.layers, name)(3, return_sequences=True), getattr(keras.layers, name)(2)])
    of_keras(net, model, numbers(2, 5, 4))


def test_a_bidirectional_layer_of_keras():
    layer = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))
    of_keras(
        Serial(Bidirectional(LSTM(3)), Dense(2)), keras.Sequential([layer, keras.layers.Dense(2)]), numbers(2, 5, 4)
    )


def test_a_transformer_block_of_keras():
    """By names, for the functional model has its layers in another order."""
    words, kinds = keras.Input((5,), dtype="int32"), keras.layers
    x = kinds.Embedding(7, 4, name="words")(words)
    normed = kinds.LayerNormalization(name="norm")(x)
    x = x + kinds.MultiHeadAttention(2, 2, name="look")(normed, normed)
    model = keras.Model(words, kinds.Dense(3, name="out")(kinds.ReLU()(x)))
    net = Serial(
        words=Embedding(7, 4),
        block=Residual(Serial(norm=LayerNorm(epsilon=1e-3), look=MultiHeadAttention(2, bias=True))),
        act=ReLU(),
        out=Dense(3),
    )
    names = {"words": "words", "block/norm": "norm", "block/look": "look", "out": "out"}
    of_keras(net, model, RNG.integers(0, 7, (2, 5)).astype("int32"), names)


def test_what_is_missing_is_named():
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])
    model(numbers(1, 3))
    with pytest.raises(jbp.errors.TreeError, match=r"dense_\d+\.kernel float32\[4, 2\]"):
        weights.from_keras(Dense(4), numbers(1, 3), {w.path: w for w in model.weights})
