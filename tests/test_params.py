"""One tree of parameters: what is trained, what is not, and what optimizers, jit and pickles see of it."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbp import Buffer, Frozen, Repeat, Serial, apply_updates, buffers, cast, merge, trainable
from jbp.errors import TreeError
from jbp.layers import BatchNorm, Dense, Dropout

NET = Serial(Dense(3), Dropout(0.5), BatchNorm(), Repeat(Frozen(Dense(3)), 2), Dense(1))
PARAMS = NET.init(jax.random.key(0), jnp.ones((2, 4), jnp.float32))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_what_is_trained_and_what_is_not_make_the_whole():
    first, second = trainable(PARAMS), buffers(PARAMS)
    same(merge(first, second), PARAMS)
    same(merge(second, first), PARAMS)
    assert not any(isinstance(v, Buffer) for v in jax.tree.leaves(first, is_leaf=lambda v: isinstance(v, Buffer)))
    assert first[1] == {"key": None}
    assert first[3] is None
    assert second[0] == {"w": None, "b": None}
    assert len(jax.tree.leaves(first)) == 6


def test_trainable_twice_is_trainable_once():
    same(trainable(trainable(PARAMS)), trainable(PARAMS))
    same(buffers(buffers(PARAMS)), buffers(PARAMS))


def test_a_buffer_is_an_ordinary_node():
    same(jax.jit(lambda p: p)(PARAMS), PARAMS)
    one = Buffer(jnp.ones(3))
    assert jax.vmap(lambda b: Buffer(b.value * 2))(one) is not one
    np.testing.assert_array_equal(jax.vmap(lambda b: Buffer(b.value * 2))(one).value, [2, 2, 2])
    same(pickle.loads(pickle.dumps(one)), one)
    assert "Buffer" in repr(one)


def test_merge_says_what_does_not_fit():
    with pytest.raises(
        TreeError, match=r"merge: got trees of two structures.*float32\[4, 3\].*expected.*Pass trainable"
    ):
        merge(trainable(PARAMS), buffers(PARAMS)[:2])


def test_updates_that_do_not_fit_are_refused():
    weights = trainable(PARAMS)
    for updates in (
        weights[:2],
        jax.tree.map(lambda p: p[None], weights),
        jax.tree.map(lambda p: p.sum(), weights),
        3.0,
    ):
        with pytest.raises(
            TreeError, match=r"apply_updates: got updates .* for .*; expected one structure .* Pass what"
        ):
            apply_updates(PARAMS, updates)
    same(apply_updates(PARAMS, jax.tree.map(jnp.zeros_like, weights)), PARAMS)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adamw(0.1), optax.chain(optax.clip(0.1), optax.lion(0.1))])
def test_updates_reach_what_is_trained_and_nothing_else(optimizer):
    weights = trainable(PARAMS)
    grads = jax.tree.map(jnp.ones_like, weights)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        updates, _ = optimizer.update(grads, optimizer.init(weights), weights)
    moved = apply_updates(PARAMS, updates)
    same(buffers(moved), buffers(PARAMS))
    assert jax.tree.structure(moved) == jax.tree.structure(PARAMS)
    assert all((a != b).all() for a, b in zip(*map(jax.tree.leaves, (trainable(moved), weights)), strict=True))


def test_cast_changes_floats_and_leaves_statistics_and_keys():
    half = cast(PARAMS, "bfloat16")
    assert {v.dtype for v in jax.tree.leaves(trainable(half))} == {jnp.dtype("bfloat16")}
    assert half[2]["mean"].value.dtype == jnp.float32
    assert half[1]["key"].value.dtype == PARAMS[1]["key"].value.dtype
    assert half[2]["steps"].value.dtype == jnp.int32
    assert half[3].value["w"].dtype == jnp.bfloat16
    y, _ = NET.forward(half, jnp.ones((2, 4), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    same(cast({"n": jnp.arange(3)}, "float32"), {"n": jnp.arange(3)})
