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


def example(text: str, seed: int) -> list[Any]:
    """Arrays for "f32[4,8], i32[4]<8, bool[3], key": normal numbers, integers from 0 up to the bound, booleans, a key.
    Python's own words stand for themselves: -1, 0.5, True, None, 'mean'.

    Raises CommandError for anything else.
    """
    rng, arrays = np.random.default_rng(seed), []
    for word in re.findall(r"[^,\[\]]+(?:\[[^\]]*\])?[^,]*", text):
        match = re.fullmatch(r"\s*(?:(f|bf|i|u)(\d+)|(bool|key))(?:\[([\d,\s]*)\])?(?:<(\d+))?\s*", word)
        if not match:
            arrays.append(_literal(word.strip()))
            continue
        kind, bits, other, sizes, below = match.groups()
        shape = tuple(int(n) for n in (sizes or "").replace(" ", "").split(",") if n)
        if other == "key":
            arrays.append(jax.random.key(seed))
        elif other == "bool":
            arrays.append(jnp.asarray(rng.random(shape) < 0.5))
        elif kind in ("f", "bf"):
            arrays.append(jnp.asarray(rng.normal(size=shape), KINDS[kind] + bits))
        else:
            arrays.append(jnp.asarray(rng.integers(0, int(below or 8), shape), KINDS[kind] + bits))
    return arrays


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError) as error:
        raise CommandError(
            f"got {word!r} in the example; expected f32[4,8], bf16[4], i32[4]<8, bool[3], key or a Python constant."
        ) from error
