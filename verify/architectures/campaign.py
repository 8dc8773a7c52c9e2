"""Random networks by the thousand, over several processes, each failure replayable from one line.

A campaign is a row of chapters (chapters.py); chapter c of seed s draws the same networks wherever it runs.
"""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

from verify.architectures.chapters import Chapter, drawn, lengths, pairs
from verify.architectures.compiled import compilations
from verify.architectures.further import EVERY, audit_and_ask
from verify.architectures.judge import Outcome
from verify.architectures.locate import locate
from verify.architectures.networks import (
    EVEN,
    Array,
    Network,
    after,
    is_one,
    networks,
    plain,
    program,
    ranks,
    small,
    spec,
    taken,
)
from verify.architectures.protocol import children, nodes
from verify.naming.catalogues import allow, catalogue, homes
from verify.naming.parse import ParseError, parse, table
from verify.naming.tokens import TokenError, modest, pack, unpack
from verify.processes.journal import Book, fingerprint, held, opened
from verify.processes.memory import forget, tidy, trim
from verify.processes.progress import say as stage
from verify.processes.safely import Failed, Pool

SHRINKING = 60  # seconds that a failing network is made smaller; with 0 it is left as it is
SOME = 500  # networks that Hypothesis draws at a time: it remembers them all


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
    asked: Counter = field(default_factory=Counter)  # further questions, by name
    layers: Counter = field(default_factory=Counter)
    forms: Counter = field(default_factory=Counter)
    pairs: Counter = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # chapters that gave no result, and why

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)


def chapter(name: str, campaign_seed: int, number: int, length: int, every: int = EVERY) -> Tally:
    """Chapter `number` of a campaign over the catalogue called `name`: runs in any process, always alike.

    It ends at the first network that disagrees, shrunk within the chapter.
    """
    allow(name)  # which the campaign's own process was told
    tally = audited(catalogue(name), name, campaign_seed, number, length, every)
    forget()
    return tally


def audited(source: Any, name: str, campaign_seed: int, number: int, length: int, every: int = EVERY) -> Tally:
    """As `chapter`, of a catalogue itself, and what is compiled stays."""
    tally, vocabulary = Tally(), Chapter(source, campaign_seed, number, pairs(length))
    for start in range(0, length, SOME):
        part = _some(name, vocabulary, [campaign_seed, number, start], min(SOME, length - start), every)
        tally.add(part)
        if part.failures:
            break
    return tally


def _some(name: str, vocabulary: Chapter, numbers: list[int], count: int, every: int) -> Tally:
    tally, failing, known = Tally(), [], {}

    def judged(network):
        """As `audit_and_ask`, but what shrinks is tried for a minute alone, and what was tried comes out alike."""
        if not failing:
            return audit_and_ask(vocabulary.source, network, every)
        key, late = program(network), time.perf_counter() > failing[0][0] + SHRINKING
        if key not in known:
            known[key] = (Outcome(()), "") if late else audit_and_ask(vocabulary.source, network, every)
        return known[key]

    @seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
        phases=(Phase.generate, *[Phase.shrink] * (SHRINKING > 0)),
        backend=EVEN,
        report_multiple_bugs=False,
    )
    @given(networks(vocabulary))
    def run(network):
        start, before = time.perf_counter(), compilations()
        stage(partial(program, network))
        outcome, question = judged(network)
        if question:
            trim()
        seconds, new = time.perf_counter() - start, compilations() - before
        if outcome.disagrees:
            failing.append((time.perf_counter(), network, outcome))  # the last one is the smallest, when all is shrunk
            known[program(network)] = outcome, question
            raise DisagreementError
        if not failing:
            tally.networks += 1
            tally.seconds += seconds
            tally.compilations += new
            tally.remarks[outcome.remark] += 1
            tally.asked.update([question] * bool(question))
            if not new and not question:
                tally.warm, tally.warm_seconds = tally.warm + 1, tally.warm_seconds + seconds
            cover(tally, network, type(vocabulary.source.serial(network.layer)))

    try:
        run()
    except DisagreementError:
        _, network, outcome = failing[-1]
        faults = tuple(map(str, locate(network)))
        differences = tuple(map(str, outcome.differences))
        tally.networks += 1
        tally.failures.append(
            Failure(f"{network.layer!r} on {network.inputs!r}", faults, differences, token(name, network))
        )
    return tally


class DisagreementError(AssertionError):
    """A network whose sweep and definition give different gradients."""


def cover(tally: Tally, network: Network, serial: type = object) -> None:
    """Counts the layers, forms and neighbours of a network: what follows one another in a `serial`."""
    tally.forms.update(network.forms)
    for _, node in nodes(network.layer):
        tally.layers[type(node).__name__] += 1
        if isinstance(node, serial):
            tally.pairs.update(itertools.pairwise(type(child).__name__ for _, child in children(node)))


def run(
    count: int,
    campaign_seed: int,
    pool: Pool | Executor | None = None,
    name: str = "jbp",
    watch: Callable[[Tally], Any] = lambda tally: None,
    journal: Path | None = None,
    say: Callable[[str], Any] = lambda text: None,
    every: int = EVERY,
) -> Tally:
    """`count` random networks of the catalogue called `name`, over a pool's processes, or here without one.

    The pool may be any executor of `concurrent.futures`, Dask's `Client(...).get_executor()` for one: of a seed the
    networks are the same everywhere. Its workers need this package and the catalogue's.

    One network in `every` is asked a question beside that for its gradient (further.py). `watch` is called with the
    tally so far after each chapter. With a journal, what an interrupted campaign has written there is not done again.
    Raises CatalogueError if there is no such catalogue, JournalError for another's journal.
    """
    allow(name)
    catalogue(name)
    total = Tally()
    parts = [(name, campaign_seed, number, length, every) for number, length in enumerate(lengths(count))]
    code = fingerprint(*homes(name)) if journal else {}
    book = Book(journal, [name, campaign_seed], code, lambda part: part[2:], _told, _meant, say)
    for _, tally in resumed(pool, chapter, parts, book):
        total.add(Tally(lost=[str(tally)]) if isinstance(tally, Failed) else tally)
        watch(total)
    return total


