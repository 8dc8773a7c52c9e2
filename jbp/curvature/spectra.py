"""What products alone tell of a matrix: its trace, its largest eigenvalues, the density of all."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbp.curvature.products import Product, joined, parted
from jbp.errors import LayerError
from jbp.fields import Size, checked
from jbp.numerics import scan

__all__ = ["Eigenpairs", "Estimate", "Spectrum", "spectrum", "top", "trace"]


class Estimate(NamedTuple):
    """A mean over draws, and its standard error.

    >>> jbp.curvature.Estimate(10.0, 0.5)
    Estimate(mean=10.0, error=0.5)
    """

    mean: Any
    error: Any


@checked
def trace(matrix: Product, key: Any, draws: Size = 32) -> Estimate:
    """tr M = E vᵀ M v, over vectors v of random signs, with its standard error. As many products as draws.

    (Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix*, 1990.) Of a diagonal matrix one draw is
    exact.

    >>> net, x = Dense(1, bias=False), jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> g = jbp.curvature.ggn(net, MeanSquaredError())({"w": jnp.zeros((2, 1))}, x, jnp.zeros((2, 1)))
    >>> jbp.curvature.trace(g, jax.random.key(0))
    Estimate(mean=Array(10., dtype=float32), error=Array(0., dtype=float32))
    """

    def one(key):
        v = jax.random.rademacher(key, (matrix.size,), joined(matrix.like).dtype)
        return jnp.vdot(v, matrix.flat(v))

    each = jax.lax.map(one, jax.random.split(key, draws))
    return Estimate(each.mean(), jnp.sqrt(each.var() / max(draws - 1, 1)))


class Spectrum(NamedTuple):
    """Where the eigenvalues of a matrix lie: `values` and `weights`, (draws, steps), those of a draw adding up to 1.

    >>> one = jbp.curvature.Spectrum(jnp.array([[0.0, 2.0]]), jnp.array([[0.75, 0.25]]))
    >>> one.density(jnp.array([0.0, 2.0]), width=0.1)
    Array([2.992, 0.997], dtype=float32)
    """

    values: Any
    weights: Any

    @property
    def ends(self) -> tuple[Any, Any]:
        """(the smallest eigenvalue, the largest), as far as Lanczos's steps have come."""
        return self.values.min(), self.values.max()

    def density(self, at: Any, width: float) -> Any:
        """The density at the numbers `at`, each value being spread out to a normal distribution of this width."""
        away = (jnp.asarray(at).reshape(-1, 1) - self.values.reshape(1, -1)) / width
        total = jnp.exp(-0.5 * jnp.square(away)) @ self.weights.reshape(-1)
        return total.reshape(jnp.shape(at)) / (len(self.values) * width * math.sqrt(2 * math.pi))


class Eigenpairs(NamedTuple):
    """The largest eigenvalues (k,), their vectors, a tree with leaves (k, ...), and |M v − λ v|, (k,).

    >>> jbp.curvature.Eigenpairs(jnp.array([9.0]), {"w": jnp.array([[0.0, 1.0]])}, jnp.zeros(1)).values
    Array([9.], dtype=float32)
    """

    values: Any
    vectors: Any
    error: Any


@checked
def spectrum(matrix: Product, key: Any, steps: Size = 32, draws: Size = 4) -> Spectrum:
    """The density of the matrix's eigenvalues, by stochastic Lanczos quadrature: `draws` times `steps` products.

    The mean of a function over the eigenvalues is Σ weights f(values) / draws. Memory for `steps` vectors.
    (Ghorbani et al., *An Investigation into Neural Net Optimization via Hessian Eigenvalue Density*, 2019, §2.)

    >>> net, x = Dense(1, bias=False), jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> g = jbp.curvature.ggn(net, MeanSquaredError())({"w": jnp.zeros((2, 1))}, x, jnp.zeros((2, 1)))
    >>> jnp.round(jnp.stack(jbp.curvature.spectrum(g, jax.random.key(0)).ends), 3)
    Array([1., 9.], dtype=float32)
    """
    steps = min(steps, _size(matrix))

    def one(key):
        diagonal, beside, _ = _lanczos(matrix, key, steps)
        values, vectors = jnp.linalg.eigh(_tridiagonal(diagonal, beside[:-1]))
        return values, jnp.square(vectors[0])

    return Spectrum(*jax.lax.map(one, jax.random.split(key, draws)))


