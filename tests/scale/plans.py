"""Training under a Plan on eight virtual devices: run by tests/test_scale.py in a process of its own."""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import draw

from jbp import Frozen, Graph, LowRankAdapter, Parallel, Remat, Repeat, Residual, Reversible, Serial, Tied, recipes
from jbp.cases import f, i
from jbp.curvature import Factored
from jbp.errors import LayerError
from jbp.layers import (
    GRU,
    LSTM,
    Add,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Embedding,
    GatedDense,
    Identity,
    LayerNorm,
    LogSoftmax,
    MixtureOfExperts,
    MultiHeadAttention,
    PReLU,
    RMSNorm,
    Select,
    Softmax,
    Squeeze,
    Take,
    Tanh,
    UnitNorm,
)
from jbp.layers.attention.multihead import AttentionHere
from jbp.layers.attention.ring import Ring
from jbp.losses import (
    InfoNCE,
    LinearCrossEntropy,
    MeanSquaredError,
    Penalized,
    SoftmaxCrossEntropy,
    Sum,
    Total,
    Weighted,
)
from jbp.params import Buffer, trainable
from jbp.private import Private
from jbp.train import Diverged, Plan, accuracy, fit, start, step
from jbp.train.parts import Part, Together
from verify.run.hlo import done

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs with collectives starve each other on 2 cores
KEY = jax.random.key(0)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2, eps=1e-3))  # not to blow up gradients of 1e-17
HALVES = (("slow", 2), ("data", 4))
LABELS = SoftmaxCrossEntropy(ignore=0)  # of so unequal many in each part that a mean of means is wrong


def numbers(*spec):
    return tuple(draw(s, seed) for seed, s in enumerate(spec))


