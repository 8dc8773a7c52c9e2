"""Residuals in few bits: what comes back, that its mean is right, that memory is less; and a network made to fit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jbp import LayerError, Remat, Repeat, Residual, Serial, value_and_grad
from jbp.combinators import Keep
from jbp.layers import Dense, LayerNorm, Tanh
from jbp.losses import MeanSquaredError
from jbp.memory import plan, temporary

KEY = jax.random.key(0)
TOP = {"int8": 127, "float8": 448}
BODY = Residual(Serial(LayerNorm(), Dense(256), Tanh(), Dense(64)))


def kept(x, dtype, **options):
    """What is left of x, one row, when Dense has kept it: its weight's gradient for an error of one."""
    layer = Keep(Dense(1, bias=False), dtype, least=1, **options)
    x = jnp.asarray(x, jnp.float32)[None]
    params = layer.init(KEY, x)
    return np.asarray(layer.pull(params, layer.forward(params, x)[1], jnp.ones((1, 1), jnp.float32))[1]["w"][:, 0])


def neighbours(x, dtype):
    """The greatest number of the dtype that is no greater than x, and the least that is no less, with the scale."""
    x = np.asarray(x, np.float32)
    if dtype == "int8":
        s = np.abs(x).max() / np.float32(127)
        return np.floor(x / s) * s, np.ceil(x / s) * s
    s = np.abs(x).max() / np.float32(448) if dtype == "float8" else np.float32(1)
    kind = {"float8": ml_dtypes.float8_e4m3fn, "bfloat16": ml_dtypes.bfloat16}[dtype]
    bits = np.arange(2 ** (8 * np.dtype(kind).itemsize), dtype=np.uint32)
    all_ = bits.astype(np.uint8 if dtype == "float8" else np.uint16).view(kind).astype(np.float32)
    all_ = np.unique(all_[np.isfinite(all_)])
    at = np.clip(np.searchsorted(all_, x / s), 1, len(all_) - 1)
    exact = all_[at] == x / s
    return np.where(exact, all_[at], all_[at - 1]) * s, all_[at] * s


@pytest.mark.parametrize("dtype", ["bfloat16", "float8", "int8"])
def test_a_number_comes_back_as_a_neighbour_and_is_right_in_the_mean(dtype):
    x = np.random.default_rng(0).normal(size=40) * np.logspace(-3, 0, 40)
    low, high = neighbours(x, dtype)
    draws = np.stack([kept(x, dtype, seed=seed) for seed in range(400)])
    slack = 2e-6 * np.abs(x).max()
    assert (np.minimum(np.abs(draws - low), np.abs(draws - high)) <= slack).all()
    sigma = (high - low) / 2 / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - x) <= 5 * sigma + slack).all()
    nearest = kept(x, dtype, rounding="nearest")
    assert (np.abs(nearest - x) <= (high - low) / 2 + slack).all()
    biased = np.abs(nearest - x) > 5 * sigma + slack  # the same question to a rounding that is not right in the mean
    assert biased.mean() > 0.3


@pytest.mark.parametrize("dtype", ["bfloat16", "float8", "int8"])
def test_zeros_ends_of_the_range_and_what_is_not_finite(dtype):
    assert not kept(np.zeros(4), dtype).any()
    huge = np.array([3.4e38, -3.4e38, 1.0])
    assert np.isfinite(kept(huge, dtype)).all()
    np.testing.assert_allclose(kept(huge, dtype)[:2], huge[:2], rtol=0.01)
    assert not np.isfinite(kept([np.inf, 1.0], dtype)[0])
    assert np.isnan(kept([np.nan, 1.0], dtype)[0])
    assert kept(np.full(1, 1e-45), dtype).shape == (1,)


def test_the_noise_is_anothers_at_another_place_seed_and_number():
    same = kept(np.full(2000, 0.3), "bfloat16")
    low, high = neighbours([0.3], "bfloat16")
    share = (same == high).mean()  # of one number at many places
    assert abs(share - ((0.3 - low) / (high - low))[0]) < 5 * 0.5 / np.sqrt(2000)
    assert (kept(np.full(2000, 0.3), "bfloat16", seed=1) != same).any()


def flat(net, x, params):
    grads = value_and_grad(net, MeanSquaredError())(params, x, jnp.ones_like(x))[1]
    return np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])


def test_few_numbers_stay_whole_and_the_host_changes_nothing():
    x = jax.random.normal(KEY, (8, 64))
    net = Serial(Dense(64), LayerNorm(), Tanh(), Dense(64))
    params = net.init(KEY, x)
    true = flat(net, x, params)
    np.testing.assert_array_equal(flat(Keep(net, memory="host"), x, params), true)
    np.testing.assert_array_equal(flat(Keep(net, "int8", least=513), x, params), true)  # all have 512 or fewer
    dy = jnp.ones((8, 1, 64))
    alone = [
        jax.vmap(lambda x, dy, f=f: f.pull(params, f.forward(params, x)[1], dy)[0])
        for f in (net, Keep(net, memory="host"))
    ]
    np.testing.assert_array_equal(*(f(x[:, None], dy) for f in alone))
    noisy = flat(Keep(net, "int8", least=512), x, params)
    assert 0 < np.linalg.norm(noisy - true) < 0.02 * np.linalg.norm(true)
    statistics = Keep(LayerNorm(), "int8", least=9).forward(LayerNorm().init(KEY, x), x)[1][0]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(statistics) if leaf.size == 8} == {"float32", str(x.dtype)}


@pytest.mark.usefixtures("optimized")
def test_memory_is_less():
    x = jax.ShapeDtypeStruct((256, 64), "float32")
    several = BODY, Keep(BODY, "bfloat16"), Keep(BODY, "int8"), Remat(BODY)
    whole, half, quarter, again = (temporary(Repeat(layer, 24), MeanSquaredError(), x, x) for layer in several)
    print(f"working memory of 24 blocks: {whole} bytes, bfloat16 {half}, int8 {quarter}, Remat {again}")
    assert half < 0.6 * whole
    assert quarter < 0.4 * whole


def test_a_plan_fits_and_takes_no_more_than_it_must():
    x = jax.ShapeDtypeStruct((256, 64), "float32")
    net, loss = Serial(Dense(64), Repeat(BODY, 6), Dense(64)), MeanSquaredError()
    whole = temporary(net, loss, x, x)
    assert plan(net, loss, x, x, bytes=whole) == net
    fits = plan(net, loss, x, x, bytes=whole // 2)
    assert fits == Serial(Dense(64), Repeat(Remat(BODY), 6), Dense(64))
    assert temporary(fits, loss, x, x) <= whole // 2
    small = plan(net, loss, x, x, bytes=whole // 2, to="int8")
    assert small == Serial(Dense(64), Repeat(Keep(BODY, "int8"), 6), Dense(64))
    with pytest.raises(LayerError, match=r"got bytes=1000 .* Take a smaller batch, or compress"):
        plan(net, loss, x, x, bytes=1000)
