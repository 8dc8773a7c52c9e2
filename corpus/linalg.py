"""Linear equations, least squares, inverses and determinants."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import definite, example, floats, keeping, right, rule, spd, triangular, written, wrong


def solved(lu, b, trans=0):
    return jax.scipy.linalg.lu_solve(lu, b, trans)


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def solve():
    def bwd(r, d):
        a, y = r
        z = jnp.linalg.solve(a.T, d)
        return -jnp.outer(z, y), z

    f = rule(jnp.linalg.solve, lambda a, b: (jnp.linalg.solve(a, b), (a, jnp.linalg.solve(a, b))), bwd)
    return f, jnp.linalg.solve, (example(5, 5), example(5, seed=1))


@right("own")
def solve_hilbert():
    f, plain, (_, b) = solve.make()
    i = jnp.arange(5)
    return f, plain, ((1 / (i[:, None] + i + 1)).astype(jnp.float32), b)


@right("own")
def inverse():
    f = rule(jnp.linalg.inv, lambda a: (jnp.linalg.inv(a),) * 2, lambda y, d: (-y.T @ d @ y.T,))
    return f, jnp.linalg.inv, (example(4, 4),)


@right("own")
def log_determinant():
    def plain(a):
        return jnp.linalg.slogdet(a)[1]

    f = rule(plain, lambda a: (plain(a), a), lambda a, d: (d * jnp.linalg.inv(a).T,))
    return f, plain, (example(4, 4),)


@right("own")
def quadratic_form():
    def plain(x, a):
        return x @ a @ x

    def bwd(r, d):
        x, a = r
        return d * ((a + a.T) @ x), d * jnp.outer(x, x)

    return rule(plain, lambda x, a: (plain(x, a), (x, a)), bwd), plain, (example(5, scale=1e3), spd(5))


@right("judge 1")
def pseudoinverse():
    pinv = jnp.linalg.pinv

    def bwd(r, d):
        a, p, g = r[0], pinv(r[0]), d.T
        rows, columns = (jnp.eye(n, dtype=a.dtype) for n in a.shape)
        return (-p.T @ d @ p.T + (rows - a @ p) @ g @ (p @ p.T) + (p.T @ p) @ g @ (columns - p @ a),)

    return keeping(pinv, bwd), pinv, (example(6, 3),)


@right("judge 1")
def solve_with_the_same_factors():
    def fwd(a, b):
        lu = jax.scipy.linalg.lu_factor(a)
        x = solved(lu, b)
        return x, (lu, x)

    def bwd(r, d):
        db = solved(r[0], d, trans=1)
        return -jnp.outer(db, r[1]), db

    return written(fwd, bwd), jnp.linalg.solve, (example(6, 6), example(6, seed=1))


@right("judge 1")
def polyfit_vandermonde_qr():
    """Least squares by QR; the definition has the normal equations, whose condition is the square."""

    def powers(t):
        return jnp.stack([t**i for i in range(5)], -1)

    def plain(t, y):
        v = powers(t)
        return jnp.linalg.solve(v.T @ v, v.T @ y)

    def fwd(t, y):
        v = powers(t)
        q, r = jnp.linalg.qr(v)
        c = triangular(r, q.T @ y)
        return c, (t, y, v, r, c)

    def bwd(saved, d):
        t, y, v, r, c = saved
        u = triangular(r, triangular(r, d, trans=1))
        dv = jnp.outer(y - v @ c, u) - jnp.outer(v @ u, c)
        slopes = jnp.stack([jnp.zeros_like(t)] + [i * t ** (i - 1) for i in range(1, 5)], -1)
        return (dv * slopes).sum(-1), v @ u

    return written(fwd, bwd), plain, (jnp.linspace(-1, 1, 12), example(12))


@right("judge 1")
def equality_qp_layer():
    """argmin x'Qx/2 + q'x where Ax = b, by its KKT system, whose factors serve the backward pass."""

    def plain(Q, q, A, b):
        inverse = jnp.linalg.inv((Q + Q.T) / 2)
        nu = jnp.linalg.solve(A @ inverse @ A.T, -(b + A @ inverse @ q))
        return -inverse @ (q + A.T @ nu)

    def fwd(Q, q, A, b):
        n, m = len(q), len(b)
        lu = jax.scipy.linalg.lu_factor(jnp.block([[(Q + Q.T) / 2, A.T], [A, jnp.zeros((m, m), Q.dtype)]]))
        z = solved(lu, jnp.concatenate([-q, b]))
        return z[:n], (lu, z)

    def bwd(r, d):
        lu, z = r
        n = len(d)
        u = solved(lu, jnp.concatenate([d, jnp.zeros(len(z) - n, d.dtype)]))
        x, nu, dx, dnu = z[:n], z[n:], u[:n], u[n:]
        dQ = -(jnp.outer(dx, x) + jnp.outer(x, dx)) / 2
        return dQ, -dx, -(jnp.outer(dnu, x) + jnp.outer(nu, dx)), dnu

    return written(fwd, bwd), plain, (spd(5), example(5, seed=1), example(2, 5, seed=2), example(2, seed=3))


@right("judge 11")
def solve_spd_cholesky():
    """Linear solve by Cholesky; the example's matrix is plainly symmetric
    positive definite, the definition is the general solve."""

    def plain(a, b):
        return jnp.linalg.solve(a, b)

    @jax.custom_vjp
    def f(a, b):
        return fwd(a, b)[0]

    def fwd(a, b):
        c = jax.scipy.linalg.cho_factor(a)
        x = jax.scipy.linalg.cho_solve(c, b)
        return x, (c[0], x)

    def bwd(r, g):
        c, x = r
        lam = jax.scipy.linalg.cho_solve((c, False), g)
        return -jnp.outer(lam, x), lam

    f.defvjp(fwd, bwd)
    return f, plain, (definite(392, 4), example(4, seed=393))


@right("judge 11")
def logdet_spd():
    """log det of a positive definite matrix through Cholesky; gradient the inverse.
    Gaussian likelihoods."""

    def plain(a):
        return jnp.linalg.slogdet(a)[1]

    @jax.custom_vjp
    def f(a):
        return fwd(a)[0]

    def fwd(a):
        c = jnp.linalg.cholesky(a)
        return 2 * jnp.sum(jnp.log(jnp.diagonal(c))), c

    def bwd(c, g):
        return (g * jax.scipy.linalg.cho_solve((c, True), jnp.eye(c.shape[0], dtype=c.dtype)),)

    f.defvjp(fwd, bwd)
    return f, plain, (definite(397, 4),)


@right("judge 11")
def det3_cofactors():
    """det of 3 by 3, gradient the cofactors, right for singular matrices."""

    def plain(a):
        return jnp.dot(a[0], jnp.cross(a[1], a[2]))

    def bwd(r, g):
        (a,) = r
        return (g * jnp.stack([jnp.cross(a[1], a[2]), jnp.cross(a[2], a[0]), jnp.cross(a[0], a[1])]),)

    return keeping(plain, bwd), plain, (example(3, 3, seed=404),)


@right("judge 11")
def triangular_solve_masked():
    """Lower triangular solve which reads the lower half only."""

    def plain(a, b):
        return jax.scipy.linalg.solve_triangular(a, b, lower=True)

    f = jax.custom_vjp(plain)

    def fwd(a, b):
        x = plain(a, b)
        return x, (a, x)

    def bwd(r, g):
        a, x = r
        lam = jax.scipy.linalg.solve_triangular(a, g, lower=True, trans=1)
        return -jnp.tril(lam @ x.T), lam

    f.defvjp(fwd, bwd)
    return f, plain, (example(4, 4, seed=411) + 4 * jnp.eye(4, dtype=jnp.float32), example(4, 2, seed=412))


@right("judge 11")
def lstsq_full():
    """Least squares of full column rank with the residual's term."""

    def plain(a, b):
        return jnp.linalg.solve(a.T @ a, a.T @ b)

    def bwd(r, g):
        a, b = r
        m = a.T @ a
        x = jnp.linalg.solve(m, a.T @ b)
        lam = jnp.linalg.solve(m, g)
        return jnp.outer(b - a @ x, lam) - jnp.outer(a @ lam, x), a @ lam

    return keeping(plain, bwd), plain, (example(6, 3, seed=419), example(6, seed=420))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 1")
