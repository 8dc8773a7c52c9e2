"""What the committed table of PyTorch's module tests says, and the table of names: neither needs PyTorch."""

import json
import re
from pathlib import Path

import jbp
from jbp import layers

TABLE = Path(__file__).parent.parent / "benchmarks" / "parity" / "results.json"


def test_the_committed_table_has_what_was_asked_for():
    found = json.loads(TABLE.read_text())
    modules = found["modules"]
    assert found["agree"] == sum(m["agree"] for m in modules) >= 1200
    assert found["disagree"] == sum(len(m["disagree"]) for m in modules) == 0
    for m in modules:
        assert m["samples"] == m["said"] + len(m["unsaid"])
        assert m["said"] == m["agree"] + len(m["disagree"]) + len(m["faults"])
    chunks = {m["module"]: m["agree"] for m in modules}.get("LinearCrossEntropyLoss", 0)
    assert found["agree"] - chunks >= 1200  # without the one module that has 865 of the samples


def table_of_names():
    """The rows of docs/names.md: (names here, names in PyTorch)."""
    page = TABLE.parents[2] / "docs" / "names.md"
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    return [tuple(re.findall(r"`([A-Za-z0-9_.]+)`", cell) for cell in row[:2]) for row in rows]


def test_every_name_of_ours_in_the_table_of_names_is_there():
    found = [name for ours, _ in table_of_names() for name in ours]
    assert len(found) >= 75
    places = (layers, jbp.losses, jbp)
    assert not [n for n in found if not any(reached(place, n) for place in places)]


def reached(place, dotted):
    for name in dotted.split("."):
        place = getattr(place, name, None)
    return place is not None