BLOCK = Serial(Residual(Serial(LayerNorm(), Dense(8), Tanh())), Residual(Dense(8)))
CASES = {
    "mlp": (recipes.mlp(8, (16, 8), 0.0), LABELS, numbers(f(16, 4, 4), i(16, below=8))),
    "gpt": (recipes.gpt(16, 5, 8, 2, 2), LABELS, numbers(i(16, 5, below=16), i(16, 5, below=3))),
    "resnet": (recipes.resnet(8, 8, 1), LABELS, numbers(f(16, 4, 4, 3), i(16, below=8))),
    "lstm": (recipes.recurrent_language_model(8, LSTM(8), 8), LABELS, numbers(i(16, 3, below=8), i(16, 3, below=8))),
    "loss inside": (
        Tied(Serial(Parallel(Embedding(16, 8), Identity()), Parallel(Repeat(Remat(BLOCK), 2), Identity()),
                    LinearCrossEntropy(16, 3, ignore=1, columns=5)), ()),
        Add(),
        (numbers(i(16, 5, below=16), i(16, 5, below=3)),),
    ),
    "graph": (
        Graph(a=(Dense(16), "x"), b=(Tanh(), "a"), c=(Dense(16), "x"), d=(Add(), "b", "c"), y=(Dense(8), "d")),
        LABELS,
        numbers(f(16, 3), i(16, below=8)),
    ),
    "several outputs": (
        Graph(h=(Dense(16), "x"), kind=(Dense(8), "h"), size=(Dense(8), "h"), outputs=("kind", "size")),
        Total(kind=(LABELS, 2.0), size=(MeanSquaredError(), 0.3)),
        numbers(f(16, 8), {"kind": i(16, below=3), "size": f(16, 8)}),
    ),
    "weighted": (Serial(Dense(8)), Weighted(MeanSquaredError()), numbers(f(16, 3), f(16, 8), f(16))),
    "adapters": (
        LowRankAdapter(Serial(Dense(8), Tanh(), Dense(8)), ("w",), 2), LABELS, numbers(f(16, 8), i(16, below=8))
    ),
    "frozen, reversible": (
        Serial(Frozen(Serial(Dense(16), Tanh(), Dense(16))),
               Reversible(Serial(GatedDense(4), Dense(8)), Tanh(), times=2), Frozen(Dense(8), ("b",))),
        LABELS,
        numbers(f(16, 8), i(16, below=8)),
    ),
    "rows": (
        Serial(Dense(8), PReLU(), PReLU(True), Dense(6), Tanh(), Repeat(Residual(Serial(Dense(4), Dense(6))), 2),
               Remat(Serial(Dense(3), Dense(4), Tanh(), Dense(8)))),
        LABELS,
        numbers(f(16, 3), i(16, below=8)),
    ),
    "experts": (
        Serial(Dense(8), MixtureOfExperts(Serial(Dense(8), Tanh(), Dense(8)), 4, k=2), Select(0), Dense(8),
               MixtureOfExperts(Dense(8), 8, capacity=None)),
        Penalized(LABELS, 0.1),
        numbers(f(16, 3, 8), i(16, 3, below=3)),
    ),
    "words": (
        Serial(recipes.gpt(16, 4, 8, 2, 4), Dropout(0.0)), LABELS, numbers(i(16, 4, below=16), i(16, 4, below=3))
    ),
    "sequences": (
        Serial(Dense(8), GRU(8), Residual(Serial(RMSNorm(), GatedDense(8), PReLU(True), Dense(8))), Conv(8, 3),
               Softmax(1), MultiHeadAttention(3, key_size=4), MixtureOfExperts(Dense(8), 4, capacity=None)),
        Penalized(LABELS, 0.1),
        numbers(f(16, 4, 8), i(16, 4, below=3)),
    ),
    "context": (
        Serial(MultiHeadAttention(2, causal=True, rotary=True, distances=2, bias=True), Dropout(0.0),
               Residual(Serial(LayerNorm(), Dense(8), Tanh(), Dense(8))), Softmax(1),
               Repeat(MultiHeadAttention(4, 2, window=3, cap=2.0, bias_kv=True, zero_attention=True), 2),
               MultiHeadAttention(2, alibi=True, dropout=0.0)),
        LABELS,
        numbers({"x": f(4, 8, 8), "mask": i(4, 8, below=2), "segments": i(4, 8, below=2)}, i(4, 8, below=3)),
    ),
    "masked": (
        Serial(MultiHeadAttention(4, causal=True), Dense(8)),
        LABELS,
        numbers({"x": f(8, 8, 8), "source": f(8, 8, 4), "mask": i(8, 8, 8, below=2)}, i(8, 8, below=3)),
    ),
    "tied": (
        Tied(Serial(Dense(8), Tanh(), Dense(8), Dense(16), Tanh(), Dense(8)), (((0, "w"), (2, "w")),)),
        LABELS,
        numbers(f(16, 8), i(16, below=8)),
    ),
    "transformer": (
        Serial(recipes.transformer_encoder(8, 4, 2, norm_first=True, dropout=0.0), Dense(8)),
        LABELS,
        numbers(f(16, 3, 8), i(16, 3, below=3)),
    ),
}  # fmt: skip
PLANS = {
    "weights": Plan(weights="data"),
    "hybrid": Plan(HALVES, weights="data"),
    "micro": Plan((("data", 4),), micro=4),
    "ahead": Plan(weights="data", ahead=True),
    "tensor": Plan((("data", 2), ("tensor", 4)), tensor="tensor"),
    "tensor alone": Plan((("tensor", 2),), tensor="tensor"),
    "sequence": Plan((("tensor", 2),), tensor="tensor", sequence="tensor"),
    "sequence in pieces": Plan(
        (("data", 2), ("tensor", 4)), weights="data", tensor="tensor", sequence="tensor", ahead=True, micro=2
    ),
    "context": Plan((("data", 2), ("context", 4)), sequence="context", micro=2),
    "context in pieces": Plan((("context", 8),), weights="context", sequence="context", ahead=True),
    "tensor and context": Plan(
        (("tensor", 2), ("context", 2), ("data", 2)), weights="data", tensor="tensor", sequence="context"
    ),
    "tensor, context": Plan((("context", 2), ("tensor", 2)), tensor="tensor", sequence="context"),
    "tensor in pieces": Plan((("data", 4), ("tensor", 2)), weights="data", tensor="tensor", ahead=True, micro=2),
}


def trained(net, loss, batch, plan, steps=2):
    state = start(net, OPTIMIZER, KEY, batch[0], plan=plan)
    run = step(net, loss, OPTIMIZER, plan=plan)
    for _ in range(steps):
        state, metrics = run(state, *batch)
        assert metrics["finite"]
    return state, metrics


def near(got, wanted, most=1e-12):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(b.dtype, jnp.floating):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=most, atol=most)


@pytest.fixture(scope="module")
def alone():
    """What one device makes of a case, once."""
    found = {}

    def run(name):
        if name not in found:
            found[name] = trained(*CASES[name], None)
        return found[name]

    return run


