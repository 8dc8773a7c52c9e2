"""Pipelines on eight virtual devices beside one: run by tests/test_scale.py in a process of its own."""

from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import draw, parameters

from benchmarks import pipeline
from jbp import Frozen, Parallel, Passing, Remat, Repeat, Residual, Reversible, Serial, Tied, recipes, value_and_grad
from jbp.cases import f, i
from jbp.layers import Add, BatchNorm, Dense, Dropout, Embedding, Identity, LayerNorm, Logits, Select, SiLU, Tanh
from jbp.losses import LinearCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from jbp.pipeline import Pipeline
from jbp.pipeline.stage import Stage, instructions
from jbp.train import Plan, accuracy, fit, start, step

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs with collectives starve each other on 2 cores
LABELS = SoftmaxCrossEntropy(ignore=0)  # of so unequal many in each micro-batch that a mean of means is wrong
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2, eps=1e-3))
X, T = draw(f(16, 3), 0), draw(i(16, below=5), 1)
BLOCK = Residual(Serial(Dense(4), Tanh()))
MLP = Serial(Dense(4), Repeat(BLOCK, 8), Tanh(), Dense(5))
GPT = recipes.gpt(16, 5, 8, 8, 2)
TIED = Tied(Serial(Embedding(16, 8), Repeat(Residual(Dense(8)), 8), Logits(16)), (((0, "e"), (2, "e")),))
WORDS, NEXT = draw(i(16, 5, below=16), 0), draw(i(16, 5, below=3), 1)


def along(*sizes, names=("stage", "data")):
    return tuple(zip(names, sizes, strict=False))


def near(got, wanted, most=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(b.dtype, jnp.floating):
            scale = max(1e-3, float(jnp.abs(b).max()))
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=most * scale, err_msg=str(path))


@lru_cache
def alone(net):
    """(batch, parameters, loss, output, gradient) on one device."""
    batch = (WORDS, NEXT) if net == GPT else (X, T)
    params = parameters(net, batch[0])
    (value, aux), grads = jax.jit(value_and_grad(net, LABELS, has_aux=True))(params, *batch)
    return batch, params, (value, aux.output, grads)


def both(net, plan):
    """(loss, output, gradient) by the plan and by one device."""
    batch, params, wanted = alone(net)
    (value, aux), grads = jax.jit(plan.value_and_grad(net, LABELS))(params, *plan.put(net, batch))
    return (value, aux.output, grads), wanted


@pytest.mark.parametrize(
    ("name", "mesh", "micro"),
    [("GPipe", along(4), 4), ("1F1B", along(2, 4), 4), ("ZB-H1", along(8), 2), ("ZB-V", along(4, 2), 8)],
)
def test_every_schedule_is_one_device(name, mesh, micro):
    near(*both(MLP, Pipeline(mesh, micro=micro, schedule=name)))


@pytest.mark.parametrize(("name", "mesh"), [("1F1B", along(2)), ("ZB-H1", along(8)), ("ZB-V", along(4, 2))])
def test_embeddings_tied_to_logits_are_summed_once(name, mesh):
    near(*both(GPT, Pipeline(mesh, micro=4, schedule=name)))


@pytest.mark.parametrize(("name", "weights"), [("ZB-H1", None), ("ZB-V", "data")])
def test_stages_of_parts(name, weights):
    mesh = (("data", 2), ("stage", 2), ("tensor", 2))
    near(*both(GPT, Pipeline(mesh, micro=4, schedule=name, tensor="tensor", weights=weights)))


@pytest.mark.parametrize(
    "plan",
    [
        Pipeline(
            (("data", 2), ("stage", 2), ("tensor", 2)), micro=4, tensor="tensor", sequence="tensor", weights="data"
        ),
        Pipeline((("stage", 2), ("tokens", 2)), micro=4, sequence="tokens"),
    ],
)
def test_stages_of_parts_of_sequences(plan):
    net, batch = recipes.gpt(16, 4, 8, 4, 2), (WORDS[:, :4], NEXT[:, :4])
    params = parameters(net, batch[0])
    (value, aux), grads = jax.jit(plan.value_and_grad(net, LABELS))(params, *plan.put(net, batch))
    (wanted, more), down = jax.jit(value_and_grad(net, LABELS, has_aux=True))(params, *batch)
    near((value, aux.output, grads), (wanted, more.output, down))


