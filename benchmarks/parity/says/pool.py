"""Pools."""

from typing import Any

from torch import nn

from benchmarks.parity.comparison import call
from benchmarks.parity.says.axes import channels, each, rank_of, spatial
from jbp import layers


def _geometry(m: Any) -> tuple[int, dict[str, Any]]:
    rank = rank_of(m)
    stride = m.stride if m.stride not in (None, ()) else m.kernel_size
    return rank, {"window": each(m.kernel_size, rank), "stride": each(stride, rank), "ceil_mode": m.ceil_mode}


def maximum(m, x):
    rank, options = _geometry(m)
    options |= {"padding": m.padding, "dilation": each(m.dilation, rank), "return_indices": m.return_indices}
    return channels(x, rank, layers.MaxPool(**options))


def average(m, x):
    rank, options = _geometry(m)
    options |= {"padding": m.padding, "count_include_pad": m.count_include_pad}
    layer = layers.AveragePool(**options, divisor_override=getattr(m, "divisor_override", None))
    return channels(x, rank, layer)


def lp(m, x):
    rank, options = _geometry(m)
    return channels(x, rank, layers.LPPool(m.norm_type, **options))


def adaptive_average(m, x):
    return channels(x, rank_of(m), layers.AdaptiveAveragePool(each(m.output_size, rank_of(m))))


def adaptive_maximum(m, x):
    layer = layers.AdaptiveMaxPool(each(m.output_size, rank_of(m)), return_indices=m.return_indices)
    return channels(x, rank_of(m), layer)


def fractional(m, x):
    rank = rank_of(m)
    sizes = None if m.output_size is None else each(m.output_size, rank)
    ratio = None if m.output_ratio is None else each(m.output_ratio, rank)
    layer = layers.FractionalMaxPool(
        each(m.kernel_size, rank), ratio=ratio, sizes=sizes, return_indices=m.return_indices
    )
    u = m._random_samples if rank == 3 else m._random_samples.flip(-1)  # of two axes PyTorch has the last one first
    return spatial(x, rank, lambda x: call(layer, (), (x, u[: len(x)])))


SAYS = {
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), maximum),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), average),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), adaptive_average),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), adaptive_maximum),
    **dict.fromkeys((nn.LPPool1d, nn.LPPool2d, nn.LPPool3d), lp),
    **dict.fromkeys((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), fractional),
}
