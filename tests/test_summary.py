"""What a network is made of, in numbers known by hand, and one gradient beside jax.grad by name."""

from dataclasses import dataclass
from types import SimpleNamespace
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import draw
from rich.pretty import pretty_repr

import jbp
import jbp.catalogue
import verify
from jbp import Frozen, Parallel, Remat, Repeat, Residual, Serial
from jbp.cases import f
from jbp.layers import LSTM, Add, BatchNorm, Conv, Dense, Dropout, FanOut, StraightThroughSign, Tanh
from jbp.losses import MeanSquaredError
from jbp.readers.summary import flops

X = jax.ShapeDtypeStruct((2, 3), "float32")


def rows(net, x=X):
    return {row.path: row for row in jbp.summary(net, x).rows}


def test_a_perceptron_by_hand():
    found = jbp.summary(Serial(body=Dense(4), act=Tanh(), head=Dense(1)), X)
    numbers = [(r.path, r.label, r.output, r.parameters, r.flops, r.kept) for r in found.rows]
    assert numbers == [
        ("", "", "float32[2, 1]", 21, 48 + 8 + 8 + 16 + 2, 4 * (6 + 8)),  # Tanh keeps y, which is the head's x
        ("Serial.body", "body", "float32[2, 4]", 16, 2 * 2 * 3 * 4 + 8, 4 * 6),
        ("Serial.act", "act", "float32[2, 4]", 0, 8, 4 * 8),
        ("Serial.head", "head", "float32[2, 1]", 5, 2 * 2 * 4 + 2, 4 * 8),
    ]
    assert (found.parameters, found.buffers, found.kept) == (21, 0, 56)
    text = str(found)
    assert repr(found) == text
    for line in ("body Dense(4)", "float32[2, 4]", "16", "56 B"):
        assert line in text


def test_a_row_is_a_line_however_long():
    wide = jbp.layers.MultiHeadAttention(2, dropout=0.1, bias=True, rotary=True)
    net = Serial(FanOut(("a", "b", "long")), Parallel(a=Serial(wide), b=Tanh(), long=Tanh()))
    found = jbp.summary(net, jax.ShapeDtypeStruct((2, 3, 4), "float32"))
    lines = str(found).splitlines()
    assert len(lines) == len(found.rows) + len(str(jbp.summary(Tanh(), X)).splitlines()) - 1
    assert any("MultiHeadAttention(2, " in line and "...  " in line for line in lines)


def test_what_repeats_counts_as_often_and_what_is_run_again_keeps_nothing():
    found = rows(Serial(Dense(3), Repeat(Residual(Dense(3)), 5), Remat(Serial(Dense(2), Tanh()))))
    inner = found["Serial[1].Repeat.Residual"]
    assert (inner.times, inner.parameters, inner.kept) == (5, 5 * 12, 5 * 4 * 6)
    assert inner.flops == 5 * (2 * 2 * 3 * 3 + 6)
    assert found["Serial[2]"].kept == 4 * 6
    assert {found[f"Serial[2].Remat.Serial[{i}]"].kept for i in (0, 1)} == {0}


def test_buffers_are_no_parameters_and_integers_go_through():
    net = Serial(FanOut(), Parallel(Serial(BatchNorm(), Dropout(0.5)), jbp.Frozen(Dense(3))), Add())
    found = jbp.summary(net, X)
    assert (found.parameters, found.buffers) == (6, 3 + 3 + 1 + 1 + 12)  # mean, variance, steps; key; frozen
    words = jbp.summary(jbp.layers.Embedding(7, 2), jax.ShapeDtypeStruct((4,), "int32"))
    assert (words.parameters, words.flops, words.kept) == (14, 0, 16)


def test_operations_of_convolutions_and_loops():
    x = jax.ShapeDtypeStruct((1, 5, 5, 2), "float32")
    net = Conv(3, (3, 3), padding="VALID", bias=False)
    assert jbp.summary(net, x).flops == 2 * (3 * 3 * 3) * (3 * 3 * 2)
    w = jnp.ones((3, 3), "float32")
    assert flops(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c) @ w, None), x, None, 10)[0], X) == 10 * (6 + 36)
    times = [jbp.summary(LSTM(4), jax.ShapeDtypeStruct((2, t, 3), "float32")).flops for t in (5, 10)]
    assert times[1] == pytest.approx(2 * times[0], rel=0.05)


def test_the_gradient_of_a_batch_beside_that_of_jax():
    net, x, t = Serial(body=Dense(4), act=Tanh(), head=Dense(1)), draw(f(5, 3), dtype="float32"), jnp.ones((5, 1))
    params = net.init(jax.random.key(0), x)
    found = verify.compare(net, MeanSquaredError(), params, x, t)
    assert found.agrees
    assert {leaf.name for leaf in found.leaves} == {
        "x", *(f"params['{layer}']['{leaf}']" for layer in ("body", "head") for leaf in "wb")
    }  # fmt: skip
    assert "agrees with jax.grad" in str(found)
    assert str(found.worst) in repr(found)


@dataclass(frozen=True)
class Broken(Dense):
    def gradient(self, x, dy, /):
        grads = super().gradient(x, dy)
        return grads | {"w": 1.25 * grads["w"]}


