"""The corpus is data: every entry has a name of its own, says what is wrong with it, and can be made."""

import pytest

import corpus


def test_names_are_unique_and_mistakes_are_said():
    entries = corpus.entries()
    assert len({e.name for e in entries}) == len(entries)
    assert {e.family for e in entries} == set(corpus.FAMILIES)
    assert corpus.entries(right=True) == [e for e in entries if e.mistake is None]
    assert corpus.entries("norms", right=False) == [e for e in entries if e.family == "norms" and e.mistake]
    assert corpus.entry("minus_zero").mistake == "minus zero"
    assert corpus.entry("tile_tail").mistake == "Blocks of 8 columns; what is left over beyond 16 is forgotten"
    with pytest.raises(KeyError, match="expected the name of an entry of the corpus"):
        corpus.entry("minus_one")


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_entries_can_be_made(family):
    for e in corpus.entries(family):
        f, plain, args = e.make()
        assert callable(f), e.name
        assert callable(plain), e.name
        assert isinstance(args, tuple), e.name
