"""Cells: layers that run many times with the same parameters, through time here and over trees in tree.py.

The gradient of a cell is a sum over its steps, as it is one over the examples of a batch. So it is taken once, of the
residuals and deltas of all steps with the steps folded into the batch: one matrix product outside of the loop.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.errors import LayerError, at, floats, show
from jbp.layer import Layer
from jbp.layers.recurrent.gru import GRUCell
from jbp.layers.recurrent.lstm import LSTMCell
from jbp.layers.recurrent.sequence import Cell, OverTime, back, checked_state, closed, forth, like, opened, until
from jbp.numerics import Static, fold, scan, time_first

State = int | tuple["State", ...]


def folds(cell: Layer, params: Any, x: Any) -> bool:
    """Whether the steps may be folded into the batch: every residual and delta of the cell has it on its first axis.

    That is looked at by shape, with a batch of 2 and one of 3. It is not so for BatchNorm, whose statistics belong to
    no example, nor for an LSTM inside of a cell, which puts its own time first.
    """
    leaves, structure = jax.tree.flatten((params, x))
    return _folds(cell, structure, len(jax.tree.leaves(params)), tuple((v.shape, v.dtype) for v in leaves))


@lru_cache(maxsize=1024)
def _folds(cell, structure, count, leaves):
    def kept(params, x):
        y, residuals = cell.forward(params, x)
        return residuals, cell.backward(params, residuals, y)[1]

    def looked_at(n):
        sized = [(n, *shape[1:]) if k >= count else shape for k, (shape, _) in enumerate(leaves)]
        arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, (_, dtype) in zip(sized, leaves, strict=True)]
        found, shape = jax.tree.flatten(jax.eval_shape(kept, *jax.tree.unflatten(structure, arrays)))
        return [v.shape for v in found], shape

    (two, structure_two), (three, structure_three) = looked_at(2), looked_at(3)
    return structure_two == structure_three and all(
        a[:1] == (2,) and b == (3, *a[1:]) for a, b in zip(two, three, strict=True)
    )


def gradient(cell: Layer, folded: bool, residuals: Any, delta: Any) -> Any:
    """The cell's gradient over all steps, which are the first axis of residuals and delta."""
    if folded:
        return cell.gradient(*jax.tree.map(fold, (residuals, delta)))

    def step(total, now):
        return jax.tree.map(jnp.add, total, cell.gradient(*now)), None

    one = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), (residuals, delta))
    zero = jax.tree.map(lambda g: jnp.zeros(g.shape, g.dtype), jax.eval_shape(cell.gradient, *one))
    return scan(step, zero, (residuals, delta))[0]


def advance(cell: Layer, params: Any, residuals: Any) -> Any:
    """The parameters, their buffers moved on once for each step."""
    if type(cell).advance is Layer.advance:
        return params
    return scan(lambda params, r: (cell.advance(params, r), None), params, residuals)[0]


def same_state(layer: Layer, state: Any, new: Any) -> None:
    """An error unless a cell's new state is like the old one."""
    if show(new) != show(state):
        raise LayerError(
            layer,
            f"got a cell from the state {show(state)} to {show(new)}; expected it to keep the state's shape and dtype. "
            "Let the cell end in as many features as it is given.",
        )


