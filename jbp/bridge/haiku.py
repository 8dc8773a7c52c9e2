"""A layer as a module of Haiku."""

from typing import Any

import haiku as hk
import jax

from jbp.layer import Layer
from jbp.params import buffers, merge, trainable
from jbp.sweep import initialize


class Module(hk.Module):
    """`Module(layer)`, called with x in hk.transform_with_state: the derivative is the layer's own backward pass.

    Each array that is trained is a parameter of Haiku's, named by its path; the state "buffers" moves on with each
    call. With deterministic=True it is layer.evaluation().
    """

    def __init__(self, layer: Layer, name: str | None = None):
        super().__init__(name)
        self.layer = layer

    def __call__(self, x: Any, deterministic: bool = False) -> Any:
        shapes = jax.eval_shape(lambda key: initialize(self.layer, key, x), jax.random.key(0))
        first = initialize(self.layer, hk.next_rng_key(), x) if hk.running_init() else shapes

        def parameter(path, like, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            return hk.get_parameter(name, like.shape, like.dtype, init=lambda *_: leaf)

        trained = jax.tree_util.tree_map_with_path(parameter, trainable(shapes), trainable(first))
        params = merge(trained, hk.get_state("buffers", (), init=lambda *_: buffers(first)))
        if deterministic:
            return self.layer.evaluation()(params, x)
        y, advanced = self.layer(params, x, has_aux=True)
        hk.set_state("buffers", buffers(advanced))
        return y
