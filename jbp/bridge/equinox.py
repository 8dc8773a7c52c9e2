"""A layer as a module of Equinox."""

from typing import Any

import equinox as eqx

from jbp.layer import Layer
from jbp.params import buffers, merge, trainable
from jbp.sweep import initialize


class Module(eqx.Module):
    """`module(x, state) -> (y, state)`, as Equinox's own BatchNorm: the derivative is the layer's own backward pass.

        module, state = eqx.nn.make_with_state(Module)(layer, x, key=key)

    The state holds the buffers, and moves on with each call. x is a batch, not one example of it, so there is no vmap.
    With eqx.nn.inference_mode(module) it is layer.evaluation().
    """

    params: Any
    index: eqx.nn.StateIndex
    layer: Layer = eqx.field(static=True)
    inference: bool

    def __init__(self, layer: Layer, x: Any, *, key: Any):
        params = initialize(layer, key, x)
        self.params, self.layer, self.inference = trainable(params), layer, False
        self.index = eqx.nn.StateIndex(buffers(params))

    def __call__(self, x: Any, state: eqx.nn.State) -> tuple[Any, eqx.nn.State]:
        params = merge(self.params, state.get(self.index))
        if self.inference:
            return self.layer.evaluation()(params, x), state
        y, advanced = self.layer(params, x, has_aux=True)
        return y, state.set(self.index, buffers(advanced))
