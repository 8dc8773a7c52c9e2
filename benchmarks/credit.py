"""python -m benchmarks.credit: the rules of examples.credit from several seeds, recorded in results/credit.json.

For each task and rule it has the held-out accuracy and the angle of the first layer at the end of each run, and the
angles along the first one. Ten minutes on one core.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from examples.credit import ACCURACY, ANGLE, NETS, RULES, WITHOUT, trained
from examples.data import cluttered, images

RESULTS = Path(__file__).parent / "results" / "credit.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.credit", description="Rules of credit, several seeds.")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rules", nargs="*", default=list(RULES), help="these alone; the others as recorded")
    options = parser.parse_args()
    records = {(r["task"], r["rule"]): r for r in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for (task, net), data in zip(NETS.items(), (images(), cluttered()), strict=True):
        for name in options.rules:
            histories = trained(name, net, data, options.steps, range(options.seeds))
            record = {"task": task, "rule": name, "steps": options.steps}
            record["accuracy"] = [round(history[-1][ACCURACY], 4) for history in histories]
            if name not in WITHOUT:
                record["angle"] = [round(history[-1][ANGLE], 2) for history in histories]
                record["along"] = [(row["step"], round(row[ANGLE], 2)) for row in histories[0] if ANGLE in row]
            records[task, name] = record
            found = record["accuracy"]
            print(f"{task}, {name}: {mean(found):.3f} ± {stdev(found) if found[1:] else 0:.3f}", flush=True)
    RESULTS.write_text("[" + ",\n ".join(map(json.dumps, records.values())) + "]\n")


if __name__ == "__main__":
    main()
