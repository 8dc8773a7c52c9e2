"""The storms of `python -m tests.storm`, a little of each; all but the counting takes processes, and minutes."""

import pytest

from tests.storm import told
from tests.storm.hostile import hostile
from tests.storm.kills import kills
from tests.storm.long import flat, long
from tests.storm.told import Tried


def test_the_table_counts():
    text, well = told.table([Tried("a", "one"), Tried("a", "two", ("wrong",)), Tried("bc", "three")])
    assert text.splitlines()[1:] == [
        "a        2      1",
        "bc       1      0",
        "a: two",
        "    wrong",
        "3 tried, 1 wrong",
    ]
    assert not well
    assert told.table([Tried("a", "one")])[1]
    assert not told.table([])[1]


def test_what_grows_is_seen():
    assert not flat("audits", [100.0] * 10 + [109.0] * 90).wrong
    assert flat("audits", [100.0] * 10 + [120.0] * 90).wrong


def test_of_nothing_there_is_nothing_to_say():
    assert list(long(0, 0, 0)) == []


@pytest.mark.slow
def test_few_networks_in_one_process():
    assert [one.kind for one in long(0, 40, 0)] == ["networks"]


@pytest.mark.slow
def test_a_few_kills():
    text, well = told.table(kills(9, 0, ("scan",)))
    assert well, text


@pytest.mark.slow
def test_a_few_hostile_subjects():
    text, well = told.table(hostile(("exits_at_once", "hangs_in_xla", "kills_itself"), together=False))
    assert well, text
