"""A network and its parameters, or a whole training state, in one file that anything which reads NumPy's .npz opens.

The file holds each array under the name by which Python finds it in the state, "params[0]['w']" say, and an entry
"jbp.json": the version of the format, the network as its repr, and how the arrays lie in the tree. What NumPy's format
has no name for is written as bits, its dtype in jbp.json: bfloat16 and the float8s as integers of their size, random
keys as their data. Nothing is pickled. Loading runs nothing: the network is read as calls of known layers.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbp import combinators, layers as _layers, losses
from jbp.errors import FileError, TreeError, show
from jbp.layer import Layer
from jbp.params import Buffer, trainable
from jbp.programs import ProgramError, read
from jbp.sweep import must_be_layer

VERSION, CONTENTS = 1, "jbp.json"


def save(path: Any, net: Layer, state: Any) -> None:
    """Write the network and its parameters, or the state of its training, to a file, all of it or nothing.

        jbp.save("model.jbp", net, state)  # what `start`, `step` and `fit` give, or state.params
        net, params = jbp.load("model.jbp")
        net, state = jbp.load("model.jbp", optimizer)  # to go on training, bit for bit

    An earlier file of that name stays as it is until the new one is on the disk. Raises TreeError for parameters that
    hold anything but arrays in tuples, lists, dicts with words or numbers as keys, and Buffers.

    >>> net = Dense(2)
    >>> jbp.save("model.jbp", net, net.init(jax.random.key(0), jnp.ones((1, 3))))
    """
    must_be_layer("net", net)
    given_away = [a for a in jax.tree.leaves(state) if isinstance(a, jax.Array) and a.is_deleted()]
    if given_away:
        raise TreeError(
            "save: got a state whose arrays were deleted, for a step took over its memory; expected the state that "
            "came back. Save that one, or a copy made before: jax.tree.map(jnp.copy, state)."
        )
    whole = hasattr(state, "optimizer") and hasattr(state, "params") and hasattr(state, "steps")
    arrays: dict[str, Any] = {}
    contents = {
        "format": "jbp",
        "version": VERSION,
        **described(net),
        "params": down(state.params if whole else state, "params", arrays),
        "training": whole,
    }
    if whole:
        arrays |= dict(_leaves(state.optimizer)) | {"steps": state.steps}
    bits = {name: _bits(name, leaf) for name, leaf in arrays.items()}
    contents["kinds"] = {name: kind for name, (_, kind) in bits.items() if kind}
    with _replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, (array, _) in bits.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        with archive.open(CONTENTS, "w") as entry:
            entry.write(json.dumps(contents, indent=1).encode())


def load(
    path: Any, optimizer: Any = None, *, net: Layer | None = None, layers: Iterable[type[Layer]] = ()
) -> tuple[Layer, Any]:
    """(net, params) out of a file that `save` wrote; with the optimizer of the training, (net, state).

    layers are the classes of your own that the network is made of. With `net` the file must hold that network, and
    nothing is built: that is the way for layers whose repr is no program. Every array is held against its checksum.

    Raises FileError for a file that is torn or none of `save`'s, written by a newer version, of another network than
    `net` or of another optimizer, with layers that are not known, and with 64-bit numbers where JAX has none.

    >>> net = Dense(2)
    >>> jbp.save("model.jbp", net, net.init(jax.random.key(0), jnp.ones((1, 3))))
    >>> net, params = jbp.load("model.jbp")
    >>> net
    Dense(2)
    """
    path = Path(path)
    with _understood(path), zipfile.ZipFile(path) as archive:
        if CONTENTS not in archive.namelist():
            raise FileError(f"{path}: got an archive without {CONTENTS}; expected one that jbp.save wrote.")
        contents = json.loads(archive.read(CONTENTS))
        if contents["version"] > VERSION:
            raise FileError(
                f"{path}: got version {contents['version']} of the format; expected {VERSION} or less. Update jbp."
            )
        found = network(path, contents, net, tuple(layers))
        arrays = {
            name.removesuffix(".npy"): _array(path, name.removesuffix(".npy"), archive.read(name), contents["kinds"])
            for name in archive.namelist()
            if name != CONTENTS
        }
        params, training = up(contents["params"], arrays), contents["training"]
    if optimizer is None:
        return found, params
    if not training:
        raise FileError(
            f"{path}: got parameters alone; expected the state of a training. Leave out the optimizer, and begin "
            "with start(net, optimizer, key, x, params=params)."
        )
    from jbp.train.step import State  # here, for a network is loaded without it

    return found, State(params, _restored(path, optimizer, params, arrays), arrays["steps"])


def _table() -> dict[str, type]:
    """The layers that a file may name."""
    from jbp import credit

    homes = combinators, _layers, losses, credit
    return {n: v for home in homes for n, v in vars(home).items() if isinstance(v, type) and issubclass(v, Layer)}


def described(net: Layer) -> dict[str, Any]:
    """The network in words: its repr, which of its layers are not of jbp, and whether it can be read from these."""
    own = sorted(kind.__name__ for kind in _kinds(net) if _table().get(kind.__name__) is not kind)
    return {"network": repr(net), "own": own, "rebuilds": _rebuilds(net)}


def _kinds(value: Any) -> set[type]:
    """The classes of all layers inside."""
    if isinstance(value, tuple | list):
        return set().union(*map(_kinds, value))
    inner = [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else []
    return ({type(value)} if isinstance(value, Layer) else set()).union(*map(_kinds, inner))


def _rebuilds(net: Layer) -> bool:
    """Whether the repr of the network, read, is that network."""
    try:
        return read(repr(net), _table() | {kind.__name__: kind for kind in _kinds(net)}) == net
    except ProgramError:
        return False


def network(path, contents, net, own):
    text = contents["network"]
    if net is not None:
        if repr(net) != text:
            raise FileError(f"{path}: got the network {text}; expected {net!r}. Load it without net=.")
        return net
    missing = sorted(set(contents["own"]) - {kind.__name__ for kind in own})
    if missing:
        raise FileError(
            f"{path}: got a network with {', '.join(missing)}, no layers of jbp; expected their classes. "
            f"Write load(path, layers=[{', '.join(missing)}])."
        )
    if not contents["rebuilds"]:
        raise FileError(
            f"{path}: got the network {text}, which is no program of its layers; expected the network beside it. Make "
            "it yourself, and write load(path, net=net)."
        )
    try:
        return read(text, _table() | {kind.__name__: kind for kind in own})
    except ProgramError as error:
        raise FileError(f"{path}: the network cannot be read: {error} Was it written by another jbp?") from error


def down(tree, name, arrays):
    """The tree for json, with the names of its arrays, which go into `arrays`."""
    if tree is None:
        return None
    if isinstance(tree, Buffer):
        return {"buffer": down(tree.value, f"{name}.value", arrays)}
    if isinstance(tree, dict) and all(type(key) in (str, int) for key in tree):
        return {"dict": [[key, down(part, f"{name}[{key!r}]", arrays)] for key, part in tree.items()]}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [down(part, f"{name}[{i}]", arrays) for i, part in enumerate(tree)]}
    arrays[name] = tree
    return name


def up(node, arrays):
    if node is None or isinstance(node, str):
        return None if node is None else arrays[node]
    ((kind, inner),) = node.items()
    if kind == "buffer":
        return Buffer(up(inner, arrays))
    if kind == "dict":
        return {key: up(part, arrays) for key, part in inner}
    return {"tuple": tuple, "list": list}[kind](up(part, arrays) for part in inner)


def _leaves(state) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        yield f"optimizer{jax.tree_util.keystr(path)}", leaf


def _is_key(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(name, leaf):
    """(the array as NumPy writes it, what it stands for if that is something else)."""
    if _is_key(leaf):
        return np.asarray(jax.random.key_data(leaf)), f"key {jax.random.key_impl(leaf)}"
    array = np.asarray(leaf, order="C")
    if array.dtype.isbuiltin == 1 and array.dtype.kind in "biufc":
        return array, None
    if array.dtype.isbuiltin == 2:  # one of ml_dtypes', which NumPy's format would call a void
        return array.view(f"u{array.dtype.itemsize}"), array.dtype.name
    raise TreeError(f"save: got {show(leaf)} at {name}; expected an array of numbers. Take it out of the parameters.")


def _array(path, name, data, kinds):
    array, kind = np.lib.format.read_array(BytesIO(data), allow_pickle=False), kinds.get(name, "")
    if kind.startswith("key "):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind.removeprefix("key "))
    if kind and np.dtype(kind).isbuiltin == 2:
        array = array.view(kind)
    if (cut := jax.dtypes.canonicalize_dtype(array.dtype)) != array.dtype:
        raise FileError(
            f"{path}: got {name} in {array.dtype}, which JAX would cut to {cut}; expected 64-bit numbers to be on. "
            "Load it inside of `with jax.enable_x64(True):`."
        )
    return jnp.asarray(array)


def _restored(path, optimizer, params, arrays):
    """The optimizer's state: the structure that it makes of these parameters, the arrays of the file."""
    with jax.numpy_dtype_promotion("standard"):
        like = jax.eval_shape(lambda p: optimizer.init(trainable(p)), params)
    wanted = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _leaves(like)}
    there = {n: f"{a.dtype}{list(a.shape)}" for n, a in arrays.items() if n.startswith("optimizer")}
    for name in [*wanted, *there]:
        if wanted.get(name) != there.get(name):
            raise FileError(
                f"{path}: got {there.get(name, 'nothing')} as {name}; expected {wanted.get(name, 'nothing')}. "
                "Give the optimizer with which the state was trained, or none for the parameters alone."
            )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])


@contextmanager
def _replacing(path: Path):
    """A new file, which takes the place of the one at `path` when all of it is on the disk."""
    new = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        with new.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the name too is to outlive a power cut
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _understood(path: Path):
    """Around reading: what a torn file raises, as one error."""
    try:
        yield
    except FileError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise FileError(
            f"{path}: got a file that is torn, or none of jbp.save's ({error}); expected the whole of it. "
            "Copy it again, or go back to an earlier one."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"{path}: got contents that do not fit one another ({type(error).__name__}: {error}); expected what "
            "jbp.save wrote. Go back to an earlier file."
        ) from error
