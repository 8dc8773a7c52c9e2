"""Tables made of recorded figures when the site is built, each for its marker in a page: <!-- made: name -->."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean, mean, stdev
from typing import Any

ROOT = Path(__file__).parents[2]
JAX = "jax.grad"
Record = dict[str, Any]


def held(path: str) -> Any:
    return json.loads((ROOT / "benchmarks" / path).read_text())


def audits(name: str) -> Any:
    return held(f"verify/results/{name}.json")


def table(head: str, rows: list[tuple[Any, ...]]) -> str:
    """A table of Markdown; head is the titles with | between them, those of numbers with a colon at the end."""
    titles = [title.strip() for title in head.split("|")]
    lines = [" | ".join(title.removesuffix(":") for title in titles)]
    lines.append(" | ".join("---:" if title.endswith(":") else "---" for title in titles))
    lines += [" | ".join(map(str, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


# benchmarks/results/cpu.json


def records() -> list[Record]:
    return [r for r in held("results/cpu.json") if "failed" not in r]


def against() -> list[Record]:
    return [r for r in records() if r["peer"] == JAX and r["group"] != "growth"]


def named(record: Record) -> str:
    return record["workload"].removeprefix("training step, ")


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def setting() -> str:
    return f"JAX {records()[0]['jax']}, {records()[0]['device']}"


def means() -> str:
    time, memory = (geometric_mean([r[key] for r in against() if r[key]]) for key in ("time_ratio", "temp_ratio"))
    count = len(against())
    return f"The geometric mean over {count} workloads is {time:.2f} in time and {memory:.2f} in temporary memory."


def contests(chosen: list[Record]) -> str:
    head = "workload | time: | quartiles: | temporary memory: | peak memory: | FLOPs: | time to compile:"
    keys = "temp_ratio", "peak_ratio", "flops_ratio", "compile_ratio"
    rows = [
        (named(r), ratio(r["time_ratio"]), "–".join(map(ratio, r["time_quartiles"])), *(ratio(r[key]) for key in keys))
        for r in chosen
    ]
    return table(head, rows)


def both() -> str:
    return contests([r for r in against() if not alone(r) and r["group"] != "training"])


def backward() -> str:
    return contests([r for r in against() if alone(r)])


def alone(record: Record) -> bool:
    return record["workload"].endswith(", backward pass")


def training() -> str:
    steps = [r for r in records() if r["group"] == "training"]
    peers = list(dict.fromkeys(r["peer"] for r in steps))
    rows = []
    for name in dict.fromkeys(map(named, steps)):
        times = {r["peer"]: r["time_ratio"] for r in steps if named(r) == name}
        rows.append((name, *(ratio(times.get(peer)) for peer in peers)))
    return table(" | ".join(["network", *(f"{peer.replace(JAX, f'{JAX} + optax')}:" for peer in peers)]), rows)


def missed() -> str:
    found: dict[str, list[str]] = {}
    for r in against():
        if r["aim"] and r["time_ratio"] > r["aim"]:
            told = f"{named(r)}: {ratio(r['time_ratio'])}, aim {ratio(r['aim'])}"
            found.setdefault(r.get("why", ""), []).append(told)
    sentences = {why: f" {why[:1].upper()}{why[1:]}." if why else "" for why in found}
    lines = [f"- {'; '.join(names)}.{sentences[why]}" for why, names in found.items()]
    return "\n".join(lines)


# benchmarks/parity/results.json


def parity() -> str:
    all_ = held("parity/results.json")
    return (
        f"**{all_['samples']} samples of {len(all_['modules'])} modules: {all_['said']} can be said, "
        f"{all_['agree']} agree, {all_['disagree']} disagree, "
        f"{all_['faults']} differ by a fault of PyTorch's.** PyTorch {all_['torch']}, "
        f"JAX {all_['jax']}, float64 on a CPU, to {all_['tolerance']:g} of the largest element."
    )


def parity_faults() -> str:
    modules = held("parity/results.json")["modules"]
    rows = [(m["module"], f"`{f['sample']}`", f["what"]) for m in modules for f in m["faults"]]
    return table("module | sample | what", rows)


def parity_unsaid() -> str:
    modules = [m for m in held("parity/results.json")["modules"] if m["unsaid"]]
    first = [(m, m["unsaid"][0]) for m in modules]
    rows = [(m["module"], len(m["unsaid"]), f"`{u['sample']}`", u["why"]) for m, u in first]
    return table("module | samples: | the first of them | why", rows)


def parity_modules() -> str:
    modules = held("parity/results.json")["modules"]
    rows = [(m["module"], m["samples"], m["said"], m["agree"], f"{m['worst']:.0e}") for m in modules]
    return table("module | samples: | said: | agree: | worst error:", rows)


# benchmarks/verify/results


def corpus() -> str:
    wrong, right = ([r for r in audits("corpus") if r["kind"] == kind] for kind in ("WRONG", "RIGHT"))
    rows = []
    for checker in ("verify", "check_grads", "gradcheck", "gradcheck fast", "allclose"):
        found, raised = (sum(r[checker] == word for r in wrong) for word in ("fail", "raised"))
        flagged = sum(r[checker] in ("fail", "raised") for r in right)
        rows.append((checker, f"{found} (and {raised} raised)" if raised else found, flagged))
    return table(f"checker | mistakes found, of {len(wrong)}: | right rules flagged, of {len(right)}:", rows)


def floor() -> str:
    kept = [r for r in audits("floor") if r["size"] and r["kept"]]
    rows = []
    for dtype in dict.fromkeys(r["dtype"] for r in kept):
        sizes = sorted({r["size"] for r in kept if r["dtype"] == dtype})
        found = {size: [r["found"] for r in kept if r["dtype"] == dtype and r["size"] == size] for size in sizes}
        least = next((size for size in sizes if all(all(found[s]) for s in sizes if s >= size)), None)
        first = next((size for size in sizes if all(found[size])), None)
        rows.append((dtype, f"{first:.0e}", f"{least:.0e}", len(found[first]) if first else 0))
    return table("dtype | all found at r =: | and at all larger ones from: | places:", rows)


def alarms() -> str:
    rows = []
    for level in ("quick", "standard"):
        r = audits(f"false_alarms_{level}")
        rows.append((level, r["rules"], r["audits"], r["alarms"], f"{r['rate below (95 %)']:.1%}"))
    return table("level | right rules: | audits: | alarms: | rate below, with 95 % confidence:", rows)


def located() -> str:
    r = audits("located")
    kinds = r["kinds of mistakes"]
    return (
        f"In {r['right layer']} of {r['networks']} networks the layer at fault is named. Of the {sum(kinds.values())} "
        f'faults the kind of mistake is named for {kinds["right"]}, "unknown" for {kinds.get("unknown", 0)} and '
        f"wrong for {kinds.get('wrong', 0)}."
    )


def mutants() -> str:
    r = audits("mutants")
    rows = [(rule, n["killed"], n["survived"], n["equivalent"], n["raises"]) for rule, n in r["by rule"].items()]
    mistakes = r["killed"] + r["survived"]
    return (
        f"{r['mutants']} mutants of {r['layers']} layers: {r['killed']} noticed of {mistakes} mistakes. "
        f"{r['equivalent']} are no mistakes, as a person has found, and {r['raises']} raise at every input; "
        "neither are counted.\n\n"
    ) + table("rule | noticed: | not noticed: | no mistake: | raises:", rows)


def networks() -> str:
    return (ROOT / "benchmarks/verify/results/networks.md").read_text()


def planted() -> str:
    return (ROOT / "benchmarks/verify/results/planted.md").read_text()


def released() -> str:
    plain = str.maketrans({"[": r"\[", "*": r"\*"})
    rows = [(r["package"], f"`{r['rule']}`", r["verdict"], r["found"].translate(plain)) for r in audits("released")]
    return table("package | rule | verdict | what was found", rows)


# benchmarks/results/credit.json


def credit() -> str:
    """Each rule's accuracy and angle on both tasks."""
    found = {(r["task"], r["rule"]): r for r in held("results/credit.json")}
    tasks, rules = (list(dict.fromkeys(key[k] for key in found)) for k in (0, 1))

    def cell(r: Record, key: str, digits: int) -> str:
        values = r.get(key, [])
        return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}" if values else ""

    head = "rule | " + " | ".join(f"{task}: | angle:" for task in tasks)
    rows = [(rule, *(cell(found[task, rule], *c) for task in tasks for c in COLUMNS)) for rule in rules]
    return table(head, rows)


