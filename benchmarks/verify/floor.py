"""python -m benchmarks.verify.floor: how small a mistake in one element may be and still be found, as a curve.

Right rules of `corpus` are benched as `verify.check` does at level standard. Then one element of one
cotangent is multiplied by 1 + r in every result that comes in one dtype, rounded to that dtype, and the laws of numbers
(LAWED) are asked again. r = 0 is the rule as it is: what is found there is a false alarm. The element is drawn among
those that are no smaller than a tenth of the leaf's largest. Where the plain definition's own gradient in that dtype,
or the rule as it is, is off by more than r / 4 of the leaf's largest, as in an ill-conditioned inverse or a sum in
float32, nobody could find it: that is counted beside. Figures and the curve go into results/.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.verify.corpus import RESULTS
from corpus import entries, entry
from verify.check import benched, planned
from verify.laws.law import Plan
from verify.laws.table import LAWS
from verify.processes.safely import Pool
from verify.report.outputs import write
from verify.run.bench import Bench, Refused, Sample
from verify.subject.contract import INFERRED
from verify.subject.subject import subject
from verify.tolerance.budget import off

SIZES = {
    "float64": (0.0, *np.logspace(-13, -8, 11)),
    "float32": (0.0, *np.logspace(-7, -3, 9)),
    "bfloat16": (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.2),
    "float16": (0.0, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.1),
}
LAWED = tuple(law for law in LAWS if law.name in ("dense", "precision"))
# of each dtype: a size, which mistakes of it were found, and which of those where definition and rule keep as much
Told = dict[str, list[tuple[float, list[bool], list[bool]]]]
BARS = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 0.05}


def one_element(bench: Bench, plan: Plan, rng: np.random.Generator) -> tuple[int, int] | None:
    """(leaf, place in it) of an element that matters at the example; None where every gradient is zero."""
    found = bench.pull(*plan.ordinary[0]).cotangents
    least = [0.1 * np.abs(c).max(initial=0) for c in found]
    great = [(k, int(i)) for k, c in enumerate(found) for i in np.flatnonzero(np.abs(c) > least[k])]
    return great[int(rng.integers(len(great)))] if great else None


def planted(leaf: int, place: int, r: float, dtype: str) -> Any:
    """What makes element `place` of cotangent `leaf` wrong by the factor 1 + r in results of this dtype."""

    def corrupt(s: Sample, dy: Any, mode: str, n: int) -> Sample:
        if s.types[leaf][1:] != (dtype,) or not s.cotangents[leaf].size or mode != "jit":
            return s
        c = s.cotangents[leaf].copy()
        at = place % c.size
        c.flat[at] = np.asarray(c.flat[at] * (1 + r)).astype(jax.numpy.dtype(dtype)).astype(np.float64)
        return replace(s, cotangents=(*s.cotangents[:leaf], c, *s.cotangents[leaf + 1 :]))

    return corrupt


def loss(bench: Bench, plan: Plan, leaf: int, dtype: str) -> float:
    """What the definition's own gradient, or the rule as it is, loses of a leaf in this dtype, relative to its largest
    element."""
    runs = (bench.truth, bench.plain, bench.pull) if dtype != "float64" else (bench.truth, bench.pull)
    told = [[run(*d, dtype).cotangents[leaf] for run in runs] for d in plan.noisy]
    return max(off(v, true) / max(np.abs(true).max(initial=0), 1e-300) for true, *rough in told for v in rough)


def noticed(bench: Bench, plan: Plan) -> bool:
    return any(not breach.note for law in LAWED for breach in law.check(bench, plan))


@np.errstate(all="ignore")  # overflow is what some inputs are for
def rows_of(name: str, elements: int, seed: int) -> list[dict[str, Any]]:
    """One rule: how many of some elements are found wrong, for each dtype and size of the mistake."""
    f, plain, args = entry(name).make()
    bench, _ = benched(*subject(f, args, plain, seed), INFERRED)
    tried, rng, rows = planned(bench, seed, "standard", ()), np.random.default_rng(seed), []
    places = [p for p in (one_element(bench, tried, rng) for _ in range(elements)) if p]
    for dtype, sizes in SIZES.items():
        if not isinstance(bench.native, str):
            continue  # a mixture of dtypes is tried as it is
        try:
            lost = [loss(bench, tried, leaf, dtype) for leaf, _ in places]
        except Refused:
            continue  # no such dtype for this rule: eigenvalues in bfloat16
        # where the cotangent of a bfloat16 comes in float32 there is no result in bfloat16 to corrupt
        first = tried.noisy[0]
        told = [
            (place, gone)
            for place, gone in zip(places, lost, strict=True)
            if bench.pull(*first, dtype).types[place[0]][1] == dtype
        ]
        for r in sizes:
            for place, gone in told[: 1 if r == 0 else None]:
                found = noticed(bench.corrupted(planted(*place, r, dtype)), tried)
                row = {"rule": name, "dtype": dtype, "size": float(r), "leaf": place[0], "element": place[1]}
                rows.append(row | {"found": found, "kept": bool(not r or gone <= r / 4)})
    return rows


def shares(rows: list[dict[str, Any]]) -> Told:
    """For each dtype, by size, which of all were found, and which of those where definition and rule keep as much."""
    told = {}
    for dtype, sizes in SIZES.items():
        here = [[row for row in rows if row["dtype"] == dtype and row["size"] == r] for r in sizes]
        both = [[[row["found"] for row in some if row["kept"] >= kept] for kept in (False, True)] for some in here]
        told[dtype] = [(float(r), *pair) for r, pair in zip(sizes, both, strict=True)]
    return told


def share(found: list[bool]) -> float:
    return sum(found) / max(len(found), 1)


def figure(told: Told, file: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for (dtype, points), colour in zip(told.items(), ("#2a6f97", "#e07a1f", "#3a7d44", "#8a4fa3"), strict=True):
        size, _, kept = zip(*points[1:], strict=True)
        axes.plot(
            size, [*map(share, kept)], "o-", ms=4, color=colour, label=f"{dtype}, {share(points[0][1]):.1%} alarms"
        )
        if dtype in BARS:
            axes.axvline(BARS[dtype], color=colour, lw=0.8, ls=":")
    axes.set(xscale="log", ylim=(-0.02, 1.02), ylabel="share found, where definition and rule keep it")
    axes.set_xlabel("relative mistake in one element of one leaf")
    axes.legend(frameon=False, loc="center", bbox_to_anchor=(0.42, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(file, dpi=130)
    plt.close(fig)


def table(told: Told, rules: int) -> str:
    lines = [f"{rules} right rules, one element wrong by the factor 1 + r: the share that the audit finds.", ""]
    for dtype, points in told.items():
        lines += ["| r in " + dtype + " | " + " | ".join(f"{r:.1e}" for r, *_ in points) + " |"]
        lines += ["|---" * (1 + len(points)) + "|"]
        _, of_all, of_kept = zip(*points, strict=True)
        for name, found in (("of all", of_all), ("where definition and rule lose less than r / 4", of_kept)):
            cells = [f"{share(some):.1%} of {len(some)}" if some else "" for some in found]
            lines += [f"| found {name} | " + " | ".join(cells) + " |"]
        lines += [""]
    return "\n".join(lines)


def chosen(count: int) -> Iterable[str]:
    names = [e.name for e in entries(right=True)]
    return names[:: max(1, len(names) // count)][:count]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=int, default=30, help="how many right rules")
    parser.add_argument("--elements", type=int, default=4, help="elements of each rule, one at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    names, rows = list(chosen(options.rules)), []
    with Pool(options.jobs, timeout=3600) as pool:
        parts = [(name, options.elements, options.seed) for name in names]
        for _, found in track(pool.sure(rows_of, parts), "rules", len(parts), console=Console(stderr=True)):
            rows += found
    told = shares(rows)
    RESULTS.mkdir(exist_ok=True)
    text = table(told, len(names))
    write(RESULTS / "floor.json", json.dumps(rows, indent=1) + "\n")
    write(RESULTS / "floor.md", text)
    figure(told, RESULTS / "floor.png")
    print(text)
    missed = [d for d, bar in BARS.items() if any(share(kept) < 0.99 for r, _, kept in told[d] if r >= bar)]
    return 1 if missed or any(any(points[0][1]) for points in told.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
