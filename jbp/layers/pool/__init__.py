"""Pooling."""

from jbp.layers.pool import average, fractional, maximum
from jbp.layers.pool.average import AdaptiveAveragePool, AveragePool, GlobalAveragePool, LPPool
from jbp.layers.pool.fractional import FractionalMaxPool
from jbp.layers.pool.maximum import AdaptiveMaxPool, GlobalMaxPool, MaxPool, MaxUnpool

__all__ = [
    "AdaptiveAveragePool",
    "AdaptiveMaxPool",
    "AveragePool",
    "FractionalMaxPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LPPool",
    "MaxPool",
    "MaxUnpool",
]

CASES = (
    *maximum.CASES,
    *average.CASES,
    *fractional.CASES,
)
