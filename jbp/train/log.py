"""Rows of a training put down as it goes, one line of JSON each."""

import json
import math
from collections.abc import Callable
from pathlib import Path


def lines(path: str | Path) -> Callable[[dict[str, float]], None]:
    """A `log` for `fit`: it adds every row to the file as a line of JSON, null for NaN and Inf, which JSON has not.

    Each line is on the disk before the next step is told, and none is ever taken back. A training that was killed and
    went on from a save therefore has the steps after that save twice: of two rows of one step the later counts.

        state, history = fit(net, loss, optimizer, state, batches, log=lines("runs/a/rows.jsonl"))
        rows = pandas.read_json("runs/a/rows.jsonl", lines=True).drop_duplicates("step", keep="last")

    Folders are made. Raises OSError where it cannot write, before training begins.

    >>> from pathlib import Path
    >>> log = jbp.train.lines("rows.jsonl")
    >>> log({"step": 1, "loss": 0.5})
    >>> log({"step": 2, "loss": float("nan")})
    >>> print(Path("rows.jsonl").read_text(), end="")
    {"step": 1, "loss": 0.5}
    {"step": 2, "loss": null}
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("a").close()

    def log(row: dict[str, float]) -> None:
        told = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with path.open("a") as file:
            file.write(json.dumps(told) + "\n")

    return log
