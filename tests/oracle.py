"""Ordinary numbers for a Case's inputs, and a layer's own backward pass beside `jax.vjp` of its reference."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from jbp.cases import Array
from jbp.layer import Layer
from jbp.params import buffers, cast, merge, trainable
from jbp.sweep import initialize


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def draw(spec, seed=0, dtype=jnp.float64):
    """Values for an Array or a tuple of them: normal floats or those that it names, uniform integers."""
    rng = np.random.default_rng(seed)

    def leaf(a):
        if a.below is not None and not a.values:
            return jnp.asarray(rng.integers(0, a.below, a.shape), jnp.int32)
        drawn = rng.choice(a.values, a.shape) if a.values else rng.normal(size=a.shape)
        return jnp.asarray(drawn, dtype if a.below is None else jnp.int32)

    return jax.tree.map(leaf, spec, is_leaf=lambda a: isinstance(a, Array))


def parameters(net, x, seed=0, dtype="float64"):
    """Initial parameters, each moved a little, so that zeros and ones hide nothing."""
    params = cast(initialize(net, jax.random.key(seed), x), dtype)
    rng = np.random.default_rng(seed + 1)

    def move(p):
        return jnp.asarray(np.asarray(p, np.float64) + 0.1 * rng.normal(size=p.shape), p.dtype)

    moved = jax.tree.map(move, trainable(params))
    return merge(moved, buffers(params))


def cotangent(y, seed=0):
    """Normal numbers like the output, None for integers."""
    rng = np.random.default_rng(seed + 2)
    return jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), v.dtype) if is_float(v) else None, y)


def floats_of(tree):
    """The tree with None for what has no cotangent: integers and keys."""
    return jax.tree.map(lambda x: x if is_float(x) else None, tree)


def reverse(net, params, x, dy):
    """(y, (dparams, dx) in one pull, the same by backward and gradient apart)."""
    y, residuals = net.forward(params, x)
    dx, together = net.pull(params, residuals, dy)
    if type(net).pull is Layer.pull:  # backward and then gradient
        return y, (together, dx), (together, dx)
    dx_apart, delta = net.backward(params, residuals, dy)
    return y, (together, dx), (net.gradient(residuals, delta), dx_apart)


def oracle(net, params, x, dy):
    """(y, (dparams, dx)) by `jax.vjp` of the plain definition. None where there is no cotangent."""
    fixed, labels = buffers(params), jax.tree.map(lambda x: None if is_float(x) else x, x)
    y, pullback = jax.vjp(
        lambda p, x: net.reference(merge(p, fixed), merge(x, labels)), trainable(params), floats_of(x)
    )
    none = jax.tree.map(lambda v: np.zeros(v.shape, jax.dtypes.float0), y)  # how jax.vjp writes None
    return y, pullback(jax.tree.map(lambda d, zero: zero if d is None else d, dy, none, is_leaf=lambda d: d is None))


def assert_near(got, wanted, eps, floor=1.0):
    """Structures and dtypes equal; each leaf within eps of the other, relative to its largest element or `floor`."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        where = jax.tree_util.keystr(path)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), where
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        known = np.isfinite(b)
        assert np.array_equal(a[~known], b[~known]), where  # the same infinities, as the loss of what cannot be
        if known.any():
            scale, gap = max(np.abs(b[known]).max(), floor), np.abs(a - b)[known].max()
            assert gap <= eps * scale, f"{where}: off by {gap / scale:.1e}"


def _mix(a, b):
    return 2.5 * np.asarray(a) + np.asarray(b)


def newer_loops():
    """The compiler's option for its newer way to emit loops, None where it has no other. The older one, which conftest
    chooses, compiles in half the time, but not where many of them take the same random bits."""
    return {"xla_cpu_use_fusion_emitters": True} if "use_fusion_emitters" in os.environ["XLA_FLAGS"] else None


def audit(net, x, eps=1e-12, seed=0):
    """The four equations against the reference in float64: pull, its parts, linearity, zero. Returns the parameters."""
    params = parameters(net, x, seed)
    dy = cotangent(jax.eval_shape(lambda p: net.reference(p, x), params), seed)

    drawn = any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves((params, x)))
    run = jax.jit(
        lambda params, x, dy: (reverse(net, params, x, dy), oracle(net, params, x, dy)),
        compiler_options=newer_loops() if drawn else None,
    )

    def both(dy):
        return run(params, x, dy)

    (y, pulled, apart), (y_wanted, wanted) = both(dy)
    assert_near(y, y_wanted, eps)
    assert jax.tree.structure(pulled[0]) == jax.tree.structure(trainable(params))
    assert_near(pulled, wanted, eps)
    assert_near(apart, wanted, eps)

    other = cotangent(dy, seed + 7)
    mixed = jax.tree.map(_mix, dy, other)
    expected = jax.tree.map(_mix, pulled, both(other)[0][1])
    assert_near(both(mixed)[0][1], expected, 10 * eps)
    for leaf in jax.tree.leaves(both(jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), dy))[0][1]):
        assert not np.any(leaf)
    return params
