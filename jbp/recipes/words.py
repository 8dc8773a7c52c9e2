"""Networks of words."""

from jbp.combinators import Parallel, Serial
from jbp.layers.embedding import Embedding
from jbp.layers.sampled import NegativeSampling
from jbp.layers.shape import Identity


def word2vec(vocabulary: int, features: int = 64) -> Serial:
    """Skip-gram with negative sampling, from (words (batch,), ids (batch, 1 + negatives)) to the loss. Goes with Add().

    ids[:, 0] is a neighbour of the word, the rest are drawn at random. The vectors of the words are those of the
    Embedding. (Mikolov et al., *Distributed Representations of Words and Phrases and their Compositionality*, 2013.)
    """
    return Serial(Parallel(Embedding(vocabulary, features), Identity()), NegativeSampling(vocabulary))
