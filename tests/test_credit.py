"""Feedback alignment: the other backward, the same gradient, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from jbp import Estimator, LayerError, Repeat, Residual, Serial, buffers, merge, trainable, value_and_grad
from jbp.credit import FeedbackAlignment, angle, feedback_alignment, transported
from jbp.layers import Conv, Dense, Flatten, ReLU, Tanh
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start

LOSS = SoftmaxCrossEntropy()


@pytest.mark.parametrize(("layer", "shape"), [(Dense(3), (5, 4)), (Conv(3), (2, 5, 4, 2))], ids=["Dense", "Conv"])
def test_the_error_goes_through_the_feedback_weights_and_the_gradient_does_not(layer, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    net = FeedbackAlignment(layer)
    params = net.init(jax.random.key(1), x)
    y, residuals = net.forward(params, x)
    dy = jnp.cos(y)
    dx, grads = net.pull(params, residuals, dy)
    np.testing.assert_array_equal(y, layer.forward(params["layer"], x)[0])
    np.testing.assert_array_equal(dx, layer.backward(params["feedback"].value, residuals, dy)[0])
    assert abs(dx - layer.backward(params["layer"], residuals, dy)[0]).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, grads["layer"], layer.gradient(residuals, dy))
    assert grads["feedback"] is None
    assert isinstance(net, Estimator)
    assert eval(repr(net)) == net


def test_with_transported_weights_it_is_backpropagation():
    inside = Serial(Conv(4), ReLU(), Flatten(), Dense(6), Repeat(Residual(Serial(Tanh(), Dense(6))), 3), Dense(3))
    net = feedback_alignment(inside)
    assert isinstance(net, Serial)
    assert repr(net).count("FeedbackAlignment") == 4
    x, target = jax.random.normal(jax.random.key(0), (4, 5, 5, 1)), jnp.array([0, 1, 2, 1])
    params = net.init(jax.random.key(1), x)

    def value(trained):
        return LOSS.reference((), (net.reference(merge(trained, buffers(params)), x), target))

    true = jax.jit(jax.grad(value))(trainable(params))
    sweep = jax.jit(value_and_grad(net, LOSS))
    grads = sweep(transported(params), x, target)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), grads, true)
    assert angle(grads, true) < 1e-9
    assert 20 < angle(sweep(params, x, target)[1], true) < 120


def test_parameters_of_the_network_without_feedback_are_refused():
    net = Serial(Tanh(), FeedbackAlignment(Dense(2)))
    with pytest.raises(LayerError, match=r"^Serial\[1\]: FeedbackAlignment\(Dense\(2\)\): got parameters"):
        net.forward(((), {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}), jnp.ones((1, 3)))


def test_angles_are_in_degrees():
    a, b = {"w": jnp.array([1.0, 0.0]), "k": None}, {"w": jnp.array([0.0, 2.0]), "k": None}
    np.testing.assert_allclose([angle(a, a), angle(a, b), angle(a, jax.tree.map(jnp.negative, a))], [0, 90, 180])


def test_it_learns_digits_and_comes_to_point_along_the_true_gradient():
    images, labels = load_digits(return_X_y=True)
    x, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
    net = feedback_alignment(Serial(Dense(64), Tanh(), Dense(64), Tanh(), Dense(10)))
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = start(net, optimizer, jax.random.key(0), x)
    sweep = jax.jit(value_and_grad(net, LOSS))

    def lowest(params):
        """The angle in the first layer, which has its error through both feedback matrices."""
        return float(angle(*(sweep(p, x[:500], labels[:500])[1][0] for p in (params, transported(params)))))

    before = lowest(state.params)
    rows = np.random.default_rng(0).permuted(np.tile(np.arange(1300), (6, 1)), axis=1).reshape(-1, 50)
    state, _ = fit(net, LOSS, optimizer, state, ((x[r], labels[r]) for r in rows))
    reached = accuracy(net.forward(state.params, x[1300:])[0], labels[1300:])
    after = lowest(state.params)
    print(f"angle {before:.0f}° → {after:.0f}°, held-out accuracy {reached:.1%}")
    assert reached > 0.85
    assert before > 70
    assert after < before - 20
