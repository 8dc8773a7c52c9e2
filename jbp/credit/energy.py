"""Networks that settle: errors and states find their values by themselves, each from its neighbours."""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.combinators.sequence import Serial
from jbp.credit.rule import Blocks, example_error
from jbp.errors import at
from jbp.fields import Positive, Range, Size
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Elementwise, Tanh
from jbp.layers.activation.piecewise import HardSigmoid, ReLU
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.layers.pool.average import AveragePool
from jbp.layers.recurrent.lstm import LSTM
from jbp.layers.structure.join import Identity
from jbp.layers.structure.move import Flatten

START = (
    0.3  # of square matrices as Dense draws them the norm is near 2, and what couples a row of states is below 1 then
)


@dataclass(frozen=True)
class PredictiveCoding(Blocks):
    """y = f_n(... f_1(x)).  Backward, values v_l with v_0 = x settle in the energy F = Σ ½ |v_l − f_l(v_{l−1})|²:

        v_n = y − ν dy, held there      e_l = v_l − f_l(v_{l−1})
        v_l ← v_l − r (e_l − what f_{l+1} returns for e_{l+1}),  from what f_1, ..., f_l gave, in `steps` steps
        dθ_l = f_l's own at v_{l−1}, of −e_l / ν      dx = what f_1 returns for −e_1 / ν

    r is `rate`, ν is `nudge` times the number of examples: the output is held a step of `nudge` down the example's own
    loss, for the loss ½ |y − t|² of an example and nudge=1 at t itself. Settled, e_l is what f_{l+1} returns for
    e_{l+1}: backpropagation, but of that part of the output's error which the values have not taken up, (I + Σ JᵀJ)⁻¹
    of it where f is linear, J the derivatives of y by the h_l. With `fixed` the predictions f_l(v_{l−1}) and their
    derivatives stay what they were in the forward pass, nothing is taken up, and it is backpropagation whatever ν is,
    with rate=1 after as many steps as there are blocks. Without, r is to be less than 2 / (1 + |J_l|²).

    The blocks are the layers of a Serial up to an activation, or up to the next layer with weights. delta is the
    gradient. Parameters are those of the Serial. (Whittington & Bogacz, *An Approximation of the Error Backpropagation
    Algorithm in a Predictive Coding Network*, 2017; Millidge, Tschantz & Buckley, *Predictive Coding Approximates
    Backprop along Arbitrary Computation Graphs*, 2022, for `fixed`.) Raises LayerError for a rate that is not above 0
    and at most 1, and for a block that gives anything but one array.

    >>> net = Serial(Dense(8), Tanh(), Dense(2))
    >>> x = jnp.ones((3, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> settled = PredictiveCoding(net, steps=2, rate=1.0, fixed=True)
    >>> ours, true = (jax.grad(lambda p: f(p, x).sum())(params) for f in (settled, net))
    >>> bool(angle(ours, true) < 0.1)
    True
    """

    estimator = "nonlinear"
    beside = False

    layer: Serial
    steps: Size = 20
    rate: Annotated[float, Range(0, 1, open="low")] = 0.1  # no energy here is less curved than 1: more overshoots
    nudge: Positive = 0.1
    fixed: bool = False

    def backward(self, params, residuals, dy, /):
        kept, h = residuals
        blocks, step = self._blocks(params), example_error(self.nudge, dy)
        held = h[-1] - step * dy

        def predicted(values):
            """(what each block gives, its residuals)"""
            if self.fixed:
                return h[1:], kept
            rows = zip(blocks, (h[0], *values), strict=True)
            up = [block.forward(p, v) for (block, p), v in rows]
            return [y for y, _ in up], [r for _, r in up]

        def settle(_, values):
            made, r = predicted(values)
            errors = [v - y for v, y in zip((*values, held), made, strict=True)]
            below = [blocks[k][0].backward(blocks[k][1], r[k], errors[k])[0] for k in range(1, len(blocks))]
            rows = zip(values, errors, below, strict=False)
            return tuple(v - self.rate * (e - b) for v, e, b in rows)

        with at(self):
            values = lax.fori_loop(0, self.steps, settle, tuple(h[1:-1]))
            made, r = predicted(values)
            errors = [(y - v) / step for v, y in zip((*values, held), made, strict=True)]
            down = [block.pull(p, r[k], errors[k]) for k, (block, p) in enumerate(blocks)]
        return down[0][0], self._joined(grads for _, grads in down)


