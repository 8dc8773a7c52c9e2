"""What the audit of released packages has found, each reduced to a few lines. `python -m benchmarks.verify.reduced`

Every line prints a gradient that is not what the function's definition says, or the error that takes its place.
"""

import jax
import jax.numpy as jnp

from benchmarks.verify.released import RULES, found


def sinc():
    """jax 0.10.2: near 0 the gradient of sinc divides by x², which underflows; at 0 itself, and in truth, it is 0."""
    for x in (0.0, 1e-10, 1e-20, 1e-25):
        print("sinc'", x, jax.grad(jnp.sinc)(jnp.float32(x)))


def power_no_nan():
    """distrax 0.1.9: 0ʸ = 0 for every y > 0, so its derivative by y is 0; jax.numpy.power says so too."""
    power_no_nan = found(next(rule for rule in RULES if rule.name.endswith("power_no_nan")))
    for f in (power_no_nan, jnp.power):
        print(f.__name__, jax.grad(f, 1)(0.0, 2.0))


def simplex():
    """optax 0.2.8: the projection takes bfloat16, its gradient raises."""
    from optax.projections import projection_simplex

    x = jnp.arange(4, dtype=jnp.bfloat16)
    print("projection", projection_simplex(x))
    print("gradient", jax.grad(lambda x: projection_simplex(x)[0])(x))


def sparse_simplex():
    """jaxopt 0.8.5: the same."""
    from jaxopt.projection import projection_sparse_simplex  # pyright: ignore[reportMissingImports]

    x = jnp.arange(4, dtype=jnp.bfloat16)
    print("projection", projection_sparse_simplex(x, 2))
    print("gradient", jax.grad(lambda x: projection_sparse_simplex(x, 2)[0])(x))


if __name__ == "__main__":
    for show in (sinc, power_no_nan, simplex, sparse_simplex):
        print(f"{show.__doc__}")
        try:
            show()
        except Exception as error:  # noqa: BLE001 - the error is what is shown
            print(f"{type(error).__name__}: {error}")
