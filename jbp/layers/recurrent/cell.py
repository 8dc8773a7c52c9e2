"""Cells: layers that run many times with the same parameters, through time here and over trees in tree.py.

The gradient of a cell is a sum over its steps, as it is one over the examples of a batch. So it is taken once, of the
residuals and deltas of all steps with the steps folded into the batch: one matrix product outside of the loop.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.errors import LayerError, at, floats, show
from jbp.layer import Layer
from jbp.numerics import Static, time_first

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
        both = residuals, delta
        residuals, delta = jax.tree.map(lambda v: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]), both)
        return cell.gradient(residuals, delta)

    def step(total, now):
        return jax.tree.map(jnp.add, total, cell.gradient(*now)), None

    one = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), (residuals, delta))
    zero = jax.tree.map(lambda g: jnp.zeros(g.shape, g.dtype), jax.eval_shape(cell.gradient, *one))
    return lax.scan(step, zero, (residuals, delta))[0]


def advance(cell: Layer, params: Any, residuals: Any) -> Any:
    """The parameters, their buffers moved on once for each step."""
    if type(cell).advance is Layer.advance:
        return params
    return lax.scan(lambda params, r: (cell.advance(params, r), None), params, residuals)[0]


def same_state(layer: Layer, state: Any, new: Any) -> None:
    """An error unless a cell's new state is like the old one."""
    if show(new) != show(state):
        raise LayerError(
            layer,
            f"got a cell from the state {show(state)} to {show(new)}; expected it to keep the state's shape and dtype. "
            "Let the cell end in as many features as it is given.",
        )


@dataclass(frozen=True)
class Recurrent(Layer):
    """(s_t, y_t) = cell(s_{t−1}, x_t): any layer from a pair to a pair, run through time from the state zero.

        (ds_{t−1}, dx_t) = what the cell sends down of (ds_t, dy_t)      dθ = Σ_t the cell's gradient

    The gradient is taken once, outside of the loop, with time folded into the batch, for every cell whose residuals and
    deltas have the batch in front, as those of Dense, activations and combinators of them do. For others (BatchNorm
    inside) it is summed in a loop, step by step. Keeps what the cell keeps, of every step; parameters are the cell's.
    `state` is the number of the state's features, or a tuple of them for a state of several arrays (b, n). An Elman
    network is `Recurrent(Serial(Concatenate(), Dense(h), Tanh(), FanOut()), h)`. Shapes: x (b, t, ...), y (b, t, ...).
    (Werbos, *Backpropagation through time*, 1990.) Raises LayerError for a cell that does not keep its state's shape.
    """

    cell: Layer
    state: State

    def _start(self, x):
        x = floats(self, x, "(batch, time, ...)", least=2)
        return jax.tree.map(lambda n: jnp.zeros((x.shape[0], n), x.dtype), self.state)

    def _pair(self, y):
        if not isinstance(y, tuple | list) or len(y) != 2:
            raise LayerError(
                self,
                f"got a cell that gives {show(y)}; expected a pair, the new state and an output. "
                "End it with FanOut() to give out the state.",
            )
        return y

    def init(self, key, x, /):
        with at(self, ".cell"):
            start = jax.eval_shape(lambda: self._start(x))
            return self.cell.init(key, (start, jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype)))

    def forward(self, params, x, /):
        start = self._start(x)

        def step(state, x):
            with at(self, ".cell"):
                y, r = self.cell.forward(params, (state, x))
            new, y = self._pair(y)
            same_state(self, state, new)
            return new, (y, r)

        _, (y, residuals) = lax.scan(step, start, time_first(x))
        one = jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype)
        return jax.tree.map(time_first, y), (residuals, Static(folds(self.cell, params, (start, one))))

    def backward(self, params, residuals, dy, /):
        def step(dstate, now):
            dy, r = now
            with at(self, ".cell"):
                (dstate, dx), delta = self.cell.backward(params, r, (dstate, dy))
            return dstate, (dx, delta)

        first = jax.tree.leaves(dy)[0]
        zero = jax.tree.map(lambda n: jnp.zeros((first.shape[0], n), first.dtype), self.state)
        _, (dx, delta) = lax.scan(step, zero, (jax.tree.map(time_first, dy), residuals[0]), reverse=True)
        return time_first(dx), delta

    def gradient(self, residuals, delta, /):
        with at(self, ".cell"):
            return gradient(self.cell, residuals[1].value, residuals[0], delta)

    def advance(self, params, residuals, /):
        return advance(self.cell, params, residuals[0])

    def reference(self, params, x, /):
        state, ys = self._start(x), []
        for t in range(x.shape[1]):
            state, y = self.cell.reference(params, (state, x[:, t]))
            ys.append(y)
        if not ys:
            return self.forward(params, x)[0]
        return jax.tree.map(lambda *y: jnp.stack(y, 1), *ys)
