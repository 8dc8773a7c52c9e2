"""python -m verify: audits from the shell. Exit codes: 0 pass, 1 a disagreement was found, 2 could not run."""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from verify import campaign, command
from verify.architectures import CatalogueError, program
from verify.campaign import TokenError
from verify.check import LEVELS, check
from verify.command import CommandError
from verify.judge import audit
from verify.locate import locate
from verify.subject import SubjectError

console = Console()


def networks(options: argparse.Namespace) -> int:
    """Random networks by the hand-written sweep and by jax.vjp of their definition."""
    start, marks = time.perf_counter(), {}
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(TextColumn("[bold]random networks"), *columns, console=console) as progress:
        task = progress.add_task("", total=options.count, rate="")

        def watch(tally):
            elapsed = time.perf_counter() - start
            if elapsed <= 60:
                marks["first minute"] = tally.networks
            progress.update(task, completed=tally.networks, rate=f"{60 * tally.networks / elapsed:.0f} a minute")

        jobs = min(options.jobs, -(-options.count // campaign.BATCH))
        if jobs > 1:
            with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as executor:
                tally = campaign.run(options.count, options.seed, executor, options.catalogue, watch)
        else:
            tally = campaign.run(options.count, options.seed, None, options.catalogue, watch)
    return _print_campaign(tally, time.perf_counter() - start, marks, options, jobs)


def _print_campaign(tally, elapsed, marks, options, jobs):
    layers, forms = campaign.expected(options.catalogue)
    for failure in tally.failures:
        console.print(f"\n[bold red]disagreement[/]\n{failure}", highlight=False, soft_wrap=True)
    rate = 60 * tally.networks / elapsed
    console.print(
        f"[bold]{tally.networks} random networks, {len(tally.failures)} disagreements[/] "
        f"(seed {options.seed}, float64, every element of every leaf)"
    )
    remarks = {
        "rounding": "differed by no more than rounding the inputs does",
        "not finite": "had no finite true gradient",
    }
    for remark, words in remarks.items():
        if tally.remarks[remark]:
            console.print(f"  {tally.remarks[remark]} {words}")
    console.print(
        f"  speed: {rate:.0f} a minute over {elapsed:.0f} s in {jobs} processes"
        + (f", {marks.get('first minute', 0)} in the first minute" if elapsed > 60 else "")
        + f"; {tally.compilations} layers compiled"
    )
    if tally.warm:
        warm = 60 * jobs * tally.warm / tally.warm_seconds
        console.print(f"  once warm: {warm:.0f} a minute ({tally.warm} networks needed no compilation)")
    for what, seen, wanted in (("layers", tally.layers, layers), ("forms", tally.forms, forms)):
        missing = sorted(wanted - set(seen))
        console.print(f"  {what}: {len(wanted) - len(missing)} of {len(wanted)} covered{_missing(missing)}")
        listed = ", ".join(f"{name} {count}" for name, count in seen.most_common())
        console.print(f"    [dim]{listed}[/]", highlight=False)
    console.print(f"  pairs of neighbours: {len(tally.pairs)} different ones")
    if tally.failures:
        return 1
    return 0 if tally.networks else 2


def _missing(names):
    return f"; not met: {', '.join(names)} (more networks will meet them)" if names else ""


def replay(options: argparse.Namespace) -> int:
    """One network of an earlier campaign, again."""
    network = campaign.from_token(options.token)
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


def function(options: argparse.Namespace) -> int:
    """One function with a custom rule, against its plain definition."""
    plain = command.function(options.reference) if options.reference else None
    arrays = command.example(options.example, options.seed)
    report = check(command.function(options.name), *arrays, reference=plain, seed=options.seed, level=options.level)
    print(report.to_json() if options.json else report)
    return {"pass": 0, "fail": 1, "inconclusive": 2}[report.verdict]


def layers(options: argparse.Namespace) -> int:
    """Every layer and loss of a catalogue, each configuration at each of its inputs."""
    parts = command.cases(options.catalogue)
    verdicts, start = Counter(), time.perf_counter()
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with (
        Progress(TextColumn("[bold]layers"), *columns, console=console) as progress,
        ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as executor,
    ):
        task = progress.add_task("", total=len(parts))
        futures = [executor.submit(command.audit_case, options.catalogue, *part, options.level) for part in parts]
        for future in as_completed(futures):
            report = future.result()
            verdicts[report.verdict] += 1
            progress.advance(task)
            if report.verdict != "pass":
                console.print(str(report), highlight=False, markup=False, soft_wrap=True)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    configurations = len({case for case, _ in parts})
    console.print(
        f"[bold]{configurations} configurations of layers and losses, {len(parts)} audits: {said}[/] "
        f"({options.level}, {time.perf_counter() - start:.0f} s)"
    )
    return 1 if verdicts["fail"] else 2 if verdicts["inconclusive"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verify", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(run, words, *, jobs=False, level=None):
        one = commands.add_parser(run.__name__, help=words, description=run.__doc__)
        one.set_defaults(run=run)
        if jobs:
            cores = os.cpu_count() or 1
            one.add_argument("--jobs", type=int, default=cores, help="processes (default: one a core)")
            names = "whose layers: a name under the entry points verify.catalogues (default %(default)s)"
            one.add_argument("--catalogue", default="jbp", help=names)
        if level:
            words = "quick leaves out other sizes and lower precisions (default %(default)s)"
            one.add_argument("--level", choices=LEVELS, default=level, help=words)
        return one

    one = add(function, "audit a function with a custom rule", level="standard")
    one.add_argument("name", help="package.module:function")
    one.add_argument("--reference", help="its plain definition, package.module:function")
    one.add_argument("--example", required=True, help='its arguments, for example "f32[4,8], f32[8], i32[4]<8"')
    one.add_argument("--seed", type=int, default=0, help="of the values in the example (default %(default)s)")
    one.add_argument("--json", action="store_true", help="print the report as JSON")
    add(layers, "audit every layer and loss of a catalogue", jobs=True, level="quick")
    one = add(networks, "audit random networks", jobs=True)
    one.add_argument("--count", type=int, default=300, help="how many networks (default %(default)s)")
    one.add_argument("--seed", type=int, default=0, help="another seed draws other networks (default %(default)s)")
    one = add(replay, "run one failing network again")
    one.add_argument("token", help="the word that the failing campaign printed")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if getattr(options, "count", 1) < 1 or getattr(options, "jobs", 1) < 1:
        parser.error("--count and --jobs must be at least 1")
    try:
        return options.run(options)
    except (CatalogueError, CommandError, SubjectError, TokenError) as error:
        console.print(f"[bold red]could not run:[/] {error}", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
