"""What this process holds in memory, and how it gives that up."""

import ctypes
import gc
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOM = 1.2e9  # bytes that a process may hold before what it has compiled is given up
_times = itertools.count(1)
_kept: list[Callable[[], Any]] = []


def forgets(clear: Callable[[], Any]) -> Callable[[], Any]:
    """A decorator: what is called by `forget` too, for a module that keeps what it has compiled."""
    _kept.append(clear)
    return clear


def forget() -> None:
    """Gives up what this process has compiled: gigabytes, by and by."""
    import jax

    for clear in _kept:
        clear()
    jax.clear_caches()
    gc.collect()
    trim()


def trim() -> None:
    """Gives back to the system what this process has freed: glibc would keep it, after a large compilation much."""
    if release := sys.platform == "linux" and getattr(ctypes.CDLL(None), "malloc_trim", None):
        release(0)


def held(pid: int | str = "self") -> int:
    """The bytes of memory that a process has in use, 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def tidy() -> None:
    """Forgets, if what this process holds has become much: it would be gigabytes, by and by. Where the system does not
    say how much that is, every sixth time."""
    if held() > ROOM or (not held() and next(_times) % 6 == 0):
        forget()
