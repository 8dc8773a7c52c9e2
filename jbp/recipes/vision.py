"""Networks that look at images, (batch, height, width, channels)."""

from jbp.combinators import Parallel, Repeat, Residual, Reversible, Serial
from jbp.fields import Size, checked
from jbp.layer import Layer
from jbp.layers.activation import GELU, ReLU
from jbp.layers.attention.multihead import MultiHeadAttention
from jbp.layers.conv.convolution import Conv
from jbp.layers.embedding import Positions
from jbp.layers.linear.dense import Dense
from jbp.layers.norm.batch import BatchNorm
from jbp.layers.norm.features import LayerNorm
from jbp.layers.pool.average import GlobalAveragePool
from jbp.layers.pool.maximum import MaxPool
from jbp.layers.stochastic.dropout import Dropout
from jbp.layers.structure.join import Add, Concatenate, FanOut, Identity
from jbp.layers.structure.move import Flatten, Reshape
from jbp.layers.structure.resize import Upsample


@checked
def lenet(classes: Size = 10, width: Size = 32, dropout: float = 0.3) -> Serial:
    """A convolutional network: scores (batch, classes) from images of at least 4×4.

    Two stages of 3×3 convolutions, each followed by a pooling that halves the image, and a linear layer on top.
    (LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998; with ReLU and max pooling, as is
    the custom today.)

    >>> net, x = jbp.recipes.lenet(), jnp.ones((1, 8, 8, 1))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 10)
    """
    first = Conv(width), ReLU(), Conv(width), ReLU(), MaxPool()
    second = Conv(2 * width), ReLU(), MaxPool()
    return Serial(*first, *second, Flatten(), Dropout(dropout), Dense(classes))


@checked
def resnet(classes: Size = 10, width: Size = 16, stages: Size = 2, blocks: Size = 1) -> Serial:
    """A residual network: scores (batch, classes) from images.

    Each stage but the first halves the image and doubles the channels, with a 1×1 convolution on the short way; then
    come `blocks` blocks that keep the shape. (He et al., *Identity Mappings in Deep Residual Networks*, 2016.)

    >>> net, x = jbp.recipes.resnet(), jnp.ones((1, 8, 8, 1))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 10)
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


@checked
def vision_transformer(
    classes: Size = 10, patch: Size = 2, length: Size = 16, width: Size = 64, blocks: Size = 2, heads: Size = 4
) -> Serial:
    """A transformer on patches: scores (batch, classes) from images of at most `length` patches of patch × patch.

    A convolution whose stride is its size makes a token of each patch. (Dosovitskiy et al., *An Image Is Worth 16×16
    Words*, 2021; the mean of all tokens is classified, as in its appendix D.3.)

    >>> net, x = jbp.recipes.vision_transformer(), jnp.ones((1, 8, 8, 1))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 10)
    """
    tokens = Conv(width, (patch, patch), stride=patch, padding="VALID"), Reshape((-1, width)), Positions(length)
    attention = Residual(Serial(LayerNorm(), MultiHeadAttention(heads)))
    feedforward = Residual(Serial(LayerNorm(), Dense(2 * width), GELU(), Dense(width)))
    body = Repeat(Serial(attention, feedforward), blocks)
    return Serial(*tokens, body, LayerNorm(), GlobalAveragePool(), Dense(classes))


@checked
def reversible_network(classes: Size = 10, width: Size = 64, blocks: Size = 16) -> Serial:
    """Scores (batch, classes) from x (batch, ...), through a reversible stack that keeps nothing but its output.

    The memory of training does not grow with `blocks`. (Gomez et al., *The Reversible Residual Network*, 2017.)

    >>> net, x = jbp.recipes.reversible_network(), jnp.ones((1, 64))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (1, 10)
    """
    branch = Serial(LayerNorm(), Dense(width), GELU(), Dense(width))
    body = Reversible(branch, branch, times=blocks)
    return Serial(Flatten(), Dense(2 * width), body, LayerNorm(), Dense(classes))


@checked
def unet(channels: Size = 1, width: Size = 16, depth: Size = 2) -> Serial:
    """Images (batch, h, w, channels) from images, h and w multiples of 2^depth: down and up again, with bridges.

    On each floor what goes further down comes back beside what stayed. (Ronneberger et al., *U-Net*, 2015; padded, and
    with nearest-neighbour upsampling in place of transposed convolutions.)

    >>> net, x = jbp.recipes.unet(), jnp.ones((1, 8, 8, 1))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 8, 8, 1)
    """

    def floor(width: int, depth: int) -> Layer:
        here = Serial(Conv(width), ReLU(), Conv(width), ReLU())
        if not depth:
            return here
        below = Serial(MaxPool(), floor(2 * width, depth - 1), Upsample(), Conv(width))
        return Serial(here, FanOut(), Parallel(Identity(), below), Concatenate(), here)

    return Serial(floor(width, depth), Conv(channels, (1, 1)))
