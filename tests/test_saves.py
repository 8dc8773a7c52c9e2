"""Trainings that stop and go on: by the folder of their saves alone."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbp import Serial
from jbp.errors import FileError
from jbp.layers import BatchNorm, Dense, Dropout
from jbp.losses import MeanSquaredError
from jbp.saves import Saves, load, resume
from jbp.train import fit, start
from jbp.train.data import Batches

pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:orbax")

NET, LOSS = Serial(Dense(3), BatchNorm(), Dropout(0.3), Dense(1)), MeanSquaredError()
OPTIMIZER = optax.adam(1e-2, eps=1e-3)
RNG = np.random.default_rng(0)
DATA = [(jnp.asarray(RNG.normal(size=(4, 2))), jnp.asarray(RNG.normal(size=(4, 1)))) for _ in range(7)]


def begin(net=NET, optimizer=OPTIMIZER):
    return start(net, optimizer, jax.random.key(0), DATA[0][0])


def going_on(folder, batches=DATA, net=NET, optimizer=OPTIMIZER, **options):
    state, batches = resume(str(folder), begin(net, optimizer), batches)
    return fit(net, LOSS, optimizer, state, batches, saves=Saves(str(folder), every=2, keep=2), **options)


def broken(count):
    yield from DATA[:count]
    raise OSError("the disk is gone")


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def whole():
    """The training that was never stopped."""
    return fit(NET, LOSS, OPTIMIZER, begin(), DATA)


def steps(folder):
    return sorted(int(path.name) for path in Path(folder).iterdir() if path.name.isdigit())


def test_a_training_in_three_goes_is_one(tmp_path, whole):
    for count in (3, 4, None):
        state, history = going_on(tmp_path, steps=count)
        assert len(history) == (count or 7)
    same(state, whole[0])
    assert history == whole[1]
    assert steps(tmp_path) == [6, 7]
    again, rows = going_on(tmp_path)  # there is nothing left to do
    same(again, state)
    assert rows == history


def test_what_stops_by_an_error_goes_on_from_the_save_before(tmp_path, whole):
    with pytest.raises(OSError, match="the disk") as caught:
        going_on(tmp_path, broken(5))
    assert len(caught.value.history) == 5
    assert steps(tmp_path) == [2, 4]
    state, history = going_on(tmp_path, iter(DATA))
    same(state, whole[0])
    assert history == whole[1]


def test_a_torn_save_is_put_aside_and_the_one_before_taken(tmp_path, whole):
    going_on(tmp_path, steps=6)
    for file in (tmp_path / "6").rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(UserWarning, match="the save of step 6 is torn"):
        state, history = going_on(tmp_path)
    same(state, whole[0])
    assert history == whole[1]
    assert steps(tmp_path) == [6, 7]
    assert (tmp_path / "6.torn").is_dir()


def test_what_was_being_written_is_no_save(tmp_path, whole):
    going_on(tmp_path, steps=4)
    (tmp_path / "4").rename(tmp_path / "4.orbax-checkpoint-tmp")
    state, history = going_on(tmp_path)
    same(state, whole[0])
    assert history == whole[1]


def test_a_foreign_save_is_refused(tmp_path):
    going_on(tmp_path, steps=2)
    with pytest.raises(FileError, match=r"got float64\[3\] as params\[1\]\['b'\] in step 2; expected float64\[1\]"):
        going_on(tmp_path, net=Serial(Dense(3), Dense(1)))
    with pytest.raises(FileError, match=r"as optimizer.* Give the state of the network and the optimizer"):
        going_on(tmp_path, optimizer=optax.sgd(1e-2, momentum=0.9))
    with pytest.raises(FileError, match=r"got saves up to step 2 for a training at step 0.*resume\("):
        fit(NET, LOSS, OPTIMIZER, begin(), DATA, saves=Saves(str(tmp_path)))


def test_the_network_comes_with_its_saves(tmp_path):
    state, _ = going_on(tmp_path, steps=3)
    net, params = load(str(tmp_path))
    assert net == NET
    same(params, state.params)
    with pytest.raises(FileError, match="got no save"):
        load(str(tmp_path / "nothing"))


WORSE = {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 3.0, 6: 1.5, 7: 6.0}  # the second is the best


def looking(folder, batches=DATA, **options):
    return going_on(folder, batches, every=1, best=lambda row: -WORSE[row["step"]], **options)


def test_the_best_state_outlives_the_saves_after_it_and_a_stop(tmp_path):
    wanted, rows = fit(NET, LOSS, OPTIMIZER, begin(), DATA, every=1, best=lambda row: -WORSE[row["step"]])
    assert int(wanted.steps) == 2
    with pytest.raises(OSError, match="the disk"):
        looking(tmp_path, broken(5))
    state, history = looking(tmp_path)
    assert steps(tmp_path) == [2, 6, 7]
    same(state, wanted)
    assert history == rows
    same(load(str(tmp_path), best=True)[1], wanted.params)
    again, _ = looking(tmp_path)  # there is nothing left to do
    same(again, wanted)
    shutil.rmtree(tmp_path / "2")
    with pytest.raises(FileError, match="got no save of step 2, the best"):
        looking(tmp_path)
    with pytest.raises(FileError, match="got no best save"):
        load(str(tmp_path), best=True)


def test_looks_are_where_they_would_have_been(tmp_path):
    options = {"every": 3, "check": lambda params: {"looked": 1.0}}
    _, rows = fit(NET, LOSS, OPTIMIZER, begin(), DATA, **options)
    assert [row["step"] for row in rows if "looked" in row] == [3, 6, 7]
    with pytest.raises(OSError, match="the disk"):
        going_on(tmp_path, broken(5), **options)
    assert steps(tmp_path)[-1] == 4
    assert going_on(tmp_path, **options)[1] == rows


def test_patience_goes_on_where_it_was(tmp_path):
    with pytest.raises(OSError, match="the disk"):
        looking(tmp_path, broken(4), patience=3)
    for _ in range(2):  # the second time it is over before it begins
        state, history = looking(tmp_path, patience=3)
        assert len(history) == 5
        assert int(state.steps) == 2


class Counting:
    """An iterator with a state of its own, as grain's have."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == len(DATA):
            raise StopIteration
        self.at += 1
        return DATA[self.at - 1]

    def get_state(self):
        return json.dumps(self.at).encode()

    def set_state(self, state):
        self.at = json.loads(state)


