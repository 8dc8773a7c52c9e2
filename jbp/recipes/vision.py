"""Networks that look at images, (batch, height, width, channels)."""

from jbp.combinators import Parallel, Residual, Serial
from jbp.layers.activation import ReLU
from jbp.layers.conv import Conv
from jbp.layers.dense import Dense
from jbp.layers.dropout import Dropout
from jbp.layers.norm import BatchNorm
from jbp.layers.pool import GlobalAveragePool, MaxPool
from jbp.layers.shape import Add, FanOut, Flatten, Identity


def lenet(classes: int = 10, width: int = 32, dropout: float = 0.3) -> Serial:
    """A convolutional network: scores (batch, classes) from images of at least 4×4.

    Two stages of 3×3 convolutions, each followed by a pooling that halves the image, and a linear layer on top.
    (LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998; with ReLU and max pooling, as is
    the custom today.)
    """
    first = Conv(width), ReLU(), Conv(width), ReLU(), MaxPool()
    second = Conv(2 * width), ReLU(), MaxPool()
    return Serial(*first, *second, Flatten(), Dropout(dropout), Dense(classes))


def resnet(classes: int = 10, width: int = 32, stages: int = 2, blocks: int = 1) -> Serial:
    """A residual network: scores (batch, classes) from images.

    Each stage but the first halves the image and doubles the channels, with a 1×1 convolution on the short way; then
    come `blocks` blocks that keep the shape. (He et al., *Identity Mappings in Deep Residual Networks*, 2016.)
    """

    def path(features: int, stride: int = 1) -> Serial:
        first = BatchNorm(), ReLU(), Conv(features, stride=stride)
        return Serial(*first, BatchNorm(), ReLU(), Conv(features))

    def stage(features: int, stride: int) -> Serial:
        short = Conv(features, (1, 1), stride=stride) if stride > 1 else Identity()
        down = FanOut(), Parallel(short, path(features, stride)), Add()
        return Serial(*down, *[Residual(path(features)) for _ in range(blocks)])

    body = [stage(width * 2**i, 2 if i else 1) for i in range(stages)]
    return Serial(Conv(width), *body, BatchNorm(), ReLU(), GlobalAveragePool(), Dense(classes))
