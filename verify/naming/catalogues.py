"""Catalogues of layers, which packages offer under the entry point group `verify.catalogues`."""

from functools import cache
from importlib.metadata import entry_points
from typing import Any


class CatalogueError(LookupError):
    """No such catalogue, or a catalogue that cannot go on from some shape."""


@cache
def catalogue(name: str = "jbp") -> Any:
    """The catalogue of an installed package. Raises CatalogueError naming those there are."""
    found = {point.name: point for point in entry_points(group="verify.catalogues")}
    if name not in found:
        raise CatalogueError(
            f"got the catalogue {name!r}; expected one of {sorted(found)}. A package offers one under the entry "
            "point group 'verify.catalogues'."
        )
    return found[name].load()()


def homes(name: str) -> list[str]:
    """The module out of which a catalogue comes, as a list; nothing is imported."""
    return [p.value.partition(":")[0] for p in entry_points(group="verify.catalogues") if p.name == name]


def catalogues() -> list[str]:
    """The names of the catalogues of installed packages."""
    return sorted({point.name for point in entry_points(group="verify.catalogues")})
