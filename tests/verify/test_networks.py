"""Random networks: valid, covered, replayable, shrunk; and every planted fault is found at the layer where it is."""

import itertools
import json
import multiprocessing
import random
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

import jbp
import verify
from benchmarks.verify import covered, planted
from benchmarks.verify.faults import FAULTS, broken
from jbp.cases import Case, f, i
from verify.__main__ import main
from verify.architectures import campaign, chapters
from verify.architectures.compiled import compilations, hand_and_true
from verify.architectures.judge import audit, judge
from verify.architectures.locate import locate
from verify.architectures.networks import EVEN, Array, Network, networks, spec
from verify.architectures.protocol import children, leaves, nodes
from verify.naming.catalogues import catalogue
from verify.processes.journal import Book, JournalError
from verify.processes.safely import Pool

DRAWN = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate], backend=EVEN
)
INPUT = {0: Array((4, 5), below=5), 2: Array((3, 5)), 3: Array((2, 3, 5)), 4: Array((2, 4, 3, 2))}


def around(layer, rank, rng):
    """A network of right layers with `layer` somewhere inside, and the path at which it is."""
    before, after = ([], []) if rank == 0 else ([jbp.layers.Tanh()] * rng.randrange(2), [])
    if rank in (2, 3):
        before += rng.choice(
            [
                [],
                [jbp.layers.Dense(5)],
                [jbp.layers.LayerNorm(), jbp.layers.Dense(5)],
                [jbp.Residual(jbp.layers.Dense(5))],
            ]
        )
    if rank == 4:
        before += rng.choice([[], [jbp.layers.Conv(2, (1, 2))], [jbp.layers.Sigmoid()]])
    after += rng.choice(
        [[jbp.layers.Sin()], [jbp.layers.Dense(3)], [jbp.layers.Sigmoid(), jbp.layers.Dense(2), jbp.layers.Tanh()]]
    )
    keeps = rank in (2, 3) or (rank == 4 and not isinstance(layer, jbp.layers.MaxPool))
    wrap = rng.choice([lambda f: f, lambda f: f, jbp.Remat, *([jbp.Residual] * 2 + [_three_times] if keeps else [])])
    return jbp.Serial(*before, wrap(layer), *after)


def _three_times(layer):
    return jbp.Repeat(layer, 3)


@pytest.mark.parametrize("number", range(0, len(FAULTS), 9))  # benchmarks.verify.located tries all of them
def test_the_layer_at_fault_is_found(number):
    kind, right, break_it, rank = FAULTS[number]
    wrong, rng = break_it(right), random.Random(number)
    net = around(wrong, rank, rng)
    network = Network(net, INPUT[rank], number)
    expected = [path for path, node in leaves(net) if node is wrong]
    outcome = audit(network)
    assert outcome.disagrees, f"{kind} in {net} was not noticed"
    assert [fault.path for fault in locate(network)] == expected
    if number % 4 == 0:
        assert not audit(Network(around(right, rank, random.Random(number)), INPUT[rank], number)).disagrees


def test_there_are_sixty_faults_of_every_kind():
    kinds = Counter(kind for kind, *_ in FAULTS)
    assert len(FAULTS) >= 60
    assert set(kinds) >= {
        "factor",
        "sign",
        "missing term",
        "transposed",
        "wrong axis",
        "off by one in time",
        "forgotten sum",
    }


def test_two_faults_are_both_found():
    double = broken(jbp.layers.Dense(5), backward=lambda self, p, x, dy: (2 * dy @ p["w"].T, dy))
    silent = broken(jbp.layers.LayerNorm(), gradient=lambda self, r, dy: {"g": 0 * dy[0], "b": 0 * dy[0]})
    network = Network(
        jbp.Serial(jbp.layers.Tanh(), double, jbp.Residual(jbp.Serial(silent, jbp.layers.Tanh()))), Array((3, 5)), 0
    )
    assert [fault.path for fault in locate(network)] == ["Serial[1].Dense", "Serial[2].Residual.Serial[0].LayerNorm"]


def test_a_combinator_at_fault_is_found():
    def pull(self, params, residuals, dy):
        return self.layer.pull(params, residuals, dy)  # the residual branch is forgotten

    wrong = broken(jbp.Residual(jbp.layers.Dense(5)), pull=pull)
    (fault,) = locate(
        Network(jbp.Serial(jbp.Residual(jbp.layers.Dense(5)), jbp.Remat(wrong), jbp.layers.Dense(2)), Array((3, 5)), 0)
    )
    assert fault.path == "Serial[1].Remat.Residual"
    assert "Serial[1].Remat: Residual(Dense(5)) is at fault" in str(fault)


