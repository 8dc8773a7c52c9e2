"""What pads, folds, resizes and reshapes."""

from torch import nn

from benchmarks.parity.comparison import Unsaid, call
from benchmarks.parity.says.axes import channels, each, first, last, rank_of
from jbp import layers


def padded(mode: str):
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


def _window(m, rank=2):
    names = {"kernel_size": "window", "stride": "stride", "padding": "padding", "dilation": "dilation"}
    return {ours: each(getattr(m, theirs), rank) for theirs, ours in names.items()}


def unfold(m, x):
    raise NotImplementedError


def fold(m, x):
    raise NotImplementedError


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