def held(tree):
    """Bytes of floating arrays on the first device, and in all."""
    leaves = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]
    return sum(a.addressable_data(0).nbytes for a in leaves), sum(a.nbytes for a in leaves)


TRIED = {
    "weights": [case for case in CASES if case not in ("experts", "sequences", "context")],
    "hybrid": ("lstm", "resnet", "several outputs"),
    "micro": ("lstm", "loss inside", "weighted"),
    "ahead": ("gpt", "loss inside"),
    "tensor": ("mlp", "frozen, reversible"),
    "tensor alone": ("transformer", "rows", "tied", "experts"),
    "tensor in pieces": ("gpt", "transformer"),
    "sequence": ("words", "sequences"),
    "sequence in pieces": ("words",),
    "context": ("words", "context", "masked"),
    "context in pieces": ("context",),
    "tensor and context": ("words", "masked"),
    "tensor, context": ("sequences",),
}


@pytest.mark.parametrize(("plan", "case"), [(plan, case) for plan, cases in TRIED.items() for case in cases])
def test_a_plan_is_one_device(plan, case, alone):
    wanted, metrics = alone(case)
    state, found = trained(*CASES[case], PLANS[plan])
    near((state, found), (wanted, metrics))
    there = {a.sharding.spec for a in jax.tree.leaves(state)}
    assert (len(there) > 1) == bool(PLANS[plan].weights or PLANS[plan].tensor)
    if plan == "weights" and case == "gpt":
        here, all_of_it = held(state)
        assert here <= 1.15 * all_of_it / 8


@pytest.mark.parametrize(
    ("plan", "case", "kind", "name", "lost"),
    [
        ("tensor", "rows", Part, "_down", lambda self, dx: dx),
        ("tensor", "rows", Part, "_added", lambda self, cut, grads: grads),
        ("sequence", "words", Together, "_once", lambda self, cut, grads: grads),
        ("context", "context", AttentionHere, "_first", lambda self, x: 0),
        ("context", "words", Ring, "_on", lambda self, tree: tree),
    ],
)
def test_a_sum_over_parts_that_is_lost_is_seen(plan, case, kind, name, lost, alone, monkeypatch):
    compiled = sys.modules["jbp.train.step"]._compiled
    compiled.cache_clear()
    monkeypatch.setattr(kind, name, lost)
    with pytest.raises(AssertionError):
        test_a_plan_is_one_device(plan, case, alone)
    compiled.cache_clear()


def test_parts_draw_numbers_of_their_own_and_what_is_whole_the_same():
    plan = Plan((("tensor", 4),), tensor="tensor")
    net = Serial(Dense(64), Dropout(0.5), Dense(64), Dropout(0.5))
    x = jnp.ones((2, 64))
    state = start(net, OPTIMIZER, KEY, x, plan=plan)
    ones = {"b": jnp.ones(64), "w": jnp.zeros((64, 64))}
    params = plan.everywhere((ones, state.params[1], {"b": jnp.zeros(64), "w": jnp.eye(64)}, state.params[3]))
    run = jax.jit(plan.value_and_grad(net, MeanSquaredError()))
    (_, aux), _ = run(params, *plan.put(net, (x, x)))
    first = Dropout(0.5).advance(state.params[1], ())["key"].value
    assert (jax.random.key_data(aux.params[1]["key"].value) == jax.random.key_data(first)).all()
    params = (*params[:3], {"key": Buffer(jax.random.key(1))})  # a loss of the last is the same wherever it is made
    seen = np.asarray(run(params, *plan.put(net, (x, x)))[0][1].output).reshape(2, 4, 16)
    assert len({seen[0, k].tobytes() for k in range(4)}) == 4


def test_attention_to_tokens_of_other_devices_sends_keys_and_values_and_drops_by_numbers_of_its_own():
    plan, x = Plan((("context", 8),), sequence="context"), jnp.ones((2, 16, 8))
    net = Serial(MultiHeadAttention(2, groups=1, dropout=0.5))
    state = start(net, OPTIMIZER, KEY, x, plan=plan)
    run = jax.jit(plan.value_and_grad(net, MeanSquaredError()))
    batch = plan.put(net, (x, x))
    text = run.lower(state.params, *batch).compile().as_text()
    one = 2 * 16 * 4 * 8  # bytes of the keys, or the values, of all tokens
    found = done(text)
    assert found["collective-permute"] == 6 * one  # both on each of two ways, and on the second their cotangents
    assert "all-gather" not in found
    (_, aux), _ = run(state.params, *batch)
    rows = np.asarray(aux.output).reshape(2, 8, 2, 8)
    assert len({rows[0, k].tobytes() for k in range(8)}) > 4


