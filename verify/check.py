"""The conductor: one call audits one subject, and every law has to reject its canaries before it may say "pass"."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from verify import inputs, measure, oracles
from verify.bench import Bench, Refused, finite, narrow
from verify.budget import largest
from verify.diagnose import diagnose
from verify.inputs import Case
from verify.laws import LAWS, Breach, Draw, Law, Plan
from verify.report import Canary, Finding, Report
from verify.subject import Flat, SubjectError, lay_out, subject
from verify.tokens import token

LEVELS = ("quick", "standard")


def check(
    f: Any,
    *example_args: Any,
    reference: Callable[..., Any] | None = None,
    seed: int = 0,
    level: str = "standard",
) -> Report:
    """Audit the backward pass of f at inputs made from one ordinary example.

    f is a function with a custom VJP or JVP, a layer (init, forward, backward, gradient), or `verify.pair(fwd, bwd)`.
    reference is its plain definition, for a layer by default its own `reference`. A layer takes x, or params and x.
    level "quick" leaves out other sizes, lower precisions, vmap and calls that are not compiled.

    Raises SubjectError if there is nothing to audit. Whatever f itself raises becomes a finding.
    """
    if level not in LEVELS:
        raise SubjectError(f"check got level={level!r}; expected one of {LEVELS}.")
    with np.errstate(all="ignore"):  # overflow is what some inputs are for
        report = _audit(f, example_args, reference, seed, level)
    return _replayable(replace(report, source=measure.source(f)), f, example_args, reference, seed, level)


def _replayable(report: Report, f: Any, args: tuple, reference: Any, seed: int, level: str) -> Report:
    """Each finding with the command that shows it again, where a fresh process can find the subject by its name."""
    if not report.findings or not (word := token(f, args, reference, seed, level)):
        return report
    told = (
        replace(f, replay=f"python -m verify replay {word}") if f.severity == "error" else f for f in report.findings
    )
    return replace(report, findings=tuple(told))


def _audit(f: Any, example_args: tuple, reference: Callable[..., Any] | None, seed: int, level: str) -> Report:
    begun = time.monotonic()
    what, args = subject(f, example_args, reference, seed)
    layout = lay_out(args, what.labels)
    flat = Flat(what, layout)
    floats, others = layout.split(args)
    native = _native(floats)
    example = Case(
        "example",
        tuple(inputs.single(x) for x in floats),
        tuple(x if inputs.is_key(x) else np.asarray(x) for x in others),
        ordinary=True,
    )
    if not floats:
        return _nothing(what.name, "no argument has a gradient: give floating-point arrays", begun)

    oracle, notes = oracles.find(flat, *example.at("float64"))
    bench = Bench(flat, oracle, example, native)
    try:
        plan = _plan(bench, seed, level)
    except Refused as refused:
        return _raised(bench, refused, begun)
    if not plan.ordinary:
        text = "the reference has no finite gradient at the example, nor near it: nothing can be compared"
        return _nothing(what.name, text, begun)
    breaches = _all(bench, plan)
    canaries = list(_canaries(bench, plan, {b.law for b in breaches}))
    findings = [*_findings(bench, breaches, seed), *(_note("oracle", text) for text in notes), *_blind(bench, plan)]
    return _report(bench, plan, findings, canaries, begun)


def _native(floats: tuple) -> Any:
    kinds = tuple(str(np.asarray(x).dtype) for x in floats)
    if len(set(kinds)) > 1:
        return kinds
    return kinds[0] if kinds and kinds[0] != "float64" else "float32"


def _plan(bench: Bench, seed: int, level: str) -> Plan:
    rng = np.random.default_rng(seed)
    example, thorough = bench.example, level == "standard"
    cases = [example, *(inputs.ordinary(example, rng, f"like the example {i}") for i in range(1, 6 if thorough else 3))]
    ordinary: list[Draw] = []
    for case in cases:
        shapes = bench.outputs(case, "float64")
        ordinary += [(case, label, dy) for label, dy in inputs.cotangents(shapes, rng, several=case is example)]
    bench.pull(*ordinary[0])  # a subject that cannot be run at its example is said so at once
    kept = []
    for draw in ordinary:
        truth = bench.truth(*draw)
        if all(np.isfinite(c).any() or not c.size for c in truth.cotangents):
            kept.append(draw)
    bench.memo["draws"] = kept
    bench.memo["ordinary"] = [(bench.truth(*d), d[2]) for d in kept]
    bench.memo["inner"] = narrow(bench.flat.vjp, *example.at("float64"), _down(bench, ordinary[0]))
    if bench.oracle.slack:  # differences cost many forwards, and mean nothing at a kink
        rough = 3e-2 if bench.memo["inner"] else bench.oracle.slack
        bench.oracle = replace(bench.oracle, slack=rough)
        return Plan(tuple(kept[:1] + kept[-2:]), (), bench.native, _lower(bench, thorough)[:1], thorough)
    others: list[Draw] = []
    for case in inputs.values(example, rng, _inputs(bench)):
        others += [(case, label, dy) for label, dy in inputs.cotangents(bench.outputs(case, "float64"), rng, False)]
    if thorough:
        for case in inputs.shapes(bench.flat, bench.oracle.primal, example, rng, count=6):
            try:
                shapes = bench.outputs(case, "float64")
            except Refused:
                continue  # the subject says that it does not take this size; that is its right
            others += [(case, label, dy) for label, dy in inputs.cotangents(shapes, rng, False)]
    return Plan(tuple(kept), tuple(others), bench.native, _lower(bench, thorough), thorough)


def _lower(bench: Bench, thorough: bool) -> tuple[Any, ...]:
    """The dtypes below float64 to try: the usual ones, or the example's own mixture."""
    if not isinstance(bench.native, str):
        return (bench.native,)
    return ("float32", "bfloat16", "float16") if thorough else ("float32",)


