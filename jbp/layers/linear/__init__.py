"""Affine maps and their relatives."""

from jbp.layers.linear import dense, lowrank, radial
from jbp.layers.linear.dense import Dense, Logits
from jbp.layers.linear.lowrank import Bilinear, LoRA, LowRank, TensorProduct
from jbp.layers.linear.radial import RadialBasis

__all__ = ["Bilinear", "Dense", "LoRA", "Logits", "LowRank", "RadialBasis", "TensorProduct"]

CASES = (
    *dense.CASES,
    *lowrank.CASES,
    *radial.CASES,
)
