"""Minus infinity, NaN that is not read, small integers: a rule is asked for them where its definition takes them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bare import Bare

import verify

Z, LABELS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32), jnp.array([0, 1, 4, 2, 4, 3])


def entropy(z, labels):
    """The loss of rows whose label is not 4, which is left out. Finite where another score is −∞."""
    counted = labels != 4
    rows = jnp.where(counted[:, None], z, 0)
    logs = jax.scipy.special.logsumexp(rows, -1)
    own = jnp.take_along_axis(rows, jnp.where(counted, labels, 0)[:, None].astype(jnp.int32), -1)[:, 0]
    return jnp.where(counted, logs - own, 0).sum()


def with_rule(rows_back):
    @jax.custom_vjp
    def f(z, labels):
        return entropy(z, labels)

    f.defvjp(lambda z, labels: (entropy(z, labels), (z, labels)), lambda kept, dy: (rows_back(*kept) * dy, None))
    return f


def _softmax(z):
    e = jnp.exp(z - jnp.max(z, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def right(z, labels):
    counted = (labels != 4)[:, None]
    hot = (labels[:, None].astype(jnp.int32) == jnp.arange(z.shape[-1])).astype(z.dtype)
    return jnp.where(counted, _softmax(jnp.where(counted, z, 0)) - hot, 0)


def times_a_mask(z, labels):
    """0 · NaN is NaN."""
    hot = (labels[:, None].astype(jnp.int32) == jnp.arange(z.shape[-1])).astype(z.dtype)
    return (_softmax(z) - hot) * (labels != 4)[:, None].astype(z.dtype)


def with_a_penalty_of_zero(z, labels):
    """0 · log p is NaN where p is 0."""
    counted = (labels != 4)[:, None]
    log_p = jnp.where(counted, z, 0) - jax.scipy.special.logsumexp(jnp.where(counted, z, 0), -1, keepdims=True)
    hot = (labels[:, None].astype(jnp.int32) == jnp.arange(z.shape[-1])).astype(z.dtype)
    return jnp.where(counted, jnp.exp(log_p) - hot + 0 * log_p, 0)


def in_the_labels_dtype(z, labels):
    hot = (labels[:, None] == jnp.arange(z.shape[-1], dtype=labels.dtype)).astype(z.dtype)
    return jnp.where((labels != 4)[:, None], _softmax(jnp.where((labels != 4)[:, None], z, 0)) - hot, 0)


@dataclass(frozen=True)
class Rows(Bare):
    """The same as a layer."""

    rule: Any

    def forward(self, params, x):
        return entropy(*x), x

    def backward(self, params, kept, dy):
        return (self.rule(*kept) * dy, None), ()

    def reference(self, params, x):
        return entropy(*x)


def test_a_rule_that_follows_its_definition_passes(lenient):
    assert verify.check(with_rule(right), Z, LABELS, reference=entropy, level="quick").verdict == "pass"


def test_what_leaks_is_found(lenient):
    report = verify.check(with_rule(times_a_mask), Z, LABELS, reference=entropy, level="quick")
    assert report.verdict == "fail"
    assert any("NaN in" in finding.message for finding in report.findings if finding.severity == "error")


def test_what_breaks_at_minus_infinity_is_found(lenient):
    report = verify.check(Rows(with_a_penalty_of_zero), (Z, LABELS), level="quick")
    assert report.verdict == "fail"
    assert any("minus infinity" in finding.message for finding in report.findings if finding.severity == "error")


@pytest.mark.slow
def test_integers_of_a_small_dtype_with_more_classes_than_it_counts(lenient):
    report = verify.check(Rows(in_the_labels_dtype), (Z, LABELS))
    assert report.verdict == "fail"
    assert any("small integers" in finding.message for finding in report.findings if finding.severity == "error")
