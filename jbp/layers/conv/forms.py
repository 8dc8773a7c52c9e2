"""The three products of a convolution, each in the form that its platform does best.

`convolve` is the forward product, `spread_back` its transpose, `kernel_gradient` the gradient of the kernel. Channels
come last and the kernel's axes first: x (b, n..., i), w (kernel..., i / groups, o), y (b, m..., o). Four forms:

- a kernel of one place, anywhere: a matrix product, with x taken every `stride` places;
- one channel a group, on CPUs: a sum of shifted, scaled copies, since XLA's loop there is slow (10 to 30 times);
- a few groups, on CPUs: one convolution a group, since the product for the kernel's gradient is slow (40 times);
- everything else, and all of GPU and TPU: `lax.conv_general_dilated`.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce
from operator import add

import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.numerics import leading, outer, scan, shared, wide, wide_dtype

MOST = 32  # groups that are taken one by one; the program grows with them

Pads = Sequence[tuple[int, int]]


def convolve(x, w, stride, pads, dilation, groups):
    """y[p] = Σ_k x[p·stride + k·dilation − low] w[k]."""
    *kernel, each, features = w.shape
    if _pointwise(kernel, pads, groups):
        return _every(x, stride) @ w.reshape(each, features)
    where = {"stride": stride, "pads": pads, "dilation": dilation}
    alone = partial(_scaled_copies, **where) if each == 1 and features == groups else None
    return _fastest(partial(_convolve, **where), alone, groups, x, w)


def spread_back(dy, w, sizes, stride, pads, dilation, groups):
    """dx[q] = Σ dy[p] w[k] over all p, k with p·stride + k·dilation − low = q, and w (kernel..., o / groups, i)."""
    *kernel, each, channels = w.shape
    if _pointwise(kernel, pads, groups):
        dx = dy @ w.reshape(each, channels)
        gaps = [(0, n - (m - 1) * s - 1, s - 1) for n, m, s in zip(sizes, dy.shape[1:-1], stride, strict=True)]
        return dx if max(stride) == 1 else lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))
    back = _backward_pads(dy.shape[1:-1], kernel, sizes, stride, pads, dilation)
    where = {"stride": (1,) * len(kernel), "pads": back, "dilation": dilation, "spread": stride}
    alone = partial(_scaled_copies, **where) if each == 1 and channels == groups else None
    return _fastest(partial(_convolve, **where), alone, groups, dy, jnp.flip(w, range(len(kernel))))


def _backward_pads(places, kernel, sizes, stride, pads, dilation):
    """What is around dy, spread by the stride, where the flipped kernel passes over it."""
    back = []
    for n, m, k, s, d, (low, _) in zip(sizes, places, kernel, stride, dilation, pads, strict=True):
        before = d * (k - 1) - low
        back.append((before, n + d * (k - 1) - before - ((m - 1) * s + 1)))
    return back


def kernel_gradient(x, dy, kernel, stride, pads, dilation, groups):
    """dw[k] = Σ_p x[p·stride + k·dilation − low]ᵀ dy[p], of shape (kernel..., i / groups, o).

    As in `outer`, the narrower of two dtypes is that of the factors, the wider one that of dw.
    """
    channels, features = x.shape[-1], dy.shape[-1]
    if _pointwise(kernel, pads, groups):
        return outer(_every(x, stride), dy).reshape(*kernel, channels, features)
    narrow, dtype = sorted((x.dtype, dy.dtype), key=lambda dtype: jnp.finfo(dtype).bits)
    x, dy = x.astype(narrow), dy.astype(narrow)
    where = {"kernel": kernel, "stride": stride, "pads": pads, "dilation": dilation, "dtype": dtype}
    alone = partial(_summed_products, **where) if channels == features == groups else None
    return _fastest(partial(_kernel_gradient, **where), alone, groups, x, dy)


def unfolded(x, kernel, sizes, stride, pads, dilation):
    """What the kernel meets at each place of one example x (n..., c): a row (k c) for each of the places of `sizes`."""
    parts = _shifted(x, kernel, sizes, stride, pads, dilation, (1,) * len(kernel))
    return jnp.concatenate([part.reshape(math.prod(sizes), x.shape[-1]) for part in parts], -1)


def spread_unfolded(x, kernel, sizes, stride, pads, dilation):
    """`unfolded` for `spread_back`: what of one example x (m..., c) comes to each place of `sizes`."""
    back = _backward_pads(x.shape[:-1], kernel, sizes, stride, pads, dilation)
    parts = _shifted(x, kernel, sizes, (1,) * len(kernel), back, dilation, stride)
    return jnp.concatenate([part.reshape(math.prod(sizes), x.shape[-1]) for part in parts][::-1], -1)


def _fastest(product, alone, groups, a, b):
    """The whole product at once, but on CPUs `alone` where every channel is, or else a few groups one by one."""
    whole = partial(product, groups=groups)
    if groups == 1 or (alone is None and groups > MOST):
        return whole(a, b)
    by_group = partial(_by_group, partial(product, groups=1), groups)
    return lax.platform_dependent(a, b, cpu=alone or by_group, default=whole)


def _pointwise(kernel, pads, groups):
    return groups == 1 and math.prod(kernel) == 1 and not np.any(pads)


def _every(x, stride):
    return x[(slice(None), *(slice(None, None, s) for s in stride))]


def _by_group(product, groups, a, b):
    parts = zip(jnp.split(a, groups, -1), jnp.split(b, groups, -1), strict=True)
    return jnp.concatenate([product(*part) for part in parts], -1)


def _shifted(x, kernel, sizes, stride, pads, dilation, spread):
    """For each place k of the kernel, the part of the spread and padded x (n..., c), of `sizes`, that it meets."""
    around = [(*p, s - 1) for p, s in zip(pads, spread, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), (*around, (0, 0, 0)))
    for k in np.ndindex(*kernel):
        starts = [j * d for j, d in zip(k, dilation, strict=True)]
        ends = [a + (m - 1) * s + 1 for a, m, s in zip(starts, sizes, stride, strict=True)]
        yield lax.slice(x, (*starts, 0), (*ends, x.shape[-1]), (*stride, 1))


def _scaled_copies(x, w, stride, pads, dilation, spread=None):
    """One channel a group, so that y is a sum over k of x, shifted by k, times w[k]."""
    b, *n, c = x.shape
    kernel, spread = w.shape[:-2], spread or (1,) * len(n)
    full = [(n - 1) * g + 1 + sum(p) for n, g, p in zip(n, spread, pads, strict=True)]
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(full, kernel, stride, dilation, strict=True)]
    parts = _shifted(x, (1, *kernel), (b, *sizes), (1, *stride), [(0, 0), *pads], (1, *dilation), (1, *spread))
    w = wide(w).reshape(-1, *(1,) * (x.ndim - 1), c)
    return reduce(add, (wide(part) * k for part, k in zip(parts, w, strict=True))).astype(x.dtype)


def _summed_products(x, dy, kernel, stride, pads, dilation, dtype):
    """One channel a group, so that dw[k] is a sum of x, shifted by k, times dy: an example at a time, which the cache
    holds; over all at once XLA writes the products down. So it does where devices share the examples, each its own."""
    sizes, spread = dy.shape[1:-1], (1,) * len(kernel)
    if shared(x, dy):
        where = (1, *stride), [(0, 0), *pads], (1, *dilation), (1, *spread)
        parts = _shifted(x, (1, *kernel), dy.shape[:-1], *where)
        dw = jnp.stack([(wide(part) * wide(dy)).sum(leading(dy)) for part in parts])
        return dw.reshape(*kernel, 1, x.shape[-1]).astype(dtype)

    def step(sums, now):
        x, dy = now
        parts = _shifted(x, kernel, sizes, stride, pads, dilation, spread)
        return [s + wide(part) * wide(dy) for s, part in zip(sums, parts, strict=True)], None

    sums, _ = scan(step, [jnp.zeros(dy.shape[1:], wide_dtype(dy.dtype))] * math.prod(kernel), (x, dy))
    dw = jnp.stack([s.sum(tuple(range(len(kernel)))) for s in sums])
    return dw.reshape(*kernel, 1, x.shape[-1]).astype(dtype)


def _convolve(x, w, stride, pads, dilation, groups, spread=None):
    return lax.conv_general_dilated(
        x,
        w,
        stride,
        pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=_channels_last(x.ndim),
    )


def _kernel_gradient(x, dy, kernel, stride, pads, dilation, groups, dtype):
    """The convolution of x with dy that is spread by the stride."""
    around = []
    for n, m, k, s, d, (low, _) in zip(x.shape[1:-1], dy.shape[1:-1], kernel, stride, dilation, pads, strict=True):
        around.append((low, d * (k - 1) + (m - 1) * s + 1 - n - low))
    n, *spatial = range(x.ndim - 1)
    c = x.ndim - 1
    numbers = lax.ConvDimensionNumbers((c, n, *spatial), (c, n, *spatial), (c - 1, c, *range(c - 1)))
    return lax.conv_general_dilated(
        x,
        dy,
        dilation,
        around,
        rhs_dilation=stride,
        batch_group_count=groups,
        dimension_numbers=numbers,
        preferred_element_type=None if dtype == x.dtype else dtype,
    )


def _channels_last(ndim):
    spatial = range(1, ndim - 1)
    return lax.ConvDimensionNumbers(
        (0, ndim - 1, *spatial), (ndim - 1, ndim - 2, *range(ndim - 2)), (0, ndim - 1, *spatial)
    )
