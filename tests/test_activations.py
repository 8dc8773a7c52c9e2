"""Activations: limits, ends of the range, settings and kinks, by values worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import draw, parameters, reverse

import jbp
from jbp.cases import f
from jbp.layers import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Dense,
    Gate,
    GatedDense,
    GELUTanh,
    HardShrink,
    HardSigmoid,
    HardSwish,
    HardTanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU2,
    ReLU6,
    RReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    SoftShrink,
    Softsign,
    SwiGLU,
    Tanh,
    TanhShrink,
    Threshold,
)

INF = math.inf
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772

LIMITS = (  # (y, slope) at −∞, (y, slope) at +∞
    (ReLU(), (0, 0), (INF, 1)),
    (LeakyReLU(0.2), (-INF, 0.2), (INF, 1)),
    (LeakyReLU(0.0), (0, 0), (INF, 1)),
    (ReLU6(), (0, 0), (6, 0)),
    (ReLU2(), (0, 0), (INF, INF)),
    (HardTanh(-0.5, 2.0), (-0.5, 0), (2, 0)),
    (HardSigmoid(), (0, 0), (1, 0)),
    (HardSwish(), (0, 0), (INF, 1)),
    (HardShrink(), (-INF, 1), (INF, 1)),
    (SoftShrink(), (-INF, 1), (INF, 1)),
    (TanhShrink(), (-INF, 1), (INF, 1)),
    (Threshold(0.5, 7.0), (7, 0), (INF, 1)),
    (Sigmoid(), (0, 0), (1, 0)),
    (LogSigmoid(), (-INF, 1), (0, 0)),
    (Tanh(), (-1, 0), (1, 0)),
    (SiLU(), (0, 0), (INF, 1)),
    (GELU(), (0, 0), (INF, 1)),
    (GELU("tanh"), (0, 0), (INF, 1)),
    (GELUTanh(), (0, 0), (INF, 1)),
    (Mish(), (0, 0), (INF, 1)),
    (Softplus(), (0, 0), (INF, 1)),
    (Softplus(2.0, 20.0), (0, 0), (INF, 1)),
    (Softsign(), (-1, 0), (1, 0)),
    (ELU(0.5), (-0.5, 0), (INF, 1)),
    (CELU(0.5), (-0.5, 0), (INF, 1)),
    (SELU(), (-LAMBDA * ALPHA, 0), (INF, LAMBDA)),
    (RReLU(0.2, 0.4), (-INF, None), (INF, 1)),
)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("layer", "low", "high"), LIMITS, ids=lambda v: repr(v) if isinstance(v, jbp.Layer) else "")
def test_limits_at_infinity(layer, low, high, dtype):
    x = jnp.asarray([-INF, INF], dtype)
    params = layer.init(jax.random.key(0), x)
    y, (_, dx), _ = reverse(layer, params, x, jnp.ones_like(x))
    eps = 4 * float(jnp.finfo(dtype).eps)
    for got, wanted in zip((*y, *dx), (low[0], high[0], low[1], high[1]), strict=True):
        if wanted is not None:
            np.testing.assert_allclose(float(got), wanted, rtol=eps, atol=eps)


@pytest.mark.parametrize("gate", [SwiGLU(), jbp.layers.GEGLU(), GLU(), Gate(Mish()), Gate(HardSwish())], ids=repr)
def test_a_gate_that_is_shut_passes_nothing(gate):
    x = jnp.asarray([[2.0, -INF]])
    y, (_, dx), _ = reverse(gate, (), x, jnp.ones((1, 1)))
    assert not y.any()
    assert not dx.any()


def test_far_below_zero_nothing_underflows_before_it_must():
    """Where e^x is no longer a normal number x e^x is one: x e^{x/2} e^{x/2} of Python's."""
    for x in (-709.0, -712.0, -30.0):
        tail = math.exp(x / 2)
        y, (_, dx), _ = reverse(SiLU(), (), jnp.float64(x), jnp.float64(1))
        np.testing.assert_allclose(y, x * tail * tail, rtol=1e-12)
        np.testing.assert_allclose(dx, (1 + x) * tail * tail, rtol=1e-11)
        y, (_, dx), _ = reverse(Mish(), (), jnp.float64(x), jnp.float64(1))  # tanh(log(1 + e)) = e to first order
        np.testing.assert_allclose(y, x * tail * tail, rtol=1e-12)
        np.testing.assert_allclose(dx, (1 + x) * tail * tail, rtol=1e-11)
    _, (_, dx), _ = reverse(SiLU(), (), jnp.float64(-709), jnp.float64(1))
    np.testing.assert_allclose(dx, -8.613e-306, rtol=1e-3)
    for x in (-12.0, -37.0):  # Φ by its tail, Abramowitz & Stegun 26.2.12
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        series = 1 - 1 / x**2 + 3 / x**4 - 15 / x**6 + 105 / x**8
        y, (_, dx), _ = reverse(GELU(), (), jnp.float64(x), jnp.float64(1))
        np.testing.assert_allclose(y, -density * series, rtol=1e-7)
        np.testing.assert_allclose(dx, density * (series / -x + x), rtol=1e-7)


