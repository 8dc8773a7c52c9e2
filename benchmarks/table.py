"""A table that is shown line by line while it is measured, and written at the end."""

from collections.abc import Iterable
from pathlib import Path

from verify.report import outputs


def told(lines: Iterable[str], title: str, about: str, output: Path | None) -> None:
    """Each line as it comes; with a file all of them in it, as Markdown, under a title and what it is of."""
    seen = []
    for line in lines:
        print(line, flush=True)
        seen.append(line)
    if output:
        outputs.write(output, "\n".join([f"# {title}", "", about, "", *seen]) + "\n")
