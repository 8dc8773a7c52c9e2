"""The mutation engine: it changes the backward pass and nothing else, and what it changes is noticed."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

import jbp
from verify.__main__ import main
from verify.architectures.networks import Array, Network, values
from verify.architectures.protocol import nodes
from verify.cli import counts
from verify.mutation import by_networks, mutants
from verify.mutation.mutate import apply, backward_pass, mutants as mistakes
from verify.naming.catalogues import catalogue
from verify.processes.journal import JournalError

KINDS = list(dict.fromkeys(type(c.layer) for c in (*catalogue().layers, *catalogue().losses)))
X = Array((3, 8))


def gradients(layer, params, residuals, dy):
    return jax.tree.leaves(layer.pull(params, residuals, dy))


@pytest.mark.parametrize("layer", [jbp.layers.GELU(), jbp.layers.LayerNorm(), jbp.layers.SwiGLU(), jbp.layers.Dense(3)])
def test_forward_is_the_same_and_without_a_mistake_so_is_the_backward_pass(layer):
    params, x, rng = values(Network(layer, X, 0))
    y, residuals = layer.forward(params, x)
    dy = rng.normal(size=y.shape)
    for mutant in (None, *mistakes(type(layer))[::7]):
        other = apply(layer, mutant)
        np.testing.assert_array_equal(other.forward(params, x)[0], y)
        np.testing.assert_array_equal(other.reference(params, x), layer.reference(params, x))
        if mutant is None:
            for a, b in zip(
                gradients(other, params, residuals, dy), gradients(layer, params, residuals, dy), strict=True
            ):
                np.testing.assert_array_equal(a, b)
    assert backward_pass(type(layer))[0].name.endswith("backward")


def test_every_layer_can_be_mutated_by_many_rules():
    found = {kind.__name__: mistakes(kind) for kind in KINDS}
    assert all(found.values())
    rules = Counter(m.rule for several in found.values() for m in several)
    assert min(rules.values()) >= 10
    assert set(rules) >= {
        "sign", "factor", "operands swapped", "off by one", "term dropped", "slice", "comparison flipped",
        "residuals swapped", "operand transposed", "call dropped",
    }  # fmt: skip
    assert sum(map(len, found.values())) > 4000


@pytest.mark.slow
def test_all_mutants_die():
    told = mutants.summary(mutants.run(mutants.choose("jbp", ("Tanh", "Logits"), 12, 0)))
    assert told["survivors"] == []
    assert told["killed"] >= 8
    assert told["share killed"] == 1


def test_a_mutant_that_changes_nothing_survives_unless_a_person_gives_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "MOST", 0)  # the strongest judge takes seconds
    (number,) = (k for k, kind in enumerate(KINDS) if kind is jbp.layers.CELU)
    (mutant,) = (m for m in mistakes(jbp.layers.CELU) if m.after == "kept >= 0")
    assert mutants.judge("jbp", number, mutant) == ("survived", "")
    file = tmp_path / "equivalents.toml"
    file.write_text('[[equivalent]]\nmutant = "CELU: *: `kept > 0` -> `kept >= 0`"\nreason = "continuous"\n')
    assert mutants.judge("jbp", number, mutant, mutants._reasons(file)) == ("equivalent", "continuous")
    file.write_text("[[equivalent]]\nmutant = 3")
    with pytest.raises(mutants.MutantsError, match="expected TOML tables"):
        mutants._reasons(file)


def test_random_networks_judge_a_mutant_and_what_they_miss_is_told_apart(monkeypatch):
    for name, few in {"AROUND": 4, "WORDS": 12, "DRAWN": 60, "TIMES": 2, "KEPT": 12}.items():
        monkeypatch.setattr(by_networks, name, few)
    kind = jbp.layers.Softsign
    held = by_networks.holding("jbp", kind)
    assert held
    assert all(any(type(node) is kind for _, node in nodes(net.layer)) for net in held)
    wrong = next(m for m in mistakes(kind) if m.rule == "sign")
    same = next(m for m in mistakes(kind) if "astype" in m.before and m.rule == "call dropped")
    assert by_networks.judged("jbp", wrong)[0] == "killed"
    assert by_networks.judged("jbp", same) == ("survived", len(held))
    residual = next(m for m in mistakes(jbp.Residual) if m.function == "Residual.pull" and m.rule == "sign")
    assert by_networks.judged("jbp", residual)[0] == "killed"
    alone = mutants.Fate("Softsign", "a", "sign", 1, "killed", f"{mutants.ALONE}dtypes")
    told = mutants.summary([alone, mutants.Fate("Softsign", "b", "sign", 1, "killed", mutants.NETWORKS)])
    assert told["only the layer alone"] == ["a: dtypes"]
    assert "Random networks alone kill 50.0 %" in counts._table(told)


def test_what_is_in_the_journal_is_not_done_again(tmp_path, monkeypatch):
    journal, parts = tmp_path / "journal", mutants.choose("jbp", ("Sigmoid", "Tanh"), 6, 0)
    by = iter(["first", "again"])

    def batch(name, number, chosen, reasons, way):
        said = next(by)
        return [mutants.Fate(str(number), str(i), "sign", i, "killed", said) for i in chosen]

    monkeypatch.setattr(mutants, "batch", batch)

    def interrupt(new):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mutants.run(parts, watch=interrupt, journal=journal)
    found = mutants.run(parts, journal=journal)
    assert len(found) == 6
    assert {f.layer for f in found if f.by == "first"} == {str(parts[0][0])}
    with pytest.raises(JournalError, match="Give each campaign a file of its own"):
        mutants.run(parts, name="another", journal=journal)


def test_the_command(tmp_path, capsys):
    table, told = tmp_path / "mutants.md", tmp_path / "mutants.json"
    files = ["--output", str(table), "--output", str(told)]
    assert main(["mutants", "--only", "Sigmoid", "--count", "5", "--here", *files]) == 0
    assert re.search(r"5 mutants of 1 layers: ([1-5]) killed of \1 mistakes, 100.00 %", capsys.readouterr().out)
    assert "| Sigmoid |" in table.read_text()
    assert '"share killed": 1.0' in told.read_text()
    assert main(["mutants", "--only", "Nothing", "--here"]) == 2


def test_it_does_not_import_what_it_breaks():
    lines = "import verify.mutation.mutate, verify.mutation.mutants, sys; sys.exit('jbp' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", lines], cwd=root, check=False).returncode == 0
