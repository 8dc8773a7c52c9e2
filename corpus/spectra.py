"""Eigenvalues, singular values, factors and exponentials of matrices."""

import jax
import jax.numpy as jnp
import numpy as np

from corpus.common import definite, example, keeping, right, spd, triangular, written, wrong


def _sym(seed, n):
    a = example(n, n, seed=seed)
    return 0.5 * (a + a.T)


def symmetric_cholesky(a):
    return jnp.linalg.cholesky(0.5 * (a + a.T))


# right ----------------------------------------------------------------------------------------------------------------


@right("judge 1")
def cholesky_murray():
    cholesky = jnp.linalg.cholesky

    def bwd(low, d):
        p = jnp.tril(low.T @ d)
        p = p - jnp.diag(jnp.diagonal(p)) / 2
        s = triangular(low, p, trans=1, lower=True)
        s = triangular(low, s.T, trans=1, lower=True).T
        return ((s + s.T) / 2,)

    return written(lambda a: (cholesky(a),) * 2, bwd), cholesky, (spd(6) / 6,)


@right("judge 1")
def eigenvalues():
    def bwd(r, d):
        v = jnp.linalg.eigh(r[0])[1]
        return ((v * d[..., None, :]) @ v.swapaxes(-1, -2),)

    a = example(6, 6)
    return keeping(jnp.linalg.eigvalsh, bwd), jnp.linalg.eigvalsh, ((a + a.T) / 2,)


@right("judge 1")
def nuclear_norm_svd():
    def fwd(a):
        u, s, v = jnp.linalg.svd(a, full_matrices=False)
        return s.sum(), (u, v)

    return written(fwd, lambda r, d: (d * r[0] @ r[1],)), lambda a: jnp.linalg.norm(a, "nuc"), (example(5, 4),)


@right("judge 2")
def exponential_of_a_symmetric_matrix():
    """From its eigenvalues: right for symmetric matrices, along which its second derivative is right as well."""
    plain = jax.scipy.linalg.expm

    def fwd(a):
        e, v = jnp.linalg.eigh(a)
        return (v * jnp.exp(e)) @ v.T, (e, v)

    def bwd(r, d):
        e, v = r
        gap = e[:, None] - e
        slope = jnp.exp(e) * jnp.where(gap == 0, 1, jnp.expm1(gap) / jnp.where(gap == 0, 1, gap))
        return (v @ (slope * (v.T @ d @ v)) @ v.T,)

    return written(fwd, bwd), plain, ((lambda a: 0.3 * (a + a.T))(example(4, 4)),)


@right("judge 11")
def cholesky_symmetrized():
    """Cholesky with the symmetric cotangent (Murray's formula)."""

    plain = symmetric_cholesky

    f = jax.custom_vjp(plain)

    def fwd(a):
        y = plain(a)
        return y, y

    def bwd(L, g):
        p = jnp.tril(L.T @ g)
        p = p - 0.5 * jnp.diag(jnp.diagonal(p))
        m = jax.scipy.linalg.solve_triangular(L, p, lower=True, trans=1)
        s = jax.scipy.linalg.solve_triangular(L, m.T, lower=True, trans=1).T
        return (0.5 * (s + s.T),)

    f.defvjp(fwd, bwd)
    return f, plain, (definite(400, 4),)


@right("judge 11")
def expm_symmetric_eigh():
    """exp of the symmetric part by eigh, divided differences right for equal
    eigenvalues. Re-creates "eigh degenerate gradient NaN", avoided."""

    def plain(a):
        return jax.scipy.linalg.expm(0.5 * (a + a.T))

    @jax.custom_vjp
    def f(a):
        return fwd(a)[0]

    def fwd(a):
        w, v = jnp.linalg.eigh(0.5 * (a + a.T))
        return (v * jnp.exp(w)) @ v.T, (w, v)

    def bwd(r, g):
        w, v = r
        m = 0.5 * (w[:, None] + w[None])
        h = 0.5 * (w[:, None] - w[None])
        small = jnp.abs(h) < 0.1
        hs = jnp.where(small, 1, h)
        h2 = h * h
        k = jnp.exp(m) * jnp.where(small, 1 + h2 / 6 * (1 + h2 / 20 * (1 + h2 / 42)), jnp.sinh(hs) / hs)
        s = v @ (k * (v.T @ g @ v)) @ v.T
        return (0.5 * (s + s.T),)

    f.defvjp(fwd, bwd)
    return f, plain, (_sym(402, 3),)


@right("judge 11")
def expm_block_adjoint():
    """Matrix exponential; the adjoint from the exponential of a block matrix."""

    def plain(a):
        return jax.scipy.linalg.expm(a)

    def bwd(r, g):
        (a,) = r
        n = a.shape[0]
        big = jnp.block([[a.T, g], [jnp.zeros_like(a), a.T]])
        return (jax.scipy.linalg.expm(big)[:n, n:],)

    return keeping(plain, bwd), plain, (0.5 * example(3, 3, seed=423),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 11", edge="repeated eigenvalues")
def expm_symmetric_repeated():
    """Exponential of a symmetric matrix by eigh, with zero put where eigenvalues
    are equal, not the derivative. Re-creates: "eigh gradient degenerate"."""

    def plain(a):
        return jax.scipy.linalg.expm(0.5 * (a + a.T))

    @jax.custom_vjp
    def f(a):
        return fwd(a)[0]

    def fwd(a):
        w, v = jnp.linalg.eigh(0.5 * (a + a.T))
        return (v * jnp.exp(w)) @ v.T, (w, v)

    def bwd(res, g):
        w, v = res
        e = jnp.exp(w)
        d = w[:, None] - w[None, :]
        off = jnp.abs(d) > 1e-5
        k = jnp.where(off, (e[:, None] - e[None, :]) / jnp.where(off, d, 1), 0)
        k = jnp.where(jnp.eye(w.shape[0], dtype=bool), e[:, None], k)
        s = v @ (k * (v.T @ g @ v)) @ v.T
        return (0.5 * (s + s.T),)

    f.defvjp(fwd, bwd)
    a = np.array([[1.0, 0.3, -0.2], [0.3, -0.5, 0.4], [-0.2, 0.4, 0.2]], np.float32)
    return f, plain, (jnp.asarray(a),)


@wrong("judge 11")
def expm_commuting():
    """Matrix exponential with the rule of commuting matrices."""

    def plain(a):
        return jax.scipy.linalg.expm(a)

    f = jax.custom_vjp(plain)

    def fwd(a):
        y = plain(a)
        return y, y

    f.defvjp(fwd, lambda y, g: (y.T @ g,))
    return f, plain, (example(3, 3, seed=193),)


@wrong("judge 11")
def cholesky_half_diagonal():
    """Cholesky; the diagonal of L.T@g is not halved. Linear algebra."""

    plain = symmetric_cholesky

    f = jax.custom_vjp(plain)

    def fwd(a):
        y = plain(a)
        return y, y

    def bwd(L, g):
        p = jnp.tril(L.T @ g)
        li = jnp.linalg.inv(L)
        s = li.T @ p @ li
        return (0.5 * (s + s.T),)

    f.defvjp(fwd, bwd)
    return f, plain, (definite(194, 3),)
