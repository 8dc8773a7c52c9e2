"""The verifier verified: how many of the mistakes that `mutate` can make in a catalogue's layers an audit notices.

Each mutant meets judges from the quickest to the strongest until one rejects it: every input of its layer's catalogue
in float64 against the same true gradient, other values, the dtypes of the cotangents, `check`. One that no judge can
run is not counted: a program that raises needs no auditor.
"""

import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.architectures.campaign import resumed
from verify.architectures.compiled import hand_and_true
from verify.architectures.judge import compare, output_error
from verify.architectures.networks import Network, after, draw_inputs, is_one, values
from verify.architectures.protocol import is_buffer, is_float
from verify.check import check
from verify.mutation.by_networks import holding, judged
from verify.mutation.mutate import Mutant, apply, mutants
from verify.naming.catalogues import allow, catalogue, homes
from verify.processes.journal import Book, fingerprint
from verify.processes.memory import forget
from verify.processes.progress import say
from verify.processes.safely import Failed, Pool

BATCH = 12  # of compiled programs a process can map only so many (Linux: vm.max_map_count)
MOST = 3  # inputs at which `check` sees a mutant that every quicker judge let through
Reasons = tuple[tuple[str, str], ...]
NETWORKS, ALONE = "networks", "the layer alone: "  # who kills, where networks are asked first
FATES = "killed", "survived", "equivalent", "raises"


class MutantsError(ValueError):
    """There is nothing to mutate, or a list of equivalents that cannot be read."""


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: one of FATES, and which judge rejected it, or why it is no mistake."""

    layer: str
    mutant: str
    rule: str
    line: int
    fate: str
    by: str


@dataclass(frozen=True)
class Exam:
    """One input of a layer with the true gradients, and the residuals of the forward that no mutant touches."""

    layer: Any
    name: str
    params: Any
    x: Any
    residuals: Any
    dy: Any
    true: Any

    def rejects(self, wrong: Any) -> bool:
        with _strict():
            return bool(compare(wrong.pull(self.params, self.residuals, self.dy), self.true))


@contextmanager
def _strict() -> Iterator[None]:
    with ExitStack() as stack:
        for setting in (jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")):
            stack.enter_context(setting)
        yield


ORDINARY = {"ordinary": lambda x: x, "other seed": lambda x: x}
VALUES = {
    "integers": jnp.round,
    "large": lambda x: 30 * x,
    "zeros": jnp.zeros_like,
    "ladder": lambda x: jnp.linspace(-8, 8, max(x.size, 1)).astype(x.dtype).reshape(x.shape) + 0.1 * x,
    "first row": lambda x: x * 0 + (x[:1] if x.ndim else x),
}


@cache
def _layers(name: str) -> dict[type, list[tuple[Any, Any]]]:
    """(layer, inputs) by class: everything in the catalogue, and its combinators around its own layers."""
    source, found = catalogue(name), {}
    cases = [(case.layer, inputs) for case in (*source.layers, *source.losses) for inputs in case.inputs]
    for form in source.forms:
        for inputs in filter(is_one, source.layers[0].inputs):
            inner = [c.layer for c in source.layers if inputs in c.inputs and _keeps(c.layer, inputs)]
            if len(inner) >= len(form.keeps):
                layer = form.build(*inner[: len(form.keeps)])
                if after(layer, inputs) is not None:
                    cases.append((layer, inputs))
    for layer, inputs in cases:
        if not getattr(layer, "estimator", False):
            found.setdefault(type(layer), []).append((layer, inputs))
    return found


def _keeps(layer: Any, inputs: Any) -> bool:
    y = after(layer, inputs)
    return y is not None and y.shape == inputs.shape


@cache
def _exams(name: str, number: int, changes: str) -> tuple[Exam, ...]:
    """The exams of one class that the unchanged layer passes, small inputs first."""
    with jax.enable_x64(True):
        made = []
        for layer, inputs in list(_layers(name).values())[number]:
            for seed, (label, change) in enumerate({"ordinary": ORDINARY, "values": VALUES}[changes].items()):
                exam = _exam(layer, inputs, seed, label, change)
                if exam is not None:
                    made.append(exam)
        return tuple(made)


def _exam(layer: Any, inputs: Any, seed: int, label: str, change: Callable) -> Exam | None:
    try:
        params, x, rng = values(Network(layer, inputs, seed))
        x = jax.tree.map(lambda v: change(v) if is_float(v) else v, x)
        y, residuals = layer.forward(params, x)
        dy = jax.tree.map(jnp.asarray, output_error(y, rng))
        *_, (true_dparams, true_dx) = hand_and_true(layer, params, x, dy)
        true = true_dx, true_dparams
        exam = Exam(layer, f"{layer!r} {label}", params, x, residuals, dy, true)
        sound = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(true)) and not exam.rejects(apply(layer, None))
    except Exception:  # noqa: BLE001 - it refuses this input, or strict promotion: `check` judges it
        return None
    return exam if sound else None


def _empty(inputs: Any) -> Any:
    """The inputs with a first axis of size zero."""
    return jax.tree.map(lambda x: replace(x, shape=(0, *x.shape[1:])) if x.shape else x, inputs)


def _right(layer: Any, inputs: Any) -> bool:
    try:
        return not _types_differ(layer, apply(layer, None), inputs)
    except Exception:  # noqa: BLE001 - a layer may refuse these inputs in its own way
        return False


def _types_differ(layer: Any, wrong: Any, inputs: Any) -> bool:
    """Whether the cotangents of bfloat16 arrays are not of their shapes, or not bfloat16."""

    def down(way):
        def run(key, x):
            params = layer.init(key, x)
            y, residuals = layer.forward(params, x)
            return way.pull(params, residuals, jax.tree.map(lambda y: jnp.ones_like(y) if is_float(y) else None, y))

        return run

    x = draw_inputs(inputs, np.random.default_rng(0), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        right, ours = (jax.eval_shape(down(way), jax.random.key(0), x) for way in (layer, wrong))
    return jax.tree.map(_type, right) != jax.tree.map(_type, ours)


def _type(leaf):
    return leaf.shape, str(leaf.dtype)


def _fails(layer: Any, wrong: Any, inputs: Any) -> bool:
    x = draw_inputs(inputs, np.random.default_rng(0), jnp.float32)
    params = layer.init(jax.random.key(0), jax.eval_shape(lambda x: x, x))
    rng = np.random.default_rng(1)

    def moved(p):
        if is_buffer(p) or not is_float(p):
            return p
        return p + jnp.asarray(0.3 * rng.normal(size=p.shape), p.dtype)

    return check(wrong, jax.tree.map(moved, params, is_leaf=is_buffer), x).verdict == "fail"


def judge(name: str, number: int, mutant: Mutant, reasons: Reasons = ()) -> tuple[str, str]:
    """(fate, by) of one mutant of the catalogue's class `number`. `check` sees those that no person has excused."""
    cases = list(_layers(name).values())[number]
    raised = ran = 0
    broken: dict[int, Any] = {}

    def wrong(layer):
        if id(layer) not in broken:
            broken[id(layer)] = apply(layer, mutant)
        return broken[id(layer)]

    def judges() -> Iterable[tuple[str, Callable[[], bool]]]:
        for changes in ("ordinary", "values"):
            for exam in _exams(name, number, changes):
                yield f"float64, {changes}", lambda exam=exam: exam.rejects(wrong(exam.layer))
        for layer, inputs in cases:
            yield "dtypes", lambda layer=layer, inputs=inputs: _types_differ(layer, wrong(layer), inputs)
        for layer, inputs in cases:
            empty = _empty(inputs)
            if _right(layer, empty):
                yield "no examples", lambda layer=layer, empty=empty: _types_differ(layer, wrong(layer), empty)

    def strongest() -> Iterable[tuple[str, Callable[[], bool]]]:
        for layer, inputs in cases[:MOST]:
            yield "check", lambda layer=layer, inputs=inputs: _fails(layer, wrong(layer), inputs)

    def first(judges: Iterable[tuple[str, Callable[[], bool]]]) -> str:
        nonlocal ran, raised
        for by, rejects in judges:
            try:
                if rejects():
                    return by
                ran += 1
            except Exception:  # noqa: BLE001 - a mutant may raise anything at all
                raised += 1
        return ""

    by = first(judges())
    if not by and not ran:
        return "raises", ""
    if not by and raised:
        by = "raises at some inputs"
    if not by:
        why = next((reason for pattern, reason in reasons if re.fullmatch(pattern, str(mutant), re.S)), "")
        if why:
            return "equivalent", why
        by = first(strongest())
    return ("killed", by) if by else ("survived", "")


