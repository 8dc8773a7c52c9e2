"""Every layer and loss of the catalogue against `jax.vjp` of its plain definition, and the other laws of a layer."""

import dataclasses
import pickle
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_near, audit, cotangent, draw, floats_of, is_float, parameters, reverse

import jbp
import jbp.layers.attention.blockwise
from benchmarks.residuals import MORE, kept
from jbp.cases import Array, Case, f, i
from jbp.catalogue import ESTIMATORS, LAYERS, LOSSES, NAMES
from jbp.layers.attention.blockwise import Rule
from jbp.layers.attention.ring import Ring
from jbp.params import buffers, cast, merge, trainable
from jbp.sweep import initialize

KEY = jax.random.key(0)

ODD = (  # sizes that the catalogue leaves out: off-block, one, none
    Case(jbp.layers.Dense(3), f(4), f(1, 1), f(0, 4)),
    Case(jbp.layers.ReLU(), f(), f(0), f(1, 1)),
    Case(jbp.layers.LayerNorm(), f(1, 1), f(0, 4)),
    Case(jbp.layers.BatchNorm(), f(1, 3), f(5, 1, 1)),
    Case(jbp.layers.RMSNorm(), f(1, 1), f(0, 4)),
    Case(jbp.layers.GroupNorm(2), f(0, 4), f(1, 1, 2)),
    Case(jbp.layers.InstanceNorm(), f(0, 3, 4), f(1, 1, 1)),
    Case(jbp.layers.Softmax(), f(1), f(0, 4), f(2, 1)),
    Case(jbp.layers.LogSoftmax(), f(1), f(0, 4)),
    Case(jbp.layers.SwiGLU(), f(2), f(0, 4)),
    Case(jbp.layers.Maxout(1), f(2), f(0, 4)),
    Case(jbp.layers.PReLU(), f(1), f(0, 4)),
    Case(jbp.layers.Dropout(0.0), f(3, 4)),
    Case(jbp.layers.GumbelSoftmax(), f(1), f(0, 4)),
    Case(jbp.layers.RestrictedBoltzmannInference(1), f(1), f(0, 4)),
    Case(jbp.layers.UnitNorm(), f(1), f(0, 4)),
    Case(jbp.layers.RadialBasis(1), f(1), f(0, 3), f(4, 1)),
    Case(jbp.layers.WeightNorm(jbp.layers.Dense(1)), f(1), f(0, 3)),
    Case(jbp.layers.SpectralNorm(jbp.layers.Dense(1, bias=False)), f(1), f(0, 3)),
    Case(jbp.layers.TensorProduct(), (f(1), f(2)), (f(0, 2), f(0, 1))),
    Case(jbp.layers.SinusoidalPositions(), f(1, 1), f(0, 2, 3), f(2, 0, 3)),
    Case(jbp.layers.EmbeddingBag(1, 1, "mean", padding=0), i(2, below=1), i(0, 3, below=1), i(2, 0, below=1)),
    Case(jbp.losses.InfoNCE(), (f(1, 1), f(1, 1))),
    Case(
        jbp.losses.CTC(), (f(1, 1, 1), i(1, 1, below=1)), (f(2, 3, 2), i(2, 0, below=1)), (f(1, 5, 3), i(1, 2, below=3))
    ),
    Case(jbp.losses.CTC(), (f(3, 7, 4), i(3, 2, below=1), i(3, below=8)), (f(1, 0, 2), i(1, 0, below=1))),
    Case(jbp.losses.Triplet(100.0), (f(1), f(1), f(1))),
    Case(jbp.losses.Triplet(-100.0), (f(3, 2), f(3, 2), f(3, 2))),
    Case(jbp.losses.NegativeSampling(1), (f(1), i(1, below=1)), (f(2, 1), i(2, 5, below=1))),
    Case(jbp.losses.PolicyGradient(0.2), (f(1), i(below=1), f())),
    Case(jbp.layers.Reparameterize(), f(2), f(0, 4)),
    Case(jbp.losses.StandardNormalDivergence(), f(2)),
    Case(jbp.layers.StochasticDepth(0.5), f(1), f(0, 4), f(7, 1, 2)),
    Case(jbp.layers.Reshape((3, -1, 2)), f(2, 6), f(0, 12), f(1, 3, 2, 2)),
    Case(jbp.layers.Reshape(()), f(4, 1), f(3, 1, 1)),
    Case(jbp.layers.Transpose((1, 2, 0)), f(1, 4, 3), f(0, 2, 1)),
    Case(jbp.layers.Take(2, 0), f(3), f(4, 1), f(3, 0)),
    Case(jbp.layers.Select(2, 0), (f(3, 5), f(3, 2), i(3, below=4))),
    Case(jbp.layers.Select("b"), {"a": f(2), "b": f(3, 1), "ids": i(2, below=3)}),
    Case(jbp.layers.Select("c", "a"), {"a": (f(2), f(1)), "b": f(), "c": i(4, below=9)}),
    Case(jbp.layers.Pad(((-1, 3), (2, -2))), f(1, 2, 2, 1), f(0, 1, 2, 2)),
    Case(jbp.layers.Pad(((-2, -1),)), f(1, 3, 2)),
    Case(jbp.layers.Upsample((3, 1, 2)), f(1, 1, 2, 2, 1), f(0, 1, 1, 1, 1)),
    Case(jbp.layers.Conv(3), f(1, 1, 1, 1), f(0, 5, 4, 2)),
    Case(jbp.layers.Conv(2, (3, 3, 2), stride=(1, 2, 1), padding=((1, 0), (2, 2), (0, 3))), f(1, 4, 3, 2, 1)),
    Case(jbp.layers.MaxPool(), f(1, 2, 2, 1), f(0, 4, 4, 2)),
    Case(jbp.layers.MaxPool((2, 3), stride=(3, 1), padding=((1, 0), (0, 1))), f(2, 5, 4, 1)),
    Case(jbp.layers.Conv(6, (2, 1), groups=3), f(1, 3, 2, 9)),
    Case(jbp.layers.ConvTranspose(6, (2, 1), groups=3), f(1, 3, 2, 9)),
    Case(jbp.layers.ConvTranspose(2, (1, 1)), f(1, 1, 1, 1), f(0, 3, 4, 2)),
    Case(jbp.layers.ConvTranspose(2, (2, 1, 2), stride=(3, 2, 1), padding="SAME"), f(1, 2, 3, 2, 1)),
    Case(jbp.layers.ConvTranspose(2, (2, 2), padding=((1, -1), (-2, 1))), f(2, 3, 3, 1)),
    Case(jbp.layers.AveragePool(), f(1, 2, 2, 1), f(0, 4, 4, 2)),
    Case(jbp.layers.AveragePool((2, 1, 2), stride=3), f(1, 5, 4, 3, 2)),
    Case(jbp.layers.AdaptiveAveragePool((1, 7)), f(1, 1, 5, 1), f(0, 2, 2, 1)),
    Case(jbp.layers.GlobalMaxPool(), f(1, 1, 1), f(0, 2, 3)),
    Case(jbp.layers.MaxPool(257, stride=1), f(1, 259, 1)),
    Case(jbp.layers.LPPool(3, 2, 1), f(1, 2, 1), f(0, 3, 2)),
    Case(jbp.layers.AdaptiveMaxPool(1), f(1, 1, 1), f(0, 2, 3)),
    Case(jbp.layers.FractionalMaxPool(1, sizes=1), f(1, 1, 1), f(0, 3, 2)),
    Case(jbp.layers.Resize((1, 3), "cubic"), f(1, 1, 1, 1), f(0, 2, 3, 1)),
    Case(jbp.layers.Unfold(2, 1, 2), f(1, 1, 1), f(0, 3, 2)),
    Case(jbp.layers.Pad(1, "replicate"), f(1, 1, 1), f(0, 2, 1)),
    Case(jbp.layers.LowRank(1, 1), f(1), f(0, 3)),
    Case(jbp.layers.LoRA(1, 1), f(1), f(0, 3)),
    Case(jbp.layers.Bilinear(1), (f(1), f(2)), (f(0, 2), f(0, 1))),
    *(
        Case(layer(1), f(1, 1, 1), f(0, 3, 2), f(2, 1, 3), f(2, 0, 3))
        for layer in (jbp.layers.LSTM, jbp.layers.GRU, jbp.layers.Elman, jbp.layers.MinimalGRU)
    ),
    Case(
        jbp.layers.Recurrent(jbp.Serial(jbp.layers.Concatenate(), jbp.layers.Dense(1), jbp.layers.FanOut()), 1),
        f(1, 1, 1),
        f(0, 3, 2),
    ),
    Case(
        jbp.layers.Recurrent(jbp.Serial(jbp.layers.Concatenate(), jbp.layers.Dense(3), jbp.layers.FanOut()), 3),
        f(2, 0, 3),
    ),
    Case(jbp.layers.GRU(1, return_state=True), (f(0, 3, 2), i(0, below=4)), (f(2, 0, 3), f(2, 1)), f(2, 0, 1)),
    Case(jbp.layers.LSTM(1, projection=1, return_state=True), (f(2, 0, 3), (f(2, 1), f(2, 1))), f(0, 3, 2)),
    Case(jbp.layers.LSTM(1), (f(2, 0, 3), (f(2, 1), f(2, 1)))),
    *(
        Case(jbp.layers.Lengths(jbp.layers.Elman(1), pool), (f(0, 3, 2), i(0, below=4)), (f(2, 0, 1), i(2, below=1)))
        for pool in ("last", "mean", "max")
    ),
    Case(jbp.layers.Stack(jbp.layers.GRU(1), 1, dropout=0.5), f(1, 1, 1), f(0, 2, 1)),
    Case(jbp.layers.Recurrent(jbp.layers.LSTMCell(1), return_state=True), f(0, 3, 2), f(2, 0, 1)),
    Case(jbp.layers.LSTMCell(1), (f(2), (f(1), f(1))), (f(0, 2), (f(0, 1), f(0, 1)))),
    Case(jbp.layers.DiagonalStateSpace(2), f(1, 1, 1), f(0, 3, 2), f(2, 0, 3)),
    Case(jbp.layers.SelectiveStateSpace(2), f(1, 1, 1), f(0, 3, 2), f(2, 0, 3)),
    Case(jbp.layers.SelectiveStateSpace(1, rank=2), f(1, 19, 2)),
    Case(jbp.layers.LinearAttention(1), f(1, 1, 1), f(0, 3, 4), f(2, 0, 3)),
    Case(jbp.layers.LinearAttention(2, causal=True), f(1, 1, 2), f(0, 3, 4), f(2, 0, 4), f(1, 130, 2)),
    Case(jbp.layers.MixtureOfExperts(jbp.layers.Dense(2), 1), f(1), f(1, 1), f(0, 3)),
    Case(jbp.layers.MixtureOfExperts(jbp.layers.Dense(2), 3, 3, 0.1), f(7, 3)),
    Case(
        jbp.layers.Recursive(jbp.layers.TensorNode()),
        (f(1, 1, 1), i(1, 1, 2, below=1)),
        (f(2, 3, 1), i(2, 0, 2, below=1)),
    ),
    Case(jbp.layers.MemoryHop(), (f(1, 1), f(1, 1, 1)), (f(2, 3), f(2, 3, 2), i(2, 3, below=1)), (f(2, 3), f(2, 0, 2))),
    Case(jbp.layers.Embedding(1, 1), i(1, below=1), i(0, below=1)),
    Case(jbp.layers.CausalSelfAttention(2), f(1, 1, 2), f(0, 3, 4), f(1, 130, 2), f(1, 257, 2)),
    Case(jbp.layers.MultiHeadAttention(2, 1), f(1, 1, 2), f(0, 3, 4), (f(1, 130, 2), f(1, 3, 2))),
    Case(jbp.layers.MultiHeadAttention(1), (f(2, 3, 2), i(2, 3, below=1))),  # nothing may be seen
    Case(
        jbp.layers.MultiHeadAttention(2, groups=1),
        {"x": f(2, 3, 4), "bias": f(1, 2, 3, 3), "segments": i(2, 3, below=2)},
        {"x": f(2, 3, 4), "bias": f(2, 1, 1, 3), "mask": i(2, 3, below=2)},
        {"x": f(2, 3, 4), "bias": f(1, 1, 3, 1)},
        {
            "source": f(2, 4, 3),
            "x": f(2, 3, 4),
            "segments": i(2, 3, below=2),
            "bias": f(2, 2, 3, 4),
            "source_segments": i(2, 4, below=2),
        },
        {"x": f(0, 2, 4), "bias": f(1, 2, 1, 2)},
    ),
    Case(jbp.layers.MultiHeadAttention(2, distances=1, rotary=True), (f(1, 3, 4), f(1, 5, 3)), f(0, 3, 4), f(1, 1, 4)),
    Case(jbp.layers.MultiHeadAttention(2, distances=0, cap=2.0, dropout=0.0), f(2, 3, 4)),
    Case(jbp.layers.MultiHeadAttention(4, groups=2, window=2, causal=True, alibi=True), f(1, 130, 4)),
    Case(jbp.layers.MultiHeadAttention(4, groups=2, window=2, dropout=0.4, causal=True, alibi=True), f(1, 5, 4)),
    Case(jbp.layers.Rotary(10.0), f(1, 2), f(0, 3, 4), f(4, 3, 6)),
    Case(jbp.layers.MultiHeadAttention(1, causal=True, window=100), (f(1, 257, 2), i(1, 257, below=2))),
    Case(jbp.losses.MeanSquaredError(), (f(), f()), (f(1, 1), f(1, 1))),
    Case(jbp.losses.SoftmaxCrossEntropy(), (f(1), i(below=1)), (f(1, 1), i(1, below=1))),
    Case(jbp.losses.SoftmaxCrossEntropy(ignore=0), (f(4, 3), i(4, below=1))),  # every row is ignored
    Case(
        jbp.losses.LinearCrossEntropy(7, chunk=3),
        (f(3), i(below=7)),
        *[(f(n, 3), i(n, below=7)) for n in (1, 2, 3, 4, 6)],
    ),
    *(
        Case(
            jbp.losses.LinearCrossEntropy(7, 2, True, 0.2, (1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0), 6, 0.1, 2.0, columns),
            (f(3, 4), i(3, below=7)),
            (f(5, 4), f(5, 7)),
        )
        for columns in (1, 3, 4, 7)
    ),
    Case(jbp.losses.LinearCrossEntropy(2, chunk=2, ignore=0), (f(3, 4), i(3, below=1))),
)


