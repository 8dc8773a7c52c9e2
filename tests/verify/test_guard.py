"""References that cannot be used and code under audit that ends the process: neither is ever a pass."""

import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify

pytestmark = pytest.mark.usefixtures("lenient")
X = np.linspace(-1, 2, 6, dtype=np.float32).reshape(2, 3)


def plain(x):
    return x * jax.nn.sigmoid(x)


silu = jax.custom_vjp(plain)
silu.defvjp(lambda x: (plain(x), x), lambda x, dy: (dy * jax.grad(lambda x: plain(x).sum())(x),))


def once(x):
    yield plain(x)


def leaves(x):
    raise SystemExit(0)


REFERENCES = {
    "a typo": (lambda x: x * jax.nn.sigmiod(x), "AttributeError: module 'jax.nn' has no attribute 'sigmiod'"),  # pyright: ignore
    "numpy on tracers": (lambda x: np.asarray(x) * 1.0, "TracerArrayConversionError"),
    "nothing": (lambda x: None, r"returns \(\) and the subject \(float64\[2, 3\],\)"),
    "a generator": (once, "generator"),
    "two outputs": (lambda x: (plain(x), x), "returns .*float64.*float64.* and the subject"),
    "another shape": (lambda x: plain(x).sum(0), r"returns \(float64\[3\],\)"),
    "another rank": (lambda x: plain(x)[None], r"returns \(float64\[1, 2, 3\],\)"),
    "integers": (lambda x: x.astype(jnp.int32), r"returns \(\)"),
    "a narrower dtype": (lambda x: plain(x).astype(jnp.float16), r"returns \(float16"),
    "NaN": (lambda x: plain(x) * jnp.nan, "no finite gradient"),
    "an exit": (leaves, r"SystemExit\(0\)"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_that_cannot_be_used_is_inconclusive(name):
    reference, words = REFERENCES[name]
    report = verify.check(silu, X, reference=reference, level="quick")
    assert report.verdict == "inconclusive"
    with pytest.raises(verify.AuditError, match=words):
        report.raise_if_failed()


def test_a_reference_without_reverse_mode_is_differenced():
    def loops(x):
        return jax.lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, plain(s[1])), (0, x))[1]

    report = verify.check(silu, X, reference=loops, level="quick")
    assert report.oracle == "finite differences"
    assert "of the reference" in report.strength
    wrong = verify.check(silu, X, reference=lambda x: 2 * loops(x), level="quick")
    assert wrong.verdict == "fail"


@pytest.mark.parametrize("ends", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()])
def test_a_rule_that_ends_the_process_is_a_finding(ends):
    @jax.custom_vjp
    def f(x):
        return plain(x)

    def backward(x, dy):
        raise ends

    f.defvjp(lambda x: (plain(x), x), backward)
    report = verify.check(f, X, reference=plain, level="quick")
    assert report.verdict == "fail"
    assert type(ends).__name__ in str(report.errors[0])


def test_a_ctrl_c_of_the_user_stops_the_audit():
    def f(x):
        os.kill(os.getpid(), signal.SIGINT)
        return plain(x)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        verify.check(f, X, reference=plain, level="quick")
    assert signal.getsignal(signal.SIGINT) is before


def test_what_changes_the_dict_that_it_is_given_is_found():
    def doubles(params):
        params["x"] = 2 * params["x"]
        return plain(params["x"])

    def appends(params):
        params["x"].append(params["x"][0])
        return plain(params["x"][0])

    for f, x in ((doubles, X), (appends, [X])):
        report = verify.check(f, {"x": x}, reference=f, level="quick")
        assert report.verdict == "fail"
        assert "changes the lists or dicts that it is given" in str(report)


def test_a_copy_may_be_changed():
    def doubles(params):
        params = dict(params)
        params["x"] = 2 * params["x"]
        return plain(params["x"])

    def definition(params):
        return plain(2 * params["x"])

    assert verify.check(doubles, {"x": X}, reference=definition, level="quick").verdict == "pass"


LOST = """
import gc, signal, sys, time
import verify.processes.guard
def press(phase, info):
    gc.callbacks.remove(press)
    signal.raise_signal(signal.SIGINT)
if sys.argv[1] == "kept":
    verify.processes.guard.keep_interrupts()
gc.callbacks.append(press)
gc.collect()
time.sleep(1)
print("never mind")
"""


@pytest.mark.parametrize(("way", "said"), [("kept", ""), ("lost", "never mind\n")])
def test_ctrl_c_is_not_lost_where_python_swallows_it(way, said):
    done = subprocess.run([sys.executable, "-c", LOST, way], capture_output=True, text=True, check=False)
    assert done.stdout == said
    assert (done.returncode != 0) == (way == "kept")


def test_ctrl_c_while_the_command_is_imported_is_a_word_and_two(tmp_path):
    """The program stops itself where `verify` begins to be imported."""
    (tmp_path / "scipy").mkdir()
    (tmp_path / "scipy" / "__init__.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "verify", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "interrupted\n")
