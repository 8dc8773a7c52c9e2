"""A release: what is built is whole, installs into a clean environment and works; what `import jbp` brings along."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import jbp

ROOT = Path(__file__).parents[1]
PACKED = ("jbp", "verify", "README.md", "LICENSE", "pyproject.toml", "pytest_verify.py")
BUILD = "import sys; out = sys.argv[1]; from setuptools import build_meta as b; b.build_sdist(out); b.build_wheel(out)"
USE = """
import sys
import jax, jax.numpy as jnp, optax
import jbp
from jbp import Serial
from jbp.layers import Dense, Dropout, Tanh
from jbp.losses import MeanSquaredError
from jbp.train import fit, start

assert jbp.__file__.startswith(sys.prefix), jbp.__file__
x = jnp.linspace(-1, 1, 16)[:, None]
net, loss, optimizer = Serial(Dense(4), Tanh(), Dropout(0.1), Dense(1)), MeanSquaredError(), optax.adam(1e-2)
state, history = fit(net, loss, optimizer, start(net, optimizer, jax.random.key(0), x), [(x, x)] * 3)
jbp.save("net", net, state)
assert jbp.load("net")[0] == net
print(jbp.summary(net, x), jbp.draw(net, x))
if len(sys.argv) > 1:
    import verify
    assert verify.compare(net, loss, state.params, x, x).agrees
"""


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_version_everywhere():
    said = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert said
    assert cited
    assert said[1] == cited[1] == jbp.__version__


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the wheel, the source distribution), out of a copy of the tree."""
    pytest.importorskip("setuptools", minversion="77", reason="the build needs it; the extra `test` brings it")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in PACKED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    run(sys.executable, "-c", BUILD, out, cwd=tree)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def sources():
    return {str(p.relative_to(ROOT)) for part in ("jbp", "verify") for p in (ROOT / part).rglob("*.py")}


@pytest.mark.slow
def test_the_wheel_has_the_packages_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    wanted = sources() | {"jbp/py.typed", "verify/py.typed", "pytest_verify.py"}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert built[0].name.startswith(f"jbp-{jbp.__version__}-")
    text = next(zipfile.ZipFile(built[0]).read(n).decode() for n in names if n.endswith("entry_points.txt"))
    assert "verify = verify.__main__:script" in text
    with tarfile.open(built[1]) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert packed >= sources() | {"LICENSE", "pyproject.toml"}


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(built, tmp_path):
    """Whose other packages are those of this one: nothing is fetched."""
    venv.create(tmp_path / "clean", with_pip=True)
    python = next((tmp_path / "clean").glob("[bS]*/python*"))
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0])
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = keep | {"PYTHONPATH": sysconfig.get_path("purelib")}
    shown = run(python, "-c", USE, "audit", cwd=tmp_path, env=environment)
    assert "Dense(4)" in shown
    assert "networks" in run(python.with_name("verify"), "--help", cwd=tmp_path, env=environment)


def test_the_citation_names_this_version():
    assert f"\nversion: {jbp.__version__}\n" in (ROOT / "CITATION.cff").read_text()


LATE = (
    "verify", "optax", "rich", "matplotlib", "hypothesis", "flax", "equinox", "haiku", "sklearn", "pytest", "jbp.train"
)  # fmt: skip


def test_importing_it_brings_neither_the_auditor_nor_what_takes_its_time():
    code = f"import sys, jbp; print([name for name in {LATE} if name in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) == "[]\n"


def test_without_what_the_extra_verify_adds_jbp_works(tmp_path):
    block = "import sys\nsys.modules |= dict.fromkeys(('hypothesis', 'threadpoolctl', 'verify'))\n"
    code = block + USE.replace("assert jbp.__file__", "jbp.__file__")
    run(sys.executable, "-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_the_auditor_says_what_it_lacks():
    block = "import sys\nsys.modules |= dict.fromkeys(('hypothesis', 'threadpoolctl'))\nimport verify"
    command = [sys.executable, "-c", block]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "verify needs hypothesis, threadpoolctl, which jbp alone does not: pip install 'jbp[verify]'" in done.stderr
