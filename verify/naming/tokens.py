"""One word that holds an audit: the subject's name, its arguments, the seed. A fresh process can run it again.

A token is data: names, numbers and layers as text, which `parse` reads and nobody runs, of sizes that are looked at
before anything is made. A function is imported only from modules that whoever replays the token has named.
"""

import base64
import json
import math
import shlex
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify.naming import named
from verify.naming.catalogues import catalogue, catalogues
from verify.naming.parse import ParseError, parse, table
from verify.subject.contract import NAMED, Constraint, Contract
from verify.subject.integers import INTEGERS
from verify.subject.subject import Pair

LONGEST = 4_000_000  # characters of what a token holds
LARGEST = 2**24  # elements of all arrays together that a token may ask for
MOST = 512  # elements whose values are held; of larger examples only shapes are, and the values are drawn anew


class TokenError(ValueError):
    """A word that holds nothing that can be replayed."""


def pack(held: Any) -> str:
    text = json.dumps(held, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")


def unpack(word: str) -> Any:
    """What `pack` was given. Raises TokenError for a word that holds nothing, or too much."""
    try:
        packed = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        opened = zlib.decompressobj()
        text = opened.decompress(packed, LONGEST)
        if not opened.eof:
            raise ValueError(f"it is cut short, or holds more than {LONGEST} characters")
        return json.loads(text)
    except (ValueError, RecursionError, zlib.error) as error:
        shown = word if len(word) < 80 else f"{word[:80]} ..."
        raise TokenError(f"got {shown!r}; expected a token that a failing audit printed. ({error})") from error


class _Lost(Exception):  # noqa: N818 - a signal inside of this module
    """Something that has no name and no program."""


def token(f: Any, args: tuple, reference: Any, seed: int, level: str, contract: Contract | None = None) -> str:
    """The token of `verify.check(f, *args, ...)`, "" where the subject cannot be found by name."""
    try:
        held = [_named(f), _named(reference), [_told(a) for a in args], seed, level]
    except _Lost:
        return ""
    return pack(["check", *held, *([repr(contract)] if contract else [])])


def is_check(held: Any) -> bool:
    return isinstance(held, list) and len(held) in (6, 7) and held[0] == "check"


def call(held: Any, allowed: Sequence[str] = ()) -> tuple[Any, list[Any], dict[str, Any]]:
    """(f, example arguments, options): the call of `verify.check` that a token holds. Subjects are imported from the
    `allowed` modules, and those in them.

    Raises TokenError, or CommandError where the subject is gone.
    """
    try:
        _, f, reference, args, seed, level, *more = held
        contract = contracted(more[0]) if more else None
        rng = np.random.default_rng(seed)
        if sum(map(_size, args)) > LARGEST:
            raise TokenError(f"got arrays of more than {LARGEST} elements; expected an example.")
        made = [_meant(a, rng) for a in args]
        functions = _found(f, allowed), _found(reference, allowed)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, TokenError | named.CommandError):
            raise
        raise TokenError(f"got a token that holds no audit, or one of another version. ({error!r})") from error
    if hasattr(functions[0], "init"):
        modest(functions[0], made[-1] if made else None)
    return functions[0], made, {"reference": functions[1], "seed": seed, "level": level, "contract": contract}


def contracted(text: str) -> Contract:
    """The contract that a text writes down: Contract({'scale': positive}, ranks=False)."""
    contract = parse(text, {"Contract": Contract, "Constraint": Constraint, **NAMED, **INTEGERS})
    if not isinstance(contract, Contract):
        raise ParseError(f"got {text[:80]!r}; expected a contract, Contract({{'scale': positive}}) say.")
    return contract


def modest(layer: Any, x: Any) -> None:
    """TokenError unless all arrays of a layer at x, found without making any of them, are of a size to be audited."""

    def run(key, x):
        params = layer.init(key, jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), x))
        return params, layer.forward(params, x)

    try:
        made = jax.tree.leaves(jax.eval_shape(run, jax.random.key(0), x))
    except Exception as error:
        raise TokenError(
            f"got {layer!r} with other inputs than it takes; expected an audit. ({type(error).__name__}: {error})"
        ) from error
    if sum(math.prod(v.shape) for v in made if hasattr(v, "shape")) > LARGEST:
        raise TokenError(f"got {layer!r} with more than {LARGEST} elements; expected one of a size to be audited.")


def modules(word: str) -> list[str]:
    """The modules out of which a token names functions."""
    held = unpack(word)

    def of(name: Any) -> list[str]:
        if isinstance(name, dict):
            return [module for part in name.get("pair", ()) for module in of(part)]
        return [name.rpartition(":")[0]] if isinstance(name, str) else []

    return list(dict.fromkeys([*of(held[1]), *of(held[2])])) if is_check(held) else []


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
            if known != "__main__" and _same(named.function(f"{module}:{name}"), f):
                return f"{known}:{name}"
        except named.CommandError:
            pass
    for point in catalogues():
        try:
            if parse(repr(f), table(catalogue(point).names)) == f:
                return {"catalogue": point, "layer": repr(f)}
        except Exception:  # noqa: BLE001 - a repr that is no program may raise anything
            continue
    raise _Lost


def _same(found: Any, f: Any) -> bool:
    return found is f or getattr(found, "__wrapped__", None) is f


def _found(name: Any, allowed: Sequence[str]) -> Any:
    if isinstance(name, dict) and "pair" in name:
        fwd, bwd = name["pair"]
        return Pair(_found(fwd, allowed), _found(bwd, allowed))
    if isinstance(name, dict):
        return parse(name["layer"], table(catalogue(name["catalogue"]).names))
    if name is None:
        return None
    module = name.rpartition(":")[0]
    if not any(module == one or module.startswith(f"{one}.") for one in allowed):
        raise TokenError(
            f"got a token that names {name!r}; expected a function of a module that you have named, for it is imported "
            f"and run. If you trust it, add --allow {shlex.quote(module)}."
        )
    return named.function(name)


def _size(told: Any) -> int:
    """How many elements an argument has, before it is made."""
    ((kind, value),) = told.items()
    if kind == "d":
        return sum(map(_size, value.values()))
    if kind in ("t", "l"):
        return sum(map(_size, value))
    if kind in ("a", "s"):
        shape = value[1]
        if not all(type(n) is int and n >= 0 for n in shape):
            raise TokenError(f"got an array of shape {shape}; expected sizes.")
        return math.prod(shape)
    return 1


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
