"""Pools."""

from torch import nn

from benchmarks.parity.says.axes import channels, each, rank_of
from jbp import layers


def _pads(m, rank):
    return tuple((p, p) for p in each(m.padding, rank))


def _geometry(m):
    rank = rank_of(m)
    stride = m.stride if m.stride not in (None, ()) else m.kernel_size
    return rank, each(m.kernel_size, rank), each(stride, rank)


def maximum(m, x):
    rank, window, stride = _geometry(m)
    options = {"dilation": each(m.dilation, rank)} if max(each(m.dilation, rank)) > 1 else {}
    options |= {"ceil": True} if m.ceil_mode else {}
    options |= {"indices": True} if m.return_indices else {}
    layer = layers.MaxPool(window, stride=stride, padding=_pads(m, rank), **options)
    return channels(m, x, rank, layer)


def average(m, x):
    rank, window, stride = _geometry(m)
    options = {"count_padding": True} if m.count_include_pad and max(each(m.padding, rank)) else {}
    options |= {"ceil": True} if m.ceil_mode else {}
    divisor = getattr(m, "divisor_override", None)
    options |= {"divisor": divisor} if divisor is not None else {}
    return channels(m, x, rank, layers.AveragePool(window, stride=stride, padding=_pads(m, rank), **options))


def adaptive(name):
    def say(m, x):
        rank = rank_of(m)
        layer = getattr(layers, name)(each(m.output_size, rank))
        return channels(m, x, rank, layer)

    return say


def lp(m, x):
    rank, window, stride = _geometry(m)
    options = {"ceil": True} if m.ceil_mode else {}
    return channels(m, x, rank, layers.LPPool(m.norm_type, window, stride=stride, **options))


def fractional(m, x):
    raise NotImplementedError


SAYS = {
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), maximum),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), average),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), adaptive("AdaptiveAveragePool")
    ),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), adaptive("AdaptiveMaxPool")),
    **dict.fromkeys((nn.LPPool1d, nn.LPPool2d, nn.LPPool3d), lp),
    **dict.fromkeys((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), fractional),
}