def test_a_combinator_at_fault_in_two_places_is_found_in_both():
    """To correct one of them alone does not cure the network, and to correct what holds both says nothing."""

    def pull(self, params, residuals, dy):
        dx, grads = jbp.Residual.pull(self, params, residuals, dy)
        return 0.5 * dx, grads

    wrong = broken(jbp.Residual(jbp.layers.Dense(5)), pull=pull)
    two = jbp.Serial(wrong, jbp.Remat(wrong))
    found = locate(Network(jbp.Serial(jbp.Remat(jbp.layers.Tanh()), two, jbp.layers.Dense(2)), Array((3, 5)), 0))
    assert [fault.path for fault in found] == ["Serial[1].Serial[0].Residual", "Serial[1].Serial[1].Remat.Residual"]
    assert all(fault.layer is wrong for fault in found)


@settings(DRAWN, max_examples=4)
@given(networks())
def test_networks_are_valid_and_agree(network):
    assert not audit(network).disagrees
    rebuilt = campaign.from_token(campaign.token("jbp", network))
    assert (rebuilt.layer, rebuilt.inputs, rebuilt.seed) == (network.layer, network.inputs, network.seed)


def test_what_is_told_lengths_is_followed_by_nothing_that_takes_padding_for_steps():
    of, met = jbp.layers, Counter()
    cases = (
        Case(of.Bidirectional(of.Lengths(of.GRU(1))), (f(3, 5, 1), i(3, below=6))),
        *(Case(layer, f(3, 5, 2)) for layer in (of.GlobalMaxPool(), of.Tanh(), of.LayerNorm())),
    )
    source = replace(catalogue(), layers=cases, losses=(), forms=())

    @settings(DRAWN, max_examples=100, backend=EVEN)
    @given(networks(source))
    def draw(network):
        jax.eval_shape(network.layer.init, jax.random.key(0), spec(network.inputs))
        met.update(type(node) for _, node in nodes(network.layer))

    draw()
    assert met[of.GlobalMaxPool]  # where it takes an array that comes without lengths
    assert met[of.Bidirectional]


@settings(DRAWN, max_examples=3)
@given(networks())
def test_a_compiled_network_is_the_network(network):
    """What a campaign runs, pieces compiled one by one, is what a user runs: the whole network under one jit."""
    from verify.architectures.compiled import compiled
    from verify.architectures.judge import gradients, output_error, truth
    from verify.architectures.networks import values

    params, x, rng = values(network)
    y, _ = network.layer.forward(params, x)
    dy = output_error(y, rng)
    whole = jax.jit(lambda *args: gradients(network.layer, *args))(params, x, dy)
    pieces = gradients(compiled(network.layer), params, x, dy)
    for a, b, c in zip(*map(jax.tree.leaves, (whole, pieces, truth(network.layer, params, x, dy))), strict=True):
        scale = max(np.abs(c).max(initial=0), 1e-3)
        assert np.abs(a - b).max(initial=0) <= 1e-9 * scale
        assert np.abs(a - c).max(initial=0) <= 1e-9 * scale


def test_a_layer_is_compiled_once_a_shape_whoever_holds_the_numbers():
    layer, several = jbp.layers.LeakyReLU(0.123), [np.ones((2, 3)), jnp.ones((2, 3)), jnp.full((2, 3), 1.0)]
    assert several[2].weak_type
    before = compilations()
    for x, dy in itertools.product(several, several):
        hand_and_true(layer, (), x, dy)
    assert compilations() - before == 1
    hand_and_true(layer, (), np.ones((3, 2)))
    assert compilations() - before == 2


def test_a_layer_is_traced_with_arrays_of_jax():
    """The backward of a bag of words with offsets takes what only JAX's arrays have."""
    inputs = {"ids": Array((4,), below=5), "offsets": Array((1,), below=1), "weights": Array((4,))}
    net = jbp.Serial(jbp.layers.EmbeddingBag(5, 3, "mean"), jbp.Repeat(jbp.layers.SoftShrink(), 3))
    assert not audit(Network(net, inputs, 56644)).disagrees


def _raises(self, *args):
    raise TypeError("unsupported")


