"""Kronecker factors and one step beside those of kfac-jax, on a perceptron and a convolutional network.

kfac-jax 0.0.8 runs on JAX 0.9 and not on later ones. What it gave there for the perceptron is written down here; where
it is installed, and runs, it is asked itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbp import Serial
from jbp.curvature import Factored, kfac
from jbp.layers import Conv, Dense, Flatten, Tanh
from jbp.losses import SoftmaxCrossEntropy

pytestmark = pytest.mark.usefixtures("lenient")
DAMPING, EXAMPLES, LABELS = 0.01, 4, jnp.array([0, 1, 1, 0], "int32")


def numbers(*shape):
    """Some, the same in every version of everything."""
    n = int(np.prod(shape))
    return jnp.asarray(np.sin(1.7 * np.arange(n) + n).reshape(shape), "float32")


def perceptron(params, x):
    first, _, last = params
    return jnp.tanh(x @ first["w"] + first["b"]) @ last["w"] + last["b"]


def convolutional(params, x):
    first, *_, last = params
    z = jax.lax.conv_general_dilated(x, first["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(z + first["b"]).reshape(len(x), -1) @ last["w"] + last["b"]


NETS = {
    "perceptron": (Serial(Dense(3), Tanh(), Dense(2)), perceptron, numbers(EXAMPLES, 2)),
    "convolutional": (Serial(Conv(2, (3, 3)), Tanh(), Flatten(), Dense(2)), convolutional, numbers(EXAMPLES, 4, 3, 2)),
}


def ours(name):
    """(parameters, gradient, factors by path, the step without a limit), all of them numbers like theirs."""
    net, _, x = NETS[name]
    params = jax.tree.map(lambda p: numbers(*p.shape), jax.eval_shape(lambda: net.init(jax.random.key(0), x)))
    (_, aux), grads = Factored("empirical").value_and_grad(net, SoftmaxCrossEntropy())(params, x, LABELS)
    # Their "empirical" divides by the batch once more, so as to be in the scale of a mean gradient's square.
    factors = {path: own._replace(g=own.g / EXAMPLES) for path, own in aux.factors.items()}
    optimizer = kfac(net, DAMPING, trust=1e9)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, factors=factors)
    return params, grads, factors, updates


def theirs(name, params, grads):
    """(factors, the step), by kfac-jax."""
    import kfac_jax

    _, plain, x = NETS[name]

    def func(params, given):
        x, label = given
        scores = plain(params, x)
        kfac_jax.register_softmax_cross_entropy_loss(scores, label)
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), label[:, None], 1).mean()

    estimator = kfac_jax.BlockDiagonalCurvature(func, default_estimation_mode="fisher_empirical")
    key, given = jax.random.key(2), (params, (x, LABELS))
    state = estimator.init(key, given, exact_powers_to_cache=None, approx_powers_to_cache=None)
    state = estimator.update_curvature_matrix_estimate(state, 0.0, 1.0, DAMPING, EXAMPLES, key, given)
    pairs = zip(state.blocks_states, estimator.blocks, strict=True)
    factors = [(block.factors[0].value, block.factors[1].value * layer.fixed_scale()) for block, layer in pairs]
    more = {"exact_power": False, "use_cached": False, "pmap_axis_name": None}
    return factors, estimator.multiply_inverse(state, grads, identity_weight=DAMPING, **more)


def near(own, wanted):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=2e-3, atol=2e-5), own, wanted)


FACTORS = [
    (np.array([[0.70279, -0.45559, 0.063362], [-0.45559, 0.39801, 0.09819], [0.063362, 0.09819, 1.0]]),
     np.array([[0.063464, -0.029488, 0.030821], [-0.029488, 0.025368, -0.016997], [0.030821, -0.016997, 0.015628]])),
    (np.array([[0.14816, 0.082499, -0.17593, 0.020315], [0.082499, 0.4549, -0.23455, -0.57079],
               [-0.17593, -0.23455, 0.25869, 0.15997], [0.020315, -0.57079, 0.15997, 1.0]]),
     np.array([[0.057865, -0.057865], [-0.057865, 0.057865]])),
]  # fmt: skip
STEP = (
    {
        "b": np.array([-1.1318, 0.45473, -0.8306]),
        "w": np.array([[1.7363, 1.1935, 0.50527], [1.0792, -1.7564, 0.59392]]),
    },
    (),
    {"b": np.array([0.44133, -0.44133]), "w": np.array([[1.5698, -1.5698], [-1.1457, 1.1457], [-0.89459, 0.89459]])},
)


def test_what_it_gave():
    _, _, factors, updates = ours("perceptron")
    near([tuple(each) for each in factors.values()], FACTORS)
    near(updates, STEP)


@pytest.mark.parametrize("name", NETS)
def test_what_it_gives(name):
    try:
        pytest.importorskip("kfac_jax")
    except AttributeError as error:
        pytest.skip(f"kfac-jax does not go with this JAX: {error}")
    params, grads, factors, updates = ours(name)
    try:
        wanted = theirs(name, params, grads)
    except ValueError as error:
        pytest.skip(f"kfac-jax does not go with this JAX: {error}")
    near([tuple(each) for each in factors.values()], wanted[0])
    near(updates, wanted[1])
