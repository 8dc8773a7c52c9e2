"""Targets in place of errors: each block is told what it should have given, through learned inverses."""

from dataclasses import dataclass
from typing import Any

import jax

from jbp.cases import Case, f
from jbp.combinators.sequence import Serial
from jbp.credit.rule import Blocks, example_error, onto
from jbp.errors import at
from jbp.fields import NonNegative, Positive
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Tanh
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.layers.recurrent.elman import Elman
from jbp.layers.structure.move import Flatten
from jbp.params import Buffer


@dataclass(frozen=True)
class TargetPropagation(Blocks):
    """y = h_n = f_n(... f_1(x)), with a target t_l for what each block gives, and an inverse g_l of each between them.

        t_{n−1} = h_{n−1} − ν dh_{n−1}      dh_{n−1}, dθ_n = what f_n itself returns for dy
        t_{l−1} = h_{l−1} + g_l(t_l) − g_l(h_l)      the difference takes out what g_l gets wrong
        dθ_l = f_l's own, of (h_l − t_l) / ν, the gradient of ½ |f_l(h_{l−1}) − t_l|² / ν
        dφ_l = the gradient of the mean over the batch of ½ |g_l(f_l(z)) − z|², z = h_{l−1} + noise ε, of g_l alone

    The blocks are the layers of a Serial up to an activation, or up to the next layer with weights; there is a g_l for
    1 < l < n: an affine map and then `activation`, whose range should be that of h. ν is `nudge` times the number of
    examples, so that a target is a step of `nudge` down the example's own loss. With g_l = f_l⁻¹ and a small step it is
    a Gauss–Newton step in each h_l, and backpropagation where f_l is orthogonal.

    The gradient of φ does not depend on dy, and is not zero for dy = 0. delta is the gradient. Parameters: {"layer":
    those of the Serial, "feedback": {"inverses": (φ_2, ..., φ_{n−1}), "key": Buffer(key)}}; `advance` splits the key.
    (Lee, Zhang, Fischer & Bengio, *Difference Target Propagation*, 2015, algorithm 1.) Raises LayerError for a block
    that gives anything but one array.

    >>> net, x = TargetPropagation(Serial(Dense(8), Tanh(), Dense(4), Tanh(), Dense(2))), jnp.ones((3, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params["feedback"]["inverses"])
    (({'b': (8,), 'w': (4, 8)}, ()),)
    """

    estimator = "nonlinear"
    layer: Serial
    nudge: Positive = 0.1
    noise: NonNegative = 0.1
    activation: Layer = Tanh()  # noqa: RUF009

    @property
    def advances(self) -> bool:
        return self.noise > 0

    def _inverse(self, h: Any, before: Any) -> Layer:
        """g of a block that makes h out of what is before it."""
        return Serial(onto(h, before), self.activation)

    def _feedback(self, key, shapes):
        pairs = list(zip(shapes[2:-1], shapes[1:-2], strict=True))
        keys = [jax.random.fold_in(key, 2 * i + 1) for i in range(len(pairs) + 1)]
        inverses = [self._inverse(h, before).init(k, h) for k, (h, before) in zip(keys, pairs, strict=False)]
        return {"inverses": tuple(inverses), "key": Buffer(keys[-1])}

    def backward(self, params, residuals, dy, /):
        own, feedback = self._own(params)
        kept, h = residuals
        blocks, inverses, last = self._blocks(own), feedback["inverses"], len(kept) - 1
        step, key = example_error(self.nudge, dy), feedback["key"].value
        grads, learned = [()] * len(kept), [()] * len(inverses)
        with at(self):
            dx, grads[last] = blocks[last][0].pull(blocks[last][1], kept[last], dy)
            if not last:
                return dx, self._found(grads, learned)
            error = step * dx  # h − t of the block below
            for k in range(last - 1, -1, -1):
                block, p = blocks[k]
                dx, grads[k] = block.pull(p, kept[k], (error / step).astype(h[k + 1].dtype))
                if k:
                    g, phi = self._inverse(h[k + 1], h[k]), inverses[k - 1]
                    reached, target = (g.forward(phi, v)[0] for v in (h[k + 1], h[k + 1] - error))
                    learned[k - 1] = self._learned(block, p, g, phi, h[k], jax.random.fold_in(key, k))
                    error = reached - target
        return dx, self._found(grads, learned)

    def _learned(self, block, p, g, phi, before, key):
        """The gradient of the inverse: what is before the block, with noise, is to come back."""
        z = before + self.noise * jax.random.normal(key, before.shape, before.dtype)
        again, kept = g.forward(phi, block.forward(p, z)[0])
        return g.pull(phi, kept, (again - z) / max(z.shape[0], 1))[1]

    def _found(self, grads, learned):
        return {"layer": self._joined(grads), "feedback": {"inverses": tuple(learned), "key": None}}

    def advance(self, params, residuals, /):
        params = super().advance(params, residuals)
        key = jax.random.split(params["feedback"]["key"].value, 1)[0]
        return params | {"feedback": params["feedback"] | {"key": Buffer(key)}} if self.noise else params


CASES = (
    Case(TargetPropagation(Serial(Dense(4), Tanh(), Dense(3), Tanh(), Dense(2))), f(3, 5)),
    Case(TargetPropagation(Serial(Conv(2), Tanh(), Conv(3), Tanh(), Flatten(), Dense(3)), noise=0.0), f(2, 5, 3, 2)),
    Case(TargetPropagation(Serial(Elman(3), Elman(2), Dense(2))), f(2, 4, 3)),
)
