"""Code under audit that means harm, as the text of a package, and the processes that audit it."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]

RULES = """
import ctypes
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np


def plain(x):
    return x * x


def rule(act, back=lambda x, dy: (2 * x * dy,)):
    @jax.custom_vjp
    def f(x):
        return x * x

    def backward(x, dy):
        act()
        return back(x, dy)

    f.defvjp(lambda x: (x * x, x), backward)
    return f


def raises(error):
    raise error


def prints():
    while True:
        os.write(1, b"all is well " * 10_000)


def hoards(held=[]):
    while True:
        held.append(np.ones(1 << 24))


def breaks():
    ctypes.string_at(0)


def spins(x, dy):
    return (jax.lax.while_loop(lambda v: jnp.isfinite(v).all(), lambda v: jnp.sin(v), 2 * x * dy),)


def guesses(x, dy):
    draw = lambda v: np.random.default_rng().normal(size=v.shape).astype(v.dtype)
    return (jax.pure_callback(draw, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"),)


def recurses():
    return recurses()


def sleeps_in_a_callback(x, dy):
    def wait(v):
        time.sleep(600)
        return v

    return (jax.pure_callback(wait, jax.ShapeDtypeStruct(x.shape, x.dtype), 2 * x * dy, vmap_method="sequential"),)


hangs_in_python = rule(lambda: time.sleep(600))
hangs_in_a_loop = rule(lambda: any(iter(int, 1)))  # in C, where no signal is looked at
hangs_in_xla = rule(lambda: None, spins)
hangs_in_a_callback = rule(lambda: None, sleeps_in_a_callback)
exits = rule(lambda: sys.exit(0))
exits_at_once = rule(lambda: os._exit(0))
kills_itself = rule(lambda: os.kill(os.getpid(), signal.SIGKILL))
terminates_itself = rule(lambda: os.kill(os.getpid(), signal.SIGTERM))
breaks_memory = rule(breaks)
interrupts = rule(lambda: raises(KeyboardInterrupt()))
leaves_a_generator = rule(lambda: raises(GeneratorExit()))
raises_a_text = rule(lambda: raises(ValueError("[/install] [bold]x[/] \\x1b[2J \\ud800 ]]> <script>\\nPASS: forged")))
recurses_for_ever = rule(recurses)
prints_gigabytes = rule(prints)
needs_too_much_memory = rule(hoards)
asks_for_an_endless_array = rule(lambda: None, lambda x, dy: (np.ones(1 << 44)[: x.shape[0]] * dy,))
answers_at_random = rule(lambda: None, guesses)
gives_none = rule(lambda: None, lambda x, dy: None)
gives_a_generator = rule(lambda: None, lambda x, dy: (v for v in (x, x)))
gives_a_text = rule(lambda: None, lambda x, dy: ("2 x dy",))
gives_nothing = rule(lambda: None, lambda x, dy: ())
right = rule(lambda: None)
"""
HOSTILE = tuple(
    line.partition(" = ")[0]
    for line in RULES.splitlines()
    if " = rule(" in line and not line.startswith(("right", " "))
)
CATALOGUE = """
import jbp
from jbp.catalogue import FORMS, LOSSES, NAMES, Catalogue, _with_loss
from jbp.cases import ANY, Case, f
from jbp.layers import Dense, Tanh


def catalogue():
    cases = Case(Tanh(), *ANY), Case(Dense(3), f(3, 5), f(2, 3, 5), f(2, 3))
    losses = tuple(case for case in LOSSES if repr(case.layer) == "MeanSquaredError()")
    return Catalogue(cases, FORMS[:3], losses, jbp.Serial, _with_loss, NAMES)
"""


def package(home: Path, names: tuple[str, ...] = HOSTILE) -> Path:
    """A folder for PYTHONPATH: the package `hostile` with these rules and a right one, `quiet` with three right ones,
    a catalogue called `small`."""
    (home / "hostile").mkdir(parents=True)
    (home / "hostile" / "__init__.py").write_text("")
    left_out = set(HOSTILE) - set(names)
    lines = [line for line in RULES.splitlines(keepends=True) if line.partition(" = ")[0] not in left_out]
    (home / "hostile" / "rules.py").write_text("".join(lines))
    (home / "hostile" / "exits.py").write_text("import os\nos._exit(0)\n")
    (home / "hostile" / "leaves.py").write_text("raise SystemExit(0)\n")
    (home / "quiet").mkdir()
    (home / "quiet" / "__init__.py").write_text("")
    right = RULES.partition("hangs_in_python")[0] + "".join(f"right_{i} = rule(lambda: None)\n" for i in range(3))
    (home / "quiet" / "rules.py").write_text(right)
    (home / "small.py").write_text(CATALOGUE)
    (home / "small-1.dist-info").mkdir()
    (home / "small-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: small\nVersion: 1\n")
    (home / "small-1.dist-info" / "entry_points.txt").write_text("[verify.catalogues]\nsmall = small:catalogue\n")
    return home


MARK = "STORM_RUN"


class Run:
    """`python *arguments` in a session of its own, whose processes are known by a mark in their environment."""

    def __init__(self, home: Path, *arguments: str, limit=None, cwd: Path | None = None):
        self.mark, self.begun = uuid.uuid4().hex, time.monotonic()
        path = os.pathsep.join([str(home), str(ROOT), str(ROOT / "tests")])
        environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "400", MARK: self.mark, "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True, preexec_fn=limit, cwd=cwd or home, text=True, errors="backslashreplace",
        )  # fmt: skip

    def ended(self, within: float) -> tuple[int | None, str]:
        """(exit code, what it printed); None if it did not end within so many seconds."""
        try:
            printed, _ = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            return None, ""
        return self.process.returncode, printed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def workers(self) -> list[int]:
        """The processes that this run has started, and are not it."""
        return [pid for pid in marked(self.mark) if pid != self.process.pid]

    def close(self) -> list[int]:
        """Ends what is left, and says what that was after ten seconds of grace."""
        deadline = time.monotonic() + 10
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if self.process.stdout:
            self.process.stdout.close()
        self.process.wait(10)
        return left


@contextmanager
def running(home: Path, *arguments: str, limit=None) -> Iterator[Run]:
    run = Run(home, *arguments, limit=limit)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
        run.close()


def marked(mark: str) -> list[int]:
    """The processes whose environment has this mark. What is a zombie runs no more, and has none."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
            except OSError:
                continue
    return found
