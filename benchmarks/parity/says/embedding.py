"""Embeddings."""

from torch import nn

from benchmarks.parity.comparison import Unsaid, call
from jbp import layers


def embedding(m, ids):
    if m.max_norm is not None:
        raise Unsaid("max_norm, which changes the table in the forward pass")
    layer = layers.Embedding(m.num_embeddings, m.embedding_dim, "float64", padding=m.padding_idx)
    return call(layer, {"e": m.weight}, ids)


def bag(m, ids, offsets=None, per_sample_weights=None):
    if m.max_norm is not None:
        raise Unsaid("max_norm, which changes the table in the forward pass")
    layer = layers.EmbeddingBag(m.num_embeddings, m.embedding_dim, m.mode, "float64", padding=m.padding_idx)
    return call(layer, {"e": m.weight}, ids if per_sample_weights is None else (ids, per_sample_weights))


SAYS = {nn.Embedding: embedding, nn.EmbeddingBag: bag}
