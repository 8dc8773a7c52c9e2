"""Trainings that are killed at random moments and take up their saves: the same numbers as if they never had stopped.

No save may be lost but the one that was being written, no batch seen twice or left out.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.storm.told import Tried

ROOT = Path(__file__).parents[2]
STEPS, PATIENCE = 40, 300


class Run:
    """All processes of one go of a training."""

    def __init__(self, folder: Path, cache: Path, *more: str, count: int = 1, steps: int = STEPS):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.begun = time.monotonic()
        command = [sys.executable, "-m", "tests.storm.trained", address, str(count)]
        rest = [str(folder), str(steps), *more]
        told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": environment}
        self.processes = [subprocess.Popen([*command, str(k), *rest], **told) for k in range(count)]

    def signal(self, number: int) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def wait(self, moment: float) -> None:
        while time.monotonic() - self.begun < moment and self.processes[0].poll() is None:
            time.sleep(0.01)

    def ended(self) -> tuple[list[int], list[str]]:
        """The exit codes, and what each has said."""
        try:
            said = [process.communicate(timeout=PATIENCE)[0] for process in self.processes]
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            said = [process.communicate()[0] for process in self.processes]
        return [process.returncode for process in self.processes], said


def words(said: str, name: str) -> str:
    """The last line that begins so."""
    return next((line for line in reversed(said.splitlines()) if line.startswith(name)), "")


def saved(folder: Path) -> int:
    """The step of the newest save, 0 if there is none."""
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def trainings(count: int, seed: int) -> Iterator[Tried]:
    """`count` trainings, each killed once or more, and held against one that was not."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        home, cache = Path(place), Path(place) / "cache"
        expected, usual = {}, {}
        for kind, processes in (("one", 1), ("two", 2)):
            run = Run(home / f"quiet-{kind}", cache, count=processes)
            codes, said = run.ended()
            expected[processes] = words(said[0], "DONE")
            usual[processes] = time.monotonic() - run.begun
            bad = (
                [] if codes == [0] * processes and expected[processes] else [f"it ended with {codes}: {said[0][-400:]}"]
            )
            yield Tried("undisturbed", f"{kind}, {usual[processes]:.0f} s", tuple(bad))
            run = Run(home / f"again-{kind}", cache, count=processes)  # compiled before, as those that follow
            run.ended()
            usual[processes] = time.monotonic() - run.begun
        for k in range(count):
            processes = 2 if k % 4 == 3 else 1
            number = signal.SIGTERM if k % 4 == 2 else signal.SIGKILL
            folder, wrong, goes, done = home / str(k), [], 0, ""
            while not done and goes < 10 and not wrong:
                goes += 1
                before = saved(folder)
                run = Run(folder, cache, count=processes)
                disturbed = goes == 1 or rng.random() < 0.3
                if disturbed:
                    run.wait(rng.uniform(0.3, 1.0) * usual[processes])
                    run.signal(number)
                codes, said = run.ended()
                begun, done = words(said[0], "FROM"), words(said[0], "DONE")
                allowed = {0, -number} if disturbed else {0}
                if set(codes) - allowed:
                    wrong.append(f"it ended with {codes}: {said[0][-400:]}")
                if begun and begun != f"FROM {before}":
                    wrong.append(f"the newest save was {before}, and it said {begun}")
            if not wrong and done != expected[processes]:
                wrong.append(f"expected {expected[processes]}, got {done} after {goes} goes")
            yield Tried(
                f"{signal.Signals(number).name}, {processes} processes", f"the {k}th, {goes} goes", tuple(wrong)
            )
