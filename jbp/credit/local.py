"""Blocks that learn by themselves: each has a loss of its own, and no error goes from one to another."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.combinators.sequence import Serial
from jbp.credit.rule import Blocks, RuleInference, onto
from jbp.errors import LayerError, TreeError, at, show
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Tanh
from jbp.layers.activation.piecewise import ReLU
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.layers.recurrent.elman import Elman
from jbp.layers.structure.move import Flatten
from jbp.losses.cross_entropy import SoftmaxCrossEntropy
from jbp.losses.regression import MeanSquaredError
from jbp.numerics import chosen, wide

SMALL = 1e-6


@dataclass(frozen=True)
class LocalLosses(Blocks):
    """(y_1, ..., y_n): what each block's own head makes of h_l = f_l(h_{l−1}), h_0 = x.  y_n = h_n

        y_l = h_l A_l + a_l      dh_l = dy_l A_lᵀ, and no error from above      dA_l, da_l = the head's, of dy_l

    Train it with `EachOutput(loss)`, which is the loss of every one of them. The blocks are the layers of a Serial up
    to an activation, or up to the next layer with weights. A head joins all that an example has at h_l with what it has
    at y_n; where the two differ in the last axis alone, that axis (each step of a sequence by itself). What f_l sends
    down goes nowhere, but for that of f_1, which is dx. `evaluation` gives the network with y_n alone.

    delta is (those of the blocks, of the heads). Keeps what the blocks and heads keep. Parameters: {"layer": those of
    the Serial, "feedback": (A_1 and a_1, ...)}. (Nøkland & Eidnes, *Training Neural Networks with Local Error Signals*,
    2019, the prediction loss; Belilovsky et al., *Greedy Layerwise Learning Can Scale to ImageNet*, 2019.) Raises
    LayerError for a block that gives anything but one array.

    >>> net, x = LocalLosses(Serial(Dense(8), Tanh(), Dense(4), Tanh(), Dense(2))), jnp.ones((3, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> [y.shape for y in net(params, x)]
    [(3, 2), (3, 2), (3, 2)]
    """

    layer: Serial

    def _feedback(self, key, shapes):
        heads = enumerate(shapes[1:-1])
        return tuple(onto(h, shapes[-1]).init(jax.random.fold_in(key, 2 * k + 1), h) for k, h in heads)

    def forward(self, params, x, /):
        heads = self._own(params)[1]
        y, (kept, values) = super().forward(params, x)
        with at(self, ".heads"):
            made = [onto(h, y).forward(p, h) for p, h in zip(heads, values[1:-1], strict=True)]
        return (*(v for v, _ in made), y), (kept, values, tuple(r for _, r in made))

    def backward(self, params, residuals, dy, /):
        own, heads = self._own(params)
        kept, (_, *hidden, y), read = residuals
        rows = zip(hidden, heads, read, dy[:-1], strict=True)
        down = [onto(h, y).backward(p, r, d) for h, p, r, d in rows]
        with at(self):
            rows = zip(self._blocks(own), kept, [*(dh for dh, _ in down), dy[-1]], strict=True)
            sent = [block.backward(p, r, d) for (block, p), r, d in rows]
        return sent[0][0], (tuple(d for _, d in sent), tuple(d for _, d in down))

    def gradient(self, residuals, delta, /):
        kept, (_, *hidden, y), read = residuals
        with at(self):
            grads = [block.gradient(r, d) for block, r, d in zip(self._alone(), kept, delta[0], strict=True)]
        heads = [onto(h, y).gradient(r, d) for h, r, d in zip(hidden, read, delta[1], strict=True)]
        return {"layer": self._joined(grads), "feedback": tuple(heads)}

    def reference(self, params, x, /):
        own, heads = self._own(params)
        values = [x]
        for block, p in self._blocks(own):
            values.append(block.reference(p, values[-1]))
        _, *hidden, y = values
        return (*(onto(h, y).reference(p, h) for p, h in zip(heads, hidden, strict=True)), y)

    def evaluation(self):
        return RuleInference(self.layer.evaluation())


@dataclass(frozen=True)
class EachOutput(Layer):
    """y = Σ_k f(y_k, t), one loss of several outputs with the same targets.      dy_k = f's own, of dy.

    Takes ((y_1, ..., y_n), *targets): what LocalLosses gives. Keeps what the losses keep.

    >>> outputs, target = (jnp.ones((3, 2)), jnp.zeros((3, 2))), jnp.zeros((3, 2))
    >>> EachOutput(MeanSquaredError())((), (outputs, target))
    Array(1., dtype=float32)
    """

    layer: Layer

    def _pairs(self, x):
        if not isinstance(x, tuple | list) or not x or not isinstance(x[0], tuple | list) or not x[0]:
            raise LayerError(
                self,
                f"got x {show(x)}; expected (outputs, *targets), the outputs a tuple. "
                "Pass what a network with LocalLosses gives.",
            )
        outputs, *targets = x
        return [(y, *targets) for y in outputs]

    def forward(self, params, x, /):
        with at(self):
            found = [self.layer.forward(params, pair) for pair in self._pairs(x)]
        values, residuals = zip(*found, strict=True)
        return sum(values[1:], values[0]), residuals

    def backward(self, params, residuals, dy, /):
        with at(self):
            outputs, *targets = zip(*(self.layer.backward(params, r, dy)[0] for r in residuals), strict=True)
        return (outputs, *(None if t[0] is None else sum(t[1:], t[0]) for t in targets)), ()

    def reference(self, params, x, /):
        values = [self.layer.reference(params, pair) for pair in self._pairs(x)]
        return sum(values[1:], values[0])


@dataclass(frozen=True)
class ForwardForward(Blocks):
    """(g_1, ..., g_n), g_l = mean h_l² − θ, the goodness of what each block makes: h_l = f_l(h_{l−1} / |h_{l−1}|).

        dh_l = 2 h_l dg_l / its size, and no error from above

    |h| is the root of the mean of its squares over an example, so that no goodness is passed on; x comes as it is. To
    learn, every block tells real examples from false ones by its own goodness, and there is no other error: train it
    with `BinaryCrossEntropy` on (g, real), real (b, n) 1 or 0. To classify, write the label into x, the right one into
    a real example and a wrong one into a false one, and then take the label for which Σ g is highest: `labelled` writes
    them, `ranked` takes it. θ is `threshold`. The blocks are the layers of a Serial up to an activation, which should
    be a ReLU, or up to the next layer with weights. What f_l sends down goes nowhere, but for that of f_1, which is dx.

    delta is that of each block. Keeps what the blocks keep. Parameters are those of the Serial. Shapes: x (b, ...), g
    (b, n). (Hinton, *The Forward-Forward Algorithm*, 2022.) Raises LayerError for a block that gives anything but one
    array.

    >>> net, x = ForwardForward(Serial(Dense(8), ReLU(), Dense(4), ReLU())), jnp.ones((3, 5))
    >>> net(net.init(jax.random.key(0), x), x).shape
    (3, 2)
    """

    beside = False

    layer: Serial
    threshold: float = 1.0

    def _goodness(self, h):
        axes = tuple(range(1, h.ndim))
        return (jnp.square(wide(h)).sum(axes) / max(math.prod(h.shape[1:]), 1)).astype(h.dtype)

    def _passed(self, h):
        """h without its goodness."""
        size = jnp.sqrt(self._goodness(h).reshape(h.shape[0], *(1,) * (h.ndim - 1)) + SMALL)
        return h / size

    def forward(self, params, x, /):
        made, kept = [], []
        for k, (block, p) in enumerate(self._blocks(params)):
            x, r = self._up(k, block, p, self._passed(x) if k else x)
            made.append(x)
            kept.append(r)
        return jnp.stack([self._goodness(h) for h in made], -1) - self.threshold, (tuple(kept), tuple(made))

    def backward(self, params, residuals, dy, /):
        kept, made = residuals
        sent = []
        with at(self):
            for k, ((block, p), r, h) in enumerate(zip(self._blocks(params), kept, made, strict=True)):
                size = max(math.prod(h.shape[1:]), 1)
                d = dy[:, k].reshape(h.shape[0], *(1,) * (h.ndim - 1))
                sent.append(block.backward(p, r, (2 / size) * d * h))
        return sent[0][0], tuple(delta for _, delta in sent)

    def gradient(self, residuals, delta, /):
        with at(self):
            grads = [block.gradient(r, d) for block, r, d in zip(self._alone(), residuals[0], delta, strict=True)]
        return self._joined(grads)

    def reference(self, params, x, /):
        found = []
        for k, (block, p) in enumerate(self._blocks(params)):
            if k:
                axes = tuple(range(1, x.ndim))
                x = x / jnp.sqrt(jnp.mean(x * x, axes, keepdims=True) + SMALL)
            x = block.reference(p, x)
            found.append(jnp.mean(x * x, tuple(range(1, x.ndim))) - self.threshold)
        return jnp.stack(found, -1)


def labelled(x: Any, label: Any, classes: int) -> Any:
    """x (b, ...) with the label in the place of its first `classes` numbers: 1 at the label, else 0.

    Raises TreeError if there are fewer in an example.

    >>> labelled(jnp.full((1, 5), 7.0), jnp.array([2]), 3)
    Array([[0., 0., 1., 7., 7.]], dtype=float32)
    """
    flat = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    if flat.shape[1] < classes:
        raise TreeError(
            f"labelled: got x {show(x)}; expected {classes} numbers or more in each example. "
            "Join the one-hot labels to it in an axis of their own."
        )
    written = chosen(label, 0, classes).astype(x.dtype)
    return jnp.concatenate([written, flat[:, classes:]], -1).reshape(x.shape)


def ranked(net: Layer, params: Any, x: Any, classes: int) -> Any:
    """Scores (b, classes): the goodness, summed over the blocks, of x with each label written into it.

    >>> net, x = ForwardForward(Serial(Dense(8), ReLU())), jnp.ones((4, 5))
    >>> ranked(net, net.init(jax.random.key(0), x), x, 3).shape
    (4, 3)
    """

    def score(label):
        return net.forward(params, labelled(x, jnp.full(x.shape[:1], label), classes))[0].sum(-1)

    return jax.vmap(score, out_axes=-1)(jnp.arange(classes))


CASES = (
    Case(LocalLosses(Serial(Dense(4), Tanh(), Dense(3), Tanh(), Dense(2))), f(3, 5)),
    Case(LocalLosses(Serial(Conv(2), ReLU(), Flatten(), Dense(3))), f(2, 5, 3, 2)),
    Case(LocalLosses(Serial(Elman(3), Dense(2))), f(2, 4, 3)),
    Case(ForwardForward(Serial(Dense(4), ReLU(), Dense(3), ReLU())), f(3, 5)),
    Case(ForwardForward(Serial(Conv(2), ReLU(), Flatten(), Dense(3), ReLU()), 0.5), f(2, 5, 3, 2)),
)
LOSSES = (
    Case(EachOutput(MeanSquaredError()), ((f(3, 2), f(3, 2)), f(3, 2))),
    Case(EachOutput(SoftmaxCrossEntropy()), ((f(3, 5), f(3, 5)), i(3, below=5))),
)
