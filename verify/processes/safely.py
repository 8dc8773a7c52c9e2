"""Work in processes of its own, where it can do no harm: what hangs is stopped, what dies is named, the rest goes on.

A process serves many calls, for importing JAX takes longer than most of them. It is replaced when it dies, when it is
stopped, and when it has grown. All of them end with their parent, however that ends.
"""

import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from verify.processes.memory import held
from verify.processes.programs import prune
from verify.processes.served import serve

TRIES = 3  # of a part whose process somebody killed from outside
OUTSIDE = {"SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"}
KEPT = 4000  # bytes of what a process has printed last
PRINTS = 64 << 20  # bytes that one call may print
START = 120  # seconds that a process may take to import JAX
TICK = 0.2  # seconds between looks at the clock and at memory
GROWN = 2e9  # bytes after which a process is replaced between two calls


@dataclass(frozen=True)
class Failed:
    """A call that gave no result. `own`: the code did that itself, by an error or an exit; otherwise it was stopped or
    killed, and may be right. `stage` is what it was about, `printed` the last of its output. `outside`: killed by a
    signal that people and systems send, and programs that crash do not."""

    reason: str
    own: bool
    stage: str = ""
    printed: str = ""
    outside: bool = False

    def __str__(self):
        said = f"; it printed last: {self.printed.strip()[-600:]}" if self.printed.strip() else ""
        return f"{self.reason}{f' (in {self.stage})' if self.stage else ''}{said}"


class _Process:
    """One process, the call that it is about, and what it has printed in it."""

    def __init__(self, devices: int, kept: bool):
        context = get_context("spawn")
        self.calls, theirs = context.Pipe()
        self.output, printed = context.Pipe(duplex=False)
        self.mark = secrets.token_bytes(16)  # stands in what is printed where a call begins
        args = theirs, printed, self.mark, os.getpid(), devices, kept
        self.process = context.Process(target=serve, args=args, daemon=True)
        with _no_interrupts():
            self.process.start()
        theirs.close()
        printed.close()
        self.stage, self.stopped, self.printed, self.much = "importing JAX", "", b"", 0
        self.since, self.begun = time.monotonic(), False
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()

    def _drain(self) -> None:
        with suppress(OSError), self.output:
            while some := os.read(self.output.fileno(), 1 << 16):
                _, begun, since = (self.printed + some).rpartition(self.mark)
                self.much = len(since) if begun else self.much + len(some)
                self.printed = since[-KEPT:]

    def begin(self, f: Callable, part: tuple) -> None:
        self.since, self.begun = time.monotonic(), False
        with suppress(OSError):  # it is dead already, which is seen next
            self.calls.send((f, part))

    def stop(self, why: str) -> None:
        """Ends the process, and all that it has started."""
        self.stopped = self.stopped or why
        pid = self.process.pid or 0
        with suppress(OSError, AttributeError):
            os.killpg(pid, signal.SIGKILL)
        self.process.kill()

    def hears(self) -> None:
        """The call has begun: its time runs from here."""
        self.stage, self.since, self.begun = "", time.monotonic(), True

    def close(self) -> None:
        self.stop("closed")
        self.process.join(5)
        self.calls.close()

    def failed(self) -> Failed:
        """Why the process is no more."""
        self.process.join(5)
        code, stopped = self.process.exitcode, self.stopped
        self.stop("")
        self.calls.close()
        self.reader.join(0.5)  # to the last of what it has printed, unless a process that it started lives on
        printed = self.printed.decode("utf-8", "replace")
        if stopped:
            return Failed(stopped, False, self.stage, printed)
        if code is not None and code >= 0:
            return Failed(f"it ended its process with exit code {code}", True, self.stage, printed)
        name = signal.Signals(-code).name if code else "an unknown signal"
        return Failed(f"its process was killed by {name}", False, self.stage, printed, name in OUTSIDE)


