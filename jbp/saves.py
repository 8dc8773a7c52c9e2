"""Trainings that outlive their process: saves in a folder, by orbax, and `resume`, which takes up the newest of them.

A save is orbax's: a folder that has its name, the number of the step, only when all of it is written. It holds the
arrays of the state, each under a number, and one text: their names, the network as its repr, where in the data the next
batch is, and which files beside it hold the rows of the history. Nothing is pickled, and resuming runs nothing.
"""

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jbp.errors import FileError
from jbp.fields import Size, check
from jbp.files import described, down, network, up
from jbp.layer import Layer
from jbp.train.data import Batches

VERSION = 1


@dataclass(frozen=True)
class Saves:
    """Where `fit` saves a training, how often, and how many saves are kept: the newest `keep`, and never a torn one.

        state, batches = resume("runs/a", start(net, optimizer, key, x), batches)
        state, history = fit(net, loss, optimizer, state, batches, saves=Saves("runs/a", every=500))

    A save is made every `every` steps, at the end, and at SIGTERM, after which the process ends with 0: killed or told
    to go, the same two lines go on, bit for bit if the devices are as they were. It is written while training goes on.
    With `best` or `patience` in `fit` the best state is saved when it is seen, and kept however old it is.
    The folder is on a disk that all processes share, or any place that orbax can write to (gs://...). Needs the extra
    `train`: pip install "jbp[train]".
    """

    folder: str
    every: Size = 1000
    keep: Size = 3

    def __post_init__(self):
        check(self)

    def open(self, net: Layer, steps: int, batches: Batches) -> "Writer":
        """What `fit` saves with, for a training that is at this step."""
        return Writer(self, net, steps, batches)


class Writer:
    """The saves of one training, written behind its back."""

    def __init__(self, saves: Saves, net: Layer, steps: int, batches: Batches):
        self.saves, self.batches, self.last = saves, batches, steps
        self.about = {"format": "jbp", "version": VERSION, **described(net)}
        self.kept = _Kept(saves.keep, batches.best)
        self.manager = _manager(saves.folder, self.kept)
        newest = self.manager.latest_step()
        if newest is not None and newest > steps:
            raise FileError(
                f"{saves.folder}: got saves up to step {newest} for a training at step {steps}; expected one that goes "
                f"on from the last. Write state, batches = resume({saves.folder!r}, state, batches), or take another "
                "folder."
            )
        rows = batches.history
        self.written, self.files = len(rows), list(batches.files)

    def due(self, step: int) -> bool:
        """Whether it is time."""
        return step % self.saves.every == 0

    def save(self, state: Any, history: list[dict[str, float]], best: dict[str, Any] | None) -> None:
        """Save the state, and the rows that came since the last time. Errors of the last time are raised here.

        `best` tells which step was the best until now.
        """
        step = int(state.steps)
        if step == self.last and self.manager.latest_step() == step:
            return
        self.manager.check_for_errors()
        self._write(step, history)
        arrays, told = _flat(state)
        about = self.about | {"arrays": told, "params": down(state.params, "params", {})}
        about |= {"positions": _positions(self.batches), "history": self.files, "best": best}
        if best is not None:
            self.kept.best = best
        args = _orbax().args
        self.manager.save(
            step, args=args.Composite(state=args.StandardSave(arrays), about=args.JsonSave(about)), force=True
        )
        self.last = step

    def _write(self, step, history):
        rows = history[self.written :]
        self.written = len(history)
        if not rows:
            return
        self.files = [*self.files, f"{step}.jsonl"]
        if jax.process_index() == 0:
            home = self.manager.directory / "history"
            home.mkdir(parents=True, exist_ok=True)
            part = home / f"{step}.part"
            part.write_text("".join(json.dumps(row) + "\n" for row in rows))
            part.replace(home / f"{step}.jsonl")

    def read(self, step: int, like: Any) -> Any:
        """The state of that step, which was saved."""
        found = _restored(self.manager, self.saves.folder, step, like) if step in self.manager.all_steps() else None
        if found is None:
            raise FileError(
                f"{self.saves.folder}: got no save of step {step}, the best; expected it. Copy it back, or go on from "
                "the last: leave best and patience out."
            )
        return found[0]

    def close(self) -> None:
        """Wait until all is on the disk."""
        try:
            self.manager.wait_until_finished()
            self.manager.check_for_errors()
        finally:
            self.manager.close()


def resume(folder: str, state: Any, batches: Iterable[Any]) -> tuple[Any, Batches]:
    """(state, batches) where the newest save in the folder left off, or at the beginning if there is none.

        state, batches = resume("runs/a", start(net, optimizer, key, x, plan=plan), batches)

    The state that is given says what is expected and where each array is to lie: on another mesh than before, if that
    is what its plan says. The batches go on after those that were taken, as `jbp.train.data.Batches` tells, and bring
    the history along, so that `fit` returns all of it. A save that is torn is put aside, with a warning, and the one
    before it taken. Raises FileError for a save of another network or another optimizer, and for one by a newer jbp.
    """
    manager = _manager(folder, None)
    try:
        for step in sorted(manager.all_steps(), reverse=True):
            found = _restored(manager, folder, step, state)
            if found is not None:
                return found[0], _going_on(manager, folder, batches, found[1])
    finally:
        manager.close()
    return state, Batches(batches)


class _Kept:
    """Which saves orbax keeps: the newest, and the best."""

    def __init__(self, newest: int, best: dict[str, Any] | None):
        self.newest, self.best = newest, best

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        """One for each save, the oldest first."""
        first, best = len(checkpoints) - self.newest, self.best and self.best["step"]
        return [i >= first or one.step == best for i, one in enumerate(checkpoints)]


