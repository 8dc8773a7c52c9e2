"""What else is asked of one network in so many: the same numbers by other ways through a library.

A question is a function (layer, params, x, dy) -> (got, wanted), two trees that must agree, or None where the layer
does not allow it. Those here are asked of every catalogue; one that has more offers them as `further`, by name. The
network runs as it is, compiled as one program, which costs as much as hundreds of networks of compiled layers: so each
question is asked of few, drawn by the network's seed.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify import thresholds as th
from verify.architectures.compiled import zeros_for_none
from verify.architectures.judge import (
    Difference,
    Outcome,
    audit,
    beyond_last_places,
    compare,
    gradients,
    output_error,
    raise_noise,
    rounded,
    truth,
)
from verify.architectures.networks import Network, values
from verify.architectures.protocol import is_float, join, split
from verify.run.options import has_keys, quick_options

EVERY = 250  # one network in so many is asked one question
DRAWS = 4

Question = Callable[[Any, Any, Any, Any], tuple[Any, Any] | None]


def apart(layer: Any, params: Any, x: Any, dy: Any) -> tuple[Any, Any]:
    """`backward` and then `gradient`, against `pull`."""
    _, residuals = layer.forward(params, x)
    dx, delta = layer.backward(params, residuals, dy)
    return (dx, layer.gradient(residuals, delta)), layer.pull(params, residuals, dy)


def as_one_program(layer: Any, params: Any, x: Any, dy: Any) -> tuple[Any, Any]:
    """The sweep of the network under one jit, against `jax.vjp` of its definition."""
    y = jax.eval_shape(lambda: layer.forward(params, x)[0])
    return gradients(layer, params, x, dy), truth(layer, params, x, zeros_for_none(dy, y))


def under_vmap(layer: Any, params: Any, x: Any, dy: Any) -> tuple[Any, Any]:
    """Two inputs by vmap, against one after the other."""

    def pair(tree):
        return jax.tree.map(lambda v: jnp.stack([v, v[::-1] if v.ndim else v]), tree)

    sweep = partial(gradients, layer, params)
    xs, dys = pair(x), pair(dy)
    each = [sweep(*jax.tree.map(lambda v, i=i: v[i], (xs, dys))) for i in range(2)]
    return jax.vmap(sweep)(xs, dys), jax.tree.map(lambda *v: jnp.stack(v), *each)


def moved_on(layer: Any, params: Any, x: Any, dy: Any) -> tuple[Any, Any]:
    """What is trained, after `advance` and before: buffers alone move."""
    _, residuals = layer.forward(params, x)
    return split(layer.advance(params, residuals))[0], split(params)[0]


def as_a_function(function: Callable[[Any], Any], layer: Any, params: Any, x: Any, dy: Any) -> tuple[Any, Any]:
    """`jax.vjp` of function(layer), (params, x) -> (y, advanced), against the sweep."""
    moves, rest = split((params, x))
    y, pullback, _ = jax.vjp(lambda moves: function(layer)(*join(moves, rest)), moves, has_aux=True)
    dparams, dx = pullback(zeros_for_none(dy, y))[0]
    return (dx, dparams), gradients(layer, params, x, dy)


def product_with(matrix: str, product: Callable[..., Any], layer: Any, params: Any, x: Any, dy: Any) -> Any:
    """What a MATRICES of the mean squared error makes of a direction of what is trained, against its definition. Not
    allowed for an output that is not one array of floats, and where nothing is trained."""
    trained, rest = split(params)
    y = jax.eval_shape(lambda: layer.reference(params, x))
    if not hasattr(dy, "shape") or jax.tree.structure(y) != jax.tree.structure(dy) or not jax.tree.leaves(trained):
        return None
    v = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), trained)
    wanted = MATRICES[matrix](lambda trained: layer.reference(join(trained, rest), x), trained, dy, v)
    got = product(layer, params, x, dy, v)
    return None if got is None else (jax.tree.leaves(got), jax.tree.leaves(wanted))


def _hessian(forward, trained, target, v):
    """H v: `jax.jvp` of `jax.grad`."""
    slope = jax.grad(lambda trained: jnp.mean(jnp.square(forward(trained) - target)))
    return jax.jvp(slope, (trained,), (v,))[1]


def _gauss_newton(forward, trained, target, v):
    """2/n Jᵀ J v, for n numbers of output: `jax.vjp` of `jax.jvp`."""
    y, pull = jax.vjp(forward, trained)
    return pull(2 / max(y.size, 1) * jax.jvp(forward, (trained,), (v,))[1])[0]


MATRICES = {"Hessian": _hessian, "Gauss-Newton": _gauss_newton}


def questions(source: Any) -> Mapping[str, Question]:
    """All that is asked of a catalogue's networks, by name."""
    found: dict[str, Question] = {
        "backward and gradient apart": apart,
        "as one program": as_one_program,
        "under vmap": under_vmap,
        "advance moves buffers alone": moved_on,
    }
    if function := getattr(source, "function", None):
        found["as a function under jax.vjp"] = partial(as_a_function, function)
    for name, product in getattr(source, "curvature", {}).items():
        found[f"products with the {name} matrix"] = partial(product_with, name, product)
    return found | dict(getattr(source, "further", {}))