class Pool:
    """Up to `jobs` processes. Each call has `timeout` seconds and may hold `memory` bytes; by default the jobs share
    three quarters of the memory that is free. `watch` hears what each call is about. Leaving it ends all of them.
    With `kept`, what they compile is kept for later runs (programs.py)."""

    def __init__(
        self,
        jobs: int = 1,
        timeout: float = 600,
        memory: float | None = None,
        devices: int = 1,
        watch: Callable[[str], Any] = lambda stage: None,
        kept: bool = False,
    ):
        self.jobs, self.timeout, self.devices, self.watch, self.kept = jobs, timeout, devices, watch, kept
        self.memory = memory or max(0.75 * _free() / jobs, 1e9)
        self.idle: list[_Process] = []
        self.busy: dict[_Process, tuple[tuple, int]] = {}
        self.closed = threading.Event()

    def __enter__(self) -> "Pool":
        if self.kept:
            prune()
        threading.Thread(target=self._guard, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closed.set()
        for one in [*self.idle, *self.busy]:
            one.close()
        self.idle, self.busy = [], {}

    def call(self, f: Callable, *args: Any) -> Any:
        """f(*args), or Failed."""
        return next(self.results(f, [args]))[1]

    def results(self, f: Callable, parts: list[tuple]) -> Iterator[tuple[tuple, Any]]:
        """(part, f(*part)) as they come, Failed in the place of a result that there is not. f is found by its name.

        Raises what f raises of verify's own refusals."""
        todo = deque((part, 1) for part in parts)
        try:
            while todo or self.busy:
                while todo and len(self.busy) < self.jobs:
                    one = self.idle.pop() if self.idle else _Process(self.devices, self.kept)
                    self.busy[one] = todo.popleft()
                    one.begin(f, self.busy[one][0])
                for one in self._heard():
                    kind, *rest = _next(one)
                    if kind == "begun":
                        one.hears()
                    elif kind == "said":
                        one.stage = rest[0]
                        self.watch(one.stage)
                    elif kind == "dead":
                        part, tries = self.busy.pop(one)
                        failed = one.failed()
                        if failed.outside and tries < TRIES:
                            todo.append((part, tries + 1))
                        else:
                            yield part, failed
                    else:
                        part, _ = self.busy.pop(one)
                        self._leave(one)
                        yield part, _answer(one, kind, rest)
        finally:
            for one in self.busy:
                one.close()
            self.busy = {}

    def sure(self, f: Callable, parts: list[tuple]) -> Iterator[tuple[tuple, Any]]:
        """`results`, for callers who cannot do without one. Raises RuntimeError where there is none."""
        for part, found in self.results(f, parts):
            if isinstance(found, Failed):
                raise RuntimeError(f"{f.__name__}{part}: {found}")
            yield part, found

    def _heard(self) -> list[_Process]:
        """The processes that have said something, or are no more."""
        ready = wait([one.calls for one in self.busy], TICK)
        return [one for one in self.busy if one.calls in ready or one.process.exitcode is not None]

    def _leave(self, one: _Process) -> None:
        if not one.stopped and held(one.process.pid or 0) < GROWN:
            self.idle.append(one)
        else:
            one.close()

    def _guard(self) -> None:
        """Stops what takes too long or too much: in a thread, for its caller may be anywhere."""
        while not self.closed.wait(TICK):
            for one in list(self.busy):
                limit = self.timeout if one.begun else max(self.timeout, START)
                if time.monotonic() - one.since > limit:
                    one.stop(f"it gave no answer in {limit:g} s and was stopped")
                elif one.much > PRINTS:
                    one.stop(f"it printed more than {PRINTS >> 20} MiB and was stopped")
                elif held(one.process.pid or 0) > self.memory:
                    one.stop(f"it held more than {self.memory / 2**30:.1f} GiB of memory and was stopped")


def _answer(one: _Process, kind: str, rest: list) -> Any:
    if kind == "refused":
        raise rest[0]
    return rest[0] if kind == "done" else Failed(f"it raised {rest[0]}", True, one.stage, rest[1])


def _next(one: _Process) -> tuple:
    """What a process says next, ("dead",) where it says nothing any more."""
    try:
        if one.calls.poll():
            return one.calls.recv()
    except (EOFError, OSError):
        pass
    except Exception:  # noqa: BLE001 - what a dying process has left in the pipe may be anything
        one.stop("it sent what is no answer")
    return ("dead",)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A Ctrl-C waits until this is over, and a process that is started here is born deaf to it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _free() -> float:
    """The bytes of memory that are free, or would be: the system's, or what is left to this group of processes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 16e9
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (float((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return free
