"""The table of what was said, and what agreed, as Markdown."""

from collections import Counter
from typing import Any


def totals(records: list[dict[str, Any]]) -> dict[str, int]:
    """Modules, samples, distinct samples, said, agreeing and disagreeing, over all records."""
    return {
        "modules": len(records),
        **{name: sum(r[name] for r in records) for name in ("samples", "distinct", "said", "agree")},
        "disagree": sum(len(r["disagree"]) for r in records),
        "faults": sum(len(r["faults"]) for r in records),
    }


def merged(before: list[dict[str, Any]], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records by module, the new ones in place of those before."""
    by_name = {r["module"]: r for r in (*before, *records)}
    return [by_name[name] for name in sorted(by_name)]


def markdown(found: dict[str, Any]) -> str:
    """A page of the whole record."""
    rows = [
        f"| {r['module']} | {r['samples']} | {r['distinct']} | {r['said']} | {r['agree']} | {len(r['disagree'])} |"
        for r in found["modules"]
    ]
    lines = [
        "# PyTorch's module tests, said in jbp",
        "",
        f"PyTorch {found['torch']}, JAX {found['jax']}, float64 on a CPU. Output, the gradient of every input and "
        f"parameter for a random cotangent, and buffers after the call, to {found['tolerance']:g} of the largest.",
        "",
        "A sample is one entry of `torch.testing`'s `module_db` (twice, in training and in evaluation, for modules "
        "that differ) or of the older lists of `common_nn`; distinct ones differ in arguments, shapes or mode.",
        "",
        f"**{found['samples']} samples of {len(found['modules'])} modules: {found['said']} said, "
        f"{found['agree']} agree, {found['disagree']} disagree, {found['faults']} differ by a fault of PyTorch's.**",
        "",
        "| module | samples | distinct | said | agree | disagree |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]
    unsaid = [(r["module"], u) for r in found["modules"] for u in r["unsaid"]]
    if unsaid:
        lines += ["## Not said", "", "| module | samples | first of them | why |", "|---|---:|---|---|"]
        kinds = Counter((name, u["why"]) for name, u in unsaid)
        for (name, why), n in kinds.items():
            example = next(u["sample"] for m, u in unsaid if m == name and u["why"] == why)
            lines.append(f"| {name} | {n} | `{example}` | {_cell(why)} |")
        lines.append("")
    for key, title in (("disagree", "Disagreeing"), ("faults", "Faults of PyTorch's")):
        wrong = [(r["module"], d) for r in found["modules"] for d in r[key]]
        if wrong:
            lines += [f"## {title}", "", "| module | sample | what |", "|---|---|---|"]
            lines += [f"| {name} | `{d['sample']}` | {_cell(d['what'])} |" for name, d in wrong]
            lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
