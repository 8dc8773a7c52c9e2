"""Values at the edges, by hand: classes that cannot be, rows that are left out, small integers, sure answers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import draw, is_float

from jbp.cases import f
from jbp.losses import (
    CTC,
    NLL,
    BinaryCrossEntropy,
    ClippedPolicy,
    Each,
    Focal,
    Hinge,
    KLDiv,
    KullbackLeibler,
    LinearCrossEntropy,
    MultiLabelSoftMargin,
    MultiMargin,
    PoissonNLL,
    PolicyGradient,
    SoftMargin,
    SoftmaxCrossEntropy,
)
from jbp.train import accuracy

INF = jnp.inf


@partial(jax.jit, static_argnums=0)
def both(loss, x, params=()):
    """((y, dx), the same by jax.vjp of the reference)."""
    y, residuals = loss.forward(params, x)
    dx, _ = loss.pull(params, residuals, jnp.ones_like(y))
    moves = jax.tree.map(lambda v: v if is_float(v) else None, x)
    merged = lambda m: jax.tree.map(lambda a, b: b if a is None else a, m, x, is_leaf=lambda v: v is None)  # noqa: E731
    y_plain, down = jax.vjp(lambda m: loss.reference(params, merged(m)), moves)
    return (y, dx), (y_plain, down(jnp.ones_like(y))[0])


def swept(loss, *x, params=()):
    """(y, dx), after a check that the definition has the same, infinities too."""
    ours, plain = both(loss, x, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, plain)
    return ours


@partial(jax.jit, static_argnums=0)
def value(loss, *x):
    return loss.forward((), x)[0]


def row(*numbers):
    return jnp.array([[float(v) for v in numbers]])


E = np.exp([1, 0.5, 0])
SHARES = np.array([E[0], 0, E[1], E[2]]) / E.sum()  # softmax of 1, −∞, 0.5, 0


def test_a_class_of_minus_infinity_cannot_be():
    z, label = row(1, -INF, 0.5, 0), jnp.array([0])
    y, (dz, _) = swept(SoftmaxCrossEntropy(), z, label)
    np.testing.assert_allclose(y, -np.log(SHARES[0]), rtol=1e-12)
    np.testing.assert_allclose(dz[0], SHARES - [1, 0, 0, 0], rtol=1e-12)
    y, (dz, dq) = swept(SoftmaxCrossEntropy(), z, row(0.25, 0, 0.75, 0))
    np.testing.assert_allclose(y, -0.25 * np.log(SHARES[0]) - 0.75 * np.log(SHARES[2]), rtol=1e-12)
    np.testing.assert_allclose(dz[0], SHARES - [0.25, 0, 0.75, 0], rtol=1e-12)
    np.testing.assert_allclose(dq[0], [-np.log(SHARES[0]), 0, -np.log(SHARES[2]), -np.log(SHARES[3])], rtol=1e-12)
    y, (dz, _) = swept(SoftmaxCrossEntropy(0.1), z, label)  # a share of the smoothed label is where nothing can be
    assert y == INF
    np.testing.assert_allclose(dz[0], SHARES - [0.925, 0.025, 0.025, 0.025], rtol=1e-12)
    y, _ = swept(SoftmaxCrossEntropy(0.1, weights=(1.0, 0.0, 1.0, 1.0)), z, label)
    np.testing.assert_allclose(y, -(np.array([0.925, 0.025, 0.025]) * np.log(SHARES[[0, 2, 3]])).sum(), rtol=1e-12)


@pytest.mark.parametrize("columns", [1, 4])
def test_a_bias_of_minus_infinity(columns):
    params = {"w": jnp.zeros((2, 4)), "b": jnp.array([1.0, -INF, 0.5, 0.0])}
    loss, x = LinearCrossEntropy(4, columns=columns), jnp.ones((1, 2))
    y, (dx, _) = swept(loss, x, jnp.array([0]), params=params)
    np.testing.assert_allclose(y, -np.log(SHARES[0]), rtol=1e-12)
    assert not dx.any()
    residuals = loss.forward(params, (x, jnp.array([0])))[1]
    _, grads = loss.pull(params, residuals, jnp.ones(()))
    np.testing.assert_allclose(grads["b"], SHARES - [1, 0, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(grads["w"], np.tile(SHARES - [1, 0, 0, 0], (2, 1)), rtol=1e-12)


def test_a_teacher_and_a_student_without_a_class():
    u, z = row(1, -INF, 0.5, 0), row(0, 0, 0, 0)
    y, (dz, du) = swept(KullbackLeibler(), z, u)
    p = SHARES[[0, 2, 3]]
    np.testing.assert_allclose(y, (p * np.log(4 * p)).sum(), rtol=1e-12)
    np.testing.assert_allclose(dz[0], 0.25 - SHARES, rtol=1e-12)
    assert du[0, 1] == 0
    y, (dz, _) = swept(KullbackLeibler(), row(0, -INF, 0, 0), u)
    np.testing.assert_allclose(y, (p * np.log(3 * p)).sum(), rtol=1e-12)
    assert dz[0, 1] == 0
    assert value(KullbackLeibler(), u, z) == INF  # the teacher has what the student cannot


def test_sure_and_right_answers_of_yes_and_no():
    y, (dz, dt) = swept(BinaryCrossEntropy(), jnp.array([INF, -INF, 0.0]), jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(y, np.log(2) / 3, rtol=1e-12)
    np.testing.assert_allclose(dz, [0, 0, -1 / 6], rtol=1e-12)
    np.testing.assert_allclose(dt, [0, 0, 0], rtol=1e-12)
    np.testing.assert_array_equal(
        both(Each(BinaryCrossEntropy()), (jnp.array([INF, -INF]), jnp.array([0.0, 0.5])))[0][0], [INF, INF]
    )


def test_infinite_scores_that_are_right_cost_nothing_and_send_nothing():
    z, signs, shares = jnp.array([[INF, -INF]]), jnp.array([[1.0, -1.0]]), jnp.array([[1.0, 0.0]])
    for loss, t in ((Hinge(), signs), (SoftMargin(), signs), (Focal(), shares), (MultiLabelSoftMargin(), shares)):
        y, dx = swept(loss, z, t) if t is shares else both(loss, (z, t))[0]  # jax.vjp of a product: ∞ · 0
        assert y == 0, loss
        for d in dx:
            assert not d.any(), loss
    y, (dz, _) = swept(MultiMargin(), row(1, -INF, 0.5, 0), jnp.array([0]))
    np.testing.assert_allclose(y, 0.5 / 4, rtol=1e-12)
    np.testing.assert_allclose(dz[0], [-0.25, 0, 0.25, 0], rtol=1e-12)
    y, (dq, dp) = swept(KLDiv(), row(-0.5, -INF), row(1, 0))
    np.testing.assert_allclose(y, 0.5 / 2, rtol=1e-12)
    np.testing.assert_allclose((dq[0], dp[0]), ([-0.5, 0], [0.75, 0]), rtol=1e-12)
    assert jnp.isnan(KLDiv().forward((), (row(-0.5, -1), row(1, -0.1)))[0])  # no probability
    y, (dp, dt) = swept(PoissonNLL(), row(-INF), row(0))
    assert (y, dp[0], dt[0]) == (0, 0, 0)
    y, (dp, _) = swept(NLL(), row(-0.5, -INF), jnp.array([0]))
    assert y == 0.5
    assert dp[0].tolist() == [-1, 0]


def test_an_action_that_cannot_be():
    z, action = row(1, -INF, 0.5, 0), jnp.array([0])
    entropy = -(SHARES[[0, 2, 3]] * np.log(SHARES[[0, 2, 3]])).sum()
    y, (dz, *_) = swept(PolicyGradient(0.5), z, action, jnp.array([2.0]))
    np.testing.assert_allclose(y, -2 * np.log(SHARES[0]) - 0.5 * entropy, rtol=1e-12)
    assert dz[0, 1] == 0
    y, (dz, *_) = swept(ClippedPolicy(0.2, 0.5), z, action, jnp.log(SHARES[:1]), jnp.array([2.0]))
    np.testing.assert_allclose(y, -2 - 0.5 * entropy, rtol=1e-12)
    assert dz[0, 1] == 0
    assert swept(PolicyGradient(), z, jnp.array([1]), jnp.array([0.0]))[0] == 0


def test_frames_in_which_a_class_cannot_be():
    z = jnp.zeros((1, 2, 3)).at[0, 0, 0].set(-INF)  # the paths 11, 10 of the three
    y, (dz, _) = swept(CTC(), z, jnp.array([[1]]))
    np.testing.assert_allclose(y, -np.log(0.5 * 2 / 3), rtol=1e-12)
    np.testing.assert_allclose(dz[0, 0], [0, -0.5, 0.5], atol=1e-12)
    y, (dz, _) = both(CTC(), (z.at[0, :, 1].set(-INF), jnp.array([[1]])))[0]  # no path is left
    assert y == INF
    assert not dz.any()


def test_frames_that_do_not_count_may_hold_anything():
    z, labels = draw(f(1, 3, 3)).at[:, 2].set(jnp.nan), jnp.array([[1]])
    (y, (dz, *_)), _ = both(CTC(), (z, labels, jnp.array([2])))
    (want, (dz_want, _)), _ = both(CTC(), (z[:, :2], labels))
    np.testing.assert_allclose(y, want, rtol=1e-12)
    np.testing.assert_allclose(dz[:, :2], dz_want, rtol=1e-12)
    assert not dz[:, 2].any()


def test_ctc_is_never_below_zero():
    z = 40 * jax.nn.one_hot(jnp.array([[0, 1, 0, 2, 2, 0]] * 3), 3, dtype=jnp.float32)
    z = z.at[1].multiply(0.4).at[2].multiply(0.45)
    each = value(Each(CTC()), z, jnp.array([[1, 2]] * 3))
    assert (each >= 0).all()


def test_ctc_by_the_number_of_labels_and_without_what_cannot_be():
    z, labels = jnp.zeros((3, 2, 3)), jnp.array([[1, 0], [1, 1], [0, 0]])
    one, none = -np.log(3 / 9), -np.log(1 / 9)  # 11, 10, 01; and 00
    np.testing.assert_allclose(value(Each(CTC()), z, labels), [one, INF, none], rtol=1e-12)
    y, (dz, _) = swept(CTC(zero_infinity=True), z, labels)
    np.testing.assert_allclose(y, (one + none) / 3, rtol=1e-12)
    assert not dz[1].any()
    two = jnp.zeros((1, 2, 3)), jnp.array([[1, 2]])
    np.testing.assert_allclose(swept(CTC(per_label=True), *two)[0], -np.log(1 / 9) / 2, rtol=1e-12)
    assert swept(CTC(per_label=True), z[:1], labels[2:])[0] == pytest.approx(none)


def test_small_integers_can_count_what_they_name():
    z = jnp.zeros((1, 3, 300)).at[..., 1].set(1.0)
    wide = value(CTC(299), z, jnp.array([[1, 2]]))
    assert value(CTC(299), z, jnp.array([[1, 2]], jnp.uint8)) == wide
    long = jnp.zeros((1, 300, 2))
    y = value(CTC(), long, jnp.array([[1]], jnp.uint8), jnp.array([200], jnp.uint8))
    np.testing.assert_allclose(y, 200 * np.log(2) - np.log(200 * 201 / 2), rtol=1e-9)  # runs among 200 frames
    scores = jnp.zeros((1, 300)).at[0, 256].set(1.0)
    assert accuracy(scores, jnp.array([0], jnp.uint8)) == 0
    actions = jnp.array([1, 100], jnp.int8)
    for loss, more in ((PolicyGradient(), ()), (ClippedPolicy(), (jnp.zeros(2),))):
        given = [value(loss, draw(f(2, 300)), a, *more, jnp.ones(2)) for a in (actions, actions.astype(int))]
        assert given[0] == given[1]


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(ignore=2), LinearCrossEntropy(4, 2, ignore=2)], ids=repr)
def test_an_ignored_row_of_nan_counts_for_nothing(loss):
    x, labels = draw(f(3, 4)).at[1].set(jnp.nan), jnp.array([0, 2, 1])
    params = {"w": draw(f(4, 4), 1), "b": jnp.zeros(4)} if isinstance(loss, LinearCrossEntropy) else ()
    y, (dx, _) = swept(loss, x, labels, params=params)
    want, (dx_want, _) = swept(loss, x[::2], labels[::2], params=params)
    np.testing.assert_allclose(y, want, rtol=1e-12)
    np.testing.assert_allclose(dx[::2], dx_want, rtol=1e-12)
    assert not dx[1].any()


def test_classes_of_weight_zero():
    z, labels = draw(f(3, 2)).at[1].set(jnp.nan), jnp.array([0, 1, 0])
    y, (dz, _) = swept(SoftmaxCrossEntropy(weights=(2.0, 0.0)), z, labels)
    np.testing.assert_allclose(y, swept(SoftmaxCrossEntropy(), z[::2], labels[::2])[0], rtol=1e-12)
    assert not dz[1].any()


def test_accuracy():
    scores = jnp.array([[2.0, 1, 0], [0, 1, 2], [0, 3, 0], [1, 0, 0]])
    labels = jnp.array([0, 2, 0, 1])
    assert accuracy(scores, labels) == 0.5
    assert accuracy(scores, labels, ignore=1) == pytest.approx(2 / 3)
    assert accuracy(scores, labels, jnp.array([True, False, True, False])) == 0.5
    assert accuracy(scores, labels, jnp.array([3.0, 0, 1, 0])) == 0.75
    assert accuracy(scores, jax.nn.one_hot(labels, 3)) == 0.5
    assert accuracy(scores[None], labels[None]) == 0.5
    assert accuracy(scores, labels, jnp.zeros(4)) == 0
    assert accuracy(scores, labels).dtype == jnp.float32
    for bad in (labels[:, None], labels[:3], jax.nn.one_hot(labels, 4)):
        with pytest.raises(ValueError, match="expected one integer for each row of scores"):
            accuracy(scores, bad)
    with pytest.raises(ValueError, match="expected one for each row of scores"):
        accuracy(scores, labels, jnp.ones((4, 1)))
