"""Layers as functions of other people's programs: jax.grad and its kin, Flax NNX, Equinox, optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jbp import LayerError, Repeat, Residual, Serial, as_function, buffers, merge, trainable
from jbp.layers import BatchNorm, Dense, Dropout, Embedding, LayerNorm, StraightThroughSign, Tanh

X = jax.random.normal(jax.random.key(0), (6, 4))
NET = Serial(
    Dense(5, bias=False), BatchNorm(), Dropout(0.3), Repeat(Residual(Serial(LayerNorm(), Tanh())), 2), Dense(2)
)
PARAMS = NET.init(jax.random.key(1), X)


def close(a, b):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-11, atol=1e-13), a, b)


def true_gradient():
    def value(trained, x):
        return jnp.sin(NET.reference(merge(trained, buffers(PARAMS)), x)).sum()

    return jax.jit(jax.grad(value, (0, 1)))(trainable(PARAMS), X)


def test_in_jax():
    f = as_function(NET, has_aux=True)

    def value(trained, x):
        return jnp.sin(f(merge(trained, buffers(PARAMS)), x)[0]).sum()

    close(jax.jit(jax.grad(value, (0, 1)))(trainable(PARAMS), X), true_gradient())
    y, advanced = f(PARAMS, X)
    np.testing.assert_allclose(y, NET.reference(PARAMS, X), rtol=1e-11)
    assert advanced[1]["steps"].value == 1
    assert (f(advanced, X)[0] != y).any()  # another mask


def test_a_network_is_a_function_with_its_own_way_down():
    def value(trained, x):
        return jnp.sin(NET(merge(trained, buffers(PARAMS)), x, has_aux=True)[0]).sum()

    close(jax.jit(jax.grad(value, (0, 1)))(trainable(PARAMS), X), true_gradient())
    wave = jnp.linspace(-1.0, 1.0, 5)
    np.testing.assert_array_equal(jax.grad(lambda x: StraightThroughSign()((), x).sum())(wave), jnp.ones(5))
    assert not jax.grad(lambda x: StraightThroughSign().forward((), x)[0].sum())(wave).any()  # that is of the text
    with pytest.raises(LayerError, match=r"got has_aux=False, but Dropout\(0\.5\).* use net\.evaluation\(\)"):
        Dropout(0.5)((), X)


def test_a_layer_that_advances_must_be_asked_for_it():
    for layer in (Dropout(0.5), BatchNorm(), NET):
        with pytest.raises(LayerError, match=r"expected has_aux=True, which returns .* as the second of the pair"):
            as_function(layer)
        as_function(layer.evaluation())
    with pytest.raises(LayerError, match=r"got type as layer; expected a layer\. Write Tanh\(\.\.\.\)"):
        as_function(Tanh)


def test_what_is_trained_has_its_gradient_through_the_advanced_parameters_too():
    f = as_function(Serial(Dense(2), Dropout(0.0)), has_aux=True)
    params = Serial(Dense(2), Dropout(0.0)).init(jax.random.key(0), X)

    def value(trained):
        y, advanced = f(merge(trained, buffers(params)), X)
        return 0 * y.sum() + 3 * advanced[0]["b"].sum()

    np.testing.assert_array_equal(jax.grad(value)(trainable(params))[0]["b"], [3, 3])


def test_numpy_is_taken_as_jax_takes_it():
    with jax.enable_x64(False):
        net, x = Serial(Dense(2), Tanh()), np.ones((3, 4))
        assert x.dtype == np.float64
        params = net.init(jax.random.key(0), x)
        assert params[0]["w"].dtype == jnp.float32
        assert as_function(net)(params, x).dtype == jnp.float32


def test_under_vmap_scan_checkpoint_and_beside_what_jax_differentiates():
    net = Serial(Dense(4), Tanh())
    params = net.init(jax.random.key(0), X)

    def through(f):
        def value(params, scale, x):
            def cell(h, _):
                return jax.checkpoint(lambda h: f(params, h * scale))(h), None

            return jnp.square(jax.vmap(lambda row: jax.lax.scan(cell, row, length=3)[0])(x)).sum()

        return jax.jit(jax.grad(value, (0, 1, 2)))(params, jnp.asarray(0.7), X)

    close(through(as_function(net)), through(net.reference))


def test_integers_and_buffers_get_no_gradient():
    f, ids = as_function(Embedding(3, 2, "float64")), jnp.array([0, 2, 2])
    params = Embedding(3, 2, "float64").init(jax.random.key(0), ids)
    grads = jax.grad(lambda params: f(params, ids).sum())(params)
    np.testing.assert_array_equal(grads["e"], [[1, 1], [0, 0], [2, 2]])
    grads = jax.grad(lambda params: as_function(NET, has_aux=True)(params, X)[0].sum(), allow_int=True)(PARAMS)
    assert not grads[1]["mean"].value.any()
    assert grads[0]["w"].any()


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: as_function(Tanh())((), x), (X,), (X,))


def test_in_flax():
    class Block(nnx.Module):
        def __init__(self, net, x, params):
            self.f = as_function(net, has_aux=True)
            self.trained = nnx.Param(trainable(params))
            self.buffers = nnx.Variable(buffers(params))

        def __call__(self, x):
            y, _advanced = self.f(merge(self.trained.get_value(), self.buffers.get_value()), x)
            return y  # a training step would keep buffers(_advanced)

    model = Block(NET, X, PARAMS)
    grads = nnx.grad(lambda model, x: jnp.sin(model(x)).sum())(model, X)
    close(grads["trained"].get_value(), true_gradient()[0])
    with jax.numpy_dtype_promotion("standard"):
        optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
        before = jnp.sin(model(X)).sum()
        optimizer.update(model, grads)
    assert jnp.sin(model(X)).sum() < before


def test_in_equinox():
    class Block(eqx.Module):
        params: tuple
        net: Serial = eqx.field(static=True)

        def __call__(self, x):
            return as_function(self.net, has_aux=True)(self.params, x)[0]

    grads = eqx.filter_jit(eqx.filter_grad(lambda model, x: jnp.sin(model(x)).sum()))(Block(PARAMS, NET), X)
    close(trainable(grads.params), true_gradient()[0])
