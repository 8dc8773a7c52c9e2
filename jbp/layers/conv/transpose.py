"""Transposed convolution: the transpose of a convolution as a layer of its own."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from jbp.cases import Case, f
from jbp.errors import LayerError, show, take
from jbp.fields import Count, Hint, Size
from jbp.layer import Layer
from jbp.layers.conv.convolution import check_groups, kernel_and_bias, shapes, swapped
from jbp.layers.conv.forms import convolve, kernel_gradient, spread_back, spread_unfolded
from jbp.layers.windows import Axes, Padding, agree, must_fit, pairs, spatial, spread
from jbp.numerics import along, leading

Extra = Annotated[Count | tuple[Count, ...], Hint("Write one number for every spatial axis, or a tuple with one each.")]


@dataclass(frozen=True)
class ConvTranspose(Layer):
    """y[q] = Σ x[p] W[k] + b over all p, k with p·stride + k·dilation − low = q.

        dx[p] = Σ_k dy[p·stride + k·dilation − low] W[k]ᵀ, a convolution of dy with the channels of W swapped
        dW[k] = Σ_p x[p]ᵀ dy[p·stride + k·dilation − low]      db = Σ dy

    Keeps x. Shapes: x (b, n..., i), W (kernel..., i / groups, o), b (o,), y (b, m..., o). `kernel`, `stride` and
    `dilation` are a number for every spatial axis, or a tuple with one for each. `padding` cuts the ends of y: "VALID"
    nothing, so m = (n − 1)·stride + window, the window being dilation·(kernel − 1) + 1; "SAME" to m = n·stride, the odd
    one at the high end; a number both ends, a tuple with a number or a pair (low, high) each axis as it says.
    `output_padding` gives that many places back at the high end, so that (kernel, stride, padding, output_padding) mean
    what they do in PyTorch. W starts normal with variance 2 / fan-in, b at zero; `bias=False` leaves b out. (Dumoulin &
    Visin, *A Guide to Convolution Arithmetic*, 2016, ch. 4.) Raises LayerError for another rank, for channels that the
    groups do not divide, and where no output is left.

    >>> x = jnp.ones((1, 6, 6, 3))
    >>> params = ConvTranspose(8, stride=2).init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (8,), 'w': (3, 3, 3, 8)}
    >>> ConvTranspose(8, stride=2)(params, x).shape
    (1, 12, 12, 8)
    """

    features: Size
    kernel: Axes = (3, 3)
    stride: Axes = 1
    padding: Padding = "SAME"
    dilation: Axes = 1
    groups: Size = 1
    bias: bool = True
    output_padding: Extra = 0

    def __post_init__(self):
        super().__post_init__()
        agree(self, "kernel", "stride", "padding", "dilation", "output_padding")

    def _geometry(self, sizes):
        """stride, dilation, what is cut off, and the sizes of y."""
        rank = len(sizes)
        stride, dilation = spread(self.stride, rank), spread(self.dilation, rank)
        window = [d * (k - 1) + 1 for d, k in zip(dilation, spread(self.kernel, rank), strict=True)]
        if self.padding == "SAME":
            total = [w - s for w, s in zip(window, stride, strict=True)]
            cut = tuple((max(t, 0) // 2, t - max(t, 0) // 2) for t in total)
        else:
            cut = pairs(0 if self.padding == "VALID" else self.padding, rank)
        extra = spread(self.output_padding, rank)
        cut = tuple((low, high - more) for (low, high), more in zip(cut, extra, strict=True))
        full = [(n - 1) * s + w for n, s, w in zip(sizes, stride, window, strict=True)]
        must_fit(self, [m + abs(low) + abs(high) for m, (low, high) in zip(full, cut, strict=True)])
        return stride, dilation, cut, tuple(m - low - high for m, (low, high) in zip(full, cut, strict=True))

    def _check(self, x):
        spatial(self, x, "kernel", "stride", "padding", "dilation", "output_padding")
        check_groups(self, x)
        if min(self._geometry(x.shape[1:-1])[-1]) < 1 or min(x.shape[1:-1]) < 1:
            raise LayerError(self, f"got x {show(x)}; expected an output of at least one place. Cut less off the ends.")
        return x

    def _unfolded(self, x, sizes):
        """(b, places, k c): what comes to each place of an output of `sizes` through the kernel."""
        stride, dilation, cut, _ = self._geometry(x.shape[1:-1])
        kernel = spread(self.kernel, x.ndim - 2)
        return jax.vmap(lambda x: spread_unfolded(x, kernel, sizes, stride, cut, dilation))(x)

    def init(self, key, x, /):
        return kernel_and_bias(self, key, self._check(x))

    def forward(self, params, x, /):
        w, *b = take(self, params, self._check(x).dtype, **shapes(self, x))
        stride, dilation, cut, sizes = self._geometry(x.shape[1:-1])
        y = spread_back(x, w.astype(x.dtype), sizes, stride, cut, dilation, self.groups)
        return y + along(b[0].astype(y.dtype), y) if self.bias else y, x

    def backward(self, params, x, dy, /):
        stride, dilation, cut, _ = self._geometry(x.shape[1:-1])
        w = params["w"]
        dx = convolve(dy, swapped(w.astype(dy.dtype), self.groups), stride, cut, dilation, self.groups)
        return dx, dy.astype(w.dtype)

    def gradient(self, x, dy, /):
        stride, dilation, cut, _ = self._geometry(x.shape[1:-1])
        kernel = spread(self.kernel, x.ndim - 2)
        dw = swapped(kernel_gradient(dy, x, kernel, stride, cut, dilation, self.groups), self.groups)
        return {"w": dw, "b": dy.sum(leading(dy))} if self.bias else {"w": dw}

    def reference(self, params, x, /):
        """Place by place of the kernel, x W[k] is added to the whole y, whose ends are then cut off."""
        stride, dilation, cut, sizes = self._geometry(x.shape[1:-1])
        w, groups = params["w"], self.groups
        i, o = w.shape[-2:]
        low = [max(c[0], 0) for c in cut]
        pad = [max(-c[0], 0) for c in cut]
        extent = [m + a + b for m, a, b in zip(sizes, low, (max(c[1], 0) for c in cut), strict=True)]
        whole = jnp.zeros((x.shape[0], *extent, o), x.dtype)
        for k in np.ndindex(*w.shape[:-2]):
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
        y = whole[(slice(None), *inside)]
        return y + along(params["b"], y) if self.bias else y


CASES = (
    Case(ConvTranspose(4, (2,), groups=4), f(2, 5, 4)),
    Case(ConvTranspose(3), f(2, 5, 3, 2)),
    Case(ConvTranspose(2, (2, 2), stride=2, padding="VALID"), f(2, 5, 3, 2)),
    Case(ConvTranspose(4, (3, 2), stride=(2, 3), dilation=(2, 1), groups=2), f(2, 5, 3, 2)),
    Case(ConvTranspose(2, (3,), stride=2, padding=((1, 0),)), f(2, 5, 3)),
    Case(ConvTranspose(3, (3,), stride=2, groups=3), f(2, 4, 3)),
    Case(ConvTranspose(4, (1, 3), groups=2), f(2, 3, 4, 2)),
    Case(ConvTranspose(2, 3, 2, 1, bias=False, output_padding=1), f(2, 3, 2), f(1, 2, 2, 1)),
)
