"""Rules as strangers write them, right and wrong: the data of the auditor's tests and benchmarks.

`entries()` gives all of them, `entry("minus_zero")` one. A family of them is a module of this package, and an entry is
a function under `right` or `wrong` there. Families do not know each other: what they share is in `corpus.common`.
"""

import pkgutil
from importlib import import_module

from corpus.common import Entry

__all__ = ["FAMILIES", "Entry", "entries", "entry"]

FAMILIES = tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name != "common")


def entries(family: str | None = None, right: bool | None = None) -> list[Entry]:
    """All of them, or those of one family, or the right ones alone, or the wrong ones."""
    modules = [import_module(f"corpus.{name}") for name in FAMILIES if family in (None, name)]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Entry)]
    return [e for e in found if right in (None, e.mistake is None)]


def entry(name: str) -> Entry:
    for e in entries():
        if e.name == name:
            return e
    raise KeyError(f"got {name!r}; expected the name of an entry of the corpus")
