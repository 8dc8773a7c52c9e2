"""The conductor: one call audits one subject, and every law has to reject its canaries before it may say "pass"."""

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import scipy.linalg  # noqa: F401  # pyright: ignore[reportUnusedImport] - with it the BLAS that jax would load later
from threadpoolctl import threadpool_limits

from verify.inputs.case import Case, is_key, single, stored, told_of
from verify.laws.law import Breach, Law, Plan
from verify.laws.table import LAWS, QUICK
from verify.naming.tokens import modules, token
from verify.plan import affordable, arranged, native, plan
from verify.processes.guard import ExitError, contained, unfiltered, watching_interrupts
from verify.processes.progress import say
from verify.report.report import Canary, Finding, Report
from verify.run.bench import Bench, Refused
from verify.subject import oracles
from verify.subject.contract import INFERRED, Constraint, Contract, ContractError
from verify.subject.flat import Flat
from verify.subject.subject import Subject, SubjectError, subject
from verify.tolerance.waivers import UNPROMISED
from verify.verdict import measure
from verify.verdict.canaries import canaries
from verify.verdict.findings import blind, note, told

LEVELS = ("quick", "standard")


def check(
    f: Any,
    *example_args: Any,
    reference: Callable[..., Any] | None = None,
    seed: int = 0,
    level: str = "standard",
    captured: Sequence[tuple[Any, ...]] = (),
    contract: Contract | None = None,
    budget: float | None = 60.0,
) -> Report:
    """Audit the backward pass of f at inputs made from one ordinary example.

    f is a function with a custom VJP or JVP, a layer (init, forward, backward, gradient), or `verify.pair(fwd, bwd)`.
    reference is its plain definition, for a layer by default its own `reference`. A layer takes x, or params and x.
    level "quick" leaves out other sizes, lower precisions, second derivatives, vmap, loops and calls that are not
    compiled. captured holds more arguments, each a tuple like the example's: real activations, for instance. contract
    says what f promises; what it leaves open is inferred from the example, and the report says what was assumed.
    budget is how many seconds the audit may take, or nearly: half of them run f at its inputs, the likeliest first;
    what there is no time for is left out, and the report says so. None for all that there is.

    Raises SubjectError if there is nothing to audit, ContractError for a contract that does not fit f or its example.
    Whatever f itself raises becomes a finding.

    >>> cube = jax.custom_vjp(lambda x: x**3)
    >>> cube.defvjp(lambda x: (x**3, x), lambda x, dy: (dy * 2 * x**2,))  # 3, not 2
    >>> report = verify.check(cube, jnp.array([0.5, 2.0]), reference=lambda x: x**3, level="quick")
    >>> report.verdict, report.errors[0].law
    ('fail', 'dense')
    """
    if level not in LEVELS:
        raise SubjectError(f"check got level={level!r}; expected one of {LEVELS}.")
    if not (budget is None or (isinstance(budget, int | float) and budget > 0)):
        raise SubjectError(f"check got budget={budget!r}; expected seconds, more than 0, or None.")
    # Overflow is what some inputs are for. The threads of BLAS and those of XLA would wait for each other.
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"), watching_interrupts(), unfiltered():
        begun = time.monotonic()
        try:
            with contained():
                report = _audit(f, example_args, reference, seed, level, tuple(captured), contract, budget)
        except ExitError as error:
            report = _ended(f, error, begun)
    return _replayable(replace(report, source=measure.source(f)), f, example_args, reference, seed, level, contract)


def _replayable(
    report: Report, f: Any, args: tuple, reference: Any, seed: int, level: str, contract: Contract | None
) -> Report:
    """Each finding with the command that shows it again, where a fresh process can find the subject by its name."""
    if not report.findings or not (word := token(f, args, reference, seed, level, contract)):
        return report
    allow = "".join(f" --allow {shlex.quote(module)}" for module in modules(word))
    line = f"python -m verify replay {word}{allow}"
    told = (replace(f, replay=line) if f.severity == "error" else f for f in report.findings)
    return replace(report, findings=tuple(told))


class Nothing(Exception):  # noqa: N818 - a signal within this file: there is nothing that could be compared
    pass


def _audit(
    f: Any,
    example_args: tuple,
    reference: Callable[..., Any] | None,
    seed: int,
    level: str,
    captured: tuple,
    contract: Contract | None,
    budget: float | None,
) -> Report:
    begun, contract = time.monotonic(), contract or INFERRED
    if unknown := set(contract.without) - {law.name for law in LAWS}:
        raise ContractError(
            f"got a contract without {sorted(unknown)}; expected some of {', '.join(law.name for law in LAWS)}."
        )
    what, args = subject(f, example_args, reference, seed)
    try:
        bench, notes = benched(what, args, contract)
        bench.ends = None if budget is None else (begun, budget)
        try:
            tried = affordable(bench, planned(bench, seed, level, captured))
        except Refused as refused:
            return _raised(bench, refused, begun)
    except (Nothing, oracles.Unusable) as nothing:
        return _nothing(what.name, str(nothing), begun)
    breaches = _all(bench, tried)
    fates = list(canaries(bench, tried, _laws(bench, tried), {b.law for b in breaches if not b.note}))
    findings = [*told(bench, breaches, seed), *(note("oracle", text) for text in notes), *blind(bench, tried)]
    return _report(bench, tried, findings, fates, begun)


