"""What the fuzzer calls, and what comes of it: ordinary calls with one thing wrong."""

import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

import jbp
from jbp import credit
from jbp.catalogue import ESTIMATORS, LAYERS, LOSSES
from jbp.credit import angle, feedback_alignment
from jbp.errors import LayerError, TreeError
from jbp.layers.recurrent.sequence import OverTime
from jbp.private import Poisson, Private
from jbp.readers import deltas, per_example, per_example_gradients
from jbp.sweep import inside as inside_of, value_and_grad
from jbp.train import Diverged, accuracy, fit, inside, start, step
from tests.oracle import draw

CASES = (*LAYERS, *ESTIMATORS, *LOSSES)
RULES = (
    *(credit.sign_symmetry, credit.kolen_pollack, credit.weight_mirror, credit.DirectFeedbackAlignment),
    *(credit.TargetPropagation, credit.PredictiveCoding, credit.EquilibriumPropagation),
    *(credit.LocalLosses, credit.ForwardForward, credit.EvolutionStrategy),
)
OUTCOMES = "typed", "fine", "noted", "bare", "raw", "silent"
BAD = "bare", "raw", "silent"
TYPES: dict[type, list[Any]] = defaultdict(list)
for listed in CASES:
    TYPES[type(listed.layer)].append(listed)
