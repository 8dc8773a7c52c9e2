"""A stack of any depth that keeps nothing but its output: what came in is computed again in the backward pass."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jbp.combinators.shapes import same_shape, shape_after, stacked
from jbp.compose import each_a_layer
from jbp.errors import LayerError, at, floats, show
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import after, scan


@dataclass(frozen=True, init=False)
class Reversible(Layer):
    """(y₁ | y₂) with y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁), and so on by turns for more layers than two.

        x₂ = y₂ − g(y₁)      x₁ = y₁ − f(x₂)      dx₁ = dy₁ + the error of g      dx₂ = dy₂ + the error of f

    Reversible(f, g) is one block; Reversible(f₁, g₁, f₂, g₂, ...) a row of blocks, and Reversible(f, g, times=12) is
    twelve of them with parameters of their own, in one `lax.scan`. Keeps the last output alone, whatever the depth:
    put the whole row into one Reversible, for a Serial or a Repeat of several keeps one output each. delta holds each
    layer's residuals, as in a Remat, so `pull` saves memory and `backward` does not. Costs one more forward.
    (Gomez et al., *The Reversible Residual Network*, 2017, §3.)

    Rounding: the inputs rebuilt differ from the true ones by about eps |y| a layer, times the layers' slopes on the
    way; the gradient is that at the rebuilt inputs. Keep the branches mild (a norm first), and mind bfloat16.

    Shapes: x and y (..., 2 h), halves (..., h). Parameters: a tuple, one entry a layer, stacked on a new first axis if
    `times` is given. Raises LayerError for an odd number of features and a layer that does not keep shape and dtype.

    >>> x = jnp.ones((1, 4))
    >>> layer = Reversible(Dense(2), Dense(2))
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    ({'b': (2,), 'w': (2, 2)}, {'b': (2,), 'w': (2, 2)})
    >>> layer(params, x).shape
    (1, 4)
    """

    layers: tuple[Layer, ...]
    times: Size | None

    def __init__(self, *several: Layer, times: Size | None = None, layers: tuple[Layer, ...] = ()):
        object.__setattr__(self, "layers", several or tuple(layers))  # `layers=` is what dataclasses.replace passes
        object.__setattr__(self, "times", times)
        each_a_layer(self)
        self.__post_init__()
        if not self.layers:
            raise LayerError(self, "got no layers; expected one or more. Try Reversible(f, g).")

    def _arguments(self):
        yield from (("", layer) for layer in self.layers)
        if self.times is not None:
            yield "times", self.times

    @property
    def as_one(self) -> bool:
        return self.times is not None

    def _halves(self, x):
        if floats(self, x, "(..., features)").shape[-1] % 2:
            raise LayerError(
                self, f"got x {show(x)}; expected an even number of features. Widen x by one, with a Dense before this."
            )
        return tuple(jnp.split(x, 2, -1))

    def init(self, key, x, /):
        half = jax.eval_shape(lambda x: self._halves(x)[0], x)

        def one(key):
            params = []
            for i, layer in enumerate(self.layers):
                with at(self, f"[{i}]"):
                    params.append(layer.init(jax.random.fold_in(key, i), half))
                    same_shape(self, half, shape_after(layer, params[-1], half))
            return tuple(params)

        return one(key) if self.times is None else jax.vmap(one)(jax.random.split(key, self.times))

    def _each(self, params):
        if not isinstance(params, tuple | list) or len(params) != len(self.layers):
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a tuple of {len(self.layers)}, one for each layer. "
                "Are these the parameters of another network? Make them with net.init(key, x).",
            )
        return [(i, layer, p) for i, (layer, p) in enumerate(zip(self.layers, params, strict=True))]

    def forward(self, params, x, /):
        def up(halves, params):
            a, b = halves  # b goes into the layer that is added to a
            for i, layer, p in self._each(params):
                with at(self, f"[{i}]"):
                    y = layer.forward(p, b)[0]
                same_shape(self, a, y)
                a, b = b, a + y
            return (a, b) if len(self.layers) % 2 == 0 else (b, a)

        halves = self._halves(x)
        if self.times is None:
            halves = up(halves, params)
        else:
            halves = self._scanned(lambda halves, p: (up(halves, p), None), halves, params)[0]
        y = jnp.concatenate(halves, -1)
        return y, y

    def _scanned(self, step, carry, params, reverse=False):
        stacked(self, params, self.times)
        return scan(step, carry, params, length=self.times, reverse=reverse)

    def _down(self, visit, params, y, dy):
        """x, dx, and what `visit(layer, params, residuals, dy) -> (dx, found)` finds at each layer, the last first."""

        def down(carry, params):
            (a, b), (da, db) = carry if len(self.layers) % 2 == 0 else (halves[::-1] for halves in carry)
            found = []
            for i, layer, p in reversed(self._each(params)):
                a, b, da, db = b, a, db, da  # a is now what this layer was added to
                with at(self, f"[{i}]"):
                    z, r = layer.forward(p, after(da, b))
                    dx, one = visit(layer, p, r, da)
                found.append(one)
                a, db = a - z, db + dx
            return ((a, b), (da, db)), tuple(reversed(found))

        carry = self._halves(y), self._halves(dy)
        carry, found = down(carry, params) if self.times is None else self._scanned(down, carry, params, reverse=True)
        x, dx = (jnp.concatenate(halves, -1) for halves in carry)
        return x, dx, found

    def inputs(self, params: Any, y: Any, /) -> Any:
        """The x of which y is the output, but for rounding."""
        return self._down(lambda layer, p, r, dy: (dy, None), params, y, jnp.zeros_like(y))[0]

    def backward(self, params, y, dy, /):
        def visit(layer, p, r, dy):
            dx, delta = layer.backward(p, r, dy)
            return dx, (r, delta)

        return self._down(visit, params, y, dy)[1:]

    def gradient(self, y, delta, /):
        def each(_, deltas):
            return None, tuple(layer.gradient(*d) for layer, d in zip(self.layers, deltas, strict=True))

        return each(None, delta)[1] if self.times is None else scan(each, None, delta, length=self.times)[1]

    def pull(self, params, y, dy, /):
        return self._down(lambda layer, p, r, dy: layer.pull(p, r, dy), params, y, dy)[1:]

    def advance(self, params, y, /):
        return self._down(lambda layer, p, r, dy: (dy, layer.advance(p, r)), params, y, jnp.zeros_like(y))[2]

    def reference(self, params, x, /):
        for t in range(self.times or 1):
            now = params if self.times is None else jax.tree.map(lambda p, t=t: p[t], params)
            a, b = jnp.split(x, 2, -1)
            for i, (layer, p) in enumerate(zip(self.layers, now, strict=True)):
                if i % 2:
                    b = b + layer.reference(p, a)
                else:
                    a = a + layer.reference(p, b)
            x = jnp.concatenate([a, b], -1)
        return x
