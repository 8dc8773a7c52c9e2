"""Tables that are looked up: bags of every kind beside plain loops, and integers that are small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import audit, draw, parameters

from jbp import LayerError, Serial
from jbp.cases import f
from jbp.layers import Dense, Embedding, EmbeddingBag, Flatten, FrequencyScaledEmbedding, Positions
from jbp.losses import SoftmaxCrossEntropy
from jbp.readers import per_example

IDS = jnp.array([3, 1, 1, 4, 0, 2, 1])
OFFSETS = jnp.array([0, 3, 3, 5])  # four bags, the second of them empty


def bags(table, mode, padding, weights=None):
    """The four bags by a loop over them."""
    weights = np.ones(len(IDS)) if weights is None else np.asarray(weights)
    table, found = np.asarray(table), []
    for first, last in ((0, 3), (3, 3), (3, 5), (5, 7)):
        places = [j for j in range(first, last) if int(IDS[j]) != padding]
        rows = [weights[j] * table[int(IDS[j])] for j in places]
        if not rows:
            found.append(np.zeros(table.shape[1]))
        elif mode == "max":
            found.append(np.max(rows, 0))
        else:
            found.append(sum(rows) / (len(rows) if mode == "mean" else 1))
    return np.stack(found)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 1])
def test_bags_that_begin_at_offsets(mode, padding):
    layer = EmbeddingBag(5, 3, mode, padding=padding)
    params = audit(layer, (IDS, OFFSETS))
    y, _ = layer.forward(params, (IDS, OFFSETS))
    np.testing.assert_allclose(y, bags(params["e"], mode, padding), rtol=1e-12)
    if mode != "max":
        w = draw(f(7))
        x = {"ids": IDS, "offsets": OFFSETS, "weights": w}
        audit(layer, x)
        np.testing.assert_allclose(layer.forward(params, x)[0], bags(params["e"], mode, padding, w), rtol=1e-12)


def test_the_greatest_of_a_bag_gets_the_error():
    layer, params = EmbeddingBag(3, 2, "max", padding=0), {"e": jnp.array([[9.0, 9.0], [1.0, 5.0], [2.0, 4.0]])}
    ids = jnp.array([[1, 2, 0], [0, 0, 0]])
    y, residuals = layer.forward(params, ids)
    np.testing.assert_array_equal(y, [[2, 5], [0, 0]])
    _, grads = layer.pull(params, residuals, jnp.array([[10.0, 20.0], [30.0, 40.0]]))
    np.testing.assert_array_equal(grads["e"], [[0, 0], [0, 20], [10, 0]])


def test_what_is_padding_does_not_leak():
    layer, params = EmbeddingBag(2, 1, padding=0), {"e": jnp.array([[jnp.nan], [3.0]])}
    x = jnp.array([[0, 1]]), jnp.array([[jnp.nan, 2.0]])
    for weighted in (False, True):
        given = x if weighted else x[0]
        y, residuals = layer.forward(params, given)
        np.testing.assert_array_equal(y, [[6.0 if weighted else 3.0]])
        dx, grads = layer.pull(params, residuals, jnp.ones((1, 1)))
        np.testing.assert_array_equal(grads["e"], [[0.0], [2.0 if weighted else 1.0]])
        if weighted:
            np.testing.assert_array_equal(dx[1], [[0.0, 3.0]])
    alone = Embedding(2, 1, padding=0)
    np.testing.assert_array_equal(alone.forward(params, x[0])[0], [[[0.0], [3.0]]])


@pytest.mark.parametrize("layer", [Embedding(300, 2, padding=299), EmbeddingBag(300, 2, "mean", padding=299)], ids=repr)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32"])
def test_ids_may_be_of_a_dtype_that_cannot_count_the_rows(layer, dtype):
    ids = jnp.array([[0, 43, 120]])  # 299 is 43 in eight bits
    params = parameters(layer, ids)
    wanted = layer.forward(params, ids)[0]
    for run in (layer.forward, jax.jit(layer.forward)):
        np.testing.assert_array_equal(run(params, ids.astype(dtype))[0], wanted)


def test_rare_and_frequent_rows_move_alike():
    layer, ids = FrequencyScaledEmbedding(4, 1, padding=3), jnp.array([1, 1, 2, 1, 3])
    _, residuals = layer.forward(parameters(layer, ids), ids)
    _, delta = layer.backward((), residuals, jnp.array([[1.0], [2.0], [5.0], [6.0], [7.0]]))
    np.testing.assert_array_equal(layer.gradient(residuals, delta)["e"].ravel(), [0, 3, 5, 0])


def test_learned_positions_may_be_wider_than_x():
    layer, x = Positions(4), draw(f(2, 3, 2), dtype="bfloat16")
    params = {"p": jnp.ones((4, 2), jnp.float32)}
    y, residuals = layer.forward(params, x)
    dx, grads = layer.pull(params, residuals, y)
    assert (y.dtype, dx.dtype, grads["p"].dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EmbeddingBag(5, 3, "max").init(jax.random.key(0), (IDS, jnp.ones(7))), "but for mode='max'"),
        (lambda: EmbeddingBag(5, 3, "least"), "got mode='least'; expected 'sum', 'mean' or 'max'"),  # pyright: ignore
        (lambda: Embedding(0, 3), "got vocabulary=0; expected a whole number, 1 or more"),
        (lambda: Embedding(3, 3, padding=3), "expected 0 <= padding < 3"),
        (lambda: EmbeddingBag(5, 3).init(jax.random.key(0), {"ids": IDS, "offset": OFFSETS}), "offsets (b,)"),
    ],
)
def test_errors(make, says):
    with pytest.raises(LayerError) as error:
        make()
    assert says in str(error.value)


@pytest.mark.parametrize(
    "dtype", [np.float16, jnp.float16, np.dtype("float16"), jnp.zeros((), jnp.float16).dtype, "float16"]
)
def test_a_dtype_may_be_said_in_any_way(dtype):
    assert repr(Embedding(3, 2, dtype=dtype)) == "Embedding(3, 2, dtype='float16')"


def test_what_is_scaled_by_the_counts_of_a_batch_is_no_sum_over_its_examples():
    net, ids = Serial(FrequencyScaledEmbedding(4, 2), Flatten(), Dense(2)), jnp.array([[1], [2], [1]])
    params = net.init(jax.random.key(0), ids)
    with pytest.raises(LayerError, match=r"Serial\[0\]: FrequencyScaledEmbedding.*the counts of the whole batch"):
        per_example(net, SoftmaxCrossEntropy())(params, ids, jnp.array([0, 1, 0]))
