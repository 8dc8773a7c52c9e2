"""Layers that run through time, or over trees."""

from jbp.layers.recurrent import bidirectional, cell, elman, gru, lengths, lstm, stack, tree
from jbp.layers.recurrent.bidirectional import Bidirectional
from jbp.layers.recurrent.cell import Recurrent
from jbp.layers.recurrent.elman import Elman, ElmanCell
from jbp.layers.recurrent.gru import GRU, GRUCell, MinimalGRU, MinimalGRUCell
from jbp.layers.recurrent.lengths import Lengths
from jbp.layers.recurrent.lstm import LSTM, LSTMCell
from jbp.layers.recurrent.stack import Stack
from jbp.layers.recurrent.tree import LSTMLeaf, LSTMNode, Recursive, TensorNode

__all__ = [
    "GRU",
    "LSTM",
    "Bidirectional",
    "Elman",
    "ElmanCell",
    "GRUCell",
    "LSTMCell",
    "LSTMLeaf",
    "LSTMNode",
    "Lengths",
    "MinimalGRU",
    "MinimalGRUCell",
    "Recurrent",
    "Recursive",
    "Stack",
    "TensorNode",
]

CASES = (
    *lstm.CASES,
    *elman.CASES,
    *gru.CASES,
    *cell.CASES,
    *bidirectional.CASES,
    *lengths.CASES,
    *stack.CASES,
    *tree.CASES,
)