def test_a_key_that_no_query_of_any_device_sees_may_hold_anything():
    plan = Plan((("context", 4),), sequence="context")
    x, source = numbers(f(2, 8, 8), f(2, 8, 4))
    mask = jnp.ones((2, 8, 8), jnp.int32).at[:, :, 5].set(0)
    net, far = Serial(MultiHeadAttention(2)), source.at[:, 5].set(jnp.nan)
    batch = {"x": x, "source": far, "mask": mask}, x
    (wanted, _), (got, _) = (trained(net, MeanSquaredError(), batch, how, 1) for how in (None, plan))
    near(got.params, wanted.params)
    seen = {**batch[0], "mask": mask.at[0, 7, 5].set(1)}, x
    for how in (None, plan):
        run = step(net, MeanSquaredError(), OPTIMIZER, plan=how)
        assert not run(start(net, OPTIMIZER, KEY, seen[0], plan=how), *seen)[1]["finite"]


def test_a_table_is_cut_by_its_rows():
    plan, ids = Plan((("data", 2), ("tensor", 4)), tensor="tensor"), jnp.arange(32).reshape(16, 2) % 8
    for padding in (None, 3):
        net = Serial(Embedding(8, 4, padding=padding), LayerNorm(), Take(0), Dense(8))
        wanted, _ = trained(net, LABELS, (ids, T), None)
        state, _ = trained(net, LABELS, (ids, T), plan)
        near(state.params, wanted.params)
        assert state.params[0]["e"].sharding.spec == jax.P("tensor")
        assert {piece.data.shape for piece in state.params[0]["e"].addressable_shards} == {(2, 4)}
    text = jax.jit(plan.value_and_grad(net, LABELS)).lower(state.params, *plan.put(net, (ids, T))).compile().as_text()
    assert not done(text)["all-gather"]
    beyond = jax.jit(plan.value_and_grad(net, LABELS))(state.params, *plan.put(net, (ids + 5, T)))
    assert np.isnan(beyond[0][0])
    with pytest.raises(LayerError, match="an Embedding of as many rows"):  # of nine rows no four parts
        start(Serial(Embedding(9, 4), Take(0), Dense(8)), OPTIMIZER, KEY, ids, plan=plan)


def test_one_sum_each_way_puts_parts_together():
    plan = Plan((("tensor", 8),), tensor="tensor")
    net = Serial(LayerNorm(), Dense(64), Tanh(), Dense(8))
    state = start(net, OPTIMIZER, KEY, X, plan=plan)
    swept = jax.jit(plan.value_and_grad(net, LABELS))
    text = swept.lower(state.params, *plan.put(net, (X, T))).as_text()
    sizes = re.findall(r"all_reduce.*?\) -> \(?tensor<([^>]*)xf64>", text, re.DOTALL)
    assert sorted(sizes) == ["16x8", "16x8", "8"], sizes  # y, dx, and the bias that counts once


SEQUENCE = (("tensor", 2),), None, "tensor"
TIED = Tied(Serial(Dense(8), Tanh(), Dense(8)), (((0, "w"), (2, "w")),))
NOISY = Serial(Dense(8), Dropout(0.5), Dense(8))
X, T = numbers(f(16, 8), i(16, below=8))


def test_every_device_draws_its_own_numbers_and_keys_stay_alike():
    plan = Plan(apart=("BatchNorm",))
    net = Serial(Dropout(0.5), BatchNorm())
    state = start(net, OPTIMIZER, KEY, X, plan=plan)
    ones = jnp.ones_like(X)
    (_, aux), _ = jax.jit(plan.value_and_grad(net, MeanSquaredError()))(state.params, *plan.put(net, (ones, ones)))
    (_, aux), _ = jax.jit(plan.value_and_grad(Dropout(0.5), MeanSquaredError()))(
        state.params[0], *plan.put(net, (ones, ones))
    )
    parts = np.asarray(aux.output).reshape(8, 2, 8)
    assert len({part.tobytes() for part in parts}) == 8
    alone = start(net, OPTIMIZER, KEY, X)
    keys = [
        jax.random.key_data(a)
        for a in (aux.params["key"].value, Dropout(0.5).advance(alone.params[0], ())["key"].value)
    ]
    assert (np.asarray(keys[0]) == np.asarray(keys[1])).all()


