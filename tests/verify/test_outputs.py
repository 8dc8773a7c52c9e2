"""Reports as files: what the readers of each format demand."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from tests.storm import texts, told
from verify.__main__ import main
from verify.report import outputs, page
from verify.verdict import measure

pytestmark = pytest.mark.usefixtures("lenient")


@jax.custom_vjp
def cube(x):
    return x * x * x


cube.defvjp(lambda x: (x * x * x, x), lambda x, dy: ((3 * x * x * dy).at[-1].multiply(2),))


def plain(x):
    return x * x * x


def square(x):
    return x * x


@pytest.fixture(scope="module")
def reports():
    x = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        wrong = verify.check(cube, x, reference=plain, level="quick")
        right = verify.check(square, x, reference=lambda x: x**2, level="quick")
        unsure = verify.check(square, x, level="quick")
    odd = replace(right, subject='a <b> & "c" \x00', source=None)
    return [wrong, right, unsure, odd]


def test_verdicts(reports):
    assert [r.verdict for r in reports] == ["fail", "pass", "inconclusive", "pass"]
    assert outputs.verdict(reports) == "fail"
    assert outputs.verdict(reports[1:]) == "inconclusive"
    assert outputs.verdict([reports[1]]) == "pass"
    assert outputs.verdict([]) == "inconclusive"


def test_json_is_strict(reports):
    def refuse(word):
        raise AssertionError(word)

    infinite = replace(reports[0].findings[0], size=float("inf"))
    text = outputs.render([replace(reports[0], findings=(infinite,)), *reports[1:]], "json", "title")
    told = json.loads(text, parse_constant=refuse)
    assert told["verdict"] == "fail"
    assert told["reports"][0]["findings"][0]["size"] == "inf"
    assert {m["dtype"] for m in told["reports"][0]["measured"]} >= {"float64", "float32"}


def test_junit(reports):
    root = ElementTree.fromstring(outputs.render(reports, "junit", "a title"))
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "4",
        "1",
        "1",
        "0",
    )
    cases = list(suite)
    assert all(case.tag == "testcase" and case.get("name") and float(case.get("time") or -1) >= 0 for case in cases)
    assert [child.tag for case in cases for child in case] == ["failure", "system-out", "error", "system-out"]
    assert "FAIL: cube" in (cases[0][0].text or "")
    assert (cases[3].get("name") or "").startswith('a <b> & "c" ')


def test_sarif(reports):
    log = json.loads(outputs.render(reports, "sarif", "a title"))
    assert (log["version"], len(log["runs"])) == ("2.1.0", 1)
    run = log["runs"][0]
    driver = run["tool"]["driver"]
    assert driver["name"] == "verify"
    identifiers = [rule["id"] for rule in driver["rules"]]
    assert len(set(identifiers)) == len(identifiers)
    for result in run["results"]:
        assert identifiers[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
    (first,) = (r for r in run["results"] if r["level"] == "error")
    place = first["locations"][0]["physicalLocation"]
    assert Path(place["artifactLocation"]["uri"]).name == "test_outputs.py"
    assert place["region"]["startLine"] == measure.source(cube)[1]  # pyright: ignore[reportOptionalSubscript]
    assert first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "cube.x"


def test_a_report_is_a_page(reports):
    report = next(iter(reports))
    assert report.to_html() == page.html([report], report.subject)


def test_html_is_one_page_that_needs_nothing_else(reports):
    text = outputs.render(reports, "html", "audits of <cubes>")
    seen = texts.Balanced()
    seen.feed(text)
    seen.close()
    said = " ".join(seen.text)
    assert (seen.open, seen.loaded) == ([], [])
    assert "<script" not in text
    assert "audits of <cubes>" in said
    assert "1 fail" in said
    assert 'a <b> & "c"' in said
    for words in ("Error against dtype", "Error of each element", "What was tried", "signed zeros"):
        assert words in said


def test_a_heat_map_shows_the_wrong_row(reports):
    (heat,) = reports[0].heat
    errors = np.array(heat.rows)
    assert errors.shape == (3, 4)
    assert (errors[:2] < 1e-15).all()
    assert errors[2].max() > 0.1
    big = measure._blocks(np.arange(100.0 * 70).reshape(100, 70))
    assert big.shape == (24, 24)
    assert big[-1, -1] == 6999
    assert page.colour(float("nan")) == "#000"
    assert page.colour(0.0) == page.colour(1e-30) != page.colour(1.0) == page.colour(1e5)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "new" / "report.json"
    outputs.write(file, "first")
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            outputs.write(file, "second")
    assert file.read_text() == "first"
    assert [p.name for p in file.parent.iterdir()] == ["report.json"]
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(outputs.OutputError, match="expected a place"):
        outputs.write(tmp_path / "taken" / "report.json", "text")


def test_the_command_writes_each_format(tmp_path, capsys):
    files = [tmp_path / f"report{suffix}" for suffix in outputs.SUFFIXES]
    arguments = [part for file in files for part in ("--output", str(file))]
    me = f"{__file__}:"
    subject = [
        "function",
        f"{me}square",
        "--reference",
        f"{me}square_again",
        "--example",
        "f32[3]",
        "--level",
        "quick",
        "--here",
    ]
    assert main([*subject, *arguments]) == 0
    assert all(file.stat().st_size for file in files)
    capsys.readouterr()
    assert main([*subject, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    assert main([*subject, "--output", str(tmp_path / "report.pdf")]) == 2
    assert "expected a name that ends in" in capsys.readouterr().err


def square_again(x):
    return jnp.square(x)


@pytest.mark.parametrize("seed", range(3))
def test_strangers_texts_are_shown_and_not_read(seed):
    """Names, messages, paths and labels of anything at all, through the parsers of those who read the reports."""
    text, well = told.table(texts.texts(3, seed))
    assert well, text


@pytest.mark.parametrize("name", texts.READERS)
def test_each_reader_sees_what_is_not_escaped(name, monkeypatch):
    bare = lambda text: str(text)  # noqa: E731
    monkeypatch.setattr(outputs, "visible", bare)
    monkeypatch.setattr(page, "escape", bare)
    monkeypatch.setattr("verify.report.report.line", bare)
    monkeypatch.setattr("verify.cli.shell.visible", bare)
    assert not all(one.wrong == () for one in texts.texts(5, 0) if one.kind == name)