TYPED = LayerError, TreeError, Diverged
SENSELESS = (
    complex(0, 1),
    float("nan"),
    object(),
    b"bytes",
    {1: 2},
    {3},
    np.array(["a"]),
    np.array([1.5, np.nan]),
    np.float32("nan"),
    jax.ShapeDtypeStruct((), "f4"),
    jbp.layers.Dense,
    len,
    ...,
    "no such word",
    (float("nan"), 2),
    ((1, 2), (3,), "x"),
    range(3),
    [],
)
ODD = (
    -1, 0, 1, 2.5, -0.5, 1e30, 1e-300, float("inf"), True, False, "3", "", None, (), (1, 2, 3, 4, 5, 6, 7), [2, 2],
    2**31, 10**12, -(2**40), 10**400, np.int64(2), np.float64(0.5), np.bool_(True), np.array(2), np.array([2, 2]),
    jnp.float32(0.5), jnp.int32(1), "float32", "int32", jnp.bfloat16, np.float64, float,
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """What is done, in words; `act` does it; whether no answer can be right."""

    words: str
    act: Callable[[], Any]
    senseless: bool
    filled: bool = False  # whether no array of the answer can be empty


def both_passes(layer: Any, params: Any, x: Any) -> Any:
    """Forward and backward with a cotangent of ones."""
    y, residuals = layer.forward(params, x)
    dy = jax.tree.map(lambda v: jnp.ones(v.shape, v.dtype) if jnp.issubdtype(v.dtype, jnp.floating) else None, y)
    return y, layer.pull(params, residuals, dy)


def pick(rng: np.random.Generator, values: Any) -> Any:
    return list(values)[rng.integers(len(values))]


def short(value: Any) -> str:
    if hasattr(value, "shape") and not isinstance(value, type):
        return f"{type(value).__name__} {value.dtype}{list(value.shape)}"
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


LEFT_OUT = jbp.layers.Attention, jbp.layers.MultiHeadAttention  # None there is as if left out
BESIDE = "['lengths']", "['state']", "[1]"  # and here, of what goes by steps
CHILDREN = "ties", "layers", "layer", "cell", "expert", "loss", "net"


def numeric(old: Any) -> bool:
    return isinstance(old, int | float) and not isinstance(old, bool)


def nonsense(old: Any, new: Any) -> bool:
    """Whether `new` is nothing like `old`, so that no layer can mean it."""
    if isinstance(new, bool | np.bool_):
        return numeric(old)
    if isinstance(new, str):
        return numeric(old) or isinstance(old, bool | tuple)
    return isinstance(old, bool) and not (isinstance(new, np.ndarray | jax.Array) and new.dtype == bool)


def settings(case: Any, rng: np.random.Generator) -> Call | None:
    """One field of the layer is something else, or one number in it."""
    layer = case.layer
    names = [f.name for f in fields(layer) if f.init and f.name not in CHILDREN]
    if not names:
        return None
    name = pick(rng, names)
    old = getattr(layer, name)
    never = bool(rng.random() < 0.4)
    new = pick(rng, SENSELESS if never else ODD)
    if isinstance(old, str) and isinstance(new, str):
        never = False  # a word may be any name: of a dict's key, of a parameter
    never = never or nonsense(old, new)
    if isinstance(old, tuple) and old and rng.random() < 0.3:
        i = rng.integers(len(old))
        named = all(isinstance(word, str) for word in (new, *jax.tree.leaves(old[i])))  # a name, or a pair of names
        never = (never or nonsense(old[i], new)) and not named
        new = (*old[:i], new, *old[i + 1 :])
    elif isinstance(new, list) and not new and "tuple" in str({f.name: f.type for f in fields(layer)}[name]):
        never = False  # lists become tuples, and one may be empty
        if old == ():
            return None
    x = draw(pick(rng, case.inputs), rng, jnp.float32)

    def act():
        changed = replace(layer, **{name: new})
        hash(changed)
        return both_passes(changed, changed.init(jax.random.key(0), x), x)

    return Call(f"{type(layer).__name__}({name}={short(new)})", act, never, filled=True)


def members(case: Any, rng: np.random.Generator) -> Call | None:
    """What is no layer, or one that does not fit, inside of a combinator."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    bad = None, 3, "Dense", jbp.layers.Dense, jnp.tanh, (), {}, [layer], object(), lambda x: x, ...
    forms = {
        "Serial": lambda v: jbp.Serial(layer, v),
        "a list": lambda v: jbp.Serial([layer, v]),
        "Parallel": lambda v: jbp.Serial(jbp.layers.FanOut(), jbp.Parallel(layer, v)),
        "Residual": jbp.Residual,
        "Repeat": lambda v: jbp.Repeat(v, 2),
        "Remat": jbp.Remat,
        "Frozen": jbp.Frozen,
        "Tied": lambda v: jbp.Tied(v, (((0,), (1,)),)),
        "TimeDistributed": jbp.TimeDistributed,
        "Passing": jbp.Passing,
        "Sublayer": lambda v: jbp.Sublayer(v, ("x",)),
        "Reversible": lambda v: jbp.Reversible(v, v),
        "LowRankAdapter": lambda v: jbp.LowRankAdapter(v, ("w",), 2),
        "value_and_grad": lambda v: _swept(v, x),
        "a loss": lambda v: value_and_grad(layer, v),
        "as_function": jbp.as_function,
        "Lengths": lambda v: jbp.layers.Lengths(v),
        "Bidirectional": lambda v: jbp.layers.Bidirectional(v),
        "Recurrent": lambda v: jbp.layers.Recurrent(v, 3),
        "Stack": lambda v: jbp.layers.Stack(v, 2),
        "Recursive": lambda v: jbp.layers.Recursive(v),
        "MixtureOfExperts": lambda v: jbp.layers.MixtureOfExperts(v, 2),
        "Penalized": lambda v: jbp.losses.Penalized(v),
        "Weighted": lambda v: jbp.losses.Weighted(v),
        "PerExample": lambda v: jbp.losses.PerExample(v),
        "Sum": lambda v: jbp.losses.Sum(v),
    }
    name = pick(rng, forms)
    new = pick(rng, bad)

    def act():
        net = forms[name](new)
        return both_passes(net, net.init(jax.random.key(0), x), x)

    return Call(f"{short(new)} in {name}", act, True)


def _swept(net, x):
    return value_and_grad(net, jbp.losses.MeanSquaredError())


def networks(case: Any, rng: np.random.Generator) -> Call | None:
    """Layers that may not fit one another, in combinators, called as is or under a transformation of JAX's."""
    other = pick(rng, pick(rng, TYPES.values()))
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    forms = {
        "Serial": lambda: jbp.Serial(layer, other.layer),
        "Residual": lambda: jbp.Residual(layer),
        "Repeat": lambda: jbp.Repeat(layer, 2),
        "Remat": lambda: jbp.Remat(jbp.Serial(layer, other.layer)),
        "Reversible": lambda: jbp.Reversible(layer, other.layer),
        "TimeDistributed": lambda: jbp.TimeDistributed(layer),
        "Passing": lambda: jbp.Passing(layer),
        "Parallel": lambda: jbp.Serial(jbp.layers.FanOut(), jbp.Parallel(layer, other.layer), jbp.layers.Add()),
        "Concatenate": lambda: jbp.Serial(
            jbp.layers.FanOut(), jbp.Parallel(layer, other.layer), jbp.layers.Concatenate()
        ),
        "Tied": lambda: jbp.Tied(jbp.Serial(layer, other.layer), (((0,), (1,)),)),
        "Sublayer": lambda: jbp.Sublayer(layer, ("x",), residual=True),
        "Lengths": lambda: jbp.layers.Lengths(layer),
        "Bidirectional": lambda: jbp.layers.Bidirectional(layer),
        "Recurrent": lambda: jbp.layers.Recurrent(layer, 3),
        "LowRankAdapter": lambda: jbp.LowRankAdapter(layer, ("w",), 2),
        "MixtureOfExperts": lambda: jbp.layers.MixtureOfExperts(layer, 2),
        "feedback alignment": lambda: feedback_alignment(jbp.Serial(layer, other.layer)),
        "a rule of credit": lambda: pick(rng, RULES)(jbp.Serial(layer, other.layer)),
        "evaluation": lambda: jbp.Serial(layer, other.layer).evaluation(),
        "Weighted": lambda: jbp.losses.Weighted(layer),
        "PerExample": lambda: jbp.losses.PerExample(layer),
        "Penalized": lambda: jbp.losses.Penalized(layer, 0.5),
    }
    name, way = pick(rng, forms), pick(rng, ("alone", "alone", "jit", "vmap", "eval_shape"))

    def act():
        net = forms[name]()
        run = lambda x: both_passes(net, net.init(jax.random.key(0), x), x)  # noqa: E731
        if way == "alone":
            return run(x)
        if way == "vmap":
            return jax.vmap(run)(jax.tree.map(lambda v: jnp.stack([v, v]), x))
        return (jax.jit if way == "jit" else lambda f: lambda x: jax.eval_shape(f, x))(run)(x)

    return Call(f"{layer!r} and {other.layer!r} in {name}, {way}", act, False)


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
            (np.asarray(leaf).tolist(), True),
            (np.asarray(leaf).astype(str), True),
            (np.zeros(leaf.shape, "datetime64[s]"), True),
            (np.zeros(leaf.shape, [("a", "f4")]), True),
            (jnp.full(leaf.shape, jax.random.key(0)), True),
            (float("nan"), True),
            (True, True),
            (jbp.Buffer(leaf), False),
            (leaf.astype(jnp.bfloat16) if not whole else leaf.astype(jnp.int8), False),
            (jnp.swapaxes(leaf, 0, -1) if leaf.ndim > 1 else leaf[:0] if leaf.ndim else leaf, False),
            (leaf[..., :-1] if leaf.ndim else leaf, False),
            (leaf[:-1] if leaf.ndim else leaf, False),
            (leaf[None, None, None, None], False),
            (-leaf - 1 if whole else leaf, False),
        ],
    )


