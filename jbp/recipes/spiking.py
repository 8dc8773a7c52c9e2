"""Networks whose neurons say nothing, or one spike."""

from jbp.combinators import Serial
from jbp.fields import Size, checked
from jbp.layers.linear.dense import Dense
from jbp.layers.pool.average import GlobalAveragePool
from jbp.layers.stochastic.spiking import LeakyIntegrateAndFire


@checked
def spiking(classes: Size, widths: tuple[Size, ...] = (128, 128), leak: float = 0.9) -> Serial:
    """Scores (batch, classes) from spikes (batch, time, inputs), 0 or 1: a linear reading of how often the last fire.

    (Neftci et al., *Surrogate Gradient Learning in Spiking Neural Networks*, 2019.)

    >>> net, x = jbp.recipes.spiking(classes=3), jnp.ones((2, 6, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 3)
    """
    body = [layer for width in widths for layer in (Dense(width), LeakyIntegrateAndFire(leak))]
    return Serial(*body, GlobalAveragePool(), Dense(classes))
