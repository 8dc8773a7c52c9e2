"""The pytest plugin, in pytest runs of its own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import verify
from verify.cli.cases import of_catalogue
from verify.naming.named import CommandError

ROOT = Path(__file__).parents[2]

TESTS = """
import os
import time

import jax
import pytest
import verify


def plain(x):
    return x * x


def right(x):
    return x * x


@jax.custom_vjp
def wrong(x):
    return x * x


wrong.defvjp(lambda x: (x * x, x), lambda x, dy: (3 * x * dy,))
x = jax.numpy.arange(4.0) + 1


def ends(x):
    os._exit(0)


def waits(x):
    time.sleep(600)


@pytest.mark.parametrize("f", [ends, waits])
def test_hostile(audit, f):
    audit(f, x, reference=plain)


def test_right(audit):
    assert audit(right, x, reference=plain).verdict == "pass"


@pytest.mark.verify(seed=3)
def test_wrong(audit):
    audit(wrong, x, reference=plain)


@verify.parametrize(
    verify.case(right, "f32[4]", reference=plain),
    verify.case(wrong, x, reference=plain, name="by hand"),
    verify.case("math_of:plain", "f32[3]"),
)
def test_each(audit):
    audit()
"""


def run(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "pytest_verify", "-p", "no:cacheprovider", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment(folder), check=False)


def _environment(folder):
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


def test_loading_it_does_not_import_jax(tmp_path):
    (tmp_path / "test_nothing.py").write_text(
        "import sys\ndef test_nothing():\n    assert 'pytest_verify' in sys.modules and 'jax' not in sys.modules\n"
    )
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout


def test_audits_pass_and_fail_with_the_report(tmp_path):
    (tmp_path / "test_rules.py").write_text(TESTS)
    (tmp_path / "math_of.py").write_text("def plain(x):\n    return x * x * x\n")
    done = run(tmp_path, "--verify-level", "quick", "--strict-markers", "--verify-timeout", "15")
    assert done.returncode == 1, done.stdout
    assert "5 failed, 2 passed" in done.stdout, done.stdout  # the last has nothing to be compared with
    assert "it ended its process with exit code 0" in done.stdout
    assert "it gave no answer in 15 s and was stopped" in done.stdout
    assert "FAIL: wrong" in done.stdout
    assert "constant factor 1.5" in done.stdout
    assert "test_each[by hand]" in done.stdout
    chosen = run(tmp_path, "--collect-only", "-m", "verify")
    assert "4/7 tests collected" in chosen.stdout, chosen.stdout


def test_the_entry_point_names_the_module():
    made = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert made["project"]["entry-points"]["pytest11"] == {"pytest_verify": "pytest_verify"}
    assert "pytest_verify" in made["tool"]["setuptools"]["py-modules"]


def test_a_catalogue_is_a_list_of_cases():
    cases = list(of_catalogue())
    dense = next(c for c in cases if c.name.startswith("Dense(1)"))
    assert dense.check(level="quick").verdict == "pass"
    lost = verify.case("nowhere:nothing", "f32[2]")
    with pytest.raises(CommandError, match="nowhere"):
        lost.check()
