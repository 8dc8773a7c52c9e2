"""A loss is a mean of terms: one by one, summed, weighted, by example, in parts, and with nothing to count."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import audit, draw, is_float

import jbp
from jbp.cases import f, i
from jbp.catalogue import LOSSES
from jbp.losses import (
    CTC,
    Each,
    LinearCrossEntropy,
    Loss,
    MeanSquaredError,
    PerExample,
    SoftmaxCrossEntropy,
    Sum,
    Weighted,
)
from jbp.params import trainable
from jbp.train import State
from jbp.train.watch import cause
from verify.architectures.protocol import children, replace_at


@partial(jax.jit, static_argnums=0)
def swept(loss, x, params=()):
    """(y, dx, dparams) for a cotangent of ones."""
    y, residuals = loss.forward(params, x)
    dx, grads = loss.pull(params, residuals, jnp.ones_like(y))
    return y, dx, grads


P, T = jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.zeros((2, 2))


def test_each_sum_and_mean_by_hand():
    mse = MeanSquaredError()
    np.testing.assert_array_equal(swept(Each(mse), (P, T))[0], [[1, 4], [9, 25]])
    assert swept(Sum(mse), (P, T))[0] == 39
    np.testing.assert_array_equal(swept(Sum(mse), (P, T))[1][0], 2 * P)
    assert swept(PerExample(mse), (P, T))[0] == 39 / 2  # PyTorch's "batchmean"
    np.testing.assert_array_equal(swept(Each(PerExample(mse)), (P, T))[0], [5, 34])
    np.testing.assert_array_equal(swept(Each(PerExample(mse, "mean")), (P, T))[0], [2.5, 17])


def test_weights_of_examples_and_of_elements_by_hand():
    mse, w = MeanSquaredError(), jnp.array([1.0, 3.0])
    y, (dp, _, dw), _ = swept(Weighted(mse), (P, T, w))
    assert y == (1 + 4 + 3 * 9 + 3 * 25) / 8
    np.testing.assert_allclose(dp, 2 * P * w[:, None] / 8, rtol=1e-12)
    np.testing.assert_allclose(dw, [(5 - 2 * y) / 8, (34 - 2 * y) / 8], rtol=1e-12)
    y, (*_, dw), _ = swept(Weighted(mse, normalize=False), (P, T, w))
    assert y == (1 + 4 + 3 * 9 + 3 * 25) / 4  # the weight of PyTorch's losses
    np.testing.assert_allclose(dw, [5 / 4, 34 / 4], rtol=1e-12)
    assert swept(Weighted(mse), (P, T, jnp.array([[True, False], [False, True]])))[0] == 13
    assert swept(Weighted(mse), (P, T, jnp.array([[1.0, 0.0]])))[0] == 5  # one column
    assert swept(Weighted(Sum(mse)), (P, T, jnp.array(2.0)))[0] == 39
    with pytest.raises(jbp.LayerError, match="expected a real weight for each of the first axes"):
        Weighted(mse).forward((), (P, T, jnp.ones(3)))
    with pytest.raises(jbp.LayerError, match=r"got loss=Dense\(3\); expected a Loss"):
        Weighted(jbp.layers.Dense(3))


def test_a_weight_of_zero_leaves_out_whatever_is_there():
    for loss, x in (
        (MeanSquaredError(), (draw(f(3, 2)), draw(f(3, 2), 1))),
        (SoftmaxCrossEntropy(), (draw(f(3, 4)), jnp.array([0, 1, 2]))),
        (LinearCrossEntropy(4, 2), (draw(f(3, 2)), jnp.array([0, 1, 2]))),
        (CTC(), (draw(f(3, 4, 3)), jnp.array([[1, 2], [1, 1], [2, 0]]))),
        (jbp.losses.GaussianNegativeLogLikelihood(), (draw(f(3, 4)), draw(f(3, 2), 1))),
        (jbp.losses.KullbackLeibler(), (draw(f(3, 4)), draw(f(3, 4), 1))),
        (jbp.losses.Triplet(), tuple(draw(f(3, 4), seed) for seed in range(3))),
        (jbp.losses.PolicyGradient(0.1), (draw(f(3, 4)), jnp.array([0, 1, 2]), draw(f(3), 1))),
    ):
        params = loss.init(jax.random.key(0), x)
        spoilt = tuple(v.at[1].set(jnp.nan) if jnp.issubdtype(v.dtype, jnp.floating) else v.at[1].set(99) for v in x)
        y, dx, grads = swept(Weighted(loss), (*spoilt, jnp.array([1.0, 0.0, 1.0])), params)
        want, want_dx, want_grads = swept(loss, tuple(v[::2] for v in x), params)
        np.testing.assert_allclose(y, want, rtol=1e-12)
        for got, wanted in zip(dx, want_dx, strict=False):
            if wanted is not None:
                np.testing.assert_allclose(got[::2], wanted, rtol=1e-10, atol=1e-14)
                assert not got[1].any()
        assert jnp.isfinite(dx[-1]).all()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), grads, want_grads)


def test_gradients_over_parts_of_unequal_counts_are_those_of_the_batch():
    loss = Weighted(SoftmaxCrossEntropy(ignore=0, weights=(1.0, 2.0, 0.5)))
    z, labels, w = draw(f(7, 3)), jnp.array([0, 1, 2, 0, 0, 2, 1]), jnp.array([1.0, 2, 1, 1, 1, 0, 3])
    whole, (dz, *_), _ = swept(loss, (z, labels, w))
    parts = [(z[a:b], labels[a:b], w[a:b]) for a, b in ((0, 2), (2, 7))]
    count = sum(loss.count((), x) for x in parts)
    assert count == 2 * 2 + 0.5 + 2 * 3 == loss.count((), (z, labels, w))
    summed = [swept(Sum(loss), x) for x in parts]
    np.testing.assert_allclose(sum(y for y, *_ in summed) / count, whole, rtol=1e-12)
    np.testing.assert_allclose(jnp.concatenate([dx[0] for _, dx, _ in summed]) / count, dz, rtol=1e-12)
    means = [loss.count((), x) * swept(loss, x)[0] for x in parts]
    np.testing.assert_allclose(sum(means) / count, whole, rtol=1e-12)
    assert MeanSquaredError().count((), (P, T)) == 4


EMPTY = {
    type(c.layer): c
    for c in LOSSES
    if isinstance(c.layer, Loss)
    and all(a.shape for a in jax.tree.leaves(c.inputs[0], is_leaf=lambda a: hasattr(a, "shape")))
}


@pytest.mark.parametrize("case", EMPTY.values(), ids=lambda c: repr(c.layer))
def test_an_empty_batch_is_zero(case):
    def none(v):
        pairs = not is_float(v) and v.ndim == 2 and v.shape[0] == v.shape[1]  # a mask of who may be beside whom
        return v[:0, :0] if pairs else v[:0]

    x = jax.tree.map(none, draw(case.inputs[0]))
    y, dx, _ = swept(case.layer, x, case.layer.init(jax.random.key(0), x))
    assert y == 0
    assert jax.tree.map(jnp.shape, dx) == jax.tree.map(lambda v: v.shape if is_float(v) else None, x)


def test_nothing_counted_is_zero():
    x = draw((f(3, 2), i(3, below=1)))
    for loss in (
        SoftmaxCrossEntropy(ignore=0),
        SoftmaxCrossEntropy(weights=(0.0, 1.0)),
        LinearCrossEntropy(2, ignore=0),
    ):
        y, dx, grads = swept(loss, x, loss.init(jax.random.key(0), x))
        assert y == 0
        assert not any(v.any() for v in jax.tree.leaves((dx, grads)))


def test_each_word_of_linear_cross_entropy_without_its_logits():
    loss, x = (
        LinearCrossEntropy(5, chunk=2, columns=2, weights=(1.0, 0.0, 2.0, 1.0, 1.0)),
        draw((f(2, 3, 4), i(2, 3, below=5))),
    )
    params = audit(Each(loss), x)
    z = x[0] @ params["w"] + params["b"][None, None]
    same = SoftmaxCrossEntropy(weights=(1.0, 0.0, 2.0, 1.0, 1.0))
    np.testing.assert_allclose(Each(loss).forward(params, x)[0], Each(same).forward((), (z, x[1]))[0], rtol=1e-12)


def test_losses_in_losses_train_and_are_looked_into_for_nan():
    net = jbp.Serial(
        jbp.Parallel(jbp.layers.Dense(2), *[jbp.layers.Identity()] * 2), Weighted(LinearCrossEntropy(3, 2))
    )
    x = draw((f(4, 3), i(4, below=3), f(4)))
    params, optimizer = audit(net, x), optax.sgd(0.1)
    state = State(params, optimizer.init(trainable(params)), jnp.zeros((), jnp.int32))
    assert cause(net, jbp.layers.Add(), optimizer, state, (x,)).startswith("When the step was run again")


def test_what_asks_its_inside_for_more_than_a_layer_has_is_taken_as_a_whole():
    """Audits put other layers in the place of what a combinator holds; a loss inside of a loss must stay one."""
    for layer in (Each(MeanSquaredError()), Weighted(Sum(CTC())), jbp.layers.GatedDense(2), jbp.losses.TripletMargin()):
        assert children(layer) == jbp.sweep.children(layer) == []
        assert replace_at(jbp.Serial(layer), lambda _, node: node) == jbp.Serial(layer)
