"""Networks that read trees, from the leaves to the root."""

from jbp.combinators import Parallel, Serial
from jbp.fields import Size, checked
from jbp.layers.embedding import Embedding
from jbp.layers.linear.dense import Dense
from jbp.layers.recurrent.tree import LSTMLeaf, LSTMNode, Recursive, TensorNode
from jbp.layers.stochastic.dropout import Dropout
from jbp.layers.structure.join import Identity
from jbp.layers.structure.move import Select, Take


@checked
def recursive_tensor(vocabulary: Size, classes: Size, features: Size = 24, dropout: float = 0.3) -> Serial:
    """Scores (batch, classes) of the roots, from (words of the leaves (batch, leaves), children (batch, inner, 2)).

    The tree is given as `Recursive` wants it. (Socher et al., *Recursive Deep Models for Semantic Compositionality Over
    a Sentiment Treebank*, 2013.)

    >>> nodes = jnp.array([[[0, 1], [3, 2]]])  # node 3 joins words 0 and 1, node 4 that and word 2
    >>> x = (jnp.array([[7, 1, 4]]), nodes)
    >>> net = jbp.recipes.recursive_tensor(vocabulary=10, classes=2)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 2)
    """
    leaves = Parallel(Serial(Embedding(vocabulary, features), Dropout(dropout)), Identity())
    return Serial(leaves, Recursive(TensorNode()), Take(-1), Dense(classes))


@checked
def tree_lstm(vocabulary: Size, classes: Size, features: Size = 32, dropout: float = 0.3) -> Serial:
    """Scores (batch, classes) of the roots, from (words of the leaves (batch, leaves), children (batch, inner, 2)).

    A vector for each node, by the gates of an LSTM of its children's. The tree is given as `Recursive` wants it.
    (Tai et al., *Improved Semantic Representations From Tree-Structured Long Short-Term Memory Networks*, 2015.)

    >>> nodes = jnp.array([[[0, 1], [3, 2]]])  # node 3 joins words 0 and 1, node 4 that and word 2
    >>> x = (jnp.array([[7, 1, 4]]), nodes)
    >>> net = jbp.recipes.tree_lstm(vocabulary=10, classes=2)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 2)
    """
    leaves = Parallel(Serial(Embedding(vocabulary, features), Dropout(dropout), LSTMLeaf(features)), Identity())
    return Serial(leaves, Recursive(LSTMNode()), Select(0), Take(-1), Dense(classes))
