"""python -m verify: audits from the shell. Exit codes: 0 pass, 1 a disagreement was found, 2 could not run."""

import argparse
import os
import sys
from pathlib import Path

from verify import commands, outputs
from verify.architectures import CatalogueError
from verify.campaign import JournalError
from verify.check import LEVELS
from verify.command import CommandError
from verify.mutants import MutantsError
from verify.subject import SubjectError
from verify.tokens import TokenError

REFUSALS = CatalogueError, CommandError, JournalError, MutantsError, SubjectError, TokenError, outputs.OutputError
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
    possible = campaign.neighbours(options.catalogue)
    met = len(possible & set(tally.pairs))
    others = len(set(tally.pairs) - possible)
    console.print(
        f"  pairs of neighbouring layers: {met} of {len(possible)} covered ({met / max(len(possible), 1):.0%}), "
        f"and {others} pairs with combinators and losses"
    )
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
    listed = parser.add_subparsers(dest="command", required=True)

    def add(run, words, *, jobs=False, level=None, seed="", reports=True):
        one = listed.add_parser(run.__name__, help=words, description=run.__doc__)
        one.set_defaults(run=run)
        if jobs:
            cores = os.cpu_count() or 1
            one.add_argument("--jobs", type=int, default=cores, help="processes (default: one a core)")
            names = "whose layers: a name under the entry points verify.catalogues (default %(default)s)"
            one.add_argument("--catalogue", default="jbp", help=names)
        if level:
            words = "quick leaves out other sizes and lower precisions (default %(default)s)"
            one.add_argument("--level", choices=LEVELS, default=level, help=words)
        if seed:
            one.add_argument("--seed", type=int, default=0, help=f"{seed} (default %(default)s)")
        words = f"write the reports there; may be given again. {', '.join(outputs.SUFFIXES)} say in which format"
        one.add_argument("--output", type=Path, action="append", default=[], metavar="FILE", help=words)
        if reports:
            words = "print the reports in this format, or write them in it whatever the file's name"
            one.add_argument("--format", choices=tuple(outputs.FORMATS), help=words)
        return one

    one = add(
        commands.function, "audit a function with a custom rule", level="standard", seed="of the example's values"
    )
    one.add_argument("name", help="package.module:function, or path/to/file.py:function")
    one.add_argument("--reference", help="its plain definition, package.module:function")
    one.add_argument("--example", required=True, help='its arguments, for example "f32[4,8], f32[8], i32[4]<8"')
    one = add(commands.scan, "audit all custom rules of a package", level="quick", seed="of the examples' values")
    one.add_argument("package", help="its name, for example optax")
    words = "module or file.py with a dict EXAMPLES: {'module:name': 'f32[4,8]' or arguments or verify.case(...)}"
    one.add_argument("--examples", default="", help=words)
    one = add(commands.layers, "audit every layer and loss of a catalogue", jobs=True, level="quick")
    one.add_argument("--only", nargs="+", default=[], metavar="LAYER", help="layers of these names alone")
    one = add(commands.networks, "audit random networks", jobs=True, seed="another seed draws other networks")
    one.add_argument("--count", type=int, default=300, help="how many networks (default %(default)s)")
    one.add_argument("--journal", type=Path, metavar="FILE", help="note what is done there, and go on from it")
    one.add_argument("--corpus", type=Path, metavar="FILE", help="add the tokens of what fails to this file")
    one = add(commands.mutants, "how many wrong layers are noticed", jobs=True, seed="of the choice", reports=False)
    one.add_argument("--only", nargs="+", default=[], metavar="LAYER", help="mutants of these layers alone")
    one.add_argument("--count", type=int, help="so many of all mutants, chosen by the seed (default: all)")
    words = "a TOML file that lists the mutants that are no mistakes, each with a reason"
    one.add_argument("--equivalents", type=Path, metavar="FILE", help=words)
    one = listed.add_parser("replay", help="run what failed again", description=commands.replay.__doc__)
    one.set_defaults(run=commands.replay)
    one.add_argument("token", help="the word that the failing audit printed, or a file of such words")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (getattr(options, "count", None) or 1) < 1 or getattr(options, "jobs", 1) < 1:
        parser.error("--count and --jobs must be at least 1")
    try:
        if getattr(options, "format", "") is None and options.command != "mutants":
            for file in options.output:
                outputs.form_of(file)  # a name that will not do is said before the work, not after it
        return options.run(options)
    except REFUSALS as error:
        commands.errors.print(f"[bold red]could not run:[/] {error}", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
