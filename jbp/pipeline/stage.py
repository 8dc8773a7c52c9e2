"""What one device of a pipeline does: a scan over the ticks of a table, whichever it is.

All devices run one program, so a tick is a switch over what the table has for this stage: nothing, F, B or W. What it
makes, an output or an error, goes to both neighbours after the switch, where no branch can leave a collective waiting;
who needs it puts it by, for the tick in which it is used. Room for what waits is given out when the table is read.
"""

from collections import defaultdict
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.layer import Layer
from jbp.numerics import floating, wide
from jbp.params import buffers, merge, trainable
from jbp.pipeline.schedules import Schedule
from jbp.sweep import advancing
from jbp.train.plan import joined, zeros

AXIS = "stage"
ROOMS: tuple[str, ...] = ("inbox", "heads", "kept", "deltas")
COLUMNS = "work", "micro", "part", "enters", "leaves", "exits", "left", "right", "here", *ROOMS
HEAD, BODY, TAIL = range(3)


class Stage:
    """One device, inside of `jax.shard_map`: the layers before the Repeat, its own part or parts of it, those after.

    Of the ends the parameters are those of all stages, and gradients are made on one of them, zero on the others.
    """

    def __init__(self, plan: Any, layers: tuple[Layer, Layer, Layer], loss: Layer, params: tuple[Any, ...], micro: Any):
        self.plan, self.layers, self.loss, self.micro = plan, layers, loss, micro
        self.stages, self.parts = plan.table.stages, plan.table.parts
        self.rows, self.room = instructions(plan.table)
        self.me, self.dtype = lax.axis_index(AXIS), plan._high(params)
        self.params = params[HEAD], jax.tree.map(self._folded, params[BODY]), params[TAIL]

    def run(self, outputs: bool) -> Any:
        """(sums of the loss and of what it counts, gradients and advanced parameters of the three, output)."""
        rows = {name: jnp.asarray(row) for name, row in self.rows.items()}
        last, _ = lax.scan(self._tick, self._first(outputs), rows)
        ends = 0, None, self.stages - 1 if self.parts == 1 else 0  # where the first place is, and the last
        moved = []
        for own, new, end in zip(self.params, last["buffers"], ends, strict=True):
            new = new if new is None or end is None else jax.tree.map(lambda v, end=end: self._from(end, v), new)
            moved.append(_with(own, new))
        grads, moved = (
            (tree[HEAD], jax.tree.map(self._unfolded, tree[BODY]), tree[TAIL]) for tree in (last["grads"], moved)
        )
        output = jax.tree.map(lambda v: self._from(ends[TAIL], v), joined(last["output"]))
        return last["counts"], grads, moved, output

    def _first(self, outputs):
        """The carry before the first tick: room for all that will be there."""
        moving = [buffers(p) if advancing(f) else None for f, p in zip(self.layers, self.params, strict=True)]
        head, body, tail = self.layers

        def once():
            """One micro-batch on its way through all."""
            x, *targets = self.micro(0)
            own = self.params[HEAD], _at(self.params[BODY], 0), self.params[TAIL]
            h, heads = head.forward(own[HEAD], self.plan._low(x))
            y, kept = body.forward(own[BODY], h)
            dy, last, _, counts, output = self.plan._part(tail, self.loss, self.dtype, own[TAIL], y, *targets)
            dx, delta = body.backward(own[BODY], kept, dy)
            grads = head.pull(own[HEAD], heads, dx)[1], body.gradient(kept, delta), last
            return (h, (heads, moving[HEAD]), (kept, _at(moving[BODY], 0)), delta), grads, counts, output

        kept, grads, counts, output = jax.eval_shape(once)
        self.like = kept[0]
        first: dict[str, Any] = {
            name: jax.tree.map(lambda s, n=self.room[name]: _zeros(s, n), tree)
            for name, tree in zip(ROOMS, kept, strict=True)
        }
        grads = jax.tree.map(wide, zeros(grads))
        grads = grads[HEAD], jax.tree.map(lambda g: _zeros(g, self.parts), grads[BODY]), grads[TAIL]
        output = jax.tree.map(lambda s: _zeros(s, self.plan.micro), output) if outputs else None
        return first | {"buffers": tuple(moving), "counts": zeros(counts), "grads": grads, "output": output}

    def _tick(self, carry, row):
        now = {name: column[self.me] for name, column in row.items()}
        rooms = {name: _at(carry[name], now[name]) for name in ROOMS}  # taken out, and put back as the tick leaves it
        grads, moving = list(carry["grads"]), list(carry["buffers"])
        given = rooms["inbox"]
        given, rooms["heads"], moving[HEAD] = self._if(
            now["enters"], self._enter, (given, rooms["heads"], moving[HEAD]), now
        )
        given, grads[TAIL], moving[TAIL], counts, output = self._if(
            now["leaves"], self._leave, (given, grads[TAIL], moving[TAIL], carry["counts"], carry["output"]), now
        )
        body = rooms["kept"], rooms["deltas"], *_at((grads[BODY], moving[BODY]), now["part"])
        works = self._idle, self._forward, self._backward, self._gradient
        sent, rooms["kept"], rooms["deltas"], *body = lax.switch(
            now["work"], works, given, _at(self.params[BODY], now["part"]), *body
        )
        grads[BODY], moving[BODY] = _put((grads[BODY], moving[BODY]), tuple(body), now["part"])
        (grads[HEAD],) = self._if(now["exits"], self._exit, (grads[HEAD],), sent, rooms["heads"])

        inbox, n = carry["inbox"], self.stages
        right, left = [(s, s + 1) for s in range(n - 1)], [(s + 1, s) for s in range(n - 1)]
        inbox = _put(inbox, sent, now["here"])
        inbox = _put(inbox, jax.tree.map(lambda v: lax.ppermute(v, AXIS, right), sent), now["left"])
        inbox = _put(inbox, jax.tree.map(lambda v: lax.ppermute(v, AXIS, left), sent), now["right"])
        rooms = {name: _put(carry[name], rooms[name], now[name]) for name in ROOMS if name != "inbox"}
        sums = {"grads": tuple(grads), "buffers": tuple(moving), "counts": counts, "output": output}
        return sums | rooms | {"inbox": inbox}, None

    @staticmethod
    def _if(when, do, held, *more):
        """What `do` makes of what is held, or what is held."""
        return lax.cond(when == 1, do, lambda *given: given[: len(held)], *held, *more)

    def _enter(self, _, kept, moving, now):
        """The layers before the Repeat, at F of the first place."""
        head = self.layers[HEAD]
        own = _with(self.params[HEAD], moving)
        x, *_ = self.micro(now["micro"])
        h, kept = head.forward(self.plan._drawn(own), self.plan._low(x))
        return h, (kept, moving), _moved(head, own, kept, moving)

    def _leave(self, y, grads, moving, counts, outputs, now):
        """The layers after it and the loss, all of them at B of the last place, which F of it has left y."""
        own = _with(self.params[TAIL], moving)
        _, *targets = self.micro(now["micro"])
        dy, more, new, count, output = self.plan._part(self.layers[TAIL], self.loss, self.dtype, own, y, *targets)
        grads, counts = (jax.tree.map(jnp.add, *trees) for trees in ((grads, more), (counts, count)))
        outputs = None if outputs is None else _put(outputs, output, now["micro"])
        return self._filled(dy), grads, None if moving is None else buffers(new), counts, outputs

    def _exit(self, grads, dx, kept):
        """The layers before the Repeat, at B of the first place."""
        residuals, moving = kept
        own = self.plan._drawn(_with(self.params[HEAD], moving))
        _, more = self.layers[HEAD].pull(own, residuals, floating(dx))
        return (jax.tree.map(lambda a, g: a + wide(g), grads, more),)

    def _idle(self, given, _, *held):
        return given, *held

    def _forward(self, x, params, _, delta, grads, moving):
        body, own = self.layers[BODY], _with(params, moving)
        y, kept = body.forward(self.plan._drawn(own), x)
        return y, (kept, moving), delta, grads, _moved(body, own, kept, moving)

    def _backward(self, dy, params, kept, _, grads, moving):
        residuals, was = kept  # the buffers too that F had
        own = self.plan._drawn(_with(params, was))
        dx, delta = self.layers[BODY].backward(own, residuals, floating(dy))
        return self._filled(dx), kept, delta, grads, moving

    def _gradient(self, given, _, kept, delta, grads, moving):
        more = self.layers[BODY].gradient(kept[0], delta)
        return given, kept, delta, jax.tree.map(lambda a, g: a + wide(g), grads, more), moving

    def _filled(self, dx):
        """An error as what is sent, which has the shapes of an output."""
        return jax.tree.map(lambda y, d: jnp.zeros(y.shape, y.dtype) if d is None else d, self.like, dx)

    def _from(self, stage, v):
        """What this stage has, everywhere."""
        if jnp.issubdtype(v.dtype, jax.dtypes.prng_key):
            data = self._from(stage, jax.random.key_data(v))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(v))
        if v.dtype == bool:
            return self._from(stage, v.astype(jnp.int32)) > 0
        return lax.psum(jnp.where(self.me == stage, v, 0).astype(v.dtype), AXIS)

    def _folded(self, v):
        """The parts that a V has here, out of two neighbours: at rest places 2s and 2s + 1 lie on stage s."""
        if self.parts == 1:
            return v[None]
        two = v.reshape(2, v.shape[0] // 2, *v.shape[1:])
        two = [_passed(two[k], [(s, min(j, 2 * self.stages - 1 - j)) for s, j in self._pairs(k)]) for k in range(2)]
        return self._turned(jnp.stack(two))

    def _unfolded(self, v):
        """The inverse."""
        if self.parts == 1:
            return v[0]
        two = self._turned(v)
        two = [_passed(two[k], [(min(j, 2 * self.stages - 1 - j), s) for s, j in self._pairs(k)]) for k in range(2)]
        return jnp.concatenate(two)

    def _pairs(self, k):
        return [(s, 2 * s + k) for s in range(self.stages)]

    def _turned(self, two):
        """On odd stages the first part has come from an odd place."""
        return jnp.where(self.me % 2 == 1, two[::-1], two)


def _passed(v, pairs):
    """v from device to device."""
    if jnp.issubdtype(v.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_passed(jax.random.key_data(v), pairs), impl=jax.random.key_impl(v))
    return lax.ppermute(v, AXIS, pairs)


def _with(params, moving):
    """The parameters with the buffers of this tick, if they move."""
    return params if moving is None else merge(trainable(params), moving)


def _moved(layer, params, kept, moving):
    return None if moving is None else buffers(layer.advance(params, kept))


def _zeros(like, n):
    return jnp.zeros((n, *like.shape), like.dtype)


def _at(tree, i):
    return jax.tree.map(lambda v: lax.dynamic_index_in_dim(v, i, keepdims=False), tree)


def _put(tree, value, i):
    return jax.tree.map(lambda v, new: lax.dynamic_update_index_in_dim(v, new, i, 0), tree, value)


@lru_cache(maxsize=64)
def instructions(table: Schedule) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(columns of numbers, ticks × stages, for the scan, how much room each kind of thing needs).

    `work`, `micro`, `part`; whether the layers before the Repeat are run, `enters`, those after it, `leaves`, and those
    before it backward, `exits`; where in their rooms the `inbox` of this work, the residuals of `heads` and of what is
    `kept`, and the `deltas` are; and where to put what comes from the `left`, the `right` and `here`, which is behind
    all the rest for what nobody needs.
    """
    when = {(w.kind, table.place(s, w.part), w.micro): (s, t) for s, t, w in table}
    last = max(j for _, j, _ in when)
    things: list[
        tuple[str, int, list[tuple[str, int]]]
    ] = []  # (room, stage, columns that name its place, in which tick)
    for (kind, j, i), (s, t) in when.items():
        if kind == "W":
            f, b = when["F", j, i][1], when["B", j, i][1]
            things.append(("kept", s, [("kept", f), ("kept", b), ("kept", t)]))
            things.append(("deltas", s, [("deltas", b), ("deltas", t)]))
            things += [("heads", s, [("heads", f), ("heads", b)])] * (j == 0)
        else:
            source = ("F", j - 1, i) if kind == "F" else ("B", j + 1, i) if j < last else ("F", j, i)
            if source in when:
                whence, sent = when[source]
                things.append(("inbox", s, [(("left", "here", "right")[whence - s + 1], sent), ("inbox", t)]))

    columns = {name: np.zeros((table.ticks, table.stages), np.int32) for name in COLUMNS}
    room = dict.fromkeys(ROOMS, 1)
    free, busy = defaultdict(list), defaultdict(list)
    for name in ("left", "right", "here"):
        columns[name] -= 1
    for name, s, places in sorted(things, key=lambda thing: thing[2][0][1]):
        while busy[name, s] and busy[name, s][0][0] <= places[0][1]:
            heappush(free[name, s], heappop(busy[name, s])[1])
        own = heappop(free[name, s]) if free[name, s] else len(busy[name, s])
        heappush(busy[name, s], (places[-1][1], own))
        room[name] = max(room[name], own + 1)
        for column, t in places:
            columns[column][t, s] = own
    for name in ("left", "right", "here"):  # what nobody needs goes behind what is there
        columns[name][columns[name] < 0] = room["inbox"]
    room["inbox"] += 1
    for s, t, w in table:
        j = table.place(s, w.part)
        ends = {
            "enters": (w.kind, j) == ("F", 0),
            "leaves": (w.kind, j) == ("B", last),
            "exits": (w.kind, j) == ("B", 0),
        }
        own = {"work": " FBW".index(w.kind), "micro": w.micro, "part": w.part} | ends
        for name, value in own.items():
            columns[name][t, s] = value
    return columns, room
