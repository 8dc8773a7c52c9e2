"""What the commands of `python -m verify` need beside the audits: functions by name, examples by shape."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KINDS = {"f": "float", "bf": "bfloat", "i": "int", "u": "uint"}


class CommandError(ValueError):
    """What was typed does not name something that can be audited."""


def function(name: str) -> Any:
    """The object at "package.module:name" or "path/to/file.py:name". Raises CommandError if it is not there."""
    module, _, attribute = name.rpartition(":")
    try:
        found = _file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise CommandError(f"got {name!r}; expected package.module:function. ({error})") from error
    return found


def _file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ARRAY = re.compile(r"""(?<!['"\w])(?:(bf|f|i|u)(\d+)|(bool|key))(?:\[([\d,\s]*)\])?(?:<(\d+))?(?!['"\w])""")


def example(text: str, seed: int) -> list[Any]:
    """Arrays for "f32[4,8], i32[4]<8, bool[3], key": normal numbers, integers from 0 up to the bound, booleans, a key.
    Python's own words stand for themselves: -1, 0.5, True, None, 'mean'; tuples, lists and dicts hold any of these:
    "{'w': f32[8,2], 'b': f32[2]}, (f32[4,8], i32[4]<8)".

    Raises CommandError for anything else.
    """
    rng, arrays = np.random.default_rng(seed), []

    def array(match):
        arrays.append(_array(*match.groups(), seed=seed, rng=rng))
        return repr(f"\0{len(arrays) - 1}")

    def put(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("\0"):
            return arrays[int(value[1:])]
        if isinstance(value, dict):
            return {key: put(v) for key, v in value.items()}
        return type(value)(map(put, value)) if isinstance(value, list | tuple) else value

    try:
        return put(ast.literal_eval(f"[{ARRAY.sub(array, text)}]"))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise CommandError(
            f"got the example {text!r}; expected f32[4,8], bf16[4], i32[4]<8, bool[3], key or Python constants, and "
            "tuples, lists and dicts of them."
        ) from error


def _array(kind, bits, other, sizes, below, *, seed, rng):
    shape = tuple(int(n) for n in (sizes or "").replace(" ", "").split(",") if n)
    if other == "key":
        return jax.random.key(seed)
    if other == "bool":
        return jnp.asarray(rng.random(shape) < 0.5)
    if kind in ("f", "bf"):
        return jnp.asarray(rng.normal(size=shape), KINDS[kind] + bits)
    return jnp.asarray(rng.integers(0, int(below or 8), shape), KINDS[kind] + bits)
