"""A mixture of experts against a loop over choices and tokens, and what its balance does in networks and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import audit, draw, parameters

from jbp import Parallel, Repeat, Residual, Serial, value_and_grad
from jbp.cases import f
from jbp.layers import Dense, LayerNorm, MixtureOfExperts, Select, Tanh, WithTotal
from jbp.losses import MeanSquaredError, Penalized


def plain(net, params, x):
    """(y, balance, how many choices found no room), one choice of one token at a time."""
    x, w = np.asarray(x), np.asarray(params["w"])
    n, experts = len(x), net.experts
    room = n if net.capacity is None else min(n, int(np.ceil(net.capacity * n * net.k / experts)))
    p = np.exp(x @ w) / np.exp(x @ w).sum(-1, keepdims=True)
    best = np.argsort(-p, -1, kind="stable")[:, : net.k]
    used, dropped, y = np.zeros(experts, int), 0, 0
    y = np.zeros((n, params["experts"]["b"].shape[-1]))
    for choice in range(net.k):
        for t in range(n):
            e = best[t, choice]
            if used[e] < room:
                y[t] += p[t, e] * (x[t] @ np.asarray(params["experts"]["w"][e]) + np.asarray(params["experts"]["b"][e]))
            else:
                dropped += 1
            used[e] += 1
    return y, experts * (used / (n * net.k)) @ p.mean(0), dropped


@pytest.mark.parametrize("capacity", [None, 1.25, 0.5])
@pytest.mark.parametrize(("experts", "k"), [(4, 1), (4, 2), (3, 3)])
def test_tokens_go_to_the_best_experts_while_there_is_room(experts, k, capacity):
    net, x = MixtureOfExperts(Dense(2), experts, k, capacity), draw(f(9, 3))
    params = parameters(net, x)
    (y, balance), _ = jax.jit(net.forward)(params, x)
    wanted, balance_wanted, dropped = plain(net, params, x)
    np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(balance, balance_wanted, rtol=1e-12)
    assert dropped or capacity != 0.5
    assert not dropped or capacity is not None


def test_what_found_no_room_gets_nothing_and_sends_nothing_down():
    net = MixtureOfExperts(Dense(2), 2, capacity=0.5)
    x = jnp.abs(draw(f(8, 3))) + 0.1
    params = parameters(net, x)
    params["w"] = jnp.array([[1.0, -1.0]] * 3)  # all choose the first expert, which has room for two
    audit_at = net.forward(params, x)
    (y, _), residuals = audit_at
    assert y[:2].all()
    assert not y[2:].any()
    dx, grads = net.pull(params, residuals, (jnp.ones_like(y), jnp.zeros(())))
    assert dx[:2].any()
    assert not dx[2:].any()
    assert grads["experts"]["w"][0].any()
    assert not grads["experts"]["w"][1].any()


def test_the_balance_is_one_if_all_are_chosen_alike():
    net, x = MixtureOfExperts(Dense(2), 2), jnp.array([[50.0], [-50.0]])
    params = parameters(net, x)
    for w, wanted in (([[1.0, -1.0]], 1.0), ([[0.0, 0.0]], 1.0)):
        np.testing.assert_allclose(net.forward(params | {"w": jnp.array(w)}, x)[0][1], wanted, rtol=1e-12)
    same = net.forward(params | {"w": jnp.array([[1.0, -1.0]])}, jnp.abs(x))[0][1]
    np.testing.assert_allclose(same, 2.0, rtol=1e-12)


BLOCK = Residual(Serial(Select(0), LayerNorm(), MixtureOfExperts(Serial(Dense(6), Tanh(), Dense(4)), 3, 2)))


def test_balances_add_along_a_network_and_reach_the_loss():
    net, loss = Serial(WithTotal(), BLOCK, Repeat(BLOCK, 2)), Penalized(MeanSquaredError(), 0.5)
    x, target = draw((f(5, 4), f(5, 4)))
    params = audit(net, x)

    @jax.jit
    def run(params):
        wanted = jax.grad(lambda p: loss.reference((), (net.reference(p, x), target)))(params)
        return net.forward(params, x)[0], value_and_grad(net, loss)(params, x, target), wanted

    (y, total), (value, grads), wanted = run(params)
    np.testing.assert_allclose(value, jnp.square(y - target).mean() + 0.5 * total, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), grads, wanted)


def test_a_head_beside_the_balance():
    net = Serial(MixtureOfExperts(Dense(4), 3), Parallel(Dense(2), Serial()))
    audit(net, draw(f(2, 3, 4)))


@pytest.mark.parametrize(("k", "capacity"), [(1, None), (2, 1.0)])
def test_what_is_no_real_token_takes_no_room_and_counts_nowhere(k, capacity):
    """As if only the real tokens were there, in as much room; NaN elsewhere does not leak."""
    net, x, mask = MixtureOfExperts(Dense(2), 3, k, capacity), draw(f(2, 4, 3)), np.array([[1, 1, 1, 0], [1, 0, 1, 0]])
    params = parameters(net, x)
    real = x.reshape(8, 3)[mask.ravel() == 1]
    alone = MixtureOfExperts(Dense(2), 3, k, capacity and capacity * 8 / 5)
    (y, balance), dy = alone.forward(params, real)[0], draw((f(5, 2), f()), 7)
    dx, grads = alone.pull(params, alone.forward(params, real)[1], dy)
    for dtype in (bool, np.int8):
        given = jnp.where(mask[..., None] == 1, x, jnp.nan), jnp.asarray(mask, dtype)
        (got, got_balance), residuals = net.forward(params, given)
        np.testing.assert_allclose(got[mask == 1], y, rtol=1e-12)
        np.testing.assert_allclose(got_balance, balance, rtol=1e-12)
        assert not got[mask == 0].any()
        (got_dx, nothing), got_grads = net.pull(params, residuals, (got.at[mask == 1].set(dy[0]), dy[1]))
        assert nothing is None
        np.testing.assert_allclose(got_dx[mask == 1], dx, rtol=1e-11, atol=1e-14)
        assert not got_dx[mask == 0].any()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14), got_grads, grads)
    audit(net, (x, jnp.asarray(mask)))
    audit(net, (x, jnp.zeros((2, 4), bool)))