def test_matrices_are_gathered_in_the_dtype_of_compute_and_masters_stay():
    net = Serial(Embedding(16, 8), Repeat(BLOCK, 2), Dense(16))
    batch = numbers(i(16, 5, below=16), i(16, 5, below=3))
    wanted = None
    for compute in (None, "bfloat16"):
        plan = Plan(weights="data", compute=compute)
        with jax.enable_x64(False):
            state = start(net, OPTIMIZER, KEY, batch[0], plan=plan)
            run = step(net, LABELS, OPTIMIZER, plan=plan)
            text = run.lower(state, *batch).as_text()
            for _ in range(3):
                state, metrics = run(state, *batch)
        gathers = [line for line in text.splitlines() if "all_gather" in line and "->" in line]
        gathers = gathers or [line for line in text.splitlines() if "all_gather" in line]
        assert any("bf16" in line for line in gathers) == (compute is not None), gathers[:3]
        assert {a.dtype for a in jax.tree.leaves(trainable(state.params))} == {jnp.dtype("float32")}
        wanted = metrics["loss"] if wanted is None else wanted
        np.testing.assert_allclose(metrics["loss"], wanted, rtol=0.01)


def test_fit_on_a_plan_measures_diverges_and_reads_now_and_then():
    plan = Plan(weights="data", micro=2)
    batches = [(X, T)] * 4
    batches[2] = (X.at[3].set(jnp.inf), T)
    net, loss = Serial(Dense(8), Tanh(), Dense(8)), LABELS
    state = start(net, OPTIMIZER, KEY, X, plan=plan)

    for reads in (1, 10):
        with pytest.raises(Diverged, match=r"batch\[0\] held NaN or Inf") as caught:
            fit(net, loss, OPTIMIZER, jax.tree.map(jnp.copy, state), batches, plan=plan, reads=reads, right=accuracy)
        assert [row["step"] for row in caught.value.history] == [1, 2]
        assert caught.value.step == 3
    wanted, history = fit(net, loss, OPTIMIZER, start(net, OPTIMIZER, KEY, X), batches[:2], right=accuracy)
    near(caught.value.state, wanted)
    assert [row["right"] for row in caught.value.history] == pytest.approx([row["right"] for row in history], abs=1e-6)


