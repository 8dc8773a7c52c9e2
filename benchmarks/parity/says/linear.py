"""Linear maps."""

from torch import nn

from benchmarks.parity.comparison import call
from benchmarks.parity.says.axes import only
from jbp import layers


def linear(m, input):  # noqa: A002 (a sample passes it by name)
    layer = layers.Dense(m.out_features, bias=m.bias is not None)
    return call(layer, only(w=m.weight.T, b=m.bias), input)


def bilinear(m, x, z):
    layer = layers.Bilinear(m.out_features, bias=m.bias is not None)
    return call(layer, only(w=m.weight.permute(1, 2, 0), b=m.bias), (x, z))


SAYS = {nn.Linear: linear, nn.Bilinear: bilinear}
