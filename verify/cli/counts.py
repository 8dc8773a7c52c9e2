"""The commands of `python -m verify` that run by the thousand: random networks, and mistakes to be noticed."""

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from verify.architectures import campaign
from verify.architectures.chapters import lengths
from verify.architectures.judge import REMARKS
from verify.cli import shell
from verify.mutation import mutants as mutation
from verify.naming import tokens
from verify.report import outputs
from verify.report.escape import line
from verify.report.report import Finding, Report

KEPT = 10_000  # networks of a campaign whose programs are kept for the next run: of 2000, 22 MB


def networks(options: argparse.Namespace) -> str:
    """Random networks by the hand-written sweep and by jax.vjp of their definition."""
    chapters = len(lengths(options.count))
    jobs = min(options.jobs, chapters)
    told = lambda text: shell.say(shell.errors, text)  # noqa: E731
    with (
        shell.places(options, f"verify networks, seed {options.seed}") as places,
        shell.bar("random networks", options.count, options) as show,
        shell.pool(options, chapters, lambda stage: show(words=stage), kept=options.count <= KEPT) as pool,
    ):

        def watch(tally):
            rate = f"{60 * jobs * tally.networks / tally.seconds:.0f} a minute" if tally.seconds else ""
            show(rate, completed=tally.networks)

        args = options.count, options.seed, pool, options.catalogue, watch, options.journal, told, options.every
        tally = campaign.run(*args)
        _print_campaign(tally, options, jobs)
        if options.corpus and tally.failures:
            _remember(options.corpus, [(f.token, f.program) for f in tally.failures])
        for report in (reports := _reports(tally, options)):
            places.add(report)
    return outputs.verdict(reports)


def _reports(tally, options) -> list[Report]:
    """A report for each network that failed, and one for all the others."""
    strength = "float64 jax.vjp of the network's definition, every element of every leaf"
    made = []
    for failure in tally.failures:
        replay = f"python -m verify replay {failure.token}"
        told = failure.faults or failure.differences
        found = tuple(Finding("dense", "error", "", 1.0, "unknown", replay, text) for text in told)
        made.append(Report(failure.program, "fail", found, "reference", strength, {}, (), 1, 0.0))
    for lost in tally.lost:
        finding = Finding("runs", "error", "", 1.0, "", "", lost)
        name = "a chapter of random networks"
        made.append(Report(name, "inconclusive", (finding,), "none", "nothing ran", {}, (), 0, 0.0))
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
    people = shell.people(options)
    layers, forms = campaign.expected(options.catalogue)
    for failure in tally.failures:
        shell.say(people, ("\ndisagreement", "bold red"), f"\n{failure}")
    for lost in tally.lost:
        shell.say(people, ("\na chapter gave no result", "bold yellow"), f": {line(lost)}")
    head = f"{tally.networks} random networks, {len(tally.failures)} disagreements"
    shell.say(people, (head, "bold"), f" (seed {options.seed}, float64, every element of every leaf)")
    if options.quiet:
        return
    for remark, words in REMARKS.items():
        if tally.remarks[remark]:
            shell.say(people, f"  {tally.remarks[remark]} {words}")
    if tally.asked:
        told = ", ".join(f"{name} {n}" for name, n in sorted(tally.asked.items()))
        shell.say(people, f"  {tally.asked.total()} were asked more, one question each: {told}")
    if tally.seconds:
        rate = 60 * jobs * tally.networks / tally.seconds
        shell.say(people, f"  speed: {rate:.0f} a minute in {jobs} processes; {tally.compilations} layers compiled")
    if tally.warm:
        warm = 60 * jobs * tally.warm / tally.warm_seconds
        shell.say(people, f"  once warm: {warm:.0f} a minute ({tally.warm} networks needed no compilation)")
    for what, seen, wanted in (("layers", tally.layers, layers), ("forms", tally.forms, forms)):
        missing = sorted(wanted - set(seen))
        rarest = min(wanted & set(seen), key=seen.__getitem__, default=None)
        least = f", the rarest {rarest}, {seen[rarest]} times" if rarest else ""
        shell.say(people, f"  {what}: {len(wanted) - len(missing)} of {len(wanted)} covered{least}")
        if options.verbose:
            listed = ", ".join(f"{name} {count}" for name, count in seen.most_common())
            shell.say(people, (f"    {listed}", "dim"))
            shell.say(people, (f"    not met: {', '.join(missing) or 'none'}", "dim"))
    met = sum({*pair} <= layers for pair in tally.pairs)
    others = len(tally.pairs) - met
    shell.say(people, f"  pairs of neighbouring layers: {met}, and {others} of other combinators")


def mutants(options: argparse.Namespace) -> str:
    """The verifier verified: each layer's backward pass broken by rules on its source, and how many are noticed."""
    for file in options.output:
        if file.suffix not in (".json", ".md"):
            raise outputs.OutputError(f"got {str(file)!r}; expected a name that ends in .json or .md.")
    parts = mutation.choose(options.catalogue, tuple(options.only), options.count, options.seed)
    start, fates = time.perf_counter(), Counter()
    calls = sum(len(chosen) for _, chosen in parts)
    with (
        shell.bar("mutants", calls, options) as show,
        shell.pool(options, len(parts), lambda stage: show(words=stage), kept=False) as pool,
    ):

        def watch(new):
            fates.update(fate.fate for fate in new)
            show(", ".join(f"{n} {fate}" for fate, n in fates.most_common()), completed=fates.total())

        args = parts, pool, options.catalogue, options.equivalents, watch, options.journal, options.by
        found = mutation.run(*args)
    told = mutation.summary(found)
    for file in options.output:
        listed: dict[str, Any] = told | {"fates": [asdict(fate) for fate in found]}
        text = json.dumps(listed, indent=1, ensure_ascii=False) + "\n" if file.suffix == ".json" else _table(told)
        outputs.write(file, text)
    shell.say(shell.console, _table(told))
    shell.say(shell.console, f"{time.perf_counter() - start:.0f} s")
    mistakes = told["killed"] + told["survived"]
    return "inconclusive" if not mistakes else "fail" if told["survived"] else "pass"


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
    if alone := told["only the layer alone"]:
        share = (told["killed"] - len(alone)) / (told["killed"] + told["survived"])
        lines += ["", f"Random networks alone kill {100 * share:.1f} %. Only the layer by itself shows:", ""]
        lines += [f"- `{name.rpartition(': ')[0]}`: {name.rpartition(': ')[2]}" for name in alone]
    lines += ["", "Survivors:", ""] if told["survivors"] else []
    lines += [f"- `{name}`" for name in told["survivors"]]
    lines += ["", "No mistakes, and why:", ""] if told["equivalents"] else []
    lines += [f"- `{name}`: {why}" for name, why in told["equivalents"].items()]
    return "\n".join(lines) + "\n"