def inverse_not_transposed():
    inv = jnp.linalg.inv
    return written(lambda a: (inv(a),) * 2, lambda y, d: (-y @ d @ y,)), inv, (example(5, 5) + 4 * jnp.eye(5),)


@wrong("judge 1")
def triangular_solve_not_transposed():
    def solved(low, x):
        return jax.scipy.linalg.solve_triangular(low, x, lower=True)

    def plain(low, x):
        z = solved(low, x)
        return -0.5 * (z * z).sum() - jnp.log(jnp.abs(jnp.diag(low))).sum()

    def bwd(r, d):
        low, x = r
        z = solved(low, x)
        u = solved(low, z)
        return d * (jnp.tril(jnp.outer(u, z)) - jnp.diag(1 / jnp.diag(low))), -d * u

    return keeping(plain, bwd), plain, (jnp.tril(example(5, 5)) / 2 + 2 * jnp.eye(5), example(5, seed=1))


@wrong("judge 1", edge="particular values")
def symmetric_matrix_assumed():
    solve = jnp.linalg.solve

    def bwd(r, d):
        a, b = r
        u = solve(a, d)
        return -jnp.outer(u, solve(a, b)), u

    a = example(4, 4)
    return keeping(solve, bwd), solve, (a @ a.T + 3 * jnp.eye(4), example(4, seed=1))


