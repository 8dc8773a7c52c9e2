"""Networks that act."""

from jbp.combinators import Serial
from jbp.layers.activation import ReLU
from jbp.layers.dense import Dense


def q_network(actions: int, widths: tuple[int, ...] = (128, 128)) -> Serial:
    """The value (batch, actions) of each action, from a state (batch, features).

    (Mnih et al., *Human-level Control through Deep Reinforcement Learning*, 2015.)
    """
    return Serial(*(layer for width in widths for layer in (Dense(width), ReLU())), Dense(actions))