def test_the_wrong_leaf_is_named():
    net, x = Serial(Dense(4), Broken(2), BatchNorm()), draw(f(5, 3), dtype="float32")
    params = net.init(jax.random.key(0), x)
    found = verify.compare(net, MeanSquaredError(), params, x, jnp.sin(x[:, :2]))
    assert not found.agrees
    assert found.worst.name == "params[1]['w']"
    np.testing.assert_allclose(found.worst.error, 0.25)
    assert [leaf.error > 1e-9 for leaf in found.leaves].count(True) == 1


def test_an_estimator_is_told():
    net = Serial(Dense(2), StraightThroughSign())
    found = verify.compare(net, MeanSquaredError(), net.init(jax.random.key(0), X), jnp.ones((2, 3)), jnp.ones((2, 2)))
    assert found.estimator
    assert "backward pass is another on purpose" in str(found)


PICTURED = jbp.Graph(
    seen=(Serial(Conv(4), Tanh(), jbp.layers.Flatten()), "image"),
    known=(Parallel(a=Dense(2), b=Serial(Dense(2), Tanh())), "facts"),
    flat=(jbp.layers.Concatenate(), "known"),
    both=(jbp.layers.Concatenate(), "flat", "seen"),
    deep=(Repeat(Residual(Serial(Dense(132), Tanh())), 3), "both"),
    kind=(Dense(3), "deep"),
    size=(Frozen(Dense(1)), "seen"),
)
GIVEN = {
    "image": jax.ShapeDtypeStruct((2, 4, 8, 1), "float32"),
    "facts": {name: jax.ShapeDtypeStruct((2, 3), "float32") for name in "ab"},
}


def boxes(root):
    """(x, y, width, height) of what stands for layers."""
    space = "{http://www.w3.org/2000/svg}"
    return [
        [float(r.get(k)) for k in ("x", "y", "width", "height")]
        for r in root.iter(f"{space}rect")
        if r.get("class") == "layer"
    ]


def test_a_picture_shows_every_layer_apart_with_the_shapes_between():
    svg = jbp.draw(PICTURED, GIVEN).svg
    root = ElementTree.fromstring(svg)
    found = boxes(root)
    assert len(found) == 3 + 3 + 1 + 1 + 2 + 1 + 1
    _, _, width, height = map(float, root.get("viewBox").split())
    assert all(min(x, y) >= 0 and x + w <= width and y + h <= height for x, y, w, h in found)
    for k, (x, y, w, h) in enumerate(found):
        for u, v, m, n in found[:k]:
            assert x + w <= u or u + m <= x or y + h <= v or v + n <= y
    text = "".join(root.itertext())
    for shown in ("Conv(4)", "40 parameters", "Repeat × 3", "Frozen", "kind: Dense(3)", "float32[2, 132]", "image"):
        assert shown in text


def test_pictures_are_saved_and_shown_in_notebooks(tmp_path):
    found = jbp.draw(Serial(), X)
    assert len(boxes(ElementTree.fromstring(found.svg))) == 1
    found = jbp.draw(jbp.layers.Lengths(LSTM(2)), (jax.ShapeDtypeStruct((2, 3, 1), "float32"), jnp.array([1, 2])))
    found.save(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text() == found.svg == found._repr_svg_()
    assert "Lengths(LSTM(2))" in found.svg


NAMES = jbp.catalogue.NAMES


def test_rich_and_notebooks_lay_a_network_out_and_it_stays_the_program():
    net = Serial(stem=Dense(16), body=Serial(Dense(16), Tanh(), jbp.layers.Pad(((1, 0),))), head=Dense(3, bias=False))
    shown = []
    net._repr_pretty_(SimpleNamespace(max_width=60, text=shown.append), False)
    each = ["stem=Dense(16)", "body=Serial(Dense(16), Tanh(), Pad(((1, 0),)))", "head=Dense(3, bias=False)"]
    assert shown == [f"Serial(\n    {f',{chr(10)}    '.join(each)}\n)"]
    for case in (*jbp.catalogue.LAYERS, *jbp.catalogue.LOSSES, *jbp.catalogue.ESTIMATORS):
        assert eval(pretty_repr(case.layer, max_width=40), dict(NAMES)) == case.layer
        assert eval(repr(case.layer), dict(NAMES)) == case.layer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it looks at all of NumPy
def test_treescope_shows_layers_and_marks_buffers():
    treescope, net = pytest.importorskip("treescope"), Serial(Dense(2), BatchNorm())
    assert "Dense(features=2, bias=True)" in treescope.render_to_text(net)
    shown = treescope.render_to_text(net.init(jax.random.key(0), jnp.ones((3, 4), "float32")))
    assert "'w': " in shown
    assert "'mean': Buffer(value=" in shown


def test_the_share_of_the_time_of_each_layer():
    net = Serial(Dense(4), Repeat(Residual(Dense(4)), 2), jbp.layers.Dropout(0.5))
    found = jbp.summary(net, X, time=True)
    seconds = {row.path: row.seconds for row in found.rows}
    assert all(s > 0 for s in seconds.values())
    assert seconds[""] == pytest.approx(sum(seconds[f"Serial[{i}]"] for i in range(3)))
    assert seconds["Serial[1].Repeat.Residual"] == seconds["Serial[1]"]
    assert "100 %" in str(found)
    assert "%" not in str(jbp.summary(net, X))
    words = jbp.summary(jbp.layers.Embedding(7, 2), jax.ShapeDtypeStruct((4,), "int32"), time=True)
    assert words.rows[0].seconds > 0
