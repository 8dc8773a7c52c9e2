"""Optimizers that divide by Kronecker factors, or by what is on the diagonal in their eigenbasis."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbp.combinators import Graph, Keep, Parallel, Passing, Remat, Repeat, Residual, Serial, Sublayer, Tied
from jbp.curvature.factors import Factors
from jbp.errors import LayerError
from jbp.fields import Inside, Positive, Size, checked
from jbp.layer import Layer
from jbp.numerics import scan
from jbp.params import trainable
from jbp.readers.maps import Affine, maps
from jbp.sweep import children

__all__ = ["kfac"]


class KfacState(NamedTuple):
    """Steps taken, and averages of the factors by path; with `eigenbasis` that too."""

    count: Any
    factors: dict[str, Factors]
    bases: dict[str, "Eigenbasis"]


class Eigenbasis(NamedTuple):
    """Eigenvectors of A (i, i), None where A is a diagonal, and of G (o, o); mean squares (i, o) of gradients in it."""

    left: Any
    right: Any
    squares: Any


@checked
def kfac(
    net: Layer,
    damping: Positive = 1e-3,
    decay: Inside = 0.95,
    trust: Positive = 1e-2,
    eigenbasis: Size | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation: the gradient times the inverse of the Fisher matrix, A ⊗ G of each affine map.

        u = (A + π √λ I)⁻¹ dW (G + √λ / π I)⁻¹      π² = (tr A / i) / (tr G / o)      u min(1, √(trust / Σ u · dW))

    λ is `damping`; A and G are averages over steps with `decay`, free of bias. The last factor holds the step, at a
    rate of 1, to a Kullback–Leibler divergence of about `trust` / 2. What has no factors keeps its gradient. The
    factors come with `sweep=Factored()`. (Martens & Grosse, 2015, §6.3 and §6.4; Ba et al., *Distributed Second-Order
    Optimization Using Kronecker-Factored Approximations*, 2017, §5.)

    With `eigenbasis` it is EKFAC. In the eigenbases U of A and V of G the Fisher matrix is nearly diagonal; what is on
    the diagonal is measured, from each example's gradient hᵢ, where K-FAC has a product of two eigenvalues:

        u = U ((Uᵀ dW V) / (D + λ)) Vᵀ      D = Σ (Uᵀ hᵢ V)² element by element

    No other diagonal in this basis is as near to the Fisher matrix. The bases are found again every `eigenbasis` steps;
    D, an average as A and G are, is turned with them. Between these steps a step costs products, and no solves.
    (George et al., *Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis*, 2018, §3.)

    >>> optimizer = optax.chain(jbp.curvature.kfac(Dense(2)), optax.sgd(1.0))
    """

    shared = _shared(net)

    def init(params):
        found = {}

        def blank(layer, path, p, stacked):
            found.update((at, _blank(affine, p, stacked)) for at, affine in _maps(layer, path, p))
            return p

        _mapped(net, blank, "", trainable(params))
        bases = {path: _first(*each) for path, each in found.items()} if eigenbasis else {}
        return KfacState(jnp.zeros((), jnp.int32), found, bases)

    def update(updates, state, params=None, *, factors: Any = None, rows: Any = None, **extra):
        wanted = [*state.factors, *(other for path in state.factors for other in shared.get(path, ()))]
        if not set(wanted) <= set(factors or ()):
            raise LayerError(
                net,
                f"got the factors of {sorted(factors or ())}; expected those of {sorted(wanted)}. Train with "
                "sweep=Factored(), of the same network.",
            )
        new = {
            path: _together([factors[path], *(factors[at] for at in shared.get(path, ()))]) for path in state.factors
        }
        count = state.count + 1
        kept = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.factors, new)
        free = 1 - decay ** count.astype(jnp.float32)
        measured, bases, inner = jax.tree.map(lambda a: a / free.astype(a.dtype), kept), state.bases, []
        if eigenbasis:
            bases = jax.lax.cond(state.count % eigenbasis == 0, _renewed, lambda kept, bases: bases, kept, bases)
            for path, (left, right, squares) in bases.items():
                new = _squares([rows[path], *(rows[at] for at in shared.get(path, ()))], left, right, squares)
                bases = bases | {path: Eigenbasis(left, right, decay * squares + (1 - decay) * new)}
                measured[path] = Eigenbasis(left, right, bases[path].squares / free.astype(squares.dtype))

        def solved(layer, path, g, stacked):
            for at, affine in _maps(layer, path, g):
                solve = partial(_solved, affine, damping)
                for _ in range(stacked):
                    solve = jax.vmap(solve)
                u = solve(measured[at], g)
                inner.extend(jnp.vdot(u[name], g[name]) for name in affine.names)
                g = u
            return g

        new = _mapped(net, solved, "", updates)
        scale = jnp.minimum(1, jnp.sqrt(trust / jnp.maximum(sum(inner, jnp.zeros(())), 1e-30)))
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), new), KfacState(count, kept, bases)

    return optax.GradientTransformationExtraArgs(init, update)


def _maps(layer: Layer, path: str, tree: Any) -> list[tuple[str, Affine]]:
    """(path, map) for each affine map of a layer, of what is in the tree."""
    return [(f"{path}/{name}" if name else path, each) for name, each in maps(layer).items() if each.there(tree)]


