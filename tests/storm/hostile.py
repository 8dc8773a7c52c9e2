"""Code under audit that means harm: from the shell alone, in a scan beside others, and under pytest.

Never a pass, never exit code 0, never longer than the deadline, one finding that says what it did, and what is audited
beside it is audited.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tests.storm.subjects import HOSTILE, package, running
from tests.storm.told import Tried

TIMEOUT = 25  # seconds that an audit may take
START = 60  # seconds more for Python, JAX and the end of the processes, on a machine that has much else to do
MEMORY = 2  # GiB
SAYS = {  # what the finding must tell
    "hangs": "no answer in",
    "exits": r"exit code 0|SystemExit",
    "kills_itself": "SIGKILL",
    "terminates_itself": "SIGTERM",
    "breaks_memory": "SIGSEGV|SIGBUS|SIGABRT",
    "interrupts": "KeyboardInterrupt",
    "leaves_a_generator": "GeneratorExit",
    "recurses": "RecursionError",
    "prints": "printed more than|no answer in",
    "needs": r"GiB of memory|MemoryError|no answer in|SIGKILL",
    "asks": "MemoryError",
}
TESTS = """
import jax.numpy as jnp
import pytest
from hostile import rules

@pytest.mark.parametrize("name", {names})
def test_hostile(audit, name):
    audit(getattr(rules, name), jnp.arange(4.0) + 1, reference=rules.plain)

def test_right(audit):
    assert audit(rules.right, jnp.arange(4.0) + 1, reference=rules.plain).verdict == "pass"
"""


def one_finding(name: str, report: dict) -> list[str]:
    """What is wrong with the report of a hostile subject."""
    errors = [f["message"] for f in report["findings"] if f["severity"] == "error"]
    wrong = [f"the verdict is {report['verdict']}"] if report["verdict"] == "pass" else []
    if not errors:
        return [*wrong, "nothing was found"]
    says = next((words for start, words in SAYS.items() if name.startswith(start)), "")
    if says and not any(re.search(says, message) for message in errors):
        wrong.append(f"no finding says {says!r}: {errors[0][:200]}")
    if says and len(errors) > 1:
        wrong.append(f"{len(errors)} findings for one fault")
    return wrong


def alone(home: Path, name: str) -> list[str]:
    """From the shell: `verify function`."""
    arguments = ["function", f"hostile.rules:{name}", "--reference", "hostile.rules:plain", "--example", "f32[4]"]
    report = home / f"{name}.json"
    limits = ["--timeout", str(TIMEOUT), "--memory", str(MEMORY), "--level", "quick", "--output", str(report)]
    with running(home, "-m", "verify", *arguments, *limits) as run:
        code, printed = run.ended(TIMEOUT + START)
        seconds, left = run.seconds, run.close()
    wrong = [] if code in (1, 2) else [f"exit code {code} after {seconds:.0f} s: {printed[-300:]}"]
    if left:
        wrong.append(f"{len(left)} processes outlived it")
    if "\x1b[2J" in printed:
        wrong.append("what it printed reached the terminal as it was")
    if not report.exists():
        return [*wrong, f"no report: {printed[-300:]}"]
    (held,) = json.loads(report.read_text(encoding="utf-8"))["reports"]
    return wrong + one_finding(name, held)


def scanned(home: Path) -> Iterator[Tried]:
    """All of them in one package, beside a right one."""
    report = home / "scan.json"
    limits = ["--timeout", str(TIMEOUT), "--memory", str(MEMORY), "--output", str(report)]
    with running(home, "-m", "verify", "scan", "hostile", *limits) as run:
        code, printed = run.ended((TIMEOUT + START) * len(HOSTILE))
        left = run.close()
    wrong = [] if code == 1 else [f"exit code {code}: {printed[-300:]}"]
    wrong += [f"{len(left)} processes outlived it"] if left else []
    found = json.loads(report.read_text(encoding="utf-8"))["reports"] if report.exists() else []
    verdicts = [r["verdict"] for r in found]
    if verdicts.count("pass") != 1:
        wrong.append(f"{verdicts.count('pass')} pass, and one is right: {[r['subject'] for r in found]}")
    if len(found) != len(HOSTILE) + 3:  # the right one, and two modules that end their process when imported
        wrong.append(f"{len(found)} reports of {len(HOSTILE) + 3}")
    yield Tried("scan", f"{len(found)} subjects in one package", tuple(wrong))
    for r in found:
        if r["verdict"] != "pass" and not any(f["severity"] == "error" for f in r["findings"]):
            yield Tried("scan", r["subject"], ("nothing was found",))


def tested(home: Path) -> Iterator[Tried]:
    """Each in a test of its own, by the pytest plugin."""
    file, report = home / "test_hostile_storm.py", home / "junit.xml"
    file.write_text(TESTS.format(names=list(HOSTILE)))
    options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_verify", f"--verify-timeout={TIMEOUT}"]
    with running(home, "-m", "pytest", *options, f"--junitxml={report}", str(file)) as run:
        code, printed = run.ended((TIMEOUT + START) * len(HOSTILE))
        left = run.close()
    wrong = [] if code == 1 else [f"exit code {code}: {printed[-300:]}"]
    wrong += [f"{len(left)} processes outlived it"] if left else []
    cases = list(ElementTree.parse(report).getroot().iter("testcase")) if report.exists() else []
    passed = [case.get("name") for case in cases if not [c.tag for c in case if c.tag in ("failure", "error")]]
    if passed != ["test_right"] or len(cases) != len(HOSTILE) + 1:
        wrong.append(f"passed {passed} of {len(cases)}: {printed[-300:]}")
    yield Tried("pytest", f"{len(cases)} tests", tuple(wrong))


def hostile(names: tuple[str, ...] = HOSTILE, together: bool = True) -> Iterator[Tried]:
    """Each by itself; then, if `together`, all in one scan, and all in one run of pytest."""
    with tempfile.TemporaryDirectory() as place:
        home = package(Path(place) / "home")
        for name in names:
            yield Tried("function", name, tuple(alone(home, name)))
        if together:
            yield from scanned(home)
            yield from tested(home)