def _name(value):
    return str(value).replace("Array", "").replace("shape=", "").replace(", below=None", "").replace(" ", "")


def _each():
    """The last input of every case and all inputs of the odd ones; the other inputs are slow."""
    for c in (*LAYERS, *LOSSES):
        for s in c.inputs:
            yield pytest.param(c.layer, s, id=_name((c.layer, s)), marks=[pytest.mark.slow] * (s is not c.inputs[-1]))
    for c in ODD:
        yield from (pytest.param(c.layer, s, id=_name((c.layer, s))) for s in c.inputs)


ALL = [*_each()]
ONCE = [pytest.param(c.layer, c.inputs[-1], id=_name(c.layer)) for c in (*LAYERS, *LOSSES)]
EVERY = [*ONCE, *(pytest.param(c.layer, c.inputs[-1], id=_name(c.layer)) for c in ESTIMATORS)]
LAST = list({type(p.values[0]): p for p in ONCE}.values())  # of every type, the last of its cases
LAST_OF_EVERY = list({type(p.values[0]): p for p in EVERY}.values())


@pytest.mark.parametrize(("layer", "spec"), ALL)
def test_the_backward_pass_is_that_of_the_definition(layer, spec):
    audit(layer, draw(spec))


@pytest.mark.parametrize(("layer", "spec"), EVERY)
def test_lower_precision_keeps_dtypes(layer, spec):
    for dtype in ("float32", "bfloat16"):
        x, params = jax.eval_shape(lambda d=dtype: ((x := draw(spec, dtype=d)), cast(initialize(layer, KEY, x), d)))

        def both(params, x):
            y, residuals = layer.forward(params, x)
            return y, layer.pull(params, residuals, y)

        y, (dx, grads) = jax.eval_shape(both, params, x)
        assert {v.dtype for v in jax.tree.leaves(y)} == {jnp.dtype(dtype)}
        same = jax.tree.map(
            lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), (grads, dx), (trainable(params), floats_of(x))
        )
        assert jax.tree.all(same)