def _mapped(layer: Any, f: Any, path: str, tree: Any, stacked: int = 0) -> Any:
    """The tree with f(layer, path, its part, the number of Repeats around it) for each layer."""
    if isinstance(layer, Serial | Parallel | Graph):
        parts = enumerate(zip(layer.layers, layer.parts(tree), strict=True))
        return layer.whole(_mapped(child, f, path + layer.label(i), part, stacked) for i, (child, part) in parts)
    if isinstance(layer, AROUND):
        return _mapped(layer.layer, f, path, tree, stacked + isinstance(layer, Repeat))
    return f(layer, path, tree, stacked)


AROUND = Residual | Passing | Sublayer | Keep | Remat | Repeat | Tied


def _shared(layer: Layer, path: str = "") -> dict[str, list[str]]:
    """For the path of a map the paths of those that have its parameters too."""
    found: dict[str, list[str]] = {}
    for label, child in children(layer):
        found |= _shared(child, path + label)
    if isinstance(layer, Tied):
        for source, place in layer.ties:
            one, other = (_owned(layer.layer, at, path) for at in (source, place))
            for name in one.keys() & other.keys():
                if one[name][1] == other[name][1]:
                    found.setdefault(one[name][0], []).append(other[name][0])
    return found


def _owned(layer: Any, steps: tuple[Any, ...], path: str) -> dict[str, tuple[str, Affine]]:
    """{name: (path, map)} of the maps whose weights are at these steps into the parameters."""
    while isinstance(layer, Serial | Parallel | Graph | AROUND):
        if isinstance(layer, AROUND):
            layer = layer.layer
        elif steps:
            i = layer.names.index(steps[0]) if layer.names else range(len(layer.layers))[steps[0]]
            layer, path, steps = layer.layers[i], path + layer.label(i), steps[1:]
        else:
            return {}
    return {
        name: (f"{path}/{name}" if name else path, affine)
        for name, affine in maps(layer).items()
        if not steps or affine.weights == steps
    }


def _together(several: list[Factors]) -> Factors:
    """One pair for the sum of A ⊗ G: each pair evened out, for A and G are known but for a number, and then added up.

    (Σ A) ⊗ (Σ G) has the terms of different places too; divided by how many there are, it is exact for equals.
    """
    if len(several) == 1:
        return several[0]
    parts = []
    for a, g in several:
        traces = [x.sum(-1) if x.ndim < g.ndim else jnp.trace(x, axis1=-2, axis2=-1) for x in (a, g)]
        pi = jnp.sqrt(jnp.maximum(traces[0], 1e-30) / jnp.maximum(traces[1], 1e-30))
        parts.append((a / pi.reshape(pi.shape + (1,) * (a.ndim - pi.ndim)), g * pi[..., None, None]))
    return Factors(sum(a for a, _ in parts) / len(parts), sum(g for _, g in parts))


def _blank(affine: Affine, p: Any, stacked: int) -> Factors:
    """Factors of nothing."""
    lead, i, o = affine.sizes(p, stacked)
    return Factors(jnp.zeros((*lead, i) if affine.table else (*lead, i, i)), jnp.zeros((*lead, o, o)))


def _first(a, g) -> Eigenbasis:
    """The basis of nothing, like these factors."""

    def eye(matrix):
        return jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)

    return Eigenbasis(None if a.ndim < g.ndim else eye(a), eye(g), jnp.zeros((*g.shape[:-2], a.shape[-1], g.shape[-1])))


def _renewed(factors: dict[str, Factors], bases: dict[str, Eigenbasis]) -> dict[str, Eigenbasis]:
    """The eigenbases of these factors, and the squares as they are in them: the diagonal of (P ⊗ Q) D (P ⊗ Q)ᵀ."""
    found = {}
    for path, (left, right, squares) in bases.items():
        u, v = None if left is None else jnp.linalg.eigh(factors[path].a)[1], jnp.linalg.eigh(factors[path].g)[1]
        squares = squares @ jnp.square(v.mT @ right).mT
        squares = squares if u is None else jnp.square(u.mT @ left) @ squares
        found[path] = Eigenbasis(u, v, squares)
    return found


def _squares(places: list[tuple[Any, Any]], left: Any, right: Any, like: Any) -> Any:
    """Σ (Uᵀ hᵢ V)² over the examples, hᵢ the sum over all places that have these parameters."""
    rows = []
    for x, dy in places:
        x = x if left is None else x @ left[..., None, :, :]
        rows.append((x, dy @ right[..., None, :, :]))
    if len(rows) == 1 and left is not None and rows[0][1].shape[-2] == 1:
        x, dy = (jnp.square(each[..., 0, :]) for each in rows[0])
        return x.mT @ dy

    def gradient(x, dy):
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.zeros(like.shape, dy.dtype).at[x].add(dy)
        return x.mT @ dy

    def add(total, rows):
        return total + jnp.square(sum(gradient(*each) for each in rows)), None

    lead = like.ndim - 2  # the times of a Repeat are first
    return scan(add, jnp.zeros_like(like), jax.tree.map(lambda a: jnp.moveaxis(a, lead, 0), rows))[0]


def _solved(affine, damping, measured, grads):
    by = _divided if isinstance(measured, Eigenbasis) else _inverse
    return affine.put(grads, by(measured, affine.matrix(grads), damping))


def _divided(basis, m, damping):
    left, right, squares = basis
    m = (m if left is None else left.T @ m) @ right / (squares + damping)
    return (m if left is None else left @ m) @ right.T


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
