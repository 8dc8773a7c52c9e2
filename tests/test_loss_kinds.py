"""Losses that have no counterpart in PyTorch, by hand in NumPy, and their compositions as their papers mean them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import audit, draw

import jbp
from jbp.cases import f, i
from jbp.losses import (
    DPO,
    GRPO,
    KTO,
    ORPO,
    Dice,
    Each,
    Focal,
    InfoNCE,
    Jaccard,
    LinearCrossEntropy,
    MultiMargin,
    PerExample,
    Quantile,
    SigmoidContrastive,
    Weighted,
)


@partial(jax.jit, static_argnums=0)
def value(loss, *x, params=()):
    return loss.forward(params, x)[0]


def sigma(z):
    return 1 / (1 + np.exp(-z))


def test_focal_loss_by_hand():
    z, t = np.array([2.0, -1.0]), np.array([1.0, 0.0])
    q = np.array([sigma(2), 1 - sigma(-1)])
    each = value(Each(Focal(3.0, 0.25)), z, t)
    np.testing.assert_allclose(each, [0.25, 0.75] * (1 - q) ** 3 * -np.log(q), rtol=1e-12)
    bce = value(jbp.losses.BinaryCrossEntropy(), z, t)
    np.testing.assert_allclose(value(Focal(0.0), z, t), bce, rtol=1e-12)
    sure, right = jnp.array([np.inf, -np.inf]), jnp.array([1.0, 0.0])
    y, residuals = Focal().forward((), (sure, right))
    assert y == 0
    for d in Focal().backward((), residuals, jnp.ones(()))[0]:
        assert not d.any()


def test_overlaps_by_hand():
    p, t = np.array([[[0.5], [1.0], [0.0]]]), np.array([[[1.0], [1.0], [0.0]]])
    np.testing.assert_allclose(value(Dice(0.0), p, t), 1 - 2 * 1.5 / 3.5, rtol=1e-12)
    np.testing.assert_allclose(value(Dice(1.0), p, t), 1 - 4 / 4.5, rtol=1e-12)
    np.testing.assert_allclose(value(Jaccard(0.0), p, t), 1 - 1.5 / 2, rtol=1e-12)
    both = value(Each(Jaccard(0.0)), np.concatenate([p, 1 - p], -1), np.concatenate([t, 1 - t], -1))
    np.testing.assert_allclose(both, [[1 - 1.5 / 2, 1 - 1 / 1.5]], rtol=1e-12)
    assert value(Dice(), np.zeros((2, 3, 1)), np.zeros((2, 3, 1))) == 0


def test_quantiles_by_hand():
    p, t = np.array([[1.0, 1.0]]), np.array([[3.0, 0.0]])
    np.testing.assert_allclose(value(Each(Quantile((0.1, 0.9))), p, t), [[0.1 * 2, 0.1 * 1]], rtol=1e-12)
    data = np.arange(101.0)
    grid = [float(value(Quantile(0.9), np.full(101, c), data)) for c in (80.0, 90.0, 99.0)]
    assert grid[1] == min(grid)
    with pytest.raises(jbp.LayerError, match="expected a last axis of 2 quantiles"):
        value(Quantile((0.1, 0.9)), np.ones(3), np.ones(3))


def test_contrast_by_the_sigmoid_and_with_pairs_left_out():
    u, v = np.asarray(draw(f(3, 2))), np.asarray(draw(f(3, 2), 1))
    params = {"t": jnp.array(0.5), "b": jnp.array(-1.0)}
    s = np.exp(0.5) * u @ v.T - 1
    sign = 2 * np.eye(3) - 1
    wanted = -np.log(sigma(sign * s)).sum() / 3
    np.testing.assert_allclose(value(SigmoidContrastive(), u, v, params=params), wanted, rtol=1e-12)
    first = SigmoidContrastive().init(jax.random.key(0), (u, v))
    np.testing.assert_allclose([first["t"], first["b"]], [np.log(10), -10], rtol=1e-12)
    mask = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 1]])
    s = u @ v.T / 0.5
    l = [np.log(np.exp(s[0, :2]).sum()) - s[0, 0], 0, np.log(np.exp(s[2]).sum()) - s[2, 2]]  # noqa: E741
    np.testing.assert_allclose(value(Each(InfoNCE(0.5)), u, v, mask), l, rtol=1e-12, atol=1e-15)
    with pytest.raises(jbp.LayerError, match="whether row i is held against row j"):
        InfoNCE().forward((), (u, v, mask[0]))


def test_direct_preferences_by_hand():
    policy = np.array([[[-1.0, -2.0], [-1.5, -0.5]]])
    reference = np.array([[-2.5, -2.2]])
    m = 0.1 * ((-3 + 2.5) - (-2 + 2.2))
    np.testing.assert_allclose(value(DPO(), policy, reference), -np.log(sigma(m)), rtol=1e-12)
    wanted = -0.8 * np.log(sigma(m)) - 0.2 * np.log(sigma(-m))
    np.testing.assert_allclose(value(DPO(0.1, 0.2), policy, reference), wanted, rtol=1e-12)


def test_odds_of_preferences_by_hand():
    policy = np.array([[[-1.0, -2.0, -9.0], [-1.5, -0.5, -0.7]]])
    mask = np.array([[[1, 1, 0], [1, 1, 1]]])
    w, l = -1.5, -2.7 / 3  # noqa: E741
    odds = np.log(np.exp(w) / (1 - np.exp(w))) - np.log(np.exp(l) / (1 - np.exp(l)))
    np.testing.assert_allclose(value(ORPO(0.3), policy, mask), -w - 0.3 * np.log(sigma(odds)), rtol=1e-12)


def test_prospects_by_hand():
    policy, reference = np.array([[-1.0, -2.0], [-1.0, -1.0]]), np.array([-4.0, -1.0])
    z, wanted = np.array(0.5), np.array([True, False])
    each = value(Each(KTO(0.2, 1.5, 0.7)), policy, reference, wanted, z)
    np.testing.assert_allclose(each, [1.5 * (1 - sigma(0.2 * 0.5)), 0.7 * (1 - sigma(0.2 * 1.5))], rtol=1e-12)


def test_groups_by_hand():
    """Two answers of two tokens and of one: the mean over answers of the means over their tokens."""
    policy, old = np.log([[0.5, 0.2], [0.9, 1.0]]), np.log([[0.4, 0.4], [0.6, 0.1]])
    reference, advantages, mask = np.log([[0.5, 0.4], [0.3, 1.0]]), np.array([1.0, -2.0]), np.array([[1, 1], [1, 0]])

    def kl(p, ref):
        return ref / p - np.log(ref / p) - 1

    tokens = [-1.2 + 0.04 * 0, -0.5 + 0.04 * kl(0.2, 0.4), 2 * 1.5 + 0.04 * kl(0.9, 0.3)]
    x = policy, old, reference, advantages, mask
    loss = Weighted(GRPO())
    np.testing.assert_allclose(value(loss, *x), np.mean(tokens), rtol=1e-12)
    paper = value(PerExample(loss, "mean"), *x)
    np.testing.assert_allclose(paper, (np.mean(tokens[:2]) + tokens[2]) / 2, rtol=1e-12)
    free = value(Each(GRPO(beta=0.0, clip_high=0.28)), policy[:1], old[:1], advantages[:1])
    np.testing.assert_allclose(free, [[-1.25, -0.5]], rtol=1e-12)


def test_preferences_on_log_probabilities_without_the_logits():
    words = Each(LinearCrossEntropy(5, chunk=2, ignore=0), scale=-1.0)
    net = jbp.Serial(jbp.Parallel(words, jbp.layers.Identity()), DPO())
    x = (draw(f(2, 2, 3, 4)), draw(i(2, 2, 3, below=5))), draw(f(2, 2))
    params = audit(net, x)
    weights = params[0][0]
    log_p = jax.nn.log_softmax(x[0][0] @ weights["w"] + weights["b"].reshape(1, 1, 1, 5))
    own = jnp.where(x[0][1] == 0, 0, jnp.take_along_axis(log_p, x[0][1][..., None], -1)[..., 0])
    m = 0.1 * ((own.sum(-1) - x[1]) @ jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(net.forward(params, x)[0], -np.log(sigma(m)).mean(), rtol=1e-12)


def test_margins_of_many_classes_leave_out():
    z = np.array([[1.0, 2.0, 0.5], [np.nan, np.nan, np.nan], [0.0, 0.0, 3.0]])
    each = value(Each(MultiMargin(ignore=1)), z, np.array([0, 1, 2]))
    np.testing.assert_allclose(each, [(2 + 0.5) / 3, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(value(MultiMargin(ignore=1), z, np.array([0, 1, 2])), 2.5 / 6, rtol=1e-12)
