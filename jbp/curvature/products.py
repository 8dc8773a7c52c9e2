"""Products with the Gauss-Newton matrix, the Fisher matrix and the Hessian of a network's loss, which are never made.

The Hessian asks for the derivative of a sweep. A sweep is a program of ours without a rule in it, and JAX can tell the
derivative of any: `slope` is the one place where it is asked. By hand it would be a third method in every layer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jbp.curvature.likelihood import drawn
from jbp.errors import LayerError, show
from jbp.fields import Count, Size, checked
from jbp.layer import Layer
from jbp.numerics import floating, wide, wide_dtype
from jbp.params import buffers, fits, merge, paths, trainable
from jbp.readers.push import must_be_linear, pushed
from jbp.sweep import lost, must_be_layer

__all__ = ["Product", "fisher", "ggn", "hessian"]


@dataclass(frozen=True, eq=False)
class Product:
    """A symmetric matrix over the trained parameters, known by what it makes of a vector: `matrix(v)`, or matrix @ v.

    v is a tree like `trainable(params)`, and so is the product. Make it and use it inside of one `jit`. `dense` writes
    it out.

    >>> net, x = Dense(1), jnp.array([[1.0], [3.0]])
    >>> params = net.init(jax.random.key(0), x)
    >>> g = jbp.curvature.ggn(net, MeanSquaredError())(params, x, jnp.zeros((2, 1)))
    >>> g({"w": jnp.ones((1, 1)), "b": jnp.zeros(1)})
    {'w': Array([[10.]], dtype=float32), 'b': Array([4.], dtype=float32)}
    >>> g.dense()  # b and then w, as jax.tree.leaves has them
    Array([[ 2.,  4.],
           [ 4., 10.]], dtype=float32)
    """

    apply: Callable[[Any], Any] = field(repr=False)
    like: Any = field(repr=False)

    def __call__(self, v: Any, /) -> Any:
        if _shapes(v) != _shapes(self.like):
            raise LayerError(
                type(self),
                f"got {show(v)}; expected a tree like trainable(params), {show(self.like)}. "
                "Draw one with jax.tree.map(jnp.ones_like, trainable(params)), for example.",
            )
        return self.apply(v)

    __matmul__ = __call__

    @property
    def size(self) -> int:
        """How many rows it has."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.like))

    def flat(self, v: Any, /) -> Any:
        """The product with a vector (size,), as one: the leaves of the tree one after the other."""
        return joined(self.apply(parted(v, self.like)))

    def dense(self, *where: str) -> Any:
        """The matrix itself, or the block of the parameters that one of the patterns fits, as `jbp.labels` has them.

        Rows and columns are in the order of the tree's leaves. It costs as many products as it has rows.
        """
        chosen = jnp.asarray(list(_places(self.like, where)), jnp.int32)

        def column(place):
            one = jnp.zeros(self.size, joined(self.like).dtype).at[place].set(1)
            return self.flat(one)[chosen]

        return jax.lax.map(column, chosen).T


def _shapes(tree: Any) -> Any:
    return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _places(like: Any, where: tuple[str, ...]) -> Iterator[int]:
    """The places in the vector of what the patterns fit."""
    first = 0
    for pattern in where:
        if not any(fits(path, pattern) for path in paths(like)):
            everything = ", ".join("/".join(path) for path in paths(like))
            raise LayerError(
                Product.dense,
                f"got {pattern!r}, which fits no parameters; expected the end of one of: {everything}. "
                "Leave it out for the whole matrix.",
            )
    for path, leaf in zip(paths(like), jax.tree.leaves(like), strict=True):
        if not where or any(fits(path, pattern) for pattern in where):
            yield from range(first, first + leaf.size)
        first += leaf.size


