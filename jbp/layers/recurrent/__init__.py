"""Layers that run through time, or over trees."""

from jbp.layers.recurrent import bidirectional, gru, lstm, tree
from jbp.layers.recurrent.bidirectional import Bidirectional
from jbp.layers.recurrent.cell import Recurrent
from jbp.layers.recurrent.gru import GRU, Elman, MinimalGRU
from jbp.layers.recurrent.lengths import Lengths
from jbp.layers.recurrent.lstm import LSTM
from jbp.layers.recurrent.tree import LSTMLeaf, LSTMNode, Recursive, TensorNode

__all__ = [
    "GRU",
    "LSTM",
    "Bidirectional",
    "Elman",
    "LSTMLeaf",
    "LSTMNode",
    "Lengths",
    "MinimalGRU",
    "Recurrent",
    "Recursive",
    "TensorNode",
]

CASES = (
    *lstm.CASES,
    *gru.CASES,
    *bidirectional.CASES,
    *tree.CASES,
)