def test_a_given_start_is_spread_and_a_state_of_one_device_too():
    plan = Plan(weights="data")
    net = Serial(Dense(8), Dense(8))
    first = start(net, OPTIMIZER, KEY, X)
    given = start(net, OPTIMIZER, KEY, X, params=(first.params[0], None), plan=plan)
    near(given, first)
    assert {a.sharding.spec for a in jax.tree.leaves(given.params)} == {jax.P("data"), jax.P(None, "data")}
    run = step(net, LABELS, OPTIMIZER, plan=plan)
    moved, _ = run(first, X, T)
    again, _ = run(given, X, T)
    near(moved, again)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Plan(weights="model"), r"got weights='model' with the axes data; expected one of them"),
        (lambda: Plan((("a", 2), ("a", 4))), "expected other names"),
        (lambda: Plan(tensor="model"), r"got tensor='model' with the axes data; expected one of them"),
        (lambda: Plan(weights="data", tensor="data"), "expected two axes"),
        (lambda: Plan(sequence="context"), "got sequence='context' with the axes data; expected one of them"),
        (
            lambda: trained(Serial(Dense(8), Dense(8)), LABELS, (X, T), Plan(*SEQUENCE, sequence="tensor")),
            r"expected arrays \(batch, tokens, ...\)",
        ),
        (
            lambda: trained(
                Serial(Dense(8), Dense(8), Take(0)),
                LABELS,
                (X.reshape(4, 4, 8), T[:4]),
                Plan(*SEQUENCE, sequence="tensor"),
            ),
            "Take.*expected tokens on the second axis",
        ),
        (
            lambda: trained(
                Serial(Dense(8), Dense(1), Squeeze(), UnitNorm()),
                MeanSquaredError(),
                (X.reshape(4, 4, 8), X[:4, :4]),
                Plan(*SEQUENCE, sequence="tensor"),
            ),
            r"UnitNorm.*expected \(batch, tokens, features\)",
        ),
        (
            lambda: trained(TIED, LABELS, (X, T), Plan((("t", 2),), tensor="t")),
            "got no layers with 2 parts",
        ),
        (
            lambda: trained(Serial(Dense(8)), LABELS, (X, T), Plan((("t", 2),), tensor="t")),
            "got no layers with 2 parts; expected attention",
        ),
        (lambda: Plan((("data", 16),)).on(), "got a mesh of 16 devices; expected at most the 8 that are here"),
        (lambda: trained(Serial(Dense(8)), LABELS, (X[:12], T[:12]), Plan()), "got a batch of 12 for 8 devices"),
        (lambda: trained(Serial(Dense(8)), LABELS, (X, T), Plan(micro=4)), "expected a multiple of 32"),
        (
            lambda: trained(Serial(Dense(8)), Weighted(LABELS), (X, T, T[:8]), Plan()),
            "arrays that begin with the batch",
        ),
        (
            lambda: trained(Serial(Dense(3)), LABELS, (X[:, :5], T), Plan(weights="data")),
            "none has an axis",
        ),
        (
            lambda: trained(Serial(BatchNorm()), LABELS, (X, T), Plan((("d", 1),), micro=2)),
            "the statistics of the batch",
        ),
        (
            lambda: trained(Serial(LogSoftmax(axis=0)), LABELS, (X, T), Plan()),
            "LogSoftmax.*of which it mixes or moves the first axis",
        ),
        (lambda: trained(Serial(Identity()), Sum(MeanSquaredError()), (X, X), Plan()), "Sum.*adds up the terms"),
        (
            lambda: trained(Identity(), InfoNCE(), (X, X), Plan()),
            r"in 8 parts.*apart=\('InfoNCE',\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
    with pytest.raises(LayerError, match=says):
        make()


def test_each_loss_of_a_total_counts_over_all_devices(alone):
    _, wanted = alone("several outputs")
    _, found = trained(*CASES["several outputs"], Plan(apart=("Total",)))  # the mean of the devices' means instead
    assert abs(found["loss"] - wanted["loss"]) > 1e-3


def test_what_may_be_apart_is_let_be():
    _, metrics = trained(Serial(Dense(8)), InfoNCE(), (X, X), Plan(apart=("InfoNCE",)), 1)
    assert metrics["loss"] < np.log(2) * 20


def moved(plan):
    """How many numbers each collective of a step gives, as compiled, and how many parameters there are."""
    net = Serial(Dense(16), Tanh(), Repeat(Serial(Dense(16), Tanh()), 3), Dense(8))
    state = start(net, OPTIMIZER, KEY, X, plan=plan)
    text = step(net, LABELS, OPTIMIZER, plan=plan).lower(state, X, T).compile().as_text()
    text = re.sub(r"/\*.*?\*/", "", text)
    found = dict.fromkeys(("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"), 0)
    for kinds, name in re.findall(r"= (\(?[^=]*?\)?) ([a-z-]+?)(?:-start)?\(", text):
        if name in found:
            found[name] += sum(
                math.prod(map(int, n.split(","))) if n else 1 for n in re.findall(r"\[([\d,]*)\]", kinds)
            )
    return found, sum(a.size for a in jax.tree.leaves(state.params))


def test_weights_are_gathered_twice_at_most_and_gradients_scattered_where_they_are_made():
    found, size = moved(Plan(weights="data"))
    one = 16 * 16 + 16  # of the three times, which a loop takes one after the other
    inside = size - 2 * one
    assert found["all-gather"] == inside + 16 * 16 + 16 * 8  # again in the backward pass, but where no dx is asked for
    assert found["reduce-scatter"] == inside // 8
    assert found["all-reduce"] < 50  # loss, count, norms and whether all is well: no gradient
    assert not found["all-to-all"] + found["collective-permute"]


def test_what_a_program_does_is_read_from_its_text():
    """Twice a product and a gather outside of a loop, three times inside of one, and one sum."""

    def here(w, x):
        def whole(w):
            return jax.lax.all_gather(w, "data", axis=1, tiled=True)

        y = jax.lax.scan(lambda x, _: (jnp.tanh(x @ whole(w + x.sum())), None), x, length=3)[0]
        return jax.lax.psum(y @ whole(w), "data")

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = jax.P(None, "data"), jax.P()
    run = jax.jit(jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=jax.P(), check_vma=False))
    text = run.lower(jnp.ones((16, 16), "float32"), jnp.ones((4, 16), "float32")).compile().as_text()
    found = done(text)
    assert found.pop("elements") >= 3 * 4 * 16  # of the tanh, and what the compiler adds
    assert found == {"flops": 4 * 2 * 4 * 16 * 16, "all-gather": 4 * 16 * 16 * 4, "all-reduce": 4 * 16 * 4}
    conv = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 2), ((1, 1), (0, 1)), (1, 2)))
    text = conv.lower(jnp.ones((2, 3, 5, 6), "float32"), jnp.ones((4, 3, 3, 2), "float32")).compile().as_text()
    assert done(text)["flops"] == 2 * 2 * 4 * 3 * _pairs(5, 3, 1, 1, 1, 5) * _pairs(6, 2, 2, 2, 0, 6)


