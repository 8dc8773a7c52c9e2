"""Complex numbers."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.common import complex_example, example, keeping, right, rule, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def complex_square():
    plain = lambda z: z * z  # noqa: E731
    z = lax.complex(example(4), example(4, seed=1))
    return rule(plain, lambda z: (z * z, z), lambda z, d: (2 * z * d,)), plain, (z,)


@right("judge 11")
def modulus_squared():
    """Squared modulus of complex numbers, in JAX's convention of the conjugate."""

    def plain(z):
        return jnp.real(z * jnp.conj(z))

    return (
        keeping(plain, lambda r, g: ((2 * g * jnp.conj(r[0])).astype(r[0].dtype),)),
        plain,
        (complex_example(584, 5),),
    )


@right("judge 11")
def complex_matmul():
    """Product of complex matrices; JAX's transposes do not conjugate."""

    def plain(a, b):
        return a @ b

    return (
        keeping(plain, lambda r, g: (g @ r[1].T, r[0].T @ g)),
        plain,
        (complex_example(591, 3, 4), complex_example(592, 4, 2)),
    )


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def complex_not_conjugated():
    plain = lambda z: z * z  # noqa: E731
    z = lax.complex(example(4), example(4, seed=1))
    return rule(plain, lambda z: (z * z, z), lambda z, d: (2 * jnp.conj(z) * d,)), plain, (z,)


@wrong("judge 11", edge="complex input")
def energy_without_conj():
    """Squared modulus; JAX's gradient of it is twice the conjugate, here twice z."""

    def plain(x):
        return jnp.real(x * jnp.conj(x))

    def bwd(res, g):
        (x,) = res
        return ((2 * g * x).astype(x.dtype),)

    return keeping(plain, bwd), plain, (example(4, seed=156),)


@wrong("judge 11", edge="complex matrices")
def matmul_torch_conj():
    """Matrix product with conjugates in the backward, which is another library's
    convention. Re-creates: "complex matmul gradient conjugated vs JAX"."""

    def plain(a, b):
        return a @ b

    def bwd(res, g):
        a, b = res
        return g @ b.conj().T, a.conj().T @ g

    return keeping(plain, bwd), plain, (example(3, 4, seed=159), example(4, 2, seed=160))


@wrong("judge 11", edge="complex input")
def tanh_complex_real_slope():
    """tanh of any number; the backward keeps the real part of the slope, "the
    derivative being real". Complex activations."""

    def plain(x):
        return jnp.tanh(x)

    f = jax.custom_vjp(plain)

    def fwd(x):
        y = jnp.tanh(x)
        return y, y

    def bwd(y, g):
        return ((g * (1 - jnp.abs(y) ** 2)).astype(y.dtype),)

    f.defvjp(fwd, bwd)
    return f, plain, (example(5, seed=162),)


@wrong("judge 11")
def complex_abs_not_normed():
    """Modulus of complex numbers, the conjugate not divided by the modulus."""

    def plain(z):
        return jnp.abs(z)

    return (
        keeping(plain, lambda res, g: ((g * jnp.conj(res[0])).astype(res[0].dtype),)),
        plain,
        (2 * complex_example(198, 4),),
    )