def trained(net, loss, batch, plan, steps=2):
    state = start(net, OPTIMIZER, jax.random.key(0), batch[0], plan=plan)
    run = step(net, loss, OPTIMIZER, plan=plan)
    for _ in range(steps):
        state, metrics = run(state, *batch)
    return state, metrics


@pytest.mark.parametrize("seed", range(2))
def test_random_blocks(seed):
    """Blocks and ends drawn at random."""
    rng = np.random.default_rng(seed)

    def some(depth=2):
        kinds = [
            lambda: Dense(4), Tanh, SiLU, lambda: Residual(Serial(LayerNorm(), Dense(4))), lambda: Repeat(some(1), 2),
            lambda: Remat(Serial(Dense(4), Tanh())), lambda: Reversible(Dense(2), Tanh(), times=2),
        ]  # fmt: skip
        return Serial(
            *(rng.choice(np.array(kinds[: 4 + 3 * (depth > 1)], object))() for _ in range(rng.integers(1, 4)))
        )

    name, stages = [("ZB-V", 3), ("1F1B", 4)][seed]
    net = Serial(Dense(4), Serial(some(), Repeat(Residual(some()), 12), some()), Dense(5))
    near(*both(net, Pipeline(along(stages), micro=int(rng.choice([4, 8])), schedule=name)))


DROPS = Residual(Serial(Dense(4), Tanh(), Dropout(0.5)))
NOISY = Serial(Dropout(0.2), Dense(4), Repeat(DROPS, 4), Dropout(0.1), Dense(5))


def test_noise_and_keys_are_those_of_micro_batches_on_one_device():
    wanted = trained(NOISY, LABELS, (X, T), Plan(along(1, names=("data",)), micro=4))
    found = trained(NOISY, LABELS, (X, T), Pipeline(along(2), micro=4, schedule="ZB-V"))
    near(found, wanted)
    for a, b in zip(jax.tree.leaves(found[0].params), jax.tree.leaves(wanted[0].params), strict=True):
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            assert (np.asarray(jax.random.key_data(a)) == np.asarray(jax.random.key_data(b))).all()