def benched(what: Subject, args: tuple, contract: Contract) -> tuple[Bench, list[str]]:
    """The bench on which a subject is run at an example, and notes. Raises Nothing where no argument has a gradient."""
    layout, notes = arranged(what, args)
    flat = Flat(what, layout)
    floats, others = layout.split(args)
    kind = next((x.dtype for x in floats if hasattr(x, "dtype")), np.dtype(np.float32))
    floats = tuple(np.asarray(x, kind) if isinstance(x, float) else x for x in floats)  # Python's own have no dtype
    example = Case(
        "example",
        tuple(single(x) for x in floats),
        tuple(x if is_key(x) else np.asarray(x) for x in others),
        ordinary=True,
    )
    if not floats:
        raise Nothing("no argument has a gradient: give floating-point arrays")
    if not any(map(np.size, floats)):
        raise Nothing("the example is empty: give arrays with elements")
    if not all(np.isfinite(x).any() for x in floats if np.size(x)):
        raise Nothing("an argument of the example has no finite element")
    constraints, integers = contract.of(
        dict(zip(layout.floats, example.floats, strict=True)),
        dict(zip(layout.named("other"), example.others, strict=True)),
    )
    kept = tuple(stored(x, c) for x, c in zip(example.floats, constraints, strict=True))
    names = (*layout.floats, *layout.named("other"))
    example = replace(example, floats=kept, constraints=constraints, integers=integers, names=names)
    oracle, more = oracles.find(flat, *example.at("float64"))
    return Bench(flat, oracle, example, native(floats), contract), notes + more


def planned(bench: Bench, seed: int, level: str, captured: tuple) -> Plan:
    """What is tried on this bench. Raises Nothing where nothing can be compared, Refused if the subject fails."""
    if not bench.outputs(bench.example, "float64"):
        raise Nothing("no output has a gradient: nothing floating-point is returned")
    tried = plan(bench, seed, level, captured)
    if not tried.ordinary:
        raise Nothing("the reference has no finite gradient at the example, nor near it: nothing can be compared")
    return tried


def _all(bench: Bench, plan: Plan) -> list[Breach]:
    found: list[Breach] = []
    for law in _laws(bench, plan):
        if bench.late() and law.name not in QUICK:
            bench.memo.setdefault("laws left out", []).append(law.name)
            continue
        say(f"{bench.flat.subject.name[:80]}, law {law.name}")
        try:
            found += law.check(bench, plan)
        except Refused as refused:
            found.append(_refused(law.name, refused))
    return found


def _refused(law: str, refused: Refused) -> Breach:
    text = f"raised {oracles.brief(refused.error)} ({refused.stage})"
    return Breach(law, None, 1.0, text, waiver=UNPROMISED if refused.stage == "reference" else "")


def _laws(bench: Bench, plan: Plan) -> Iterable[Law]:
    names = {law.name for law in LAWS} if plan.thorough else set(QUICK)
    left = bench.memo.get("laws left out", ())
    return [law for law in LAWS if law.name in names.difference(bench.contract.without, left)]


def _report(bench: Bench, plan: Plan, findings: list[Finding], canaries: list[Canary], begun: float) -> Report:
    errors = [f for f in findings if f.severity == "error"]
    survived = [c for c in canaries if c.fate == "survived"]
    killed = [c for c in canaries if c.fate == "killed"]
    proved = killed and not survived and bench.oracle.kind != "itself"
    verdict = "fail" if errors else "pass" if proved else "inconclusive"
    cases = list(dict.fromkeys(d[0].label for d in plan.all))
    tried = {
        "assumed": _assumed(bench),
        "dtypes": list(dict.fromkeys(["float64", *map(str, plan.dtypes)])),
        "inputs": cases,
        "shapes": list(dict.fromkeys(d[0].shapes for d in plan.all)),
        "laws": [law.name for law in _laws(bench, plan)],
        "settings": [label for label, *_ in bench.memo.get("settings", ())],
        "left out": _left_out(bench),
        "skipped": [*_skipped(plan), *(f"{name}: not promised" for name in bench.contract.without)],
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


def _assumed(bench: Bench) -> list[str]:
    """What the contract did not say and the example did: a line for each leaf that does not take any numbers."""
    example = bench.example
    each = ((name, example.constraint(k)) for k, name in enumerate(bench.flat.layout.floats))
    lines = [f"{name}: {c}" for name, c in each if not c.declared and c != Constraint()]
    others = zip(bench.flat.layout.named("other"), example.others, strict=True)
    for i, (name, x) in enumerate(others):
        if not example.declared(i) and (what := told_of(example, i, x)):
            lines.append(f"{name}: {what}")
    return lines


def _left_out(bench: Bench) -> list[str]:
    """What there was no time for."""
    inputs, laws = bench.memo.get("inputs left out", ()), bench.memo.get("laws left out", ())
    several = [f"{len(inputs)} inputs, {inputs[0]} the first"] if inputs else []
    several += [f"the laws {', '.join(laws)}"] if laws else []
    return [*several, "the budget was spent (budget=)"] if several else []


def _skipped(plan: Plan) -> list[str]:
    """What would have been tried, and why it was not."""
    left = [law.name for law in LAWS if not plan.thorough and law.name not in QUICK]
    alone = jax.device_count() < 2 and plan.thorough
    devices = 'sharded: one device (jax.config.update("jax_num_cpu_devices", 4) first of all makes four of it)'
    one = plan.thorough and len({d[0].shapes for d in plan.all}) == 1
    return left + [devices] * alone + ["other sizes: the definition takes none"] * one


def _nothing(name: str, text: str, begun: float) -> Report:
    return Report(
        name, "inconclusive", (note("runs", text),), "none", "nothing ran", {}, (), 0, time.monotonic() - begun
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


def _ended(f: Any, error: ExitError, begun: float) -> Report:
    """The subject tried to end the process where nothing else of it is known."""
    finding = Finding("runs", "error", "", 1.0, "", "", f"raised {oracles.brief(error)}")
    name = getattr(f, "__name__", None) or type(f).__name__
    return Report(name, "fail", (finding,), "none", "nothing ran", {}, (), 0, time.monotonic() - begun)