def recorded(journal: Path) -> tuple[str, int, list[Tally]]:
    """(catalogue, seed, tallies of the chapters) that a journal holds, in the order of the chapters, whatever the code.

    Raises JournalError for a file that is none.
    """
    (name, campaign_seed), parts = held(journal)
    return name, campaign_seed, [_meant(told) for _, told in sorted(parts, key=lambda part: part[0])]


def _told(tally: Tally) -> dict[str, Any]:
    told = vars(tally) | {"failures": [vars(f) for f in tally.failures]}
    return {k: list(v.items()) if isinstance(v, Counter) else v for k, v in told.items()}


def _meant(told: dict[str, Any]) -> Tally:
    def key(k):
        return tuple(k) if isinstance(k, list) else k

    blank = Tally()
    for name, value in told.items():
        if isinstance(getattr(blank, name), Counter):
            value = Counter({key(k): n for k, n in value})
        elif name == "failures":
            value = [Failure(**f | {k: tuple(f[k]) for k in ("faults", "differences")}) for f in value]
        setattr(blank, name, value)
    return blank


def resumed(pool: Pool | Executor | None, f: Callable, parts: list[tuple], book: Book) -> Iterator[tuple[tuple, Any]]:
    """(part, f(*part)) of all parts: first those that the book holds, then the others as they come, written down.
    What failed is given and not written: the next run tries it again.

    Raises JournalError for another campaign's journal.
    """
    with opened(book) as (done, append):
        yield from ((part, book.meant(done[book.key(part)])) for part in parts if book.key(part) in done)
        for part, found in results_of(pool, f, [part for part in parts if book.key(part) not in done]):
            if not isinstance(found, Failed):
                append(part, found)
            yield part, found


def results_of(pool: Pool | Executor | None, f: Callable, parts: list[tuple]) -> Iterator[tuple[tuple, Any]]:
    """(part, f(*part)) for each part as it comes, from a pool's processes, or from here without one.

    From an executor, of many machines perhaps, what raises is given as Failed: by whose fault is not known there.
    """
    if isinstance(pool, Pool):
        yield from pool.results(f, parts)
    elif pool is not None:
        futures = {pool.submit(f, *part): part for part in parts}
        for future in as_completed(futures):
            error = future.exception()
            found = Failed(f"{type(error).__name__}: {error}", own=False) if error else future.result()
            yield futures[future], found
    else:
        for part in parts:
            yield part, f(*part)
            tidy()


def expected(name: str) -> tuple[set[str], set[str]]:
    """The names of all layer types and of all forms that a campaign over this catalogue can meet."""
    source = catalogue(name)
    cases = [case.layer for case in (*source.layers, *source.losses)]
    return {type(layer).__name__ for layer in cases}, {form.name for form in source.forms}


def neighbours(source: Any) -> set[tuple[str, str]]:
    """The pairs of layer types of which the second takes what the first makes, of some array with which a chapter may
    begin or of what its case shows. What makes several arrays follows no other by itself, but with what takes one.

    All are tried until one does: more than a minute for all of jbp's layers.
    """
    kinds, shown, makes, takes = defaultdict(list), defaultdict(list), defaultdict(set), defaultdict(set)
    for case in source.layers:
        kind = type(case.layer).__name__
        kinds[kind].append(case)
        for x in map(plain, case.inputs):
            shown[kind].append((case, x))
            if y := after(case.layer, x):
                makes[kind].add(len(y.shape))
                takes[kind] |= {len(x.shape)} if is_one(x) else set()
    own = [x for several in shown.values() for _, x in several if is_one(x)]
    arrays = dict.fromkeys(own + drawn(taken(source.layers)))

    def made(case, x):
        y = after(case.layer, x) if not is_one(x) or len(x.shape) in ranks(case) else None
        return y if y and small(y) else None

    found = set()
    for kind, cases in kinds.items():
        left, met = {other for other in kinds if makes[kind] & takes[other]}, set()
        for case, x in itertools.chain(shown[kind], ((case, x) for x in arrays for case in cases)):
            if not left:
                break
            if (y := made(case, x)) and y not in met:
                met.add(y)
                fit = {other for other in left if any(made(case, y) for case in kinds[other])}
                found |= {(kind, other) for other in fit}
                left -= fit
    return found


def token(name: str, network: Network) -> str:
    """One word that holds a network: its catalogue, program, inputs and seed."""
    return pack([name, repr(network.layer), repr(network.inputs), network.seed])


def from_token(word: str) -> Network:
    """The network that a token holds. Raises TokenError for a word that holds none."""
    held = unpack(word)
    if not isinstance(held, list) or len(held) != 4:
        raise TokenError(f"got {word!r}; expected the token of a network.")
    name, layer, inputs, seed = held
    try:
        network = Network(parse(layer, table(catalogue(name).names)), parse(inputs, {"Array": Array}), seed)
        with jax.enable_x64(True):
            modest(network.layer, spec(network.inputs))
        np.random.default_rng(seed)
    except (ParseError, TypeError, ValueError, AttributeError) as error:
        raise TokenError(f"got {word[:80]!r}; expected the token of a network. ({error})") from error
    return network