FROZEN = Frozen(Serial(body=Serial(Dense(4), Repeat(BLOCK, 2)), last=Dense(5)), ("1/0/w", "last/b"))
INSIDE = Serial(  # labels pass by, and the network ends in its loss
    Parallel(Embedding(16, 8), Identity()),
    Repeat(Passing(Serial(Select(0), Residual(Dense(8)))), 4),
    LinearCrossEntropy(16, 3, ignore=1),
)
PIECES = Pipeline(along(2, 4), micro=2, weights="data")
OTHERS = {
    "frozen": (FROZEN, LABELS, (X, T), Pipeline(along(2), micro=4), None),
    "loss inside": (INSIDE, Add(), ((WORDS, NEXT),), Pipeline(along(2, 2), micro=4, schedule="ZB-V"), None),
    "no ends": (Serial(Repeat(Residual(Dense(3)), 2)), MeanSquaredError(), (X, X), Pipeline(along(2), micro=2), None),
    "pieces": (TIED, LABELS, (WORDS, NEXT), PIECES, None),
    "ends in pieces": (TIED, LABELS, (WORDS, NEXT), Pipeline(along(4), micro=2, weights="stage"), None),
    "pieces ahead": (MLP, LABELS, (X, T), replace(PIECES, ahead=True, schedule="ZB-V"), None),
    "norms": (
        Serial(Dense(4), Repeat(Residual(Serial(Dense(4), BatchNorm())), 2), Dense(5)), LABELS, (X, T),
        Pipeline(along(2), micro=4, apart=("BatchNorm",)),
        Plan(along(1, names=("data",)), micro=4, apart=("BatchNorm",)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_a_plan_has(name):
    net, loss, batch, plan, other = OTHERS[name]
    found = trained(net, loss, batch, plan)
    near(found, trained(net, loss, batch, other))
    if plan.weights:  # nothing is whole anywhere but what no axis divides
        assert not [a.shape for a in jax.tree.leaves(found[0].params) if a.is_fully_replicated and a.shape[0] > 5]


def test_each_stage_holds_its_own_and_fit_goes_on_with_it():
    plan, batches = Pipeline(along(4, 2), micro=4), [(WORDS, NEXT)] * 2
    state = start(TIED, OPTIMIZER, jax.random.key(0), WORDS, plan=plan)
    state, history = fit(TIED, LABELS, OPTIMIZER, state, batches, plan=plan, right=accuracy)
    wanted = start(TIED, OPTIMIZER, jax.random.key(0), WORDS)
    wanted, rows = fit(TIED, LABELS, OPTIMIZER, wanted, batches, right=accuracy)
    near(state, wanted)
    assert [row["right"] for row in history] == pytest.approx([row["right"] for row in rows])
    for tree in (state.params, state.optimizer[1][0].mu):
        for a in jax.tree.leaves(tree[1]):
            assert a.addressable_data(0).shape == (2, *a.shape[1:])


def test_in_bfloat16_masters_stay():
    with jax.enable_x64(False):
        found = [
            trained(TIED, LABELS, (WORDS, NEXT), Pipeline(along(2), micro=2, compute=c)) for c in (None, "bfloat16")
        ]
    assert {a.dtype for a in jax.tree.leaves(found[1][0].params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found[1][1]["loss"], found[0][1]["loss"], rtol=0.01)


def w_twice(patch):
    right = Stage._gradient

    def twice(self, given, params, *held):
        return right(self, given, params, *right(self, given, params, *held)[1:])

    patch.setattr(Stage, "_gradient", twice)


def ties_twice(patch):
    patch.setattr(Tied, "_whole", lambda self, grads: self._own(grads, lambda part: None, lambda a, b: a + 2 * b))


def stale(patch):
    right = instructions

    def wrong(table):
        columns, room = right(table)
        return columns | {"deltas": 0 * columns["deltas"]}, room

    patch.setattr("jbp.pipeline.stage.instructions", wrong)


def mean_of_means(patch):
    patch.setattr("jbp.train.plan.counted", lambda *_: 1)


@pytest.mark.parametrize("plant", [None, w_twice, ties_twice, stale, mean_of_means])
def test_a_planted_fault_is_seen(plant, monkeypatch):
    net, plan = (
        Tied(Serial(Dense(3), Repeat(Dense(3), 2), Dense(3)), (((0, "w"), (2, "w")),)),
        Pipeline(along(2), micro=4),
    )
    params, target = parameters(net, X), T % 3
    wanted = value_and_grad(net, LABELS)(params, X, target)
    if plant:
        plant(monkeypatch)
    (value, _), grads = jax.jit(plan.value_and_grad(net, LABELS))(params, X, target)
    with pytest.raises(AssertionError) if plant else nullcontext():
        near((value, grads), wanted)


def collectives(jaxpr, around=()):
    """(name, the primitives around it) of each collective in a program."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in ("ppermute", "all_gather", "reduce_scatter") or name.startswith("psum"):
            yield name, around
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from collectives(inner, (*around, name))


def test_neighbours_talk_twice_a_tick_and_never_within_a_branch():
    params = MLP.init(jax.random.key(0), X)
    found = jax.make_jaxpr(Pipeline(along(4), micro=4).value_and_grad(MLP, LABELS, False))(params, X, T)
    found = list(collectives(found.jaxpr))
    assert [around[-1] for name, around in found if name == "ppermute"] == ["scan"] * 2
    assert not [around for _, around in found if "cond" in around]


@pytest.mark.usefixtures("optimized", "lenient")
def test_b_and_w_are_a_forward_pass_each_and_memory_is_that_of_the_table():
    _, net, x, target = next(pipeline.networks())
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    found = pipeline.flops(net, params, x)
    assert [found[kind] for kind in "FBW"] == pytest.approx([1, 1, 1], abs=0.01)
    plan, run, given = pipeline.program(net, "1F1B", x, target)
    temporary = jax.jit(run).lower(*given).compile().memory_analysis().temp_size_in_bytes / 2**20
    assert temporary < 1.5 * pipeline.room(net, plan, params, x)
