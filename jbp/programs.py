"""The repr of a layer, read and never run: calls of the classes in a closed table, over numbers, words, tuples and
dicts.

There are no attributes, no functions and no operators, so that a file of somebody else's cannot do anything but make
layers.
"""

import ast
import math
from collections.abc import Mapping
from typing import Any

LONGEST, DEEPEST = 2_000_000, 150  # characters; calls and tuples, one in another


class ProgramError(ValueError):
    """A text that is no program of layers."""


def read(text: str, table: Mapping[str, type]) -> Any:
    """The layer that the text writes down. Raises ProgramError, also for what a class says of its arguments."""
    if len(text) > LONGEST:
        raise ProgramError(f"got {len(text)} characters; expected at most {LONGEST}.")
    try:
        return _value(ast.parse(text, mode="eval").body, table, DEEPEST)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ProgramError(f"got {_cut(text)}; expected a layer as Python writes it. ({error})") from error


def _value(node: ast.expr, table: Mapping[str, type], depth: int) -> Any:
    if depth == 0:
        raise ProgramError(f"got more than {DEEPEST} layers one in another; expected fewer.")
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id="inf" | "nan" as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, table, depth - 1)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value if not math.isnan(value) else value
        case ast.Tuple(elts=elements):
            return tuple(_value(element, table, depth - 1) for element in elements)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            pairs = [(key, value) for key, value in zip(keys, values, strict=True) if key is not None]
            return {_value(key, table, depth - 1): _value(value, table, depth - 1) for key, value in pairs}
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in table:
            given = [_value(arg, table, depth - 1) for arg in args]
            named = {str(k.arg): _value(k.value, table, depth - 1) for k in keywords if k.arg}
            if len(named) == len(keywords):
                return _made(table[name], given, named)
        case ast.Call(func=ast.Name(id=name)):
            raise ProgramError(
                f"got {name}, which is no layer of jbp; expected one of its layers, losses, combinators."
            )
    raise ProgramError(f"got {_cut(ast.unparse(node))}; expected layers, numbers, words, tuples and dicts.")


def _made(kind, args, named):
    try:
        return kind(*args, **named)
    except Exception as error:
        raise ProgramError(f"got {kind.__name__} with arguments that it does not take. ({error})") from error


def _cut(text: str) -> str:
    return repr(text) if len(text) < 80 else f"{text[:80]!r} ..."
