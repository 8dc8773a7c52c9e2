"""`value_and_grad` beside `jax.value_and_grad`, in training steps as people write them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_near, draw, parameters

from jbp import (
    Frozen,
    LayerError,
    Parallel,
    Repeat,
    Residual,
    Serial,
    apply_updates,
    buffers,
    cast,
    merge,
    trainable,
    value_and_grad,
)
from jbp.cases import f, i
from jbp.layers import Add, BatchNorm, Conv, Dense, Dropout, Flatten, Identity, LayerNorm, MaxPool, ReLU, Tanh
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy
from jbp.sweep import advancing, children, initialize

MLP = Serial(Dense(8), Tanh(), Residual(Serial(LayerNorm(), Dense(8))), Dense(5))
CONVOLUTIONAL = Serial(Conv(3), ReLU(), MaxPool(), Flatten(), Dense(5))
NOISY = Serial(Dense(8), BatchNorm(), Dropout(0.5), Repeat(Residual(Serial(Dense(8), Dropout(0.3))), 2), Dense(5))
ENTROPY = SoftmaxCrossEntropy()
LABELS = i(6, below=5)


def by_jax(net, loss, params, x, target):
    fixed = buffers(params)
    return jax.value_and_grad(lambda p: loss.reference((), (net.reference(merge(p, fixed), x), target)))(
        trainable(params)
    )


@pytest.mark.parametrize(("net", "spec"), [(MLP, f(6, 4)), (CONVOLUTIONAL, f(6, 5, 4, 2))], ids=["mlp", "conv"])
@pytest.mark.parametrize("loss", [ENTROPY, MeanSquaredError()], ids=repr)
def test_value_and_gradient_are_those_of_jax(net, spec, loss):
    x, target = draw(spec), draw(LABELS if loss is ENTROPY else f(6, 5))
    params = parameters(net, x)
    value, grads = jax.jit(value_and_grad(net, loss))(params, x, target)
    wanted = jax.jit(lambda p: by_jax(net, loss, p, x, target))(params)
    assert_near((value, grads), wanted, 1e-12)


def test_aux_has_the_output_and_the_advanced_parameters():
    x, target = draw(f(6, 4)), draw(LABELS)
    params = parameters(NOISY, x)
    (value, aux), grads = jax.jit(value_and_grad(NOISY, ENTROPY, has_aux=True))(params, x, target)
    assert_near((value, grads), jax.jit(lambda p: by_jax(NOISY, ENTROPY, p, x, target))(params), 1e-12)
    y, residuals = NOISY.forward(params, x)
    np.testing.assert_allclose(aux.output, y, rtol=1e-12)
    advanced = NOISY.advance(params, residuals)
    assert_near(cast(aux.params[1], "float64")["mean"].value, advanced[1]["mean"].value, 1e-6)
    assert jax.tree.structure(aux.params) == jax.tree.structure(params)


def test_a_network_that_advances_must_be_asked_for_it():
    with pytest.raises(LayerError, match=r"got has_aux=False, but BatchNorm\(\) .* expected has_aux=True"):
        value_and_grad(NOISY, ENTROPY)
    assert advancing(NOISY) == [BatchNorm(), Dropout(0.5), Dropout(0.3)]
    value_and_grad(NOISY.evaluation(), ENTROPY)
    with pytest.raises(LayerError, match="has_aux"):
        value_and_grad(Frozen(Dropout(0.1)), ENTROPY)


OPTIMIZERS = {
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.02, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.02),
    "adamw, masked decay": optax.adamw(0.02, mask=lambda p: jax.tree.map(lambda v: v.ndim > 1, p)),
    "clipped lamb": optax.chain(optax.clip_by_global_norm(1.0), optax.lamb(0.02)),
    "accumulating": optax.MultiSteps(optax.adam(0.02), 2),
    "multi": optax.partition(
        {"w": optax.adam(0.02), "other": optax.sgd(0.02)},
        lambda p: jax.tree_util.tree_map_with_path(
            lambda k, v: "w" if "'w'" in jax.tree_util.keystr(k) else "other", p
        ),
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer_learns_with_a_donated_state(optimizer):
    x, target = draw(f(6, 4), dtype="float32"), draw(LABELS)
    sweep = value_and_grad(NOISY, ENTROPY, has_aux=True)
    params = initialize(NOISY, jax.random.key(0), x)
    state = optimizer.init(trainable(params))

    def step(carry, _):
        params, state = carry
        (value, aux), grads = sweep(params, x, target)
        updates, state = optimizer.update(grads, state, trainable(params))
        return (apply_updates(aux.params, updates), state), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=40), donate_argnums=0)
    weight = params[0]["w"]
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        (params, state), values = run((params, state))
    assert weight.is_deleted()
    assert values[-5:].mean() < values[:5].mean()
    assert params[1]["steps"].value == 40
    trained = NOISY.evaluation().forward(params, x)[0]
    assert jnp.isfinite(trained).all()


def test_inputs_and_outputs_may_be_trees():
    x = draw((f(6, 4), f(6, 3)))
    net = Serial(Parallel(Dense(3), Identity()), MeanSquaredError())  # a network that holds its loss
    params = parameters(net, x)
    value, grads = value_and_grad(net, Add())(params, x)  # the sum of one number is that number
    assert_near((value, grads), jax.value_and_grad(lambda p: net.reference(p, x))(params), 1e-12)


def test_initialize_looks_at_shapes_only():
    x = draw(f(6, 4))
    one, two = initialize(MLP, jax.random.key(0), x), initialize(MLP, jax.random.key(0), x + jnp.nan)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), one, two))


def test_children_are_named_as_errors_name_them():
    assert [label for label, _ in children(MLP)] == ["[0]", "[1]", "[2]", "[3]"]
    assert children(Residual(Tanh())) == [("", Tanh())]
    assert children(Tanh()) == []


def test_a_loss_must_be_a_number():
    x = draw(f(6, 4))
    with pytest.raises(LayerError, match=r"got a loss float64\[6, 5\]; expected a scalar"):
        value_and_grad(MLP, Add())(parameters(MLP, x), x)
