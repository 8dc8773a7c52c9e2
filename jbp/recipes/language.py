"""Networks that guess what comes next: scores (batch, time, vocabulary) from integers (batch, time)."""

from jbp.combinators import Repeat, Residual, Serial, Tied
from jbp.fields import Size, checked
from jbp.layer import Layer
from jbp.layers.activation.elementwise import GELU
from jbp.layers.attention.multihead import CausalSelfAttention
from jbp.layers.embedding import Embedding, Positions
from jbp.layers.linear.dense import Dense, Logits
from jbp.layers.norm.features import LayerNorm


@checked
def recurrent_language_model(vocabulary: Size, cell: Layer, features: Size = 64) -> Serial:
    """An embedding, a recurrent layer such as `LSTM(192)` or `Elman(192)`, and scores.

    (Mikolov et al., *Recurrent Neural Network Based Language Model*, 2010.)

    >>> net, x = jbp.recipes.recurrent_language_model(100, LSTM(8)), jnp.ones((1, 12), int)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (1, 12, 100)
    """
    return Serial(Embedding(vocabulary, features), cell, Dense(vocabulary))


@checked
def gpt(vocabulary: Size, length: Size, width: Size = 96, blocks: Size = 3, heads: Size = 4) -> Tied:
    """A transformer that sees what came before, at most `length` places; the scores use the embedding's table again.

    (Radford et al., *Language Models Are Unsupervised Multitask Learners*, 2019, §2.3: the norms come first.)

    >>> net, x = jbp.recipes.gpt(vocabulary=100, length=16), jnp.ones((1, 12), int)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 12, 100)
    """
    attention = Residual(Serial(LayerNorm(), CausalSelfAttention(heads)))
    feedforward = Residual(Serial(LayerNorm(), Dense(4 * width), GELU(), Dense(width)))
    body = Repeat(Serial(attention, feedforward), blocks)
    net = Serial(Embedding(vocabulary, width), Positions(length), body, LayerNorm(), Logits(vocabulary))
    return Tied(net, (((0, "e"), (4, "e")),))
