"""Ours beside jax.grad and other libraries, in one process, in turn.

    python -m benchmarks                       every workload, about half an hour on two cores
    python -m benchmarks --quick               a few, under five minutes
    python -m benchmarks --only convolution    those whose name or group contains the word
    python -m benchmarks --json cpu.json       also written: cpu.json, cpu.md and cpu.png

A ratio is ours / theirs, of times the median over neighbouring runs, with its quartiles: below 1 ours is better. Memory
and FLOPs are the compiler's (the body of a loop counts once), errors those of the worst leaf against float64.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.contests import JAX, OURS, Contest
from benchmarks.page import COLUMNS, figure, markdown, summary
from benchmarks.race import Compiled, compiled, held, race, ratio, threaded
from benchmarks.workloads import Workload, workloads
from jbp import cast

Record = dict[str, Any]


def measure(workload: Workload, seconds: float, device: str) -> list[Record]:
    """One record for each peer. A peer that cannot run is recorded with its error, never left out in silence."""
    contest = workload.make()
    contenders: dict[str, Compiled] = {}
    for name, way in contest.ways.items():
        own = contest.states.get(name)
        contenders[name] = compiled(way, contest.arguments) if own is None else threaded(way, own, contest.arguments)
    failed = {}
    for name, make in contest.others.items():
        try:
            contenders[name] = held(make)
        except Exception as error:  # noqa: BLE001  # whatever another library raises belongs into the record
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    errors = disagreement(contest, contenders) if contest.exact else {}
    laps = race(contenders, seconds)
    ours, base = laps[OURS], {"workload": workload.name, "group": workload.group, "device": device}
    base |= {"aim": workload.aim, "grows": workload.grows, "why": workload.why, "jax": jax.__version__}
    records: list[Record] = [base | {"peer": name, "failed": why} for name, why in failed.items()]
    for name, lap in laps.items():
        if name == OURS:
            continue
        time, low, high = ratio(ours, lap)
        records.append(
            base
            | {
                "peer": name,
                "time_ratio": time,
                "time_quartiles": [low, high],
                "seconds": [float(np.median(ours.seconds)), float(np.median(lap.seconds))],
                "temp_ratio": quotient(ours.temporary, lap.temporary),
                "temp_bytes": [ours.temporary, lap.temporary],
                "peak_ratio": quotient(ours.peak, lap.peak),
                "flops_ratio": quotient(ours.flops, lap.flops),
                "compile_ratio": quotient(ours.compile_seconds, lap.compile_seconds),
                "error_ratio": quotient(errors.get(OURS), errors.get(name)),
                "errors": [errors.get(OURS), errors.get(name)],
            }
        )
    return records


def quotient(a: float | None, b: float | None) -> float | None:
    """a / b; 1 where both are zero, None where one is not known or only b is zero."""
    if a is None or b is None or (a and not b):
        return None
    return a / b if b else 1.0


def disagreement(contest: Contest, contenders: dict[str, Compiled]) -> dict[str, float]:
    """The error of each way against jax.grad of the definition in float64: the worst leaf, relative to its largest.

    A leaf whose gradient is nothing but rounding, a bias below a BatchNorm say, is relative to the largest of all.
    """
    with jax.enable_x64(True):
        exact = jax.jit(contest.ways[JAX])(*cast(contest.arguments, "float64"))
    truth = [np.asarray(v) for v in jax.tree.leaves(exact)]
    least = 1e-4 * max(float(np.abs(v).max(initial=0)) for v in truth)
    errors = {}
    for name in contest.ways:
        got = [np.asarray(v, np.float64) for v in jax.tree.leaves(contenders[name].run())]
        pairs = list(zip(got, truth, strict=True))
        errors[name] = max(float(np.abs(a - b).max() / max(np.abs(b).max(), least, 1e-30)) for a, b in pairs if a.size)
    for name, error in errors.items():
        if not error < max(1e-2, 10 * errors[JAX]):
            raise ValueError(f"{name} is off by {error:.1e}: a race between different functions says nothing")
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="WORD", help="only workloads whose name or group contains this")
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--seconds", type=float, help="how long each workload is timed (default 5, quick 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records here, a table and a figure beside")
    options = parser.parse_args()

    console = Console() if sys.stdout.isatty() else Console(width=140)
    chosen = [
        w
        for w in workloads()
        if (w.quick or not options.quick) and (not options.only or options.only in w.name or options.only in w.group)
    ]
    if not chosen:
        console.print(f"no workload has {options.only!r} in its name or group; these are there:")
        console.print(", ".join(sorted({w.name for w in workloads()})))
        return 2
    machine = jax.devices()[0]
    device = f"{machine.platform}, {os.cpu_count()} cores" if machine.platform == "cpu" else machine.device_kind
    seconds = options.seconds or (2.0 if options.quick else 5.0)
    records: list[Record] = []
    failed: list[str] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for workload in chosen:
            progress.update(task, description=workload.name)
            try:
                records += measure(workload, seconds, device)
            except Exception as error:  # noqa: BLE001  # shown in the table and by the exit code, the others go on
                failed.append(workload.name)
                why = f"{type(error).__name__}: {error}".splitlines()[0]
                records.append(
                    {"workload": workload.name, "group": workload.group, "device": device, "peer": JAX, "failed": why}
                    | {"jax": jax.__version__}
                )
            if options.json:  # after each, so that an interrupted run leaves what it has
                written(options.json, json.dumps(records, indent=1) + "\n")
            progress.advance(task)
            jax.clear_caches()
    show(console, records)
    if options.json:
        written(options.json.with_suffix(".md"), markdown(records))
        figure(records, options.json.with_suffix(".png"))
        console.print(f"written: {options.json}, and a table and a figure beside it")
    return 1 if failed else 0


def written(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".half")
    half.write_text(text)
    half.replace(path)


def show(console: Console, records: list[Record]) -> None:
    table = Table(box=None)
    for name in ("workload", "peer", "time", "quartiles", "ms", "temp", "KiB", "peak", "FLOPs", "compile", "error"):
        table.add_column(name, no_wrap=True)
    for r in records:
        if "failed" in r:
            continue
        worse = r["time_ratio"] > (r["aim"] or 1.03)
        low, high = r["time_quartiles"]
        ours, theirs = r["seconds"]
        kib = "/".join("–" if b is None else f"{b / 1024:.0f}" for b in r["temp_bytes"])
        table.add_row(
            r["workload"],
            r["peer"],
            f"[{'yellow' if worse else 'green'}]{r['time_ratio']:.2f}",
            f"{low:.2f}–{high:.2f}",
            f"{1e3 * ours:.2f}/{1e3 * theirs:.2f}",
            *[_ratio(r["temp_ratio"]), kib],
            *[_ratio(r[f"{key}_ratio"]) for key in COLUMNS[1:]],
        )
    console.print(table)
    for r in records:
        if "failed" in r:
            console.print(f"[red]could not run: {r['workload']}, {r['peer']}: {r['failed']}")
    for line in summary(records):
        console.print(line)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
