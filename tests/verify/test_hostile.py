"""Code under audit that means harm, from the command line: no pass, no exit code 0, and the audits beside it go on."""

import json
import resource
import sys

import pytest

from tests.storm.subjects import package
from verify import __main__ as shell
from verify.__main__ import main
from verify.naming import tokens
from verify.report import outputs
from verify.report.report import Report

RULES = "exits_at_once", "exits", "raises_a_text", "hangs_in_python"


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    home = package(tmp_path / "home", RULES)
    monkeypatch.syspath_prepend(home)
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path


def test_a_scan_says_what_each_did(hostile, capsys):
    report, journal = hostile / "report.json", hostile / "journal"
    arguments = ["scan", "hostile", "--timeout", "12", "--output", str(report), "--journal", str(journal)]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "\x1b[2J" not in printed
    assert r"[/install] [bold]x[/] \x1b[2J \ud800 ]]> <script>" in printed
    reports = json.loads(report.read_text())["reports"]
    found = {r["subject"]: r for r in reports}
    told = {name: [f["message"] for f in r["findings"]] for name, r in found.items()}
    verdicts = {name: r["verdict"] for name, r in found.items()}
    assert verdicts["hostile.exits"] == verdicts["hostile.leaves"] == "inconclusive"
    assert verdicts.pop("hostile.rules:exits_at_once") == "fail"
    assert "it ended its process with exit code 0" in told["hostile.rules:exits_at_once"][0]
    assert verdicts["hostile.rules:hangs_in_python"] == "inconclusive"
    assert "no answer in 12 s" in told["hostile.rules:hangs_in_python"][0]
    assert sorted(r["verdict"] for r in reports if r["subject"] == "f") == ["fail", "fail", "pass"]
    done = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(done) == 1 + 3  # what gave a report is not audited again; what did not, is


def test_code_under_audit_is_not_imported_here(hostile):
    assert main(["function", "hostile.exits:f", "--example", "f32[2]"]) == 1  # it did end its process
    assert "hostile.exits" not in sys.modules


TOKEN = tokens.pack(["check", "os:system", None, [{"v": "true"}], 0, "quick"])
CODES = {
    "no such module": (["function", "nowhere:f", "--example", "f32[2]"], "could not run"),
    "a bad example": (["function", "jax.nn:relu", "--example", "f32[2"], "could not run"),
    "half a character": (["function", "jax.nn:\ud800", "--example", "f32[2]"], r"\ud800"),
    "no place": (["function", "jax.nn:relu", "--example", "f32[2]", "--output", "/dev/null/report.json"], "a place"),
    "no format": (["function", "jax.nn:relu", "--example", "f32[2]", "--output", "report.pdf"], "ends in"),
    "a token that imports": (["replay", TOKEN], "add --allow os"),
    "a journal that is none": (["layers", "--only", "Tanh", "--journal", "/dev/null"], "no file"),
}


@pytest.mark.parametrize("name", CODES)
def test_what_cannot_run_has_exit_code_2(name, capsys):
    arguments, words = CODES[name]
    assert main([*arguments, "--here"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_syntax_error_in_a_user_s_file_has_exit_code_2(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("def f(:\n")
    assert main(["function", f"{tmp_path / 'broken.py'}:f", "--example", "f32[2]", "--here"]) == 2
    assert "broken.py" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", str(2**32)], ["--timeout", "0"], ["--jobs", "0"]])
def test_a_number_out_of_range_has_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(["networks", *arguments])
    assert left.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(0), RuntimeError("\ud800")])
def test_a_crash_is_not_a_finding(error, monkeypatch, capsys):
    def crashes(options):
        raise error

    crashes.__name__ = "replay"
    monkeypatch.setattr(shell.commands, "replay", crashes)
    assert main(["replay", "word"]) == 2
    capsys.readouterr()


def test_finished_audits_are_kept_where_the_rest_is_interrupted(tmp_path, monkeypatch, capsys):
    file = tmp_path / "report.json"
    file.write_text("of yesterday")
    passed = Report("f", "pass", (), "reference", "", {}, (), 1, 0.0)

    def interrupted():
        with outputs.Places([file], None, "audits") as places:
            places.add(passed)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "of yesterday"
    held = json.loads((tmp_path / "report.json.partial").read_text())
    assert held["verdict"] == "inconclusive"  # what was audited passed, and that is not all
    assert [r["subject"] for r in held["reports"]] == ["f", "what was not audited"]
    with outputs.Places([file], None, "audits") as places:
        places.add(passed)
    assert json.loads(file.read_text())["verdict"] == "pass"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # a disk that is full
    try:
        with pytest.raises(outputs.OutputError):
            outputs.write(file, "more than fits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert json.loads(file.read_text())["verdict"] == "pass"
