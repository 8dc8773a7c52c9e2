"""Layers that normalize: their input or their weights."""

from jbp.layers.norm import batch, features, groups, response, weights
from jbp.layers.norm.batch import BatchNorm, BatchNormInference
from jbp.layers.norm.features import LayerNorm, RMSNorm, UnitNorm
from jbp.layers.norm.groups import GroupNorm, InstanceNorm
from jbp.layers.norm.response import LocalResponseNorm
from jbp.layers.norm.weights import SpectralNorm, WeightNorm

__all__ = [
    "BatchNorm",
    "BatchNormInference",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
    "SpectralNorm",
    "UnitNorm",
    "WeightNorm",
]

CASES = (*features.CASES, *batch.CASES, *groups.CASES, *response.CASES, *weights.CASES)