@pytest.mark.parametrize(
    ("backward", "said"),
    [
        (_raises, "its backward pass raises TypeError: unsupported"),
        (lambda self, p, x, dy: (dy[:1], dy), "gives dx float64[1, 5]; expected float64[3, 5]"),
        (lambda self, p, x, dy: (jnp.nan * x, dy), "not finite"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: jbp.Repeat(f, 3), jbp.Remat])
def test_a_layer_that_gives_no_cotangents_is_at_fault_and_not_its_neighbours(wrap, backward, said):
    wrong = broken(jbp.layers.Dense(5), backward=backward)
    network = Network(jbp.Serial(jbp.layers.Tanh(), wrap(wrong), jbp.layers.Sin()), Array((3, 5)), 0)
    assert audit(network).disagrees
    (fault,) = locate(network)
    assert fault.layer is wrong
    assert said in str(fault)


def test_a_combinator_that_raises_is_at_fault():
    wrong = broken(jbp.Residual(jbp.layers.Tanh()), pull=_raises)
    network = Network(jbp.Serial(jbp.layers.Dense(5), wrong), Array((3, 5)), 0)
    assert audit(network).differences[0].leaf == "the sweep raises TypeError: unsupported"
    assert [fault.path for fault in locate(network)] == ["Serial[1].Residual"]


class Broken(jbp.layers.Tanh):
    def backward(self, params, kept, dy, /):
        return 1.5 * super().backward(params, kept, dy)[0], ()


def _with_broken_tanh():
    """A small catalogue, in which the broken layer is not rare."""
    source = catalogue()
    few = [
        case
        for case in source.layers
        if type(case.layer)
        in (jbp.layers.Dense, jbp.layers.LayerNorm, jbp.layers.Sigmoid, jbp.layers.Conv, jbp.layers.Tanh)
    ]
    layers = [type(case)(Broken(), *case.inputs) if case.layer == jbp.layers.Tanh() else case for case in few]
    return replace(source, layers=tuple(layers), names=dict(source.names) | {"Broken": Broken})


def test_a_fault_is_found_under_the_name_of_its_layer():
    net = jbp.Serial(first=jbp.Parallel(good=jbp.layers.Tanh(), bad=Broken()), sum=jbp.layers.Add())
    array = Array((2, 3))
    (fault,) = locate(Network(net, {"good": array, "bad": array}, 0))
    assert str(fault).startswith("Serial.first.Parallel.bad: Broken() is at fault in its backward")


def test_a_failing_network_shrinks_to_its_fault():
    quick = settings(DRAWN, max_examples=200, phases=[Phase.generate, Phase.shrink])
    network = find(networks(_with_broken_tanh()), lambda network: audit(network).disagrees, settings=quick)
    inside = [type(node).__name__ for _, node in leaves(network.layer)]
    assert "Broken" in inside
    assert len(inside) <= 2
    assert max(network.inputs.shape) <= 3


def test_a_campaign_reports_and_replays_a_failure(monkeypatch, capsys):
    broken_catalogue = _with_broken_tanh()
    for module in ("verify.architectures.campaign", "verify.architectures.networks"):
        monkeypatch.setattr(f"{module}.catalogue", lambda name="jbp": broken_catalogue)
    tally = campaign.run(100, 3)
    assert tally.failures
    failure = tally.failures[0]
    assert any("Broken() is at fault in its backward" in fault for fault in failure.faults)
    assert main(["replay", failure.token, "--here"]) == 1
    assert "Broken() is at fault" in capsys.readouterr().out


def test_chapters_are_alike_wherever_they_run():
    one, two = (campaign.chapter("jbp", 5, 0, 10) for _ in range(2))
    assert (one.layers, one.forms, one.pairs) == (two.layers, two.forms, two.pairs)


def test_chapters_are_short_at_first_and_add_up():
    for count in (1, 50, 130, 5000, 10**6):
        lengths = chapters.lengths(count)
        assert sum(lengths) == count
        assert lengths[0] == min(count, chapters.FIRST)
        assert max(lengths) <= chapters.LONGEST
    assert chapters.lengths(0) == []


def test_a_chapter_compiles_its_vocabulary_alone_and_a_row_of_them_meets_every_type_of_layer():
    source, seen = catalogue(), set()
    for number in range(10):
        chapter = chapters.Chapter(source, 3, number, 60)
        for x in chapter.starts():
            for fitting in chapter.fitting(x, False):
                assert all(chapter.knows(y) for _, y in fitting.outcomes)
                seen |= {type(layer).__name__ for layer, _ in fitting.outcomes}
            assert all(y == x for fitting in chapter.fitting(x, True) for _, y in fitting.outcomes)
            assert chapter.fitting(x, True) or not chapter.forms(x)
            seen |= {type(loss).__name__ for loss, _ in chapter.losses(x)}
        seen |= {type(layer).__name__ for layer, _, _ in chapter.openers()}
        starts = chapter.starts()  # each hub has a layer that changes nothing, beside the vocabulary
    assert sum(len(f.outcomes) for x in starts for f in chapter.fitting(x, False)) <= 60 + len(starts)
    every, _ = campaign.expected("jbp")
    print(sorted(every - seen))  # some are met inside of forms alone
    assert len(seen & every) > 0.85 * len(every)


def test_the_forms_of_a_chapter_fit_and_its_shapes_are_seldom_of_one():
    source, dealt, ones = catalogue(), Counter(), 0
    for number in range(2):
        chapter = chapters.Chapter(source, 3, number, 30)
        for x in chapter.starts():
            ones += x.shape.count(1) > 1
            for form in chapter.forms(x):
                y = chapter._formed(form, x)
                assert y is not None
                assert chapter.knows(y)
                dealt[form.name] += 1
    assert len(dealt) >= len(source.forms) - 3
    assert ones <= 5  # of some twenty, where layers have made them


FEW = "Dense", "Tanh", "Recurrent", "Positions", "Flatten", "MeanSquaredError"
PLANTED = {f"{plant.sort}, {plant.name}": plant for plant in planted.plants()}


def test_a_planted_fault_is_rejected_and_named(monkeypatch):
    """benchmarks.verify.planted tries them all."""
    monkeypatch.setattr(planted, "ABOUT", FEW)
    monkeypatch.setattr(campaign, "SHRINKING", 0)
    plant = PLANTED["inside, Recurrent: half of the error of its Tanh"]
    found = planted.judged(plant, planted.some(catalogue()), 0)
    assert found["named"] == "right"
    assert found["networks"] <= 100


def test_there_are_as_many_pairs_as_faults_and_none_is_right():
    sorts = Counter(plant.sort for plant in PLANTED.values())
    assert sorts["single"] == sorts["pair"] == len(FAULTS)
    assert min(sorts.values()) >= 8
    right = planted.some(catalogue())
    for plant in PLANTED.values():
        wrong = planted.planted(right, plant)
        several = [*wrong.layers, *wrong.losses]
        made = [form.build(*[jbp.layers.Tanh()] * len(form.keeps)) for form in wrong.forms]
        kinds = {id(kind) for _, kind in plant.wrong}
        inside = [node for layer in (*(c.layer for c in several), *made) for _, node in nodes(layer)]
        assert any(id(type(node)) in kinds for node in inside) or plant.under, plant.name


def test_what_a_journal_holds_is_told_by_how_coverage_grew(tmp_path, monkeypatch):
    monkeypatch.setattr(covered, "neighbours", lambda source: {("Dense", "Tanh"), ("Tanh", "Dense")})  # else a minute
    journal = tmp_path / "journal"
    tallies = [
        campaign.Tally(networks=50, layers=Counter(Dense=1200, Tanh=7), forms=Counter(Remat=3)),
        campaign.Tally(networks=100, layers=Counter(Tanh=4)),
    ]
    tallies[0].pairs[("Dense", "Tanh")] += 5
    tallies[1].pairs.update([("Tanh", "Dense"), ("Tanh", "Embedding")])
    parts = [("jbp", 5, number, tally.networks, 250) for number, tally in enumerate(tallies)]
    book = Book(journal, ["jbp", 5], {}, lambda part: part[2:], campaign._told, campaign._meant)
    for _ in campaign.resumed(None, lambda name, seed, number, *rest: tallies[number], parts[::-1], book):
        pass
    assert campaign.recorded(journal) == ("jbp", 5, tallies)
    output = tmp_path / "told.json"
    assert covered.main([str(journal), "--output", str(output)]) == 0
    told = json.loads(output.read_text())
    assert [(row["networks"], row["layers"], row["forms"], row["pairs"]) for row in told["chapters"]] == [
        (50, 2, 1, 1), (150, 2, 1, 2),
    ]  # fmt: skip
    assert told["seldom"]["layers"]["Tanh"] == 11
    assert told["seldom"]["layers"]["Conv"] == 0
    assert "Dense" not in told["seldom"]["layers"]
    assert "| 150 | 0 | 2 of " in output.with_suffix(".md").read_text()
    journal.write_text("no journal")
    with pytest.raises(JournalError, match="expected the journal of a campaign"):
        campaign.recorded(journal)


class DoubledGradient(jbp.layers.Dense):
    def gradient(self, x, dy, /):
        return jax.tree.map(lambda g: 2 * g, super().gradient(x, dy))


def outcome_at(net, size, x=(2, 3)):
    """What is said of a network whose last weights are `size` times as large as they are made."""
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=x)
        params = net.init(jax.random.key(0), x)
        params[-1]["w"] *= size
        return judge(net, params, x, np.random.default_rng(0))


