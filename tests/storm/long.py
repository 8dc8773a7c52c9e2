"""Many audits and many random networks in one process: its memory after a tenth of them, and after all."""

import itertools
from collections.abc import Iterator

from tests.storm.told import Tried
from verify.architectures import campaign
from verify.architectures.chapters import LONGEST
from verify.cli.cases import of_catalogue
from verify.processes.memory import held, tidy

GROWS = 1.1  # times what was held after the first tenth


def flat(kind: str, sizes: list[float]) -> Tried:
    """Whether memory grew: the most of the last tenth against the most of the first."""
    tenth = max(len(sizes) // 10, 1)
    first, last = max(sizes[:tenth]), max(sizes[-tenth:])
    what = f"{first / 2**20:.0f} MiB in the first tenth, {last / 2**20:.0f} in the last, most {max(sizes) / 2**20:.0f}"
    return Tried(kind, what, () if last <= GROWS * first else (f"it grew {last / first:.2f} times",))


def long(audits: int, networks: int, seed: int, catalogue: str = "jbp") -> Iterator[Tried]:
    """`audits` of the catalogue, round and round, then `networks`; what is compiled is given up as in a worker."""
    sizes: list[float] = []
    for case in itertools.islice(itertools.cycle(of_catalogue(catalogue)), audits):
        verdict = case.check("quick").verdict
        tidy()
        sizes.append(held())
        if verdict != "pass":
            yield Tried("audits", f"{case.name}: {verdict}", ("it did not pass",))
    if sizes:
        yield flat("audits", sizes)
    sizes = []
    for number, length in enumerate(_even(networks)):
        tally = campaign.chapter(catalogue, seed, number, length)
        tidy()
        sizes.append(held())
        if tally.failures:
            yield Tried("networks", str(tally.failures[0]), ("a network disagrees",))
    if sizes:
        yield flat("networks", sizes)


def _even(networks: int) -> list[int]:
    """Chapters of one length, twenty or more of them, that a tenth of them is a tenth of the networks."""
    size = max(min(LONGEST, networks // 20), 1)
    return [min(size, networks - begun) for begun in range(0, networks, size)]
