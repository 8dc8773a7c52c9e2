"""What a long campaign of random networks has met, out of its journal: the record behind the page about it.

    python -m verify networks --count 1000000 --seed 11 --journal million
    python -m benchmarks.verify.covered million

writes benchmarks/verify/results/networks.json, out of which the site makes its tables, `python -m docs.tools.figures`
the figure, and a table in networks.md. A pair of neighbours is possible if the second takes some array that the first
makes: `verify.architectures.campaign.neighbours`, which tries them all for a minute.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from verify.architectures.campaign import Tally, expected, neighbours, recorded
from verify.architectures.judge import REMARKS
from verify.naming.catalogues import catalogue
from verify.report import outputs

OUTPUT = Path(__file__).parent / "results" / "networks.json"
OFTEN = 1000  # times that everything has to be met
SHOWN = 20  # of what was not


def record(name: str, seed: int, chapters: list[Tally]) -> dict[str, Any]:
    """The counts at the end, and how they grew: one row for each chapter."""
    (layers, forms), possible = expected(name), neighbours(catalogue(name))
    total, rows = Tally(), []
    for chapter in chapters:
        total.add(chapter)
        met = {"layers": layers & {*total.layers}, "forms": forms & {*total.forms}, "pairs": possible & {*total.pairs}}
        rows.append(
            {"networks": total.networks, "disagreements": len(total.failures)} | {k: len(v) for k, v in met.items()}
        )
    return {
        "catalogue": name,
        "seed": seed,
        "networks": total.networks,
        "disagreements": len(total.failures),
        "process hours": round(total.seconds / 3600, 2),
        "compiled": total.compilations,
        "remarks": {remark: n for remark, n in total.remarks.items() if remark},
        "asked": dict(sorted(total.asked.items())),
        "possible": {"layers": len(layers), "forms": len(forms), "pairs": len(possible)},
        "seldom": {
            what: dict(sorted(((k, seen[k]) for k in wanted if seen[k] < OFTEN), key=lambda item: (item[1], item[0])))
            for what, seen, wanted in (("layers", total.layers, layers), ("forms", total.forms, forms))
        },
        "chapters": rows,
    }


def table(told: dict[str, Any]) -> str:
    """Coverage after each tenth of the networks, and what was met seldom."""
    rows, possible = told["chapters"], told["possible"]
    shown = {next(i for i, r in enumerate(rows) if r["networks"] >= told["networks"] * t / 10) for t in range(1, 11)}
    asked = ", ".join(f"{name} {n}" for name, n in told["asked"].items())
    noted = "".join(f" {n} {REMARKS[remark]}." for remark, n in told["remarks"].items())
    lines = [
        f"{told['networks']} networks in {len(rows)} chapters, seed {told['seed']}: {told['disagreements']} disagree. "
        f"{told['compiled']} layers were compiled, {told['process hours']} hours of one process.{noted}",
        "",
    ]
    lines += ["| networks | disagreements | layers | forms | pairs of neighbours |", "|---:|---:|---:|---:|---:|"]
    for row in (rows[i] for i in sorted(shown)):
        share = f"{row['pairs']} of {possible['pairs']}, {row['pairs'] / max(possible['pairs'], 1):.1%}"
        met = " | ".join(f"{row[what]} of {possible[what]}" for what in ("layers", "forms"))
        lines.append(f"| {row['networks']} | {row['disagreements']} | {met} | {share} |")
    lines += ["", f"Further questions, one each: {asked or 'none'}."]
    for what, seldom in told["seldom"].items():
        listed = "; ".join(f"{name} {n}" for name, n in list(seldom.items())[:SHOWN])
        few = f"{len(seldom)} of {possible[what]}, the rarest are {listed}" if seldom else "none"
        lines += ["", f"{what.capitalize()} met fewer than {OFTEN} times: {few}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    told = record(*recorded(options.journal))
    outputs.write(options.output, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    outputs.write(options.output.with_suffix(".md"), table(told))
    print(table(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
