"""Malformed calls by the thousand, over the whole catalogue: `python -m tests.fuzz --count 5000 --seed 1`.

A call is an ordinary one with one thing wrong: a setting, an input, a parameter, a key, a cotangent, a batch. What
comes of it is counted:

    typed     a LayerError, TreeError or Diverged: it says what came, what was expected and what to do
    fine      nothing was wrong after all, or it was turned into what was meant: an answer of finite numbers
    noted     an error of Python's or JAX's, with the layer's path in a note
    bare      an error of Python's that names no layer
    raw       an error from inside of JAX or NumPy that names no layer
    silent    no error, where what was given makes no sense, or the answer is NaN, Inf or empty

Exit code 1 if any call is silent, raw or bare, or fewer than 95 % are typed or fine.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.calls import BAD, KINDS, OUTCOMES, cheap, part


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="malformed calls, and what comes of them")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="every call with what came of it")
    parser.add_argument("--show", type=int, default=10, help="how many of each bad outcome to print (default 10)")
    options = parser.parse_args()
    begun, size = time.perf_counter(), 250
    sizes = [min(size, options.count - at) for at in range(0, options.count, size)]
    seeds = [options.seed * 1_000_003 + k for k in range(len(sizes))]
    with (
        tempfile.TemporaryDirectory() as kept,
        ProcessPoolExecutor(options.jobs, get_context("spawn"), cheap, (kept,)) as executor,
    ):
        found = [row for rows in executor.map(part, sizes, seeds) for row in rows]
    counts = {kind.__name__: Counter(row[2] for row in found if row[0] == kind.__name__) for kind in KINDS}
    total = sum(counts.values(), Counter())
    print(f"{'':12}" + "".join(f"{name:>8}" for name in OUTCOMES))
    for name, row in [*counts.items(), ("all", total)]:
        print(f"{name:12}" + "".join(f"{row[o]:8}" for o in OUTCOMES))
    for bad in (*BAD, "noted"):
        rows = [row for row in found if row[2] == bad]
        for kind, words, _, text in rows[: options.show]:
            print(f"{bad:7} {kind}: {words}\n        {text.splitlines()[0][:200] if text else ''}")
    good = (total["typed"] + total["fine"]) / max(len(found), 1)
    print(f"{len(found)} calls, {good:.1%} typed or fine, {time.perf_counter() - begun:.0f} s, seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=0))
    return int(good < 0.95 or any(total[bad] for bad in BAD))


if __name__ == "__main__":
    sys.exit(main())
