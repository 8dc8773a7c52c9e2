"""The inside of a process that works for `safely`: it takes calls, one after the other, and answers each."""

import ctypes
import os
import queue
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from verify.processes.memory import tidy

LOST = 3  # the exit code of a process whose parent is gone


def serve(calls: Connection, printed: Connection, mark: bytes, parent: int, devices: int, kept: bool) -> None:
    """Answers ("done", result), ("refused", an error of verify's own) or ("raised", in brief, the whole trace) to each
    (function, arguments) that comes, after ("begun",) and any number of ("said", stage). Prints `mark` before each.
    Ends with its parent. With `kept`, compiled programs are those of `programs.keep`."""
    _end_with(parent)
    with suppress(OSError, AttributeError):
        os.setsid()  # whatever is started here can be ended with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for stream in (1, 2):
        with suppress(OSError):
            os.dup2(printed.fileno(), stream)
    with suppress(OSError):  # where memory is short the system had better end this process than its parent
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(calls, inbox), daemon=True).start()
    _prepare(calls, devices, kept)
    while True:
        f, args = inbox.get()
        with suppress(OSError):
            os.write(printed.fileno(), mark)
        calls.send(("begun",))
        answer = _answer(f, args)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        try:
            calls.send(answer)
        except Exception as error:  # noqa: BLE001 - what a stranger's code returns need not go through a pipe
            calls.send(("raised", f"{type(error).__name__}: {error}", traceback.format_exc()))
        del f, args, answer
        tidy()


def _prepare(calls: Connection, devices: int, kept: bool) -> None:
    import jax

    from verify.processes import programs, progress

    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)
    if kept:
        programs.keep()
    progress.listen(lambda stage: calls.send(("said", stage)))


def _answer(f: Any, args: tuple) -> tuple:
    try:
        return "done", f(*args)
    except BaseException as error:  # noqa: BLE001 - SystemExit among them: this process is not the stranger's to end
        ours = type(error).__module__.startswith("verify.") and isinstance(error, ValueError | LookupError)
        if ours and len(error.args) == 1:
            return "refused", type(error)(str(error))
        brief = "".join(traceback.format_exception_only(error)).strip()
        return "raised", brief, "".join(traceback.format_exception(error))


def _receive(calls: Connection, inbox: queue.SimpleQueue) -> None:
    while True:
        try:
            inbox.put(calls.recv())
        except (EOFError, OSError):
            os._exit(LOST)


def _end_with(parent: int) -> None:
    """On Linux the system ends this process with its parent, even where a call never comes back to Python; elsewhere
    the closed pipe does."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(LOST)