def load(
    folder: str, *, best: bool = False, net: Layer | None = None, layers: Iterable[type[Layer]] = ()
) -> tuple[Layer, Any]:
    """(net, params) of the newest save in the folder, or of the best, on one device.

    Which is the best is what `fit` was told by `best` or `patience`. `net` and `layers` are as of `jbp.load`. Raises
    FileError for a folder without saves, and with `best` for one of a training that was told neither.
    """
    manager = _manager(folder, None)
    try:
        step = manager.latest_step()
        if step is None:
            raise FileError(f"{folder}: got no save; expected one. Is the name of the folder right?")
        about = _about(manager, step)
        if best:
            told = about.get("best")
            if not told or told["step"] not in manager.all_steps():
                raise FileError(
                    f"{folder}: got no best save; expected one. Give fit best=..., or patience=..., and every=..., or "
                    "load the newest: leave best=True out."
                )
            step = told["step"]
            about = _about(manager, step)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = {
            str(k): jax.ShapeDtypeStruct(tuple(one["bits"][1]), one["bits"][0], sharding=here)
            for k, one in enumerate(about["arrays"])
        }
        arrays = _arrays(manager, step, shapes)
    finally:
        manager.close()
    leaves = {one["name"]: _whole(arrays[str(k)], one["key"]) for k, one in enumerate(about["arrays"])}
    return network(folder, about, net, tuple(layers)), up(about["params"], leaves)


def _restored(manager, folder, step, state):
    """(state, what is told of it), None for a save that is torn."""
    like, wanted = _flat(state)
    try:
        about = _about(manager, step)
        version, arrays = about["version"], about["arrays"]
        there, expected = ({one["name"]: one["is"] for one in told} for told in (arrays, wanted))
    except Exception as error:  # noqa: BLE001
        # whatever orbax says of files that are torn
        return _aside(manager, folder, step, error)
    if version > VERSION:
        raise FileError(f"{folder}: got version {version} of the format; expected {VERSION} or less. Update jbp.")
    for name in [*expected, *there]:
        if expected.get(name) != there.get(name):
            raise FileError(
                f"{folder}: got {there.get(name, 'nothing')} as {name} in step {step}; expected "
                f"{expected.get(name, 'nothing')}. Give the state of the network and the optimizer that were trained, "
                "or begin in another folder."
            )
    try:
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding) for k, v in like.items()}
        arrays = _arrays(manager, step, shapes)
    except Exception as error:  # noqa: BLE001
        return _aside(manager, folder, step, error)
    leaves = [_whole(arrays[str(k)], one["key"]) for k, one in enumerate(wanted)]
    return jax.tree.unflatten(jax.tree.structure(state), leaves), about


def _about(manager, step):
    """What is told of a save."""
    args = _orbax().args
    return manager.restore(step, args=args.Composite(about=args.JsonRestore()))["about"]


def _arrays(manager, step, shapes):
    """Its arrays, each where its shape says."""
    args = _orbax().args
    return manager.restore(step, args=args.Composite(state=args.StandardRestore(shapes)))["state"]


def _aside(manager, folder, step, error):
    """Put a torn save aside, where nobody will take it for one."""
    told = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    warnings.warn(f"{folder}: the save of step {step} is torn ({told}); it is put aside as {step}.torn", stacklevel=4)
    if jax.process_index() == 0:
        torn = manager.directory / str(step)
        if torn.exists():
            torn.rename(manager.directory / f"{step}.torn")


def _going_on(manager, folder, batches, about):
    history = []
    for name in about["history"]:
        file = manager.directory / "history" / name
        if not file.exists():
            raise FileError(f"{folder}: got no file history/{name}; expected the rows up to this save. Copy it back.")
        history += [json.loads(line) for line in file.read_text().splitlines()]
    positions = about["positions"]
    if jax.process_count() != len(positions) and any("state" in position for position in positions):
        raise FileError(
            f"{folder}: got the data's state in {len(positions)} processes; expected it in {jax.process_count()}, as "
            "many as there are. Start as many, or begin the data anew."
        )
    own = positions[min(jax.process_index(), len(positions) - 1)]
    return Batches(batches, own, history, about["history"], about.get("best"))


def _flat(state):
    """Arrays by number, and of each its name, what it is, and as what it is written: a random key as its bits."""
    arrays, told = {}, []
    for k, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
        key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        bits = arrays[str(k)] = jax.random.key_data(leaf) if key else leaf
        one = {"name": jax.tree_util.keystr(path).lstrip("."), "is": f"{leaf.dtype}{list(leaf.shape)}"}
        impl = str(jax.random.key_impl(leaf)) if key else None
        told.append(one | {"key": impl, "bits": [str(bits.dtype), list(bits.shape)]})
    return arrays, told


def _whole(array, kind):
    return jax.random.wrap_key_data(array, impl=kind) if kind else array


def _positions(batches):
    """Where each process is in its data."""
    own = batches.position()
    if jax.process_count() == 1:
        return [own]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(own).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.asarray(text.size)))
    padded = np.pad(text, (0, int(sizes.max()) - text.size))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def _manager(folder, kept):
    ocp = _orbax()
    if "://" not in folder:
        from pathlib import Path

        folder = str(Path(folder).resolve())
    options = ocp.CheckpointManagerOptions(preservation_policy=kept, cleanup_tmp_directories=kept is not None)
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "about"))


def _orbax():
    try:
        import orbax.checkpoint
    except ModuleNotFoundError as error:
        raise FileError(
            'got no orbax; expected it for saves of a training. Install it: pip install "jbp[train]".'
        ) from error
    return orbax.checkpoint
