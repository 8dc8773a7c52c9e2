"""Convolutions and transposed ones."""

from torch import nn

from benchmarks.parity.says.axes import channels, each, only
from jbp import layers

MODES = {"zeros": "zeros", "reflect": "reflect", "replicate": "edge", "circular": "circular"}


def conv(m, x):
    rank = len(m.kernel_size)
    padding = m.padding if isinstance(m.padding, str) else tuple((p, p) for p in m.padding)
    if padding == "same":  # PyTorch puts the odd one of the padding high, as jbp does
        padding = tuple(((d * (k - 1)) // 2, d * (k - 1) - (d * (k - 1)) // 2)
                        for d, k in zip(m.dilation, m.kernel_size, strict=True))  # fmt: skip
    options = {} if m.padding_mode == "zeros" else {"mode": MODES[m.padding_mode]}
    options |= {} if m.bias is not None else {"bias": False}
    layer = layers.Conv(
        m.out_channels, m.kernel_size, stride=m.stride, padding=padding, dilation=m.dilation, groups=m.groups, **options
    )
    return channels(m, x, rank, layer, only(w=m.weight.movedim((0, 1), (-1, -2)), b=m.bias))


def transposed(m, x):
    rank = len(m.kernel_size)
    *_, kernel = (m.kernel_size,)
    cut = tuple((p, p - more) for p, more in zip(each(m.padding, rank), each(m.output_padding, rank), strict=True))
    w = m.weight  # (i, o / groups, kernel...); ours has (kernel..., i / groups, o)
    w = w.reshape(m.groups, m.in_channels // m.groups, *w.shape[1:]).movedim((0, 1, 2), (-2, -3, -1))
    w = w.reshape(*kernel, m.in_channels // m.groups, m.out_channels)
    options = {} if m.bias is not None else {"bias": False}
    layer = layers.ConvTranspose(
        m.out_channels, kernel, stride=m.stride, padding=cut, dilation=m.dilation, groups=m.groups, **options
    )
    return channels(m, x, rank, layer, only(w=w, b=m.bias))


SAYS = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), transposed),
}
