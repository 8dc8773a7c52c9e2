"""A layer whose residuals wait for the backward pass in fewer bits, or in the memory of the host."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, memory

from jbp.compose import Wrapper
from jbp.errors import at
from jbp.fields import Count
from jbp.layer import Layer
from jbp.numerics import Static, after, is_float

_DTYPES = {"bfloat16": jnp.bfloat16, "float8": jnp.float8_e4m3fn, "int8": jnp.int8}
_BITS = {2: jnp.uint16, 1: jnp.uint8}


class Packed(NamedTuple):
    """Numbers in few bits, as integers (the compiler may take a narrow float for a wide one), and their rows' scale."""

    bits: Any
    scale: Any


def _mixed(h):
    """The finalizer of MurmurHash3: 32 bits of which each depends on all 32 that came in.

    `jax.random` would write its bits to memory, as many bytes as are saved; these are made where they are used.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> shift)) * np.uint32(factor)
    return h ^ (h >> 16)


def _exponent(r):
    """⌊log₂ |r|⌋ of a float32 that is normal, −127 of one that is less. (`jnp.frexp` has a rule of its own.)"""
    return ((lax.bitcast_convert_type(r, jnp.uint32) >> 23) & 0xFF).astype(jnp.int32) - 127


def _power_of_two(n):
    """2ⁿ in float32, 2⁻¹²⁶ if n is less."""
    return lax.bitcast_convert_type((jnp.maximum(n, -126) + 127).astype(jnp.uint32) << 23, jnp.float32)


@dataclass(frozen=True)
class Keep(Wrapper):
    """y = f(x), and f's backward pass with residuals r̂ in place of r:      E[r̂] = r

        bfloat16     r̂ = r in 8 bits of precision
        float8       r̂ = s (r / s in 4 bits, e4m3),      s = max |row of r| / 448
        int8         r̂ = s (r / s as an integer),      s = max |row of r| / 127

    Every floating residual of f with `least` numbers or more is kept so, its rows along the last axis, and comes back
    in its own dtype; the statistics of a norm are few and stay whole. "stochastic" rounds up or down, up with the
    probability that makes the mean right, so that a gradient which is linear in each residual is right in the mean and
    noisy; "nearest" has less noise and errors that need not cancel. The draws follow from `seed`, from the numbers kept
    and from their places: no key is among the parameters. `memory="host"` moves what is kept to the host until it is
    needed, which changes no number, and on CPUs nothing.

    In a stack of many layers write Repeat(Keep(f), n): Keep(Repeat(f, n)) has all residuals whole when its loop ends.
    It is an estimator, but for memory alone: `python -m verify layers` says by how many degrees the gradient turns.
    Parameters, delta and shapes are f's. A row with a NaN or Inf in it comes back as NaN from float8 and int8.
    (Chakrabarti & Moseley, *Backprop with Approximate Activations for Memory-efficient Network Training*, 2019; Chen et
    al., *ActNN: Reducing Training Memory Footprint via 2-Bit Activation Compressed Training*, 2021, §3.)

    >>> x = jnp.ones((64, 32))
    >>> layer = Keep(Serial(Dense(64), Tanh()), "int8")
    >>> params = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(lambda r: (r.shape, str(r.dtype)), layer.forward(params, x)[1][0])  # those of Dense and of Tanh
    [Packed(bits=((64, 32), 'uint8'), scale=((64, 1), 'float32')), \
Packed(bits=((64, 64), 'uint8'), scale=((64, 1), 'float32'))]
    """

    layer: Layer
    dtype: Literal["bfloat16", "float8", "int8"] | None = None
    memory: Literal["device", "host"] = "device"
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    least: Count = 1024
    seed: Count = 0

    @property
    def estimator(self) -> bool:
        return self.dtype is not None

    def forward(self, params, x, /):
        with at(self):
            y, residuals = self.layer.forward(params, x)
        leaves, tree = jax.tree.flatten(residuals)
        packed = {id(r): self._packed(r) for r in leaves}  # what two layers keep is packed once
        dtypes = tuple(r.dtype if self._narrow(r) else None for r in leaves)
        return y, ([packed[id(r)] for r in leaves], Static((tree, dtypes)))

    def _narrow(self, r):
        return self.dtype is not None and is_float(r) and r.dtype.itemsize > 1 and r.ndim > 0 and r.size >= self.least

    def _packed(self, r):
        if self._narrow(r):
            r = self._in_few_bits(r)
        if self.memory == "host":
            r = jax.tree.map(lambda r: jax.device_put(r, memory.Space.Host), r)
        return r

    def _in_few_bits(self, r):
        dtype, r = _DTYPES[str(self.dtype)], r.astype(jnp.float32)
        scale = None
        if self.dtype != "bfloat16":
            top = 127 if self.dtype == "int8" else float(jnp.finfo(dtype).max)
            most = jnp.abs(r).max(-1, keepdims=True, initial=0)
            scale = jnp.where(most == 0, 1, most / top)
            r = r / scale
        r = self._rounded(r, dtype).astype(dtype)
        return Packed(lax.bitcast_convert_type(r, _BITS[r.dtype.itemsize]), scale)

    def _rounded(self, r, dtype):
        """r as a number of the dtype: ⌊r / q + u⌋ q, q the distance of its neighbours and u ½ or drawn from [0, 1)."""
        u = jnp.float32(0.5)
        if self.rounding == "stochastic":
            place = lax.iota(jnp.uint32, r.size).reshape(r.shape)
            drawn = _mixed(_mixed(place + np.uint32(self.seed % 2**32)) ^ lax.bitcast_convert_type(r, jnp.uint32))
            u = (drawn >> 8).astype(jnp.float32) * jnp.float32(2**-24)
        if self.dtype == "int8":
            return jnp.clip(jnp.floor(r + u), -127, 127)
        narrow = jnp.finfo(dtype)
        q = _power_of_two(jnp.maximum(_exponent(r), narrow.minexp) - narrow.nmant)
        top = jnp.float32(narrow.max)
        return jnp.where(jnp.isfinite(r), jnp.clip(jnp.floor(r / q + u) * q, -top, top), r)

    def _kept(self, residuals):
        leaves, about = residuals
        tree, dtypes = about.value
        leaves = self._brought(leaves)
        return tree.unflatten(
            r if dtype is None else self._wide(r).astype(dtype) for r, dtype in zip(leaves, dtypes, strict=True)
        )

    def _brought(self, leaves):
        """Back from the host: nothing can be computed with what is there."""
        if self.memory != "host":
            return leaves
        return jax.tree.map(lambda r: jax.device_put(r, memory.Space.Device), leaves)

    def _wide(self, packed):
        r = lax.bitcast_convert_type(packed.bits, _DTYPES[str(self.dtype)]).astype(jnp.float32)
        return r if packed.scale is None else r * packed.scale

    def _down(self, way, params, residuals, dy):
        leaves, about = residuals
        return super()._down(way, params, (after(dy, self._brought(leaves)), about), dy)
