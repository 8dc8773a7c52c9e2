"""Tokens, journals and the corpus: what failed once can be run again, what was interrupted goes on."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbp
import verify
from verify.__main__ import main
from verify.architectures import campaign, chapters
from verify.naming import tokens
from verify.processes.journal import Book, JournalError

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus.txt")

WRONG = """
import jax


@jax.custom_vjp
def wrong(x, n, more):
    return n * x * more["a"]


def plain(x, n, more):
    return n * x * more["a"]


def forward(x, n, more):
    return wrong(x, n, more), (x, n, more)


def backward(kept, dy):
    x, n, more = kept
    return 2 * n * more["a"] * dy, None, {"a": n * x * dy}


wrong.defvjp(forward, backward)
"""


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    (tmp_path / "of_a_stranger.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    import of_a_stranger  # pyright: ignore[reportMissingImports]

    yield of_a_stranger
    del sys.modules["of_a_stranger"]


def test_a_finding_is_replayed_in_a_fresh_process(wrong, tmp_path, lenient):
    args = np.float32([1.5, -2.25]), 3.0, {"a": np.float32([0.5, 4.0])}
    report = verify.check(wrong.wrong, *args, reference=wrong.plain, level="quick", seed=5)
    (finding,) = report.errors
    *command, token, allow, module = finding.replay.split()
    assert [*command, allow, module] == ["python", "-m", "verify", "replay", "--allow", "of_a_stranger"]
    done = subprocess.run(
        [sys.executable, *command[1:], token, allow, module],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "constant factor 2" in done.stdout
    (_, f, reference, told, seed, level) = tokens.unpack(token)
    assert (f, reference, seed, level) == ("of_a_stranger:wrong", "of_a_stranger:plain", 5, "quick")
    again = [tokens._meant(t, np.random.default_rng(0)) for t in told]
    assert again[1] == 3.0
    np.testing.assert_array_equal(again[0], args[0])
    np.testing.assert_array_equal(again[2]["a"], args[2]["a"])


def test_what_has_no_name_has_no_token():
    assert tokens.token(lambda x: x, (np.zeros(2),), None, 0, "quick") == ""
    assert tokens.token(jnp.sin, (object(),), None, 0, "quick") == ""


def test_arguments_of_each_kind_survive():
    key = jax.random.key(3)
    args = (np.arange(6).reshape(2, 3), jnp.ones(2, jnp.bfloat16), True, None, "mean", [1, (2.5,)], key)
    back = [tokens._meant(tokens._told(a), np.random.default_rng(0)) for a in args]
    np.testing.assert_array_equal(back[0], args[0])
    assert back[1].dtype == jnp.bfloat16
    assert back[2:6] == [True, None, "mean", [1, (2.5,)]]
    assert jnp.array_equal(jax.random.key_data(back[6]), jax.random.key_data(key))
    large = tokens._meant(tokens._told(np.full((40, 40), 7, np.int32)), np.random.default_rng(0))
    assert (large.shape, large.dtype) == ((40, 40), np.int32)
    assert large.max() <= 7


def test_a_layer_is_held_by_its_program():
    held = tokens.unpack(tokens.token(jbp.layers.Dense(3), (np.zeros((2, 3), np.float32),), None, 0, "quick"))
    assert held[1] == {"catalogue": "jbp", "layer": "Dense(3)"}
    assert tokens._found(held[1], ()) == jbp.layers.Dense(3)


@pytest.mark.parametrize("word", tokens.corpus(CORPUS))
def test_what_was_mended_stays_mended(word, lenient):
    assert main(["replay", word, "--here"]) == 0


def test_a_file_of_tokens(tmp_path, capsys):
    file = tmp_path / "none.txt"
    file.write_text("# nothing yet\n")
    assert main(["replay", str(file), "--here"]) == 2
    file.write_text("not-a-token  # a remark\n")
    assert main(["replay", str(file), "--here"]) == 2
    assert "expected a token" in capsys.readouterr().err


def test_an_interrupted_campaign_goes_on(tmp_path, monkeypatch):
    journal = tmp_path / "journal"
    monkeypatch.setattr(chapters, "FIRST", 2)
    monkeypatch.setattr(campaign, "pairs", lambda length: 8)
    whole = campaign.run(6, 1)

    def interrupt(tally):
        if tally.networks >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign.run(6, 1, watch=interrupt, journal=journal)
    with journal.open("a") as out:
        out.write('{"part": "[[2, 2], {\\"netw')  # the power went off here
    drawn, seen = [], []
    chapter = campaign.chapter
    monkeypatch.setattr(campaign, "chapter", lambda *part: drawn.append(part[2]) or chapter(*part))
    told = []
    resumed = campaign.run(6, 1, watch=lambda tally: seen.append(tally.networks), journal=journal, say=told.append)
    assert "1 torn line" in told[0]
    assert drawn == [2]
    assert seen == [2, 4, 6]
    assert (resumed.layers, resumed.forms, resumed.pairs) == (whole.layers, whole.forms, whole.pairs)
    assert len(journal.read_text().splitlines()) == 5
    with pytest.raises(JournalError, match="Give each campaign a file of its own"):
        campaign.run(6, 2, journal=journal)
    journal.write_text(json.dumps({"something": "else"}) + "\n")
    with pytest.raises(JournalError, match="expected the journal"):
        campaign.run(6, 1, journal=journal)


def test_failures_are_kept_in_the_journal(tmp_path):
    journal = tmp_path / "journal"
    failure = campaign.Failure("Dense(1)", ("it",), ("dx: off",), "token")
    tally = campaign.Tally(networks=1, failures=[failure])
    tally.pairs[("Dense", "Tanh")] = 2
    book = Book(journal, ["jbp", 0, 50], {}, lambda part: part, campaign._told, campaign._meant)
    assert list(campaign.resumed(None, lambda *part: tally, [(0, 1)], book)) == [((0, 1), tally)]
    assert list(campaign.resumed(None, pytest.fail, [(0, 1)], book)) == [((0, 1), tally)]  # nothing is left to be run
