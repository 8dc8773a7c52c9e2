"""Layers by name, each with the names of what goes into it: several inputs, several outputs, values used twice."""

from dataclasses import dataclass, replace
from typing import Any

import jax

from jbp.combinators.sequence import InTurn
from jbp.compose import a_tuple
from jbp.errors import LayerError, at, show


@dataclass(frozen=True, init=False)
class Graph(InTurn):
    """vⱼ = fⱼ(the values that it reads), one after the other.      dv = Σ what each reader of v returns for it

    A layer comes with the names of what it reads: inputs, or layers before it.

        Graph(
            seen=(Serial(Conv(8), ReLU(), Flatten()), "image"),
            both=(Concatenate(), "seen", "facts"),
            kind=(Dense(3), "both"),
            size=(Dense(1), "both"),
        )

    Of one name a layer gets the value, of several a tuple of them, of a dict, {"x": "both", "mask": "mask"}, a dict.
    The names that no layer has are the inputs: x is a dict with these, or the value itself if there is one alone. y is
    a dict of the values that nobody reads, {"kind": ..., "size": ...} here, or of the names in `outputs`; it is the
    value itself if one alone is left, or if `outputs` is one name. So a graph is a layer in a Serial, and in a Graph.

    Keeps what its layers keep. Parameters are a dict under the names of the layers. graph["kind"] is a layer inside,
    graph[1:] a graph whose inputs are what the layers before made. `Tied(graph, ((("left",), ("right",)),))` uses one
    set of weights in two places, and `losses.Total` is a loss of such a dict. Raises LayerError for a layer that is
    read before its turn, for one that nobody reads, and for an x with other names than the inputs.

    >>> net = Graph(seen=(Dense(4), "image"), both=(Concatenate(), "seen", "facts"), y=(Dense(1), "both"))
    >>> x = {"image": jnp.ones((2, 9)), "facts": jnp.ones((2, 3))}
    >>> net(net.init(jax.random.key(0), x), x).shape
    (2, 1)
    """

    sources: tuple[Any, ...]
    outputs: str | tuple[str, ...]

    def __init__(
        self, *, outputs: Any = None, layers: tuple[Any, ...] = (), names: Any = (), sources: Any = (), **nodes: Any
    ):  # `layers=`, `names=` and `sources=` are what dataclasses.replace passes
        for name, node in nodes.items():
            if not isinstance(node, tuple | list) or len(node) < 2:
                raise LayerError(
                    type(self),
                    f"got {name}={node!r}; expected a layer and the names of what it reads. Write {name}=(Dense(8), "
                    "'x').",
                )
        given = {"layers": layers, "names": names, "sources": sources}
        layers, names, sources = (a_tuple(type(self), name, value) for name, value in given.items())
        if len(sources) != len(layers) or not all(isinstance(source, tuple) and source for source in sources):
            raise LayerError(
                type(self), f"got sources={sources!r}; expected those of each layer. Write y=(Dense(8), 'x')."
            )
        super().__init__(layers=(*layers, *(node[0] for node in nodes.values())), names=(*names, *nodes))
        object.__setattr__(self, "sources", (*sources, *(_source(n, node[1:]) for n, node in nodes.items())))
        if not self.layers:
            raise LayerError(type(self), "got no layers; expected one or more. Write Graph(y=(Dense(8), 'x')).")
        for i, name in enumerate(self.names):
            if late := [other for other in _read(self.sources[i]) if other in self.names[i:]]:
                raise LayerError(
                    type(self),
                    f"got {name}, which reads {late[0]}; expected names of inputs, or of layers before it. Write the "
                    "layers in the order in which they run, and call no layer like an input.",
                )
        chosen = self._unread() if outputs is None else outputs
        chosen = chosen if isinstance(chosen, str) else a_tuple(type(self), "outputs", chosen)
        object.__setattr__(self, "outputs", chosen[0] if outputs is None and len(chosen) == 1 else chosen)
        self._check_outputs()

    def _check_outputs(self):
        several, there = self._several(), (*self.names, *self.inputs)
        if not several or not all(isinstance(name, str) for name in several) or len(set(several)) < len(several):
            raise LayerError(
                type(self), f"got outputs={self.outputs!r}; expected names. Write outputs=('kind', 'size')."
            )
        if unknown := [name for name in several if name not in there]:
            raise LayerError(
                type(self), f"got the output {unknown[0]!r}; expected one of {', '.join(there)}. Is it spelt so?"
            )
        if idle := [name for name in self._unread() if name not in several]:
            raise LayerError(
                type(self),
                f"got {idle[0]}, which is neither read nor an output; expected a use of it. Leave it out, or write "
                f"outputs={(*several, idle[0])!r}.",
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names that no layer has, in the order in which they are read."""
        read = dict.fromkeys(name for source in self.sources for name in _read(source))
        return tuple(name for name in read if name not in self.names)

    def reads(self, name: str) -> tuple[str, ...]:
        """What the layer of this name reads."""
        return tuple(_read(self.sources[self.names.index(name)]))

    def _unread(self) -> tuple[str, ...]:
        read = {name for source in self.sources for name in _read(source)}
        return tuple(name for name in self.names if name not in read)

    def _several(self) -> tuple[str, ...]:
        return (self.outputs,) if isinstance(self.outputs, str) else self.outputs

    def _arguments(self):
        for name, layer, source in zip(self.names, self.layers, self.sources, strict=True):
            yield name, (layer, *([dict(source)] if isinstance(source[0], tuple) else source))
        unread = self._unread()
        if self.outputs != (unread[0] if len(unread) == 1 else unread):
            yield "outputs", self.outputs

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            parts = {"layers": self.layers[key], "names": self.names[key], "sources": self.sources[key]}
            return replace(self, **parts, outputs=None)
        return super().__getitem__(key)

    def _given(self, x: Any) -> dict[str, Any]:
        """The inputs by name."""
        names = self.inputs
        if len(names) == 1:
            return {names[0]: x}
        if not isinstance(x, dict) or set(x) != set(names):
            raise LayerError(
                self,
                f"got x {show(x)}; expected a dict with {', '.join(map(repr, names))}, what the layers read. "
                "Give every input by its name, and leave out what is none.",
            )
        return dict(x)

    def _init(self, key, x, padded):
        values, params = self._given(x), []
        filled = dict.fromkeys(values, padded)  # whether a value holds padding behind its end
        for i, (name, source) in enumerate(zip(self.names, self.sources, strict=True)):
            before = any(filled[other] for other in _read(source))
            found, values[name], filled[name] = self._begun(i, key, _gathered(values, source), before)
            params.append(found)
        return self.whole(params)

    def forward(self, params, x, /):
        values, residuals = self._given(x), []
        for (label, layer, p), name, source in zip(
            self._each(parameters=params), self.names, self.sources, strict=True
        ):
            with at(self, label):
                values[name], r = layer.forward(p, _gathered(values, source))
            residuals.append(r)
        return self._chosen(values), self.whole(residuals)

    def _down(self, way, params, residuals, dy):
        errors: dict[str, Any] = {}  # dv of each value, the sum of what its readers have returned so far
        for name, d in self._chosen_errors(dy):
            _add(errors, name, d)
        down = []
        each = zip(self._each(parameters=params, residuals=residuals), self.names, self.sources, strict=True)
        for (label, layer, p, r), name, source in reversed(list(each)):
            with at(self, label):
                dx, found = getattr(layer, way)(p, r, errors.pop(name))
            down.append(found)
            for other, d in _scattered(dx, source):
                _add(errors, other, d)
        names = self.inputs
        dx = errors[names[0]] if len(names) == 1 else {name: errors[name] for name in names}
        return dx, self.whole(reversed(down))

    def backward(self, params, residuals, dy, /):
        return self._down("backward", params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down("pull", params, residuals, dy)

    def _chosen(self, values):
        return values[self.outputs] if isinstance(self.outputs, str) else {name: values[name] for name in self.outputs}

    def _chosen_errors(self, dy):
        if isinstance(self.outputs, str):
            return [(self.outputs, dy)]
        if not isinstance(dy, dict) or set(dy) != set(self.outputs):
            raise LayerError(
                self,
                f"got the cotangent {show(dy)}; expected a dict with {', '.join(map(repr, self.outputs))}, as the "
                "output is. Give one for each, losses.Total for example.",
            )
        return dy.items()

    def reference(self, params, x, /):
        values = self._given(x)
        for name, layer, source, p in zip(self.names, self.layers, self.sources, self.parts(params), strict=True):
            values[name] = layer.reference(p, _gathered(values, source))
        return self._chosen(values)


def _source(name: str, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a layer reads: names, or pairs (its own name for it, name)."""
    if len(given) == 1 and isinstance(given[0], dict):
        given = tuple(given[0].items())
        words = [word for pair in given for word in pair]
    else:
        words = given
    if not given or not all(isinstance(word, str) for word in words):
        raise LayerError(
            Graph,
            f"got {name}, which reads {', '.join(map(repr, given))}; expected names, or a dict of them. Write {name}="
            "(Add(), 'x', 'y'), or (MultiHeadAttention(2), {'x': 'x', 'mask': 'mask'}).",
        )
    return given


def _read(source):
    """The names of the values."""
    return [pair[1] if isinstance(pair, tuple) else pair for pair in source]


def _gathered(values, source):
    """What the layer gets."""
    if isinstance(source[0], tuple):
        return {own: values[name] for own, name in source}
    return values[source[0]] if len(source) == 1 else tuple(values[name] for name in source)


def _scattered(dx, source):
    """(name, what the layer returns for it) of each value that it has read."""
    if isinstance(source[0], tuple):
        return [(name, dx[own]) for own, name in source]
    return [(source[0], dx)] if len(source) == 1 else list(zip(source, dx, strict=True))


def _add(errors, name, d):
    """One more reader's error of the value. Integers have none, whoever reads them."""
    if name in errors:
        d = jax.tree.map(lambda a, b: None if a is None else a + b, errors[name], d, is_leaf=lambda a: a is None)
    errors[name] = d