COLUMNS = ("accuracy", 3), ("angle", 0)


# benchmarks/results/accelerators.json


def accelerators() -> str:
    """For each chip what every way takes, with memory beside that of jax.grad."""
    found = [r for r in held("results/accelerators.json") if "failed" not in r]
    tables = []
    for chip in dict.fromkeys(r["chip"] for r in found):
        base = {r["network"]: r["temporary"] for r in found if r["chip"] == chip and r["way"].startswith(JAX)}
        rows = [
            (
                r["network"],
                r["way"],
                f"{r['temporary'] / 2**20:.0f}",
                f"{r['temporary'] / base[r['network']]:.2f}",
                f"{r['flops'] / 1e9:.0f}" if r["flops"] else "–",
                f"{sum(r['received'].values()) / 2**20:.0f}",
                r["conditionals"],
            )
            for r in found
            if r["chip"] == chip
        ]
        head = f"network | way | temporary MiB: | beside {JAX}: | GFLOP: | received MiB: | conditionals:"
        tables.append(f"8 × {chip}, JAX {found[0]['jax']}\n\n{table(head, rows)}")
    return "\n\n".join(tables)


MADE: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        *(setting, means, both, backward, training, missed),
        *(parity, parity_faults, parity_unsaid, parity_modules),
        *(corpus, floor, alarms, located, mutants, networks, planted, released, credit, accelerators),
    )
}
