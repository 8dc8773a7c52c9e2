"""Journals: about this code alone, one run at a time, and what is torn in them is done again."""

import json
import resource

import pytest

from verify.architectures import campaign
from verify.processes import journal
from verify.processes.journal import Book, JournalError


def squares(path, parts, code=None, say=lambda text: None):
    done = []
    book = Book(path, ["squares"], code or {"verify": "1", "jax": "2"}, say=say)
    found = campaign.resumed(None, lambda n: done.append(n) or n * n, [(n,) for n in parts], book)
    return [result for _, result in found], done


def test_what_is_done_is_not_done_again(tmp_path):
    path = tmp_path / "journal"
    assert squares(path, [1, 2]) == ([1, 4], [1, 2])
    assert squares(path, [1, 2, 3]) == ([1, 4, 9], [3])


@pytest.mark.parametrize("damage", [lambda s: s[:-7], lambda s: s.replace("4", "5", 1), lambda s: "\x00\ud800"[:1]])
def test_a_torn_or_changed_line_is_skipped_and_its_part_done_again(tmp_path, damage):
    path, said = tmp_path / "journal", []
    squares(path, [1, 2, 3])
    head, one, two, three = path.read_text().splitlines()
    assert '"[[2], 4]"' in two
    path.write_text("\n".join([head, one, damage(two), three]) + "\n")
    assert squares(path, [1, 2, 3], say=said.append) == ([1, 9, 4], [2])
    assert "1 torn line" in said[0]
    assert squares(path, [1, 2, 3])[1] == []


def test_a_last_line_without_its_end_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "journal"
    squares(path, [1])
    with path.open("a") as file:
        file.write('{"part": "[[2], 4')
    assert squares(path, [1, 2])[1] == [2]
    assert squares(path, [1, 2])[1] == []


@pytest.mark.parametrize("kept", [1, 20])
def test_a_journal_of_half_a_first_line_is_begun_again(tmp_path, kept):
    path = tmp_path / "journal"
    squares(path, [1])
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert squares(path, [1])[1] == [1]
    assert path.read_bytes() == whole


def test_a_journal_about_other_code_is_refused(tmp_path):
    path = tmp_path / "journal"
    squares(path, [1])
    with pytest.raises(JournalError, match=r"other code \(jax changed since\)"):
        squares(path, [1], {"verify": "1", "jax": "3"})
    path.write_text(json.dumps({"campaign": ["squares"]}) + "\n")  # as they were before they knew the code
    with pytest.raises(JournalError, match="expected the journal of a campaign"):
        squares(path, [1])


def test_the_fingerprint_is_of_the_source(tmp_path, monkeypatch):
    home = tmp_path / "fingered"
    home.mkdir()
    (home / "__init__.py").write_text("")
    (home / "rules.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = journal.fingerprint("fingered.rules", str(home / "rules.py"))
    assert before == journal.fingerprint("fingered.rules", str(home / "rules.py"))
    (home / "rules.py").write_text("x = 2\n")
    after = journal.fingerprint("fingered.rules", str(home / "rules.py"))
    assert {name for name in before if before[name] != after[name]} == {"fingered.rules", str(home / "rules.py")}
    assert {"verify", "jax", "jaxlib", "numpy", "python"} <= set(after)
    assert all(after.values())


def test_a_second_run_is_refused(tmp_path):
    path = tmp_path / "journal"
    book = Book(path, ["squares"], {})
    with journal.opened(book), pytest.raises(JournalError, match="another run is writing"), journal.opened(book):
        pass
    with journal.opened(book):
        pass


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(JournalError, match="expected a journal that can be written"):
        squares(tmp_path / "nowhere" / "journal", [1])
    with pytest.raises(JournalError, match="it is no file"):
        squares(tmp_path, [1])
    path = tmp_path / "journal"
    squares(path, [1])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, before[1]))  # a disk that is full
    try:
        with pytest.raises(JournalError, match="room for another line"):
            squares(path, [1, 2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert squares(path, [1, 2])[1] == [2]
