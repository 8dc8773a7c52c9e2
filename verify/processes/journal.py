"""What an interrupted run has done, so that it is not done again: one line a result, for one campaign over one code.

The first line says which campaign that is, and fingerprints the code under audit, the auditor and what both stand upon:
results about other code are not this code's. A line that was cut short or changed is skipped and its part done again.
Two runs cannot write one journal: the second is refused.
"""

import hashlib
import importlib.util
import json
import platform
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # elsewhere than on Unix nothing is locked
    fcntl = None

LIBRARIES = "jax", "jaxlib", "numpy"


class JournalError(ValueError):
    """A journal of another campaign or of other code, one that another run writes, or a file that is none."""


@dataclass(frozen=True)
class Book:
    """A journal, if there is one, that begins with `campaign` and the fingerprint `code`. A part stands in it under
    key(part), as told(result), which is JSON, and which meant() turns back. `say` is told what was skipped."""

    journal: Path | None
    campaign: list[Any]
    code: dict[str, str]
    key: Callable[[tuple], tuple] = lambda part: part
    told: Callable[[Any], Any] = lambda result: result
    meant: Callable[[Any], Any] = lambda held: held
    say: Callable[[str], Any] = lambda text: None


def fingerprint(*names: str) -> dict[str, str]:
    """What results depend upon: the source of verify and of these packages, modules or files, and versions."""
    code = {name: _source(name) for name in ("verify", *names) if name}
    code |= {name: _version(name) for name in LIBRARIES}
    return code | {"python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _source(name: str) -> str:
    """A hash of a file, or of all of the package that a module belongs to. Nothing is imported for it."""
    if name.endswith(".py"):
        files, root = [Path(name)], Path(name).parent
    else:
        found = importlib.util.find_spec(name.partition(".")[0])
        places = list(found.submodule_search_locations or ()) if found else []
        root = Path(places[0]) if places else Path((found and found.origin) or name).parent
        files = sorted(p for place in places for p in Path(place).rglob("*") if p.suffix in (".py", ".so", ".pyd"))
        files = files or [Path((found and found.origin) or name)]
    digest = hashlib.sha256()
    for file in files:
        with suppress(OSError):  # what is not there has nothing that could change
            held = file.read_bytes()
            path = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
            digest.update(f"{path} {len(held)}\n".encode("utf-8", "surrogateescape") + held)
    return digest.hexdigest()[:16]


@contextmanager
def opened(book: Book) -> Iterator[tuple[dict[tuple, Any], Callable[[tuple, Any], None]]]:
    """(results by key, append(part, result)) of a book's journal, which is begun if it is not there and is this run's
    alone until the end. Raises JournalError."""
    path = book.journal
    if path is None:
        yield {}, lambda part, result: None
        return
    with _mine(path) as file:
        done = _read(path, file, book)

        def append(part: tuple, result: Any) -> None:
            held = json.dumps([book.key(part), book.told(result)])
            _write(path, file, json.dumps({"part": held, "sum": zlib.crc32(held.encode())}))

        yield done, append


def held(path: Path) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """(campaign, [(key, what was told)]) of a journal, of whatever code: to look at, while another writes it perhaps.

    Torn lines are left out. Raises JournalError for a file that is none.
    """
    try:
        first, *lines = path.read_bytes().splitlines()
    except (OSError, ValueError) as error:
        raise JournalError(f"got {str(path)!r}; expected a journal that can be read. ({error})") from error
    head = _json(first)
    if not isinstance(head, dict) or "journal" not in head:
        raise JournalError(f"got {str(path)!r}; expected the journal of a campaign.")
    found = {_tuple(key): told for key, told in filter(None, map(_entry, lines))}
    return head["campaign"], list(found.items())


@contextmanager
def _mine(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        file = path.open("a+b", buffering=0)
    except (OSError, ValueError) as error:
        raise JournalError(f"got {str(path)!r}; expected a journal that can be written. ({error})") from error
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise JournalError(
                f"got {str(path)!r}, which another run is writing; expected a journal of this run's own. Give it "
                f"another file, or wait. ({error})"
            ) from error
        yield file


def _write(path: Path, file: IO[bytes], line: str) -> None:
    try:
        data = line.encode() + b"\n"
        if (file.write(data) or 0) < len(data):
            raise OSError("a line went in by half")
    except OSError as error:
        raise JournalError(
            f"got {str(path)!r}; expected room for another line. Make some and go on. ({error})"
        ) from error


def _read(path: Path, file: IO[bytes], book: Book) -> dict[tuple, Any]:
    head = {"journal": 2, "campaign": book.campaign, "code": book.code}
    try:
        file.seek(0)
        whole = file.read()
    except OSError as error:
        raise JournalError(f"got {str(path)!r}; expected a journal that can be read. ({error})") from error
    begun = json.dumps(head)
    if not whole.strip() or (b"\n" not in whole and begun.encode().startswith(whole)):
        file.truncate(0)  # nothing, or no more than a part of the first line: the disk was full
        _write(path, file, begun)
        return {}
    if not whole.endswith(b"\n"):
        _write(path, file, "")  # the torn line is closed: what comes next has a line of its own
    first, *lines = whole.splitlines()
    _belongs(path, _json(first), head)
    entries = [_entry(line) for line in lines if line.strip()]
    if torn := entries.count(None):
        book.say(f"{torn} torn {'line' if torn == 1 else 'lines'} of {path} skipped; what stood there is done again")
    return {_tuple(key): found for key, found in filter(None, entries)}


def _belongs(path: Path, begun: Any, head: dict[str, Any]) -> None:
    """JournalError unless this is the journal of the same campaign over the same code."""
    head = json.loads(json.dumps(head))
    if not isinstance(begun, dict) or begun.get("journal") != head["journal"]:
        raise JournalError(f"got {str(path)!r}; expected the journal of a campaign. Give this one a file of its own.")
    if begun.get("campaign") != head["campaign"]:
        raise JournalError(
            f"got the journal of {begun.get('campaign')}; expected that of {head['campaign']} (catalogue, seed, size "
            "of a batch ...). Give each campaign a file of its own."
        )
    old = begun.get("code")
    old = old if isinstance(old, dict) else {}
    changed = sorted(name for name in {*old, *head["code"]} if old.get(name) != head["code"].get(name))
    if changed:
        raise JournalError(
            f"got a journal about other code ({', '.join(changed)} changed since); expected one about this code. "
            "What was found then says nothing now: begin a new file."
        )


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _entry(line: bytes) -> tuple[Any, Any] | None:
    """(key, found) of a line, None for one that was cut short or changed."""
    held = _json(line)
    text = held.get("part") if isinstance(held, dict) else None
    if not isinstance(text, str) or zlib.crc32(text.encode("utf-8", "surrogatepass")) != held.get("sum"):
        return None
    found = _json(text.encode("utf-8", "surrogatepass"))
    return (found[0], found[1]) if isinstance(found, list) and len(found) == 2 else None


def _tuple(key: Any) -> Any:
    return tuple(map(_tuple, key)) if isinstance(key, list) else key
