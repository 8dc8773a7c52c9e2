"""Scanning a package for rules of its own: found, audited where an example is known or guessed, else listed."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from verify.__main__ import main
from verify.cli import scan
from verify.naming import named

pytestmark = pytest.mark.usefixtures("lenient")

RULES = """
from functools import partial

import jax
import jax.numpy as jnp


@jax.custom_vjp
def right(x):
    return x * x


right.defvjp(lambda x: (x * x, x), lambda x, dy: (2 * x * dy,))


@jax.jit
@jax.custom_vjp
def wrong(x, g):
    return x * g


wrong.__wrapped__.defvjp(lambda x, g: (x * g, (x, g)), lambda kept, dy: (dy * kept[1], -dy * kept[0]))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def over(x, axis):
    return x.sum(axis)


over.defjvp(lambda axis, x, dx: (x[0].sum(axis), dx[0].sum(axis)))


@jax.custom_vjp
def odd(x, table):
    return x * table["scale"]


def back(kept, dy):
    return dy * kept[1]["scale"], {"scale": jnp.sum(dy * kept[0])}


odd.defvjp(lambda x, t: (x * t["scale"], (x, t)), back)


class Holder:
    method = staticmethod(jax.custom_vjp(lambda x: x))  # no rule yet: there is nothing to audit


def plain(x):
    return x
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    home = tmp_path / "strangers"
    home.mkdir()
    (home / "__init__.py").write_text("from strangers.rules import right\n")
    (home / "rules.py").write_text(RULES)
    (home / "broken.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "strangers"]:
        del sys.modules[name]


def test_rules_are_found_once_each_and_failed_imports_are_told(package):
    modules, failed = scan.modules("strangers")
    assert list(failed) == ["strangers.broken"]
    found = {rule.name: rule for rule in scan.rules(modules, "strangers")}
    assert set(found) == {"strangers:right", "strangers.rules:wrong", "strangers.rules:over", "strangers.rules:odd"}
    guesses = {name.partition(":")[2]: scan.guess(rule) for name, rule in found.items()}
    assert guesses == {"right": "f32[4,8]", "wrong": "f32[4,8], f32[4,8]", "over": "f32[4,8], -1", "odd": ""}


def test_the_command(package, capsys):
    report = package / "report.json"
    assert main(["scan", "strangers", "--output", str(report), "--here"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "pass strangers:right (f32[4,8])" in said
    assert "fail strangers.rules:wrong (f32[4,8], f32[4,8])" in said
    assert "sign" in said
    assert "not imported strangers.broken" in said
    assert "needs an example strangers.rules:odd: python -m verify function strangers.rules:odd --example" in said
    assert '"needs an example' in report.read_text()


def test_examples_of_the_user_are_taken(package, capsys):
    file = package / "mine.py"
    lines = (
        "import numpy as np",
        "x = np.ones(3, np.float32)",
        "EXAMPLES = {'strangers.rules:odd': (x, {'scale': x[0]})}",
    )
    file.write_text("\n".join(lines))
    main(["scan", "strangers", "--examples", str(file), "--here"])
    assert "pass strangers.rules:odd (given)" in " ".join(capsys.readouterr().out.split())
    other = file.with_name("other.py")
    other.write_text("EXAMPLES = {'strangers.rules:nobody': 'f32[3]'}")
    assert main(["scan", "strangers", "--examples", str(other), "--here"]) == 2
    assert main(["scan", "no_such_package", "--here"]) == 2


def test_an_example_may_hold_constants():
    tree, (y, k) = named.example("{'w': f32[2,3], 'b': [bf16[3], None]}, (f32[4], i32[4]<2)", 0)
    assert (tree["w"].shape, tree["b"][0].dtype, tree["b"][1]) == ((2, 3), jnp.bfloat16, None)
    assert (y.shape, k.dtype, int(k.max()) < 2) == ((4,), jnp.int32, True)
    assert named.example("'f32', 'key'", 0) == ["f32", "key"]
    x, axis, word, flag = named.example("f32[2], -1, 'mean', True", 0)
    assert (x.shape, axis, word, flag) == ((2,), -1, "mean", True)
    with pytest.raises(named.CommandError, match="Python constant"):
        named.example("f32[2], nonsense(", 0)


def test_it_runs_from_a_shell(package):
    root = Path(__file__).parents[2]
    path = f"{root}:{package}"
    done = subprocess.run(
        [sys.executable, "-m", "verify", "function", "strangers:right", "--example", "f32[3]", "--level", "quick"],
        env={"PYTHONPATH": path, "PATH": "", "HOME": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
