"""Layers made of layers. Each is the chain rule for one way of joining them, written once; all are layers again.

Residuals, deltas and gradients of a combinator have the shape of its parameters: a tuple for a tuple of children.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jbp.errors import LayerError, at, show
from jbp.layer import Layer
from jbp.layers.shape import Static
from jbp.params import Buffer, buffers, merge, trainable


def shape_after(layer: Layer, params: Any, x: Any) -> Any:
    """The shapes and dtypes of layer's output: what the next layer's `init` is given."""
    leaves, structure = jax.tree.flatten((params, x))
    return _shape_after(layer, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@lru_cache(maxsize=4096)
def _shape_after(layer, structure, leaves):
    params, x = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    return jax.eval_shape(lambda params, x: layer.forward(params, x)[0], params, x)


@dataclass(frozen=True, init=False)
class _Several(Layer):
    layers: tuple[Layer, ...]

    def __init__(self, *several: Layer, layers: tuple[Layer, ...] = ()):
        object.__setattr__(self, "layers", several or tuple(layers))  # `layers=` is what dataclasses.replace passes

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"

    def _each(self, what, tree, *trees):
        """(place, child, its part of each tree), after a check that there is one part for every child."""
        if not isinstance(tree, tuple | list) or len(tree) != len(self.layers):
            raise LayerError(
                self,
                f"got {what} {show(tree)}; expected a tuple of {len(self.layers)}, one for each layer. "
                f"Are these the {what} of another network?",
            )
        return [(f"[{i}]", *rest) for i, rest in enumerate(zip(self.layers, tree, *trees, strict=True))]

    def gradient(self, residuals, delta, /):
        grads = []
        for i, layer, r, d in self._each("residuals", residuals, delta):
            with at(self, i):
                grads.append(layer.gradient(r, d))
        return tuple(grads)

    def advance(self, params, residuals, /):
        return tuple(layer.advance(p, r) for _, layer, p, r in self._each("parameters", params, residuals))


@dataclass(frozen=True, init=False)
class Serial(_Several):
    """y = f_n(... f_1(x)).      dx_i = the error that f_{i+1} sends down: the four equations, layer after layer.

    Keeps what its layers keep. `Serial(Dense(8), Tanh(), Dense(1))`; parameters are a tuple, one entry a layer.
    """

    def init(self, key, x, /):
        params = []
        for i, layer in enumerate(self.layers):
            with at(self, f"[{i}]"):
                params.append(layer.init(jax.random.fold_in(key, i), x))
                x = shape_after(layer, params[-1], x)
        return tuple(params)

    def forward(self, params, x, /):
        residuals = []
        for i, layer, p in self._each("parameters", params):
            with at(self, i):
                x, r = layer.forward(p, x)
            residuals.append(r)
        return x, tuple(residuals)

    def backward(self, params, residuals, dy, /):
        deltas = []
        for i, layer, p, r in reversed(self._each("parameters", params, residuals)):
            with at(self, i):
                dy, delta = layer.backward(p, r, dy)
            deltas.append(delta)
        return dy, tuple(reversed(deltas))

    def pull(self, params, residuals, dy, /):
        grads = []
        for i, layer, p, r in reversed(self._each("parameters", params, residuals)):
            with at(self, i):
                dy, g = layer.pull(p, r, dy)
            grads.append(g)
        return dy, tuple(reversed(grads))

    def reference(self, params, x, /):
        for layer, p in zip(self.layers, params, strict=True):
            x = layer.reference(p, x)
        return x


@dataclass(frozen=True, init=False)
class Parallel(_Several):
    """(y_1, ..., y_n) = (f_1(x_1), ..., f_n(x_n)).      dx_i = what f_i sends down.

    x is a tuple with one entry a layer: put a FanOut before it to give all the same x, an Add or a Concatenate after it
    to join what comes out.
    """

    def init(self, key, x, /):
        params = []
        for i, (at_i, layer, x_i) in enumerate(self._each("inputs", x)):
            with at(self, at_i):
                params.append(layer.init(jax.random.fold_in(key, i), x_i))
        return tuple(params)

    def forward(self, params, x, /):
        self._each("parameters", params)
        outputs = []
        for i, layer, x_i, p in self._each("inputs", x, params):
            with at(self, i):
                outputs.append(layer.forward(p, x_i))
        return tuple(y for y, _ in outputs), tuple(r for _, r in outputs)

    def _down(self, way, params, residuals, dy):
        down = []
        for i, layer, p, r, d in self._each("parameters", params, residuals, dy):
            with at(self, i):
                down.append(getattr(layer, way)(p, r, d))
        return tuple(dx for dx, _ in down), tuple(delta for _, delta in down)

    def backward(self, params, residuals, dy, /):
        return self._down("backward", params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down("pull", params, residuals, dy)

    def reference(self, params, x, /):
        return tuple(layer.reference(p, x_i) for layer, p, x_i in zip(self.layers, params, x, strict=True))


@dataclass(frozen=True)
class Residual(Layer):
    """y = x + f(x).      dx = dy + what f sends down.

    Keeps what f keeps. Parameters are f's. (He et al., *Identity Mappings in Deep Residual Networks*, 2016, §2.)
    Raises LayerError if f does not keep shape and dtype.
    """

    layer: Layer

    def init(self, key, x, /):
        with at(self):
            return self.layer.init(key, x)

    def forward(self, params, x, /):
        with at(self):
            y, r = self.layer.forward(params, x)
        same_shape(self, x, y)
        return jax.tree.map(jnp.add, x, y), r

    def backward(self, params, residuals, dy, /):
        with at(self):
            dx, delta = self.layer.backward(params, residuals, dy)
        return jax.tree.map(jnp.add, dy, dx), delta

    def gradient(self, residuals, delta, /):
        with at(self):
            return self.layer.gradient(residuals, delta)

    def pull(self, params, residuals, dy, /):
        with at(self):
            dx, grads = self.layer.pull(params, residuals, dy)
        return jax.tree.map(jnp.add, dy, dx), grads

    def advance(self, params, residuals, /):
        return self.layer.advance(params, residuals)

    def reference(self, params, x, /):
        return jax.tree.map(jnp.add, x, self.layer.reference(params, x))


@dataclass(frozen=True)
class Passing(Layer):
    """(y, c, ...) = (f(x, c, ...), c, ...): what f looks at beside x goes on, for the next layer to look at it again.

        (dx, dc, ...) = what f sends down, with what comes from above for c, ... added

    f takes a tuple, and y is like x where the same follows again: `Repeat(Passing(f), n)`. `Select(0)` lets go
    of the rest. Keeps what f keeps. Parameters are f's. Raises LayerError for anything but a tuple of two or more.
    """

    layer: Layer

    def _tuple(self, x):
        if not isinstance(x, tuple | list) or len(x) < 2:
            raise LayerError(
                self, f"got x {show(x)}; expected a tuple (x, c, ...). For a layer of one input leave out Passing."
            )
        return tuple(x)

    def init(self, key, x, /):
        with at(self):
            return self.layer.init(key, self._tuple(x))

    def forward(self, params, x, /):
        x = self._tuple(x)
        with at(self):
            y, r = self.layer.forward(params, x)
        return (y, *x[1:]), r

    def _down(self, way, params, residuals, dy):
        with at(self):
            (dx, *down), rest = way(params, residuals, dy[0])

        def both(d, above):  # integers have no error, whatever comes from above
            return None if d is None else d + above

        return (dx, *jax.tree.map(both, down, list(dy[1:]), is_leaf=lambda d: d is None)), rest

    def backward(self, params, residuals, dy, /):
        return self._down(self.layer.backward, params, residuals, dy)

    def gradient(self, residuals, delta, /):
        with at(self):
            return self.layer.gradient(residuals, delta)

    def pull(self, params, residuals, dy, /):
        return self._down(self.layer.pull, params, residuals, dy)

    def advance(self, params, residuals, /):
        return self.layer.advance(params, residuals)

    def reference(self, params, x, /):
        return (self.layer.reference(params, x), *x[1:])


@dataclass(frozen=True)
class Repeat(Layer):
    """y = f(θ_n, ... f(θ_1, x)): one layer `times` times, each with parameters of its own, in one `lax.scan`.

    Parameters, residuals and gradients are f's, stacked along a new first axis. `pull` makes each step's gradient
    inside its scan and stores no deltas; `backward` and `gradient`, apart, store those of all steps. Compile time does
    not grow with `times`. Raises LayerError if f does not keep shape and dtype, and for times < 1.
    """

    layer: Layer
    times: int

    scans: ClassVar = True  # who runs networks without `jit` had better compile this one as a whole

    def __post_init__(self):
        if self.times < 1:
            raise LayerError(self, f"got times={self.times}; expected 1 or more. For no layer at all write Serial().")

    def init(self, key, x, /):
        with at(self):
            params = jax.vmap(lambda key: self.layer.init(key, x))(jax.random.split(key, self.times))
            same_shape(self, x, shape_after(self.layer, jax.tree.map(lambda p: p[0], params), x))
        return params

    def forward(self, params, x, /):
        stacked(self, params, self.times)

        def step(x, params):
            with at(self):
                y, r = self.layer.forward(params, x)
            same_shape(self, x, y)
            return y, r

        return lax.scan(step, x, params, length=self.times)

    def _down(self, way, params, residuals, dy):
        def step(dy, now):
            with at(self):
                return way(*now, dy)

        return lax.scan(step, dy, (params, residuals), length=self.times, reverse=True)

    def backward(self, params, residuals, dy, /):
        return self._down(self.layer.backward, params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down(self.layer.pull, params, residuals, dy)

    def _each(self, f, *trees):
        return lax.scan(lambda _, now: (None, f(*now)), None, trees, length=self.times)[1]

    def gradient(self, residuals, delta, /):
        with at(self):
            return self._each(self.layer.gradient, residuals, delta)

    def advance(self, params, residuals, /):
        return self._each(self.layer.advance, params, residuals)

    def reference(self, params, x, /):
        for i in range(self.times):
            x = self.layer.reference(jax.tree.map(lambda p, i=i: p[i], params), x)
        return x


@dataclass(frozen=True)
class TimeDistributed(Layer):
    """y = f at every step: the first `axes` axes of x are one batch to f.      dx = what f sends down, unfolded.

    Keeps what f keeps, and the sizes. Parameters are f's. Shapes: x (b, t, ...), y (b, t, ...).
    `TimeDistributed(Conv(8))` runs on every frame of a film (b, t, n, n, c). x and y may be pytrees of floating arrays
    that share those axes. Raises LayerError where they do not.
    """

    layer: Layer
    axes: int = 2

    def _sizes(self, x):
        sizes = {v.shape[: self.axes] for v in jax.tree.leaves(x)}
        if len(sizes) != 1 or len(next(iter(sizes))) != self.axes or self.axes < 1:
            raise LayerError(
                self,
                f"got x {show(x)}; expected arrays (batch, time, ...) that share their first {self.axes} axes. "
                "Add the missing axes with x[:, None].",
            )
        return sizes.pop()

    def _folded(self, x):
        def fold(v):
            shape = (math.prod(v.shape[: self.axes]), *v.shape[self.axes :])
            return jax.ShapeDtypeStruct(shape, v.dtype) if isinstance(v, jax.ShapeDtypeStruct) else v.reshape(shape)

        return jax.tree.map(fold, x)

    def _unfolded(self, y, sizes):
        return jax.tree.map(lambda v: v.reshape(*sizes, *v.shape[1:]), y)

    def init(self, key, x, /):
        self._sizes(x)
        with at(self):
            return self.layer.init(key, self._folded(x))

    def forward(self, params, x, /):
        sizes = self._sizes(x)
        with at(self):
            y, r = self.layer.forward(params, self._folded(x))
        return self._unfolded(y, sizes), (r, Static(sizes))

    def _down(self, way, params, residuals, dy):
        r, sizes = residuals
        with at(self):
            dx, down = way(params, r, self._folded(dy))
        return self._unfolded(dx, sizes.value), down

    def backward(self, params, residuals, dy, /):
        return self._down(self.layer.backward, params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down(self.layer.pull, params, residuals, dy)

    def gradient(self, residuals, delta, /):
        with at(self):
            return self.layer.gradient(residuals[0], delta)

    def advance(self, params, residuals, /):
        return self.layer.advance(params, residuals[0])

    def reference(self, params, x, /):
        return self._unfolded(self.layer.reference(params, self._folded(x)), self._sizes(x))


@dataclass(frozen=True)
class Tied(Layer):
    """One parameter in several places: `ties` are pairs (from, to) of paths into f's parameters.

        y = f(θ) with θ[to] = θ[from]      dθ[from] = dθ[from] + Σ dθ[to]

    `Tied(Serial(Embedding(v, d), body, Logits(v)), (((0, "e"), (2, "e")),))` has one table. A path may name a whole
    subtree. Only what is trained is shared: each place keeps its own Buffers. Parameters are f's, with None at `to`.
    Raises LayerError for a path that leads nowhere and for shapes that differ.
    """

    layer: Layer
    ties: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...]

    def _look(self, tree, path):
        step = None
        try:
            for step in path:
                tree = tree[step]
        except (KeyError, IndexError, TypeError) as error:
            raise LayerError(
                self,
                f"got the path {path}, but there is no {step!r} in {show(tree)}; expected keys and indices "
                "into the parameters of the layer inside. Look at them with net.layer.init(key, x).",
            ) from error
        return tree

    def _shared(self, params):
        """f's own parameters, each `to` filled from its `from`."""
        for source, place in self.ties:
            one, other = trainable(self._look(params, source)), self._look(params, place)
            params = _put(params, place, merge(one, other))
        return params

    def _own(self, tree, held, add=None):
        """f's tree without what is shared, `to` being cleared by `held`; `add` joins what was there to `from`."""
        for source, place in reversed(self.ties):
            part = self._look(tree, place)
            if add:
                tree = _put(tree, source, jax.tree.map(add, self._look(tree, source), part))
            tree = _put(tree, place, held(part))
        return tree

    def init(self, key, x, /):
        with at(self):
            params = self.layer.init(key, x)
        for source, place in self.ties:
            one, other = trainable(self._look(params, source)), trainable(self._look(params, place))
            if show(one) != show(other):
                raise LayerError(
                    self,
                    f"got {show(one)} at {source} and {show(other)} at {place}; expected one shape to share. "
                    "Tie parts that are alike, or change the sizes of the layers.",
                )
        return self._own(params, buffers)

    def forward(self, params, x, /):
        with at(self):
            return self.layer.forward(self._shared(params), x)

    def backward(self, params, residuals, dy, /):
        with at(self):
            return self.layer.backward(self._shared(params), residuals, dy)

    def _sum(self, grads):
        return self._own(grads, lambda part: jax.tree.map(lambda _: None, part), jnp.add)

    def gradient(self, residuals, delta, /):
        with at(self):
            return self._sum(self.layer.gradient(residuals, delta))

    def pull(self, params, residuals, dy, /):
        with at(self):
            dx, grads = self.layer.pull(self._shared(params), residuals, dy)
        return dx, self._sum(grads)

    def advance(self, params, residuals, /):
        return self._own(self.layer.advance(self._shared(params), residuals), buffers)

    def reference(self, params, x, /):
        return self.layer.reference(self._shared(params), x)


