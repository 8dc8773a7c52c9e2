"""Forged and mutated tokens and journals: a typed error in a second, and nothing is run.

What a token asks for is written as programs that would leave a file behind; no audit is begun, for `check` is replaced.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.storm.told import Tried
from verify.architectures import campaign
from verify.naming import tokens as words
from verify.naming.catalogues import CatalogueError
from verify.naming.named import CommandError
from verify.naming.parse import ParseError
from verify.naming.tokens import TokenError
from verify.processes.journal import Book, JournalError, opened
from verify.subject.subject import SubjectError

TYPED = TokenError, ParseError, CommandError, CatalogueError, SubjectError
MOST = 1.0  # seconds of the processor, for the machine may have much else to do
TEXTS = (
    "__import__('os').system('touch {here}')",
    "layers.__builtins__['eval']('open(\"{here}\", \"w\")')",
    "open('{here}', 'w')",
    "Dense.__init__",
    "Dense(1).init",
    "(lambda: open('{here}', 'w'))()",
    "[open('{here}', 'w') for x in (1,)]",
    "Dense(*(1,))",
    "Dense(**{{'units': 1}})",
    "cast(Dense(1))",
    "recipes",
    'f\'{{open("{here}", "w")}}\'',
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
"""Texts in the place of a layer that are none. {here} is a file that must not come to be."""
BIG = {"s": ["float32", [1 << 20, 1 << 20], 0]}
NETWORK = ["jbp", "Tanh()", "Array(shape=(2, 3), below=None)", 0]
X = {"s": ["float32", [2, 3], 0]}
DENSE = {"catalogue": "jbp", "layer": "Dense(3)"}
AUDITS = (
    ["check", "os:system", None, [{"v": "touch {here}"}], 0, "quick"],
    ["check", "subprocess:run", "os:system", [X], 0, "quick"],
    ["check", {"pair": ["os:system", "os:system"]}, None, [X], 0, "quick"],
    ["check", "{here}.py:f", None, [X], 0, "quick"],
    ["check", DENSE, "os:system", [X], 0, "quick"],
    ["check", DENSE | {"layer": "Dense(1 << 30)"}, None, [X], 0, "quick"],
    ["check", DENSE | {"layer": "Dense(9000000)"}, None, [X], 0, "quick"],
    ["check", DENSE | {"catalogue": "os"}, None, [X], 0, "quick"],
    ["check", DENSE, None, [BIG], 0, "quick"],
    ["check", DENSE, None, [{"s": ["float32", [-1], 0]}], 0, "quick"],
    ["check", DENSE, None, [{"a": ["float32", [5], "AAAA"]}], 0, "quick"],
    ["check", DENSE, None, [{"a": ["object", [5], "AAAA"]}], 0, "quick"],
    ["check", DENSE, None, [{"zz": 1}], 0, "quick"],
    ["check", DENSE, None, [[]], 0, "quick"],
    ["check", DENSE, None, [X], "seed", "quick"],
    ["check", 5, None, [X], 0, "quick"],
)
NETWORKS = (
    [*NETWORK[:1], "EmbeddingBag(5, 10000000)", *NETWORK[2:]],
    [*NETWORK[:2], "Array(shape=(16777216, 16777216), below=None)", 0],
    [*NETWORK[:2], "open('{here}', 'w')", 0],
    [*NETWORK[:3], "seed"],
    [*NETWORK[:3], -1],
    ["no such", *NETWORK[1:]],
    NETWORK[:2],
    {"a": 1},
)
RIGHT = (["check", DENSE, None, [X], 0, "quick"], NETWORK)
VALUES = (
    None, True, -1, 0, 1e308, float("inf"), 1 << 70, "", "\ud800", "os:system", [], {}, [[]], {"pair": []}, BIG, X,
    DENSE, {"v": {"v": 1}}, {"a": ["float32", [1 << 40], ""]}, {"s": ["O", [1], 0]}, {"s": ["float32", [1] * 999, 0]},
    "[" * 9999,
)  # fmt: skip


def placed(held: Any, here: str) -> Any:
    """The token's content with the file that must not come to be."""
    if isinstance(held, str):
        return held.replace("{here}", here)
    if isinstance(held, list):
        return [placed(v, here) for v in held]
    return {k: placed(v, here) for k, v in held.items()} if isinstance(held, dict) else held


