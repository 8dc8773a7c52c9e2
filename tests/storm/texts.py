"""Texts of strangers through every report: the parsers of those who read it take it, and nothing in it is obeyed.

What JUnit's and SARIF's schemas demand is written here in checks of our own.
"""

import io
import json
import random
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from rich.console import Console

from tests.storm.told import Tried
from verify.cli import shell
from verify.report import outputs
from verify.report.report import Canary, Finding, Heat, Measured, Report

PIECES = (
    "]]>", "<script>alert(1)</script>", "</td>", "<!--", "-->", "&lt;", "\x1b[31m", "\x00", "\x0b", "\r\n", "\ud800",
    "\udfff", "\ufffe", "\u202e", "\u2028", '"', "'", "`", "[/bold]", "[red]", "%", "{", "\\", "é", "日本",
    "\U0001f600", "\n", "\t", "<?xml", "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", "&b;", "javascript:",
    "<img src=x onerror=alert(1)>", "\x85", "\x9b31m", "\ufeff", "://", "..", "/", "#", "?", "::error::", "PASS: f",
    "\nPASS: f\n", "</script>", "<style>", "=cmd|' /C calc'!A0", "\x7f", "\u200b", "A" * 3000,
)  # fmt: skip
VOID = "meta", "br", "link", "hr", "img", "input"


class Balanced(HTMLParser):
    """Whether each tag that is opened is closed, what is loaded from elsewhere, and which tags there are."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.text, self.tags, self.policies = [], [], [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        held = dict(attrs)
        self.loaded += [v for k, v in attrs if k in ("src", "href", "action") and v and not v.startswith("#")]
        self.loaded += [k for k, _ in attrs if k.startswith("on")]
        if tag == "meta" and held.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(held.get("content"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def stranger(rng: random.Random, folder: str = "/tmp") -> tuple[Report, str]:
    """(a report of which every text is a stranger's, a title)."""
    text = lambda: "=".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 12)))  # noqa: E731
    verdict = rng.choice(["fail", "fail", "pass", "inconclusive"])
    severity = {"fail": "error", "pass": "note", "inconclusive": "warning"}[verdict]
    finding = Finding(text(), severity, text(), rng.choice([1.0, float("inf"), float("nan")]), text(), text(), text())
    made = Report(
        text(), verdict, (finding,), text(), text(), {"inputs": [text(), text()], text(): text()},
        (Canary(text(), text(), text(), "survived", text()),), 1, 0.5,
        (Measured(text(), "float64", text(), text(), 0.1, 1e-9, True),), (Heat(text(), text(), (1, 1), ((0.5,),)),),
        (f"{folder}/{text()}".replace("\x00", ""), rng.choice([3, 0, -1])) if rng.random() < 0.8 else None,
    )  # fmt: skip
    return made, text()


def html(reports: list[Report], title: str) -> None:
    """One page that is well formed, loads and runs nothing, and says so in its policy."""
    text = outputs.render(reports, "html", title)
    seen = Balanced()
    seen.feed(text)
    seen.close()
    assert (seen.open, seen.loaded) == ([], []), (seen.open, seen.loaded)
    assert not seen.tags & {"script", "img", "iframe", "object", "embed", "form", "base"}, seen.tags
    assert len(seen.policies) == 1, seen.policies
    assert "default-src 'none'" in seen.policies[0], seen.policies
    text.encode()


def junit(reports: list[Report], title: str) -> None:
    """<testsuites> of <testsuite>s of <testcase>s, with the counts that their attributes say."""
    root = ElementTree.fromstring(outputs.render(reports, "junit", title).encode())
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "time"} <= set(suite.attrib)
        cases = list(suite)
        assert len(cases) == int(suite.attrib["tests"]) == len(reports)
        for case in cases:
            assert case.tag == "testcase"
            assert {"name", "classname", "time"} <= set(case.attrib)
            assert float(case.attrib["time"]) >= 0
            assert [c.tag for c in case] in (["failure"], ["error"], ["system-out"])
            assert not [grandchild for child in case for grandchild in child]
            for child in case:
                assert set(child.attrib) <= {"message", "type"}
        for tag, name, verdict in (("failure", "failures", "fail"), ("error", "errors", "inconclusive")):
            counted = len(suite.findall(f"testcase/{tag}"))
            assert counted == int(suite.attrib[name]) == sum(r.verdict == verdict for r in reports)