def _flows(layer, spec):
    """Whether x has floats whose dtype the output takes: not ids, nor the weights beside them of a bag of ids."""
    floats = any(a.below is None for a in jax.tree.leaves(spec, is_leaf=lambda a: isinstance(a, Array)))
    return floats and not isinstance(layer, jbp.layers.EmbeddingBag)


@pytest.mark.parametrize(("layer", "spec"), [p for p in EVERY if _flows(*p.values)])
def test_parameters_may_be_wider_than_x(layer, spec):
    x, params = jax.eval_shape(
        lambda: ((x := draw(spec, dtype="bfloat16")), cast(initialize(layer, KEY, x), "float32"))
    )

    def both(params, x):
        y, residuals = layer.forward(params, x)
        return y, layer.pull(params, residuals, y), layer.backward(params, residuals, y)[0]

    y, (dx, grads), apart = jax.eval_shape(both, params, x)
    assert {v.dtype for v in jax.tree.leaves((y, dx, apart))} <= {jnp.dtype("bfloat16")}
    assert {v.dtype for v in jax.tree.leaves(grads)} <= {jnp.dtype("float32")}


# A log variance, or the logarithm of a ratio, of 1e4 is out of range by definition.
LARGEST = {
    jbp.losses.GaussianNegativeLogLikelihood: 1.0,
    jbp.layers.Reparameterize: 1.0,
    jbp.losses.ClippedPolicy: 1.0,
    jbp.losses.GRPO: 1.0,
    jbp.losses.GaussianNLL: 1.0,
    jbp.losses.KLDiv: 1.0,
    jbp.losses.PoissonNLL: 1.0,
    jbp.losses.StandardNormalDivergence: 1.0,
}


