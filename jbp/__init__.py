# pyright: strict
"""jbp: neural networks in JAX whose backward pass is written by hand.

Layers are in `jbp.layers`, losses in `jbp.losses`, whole networks in `jbp.recipes`, training in `jbp.train`. Here are
the protocol, the combinators that make layers of layers, and the sweep.
"""

import warnings
from typing import Any

from jbp import layers, losses, recipes
from jbp.bridge import as_function
from jbp.combinators import (
    Frozen,
    Graph,
    LowRankAdapter,
    Parallel,
    Passing,
    Remat,
    Repeat,
    Residual,
    Reversible,
    Serial,
    Sublayer,
    Tied,
    TimeDistributed,
    freeze,
    replace,
)
from jbp.errors import LayerError
from jbp.files import load, save
from jbp.layer import Estimator, Layer
from jbp.params import Buffer, apply_updates, buffers, cast, labels, merge, trainable
from jbp.readers import draw, summary
from jbp.sweep import Aux, value_and_grad

__version__ = "0.1.0"

__all__ = [
    "Aux", "Buffer", "Estimator", "Frozen", "Graph", "Layer", "LayerError", "LowRankAdapter", "Parallel", "Passing",
    "Remat", "Repeat", "Residual", "Reversible", "Serial", "Sublayer", "Tied", "TimeDistributed", "apply_updates",
    "as_function", "buffers", "cast", "draw", "freeze", "labels", "layers", "load", "losses", "merge", "recipes",
    "replace", "save", "summary", "trainable", "value_and_grad",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Layers and losses under the names that they had here before 0.1, for one release."""
    for home in (layers, losses):
        if name in home.__all__:
            warnings.warn(
                f"jbp.{name} has moved; write {home.__name__}.{name}. The old name goes with the next release.",
                DeprecationWarning,
                stacklevel=2,
            )
            return getattr(home, name)
    raise AttributeError(f"module 'jbp' has no attribute {name!r}")
