"""The restricted Boltzmann machine. Layers of them make a deep-belief network.

A machine of visible v and hidden h, each 0 or 1, has the energy E = −v·b − h·c − v W h, so that σ(v W + c) are the
probabilities of the hidden units and σ(h Wᵀ + b) those of the visible ones. F(v) = −v·b − Σ softplus(v W + c) is the
free energy, and p(v) = exp(−F(v)) / Z with a Z that nobody can sum.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import ANY, Case, f
from jbp.errors import floats, take
from jbp.fields import Count, Size
from jbp.keys import split
from jbp.layer import Estimator, Layer
from jbp.numerics import along, leading, outer, scan, softplus, wide
from jbp.params import Buffer

__all__ = ["RestrictedBoltzmann", "RestrictedBoltzmannInference"]


def gibbs(params, v, key, steps):
    """v after `steps` steps of block Gibbs sampling: hidden units given v, visible units given those, 0 or 1."""

    def step(v, key):
        up, down = jax.random.split(key)
        h = _draw(up, _hidden(params, v))
        z = h @ params["w"].T
        return _draw(down, lax.logistic(z + along(params["b"], z))), None

    return scan(step, v, jax.random.split(key, steps))[0]


def _draw(key, p):
    return jax.random.bernoulli(key, p.astype(jnp.float32)).astype(p.dtype)


def _hidden(params, v):
    z = v @ params["w"]
    return lax.logistic(z + along(params["c"], z))


def _like(params, v):
    """The parameters in v's dtype, buffers as they are."""
    return params | {name: params[name].astype(v.dtype) for name in "wbc"}


def _free_energy(params, v):
    """The mean of F over the rows, in float32 at least."""
    z = wide(v @ params["w"])
    z = z + along(wide(params["c"]), z)
    return -(wide(v @ params["b"]).sum() + softplus(z).sum()) / _rows(v)


def _rows(v):
    return max(math.prod(v.shape[:-1]), 1)


class _Machine(Layer):
    hidden: int
    chains: int

    def _shapes(self, v):
        visible = floats(self, v, "(..., visible)").shape[-1]
        shapes = {"w": (visible, self.hidden), "b": (visible,), "c": (self.hidden,), "key": ()}
        return shapes | {"chains": (self.chains, visible)} if self.chains else shapes

    def init(self, key, v, /):
        shapes = self._shapes(v)
        one, two, three = jax.random.split(key, 3)
        params = {
            "w": 0.01 * jax.random.normal(one, shapes["w"], v.dtype),
            "b": jnp.zeros(shapes["b"], v.dtype),
            "c": jnp.zeros(shapes["c"], v.dtype),
            "key": Buffer(two),
        }
        if self.chains:
            params["chains"] = Buffer(_draw(three, jnp.full(shapes["chains"], 0.5, v.dtype)))
        return params

    def _take(self, params, v):
        take(self, params, v.dtype, **self._shapes(v))
        return _like(params, v)

    def _fixed(self):
        return {"key": None, "chains": None} if self.chains else {"key": None}