HALVED = [  # of layers that may be cut by features: those that are first in a row, between, and last
    (case.layer.evaluation(), x) for case in LAYERS for x in case.inputs if hasattr(x, "shape") and case.layer.cuts
]


def halves(tree, whole, k):
    """The k-th half of each array along the axis where `whole` is twice as long."""

    def half(a, b):
        axis = next((i for i in range(a.ndim) if a.shape[i] != b.shape[i]), None)
        return a if axis is None else jnp.split(a, 2, axis)[k]

    return jax.tree.map(half, tree, whole)


def in_parts(layer, place, x):
    """(y, what two devices make of it) in one of the places that it may have."""
    whole, adds = place in ("first", "alone"), place in ("last", "alone")
    one = layer.part(2, x) if whole else layer
    mine = x if whole else jnp.split(x, 2, -1)[0]
    params = parameters(layer, x)
    shapes = jax.eval_shape(one.init, jax.random.key(0), mine)
    made = []
    for k in range(2):
        own = halves(params, shapes, k)
        if adds and k:
            own = jax.tree.map(lambda p, whole: jnp.zeros_like(p) if p.shape == whole.shape else p, own, params)
        made.append(one.forward(own, x if whole else jnp.split(x, 2, -1)[k])[0])
    together = made[0] + made[1] if adds else jnp.concatenate(made, -1)
    return layer.forward(params, x)[0], together


