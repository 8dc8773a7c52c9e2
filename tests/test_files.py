"""Saved and loaded again, bit for bit; what is torn, strange or of another network is refused; others' formats too."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import draw

import jbp
from jbp import Buffer, Frozen, Layer, Repeat, Serial, files, recipes
from jbp.cases import f
from jbp.catalogue import ESTIMATORS, LAYERS, LOSSES
from jbp.credit import feedback_alignment
from jbp.errors import FileError, TreeError
from jbp.layers import BatchNorm, Dense, Dropout, Tanh
from jbp.losses import MeanSquaredError
from jbp.programs import ProgramError, read
from jbp.train import start, step

KEY = jax.random.key(0)
X, T = draw(f(6, 4), dtype="float32"), jnp.zeros((6, 2), "float32")
NET = Serial(body=Serial(Dense(5), BatchNorm(), Dropout(0.3)), many=Repeat(Frozen(Dense(5)), 2), head=Dense(2))
ADAM = optax.adamw(optax.cosine_decay_schedule(1e-2, 10))


@pytest.fixture
def trained():
    """A state after one step: every part of it has moved."""
    return step(NET, MeanSquaredError(), ADAM)(start(NET, ADAM, KEY, X), X, T)[0]


def data(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, u), v in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert u.dtype == v.dtype, path
        assert data(u).tobytes() == data(v).tobytes(), path


def test_training_goes_on_as_if_nothing_had_been(tmp_path, trained):
    jbp.save(tmp_path / "run.jbp", NET, trained)
    net, state = jbp.load(tmp_path / "run.jbp", ADAM)
    assert net == NET
    same(state, trained)
    run = step(NET, MeanSquaredError(), ADAM)
    same(run(state, X, T), run(trained, X, T))


def test_in_another_process_without_an_optimizer(tmp_path, trained):
    jbp.save(tmp_path / "run.jbp", NET, trained)
    np.save(tmp_path / "x.npy", X)
    program = (
        "import jbp, numpy as np\n"
        "net, params = jbp.load('run.jbp')\n"
        "np.save('y.npy', net.evaluation()(params, np.load('x.npy')))"
    )
    env = os.environ | {"PYTHONPATH": str(files.Path(jbp.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), NET.evaluation()(trained.params, X), rtol=1e-5)


def test_every_kind_of_array_and_of_tree(tmp_path):
    bits = np.arange(256, dtype=np.uint8)
    params = {
        "a b/c": [jnp.asarray(bits.view(name)) for name in ("float8_e4m3fn", "float8_e5m2")],
        "3": ({7: bits.view(jnp.float16)}, bits.view(jnp.bfloat16), None, (), jnp.float16(1.5), np.int8(-3)),
        "n": Buffer(
            {"key": jax.random.split(KEY, 2), "rbg": jax.random.key(1, impl="rbg"), "old": jax.random.PRNGKey(2)}
        ),
        "odd": jnp.asarray([np.nan, -0.0, np.inf]).T,
        "none": jnp.zeros((0, 3), bool),
    }
    jbp.save(tmp_path / "p", Tanh(), params)
    net, found = jbp.load(tmp_path / "p")
    assert net == Tanh()
    same(found, jax.tree.map(jnp.asarray, params))
    assert list(found) == list(params)
    with np.load(tmp_path / "p", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["params['odd']"], params["odd"])


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.MultiSteps(optax.adam(1e-2), 3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9), optax.contrib.reduce_on_plateau()),
    ],
    ids=["lbfgs", "MultiSteps", "chain"],
)
def test_every_optimizer(tmp_path, optimizer):
    state = start(NET, optimizer, KEY, X)
    jbp.save(tmp_path / "s", NET, state)
    same(jbp.load(tmp_path / "s", optimizer)[1], state)
    with pytest.raises(FileError, match=r"got .* as optimizer.*; expected .*\. Give the optimizer with which"):
        jbp.load(tmp_path / "s", ADAM)


def test_every_layer_is_read_from_its_repr():
    table = files._table()
    for case in (*LAYERS, *LOSSES, *ESTIMATORS):
        assert read(repr(case.layer), table) == case.layer
    for net in (recipes.resnet(), recipes.vision_transformer(length=9), feedback_alignment(recipes.mlp())):
        assert read(repr(net), table) == net


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Dense((lambda: 3)())",
        "Dense.__class__",
        "[Dense(3) for _ in (1,)][0]",
        "Dense(2 ** 99)",
        "Dense(*(3,))",
        "Dense(**{'features': 3})",
        "print(3)",
        "Dense(True)",
        "-" * 9999 + "1",
        "(" * 300 + ")" * 300,
        "Dense(3",
    ],
)
def test_what_is_no_program_of_layers_is_not_run(text):
    with pytest.raises(ProgramError):
        read(text, files._table())


@dataclass(frozen=True)
class Mine(Layer):
    scale: float = 2.0

    def forward(self, params, x, /):
        return self.scale * x, ()


@dataclass(frozen=True)
class Odd(Layer):
    f: object = None


def test_layers_of_your_own(tmp_path):
    net, path = Serial(Mine(3.0), Dense(2)), tmp_path / "mine"
    params = net.init(KEY, X)
    jbp.save(path, net, params)
    with pytest.raises(FileError, match=r"got a network with Mine, .* Write load\(path, layers=\[Mine\]\)"):
        jbp.load(path)
    for found, tree in (jbp.load(path, layers=[Mine]), jbp.load(path, net=net)):
        assert found == net
        same(tree, params)
    with pytest.raises(FileError, match=r"got the network Serial.*; expected Dense\(2\)\. Load it without net="):
        jbp.load(path, net=Dense(2))
    jbp.save(path, Odd(abs), ())
    with pytest.raises(FileError, match="which is no program of its layers; expected the network beside it"):
        jbp.load(path, layers=[Odd])
    assert jbp.load(path, net=Odd(abs)) == (Odd(abs), ())


def test_your_own_layer_is_not_taken_for_ours_of_that_name(tmp_path):
    own = type("Dense", (Mine,), {})
    jbp.save(tmp_path / "p", own(), ())
    with pytest.raises(FileError, match="got a network with Dense, no layers of jbp"):
        jbp.load(tmp_path / "p")
    assert type(jbp.load(tmp_path / "p", layers=[own])[0]) is own


def edited(path, **changes):
    """The file with other contents."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries[files.CONTENTS] = json.dumps(json.loads(entries[files.CONTENTS]) | changes).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)


