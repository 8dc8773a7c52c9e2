"""Layers: those of jbp pass, and one fault in either half is found and placed."""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import verify
from corpus import common
from jbp import Frozen, Repeat, Residual, Serial, Tied
from jbp.layers import (
    BatchNorm,
    CausalSelfAttention,
    Conv,
    Dense,
    Dropout,
    Embedding,
    LayerNorm,
    MaxPool,
    ReLU,
    StraightThroughRound,
    Tanh,
)
from jbp.losses import SoftmaxCrossEntropy

pytestmark = pytest.mark.usefixtures("lenient")

CASES = [
    (ReLU(), (4, 5)),
    (LayerNorm(), (4, 6)),
    (Conv(3, (3,)), (2, 5, 2)),
    (MaxPool((2,)), (2, 6, 3)),
    (Dropout(0.3), (4, 5)),
    (CausalSelfAttention(2), (2, 5, 4)),
    (Serial(Dense(4), BatchNorm(), Tanh(), Dense(3)), (5, 6)),
    (Repeat(Residual(Serial(Dense(4), Tanh())), 2), (3, 4)),
    (Tied(Serial(Dense(4), Tanh(), Dense(4)), (((0,), (2,)),)), (3, 4)),
    (Frozen(Serial(Dense(4), BatchNorm())), (3, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), CASES, ids=lambda v: str(v)[:40])
def test_layers_pass(layer, shape):
    report = verify.check(layer, common.example(*shape), level="quick")
    assert report.verdict == "pass", str(report)


def test_integers_have_no_cotangent():
    assert verify.check(Embedding(7, 3), common.ids(7, 2, 4), level="quick").verdict == "pass"
    x = common.example(4, 6), common.ids(6, 4)
    assert verify.check(SoftmaxCrossEntropy(), x, level="quick").verdict == "pass"


def test_other_sizes_bring_other_parameters():
    report = verify.check(Dense(3), common.example(4, 5))
    assert report.verdict == "pass", str(report)
    assert any("[1027" in shape for shape in report.tried["shapes"])
    assert not any("other sizes" in left for left in report.tried["skipped"])


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.5, "fail")])
def test_an_audit_ends_when_its_budget_is_spent_and_says_what_it_left_out(factor, verdict):
    @jax.custom_vjp
    def slow(x):
        time.sleep(0.1)  # whenever it is traced, at each size
        return jnp.sin(x)

    slow.defvjp(lambda x: (slow(x), x), lambda x, dy: (factor * jnp.cos(x) * dy,))
    begun = time.monotonic()
    report = verify.check(slow, common.example(4, 5), budget=4)
    assert report.verdict == verdict, str(report)
    assert time.monotonic() - begun < 30
    assert "inputs" in report.tried["left out"][0]
    assert "left out: " in str(report)
    assert not verify.check(jnp.sin, common.example(4, 5), level="quick").tried["left out"]
    with pytest.raises(verify.SubjectError, match="budget=0; expected seconds"):
        verify.check(jnp.sin, common.example(4, 5), budget=0)


def test_where_no_other_size_is_taken_the_report_says_so():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x.reshape(3, 5))

    f.defvjp(lambda x: (f(x), x), lambda x, dy: ((jnp.cos(x.reshape(3, 5)) * dy).reshape(x.shape),))
    report = verify.check(f, common.example(3, 5))
    assert report.verdict == "pass", str(report)
    assert "other sizes: the definition takes none" in report.tried["skipped"]


@dataclass(frozen=True, repr=False)
class Doubled(Dense):
    def gradient(self, x, dy, /):
        g = super().gradient(x, dy)
        return g | {"w": 2 * g["w"]}


@dataclass(frozen=True, repr=False)
class Lost(Dense):
    def gradient(self, x, dy, /):
        return super().gradient(x, dy) | {"b": None}


@dataclass(frozen=True, repr=False)
class PulledOtherwise(Dense):
    def pull(self, params, residuals, dy, /):
        dx, g = super().pull(params, residuals, dy)
        return dx, g | {"b": 1.5 * g["b"]}


@dataclass(frozen=True, repr=False)
class ApartOtherwise(Dense):
    def gradient(self, x, dy, /):
        g = super().gradient(x, dy)
        return g | {"b": 1.5 * g["b"]}

    def pull(self, params, residuals, dy, /):
        return Dense(self.features).pull(params, residuals, dy)


@pytest.mark.parametrize(
    ("layer", "law", "where"),
    [
        (Doubled(3), "dense", "params['w']"),
        (Lost(3), "structure", "params['b']"),
        (PulledOtherwise(3), "dense", "params['b']"),
    ],
)
def test_faults_are_placed(layer, law, where):
    report = verify.check(layer, common.example(4, 5), level="quick")
    assert (report.errors[0].law, report.errors[0].where) == (law, where), str(report)


def test_halves_must_agree_with_pull():
    report = verify.check(ApartOtherwise(3), common.example(4, 5))
    assert {f.law for f in report.errors} == {"halves"}, str(report)


@dataclass(frozen=True, repr=False)
class Feedback(Dense):
    """Sends the error down through ones instead of through W."""

    estimator = True

    def backward(self, params, x, dy, /):
        return dy @ jnp.ones_like(params["w"]).T, dy


def test_estimators_are_measured_not_failed():
    report = verify.check(Serial(Feedback(3), Tanh()), common.example(4, 5), level="quick")
    assert report.verdict == "pass", str(report)
    (note,) = [f for f in report.findings if f.law == "dense"]
    assert (note.severity, note.where) == ("note", "x")
    assert "° from the true gradient" in note.message


def test_an_estimator_of_a_gradient_that_is_zero_is_measured_too():
    report = verify.check(StraightThroughRound(), common.example(4, 5), level="quick")
    assert report.verdict == "pass", str(report)
    assert "the true gradient's 0" in report.findings[0].message
