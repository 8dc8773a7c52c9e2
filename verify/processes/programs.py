"""Compiled programs, kept from one run to the next in JAX's own cache: a second run then pays for tracing alone.

They lie in `verify` inside of the user's folder of caches (XDG_CACHE_HOME, else ~/.cache), half a gigabyte at most. To
be rid of them delete it. VERIFY_CACHE names another folder, and `VERIFY_CACHE=off` keeps nothing. Where JAX has been
given a folder of its own (JAX_COMPILATION_CACHE_DIR), that one is used, and left alone otherwise.
"""

import os
from contextlib import suppress
from pathlib import Path

MOST = 512 << 20  # bytes; an audit takes half a megabyte


def folder() -> Path | None:
    """Where programs are kept; None for nowhere."""
    named = os.environ.get("VERIFY_CACHE")
    if named == "off":
        return None
    if named:
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # nobody's home
        return (Path(caches) if caches else Path.home() / ".cache") / "verify"
    return None


def keep() -> None:
    """This process keeps what it compiles, and takes what others have kept: for processes that only audit."""
    import jax

    place = folder()
    if place is None or jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # a read-only home: then nothing is kept
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_raise_persistent_cache_errors", False)  # a full disk, or a torn file: it compiles again


def prune(most: int = MOST) -> None:
    """Deletes the oldest programs, down to half, where there are more bytes than these."""
    place = folder()
    if place is None or not place.is_dir():
        return
    known = []
    for file in place.glob("*-cache"):
        with suppress(OSError):  # another process prunes, too
            known.append((file.stat().st_mtime, file.stat().st_size, file))
    total = sum(size for _, size, _ in known)
    if total <= most:
        return
    for _, size, file in sorted(known):
        with suppress(OSError):
            file.unlink()
            total -= size
        if total <= most / 2:
            return