def goes_by(layer: Any, path: Any) -> bool:
    """Whether the layer does not look at this entry of its input: it drops it, or passes it on, whatever it is."""
    entry = getattr(path[0], "key", getattr(path[0], "idx", None)) if path else None
    if isinstance(layer, jbp.layers.Select):
        return entry not in layer.keys
    if isinstance(layer, jbp.Sublayer):
        looked = ["x", *(t if isinstance(t, str) else t[1] for t in (*layer.takes, *layer.optional))]
        return isinstance(entry, str) and entry not in looked
    return False


def inputs(case: Any, rng: np.random.Generator) -> Call | None:
    """One array that goes in is something else."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    leaves, tree = jax.tree.flatten(x)
    i = rng.integers(len(leaves))
    new, senseless = wrong_leaf(leaves[i], rng)
    path = jax.tree.leaves_with_path(x)[i][0]
    left_out = new is None and any(isinstance(inner, LEFT_OUT) for inner in inside_of(layer))
    left_out |= new is None and isinstance(layer, OverTime) and jax.tree_util.keystr(path) in BESIDE
    unread = (new is None or isinstance(new, jax.Array)) and goes_by(layer, path)
    senseless = senseless and not (left_out or unread)
    params = layer.init(jax.random.key(0), x)
    changed = tree.unflatten([*leaves[:i], new, *leaves[i + 1 :]])
    if rng.random() < 0.15:
        changed = pick(rng, [None, (), {}, [], (x,), (x, x), [x], {"x": x}, {"input": x, "other": x}, leaves * 3, "x"])
        new, senseless = changed, changed is None or changed == "x"
    wrapped = rng.random() < 0.5
    net, params = (jbp.Serial(layer), (params,)) if wrapped else (layer, params)
    initial = rng.random() < 0.3 and not isinstance(new, jax.ShapeDtypeStruct)

    def act():
        made = net.init(jax.random.key(0), changed) if initial else params
        return both_passes(net, made, changed)

    return Call(f"{net!r} on {short(new)} as input {i} of {len(leaves)}{', from init on' * initial}", act, senseless)


def parameters(case: Any, rng: np.random.Generator) -> Call | None:
    """The parameters are not this layer's."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    params = layer.init(jax.random.key(0), x)
    flat = jax.tree.leaves_with_path(params)
    if not flat:
        new = pick(
            rng,
            [{"w": jnp.ones(3)}, jnp.ones(3), (jnp.ones(2), jnp.ones(2)), "w", 1.0, object(), jbp.Buffer(jnp.ones(2))],
        )
        return Call(f"{layer!r}, which has no parameters, with {short(new)}", lambda: both_passes(layer, new, x), True)
    i = rng.integers(len(flat))
    leaf = flat[i][1]
    ways = (
        "leaf",
        "leaf",
        "leaf",
        "missing",
        "more",
        "renamed",
        "other container",
        "none at all",
        "gradient",
        "of another",
    )
    way = pick(rng, ways)
    senseless = True
    values = [v for _, v in flat]
    if way == "leaf":
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return None
        new, senseless = wrong_leaf(leaf, rng)
        changed = jax.tree.unflatten(jax.tree.structure(params), [*values[:i], new, *values[i + 1 :]])
        words = f"{short(new)} at {jax.tree_util.keystr(flat[i][0])}"
    elif way == "missing" and isinstance(params, dict):
        name = pick(rng, params)
        changed, words = {k: v for k, v in params.items() if k != name}, f"no {name!r}"
    elif way == "more" and isinstance(params, dict):
        changed, words = params | {"another": jnp.ones(3)}, "one more"
    elif way == "more" and isinstance(params, tuple):
        changed, words = (*params, pick(rng, [jnp.ones(3), (), None, {}])), "one more"
    elif way == "renamed" and isinstance(params, dict):
        name = pick(rng, params)
        changed, words = {(k + "_" if k == name else k): v for k, v in params.items()}, f"{name!r} renamed"
    elif way == "other container":
        changed = pick(
            rng, [[params], (params,), {"params": params}, {"layer": params}, jbp.Buffer(params), values, str(params)]
        )
        words = f"{type(changed).__name__} around them"
        senseless = not isinstance(changed, jbp.Buffer) or isinstance(layer, jbp.Frozen)
    elif way == "gradient":
        changed, words = jbp.buffers(params), "its buffers alone"
        senseless = bool(jax.tree.leaves(jbp.trainable(params)))
    elif way == "of another":
        other = pick(rng, pick(rng, TYPES.values()))
        changed = other.layer.init(jax.random.key(0), draw(other.inputs[0], rng, jnp.float32))
        senseless = jax.tree.map(jnp.shape, changed) != jax.tree.map(jnp.shape, params)
        words = f"those of {other.layer!r}"
    else:
        changed, words = pick(rng, [None, (), {}, 3]), "no parameters"
    within = rng.random() < 0.3
    net, changed = (jbp.Serial(jbp.Remat(layer)), (changed,)) if within else (layer, changed)
    traced = rng.random() < 0.15 and not isinstance(changed, str)

    def act():
        run = partial(both_passes, net, changed)
        return (jax.jit(run) if traced else run)(x)

    return Call(f"{net!r}, parameters with {words}{', under jit' * traced}", act, senseless)


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
    loss, optimizer = jbp.losses.SoftmaxCrossEntropy(), SGD
    x, labels = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), jnp.arange(4) % 2
    batch = x, labels
    state = start(net, optimizer, jax.random.key(0), x)
    anything = pick(
        rng, [None, 3, "text", object(), len, {}, (), jnp.ones(2), np.array([None]), float("nan"), jbp.layers.Dense]
    )
    word = short(anything)

    def trained(net=net, loss=loss, optimizer=optimizer, state=state, batches=(batch,), **more):
        return lambda: fit(net, loss, optimizer, state, batches, **{"console": QUIET} | more)

    def stepped(*batch, state=state, net=net, loss=loss, optimizer=optimizer, times=1, **more):
        def run():
            now = state
            for _ in range(times):
                now, _ = step(net, loss, optimizer, **more)(now, *batch)  # the loss may be NaN, and `finite` says so
            return now

        return run

    def clipped(*batch, net=net, loss=loss, optimizer=optimizer, state=None, max_norm=1.0):
        def run():
            first = inside.start(net, optimizer, jax.random.key(0), x) if state is None else state
            return inside.step(net, loss, optimizer, max_norm)(first, *batch)

        return run

    def failing():
        yield batch
        raise OSError("the disk is gone")

    def bad(**fields):
        return lambda: fit(net, loss, optimizer, replace(state, **fields), [batch], console=QUIET)

    other = start(jbp.layers.Dense(2), optimizer, jax.random.key(0), x)
    ways: dict[str, tuple[Callable[[], Any], bool]] = {
        "a batch without labels": (trained(batches=[(x,)]), True),
        "a batch that is an array": (trained(batches=[x]), True),
        "batches that are one batch": (trained(batches=batch), True),
        "batches that are a dict": (trained(batches={"x": x}), True),
        "a batch that is a dict": (trained(batches=[{"x": x, "y": labels}]), True),
        "a batch that is empty": (trained(batches=[()]), True),
        "a batch with None": (trained(batches=[(x, None)]), True),
        "a batch of words": (trained(batches=[("x", "y")]), True),
        "a batch of objects": (trained(batches=[(np.asarray(x, object), labels)]), True),
        "a batch of one label more": (trained(batches=[(x, labels, labels)]), True),
        "a batch without examples": (trained(batches=[(x[:0], labels[:0])]), False),
        "no batches": (trained(batches=[]), True),
        "an iterator that is used up": (trained(batches=iter([])), True),
        "batches that are " + word: (trained(batches=anything), True),
        "a batch that is " + word: (trained(batches=[anything]), True),
        "fewer labels": (trained(batches=[(x, labels[:2])]), True),
        "labels out of range": (trained(batches=[(x, labels + 7)]), True),
        "labels below zero": (trained(batches=[(x, labels - 7)]), True),
        "labels that are numbers": (trained(batches=[(x, labels.astype(jnp.float32))]), True),
        "labels with one axis more": (trained(batches=[(x, labels[:, None])]), True),
        "x of integers": (trained(batches=[(labels[:, None] * jnp.ones((1, 3), jnp.int32), labels)]), True),
        "x of another dtype": (trained(batches=[(x.astype(jnp.bfloat16), labels)]), False),
        "x of fewer features": (trained(batches=[(x[:, :2], labels)]), True),
        "x with NaN": (trained(batches=[(x * jnp.nan, labels)]), True),
        "another tree in the middle": (trained(batches=[batch, (x, (labels, labels))]), True),
        "data that raises": (lambda: _kept(trained(batches=failing())), False),
        "the state of another network": (trained(state=other), True),
        "a state that is " + word: (trained(state=anything), True),
        "parameters for a state": (trained(state=state.params), True),
        "an optimizer that is " + word: (trained(optimizer=anything), True),
        "a class for the optimizer": (trained(optimizer=optax.sgd), True),
        "the state of another optimizer": (trained(optimizer=optax.adam(0.1)), True),
        "a loss that is " + word: (trained(loss=anything), True),
        "a layer in place of the loss": (trained(loss=jbp.layers.Tanh()), True),
        "a class for the loss": (trained(loss=jbp.losses.SoftmaxCrossEntropy), True),
        "a network that is " + word: (trained(net=anything), True),
        "a class in place of the network": (trained(net=jbp.layers.Dense), True),
        "another network": (trained(net=jbp.Serial(jbp.layers.Dense(3), jbp.layers.Dense(4))), True),
        "a donated state": (lambda: _twice(step(net, loss, optimizer), state, x, labels), True),
        "a donated state in fit": (lambda: (trained()(), trained()()), True),
        "a measure that is no number": (trained(measure=lambda y, t: y), True),
        "a measure that is " + word: (trained(measure=anything), anything is not len),
        "a measure of one argument": (trained(measure=lambda y: 1.0), True),
        "a measure that raises": (trained(measure=lambda y, t: y["a"]), True),
        "a measure called loss": (trained(measure=lambda y, t: None), True),
        "a check that is no dict": (trained(check=lambda params: 1.0), True),
        "a check of arrays": (trained(check=lambda params: {"a": jnp.ones(3)}), True),
        "a check that is " + word: (trained(check=anything), anything is not None),
        "steps that are " + word: (trained(steps=anything), not _is(anything, None, 3)),
        "no steps": (trained(steps=0), True),
        "steps=True": (trained(steps=True), True),
        "steps=2.5": (trained(steps=2.5), True),
        "every=-1": (trained(every=-1), True),
        "every that is " + word: (trained(every=anything), not _is(anything, None, 3)),
        "another batch size": (lambda: trained(batches=[batch, (x[:3], labels[:3])])()[1], False),
        "a step that blows up": (trained(optimizer=HUGE, batches=[batch] * 3), True),
        "a learning rate of NaN": (trained(optimizer=NOT, batches=[batch] * 3), True),
        "parameters of integers": (bad(params=jax.tree.map(lambda p: p.astype(jnp.int32), state.params)), True),
        "parameters that are " + word: (bad(params=anything), True),
        "a half of the parameters": (bad(params=state.params[:1]), True),
        "parameters of NaN": (bad(params=jax.tree.map(lambda p: p * jnp.nan, state.params)), True),
        "an optimizer's state that is " + word: (bad(optimizer=anything), not _is(anything, ())),
        "steps taken that are " + word: (bad(steps=anything), not _is(anything, 3)),
        "a sweep of one number": (lambda: value_and_grad(net, loss)(state.params, jnp.float32(1.0), labels), True),
        "a sweep without target": (lambda: value_and_grad(net, loss)(state.params, x), True),
        "a sweep of " + word: (lambda: value_and_grad(net, loss)(state.params, anything, labels), True),
        "a sweep with the target " + word: (lambda: value_and_grad(net, loss)(state.params, x, anything), True),
        "a sweep with the parameters " + word: (lambda: value_and_grad(net, loss)(anything, x, labels), True),
        "a network that gives pairs": (lambda: value_and_grad(jbp.layers.FanOut(), loss)((), x, labels), True),
        "a loss that is no scalar": (
            lambda: value_and_grad(net, jbp.losses.Each(loss))(state.params, x, labels),
            True,
        ),
        "a network that advances": (
            lambda: value_and_grad(jbp.layers.Dropout(0.5), jbp.losses.MeanSquaredError())(
                jbp.layers.Dropout(0.5).init(jax.random.key(0), x), x, x
            ),
            True,
        ),
        "a step without labels": (stepped(x), True),
        "a step with nothing": (stepped(), True),
        "a step on " + word: (stepped(x, anything), True),
        "a step from the state " + word: (stepped(x, labels, state=anything), True),
        "a step with the measure " + word: (stepped(x, labels, measure=anything), anything is not len),
        "a step with labels out of range": (stepped(x, labels + 9), False),
        "a start at " + word: (lambda: start(net, optimizer, jax.random.key(0), anything), not _arrays(anything)),
        "a start with the key " + word: (lambda: start(net, optimizer, anything, x), True),
        "a start of " + word: (lambda: start(anything, optimizer, jax.random.key(0), x), True),
        "a start with the optimizer " + word: (lambda: start(net, anything, jax.random.key(0), x), True),
        "a clipped step to " + word: (clipped(x, labels, max_norm=anything), not _is(anything, 3)),
        "a clipped step to -1": (clipped(x, labels, max_norm=-1.0), True),
        "a clipped step to True": (clipped(x, labels, max_norm=True), True),
        "a clipped step without labels": (clipped(x), True),
        "a clipped step on " + word: (clipped(x, anything), True),
        "a clipped step from " + word: (clipped(x, labels, state=anything), anything is not None),
        "a clipped step from another state": (clipped(x, labels, state=state), True),
        "a clipped step with the loss " + word: (clipped(x, labels, loss=anything), True),
        "a clipped step with fewer labels": (clipped(x, labels[:2]), True),
        "a clipped step with more labels": (clipped(x, labels, labels), True),
    }
    name = pick(rng, ways)
    act, senseless = ways[name]
    return Call(f"training with {name}", act, senseless)


