"""This tree beside an earlier commit, on one machine, lap by lap: what has become slower?

    python -m benchmarks.against REVISION                       every workload, about a quarter of an hour
    python -m benchmarks.against REVISION --only LSTM --laps 40

Two processes, one in a checkout of the revision and one here, each compile a workload's own form. Where the optimized
programs are the same, but for names, nothing is left to time. The others run in turn, so that what else the machine
does meets both. A ratio is here / there: of times the median over neighbouring laps with its quartiles, and that of the
least times, which says more where much else is done; of temporary memory and FLOPs the compiler's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import written
from benchmarks.race import Lap, ratio

ROOT = Path(__file__).parents[1]

RACER = """
import hashlib, json, re, sys, time
import jax
from benchmarks.contests import OURS
from benchmarks.race import compiled, threaded
from benchmarks.workloads import workloads

known = {w.name: w for w in workloads()}
answer, sys.stdout = sys.stdout, sys.stderr
print(json.dumps([[name, w.group] for name, w in known.items()]), file=answer, flush=True)
for line in sys.stdin:
    word, _, name = line.strip().partition(" ")
    if word == "make":
        jax.clear_caches()
        contest, racer = known[name].make(), None
        way, own = contest.ways[OURS], contest.states.get(OURS)
        given, args = ({}, contest.arguments) if own is None else ({"donate_argnums": 0}, (own, *contest.arguments))
        text = re.sub(r", metadata=\\{[^}]*\\}", "", jax.jit(way, **given).lower(*args).compile().as_text())
        text = text[re.search(r"^(%|ENTRY )", text, re.M).start():]  # without the module's name and tables of sources
        order = {}
        text = re.sub(r"%[\\w.-]+", lambda m: str(order.setdefault(m[0], len(order))), text)
        said = hashlib.sha256(text.encode()).hexdigest()
    elif word == "ready":  # where the programs are the same there is no need to
        racer = compiled(way, contest.arguments) if own is None else threaded(way, own, contest.arguments)
        racer.run()
        begin = time.perf_counter()
        racer.run()
        calls = max(1, round(float(sys.argv[1]) / (time.perf_counter() - begin)))
        said = [racer.lap.temporary, racer.lap.flops]
    else:
        begin = time.perf_counter()
        for _ in range(calls):
            racer.run()
        said = (time.perf_counter() - begin) / calls
    print(json.dumps(said), file=answer, flush=True)
"""


class Racer:
    """A process in one tree that compiles and runs its workloads on demand."""

    def __init__(self, tree, seconds):
        command = [sys.executable, "-c", RACER, str(seconds)]
        self.process = subprocess.Popen(command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.workloads = dict(self.hear())

    def ask(self, words):
        assert self.process.stdin
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self):
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of a tree ended with {self.process.wait()}; its error is above")
        return json.loads(line)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision")
    parser.add_argument("--only", metavar="WORD", help="only workloads whose name or group contains this")
    parser.add_argument("--laps", type=int, default=21, help="how often each runs, at least twice")
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a lap takes (default %(default)s)")
    parser.add_argument("--slower", type=float, default=1.03, help="the ratio that is too much (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "there"
        _git("add", "--quiet", "--detach", tree, options.revision)
        try:
            records = _race(Racer(ROOT, options.seconds), Racer(tree, options.seconds), options)
        finally:
            _git("remove", "--force", tree)
    slower = [f"{r['workload']} {r['time'][0]:.2f}" for r in records if r["time"][0] > options.slower]
    print(f"{len(records)} workloads, {len(slower)} slower than {options.slower}: {', '.join(slower) or 'none'}")
    if options.json:
        written(options.json, json.dumps(records, indent=1) + "\n")
    return int(bool(slower))


def _race(here, there, options):
    records = []
    for name in here.workloads.keys() ^ there.workloads.keys():
        print(f"{name:48} is in one of the two alone")
    for name, group in here.workloads.items():
        if name not in there.workloads or (options.only and options.only not in name + " " + group):
            continue
        programs = [racer.ask(f"make {name}") for racer in (here, there)]
        if programs[0] == programs[1]:
            records.append({"workload": name, "time": [1.0, 1.0, 1.0], "same": True})
            print(f"{name:48} is the same program", flush=True)
            continue
        made = [racer.ask("ready") for racer in (here, there)]
        laps = [[], []]
        for n in range(options.laps):
            for k in (0, 1) if n % 2 else (1, 0):
                laps[k].append((here, there)[k].ask("run"))
        memory, flops = (a / b if a is not None and b else None for a, b in zip(*made, strict=True))
        time = ratio(Lap(laps[0]), Lap(laps[1]))
        least = min(laps[0]) / min(laps[1])
        records.append({"workload": name, "time": time, "least": least, "memory": memory, "flops": flops})
        said = (("least", least), ("memory", memory), ("FLOPs", flops))
        said = [f"{word} {v:.3f}" for word, v in said if v is not None]
        print(f"{name:48} {time[0]:5.3f} ({time[1]:.3f} to {time[2]:.3f})  {', '.join(said)}", flush=True)
    return records


def _git(*words):
    subprocess.run(["git", "worktree", *map(str, words)], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
