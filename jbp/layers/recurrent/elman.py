"""The simplest recurrent network: an affine map of input and state, and a nonlinearity."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jbp.cases import Case, f, i
from jbp.fields import Size
from jbp.layers.recurrent.sequence import Cell, Steps, Unrolled, products, weights
from jbp.numerics import leading


class _Elman(Steps):
    nonlinearity: Literal["tanh", "relu"]
    looks_back = False

    def _shapes(self, i):
        h = self.features
        return {"w": (i, h), "u": (h, h)} | ({"b": (h,)} if self.bias else {})

    def _start(self, key, i, dtype):
        return weights(key, i, self.features, 1, dtype) | ({"b": jnp.zeros(self.features, dtype)} if self.bias else {})

    def _step(self, params, state, z):
        z = z + state @ params["u"]
        return (jnp.tanh(z) if self.nonlinearity == "tanh" else jnp.maximum(z, 0)), ()

    def _seen(self, new):
        return new

    def _down(self, params, state, seen, kept, dnew):
        dz = dnew * (1 - seen * seen) if self.nonlinearity == "tanh" else jnp.where(seen > 0, dnew, 0)
        return dz @ params["u"].T, dz

    def _sums(self, x, state, seen, kept, delta):
        dw, du = products(x, state, delta)
        return {"w": dw, "u": du} | ({"b": delta.sum(leading(delta))} if self.bias else {})

    def _meaning(self, params, state, x):
        z = x @ params["w"] + state @ params["u"]
        if self.bias:
            z = z + jnp.broadcast_to(params["b"], z.shape)
        h = jnp.tanh(z) if self.nonlinearity == "tanh" else jnp.where(z > 0, z, 0)
        return h, h


@dataclass(frozen=True)
class Elman(_Elman, Unrolled):
    """h_t = φ(x_t W + h_{t−1} U + b), y = h.

        dz_t = (dy_t + dz_{t+1} Uᵀ) φ'_t      dx = dz Wᵀ      φ' = 1 − h² for tanh, h > 0 for "relu"
        dW = Σ xᵀ dz      dU = Σ h_{t−1}ᵀ dz_t      db = Σ dz      dh_0 = dz_1 Uᵀ

    delta is dz of all steps. Keeps x and h, which is y. h starts at zero, or at the state of (x, state); with
    `return_state` the output is (y, h_T), and its cotangent joins dy_T. On (x, lengths) each example ends at its own
    length, h_T too. Shapes: x (b, t, i), W (i, h), U (h, h), b (h,), a state (b, h), y (b, t, h). PyTorch's RNN has
    two biases, whose sum is b. (Elman, *Finding Structure in Time*, 1990; ReLU: Le et al., *A Simple Way to Initialize
    Recurrent Networks of Rectified Linear Units*, 2015.) Raises LayerError for another rank or state.

    >>> x = jnp.ones((2, 5, 3))
    >>> params = Elman(4).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'u': (4, 4), 'w': (3, 4)}
    >>> Elman(4)(params, x).shape
    (2, 5, 4)
    """

    features: Size
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    bias: bool = True
    return_state: bool = False


@dataclass(frozen=True)
class ElmanCell(_Elman, Cell):
    """(h', h') with h' = φ(x W + h U + b) of (x, h): one step of an Elman network.

        dz = (dy + dh') φ'      dx = dz Wᵀ      dh = dz Uᵀ      dW = xᵀ dz      dU = hᵀ dz      db = Σ dz

    φ' = 1 − h'² for tanh, h' > 0 for "relu". delta is dz. Keeps x, h and h'. Takes (x, h) or {"x": x, "state": h} and
    the parameters of an Elman; `Recurrent(ElmanCell(8))` runs it through time. Shapes: x (..., i), h and h' (..., h).
    (Elman, *Finding Structure in Time*, 1990.) Raises LayerError for anything but such a pair.

    >>> cell, x = ElmanCell(4), (jnp.ones((2, 3)), jnp.zeros((2, 4)))  # the input of a step, and the state
    >>> y, state = cell(cell.init(jax.random.key(0), x), x)
    >>> y.shape
    (2, 4)
    """

    features: Size
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    bias: bool = True


CASES = (
    Case(Elman(3), f(2, 5, 3), (f(2, 4, 3), f(2, 3))),
    Case(Elman(3, "relu", bias=False, return_state=True), f(2, 4, 3), {"x": f(3, 4, 2), "state": f(3, 3)}),
    Case(Elman(2, return_state=True), (f(3, 4, 1), i(3, below=5))),
    Case(ElmanCell(3), (f(2, 4), f(2, 3))),
)