def test_settings_by_hand():
    for layer, x, y, slope in (
        (LeakyReLU(0.3), -2.0, -0.6, 0.3),
        (ELU(2.0), math.log(0.5), -1.0, 1.0),
        (ELU(2.0), 0.0, 0.0, 2.0),
        (Softplus(2.0), 0.0, math.log(2) / 2, 0.5),
        (Softplus(2.0, 1.0), 0.6, 0.6, 1.0),
        (Softplus(2.0, 1.0), 0.4, math.log1p(math.exp(0.8)) / 2, 1 / (1 + math.exp(-0.8))),
        (HardTanh(-2.0, 0.5), -1.0, -1.0, 1.0),
        (HardTanh(-2.0, 0.5), 0.5, 0.5, 0.0),
        (HardShrink(1.0), 1.0, 0.0, 0.0),
        (HardShrink(1.0), -1.5, -1.5, 1.0),
        (SoftShrink(1.0), -1.5, -0.5, 1.0),
        (SoftShrink(1.0), 1.0, 0.0, 0.0),
        (TanhShrink(), math.log(3) / 2, math.log(3) / 2 - 0.5, 0.25),
        (Threshold(0.5, -7.0), 0.5, -7.0, 0.0),
        (Threshold(0.5, -7.0), 0.75, 0.75, 1.0),
        (GELU("tanh"), 1.0, 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715)), None),
        (GELU(), 1.0, 0.5 * (1 + math.erf(math.sqrt(0.5))), None),
        (Mish(), 0.0, 0.0, 0.6),  # tanh(log 2) = 3/5
    ):
        got, (_, dx), _ = reverse(layer, (), jnp.float64(x), jnp.float64(1))
        np.testing.assert_allclose(got, y, rtol=1e-14, atol=1e-15, err_msg=repr(layer))
        if slope is not None:
            np.testing.assert_allclose(dx, slope, rtol=1e-14, err_msg=repr(layer))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LeakyReLU(-0.1),
        lambda: ELU(math.nan),
        lambda: CELU(0.0),
        lambda: Softplus(0.0),
        lambda: HardTanh(1.0, 1.0),
        lambda: RReLU(0.5, 0.1),
        lambda: GELU("yes"),  # pyright: ignore[reportArgumentType]
        lambda: Gate(Dense(3)),  # pyright: ignore[reportArgumentType]
        lambda: Softmax(2).forward((), jnp.ones((2, 3))),
        lambda: GLU(0).forward((), jnp.ones((3, 2))),
    ],
)
def test_settings_that_cannot_be(make):
    with pytest.raises(jbp.LayerError, match=r"got .*; expected .*\. \S"):
        make()