def _inputs(bench: Bench) -> tuple[int, ...]:
    """The float leaves that are varied one at a time: a layer's x, or a function's first few."""
    names = bench.flat.layout.floats
    own = [i for i, name in enumerate(names) if bench.flat.subject.kind != "layer" or not name.startswith("params")]
    return tuple(own[:6])


def _down(bench: Bench, draw: Draw) -> tuple:
    return bench.cotangent(draw[0], draw[2], "float64")


def _all(bench: Bench, plan: Plan) -> list[Breach]:
    found: list[Breach] = []
    for law in _laws(plan):
        try:
            found += law.check(bench, plan)
        except Refused as refused:
            found.append(_refused(law.name, refused))
    return found


def _refused(law: str, refused: Refused) -> Breach:
    return Breach(law, None, 1.0, f"raised {oracles.brief(refused.error)} ({refused.stage})")


def _laws(plan: Plan) -> Iterable[Law]:
    return LAWS if plan.thorough else [law for law in LAWS if law.name not in ("eager", "vmap", "halves")]


def _canaries(bench: Bench, plan: Plan, broken: set[str]) -> Iterable[Canary]:
    """Each law against its wrong backwards. A law that the subject itself breaks has shown that it bites."""
    estimates = bench.flat.subject.estimator and "dense" in broken  # its own results are not precise, nor meant to be
    for law in _laws(plan):
        if law.name in broken or (estimates and law.name == "precision"):
            continue
        for name, leaf, spoil in law.canaries(bench, plan):
            where = bench.flat.layout.floats[leaf] if leaf is not None else ""
            yield Canary(law.name, name, where, _fate(bench, plan, law, leaf, spoil))


def _fate(bench: Bench, plan: Plan, law: Law, leaf: int | None, spoil: Any) -> str:
    spoiled = bench.spoiled(spoil)
    try:
        if any(not breach.note for breach in law.check(spoiled, plan)):
            return "killed"
    except Refused:
        return "survived"
    return "equivalent" if leaf is not None and _same(bench, plan, leaf, spoil) else "survived"


def _same(bench: Bench, plan: Plan, leaf: int, spoil: Any) -> bool:
    """Whether the canary changes nothing: one element cannot be shifted, a leaf without a gradient not scaled."""
    if _blind_leaf(bench, plan, leaf):
        return True
    for draw in plan.all:
        try:
            ours = bench.pull(*draw)
        except Refused:
            continue
        there = spoil(ours, draw[2], "jit", 0).cotangents[leaf]
        if not np.allclose(there, ours.cotangents[leaf], rtol=1e-9, atol=0, equal_nan=True):
            return False
    return True


def _blind_leaf(bench: Bench, plan: Plan, leaf: int) -> bool:
    """Whether the leaf's gradient is nothing but rounding at every input: that of a bias below a normalization."""
    for draw in plan.all:
        try:
            found = bench.truth(*draw).cotangents
        except Refused:
            continue
        if largest(found[leaf]) > 1e-11 * max(map(largest, found)):
            return False
    return len(bench.flat.layout.floats) > 1


