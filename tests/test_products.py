"""Products with curvature matrices against the matrices themselves, which JAX makes of the networks' definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.interpreters import ad
from jax.interpreters.partial_eval import dce_jaxpr
from oracle import draw, parameters

from jbp import LayerError, Remat, Repeat, Residual, Serial, Tied, value_and_grad
from jbp.cases import Case, f, i
from jbp.catalogue import LAYERS, LOSSES
from jbp.curvature import Product, diagonal, fisher, ggn, hessian, spectrum, top, trace
from jbp.layers import (
    GELU,
    GRU,
    LSTM,
    BatchNorm,
    BatchNormInference,
    Conv,
    Dense,
    Dropout,
    Embedding,
    FanOut,
    Flatten,
    LayerNorm,
    MultiHeadAttention,
    RMSNorm,
    Tanh,
)
from jbp.losses import BinaryCrossEntropy, Huber, LogCosh, MeanSquaredError, SoftmaxCrossEntropy
from jbp.numerics import is_float
from jbp.params import buffers, merge, trainable
from jbp.readers.summary import _flops

KEY = jax.random.key(0)
MLP = Serial(Dense(3), Tanh(), Dense(2))
NETS = (
    (Case(MLP, (f(4, 2), i(4, below=2))), SoftmaxCrossEntropy()),
    (Case(Serial(Embedding(3, 2), Repeat(Residual(Remat(Serial(LayerNorm(), Dense(2), GELU()))), 2)),
          (i(2, 2, below=3), f(2, 2, 2))), LogCosh()),
    (Case(Serial(Conv(2, (2,)), RMSNorm(), Flatten(), Dense(2)), (f(2, 3, 1), f(2, 2))), MeanSquaredError()),
    (Case(Serial(Dense(2), BatchNorm(), Dropout(0.4)), (f(4, 2), i(4, below=2))), SoftmaxCrossEntropy(0.1, (1.0, 2.0))),
    (Case(MultiHeadAttention(2, causal=True), (f(1, 3, 2), f(1, 3, 2))), MeanSquaredError()),
    (Case(Serial(LSTM(2), GRU(1)), (f(1, 3, 1), f(1, 3, 1))), Huber(0.3)),
)  # fmt: skip

TIED = (
    Case(Tied(Serial(Dense(2), Tanh(), Dense(2), Tanh(), Dense(2)), (((0, "w"), (2, "w")), ((0,), (4,)))),
         (f(3, 2), f(3, 2))), LogCosh())  # fmt: skip


def setting(case, loss):
    """(parameters, x, target, the vector of them, the loss of a vector, the output of one): by definition."""
    x, target = draw(case.inputs[0])
    params = parameters(case.layer, x)
    vector, back = ravel_pytree(trainable(params))

    def output(vector):
        return case.layer.reference(merge(back(vector), buffers(params)), x)

    return params, x, target, vector, lambda v: loss.reference((), (output(v), target)), output


def by_hand(loss, output, target, vector):
    """Jᵀ H J."""
    y = output(vector)
    h = jax.hessian(lambda y: loss.reference((), (y, target)))(y).reshape(y.size, y.size)
    j = jax.jacobian(lambda v: output(v).ravel())(vector)
    return j.T @ h @ j


@pytest.mark.parametrize(("case", "loss"), NETS, ids=repr)
def test_they_are_the_matrices_of_the_definition(case, loss):
    params, x, target, vector, whole, output = setting(case, loss)
    run = jax.jit(lambda params: [make(case.layer, loss)(params, x, target).dense() for make in (hessian, ggn)])
    h, g = run(params)
    wanted_h, wanted_g = jax.jit(lambda v: (jax.hessian(whole)(v), by_hand(loss, output, target, v)))(vector)
    np.testing.assert_allclose(h, wanted_h, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(g, wanted_g, rtol=1e-9, atol=1e-11)


def test_a_fault_in_a_backward_pass_is_a_fault_here(monkeypatch):
    monkeypatch.setattr(Tanh, "backward", lambda self, params, y, dy: (dy * (1 - abs(y)), ()))
    with pytest.raises(AssertionError):
        test_they_are_the_matrices_of_the_definition(*NETS[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm(), BatchNorm(running=False), BatchNormInference()], ids=repr)
def test_norms_have_a_second_derivative_at_ordinary_sizes(norm, dtype):
    """They had not: x^-3/2 of what is squared in the smallest units was out of range."""
    net, x = Serial(Dense(2), norm), draw(f(3, 4)).astype(dtype)
    params = jax.tree.map(lambda p: p.astype(dtype), net.init(KEY, x))
    product = jax.jit(lambda params, v: hessian(net, MeanSquaredError())(params, x, jnp.ones((3, 2), dtype)) @ v)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(product(params, trainable(params))))


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (SoftmaxCrossEntropy(), i(4, below=2)),
        (SoftmaxCrossEntropy(0.1, (0.5, 2.0)), i(4, below=2)),
        (SoftmaxCrossEntropy(ignore=1), i(4, below=2)),
        (BinaryCrossEntropy(), f(4, 2)),
        (BinaryCrossEntropy((0.5, 2.0)), f(4, 2)),
        (MeanSquaredError(), f(4, 2)),
    ],
    ids=repr,
)
def test_over_many_draws_the_fisher_matrix_is_that_of_gauss_and_newton(loss, target):
    params, x, target, vector, _, output = setting(Case(MLP, (f(4, 2), target)), loss)
    target = jax.nn.sigmoid(target) if isinstance(loss, BinaryCrossEntropy) else target
    found = jax.jit(lambda params: fisher(MLP, loss, draws=4000)(params, x, target).dense())(params)
    wanted = by_hand(loss, output, target, vector)
    np.testing.assert_allclose(found, wanted, atol=0.06 * np.abs(wanted).max())


def test_the_empirical_fisher_matrix_is_that_of_the_examples_gradients():
    params, x, target, vector, *_ = setting(*NETS[0])
    found = jax.jit(lambda params: fisher(MLP, SoftmaxCrossEntropy(), "empirical")(params, x, target).dense())(params)
    back = ravel_pytree(params)[1]

    def own(v, x, t):
        return SoftmaxCrossEntropy().reference((), (MLP.reference(back(v), x[None]), t[None]))

    g = jax.jit(jax.vmap(jax.grad(own), (None, 0, 0)))(vector, x, target)
    np.testing.assert_allclose(found, g.T @ g / 4, rtol=1e-10, atol=1e-14)


def test_blocks_by_their_names():
    params, x, target, vector, whole, _ = setting(*NETS[0])
    h = hessian(MLP, SoftmaxCrossEntropy())(params, x, target)
    first, biases = jax.jit(lambda: (h.dense("0"), h.dense("b")))()
    wanted = jax.jit(jax.hessian(whole))(vector)  # b of the first layer, w, b of the last, w
    np.testing.assert_allclose(first, wanted[:9, :9], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(biases, wanted[np.r_[:3, 9:11]][:, np.r_[:3, 9:11]], rtol=1e-9, atol=1e-12)
    assert h.size == 17
    with pytest.raises(LayerError, match="got 'head', which fits no parameters; expected the end of one of: 0/b, 0/w"):
        h.dense("head")
    with pytest.raises(LayerError, match="expected a tree like trainable"):
        h(params[0])


def operations(f, *given):
    program = jax.make_jaxpr(f)(*jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), given)).jaxpr
    return _flops(dce_jaxpr(program, [True] * len(program.outvars))[0])


@pytest.mark.parametrize(
    "net",
    [Serial(Dense(64), Tanh(), Dense(32)), Repeat(Residual(Serial(LayerNorm(), MultiHeadAttention(4))), 2), GRU(32)],
    ids=repr,
)
def test_what_a_product_costs(net):
    """In operations of sweeps: the Gauss-Newton matrix at most 2, the Hessian at most 3."""
    x = jnp.zeros((8, 16, 32))
    params, loss, y = net.init(KEY, x), MeanSquaredError(), jnp.zeros((8, 16, 32))
    sweep = operations(value_and_grad(net, loss), params, x, y)

    def product(make):
        return operations(lambda params, x, y, v: make(net, loss)(params, x, y) @ v, params, x, y, params) / sweep

    assert product(ggn) < 1.75
    assert product(hessian) < 3
    assert product(fisher) < 1.75


def matrix(eigenvalues):
    """A product with a matrix of these eigenvalues, and their vectors."""
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    m = jnp.asarray(q * np.asarray(eigenvalues) @ q.T)
    like = {"a": jnp.zeros(n - 2), "b": jnp.zeros((2, 1))}
    back = ravel_pytree(like)[1]
    return Product(lambda v: back(m @ ravel_pytree(v)[0]), like), q


def test_the_trace_is_within_its_error():
    m, _ = matrix(np.linspace(-1, 5, 9))
    mean, error = trace(m, KEY, 400)
    assert abs(mean - 18) < 4 * error
    assert 0 < error < 0.4


def test_the_largest_eigenpairs():
    eigenvalues = np.linspace(-3, 3, 40) ** 3
    m, q = matrix(eigenvalues)
    values, vectors, error = top(m, KEY, 2, steps=30)
    np.testing.assert_allclose(values, eigenvalues[::-1][:2], rtol=1e-6)
    assert (np.abs(values - eigenvalues[::-1][:2]) <= error + 1e-12).all()
    found = np.concatenate([vectors["a"], vectors["b"][..., 0]], 1)
    np.testing.assert_allclose(np.abs((found @ q[:, [-1, -2]]).diagonal()), 1, rtol=1e-5)
    with pytest.raises(LayerError, match=r"got k=9; expected at most 3, one a step\. Take more"):
        top(m, KEY, 9, steps=3)


def test_few_different_eigenvalues_are_all_found_and_no_others():
    m, _ = matrix([0.0] * 5 + [2.0] * 4 + [-1.0])  # after three steps the space is used up
    values, _, _ = top(m, KEY, 10, steps=99)
    np.testing.assert_allclose(values, [2.0] * 4 + [0.0] * 5 + [-1.0], atol=1e-10)


def test_the_density_adds_up_and_has_the_moments_of_the_eigenvalues():
    eigenvalues = np.concatenate([np.linspace(0, 1, 50), [10.0]])
    m, _ = matrix(eigenvalues)
    found = spectrum(m, KEY, steps=12, draws=64)
    np.testing.assert_allclose(found.weights.sum(-1), 1, rtol=1e-10)
    np.testing.assert_allclose(np.stack(found.ends), [0, 10], atol=5e-3)
    mean = (found.weights * found.values).sum(-1).mean()
    np.testing.assert_allclose(mean, eigenvalues.mean(), rtol=0.15)
    at = jnp.linspace(-2, 12, 2000)
    density = found.density(at, 0.1)
    np.testing.assert_allclose((density * (at[1] - at[0])).sum(), 1, rtol=1e-3)
    peak = (density[at > 9] * (at[1] - at[0])).sum()
    np.testing.assert_allclose(peak, 1 / 51, rtol=0.3)  # the one that is far from the others


@pytest.mark.parametrize(("case", "loss"), [NETS[0], NETS[1], NETS[2], NETS[5], TIED], ids=repr)
def test_the_exact_diagonal(case, loss):
    params, x, target, vector, _, output = setting(case, loss)
    found = jax.jit(lambda params: diagonal(case.layer, loss, "exact")(params, x, target))(params)
    assert jax.tree.structure(found) == jax.tree.structure(trainable(params))
    wanted = jax.jit(lambda v: by_hand(loss, output, target, v).diagonal())(vector)
    np.testing.assert_allclose(ravel_pytree(found)[0], wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("of", ["sampled", "empirical"])
def test_the_other_diagonals_are_those_of_their_matrices(of):
    params, x, target, *_ = setting(*NETS[0])
    more = {"draws": 3, "seed": 7} if of == "sampled" else {}

    def both(params):
        whole = fisher(MLP, SoftmaxCrossEntropy(), of, **more)(params, x, target, step=2).dense()
        return diagonal(MLP, SoftmaxCrossEntropy(), of, **more)(params, x, target, step=2), whole

    found, wanted = jax.jit(both)(params)
    np.testing.assert_allclose(ravel_pytree(found)[0], wanted.diagonal(), rtol=1e-10, atol=1e-14)


def test_where_there_is_no_diagonal():
    net, x = Serial(Dense(2), BatchNorm()), draw(f(3, 4))
    params = net.init(KEY, x)
    with pytest.raises(LayerError, match="BatchNorm"):
        diagonal(net, MeanSquaredError(), "exact")(params, x, jnp.zeros((3, 2)))
    with pytest.raises(LayerError, match="no target can be drawn"):
        diagonal(Dense(2), Huber())(Dense(2).init(KEY, x), x, jnp.zeros((3, 2)))
    with pytest.raises(LayerError, match="expected one array, examples first"):
        diagonal(Serial(Dense(2), FanOut()), MeanSquaredError(), "exact")((params[0], ()), x, jnp.zeros((3, 2)))


def test_scores_that_are_computed_twice_are_no_reason_for_nan():
    """Without optimization XLA rounds the scores and their maximum in two ways: no score is the maximum then."""
    layer, x = MultiHeadAttention(4, alibi=True), jnp.cos(jnp.arange(24.0)).reshape(2, 3, 4)
    params = layer.init(jax.random.key(0), x)
    run = jax.jit(
        lambda params: hessian(layer, MeanSquaredError())(params, x, jnp.ones_like(x)) @ params,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(run(params)))


def differentiated_maxima(f, *args):
    """How many maxima over several elements JAX differentiates in f."""
    found = []

    def counted(tangents, args, **how):
        found.append(how)
        return rule(tangents, args, **how)

    with pytest.MonkeyPatch.context() as patch:
        rule = ad.primitive_jvps[jax.lax.reduce_max_p]
        patch.setitem(ad.primitive_jvps, jax.lax.reduce_max_p, counted)
        jax.eval_shape(partial(jax.jvp, f), args, args)
    return len(found)


@pytest.mark.parametrize("case", [*LAYERS, *LOSSES], ids=repr)
def test_no_maximum_is_differentiated(case):
    """Where its elements are computed anew, and rounded in another way, none is the maximum: 0/0."""
    x = draw(case.inputs[0])
    params = parameters(case.layer, x)

    def sweep(floats):
        put = iter(floats)
        args = jax.tree.map(lambda v: next(put) if is_float(v) else v, (params, x))
        y, residuals = case.layer.forward(*args)
        return y, case.layer.pull(args[0], residuals, jax.tree.map(jnp.ones_like, y))

    floats = [v for v in jax.tree.leaves((params, x)) if is_float(v)]
    assert not differentiated_maxima(sweep, floats)


def test_a_maximum_that_is_differentiated_is_seen():
    assert differentiated_maxima(lambda x: jnp.max(x, -1), jnp.ones((2, 3))) == 1
