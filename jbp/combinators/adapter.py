"""Low-rank adapters on any weights of any layer, by their paths."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from jbp.combinators.repeat import Repeat
from jbp.combinators.reversible import Reversible
from jbp.combinators.tied import put
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.fields import Hint, Positive, Size
from jbp.layer import Layer
from jbp.params import Buffer, fits, paths, trainable

PATHS = Hint('Write the names at which the paths of weights end: ("q", "v"), or ("0/w",) for that of one layer.')


@dataclass(frozen=True)
class LowRankAdapter(Wrapper):
    """y = f(x) with W + c A B in place of the weights W at `paths`, c = alpha / rank: f stays, A and B learn.

        dA = c dW Bᵀ      dB = c Aᵀ dW      with dW as f's own `gradient` gives it

    A path names every weight whose own path in f's parameters ends so: "q" those called q at any depth, "experts/w" or
    (2, "w") some of them, "encoder/*/q" those of a part, patterns as `jbp.labels` has them. So
    `LowRankAdapter(net, ("q", "v"), rank=8)` adapts the queries and values of every attention of a network, Conv(8) has
    "w", LSTM(8) "w" and "u". A weight with more than two axes is a matrix for this, its rows the first axis or all but
    the last, whichever gives the smaller A and B: a kernel (h, w, i, o) is (h w i, o), attention's queries (f, g, r, d)
    are (f, g r d). Weights that Repeat stacks have an A and a B each.

    Parameters are {"base": Buffer of f's, "adapters": {path: {"a": A, "b": B}}}: all else in f is frozen; f's own
    buffers still advance. `adapt` puts adapters around trained parameters, `merge` gives f's parameters again, with the
    adapters in them. A starts normal with variance 1 / rows, B at zero: y is f's. delta is (f's delta, A and B). Keeps
    what f keeps. (Hu et al., *LoRA*, 2021, §4.1.) Raises LayerError for paths that lead nowhere, and to less than a
    matrix.

    >>> net, x = LowRankAdapter(Dense(3), ("w",), rank=1), jnp.ones((2, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, trainable(params))
    {'adapters': {'w': {'a': (5, 1), 'b': (1, 3)}}, 'base': None}
    """

    layer: Layer
    paths: Annotated[tuple[Any, ...], PATHS]
    rank: Size
    alpha: Positive = 4.0

    as_one: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        paths = tuple(p if isinstance(p, tuple) else (p,) for p in self.paths)
        if not all(paths) or not all(isinstance(step, str | int) for path in paths for step in path):
            raise LayerError(self, f"got paths={self.paths}; expected names, or tuples of keys. {PATHS.text}")
        object.__setattr__(self, "paths", tuple(p[0] if len(p) == 1 else p for p in paths))

    def _sites(self, params: Any) -> dict[str, tuple[tuple[Any, ...], Any]]:
        """The weights to adapt, by a name that says where: the path and the weight."""
        trained = trainable(params)
        every = [
            (tuple(getattr(k, "key", getattr(k, "idx", None)) for k in path), names, w)
            for (path, w), names in zip(jax.tree_util.tree_leaves_with_path(trained), paths(trained), strict=True)
        ]
        found = {}
        for path in self.paths:
            pattern = "/".join(map(str, path)) if isinstance(path, tuple) else path
            sites = [(own, w) for own, names, w in every if fits(names, pattern)]
            if not sites:
                raise LayerError(
                    self,
                    f"got the path {path}, but no weight of {show(params)} has a path that ends so; expected the end "
                    "of one. Look at the parameters with net.layer.init(key, x).",
                )
            found |= {"/".join(map(str, own)): (own, w) for own, w in sites}
        return found

    def _cut(self, path, w):
        """(axes in front that count copies, rows, columns)."""
        stacks = _stacks(self.layer, path)
        shape = w.shape[stacks:]
        if len(shape) < 2:
            raise LayerError(
                self,
                f"got the weight {show(w)} at {path}; expected a matrix or more. Leave it out, it is small as it is.",
            )
        cuts = [(math.prod(shape[:k]), math.prod(shape[k:])) for k in (1, len(shape) - 1)]
        return w.shape[:stacks], *min(cuts, key=sum)

    def init(self, key, x, /):
        one, two = jax.random.split(key)
        with at(self):
            params = self.layer.init(one, x)
        return self.adapt(two, params)

    def adapt(self, key: Any, params: Any, /) -> dict[str, Any]:
        """The parameters of this layer around those of f, trained ones say."""
        adapters = {}
        for i, (name, (path, w)) in enumerate(self._sites(params).items()):
            copies, rows, columns = self._cut(path, w)
            a = jax.random.normal(jax.random.fold_in(key, i), (*copies, rows, self.rank), w.dtype) * rows**-0.5
            adapters[name] = {"a": a, "b": jnp.zeros((*copies, self.rank, columns), w.dtype)}
        return {"base": Buffer(params), "adapters": adapters}

    def merge(self, params: Any, /) -> Any:
        """f's parameters with W + c A B at the paths."""
        base, adapters = self._parts(params)
        merged = base
        for name, (path, w) in self._sites(base).items():
            a, b = (adapters[name][k].astype(w.dtype) for k in "ab")
            merged = put(merged, path, w + (self.alpha / self.rank) * (a @ b).reshape(w.shape))
        return merged

    def _parts(self, params):
        names = {"base", "adapters"}
        if not isinstance(params, dict) or set(params) != names or not isinstance(params["base"], Buffer):
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a dict with 'base', a Buffer, and 'adapters'. "
                "Make them with net.init(key, x), or net.adapt(key, params) around those of the layer inside.",
            )
        base, adapters = params["base"].value, params["adapters"]
        for name, (path, w) in self._sites(base).items():
            copies, rows, columns = self._cut(path, w)
            wanted = {"a": (*copies, rows, self.rank), "b": (*copies, self.rank, columns)}
            if {k: tuple(v.shape) for k, v in adapters.get(name, {}).items()} != wanted:
                raise LayerError(
                    self,
                    f"got the adapter {show(adapters.get(name))} of {name!r}; expected shapes {wanted}. "
                    "Are these the parameters of another network? Make them with net.adapt(key, params).",
                )
        return base, adapters

    def _inner(self, params):
        return self.merge(params)

    def backward(self, params, residuals, dy, /):
        dx, delta = super().backward(params, residuals, dy)
        return dx, (delta, params["adapters"])

    def gradient(self, residuals, delta, /):
        inner, adapters = delta
        return self._adapters(super().gradient(residuals, inner), adapters)

    def pull(self, params, residuals, dy, /):
        dx, grads = super().pull(params, residuals, dy)
        return dx, self._adapters(grads, params["adapters"])

    def _adapters(self, grads, adapters):
        """The gradients of A and B out of those of the weights."""
        found, c = {}, self.alpha / self.rank
        for name, (_, dw) in self._sites(grads).items():
            a, b = adapters[name]["a"], adapters[name]["b"]
            dw = c * dw.reshape(*a.shape[:-1], b.shape[-1])
            found[name] = {"a": (dw @ b.mT).astype(a.dtype), "b": (a.mT @ dw).astype(b.dtype)}
        return {"base": None, "adapters": found}

    def advance(self, params, residuals, /):
        return {**params, "base": Buffer(self.layer.advance(params["base"].value, residuals))}

    def reference(self, params, x, /):
        base = params["base"].value
        for name, (path, w) in self._sites(base).items():
            adapter = params["adapters"][name]
            change = jnp.einsum("...ir,...ro->...io", adapter["a"], adapter["b"]).reshape(w.shape)
            base = put(base, path, w + self.alpha / self.rank * change)
        return self.layer.reference(base, x)


def _stacks(layer: Any, path: tuple[Any, ...]) -> int:
    """How many axes in front of the weight at this path count its copies."""
    own = int(isinstance(layer, Repeat) or (isinstance(layer, Reversible) and layer.times is not None))
    several = getattr(layer, "layers", None)
    if several and path:
        names = getattr(layer, "names", ())
        i = names.index(path[0]) if path[0] in names else path[0]
        return own + (_stacks(several[i], path[1:]) if isinstance(i, int) else 0)
    expert = getattr(layer, "expert", None)
    if path[:1] == ("experts",) and isinstance(expert, Layer):
        return own + 1 + _stacks(expert, path[1:])
    inner = getattr(layer, "layer", None)
    return own + (_stacks(inner, path) if isinstance(inner, Layer) else 0)