def _elsewhere(name: str, number: int, mutant: Mutant) -> tuple[str, str] | None:
    """How another class dies of the same mistake in code that both use: what one never asks of it, the other may."""
    for other, kind in enumerate(_layers(name)):
        for same in mutants(kind) if other != number else ():
            if _place(same) == _place(mutant):
                fate, by = judge(name, other, same)
                if fate == "killed":
                    return fate, f"{by}, of {kind.__name__}"
    return None


def _place(mutant: Mutant) -> tuple[Any, ...]:
    """Where in the source a mistake is, whichever class it was found through."""
    function = mutant.function.removeprefix(f"{mutant.kind.__name__}.")
    return function, mutant.line, mutant.before, mutant.after, mutant.place, mutant.choice


def batch(name: str, number: int, chosen: tuple[int, ...], reasons: Reasons = (), by: str = "layers") -> list[Fate]:
    """The fates of some mutants of one class: runs in any process.

    By "networks" random networks are asked first, and of those that they let through the judges of the layer alone.
    """
    allow(name)  # which came from whoever runs this
    kind = list(_layers(name))[number]
    listed, fates = mutants(kind), []
    for i in chosen:
        mutant = listed[i]
        say(str(mutant))
        fate = _by_networks(name, number, mutant, reasons) if by == "networks" else judge(name, number, mutant, reasons)
        if fate[0] == "survived":
            fate = _elsewhere(name, number, mutant) or fate
            fate = fate[0], ALONE * (by == "networks" and fate[0] == "killed") + fate[1]
        fates.append(Fate(kind.__name__, str(mutant), mutant.rule, mutant.line, *fate))
    if by == "networks":
        forget()
        holding.cache_clear()
    jax.clear_caches()  # of programs that nobody will run again
    return fates