def _findings(bench: Bench, breaches: list[Breach], seed: int) -> list[Finding]:
    """One finding for each law and leaf, with the inputs at which it was seen."""
    together: dict[Any, list[Breach]] = {}
    for b in breaches:
        together.setdefault((b.law, b.leaf, b.where, b.note), []).append(b)
    findings = []
    told = {leaf for law, leaf, _, note in together if law == "dense" and not note}
    for (law, leaf, where, note), group in together.items():
        if (law == "adjoint" and told) or (law == "precision" and leaf in told):
            continue  # the same mistake, seen less sharply
        worst = max(group, key=lambda b: b.size)
        place = where or (bench.flat.layout.floats[leaf] if leaf is not None else "")
        labels = list(dict.fromkeys(f"{b.draw[0].label} ({b.draw[0].shapes})" for b in group if b.draw))
        at = (
            f"; at {', '.join(labels[:4])}{f' and {len(labels) - 4} more' if len(labels) > 4 else ''}" if labels else ""
        )
        estimates = bench.flat.subject.estimator and law in ("dense", "adjoint", "precision", "finite")
        softened = note or estimates
        if estimates and law == "dense" and leaf is not None:
            worst = replace(worst, text=_bias(bench, leaf))
        findings.append(
            Finding(
                law,
                "note" if softened else "error",
                place,
                float(worst.size),
                "" if note else diagnose(group),
                _replay(bench, seed, worst),
                worst.text + at,
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


def _note(law: str, text: str) -> Finding:
    return Finding(law, "note", "", 0.0, "", "", text)


def _blind(bench: Bench, plan: Plan) -> list[Finding]:
    """What the inputs could not show: leaves without a gradient, references that are not finite."""
    notes = []
    for k, name in enumerate(bench.flat.layout.floats):
        if _blind_leaf(bench, plan, k):
            text = "its gradient is zero, but for rounding, at every input: a factor in it cannot be seen"
            notes.append(Finding("dense", "note", name, 0.0, "", "", text))
    unsure = [d for d in plan.all if not _known(bench, d)]
    if unsure:
        labels = list(dict.fromkeys(d[0].label for d in unsure))
        notes.append(_note("finite", f"the reference is not finite at {', '.join(labels)}; not counted there"))
    return notes


def _known(bench: Bench, draw: Draw) -> bool:
    try:
        return finite(bench.truth(*draw).cotangents)
    except Refused:
        return False


def _report(bench: Bench, plan: Plan, findings: list[Finding], canaries: list[Canary], begun: float) -> Report:
    errors = [f for f in findings if f.severity == "error"]
    survived = [c for c in canaries if c.fate == "survived"]
    killed = [c for c in canaries if c.fate == "killed"]
    proved = killed and not survived and bench.oracle.kind != "itself"
    verdict = "fail" if errors else "pass" if proved else "inconclusive"
    cases = list(dict.fromkeys(d[0].label for d in plan.all))
    tried = {
        "dtypes": list(dict.fromkeys(["float64", *map(str, plan.dtypes)])),
        "inputs": cases,
        "shapes": list(dict.fromkeys(d[0].shapes for d in plan.all)),
        "laws": [law.name for law in _laws(plan)],
    }
    return Report(
        bench.flat.subject.name,
        verdict,
        tuple(findings),
        bench.oracle.kind,
        bench.oracle.strength,
        tried,
        tuple(canaries),
        bench.comparisons,
        time.monotonic() - begun,
        measure.errors(bench, plan),
        measure.heat(bench, plan),
    )


def _nothing(name: str, text: str, begun: float) -> Report:
    return Report(
        name, "inconclusive", (_note("runs", text),), "none", "nothing ran", {}, (), 0, time.monotonic() - begun
    )


def _raised(bench: Bench, refused: Refused, begun: float) -> Report:
    """The subject, or its reference, does not run at the example."""
    text = f"{refused.stage} raised {oracles.brief(refused.error)} at the example"
    severity = "note" if refused.stage == "reference" else "error"
    where = getattr(refused.error, "where", "")
    law = "structure" if where else "runs"
    finding = Finding(law, severity, where, 1.0, "", f"verify.check({bench.flat.subject.name}, ...)", text)
    verdict = "inconclusive" if severity == "note" else "fail"
    return Report(
        bench.flat.subject.name, verdict, (finding,), bench.oracle.kind, bench.oracle.strength, {}, (), 0,
        time.monotonic() - begun,
    )  # fmt: skip
