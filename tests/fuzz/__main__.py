"""Malformed calls by the thousand, over the whole catalogue: `python -m tests.fuzz --count 5000 --seed 1`.

A call is an ordinary one with one thing wrong: a setting, an input, a parameter, a key, a cotangent, a batch. What
comes of it is counted:

    typed     a LayerError, TreeError or Diverged: it says what came, what was expected and what to do
    fine      nothing was wrong after all, or it was turned into what was meant: an answer of finite numbers
    noted     an error of Python's or JAX's, with the layer's path in a note
    bare      an error of Python's that names no layer
    raw       an error from inside of JAX or NumPy that names no layer
    silent    no error, where what was given makes no sense, or the answer is NaN, Inf or empty

Exit code 1 if any call is silent, raw or bare, or fewer than 95 % are typed or fine.
"""

import argparse
import json
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jbp
from jbp.catalogue import ESTIMATORS, LAYERS, LOSSES
from jbp.errors import LayerError, TreeError
from jbp.sweep import value_and_grad
from jbp.train import Diverged, fit, start, step
from tests.oracle import draw

CASES = (*LAYERS, *ESTIMATORS, *LOSSES)
OUTCOMES = "typed", "fine", "noted", "bare", "raw", "silent"
BAD = "bare", "raw", "silent"
TYPED = LayerError, TreeError, Diverged
SENSELESS = (
    complex(0, 1),
    float("nan"),
    object(),
    b"bytes",
    {1: 2},
    {3},
    np.array(["a"]),
    jax.ShapeDtypeStruct((), "f4"),
)


@dataclass(frozen=True)
class Call:
    """What is done, in words; `act` does it; whether no answer can be right."""

    words: str
    act: Callable[[], Any]
    senseless: bool
    filled: bool = False  # whether no array of the answer can be empty


def both_ways(layer: Any, params: Any, x: Any) -> Any:
    """Forward and backward with a cotangent of ones."""
    y, residuals = layer.forward(params, x)
    dy = jax.tree.map(lambda v: jnp.ones(v.shape, v.dtype) if jnp.issubdtype(v.dtype, jnp.floating) else None, y)
    return y, layer.pull(params, residuals, dy)


def pick(rng: np.random.Generator, values: Any) -> Any:
    return list(values)[rng.integers(len(values))]


def short(value: Any) -> str:
    text = f"{type(value).__name__} {getattr(value, 'dtype', '')}{list(getattr(value, 'shape', []))}"
    text = text if hasattr(value, "shape") else repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def settings(case: Any, rng: np.random.Generator) -> Call | None:
    """One field of the layer is something else."""
    layer = case.layer
    open_to_all = "keys", "ties", "layers", "layer", "cell", "expert", "loss", "state"
    names = [f.name for f in fields(layer) if f.init and f.name not in open_to_all]
    if not names:
        return None
    name = pick(rng, names)
    old = getattr(layer, name)
    numbers = [
        -1,
        0,
        2.5,
        -0.5,
        1e30,
        float("inf"),
        True,
        "3",
        None,
        (),
        (1, 2, 3, 4, 5, 6, 7),
        np.int64(2),
        jnp.float32(0.5),
    ]
    senseless = bool(rng.random() < 0.4)
    new = pick(rng, SENSELESS) if senseless else pick(rng, numbers)
    if isinstance(old, bool) and isinstance(new, bool):
        return None
    x = draw(case.inputs[0], rng, jnp.float32)

    def act():
        changed = replace(layer, **{name: new})
        return both_ways(changed, changed.init(jax.random.key(0), x), x)

    return Call(f"{type(layer).__name__}({name}={short(new)})", act, senseless, filled=True)


