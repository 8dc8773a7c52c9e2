"""The harness of the benchmarks: what it records, and that it refuses a race between different functions."""

import json
from itertools import pairwise

import jax
import pytest

from benchmarks import __main__ as command
from benchmarks.contests import JAX, OURS, Contest, both_passes, normal
from benchmarks.page import slopes, summary
from benchmarks.race import Compiled, Lap, race, ratio
from benchmarks.workloads import Workload, workloads
from jbp.layers import Softmax, Tanh


@pytest.fixture(autouse=True)
def _as_a_command(lenient):
    """The command runs without float64, as its user does."""


KEYS = {"workload", "peer", "device", "time_ratio", "temp_ratio", "flops_ratio", "error_ratio", "compile_ratio"}


def test_a_record_says_what_is_compared():
    workload = Workload("softmax", "layer", lambda: both_passes(Softmax(), normal(8, 16)))
    (record,) = command.measure(workload, 0.01, "cpu")
    assert record.keys() >= KEYS
    assert record["peer"] == JAX
    assert record["time_ratio"] > 0
    assert all(error < 1e-5 for error in record["errors"])


def test_a_race_between_different_functions_is_refused():
    workload = Workload("wrong", "layer", lambda: both_passes(Tanh(), normal(8, 16), lambda params, x: x))
    with pytest.raises(ValueError, match="a race between different functions"):
        command.measure(workload, 0.01, "cpu")


def test_a_peer_that_cannot_run_is_recorded_with_its_error():
    def broken():
        raise RuntimeError("no such thing")

    ways = {OURS: jax.numpy.sin, JAX: jax.numpy.sin}
    contest = Contest((normal(4),), ways, others={"Other": broken})
    failed, _ = command.measure(Workload("w", "layer", lambda: contest), 0.01, "cpu")
    assert failed["peer"] == "Other"
    assert failed["failed"] == "RuntimeError: no such thing"


def test_ratios_are_taken_pair_by_pair():
    assert ratio(Lap([1.0, 2.0, 3.0, 4.0]), Lap([2.0, 4.0, 6.0, 8.0])) == (0.5, 0.5, 0.5)


def test_no_contender_always_runs_after_the_same_one(monkeypatch):
    """One whose threads spin on after it is done would slow down none but its follower."""
    monkeypatch.setattr("benchmarks.race.ROUND", 0.0)
    names, ran = "abcd", []
    race({name: Compiled(lambda name=name: ran.append(name), Lap([])) for name in names}, 0.0, rounds=30)
    assert all({b for one, b in pairwise(ran) if one == a} >= set(names) - {a} for a in names)


def test_the_slope_of_a_cost_curve():
    records = [
        {"peer": JAX, "grows": ["width", n], "seconds": [n**2, n**3], "group": "growth", "time_ratio": 1 / n}
        for n in (2, 4, 8)
    ]
    assert slopes(records)["width"] == pytest.approx((2, 3))
    assert "its power 2.00, that of jax.grad 3.00" in summary(records)[-1]


def test_names_are_unique():
    names = [w.name for w in workloads()]
    assert len(names) == len(set(names))


def test_the_command_writes_records_a_table_and_a_figure(tmp_path, monkeypatch, capsys):
    chosen = [Workload("tanh", "layer", lambda: both_passes(Tanh(), normal(8, 16)), aim=1e-9)]
    monkeypatch.setattr(command, "workloads", lambda: chosen)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--seconds", "0.01", "--json", str(tmp_path / "cpu.json")])
    assert command.main() == 0
    (record,) = json.loads((tmp_path / "cpu.json").read_text())
    assert record["workload"] == "tanh"
    assert "| tanh | jax.grad |" in (tmp_path / "cpu.md").read_text()
    assert (tmp_path / "cpu.png").stat().st_size > 1000
    assert "behind their aims: tanh" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["benchmarks", "--only", "nothing of the kind"])
    assert command.main() == 2


def test_a_workload_that_fails_is_told_and_the_others_go_on(monkeypatch, capsys):
    def broken():
        raise RuntimeError("no room")

    chosen = [
        Workload("broken", "layer", broken),
        Workload("tanh", "layer", lambda: both_passes(Tanh(), normal(8, 16))),
    ]
    monkeypatch.setattr(command, "workloads", lambda: chosen)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--seconds", "0.01"])
    assert command.main() == 1
    said = capsys.readouterr().out
    assert "RuntimeError: no room" in said
    assert "tanh" in said
