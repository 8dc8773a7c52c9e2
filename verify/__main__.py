"""python -m verify: audits from the shell. Exit codes: 0 pass, 1 a disagreement was found, 2 could not run."""

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from verify import campaign
from verify.judge import audit
from verify.locate import locate
from verify.networks import CatalogueError

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
    with jax.enable_x64(True):
        network = campaign.from_token(options.token)
        console.print(f"{network.layer!r} on {network.inputs!r}, seed {network.seed}", highlight=False, soft_wrap=True)
        outcome = audit(network)
        for difference in outcome.differences:
            console.print(f"  {difference}", highlight=False)
        if not outcome.disagrees:
            console.print(f"[bold green]agrees[/] {outcome.remark}")
            return 0
        for fault in locate(network):
            console.print(f"[bold red]{fault}[/]", highlight=False, soft_wrap=True)
        return 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m verify", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("networks", help="audit random networks", description=networks.__doc__)
    command.add_argument("--count", type=int, default=300, help="how many networks (default %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="another seed draws other networks (default %(default)s)")
    command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    command.add_argument(
        "--catalogue", default="jbp", help="whose layers: a name under the entry points verify.catalogues"
    )
    command.set_defaults(run=networks)
    command = commands.add_parser("replay", help="run one failing network again", description=replay.__doc__)
    command.add_argument("token", help="the word that the failing campaign printed")
    command.set_defaults(run=replay)
    options = parser.parse_args(arguments)
    if getattr(options, "count", 1) < 1 or getattr(options, "jobs", 1) < 1:
        parser.error("--count and --jobs must be at least 1")
    try:
        return options.run(options)
    except (CatalogueError, ValueError) as error:
        console.print(f"[bold red]could not run:[/] {error}", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