@pytest.mark.parametrize(("size", "remark"), [(1.0, ""), (1e9, ""), (1e200, "large numbers")])
def test_a_mistake_where_numbers_are_large_is_one_at_smaller_parameters_too(size, remark):
    """Sweeps of state spaces that had grown to 1e159 below an InstanceNorm, and to 1e20 in a Reversible, which computes
    its inputs back from its outputs, were taken for wrong once."""
    right = jbp.Serial(jbp.layers.Dense(4), jbp.layers.Tanh(), jbp.layers.Dense(2))
    wrong = jbp.Serial(DoubledGradient(4), jbp.layers.Tanh(), jbp.layers.Dense(2))
    assert not outcome_at(right, size).differences
    assert outcome_at(wrong, size).remark == remark
    assert outcome_at(wrong, size).disagrees == (not remark)


def test_a_mistake_beside_experts_which_run_in_a_vmap_is_looked_at_as_any():
    experts = jbp.Serial(jbp.layers.MixtureOfExperts(jbp.layers.Dense(5), 3, k=2, capacity=None), jbp.layers.Select(0))
    assert not outcome_at(jbp.Serial(experts, jbp.layers.Dense(2)), 1.0, (3, 5)).differences
    assert outcome_at(jbp.Serial(experts, DoubledGradient(2)), 1.0, (3, 5)).disagrees