def wrong_leaf(leaf: Any, rng: np.random.Generator) -> tuple[Any, bool]:
    """Something in place of an array, and whether it makes no sense."""
    whole = jnp.issubdtype(leaf.dtype, jnp.integer)
    return pick(
        rng,
        [
            (None, True),
            ("text", True),
            (object(), True),
            (np.full(leaf.shape, None, object), True),
            (jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), True),
            (leaf.astype(jnp.complex64), True),
            (leaf.astype(jnp.bool_), False),
            (leaf.astype(jnp.float32) if whole else leaf.astype(jnp.int32), False),
            (leaf.astype(jnp.float16) if not whole else leaf.astype(jnp.uint8), False),
            (leaf[None], False),
            (leaf[..., None], False),
            (leaf.reshape(-1), False),
            (jnp.zeros((), leaf.dtype), False),
            (jnp.zeros((0, *leaf.shape[1:]), leaf.dtype) if leaf.ndim else leaf, False),
            (jnp.concatenate([leaf, leaf], -1) if leaf.ndim else leaf, False),
            ((leaf, leaf), False),
            ([leaf], False),
            ({"x": leaf}, False),
            (leaf + 1000 if whole else leaf, False),
            (leaf - 1000 if whole else leaf, False),
            (np.asarray(leaf, np.float64 if not whole else np.int64), False),
        ],
    )


def inputs(case: Any, rng: np.random.Generator) -> Call | None:
    """One array that goes in is something else."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    leaves, tree = jax.tree.flatten(x)
    i = rng.integers(len(leaves))
    new, senseless = wrong_leaf(leaves[i], rng)
    params = layer.init(jax.random.key(0), x)
    changed = tree.unflatten([*leaves[:i], new, *leaves[i + 1 :]])
    wrapped = rng.random() < 0.5
    net, params = (jbp.Serial(layer), (params,)) if wrapped else (layer, params)
    initial = rng.random() < 0.3 and not isinstance(new, jax.ShapeDtypeStruct)

    def act():
        made = net.init(jax.random.key(0), changed) if initial else params
        return both_ways(net, made, changed)

    return Call(f"{net!r} on {short(new)} as input {i} of {len(leaves)}{', from init on' * initial}", act, senseless)


def parameters(case: Any, rng: np.random.Generator) -> Call | None:
    """The parameters are not this layer's."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    params = layer.init(jax.random.key(0), x)
    flat = jax.tree.leaves_with_path(params)
    if not flat:
        return None
    i = rng.integers(len(flat))
    leaf = flat[i][1]
    ways = ["leaf", "missing", "more", "other container", "none at all"]
    way = pick(rng, ways)
    senseless = True
    if way == "leaf":
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return None
        new, senseless = wrong_leaf(leaf, rng)
        values = [v for _, v in flat]
        changed = jax.tree.unflatten(jax.tree.structure(params), [*values[:i], new, *values[i + 1 :]])
        words = f"{short(new)} at {jax.tree_util.keystr(flat[i][0])}"
    elif way == "missing" and isinstance(params, dict):
        name = pick(rng, params)
        changed, words = {k: v for k, v in params.items() if k != name}, f"no {name!r}"
    elif way == "more" and isinstance(params, dict):
        changed, words = params | {"another": jnp.ones(3)}, "one more"
    elif way == "other container":
        changed, words = [params], "a list around them"
    else:
        changed, words = pick(rng, [None, (), {}, 3]), "no parameters"

    return Call(f"{layer!r}, parameters with {words}", lambda: both_ways(layer, changed, x), senseless)


