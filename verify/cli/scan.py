"""The functions with a rule of their own in a package, and the arguments that each of them can be audited at."""

import importlib
import inspect
import pkgutil
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.architectures.campaign import results_of
from verify.cli.cases import Case, case
from verify.naming import named
from verify.processes.progress import say
from verify.processes.safely import Failed, Pool
from verify.report.report import Finding, Report
from verify.subject.oracles import brief

ARRAYS = "f32[4,8]", "f32[8]", "f32[]", "f32[4,4]", "f32[2,4,8]", "f32[2,4,4,8]"
TOGETHER = {
    2: (
        ("f32[4,8]", "f32[4,8]"), ("f32[4,8]", "f32[8]"), ("f32[4,8]", "f32[8,3]"), ("f32[4,8]", "i32[4]<8"),
        ("f32[8]", "f32[]"), ("f32[]", "f32[8]"), ("f32[4,8]", "key"), ("key", "f32[4,8]"),
    ),
    3: (
        ("f32[4,8]", "f32[4,8]", "f32[4,8]"), ("f32[4,8]", "f32[8]", "f32[8]"), ("f32[4,8]", "f32[8,3]", "f32[3]"),
        ("f32[2,4,3,8]", "f32[2,4,3,8]", "f32[2,4,3,8]"), ("f32[8]", "f32[]", "f32[]"),
    ),
}  # fmt: skip
FIXED = "-1", "1", "0.5", "True", "None", "0"  # for arguments that are not differentiated


@dataclass(frozen=True)
class Rule:
    """A function with a custom rule: "module:name", itself, and which of its arguments are not differentiated."""

    name: str
    f: Any
    fixed: frozenset[int]


@dataclass(frozen=True)
class Survey:
    """What a package holds: its rules by name, how many modules, name: error of those that cannot be imported, and
    name: Failed of those whose import ended its process or had to be stopped."""

    rules: tuple[str, ...]
    modules: int
    failed: dict[str, str]
    ended: dict[str, Failed]


IMPORTING = "importing "


def survey(pool: Pool | None, package: str, examples: str) -> Survey:
    """The rules of a package, found in a process of the pool. What ends that process while it is imported is left out
    the next time. Raises CommandError if the package itself cannot be imported."""
    ended: dict[str, Failed] = {}
    while True:
        ((_, found),) = results_of(pool, surveyed, [(package, examples, tuple(ended))])
        if not isinstance(found, Failed):
            names, count, failed = found
            return Survey(names, count, failed, ended)
        name = found.stage.removeprefix(IMPORTING)
        if name in (package, *ended) or not found.stage.startswith(f"{IMPORTING}{package}"):
            raise named.CommandError(f"got {package!r}; expected a package that can be imported. ({found})")
        ended[name] = found


def surveyed(package: str, given: str, without: tuple[str, ...]) -> tuple[tuple[str, ...], int, dict[str, str]]:
    """(names of rules, how many modules, what cannot be imported) of a package, without some of its modules."""
    found, failed = modules(package, without)
    names = tuple(rule.name for rule in rules(found, package))
    if unknown := set(examples(given)) - set(names):
        raise named.CommandError(f"got examples for {sorted(unknown)}; expected names that the scan lists.")
    return names, len(found), failed


LACKING = "nothing ran: an example is needed"


def audit_rule(package: str, name: str, given: str, seed: int, level: str) -> Report:
    """`check` of one rule of a package, or the report that it needs an example: runs in any process."""
    rule = _custom(named.function(name))
    if rule is None:
        raise named.CommandError(f"got {name!r}; expected a function with a rule. Is it the same each time?")
    fixed = frozenset(getattr(rule, "nondiff_argnums", ()) or ())
    ((_, made, example),) = cases([Rule(name, rule, fixed)], examples(given), seed)
    if made is not None:
        report = made.check(level)
        return replace(report, tried={"example": example, **report.tried})
    note = Finding("runs", "note", "", 0.0, "", "", f"needs an example: {typed(name)}")
    return Report(name, "inconclusive", (note,), "none", LACKING, {}, (), 0, 0.0)


def typed(name: str) -> str:
    """The command that audits a function at an example of its user's."""
    return f'python -m verify function {shlex.quote(name)} --example "f32[4,8], ..."'


