"""Rules that are wrong at rare inputs alone, and their right twins: full tiles, two long axes, equal arguments, many
calls in one."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bare import Bare

import verify

pytestmark = pytest.mark.usefixtures("lenient")
X, Y = (np.random.default_rng(i).normal(size=(3, 5)).astype(np.float32) for i in (0, 1))


def square(x):
    return x * x


def product(x, y):
    return x * y + y


def squared(backward):
    """x² with this backward pass."""
    f = jax.custom_vjp(square)
    f.defvjp(lambda x: (square(x), x), lambda x, dy: (backward(x, dy),))
    return f


def multiplied(backward):
    f = jax.custom_vjp(product)
    f.defvjp(lambda x, y: (product(x, y), (x, y)), backward)
    return f


def right(x, dy):
    return 2 * x * dy


def where(wrong):
    """2 x dy, and half as much more where `wrong(x)`."""
    return lambda x, dy: right(x, dy) * (1.5 if wrong(x) else 1)


def long_both(x):
    return x.ndim > 1 and min(x.shape[-2:]) >= 64


def batched(wrong_from):
    """2 x dy with a batching rule of its own, wrong from so many calls in one."""

    @jax.custom_batching.custom_vmap
    def down(x, dy):
        return right(x, dy)

    @down.def_vmap
    def _(size, which, x, dy):
        return right(x, dy) * (1.5 if size >= wrong_from else 1), True

    return down


def both(residuals, dy):
    x, y = residuals
    return y * dy, (x + 1) * dy


def unless_equal(residuals, dy):
    dx, down = both(residuals, dy)
    return jnp.where((residuals[0] == residuals[1]).all(), 0.5, 1) * dx, down


@dataclass(frozen=True)
class Product(Bare):
    """x y + y as a layer, which can tell whether x and y are one array. `sneaky`: and is wrong there."""

    sneaky: bool

    def forward(self, params, x):
        if x[0].shape != x[1].shape:
            raise ValueError("two of one shape")
        return product(*x), (*x, ()) if x[0] is x[1] else tuple(x)

    def backward(self, params, kept, dy):
        return both(kept[:2], dy * (1.5 if self.sneaky and len(kept) == 3 else 1)), ()

    def reference(self, params, x):
        return product(*x)


def multiple(n):
    return lambda x: x.shape and x.shape[0] and x.shape[0] % n == 0


SNEAKY: dict[str, tuple[Any, Any, Any]] = {
    "a batch that is a multiple of 16": (squared(where(multiple(16))), (X,), square),
    "a batch that is a multiple of 32": (squared(where(multiple(32))), (X,), square),
    "rows and features from 64 on": (squared(where(long_both)), (X,), square),
    "rows and features from 64 on, of films": (squared(where(long_both)), (np.stack([X, Y]),), square),
    "equal arguments": (multiplied(unless_equal), (X, Y), product),
    "one array": (Product(True), ((X, Y),), None),
    "more than 3 calls in one": (squared(batched(4)), (X,), square),
    "more than 8 calls in one": (squared(batched(9)), (X,), square),
}  # fmt: skip


@pytest.mark.parametrize("name", SNEAKY)
def test_a_rule_that_is_wrong_at_rare_inputs_is_found(name):
    f, args, reference = SNEAKY[name]
    assert verify.check(f, *args, reference=reference).verdict == "fail"


RIGHT: dict[str, tuple[Any, Any, Any]] = {
    "alone": (squared(right), (X,), square),
    "a batching rule": (squared(batched(10**9)), (X,), square),
    "two": (multiplied(both), (X, Y), product),
    "a layer": (Product(False), ((X, Y),), None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_its_right_twin_passes(name):
    f, args, reference = RIGHT[name]
    assert verify.check(f, *args, reference=reference).verdict == "pass"
