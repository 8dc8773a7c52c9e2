"""Parts of a network by their paths: frozen, labelled, adapted, begun with; and training that ends at its best."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_near, audit, draw

import jbp
from jbp import (
    Buffer,
    Frozen,
    Graph,
    LayerError,
    LowRankAdapter,
    Repeat,
    Serial,
    buffers,
    recipes,
    trainable,
    value_and_grad,
)
from jbp.cases import f
from jbp.catalogue import NAMES
from jbp.errors import TreeError
from jbp.layers import BatchNorm, Dense, Dropout, MultiHeadAttention, Tanh
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy, Total
from jbp.params import fits
from jbp.train import average, averaged, fit, inside, start, step

KEY, LOSS = jax.random.key(0), MeanSquaredError()
X, T = draw(f(6, 4), dtype="float32"), jnp.ones((6, 2), "float32")
NET = Serial(body=Serial(Dense(5), BatchNorm(), Tanh()), head=Dense(2))


@pytest.mark.parametrize(
    ("path", "pattern", "wanted"),
    [
        ("body/0/w", "w", True),
        ("body/0/w", "body", True),
        ("body/0/w", "0/w", True),
        ("body/0/w", "body/w", False),
        ("body/0/w", "b*", True),
        ("body/0/w", "body/*/w", True),
        ("body/0/w", "/0", False),
        ("0/0/w", "/0", True),
        ("body/0/w", "/body/0", True),
        ("body/0/w", "bod", False),
        ("w", "body/0/w", False),
    ],
)
def test_a_pattern_fits_the_end_of_a_path_or_of_what_is_around(path, pattern, wanted):
    assert fits(tuple(path.split("/")), pattern) is wanted


def test_a_frozen_part_is_no_parameter_and_all_else_has_its_gradient():
    net, params = jbp.freeze(NET, NET.init(KEY, X), ("body/0", "b"))
    assert net == Frozen(NET, ("body/0", "b"))
    assert eval(repr(net), NAMES) == net
    (_, aux), grads = value_and_grad(net, LOSS, has_aux=True)(params, X, T)
    (_, whole), theirs = value_and_grad(NET, LOSS, has_aux=True)(net.merge(params), X, T)
    wanted = {
        "body": ({"w": None, "b": None}, theirs["body"][1] | {"b": None}, ()),
        "head": theirs["head"] | {"b": None},
    }
    assert_near(grads, {"frozen": None, "trained": wanted}, 1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(trainable(params))
    assert_near(net.merge(aux.params), whole.params, 1e-6)  # the statistics moved on
    again, more = jbp.freeze(net, params, "head/w")
    assert again == Frozen(NET, ("body/0", "b", "head/w"))
    assert_near(again.merge(more), net.merge(params), 0)


@pytest.mark.parametrize("inner", [Serial(Dense(4), Dropout(0.3)), Repeat(Dense(4), 2)], ids=repr)
def test_a_frozen_path_keeps_the_laws(inner):
    audit(Serial(Dense(4), Frozen(inner, ("w",)), Dense(2)), draw(f(3, 5)))


def test_frozen_by_a_predicate_and_what_fits_nothing():
    params = NET.init(KEY, X)
    net, _ = jbp.freeze(NET, params, lambda path, w: w.ndim == 2)
    assert net.paths == ("/body/0/w", "/head/w")
    with pytest.raises(LayerError, match=r"got the path 'tail', which fits nothing in .*; expected the end"):
        jbp.freeze(NET, params, "tail")
    with pytest.raises(LayerError, match=r"expected a dict with 'frozen' and 'trained'\. Make them"):
        net.forward(params, X)


def test_rates_by_part():
    params = trainable(NET.init(KEY, X))
    found = jbp.labels(params, {"b": "none", "body": "slow"}, "fast")
    assert found["body"][0] == {"w": "slow", "b": "none"}
    assert found["body"][1] == dict.fromkeys(params["body"][1]) | {
        "g": "slow",
        "b": "none",
    }
    assert found["head"] == {"w": "fast", "b": "none"}
    optimizer = optax.multi_transform(
        {"none": optax.set_to_zero(), "slow": optax.sgd(0.01), "fast": optax.sgd(1.0)},
        lambda params: jbp.labels(params, {"b": "none", "body": "slow"}, "fast"),
    )
    state = start(NET, optimizer, KEY, X)
    before = jax.tree.map(np.asarray, trainable(state.params))
    grads = value_and_grad(NET, LOSS, has_aux=True)(state.params, X, T)[1]
    after = trainable(step(NET, LOSS, optimizer)(state, X, T)[0].params)
    assert_near(after["body"][0]["w"], before["body"][0]["w"] - 0.01 * grads["body"][0]["w"], 1e-6)
    assert_near(after["head"]["w"], before["head"]["w"] - grads["head"]["w"], 1e-6)
    np.testing.assert_array_equal(after["head"]["b"], before["head"]["b"])
    with pytest.raises(TreeError, match=r"got the pattern 'boby', which fits nothing that is trained.* body/0/w"):
        jbp.labels(params, {"boby": 1}, 2)
    with pytest.raises(TreeError, match="got no pattern for head/b; expected one"):
        jbp.labels(params, {"body": 1, "head/w": 2})


def test_adapters_over_several_places_by_path():
    net = Serial(one=MultiHeadAttention(2), two=Repeat(MultiHeadAttention(2), 2), three=Dense(3))
    x = draw(f(2, 3, 4), dtype="float32")
    params = LowRankAdapter(net, ("/two/q", "three/w", "one/[kv]"), 1).init(KEY, x)
    assert set(params["adapters"]) == {"one/k", "one/v", "two/q", "three/w"}


def test_training_starts_from_what_is_given_and_draws_the_rest():
    optimizer = optax.sgd(0.1)
    old = start(NET, optimizer, jax.random.key(7), X).params
    state = start(NET, optimizer, KEY, X, params={"body": old["body"], "head": None})
    assert_near(state.params["body"], old["body"], 0)
    assert_near(state.params["head"], NET.init(KEY, X)["head"], 0)
    step(NET, LOSS, optimizer)(state, X, T)
    assert not old["body"][0]["w"].is_deleted()
    for wrong in ({"body": old["body"]}, old | {"head": {"w": jnp.ones((5, 3)), "b": None}}, (1, 2)):
        with pytest.raises(TreeError, match="start: got "):
            start(NET, optimizer, KEY, X, params=wrong)
    clipped = inside.start(NET, optimizer, KEY, X, params=old)
    assert_near(clipped.params, old, 0)


def test_training_ends_when_patience_does_and_gives_its_best():
    net, optimizer = Serial(Dense(1)), optax.sgd(1.0)
    x, t = jnp.ones((2, 1), "float32"), jnp.zeros((2, 1), "float32")
    state = start(net, optimizer, KEY, x)  # at this rate it leaps to and fro, and away
    batches = itertools.repeat((x, t))
    looks = iter([3.0, 1.0, 2.0, 1.5, 0.0])
    seen = []

    def check(params):
        seen.append(params)
        return {"error": next(looks)}

    state, history = fit(
        net, LOSS, optimizer, state, batches, steps=50, every=2, check=check, best=lambda row: -row["error"], patience=2
    )
    assert len(history) == 8
    assert int(state.steps) == 4
    assert_near(state.params, seen[1], 0)


def test_validation_is_the_loss_of_all_batches_together():
    net = Graph(kind=(Dense(3), "x"), size=(Dense(1), "x"), outputs=("kind", "size"))
    loss = Total(kind=(SoftmaxCrossEntropy(ignore=0), 2.0), size=MeanSquaredError())
    target = {"kind": jnp.array([0, 0, 0, 1, 2, 1]), "size": X[:, :1]}
    held = [jax.tree.map(lambda v, part=part: v[part], (X, target)) for part in (slice(0, 4), slice(4, 6))]
    state = start(net, optax.sgd(0.0), KEY, X)
    state, history = fit(net, loss, optax.sgd(0.0), state, [(X, target)], every=1, validation=held)
    np.testing.assert_allclose(history[-1]["validation loss"], loss((), (net(state.params, X), target)), rtol=1e-6)


def test_validation_is_of_the_network_that_training_leaves():
    net, optimizer = Serial(Dense(3), Dropout(0.9), Dense(1)), optax.sgd(1e-2)
    held = [(X[:4], T[:4, :1]), (X[4:], T[4:, :1])]
    state = start(net, optimizer, KEY, X)
    state, history = fit(
        net, LOSS, optimizer, state, [(X, T[:, :1])] * 4, every=2, validation=held, bias=lambda y, t: (y - t).mean()
    )
    y = net.evaluation()(state.params, X)
    np.testing.assert_allclose(history[-1]["validation loss"], np.mean((y - T[:, :1]) ** 2), rtol=1e-5)
    np.testing.assert_allclose(history[-1]["validation bias"], np.mean(y - T[:, :1]), rtol=1e-5)
    assert ["validation loss" in row for row in history] == [False, True, False, True]
    with pytest.raises(LayerError, match=r"got patience without every; expected both\. Write every="):
        fit(net, LOSS, optimizer, state, held, patience=2)
    with pytest.raises(LayerError, match=r"from best\(row\); expected a number, more being better\. Write"):
        fit(net, LOSS, optimizer, state, held, best=lambda row: row["accuracy"])


def test_the_mean_of_the_parameters():
    optimizer = averaged(optax.sgd(0.1), decay=0.5)
    state, run, seen = start(NET, optimizer, KEY, X), step(NET, LOSS, optimizer), []
    for _ in range(4):
        state, _ = run(state, X, T)
        seen.append(np.asarray(state.params["head"]["w"]))
    first = (seen[0] + seen[1]) / 2
    wanted = 0.5 * (0.5 * first + 0.5 * seen[2]) + 0.5 * seen[3]
    found = average(state)
    np.testing.assert_allclose(found["head"]["w"], wanted, rtol=1e-5)
    assert_near(buffers(found), buffers(state.params), 0)
    with pytest.raises(TreeError, match="got a state without a mean"):
        average(start(NET, optax.sgd(0.1), KEY, X))
    with pytest.raises(ValueError, match="got decay=1; expected"):
        averaged(optax.sgd(0.1), 1)


def test_gradients_of_several_batches_are_one_step():
    net, slow = Serial(Dense(2)), optax.MultiSteps(optax.sgd(0.1), 2)
    state = start(net, slow, KEY, X)
    whole, _ = step(net, LOSS, optax.sgd(0.1))(start(net, optax.sgd(0.1), KEY, X), X, T)
    run = step(net, LOSS, slow)
    for part in (slice(3), slice(3, 6)):
        state, _ = run(state, X[part], T[part])
    assert_near(state.params, whole.params, 1e-6)


def test_a_frozen_recipe_trains_its_head():
    net = recipes.mlp()
    x = draw(f(3, 5), dtype="float32")
    params = net.init(KEY, x)
    last = str(len(net) - 1)
    frozen, held = jbp.freeze(net, params, lambda path, _: not path.startswith(last))
    assert {path.split("/")[0] for path in frozen.paths} == {""}
    leaves = jax.tree.leaves(trainable(held))
    assert [leaf.shape for leaf in leaves] == [leaf.shape for leaf in jax.tree.leaves(params[-1])]
    assert isinstance(held["frozen"], Buffer)


def test_a_head_for_another_task():
    net, params = jbp.replace(NET, NET.init(KEY, X), "head", Dense(7))
    assert net == Serial(body=NET["body"], head=Dense(7))
    assert params["head"] is None
    state = start(net, optax.sgd(0.1), KEY, X, params=params)
    assert state.params["head"]["w"].shape == (5, 7)
    np.testing.assert_array_equal(state.params["body"][0]["w"], params["body"][0]["w"])


def test_layers_are_replaced_wherever_the_pattern_fits_and_move_with_their_parameters():
    net = Serial(
        one=jbp.Remat(jbp.Residual(Serial(norm=jbp.layers.LayerNorm(), map=Dense(4)))),
        two=jbp.Graph(norm=(jbp.layers.LayerNorm(), "x"), sum=(jbp.layers.Add(), "norm", "x")),
        three=Frozen(Serial(norm=jbp.layers.LayerNorm())),
        four=jbp.Reversible(Dense(2), Tanh()),
    )
    params = net.init(KEY, X)
    other, changed = jbp.replace(net, params, "norm", jbp.layers.RMSNorm(), {"g": jnp.ones(4, "float32")})
    assert repr(other).count("RMSNorm()") == 3
    assert "LayerNorm" not in repr(other)
    np.testing.assert_array_equal(changed["one"]["map"]["w"], params["one"]["map"]["w"])
    assert other(changed, X).shape == (6, 4)
    moved, taken = jbp.replace(net, params, "/four/0", Dense(4), params["one"]["map"])
    assert moved["four"].layers == (Dense(4), Tanh())
    assert taken["four"][0] is params["one"]["map"]
    shapes, nothing = jbp.replace(net, None, "one/norm", Tanh())
    assert (repr(shapes).count("LayerNorm"), nothing["one"]["map"]) == (2, None)


def test_a_place_that_is_not_there():
    params = NET.init(KEY, X)
    known = r"body, body/0, body/1, body/2, head\. What is in an adapter"
    with pytest.raises(
        LayerError, match=rf"got the path 'tail', at which there .* expected the end of one of: {known}"
    ):
        jbp.replace(NET, params, "tail", Dense(1))
    held, frozen = jbp.freeze(NET, params, "body")
    with pytest.raises(LayerError, match=r"expected the end of one of: none\. What is in an adapter or frozen begins"):
        jbp.replace(held, frozen, "head", Dense(1))
    with pytest.raises(LayerError, match=r"got layer=<class .*expected a layer\. Write Dense\(5\), say"):
        jbp.replace(NET, params, "head", Dense)
