"""One word that holds an audit: the subject's name, its arguments, the seed. A fresh process can run it again.

Only names, numbers and programs are held, no pickles: a token is text that a person can decode and read. It is a
program, though (a layer's repr is evaluated with the names of its catalogue): replay tokens of people whose code you
would run.
"""

import base64
import json
import sys
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify import architectures, command
from verify.report import Report
from verify.subject import Pair

MOST = 512  # elements whose values are held; of larger examples only shapes are, and the values are drawn anew


class TokenError(ValueError):
    """A word that holds nothing that can be replayed."""


def pack(held: Any) -> str:
    text = json.dumps(held, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")


def unpack(word: str) -> Any:
    """What `pack` was given. Raises TokenError for a word that holds nothing."""
    try:
        return json.loads(zlib.decompress(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))))
    except (ValueError, zlib.error) as error:
        raise TokenError(f"got {word!r}; expected a token that a failing audit printed. ({error})") from error


class _Lost(Exception):  # noqa: N818 - a signal inside of this module
    """Something that has no name and no program."""


def token(f: Any, args: tuple, reference: Any, seed: int, level: str) -> str:
    """The token of `verify.check(f, *args, ...)`, "" where the subject cannot be found by name."""
    try:
        held = [_named(f), _named(reference), [_told(a) for a in args], seed, level]
    except _Lost:
        return ""
    return pack(["check", *held])


def is_check(held: Any) -> bool:
    return isinstance(held, list) and len(held) == 6 and held[0] == "check"


def again(held: Any) -> Report:
    """The audit that a token holds, once more. Raises TokenError, or CommandError where the subject is gone."""
    from verify.check import check

    try:
        _, f, reference, args, seed, level = held
        rng = np.random.default_rng(seed)
        made = [_meant(a, rng) for a in args]
        return check(_found(f), *made, reference=_found(reference), seed=seed, level=level)
    except (KeyError, TypeError) as error:
        raise TokenError(f"got a token of another version of verify. ({error!r})") from error


def _named(f: Any) -> Any:
    if f is None:
        return None
    if isinstance(f, Pair):
        return {"pair": [_named(f.fwd), _named(f.bwd)]}
    module, name = getattr(f, "__module__", None), getattr(f, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and "<" not in name:
        spec = getattr(sys.modules.get(module), "__spec__", None)
        known = spec.name if module == "__main__" and spec else module
        try:
            if known != "__main__" and _same(command.function(f"{module}:{name}"), f):
                return f"{known}:{name}"
        except command.CommandError:
            pass
    for point in architectures.catalogues():
        try:
            if eval(repr(f), _names(point)) == f:
                return {"catalogue": point, "layer": repr(f)}
        except Exception:  # noqa: BLE001 - a repr that is no program may raise anything
            continue
    raise _Lost


def _same(found: Any, f: Any) -> bool:
    return found is f or getattr(found, "__wrapped__", None) is f


def _names(catalogue: str) -> dict[str, Any]:
    return {"__builtins__": {}} | dict(architectures.catalogue(catalogue).names)


def _found(name: Any) -> Any:
    if isinstance(name, dict) and "pair" in name:
        return Pair(*map(_found, name["pair"]))
    if isinstance(name, dict):
        return eval(name["layer"], _names(name["catalogue"]))  # a token is a program, as the head of this file says
    return None if name is None else command.function(name)


def _told(arg: Any) -> Any:
    """An argument as JSON: {"a": [dtype, shape, values]} for an array, {"d": {...}} for a dictionary, and so on."""
    if arg is None or isinstance(arg, bool | int | float | str):
        return {"v": arg}
    if type(arg) in (list, tuple):
        return {"t" if isinstance(arg, tuple) else "l": [_told(v) for v in arg]}
    if isinstance(arg, dict):
        if not all(isinstance(k, str) for k in arg):
            raise _Lost
        return {"d": {k: _told(v) for k, v in arg.items()}}
    if not (hasattr(arg, "dtype") and hasattr(arg, "shape")):
        raise _Lost
    if jnp.issubdtype(arg.dtype, jax.dtypes.prng_key):
        return {"k": np.asarray(jax.random.key_data(arg)).tolist()}
    x = np.asarray(arg)
    if x.size <= MOST:
        return {"a": [str(x.dtype), x.shape, base64.b64encode(x.tobytes()).decode()]}
    return {"s": [str(x.dtype), x.shape, int(x.max()) + 1 if np.issubdtype(x.dtype, np.integer) else 0]}


def _meant(told: Any, rng: np.random.Generator) -> Any:
    ((kind, value),) = told.items()
    if kind == "d":
        return {k: _meant(v, rng) for k, v in value.items()}
    if kind in ("t", "l"):
        return (tuple if kind == "t" else list)(_meant(v, rng) for v in value)
    if kind == "k":
        return jax.random.wrap_key_data(jnp.asarray(value, jnp.uint32))
    if kind == "a":
        dtype, shape, data = value
        return np.frombuffer(base64.b64decode(data), jnp.dtype(dtype)).reshape(shape)
    if kind == "s":
        dtype, shape, below = value
        if below:
            return rng.integers(0, below, shape).astype(dtype)
        return np.asarray(rng.normal(size=shape)).astype(jnp.dtype(dtype))
    return value


def corpus(file: Any) -> list[str]:
    """The tokens in a file: one a line, # begins a remark. Raises TokenError if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"got {str(file)!r}; expected a token or a file of them. ({error})") from error
    return [word for line in lines if (word := line.partition("#")[0].strip())]
