"""Networks of bumps."""

from jbp.combinators import Serial
from jbp.fields import Size, checked
from jbp.layers.linear.dense import Dense
from jbp.layers.linear.radial import RadialBasis


@checked
def radial_basis(outputs: Size, bumps: Size) -> Serial:
    """So many outputs (batch, outputs) from x (batch, features): a linear map of how near x is to each bump.

    (Broomhead & Lowe, *Multivariable Functional Interpolation and Adaptive Networks*, 1988.)

    >>> net, x = jbp.recipes.radial_basis(3, bumps=8), jnp.ones((2, 5))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 3)
    """
    return Serial(RadialBasis(bumps), Dense(outputs))
