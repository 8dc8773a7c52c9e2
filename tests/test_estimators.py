"""What an estimator sends down is what it says, though that is not the gradient of what it does."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import audit, cotangent, draw, parameters, reverse

import jbp
from jbp.cases import f
from jbp.catalogue import ESTIMATORS
from jbp.credit import angle
from jbp.params import merge
from jbp.sweep import initialize
from jbp.train import fit, start

KEY = jax.random.key(5)


def claims(layer, definition):
    """The layer with another definition: the one whose gradient it says it sends down."""
    layer = type(layer)(**vars(layer))
    object.__setattr__(layer, "reference", definition)
    return layer


def straight(hard, soft):
    """A function that is `hard` in the forward pass and `soft` in the backward pass."""

    @jax.custom_vjp
    def rule(x):
        return hard(x)

    rule.defvjp(lambda x: (hard(x), x), lambda x, dy: jax.vjp(soft, x)[1](dy))
    return rule


@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        (jbp.layers.StraightThroughRound(), straight(jnp.round, lambda x: x)),
        (jbp.layers.StraightThroughSign(), straight(lambda x: jnp.where(x >= 0, 1.0, -1.0), jax.nn.hard_tanh)),
        (
            jbp.layers.StraightThroughOneHot(),
            straight(lambda x: jax.nn.one_hot(x.argmax(-1), x.shape[-1]), lambda x: x),
        ),
        (jbp.layers.GradientReversal(0.3), straight(lambda x: x, lambda x: -0.3 * x)),
    ],
    ids=["round", "sign", "one-hot", "reversal"],
)
def test_a_straight_way_through(layer, rule):
    for spec in (f(3, 5), f(2, 1), f(0, 4)):
        audit(claims(layer, lambda params, x: rule(x)), 2 * draw(spec))


INTEGRAL = {  # functions whose slopes are the surrogates
    "superspike": jax.nn.soft_sign,
    "arctan": jnp.arctan,
    "triangle": lambda z: jnp.where(z > 0, 1, -1) * (0.5 - 0.5 * jnp.maximum(0, 1 - jnp.abs(z)) ** 2),
    "boxcar": lambda z: jnp.clip(z, -1, 1),
}


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("surrogate", INTEGRAL)
def test_spikes_send_back_the_surrogate_and_nothing_else(surrogate, learn):
    layer = jbp.layers.LeakyIntegrateAndFire(0.7, 0.4, surrogate, 3.0, learn)
    fires = straight(lambda u: jnp.where(u > 0.4, 1.0, 0.0), lambda u: INTEGRAL[surrogate](3.0 * (u - 0.4)) / 3.0)

    def definition(params, x):
        leak = jax.nn.sigmoid(params["a"]) if learn else 0.7
        u, s, ys = jnp.zeros_like(x[:, 0]), jnp.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            u = jnp.broadcast_to(leak, u.shape[1:])[None] * u + x[:, t] - 0.4 * s
            s = fires(u)
            ys.append(s)
        return jnp.stack(ys, 1)

    for spec in (f(2, 6, 3), f(1, 1, 1), f(0, 2, 3)):
        audit(claims(layer, definition), draw(spec))
    assert 0 < layer.forward(layer.init(KEY, draw(f(2, 6, 3))), draw(f(2, 6, 3)))[0].mean() < 1


def test_the_true_gradient_of_a_spike_is_zero():
    layer, x = jbp.layers.LeakyIntegrateAndFire(), draw(f(2, 5, 3))
    true = jax.jit(jax.grad(lambda x: layer.reference((), x).sum()))(x)
    assert not true.any()
    _, (_, ours), _ = reverse(layer, (), x, jnp.ones_like(x))
    assert ours.any()


@pytest.mark.parametrize("layer", {type(c.layer): c.layer for c in ESTIMATORS}.values(), ids=repr)
def test_on_the_way_up_an_estimator_is_its_definition(layer):
    x = draw(next(c.inputs[0] for c in ESTIMATORS if c.layer == layer))
    params = parameters(layer, x)
    y, wanted = jax.jit(lambda params, x: (layer.forward(params, x)[0], layer.reference(params, x)))(params, x)
    np.testing.assert_allclose(y, wanted, atol=1e-12)


def test_no_time_at_all():
    x = jnp.zeros((2, 0, 3))
    layer = jbp.layers.LeakyIntegrateAndFire(learn=True)
    _, (grads, dx), _ = reverse(layer, layer.init(KEY, x), x, x)
    assert dx.shape == x.shape
    assert not grads["a"].any()


def test_a_soft_draw_grows_hard_as_the_temperature_falls_and_has_the_right_frequencies():
    p = jnp.array([0.1, 0.6, 0.3])
    x = jnp.tile(jnp.log(p), (20000, 1))
    net = jbp.Serial(jbp.layers.GumbelSoftmax(0.5), jbp.layers.StraightThroughOneHot())
    params = net.init(KEY, x)
    y, residuals = net.forward(params, x)
    np.testing.assert_allclose(y.mean(0), p, atol=0.014)  # four standard deviations
    np.testing.assert_array_equal(y.sum(-1), 1)
    soft = [jbp.layers.GumbelSoftmax(t).forward(params[0], x)[0].max(-1).mean() for t in (5.0, 0.5, 0.01)]
    assert soft[0] < soft[1] < soft[2]
    assert soft[2] > 0.98
    dy = cotangent(y)
    down = net.pull(params, residuals, dy)[0]
    np.testing.assert_array_equal(down, net.layers[0].pull(params[0], residuals[0], dy)[0])
    assert (net.forward(net.advance(params, residuals), x)[0] != y).any()
    np.testing.assert_array_equal(net.evaluation().forward(params, x)[0][0], [0, 1, 0])


def states(n):
    return jnp.array(list(itertools.product([0.0, 1.0], repeat=n)))


def log_likelihood(params, v):
    """The mean of log p(v) of a machine so small that all its states can be counted."""
    every, hidden = states(v.shape[1]), states(params["w"].shape[1])

    def energies(v):
        return -(v @ params["b"])[:, None] - (hidden @ params["c"])[None] - v @ params["w"] @ hidden.T

    log_z = jax.nn.logsumexp(-energies(every))
    return (jax.nn.logsumexp(-energies(v), axis=1) - log_z).mean()


@pytest.fixture(scope="module")
def machine():
    v = states(3)[jnp.array([0, 7, 7, 1, 6, 7])]
    params = parameters(jbp.layers.RestrictedBoltzmann(2), v)
    return params | {"w": jnp.array([[3.0, -2], [-2, 3], [2, 2]]), "c": jnp.array([-1.0, -1.0])}, v


def test_a_soft_draw_of_large_scores_keeps_its_digits():
    """Of exp(x − log Σ exp x) the logarithm would have lost them: found by a random network."""
    x, dy = jnp.array([[3e5, 1e5, -2e5]]), jnp.array([[1.0, -2.0, 0.5]])
    layer = jbp.layers.GumbelSoftmax(0.5).evaluation()
    y, (_, dx), _ = reverse(layer, parameters(jbp.layers.GumbelSoftmax(0.5), x), x, dy)
    np.testing.assert_array_equal((y, dx), ([[1, 0, 0]], [[0, 0, 0]]))


def test_contrastive_divergence_nears_the_gradient_as_its_chains_grow(machine):
    params, v = machine
    fixed, many = jbp.buffers(params), jnp.tile(v, (2000, 1))
    exact = jax.grad(lambda p: -log_likelihood(merge(p, fixed), v))(jbp.trainable(params))
    angles = []
    for steps in (1, 3, 30):
        sweep = jbp.value_and_grad(jbp.layers.RestrictedBoltzmann(2, steps), jbp.layers.Add(), has_aux=True)
        _, grads = jax.jit(sweep)(params, many)
        angles.append(float(angle(grads, exact)))
    print(f"angle to the gradient of the likelihood: {angles} degrees for 1, 3 and 30 steps")
    assert angles[0] < 60
    assert angles[2] < angles[1] < angles[0]
    assert angles[2] < 5


def test_given_its_fantasies_a_machine_sends_back_the_gradient_of_what_it_gives():
    for case in ESTIMATORS:
        if isinstance(case.layer, jbp.layers.RestrictedBoltzmann):
            audit(case.layer, draw(case.inputs[-1]))


def test_chains_live_on_and_a_machine_learns():
    v = jnp.tile(jnp.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]), (20, 1))
    layer = jbp.layers.RestrictedBoltzmann(3, steps=2, chains=40)
    net = jbp.Serial(layer)
    state = start(net, optax.sgd(0.5), KEY, v)
    before = jnp.array(state.params[0]["chains"].value)
    first = float(log_likelihood(state.params[0], v))
    state, _ = fit(net, jbp.layers.Add(), optax.sgd(0.5), state, [(v,)] * 300)
    (params,) = state.params
    assert (params["chains"].value != before).any()
    assert set(np.unique(params["chains"].value)) == {0, 1}
    assert first < -2.7  # four units that it knows nothing of: −4 log 2
    assert log_likelihood(params, v) > -1.2  # two patterns: −log 2 at best
    _, residuals = layer.forward(params, v)
    np.testing.assert_array_equal(layer.advance(params, residuals)["chains"].value, residuals[1])


def test_a_deep_belief_network_is_trained_one_machine_at_a_time():
    v = jnp.tile(jnp.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]), (4, 1))
    first = jbp.layers.RestrictedBoltzmann(3)
    below = initialize(first, KEY, v)
    net = jbp.Serial(jbp.Frozen(first.evaluation()), jbp.layers.RestrictedBoltzmann(2))
    params = (jbp.Buffer(below), initialize(net, KEY, v)[1])
    (_, aux), grads = jbp.value_and_grad(net, jbp.layers.Add(), has_aux=True)(params, v)
    assert jax.tree.structure(grads) == jax.tree.structure(jbp.trainable(params))
    h = jbp.Serial(jbp.layers.Dense(3), jbp.layers.Sigmoid()).forward(({"w": below["w"], "b": below["c"]}, ()), v)[0]
    _, alone = jbp.value_and_grad(net.layers[1], jbp.layers.Add(), has_aux=True)(params[1], h)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), grads[1], alone)
    assert (jax.random.key_data(aux.params[1]["key"].value) != jax.random.key_data(params[1]["key"].value)).any()


def test_settings_out_of_range():
    for make, says in (
        (
            lambda: jbp.layers.LeakyIntegrateAndFire(1.0),
            "got leak=1.0; expected a finite number, more than 0 and less than 1",
        ),
        (lambda: jbp.layers.LeakyIntegrateAndFire(surrogate="step"), "expected 'superspike', 'arctan'"),  # pyright: ignore
        (lambda: jbp.layers.GumbelSoftmax(0.0), "got temperature=0.0; expected a finite number, more than 0"),
        (lambda: jbp.layers.RestrictedBoltzmann(3, 0), "got steps=0; expected a whole number, 1 or more"),
    ):
        with pytest.raises(jbp.LayerError, match=says):
            make()
