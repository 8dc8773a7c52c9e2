"""Forward tangents against `jax.jvp` of the definition, and what they cost beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr
from oracle import assert_near, cotangent, draw, floats_of, is_float, parameters

from jbp import LayerError, Remat, Repeat, Residual, Reversible, Serial, Tied
from jbp.cases import Case, f, i
from jbp.catalogue import LAYERS, LOSSES
from jbp.credit import TargetPropagation
from jbp.layers import (
    GELU,
    GRU,
    LSTM,
    BatchNorm,
    Conv,
    Dense,
    DiagonalStateSpace,
    Dropout,
    Elman,
    Embedding,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    MaxPool,
    MixtureOfExperts,
    MultiHeadAttention,
    Softmax,
    Tanh,
)
from jbp.losses import CTC, Hinge, LinearCrossEntropy
from jbp.params import buffers, merge, trainable
from jbp.readers import push
from jbp.readers.summary import _flops

NETS = (
    Case(Serial(Embedding(5, 4), Repeat(Residual(Remat(Serial(LayerNorm(), Dense(4), GELU()))), 2)), i(2, 3, below=5)),
    Case(Tied(Serial(Dense(4), Dropout(0.4), Dense(4)), (((0,), (2,)),)), f(3, 4)),
    Case(Serial(Reversible(Dense(2), Serial(Tanh(), Dense(2)), times=2), BatchNorm()), f(3, 4)),
    Case(Serial(Conv(2, (2,), groups=2), MaxPool(2), LSTM(2)), f(2, 6, 2)),
    Case(MultiHeadAttention(2, groups=1, causal=True), f(2, 3, 4)),
    Case(MixtureOfExperts(Dense(3), 3, 2, 0.8), f(4, 2)),
    Case(LocalResponseNorm(3), f(2, 4)),
    Case(LinearCrossEntropy(3, chunk=2), (f(3, 2), i(3, below=3))),
    Case(Hinge(), (f(3, 2), f(3, 2))),
    Case(CTC(), (f(1, 4, 3), i(1, 2, below=3))),
)


def directions(params, x):
    return cotangent(floats_of(x), 6), cotangent(trainable(params), 5)


def jvp(net, params, x, dx, dparams):
    """(y, dy) by automatic differentiation of the definition."""
    fixed, labels = buffers(params), jax.tree.map(lambda x: None if is_float(x) else x, x)
    y, dy = jax.jvp(
        lambda p, x: net.reference(merge(p, fixed), merge(x, labels)),
        (trainable(params), floats_of(x)),
        (dparams, dx),
    )
    return y, jax.tree.map(lambda y, dy: dy if is_float(y) else None, y, dy)


def check(layer, spec):
    x = draw(spec)
    params = parameters(layer, x)
    run = jax.jit(lambda params, x, v: (push(layer)(params, x, *v), jvp(layer, params, x, *v)))
    got, wanted = run(params, x, directions(params, x))
    assert_near(got, wanted, 1e-11)


@pytest.mark.parametrize("case", NETS, ids=repr)
def test_it_is_the_derivative_of_the_definition(case):
    check(case.layer, case.inputs[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", [*LAYERS, *LOSSES], ids=repr)
def test_it_is_that_of_every_layer(case):
    check(case.layer, case.inputs[0])


def test_a_fault_in_a_backward_pass_is_a_fault_here(monkeypatch):
    monkeypatch.setattr(Tanh, "backward", lambda self, params, y, dy: (dy, ()))
    with pytest.raises(AssertionError, match="off by"):
        check(Serial(Dense(2), Tanh()), f(3, 2))


def test_what_is_left_out_is_zero():
    net, x = Serial(Dense(3), Tanh(), Dense(2)), draw(f(4, 3))
    params = parameters(net, x)
    dx, dparams = directions(params, x)
    y, both = push(net)(params, x, dx, dparams)
    np.testing.assert_array_equal(y, net.forward(params, x)[0])
    (_, one), (_, other), (_, none) = (
        push(net)(params, x, **given) for given in ({"dx": dx}, {"dparams": dparams}, {})
    )
    np.testing.assert_allclose(one + other, both, rtol=1e-12)
    np.testing.assert_array_equal(none, 0)


WIDE = {  # how many operations push has beside jax.jvp of the definition, in sizes of networks that are in use
    Dense(128): (64, 96),
    Conv(32, (3, 3), groups=4): (4, 16, 16, 24),
    LayerNorm(): (64, 96),
    GroupNorm(4): (4, 8, 8, 32),
    MultiHeadAttention(4): (4, 32, 64),
    LSTM(32): (8, 20, 24),
    GRU(32): (8, 20, 24),
    Elman(32): (8, 20, 24),
    DiagonalStateSpace(4): (4, 32, 16),
    Softmax(): (64, 96),
}


@pytest.mark.parametrize("layer", WIDE, ids=repr)
def test_it_costs_what_automatic_differentiation_does(layer):
    x = jax.ShapeDtypeStruct(WIDE[layer], jnp.float64)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
    given = params, x, x, trainable(params)
    assert operations(push(layer), *given) <= 1.2 * operations(lambda *a: jvp(layer, *a), *given)


def operations(f, *given):
    program = jax.make_jaxpr(f)(*jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), given)).jaxpr
    return _flops(dce_jaxpr(program, [True] * len(program.outvars))[0])


def test_what_does_not_go_is_said():
    net, x = Dense(2), draw(f(3, 4))
    params = parameters(net, x)
    with pytest.raises(LayerError, match=r"tangent float64\[4\] of x; expected float64\[3, 4\]. Make it"):
        push(net)(params, x, dx=jnp.ones(4))
    with pytest.raises(LayerError, match=r"of params; expected {'b': float64\[2\], 'w': float64\[4, 2\]}. Make"):
        push(net)(params, x, dparams={"w": params["w"]})
    with pytest.raises(LayerError, match=r"not linear in dy; expected one with a transpose\. Put"):
        push(TargetPropagation(Serial(Dense(2), Dense(2))))
    with pytest.raises(LayerError, match="as net; expected a layer"):
        push(jnp.tanh)
