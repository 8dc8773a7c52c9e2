"""The commands of `python -m verify`. Each takes its options and gives an exit code."""

import argparse
import json
import multiprocessing
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from verify import campaign, command, mutants as mutation, outputs, scan as scanning, tokens
from verify.architectures import program
from verify.cases import audit_case
from verify.chapters import lengths
from verify.check import check
from verify.judge import audit
from verify.locate import locate
from verify.report import Finding, Report

console = Console()
errors = Console(stderr=True)


def _people(options: argparse.Namespace) -> Console:
    """Where words for people go: not among what a program reads from standard output."""
    return errors if getattr(options, "format", None) not in (None, "text") and not options.output else console


@contextmanager
def _bar(words: str, total: int, options: argparse.Namespace) -> Iterator[Callable[..., None]]:
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn()
    with Progress(TextColumn(f"[bold]{words}"), *columns, TimeRemainingColumn(), console=_people(options)) as progress:
        task = progress.add_task("", total=total, words="")

        def show(completed: int | None = None, words: str = "") -> None:
            progress.update(task, advance=1 if completed is None else None, completed=completed, words=words)

        yield show


@contextmanager
def _workers(jobs: int, parts: int) -> Iterator[Executor | None]:
    """Processes for so many parts of work; None where one is enough."""
    jobs = min(jobs, parts)
    if jobs < 2:
        yield None
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as executor:
        yield executor


def _emit(reports: list[Report], options: argparse.Namespace, title: str) -> None:
    """The reports into every file asked for, or to standard output in the format asked for."""
    for file in options.output:
        outputs.write(file, outputs.render(reports, options.format or outputs.form_of(file), title))
        _people(options).print(f"  wrote {file}", highlight=False)
    if options.format and not options.output:
        print(outputs.render(reports, options.format, title), end="")


def _several_devices() -> None:
    """Four CPU devices, so that the sharded law has something to spread over; unless JAX is running already."""
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", 4)


def function(options: argparse.Namespace) -> int:
    """One function with a custom rule, against its plain definition."""
    _several_devices()
    plain = command.function(options.reference) if options.reference else None
    arrays = command.example(options.example, options.seed)
    report = check(command.function(options.name), *arrays, reference=plain, seed=options.seed, level=options.level)
    if not options.format:
        _print(report)
    _emit([report], options, f"verify function {options.name}")
    return outputs.EXIT[report.verdict]


COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def _print(report: Report, to: Console | None = None) -> None:
    """The report with its verdict in colour."""
    head, _, rest = str(report).partition(":")
    to = to or console
    to.print(f"[bold {COLOURS[report.verdict]}]{head}[/]:", end="", highlight=False)
    to.print(rest, highlight=False, markup=False, soft_wrap=True)


def layers(options: argparse.Namespace) -> int:
    """Every layer and loss of a catalogue, each configuration at each of its inputs."""
    listed = command.listed(options.catalogue)
    parts = command.cases(options.catalogue)
    if options.only:
        known = sorted({type(case.layer).__name__ for case in listed})
        if unknown := set(options.only) - set(known):
            raise command.CommandError(f"got the layers {sorted(unknown)}; expected some of {', '.join(known)}.")
        parts = [part for part in parts if type(listed[part[0]].layer).__name__ in options.only]
    reports, start, people = [], time.perf_counter(), _people(options)
    calls = [(options.catalogue, *part, options.level) for part in parts]
    with _bar("layers", len(calls), options) as show, _workers(options.jobs, len(calls)) as executor:
        for _, report in campaign.results_of(executor, audit_case, calls):
            reports.append(report)
            show()
            if report.verdict != "pass":
                _print(report, people)
    verdicts = Counter(report.verdict for report in reports)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    configurations = len({case for case, _ in parts})
    people.print(
        f"[bold]{configurations} configurations of layers and losses, {len(parts)} audits: {said}[/] "
        f"({options.level}, {time.perf_counter() - start:.0f} s)"
    )
    _emit(sorted(reports, key=lambda r: r.subject), options, f"verify layers, catalogue {options.catalogue}")
    return outputs.EXIT[outputs.verdict(reports)]


def networks(options: argparse.Namespace) -> int:
    """Random networks by the hand-written sweep and by jax.vjp of their definition."""
    chapters = len(lengths(options.count))
    jobs = min(options.jobs, chapters)
    with _bar("random networks", options.count, options) as show, _workers(options.jobs, chapters) as executor:

        def watch(tally):
            show(tally.networks, f"{60 * jobs * tally.networks / max(tally.seconds, 1e-9):.0f} a minute")

        args = options.count, options.seed, executor, options.catalogue, watch, options.journal
        tally = campaign.run(*args)
    _print_campaign(tally, options, jobs)
    if options.corpus and tally.failures:
        _remember(options.corpus, [(f.token, f.program) for f in tally.failures])
    reports = _reports(tally, options)
    _emit(reports, options, f"verify networks, seed {options.seed}")
    return outputs.EXIT[outputs.verdict(reports)]