@pytest.mark.parametrize(("layer", "spec"), HALVED, ids=str)
def test_parts_make_up_the_whole(layer, spec):
    x = draw(spec)
    even = x.shape and x.shape[-1] % 2 == 0
    if "tokens" in layer.cuts and x.ndim > 1 + is_float(x) and x.shape[1] > 1:
        params = parameters(layer, x)
        y, *made = (layer.forward(params, v)[0] for v in (x, x[:, :1], x[:, 1:]))
        np.testing.assert_allclose(jnp.concatenate(made, 1), y, rtol=1e-13, atol=1e-13, err_msg="tokens")
    for place in set(layer.cuts) - {"tokens", "routed", "context"}:
        if layer.part(2) is not None if place in ("first", "alone") else even:
            y, together = in_parts(layer, place, x)
            np.testing.assert_allclose(together, y, rtol=1e-13, atol=1e-13, err_msg=place)


def test_who_wrongly_says_that_it_works_on_single_features_is_seen():
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(*in_parts(jbp.layers.Softmax(), "between", draw(f(2, 4))))


CONTEXTS = [(layer, spec) for layer, spec in HALVED if "context" in layer.cuts and layer.context("here", 2)]


def by_context(layer, params, x, dy, count):
    """(y, dx, dparams) of devices that have a part of the tokens each."""

    def here(x, dy):
        own = layer.context("here", count)
        y, residuals = own.forward(params, x)
        dx, grads = own.pull(params, residuals, dy)
        return y, dx, jax.lax.psum(grads, "here")

    parts = (jnp.stack(jnp.split(v, count, 1)) for v in (x, dy))
    y, dx, grads = jax.jit(jax.vmap(here, axis_name="here"))(*parts)
    return *(jnp.concatenate(v, 1) for v in (y, dx)), jax.tree.map(lambda g: g[0], grads)


@pytest.mark.parametrize(("layer", "spec"), CONTEXTS, ids=str)
@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_the_tokens_make_up_the_whole(layer, spec, count, monkeypatch):
    """In blocks of two queries, of tokens that are dealt out by twos among two devices, and not among three."""
    monkeypatch.setattr("jbp.layers.attention.ring.BLOCK", 2)
    tokens = {2: 12, 3: 9}[count]
    layer = dataclasses.replace(layer, length=15) if hasattr(layer, "length") else layer
    for more in [()] if hasattr(layer, "heads") else [(), (2,)]:
        x, dy = (draw(f(2, tokens, *more, spec.shape[-1]), seed) for seed in (0, 1))
        params = parameters(layer, x)
        y, residuals = layer.forward(params, x)
        wanted = y, *layer.pull(params, residuals, dy)
        close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
        jax.tree.map(close, by_context(layer, params, x, dy, count), wanted)


@pytest.mark.parametrize("count", [4, 5])
def test_tokens_are_dealt_out_so_that_all_have_as_much_to_do_and_come_home(count):
    ring, rule = Ring("here", count), Rule(causal=True)
    x = jnp.arange(4 * count).reshape(1, 1, -1, 1)

    def here(x):
        two = ring._split(rule, {"q": x}, 4, rows=True)
        firsts = jnp.stack(ring._firsts(jax.lax.axis_index("here"), 4, 2))
        return [part["q"] for part in two], firsts, ring._joined(two)["q"]

    two, firsts, home = jax.vmap(here, axis_name="here")(jnp.stack(jnp.split(x, count, 2)))
    np.testing.assert_array_equal(firsts, np.stack(two).reshape(2, count, 2)[..., 0].T)
    assert (firsts.sum(1) == 4 * count - 2).all()
    assert (home.ravel() == jnp.arange(4 * count)).all()


