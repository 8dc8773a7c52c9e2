"""The pole on the cart (gymnasium's CartPole-v1), many at a time: what the examples of reinforcement learning share.

A state is (position, speed, angle, angular speed); action 0 pushes the cart to the left, 1 to the right. It is over
when the pole leans by 12° or the cart has gone 2.4 to either side, and after 500 steps in any case.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from matplotlib.patches import Rectangle

SCALE = np.array([0.5, 0.5, 5, 0.5], "float32")  # brings all four numbers of a state to about 1
LONGEST = 500


class Poles:
    """`count` poles. `states` (count, 4) is what a network sees; a pole that was over stands again after one step."""

    def __init__(self, count: int, seed: int):
        self.env = gymnasium.make_vec("CartPole-v1", count, vectorization_mode="vector_entry_point")
        self.states = self.env.reset(seed=seed)[0] * SCALE
        self.over = np.zeros(count, bool)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(fallen, counts): which fell just now, and for which this was a step, not the one that sets them up again."""
        counts = ~self.over
        states, _, fallen, stopped, _ = self.env.step(actions)
        self.states, self.over = states * SCALE, fallen | stopped
        return fallen, counts


def play(act: Callable[[np.ndarray], Any], seed: int, count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """(rewards, states): for how many steps each of the poles stood, and the states (time, 4) of the first one."""
    poles = Poles(count, seed)
    standing, rewards, states = np.ones(count, bool), np.zeros(count), []
    while standing.any():
        if standing[0]:
            states.append(poles.states[0] / SCALE)
        rewards += standing
        poles.step(np.asarray(act(poles.states)))
        standing &= ~poles.over
    return rewards, np.stack(states)


def chance(seed: int) -> float:
    """The mean reward of pushing at random."""
    random = np.random.default_rng(seed)
    return float(play(lambda states: random.integers(0, 2, len(states)), seed, 200)[0].mean())


def film(axes: Any, states: np.ndarray, frames: int = 8, title: str = "") -> None:
    """Cart and pole, drawn at some moments of an episode, one above the other, the first one on top."""
    chosen = np.linspace(0, len(states) - 1, frames).astype(int)
    for row, t in enumerate(chosen):
        (x, _, angle, _), y = states[t], -1.5 * row
        axes.plot([-2.4, 2.4], [y, y], color="0.8", linewidth=1, zorder=0)
        axes.add_patch(Rectangle((x - 0.25, y), 0.5, 0.25, color="0.3"))
        axes.plot([x, x + np.sin(angle)], [y + 0.25, y + 0.25 + np.cos(angle)], color="C1", linewidth=3)
        axes.text(-2.5, y, f"{t}", ha="right", fontsize=8)
    axes.set(title=title, aspect="equal", xlim=(-3.2, 2.6))
    axes.set_axis_off()