def _reports(tally, options) -> list[Report]:
    """A report for each network that failed, and one for all the others."""
    strength = "float64 jax.vjp of the network's definition, every element of every leaf"
    made = []
    for failure in tally.failures:
        replay = f"python -m verify replay {failure.token}"
        told = failure.faults or failure.differences
        found = tuple(Finding("dense", "error", "", 1.0, "unknown", replay, text) for text in told)
        made.append(Report(failure.program, "fail", found, "reference", strength, {}, (), 1, 0.0))
    right = tally.networks - len(tally.failures)
    tried = {
        "layers": [f"{name} {n}" for name, n in tally.layers.most_common()],
        "forms": [f"{name} {n}" for name, n in tally.forms.most_common()],
        "pairs of neighbours": str(len(tally.pairs)),
    }
    if right:
        name = f"{right} random networks, seed {options.seed}"
        made.append(Report(name, "pass", (), "reference", strength, tried, (), right, tally.seconds))
    return made


def _remember(corpus: Path, failing: list[tuple[str, str]]) -> None:
    """The tokens of what failed at the end of a corpus, each once."""
    known = tokens.corpus(corpus) if corpus.exists() else []
    text = corpus.read_text(encoding="utf-8") if corpus.exists() else ""
    outputs.write(corpus, text + "".join(f"{word}  # {what}\n" for word, what in failing if word not in known))


def _print_campaign(tally, options, jobs) -> None:
    people = _people(options)
    layers, forms = campaign.expected(options.catalogue)
    for failure in tally.failures:
        people.print(f"\n[bold red]disagreement[/]\n{failure}", highlight=False, soft_wrap=True)
    people.print(
        f"[bold]{tally.networks} random networks, {len(tally.failures)} disagreements[/] "
        f"(seed {options.seed}, float64, every element of every leaf)"
    )
    remarks = {
        "rounding": "differed by no more than rounding the inputs does",
        "not finite": "had no finite true gradient",
    }
    for remark, words in remarks.items():
        if tally.remarks[remark]:
            people.print(f"  {tally.remarks[remark]} {words}")
    if tally.seconds:
        rate = 60 * jobs * tally.networks / tally.seconds
        people.print(f"  speed: {rate:.0f} a minute in {jobs} processes; {tally.compilations} layers compiled")
    if tally.warm:
        warm = 60 * jobs * tally.warm / tally.warm_seconds
        people.print(f"  once warm: {warm:.0f} a minute ({tally.warm} networks needed no compilation)")
    for what, seen, wanted in (("layers", tally.layers, layers), ("forms", tally.forms, forms)):
        missing = sorted(wanted - set(seen))
        people.print(f"  {what}: {len(wanted) - len(missing)} of {len(wanted)} covered{_missing(missing)}")
        listed = ", ".join(f"{name} {count}" for name, count in seen.most_common())
        people.print(f"    [dim]{listed}[/]", highlight=False)
    possible = campaign.neighbours(options.catalogue)
    met, others = possible & set(tally.pairs), set(tally.pairs) - possible
    people.print(
        f"  pairs of neighbouring layers: {len(met)} of {len(possible)} covered "
        f"({len(met) / max(len(possible), 1):.0%}), and {len(others)} pairs with combinators and losses"
    )


def _missing(names):
    return f"; not met: {', '.join(names)} (more networks will meet them)" if names else ""


def replay(options: argparse.Namespace) -> int:
    """What failed in an earlier audit, again: one token, or a file of them."""
    _several_devices()
    known = not set(options.token).isdisjoint("./\\")  # no token holds one of these, and a file's name does
    words = tokens.corpus(Path(options.token)) if known else [options.token]
    if not words:
        raise tokens.TokenError(f"got {options.token!r}, which holds no tokens; expected one a line.")
    return max([_again(word) for word in words], key=lambda code: (code == 1, code))


def _again(word: str) -> int:
    held = tokens.unpack(word)
    if tokens.is_check(held):
        report = tokens.again(held)
        _print(report)
        return outputs.EXIT[report.verdict]
    network = campaign.from_token(word)
    console.print(program(network), highlight=False, soft_wrap=True)
    outcome = audit(network)
    for difference in outcome.differences:
        console.print(f"  {difference}", highlight=False)
    if not outcome.disagrees:
        console.print(f"[bold green]agrees[/] {outcome.remark}")
        return 0
    for fault in locate(network):
        console.print(f"[bold red]{fault}[/]", highlight=False, soft_wrap=True)
    return 1


