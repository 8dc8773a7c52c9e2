"""From breaches to findings: one for each law and leaf, with the inputs at which it was seen, its kind and a replay."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from verify.diagnose.diagnose import diagnose
from verify.laws.law import ESTIMATED, Breach, Draw, Plan, blind_leaf
from verify.laws.precision import telling
from verify.report.report import Finding
from verify.run.bench import Bench, Refused, finite
from verify.tolerance.waivers import DIGITS, INFINITE


def told(bench: Bench, breaches: list[Breach], seed: int) -> list[Finding]:
    """One finding for each law and leaf, with the inputs at which it was seen."""
    together: dict[Any, list[Breach]] = {}
    for b in breaches:
        together.setdefault((b.law, b.leaf, b.where, b.note, b.waiver), []).append(b)
    findings = []
    shown = {leaf for law, leaf, _, note, _ in together if law == "dense" and not note}
    plain = {b.leaf for b in breaches if b.law == "dense" and not b.note and b.draw and b.draw[0].ordinary}
    for (law, leaf, where, note, waiver), group in together.items():
        if (law == "adjoint" and shown) or (law == "precision" and leaf in shown):
            continue  # the same mistake, seen less sharply
        if (law in ("settings", "parts") and leaf in plain) or (law == "twice" and plain):
            continue  # what is wrong everywhere is wrong here too
        worst = max(group, key=lambda b: b.size)
        place = where or (bench.flat.layout.floats[leaf] if leaf is not None else "")
        named = (worst, *group)  # the worst first, whose size is given
        labels = list(dict.fromkeys(_at(b.draw) for b in named if b.draw))
        at = (
            f"; at {', '.join(labels[:4])}{f' and {len(labels) - 4} more' if len(labels) > 4 else ''}" if labels else ""
        )
        estimates = bench.flat.subject.estimator and law in ESTIMATED
        softened = note or estimates or (bench.flat.subject.nonlinear and law in ("linear", "zero"))
        besides = {b.law for b in breaches if b.leaf in (leaf, None) and not b.note}
        if estimates and law == "dense" and leaf is not None:
            worst = replace(worst, text=_bias(bench, leaf))
        findings.append(
            Finding(
                law,
                "note" if softened else "error",
                place,
                float(worst.size),
                "" if note else diagnose(group, bench, besides),
                _replay(bench, seed, worst),
                worst.text + at,
                tuple(labels),
                waiver,
            )
        )
    return findings


def _bias(bench: Bench, leaf: int) -> str:
    """An estimator's angle and length against the true gradient, over the ordinary draws."""
    draws = list(bench.memo["draws"])
    ours = np.concatenate([bench.pull(*d).cotangents[leaf].ravel() for d in draws])
    truth = np.concatenate([bench.truth(*d).cotangents[leaf].ravel() for d in draws])
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(truth))
    if not all(lengths):
        return f"an estimator: its length is {lengths[0]:.2g}, the true gradient's {lengths[1]:.2g}"
    angle = np.degrees(np.arccos(np.clip(ours @ truth / (lengths[0] * lengths[1]), -1, 1)))
    return f"an estimator: {angle:.1f}° from the true gradient, {lengths[0] / lengths[1]:.3g} times as long"


def _replay(bench: Bench, seed: int, breach: Breach) -> str:
    case = f"  # {breach.draw[0].label}, {breach.draw[1]}, {breach.dtype}" if breach.draw else ""
    shown = ", ".join(f"{x.dtype}{list(np.shape(x))}" for x in bench.example.floats + bench.example.others)
    return f"verify.check({bench.flat.subject.name}, <{shown}>, seed={seed}){case}"


def note(law: str, text: str, waiver: str = "", inputs: Iterable[str] = ()) -> Finding:
    return Finding(law, "note", "", 0.0, "", "", text, tuple(dict.fromkeys(inputs)), waiver)


def blind(bench: Bench, plan: Plan) -> list[Finding]:
    """What the inputs could not show: leaves without a gradient, references that are not finite."""
    notes = []
    for k, name in enumerate(bench.flat.layout.floats):
        if blind_leaf(bench, plan, k):
            text = "its gradient is zero, but for rounding, at every input: a factor in it cannot be seen"
            notes.append(Finding("dense", "note", name, 0.0, "", "", text))
    unsure = [d for d in plan.all if not _known(bench, d)]
    if unsure:
        labels = list(dict.fromkeys(d[0].label for d in unsure))
        text = f"the reference is not finite at {', '.join(labels)}; not counted there"
        notes.append(note("finite", text, INFINITE, map(_at, unsure)))
    if (inner := bench.memo["inner"]) and not bench.memo["both"]:
        text = (
            f"given float64 it rounds to {inner} inside, and the definition does not: judged as one that keeps {inner}"
        )
        notes.append(note("precision", text))
    if not (bench.flat.subject.estimator or telling(bench, plan)):
        text = "the definition's own gradient loses nearly all in lower precision: not judged there"
        notes.append(note("precision", text, DIGITS))
    if beyond := bench.memo.get("outside"):
        labels = list(dict.fromkeys(d[0].label for d in beyond))
        text = f"the function's own output is not finite at {', '.join(labels)}, nor at some inputs like the example"
        notes.append(note("finite", f"{text}; taken for inputs that it is not made for", INFINITE, map(_at, beyond)))
    return notes


def _at(draw: Draw) -> str:
    return f"{draw[0].label} ({draw[0].shapes})"


def _known(bench: Bench, draw: Draw) -> bool:
    try:
        return finite(bench.truth(*draw).cotangents)
    except Refused:
        return False
