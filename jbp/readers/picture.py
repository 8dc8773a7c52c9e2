"""A picture of a network: boxes for layers, from the top down, and on the lines between them what shape goes there.

Every combinator is drawn by one function out of the pictures of its layers: a row, branches side by side, a way past a
residual branch, a graph in ranks. The rest get a frame with their name around what is inside.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from jbp.combinators import Graph, Parallel, Repeat, Residual, Serial
from jbp.errors import show
from jbp.layer import Layer
from jbp.readers.summary import OPENED, Row, summary
from jbp.sweep import children, stem

GAP, LINE, ROOM = 34, 16, 18  # between layers in a row, the height of a line of text, between layers side by side
STYLE = "".join(  # of this picture alone, for it may stand within a page
    f".jbp-net {rule}"
    for rule in (
        "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1d2733}",
        "text.shape{font-size:10.5px;fill:#71808f}",
        "text.name,.jbp-net tspan.name{fill:#2a6f97}",
        ".layer{fill:#fff;stroke:#2a6f97}",
        ".frame{fill:#2a6f97;fill-opacity:.06;stroke:#8fa6b8;stroke-dasharray:4 3}",
        ".line{fill:none;stroke:#8794a1;stroke-width:1.2}",
        ".sum{fill:#fff;stroke:#8794a1}",
    )
)
Paint = Callable[[float, float], Iterator[str]]


@dataclass(frozen=True)
class Drawing:
    """A picture as SVG: notebooks show it, `save` writes it."""

    svg: str

    def save(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_text(self.svg)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self):
        return f"Drawing of {len(self.svg)} characters; save('net.svg') writes it"


def draw(net: Layer, x: Any) -> Drawing:
    """A picture of the network as SVG, with the shapes of what goes from layer to layer.

    `jbp.draw(net, x).save("net.svg")`; a notebook shows it. x is an input, or its shape: nothing is run.

    >>> draw(Serial(Dense(8), Tanh()), jnp.ones((2, 5)))
    Drawing of 1483 characters; save('net.svg') writes it
    """
    rows = {row.path: row for row in summary(net, x).rows}
    body = _box(net, "", "", rows)
    ends = _text(show(rows[""].given[1])), _text(rows[""].output)
    whole = body if isinstance(net, Graph) else _column([ends[0], body, ends[1]], ["", ""])
    width, height = whole.width + 2 * ROOM, whole.height + 2 * ROOM
    parts = "".join(whole.paint(ROOM, ROOM))
    return Drawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" class="jbp-net"><title>{escape(type(net).__name__)}</title><style>{STYLE}</style>'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="#8794a1"/></marker></defs>{parts}</svg>\n'
    )


@dataclass(frozen=True)
class _Box:
    """A part of the picture: what comes in at the middle of its top goes out at the middle of its bottom."""

    width: float
    height: float
    paint: Paint


def _box(layer: Layer, path: str, name: str, rows: dict[str, Row]) -> _Box:
    inside = children(layer)
    if not inside or not isinstance(layer, OPENED):
        return _leaf(f"{name}: " * bool(name), repr(layer), rows[path].parameters)
    below = {label: f"{stem(path, layer)}{label}" for label, _ in inside}
    boxes = {label: _box(child, below[label], label[1:] if label[:1] == "." else "", rows) for label, child in inside}
    row = {label: rows[below[label]] for label in below}
    if isinstance(layer, Serial):
        body = _column(list(boxes.values()), [r.output for r in row.values()][:-1])
        return _frame(body, name) if name else body
    if isinstance(layer, Parallel):
        body = _side(list(boxes.values()), [show(r.given[1]) for r in row.values()], [r.output for r in row.values()])
        return _frame(body, name) if name else body
    if isinstance(layer, Graph):
        given = rows[path].given[1]
        shapes = {n: show(given[n] if len(layer.inputs) > 1 else given) for n in layer.inputs}
        body = _graph(layer, boxes, shapes | {label[1:]: r.output for label, r in row.items()})
        return _frame(body, name) if name else body
    body = boxes[inside[0][0]] if len(boxes) == 1 else _column(list(boxes.values()), [""] * (len(boxes) - 1))
    if isinstance(layer, Residual):
        body = _past(body)
        return _frame(body, name) if name else body
    kind = f"{type(layer).__name__} × {layer.times}" if isinstance(layer, Repeat) else type(layer).__name__
    return _frame(body, " ".join(filter(None, (name, kind))))


def _width(text: str, size: float = 12) -> float:
    return 0.56 * size * len(text)


def _cut(text: str, most: int = 44) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _write(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(points: str, tip: bool = True) -> str:
    end = ' marker-end="url(#tip)"' if tip else ""
    return f'<path d="{points}" class="line"{end}/>'


def _arrow(x: float, y: float, to: float, text: str = "") -> Iterator[str]:
    yield _line(f"M{x:.1f} {y:.1f}V{to:.1f}")
    if text:
        yield _write(x + 7, (y + to) / 2 + 3, _cut(text, 34), "shape", "start")


def _text(text: str) -> _Box:
    def paint(x, y):
        yield _write(x + width / 2, y + 12, _cut(text), "shape")

    width = _width(_cut(text), 10.5)
    return _Box(width, LINE, paint)


def _leaf(name: str, text: str, parameters: int) -> _Box:
    text, count = _cut(text), f"{parameters:,} parameters" if parameters else ""
    width = max(_width(name + text), _width(count, 10.5), 70) + 20
    height = 30 + 13 * bool(count)

    def paint(x, y):
        yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="5" class="layer"/>'
        named = f'<tspan class="name">{escape(name)}</tspan>' if name else ""
        yield f'<text x="{x + width / 2:.1f}" y="{y + 19:.1f}" text-anchor="middle">{named}{escape(text)}</text>'
        if count:
            yield _write(x + width / 2, y + 34, count, "shape")

    return _Box(width, height, paint)


def _column(boxes: list[_Box], labels: list[str]) -> _Box:
    """One under the other, labels[i] on the line from the i-th to the next."""
    width = max([box.width for box in boxes] + [2 * (7 + _width(_cut(t, 34), 10.5)) for t in labels])

    def paint(x, y):
        middle = x + width / 2
        for i, box in enumerate(boxes):
            yield from box.paint(middle - box.width / 2, y)
            y += box.height
            if i + 1 < len(boxes):
                yield from _arrow(middle, y, y + GAP, labels[i])
                y += GAP

    return _Box(width, sum(box.height for box in boxes) + GAP * (len(boxes) - 1), paint)


def _frame(inner: _Box, title: str) -> _Box:
    width, height = max(inner.width, _width(title) + 10) + 2 * ROOM, inner.height + 2 * GAP

    def paint(x, y):
        middle = x + width / 2
        yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="8" class="frame"/>'
        yield _write(x + 9, y + 16, title, "name", "start")
        yield from _arrow(middle, y, y + GAP)
        yield from inner.paint(middle - inner.width / 2, y + GAP)
        yield _line(f"M{middle:.1f} {y + GAP + inner.height:.1f}V{y + height:.1f}", tip=False)

    return _Box(width, height, paint)


def _side(boxes: list[_Box], ins: list[str], outs: list[str]) -> _Box:
    """Side by side between two bars."""
    widths = [
        max(box.width, 2 * (7 + max(_width(_cut(t, 34), 10.5) for t in pair)))
        for box, *pair in zip(boxes, ins, outs, strict=True)
    ]
    width, tall = sum(widths) + ROOM * (len(boxes) - 1), max(box.height for box in boxes)

    def paint(x, y):
        bottom, left, middles = y + tall + 2 * GAP, x, []
        for box, w, given, made in zip(boxes, widths, ins, outs, strict=True):
            middle = left + w / 2
            middles.append(middle)
            top = y + GAP + (tall - box.height) / 2
            yield from _arrow(middle, y, top, given)
            yield from box.paint(middle - box.width / 2, top)
            yield from _arrow(middle, top + box.height, bottom, made)
            left += w + ROOM
        for level in (y, bottom):
            ends = sorted([*middles, x + width / 2])
            yield _line(f"M{ends[0] - 8:.1f} {level:.1f}H{ends[-1] + 8:.1f}", tip=False)

    return _Box(width, tall + 2 * GAP, paint)


def _past(inner: _Box) -> _Box:
    """A way past the layer, and the sum of both."""
    width = inner.width + 4 * ROOM

    def paint(x, y):
        middle, right, plus = x + width / 2, x + width - ROOM / 2, y + 2 * GAP + inner.height
        yield from _arrow(middle, y, y + GAP)
        yield from inner.paint(middle - inner.width / 2, y + GAP)
        yield from _arrow(middle, y + GAP + inner.height, plus - 9)
        yield _line(f"M{middle:.1f} {y + 6:.1f}H{right - 8:.1f}q8 0 8 8V{plus - 8:.1f}q0 8 -8 8H{middle + 9:.1f}")
        yield f'<circle cx="{middle:.1f}" cy="{plus:.1f}" r="9" class="sum"/>'
        yield _write(middle, plus + 4, "+")

    return _Box(width, inner.height + 2 * GAP + 9, paint)


def _graph(graph: Graph, boxes: dict[str, _Box], shapes: dict[str, str]) -> _Box:
    """In ranks, each layer below all that it reads; a line that skips ranks has a place in each of them."""
    read = {name: graph.reads(name) for name in graph.names}
    outputs = (graph.outputs,) if isinstance(graph.outputs, str) else graph.outputs
    rank = dict.fromkeys(graph.inputs, 0)
    for name in graph.names:
        rank[name] = 1 + max(rank[other] for other in read[name])
    last = 1 + max(rank.values())
    parts: dict[Any, _Box] = {name: _text(name) for name in graph.inputs}
    parts |= {name: boxes[f".{name}"] for name in graph.names}
    rank |= {("out", name): last for name in outputs}
    parts |= {("out", name): _text(name if len(outputs) > 1 else "") for name in outputs}
    edges = [(other, name) for name in graph.names for other in dict.fromkeys(read[name])]
    edges += [(name, ("out", name)) for name in outputs]

    levels: list[list[Any]] = [[] for _ in range(last + 1)]
    for name in (*graph.inputs, *graph.names, *(("out", name) for name in outputs)):
        levels[rank[name]].append(name)
    ways = []
    for start, end in edges:
        between = [("by", start, end, k) for k in range(rank[start] + 1, rank[end])]
        for place in between:
            levels[place[3]].append(place)
            parts[place] = _Box(10, 0, lambda x, y: iter(()))
        ways.append([start, *between, end])
    _untangle(levels, ways)

    def room(place):  # the shape of a value stands to the right of where its lines begin
        own = 2 * (8 + _width(_cut(shapes[place], 34), 10.5)) if place in shapes else 0
        return max(parts[place].width, own)

    wide = [sum(map(room, level)) + 2 * ROOM * (len(level) - 1) for level in levels]
    tall = [max(parts[place].height for place in level) for level in levels]
    gap, width = 1.4 * GAP, max(wide)
    tops = [sum(tall[:k]) + gap * k for k in range(len(levels))]

    middles = {}
    for level, w in zip(levels, wide, strict=True):
        left = (width - w) / 2
        for place in level:
            middles[place] = left + room(place) / 2
            left += room(place) + 2 * ROOM

    def paint(x, y):
        for start, *rest in ways:
            here, level = x + middles[start], y + tops[rank[start]]
            points = f"M{here:.1f} {level + parts[start].height:.1f}"
            for place in rest:
                k = place[3] if place[0] == "by" and len(place) == 4 else rank[place]
                there, top = x + middles[place], y + tops[k]
                low = y + tops[k - 1] + tall[k - 1]
                bend = (low + top) / 2
                points += f"V{low:.1f}C{here:.1f} {bend:.1f} {there:.1f} {bend:.1f} {there:.1f} {top:.1f}"
                here = there
            yield _line(points)
        for place, box in parts.items():
            if place in rank:
                yield from box.paint(x + middles[place] - box.width / 2, y + tops[rank[place]])
        for name, text in shapes.items():
            level = y + tops[rank[name]] + parts[name].height
            yield _write(x + middles[name] + 8, level + 13, _cut(text, 34), "shape", "start")

    return _Box(width, tops[-1] + tall[-1], paint)


def _untangle(levels: list[list[Any]], ways: list[list[Any]]) -> None:
    """Puts each place near the middle of those that it is joined to, in the rank above and then in that below."""
    joined = [{}, {}]
    for way in ways:
        for a, b in pairwise(way):
            joined[0].setdefault(b, []).append(a)
            joined[1].setdefault(a, []).append(b)
    for turn in range(4):
        order = range(1, len(levels)) if turn % 2 == 0 else range(len(levels) - 2, -1, -1)
        for k in order:
            beside = levels[k - 1] if turn % 2 == 0 else levels[k + 1]
            at = {place: (i + 0.5) / len(beside) for i, place in enumerate(beside)}

            def middle(place, k=k, at=at, turn=turn):
                near = [at[other] for other in joined[turn % 2].get(place, ())]
                return sum(near) / len(near) if near else (levels[k].index(place) + 0.5) / len(levels[k])

            found = {place: middle(place) for place in levels[k]}
            levels[k].sort(key=found.__getitem__)
