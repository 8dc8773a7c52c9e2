"""PyTorch's own module tests, run against jbp in float64.

    python -m benchmarks.parity                      all samples, a table
    python -m benchmarks.parity --only conv          modules whose name this pattern is found in
    python -m benchmarks.parity --json results.json  also written: results.json and results.md; of a file that is
                                                     there, the modules that were not run are kept

Needs the extra `parity`. Exit status 1 where a sample disagrees that is not one of PyTorch's own faults.
"""

import argparse
import json
import os
import sys
import traceback
from collections import Counter
from pathlib import Path

import jax
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.parity import page
from benchmarks.parity.comparison import TOLERANCE, Compared, compare
from benchmarks.parity.database import samples
from benchmarks.parity.says import SAYS


def outcome(sample) -> Compared:
    """The comparison, or why there is none: no translation, or the error of the layer that was asked for."""
    say = SAYS.get(type(sample.module))
    if say is None:
        return Compared(unsaid="no translation")
    try:
        return compare(sample, say)
    except Exception as error:  # noqa: BLE001 (whatever it is, it goes into the table)
        if os.environ.get("PARITY_TRACE"):
            traceback.print_exc()
        return Compared(unsaid=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])


def run(only: str = "", console: Console | None = None) -> list[dict]:
    """A record for each module: how many samples, said, agreeing, and what is not."""
    records: dict[str, dict] = {}
    for sample in samples(only):
        record = records.setdefault(
            sample.name,
            {"module": sample.name, "samples": 0, "distinct": set(), "said": 0, "agree": 0, "worst": 0.0,
             "disagree": [], "faults": [], "unsaid": []},
        )  # fmt: skip
        found = outcome(sample)
        record["samples"] += 1
        record["distinct"].add(sample.key())
        if found.unsaid:
            record["unsaid"].append({"sample": sample.words, "why": found.unsaid})
            continue
        record["said"] += 1
        if found.theirs:
            record["faults"].append({"sample": sample.words, "what": f"{found.fault}; {found.theirs}"})
        elif found.fault:
            record["disagree"].append({"sample": sample.words, "training": sample.module.training, "what": found.fault})
        else:
            record["agree"] += 1
            record["worst"] = max(record["worst"], found.worst)
    for record in records.values():
        record["distinct"] = len(record["distinct"])
    return sorted(records.values(), key=lambda r: r["module"])


def show(records: list[dict], console: Console) -> None:
    table = Table("module", "samples", "said", "agree", "disagree", "why not")
    for r in records:
        why = Counter(u["why"] for u in r["unsaid"]).most_common(1)
        wrong = [f"{d['sample']}: {d['what']}" for d in r["disagree"][:1]]
        words = wrong or [f"{n}: {w}" for w, n in why]
        table.add_row(
            r["module"], str(r["samples"]), str(r["said"]), str(r["agree"]), str(len(r["disagree"])), "".join(words)
        )
    console.print(table)
    total = page.totals(records)
    console.print(", ".join(f"{name} {n}" for name, n in total.items()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="modules whose name this pattern is found in")
    parser.add_argument("--json", type=Path, help="write the table there, and beside it as .md")
    parser.add_argument("--all", action="store_true", help="print every sample that is not said or disagrees")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    console = Console()
    records = run(args.only)
    show(records, console)
    if args.all:
        for r in records:
            lines = [f"unsaid   {r['module']} {u['sample']}: {u['why']}" for u in r["unsaid"]]
            lines += [f"disagree {r['module']} {d['sample']}: {d['what']}" for d in r["disagree"]]
            print(*lines, sep="\n", end="\n" * bool(lines))
    if args.json:
        versions = {"torch": torch.__version__, "jax": jax.__version__}
        before = json.loads(args.json.read_text())["modules"] if args.json.exists() else []
        records = page.merged(before, records)
        found = {**versions, "tolerance": TOLERANCE, **page.totals(records), "modules": records}
        args.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        args.json.with_suffix(".md").write_text(page.markdown(found))
    return int(any(r["disagree"] for r in records))


if __name__ == "__main__":
    sys.exit(main())
