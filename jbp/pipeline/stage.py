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
COLUMNS = "work", "micro", "part", "first", "last", "left", "right", "here", *ROOMS
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
        sent, carry = lax.switch(now["work"], (self._idle, self._forward, self._backward, self._gradient), carry, now)
        n = self.stages
        arrived = {
            "left": jax.tree.map(lambda v: lax.ppermute(v, AXIS, [(s, s + 1) for s in range(n - 1)]), sent),
            "right": jax.tree.map(lambda v: lax.ppermute(v, AXIS, [(s + 1, s) for s in range(n - 1)]), sent),
            "here": sent,
        }
        inbox = carry["inbox"]
        for whence, what in arrived.items():
            inbox = _put(inbox, what, now[whence])
        return carry | {"inbox": inbox}, None

    def _idle(self, carry, now):
        return zeros(self.like), carry

    def _forward(self, carry, now):
        head, body, _ = self.layers
        first, middle, last = carry["buffers"]

        def enter(heads, moving):
            own = _with(self.params[HEAD], moving)
            h, kept = head.forward(self.plan._drawn(own), self.plan._low(self.micro(now["micro"])[0]))
            return h, _put(heads, (kept, moving), now["heads"]), _moved(head, own, kept, moving)

        def follow(heads, moving):
            return _at(carry["inbox"], now["inbox"]), heads, moving

        h, heads, first = lax.cond(now["first"] == 1, enter, follow, carry["heads"], first)
        own, moving = _at((self.params[BODY], middle), now["part"])
        own = _with(own, moving)
        y, kept = body.forward(self.plan._drawn(own), h)
        middle = _put(middle, _moved(body, own, kept, moving), now["part"])
        kept = _put(carry["kept"], (kept, moving), now["kept"])
        return y, carry | {"heads": heads, "kept": kept, "buffers": (first, middle, last)}

    def _backward(self, carry, now):
        head, body, tail = self.layers
        sent = _at(carry["inbox"], now["inbox"])  # the error, or at the last place what F has made

        def leave(grads, moving, counts, output):
            _, *targets = self.micro(now["micro"])
            own = _with(self.params[TAIL], moving)
            dy, more, new, count, y = self.plan._part(tail, self.loss, self.dtype, own, sent, *targets)
            grads, counts = (jax.tree.map(jnp.add, *trees) for trees in ((grads, more), (counts, count)))
            output = None if output is None else _put(output, y, now["micro"])
            return self._filled(dy), grads, None if moving is None else buffers(new), counts, output

        first, middle, last = carry["grads"]
        held = last, carry["buffers"][TAIL], carry["counts"], carry["output"]
        dy, last, moving, counts, output = lax.cond(now["last"] == 1, leave, lambda *held: (sent, *held), *held)
        kept, was = _at(carry["kept"], now["kept"])
        own = self.plan._drawn(_with(_at(self.params[BODY], now["part"]), was))
        dx, delta = body.backward(own, kept, floating(dy))

        def enter(grads):
            kept, was = _at(carry["heads"], now["heads"])
            _, more = head.pull(self.plan._drawn(_with(self.params[HEAD], was)), kept, dx)
            return jax.tree.map(lambda a, g: a + wide(g), grads, more)

        first = lax.cond(now["first"] == 1, enter, lambda grads: grads, first)
        return self._filled(dx), carry | {
            "deltas": _put(carry["deltas"], delta, now["deltas"]),
            "grads": (first, middle, last),
            "buffers": (*carry["buffers"][:TAIL], moving),
            "counts": counts,
            "output": output,
        }

    def _gradient(self, carry, now):
        kept, delta = _at(carry["kept"][0], now["kept"]), _at(carry["deltas"], now["deltas"])
        first, middle, last = carry["grads"]
        more = self.layers[BODY].gradient(kept, delta)
        middle = _put(middle, jax.tree.map(lambda a, g: a + wide(g), _at(middle, now["part"]), more), now["part"])
        return zeros(self.like), carry | {"grads": (first, middle, last)}

    def _filled(self, dx):
        """An error as what is sent, which has the shapes of an output."""
        return jax.tree.map(lambda y, d: jnp.zeros(y.shape, y.dtype) if d is None else d, self.like, dx)

    def _from(self, stage, v):
        """What this stage has, everywhere."""
        if jnp.issubdtype(v.dtype, jax.dtypes.prng_key):
            data = self._from(stage, jax.random.key_data(v))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(v))
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

    `work`, `micro`, `part`, and whether it is the `first` place of all, the `last`; where in their rooms the `inbox` of
    this work, the residuals of `heads` and of what is `kept`, and the `deltas` are; and where to put what comes from
    the `left`, the `right` and `here`, which is behind all the rest for what nobody needs.
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
        own = {"work": " FBW".index(w.kind), "micro": w.micro, "part": w.part, "first": j == 0, "last": j == last}
        for name, value in own.items():
            columns[name][t, s] = value
    return columns, room
