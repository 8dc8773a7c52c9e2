"""The commands of `python -m verify` that audit one thing after the other. Each takes its options, gives a verdict.

Every audit runs in a process of its own kind (`safely`): code under audit is imported there and nowhere else.
"""

import argparse
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from verify.architectures.campaign import from_token, results_of, resumed
from verify.architectures.further import audit_and_ask
from verify.architectures.locate import locate
from verify.architectures.networks import program
from verify.check import check
from verify.cli import scan as scanning, shell
from verify.cli.cases import audit_case
from verify.naming import catalogues, named, tokens
from verify.processes.journal import Book, fingerprint
from verify.processes.safely import Failed
from verify.report import outputs
from verify.report.escape import line
from verify.report.report import Report
from verify.tolerance.waivers import WAIVERS

DEVICES = 4  # of the CPU, so that the law `sharded` has something to spread over


def _book(options: argparse.Namespace, campaign: list[Any], *under: str) -> Book:
    """The journal of reports about the code in the modules `under`."""
    code = fingerprint(*under) if options.journal else {}
    say = lambda text: shell.say(shell.errors, text)  # noqa: E731
    return Book(options.journal, campaign, code, lambda part: part, Report.to_json, Report.from_json, say)


def function(options: argparse.Namespace) -> str:
    """One function with a custom rule, against its plain definition."""
    part = options.name, options.reference, options.example, options.seed, options.level, options.contract
    under = [name.rpartition(":")[0] for name in (options.name, options.reference) if name]
    with shell.places(options, f"verify function {options.name}") as places:
        with shell.bar("audit", 1, options) as show, shell.pool(options, 1, _stages(show), DEVICES) as pool:
            ((_, found),) = resumed(pool, audit_function, [part], _book(options, ["function"], *under))
        report = shell.lost(options.name, found) if isinstance(found, Failed) else found
        if not options.format:
            shell.show(report, shell.console, options.verbose)
        places.add(report)
    return report.verdict


def audit_function(
    name: str, reference: str | None, example: str, seed: int, level: str, contract: str | None
) -> Report:
    """`check` of the function of that name, at an example in words: runs in any process."""
    plain = named.function(reference) if reference else None
    args, promised = named.example(example, seed), tokens.contracted(contract) if contract else None
    return check(named.function(name), *args, reference=plain, seed=seed, level=level, contract=promised)


def _stages(show: Any) -> Any:
    return lambda stage: show(words=stage)


def layers(options: argparse.Namespace) -> str:
    """Every layer and loss of a catalogue, each configuration at each of its inputs."""
    catalogues.allow(options.catalogue)
    listed = catalogues.listed(options.catalogue)
    parts = catalogues.cases(options.catalogue)
    if options.only:
        known = sorted({type(case.layer).__name__ for case in listed})
        if unknown := set(options.only) - set(known):
            raise named.CommandError(f"got the layers {sorted(unknown)}; expected some of {', '.join(known)}.")
        parts = [part for part in parts if type(listed[part[0]].layer).__name__ in options.only]
    reports, start, people = [], time.perf_counter(), shell.people(options)
    calls = [(options.catalogue, *part, options.level) for part in parts]
    book = _book(options, ["layers", options.catalogue, options.level], *catalogues.homes(options.catalogue))
    with (
        shell.places(options, f"verify layers, catalogue {options.catalogue}") as places,
        shell.bar("layers", len(calls), options) as show,
        shell.pool(options, len(calls), _stages(show)) as pool,
    ):
        for part, found in resumed(pool, audit_case, calls, book):
            report = shell.lost(repr(listed[part[1]].layer), found) if isinstance(found, Failed) else found
            reports.append(report)
            places.add(report)
            show(advance=1)
            if report.verdict != "pass":
                shell.show(report, people, options.verbose)
    verdicts = Counter(report.verdict for report in reports)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    configurations = len({case for case, _ in parts})
    words = f"{configurations} configurations of layers and losses, {len(parts)} audits: {said}"
    shell.say(people, (words, "bold"), f" ({options.level}, {time.perf_counter() - start:.0f} s)")
    return outputs.verdict(reports)


