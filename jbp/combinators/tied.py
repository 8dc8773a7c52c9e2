"""One parameter in several places."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.layer import Layer
from jbp.params import buffers, merge, trainable


@dataclass(frozen=True)
class Tied(Wrapper):
    """One parameter in several places: `ties` are pairs (from, to) of paths into f's parameters.

        y = f(θ) with θ[to] = θ[from]      dθ[from] = dθ[from] + Σ dθ[to]

    `Tied(Serial(Embedding(v, d), body, Logits(v)), (((0, "e"), (2, "e")),))` has one table. A path may name a whole
    subtree. Only what is trained is shared: each place keeps its own Buffers. Parameters are f's, with None at `to`.
    Raises LayerError for a path that leads nowhere and for shapes that differ.

    >>> x = jnp.ones((2, 5))
    >>> layer = Tied(Serial(Dense(5), Tanh(), Dense(5)), (((0,), (2,)),))
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    ({'b': (5,), 'w': (5, 5)}, (), {'b': None, 'w': None})
    >>> layer(params, x).shape
    (2, 5)
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
            params = put(params, place, merge(one, other))
        return params

    def _own(self, tree, held, add=None):
        """f's tree without what is shared, `to` being cleared by `held`; `add` joins what was there to `from`."""
        for source, place in reversed(self.ties):
            part = self._look(tree, place)
            if add:
                tree = put(tree, source, jax.tree.map(add, self._look(tree, source), part))
            tree = put(tree, place, held(part))
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
        return self._outer(params)

    def _inner(self, params):
        return self._shared(params)

    def _outer(self, params):
        return self._own(params, buffers)

    def _whole(self, grads):
        return self._own(grads, lambda part: jax.tree.map(lambda _: None, part), jnp.add)


def put(tree: Any, path: Any, value: Any) -> Any:
    """The tree with `value` at `path`; tuples and dicts on the way are made anew."""
    if not path:
        return value
    step, *rest = path
    if isinstance(tree, dict):
        return tree | {step: put(tree[step], rest, value)}
    step = range(len(tree))[step]
    return type(tree)(put(v, rest, value) if i == step else v for i, v in enumerate(tree))