def keys(case: Any, rng: np.random.Generator) -> Call | None:
    """What is no key, given to init."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    drawn = jax.tree.leaves(layer.init(jax.random.key(0), x))
    new = pick(rng, [None, 3, 2.5, "key", jnp.ones(3), object()])
    return Call(
        f"{layer!r}.init({short(new)}, x)", lambda: layer.init(new, x), senseless=bool(drawn) and _random(layer, x)
    )


def _random(layer, x):
    one, other = (layer.init(jax.random.key(k), x) for k in (0, 1))
    raw = [
        jax.tree.map(lambda v: jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v, t)
        for t in (one, other)
    ]
    return any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, raw), strict=True))


def training(case: Any, rng: np.random.Generator) -> Call | None:
    """A step, a sweep or a fit of a small network, with one thing wrong."""
    net = jbp.Serial(jbp.layers.Dense(3), jbp.layers.Tanh(), jbp.layers.Dense(2))
    loss, optimizer = jbp.losses.SoftmaxCrossEntropy(), optax.sgd(0.1)
    x, labels = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), jnp.arange(4) % 2
    state = start(net, optimizer, jax.random.key(0), x)
    ways: dict[str, tuple[Callable[[], Any], bool]] = {
        "a batch without labels": (lambda: fit(net, loss, optimizer, state, [(x,)]), True),
        "a batch that is an array": (lambda: fit(net, loss, optimizer, state, [x]), True),
        "no batches": (lambda: fit(net, loss, optimizer, state, []), True),
        "batches that are None": (lambda: fit(net, loss, optimizer, state, None), True),  # pyright: ignore[reportArgumentType]
        "fewer labels": (lambda: fit(net, loss, optimizer, state, [(x, labels[:2])]), True),
        "labels out of range": (lambda: fit(net, loss, optimizer, state, [(x, labels + 7)]), True),
        "labels that are numbers": (lambda: fit(net, loss, optimizer, state, [(x, labels.astype(jnp.float32))]), True),
        "x with NaN": (lambda: fit(net, loss, optimizer, state, [(x * jnp.nan, labels)]), True),
        "the state of another network": (
            lambda: fit(
                net, loss, optimizer, start(jbp.layers.Dense(2), optimizer, jax.random.key(0), x), [(x, labels)]
            ),
            True,
        ),
        "no state": (lambda: fit(net, loss, optimizer, None, [(x, labels)]), True),  # pyright: ignore[reportArgumentType]
        "no optimizer": (lambda: fit(net, loss, None, state, [(x, labels)]), True),  # pyright: ignore[reportArgumentType]
        "no loss": (lambda: fit(net, None, optimizer, state, [(x, labels)]), True),  # pyright: ignore[reportArgumentType]
        "a layer in place of the loss": (lambda: fit(net, jbp.layers.Tanh(), optimizer, state, [(x, labels)]), True),
        "a class in place of the network": (lambda: fit(jbp.layers.Dense, loss, optimizer, state, [(x, labels)]), True),  # pyright: ignore[reportArgumentType]
        "a donated state": (lambda: _twice(step(net, loss, optimizer), state, x, labels), True),
        "a measure that is no number": (
            lambda: fit(net, loss, optimizer, state, [(x, labels)], measure=lambda y, t: y),
            True,
        ),
        "a check that is no dict": (
            lambda: fit(net, loss, optimizer, state, [(x, labels)], check=lambda params: 1.0),  # pyright: ignore[reportArgumentType]
            True,
        ),
        "another batch size": (lambda: fit(net, loss, optimizer, state, [(x, labels), (x[:3], labels[:3])])[1], False),
        "a step that blows up": (lambda: fit(net, loss, optax.sgd(1e38), state, [(x, labels)] * 3), True),
        "a sweep of one number": (lambda: value_and_grad(net, loss)(state.params, jnp.float32(1.0), labels), True),
        "a network that gives pairs": (
            lambda: value_and_grad(jbp.layers.FanOut(), loss)((), x, labels),
            True,
        ),
    }
    name = pick(rng, ways)
    act, senseless = ways[name]
    return Call(f"training with {name}", act, senseless)


def _twice(run, state, x, labels):
    run(state, x, labels)
    return run(state, x, labels)


@dataclass(frozen=True)
class Sends(jbp.layer.Layer):
    """A loss whose backward pass returns what it is told to."""

    error: Any

    def forward(self, params, x, /):
        return jnp.float32(0), ()

    def backward(self, params, residuals, dy, /):
        return (self.error,), ()


def cotangents(case: Any, rng: np.random.Generator) -> Call | None:
    """A cotangent that is not like the output, from a loss whose backward pass is wrong, or around a layer that keeps
    shapes: where y is known. A layer that is pulled alone has the residuals only, often no y, and can but refuse what
    is no floating array."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    params = layer.init(jax.random.key(0), x)
    y = jax.eval_shape(lambda p: layer.forward(p, x)[0], params)
    if not hasattr(y, "shape") or not jnp.issubdtype(y.dtype, jnp.floating):
        return None
    dy = jnp.ones(y.shape, y.dtype)
    wrong = [None, dy[None], jnp.ones((*y.shape, 2)), dy.astype(jnp.float16), dy.astype(jnp.int32), (dy, dy), "dy"]
    new = pick(rng, [*wrong, jnp.ones((), y.dtype)] if y.shape else wrong)
    alone = not hasattr(new, "dtype") or not jnp.issubdtype(new.dtype, jnp.floating)
    ways = ["loss", *["pull"] * alone]
    if hasattr(x, "shape") and x.shape == y.shape and (alone or new.shape == ()):
        ways.append("Residual")  # it compares dy with dx: what is larger than both it cannot know
    way = pick(rng, ways)

    def act():
        if way == "loss":
            return value_and_grad(layer, Sends(new), has_aux=True)(params, x)
        net = jbp.Residual(layer) if way == "Residual" else layer
        _, residuals = net.forward(params, x)
        return net.pull(params, residuals, new)

    return Call(f"{layer!r}, in {way}, with dy {short(new)} for y {short(y)}", act, True)