def scan(options: argparse.Namespace) -> str:
    """The functions with a rule of their own in a package: each is audited where an example is known or found."""
    people, reports, waiting = shell.people(options), [], []
    book = _book(options, ["scan", options.package], options.package, options.examples)
    with (
        shell.places(options, f"verify scan {options.package}") as places,
        shell.bar("scan", 1, options) as show,
        shell.pool(options, 1, _stages(show), DEVICES) as pool,
    ):
        survey = scanning.survey(pool, options.package, options.examples)
        for name, error in survey.failed.items():
            shell.say(people, ("  not imported", "yellow"), f" {name}: {line(error)}")
        for name, failed in survey.ended.items():
            reports.append(replace(shell.lost(name, failed), verdict="inconclusive"))
            places.add(reports[-1])
            _show_scanned(name, "import", reports[-1], people)
        calls = [(options.package, name, options.examples, options.seed, options.level) for name in survey.rules]
        show(total=len(calls))
        for part, report in resumed(pool, scanning.audit_rule, calls, book):
            name = part[1]
            if isinstance(report, Failed):
                report = shell.lost(name, report)
            places.add(report)
            show(advance=1)
            if report.strength == scanning.LACKING:
                waiting.append(name)
            else:
                reports.append(report)
                _show_scanned(name, report.tried.get("example", ""), report, people)
        for name in waiting:
            shell.say(people, ("  needs an example", "yellow"), f" {name}: {scanning.typed(name)}")
        counts = Counter(report.verdict for report in reports)
        words = f"{len(calls)} functions with a rule of their own in {survey.modules} modules of {options.package}"
        told = [*(f"{n} {v}" for v, n in counts.most_common()), f"{len(waiting)} need an example"]
        shell.say(people, (words, "bold"), ": " + ", ".join(told))
    return outputs.verdict(reports)


def _show_scanned(name: str, example: str, report: Report, people: Any) -> None:
    shell.say(people, (f"  {report.verdict}", shell.COLOURS[report.verdict]), f" {line(name)} ({line(example)})")
    for finding in report.errors:
        shell.say(people, f"    {finding}")
        shell.say(people, (f"    {line(finding.replay)}", "dim"))


def explain(options: argparse.Namespace) -> str:
    """Why a difference may not be counted: each reason that a report names, what is meant, and what has it counted."""
    known = {waiver.name: waiver for waiver in WAIVERS}
    wanted = [name.upper() for name in options.names] or list(known)
    if unknown := sorted(set(wanted) - set(known)):
        raise named.CommandError(f"got {', '.join(unknown)}; expected some of {', '.join(known)}.")
    shell.say(shell.console, "\n\n\n".join(str(known[name]) for name in wanted))
    return "pass"


def replay(options: argparse.Namespace) -> str:
    """What failed in an earlier audit, again: one token, or a file of them."""
    known = not set(options.token).isdisjoint("./\\")  # no token holds one of these, and a file's name does
    words = tokens.corpus(Path(options.token)) if known else [options.token]
    if not words:
        raise tokens.TokenError(f"got {options.token!r}, which holds no tokens; expected one a line.")
    verdicts = []
    with shell.bar("replay", len(words), options) as show, shell.pool(options, 1, _stages(show), DEVICES) as pool:
        for _, found in results_of(pool, replayed, [(word, tuple(options.allow)) for word in words]):
            if isinstance(found, Failed):
                found = str(shell.lost("the token's audit", found)), "fail" if found.own else "inconclusive"
            text, verdict = found
            shell.say(shell.console, text, (f"\n{verdict}", f"bold {shell.COLOURS[verdict]}"))
            verdicts.append(verdict)
            show(advance=1)
    return outputs.worst(verdicts)


def replayed(word: str, allowed: tuple[str, ...]) -> tuple[str, str]:
    """(what to tell, the verdict) of the audit that a token holds: runs in any process."""
    held = tokens.unpack(word)
    if tokens.is_check(held):
        f, args, asked = tokens.call(held, allowed)
        report = check(f, *args, **asked)
        return str(report), report.verdict
    if isinstance(held, list) and held and str(held[0]).partition(":")[0] in allowed:
        catalogues.allow(held[0])
    network = from_token(word)
    outcome, _ = audit_and_ask(catalogues.catalogue(held[0]), network, every=1)
    told = [program(network), *(f"  {difference}" for difference in outcome.differences)]
    if not outcome.disagrees:
        return "\n".join([*told, f"agrees {outcome.remark}".rstrip()]), "pass"
    return "\n".join([*told, *map(str, locate(network))]), "fail"