def _pairs(n, k, stride, dilation, low, outs):
    """Numbers inside of all windows, counted one after the other."""
    at = [o * stride + j - low for o in range(outs) for j in range(k)]
    return sum(0 <= p <= dilation * (n - 1) and p % dilation == 0 for p in at)


def test_gradients_of_micro_batches_are_summed_over_devices_once():
    plan = (("data", 4),)
    (once, size), (often, _) = moved(Plan(plan)), moved(Plan(plan, micro=4))
    assert once == often
    assert size <= once["all-reduce"] < size + 50


def test_the_users_own_mesh_does_not_matter():
    """That of `jax.make_mesh` has explicit axes, on which most layers refuse to run."""
    plan, net = Plan(weights="data"), Serial(Dense(8), Tanh(), Dense(8))
    wanted, rows = fit(net, LABELS, OPTIMIZER, start(net, OPTIMIZER, KEY, X, plan=plan), [(X, T)] * 2, plan=plan)
    with jax.set_mesh(jax.make_mesh((2, 4), ("a", "b"))):
        x, key = jax.device_put(X, jax.P("a")), jax.random.key(0)
        state = start(net, OPTIMIZER, key, x, plan=plan)
        state, history = fit(net, LABELS, OPTIMIZER, state, [(x, T)] * 2, plan=plan)
    near(state, wanted, 0)
    assert history == rows


PRIVATE = {"mlp": {"noise": 1.0}, "gpt": {"noise": 0.7, "micro": 2, "padded": True}}


def privately(name, plan, data):
    net, loss, _ = CASES[name]
    state = start(net, OPTIMIZER, KEY, data[0], plan=plan)
    how = Private(clip=0.1, batch=16, **PRIVATE[name])
    return fit(net, loss, OPTIMIZER, state, [data] * 2, sweep=how, plan=plan, mean=lambda y, *_: y.mean())


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_step_is_that_of_one_device_with_noise_once(name):
    batch = CASES[name][2]
    there = (jnp.arange(16) % 5 > 0,) * ("padded" in PRIVATE[name])
    data = (*batch, *there)
    plan = Plan() if name == "mlp" else Plan(HALVES)
    (got, told), (wanted, history) = (privately(name, plan, data) for plan in (plan, None))
    near(got.params, wanted.params)
    near(*(np.array([[row["loss"], row["mean"]] for row in rows]) for rows in (told, history)))


def test_sums_of_one_device_alone_are_seen(monkeypatch):
    monkeypatch.setattr("jax.lax.psum", lambda sums, names: sums)
    with pytest.raises(AssertionError):
        test_a_private_step_is_that_of_one_device_with_noise_once("mlp")


def test_plans_and_sweeps_that_do_not_go_together_are_refused():
    net, loss, batch = CASES["mlp"]
    with pytest.raises(LayerError, match=r"expected one that spreads the batch alone.*micro= in the sweep"):
        step(net, loss, OPTIMIZER, plan=Plan(weights="data"), sweep=Private(1.0, 1.0, 16))
    with pytest.raises(LayerError, match="a sweep that can be spread"):
        step(net, loss, OPTIMIZER, plan=Plan(), sweep=Factored())
    with pytest.raises(LayerError, match="a multiple of 8"):
        privately("mlp", Plan(), jax.tree.map(lambda a: a[:12], batch))