def test_data_with_a_state_of_its_own_are_set_to_it(tmp_path, whole):
    going_on(tmp_path, Counting(), steps=4)
    later = Counting()
    state, _ = going_on(tmp_path, later)
    assert later.at == 7
    same(state, whole[0])
    assert Batches(Counting(), {"taken": 2, "state": {"tree": b"5"}}).position() == {"taken": 2}


def test_grain_goes_on_where_it_was(tmp_path):
    grain = pytest.importorskip("grain")

    def pipeline():
        source = grain.MapDataset.source(DATA).shuffle(seed=1).repeat(2)
        return source.to_iter_dataset()

    state, history = going_on(tmp_path / "a", pipeline())
    going_on(tmp_path / "b", pipeline(), steps=9)
    again, rows = going_on(tmp_path / "b", pipeline())
    same(again, state)
    assert rows == history


PROGRAM = """
import os, signal, sys
import jax
from tests.test_saves import DATA, going_on

def slow():
    for k, batch in enumerate(DATA):
        if k == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch

going_on(sys.argv[1], slow())
print("not reached")
"""


def test_sigterm_saves_and_ends_with_zero(tmp_path, whole):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {"JAX_ENABLE_X64": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": "."}
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "told to end: saved at step 4" in done.stdout
    assert "not reached" not in done.stdout
    assert steps(tmp_path)[-1] == 4
    before = signal.getsignal(signal.SIGTERM)
    state, history = going_on(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(history) == 7
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole[0].params), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)  # compiled with other options there