@wrong("judge 11", edge="cotangent equal to the right-hand side")
def solve_reuses_solution():
    """Linear solve; when the cotangent is b itself (a quadratic form) the saved
    solution is used for the adjoint one, A not being symmetric."""

    def plain(a, b):
        return jnp.linalg.solve(a, b)

    f = jax.custom_vjp(plain)

    def fwd(a, b):
        x = plain(a, b)
        return x, (a, b, x)

    def bwd(res, g):
        a, b, x = res
        lam = lax.cond(jnp.array_equal(g, b), lambda: x, lambda: jnp.linalg.solve(a.T, g))
        return -jnp.outer(lam, x), lam

    f.defvjp(fwd, bwd)
    return f, plain, (example(4, 4, seed=7) + 4 * jnp.eye(4, dtype=jnp.float32), example(4, seed=8))


@wrong("judge 11", edge="a singular matrix")
def det_singular():
    """det of 3 by 3 by det*inv.T. Re-creates: "det backward for singular input"."""

    def plain(a):
        c = jnp.stack(
            [
                a[1, 1] * a[2, 2] - a[1, 2] * a[2, 1],
                a[1, 2] * a[2, 0] - a[1, 0] * a[2, 2],
                a[1, 0] * a[2, 1] - a[1, 1] * a[2, 0],
            ]
        )
        return jnp.sum(a[0] * c)

    def bwd(res, g):
        (a,) = res
        return (g * plain(a) * jnp.linalg.inv(a).T,)

    return keeping(plain, bwd), plain, (example(3, 3, seed=25) + 2 * jnp.eye(3, dtype=jnp.float32),)


@wrong("judge 11", edge="an inconsistent system (residual not zero)")
def lstsq_without_residual():
    """Least squares of full column rank, the residual's term left out.
    Re-creates: "lstsq gradient only right for square systems"."""

    def plain(a, b):
        return jnp.linalg.solve(a.T @ a, a.T @ b)

    f = jax.custom_vjp(plain)

    def fwd(a, b):
        x = plain(a, b)
        return x, (a, b, x)

    def bwd(res, g):
        a, _b, x = res
        lam = jnp.linalg.solve(a.T @ a, g)
        return -jnp.outer(a @ lam, x), a @ lam

    f.defvjp(fwd, bwd)
    a = example(6, 3, seed=28)
    return f, plain, (a, a @ floats(1.0, -2.0, 0.5))


@wrong("judge 11", edge="a stack of matrices (n, n, n)")
def symmetrize_stack():
    """Symmetric part of square matrices, .T in the backward reverses all axes."""

    def plain(a):
        return jnp.sin(0.5 * (a + jnp.swapaxes(a, -1, -2)))

    def bwd(res, g):
        (a,) = res
        h = g * jnp.cos(0.5 * (a + jnp.swapaxes(a, -1, -2)))
        return (0.5 * (h + h.T),)

    return keeping(plain, bwd), plain, (example(3, 3, seed=140),)