def test_what_is_computed_back_from_large_outputs_is_lost_and_no_mistake():
    state = jbp.layers.SelectiveStateSpace(2)
    halves = jbp.Reversible(jbp.Serial(state, state), jbp.Serial(state, state))
    net = jbp.Serial(jbp.layers.FanOut(), jbp.layers.Concatenate(), halves)
    outcome = audit(Network(net, Array((2, 3, 1)), 34511))
    assert outcome.remark == "large numbers"
    assert not outcome.disagrees


def test_neighbours_are_counted_where_one_follows_the_other():
    tally = campaign.Tally()
    inner = jbp.Parallel(jbp.layers.Tanh(), jbp.layers.Sin())
    net = jbp.Serial(jbp.layers.FanOut(), inner, jbp.layers.Add())
    campaign.cover(tally, Network(net, Array((2, 3)), 0), jbp.Serial)
    assert set(tally.pairs) == {("FanOut", "Parallel"), ("Parallel", "Add")}


def test_the_command_says_what_was_covered(capsys):
    assert main(["networks", "--count", "8", "--seed", "1", "--here"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 random networks, 0 disagreements" in said
    assert "a minute" in said
    assert "layers:" in said
    assert re.search(r"pairs of neighbouring layers: \d+, and \d+ of other combinators", said)
    assert "not met" not in said
    assert main(["networks", "--count", "1", "--seed", "1", "--here", "-v"]) == 0
    assert "not met: " in capsys.readouterr().out
    assert main(["networks", "--count", "1", "--seed", "1", "--here", "--quiet"]) == 0
    assert "covered" not in capsys.readouterr().out


def odd(n):
    if n == 3:
        raise ValueError("three")
    return 2 * n + 1


def test_any_executor_does_the_parts_and_what_raises_is_told():
    with ThreadPoolExecutor(2) as pool:
        found = dict(campaign.results_of(pool, odd, [(n,) for n in range(5)]))
    assert str(found.pop((3,))) == "ValueError: three"
    assert found == {(n,): 2 * n + 1 for n in (0, 1, 2, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "processes", "pool", "dask"])
def test_a_campaign_is_the_same_on_every_executor(kind):
    with ExitStack() as stack:
        if kind == "threads":
            pool = stack.enter_context(ThreadPoolExecutor(1))
        elif kind == "pool":
            pool = stack.enter_context(Pool(2))
        elif kind == "processes":
            pool = stack.enter_context(ProcessPoolExecutor(2, multiprocessing.get_context("spawn")))
        else:
            distributed = pytest.importorskip("distributed")
            cluster = stack.enter_context(distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None))
            pool = stack.enter_context(stack.enter_context(distributed.Client(cluster)).get_executor())
        tallies = [campaign.run(55, 3, where) for where in (None, pool)]
    assert not tallies[1].lost
    for name in ("networks", "remarks", "layers", "forms", "pairs", "failures"):
        assert getattr(tallies[0], name) == getattr(tallies[1], name)


def test_neighbours_are_what_can_follow():
    of = jbp.layers
    wanted = {of.Dense, of.Tanh, of.Conv, of.Flatten, of.Embedding, of.GlobalMaxPool, of.PixelUnshuffle, of.GLU}
    wanted.add(of.CosineSimilarity)
    source = replace(catalogue(), layers=tuple(c for c in catalogue().layers if type(c.layer) in wanted))
    pairs = campaign.neighbours(source)
    assert {("Dense", "Tanh"), ("Conv", "Flatten"), ("Embedding", "Conv"), ("GlobalMaxPool", "Dense")} <= pairs
    assert not {("Dense", "Embedding"), ("Tanh", "Embedding"), ("GlobalMaxPool", "Conv")} & pairs
    assert ("Dense", "GLU") in pairs
    assert ("CosineSimilarity", "GLU") not in pairs  # one number each has no halves


@pytest.mark.slow
def test_even_draws_meet_layers_of_every_rank_and_twice_as_many_neighbours():
    def drawn(backend):
        tally = campaign.Tally()

        @settings(DRAWN, max_examples=100, backend=backend)
        @given(networks())
        def draw(network):
            campaign.cover(tally, network, jbp.Serial)

        draw()
        return tally

    tally = drawn(EVEN)
    print(tally.layers.most_common())
    for name in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LSTM", "MultiHeadAttention", "LSTMNode"):
        assert tally.layers[name] >= 1, name  # of 100 networks, which a hundred types share
    assert len(tally.pairs) > 2 * len(drawn("hypothesis").pairs)


@pytest.mark.parametrize("arguments", [["networks", "--catalogue", "nobody"], ["replay", "no-token", "--here"]])
def test_what_cannot_run_says_so(arguments, capsys):
    assert main(arguments) == 2
    assert "could not run" in capsys.readouterr().err


def test_what_runs_layers_in_a_loop_is_compiled_as_a_whole():
    """Else its loop would be traced and compiled anew for every network that holds it."""
    kinds = {}
    for case in catalogue().layers:
        if children(case.layer) or any(isinstance(value, jbp.Layer) for value in vars(case.layer).values()):
            kinds.setdefault(type(case.layer), case)
    assert {jbp.Serial, jbp.layers.Recurrent, jbp.layers.Recursive} <= set(kinds)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    for case in kinds.values():
        network = Network(case.layer, case.inputs[0], 0)
        audit(network)
        del compiled[:]
        audit(network)
        assert not compiled, case.layer
    jax.jit(lambda x: x + 1.25)(1.0)
    assert compiled  # the listener hears


@dataclass(frozen=True)
class Halved(jbp.Layer):
    """y = sin x, and half of its derivative."""

    def forward(self, params, x, /):
        return jnp.sin(x), x

    def backward(self, params, x, dy, /):
        return jnp.cos(x) * dy / 2, ()


def test_layers_of_ones_own_are_every_other_one():
    met = Counter()

    @settings(DRAWN, max_examples=24)
    @given(verify.networks(layers=[verify.case(Halved(), "f32[3,5]")]))
    def run(network):
        met["networks"] += 1
        if any(isinstance(node, Halved) for _, node in nodes(network.layer)):
            met["with it"] += 1
            met["found"] += met["found"] < 3 and verify.audit(network).disagrees

    run()
    assert met["with it"] > met["networks"] / 2
    assert met["found"] == 3
    for given_, says in (
        (verify.case(jnp.tanh, "f32[3,5]"), "expected a layer of this protocol"),
        (verify.case(jbp.layers.Dense(100), "f32[3,5]"), r"makes \(3, 100\); expected an array of two axes"),
        (verify.case(jbp.layers.Dense(3), "f32[]"), "makes no floating array"),
    ):
        with pytest.raises(LookupError, match=says):
            find(verify.networks(layers=[given_]), lambda _: True)
