"""Python's own sources as real data: trees of expressions, and questions about the variables of functions.

All of it is in the standard library, as it lies beside the interpreter that runs this.
"""

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def files(every: int, packages: bool = False) -> tuple[list[Path], list[Path]]:
    """(for training, held out): the standard library's modules, of which each `every`th is held out."""
    folder = Path(sysconfig.get_path("stdlib"))
    inner = [file for file in sorted(folder.glob("[a-z]*/*.py")) if file.parent.name not in ("test", "site-packages")]
    found = sorted(folder.glob("*.py")) + inner * packages
    return [file for i, file in enumerate(found) if i % every], found[::every]


# Trees: which kind of comparison stood between two expressions?

LEAVES = 12
KINDS = {"equal": "Eq NotEq", "order": "Lt LtE Gt GtE", "identity": "Is IsNot", "membership": "In NotIn"}
KIND = {operator: i for i, operators in enumerate(KINDS.values()) for operator in operators.split()}


def binary(node: ast.AST) -> Any:
    """The expression as a tree of pairs, its leaves words."""
    match node:
        case ast.Name(id=word):
            return word
        case ast.Constant(value=value):
            return repr(value) if value in (None, True, False, 0, 1, "", b"") else f"<{type(value).__name__}>"
        case ast.Attribute(value=value, attr=word):
            return binary(value), f".{word}"
        case ast.Subscript(value=value, slice=index):
            return (binary(value), "[]"), binary(index)
        case ast.BinOp(left=left, op=op, right=right):
            return (binary(left), type(op).__name__), binary(right)
        case ast.UnaryOp(op=op, operand=value):
            return type(op).__name__, binary(value)
        case ast.Call(func=function, args=arguments):
            tree = binary(function), "()"
            for argument in arguments:
                tree = tree, binary(argument)
            return tree
    return f"<{type(node).__name__}>"


def flat(tree: Any, words: list[str], inner: list[tuple[int, int]]) -> int:
    """The number of the tree's root, after its leaves were put into `words` and its inner nodes into `inner`."""
    if isinstance(tree, str):
        words.append(tree)
        return len(words) - 1
    inner.append((flat(tree[0], words, inner), flat(tree[1], words, inner)))
    return LEAVES + len(inner) - 1


def comparisons(modules: list[Path]) -> list[tuple[list[str], list[tuple[int, int]], int]]:
    """(leaves, inner nodes, kind) of every comparison of two expressions that have no more than LEAVES leaves."""
    found = []
    for node in (node for file in modules for node in ast.walk(ast.parse(file.read_bytes()))):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            words, inner = [], []
            flat((binary(node.left), binary(node.comparators[0])), words, inner)
            if len(words) <= LEAVES:
                found.append((words, inner, KIND[type(node.ops[0]).__name__]))
    return found


def arrays(found: list[Any], number: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(leaves (n, LEAVES), children (n, LEAVES − 1, 2), kinds (n,)), padded as `jbp.Recursive` wants it."""
    leaves, children = np.zeros((len(found), LEAVES), "int32"), np.full((len(found), LEAVES - 1, 2), -1, "int32")
    for row, (words, inner, _) in enumerate(found):
        leaves[row, : len(words)] = [number.get(word, 0) for word in words]
        shift = LEAVES - 1 - len(inner)  # the root is the last node
        children[row, shift:] = [[k + shift * (k >= LEAVES) for k in pair] for pair in inner]
    return leaves, children, np.array([kind for *_, kind in found], "int32")


# Questions: which local variable stands here?

TOKEN = re.compile(r"[A-Za-z_]\w*|\d[\w.]*|'[^'\n]*'|\"[^\"\n]*\"|[^\s\w]")
NAMES, MEMORIES, WORDS, NEAR = 8, 20, 300, (-2, -1, 1, 2)
SPAN = NAMES + WORDS  # symbols at one place: the numbers of names, then the words that are known
OWN, AGO, SYMBOLS = 4 * SPAN, 4 * SPAN + NAMES, 4 * SPAN + NAMES + MEMORIES


def functions(modules: list[Path]) -> Iterator[tuple[list[str], list[int]]]:
    """(words, places of local variables) of each function: arguments, and what = or for gives a value."""
    for file in modules:
        text = re.sub(r'("""|\'\'\').*?\1|#[^\n]*', "", file.read_text("utf-8", errors="replace"), flags=re.DOTALL)
        for body in re.split(r"\n(?=\s*def )", text)[1:]:
            arguments = (re.match(r"\s*def \w+\(([^)]*)", body) or [""] * 2)[1]
            names = {*re.findall(r"(?:^|,)\s*\*{0,2}([a-z_]\w*)", arguments)}
            names |= {*re.findall(r"(?:\n\s*|for )([a-z_]\w*) (?:=|in) ", body)}
            words = ["", "", *TOKEN.findall(body), "", ""]
            yield words, [i for i, w in enumerate(words) if w in names - {"self", "cls"} and words[i - 1] != "."]


def questions(modules: list[Path], number: dict[str, int], random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(question (n, 4), memories (n, MEMORIES, 6), mask (n, MEMORIES), answer (n,), used most (n,), used last (n,)).

    A question is the two words on either side, a symbol being a word at one of the four places. A memory is an earlier
    use: the same, the name that stood there, and how long ago it was. Names get numbers anew for each question.
    """
    rows = []
    for words, places in functions(modules):
        for k, i in list(enumerate(places))[6:]:
            before = places[max(0, k - MEMORIES) : k][::-1]
            used = Counter(words[j] for j in before)
            if 3 <= len(used) <= NAMES and words[i] in used:
                name = dict(zip(used, random.permutation(NAMES).tolist(), strict=False))
                known = number | name
                near = [[p * SPAN + known.get(words[j + d], NAMES) for p, d in enumerate(NEAR)] for j in (i, *before)]
                memories = np.zeros((MEMORIES, 6), "int32")
                for ago, j in enumerate(before):
                    memories[ago] = *near[ago + 1], OWN + name[words[j]], AGO + ago
                guesses = name[used.most_common(1)[0][0]], name[words[before[0]]]
                rows.append((near[0], memories, np.arange(MEMORIES) < len(before), name[words[i]], *guesses))
    return tuple(np.array(column, "int32") for column in zip(*rows, strict=True))


def phrase(symbols: np.ndarray, number: dict[str, int]) -> str:
    """A question or a memory in words, @n for names and … for words that are not known."""
    said = {n: word for word, n in number.items()} | {n: f"@{n}" for n in range(NAMES)}
    a, b, c, d = (said.get(n, "…") for n in (symbols[:4] % SPAN).tolist())
    return f"{a} {b} {f'@{symbols[4] - OWN}' if len(symbols) > 4 else '___'} {c} {d}"
