"""Linear algebra: solves, factorizations, matrix functions."""

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, expm, lu_factor, lu_solve, solve_triangular

from corpus.common import definite, example, floats, keeping, right, rule, written, wrong


@wrong("judge 13", "a non-symmetric matrix")
def stiffness_solve_adjoint_untransposed():
    """The adjoint system is solved with A and not with its transpose."""

    def bwd(r, d):
        a, x = r
        lam = jnp.linalg.solve(a, d)
        return -jnp.outer(lam, x), lam

    def fwd(a, b):
        x = jnp.linalg.solve(a, b)
        return x, (a, x)

    return rule(jnp.linalg.solve, fwd, bwd), jnp.linalg.solve, (definite(11, 5), example(5, seed=12))


@wrong("judge 13", "a matrix that is not positive definite")
def log_abs_det_by_cholesky_inverse():
    """The inverse comes from a Cholesky factor, though the matrix may be any regular one."""

    def plain(a):
        return jnp.linalg.slogdet(a)[1]

    def bwd(r, d):
        (a,) = r
        return (d * cho_solve((jnp.linalg.cholesky(a), True), jnp.eye(a.shape[0], dtype=a.dtype)),)

    return keeping(plain, bwd), plain, (definite(21, 4),)


@wrong("judge 13", "a singular matrix")
def det_by_inverse():
    """The cofactors are det(A) inv(A) transposed, which is not a number where A is singular."""

    def bwd(r, d):
        a, y = r
        return (d * y * jnp.linalg.inv(a).T,)

    def fwd(a):
        y = jnp.linalg.det(a)
        return y, (a, y)

    return rule(jnp.linalg.det, fwd, bwd), jnp.linalg.det, (example(3, 3, seed=31),)


@wrong("judge 13")
def unit_lower_solve_with_diagonal_slope():
    """The unit diagonal, which is never read, gets a gradient."""

    def plain(low, b):
        return solve_triangular(low, b, lower=True, unit_diagonal=True)

    def fwd(low, b):
        x = plain(low, b)
        return x, (low, x)

    def bwd(r, d):
        low, x = r
        lam = solve_triangular(low, d, lower=True, unit_diagonal=True, trans=1)
        return -jnp.tril(lam @ x.T), lam

    return rule(plain, fwd, bwd), plain, (jnp.tril(0.5 * example(4, 4, seed=41), -1) + jnp.eye(4), example(4, 3))


@wrong("judge 13", "observations that the design does not fit exactly")
def regression_without_residual_term():
    """The design's gradient lacks the term with the residual b - A x."""

    def plain(a, b):
        return jnp.linalg.solve(a.T @ a, a.T @ b)

    def fwd(a, b):
        x = plain(a, b)
        return x, (a, x)

    def bwd(r, d):
        a, x = r
        u = jnp.linalg.solve(a.T @ a, d)
        lam = a @ u
        return -jnp.outer(lam, x), lam

    a = example(7, 3, seed=51)
    return rule(plain, fwd, bwd), plain, (a, a @ floats(1.5, -2.0, 0.7))


@wrong("judge 13", "a large norm")
def expm_frechet_by_three_nodes():
    """The integral of exp(s A') d exp((1 - s) A') is taken with three Gauss nodes, enough for small norms only."""
    nodes = (0.11270167, 0.5, 0.88729833)
    weights = (5 / 18, 8 / 18, 5 / 18)

    def bwd(r, d):
        t = r[0].T
        return (sum(w * expm(s * t) @ d @ expm((1 - s) * t) for s, w in zip(nodes, weights, strict=True)),)

    return keeping(expm, bwd), expm, (0.3 * example(4, 4, seed=61),)


