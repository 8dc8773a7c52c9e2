"""This tree beside an earlier commit, on one machine, in turn: what has become slower?

    python -m benchmarks.against REVISION                       every workload, three rounds
    python -m benchmarks.against REVISION --only LSTM --rounds 5

Each round runs `python -m benchmarks` once in a checkout of the revision and once here, so that what else the machine
does meets both. A ratio is that of our own way, here / there: of times the median over rounds, with the least and the
most; of temporary memory the compiler's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision")
    parser.add_argument("--only", action="append", metavar="WORD", help="as for benchmarks; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each workload is timed in a round")
    parser.add_argument("--slower", type=float, default=1.03, help="the ratio that is too much (default %(default)s)")
    options = parser.parse_args()
    times = defaultdict(lambda: defaultdict(list))
    memory = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "there"
        _git("add", "--quiet", "--detach", there, options.revision)
        try:
            for n in range(options.rounds):
                sides = [("there", there), ("here", ROOT)]
                for side, tree in sides if n % 2 else reversed(sides):
                    for word in options.only or [""]:
                        for record in _ours(tree, Path(folder) / "found.json", word, options.seconds):
                            times[record["workload"]][side].append(record["seconds"][0])
                            memory[record["workload"]][side] = record["temp_bytes"][0]
                print(f"round {n + 1} of {options.rounds} is done", file=sys.stderr)
        finally:
            _git("remove", "--force", there)
    slower = []
    for name, sides in times.items():
        ratios = [a / b for a, b in zip(sides["here"], sides["there"], strict=False)]
        if not ratios:
            print(f"{name:48} is in one of the two alone")
            continue
        middle, held = statistics.median(ratios), memory[name]
        slower += [f"{name} {middle:.2f}"] * (middle > options.slower)
        bytes_ = f"{held['here'] / held['there']:.2f}" if held["there"] and held["here"] is not None else "–"
        print(f"{name:48} {middle:5.2f} ({min(ratios):.2f} to {max(ratios):.2f}), memory {bytes_}")
    print(f"{len(times)} workloads, {len(slower)} slower than {options.slower}: {', '.join(slower) or 'none'}")
    return int(bool(slower))


def _git(*words):
    subprocess.run(["git", "worktree", *map(str, words)], cwd=ROOT, check=True)


def _ours(tree, file, word, seconds):
    """A record of each workload with the times of our own way."""
    only = ["--only", word] if word else []
    command = [sys.executable, "-m", "benchmarks", "--seconds", str(seconds), "--json", str(file), *only]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    if not file.exists():
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode} in {tree}: {done.stderr[-800:]}")
    records = json.loads(file.read_text())
    file.unlink()
    return {record["workload"]: record for record in records if "seconds" in record}.values()


if __name__ == "__main__":
    sys.exit(main())
