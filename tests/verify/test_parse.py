"""Tokens are data: layers and literals are read, nothing is run, and what is too large is refused before it is made."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

import jbp
from verify import campaign, tokens
from verify.architectures import Array, catalogue
from verify.command import CommandError
from verify.parse import ParseError, parse, table

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


FORGED = (
    "__import__('os').system('true')",
    "layers.__builtins__['eval']('1')",
    "Dense.__init__",
    "Dense(1).init",
    "(lambda: 1)()",
    "[x for x in (1,)]",
    "Dense(*(1,))",
    "Dense(**{'units': 1})",
    "cast(Dense(1))",
    "recipes",
    "f'{1}'",
    "1 + 1",
    "10 ** 9",
    "-'a'",
    "Dense(99999999999)",
    "Dense('a')",
    "Dense(",
    "\x00",
    "(" * 300 + ")" * 300,
    "-" * 20_000 + "1",
    "Residual(" * 100 + "Tanh()" + ")" * 100,
    "(" + "1," * 20_000 + ")",
    "1" * 60_000,
    5,
    None,
)


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_anything_else_is_refused_at_once(text):
    begun = time.monotonic()
    with pytest.raises(ParseError, match="expected"):
        parse(text, TABLE)
    assert time.monotonic() - begun < 1


BIG = {"s": ["float32", [1 << 20, 1 << 20], 0]}
NETWORK = ["jbp", "Tanh()", "Array(shape=(2, 3), below=None)", 0]
X = {"s": ["float32", [2, 3], 0]}
DENSE = {"catalogue": "jbp", "layer": "Dense(3)"}


@pytest.mark.parametrize(
    "held",
    [
        ["check", "os:system", None, [{"v": "true"}], 0, "quick"],
        ["check", "subprocess:run", "os:system", [X], 0, "quick"],
        ["check", {"pair": ["os:system", "os:system"]}, None, [X], 0, "quick"],
        ["check", DENSE, "os:system", [X], 0, "quick"],
        ["check", DENSE | {"layer": "Dense(1 << 30)"}, None, [X], 0, "quick"],
        ["check", DENSE | {"layer": "Dense(9000000)"}, None, [X], 0, "quick"],
        ["check", DENSE, None, [BIG], 0, "quick"],
        ["check", DENSE, None, [{"s": ["float32", [-1], 0]}], 0, "quick"],
        ["check", DENSE, None, [{"a": ["float32", [5], "AAAA"]}], 0, "quick"],
        ["check", DENSE, None, [{"a": ["object", [5], "AAAA"]}], 0, "quick"],
        ["check", DENSE, None, [{"zz": 1}], 0, "quick"],
        ["check", DENSE, None, [[]], 0, "quick"],
        ["check", DENSE, None, [X], "seed", "quick"],
        ["check", 5, None, [X], 0, "quick"],
    ],
    ids=range(14),
)
def test_a_forged_audit_is_refused_at_once(held):
    begun = time.monotonic()
    with pytest.raises((tokens.TokenError, ParseError), match=r"expected|holds no audit"):
        tokens.again(tokens.unpack(tokens.pack(held)))
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "held",
    [
        [*NETWORK[:1], "EmbeddingBag(5, 10000000)", *NETWORK[2:]],
        [*NETWORK[:2], "Array(shape=(16777216, 16777216), below=None)", 0],
        [*NETWORK[:2], "open('x')", 0],
        [*NETWORK[:3], "seed"],
        [*NETWORK[:3], -1],
        NETWORK[:2],
        {"a": 1},
    ],
    ids=range(7),
)
def test_a_forged_network_is_refused_at_once(held):
    begun = time.monotonic()
    with pytest.raises(tokens.TokenError, match="expected"):
        campaign.from_token(tokens.pack(held))
    assert time.monotonic() - begun < 2


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