def mutated(held: Any, rng: random.Random) -> Any:
    """The content with one thing somewhere in it replaced, left out or twice."""
    if rng.random() < 0.25 or not isinstance(held, list | dict) or not held:
        return rng.choice([*VALUES, *TEXTS])
    if isinstance(held, dict):
        key = rng.choice(list(held))
        return {k: mutated(v, rng) if k == key else v for k, v in held.items()}
    i = rng.randrange(len(held))
    ways = [[*held[:i], mutated(held[i], rng), *held[i + 1 :]]] * 4
    return rng.choice([*ways, held[:i], held + held[i:]])


def replayed(word: Any) -> None:
    """What `verify replay` does with a word before it audits."""
    held = words.unpack(word)
    if words.is_check(held):
        words.call(held)
    else:
        campaign.from_token(word)


def refused(act: Any, *args: Any, allowed: tuple[type[Exception], ...] = TYPED) -> tuple[list[str], bool]:
    """(what is wrong with how it ended, whether it was refused)."""
    wrong, no = [], False
    try:
        act(*args)
    except allowed as error:
        no = True
        if "got" not in str(error) or ("expected" not in str(error) and "holds no audit" not in str(error)):
            wrong.append(f"it does not say what was expected: {error}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not what was promised
        no = True
        wrong.append(f"{type(error).__name__}: {str(error)[:200]}")
    return wrong, no


def tokens(count: int, seed: int) -> Iterator[Tried]:
    """What `forgeries` tries, each of them in a second."""
    begun = time.process_time()
    for one in forgeries(count, seed):
        seconds = time.process_time() - begun
        yield replace(one, wrong=(*one.wrong, f"it took {seconds:.1f} s")) if seconds > MOST else one
        begun = time.process_time()


def forgeries(count: int, seed: int) -> Iterator[Tried]:
    """Every forged content once, then `count` mutations of contents, words and journals."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        here = Path(place) / "run"
        forged = [("audit", held) for held in AUDITS] + [("network", held) for held in NETWORKS]
        forged += [("layer", [NETWORK[0], text, *NETWORK[2:]]) for text in TEXTS]
        forged += [("layer", [*RIGHT[0][:1], DENSE | {"layer": text}, *RIGHT[0][2:]]) for text in TEXTS]
        replayed(words.pack(RIGHT[0]))  # what is imported and compiled once is not the token's doing
        replayed(words.pack(RIGHT[1]))
        for kind, held in forged:
            wrong, no = refused(replayed, words.pack(placed(held, str(here))))
            wrong += [] if no else ["it was taken"]
            yield Tried(f"forged {kind}", repr(held)[:100], (*wrong, *_run(here)))
        for k in range(count):
            kind = ("mutated content", "mutated word", "mutated journal")[k % 3]
            if kind == "mutated content":
                held = placed(mutated(rng.choice([*RIGHT, *RIGHT, *AUDITS, *NETWORKS]), rng), str(here))
                wrong, what = refused(replayed, words.pack(held))[0], repr(held)[:100]
            elif kind == "mutated word":
                word = _damaged(words.pack(rng.choice(RIGHT)), rng)
                wrong, what = refused(replayed, word)[0], repr(word)[:100]
            else:
                wrong, what = _journal(Path(place) / "journal", rng)
            yield Tried(kind, what, (*wrong, *_run(here)))


def _run(here: Path) -> list[str]:
    found = [p.name for p in here.parent.glob("run*")]
    return [f"it was run: {found}"] if found else []


def _damaged(word: str, rng: random.Random) -> Any:
    letters = list(word)
    for _ in range(rng.randrange(1, 4)):
        i = rng.randrange(len(letters))
        letters[i : i + rng.randrange(3)] = rng.choice(["A", "_", "=", "\x00", "\ud800", "é", "", word[:20], " ", "\n"])
    return rng.choice(["".join(letters), word[: rng.randrange(len(word))], words.pack("0" * 10**7)])


def _journal(path: Path, rng: random.Random) -> tuple[list[str], str]:
    """A journal with some bytes changed: what is read out of it is what was written, or it is refused."""
    book = Book(path, ["storm"], {"verify": "1"})
    path.unlink(missing_ok=True)
    with opened(book) as (_, append):
        for n in range(5):
            append((n,), {"square": n * n})
    data = bytearray(path.read_bytes())
    at, length = rng.randrange(len(data)), rng.randrange(30)
    new = rng.choice([b"", b"\x00" * length, b"[" * 2000, b"\n", b'"', b"\xff\xfe", rng.randbytes(length)])
    data[at : at + length] = new
    path.write_bytes(bytes(data))

    def read():
        with opened(book) as (done, _):
            bad = {k: v for k, v in done.items() if v != {"square": k[0] * k[0]}}
            if bad:
                raise ValueError(f"it holds {bad}")

    return refused(read, allowed=(JournalError,))[0], json.dumps([at, length, repr(new[:20])])
