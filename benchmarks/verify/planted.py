"""Faults planted in a catalogue, one or two at a time: within how many random networks rejected, and who is named?

    python -m benchmarks.verify.planted --output benchmarks/verify/results/planted.json

The 62 faults of faults.py, each as a bug of its class: every layer of that class has it, wherever it is met. Then
pairs of them, faults that are met inside of loops and ties alone, and wrong chain rules of combinators. Each is looked
for by a campaign of 200 networks, in chapters, over a catalogue of some thirty other layers, a few losses and every
form. `--whole` takes the whole catalogue, whose 200 networks cannot meet every class.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import track

import jbp
from benchmarks.verify.faults import FAULTS
from jbp import combinators, layers
from jbp.combinators import graph
from jbp.numerics import scan
from verify.architectures import campaign
from verify.architectures.chapters import lengths
from verify.architectures.compiled import compilations
from verify.architectures.protocol import substitute
from verify.naming.catalogues import catalogue
from verify.processes.memory import forget
from verify.report import outputs

PROGRAMS = 1500
MOST = 200  # networks within which a fault has to be rejected
ABOUT = (
    *("Dense", "Tanh", "Sigmoid", "SiLU", "GELU", "Softplus", "LayerNorm", "BatchNorm", "Dropout", "Conv", "MaxPool"),
    *(
        "Positions",
        "Embedding",
        "LSTM",
        "CausalSelfAttention",
        "Recurrent",
        "Recursive",
        "Reversible",
        "Serial",
        "Graph",
        "Remat",
    ),
    *(
        "TimeDistributed",
        "Flatten",
        "AveragePool",
        "GlobalAveragePool",
        "GRU",
        "Rotary",
        "Take",
        "Identity",
        "Upsample",
    ),
    *("MeanSquaredError", "Huber", "SoftmaxCrossEntropy"),
)
Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Plant:
    """What is wrong: the classes that have to be named, and what the faulty ones are made of the right ones by.

    `under` are the classes inside of which alone a layer is faulty; () for everywhere.
    """

    sort: str
    name: str
    wrong: tuple[tuple[type, type], ...]
    under: tuple[type, ...] = ()

    def __call__(self, layer: Any, inside: bool = False) -> Any:
        """The layer with the fault wherever it is met in it."""
        kind = dict(self.wrong).get(type(layer)) if inside or not self.under else None
        inside = inside or isinstance(layer, self.under)
        layer = substitute(lambda _, child: self(child, inside), layer)
        return copied(layer, kind) if kind else layer

    @property
    def named(self) -> set[str]:
        return {kind.__name__ for kind, _ in self.wrong}


def copied(layer: Any, kind: type) -> Any:
    """The layer as one of the class `kind`, which is derived from its own."""
    made = object.__new__(kind)
    for field in fields(layer):
        object.__setattr__(made, field.name, getattr(layer, field.name))
    return made


def planted(source: Any, plant: Plant) -> Any:
    """The catalogue with the fault in all that is made of it."""

    def case(found):
        return type(found)(plant(found.layer), *found.inputs)

    return replace(
        source,
        layers=tuple(map(case, source.layers)),
        losses=tuple(map(case, source.losses)),
        forms=tuple(replace(form, build=partial(_built, form.build, plant)) for form in source.forms),
        serial=partial(_built, source.serial, plant),
        with_loss=partial(_built, source.with_loss, plant),
    )


def _built(build, plant, *args):
    return plant(build(*args))


def some(source: Any) -> Any:
    """Some thirty classes of the catalogue."""

    def chosen(cases):
        return tuple(case for case in cases if type(case.layer).__name__ in ABOUT)

    return replace(source, layers=chosen(source.layers), losses=chosen(source.losses))


def derived(kind: type, **methods: Any) -> tuple[type, type]:
    """(class, the class with these methods): where one raises, at a layer of another form, it is the right one."""

    def where_it_runs(name, wrong):
        right = getattr(kind, name)

        def method(self, *args):
            try:
                return wrong(self, *args)
            except Exception:  # noqa: BLE001 - a fault of Dense with a bias, at one without, for example
                return right(self, *args)

        return method

    return kind, type(kind.__name__, (kind,), {name: where_it_runs(name, wrong) for name, wrong in methods.items()})


@cache
def single(number: int) -> tuple[type, type]:
    """(class, faulty class) of a fault of faults.py."""
    _, right, break_it, _ = FAULTS[number]
    mine = vars(type(break_it(right)))
    return derived(type(right), **{name: mine[name] for name in ("backward", "gradient") if name in mine})


def singles() -> list[Plant]:
    return [Plant("single", f"{k}: {FAULTS[k][0]}", (single(k),)) for k in range(len(FAULTS))]


def pairs() -> list[Plant]:
    """As many pairs as faults: each with one further on, of another class."""
    found, n = [], len(FAULTS)
    for k in range(n):
        other = next(i % n for i in range(k + 7, k + 7 + n) if single(i % n)[0] is not single(k)[0])
        found.append(Plant("pair", f"{k} and {other}: {FAULTS[k][0]}, {FAULTS[other][0]}", (single(k), single(other))))
    return found


def _all_get_the_same_error(self, params, residuals, dy):
    grads = []
    for _, layer, p, r in reversed(self._each(parameters=params, residuals=residuals)):
        dx, g = layer.pull(p, r, dy)
        dy = dy if dx.shape == dy.shape else dx
        grads.append(g)
    return dy, self.whole(reversed(grads))


def _last_gradient_twice(self, params, residuals, dy):
    dx, grads = jbp.Serial.pull(self, params, residuals, dy)
    held = self.parts(grads)
    if jax.tree.map(jnp.shape, held[0]) != jax.tree.map(jnp.shape, held[-1]):
        return dx, grads
    return dx, self.whole((held[-1], *held[1:]))


def _first_error_for_all(self, way, params, residuals, dy):
    parts = self.parts(dy)
    alike = len({v.shape for v in parts}) == 1
    return jbp.Parallel._down(self, way, params, residuals, self.whole([parts[0]] * len(parts)) if alike else dy)


def _in_time_first(self, v, sizes):
    return v.reshape(sizes[::-1] + v.shape[1:]).swapaxes(0, 1) if len(sizes) == 2 else v.reshape(*sizes, *v.shape[1:])


def _unfolded_time_first(self, way, params, residuals, dy):
    r, sizes = residuals
    dx, down = way(params, r, self._folded(dy))
    return jax.tree.map(lambda v: _in_time_first(self, v, sizes.value), dx), down


def _every_step_gets_the_last_error(self, way, params, residuals, dy):
    def step(last, now):
        return last, way(*now, last)

    _, (dx, down) = scan(step, dy, (params, residuals), length=self.times, reverse=True)
    return dx[0], down


def _without_the_first_step(self, params, residuals, dy):
    dx, grads = jbp.Repeat.pull(self, params, residuals, dy)
    return dx, jax.tree.map(lambda g: g.at[0].set(0), grads)


def _last_reader_alone(self, way, params, residuals, dy):
    errors = dict(self._chosen_errors(dy))
    down = []
    for (_, layer, p, r), name, source in reversed(
        list(zip(self._each(parameters=params, residuals=residuals), self.names, self.sources, strict=True))
    ):
        dx, found = getattr(layer, way)(p, r, errors.pop(name))
        down.append(found)
        errors |= dict(graph._scattered(dx, source))
    (name,) = self.inputs
    return errors[name], self.whole(reversed(down))


def _halves_swapped(self, params, y, dy):
    dx, grads = jbp.Reversible.pull(self, params, y, dy)
    return jnp.roll(dx, dx.shape[-1] // 2, -1), grads


def _inputs_not_rebuilt(self, params, y, dy):
    dx, _ = jbp.Reversible.pull(self, params, y, dy)
    halves = jnp.split(y, 2, -1)
    errors = jnp.split(dy, 2, -1)
    found = [
        g.pull(p, g.forward(p, h)[1], d)[1] for g, p, h, d in zip(self.layers, params, halves, errors, strict=True)
    ]
    return dx, tuple(found)


def _no_error_through_time(self, residuals, dy):
    n, kept, known = residuals
    dy = jax.tree.map(jbp.numerics.time_first, dy)
    zero = self._zero(dy.shape[1], dy.dtype)
    return n, kept, known, zero, dy


def _cut_through_time(self, params, residuals, dy):
    if self.return_state or residuals[0] is not None or residuals[2].value[2]:
        raise ValueError
    _, kept, _, zero, dy = _no_error_through_time(self, residuals, dy)

    def step(_, now):
        dy, r = now
        down, delta = self.cell.backward(params, r, self._turned((zero, dy)))
        return None, (self._turned(down)[1], delta)

    _, (dx, delta) = scan(step, None, (dy, kept), reverse=True)
    return jbp.numerics.time_first(dx), delta


def _last_step_alone(self, residuals, delta):
    n, kept, known = residuals
    return layers.Recurrent.gradient(self, (n, *jax.tree.map(lambda v: v[-1:], (kept,)), known), delta_of_last(delta))


def delta_of_last(delta):
    return jax.tree.map(lambda v: v[-1:], delta)


def _last_node_alone(self, residuals, delta):
    children, kept, folded = residuals
    return layers.Recursive.gradient(self, (children, delta_of_last(kept), folded), delta_of_last(delta))


def _children_swapped(self, params, residuals, dy):
    (left, right), delta = layers.TensorNode.backward(self, params, residuals, dy)
    return (right, left), delta


def _forgetful(self, params, residuals, dy):
    (left, right), delta = layers.LSTMNode.backward(self, params, residuals, dy)
    return ((left[0], 0 * left[1]), right), delta


def _down(change):
    """A wrapper whose dx is changed, in `pull` and in `backward`."""

    def of(kind):
        def down(self, way, params, residuals, dy):
            dx, found = kind._down(self, way, params, residuals, dy)
            return change(dx, dy), found

        return derived(kind, _down=down)

    return of


def _few_bits(self, residuals):
    kept = combinators.Keep._kept(self, residuals)
    return jax.tree.map(lambda r: r.astype("bfloat16").astype(r.dtype) if r.dtype == jnp.float64 else r, kept)


def _zero(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def joins() -> list[Plant]:
    """Wrong chain rules: of combinators, and of the layers that share out an error or join several."""
    listed = {
        "every layer that keeps its shape gets the error of the output": derived(
            jbp.Serial, pull=_all_get_the_same_error
        ),
        "the last gradient for the first, where they are alike": derived(jbp.Serial, pull=_last_gradient_twice),
        "the error of the first for all": derived(jbp.Parallel, _down=_first_error_for_all),
        "what goes past is forgotten": _down(lambda dx, dy: dx - dy)(jbp.Residual),
        "what the layer returns is forgotten": _down(lambda dx, dy: dy)(jbp.Residual),
        "runs again at another input": derived(
            jbp.Remat, _again=lambda self, p, x, dy: self.layer.forward(p, jax.tree.map(lambda v: 1.001 * v, x))[1]
        ),
        "residuals in few bits": derived(combinators.Keep, _kept=_few_bits),
        "no error for what is below": derived(
            jbp.Frozen,
            backward=lambda self, *a: (_zero(jbp.Frozen.backward(self, *a)[0]), ()),
        ),
        "the cotangent of the context is forgotten": derived(
            jbp.Passing, _down=lambda self, way, p, r, dy: way(p, r, dy[0])
        ),
        "time first": derived(jbp.TimeDistributed, _down=_unfolded_time_first),
        "every step gets the last error": derived(jbp.Repeat, _down=_every_step_gets_the_last_error),
        "the first step does not learn": derived(jbp.Repeat, pull=_without_the_first_step),
        "the gradients of the steps in reverse": derived(
            jbp.Repeat,
            pull=lambda self, *a: (lambda dx, g: (dx, jax.tree.map(lambda v: v[::-1], g)))(*jbp.Repeat.pull(self, *a)),
        ),
        "the second place does not count": derived(
            jbp.Tied, _whole=lambda self, grads: self._own(grads, lambda part: jax.tree.map(lambda _: None, part))
        ),
        "the last reader alone": derived(jbp.Graph, _down=_last_reader_alone),
        "halves swapped": derived(jbp.Reversible, pull=_halves_swapped),
        "gradients at what came out": derived(jbp.Reversible, pull=_inputs_not_rebuilt),
        "no error through time": derived(layers.Recurrent, backward=_cut_through_time),
        "the gradient of the last step alone": derived(layers.Recurrent, gradient=_last_step_alone),
        "the gradient of the last node alone": derived(layers.Recursive, gradient=_last_node_alone),
        "one copy alone sends its error down": derived(
            layers.FanOut, backward=lambda self, p, r, dy: (jax.tree.leaves(dy)[0], ())
        ),
        "the first summand alone gets the error": derived(
            layers.Add,
            backward=lambda self, p, r, dy: (lambda dx, d: ((dx[0], *_zero(dx[1:])), d))(
                *layers.Add.backward(self, p, r, dy)
            ),
        ),
        "the parts swapped": derived(
            layers.Concatenate,
            backward=lambda self, p, r, dy: (lambda dx, d: (dx[::-1], d))(*layers.Concatenate.backward(self, p, r, dy)),
        ),
    }
    return [Plant("chain rule", f"{kind[0].__name__}: {name}", (kind,)) for name, kind in listed.items()]


def _changed(kind: type, change: Change) -> tuple[type, type]:
    def backward(self, params, residuals, dy):
        dx, delta = kind.backward(self, params, residuals, dy)
        return change(dx), delta

    return derived(kind, backward=backward)


SIMPLE = layers.Dense, layers.Tanh, layers.Sigmoid, layers.SiLU, layers.LayerNorm, layers.GELU, layers.Softplus


def insides() -> list[Plant]:
    """Faults that are met inside of something alone: of all simple layers there, or of one cell."""
    forms = jbp.Repeat, jbp.Tied, jbp.Remat, combinators.Keep, jbp.Frozen, jbp.TimeDistributed, jbp.Reversible
    forms = *forms, jbp.Residual, jbp.Parallel, jbp.Graph
    found = [
        Plant("inside", f"{form.__name__}: {name}", tuple(_changed(kind, change) for kind in SIMPLE), (form,))
        for form in forms
        for name, change in (("factor", lambda d: 0.5 * d), ("wrong axis", lambda d: jnp.roll(d, 1, -1)))
    ]
    recurrent = {
        "half of the error of its Tanh": _changed(layers.Tanh, lambda d: 0.5 * d),
        "the bias of its Dense does not learn": derived(
            layers.Dense, gradient=lambda self, *a: (lambda g: g | {"b": 0 * g["b"]})(layers.Dense.gradient(self, *a))
        ),
        "its BatchNorm as in evaluation": single(24),
        "its LSTMCell sends the error of another state": derived(
            layers.LSTMCell,
            backward=_rolled_state,
        ),
        "one of its copies alone sends its error down": derived(
            layers.FanOut, backward=lambda self, p, r, dy: (jax.tree.leaves(dy)[0], ())
        ),
        "the layers of its cell get one error": derived(jbp.Serial, backward=_all_the_same_apart),
    }
    found += [Plant("inside", f"Recurrent: {n}", (kind,), (layers.Recurrent,)) for n, kind in recurrent.items()]
    recursive = {
        "its TensorNode swaps the children": derived(layers.TensorNode, backward=_children_swapped),
        "its LSTMNode forgets the left memory": derived(layers.LSTMNode, backward=_forgetful),
    }
    return found + [Plant("inside", f"Recursive: {n}", (kind,), (layers.Recursive,)) for n, kind in recursive.items()]


def _rolled_state(self, params, residuals, dy):
    dx, delta = layers.LSTMCell.backward(self, params, residuals, dy)
    return jax.tree.map(lambda v: jnp.roll(v, 1, -1), dx), delta


def _all_the_same_apart(self, params, residuals, dy):
    deltas = []
    for _, layer, p, r in reversed(self._each(parameters=params, residuals=residuals)):
        dx, delta = layer.backward(p, r, dy)
        same = jax.tree.map(jnp.shape, dx) == jax.tree.map(jnp.shape, dy)
        dy = dy if same else dx
        deltas.append(delta)
    return dy, self.whole(reversed(deltas))


def nothings() -> list[Plant]:
    """No cotangents: a backward pass that raises, and one that gives NaN."""

    def raises(self, *args):
        raise TypeError("unsupported")

    kinds = layers.Dense, layers.Conv, layers.LSTM, jbp.Residual
    found = []
    for kind in kinds:
        name = "pull" if kind is jbp.Residual else "backward"
        raising = type(kind.__name__, (kind,), {name: raises})
        found.append(Plant("no cotangents", f"{kind.__name__} raises", ((kind, raising),)))

        def gives_nan(self, *args, kind=kind, name=name):
            dx, rest = getattr(kind, name)(self, *args)
            return jax.tree.map(lambda d: d * jnp.nan, dx), rest

        found.append(Plant("no cotangents", f"{kind.__name__} gives NaN", (derived(kind, **{name: gives_nan}),)))
    return found


def plants() -> list[Plant]:
    return [*singles(), *joins(), *nothings(), *insides(), *pairs()]


def hunt(source: Any, seed: int, most: int = MOST) -> tuple[int, campaign.Failure | None]:
    """(networks until one disagrees, what is said of it), or (most, None)."""
    done = 0
    for number, length in enumerate(lengths(most)):
        tally = campaign.audited(source, "planted", seed, number, length)
        done += tally.networks
        if tally.failures:
            return done, tally.failures[0]
    return done, None


def named(failure: campaign.Failure | None) -> list[str]:
    """The classes that are said to be at fault."""
    found = [re.search(r"(?:^|: )(\w+)\(.*is at fault", fault) for fault in failure.faults] if failure else []
    return [match[1] for match in found if match]


def judged(plant: Plant, source: Any, seed: int) -> dict[str, Any]:
    begun = time.perf_counter()
    if compilations() > PROGRAMS:  # of which a process can map only so many
        forget()
    networks, failure = hunt(planted(source, plant), seed)
    who = named(failure)
    fate = "missed" if failure is None else "right" if who and {*who} <= plant.named else "wrong" if who else "nobody"
    return {
        "sort": plant.sort,
        "fault": plant.name,
        "classes": sorted(plant.named),
        "networks": networks,
        "named": fate,
        "said": list(failure.faults) if failure else [],
        "shrunk to": failure.program if failure else "",
        "seconds": round(time.perf_counter() - begun, 1),
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| what is planted | faults | rejected | within 200 networks, median (most) | faulty layer named |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for sort in dict.fromkeys(f["sort"] for f in found):
        mine = [f for f in found if f["sort"] == sort]
        seen = sorted(f["networks"] for f in mine if f["named"] != "missed")
        counts = Counter(f["named"] for f in mine)
        within = f"{seen[len(seen) // 2]} ({seen[-1]})" if seen else ""
        lines.append(f"| {sort} | {len(mine)} | {len(seen)} | {within} | {counts['right']} |")
    other = [f for f in found if f["named"] != "right"]
    lines += ["", "Missed, or others named:", ""] if other else []
    lines += [f"- {f['sort']}, {f['fault']} of {', '.join(f['classes'])}: {f['named']}" for f in other]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="one plant in so many")
    parser.add_argument("--only", default="", help="those whose sort and name hold this")
    parser.add_argument("--whole", action="store_true", help="among all layers of the catalogue")
    parser.add_argument("--shrinking", type=float, default=5, help="seconds for each")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--go-on", action="store_true", help="leave out what stands in the output already")
    options = parser.parse_args()
    campaign.SHRINKING = options.shrinking
    source = catalogue() if options.whole else some(catalogue())
    listed = [plant for plant in plants() if options.only in f"{plant.sort}, {plant.name}"][:: options.every]
    found = json.loads(options.output.read_text())["plants"] if options.go_on else []
    done = {(f["sort"], f["fault"]) for f in found}
    for plant in track([p for p in listed if (p.sort, p.name) not in done], "planted", console=Console(stderr=True)):
        found.append(judged(plant, source, options.seed))
        print(json.dumps(found[-1], ensure_ascii=False), file=sys.stderr, flush=True)
        if options.output:
            told = {"seed": options.seed, "whole catalogue": options.whole, "plants": found}
            outputs.write(options.output, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
            outputs.write(options.output.with_suffix(".md"), table(found))
    print(table(found))
    return int(any(f["named"] != "right" for f in found))


if __name__ == "__main__":
    sys.exit(main())
