"""Parameters out of the weights of PyTorch, Flax and Keras: by name, in the layouts that layers have here.

    params = weights.from_torch(net, x, model.state_dict())
    params = weights.from_torch(net, x, weights.safetensors("model.safetensors"), {"body/0": "features.0"})
    params = weights.from_flax(net, x, variables)  # of Linen, or nnx.to_pure_dict(nnx.state(model))
    params = weights.from_keras(net, x, {w.path: w for w in model.weights})

Each layer takes the next module that is left, in the order of the network and of the file, or the one that `names` has
for its path: always, for Flax, if modules have names of their own. What a layer lacks, what no layer takes and what has
another shape is an error with its name.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
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
Path_ = tuple[str, ...]
Shape = tuple[int, ...]


def from_torch(
    net: Layer, x: Any, arrays: Arrays, names: Mapping[str, str] | None = None, *, ignore: Iterable[str] = ()
) -> Any:
    """The network's parameters out of a state_dict of PyTorch; x is an input, or its shape.

    `names` has the prefix of a module for the path of a layer, {"body/0": "features.0"}; inside of a Repeat {} in it is
    the number of the time, {"blocks/norm": "h.{}.ln_1"}. Layers that are not in it take the modules that are left, in
    order. What fits a pattern in `ignore` may be left over. A Dense after a Flatten of images gets its rows in our
    order, in which channels are last; after a Concatenate of such it does not. Keys of dropout are new.

    Raises TreeError, with the names, for what is missing, left over or of another shape.

    >>> state_dict = {"0.weight": np.ones((4, 3)), "0.bias": np.zeros(4)}  # of torch.nn.Linear(3, 4)
    >>> params = jbp.weights.from_torch(Dense(4), jnp.ones((1, 3)), state_dict)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': (3, 4)}
    """
    return _Reader("from_torch", TORCH, _flat(arrays), names, ignore)(net, x)


def from_flax(
    net: Layer, x: Any, arrays: Arrays, names: Mapping[str, str] | None = None, *, ignore: Iterable[str] = ()
) -> Any:
    """The network's parameters out of Flax: the variables of Linen, or the pure dict of an NNX state.

    `names` and `ignore` are as of `from_torch`, modules in modules joined by dots: "encoder.Dense_0". Dicts of Flax
    have no order that lasts, so without names modules have to be numbered by Linen, those of a kind in one place.

    >>> variables = {"params": {"Dense_0": {"kernel": np.ones((3, 4)), "bias": np.zeros(4)}}}
    >>> params = jbp.weights.from_flax(Dense(4), jnp.ones((1, 3)), variables)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': (3, 4)}
    """
    whole = "params" in arrays
    found = _flat(arrays["params"]) | _flat(arrays.get("batch_stats", {})) if whole else _flat(arrays)
    return _Reader("from_flax", FLAX, found, names, ignore)(net, x)


def from_keras(
    net: Layer, x: Any, arrays: Arrays, names: Mapping[str, str] | None = None, *, ignore: Iterable[str] = ()
) -> Any:
    """The network's parameters out of Keras 3: {w.path: w for w in model.weights}.

    `names` and `ignore` are as of `from_torch`: "sequential/dense_1". Keys of its dropout are left over in any case.

    >>> arrays = {"sequential/dense/kernel": np.ones((3, 4)), "sequential/dense/bias": np.zeros(4)}
    >>> params = jbp.weights.from_keras(Dense(4), jnp.ones((1, 3)), arrays)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': (3, 4)}
    """
    return _Reader("from_keras", KERAS, _flat(arrays), names, (*ignore, "*seed_generator_state"))(net, x)


def safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, by name. Raises TreeError for a torn file and one of another kind."""
    data = Path(path).read_bytes()
    length, found = int.from_bytes(data[:8], "little"), {}
    try:
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, (start, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"]
            if not 0 <= start <= end <= len(body) or end - start != dtype.itemsize * math.prod(entry["shape"]):
                raise ValueError(f"{name} does not lie in it")
            found[name] = np.frombuffer(body[start:end], dtype).reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TreeError(
            f"safetensors: got {path}, which cannot be read ({error}); expected the whole of such a file. Copy it "
            "again."
        ) from error
    return found


_DTYPES: dict[str, Any] = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": jnp.bfloat16, "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip


def _flat(tree: Any, path: Path_ = ()) -> dict[str, Any]:
    """The arrays of nested dicts by their names joined by dots."""
    if isinstance(tree, Mapping):
        return {name: leaf for key, part in tree.items() for name, leaf in _flat(part, (*path, str(key))).items()}
    return {".".join(path).replace("/", "."): tree}


def _array(a: Any) -> np.ndarray:
    a = a.detach().cpu() if hasattr(a, "detach") else a  # a tensor of PyTorch
    try:
        return np.asarray(a)
    except TypeError:  # which NumPy does not know: bfloat16
        return np.asarray(a.float())


class _Reader:
    """One reading of a file: which arrays are taken, and by which names of modules."""

    def __init__(self, call: str, rules: Any, arrays: dict[str, Any], names: Any, ignore: Iterable[str]):
        self.call, self.rules, self.arrays, self.ignore = call, rules, arrays, tuple(ignore)
        self.names = {own.strip("/"): theirs.replace("/", ".") for own, theirs in (names or {}).items()}
        self.taken, self.rows = set[str](), dict[str, Row]()
        self.shared = set[Path_]()  # what a Tied has from another place

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

    def read(self, net: Any, params: Any, at: str, path: Path_, times: tuple[int, ...], flat: Any) -> tuple[Any, Any]:
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

    def runs(self, layer: Any, params: Any, path: Path_, times: tuple[int, ...], flat: Any, ending: str) -> Any:
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

    def taken_in(self, layer: Any, params: Any, path: Path_, times: tuple[int, ...], flat: Any, ending: str) -> Any:
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
            if flat and self.rules is TORCH and isinstance(layer, layers.Dense) and name == "w":
                value = np.moveaxis(value.reshape(flat[-1], *flat[1:-1], -1), 0, -2).reshape(value.shape)
            value = jnp.asarray(value).astype(like.dtype)
            found[name] = Buffer(value) if isinstance(p, Buffer) else value
        return found

    def prefix(self, layer, own, path, rules, times, ending):
        """The name of the module for a layer; None where there is none, and all of the layer is another's as well."""
        if own in self.names:
            return self.names[own].format(*times)
        if self.rules is FLAX:
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
        kinds = next(LINEN[kind] for kind in type(layer).__mro__ if kind in LINEN)
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


def _same(layer, shape, a):
    return a


def _turned(layer, shape, a):
    """A matrix, or what is one but for its axes, of outputs and inputs."""
    return a.T.reshape(shape)


def _as(layer, shape, a):
    return a.reshape(shape)


def _kernel(layer, shape, a):
    return np.moveaxis(a, (0, 1), (-1, -2))


def _transposed_kernel(layer, shape, a):
    """PyTorch's (i, o / groups, kernel...) as (kernel..., i / groups, o), the groups being those of o."""
    w = a.reshape(layer.groups, -1, *a.shape[1:])
    return np.moveaxis(w, (0, 1, 2), (-2, -3, -1)).reshape(shape)


def _flipped_kernel(layer, shape, a):
    return np.flip(a, tuple(range(a.ndim - 2)))


def _depthwise_kernel(layer, shape, a):
    """Keras's depthwise (kernel..., i, m) as (kernel..., 1, i m), each channel a group."""
    return a.reshape(shape) if layer.groups == a.shape[-2] else a


def _third(k, turn=False):
    """The k-th of three parts: PyTorch has the projections of queries, keys and values in one."""

    def part(layer, shape, a):
        a = np.split(a, 3)[k]
        return (a.T if turn else a).reshape(shape)

    return part


def _gates(order, axis=-1):
    """Their gates in our order; of several arrays, the two biases of PyTorch, the sum."""

    def ordered(layer, shape, *arrays):
        parts = np.split(sum(arrays), len(order), axis)
        whole = np.concatenate([parts[k] for k in order], axis)
        return whole.T if whole.ndim == 2 and axis == 0 else whole

    return ordered


def _joined_gates(layer, shape, *arrays):
    return np.concatenate(arrays, -1)


def _gru_bias(order):
    """The bias of the input, and that of the state added but for the candidate, which has its own."""

    def ordered(layer, shape, *arrays):
        if not layer.reset_after:
            raise ValueError("no such bias")
        a, c = (np.split(v, 3, -1) for v in arrays)
        return np.concatenate([a[order[0]] + c[order[0]], a[order[1]] + c[order[1]], a[order[2]]])

    return ordered


def _last_gate(layer, shape, a):
    return np.split(a.reshape(-1), a.size // shape[0])[-1]


_NORMS = layers.LayerNorm, layers.RMSNorm, layers.GroupNorm, layers.BatchNorm, layers.InstanceNorm
_EMBEDDINGS = layers.Embedding, layers.EmbeddingBag, layers.Logits
_LSTMS, _GRUS, _ELMANS = (layers.LSTM, layers.LSTMCell), (layers.GRU, layers.GRUCell), (layers.Elman, layers.ElmanCell)


def _one(name: str, change: Callable[..., Any] = _same) -> list[tuple[tuple[str, ...], Callable[..., Any]]]:
    return [((name,), change)]


def _for(kinds: tuple[type, ...], **rules: Any) -> dict[type, dict[str, Any]]:
    return dict.fromkeys(kinds, rules)


# Of each of our arrays: the names of theirs, and what makes ours of them; several ways if there are several.
TORCH = {
    layers.Dense: {"w": _one("weight", _turned), "b": _one("bias")},
    layers.Bilinear: {"w": _one("weight", lambda layer, shape, a: np.moveaxis(a, 0, -1)), "b": _one("bias")},
    layers.Conv: {"w": _one("weight", _kernel), "b": _one("bias")},
    layers.ConvTranspose: {"w": _one("weight", _transposed_kernel), "b": _one("bias")},
    **_for(_EMBEDDINGS, e=_one("weight")),
    layers.Positions: {"p": [*_one("weight"), *_one("", _as)]},
    layers.PReLU: {"a": _one("weight", _as)},
    **_for(
        _NORMS, g=_one("weight"), b=_one("bias"), mean=_one("running_mean"), variance=_one("running_var"),
        steps=_one("num_batches_tracked", lambda layer, shape, a: np.maximum(a, 1)),
    ),
    layers.MultiHeadAttention: {
        **{
            ours: [*_one("in_proj_weight", _third(k, True)), *_one(f"{ours}_proj_weight", _turned)]
            for k, ours in enumerate("qkv")
        },
        **{f"b_{ours}": _one("in_proj_bias", _third(k)) for k, ours in enumerate("qkv")},
        "o": _one("out_proj.weight", _turned),
        "b_o": _one("out_proj.bias"),
        "bias_k": _one("bias_k", _as),
        "bias_v": _one("bias_v", _as),
    },
    **_for(
        _LSTMS, w=_one("weight_ih{}", _gates((0, 1, 3, 2), 0)), u=_one("weight_hh{}", _gates((0, 1, 3, 2), 0)),
        b=[(("bias_ih{}", "bias_hh{}"), _gates((0, 1, 3, 2)))], p=_one("weight_hr{}", _turned),
    ),
    **_for(
        _GRUS, w=_one("weight_ih{}", _gates((1, 0, 2), 0)), u=_one("weight_hh{}", _gates((1, 0, 2), 0)),
        b=[(("bias_ih{}", "bias_hh{}"), _gru_bias((1, 0, 2)))], c=_one("bias_hh{}", _last_gate),
    ),
    **_for(
        _ELMANS, w=_one("weight_ih{}", _turned), u=_one("weight_hh{}", _turned),
        b=[(("bias_ih{}", "bias_hh{}"), _gates((0,)))],
    ),
}  # fmt: skip


def _attention(out: str) -> dict[str, Any]:
    """Of Flax and Keras, but for what they call the last projection."""
    theirs = {"q": "query", "k": "key", "v": "value", "o": out}
    kernels = {ours: _one(f"{name}.kernel", _as) for ours, name in theirs.items()}
    return kernels | {f"b_{ours}": _one(f"{name}.bias", _as) for ours, name in theirs.items()}


def _four(letters: str, end: str) -> tuple[str, ...]:
    return tuple(f"{two}.{end}" for two in letters.split())


FLAX = {
    layers.Dense: {"w": _one("kernel"), "b": _one("bias")},
    layers.Conv: {"w": _one("kernel"), "b": _one("bias")},
    layers.ConvTranspose: {"w": _one("kernel", _flipped_kernel), "b": _one("bias")},
    **_for(_EMBEDDINGS, e=[*_one("embedding"), *_one("kernel", _turned)]),
    layers.Positions: {"p": [*_one("embedding"), *_one("", _as)]},
    layers.PReLU: {"a": _one("negative_slope", _as)},
    **_for(_NORMS, g=_one("scale"), b=_one("bias"), mean=_one("mean"), variance=_one("var")),
    layers.MultiHeadAttention: _attention("out"),
    **_for(
        _LSTMS, w=[(_four("ii if io ig", "kernel"), _joined_gates)],
        u=[(_four("hi hf ho hg", "kernel"), _joined_gates)],
        b=[(_four("hi hf ho hg", "bias"), _joined_gates)],
    ),
    **_for(
        _GRUS, w=[(_four("iz ir in", "kernel"), _joined_gates)], u=[(_four("hz hr hn", "kernel"), _joined_gates)],
        b=[(_four("iz ir in", "bias"), _joined_gates)], c=_one("hn.bias"),
    ),
    **_for(_ELMANS, w=_one("i.kernel"), u=_one("h.kernel"), b=_one("i.bias")),
}  # fmt: skip

LINEN = {
    layers.Dense: ("Dense",),
    layers.Conv: ("Conv",),
    layers.ConvTranspose: ("ConvTranspose",),
    layers.Embedding: ("Embed",),
    layers.Logits: ("Dense",),
    layers.PReLU: ("PReLU",),
    **{kind: (kind.__name__,) for kind in _NORMS},
    layers.MultiHeadAttention: ("MultiHeadDotProductAttention", "MultiHeadAttention", "SelfAttention"),
    **dict.fromkeys(_LSTMS, ("OptimizedLSTMCell", "LSTMCell")),
    **dict.fromkeys(_GRUS, ("GRUCell",)),
    **dict.fromkeys(_ELMANS, ("SimpleCell",)),
    Layer: ("Embed",),
}

KERAS = {
    layers.Dense: {"w": _one("kernel"), "b": _one("bias")},
    layers.Conv: {"w": _one("kernel", _depthwise_kernel), "b": _one("bias")},
    layers.ConvTranspose: {"w": _one("kernel", lambda layer, shape, a: np.swapaxes(a, -1, -2)), "b": _one("bias")},
    **_for(_EMBEDDINGS, e=[*_one("embeddings"), *_one("kernel", _turned)]),
    layers.Positions: {"p": [*_one("embeddings"), *_one("", _as)]},
    layers.PReLU: {"a": _one("alpha", _as)},
    **_for(
        _NORMS, g=[*_one("gamma"), *_one("scale")], b=_one("beta"), mean=_one("moving_mean"),
        variance=_one("moving_variance"),
    ),
    layers.MultiHeadAttention: _attention("attention_output"),
    **_for(
        _LSTMS, w=_one("kernel", _gates((0, 1, 3, 2))), u=_one("recurrent_kernel", _gates((0, 1, 3, 2))),
        b=_one("bias", _gates((0, 1, 3, 2))),
    ),
    **_for(
        _GRUS, w=_one("kernel"), u=_one("recurrent_kernel"), c=_one("bias", _last_gate),
        b=_one("bias", lambda layer, shape, a: _gru_bias((0, 1, 2))(layer, shape, *a) if a.ndim == 2 else a),
    ),
    **_for(_ELMANS, w=_one("kernel"), u=_one("recurrent_kernel"), b=_one("bias")),
}  # fmt: skip