@dataclass(frozen=True)
class RestrictedBoltzmann(_Machine, Estimator):
    """y = mean F(v) − mean F(v'), v' the fantasies: what k steps of Gibbs sampling make of v, or of the chains.

        dW = (v'ᵀ h' / m − vᵀ h / n) dy      db = (mean v' − mean v) dy      dc = (mean h' − mean h) dy
        dv = −(b + h Wᵀ) dy / n              h = σ(v W + c), h' = σ(v' W + c)

    Contrastive divergence, CD-k: it stands for the gradient of −log p(v), which it is not, for v' is near the data.
    With `chains` = m > 0 the fantasies come from m chains that live from step to step. y has no meaning of its own. F
    is the free energy, F(v) = −v·b − Σ softplus(v W + c). `Serial(RestrictedBoltzmann(64))` is trained with Add() as
    the loss, on one input: `fit(net, Add(), optimizer, state, [(v,), ...])`, the next one of a deep-belief network as
    `Serial(Frozen(first.evaluation()), RestrictedBoltzmann(32))`. Keeps v and v'. Buffers: the key and the chains,
    moved by `advance`. `evaluation` gives RestrictedBoltzmannInference: h. Shapes: v (..., visible) in [0, 1], W
    (visible, hidden), b (visible,), c (hidden,), the chains (m, visible), y (). (Hinton, *Training Products of
    Experts*, 2002; Tieleman, *Training Restricted Boltzmann Machines*, 2008.) Raises LayerError for steps < 1 or chains
    < 0.

    >>> net, x = RestrictedBoltzmann(3), jnp.array([[1.0, 0.0, 1.0, 1.0]])
    >>> params = net.init(jax.random.key(0), x)
    >>> difference, params = net(params, x, has_aux=True)  # of the energies; and the key of the next step
    >>> net.evaluation()(params, x).shape  # probabilities of the hidden units
    (1, 3)
    """

    hidden: Size
    steps: Size = 1
    chains: Count = 0

    @property
    def couples(self):
        return "its chains go from step to step" if self.chains else ""

    def forward(self, params, v, /):
        params = self._take(params, v)
        first = params["chains"].value.astype(v.dtype) if self.chains else v
        fantasies = gibbs(params, first, params["key"].value, self.steps)
        y = _free_energy(params, v) - _free_energy(params, fantasies)
        return y.astype(v.dtype), (v, fantasies)

    def backward(self, params, residuals, dy, /):
        v, _ = residuals
        like, dtype = _like(params, v), params["w"].dtype
        data, model = (_hidden(like, u) for u in residuals)
        dv = -(along(like["b"], v) + data @ like["w"].T) * (dy / _rows(v))
        return dv, (data.astype(dtype), model.astype(dtype), dy.astype(dtype))

    def gradient(self, residuals, delta, /):
        v, fantasies = residuals
        data, model, dy = delta

        def means(v, h):
            return {"w": outer(v, h), "b": v.astype(h.dtype).sum(leading(v)), "c": h.sum(leading(h))}

        first, second = dy / _rows(v), dy / _rows(fantasies)
        grads = jax.tree.map(lambda a, b: b * second - a * first, means(v, data), means(fantasies, model))
        return grads | self._fixed()

    def advance(self, params, residuals, /):
        moved = split(params)
        return moved | {"chains": Buffer(residuals[1])} if self.chains else moved

    def evaluation(self):
        return RestrictedBoltzmannInference(self.hidden, self.chains)

    def reference(self, params, v, /):
        w, b, c = params["w"], params["b"], params["c"]
        fantasies = params["chains"].value.astype(v.dtype) if self.chains else v
        for key in jax.random.split(params["key"].value, self.steps):
            up, down = jax.random.split(key)
            h = _draw(up, jax.nn.sigmoid(jnp.einsum("...v,vh->...h", fantasies, w) + along(c, v)))
            fantasies = _draw(down, jax.nn.sigmoid(jnp.einsum("...h,vh->...v", h, w) + along(b, v)))

        def free_energy(v):
            z = jnp.einsum("...v,vh->...h", v, w) + along(c, v)
            plus = jnp.where(z > 0, z, 0) + jnp.log1p(jnp.exp(jnp.where(z > 0, -z, z)))
            return -jnp.einsum("...v,v->...", v, b) - jnp.sum(plus, -1)

        return jnp.mean(free_energy(v)) - jnp.mean(free_energy(fantasies))


@dataclass(frozen=True)
class RestrictedBoltzmannInference(_Machine):
    """h = σ(v W + c): the features that a RestrictedBoltzmann has found, and what the next one is trained on.

        dz = dh h (1 − h)      dv = dz Wᵀ      dW = vᵀ dz      dc = Σ dz      db = 0

    As a layer of a network it is Dense(hidden) and Sigmoid. Keeps v and h. Takes the parameters of a
    RestrictedBoltzmann with as many `chains`, and leaves key and chains alone. Shapes: v (..., visible), W (visible,
    hidden), c (hidden,), h (..., hidden). (Hinton et al., *A Fast Learning Algorithm for Deep Belief Nets*, 2006.)

    >>> net, x = RestrictedBoltzmannInference(3), jnp.array([[1.0, 0.0, 1.0, 1.0]])
    >>> net(net.init(jax.random.key(0), x), x).shape
    (1, 3)
    """

    hidden: Size
    chains: Count = 0

    def forward(self, params, v, /):
        h = _hidden(self._take(params, v), v)
        return h, (v, h)

    def backward(self, params, residuals, dh, /):
        v, h = residuals
        dz = dh * h * (1 - h)
        return dz @ params["w"].astype(v.dtype).T, dz.astype(params["w"].dtype)

    def gradient(self, residuals, dz, /):
        v, _ = residuals
        grads = {"w": outer(v, dz), "b": jnp.zeros(v.shape[-1:], dz.dtype)}
        return grads | {"c": dz.sum(leading(dz))} | self._fixed()

    def reference(self, params, v, /):
        z = jnp.einsum("...v,vh->...h", v, params["w"])
        return jax.nn.sigmoid(z + along(params["c"], z))


CASES = (
    Case(RestrictedBoltzmannInference(3), *ANY),
    Case(RestrictedBoltzmannInference(2, chains=3), f(3, 5)),
    Case(RestrictedBoltzmann(3), f(3, 5), f(2, 3, 5)),
    Case(RestrictedBoltzmann(2, steps=3, chains=4), f(3, 5)),
)
