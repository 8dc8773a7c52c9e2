"""python -m benchmarks.verify.corpus: rules as strangers write them, audited beside the known checkers.

Every entry of `corpus` (a function with a custom rule, its plain definition, one example in float32) goes through
verify.check at level standard and, in the same process, through `jax.test_util.check_grads` in float32, PyTorch's
`gradcheck` slow and fast in float64, and an allclose of the float32 gradients at the example. Figures of all of them go
into results/.
"""

import argparse
import importlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

import verify
from corpus import FAMILIES, entries, entry
from verify.processes.safely import Pool

RESULTS = Path(__file__).parent / "results"


def is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def over_floats(f: Any, args: tuple) -> tuple[Any, list]:
    """f as a function of the float leaves of args alone, returning float leaves, and these leaves."""
    leaves, structure = jax.tree.flatten(args)
    where = [i for i, x in enumerate(leaves) if is_float(x)]

    def g(*floats):
        new = list(leaves)
        for i, x in zip(where, floats, strict=True):
            new[i] = x
        return [y for y in jax.tree.leaves(f(*jax.tree.unflatten(structure, new))) if is_float(y)]

    return g, [leaves[i] for i in where]


def allclose(f: Any, plain: Any, args: tuple) -> bool:
    """The gradients of Σ y at the example, compared with a relative and absolute tolerance of 1e-3."""
    found = []
    for h in (f, plain):
        g, floats = over_floats(h, args)
        total = lambda *x, g=g: sum(y.astype(jnp.float32).sum() for y in g(*x))  # noqa: E731
        found.append(jax.grad(total, tuple(range(len(floats))))(*floats))
    ours, true = found
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(ours, true, strict=True))


def check_grads(f: Any, plain: Any, args: tuple) -> bool:
    from jax.test_util import check_grads

    g, floats = over_floats(f, args)
    try:
        check_grads(g, floats, order=1, modes=("rev",))
    except AssertionError:
        return False
    return True


def gradcheck(fast: bool) -> Any:
    """torch.autograd.gradcheck of the same function, called through a torch.autograd.Function."""

    def check(f: Any, plain: Any, args: tuple) -> bool:
        torch: Any = importlib.import_module("torch")  # by name, for the type check runs without it
        g, floats = over_floats(f, args)
        with jax.enable_x64(True):
            run = jax.jit(g)
            pull = jax.jit(lambda x, dy: jax.vjp(g, *x)[1](dy))

            class Function(torch.autograd.Function):
                @staticmethod
                def forward(ctx, *x):
                    ctx.x = [v.detach().numpy() for v in x]
                    return tuple(torch.tensor(np.asarray(y, np.float64)) for y in run(*ctx.x))

                @staticmethod
                def backward(ctx, *dy):
                    return tuple(torch.tensor(np.asarray(c)) for c in pull(ctx.x, [d.numpy() for d in dy]))

            x = [torch.tensor(np.asarray(v, np.float64), requires_grad=True) for v in floats]
            return torch.autograd.gradcheck(Function.apply, x, fast_mode=fast, raise_exception=False)

    return check


CHECKERS = {
    "check_grads": check_grads,
    "gradcheck": gradcheck(fast=False),
    "gradcheck fast": gradcheck(fast=True),
    "allclose": allclose,
}


def one(name: str, seed: int, beside: bool) -> dict[str, Any]:
    """What each checker says of one entry: "pass", "fail", "inconclusive", or "raised"."""
    begun, spent = time.perf_counter(), time.process_time()
    told = entry(name)
    f, plain, args = told.make()
    report = verify.check(f, *args, reference=plain, seed=seed)
    said = {
        "kind": "WRONG" if told.mistake else "RIGHT",
        "name": name,
        "family": told.family,
        "seconds": round(time.perf_counter() - begun, 2),
        "cpu": round(time.process_time() - spent, 2),
        "verify": report.verdict,
        "diagnoses": sorted({f.diagnosis for f in report.errors}),
        "findings": [str(f) for f in report.findings],
    }
    for checker, run in CHECKERS.items() if beside else ():
        f, plain, args = told.make()  # what keeps a state starts anew
        try:
            said[checker] = "pass" if run(f, plain, args) else "fail"
        except Exception as error:  # noqa: BLE001 - raising is an answer too: the user is warned
            said[checker] = "raised"
            said[f"{checker} raised"] = f"{type(error).__name__}: {str(error)[:100]}"
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="entries whose name contains this")
    parser.add_argument("--family", choices=FAMILIES, help="entries of one family")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th of these entries")
    parser.add_argument("--alone", action="store_true", help="without the other checkers")
    options = parser.parse_args()
    if not options.alone:
        importlib.import_module("torch")  # said here, once, and not by every check
    names = [e.name for e in entries(options.family) if options.only in e.name][:: options.every]
    rows, keep = [], options.every == 1 and not (options.only or options.family or options.alone)
    RESULTS.mkdir(exist_ok=True)
    with Pool(options.jobs, timeout=3600) as pool:
        parts = [(name, options.seed, not options.alone) for name in names]
        for _, row in track(pool.sure(one, parts), "audits", len(names)):
            rows.append(row)
            rows.sort(key=lambda row: (row["kind"], row["name"]))
            if keep:  # what is interrupted is not lost
                (RESULTS / "corpus.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = summary(rows)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    if keep:
        (RESULTS / "corpus.md").write_text(text + "\n")
    wrong = [r for r in rows if r["verify"] != ("pass" if r["kind"] == "RIGHT" else "fail")]
    return 1 if wrong else 0


def summary(rows: list[dict]) -> str:
    """A table of what each checker found, and what verify missed."""
    right, wrong = ([r for r in rows if r["kind"] == kind] for kind in ("RIGHT", "WRONG"))
    lines = [f"| checker | mistakes found, of {len(wrong)} | right rules flagged, of {len(right)} |", "|---|---|---|"]
    for checker in ("verify", *CHECKERS):
        said = {kind: Counter(r.get(checker) for r in found) for kind, found in (("W", wrong), ("R", right))}
        if None in said["W"] or None in said["R"]:
            continue
        raised = f" (and {said['W']['raised']} raised)" if said["W"]["raised"] else ""
        alarms = said["R"]["fail"] + said["R"]["raised"] + said["R"]["inconclusive"]
        lines.append(f"| {checker} | {said['W']['fail']}{raised} | {alarms} |")
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        lines.append("\nCompiled programs were kept from earlier runs: how long verify takes cannot be said.")
    else:
        cpu = sorted(r["cpu"] for r in rows)
        lines.append(f"\nverify took {cpu[len(cpu) // 2]} s of one core in the median, {cpu[-1]} s at most.")
    lines += [f"missed: {r['name']} ({r['verify']})" for r in wrong if r["verify"] != "fail"]
    lines += [f"flagged: {r['name']} ({r['verify']})" for r in right if r["verify"] != "pass"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
