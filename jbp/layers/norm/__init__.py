"""Layers that normalize: their input or their weights."""

from jbp.layers.norm import features, groups, weights
from jbp.layers.norm.features import BatchNorm, BatchNormInference, LayerNorm, RMSNorm, UnitNorm
from jbp.layers.norm.groups import GroupNorm, InstanceNorm
from jbp.layers.norm.weights import SpectralNorm, WeightNorm

__all__ = [
    "BatchNorm",
    "BatchNormInference",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "SpectralNorm",
    "UnitNorm",
    "WeightNorm",
]

CASES = (*features.CASES, *groups.CASES, *weights.CASES)
