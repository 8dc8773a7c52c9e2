"""The error of the output, sent to every block at once."""

from dataclasses import dataclass
from typing import Any

import jax

from jbp.cases import Case, f
from jbp.combinators.sequence import Serial
from jbp.credit.rule import Blocks, onto
from jbp.errors import at
from jbp.layers.activation.elementwise import Tanh
from jbp.layers.activation.piecewise import ReLU
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.layers.recurrent.lstm import LSTM
from jbp.layers.structure.move import Flatten
from jbp.params import Buffer


@dataclass(frozen=True)
class DirectFeedbackAlignment(Blocks):
    """y = h_n = f_n(... f_1(x)).      dh_l = dy B_lᵀ for l < n, B_l fixed and random      dθ_l = f_l's own, of dh_l

    The blocks f_l are the layers of a Serial up to an activation, or up to the next layer with weights. None hears of
    another: what f_l sends down goes nowhere, but for that of f_1, which is dx. B_l joins all that an example has at
    h_l with all that it has at y; where the two differ in the last axis alone, that axis (each step of a sequence by
    itself). Its elements are normal with a variance of 1 / their number in h_l, so that dh_l is about as long as dy.

    delta is that of each block. Keeps what the blocks keep. Parameters: {"layer": those of the Serial, "feedback":
    Buffer((B_1, ..., B_{n−1}))}. (Nøkland, *Direct Feedback Alignment Provides Learning in Deep Neural Networks*,
    2016.) Raises LayerError for a block that gives anything but one array.

    >>> net, x = DirectFeedbackAlignment(Serial(Dense(8), Tanh(), Dense(4), Tanh(), Dense(2))), jnp.ones((3, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params["feedback"].value)
    ({'w': (2, 8)}, {'w': (2, 4)})
    """

    layer: Serial

    def _feedback(self, key, shapes):
        def drawn(i, h):
            project = onto(shapes[-1], h, bias=False)
            like = jax.eval_shape(project.init, key, shapes[-1])
            scale = max(jax.tree.leaves(like)[0].shape[-1], 1) ** -0.5
            one = jax.random.fold_in(key, 2 * i + 1)
            return jax.tree.map(lambda w: jax.random.normal(one, w.shape, w.dtype) * scale, like)

        return Buffer(tuple(drawn(i, h) for i, h in enumerate(shapes[1:-1])))

    def backward(self, params, residuals, dy, /):
        own, feedback = self._own(params)
        kept, values = residuals
        errors = [*(self._sent(b, dy, h) for b, h in zip(feedback.value, values[1:-1], strict=True)), dy]
        rows = zip(self._blocks(own), kept, errors, strict=True)
        with at(self):
            sent = [block.backward(p, r, d) for (block, p), r, d in rows]
        return sent[0][0], tuple(delta for _, delta in sent)

    def _sent(self, b: Any, dy: Any, h: Any) -> Any:
        return onto(dy, h, bias=False).forward(b, dy)[0]

    def gradient(self, residuals, delta, /):
        with at(self):
            grads = [block.gradient(r, d) for block, r, d in zip(self._alone(), residuals[0], delta, strict=True)]
        return self._whole(self._joined(grads))


CASES = (
    Case(DirectFeedbackAlignment(Serial(Dense(4), Tanh(), Dense(3), Tanh(), Dense(2))), f(3, 5)),
    Case(DirectFeedbackAlignment(Serial(Conv(2), ReLU(), Flatten(), Dense(3))), f(2, 5, 3, 2)),
    Case(DirectFeedbackAlignment(Serial(LSTM(3), Dense(2))), f(2, 4, 3)),
)
