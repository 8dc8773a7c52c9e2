"""Programs of layers and inputs, read and never run: calls of the classes in a closed table, over literals.

That is all that the `repr` of a layer consists of. There are no attributes, no functions and no operators here, so that
what a token, a journal or a corpus of somebody else's holds cannot do anything but make layers.
"""

import ast
import math
from collections.abc import Mapping
from typing import Any

LONGEST = 50_000  # characters
DEEPEST = 60  # calls, tuples ... one in another
MOST = 10_000  # parts of the program
LARGEST = 2**24  # of whole numbers: they are sizes
NAMES = {"inf": math.inf, "nan": math.nan}  # as Python writes them


class ParseError(ValueError):
    """A text that is no program of layers, or one that is too large."""


def parse(text: Any, table: Mapping[str, Any]) -> Any:
    """The value that the text writes down. A name in the table stands for a class that is called, or for a value.

    Raises ParseError, also for what a class says of its arguments.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ParseError(f"got {_shown(text)}; expected a program of at most {LONGEST} characters.")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParseError(f"got {_shown(text)}; expected a layer as Python writes it. ({error})") from error
    if sum(1 for _ in ast.walk(tree)) > MOST:
        raise ParseError(f"got a program of more than {MOST} parts; expected a network of a few layers.")
    return _value(tree, table, DEEPEST)


def table(names: Mapping[str, Any], *more: type) -> dict[str, type]:
    """Those of a catalogue's names that are layers, and the classes given besides."""
    layers = {
        name: kind
        for name, kind in names.items()
        if isinstance(kind, type) and all(callable(getattr(kind, f, None)) for f in ("forward", "backward", "gradient"))
    }
    return layers | {kind.__name__: kind for kind in more}


def _value(node: ast.expr, table: Mapping[str, Any], depth: int) -> Any:
    if depth == 0:
        raise ParseError(f"got a program more than {DEEPEST} levels deep; expected a network of a few layers.")
    inside = lambda node: _value(node, table, depth - 1)  # noqa: E731
    match node:
        case ast.Constant(value=bool() | None | float() | str() as value):
            return value
        case ast.Constant(value=int() as value) if value <= LARGEST:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) | ast.Name() as operand):
            return -_number(inside(operand))
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.Name(id=name) if name in table and not isinstance(table[name], type):
            return table[name]
        case ast.Tuple(elts=elements):
            return tuple(map(inside, elements))
        case ast.List(elts=elements):
            return list(map(inside, elements))
        case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
            return {inside(k): inside(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if isinstance(table.get(name), type):
            if all(k.arg for k in keywords):
                return _made(table[name], [inside(a) for a in args], {str(k.arg): inside(k.value) for k in keywords})
    raise ParseError(f"got {_shown(ast.unparse(node))}; expected layers of the catalogue, numbers, words and tuples.")


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParseError(f"got {_shown(value)} after a minus; expected a number.")
    return value


def _made(kind: type, args: list[Any], named: dict[str, Any]) -> Any:
    try:
        return kind(*args, **named)
    except Exception as error:
        raise ParseError(f"got {kind.__name__} with arguments that it does not take. ({error})") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:80]} ..."