KINDS = settings, inputs, parameters, keys, training, cotangents
SHARES = 0.4, 0.28, 0.16, 0.04, 0.06, 0.06


def outcome(call: Call) -> tuple[str, str]:
    """(what came of it, the error or the answer in short)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = call.act()
    except TYPED as error:
        return "typed", str(error)
    except Exception as error:  # noqa: BLE001, whatever it is is counted
        text = f"{type(error).__name__}: {error}"
        if any(note.startswith("in the layer ") for note in getattr(error, "__notes__", [])):
            return "noted", text
        file = traceback.extract_tb(error.__traceback__)[-1].filename
        return ("raw" if "site-packages" in file else "bare"), text
    arrays = [v for v in jax.tree.leaves(answer) if hasattr(v, "dtype") and jnp.issubdtype(v.dtype, jnp.floating)]
    if call.senseless:
        return "silent", "accepted"
    if not all(np.isfinite(np.asarray(v, np.float64)).all() for v in arrays):
        return "silent", "an answer with NaN or Inf"
    if call.filled and not all(v.size for v in arrays):
        return "silent", "an empty answer"
    return "fine", ""


def part(count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """(kind, words, outcome, text) of each of `count` calls."""
    rng, found = np.random.default_rng(seed), []
    types = defaultdict(list)
    for case in CASES:
        types[type(case.layer)].append(case)
    while len(found) < count:
        make = KINDS[rng.choice(len(KINDS), p=SHARES)]
        call = make(pick(rng, pick(rng, types.values())), rng)
        if call is not None:
            found.append((make.__name__, call.words, *outcome(call)))
        if len(found) % 200 == 199:
            jax.clear_caches()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="malformed calls, and what comes of them")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="every call with what came of it")
    parser.add_argument("--show", type=int, default=10, help="how many of each bad outcome to print (default 10)")
    options = parser.parse_args()
    begun, size = time.perf_counter(), 250
    sizes = [min(size, options.count - at) for at in range(0, options.count, size)]
    seeds = [options.seed * 1_000_003 + k for k in range(len(sizes))]
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as executor:
            found = [row for rows in executor.map(part, sizes, seeds) for row in rows]
    else:
        found = [row for rows in map(part, sizes, seeds) for row in rows]
    counts = {kind.__name__: Counter(row[2] for row in found if row[0] == kind.__name__) for kind in KINDS}
    total = sum(counts.values(), Counter())
    print(f"{'':12}" + "".join(f"{name:>8}" for name in OUTCOMES))
    for name, row in [*counts.items(), ("all", total)]:
        print(f"{name:12}" + "".join(f"{row[o]:8}" for o in OUTCOMES))
    for bad in (*BAD, "noted"):
        rows = [row for row in found if row[2] == bad]
        for kind, words, _, text in rows[: options.show]:
            print(f"{bad:7} {kind}: {words}\n        {text.splitlines()[0][:200] if text else ''}")
    good = (total["typed"] + total["fine"]) / max(len(found), 1)
    print(f"{len(found)} calls, {good:.1%} typed or fine, {time.perf_counter() - begun:.0f} s, seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=0))
    return int(good < 0.95 or any(total[bad] for bad in BAD))


if __name__ == "__main__":
    sys.exit(main())
