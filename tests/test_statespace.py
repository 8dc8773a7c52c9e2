"""State spaces and linear attention: against plain recurrences, in chunks of any size, and what is never in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import audit, draw, parameters

import jbp.layers.attention.blockwise
import jbp.layers.statespace
from jbp.cases import f
from jbp.layers import DiagonalStateSpace, LinearAttention, SelectiveStateSpace


@pytest.mark.parametrize(("size", "n"), [(1, 3), (3, 3), (3, 7)])
def test_chunks_of_any_size(size, n, monkeypatch):
    monkeypatch.setattr(jbp.layers.attention.blockwise, "BLOCK", size)
    monkeypatch.setattr(jbp.layers.statespace, "CHUNK", size)
    audit(LinearAttention(2, causal=True), draw(f(2, n, 4)))
    audit(SelectiveStateSpace(2), draw(f(2, n, 4)))


def test_a_diagonal_state_space_is_a_complex_recurrence():
    net, x = DiagonalStateSpace(3), draw(f(2, 6, 4))
    params = jax.tree.map(np.asarray, parameters(net, x))
    eigenvalues = np.exp(-np.exp(params["nu"]) + 1j * np.exp(params["theta"]))
    b = params["b"][:, :3] + 1j * params["b"][:, 3:]
    c = params["c"][:3] - 1j * params["c"][3:]
    h, ys = np.zeros((2, 3), complex), []
    for t in range(6):
        h = eigenvalues * h + np.asarray(x[:, t]) @ b
        ys.append((h @ c).real + params["d"] * np.asarray(x[:, t]))
    np.testing.assert_allclose(net.forward(params, x)[0], np.stack(ys, 1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_start_stable_and_about_as_large_as_the_input(dtype):
    net, x = DiagonalStateSpace(64), jax.random.normal(jax.random.key(0), (1, 400, 32), dtype)
    params = net.init(jax.random.key(1), x)
    assert all(jnp.isfinite(p).all() for p in params.values())
    size = np.exp(-np.exp(np.asarray(params["nu"], np.float64)))
    assert (size > 0.88).all()
    assert (size < 1).all()
    h = np.asarray(net.forward(params, x)[1][1], np.float64)
    assert 0.3 < np.sqrt((h[200:] ** 2).mean()) < 1.5


def largest(net, x):
    """The number of elements of the largest array in both passes, loops included, parameters left out."""

    def both(params, x):
        y, residuals = net.forward(params, x)
        return net.pull(params, residuals, y)

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (v.aval.size for v in eqn.outvars if hasattr(v.aval, "size"))

            for value in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
                if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                    yield from walk(getattr(value, "jaxpr", value))

    params = net.init(jax.random.key(0), x)
    return max(walk(jax.make_jaxpr(both)(params, x).jaxpr))


@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_holds_no_scores_and_no_running_states(causal, monkeypatch):
    monkeypatch.setattr(jbp.layers.attention.blockwise, "BLOCK", 16)
    n, d = 256, 16
    assert largest(LinearAttention(1, causal), draw(f(1, n, d))) < n * d * 4 < min(n * n, n * d * d)


def test_the_states_of_a_selective_scan_are_never_all_there():
    t, n, features = 256, 8, 4
    assert largest(SelectiveStateSpace(n), draw(f(1, t, features))) < t * features * n / 2


def test_a_selective_state_space_can_choose_to_remember():
    """Where x = 0 makes the step almost nothing, the state stays what the last other x made it."""
    net = SelectiveStateSpace(1)
    x = jnp.zeros((1, 20, 1)).at[0, 0].set(3.0)
    params = {
        "a": jnp.zeros((1, 1)), "p": jnp.ones((1, 1)), "r": jnp.full((1, 1), 10.0), "b": jnp.array([-15.0]),
        "w_b": jnp.ones((1, 1)), "w_c": jnp.ones((1, 1)), "d": jnp.zeros(1),
    }  # fmt: skip
    _, (*_, starts) = net.forward(params, x)
    once = 15 * 3.0 * 3.0  # Δ B x
    np.testing.assert_allclose(starts[1, 0, 0, 0], once, rtol=1e-3)