def question(source: Any, network: Network, every: int = EVERY) -> str | None:
    """Which question is asked of a network, if any: always the same one."""
    names = list(questions(source))
    return None if network.seed % every else names[(network.seed // EVERY + network.seed) % len(names)]


def audit_and_ask(source: Any, network: Network, every: int = EVERY) -> tuple[Outcome, str]:
    """What came of a network's gradient and, where that agrees, of the question that it is asked, if any; and which.

    A network whose gradient is lost in rounding, or is not finite, is asked nothing more.
    """
    outcome, name = audit(network), question(source, network, every)
    if outcome.disagrees or outcome.remark or name is None:
        return outcome, ""
    with jax.enable_x64(True):
        params, x, rng = values(network)
        try:
            answer = asked(network.layer, name, questions(source)[name], params, x, rng)
        except Exception as error:  # noqa: BLE001  # the gradient was right: whatever is raised now is an answer
            said = f"{name}: {type(error).__name__}: {error}".splitlines()[0]
            answer = Outcome((Difference(said, np.inf, 0.0),))
    return (outcome, f"{name}: not allowed") if answer is None else (answer, name)


def asked(layer: Any, name: str, ask: Question, params: Any, x: Any, rng: np.random.Generator) -> Outcome | None:
    """What came of one question, None if the layer does not allow it.

    A difference no larger than what rounding the inputs does to either side is rounding, as in `judge`.
    """
    dy = output_error(jax.eval_shape(lambda params, x: layer.forward(params, x)[0], params, x), rng)
    run = jax.jit(partial(ask, layer), compiler_options=quick_options(has_keys(params)))
    pair = run(params, x, dy)
    if pair is None:
        return None
    got, wanted = pair
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted) if is_float(leaf)):
        return Outcome((), "not finite")
    wrong = compare(got, wanted, partial(_name, name))
    if not wrong or not all(d.error < np.inf for d in wrong):
        return Outcome(tuple(wrong))
    if not (wrong := beyond_last_places(wrong, wanted, dy)):
        return Outcome((), "rounding")
    noise, (moves, rest) = dict.fromkeys((d.leaf for d in wrong), 0.0), split((params, x))
    for _ in range(DRAWS):
        params_, x_ = join(rounded(moves, rng), rest)
        for before, now in zip(pair, run(params_, x_, dy), strict=True):
            raise_noise(noise, before, now, partial(_name, name))
    return Outcome(tuple(wrong), "" if any(d.error > th.SLACK * noise[d.leaf] for d in wrong) else "rounding")


def _name(question, path):
    return f"{question}: {jax.tree_util.keystr(tuple(path)) or 'the one array'}"
