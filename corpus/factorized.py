"""Determinants, powers and rotations of matrices, matrix equations, spectral projectors."""

import jax.numpy as jnp

from corpus.common import SINGLE, complex_example, definite, example, floats, keeping, right, rule, uniform, wrong


@wrong("judge 15", "a matrix of negative determinant")
def det_without_its_sign():
    """The determinant is rebuilt from the logarithm of its absolute value, and its sign is lost."""

    def bwd(r, d):
        (a,) = r
        size = jnp.exp(jnp.linalg.slogdet(a)[1])
        return ((d * size)[..., None, None] * jnp.linalg.inv(a).mT,)

    return keeping(jnp.linalg.det, bwd), jnp.linalg.det, (definite(3, 4) / 4,)


@wrong("judge 15", "factors of different sizes")
def log_det_of_a_kronecker_product():
    """Each factor is counted as often as its own size instead of the other's."""

    def plain(a, b):
        return jnp.linalg.slogdet(jnp.kron(a, b))[1]

    def bwd(r, d):
        a, b = r
        return d * a.shape[0] * jnp.linalg.inv(a).T, d * b.shape[0] * jnp.linalg.inv(b).T

    return keeping(plain, bwd), plain, (definite(1, 3), definite(2, 3))


@wrong("judge 15", "a stack of matrices")
def closed_walks_of_three_steps():
    """All axes are reversed where only the last two should be swapped."""

    def plain(a):
        return jnp.trace(a @ a @ a, axis1=-2, axis2=-1)

    def bwd(r, d):
        (a,) = r
        return (3 * d[..., None, None] * (a @ a).T,)

    return keeping(plain, bwd), plain, (example(4, 4, seed=5),)


@wrong("judge 15", "a right side that is not symmetric")
def lyapunov_with_a_symmetric_solution():
    """The solution of A X + X A^T = Q is taken for symmetric in the gradient of A."""

    def solved(a, q):
        n, _ = a.shape
        eye = jnp.eye(n, dtype=a.dtype)
        return jnp.linalg.solve(jnp.kron(a, eye) + jnp.kron(eye, a), q.reshape(-1)).reshape(n, n)

    def bwd(r, d):
        a, q = r
        x, y = solved(a, q), solved(a.T, d)
        return -(y + y.T) @ x, y

    a = 2 * jnp.eye(3, dtype=SINGLE) + example(3, 3, seed=6, scale=0.3)
    return keeping(solved, bwd), solved, (a, definite(4, 3))


@wrong("judge 15", "a negative power")
def matrix_power_of_the_inverse():
    """The sum over the places of the factor is empty for a negative power."""

    def plain(a, n):
        return jnp.linalg.matrix_power(a, n)

    def bwd(n, r, d):
        (a,) = r

        def power(k):
            return jnp.linalg.matrix_power(a, k).mT

        return (sum((power(i) @ d @ power(n - 1 - i) for i in range(n)), jnp.zeros_like(a)),)

    return keeping(plain, bwd, 1), plain, (jnp.eye(3, dtype=SINGLE) + example(3, 3, seed=7, scale=0.3), 3)


@wrong("judge 15")
def rayleigh_quotient_of_two_forms():
    """The gradient of the lower form lacks the quotient itself."""

    def plain(x, a, b):
        return (x @ a @ x) / (x @ b @ x)

    def bwd(r, d):
        x, a, b = r
        low = x @ b @ x
        g, y = d / low, (x @ a @ x) / low
        return g * ((a + a.T) @ x - y * ((b + b.T) @ x)), g * jnp.outer(x, x), -g * jnp.outer(x, x)

    return keeping(plain, bwd), plain, (example(4, seed=8), definite(9, 4), definite(10, 4))


@right("judge 15")
def rotation_by_cayley_transform():
    """(I - A)^-1 (I + A) of the skew part of any square matrix, which can always be inverted."""

    def parts(w):
        eye = jnp.eye(w.shape[-1], dtype=w.dtype)
        return eye, w - w.mT

    def plain(w):
        eye, a = parts(w)
        return jnp.linalg.solve(eye - a, eye + a)

    def fwd(w):
        q = plain(w)
        return q, (w, q)

    def bwd(r, d):
        w, q = r
        eye, a = parts(w)
        g = jnp.linalg.solve(eye + a, d) @ (q + eye).mT
        return (g - g.mT,)

    return rule(plain, fwd, bwd), plain, (example(4, 4, seed=11, scale=0.5),)


@right("judge 15")
def sylvester_equation():
    """A X + X B = C; the backward pass solves the equation of the transposes."""

    def solved(a, b, c):
        (n, _), (m, _) = a.shape, b.shape
        k = jnp.kron(a, jnp.eye(m, dtype=a.dtype)) + jnp.kron(jnp.eye(n, dtype=a.dtype), b.T)
        return jnp.linalg.solve(k, c.reshape(-1)).reshape(n, m)

    def bwd(r, d):
        a, b, c = r
        x, y = solved(a, b, c), solved(a.T, b.T, d)
        return -y @ x.T, -x.T @ y, y.reshape(c.shape)

    a = 2 * jnp.eye(3, dtype=SINGLE) + example(3, 3, seed=12, scale=0.3)
    b = jnp.eye(2, dtype=SINGLE) + example(2, 2, seed=13, scale=0.3)
    return keeping(solved, bwd), solved, (a, b, example(3, 2, seed=14))


@right("judge 15")
def log_det_of_diagonal_and_low_rank():
    """log det (diag(exp s) + U U^T); the backward pass solves only with a matrix of the rank's size."""

    def plain(s, u):
        return jnp.linalg.slogdet(jnp.diag(jnp.exp(s)) + jnp.einsum("ik,jk->ij", u, u))[1]

    def bwd(r, d):
        s, u = r
        v = u / jnp.exp(s)[:, None]
        w = jnp.linalg.solve(jnp.eye(u.shape[1], dtype=u.dtype) + u.T @ v, v.T).T
        return d * (1 - (u * w).sum(1)), 2 * d * w

    return keeping(plain, bwd), plain, (uniform(-1.0, 1.0, 5, seed=15), example(5, 2, seed=16))


@right("judge 15")
def projector_on_the_two_leading_directions():
    """Only the gaps between the kept and the dropped eigenvalues are divided by."""

    def plain(a):
        v = jnp.linalg.eigh(a)[1][..., -2:]
        return v @ v.mT

    def bwd(r, d):
        (a,) = r
        w, v = jnp.linalg.eigh(a)
        kept, rest = v[..., -2:], v[..., :-2]
        gap = w[..., -2:, None] - w[..., None, :-2]
        g = kept @ ((kept.mT @ (d + d.mT) @ rest) / gap) @ rest.mT
        return ((g + g.mT) / 2,)

    e = example(5, 5, seed=17, scale=0.2)
    return keeping(plain, bwd), plain, (jnp.diag(floats(1.0, 2.0, 4.0, 7.0, 9.0)) + e + e.T,)


@right("judge 15")
def complex_system_by_plain_transpose():
    """The adjoint system has the transposed matrix and, by JAX's convention, no conjugates."""

    def plain(a, b):
        return jnp.einsum("ij,j->i", jnp.linalg.inv(a), b)

    def bwd(r, d):
        a, b = r
        inverse = jnp.linalg.inv(a)
        g = jnp.einsum("ji,j->i", inverse, d)
        return -jnp.einsum("i,j->ij", g, inverse @ b), g

    a = complex_example(18, 4, 4) + 4 * jnp.eye(4, dtype=SINGLE)
    return keeping(plain, bwd), plain, (a, complex_example(19, 4))
