"""The networks that textbooks begin with."""

from jbp.combinators import Serial
from jbp.fields import Size, checked
from jbp.layers.activation.piecewise import ReLU
from jbp.layers.linear.dense import Dense
from jbp.layers.stochastic.dropout import Dropout
from jbp.layers.structure.move import Flatten


@checked
def single_layer(classes: Size) -> Serial:
    """Scores x W + b, one for each class, from x (batch, features). Goes with SoftmaxCrossEntropy.

    (Rosenblatt, *The Perceptron*, 1958; with a softmax on top it is multinomial logistic regression.)

    >>> net, x = jbp.recipes.single_layer(3), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 3)
    """
    return Serial(Dense(classes))


@checked
def logistic_regression() -> Serial:
    """The logit (batch, 1) of yes against no, from x (batch, features). Goes with BinaryCrossEntropy.

    (Bishop, *Pattern Recognition and Machine Learning*, 2006, §4.3.2.)

    >>> net, x = jbp.recipes.logistic_regression(), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 1)
    """
    return Serial(Dense(1))


@checked
def mlp(classes: Size = 10, widths: tuple[Size, ...] = (256, 128), dropout: float = 0.2) -> Serial:
    """A multilayer perceptron: scores (batch, classes) from x (batch, ...), whose further axes are made one.

    A ReLU after each of the `widths`, dropout before the last layer. (Rumelhart, Hinton & Williams, *Learning
    Representations by Back-propagating Errors*, 1986.)

    >>> net, x = jbp.recipes.mlp(classes=3), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (2, 3)
    """
    hidden = [layer for width in widths for layer in (Dense(width), ReLU())]
    return Serial(Flatten(), *hidden, Dropout(dropout), Dense(classes))
