"""What is special about a loss, or about a layer that belongs to one: against other people's, enumeration, theory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import draw, parameters

import jbp
from jbp.cases import f
from jbp.train import fit, start

KEY = jax.random.key(3)


def value_and_error(loss, *x):
    """(y, dx) of a loss without parameters."""
    y, residuals = loss.forward((), x if len(x) > 1 else x[0])
    return y, loss.backward((), residuals, jnp.ones_like(y))[0]


def test_a_reparameterized_sample_has_the_mean_and_the_variance_that_it_is_given():
    x = jnp.tile(jnp.array([[1.0, -3.0, 0.0, jnp.log(4.0)]]), (20000, 1))
    layer = jbp.layers.Reparameterize()
    params = layer.init(KEY, x)
    y, residuals = layer.forward(params, x)
    np.testing.assert_allclose(y.mean(0), [1, -3], atol=0.06)  # four standard deviations of the mean
    np.testing.assert_allclose(y.var(0), [1, 4], rtol=0.05)
    moved = layer.advance(params, residuals)
    assert np.abs(layer.forward(moved, x)[0] - y).max() > 1
    np.testing.assert_array_equal(layer.evaluation().forward(params, x)[0], x[:, :2])


def test_the_divergence_is_the_mean_log_ratio_of_densities():
    m, s = 0.7, -0.4
    y, _ = value_and_error(jbp.losses.StandardNormalDivergence(), jnp.array([[m, s]]))
    z = np.linspace(-12, 12, 20001)
    log_q = -0.5 * (np.log(2 * np.pi) + s + (z - m) ** 2 / np.exp(s))
    log_p = -0.5 * (np.log(2 * np.pi) + z**2)
    np.testing.assert_allclose(y, np.trapezoid(np.exp(log_q) * (log_q - log_p), z), rtol=1e-6)
    y, dx = value_and_error(jbp.losses.StandardNormalDivergence(), jnp.zeros((3, 4)))
    assert y == 0
    assert not dx.any()


def test_a_variational_autoencoder_trains():
    x = jax.nn.one_hot(jnp.arange(64) % 4, 8)
    encoder = jbp.Serial(jbp.layers.Dense(16), jbp.layers.Tanh(), jbp.layers.Dense(4))
    decoder = jbp.Serial(jbp.layers.Reparameterize(), jbp.layers.Dense(16), jbp.layers.Tanh(), jbp.layers.Dense(8))
    net = jbp.Serial(encoder, jbp.layers.FanOut(), jbp.Parallel(decoder, jbp.losses.StandardNormalDivergence()))
    loss, optimizer = jbp.losses.Penalized(jbp.losses.MeanSquaredError(), 0.001), optax.adam(1e-2)
    state = start(net, optimizer, KEY, x)
    state, history = fit(net, loss, optimizer, state, [(x, x)] * 150)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    (prediction, _), _ = net.evaluation().forward(state.params, x)
    assert (prediction.argmax(-1) == jnp.arange(64) % 4).all()


def test_fit_takes_losses_of_no_target_and_of_several():
    x = draw(f(6, 3))
    net = jbp.Serial(jbp.layers.Dense(4), jbp.losses.StandardNormalDivergence())
    state = start(net, optax.sgd(0.1), KEY, x)
    _, history = fit(net, jbp.layers.Add(), optax.sgd(0.1), state, [(x,)] * 20)
    assert history[-1]["loss"] < history[0]["loss"]


def test_a_penalty_is_one_number():
    loss = jbp.losses.Penalized(jbp.losses.MeanSquaredError())
    with pytest.raises(jbp.LayerError, match="expected one number"):
        loss.forward((), ((jnp.ones(2), jnp.ones(2)), jnp.ones(2)))
    with pytest.raises(jbp.LayerError, match=r"expected \(\(prediction, penalty\), target\)"):
        loss.forward((), (jnp.ones(2), jnp.ones(2)))
    assert parameters(loss, ((jnp.ones(2), jnp.ones(())), jnp.ones(2))) == ()


def read(path, blank):
    """What a path reads as."""
    kept = [k for i, k in enumerate(path) if i == 0 or path[i - 1] != k]
    return [k for k in kept if k != blank]


@pytest.mark.parametrize("labels", [[1, 2], [1, 1], [2, 2], [], [1], [2, 1, 2]])
def test_ctc_is_the_sum_over_all_paths(labels):
    z = draw(f(1, 4, 3), seed=7)
    p = np.asarray(jax.nn.softmax(z[0]))
    paths = [path for path in itertools.product(range(3), repeat=4) if read(path, 0) == labels]
    total = sum(np.prod([p[t, k] for t, k in enumerate(path)]) for path in paths)
    padded = jnp.array([labels + [0] * (4 - len(labels))])
    y, (dz, _) = value_and_error(jbp.losses.CTC(), z, padded)
    np.testing.assert_allclose(y, -np.log(total), rtol=1e-12)
    occupied = np.zeros((4, 3))
    for path in paths:
        for t, k in enumerate(path):
            occupied[t, k] += np.prod([p[u, j] for u, j in enumerate(path)]) / total
    np.testing.assert_allclose(dz[0], p - occupied, atol=1e-12)


def test_ctc_of_rows_of_all_lengths_agrees_with_optax_and_with_pytorch():
    z = draw(f(4, 9, 5), seed=8)
    labels = jnp.array([[1, 2, 2, 4], [3, 0, 0, 0], [4, 4, 0, 0], [0, 0, 0, 0]])
    frames, lengths = jnp.array([9, 4, 3, 6]), jnp.array([4, 1, 2, 0])
    y, (dz, _, _) = value_and_error(jbp.losses.CTC(), z, labels, frames)

    def other(z):
        unseen = (jnp.arange(9)[None] >= frames[:, None]).astype(z.dtype)
        padding = (labels == 0).astype(z.dtype)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return optax.ctc_loss(z, unseen, labels, padding).mean()

    theirs, grad = jax.value_and_grad(other)(z)
    np.testing.assert_allclose(y, theirs, rtol=1e-5)  # optax takes e^-1e5 for nothing
    np.testing.assert_allclose(dz, grad, atol=1e-5)

    torch = pytest.importorskip("torch")
    scores = torch.tensor(np.asarray(z), requires_grad=True)
    log_p = torch.log_softmax(scores, -1).transpose(0, 1)
    targets = torch.tensor(np.asarray(labels))
    loss = torch.nn.functional.ctc_loss(
        log_p, targets, tuple(map(int, frames)), tuple(map(int, lengths)), reduction="none"
    ).mean()
    loss.backward()
    np.testing.assert_allclose(y, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(dz, scores.grad.numpy(), atol=1e-12)


def test_labels_that_do_not_fit_cost_everything_and_teach_nothing():
    z = draw(f(2, 2, 3))
    labels = jnp.array([[1, 1], [1, 2]])  # the first needs a blank between
    y, (dz, _) = value_and_error(jbp.losses.CTC(), z, labels)
    assert y == jnp.inf
    assert not dz[0].any()
    np.testing.assert_allclose(2 * dz[1:], value_and_error(jbp.losses.CTC(), z[1:], labels[1:])[1][0], rtol=1e-12)
    wrong = jax.jit(lambda z: value_and_error(jbp.losses.CTC(), z, labels)[0])(z)
    assert wrong == jnp.inf


def test_padding_may_stand_anywhere():
    z = draw(f(1, 6, 3))
    a, b = (value_and_error(jbp.losses.CTC(1), z, jnp.array([row]))[0] for row in ([1, 2, 1, 0], [2, 0, 1, 1]))
    assert a == b


def test_contrast_agrees_with_cross_entropy_and_both_ways_with_optax():
    u, v = draw(f(6, 4)), draw(f(6, 4), seed=1)
    y, (du, _) = value_and_error(jbp.losses.InfoNCE(0.5), u, v)
    plain = lambda u: optax.softmax_cross_entropy_with_integer_labels(u @ v.T / 0.5, jnp.arange(6)).mean()  # noqa: E731
    np.testing.assert_allclose(y, plain(u), rtol=1e-12)
    np.testing.assert_allclose(du, jax.grad(plain)(u), atol=1e-12)
    one, two = value_and_error(jbp.losses.InfoNCE(0.5), u, v)[0], value_and_error(jbp.losses.InfoNCE(0.5), v, u)[0]
    np.testing.assert_allclose(value_and_error(jbp.losses.InfoNCE(0.5, True), u, v)[0], (one + two) / 2, rtol=1e-12)


def test_triplets_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    arrays = [draw(f(7, 3), seed=k) for k in range(3)]
    tensors = [torch.tensor(np.asarray(a), requires_grad=True) for a in arrays]
    loss = torch.nn.functional.triplet_margin_with_distance_loss(
        *tensors, distance_function=lambda a, b: ((a - b) ** 2).sum(-1), margin=0.2
    )
    loss.backward()
    y, dx = value_and_error(jbp.losses.Triplet(), *arrays)
    np.testing.assert_allclose(y, loss.item(), rtol=1e-12)
    for ours, theirs in zip(dx, tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-12)


def test_words_that_come_together_get_near():
    pairs = jnp.array([(a, b) for a in range(6) for b in range(6) if a != b and a // 3 == b // 3])
    negatives = jnp.tile(jnp.arange(6), (len(pairs), 1))
    net = jbp.Serial(jbp.Parallel(jbp.layers.Embedding(6, 4), jbp.layers.Identity()), jbp.losses.NegativeSampling(6))
    x = pairs[:, 0], jnp.concatenate([pairs[:, 1:], negatives], 1)
    state = start(net, optax.adam(0.05), KEY, x)
    state, history = fit(net, jbp.layers.Add(), optax.adam(0.05), state, [(x,)] * 200)
    np.testing.assert_allclose(history[0]["loss"], 7 * np.log(2), rtol=1e-6)  # at first all scores are 0
    scores = state.params[0][0]["e"] @ state.params[1]["e"].T
    together = scores[pairs[:, 0], pairs[:, 1]]
    np.testing.assert_allclose(together, -np.log(2), atol=0.3)  # of three times seen, one was right
    assert together.min() > scores[:3, 3:].max() + 1


def test_a_policy_learns_which_action_pays():
    z = jnp.zeros((1, 3))
    for loss, more in ((jbp.losses.PolicyGradient(), ()), (jbp.losses.ClippedPolicy(), (jnp.full(1, -jnp.log(3)),))):
        for advantage, sign in ((1.0, -1), (-1.0, 1)):
            _, (dz, *_) = value_and_error(loss, z, jnp.array([1]), *more, jnp.array([advantage]))
            np.testing.assert_allclose(dz[0], sign * np.array([-1, 2, -1]) / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"), [(1, 1.3, False), (1, 0.7, True), (-1, 0.7, False), (-1, 1.3, True)]
)
def test_a_policy_that_went_far_enough_is_let_go(advantage, ratio, moves):
    z, action = draw(f(1, 4)), jnp.array([2])
    old = jax.nn.log_softmax(z)[:, 2] - jnp.log(ratio)
    y, (dz, *_) = value_and_error(jbp.losses.ClippedPolicy(0.2), z, action, old, jnp.array([float(advantage)]))
    np.testing.assert_allclose(y, -min(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage), rtol=1e-6)
    assert bool(dz.any()) == moves


def test_entropy_keeps_a_policy_open():
    z = draw(f(5, 3))
    _, (dz, *_) = value_and_error(jbp.losses.PolicyGradient(0.5), z, jnp.zeros(5, jnp.int32), jnp.zeros(5))
    entropy = lambda z: -(jax.nn.softmax(z) * jax.nn.log_softmax(z)).sum(-1).mean()  # noqa: E731
    np.testing.assert_allclose(dz, -0.5 * jax.grad(entropy)(z), atol=1e-12)


def test_the_spectral_norm_is_the_largest_singular_value_and_is_followed():
    x = draw(f(5, 6))
    for inner in (jbp.layers.Dense(4), jbp.layers.Conv(3, (2,))):
        net = jbp.layers.SpectralNorm(inner)
        given = x if isinstance(inner, jbp.layers.Dense) else draw(f(2, 5, 2))
        params = net.init(KEY, given)
        w = np.asarray(params["layer"]["w"]).reshape(-1, params["layer"]["w"].shape[-1])
        found = np.asarray(params["u"].value) @ w @ np.asarray(params["v"].value)
        np.testing.assert_allclose(found, np.linalg.svd(w)[1][0], rtol=0.02)
        with pytest.raises(jbp.LayerError, match="has buffers that advance; expected has_aux=True"):
            jbp.value_and_grad(jbp.Serial(net), jbp.losses.MeanSquaredError())
        jbp.value_and_grad(net.evaluation(), jbp.losses.MeanSquaredError())
        new = params | {"layer": params["layer"] | {"w": draw(f(*params["layer"]["w"].shape), seed=9)}}
        w = np.asarray(new["layer"]["w"]).reshape(-1, w.shape[-1])
        for _ in range(60):
            new = net.advance(new, net.forward(new, given)[1])
        found = np.asarray(new["u"].value) @ w @ np.asarray(new["v"].value)
        np.testing.assert_allclose(found, np.linalg.svd(w)[1][0], rtol=1e-3)


def test_a_weight_norm_begins_as_the_layer_that_it_holds():
    x = draw(f(5, 6))
    net = jbp.layers.WeightNorm(jbp.layers.Dense(4))
    params = net.init(KEY, x)
    np.testing.assert_allclose(
        net.forward(params, x)[0], jbp.layers.Dense(4).forward(params["layer"], x)[0], rtol=1e-12
    )
    longer = params | {"layer": params["layer"] | {"w": 3 * params["layer"]["w"]}}
    np.testing.assert_allclose(net.forward(longer, x)[0], net.forward(params, x)[0], rtol=1e-12)
    with pytest.raises(jbp.LayerError, match="expected a dict with a weight 'w'"):
        jbp.layers.WeightNorm(jbp.layers.Tanh()).init(KEY, x)


def test_bags_and_padding():
    ids, w = jnp.array([[0, 2, 2], [1, 1, 1]]), jnp.array([[1.0, 2, 3], [4, 5, 6]])
    e = {"e": jnp.array([[1.0, 10], [2, 20], [3, 30]])}
    for bag, x, y in (
        (jbp.layers.EmbeddingBag(3, 2), ids, [[7, 70], [6, 60]]),
        (jbp.layers.EmbeddingBag(3, 2, "mean", padding=0), ids, [[3, 30], [2, 20]]),
        (jbp.layers.EmbeddingBag(3, 2, "mean", padding=1), ids, [[7 / 3, 70 / 3], [0, 0]]),
        (jbp.layers.EmbeddingBag(3, 2, padding=0), (ids, w), [[15, 150], [30, 300]]),
        (jbp.layers.Embedding(3, 2, padding=1), ids[:, 0], [[1, 10], [0, 0]]),
    ):
        np.testing.assert_allclose(bag.forward(e, x)[0], y)
    for make in (lambda: jbp.layers.Embedding(3, 2, padding=3), lambda: jbp.layers.EmbeddingBag(3, 2, "most")):  # pyright: ignore
        with pytest.raises(jbp.LayerError, match=r"got (padding|mode)="):
            make()


def test_sinusoids_of_the_paper():
    y = jbp.layers.SinusoidalPositions().forward((), jnp.zeros((3, 4)))[0]
    np.testing.assert_allclose(y[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-12)
