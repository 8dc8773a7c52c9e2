"""What is asked of some networks beyond their gradient: right ones agree, and each question sees its fault."""

from collections import Counter
from dataclasses import replace

import jax
import pytest

import jbp
from verify.__main__ import main
from verify.architectures import campaign, further
from verify.architectures.networks import Array, Network, values
from verify.naming.catalogues import catalogue

SOURCE = catalogue()


def asked(name, layer, source=SOURCE, x=(2, 3)):
    network = Network(layer, Array(x), 0)
    with jax.enable_x64(True):
        return further.asked(layer, name, further.questions(source)[name], *values(network))


class HalvesApart(jbp.layers.Dense):
    def gradient(self, x, dy, /):
        return jax.tree.map(lambda g: 2 * g, super().gradient(x, dy))

    def pull(self, params, x, dy, /):
        dx, delta = self.backward(params, x, dy)
        return dx, super().gradient(x, delta)


class TwiceBelow(jbp.layers.Dense):
    def pull(self, params, x, dy, /):
        dx, grads = super().pull(params, x, dy)
        return 2 * dx, grads


@jax.custom_batching.custom_vmap
def _twice_in_a_batch(dx):
    return dx


@_twice_in_a_batch.def_vmap
def _(size, batched, dx):
    return 2 * dx, batched[0]


class WrongInABatch(jbp.layers.Tanh):
    def pull(self, params, residuals, dy, /):
        dx, grads = super().pull(params, residuals, dy)
        return _twice_in_a_batch(dx), grads


class MovesWhatIsTrained(jbp.layers.Dense):
    def advance(self, params, residuals, /):
        return jax.tree.map(lambda p: 0.9 * p, params)


class OwnNorms(jbp.layers.Dense):
    """Right, but for the rule of its own by which its examples' norms are had."""


@jbp.readers.per_example_squared_norms.register(OwnNorms)
def _(layer, x, dy, /):
    return 2 * (x**2).sum(-1) * (dy**2).sum(-1)


class WrongInBoth(jbp.layers.Dense):
    def gradient(self, x, dy, /):
        return jax.tree.map(lambda g: 3 * g, super().gradient(x, dy))


class WrongAlone(jbp.layers.Dense):
    def gradient(self, x, dy, /):
        return jax.tree.map(lambda g: (1 + (len(x) == 1)) * g, super().gradient(x, dy))


class NotLinear(jbp.layers.Tanh):
    def backward(self, params, y, dy, /):
        return super().backward(params, y, dy * abs(dy))


def _half(layer):
    f = jbp.as_function(layer, has_aux=True)
    return lambda params, x: (0.5 * f(params, x)[0], ())


@pytest.mark.parametrize(
    ("name", "wrong", "source"),
    [
        ("backward and gradient apart", HalvesApart(4), SOURCE),
        ("as one program", TwiceBelow(4), SOURCE),
        ("under vmap", WrongInABatch(), SOURCE),
        ("advance moves buffers alone", MovesWhatIsTrained(4), SOURCE),
        ("as a function under jax.vjp", jbp.layers.Dense(4), replace(SOURCE, function=_half)),
        ("per-example norms and sums", OwnNorms(4), SOURCE),
        ("clipping and the optimizer inside of the sweep", HalvesApart(4), SOURCE),
        ("tangents", NotLinear(), SOURCE),
        ("products with the Hessian matrix", WrongInBoth(4), SOURCE),
        ("products with the Gauss-Newton matrix", WrongInBoth(4), SOURCE),
        ("diagonal of the curvature", WrongAlone(4), SOURCE),
    ],
)
def test_each_question_sees_its_fault(name, wrong, source):
    right = asked(name, jbp.Serial(jbp.layers.Dense(4), jbp.layers.Tanh()))
    assert right is not None
    assert not right.differences
    outcome = asked(name, jbp.Serial(jbp.layers.Sin(), wrong), source)
    assert outcome is not None
    assert outcome.disagrees
    assert all(d.leaf.startswith(f"{name}: ") for d in outcome.differences)
    assert name in further.questions(SOURCE)


def test_what_does_not_allow_a_question_is_no_fault():
    assert asked("per-example norms and sums", jbp.layers.BatchNorm(running=False)) is None
    assert asked("clipping and the optimizer inside of the sweep", jbp.layers.FanOut()) is None


def test_what_raises_is_an_answer():
    def never(layer, params, x, dy):
        raise ZeroDivisionError("in the middle")

    source = replace(SOURCE, further={"never": never})
    seed = list(further.questions(source)).index("never")
    outcome, name = further.audit_and_ask(source, Network(jbp.layers.Tanh(), Array((2, 3)), seed), every=1)
    assert name == "never"
    assert outcome.disagrees
    assert "never: ZeroDivisionError: in the middle" in str(outcome.differences[0])


def test_one_network_in_so_many_is_asked_one_question_after_another():
    names = [further.question(SOURCE, Network(jbp.layers.Tanh(), Array((2, 3)), seed)) for seed in range(5000)]
    assert sum(name is not None for name in names) == 20
    assert set(names) == {None, *further.questions(SOURCE)}
    all_ = [further.question(SOURCE, Network(jbp.layers.Tanh(), Array((2, 3)), seed), 1) for seed in range(5000)]
    assert all(name is None or name == one for name, one in zip(names, all_, strict=True))
    counts = Counter(all_)
    assert min(counts.values()) > 0.8 * 5000 / len(further.questions(SOURCE))


def test_the_rounding_of_a_gradient_that_is_zero_is_none():
    outcome = asked("as one program", jbp.Serial(jbp.layers.Dense(3), jbp.layers.BatchNorm()), x=(5, 3))
    assert outcome is not None
    assert not outcome.disagrees


@pytest.mark.slow
def test_a_campaign_reports_and_replays_what_a_question_finds(monkeypatch, capsys):
    few = [c for c in SOURCE.layers if type(c.layer) in (jbp.layers.Dense, jbp.layers.Tanh, jbp.layers.Sigmoid)]
    wrong = [replace_layer(c, HalvesApart(3)) if c.layer == jbp.layers.Dense(3) else c for c in few]
    source = replace(SOURCE, layers=tuple(wrong), names=dict(SOURCE.names) | {"HalvesApart": HalvesApart})
    for module in ("verify.architectures.campaign", "verify.architectures.networks", "verify.naming.catalogues"):
        monkeypatch.setattr(f"{module}.catalogue", lambda name="jbp": source)
    monkeypatch.setattr(further, "questions", lambda source: {"backward and gradient apart": further.apart})
    tally = campaign.run(40, 3, every=1)
    (failure,) = tally.failures
    assert "HalvesApart(3)" in failure.program
    assert all(difference.startswith("backward and gradient apart: ") for difference in failure.differences)
    assert main(["replay", failure.token, "--here"]) == 1
    assert "backward and gradient apart: " in capsys.readouterr().out


def replace_layer(case, layer):
    return type(case)(layer, *case.inputs)
