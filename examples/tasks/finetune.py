"""Fine-tune: the body frozen but for adapters on its attention, a new head, a rate for each part.

python -m examples.tasks.finetune
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jbp
from jbp import LowRankAdapter, Residual, Serial, trainable
from jbp.layers import Dense, Embedding, GlobalAveragePool, LayerNorm, MultiHeadAttention
from jbp.losses import MeanSquaredError
from jbp.train import fit, start

KEY = jax.random.key(0)


def body() -> Serial:
    block = Residual(Serial(norm=LayerNorm(), attention=MultiHeadAttention(2)))
    return Serial(embed=Embedding(9, 8), one=block, two=block, pool=GlobalAveragePool())


def main(steps: int = 150) -> tuple[float, float]:
    words = np.random.default_rng(0).integers(0, 9, (64, 6))
    loss, adam = MeanSquaredError(), optax.adam(1e-2)

    first = Serial(body=body(), head=Dense(1))  # learns how many ones there are
    state = start(first, adam, KEY, words)
    target = (words == 1).mean(1, keepdims=True).astype(np.float32)
    state, _ = fit(first, loss, adam, state, [(words, target)] * steps)

    adapted = LowRankAdapter(body(), ("attention/[qv]",), rank=2)
    net = Serial(body=adapted, head=Dense(1))
    params = {"body": adapted.adapt(KEY, state.params["body"]), "head": None}  # None: drawn anew
    rates = optax.multi_transform(
        {"slow": optax.adam(3e-3), "fast": optax.adam(3e-2)}, lambda p: jbp.labels(p, {"body": "slow"}, "fast")
    )
    before = jax.tree.map(jnp.array, params["body"]["base"])
    state = start(net, rates, KEY, words, params=params)
    target = (words == 2).mean(1, keepdims=True).astype(np.float32)  # and now how many twos
    state, history = fit(net, loss, rates, state, [(words, target)] * steps)

    jax.tree.map(np.testing.assert_array_equal, state.params["body"]["base"], before)
    held, _ = jbp.freeze(first, state.params | {"body": adapted.merge(state.params["body"])}, "body")
    assert held.paths == ("body",)
    print(jbp.summary(net, words))
    assert len(jax.tree.leaves(trainable(state.params))) == 2 + 2 * 2 * 2  # the head; A and B of q and v, twice
    return history[0]["loss"], history[-1]["loss"]


if __name__ == "__main__":
    print(main())