def scan(options: argparse.Namespace) -> int:
    """The functions with a rule of their own in a package: each is audited where an example is known or found."""
    _several_devices()
    people, reports, waiting = _people(options), [], []
    given = scanning.examples(options.examples)
    found, failed = scanning.modules(options.package)
    for name, error in failed.items():
        people.print(f"  [yellow]not imported[/] {name}: {error}", highlight=False, soft_wrap=True)
    held = scanning.rules(found, options.package)
    if unknown := set(given) - {rule.name for rule in held}:
        raise command.CommandError(f"got examples for {sorted(unknown)}; expected names that the scan lists.")
    with _bar("scan", len(held), options) as show:
        for rule, case, example in scanning.cases(held, given, options.seed):
            if case is None:
                waiting.append(rule.name)
            else:
                report = case.check(options.level)
                reports.append(report)
                _print_scanned(rule.name, example, report, people)
            show()
    for name in waiting:
        typed = f'python -m verify function {shlex.quote(name)} --example "f32[4,8], ..."'
        people.print(f"  [yellow]needs an example[/] {name}: {typed}", highlight=False, soft_wrap=True)
    counts = Counter(report.verdict for report in reports)
    people.print(
        f"[bold]{len(held)} functions with a rule of their own in {len(found)} modules of {options.package}[/]: "
        + ", ".join([*(f"{n} {v}" for v, n in counts.most_common()), f"{len(waiting)} need an example"])
    )
    lacking = [_lacking(name) for name in waiting]
    _emit([*reports, *lacking], options, f"verify scan {options.package}")
    return outputs.EXIT[outputs.verdict(reports)]


def _print_scanned(name: str, example: str, report: Report, people: Console) -> None:
    colour = COLOURS[report.verdict]
    people.print(f"  [{colour}]{report.verdict}[/] {name}", highlight=False, end="")
    people.print(f" ({example})", highlight=False, markup=False)
    for finding in report.errors:
        people.print(f"    {finding}", highlight=False, markup=False, soft_wrap=True)
        people.print(f"    {finding.replay}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _lacking(name: str) -> Report:
    typed = f'python -m verify function {shlex.quote(name)} --example "f32[4,8], ..."'
    note = Finding("runs", "note", "", 0.0, "", "", f"needs an example: {typed}")
    return Report(name, "inconclusive", (note,), "none", "nothing ran", {}, (), 0, 0.0)


def mutants(options: argparse.Namespace) -> int:
    """The verifier verified: the way back of each layer broken by rules on its source, and how many are noticed."""
    parts = mutation.choose(options.catalogue, tuple(options.only), options.count, options.seed)
    start, fates = time.perf_counter(), Counter()
    calls = sum(len(chosen) for _, chosen in parts)
    with _bar("mutants", calls, options) as show, _workers(options.jobs, len(parts)) as executor:

        def watch(new):
            fates.update(fate.fate for fate in new)
            show(fates.total(), ", ".join(f"{n} {fate}" for fate, n in fates.most_common()))

        found = mutation.run(parts, executor, options.catalogue, options.equivalents, watch, options.journal)
    told = mutation.summary(found)
    for file in options.output:
        if file.suffix not in (".json", ".md"):
            raise outputs.OutputError(f"got {str(file)!r}; expected a name that ends in .json or .md.")
        listed: dict[str, Any] = told | {"fates": [asdict(fate) for fate in found]}
        text = json.dumps(listed, indent=1, ensure_ascii=False) + "\n" if file.suffix == ".json" else _table(told)
        outputs.write(file, text)
    console.print(_table(told), highlight=False, markup=False, soft_wrap=True)
    console.print(f"{time.perf_counter() - start:.0f} s")
    mistakes = told["killed"] + told["survived"]
    return 2 if not mistakes else 1 if told["survived"] else 0


def _table(told: dict[str, Any]) -> str:
    share = "" if told["share killed"] is None else f", {100 * told['share killed']:.2f} %"
    lines = [
        f"{told['mutants']} mutants of {told['layers']} layers: {told['killed']} killed of "
        f"{told['killed'] + told['survived']} mistakes{share}; {told['equivalent']} are no mistakes, "
        f"{told['raises']} raise at every input and are not counted.",
        "",
        "Killed by: " + ", ".join(f"{by} {n}" for by, n in told["killed by"].items()) + ".",
    ]
    for what in ("by rule", "by layer"):
        lines += ["", f"| {what} | killed | survived | equivalent | raises |", "|---|---:|---:|---:|---:|"]
        lines += [f"| {k} | " + " | ".join(str(v[f]) for f in mutation.FATES) + " |" for k, v in told[what].items()]
    lines += ["", "Survivors:", ""] if told["survivors"] else []
    lines += [f"- `{name}`" for name in told["survivors"]]
    lines += ["", "No mistakes, and why:", ""] if told["equivalents"] else []
    lines += [f"- `{name}`: {why}" for name, why in told["equivalents"].items()]
    return "\n".join(lines) + "\n"
