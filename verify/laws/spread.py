"""The law of spread: of devices that share the examples none does what another does, and each result is summed once.

A contract says which arguments hold examples, `Contract(batch=("x",))`. What happens then is read from the program that
one of several devices is given: nothing is run. On values `sharded` judges (transforms.py).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from verify import thresholds as th
from verify.laws.law import Breach, Plan, refusal
from verify.run.bench import Bench, Refused, Sample
from verify.run.hlo import COLLECTIVES, done
from verify.subject.oracles import brief
from verify.tolerance.waivers import UNPROMISED

ROWS = 64  # examples of a device: work that does not grow with them is little beside what does
SENT = [kind for kind in COLLECTIVES if kind not in ("all-reduce", "reduce-scatter")]
SCALARS, COUNT = 64, 8  # bytes: sums of a few numbers, as a count of labels in a loss, are nobody's mistake


def spread(bench: Bench, plan: Plan) -> Iterator[Breach]:
    """A device's share of the work is that of one alone with as many examples, but for the sum of what belongs to no
    example, once. Where the definition's value joins examples, no more than in its own derivative."""
    count = jax.device_count()
    if count < 2 or not bench.contract.batch:
        return
    draw = plan.ordinary[0]
    try:
        there = bench.once("spread", lambda: bench.guarded("reference", lambda: Shared(bench, count), "float64"))
    except Refused as refused:
        text = f"it does not take {ROWS * count} examples, so that spread over devices it was not tried"
        yield Breach("spread", None, 1.0, f"{text}: {brief(refused.error)}", draw, waiver=UNPROMISED)
        return
    try:
        own = bench.guarded("backward", lambda: there.program(bench), "float64")
    except Refused as refused:
        yield refusal("spread", draw, refused)
        return
    bench.comparisons += 1
    for text, size in there.faults(own):
        yield Breach("spread", None, size, f"over {count} devices that share the examples each {text}", draw)