@dataclass(frozen=True)
class EquilibriumPropagation(Blocks):
    """y = s_n, the last of states that settle: s_l = φ_l(f_l(s_{l−1}) + what f_{l+1} returns for s_{l+1}), s_0 = x.

        s^±: the states that settle where the last is φ_n(f_n(s_{n−1}) ∓ β dy), from those without it
        dθ_l = (what f_l's gradient is, at s_{l−1}, of s_l, with s^−, less that with s^+) / 2β      dx alike

    Each block is f_l, its layers but an activation at the end, φ_l. With Φ = Σ ⟨s_l, f_l(s_{l−1})⟩ the states are a
    stationary point of E = Σ G_l(s_l) − Φ, where G' is the inverse of φ. A nudge by the error moves it, and the
    contrast of ∂Φ/∂θ on both sides of it is the gradient of the loss at the settled y, up to β² and what has not
    settled. So the same settling serves both ways, and there is no backward pass. y is another function than the
    Serial's own, for its layers hear from above as well. `steps` times all states are set in turn, from the first,
    which never raises E where f_l is linear and φ_l rises; β is `nudge` times the number of examples, a step by the
    example's own error.

    States hold one another up, and no longer settle, where the weights between them are large: those begin at 0.3 of
    the size that the Serial gives them, and a small learning rate keeps them so. Scores are better made outside:
    `Serial(EquilibriumPropagation(body), Dense(10))`.

    delta is the gradient. Keeps the states. Parameters are those of the Serial. f_l: Dense, Conv, pools, Flatten.
    (Scellier & Bengio, *Equilibrium Propagation*, 2017; Ernoult et al., 2019, for Φ; Laborieux et al., *Scaling
    Equilibrium Propagation to Deep ConvNets*, 2021, for the two sides.) Raises LayerError for a block that gives
    anything but one array.

    >>> net, x = EquilibriumPropagation(Serial(Dense(8), HardSigmoid(), Dense(2)), steps=20), jnp.ones((3, 5))
    >>> net(net.init(jax.random.key(0), x), x).shape
    (3, 2)
    """

    estimator = "nonlinear"
    beside = False

    layer: Serial
    steps: Size = 20
    nudge: Positive = 0.1

    def init(self, key, x, /):
        params = super().init(key, x)
        return jax.tree.map(lambda w: START * w if w.ndim > 1 else w, params)

    def _pieces(self, params: Any) -> list[tuple[Serial, Any, Layer]]:
        """f_l, its parameters, and φ_l of each block."""
        pieces = []
        for block, p in self._blocks(params):
            k = len(block) - isinstance(block.layers[-1], Elementwise)
            up = block[:k]
            pieces.append((up, up.whole(block.parts(p)[:k]), block.layers[-1] if k < len(block) else Identity()))
        return pieces

    def _settled(self, pieces: Any, states: tuple[Any, ...], push: Any = None) -> tuple[Any, ...]:
        """The states after all steps, x first; push is what the last hears beside f."""

        def sweep(_, states):
            states = list(states)
            for k, (linear, p, act) in enumerate(pieces):
                heard = linear.forward(p, states[k])[0]
                if k + 1 < len(pieces):
                    g, q, _ = pieces[k + 1]
                    heard = heard + g.backward(q, g.forward(q, states[k + 1])[1], states[k + 2])[0]
                elif push is not None:
                    heard = heard + push
                states[k + 1] = act.forward((), heard)[0]
            return tuple(states)

        return lax.fori_loop(0, self.steps, sweep, states)

    def forward(self, params, x, /):
        pieces = self._pieces(params)
        with at(self):
            shapes = self._shapes(params, x)[1:]
            states = self._settled(pieces, (x, *(jnp.zeros(s.shape, s.dtype) for s in shapes)))
        return states[-1], ((), states)

    def backward(self, params, residuals, dy, /):
        pieces, states = self._pieces(params), residuals[1]
        step = example_error(self.nudge, dy)

        def contrast(push):
            """The derivatives of Φ by x and by the parameters, where the states have settled."""
            s = self._settled(pieces, states, push)
            rows = zip(pieces, s[:-1], s[1:], strict=True)
            down = [up.pull(p, up.forward(p, before)[1], after) for (up, p, _), before, after in rows]
            return down[0][0], [grads for _, grads in down]

        with at(self):
            low, high = contrast(step * dy), contrast(-step * dy)
        dx, grads = jax.tree.map(lambda a, b: (a - b) / (2 * step), low, high)
        whole = [
            block.whole([*up.parts(g), *[()] * (len(block) - len(up))])
            for block, (up, _, _), g in zip(self._alone(), pieces, grads, strict=True)
        ]
        return dx, self._joined(whole)

    def advance(self, params, residuals, /):
        return params

    def reference(self, params, x, /):
        return self.forward(params, x)[0]


CASES = (
    Case(PredictiveCoding(Serial(Dense(4), Tanh(), Dense(3), Tanh(), Dense(2)), 5), f(3, 5)),
    Case(PredictiveCoding(Serial(Conv(2), ReLU(), Flatten(), Dense(3)), 3, 1.0, 0.5, fixed=True), f(2, 5, 3, 2)),
    Case(PredictiveCoding(Serial(LSTM(3), Dense(2)), 3), f(2, 4, 3)),
    Case(EquilibriumPropagation(Serial(Dense(4), HardSigmoid(), Dense(3), Tanh(), Dense(2)), 5), f(3, 5)),
    Case(
        EquilibriumPropagation(Serial(Conv(2), HardSigmoid(), AveragePool((2, 2)), Flatten(), Dense(3)), 3),
        f(2, 4, 4, 2),
    ),
)
