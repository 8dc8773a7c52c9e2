"""Norms over the batch, and running statistics.

m is the mean, v the variance (biased), s = (v + ε)^-½, x̂ = (x − m) s, ⟨·⟩ a mean.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import ANY, Case, f
from jbp.errors import LayerError, floats, known, take
from jbp.fields import Fraction, NonNegative
from jbp.layers.norm.features import Affine, error_below, over_devices, statistics
from jbp.numerics import along, leading, wide, wide_dtype
from jbp.params import Buffer


class Running(Affine):
    """Buffers for evaluation: the running mean and variance, and how many steps they have seen."""

    epsilon: float
    momentum: float | None
    unbiased: bool
    running: bool
    over: tuple[str, ...]

    @property
    def advances(self):
        return self.running

    def _buffers(self, x):
        if not self.running:
            return {}
        f, dtype = x.shape[-1], wide_dtype(x.dtype)
        first = jnp.zeros(f, dtype), jnp.ones(f, dtype), jnp.zeros((), jnp.int32)
        return dict(zip(_NAMES, map(Buffer, first), strict=True))

    def _none(self):
        """The gradient of the buffers."""
        return dict.fromkeys(_NAMES) if self.running else {}

    def init(self, key, x, /) -> Any:
        return self._first(self._checked(x)) | self._buffers(x) or ()

    def _split(self, params, x):
        """The parameters without buffers, after a check of these."""
        if not self.running:
            return params
        given = take(self, params, x.dtype, **self._shapes(x), **_shapes(x))
        return dict(zip(self._shapes(x), given, strict=False))

    def _moved(self, params, m, s, count):
        """The buffers after a step with mean m and (v + ε)^-½ = s, (..., f), of `count` values each."""
        if not self.running or not count:
            return params
        v = jnp.minimum(jnp.square(1 / s) - self.epsilon, jnp.finfo(s.dtype).max)  # ∞ would stay for ever
        if self.unbiased:
            v = v * (count / max(count - 1, 1))
        steps = params["steps"].value

        def moved(name, new):
            old = params[name].value
            new = over_devices(new.reshape(-1, old.shape[-1]).mean(0), self.over).astype(old.dtype)
            if self.momentum is None:
                return Buffer(old + (new - old) / (steps + 1).astype(old.dtype))
            return Buffer(self.momentum * old + (1 - self.momentum) * new)

        return params | {
            "mean": moved("mean", m),
            "variance": moved("variance", jnp.maximum(v, 0)),
            "steps": Buffer(steps + 1),
        }

    def evaluation(self):
        return BatchNormInference(self.epsilon, self.affine, self.bias) if self.running else self


_NAMES = "mean", "variance", "steps"


def _shapes(x):
    return {"mean": x.shape[-1:], "variance": x.shape[-1:], "steps": ()}


@dataclass(frozen=True)
class BatchNorm(Running):
    """y = x̂ g + b with x̂ = (x − m) s, s = (v + ε)^-½, m and v the mean and variance over every axis but the last.

        dx̂ = dy g      dx = s (dx̂ − ⟨dx̂⟩ − x̂ ⟨dx̂ x̂⟩)      dg = Σ dy x̂      db = Σ dy

    ⟨·⟩ is a mean over the same axes. Without bias no b, without affine neither g nor b. Keeps x, m and s. Buffers: the
    running mean and variance, which `advance` moves to momentum · old + (1 − momentum) · new, and how many steps they
    have seen. `evaluation` gives BatchNormInference. PyTorch's momentum is 1 − ours, 0.1 there and 0.9 here; None is
    the mean of all steps, as there. The running variance is the biased one, as in Flax and Keras; `unbiased` gives
    PyTorch's. Without `running` there are no buffers, and evaluation takes the statistics of its batch. An empty batch
    moves nothing. Inside of `jax.shard_map` the batch is that of all devices along the axes of the mesh that `over`
    names. Shapes: x and y (b, ..., f), the rest (f,). (Ioffe & Szegedy, *Batch Normalization*, 2015, §3.) Raises
    LayerError for fewer than two axes.

    >>> layer, x = BatchNorm(), jnp.array([[0.0], [2.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, params = layer(params, x, has_aux=True)  # and the running statistics, moved on
    >>> y
    Array([[-1.],
           [ 1.]], dtype=float32)
    >>> layer.evaluation()(params, x)
    Array([[-0.1],
           [ 1.9]], dtype=float32)
    """

    momentum: Fraction | None = 0.9
    epsilon: NonNegative = 1e-5
    affine: bool = True
    bias: bool = True
    unbiased: bool = False
    running: bool = True
    over: tuple[str, ...] = ()
    couples: ClassVar[Any] = "it takes the statistics of the batch"

    def _checked(self, x):
        return floats(self, x, "(batch, ..., features)", least=2)

    def forward(self, params, x, /):
        scales = self._split(params, self._checked(x))
        m, s = statistics(x, leading(x), self.epsilon, self.over)
        return self._scaled(scales, (wide(x) - m) * s, x.dtype), (x, m, s)

    def backward(self, params, residuals, dy, /):
        x, m, s = residuals
        dx̂, delta = self._above(params, dy)
        return error_below(dx̂, (wide(x) - m) * s, s, leading(x), self.over).astype(x.dtype), delta

    def gradient(self, residuals, dy, /):
        x, m, s = residuals
        return self._gradient((wide(x) - m) * s, dy) | self._none() or ()

    def advance(self, params, residuals, /):
        x, m, s = residuals
        devices = lax.axis_size(self.over) if self.over else 1
        return self._moved(params, m, s, math.prod(x.shape[:-1]) * devices)

    def reference(self, params, x, /):
        axes = tuple(range(x.ndim - 1))
        m = jnp.mean(x, axes, keepdims=True)
        v = jnp.mean((x - m) ** 2, axes, keepdims=True)
        return self._defined(params, (x - m) / jnp.sqrt(v + self.epsilon))


@dataclass(frozen=True)
class BatchNormInference(Affine):
    """y = x̂ g + b with x̂ = (x − mean) / √(variance + ε), the running statistics that training left in the buffers.

        dx = dy g / √(variance + ε)      dg = Σ dy x̂      db = Σ dy

    Keeps x̂, for dg. Takes the parameters of BatchNorm, or of InstanceNorm with running statistics. Raises LayerError if
    the statistics were never moved, where their values can be known (outside of jit).

    >>> x = jnp.array([[0.0], [2.0]])
    >>> layer = BatchNorm().evaluation()
    >>> layer
    BatchNormInference()
    >>> layer(layer.init(jax.random.key(0), x), x)
    Array([[0.],
           [2.]], dtype=float32)
    """

    epsilon: NonNegative = 1e-5
    affine: bool = True
    bias: bool = True

    def init(self, key, x, /):
        return BatchNorm(affine=self.affine, bias=self.bias).init(key, x) | {"steps": Buffer(jnp.ones((), jnp.int32))}

    def _inverse(self, params, dtype):
        return (params["variance"].value.astype(dtype) + self.epsilon) ** -0.5

    def forward(self, params, x, /):
        shapes = self._shapes(floats(self, x, "(batch, ..., features)", least=2))
        *scales, mean, _, steps = take(self, params, x.dtype, **shapes, **_shapes(x))
        if known(steps) and (np.asarray(steps) == 0).any():
            raise LayerError(
                self,
                "got running statistics that no step has moved; expected those of a trained network. "
                "Carry the advanced parameters from step to step (value_and_grad(..., has_aux=True)).",
            )
        s = self._inverse(params, wide(x).dtype)
        x̂ = (wide(x) - along(mean.astype(s.dtype), x)) * along(s, x)
        return self._scaled(dict(zip(shapes, scales, strict=True)), x̂, x.dtype), x̂ if self.affine else ()

    def backward(self, params, residuals, dy, /):
        dx̂, delta = self._above(params, dy)
        return (dx̂ * along(self._inverse(params, dx̂.dtype), dy)).astype(dy.dtype), delta

    def gradient(self, x̂, dy, /):
        return self._gradient(x̂, dy) | dict.fromkeys(_NAMES)

    def reference(self, params, x, /):
        mean, variance = (along(params[name].value, x).astype(x.dtype) for name in ("mean", "variance"))
        return self._defined(params, (x - mean) / jnp.sqrt(variance + self.epsilon))


CASES = (
    Case(BatchNorm(), *ANY),
    Case(BatchNormInference(), *ANY),
    Case(BatchNorm(bias=False), f(3, 5)),
    Case(BatchNorm(affine=False), f(3, 5)),
    Case(BatchNorm(running=False), f(3, 5)),
    Case(BatchNorm(affine=False, running=False), f(3, 5)),
    Case(BatchNormInference(bias=False), f(3, 5)),
    Case(BatchNormInference(affine=False), f(3, 5)),
)
