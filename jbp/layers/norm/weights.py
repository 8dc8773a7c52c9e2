"""Another form for the weight "w" of a layer: any layer whose parameters are a dict that has one (Dense, Conv, ...).

Parameters are {"layer": those of the layer, ...}, the layer's own "w" in them being what is learned; ŵ is what the
layer is given in its place. The gradient of ŵ becomes that of w by the chain rule, for which delta is (the layer's
delta, what of the parameters the rule needs).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import ANY, Case, f
from jbp.compose import Wrapper
from jbp.errors import LayerError, at, show
from jbp.fields import Count
from jbp.layer import Layer
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.numerics import along, peak, wide, wide_dtype
from jbp.params import Buffer


class _Weighted(Wrapper):
    layer: Layer
    as_one: ClassVar[bool] = True
    beside: ClassVar[tuple[str, ...]] = ()  # the names of the parameters beside the layer's

    def _more(self, key, w):
        """The parameters beside the layer's."""
        raise NotImplementedError

    def _given(self, needed):
        """ŵ of `needed`, the parameters with the layer's replaced by its w."""
        raise NotImplementedError

    def _chain(self, needed, dŵ):
        """The gradient of `needed`."""
        raise NotImplementedError

    def init(self, key, x, /):
        one, two = jax.random.split(key)
        with at(self):
            own = self.layer.init(one, x)
        if not isinstance(own, dict) or getattr(own.get("w"), "ndim", 0) < 2:
            raise LayerError(
                self,
                f"got a layer with the parameters {show(own)}; expected a dict with a weight 'w' of two or more axes. "
                "Put it around the Dense or the Conv inside.",
            )
        return {"layer": own} | self._more(two, own["w"])

    def _needed(self, params):
        if not isinstance(params, dict) or set(params) != {"layer", *self.beside} or "w" not in params["layer"]:
            raise LayerError(
                self,
                f"got parameters {show(params)}; expected a dict with 'layer' and the layer's own in it. "
                "Are these the parameters of another network? Make them with net.init(key, x).",
            )
        return params | {"layer": params["layer"]["w"]}

    def _inner(self, params):
        needed = self._needed(params)
        return params["layer"] | {"w": self._given(needed).astype(needed["layer"].dtype)}

    def backward(self, params, residuals, dy, /):
        dx, delta = super().backward(params, residuals, dy)
        return dx, (delta, self._needed(params))

    def gradient(self, residuals, delta, /):
        return self._chained(delta[1], super().gradient(residuals, delta[0]))

    def pull(self, params, residuals, dy, /):
        dx, grads = super().pull(params, residuals, dy)
        return dx, self._chained(self._needed(params), grads)

    def _chained(self, needed, grads):
        chained = self._chain(needed, wide(grads["w"]))
        chained = jax.tree.map(lambda g: g.astype(needed["layer"].dtype), chained)
        return chained | {"layer": grads | {"w": chained["layer"]}}

    def advance(self, params, residuals, /):
        return params | {"layer": self.layer.advance(params["layer"], residuals)}


def _length(w):
    """The norm of each column, over all axes but the last, and 1 over it: 0 for a column of zeros.

    A column is scaled by its greatest element, so that no square is out of range.
    """
    axes = tuple(range(w.ndim - 1))
    top = peak(jnp.abs(w), axes, 0)
    top = jnp.where(top > 0, top, 1)
    n = top * jnp.sqrt(jnp.square(w / top).sum(axes, keepdims=True))
    return n, jnp.where(n > 0, 1 / n, 0)


@dataclass(frozen=True)
class WeightNorm(_Weighted):
    """ŵ = g w / ‖w‖, a norm for each of the last axis: how long a weight is, apart from where it points.

        dg = Σ dŵ w / ‖w‖      dw = g / ‖w‖ (dŵ − dg w / ‖w‖)

    `WeightNorm(Dense(8))`. g starts at ‖w‖. A column of zeros points nowhere: there ŵ, dg and dw are 0. Keeps what the
    layer keeps. Shapes: w (..., o), g (o,). (Salimans & Kingma,
    *Weight Normalization*, 2016, §2.) Raises LayerError for a layer without a weight "w".

    >>> x = jnp.ones((2, 5))
    >>> params = WeightNorm(Dense(3)).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'g': (3,), 'layer': {'b': (3,), 'w': (5, 3)}}
    >>> WeightNorm(Dense(3))(params, x).shape
    (2, 3)
    """

    layer: Layer

    beside = ("g",)

    def _more(self, key, w):
        return {"g": _length(wide(w))[0].reshape(-1).astype(w.dtype)}

    def _given(self, needed):
        w = wide(needed["layer"])
        return w * _length(w)[1] * along(wide(needed["g"]), w)

    def _chain(self, needed, dŵ):
        w, g = wide(needed["layer"]), wide(needed["g"])
        r = _length(w)[1]
        dg = (dŵ * w * r).sum(tuple(range(w.ndim - 1)))
        return {"layer": along(g, w) * r * (dŵ - along(dg, w) * w * r), "g": dg}

    def reference(self, params, x, /):
        w, g = params["layer"]["w"], params["g"]
        columns = [g[j] * w[..., j] / jnp.sqrt(jnp.sum(w[..., j] ** 2)) for j in range(w.shape[-1])]
        return self.layer.reference(params["layer"] | {"w": jnp.stack(columns, -1)}, x)


