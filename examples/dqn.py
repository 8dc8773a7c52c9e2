"""Deep Q-network: learns from its own experience to balance a pole on a cart, gymnasium's CartPole-v1.

    python -m examples.dqn

Q(s, a) is what the network believes of the way on after pushing to the side a: −1 for a fall now, −0.99ⁿ for a fall in
n steps. It is trained towards −1 where the pole fell and 0.99 Q̄(s', argmax Q(s', ·)) elsewhere, on steps drawn from a
memory, Q̄ being a slow copy of Q. The action that was not taken has no error. (Mnih et al., *Human-level Control through
Deep Reinforcement Learning*, 2015; van Hasselt et al., *Deep Reinforcement Learning with Double Q-learning*, 2016.)
The network that did best in the checks is judged on other poles. A step below pushes eight carts once.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.cartpole import LONGEST, Poles, chance, film, play
from examples.shared import Figure, Outcome, curve, level, main, picture
from jbp import recipes
from jbp.losses import Huber
from jbp.train import start, step

DISCOUNT, SIZE, POLES, BATCH = 0.99, 50_000, 8, 128
NET, LOSS = recipes.q_network(actions=2), Huber()


@jax.jit
def push(params, states):
    return NET.forward(params, states)[0].argmax(-1)


@jax.jit
def wanted(params, slow, states, actions, after, fallen):
    """What Q(states, ·) should have been, after what came of the actions."""
    best, now = push(params, after)[:, None], NET.forward(params, states)[0]
    later = jnp.take_along_axis(NET.forward(slow, after)[0], best, 1)
    return jnp.where(actions[:, None] == jnp.arange(2), jnp.where(fallen[:, None], -1, DISCOUNT * later), now)


@jax.jit
def follow(slow, params):
    return jax.tree.map(lambda a, b: a + 0.005 * (b - a), slow, params)


def run(steps: int, seed: int, out: Path) -> Outcome:
    random, poles = np.random.default_rng(seed), Poles(POLES, seed)
    optimizer = optax.adam(1e-3)
    state, learn = start(NET, optimizer, jax.random.key(seed), poles.states), step(NET, LOSS, optimizer)
    slow = best = jax.tree.map(jnp.copy, state.params)
    memory = [np.zeros((SIZE, *shape), kind) for shape, kind in (((4,), "f4"), ((), int), ((4,), "f4"), ((), bool))]
    filled, history, record = 0, [], 0.0
    for now in range(1, steps + 1):
        states, curious = poles.states, random.random(POLES) < max(0.02, 1 - 4 * now / steps)
        actions = np.where(curious, random.integers(0, 2, POLES), push(state.params, states))
        fallen, counts = poles.step(actions)
        rows = (filled + np.arange(counts.sum())) % SIZE
        for array, new in zip(memory, (states, actions, poles.states, fallen), strict=True):
            array[rows] = new[counts]
        filled += len(rows)

        drawn = random.integers(0, min(filled, SIZE), BATCH)
        x, *rest = (array[drawn] for array in memory)
        state, metrics = learn(state, x, wanted(state.params, slow, x, *rest))
        slow = follow(slow, state.params)
        history.append({"step": now, "loss": float(metrics["loss"])})
        if now % max(1, steps // 20) == 0:
            params = state.params
            reward = float(play(lambda s: push(params, s), seed=1000 + seed)[0].mean())  # noqa: B023
            history[-1]["reward"] = reward
            if reward > record:
                record, best = reward, jax.tree.map(jnp.copy, params)

    rewards, states = play(lambda s: push(best, s), seed=2000 + seed)
    luck = chance(seed)
    with picture(out / "dqn.png", columns=3, size=(13, 4.2)) as (left, middle, right):
        curve(left, history, "loss")
        curve(middle, history, "reward")
        middle.set_ylim(0, LONGEST + 20)
        level(middle, luck, "pushing at random")
        film(right, states, title="an episode: number of the step, cart and pole")
    figure = Figure("mean reward of 32 episodes", float(rewards.mean()), 300, f"pushing at random: {luck:.1f}")
    return Outcome({"Q-network": NET}, [figure], out / "dqn.png")


if __name__ == "__main__":
    main(run, steps=10_000, short=4000)
