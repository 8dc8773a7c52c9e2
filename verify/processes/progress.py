"""What an audit is about just now, for whoever waits: a process that dies or hangs is known by the last of it."""

from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """From now on `listener` hears each stage of the audits in this process."""
    _listeners.append(listener)


def say(stage: str | Callable[[], str]) -> None:
    """Tells those who listen, if anybody does."""
    if not _listeners:
        return
    stage = stage if isinstance(stage, str) else stage()
    for listener in _listeners:
        listener(stage)