@dataclass(frozen=True)
class SpectralNorm(_Weighted):
    """ŵ = w / σ, σ = uᵀ W v, W being w as a matrix with the last axis for columns: the layer stretches by 1 at most.

        dw = (dŵ − (Σ dŵ ŵ) u vᵀ) / σ

    u and v are W's first singular vectors, found by the power iteration: Buffers, which the loss does not move and
    `advance` moves on by `iterations`, for the weights of this step. `evaluation` leaves them alone. Where all of w is
    0, ŵ and dw are. Keeps what the layer keeps. Shapes: w (..., o), u (product of the rest,), v (o,). (Miyato et al.,
    *Spectral Normalization for Generative Adversarial Networks*, 2018, §2.1, eq. 12.) Raises LayerError for a layer
    without a weight "w".

    >>> x = jnp.ones((2, 5))
    >>> params = SpectralNorm(Dense(3)).init(jax.random.key(0), x)
    >>> y, params = SpectralNorm(Dense(3))(params, x, has_aux=True)
    >>> y.shape
    (2, 3)
    """

    layer: Layer
    iterations: Count = 1
    beside = "u", "v"

    @property
    def advances(self):
        return self.iterations > 0

    def _more(self, key, w):
        matrix = _matrix(w)
        u, v = jax.random.normal(key, matrix.shape[:1], matrix.dtype), jnp.ones(matrix.shape[1], matrix.dtype)
        u, v = _power(matrix, _unit(u, u), _unit(v, v), 20)
        return {"u": Buffer(u), "v": Buffer(v)}

    def _given(self, needed):
        return wide(needed["layer"]) * _over(_stretch(needed))

    def _chain(self, needed, dŵ):
        w, r = wide(needed["layer"]), _over(_stretch(needed))
        along_it = (dŵ * w).sum() * r
        pair = _vectors(needed)[0][:, None] * _vectors(needed)[1][None]
        return {"layer": (dŵ - along_it * pair.reshape(w.shape)) * r, "u": None, "v": None}

    def advance(self, params, residuals, /):
        moved = super().advance(params, residuals)
        matrix = _matrix(params["layer"]["w"])
        u, v = params["u"].value, params["v"].value
        u, v = _power(matrix, u.astype(matrix.dtype), v.astype(matrix.dtype), self.iterations)
        return moved | {"u": Buffer(u.astype(params["u"].value.dtype)), "v": Buffer(v.astype(params["v"].value.dtype))}

    def evaluation(self):
        return SpectralNorm(self.layer.evaluation(), 0)

    def reference(self, params, x, /):
        w = params["layer"]["w"]
        u, v = (params[name].value.astype(w.dtype) for name in "uv")
        s = jnp.einsum("i,ij,j->", u, w.reshape(u.size, v.size), v)
        return self.layer.reference(params["layer"] | {"w": w / s}, x)


def _matrix(w):
    return wide(w).reshape(-1, w.shape[-1])


def _vectors(needed):
    dtype = wide_dtype(needed["layer"].dtype)
    return [needed[name].value.astype(dtype) for name in "uv"]


def _stretch(needed):
    u, v = _vectors(needed)
    return u @ _matrix(needed["layer"]) @ v


def _over(s):
    """1 / s, and 0 for 0: what a weight of zeros is multiplied with."""
    return jnp.where(s == 0, 0, 1 / s)


def _unit(z, else_):
    """z / ‖z‖, or `else_` where z is 0."""
    r = _length(z[:, None])[1][0]
    return jnp.where(r == 0, else_, z * r)


def _power(matrix, u, v, times):
    """(u, v) after `times` steps of the power iteration. A matrix of zeros moves neither."""

    def step(_, vectors):
        u, v = vectors
        v = _unit(u @ matrix, v)
        return _unit(matrix @ v, u), v

    return lax.fori_loop(0, times, step, (u, v))


CASES = (
    Case(WeightNorm(Dense(3)), *ANY),
    Case(WeightNorm(Conv(2, (2,))), f(2, 5, 3)),
    Case(SpectralNorm(Dense(3)), *ANY),
    Case(SpectralNorm(Conv(3, (2, 1)), 2), f(2, 5, 3, 2)),
)
