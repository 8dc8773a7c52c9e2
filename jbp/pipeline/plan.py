"""A Plan whose devices are stages, and where it cuts a network into them."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jbp.combinators import Frozen, Repeat, Serial, Tied
from jbp.errors import LayerError
from jbp.fields import Size
from jbp.layer import Layer
from jbp.pipeline.schedules import Schedule, schedule
from jbp.pipeline.stage import AXIS, Stage
from jbp.train.pieces import Ahead, is_piece, leaves_of
from jbp.train.plan import Plan


@dataclass(frozen=True)
class Pipeline(Plan):
    """A Plan that cuts the times of a Repeat into stages, along the axis "stage", for `start`, `step` and `fit`.

        plan = Pipeline(micro=8)                                            # all devices, one stage each
        plan = Pipeline((("data", 2), ("stage", 4)), schedule="ZB-V")       # two such, each with half of the batch

    The network is a Serial with the Repeat somewhere in it, in a Tied or a Frozen too. Of several it is the one with
    the most times, a multiple of the stages, and of twice as many for "ZB-V". What comes before it runs with F of the
    first stage. What comes after, and the loss, runs with B of the last, from its forward pass to its gradient: of one
    micro-batch alone are there scores at a time. The parameters of these ends lie on every stage, those of the Repeat
    where they are used. With weights="stage" those of the ends lie in pieces, one a stage, and are put together once a
    step. What is shared by both ends, in a Tied, has the sum of its gradients.

    `schedule` is one by the name that `jbp.pipeline.schedule` has for it, or a `Schedule` of your own; `table` is what
    it comes to. F, B and W are `forward`, `backward` and `gradient` of a stage's layers, and none is done twice. With
    "ZB-V" the weights of the Repeat change places at each step, to where its V has them. All else is as with a Plan:
    means over labels that count, any optimizer, saves, pieces along another axis.

    Raises LayerError also for a network without such a Repeat, and for ties into it.

    >>> net, x, y = Serial(Dense(4), Repeat(Residual(Dense(4)), 2), Dense(1)), jnp.ones((4, 3)), jnp.ones((4, 1))
    >>> loss, optimizer, plan = MeanSquaredError(), optax.sgd(0.1), jbp.pipeline.Pipeline(micro=2)
    >>> state = jbp.train.start(net, optimizer, jax.random.key(0), x, plan=plan)
    >>> state, metrics = jbp.train.step(net, loss, optimizer, plan=plan)(state, x, y)
    >>> plan.table.bubble
    0.0
    """

    micro: Size = 8
    schedule: Literal["GPipe", "1F1B", "ZB-H1", "ZB-V"] | Schedule = "ZB-H1"

    def __post_init__(self):
        super().__post_init__()
        stages = self._extent.get(AXIS)
        if stages is None:
            raise LayerError(
                Pipeline,
                f"got the axes {', '.join(self.names)}; expected {AXIS!r} among them. Write mesh=(({AXIS!r}, 4),).",
            )
        own = self.schedule
        if isinstance(own, Schedule) and ((own.stages, own.micro) != (stages, self.micro) or own.parts > 2):
            raise LayerError(
                Pipeline,
                f"got a schedule of {own.stages} stages, {own.micro} micro-batches and {own.parts} parts; expected "
                f"{stages} and {self.micro}, and one part or two. Make it for these.",
            )

    @property
    def names(self) -> tuple[str, ...]:
        return super().names if self.mesh else (AXIS,)

    @property
    def spread(self) -> tuple[str, ...]:
        return tuple(name for name in super().spread if name != AXIS)

    @property
    def _at_once(self) -> bool:
        return False

    @property
    def table(self) -> Schedule:
        """The schedule of these stages and micro-batches, with its `bubble` and what is `held`."""
        if isinstance(self.schedule, Schedule):
            return self.schedule
        return _table(self.schedule, self._extent[AXIS], self.micro)

    def _cut_of(self, net):
        """Where to cut the network, after a check that it can be."""
        cut, places = Cut.of(net), self.table.stages * self.table.parts
        if cut.times % places:
            raise LayerError(
                cut.body,
                f"got {cut.times} times for {self.table.stages} stages of {self.table.parts} part"
                f"{'s' * (self.table.parts > 1)}; expected a multiple of {places}. Repeat it more often, or take fewer "
                'devices: mesh=(("stage", ...),).',
            )
        return cut

    def _where(self, net, marks):
        specs, cut = super()._where(net, marks), self._cut_of(net)
        numbers = iter(range(len(specs)))
        numbered = jax.tree.map(lambda leaf: next(numbers) if jax.tree.leaves(leaf) else None, marks, is_leaf=is_piece)
        head, body, tail = (set(jax.tree.leaves(part)) for part in cut.parts(numbered))
        if body & (head | tail):
            raise LayerError(
                net,
                f"got parameters that {cut.body!r} shares with layers outside of it; expected those of the Repeat to "
                "be its own. Tie within what is repeated, or the layers before and after.",
            )
        return [PartitionSpec(AXIS, *tuple(spec)[1:]) if i in body else spec for i, spec in enumerate(specs)]

    @property
    def _pieces(self):
        return 1 if self.weights == AXIS else super()._pieces

    def _rest(self, net, marks):
        specs = self._where(net, marks)
        if self.weights != AXIS:
            return specs

        def cut(shape, spec):
            fits = [(size, axis) for axis, size in enumerate(shape) if size and size % self.table.stages == 0]
            return PartitionSpec(*[None] * max(fits)[1], AXIS) if fits and not spec else spec

        leaves = [jax.tree.leaves(leaf)[0] for leaf in leaves_of(marks)]
        floats = (jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
        return [cut(leaf.shape, spec) if f else spec for leaf, spec, f in zip(leaves, specs, floats, strict=True)]

    def _here(self, net, loss, marks, structure, outputs, params, batch):
        """What one device does: the ticks of its stage, and the sums over devices."""
        own = jax.tree.unflatten(jax.tree.structure(marks), jax.tree.leaves(params))
        cut = Cut.of(self._wrapped(net, self.compute))
        layers = cut.layers(self.table.stages * self.table.parts)
        counts, grads, parts, output = Stage(self, layers, loss, cut.parts(own), self._cut(batch)).run(outputs)
        params = jax.tree.unflatten(structure, jax.tree.leaves(cut.whole(parts, "_outer")))
        return self._summed(net, marks, params, (*counts, cut.whole(grads, "_whole")), output)


@dataclass(frozen=True)
class Cut:
    """A network as what comes before its Repeat, the Repeat, and what comes after: `way` leads to it from outside."""

    way: tuple[tuple[Any, int], ...]
    body: Repeat | Ahead

    @staticmethod
    def of(net: Layer) -> "Cut":
        """That of the Repeat with the most times."""
        found = list(_ways(net))
        if not found:
            raise LayerError(
                net,
                "got a network in which no Repeat stands in a row with other layers; expected one whose times can be "
                "cut into stages. Write Serial(first, Repeat(block, n), last), with Tied around it or without.",
            )
        return max(found, key=lambda cut: cut.times)

    @property
    def times(self) -> int:
        """How often it repeats."""
        return self.body.layer.times if isinstance(self.body, Ahead) else self.body.times

    def layers(self, places: int) -> tuple[Serial, Layer, Serial]:
        """(before, what one place has of the Repeat, after)."""
        rows = [(net.layers[:i], net.layers[i + 1 :]) for net, i in self.way if isinstance(net, Serial)]
        body, times = self.body, self.times // places
        if isinstance(body, Ahead):
            body = replace(body, layer=replace(body.layer, times=times))
        else:
            body = replace(body, times=times)
        return Serial(*sum((a for a, _ in rows), ())), body, Serial(*sum((b for _, b in reversed(rows)), ()))

    def parts(self, params: Any) -> tuple[Any, Any, Any]:
        """The parameters of the three."""
        before, after = (), ()
        for net, i in self.way:
            if isinstance(net, Serial):
                each = net.parts(params)
                before, params, after = (*before, *each[:i]), each[i], (*each[i + 1 :], *after)
            else:
                params = net._inner(params)
        return before, params, after

    def whole(self, parts: tuple[Any, Any, Any], outside: str) -> Any:
        """The tree whose parts they are; `outside` names what a wrapper does with it, _outer or _whole."""
        before, tree, after = parts
        for net, i in reversed(self.way):
            if isinstance(net, Serial):
                first, rest = len(before) - i, len(net) - 1 - i
                tree = net.whole((*before[first:], tree, *after[:rest]))
                before, after = before[:first], after[rest:]
            else:
                tree = getattr(net, outside)(tree)
        return tree


def _ways(net, way=()):
    if isinstance(net, Repeat | Ahead):
        yield Cut(way, net)
    elif isinstance(net, Serial):
        for i, layer in enumerate(net.layers):
            yield from _ways(layer, (*way, (net, i)))
    elif isinstance(net, Tied) or (isinstance(net, Frozen) and net.paths is not None):
        yield from _ways(net.layer, (*way, (net, 0)))


@lru_cache(maxsize=64)
def _table(name, stages, micro):
    return schedule(name, stages, micro)
