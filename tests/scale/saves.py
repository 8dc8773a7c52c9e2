"""A training that goes on on another mesh: run by tests/test_scale.py in a process of its own with eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbp import Repeat, Serial
from jbp.layers import Dense, Dropout, Tanh
from jbp.losses import MeanSquaredError
from jbp.pipeline import Pipeline
from jbp.saves import Saves, load, resume
from jbp.train import Plan, fit, start

pytest.importorskip("orbax.checkpoint")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)

KEY = jax.random.key(0)
LOSS, OPTIMIZER = MeanSquaredError(), optax.adam(1e-2)
RNG = np.random.default_rng(0)
DATA = [(jnp.asarray(RNG.normal(size=(16, 8))), jnp.asarray(RNG.normal(size=(16, 8)))) for _ in range(4)]
EIGHT = Plan(weights="data")
OTHERS = {
    "four": Plan((("data", 4),), weights="data"),
    "hybrid": Plan((("a", 4), ("b", 2)), weights="b"),
    "stages": Pipeline((("data", 2), ("stage", 4)), micro=4),
    "one": None,
}


def run(net, folder, plan, steps):
    state, batches = resume(folder, start(net, OPTIMIZER, KEY, DATA[0][0], plan=plan), DATA)
    resumed = jax.tree.map(jnp.copy, state)
    saves = Saves(folder, every=2)
    return resumed, *fit(net, LOSS, OPTIMIZER, state, batches, steps=steps, plan=plan, saves=saves)


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_the_same_plan_goes_on_bit_for_bit(tmp_path):
    net = Serial(Dense(16), Tanh(), Dropout(0.3), Dense(8))
    _, wanted, rows = run(net, str(tmp_path / "a"), EIGHT, None)
    run(net, str(tmp_path / "b"), EIGHT, 2)
    _, state, history = run(net, str(tmp_path / "b"), EIGHT, None)
    same(state, wanted)
    assert history == rows
    assert {a.sharding.spec for a in jax.tree.leaves(state)} == {a.sharding.spec for a in jax.tree.leaves(wanted)}


@pytest.mark.parametrize("other", OTHERS)
def test_another_mesh_has_the_same_numbers(other, tmp_path):
    net = Serial(Dense(16), Tanh(), Repeat(Dense(16), 4), Dense(8))
    _, wanted, _ = run(net, str(tmp_path / "a"), None, None)
    _, saved, _ = run(net, str(tmp_path / "b"), EIGHT, 2)
    same(load(str(tmp_path / "b"))[1], saved.params)
    resumed, state, _ = run(net, str(tmp_path / "b"), OTHERS[other], None)
    same(resumed, saved)
    fresh = start(net, OPTIMIZER, KEY, DATA[0][0], plan=OTHERS[other])
    assert [a.sharding for a in jax.tree.leaves(resumed)] == [a.sharding for a in jax.tree.leaves(fresh)]
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12, atol=1e-12)
