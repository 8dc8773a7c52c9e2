"""Random networks by the thousand, over several processes, each failure replayable from one line.

A campaign is a row of batches; batch b of seed s draws the same networks wherever it runs. Each process compiles what
it meets once and keeps it, so a campaign gets faster as it goes.
"""

import base64
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from verify.architectures import Array, Network, catalogue, networks
from verify.compiled import compilations
from verify.judge import audit
from verify.locate import locate
from verify.protocol import children, nodes

BATCH = 50


@dataclass(frozen=True)
class Failure:
    """One disagreement, shrunk: the network as a program, what is at fault, and the token that replays it."""

    program: str
    faults: tuple[str, ...]
    differences: tuple[str, ...]
    token: str

    def __str__(self):
        lines = [f"network   {self.program}", *(f"at fault  {fault}" for fault in self.faults)]
        if not self.faults:
            lines.append("at fault  no layer alone: with the others corrected each one agrees")
        lines += [f"differs   {difference}" for difference in self.differences]
        return "\n".join([*lines, f"replay    python -m verify replay {self.token}"])


@dataclass
class Tally:
    """What a campaign, or a part of it, has seen. `warm` counts networks for which nothing had to be compiled."""

    networks: int = 0
    seconds: float = 0.0
    warm: int = 0
    warm_seconds: float = 0.0
    compilations: int = 0
    remarks: Counter = field(default_factory=Counter)
    layers: Counter = field(default_factory=Counter)
    forms: Counter = field(default_factory=Counter)
    pairs: Counter = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)


def batch(name: str, campaign_seed: int, number: int, size: int = BATCH) -> Tally:
    """Batch `number` of a campaign over the catalogue called `name`: runs in any process, always alike."""
    source, tally, failing = catalogue(name), Tally(), []

    @seed(campaign_seed * 1_000_003 + number)
    @settings(
        max_examples=size,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(networks(source))
    def run(network):
        start, before = time.perf_counter(), compilations()
        outcome = audit(network)
        seconds, new = time.perf_counter() - start, compilations() - before
        if outcome.disagrees:
            failing.append((network, outcome))  # the last one is the smallest, once shrinking is over
            raise DisagreementError
        if not failing:
            tally.networks += 1
            tally.seconds += seconds
            tally.compilations += new
            tally.remarks[outcome.remark] += 1
            if not new:
                tally.warm, tally.warm_seconds = tally.warm + 1, tally.warm_seconds + seconds
            _cover(tally, network)

    try:
        run()
    except DisagreementError:
        network, outcome = failing[-1]
        faults = tuple(map(str, locate(network)))
        differences = tuple(map(str, outcome.differences))
        tally.networks += 1
        tally.failures.append(
            Failure(f"{network.layer!r} on {network.inputs!r}", faults, differences, token(name, network))
        )
    return tally


class TokenError(ValueError):
    """A word that holds no network."""


class DisagreementError(AssertionError):
    """A network whose sweep and definition give different gradients."""


def _cover(tally, network):
    tally.forms.update(network.forms)
    for _, node in nodes(network.layer):
        tally.layers[type(node).__name__] += 1
        inner = [type(child).__name__ for label, child in children(node) if label.startswith("[")]
        tally.pairs.update(pairwise(inner))


def run(
    count: int,
    campaign_seed: int,
    executor: Executor | None = None,
    name: str = "jbp",
    watch: Callable[[Tally], Any] = lambda tally: None,
) -> Tally:
    """`count` random networks of the catalogue called `name`, over an executor's processes, or here without one.

    `watch` is called with the tally so far after each batch. Raises CatalogueError if there is no such catalogue.
    """
    catalogue(name)
    total, parts = Tally(), [(number, min(BATCH, count - start)) for number, start in enumerate(range(0, count, BATCH))]
    for tally in _results(executor, [(name, campaign_seed, number, size) for number, size in parts]):
        total.add(tally)
        watch(total)
    return total


def _results(executor: Executor | None, parts: list[tuple]) -> Iterator[Tally]:
    if executor is None:
        yield from (batch(*part) for part in parts)
    else:
        futures: list[Future[Tally]] = [executor.submit(batch, *part) for part in parts]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            for future in futures:
                future.cancel()


def expected(name: str) -> tuple[set[str], set[str]]:
    """The names of all layer types and of all forms that a campaign over this catalogue can meet."""
    source = catalogue(name)
    cases = [case.layer for case in (*source.layers, *source.losses)]
    return {type(layer).__name__ for layer in cases}, {form.name for form in source.forms}


def token(name: str, network: Network) -> str:
    """One word that holds a network: its catalogue, program, inputs and seed."""
    held = json.dumps([name, repr(network.layer), repr(network.inputs), network.seed])
    return base64.urlsafe_b64encode(zlib.compress(held.encode(), 9)).decode().rstrip("=")


def from_token(word: str) -> Network:
    """The network that a token holds. Raises TokenError for a word that is none."""
    try:
        name, layer, inputs, seed = json.loads(zlib.decompress(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))))
    except (ValueError, zlib.error) as error:
        raise TokenError(f"got {word!r}; expected a token that a failing campaign printed. ({error})") from error
    names = {"__builtins__": {}} | dict(catalogue(name).names) | {"Array": Array}
    return Network(eval(layer, names), eval(inputs, names), seed)  # a token is a program, as the README says
