"""Every operation rounded some other way: as much moves as a formula loses, wherever it stands, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jbp
from benchmarks.verify.faults import broken
from verify.architectures.judge import audit
from verify.architectures.networks import Array, Network
from verify.jaxpr.noise import noisy

EPS = float(np.finfo(np.float64).eps)


def loss(f, x, draws=32):
    """How far the noise moves f(x) at most, the inputs moved by last places to draw afresh."""
    with jax.enable_x64(True):
        run, rng = jax.jit(noisy(f)), np.random.default_rng(0)
        near = [x * (1 + EPS * rng.choice((-1, 0, 1), size=np.shape(x))) for _ in range(draws)]
        return max(float(np.abs(np.asarray(run(v)) - np.asarray(f(v))).max()) for v in near)


def cancels(x):
    """(1 − cos x) / x², which loses ε / x²."""
    return (1 - jnp.cos(x)) / x**2


@jax.custom_jvp
def ruled(x):
    return cancels(x)


ruled.defjvp(lambda primals, tangents: (ruled(*primals), tangents[0]))

HOMES = {
    "alone": cancels,
    "in a function under jit": jax.jit(cancels),
    "under a custom rule": ruled,
    "in a scan": lambda x: lax.scan(lambda c, _: (cancels(x) + 0 * c, None), x, None, length=2)[0],
    "carried by a scan": lambda x: lax.scan(lambda c, _: (c, cancels(c)), x, None, length=2)[1][1],
    "in a while loop": lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, cancels(x)), (0, x))[1],
    "in a branch": lambda x: lax.cond(x[0] > 0, cancels, lambda x: x, x),
    "under vmap": jax.vmap(cancels),
    "in a derivative": lambda x: jax.grad(lambda v: jnp.sum(v * cancels(x)))(x),
}


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_noise_is_what_a_formula_loses(home, size):
    x = size * np.array([1.0, 1.3, 0.7])
    assert 0.3 * EPS / size**2 < loss(HOMES[home], x) < 4 * EPS / size**2


def test_what_is_exact_does_not_move():
    x = np.random.default_rng(0).normal(size=(4, 5))
    for f in (lambda x: jnp.sort(-x, 1), lambda x: jnp.where(x > 0, x.T.T, 0), lambda x: lax.cummax(x), jnp.argmax):
        assert loss(f, x) == 0


def test_equal_numbers_stay_equal():
    """Or every maximum among ties would move by as much as what is chosen from."""
    x = np.full((3, 4), 0.3)
    with jax.enable_x64(True):
        y = np.asarray(noisy(lambda x: jnp.exp(jnp.sin(x) * 3))(x))
    assert np.unique(y).size == 1


def test_what_gives_no_float_or_takes_none_is_left_alone():
    with jax.enable_x64(True):
        run = noisy(lambda tree: {"n": tree["n"] + 1, "z": tree["n"].astype(complex) * 1j, "none": None})
        got = run({"n": np.arange(3)})
    np.testing.assert_array_equal(got["n"], [1, 2, 3])
    np.testing.assert_allclose(got["z"], [0, 1j, 2j], rtol=1e-15)
    assert got["none"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_half_precision_moves_by_its_own_last_place(dtype):
    x = jnp.linspace(1, 2, 64, dtype=dtype)
    moved = np.abs(np.asarray(noisy(lambda x: x * 1)(x) - x, "float64"))
    eps = float(jnp.finfo(dtype).eps)
    assert 0.4 * eps <= moved.min() <= moved.max() <= 2.1 * eps


def saturated(attention):
    """A network that a campaign has met: of an attention one weight is all but 1, and 1e6 comes down to 1e-5."""
    b = jbp.layers
    wide = jbp.LowRankAdapter(b.MultiHeadAttention(2, dropout=0.3), ("q", "v", "o"), 2)
    rows = jbp.Serial(b.MultiHeadAttention(2, groups=1, causal=True, rotary=True, distances=2), jbp.Frozen(attention))
    net = jbp.Graph(a=(rows, "x"), b=(jbp.Frozen(wide), "a"), y=(b.Add(), "a", "x", "b", "a"))
    return Network(net, Array((1, 2, 4)), 55693)


def test_what_a_definition_loses_is_no_disagreement_and_a_mistake_there_is_one():
    def pull(self, params, residuals, dy):
        dx, grads = jbp.layers.CausalSelfAttention.pull(self, params, residuals, dy)
        return dx * (1 + 1e-6), grads

    right = jbp.layers.CausalSelfAttention(1)
    assert audit(saturated(right)).remark == "rounding"
    assert audit(saturated(broken(right, pull=pull))).disagrees