class Shared:
    """The function at many examples, of which each of `count` devices has as many."""

    def __init__(self, bench: Bench, count: int):
        self.bench = bench
        self.many = jax.make_mesh((count,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
        self.one = jax.make_mesh((1,), ("all",), axis_types=self.many.axis_types, devices=jax.devices()[:1])
        self.given, self.parts = self._inputs(ROWS * count)
        outputs, twice = (self._outputs(n) for n in (ROWS * count, 2 * ROWS * count))
        self.summed = [s for s, t in zip(outputs, twice, strict=True) if s.shape == t.shape]
        self.dy, self.dy_parts = outputs, tuple(s.shape != t.shape for s, t in zip(outputs, twice, strict=True))
        floats = zip(self.given[0], self.parts[0], strict=True)
        self.need = sum(map(_size, (*self.summed, *(s for s, part in floats if not part)))) + SCALARS
        definition = bench.oracle.primal

        def derivative(floats, others, dy):
            y, pull = jax.vjp(lambda floats: definition(floats, others), floats)
            return y, pull(tuple(d.astype(v.dtype) for d, v in zip(dy, y, strict=True)))

        value = self._compiled(definition, self.many, *self.given, self.parts)
        joins = gathered(value) or value["all-reduce"] > sum(map(_size, self.summed)) + COUNT
        self.plain = self._pulled(derivative, self.many) if joins else Counter()
        few, _ = self._inputs(ROWS)
        few_dy = tuple(self._outputs(ROWS))
        self.share = self._compiled(bench.flat.vjp, self.one, *few, few_dy, None)

    def program(self, bench: Bench) -> Counter:
        """What one of the devices does in the function's own backward pass, as a canary has it."""

        def run(floats, others, dy):
            y, down = bench.flat.vjp(floats, others, dy)
            return y, bench.came(Sample(y, down, ()), dy, "spread").cotangents

        return self._pulled(run, self.many)

    def faults(self, own: Counter) -> Iterator[tuple[str, float]]:
        """(what a device does too much, how often or how many bytes) of its program."""
        products = max(self.share["flops"], self.plain["flops"])
        done_, all_of = (_work(p) for p in (own, max(self.share, self.plain, key=_work)))
        if own["flops"] > th.SPREAD * products and done_ > th.SPREAD * all_of:
            times = own["flops"] / max(self.share["flops"], 1)
            yield f"does {times:.1f} times the products of one alone with its share of them", times
        elif not own["flops"] and done_ > th.SPREAD_ELEMENTS * all_of + SCALARS:
            times = done_ / max(_work(self.share), 1)
            yield f"does {times:.1f} times the arithmetic of one alone with its share of them", times
        if (came := gathered(own)) > th.SUMMED * gathered(self.plain):
            yield f"is sent {came} bytes that others hold ({_kinds(own)}), though an example needs no other", came
        if (summed := own["all-reduce"]) > th.SUMMED * max(self.need, self.plain["all-reduce"]):
            yield f"sums {summed} bytes with the others, where what belongs to no example is {self.need}", summed

    def _pulled(self, f: Callable[..., Any], mesh: Any) -> Counter:
        return self._compiled(f, mesh, *self.given, self.dy, (*self.parts, self.dy_parts))

    def _compiled(self, f, mesh, *given) -> Counter:
        *trees, parts = given

        def placed(s, part=False):
            where = jax.NamedSharding(mesh, jax.P("all") if part else jax.P())
            return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where)

        trees = jax.tree.map(placed, tuple(trees), parts) if parts else jax.tree.map(placed, tuple(trees))
        return done(jax.jit(f).lower(*trees).compile().as_text() or "")

    def _inputs(self, rows: int) -> tuple[tuple, tuple]:
        """(floats, others) with so many examples, and which of them hold examples."""
        layout = self.bench.flat.layout
        named = layout.floats, layout.named("other")
        parts = tuple(tuple(name in self.bench.contract.batch for name in several) for several in named)

        def sized(v, part):
            return jax.ShapeDtypeStruct((rows, *v.shape[1:]) if part else np.shape(v), v.dtype)

        return jax.tree.map(sized, self.bench.example.at(self.bench.native), parts), parts

    def _outputs(self, rows: int) -> tuple:
        given, _ = self._inputs(rows)
        return tuple(jax.eval_shape(self.bench.flat.primal, *given))


def _work(program):
    return program["flops"] + program["elements"]


def gathered(program: Counter) -> int:
    """Bytes that a device is sent of what others hold."""
    return sum(program[kind] for kind in SENT)


def _kinds(program):
    return ", ".join(kind for kind in SENT if program[kind])


def _size(s: Any) -> int:
    return math.prod(s.shape) * s.dtype.itemsize


def spreading(bench: Bench, plan: Plan):
    """A device that looks at a neighbour's example, one that does what all do, one that sums once more."""
    if "spread" not in bench.memo:
        return
    there: Shared = bench.memo["spread"]
    parts = *there.parts[0], *there.dy_parts
    side = math.ceil((there.share["flops"] + there.plain["flops"]) ** (1 / 3)) + 8
    wide = there.need + there.plain["all-reduce"]

    def with_more(more):
        def wrong(s, dy, how, n):
            if how != "spread":
                return s
            rows = next((v for v, part in zip((*s.cotangents, *dy), parts, strict=True) if part), s.cotangents[0])
            first, *rest = s.cotangents
            return replace(s, cotangents=(first + more(rows).astype(first.dtype), *rest))

        return wrong

    def neighbour(v):
        return jnp.sin(v * jnp.roll(v, 1, 0)).sum()

    def everything(v):
        a = jnp.sin(lax.iota(v.dtype, side)[:, None] * lax.iota(v.dtype, side)[None] * v.sum())
        return jnp.sin(a @ a).sum()

    def once_more(v):
        rows = jnp.sin(v.reshape(v.shape[0], -1).sum(-1))
        return jnp.sin((rows[:, None] * lax.iota(v.dtype, wide)[None]).sum(0)).sum()

    if any(parts):  # what takes integers and gives one number has no cotangent of each example
        yield "looks at a neighbour", None, with_more(neighbour)
        yield "summed once more", None, with_more(once_more)
    yield "work done by all", None, with_more(everything)
