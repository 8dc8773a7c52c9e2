"""What pads, folds, resizes and reshapes."""

import math
from typing import Any

from torch import nn

from benchmarks.parity.comparison import Unsaid, call
from benchmarks.parity.says.axes import channels, each, first, last, rank_of
from jbp import layers


def padded(mode: Any) -> Any:
    def say(m, x):
        rank = rank_of(m)
        sides = each(m.padding, 2 * rank)
        widths = tuple(zip(sides[::2], sides[1::2], strict=True))[::-1]  # PyTorch begins with the last axis
        layer = layers.Pad(widths, mode, float(getattr(m, "value", 0)))
        return channels(x, rank, layer)

    return say


def flatten(m, x):
    return call(layers.Flatten(m.start_dim, m.end_dim), (), x)


def unflatten(m, x):
    return call(layers.Unflatten(m.dim, tuple(m.unflattened_size)), (), x)


def shuffle(m, x):
    return first(call(layers.PixelShuffle(m.upscale_factor), (), last(x)))


def unshuffle(m, x):
    return first(call(layers.PixelUnshuffle(m.downscale_factor), (), last(x)))


def resized(m, x):
    if m.recompute_scale_factor:
        raise Unsaid("recompute_scale_factor")
    rank = x.dim() - 2
    mode = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(m.mode, m.mode)
    options = {"mode": mode, "align_corners": bool(m.align_corners)}
    if m.size is not None:
        return channels(x, rank, layers.Resize(each(m.size, rank), **options))
    return channels(x, rank, layers.Upsample(each(m.scale_factor, rank), **options))


def _window(m: Any) -> dict[str, Any]:
    names = {"window": m.kernel_size, "stride": m.stride, "padding": m.padding, "dilation": m.dilation}
    return {name: each(value, 2) for name, value in names.items()}


def unfold(m, x):
    y = call(layers.Unfold(**_window(m)), (), last(x))
    y = y.flatten(1, 2).unflatten(-1, (-1, x.shape[1]))  # (b, windows, places, c), PyTorch (b, c · places, windows)
    return y.permute(0, 3, 2, 1).flatten(1, 2)


def fold(m, x):
    alone = x.dim() == 2
    x = x[None] if alone else x
    window = _window(m)
    sizes, places = each(m.output_size, 2), math.prod(window["window"])
    number = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(sizes, *window.values(), strict=True)]
    x = x.unflatten(1, (-1, places)).unflatten(-1, number).permute(0, 3, 4, 2, 1).flatten(-2)
    y = first(call(layers.Fold(sizes, **window), (), x))
    return y[0] if alone else y


SAYS = {
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), padded("constant")),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), padded("constant")),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), padded("reflect")),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), padded("replicate")),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), padded("circular")),
    nn.Flatten: flatten,
    nn.Unflatten: unflatten,
    nn.PixelShuffle: shuffle,
    nn.PixelUnshuffle: unshuffle,
    nn.Upsample: resized,
    nn.Unfold: unfold,
    nn.Fold: fold,
}