def test_one_slope_for_all():
    layer, x, dy = PReLU(shared=True, slope=0.5), jnp.asarray([[-2.0, 3.0], [-4.0, -1.0]]), jnp.ones((2, 2))
    params = layer.init(jax.random.key(0), x)
    assert params["a"].shape == ()
    y, (grads, dx), _ = reverse(layer, params, x, dy)
    np.testing.assert_array_equal(y, [[-1, 3], [-2, -0.5]])
    np.testing.assert_array_equal(dx, [[0.5, 1], [0.5, 0.5]])
    np.testing.assert_array_equal(grads["a"], -7)


def test_random_slopes_are_uniform_and_become_their_mean():
    layer, x = RReLU(0.1, 0.5), jnp.full((4000,), -1.0)
    params = layer.init(jax.random.key(1), x)
    y, (_, dx), _ = reverse(layer, params, x, jnp.ones_like(x))
    np.testing.assert_array_equal(y, -dx)
    assert 0.1 <= dx.min() < 0.11
    assert 0.49 < dx.max() <= 0.5
    np.testing.assert_allclose([dx.mean(), dx.std()], [0.3, 0.4 / math.sqrt(12)], atol=0.01)
    moved = layer.advance(params, layer.forward(params, x)[1])
    assert (layer.forward(moved, x)[0] != y).any()
    still = layer.evaluation()
    assert still == RReLU(0.3, 0.3)
    assert jbp.sweep.advancing(layer) == [layer]
    assert not jbp.sweep.advancing(still)
    np.testing.assert_allclose(still.forward(params, x)[0], -0.3)


def test_softmax_of_what_cannot_be_and_of_what_must():
    x = jnp.asarray([[1.0, -INF, 1.0], [0.0, INF, -INF], [INF, 3.0, INF]])
    dy = jnp.asarray([[3.0, 5.0, 1.0]] * 3)
    y, (_, dx), _ = reverse(Softmax(), (), x, dy)
    np.testing.assert_array_equal(y, [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    np.testing.assert_array_equal(dx, [[0.5, 0, -0.5], [0, 0, 0], [0.5, 0, -0.5]])
    y, (_, dx), _ = reverse(Softmin(), (), -x, dy)
    np.testing.assert_array_equal(y, [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    np.testing.assert_array_equal(dx, [[-0.5, 0, 0.5], [0, 0, 0], [-0.5, 0, 0.5]])
    y, (_, dx), _ = reverse(LogSoftmax(), (), x, dy)
    np.testing.assert_allclose(y[:2], [[-math.log(2), -INF, -math.log(2)], [-INF, 0, -INF]])
    np.testing.assert_allclose(dx[:2], [[-1.5, 5, -3.5], [3, -4, 1]])


def test_softmax_over_another_axis():
    x = draw(f(2, 3, 4))
    for layer in (Softmax, LogSoftmax, Softmin):
        moved = layer().forward((), jnp.moveaxis(x, 1, -1))[0]
        np.testing.assert_allclose(layer(1).forward((), x)[0], jnp.moveaxis(moved, -1, 1), rtol=1e-13)


def test_a_gated_dense_is_a_dense_and_a_gate():
    x = draw(f(2, 3))
    layer, row = GatedDense(4), jbp.Serial(Dense(8), SwiGLU())
    params = parameters(layer, x)
    dy = draw(f(2, 4), seed=3)
    y, (grads, dx), _ = reverse(layer, params, x, dy)
    params, flat = ({"b": p["b"].ravel(), "w": p["w"].reshape(3, 8)} for p in (params, grads))
    y_row, (grads_row, dx_row), _ = reverse(row, (params, ()), x, dy)
    for got, wanted in ((y, y_row), (dx, dx_row), *((flat[k], grads_row[0][k]) for k in "wb")):
        np.testing.assert_allclose(got, wanted, rtol=1e-13)


def test_slopes_in_float16_do_not_overflow_inside():
    x = jnp.asarray([-300.0, 300.0], "float16")  # 300³ is beyond float16
    _, (_, dx), _ = reverse(GELUTanh(), (), x, jnp.ones_like(x))
    np.testing.assert_array_equal(dx, [0, 1])
