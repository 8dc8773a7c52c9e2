"""Batches that know how many of them were taken, so that a training can go on where it stopped."""

import base64
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any


class Batches:
    """An iterable of batches from a position on, that of a training which stopped.

    An iterator with `get_state` and `set_state`, as grain's have, is asked for its state and given it again. Of any
    other iterable so many batches are taken and let go.
    """

    def __init__(
        self,
        source: Iterable[Any],
        position: dict[str, Any] | None = None,
        history: Iterable[dict[str, float]] = (),
        files: Iterable[str] = (),
        best: dict[str, Any] | None = None,
    ):
        # all but the source are of what was before
        self.source, self.history, self.files, self.best = (
            source,
            list(history),
            list(files),
            best,
        )  # of what was before
        self.begun = dict(position or {"taken": 0})
        self.taken: int = self.begun["taken"]
        self.iterator: Any = None

    def __iter__(self) -> Iterator[Any]:
        self.iterator, self.taken = iter(self.source), self.begun["taken"]
        if "state" in self.begun and hasattr(self.iterator, "set_state"):
            self.iterator.set_state(_state(self.begun["state"]))
        else:
            for _ in islice(self.iterator, self.taken):
                pass
        for batch in self.iterator:
            self.taken += 1
            yield batch

    def position(self) -> dict[str, Any]:
        """Where the next batch is, in words that json has."""
        if not hasattr(self.iterator, "get_state"):
            return {"taken": self.taken}
        return {"taken": self.taken, "state": _said(self.iterator.get_state())}


def _said(state: Any) -> Any:
    return {"bytes": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"tree": state}


def _state(said: Any) -> Any:
    return base64.b64decode(said["bytes"]) if "bytes" in said else said["tree"]


def length(batches: Any) -> int | None:
    """How many batches are to come, None if nobody knows."""
    if isinstance(batches, Batches):
        whole = length(batches.source)
        return None if whole is None else max(whole - batches.begun["taken"], 0)
    return len(batches) if hasattr(batches, "__len__") else None
