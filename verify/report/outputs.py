"""Reports as files that other programs read: JSON, JUnit XML, SARIF, and one page of HTML. Whole files or none."""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from verify.report import page
from verify.report.escape import line, visible
from verify.report.report import Finding, Report

LAWS = {
    "structure": "Each cotangent has the tree, the shape and the dtype of its argument.",
    "dense": "Every element of every cotangent is the true one, at every input.",
    "value": "The output is the definition's.",
    "linear": "The backward pass is linear in the cotangent.",
    "zero": "A zero cotangent gives zero.",
    "adjoint": "The backward pass is the transpose of the derivative.",
    "pure": "The same call gives the same result.",
    "eager": "Compiled or not, the result is the same.",
    "vmap": "Under vmap the result is that of a loop.",
    "halves": "backward and gradient give what pull gives.",
    "precision": "In lower precision the error is no larger than the definition's; float64 kept forth is kept back.",
    "finite": "The cotangents are finite where the definition's are.",
    "kink": "At a kink the result lies between the one-sided derivatives.",
    "runs": "The backward pass runs where the forward pass does.",
    "oracle": "What the results were compared with.",
}
SUFFIXES = {".json": "json", ".xml": "junit", ".sarif": "sarif", ".html": "html", ".txt": "text"}


class OutputError(ValueError):
    """A file that cannot be written, or whose name does not say in which format."""


def verdict(reports: list[Report]) -> str:
    """The worst of all: "fail", else "inconclusive", else "pass". Nothing audited is inconclusive."""
    return worst([r.verdict for r in reports])


def worst(verdicts: list[str]) -> str:
    """The worst of these: without any it is "inconclusive"."""
    return "fail" if "fail" in verdicts else "pass" if {*verdicts} == {"pass"} else "inconclusive"


def render(reports: list[Report], form: str, title: str) -> str:
    """The reports in one of FORMATS."""
    return FORMATS[form](reports, title)


def form_of(file: Path) -> str:
    """The format that a file's name says. Raises OutputError for another suffix."""
    if file.suffix.lower() not in SUFFIXES:
        raise OutputError(f"got {str(file)!r}; expected a name that ends in {', '.join(SUFFIXES)}, or --format.")
    return SUFFIXES[file.suffix.lower()]


def write(file: Path, text: str) -> None:
    """text as the file, whole or not at all: a reader never sees half of it. Raises OutputError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, made = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except (OSError, ValueError) as error:
        raise OutputError(f"got {str(file)!r}; expected a place that can be written to. ({error})") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)
        os.replace(made, file)
    except OSError as error:
        Path(made).unlink(missing_ok=True)
        raise OutputError(f"got {str(file)!r}; expected a place that can be written to. ({error})") from error
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise


class Places:
    """The files that reports go to: tried when this is entered, before the work. What is there so far stands beside
    each of them under its name and `.partial`, and takes its place at the end; what is interrupted keeps that.

    Raises OutputError for a name that says no format, and for a place that cannot be written.
    """

    def __init__(self, files: list[Path], form: str | None, title: str):
        self.forms = {file: form or form_of(file) for file in files}
        self.title, self.reports, self.due = title, list[Report](), 0.0

    def __enter__(self) -> "Places":
        self._keep("begun")
        return self

    def add(self, report: Report) -> None:
        self.reports.append(report)
        if self.forms and time.monotonic() >= self.due:
            begun = time.monotonic()
            self._keep("so far")
            self.due = time.monotonic() + max(2.0, 20 * (time.monotonic() - begun))

    def _keep(self, how: str) -> None:
        """What there is, beside each file; that is not all, and is not a pass."""
        missing = Finding("runs", "note", "", 0.0, "", "", f"{how}: not everything was audited")
        rest = Report("what was not audited", "inconclusive", (missing,), "none", "nothing ran", {}, (), 0, 0.0)
        for file, form in self.forms.items():
            write(_partial(file), render([*self.reports, rest], form, f"{self.title} ({how})"))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            with suppress(OutputError):
                self._keep("interrupted")
            return
        reports = sorted(self.reports, key=lambda r: r.subject)
        for file, form in self.forms.items():
            write(file, render(reports, form, self.title))
            _partial(file).unlink(missing_ok=True)


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")


def _text(reports: list[Report], title: str) -> str:
    return "\n".join([*(report.details() for report in reports), f"{line(title)}: {verdict(reports)}\n"])


def plain(value: Any) -> Any:
    """The value with strings for what JSON has no word for, inf and nan, and without halves of characters."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {visible(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float) else visible(value)


def _json(reports: list[Report], title: str) -> str:
    held = plain({"title": title, "verdict": verdict(reports), "reports": [asdict(r) for r in reports]})
    return json.dumps(held, indent=1) + "\n"


def _junit(reports: list[Report], title: str) -> str:
    counts = {
        "tests": str(len(reports)),
        "failures": str(sum(r.verdict == "fail" for r in reports)),
        "errors": str(sum(r.verdict == "inconclusive" for r in reports)),
        "time": f"{sum(r.seconds for r in reports):.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": visible(title), **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": visible(title), **counts, "skipped": "0"})
    for report in reports:
        named = {"classname": "verify", "name": visible(report.subject), "time": f"{report.seconds:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", named)
        if report.verdict != "pass":
            said = visible("; ".join(f.message for f in report.errors) or "the checks could not tell")
            tag = "failure" if report.verdict == "fail" else "error"
            told = ElementTree.SubElement(case, tag, {"message": said, "type": report.verdict})
        else:
            told = ElementTree.SubElement(case, "system-out")
        told.text = visible(report.details())
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _sarif(reports: list[Report], title: str) -> str:
    """SARIF 2.1.0, as code-scanning services read it."""
    used = list(dict.fromkeys([*LAWS, *(f.law for r in reports for f in r.findings), "inconclusive"]))
    rules = [{"id": law, "shortDescription": {"text": LAWS.get(law, law)}} for law in used]
    results = []
    for report in reports:
        told = [(f.law, f.severity, _message(f), f.where) for f in report.findings]
        if report.verdict == "inconclusive":
            told.append(("inconclusive", "warning", "the checks could not tell whether the gradient is right", ""))
        for law, level, message, where in told:
            results.append(
                {
                    "ruleId": law,
                    "ruleIndex": used.index(law),
                    "level": level,
                    "message": {"text": f"{report.subject}: {message}"},
                    "locations": [_location(report, where)],
                }
            )
    driver = {"name": "verify", "version": _version(), "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "automationDetails": {"id": title}}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps(plain({"$schema": schema, "version": "2.1.0", "runs": [run]}), indent=1) + "\n"


def _version() -> str:
    try:
        return version("jbp")
    except PackageNotFoundError:
        return "0"


def _message(finding: Finding) -> str:
    kind = f" [{finding.diagnosis}]" if finding.diagnosis else ""
    return f"{finding.where + ': ' if finding.where else ''}{finding.message}{kind}"


def _location(report: Report, where: str) -> dict[str, Any]:
    name = f"{report.subject}.{where}" if where else report.subject
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": name, "kind": "function"}]}
    if report.source:
        file, number = report.source
        path = Path(visible(file))
        here = path.is_relative_to(Path.cwd())
        uri = quote(path.relative_to(Path.cwd()).as_posix()) if here else path.absolute().as_uri()
        location["physicalLocation"] = {"artifactLocation": {"uri": uri}, "region": {"startLine": max(number, 1)}}
    return location


FORMATS: dict[str, Callable[[list[Report], str], str]] = {
    "text": _text,
    "json": _json,
    "junit": _junit,
    "sarif": _sarif,
    "html": page.html,
}
