"""Weights of PyTorch, Flax and Keras: the same outputs, and what is missing, left over or misshapen by its name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jbp import Frozen, Graph, Repeat, Residual, Serial, Tied, weights
from jbp.errors import TreeError
from jbp.layers import (
    GRU,
    LSTM,
    Add,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Elman,
    Embedding,
    Flatten,
    GroupNorm,
    LayerNorm,
    Lengths,
    Logits,
    MaxPool,
    MultiHeadAttention,
    Positions,
    ReLU,
    SelectiveStateSpace,
    Tanh,
)

pytestmark = pytest.mark.usefixtures("lenient")
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.normal(size=shape).astype("float32")


def near(y, wanted):
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


def linen_variables(module, *x):
    """Variables that are not at their start."""
    variables = module.init(jax.random.key(0), *x)
    return jax.tree.map(lambda a: a + 0.3 * np.abs(numbers(*a.shape)), variables)


class Images(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.BatchNorm(use_running_average=True)(linen.Conv(4, (3, 3))(x)))
        x = linen.ConvTranspose(3, (2, 2), strides=(2, 2), padding="VALID")(x)
        x = linen.max_pool(linen.GroupNorm(3)(x), (2, 2), (2, 2))
        return linen.Dense(5)(x.reshape(x.shape[0], -1))


def test_an_image_network_of_linen():
    x = numbers(2, 6, 4, 1)
    net = Serial(
        Conv(4), BatchNorm(), ReLU(), ConvTranspose(3, 2, stride=2, padding="VALID"), GroupNorm(3, 1e-6), MaxPool(),
        Flatten(), Dense(5),
    )  # fmt: skip
    variables = linen_variables(Images(), x)
    params = weights.from_flax(net, x, variables)
    near(net.evaluation()(params, x), Images().apply(variables, x))


class Text(linen.Module):
    @linen.compact
    def __call__(self, ids):
        x = linen.LayerNorm(epsilon=1e-5)(linen.Embed(7, 6)(ids))
        x = x + linen.MultiHeadDotProductAttention(2, use_bias=False)(x, x)
        x = linen.RNN(linen.OptimizedLSTMCell(5))(x)
        x = linen.RNN(linen.GRUCell(4))(x)
        return linen.RNN(linen.SimpleCell(3))(x)


def test_a_text_network_of_linen():
    ids = RNG.integers(0, 7, (2, 5))
    net = Serial(
        Embedding(7, 6), LayerNorm(), Residual(MultiHeadAttention(2)), Lengths(LSTM(5)).layer, GRU(4), Elman(3)
    )
    variables = linen_variables(Text(), ids)
    near(net(weights.from_flax(net, ids, variables), ids), Text().apply(variables, ids))


def test_layers_of_nnx_by_name():
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
    model.layers[1].mean.set_value(jnp.asarray(numbers(4)))
    model.eval()
    net = Serial(first=Serial(Dense(4)), norm=BatchNorm())
    x = numbers(5, 3)
    state = nnx.to_pure_dict(nnx.state(model))
    params = weights.from_flax(net, x, state, {"first/0": "layers.0", "norm": "layers.1"})
    near(net.evaluation()(params, x), model(x))
    near(params["norm"]["mean"].value, model.layers[1].mean.get_value())


def keras(seed=0):
    """The arrays of a Keras model by their paths, and numbers for them."""
    shapes = {
        "m/conv2d/kernel": (3, 3, 2, 4), "m/conv2d/bias": (4,), "m/batch_normalization/gamma": (4,),
        "m/batch_normalization/beta": (4,), "m/batch_normalization/moving_mean": (4,),
        "m/batch_normalization/moving_variance": (4,), "m/dropout/seed_generator/seed_generator_state": (2,),
    }  # fmt: skip
    return {name: np.abs(numbers(*shape)) for name, shape in shapes.items()}


def test_keras_by_its_paths():
    net, x, theirs = Serial(Conv(4), BatchNorm(), Dropout(0.5)), numbers(2, 4, 4, 2), keras()
    params = weights.from_keras(net, x, theirs)
    np.testing.assert_array_equal(params[0]["w"], theirs["m/conv2d/kernel"])
    np.testing.assert_array_equal(params[1]["variance"].value, theirs["m/batch_normalization/moving_variance"])
    assert net.evaluation()(params, x).shape == (2, 4, 4, 4)


def test_the_gates_of_keras():
    """Keras has i, f, g, o in its LSTM, and both biases of its GRU apart (its own documentation of `reset_after`)."""
    h, x = 2, numbers(1, 3, 5)
    z = {name: numbers(*shape) for name, shape in {"i": (5, h), "f": (5, h), "g": (5, h), "o": (5, h)}.items()}
    theirs = {"kernel": np.concatenate([z["i"], z["f"], z["g"], z["o"]], 1)}
    theirs |= {"recurrent_kernel": np.tile(np.arange(4.0, dtype="float32").repeat(h), (h, 1)), "bias": numbers(4 * h)}
    params = weights.from_keras(LSTM(h), x, {f"lstm/lstm_cell/{name}": a for name, a in theirs.items()})
    np.testing.assert_array_equal(params["w"], np.concatenate([z["i"], z["f"], z["o"], z["g"]], 1))
    np.testing.assert_array_equal(params["u"][0], np.array([0, 1, 3, 2], "float32").repeat(h))
    bias = np.arange(12, dtype="float32").reshape(2, 6)
    theirs = {"kernel": numbers(5, 6), "recurrent_kernel": numbers(2, 6), "bias": bias}
    params = weights.from_keras(GRU(h), x, theirs)
    np.testing.assert_array_equal(params["b"], [0 + 6, 1 + 7, 2 + 8, 3 + 9, 4, 5])
    np.testing.assert_array_equal(params["c"], [10, 11])


DENSE = {"a.weight": numbers(4, 3), "a.bias": numbers(4), "b.weight": numbers(2, 4), "b.bias": numbers(2)}
TWO, X = Serial(one=Dense(4), two=Dense(2)), numbers(5, 3)


def test_parameters_go_where_wrappers_ties_and_graphs_have_them():
    net = Graph(
        a=(Frozen(Dense(4)), "x"),
        b=(Repeat(Residual(Serial(norm=LayerNorm(), map=Dense(4))), 2), "a"),
        y=(Add(), "a", "b"),
    )
    theirs = {f"h.{k}.{name}": numbers(*s) for k in (1, 0) for name, s in {"ln.weight": (4,), "ln.bias": (4,)}.items()}
    theirs |= {f"h.{k}.fc.{name}": numbers(*s) for k in (0, 1) for name, s in {"weight": (4, 4), "bias": (4,)}.items()}
    theirs |= {"stem.weight": numbers(4, 3), "stem.bias": numbers(4)}
    params = weights.from_torch(net, X, theirs, {"b/norm": "h.{}.ln", "b/map": "h.{}.fc"})
    np.testing.assert_array_equal(params["a"].value["w"], theirs["stem.weight"].T)
    np.testing.assert_array_equal(params["b"]["map"]["w"][1], theirs["h.1.fc.weight"].T)
    np.testing.assert_array_equal(params["b"]["norm"]["g"][0], theirs["h.0.ln.weight"])
    tied = Tied(Serial(Embedding(7, 4), Logits(7)), (((0, "e"), (1, "e")),))
    table = numbers(7, 4)
    for arrays in ({"wte.weight": table}, {"wte.weight": table, "head.weight": table}):
        found = weights.from_torch(tied, np.zeros((2, 3), int), arrays)
        np.testing.assert_array_equal(found[0]["e"], table)
        assert found[1] == {"e": None}


@pytest.mark.parametrize(
    ("arrays", "names", "message"),
    [
        (
            DENSE | {"c.weight": X},
            {},
            r"got c\.weight float32\[5, 3\], which no layer takes; .* ignore=\('c\.weight',\)",
        ),
        (
            dict(list(DENSE.items())[:2]),
            {},
            r"got nothing more where two, Dense\(2\), is next; expected a name that ends",
        ),
        (
            dict(list(DENSE.items())[:3]),
            {},
            r"got no b\.bias for two/b float32\[2\]; expected it among a\.weight, a\.bias",
        ),
        (DENSE | {"a.weight": X}, {}, r"got a\.weight float32\[5, 3\] for one/w float32\[3, 4\]; expected numbers for"),
        (
            DENSE,
            {"one": "b"},
            r"got b\.weight float32\[2, 4\] for one/w float32\[3, 4\]; expected numbers for this shape",
        ),
        (DENSE, {"one/w": "a"}, r"got a name for 'one/w', where no layer takes weights; expected the path of one"),
        ({"a.norm": X} | DENSE, {}, r"got a\.norm where one, Dense\(4\), is next; .* bias, weight\. Say which module"),
    ],
)
def test_what_does_not_fit_is_named(arrays, names, message):
    with pytest.raises(TreeError, match=rf"^from_torch: {message}"):
        weights.from_torch(TWO, X, arrays, names)


def test_a_layer_without_a_rule_is_named():
    net = Serial(Dense(4), SelectiveStateSpace(2))
    with pytest.raises(TreeError, match=r"got SelectiveStateSpace\(2\) at 1, whose weights it does not know; expected"):
        weights.from_torch(net, numbers(2, 3, 3), DENSE)


def test_what_is_ignored_may_be_left_over():
    params = weights.from_torch(TWO, X, {"old.weight": X} | DENSE, ignore=("old.*",))
    near(TWO(params, X), (X @ DENSE["a.weight"].T + DENSE["a.bias"]) @ DENSE["b.weight"].T + DENSE["b.bias"])


def test_a_safetensors_file(tmp_path):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    arrays = {"a.weight": numbers(2, 3), "a.bias": jnp.asarray(numbers(2), "bfloat16")}
    for name, a in arrays.items():
        data = np.asarray(a).tobytes()
        dtype = {"float32": "F32", "bfloat16": "BF16"}[str(a.dtype)]
        header[name] = {"dtype": dtype, "shape": a.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    file = tmp_path / "net.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)
    params = weights.from_torch(Dense(2), X, weights.safetensors(file))
    np.testing.assert_array_equal(params["w"], arrays["a.weight"].T)
    np.testing.assert_array_equal(params["b"], arrays["a.bias"].astype("float32"))
    for torn in (b"", b"{}", file.read_bytes()[:-1], b"x" * 40):
        file.write_bytes(torn)
        with pytest.raises(TreeError, match=r"safetensors: got .*net\.safetensors, which cannot be read"):
            weights.safetensors(file)


def test_positions_are_a_bare_parameter_or_an_embedding():
    net = Serial(Embedding(7, 4), Positions(5), Tanh())
    arrays = {"tok.weight": numbers(7, 4), "pos": numbers(1, 5, 4)}
    params = weights.from_torch(net, np.zeros((2, 5), int), arrays, {"1": "pos"})
    np.testing.assert_array_equal(params[1]["p"], arrays["pos"][0])
