"""Campaigns that are killed, starved and disturbed at random moments, and taken up again.

Nothing may be lost, counted twice or left half written, no worker may be left behind, and the exit code says what was.
"""

import json
import os
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.storm.subjects import Run, package, running
from tests.storm.told import Tried

COMMANDS = {
    "networks": ("networks", "--catalogue", "small", "--count", "120", "--jobs", "2", "--seed", "3"),
    "layers": ("layers", "--catalogue", "small", "--jobs", "2"),
    "scan": ("scan", "quiet"),
}
PATIENCE = 600  # seconds for a whole campaign, on a machine that has much else to do


class Campaign:
    """One command with a journal and a report, and what an undisturbed run of it gives."""

    def __init__(self, home: Path, name: str, folder: Path):
        self.home, self.name, self.folder = home, name, folder
        self.journal, self.report = folder / "journal", folder / "report.json"
        folder.mkdir()

    def arguments(self) -> list[str]:
        own = ["--journal", str(self.journal), "--output", str(self.report), "--timeout", "300"]
        return ["-m", "verify", *COMMANDS[self.name], *own]

    def lines(self) -> list[bytes]:
        return self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() else []

    def results(self) -> Counter[str]:
        """What the report says, without what differs from run to run."""
        held = json.loads(self.report.read_text(encoding="utf-8"))
        return Counter(f"{r['subject']}: {r['verdict']} after {r['checks']} checks" for r in held["reports"])


def whole(campaign: Campaign) -> list[str]:
    """What is half written, or is nobody's file."""
    wrong = []
    for file in sorted(campaign.folder.iterdir()):
        if file.name.startswith("report.json"):
            try:
                held = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                wrong.append(f"{file.name} is half written")
                continue
            if file.name.endswith(".partial") and held["verdict"] == "pass":
                wrong.append("a report of a part says pass")
        elif file.name.startswith(".report.json"):
            pass  # what a killed process was writing: it never had the report's name
        elif file != campaign.journal:
            wrong.append(f"a file {file.name} was left")
    keys = [json.loads(json.loads(line)["part"])[0] for line in campaign.lines()[1:] if _reads(line)]
    twice = [key for key, n in Counter(map(str, keys)).items() if n > 1]
    return [*wrong, *(f"{key} stands twice in the journal" for key in twice)]