QUIET = Console(quiet=True)
SGD, HUGE, NOT = optax.sgd(0.1), optax.sgd(1e38), optax.sgd(float("nan"))


def _is(value: Any, *fine: Any) -> bool:
    return any(type(value) is type(a) and value == a for a in fine)


def _twice(run, state, x, labels):
    run(state, x, labels)
    return run(state, x, labels)


def trees(case: Any, rng: np.random.Generator) -> Call | None:
    """Functions of parameters and of sweeps, on what is none."""
    layer, x = case.layer, draw(pick(rng, case.inputs), rng, jnp.float32)
    params = layer.init(jax.random.key(0), x)
    wrong = pick(
        rng, [None, 3, "text", object(), {"w": jnp.ones(2)}, (jnp.ones(2),), np.array([None]), jnp.ones(2), {1, 2}]
    )
    word = short(wrong)
    dense, rows = jbp.layers.Dense(3), jnp.ones((2, 4))
    own = dense.init(jax.random.key(0), rows)
    scores, labels = jnp.ones((4, 3)), jnp.arange(4) % 3
    mean = jbp.losses.MeanSquaredError()

    ways: dict[str, tuple[Callable[[], Any], bool]] = {
        "cast to " + word: (lambda: jbp.cast(own, wrong), True),
        "cast to int": (lambda: jbp.cast(own, "int32"), True),
        "cast to no dtype": (lambda: jbp.cast(own, "float31"), True),
        "cast of " + word: (lambda: jbp.cast(wrong, "float32"), wrong is not None and not _arrays(wrong)),
        "trainable of " + word: (lambda: jbp.trainable(wrong), False),
        "merge with " + word: (lambda: jbp.merge(own, wrong), True),
        "merge of another": (
            lambda: jbp.merge(own, params),
            jax.tree.structure(own) != jax.tree.structure(params),
        ),
        "updates that are " + word: (lambda: jbp.apply_updates(own, wrong), True),
        "updates of another shape": (lambda: jbp.apply_updates(own, jax.tree.map(lambda p: p[..., :1], own)), True),
        "updates of another": (lambda: jbp.apply_updates(own, params), not _same(own, params)),
        "updates of words": (lambda: jbp.apply_updates(own, jax.tree.map(lambda p: "w", own)), True),
        "accuracy of " + word: (lambda: accuracy(wrong, labels), True),
        "accuracy at " + word: (lambda: accuracy(scores, wrong), True),
        "accuracy of fewer": (lambda: accuracy(scores, labels[:2]), True),
        "accuracy weighed by " + word: (lambda: accuracy(scores, labels, wrong), wrong is not None),
        "accuracy without " + word: (lambda: accuracy(scores, labels, ignore=wrong), not _is(wrong, None, 3)),
        "a function of a network that advances": (lambda: jbp.as_function(jbp.layers.Dropout(0.5)), True),
        "deltas of " + word: (lambda: deltas(wrong, mean), True),
        "deltas with the loss " + word: (lambda: deltas(dense, wrong), True),
        "deltas at " + word: (lambda: deltas(dense, mean)(own, rows, wrong), True),
        "deltas without target": (lambda: deltas(dense, mean)(own, rows), True),
        "deltas of pairs": (lambda: deltas(jbp.layers.FanOut(), mean)((), rows, rows), True),
        "examples of " + word: (lambda: per_example(wrong, mean), True),
        "examples with the loss " + word: (lambda: per_example_gradients(dense, wrong), True),
        "examples at " + word: (lambda: per_example(dense, mean)(own, rows, wrong), True),
        "private with the clip " + word: (lambda: Private(wrong, 1.0, 4), not _is(wrong, 3, 0.5)),
        "private in parts of " + word: (lambda: Private(1.0, 1.0, 4, micro=wrong), not _is(wrong, 3)),
        "Poisson's batches of " + word: (
            lambda: Poisson(wrong, 2, 3),
            not (isinstance(wrong, tuple) and _arrays(wrong)),
        ),
        "feedback alignment of " + word: (lambda: feedback_alignment(wrong), True),
        "feedback with own parameters": (lambda: both_passes(feedback_alignment(dense), own, rows), True),
        "the angle to " + word: (lambda: angle(own, wrong), True),
        "the angle to another": (lambda: angle(own, params), not _same(own, params)),
        "a start with a shape": (lambda: layer.init(jax.random.key(0), jax.eval_shape(lambda: x)), False),
        "forward without parameters": (lambda: layer.forward(None, x), bool(jax.tree.leaves(params))),
    }
    name = pick(rng, ways)
    act, never = ways[name]
    return Call(name if "of another" not in name else f"{name}, {layer!r}", act, never)


