"""Tokens are data: layers and literals are read, nothing is run, and what is too large is refused before it is made."""

import jax.numpy as jnp
import numpy as np
import pytest

import jbp
from tests.storm import tokens as storm, told
from tests.storm.tokens import TEXTS
from verify.architectures.networks import Array
from verify.naming import tokens
from verify.naming.catalogues import catalogue
from verify.naming.named import CommandError
from verify.naming.parse import ParseError, parse, table

TABLE = table(catalogue().names)


def test_every_layer_of_the_catalogue_is_read_back():
    source = catalogue()
    for case in (*source.layers, *source.losses, *source.estimators):
        assert parse(repr(case.layer), TABLE) == case.layer


def test_literals():
    assert parse("{'a': (1, -2.5, True, None), 'b': [inf, 'word']}", TABLE) == {
        "a": (1, -2.5, True, None),
        "b": [float("inf"), "word"],
    }
    assert parse("Array(shape=(2, 3), below=None)", {"Array": Array}) == Array((2, 3))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_anything_else_is_refused(text):
    with pytest.raises(ParseError, match="expected"):
        parse(text, TABLE)


def test_what_is_forged_is_refused_and_nothing_is_run():
    text, well = told.table(storm.forgeries(30, 0))
    assert well, text


def test_the_storm_sees_what_is_taken(monkeypatch):
    monkeypatch.setattr(storm, "replayed", lambda word: None)
    assert not told.table(storm.forgeries(1, 0))[1]


def test_words_that_hold_nothing_or_too_much():
    bomb = tokens.pack("0" * 50_000_000)
    nested = tokens.pack(None).replace("=", "")
    assert len(bomb) < 100_000
    for word in (bomb, "", "no-token", "\ud800", "é" * 10, bomb[:50], nested[:-3]):
        with pytest.raises(tokens.TokenError, match="expected a token"):
            tokens.unpack(word)


def test_a_module_must_be_allowed_by_name():
    assert tokens._found("jax.numpy:sin", ["jax"]) is jnp.sin
    with pytest.raises(tokens.TokenError, match="add --allow jax"):
        tokens._found("jax.numpy:sin", ["ja", "numpy"])
    with pytest.raises(CommandError):
        tokens._found("jax.numpy:no_such", ["jax.numpy"])
    word = tokens.token(jnp.sin, (np.zeros(2, np.float32),), jnp.cos, 0, "quick")
    assert all(module.startswith("jax") for module in tokens.modules(word)) or not word
    assert tokens.modules(tokens.token(jbp.layers.Dense(3), (np.zeros((2, 3), np.float32),), None, 0, "quick")) == []
