"""Pooling."""

from jbp.layers.pool import average, maximum
from jbp.layers.pool.average import AdaptiveAveragePool, AveragePool
from jbp.layers.pool.maximum import GlobalAveragePool, GlobalMaxPool, MaxPool

__all__ = ["AdaptiveAveragePool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"]

CASES = (
    *maximum.CASES,
    *average.CASES,
)
