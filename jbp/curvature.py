"""Curvature out of one sweep: Kronecker factors of the Fisher matrix, and an optimizer that uses them.

    sweep, optimizer = Factored(), optax.chain(kfac(net), optax.sgd(1.0))
    state, history = fit(net, loss, optimizer, start(net, optimizer, key, x), batches, sweep=sweep)

The Fisher matrix of an affine map's weights and bias is taken for A ⊗ G, A the second moments of what goes in (1 with
it for the bias), G those of the errors at what comes out; a sweep has both in hand (Martens & Grosse, *Optimizing
Neural Networks with Kronecker-factored Approximate Curvature*, 2015; for convolutions Grosse & Martens, 2016). Where
tokens or places share a map, each is a row ("expand"), or the rows of an example are put together first ("reduce":
Eschenhagen et al., *Kronecker-Factored Approximate Curvature for Modern Neural Network Architectures*, 2023, §3).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jbp.combinators import Graph, Parallel, Passing, Remat, Repeat, Residual, Serial, Sublayer
from jbp.errors import LayerError
from jbp.fields import Count, Inside, Positive, check, checked
from jbp.layer import Layer
from jbp.layers.conv.convolution import Conv
from jbp.layers.embedding import Embedding
from jbp.layers.linear.dense import Dense
from jbp.layers.windows import spread
from jbp.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from jbp.numerics import wide
from jbp.params import trainable
from jbp.readers.observe import Seen, parted, shown
from jbp.sweep import lost, must_be_layer

__all__ = ["Factored", "Factors", "kfac"]


FACTORED = Dense, Conv, Embedding


class Factors(NamedTuple):
    """A (i, i) of what goes in, 1 with it for a bias, or its diagonal (v,) for indices; G (o, o) of the errors."""

    a: Any
    g: Any


class FactoredAux(NamedTuple):
    """What the sweep has beside loss and gradient; `factors` are offered to the optimizer."""

    output: Any
    params: Any
    factors: dict[str, Factors]


@dataclass(frozen=True)
class Factored:
    """A sweep for `jbp.train.step` and `fit` that has Kronecker factors beside the gradient, as `sweep=Factored()`.

        A = Σ a aᵀ / rows      G = b Σ dy dyᵀ, b the examples, for the loss is their mean

    for each Dense, Conv without groups and Embedding, by path; in a Repeat with a first axis of `times`. With "reduce"
    the rows of an example are put together first: a their mean, dy their sum. `fisher` is "sampled", with errors for
    targets that are drawn from what the network says, one backward pass more, or "empirical", with those that are
    there. Draws follow from the seed and the number of the step. Raises LayerError for a loss of which nothing can be
    drawn: SoftmaxCrossEntropy, BinaryCrossEntropy and MeanSquaredError can.

    >>> net, x = Dense(1), jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> sweep = jbp.curvature.Factored(fisher="empirical").value_and_grad(net, MeanSquaredError())
    >>> (value, aux), grads = sweep({"w": jnp.zeros((2, 1)), "b": jnp.zeros(1)}, x, jnp.ones((2, 1)))
    >>> aux.factors[""].a  # of x and 1
    Array([[ 5.,  7.,  2.],
           [ 7., 10.,  3.],
           [ 2.,  3.,  1.]], dtype=float32)
    """

    fisher: Literal["sampled", "empirical"] = "sampled"
    shared: Literal["expand", "reduce"] = "expand"
    seed: Count = 0

    def __post_init__(self):
        check(self)

    def value_and_grad(self, net: Layer, loss: Layer) -> Any:
        """f(params, x, *targets, step) -> ((loss, aux with factors), gradient)."""
        must_be_layer("net", net)
        must_be_layer("loss", loss)
        seen = shown(net, {"factors": self._factors})

        def f(params, x, *targets, step=0):
            output, residuals = seen.forward(params, x)
            value, dy = lost(loss, output, *targets)
            grads, found = parted(seen.pull(params, residuals, dy)[1])
            if self.fisher == "sampled":
                key = jax.random.fold_in(jax.random.key(self.seed), step)
                target, times = drawn(loss, output, key)
                _, dy = lost(loss, output, target)
                _, found = parted(seen.pull(params, residuals, dy * times)[1])
            factors = {path: each["factors"] for path, each in found.items()}
            return (value, FactoredAux(output, seen.advance(params, residuals), factors)), grads

        return f

    def _factors(self, seen: Seen) -> Factors | None:
        rows = _rows(seen.layer, seen.x)
        if rows is None:
            return None
        dy, b = wide(seen.dy), seen.dy.shape[0]
        dy = dy.reshape(b, -1, dy.shape[-1])
        if self.shared == "reduce" and rows.ndim > 2:
            rows, dy = rows.mean(1, keepdims=True), dy.sum(1, keepdims=True)
        g = b * jnp.einsum("bti,btj->ij", dy, dy)
        if isinstance(seen.layer, Embedding):
            return Factors(jnp.zeros(seen.layer.vocabulary).at[rows.ravel()].add(1) / rows.size, g)
        if getattr(seen.layer, "bias", False):
            rows = jnp.concatenate([rows, jnp.ones((*rows.shape[:-1], 1), rows.dtype)], -1)
        return Factors(jnp.einsum("bti,btj->ij", rows, rows) / math.prod(rows.shape[:-1]), g)


def _factored(layer: Any) -> bool:
    """Whether there are factors for the layer."""
    return type(layer) in FACTORED and (
        type(layer) is not Conv or (layer.groups == 1 and layer.padding_mode == "zeros")
    )


def _rows(layer: Any, x: Any) -> Any:
    """What goes into an affine map, (b, rows, i), of an Embedding the indices; None for another layer."""
    if not _factored(layer):
        return None
    if type(layer) is Embedding:
        return x.reshape(x.shape[0], -1)
    if type(layer) is Dense:
        return wide(x).reshape(x.shape[0], -1, x.shape[-1])
    stride, dilation, pads = layer._geometry(x.shape)
    rank = x.ndim - 2
    kernel = spread(layer.kernel, rank)
    words = "".join("DHW"[-rank:])
    spec = (f"N{words}C", f"{words}IO", f"N{words}C")
    patches = lax.conv_general_dilated_patches(
        wide(x), kernel, stride, pads, rhs_dilation=dilation, dimension_numbers=spec
    )
    n = math.prod(kernel)
    patches = patches.reshape(x.shape[0], -1, x.shape[-1], n)  # channels first, and then the kernel's places
    return jnp.swapaxes(patches, -1, -2).reshape(x.shape[0], -1, n * x.shape[-1])


def drawn(loss: Layer, output: Any, key: Any) -> tuple[Any, float]:
    """(a target drawn from what the network says, what to multiply its errors with for the curvature of the loss).

    A loss that is 1 / c of a negative log-likelihood has errors that are 1 / c of its own, and so much of its curvature
    is in √c of them.
    """
    b = max(output.shape[0], 1)
    if type(loss) is SoftmaxCrossEntropy:
        return jax.random.categorical(key, wide(output), axis=-1), math.sqrt(math.prod(output.shape[:-1]) / b)
    if type(loss) is BinaryCrossEntropy:
        target = jax.random.bernoulli(key, jax.nn.sigmoid(wide(output))).astype(output.dtype)
        return target, math.sqrt(output.size / b)
    if type(loss) is MeanSquaredError:  # of squares that are no halves: the variance is a half
        noise = jax.random.normal(key, output.shape, output.dtype)
        return output + math.sqrt(0.5) * noise, math.sqrt(output.size / b)
    raise LayerError(
        loss,
        "got a loss of which no target can be drawn; expected SoftmaxCrossEntropy, BinaryCrossEntropy or "
        'MeanSquaredError. Write Factored(fisher="empirical").',
    )


class KfacState(NamedTuple):
    """Steps taken, and averages of the factors by path."""

    count: Any
    factors: dict[str, Factors]


@checked
def kfac(
    net: Layer, damping: Positive = 1e-3, decay: Inside = 0.95, trust: Positive = 1e-2
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation: the gradient times the inverse of the Fisher matrix, A ⊗ G of each layer.

        u = (A + π √λ I)⁻¹ dW (G + √λ / π I)⁻¹      π² = (tr A / i) / (tr G / o)      u min(1, √(trust / Σ u · dW))

    λ is `damping`; A and G are averages over steps with `decay`, free of bias. The last factor holds the step, at a
    rate of 1, to a Kullback–Leibler divergence of about `trust` / 2. What has no factors keeps its gradient. The
    factors come with `sweep=Factored()`. (Martens & Grosse, 2015, §6.3 and §6.4; Ba et al., *Distributed Second-Order
    Optimization Using Kronecker-Factored Approximations*, 2017, §5.)

    >>> optimizer = optax.chain(jbp.curvature.kfac(Dense(2)), optax.sgd(1.0))
    """

    def init(params):
        found = {}

        def blank(layer, path, p):
            if (factors := _blank(layer, p)) is not None:
                found[path] = factors
            return p

        _mapped(net, blank, "", trainable(params))
        return KfacState(jnp.zeros((), jnp.int32), found)

    def update(updates, state, params=None, *, factors=None, **extra):
        if factors is None or set(factors) != set(state.factors):
            raise LayerError(
                net,
                f"got the factors of {sorted(factors or ())}; expected those of {sorted(state.factors)}. Train with "
                "sweep=Factored(), of the same network.",
            )
        count = state.count + 1
        kept = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.factors, factors)
        free = 1 - decay ** count.astype(jnp.float32)
        inner = []

        def solved(layer, path, g):
            if path not in kept:
                return g
            means = jax.tree.map(lambda a: a / free.astype(a.dtype), kept[path])
            u = _solved(layer, means, g, damping)
            inner.extend(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(u), jax.tree.leaves(g), strict=True))
            return u

        new = _mapped(net, solved, "", updates)
        scale = jnp.minimum(1, jnp.sqrt(trust / jnp.maximum(sum(inner, jnp.zeros(())), 1e-30)))
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), new), KfacState(count, kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _mapped(layer: Any, f: Any, path: str, tree: Any) -> Any:
    """The tree with f(layer, path, its part) for each layer, which in a Repeat is that of all times."""
    if isinstance(layer, Serial | Parallel | Graph):
        parts = enumerate(zip(layer.layers, layer.parts(tree), strict=True))
        return layer.whole(_mapped(child, f, path + layer.label(i), part) for i, (child, part) in parts)
    if isinstance(layer, Residual | Passing | Sublayer | Remat | Repeat):
        return _mapped(layer.layer, f, path, tree)
    return f(layer, path, tree)


def _blank(layer, p):
    """Factors of nothing, for the parameters of a layer, stacked or not."""
    if not _factored(layer):
        return None
    if type(layer) is Embedding:
        table = p["e"]
        return Factors(jnp.zeros(table.shape[:-1]), jnp.zeros((*table.shape[:-2], *[table.shape[-1]] * 2)))
    w = p["w"]
    lead = w.shape[:-2] if type(layer) is Dense else w.shape[: p["b"].ndim - 1] if layer.bias else ()
    i = math.prod(w.shape[len(lead) : -1]) + layer.bias
    return Factors(jnp.zeros((*lead, i, i)), jnp.zeros((*lead, w.shape[-1], w.shape[-1])))


def _solved(layer, factors, g, damping):
    if factors.g.ndim > 2:
        return jax.vmap(lambda factors, g: _solved(layer, factors, g, damping))(factors, g)
    if type(layer) is Embedding:
        return {"e": _inverse(factors, wide(g["e"]), damping).astype(g["e"].dtype)}
    w = wide(g["w"]).reshape(-1, g["w"].shape[-1])
    both = jnp.concatenate([w, wide(g["b"])[None]]) if layer.bias else w
    u = _inverse(factors, both, damping).astype(g["w"].dtype)
    return {"w": u[: w.shape[0]].reshape(g["w"].shape)} | ({"b": u[-1]} if layer.bias else {})


def _inverse(factors, m, damping):
    a, g = factors
    diagonal = a.ndim == 1
    means = (a.mean() if diagonal else jnp.trace(a) / a.shape[0]), jnp.trace(g) / g.shape[0]
    least = jnp.finfo(m.dtype).tiny ** 0.25
    pi = jnp.sqrt(jnp.maximum(means[0], least) / jnp.maximum(means[1], least))
    root = math.sqrt(damping)

    def through(matrix, by, m):
        damped = matrix + by * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), m)

    m = through(g, root / pi, m.T).T
    return m / (a + pi * root)[:, None] if diagonal else through(a, pi * root, m)