@wrong("judge 13", "equal eigenvalues")
def symmetric_expm_gap_of_zero():
    """Where two eigenvalues are equal the divided difference is 0 and not the derivative."""

    def plain(a):
        return expm((a + a.T) / 2)

    def bwd(r, d):
        w, v = jnp.linalg.eigh((r[0] + r[0].T) / 2)
        gap = w[:, None] - w[None, :]
        near = jnp.abs(gap) < 1e-5
        slope = jnp.where(near, 0.0, (jnp.exp(w)[:, None] - jnp.exp(w)[None, :]) / jnp.where(near, 1.0, gap))
        slope = slope + jnp.diag(jnp.exp(w))
        g = v @ ((v.T @ d @ v) * slope) @ v.T
        return ((g + g.T) / 2,)

    return keeping(plain, bwd), plain, (0.5 * example(4, 4, seed=71),)


@right("judge 13")
def gaussian_log_det_by_factor():
    def plain(a):
        return 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(a))))

    def fwd(a):
        low = jnp.linalg.cholesky(a)
        return 2 * jnp.sum(jnp.log(jnp.diag(low))), low

    def bwd(low, d):
        half = solve_triangular(low, jnp.eye(low.shape[0], dtype=low.dtype), lower=True)
        return (d * half.T @ half,)

    return written(fwd, bwd), plain, (definite(81, 4),)


@right("judge 13")
def solve_keeping_lu():
    def plain(a, b):
        return lu_solve(lu_factor(a), b)

    def fwd(a, b):
        lu = lu_factor(a)
        x = lu_solve(lu, b)
        return x, (lu, x)

    def bwd(r, d):
        lu, x = r
        lam = lu_solve(lu, d, trans=1)
        n = x.shape[0]
        return -lam.reshape(n, -1) @ x.reshape(n, -1).T, lam

    return written(fwd, bwd), plain, (example(4, 4, seed=91) + 3 * jnp.eye(4), example(4, 2, seed=92))


@right("judge 13")
def expm_frechet_by_block():
    """The adjoint of the Frechet derivative is a block of the exponential of a matrix twice as large."""

    def bwd(r, d):
        t = jnp.swapaxes(r[0], -1, -2)
        n = t.shape[-1]
        top, low = jnp.concatenate([t, d], -1), jnp.concatenate([jnp.zeros_like(t), t], -1)
        return (expm(jnp.concatenate([top, low], -2))[..., :n, n:],)

    return keeping(expm, bwd), expm, (example(3, 3, seed=101),)


@right("judge 13")
def mahalanobis_by_triangle():
    """Squared distance x' inv(L L') x of a triangular factor L; what is above its diagonal is not read."""

    def plain(low, x):
        z = solve_triangular(low, x, lower=True)
        return (z * z).sum()

    def fwd(low, x):
        z = solve_triangular(low, x, lower=True)
        return (z * z).sum(), (solve_triangular(low, z, lower=True, trans=1), z)

    def bwd(r, d):
        y, z = r
        n = y.shape[0]
        return -2 * d * jnp.tril(y.reshape(n, -1) @ z.reshape(n, -1).T), 2 * d * y

    return written(fwd, bwd), plain, (jnp.linalg.cholesky(definite(111, 4)), example(4, seed=112))


@right("judge 13")
def reflect_across_plane():
    """Reflection of points in the plane with a normal n, as H x with n of any length but zero."""

    def plain(n, x):
        return x - 2 * (x @ n)[..., None] * n / (n @ n)

    def bwd(r, d):
        n, x = r
        u = n / jnp.linalg.norm(n)
        a, b = x @ u, d @ u
        g = -2 * (b[..., None] * x + a[..., None] * d).reshape(-1, n.shape[0]).sum(0) / jnp.linalg.norm(n)
        return g - u * (g @ u), d - 2 * b[..., None] * u

    return keeping(plain, bwd), plain, (floats(0.6, 0.0, 0.8), example(5, 3, seed=121))


@right("judge 13")
def whitened_inverse_product():
    """inv(A) B inv(A)' by the product already computed."""

    def plain(a, b):
        i = jnp.linalg.inv(a)
        return i @ b @ i.T

    def fwd(a, b):
        i = jnp.linalg.inv(a)
        y = i @ b @ i.T
        return y, (i, y)

    def bwd(r, d):
        i, y = r
        left = i.T @ d
        return -left @ y.T - i.T @ d.T @ y, left @ i

    return written(fwd, bwd), plain, (definite(131, 3) / 3, example(3, 3, seed=132))
