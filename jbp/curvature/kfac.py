"""An optimizer that divides by Kronecker factors."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbp.combinators import Graph, Keep, Parallel, Passing, Remat, Repeat, Residual, Serial, Sublayer, Tied
from jbp.curvature.factors import Factors
from jbp.curvature.maps import Affine, maps
from jbp.errors import LayerError
from jbp.fields import Inside, Positive, checked
from jbp.layer import Layer
from jbp.params import trainable
from jbp.sweep import children

__all__ = ["kfac"]


class KfacState(NamedTuple):
    """Steps taken, and averages of the factors by path."""

    count: Any
    factors: dict[str, Factors]


@checked
def kfac(
    net: Layer, damping: Positive = 1e-3, decay: Inside = 0.95, trust: Positive = 1e-2
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation: the gradient times the inverse of the Fisher matrix, A ⊗ G of each affine map.

        u = (A + π √λ I)⁻¹ dW (G + √λ / π I)⁻¹      π² = (tr A / i) / (tr G / o)      u min(1, √(trust / Σ u · dW))

    λ is `damping`; A and G are averages over steps with `decay`, free of bias. The last factor holds the step, at a
    rate of 1, to a Kullback–Leibler divergence of about `trust` / 2. What has no factors keeps its gradient. The
    factors come with `sweep=Factored()`. (Martens & Grosse, 2015, §6.3 and §6.4; Ba et al., *Distributed Second-Order
    Optimization Using Kronecker-Factored Approximations*, 2017, §5.)

    >>> optimizer = optax.chain(jbp.curvature.kfac(Dense(2)), optax.sgd(1.0))
    """

    shared = _shared(net)

    def init(params):
        found = {}

        def blank(layer, path, p, stacked):
            found.update((at, _blank(affine, p, stacked)) for at, affine in _maps(layer, path, p))
            return p

        _mapped(net, blank, "", trainable(params))
        return KfacState(jnp.zeros((), jnp.int32), found)

    def update(updates, state, params=None, *, factors: Any = None, **extra):
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
        inner = []

        def solved(layer, path, g, stacked):
            for at, affine in _maps(layer, path, g):
                means = jax.tree.map(lambda a: a / free.astype(a.dtype), kept[at])
                solve = partial(_solved, affine, damping)
                for _ in range(stacked):
                    solve = jax.vmap(solve)
                u = solve(means, g)
                inner.extend(jnp.vdot(u[name], g[name]) for name in affine.names)
                g = u
            return g

        new = _mapped(net, solved, "", updates)
        scale = jnp.minimum(1, jnp.sqrt(trust / jnp.maximum(sum(inner, jnp.zeros(())), 1e-30)))
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), new), KfacState(count, kept)

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


def _solved(affine, damping, factors, grads):
    return affine.put(grads, _inverse(factors, affine.matrix(grads), damping))


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