@checked
def top(matrix: Product, key: Any, k: Size = 1, steps: Size = 32) -> Eigenpairs:
    """The k largest eigenvalues and their vectors, out of `steps` products (Lanczos, orthogonalized in full).

    `error` tells how far each is from an eigenpair: an eigenvalue lies within it. Take more steps where it is large.

    >>> net, x = Dense(1, bias=False), jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> g = jbp.curvature.ggn(net, MeanSquaredError())({"w": jnp.zeros((2, 1))}, x, jnp.zeros((2, 1)))
    >>> found = jbp.curvature.top(g, jax.random.key(0))
    >>> jnp.round(found.values, 3), jnp.round(jnp.abs(found.vectors["w"].ravel()), 3)
    (Array([9.], dtype=float32), Array([0., 1.], dtype=float32))
    """
    steps = min(steps, _size(matrix))
    if k > steps:
        raise LayerError(top, f"got k={k}; expected at most {steps}, one a step. Take more steps, or fewer pairs.")
    diagonal, beside, basis = _lanczos(matrix, key, steps)
    values, inside = jnp.linalg.eigh(_tridiagonal(diagonal, beside[:-1]))
    order = jnp.argsort(values)[::-1][:k]
    vectors = (basis.T @ inside[:, order]).T
    errors = jnp.abs(beside[-1] * inside[-1, order])
    return Eigenpairs(values[order], jax.vmap(lambda v: parted(v, matrix.like))(vectors), errors)


def _size(matrix):
    if not matrix.size:
        raise LayerError(Product, "got a matrix of no rows; expected parameters that are trained. Is all of it frozen?")
    return matrix.size


def _tridiagonal(diagonal, beside):
    return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)


def _lanczos(matrix: Product, key: Any, steps: int) -> tuple[Any, Any, Any]:
    """(the diagonal (steps,), what is beside it (steps,), the basis (steps, n)) of the matrix seen from a random start.

    Where the space that the start reaches is used up, it goes on from another start, at right angles to it: so what is
    found are eigenvalues of the matrix, however few different ones it has.
    """
    n, dtype = matrix.size, joined(matrix.like).dtype
    starts = jax.random.split(key, steps + 1)

    def start(i, basis):
        v = _beside(jax.random.normal(starts[i], (n,), dtype), basis)
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(dtype).tiny)  # nothing is left after the last step

    def step(carry, i):
        basis, v, size = carry
        basis = basis.at[i].set(v)
        w = matrix.flat(v)
        diagonal, size = jnp.vdot(v, w), jnp.maximum(size, jnp.linalg.norm(w))
        w = _beside(w, basis)
        beside = jnp.linalg.norm(w)
        ends = beside <= 32 * n**0.5 * jnp.finfo(dtype).eps * size
        following = jnp.where(ends, start(i + 1, basis), w / jnp.where(ends, 1, beside))
        return (basis, following, size), (diagonal, jnp.where(ends, 0, beside))

    basis = jnp.zeros((steps, n), dtype)
    (basis, _, _), (diagonal, beside) = scan(step, (basis, start(0, basis), jnp.zeros((), dtype)), jnp.arange(steps))
    return diagonal, beside, basis


def _beside(w, basis):
    """w at right angles to the rows of the basis: twice, for once leaves what rounding has lost."""
    for _ in range(2):
        w = w - basis.T @ (basis @ w)
    return w
