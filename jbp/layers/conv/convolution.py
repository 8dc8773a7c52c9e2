"""Convolution over any number of spatial axes: channels last, the kernel's axes first."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, floats, show, take
from jbp.layer import Layer
from jbp.layers.conv.forms import convolve, kernel_gradient, spread_back
from jbp.numerics import along, leading

Sizes = tuple[int, ...]


def spread(value: int | Sizes, rank: int) -> Sizes:
    """One number for every spatial axis, or the tuple as it is."""
    return (value,) * rank if isinstance(value, int) else value


def paddings(padding: str | tuple, sizes: Sizes, window: Sizes, stride: Sizes) -> tuple[tuple[int, int], ...]:
    """(low, high) for each spatial axis. 'SAME' makes ⌈n / stride⌉ outputs, the odd one of the padding goes high."""
    if padding == "VALID":
        return ((0, 0),) * len(sizes)
    if padding == "SAME":
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, stride, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    return tuple(padding)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Conv(Layer):
    """y = x ⋆ W + b: y[p] = Σ_k x[p·stride + k·dilation − low] W[k] + b, over as many spatial axes as `kernel` has.

        dx = dy, spread by the stride, convolved with W mirrored and its channels swapped
        dW[k] = Σ_p x[p·stride + k·dilation − low]ᵀ dy[p], a convolution of x with dy that is spread by the stride
        db = Σ dy

    Each product takes the form that its shape and platform do best (convforms.py). Keeps x. Shapes: x (b, n..., i),
    W (kernel..., i / groups, o), b (o,), y (b, m..., o). `padding` is "SAME", "VALID" or ((low, high), ...). W starts
    normal with variance 2 / fan-in (He et al., *Delving Deep into Rectifiers*, 2015). Derivation: Dumoulin & Visin,
    *A Guide to Convolution Arithmetic*, 2016, ch. 4. Raises LayerError for another rank, for channels that the groups
    do not divide, and where no output is left.
    """

    features: int
    kernel: Sizes = (3, 3)
    stride: int | Sizes = 1
    padding: str | tuple[tuple[int, int], ...] = "SAME"
    dilation: int | Sizes = 1
    groups: int = 1

    def _check(self, x):
        rank = len(self.kernel)
        floats(self, x, f"(batch, {'n, ' * rank}channels)", rank=rank + 2)
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise LayerError(
                self,
                f"got {x.shape[-1]} channels in x and {self.features} features; expected both to be "
                f"multiples of groups={self.groups}. Choose groups that divide both, or change the features.",
            )
        _, dilation, pads = self._geometry(x.shape)
        extent = [
            n + sum(p) - d * (k - 1) for n, p, d, k in zip(x.shape[1:-1], pads, dilation, self.kernel, strict=True)
        ]
        if min(extent) < 1:
            raise LayerError(
                self, f"got x {show(x)}; expected spatial sizes of at least the kernel's. Pad, or use a smaller kernel."
            )
        return x

    def _geometry(self, shape):
        rank = len(self.kernel)
        stride, dilation = spread(self.stride, rank), spread(self.dilation, rank)
        window = tuple(d * (k - 1) + 1 for d, k in zip(dilation, self.kernel, strict=True))
        return stride, dilation, paddings(self.padding, shape[1:-1], window, stride)

    def _shapes(self, x):
        return {"w": (*self.kernel, x.shape[-1] // self.groups, self.features), "b": (self.features,)}

    def init(self, key, x, /):
        w = self._shapes(self._check(x))["w"]
        fan_in = max(1, math.prod(w[:-1]))
        return {"w": jax.random.normal(key, w, x.dtype) * (2 / fan_in) ** 0.5, "b": jnp.zeros(self.features, x.dtype)}

    def forward(self, params, x, /):
        w, b = take(self, params, self._check(x).dtype, **self._shapes(x))
        stride, dilation, pads = self._geometry(x.shape)
        y = convolve(x, w, stride, pads, dilation, self.groups)
        return y + along(b, y), x

    def backward(self, params, x, dy, /):
        stride, dilation, pads = self._geometry(x.shape)
        w = swapped(params["w"], self.groups)
        return spread_back(dy, w, x.shape[1:-1], stride, pads, dilation, self.groups), dy

    def gradient(self, x, dy, /):
        stride, dilation, pads = self._geometry(x.shape)
        dw = kernel_gradient(x, dy, self.kernel, stride, pads, dilation, self.groups)
        return {"w": dw, "b": dy.sum(leading(dy))}

    def reference(self, params, x, /):
        rank, axes = len(self.kernel), "XYZUV"[: len(self.kernel)]
        return along(params["b"], x) + lax.conv_general_dilated(
            x,
            params["w"],
            spread(self.stride, rank),
            self.padding,
            rhs_dilation=spread(self.dilation, rank),
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            feature_group_count=self.groups,
        )


def swapped(w, groups):
    """(kernel..., i / groups, o) -> (kernel..., o / groups, i): the same numbers for the way back."""
    *kernel, i, o = w.shape
    w = jnp.swapaxes(w.reshape(*kernel, i, groups, o // groups), -1, -3)
    return w.reshape(*kernel, o // groups, i * groups)


CASES = (
    Case(Conv(2, (1, 1)), f(2, 5, 3, 2)),
    Case(Conv(2, (1, 1), stride=2), f(2, 5, 4, 3)),
    Case(Conv(3), f(2, 5, 3, 2)),
    Case(Conv(2, (3, 2), stride=(2, 1), padding="VALID"), f(2, 5, 3, 2)),
    Case(Conv(4, (2, 3), stride=2, dilation=(1, 2), groups=2), f(2, 5, 8, 2)),
    Case(Conv(4, (2, 2), groups=2), f(2, 5, 3, 8)),
    Case(Conv(8, (2,), groups=8), f(2, 5, 8)),
    Case(Conv(8, (3,), groups=8, dilation=2), f(2, 5, 8)),
    Case(Conv(4, (1,), groups=2), f(2, 5, 8)),
    Case(Conv(2, (3,), padding=((2, 0),)), f(2, 5, 3)),
)
