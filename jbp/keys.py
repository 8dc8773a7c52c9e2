"""Random keys as buffers: there from the start, split at each step, left alone once training is over."""

from typing import Any

import jax
import jax.numpy as jnp

from jbp.layer import Layer
from jbp.params import Buffer


def split(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the next key."""
    return params | {"key": Buffer(jax.random.split(params["key"].value, 1)[0])}


def apart(params: Any, index: Any) -> Any:
    """The parameters with keys that are those of one device alone, the one of this index."""

    def leaf(p):
        if not jnp.issubdtype(p.dtype, jax.dtypes.prng_key):
            return p
        return jax.vmap(lambda key: jax.random.fold_in(key, index))(p.reshape(-1)).reshape(p.shape)

    return jax.tree.map(leaf, params)


class Keyed(Layer):
    """A layer whose one parameter is a key. `still` says that it draws nothing, as once training is over."""

    still = False

    @property
    def advances(self) -> bool:
        return not self.still

    def init(self, key, x, /):
        return {"key": Buffer(key)}

    def gradient(self, residuals, delta, /):
        return {"key": None}

    def advance(self, params, residuals, /):
        return split(params) if self.advances else params
