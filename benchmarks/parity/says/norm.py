"""Normalizations, and the running statistics of those that have them."""

from typing import Any

import torch
from torch import nn

import jbp
from benchmarks.parity.comparison import call
from benchmarks.parity.says.axes import first, last, only
from jbp import layers


def over_features(m, x):
    axes = len(m.normalized_shape)
    if isinstance(m, nn.RMSNorm):
        layer = layers.RMSNorm(m.eps, affine=m.weight is not None, axes=axes)
    else:
        layer = layers.LayerNorm(m.eps, affine=m.weight is not None, bias=m.bias is not None, axes=axes)
    return call(layer, only(g=m.weight, b=getattr(m, "bias", None)) or (), x)


def group_norm(m, x):
    layer = layers.GroupNorm(m.num_groups, m.eps, affine=m.weight is not None, bias=m.bias is not None)
    return first(call(layer, only(g=m.weight, b=m.bias) or (), last(x)))


def running(m: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
    """A norm with PyTorch's running statistics in its buffers, which are those after the call when it returns."""
    params: Any = only(g=m.weight, b=m.bias)
    if not m.track_running_stats:
        return first(call(layer, params or (), last(x)))
    steps = m.num_batches_tracked
    buffers = {"mean": m.running_mean.clone(), "variance": m.running_var.clone(), "steps": steps.clone()}
    if not m.training:
        buffers["steps"] = torch.ones_like(
            steps
        )  # the statistics are drawn; jbp wants to know that some step moved them
        layer = layer.evaluation()
    params = params | {name: jbp.Buffer(b) for name, b in buffers.items()}
    if not m.training:
        return first(call(layer, params, last(x)))
    y, moved = call(layer, params, last(x), advance=True)
    with torch.no_grad():
        for name, b in (("mean", m.running_mean), ("variance", m.running_var)):
            b.copy_(moved[name].value)
    return first(y)


def _options(m):
    return {
        "epsilon": m.eps,
        "affine": m.weight is not None,
        "bias": m.bias is not None,
        "momentum": None if m.momentum is None else 1 - m.momentum,
        "unbiased": True,
        "running": m.track_running_stats,
    }


def batch_norm(m, x):
    return running(m, x, layers.BatchNorm(**_options(m)))


def instance_norm(m, x):
    alone = x.dim() == int(type(m).__name__[-2]) + 1
    y = running(m, x[None] if alone else x, layers.InstanceNorm(**_options(m)))
    return y[0] if alone else y


def local_response(m, x):
    layer = layers.LocalResponseNorm(m.size, alpha=m.alpha, beta=m.beta, k=m.k)
    return first(call(layer, (), last(x)))


SAYS = {
    nn.LayerNorm: over_features,
    nn.RMSNorm: over_features,
    nn.GroupNorm: group_norm,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), instance_norm),
    nn.LocalResponseNorm: local_response,
    nn.CrossMapLRN2d: local_response,
}