@pytest.mark.parametrize("lost", ["keys that stay", "cotangents that stay", "stretches of the others"])
def test_a_round_that_goes_wrong_is_seen(lost, monkeypatch):
    assert len(CONTEXTS) > 10
    on = Ring._on

    def cotangents_stay(self, tree):  # in the first round
        return (on(self, tree[0]), tree[1]) if isinstance(tree, tuple) else on(self, tree)

    wrong = {
        "keys that stay": ("_on", lambda self, tree: tree),
        "cotangents that stay": ("_on", cotangents_stay),
        "stretches of the others": ("_firsts", lambda self, device, n, stretches: [device * n, device * n + n // 2]),
    }
    monkeypatch.setattr(Ring, *wrong[lost])
    layer, spec = next(c for c in CONTEXTS if getattr(c[0], "causal", False))
    with pytest.raises(AssertionError):
        test_parts_of_the_tokens_make_up_the_whole(layer, spec, 2, monkeypatch)


@pytest.mark.parametrize(("layer", "spec"), LAST)
def test_lower_precision_stays_near_and_zeros_huge_and_tiny_inputs_give_finite_results(layer, spec):
    @jax.jit
    def run(params, x, dy):
        y, residuals = layer.forward(params, x)
        return y, layer.pull(params, residuals, dy)

    for dtype, eps in (("float32", 2e-5), ("bfloat16", 0.06)):
        x = draw(spec, dtype=dtype)
        params = parameters(layer, x, dtype=dtype)
        dy = cotangent(jax.eval_shape(lambda p, x=x: layer.reference(p, x), params))
        assert_near(cast(run(params, x, dy), "float64"), run(*cast((params, x, dy), "float64")), eps)
        for scale in (0.0, 1e-30, 1e4, 1e6):
            if scale <= LARGEST.get(type(layer), 1e6):
                extreme = jax.tree.map(lambda v, c=scale: v * jnp.asarray(c, v.dtype) if is_float(v) else v, x)
                for leaf in jax.tree.leaves(run(params, extreme, dy)):
                    assert jnp.isfinite(leaf).all(), f"at scale {scale} in {dtype}"


@pytest.mark.parametrize(
    "layer", [c.layer for c in LAYERS if isinstance(c.layer, jbp.layers.activation.elementwise.Elementwise)], ids=repr
)
def test_activations_are_finite_to_the_ends_of_the_range(layer):
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        big = float(jnp.finfo(dtype).max) / 2  # SELU's slope is a little more than 1
        x = jnp.asarray([-big, -(big**0.5), -1.0, -0.0, 0.0, 1.0, big**0.5, big], dtype)
        y, (_, dx), _ = reverse(layer, (), x, jnp.ones_like(x))
        fits = jnp.isfinite(layer.reference((), x))  # a square may be out of range
        assert jnp.isfinite(y[fits]).all()
        assert jnp.isfinite(dx).all()
        assert fits.sum() >= 7


@pytest.mark.parametrize(
    "layer",
    [
        jbp.layers.MaxPool(),
        jbp.layers.MaxPool((3, 3), stride=1),
        jbp.layers.MaxPool((3, 3), stride=2, padding="SAME"),
        jbp.layers.GlobalMaxPool(),
        jbp.layers.Maxout(3),
    ],
    ids=repr,
)
def test_ties_in_a_maximum_follow_the_convention(layer):
    x = jnp.round(draw(f(2, 6, 7, 3)))
    audit(layer, x)
    constant = jnp.zeros((1, 2, 2, 1))
    _, (_, dx), _ = reverse(jbp.layers.MaxPool(), (), constant, jnp.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(dx.ravel(), [1, 0, 0, 0])


@pytest.mark.parametrize(("block", "n"), [(3, 7), (4, 8), (1, 9)])
def test_attention_in_blocks_of_any_size(block, n, monkeypatch):
    monkeypatch.setattr(jbp.layers.attention.blockwise, "BLOCK", block)
    audit(jbp.layers.CausalSelfAttention(2), draw(f(2, n, 4)))
    for settings in ({}, {"causal": True}, {"window": 2}, {"causal": True, "window": 3, "groups": 1}):
        audit(jbp.layers.MultiHeadAttention(2, **settings), draw((f(2, n, 4), i(2, n, below=2))))
    every = jbp.layers.MultiHeadAttention(2, 1, True, 3, 1.0, True, True, 2, 0.3)
    audit(every, draw({"x": f(2, n, 4), "bias": f(2, 2, n, n), "segments": i(2, n, below=2)}))
    audit(jbp.layers.CausalSelfAttention(1, dropout=0.3), draw({"x": f(2, n, 4), "bias": f(2, 1, 1, n)}))
    audit(jbp.layers.MultiHeadAttention(4, groups=2, window=2), draw((f(2, n, 4), f(2, 5, 3), i(2, 5, below=2))))


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("dropout", [None, 0.1])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("causal", [False, True])
def test_the_memory_of_attention_is_linear_in_the_length(causal, window, dropout, monkeypatch):
    monkeypatch.setattr(jbp.layers.attention.blockwise, "BLOCK", 16)
    layer = jbp.layers.MultiHeadAttention(1, causal=causal, window=window, dropout=dropout)

    def memory(n):
        x = jax.ShapeDtypeStruct((1, n, 4), jnp.float32)
        params = layer.init(jax.random.key(0), x)

        def run(params, x):
            y, residuals = layer.forward(params, x)
            return layer.pull(params, residuals, y)

        return jax.jit(run).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    few, many = memory(512), memory(2048)
    print(f"working memory: {few} bytes for 512 places, {many} for 2048")
    assert many < 5 * few
    assert many < 4 * 2048 * 2048 / 4


def test_what_may_not_be_seen_has_no_influence():
    """Padding, another segment, a bias of −∞, the future, beyond the window: x may change there, y may not."""
    layer, x, other = jbp.layers.MultiHeadAttention(2), draw(f(2, 6, 4)), draw(f(2, 6, 4), seed=1)
    params = parameters(layer, x)
    z = x.at[:, 4:].set(other[:, 4:])
    seen = jnp.arange(6)[None] < 4
    rows = jnp.broadcast_to(seen, (2, 6))

    def of(layer, **more):
        return [layer.forward(params, {"x": v, **more})[0][:, :4] for v in (x, z)]

    bias = jnp.where(seen, 0.0, -jnp.inf)[:, None, None]
    for y, same in (of(layer, mask=rows), of(layer, segments=rows.astype(jnp.int32)), of(layer, bias=bias)):
        np.testing.assert_array_equal(y, same)
    y, same = of(jbp.layers.CausalSelfAttention(2))
    np.testing.assert_array_equal(y, same)
    y, same = of(jbp.layers.MultiHeadAttention(2, window=2))
    np.testing.assert_array_equal(y[:, :3], same[:, :3])
    assert (y[:, 3] != same[:, 3]).any()


@pytest.mark.parametrize("options", [{}, {"cap": 2.0, "alibi": True}, {"dropout": 0.5, "distances": 1, "rotary": True}])
def test_queries_that_see_nothing_give_zero_and_finite_gradients(options):
    layer = jbp.layers.MultiHeadAttention(2, **options)
    x = {"x": draw(f(2, 3, 4)), "mask": jnp.array([[0, 0, 0], [1, 0, 1]]), "bias": draw(f(2, 1, 1, 3)) - jnp.inf}
    params = parameters(layer, x)
    y, (grads, dx), _ = reverse(layer, params, x, jnp.ones((2, 3, 4)))
    assert not y.any()
    for leaf in jax.tree.leaves((grads, dx)):
        assert not leaf.any()


def test_one_weight_of_one_sends_nothing_to_the_scores():
    """Scores so far apart that the softmax is one-hot: its gradient is exactly zero, as that of the definition is."""
    layer, x = jbp.layers.MultiHeadAttention(4, groups=2, window=3), 1e9 * draw(f(2, 5, 8), dtype="float32")
    params = parameters(layer, x, dtype="float32")
    _, (grads, _), _ = reverse(layer, params, x, draw(f(2, 5, 8), dtype="float32"))
    assert not grads["q"].any()
    assert not grads["k"].any()
    assert grads["v"].any()


def test_dropout_in_attention_is_unbiased_and_stops():
    layer, x = jbp.layers.MultiHeadAttention(1, dropout=0.4), draw(f(1, 3, 2))
    params = parameters(layer, x)

    def one(key):
        return layer.forward({**params, "key": jbp.Buffer(key)}, x)[0]

    mean = jax.vmap(one)(jax.random.split(jax.random.key(3), 4000)).mean(0)
    still = layer.evaluation()
    np.testing.assert_allclose(mean, still.forward(params, x)[0], atol=0.05)
    assert still == jbp.layers.MultiHeadAttention(1, dropout=0.0)
    assert jbp.sweep.advancing(layer) == [layer]
    assert not jbp.sweep.advancing(still)


@pytest.mark.parametrize("layer", [jbp.layers.Rotary(), jbp.layers.MultiHeadAttention(2, rotary=True)], ids=repr)
def test_rotary_products_depend_on_the_distance_alone(layer):
    x = draw(f(1, 1, 8))
    row = jnp.broadcast_to(x, (1, 6, 8))
    if isinstance(layer, jbp.layers.Rotary):
        y = layer.forward((), row)[0][0]
        products = y @ y.T
        for k in range(6):
            np.testing.assert_allclose(jnp.diagonal(products, k), products[0, k], rtol=1e-12)
        assert abs(products[0, 1] - products[0, 0]) > 1e-3
    else:  # equal rows have equal values, whatever the weights
        y = layer.forward(parameters(layer, row), row)[0]
        np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1], y.shape), rtol=1e-12)