def _reads(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def resumed(campaign: Campaign, expected: Counter[str], torn: bool = False) -> list[str]:
    """The campaign to its end, and what of it is not as in an undisturbed run."""
    before = [line for line in campaign.lines() if line.endswith(b"\n")]
    with running(campaign.home, *campaign.arguments()) as run:
        code, printed = run.ended(PATIENCE)
        left = run.close()
    wrong = [f"it left {len(left)} processes"] if left else []
    if code != 0:
        return [*wrong, f"resumed, it ended with {code}: {printed[-400:]}"]
    found = campaign.results()
    if found != expected:
        wrong.append(f"lost {dict(expected - found)}, and {dict(found - expected)} is new")
    if not torn and campaign.lines()[: len(before)] != before:
        wrong.append("what stood in the journal is not there any more")
    return wrong + whole(campaign)


def ends(run: Run, allowed: tuple[Any, ...], within: float = 60) -> list[str]:
    """What is wrong with the end of a disturbed run."""
    code, printed = run.ended(within)
    left = run.close()
    wrong = [] if code in allowed else [f"it ended with {code}, expected {allowed}: {printed[-400:]}"]
    if "Traceback" in printed:
        wrong.append(f"a traceback: {printed[-400:]}")
    return [*wrong, *([f"{len(left)} processes outlived it"] if left else [])]


def parent(number: int, campaign: Campaign, run: Run, rng: random.Random, usual: float) -> list[str]:
    """A signal to the parent alone."""
    _at_random(run, rng, usual)
    run.process.send_signal(number)
    return ends(run, (-number, 0) if number == signal.SIGKILL else (2, -number, 0))


def worker(number: int, campaign: Campaign, run: Run, rng: random.Random, usual: float) -> list[str]:
    """A signal to one worker: its part is done again, and the run goes on."""
    _at_random(run, rng, usual)
    if workers := run.workers():
        with suppress(ProcessLookupError):
            os.kill(rng.choice(workers), number)
    return ends(run, (0,), PATIENCE)


def interrupted(campaign: Campaign, run: Run, rng: random.Random, usual: float) -> list[str]:
    """Ctrl-C: the terminal sends it to every process of the group."""
    _at_random(run, rng, usual)
    for pid in [run.process.pid, *run.workers()]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    return ends(run, (2, 0, -signal.SIGINT, 1) if run.seconds < 5 else (2, 0))  # Python itself may be starting


def torn(campaign: Campaign, run: Run, rng: random.Random, usual: float) -> list[str]:
    """The last line of the journal is cut short, as by a machine that lost its power."""
    _at_random(run, rng, usual)
    run.process.kill()
    wrong = ends(run, (-signal.SIGKILL, 0))
    if lines := campaign.lines():
        cut = rng.randrange(1, len(lines[-1]) + 1)
        campaign.journal.write_bytes(b"".join(lines)[:-cut])
    return wrong


def second(campaign: Campaign, run: Run, rng: random.Random, usual: float) -> list[str]:
    """Another run on the same journal is refused, while the first goes on."""
    while not campaign.journal.exists() and run.process.poll() is None:
        time.sleep(0.05)
    wrong = []
    with running(campaign.home, *campaign.arguments()) as other:
        code, printed = other.ended(120)
        if run.process.poll() is None and (code != 2 or "another run is writing" not in " ".join(printed.split())):
            wrong.append(f"a second run on one journal ended with {code}: {printed[-300:]}")
    return wrong + ends(run, (0,), PATIENCE)


def _at_random(run: Run, rng: random.Random, usual: float) -> None:
    moment = rng.uniform(0, usual)
    while run.seconds < moment and run.process.poll() is None:
        time.sleep(0.01)


STORMS: dict[str, Callable[..., list[str]]] = {
    "SIGKILL of the parent": partial(parent, signal.SIGKILL),
    "SIGTERM of the parent": partial(parent, signal.SIGTERM),
    "SIGKILL of a worker": partial(worker, signal.SIGKILL),
    "SIGTERM of a worker": partial(worker, signal.SIGTERM),
    "Ctrl-C": interrupted,
    "a torn last line": torn,
    "two runs on one journal": second,
}


def full(campaign: Campaign, rng: random.Random) -> list[str]:
    """No file may grow beyond some size: a disk that is full."""
    room = rng.randrange(0, 4000)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    with running(campaign.home, *campaign.arguments(), limit=limit) as run:
        code, printed = run.ended(PATIENCE)
        left = run.close()
    wrong = [f"{len(left)} processes outlived it"] if left else []
    if code not in (2, 0) or "Traceback" in printed:
        wrong.append(f"with room for {room} bytes it ended with {code}: {printed[-400:]}")
    return wrong


def forbidden(campaign: Campaign, rng: random.Random) -> list[str]:
    """A folder that cannot be written to, for the journal or the report. For root there is none but the system's."""
    folder = Path("/proc") if os.getuid() == 0 else campaign.folder / "forbidden"
    if os.getuid():
        folder.mkdir(0o500)
    option = rng.choice(["--journal", "--output"])
    arguments = campaign.arguments()
    arguments[arguments.index(option) + 1] = str(folder / "held.json")
    with running(campaign.home, *arguments) as run:
        code, printed = run.ended(PATIENCE)
    if os.getuid():
        folder.rmdir()
    return [] if code == 2 and "Traceback" not in printed else [f"{option} there: {code}: {printed[-400:]}"]


PLACES: dict[str, Callable[..., list[str]]] = {"a full disk": full, "a read-only folder": forbidden}


def kills(count: int, seed: int, names: tuple[str, ...] = tuple(COMMANDS)) -> Iterator[Tried]:
    """`count` disturbances of campaigns, each resumed and held against an undisturbed run."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        home = package(Path(place) / "home")
        expected, usual = {}, {}
        for name in names:
            quiet = Campaign(home, name, Path(place) / f"quiet-{name}")
            begun = time.monotonic()
            wrong = resumed(quiet, Counter())
            expected[name], usual[name] = quiet.results(), time.monotonic() - begun
            yield Tried("undisturbed", name, tuple(w for w in wrong if "is new" not in w))
        for k in range(count):
            kind = [*STORMS, *PLACES][k % (len(STORMS) + len(PLACES))]
            name = rng.choice(names)
            campaign = Campaign(home, name, Path(place) / str(k))
            if kind in STORMS:
                with running(home, *campaign.arguments()) as run:
                    wrong = STORMS[kind](campaign, run, rng, usual[name])
            else:
                wrong = PLACES[kind](campaign, rng)
            wrong += whole(campaign)
            again = resumed(campaign, expected[name], kind == "a torn last line")
            yield Tried(kind, f"{name}, the {k}th of seed {seed}", (*wrong, *again))
