"""Networks of 3 to 12 layers with one fault: is it noticed, is the right layer named, and the right kind of mistake?

    python -m benchmarks.verify.located --count 500 --output benchmarks/verify/results/located.json

The layer is named by `verify.locate` in each network. The kind is what `verify.check` says of the layer so named, at an
input like the one that it met, once for each of the faults in faults.py.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

import jbp
import verify
from benchmarks.verify.faults import FAULTS
from verify.architectures.networks import Array, Network, draw_inputs
from verify.architectures.protocol import leaves
from verify.report import outputs

INPUT = {0: Array((4, 5), below=5), 2: Array((3, 5)), 3: Array((2, 3, 5)), 4: Array((2, 4, 3, 2))}
SMOOTH = jbp.layers.Tanh(), jbp.layers.Sigmoid(), jbp.layers.Sin(), jbp.layers.SiLU(), jbp.layers.Softplus()
FLAT = *SMOOTH, jbp.layers.Dense(5), jbp.layers.Dense(5), jbp.Residual(jbp.layers.Dense(5))
NAMES = {  # what verify may call each kind of mistake
    "factor": r"constant factor|factor of a size",
    "sign": r"sign",
    "missing term": r"missing term|zero",
    "transposed": r"transpose|reversed|swapped",
    "wrong axis": r"off by one along|wrong axis|transpose",
    "off by one in time": r"off by one along",
    "forgotten sum": r"missing sum|repeated indices|constant factor",
    "one element": r"one element",
    "clipped": r"not linear in the cotangent",
}


@cache
def wrong_layer(number: int) -> Any:
    _, right, break_it, _ = FAULTS[number]
    return break_it(right)


def network(number: int, rng: random.Random) -> Network:
    """Right layers with fault `number` somewhere among them: 3 to 12 in all."""
    _, _, _, rank = FAULTS[number]
    wrong, size = wrong_layer(number), rng.randint(3, 12)
    kept = FLAT if rank in (2, 3) else SMOOTH
    place = 0 if rank == 0 else rng.randrange(size - 1)
    before = [rng.choice((*kept, jbp.layers.LayerNorm())) for _ in range(place)]
    # a fault in a constant that a normalization above takes off again is none: no normalization follows
    after = [rng.choice((*SMOOTH, jbp.layers.Dense(3), jbp.layers.Dense(5))) for _ in range(size - 1 - place)]
    wrapped = rng.choice((wrong, wrong, jbp.Remat(wrong)))
    return Network(jbp.Serial(*before, wrapped, *after), INPUT[rank], rng.randrange(2**16))


@cache
def diagnoses(number: int) -> tuple[str, ...]:
    _, _, _, rank = FAULTS[number]
    x = draw_inputs(INPUT[rank], np.random.default_rng(number), jnp.float32)
    report = verify.check(wrong_layer(number), x, level="quick")
    return tuple(f.diagnosis for f in report.errors)


def right_kind(number: int) -> str:
    """ "right", "unknown" or "wrong": what the audit calls the mistake."""
    said = [d for d in diagnoses(number) if d]
    if any(re.match(NAMES[FAULTS[number][0]], d) for d in said):
        return "right"
    return "unknown" if all(d.startswith("unknown") for d in said) else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--no-kinds", action="store_true", help="do not ask for the kind of mistake, which takes longest"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rng, tally, missed, kinds = random.Random(options.seed), Counter(), [], Counter()
    begun, sizes = time.perf_counter(), Counter()
    for i in track(range(options.count), "networks with one fault", console=Console(stderr=True)):
        number = i % len(FAULTS)
        drawn = network(number, rng)
        expected = [path for path, node in leaves(drawn.layer) if node is wrong_layer(number)]
        sizes[len(leaves(drawn.layer))] += 1
        if not verify.audit(drawn).disagrees:
            outcome = "not noticed"
        else:
            named = [fault.path for fault in verify.locate(drawn)]
            outcome = "right layer" if named == expected else "wrong layer" if named else "no layer"
        tally[outcome] += 1
        if outcome != "right layer":
            missed.append(f"{outcome}: fault {number} ({FAULTS[number][0]}) in {drawn.layer!r}, seed {drawn.seed}")
    if not options.no_kinds:
        each = {k: right_kind(k) for k in track(range(len(FAULTS)), "kinds", console=Console(stderr=True))}
        kinds = Counter(each.values())
        missed += [f"{each[k]} kind: fault {k}, {FAULTS[k][0]}: {diagnoses(k)}" for k in each if each[k] != "right"]
    told = {
        "networks": options.count,
        "seed": options.seed,
        "layers in each": {str(k): n for k, n in sorted(sizes.items())},
        **dict(tally),
        "share right layer": tally["right layer"] / options.count,
        "kinds of mistakes": dict(kinds),
        "missed": missed,
        "seconds": round(time.perf_counter() - begun),
    }
    text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
    if options.output:
        outputs.write(options.output, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
