"""Catalogues of layers: of packages, under the entry point group `verify.catalogues`, or "module:name" of one's own."""

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from verify.naming.named import function


class CatalogueError(LookupError):
    """No such catalogue, or a catalogue that cannot go on from some shape."""


_allowed: set[str] = set()


def allow(name: str) -> None:
    """In this process a catalogue of one's own, "module:name", may be imported: whoever runs it has named it."""
    _allowed.add(name)


def catalogue(name: str = "jbp") -> Any:
    """The catalogue of an installed package, or the object or function at "module:name", if that is allowed here.

    Raises CatalogueError naming those there are, and CommandError for one that cannot be imported.
    """
    if ":" not in name:
        return _installed(name)
    if name not in _allowed:
        raise CatalogueError(
            f"got the catalogue {name!r}, which would be imported and run; expected one that you have named. If you "
            f"trust it, add --allow {name.partition(':')[0]}."
        )
    return _own(name)


@cache
def _own(name: str) -> Any:
    found = function(name)
    found = found() if callable(found) and not hasattr(found, "layers") else found
    if missing := [part for part in PARTS if not hasattr(found, part)]:
        raise CatalogueError(f"got {name!r} without {', '.join(missing)}; expected an object with {', '.join(PARTS)}.")
    return found


PARTS = "layers", "losses", "forms", "serial", "with_loss", "names"


@cache
def _installed(name: str) -> Any:
    found = {point.name: point for point in entry_points(group="verify.catalogues")}
    if name not in found:
        raise CatalogueError(
            f"got the catalogue {name!r}; expected one of {sorted(found)}. A package offers one under the entry "
            "point group 'verify.catalogues'; one of your own is module:name."
        )
    return found[name].load()()


def homes(name: str) -> list[str]:
    """The module out of which a catalogue comes, as a list; nothing is imported."""
    if ":" in name:
        return [name.partition(":")[0]]
    return [p.value.partition(":")[0] for p in entry_points(group="verify.catalogues") if p.name == name]


def catalogues() -> list[str]:
    """The names of the catalogues of installed packages."""
    return sorted({point.name for point in entry_points(group="verify.catalogues")})


def cases(name: str) -> list[tuple[int, int]]:
    """(case, input) numbers of everything in the catalogue called `name`."""
    return [(k, i) for k, case in enumerate(listed(name)) for i in range(len(case.inputs))]


def listed(name: str) -> list[Any]:
    """Layers, losses, and estimators where the catalogue has any."""
    source = catalogue(name)
    return [*source.layers, *source.losses, *getattr(source, "estimators", ())]
