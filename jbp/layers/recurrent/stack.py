"""Recurrent layers on top of one another, with their states."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, at, show
from jbp.fields import Rate, Size
from jbp.layer import Layer
from jbp.layers.recurrent.bidirectional import Bidirectional
from jbp.layers.recurrent.gru import GRU
from jbp.layers.recurrent.lengths import gives_state, with_lengths
from jbp.layers.recurrent.lstm import LSTM
from jbp.layers.recurrent.sequence import OverTime, closed, joined, opened, parted
from jbp.layers.stochastic.dropout import Dropout
from jbp.numerics import Static


@dataclass(frozen=True)
class Stack(OverTime):
    """y = f(θ_n, ... drop(f(θ_2, drop(f(θ_1, x))))): `times` copies of f, dropout between them.

        dx = what f(θ_1) returns for what the first dropout returns for what f(θ_2) returns for ...

    PyTorch's num_layers: `Stack(LSTM(8), 2, dropout=0.1)`, and `Stack(Bidirectional(LSTM(8)), 2)` for bidirectional
    ones. The copies after the first see as many features as f gives. On (x, (s_1, ..., s_n)) each begins at a state of
    its own, and of f with `return_state` the output is (y, (s_1, ..., s_n)), the final ones. On (x, lengths) each
    example is as if it were alone. Keeps what they keep. Parameters are a tuple as of Serial(f, Dropout, f, ...);
    without `dropout` there are none between. `evaluation` leaves the dropout out. Shapes: x (b, t, ...), y as f's.
    (Graves et al., *Speech Recognition with Deep Recurrent Neural Networks*, 2013; Zaremba et al., *Recurrent Neural
    Network Regularization*, 2014.) Raises LayerError for another number of parameters or states.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = Stack(GRU(4), 2).init(jax.random.key(0), x)
    >>> Stack(GRU(4), 2)(params, x).shape
    (2, 5, 4)
    """

    layer: Layer
    times: Size
    dropout: Rate | None = None

    as_one: ClassVar[bool] = True

    @property
    def return_state(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return gives_state(self.layer)

    @property
    def advances(self):
        """Whether the dropout's keys move on; f may advance besides."""
        return bool(self.dropout)

    def _opened(self, x):
        x, states, n, form = opened(self, x)
        if states is not None and (not isinstance(states, tuple | list) or len(states) != self.times):
            raise LayerError(
                self,
                f"got the state {show(states)}; expected a tuple of {self.times} states, one for each layer. "
                "Leave the state out to begin at zero.",
            )
        return x, (None,) * self.times if states is None else states, n, form

    def _rows(self, n):
        """(label, layer, the number of the state or None), from the first on."""
        layer = self.layer if n is None else with_lengths(self.layer)
        rows = []
        for k in range(self.times):
            if k and self.dropout is not None:
                rows.append((f"[{k - 1}].dropout", Dropout(self.dropout), None))
            rows.append((f"[{k}]", layer, k))
        return rows

    def _each(self, n, what, *trees):
        rows = self._rows(n)
        for tree in trees:
            if not isinstance(tree, tuple | list) or len(tree) != len(rows):
                raise LayerError(
                    self,
                    f"got {what} {show(tree)}; expected a tuple of {len(rows)}, one for each layer and dropout. "
                    f"Are these the {what} of another network?",
                )
        return list(zip(rows, *trees, strict=True))

    def init(self, key, x, /):
        x, states, n, _ = self._opened(x)
        params = []
        for j, (label, layer, k) in enumerate(self._rows(n)):
            given = x if k is None else joined(x, states[k], n)
            with at(self, label):
                params.append(layer.init(jax.random.fold_in(key, j), given))
                y = jax.eval_shape(lambda p, v, f=layer: f.forward(p, v)[0], params[-1], given)
            x = y[0] if k is not None and self.return_state else y
        return tuple(params)

    def forward(self, params, x, /):
        x, states, n, form = self._opened(x)
        residuals, last = [], []
        for (label, layer, k), p in self._each(n, "parameters", params):
            with at(self, label):
                y, r = layer.forward(p, x if k is None else joined(x, states[k], n))
            x = y
            if k is not None and self.return_state:
                x, s = y
                last.append(s)
            residuals.append(r)
        known = Static((form, states[0] is not None))
        return ((x, tuple(last)) if self.return_state else x), (tuple(residuals), n, known)

    def _down(self, way, params, residuals, dy):
        residuals, n, known = residuals
        form, given = known.value
        d, dlast = dy if self.return_state else (dy, (None,) * self.times)
        dstates, rest = [], []
        for (label, layer, k), p, r in reversed(self._each(n, "parameters", params, residuals)):
            with at(self, label):
                d, after = getattr(layer, way)(p, r, (d, dlast[k]) if k is not None and self.return_state else d)
            rest.append(after)
            if k is not None:
                d, ds = parted(d, True if given else None, n)
                dstates.append(ds)
        return closed(form, d, tuple(reversed(dstates)) if given else None), tuple(reversed(rest))

    def backward(self, params, residuals, dy, /):
        return self._down("backward", params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down("pull", params, residuals, dy)

    def gradient(self, residuals, delta, /):
        residuals, n, _ = residuals
        grads = []
        for (label, layer, _), r, d in self._each(n, "residuals", residuals, delta):
            with at(self, label):
                grads.append(layer.gradient(r, d))
        return tuple(grads)

    def advance(self, params, residuals, /):
        residuals, n, _ = residuals
        return tuple(f.advance(p, r) for (_, f, _), p, r in self._each(n, "parameters", params, residuals))

    def evaluation(self):
        still = None if self.dropout is None else 0.0
        return replace(self, layer=self.layer.evaluation(), dropout=still)

    def reference(self, params, x, /):
        x, states, n, _ = self._opened(x)
        last = []
        for (_, layer, k), p in zip(self._rows(n), params, strict=True):
            x = layer.reference(p, x if k is None else joined(x, states[k], n))
            if k is not None and self.return_state:
                x, s = x
                last.append(s)
        return (x, tuple(last)) if self.return_state else x


CASES = (
    Case(Stack(GRU(3), 2), f(2, 4, 3)),
    Case(Stack(LSTM(2, return_state=True), 2, dropout=0.3), (f(2, 3, 2), ((f(2, 2), f(2, 2)), (f(2, 2), f(2, 2))))),
    Case(Stack(Bidirectional(GRU(2)), 2, dropout=0.3), (f(3, 4, 1), i(3, below=5))),
)
