"""Convolutions."""

from jbp.layers.conv import convolution, transpose
from jbp.layers.conv.convolution import Conv
from jbp.layers.conv.transpose import ConvTranspose

__all__ = ["Conv", "ConvTranspose"]

CASES = (
    *convolution.CASES,
    *transpose.CASES,
)