@dataclass(frozen=True)
class Recurrent(OverTime):
    """(y_t, s_t) of (x_t, s_{t−1}) by a cell, any layer of a step: run through time from the state zero.

        (ds_{t−1}, dx_t) = what the cell returns for (ds_t, dy_t)      dθ = Σ_t the cell's gradient

    A cell is an LSTMCell, a GRUCell and the like, which knows its state: `Recurrent(LSTMCell(8))`. Or it is any layer
    from the pair (s_{t−1}, x_t) to (s_t, y_t), the state first; then `state` is the number of its state's features, or
    a tuple of them for a state of several arrays (b, n). An Elman network is
    `Recurrent(Serial(Concatenate(), Dense(h), Tanh(), FanOut()), h)`.

    The gradient is taken once, outside of the loop, with time folded into the batch, for every cell whose residuals and
    deltas have the batch in front, as those of Dense, activations and combinators of them do. For others (BatchNorm
    inside) it is summed in a loop, step by step. Keeps what the cell keeps, of every step; parameters are the cell's.
    The state starts at zero, or at that of (x, state); with `return_state` the output is (y, s_T). On (x, lengths) each
    example ends at its own length, s_T too. Shapes: x (b, t, ...), y (b, t, ...). (Werbos, *Backpropagation through
    time*, 1990.) Raises LayerError for a cell that does not keep its state's shape.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = Recurrent(GRUCell(4)).init(jax.random.key(0), x)
    >>> Recurrent(GRUCell(4))(params, x).shape
    (2, 5, 4)
    """

    cell: Layer
    state: State | None = None
    return_state: bool = False

    as_one: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.state is None and not isinstance(self.cell, Cell):
            raise LayerError(
                self,
                "got a cell that does not know its state, and no state; expected the number of its features. "
                "Write Recurrent(cell, 8) for a state (b, 8).",
            )

    def _turned(self, pair):
        """(state, x) as the cell wants it, and what the cell gives as (state, y)."""
        return (pair[1], pair[0]) if isinstance(self.cell, Cell) else pair

    def _zero(self, batch, dtype):
        if isinstance(self.cell, Cell):
            return self.cell._zero((batch,), dtype)
        return jax.tree.map(lambda n: jnp.zeros((batch, n), dtype), self.state)

    def _start(self, x, given):
        zero = self._zero(x.shape[0], x.dtype)
        return zero if given is None else checked_state(self, given, zero)

    def _one(self, x):
        return jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype)

    def _opened(self, x):
        x, state, n, form = opened(self, x)
        return floats(self, x, "(batch, time, ...)", least=2), state, n, form

    def _pair(self, y):
        if not isinstance(y, tuple | list) or len(y) != 2:
            raise LayerError(
                self,
                f"got a cell that gives {show(y)}; expected a pair, the new state and an output. "
                "End it with FanOut() to give out the state.",
            )
        return self._turned(y)

    def init(self, key, x, /):
        x = self._opened(x)[0]
        with at(self, ".cell"):
            start = jax.eval_shape(lambda: self._zero(x.shape[0], x.dtype))
            return self.cell.init(key, self._turned((start, self._one(x))))

    def forward(self, params, x, /):
        x, given, n, form = self._opened(x)
        x = until(x, n)
        start = self._start(x, given)

        def step(state, x):
            with at(self, ".cell"):
                y, r = self.cell.forward(params, self._turned((state, x)))
            new, y = self._pair(y)
            same_state(self, state, new)
            return new, (y, r)

        last, (y, residuals) = forth(step, start, time_first(x), n if self.return_state else None)
        y = until(jax.tree.map(time_first, y), n)
        folded = folds(self.cell, params, self._turned((start, self._one(x))))
        return ((y, last) if self.return_state else y), (n, residuals, Static((folded, form, given is not None)))

    def backward(self, params, residuals, dy, /):
        n, residuals, known = residuals
        _, form, given = known.value
        dy, dlast = dy if self.return_state else (dy, None)
        dy = jax.tree.map(time_first, until(dy, n))

        def step(dstate, now):
            dy, r = now
            with at(self, ".cell"):
                down, delta = self.cell.backward(params, r, self._turned((dstate, dy)))
            dstate, dx = self._turned(down)
            return dstate, (dx, delta)

        first = jax.tree.leaves(dy)[0]
        zero = self._zero(first.shape[1], first.dtype)
        dstate, (dx, delta) = back(step, zero, (dy, residuals), dlast, n)
        return closed(form, until(time_first(dx), n), dstate if given else None), delta

    def gradient(self, residuals, delta, /):
        _, residuals, known = residuals
        with at(self, ".cell"):
            return gradient(self.cell, known.value[0], residuals, delta)

    def advance(self, params, residuals, /):
        return advance(self.cell, params, residuals[1])

    def reference(self, params, x, /):
        x, state, n, _ = opened(self, x)
        state, ys = self._start(x, state), []
        if not x.shape[1]:
            return self.forward(params, x if state is None else (x, state))[0]
        for t in range(x.shape[1]):
            live = jnp.full(x.shape[0], True) if n is None else t < n
            now = jnp.where(like(live, x[:, t]), x[:, t], 0)
            new, y = self._turned(self.cell.reference(params, self._turned((state, now))))
            state = jax.tree.map(lambda a, b, live=live: jnp.where(like(live, a), a, b), new, state)
            ys.append(jax.tree.map(lambda v, live=live: jnp.where(like(live, v), v, 0), y))
        y = jax.tree.map(lambda *y: jnp.stack(y, 1), *ys)
        return (y, state) if self.return_state else y


CASES = (
    Case(Recurrent(LSTMCell(2)), (f(2, 4, 3), (f(2, 2), f(2, 2)))),
    Case(Recurrent(GRUCell(2), return_state=True), (f(3, 4, 1), i(3, below=5))),
)