def _by_networks(name: str, number: int, mutant: Mutant, reasons: Reasons) -> tuple[str, str]:
    fate, _ = judged(name, mutant)
    if fate != "survived":
        return fate, NETWORKS if fate == "killed" else ""
    fate, by = judge(name, number, mutant, reasons)
    return fate, f"{ALONE}{by}" if fate == "killed" else by


def choose(name: str, only: tuple[str, ...], count: int | None, seed: int) -> list[tuple[int, tuple[int, ...]]]:
    """(class, mutants of it) in batches. Raises MutantsError if no layer is called what `only` says."""
    allow(name)
    kinds = list(_layers(name))
    known = sorted(kind.__name__ for kind in kinds)
    if unknown := [n for n in only if n not in known]:
        raise MutantsError(f"got the layers {unknown}; expected some of {', '.join(known)}.")
    listed = [
        (k, i) for k, kind in enumerate(kinds) if not only or kind.__name__ in only for i in range(len(mutants(kind)))
    ]
    if count is not None and count < len(listed):
        listed = sorted(random.Random(seed).sample(listed, count))
    if not listed:
        raise MutantsError("got no mutants: no layer here has a backward pass whose source can be read.")
    by_kind: dict[int, list[int]] = {}
    for k, i in listed:
        by_kind.setdefault(k, []).append(i)
    return [(k, tuple(some[at : at + BATCH])) for k, some in by_kind.items() for at in range(0, len(some), BATCH)]


def run(
    parts: list[tuple[int, tuple[int, ...]]],
    pool: Pool | None = None,
    name: str = "jbp",
    equivalents: Path | None = None,
    watch: Callable[[list[Fate]], Any] = lambda fates: None,
    journal: Path | None = None,
    by: str = "layers",
) -> list[Fate]:
    """The fates of all mutants in `parts`, over a pool's processes, or here without one.

    With a journal, what an interrupted run has written there is not done again. Raises JournalError for another's.
    """
    reasons, fates = _reasons(equivalents), list[Fate]()
    told = lambda found: [asdict(fate) for fate in found]  # noqa: E731
    meant = lambda held: [Fate(**fate) for fate in held]  # noqa: E731
    code = fingerprint(*homes(name)) if journal else {}
    book = Book(
        journal,
        ["mutants", name, len(reasons), *([by] if by != "layers" else [])],
        code,
        lambda part: (part[1], *part[2]),
        told,
        meant,
    )
    lost = []
    for _, found in resumed(pool, batch, [(name, *part, reasons, by) for part in parts], book):
        if isinstance(found, Failed):
            lost.append(str(found))
        else:
            fates += found
            watch(found)
    if lost:
        raise MutantsError(
            f"got {len(lost)} batches without a result; expected all of them. The others are in the journal, if there "
            f"is one: try these again. ({'; '.join(lost[:3])})"
        )
    return sorted(fates, key=lambda f: (f.layer, f.line, f.mutant))


def _reasons(file: Path | None) -> Reasons:
    """(pattern, reason) of each mutant that is no mistake, as a person has listed them; * stands for anything."""
    if file is None:
        return ()
    try:
        listed = tomllib.loads(file.read_text(encoding="utf-8"))["equivalent"]
        return tuple((".*".join(map(re.escape, e["mutant"].split("*"))), e["reason"]) for e in listed)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise MutantsError(
            f"got {file}; expected TOML tables [[equivalent]] with mutant and reason. ({error})"
        ) from error


def summary(fates: list[Fate]) -> dict[str, Any]:
    """Counts by fate, judge, rule and layer, the share killed of those that are mistakes, and who was not."""

    def table(of: Callable[[Fate], str]) -> dict[str, dict[str, int]]:
        rows: dict[str, Counter] = {}
        for fate in fates:
            rows.setdefault(of(fate), Counter())[fate.fate] += 1
        return {name: {f: row[f] for f in FATES} for name, row in sorted(rows.items())}

    counts = Counter(f.fate for f in fates)
    mistakes = counts["killed"] + counts["survived"]
    return {
        "mutants": len(fates),
        **{fate: counts[fate] for fate in FATES},
        "share killed": counts["killed"] / mistakes if mistakes else None,
        "layers": len({f.layer for f in fates if f.fate == "killed"}),
        "killed by": dict(Counter(f.by for f in fates if f.fate == "killed").most_common()),
        "by rule": table(lambda f: f.rule),
        "by layer": table(lambda f: f.layer),
        "only the layer alone": [f"{f.mutant}: {f.by.removeprefix(ALONE)}" for f in fates if f.by.startswith(ALONE)],
        "survivors": [f.mutant for f in fates if f.fate == "survived"],
        "equivalents": {f.mutant: f.by for f in fates if f.fate == "equivalent"},
    }
