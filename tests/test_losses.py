"""What is special about a loss, or about a layer that belongs to one: against other people's, enumeration, theory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import draw, parameters

import jbp
from jbp.catalogue import f
from jbp.train import fit, start

KEY = jax.random.key(3)


def value_and_error(loss, *x):
    """(y, dx) of a loss without parameters."""
    y, residuals = loss.forward((), x if len(x) > 1 else x[0])
    return y, loss.backward((), residuals, jnp.ones_like(y))[0]


def test_a_reparameterized_sample_has_the_mean_and_the_variance_that_it_is_given():
    x = jnp.tile(jnp.array([[1.0, -3.0, 0.0, jnp.log(4.0)]]), (20000, 1))
    layer = jbp.Reparameterize()
    params = layer.init(KEY, x)
    y, residuals = layer.forward(params, x)
    np.testing.assert_allclose(y.mean(0), [1, -3], atol=0.06)  # four standard deviations of the mean
    np.testing.assert_allclose(y.var(0), [1, 4], rtol=0.05)
    moved = layer.advance(params, residuals)
    assert np.abs(layer.forward(moved, x)[0] - y).max() > 1
    np.testing.assert_array_equal(layer.evaluation().forward(params, x)[0], x[:, :2])


def test_the_divergence_is_the_mean_log_ratio_of_densities():
    m, s = 0.7, -0.4
    y, _ = value_and_error(jbp.StandardNormalDivergence(), jnp.array([[m, s]]))
    z = np.linspace(-12, 12, 20001)
    log_q = -0.5 * (np.log(2 * np.pi) + s + (z - m) ** 2 / np.exp(s))
    log_p = -0.5 * (np.log(2 * np.pi) + z**2)
    np.testing.assert_allclose(y, np.trapezoid(np.exp(log_q) * (log_q - log_p), z), rtol=1e-6)
    y, dx = value_and_error(jbp.StandardNormalDivergence(), jnp.zeros((3, 4)))
    assert y == 0
    assert not dx.any()


def test_a_variational_autoencoder_trains():
    x = jax.nn.one_hot(jnp.arange(64) % 4, 8)
    encoder = jbp.Serial(jbp.Dense(16), jbp.Tanh(), jbp.Dense(4))
    decoder = jbp.Serial(jbp.Reparameterize(), jbp.Dense(16), jbp.Tanh(), jbp.Dense(8))
    net = jbp.Serial(encoder, jbp.FanOut(), jbp.Parallel(decoder, jbp.StandardNormalDivergence()))
    loss, optimizer = jbp.Penalized(jbp.MeanSquaredError(), 0.001), optax.adam(1e-2)
    state = start(net, optimizer, KEY, x)
    state, history = fit(net, loss, optimizer, state, [(x, x)] * 150)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    (prediction, _), _ = net.evaluation().forward(state.params, x)
    assert (prediction.argmax(-1) == jnp.arange(64) % 4).all()


def test_fit_takes_losses_of_no_target_and_of_several():
    x = draw(f(6, 3))
    net = jbp.Serial(jbp.Dense(4), jbp.StandardNormalDivergence())
    state = start(net, optax.sgd(0.1), KEY, x)
    _, history = fit(net, jbp.Add(), optax.sgd(0.1), state, [(x,)] * 20)
    assert history[-1]["loss"] < history[0]["loss"]


def test_a_penalty_is_one_number():
    loss = jbp.Penalized(jbp.MeanSquaredError())
    with pytest.raises(jbp.LayerError, match="expected one number"):
        loss.forward((), ((jnp.ones(2), jnp.ones(2)), jnp.ones(2)))
    with pytest.raises(jbp.LayerError, match=r"expected \(\(prediction, penalty\), target\)"):
        loss.forward((), (jnp.ones(2), jnp.ones(2)))
    assert parameters(loss, ((jnp.ones(2), jnp.ones(())), jnp.ones(2))) == ()
