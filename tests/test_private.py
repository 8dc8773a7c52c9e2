"""Private training against its definition: vmap of jax.grad, clip, sum, noise; and accounts against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

from jbp import LayerError, Repeat, Residual, Serial, Tied, buffers, cast, merge, trainable
from jbp.layers import (
    LSTM,
    BatchNorm,
    CausalSelfAttention,
    Conv,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GroupNorm,
    LayerNorm,
    Logits,
    Tanh,
)
from jbp.losses import SoftmaxCrossEntropy
from jbp.private import Poisson, Private, noise_for
from jbp.train import accuracy, fit, start, step

LOSS = SoftmaxCrossEntropy()
B, CLASSES = 6, 3


def flat(*sizes):
    return jax.random.normal(jax.random.key(1), (B, *sizes), jnp.float64)


IDS = jax.random.randint(jax.random.key(2), (B, 4), 0, 9)
LABEL = jnp.arange(B) % CLASSES
NETS = {
    "MLP": (Serial(Dense(5), Tanh(), Dense(CLASSES)), flat(4), LABEL),
    "CNN": (Serial(Conv(4), GroupNorm(2), Tanh(), Flatten(), Dense(CLASSES)), flat(5, 5, 2), LABEL),
    "LSTM": (Serial(LSTM(3), Flatten(), Dense(CLASSES)), flat(4, 2), LABEL),
    "GPT": (
        Tied(
            Serial(
                Embedding(9, 4),
                Repeat(Residual(Serial(LayerNorm(), CausalSelfAttention(2))), 2),
                LayerNorm(),
                Logits(9),
            ),
            (((0, "e"), (3, "e")),),
        ),
        IDS,
        jnp.roll(IDS, -1, 1),
    ),
}


def parameters(net, x):
    return jax.jit(lambda: cast(net.init(jax.random.key(0), x), "float64"))()


def each(net, params, x, target):
    def one(trained, x, target):
        return LOSS.reference((), (net.reference(merge(trained, buffers(params)), x[None]), target[None]))

    return jax.vmap(jax.grad(one), (None, 0, 0))(trainable(params), x, target)


def squares(tree):
    return sum(jnp.square(g).sum(range(1, g.ndim)) for g in jax.tree.leaves(tree))


def times(weights, tree):
    return jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), tree)


def close(a, b, rtol=1e-11):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), a, b)


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_is_that_of_clipped_examples(name):
    net, x, target = NETS[name]
    params = parameters(net, x)
    grads = each(net, params, x, target)
    norms = jnp.sqrt(squares(grads))
    clip = float(jnp.median(norms))  # some are clipped, and some are not
    flat = times(jnp.minimum(1, clip / norms), grads)
    automatic = times(clip / (norms + 0.01), grads)
    for how, total in ((Private(clip, 0.0, 4), flat), (Private(clip, 0.0, 4, "automatic"), automatic)):
        (value, aux), got = jax.jit(how.value_and_grad(net, LOSS))(params, x, target)
        close(got, jax.tree.map(lambda g: g / 4, total))
    close(aux.output, net.reference(params, x))
    wanted = B / 4 * LOSS.reference((), (net.reference(params, x), target))  # the sum, by the number that is expected
    np.testing.assert_allclose(value, wanted, rtol=1e-11)


def test_each_layer_is_clipped_by_itself():
    net, x, target = Serial(Dense(4), Repeat(Dense(4), 2), Tanh(), Dense(CLASSES)), flat(3), LABEL
    params = parameters(net, x)
    grads = each(net, params, x, target)
    parts = [grads[0], *(jax.tree.map(lambda g, t=t: g[:, t], grads[1]) for t in (0, 1)), grads[3]]
    done = [times(jnp.minimum(1, 0.3 / 2 / jnp.sqrt(squares(part))), part) for part in parts]
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), done[1], done[2])
    _, got = jax.jit(Private(0.3, 0.0, 1, "layer").value_and_grad(net, LOSS))(params, x, target)
    close(got, (done[0], stacked, (), done[3]))


def test_parts_of_a_batch_add_up_and_what_is_not_there_counts_for_nothing():
    net, x, target = NETS["MLP"]
    params = parameters(net, x)
    whole = jax.jit(Private(0.5, 0.0, 4).value_and_grad(net, LOSS))
    close(jax.jit(Private(0.5, 0.0, 4, micro=3).value_and_grad(net, LOSS))(params, x, target), whole(params, x, target))
    there = jnp.array([True, False, True, True, False, True])
    (value, _), got = jax.jit(Private(0.5, 0.0, 4, micro=2, padded=True).value_and_grad(net, LOSS))(
        params, x, target, there
    )
    (wanted, _), grads = whole(params, x[there], target[there])
    close((value, got), (wanted, grads))
    for by in ("layer", "automatic"):
        _, got = jax.jit(Private(0.5, 0.0, 4, by, padded=True).value_and_grad(net, LOSS))(params, x, target, there)
        close(got, jax.jit(Private(0.5, 0.0, 4, by).value_and_grad(net, LOSS))(params, x[there], target[there])[1])


def test_noise_is_of_its_size_and_of_its_step():
    net, x, target = Serial(Dense(300), Dense(CLASSES)), flat(40), LABEL
    params = parameters(net, x)
    how = Private(0.5, 3.0, 10, seed=7)
    grads = [jax.jit(how.value_and_grad(net, LOSS))(params, x, target, step=s)[1] for s in (0, 0, 1)]
    still = jax.jit(Private(0.5, 0.0, 10).value_and_grad(net, LOSS))(params, x, target)[1]
    close(grads[0], grads[1])
    noise = [jax.tree.map(jnp.subtract, g, still) for g in (grads[0], grads[2])]
    z, w = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)]) / (3.0 * 0.5 / 10) for tree in noise)
    assert abs(z.mean()) < 5 / math.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / z.size)
    assert abs(np.corrcoef(z, w)[0, 1]) < 5 / math.sqrt(z.size)
    one, two = (np.ravel(noise[0][i]["b"])[:3] for i in (0, 1))  # two arrays do not share their noise
    assert not np.allclose(one, two)


def gaussian(epsilon, sigma):
    """δ of the Gaussian mechanism (Balle & Wang, *Improving the Gaussian Mechanism*, 2018, Theorem 8)."""
    return norm.cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)


def test_epsilon_is_the_closed_form_where_there_is_one():
    pytest.importorskip("dp_accounting")
    how = Private(clip=2.0, noise=4.0, batch=50)  # all 50 examples in each of 9 steps: one Gaussian of 4 / √9
    epsilon = how.epsilon(examples=50, steps=9, delta=1e-5)
    assert gaussian(epsilon, 4 / 3) == pytest.approx(1e-5, rel=0.02)
    assert how.epsilon(examples=500, steps=9, delta=1e-5) < epsilon / 2  # a tenth of them drawn tells less
    assert Private(1.0, 0.0, 5).epsilon(50, 1, 1e-5) == math.inf
    noise = noise_for(epsilon, 1e-5, batch=50, examples=50, steps=9)
    assert noise == pytest.approx(4.0, abs=0.02)
    with pytest.raises(LayerError, match="expected the whole data"):
        how.epsilon(examples=49, steps=1, delta=1e-5)


def test_poisson_draws_each_example_by_itself():
    data = np.arange(200), np.arange(200) * 2.0
    batches = list(Poisson(data, batch=20, steps=300, multiple=8))
    assert len(batches) == 300
    assert {b[0].shape for b in batches} == {(batches[0][2].size,)}
    assert batches[0][2].size % 8 == 0
    counts = np.array([b[2].sum() for b in batches])
    assert abs(counts.mean() - 20) < 5 * math.sqrt(18 / 300)
    assert abs(counts.var() - 18) < 8  # binomial: 200 · 0.1 · 0.9
    drawn = np.bincount(np.concatenate([b[0][b[2]] for b in batches]), minlength=200)
    assert abs(drawn - 30).max() < 5 * math.sqrt(27)
    np.testing.assert_array_equal(batches[3][0] * 2.0, batches[3][1])
    assert all(len(set(b[0][b[2]])) == b[2].sum() for b in batches)
    again = list(Poisson(data, batch=20, steps=5, multiple=8))
    np.testing.assert_array_equal(again[4][0], batches[4][0])


def test_fit_trains_and_goes_on_as_if_it_had_not_stopped():
    x = jax.random.normal(jax.random.key(0), (256, 2))
    label = (x[:, 0] > 0).astype(jnp.int32)
    net, optimizer = Serial(Dense(8), Dropout(0.1), Tanh(), Dense(2)), optax.adam(0.05)
    how = Private(clip=1.0, noise=0.5, batch=64, padded=True, micro=2)
    batches = list(Poisson((x, label), batch=64, steps=40, multiple=2))
    begin = lambda: start(net, optimizer, jax.random.key(1), x)  # noqa: E731
    state, history = fit(net, LOSS, optimizer, begin(), batches, sweep=how, accuracy=accuracy)
    assert history[-1]["accuracy"] > 0.9
    half, _ = fit(net, LOSS, optimizer, begin(), batches[:20], sweep=how, accuracy=accuracy)
    rest, later = fit(net, LOSS, optimizer, half, batches[20:], sweep=how, accuracy=accuracy)
    jax.tree.map(np.testing.assert_array_equal, trainable(rest.params), trainable(state.params))
    assert later == history[20:]
    moved = step(net, LOSS, optimizer, sweep=how)
    _, metrics = moved(begin(), *batches[0])
    assert metrics["loss"] == pytest.approx(history[0]["loss"], rel=1e-6)


def test_what_does_not_go_is_said():
    net, x, target = NETS["MLP"]
    params = parameters(net, x)
    with pytest.raises(LayerError, match=r"^Serial\[1\]: BatchNorm\(\): got a layer whose examples have no gradient"):
        step(Serial(Dense(3), BatchNorm()), LOSS, optax.sgd(0.1), sweep=Private(1.0, 1.0, 4))(
            start(Serial(Dense(3), BatchNorm()), optax.sgd(0.1), jax.random.key(0), x), x, target
        )
    with pytest.raises(LayerError, match="got a batch of 6 with micro=4; expected a multiple"):
        jax.jit(Private(1.0, 1.0, 4, micro=4).value_and_grad(net, LOSS))(params, x, target)
    with pytest.raises(LayerError, match="expected for each example whether it is"):
        jax.jit(Private(1.0, 1.0, 4, padded=True).value_and_grad(net, LOSS))(params, x, jnp.ones(3, bool))
    with pytest.raises(LayerError, match="clip=0"):
        Private(0, 1.0, 4)
    for bad in (np.zeros(4), (np.zeros(4), np.zeros(5)), (), (np.float32(3),)):
        with pytest.raises(LayerError, match="expected a tuple"):
            Poisson(bad, 2, 1)
