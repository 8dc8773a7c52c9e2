"""The gallery: every example, short, each in a process of its own, and one page with what came out.

    python -m examples.gallery              # all of them
    python -m examples.gallery digits gan   # some

The page is out/gallery/index.html and needs no other file. Ends with an error if an example failed or missed its bar.
"""

import argparse
import ast
import base64
import html
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from examples.shared import OUT

EXAMPLES = (
    "perceptron",
    "logistic",
    "digits",
    "reversible",
    "characters",
    "pipeline",
    "scale",
    "killed",
    "ring",
    "autoencoder",
    "denoising",
    "vae",
    "gan",
    "unet",
    "hopfield",
    "boltzmann",
    "deep_belief",
    "credit",
    "spiking",
    "dqn",
    "ppo",
    "radial",
    "word2vec",
    "thought",
    "memory",
    "recursive",
    "sentences",
    "heads",
    "adapters",
    "laplace",
    "kfac",
    "bits",
    "noise",
    "private_gpt",
)

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222;
       background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1.5rem }
img { max-width: 100% } code, pre { font: 13px/1.45 ui-monospace, monospace } .bad { color: #b00020; font-weight: 600 }
pre { background: #f6f6f4; padding: .7rem 1rem; overflow-x: auto } summary { cursor: pointer }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25rem .8rem .25rem 0;
        border-bottom: 1px solid #e5e5e5; vertical-align: top }
.number { font-variant-numeric: tabular-nums; white-space: nowrap }
"""


def ran(name: str, out: Path, seconds: float) -> dict[str, Any]:
    """The outcome of one example, as `examples.shared.save` wrote it, or its last words under "failed"."""
    (out / "outcome.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", f"examples.{name}", "--short", "--out", str(out)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"title": name, "failed": f"It took longer than {seconds:.0f} seconds."}
    if not (out / "outcome.json").exists():
        return {"title": name, "failed": process.stderr[-3000:] or f"It ended with {process.returncode}, silently."}
    outcome = json.loads((out / "outcome.json").read_text())
    return outcome | {"picture": base64.b64encode((out / outcome["picture"]).read_bytes()).decode()}


def good(outcome: dict[str, Any]) -> bool:
    return "failed" not in outcome and all(figure["reached"] for figure in outcome["figures"])


def page(outcomes: dict[str, dict[str, Any]]) -> str:
    """One page of HTML that needs nothing else: an overview, then a section for each example."""
    bad = [name for name, outcome in outcomes.items() if not good(outcome)]
    said = f'<p class="bad">Not as they should be: {", ".join(bad)}.</p>' if bad else "<p>All bars were reached.</p>"
    rows = [row(name, outcome) for name, outcome in outcomes.items()]
    sections = [section(name, outcome) for name, outcome in outcomes.items()]
    head = "<th>recipe</th><th>figure of merit</th><th>value</th><th>bar</th><th>what does not reach it</th>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>jbp: gallery</title><style>{STYLE}</style>'
        "<h1>Gallery</h1><p>Networks of jbp, each trained for some seconds by its own hand-written backward pass. "
        "What has not learnt does not reach the bars; a leaf of the gradient is compared with jax.grad of the "
        "plain definition, in float64.</p>"
        f"{said}<table><tr>{head}</tr>{''.join(rows)}</table>{''.join(sections)}</html>"
    )


def row(name: str, outcome: dict[str, Any]) -> str:
    link = f'<a href="#{name}">{html.escape(outcome["title"])}</a>'
    if "failed" in outcome:
        return f'<tr><td>{link}</td><td class="bad" colspan="4">failed</td></tr>'
    lines = []
    for i, figure in enumerate(outcome["figures"]):
        style = "number" if figure["reached"] else "number bad"
        cells = "" if i else f'<td rowspan="{len(outcome["figures"])}">{link}</td>'
        cells += f'<td>{html.escape(figure["name"])}</td><td class="{style}">{figure["value"]:.4g}</td>'
        lines.append(f"<tr>{cells}<td class='number'>{figure['wanted']}</td><td>{html.escape(figure['why'])}</td></tr>")
    return "".join(lines)


def section(name: str, outcome: dict[str, Any]) -> str:
    title = f'<h2 id="{name}">{html.escape(outcome["title"])}</h2>'
    if "failed" in outcome:
        return f'{title}<p class="bad">It failed.</p><pre>{html.escape(outcome["failed"])}</pre>'
    nets = [
        f"<details><summary>{html.escape(net)}</summary><pre>{html.escape(wrapped(text))}</pre></details>"
        for net, text in outcome["nets"].items()
    ]
    image = f'<img alt="{html.escape(outcome["title"])}" src="data:image/png;base64,{outcome["picture"]}">'
    said = f"<code>python -m examples.{name} --short</code>, {outcome['seconds']:.0f} seconds"
    return f"{title}<p>{html.escape(outcome['line'])}</p>{image}{''.join(nets)}<p>{said}</p>"


def wrapped(text: str, width: int = 100, indent: str = "") -> str:
    """The repr of a network over several lines, one for each layer where a line would not hold them."""
    tree = ast.parse(text, mode="eval").body
    if len(indent) + len(text) <= width or not isinstance(tree, ast.Call):
        return indent + text
    inside = [wrapped(ast.unparse(part), width, indent + "    ") for part in tree.args]
    inside += [f"{indent}    {ast.unparse(part)}" for part in tree.keywords]
    return f"{indent}{ast.unparse(tree.func)}(\n" + ",\n".join(inside) + f",\n{indent})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.gallery", description="Run all examples, short.")
    parser.add_argument("names", nargs="*", choices=[*EXAMPLES, []], help="these alone")
    parser.add_argument("--seconds", type=float, default=300, help="the most that one of them may take")
    parser.add_argument("--out", type=Path, default=OUT / "gallery", help="the folder for the page")
    options = parser.parse_args(argv)
    console, outcomes, begin = Console(), {}, perf_counter()
    for name in options.names or EXAMPLES:
        with console.status(name):
            outcomes[name] = ran(name, options.out / name, options.seconds)
        said = "ok" if good(outcomes[name]) else "FAILED"
        console.print(f"{said:>7}  {name}, {perf_counter() - begin:.0f} seconds after the beginning")
        console.print(outcomes[name].get("failed", ""), style="red", end="", markup=False)
    path = options.out / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(outcomes), encoding="utf-8")
    console.print(f"The page is {path}.")
    bad = [name for name, outcome in outcomes.items() if not good(outcome)]
    sys.exit(f"Failed, or missed a bar: {', '.join(bad)}." if bad else 0)


if __name__ == "__main__":
    main()
