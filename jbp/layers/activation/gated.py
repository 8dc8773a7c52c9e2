"""Gates: a table, one line each, of y = a f(b) where x = (a|b) is split in two halves of its last axis.

    da = dy f(b)      db = dy a f'(b)

Each keeps x. They take what a Dense(2 n) makes: `Serial(Dense(2 * n), SwiGLU(), Dense(n))`. (Dauphin et al., *Language
Modeling with Gated Convolutional Networks*, 2017, §2; Shazeer, *GLU Variants Improve Transformer*, 2020.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show
from jbp.layer import Layer
from jbp.layers.activation.elementwise import GELU, Elementwise, ReLU, Sigmoid, SiLU
from jbp.numerics import Static


class Gated(Layer):
    gate: ClassVar[Callable[[Any], Any]]
    slope: ClassVar[Callable[[Any], Any]]
    definition: ClassVar[Callable[[Any], Any]]

    def forward(self, params, x, /):
        if floats(self, x, "(..., 2 n)").shape[-1] % 2:
            raise LayerError(
                self,
                f"got x {show(x)}; expected an even last size, to be split in two halves. Put a Dense(2 * n) before.",
            )
        a, b = jnp.split(x, 2, -1)
        return a * type(self).gate(b), x

    def backward(self, params, x, dy, /):
        a, b = jnp.split(x, 2, -1)
        halves = dy * type(self).gate(b), dy * a * type(self).slope(b)
        return jnp.stack(halves, -2).reshape(x.shape), ()  # (a|b) again; a concatenation would write both down first

    def reference(self, params, x, /):
        n = x.shape[-1] // 2
        return x[..., :n] * type(self).definition(x[..., n:])


def _row(name: str, activation: type[Elementwise], doc: str) -> type[Gated]:
    f, slope = activation.f, activation.slope
    members = {
        "gate": staticmethod(f),
        "slope": staticmethod(slope if activation.keeps == "x" else lambda b: slope(f(b))),
        "definition": staticmethod(activation.definition),
        "__module__": __name__,
        "__doc__": f"y = a {doc} with x = (a|b). Keeps x. x (..., 2 n), y (..., n). Raises LayerError for an odd size.",
    }
    return dataclass(frozen=True)(type(name, (Gated,), members))


GLU = _row("GLU", Sigmoid, "σ(b)")
ReGLU = _row("ReGLU", ReLU, "max(b, 0)")
SwiGLU = _row("SwiGLU", SiLU, "b σ(b)")
GEGLU = _row("GEGLU", GELU, "b Φ(b), Φ the normal distribution,")


@dataclass(frozen=True)
class Maxout(Layer):
    """y_j = max_k x[j·pieces + k] over `pieces` neighbours in the last axis.      dx = dy at the maximum, else 0

    Of equal values the first is the maximum. Keeps one byte an output: the place of the maximum. Shapes: x (..., n
    pieces), y (..., n). Put a Dense(n * pieces) before it. (Goodfellow et al., *Maxout Networks*, 2013, §2.) Raises
    LayerError if pieces does not divide the last size, and for more than 256 pieces.
    """

    pieces: int = 2

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.pieces <= 256:
            raise LayerError(self, f"got pieces={self.pieces}; expected 1 to 256. Use fewer pieces.")

    def forward(self, params, x, /):
        if floats(self, x, "(..., n pieces)").shape[-1] % self.pieces:
            raise LayerError(
                self,
                f"got x {show(x)}; expected a last size that is a multiple of {self.pieces}. "
                f"Put a Dense(n * {self.pieces}) before.",
            )
        parts = x.reshape(*x.shape[:-1], x.shape[-1] // self.pieces, self.pieces)
        return parts.max(-1), (jnp.argmax(parts, -1).astype(jnp.uint8), Static(x.shape))

    def backward(self, params, residuals, dy, /):
        place, shape = residuals
        k = lax.broadcasted_iota(jnp.uint8, (*place.shape, self.pieces), place.ndim)
        return jnp.where(place[..., None] == k, dy[..., None], 0).reshape(shape.value), ()

    def reference(self, params, x, /):
        """One piece after the other; a later one wins only where it is larger."""
        y = x[..., :: self.pieces]
        for k in range(1, self.pieces):
            piece = x[..., k :: self.pieces]
            y = jnp.where(piece > y, piece, y)
        return y


CASES = (
    *(Case(gate(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)) for gate in (GLU, ReGLU, SwiGLU, GEGLU)),
    Case(Maxout(), f(3, 8), f(2, 3, 2), f(2, 5, 3, 2)),
    Case(Maxout(3), f(2, 3)),
)
