"""Which stage of a pipeline does what in which tick, as a table, and what it costs in idle time and memory."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jbp.errors import LayerError
from jbp.fields import Size, check, checked

Name = Literal["GPipe", "1F1B", "ZB-H1", "ZB-V"]


class Work(NamedTuple):
    """One tick of one stage: F, forward; B, the error at its input; W, the gradient of its parameters; of one part.

    >>> jbp.pipeline.Work("B", micro=3)
    Work(kind='B', micro=3, part=0)
    """

    kind: str
    micro: int
    part: int = 0


@dataclass(frozen=True)
class Schedule:
    """rows[s][t] is the Work of stage s in tick t, None where it waits. A tick is as long as a forward pass of a part.

    Each stage has one part of the layers, or two: then the parts are on the stages 0, 1, ..., p − 1, p − 1, ..., 1, 0,
    a V. Made by `schedule`, or by hand. Raises LayerError for a table in which something is missing, is done twice or
    comes before what it needs, and where a stage does not take the micro-batches forward in their order.

    >>> print(jbp.pipeline.schedule("ZB-H1", stages=2, micro=2))
    F0 F1 .  B0 W0 B1 W1
    .  F0 B0 F1 B1 W0 W1
    """

    rows: tuple[tuple[Work | None, ...], ...]

    def __post_init__(self):
        check(self)
        every, ended = list(self), {(w.kind, self.place(s, w.part), w.micro): t for s, t, w in self}
        places, micro = self.stages * self.parts, self.micro
        wanted = {(kind, j, i) for kind in "FBW" for j in range(places) for i in range(micro)}
        if len({len(row) for row in self.rows}) != 1 or set(ended) != wanted or len(every) != len(wanted):
            raise LayerError(
                Schedule,
                f"got {len(every)} works, {len(set(ended) & wanted)} of them different; expected rows of one length, "
                f"and in them F, B and W once for each of {micro} micro-batches in each of {places} places. Take a "
                "table from jbp.pipeline.schedule.",
            )
        for (kind, j, i), t in ended.items():
            before = [(*need, i) for need in needs(kind, j, places)] + [(kind, j, i - 1)] * (kind == "F" and i > 0)
            if any(ended[need] >= t for need in before):
                raise LayerError(
                    Schedule,
                    f"got {kind} of micro-batch {i} at place {j} in tick {t}; expected it after what it needs: F after "
                    "F of the place before and of the micro-batch before, B after F and after B of the next place, W "
                    "after B. Move it to a later tick.",
                )

    def __iter__(self) -> Iterator[tuple[int, int, Work]]:
        """(stage, tick, work), stage by stage."""
        return ((s, t, work) for s, row in enumerate(self.rows) for t, work in enumerate(row) if work)

    @property
    def stages(self) -> int:
        """How many stages."""
        return len(self.rows)

    @property
    def ticks(self) -> int:
        """How many ticks a step takes."""
        return len(self.rows[0]) if self.rows else 0

    @property
    def micro(self) -> int:
        """How many micro-batches."""
        return max((w.micro for _, _, w in self), default=-1) + 1

    @property
    def parts(self) -> int:
        """How many parts of the layers lie on each stage."""
        return max((w.part for _, _, w in self), default=0) + 1

    def place(self, stage: int, part: int) -> int:
        """Which part of the layers it is, counted from the input."""
        return self.stages * part + (self.stages - 1 - stage if part % 2 else stage)

    @property
    def bubble(self) -> float:
        """The share of ticks in which a stage waits."""
        return 1 - len(list(self)) / max(self.stages * self.ticks, 1)

    @property
    def held(self) -> tuple[float, ...]:
        """The most micro-batches that each stage has gone forward with and not done W of; of two parts each is half."""
        found = []
        for row in self.rows:
            now = most = 0
            for work in row:
                now += {"F": 1, "W": -1}.get(work.kind, 0) if work else 0
                most = max(most, now)
            found.append(most / self.parts)
        return tuple(found)

    def __str__(self):
        names = [[f"{w.kind}{w.micro}{chr(39) * w.part}" if w else "." for w in row] for row in self.rows]
        width = max((len(name) for row in names for name in row), default=1)
        return "\n".join(" ".join(name.ljust(width) for name in row).rstrip() for row in names)


def needs(kind: str, place: int, places: int) -> list[tuple[str, int]]:
    """What must be done before with the same micro-batch, and where."""
    if kind == "W":
        return [("B", place)]
    if kind == "F":
        return [("F", place - 1)] * (place > 0)
    return [("F", place)] + [("B", place + 1)] * (place + 1 < places)


@checked
def schedule(name: Name, stages: Size, micro: Size) -> Schedule:
    """The table of a schedule by its name, for p stages and m micro-batches.

        GPipe    all F, then all B, each with its W at once; idle (p − 1) / (m + p − 1), holds m micro-batches
        1F1B     B as soon as it can be; as idle as GPipe, stage s holds p − s
        ZB-H1    W where there is nothing else to do; idle (p − 1) / (3m + p − 1) for m ≥ p, holds p
        ZB-V     two parts a stage, in a V; idle (p − 1) / (6m + p − 1) for m ≥ 2p, the fill alone, holds p

    In the first two the stage before waits for W too, as their papers have it. (Huang et al., *GPipe*, 2019; Narayanan
    et al., *Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM*, 2021, §2.2; Qi et al.,
    *Zero Bubble Pipeline Parallelism*, 2023, §2 and §6: its steps need not end together, so it leaves out the fill.)

    >>> table = jbp.pipeline.schedule("1F1B", stages=2, micro=3)
    >>> print(table)
    F0 F1 .  .  B0 W0 F2 B1 W1 .  B2 W2
    .  F0 B0 W0 F1 B1 W1 F2 B2 W2 .  .
    >>> table.held
    (2.0, 1.0)
    """
    p, joined, parts = stages, name in ("GPipe", "1F1B"), 1 + (name == "ZB-V")
    ahead, held = {  # how far F may be ahead of B, and of W, on each stage
        "GPipe": ([micro] * p, [micro] * p),
        "1F1B": (range(p, 0, -1), range(p, 0, -1)),
        "ZB-H1": (range(p, 0, -1), [p] * p),
        "ZB-V": ([2 * p] * p, [2 * p] * p),
    }[name]
    begun, ended = Counter[tuple[str, int]](), dict[tuple[str, int, int], int]()
    rows: list[list[Work | None]] = [[] for _ in range(p)]

    def ready(kind, place, tick, mine):
        i = begun[kind, place]
        if i == micro:
            return False
        if kind == "F":
            f, b, w = (sum(begun[k, j] for j in mine) for k in "FBW")
            if f - b == ahead[mine[0]] or f - w == held[mine[0]]:
                return False
        before = [("W" if joined and j > place else k, j) for k, j in needs(kind, place, p * parts)]
        return all(ended.get((k, j, i), tick) < tick for k, j in before)

    while len(ended) < 3 * p * parts * micro:
        tick = len(rows[0])
        for s, row in enumerate(rows):  # F before B before W, and the way out before the way in
            mine = [s, 2 * p - 1 - s][:parts]
            order = [*(("F", j) for j in reversed(mine)), *((k, j) for k in "BW" for j in mine)]
            order = sorted(order, key=lambda work: work[0] != "W") if joined else order
            kind, place = next((work for work in order if ready(*work, tick, mine)), ("", 0))
            row.append(Work(kind, begun[kind, place], mine.index(place)) if kind else None)
            if kind:
                ended[kind, place, begun[kind, place]] = tick
                begun[kind, place] += 1
    return Schedule(tuple(map(tuple, rows)))
