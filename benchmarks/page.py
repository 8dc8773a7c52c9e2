"""The records as a table for a page, as a figure, and in a few lines."""

from itertools import groupby
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from benchmarks.contests import JAX

Record = dict[str, Any]

COLUMNS = "temp", "peak", "flops", "compile", "error"


def summary(records: list[Record]) -> list[str]:
    """Geometric means against jax.grad, what is behind it, and how times grow with size."""
    against = [r for r in records if r["peer"] == JAX and r["group"] != "growth" and "failed" not in r]
    times, temps = ([r[key] for r in against if r[key]] for key in ("time_ratio", "temp_ratio"))
    lines = []
    if times:
        lines.append(f"geometric mean of {len(times)} ratios to jax.grad: time {geometric_mean(times):.2f}")
        if temps:
            lines[-1] += f", temporary memory {geometric_mean(temps):.2f}"
    behind = [f"{r['workload']} {r['time_ratio']:.2f}" for r in against if r["time_ratio"] > 1.03]
    if behind:
        lines.append("slower than jax.grad: " + "; ".join(behind))
    missed: dict[str, list[str]] = {}
    for r in against:
        if r["aim"] and r["time_ratio"] > r["aim"]:
            missed.setdefault(r.get("why", ""), []).append(f"{r['workload']} {r['time_ratio']:.2f} (aim {r['aim']})")
    for why, names in missed.items():
        lines.append(f"behind their aims: {'; '.join(names)}" + (f". {why[0].upper()}{why[1:]}" if why else ""))
    for what, (ours, theirs) in slopes(records).items():
        lines.append(f"time grows with {what} as its power {ours:.2f}, that of jax.grad {theirs:.2f}")
    return lines


def slopes(records: list[Record]) -> dict[str, tuple[float, float]]:
    """What grows -> the slopes of log time over log size, ours and jax.grad's."""
    grown = sorted(
        (r for r in records if r.get("grows") and r["peer"] == JAX and "failed" not in r), key=lambda r: r["grows"]
    )
    found = {}
    for what, of in groupby(grown, key=lambda r: r["grows"][0]):
        rows = list(of)
        if len(rows) > 1:
            size = np.log([r["grows"][1] for r in rows])
            both = [np.log([r["seconds"][side] for r in rows]) for side in (0, 1)]
            found[what] = tuple(float(np.polyfit(size, t, 1)[0]) for t in both)
    return found


def markdown(records: list[Record]) -> str:
    """A table, with the losses as plain as the wins."""
    first = records[0]
    lines = [
        f"{first['device']}, JAX {first['jax']}. Ratios are ours / theirs: below 1.00 ours is faster, smaller, nearer.",
        "",
        "| workload | peer | time | quartiles | temporary memory | peak memory | FLOPs | compile | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        if "failed" in r:
            lines.append(f"| {r['workload']} | {r['peer']} | could not run: {r['failed']} | | | | | | |")
            continue
        cells = ["–" if r[f"{key}_ratio"] is None else f"{r[f'{key}_ratio']:.2f}" for key in COLUMNS]
        low, high = r["time_quartiles"]
        time = f"{r['time_ratio']:.2f}" if r["time_ratio"] <= 1.03 else f"**{r['time_ratio']:.2f}**"
        row = r["workload"], r["peer"], time, f"{low:.2f}–{high:.2f}", *cells
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *[f"- {line}" for line in summary(records)], ""])


def figure(records: list[Record], path: Path) -> None:
    """Ratios of time and memory to jax.grad, workload by workload, and the cost curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [r for r in records if r["peer"] == JAX and r["group"] != "growth" and "failed" not in r][::-1]
    grown = slopes(records)
    size = (14 if grown else 8, max(4, 0.22 * len(rows)))
    fig, axes = plt.subplots(1, 2 if grown else 1, figsize=size, layout="constrained", squeeze=False)
    left = axes[0, 0]
    y, times = np.arange(len(rows)), [r["time_ratio"] for r in rows]
    left.barh(y, times, height=0.6, color=["C0" if t <= 1.03 else "C3" for t in times])
    left.plot([r["temp_ratio"] or np.nan for r in rows], y, "k|", markersize=8)
    left.axvline(1, color="0.4", linewidth=1)
    left.set(yticks=y, yticklabels=[r["workload"] for r in rows], xscale="log")
    left.set(xlabel="ours / jax.grad: bars time, ticks temporary memory")
    left.margins(y=0.01)
    left.grid(axis="x", alpha=0.3, which="both")
    for i, (what, slope) in enumerate(grown.items()):
        of = [r for r in records if r.get("grows") and r["grows"][0] == what and r["peer"] == JAX]
        for side, name, style in ((0, "ours", "o-"), (1, "jax.grad", "s--")):
            points = sorted((r["grows"][1], 1e3 * r["seconds"][side]) for r in of)
            label = f"{what}, {name}: slope {slope[side]:.2f}"
            axes[0, 1].loglog(*zip(*points, strict=True), style, color=f"C{i}", markersize=4, label=label)
    if grown:
        axes[0, 1].set(xlabel="size", ylabel="milliseconds")
        axes[0, 1].grid(alpha=0.3, which="both")
        axes[0, 1].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)
    plt.close(fig)
