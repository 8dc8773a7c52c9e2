"""Transposed convolution: the way back of a convolution as a way forward."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show, take
from jbp.layer import Layer
from jbp.layers.conv.convolution import Sizes, spread, swapped
from jbp.layers.conv.forms import convolve, kernel_gradient, spread_back
from jbp.numerics import along, leading


@dataclass(frozen=True)
class ConvTranspose(Layer):
    """y[q] = Σ x[p] W[k] + b over all p, k with p·stride + k·dilation − low = q.

        dx[p] = Σ_k dy[p·stride + k·dilation − low] W[k]ᵀ, a convolution of dy with the channels of W swapped
        dW[k] = Σ_p x[p]ᵀ dy[p·stride + k·dilation − low]      db = Σ dy

    Keeps x. Shapes: x (b, n..., i), W (kernel..., i / groups, o), b (o,), y (b, m..., o). `padding` cuts the ends of
    y: "VALID" nothing, so m = (n − 1)·stride + window, the window being dilation·(kernel − 1) + 1; "SAME" to
    m = n·stride, the odd one at the high end; ((low, high), ...) as it says. W starts normal with variance 2 / fan-in.
    (Dumoulin & Visin, *A Guide to Convolution Arithmetic*, 2016, ch. 4.) Raises LayerError for another rank, for
    channels that the groups do not divide, and where no output is left.
    """

    features: int
    kernel: Sizes = (3, 3)
    stride: int | Sizes = 1
    padding: str | tuple[tuple[int, int], ...] = "SAME"
    dilation: int | Sizes = 1
    groups: int = 1

    def _geometry(self, sizes):
        """stride, dilation, what is cut off, and the sizes of y."""
        rank = len(self.kernel)
        stride, dilation = spread(self.stride, rank), spread(self.dilation, rank)
        window = [d * (k - 1) + 1 for d, k in zip(dilation, self.kernel, strict=True)]
        cut = ((0, 0),) * rank if isinstance(self.padding, str) else self.padding
        if self.padding == "SAME":
            total = [w - s for w, s in zip(window, stride, strict=True)]
            cut = tuple((max(t, 0) // 2, t - max(t, 0) // 2) for t in total)
        full = [(n - 1) * s + w for n, s, w in zip(sizes, stride, window, strict=True)]
        return stride, dilation, cut, tuple(m - low - high for m, (low, high) in zip(full, cut, strict=True))

    def _check(self, x):
        rank = len(self.kernel)
        floats(self, x, f"(batch, {'n, ' * rank}channels)", rank=rank + 2)
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise LayerError(
                self,
                f"got {x.shape[-1]} channels in x and {self.features} features; expected both to be "
                f"multiples of groups={self.groups}. Choose groups that divide both, or change the features.",
            )
        if min(self._geometry(x.shape[1:-1])[-1]) < 1 or min(x.shape[1:-1]) < 1:
            raise LayerError(self, f"got x {show(x)}; expected an output of at least one place. Cut less off the ends.")
        return x

    def _shapes(self, x):
        return {"w": (*self.kernel, x.shape[-1] // self.groups, self.features), "b": (self.features,)}

    def init(self, key, x, /):
        w = self._shapes(self._check(x))["w"]
        fan_in = max(1, math.prod(w[:-1]))
        return {"w": jax.random.normal(key, w, x.dtype) * (2 / fan_in) ** 0.5, "b": jnp.zeros(self.features, x.dtype)}

    def forward(self, params, x, /):
        w, b = take(self, params, self._check(x).dtype, **self._shapes(x))
        stride, dilation, cut, sizes = self._geometry(x.shape[1:-1])
        y = spread_back(x, w, sizes, stride, cut, dilation, self.groups)
        return y + along(b, y), x

    def backward(self, params, x, dy, /):
        stride, dilation, cut, _ = self._geometry(x.shape[1:-1])
        return convolve(dy, swapped(params["w"], self.groups), stride, cut, dilation, self.groups), dy

    def gradient(self, x, dy, /):
        stride, dilation, cut, _ = self._geometry(x.shape[1:-1])
        dw = swapped(kernel_gradient(dy, x, self.kernel, stride, cut, dilation, self.groups), self.groups)
        return {"w": dw, "b": dy.sum(leading(dy))}

    def reference(self, params, x, /):
        """Place by place of the kernel, x W[k] is added to the whole y, whose ends are then cut off."""
        stride, dilation, cut, sizes = self._geometry(x.shape[1:-1])
        w, groups = params["w"], self.groups
        i, o = w.shape[-2:]
        low = [max(c[0], 0) for c in cut]
        pad = [max(-c[0], 0) for c in cut]
        extent = [m + a + b for m, a, b in zip(sizes, low, (max(c[1], 0) for c in cut), strict=True)]
        whole = jnp.zeros((x.shape[0], *extent, o), x.dtype)
        for k in np.ndindex(*self.kernel):
            part = [
                x[..., g * i : (g + 1) * i] @ w[(*k, slice(None), slice(g * o // groups, (g + 1) * o // groups))]
                for g in range(groups)
            ]
            at = tuple(
                slice(j * d + p, j * d + p + (n - 1) * s + 1, s)
                for j, d, p, n, s in zip(k, dilation, pad, x.shape[1:-1], stride, strict=True)
            )
            whole = whole.at[(slice(None), *at)].add(jnp.concatenate(part, -1))
        inside = tuple(slice(a, a + m) for a, m in zip(low, sizes, strict=True))
        return whole[(slice(None), *inside)] + along(params["b"], x)


CASES = (
    Case(ConvTranspose(4, (2,), groups=4), f(2, 5, 4)),
    Case(ConvTranspose(3), f(2, 5, 3, 2)),
    Case(ConvTranspose(2, (2, 2), stride=2, padding="VALID"), f(2, 5, 3, 2)),
    Case(ConvTranspose(4, (3, 2), stride=(2, 3), dilation=(2, 1), groups=2), f(2, 5, 3, 2)),
    Case(ConvTranspose(2, (3,), stride=2, padding=((1, 0),)), f(2, 5, 3)),
    Case(ConvTranspose(3, (3,), stride=2, groups=3), f(2, 4, 3)),
    Case(ConvTranspose(4, (1, 3), groups=2), f(2, 3, 4, 2)),
)
