"""Networks that learn what the data look like: autoencoders, and the two players of an adversarial game."""

from jbp.combinators import Parallel, Serial
from jbp.fields import Size, checked
from jbp.layers.activation import GELU, LeakyReLU, ReLU, Sigmoid
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.layers.norm.batch import BatchNorm
from jbp.layers.stochastic.variational import Reparameterize
from jbp.layers.structure.join import FanOut
from jbp.layers.structure.move import Flatten, Reshape
from jbp.layers.structure.resize import Upsample
from jbp.losses.divergence import StandardNormalDivergence


@checked
def autoencoder(features: Size = 64, widths: tuple[Size, ...] = (128, 64), code: Size = 2) -> Serial:
    """Serial(encoder, decoder): x (batch, features) to a code (batch, code), and back. Goes with MeanSquaredError.

    Hidden layers of `widths` in the encoder, of the same in reverse in the decoder. With noise put on its input it is
    a denoising autoencoder. (Hinton & Salakhutdinov, *Reducing the Dimensionality of Data with Neural Networks*, 2006;
    Vincent et al., *Extracting and Composing Robust Features with Denoising Autoencoders*, 2008.)

    >>> net, x = jbp.recipes.autoencoder(features=5), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 5)
    """
    return Serial(_hidden(widths, code), _hidden(widths[::-1], features))


def _hidden(widths: tuple[int, ...], features: int) -> Serial:
    return Serial(*[layer for width in widths for layer in (Dense(width), GELU())], Dense(features))


@checked
def variational_autoencoder(features: Size = 64, widths: tuple[Size, ...] = (128,), code: Size = 8) -> Serial:
    """(logits (batch, features), divergence) from x (batch, features) between 0 and 1.

    The divergence is that of the code's distribution from the standard normal, and the loss that goes with it
    Penalized(BinaryCrossEntropy(), 1 / features). The decoder is layers[-1].layers[0].layers[1]. (Kingma & Welling,
    *Auto-Encoding Variational Bayes*, 2014.)

    >>> net, x = jbp.recipes.variational_autoencoder(features=5), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x)
    (ShapeDtypeStruct(shape=(2, 5), dtype=float32), ShapeDtypeStruct(shape=(), dtype=float32))
    """
    encoder, decoder = _hidden(widths, 2 * code), _hidden(widths[::-1], features)
    return Serial(encoder, FanOut(), Parallel(Serial(Reparameterize(), decoder), StandardNormalDivergence()))


@checked
def generator(size: Size = 8, width: Size = 32) -> Serial:
    """Images (batch, size, size, 1) between 0 and 1 from noise (batch, n): the player of a GAN that forges.

    (Radford et al., *Unsupervised Representation Learning with DCGANs*, 2016, §3.)

    >>> net, x = jbp.recipes.generator(), jnp.ones((2, 16))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (2, 8, 8, 1)
    """
    half = size // 2
    start = Dense(2 * width * half * half), Reshape((half, half, 2 * width)), BatchNorm(), ReLU()
    return Serial(*start, Upsample(), Conv(width), BatchNorm(), ReLU(), Conv(1), Sigmoid())


@checked
def discriminator(width: Size = 32) -> Serial:
    """The logit (batch, 1) of an image (batch, h, w, 1) being real: the other player.

    (Goodfellow et al., *Generative Adversarial Networks*, 2014; the layers are those of Radford et al., 2016, §3.)

    >>> net, x = jbp.recipes.discriminator(), jnp.ones((2, 8, 8, 1))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (2, 1)
    """
    first = Conv(width, stride=2), LeakyReLU(), Conv(2 * width, stride=2), LeakyReLU()
    return Serial(*first, Flatten(), Dense(1))
