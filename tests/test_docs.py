"""What README and documentation say can be typed can be typed: their programs run, their commands and links exist."""

import doctest
import importlib.util
import inspect
import json
import linecache
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jbp
import verify
from docs.tools import docstrings, generated, notebooks, recorded
from jbp.catalogue import NAMES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
WRITTEN = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
TEXT = "\n".join(page.read_text() for page in WRITTEN)
TARGETS = sorted(set(re.findall(r"(?:`|\$ )make ([a-z-]+)", TEXT)))
MODULES = sorted(set(re.findall(r"(?:`|\$ )(?:\.venv/bin/)?python -m ([\w.]+)((?: [\w-]+)*)", TEXT)))
MADE = ("api/", "figures/floor.png", "figures/benchmarks.png")  # where the site has pages that docs/tools makes
OTHERS = {"jaxopt", "torch"}  # packages about which something is said that are not installed for tests
USERS = {"jax_enable_x64": False, "jax_numpy_rank_promotion": "allow", "jax_numpy_dtype_promotion": "standard"}


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def programs():
    """(name, blocks that are run one after the other): those of the README alone, those of a page together."""
    yield from ((f"README-{k}", [block]) for k, block in enumerate(blocks(README.read_text())))
    pages = ((str(page.relative_to(ROOT)), blocks(page.read_text())) for page in WRITTEN[1:])
    yield from ((name, found) for name, found in pages if found)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """JAX's settings as users have them, whatever a page does to them; what it writes goes with the test."""
    monkeypatch.chdir(tmp_path)
    before = {name: getattr(jax.config, name) for name in USERS}
    for name, value in USERS.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def run(name, found):
    scope = {"__name__": re.sub(r"\W", "_", name)}
    for k, block in enumerate(found):
        file = f"<{name}, program {k}>"
        linecache.cache[file] = len(block), None, block.splitlines(True), file  # for whoever looks at its source
        try:
            exec(compile(block, file, "exec"), scope)
        except ModuleNotFoundError as error:
            if error.name not in OTHERS:
                raise


@pytest.mark.parametrize(("name", "found"), [pytest.param(*program, id=program[0]) for program in programs()])
@pytest.mark.usefixtures("settings")
def test_the_programs_run(name, found):
    run(name, found)


WITHOUT = {  # an example of their own
    "Layer", "Estimator", "Loss", "LayerError", "Diverged",  # what is subclassed or raised
    "AuditError", "ContractError", "SubjectError",
    "Canary", "Comparison", "Factors", "Finding", "Look", "Network", "Observed", "Pair", "PerExample", "Report",
    "Seen",  # what others give
    "Constraint", "Contract", "audit", "case", "locate", "networks", "parametrize",  # in programs, on their pages
    "safetensors",  # of a file
}  # fmt: skip


class Runner(doctest.DocTestRunner):
    def report_failure(self, out, test, example, got):
        raise AssertionError(f"{test.name}: {example.source}expected {example.want}got {got}")

    def report_unexpected_exception(self, out, test, example, exc_info):
        raise exc_info[1]


def try_example(name, docstring):
    """Whether there is one. The names of jbp, its layers and losses are there, arrays are printed to three digits."""
    test = doctest.DocTestParser().get_doctest(docstring or "", scope(), name, None, None)
    with np.printoptions(precision=3, suppress=True):
        Runner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    return bool(test.examples)


def scope():
    return {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "jbp": jbp, "verify": verify, **NAMES}


@pytest.mark.parametrize("module", generated.modules())
@pytest.mark.usefixtures("settings")
def test_the_examples_of_the_api_give_what_they_say(module):
    """Every public class and function has one at the end of its docstring."""
    shown = {n: v for n, v in generated.public(module).items() if inspect.isclass(v) or inspect.isroutine(v)}
    without = {name for name, value in shown.items() if not try_example(name, inspect.getdoc(value))}
    assert without <= WITHOUT


@pytest.mark.usefixtures("settings")
def test_an_example_that_is_wrong_is_noticed():
    assert not try_example("f", "y = x. No example.")
    assert try_example("f", ">>> Tanh()((), jnp.array([0.0, 1.0]))\nArray([0.   , 0.762], dtype=float32)\n")
    with pytest.raises(AssertionError, match=r"got Array\(0\.762"):
        try_example("f", ">>> Tanh()((), jnp.array(1.0))\nArray(0.763, dtype=float32)\n")
    with pytest.raises(NameError, match="Tangh"):
        try_example("f", ">>> Tangh()\n")


