"""What may come out of code under audit beside errors, ways to end the process among them: here they are errors too."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

_pressed = threading.Event()  # set while a Ctrl-C of the user's own is on its way up


def keep_interrupts() -> None:
    """For a process of one's own: a Ctrl-C that comes where Python swallows what is raised comes again.

    So it is in a callback of the garbage collector, of a weak reference, in `__del__`.
    """
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return before(lost)
        again = threading.Timer(0.01, signal.raise_signal, (signal.SIGINT,))
        again.daemon = True
        return again.start()

    sys.unraisablehook = hook


class ExitError(RuntimeError):
    """Code under audit tried to end the process, or to stop it as Ctrl-C does."""


class contained:  # noqa: N801 - a context manager, written as a class because a generator cannot be left by GeneratorExit
    """SystemExit, GeneratorExit and KeyboardInterrupt that code inside of the block raises leave it as ExitError.

    A Ctrl-C of the user's own passes: inside of `watching_interrupts` it is known by its signal.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt) and _pressed.is_set():
            return
        if isinstance(error, SystemExit | GeneratorExit | KeyboardInterrupt):
            raise ExitError(f"{type(error).__name__}({error}), which would have ended the audit") from error


@contextmanager
def watching_interrupts() -> Iterator[None]:
    """For as long as this lasts, a KeyboardInterrupt is known to be the user's own, or else that of code under audit.

    Python delivers signals to its main thread alone: elsewhere no KeyboardInterrupt is the user's.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if not callable(before):
        yield
        return

    def pressed(number, frame):
        _pressed.set()
        before(number, frame)

    signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _pressed.clear()


@contextmanager
def unfiltered() -> Iterator[None]:
    """JAX's errors as they are raised. To clean tracebacks that nobody sees costs a tenth of an audit and more."""
    before = jax.config.jax_traceback_filtering  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        yield
    finally:
        jax.config.update("jax_traceback_filtering", before)


@contextmanager
def wide(dtype: Any) -> Iterator[None]:
    """Float64 for as long as this lasts, if dtype is that; the process's own setting is as before afterwards.

    Constants in a stranger's function are often float32, so promotion must be lenient in every dtype that is not his.
    All of his code runs inside of this: a SystemExit there is an error like any other.
    """
    with contained(), jax.enable_x64(np.dtype(dtype) == np.float64 or jax.config.read("jax_enable_x64")):
        if np.dtype(dtype) == np.float32:
            yield
        else:
            with jax.numpy_dtype_promotion("standard"):
                yield
