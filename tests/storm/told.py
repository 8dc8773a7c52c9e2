"""What came of each thing that was tried, counted."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """One thing of a kind, in words, and what of it should not be; nothing, if all is well."""

    kind: str
    what: str
    wrong: tuple[str, ...] = ()


def table(tried: Iterable[Tried]) -> tuple[str, bool]:
    """(a row for each kind, and what went wrong; whether all is well). Nothing tried is not well."""
    rows: dict[str, list[Tried]] = defaultdict(list)
    for one in tried:
        rows[one.kind].append(one)
    width = max(map(len, rows), default=0)
    lines = [f"{'':{width}}   tried  wrong"]
    for kind, found in rows.items():
        lines.append(f"{kind:{width}}  {len(found):6}  {sum(bool(one.wrong) for one in found):5}")
    bad = [one for found in rows.values() for one in found if one.wrong]
    lines += [f"{one.kind}: {one.what}\n    " + "\n    ".join(one.wrong) for one in bad[:20]]
    total = sum(map(len, rows.values()))
    return "\n".join([*lines, f"{total} tried, {len(bad)} wrong"]), bool(total) and not bad
