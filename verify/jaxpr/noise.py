"""A function with every operation rounded some other way: how far its result moves is what its formula loses.

Monte Carlo arithmetic (Stott Parker, 1997), of one unit in the last place, and without a generator: whether a result
comes up or down hangs on its own digits and on those of all inputs. So equal numbers stay equal, what is
computed twice is the same, and to move an input by its last place draws afresh, in one compilation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from verify.jaxpr.interpret import inlined, scan_counts, strip

# What rounds. All else moves numbers, compares or counts them, is exact, or holds other operations.
ROUNDS = {
    *("add", "add_any", "sub", "mul", "div", "rem", "pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt"),
    *("exp", "exp2", "expm1", "log", "log1p", "logistic", "sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "lgamma", "digamma", "polygamma"),
    *("igamma", "igammac", "igamma_grad_a", "random_gamma_grad", "regularized_incomplete_beta", "bessel_i0e"),
    *("bessel_i1e", "zeta", "reduce_sum", "reduce_prod", "cumsum", "cumprod", "cumlogsumexp", "dot_general"),
    *("ragged_dot_general", "conv_general_dilated", "reduce_window_sum", "scatter-add", "scatter-mul", "scatter_add"),
    *("scatter_mul", "fft", "cholesky", "triangular_solve", "lu", "householder_product", "eigh", "svd", "qr"),
}


def noisy(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, with each floating result of each operation that rounds one unit in the last place up or down."""

    def run(*args):
        leaves, tree = jax.tree.flatten(args)
        closed, out = jax.make_jaxpr(lambda *leaves: f(*tree.unflatten(leaves)), return_shape=True)(*leaves)
        digits = (_scrambled(v).astype(np.uint32) for v in map(jnp.asarray, leaves) if _is_real(v))
        salt = sum((jnp.sum(v, dtype=np.uint32) for v in digits), jnp.uint32(0))
        return jax.tree.unflatten(jax.tree.structure(out), _noisy(closed, salt)(*leaves))

    return run


def _noisy(closed, salt):
    def around(eqn, values, bind):
        if inlined(eqn, whole=True):
            return bind(eqn, values)
        if eqn.primitive.name in LOOPS:
            return LOOPS[eqn.primitive.name](eqn, values, salt)
        out = bind(eqn, values)
        return [_moved(v, salt) for v in out] if eqn.primitive.name in ROUNDS else out

    return strip(closed, around, whole=True)


def _scan(eqn, values, salt):
    consts, carries = scan_counts(eqn)
    body = _noisy(eqn.params["jaxpr"], salt)

    def step(carry, x):
        out = body(*values[:consts], *carry, *x)
        return out[:carries], out[carries:]

    carry, xs = values[consts : consts + carries], values[consts + carries :]
    last, ys = lax.scan(step, carry, xs, eqn.params["length"], eqn.params["reverse"])
    return [*last, *ys]


def _while(eqn, values, salt):
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    goes_on, body = strip(eqn.params["cond_jaxpr"], whole=True), _noisy(eqn.params["body_jaxpr"], salt)
    first, inside, carry = values[:n], values[n : n + m], values[n + m :]
    return lax.while_loop(lambda carry: goes_on(*first, *carry)[0], lambda carry: body(*inside, *carry), carry)


def _cond(eqn, values, salt):
    return lax.switch(values[0], [_noisy(branch, salt) for branch in eqn.params["branches"]], *values[1:])


LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


def _moved(v, salt):
    if jnp.iscomplexobj(v):
        return lax.complex(_moved(v.real, salt), _moved(v.imag, salt))
    if not _is_real(v):
        return v
    bits = jnp.finfo(v.dtype).bits
    sign = jnp.where(_scrambled(v, salt) >> (bits - 1) == 0, 1, -1).astype(v.dtype)
    return v * (1 + sign * jnp.finfo(v.dtype).eps)


def _scrambled(v, salt=0):
    """The digits of v as integers that look like any others."""
    bits = jnp.finfo(v.dtype).bits
    whole = lax.bitcast_convert_type(v, f"uint{bits}") ^ jnp.asarray(salt).astype(f"uint{bits}")
    for odd in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93):
        whole = (whole ^ (whole >> (bits // 2 - 1))) * jnp.asarray(odd % 2**bits, whole.dtype)
    return whole


def _is_real(v):
    return jnp.issubdtype(v.dtype, jnp.floating)