def outputs(page, folder):
    """What the cells of a page give, as a notebook that is run by a kernel of its own: {kind: texts}."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    read = nbformat.reads(notebooks.made(page), as_version=4)
    nbformat.validate(read)
    nbclient.NotebookClient(read, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    found = defaultdict(list)
    for given in (given for cell in read.cells for given in cell.get("outputs", ())):
        for kind, text in given.get("data", {given.get("name"): given.get("text")}).items():
            found[kind].append(text)
    return found


@pytest.mark.filterwarnings("ignore")  # what Jupyter's own packages say of one another
@pytest.mark.parametrize(
    ("page", "kind", "word"),
    [
        ("getting-started.md", "stdout", "fail ['constant factor 0.66"),
        ("tutorial/own-layer.md", "stdout", "missing term: through argument 1 of div"),
        ("how-to/look.md", "text/plain", "Serial(\n    stem=Conv(8),\n"),
    ],
)
def test_pages_run_as_notebooks(page, kind, word, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = outputs(page, tmp_path)
    assert word in "".join(found[kind]), found[kind]
    assert page != "how-to/look.md" or {"image/svg+xml", "image/png"} <= set(found)
    assert page != "how-to/look.md" or "body Serial" in "".join(found["stdout"])  # a table, printed


def test_a_notebook_is_the_page():
    text = "# A\n\nSee [b](b.md#c), [d](https://d.e).\n\n![f](g.svg)\n\n```python\nx = 1\n```\n```text\nno\n```\n"
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebooks.notebook(text)["cells"]]
    assert cells[0] == ("markdown", "# A\n\nSee b, [d](https://d.e).")
    assert cells[1:] == [("code", "x = 1"), ("markdown", "```text\nno\n```")]
    assert {"tutorial/aim.md", "how-to/look.md"} <= set(notebooks.pages())


@pytest.mark.parametrize("target", TARGETS)
def test_the_targets_are_in_the_makefile(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_the_modules_and_their_commands_exist(module, arguments, capsys):
    assert importlib.util.find_spec(module)
    if module == "verify":
        from verify.__main__ import main

        with pytest.raises(SystemExit) as stop:
            main([*arguments.split()[:1], "--help"])
        assert stop.value.code == 0
        said = capsys.readouterr().out
        assert all(option in said for option in re.findall(r"--\w+", arguments))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_lead_somewhere(page):
    """Also within a page. What the site alone has is left to `make docs`, for which warnings are errors."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for path, anchor in re.findall(r"\]\((?!http)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        goal = (page.parent / path).resolve() if path else page
        made = goal.is_relative_to(ROOT / "docs") and str(goal.relative_to(ROOT / "docs")).startswith(MADE)
        if not goal.exists() and made and page != README:
            continue
        assert goal.exists(), path
        if anchor and "<!-- made:" not in goal.read_text():
            assert anchor in anchors(goal), f"{path}#{anchor}"


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert not there - listed
    assert all(name.startswith(MADE) for name in listed - there)


def test_every_marker_is_made_and_everything_that_is_made_is_shown():
    made = {name: make() for name, make in (generated.MADE | recorded.MADE).items()}
    marked = re.findall(r"<!-- made: (\w+) -->", "\n".join(page.read_text() for page in (ROOT / "docs").rglob("*.md")))
    assert sorted(marked) == sorted(made)
    assert all(text.strip() for text in made.values())


def test_the_index_has_every_layer_with_its_equations():
    text = generated.MADE["layers"]()
    assert [name for name in jbp.layers.__all__ if f"### [{name}](" not in text] == []
    assert "\ny = x W + b.\ndx = dy Wᵀ\ndW = xᵀ dy\ndb = Σ dy\n" in text
    assert ">>> Dense(3)(params, x).shape\n(2, 3)\n```\n" in text
    assert "freeze(net, params, where)" in generated.MADE["combinators"]()
    assert docstrings.parts("One line without any.")[0] == []
    lines, rest = docstrings.parts("y = x, and\nso on.      dx = dy\n\n    da = 1\n\nKeeps x.")
    assert docstrings.plain("Of a[0][1]:\n\n    a[0][1]") == "Of a[0]\\[1]:\n\n    a[0][1]"
    assert docstrings.plain("a[0][1]\n\n>>> a[0][1]\n2") == "a[0]\\[1]\n\n```pycon\n>>> a[0][1]\n2\n```"
    assert (lines, rest) == (["y = x, and so on.", "dx = dy", "da = 1"], "Keeps x.")


def test_the_readme_has_the_recorded_figures():
    text = README.read_text()
    found = json.loads((ROOT / "benchmarks/verify/results/corpus.json").read_text())
    wrong, right = ([r for r in found if r["kind"] == kind] for kind in ("WRONG", "RIGHT"))
    told = [int(n) for n in re.search(r"Of (\d+) mistakes.*?finds (\d+).*?none of (\d+)", text, re.DOTALL).groups()]
    assert told == [len(wrong), sum(r["verify"] == "fail" for r in wrong), len(right)]
    assert not any(r["verify"] == "fail" for r in right)
    agree = json.loads((ROOT / "benchmarks/parity/results.json").read_text())["agree"]
    assert int(re.search(r"(\d+) of PyTorch's own module tests", text)[1]) == agree
    told = re.search(r"over (\d+) workloads, ([\d.]+) of the time and ([\d.]+) of", text).groups()
    assert list(told) == re.findall(r"\d+(?:\.\d+)?", recorded.means())


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")  # the extra `docs`
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api" / "jbp.layers.linear.html").exists()
    look = (tmp_path / "how-to" / "look.html").read_text()
    assert 'href="../notebooks/how-to-look.ipynb"' in look
    assert (tmp_path / "notebooks" / "how-to-look.ipynb").exists()


def test_there_is_something_to_test():
    assert len(list(programs())) >= 20
    assert {"demo", "test", "docs"} <= set(TARGETS)
    assert {"function", "networks", "scan"} <= {a.split()[0] for m, a in MODULES if m == "verify" and a}


def test_a_program_that_fails_is_noticed():
    with pytest.raises(AttributeError, match="NoSuchLayer"):
        run("a page", ["import jbp", "jbp.NoSuchLayer()"])
    with pytest.raises(ModuleNotFoundError):
        run("a page", ["import no_such_package"])
