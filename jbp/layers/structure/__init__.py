"""Layers that only move data."""

from jbp.layers.structure import join, move
from jbp.layers.structure.join import Add, Concatenate, FanOut, Flatten, Identity
from jbp.layers.structure.move import Pad, Reshape, Select, Take, Transpose, Upsample

__all__ = [
    "Add",
    "Concatenate",
    "FanOut",
    "Flatten",
    "Identity",
    "Pad",
    "Reshape",
    "Select",
    "Take",
    "Transpose",
    "Upsample",
]

CASES = (
    *join.CASES,
    *move.CASES,
)
