"""Bad input: the message names the layer by its path, says what came, what was expected and what to do."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import draw

from jbp import (
    Frozen,
    Graph,
    LayerError,
    Parallel,
    Passing,
    Remat,
    Repeat,
    Residual,
    Reversible,
    Serial,
    Tied,
    TimeDistributed,
    cast,
    recipes,
    trainable,
    value_and_grad,
)
from jbp.catalogue import LAYERS, LOSSES
from jbp.credit import PredictiveCoding, angle
from jbp.errors import TreeError, check_cotangent, show
from jbp.layer import Layer
from jbp.layers import (
    LSTM,
    Add,
    Attention,
    AveragePool,
    BatchNorm,
    BatchNormInference,
    Bidirectional,
    CausalSelfAttention,
    Concatenate,
    Conv,
    ConvTranspose,
    Dense,
    DiagonalStateSpace,
    Dropout,
    DropoutInference,
    Embedding,
    EmbeddingBag,
    FanOut,
    Flatten,
    GlobalAveragePool,
    GradientReversal,
    Identity,
    LayerNorm,
    LeakyIntegrateAndFire,
    Lengths,
    LinearAttention,
    Logits,
    LoRA,
    LSTMNode,
    MaxPool,
    MemoryHop,
    MinimalGRU,
    MixtureOfExperts,
    MultiHeadAttention,
    Pad,
    PairwiseDistance,
    Positions,
    RadialBasis,
    Recurrent,
    Recursive,
    ReLU,
    Reparameterize,
    Reshape,
    Rotary,
    Select,
    SelectiveStateSpace,
    SinusoidalPositions,
    SpectralNorm,
    StochasticDepth,
    StraightThroughOneHot,
    StraightThroughRound,
    Take,
    Tanh,
    TensorNode,
    TensorProduct,
    Transpose,
    Unfold,
    Upsample,
    WeightNorm,
)
from jbp.losses import (
    CTC,
    DPO,
    GRPO,
    KTO,
    ORPO,
    BinaryCrossEntropy,
    CosineEmbedding,
    Dice,
    Each,
    Focal,
    Hinge,
    HingeEmbedding,
    InfoNCE,
    MarginRanking,
    MeanSquaredError,
    MultiLabelSoftMargin,
    NegativeSampling,
    PerExample,
    PolicyGradient,
    SoftMargin,
    SoftmaxCrossEntropy,
    StandardNormalDivergence,
    Sum,
    Total,
    Triplet,
    Weighted,
)
from jbp.numerics import outline
from jbp.params import Buffer, merge
from jbp.readers import deltas
from jbp.sweep import initialize
from jbp.train import accuracy, fit, inside, start, step

KEY = jax.random.key(0)


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


def message(act, *args):
    """The text of the error, after a check that it says what came, what was expected, and what to do."""
    with pytest.raises(LayerError) as caught:
        act(*args)
    text = str(caught.value)
    assert "got " in text, text
    assert "expected " in text, text
    assert re.search(r"expected [^;]*?[.?] \S", text), f"nothing to do in: {text}"
    return text


def test_the_path_names_the_layer():
    net = Serial(Dense(4), Tanh(), Residual(Serial(Tanh(), Conv(8, (3, 3)))))
    text = message(net.init, KEY, ones(2, 3))
    assert text.startswith("Serial[2].Residual.Serial[1]: Conv(8): got x float32[2, 4]; expected 4 axes")
    for wrap, path in (
        (lambda f: Repeat(f, 2), "Repeat"),
        (Remat, "Remat"),
        (Frozen, "Frozen"),
        (Residual, "Residual"),
        (lambda f: TimeDistributed(f, 1), "TimeDistributed"),
        (lambda f: Tied(Serial(f, f), ()), "Tied.Serial[0]"),
        (lambda f: Serial(FanOut(), Parallel(Tanh(), f)), "Serial[1].Parallel[1]"),
    ):
        assert message(wrap(Conv(8)).init, KEY, ones(2, 3)).startswith(f"{path}: Conv(8): got x float32[2, 3]")


def test_the_path_is_there_on_every_way_through_a_network():
    net = Serial(Tanh(), Remat(Repeat(Residual(Serial(LayerNorm(), Dense(3))), 2)))
    x = ones(2, 3)
    params = net.init(KEY, x)
    wrong = jax.tree.map(lambda p: p[..., :2], params)
    text = message(net.forward, wrong, x)
    assert text.startswith("Serial[1].Remat.Repeat.Residual.Serial[0]: LayerNorm(): got 'g' float32[2]; expected shape")
    text = message(jax.jit(net.forward), params, ones(2, 5))
    assert text.startswith(
        "Serial[1].Remat.Repeat.Residual.Serial[0]: LayerNorm(): got 'g' float32[3]; expected shape [5]"
    )
    residuals = net.forward(params, x)[1]
    with pytest.raises(TypeError) as caught:  # whatever goes wrong inside, a note says where
        net.pull(params, residuals, ones(2, 7))
    assert any("in the layer Serial[1].Remat.Repeat" in note for note in caught.value.__notes__), caught.value.__notes__


WRONG_INPUT = {
    "Dense of integers": (Dense(3), ones(2, 3, dtype=jnp.int32), "got x int32[2, 3]; expected a floating-point array"),
    "Dense of nothing": (Dense(3), ones(), "got x float32[]; expected 1 or more axes"),
    "Dense of a list": (Dense(3), [ones(2)], "got x (float32[2])"),
    "activation of integers": (ReLU(), ones(2, dtype=jnp.int32), "got x int32[2]"),
    "LayerNorm": (LayerNorm(), ones(), "got x float32[]"),
    "BatchNorm": (BatchNorm(), ones(3), "got x float32[3]; expected 2 or more axes (batch, ..., features)"),
    "Conv rank": (Conv(3), ones(2, 3, 4), "got x float32[2, 3, 4]; expected 4 axes (batch, n, n, channels)"),
    "Conv groups": (Conv(4, groups=2), ones(1, 3, 3, 3), "got 3 channels in x and 4 features"),
    "Conv size": (Conv(4, padding="VALID"), ones(1, 2, 3, 3), "got x float32[1, 2, 3, 3]; expected spatial sizes"),
    "MaxPool rank": (MaxPool(), ones(2, 3, 4), "got x float32[2, 3, 4]; expected 4 axes"),
    "MaxPool size": (MaxPool(), ones(2, 1, 4, 2), "expected spatial sizes of at least the window's"),
    "LSTM": (LSTM(3), ones(2, 3), "got x float32[2, 3]; expected 3 axes (batch, time, features)"),
    "Lengths": (Lengths(LSTM(3)), ones(2, 3, 4), "got x float32[2, 3, 4]; expected the pair (x, lengths)"),
    "lengths": (Lengths(LSTM(3)), (ones(2, 3, 4), jnp.array([0, 4])), "got lengths between 0 and 4"),
    "Lengths inside": (Lengths(GlobalAveragePool()), (ones(2, 3, 4), jnp.array([0, 3])), "to keep batch and time"),
    "Bidirectional state": (Bidirectional(LSTM(3)), (ones(2, 3, 4), ones(2)), "expected a pair of states"),
    "MinimalGRU": (MinimalGRU(3), ones(2, 3), "got x float32[2, 3]; expected 3 axes (batch, time, features)"),
    "Recurrent": (Recurrent(Serial(Concatenate(), Dense(2)), 2), ones(2, 3, 4), "got a cell that gives float32[2, 2]"),
    "cell": (Recurrent(Serial(Concatenate(), Dense(2), FanOut()), 3), ones(2, 3, 4), "a cell from the state"),
    "Recursive": (Recursive(TensorNode()), ones(2, 3, 4), "expected the tuple (leaves, children)"),
    "Recursive cell": (Recursive(Serial(Concatenate(), Dense(2))), (ones(1, 2, 3), jnp.array([[[0, 1]]])),
                       "got a cell from the state float32[1, 3]"),
    "TensorNode": (TensorNode(), ones(2, 3), "got x float32[2, 3]; expected a pair of children"),
    "LSTMNode": (LSTMNode(), (ones(2, 3), ones(2, 3)), "expected ((h_l, c_l), (h_r, c_r))"),
    "MemoryHop": (MemoryHop(), (ones(2, 3), ones(3, 5, 3)), "float32[3, 5, 3]); expected a query"),
    "MemoryHop mask": (MemoryHop(), (ones(2, 3), ones(2, 5, 3), ones(2, 5)), "perhaps a mask (b, m) of integers"),
    "LinearAttention": (LinearAttention(3), ones(1, 2, 4), "got 4 features; expected a multiple of heads=3"),
    "DiagonalStateSpace": (DiagonalStateSpace(3), ones(2, 4), "got x float32[2, 4]; expected 3 axes"),
    "SelectiveStateSpace": (SelectiveStateSpace(3), ones(2, 4), "got x float32[2, 4]; expected 3 axes"),
    "MixtureOfExperts": (MixtureOfExperts(Dense(3), 2), ones(), "got x float32[]; expected 1 or more axes"),
    "expert that pools": (MixtureOfExperts(Serial(FanOut(), Select(0), Take(0, 0)), 2), ones(2, 3), "got an expert"),
    "Passing": (Passing(Tanh()), ones(2), "got x float32[2]; expected a tuple (x, c, ...)"),
    "attention rank": (CausalSelfAttention(2), ones(2, 4), "got x float32[2, 4]; expected 3 axes"),
    "attention heads": (CausalSelfAttention(3), ones(1, 2, 4), "got 4 features; expected a multiple of heads=3"),
    "attention names": (MultiHeadAttention(1), {"x": ones(1, 2, 4), "biases": ones(1)}, "expected a dict with 'x'"),
    "attention sources": (MultiHeadAttention(1), (ones(1, 2, 4),) * 3, "expected x and at most one source"),
    "attention batch": (MultiHeadAttention(1), (ones(1, 2, 4), ones(2, 2, 4)), "expected a source of x's batch"),
    "attention mask": (
        MultiHeadAttention(1), (ones(1, 2, 4), ones(1, 3, dtype=jnp.int32)), "expected a mask of booleans or integers",
    ),
    "attention segments": (
        MultiHeadAttention(1), {"x": ones(1, 2, 4), "source": ones(1, 3, 4), "segments": ones(1, 2, dtype=jnp.int32)},
        "expected segments of x and of the source",
    ),
    "attention bias": (
        MultiHeadAttention(2), {"x": ones(1, 2, 4), "bias": ones(1, 3, 2, 2)}, "[1, 3, 2, 2]; expected a bias",
    ),
    "attention apart": (
        MultiHeadAttention(1), {"x": ones(1, 2, 4), "keys": ones(1, 3, 4), "values": ones(1, 2, 4)},
        "expected as many keys as values",
    ),
    "attention core": (Attention(), (ones(1, 2, 4),) * 3, "got x float32[1, 2, 4]; expected 4 axes (batch, heads, n,"),
    "attention core heads": (
        Attention(), (ones(1, 3, 2, 4), ones(1, 2, 2, 4), ones(1, 2, 2, 4)), "of one dtype, where g divides h",
    ),
    "attention core names": (Attention(), {"q": ones(1, 1, 2, 4)}, "expected a dict with 'q', 'k', 'v' and perhaps"),
    "experts mask": (MixtureOfExperts(Dense(3), 2), (ones(2, 3), ones(2)), "expected a mask of booleans or integers"),
    "attention rotary": (MultiHeadAttention(2, rotary=True), ones(1, 2, 6), "expected an even number of features"),
    "attention causal": (CausalSelfAttention(1), (ones(1, 2, 4), ones(1, 3, 4)), "got 2 queries and 3 keys"),
    "Rotary": (Rotary(), ones(2, 3), "got x float32[2, 3]; expected an even number of features"),
    "Embedding of floats": (Embedding(3, 2), ones(2), "got ids float32[2]; expected an integer array"),
    "Embedding range": (Embedding(3, 2), jnp.array([0, 3]), "got ids between 0 and 3; expected 0 <= ids < 3"),
    "Embedding below": (Embedding(3, 2), jnp.array([-1, 2]), "got ids between -1 and 2; expected 0 <= ids < 3"),
    "Positions": (Positions(3), ones(2, 4, 5), "got x float32[2, 4, 5]; expected (..., n, features) with n <= 3"),
    "Logits": (Logits(3), ones(2, dtype=jnp.int32), "got x int32[2]"),
    "Flatten": (Flatten(), ones(), "got x float32[]"),
    "GlobalAveragePool": (GlobalAveragePool(), ones(2, 3), "got x float32[2, 3]; expected 3 or more axes"),
    "Add": (Add(), (ones(2), ones(3)), "got x (float32[2], float32[3]); expected a tuple of arrays of one shape"),
    "Concatenate": (Concatenate(), (ones(2, 2), ones(3, 2)), "got x (float32[2, 2], float32[3, 2])"),
    "Dropout": (Dropout(0.1), ones(2, dtype=jnp.int32), "got x int32[2]"),
    "Residual": (Residual(Dense(3)), ones(2, 4), "from float32[2, 4] to float32[2, 3]; expected it to keep shape"),
    "Repeat": (Repeat(Dense(3), 2), ones(2, 4), "from float32[2, 4] to float32[2, 3]; expected it to keep shape"),
    "Parallel": (Parallel(Tanh(), Tanh()), (ones(2),) * 3, "got inputs (float32[2], float32[2], float32[2])"),
    "Concatenate on no axis": (Concatenate(2), (ones(2, 2), ones(2, 2)), "differ in the size of axis 2 only"),
    "Reshape": (Reshape((3, -1)), ones(2, 4), "got x float32[2, 4]; expected 3 numbers in each example, or a multiple"),
    "Transpose": (Transpose((0, 2, 1)), ones(2, 4), "got x float32[2, 4]; expected 3 axes"),
    "Take": (Take(4), ones(2, 4), "got x float32[2, 4]; expected an axis 1 with an index 4"),
    "Select": (Select("a", "c"), {"a": ones(2), "b": ones(2)}, "without ['c']; expected a dict or a tuple with"),
    "Pad": (Pad(((-2, -2),)), ones(2, 3, 1), "got x float32[2, 3, 1]; expected as much as"),
    "Upsample": (Upsample(), ones(2, 3, 1), "got x float32[2, 3, 1]; expected 4 axes"),
    "StochasticDepth": (StochasticDepth(0.1), ones(), "got x float32[]; expected 1 or more axes (batch, ...)"),
    "Reversible": (Reversible(Tanh()), ones(2, 3), "got x float32[2, 3]; expected an even number of features"),
    "Reversible shape": (Reversible(Dense(3)), ones(2, 4), "from float32[2, 2] to float32[2, 3]; expected it to keep"),
    "TimeDistributed": (TimeDistributed(Tanh()), ones(2), "got x float32[2]; expected arrays (batch, time, ...)"),
    "MSE": (MeanSquaredError(), (ones(2), ones(3)), "got prediction float32[2] and target float32[3]"),
    "MSE alone": (MeanSquaredError(), ones(2), "expected the tuple (prediction, target)"),
    "labels one-hot": (SoftmaxCrossEntropy(), (ones(2, 3), ones(2, 3, dtype=jnp.int32)), "From one-hot labels take"),
    "labels of floats": (SoftmaxCrossEntropy(), (ones(2, 3), ones(2)), "got soft labels float32[2]; expected shape"),
    "labels out of range": (SoftmaxCrossEntropy(), (ones(2, 3), jnp.array([1, 3])), "got labels between 1 and 3"),
    "Reparameterize": (Reparameterize(), ones(2, 3), "got x float32[2, 3]; expected (..., 2 n), n means and"),
    "RadialBasis": (RadialBasis(3), ones(), "got x float32[]; expected 1 or more axes"),
    "weights of a loss": (
        Weighted(MeanSquaredError()),
        (ones(2), ones(2), ones(3)),
        "got weights float32[3] for float32[2]; expected a real weight for each of the first axes",
    ),
    "a loss of one term by example": (PerExample(Sum(MeanSquaredError())), (ones(2), ones(2)), "expected examples"),
    "weights of yes": (BinaryCrossEntropy((1.0, 2.0)), (ones(3), ones(3)), "got 2 pos_weight for 3 classes"),
    "DPO": (DPO(), (ones(4, 3), ones(4, 3)), "expected (batch, 2, ...), the better answer first"),
    "ORPO": (ORPO(), (ones(4, 2, 3), ones(4, 2, 3)), "and a mask float32[4, 2, 3]"),
    "KTO": (KTO(), (ones(4), ones(4), ones(4) > 0, ones(4)), "z a number"),
    "GRPO": (GRPO(), (ones(4, 3), ones(4, 3), ones(4, 3), ones(3)), "Reshape or cast the advantages"),
    "Dice": (Dice(), (ones(3), ones(3)), "expected axes (batch, ..., classes)"),
    "CosineEmbedding": (CosineEmbedding(), (ones(2, 3), ones(2, 3), ones(3)), "expected one number a row"),
    "PairwiseDistance": (PairwiseDistance(), (ones(2, 3), ones(2)), "got a float32[2, 3] and b float32[2]"),
    "InfoNCE": (InfoNCE(), (ones(2, 3), ones(3, 3)), "expected one shape and one dtype"),
    "Triplet": (Triplet(), (ones(2, 3), ones(2, 3)), "expected the tuple (anchor, positive, negative)"),
    "NegativeSampling": (NegativeSampling(3), (ones(2, 4), jnp.array([0, 1])), "expected ids (..., 1 + negatives)"),
    "policy": (PolicyGradient(), (ones(2, 3), jnp.array([0, 1]), ones(3)), "expected one number for each row"),
    "CTC labels": (CTC(), (ones(2, 3, 4), jnp.array([0, 1])), "expected integers with 2 axes"),
    "CTC blank": (CTC(9), (ones(1, 3, 4), jnp.array([[1]])), "got blank=9 and 4 classes"),
    "CTC alone": (CTC(), ones(2, 3, 4), "expected the tuple (scores, labels) or"),
    "TensorProduct": (TensorProduct(), (ones(2, 3), ones(3, 3)), "expected a pair of arrays that differ in their last"),
    "EmbeddingBag": (EmbeddingBag(3, 2), (jnp.array([0, 1]), ones(3)), "expected ids (..., n), (ids, weights)"),
    "LIF": (LeakyIntegrateAndFire(), ones(2, 3), "expected 3 axes (batch, time, neurons)"),
    "divergence": (StandardNormalDivergence(), ones(2, 3), "got x float32[2, 3]; expected (..., 2 n), n means and"),
}  # fmt: skip


@pytest.mark.parametrize(("layer", "x", "says"), WRONG_INPUT.values(), ids=WRONG_INPUT)
def test_wrong_input(layer, x, says):
    def use(layer, x):
        params = layer.init(KEY, x)
        layer.forward(params, x)

    text = message(use, layer, x)
    assert says in text, text
    text = message(use, Serial(layer, Tanh()), x)
    assert text.startswith("Serial[0]"), text


def test_parameters_of_another_network():
    net, other = Serial(Dense(3), Dense(2)), Serial(Dense(3), Dense(4))
    x = ones(2, 5)
    assert "Serial[1]: Dense(2): got 'w' float32[3, 4]; expected shape [3, 2]. Are these the parameters of another" in (
        message(net.forward, other.init(KEY, x), x)
    )
    assert "expected a tuple of 2, one for each layer. Are these the parameters of another network?" in (
        message(net.forward, Serial(Dense(3)).init(KEY, x), x)
    )
    assert "expected a dict with 'w', 'b'" in message(Dense(3).forward, (), x)
    assert "expected a dict with 'w'." in message(Dense(3, bias=False).forward, Dense(3).init(KEY, x), x)
    assert "expected each with a first axis of 3" in (
        message(Repeat(Dense(5), 3).forward, Repeat(Dense(5), 2).init(KEY, x), x)
    )
    assert "expected them in a Buffer" in message(Frozen(Dense(3)).forward, Dense(3).init(KEY, x), x)
    assert message(LSTM(3).forward, LSTM(2).init(KEY, ones(2, 3, 4)), ones(2, 3, 4))
    assert message(CausalSelfAttention(2).forward, CausalSelfAttention(1).init(KEY, ones(2, 3, 4)), ones(2, 3, 4))
    assert message(Embedding(3, 2).forward, Embedding(4, 2).init(KEY, jnp.arange(2)), jnp.arange(2))


def test_two_dtypes():
    x = ones(2, 3)
    params = Dense(3).init(KEY, x)
    wider = "expected one dtype for all parameters, that of x or a wider one. Cast the parameters with jbp.cast"
    for narrow in ("bfloat16", "float16"):
        text = message(Dense(3).forward, {name: p.astype(narrow) for name, p in params.items()}, x)
        assert f"got 'w' {narrow}[3, 3] with x in float32; {wider}" in text
    text = message(Dense(3).forward, cast(params, "float16"), x.astype(jnp.bfloat16))
    assert f"got 'w' float16[3, 3] with x in bfloat16; {wider}" in text
    text = message(Dense(3).forward, params | {"b": params["b"].astype("bfloat16")}, x.astype(jnp.bfloat16))
    assert f"got 'b' bfloat16[3] with x in bfloat16; {wider}" in text
    Dense(3).forward(params, x.astype(jnp.bfloat16))
    Dense(3).forward(cast(params, "bfloat16"), x.astype(jnp.bfloat16))
    assert "expected one shape and one dtype" in message(MeanSquaredError().forward, (), (x, x.astype(jnp.bfloat16)))


def test_what_is_no_array():
    net, x = Serial(Dense(3), BatchNorm(), WeightNorm(Dense(3))), ones(2, 3)
    params = net.init(KEY, x)
    shapes = jax.eval_shape(lambda: params)
    assert "got parameters[0]['b'] ShapeDtypeStruct float32[3]; expected an array" in message(net.forward, shapes, x)
    assert "got x ShapeDtypeStruct float32[2, 3]; expected" in message(net.forward, params, jax.eval_shape(lambda: x))
    for bad, says in {
        "ndarray object[2]": np.array([None, None]),
        "NoneType": None,
        "[0][1] float": [[x, 1.0]],
        " str": "x",
        "ndarray <U1[1]": np.array(["x"]),
    }.items():
        assert f"got x{' ' * (bad[0] not in '[ ')}{bad}; expected an array of real numbers" in message(
            net.forward, params, says
        )
        assert "expected an array of real numbers" in message(net.init, KEY, says)
    integers = jax.tree.map(lambda p: p.astype(jnp.int32), params)
    assert "expected floating-point numbers, but for what is in a Buffer" in message(net.forward, integers, x)
    for key in (0, None, x, jnp.arange(2)):
        assert "expected a random key. Make it with jax.random.key(0)" in message(net.init, key, x)
    net.init(jax.random.PRNGKey(0), x)


@pytest.mark.usefixtures("lenient")
def test_numpy_is_taken_as_jax_takes_it():
    """float64 counts as float32 where x64 is off: alone, in a network, under jit, for targets and parameters too."""
    x, target, net = np.ones((2, 3)), np.zeros((2, 3)), Serial(Dense(3), LayerNorm(), Dense(3))
    params = net.init(KEY, x)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    y, _ = net.forward(params, x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, jax.jit(net.forward)(params, x)[0], rtol=1e-6)
    wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    np.testing.assert_array_equal(net.forward(wide, x)[0], y)
    value, _ = value_and_grad(net, MeanSquaredError())(params, x, target)
    assert value.dtype == jnp.float32


@pytest.mark.parametrize("layer", [Dropout(0.5), BatchNorm(), BatchNormInference()], ids=repr)
def test_a_missing_buffer(layer):
    net = Serial(Dense(3), layer)
    params = net.init(KEY, ones(2, 3))
    text = message(net.forward, trainable(params), ones(2, 3))
    assert text.startswith(f"Serial[1]: {layer!r}: got no ")
    assert "put it back with merge(trainable(params), buffers(params))" in text


def test_a_missing_frozen_part():
    net = Serial(Frozen(Dense(3)))
    text = message(net.forward, trainable(net.init(KEY, ones(2, 3))), ones(2, 3))
    assert text.startswith("Serial[0]: Frozen(Dense(3)): got parameters NoneType; expected them in a Buffer")


def test_stale_statistics():
    net, x = Serial(Dense(3), BatchNorm()), ones(2, 3)
    params = net.init(KEY, x)
    text = message(net.evaluation().forward, params, x)
    assert text.startswith("Serial[1]: BatchNormInference(): got running statistics that no step has moved; expected")
    jax.jit(net.evaluation().forward)(params, x)  # not known when tracing
    message(jax.jit(lambda x: net.evaluation().forward(params, x)), x)  # but a constant is
    net.evaluation().forward(net.advance(params, net.forward(params, x)[1]), x)


def test_out_of_range_where_it_cannot_be_known_is_nan():
    loss, z = SoftmaxCrossEntropy(), ones(2, 3)
    for labels in ([0, 3], [-1, 2]):
        value = jax.jit(lambda z, t: loss.forward((), (z, t))[0])(z, jnp.array(labels))
        assert jnp.isnan(value)
    table = Embedding(3, 2)
    params = table.init(KEY, jnp.arange(3))
    for ids in ([0, 3], [-1, 2]):
        y, _ = jax.jit(table.forward)(params, jnp.array(ids))
        assert jnp.isnan(y).any(1).sum() == 1
    wrong = jnp.array([0, 3])
    message(jax.jit(lambda z: loss.forward((), (z, wrong))[0]), z)  # a constant is known


def test_targets_that_are_no_probabilities():
    z = ones(3)
    for loss in (BinaryCrossEntropy(), BinaryCrossEntropy(given="probabilities"), Focal(0.5), Weighted(Focal())):
        weights = (ones(3),) * isinstance(loss, Weighted)
        for wrong, shown in (([7.0, 0.0, 1.0], "0.0 and 7.0"), ([-1.0, 1.0, 1.0], "-1.0 and 1.0")):
            t = jnp.array(wrong, jnp.float32)
            text = message(loss.forward, (), (z, t, *weights))
            assert f"got targets between {shown}; expected 0 <= target <= 1" in text
            jax.jit(loss.forward)((), (z, t, *weights))  # not known when tracing
    assert "got targets between -1.0 and 1.0" in message(
        MultiLabelSoftMargin().forward, (), (z[None], 1 - 2 * jnp.eye(3, dtype=z.dtype)[:1])
    )
    assert "got targets between 0 and 2" in message(Focal().forward, (), (z, jnp.arange(3)))
    assert jnp.isnan(BinaryCrossEntropy().forward((), (z, z * jnp.nan))[0])


def test_targets_of_yes_and_no_that_are_something_else():
    z, t = ones(3), jnp.array([1.0, 0.0, 1.0], jnp.float32)
    for loss in (Hinge(), SoftMargin(), HingeEmbedding(), MarginRanking(), CosineEmbedding()):
        scores = {MarginRanking: (z, z), CosineEmbedding: (ones(3, 2), ones(3, 2))}.get(type(loss), (z,))
        text = message(loss.forward, (), (*scores, t))
        assert "got a target of 0; expected 1 for yes and -1 for no. From labels of 1 and 0 take 2 * labels - 1" in text
        jax.jit(loss.forward)((), (*scores, t))  # not known when tracing
        loss.forward((), (*scores, 2 * t - 1))
    for loss in (SoftMargin(), HingeEmbedding(), Weighted(SoftMargin())):
        whole = jnp.array([1, -1, 1])
        loss.forward((), (z, whole, jnp.array([1, 0, 1])) if isinstance(loss, Weighted) else (z, whole))
    y, _ = Weighted(Hinge()).forward((), (z, t, t))  # the 0 does not count
    assert y == 0


def test_ties_and_merges_that_do_not_fit():
    x = ones(2, 3)
    text = message(Tied(Serial(Dense(3), Dense(3)), (((0,), (5,)),)).init, KEY, x)
    assert "got the path (5,), but there is no" in text
    assert "got the path (0, 'q'), but there is no 'q'" in (
        message(Tied(Serial(Dense(3), Dense(3)), (((0, "q"), (1, "w")),)).init, KEY, x)
    )
    text = message(Tied(Serial(Dense(4), Dense(3)), (((0,), (1,)),)).init, KEY, x)
    assert "at (0,) and {'b': float32[3], 'w': float32[4, 3]} at (1,); expected one shape to share" in text
    with pytest.raises(TreeError, match="got trees of two structures"):
        merge({"w": x}, {"v": x})


@pytest.mark.parametrize("rate", [-0.1, 1.0, 90])
def test_settings_out_of_range(rate):
    assert "a finite number, 0 or more and less than 1. To drop one of ten write 0.1" in message(Dropout, rate)
    assert "expected a whole number, 1 or more" in message(Repeat, Dense(3), 0)
    assert "expected a whole number, 1 or more" in message(MixtureOfExperts, Dense(3), 3, 0)
    assert "expected 1 <= k <= experts" in message(MixtureOfExperts, Dense(3), 3, 4)
    assert "write capacity=None" in message(MixtureOfExperts, Dense(3), 3, 1, 0.0)
    for options, says in (
        ({"window": 0}, "got window=0; expected a whole number, 1 or more, or None. To go without write None."),
        ({"distances": -1}, "got distances=-1; expected a whole number, 0 or more, or None"),
        ({"cap": 0.0}, "got cap=0.0; expected a finite number, more than 0, or None"),
        ({"dropout": 1.0}, "got dropout=1.0; expected a finite number, 0 or more and less than 1, or None"),
        ({"groups": 3}, "expected groups that divide the heads"),
    ):
        assert says in message(lambda options=options: MultiHeadAttention(4, **options))
    assert "expected a whole number, 1 or more" in message(lambda: Reversible(Dense(3), times=0))
    assert "expected each of 0, 1, ... once" in message(Transpose, (0, 2))
    assert "at most one −1" in message(Reshape, (-1, -1))
    assert "each a finite number, 1 or more" in message(Upsample, (2, 0))
    assert "expected one or more" in message(Select)


def test_an_input_of_shapes_alone_serves_init():
    net = Serial(Embedding(5, 3), LSTM(3), Residual(CausalSelfAttention(1)), Dense(2))
    net.init(KEY, jax.ShapeDtypeStruct((2, 4), jnp.int32))
    initialize(net, KEY, jnp.zeros((2, 4), jnp.int32))


class Broadcast(Layer):
    """A mean whose error has lost an axis of size one. No dataclass, and the sweep takes it nevertheless."""

    def forward(self, params, x, /):
        return x[0].mean(), x[0]

    def backward(self, params, z, dy, /):
        return (jnp.full(z.shape[1:], dy / z.size, z.dtype), None), ()


@pytest.mark.usefixtures("lenient")
def test_a_cotangent_that_does_not_fit():
    """Arithmetic would broadcast it without a word, or widen the dtype."""
    x = ones(1, 3)
    text = message(value_and_grad(Tanh(), Broadcast()), (), x, ones(1, 3))
    assert "got the cotangent float32[3] of the output float32[1, 3]; expected the same tree, shapes and dtypes" in text
    net = Residual(Tanh())
    y, residuals = net.forward((), ones(2, 3))
    for dy in (ones(3), ones(1, 3), ones()):
        assert "expected the same tree, shapes and dtypes" in message(net.pull, (), residuals, dy)
    for dy in (ones(3), ones(2, 3, dtype=jnp.bfloat16), (ones(2, 3),), None):
        assert "expected the same tree, shapes and dtypes" in message(check_cotangent, net, y, dy)
    check_cotangent(net, (y, jnp.arange(3)), (y, None))  # integers have none
    net = Passing(Add())
    _, residuals = net.forward((), (x, x))
    assert "got 2 cotangents for what goes past; expected 1" in message(net.pull, (), residuals, (x, x, x))
    assert "got the cotangent float32[3] of the output" in message(net.pull, (), residuals, (x, x[0]))
    net = Parallel(Tanh(), Tanh())
    _, residuals = net.forward(((), ()), (x, x))
    assert "got cotangents (float32[1, 3]); expected a tuple of 2" in message(net.pull, ((), ()), residuals, (x,))
    assert "expected them in a Buffer" in message(Frozen(Dense(3)).backward, Dense(3).init(KEY, x), x, x)


def test_a_class_is_no_layer():
    for make in (lambda: value_and_grad(Tanh, MeanSquaredError()), lambda: initialize(Tanh, KEY, ones(2))):
        assert "got type as net; expected a layer. Write Tanh(...)." in message(make)
    for make in (lambda: Residual(Tanh), lambda: Serial(Tanh), lambda: Serial(layers=Tanh), lambda: Repeat(Tanh, 2)):
        assert "rite Tanh(...)" in message(make)
    for make in (lambda: Serial(Dense(3), jnp.tanh), lambda: value_and_grad(Dense(3), lambda y, t: y.sum())):
        assert "Lambda(" in message(make)
    with pytest.raises(TreeError, match=r"cast: got the dtype 'int32'; expected a floating-point one\. Write"):
        cast(Dense(3).init(KEY, ones(2, 3)), "int32")


def test_a_loss_by_mistake_in_the_place_of_a_network():
    with pytest.raises(LayerError, match="expected the tuple"):
        value_and_grad(Dense(3), MeanSquaredError())(Dense(3).init(KEY, ones(2, 3)), ones(2, 3))


def test_what_is_shown_of_a_tree():
    assert show({"a": (ones(2), None), "b": Buffer(np.arange(3, dtype=np.int32))}) == (
        "{'a': (float32[2], NoneType), 'b': Buffer(int32[3])}"
    )


def test_a_container_in_the_place_of_an_array():
    x, boxed = ones(2, 3), {"x": ones(2, 3)}
    params = Dense(3).init(KEY, x)
    assert "got 'b' (float32[3]); expected shape [3]" in message(Dense(3).forward, params | {"b": [params["b"]]}, x)
    for bad in (boxed, None):
        for act in (TensorNode().init, Serial(TensorNode()).init):
            text = message(act, KEY, (bad, x))
            assert f"got x ({show(bad)}, float32[2, 3]); expected an array in the place of {show(bad)}. Pass" in text


def test_a_cotangent_that_is_no_array():
    x = ones(2, 3)
    for layer in (Tanh(), Serial(Tanh()), Residual(Tanh())):
        params = layer.init(KEY, x)
        _, residuals = layer.forward(params, x)
        for bad in ("dy", 1.0, jnp.ones((2, 3), jnp.int32), object()):
            for way in (layer.pull, layer.backward):
                assert "expected floating-point arrays like the output" in message(way, params, residuals, bad)
    _, residuals = Tanh().forward((), x)
    for bad in (None, (x, x)):
        assert "got the cotangent" in message(Tanh().pull, (), residuals, bad)


def test_an_error_of_somebody_elses_names_the_layer():
    net = Serial(Tanh(), Dense(3))
    params = net.init(KEY, ones(2, 3))
    _, residuals = net.forward(params, ones(2, 3))
    for layer, own, kept, where in (
        (Dense(3), params[1], residuals[1], "in the layer Dense(3)"),
        (net, params, residuals, "in the layer Serial[1].Dense(3)"),
    ):
        with pytest.raises(TypeError) as caught:
            layer.pull(own, kept, ones(2, 7))
        assert [note for note in caught.value.__notes__ if note.startswith("in the layer")] == [where]


def test_a_layer_without_parameters_takes_none():
    for layer, x in ((Tanh(), ones(2)), (Sum(MeanSquaredError()), (ones(2), ones(2)))):
        for params in ({"w": ones(3)}, ones(3), (ones(1), ones(1))):
            assert "layer((), x)" in message(layer.forward, params, x)
        for params in ((), {}, None):
            layer.forward(params, x)
    assert message(Serial(Tanh()).forward, (ones(3),), ones(2)).startswith("Serial[0]: Tanh(): got parameters")


def test_numbers_that_float32_does_not_hold():
    assert "got temperature=1e-300" in message(lambda: InfoNCE(temperature=1e-300))
    assert "got value=1e+300" in message(lambda: Pad(1, value=1e300))
    message(lambda: Pad(1, value=10**400))
    assert repr(Pad(1, value=10**12)) == "Pad(1, value=1000000000000.0)"


def test_names_of_entries():
    for bad in (lambda: Select(float("nan")), lambda: Select({1: 2}), lambda: Select(True), lambda: Select(keys=None)):
        assert "expected names or numbers of entries" in message(bad)
    assert Select(keys="ab").keys == ("ab",)


def test_what_loses_the_batch_is_not_distributed_over_time():
    net = TimeDistributed(MeanSquaredError())
    assert "expected it to keep the batch" in message(net.forward, (), (ones(2, 3), ones(2, 3)))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: recipes.mlp(widths=5), "mlp: got widths=5; expected a tuple"),
        (lambda: recipes.mlp(widths=(8, "8")), "each a whole number, 1 or more"),
        (lambda: recipes.resnet(stages=-1), "resnet: got stages=-1; expected a whole number, 1 or more"),
        (lambda: recipes.unet(True), "unet: got channels=True"),
        (lambda: recipes.transformer(4, 2, activation=Tanh), "That is a class: write Tanh(...)"),
    ],
)
def test_recipes_check_their_settings(call, says):
    assert says in message(call)


def test_recipes_take_what_layers_take():
    assert recipes.mlp(np.int64(3), [4]) == recipes.mlp(3, (4,))


def test_functions_of_trees():
    with pytest.raises(TreeError, match="got the dtype 'float31'"):
        cast({"w": ones(2)}, "float31")
    for a, b in ((ones(2), ones(3)), ({"w": ones(2)}, ones(2)), ((), ()), ("a", "b")):
        with pytest.raises(TreeError, match="expected arrays in one structure"):
            angle(a, b)
    assert angle(ones(2), ones(2)) == 0


def test_measures():
    assert message(accuracy, ones(3, 2), ones(4)).startswith("accuracy: got scores float32[3, 2]")
    assert "got scores str" in message(accuracy, "scores", ones(4))
    heads = {"kind": ones(3, 2)}, {"kind": jnp.arange(3)}
    assert "accuracy(y['kind'], t['kind'])" in message(accuracy, *heads)
    assert "got ignore=float" in message(lambda: accuracy(ones(3, 2), jnp.arange(3), ignore=1.5))


def test_what_a_step_is_given():
    net, loss, optimizer, x = Dense(2), MeanSquaredError(), optax.sgd(0.1), ones(3, 2)
    state, one = start(net, optimizer, KEY, x), step(net, loss, optimizer)
    assert "expected a tuple (x, *targets)" in message(one, state)
    assert "Write [(x, target), ...]" in message(lambda: fit(net, loss, optimizer, state, (x, x)))
    assert "expected a tuple (x, *targets)" in message(one, state, x, "target")
    assert "expected a State" in message(one, {"params": 1}, x, x)
    for wrong in ({"steps": "text"}, {"params": "text"}, {"optimizer": (object(),)}, {"steps": ones(2)}):
        assert "expected arrays, and a whole number of steps" in message(one, replace(state, **wrong), x, x)
    clipped = inside.step(net, loss, optimizer, 1.0)
    message(clipped, inside.start(net, optimizer, KEY, x), x)
    message(lambda: inside.step(net, loss, optimizer, True))


def test_what_deltas_are_taken_of():
    net, loss, x = Dense(2), MeanSquaredError(), ones(3, 4)
    assert "expected a layer" in message(lambda: deltas(net, 3))
    assert "expected a layer" in message(lambda: deltas(None, loss))
    assert "expected a scalar" in message(deltas(net, Each(loss)), net.init(KEY, x), x, ones(3, 2))


def test_who_makes_no_parameters_takes_none():
    def use(layer, x):
        jax.eval_shape(lambda x: layer.forward({"w": ones(3)}, x), x)

    for case in (*LAYERS, *LOSSES):
        x = draw(case.inputs[0], dtype=jnp.float32)
        if not jax.tree.leaves(jax.eval_shape(partial(case.layer.init, KEY), x)):
            assert "got parameters {'w': float32[3]}; expected" in message(use, case.layer, x)


def test_labels_that_are_true_or_false():
    for loss in (SoftmaxCrossEntropy(), SoftmaxCrossEntropy(ignore=1)):
        assert "got labels bool[5]" in message(loss.forward, (), (ones(5, 3), jnp.ones(5, bool)))


def test_targets_that_are_neither_real_nor_whole():
    keys = jax.random.split(KEY, (2, 3))
    assert "expected one shape and one dtype" in message(HingeEmbedding().forward, (), (ones(2, 3), keys))


def test_nothing_takes_complex_numbers():
    """Whatever a layer does with x, and though it lets it go: a cast would make them real without a word."""
    for z in (jnp.ones((2, 3), jnp.complex64), np.ones((2, 3), complex)):
        for layer in (Select(1), Select(0), HingeEmbedding(), Identity(), FanOut()):
            assert "expected an array of real numbers. Pass v.real" in message(layer.forward, (), (ones(2, 3), z))
        assert "expected an array of real numbers. Pass v.real" in message(Dense(3).init, KEY, z)
    shape = jax.ShapeDtypeStruct((2, 3), jnp.complex64)
    assert "expected an array of real numbers" in message(Dense(3).init, KEY, shape)


def test_a_cotangent_that_is_passed_on_is_like_the_output():
    """A layer whose dx is dy knows the shape, for a Residual around it has nothing else to compare dy with."""
    x = ones(2, 3)
    for layer in (StraightThroughRound(), StraightThroughOneHot(), GradientReversal(), SinusoidalPositions()):
        residuals = layer.forward((), x)[1]
        assert all(r.size == 0 for r in jax.tree.leaves(residuals))  # they keep no numbers
        for dy in (ones(), ones(3), ones(1, 3), ones(1, 2, 3), x.astype(jnp.bfloat16), None):
            assert "got the cotangent" in message(layer.pull, (), residuals, dy)
            assert "got the cotangent" in message(Residual(layer).pull, (), Residual(layer).forward((), x)[1], dy)
        assert layer.pull((), residuals, x)[0].shape == x.shape


def test_frames_beyond_the_end():
    x = ones(2, 4, 3), jnp.ones((2, 1), jnp.int32)
    CTC().forward((), (*x, jnp.array([0, 4])))
    assert "got frames between 3 and 5; expected 0 <= frames < 5" in message(CTC().forward, (), (*x, jnp.array([3, 5])))


def test_names_of_layers_are_words():
    for names in (2.5, ((1, 2),), "ab"):
        assert "expected a tuple of names" in message(lambda names=names: Serial(Tanh(), names=names))


def test_what_cast_is_given():
    for params, dtype in (("text", "float32"), ({"w": ones(2)}, ones(2))):
        with pytest.raises(TreeError, match="expected a"):
            cast(params, dtype)


LORA = LoRA(2).init(KEY, ones(3, 4))
KEPT = Dropout(0.5).init(KEY, ones(2, 3))
NORMED = WeightNorm(Dense(2)).init(KEY, ones(3, 4))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Graph(y=(Dense(2), "x"), outputs=3), "got outputs=3; expected a tuple"),
        (lambda: replace(Graph(y=(Dense(2), "x")), sources=2.5), "got sources=2.5; expected a tuple"),
        (lambda: replace(Graph(y=(Dense(2), "x")), sources=()), "expected those of each layer"),
        (lambda: Total(a=MeanSquaredError(), names=True), "got names=True; expected a tuple"),
        (lambda: Total(a=MeanSquaredError(), weights=jnp.ones(())), "expected a tuple"),
        (lambda: cast({"w": np.array([None])}, "float32"), "expected a tree of arrays"),
        (
            lambda: LoRA(2).forward(LORA | {"b": Buffer(ones(2, dtype="complex64"))}, ones(3, 4)),
            "expected an array of real numbers. Pass v.real and v.imag",
        ),
        (lambda: WeightNorm(Dense(2)).forward(NORMED | {"more": ones(2)}, ones(3, 4)), "got parameters"),
        (lambda: PredictiveCoding(Serial(Dense(2)), rate=1e30), "more than 0 and at most 1. The default is rate=0.1"),
        (lambda: KTO()((), (ones(3), ones(3), ones(3, dtype="complex64"), ones())), "got x[2] ArrayImpl complex64"),
        (lambda: ORPO()((), (ones(3, 2, 4), ones(3, 2, 4, dtype="complex64"))), "got x[1] ArrayImpl complex64"),
        (lambda: Embedding(3, 2, dtype=ones()), "the name of a floating-point dtype"),
        (lambda: MultiLabelSoftMargin(weights=())((), (ones(2, 3), ones(2, 3))), "got 0 weights for 3 classes"),
        (lambda: SoftmaxCrossEntropy(weights=())((), (ones(2, 3), jnp.zeros(2, int))), "got 0 weights"),
        (lambda: Dropout(0.5).backward((), Dropout(0.5).forward(KEPT, ones(2, 3))[1], ones()), "got the cotangent"),
        (lambda: DropoutInference().backward((), outline(ones(2)), (ones(2),)), "got the cotangent"),
        (lambda: DropoutInference().backward((), outline(ones(2)), ones()), "got the cotangent"),
        (
            lambda: Weighted(MeanSquaredError())((), (ones(3), ones(3), ones(3, dtype="complex64"))),
            "got x[2] ArrayImpl complex64",
        ),
    ],
)
def test_what_a_fuzzer_found_accepted_or_bare(make, said):
    with pytest.raises((LayerError, TreeError), match=re.escape(said)):
        make()


FAR = 2**31 - 1  # the largest that one setting may be: of two axes their product still overflows


def layer_of(layer, x):
    return layer(layer.init(jax.random.key(0), x), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Conv(2, (3, 3), padding=n),
        lambda n: Conv(2, (3, 3), dilation=n),
        lambda n: ConvTranspose(2, (3, 3), stride=n),
        lambda n: ConvTranspose(2, (3, 3), padding=-n),
        lambda n: MaxPool(2, padding=n),
        lambda n: AveragePool(2, padding=n),
        lambda n: Unfold(2, padding=n),
        lambda n: Pad(n),
    ],
)
def test_arrays_that_no_machine_holds_are_refused_before_they_are_asked_for(make):
    """XLA ends the process where the number of an array's elements overflows."""
    x = jnp.ones((2, 3, 4, 2), "float32")
    with pytest.raises(LayerError, match="expected no more than 1099511627776 places"):
        layer_of(make(FAR), x)


def test_a_table_has_to_be_given_a_cotangent():
    table, ids = Embedding(5, 3), jnp.array([[1, 2]])
    params = table.init(jax.random.key(0), ids)
    with pytest.raises(LayerError, match="got the cotangent None"):
        table.backward(params, table.forward(params, ids)[1], None)


def test_buffers_beside_a_weight_are_real():
    x = jnp.ones((2, 5))
    params = SpectralNorm(Dense(3)).init(jax.random.key(0), x)
    params["u"] = Buffer(params["u"].value.astype(jnp.complex128))
    with pytest.raises(LayerError, match=r"got parameters\['u'\].* complex128.*expected an array of real numbers"):
        SpectralNorm(Dense(3)).forward(params, x)