def _put(tree, path, value):
    """The tree with `value` at `path`; tuples and dicts on the way are made anew."""
    if not path:
        return value
    step, *rest = path
    if isinstance(tree, dict):
        return tree | {step: _put(tree[step], rest, value)}
    step = range(len(tree))[step]
    return type(tree)(_put(v, rest, value) if i == step else v for i, v in enumerate(tree))


def after(dy: Any, x: Any) -> Any:
    """x, which the compiler cannot have before dy: times a 1 that it does not know to be one.

    Without it the compiler would merge the second run with the first, or run all of them early, and keep everything.
    `lax.optimization_barrier` stops the merging, but on CPUs not the early runs (a test compares working memory).
    """
    seen = [d for d in jax.tree.leaves(dy) if d.size]
    if not seen:
        return x
    first = lax.slice(seen[0], (0,) * seen[0].ndim, (1,) * seen[0].ndim).reshape(())
    k = (first > 0).astype(jnp.int32)
    one = k * (k - 1) + 1
    return jax.tree.map(lambda v: v * one.astype(v.dtype) if jnp.issubdtype(v.dtype, jnp.number) else v, x)


@dataclass(frozen=True)
class Remat(Layer):
    """y = f(x), keeping x alone: f runs again on the way back.

    Memory is that of one layer's residuals at a time, time one more forward. delta is (f's residuals, f's delta).
    (Griewank & Walther, *Evaluating Derivatives*, 2008, ch. 12.)
    """

    layer: Layer

    def init(self, key, x, /):
        with at(self):
            return self.layer.init(key, x)

    def forward(self, params, x, /):
        with at(self):
            return self.layer.forward(params, x)[0], x

    def _again(self, params, x, dy):
        return self.layer.forward(params, after(dy, x))[1]

    def backward(self, params, x, dy, /):
        with at(self):
            r = self._again(params, x, dy)
            dx, delta = self.layer.backward(params, r, dy)
        return dx, (r, delta)

    def gradient(self, x, delta, /):
        with at(self):
            return self.layer.gradient(*delta)

    def pull(self, params, x, dy, /):
        with at(self):
            return self.layer.pull(params, self._again(params, x, dy), dy)

    def advance(self, params, x, /):
        return self.layer.advance(params, self.layer.forward(params, x)[1])

    def reference(self, params, x, /):
        return self.layer.reference(params, x)


