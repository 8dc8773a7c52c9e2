"""Layers that only move data, and other numbers of places along the spatial axes."""

from jbp.layers.structure import move, pad, patches, resize
from jbp.layers.structure.join import Add, Concatenate, FanOut, Identity
from jbp.layers.structure.move import ExpandDims, Flatten, Reshape, Select, Squeeze, Take, Transpose, Unflatten
from jbp.layers.structure.pad import Pad
from jbp.layers.structure.patches import ChannelShuffle, Fold, PixelShuffle, PixelUnshuffle, Unfold
from jbp.layers.structure.resize import Resize, Upsample

__all__ = [
    "Add",
    "ChannelShuffle",
    "Concatenate",
    "ExpandDims",
    "FanOut",
    "Flatten",
    "Fold",
    "Identity",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "Reshape",
    "Resize",
    "Select",
    "Squeeze",
    "Take",
    "Transpose",
    "Unflatten",
    "Unfold",
    "Upsample",
]

CASES = (
    *move.CASES,
    *pad.CASES,
    *patches.CASES,
    *resize.CASES,
)