def _arrays(tree):
    return all(isinstance(v, jax.Array) for v in jax.tree.leaves(tree)) and bool(jax.tree.leaves(tree))


def _same(a, b):
    return jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)


def _kept(act):
    """What `fit` leaves with an error that is the data's own: a state, and a row for the step that was taken."""
    try:
        act()
    except OSError as error:
        return error.state.params if len(error.history) == 1 else jnp.nan


RECIPES = {
    name: (vars(jbp.recipes)[name], given)
    for name, given in {
        "mlp": {"classes": 3, "widths": (4, 2), "dropout": 0.1},
        "logistic_regression": {},
        "single_layer": {"classes": 3},
        "autoencoder": {"features": 4, "widths": (3,), "code": 2},
        "variational_autoencoder": {"features": 4, "widths": (3,), "code": 2},
        "generator": {"size": 4, "width": 2},
        "discriminator": {"width": 2},
        "hopfield": {"units": 3},
        "restricted_boltzmann": {"hidden": 3, "steps": 1, "chains": 0},
        "deep_belief": {"classes": 3, "widths": (4, 2)},
        "recurrent_language_model": {"vocabulary": 5, "cell": jbp.layers.GRU(3), "features": 4},
        "gpt": {"vocabulary": 5, "length": 4, "width": 4, "blocks": 1, "heads": 2},
        "radial_basis": {"outputs": 2, "bumps": 3},
        "q_network": {"actions": 2, "widths": (3,)},
        "policy": {"actions": 2, "widths": (3,)},
        "critic": {"widths": (3,)},
        "spiking": {"classes": 2, "widths": (3,), "leak": 0.9},
        "transformer_encoder_layer": {"width": 4, "heads": 2, "hidden": 4, "dropout": 0.1, "norm_first": True},
        "transformer_encoder": {"width": 4, "heads": 2, "layers": 2, "hidden": 4, "norm": True},
        "transformer_decoder_layer": {"width": 4, "heads": 2, "hidden": 4, "causal": True},
        "transformer": {"width": 4, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0},
        "recursive_tensor": {"vocabulary": 5, "classes": 2, "features": 3, "dropout": 0.3},
        "tree_lstm": {"vocabulary": 5, "classes": 2, "features": 3, "dropout": 0.3},
        "lenet": {"classes": 3, "width": 2, "dropout": 0.3},
        "resnet": {"classes": 3, "width": 2, "stages": 1, "blocks": 1},
        "vision_transformer": {"classes": 3, "patch": 2, "width": 4},
        "reversible_network": {"classes": 3, "width": 4, "blocks": 2},
        "unet": {"channels": 1, "width": 2, "depth": 1},
        "word2vec": {"vocabulary": 5, "features": 3},
        "memory_network": {"symbols": 5, "answers": 3, "features": 4, "hops": 1},
    }.items()
}


