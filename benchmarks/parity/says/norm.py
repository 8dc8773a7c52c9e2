"""Normalizations."""

from torch import nn

from benchmarks.parity.comparison import call
from benchmarks.parity.says.axes import first, last, only
from jbp import layers


def layer_norm(m, x):
    axes = len(m.normalized_shape)
    scaled = m.weight is not None
    options = {"axes": axes} if axes > 1 else {}
    options |= {} if scaled else {"scale": False}
    if isinstance(m, nn.RMSNorm):
        return call(layers.RMSNorm(epsilon=m.eps, **options), only(g=m.weight) or (), x)
    options |= {} if m.bias is not None else {"bias": False}
    return call(layers.LayerNorm(epsilon=m.eps, **options), only(g=m.weight, b=m.bias) or (), x)


def _affine(m):
    options = {} if m.weight is not None else {"scale": False}
    return options | ({} if m.bias is not None else {"bias": False}), only(g=m.weight, b=m.bias)


def group_norm(m, x):
    options, params = _affine(m)
    return first(call(layers.GroupNorm(m.num_groups, epsilon=m.eps, **options), params or (), last(x)))


def batch_norm(m, x):
    raise NotImplementedError


def instance_norm(m, x):
    raise NotImplementedError


def local_response(m, x):
    raise NotImplementedError


SAYS = {
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: layer_norm,
    nn.GroupNorm: group_norm,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), instance_norm),
    nn.LocalResponseNorm: local_response,
    nn.CrossMapLRN2d: local_response,
}
