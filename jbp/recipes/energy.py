"""Networks that learn what is likely, from data without labels."""

from jbp.combinators import Serial
from jbp.fields import Count, Size, checked
from jbp.layers.energy import RestrictedBoltzmann, RestrictedBoltzmannInference
from jbp.layers.linear.dense import Dense


@checked
def restricted_boltzmann(hidden: Size, steps: Size = 1, chains: Count = 0) -> Serial:
    """A machine of `hidden` units on x (batch, visible) in [0, 1]. Goes with Add() as the loss, on x alone.

    Contrastive divergence of so many `steps`, or with `chains` its persistent form. (Hinton, *Training Products of
    Experts by Minimizing Contrastive Divergence*, 2002; Tieleman, 2008.)

    >>> net, x = jbp.recipes.restricted_boltzmann(8), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (2, 8)
    """
    return Serial(RestrictedBoltzmann(hidden, steps, chains))


@checked
def deep_belief(classes: Size, widths: tuple[Size, ...]) -> Serial:
    """Scores (batch, classes) of x (batch, visible): upwards through machines of these widths, a linear layer on it.

    The parameters of the machines, each trained before on what the one below it makes of the data, are those of the
    first layers. (Hinton, Osindero & Teh, *A Fast Learning Algorithm for Deep Belief Nets*, 2006.)

    >>> net, x = jbp.recipes.deep_belief(3, (8, 4)), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 3)
    """
    return Serial(*(RestrictedBoltzmannInference(width) for width in widths), Dense(classes))