def test_what_cannot_be_loaded_is_told_and_why(tmp_path, trained):
    path = tmp_path / "run"
    jbp.save(path, NET, trained.params)
    whole = path.read_bytes()
    with pytest.raises(FileError, match=r"got parameters alone; expected the state of a training\. Leave out"):
        jbp.load(path, ADAM)
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileError, match="got a file that is torn"):
            jbp.load(path)
    place = whole.index(np.asarray(trained.params["head"]["w"]).tobytes()) + 3
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(FileError, match=r"got a file that is torn.* CRC"):
        jbp.load(path)
    for changes, wanted in (
        ({"version": 2}, r"got version 2 of the format; expected 1 or less\. Update jbp"),
        ({"network": "Dense(3).forward"}, r"the network cannot be read: got .*Dense\(3\)\.forward"),
        ({"network": "Dance(3)"}, "got Dance, which is no layer of jbp"),
        ({"params": "params[9]"}, "got contents that do not fit one another"),
    ):
        path.write_bytes(whole)
        edited(path, **changes)
        with pytest.raises(FileError, match=wanted):
            jbp.load(path)
    np.savez(tmp_path / "other.npz", a=X)
    with pytest.raises(FileError, match=r"got an archive without jbp\.json; expected one that jbp\.save wrote"):
        jbp.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        jbp.load(tmp_path / "nowhere")


def test_a_pickle_inside_is_not_opened(tmp_path):
    jbp.save(tmp_path / "p", Dense(2), {"w": X})
    with zipfile.ZipFile(tmp_path / "p") as archive:
        contents = archive.read(files.CONTENTS)
    with zipfile.ZipFile(tmp_path / "p", "w") as archive:
        with archive.open("params['w'].npy", "w") as entry:
            np.lib.format.write_array(entry, np.array([print], object), allow_pickle=True)
        archive.writestr(files.CONTENTS, contents)
    with pytest.raises(FileError, match="allow_pickle=False"):
        jbp.load(tmp_path / "p")


def test_an_earlier_file_outlives_a_save_that_fails(tmp_path, monkeypatch, trained):
    path = tmp_path / "p"
    jbp.save(path, NET, trained.params)
    before = path.read_bytes()
    with pytest.raises(TreeError, match=r"got object at params\[1\]; expected an array of numbers"):
        jbp.save(path, NET, (X, object()))
    monkeypatch.setattr(np.lib.format, "write_array", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jbp.save(path, NET, trained.params)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p"]


def test_a_state_that_a_step_has_taken_over_is_refused(tmp_path):
    state = start(NET, ADAM, KEY, X)
    step(NET, MeanSquaredError(), ADAM)(state, X, T)
    with pytest.raises(TreeError, match="got a state whose arrays were deleted"):
        jbp.save(tmp_path / "p", NET, state)


def test_without_64_bits_they_are_not_cut_silently(tmp_path):
    jbp.save(tmp_path / "p", Dense(2), {"w": jnp.ones(3, "float64")})
    with (
        jax.enable_x64(False),
        pytest.raises(FileError, match=r"got params.* in float64, which JAX would cut to float32"),
    ):
        jbp.load(tmp_path / "p")


def test_arrays_of_numpy_are_parameters(trained):
    net, params = NET.evaluation(), trained.params
    plain = jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else np.asarray(a), params)
    np.testing.assert_array_equal(net(plain, np.asarray(X)), net(params, X))


def without_keys(tree):
    """Random keys as their data: what formats take that know numbers alone."""
    return jax.tree.map(lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a, tree)


def with_keys(tree, like):
    return jax.tree.map(
        lambda a, b: jax.random.wrap_key_data(a) if jnp.issubdtype(b.dtype, jax.dtypes.prng_key) else a, tree, like
    )


def test_through_flax(trained):
    leaves, structure = jax.tree.flatten(without_keys(trained))
    written = flax.serialization.to_bytes(leaves)
    found = flax.serialization.from_bytes(jax.tree.map(jnp.zeros_like, leaves), written)
    found = jax.tree.map(jnp.asarray, structure.unflatten(found))
    same(with_keys(found, trained), trained)


def test_through_equinox(tmp_path, trained):
    eqx.tree_serialise_leaves(tmp_path / "p.eqx", without_keys(trained))
    like = without_keys(start(NET, ADAM, jax.random.key(9), X))
    same(with_keys(eqx.tree_deserialise_leaves(tmp_path / "p.eqx", like), trained), trained)


def test_through_orbax(tmp_path, trained):
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "p", without_keys(trained))
        checkpointer.wait_until_finished()
        found = checkpointer.restore(tmp_path / "p", without_keys(start(NET, ADAM, KEY, X)))
    same(with_keys(found, trained), trained)
