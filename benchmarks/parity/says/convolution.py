"""Convolutions and transposed ones."""

from typing import Any

from torch import nn

from benchmarks.parity.says.axes import channels, only
from jbp import layers


def conv(m, x):
    rank, kernel = len(m.kernel_size), m.kernel_size
    padding: Any = m.padding if isinstance(m.padding, str) else tuple(m.padding)
    layer = layers.Conv(
        m.out_channels,
        kernel,
        stride=m.stride,
        padding=padding,
        dilation=m.dilation,
        groups=m.groups,
        bias=m.bias is not None,
        padding_mode=m.padding_mode,
    )
    return channels(x, rank, layer, only(w=m.weight.movedim((0, 1), (-1, -2)), b=m.bias))


def transposed(m, x):
    rank, kernel, each = len(m.kernel_size), m.kernel_size, m.in_channels // m.groups
    # PyTorch's weight is (i, o / groups, kernel...), ours (kernel..., i / groups, o), where the groups are those of o
    w = m.weight.reshape(m.groups, each, *m.weight.shape[1:]).movedim((0, 1, 2), (-2, -3, -1))
    layer = layers.ConvTranspose(
        m.out_channels,
        kernel,
        stride=m.stride,
        padding=m.padding,
        dilation=m.dilation,
        groups=m.groups,
        bias=m.bias is not None,
        output_padding=m.output_padding,
    )
    return channels(x, rank, layer, only(w=w.reshape(*kernel, each, m.out_channels), b=m.bias))


SAYS = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), transposed),
}
