"""The reading of a file of weights: which module each layer takes, and what is left over."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbp import layers
from jbp.combinators import Frozen, Graph, Parallel, Repeat, Residual, Reversible, Tied
from jbp.compose import Several, Wrapper
from jbp.errors import TreeError, show
from jbp.layer import Layer
from jbp.params import Buffer, buffers, trainable
from jbp.readers.summary import OPENED, Row, summary
from jbp.sweep import initialize, stem

Arrays = Mapping[str, Any]
Path = tuple[str, ...]
Ways = list[tuple[tuple[str, ...], Callable[..., Any]]]


@dataclass(frozen=True)
class Library:
    """How a library names and lays out weights: `rules` has, for a type of our layers, the ways to make each array.

    A way is the names of theirs, {} in them for the number of a recurrent layer, and a function (layer, shape, *theirs)
    that gives ours, or raises ValueError. Where their modules have no order that lasts, `modules` has what they are
    called for a type of our layers, and their numbers count. `channels_first` is of images.
    """

    call: str
    rules: Mapping[type, Mapping[str, Ways]]
    modules: Mapping[type, tuple[str, ...]] = field(default_factory=dict)
    channels_first: bool = False


def flat(tree: Any, path: Path = ()) -> dict[str, Any]:
    """The arrays of nested dicts by their names joined by dots."""
    if isinstance(tree, Mapping):
        return {name: leaf for key, part in tree.items() for name, leaf in flat(part, (*path, str(key))).items()}
    return {".".join(path).replace("/", "."): tree}


def _array(a: Any) -> np.ndarray:
    a = a.detach().cpu() if hasattr(a, "detach") else a  # a tensor of PyTorch
    try:
        return np.asarray(a)
    except TypeError:  # which NumPy does not know: bfloat16
        return np.asarray(a.float())


class Reader:
    """One reading of a file: which arrays are taken, and by which names of modules."""

    def __init__(self, theirs: Library, arrays: dict[str, Any], names: Any, ignore: Iterable[str]):
        self.theirs, self.call, self.rules = theirs, theirs.call, theirs.rules
        self.arrays, self.ignore = arrays, tuple(ignore)
        self.names = {own.strip("/"): theirs.replace("/", ".") for own, theirs in (names or {}).items()}
        self.taken, self.rows = set[str](), dict[str, Row]()
        self.shared = set[Path]()  # what a Tied has from another place

    def __call__(self, net: Layer, x: Any) -> Any:
        self.rows = {row.path: row for row in summary(net, x).rows}
        first = initialize(net, jax.random.key(0), x)
        places = {place for path in _all_paths(first) for place in ("/".join(path[:n]) for n in range(len(path)))}
        if idle := [own for own in self.names if own not in places]:
            raise TreeError(
                f"{self.call}: got a name for {idle[0]!r}, where no layer takes weights; expected the path of one. "
                "Look at the parameters, net.init(key, x)."
            )
        params, _ = self.read(net, first, "", (), (), None)
        left = [n for n in self.arrays if n not in self.taken and not any(fnmatchcase(n, p) for p in self.ignore)]
        if left:
            shown = f"{left[0]} {show(_array(self.arrays[left[0]]))}" + f" and {len(left) - 1} more" * (len(left) > 1)
            raise TreeError(
                f"{self.call}: got {shown}, which no layer takes; expected "
                f"a layer for each. Say which with names=, or leave it over with ignore=({left[0]!r},)."
            )
        return params

    def read(self, net: Any, params: Any, at: str, path: Path, times: tuple[int, ...], flat: Any) -> tuple[Any, Any]:
        """(parameters, flat), flat the shape of the images that a Flatten made the layer's input of, or None."""
        start = stem(at, net)
        if isinstance(net, Graph):
            values, parts = dict[str, Any](dict.fromkeys(net.inputs, flat if len(net.inputs) == 1 else None)), []
            for name, p in zip(net.names, net.parts(params), strict=True):
                came = values[net.reads(name)[0]] if len(net.reads(name)) == 1 else None
                found, values[name] = self.read(net[name], p, f"{start}.{name}", (*path, name), times, came)
                parts.append(found)
            return net.whole(parts), values[net.outputs] if isinstance(net.outputs, str) else None
        if isinstance(net, Several):
            parts, came = [], flat
            for i, (layer, p) in enumerate(zip(net.layers, net.parts(params), strict=True)):
                label = net.label(i)
                given = came if isinstance(net, Parallel) else flat
                found, flat = self.read(layer, p, f"{start}{label}", (*path, label.strip(".[]")), times, given)
                parts.append(found)
            return net.whole(parts), None if isinstance(net, Parallel) else flat
        if isinstance(net, Repeat) or (isinstance(net, Reversible) and net.times is not None):
            inside = net.layer if isinstance(net, Repeat) else Reversible(*net.layers)
            here = start if isinstance(net, Repeat) else at
            each = [jax.tree.map(lambda p, t=t: p[t], params) for t in range(net.times or 0)]
            found = [self.read(inside, p, here, path, (*times, t), None)[0] for t, p in enumerate(each)]
            return jax.tree.map(lambda *ps: jnp.stack(ps), *found), None
        if isinstance(net, Reversible):
            each = enumerate(zip(net.layers, params, strict=True))
            return tuple(self.read(f, p, f"{start}[{i}]", (*path, str(i)), times, None)[0] for i, (f, p) in each), None
        if isinstance(net, Tied):
            self.shared |= {(*path, *map(str, place)) for _, place in net.ties}
            found, flat = self.read(net.layer, net._inner(params), start, path, times, flat)
            return net._own(found, buffers), flat
        if isinstance(net, Frozen):
            found, flat = self.read(net.layer, net.merge(params), start, path, times, flat)
            return net.split(found), flat
        if isinstance(net, Wrapper) and isinstance(net, OPENED) and type(net)._inner is Wrapper._inner:
            found, flat = self.read(net.layer, params, start, path, times, flat)
            return found, None if isinstance(net, Residual) else flat
        row, came = self.rows[at], self.rows[at].given[1]
        if isinstance(net, layers.Flatten) and len(came.shape) > 2:
            return params, came.shape
        if not jax.tree.leaves(trainable(params)):
            return params, flat if row.output == show(came) else None
        return self.runs(net, params, path, times, flat, "_l0"), None

    def runs(self, layer: Any, params: Any, path: Path, times: tuple[int, ...], flat: Any, ending: str) -> Any:
        """The parameters of a layer, of each run of a recurrent one: PyTorch has all in one module, "_l1_reverse"."""
        if isinstance(layer, layers.Lengths):
            return self.runs(layer.layer, params, path, times, flat, ending)
        if isinstance(layer, layers.Bidirectional):
            ways = zip(params, (ending, f"{ending}_reverse"), strict=True)
            return tuple(self.runs(layer.layer, p, path, times, flat, end) for p, end in ways)
        if isinstance(layer, layers.Stack):
            step = 1 if layer.dropout is None else 2  # between the layers are keys of dropout
            each = enumerate(params)
            return tuple(
                p if n % step else self.runs(layer.layer, p, path, times, flat, f"_l{n // step}") for n, p in each
            )
        return self.taken_in(layer, params, path, times, flat, ending)

    def taken_in(self, layer: Any, params: Any, path: Path, times: tuple[int, ...], flat: Any, ending: str) -> Any:
        own = "/".join(path)
        rules = next((self.rules[kind] for kind in type(layer).__mro__ if kind in self.rules), None)
        if rules is None:
            raise TreeError(
                f"{self.call}: got {layer!r} at {own or 'the network'}, whose weights it does not know; expected one "
                f"of {', '.join(kind.__name__ for kind in self.rules)}. Read its parameters by hand, and put "
                "the others together with jbp.replace."
            )
        prefix = self.prefix(layer, own, path, rules, times, ending)
        if prefix is None:
            return params
        found = {}
        for name, p in params.items():
            like = p.value if isinstance(p, Buffer) else p
            options = [(tuple(n.format(ending) for n in theirs), f) for theirs, f in rules.get(name, ())]
            options += [(tuple(n.format("") for n in theirs), f) for theirs, f in rules.get(name, ())]
            options = [([_joined(prefix, n) for n in theirs], f) for theirs, f in options]
            there = next(((theirs, f) for theirs, f in options if all(n in self.arrays for n in theirs)), None)
            if there is None:
                if name == "key" or (*path, name) in self.shared:
                    found[name] = p
                    continue
                if name == "steps":
                    found[name] = Buffer(jnp.ones_like(like))  # a file without the number has seen some
                    continue
                raise TreeError(
                    f"{self.call}: got no {' or '.join(options[0][0]) if options else name} for {own}/{name} "
                    f"{show(like)}; expected it among {_few(self.arrays)}. Give the module, names={{{own!r}: ...}}."
                )
            theirs, f = there
            self.taken |= set(theirs)
            arrays = [_array(self.arrays[n]) for n in theirs]
            try:
                value = f(layer, like.shape, *arrays)
            except ValueError:  # it does not split or reshape so
                value = None
            if value is None or value.shape != like.shape:
                came = ", ".join(f"{n} {show(a)}" for n, a in zip(theirs, arrays, strict=True))
                raise TreeError(
                    f"{self.call}: got {came} for {own}/{name} {show(like)}; expected numbers for this shape. Is it "
                    "another module's, or has the layer another size?"
                )
            if flat and self.theirs.channels_first and isinstance(layer, layers.Dense) and name == "w":
                value = np.moveaxis(value.reshape(flat[-1], *flat[1:-1], -1), 0, -2).reshape(value.shape)
            value = jnp.asarray(value).astype(like.dtype)
            found[name] = Buffer(value) if isinstance(p, Buffer) else value
        return found

    def prefix(self, layer, own, path, rules, times, ending):
        """The name of the module for a layer; None where there is none, and all of the layer is another's as well."""
        if own in self.names:
            return self.names[own].format(*times)
        if self.theirs.modules:
            return self.numbered(layer, own)
        each = [n for options in rules.values() for theirs, _ in options for n in theirs]
        known = {n.format(end) for n in each for end in (ending, "")}
        left = (n for n in self.arrays if n not in self.taken and not any(fnmatchcase(n, p) for p in self.ignore))
        given = [name.replace("{}", "*") for name in self.names.values()]
        first = next((n for n in left if not any(fnmatchcase(n, f"{g}.*") or n == g for g in given)), None)
        fits = [n for n in known if n and first is not None and (first == n or first.endswith(f".{n}"))]
        if fits and first:
            return first.removesuffix(max(fits, key=len)).rstrip(".")
        if all((*path, name) in self.shared for name in rules if name in ("e", "w")):
            return None
        raise TreeError(
            f"{self.call}: got {first or 'nothing more'} where {own or 'the network'}, {layer!r}, is next; expected a "
            f"name that ends with one of {', '.join(sorted(filter(None, known)))}. Say which module it is, "
            f"names={{{own!r}: ...}}."
        )

    def numbered(self, layer: Any, own: str) -> str:
        """The module of Linen that comes next of its kind, "Dense_2": jit sorts names, so no other order lasts."""
        kinds = next(self.theirs.modules[kind] for kind in type(layer).__mro__ if kind in self.theirs.modules)
        found = {}
        for name in self.arrays if not self.names else ():
            for end in re.finditer(rf"(?:^|(?<=\.))(?:{'|'.join(kinds)})_(\d+)(?=\.)", name):
                if name not in self.taken:
                    found[name[: end.end()]] = name[: end.start()], int(end[1])
        if not found or len({parent for parent, _ in found.values()}) > 1:
            raise TreeError(
                f"{self.call}: got {', '.join(found) or 'no module'} for {own or 'the network'}, {layer!r}; expected "
                f"one that is numbered, {kinds[0]}_0, and no others elsewhere, for names of Flax have no order. Say "
                f"which module each layer has: names={{{own!r}: ...}}."
            )
        return min(found, key=lambda name: found[name][1])


def _all_paths(params: Any) -> list[tuple[str, ...]]:
    """The paths of all arrays, without what wrappers put between."""
    found = []
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        steps = [getattr(k, "key", getattr(k, "idx", None)) for k in path if not hasattr(k, "name")]
        found.append(tuple(str(step) for step in steps if step not in ("frozen", "trained")))
    return found


def _joined(prefix: str, name: str) -> str:
    return ".".join(filter(None, (prefix, name)))


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + f" and {len(names) - 12} more" * (len(names) > 12)
