"""Networks of words."""

from jbp.combinators import Parallel, Passing, Serial, Tied, TimeDistributed
from jbp.fields import Size, checked
from jbp.layers.attention.memory import MemoryHop
from jbp.layers.embedding import Embedding
from jbp.layers.linear.dense import Dense
from jbp.layers.norm.features import UnitNorm
from jbp.layers.pool.average import GlobalAveragePool
from jbp.layers.recurrent.gru import GRU
from jbp.layers.recurrent.lengths import Lengths
from jbp.layers.structure.join import Identity
from jbp.layers.structure.move import Select
from jbp.losses.contrastive import InfoNCE
from jbp.losses.sampled import NegativeSampling


@checked
def word2vec(vocabulary: Size, features: Size = 64) -> Serial:
    """Skip-gram with negative sampling, from (words (batch,), ids (batch, 1 + negatives)) to the loss. Goes with Add().

    ids[:, 0] is a neighbour of the word, the rest are drawn at random. The vectors of the words are those of the
    Embedding. (Mikolov et al., *Distributed Representations of Words and Phrases and their Compositionality*, 2013.)

    >>> net, x = jbp.recipes.word2vec(100), (jnp.array([7, 2]), jnp.array([[1, 5, 9], [3, 8, 0]]))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    ()
    """
    return Serial(Parallel(Embedding(vocabulary, features), Identity()), NegativeSampling(vocabulary))


@checked
def memory_network(symbols: Size, answers: Size, features: Size = 64, hops: Size = 2) -> Serial:
    """Scores (batch, answers), from (question (batch, n), memories (batch, m, k), mask (batch, m)), all integers.

    Questions and memories are bags of symbols, of which the means of their vectors are taken; the mask has 0 where
    there is no memory. (Sukhbaatar et al., *End-To-End Memory Networks*, 2015.)

    >>> x = (jnp.ones((1, 4), int), jnp.ones((1, 6, 4), int), jnp.ones((1, 6), int))
    >>> net = jbp.recipes.memory_network(symbols=30, answers=5)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    (1, 5)
    """
    question = Serial(Embedding(symbols, features), GlobalAveragePool())
    memories = TimeDistributed(Serial(Embedding(symbols, features), GlobalAveragePool()))
    reading = [Passing(MemoryHop()) for _ in range(hops)]
    return Serial(Parallel(question, memories, Identity()), *reading, Select(0), Dense(answers))


@checked
def thought_vectors(vocabulary: Size, features: Size = 128, words: Size = 64) -> Tied:
    """Sentences and what stands next to them, to the loss of finding these among those of the others. Goes with Add().

    From a pair of sentences and of their neighbours, each ((batch, n) of words, (batch,) of lengths); net.layer[0][0]
    is the encoder, a vector (batch, features) of length one for each sentence, and params[0][0] are its parameters. The
    same encoder reads both. (Kiros et al., *Skip-Thought Vectors*, 2015; chosen among the sentences of the batch in
    place of written word by word: Logeswaran & Lee, *An Efficient Framework for Learning Sentence Representations*,
    2018.)

    >>> sentences = jnp.ones((3, 6), int), jnp.array([6, 2, 4])  # words, and how many of them count
    >>> net, x = jbp.recipes.thought_vectors(100), (sentences, sentences)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net, params, x).shape
    ()
    """
    read = Parallel(Embedding(vocabulary, words), Identity()), Lengths(GRU(features), pool="max")
    encoder = Serial(*read, Dense(features), UnitNorm())
    pairs = Serial(Parallel(encoder, encoder), InfoNCE(0.1, symmetric=True))
    return Tied(pairs, (((0, 0), (0, 1)),))
