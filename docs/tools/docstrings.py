"""The equations at the head of a docstring, and the example at its end.

A layer's docstring begins with its equations, several on a line with wide gaps between them, and more in an indented
paragraph. Here each gets a line of its own. An example, as of `doctest`, becomes a block of code.
"""

import re

EQUATION = re.compile(r"\S = ")


def parts(docstring: str) -> tuple[list[str], str]:
    """(equations, the rest) of a docstring without indentation; no equations if it does not begin with any."""
    first, *others = docstring.split("\n\n")
    if not EQUATION.search(first):
        return [], docstring
    lines = first.split("\n")
    while others and others[0].startswith("    "):
        lines += others.pop(0).split("\n")
    found: list[str] = []
    for line in lines:
        pieces = re.split(r" {4,}", line.strip())
        if found and not EQUATION.search(pieces[0]) and not line.startswith("    "):
            found[-1] += " " + pieces.pop(0)  # a sentence that goes on
        found += pieces
    return [re.sub(r"\s{2,}", "  ", line) for line in found if line], "\n\n".join(others)


def laid_out(docstring: str) -> str:
    """The docstring as Markdown, its equations in a block."""
    equations, rest = parts(docstring)
    return "\n".join(["```text", *equations, "```", "", rest]) if equations else docstring


def example(docstring: str) -> list[str]:
    """The last paragraph as lines of Markdown, a block of code, if it is an example; else nothing."""
    last = docstring.strip().split("\n\n")[-1]
    return ["```pycon", *last.split("\n"), "```"] if last.startswith(">>> ") else []


def plain(docstring: str) -> str:
    """The docstring with params[0]['w'] as it stands, which Markdown takes for a link; code stays."""
    code = example(docstring)
    text = docstring.strip().rpartition("\n\n")[0] if code else docstring
    lines = [line if line.startswith("    ") else line.replace("][", "]\\[") for line in text.split("\n")]
    return "\n".join([*lines, "", *code] if code else lines)