def recipes(case: Any, rng: np.random.Generator) -> Call | None:
    """A whole network with one setting wrong, made and not run."""
    name = pick(rng, RECIPES)
    recipe, given = RECIPES[name]
    if not given:
        return None
    what = pick(rng, given)
    wrong = [
        -1,
        0,
        2.5,
        float("nan"),
        True,
        "text",
        None,
        object(),
        len,
        {},
        np.array([1, 2]),
        (),
        (2.5,),
        ("a",),
        (-1,),
    ]
    new = pick(rng, wrong)
    old = given[what]
    never = nonsense(old, new) or type(new) is object or isinstance(new, dict | np.ndarray) or callable(new)
    never = never or (isinstance(new, tuple) and bool(new)) or (numeric(old) and (_is(new, ()) or str(new) == "nan"))
    never = never or (type(old) is int and _is(new, -1, 2.5))

    def act():
        return recipe(**given | {what: new})

    return Call(f"{name}({what}={short(new)})", act, bool(never))


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


KINDS = settings, inputs, parameters, networks, members, cotangents, keys, training, trees, recipes
SHARES = 0.3, 0.24, 0.14, 0.07, 0.04, 0.05, 0.02, 0.08, 0.04, 0.02


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
        if any(note.startswith(("in the layer ", "in the measure ")) for note in getattr(error, "__notes__", [])):
            return "noted", text
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((f for f in reversed(frames) if "/jbp/" in f.filename), frames[-1])
        text += f" (at {ours.filename.rpartition('/jbp/')[2]}:{ours.lineno})"
        return ("raw" if "site-packages" in frames[-1].filename else "bare"), text
    leaves = [v for v in jax.tree.leaves(answer) if not isinstance(v, jax.ShapeDtypeStruct)]
    arrays = [v for v in leaves if hasattr(v, "dtype") and jnp.issubdtype(v.dtype, jnp.floating)]
    if call.senseless:
        return "silent", "accepted"
    fine = lambda v: np.isfinite(np.asarray(v, np.float64)) | (np.asarray(v) == np.inf)  # noqa: E731
    impossible = "CTC(" in call.words and all(fine(v).all() for v in arrays)  # a row without an alignment
    if not impossible and not all(np.isfinite(np.asarray(v, np.float64)).all() for v in arrays):
        return "silent", "an answer with NaN or Inf"
    if call.filled and not all(v.size for v in arrays):
        return "silent", "an empty answer"
    return "fine", ""


def cheap(kept: str) -> None:
    """Programs that run once are compiled without care, and kept in a folder for the other processes."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", kept)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def part(count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """(kind, words, outcome, text) of each of `count` calls."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        make = KINDS[rng.choice(len(KINDS), p=SHARES)]
        call = make(pick(rng, pick(rng, TYPES.values())), rng)
        if call is not None:
            found.append((make.__name__, call.words, *outcome(call)))
        if len(found) % 200 == 199:
            jax.clear_caches()
    return found