@dataclass(frozen=True)
class Frozen(Layer):
    """y = f(x) with parameters that the loss does not move: all of them in one Buffer. No gradient is computed.

    To freeze a trained layer put its parameters in a Buffer: `Frozen(layer)` takes `Buffer(params)`. f's own buffers
    still advance; `Frozen(f.evaluation())` stops them too.
    """

    layer: Layer

    def init(self, key, x, /):
        with at(self):
            return Buffer(self.layer.init(key, x))

    def _inside(self, params):
        if not isinstance(params, Buffer):
            raise LayerError(
                self, f"got parameters {show(params)}; expected them in a Buffer. Write Buffer(params) to freeze them."
            )
        return params.value

    def forward(self, params, x, /):
        with at(self):
            return self.layer.forward(self._inside(params), x)

    def backward(self, params, residuals, dy, /):
        with at(self):
            return self.layer.backward(params.value, residuals, dy)[0], ()

    def gradient(self, residuals, delta, /):
        return None

    def advance(self, params, residuals, /):
        return Buffer(self.layer.advance(params.value, residuals))

    def reference(self, params, x, /):
        return self.layer.reference(params.value, x)


def stacked(layer: Layer, params: Any, times: int | None) -> None:
    """An error unless every parameter has a first axis of `times`."""
    if {p.shape[:1] for p in jax.tree.leaves(params)} - {(times,)}:
        raise LayerError(
            layer,
            f"got parameters {show(params)}; expected each with a first axis of {times}. "
            "Are these the parameters of another network? Make them with net.init(key, x).",
        )


def same_shape(layer: Layer, x: Any, y: Any) -> None:
    """An error unless f's output y has the structure, shapes and dtypes of its input x."""
    if show(x) != show(y):
        raise LayerError(
            layer,
            f"got an inner layer from {show(x)} to {show(y)}; expected it to keep shape and dtype. "
            "End it with a layer that restores the shape, Dense(x.shape[-1]) for example.",
        )
