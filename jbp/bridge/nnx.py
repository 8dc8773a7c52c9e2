"""A layer as a module of Flax NNX."""

from functools import partial
from typing import Any

import jax
from flax import nnx

from jbp.layer import Layer
from jbp.params import buffers, merge, trainable
from jbp.sweep import initialize


class Buffers(nnx.Variable):
    """What the loss does not move: running statistics, keys of dropout, frozen weights."""


class Module(nnx.Module):
    """`Module(layer, x, rngs=rngs)`, called with x: the derivative is the layer's own backward pass.

    Its `params` are an nnx.Param for each array, by path, so nnx.grad and nnx.Optimizer move them; its `buffers` are a
    Buffers, and move on with each call. After model.eval() it is layer.evaluation(). x is an input or its shape.
    """

    def __init__(self, layer: Layer, x: Any, *, rngs: nnx.Rngs):
        params = initialize(layer, rngs.params(), x)
        self.layer = layer
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(trainable(params))
        name = partial(jax.tree_util.keystr, simple=True, separator="/")
        self.paths = tuple(name(path) for path, _ in leaves)
        self.params = nnx.Dict({path: nnx.Param(leaf) for path, (_, leaf) in zip(self.paths, leaves, strict=True)})
        self.buffers = Buffers(buffers(params))
        self.deterministic = False  # which model.eval() sets

    def __call__(self, x: Any) -> Any:
        trained = self.structure.unflatten([self.params[path].get_value() for path in self.paths])
        params = merge(trained, self.buffers.get_value())
        if self.deterministic:
            return self.layer.evaluation()(params, x)
        y, advanced = self.layer(params, x, has_aux=True)
        self.buffers.set_value(buffers(advanced))
        return y