@pytest.mark.parametrize(("layer", "spec"), ONCE)
def test_a_layer_is_a_value(layer, spec):
    rebuilt = eval(repr(layer), dict(NAMES))
    for other in (rebuilt, pickle.loads(pickle.dumps(layer)), dataclasses.replace(layer)):
        assert other == layer
        assert hash(other) == hash(layer)
        assert repr(other) == repr(layer)
    assert layer != jbp.layers.Identity()
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.anything = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("layer", "spec"), ONCE)
def test_residuals_are_frugal(layer, spec):
    x = draw(spec, dtype="float32")
    ours, theirs, weights = kept(layer, parameters(layer, x, dtype="float32"), x)
    print(f"{ours:8d} bytes kept, {theirs:8d} by jax.vjp: {layer!r}")
    assert not weights
    assert ours <= theirs or type(layer) in MORE


@pytest.mark.parametrize(("layer", "spec"), LAST_OF_EVERY)
def test_both_passes_lower_for_every_platform(layer, spec):
    x = draw(spec, dtype="float32")
    params = layer.init(jax.random.key(0), x)
    fixed = buffers(params)
    dy = jax.eval_shape(lambda p: layer.forward(p, x)[0], params)

    def both(weights, x, dy):
        params = merge(weights, fixed)
        y, residuals = layer.forward(params, x)
        return y, layer.pull(params, residuals, dy)

    lowered = jax.export.export(jax.jit(both), platforms=["cpu", "cuda", "tpu"])(trainable(params), x, dy)
    assert lowered.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize(
    ("layer", "spec"),
    [
        (jbp.layers.LSTM(2), f(2, 3, 4)),
        (jbp.layers.GRU(2), f(2, 3, 4)),
        (jbp.layers.SelectiveStateSpace(2), f(2, 19, 3)),
        (jbp.layers.Conv(4, groups=2), f(2, 3, 5, 4)),
        (jbp.layers.Conv(4, groups=4), f(2, 3, 5, 4)),
        (jbp.layers.MaxPool((2, 3), stride=1), f(2, 3, 5, 4)),
    ],
)
def test_the_form_for_other_platforms_keeps_the_laws_too(layer, spec, monkeypatch):
    taken = []
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, default, **others: taken.append(x) or default(*x))
    audit(layer, draw(spec))
    assert taken


