"""python -m benchmarks.verify.false_alarms: right rules at many examples; every verdict but "pass" is an alarm.

The rules are those of `corpus`: half precision, kinks, huge ranges and ill-conditioned ones among them.
An audit takes one of them at an example drawn anew. Figures go into results/.
"""

import argparse
import json
import sys
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

import verify
from benchmarks.verify.corpus import RESULTS, is_float
from corpus import entries, entry
from verify.inputs.case import single
from verify.processes.safely import Pool
from verify.subject.contract import Constraint


def drawn(args: tuple, rng: np.random.Generator) -> tuple:
    """The example with its float leaves stretched a little and in another order, unless they are special."""

    def leaf(x: Any) -> Any:
        if not is_float(x) or not np.size(x) or not np.isfinite(np.asarray(x, np.float64)).all():
            return x
        values = np.asarray(x, np.float64)
        domain = Constraint.of(values)
        if domain.binary or domain.simplex or values.size < 2 or np.ptp(values) == 0:
            return x
        kept = domain.least is not None or domain.rising is not None  # in another order it would be something else
        new = (values if kept else rng.permutation(values.ravel()).reshape(values.shape)) * np.exp(
            0.2 * rng.normal(size=values.shape)
        )
        new = domain.keep(np.clip(new, values.min(), values.max()))
        return jax.numpy.asarray(single(new), x.dtype)

    return jax.tree.map(leaf, args)


def some(names: list[str], seed: int, level: str) -> list[dict[str, Any]]:
    """Audits of these rules at one seed: one process's share."""
    rows = []
    for name in names:
        begun = time.process_time()
        f, plain, args = entry(name).make()
        if seed and name not in PINNED:
            args = drawn(args, np.random.default_rng(seed))
        report = verify.check(f, *args, reference=plain, seed=seed, level=level)
        row = {"name": name, "seed": seed, "verdict": report.verdict, "cpu": round(time.process_time() - begun, 2)}
        rows.append(row | ({} if report.verdict == "pass" else {"report": str(report)}))
    return rows


PINNED = {"difference_of_squares", "solve_hilbert", "polyfit_vandermonde_qr"}  # the example itself is what is hard


def upper(alarms: int, audits: int) -> float:
    """Wilson's upper bound, 95 %, of the rate."""
    z, p = 1.96, alarms / audits
    return (p + z * z / (2 * audits) + z * ((p * (1 - p) + z * z / (4 * audits)) / audits) ** 0.5) / (
        1 + z * z / audits
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=27, help="examples of each rule (default: 2000 audits)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--level", default="quick")
    options = parser.parse_args()
    names, rows = [e.name for e in entries(right=True)], []
    shares = [(names[i::8], seed) for seed in range(options.first, options.first + options.seeds) for i in range(8)]
    with Pool(options.jobs, timeout=3600) as pool:
        parts = [(share, seed, options.level) for share, seed in shares]
        for _, found in track(pool.sure(some, parts), "shares", len(parts)):
            rows += found
    alarms = [row for row in rows if row["verdict"] != "pass"]
    figures = {
        "rules": len(names),
        "audits": len(rows),
        "level": options.level,
        "alarms": len(alarms),
        "rate below (95 %)": upper(len(alarms), len(rows)),
        "flagged": alarms,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"false_alarms_{options.level}.json").write_text(json.dumps(figures, indent=1) + "\n")
    Console().print(f"{len(rows)} audits of {len(names)} right rules ({options.level}): {len(alarms)} alarms")
    for row in alarms:
        Console().print(f"{row['name']}, seed {row['seed']}\n{row['report']}", markup=False, soft_wrap=True)
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
