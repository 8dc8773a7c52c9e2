"""Networks by name: values that are used twice, several inputs and outputs, and the weighted losses of these."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import audit, draw, parameters

import jbp
from jbp import Frozen, Graph, LayerError, Serial, Tied, value_and_grad
from jbp.cases import f, i
from jbp.catalogue import NAMES
from jbp.layers import (
    GRU,
    Add,
    Concatenate,
    Dense,
    Embedding,
    Identity,
    Lengths,
    MultiHeadAttention,
    Take,
    Tanh,
)
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy, Total, Weighted
from jbp.programs import read
from jbp.readers import per_example
from jbp.train import fit, inside, start

HEADS = Graph(
    seen=(Dense(4), "image"),
    both=(Concatenate(), "seen", "facts"),
    kind=(Dense(3), "both"),
    size=(Dense(1), "both"),
)
X = {"image": draw(f(5, 3)), "facts": draw(f(5, 2), 1)}
LOSS = Total(kind=SoftmaxCrossEntropy(), size=(MeanSquaredError(), 0.3))
TARGET = {"kind": jnp.arange(5) % 3, "size": draw(f(5, 1), 2)}


def test_inputs_and_outputs_are_what_is_left_over():
    assert HEADS.inputs == ("image", "facts")
    assert HEADS.outputs == ("kind", "size")
    assert Graph(a=(Tanh(), "x")).outputs == "a"
    assert Graph(a=(Tanh(), "x"), b=(Tanh(), "a"), outputs=["b", "a"]).outputs == ("b", "a")
    assert HEADS["kind"] == HEADS[2] == Dense(3)
    assert HEADS[2:].inputs == ("both",)
    assert set(HEADS[2:](HEADS[2:].init(jax.random.key(0), X["image"]), X["image"])) == {"kind", "size"}


def test_its_values_and_errors_are_those_written_out():
    params = parameters(HEADS, X)
    p = params
    y, residuals = HEADS.forward(params, X)
    both = jnp.concatenate([X["image"] @ p["seen"]["w"] + p["seen"]["b"][None], X["facts"]], -1)
    for head in ("kind", "size"):
        np.testing.assert_allclose(y[head], both @ p[head]["w"] + p[head]["b"][None], rtol=1e-13)
    dy = {"kind": draw(f(5, 3), 3), "size": draw(f(5, 1), 4)}
    dx, delta = HEADS.backward(params, residuals, dy)
    dboth = dy["kind"] @ p["kind"]["w"].T + dy["size"] @ p["size"]["w"].T  # both heads send their error to it
    np.testing.assert_allclose(dx["facts"], dboth[:, 4:], rtol=1e-12)
    np.testing.assert_allclose(dx["image"], dboth[:, :4] @ p["seen"]["w"].T, rtol=1e-12)
    np.testing.assert_allclose(HEADS.gradient(residuals, delta)["seen"]["w"], X["image"].T @ dboth[:, :4], rtol=1e-12)


def test_a_value_read_three_times_and_given_out_has_the_sum_of_four_errors():
    net = Graph(a=(Tanh(), "x"), y=(Add(), "a", "a", "a"), outputs=("y", "a"))
    x = draw(f(3))
    _, residuals = net.forward({"a": (), "y": ()}, x)
    dx, _ = net.backward({"a": (), "y": ()}, residuals, {"y": jnp.ones(3), "a": jnp.ones(3)})
    np.testing.assert_allclose(dx, 4 * (1 - np.tanh(x) ** 2), rtol=1e-14)


def test_integers_go_through_to_the_output():
    audit(Graph(words=(Embedding(5, 2), "ids"), outputs=("ids", "words")), draw(i(3, below=5)))


def test_a_dict_of_names_and_its_repr():
    net = Graph(h=(Dense(4), "x"), y=(MultiHeadAttention(2), {"x": "h", "mask": "seen"}))
    assert repr(net) == "Graph(h=(Dense(4), 'x'), y=(MultiHeadAttention(2), {'x': 'h', 'mask': 'seen'}))"
    assert eval(repr(net), dict(NAMES)) == net == read(repr(net), NAMES)
    assert net.inputs == ("x", "seen")


def test_graphs_are_saved_and_loaded(tmp_path):
    params = HEADS.init(jax.random.key(0), X)
    jbp.save(tmp_path / "net", HEADS, params)
    net, loaded = jbp.load(tmp_path / "net")
    assert net == HEADS
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_one_encoder_for_two_inputs():
    net = Graph(left=(Dense(3), "a"), right=(Dense(3), "b"), y=(Add(), "left", "right"))
    net = Tied(net, ((("left",), ("right",)),))
    x = {"a": draw(f(2, 4)), "b": draw(f(2, 4), 1)}
    params = audit(net, x)
    w, b = params["left"]["w"], params["left"]["b"]
    np.testing.assert_allclose(net(params, x), (x["a"] + x["b"]) @ w + 2 * b[None], rtol=1e-13)


def test_parts_are_frozen_summed_up_and_measured_as_in_any_network():
    params = parameters(HEADS, X)
    held, changed = jbp.freeze(HEADS, params, "seen")
    _, grads = value_and_grad(held, LOSS)(changed, X, TARGET)
    assert set(jbp.labels(params, {"kind": 1}, 2)["kind"].values()) == {1}
    assert grads["trained"]["seen"] == {"w": None, "b": None}
    rows = [(row.path, row.output) for row in jbp.summary(HEADS, X).rows]
    assert rows[2:4] == [("Graph.both", "float64[5, 6]"), ("Graph.kind", "float64[5, 3]")]
    norms = per_example(HEADS, LOSS)(params, X, TARGET).norms
    _, grads = value_and_grad(HEADS, LOSS)(params, *jax.tree.map(lambda a: a[:1], (X, TARGET)))
    np.testing.assert_allclose(norms[0] ** 2, sum((g**2).sum() for g in jax.tree.leaves(grads)), rtol=1e-10)


def test_it_trains_with_the_optimizer_after_and_inside_of_the_sweep():
    x, target = X, TARGET
    sgd, key = optax.sgd(0.1), jax.random.key(0)
    one, _ = fit(HEADS, LOSS, sgd, start(HEADS, sgd, key, x), [(x, target)] * 2)
    other = inside.start(HEADS, sgd, key, x)
    step = inside.step(HEADS, LOSS, sgd, 1e9)
    for _ in range(2):
        other, _ = step(other, x, target)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), one.params, other.params)


def test_padding_is_seen_through_a_graph():
    net = Graph(read=(Lengths(GRU(3)), "text", "lengths"), last=(Take(-1), "read"))
    x = {"text": draw(f(2, 5, 3)), "lengths": jnp.array([2, 5])}
    with pytest.raises(LayerError, match=r"^Graph\.last: Take\(-1\): got x .* padded after the end"):
        net.init(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Graph(), r"got no layers; expected one or more\. Write Graph"),
        (lambda: Graph(a=Dense(2)), r"got a=Dense\(2\); expected a layer and the names of what it reads\. Write a="),
        (lambda: Graph(a=(Dense, "x")), r"got Dense as argument 0; expected a layer\. Write Dense\(\.\.\.\)"),
        (lambda: Graph(a=(Add(), ("x", "y"))), r"got a, which reads \('x', 'y'\); expected names, or a dict of them"),
        (lambda: Graph(a=(Tanh(), "b"), b=(Tanh(), "x")), r"got a, which reads b; expected names of inputs, or of lay"),
        (lambda: Graph(x=(Tanh(), "x")), r"got x, which reads x; expected .* call no layer like an input"),
        (lambda: Graph(a=(Tanh(), "x"), outputs="b"), r"got the output 'b'; expected one of a, x\. Is it spelt so"),
        (lambda: Graph(a=(Tanh(), "x"), outputs=()), r"got outputs=\(\); expected names\. Write"),
        (
            lambda: Graph(a=(Tanh(), "x"), b=(Tanh(), "x"), outputs="b"),
            r"got a, which is neither read nor an output; expected a use of it\. .* outputs=\('b', 'a'\)",
        ),
        (lambda: HEADS.init(jax.random.key(0), X["image"]), r"expected a dict with 'image', 'facts', what the layers"),
        (lambda: HEADS.forward({}, X), r"got parameters \{\}; expected a dict with 'seen', 'both', 'kind', 'size'"),
        (lambda: Total(), r"got 0 names and 0 weights; expected one loss or more, by name\. Write"),
        (
            lambda: Total(a=(Tanh(), 1, 2)),
            r"got a=\(Tanh\(\), 1, 2\); expected a loss, or a loss and its weight\. Write",
        ),
        (lambda: Total(a=(MeanSquaredError(), "b")), r"got weights=\('b',\); expected"),
        (lambda: LOSS.forward((), TARGET["size"]), r"expected dicts \(predictions, targets\)\. Make"),
        (
            lambda: LOSS.forward((), ({"kind": X["image"]}, {})),
            r"got predictions .*expected a dict with 'kind', 'size'",
        ),
        (lambda: LOSS.forward((), (TARGET, {"sizes": X["image"]})), r"got targets .*expected a dict with names out of"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(LayerError, match=message):
        make()


def test_the_cotangent_of_a_dict_is_a_dict():
    params = parameters(HEADS, X)
    _, residuals = HEADS.forward(params, X)
    with pytest.raises(LayerError, match=r"got the cotangent .*; expected a dict with 'kind', 'size', as the output"):
        HEADS.backward(params, residuals, X["image"])


def test_a_total_is_the_weighted_sum():
    predictions = {"kind": draw(f(5, 3)), "size": draw(f(5, 1))}
    one = SoftmaxCrossEntropy()((), (predictions["kind"], TARGET["kind"]))
    other = MeanSquaredError()((), (predictions["size"], TARGET["size"]))
    np.testing.assert_allclose(LOSS((), (predictions, TARGET)), one + 0.3 * other, rtol=1e-14)
    assert repr(LOSS) == "Total(kind=SoftmaxCrossEntropy(), size=(MeanSquaredError(), 0.3))"
    assert repr(replace(LOSS, over=("data",))) == repr(LOSS)[:-1] + ", over=('data',))"
    assert LOSS["size"] == MeanSquaredError()


def test_each_loss_is_a_measure_of_its_own():
    sgd, measures = optax.sgd(0.1), LOSS.measures()
    assert measures == LOSS.measures()  # so that `fit` called again compiles nothing
    _, history = fit(HEADS, LOSS, sgd, start(HEADS, sgd, jax.random.key(0), X), [(X, TARGET)], **measures)
    np.testing.assert_allclose(history[0]["kind loss"] + 0.3 * history[0]["size loss"], history[0]["loss"], rtol=1e-12)
    alone = Total(code=jbp.losses.StandardNormalDivergence())
    code = {"code": draw(f(3, 4))}
    np.testing.assert_allclose(alone.measures()["code loss"](code), alone((), (code,)), rtol=1e-14)


def test_targets_are_none_one_or_several():
    loss = Total(kind=Weighted(SoftmaxCrossEntropy()), penalty=(Identity(), 0.5))
    kind, weights, penalty = draw(f(5, 3)), jnp.array([1.0, 0, 0, 2, 0]), jnp.array(3.0)
    x = {"kind": kind, "penalty": penalty}, {"kind": (TARGET["kind"], weights)}
    wanted = Weighted(SoftmaxCrossEntropy())((), (kind, TARGET["kind"], weights)) + 1.5
    np.testing.assert_allclose(loss((), x), wanted, rtol=1e-14)
    audit(loss, x)
    alone = Total(code=(jbp.losses.StandardNormalDivergence(), 2.0))
    audit(alone, ({"code": draw(f(3, 4))},))


def test_heads_of_two_dtypes_have_the_loss_of_the_wider():
    predictions = {"kind": draw(f(5, 3), dtype="bfloat16"), "size": draw(f(5, 1), dtype="float32")}
    target = TARGET | {"size": predictions["size"]}
    value, residuals = LOSS.forward((), (predictions, target))
    (dx, _), _ = LOSS.backward((), residuals, jnp.ones((), value.dtype))
    assert (value.dtype, dx["kind"].dtype, dx["size"].dtype) == ("float32", "bfloat16", "float32")


def test_a_loss_with_parameters_of_its_own():
    loss = Total(words=jbp.losses.LinearCrossEntropy(5), size=MeanSquaredError())
    x = {"words": draw(f(3, 4)), "size": draw(f(3))}, {"words": jnp.arange(3), "size": draw(f(3), 1)}
    params = audit(loss, x)
    assert set(params) == {"words", "size"}
    audit(Frozen(Serial(loss)), x)
