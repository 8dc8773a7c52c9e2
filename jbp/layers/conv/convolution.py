"""Convolution over any number of spatial axes: channels last, the kernel's axes first."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f
from jbp.errors import LayerError, show, take
from jbp.fields import Size
from jbp.layer import Layer
from jbp.layers.conv.forms import convolve, kernel_gradient, spread_back, unfolded
from jbp.layers.structure.pad import Border, pad, pad_back
from jbp.layers.windows import Axes, Padding, agree, must_fit, paddings, spatial, spread
from jbp.numerics import along, leading


@dataclass(frozen=True)
class Conv(Layer):
    """y = x ⋆ W + b: y[p] = Σ_k x[p·stride + k·dilation − low] W[k] + b, over every spatial axis of x.

        dx = dy, spread by the stride, convolved with W mirrored and its channels swapped
        dW[k] = Σ_p x[p·stride + k·dilation − low]ᵀ dy[p], a convolution of x with dy that is spread by the stride
        db = Σ dy

    Each product takes the form that its shape and platform do best (forms.py). Keeps x. Shapes: x (b, n..., i),
    W (kernel..., i / groups, o), b (o,), y (b, m..., o). `kernel`, `stride` and `dilation` are a number for every
    spatial axis, or a tuple with one for each. `padding` is "SAME" (m = ⌈n / stride⌉), "VALID" (none), "CAUSAL" (all of
    it before), a number for every side, or a tuple with a number or a pair (low, high) for each axis; it is filled as
    `padding_mode` says, whose words are those of Pad. W starts normal with variance 2 / fan-in (He et al., *Delving
    Deep into Rectifiers*, 2015), b at zero; `bias=False` leaves b out. Derivation: Dumoulin & Visin, *A Guide to
    Convolution Arithmetic*, 2016, ch. 4. Raises LayerError for another rank, for channels that the groups do not
    divide, and where no output is left.

    >>> x = jnp.ones((1, 6, 6, 3))
    >>> params = Conv(8).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (8,), 'w': (3, 3, 3, 8)}
    >>> Conv(8)(params, x).shape
    (1, 6, 6, 8)
    """

    features: Size
    kernel: Axes = (3, 3)
    stride: Axes = 1
    padding: Padding | Literal["CAUSAL"] = "SAME"
    dilation: Axes = 1
    groups: Size = 1
    bias: bool = True
    padding_mode: Literal["zeros", Border] = "zeros"

    def __post_init__(self):
        super().__post_init__()
        agree(self, "kernel", "stride", "padding", "dilation")

    def _check(self, x):
        rank = spatial(self, x, "kernel", "stride", "padding", "dilation")
        check_groups(self, x)
        _, dilation, pads = self._geometry(x.shape)
        extent = [
            n + sum(p) - d * (k - 1)
            for n, p, d, k in zip(x.shape[1:-1], pads, dilation, spread(self.kernel, rank), strict=True)
        ]
        if min(extent) < 1:
            raise LayerError(
                self, f"got x {show(x)}; expected spatial sizes of at least the kernel's. Pad, or use a smaller kernel."
            )
        return x

    def _geometry(self, shape):
        """stride, dilation and padding for each spatial axis."""
        rank = len(shape) - 2
        stride, dilation = spread(self.stride, rank), spread(self.dilation, rank)
        extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, spread(self.kernel, rank), strict=True))
        pads = paddings(self.padding, shape[1:-1], extent, stride)
        must_fit(self, shape[1:-1], pads)
        return stride, dilation, pads

    def _bordered(self, x):
        """x with its border, where that is not zeros, and the stride, dilation and padding that are left to do."""
        stride, dilation, pads = self._geometry(x.shape)
        if self.padding_mode == "zeros":
            return x, stride, dilation, pads
        return pad(self, x, pads, self.padding_mode), stride, dilation, ((0, 0),) * len(pads)

    def _unfolded(self, x, sizes):
        """(b, places, k c): what the kernel meets of each example, at each place of an output of `sizes`."""
        whole, stride, dilation, pads = self._bordered(x)
        kernel = spread(self.kernel, x.ndim - 2)
        return jax.vmap(lambda x: unfolded(x, kernel, sizes, stride, pads, dilation))(whole)

    def init(self, key, x, /):
        return kernel_and_bias(self, key, self._check(x))

    def forward(self, params, x, /):
        w, *b = take(self, params, self._check(x).dtype, **shapes(self, x))
        whole, stride, dilation, pads = self._bordered(x)
        y = convolve(whole, w.astype(x.dtype), stride, pads, dilation, self.groups)
        return y + along(b[0].astype(y.dtype), y) if self.bias else y, x

    def backward(self, params, x, dy, /):
        stride, dilation, pads = self._geometry(x.shape)
        w, delta = swapped(params["w"].astype(dy.dtype), self.groups), dy.astype(params["w"].dtype)
        if self.padding_mode == "zeros":
            return spread_back(dy, w, x.shape[1:-1], stride, pads, dilation, self.groups), delta
        sizes = [n + low + high for n, (low, high) in zip(x.shape[1:-1], pads, strict=True)]
        dx = spread_back(dy, w, sizes, stride, ((0, 0),) * len(pads), dilation, self.groups)
        return pad_back(dx, pads, self.padding_mode), delta

    def gradient(self, x, dy, /):
        whole, stride, dilation, pads = self._bordered(x)
        dw = kernel_gradient(whole, dy, spread(self.kernel, x.ndim - 2), stride, pads, dilation, self.groups)
        return {"w": dw, "b": dy.sum(leading(dy))} if self.bias else {"w": dw}

    def reference(self, params, x, /):
        axes = "XYZUV"[: x.ndim - 2]
        stride, dilation, pads = self._geometry(x.shape)
        if self.padding_mode != "zeros":
            mode = {"replicate": "edge", "circular": "wrap"}.get(self.padding_mode, self.padding_mode)
            x, pads = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode), "VALID"
        y = lax.conv_general_dilated(
            x,
            params["w"],
            stride,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            feature_group_count=self.groups,
        )
        return y + along(params["b"], y) if self.bias else y


def check_groups(layer, x):
    """An error for channels that the groups do not divide."""
    if x.shape[-1] % layer.groups or layer.features % layer.groups:
        raise LayerError(
            layer,
            f"got {x.shape[-1]} channels in x and {layer.features} features; expected both to be "
            f"multiples of groups={layer.groups}. Choose groups that divide both, or change the features.",
        )


def shapes(layer, x):
    """The shapes of a convolution's parameters."""
    w = (*spread(layer.kernel, len(x.shape) - 2), x.shape[-1] // layer.groups, layer.features)
    return {"w": w, "b": (layer.features,)} if layer.bias else {"w": w}


def kernel_and_bias(layer, key, x):
    """W normal with variance 2 / fan-in, b at zero."""
    w = shapes(layer, x)["w"]
    w = jax.random.normal(key, w, x.dtype) * (2 / max(1, math.prod(w[:-1]))) ** 0.5
    return {"w": w, "b": jnp.zeros(layer.features, x.dtype)} if layer.bias else {"w": w}


def swapped(w, groups):
    """(kernel..., i / groups, o) -> (kernel..., o / groups, i): the same numbers, as the backward pass takes them."""
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
    Case(Conv(2, 2, padding=1, bias=False), f(2, 3, 2), f(1, 2, 3, 2)),
    Case(Conv(2, 2, dilation=2, padding="CAUSAL"), f(2, 5, 3)),
    Case(Conv(2, 3, padding_mode="reflect"), f(2, 5, 3), f(1, 2, 3, 2)),
    Case(Conv(2, 3, 2, padding_mode="circular"), f(2, 4, 3)),
    Case(Conv(4, (2, 3), padding=(1, (2, 0)), groups=2, padding_mode="replicate"), f(1, 2, 3, 4)),
)
