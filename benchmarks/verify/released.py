"""Hand-written rules of released packages, audited as a user would: an example, a plain definition, `verify.check`.

    pip install --no-deps --target /tmp/packages jaxopt distrax lineax numpyro chex absl-py toolz multipledispatch tqdm
    PYTHONPATH=/tmp/packages python -m benchmarks.verify.released --output benchmarks/verify/results/released.md

--no-deps keeps the project's own jax. distrax's rules are read from their file: its package needs a
tensorflow_probability that does not import beside this jax. A package that is not there is listed as such. tokamax is
left out: it needs a newer Python than 3.11.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import track

import verify
from verify.naming import named
from verify.naming.named import CommandError
from verify.report import outputs


@dataclass(frozen=True)
class Rule:
    """A rule: its package, how it is found, one example, what it means, and what to do with it before the audit."""

    package: str
    name: str
    example: str
    plain: Callable[..., Any]
    call: Callable[..., Any] = lambda f: f
    change: Callable[[list[Any]], list[Any]] = lambda args: args


def _softmax(x):
    e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def _logaddexp(a, b):
    m = jax.lax.stop_gradient(jnp.maximum(a, b))
    return m + jnp.log(jnp.exp(a - m) + jnp.exp(b - m))


def _simplex(x):
    """max(x − τ, 0) with the τ for which it sums to one, from the sorted x (Held et al., 1974)."""
    x = x - jax.lax.stop_gradient(x.max())  # changes nothing, but that the 1 is not lost beside a huge x
    u = jnp.sort(x)[::-1]
    k = jnp.arange(1, x.shape[0] + 1)
    above = (jnp.cumsum(u) - 1) / k
    count = jax.lax.stop_gradient(jnp.sum(u > above))
    return jnp.maximum(x - above[count - 1], 0)


def _sparse_simplex(x, most):
    kept = jnp.zeros(x.shape, bool).at[jnp.argsort(-x)[:most]].set(True)
    return jnp.where(kept, _simplex(jnp.where(kept, x - jax.lax.stop_gradient(x.max()), -1e3)), 0)


def _two_norm(x):
    total = jnp.sum(x * x)
    return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0)


def _power(x, y):
    return jnp.where(y == 0, 1, jnp.where(y == 0, 1, x) ** y)


def _rms_norm(x, g, b):
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * g + b


def _layer_norm(x, g, b):
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) / jnp.sqrt(v + 1e-5) * g + b


def _interpreted(f):
    return lambda x, g, b: f(x, g, b, None, 3, 1e-5, "triton", True)


def _positive(args):
    return [abs(a) + 0.1 for a in args]


def _sinc(x):
    z = jnp.pi * x
    near = jnp.abs(z) < 1e-2
    far = jnp.where(near, 1, z)
    return jnp.where(near, 1 - z**2 / 6 * (1 - z**2 / 20 * (1 - z**2 / 42)), jnp.sin(far) / far)


def _relu6(x):
    return jnp.where((x > 0) & (x < 6), x, jnp.where(x >= 6, 6, 0))


def _negative(args):
    return [-a for a in _positive(args)]


def _matmul(f):
    return lambda x, w: f(x, w, (((1,), (0,)), ((), ())), None, None)


def _log1mexp(x):
    return jnp.log(-jnp.expm1(-x))


PALLAS, DISTRAX = "jax.experimental.pallas.ops.gpu", "distrax/_src/utils/math.py"
ONE, TWO, NORM = "f32[4,8]", "f32[4,8], f32[4,8]", "f32[2,3,8], f32[8], f32[8]"
RULES = (
    Rule("jax", "jax.nn:relu", ONE, lambda x: jnp.where(x > 0, x, 0)),
    Rule("jax", "jax.nn:relu6", ONE, _relu6),
    Rule("jax", "jax.nn:softmax", ONE, _softmax),
    Rule("jax", "jax.nn:log1mexp", ONE, _log1mexp, change=_positive),
    Rule("jax", "jax.numpy:sinc", "f32[8]", _sinc),
    Rule("jax", "jax.numpy:logaddexp", TWO, _logaddexp),
    Rule("jax", "jax.scipy.special:xlogy", TWO, lambda x, y: x * jnp.log(y), change=_positive),
    Rule("jax", "jax.scipy.special:xlog1py", TWO, lambda x, y: x * jnp.log1p(y), change=_positive),
    Rule("jax", "jax.scipy.special:entr", ONE, lambda x: -x * jnp.log(x), change=_positive),
    Rule("jax", f"{PALLAS}.layer_norm:layer_norm", NORM, _layer_norm, _interpreted),
    Rule("jax", f"{PALLAS}.rms_norm:rms_norm", NORM, _rms_norm, _interpreted),
    Rule("optax", "optax.losses._classification:weighted_logsoftmax", TWO, lambda x, w: w * jnp.log(_softmax(x))),
    Rule("optax", "optax.projections:projection_simplex", "f32[8]", _simplex),
    Rule("flax", "flax.linen.fp8_ops:dot_general_with_precision", "f32[4,8], f32[8,3]", lambda x, w: x @ w, _matmul),
    Rule("equinox", "equinox.internal:nextafter", "f32[8]", lambda x: x),
    Rule("equinox", "equinox.internal:prevbefore", "f32[8]", lambda x: x),
    Rule("jaxopt", "jaxopt.projection:projection_simplex", "f32[8]", _simplex),
    Rule(
        "jaxopt",
        "jaxopt.projection:projection_sparse_simplex",
        "f32[8]",
        lambda x: _sparse_simplex(x, 3),
        lambda f: lambda x: f(x, 3),
    ),
    Rule("distrax", f"{DISTRAX}:multiply_no_nan", "f32[8], f32[8]", lambda x, y: x * y),
    Rule("distrax", f"{DISTRAX}:power_no_nan", "f32[8], f32[8]", _power, change=_positive),
    Rule("lineax", "lineax.internal:two_norm", "f32[8]", _two_norm),
    Rule("numpyro", "numpyro.distributions.util:log1mexp", "f32[8]", lambda x: _log1mexp(-x), change=_negative),
)


def found(rule: Rule) -> Any:
    """The function of a rule. Raises CommandError where the package is not installed."""
    module, _, name = rule.name.partition(":")
    if not module.endswith(".py"):
        return named.function(rule.name)
    home = importlib.util.find_spec(module.partition("/")[0])
    if home is None or not home.submodule_search_locations:
        raise CommandError(f"{rule.package} is not installed")
    file = Path(home.submodule_search_locations[0]).parent / module
    return named.function(f"{file}:{name}")


def audit(rule: Rule, level: str) -> verify.Report:
    f = rule.call(found(rule))
    args = rule.change(named.example(rule.example, 0))
    return verify.check(f, *args, reference=rule.plain, level=level)


def table(rows: list[dict[str, Any]], level: str) -> str:
    head = (
        "Hand-written rules of released packages, each audited from one example against a plain definition\n"
        f"(`python -m benchmarks.verify.released`, level {level}).\n\n"
        "| package | rule | verdict | what was found |\n|---|---|---|---|\n"
    )
    lines = [f"| {r['package']} | `{r['rule']}` | {r['verdict']} | {r['found']} |" for r in rows]
    return head + "\n".join(lines) + "\n\nEach fault is reduced to a few lines in `benchmarks/verify/reduced.py`.\n"


def said(report: verify.Report) -> str:
    told = [f"{f.law} {f.where}: {f.message}{f' [{f.diagnosis}]' if f.diagnosis else ''}" for f in report.errors]
    kinks = sorted({f.where for f in report.findings if f.law == "kink"})
    told += [f"another convention at a kink ({', '.join(kinks)})"] if kinks else []
    if report.verdict == "inconclusive":
        told += [f"not rejected: {c.name} ({c.law}) {c.where}" for c in report.canaries if c.fate == "survived"]
        told += [f.message for f in report.findings if f.law in ("runs", "oracle")]
    return "; ".join(told).replace("|", "\\|").replace("\n", " ") or "nothing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=("quick", "standard"), default="standard")
    parser.add_argument("--only", default="", help="rules whose name holds this")
    parser.add_argument("--output", type=Path, help="write the table there, and a .json of the same name beside it")
    options = parser.parse_args()
    console, rows = Console(stderr=True), []
    for rule in track([r for r in RULES if options.only in r.name], "released rules", console=console):
        try:
            released = f"{rule.package} {version(rule.package)}"
        except PackageNotFoundError:
            released = rule.package
        row = {"package": released, "rule": rule.name}
        try:
            report = audit(rule, options.level)
            row |= {"verdict": report.verdict, "found": said(report), "seconds": round(report.seconds, 1)}
        except CommandError as error:
            row |= {"verdict": "not installed", "found": str(error)}
        console.print(f"{row['verdict']:12} {rule.name}: {row['found']}", highlight=False, markup=False)
        rows.append(row)
        if options.output:
            outputs.write(options.output, table(rows, options.level))
            outputs.write(options.output.with_suffix(".json"), json.dumps(rows, indent=1) + "\n")
    print(table(rows, options.level))
    return 0


if __name__ == "__main__":
    sys.exit(main())
