"""How the commands speak: to people on a terminal, where no markup is ever a stranger's, and in files."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from verify.processes.safely import Failed, Pool
from verify.report import outputs
from verify.report.escape import line, visible
from verify.report.report import Finding, Report

console = Console()
errors = Console(stderr=True)
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def say(to: Console, *parts: str | tuple[str, str], end: str = "\n") -> None:
    """Parts of a text, each as it is or (text, style): shown letter by letter, whatever they hold."""
    told = [(visible(p), "") if isinstance(p, str) else (visible(p[0]), p[1]) for p in parts]
    to.print(Text.assemble(*told), highlight=False, soft_wrap=True, end=end)


def people(options: argparse.Namespace) -> Console:
    """Where words for people go: not among what a program reads from standard output."""
    return errors if getattr(options, "format", None) not in (None, "text") and not options.output else console


def show(report: Report, to: Console, verbose: bool = False) -> None:
    """The report with its verdict in colour; if `verbose` with what was not counted."""
    head, _, rest = (report.details() if verbose else str(report)).partition(":")
    say(to, (head, f"bold {COLOURS[report.verdict]}"), f":{rest}")


@contextmanager
def bar(words: str, total: int, options: argparse.Namespace) -> Iterator[Callable[..., None]]:
    """show(completed, words): how far a command is, and what it is about."""
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}", markup=False), TimeElapsedColumn()
    shown = Progress(
        TextColumn(words, style="bold", markup=False), *columns, TimeRemainingColumn(), console=people(options)
    )
    with shown as progress:
        task = progress.add_task("", total=total, words="")

        def update(words: str | None = None, **more: Any) -> None:
            said = {} if words is None else {"words": line(words)[:80]}
            progress.update(task, **said, **more)

        yield update


@contextmanager
def pool(
    options: argparse.Namespace, parts: int, watch: Callable[[str], Any], devices: int = 1, kept: bool = True
) -> Iterator[Pool | None]:
    """Processes for so many parts of work, as the options say; None for --here."""
    if options.here:
        yield None
        return
    jobs = min(getattr(options, "jobs", 1), max(parts, 1))
    memory = options.memory * 2**30 if options.memory else None
    with Pool(jobs, options.timeout, memory, devices, watch, kept) as made:
        yield made


@contextmanager
def places(options: argparse.Namespace, title: str) -> Iterator[outputs.Places]:
    """Where the reports go: into the files asked for, or to standard output in the format asked for."""
    with outputs.Places(options.output, options.format, title) as opened:
        yield opened
    for file in options.output:
        say(people(options), f"  wrote {line(file)}")
    if options.format and not options.output:
        print(outputs.render(opened.reports, options.format, title), end="")


def lost(name: str, failed: Failed) -> Report:
    """The report of an audit that gave none."""
    finding = Finding("runs", "error", "", 1.0, "", "", str(failed))
    return Report(name, "fail" if failed.own else "inconclusive", (finding,), "none", "nothing ran", {}, (), 0, 0.0)
