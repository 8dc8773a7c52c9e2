"""What an audit found, for people, for programs and for tests."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from verify.report.escape import line


class AuditError(AssertionError):
    """The audit did not pass."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong ("error") or worth knowing ("note").

    law: which check; where: the argument and leaf; size: the error relative to the largest element of the truth;
    diagnosis: the kind of mistake, or "unknown"; replay: a program that shows it again; message: all of it in words;
    inputs: those at which it was seen; waiver: the name of the reason for which it does not count, "" if there is none.
    """

    law: str
    severity: str
    where: str
    size: float
    diagnosis: str
    replay: str
    message: str
    inputs: tuple[str, ...] = ()
    waiver: str = ""

    def __str__(self):
        place = f" {self.where}" if self.where else ""
        kind = f" [{self.diagnosis or self.waiver}]" if self.diagnosis or self.waiver else ""
        return line(f"{self.severity}: {self.law}{place}: {self.message}{kind}")


@dataclass(frozen=True)
class Canary:
    """A wrong backward made from the subject's own, and what became of it: "killed", "survived" or "equivalent".

    needed: the input with which a survivor would have been caught.
    """

    law: str
    name: str
    where: str
    fate: str
    needed: str = ""


@dataclass(frozen=True)
class Measured:
    """The error of one leaf's cotangent at one kind of input in one dtype, and what is allowed, both relative."""

    leaf: str
    dtype: str
    input: str
    shapes: str
    error: float
    allowed: float
    ordinary: bool


@dataclass(frozen=True)
class Heat:
    """The relative error of each element of a leaf where it is worst, in rows; large leaves in blocks, by the worst."""

    leaf: str
    input: str
    shape: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Report:
    """The outcome of one audit. verdict is "pass" only where the checks that ran have killed their canaries."""

    subject: str
    verdict: str
    findings: tuple[Finding, ...]
    oracle: str
    strength: str
    tried: dict[str, Any]
    canaries: tuple[Canary, ...]
    checks: int
    seconds: float
    measured: tuple[Measured, ...] = ()
    heat: tuple[Heat, ...] = ()
    source: tuple[str, int] | None = None  # file and line of the subject, where it has one

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    def raise_if_failed(self) -> None:
        """AuditError with the whole report unless the verdict is "pass"."""
        if self.verdict != "pass":
            raise AuditError(str(self))

    def to_html(self) -> str:
        """A page, which loads nothing from elsewhere: what was found, how large the errors are and where."""
        from verify.report.page import html  # which is about reports

        return html([self], self.subject)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report of which this is the `to_json`."""
        held = json.loads(text)
        kinds = {"findings": Finding, "canaries": Canary, "measured": Measured}
        held |= {name: tuple(kind(**row) for row in held[name]) for name, kind in kinds.items()}
        held["findings"] = tuple(replace(f, inputs=tuple(f.inputs)) for f in held["findings"])
        rows = lambda h: tuple(map(tuple, h["rows"]))  # noqa: E731
        held["heat"] = tuple(Heat(h["leaf"], h["input"], tuple(h["shape"]), rows(h)) for h in held["heat"])
        return cls(**held | {"source": tuple(held["source"]) if held["source"] else None})

    def __str__(self):
        """The verdict, what is wrong, what was assumed, how much was not counted, and last what was tried."""
        return self._told(self._waived())

    def details(self) -> str:
        """The report, with each finding that was not counted."""
        return self._told([f"  {finding}" for finding in self.findings if finding.waiver])

    def _waived(self) -> list[str]:
        waived = [f for f in self.findings if f.waiver]
        if not waived:
            return []
        names, inputs = sorted({f.waiver for f in waived}), {i for f in waived for i in f.inputs}
        at = f"at {len(inputs)} {'input' if len(inputs) == 1 else 'inputs'}, " if inputs else ""
        return [f"  not counted: {at}{' '.join(names)} (verify explain {names[0]}; report.details() or -v lists them)"]

    def _told(self, waived: list[str]) -> str:
        killed = sum(c.fate == "killed" for c in self.canaries)
        survived = [c for c in self.canaries if c.fate == "survived"]
        lines = [f"{self.verdict.upper()}: {self.subject}"]
        lines += [f"  {finding}" for finding in self.errors]
        lines += [f"  survived: {c.name} ({c.law}) {c.where}; needed: {c.needed}" for c in survived]
        if assumed := self.tried.get("assumed"):
            lines.append(f"  assumed of your example: {'; '.join(assumed)} (say otherwise with contract=)")
        notes = [f for f in self.findings if f.severity != "error" and not f.waiver]
        trusted = [f"; {f.message}" for f in notes if f.law == "oracle"]
        lines += [*waived, *(f"  {f}" for f in notes if f.law != "oracle")]
        lines.append(f"  oracle: {self.oracle} ({self.strength}){''.join(trusted)}")
        lines.append(
            f"  {self.checks} comparisons; canaries: {killed} of {killed + len(survived)} killed; {self.seconds:.1f} s"
        )
        lines += [f"  {name}: {_listed(what)}" for name, what in self.tried.items() if what and name != "assumed"]
        return "\n".join(map(line, lines))


def _listed(what: Any) -> str:
    return ", ".join(map(str, what)) if isinstance(what, list | tuple) else str(what)
