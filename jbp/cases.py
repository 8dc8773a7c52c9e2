"""A case: a layer with inputs that it takes. Each file of layers ends with its CASES; catalogue.py collects them.

`Case(layer, *inputs)` gives one input for each number of axes that the layer takes.
"""

from dataclasses import dataclass, field
from typing import Any

from jbp.layer import Layer


@dataclass(frozen=True)
class Array:
    """An input: its shape, for integers the number that they stay below, the numbers that it may hold, () for any."""

    shape: tuple[int, ...]
    below: int | None = None
    values: tuple[float, ...] = ()


def f(*shape: int) -> Array:
    return Array(shape)


def yes(*shape: int) -> Array:
    """Probabilities of yes, as a loss takes them for its target."""
    return Array(shape, values=(0.0, 0.3, 1.0))


def signs(*shape: int) -> Array:
    """1 and −1, as floats."""
    return Array(shape, values=(-1.0, 1.0))


def i(*shape: int, below: int) -> Array:
    return Array(shape, below)


@dataclass(frozen=True)
class Case:
    """A layer and inputs that it takes: an Array each, or a tuple or dict of them."""

    layer: Layer
    inputs: tuple[Any, ...] = field(hash=False)  # a dict has no hash

    def __init__(self, layer: Layer, *inputs: Any):
        object.__setattr__(self, "layer", layer)
        object.__setattr__(self, "inputs", inputs)


ANY = f(3, 5), f(2, 3, 5), f(2, 5, 3, 2)  # for layers that take any number of axes