def modules(package: str, without: Sequence[str] = ()) -> tuple[list[Any], dict[str, str]]:
    """The package's modules, and name: error of those that cannot be imported. CommandError if the package cannot."""
    try:
        say(f"{IMPORTING}{package}")
        root = importlib.import_module(package)
    except (Exception, SystemExit) as error:
        raise named.CommandError(
            f"got {package!r}; expected a package that can be imported. ({brief(error)})"
        ) from error
    found, failed = [root], {}
    for info in pkgutil.walk_packages(getattr(root, "__path__", []), f"{package}.", lambda name: None):
        if info.name.rpartition(".")[2] in ("__main__", "conftest") or ".tests" in info.name:
            continue
        if info.name in without:
            continue
        try:
            say(f"{IMPORTING}{info.name}")
            found.append(importlib.import_module(info.name))
        except Exception as error:  # noqa: BLE001 - a module may raise anything when it is imported
            failed[info.name] = brief(error)
    return found, failed


def rules(found: list[Any], package: str) -> list[Rule]:
    """The functions with a custom rule that these modules and their classes hold, each once."""
    seen: dict[int, Rule] = {}
    for module in found:
        for name, value in _held(module):
            rule = _custom(value)
            home = getattr(rule, "__module__", "") or ""
            if rule is None or id(rule) in seen or not f"{home}.".startswith(f"{package.partition('.')[0]}."):
                continue
            fixed = frozenset(getattr(rule, "nondiff_argnums", ()) or ())
            seen[id(rule)] = Rule(f"{module.__name__}:{name}", rule, fixed)
    return list(seen.values())


def _held(module: Any) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(module).items()):
        yield name, value
        if inspect.isclass(value) and value.__module__ == module.__name__:
            yield from ((f"{name}.{inner}", held) for inner, held in vars(value).items())


def _custom(value: Any) -> Any:
    """The custom_vjp or custom_jvp that value is, or that it wraps; None without one, or without its rules."""
    for _ in range(8):
        value = getattr(value, "__func__", value)
        if isinstance(value, jax.custom_vjp):
            return value if getattr(value, "fwd", None) is not None else None
        if isinstance(value, jax.custom_jvp):
            return value if getattr(value, "jvp", None) is not None else None
        value = getattr(value, "__wrapped__", None) or getattr(value, "func", None)
        if value is None:
            return None
    return None


def guess(rule: Rule) -> str:
    """An example that the function takes and makes floating arrays of, "" if the simple ones do not fit."""
    try:
        parameters = list(inspect.signature(rule.f).parameters.values())
    except (TypeError, ValueError):
        return ""
    needed = [
        i
        for i, p in enumerate(parameters)
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and (p.default is p.empty)
    ]
    if any(p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in parameters) or needed != list(range(len(needed))):
        return ""
    free = [i for i in needed if i not in rule.fixed]
    if not 1 <= len(free) <= 3:
        return ""
    choices = [(a,) for a in ARRAYS] if len(free) == 1 else TOGETHER[len(free)]
    fixed = [i for i in needed if i in rule.fixed]
    for words in choices:
        for value in FIXED if fixed else ("",):
            given = dict(zip(free, words, strict=True)) | dict.fromkeys(fixed, value)
            text = ", ".join(given[i] for i in needed)
            if _fits(rule.f, text):
                return text
    return ""


def _fits(f: Any, text: str) -> bool:
    args = named.example(text, 0)
    arrays = [i for i, a in enumerate(args) if hasattr(a, "dtype")]

    def run(*some):
        whole = list(args)
        for i, value in zip(arrays, some, strict=True):
            whole[i] = value
        return f(*whole)

    try:
        y = jax.eval_shape(run, *(args[i] for i in arrays))
    except Exception:  # noqa: BLE001 - a guess that does not fit may raise anything
        return False
    leaves = jax.tree.leaves(y)
    return bool(leaves) and any(hasattr(v, "dtype") and jnp.issubdtype(v.dtype, np.floating) for v in leaves)


@cache
def examples(name: str) -> dict[str, Any]:
    """EXAMPLES of a user's module or file: {"module:name": an example text, its arguments, or a verify.case}."""
    if not name:
        return {}
    listed = named.function(f"{name}:EXAMPLES")
    if not isinstance(listed, dict):
        raise named.CommandError(f"got EXAMPLES in {name!r} of type {type(listed).__name__}; expected a dict.")
    return listed


def cases(found: list[Rule], given: dict[str, Any], seed: int) -> Iterator[tuple[Rule, Case | None, str]]:
    """(rule, what to audit, the example in words) for each rule; None where nobody knows an example."""
    for rule in found:
        example = given.get(rule.name)
        if isinstance(example, Case):
            yield rule, example, "given"
        elif example is not None:
            args = example if isinstance(example, tuple) else (example,)
            yield rule, case(rule.f, *args, name=rule.name, seed=seed), "given"
        elif text := guess(rule):
            yield rule, case(rule.f, text, name=rule.name, seed=seed), text
        else:
            yield rule, None, ""
