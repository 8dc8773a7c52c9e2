"""Proximal policy optimization: a policy and a critic learn to balance a pole on a cart, gymnasium's CartPole-v1.

    python -m examples.ppo

Sixteen carts are driven for 128 steps by the policy π as it is. The critic V says what may still be had, and how much
better it went is the advantage, A_t = Σ (0.99 · 0.95)^k (r + 0.99 V(s') − V(s)) at t + k (Schulman et al., 2016). Then
π takes 32 steps down −min(r A, clip(r, 0.8, 1.2) A), r = π / π_before, and V as many towards A + V, each in its own
sweep. (Schulman et al., *Proximal Policy Optimization Algorithms*, 2017.)
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.cartpole import LONGEST, Poles, chance, film, play
from examples.shared import Figure, Outcome, curve, level, main, picture
from jbp import losses, recipes
from jbp.train import start, step

POLES, TIME, ROUNDS, BATCH, DISCOUNT, MIX = 16, 128, 32, 512, 0.99, 0.95
POLICY, CRITIC = recipes.policy(actions=2), recipes.critic()


@jax.jit
def act(params, states, key):
    """(action, its log-probability) for each state, drawn by the policy."""
    logs = jax.nn.log_softmax(POLICY.forward(params, states)[0])
    actions = jax.random.categorical(key, logs)
    return actions, jnp.take_along_axis(logs, actions[:, None], 1)[:, 0]


@jax.jit
def best(params, states):
    return POLICY.forward(params, states)[0].argmax(-1)


@jax.jit
def value(params, states):
    return CRITIC.forward(params, states)[0][..., 0]


def experience(poles: Poles, policy, critic, key):
    """(states, actions, log-probabilities, advantages, returns) of every step that counts, one row each."""
    rows, values = [], [value(critic, poles.states)]
    for one in jax.random.split(key, TIME):
        states, (actions, logs) = poles.states, act(policy, poles.states, one)
        fallen, counts = poles.step(np.asarray(actions))
        values.append(value(critic, poles.states))
        rows.append((states, actions, logs, counts, fallen, poles.over))
    states, actions, logs, counts, fallen, over = (np.stack(column) for column in zip(*rows, strict=True))
    v, advantage, advantages = np.stack(values), np.zeros(POLES, "float32"), []
    for t in reversed(range(TIME)):
        surprise = 1 + DISCOUNT * np.where(fallen[t], 0, v[t + 1]) - v[t]
        advantage = (surprise + DISCOUNT * MIX * np.where(over[t], 0, advantage)).astype("float32")
        advantages.insert(0, advantage)
    a = np.stack(advantages)
    return tuple(column[counts] for column in (states, actions, logs, a, a + v[:-1]))


def run(steps: int, seed: int, out: Path) -> Outcome:
    random, poles, keys = (
        np.random.default_rng(seed),
        Poles(POLES, seed),
        jax.random.split(jax.random.key(seed), steps + 2),
    )
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.linear_schedule(2e-3, 1e-4, steps)))
    policy, critic = (start(n, optimizer, k, poles.states) for n, k in zip((POLICY, CRITIC), keys, strict=False))
    improve, judge = (
        step(POLICY, losses.ClippedPolicy(0.2, entropy=0.01), optimizer),
        step(CRITIC, losses.MeanSquaredError(), optimizer),
    )
    history = []
    for now in range(0, steps, ROUNDS):
        states, actions, logs, advantages, returns = experience(poles, policy.params, critic.params, keys[now + 2])
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
        for _ in range(ROUNDS):
            i = random.choice(len(states), BATCH, replace=False)
            policy, _ = improve(policy, states[i], actions[i], logs[i], advantages[i])
            critic, metrics = judge(critic, states[i], returns[i, None])
            history.append({"step": len(history) + 1, "critic's error": float(metrics["loss"])})
        params = policy.params
        reward = play(lambda s: best(params, s), seed=1000 + seed, count=8)[0].mean()  # noqa: B023
        history[-1]["reward"] = float(reward)

    luck, (rewards, states) = chance(seed), play(lambda s: best(policy.params, s), seed=2000 + seed)
    with picture(out / "ppo.png", columns=3, size=(13, 4.2)) as (left, middle, right):
        curve(left, history, "critic's error")
        curve(middle, history, "reward")
        middle.set_ylim(0, LONGEST + 20)
        level(middle, luck, "pushing at random")
        film(right, states, title="an episode: number of the step, cart and pole")
    figure = Figure("mean reward of 32 episodes", float(rewards.mean()), 400, f"pushing at random: {luck:.1f}")
    return Outcome({"policy": POLICY, "critic": CRITIC}, [figure], out / "ppo.png")


if __name__ == "__main__":
    main(run, steps=1920, short=960)
