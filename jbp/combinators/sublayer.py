"""A layer that works on one of several named inputs and lets the others pass: the steps of a transformer's block."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jbp.combinators.shapes import same_shape
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.layer import Layer
from jbp.numerics import Static


@dataclass(frozen=True)
class Sublayer(Wrapper):
    """y = {**x, "x": f(x["x"])} of named inputs x; with `residual` x["x"] + f.      dx = what f returns, with dy.

    f is given the entry "x" alone, or with `takes` a dict of the entries named there, and of those of `optional` that x
    has. A name stands for itself, and ("source", "memory") gives the entry "memory" to f as "source". What f gives goes
    `into` the entry of that name, or, if that is None, is y alone. So `Sublayer(MultiHeadAttention(4), ("x",),
    ("mask",), residual=True)` is self-attention, of {"x": ..., "mask": ...} or without a mask, and
    `Sublayer(LayerNorm())` a norm after it, which leaves the mask where it is: `Repeat` takes both.

    x may also be an array: that is {"x": x}, and y is an array too. Keeps what f keeps, and shapes. Parameters are f's.
    The cotangent of integers is None. Raises LayerError for names that are not there, and if `residual` does not keep
    the shape.

    >>> x = {"x": jnp.ones((1, 5, 4)), "mask": jnp.ones((1, 5), int)}
    >>> layer = Sublayer(MultiHeadAttention(2), ("x",), ("mask",), residual=True)
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, layer(params, x))
    {'mask': (1, 5), 'x': (1, 5, 4)}
    """

    layer: Layer
    takes: tuple[str | tuple[str, str], ...] = ()
    optional: tuple[str | tuple[str, str], ...] = ()
    residual: bool = False
    into: str | None = "x"

    def _given(self, x: Any) -> tuple[Any, tuple[tuple[str, str], ...]]:
        """(what f gets, the pairs of names inside and outside that it gets by name)."""
        named = isinstance(x, dict)
        entries = x if named else {"x": x}
        takes, optional = (
            tuple((t, t) if isinstance(t, str) else t for t in names) for names in (self.takes, self.optional)
        )
        missing = {"x", *(outside for _, outside in takes)} - set(entries)
        if missing:
            raise LayerError(
                self,
                f"got {show(x)} without {sorted(missing)}; expected a dict with the names that the layer takes. "
                'Give them by name: {"x": ..., ...}.',
            )
        if not named or not takes:
            return entries["x"], ()
        pairs = (*takes, *((inside, outside) for inside, outside in optional if outside in entries))
        return {inside: entries[outside] for inside, outside in pairs}, pairs

    def init(self, key, x, /):
        with at(self):
            return self.layer.init(key, self._given(x)[0])

    def forward(self, params, x, /):
        given, pairs = self._given(x)
        with at(self):
            y, r = self.layer.forward(params, given)
        if not isinstance(x, dict):
            return self._sum(x, y), (r, Static((None, pairs)))
        shapes = tuple((name, v.shape, v.dtype) for name, v in x.items() if jnp.issubdtype(v.dtype, jnp.floating))
        return self._joined(x, self._sum(x["x"], y)), (r, Static((shapes, tuple(x), pairs)))

    def _sum(self, x, y):
        if not self.residual:
            return y
        same_shape(self, x, y)
        return x + y

    def _joined(self, x, y):
        return y if self.into is None else {**x, self.into: y}

    def _down(self, way, params, residuals, dy):
        r, came = residuals
        d: Any = dy[self.into] if isinstance(dy, dict) and self.into is not None else dy
        with at(self):
            down, rest = way(params, r, d)
        if came.value[0] is None:
            return jnp.add(d, down) if self.residual else down, rest
        shapes, names, pairs = came.value
        total: dict[str, Any] = dict.fromkeys(names) | {name: jnp.zeros(shape, dtype) for name, shape, dtype in shapes}
        added = [("x", d)] if self.residual else []
        added += [(outside, down[inside]) for inside, outside in pairs] if pairs else [("x", down)]
        if self.into is not None:
            added += [(name, dy.get(name)) for name in names if name != self.into]
        for name, part in added:
            if part is not None and total[name] is not None:
                total[name] = part + total[name]
        return total, rest

    def _kept(self, residuals):
        return residuals[0]

    def reference(self, params, x, /):
        y = self.layer.reference(params, self._given(x)[0])
        if not isinstance(x, dict):
            return x + y if self.residual else y
        return self._joined(x, x["x"] + y if self.residual else y)