@pytest.mark.usefixtures("optimized")
def test_linear_cross_entropy_never_holds_the_logits():
    rows, features, vocabulary, chunk = 1000, 8, 2048, 64
    x = draw((f(rows, features), i(rows, below=vocabulary)), dtype="float32")

    def memory(layer):
        params = parameters(layer, x, dtype="float32")

        def run(params, x):
            y, residuals = layer.forward(params, x)
            return y, layer.pull(params, residuals, jnp.ones((), y.dtype))

        return jax.jit(run).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    whole = memory(jbp.losses.LinearCrossEntropy(vocabulary, chunk=rows))
    chunked = memory(jbp.losses.LinearCrossEntropy(vocabulary, chunk=chunk))
    pieces = memory(jbp.losses.LinearCrossEntropy(vocabulary, chunk=rows, columns=chunk))
    print(f"working memory: {whole} bytes in one piece, {chunked} by {chunk} rows, {pieces} by {chunk} columns")
    assert max(chunked, pieces) < rows * vocabulary * 4 / 4 < whole


def test_labels_may_be_of_a_dtype_that_cannot_count_the_classes():
    x, few = draw(f(4, 300)), jnp.array([1, 44, 3, 255])
    for loss in (jbp.losses.SoftmaxCrossEntropy(), jbp.losses.LinearCrossEntropy(300, 2, columns=70)):
        params = parameters(loss, (x, few))
        y = loss.forward(params, (x, few))[0]
        np.testing.assert_allclose(loss.forward(params, (x, few.astype(jnp.uint8)))[0], y, rtol=1e-12)


def test_a_label_to_ignore_may_be_any_integer():
    for loss in (jbp.losses.SoftmaxCrossEntropy(ignore=-100), jbp.losses.LinearCrossEntropy(3, chunk=2, ignore=-100)):
        z, labels = draw(f(4, 3)), jnp.array([0, -100, 2, -100])
        params = parameters(loss, (z, labels))
        y = loss.forward(params, (z, labels))[0]
        np.testing.assert_allclose(y, loss.forward(params, (z[::2], labels[::2]))[0], rtol=1e-12)
        with pytest.raises(jbp.LayerError, match="got labels between -1 and 2"):
            loss.forward(params, (z, jnp.array([0, -100, 2, -1])))
        assert jnp.isnan(jax.jit(loss.forward)(params, (z, jnp.array([0, -100, 2, -1])))[0])
