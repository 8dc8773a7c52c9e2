"""Random keys as buffers: there from the start, split at each step, left alone once training is over."""

from typing import Any

import jax

from jbp.layer import Layer
from jbp.params import Buffer


def split(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the next key."""
    return params | {"key": Buffer(jax.random.split(params["key"].value, 1)[0])}


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
