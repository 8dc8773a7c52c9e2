"""Networks that act."""

from jbp.combinators import Serial
from jbp.fields import Size, checked
from jbp.layers.activation import ReLU, Tanh
from jbp.layers.linear.dense import Dense


@checked
def q_network(actions: Size, widths: tuple[Size, ...] = (128, 128)) -> Serial:
    """The value (batch, actions) of each action, from a state (batch, features).

    (Mnih et al., *Human-level Control through Deep Reinforcement Learning*, 2015.)

    >>> net, x = jbp.recipes.q_network(actions=3), jnp.ones((2, 4))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 3)
    """
    return Serial(*(layer for width in widths for layer in (Dense(width), ReLU())), Dense(actions))


@checked
def policy(actions: Size, widths: tuple[Size, ...] = (64, 64)) -> Serial:
    """The scores (batch, actions) whose softmax is the policy, from a state (batch, features).

    Goes with PolicyGradient and ClippedPolicy. (Schulman et al., *Proximal Policy Optimization Algorithms*, 2017.)

    >>> net, x = jbp.recipes.policy(actions=3), jnp.ones((2, 4))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 3)
    """
    return Serial(*(layer for width in widths for layer in (Dense(width), Tanh())), Dense(actions))


@checked
def critic(widths: tuple[Size, ...] = (64, 64)) -> Serial:
    """The value (batch, 1) of a state (batch, features): what a policy may still expect from there.

    >>> net, x = jbp.recipes.critic(), jnp.ones((2, 4))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (2, 1)
    """
    return policy(1, widths)
