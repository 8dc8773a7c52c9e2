"""Kinks: every way in which those inside of a definition may be moved to a side."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr

from verify.jaxpr.interpret import CUSTOM, Around, again, dense, inlined, scan_counts, strip

KINKS = {"max", "min", "abs", "sign", "gt", "ge", "lt", "le", "clamp", *CUSTOM}
KINKS |= {"reduce_max", "reduce_min", "argmax", "argmin", "sort", "top_k", "cummax", "cummin"}
APART = 5


def sided(closed: ClosedJaxpr) -> tuple[Callable[..., Any], int]:
    """(run, n): the vjp of a jaxpr whose kinks are each moved off to a side, run(floats, others, dy, n signs, order).

    Where many kinks meet, as in a layer of units at zero, a rule may take one side at all of them, and no side of any
    one input need have that. A kink's first operand is moved by what falls from its first element to its last, so that
    the first or the last of equals is chosen; or if `order` is not zero, in some order, so that any may be. Of more
    than APART kinks those of a kind are moved alike.
    """
    met: list[str] = []

    def listed(eqn, values, bind):
        if eqn.primitive.name == "scan":
            return _scanned(eqn, values, listed, met)
        met.extend([eqn.primitive.name] * _is_kink(eqn))
        return bind(eqn, values)

    jax.make_jaxpr(strip(closed, listed))(*closed.in_avals)
    kinds = list(dict.fromkeys(met))
    signs_of = list(range(len(met))) if len(met) <= APART else [kinds.index(name) % APART for name in met]

    def run(floats, others, dy, signs, order):
        passed: list[str] = []

        def moved(eqn, values, bind):
            if eqn.primitive.name == "scan":
                return _scanned(eqn, values, moved, passed)
            there = bind(eqn, values)
            if not _is_kink(eqn):
                return there
            x = jnp.asarray(values[0])
            some = jnp.sin(order * (1 + jnp.arange(x.size)) ** 2)  # noise, from -1 to 1
            share = jnp.where(order == 0, jnp.linspace(1, 0.5, x.size), 0.75 + 0.25 * some).reshape(x.shape)
            step = signs[signs_of[len(passed)]] * share * (1e-12 + 1e-9 * jnp.abs(lax.stop_gradient(x)))
            passed.append(eqn.primitive.name)
            found = bind(eqn, [x + jnp.where(jnp.isfinite(x), step, 0).astype(x.dtype), *values[1:]])
            return list(map(_standing, found, there))

        return dense(again(closed, moved))(floats, others, dy)

    return run, len(set(signs_of))


def _scanned(eqn: Any, values: list, around: Around, passed: list[str]) -> list:
    """A scan whose body is run by `strip` too; that may be traced twice, and what it adds to `passed` counts once."""
    (consts, carried), before = scan_counts(eqn), len(passed)

    def body(carry, x):
        del passed[before:]
        out = strip(eqn.params["jaxpr"], around)(*values[:consts], *carry, *x)
        return out[:carried], out[carried:]

    first, xs = values[consts : consts + carried], values[consts + carried :]
    last, ys = lax.scan(body, first, xs, eqn.params["length"], eqn.params["reverse"])
    return [*last, *ys]


def _is_kink(eqn: Any) -> bool:
    return eqn.primitive.name in KINKS and not inlined(eqn) and jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating)


def _standing(new: Any, old: Any) -> Any:
    """The derivative of what was moved, and the value of what was not, lest the next kink see it move."""
    if not jnp.issubdtype(new.dtype, jnp.floating):
        return new
    return jnp.where(jnp.isfinite(old), new + lax.stop_gradient(old - new), new)