def joined(tree: Any) -> Any:
    """The leaves of a tree as one vector, float32 at least."""
    leaves = [wide(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]
    dtype = max((leaf.dtype for leaf in leaves), key=lambda dtype: jnp.finfo(dtype).bits, default=jnp.float32)
    return jnp.concatenate([leaf.astype(dtype) for leaf in leaves]) if leaves else jnp.zeros(0)


def parted(vector: Any, like: Any) -> Any:
    """The tree of which it is the leaves."""
    leaves, structure = jax.tree.flatten(like)
    found, first = [], 0
    for leaf in leaves:
        found.append(vector[first : first + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        first += leaf.size
    return structure.unflatten(found)


def slope(f: Callable[[Any], Any], at: Any) -> Callable[[Any], Any]:
    """v ↦ the derivative of f, a program of ours, in the direction v. What it needs is computed once for many v."""
    return jax.linearize(f, at)[1]


def curved(loss: Layer, output: Any, *targets: Any) -> Callable[[Any], Any]:
    """u ↦ the Hessian of the loss by the network's output, times u."""
    return slope(lambda part: lost(loss, merge(part, output), *targets)[1], floating(output))


def hessian(net: Layer, loss: Layer) -> Callable[..., Product]:
    """f(params, x, *targets) -> Product: H v, the derivative of the gradient in the direction v.

        product = jax.jit(lambda params, v, x, label: hessian(net, loss)(params, x, label) @ v)

    It is exact, at the operations of two sweeps or so. H has eigenvalues of both signs: where products must not lead
    uphill take `ggn`. Raises LayerError where a layer does.

    >>> net, x = Serial(Dense(1, bias=False), Sin()), jnp.array([[1.0]])
    >>> h = jbp.curvature.hessian(net, MeanSquaredError())(({"w": jnp.zeros((1, 1))}, ()), x, jnp.ones((1, 1)))
    >>> h.dense()  # of (sin w − 1)² at w = 0: 2 cos² w − 2 (sin w − 1) (−sin w)
    Array([[2.]], dtype=float32)
    """
    must_be_layer("net", net)
    must_be_layer("loss", loss)

    def f(params, x, *targets):
        fixed = buffers(params)

        def gradient(trained):
            whole = merge(trained, fixed)
            output, residuals = net.forward(whole, x)
            return net.pull(whole, residuals, lost(loss, output, *targets)[1])[1]

        return Product(slope(gradient, trainable(params)), trainable(params))

    return f


def ggn(net: Layer, loss: Layer) -> Callable[..., Product]:
    """f(params, x, *targets) -> Product: G v = Jᵀ H J v, the generalized Gauss-Newton matrix.

    J is the Jacobian of the network's output, H the Hessian of the loss by that output: the Hessian of the loss with
    the network taken for the line that it is at this point. It has no negative eigenvalues where the loss is convex in
    the output, and is the Fisher matrix where the loss is −log p of what the network predicts: a cross-entropy of
    scores, a squared error. A product costs a push and a pull, less than two sweeps. (Schraudolph, *Fast Curvature
    Matrix-Vector Products*, 2002; Martens, *New Insights and Perspectives on the Natural Gradient Method*, 2020, §8.)

    >>> net, x = Serial(Dense(1, bias=False), Sin()), jnp.array([[1.0]])
    >>> g = jbp.curvature.ggn(net, MeanSquaredError())(({"w": jnp.ones((1, 1))}, ()), x, jnp.ones((1, 1)))
    >>> g.dense()  # of (sin w − 1)² at w = 1: 2 cos² w
    Array([[0.584]], dtype=float32)
    """
    must_be_linear(net)
    must_be_layer("loss", loss)

    def f(params, x, *targets):
        output, residuals = net.forward(params, x)
        h = curved(loss, output, *targets)

        def apply(v):
            return net.pull(params, residuals, h(pushed(net, params, output, residuals, dparams=v)))[1]

        return Product(apply, trainable(params))

    return f


@checked
def fisher(
    net: Layer,
    loss: Layer,
    targets: Literal["sampled", "empirical"] = "sampled",
    draws: Size = 1,
    seed: Count = 0,
) -> Callable[..., Product]:
    """f(params, x, *targets, step=0) -> Product: F v = Σ gᵢ (gᵢ · v), over the examples i.

    "sampled": gᵢ is the gradient for a target drawn from what the network says of example i, `draws` of them, as much
    of it as has the curvature of the loss: over many draws F is `ggn`. "empirical": for the target that is there, of
    the mean's share of example i, times √b: b F = Σ hᵢ hᵢᵀ, hᵢ the gradient of its own loss. (On the difference:
    Kunstner et al., *Limitations of the Empirical Fisher Approximation*, 2019.) A product costs as much as one of `ggn`
    whatever the number of draws. They follow from the seed and the step.

    Raises LayerError for a loss of which nothing can be drawn: SoftmaxCrossEntropy, BinaryCrossEntropy of scores and
    MeanSquaredError can.

    >>> net, x = Dense(1, bias=False), jnp.array([[1.0], [3.0]])
    >>> f = jbp.curvature.fisher(net, MeanSquaredError(), "empirical")({"w": jnp.zeros((1, 1))}, x, jnp.ones((2, 1)))
    >>> f.dense()  # the mean of (−2)² and (−6)²
    Array([[20.]], dtype=float32)
    """
    must_be_linear(net)
    must_be_layer("loss", loss)
    kind, number = targets, draws

    def f(params, x, *targets, step=0):
        output, residuals = net.forward(params, x)
        s = errors(loss, output, targets, kind, number, jax.random.fold_in(jax.random.key(seed), step))

        def apply(v):
            u = wide(pushed(net, params, output, residuals, dparams=v))
            inner = jnp.einsum("db...,b...->db", s, u)
            dy = jnp.einsum("db...,db->b...", s, inner)
            return net.pull(params, residuals, dy.astype(output.dtype))[1]

        return Product(apply, trainable(params))

    return f


def errors(loss: Layer, output: Any, targets: tuple[Any, ...], kind: str, draws: int, key: Any) -> Any:
    """Errors (draws, b, ...) at the output with which Σ (Jᵢᵀ s)(Jᵢᵀ s)ᵀ is the Fisher matrix, float32 at least."""
    if kind == "empirical":
        (_, dy), b = lost(loss, output, *targets), output.shape[0]
        return wide(dy)[None] * jnp.sqrt(jnp.asarray(b, wide_dtype(dy.dtype)))
    keys = jax.random.split(key, draws)
    return jax.vmap(lambda key: wide(drawn(loss, output, targets, key)))(keys) / jnp.sqrt(
        jnp.asarray(draws, wide_dtype(output.dtype))
    )
