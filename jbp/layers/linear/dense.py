"""Affine maps of the last axis."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jbp.cases import ANY, Case
from jbp.errors import floats, take
from jbp.fields import Size
from jbp.layer import Layer
from jbp.numerics import along, leading, outer


@dataclass(frozen=True)
class Dense(Layer):
    """y = x W + b.      dx = dy Wᵀ      dW = xᵀ dy      db = Σ dy

    Keeps x. Shapes: x (..., i), W (i, o), b (o,), y (..., o). W starts normal with variance 1/i (LeCun et al.,
    *Efficient BackProp*, 1998, §4.6), b at zero. Raises LayerError if x is not floating or its last size is not i.

    >>> x = jnp.ones((2, 5))
    >>> params = Dense(3).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (3,), 'w': (5, 3)}
    >>> Dense(3)(params, x).shape
    (2, 3)
    """

    cuts: ClassVar[Any] = "first", "last", "tokens"
    features: Size
    bias: bool = True

    def part(self, count, x=None, /):
        return None if self.features % count else Dense(self.features // count, self.bias)

    def _shapes(self, x):
        shapes = {"w": (x.shape[-1], self.features), "b": (self.features,)}
        return shapes if self.bias else {"w": shapes["w"]}

    def init(self, key, x, /):
        i = floats(self, x, "(..., features)").shape[-1]
        w = jax.random.normal(key, (i, self.features), x.dtype) * max(i, 1) ** -0.5
        return {"w": w, "b": jnp.zeros(self.features, x.dtype)} if self.bias else {"w": w}

    def forward(self, params, x, /):
        w, *b = take(self, params, floats(self, x, "(..., features)").dtype, **self._shapes(x))
        y = x @ w.astype(x.dtype)
        return y + along(b[0].astype(x.dtype), y) if self.bias else y, x

    def backward(self, params, x, dy, /):
        w = params["w"]
        return dy @ w.astype(dy.dtype).T, dy.astype(w.dtype)

    def gradient(self, x, dy, /):
        w = outer(x, dy)
        return {"w": w, "b": dy.sum(leading(dy))} if self.bias else {"w": w}


@dataclass(frozen=True)
class Logits(Layer):
    """y = x Eᵀ: scores against the rows of a table, the other end of an Embedding.      dx = dy E      dE = dyᵀ x

    Keeps x. Shapes: x (..., d), E (v, d), y (..., v). Tie E to an Embedding's with `Tied` (Press & Wolf, *Using the
    Output Embedding to Improve Language Models*, 2017).

    >>> x = jnp.ones((2, 5))
    >>> params = Logits(7).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'e': (7, 5)}
    >>> Logits(7)(params, x).shape
    (2, 7)
    """

    cuts: ClassVar[Any] = ("tokens",)
    vocabulary: Size

    def init(self, key, x, /):
        d = floats(self, x, "(..., features)").shape[-1]
        return {"e": jax.random.normal(key, (self.vocabulary, d), x.dtype) * max(d, 1) ** -0.5}

    def forward(self, params, x, /):
        floats(self, x, "(..., features)")
        (e,) = take(self, params, x.dtype, e=(self.vocabulary, x.shape[-1]))
        return x @ e.astype(x.dtype).T, x

    def backward(self, params, x, dy, /):
        e = params["e"]
        return dy @ e.astype(dy.dtype), dy.astype(e.dtype)

    def gradient(self, x, dy, /):
        return {"e": outer(dy, x)}


CASES = (
    *(Case(Dense(n), *ANY) for n in (1, 2, 3, 5, 8)),
    Case(Dense(3, bias=False), *ANY),
    Case(Logits(5), *ANY),
)
