"""A layer as a module of Flax Linen."""

from typing import Any

from flax import linen

from jbp.layer import Layer
from jbp.params import buffers, merge, trainable
from jbp.sweep import initialize


class Module(linen.Module):
    """`Module(layer)`, called with x: the derivative is the layer's own backward pass.

    What is trained is the parameter "layer" of the collection "params"; the buffers, running statistics and keys of
    dropout, are the collection "buffers", which moves on with each call where it is mutable:

        y, moved = module.apply({"params": params, "buffers": buffers}, x, mutable="buffers")

    With deterministic=True it is layer.evaluation().
    """

    layer: Layer

    @linen.compact
    def __call__(self, x: Any, deterministic: bool = False) -> Any:
        trained = self.param("layer", lambda key: trainable(initialize(self.layer, key, x)))
        fixed = self.variable("buffers", "layer", lambda: buffers(initialize(self.layer, self.make_rng("params"), x)))
        params = merge(trained, fixed.value)
        if deterministic:
            return self.layer.evaluation()(params, x)
        y, advanced = self.layer(params, x, has_aux=True)
        if self.is_mutable_collection("buffers") and not self.is_initializing():
            fixed.value = buffers(advanced)
        return y