def sarif(reports: list[Report], title: str) -> None:
    """What SARIF 2.1.0 demands: a version, runs with a tool whose driver has a name, results with a message ..."""
    log = strict(outputs.render(reports, "sarif", title))
    assert log["version"] == "2.1.0"
    assert urlsplit(log["$schema"]).scheme == "https"
    assert set(log) <= {"$schema", "version", "runs", "properties"}
    for run in log["runs"]:
        driver = run["tool"]["driver"]
        assert isinstance(driver["name"], str)
        assert driver["name"]
        rules = [rule["id"] for rule in driver["rules"]]
        assert len(set(rules)) == len(rules)
        assert all(isinstance(rule["shortDescription"]["text"], str) for rule in driver["rules"])
        for result in run["results"]:
            assert result["level"] in ("none", "note", "warning", "error")
            assert isinstance(result["message"]["text"], str)
            assert result["message"]["text"]
            assert rules[result["ruleIndex"]] == result["ruleId"]
            for location in result["locations"]:
                for logical in location["logicalLocations"]:
                    assert isinstance(logical["fullyQualifiedName"], str)
                if physical := location.get("physicalLocation"):
                    uri = physical["artifactLocation"]["uri"]
                    assert uri.isascii()
                    assert not set(uri) & set(' "<>\\^`{|}'), uri
                    assert urlsplit(uri).scheme in ("", "file")
                    assert physical["region"]["startLine"] >= 1


def strict(text: str) -> Any:
    """JSON without what its standard has no word for, NaN and halves of characters among them."""

    def refuse(word):
        raise AssertionError(word)

    held = json.loads(text, parse_constant=refuse)
    json.dumps(held, ensure_ascii=False).encode()
    return held


def terminal(reports: list[Report], title: str) -> None:
    """Lines of printable characters, of which only the first says a verdict, and as many of them as there are."""
    for report in reports:
        lines = str(report).split("\n")
        assert all(c.isprintable() for line in lines for c in line)
        assert not any(line.startswith(("PASS", "FAIL", "INCONCLUSIVE")) for line in lines[1:])
        console = Console(record=True, file=io.StringIO(), force_terminal=False, width=10_000)
        shell.show(report, console)
        shown = console.export_text()
        assert "\x1b" not in shown
        assert shown.rstrip("\n") == str(report).rstrip("\n")
    outputs.render(reports, "text", title).encode()


def json_(reports: list[Report], title: str) -> None:
    """Strict JSON, out of which the report is read back."""
    assert len(strict(outputs.render(reports, "json", title))["reports"]) == len(reports)
    for report in reports:
        again = Report.from_json(report.to_json())
        assert repr(again) == repr(report)  # NaN is not NaN


READERS = {"html": html, "junit": junit, "sarif": sarif, "terminal": terminal, "json": json_}


def texts(count: int, seed: int) -> Iterator[Tried]:
    """`count` reports of strangers' texts through each reader, and into a file."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        for k in range(count):
            reports, titles = zip(*(stranger(rng) for _ in range(rng.randrange(1, 3))), strict=True)
            for name, read in READERS.items():
                wrong = []
                try:
                    read(list(reports), titles[0])
                    form = "text" if name == "terminal" else name
                    outputs.write(Path(place) / "report", outputs.render(list(reports), form, titles[0]))
                except Exception as error:  # noqa: BLE001 - what a parser raises is what is looked for
                    wrong.append(f"{type(error).__name__}: {str(error)[:300]}")
                yield Tried(name, f"report {k} of seed {seed}", tuple(wrong))
